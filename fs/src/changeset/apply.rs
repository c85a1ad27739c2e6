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
//!   replaced is moved aside, and both are reported ([`Kept`](super::Kept)). New and old content change places
//!   in one instant and the old one is looked at then, so no save falls between the two (where
//!   the file system can't exchange, the look comes first).

use super::plan::{Applied, Owner, Plan, Step};
use super::stage::Stage;
use super::tree::{Tree, is_whiteout};
use super::{ChangeSetError, Source, commit};
use crate::stat::signature_of;
use agentfs_core::changeset::{ChangeSet, Signature};
use agentfs_core::{RelPath, RunId};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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
