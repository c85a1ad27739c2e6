//! A change set into base, whole or not at all (G3): a transaction in two types.
//!
//! ```text
//!   Staged::prepare ── all new contents written and synced beside base; base untouched
//!        │  the caller writes `plan()` into the journal: from here on the set will be applied
//!   Staged::commit ─── renames, removals, new directories; synced; the stage removed
//!        │  the caller writes "done"
//! ```
//!
//! After a crash: a stage with its plan in the journal is finished by [`resume`]; one without was
//! never committed and is removed by [`abandon`] ([`stages`] lists them).
//!
//! Invariants:
//! - Every step is idempotent: from the state before it or after it, it ends in the state after.
//! - No step fails for what a person does to base meanwhile, so a commit can always be finished.
//! - No step removes or replaces a version that is not the one the author built on, even if a
//!   person saves in the middle: a file that was to be deleted stays, a file that was to be
//!   replaced is moved aside, and both are reported ([`Kept`]). New and old content change places
//!   in one instant and the old one is looked at then, so no save falls between the two (where
//!   the file system can't exchange, the look comes first).

use super::stage::Stage;
use super::tree::{Tree, is_whiteout};
use super::{ChangeSetError, Source, commit};
use crate::stat::signature_of;
use agentfs_core::changeset::{BasedOn, Before, ChangeSet, Signature};
use agentfs_core::{RelPath, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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

/// A change set whose contents are all on base's file system, synced; base is untouched.
///
/// Dropping it leaves the stage where it is, for [`resume`] or [`abandon`].
#[derive(Debug)]
#[must_use = "a staged change set is neither applied nor removed by itself"]
pub struct Staged {
    base: PathBuf,
    stage_dir: PathBuf,
    plan: Plan,
}

impl Staged {
    /// Writes all new contents of `changes` into the new directory `stage_dir`, which must be on
    /// base's file system, and syncs them. On an error nothing is left.
    ///
    /// Validates what would make a commit fail half-way: that each directory is one (not a link),
    /// can be written, is on the same file system, and can give way where a file takes its place.
    /// It does not look for conflicts.
    pub fn prepare(
        source: &Source<'_>,
        changes: &ChangeSet,
        stage_dir: &Path,
        owner: Option<Owner>,
    ) -> Result<Self, ChangeSetError> {
        let stage = Stage::make(source, stage_dir, owner)?;
        let plan = match stage.fill(changes) {
            Ok(plan) => plan,
            Err(error) => {
                if let Err(left) = abandon(stage_dir) {
                    tracing::warn!("a stage is left: {left}");
                }
                return Err(error);
            }
        };
        Ok(Self { base: source.base.to_owned(), stage_dir: stage_dir.to_owned(), plan })
    }

    /// What the commit will do: to be in the journal before it begins.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where the contents are.
    pub fn stage_dir(&self) -> &Path {
        &self.stage_dir
    }

    /// Performs the plan, syncs base's directories and removes the stage. Blocks for as long as
    /// that takes. After an error, [`resume`] goes on from wherever it stopped.
    pub fn commit(self) -> Result<Applied, ChangeSetError> {
        self.commit_watched(&mut |_| ControlFlow::Continue(()))
    }

    /// Like [`Staged::commit`]; `hook` is called with the number of steps done after each one,
    /// and once more before the stage is removed, and can stop it there: for tests of crashes.
    pub fn commit_watched(
        self,
        hook: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Applied, ChangeSetError> {
        commit::perform(&self.base, &self.stage_dir, &self.plan, hook)
    }
}

/// Finishes a commit that was cut off at any instant, also after its last. It reports what it
/// keeps itself; what the first try has moved aside is where it was moved to.
pub fn resume(base: &Path, stage_dir: &Path, plan: &Plan) -> Result<Applied, ChangeSetError> {
    commit::perform(base, stage_dir, plan, &mut |_| ControlFlow::Continue(()))
}

/// Removes a stage that was never committed. Nothing happens if it is gone.
pub fn abandon(stage_dir: &Path) -> Result<(), ChangeSetError> {
    commit::remove_stage(stage_dir)
}

/// The paths of `plan` at which the delta still is what was staged, and which it therefore need
/// not have any more when the plan is done. At the others the agent has written again since: to
/// drop those would lose its newest work (G4).
pub fn unchanged_since_staged(delta: &Path, plan: &Plan) -> Result<Vec<RelPath>, ChangeSetError> {
    let delta = Tree::open(delta)?;
    let mut unchanged = BTreeSet::new();
    for step in &plan.steps {
        let path = step.path();
        let now = delta.stat(path)?;
        let is_same = match step {
            Step::Put { after, .. } => now.is_some_and(|now| {
                let now = signature_of(&now);
                Signature { mode: super::scan::mode_in_base(now), ..now } == *after
            }),
            Step::Unlink { .. } | Step::Rmdir { .. } => now.is_none_or(|now| is_whiteout(&now)),
            Step::Mkdir { .. } | Step::Settle { .. } => true,
        };
        if is_same {
            unchanged.insert(path.clone());
        }
    }
    Ok(unchanged.into_iter().collect())
}

/// Where to stage the change set of `run`: inside base's `.git` if that is a directory of the
/// same file system (git and views never look there), else at base's root.
pub fn stage_dir_for(base: &Path, run: RunId) -> Result<PathBuf, ChangeSetError> {
    Ok(match git_dir(base)? {
        Some(git) => git.join("agentfs").join(format!("stage-{run}")),
        None => base.join(format!(".agentfs-stage-{run}")),
    })
}

fn git_dir(base: &Path) -> Result<Option<PathBuf>, ChangeSetError> {
    let tree = Tree::open(base)?;
    let git = RelPath::root().join(".git".as_ref());
    let root = tree.stat(&RelPath::root())?;
    let found = tree.stat(&git)?.filter(|found| {
        crate::stat::kind_of(found) == agentfs_core::changeset::FileKind::Dir
            && root.is_some_and(|root| root.st_dev == found.st_dev)
    });
    Ok(found.map(|_| base.join(".git")))
}

/// The stages that earlier applies have left in `base`: for recovery.
pub fn stages(base: &Path) -> Result<Vec<(RunId, PathBuf)>, ChangeSetError> {
    let places = [(base.join(".git/agentfs"), "stage-"), (base.to_owned(), ".agentfs-stage-")];
    let mut found = Vec::new();
    for (dir, prefix) in places {
        let tree = match Tree::open(&dir) {
            Ok(tree) => tree,
            // `.git` is missing, a file or a link: then nothing is staged in it.
            Err(_) if dir != base => continue,
            Err(error) => return Err(error),
        };
        for name in tree.names(&RelPath::root())? {
            let run = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if let Some(run) = run.and_then(|run| run.parse().ok()) {
                found.push((run, dir.join(&name)));
            }
        }
    }
    Ok(found)
}
