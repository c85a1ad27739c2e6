//! The radar: who has built on what others have changed since; and `isolation = "serializable"`,
//! under which that is not applied.

use agentfs_api::types::{Outcome, ReadChange, StaleRead};
use agentfs_tests::{World, in_both_worlds, promptly};

in_both_worlds!(
    a_stale_read_is_told_with_who_changed_it_and_since_which_version,
    what_another_is_changing_is_told_before_it_is_applied,
    a_change_by_hand_is_told_as_one,
    what_was_read_again_is_not_stale,
    a_serializable_apply_is_refused_for_what_was_only_read,
    the_daemon_s_death_does_not_forget_what_was_read,
    a_live_radar_tells_each_stale_read_once,
    an_agent_sees_its_own_stale_reads_alone,
);

fn radar(world: &World) -> Vec<StaleRead> {
    world.ctl("radar --json").json()
}

/// The radar when it shows something.
fn shown(world: &World) -> Vec<StaleRead> {
    promptly("the radar shows something", || {
        let stale = radar(world);
        (!stale.is_empty()).then_some(stale)
    })
}

fn bob_applies(world: &World, what: &str) {
    world.agent("bob").run(&format!("cat {what} >/dev/null; echo bob >>{what}; exit 0")).exits(0);
}

fn a_stale_read_is_told_with_who_changed_it_and_since_which_version(world: &World) {
    let mut alice =
        world.agent("alice").start("cat src/a.txt src/b.txt; tell read; await end; exit 0");
    alice.hears("read");
    assert_eq!(radar(world), []);
    bob_applies(world, "src/a.txt");
    let [stale] = shown(world).try_into().expect("one stale read");
    assert_eq!((stale.agent.as_str(), stale.path.to_string().as_str()), ("alice", "src/a.txt"));
    let ReadChange::Applied { by, version } = &stale.change else { panic!("{stale:?}") };
    assert_eq!((by.as_str(), version.0, stale.read.0), ("bob", 1, 0));
    assert!(stale.since.is_some() && stale.read_at < stale.since.expect("it has a time"));
    let table = world.ctl("radar").ok().out();
    assert!(table.contains("bob has applied v1"), "{table}");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(radar(world), [], "alice has changed nothing that could rest on it");
}

fn what_another_is_changing_is_told_before_it_is_applied(world: &World) {
    let mut alice = world.agent("alice").start("cat src/a.txt; tell read; await end; exit 0");
    alice.hears("read");
    let mut bob = world.agent("bob").start("echo more >>src/a.txt; tell wrote; await end; exit 1");
    bob.hears("wrote");
    let [stale] = shown(world).try_into().expect("one stale read");
    let ReadChange::Underway { by } = &stale.change else { panic!("{stale:?}") };
    assert_eq!(by.as_str(), "bob");
    assert!(stale.text.contains("bob is changing it"), "{stale:?}");
    for agent in [&mut alice, &mut bob] {
        agent.tells("end");
    }
    alice.finish().exits(0);
    bob.finish().exits(1);
}

fn a_change_by_hand_is_told_as_one(world: &World) {
    let mut alice = world.agent("alice").start("cat src/a.txt; tell read; await end; exit 0");
    alice.hears("read");
    world.sh("echo by hand >>src/a.txt").ok();
    let [stale] = shown(world).try_into().expect("one stale read");
    assert_eq!(stale.change, ReadChange::ByHand);
    alice.tells("end");
    alice.finish().exits(0);
}

fn what_was_read_again_is_not_stale(world: &World) {
    let mut alice = world.agent("alice").start(
        "cat src/a.txt; tell read; await sync; agentctl sync >/dev/null; cat src/a.txt
         tell again; await end; exit 0",
    );
    alice.hears("read");
    bob_applies(world, "src/a.txt");
    assert_eq!(shown(world).len(), 1);
    alice.tells("sync");
    alice.hears("again");
    promptly("nothing is stale", || radar(world).is_empty().then_some(()));
    alice.tells("end");
    alice.finish().exits(0);
}

/// Write skew: each reads what the other writes, and both could be applied without a conflict.
fn a_serializable_apply_is_refused_for_what_was_only_read(world: &World) {
    world.configure("isolation = \"serializable\"\n");
    let skew = |reads: &str, writes: &str| {
        format!("cat {reads}; tell read; await write; echo x >>{writes}; exit 0")
    };
    let mut alice = world.agent("alice").start(&skew("src/a.txt", "src/b.txt"));
    let mut bob = world.agent("bob").start(&skew("src/b.txt", "src/a.txt"));
    for agent in [&mut alice, &mut bob] {
        agent.hears("read");
        agent.tells("write");
    }
    bob.finish().exits(0);
    let done = alice.finish().exits(0);
    let first =
        world.runs().into_iter().filter(|run| matches!(run.outcome, Some(Outcome::Applied { .. })));
    assert_eq!(first.count(), 1, "one of the two: {done}");
    let pending = world.runs().into_iter().find_map(|run| match run.outcome {
        Some(Outcome::Pending { why }) => Some((run.agent, why)),
        _ => None,
    });
    let (loser, why) = pending.expect("the other one waits");
    assert!(why.contains("serializable") && why.contains("has applied v1"), "{why}");
    let refused = world.ctl(&format!("apply {loser}")).run();
    assert!(refused.code() != 0 && refused.err().contains("--stale"), "{refused}");
    let settled = world.ctl(&format!("apply {loser} --stale")).ok().out();
    assert!(settled.contains("v2"), "{settled}");
}

fn the_daemon_s_death_does_not_forget_what_was_read(world: &World) {
    world.configure("isolation = \"serializable\"\n");
    let mut alice = world.agent("alice").start(
        "cat src/a.txt; tell read; await write
         until cd \"$PWD\" && echo x >new; do sleep 0.1; done 2>/dev/null; exit 0",
    );
    alice.hears("read");
    // Journaled within a second, and asking for the radar does so at once.
    assert_eq!(radar(world), []);
    let killed = world.status().pid;
    world.signal(killed, "KILL");
    promptly("another daemon serves", || {
        let locks = world.ctl("locks").run();
        (locks.code() == 0 && world.status().pid != killed).then_some(())
    });
    bob_applies(world, "src/a.txt");
    alice.tells("write");
    let done = alice.finish().exits(0);
    assert!(done.err().contains("serializable"), "{done}");
}

fn a_live_radar_tells_each_stale_read_once(world: &World) {
    let mut alice = world.agent("alice").start("cat src/a.txt; tell read; await end; exit 0");
    alice.hears("read");
    bob_applies(world, "src/a.txt");
    let told = world.sh("timeout 3.5 agentctl radar -f").run();
    assert_eq!(told.out().lines().count(), 1, "{told}");
    assert!(told.out().contains("alice built on src/a.txt at v0"), "{told}");
    alice.tells("end");
    alice.finish().exits(0);
}

fn an_agent_sees_its_own_stale_reads_alone(world: &World) {
    let mut alice = world.agent("alice").start("cat src/a.txt; tell read; await end; exit 0");
    alice.hears("read");
    let mut carol = world.agent("carol").start(
        "cat src/b.txt; tell read; await look; agentctl radar >~/radar; tell looked; exit 0",
    );
    carol.hears("read");
    bob_applies(world, "src/a.txt");
    bob_applies(world, "src/b.txt");
    carol.tells("look");
    carol.hears("looked");
    let seen = std::fs::read_to_string(carol.home().join("radar")).expect("it has looked");
    assert!(seen.contains("src/b.txt") && !seen.contains("src/a.txt"), "{seen}");
    alice.tells("end");
    alice.finish().exits(0);
    carol.finish().exits(0);
}
