//! Changing attributes: mode, owner, size, times, extended attributes.

use super::delta::{self, Content};
use super::error::FsError;
use super::layers::Which;
use super::nodes::Target;
use super::read::Attr;
use super::write::{ByRoot, drop_set_id};
use super::{View, acl, notices, sys};
use crate::gate::Permit;
use agentfs_core::RelPath;
use rustix::fs::{self, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's clock now.
    Now,
    /// Seconds since the Unix epoch, and nanoseconds.
    At(i64, u32),
}

/// What to change; what is none stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User, as the agent names it.
    pub uid: Option<u32>,
    /// Group, as the agent names it.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Who changes it.
    pub by_root: ByRoot,
}

impl Changes {
    /// Whether nothing but the size changes.
    pub fn only_size(&self) -> bool {
        Self { size: None, by_root: ByRoot(false), ..*self } == Self::default()
    }
}

impl View {
    /// Changes attributes of a node; `path` is the one that the gate was asked for, none for an
    /// unlinked node.
    pub fn setattr(
        &self,
        ino: u64,
        path: Option<&RelPath>,
        changes: Changes,
        _permit: &Permit,
    ) -> Result<Attr, FsError> {
        let content = if changes.size == Some(0) { Content::Drop } else { Content::Keep };
        let file = self.own_node(ino, path, content)?;
        self.change(file.as_fd(), changes)?;
        if let Some(path) = path.filter(|_| changes.mode.is_some() && self.is_dir(ino)) {
            // What could not be read of the directory may be read now.
            self.layers.forget(path);
        }
        self.getattr(ino, None)
    }

    /// Changes the size through an open handle: that it is open for writing is the proof.
    pub fn truncate(
        &self,
        ino: u64,
        handle: u64,
        size: u64,
        by_root: ByRoot,
    ) -> Result<Attr, FsError> {
        let file = self.handles.writable(handle)?;
        if !by_root.0 {
            drop_set_id(&file)?;
        }
        fs::ftruncate(&*file, size)?;
        self.getattr(ino, Some(handle))
    }

    /// A handle on the delta's copy of a node.
    fn own_node(
        &self,
        ino: u64,
        path: Option<&RelPath>,
        content: Content,
    ) -> Result<OwnedFd, FsError> {
        if notices::is_virtual(ino) {
            return Err(FsError::Virtual);
        }
        let Some(path) = path else {
            return match self.nodes().target(ino) {
                Some(Target::Orphan(file)) => file.try_clone().map_err(FsError::from),
                Some(Target::Replaced(_)) => Err(FsError::Moved),
                _ => Err(FsError::NotFound),
            };
        };
        if !self.paths_of(ino).contains(path) {
            return Err(FsError::Moved);
        }
        let is_dir = {
            let _names = self.read_names();
            let entry = self.layers.entry(path)?.ok_or(FsError::NotFound)?;
            sys::is_dir(&entry.stat)
        };
        if is_dir {
            let _names = self.write_names();
            let dir = self.delta.ensure_dir(&self.layers, path)?;
            let dir = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
            return dir.try_clone_to_owned().map_err(FsError::from);
        }
        self.copy_up(path, content)?;
        let _names = self.read_names();
        if self.nodes().ino(path) != Some(ino) {
            return Err(FsError::Moved);
        }
        self.pin_path(path)
    }

    fn change(&self, file: BorrowedFd<'_>, changes: Changes) -> Result<(), FsError> {
        if let Some(size) = changes.size {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let data = fs::open(sys::proc_path(&file), flags, Mode::empty())?;
            if !changes.by_root.0 {
                drop_set_id(&data)?;
            }
            fs::ftruncate(data, size)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            // An id that is not set must not be taken for one that is shown.
            let (uid, _) = self.owner.on_host((changes.uid.unwrap_or(0), 0));
            let (_, gid) = self.owner.on_host((0, changes.gid.unwrap_or(0)));
            delta::set_owner(file, changes.uid.map(|_| uid), changes.gid.map(|_| gid))?;
        }
        if let Some(mode) = changes.mode {
            fs::chmod(sys::proc_path(&file), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            delta::set_times(file, &times)?;
        }
        Ok(())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        ino: u64,
        path: Option<&RelPath>,
        (name, value): (&OsStr, &[u8]),
        flags: XattrFlags,
        _permit: &Permit,
    ) -> Result<(), FsError> {
        if delta::is_hidden(name) {
            return Err(FsError::HiddenAttribute);
        }
        let file = self.own_node(ino, path, Content::Keep)?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            let list = acl::with_ids(value, |ids| self.owner.on_host(ids));
            return Ok(fs::setxattr(sys::proc_path(&file), name, &list, flags)?);
        }
        Ok(fs::setxattr(sys::proc_path(&file), name, value, flags)?)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(
        &self,
        ino: u64,
        path: Option<&RelPath>,
        name: &OsStr,
        _permit: &Permit,
    ) -> Result<(), FsError> {
        // Nothing is copied up for what is not there.
        self.get_xattr(ino, name)?;
        let file = self.own_node(ino, path, Content::Keep)?;
        Ok(fs::removexattr(sys::proc_path(&file), name)?)
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(seconds, nanoseconds)) => {
            Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
        }
    }
}
