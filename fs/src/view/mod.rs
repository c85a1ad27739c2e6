//! The view of one agent: its delta over its pins over base, as a file system.
//!
//! No FUSE here: [`crate::fuse`] decodes the kernel's requests, asks the gate and calls this;
//! tests call it without a mount. What must hold:
//!
//! - Base is never written, whatever the agent does.
//! - Everything that changes something that counts takes a [`Permit`](crate::gate::Permit).
//! - A number that the kernel knows stands for one file until the kernel forgets it.
//! - The delta is at every instant a directory that kernel overlayfs can mount.
//!
//! Locks, always taken in this order: `copying` (one path of it), `names` (read for operations that only look,
//! write for those that change names), `nodes` (for moments only). None is held while the gate is
//! asked or the kernel is notified.

mod acl;
mod advance;
mod attr;
mod caching;
mod control;
mod copy_up;
mod delta;
mod error;
mod figures;
mod foreign;
mod handles;
mod layers;
mod listing;
mod move_dir;
mod nodes;
mod notices;
mod read;
mod rename;
mod scratch;
mod sys;
#[cfg(test)]
mod tests;
mod write;

pub use advance::Teller;
pub use attr::{Changes, SetTime};
pub use control::{Cached, KernelCache};
pub use error::{FsError, ViewError};
pub use figures::Figures;
pub use listing::{DOTS, DirEntry, Listing};
pub use nodes::ROOT;
pub use notices::{DIRECTORY_INO, GIT_ABOVE, is_fresh_each_time, is_virtual, is_virtual_path};
pub use read::{Attr, Caching, Opened};
pub use scratch::{Found, Scratch, ScratchError};
pub use write::{ByRoot, Creation};

use crate::gate::Gate;
use crate::watch::{BaseListener, BaseWatch};
use agentfs_core::{AgentName, RelPath};
use copy_up::Copying;
use delta::Delta;
use figures::Copied;
use handles::Handles;
use layers::{Format, Layers};
use listing::Listings;
use nodes::{Facts, Nodes};
use rustix::fs::{Mode, XattrFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{
    Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

/// Whose files a view shows as whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User and group that own the workspace on the host.
    pub host: (u32, u32),
    /// User and group that the agent runs as.
    pub shown: (u32, u32),
}

impl Owner {
    fn show(self, (uid, gid): (u32, u32)) -> (u32, u32) {
        let map = if *PRIVILEGED { swap } else { stand_in };
        (map(uid, self.host.0, self.shown.0), map(gid, self.host.1, self.shown.1))
    }

    /// The inverse of [`Owner::show`], which is its own inverse.
    fn on_host(self, ids: (u32, u32)) -> (u32, u32) {
        self.show(ids)
    }
}

/// Whether the daemon may give files to other users.
static PRIVILEGED: LazyLock<bool> = LazyLock::new(|| rustix::process::geteuid().is_root());

/// For a daemon that makes files as its own user alone: those stay that user's, and so do base's.
fn stand_in(id: u32, host: u32, shown: u32) -> u32 {
    if id == host { shown } else { id }
}

/// The two ids change places: a third thing would make two of the host's users one in the view, so
/// that what is made by the one looked like the other's.
fn swap(id: u32, one: u32, other: u32) -> u32 {
    match id {
        id if id == one => other,
        id if id == other => one,
        id => id,
    }
}

/// What a view is made of.
#[derive(Clone, Debug)]
pub struct ViewSpec {
    /// Whose view it is.
    pub agent: AgentName,
    /// The workspace's real directory.
    pub base: PathBuf,
    /// The agent's changes.
    pub delta: PathBuf,
    /// An empty directory on the delta's file system that nothing else uses.
    pub work: PathBuf,
    /// Old versions of base that are kept for this view.
    pub pins: PathBuf,
    /// Whose files are shown as whose.
    pub owner: Owner,
    /// Which paths are private and never locked.
    pub scratch: Arc<Scratch>,
    /// What tells of changes that people make in base.
    pub watch: Arc<BaseWatch>,
}

/// One agent's file system.
pub struct View {
    agent: AgentName,
    layers: Layers,
    delta: Delta,
    owner: Owner,
    scratch: Arc<Scratch>,
    gate: Arc<dyn Gate>,
    copying: Copying,
    copied: Copied,
    names: RwLock<()>,
    nodes: Mutex<Nodes>,
    handles: Handles,
    listings: Listings,
    passthrough: AtomicBool,
    kernel: Mutex<Option<Arc<dyn KernelCache>>>,
    teller: Mutex<Option<Arc<Teller>>>,
}

impl View {
    /// Opens the view's directories, which must exist. Empties the work directory, and
    /// gives an empty delta the mode, owner and times of base's root.
    pub fn open(spec: ViewSpec, gate: Arc<dyn Gate>) -> Result<Arc<Self>, ViewError> {
        let base = open_role("base", &spec.base)?;
        let delta = open_role("delta", &spec.delta)?;
        let work = open_role("work directory", &spec.work)?;
        let pins = open_role("pins", &spec.pins)?;
        let failed = |role, path: &Path| {
            let path = path.to_owned();
            move |errno: rustix::io::Errno| ViewError::Directory {
                role,
                path,
                source: errno.into(),
            }
        };
        let stat = |fd: &OwnedFd, role, path| rustix::fs::fstat(fd).map_err(failed(role, path));
        if stat(&delta, "delta", &spec.delta)?.st_dev
            != stat(&work, "work directory", &spec.work)?.st_dev
        {
            return Err(ViewError::WorkElsewhere { work: spec.work, delta: spec.delta });
        }
        let root = stat(&base, "base", &spec.base)?;
        let format = probe(&work, &spec.delta)?;
        let privileged = rustix::process::geteuid().is_root();
        let writer =
            Delta::new(work, format, privileged).map_err(failed("work directory", &spec.work))?;
        writer.adopt_root(&base, &delta).map_err(|error| ViewError::Directory {
            role: "delta",
            path: spec.delta.clone(),
            source: error.into(),
        })?;
        let facts = Facts {
            identity: (root.st_dev, root.st_ino),
            is_dir: true,
            in_delta: false,
            wanted: None,
        };
        let view = Arc::new(Self {
            agent: spec.agent,
            layers: Layers::new([delta, pins, base], format, spec.watch.clone()),
            delta: writer,
            owner: spec.owner,
            scratch: spec.scratch,
            gate,
            copying: Copying::default(),
            copied: Copied::default(),
            names: RwLock::new(()),
            nodes: Mutex::new(Nodes::new(facts)),
            handles: Handles::default(),
            listings: Listings::default(),
            passthrough: AtomicBool::new(false),
            kernel: Mutex::new(None),
            teller: Mutex::new(None),
        });
        let listener: Arc<dyn BaseListener> = view.clone();
        spec.watch.subscribe(Arc::downgrade(&listener));
        Ok(view)
    }

    /// Whose view it is.
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// Who is asked before anything changes.
    pub fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
    }

    /// Whether a path is private and never locked.
    pub fn is_scratch(&self, path: &RelPath, is_dir: bool) -> bool {
        self.scratch.is_scratch(path, is_dir)
    }

    fn read_names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_names(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("agent", &self.agent).finish_non_exhaustive()
    }
}

fn open_role(role: &'static str, path: &Path) -> Result<OwnedFd, ViewError> {
    layers::open_root(path).map_err(|errno| ViewError::Directory {
        role,
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Finds which attributes this process may set there, and that whiteouts can be made.
fn probe(work: &OwnedFd, delta: &Path) -> Result<Format, ViewError> {
    let name = std::ffi::OsStr::new("probe");
    let refused = |what| {
        let delta = delta.to_owned();
        move |errno: rustix::io::Errno| ViewError::Format { delta, what, source: errno.into() }
    };
    let whiteouts = refused("deleted files (0:0 character devices)");
    let clear = || sys::remove_all(work, name);
    clear().and_then(|()| sys::make_whiteout(work, name)).map_err(whiteouts)?;
    let attributes = refused("extended attributes");
    clear().and_then(|()| rustix::fs::mkdirat(work, name, Mode::RWXU)).map_err(attributes)?;
    let set = |format: Format| {
        let dir = sys::pin_at(work, name)?;
        let path = sys::proc_path(&dir);
        rustix::fs::setxattr(path, format.opaque(), b"y", XattrFlags::empty())
    };
    let format = if set(Format::Trusted).is_ok() {
        Format::Trusted
    } else {
        set(Format::User).map_err(refused("extended attributes"))?;
        Format::User
    };
    clear().map_err(refused("extended attributes"))?;
    Ok(format)
}
