//! What has to hold after each step and in each state.

use super::Node;
use agentfs_core::locks::{Block, Claim, Lease, LockTable, Place, Rank};
use agentfs_core::machine::{ClaimEnd, Command, Event, Machine, Reply, State};
use agentfs_core::{AgentName, ClaimId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

type Verdict = Result<(), String>;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

/// What a step may do. The answer is the largest token so far.
pub fn check_step(
    before: &Node,
    after: &Node,
    command: &Command,
    events: &[Event],
) -> Result<u64, String> {
    let by_hand = matches!(command, Command::Grant { .. } | Command::Steal { .. });
    let mut machine = before.machine.clone();
    let mut last_token = before.last_token;
    // The table as it was before the grant that goes on, and the place that is granted.
    let mut granting: Option<(Machine, Place)> = None;
    let mut ended = BTreeSet::new();
    let mut queued = BTreeSet::new();
    for event in events {
        match event {
            Event::Queued { claim, .. } => {
                queued.insert(claim.id);
            }
            Event::ClaimEnded { claim, end, .. } => {
                ensure(ended.insert(*claim), || format!("{claim} ended twice"))?;
                let place = machine.state().locks.claim(*claim).map(Claim::place);
                let place = place.ok_or_else(|| format!("{claim} did not wait"))?;
                granting = (*end == ClaimEnd::Granted).then(|| (machine.clone(), place));
            }
            Event::Granted { lease } => {
                ensure(lease.token.0 > last_token, || format!("{} does not grow", lease.token))?;
                last_token = lease.token.0;
                let at_once =
                    || (before.machine.clone(), place_of_a_newcomer(before, after, lease));
                let (was, place) = granting.get_or_insert_with(at_once);
                let is_helper =
                    |other: &AgentName| after.machine.state().locks.works_for(&lease.agent, other);
                if !by_hand {
                    no_overtaking(&was.state().locks, lease, *place, is_helper)?;
                }
            }
            _ => {}
        }
        machine.fold(event, after.now).map_err(|misfit| misfit.to_string())?;
    }
    ensure(machine == after.machine, || "the journal gives another state".to_owned())?;
    let locks = &before.machine.state().locks;
    for id in locks.queue().map(|claim| claim.id).chain(queued) {
        let waits = after.machine.state().locks.claim(id).is_some();
        ensure(waits != ended.contains(&id), || format!("{id} was forgotten"))?;
    }
    if let Command::Tick = command {
        let next = after.machine.state().next_deadline();
        ensure(next.is_none_or(|at| at > after.now), || "it would tick for ever".to_owned())?;
    }
    Ok(last_token)
}

/// Where a claim would stand that was granted at once.
fn place_of_a_newcomer(before: &Node, after: &Node, lease: &Lease) -> Place {
    let run = before.machine.state().live_run_of(&lease.agent);
    let run = run.or_else(|| after.machine.state().live_run_of(&lease.agent));
    let priority = run.map(|run| run.policy.priority).unwrap_or_default();
    Place { rank: Rank::of(after.now, priority), claim: ClaimId(u64::MAX) }
}

/// Whoever was ahead and wanted the same waited for the one who got it.
fn no_overtaking(
    locks: &LockTable,
    got: &Lease,
    place: Place,
    works_for: impl Fn(&AgentName) -> bool,
) -> Verdict {
    let conflicts = |claim: &&Claim| {
        claim.wants.iter().any(|want| {
            want.unit.overlaps(&got.unit)
                && !want.mode.compatible(got.mode)
                && locks.slots_of(&want.unit).is_none()
        })
    };
    let ahead = locks.queue().filter(|claim| claim.place() < place && locks.is_ready(claim.id));
    let others = ahead.filter(|c| c.agent != got.agent && !works_for(&c.agent));
    for claim in others.filter(conflicts) {
        let obstacles = locks.obstacles(&claim.agent, &claim.wants, Some(claim.place()));
        let is_its_side = |other: &AgentName| *other == got.agent || works_for(other);
        // Whoever wants a slot waits for all who have one.
        let has_a_slot = claim.wants.iter().any(|want| {
            locks.slots_of(&want.unit).is_some()
                && locks.overlapping(&want.unit).any(|lease| is_its_side(&lease.agent))
        });
        let waits = has_a_slot || obstacles.iter().any(|it| is_its_side(&it.agent));
        ensure(waits, || format!("{} was overtaken by {} at {}", claim.id, got.agent, got.unit))?;
    }
    Ok(())
}

/// What holds in each state.
pub fn check_state(node: &Node) -> Verdict {
    let state = node.machine.state();
    exclusion(&state.locks)?;
    nobody_waits_for_nothing(state)?;
    no_circle(&state.locks)?;
    indexes_are_what_they_index(node)?;
    the_queue_empties(node)
}

/// G1, with slots and lineage.
fn exclusion(locks: &LockTable) -> Verdict {
    let apart = |one: &AgentName, other: &AgentName| {
        one != other && !locks.works_for(one, other) && !locks.works_for(other, one)
    };
    let leases: Vec<&Lease> = locks.leases().collect();
    for (at, one) in leases.iter().enumerate() {
        for other in &leases[at + 1..] {
            let same = one.agent == other.agent && one.unit == other.unit;
            ensure(!same, || format!("{} has {} twice", one.agent, one.unit))?;
            let beside = !apart(&one.agent, &other.agent)
                || !one.unit.overlaps(&other.unit)
                || one.mode.compatible(other.mode)
                || locks.slots_of(&one.unit).is_some();
            ensure(beside, || format!("G1: {} and {}", one.token, other.token))?;
        }
        if let Some(slots) = locks.slots_of(&one.unit) {
            // Of those that hold it, the most of whom none works for another.
            let holders: Vec<_> =
                leases.iter().filter(|other| other.unit == one.unit).map(|l| &l.agent).collect();
            for some in 0..1usize << holders.len() {
                let chosen: Vec<_> = (0..holders.len())
                    .filter(|at| some >> at & 1 == 1)
                    .map(|at| holders[at])
                    .collect();
                let unrelated = chosen.iter().all(|a| chosen.iter().all(|b| a == b || apart(a, b)));
                ensure(!unrelated || chosen.len() <= slots, || {
                    format!("{} of {slots} slots of {} are taken", chosen.len(), one.unit)
                })?;
            }
        }
    }
    Ok(())
}

/// Every claim waits for something that is there, and for no other reason.
fn nobody_waits_for_nothing(state: &State) -> Verdict {
    for claim in state.locks.queue() {
        let id = claim.id;
        ensure(!state.locks.is_grantable(claim), || format!("lost wake-up: {id}"))?;
        let submission = state.submitted.values().find(|queued| queued.claim == id);
        let turns = submission.is_some_and(|queued| !state.turns(queued).is_empty());
        let held_back = claim.asks || turns;
        ensure(held_back != state.locks.is_ready(id), || format!("{id} is held back wrongly"))?;
        let obstacles = state.locks.obstacles(&claim.agent, &claim.wants, Some(claim.place()));
        ensure(held_back || !obstacles.is_empty(), || format!("{id} waits for nothing"))?;
        for obstacle in obstacles {
            let is_there = if obstacle.holds {
                state.locks.leases_of(&obstacle.agent).any(|lease| lease.unit == obstacle.unit)
            } else {
                state.locks.claims_of(&obstacle.agent).any(|other| other.place() < claim.place())
            };
            ensure(is_there, || format!("{id} waits for a ghost of {}", obstacle.agent))?;
        }
    }
    Ok(())
}

/// When all who can go on have gone, nobody is left.
fn no_circle(locks: &LockTable) -> Verdict {
    let blocks = |claim: &Claim| locks.blocks(&claim.agent, &claim.wants, Some(claim.place()));
    let mut left: BTreeMap<AgentName, Vec<Block>> = BTreeMap::new();
    for claim in locks.queue().filter(|claim| locks.is_ready(claim.id)) {
        left.entry(claim.agent.clone()).or_default().extend(blocks(claim));
    }
    loop {
        let is_left = |agent: &AgentName| left.contains_key(agent);
        let is_open = |block: &Block| {
            block.by.iter().filter(|obstacle| !is_left(&obstacle.agent)).count() >= block.must_go
        };
        let free = left.iter().find(|(_, blocks)| blocks.iter().all(is_open));
        let Some(agent) = free.map(|(agent, _)| agent.clone()) else { break };
        left.remove(&agent);
    }
    ensure(left.is_empty(), || format!("a circle of waits among {:?}", left.keys()))
}

/// A table made from scratch, of the same runs, leases and claims, is the same.
fn indexes_are_what_they_index(node: &Node) -> Verdict {
    let state = node.machine.state();
    let mut fresh = Machine::default();
    let mut events = vec![Event::Configured { settings: state.settings.clone() }];
    for run in state.runs.values() {
        let (agent, argv, policy) = (run.agent.clone(), run.argv.clone(), run.policy.clone());
        let (process, parent, plan) = (run.process.clone(), run.parent.clone(), None);
        events.push(Event::RunStarted { run: run.id, agent, argv, policy, process, parent, plan });
        if let Some((_, exit)) = run.ended {
            let (agent, why) = (run.agent.clone(), String::new());
            events.push(Event::RunEnded { run: run.id, agent, exit, changed: 0, why });
        }
    }
    let submitted = state.submitted.values().cloned().map(Box::new);
    events.extend(submitted.map(|submission| Event::RunQueued { submission }));
    events.extend(state.locks.leases().cloned().map(|lease| Event::Granted { lease }));
    let mut claims: Vec<Claim> = state.locks.queue().cloned().collect();
    claims.sort_by_key(|claim| claim.id);
    let queued = claims.into_iter().map(|claim| Event::Queued { claim, why: String::new() });
    events.extend(queued);
    for event in &events {
        fresh.fold(event, Timestamp(0)).map_err(|misfit| misfit.to_string())?;
    }
    ensure(fresh.state().locks == state.locks, || {
        format!("an index is wrong: {:#?}\nis not {:#?}", state.locks, fresh.state().locks)
    })
}

/// When all runs end, and what no run holds expires, nobody waits any more.
fn the_queue_empties(node: &Node) -> Verdict {
    let mut rest = node.clone();
    for _ in 0..64 {
        let state = rest.machine.state();
        let live = state.runs.values().find(|run| run.ended.is_none()).map(|run| run.id);
        let command = if let Some(run) = live {
            crate::support::end_run(run, 0, 0)
        } else if let Some(at) = state.next_deadline() {
            rest.now = at.max(rest.now);
            Command::Tick
        } else {
            break;
        };
        let done = rest.machine.apply(command, rest.now);
        ensure(matches!(done, Ok((Reply::Done, _))), || format!("{done:?}"))?;
    }
    let locks = &rest.machine.state().locks;
    let waiting: Vec<_> = locks.queue().map(|claim| claim.id).collect();
    ensure(waiting.is_empty() && locks.leases().len() == 0, || format!("{waiting:?} wait for ever"))
}
