//! The worlds that are searched: who is there, and what they can do.

use super::{Move, Node};
use crate::support::{claim, end_run, name, policy, run_of, secs, start, unit};
use agentfs_core::locks::{Claim, Origin, Priority};
use agentfs_core::machine::{After, Command, Exit, Line, Machine, Policy, RunRequest, Settings};
use agentfs_core::{AgentName, RunId, Timestamp};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

const AGENTS: [&str; 3] = ["a", "b", "c"];

/// A world to be searched.
pub struct World {
    pub name: &'static str,
    pub depth: usize,
    /// Whether the agents can be told apart by their names alone.
    symmetric: bool,
    priorities: [Priority; 3],
    max_parallel: Option<usize>,
    /// How many may hold `res:s`.
    slots: usize,
    /// Who runs at the beginning.
    running: &'static [&'static str],
    /// What can be claimed.
    wants: &'static [&'static str],
    /// What can be claimed by agents without a run.
    idle_wants: &'static [&'static str],
    /// How many claims of one agent may wait.
    most_claims: usize,
    /// How far and by how much time passes, in seconds.
    time: Option<(u64, u64)>,
    /// How long a claim may wait, and a lease outlives the last sign of life, in seconds.
    patience: (u64, u64),
    operator: bool,
    /// How many runs there may be, and with what they begin.
    runs: Option<(u64, Vec<Beginning>)>,
}

/// How a run can begin.
#[derive(Clone, Copy)]
enum Beginning {
    With(&'static str),
    /// After the latest run of another, if it succeeds.
    AfterSuccess,
    /// As part of the run of the agent that comes before in the alphabet, or round it.
    Child(&'static str),
}

fn plain(name: &'static str, depth: usize) -> World {
    World {
        name,
        depth,
        symmetric: true,
        priorities: [Priority::Normal; 3],
        max_parallel: None,
        slots: 2,
        running: &AGENTS,
        wants: &[],
        idle_wants: &[],
        most_claims: 1,
        time: None,
        patience: (60, 600),
        operator: false,
        runs: None,
    }
}

pub fn claims() -> World {
    World {
        wants: &[
            "d/",
            "shared d/",
            "d/a",
            "shared d/a",
            "proc:x",
            "res:s",
            "d/a, d/b",
            "proc:x, shared d/a",
            "res:s, d/b",
        ],
        most_claims: 2,
        ..plain("claims", 4)
    }
}

pub fn time() -> World {
    World {
        symmetric: false,
        priorities: [Priority::High, Priority::Normal, Priority::Low],
        wants: &["d/", "d/a", "shared d/a", "d/a, d/b", "d/b, res:s"],
        most_claims: 2,
        time: Some((10, 70)),
        patience: (30, 20),
        slots: 1,
        ..plain("time", 4)
    }
}

pub fn operator() -> World {
    World {
        wants: &["d/", "d/a", "shared d/a", "shared res:s", "res:s, d/b"],
        operator: true,
        ..plain("operator", 4)
    }
}

pub fn runs() -> World {
    use Beginning::{AfterSuccess, With};
    World {
        symmetric: true,
        max_parallel: Some(2),
        running: &["a"],
        wants: &["d/", "d/a, d/b"],
        idle_wants: &["d/a"],
        runs: Some((4, vec![With(""), With("d/a"), With("d/a, d/b"), AfterSuccess])),
        ..plain("runs", 5)
    }
}

pub fn lineage() -> World {
    use Beginning::{Child, With};
    World {
        symmetric: false,
        running: &["a"],
        wants: &["d/", "d/a", "shared d/a", "res:s"],
        runs: Some((5, vec![With(""), Child(""), Child("d/a")])),
        ..plain("lineage", 5)
    }
}

impl World {
    pub fn start(&self) -> Node {
        let mut machine = Machine::default();
        let slots = [(unit("res:s"), self.slots)].into();
        let settings = Settings { max_parallel: self.max_parallel, slots, ..Settings::default() };
        let runs = self.running.iter().map(|agent| start(self.request(agent, "")));
        for command in [Command::Configure(settings)].into_iter().chain(runs) {
            machine.apply(command, Timestamp(0)).expect("it can begin so");
        }
        Node { machine, now: Timestamp(0), last_token: 0 }
    }

    fn request(&self, agent: &str, wanted: &str) -> RunRequest {
        let at = AGENTS.iter().position(|one| *one == agent).expect("one of them");
        let (wait, ttl) = self.patience;
        let policy = policy(self.priorities[at]);
        let policy = Policy { wait: secs(wait), ttl: secs(ttl), ..policy };
        RunRequest { policy, ..run_of(agent, wanted) }
    }

    /// All that can happen next.
    pub fn moves(&self, node: &Node) -> Vec<Move> {
        let mut moves = Vec::new();
        self.claim_moves(node, &mut moves);
        if let Some((step, horizon)) = self.time
            && node.now.0 / 1_000 + step <= horizon
        {
            moves.push(Move::Pass(step));
            let live = AGENTS.iter().filter_map(|agent| live(node, agent));
            moves.extend(live.map(|run| Move::Do(Command::Heartbeat { run })));
        }
        if self.operator {
            operator_moves(node, &mut moves);
        }
        if let Some((most, beginnings)) = &self.runs {
            self.run_moves(node, *most, beginnings, &mut moves);
        }
        moves
    }

    fn claim_moves(&self, node: &Node, moves: &mut Vec<Move>) {
        let locks = &node.machine.state().locks;
        for agent in AGENTS {
            let wants = if live(node, agent).is_some() { self.wants } else { self.idle_wants };
            if locks.claims_of(&name(agent)).count() < self.most_claims {
                moves.extend(wants.iter().map(|wants| Move::Do(claim(agent, wants))));
            }
        }
        moves.extend(locks.leases().map(|lease| {
            let (agent, unit) = (lease.agent.clone(), lease.unit.clone());
            Move::Do(Command::Release { agent, unit })
        }));
        moves.extend(locks.queue().map(|claim| Move::Do(Command::Cancel { claim: claim.id })));
    }

    fn run_moves(&self, node: &Node, most: u64, how: &[Beginning], moves: &mut Vec<Move>) {
        let state = node.machine.state();
        let known = state.runs.keys().chain(state.submitted.keys()).max().copied();
        for (at, agent) in AGENTS.iter().enumerate() {
            if let Some(run) = live(node, agent) {
                moves.extend(
                    [(0, 0), (1, 1)].map(|(changed, code)| Move::Do(end_run(run, changed, code))),
                );
            }
            let is_queued = state.submitted.values().any(|queued| queued.agent == name(agent));
            if known.is_some_and(|known| known.0 >= most) || is_queued {
                continue;
            }
            for beginning in how {
                let before = AGENTS[(at + 2) % 3];
                let request = match beginning {
                    Beginning::With(wants) => self.request(agent, wants),
                    Beginning::AfterSuccess => {
                        let Some(run) = known else { continue };
                        let after = vec![After { run, succeeded: true }];
                        RunRequest { after, ..self.request(agent, "d/") }
                    }
                    Beginning::Child(wants) => {
                        let Some(parent) = live(node, before) else { continue };
                        RunRequest { parent: Some(parent), ..self.request(agent, wants) }
                    }
                };
                moves.push(Move::Do(start(request)));
            }
        }
    }

    /// All of a state that can matter for what happens next.
    pub fn key(&self, node: &Node) -> u64 {
        let orders: &[[usize; 3]] = if self.symmetric {
            &[[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        } else {
            &[[0, 1, 2]]
        };
        let keys = orders.iter().map(|order| key(node, *order));
        keys.min().unwrap_or_default()
    }
}

fn live(node: &Node, agent: &str) -> Option<RunId> {
    node.machine.state().live_run_of(&name(agent)).map(|run| run.id)
}

fn operator_moves(node: &Node, moves: &mut Vec<Move>) {
    let locks = &node.machine.state().locks;
    for lease in locks.leases() {
        let to = AGENTS.iter().map(|agent| Some(name(agent))).chain([None]);
        let steal = to.map(|to| Command::Steal { unit: lease.unit.clone(), to });
        moves.extend(steal.map(Move::Do));
    }
    for Claim { id: claim, .. } in locks.queue() {
        let others = locks.queue().filter(|other| other.id != *claim);
        let lines = others.map(|other| Line::Before(other.id)).chain([Line::First, Line::Last]);
        let moved = lines.map(|to| Command::MoveClaim { claim: *claim, to });
        let granted = [true, false].map(|steal| Command::Grant { claim: *claim, steal });
        moves.extend(moved.chain(granted).map(Move::Do));
        moves.push(Move::Do(Command::Refuse { claim: *claim, why: None }));
    }
}

fn key(node: &Node, order: [usize; 3]) -> u64 {
    let state = node.machine.state();
    let locks = &state.locks;
    let number = |agent: &AgentName| {
        AGENTS.iter().position(|one| agent.as_str() == *one).map_or(9, |at| order[at])
    };
    let mut key = DefaultHasher::new();
    node.now.hash(&mut key);
    let mut leases: Vec<_> = locks
        .leases()
        .map(|lease| {
            let of_run = lease.run == state.live_run_of(&lease.agent).map(|run| run.id);
            (number(&lease.agent), &lease.unit, lease.mode, of_run, lease.by_operator)
        })
        .collect();
    leases.sort();
    leases.hash(&mut key);
    let mut ids: Vec<_> = locks.queue().map(|claim| claim.id).collect();
    ids.sort();
    ids.len().hash(&mut key);
    for claim in locks.queue() {
        let place = ids.iter().position(|id| *id == claim.id);
        let is_start = claim.origin == Origin::Start;
        (number(&claim.agent), place, &claim.wants, claim.rank, claim.run).hash(&mut key);
        (claim.deadline, is_start, claim.by_operator, locks.is_ready(claim.id)).hash(&mut key);
    }
    let mut agents: Vec<_> = AGENTS
        .iter()
        .map(|agent| {
            let agent = name(agent);
            let known = state
                .agents
                .get(&agent)
                .map(|known| (known.live, known.pending, known.sealed, known.last_sign, known.ttl));
            let mut above = [false; 3];
            for (at, other) in AGENTS.iter().enumerate() {
                above[order[at]] = locks.works_for(&agent, &name(other));
            }
            (number(&agent), known, above)
        })
        .collect();
    agents.sort();
    agents.hash(&mut key);
    for submission in state.submitted.values() {
        let after: Vec<_> = submission.after.iter().map(|a| (a.run, a.succeeded)).collect();
        let parent = submission.parent.as_ref().map(number);
        (submission.run, number(&submission.agent), after, parent).hash(&mut key);
    }
    for run in state.runs.values() {
        let ended = run.ended.map(|(_, exit)| exit == Exit::Code(0));
        (run.id, number(&run.agent), ended, run.parent.as_ref().map(number)).hash(&mut key);
    }
    key.finish()
}
