//! Runs that wait before they start: for their plan's units, their turn, other runs.

use agentfs_api::types::{AgentState, Outcome};
use agentfs_tests::{World, eventually, in_both_worlds, promptly};

/// Takes `shared.txt` and keeps it until the test says `end`.
const HOLDER: &str = "echo alice >>shared.txt; tell holds; await end; exit 0";

const PLAN: &str = "steps:
- name: code
  needs: [src/a.txt, shared.txt]
- name: look
  needs: [shared docs/, \"res:db\"]
";

in_both_worlds!(
    a_plan_is_had_as_a_whole_or_not_at_all,
    a_plan_is_checked_before_and_compared_afterwards,
    a_run_that_waits_too_long_to_start_says_so,
    a_run_that_is_ended_while_it_waits_leaves_the_queue,
    no_more_runs_are_alive_than_may_be,
    a_run_of_high_priority_goes_first,
    the_operator_says_whose_turn_is_next,
    a_run_starts_after_another,
    a_run_starts_only_after_success,
    a_run_that_waits_outlives_the_daemon,
    the_operator_starts_or_refuses_a_run_that_waits,
);

fn write_plan(world: &World) {
    world.cmd(["tee", "../plan.yaml"]).stdin(PLAN).ok();
}

fn a_plan_is_had_as_a_whole_or_not_at_all(world: &World) {
    write_plan(world);
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world
        .agent("bob")
        .flags("--plan ../plan.yaml")
        .start("tell started; cat shared.txt >~/seen; await end; exit 0");
    let waiting = bob.queues();
    assert_eq!(waiting.wants.len(), 4, "{waiting:?}");
    assert!(waiting.deadline.is_none() && waiting.process.is_some());
    assert!(world.locks().iter().all(|lock| lock.agent.as_str() == "alice"), "all or nothing");
    eventually("it is said why", || {
        let said = "agentshim: bob (r2) waits to start, number 1 in line: alice (r1) has held";
        bob.stderr().contains(said).then_some(())
    });
    let queued = world.runs().into_iter().find(|run| run.queued).expect("it is shown");
    assert_eq!((queued.agent.as_str(), queued.ended), ("bob", None));
    let runs = world.ctl("runs").ok().out();
    assert!(runs.contains("queued"), "{runs}");
    let state = world.agents().into_iter().find(|agent| agent.name.as_str() == "bob");
    assert_eq!(state.map(|agent| agent.state), Some(AgentState::Queued));

    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("started");
    let held: Vec<String> = world.locks().iter().map(|lock| lock.unit.to_string()).collect();
    assert_eq!(held, ["shared.txt", "src/a.txt", "docs/", "res:db"]);
    bob.tells("end");
    let home = bob.home();
    bob.finish().exits(0);
    let seen = std::fs::read_to_string(home.join("seen")).expect("it was kept");
    assert_eq!(seen, "one\nalice\n", "it begins at the newest version");
    assert!(world.locks().is_empty());
}

fn a_plan_is_checked_before_and_compared_afterwards(world: &World) {
    write_plan(world);
    let fits = world.ctl("plan check ../plan.yaml").ok().out();
    assert!(fits.contains("(4 units) would start now"), "nobody has ever run: {fits}");
    assert!(world.states().is_empty(), "and no daemon was started for it");
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let waits = world.ctl("plan check ../plan.yaml --agent bob").run().exits(8);
    let row = waits.out().lines().find(|line| line.starts_with("shared.txt")).map(str::to_owned);
    let row = row.unwrap_or_else(|| panic!("{waits}"));
    assert!(row.contains("code") && row.contains("alice holds shared.txt"), "{row}");
    assert!(row.contains("`agentctl apply alice`"), "{row}");
    let own = world.ctl("plan check ../plan.yaml --agent alice").run().exits(8);
    assert!(own.out().contains("starts after alice (r1)"), "it runs already: {own}");
    alice.tells("end");
    alice.finish().exits(0);
    world.ctl("plan check ../plan.yaml --agent alice").ok();
    let inside =
        format!("echo mine >shared.txt; printf '{PLAN}' >~/plan; agentctl plan check ~/plan");
    world.agent("alice").run(&inside).exits(0);

    let bob = world.agent("bob").flags("--plan ../plan.yaml");
    bob.run("echo bob >src/a.txt; echo bob >src/b.txt").exits(0);
    let shown = world.ctl("plan show r3").ok().out();
    assert!(shown.starts_with("r3 of bob used 1 of the 4 units"), "{shown}");
    for row in
        ["code  src/a.txt     used", "code  shared.txt    unused", "look  res:db        unused"]
    {
        assert!(shown.contains(row), "{row:?} is missing:\n{shown}");
    }
    assert!(shown.ends_with("touched without a plan: src/b.txt\n"), "{shown}");
    let none = world.ctl("plan show r1").ok().out();
    assert_eq!(none, "r1 of alice has declared no plan\ntouched: shared.txt\n");
    world.configure("[[policy]]\nunits = [\"docs/\", \"/src/\"]\naccess = \"read-only\"\n");
    let barred = world.ctl("plan check ../plan.yaml").run().exits(8);
    assert!(barred.out().contains("src/a.txt") && barred.out().contains("EROFS"), "{barred}");
    assert!(!barred.out().contains("docs/"), "it is only read: {barred}");
    let bob = world.agent("bob").flags("--plan ../plan.yaml").run("true").exits(125);
    assert!(bob.err().contains("read-only"), "{bob}");
}

fn a_run_that_waits_too_long_to_start_says_so(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let bob = world.agent("bob").flags("--claim shared.txt --start-within 1s --quiet");
    bob.run("echo never").refuses(125, &["shared.txt", "after waiting 1s", "alice (r1)"]);
    assert!(world.queue().is_empty());
    assert!(world.runs().iter().all(|run| run.agent.as_str() == "alice"));
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_run_that_is_ended_while_it_waits_leaves_the_queue(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    for (signal, code) in [("INT", 130), ("KILL", 137)] {
        let mut bob = world.agent("bob").flags("--claim shared.txt").start("echo never");
        bob.queues();
        bob.signal(signal);
        promptly("it has left the queue", || world.queue().is_empty().then_some(()));
        let done = bob.finish().exits(code);
        assert!(!done.out().contains("never"), "{done}");
        let why = world.explain("shared.txt");
        assert!(why.contains("bob stopped waiting for r"), "{why}");
    }
    alice.tells("end");
    alice.finish().exits(0);
}

fn no_more_runs_are_alive_than_may_be(world: &World) {
    world.configure("max_parallel = 1\n");
    let mut alice = world.agent("alice").start("tell started; await end; exit 0");
    alice.hears("started");
    let mut bob = world.agent("bob").start("tell started; await end; exit 0");
    let waiting = bob.queues();
    assert!(waiting.wants.is_empty() && waiting.blockers.is_empty(), "{waiting:?}");
    assert_eq!(waiting.why.len(), 1, "{waiting:?}");
    assert!(waiting.why[0].contains("max_parallel = 1"), "{waiting:?}");
    let table = world.ctl("queue").ok().out();
    assert!(table.contains("to start") && table.contains("its turn"), "{table}");
    let mut carol = world.agent("carol").start("tell started; await end; exit 0");
    assert_eq!((waiting.position, carol.queues().position), (1, 2));
    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("started");
    assert!(!carol.has_told("started"), "one at a time, in the order in which they came");
    bob.tells("end");
    bob.finish().exits(0);
    carol.hears("started");
    carol.tells("end");
    carol.finish().exits(0);
}

fn a_run_of_high_priority_goes_first(world: &World) {
    world.configure("max_parallel = 1\n");
    let mut alice = world.agent("alice").start("tell started; await end; exit 0");
    alice.hears("started");
    let mut bob = world.agent("bob").start("tell started; exit 0");
    bob.queues();
    let mut carol = world.agent("carol").flags("--priority high").start("tell started; await end");
    carol.queues();
    let order: Vec<String> = world.queue().iter().map(|one| one.agent.to_string()).collect();
    assert_eq!(order, ["carol", "bob"]);
    let why = world.ctl("queue --why").ok().out();
    assert!(why.contains("priority high"), "{why}");
    alice.tells("end");
    alice.finish().exits(0);
    carol.hears("started");
    assert!(!bob.has_told("started"));
    carol.tells("end");
    carol.finish().exits(0);
    bob.hears("started");
    bob.finish().exits(0);
}

fn the_operator_says_whose_turn_is_next(world: &World) {
    world.configure("max_parallel = 1\n");
    let mut alice = world.agent("alice").start("tell started; await end; exit 0");
    alice.hears("started");
    let mut bob = world.agent("bob").start("tell started; exit 0");
    bob.queues();
    let mut carol = world.agent("carol").start("tell started; await end; exit 0");
    let carols = carol.queues().claim;
    world.ctl(&format!("queue --move {carols} --first")).ok();
    alice.tells("end");
    alice.finish().exits(0);
    carol.hears("started");
    assert!(!bob.has_told("started"));
    carol.tells("end");
    carol.finish().exits(0);
    bob.hears("started");
    bob.finish().exits(0);
}

fn a_run_starts_after_another(world: &World) {
    let mut alice =
        world.agent("alice").start("echo alice >src/a.txt; tell wrote; await end; exit 0");
    alice.hears("wrote");
    let mut bob = world.agent("bob").flags("--after r1").start("cat src/a.txt; exit 0");
    let waiting = bob.queues();
    assert!(waiting.why[0].contains("it starts after alice (r1)"), "{waiting:?}");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(bob.finish().exits(0).out(), "alice\n", "with what that one has applied");
    world.agent("bob").flags("--after r1").run("true").exits(0);
    let unknown = world.agent("bob").flags("--after r99").run("true").exits(125);
    assert!(unknown.err().contains("there is no run r99"), "{unknown}");
}

fn a_run_starts_only_after_success(world: &World) {
    let mut alice = world.agent("alice").start("tell started; await end; exit 3");
    alice.hears("started");
    let mut bob = world.agent("bob").flags("--after-success r1").start("echo never");
    bob.queues();
    alice.tells("end");
    alice.finish().exits(3);
    let done = bob.finish().exits(125);
    assert!(done.out().is_empty(), "{done}");
    assert!(done.err().contains("r1 had to succeed first"), "{done}");
    let refused = world.agent("bob").flags("--after-success r1 --quiet").run("echo never");
    refused.refuses(125, &["r1 did not succeed"]);
    world.agent("carol").run("true").exits(0);
    let good = world.runs().into_iter().find(|run| run.agent.as_str() == "carol");
    let flag = format!("--after-success {}", good.expect("carol ran").id);
    world.agent("bob").flags(&flag).run("true").exits(0);
}

fn a_run_that_waits_outlives_the_daemon(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world
        .agent("bob")
        .flags("--claim shared.txt")
        .start("cat shared.txt; echo bob >>shared.txt; exit 0");
    let first = bob.queues();
    eventually("it is said why", || bob.stderr().contains("waits to start").then_some(()));
    let pid = world.status().pid;
    world.signal(pid, "KILL");
    let again = eventually("it stands in line again", || {
        let own = world.queue().into_iter().find(|one| one.agent.as_str() == "bob")?;
        (own.claim != first.claim).then_some(own)
    });
    assert_eq!(again.process, first.process, "the same shim");
    alice.tells("end");
    alice.finish().exits(0);
    let done = bob.finish().exits(0);
    assert_eq!(done.out(), "one\nalice\n", "{done}");
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
}

fn the_operator_starts_or_refuses_a_run_that_waits(world: &World) {
    world.configure("max_parallel = 1\n");
    let mut alice = world.agent("alice").start("tell started; await end; exit 0");
    alice.hears("started");
    let mut bob = world.agent("bob").start("tell started; exit 0");
    let bobs = bob.queues().claim;
    let mut carol = world.agent("carol").start("echo never");
    let carols = carol.queues().claim;
    world.ctl(&format!("refuse {carols} --because enough")).ok();
    let done = carol.finish().exits(125);
    assert!(done.err().contains("by the operator: enough"), "{done}");
    world.ctl(&format!("grant {bobs}")).ok();
    bob.hears("started");
    bob.finish().exits(0);
    let run = world.runs().into_iter().find(|run| run.agent.as_str() == "bob").expect("it ran");
    assert!(matches!(run.outcome, Some(Outcome::Nothing)), "{run:?}");
    alice.tells("end");
    alice.finish().exits(0);
}
