//! What can be asked of the machine, and what it answers.

use super::event::{After, Exit, ProcessMark, RefusalKind, Settings};
use super::moving::{BaseFacts, Moved};
use super::{MOST_UNITS, OPERATOR};
use crate::changeset::{Action, Before};
use crate::ids::{AgentName, BaseVersion, ClaimId, RunId};
use crate::locks::Origin;
use crate::path::RelPath;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::reads::Fingerprint;
use crate::unit::WorkUnit;
use crate::want::Want;
use std::time::Duration;

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Registers a run, which starts when it is its turn and it can have what it begins with.
    /// Answer: [`Reply::Started`], or [`Reply::Waiting`] with the claim whose grant starts it.
    StartRun(Box<RunRequest>),
    /// Says what holds for all runs together.
    Configure(Settings),
    /// A sign of life.
    Heartbeat {
        /// Of which run.
        run: RunId,
    },
    /// A process that a rule names has begun in a run, or is gone with all that it started.
    NoteProcess {
        /// Which run's.
        run: RunId,
        /// What it holds.
        unit: WorkUnit,
        /// Its command line; none when it is gone.
        began: Option<Vec<String>>,
        /// Its number outside.
        pid: u32,
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
    /// The agent's run has opened files for reading.
    NoteReads {
        /// Whose.
        agent: AgentName,
        /// Each with the version that its view showed.
        paths: Vec<(RelPath, Fingerprint)>,
    },
    /// A claim gives up: its process is gone.
    Cancel {
        /// Which.
        claim: ClaimId,
    },
    /// The operator gives a claim another place in the queue.
    MoveClaim {
        /// Which.
        claim: ClaimId,
        /// Where to.
        to: Line,
    },
    /// The operator agrees to a claim, and has it granted ahead of all others.
    Grant {
        /// Which.
        claim: ClaimId,
        /// Whether those who hold what it wants lose it.
        steal: bool,
    },
    /// The operator refuses a claim.
    Refuse {
        /// Which.
        claim: ClaimId,
        /// Why, for people.
        why: Option<String>,
    },
    /// The operator takes a unit from those who hold something of it; their work is kept.
    Steal {
        /// What.
        unit: WorkUnit,
        /// Who gets it; nobody for the first in line.
        to: Option<AgentName>,
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

/// A run to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// Whose; none for a free short name.
    pub agent: Option<AgentName>,
    /// The command line.
    pub argv: Vec<String>,
    /// What its writes meet; of the rules, those for other agents are left out.
    pub policy: Policy,
    /// The process whose end is the run's end.
    pub process: ProcessMark,
    /// The live run that it works for, if for one.
    pub parent: Option<RunId>,
    /// Which runs have to end first.
    pub after: Vec<After>,
    /// What it begins with, all or nothing.
    pub wants: Vec<Want>,
    /// What it has declared; its units are among `wants`.
    pub plan: Option<Plan>,
    /// How long it may wait before it starts; none for ever.
    pub wait: Option<Duration>,
}

/// A place in the queue that the operator names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Ahead of all.
    First,
    /// Right ahead of this claim.
    Before(ClaimId),
    /// Behind all.
    Last,
}

/// Who makes a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The agent that wants it.
    Agent,
    /// The operator, who may give what agents may not take.
    Operator,
}

/// A wish for units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// For whom.
    pub agent: AgentName,
    /// All of these, or none.
    pub wants: Vec<Want>,
    /// How long it may wait; none for the run's policy.
    pub wait: Option<Duration>,
    /// What for, for people: "open", "rename", "claim".
    pub cause: String,
    /// Asked for, or needed by a write.
    pub origin: Origin,
    /// By whom.
    pub by: Asker,
    /// What else changes with it, whoever holds it: what is below a directory that is renamed.
    pub touches: Vec<RelPath>,
    /// For a rename: the path that gets another name, and that name. A lease that was asked for
    /// goes with it.
    pub moves: Option<(RelPath, RelPath)>,
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
    /// Taken from these, who may have lost work to be sealed.
    Stolen(Vec<(AgentName, WorkUnit)>),
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
    /// The agent has a run that waits to start.
    #[error("a run of {0} ({1}) is waiting to start already (see `agentctl queue`)")]
    AlreadyQueued(AgentName, RunId),
    /// A run that had to succeed has not.
    #[error("{0} did not succeed, and this run was to start only if it did")]
    Unsuccessful(RunId),
    /// There never was such a run.
    #[error("there is no run {0} (see `agentctl runs`)")]
    UnknownRun(RunId),
    /// It begins with too much.
    #[error("{0} units are too many for one claim; claim directories (at most {MOST_UNITS} units)")]
    TooManyUnits(usize),
    /// The policy keeps agents from what it begins with.
    #[error("{0}")]
    OutOfBounds(String),
    /// It would wait for itself.
    #[error("{0}")]
    Deadlock(String),
    /// Somebody holds what a claim wants.
    #[error(
        "{holder} holds {unit}, which {claim} wants; take it away with `agentctl grant {claim} --steal` ({holder}'s work is kept)"
    )]
    StillHeld {
        /// What the operator wanted to grant.
        claim: ClaimId,
        /// Who holds something of it.
        holder: AgentName,
        /// What.
        unit: WorkUnit,
    },
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
