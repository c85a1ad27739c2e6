//! G4 and G9: nothing is lost when the shim or the daemon is killed, and a new daemon takes over.

use agentfs_api::types::{AgentState, Exit, Outcome};
use agentfs_tests::{World, eventually, in_both_worlds};
use std::time::Duration;

in_both_worlds!(
    a_killed_agent_loses_nothing,
    the_same_agent_goes_on_where_it_was_killed,
    a_killed_daemon_is_replaced,
    an_apply_that_is_killed_is_whole_or_not_at_all,
    a_waiter_outlives_the_daemon,
    a_mountpoint_that_a_dead_daemon_left_is_cleaned,
    a_stopped_daemon_gives_everything_back,
    discarded_work_is_gone_and_only_then,
);

fn a_killed_agent_loses_nothing(world: &World) {
    let mut alice = world.agent("alice").start(
        "echo work >src/a.txt; echo more >new.txt; (exec sleep 86395) & tell wrote; await never",
    );
    alice.hears("wrote");
    alice.signal("KILL");
    alice.finish().exits(137);
    let found = eventually("the daemon sees the run's end", || {
        let work = world.recover();
        (work.len() == 1 && work[0].ended.is_some()).then_some(work)
    });
    let [work] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((work.agent.as_str(), work.exit), ("alice", Some(Exit::Lost)));
    assert_eq!((work.changed, work.added, work.removed), (2, 2, 1));
    assert!(work.conflicts.is_empty());
    assert!(!world.has_process("86395"), "the sandbox has ended with its shim");

    let text = world.ctl("recover").ok().out();
    for wanted in
        ["alice", "lost", "agentctl diff alice", "agentctl apply alice", "agentctl discard alice"]
    {
        assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
    }
    let diff = world.ctl("diff alice").ok().out();
    assert!(diff.contains("+work") && diff.contains("-alpha") && diff.contains("+more"), "{diff}");
    assert_eq!(world.base("src/a.txt"), "alpha\n");
    assert!(world.locks().iter().any(|lock| lock.unit.to_string() == "src/a.txt"), "still its own");
    world.apply("alice");
    assert_eq!(world.base("src/a.txt"), "work\n");
    assert_eq!(world.base("new.txt"), "more\n");
    assert_eq!(
        world.ctl("recover").ok().out().trim(),
        "nothing to recover: every change is applied or discarded"
    );
}

fn the_same_agent_goes_on_where_it_was_killed(world: &World) {
    let mut alice = world.agent("alice").start("echo work >src/a.txt; tell wrote; await never");
    alice.hears("wrote");
    alice.signal("KILL");
    alice.finish().exits(137);
    eventually("the run has ended", || world.runs()[0].ended);
    let done = world.agent("alice").run("cat src/a.txt; echo again >>src/a.txt").exits(0);
    assert_eq!(done.out(), "work\n");
    assert_eq!(world.base("src/a.txt"), "work\nagain\n");
}

fn a_killed_daemon_is_replaced(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.agent("bob").run("echo bob >src/b.txt").exits(0);
    let mut alice =
        world.agent("alice").start("echo alice >src/a.txt; tell wrote; await end; exit 0");
    alice.hears("wrote");
    let (agents, locks) = (world.agents(), world.locks());
    assert_eq!(locks.len(), 2, "{locks:?}");
    let old = world.status();
    world.signal(old.pid, "KILL");
    eventually("the daemon is dead", || (!world.is_running(old.pid)).then_some(()));

    // Any command finds that there is state, and starts the daemon that has it.
    let now = world.agents();
    let told = |agents: &[agentfs_api::types::Agent]| {
        agents.iter().map(|a| (a.name.clone(), a.state, a.run, a.changed)).collect::<Vec<_>>()
    };
    assert_eq!(told(&now), told(&agents));
    assert_eq!(
        world.locks().iter().map(|l| (&l.unit, &l.agent, l.token, l.since)).collect::<Vec<_>>(),
        locks.iter().map(|l| (&l.unit, &l.agent, l.token, l.since)).collect::<Vec<_>>()
    );
    assert_ne!(world.status().pid, old.pid);
    assert_eq!(world.seen_by("alice", "src/a.txt"), "alice\n", "her view is served again");
    assert_eq!(world.recover().len(), 1, "bob's work is pending");

    assert!(matches!(world.apply("bob").outcome, Outcome::Applied { .. }));
    assert_eq!(world.base("src/b.txt"), "bob\n");
    alice.tells("end");
    alice.finish();
    eventually("alice's run has ended", || {
        world.agents().iter().all(|agent| agent.state != AgentState::Running).then_some(())
    });
    world.apply("alice");
    assert_eq!(world.base("src/a.txt"), "alice\n");
    assert!(world.locks().is_empty());
}

fn an_apply_that_is_killed_is_whole_or_not_at_all(world: &World) {
    const FILES: usize = 200;
    world.configure("publish = \"manual\"\n");
    world.sh(&format!("mkdir many; for n in $(seq {FILES}); do echo 0 >many/$n; done")).ok();
    // Killed as soon as base changes, and at moments that are as different as this machine
    // happens to make them.
    let moments = [None, Some(0), None, Some(20), Some(60), Some(120)];
    for (turn, moment) in moments.into_iter().enumerate() {
        let version = turn + 1;
        let change = format!("for n in $(seq {FILES}); do echo {version} >many/$n; done");
        world.agent("alice").run(&change).exits(0);
        let daemon = world.status().pid;
        let apply = world.ctl("apply alice").start();
        match moment {
            Some(delay) => std::thread::sleep(Duration::from_millis(delay)),
            None => eventually("base changes", || {
                (world.base("many/1") == format!("{version}\n")).then_some(())
            }),
        }
        world.signal(daemon, "KILL");
        let _ = apply.finish();

        // The next command starts a daemon, which finishes the apply or has none to finish.
        let pending = world.recover().len();
        let new = world.sh(&format!("grep -lx {version} many/* | wc -l")).run();
        let new: usize = new.out().trim().parse().expect("a number");
        assert_eq!(new, if pending == 0 { FILES } else { 0 }, "killed at {moment:?}");
        assert!(moment.is_some() || new == FILES, "what had begun is finished");
        if pending == 1 {
            world.apply("alice");
        }
        let all = world.sh("cat many/* | sort | uniq -c").ok().out();
        assert_eq!(all.trim(), format!("{FILES} {version}"), "all are of one version");
        assert_eq!(world.tree().0.len(), FILES + 13, "nothing of a stage is left");
    }
}

fn a_waiter_outlives_the_daemon(world: &World) {
    let mut alice =
        world.agent("alice").start("echo alice >shared.txt; tell holds; await end; exit 0");
    alice.hears("holds");
    let mut bob = world.agent("bob").start("echo bob >shared.txt || exit 44; exit 0");
    bob.queues();
    world.signal(world.status().pid, "KILL");
    let done = bob.finish().exits(44);
    assert!(done.err().contains("bob changed nothing"), "its end is recorded: {done}");
    alice.tells("end");
    alice.finish().exits(0);
    assert!(world.queue().is_empty() && world.recover().is_empty());
    assert_eq!(world.base("shared.txt"), "alice\n");
}

fn a_mountpoint_that_a_dead_daemon_left_is_cleaned(world: &World) {
    let mut alice = world.agent("alice").start("echo alice >src/a.txt; tell wrote; await never");
    alice.hears("wrote");
    let view = world.view("alice").display().to_string();
    // Stopped, so that the shim is gone before it can see to a new daemon.
    let daemon = world.status().pid;
    world.signal(daemon, "STOP");
    alice.signal("KILL");
    alice.finish().exits(137);
    world.signal(daemon, "KILL");
    eventually("the view is stale", || {
        // A name that the kernel has not cached.
        let done = world.cmd(["ls", &format!("{view}/unseen")]).run();
        done.err().contains("Transport endpoint is not connected").then_some(())
    });
    world.fs("mount").ok();
    let listed = world.cmd(["ls", &view]).run();
    assert!(!listed.err().contains("Transport endpoint"), "{listed}");
    assert_eq!(world.recover()[0].changed, 1);
    world.agent("alice").run("cat src/a.txt").exits(0);
    assert_eq!(world.base("src/a.txt"), "alice\n");
    world.fs("unmount").ok();
    assert_eq!(world.mounted_views(), [""; 0], "nothing stays mounted");
}

fn a_stopped_daemon_gives_everything_back(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.agent("alice").run("echo alice >src/a.txt").exits(0);
    let (before, log) = (world.recover(), world.log());
    world.fs("unmount").ok();
    assert_eq!(world.mounted_views(), [""; 0]);
    let after = world.recover();
    assert_eq!((after.len(), after[0].changed, &after[0].agent), (1, 1, &before[0].agent));
    let kept: Vec<_> = world.log().into_iter().take(log.len()).map(|e| (e.seq, e.text)).collect();
    assert_eq!(kept, log.into_iter().map(|e| (e.seq, e.text)).collect::<Vec<_>>());
    world.apply("alice");
    assert_eq!(world.base("src/a.txt"), "alice\n");
}

fn discarded_work_is_gone_and_only_then(world: &World) {
    world.agent("alice").run("echo bad >src/a.txt; exit 1").exits(1);
    let refused = world.ctl("discard alice").run().exits(2);
    assert!(refused.err().contains("--yes"), "{refused}");
    assert_eq!(world.recover().len(), 1);
    world.ctl("discard alice --yes").ok();
    assert!(world.recover().is_empty() && world.locks().is_empty());
    assert_eq!(world.agent("alice").run("cat src/a.txt").exits(0).out(), "alpha\n");
}
