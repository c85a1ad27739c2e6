//! Disks that are full or fail: the program is told so by the errno that says it, nothing is left
//! half done, the daemon goes on and works again afterwards.
//!
//! The state lies on a file system inside the world: it is looked at from there.

use agentfs_tests::{World, in_both_worlds};

in_both_worlds!(
    a_full_disk_is_said_and_leaves_nothing_half_done,
    without_inodes_nothing_is_deleted_or_moved_by_half,
    a_full_journal_is_said_and_the_daemon_goes_on,
    what_base_cannot_read_is_an_error_of_the_reader_alone,
);

/// Takes all the space there is; `fill` is in the view, in a file that is held already.
const FILL: &str = "dd if=/dev/zero of=fill bs=64k 2>/dev/null
    dd if=/dev/zero of=fill bs=512 oflag=append conv=notrunc 2>/tmp/dd; ";

fn small_state(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.sh("head -c 3M /dev/urandom >large.bin; mkdir dir; echo x >dir/x").ok();
    world.put_on("ext4", 12, &world.state_dir());
}

fn a_full_disk_is_said_and_leaves_nothing_half_done(world: &World) {
    small_state(world);
    // What is written is claimed before, so that the journal has nothing to say.
    let script =
        "set -e; sum=$(md5sum <large.bin); : >fill; echo held >mine; : >large.tmp; rm large.tmp
        for f in large.bin src/a.txt src/b.txt src/c.txt new.txt moved.txt; do
            echo $f >.agentfs/claim
        done
        dd if=/dev/zero of=fill bs=1M count=8 2>/dev/null
        set +e
        bash -c 'echo x >>large.bin' && exit 41
        test \"$sum\" = \"$(md5sum <large.bin)\" || exit 42
        dd if=/dev/zero of=new.txt bs=1M count=8 2>/tmp/dd && exit 43
        grep -q 'No space left on device' /tmp/dd || exit 44
        rm new.txt fill || exit 45
        echo x >>large.bin || exit 46
        test $(stat -c %s large.bin) = 3145730 || exit 47
        rm src/a.txt && mv src/b.txt moved.txt || exit 48
        cat moved.txt mine; exit 0";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), "beta\nheld\n");
    assert!(done.err().contains("No space left on device"), "{done}");
    let left = world.root_sh("ls -A ../s/*/agents/alice/work").out();
    assert_eq!(left, "", "no half copy is left");
    world.apply("alice");
    let base = "cat moved.txt mine; stat -c %s large.bin; ls src; ls -A";
    let base = world.sh(base).ok().out();
    assert!(base.starts_with("beta\nheld\n3145730\nc.txt\n"), "{base}");
    assert!(!base.contains("fill") && !base.contains("stage"), "{base}");
}

/// A whiteout is an inode too.
fn without_inodes_nothing_is_deleted_or_moved_by_half(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.root_sh(
        "mount -t tmpfs -o nr_inodes=100,size=64m agentfs-e2e ../s && chown --reference=. ../s",
    );
    let script = "mkdir many src/keep; n=0
        while bash -c \"echo >many/$n\" 2>/tmp/why; do n=$((n + 1)); done
        grep -q 'No space left on device' /tmp/why || exit 41
        rm src/a.txt && exit 42; mv src/b.txt src/moved.txt && exit 43
        bash -c 'echo x >>src/c.txt' && exit 44; rm -r docs && exit 45
        cat src/a.txt src/b.txt src/c.txt; ls src docs; ls -A .agentfs/locks
        rm -r many
        rm src/a.txt && mv src/b.txt src/moved.txt && echo x >>src/c.txt && rm -r docs || exit 46
        cat src/moved.txt src/c.txt; ls src; exit 0";
    let done = world.agent("alice").run(script).exits(0);
    let kept = "alpha\nbeta\ngamma\ndocs:\nimage.bin\nlink\n\nsrc:\na.txt\nb.txt\nc.txt\nkeep\n";
    let then = ".agentfs/locks\nbeta\ngamma\nx\nc.txt\nkeep\nmoved.txt\n";
    assert_eq!(done.out(), format!("{kept}{then}"), "{done}");
    assert_eq!(world.root_sh("ls -A ../s/*/agents/alice/work").out(), "", "nothing is left");
    world.apply("alice");
    assert_eq!(world.sh("ls; ls src").ok().out().matches("docs").count(), 0);
}

fn a_full_journal_is_said_and_the_daemon_goes_on(world: &World) {
    small_state(world);
    let script = format!(
        "echo held >fill; echo mine >mine; {FILL}
         grep -q 'No space left on device' /tmp/dd || exit 41
         for what in 'echo x >>src/a.txt' 'echo x >new.txt' 'echo res:x >.agentfs/claim'; do
             bash -c \"$what\" && exit 42
         done
         rm src/b.txt && exit 43; mv src/c.txt src/d.txt && exit 44
         cat src/a.txt src/b.txt src/c.txt mine || exit 45
         agentctl claim res:y && exit 46
         : >fill || exit 47
         echo x >>src/a.txt && rm src/b.txt && mv src/c.txt src/d.txt && mkdir made || exit 48
         agentctl claim res:y >/dev/null || exit 49
         cat src/a.txt src/d.txt; exit 0"
    );
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(done.out(), "alpha\nbeta\ngamma\nmine\nalpha\nx\ngamma\n", "{done}");
    assert_eq!(done.err().matches("No space left on device").count(), 5, "{done}");
    let told = done.err().contains("is full; free some space there, then try again");
    assert!(told, "agentctl says where: {done}");
    world.apply("alice");
    let base = world.sh("cat src/a.txt src/d.txt; ls src; ls -d made").ok().out();
    assert_eq!(base, "alpha\nx\ngamma\na.txt\nd.txt\nmade\n");
    world.fs("unmount").ok();
    assert!(!world.log().is_empty(), "the journal is whole");
}

fn what_base_cannot_read_is_an_error_of_the_reader_alone(world: &World) {
    let faulty = world.repo().join("faulty");
    world.sh("mkdir faulty").ok();
    let program = env!("CARGO_BIN_EXE_e2e-faulty");
    let _serving = world.cmd([program]).arg(&faulty).as_root().start();
    agentfs_tests::eventually("it is mounted", || {
        (world.cmd(["cat", "faulty/good"]).run().code() == 0).then_some(())
    });
    world.configure("publish = \"manual\"\n");
    let script = "cat faulty/good; stat -c %s faulty/bad
        cat faulty/bad >/dev/null && exit 41
        head -c 4096 faulty/bad | wc -c
        bash -c 'echo x >>faulty/bad' && exit 42
        stat -c %s faulty/bad
        echo x >>faulty/good || exit 43
        echo whole >faulty/bad || exit 44
        cat faulty/good faulty/bad; echo y >>src/a.txt; exit 0";
    let done = world.agent("alice").run(script).exits(0);
    assert_eq!(done.out(), "good\n1048576\n4096\n1048576\ngood\nx\nwhole\n", "{done}");
    assert_eq!(done.err().matches("bad: Input/output error").count(), 3, "{done}");
    assert!(done.err().contains("pending: they can't be read"), "what it was is not known: {done}");
    let left = world.root_sh("ls -A ../s/*/agents/alice/work").out();
    assert_eq!(left, "", "no half copy is left");
    assert_eq!(world.status().live_runs, 0, "the daemon goes on");
    let diff = world.ctl("diff alice --stat").run();
    assert!(diff.err().contains("faulty/bad: Input/output error"), "{diff}");
    let again = "rm faulty/bad; cat faulty/good src/a.txt";
    assert_eq!(world.agent("alice").run(again).exits(0).out(), "good\nx\nalpha\ny\n");
}
