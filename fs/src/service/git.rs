//! Each agent's private copy of the repository: when it begins, when it is set aside, what the
//! sandbox has to show for it. How it is made is for [`crate::git`] to know.

use super::{Owner, ServiceError};
use crate::git::{self, Aside, Repository, Snapshot};
use crate::layout::AgentDirs;
use crate::view::GIT_ABOVE;
use agentfs_api::types::Place;
use agentfs_core::{AgentName, RunId};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The name of git's directory in a worktree.
const GIT: &str = ".git";

impl Owner {
    /// Gives a run that begins a `.git` of its own, as base's is now, unless changes are still
    /// pending that the agent's present one may belong to. Says what the sandbox has to show
    /// beside the view. Blocks for some milliseconds.
    pub(super) fn begin_git(
        &mut self,
        run: RunId,
        agent: &AgentName,
    ) -> Result<Vec<Place>, ServiceError> {
        let dirs = self.open_view(agent)?;
        let pending = self.state().agent(agent)?.may_have_changes();
        let found = git::locate(&self.workspace.root, self.only())?;
        let is_root = found.as_ref().is_none_or(|found| found.worktree == self.workspace.root);
        let name = OsStr::new(if is_root { GIT } else { GIT_ABOVE });
        let beside = found.as_ref().map(|found| self.beside(found, agent)).unwrap_or_default();
        if !pending {
            for (each, label) in [(GIT, "git"), (GIT_ABOVE, "git-above")] {
                let label = format!("{label}-before-{run}");
                let aside = self.aside(agent, &dirs, OsStr::new(each), &label, &beside);
                let Some(aside) = aside else { continue };
                git::set_aside(&aside)?;
                // Base may have become another repository, or none.
                if found.is_none() || name != each {
                    git::forget(&aside)?;
                }
            }
        }
        let Some(repository) = found else { return Ok(Vec::new()) };
        if !pending {
            self.take_snapshot(agent, &dirs, &repository, name, &beside)?;
        } else if dirs.pins.join(name).is_dir() || dirs.delta.join(name).exists() {
            git::drop_locks(&dirs.delta, name)?;
        } else {
            self.take_snapshot(agent, &dirs, &repository, name, &beside)?;
        }
        Ok(self.places(&repository, &dirs.pins.join(name), agent))
    }

    fn take_snapshot(
        &self,
        agent: &AgentName,
        dirs: &AgentDirs,
        repository: &Repository,
        name: &OsStr,
        beside: &Path,
    ) -> Result<(), ServiceError> {
        let is_root = repository.worktree == self.workspace.root;
        let snapshot = Snapshot {
            repository,
            pins: &dirs.pins,
            name,
            trash: &dirs.trash,
            beside,
            root: is_root.then_some(self.workspace.root.as_path()),
            only: self.only(),
        };
        snapshot.take()?;
        let secluded = self.agents.get(agent).map_or(Ok(()), |served| served.view.seclude(name));
        secluded.map_err(ServiceError::io("keep base's .git out of", &dirs.pins))
    }

    /// Removes what agents that have nothing pending do not need any more: the copies that they
    /// worked on. What has commits in it stays.
    pub(super) fn forget_idle_gits(&mut self) -> Result<(), ServiceError> {
        let repository = git::locate(&self.workspace.root, self.only())?;
        let idle: Vec<AgentName> = self
            .state()
            .agents
            .iter()
            .filter(|(_, agent)| agent.live.is_none() && !agent.may_have_changes())
            .map(|(name, _)| name.clone())
            .collect();
        for agent in idle {
            let dirs = AgentDirs::of(&self.workspace, &agent);
            let pinned = |name: &&&str| dirs.pins.join(name).is_dir();
            for name in [GIT, GIT_ABOVE].iter().filter(pinned) {
                let dirs = self.open_view(&agent)?;
                let beside = repository.as_ref().map(|found| self.beside(found, &agent));
                let beside = beside.unwrap_or_default();
                let aside = self.aside(&agent, &dirs, OsStr::new(name), "", &beside);
                aside.map_or(Ok(()), |aside| git::forget(&aside))?;
            }
        }
        Ok(())
    }

    fn aside<'a>(
        &self,
        agent: &AgentName,
        dirs: &'a AgentDirs,
        name: &'a OsStr,
        label: &'a str,
        beside: &'a Path,
    ) -> Option<Aside<'a>> {
        let opaque = self.agents.get(agent)?.view.opaque_attribute();
        let AgentDirs { delta, pins, kept, trash, .. } = dirs;
        Some(Aside { delta, pins, name, kept, label, trash, beside, opaque })
    }

    /// The sandbox shows the view over the workspace. A repository that begins above it is shown
    /// read-only, so that git finds the files it knows of, with the agent's git directory in it.
    fn places(&self, repository: &Repository, snapshot: &Path, agent: &AgentName) -> Vec<Place> {
        let read_only = |dir: PathBuf| Place { from: dir.clone(), at: dir, writable: false };
        let root = &self.workspace.root;
        let mut places: Vec<Place> = git::outside_of(snapshot)
            .into_iter()
            .filter(|dir| !dir.starts_with(root) || dir.starts_with(&repository.git_dir))
            .map(read_only)
            .collect();
        if repository.worktree != *root {
            places.push(read_only(repository.worktree.clone()));
            places.push(Place {
                from: self.mountpoint.join(agent.as_str()).join(GIT_ABOVE),
                at: repository.git_dir.clone(),
                writable: true,
            });
        }
        places
    }

    /// Where links to objects are made if they can't be made in the state directory.
    fn beside(&self, repository: &Repository, agent: &AgentName) -> PathBuf {
        let id = self.workspace.state_dir.file_name().unwrap_or_default();
        repository.common_dir.join("agentfs").join(id).join(agent.as_str())
    }

    /// Root's daemon must not show the workspace's owner what is not his to read.
    fn only(&self) -> Option<u32> {
        let (user, owner) = (rustix::process::geteuid(), self.files.host.0);
        (user.is_root() && owner != 0).then_some(owner)
    }
}
