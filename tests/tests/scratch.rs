//! Scratch: what git ignores is private to each agent and begins as base has it. Directories of it
//! are mounted past the view by kernel overlayfs; where that can't be, the view serves them with
//! the same meaning.

use agentfs_tests::{Done, Tree, User, World, eventually, in_both_worlds};
use std::path::PathBuf;

in_both_worlds!(
    ignored_directories_of_base_are_mounted,
    configured_directories_are_there_at_once,
    what_an_agent_makes_is_base_s_owner_s,
    the_view_shows_the_same_tree,
    it_is_private_and_stays,
    a_mounted_directory_can_be_removed_and_made_again,
    what_an_agent_made_is_mounted_next_time,
    a_mounted_directory_can_be_moved_away,
    names_of_any_bytes_are_mounted,
    no_change_set_has_it,
    nothing_is_left_behind,
    there_are_not_too_many_mounts,
    mounts_in_base_are_left_to_the_view,
    what_can_not_be_mounted_is_served_by_the_view,
    base_may_change_meanwhile,
    a_sync_leaves_mounts_alone,
    tracked_files_count_whatever_is_ignored,
    the_user_s_own_ignore_file_counts,
    a_build_begins_warm,
    environments_work,
);

/// Says how each of its arguments is served: the type of its file system.
const KIND: &str = "stat -f -c %T";

/// A build of base's own.
const BUILD: &str = "mkdir -p target/debug/deps && echo warm >target/debug/out && \
                     echo a >target/debug/deps/a && echo b >target/b && ln -s b target/link";

#[track_caller]
fn kinds(done: &Done) -> Vec<String> {
    done.out().lines().map(str::to_owned).collect()
}

/// What is below a directory, as the world's user sees it: names, kinds, modes, owners, sizes,
/// times, link texts.
#[track_caller]
fn listing(world: &World, dir: &str) -> String {
    let find = "find . -printf '%P %y %m %u %g %l %TY-%Tm-%Td %TT ' \\( -type f -printf %s \\) \
                -o -printf '\\n'";
    let script = format!("cd '{dir}' && {find} | sort");
    world.cmd(["bash", "-c", &script]).ok().out()
}

fn ignored_directories_of_base_are_mounted(world: &World) {
    world.sh(BUILD).ok();
    world.sh("mkdir -p src/target/x plain/logs.log; echo secret >.env; echo .env >>.git/info/exclude").ok();
    let before = listing(world, "target");
    let script = format!("{KIND} src src/target plain/logs.log target target/debug .env");
    let done = world.agent("alice").run(&script).exits(0);
    let [src, rest @ .., env] = &kinds(&done)[..] else { panic!("{done}") };
    assert!(rest.iter().all(|kind| kind == "overlayfs"), "{done}");
    assert!(src != "overlayfs" && env != "overlayfs", "{done}");
    let script = "cat .env target/debug/out target/link; echo mine >.env; echo mine >target/debug/out; \
                  rm target/b; mkdir target/new; chmod 0700 target/debug";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), "secret\nwarm\nb\n");
    assert_eq!(listing(world, "target"), before, "base is as it was, to the nanosecond");
    assert_eq!(world.base(".env"), "secret\n");
    let done = world.agent("alice").run("cat .env target/debug/out; ls target").exits(0);
    assert_eq!(done.out(), "mine\nmine\ndebug\nlink\nnew\n");
}

fn configured_directories_are_there_at_once(world: &World) {
    world.configure("scratch = [\"/cache/\", \"src/gen/\", \"missing/too/\", \"loose/\"]\n");
    let script =
        format!("{KIND} cache src/gen; ls -d missing loose; echo x >cache/x; ls -ldn cache");
    let done = world.agent("alice").run(&script);
    assert!(done.out().starts_with("overlayfs\noverlayfs\ndrwxr-xr-x"), "{done}");
    assert!(!world.repo().join("cache").exists());
    assert_eq!(world.agent("alice").run("cat cache/x; rm -r cache").exits(0).out(), "x\n");
}

fn what_an_agent_makes_is_base_s_owner_s(world: &World) {
    world.sh(BUILD).ok();
    let owner = world.sh("stat -c %u:%g .").ok().out();
    let script = "stat -c %u:%g target target/debug/out; echo >>target/debug/out; mkdir target/d; \
                  echo >target/d/new; ln -s x target/d/l; stat -c %u:%g target/d/new; id -u; id -g";
    let done = world.agent("alice").run(script).exits(0);
    let said = done.out();
    let ids: Vec<&str> = said.split(['\n', ':']).filter(|id| !id.is_empty()).collect();
    let (uid, gid) = (ids[6], ids[7]);
    assert_eq!(ids, [uid, gid, uid, gid, uid, gid, uid, gid], "{done}");
    let delta = delta(world, "alice");
    let script =
        format!("cd '{}/target' && stat -c %u:%g . debug/out d d/new d/l", delta.display());
    let owners = world.sh(&script).as_root().ok().out();
    assert!(owners.lines().all(|line| line == owner.trim()), "{owners} is not {owner}");
}

fn delta(world: &World, agent: &str) -> PathBuf {
    world.states()[0].join("agents").join(agent).join("delta")
}

fn the_view_shows_the_same_tree(world: &World) {
    world.sh(BUILD).ok();
    let see =
        "cd target && find . -printf '%P %y %m %u %g %l %TY-%Tm-%Td %TT\\n' | sort >~/seen; cd ..";
    let script = format!(
        "rm -r target/debug/deps target/b; mkdir target/debug/deps; echo new >target/debug/deps/n; \
         mv target/link target/link2; ln target/debug/out target/hard; {see}; tell one; await two; \
         echo later >target/later; {see}; tell three; await four"
    );
    let mut alice = world.agent("alice").start(&script);
    let seen_outside = || {
        let view = world.view("alice").join("target").display().to_string();
        let find = "find . -printf '%P %y %m %u %g %l %TY-%Tm-%Td %TT\\n' | sort";
        world.cmd(["bash", "-c", &format!("cd '{view}' && {find}")]).ok().out()
    };
    for (told, next) in [("one", "two"), ("three", "four")] {
        alice.hears(told);
        let inside = names_of_users(world, &alice.kept("seen"));
        eventually("the view shows what was done past it", || {
            (names_of_users(world, &seen_outside()) == inside).then_some(())
        });
        alice.tells(next);
    }
    alice.finish().exits(0);
    let script = "find target | sort; cat target/debug/deps/n target/hard";
    let done = world.agent("alice").run(script).exits(0);
    let wanted = "target\ntarget/debug\ntarget/debug/deps\ntarget/debug/deps/n\ntarget/debug/out\n\
                  target/hard\ntarget/later\ntarget/link2\nnew\nwarm\n";
    assert_eq!(done.out(), wanted);
    let view = world.view("alice").display().to_string();
    let outside = world.sh(&format!("cd '{view}' && {script}")).ok().out();
    assert_eq!(outside, wanted, "as the view alone serves it");
}

/// Inside a world of root's the agent may have no name.
fn names_of_users(_: &World, listing: &str) -> Vec<Vec<String>> {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut lines: Vec<Vec<String>> = listing.lines().map(fields).collect();
    for line in &mut lines {
        line.drain(3..5);
    }
    lines
}

fn it_is_private_and_stays(world: &World) {
    world.sh(BUILD).ok();
    let script = |own: &str, other: &str| {
        format!(
            "echo {own} >target/{own}; echo {own} >target/debug/out; tell done; await go; \
             test ! -e target/{other}; cat target/debug/out"
        )
    };
    let mut alice = world.agent("alice").start(&script("alice", "bob"));
    let mut bob = world.agent("bob").start(&script("bob", "alice"));
    alice.hears("done");
    bob.hears("done");
    alice.tells("go");
    bob.tells("go");
    assert_eq!(alice.finish().exits(0).out(), "alice\n");
    assert_eq!(bob.finish().exits(0).out(), "bob\n");
    let again = world.agent("alice").run("cat target/alice target/debug/out").exits(0);
    assert_eq!(again.out(), "alice\nalice\n");
    assert_eq!(world.base("target/debug/out"), "warm\n");
    // A discard is of what counts.
    world.agent("alice").run("echo x >>shared.txt; exit 1").exits(1);
    world.ctl("discard alice --yes").run();
    let again = world.agent("alice").run("cat shared.txt target/alice target/b").exits(0);
    assert_eq!(again.out(), "one\nalice\nb\n");
}

fn a_mounted_directory_can_be_removed_and_made_again(world: &World) {
    world.sh(BUILD).ok();
    world.sh("mkdir -p src/target; echo x >src/target/x").ok();
    let script = format!(
        "{KIND} target; rm -rf target && test ! -e target; mkdir target; ls -A target; \
         echo new >target/new; {KIND} target src/target; rmdir src/target 2>/dev/null; \
         rm -r src/target; ls src"
    );
    let done = world.agent("alice").run(&script).exits(0);
    let kinds = kinds(&done);
    assert_eq!(kinds[0], "overlayfs", "{done}");
    assert_ne!(kinds[1], "overlayfs", "what is made again is the view's: {done}");
    assert_eq!(kinds[2..], ["overlayfs", "a.txt", "b.txt", "c.txt"], "{done}");
    assert_eq!(world.base("target/b"), "b\n");
    let script = format!("{KIND} target; ls -A target src; cat target/new; rm -rf target");
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(done.out(), "overlayfs\nsrc:\na.txt\nb.txt\nc.txt\n\ntarget:\nnew\nnew\n");
    let gone = world.agent("alice").run("ls -d target src/target").exits(2);
    assert_eq!(gone.out(), "");
}

fn what_an_agent_made_is_mounted_next_time(world: &World) {
    let script = "mkdir -p src/target/x new/target; echo a >src/target/a; echo b >new/target/b";
    world.agent("alice").run(script).exits(0);
    let script = format!("{KIND} src/target new/target; cat src/target/a new/target/b");
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(done.out(), "overlayfs\noverlayfs\na\nb\n");
    // A mount never moves to where it is not scratch, nor a directory over one that is.
    let script = "mv src/target src/other; cat src/other/a; rm -r src/other; mkdir new.tmp; \
                  echo c >new.tmp/c; mv new.tmp new/tmp; mv new/target new/t2; \
                  mkdir -p out.tmp/target && rm -rf new/t2 && mv -T out.tmp/target new/target; \
                  mv new newer; ls newer newer/target";
    let done = world.agent("alice").run(script);
    assert_eq!(done.out(), "a\nnewer:\ntarget\ntmp\n\nnewer/target:\n", "{done}");
}

fn a_mounted_directory_can_be_moved_away(world: &World) {
    world.sh(BUILD).ok();
    let script = "mv target target.old && ls -A target.old && cat target.old/debug/out && \
                  test ! -e target && mkdir target && echo new >target/n && rm -rf target.old";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), "b\ndebug\nlink\nwarm\n");
    let again = world.agent("alice").run("cat target/n; ls target").exits(0);
    assert_eq!(again.out(), "new\nn\n");
    assert_eq!(world.base("target/debug/out"), "warm\n");
}

fn names_of_any_bytes_are_mounted(world: &World) {
    let names = ["a:b", "a,b", "a b", "a\\b", "a\\054b", "-o", "'\"", "é", "x\u{1}y", "lowerdir=x"];
    for name in names {
        world.cmd(["mkdir", "-p", "--"]).arg(format!("odd/{name}/target")).ok();
        world.cmd(["touch", "--"]).arg(format!("odd/{name}/target/here")).ok();
    }
    world.sh("mkdir -p \"$(printf 'odd/\\377\\376/target')\"; touch odd/*/target/here").ok();
    let script = format!(
        "for d in odd/*/target; do {KIND} \"$d\"; test -e \"$d/here\"; echo x >\"$d/x\"; done"
    );
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(kinds(&done), vec!["overlayfs"; names.len() + 1], "{done}");
    let done = world.agent("alice").run("cat odd/*/target/x | wc -l").exits(0);
    assert_eq!(done.out(), format!("{}\n", names.len() + 1));
}

fn no_change_set_has_it(world: &World) {
    world.sh("mkdir -p sub/target; echo a >sub/target/a").ok();
    let before = Tree::of(&world.repo());
    let done = world.agent("alice").run("echo b >sub/target/b; rm sub/target/a").exits(0);
    assert!(done.err().contains("alice changed nothing"), "{done}");
    assert!(world.recover().is_empty());
    assert_eq!(Tree::of(&world.repo()), before);
    // Directories that the delta has for the sake of mounts are not the agent's work, nor do they
    // stay if nothing was done in them.
    world.agent("bob").run("ls sub/target").exits(0);
    assert!(!delta(world, "bob").join("sub").exists());
    world.agent("alice").run("echo c >sub/target/c; echo more >>shared.txt").exits(0);
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
    assert!(!world.repo().join("sub/target/c").exists());
}

fn nothing_is_left_behind(world: &World) {
    world.sh(BUILD).ok();
    let mut alice =
        world.agent("alice").start("echo x >target/x; rm target/b; tell ready; await never");
    alice.hears("ready");
    alice.signal("KILL");
    alice.finish();
    let mounted = world.sh("grep -c ' overlay .*scratch' /proc/self/mountinfo || true").as_root();
    assert_eq!(mounted.ok().out().trim(), "0");
    // The same work directories, which that run's mounts have left as they were.
    for _ in 0..2 {
        let done =
            world.agent("alice").run(&format!("{KIND} target; cat target/x; ls target")).exits(0);
        assert_eq!(done.out(), "overlayfs\nx\ndebug\nlink\nx\n", "{done}");
    }
    world.fs("unmount").ok();
    let work = world.states()[0].join("agents/alice/mounts");
    assert!(work.join("0").is_dir() && !work.join("1").exists());
}

fn there_are_not_too_many_mounts(world: &World) {
    world.sh("for i in $(seq 70); do mkdir -p p$i/target/x; echo $i >p$i/target/n; done").ok();
    let script = format!("cat p*/target/n | wc -l; {KIND} p*/target | grep -c overlayfs");
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(done.out(), "70\n64\n");
}

fn mounts_in_base_are_left_to_the_view(world: &World) {
    world.sh("mkdir -p target/in src/target a/target").ok();
    let mount = "mount -t tmpfs -o mode=777 x target/in; mount -t tmpfs -o mode=777 x src/target";
    world.sh(mount).as_root().ok();
    world.sh("echo in >target/in/f; echo at >src/target/f").ok();
    let script = format!("{KIND} a/target target src/target; cat target/in/f src/target/f");
    let done = world.agent("alice").run(&script).exits(0);
    let kinds = kinds(&done);
    assert_eq!(kinds[0], "overlayfs", "{done}");
    assert!(kinds[1..3].iter().all(|kind| kind != "overlayfs"), "{done}");
    assert_eq!(kinds[3..], ["in", "at"], "{done}");
}

fn what_can_not_be_mounted_is_served_by_the_view(world: &World) {
    world.sh(BUILD).ok();
    match world.user() {
        // A file system without maps of owners.
        User::Root => {
            let script = "mkdir ../other && mount -t ramfs x ../other && cp -a . ../other && \
                          mount --bind ../other .";
            world.sh(script).as_root().ok();
        }
        // Base is somebody else's, and only root could show it as the agent's.
        User::Unprivileged => {
            world.sh("chown 0:0 . && chmod 0777 .").as_root().ok();
        }
    }
    let script = format!(
        "{KIND} target; cat target/debug/out; echo x >target/x; rm -r target/debug; ls target"
    );
    let done = world.agent("alice").run(&script).exits(0);
    assert!(!done.out().contains("overlayfs"), "{done}");
    assert!(done.out().ends_with("\nwarm\nb\nlink\nx\n"), "{done}");
    let log = world.sh("cat ../s/*/daemon.log").as_root().ok().out();
    assert!(log.contains("scratch is served by the view") && log.contains("path=target"), "{log}");
}

fn base_may_change_meanwhile(world: &World) {
    world.sh(BUILD).ok();
    let seen = |text: &str| format!("until grep -q {text} shared.txt; do sleep 0.02; done");
    let script = format!(
        "cat target/debug/out; tell one; {}; {KIND} target; find target >/dev/null; cat target/b; \
         echo mine >target/debug/out; rm -f target/late; echo mine >target/mine; tell two; {}; \
         {KIND} target; cat target/mine; echo more >target/more; ls target >/dev/null; exit 0",
        seen("first"),
        seen("second"),
    );
    let mut alice = world.agent("alice").start(&script);
    alice.hears("one");
    let change = "rm -r target/debug/deps; echo new >target/b; echo late >target/late; \
                  mv target/link target/l; echo x >target/debug/out; chmod 0750 target; \
                  echo first >>shared.txt";
    world.sh(change).ok();
    let base = listing(world, "target");
    alice.hears("two");
    assert_eq!(listing(world, "target"), base);
    world.sh("rm -r target; mkdir -p target/again; echo second >>shared.txt").ok();
    let base = listing(world, "target");
    let done = alice.finish().exits(0);
    assert_eq!(done.out().matches("overlayfs\n").count(), 2, "it stays mounted: {done}");
    assert_eq!(listing(world, "target"), base);
    world.agent("alice").run("cat target/mine target/more; find target").exits(0);
    world.sh("rm -r target").ok();
    assert_eq!(world.agent("alice").run("cat target/mine").exits(0).out(), "mine\n");
}

fn a_sync_leaves_mounts_alone(world: &World) {
    world.sh(BUILD).ok();
    world.sh("mkdir -p src/target; echo x >src/target/x").ok();
    let script = format!(
        "echo mine >target/mine; tell ready; await go; cat shared.txt src/new; \
         {KIND} target src/target; cat target/mine"
    );
    let mut alice = world.agent("alice").start(&script);
    alice.hears("ready");
    world.agent("bob").run("echo more >>shared.txt; echo new >src/new; chmod 0700 src").exits(0);
    world.ctl("sync alice").ok();
    alice.tells("go");
    let done = alice.finish().exits(0);
    assert_eq!(done.out(), "one\nmore\nnew\noverlayfs\noverlayfs\nmine\n");
}

fn tracked_files_count_whatever_is_ignored(world: &World) {
    let script = "mkdir -p vendor/lib vendor/cache; echo v1 >vendor/lib/a; echo keep >keep.log; \
                  echo c >vendor/cache/c; echo /vendor >>.gitignore; \
                  git add -f .gitignore vendor/lib/a keep.log; git commit -qm vendor";
    world.sh(script).ok();
    let script = format!(
        "{KIND} vendor vendor/cache; echo v2 >vendor/lib/a; echo x >vendor/lib/new; echo more >>keep.log; \
         echo x >vendor/cache/c; echo x >other.log"
    );
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(kinds(&done)[1], "overlayfs", "{done}");
    assert_ne!(kinds(&done)[0], "overlayfs", "{done}");
    assert!(done.err().contains("alice changed 2 paths"), "{done}");
    assert_eq!(world.base("vendor/lib/a") + &world.base("keep.log"), "v2\nkeep\nmore\n");
    assert_eq!(world.base("vendor/cache/c"), "c\n");
    assert!(!world.repo().join("vendor/lib/new").exists());
}

fn the_user_s_own_ignore_file_counts(world: &World) {
    world.sh("mkdir -p ~/.config/git out; echo '/out/' >~/.config/git/ignore; echo x >out/x").ok();
    let done = world.agent("alice").run(&format!("{KIND} out; echo y >out/x")).exits(0);
    assert_eq!(done.out(), "overlayfs\n", "{done}");
    assert!(done.err().contains("alice changed nothing"), "{done}");
    assert_eq!(world.base("out/x"), "x\n");
}

/// A workspace of two crates, one of which uses the other, built.
const CRATES: &str = r#"
mkdir -p app/src lib/src
printf '[workspace]\nmembers = ["app", "lib"]\nresolver = "3"\n' >Cargo.toml
printf '[package]\nname = "lib"\nversion = "0.1.0"\nedition = "2024"\n' >lib/Cargo.toml
printf '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2024"\n[dependencies]\nlib = { path = "../lib" }\n' >app/Cargo.toml
printf 'pub fn answer() -> u32 { 42 }\n' >lib/src/lib.rs
printf 'fn main() { println!("{}", lib::answer()); }\n' >app/src/main.rs
cargo build -q --offline
"#;

fn a_build_begins_warm(world: &World) {
    // The toolchain may lie where this world's user may not look.
    let cargo = PathBuf::from(std::env::var_os("CARGO").expect("cargo runs the tests"));
    let toolchain = cargo.ancestors().nth(2).expect("it is in a toolchain").to_owned();
    let rust = world.path().join("rust");
    world.cmd(["mkdir"]).arg(&rust).as_root().ok();
    world.cmd(["mount", "--bind"]).arg(&toolchain).arg(&rust).as_root().ok();
    let path =
        format!("{}:{}/bin:/usr/bin:/bin", rust.join("bin").display(), world.path().display());
    world.sh(CRATES).env("PATH", &path).ok();
    let before = listing(world, "target");
    let build = |script: &str| {
        let done = world
            .agent("alice")
            .sh(script)
            .env("PATH", &path)
            .env("CARGO_TERM_COLOR", "never")
            .run();
        done.exits(0)
    };
    let compiled = |done: &Done| {
        let said = done.err();
        let lines = said.lines().map(str::trim).filter(|line| line.starts_with("Compiling"));
        lines.map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let done = build("cargo build -v --offline && ./target/debug/app");
    assert_eq!(compiled(&done), [""; 0], "nothing is compiled again: {done}");
    assert_eq!(done.err().matches("Fresh").count(), 2, "{done}");
    assert_eq!(done.out(), "42\n");
    let done = build(
        "sed -i s/42/43/ lib/src/lib.rs; cargo build --offline && ./target/debug/app; git checkout -q lib 2>/dev/null; sed -i s/43/42/ lib/src/lib.rs",
    );
    assert_eq!((compiled(&done).len(), done.out().as_str()), (2, "43\n"), "{done}");
    assert_eq!(listing(world, "target"), before, "base's own build is as it was");
    let done = build(
        "cargo clean --offline 2>/dev/null; test ! -e target; cargo build --offline && ./target/debug/app",
    );
    assert_eq!((compiled(&done).len(), done.out().as_str()), (2, "42\n"), "{done}");
    let done = build("cargo build -v --offline && ./target/debug/app");
    assert_eq!(compiled(&done), [""; 0], "a second run is as warm: {done}");
}

fn environments_work(world: &World) {
    let script = r"
        printf '.venv/\nnode_modules/\n' >>.gitignore
        python3 -m venv --without-pip .venv
        mkdir -p node_modules/.bin node_modules/tool
        printf '#!/bin/sh\necho tool\n' >node_modules/tool/cli.sh
        chmod 0755 node_modules/tool/cli.sh
        ln -s ../tool/cli.sh node_modules/.bin/tool
    ";
    world.sh(script).ok();
    let script = format!(
        "{KIND} .venv node_modules; .venv/bin/python -c 'import sys; print(sys.prefix)'; \
         node_modules/.bin/tool; mkdir -p .venv/lib/mine; \
         mv node_modules/tool/cli.sh node_modules/tool/cli2.sh; \
         ln -sf ../tool/cli2.sh node_modules/.bin/tool; node_modules/.bin/tool"
    );
    let done = world.agent("alice").run(&script).exits(0);
    let prefix = world.repo().join(".venv").display().to_string();
    assert_eq!(kinds(&done), ["overlayfs", "overlayfs", &prefix, "tool", "tool"], "{done}");
}
