//! The private `.git` of an agent: a snapshot of the repository's git directory, taken when a run
//! begins, that nothing done to base afterwards reaches, and that an agent can't reach base by.
//!
//! A snapshot stands alone: a directory with the references, the settings and the index of that
//! moment as copies, and the objects as hard links, so that no `git gc` in base takes them away.
//! It is a pin (see [`crate::view`]): a view copies up before it writes, so that base's own inodes
//! are never written. Where objects can't be linked to, because the state lies on another file
//! system, the links are made beside them in base's git directory, and the snapshot names that
//! place as an alternate, which the sandbox shows read-only.
//!
//! Nothing here runs a hook or a filter, nor git but to read settings ([`settings()`]), follows a link that somebody has put
//! into a git directory, or knows of views and runs.

mod aside;
mod dirs;
mod locate;
mod mirror;
mod plan;
mod settings;
mod snapshot;
#[cfg(test)]
mod tests;

pub use aside::{Aside, drop_locks, forget, set_aside};
pub use locate::{Repository, locate};
pub use settings::{Places, settings, user_excludes};
pub use snapshot::{Snapshot, outside_of};

use std::io;
use std::path::PathBuf;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The system refused.
    #[error("an agent's private copy of the repository can't be made: can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else keeps changing it.
    #[error(
        "{} was changed again and again while it was copied; wait for the git command that does it, then start the run again", .0.display()
    )]
    Restless(PathBuf),
}

impl GitError {
    /// For `map_err`: what was tried, and with what.
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.into(), source }
    }
}
