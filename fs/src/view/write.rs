//! What changes names and data: open for writing, create, link, unlink, write. Each path here has
//! passed the gate: the [`Permit`] says so.

use super::delta::{self, Content};
use super::error::FsError;
use super::layers::{Entry, MergedDir, Place, Which};
use super::nodes::Facts;
use super::read::{Attr, Caching, Opened};
use super::{Owner, View, acl, notices, sys};
use crate::gate::Permit;
use agentfs_core::RelPath;
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Who truncates a file, reserves space in it or has data copied into it: it keeps its set-id bits if
/// that is root, as everywhere. (Whether a write takes them, the kernel tells with each.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByRoot(pub bool);

/// Who makes something, and how it shall be.
#[derive(Clone, Copy, Debug)]
pub struct Creation {
    /// Permission bits, from which the process's umask is not taken off yet.
    pub mode: u32,
    /// The process's umask, which does not count where a directory has a default list.
    pub umask: u32,
    /// The process's user, as the agent's kernel names it.
    pub uid: u32,
    /// The process's group.
    pub gid: u32,
}

impl View {
    /// Opens a regular file for writing; `path` is the one that the gate was asked for. Copies it
    /// up first, and blocks as long as that takes.
    pub fn open_write(
        &self,
        ino: u64,
        path: Option<&RelPath>,
        flags: OFlags,
        by_root: ByRoot,
        _permit: &Permit,
    ) -> Result<Opened, FsError> {
        let truncate = flags.contains(OFlags::TRUNC);
        if let Some(path) = path {
            // It may have been renamed while the gate was asked, or replaced in base. That must be
            // found out before the copy, which may get the inode number of the file that is gone.
            if !self.paths_of(ino).contains(path) || !self.is_current(ino, path)? {
                return Err(FsError::Moved);
            }
            self.copy_up(path, if truncate { Content::Drop } else { Content::Keep })?;
        }
        let opened = {
            let _names = self.read_names();
            let (file, _) = self.open_node(ino, write_flags(flags))?;
            if truncate && !by_root.0 {
                drop_set_id(&file)?;
            }
            self.opened_for_writing(ino, file)?
        };
        if let Some(path) = path
            && !flags.contains(OFlags::WRONLY)
        {
            self.note_read(path, None);
        }
        Ok(opened)
    }

    fn opened_for_writing(&self, ino: u64, file: OwnedFd) -> Result<Opened, FsError> {
        let stat = fs::fstat(&file)?;
        // The kernel would write by itself with the daemon's rights, and leave set-id bits there.
        let through = self.passthrough() && !is_set_id(&stat);
        let (handle, through) = self.handles.open_file(ino, true, file, through);
        let caching = if through { Caching::Through } else { self.caching_written(ino, &stat) };
        Ok(Opened { handle, caching })
    }

    /// Makes a regular file and opens it; one that is there already is opened unless `O_EXCL`.
    pub fn create(
        &self,
        path: &RelPath,
        creation: Creation,
        flags: OFlags,
        permit: &Permit,
    ) -> Result<(Attr, Opened), FsError> {
        let made = self.make(path, creation, FileType::RegularFile, |dir, name, mode| {
            let flags = write_flags(flags) | OFlags::CREATE | OFlags::EXCL;
            Ok(fs::openat(dir, name, flags, mode)?)
        });
        match made {
            Ok((attr, file)) => Ok((attr, self.opened_for_writing(attr.ino, file)?)),
            Err(FsError::Exists) if !flags.contains(OFlags::EXCL) => {
                let attr = {
                    let _names = self.read_names();
                    let place = self.layers.place(path)?;
                    self.attr_at(path, &place)?.ok_or(FsError::NotFound)?.0
                };
                let by_root = ByRoot(creation.uid == 0);
                let opened = self.open_write(attr.ino, Some(path), flags, by_root, permit);
                match opened.and_then(|open| Ok((self.getattr(attr.ino, None)?, open))) {
                    Ok(opened) => Ok(opened),
                    Err(error) => {
                        self.forget(attr.ino, 1);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a file, FIFO, socket or device.
    pub fn mknod(
        &self,
        path: &RelPath,
        creation: Creation,
        kind: FileType,
        device: u64,
        _permit: &Permit,
    ) -> Result<Attr, FsError> {
        let device = delta::device_in_delta(kind, device).ok_or(FsError::HiddenDevice)?;
        let made = self.make(path, creation, kind, |dir, name, mode| {
            Ok(fs::mknodat(dir, name, kind, mode, device)?)
        });
        Ok(made?.0)
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        path: &RelPath,
        text: &OsStr,
        creation: Creation,
        _permit: &Permit,
    ) -> Result<Attr, FsError> {
        let made = self.make(path, creation, FileType::Symlink, |dir, name, _| {
            Ok(fs::symlinkat(text, dir, name)?)
        });
        Ok(made?.0)
    }

    /// Makes a directory.
    pub fn mkdir(
        &self,
        path: &RelPath,
        creation: Creation,
        _permit: &Permit,
    ) -> Result<Attr, FsError> {
        let made = self.make(path, creation, FileType::Directory, |dir, name, mode| {
            Ok(fs::mkdirat(dir, name, mode)?)
        });
        Ok(made?.0)
    }

    /// Gives the file at `old` another name. Copies it up first, and blocks as long as that takes.
    pub fn link(
        &self,
        ino: u64,
        old: &RelPath,
        new: &RelPath,
        _permit: &Permit,
    ) -> Result<Attr, FsError> {
        notices::refuse(new)?;
        // Both may have been renamed while the gate was asked, or while the data was copied.
        if !self.paths_of(ino).contains(old) || !self.is_current(ino, old)? {
            return Err(FsError::Moved);
        }
        self.copy_up(old, Content::Keep)?;
        let _names = self.write_names();
        if self.nodes().ino(old) != Some(ino) {
            return Err(FsError::Moved);
        }
        let source = self.layers.place(old)?;
        let from = source.dir.layer(Which::Delta).ok_or(FsError::Moved)?;
        let (dir, name) = self.vacant(new)?;
        let to = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
        let (staged, ()) = self.delta.stage(|work, temp| {
            Ok(fs::linkat(from, &source.name, work, temp, AtFlags::empty())?)
        })?;
        staged.place(to, name)?;
        self.made(new)
    }

    /// Removes the name of anything but a directory.
    pub fn unlink(&self, path: &RelPath, _permit: &Permit) -> Result<(), FsError> {
        notices::refuse(path)?;
        {
            let _names = self.write_names();
            let place = self.layers.place(path)?;
            let entry = place.entry()?.ok_or(FsError::NotFound)?;
            if sys::is_dir(&entry.stat) {
                return Err(FsError::IsDirectory);
            }
            let orphan = self.keep_open(path, &place, &entry)?;
            self.remove_name(path, &place, &entry)?;
            self.nodes().detach(path, orphan);
        }
        self.forget_if_as_in_base(path, false);
        Ok(())
    }

    /// Fails as [`View::rmdir`] would, without doing anything.
    pub fn check_rmdir(&self, path: &RelPath) -> Result<(), FsError> {
        notices::refuse(path)?;
        let _names = self.read_names();
        self.empty_dir(path).map(|_| ())
    }

    fn empty_dir(&self, path: &RelPath) -> Result<(Place, Entry), FsError> {
        let place = self.layers.place(path)?;
        let entry = place.entry()?.ok_or(FsError::NotFound)?;
        if !sys::is_dir(&entry.stat) {
            return Err(FsError::NotDirectory);
        }
        if !place.dir.descend(&place.name)?.is_empty()? {
            return Err(FsError::NotEmpty);
        }
        Ok((place, entry))
    }

    /// Removes an empty directory, with the whiteouts that it may hold.
    pub fn rmdir(&self, path: &RelPath, _permit: &Permit) -> Result<(), FsError> {
        notices::refuse(path)?;
        {
            let _names = self.write_names();
            let (place, entry) = self.empty_dir(path)?;
            let orphan = self.keep_open(path, &place, &entry)?;
            self.remove_name(path, &place, &entry)?;
            self.layers.forget(path);
            self.nodes().detach(path, orphan);
        }
        // The kernel unmounts what was mounted on it.
        self.forget_mount(path);
        self.forget_if_as_in_base(path, true);
        Ok(())
    }

    /// Writes all of `data` through an open handle: that it is open for writing is the proof.
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        drop_privileges: bool,
    ) -> Result<(), FsError> {
        let file = self.handles.writable(handle)?;
        if drop_privileges {
            drop_set_id(&file)?;
        }
        let mut done = 0;
        while done < data.len() {
            done += rustix::io::retry_on_intr(|| {
                rustix::io::pwrite(&*file, &data[done..], offset + done as u64)
            })?;
        }
        Ok(())
    }

    /// Writes what is still in memory to the disk.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<(), FsError> {
        let file = self.handles.file(handle)?;
        Ok(if data_only { fs::fdatasync(&*file) } else { fs::fsync(&*file) }?)
    }

    /// Writes the delta's part of a directory to the disk.
    pub fn fsync_dir(&self, ino: u64) -> Result<(), FsError> {
        let _names = self.read_names();
        let Ok(path) = self.path_of(ino) else { return Ok(()) };
        let dir = self.layers.dir(&path)?;
        let Some(dir) = dir.layer(Which::Delta) else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::fsync(fs::openat(dir, c".", flags, Mode::empty())?)?)
    }

    /// Reserves or frees space through an open handle.
    pub fn fallocate(
        &self,
        handle: u64,
        mode: FallocateFlags,
        (offset, length): (u64, u64),
        by_root: ByRoot,
    ) -> Result<(), FsError> {
        let file = self.handles.writable(handle)?;
        if !by_root.0 {
            drop_set_id(&file)?;
        }
        Ok(fs::fallocate(&*file, mode, offset, length)?)
    }

    /// Copies between two open handles without going through the process.
    pub fn copy_range(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        length: usize,
        by_root: ByRoot,
    ) -> Result<usize, FsError> {
        let source = self.handles.file(from.0)?;
        let target = self.handles.writable(to.0)?;
        if !by_root.0 {
            drop_set_id(&target)?;
        }
        let (mut read_at, mut write_at) = (from.1, to.1);
        let copied = fs::copy_file_range(
            &*source,
            Some(&mut read_at),
            &*target,
            Some(&mut write_at),
            length,
        )?;
        Ok(copied)
    }

    /// Where `path` can be made: its directory, copied up, in which the view shows nothing at
    /// that name. The names are locked for writing.
    pub(super) fn vacant<'a>(&self, path: &'a RelPath) -> Result<(MergedDir, &'a OsStr), FsError> {
        notices::refuse(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(FsError::Exists);
        };
        if self.layers.place(path)?.entry()?.is_some() {
            return Err(FsError::Exists);
        }
        Ok((self.delta.ensure_dir(&self.layers, &parent)?, name))
    }

    /// Makes something at a name where the view shows nothing: in place, or, where a whiteout is
    /// in the way, in the work directory and then over it.
    fn make<T>(
        &self,
        path: &RelPath,
        creation: Creation,
        kind: FileType,
        make: impl Fn(BorrowedFd<'_>, &OsStr, Mode) -> Result<T, FsError>,
    ) -> Result<(Attr, T), FsError> {
        let _names = self.write_names();
        let (dir, name) = self.vacant(path)?;
        let parent = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
        let (creation, default) = inherit(parent, self.owner, creation, kind)?;
        let own = |dir: BorrowedFd<'_>, name: &OsStr| {
            self.own(dir, name, creation, kind, default.as_deref())
        };
        let mode = Mode::from_raw_mode(creation.mode & 0o7777);
        let (stat, made) = match make(parent, name, mode) {
            Ok(made) => match own(parent, name) {
                Ok(stat) => (stat, made),
                Err(error) => {
                    sys::remove_all(parent, name)?;
                    return Err(error);
                }
            },
            Err(FsError::Os(Errno::EXIST)) => {
                let (staged, done) = self.delta.stage(|work, temp| {
                    let made = make(work, temp, mode)?;
                    let stat = own(work, temp)?;
                    if kind == FileType::Directory {
                        // The whiteout goes, and what it hid must stay hidden.
                        self.delta.set_opaque(sys::pin_at(work, temp)?)?;
                    }
                    Ok((stat, made))
                })?;
                if kind == FileType::Directory {
                    staged.exchange(parent, name)?;
                } else {
                    staged.place(parent, name)?;
                }
                done
            }
            Err(error) => return Err(error),
        };
        let facts = Facts {
            identity: (stat.st_dev, stat.st_ino),
            is_dir: kind == FileType::Directory,
            in_delta: true,
            wanted: None,
        };
        let ino = self.bind(path, facts)?;
        let entry = Entry { top: Which::Delta, stat, base_ino: None, merged: false };
        Ok((self.attr(ino, &entry), made))
    }

    /// Gives something new the owner, mode and list that it shall have, unless it has them already.
    pub(super) fn own(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        creation: Creation,
        kind: FileType,
        default: Option<&[u8]>,
    ) -> Result<fs::Stat, FsError> {
        let stat = sys::stat_at(dir, name)?.ok_or(FsError::NotFound)?;
        let mut changed = false;
        if self.delta.privileged() {
            let (uid, gid) = self.owner.on_host((creation.uid, creation.gid));
            if (stat.st_uid, stat.st_gid) != (uid, gid) {
                let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
                fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                changed = true;
            }
        }
        let mode = Mode::from_raw_mode(creation.mode & 0o7777);
        // A change of owner takes set-id bits away.
        if kind != FileType::Symlink && (changed || sys::permissions(&stat) != mode) {
            fs::chmodat(dir, name, mode, AtFlags::empty())?;
            changed = true;
        }
        if let Some(default) = default {
            give_list(dir, name, default, creation, kind)?;
            changed = true;
        }
        if !changed {
            return Ok(stat);
        }
        sys::stat_at(dir, name)?.ok_or(FsError::NotFound)
    }

    /// The attributes of what has just been made. The names are locked.
    fn made(&self, path: &RelPath) -> Result<Attr, FsError> {
        let place = self.layers.place(path)?;
        Ok(self.attr_at(path, &place)?.ok_or(FsError::NotFound)?.0)
    }

    /// A handle that outlives the name, if the kernel knows the node. The names are locked.
    pub(super) fn keep_open(
        &self,
        path: &RelPath,
        place: &Place,
        entry: &Entry,
    ) -> Result<Option<Arc<OwnedFd>>, FsError> {
        if self.nodes().ino(path).is_none() {
            return Ok(None);
        }
        let dir = place.dir.layer(entry.top).ok_or(FsError::NotFound)?;
        Ok(Some(Arc::new(sys::pin_at(dir, &place.name)?)))
    }

    /// Takes a name out of the view: out of the delta, and with a whiteout where a lower layer
    /// has it too. The names are locked for writing.
    pub(super) fn remove_name(
        &self,
        path: &RelPath,
        place: &Place,
        entry: &Entry,
    ) -> Result<(), FsError> {
        let name = place.name.as_os_str();
        let lower = place.dir.lower_entry(name)?.is_some();
        match place.dir.layer(Which::Delta).filter(|_| entry.top == Which::Delta) {
            Some(delta) if lower => self.delta.cover(delta, name),
            Some(delta) => Ok(sys::remove_all(delta, name)?),
            None => {
                let parent = path.parent().ok_or(FsError::Invalid)?;
                let dir = self.delta.ensure_dir(&self.layers, &parent)?;
                let delta = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
                Ok(sys::make_whiteout(delta, name)?)
            }
        }
    }

    /// Tells the gate if there is nothing left to claim at `path`; `is_dir` says what was there.
    pub(super) fn forget_if_as_in_base(&self, path: &RelPath, is_dir: bool) {
        let nowhere = |which| matches!(self.layers.stat_in(which, path), Ok(None));
        if nowhere(Which::Delta) && nowhere(Which::Base) && !self.is_scratch(path, is_dir) {
            self.gate.forget(path);
        }
    }
}

/// What something new takes from its directory: the group and the bit for it, where that has the
/// set-group-id bit; and the default list, where it has one, which stands in for the umask.
fn inherit(
    parent: BorrowedFd<'_>,
    owner: Owner,
    mut creation: Creation,
    kind: FileType,
) -> Result<(Creation, Option<Vec<u8>>), FsError> {
    let stat = fs::fstat(parent)?;
    let set_group_id = Mode::SGID.as_raw_mode();
    if stat.st_mode & set_group_id != 0 {
        (_, creation.gid) = owner.show((stat.st_uid, stat.st_gid));
        if kind == FileType::Directory {
            creation.mode |= set_group_id;
        }
    }
    let default = if kind == FileType::Symlink { None } else { sys::xattr(parent, acl::DEFAULT)? };
    if default.is_none() {
        creation.mode &= !creation.umask;
    }
    Ok((creation, default))
}

/// Gives something new the list that its directory has for it.
fn give_list(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    default: &[u8],
    creation: Creation,
    kind: FileType,
) -> Result<(), FsError> {
    let made = sys::pin_at(dir, name)?;
    let (path, flags) = (sys::proc_path(&made), XattrFlags::empty());
    fs::setxattr(path.as_str(), acl::ACCESS, &acl::inherited(default, creation.mode), flags)?;
    if kind == FileType::Directory {
        fs::setxattr(path.as_str(), acl::DEFAULT, default, flags)?;
    }
    Ok(())
}

/// What a process asked for, as far as it concerns the file on the host: the kernel says where
/// each write goes, also with `O_APPEND`, and reads through a write handle for mappings.
fn write_flags(flags: OFlags) -> OFlags {
    let kept = OFlags::ACCMODE | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    (flags & kept) | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// A changed program loses its set-id bits, as the kernel would see to if the process wrote to
/// the host's file itself.
pub(super) fn drop_set_id(file: impl AsFd) -> Result<(), FsError> {
    let stat = fs::fstat(&file)?;
    if is_set_id(&stat) {
        let mode = stat.st_mode & 0o7777 & !set_id_bits(&stat);
        fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn is_set_id(stat: &fs::Stat) -> bool {
    stat.st_mode & set_id_bits(stat) != 0
}

/// The bits that give a program rights; a set-group-id bit without the right to execute does not.
fn set_id_bits(stat: &fs::Stat) -> u32 {
    let executable_group = stat.st_mode & 0o2010 == 0o2010;
    Mode::SUID.as_raw_mode() | if executable_group { Mode::SGID.as_raw_mode() } else { 0 }
}
