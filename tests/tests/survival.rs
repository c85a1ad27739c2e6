//! G9: what live runs see when the daemon is killed under them, and what the next one does for
//! them.

use agentfs_api::types::{Outcome, RunSummary};
use agentfs_tests::{World, eventually, in_both_worlds, promptly};

in_both_worlds!(
    nothing_hangs_when_the_daemon_is_killed,
    a_live_sandbox_gets_its_view_back,
    what_was_read_before_must_be_read_again,
    scratch_is_still_there,
    who_stands_in_scratch_shares_it_with_the_new_view,
    a_run_whose_daemon_died_too_leaves_no_directories_made_for_mounts,
    the_next_daemon_serves_at_the_same_mountpoint,
    a_daemon_that_is_ended_on_purpose_is_not_started_again,
    a_run_that_ends_without_a_daemon_is_recorded_by_a_new_one,
);

fn kill_daemon(world: &World) -> u32 {
    let pid = world.status().pid;
    world.signal(pid, "KILL");
    eventually("the daemon is dead", || (!world.is_running(pid)).then_some(()));
    pid
}

fn nothing_hangs_when_the_daemon_is_killed(world: &World) {
    let mut alice = world.agent("alice").start("echo alice >shared.txt; tell holds; await end");
    alice.hears("holds");
    // One stands at the gate, one reads, one waits for a claim by hand.
    let mut bob = world.agent("bob").start(
        "(exec 2>$HOME/gate; echo bob >shared.txt; echo $? >$HOME/at-gate) &
         (exec 2>$HOME/order; echo shared.txt >.agentfs/claim; echo $? >$HOME/at-order) &
         (while cat src/b.txt; do :; done >$HOME/text 2>$HOME/read; tell read) &
         tell begun; wait; tell all; exit 0",
    );
    bob.hears("begun");
    eventually("two wait", || (world.queue().len() == 2).then_some(()));
    kill_daemon(world);
    promptly("all three have ended", || bob.has_told("all").then_some(()));
    for (what, file) in [("the gate", "at-gate"), ("the claim", "at-order")] {
        assert_ne!(bob.kept(file).trim(), "0", "{what}");
    }
    let read = bob.kept("read");
    assert!(
        read.contains("Transport endpoint is not connected")
            || read.contains("Software caused connection abort"),
        "{read}"
    );
    bob.finish().exits(0);
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_live_sandbox_gets_its_view_back(world: &World) {
    let mut alice = world.agent("alice").start(
        "exec 3>>src/a.txt; echo before >&3; mkdir -p made; echo new >made/new.txt; tell wrote
         await taken-over
         cd \"$PWD\" || exit 41
         cat src/a.txt made/new.txt >$HOME/seen || exit 42
         echo after >>src/a.txt || exit 43
         echo again >made/again.txt || exit 44
         (cd / && cat $OLDPWD/src/c.txt) || exit 45
         git status --porcelain >$HOME/status || exit 46
         agentctl locks >$HOME/locks 2>&1
         echo src/c.txt >.agentfs/claim || exit 47
         tell worked; await end; exit 0",
    );
    alice.hears("wrote");
    let before = world.locks();
    for _ in 0..2 {
        let old = kill_daemon(world);
        // Nobody but the shim starts the next one.
        eventually("the shim has said so", || {
            let said = alice.stderr();
            (said.matches("another has taken over").count() >= 1).then_some(())
        });
        let now = world.locks();
        assert_ne!(world.status().pid, old);
        let tokens = |locks: &[agentfs_api::types::Lock]| {
            locks.iter().map(|lock| (lock.unit.clone(), lock.token)).collect::<Vec<_>>()
        };
        assert_eq!(tokens(&now), tokens(&before), "leases are kept");
    }
    eventually("twice", || (alice.stderr().matches("its view is back").count() == 2).then_some(()));
    assert_eq!(world.seen_by("alice", "src/a.txt"), "alpha\nbefore\n", "from outside");
    alice.tells("taken-over");
    alice.hears("worked");
    assert_eq!(alice.kept("seen"), "alpha\nbefore\nnew\n");
    assert!(alice.kept("status").contains("src/a.txt"));
    let locks = alice.kept("locks");
    assert!(locks.contains("src/a.txt"), "its socket is the new daemon's: {locks}");
    alice.tells("end");
    let done = alice.finish().exits(0);
    assert!(done.err().contains("applied"), "{done}");
    assert_eq!(world.base("src/a.txt"), "alpha\nbefore\nafter\n");
    assert_eq!(world.base("made/new.txt") + &world.base("made/again.txt"), "new\nagain\n");
    assert!(world.locks().is_empty() && world.recover().is_empty());
}

fn what_was_read_before_must_be_read_again(world: &World) {
    let mut alice = world.agent("alice").start(
        "cat src/a.txt src/b.txt; echo mine >src/c.txt; tell read; await taken-over; cd \"$PWD\"
         bash -c 'echo lost >src/a.txt'; cat src/a.txt; echo kept >>src/a.txt || exit 41
         echo more >>src/c.txt || exit 42
         echo new >brand-new.txt || exit 43
         chmod 700 docs || exit 44
         rm src/b.txt; cat src/b.txt && rm src/b.txt || exit 45
         exit 0",
    );
    alice.hears("read");
    kill_daemon(world);
    eventually("it is taken over", || alice.stderr().contains("its view is back").then_some(()));
    // Somebody else was faster.
    world.sh("echo human >>src/a.txt").ok();
    alice.tells("taken-over");
    let done = alice.finish().exits(0);
    assert_eq!(done.err().matches("Resource temporarily unavailable").count(), 2, "{done}");
    assert!(done.err().contains("the daemon was replaced while alice ran"), "{done}");
    assert_eq!(world.base("src/a.txt"), "alpha\nhuman\nkept\n");
    assert_eq!(world.base("src/c.txt"), "mine\nmore\n");
    assert!(!world.repo().join("src/b.txt").exists());
}

fn scratch_is_still_there(world: &World) {
    world.sh("mkdir -p target/debug; echo warm >target/debug/out; echo b >target/b").ok();
    let mut alice = world.agent("alice").start(
        "stat -f -c %T target; echo mine >target/mine; echo changed >target/debug/out; rm target/b
         exec 3>>target/log; tell wrote; await taken-over
         echo kept >&3 || exit 41
         cd \"$PWD\" || exit 42
         stat -f -c %T target | grep overlayfs && exit 43
         cat target/mine target/debug/out target/log || exit 44
         test ! -e target/b || exit 45
         echo after >target/after && echo more >>target/mine && rm target/log || exit 46
         tell wrote-again; await checked
         rm -rf target && mkdir target && echo new >target/new && ls target || exit 47
         echo real >real.txt || exit 48",
    );
    alice.hears("wrote");
    kill_daemon(world);
    eventually("it is taken over", || alice.stderr().contains("its view is back").then_some(()));
    alice.tells("taken-over");
    alice.hears("wrote-again");
    let delta = world.states()[0].join("agents/alice/delta/target");
    let text = |name: &str| std::fs::read_to_string(delta.join(name)).unwrap_or_default();
    assert_eq!(text("mine") + &text("after") + &text("log"), "mine\nmore\nafter\n");
    alice.tells("checked");
    let done = alice.finish().exits(0);
    assert_eq!(done.out(), "overlayfs\nmine\nchanged\nkept\nnew\n", "{done}");
    assert_eq!(world.base("real.txt"), "real\n");
    assert_eq!(world.base("target/debug/out") + &world.base("target/b"), "warm\nb\n");
    let again = world.agent("alice").run("stat -f -c %T target; cat target/*").exits(0);
    assert_eq!(again.out(), "overlayfs\nnew\n", "mounted again: {again}");
}

fn who_stands_in_scratch_shares_it_with_the_new_view(world: &World) {
    world.sh("mkdir -p target/deps; echo old >target/deps/old").ok();
    let mut alice = world.agent("alice").start(
        "(cd target; stat -f -c %T .; tell stands; await write
          echo overlay >made; echo overlay >deps/overlay; tell wrote) &
         await look; cd \"$PWD\"; ls target target/deps >/dev/null; cat target/deps/old || exit 41
         tell looked; await go-on
         echo view >target/deps/view || exit 42
         for _ in $(seq 100); do test -e target/made && break; sleep 0.05; done
         cat target/made target/deps/overlay target/deps/view || exit 43",
    );
    alice.hears("stands");
    kill_daemon(world);
    eventually("it is taken over", || alice.stderr().contains("its view is back").then_some(()));
    // The new view knows the directory before the old mount makes it in the delta.
    alice.tells("look");
    alice.hears("looked");
    alice.tells("write");
    alice.hears("wrote");
    alice.tells("go-on");
    let done = alice.finish().exits(0);
    assert_eq!(done.out(), "overlayfs\nold\noverlay\noverlay\nview\n", "{done}");
    let again = world.agent("alice").run("ls target target/deps").exits(0);
    assert_eq!(again.out(), "target:\ndeps\nmade\n\ntarget/deps:\nold\noverlay\nview\n");
}

fn a_run_whose_daemon_died_too_leaves_no_directories_made_for_mounts(world: &World) {
    world.sh("mkdir -p target/debug; echo warm >target/debug/out").ok();
    let mut alice = world.agent("alice").start("stat -f -c %T target; tell begun; await never");
    alice.hears("begun");
    let delta = world.states()[0].join("agents/alice/delta/target");
    assert!(delta.exists());
    let pid = world.status().pid;
    world.signal(pid, "STOP");
    alice.signal("KILL");
    alice.finish();
    world.signal(pid, "KILL");
    eventually("the daemon is dead", || (!world.is_running(pid)).then_some(()));
    world.fs("mount").ok();
    assert!(!delta.exists(), "nothing was written there");
}

fn the_next_daemon_serves_at_the_same_mountpoint(world: &World) {
    let place = world.path().join("files/views");
    world.fs(&format!("mount . {}", place.display())).ok();
    let mut alice = world.agent("alice").start("echo work >src/a.txt; tell wrote; await end");
    alice.hears("wrote");
    let view = world.view("alice");
    assert!(view.starts_with(&place), "{}", view.display());
    kill_daemon(world);
    let text = eventually("the view is there again, at its place", || {
        let text = world.cmd(["cat"]).arg(view.join("src/a.txt")).run();
        (text.code() == 0).then(|| text.out())
    });
    assert_eq!(text, "work\n");
    alice.tells("end");
    alice.finish().exits(0);
    world.fs("unmount").ok();
    assert_eq!(world.mounted_views(), [""; 0]);
    let left = std::fs::read_dir(&place).map(Iterator::count);
    assert_eq!(left.ok(), Some(0), "no directory of a view is left");
    world.fs("mount").ok();
    assert!(!world.status().mountpoint.starts_with(&place), "it was ended on purpose");
}

fn a_daemon_that_is_ended_on_purpose_is_not_started_again(world: &World) {
    let mut alice = world.agent("alice").start(
        "echo work >src/a.txt; tell wrote; await back; cd \"$PWD\"; cat src/a.txt || exit 41; exit 0",
    );
    alice.hears("wrote");
    world.fs("unmount --force").ok();
    eventually("it says so", || alice.stderr().contains("was ended").then_some(()));
    assert!(!world.runtime_dir().join("operator.sock").exists());
    let served = world.fs("status").run();
    assert_ne!(served.code(), 0, "nobody has started one: {served}");
    world.fs("mount").ok();
    eventually("the view is back", || alice.stderr().contains("its view is back").then_some(()));
    alice.tells("back");
    let done = alice.finish().exits(0);
    assert_eq!(done.out(), "work\n");
    assert_eq!(world.base("src/a.txt"), "work\n");
}

fn a_run_that_ends_without_a_daemon_is_recorded_by_a_new_one(world: &World) {
    let mut alice = world
        .agent("alice")
        .flags("--json")
        .start("echo work >src/a.txt; tell wrote; await dead; exit 0");
    alice.hears("wrote");
    let pid = world.status().pid;
    // Both at once: the run is over before anybody has taken over.
    world.signal(pid, "STOP");
    alice.tells("dead");
    world.signal(pid, "KILL");
    let done = alice.finish().exits(0);
    let last = done.err().lines().last().unwrap_or_default().to_owned();
    let summary: RunSummary =
        serde_json::from_str(&last).unwrap_or_else(|error| panic!("no summary ({error}): {done}"));
    assert_eq!(summary.changes.changes.len(), 1, "{done}");
    assert!(matches!(summary.outcome, Outcome::Applied { .. }), "{done}");
    assert_eq!(world.base("src/a.txt"), "work\n");
}
