//! Why a command failed: for people a sentence, for programs an exit code.

use crate::exit::Exit;
use agentfs_api::types::ErrorCode;
use agentfs_api::{ApiError, LocateError};
use agentfs_core::unit::InvalidUnit;
use agentfs_core::{AgentName, WorkUnit};
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The user stands in no workspace.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// There is a repository, but never was a daemon.
    #[error(
        "no agent was ever run in {}; run one there by `agentshim run -- CMD`", .0.display()
    )]
    NeverUsed(PathBuf),
    /// Inside a sandbox: its control socket is dead.
    #[error(
        "the daemon of this sandbox does not answer on {}; it ended, or it is starting again: try again in a moment", .0.display()
    )]
    DeadSocket(PathBuf),
    /// The daemon ended while its log was followed.
    #[error("the daemon has ended, and the log with it; any agentctl command starts it again")]
    LogEnded,
    /// The user named a path that is not below the workspace's root.
    #[error("{} is outside the workspace {}; name a path below it", path.display(), root.display())]
    Outside {
        /// What was named.
        path: PathBuf,
        /// The workspace's root.
        root: PathBuf,
    },
    /// The user named something that is no work unit.
    #[error(transparent)]
    Unit(#[from] InvalidUnit),
    /// A question must be asked, and there is nobody to ask.
    #[error(
        "a discard can't be undone, and there is no terminal to ask on: add --yes if you mean it"
    )]
    NeedsYes,
    /// The user said no.
    #[error("nothing was discarded")]
    Declined,
    /// The daemon answered an apply by keeping the changes.
    #[error("{agent}'s changes are not applied: {why}")]
    NotApplied {
        /// Whose.
        agent: AgentName,
        /// The daemon's reason.
        why: String,
    },
    /// One of several agents was refused, so the ones after it were left alone.
    #[error("{source}; not tried: {}", join(left))]
    Stopped {
        /// What stopped it.
        source: Box<Error>,
        /// The agents that were not tried.
        left: Vec<AgentName>,
    },
    /// Another `agentctl with` of the same agent holds the unit.
    #[error(
        "{0} is held by another `agentctl with` of the same caller, and the wait is over; wait for its command to end"
    )]
    SameCaller(WorkUnit),
    /// A signal came before there was a command to pass it on to.
    #[error("interrupted before the command was started")]
    Interrupted(u8),
    /// Signals could not be taken.
    #[error("signals can't be passed on: {0}")]
    Signals(nix::errno::Errno),
    /// The current directory is gone or can't be read.
    #[error("the current directory can't be read ({0}); change to another one")]
    CurrentDir(io::Error),
    /// The answer could not be written.
    #[error("the output could not be written: {0}")]
    Output(io::Error),
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pager could not be started.
    #[error("the pager {pager:?} could not be started ({source}); try --no-pager")]
    Pager {
        /// Its command.
        pager: String,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The exit code that tells a program what a sentence tells people.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Api(error) => of_api(error),
            Self::Locate(_) | Self::NeverUsed(_) | Self::DeadSocket(_) | Self::LogEnded => {
                Exit::NoDaemon
            }
            Self::Outside { .. } | Self::Unit(_) | Self::NeedsYes => Exit::Usage,
            Self::NotApplied { .. } => Exit::Refused,
            Self::SameCaller(_) => Exit::TimedOut,
            Self::Stopped { source, .. } => source.exit(),
            Self::Declined
            | Self::Interrupted(_)
            | Self::Signals(_)
            | Self::CurrentDir(_)
            | Self::Output(_)
            | Self::Write { .. }
            | Self::Pager { .. } => Exit::Failure,
        }
    }

    /// The daemon's refusal in it, if that is what it is.
    pub fn refusal(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error @ ApiError::Refused { .. }) => Some(error),
            Self::Stopped { source, .. } => source.refusal(),
            _ => None,
        }
    }
}

fn of_api(error: &ApiError) -> Exit {
    match error {
        ApiError::NoDaemon(_) | ApiError::Start { .. } | ApiError::Locate(_) => Exit::NoDaemon,
        ApiError::Transport(_) | ApiError::NotOurs(_) => Exit::Failure,
        ApiError::Refused { code, .. } => match code {
            ErrorCode::BadRequest => Exit::Usage,
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Conflict => Exit::Refused,
            ErrorCode::TimedOut => Exit::TimedOut,
            ErrorCode::Forbidden => Exit::Forbidden,
            ErrorCode::Internal => Exit::Failure,
        },
    }
}

fn join(agents: &[AgentName]) -> String {
    agents.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ")
}
