//! The state as the API tells it. Pure: from the state's types to the wire's.

use agentfs_api::types::{
    Agent, AgentState, Blocker, ComingConflict, Lock, Outcome, Recoverable, Run, WaitRecord,
    Waiting,
};
use agentfs_core::changeset::{ChangeSet, Conflict};
use agentfs_core::config::Span;
use agentfs_core::locks::{Claim, Lease, Obstacle, Origin};
use agentfs_core::machine::{self, State, Submission};
use agentfs_core::{AgentName, ClaimId, RelPath, Timestamp, estimate, explain};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// One lease.
pub fn lock(state: &State, lease: &Lease) -> Lock {
    let wants = |claim: &&Claim| claim.agent != lease.agent;
    Lock {
        unit: lease.unit.clone(),
        mode: lease.mode,
        agent: lease.agent.clone(),
        run: lease.run,
        token: lease.token,
        since: lease.since,
        expires: state.lease_ends(lease),
        waiters: state.locks.wanting(&lease.unit).filter(wants).count(),
    }
}

/// All leases, by unit.
pub fn locks(state: &State) -> Vec<Lock> {
    let mut locks: Vec<Lock> = state.locks.leases().map(|lease| lock(state, lease)).collect();
    locks.sort_by(|a, b| (&a.unit, &a.agent).cmp(&(&b.unit, &b.agent)));
    locks
}

/// All claims that wait, the first in line first.
pub fn queue(state: &State, now: Timestamp) -> Vec<Waiting> {
    state.locks.queue().map(|claim| waiting(state, claim, now)).collect()
}

fn waiting(state: &State, claim: &Claim, now: Timestamp) -> Waiting {
    let beside = claim.wants.iter().flat_map(|want| state.locks.wanting(&want.unit));
    // A run that waits for its turn is behind all runs ahead of it.
    let waits_for_turn = claim.origin == Origin::Start && !state.locks.is_ready(claim.id);
    let runs = state.locks.queue().filter(|c| waits_for_turn && c.origin == Origin::Start);
    let beside = beside.chain(runs);
    let ahead: BTreeSet<ClaimId> =
        beside.filter(|other| other.place() < claim.place()).map(|other| other.id).collect();
    let submission = claim.run.and_then(|run| state.submitted.get(&run));
    let obstacles = state.locks.obstacles(&claim.agent, &claim.wants, Some(claim.place()));
    let reasons = explain::reasons(state, claim, now).into_iter();
    Waiting {
        claim: claim.id,
        position: ahead.len() + 1,
        wants: claim.wants.clone(),
        agent: claim.agent.clone(),
        run: claim.run,
        blockers: obstacles.into_iter().map(blocker).collect(),
        since: claim.since,
        deadline: claim.deadline,
        cause: claim.cause.clone(),
        asks: claim.asks,
        process: submission.map(|submission| submission.process.pid),
        estimate: estimate::wait(state, claim, now).map(Span),
        why: reasons.map(|(why, way_out)| format!("{why}. {way_out}")).collect(),
        priority: state.priority_of(claim),
    }
}

/// What stands in the way of a claim.
pub fn blocker(obstacle: Obstacle) -> Blocker {
    let Obstacle { agent, unit, since, holds } = obstacle;
    Blocker { agent, unit, since, holds }
}

/// All agents, by name; `view` says where an agent's view is mounted.
pub fn agents(state: &State, view: impl Fn(&AgentName) -> Option<PathBuf>) -> Vec<Agent> {
    let is_queued = |name: &AgentName| state.submitted.values().any(|s| s.agent == *name);
    let agent = |(name, known): (&AgentName, &machine::Agent)| {
        let waits = state.locks.claims_of(name).any(|claim| claim.origin != Origin::Start);
        Agent {
            name: name.clone(),
            state: match (known.live, waits, known.may_have_changes()) {
                (Some(_), true, _) => AgentState::Waiting,
                (Some(_), false, _) => AgentState::Running,
                (None, ..) if is_queued(name) => AgentState::Queued,
                (None, _, true) => AgentState::Pending,
                (None, _, false) => AgentState::Idle,
            },
            run: known.latest,
            view: view(name),
            leases: state.locks.leases_of(name).count(),
            changed: known.based.len(),
            conflicts: known.coming.len(),
            last_active: known.last_sign,
        }
    };
    let mut agents: Vec<Agent> = state.agents.iter().map(agent).collect();
    let new = state.submitted.values().filter(|s| !state.agents.contains_key(&s.agent));
    agents.extend(new.map(|submission| Agent {
        name: submission.agent.clone(),
        state: AgentState::Queued,
        run: Some(submission.run),
        view: None,
        leases: 0,
        changed: 0,
        conflicts: 0,
        last_active: since(state, submission),
    }));
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    agents
}

/// All runs, oldest first.
pub fn runs(state: &State) -> Vec<Run> {
    let run = |run: &machine::Run| Run {
        id: run.id,
        agent: run.agent.clone(),
        argv: run.argv.clone(),
        started: run.started,
        queued: false,
        ended: run.ended.map(|(at, _)| at),
        exit: run.ended.map(|(_, exit)| exit),
        outcome: run.outcome.as_ref().map(outcome),
    };
    let queued = |submission: &Submission| Run {
        id: submission.run,
        agent: submission.agent.clone(),
        argv: submission.argv.clone(),
        started: since(state, submission),
        queued: true,
        ended: None,
        exit: None,
        outcome: None,
    };
    let mut runs: Vec<Run> = state.runs.values().map(run).collect();
    runs.extend(state.submitted.values().map(queued));
    runs.sort_by_key(|run| run.id);
    runs
}

/// Since when a run waits to start.
fn since(state: &State, submission: &Submission) -> Timestamp {
    state.locks.claim(submission.claim).map(|claim| claim.since).unwrap_or_default()
}

/// What became of a run's changes.
pub fn outcome(outcome: &machine::Outcome) -> Outcome {
    match outcome {
        machine::Outcome::Nothing => Outcome::Nothing,
        machine::Outcome::Applied(version) => Outcome::Applied { version: *version },
        machine::Outcome::Pending(why) => Outcome::Pending { why: why.clone() },
        machine::Outcome::Discarded => Outcome::Discarded,
    }
}

/// The waits and refusals of a run.
pub fn waits(run: &machine::Run) -> Vec<WaitRecord> {
    let record = |incident: &machine::Incident| WaitRecord {
        unit: incident.unit.clone(),
        millis: u64::try_from(incident.waited.as_millis()).unwrap_or(u64::MAX),
        text: incident.text.clone(),
    };
    run.incidents.iter().map(record).collect()
}

/// The conflicts that come for one agent, or for all.
pub fn coming(state: &State, agent: Option<&AgentName>, now: Timestamp) -> Vec<ComingConflict> {
    let all = state.coming().filter(|(who, _, _)| agent.is_none_or(|agent| agent == *who));
    let tell = |(who, path, coming): (&AgentName, &RelPath, &machine::Coming)| ComingConflict {
        agent: who.clone(),
        path: path.clone(),
        since: coming.since,
        author: coming.author.clone(),
        text: explain::will_conflict(who, path, coming, now),
    };
    all.map(tell).collect()
}

/// An agent's pending work as `agentctl recover` lists it.
pub fn recoverable(
    state: &State,
    agent: &AgentName,
    changes: &ChangeSet,
    conflicts: &[Conflict],
    delta: PathBuf,
) -> Recoverable {
    let known = state.agents.get(agent);
    let run = known.and_then(|known| known.latest);
    let ended = run.and_then(|run| state.runs.get(&run)?.ended);
    let (added, removed) = changes.line_counts();
    Recoverable {
        agent: agent.clone(),
        run,
        exit: ended.map(|(_, exit)| exit),
        ended: ended.map(|(at, _)| at),
        changed: changes.changes.len(),
        added,
        removed,
        sealed: known.is_some_and(|known| known.sealed),
        delta,
        conflicts: conflicts.iter().map(|conflict| conflict.path.clone()).collect(),
    }
}

/// `.agentfs/whoami`.
pub fn whoami(state: &State, agent: &AgentName) -> String {
    let run = state.live_run_of(agent);
    let id = run.map_or_else(|| "none".to_owned(), |run| run.id.to_string());
    let unclaimed = run.map_or("none", |run| match run.policy.unclaimed {
        agentfs_core::config::Unclaimed::Claim => "claim",
        agentfs_core::config::Unclaimed::Deny => "deny",
        agentfs_core::config::Unclaimed::Ask => "ask",
    });
    let newest = state.base_version;
    let base = match run.map(|run| run.base) {
        Some(base) if base != newest => format!("{base} (newest {newest}: `agentctl sync`)"),
        _ => newest.to_string(),
    };
    format!("agent: {agent}\nrun: {id}\nbase: {base}\nunclaimed: {unclaimed}\n")
}

/// `.agentfs/explain`.
pub fn explanation_for(state: &State, agent: &AgentName, now: Timestamp) -> String {
    let sentences = explain::explain(state, None, Some(agent), now);
    if sentences.is_empty() {
        return "Nothing waits and nothing was refused.\n".to_owned();
    }
    sentences.join("\n") + "\n"
}
