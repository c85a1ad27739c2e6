//! What an apply says: the plan that goes into the journal, and what came of it. Values alone, but
//! for the look at who owns base.

use super::ChangeSetError;
use super::tree::Tree;
use agentfs_core::RelPath;
use agentfs_core::changeset::{BasedOn, Before, Signature};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Up to how many entries are synced one by one; beyond, the whole file system is.
pub(super) const FEW: usize = 32;

/// Who owns what a commit makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// Who shall own new files in `base`: the owner of its root directory if this process is
    /// root, else nobody but the process itself (`None`).
    pub fn for_new_files(base: &Path) -> Result<Option<Self>, ChangeSetError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let root = Tree::open(base)?.stat(&RelPath::root())?;
        Ok(root.map(|root| Self { uid: root.st_uid, gid: root.st_gid }))
    }
}

/// One idempotent act on base. Paths are relative to base, `staged` names an entry of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Removes a file or link, if it still is `replaces`.
    Unlink {
        /// Where.
        path: RelPath,
        /// The version that the author deleted.
        replaces: Before,
    },
    /// Removes a directory, if it is empty.
    Rmdir {
        /// Where.
        path: RelPath,
    },
    /// Makes a directory, unless there is one.
    Mkdir {
        /// Where.
        path: RelPath,
        /// The empty directory in the stage.
        staged: String,
    },
    /// Puts a file or link in its place.
    Put {
        /// Where.
        path: RelPath,
        /// The file in the stage.
        staged: String,
        /// The version that the author replaced.
        replaces: Before,
        /// The delta's version that was staged.
        after: Signature,
        /// The staged file itself, which keeps its signature when it is moved into base.
        made: Signature,
    },
    /// Gives a directory its mode and, if it is new, its time, when all is in it.
    Settle {
        /// Where.
        path: RelPath,
        /// Permission bits.
        mode: u32,
        /// Modification time, nanoseconds since the Unix epoch.
        mtime_ns: Option<i64>,
    },
}

impl Step {
    /// The path it acts on.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Unlink { path, .. }
            | Self::Rmdir { path }
            | Self::Mkdir { path, .. }
            | Self::Put { path, .. }
            | Self::Settle { path, .. } => path,
        }
    }
}

/// What a commit will do, in order: with the stage, all that is needed to finish it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// Something that a commit left in base rather than lose it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "kebab-case")]
pub enum Kept {
    /// A directory that was to go holds what the change set does not know: scratch, or a file
    /// that somebody has made since.
    Directory {
        /// Where.
        path: RelPath,
    },
    /// A file or link that was to go is not the version that the author deleted.
    Changed {
        /// Where.
        path: RelPath,
    },
    /// What was in the way of a change is not the version that the author replaced.
    Aside {
        /// Where it was.
        path: RelPath,
        /// Where it is now.
        moved_to: RelPath,
    },
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => write!(
                f,
                "the directory {path} stays: it still holds what is not part of the change set"
            ),
            Self::Changed { path } => write!(
                f,
                "{path} stays: somebody has changed it since the change set was validated"
            ),
            Self::Aside { path, moved_to } => write!(
                f,
                "{path} was changed by somebody else during the apply: their version is now \
                 {moved_to}; compare the two"
            ),
        }
    }
}

/// What a finished commit has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What stayed in base, or was moved aside, rather than be lost.
    pub kept: Vec<Kept>,
    /// What the commit has made of each path of the plan: what its author knows base to hold,
    /// even if somebody has saved there since.
    pub now: BasedOn,
}

/// Times as `futimens` wants them, the access time left alone.
pub(super) fn times(mtime_ns: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    }
}
