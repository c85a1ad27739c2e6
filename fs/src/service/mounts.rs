//! Scratch that is mounted past the view while a run lives: what the owner prepares for it, and
//! what becomes of it. The shim does the mounting.

use super::{Owner, ServiceError};
use crate::layout::AgentDirs;
use crate::view::Found;
use agentfs_api::types::{ScratchDirectory, ScratchMounts, ScratchOwner};
use agentfs_core::{AgentName, RelPath, RunId};
use std::path::PathBuf;

/// Where something is mounted.
fn mountpoints() -> procfs::ProcResult<Vec<PathBuf>> {
    let mounts = procfs::process::Process::myself()?.mountinfo()?;
    Ok(mounts.0.into_iter().map(|mount| mount.mount_point).collect())
}

/// The most directories that are mounted for one run. Each costs the run some 2 ms of a processor,
/// nearly all of it the kernel's for making and ending such a mount. The view serves the others.
pub(super) const MOST: usize = 64;

impl Owner {
    /// Makes ready what can be mounted of `found`; none if nothing. What can't is served by the
    /// view, so a failure is no reason for a run not to begin.
    pub(super) fn prepare_mounts(
        &self,
        agent: &AgentName,
        dirs: &AgentDirs,
        found: &[Found],
    ) -> Option<ScratchMounts> {
        let view = &self.agents.get(agent)?.view;
        let own = [&self.workspace.state_dir, &self.workspace.runtime_dir, &self.mountpoint];
        let mounts = mountpoints().inspect_err(|error| {
            tracing::warn!(%agent, %error, "no scratch is mounted");
        });
        let mounts = mounts.ok()?;
        let ready = |found: &Found| {
            let at = self.workspace.root.join(found.path.to_path_buf());
            // A layer must not lie in another one. And overlayfs sees no mounts in its layers.
            let in_it = |path: &&PathBuf| path.starts_with(&at);
            if own.iter().any(in_it) || mounts.iter().any(|path| in_it(&path)) {
                return None;
            }
            let over_base = view.prepare_mount(found).unwrap_or_else(|error| {
                tracing::warn!(%agent, path = %found.path, %error, "scratch is not mounted");
                None
            })?;
            Some(ScratchDirectory { path: found.path.clone(), over_base })
        };
        let directories: Vec<ScratchDirectory> = found.iter().filter_map(ready).collect();
        let paths: Vec<RelPath> = directories.iter().map(|one| one.path.clone()).collect();
        let layers = dirs.make_mounts(&paths).inspect_err(|error| {
            tracing::warn!(%agent, %error, "no scratch is mounted");
        });
        let layers = layers.ok().filter(|_| !directories.is_empty())?.to_owned();
        view.set_foreign(paths);
        let crate::view::Owner { host, shown } = self.files;
        Some(ScratchMounts {
            layers,
            user_format: view.has_user_format(),
            owner: (host != shown).then_some(ScratchOwner { host, shown }),
            directories,
        })
    }

    /// The shim could not mount these: the view serves them.
    pub fn unmounted(
        &mut self,
        run: RunId,
        directories: &[(RelPath, String)],
    ) -> Result<(), ServiceError> {
        let agent = self.state().live_run(run)?.agent.clone();
        for (path, why) in directories {
            tracing::warn!(%run, %agent, %path, why, "scratch is served by the view");
        }
        if let Some(served) = self.agents.get(&agent) {
            let mut foreign = served.view.foreign();
            foreign.retain(|path| !directories.iter().any(|(unmounted, _)| unmounted == path));
            let dirs = AgentDirs::of(&self.workspace, &agent);
            if let Err(error) = dirs.note_mounts(&foreign) {
                tracing::warn!(%agent, %error, "the next daemon will not know what is mounted");
            }
            served.view.set_foreign(foreign);
        }
        Ok(())
    }

    /// Takes up what the last daemon knew of a run: where scratch is mounted past the view. Who
    /// stood there when that daemon died goes on there, and changes the delta past the new view too.
    pub(super) fn recall_mounts(&mut self, agent: &AgentName) -> Result<(), ServiceError> {
        let dirs = self.open_view(agent)?;
        if let Some(served) = self.agents.get(agent) {
            served.view.set_foreign(dirs.noted_mounts());
        }
        Ok(())
    }

    /// The run is over, and its mounts with it.
    pub(super) fn forget_mounts(&self, agent: &AgentName) {
        if let Err(error) = AgentDirs::of(&self.workspace, agent).forget_mounts() {
            tracing::warn!(%agent, %error, "the note of what was mounted is still there");
        }
        if let Some(served) = self.agents.get(agent)
            && let Err(error) = served.view.forget_mounts()
        {
            tracing::warn!(%agent, %error, "directories made for mounts stay in the delta");
        }
    }
}
