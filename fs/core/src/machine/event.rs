//! What can happen: the journal's vocabulary.
//!
//! Each event carries what is needed to fold it and to say it in a sentence. Variants and fields
//! are only ever added (with a default), because journals outlive versions of this program.

use super::moving::{Author, Moved};
use crate::changeset::Before;
use crate::config::Span;
use crate::ids::{AgentName, BaseVersion, ClaimId, RunId, Token};
use crate::locks::{Claim, Lease, Rank};
use crate::path::RelPath;
use crate::plan::Plan;
use crate::policy::{Access, Policy};
use crate::reads::Fingerprint;
use crate::unit::WorkUnit;
use crate::want::Want;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A run began; its agent, if new, with it.
    RunStarted {
        /// Its id.
        run: RunId,
        /// Whose.
        agent: AgentName,
        /// The command line.
        argv: Vec<String>,
        /// What its writes meet.
        policy: Policy,
        /// The process whose end is the run's end.
        process: ProcessMark,
        /// For whose run it works: what that agent holds is not in its way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<AgentName>,
        /// What it has declared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
    },
    /// A run waits before it starts: for its turn, for other runs, for the units it begins with.
    RunQueued {
        /// What it will be.
        submission: Box<Submission>,
    },
    /// What holds for all runs has changed.
    Configured {
        /// What holds from here on.
        settings: Settings,
    },
    /// A run ended.
    RunEnded {
        /// Which.
        run: RunId,
        /// Whose.
        agent: AgentName,
        /// How.
        exit: Exit,
        /// How many paths its agent has changed and not applied.
        changed: usize,
        /// Why they are not applied.
        why: String,
    },
    /// A sign of life that prolongs the agent's leases.
    Renewed {
        /// Whose.
        agent: AgentName,
    },
    /// A process of a run was named by a rule, and goes on with its unit held.
    ProcessBegan {
        /// Which run's.
        run: RunId,
        /// Whose.
        agent: AgentName,
        /// What it holds.
        unit: WorkUnit,
        /// The command line.
        argv: Vec<String>,
        /// Its number outside.
        pid: u32,
    },
    /// A named process, and all that it had started, is gone.
    ProcessEnded {
        /// Which run's.
        run: RunId,
        /// Whose.
        agent: AgentName,
        /// What it held.
        unit: WorkUnit,
        /// Its number outside.
        pid: u32,
    },
    /// A unit is held.
    Granted {
        /// All about it.
        lease: Lease,
    },
    /// A lease ended.
    LeaseEnded {
        /// Which.
        token: Token,
        /// Whose.
        agent: AgentName,
        /// On what.
        unit: WorkUnit,
        /// Why.
        why: LeaseEnd,
    },
    /// A claim waits.
    Queued {
        /// All about it.
        claim: Claim,
        /// Why, in a sentence.
        why: String,
    },
    /// The operator has given a claim another place in the queue.
    ClaimMoved {
        /// Which.
        claim: ClaimId,
        /// Whose.
        agent: AgentName,
        /// What its place follows from now.
        rank: Rank,
    },
    /// The operator has agreed to a claim that had to be asked for.
    Approved {
        /// Which.
        claim: ClaimId,
        /// Whose.
        agent: AgentName,
    },
    /// A claim waits no more.
    ClaimEnded {
        /// Which.
        claim: ClaimId,
        /// Whose.
        agent: AgentName,
        /// How.
        end: ClaimEnd,
        /// The wait, in a sentence.
        text: String,
        /// What it was for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        wants: Vec<Want>,
    },
    /// A write was refused without a wait.
    Refused {
        /// Whose.
        agent: AgentName,
        /// To what.
        unit: WorkUnit,
        /// Why.
        why: RefusalKind,
        /// The same in a sentence.
        text: String,
    },
    /// An agent writes a path for the first time.
    Based {
        /// Who.
        agent: AgentName,
        /// Which.
        path: RelPath,
        /// What base held then.
        before: Before,
    },
    /// A run has opened files for reading.
    Read {
        /// Whose.
        agent: AgentName,
        /// Each with the version that its view showed.
        paths: Vec<(RelPath, Fingerprint)>,
    },
    /// A path is again as it is in base.
    Forgotten {
        /// Whose.
        agent: AgentName,
        /// Which.
        path: RelPath,
    },
    /// An apply is about to change base.
    ApplyBegun {
        /// Whose changes.
        agent: AgentName,
        /// Which paths.
        paths: Vec<RelPath>,
        /// Where the new contents are staged.
        stage: String,
        /// The steps.
        plan: String,
    },
    /// Base has a new version.
    Applied {
        /// Whose changes.
        agent: AgentName,
        /// The new version.
        version: BaseVersion,
        /// Which paths.
        paths: Vec<RelPath>,
        /// Those of them that the agent has written again meanwhile, and what that is based on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rebased: Vec<(RelPath, Before)>,
    },
    /// Changes stay pending.
    Pending {
        /// Whose.
        agent: AgentName,
        /// Why.
        why: String,
    },
    /// Changes were dropped.
    Discarded {
        /// Whose.
        agent: AgentName,
    },
    /// The delta of discarded changes is cleared.
    DeltaCleared {
        /// Whose.
        agent: AgentName,
    },
    /// A view was moved to the newest version of base while its run lives.
    Synced {
        /// Whose.
        agent: AgentName,
        /// Which version that is.
        version: BaseVersion,
        /// What the view shows otherwise than before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        moved: Vec<Moved>,
    },
    /// Base has changed under a path that an agent has written: its next apply would be refused.
    ConflictComes {
        /// Whose changes.
        agent: AgentName,
        /// Where.
        path: RelPath,
        /// Whose apply did it; none for a change by hand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        author: Option<Author>,
    },
    /// Base is again as it was when the agent first wrote the path.
    ConflictGone {
        /// Whose changes.
        agent: AgentName,
        /// Where.
        path: RelPath,
    },
    /// Changes have outlived their leases.
    Sealed {
        /// Whose.
        agent: AgentName,
    },
}

/// What holds for all runs together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How many runs may be alive at once; none for any number.
    #[serde(default)]
    pub max_parallel: Option<usize>,
    /// Of which named units more than one holder is allowed, and how many.
    #[serde(default)]
    pub slots: BTreeMap<WorkUnit, usize>,
    /// How long leases that no run has claimed outlive the last sign of life, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

/// A run that another waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Which has to end first.
    pub run: RunId,
    /// Whether its command has to exit with status 0.
    #[serde(default)]
    pub succeeded: bool,
}

/// A run that waits before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The id that it will have.
    pub run: RunId,
    /// Whose.
    pub agent: AgentName,
    /// The command line.
    pub argv: Vec<String>,
    /// What its writes will meet.
    pub policy: Policy,
    /// The process that waits for it.
    pub process: ProcessMark,
    /// For whose run it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AgentName>,
    /// Which runs have to end first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// What it has declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Its claim, with its place in the queue.
    pub claim: ClaimId,
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
    /// Which boot that was (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

/// How a run's command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// Its shim vanished, so nobody knows.
    Lost,
    /// It never started: what it had to hold was not granted, or the sandbox could not be built.
    NotStarted,
}

impl fmt::Display for Exit {
    /// Completes the sentence "the command ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(status) => write!(f, "exited with status {status}"),
            Self::Signal(number) => write!(f, "was ended by signal {number}"),
            Self::Lost => write!(f, "was lost: its shim vanished"),
            Self::NotStarted => write!(f, "never started"),
        }
    }
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEnd {
    /// It was given back.
    Released,
    /// The changes under it became part of base.
    Applied,
    /// The changes under it were dropped.
    Discarded,
    /// Its run ended without changes.
    RunEnded,
    /// Its run gave no sign of life for too long.
    Expired,
    /// The path it was for is again as in base.
    Forgotten,
    /// The operator took it.
    Stolen,
    /// Its holder has the unit exclusively now.
    Upgraded,
    /// Its holder works no more for the one beside whose lease it was.
    Parted,
}

impl fmt::Display for LeaseEnd {
    /// Completes the sentence "it is free again: ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Released => "released",
            Self::Applied => "its changes were applied",
            Self::Discarded => "its changes were discarded",
            Self::RunEnded => "its run ended without changes",
            Self::Expired => "no sign of life for too long",
            Self::Forgotten => "the path is again as in base",
            Self::Stolen => "the operator took it",
            Self::Upgraded => "it became an exclusive one",
            Self::Parted => "it was only beside the lease of the one that the agent worked for",
        })
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimEnd {
    /// The units are held.
    Granted,
    /// The deadline passed.
    TimedOut,
    /// The process that waited is gone.
    Cancelled,
    /// The run that waited ended.
    RunEnded,
    /// The operator refused it.
    Refused,
    /// To wait on would be to wait for itself.
    Deadlock,
    /// A run that had to succeed first did not.
    Impossible,
}

/// Why a write was refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It is not claimed, and `unclaimed = "deny"`.
    Denied,
    /// To wait would be to wait for itself.
    Deadlock,
    /// Base has a version that the run has not read.
    Stale,
    /// The agent has no live run.
    NoRun,
    /// The policy keeps agents from writing it, or lets them only with the operator's leave.
    OutOfBounds(Access),
    /// Too many units at once, or too many claims that wait.
    TooMany,
}
