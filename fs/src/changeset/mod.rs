//! Change sets on disk: from an agent's delta to a list of changes ([`scan()`]), to a patch that
//! `git apply` accepts ([`patch()`]), and into base, whole or not at all ([`apply`]).
//!
//! A delta is a plain directory in overlayfs's on-disk format: a character device 0:0 is a
//! whiteout, a directory with `trusted.overlay.opaque` or `user.overlay.opaque` = `y` hides what
//! base has below it.
//!
//! What must never happen here: following a symbolic link. What an agent wrote is hostile input,
//! so every path is opened beneath the directory it belongs to by `openat2` with
//! `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` (`tree.rs`), and a file is opened only after it
//! was seen to be a regular one, without blocking.
//!
//! Invariants:
//! - A change whose author never had base's version (`before`) is a conflict, never a silent
//!   overwrite (G2); even a commit that races with a person's save moves that save aside.
//! - What is applied is what was scanned: staged contents are hashed again.
//! - After a crash at any instant, [`resume`] (or [`abandon`], before the commit) leads to a whole
//!   change set or none (G3).

pub mod apply;
mod attributes;
mod commit;
mod encode;
mod hides;
mod lines;
pub mod patch;
pub mod plan;
pub mod scan;
mod stage;
#[cfg(test)]
mod tests;
mod tree;

pub use apply::{Staged, abandon, resume, stage_dir_for, stages, unchanged_since_staged};
pub use hides::hides;
pub use patch::patch;
pub use plan::{Applied, Kept, Owner, Plan, Step};
pub use scan::{conflicts_now, scan, signature};

use agentfs_core::RelPath;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where a change set comes from, and where it goes.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The workspace's real directory: absolute, no component of it a symbolic link.
    pub base: &'a Path,
    /// The agent's delta: likewise.
    pub delta: &'a Path,
    /// Whether a path is scratch; the flag says whether it is a directory. All below a scratch
    /// directory is scratch without being asked for.
    pub is_scratch: &'a (dyn Fn(&RelPath, bool) -> bool + Sync),
}

/// Why a change set could not be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum ChangeSetError {
    /// The file system refused.
    #[error("can't {what} {}: {source}", shown(path.display()))]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A path leads through a symbolic link.
    #[error("{} leads through a symbolic link, which is never followed here; use the real path",
        shown(path.display()))]
    Symlink {
        /// The path.
        path: PathBuf,
    },
    /// The delta uses a feature of overlayfs that this program never writes.
    #[error(
        "the delta's {} has overlayfs's {feature:?} mark, which is not understood; \
        copy the file anew in the view",
        shown(path)
    )]
    Overlay {
        /// Where.
        path: RelPath,
        /// The extended attribute.
        feature: String,
    },
    /// A directory can't give way to a file: it holds what the change set does not delete.
    #[error(
        "{} can't become a file: base still has {} in it, which is not part of the \
        change set; move it away and apply again",
        shown(path),
        shown(by)
    )]
    Occupied {
        /// The directory.
        path: RelPath,
        /// What is in it.
        by: RelPath,
    },
    /// A directory of base is a mount point, so nothing can be renamed into it.
    #[error("{} is on another file system than {}: a change set can't be exchanged whole across \
        file systems; apply it with `git apply` instead", shown(path.display()),
        shown(stage.display()))]
    OtherFileSystem {
        /// Where.
        path: PathBuf,
        /// The staging directory.
        stage: PathBuf,
    },
    /// The delta has moved on since it was scanned.
    #[error("{} has changed in the view since the change set was made; make it again", shown(path))]
    ChangedSinceScan {
        /// Where.
        path: RelPath,
    },
    /// A staging directory is left from an earlier apply.
    #[error("{} is left from an earlier apply; it must be finished or abandoned first",
        shown(path.display()))]
    StageExists {
        /// The staging directory.
        path: PathBuf,
    },
    /// A test's hook stopped the commit.
    #[error("the commit was stopped after step {step}; it can be resumed")]
    Stopped {
        /// How many steps were done.
        step: usize,
    },
}

/// A path for a message: of one that is too long to be read, the two ends.
fn shown(path: impl fmt::Display) -> String {
    const END: usize = 100;
    let text = path.to_string();
    let place = |count: usize| text.char_indices().nth(count).map(|(at, _)| at);
    let length = text.chars().count();
    match (place(END), place(length.saturating_sub(END))) {
        (Some(head), Some(tail)) if length > 3 * END => {
            format!("{} ... {}", &text[..head], &text[tail..])
        }
        _ => text,
    }
}

/// Whether `path` is never part of a change set, whatever git ignores: the virtual directory, and
/// git's own (only the daemon moves refs in base; hooks must not be smuggled in).
fn is_private(path: &RelPath) -> bool {
    let mut components = path.components();
    components.next().is_some_and(|first| first == ".agentfs" || is_stage_name(first))
        || path.components().any(|name| name.eq_ignore_ascii_case(".git"))
}

fn is_stage_name(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".agentfs-stage-")
}
