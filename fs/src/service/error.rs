//! Why the service refuses or fails, in sentences for users.

use crate::changeset::ChangeSetError;
use crate::fuse::MountError;
use crate::git::GitError;
use crate::store::StoreError;
use crate::view::{ScratchError, ViewError};
use agentfs_api::types::{ErrorCode, StaleRead};
use agentfs_core::changeset::Conflict;
use agentfs_core::config::InvalidConfig;
use agentfs_core::machine::{Misfit, Rejection};
use agentfs_core::policy::Access;
use agentfs_core::{AgentName, RelPath};
use std::io;
use std::path::{Path, PathBuf};

/// The journal could not be written: what was decided is undone, and nobody is told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing was done, because {why}")]
pub struct NotRecorded {
    /// Whether it is for want of space.
    pub full: bool,
    why: String,
}

impl NotRecorded {
    pub(super) fn new(error: &StoreError, state_dir: &Path) -> Self {
        let full = error.is_full();
        let why = if full {
            format!("{} is full; free some space there, then try again", state_dir.display())
        } else {
            error.to_string()
        };
        Self { full, why }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The journal failed to take it.
    #[error(transparent)]
    NotRecorded(#[from] NotRecorded),
    /// It makes no sense in the present state.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A claim was not granted.
    #[error("{text}")]
    NotGranted {
        /// Whether its deadline passed.
        timed_out: bool,
        /// Who was in the way.
        text: String,
    },
    /// Base is not what the changes were based on (G2).
    #[error(
        "{agent}'s changes can't be applied: base has changed at {} since {agent} first wrote there; \
         look at both (`agentctl diff {agent}`), then redo the change or `agentctl discard {agent}`",
        paths(conflicts)
    )]
    Conflicts {
        /// Whose changes.
        agent: AgentName,
        /// Where.
        conflicts: Vec<Conflict>,
    },
    /// What the changes rest on is not so any more, and `isolation = "serializable"`.
    #[error(
        "{agent}'s changes can't be applied: isolation = \"serializable\", and {} {agent} has read {} changed since: {}; \
         have {agent} look again, or apply all the same with `agentctl apply {agent} --stale`",
        count(stale.len()), if stale.len() == 1 { "was" } else { "were" }, stale_paths(stale)
    )]
    StaleReads {
        /// Whose changes.
        agent: AgentName,
        /// What it has read.
        stale: Vec<StaleRead>,
    },
    /// The policy lets agents not write something that was changed.
    #[error(
        "{agent}'s changes can't be applied: a policy of agentfs.toml says that {path} is {}; \
         {}", access.in_words(), way_out(agent, *access)
    )]
    OutOfBounds {
        /// Whose changes.
        agent: AgentName,
        /// What.
        path: RelPath,
        /// What agents may do there.
        access: Access,
    },
    /// A path of the change set is being written.
    #[error(
        "{agent} has {path} open for writing; apply when it is closed, or after the run has ended"
    )]
    BeingWritten {
        /// Whose.
        agent: AgentName,
        /// Which.
        path: String,
    },
    /// The agent still runs.
    #[error("{0} is running; its changes can be discarded when its run has ended")]
    StillRunning(AgentName),
    /// Runs are alive.
    #[error("{0} still running; wait for them, or unmount with --force, which ends them")]
    RunsAlive(String),
    /// The process that a run was to end with does not exist.
    #[error("no process has the number {0}")]
    NoSuchProcess(u32),
    /// The caller has no right to this.
    #[error("an agent may not {0}; ask the operator")]
    Forbidden(&'static str),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A `scratch` pattern is wrong.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The journal failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal does not fit together.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// A plan in the journal can't be read.
    #[error("the journal's plan for {0}'s apply can't be read; use the agentfs that wrote it")]
    Plan(AgentName),
    /// A view could not be opened.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The repository could not be copied for an agent.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A view could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A change set could not be read or applied.
    #[error(transparent)]
    ChangeSet(#[from] ChangeSetError),
    /// The system failed.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon ends, or its journal failed.
    #[error("the daemon stopped before it could answer; see its log (`agentfs status`)")]
    Stopped,
}

fn paths(conflicts: &[Conflict]) -> String {
    let mut shown: Vec<String> = conflicts.iter().take(3).map(|c| c.path.to_string()).collect();
    if conflicts.len() > shown.len() {
        shown.push(format!("{} more paths", conflicts.len() - shown.len()));
    }
    shown.join(", ")
}

fn way_out(agent: &AgentName, access: Access) -> String {
    match access {
        Access::Protected => {
            format!("look at it (`agentctl diff {agent}`), then `agentctl apply {agent}`")
        }
        _ => format!("have {agent} take it back, or `agentctl discard {agent}`"),
    }
}

fn count(files: usize) -> String {
    if files == 1 { "a file that".to_owned() } else { format!("{files} files that") }
}

fn stale_paths(stale: &[StaleRead]) -> String {
    let mut shown: Vec<&str> = stale.iter().take(3).map(|read| read.text.as_str()).collect();
    if stale.len() > shown.len() {
        shown.push("...");
    }
    shown.join("; ")
}

impl ServiceError {
    /// For `map_err`: what was tried, and with what.
    pub fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Which kind of failure it is, for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => match rejection {
                Rejection::NoSuchAgent { .. }
                | Rejection::NoSuchRun(_)
                | Rejection::NoSuchClaim(_)
                | Rejection::UnknownRun(_)
                | Rejection::NotHeld(..)
                | Rejection::NobodyHolds(_) => ErrorCode::NotFound,
                Rejection::ReservedName | Rejection::TooManyUnits(_) => ErrorCode::BadRequest,
                Rejection::OutOfBounds(_) => ErrorCode::Forbidden,
                Rejection::AlreadyRunning(..)
                | Rejection::AlreadyQueued(..)
                | Rejection::Unsuccessful(_)
                | Rejection::StillHeld { .. }
                | Rejection::Deadlock(_)
                | Rejection::HeldByAnother { .. }
                | Rejection::ApplyUnderway(_)
                | Rejection::NoApply(_) => ErrorCode::Conflict,
            },
            Self::NotGranted { timed_out: true, .. } => ErrorCode::TimedOut,
            Self::NotGranted { timed_out: false, .. }
            | Self::Conflicts { .. }
            | Self::StaleReads { .. }
            | Self::BeingWritten { .. }
            | Self::StillRunning(_)
            | Self::RunsAlive(_) => ErrorCode::Conflict,
            Self::Forbidden(_) | Self::OutOfBounds { .. } => ErrorCode::Forbidden,
            Self::BadRequest(_) | Self::NoSuchProcess(_) | Self::Config(_) | Self::Scratch(_) => {
                ErrorCode::BadRequest
            }
            Self::NotRecorded(_)
            | Self::Store(_)
            | Self::Misfit(_)
            | Self::Plan(_)
            | Self::View(_)
            | Self::Git(_)
            | Self::Mount(_)
            | Self::ChangeSet(_)
            | Self::Io { .. }
            | Self::Stopped => ErrorCode::Internal,
        }
    }
}
