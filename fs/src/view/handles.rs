//! What processes have open: files, directory listings, notices.
//!
//! A read handle on a file of a lower layer moves to the delta's file when that inode is copied
//! up: the kernel has one page cache per inode, so no handle may go on reading the old content.

use super::error::FsError;
use super::layers::MergedDir;
use agentfs_core::RelPath;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// An open regular file.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub(super) ino: u64,
    pub(super) writable: bool,
    file: Mutex<Arc<OwnedFd>>,
}

impl FileHandle {
    pub(super) fn file(&self) -> Arc<OwnedFd> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn switch(&self, file: Arc<OwnedFd>) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }
}

/// A listing taken at its first read, so that later changes neither hide nor repeat names.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) path: RelPath,
    pub(super) dir: MergedDir,
    pub(super) names: Vec<OsString>,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct DirHandle {
    pub(super) ino: u64,
    pub(super) listing: Mutex<Option<Arc<Listing>>>,
}

/// Anything that is open.
#[derive(Debug)]
pub(super) enum Handle {
    File(FileHandle),
    Dir(DirHandle),
    Notice(Vec<u8>),
}

/// The table of all that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    fn insert(&self, handle: Handle) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(id, Arc::new(handle));
        id
    }

    pub(super) fn open_file(&self, ino: u64, writable: bool, file: OwnedFd) -> u64 {
        let file = Mutex::new(Arc::new(file));
        self.insert(Handle::File(FileHandle { ino, writable, file }))
    }

    pub(super) fn open_dir(&self, ino: u64) -> u64 {
        self.insert(Handle::Dir(DirHandle { ino, listing: Mutex::new(None) }))
    }

    pub(super) fn open_notice(&self, text: String) -> u64 {
        self.insert(Handle::Notice(text.into_bytes()))
    }

    pub(super) fn get(&self, id: u64) -> Result<Arc<Handle>, FsError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).cloned().ok_or(FsError::BadHandle)
    }

    /// The open file behind a file handle.
    pub(super) fn file(&self, id: u64) -> Result<Arc<OwnedFd>, FsError> {
        match &*self.get(id)? {
            Handle::File(handle) => Ok(handle.file()),
            Handle::Dir(_) | Handle::Notice(_) => Err(FsError::BadHandle),
        }
    }

    /// The open file behind a file handle that may write.
    pub(super) fn writable(&self, id: u64) -> Result<Arc<OwnedFd>, FsError> {
        match &*self.get(id)? {
            Handle::File(handle) if handle.writable => Ok(handle.file()),
            _ => Err(FsError::BadHandle),
        }
    }

    pub(super) fn close(&self, id: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&id);
    }

    /// The file handles of an inode.
    pub(super) fn of(&self, ino: u64) -> Vec<Arc<Handle>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let mine =
            |handle: &&Arc<Handle>| matches!(&***handle, Handle::File(file) if file.ino == ino);
        open.values().filter(mine).cloned().collect()
    }

    /// The inodes that are open for writing.
    pub(super) fn written(&self) -> Vec<u64> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let writable = |handle: &Arc<Handle>| match &**handle {
            Handle::File(file) if file.writable => Some(file.ino),
            _ => None,
        };
        open.values().filter_map(writable).collect()
    }
}
