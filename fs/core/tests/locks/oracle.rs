//! The lock table beside a slow and obvious one: lists, and loops over them, written from what
//! DESIGN and `docs/lock-checks.md` say. Random histories go through both.

use crate::support::{Dice, claim, name, policy, run_of, secs, start, tell, unit, wants};
use agentfs_core::locks::{Priority, Rank};
use agentfs_core::machine::{
    Command, Line, Machine, Policy, RefusalKind, Reply, RunRequest, Settings,
};
use agentfs_core::{AgentName, ClaimId, Mode, RunId, Timestamp, Want, WorkUnit};
use std::collections::BTreeSet;

const AGENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const PRIORITIES: [Priority; 5] =
    [Priority::Normal, Priority::High, Priority::Normal, Priority::Low, Priority::Normal];
/// For whom each agent works: d for a, e for d.
const CHIEFS: [Option<usize>; 5] = [None, None, None, Some(0), Some(3)];
const WANTS: [&str; 16] = [
    "d/",
    "shared d/",
    "d/a",
    "shared d/a",
    "d/b",
    "shared d/b",
    "d/e/",
    "d/e/f, d/a",
    "proc:x",
    "res:s",
    "res:s, d/b",
    "shared res:s, shared d/",
    "proc:x, shared d/e/f",
    "d",
    "e",
    "e, res:s",
];
const SLOTS: usize = 2;

struct Held {
    agent: usize,
    unit: WorkUnit,
    mode: Mode,
}

#[derive(Clone)]
struct Waiting {
    id: u64,
    agent: usize,
    wants: Vec<Want>,
    rank: i64,
    deadline: u64,
}

/// What stands in somebody's way: who, with what, and whether it holds that.
type InTheWay = (usize, WorkUnit, bool);

/// The table as lists: leases in the order of their grants, claims in the order of the queue.
#[derive(Default)]
struct Oracle {
    held: Vec<Held>,
    queue: Vec<Waiting>,
    last_claim: u64,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Granted,
    Waits(u64),
    Deadlock,
    Rejected,
    Done,
}

fn works_for(agent: usize, other: usize) -> bool {
    CHIEFS[agent].is_some_and(|chief| chief == other || works_for(chief, other))
}

fn minds(agent: usize, holder: usize) -> bool {
    agent != holder && !works_for(agent, holder)
}

fn counts(unit: &WorkUnit) -> bool {
    unit.to_string() == "res:s"
}

fn conflict(one: (&WorkUnit, Mode), other: (&WorkUnit, Mode)) -> bool {
    let both_shared = one.1 == Mode::Shared && other.1 == Mode::Shared;
    one.0.overlaps(other.0) && (counts(one.0) || !both_shared)
}

impl Oracle {
    fn has(&self, agent: usize, want: &Want) -> bool {
        self.held.iter().any(|held| {
            held.agent == agent
                && held.unit.covers(&want.unit)
                && (counts(&want.unit) || held.mode == Mode::Exclusive || want.mode == Mode::Shared)
        })
    }

    fn holders(&self, agent: usize, want: &Want) -> Vec<usize> {
        let against = |held: &&Held| {
            minds(agent, held.agent) && conflict((&held.unit, held.mode), (&want.unit, want.mode))
        };
        self.held.iter().filter(against).map(|held| held.agent).collect()
    }

    /// Those among the first `ahead` claims whose wishes conflict with `want` of `agent`.
    fn rivals(&self, agent: usize, want: &Want, ahead: usize) -> Vec<(&Waiting, usize, &Want)> {
        let mut rivals = Vec::new();
        for (at, claim) in self.queue[..ahead].iter().enumerate() {
            let wish = claim
                .wants
                .iter()
                .find(|other| conflict((&other.unit, other.mode), (&want.unit, want.mode)));
            if let Some(wish) = wish.filter(|_| minds(agent, claim.agent)) {
                rivals.push((claim, at, wish));
            }
        }
        rivals
    }

    /// Whether the claim at `at` waits for `agent`: for what that holds or claimed earlier.
    fn waits_for(&self, at: usize, agent: usize) -> bool {
        let claim = &self.queue[at];
        let missing = claim.wants.iter().filter(|want| !self.has(claim.agent, want));
        missing.into_iter().any(|want| {
            let mut others = self.holders(claim.agent, want);
            let rivals = self.rivals(claim.agent, want, at).into_iter();
            let rivals = rivals.filter(|rival| rival.0.agent == agent);
            let ahead = rivals.filter(|rival| !self.waits_for_side_of(rival.1, claim.agent));
            others.extend(ahead.map(|rival| rival.0.agent));
            others.contains(&agent)
        })
    }

    /// Whether the claim at `at` waits for `agent`, or for one that it works for.
    fn waits_for_side_of(&self, at: usize, agent: usize) -> bool {
        let mut side = (0..5).filter(|other| *other == agent || works_for(agent, *other));
        side.any(|one| self.waits_for(at, one))
    }

    /// What is in the way of each of the wants, wish by wish, with how many have to go.
    fn blocks(&self, agent: usize, wants: &[Want], ahead: usize) -> Vec<(Vec<InTheWay>, usize)> {
        let mut blocks = Vec::new();
        for want in wants.iter().filter(|want| !self.has(agent, want)) {
            let mut by: Vec<InTheWay> = Vec::new();
            for held in &self.held {
                if minds(agent, held.agent)
                    && conflict((&held.unit, held.mode), (&want.unit, want.mode))
                {
                    by.push((held.agent, held.unit.clone(), true));
                }
            }
            for (claim, at, wish) in self.rivals(agent, want, ahead) {
                let taken = counts(&want.unit) && by.iter().any(|other| other.0 == claim.agent);
                if !taken && !self.waits_for_side_of(at, agent) {
                    by.push((claim.agent, wish.unit.clone(), false));
                }
            }
            let free = if counts(&want.unit) { SLOTS } else { 1 };
            if by.len() >= free {
                let must_go = if counts(&want.unit) { by.len() + 1 - free } else { by.len() };
                blocks.push((by, must_go));
            }
        }
        blocks
    }

    fn blocks_of(&self, agent: usize) -> Vec<(Vec<InTheWay>, usize)> {
        let own = self.queue.iter().enumerate().filter(|(_, claim)| claim.agent == agent);
        own.flat_map(|(at, claim)| self.blocks(agent, &claim.wants, at)).collect()
    }

    /// The agents that can never go on, each with those it waits for; `newcomer` waits for more.
    fn stuck(&self, newcomer: Option<(usize, &[Want], usize)>) -> Vec<(usize, Vec<usize>)> {
        let mut waits: Vec<_> = (0..5).map(|agent| (agent, self.blocks_of(agent))).collect();
        if let Some((agent, wants, ahead)) = newcomer {
            waits[agent].1.extend(self.blocks(agent, wants, ahead));
        }
        loop {
            let left: Vec<usize> = waits.iter().map(|(agent, _)| *agent).collect();
            let can_go = |blocks: &[(Vec<InTheWay>, usize)]| {
                blocks.iter().all(|(by, must_go)| {
                    by.iter().filter(|other| !left.contains(&other.0)).count() >= *must_go
                })
            };
            let Some(at) = waits.iter().position(|(_, blocks)| can_go(blocks)) else { break };
            waits.remove(at);
        }
        let left: Vec<usize> = waits.iter().map(|(agent, _)| *agent).collect();
        let others = |blocks: Vec<(Vec<InTheWay>, usize)>| {
            let all = blocks.into_iter().flat_map(|(by, _)| by).map(|other| other.0);
            all.filter(|other| left.contains(other)).collect()
        };
        waits.into_iter().map(|(agent, blocks)| (agent, others(blocks))).collect()
    }

    fn place(&self, rank: i64, id: u64) -> usize {
        self.queue.iter().filter(|claim| (claim.rank, claim.id) < (rank, id)).count()
    }

    fn grant(&mut self, agent: usize, wants: &[Want]) {
        for want in wants {
            if !self.has(agent, want) {
                self.held.retain(|held| held.agent != agent || held.unit != want.unit);
                self.held.push(Held { agent, unit: want.unit.clone(), mode: want.mode });
            }
        }
    }

    /// Grants in the order of the queue, cuts circles, until there is nothing to do.
    fn settle(&mut self) {
        loop {
            let free = (0..self.queue.len()).find(|at| {
                let claim = &self.queue[*at];
                self.blocks(claim.agent, &claim.wants, *at).is_empty()
            });
            if let Some(at) = free {
                let claim = self.queue.remove(at);
                self.grant(claim.agent, &claim.wants);
                continue;
            }
            let stuck = self.stuck(None);
            let Some(victim) = self.queue.iter().rposition(|c| in_a_circle(c.agent, &stuck)) else {
                return;
            };
            self.queue.remove(victim);
        }
    }

    fn claim(&mut self, agent: usize, wants: Vec<Want>, now: u64, wait: u64) -> Answer {
        let id = self.last_claim + 1;
        let rank = Rank::of(Timestamp(now), PRIORITIES[agent]).0;
        let ahead = self.place(rank, id);
        if self.blocks(agent, &wants, ahead).is_empty() {
            self.grant(agent, &wants);
            return Answer::Granted;
        }
        if in_a_circle(agent, &self.stuck(Some((agent, &wants, ahead)))) {
            return Answer::Deadlock;
        }
        self.last_claim = id;
        self.queue.insert(ahead, Waiting { id, agent, wants, rank, deadline: now + wait });
        Answer::Waits(id)
    }

    fn release(&mut self, agent: usize, unit: &WorkUnit) -> Answer {
        let before = self.held.len();
        self.held.retain(|held| held.agent != agent || held.unit != *unit);
        if self.held.len() == before { Answer::Rejected } else { Answer::Done }
    }

    fn cancel(&mut self, id: u64) -> Answer {
        let before = self.queue.len();
        self.queue.retain(|claim| claim.id != id);
        if self.queue.len() == before { Answer::Rejected } else { Answer::Done }
    }

    fn tick(&mut self, now: u64) -> Answer {
        self.queue.retain(|claim| claim.deadline > now);
        Answer::Done
    }

    fn steal(&mut self, unit: &WorkUnit, to: usize) -> Answer {
        self.held.retain(|held| !minds(to, held.agent) || !held.unit.overlaps(unit));
        self.grant(to, &[Want::exclusive(unit.clone())]);
        Answer::Done
    }

    fn grant_by_hand(&mut self, id: u64) -> Answer {
        let Some(at) = self.queue.iter().position(|claim| claim.id == id) else {
            return Answer::Rejected;
        };
        let Waiting { agent, wants, .. } = self.queue.remove(at);
        for want in &wants {
            if self.has(agent, want) {
                continue;
            }
            let mut spared = if counts(&want.unit) { SLOTS - 1 } else { 0 };
            self.held.retain(|held| {
                let in_the_way = minds(agent, held.agent)
                    && conflict((&held.unit, held.mode), (&want.unit, want.mode));
                let stays = !in_the_way || spared > 0;
                spared -= usize::from(in_the_way && stays);
                stays
            });
        }
        self.grant(agent, &wants);
        Answer::Done
    }

    fn move_first(&mut self, id: u64) -> Answer {
        let Some(at) = self.queue.iter().position(|claim| claim.id == id) else {
            return Answer::Rejected;
        };
        let mut claim = self.queue.remove(at);
        if let Some(first) = self.queue.first() {
            claim.rank = if claim.id < first.id { first.rank } else { first.rank - 1 };
        }
        self.queue.insert(0, claim);
        Answer::Done
    }
}

fn in_a_circle(agent: usize, stuck: &[(usize, Vec<usize>)]) -> bool {
    let next =
        |at: usize| stuck.iter().filter(move |(a, _)| *a == at).flat_map(|(_, others)| others);
    let mut reached: BTreeSet<usize> = next(agent).copied().collect();
    loop {
        let more: BTreeSet<usize> = reached.iter().flat_map(|at| next(*at)).copied().collect();
        let before = reached.len();
        reached.extend(more);
        if reached.len() == before {
            return reached.contains(&agent);
        }
    }
}

fn number(agent: &AgentName) -> usize {
    AGENTS.iter().position(|one| agent.as_str() == *one).expect("one of them")
}

fn a_world() -> Machine {
    let mut machine = Machine::default();
    let slots = [(unit("res:s"), SLOTS)].into();
    let settings = Settings { slots, ..Settings::default() };
    let mut commands = vec![Command::Configure(settings)];
    for (at, agent) in AGENTS.iter().enumerate() {
        let parent = CHIEFS[at].map(|chief| RunId(chief as u64 + 1));
        let policy = Policy { ttl: secs(1_000_000), ..policy(PRIORITIES[at]) };
        commands.push(start(RunRequest { policy, parent, ..run_of(agent, "") }));
    }
    for command in commands {
        machine.apply(command, Timestamp(0)).expect("it can begin so");
    }
    machine
}

/// One command for both.
fn step(dice: &mut Dice, oracle: &mut Oracle, machine: &Machine, now: u64) -> (Command, Answer) {
    let agent = dice.roll(5);
    let some_claim = |dice: &mut Dice| {
        let waiting: Vec<u64> = machine.state().locks.queue().map(|claim| claim.id.0).collect();
        if waiting.is_empty() { 99_999 } else { waiting[dice.roll(waiting.len())] }
    };
    let some_lease = |dice: &mut Dice| {
        let leases: Vec<_> = machine.state().locks.leases().collect();
        let lease = leases.get(dice.roll(leases.len().max(1)));
        lease.map_or((agent, unit("d/")), |lease| (number(&lease.agent), lease.unit.clone()))
    };
    match dice.roll(20) {
        0..10 => {
            let wanted = WANTS[dice.roll(WANTS.len())];
            let command = claim(AGENTS[agent], wanted);
            (command, oracle.claim(agent, wants(wanted), now, 60_000))
        }
        10..14 => {
            let (agent, unit) = some_lease(dice);
            let answer = oracle.release(agent, &unit);
            (Command::Release { agent: name(AGENTS[agent]), unit }, answer)
        }
        14 => {
            let id = some_claim(dice);
            (Command::Cancel { claim: ClaimId(id) }, oracle.cancel(id))
        }
        15 => {
            let agent = name(AGENTS[agent]);
            let unit = unit("d/e/f");
            let answer = oracle.release(number(&agent), &unit);
            (Command::Release { agent, unit }, answer)
        }
        16 => {
            let (_, unit) = some_lease(dice);
            let to = Some(name(AGENTS[agent]));
            (Command::Steal { unit: unit.clone(), to }, oracle.steal(&unit, agent))
        }
        17 => {
            let id = some_claim(dice);
            (Command::Grant { claim: ClaimId(id), steal: true }, oracle.grant_by_hand(id))
        }
        18 => {
            let id = some_claim(dice);
            let command = Command::MoveClaim { claim: ClaimId(id), to: Line::First };
            (command, oracle.move_first(id))
        }
        _ => (Command::Tick, oracle.tick(now)),
    }
}

/// What a reply says, as the oracle would say it.
fn answer(reply: Option<Reply>) -> Answer {
    match reply {
        None => Answer::Rejected,
        Some(Reply::Granted) => Answer::Granted,
        Some(Reply::Waiting(id)) => Answer::Waits(id.0),
        Some(Reply::Refused(RefusalKind::Deadlock)) => Answer::Deadlock,
        Some(Reply::Done | Reply::Stolen(_)) => Answer::Done,
        Some(other) => panic!("unexpected: {other:?}"),
    }
}

/// Both have the same leases in the same order of grants, and the same queue.
fn compare(oracle: &Oracle, machine: &Machine, closely: bool) {
    let locks = &machine.state().locks;
    let held: Vec<_> =
        oracle.held.iter().map(|held| (held.agent, held.unit.to_string(), held.mode)).collect();
    let leases = locks.leases().map(|it| (number(&it.agent), it.unit.to_string(), it.mode));
    assert_eq!(leases.collect::<Vec<_>>(), held, "the leases");
    let queue: Vec<_> = oracle.queue.iter().map(|claim| (claim.id, claim.rank)).collect();
    let line: Vec<_> = locks.queue().map(|claim| (claim.id.0, claim.rank.0)).collect();
    assert_eq!(line, queue, "the queue");
    let first = oracle.queue.iter().map(|claim| (claim.deadline, claim.id)).min();
    assert_eq!(first, locks.next_deadline().map(|(at, id)| (at.0, id.0)), "the next deadline");
    for (at, claim) in locks.queue().enumerate().filter(|_| closely) {
        let blocks = locks.blocks(&claim.agent, &claim.wants, Some(claim.place()));
        let blocks: Vec<_> = blocks
            .into_iter()
            .map(|block| {
                let by = block.by.into_iter().map(|it| (number(&it.agent), it.unit, it.holds));
                let mut by: Vec<_> = by.collect();
                by.sort();
                (by, block.must_go)
            })
            .collect();
        let mut obvious = oracle.blocks(number(&claim.agent), &claim.wants, at);
        for (by, _) in &mut obvious {
            by.sort();
        }
        assert_eq!(blocks, obvious, "what {} waits for", claim.id);
    }
}

/// A history of so many commands; what happened is told if the two part ways.
fn history(seed: u64, length: usize) {
    let (mut dice, mut machine, mut oracle) = (Dice(seed), a_world(), Oracle::default());
    let mut now = 0;
    let mut story = Vec::new();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..length {
            now += dice.roll(6) as u64 * dice.roll(3_000) as u64;
            if dice.roll(40) == 0 {
                let agent = dice.roll(5);
                gives_all_back(agent, &mut oracle, &mut machine, now);
            }
            let (command, expected) = step(&mut dice, &mut oracle, &machine, now);
            oracle.settle();
            story.push(format!("{now} {} -> {expected:?}", tell(&command)));
            let reply = machine.apply(command, Timestamp(now)).ok().map(|(reply, _)| reply);
            assert_eq!(answer(reply), expected);
            compare(&oracle, &machine, dice.roll(8) == 0);
            if story.len() > 40 {
                story.drain(..20);
            }
        }
    }));
    assert!(told.is_ok(), "seed {seed}: the last commands were\n{}", story.join("\n"));
}

/// All claims and leases of an agent end, one by one: where it had much, much is free.
fn gives_all_back(agent: usize, oracle: &mut Oracle, machine: &mut Machine, now: u64) {
    let mut commands: Vec<Command> = Vec::new();
    let locks = &machine.state().locks;
    let who = name(AGENTS[agent]);
    commands.extend(locks.claims_of(&who).map(|claim| Command::Cancel { claim: claim.id }));
    commands.extend(locks.leases_of(&who).map(|lease| {
        let (agent, unit) = (lease.agent.clone(), lease.unit.clone());
        Command::Release { agent, unit }
    }));
    for command in commands {
        let answer = match &command {
            Command::Cancel { claim } => oracle.cancel(claim.0),
            Command::Release { unit, .. } => oracle.release(agent, unit),
            _ => Answer::Done,
        };
        oracle.settle();
        let done = machine.apply(command, Timestamp(now)).is_ok();
        assert_eq!(done, answer == Answer::Done);
    }
}

/// Every second seed, beginning with `first`: half a million commands. With
/// `AGENTFS_ORACLE_HISTORIES=N` it is N histories instead of a thousand.
fn histories(first: u64) {
    let count = std::env::var("AGENTFS_ORACLE_HISTORIES").ok().and_then(|n| n.parse().ok());
    for at in 0..count.unwrap_or(1_000) {
        history(first + 2 * at, 500);
    }
}

#[test]
fn half_a_million_commands_go_as_the_oracle_says() {
    histories(0);
}

#[test]
fn another_half_a_million_commands_go_as_the_oracle_says() {
    histories(1);
}
