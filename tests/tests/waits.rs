//! Two agents want the same file: the second waits, is told why, goes on or is refused, and can
//! always be killed.

use agentfs_core::Timestamp;
use agentfs_tests::{World, eventually, in_both_worlds, promptly};
use std::time::Duration;

/// Takes `shared.txt` and keeps it until the test says `end`.
const HOLDER: &str = "echo alice >>shared.txt; tell holds; await end; exit 0";

in_both_worlds!(
    the_second_writer_waits_and_goes_on_after_the_apply,
    an_apply_by_hand_lets_the_second_writer_go_on,
    the_wait_ends_at_its_deadline,
    a_killed_waiter_is_gone_within_a_second,
    a_run_that_waits_can_be_ended_from_outside,
    a_deadlock_is_refused_at_once,
    a_directory_claim_holds_all_below_it,
    a_run_waits_for_its_claims_before_it_starts,
    units_are_claimed_and_released_by_hand,
    what_was_let_through_unasked_is_held_all_the_same,
);

/// Where an agent is alone its gate lets it through without asking, and the owner hears later.
fn what_was_let_through_unasked_is_held_all_the_same(world: &World) {
    world.configure("wait = \"300ms\"\npublish = \"manual\"\n");
    let mut alice = world.agent("alice").start(
        "mkdir many; for n in $(seq 40); do echo alice >many/$n; done; echo alice >>src/a.txt
        for n in $(seq 60); do rm -f again; echo $n >again; done
        tell wrote; await more; echo alice >>docs/y; echo alice >>src/b.txt; tell again
        await end; exit 0",
    );
    alice.hears("wrote");
    let held = || -> Vec<String> {
        let all = world.locks().into_iter().filter(|lock| lock.agent.as_str() == "alice");
        all.map(|lock| lock.unit.to_string()).collect()
    };
    for n in 1..=40 {
        assert!(held().contains(&format!("many/{n}")), "{:?}", held());
    }
    assert!(held().contains(&"src/a.txt".to_owned()));
    assert!(held().contains(&"again".to_owned()), "what was removed and made again");

    let busy = "! echo bob >many/17 && ! echo bob >>src/a.txt && echo bob >docs/x; tell tried";
    let mut bob = world.agent("bob").start(&format!("{busy}; await end; exit 0"));
    bob.hears("tried");
    assert_eq!(world.seen_by("bob", "docs/x"), "bob\n");
    assert_eq!(world.seen_by("bob", "src/a.txt"), "alpha\n");
    // Beside bob, alice is no longer alone everywhere, and goes on all the same.
    alice.tells("more");
    alice.hears("again");
    assert!(held().contains(&"docs/y".to_owned()) && held().contains(&"src/b.txt".to_owned()));
    alice.tells("end");
    bob.tells("end");
    alice.finish().exits(0);
    bob.finish().exits(0);
    assert_eq!(held().len(), 44, "{:?}", held());
}

fn the_second_writer_waits_and_goes_on_after_the_apply(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world.agent("bob").start("echo bob >>shared.txt && tell wrote; exit 0");

    let waiting = bob.queues();
    assert_eq!(waiting.wants.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shared.txt"]);
    assert_eq!(waiting.position, 1);
    assert_eq!(waiting.deadline.expect("it has one").since(waiting.since), Duration::from_mins(1));
    let [blocker] = waiting.blockers.as_slice() else { panic!("one is in the way: {waiting:?}") };
    assert_eq!((blocker.agent.as_str(), blocker.holds), ("alice", true));
    assert!(blocker.since > Timestamp::default() && blocker.since <= waiting.since);
    let [lock] = world.locks().try_into().expect("one lease");
    assert_eq!((lock.agent.as_str(), lock.waiters), ("alice", 1));
    let table = world.ctl("queue").ok().out();
    assert!(table.contains("shared.txt") && table.contains("alice"), "{table}");

    let why = world.explain("shared.txt");
    assert!(
        why.contains(
            "bob waits for shared.txt (open for writing): alice (r1) has held shared.txt for "
        ),
        "{why}"
    );
    assert!(why.contains("gives up in"), "{why}");
    let inside = world.seen_by("bob", ".agentfs/explain");
    assert!(inside.contains("bob waits for shared.txt (open for writing): alice"), "{inside}");
    let inside = world.seen_by("bob", ".agentfs/waiting");
    assert!(inside.contains("shared.txt"), "{inside}");
    let size = world.cmd(["stat", "-c", "%s"]).arg(world.view("bob").join("shared.txt")).ok().out();
    assert_eq!(size, "4\n", "looking never waits");
    assert!(!bob.has_told("wrote"));

    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("wrote");
    let done = bob.finish().exits(0);
    assert!(done.err().contains("waited:") && done.err().contains("shared.txt"), "{done}");
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
    assert!(world.queue().is_empty() && world.locks().is_empty());
}

fn an_apply_by_hand_lets_the_second_writer_go_on(world: &World) {
    world.configure("publish = \"manual\"\n");
    let alice = world.agent("alice").run("echo alice >>shared.txt");
    assert!(alice.exits(0).err().contains("agentctl apply alice"));
    let mut bob = world.agent("bob").start("echo bob >>shared.txt && tell wrote; exit 0");
    bob.queues();
    let why = world.explain("shared.txt");
    assert!(why.contains("alice is not running: `agentctl apply alice`"), "{why}");
    world.apply("alice");
    bob.hears("wrote");
    bob.finish().exits(0);
    world.apply("bob");
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
}

fn the_wait_ends_at_its_deadline(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world.agent("bob").flags("--wait 2s").start(
        "echo bob >>shared.txt; echo $? >~/status; cat .agentfs/explain >~/why; tell refused; await end; exit 1",
    );
    let waiting = bob.queues();
    assert_eq!(waiting.deadline.expect("it has one").since(waiting.since), Duration::from_secs(2));
    assert_eq!(world.seen_by("bob", "shared.txt"), "one\n", "reading never waits");
    bob.hears("refused");
    assert_ne!(bob.kept("status").trim(), "0");
    let sentence = "bob was refused shared.txt (open for writing) with EBUSY after waiting 2s: alice (r1) has held shared.txt";
    assert!(bob.kept("why").contains(sentence), "{}", bob.kept("why"));
    let why = world.explain("shared.txt");
    assert!(why.contains(sentence), "{why}");
    assert!(world.queue().is_empty());
    bob.tells("end");
    let done = bob.finish().exits(1);
    assert!(done.err().contains("busy"), "the shell says it in words: {done}");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\n");
}

fn a_killed_waiter_is_gone_within_a_second(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    for (signal, status) in [("KILL", "137"), ("TERM", "143")] {
        let mut bob = world.agent("bob").start(&format!(
            "sh -c 'echo bob >>shared.txt' & waiter=$!
             await kill; kill -{signal} $waiter; wait $waiter; echo $? >~/status
             tell gone; await end; exit 1"
        ));
        bob.queues();
        bob.tells("kill");
        promptly("the killed process is gone", || bob.has_told("gone").then_some(()));
        assert_eq!(bob.kept("status").trim(), status, "SIG{signal}");
        promptly("its claim is gone", || world.queue().is_empty().then_some(()));
        let why = world.explain("shared.txt");
        assert!(why.contains("bob stopped waiting for shared.txt"), "{why}");
        bob.tells("end");
        bob.finish().exits(1);
        for file in ["told-gone", "go-kill", "go-end"] {
            let home = world.home_of("bob").expect("it has run");
            std::fs::remove_file(home.join(file)).expect("it was there");
        }
    }
    assert_eq!(world.seen_by("alice", "shared.txt"), "one\nalice\n", "the holder has not noticed");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\n");
}

fn a_run_that_waits_can_be_ended_from_outside(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    for (agent, signal, code) in [("bob", "TERM", 143), ("carol", "KILL", 137)] {
        let mut waiter = world.agent(agent).start("exec tee -a shared.txt");
        waiter.queues();
        waiter.signal(signal);
        waiter.finish().exits(code);
        promptly("its claim is gone", || world.queue().is_empty().then_some(()));
        let live = || world.runs().into_iter().filter(|run| run.ended.is_none()).count();
        eventually("its run has ended", || (live() == 1).then_some(()));
    }
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_deadlock_is_refused_at_once(world: &World) {
    let mut alice = world.agent("alice").start(
        "echo alice >src/a.txt; tell holds; await cross; echo alice >src/b.txt && tell wrote; exit 0",
    );
    let mut bob = world.agent("bob").start(
        "echo bob >src/b.txt; tell holds; await cross; echo bob >src/a.txt; echo $? >~/status; tell refused; await end; exit 0",
    );
    alice.hears("holds");
    bob.hears("holds");
    alice.tells("cross");
    alice.queues();
    bob.tells("cross");
    bob.hears("refused");
    assert_ne!(bob.kept("status").trim(), "0");
    let why = world.explain("src/a.txt");
    assert!(
        why.contains("bob was refused src/a.txt (open for writing) with EBUSY at once")
            && why.contains("a deadlock"),
        "{why}"
    );
    assert_eq!(world.queue().len(), 1, "alice waits on");
    bob.tells("end");
    let done = bob.finish().exits(0);
    assert!(done.err().contains("busy"), "{done}");
    alice.hears("wrote");
    alice.finish().exits(0);
    assert_eq!(world.base("src/a.txt"), "alice\n");
    assert_eq!(world.base("src/b.txt"), "alice\n");
}

fn a_directory_claim_holds_all_below_it(world: &World) {
    let mut alice =
        world.agent("alice").flags("--claim src/").start("tell holds; await end; exit 0");
    alice.hears("holds");
    let mut bob = world
        .agent("bob")
        .flags("--wait 30s")
        .start("echo bob >src/new.txt && echo free >shared.txt; exit 0");
    let waiting = bob.queues();
    assert_eq!(waiting.blockers[0].unit.to_string(), "src/");
    alice.tells("end");
    alice.finish().exits(0);
    bob.finish().exits(0);
    assert_eq!(world.base("src/new.txt"), "bob\n");
}

fn a_run_waits_for_its_claims_before_it_starts(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world.agent("bob").flags("--claim shared.txt").start("tell started; exit 0");
    bob.queues();
    assert!(!bob.has_told("started"));
    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("started");
    bob.finish().exits(0);

    let mut alice =
        world.agent("alice").flags("--claim src/").start("tell again; await enough; exit 0");
    alice.hears("again");
    let refused =
        world.agent("carol").flags("--claim src/a.txt --start-within 1s").run("echo never");
    let refused = refused.exits(125);
    assert!(refused.out().is_empty() && refused.err().contains("src/a.txt"), "{refused}");
    alice.tells("enough");
    alice.finish().exits(0);
}

fn units_are_claimed_and_released_by_hand(world: &World) {
    for agent in ["alice", "bob"] {
        world.agent(agent).run("true").exits(0);
    }
    let claimed = world.ctl("claim res:port-8080 src/ --agent alice").ok().out();
    assert!(claimed.contains("res:port-8080") && claimed.contains("src/"), "{claimed}");
    let units: Vec<String> = world.locks().iter().map(|lock| lock.unit.to_string()).collect();
    assert_eq!(units, ["src/", "res:port-8080"]);
    let late = world.ctl("claim res:port-8080 --agent bob --wait 1s").run().exits(5);
    assert!(late.err().starts_with("agentctl: bob was refused res:port-8080"), "{late}");
    assert!(late.err().contains("alice (r1) has held res:port-8080"), "{late}");

    let waiting = world.ctl("claim src/a.txt --agent bob --wait 30s").start();
    eventually("bob waits", || (world.queue().len() == 1).then_some(()));
    let released = world.ctl("release src/ --agent alice").ok().out();
    assert_eq!(released, "alice no longer holds src/\n");
    waiting.finish().exits(0);
    let holders: Vec<_> = world.locks().iter().map(|lock| lock.agent.to_string()).collect();
    assert_eq!(holders, ["bob", "alice"]);
    for shared in ["claim docs/ --shared --agent alice", "claim docs/ --shared --agent bob"] {
        world.ctl(shared).ok();
    }
    world.ctl("claim docs/link --agent bob --wait 1s").run().exits(5);
}
