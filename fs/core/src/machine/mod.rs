//! The state machine of one workspace: agents, runs, leases, the queue, what has been applied.
//!
//! `apply(command, now)` decides, folds the resulting events into the state and returns them for
//! the journal; [`Machine::fold`] rebuilds the same state from those events alone (G7). Nothing
//! here reads a clock or a file: the caller passes the time, and as [`PathFacts`] what it has seen
//! on disk. A command that makes no sense now is a [`Rejection`] and changes nothing; a write that
//! is refused is a normal outcome with an event, so that it can be explained later (G8).
//!
//! A lease belongs to an agent and outlives the run that took it while the agent's changes are
//! neither applied nor discarded, but not longer than its time to live after the last sign of
//! life: then the changes are *sealed* (kept, without leases).

mod claims;
mod command;
mod decide;
mod event;
mod fold;
mod moving;
mod runs;
#[cfg(test)]
mod tests;

pub use crate::policy::Policy;
pub use command::{
    Asker, ClaimRequest, Command, Line, PathFacts, Read, Rejection, Reply, RunRequest,
};
pub use event::{
    After, ClaimEnd, Event, Exit, LeaseEnd, ProcessMark, RefusalKind, Settings, Submission,
};
pub use fold::Misfit;
pub use moving::{Author, BaseFacts, Coming, Moved};

use crate::changeset::BasedOn;
use crate::config::Span;
use crate::estimate::Habits;
use crate::ids::{AgentName, BaseVersion, ClaimId, RunId, Token};
use crate::locks::{Claim, Lease, LockTable, Priority};
use crate::path::RelPath;
use crate::plan::Plan;
use crate::reads::Reads;
use crate::time::Timestamp;
use crate::unit::WorkUnit;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The name under which the operator claims units; no run may have it.
pub const OPERATOR: &str = "operator";

/// How many units one claim may be for.
pub const MOST_UNITS: usize = 10_000;

/// How many claims of one agent may wait at once.
pub const MOST_CLAIMS: usize = 1_000;

/// How many waits and refusals are kept to be explained.
const INCIDENTS_KEPT: usize = 256;

/// Why it is not a run's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A run of the same agent is alive.
    SameAgent(RunId),
    /// It starts after this one.
    After(RunId),
    /// As many runs are alive, or ahead of it, as may be alive.
    Parallel(usize),
}

/// An agent as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its live run.
    pub live: Option<RunId>,
    /// Its latest run.
    pub latest: Option<RunId>,
    /// What each path it has written was based on.
    pub based: BasedOn,
    /// What it has read, and what its changes that are pending rest on.
    pub reads: Reads,
    /// Where base has changed under that since.
    pub coming: BTreeMap<RelPath, Coming>,
    /// Whether its latest run left changes that are neither applied nor discarded.
    pub pending: bool,
    /// Whether its changes were discarded, but its delta is not known to be cleared yet.
    pub clearing: bool,
    /// Whether its changes have outlived their leases.
    pub sealed: bool,
    /// The last sign of life.
    pub last_sign: Timestamp,
    /// How long its leases outlive that.
    pub ttl: Duration,
}

/// A run as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub agent: AgentName,
    /// The command line.
    pub argv: Vec<String>,
    /// What its writes meet.
    pub policy: Policy,
    /// The process whose end is the run's end.
    pub process: ProcessMark,
    /// When it began.
    pub started: Timestamp,
    /// The version of base that its view was moved to last, as a whole.
    pub base: BaseVersion,
    /// When and how it ended.
    pub ended: Option<(Timestamp, Exit)>,
    /// What became of its changes; none while it lives.
    pub outcome: Option<Outcome>,
    /// For whose run it works.
    pub parent: Option<AgentName>,
    /// What it has declared.
    pub plan: Option<Plan>,
    /// Every unit it has held.
    pub units: BTreeSet<WorkUnit>,
    /// Every path it has written.
    pub written: BTreeSet<RelPath>,
    /// Every named process it has run.
    pub processes: BTreeSet<WorkUnit>,
    /// Its waits and refusals.
    pub incidents: Vec<Incident>,
}

/// What became of a run's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There were none.
    Nothing,
    /// They are part of base.
    Applied(BaseVersion),
    /// They wait, for this reason.
    Pending(String),
    /// They were dropped.
    Discarded,
}

/// A wait that has ended, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When it was over.
    pub at: Timestamp,
    /// Whose write it was.
    pub agent: AgentName,
    /// What it was about.
    pub unit: WorkUnit,
    /// How long it waited.
    pub waited: Duration,
    /// One sentence (G8).
    pub text: String,
}

/// An apply that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underway {
    /// Which paths.
    pub paths: Vec<RelPath>,
    /// Where the new contents are staged.
    pub stage: String,
    /// The steps, in the daemon's own format.
    pub plan: String,
}

/// The state of one workspace. Read it through the fields; change it by [`Machine::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// All agents that ever ran.
    pub agents: BTreeMap<AgentName, Agent>,
    /// All runs.
    pub runs: BTreeMap<RunId, Run>,
    /// The runs that wait before they start.
    pub submitted: BTreeMap<RunId, Submission>,
    /// What holds for all runs together.
    pub settings: Settings,
    /// Leases and queue.
    pub locks: LockTable,
    /// How long units are held, as it has been.
    pub habits: Habits,
    /// How many change sets have been applied.
    pub base_version: BaseVersion,
    /// Applies that have begun and not ended.
    pub underway: BTreeMap<AgentName, Underway>,
    /// When each version of base was made, and by whom.
    pub applied: BTreeMap<BaseVersion, (Timestamp, AgentName)>,
    /// Who last changed each path, while a run may live whose view is older than that.
    pub recent: BTreeMap<RelPath, Author>,
    /// The latest waits and refusals, oldest first.
    pub incidents: VecDeque<Incident>,
    /// The last number that was given out, of each kind.
    last_token: Token,
    last_claim: ClaimId,
    last_run: RunId,
}

impl Agent {
    /// Whether it may have changes that are neither applied nor discarded.
    pub fn may_have_changes(&self) -> bool {
        self.pending || !self.based.is_empty()
    }
}

impl State {
    /// The agent, or why there is none.
    pub fn agent(&self, name: &AgentName) -> Result<&Agent, Rejection> {
        self.agents.get(name).ok_or_else(|| {
            let known = self.agents.keys().cloned().collect();
            Rejection::NoSuchAgent { name: name.clone(), known }
        })
    }

    /// The live run with this id.
    pub fn live_run(&self, id: RunId) -> Result<&Run, Rejection> {
        self.runs.get(&id).filter(|run| run.ended.is_none()).ok_or(Rejection::NoSuchRun(id))
    }

    /// The live run of an agent.
    pub fn live_run_of(&self, agent: &AgentName) -> Option<&Run> {
        self.runs.get(&self.agents.get(agent)?.live?)
    }

    /// How much a claim that waits matters beside others.
    pub fn priority_of(&self, claim: &Claim) -> Priority {
        let queued = claim.run.and_then(|run| self.submitted.get(&run)).map(|s| &s.policy);
        let alive = || claim.run.and_then(|run| self.runs.get(&run)).map(|run| &run.policy);
        queued.or_else(alive).map(|policy| policy.priority).unwrap_or_default()
    }

    /// When a lease ends if its agent gives no sign of life.
    pub fn lease_ends(&self, lease: &Lease) -> Timestamp {
        self.ends(&lease.agent, lease.ttl)
    }

    fn ends(&self, agent: &AgentName, ttl: Option<Span>) -> Timestamp {
        let known = self.agents.get(agent);
        known.map_or(Timestamp::default(), |a| a.last_sign.plus(ttl.map_or(a.ttl, |ttl| ttl.0)))
    }

    /// How long the leases of the agent that end first outlive its last sign of life.
    pub fn shortest_ttl(&self, agent: &AgentName) -> Result<Duration, Rejection> {
        let known = self.agent(agent)?;
        let own = self.locks.ttls_of(agent).flatten().map(|ttl| ttl.0);
        Ok(own.min().map_or(known.ttl, |own| own.min(known.ttl)))
    }

    /// When the first of the agent's leases ends if it gives no sign of life.
    fn first_lease_ends(&self, agent: &AgentName) -> Option<Timestamp> {
        self.locks.ttls_of(agent).map(|ttl| self.ends(agent, ttl)).min()
    }

    /// What keeps a run from starting as far as turns go.
    pub fn turns(&self, submission: &Submission) -> Vec<Turn> {
        let mut turns = Vec::new();
        if let Some(run) = self.agents.get(&submission.agent).and_then(|agent| agent.live) {
            turns.push(Turn::SameAgent(run));
        }
        let is_over = |after: &&After| {
            !self.submitted.contains_key(&after.run)
                && self.runs.get(&after.run).is_none_or(|run| run.ended.is_some())
        };
        turns.extend(
            submission.after.iter().filter(|after| !is_over(after)).map(|a| Turn::After(a.run)),
        );
        // A run that is ahead and waits for units leaves its room to others meanwhile.
        let alive = self.agents.values().filter(|agent| agent.live.is_some()).count();
        turns.extend(self.settings.max_parallel.filter(|most| alive >= *most).map(Turn::Parallel));
        turns
    }

    /// The next time at which [`Command::Tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let wait = self.locks.next_deadline().map(|(at, _)| at);
        let leases = self.locks.holders().filter_map(|agent| self.first_lease_ends(agent));
        leases.chain(wait).min()
    }
}

/// The state and the rules that change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    state: State,
}

impl Machine {
    /// The present state.
    pub fn state(&self) -> &State {
        &self.state
    }
}
