//! Why a command of `agentfs` failed, in a sentence.

use crate::server::ServerError;
use crate::service::ServiceError;
use agentfs_api::{ApiError, LocateError};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No workspace there.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The state could not be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A socket could not be made.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// It is served already.
    #[error("{} is served already{by}; see `agentfs status`", root.display())]
    AlreadyServed {
        /// The workspace.
        root: PathBuf,
        /// By which process, if known.
        by: String,
    },
    /// It lies inside a workspace that is served.
    #[error(
        "{} lies inside {}, which is served; work there, or `agentfs unmount {}` first", dir.display(), outer.display(), outer.display()
    )]
    Inside {
        /// What was to be served.
        dir: PathBuf,
        /// What is.
        outer: PathBuf,
    },
    /// A workspace that is served lies inside it.
    #[error(
        "{} is served and lies inside {}; `agentfs unmount {}` first", inner.display(), dir.display(), inner.display()
    )]
    Around {
        /// What was to be served.
        dir: PathBuf,
        /// What is.
        inner: PathBuf,
    },
    /// It is an agent's view, not a repository.
    #[error("{} is an agent's view; serve the repository itself", .0.display())]
    InsideView(PathBuf),
    /// The mountpoint is not an empty directory outside the workspace.
    #[error("{} can't be the mountpoint: {why}", path.display())]
    Mountpoint {
        /// Which.
        path: PathBuf,
        /// What to do.
        why: String,
    },
    /// A directory that others could tamper with.
    #[error("{} belongs to another user; remove it, or set AGENTFS_RUNTIME_DIR to a directory of your own", .0.display())]
    NotOurs(PathBuf),
    /// The daemon in the background failed to start.
    #[error("{0}")]
    DaemonFailed(String),
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
    /// The output could not be written.
    #[error("can't write the output: {0}")]
    Output(#[source] io::Error),
}

impl CommandError {
    /// For `map_err`: what was tried, and with what.
    pub fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, path: path.into(), source: source.into() }
    }

    /// The exit status, as `agentfs --help` documents it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Locate(_) | Self::Api(ApiError::NoDaemon(_) | ApiError::Locate(_)) => {
                ExitCode::from(6)
            }
            _ => ExitCode::FAILURE,
        }
    }
}
