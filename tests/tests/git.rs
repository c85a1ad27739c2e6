//! `.git` is private to the agent: it commits, branches and stashes at will, and no ref, index or
//! object of base moves. What git ignores is scratch: private, never locked, never applied.

use agentfs_tests::{World, in_both_worlds};

in_both_worlds!(
    git_works_in_the_view_and_base_s_refs_stay,
    two_agents_have_two_gits,
    what_git_ignores_is_scratch,
    the_virtual_directory_is_no_part_of_the_repository,
    the_patch_is_one_that_git_applies,
);

fn git_works_in_the_view_and_base_s_refs_stay(world: &World) {
    let (head, status) = (world.git("rev-parse HEAD"), world.git("status --porcelain"));
    assert_eq!(status, "");
    let refs = world.git("for-each-ref");
    let done = world.agent("alice").flags("--quiet").run(
        "set -e
         git status --porcelain
         echo work >src/a.txt
         git status --porcelain
         git checkout -q -b topic
         git commit -q -am 'Work of alice'
         git log --format=%s
         git stash list
         git tag mine
         git rev-parse HEAD >~/head",
    );
    assert_eq!(done.exits(0).out(), " M src/a.txt\nWork of alice\nThe beginning\n");
    assert_eq!(world.git("rev-parse HEAD"), head);
    assert_eq!(world.git("for-each-ref"), refs, "base has no new refs");
    assert_eq!(world.git("symbolic-ref HEAD"), "refs/heads/main\n");
    assert_eq!(world.base("src/a.txt"), "work\n", "the files are applied");
    assert_eq!(world.git("status --porcelain"), " M src/a.txt\n", "for the user to commit");
    world.sh("git fsck --strict 2>&1").ok();
}

fn two_agents_have_two_gits(world: &World) {
    let script = |branch: &str, file: &str| {
        format!(
        "git checkout -q -b {branch} && echo {branch} >{file} && git add {file} && git commit -q -m {branch} && tell done; await end
         git branch --format='%(refname:short)' >~/branches; git status --porcelain >>~/branches; exit 0"
    )
    };
    let mut alice = world.agent("alice").start(&script("red", "src/a.txt"));
    let mut bob = world.agent("bob").start(&script("blue", "src/b.txt"));
    alice.hears("done");
    bob.hears("done");
    alice.tells("end");
    bob.tells("end");
    let (home_a, home_b) = (alice.home(), bob.home());
    alice.finish().exits(0);
    bob.finish().exits(0);
    let kept = |home: &std::path::Path| {
        std::fs::read_to_string(home.join("branches")).expect("it was kept")
    };
    assert_eq!(kept(&home_a), "main\nred\n");
    assert_eq!(kept(&home_b), "blue\nmain\n");
    assert_eq!(world.git("branch --format=%(refname:short)"), "main\n");
    assert!(!world.repo().join(".git/index.lock").exists());
}

fn what_git_ignores_is_scratch(world: &World) {
    let mut bob = world.agent("bob").start(
        "mkdir -p target && echo bob >target/out && echo noise >bob.log; tell built; await end; cat target/out >~/seen; exit 0",
    );
    bob.hears("built");
    let done = world.agent("alice").run(
        "mkdir -p target/deep && echo alice >target/out && echo noise >alice.log && echo kept >src/a.txt && cat target/out",
    );
    let done = done.exits(0);
    assert_eq!(done.out(), "alice\n");
    assert!(done.err().contains("changed 1 path"), "{done}");
    assert!(done.err().contains("held: src/a.txt\n"), "scratch takes no lease: {done}");
    bob.tells("end");
    let home = bob.home();
    assert!(bob.finish().exits(0).err().contains("bob changed nothing"));
    assert_eq!(std::fs::read_to_string(home.join("seen")).expect("it was kept"), "bob\n");
    assert!(!world.repo().join("target").exists() && !world.repo().join("alice.log").exists());
    assert_eq!(world.git("status --porcelain"), " M src/a.txt\n");
}

fn the_virtual_directory_is_no_part_of_the_repository(world: &World) {
    let done = world.agent("alice").flags("--quiet").run(
        "cat .agentfs/whoami && ls .agentfs && git status --porcelain --untracked-files=all && git add -A && git status --porcelain
         echo x >.agentfs/new 2>/dev/null && exit 9; exit 0",
    );
    let done = done.exits(0);
    for wanted in ["agent: alice", "locks", "waiting", "explain", "README.md"] {
        assert!(done.out().contains(wanted), "{wanted:?} is missing: {done}");
    }
    assert!(!done.out().contains("?? ") && !done.out().contains("A  "), "{done}");
    assert!(!world.repo().join(".agentfs").exists());
}

fn the_patch_is_one_that_git_applies(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.agent("alice").run(
        "printf '\\0\\1\\2' >docs/image.bin; chmod 0644 tool.sh; mv src/b.txt src/moved.txt
         printf 'no newline' >shared.txt; ln -sfn src docs/link; rm src/c.txt; mkdir new; echo x >new/file",
    ).exits(0);
    let patch = world.ctl("diff alice").ok();
    world
        .sh("git clone -q . ../copy && cd ../copy && git apply --index -")
        .stdin(patch.bytes())
        .ok();
    world.apply("alice");
    let copy = "cd ../copy && git ls-files -s && git diff --stat";
    world.sh("cp .git/index ../index").ok();
    let listed = world.sh("rm agentfs.toml; git add -A && git ls-files -s").ok().out();
    assert_eq!(world.sh(copy).ok().out(), listed, "git made of the patch what the apply made");
}
