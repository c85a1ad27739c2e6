//! G7: the journal, as it is written, gives the same state, and from there on the same decisions;
//! also the journals of versions before this one.

use crate::support::{Dice, claim, end_run, name, run_of, start, unit};
use agentfs_core::locks::{Origin, Priority, Rank};
use agentfs_core::machine::{
    After, Command, Event, Line, Machine, Policy, Rejection, Reply, RunRequest, Settings,
};
use agentfs_core::{ClaimId, Mode, RunId, Timestamp};

const AGENTS: [&str; 4] = ["a", "b", "c", "d"];
const WANTS: [&str; 7] = ["", "d/", "shared d/a", "d/a, d/b", "proc:x", "res:s", "res:s, d/b"];

/// Something that somebody could ask for, whether it makes sense now or not.
fn any_command(dice: &mut Dice, machine: &Machine) -> Command {
    let state = machine.state();
    let agent = AGENTS[dice.roll(4)];
    let wanted = WANTS[dice.roll(WANTS.len())];
    let run = RunId(dice.roll(state.runs.len() + 2) as u64);
    let waiting: Vec<ClaimId> = state.locks.queue().map(|claim| claim.id).collect();
    let some = waiting.get(dice.roll(waiting.len().max(1))).copied().unwrap_or_default();
    let other = waiting.first().copied().unwrap_or_default();
    match dice.roll(16) {
        0..6 => claim(agent, wanted),
        6 | 7 => {
            let priority = Priority::ALL[dice.roll(3)].0;
            let policy = Policy { priority, ..crate::support::policy(priority) };
            let parent = (dice.roll(3) == 0).then_some(run);
            let after = vec![After { run, succeeded: dice.roll(2) == 0 }];
            let after = if dice.roll(3) == 0 { after } else { vec![] };
            start(RunRequest { policy, parent, after, ..run_of(agent, wanted) })
        }
        8 => end_run(run, dice.roll(2), dice.roll(2) as i32),
        9 => {
            let unit = unit(["d/", "d/a", "proc:x", "res:s"][dice.roll(4)]);
            Command::Release { agent: name(agent), unit }
        }
        10 => Command::Cancel { claim: some },
        11 => Command::MoveClaim { claim: some, to: Line::Before(other) },
        12 => Command::Grant { claim: some, steal: dice.roll(2) == 0 },
        13 => Command::Steal { unit: unit("d/"), to: Some(name(agent)) },
        14 => {
            let slots = [(unit("res:s"), 1 + dice.roll(3))].into();
            Command::Configure(Settings {
                max_parallel: Some(1 + dice.roll(4)),
                slots,
                ..Settings::default()
            })
        }
        _ => Command::Tick,
    }
}

type Decided = Result<(Reply, Vec<Event>), Rejection>;

fn apply(machine: &mut Machine, command: Command, now: u64) -> Decided {
    machine.apply(command, Timestamp(now))
}

#[test]
fn a_journal_gives_the_state_and_all_that_follows() {
    for seed in 0..200 {
        let (mut dice, mut machine, mut journal, mut now) =
            (Dice(seed), Machine::default(), Vec::new(), 0);
        for _ in 0..120 {
            now += dice.roll(20_000) as u64;
            let command = any_command(&mut dice, &machine);
            if let Ok((_, events)) = apply(&mut machine, command, now) {
                let written = events.iter().map(serde_json::to_string);
                journal.extend(written.map(|text| (text.expect("it can be written"), now)));
            }
        }
        let mut again = fold(&journal);
        assert_eq!(again, machine, "seed {seed}");
        for _ in 0..40 {
            now += dice.roll(20_000) as u64;
            let command = any_command(&mut dice, &machine);
            let decided = apply(&mut again, command.clone(), now);
            assert_eq!(decided, apply(&mut machine, command, now), "seed {seed}");
        }
        assert_eq!(again, machine, "seed {seed}");
    }
}

fn fold(journal: &[(String, u64)]) -> Machine {
    let mut machine = Machine::default();
    for (text, at) in journal {
        let event = serde_json::from_str(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        machine.fold(&event, Timestamp(*at)).unwrap_or_else(|why| panic!("{text}: {why}"));
    }
    machine
}

/// As the version wrote it that knew neither priorities nor parents, plans, slots or modes by unit.
const OLD: [&str; 7] = [
    r#"{"type":"run_started","run":1,"agent":"alice","argv":["sh"],"policy":{"unclaimed":"claim","wait":"1m","ttl":"10m"},"process":{"pid":7,"started":70,"boot":"b"}}"#,
    r#"{"type":"run_started","run":2,"agent":"bob","argv":["sh"],"policy":{"unclaimed":"deny","wait":"5s","ttl":"10m"},"process":{"pid":8,"started":80,"boot":"b"}}"#,
    r#"{"type":"granted","lease":{"token":1,"unit":"src/","mode":"exclusive","agent":"alice","run":1,"since":5000,"origin":"write"}}"#,
    r#"{"type":"queued","claim":{"id":1,"agent":"bob","run":2,"units":["src/a","docs/"],"mode":"shared","since":6000,"deadline":66000,"cause":"claim","origin":"asked"},"why":"bob waits"}"#,
    r#"{"type":"queued","claim":{"id":2,"agent":"bob","run":2,"units":["src/b"],"mode":"exclusive","since":6500,"deadline":66500,"cause":"open","origin":"write"},"why":"bob waits"}"#,
    r#"{"type":"claim_ended","claim":2,"agent":"bob","end":"timed_out","text":"bob was refused src/b"}"#,
    r#"{"type":"renewed","agent":"alice"}"#,
];

#[test]
fn journals_of_older_versions_fold_and_go_on() {
    let journal: Vec<_> = OLD.iter().map(|text| ((*text).to_owned(), 7_000)).collect();
    let mut machine = fold(&journal);
    let state = machine.state();
    let claim = state.locks.claim(ClaimId(1)).expect("it waits");
    let wants: Vec<_> = claim.wants.iter().map(ToString::to_string).collect();
    assert_eq!(wants, ["shared src/a", "shared docs/"]);
    assert_eq!(claim.rank, Rank::of(Timestamp(6_000), Priority::Normal));
    assert_eq!((claim.deadline, claim.asks), (Some(Timestamp(66_000)), false));
    let lease = state.locks.leases().next().expect("it is held");
    assert_eq!((lease.ttl, lease.by_operator, lease.origin), (None, false, Origin::Write));
    let alice = &state.runs[&RunId(1)];
    assert_eq!(
        (alice.policy.priority, &alice.parent, &alice.plan),
        (Priority::Normal, &None, &None)
    );
    apply(&mut machine, end_run(RunId(1), 0, 0), 8_000).expect("alice runs");
    let held: Vec<_> = machine.state().locks.leases().map(|l| (l.token.0, l.mode)).collect();
    assert_eq!(held, [(2, Mode::Shared), (3, Mode::Shared)], "bob's turn has come");
}
