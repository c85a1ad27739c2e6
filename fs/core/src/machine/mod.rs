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

mod decide;
mod event;
mod fold;
mod moving;
#[cfg(test)]
mod tests;

pub use event::{ClaimEnd, Event, Exit, LeaseEnd, Policy, ProcessMark, RefusalKind};
pub use fold::Misfit;
pub use moving::{Author, BaseFacts, Coming, Moved};

use crate::changeset::{Action, BasedOn, Before};
use crate::ids::{AgentName, BaseVersion, ClaimId, RunId, Token};
use crate::locks::{LockTable, Origin};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::{Mode, WorkUnit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The name under which the operator claims units; no run may have it.
pub const OPERATOR: &str = "operator";

/// How many waits and refusals are kept to be explained.
const INCIDENTS_KEPT: usize = 256;

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Registers a run. Answer: [`Reply::Started`].
    StartRun {
        /// Whose; none for a free short name.
        agent: Option<AgentName>,
        /// The command line.
        argv: Vec<String>,
        /// What its writes meet.
        policy: Policy,
        /// The process whose end is the run's end.
        process: ProcessMark,
    },
    /// A sign of life.
    Heartbeat {
        /// Of which run.
        run: RunId,
    },
    /// Ends a run. Its waiting claims end; its leases stay while `changed` is not 0.
    EndRun {
        /// Which.
        run: RunId,
        /// How its command ended.
        exit: Exit,
        /// How many paths the agent has changed and not applied.
        changed: usize,
        /// Why the changes are not applied, for people.
        why: String,
    },
    /// Wants units, all or none. Answer: [`Reply::Granted`], [`Reply::Waiting`] or
    /// [`Reply::Refused`].
    Claim(ClaimRequest),
    /// Before a write whose units are held: notes what it is based on, or refuses it as stale.
    /// Answer: [`Reply::Granted`] or [`Reply::Refused`].
    Admit {
        /// Who writes.
        agent: AgentName,
        /// For people: "open", "rename".
        cause: String,
        /// What is known of each path that is written.
        facts: Vec<PathFacts>,
    },
    /// A claim gives up: its process is gone.
    Cancel {
        /// Which.
        claim: ClaimId,
    },
    /// Gives a lease back.
    Release {
        /// Whose.
        agent: AgentName,
        /// On what: exactly this unit.
        unit: WorkUnit,
    },
    /// A path is again as it is in base: the lease that a write took for it ends.
    Forget {
        /// Whose.
        agent: AgentName,
        /// Which.
        path: RelPath,
    },
    /// An apply is about to change base.
    BeginApply {
        /// Whose changes.
        agent: AgentName,
        /// Which paths.
        paths: Vec<RelPath>,
        /// Where the new contents are staged.
        stage: String,
        /// The steps, in the daemon's own format.
        plan: String,
    },
    /// The apply is done: base has a new version.
    FinishApply {
        /// Whose changes.
        agent: AgentName,
        /// The paths that the agent has written again since they were staged, and what base holds
        /// there now: the agent's newest work is based on that.
        rebased: Vec<(RelPath, Before)>,
    },
    /// The changes stay pending, for this reason.
    KeepPending {
        /// Whose changes.
        agent: AgentName,
        /// Why, for people.
        why: String,
    },
    /// The agent's changes are dropped: its delta is to be cleared, and nothing in it counts.
    Discard {
        /// Whose.
        agent: AgentName,
    },
    /// The delta has been cleared.
    DeltaCleared {
        /// Whose.
        agent: AgentName,
    },
    /// The agent's view shows base's newest version. Answer: [`Reply::Synced`].
    Sync {
        /// Whose.
        agent: AgentName,
        /// What it shows otherwise than before.
        moved: Vec<(RelPath, Action)>,
    },
    /// Base was looked at under what the agent has written: notes the conflicts that come, and
    /// those that are gone.
    Compare {
        /// Whose changes.
        agent: AgentName,
        /// Whose apply has just changed base there; none if it was looked at for another reason.
        by: Option<AgentName>,
        /// What base has now.
        facts: Vec<BaseFacts>,
    },
    /// Time has passed: waits end at their deadline, leases at the end of their time to live.
    Tick,
}

/// A wish for units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// For whom.
    pub agent: AgentName,
    /// All of these, or none.
    pub units: Vec<WorkUnit>,
    /// Shared or exclusive.
    pub mode: Mode,
    /// How long it may wait; none for the run's policy.
    pub wait: Option<Duration>,
    /// What for, for people: "open", "rename", "claim".
    pub cause: String,
    /// Asked for, or needed by a write.
    pub origin: Origin,
}

/// What is on disk for a path that is about to be written (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// Which.
    pub path: RelPath,
    /// What the run last opened for reading.
    pub read: Read,
    /// The version in base now.
    pub base: Before,
    /// Whether the agent's delta has something of its own there, so that the view does not show
    /// what base has.
    pub own: bool,
}

/// What a run has read of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing.
    Never,
    /// This version.
    Version(Before),
    /// Nobody knows: a new daemon serves the run, and what was read died with the old one.
    Unknown,
}

impl PathFacts {
    /// Whether the run would overwrite what it has not read (G2). Over its own work it goes on:
    /// base's version is not there to be read.
    pub fn is_stale(&self) -> bool {
        match self.read {
            _ if self.own => false,
            Read::Never => false,
            Read::Version(read) => read != self.base,
            Read::Unknown => true,
        }
    }

    /// What the write is based on, where no note says so. If the agent's delta has the path
    /// already, the note of that was lost with a daemon: nobody knows which version of base it
    /// was, so it counts as new, and never as the newest.
    pub(crate) fn based_on(&self) -> Before {
        if self.own { None } else { self.base }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The run has begun.
    Started(RunId, AgentName),
    /// The units are held, or the write may go on.
    Granted,
    /// The claim waits; [`Event::ClaimEnded`] tells its end.
    Waiting(ClaimId),
    /// The view was at one version of base and is at another, and this is what moved.
    Synced(BaseVersion, BaseVersion, Vec<Moved>),
    /// Refused at once; the events explain it.
    Refused(RefusalKind),
    /// Done.
    Done,
}

/// A command that makes no sense in the present state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no agent of this name.
    #[error("no agent is called {name}{}", list(known))]
    NoSuchAgent {
        /// The name that was given.
        name: AgentName,
        /// The names that there are.
        known: Vec<AgentName>,
    },
    /// The agent has a live run.
    #[error("{0} is already running ({1}); give another name with --agent, or wait for it to end")]
    AlreadyRunning(AgentName, RunId),
    /// The name is the operator's.
    #[error("the name {OPERATOR:?} stands for you, the operator; give the agent another one")]
    ReservedName,
    /// There is no such live run.
    #[error("{0} is not running (see `agentctl runs`)")]
    NoSuchRun(RunId),
    /// There is no such claim.
    #[error("{0} does not wait any more (see `agentctl queue`)")]
    NoSuchClaim(ClaimId),
    /// The agent does not hold the unit.
    #[error("{0} does not hold {1} (see `agentctl locks`)")]
    NotHeld(AgentName, WorkUnit),
    /// No agent holds the unit.
    #[error("nobody holds {0} (see `agentctl locks`)")]
    NobodyHolds(WorkUnit),
    /// Another agent holds a path of the change set.
    #[error(
        "{path} is held by {holder}; apply or discard {holder}'s changes first, or release it: `agentctl release {unit} --agent {holder}`"
    )]
    HeldByAnother {
        /// The path.
        path: RelPath,
        /// Who holds it.
        holder: AgentName,
        /// As part of this unit.
        unit: WorkUnit,
    },
    /// The change set holds a path whose base nobody knows.
    #[error("an apply of {0}'s changes has begun and not ended; restart the daemon to finish it")]
    ApplyUnderway(AgentName),
    /// There is no apply to end.
    #[error("no apply of {0}'s changes has begun")]
    NoApply(AgentName),
}

fn list(agents: &[AgentName]) -> String {
    if agents.is_empty() {
        return "; no agent has run here yet (start one with `agentshim run -- CMD`)".to_owned();
    }
    let names: Vec<&str> = agents.iter().map(AgentName::as_str).collect();
    format!(" (known: {})", names.join(", "))
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
    /// Every unit it has held.
    pub units: BTreeSet<WorkUnit>,
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
    /// Leases and queue.
    pub locks: LockTable,
    /// How many change sets have been applied.
    pub base_version: BaseVersion,
    /// Applies that have begun and not ended.
    pub underway: BTreeMap<AgentName, Underway>,
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

    /// When the agent's leases end if it gives no sign of life.
    pub fn leases_end(&self, agent: &AgentName) -> Timestamp {
        self.agents.get(agent).map_or(Timestamp::default(), |a| a.last_sign.plus(a.ttl))
    }

    /// The next time at which [`Command::Tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let waits = self.locks.queue().map(|claim| claim.deadline);
        let holders = self.agents.keys().filter(|a| self.locks.leases_of(a).next().is_some());
        waits.chain(holders.map(|agent| self.leases_end(agent))).min()
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
