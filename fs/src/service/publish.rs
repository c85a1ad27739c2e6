//! From an agent's delta into base: looking at its changes, applying and discarding them.
//!
//! An apply is: the new contents staged, the intent in the journal, old versions pinned for the
//! views that need them, the steps in base, the end in the journal. What is cut off before the
//! intent leaves base as it was; what is cut off after it is finished by the next daemon (G3).

use super::gate::NoWrites;
use super::sync::at_and_below;
use super::{Owner, ServiceError};
use crate::changeset::{self, Plan, Source, Staged};
use crate::gate::ViewControl as _;
use crate::layout::AgentDirs;
use crate::view::{Scratch, View};
use agentfs_api::types::{Outcome, Settled};
use agentfs_core::changeset::{BasedOn, Before, ChangeSet, Conflict};
use agentfs_core::machine::{Command, Underway};
use agentfs_core::policy::Access;
use agentfs_core::{AgentName, RelPath, Want, WorkUnit};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the kernel may take to tell that a file was closed.
const CLOSING: Duration = Duration::from_millis(250);

/// All that is needed to look at an agent's changes, apart from the owner: reading a large delta
/// takes time, and the owner has others to serve.
pub struct Work {
    /// Whose changes.
    pub agent: AgentName,
    base: PathBuf,
    delta: PathBuf,
    scratch: Arc<Scratch>,
    based: BasedOn,
}

/// As long as it lives, the agent's writes stand still; empty for an agent that is not served.
pub(super) struct Still(#[expect(dead_code, reason = "held for its end")] Option<NoWrites>);

impl Work {
    /// What the agent changed. Blocks while it reads the delta.
    pub fn changes(&self) -> Result<ChangeSet, ServiceError> {
        self.with_source(|source| changeset::scan(source, &self.based))
    }

    /// The same as a patch.
    pub fn patch(&self) -> Result<Vec<u8>, ServiceError> {
        let changes = self.changes()?;
        self.with_source(|source| changeset::patch(source, &changes))
    }

    /// Where base is no longer what the changes are based on.
    pub fn conflicts(&self, changes: &ChangeSet) -> Result<Vec<Conflict>, ServiceError> {
        self.with_source(|source| changeset::conflicts_now(source, changes))
    }

    /// Where the delta is.
    pub fn delta(&self) -> &Path {
        &self.delta
    }

    fn stage(&self, changes: &ChangeSet, stage: &Path) -> Result<Staged, ServiceError> {
        let owner = changeset::Owner::for_new_files(&self.base)?;
        self.with_source(|source| Staged::prepare(source, changes, stage, owner))
    }

    fn with_source<T>(
        &self,
        job: impl FnOnce(&Source<'_>) -> Result<T, changeset::ChangeSetError>,
    ) -> Result<T, ServiceError> {
        // What the agent has written under a lease counts, even if base's rules have come to call
        // it scratch meanwhile (G4).
        let is_scratch = |path: &RelPath, is_dir| {
            !has_noted(&self.based, path) && self.scratch.is_scratch(path, is_dir)
        };
        Ok(job(&Source { base: &self.base, delta: &self.delta, is_scratch: &is_scratch })?)
    }

    /// Whether a file at `path` is part of the agent's work.
    pub(super) fn counts(&self, path: &RelPath) -> bool {
        counts(&self.based, &self.scratch, path)
    }
}

impl Owner {
    /// What is needed to look at an agent's changes.
    pub fn work_of(&mut self, agent: &AgentName) -> Result<Work, ServiceError> {
        let based = self.state().agent(agent)?.based.clone();
        let dirs = self.open_view(agent)?;
        Ok(Work {
            agent: agent.clone(),
            base: self.workspace.root.clone(),
            delta: dirs.delta,
            scratch: self.scratch.clone(),
            based,
        })
    }

    pub(super) fn changes_of(&mut self, agent: &AgentName) -> Result<ChangeSet, ServiceError> {
        self.work_of(agent)?.changes()
    }

    /// Makes an agent's changes part of base, whole or not at all.
    /// `stale` says that what they rest on may have changed, whatever the configuration says.
    pub fn apply_agent(&mut self, agent: &AgentName, stale: bool) -> Result<Settled, ServiceError> {
        self.state().agent(agent)?;
        let still = self.stand_still(agent)?;
        let changes = self.changes_of(agent)?;
        let before = self.units_of(agent);
        let outcome = if changes.is_empty() {
            Outcome::Nothing
        } else {
            // Who applies by hand may apply what is protected.
            self.refuse_out_of_bounds(agent, &changes, true)?;
            if !stale {
                self.refuse_stale_reads(agent)?;
            }
            self.apply_set(agent, &changes, still)?;
            Outcome::Applied { version: self.state().base_version }
        };
        Ok(self.settled(agent, changes, outcome, &before))
    }

    /// Refuses changes where the policy lets agents not write, however they came there: a new
    /// directory can be filled under one name and get another.
    pub(super) fn refuse_out_of_bounds(
        &self,
        agent: &AgentName,
        changes: &ChangeSet,
        by_operator: bool,
    ) -> Result<(), ServiceError> {
        let state = self.state();
        let run = state.agent(agent)?.latest.and_then(|run| state.runs.get(&run));
        let Some(policy) = run.map(|run| &run.policy) else { return Ok(()) };
        for change in &changes.changes {
            let want = Want::exclusive(WorkUnit::File(change.path.clone()));
            let access = policy.terms(&want.unit).access;
            let given = || state.locks.held(agent, &want).is_some_and(|lease| lease.by_operator);
            let may = match access {
                Access::Write => true,
                Access::Protected => by_operator || given(),
                Access::ReadOnly | Access::Forbidden => false,
            };
            if !may {
                let path = change.path.clone();
                return Err(ServiceError::OutOfBounds { agent: agent.clone(), path, access });
            }
        }
        Ok(())
    }

    /// Drops an agent's changes.
    pub fn discard_agent(&mut self, agent: &AgentName) -> Result<Settled, ServiceError> {
        if self.state().agent(agent)?.live.is_some() {
            return Err(ServiceError::StillRunning(agent.clone()));
        }
        let changes = self.changes_of(agent)?;
        let before = self.units_of(agent);
        self.command(Command::Discard { agent: agent.clone() })?;
        self.commit()?;
        self.clear_discarded(agent)?;
        Ok(self.settled(agent, changes, Outcome::Discarded, &before))
    }

    /// Takes out of the delta what the journal says is discarded. A daemon that ends before this
    /// is done leaves it to the next one: what was discarded never comes back as a change.
    pub(super) fn clear_discarded(&mut self, agent: &AgentName) -> Result<(), ServiceError> {
        if self.state().agent(agent)?.clearing {
            self.open_view(agent)?;
            self.drop_from_delta(agent, None)?;
            self.command(Command::DeltaCleared { agent: agent.clone() })?;
        }
        Ok(())
    }

    fn settled(
        &self,
        agent: &AgentName,
        changes: ChangeSet,
        outcome: Outcome,
        before: &BTreeSet<WorkUnit>,
    ) -> Settled {
        let released = before.difference(&self.units_of(agent)).cloned().collect();
        Settled { agent: agent.clone(), changes, outcome, released }
    }

    fn units_of(&self, agent: &AgentName) -> BTreeSet<WorkUnit> {
        self.state().locks.leases_of(agent).map(|lease| lease.unit.clone()).collect()
    }

    /// Lets none of the agent's writes begin while the result lives; refuses if it has something
    /// open for writing.
    fn stand_still(&mut self, agent: &AgentName) -> Result<Still, ServiceError> {
        let still = self.stop_writes(agent)?;
        match self.left_open(agent) {
            None => Ok(still),
            Some(path) => {
                let (agent, path) = (agent.clone(), path.to_string());
                Err(ServiceError::BeingWritten { agent, path })
            }
        }
    }

    /// Lets none of the agent's writes begin while the result lives. What it has open for writing
    /// it goes on writing to.
    pub(super) fn stop_writes(&mut self, agent: &AgentName) -> Result<Still, ServiceError> {
        // Writes that were let through and not yet answered would never end otherwise.
        self.commit_as_asked()?;
        let still = Still(self.agents.get(agent).map(|served| served.gate.stop_writes()));
        // What has gone through until now.
        self.collect(agent);
        Ok(still)
    }

    /// Where an agent whose writes stand still may write on nevertheless. Blocks for a moment if
    /// it has something open.
    pub(super) fn left_open(&self, agent: &AgentName) -> Option<RelPath> {
        let based = &self.state().agent(agent).ok()?.based;
        let view = &self.agents.get(agent)?.view;
        being_written(view, |path| counts(based, &self.scratch, path))
    }

    /// Applies `changes`, which are not empty, and tells the views.
    pub(super) fn apply_set(
        &mut self,
        agent: &AgentName,
        changes: &ChangeSet,
        still: Still,
    ) -> Result<(), ServiceError> {
        let paths: Vec<RelPath> = changes.changes.iter().map(|c| c.path.clone()).collect();
        let work = self.work_of(agent)?;
        let conflicts = work.conflicts(changes)?;
        if !conflicts.is_empty() {
            return Err(ServiceError::Conflicts { agent: agent.clone(), conflicts });
        }
        let run = self.state().agent(agent)?.latest.unwrap_or_default();
        let staged = work.stage(changes, &changeset::stage_dir_for(&self.workspace.root, run)?)?;
        if let Err(error) = self.begin_apply(agent, paths, &staged) {
            changeset::abandon(staged.stage_dir())?;
            return Err(error);
        }
        self.pin_elsewhere(agent, changes);
        let plan = staged.plan().clone();
        let stage = staged.stage_dir().to_owned();
        let applied = staged.commit().or_else(|error| {
            // Base is half changed now: the one way is forward.
            tracing::error!(%agent, %error, "an apply was interrupted; going on with it");
            changeset::resume(&self.workspace.root, &stage, &plan)
        })?;
        self.finish_apply(agent, &plan, &applied, still)
    }

    /// The intent is in the journal when this returns.
    fn begin_apply(
        &mut self,
        agent: &AgentName,
        paths: Vec<RelPath>,
        staged: &Staged,
    ) -> Result<(), ServiceError> {
        let plan =
            serde_json::to_string(staged.plan()).map_err(|_| ServiceError::Plan(agent.clone()))?;
        let stage = staged.stage_dir().to_string_lossy().into_owned();
        self.command(Command::BeginApply { agent: agent.clone(), paths, stage, plan })?;
        Ok(self.commit()?)
    }

    /// Other agents' live views go on showing what they showed.
    fn pin_elsewhere(&self, author: &AgentName, changes: &ChangeSet) {
        let old: Vec<(RelPath, Before)> =
            changes.changes.iter().map(|change| (change.path.clone(), change.before)).collect();
        let paths: Vec<RelPath> = old.iter().map(|(path, _)| path.clone()).collect();
        let live = |agent: &AgentName| self.state().live_run_of(agent).is_some();
        for (agent, served) in self.agents.iter().filter(|(a, _)| *a != author && live(a)) {
            served.gate.pin(old.iter().cloned());
            // Without pins its view moves forward early; what it has read still counts as old, so
            // a write that is based on it is refused.
            if let Err(error) = served.view.pin(&paths) {
                tracing::warn!(%agent, %error, "old versions could not be kept");
            }
        }
    }

    fn finish_apply(
        &mut self,
        agent: &AgentName,
        plan: &Plan,
        applied: &changeset::Applied,
        still: Still,
    ) -> Result<(), ServiceError> {
        for kept in &applied.kept {
            tracing::warn!(%agent, "{kept}");
        }
        let live = self.state().live_run_of(agent).is_some();
        let rebased = self.take_out(agent, plan, applied)?;
        if !live && rebased.is_empty() {
            // Nobody writes any more: what is left was copied up and not changed.
            self.drop_from_delta(agent, None)?;
        }
        // Before others hear of it: one of them may be a write of this very agent that waits.
        drop(still);
        self.command(Command::FinishApply { agent: agent.clone(), rebased })?;
        let paths: Vec<RelPath> = applied.now.keys().cloned().collect();
        self.compare_others(agent, &paths);
        self.refresh_idle_views();
        Ok(())
    }

    /// Takes what was applied out of the delta, and lets the agent's view show base there. Says
    /// where the agent has written again since the staging, and on what.
    fn take_out(
        &mut self,
        agent: &AgentName,
        plan: &Plan,
        applied: &changeset::Applied,
    ) -> Result<Vec<(RelPath, Before)>, ServiceError> {
        let delta = AgentDirs::of(&self.workspace, agent).delta;
        let done = changeset::unchanged_since_staged(&delta, plan)?;
        self.drop_from_delta(agent, Some(&done))?;
        let now = applied.now.iter().map(|(path, version)| (path.clone(), *version));
        let taken_out: BTreeSet<&RelPath> = done.iter().collect();
        let (settled, rebased) = now.partition::<Vec<_>, _>(|(path, _)| taken_out.contains(path));
        if let Some(served) = self.agents.get(agent) {
            let synced = served.view.sync(Some(&done));
            synced.map_err(ServiceError::io("bring up to date the view of", agent.as_str()))?;
            served.gate.published(&settled);
        }
        Ok(rebased)
    }

    pub(super) fn drop_from_delta(
        &self,
        agent: &AgentName,
        paths: Option<&[RelPath]>,
    ) -> Result<(), ServiceError> {
        let Some(served) = self.agents.get(agent) else { return Ok(()) };
        let dropped = served.view.drop_from_delta(paths);
        dropped.map_err(ServiceError::io("clear the delta in", &self.workspace.state_dir))
    }

    /// Finishes the applies that the last daemon began, and removes stages that it had not yet
    /// put into the journal. One that can't be finished is no reason not to serve: its agent can
    /// apply nothing until a later daemon has finished it.
    pub(super) fn finish_applies(&mut self) -> Result<(), ServiceError> {
        for (agent, apply) in self.state().underway.clone() {
            match self.resume_apply(&agent, &apply) {
                Ok(()) => tracing::info!(%agent, "finished an apply that was cut off"),
                Err(error) => tracing::error!(%agent, %error, "an apply is still cut off"),
            }
        }
        self.commit()?;
        let underway: Vec<PathBuf> =
            self.state().underway.values().map(|apply| PathBuf::from(&apply.stage)).collect();
        let left = changeset::stages(&self.workspace.root)?.into_iter().map(|(_, stage)| stage);
        for stage in left.filter(|stage| !underway.contains(stage)) {
            changeset::abandon(&stage)?;
        }
        Ok(())
    }

    fn resume_apply(&mut self, agent: &AgentName, apply: &Underway) -> Result<(), ServiceError> {
        let plan: Plan =
            serde_json::from_str(&apply.plan).map_err(|_| ServiceError::Plan(agent.clone()))?;
        let applied = changeset::resume(&self.workspace.root, Path::new(&apply.stage), &plan)?;
        self.open_view(agent)?;
        self.finish_apply(agent, &plan, &applied, Still(None))
    }
}

/// Whether a file at `path` is part of an agent's work: it is no scratch, or has been noted.
fn counts(based: &BasedOn, scratch: &Scratch, path: &RelPath) -> bool {
    has_noted(based, path) || !scratch.is_scratch(path, false)
}

/// Whether the path, or something below it, was written under a lease.
fn has_noted(based: &BasedOn, path: &RelPath) -> bool {
    at_and_below(based, path).next().is_some()
}

/// One of the paths that `counts` picks and that is open for writing: a file that is being written
/// is neither its old nor its new version.
///
/// The kernel tells of a file's last close after the fact, so that what a process has just closed,
/// or had open when it ended, may count as open for a moment longer: only what stays open for
/// [`CLOSING`] is being written. Blocks so long.
pub(super) fn being_written(view: &View, counts: impl Fn(&RelPath) -> bool) -> Option<RelPath> {
    let asked = Instant::now();
    loop {
        let open = view.open_for_writing().into_iter().find(|path| counts(path));
        if open.is_none() || asked.elapsed() >= CLOSING {
            return open;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
