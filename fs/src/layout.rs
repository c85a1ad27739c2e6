//! Where things are inside a workspace's state directory, and whose files they are.
//!
//! ```text
//! STATE/journal.db              the journal
//! STATE/daemon.log              what a daemon in the background has to say
//! STATE/mountpoint              where the views of the daemon that serves, or that died, are
//! STATE/agents/NAME/delta/      the agent's changes, in overlayfs's on-disk format
//! STATE/agents/NAME/work/       overlayfs's work directory
//! STATE/agents/NAME/mounts/     work directories of the run's scratch mounts, by number, and which
//!                               they are (`paths`, each with a NUL at its end)
//! STATE/agents/NAME/pins/       old versions of base that the agent's view still shows, and the
//!                               snapshot of base's `.git` that its own `.git` is a delta over
//! STATE/agents/NAME/home/       the agent's home
//! STATE/agents/NAME/kept/       private `.git`s of runs whose changes are settled, by next run
//! STATE/agents/NAME/trash/      what is about to be removed
//! COMMON/agentfs/ID/NAME/       links to base's objects in its own git directory (COMMON), where
//!                               STATE lies on another file system; ID is STATE's own name
//! ```

use crate::view::Owner;
use agentfs_api::Workspace;
use agentfs_core::{AgentName, RelPath};
use rustix::fs::{Gid, Uid};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `nobody` and `nogroup`: who runs as root's agent when nobody better is known.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// One agent's directories.
#[derive(Clone, Debug)]
pub struct AgentDirs {
    /// Its changes.
    pub delta: PathBuf,
    /// For files in the making, on the delta's file system.
    pub work: PathBuf,
    /// Old versions of base.
    pub pins: PathBuf,
    /// Its home.
    pub home: PathBuf,
    /// Private `.git`s of earlier runs.
    pub kept: PathBuf,
    /// What is about to be removed.
    pub trash: PathBuf,
    /// All of it.
    top: PathBuf,
    mounts: PathBuf,
}

impl AgentDirs {
    /// The agent's directories, which may not exist.
    pub fn of(workspace: &Workspace, agent: &AgentName) -> Self {
        let dir = workspace.state_dir.join("agents").join(agent.as_str());
        Self {
            delta: dir.join("delta"),
            work: dir.join("work"),
            pins: dir.join("pins"),
            home: dir.join("home"),
            kept: dir.join("kept"),
            trash: dir.join("trash"),
            mounts: dir.join("mounts"),
            top: dir,
        }
    }

    /// Makes those that are missing; the home belongs to `owner.shown`. Whose the delta is, a view
    /// decides when it is opened.
    pub fn make(&self, owner: Owner) -> io::Result<()> {
        for made in [&self.delta, &self.work, &self.pins, &self.home] {
            make_private(made)?;
        }
        if rustix::process::geteuid().is_root() {
            give(&self.home, owner.shown)?;
        }
        Ok(())
    }

    /// Makes empty work directories for the scratch mounts at `paths`, and one to lie below those
    /// that base has nothing for, and notes where they are; what the last run's mounts have left
    /// there goes first. Says where the layers are.
    ///
    /// Only for an agent without a live run.
    pub fn make_mounts(&self, paths: &[RelPath]) -> io::Result<&Path> {
        remove_work(&self.mounts)?;
        if paths.is_empty() {
            return Ok(&self.top);
        }
        make_private(&self.mounts.join("empty"))?;
        for number in 0..paths.len() {
            make_private(&self.mounts.join(number.to_string()))?;
        }
        self.note_mounts(paths)?;
        Ok(&self.top)
    }

    /// Notes where scratch is mounted while the run lives: a daemon that takes over must know.
    pub fn note_mounts(&self, paths: &[RelPath]) -> io::Result<()> {
        let lines = paths.iter().flat_map(|path| [path.as_bytes(), b"\0"]);
        std::fs::write(self.mounts_note(), lines.collect::<Vec<_>>().concat())
    }

    /// Where scratch is mounted past the view of the run that lives, or did under the last daemon.
    pub fn noted_mounts(&self) -> Vec<RelPath> {
        let noted = std::fs::read(self.mounts_note()).unwrap_or_default();
        let paths = noted.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        paths.filter_map(|path| RelPath::from_bytes(path).ok()).collect()
    }

    /// Nothing is mounted any more.
    pub fn forget_mounts(&self) -> io::Result<()> {
        match std::fs::remove_file(self.mounts_note()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn mounts_note(&self) -> PathBuf {
        self.mounts.join("paths")
    }
}

/// Removes the work directories that kernel overlayfs has used. It leaves directories in them that
/// nobody may read, not even their owner.
fn remove_work(dir: &Path) -> io::Result<()> {
    match std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_work(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

/// Where the daemon that serves the workspace has its views, or had them when it was killed: the
/// next one takes them away there, and serves live runs where their processes look for them.
pub fn noted_mountpoint(workspace: &Workspace) -> Option<PathBuf> {
    let path = std::fs::read(mountpoint_note(workspace)).ok()?;
    Some(PathBuf::from(OsString::from_vec(path))).filter(|path| path.is_absolute())
}

/// Notes where views are.
pub fn note_mountpoint(workspace: &Workspace, mountpoint: &Path) -> io::Result<()> {
    std::fs::write(mountpoint_note(workspace), mountpoint.as_os_str().as_bytes())
}

/// No views are there any more.
pub fn forget_mountpoint(workspace: &Workspace) -> io::Result<()> {
    std::fs::remove_file(mountpoint_note(workspace))
}

fn mountpoint_note(workspace: &Workspace) -> PathBuf {
    workspace.state_dir.join("mountpoint")
}

/// Makes `dir`, and what is missing above it, for its owner alone.
pub fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes `path` belong to a user and group.
pub fn give(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    Ok(rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Whose files base has, and as whose the agents see them.
///
/// A daemon without privileges serves its own user. Root's agents run as the workspace's owner
/// or, where that is root too, as the user who called `sudo`, else as `nobody`.
pub fn owner_of(base: &Path) -> io::Result<Owner> {
    let root = base.metadata()?;
    let host = (root.uid(), root.gid());
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let shown = match (user.0, host.0) {
        (0, 0) => sudo_caller().unwrap_or(NOBODY),
        (0, _) => host,
        _ => user,
    };
    Ok(Owner { host, shown })
}

fn sudo_caller() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    Some((number("SUDO_UID")?, number("SUDO_GID")?)).filter(|(uid, _)| *uid != 0)
}
