//! Workspaces and state on other file systems than the machine's own: what works on one works on
//! all, and where it can't the user is told what to do.
//!
//! These file systems are mounted inside the world alone: what is on them is looked at from there.

use agentfs_tests::{User, World, in_both_worlds};

in_both_worlds!(
    base_on_btrfs,
    base_on_xfs,
    base_on_tmpfs,
    base_on_kernel_overlayfs,
    base_on_another_fuse_file_system,
    state_on_btrfs,
    state_on_xfs,
    state_on_tmpfs,
    base_and_state_on_one_btrfs,
    state_on_kernel_overlayfs_is_refused_with_a_remedy,
    a_base_that_is_read_only_is_worked_on_and_not_applied_to,
    files_of_other_owners_are_read_and_not_written,
);

const WORK: &str = "set -e
    cat src/a.txt >/dev/null; echo more >>src/a.txt
    mv src/b.txt src/moved.txt; rm src/c.txt docs/link
    mkdir -p made/deep; echo new >made/deep/new.txt; ln -s ../src/a.txt made/link
    printf x >>docs/image.bin; chmod 0700 tool.sh
    mkdir gone; echo >gone/x; rm -r gone
    git add -A; git status --porcelain >/dev/null";

/// What base has afterwards.
const EXPECTED: &str =
    "alpha\nmore\n---\nbeta\n---\nnew\n---\nalpha\nmore\n---\n5001\n---\n700\n---\n";

fn look(world: &World) -> String {
    let script = "cat src/a.txt; echo ---; cat src/moved.txt; echo ---; cat made/deep/new.txt
        echo ---; cat made/link; echo ---; wc -c <docs/image.bin; echo ---; stat -c %a tool.sh
        echo ---; ls -d src/b.txt src/c.txt docs/link gone 2>/dev/null || :";
    world.sh(script).ok().out()
}

/// The same work on each: two runs, a look from outside, a diff, an apply.
fn it_works(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.agent("alice").run(WORK).exits(0);
    let again = world.agent("alice").run("set -e; cat made/deep/new.txt; test ! -e src/c.txt");
    assert_eq!(again.exits(0).out(), "new\n");
    assert_eq!(world.seen_by("alice", "src/a.txt"), "alpha\nmore\n");
    let stat = world.ctl("diff alice --stat").ok().out();
    for path in ["src/a.txt", "made/deep/new.txt", "docs/image.bin", "src/c.txt"] {
        assert!(stat.contains(path), "{stat}");
    }
    let before = world.sh("cat src/a.txt; ls src").ok().out();
    assert_eq!(before, "alpha\na.txt\nb.txt\nc.txt\n", "base is as it was");
    world.apply("alice");
    assert_eq!(look(world), EXPECTED);
    let bob = world.agent("bob").run("cat src/moved.txt; echo bob >>src/a.txt").exits(0);
    assert_eq!(bob.out(), "beta\n");
    world.apply("bob");
    assert_eq!(world.sh("tail -n 1 src/a.txt").ok().out(), "bob\n");
}

fn base_on(world: &World, kind: &str) {
    world.put_on(kind, 320, &world.repo());
    it_works(world);
}

fn state_on(world: &World, kind: &str) {
    world.put_on(kind, 320, &world.state_dir());
    it_works(world);
}

fn base_on_btrfs(world: &World) {
    base_on(world, "btrfs");
}

fn base_on_xfs(world: &World) {
    base_on(world, "xfs");
}

fn base_on_tmpfs(world: &World) {
    base_on(world, "tmpfs");
}

fn base_on_kernel_overlayfs(world: &World) {
    base_on(world, "overlay");
}

fn base_on_another_fuse_file_system(world: &World) {
    base_on(world, "bindfs");
}

fn state_on_btrfs(world: &World) {
    state_on(world, "btrfs");
}

fn state_on_xfs(world: &World) {
    state_on(world, "xfs");
}

fn state_on_tmpfs(world: &World) {
    state_on(world, "tmpfs");
}

/// Where a copy-up shares its blocks with base: a file that is larger than what is free.
fn base_and_state_on_one_btrfs(world: &World) {
    let both = world.path().join("files/both");
    world.sh("mkdir ../files/both ../files/both/s; cp -a . ../files/both/repo").ok();
    world.put_on("btrfs", 320, &both);
    world.root_sh("mount --bind ../files/both/repo . && mount --bind ../files/both/s ../s");
    world.sh("head -c 190M /dev/urandom >large.bin; sync large.bin").ok();
    world.configure("publish = \"manual\"\n");
    let script = "set -e; printf x >>large.bin; tail -c 1 large.bin; stat -c %s large.bin";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), format!("x{}\n", 190 * 1024 * 1024 + 1));
    world.ctl("discard alice --yes").ok();
    world.sh("rm large.bin").ok();
    it_works(world);
}

fn state_on_kernel_overlayfs_is_refused_with_a_remedy(world: &World) {
    world.put_on("overlay", 0, &world.state_dir());
    let refused = world.agent("alice").run("true").exits(125);
    let said = refused.err();
    for part in ["can't keep", "set AGENTFS_STATE_DIR to a directory on ext4, xfs, btrfs or tmpfs"]
    {
        assert!(said.contains(part), "{refused}");
    }
    let state = world.path().join("files/elsewhere");
    let again = world.agent("alice").sh(WORK).env("AGENTFS_STATE_DIR", &state);
    world.fs("unmount").run();
    again.ok();
    assert_eq!(look(world), EXPECTED);
}

fn a_base_that_is_read_only_is_worked_on_and_not_applied_to(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.root_sh("mount --bind . . && mount -o remount,bind,ro .");
    world.agent("alice").run(WORK).exits(0);
    let refused = world.ctl("apply alice").run();
    assert_ne!(refused.code(), 0, "{refused}");
    assert!(refused.err().contains("Read-only file system"), "{refused}");
    assert_eq!(world.recover().len(), 1, "the work is kept");
    world.root_sh("mount -o remount,bind,rw .");
    world.apply("alice");
    assert_eq!(look(world), EXPECTED);
}

fn files_of_other_owners_are_read_and_not_written(world: &World) {
    world.root_sh("chown 12345:12345 src/b.txt src/c.txt && chmod 0644 src/b.txt src/c.txt");
    let script = "cat src/b.txt; (echo no >>src/b.txt) && exit 41
        rm -f src/c.txt && echo mine >src/c.txt && echo more >>src/a.txt";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), "beta\n");
    assert!(done.err().contains("Permission denied"), "{done}");
    assert_eq!(
        world.sh("cat src/a.txt src/b.txt src/c.txt").ok().out(),
        "alpha\nmore\nbeta\nmine\n"
    );
    let owner = |path: &str| world.sh(&format!("stat -c %u {path}")).ok().out();
    assert_eq!(owner("src/b.txt"), "12345\n");
    if world.user() == User::Unprivileged {
        assert_eq!(owner("src/c.txt"), owner("src/a.txt"), "a new file is its maker's");
    }
}
