//! Who gets what: shared and counted units, upgrades, what the operator takes and orders, and
//! waiting for a unit without wanting it.

use agentfs_api::types::AgentState;
use agentfs_tests::{World, eventually, in_both_worlds, promptly};

/// Takes `shared.txt` and keeps it until the test says `end`.
const HOLDER: &str = "echo alice >>shared.txt; tell holds; await end; exit 0";

in_both_worlds!(
    what_is_taken_from_a_live_agent_is_lost_to_nobody,
    a_unit_is_given_to_an_agent_by_name,
    a_claim_is_granted_by_taking_away,
    the_operator_orders_the_queue,
    what_is_shared_can_be_made_exclusive_when_the_others_are_gone,
    a_resource_has_as_many_holders_as_slots,
    a_run_writes_what_the_run_that_it_works_for_holds,
    a_deadlock_over_a_file_and_a_process_is_refused_at_once,
    a_directory_is_removed_when_nobody_holds_anything_in_it,
    what_does_not_exist_yet_can_be_held,
    a_unit_can_be_waited_for_without_wanting_it,
    the_journal_tells_of_locks_in_sentences,
);

fn what_is_taken_from_a_live_agent_is_lost_to_nobody(world: &World) {
    let mut alice = world.agent("alice").start(
        "echo alice >>shared.txt; tell holds; await more; echo more >>shared.txt; tell more
         await end; exit 0",
    );
    alice.hears("holds");
    let mut bob =
        world.agent("bob").start("echo bob >>shared.txt && tell wrote; await end; exit 0");
    bob.queues();
    let said = world.ctl("steal shared.txt").ok().out();
    assert!(
        said.starts_with("alice lost shared.txt, and what they have written is kept"),
        "{said}"
    );
    bob.hears("wrote");
    let [lock] = world.locks().try_into().expect("one lease");
    assert_eq!(lock.agent.as_str(), "bob");

    alice.tells("more");
    let waiting = alice.queues();
    assert_eq!(waiting.blockers[0].agent.as_str(), "bob");
    assert!(!alice.has_told("more"), "its next write waits");
    bob.tells("end");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nbob\n");
    alice.hears("more");
    alice.tells("end");
    let done = alice.finish().exits(0);
    assert!(done.err().contains("shared.txt"), "it is told of the conflict: {done}");
    assert_eq!(world.base("shared.txt"), "one\nbob\n", "nothing is overwritten");
    let [work] = world.recover().try_into().expect("alice's work is kept");
    assert_eq!((work.agent.as_str(), work.conflicts.len()), ("alice", 1));
    let diff = world.ctl("diff alice").ok().out();
    assert!(diff.contains("+alice") && diff.contains("+more"), "{diff}");
}

fn a_unit_is_given_to_an_agent_by_name(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world.agent("bob").start("tell here; await end; exit 0");
    bob.hears("here");
    world.ctl("steal shared.txt --to carol").run().refuses(3, &["carol", "alice, bob"]);
    let said = world.ctl("steal shared.txt --to bob").ok().out();
    assert!(said.ends_with("; bob holds shared.txt now\n"), "{said}");
    let [lock] = world.locks().try_into().expect("one lease");
    assert_eq!(lock.agent.as_str(), "bob");
    world.ctl("steal proc:nothing").run().refuses(3, &["nobody holds proc:nothing"]);
    bob.tells("end");
    bob.finish().exits(0);
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\n", "nobody else has changed it");
}

fn a_claim_is_granted_by_taking_away(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world.agent("bob").start("echo bob >>shared.txt && tell wrote; exit 0");
    let claim = bob.queues().claim;
    let held = world.ctl(&format!("grant {claim}")).run();
    held.refuses(4, &["alice holds shared.txt", &format!("`agentctl grant {claim} --steal`")]);
    let said = world.ctl(&format!("grant {claim} --steal")).ok().out();
    assert!(said.starts_with(&format!("{claim} is granted: alice lost shared.txt")), "{said}");
    bob.hears("wrote");
    bob.finish().exits(0);
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nbob\n");
    assert_eq!(world.recover().len(), 1);
}

fn the_operator_orders_the_queue(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let second = "echo $0 >>shared.txt && tell wrote; await end; exit 1";
    let mut bob = world.agent("bob").start(second);
    let bobs = bob.queues().claim;
    let mut carol = world.agent("carol").start(second);
    let carols = carol.queues().claim;
    let order = || world.queue().iter().map(|one| one.agent.to_string()).collect::<Vec<_>>();
    assert_eq!(order(), ["bob", "carol"]);
    world.ctl(&format!("queue --move {carols} --before {bobs}")).ok();
    assert_eq!(order(), ["carol", "bob"]);
    world.ctl(&format!("queue --move {bobs} --first")).ok();
    assert_eq!(order(), ["bob", "carol"]);
    let shown = world.ctl(&format!("queue --move {bobs} --last")).ok().out();
    assert!(shown.find("carol") < shown.find("bob"), "{shown}");
    alice.tells("end");
    alice.finish().exits(0);
    carol.hears("wrote");
    assert_eq!(order(), ["bob"]);
    assert!(!bob.has_told("wrote"));
    carol.tells("end");
    carol.finish().exits(1);
    world.ctl("discard carol --yes").ok();
    bob.hears("wrote");
    bob.tells("end");
    bob.finish().exits(1);
    let moved = world.log().into_iter().filter(|entry| entry.text.contains("moved bob's claim"));
    assert_eq!(moved.count(), 2, "{}", world.ctl("log").ok());
}

fn what_is_shared_can_be_made_exclusive_when_the_others_are_gone(world: &World) {
    let script = "agentctl claim docs --shared >&2; tell shares; await write
         sh -c 'echo mine >docs/x' 2>~/said; echo $? >~/status; tell tried; await end; exit 1";
    let mut alice = world.agent("alice").start(script);
    let mut bob = world.agent("bob").start(script);
    alice.hears("shares");
    bob.hears("shares");
    alice.tells("write");
    let waiting = alice.queues();
    assert_eq!(waiting.blockers[0].agent.as_str(), "bob");
    bob.tells("write");
    bob.hears("tried");
    assert!(bob.kept("said").contains("busy"), "both would wait for ever: {}", bob.kept("said"));
    assert!(!alice.has_told("tried"));
    world.ctl("release docs/ --agent bob").ok();
    alice.hears("tried");
    assert_eq!(alice.kept("status").trim(), "0", "{}", alice.kept("said"));
    for agent in [alice, bob] {
        agent.tells("end");
        agent.finish().exits(1);
    }
}

fn a_resource_has_as_many_holders_as_slots(world: &World) {
    world.configure("[resource.gpu]\nslots = 2\n");
    let script = "agentctl claim res:gpu >&2; tell has; await end; exit 0";
    let mut first = world.agent("first").start(script);
    first.hears("has");
    let mut second = world.agent("second").start(script);
    second.hears("has");
    let mut third = world.agent("third").start(script);
    let waiting = third.queues();
    let mut blockers: Vec<_> = waiting.blockers.iter().map(|b| b.agent.to_string()).collect();
    blockers.sort();
    assert_eq!(blockers, ["first", "second"]);
    assert_eq!(world.locks().len(), 2);
    second.tells("end");
    second.finish().exits(0);
    third.hears("has");
    for agent in [first, third] {
        agent.tells("end");
        agent.finish().exits(0);
    }
    assert!(world.locks().is_empty());
}

fn a_run_writes_what_the_run_that_it_works_for_holds(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let helper = world.agent("helper").flags("--parent r1").run("echo helper >>shared.txt");
    let done = helper.exits(0);
    assert!(!done.err().contains("waited:"), "{done}");
    assert_eq!(world.base("shared.txt"), "one\nhelper\n");
    let other = world.agent("other").flags("--wait 300ms").run("echo x >>shared.txt || exit 3");
    assert!(other.exits(3).err().contains("busy"), "only for whom it works");
    let refused = world.agent("late").flags("--parent r2").run("true").exits(125);
    assert!(refused.err().contains("r2 is not running"), "{refused}");
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_deadlock_over_a_file_and_a_process_is_refused_at_once(world: &World) {
    let mut alice = world.agent("alice").start(
        "echo alice >src/a.txt; tell holds; await cross; agentctl claim proc:build >&2 && tell got
         exit 0",
    );
    let mut bob = world.agent("bob").start(
        "agentctl claim proc:build >&2; tell holds; await cross
         sh -c 'echo bob >src/a.txt' 2>~/said; tell tried; await end; exit 0",
    );
    alice.hears("holds");
    bob.hears("holds");
    alice.tells("cross");
    alice.queues();
    bob.tells("cross");
    bob.hears("tried");
    assert!(bob.kept("said").contains("busy"), "{}", bob.kept("said"));
    let why = world.explain("src/a.txt");
    assert!(why.contains("bob would wait for alice, who waits for bob, a deadlock"), "{why}");
    bob.tells("end");
    bob.finish().exits(0);
    alice.hears("got");
    alice.finish().exits(0);
    assert_eq!(world.base("src/a.txt"), "alice\n");
}

fn a_directory_is_removed_when_nobody_holds_anything_in_it(world: &World) {
    world.sh("mkdir empty").ok();
    let mut alice = world.agent("alice").start(
        "echo x >empty/new && rm empty/new && echo x >src/c.txt; tell holds; await end; exit 1",
    );
    alice.hears("holds");
    world.ctl("claim empty/new --agent alice").ok();
    let mut bob =
        world.agent("bob").start("rmdir empty && tell first; rm -r src && tell second; exit 0");
    let waiting = bob.queues();
    assert_eq!(waiting.wants[0].to_string(), "empty/");
    assert_eq!(waiting.blockers[0].unit.to_string(), "empty/new");
    world.ctl("release empty/new --agent alice").ok();
    bob.hears("first");
    let waiting = bob.queues();
    assert_eq!(waiting.blockers[0].unit.to_string(), "src/c.txt");
    alice.tells("end");
    alice.finish().exits(1);
    world.ctl("discard alice --yes").ok();
    bob.hears("second");
    bob.finish().exits(0);
    assert!(!world.repo().join("src").exists() && !world.repo().join("empty").exists());
}

fn what_does_not_exist_yet_can_be_held(world: &World) {
    let mut alice = world.agent("alice").flags("--claim made/later.txt --claim fresh/").start(
        "tell holds; await make; mkdir made fresh && echo alice >made/later.txt &&
         echo alice >fresh/x && tell made; await end; exit 0",
    );
    alice.hears("holds");
    let mut bob = world.agent("bob").start(
        "mkdir -p made && echo bob >made/other.txt && tell free
         echo bob >>made/later.txt; tell late; exit 1",
    );
    bob.hears("free");
    let waiting = bob.queues();
    assert_eq!(waiting.wants[0].to_string(), "made/later.txt");
    let busy = world.ctl("claim fresh/y --wait 100ms").run().exits(5);
    assert!(busy.err().contains("has held fresh/"), "{busy}");
    alice.tells("make");
    alice.hears("made");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("made/later.txt"), "alice\n");
    bob.hears("late");
    bob.finish().exits(1);
}

fn a_unit_can_be_waited_for_without_wanting_it(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let free = world.ctl("wait docs/").ok().out();
    assert!(free.starts_with("docs/ is free"), "{free}");
    let late = world.ctl("wait shared.txt --timeout 300ms").run();
    late.refuses(5, &["shared.txt is not free after 3", "alice (r1) has held shared.txt"]);

    let outside = world.ctl("wait shared.txt --timeout 2m").start();
    let gone = world.ctl("wait ./").start();
    let mut bob = world.agent("bob").start(
        "echo bob >src/a.txt; tell waits; agentctl wait ./ --timeout 2m >~/said && tell free
         await end; exit 0",
    );
    bob.hears("waits");
    gone.signal("KILL");
    gone.finish().exits(137);
    assert!(world.queue().is_empty(), "it claims nothing");
    assert!(!bob.has_told("free"));
    alice.tells("end");
    alice.finish().exits(0);
    outside.finish().exits(0);
    bob.hears("free");
    assert!(bob.kept("said").starts_with("./ is free"), "its own do not count");
    world.ctl("wait ./ --timeout 100ms").run().exits(5);
    bob.tells("end");
    bob.finish().exits(0);
}

fn the_journal_tells_of_locks_in_sentences(world: &World) {
    let mut alice = world.agent("alice").start(HOLDER);
    alice.hears("holds");
    let mut bob = world
        .agent("bob")
        .flags("--wait 1s")
        .start("sh -c 'echo bob >>shared.txt' 2>/dev/null; tell late; await end; exit 1");
    bob.queues();
    let state = world.agents().into_iter().find(|agent| agent.name.as_str() == "bob");
    assert_eq!(state.map(|agent| agent.state), Some(AgentState::Waiting));
    bob.hears("late");
    let unit = "shared.txt".parse().expect("a unit");
    let about = eventually("the journal has it", || {
        let log = world.log();
        let about: Vec<_> = log.into_iter().filter(|entry| entry.units.contains(&unit)).collect();
        about.iter().any(|entry| entry.text.contains("EBUSY")).then_some(about)
    });
    let said = |who: &str, words: &str| {
        let found = about.iter().any(|entry| {
            entry.agent.as_ref().is_some_and(|agent| agent.as_str() == who)
                && entry.text.contains(words)
        });
        assert!(found, "{who}: {words:?} is missing: {about:#?}");
    };
    said("alice", "alice holds shared.txt (exclusive, #");
    said("bob", "bob waits for shared.txt (open for writing): alice (r1) has held shared.txt for");
    said("bob", "bob was refused shared.txt (open for writing) with EBUSY after waiting 1s");
    alice.tells("end");
    alice.finish().exits(0);
    promptly("it is free", || world.locks().is_empty().then_some(()));
    let lines = world.ctl("log -n 400").ok().out();
    assert!(lines.contains("shared.txt is free again, alice had it: its changes were applied"));
    bob.tells("end");
    bob.finish().exits(1);
}
