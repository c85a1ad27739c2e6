//! Copy-up: making a file of a lower layer the agent's own before its first change.
//!
//! The data is copied while other operations go on, copy-ups of other files too; only the rename
//! into the delta holds the namespace lock. Then the inode's open read handles move to the copy.

use super::control::Cached;
use super::delta::Content;
use super::error::FsError;
use super::handles::Handle;
use super::layers::{Entry, Which};
use super::nodes::Facts;
use super::{View, sys};
use agentfs_core::RelPath;
use rustix::fs::{self, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// From this size on (in bytes) a copy-up is too long for a thread that serves the kernel.
const LONG: u64 = 1 << 20;

/// The paths that are being copied up.
#[derive(Debug, Default)]
pub(super) struct Copying {
    paths: Mutex<HashSet<RelPath>>,
    one_less: Condvar,
}

/// While it lives nobody else copies this path up.
struct CopyingOne<'a> {
    copying: &'a Copying,
    path: &'a RelPath,
}

impl Copying {
    /// Waits until nobody else copies `path` up.
    fn begin<'a>(&'a self, path: &'a RelPath) -> CopyingOne<'a> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        while !paths.insert(path.clone()) {
            paths = self.one_less.wait(paths).unwrap_or_else(PoisonError::into_inner);
        }
        CopyingOne { copying: self, path }
    }
}

impl Drop for CopyingOne<'_> {
    fn drop(&mut self) {
        self.copying.paths.lock().unwrap_or_else(PoisonError::into_inner).remove(self.path);
        self.copying.one_less.notify_all();
    }
}

impl View {
    /// Whether the next change of the file at `path` copies so much that a thread that serves the
    /// kernel must not do it.
    pub fn copy_takes_long(&self, path: &RelPath) -> bool {
        let _names = self.read_names();
        matches!(self.layers.entry(path), Ok(Some(entry)) if entry.top != Which::Delta
            && sys::kind(&entry.stat) == FileType::RegularFile
            && entry.stat.st_size as u64 > LONG)
    }

    /// Makes sure that the delta has `path`, which is anything but a directory.
    ///
    /// Blocks for as long as copying the data takes; one copy-up of a path at a time.
    pub(super) fn copy_up(&self, path: &RelPath, content: Content) -> Result<(), FsError> {
        let _one_at_a_time = self.copying.begin(path);
        let (place, entry) = {
            let _names = self.read_names();
            let place = self.layers.place(path)?;
            let entry = place.entry()?.ok_or(FsError::NotFound)?;
            (place, entry)
        };
        if entry.top == Which::Delta {
            return Ok(());
        }
        let staged = self.delta.copy(&place, &entry, content)?;
        let _names = self.write_names();
        let now = self.layers.place(path)?.entry()?.ok_or(FsError::NotFound)?;
        if now.top == Which::Delta {
            return Ok(());
        }
        if identity(&now) != identity(&entry) {
            return Err(FsError::Moved);
        }
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            return Err(FsError::IsDirectory);
        };
        let dir = self.delta.ensure_dir(&self.layers, &parent)?;
        let delta = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
        staged.place_copy(delta, name)?;
        let bytes = if content == Content::Keep { entry.stat.st_size as u64 } else { 0 };
        self.copied.note(bytes);
        self.adopt(path, &entry)
    }

    /// Tells the node and its open handles of the copy.
    fn adopt(&self, path: &RelPath, lower: &Entry) -> Result<(), FsError> {
        let place = self.layers.place(path)?;
        let entry = place.entry()?.ok_or(FsError::NotFound)?;
        let Some(ino) = self.nodes().ino(path) else { return Ok(()) };
        let known = self.nodes().target(ino);
        let was_current = matches!(known, Some(super::nodes::Target::Path(_, file))
            if file == identity(lower));
        if !was_current {
            return Ok(());
        }
        if self.is_read_through(ino) {
            // The kernel reads the old file by itself, and has one file at a time for a number:
            // the copy gets another, and those who have the old one open keep it, as in overlayfs.
            let dir = place.dir.layer(lower.top).ok_or(FsError::NotFound)?;
            let old = sys::pin_at(dir, &place.name)?;
            self.nodes().replace(path, Some(Arc::new(old)));
            return Ok(());
        }
        let facts =
            Facts { identity: identity(&entry), is_dir: false, in_delta: true, wanted: None };
        self.nodes().set_facts(ino, facts);
        self.tell_kernel(vec![Cached::Attributes(ino)]);
        let delta = place.dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
        for handle in self.handles.of(ino) {
            if let Handle::File(handle) = &*handle {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(delta, &place.name, flags, Mode::empty())?;
                handle.switch(Arc::new(file));
            }
        }
        Ok(())
    }
}

fn identity(entry: &Entry) -> (u64, u64) {
    (entry.stat.st_dev, entry.stat.st_ino)
}

/// Copies `size` bytes: shares the blocks where the file system can, else copies in the kernel
/// and leaves holes as holes.
pub(super) fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), FsError> {
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let (start, end) = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => (start, fs::seek(from, SeekFrom::Hole(start))?),
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // No such seek on this file system: all of it is data.
            Err(Errno::INVAL) => (at, size),
            Err(errno) => return Err(errno.into()),
        };
        copy_extent(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_extent(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), FsError> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
            // Shorter than it was.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), FsError> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..want], at))?;
        if read == 0 {
            break;
        }
        let mut done = 0;
        while done < read {
            done += rustix::io::retry_on_intr(|| {
                rustix::io::pwrite(to, &buffer[done..read], at + done as u64)
            })?;
        }
        at += read as u64;
    }
    Ok(())
}
