//! Moving live views to base's newest version, and finding conflicts before an apply meets them.
//!
//! A sync happens on the owner's thread: the layers change, the gate forgets the old versions, the
//! journal is told. What the run had read before counts as stale from then on, because the gate
//! goes on knowing which version that was (G2). Waiting for the kernel and telling watchers is done
//! by whoever asked ([`Service::sync`]).
//!
//! Base is compared with what changes are based on where somebody says that it has changed
//! ([`Service::base_changed`]), after each apply, and when somebody asks
//! ([`Service::look_for_conflicts`]): a look at a whole delta is taken apart from the owner, who
//! then looks again at the few paths that differ, and decides.

use super::{Owner, Service, ServiceError, report};
use crate::attendant::{Attendant, Skips};
use crate::changeset;
use crate::fuse::{Announcing, MountedView};
use crate::gate::{Shift, ViewControl as _};
use crate::layout::AgentDirs;
use crate::watch::{BaseChanges, BaseListener};
use agentfs_api::types::Synced;
use agentfs_core::changeset::{BasedOn, Before, FileKind};
use agentfs_core::machine::{BaseFacts, Command, Reply};
use agentfs_core::{AgentName, RelPath};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the answer to a sync waits for watchers to be told; then that goes on without it.
const TELLING: Duration = Duration::from_millis(250);

/// How long the start of a run waits for its view to be walked; then that goes on without it.
const WARMING: Duration = Duration::from_millis(50);

/// What is left to do after a sync, apart from the owner.
struct Aftermath {
    view: Announcing,
    attendant: Attendant,
    shifts: Vec<Shift>,
}

impl Aftermath {
    /// Waits until the kernel shows the new version, and a moment for watchers to be told.
    fn see_to_it(self) {
        self.view.settle();
        if !self.shifts.is_empty() {
            // Told or not: the sync is done.
            let _ = self.attendant.announce(self.view, self.shifts).wait(TELLING);
        }
    }
}

impl Service {
    /// Moves an agent's live view to base's newest version. When this returns, whoever looks
    /// sees that version, but where the agent's own changes are.
    pub async fn sync(&self, agent: AgentName) -> Result<Synced, ServiceError> {
        let (synced, aftermath) = self.ask(move |owner| owner.sync_agent(&agent)).await?;
        if let Some(aftermath) = aftermath {
            // It fails only if the daemon ends.
            let _ = tokio::task::spawn_blocking(move || aftermath.see_to_it()).await;
        }
        Ok(synced)
    }

    /// Somebody has changed base at `paths`, or below them: journals the conflicts that come of
    /// it, each once. Returns at once.
    pub fn base_changed(&self, paths: Vec<RelPath>) {
        self.send(Box::new(move |owner| owner.base_has_changed(&paths)));
    }

    /// Compares base with what all pending changes are based on. Blocks while it looks.
    pub fn look_for_conflicts(&self) -> Result<(), ServiceError> {
        for survey in self.ask_blocking(|owner| Ok(owner.surveys()))? {
            let differing = survey.differing();
            if !differing.is_empty() {
                let agent = survey.agent;
                self.ask_blocking(move |owner| owner.compare(&agent, None, &differing))?;
            }
        }
        Ok(())
    }

    /// Has the view of a run that begins walked, so that its agent meets a warm one; waits a
    /// moment for it.
    pub async fn warm(&self, agent: AgentName) -> Result<(), ServiceError> {
        let started = self.ask(move |owner| Ok(owner.warm(&agent))).await?;
        if let Some(walk) = started {
            let walked = tokio::task::spawn_blocking(move || walk.wait(WARMING)).await;
            tracing::debug!(entries = ?walked.ok().flatten(), "walked a fresh view");
        }
        Ok(())
    }
}

/// Hears from the watch on base what people change there by hand.
pub(super) struct Ears(pub(super) Service);

impl BaseListener for Ears {
    fn base_changed(&self, changes: &BaseChanges) {
        let changed = changes.paths.union(&changes.subtrees).cloned();
        // Events were lost: anything may have changed.
        let all = changes.all.then(RelPath::root);
        self.0.base_changed(changed.chain(all).collect());
    }
}

/// What is needed to compare base with an agent's changes apart from the owner.
struct Survey {
    agent: AgentName,
    dirs: Compared,
    based: BasedOn,
    coming: BTreeSet<RelPath>,
}

impl Survey {
    /// The paths at which a conflict comes or is gone that nobody knows of.
    fn differing(&self) -> Vec<RelPath> {
        let differs = |(path, before): &(&RelPath, &Before)| {
            self.dirs.facts(path).conflicts_with(**before) != self.coming.contains(*path)
        };
        let differing = self.based.iter().filter(differs);
        differing.map(|(path, _)| path.clone()).collect()
    }
}

/// Base and a delta, to be looked at path by path.
struct Compared {
    base: OwnedFd,
    delta: OwnedFd,
}

impl Compared {
    fn open(base: &Path, delta: &Path) -> Result<Self, ServiceError> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(ServiceError::io("open", path))
        };
        Ok(Self { base: open(base)?, delta: open(delta)? })
    }

    /// What is at `path` now; what can't be looked at counts as absent.
    fn facts(&self, path: &RelPath) -> BaseFacts {
        let base = changeset::signature(&self.base, path).unwrap_or(None);
        let is_dir = |kind| kind == FileKind::Dir;
        let merges = base.is_some_and(|base| is_dir(base.kind))
            && changeset::signature(&self.delta, path)
                .is_ok_and(|mine| mine.is_some_and(|mine| is_dir(mine.kind)));
        BaseFacts { path: path.clone(), base, merges }
    }
}

impl Owner {
    /// Moves an agent's view. That of an agent without a live run is always at the newest version.
    fn sync_agent(
        &mut self,
        agent: &AgentName,
    ) -> Result<(Synced, Option<Aftermath>), ServiceError> {
        let live = self.state().agent(agent)?.live.is_some();
        let Some(served) = self.agents.get(agent).filter(|_| live) else {
            let version = self.state().base_version;
            return Ok((self.synced(agent, Reply::Synced(version, version, Vec::new())), None));
        };
        let failed = ServiceError::io("bring up to date the view of", agent.as_str());
        let advanced = served.view.advance().map_err(failed)?;
        // Only now: what is read until then is still noted as the old version.
        served.gate.unpin_all();
        let aftermath = served.mounted.as_ref().map(|mounted| Aftermath {
            view: mounted.announcing(),
            attendant: self.attendant.clone(),
            shifts: advanced.shown.clone(),
        });
        let moved = advanced.shown.iter().map(|shift| (shift.path.clone(), shift.action()));
        let moved = Command::Sync { agent: agent.clone(), moved: moved.collect() };
        let said = self.command(moved)?;
        self.compare(agent, None, &advanced.covered)?;
        Ok((self.synced(agent, said), aftermath))
    }

    fn synced(&self, agent: &AgentName, said: Reply) -> Synced {
        let (from, version, moved) = match said {
            Reply::Synced(from, version, moved) => (from, version, moved),
            _ => (self.state().base_version, self.state().base_version, Vec::new()),
        };
        let conflicts = report::coming(self.state(), Some(agent), self.clock.now());
        Synced { agent: agent.clone(), from, version, moved, conflicts }
    }

    /// Base has new versions of `paths`, by the apply of `author`: for whom does a conflict come?
    pub(super) fn compare_others(&mut self, author: &AgentName, paths: &[RelPath]) {
        let agents: Vec<AgentName> = self.state().agents.keys().cloned().collect();
        for agent in agents.iter().filter(|agent| *agent != author) {
            if let Err(error) = self.compare(agent, Some(author), paths) {
                tracing::warn!(%agent, %error, "coming conflicts could not be looked for");
            }
        }
    }

    fn base_has_changed(&mut self, paths: &[RelPath]) {
        let agents: Vec<AgentName> = self.state().agents.keys().cloned().collect();
        for agent in &agents {
            if let Err(error) = self.compare(agent, None, paths) {
                tracing::warn!(%agent, %error, "coming conflicts could not be looked for");
            }
        }
    }

    /// Looks at base where `paths`, or what is below them, were written by the agent.
    fn compare(
        &mut self,
        agent: &AgentName,
        by: Option<&AgentName>,
        paths: &[RelPath],
    ) -> Result<(), ServiceError> {
        // What its gate has let through by itself counts too.
        self.collect(agent);
        let based = &self.state().agent(agent)?.based;
        let written: BTreeSet<&RelPath> =
            paths.iter().flat_map(|path| at_and_below(based, path)).collect();
        if written.is_empty() {
            return Ok(());
        }
        let dirs = Compared::open(&self.workspace.root, &self.delta_of(agent))?;
        let facts = written.into_iter().map(|path| dirs.facts(path)).collect();
        self.command(Command::Compare { agent: agent.clone(), by: by.cloned(), facts })?;
        Ok(())
    }

    fn delta_of(&self, agent: &AgentName) -> PathBuf {
        AgentDirs::of(&self.workspace, agent).delta
    }

    /// What there is to compare. An agent whose directories are gone has nothing to lose.
    fn surveys(&mut self) -> Vec<Survey> {
        self.collect_all();
        let with_changes = self.state().agents.iter().filter(|(_, a)| !a.based.is_empty());
        let survey = |(name, agent): (&AgentName, &agentfs_core::machine::Agent)| {
            let dirs = Compared::open(&self.workspace.root, &self.delta_of(name)).ok()?;
            let coming = agent.coming.keys().cloned().collect();
            Some(Survey { agent: name.clone(), dirs, based: agent.based.clone(), coming })
        };
        with_changes.filter_map(survey).collect()
    }

    fn warm(&self, agent: &AgentName) -> Option<crate::attendant::Underway> {
        let mounted = self.agents.get(agent)?.mounted.as_ref()?;
        let skips =
            Skips { base: self.workspace.root.clone(), scratch: self.config.scratch.clone() };
        Some(self.attendant.warm(mounted.mountpoint(), skips))
    }
}

/// Has watchers in a view that is served from now on hear of what people change in base.
pub(super) fn tell_watchers(attendant: &Attendant, mounted: &MountedView) {
    let (attendant, view) = (attendant.clone(), mounted.announcing());
    let tell = move |edits| drop(attendant.announce(view.clone(), edits));
    mounted.view().attach_teller(Some(Arc::new(tell)));
}

/// Of what was written: `path` and what is below it.
pub(super) fn at_and_below<'a>(
    based: &'a BasedOn,
    path: &'a RelPath,
) -> impl Iterator<Item = &'a RelPath> {
    // Ordered by bytes, so all below `path` begin with its bytes, with other names between.
    based
        .range(path..)
        .map(|(noted, _)| noted)
        .take_while(|noted| noted.as_bytes().starts_with(path.as_bytes()))
        .filter(|noted| path.contains(noted))
}
