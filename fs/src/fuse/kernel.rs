//! What one mount keeps for the kernel's sake: the files that it works on by itself, the way to
//! tell it things, the count of what it asked.
//!
//! An inode has one backing file at a time, as long as any handle of it that is passed through is
//! open; the view sees to it that all handles of an inode are of one sort. If the kernel refuses
//! the first backing file (no privileges, a file system that can't be stacked), none is tried
//! again, and all data goes through the daemon.

use super::counts::Counts;
use crate::view::{Caching, Opened, View};
use fuser::{BackingId, FopenFlags, INodeNo, Notifier};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One mount, as the kernel sees it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) counts: Counts,
    notifier: OnceLock<Notifier>,
    backing: Mutex<HashMap<u64, Backing>>,
}

/// The file that the kernel works on for an inode.
#[derive(Debug)]
struct Backing {
    id: Arc<BackingId>,
    handles: usize,
}

/// How an open is answered.
pub(super) enum Answer {
    Flags(FopenFlags),
    Through(FopenFlags, Arc<BackingId>),
}

impl Kernel {
    /// The mount is there: the kernel can be told things.
    pub(super) fn attach(&self, notifier: Notifier) {
        // Once per mount.
        let _ = self.notifier.set(notifier);
    }

    fn backing(&self) -> MutexGuard<'_, HashMap<u64, Backing>> {
        self.backing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to answer an open of `ino`; `register` hands a file over to the kernel.
    pub(super) fn answer(
        &self,
        view: &View,
        ino: u64,
        opened: &Opened,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Answer {
        // All data is with the daemon or the kernel already when a file is closed.
        let flags = FopenFlags::FOPEN_NOFLUSH;
        match &opened.caching {
            Caching::Direct => Answer::Flags(flags | FopenFlags::FOPEN_DIRECT_IO),
            Caching::Drop => {
                // The size that it knows may be the other version's, too.
                self.forget_attributes(ino);
                Answer::Flags(flags)
            }
            Caching::Keep => Answer::Flags(flags | FopenFlags::FOPEN_KEEP_CACHE),
            Caching::Store(data, version) => {
                self.store(ino, data);
                // Who has written it since it was read would find the old bytes kept as theirs.
                if view.is_version(opened.handle, *version) {
                    Answer::Flags(flags | FopenFlags::FOPEN_KEEP_CACHE)
                } else {
                    self.forget_attributes(ino);
                    Answer::Flags(flags)
                }
            }
            Caching::Through => match self.through(view, ino, opened.handle, register) {
                Some(id) => Answer::Through(flags, id),
                None => Answer::Flags(flags),
            },
        }
    }

    fn forget_attributes(&self, ino: u64) {
        let told = self.notifier.get().map(|notifier| notifier.inval_inode(INodeNo(ino), -1, 0));
        if let Some(Err(error)) = told {
            tracing::debug!(ino, %error, "the kernel did not take an invalidation");
        }
    }

    /// Puts a whole small file into the kernel's cache. What does not get there it reads.
    fn store(&self, ino: u64, data: &[u8]) {
        let stored = self.notifier.get().map(|notifier| notifier.store(INodeNo(ino), 0, data));
        if let Some(Err(error)) = stored {
            tracing::debug!(ino, %error, "the kernel did not take a file's content");
        }
    }

    fn through(
        &self,
        view: &View,
        ino: u64,
        handle: u64,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let mut all = self.backing();
        if let Some(backing) = all.get_mut(&ino) {
            backing.handles += 1;
            return Some(backing.id.clone());
        }
        let file = view.file_of(handle).filter(|_| view.passthrough())?;
        match register(&file) {
            Ok(id) => {
                let id = Arc::new(id);
                all.insert(ino, Backing { id: id.clone(), handles: 1 });
                Some(id)
            }
            Err(error) => {
                tracing::info!(%error, "the kernel passes no files through: data goes by the daemon");
                view.set_passthrough(false);
                None
            }
        }
    }

    /// Closes a handle, and lets go of its inode's file with the last one. Both at once: between
    /// the two an open could be given the file of a lower layer for writing.
    pub(super) fn close(&self, view: &View, handle: u64) {
        let mut all = self.backing();
        let Some(ino) = view.close(handle) else { return };
        let Some(backing) = all.get_mut(&ino) else { return };
        backing.handles -= 1;
        if backing.handles == 0 {
            all.remove(&ino);
        }
    }
}
