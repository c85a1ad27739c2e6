//! What the kernel may cache of a file's content, and when it reads and writes the file itself.
//!
//! The kernel's page cache belongs to the inode. It may be kept from one open to the next exactly
//! if the file is still the version that the pages are of: so each open compares the version with
//! that of the last one. A small file's content is handed over with its first open, which spares
//! a round trip. Files that are written, and large ones, are *passed through*, where the kernel
//! can: then it works on the file on the host, and there are no pages of its own.

use super::handles::Closed;
use super::layers::Which;
use super::nodes::Cached;
use super::read::Caching;
use super::{View, sys};
use rustix::fs::{self, FileType, Stat};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// From this size on, in bytes, a file that is only read is passed through: caching it a second
/// time costs more than the attributes that the kernel then asks for more often.
const LARGE: i64 = 1 << 20;

/// Up to this size, in bytes, content is handed over with the first open: what the kernel would
/// read ahead anyway.
const SMALL: i64 = 128 << 10;

/// The magic number of overlayfs, by statfs(2).
const OVERLAYFS: i64 = 0x794c_7630;

impl View {
    /// Whether the kernel can be given files to read and write by itself.
    pub fn set_passthrough(&self, possible: bool) {
        self.passthrough.store(possible, Ordering::Relaxed);
    }

    /// How deep the file systems that files are passed through to are stacked already: the kernel
    /// allows two levels in all, and has to know beforehand.
    pub fn stack_depth(&self) -> u32 {
        let stacked = [Which::Delta, Which::Pins, Which::Base].iter().any(|which| {
            let fs = fs::fstatfs(self.layers.root(*which));
            fs.is_ok_and(|fs| fs.f_type == OVERLAYFS)
        });
        if stacked { 2 } else { 1 }
    }

    /// Whether it can.
    pub fn passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    /// Whether a file that is only read is passed through.
    pub(super) fn passes_large(&self, stat: &Stat) -> bool {
        self.passthrough() && sys::kind(stat) == FileType::RegularFile && stat.st_size >= LARGE
    }

    /// What the kernel may cache of the file, which was just opened as `handle`.
    pub(super) fn caching(&self, ino: u64, handle: u64, stat: &Stat) -> Caching {
        let cached = self.nodes().caches(ino, version(stat));
        match cached {
            Cached::Same => Caching::Keep,
            Cached::Other => Caching::Drop,
            Cached::Nothing if stat.st_size == 0 => Caching::Keep,
            Cached::Nothing if stat.st_size > SMALL => Caching::Drop,
            // Shorter by now: what is there is another version.
            Cached::Nothing => match self.read(handle, 0, stat.st_size as usize) {
                Ok(data) if data.len() == stat.st_size as usize => {
                    Caching::Store(data, version(stat))
                }
                _ => Caching::Drop,
            },
        }
    }

    /// The same for a file that was opened for writing, with the kernel in between.
    pub(super) fn caching_written(&self, ino: u64, stat: &Stat) -> Caching {
        match self.nodes().caches(ino, version(stat)) {
            Cached::Same => Caching::Keep,
            Cached::Nothing | Cached::Other => Caching::Drop,
        }
    }

    /// Whether the file of a handle still is that version: nobody has written it, or copied it up.
    pub fn is_version(&self, handle: u64, wanted: NonZeroU64) -> bool {
        let file = self.handles.file(handle);
        file.is_ok_and(|file| fs::fstat(&*file).is_ok_and(|stat| version(&stat) == wanted))
    }

    /// The open file of a handle, for the kernel to work on.
    pub fn file_of(&self, handle: u64) -> Option<Arc<OwnedFd>> {
        self.handles.file(handle).ok()
    }

    /// Closes a file. Says of which node, if it was one that the kernel worked on by itself.
    pub fn close(&self, handle: u64) -> Option<u64> {
        let closed = self.handles.close(handle)?;
        if closed.writable && !closed.through {
            self.keep_written(&closed);
        }
        closed.through.then_some(closed.ino)
    }

    /// The kernel's pages have what was written through it.
    fn keep_written(&self, closed: &Closed) {
        if let Ok(stat) = fs::fstat(&*closed.file) {
            self.nodes().caches(closed.ino, version(&stat));
        }
    }

    /// Whether some process reads the file of a lower layer by itself, so that it can't be moved
    /// to a copy of it.
    pub(super) fn is_read_through(&self, ino: u64) -> bool {
        self.handles.passes_through(ino)
    }
}

/// Differs for any two versions of a file.
fn version(stat: &Stat) -> NonZeroU64 {
    let mut hasher = DefaultHasher::new();
    (stat.st_dev, stat.st_ino, stat.st_size).hash(&mut hasher);
    (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec).hash(&mut hasher);
    NonZeroU64::MIN.saturating_add(hasher.finish() >> 1)
}
