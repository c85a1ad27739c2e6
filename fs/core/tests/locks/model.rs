//! Every interleaving of a few agents on a few units, breadth first, each state once.
//!
//! The machine is its own model: a state is a machine and a time, a step is a command. States
//! that differ only in what can't matter (numbers given out, old sentences, in symmetric worlds
//! the names of agents) are one. `AGENTFS_MODEL_DEEPER=N` goes N steps further (or, below 0, less far).

mod invariants;
mod worlds;

use agentfs_core::Timestamp;
use agentfs_core::machine::{Command, Machine};
use std::collections::HashSet;
use worlds::World;

use crate::support::tell;

/// A machine at a time.
#[derive(Clone)]
pub struct Node {
    pub machine: Machine,
    pub now: Timestamp,
    /// The largest token given out on the way here.
    pub last_token: u64,
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Move {
    Do(Command),
    /// Time passes, and the clock ticks.
    Pass(u64),
}

impl Move {
    fn tell(&self) -> String {
        match self {
            Self::Do(command) => tell(command),
            Self::Pass(secs) => format!("{secs} s pass"),
        }
    }
}

/// How a state was first reached: from which, by which of its moves.
type Way = (usize, usize);

/// What a search has seen.
struct Seen {
    states: usize,
    steps: usize,
    /// Whether there was nothing more to find.
    complete: bool,
}

fn take(node: &Node, next: &Move) -> Result<Node, String> {
    let mut after = node.clone();
    let command = match next {
        Move::Do(command) => command.clone(),
        Move::Pass(secs) => {
            after.now = Timestamp(node.now.0 + secs * 1_000);
            Command::Tick
        }
    };
    match after.machine.apply(command.clone(), after.now) {
        Ok((_, events)) => {
            after.last_token = invariants::check_step(node, &after, &command, &events)?;
        }
        Err(_) if after.machine == node.machine => {}
        Err(rejection) => return Err(format!("rejected, and changed all the same: {rejection}")),
    }
    Ok(after)
}

/// The moves that led to the last way in `ways`.
fn story(world: &World, ways: &[Way], last: &Move) -> String {
    let mut path = Vec::new();
    let mut at = ways.len() - 1;
    while at != 0 {
        path.push(ways[at].1);
        at = ways[at].0;
    }
    let mut node = world.start();
    let mut told = Vec::new();
    for index in path.into_iter().rev() {
        let next = world.moves(&node).swap_remove(index);
        told.push(next.tell());
        node = take(&node, &next).unwrap_or_else(|_| unreachable!("it was taken before"));
    }
    told.push(last.tell());
    told.join("\n  ")
}

fn explore(world: &World, depth: usize) -> Seen {
    let start = world.start();
    let mut known = HashSet::from([world.key(&start)]);
    let mut ways: Vec<Way> = vec![(0, 0)];
    let mut frontier = vec![(0, start)];
    let mut steps = 0;
    for _ in 0..depth {
        let mut next_frontier = Vec::new();
        for (at, node) in frontier {
            for (index, next) in world.moves(&node).iter().enumerate() {
                steps += 1;
                let fail = |why: String| -> ! {
                    let ways = &ways[..=at];
                    panic!("{}: {why}\n  {}", world.name, story(world, ways, next))
                };
                let after = take(&node, next).unwrap_or_else(|why| fail(why));
                if !known.insert(world.key(&after)) {
                    continue;
                }
                invariants::check_state(&after).unwrap_or_else(|why| fail(why));
                ways.push((at, index));
                next_frontier.push((ways.len() - 1, after));
            }
        }
        frontier = next_frontier;
    }
    Seen { states: ways.len(), steps, complete: frontier.is_empty() }
}

fn check(world: &World) {
    let deeper = std::env::var("AGENTFS_MODEL_DEEPER").ok().and_then(|n| n.parse().ok());
    let depth = world.depth.saturating_add_signed(deeper.unwrap_or(0));
    let begun = std::time::Instant::now();
    let Seen { states, steps, complete } = explore(world, depth);
    let all = if complete { ", all there are" } else { "" };
    println!(
        "{}: depth {depth}, {states} states, {steps} steps{all}, {:?}",
        world.name,
        begun.elapsed()
    );
    assert!(states > 100, "{}: a world of {states} states proves nothing", world.name);
}

#[test]
fn locks_hold_in_every_order_of_claims_and_releases() {
    check(&worlds::claims());
}

#[test]
fn locks_hold_with_priorities_deadlines_and_silence() {
    check(&worlds::time());
}

#[test]
fn locks_hold_whatever_the_operator_does() {
    check(&worlds::operator());
}

#[test]
fn runs_wait_and_start_and_end_in_every_order() {
    check(&worlds::runs());
}

#[test]
fn those_who_work_for_another_share_with_it_alone() {
    check(&worlds::lineage());
}
