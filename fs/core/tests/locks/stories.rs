//! Short histories that once went wrong.

use crate::support::{claim, end_run, name, policy, run_of, secs, start, unit};
use agentfs_core::locks::Priority;
use agentfs_core::machine::{
    After, ClaimEnd, Command, Event, Line, Machine, Policy, Rejection, Reply, RunRequest, Settings,
};
use agentfs_core::{ClaimId, RunId, Timestamp};

#[derive(Default)]
struct Story {
    machine: Machine,
    now: u64,
    events: Vec<Event>,
}

impl Story {
    fn with(agents: &[&str]) -> Self {
        let mut story = Self::default();
        for agent in agents {
            story.does(start(run_of(agent, "")));
        }
        story
    }

    fn tries(&mut self, command: Command) -> Result<Reply, Rejection> {
        let (reply, events) = self.machine.apply(command, Timestamp(self.now * 1_000))?;
        self.events = events;
        Ok(reply)
    }

    fn does(&mut self, command: Command) -> Reply {
        self.tries(command).expect("it makes sense")
    }

    fn claims(&mut self, agent: &str, wanted: &str) -> Reply {
        self.does(claim(agent, wanted))
    }

    fn starts(&mut self, agent: &str, priority: Priority) {
        self.does(start(RunRequest { policy: policy(priority), ..run_of(agent, "") }));
    }

    fn slots(&mut self, slots: usize) {
        let slots = [(unit("res:s"), slots)].into();
        self.does(Command::Configure(Settings { slots, ..Settings::default() }));
    }

    fn at_most(&mut self, most: usize) {
        let max_parallel = Some(most);
        self.does(Command::Configure(Settings { max_parallel, ..Settings::default() }));
    }

    fn held(&self) -> Vec<String> {
        let leases = self.machine.state().locks.leases();
        leases.map(|lease| format!("{} {}", lease.agent, lease.unit)).collect()
    }

    fn queue(&self) -> Vec<u64> {
        self.machine.state().locks.queue().map(|claim| claim.id.0).collect()
    }

    fn told(&self, end: ClaimEnd) -> Vec<u64> {
        let ended = self.events.iter().filter_map(|event| match event {
            Event::ClaimEnded { claim, end: how, .. } if *how == end => Some(claim.0),
            _ => None,
        });
        ended.collect()
    }
}

const WAITS: fn(u64) -> Reply = |id| Reply::Waiting(ClaimId(id));

#[test]
fn whoever_nobody_is_ahead_of_does_not_wait() {
    let mut s = Story::default();
    s.starts("a", Priority::Normal);
    s.starts("b", Priority::Normal);
    s.starts("c", Priority::Low);
    s.claims("a", "d/a");
    assert_eq!(s.claims("c", "d/"), WAITS(1));
    assert_eq!(s.claims("b", "d/b"), Reply::Granted, "c's claim is behind hers");
}

#[test]
fn a_newcomer_s_priority_ties_no_knot() {
    let mut s = Story::with(&["b", "c", "d"]);
    s.starts("a", Priority::High);
    s.claims("b", "proc:z");
    s.claims("c", "proc:x");
    s.claims("d", "proc:y");
    s.claims("d", "proc:z");
    assert_eq!(s.claims("b", "proc:x"), WAITS(2));
    // Ahead of b's claim, and waiting for d, who waits for b.
    assert_eq!(s.claims("a", "proc:x, proc:y"), WAITS(3));
    assert_eq!(s.told(ClaimEnd::Deadlock), [2]);
}

#[test]
fn what_is_granted_beside_a_wait_ties_no_knot() {
    let mut s = Story::with(&["b", "d"]);
    s.starts("a", Priority::High);
    s.claims("b", "proc:y");
    s.claims("d", "proc:z");
    assert_eq!(s.claims("a", "proc:y"), WAITS(1));
    assert_eq!(s.claims("b", "proc:x, proc:z"), WAITS(2));
    assert_eq!(s.claims("a", "proc:x"), Reply::Granted, "ahead of b by priority");
    assert_eq!(s.told(ClaimEnd::Deadlock), [2]);
}

#[test]
fn what_is_stolen_for_somebody_ties_no_knot() {
    let mut s = Story::with(&["a", "b", "c"]);
    s.claims("b", "proc:y");
    s.claims("c", "proc:x");
    s.claims("a", "proc:y");
    s.claims("b", "proc:x");
    s.does(Command::Steal { unit: unit("proc:x"), to: Some(name("a")) });
    assert_eq!(s.told(ClaimEnd::Deadlock), [2]);
}

#[test]
fn more_slots_wake_those_who_wait() {
    let mut s = Story::with(&["a", "b"]);
    s.slots(1);
    s.claims("a", "res:s");
    assert_eq!(s.claims("b", "res:s"), WAITS(1));
    s.slots(2);
    assert_eq!(s.held(), ["a res:s", "b res:s"]);
}

#[test]
fn an_agent_takes_one_slot_however_often_it_wants_it() {
    let mut s = Story::with(&["a", "b", "c"]);
    s.slots(2);
    s.claims("a", "res:s");
    s.claims("b", "d/a");
    assert_eq!(s.claims("a", "res:s, d/a"), WAITS(1));
    assert_eq!(s.claims("c", "res:s"), Reply::Granted);
}

#[test]
fn a_grant_by_force_takes_no_more_slots_than_it_needs() {
    let mut s = Story::with(&["a", "b", "c"]);
    s.slots(2);
    s.claims("a", "shared res:s");
    s.claims("b", "shared res:s");
    assert_eq!(s.claims("c", "shared res:s"), WAITS(1));
    s.does(Command::Grant { claim: ClaimId(1), steal: true });
    assert_eq!(s.held(), ["a res:s", "c res:s"]);
}

#[test]
fn a_claim_is_moved_right_ahead_of_another_where_ranks_are_equal() {
    let mut s = Story::with(&["a", "b", "c", "d", "e"]);
    s.claims("a", "x");
    for agent in ["b", "c", "d", "e"] {
        s.claims(agent, "x");
    }
    let moved = |claim, to| Command::MoveClaim { claim: ClaimId(claim), to };
    s.does(moved(4, Line::Before(ClaimId(2))));
    assert_eq!(s.queue(), [1, 4, 2, 3]);
    s.does(moved(1, Line::Before(ClaimId(3))));
    assert_eq!(s.queue(), [4, 2, 1, 3]);
    s.does(moved(3, Line::Before(ClaimId(3))));
    s.does(moved(2, Line::First));
    assert_eq!(s.queue(), [2, 4, 1, 3]);
    s.does(moved(2, Line::Last));
    assert_eq!(s.queue(), [4, 1, 3, 2]);
}

#[test]
fn a_run_that_waits_for_units_leaves_its_room_and_not_its_place() {
    let mut s = Story::with(&["a"]);
    s.at_most(2);
    s.claims("a", "x");
    assert_eq!(s.does(start(run_of("b", "x"))), WAITS(1));
    assert!(matches!(s.does(start(run_of("c", ""))), Reply::Started(..)), "there is room");
    assert_eq!(s.does(start(run_of("d", ""))), WAITS(2));
    s.does(Command::Release { agent: name("a"), unit: unit("x") });
    assert_eq!((s.held().len(), s.queue()), (0, vec![1, 2]), "the room is taken");
    s.does(end_run(RunId(3), 0, 0));
    assert_eq!((s.held(), s.queue()), (vec!["b x".to_owned()], vec![2]), "b came first");
}

#[test]
fn a_run_that_loses_its_turn_is_in_nobody_s_way() {
    let mut s = Story::with(&["a"]);
    s.at_most(2);
    s.claims("a", "x");
    assert_eq!(s.does(start(run_of("b", "x, y"))), WAITS(1));
    assert_eq!(s.claims("c", "y"), WAITS(2));
    s.at_most(1);
    assert_eq!(s.held(), ["a x", "c y"]);
}

#[test]
fn a_run_whose_turn_it_is_not_waits_for_nobody() {
    let mut s = Story::with(&["a", "b"]);
    s.claims("a", "x");
    s.claims("b", "y");
    s.claims("b", "x");
    let after = vec![After { run: RunId(1), succeeded: false }];
    let next = s.does(start(RunRequest { after, ..run_of("a", "y") }));
    assert_eq!(next, WAITS(2), "it starts when a has let go of x");
}

#[test]
fn what_never_started_has_not_succeeded() {
    let mut s = Story::with(&["a"]);
    let after = |run, agent, succeeded| {
        let after = vec![After { run: RunId(run), succeeded }];
        start(RunRequest { after, ..run_of(agent, "") })
    };
    s.does(after(1, "b", true));
    s.does(after(2, "c", true));
    s.does(after(3, "d", false));
    s.does(end_run(RunId(1), 0, 1));
    assert_eq!(s.told(ClaimEnd::Impossible), [1, 2]);
    assert!(s.machine.state().live_run_of(&name("d")).is_some(), "it was to be after c's only");
}

fn part_of(run: u64, agent: &str, wanted: &str) -> Command {
    start(RunRequest { parent: Some(RunId(run)), ..run_of(agent, wanted) })
}

#[test]
fn a_run_begins_with_what_the_one_that_it_works_for_holds() {
    let mut s = Story::with(&["a", "b"]);
    s.claims("a", "x");
    assert!(matches!(s.does(part_of(1, "c", "x")), Reply::Started(..)));
    s.claims("b", "y");
    s.does(part_of(1, "d", "x/z, y"));
    s.does(Command::Release { agent: name("b"), unit: unit("y") });
    assert!(s.machine.state().live_run_of(&name("d")).is_some());
}

#[test]
fn who_works_for_whom_is_never_a_circle() {
    let mut s = Story::with(&["a"]);
    s.does(part_of(1, "b", ""));
    s.does(end_run(RunId(1), 0, 0));
    s.does(part_of(2, "a", ""));
    let locks = &s.machine.state().locks;
    assert!(locks.works_for(&name("b"), &name("a")) && !locks.works_for(&name("a"), &name("b")));
    assert!(!locks.works_for(&name("a"), &name("c")));
}

#[test]
fn whoever_works_for_another_no_more_loses_what_it_had_beside_it() {
    let mut s = Story::with(&["a"]);
    s.claims("a", "d/");
    s.does(part_of(1, "b", ""));
    s.claims("b", "d/a, e");
    s.does(end_run(RunId(2), 1, 1));
    assert_eq!(s.held(), ["a d/", "b d/a", "b e"], "b's changes are not applied yet");
    s.does(start(run_of("b", "")));
    assert_eq!(s.held(), ["a d/", "b e"]);
    assert_eq!(s.claims("b", "d/a"), WAITS(1));
}

#[test]
fn who_waits_for_an_agent_does_not_hold_up_those_who_work_for_it() {
    let mut s = Story::with(&["a", "b"]);
    s.claims("a", "x");
    assert_eq!(s.claims("b", "x, y"), WAITS(1));
    s.does(part_of(1, "c", ""));
    assert_eq!(s.claims("c", "y"), Reply::Granted);
}

#[test]
fn what_is_granted_does_not_expire_at_once() {
    let mut s = Story::with(&["a"]);
    let policy = Policy { wait: secs(100), ttl: secs(10), ..policy(Priority::Normal) };
    s.does(start(RunRequest { policy, ..run_of("b", "") }));
    s.claims("a", "x");
    s.claims("b", "x");
    s.now = 50;
    s.does(Command::Release { agent: name("a"), unit: unit("x") });
    s.does(Command::Tick);
    assert_eq!(s.held(), ["b x"]);
}

#[test]
fn whoever_gives_back_what_it_waits_with_waits_for_others_who_are_let_by() {
    let mut s = Story::with(&["a", "b", "c"]);
    s.slots(2);
    s.claims("a", "w, z, res:s");
    s.claims("b", "res:s");
    assert_eq!(s.claims("b", "res:s, y, z"), WAITS(1));
    assert_eq!(s.claims("c", "res:s, w"), WAITS(2));
    assert_eq!(s.claims("c", "y"), WAITS(3), "b is ahead");
    s.does(Command::MoveClaim { claim: ClaimId(2), to: Line::First });
    assert_eq!(s.queue(), [2, 1, 3]);
    s.does(Command::Release { agent: name("b"), unit: unit("res:s") });
    assert_eq!(s.queue(), [2, 1], "b waits for c now, who is ahead of it at res:s");
}
