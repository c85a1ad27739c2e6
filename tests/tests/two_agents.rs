//! Two agents work on one repository at the same time: each on its own, base untouched until
//! their changes are applied, and then both there, byte for byte.

use agentfs_api::types::{AgentState, Outcome};
use agentfs_tests::{Tree, World, in_both_worlds, promptly};
use std::path::Path;

const MANUAL: &str = "publish = \"manual\"\n";

/// Says mode, time and name of each of its arguments, as [`described`] does.
const DESCRIBE: &str = r#"describe() { stat -c '%a %.9Y %n' "$@"; }"#;

fn described(tree: &Tree, path: &str) -> String {
    let entry = &tree.0[Path::new(path)];
    format!("{:o} {}.{:09} {path}", entry.mode, entry.mtime.0, entry.mtime.1)
}

in_both_worlds!(
    different_files_are_edited_at_the_same_time,
    a_change_is_applied_by_itself_when_the_command_succeeds,
    names_of_all_kinds_pass_through,
    an_apply_follows_no_symbolic_link,
    an_apply_brings_no_set_id_bits_and_nothing_into_git,
    an_agent_that_runs_can_be_applied_between_its_writes,
    a_human_s_edit_shows_through_and_is_never_overwritten,
    a_human_s_edit_is_seen_in_files_that_were_read_before,
    a_view_stays_at_its_version_of_base,
);

fn different_files_are_edited_at_the_same_time(world: &World) {
    world.configure(MANUAL);
    let before = world.tree();
    let mut alice = world.agent("alice").start(&format!(
        r"{DESCRIBE}
        printf 'from alice\n' >>src/a.txt
        mkdir -p made/deep && printf 'new\n' >made/deep/file
        chmod 0600 made/deep/file
        touch -d '2001-02-03 04:05:06.987654321' made/deep/file
        chmod 0755 src/c.txt
        describe src/a.txt made/deep/file src/c.txt >~/described
        tell ready; await end
        cat src/a.txt src/b.txt >~/seen; exit 0"
    ));
    let mut bob = world.agent("bob").start(&format!(
        r"{DESCRIBE}
        printf '\0\1\2\377' >src/b.txt
        rm docs/image.bin
        ln -sfn src/a.txt docs/link
        mv tool.sh renamed.sh
        describe src/b.txt renamed.sh >~/described
        tell ready; await end
        cat src/a.txt >~/seen; [ ! -e made ]"
    ));
    alice.hears("ready");
    bob.hears("ready");

    assert_eq!(world.tree().differences(&before), [""; 0], "base is as it was while they work");
    for agent in world.agents() {
        assert_eq!(agent.state, AgentState::Running, "{agent:?}");
    }
    assert_eq!(world.seen_by("alice", "src/a.txt"), "alpha\nfrom alice\n");
    assert_eq!(world.seen_by("alice", "src/b.txt"), "beta\n");
    assert_eq!(world.seen_by("bob", "src/a.txt"), "alpha\n");

    alice.tells("end");
    bob.tells("end");
    assert_eq!(read_when_ended(alice, "seen"), "alpha\nfrom alice\nbeta\n");
    assert_eq!(read_when_ended(bob, "seen"), "alpha\n");
    assert_eq!(
        world.tree().differences(&before),
        [""; 0],
        "base is as it was while nobody has applied"
    );
    for agent in world.agents() {
        assert_eq!(agent.state, AgentState::Pending, "{agent:?}");
    }

    assert!(matches!(world.apply("alice").outcome, Outcome::Applied { .. }));
    assert!(matches!(world.apply("bob").outcome, Outcome::Applied { .. }));
    let after = world.tree();
    assert_eq!(
        after.differences(&before),
        [
            "docs/image.bin",
            "docs/link",
            "made",
            "made/deep",
            "made/deep/file",
            "renamed.sh",
            "src/a.txt",
            "src/b.txt",
            "src/c.txt",
            "tool.sh",
        ],
    );
    let content = |path: &str| after.0[Path::new(path)].content.clone();
    let old = |path: &str| before.0[Path::new(path)].content.clone();
    assert_eq!(content("src/a.txt").as_deref(), Some(&b"alpha\nfrom alice\n"[..]));
    assert_eq!(content("src/b.txt").as_deref(), Some(&b"\0\x01\x02\xff"[..]));
    assert_eq!(content("src/c.txt"), old("src/c.txt"));
    assert_eq!(content("made/deep/file").as_deref(), Some(&b"new\n"[..]));
    assert_eq!(content("docs/link").as_deref(), Some(&b"src/a.txt"[..]));
    assert_eq!(content("renamed.sh"), old("tool.sh"));
    assert!(!after.0.contains_key(Path::new("tool.sh")));
    assert!(!after.0.contains_key(Path::new("docs/image.bin")));
    let by_agent = [
        ("alice", ["src/a.txt", "made/deep/file", "src/c.txt"].as_slice()),
        ("bob", &["src/b.txt", "renamed.sh"]),
    ];
    for (agent, paths) in by_agent {
        let home = world.home_of(agent).expect("it has run");
        let wanted = std::fs::read_to_string(home.join("described")).expect("it described");
        let found: Vec<String> = paths.iter().map(|path| described(&after, path)).collect();
        assert_eq!(found, wanted.lines().collect::<Vec<_>>(), "{agent}: mode, time, name");
    }
    assert!(world.recover().is_empty(), "all is applied");
    assert!(world.locks().is_empty(), "and nothing is held");
    assert_eq!(world.status().base_version.0, 2);
}

fn a_change_is_applied_by_itself_when_the_command_succeeds(world: &World) {
    let done = world.agent("alice").run("echo more >>shared.txt").exits(0);
    assert!(done.err().contains("applied to base as v1"), "{done}");
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
    assert!(world.locks().is_empty());

    let done = world.agent("alice").run("echo worse >>shared.txt; exit 3").exits(3);
    assert!(done.err().contains("pending: "), "{done}");
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
}

fn names_of_all_kinds_pass_through(world: &World) {
    world.configure(MANUAL);
    let made = world.agent("alice").run(
        "mkdir 'a b' && for name in 'a b/c d' -dash ünïcödé 'quo\"te' \"apo's\" 'back\\slash' \
             '*' '$HOME' '#hash' proc:x 'colon:' \"$(printf 'new\\nline')\" \"$(printf 'tab\\there')\" \
             \"$(printf 'bad\\377')\"; do
             echo \"$name\" >\"./$name\" || exit 1
         done",
    );
    made.exits(0);
    let held = world.locks().len();
    assert_eq!(held, 14, "{}", world.ctl("locks").ok());
    let patch = world.ctl("diff alice").ok();
    world.sh("git clone -q . ../copy && git -C ../copy apply -").stdin(patch.bytes()).ok();
    assert!(!world.ctl("locks").ok().out().contains('\t'), "nothing of a name is raw");
    world.apply("alice");
    let same = "git ls-files -zo | LC_ALL=C sort -z | xargs -0 sha1sum -- >../names; [ $(wc -l <../names) = 14 ]; cd ../copy
         git ls-files -zo | LC_ALL=C sort -z | xargs -0 sha1sum -- | diff - ../names";
    world.sh("rm agentfs.toml").ok();
    world.sh(same).ok();
}

fn an_apply_follows_no_symbolic_link(world: &World) {
    world.configure(MANUAL);
    world.agent("alice").run("echo alice >docs/new.txt; echo alice >src/a.txt").exits(0);
    // While it was pending, somebody put links where it writes.
    world.sh("mkdir ../elsewhere; echo precious >../elsewhere/a.txt").ok();
    world.sh("mv docs ../docs; ln -s ../elsewhere docs; ln -sf ../elsewhere/a.txt src/a.txt").ok();
    let refused = world.ctl("apply alice").run().exits(4);
    assert!(refused.err().contains("src/a.txt"), "{refused}");
    assert_eq!(world.sh("cd ../elsewhere; ls; cat a.txt").ok().out(), "a.txt\nprecious\n");
    assert_eq!(world.recover().len(), 1);
}

fn an_apply_brings_no_set_id_bits_and_nothing_into_git(world: &World) {
    let hook = ".git/hooks/post-commit";
    let done = world.agent("alice").run(&format!(
        "chmod 6755 tool.sh; echo x >set-id; chmod 4711 set-id
         mkdir -p .git/hooks; printf '#!/bin/sh\\ntouch ~/owned\\n' >{hook}; chmod +x {hook}
         git config core.fsmonitor ~/evil; echo more >>shared.txt"
    ));
    done.exits(0);
    let modes = world.sh("stat -c '%a %n' tool.sh set-id").ok().out();
    assert_eq!(modes, "755 tool.sh\n711 set-id\n");
    assert!(!world.repo().join(hook).exists());
    assert!(!world.git("config --list").contains("fsmonitor"));
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
}

fn an_agent_that_runs_can_be_applied_between_its_writes(world: &World) {
    let mut alice = world.agent("alice").start(
        "exec 3>>shared.txt; echo first >&3; tell open; await close
         exec 3>&-; tell closed; await more
         echo second >>shared.txt; cat shared.txt >~/seen; tell more; await end; exit 0",
    );
    alice.hears("open");
    world.ctl("apply alice").run().refuses(4, &["alice has shared.txt open for writing"]);
    assert_eq!(world.base("shared.txt"), "one\n");
    alice.tells("close");
    alice.hears("closed");
    world.apply("alice");
    assert_eq!(world.base("shared.txt"), "one\nfirst\n");
    assert!(world.locks().is_empty(), "others can have it now");
    alice.tells("more");
    alice.hears("more");
    assert_eq!(alice.kept("seen"), "one\nfirst\nsecond\n");
    assert_eq!(world.base("shared.txt"), "one\nfirst\n");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nfirst\nsecond\n");
}

fn a_human_s_edit_shows_through_and_is_never_overwritten(world: &World) {
    world.configure(MANUAL);
    let mut alice = world.agent("alice").start(
        "cat shared.txt >/dev/null; echo mine >>shared.txt; tell wrote; await look;
         cat src/b.txt >~/seen; exit 0",
    );
    alice.hears("wrote");
    world.sh("echo by hand >src/b.txt; echo also by hand >shared.txt").ok();
    alice.tells("look");
    assert_eq!(read_when_ended(alice, "seen"), "by hand\n");
    let refused = world.ctl("apply alice").run().exits(4);
    assert!(refused.err().contains("shared.txt"), "{refused}");
    assert_eq!(world.base("shared.txt"), "also by hand\n", "the human's edit stays");
    assert_eq!(world.recover().len(), 1, "and so does the agent's");
}

fn a_human_s_edit_is_seen_in_files_that_were_read_before(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("cat src/a.txt src/b.txt >/dev/null; ls src >/dev/null; tell read; await end");
    alice.hears("read");
    world.sh("echo in place, and longer >src/a.txt").ok();
    world.sh("echo replaced >src/b.new && mv src/b.new src/b.txt; echo new >src/new.txt").ok();
    for (path, text) in [
        ("src/a.txt", "in place, and longer\n"),
        ("src/b.txt", "replaced\n"),
        ("src/new.txt", "new\n"),
    ] {
        let file = world.view("alice").join(path);
        promptly(&format!("{path} shows the edit"), || {
            (world.cmd(["cat"]).arg(&file).run().out() == text).then_some(())
        });
    }
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_view_stays_at_its_version_of_base(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("cat src/a.txt >~/early; tell read; await look; cat src/a.txt >~/late; exit 0");
    alice.hears("read");
    world.agent("bob").run("echo newer >src/a.txt; echo new >src/d.txt").exits(0);
    assert_eq!(world.base("src/a.txt"), "newer\n");
    assert_eq!(world.seen_by("alice", "src/a.txt"), "alpha\n");
    alice.tells("look");
    let home = alice.home();
    alice.finish().exits(0);
    let kept = |name: &str| std::fs::read_to_string(home.join(name)).expect("it was kept");
    assert_eq!(kept("early"), "alpha\n");
    assert_eq!(kept("late"), "alpha\n", "files do not change under a running agent");

    world.agent("alice").run("cat src/a.txt src/d.txt >~/next").exits(0);
    assert_eq!(kept("next"), "newer\nnew\n", "its next run begins at the newest version");
}

/// What the agent's script kept in `file`, once the agent has ended well.
#[track_caller]
fn read_when_ended(agent: agentfs_tests::Agent<'_>, file: &str) -> String {
    let home = agent.home();
    agent.finish().exits(0);
    std::fs::read_to_string(home.join(file)).expect("it was kept")
}
