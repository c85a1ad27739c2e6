//! What processes have open: files, notices.
//!
//! A read handle on a file of a lower layer moves to the delta's file when that inode is copied
//! up: the kernel has one page cache per inode, so no handle may go on reading the old content.
//! For the same reason all handles of one inode are served in one way: through the kernel's page
//! cache, or passed through to the file itself (which the kernel demands, too).

use super::error::FsError;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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

/// Anything that is open.
#[derive(Debug)]
pub(super) enum Handle {
    File(FileHandle),
    Notice(Vec<u8>),
}

/// The table of all that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: RwLock<Open>,
}

#[derive(Debug, Default)]
struct Open {
    by_id: HashMap<u64, Arc<Handle>>,
    by_ino: HashMap<u64, OpenInode>,
}

/// The open handles of one inode.
#[derive(Debug)]
struct OpenInode {
    through: bool,
    ids: Vec<u64>,
}

/// A handle that was the last of its inode, or not.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) ino: u64,
    pub(super) writable: bool,
    pub(super) through: bool,
    pub(super) file: Arc<OwnedFd>,
}

impl Handles {
    fn read(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Opens a file; says whether the kernel is to pass its data through: as `through` wishes, or
    /// as the inode is open already.
    pub(super) fn open_file(
        &self,
        ino: u64,
        writable: bool,
        file: OwnedFd,
        through: bool,
    ) -> (u64, bool) {
        let id = self.next();
        let file = Mutex::new(Arc::new(file));
        let mut open = self.write();
        open.by_id.insert(id, Arc::new(Handle::File(FileHandle { ino, writable, file })));
        let inode =
            open.by_ino.entry(ino).or_insert_with(|| OpenInode { through, ids: Vec::new() });
        inode.ids.push(id);
        (id, inode.through)
    }

    pub(super) fn open_notice(&self, text: String) -> u64 {
        let id = self.next();
        self.write().by_id.insert(id, Arc::new(Handle::Notice(text.into_bytes())));
        id
    }

    pub(super) fn get(&self, id: u64) -> Result<Arc<Handle>, FsError> {
        self.read().by_id.get(&id).cloned().ok_or(FsError::BadHandle)
    }

    /// The open file behind a file handle.
    pub(super) fn file(&self, id: u64) -> Result<Arc<OwnedFd>, FsError> {
        match &*self.get(id)? {
            Handle::File(handle) => Ok(handle.file()),
            Handle::Notice(_) => Err(FsError::BadHandle),
        }
    }

    /// The open file behind a file handle that may write.
    pub(super) fn writable(&self, id: u64) -> Result<Arc<OwnedFd>, FsError> {
        match &*self.get(id)? {
            Handle::File(handle) if handle.writable => Ok(handle.file()),
            _ => Err(FsError::BadHandle),
        }
    }

    /// Closes a handle; says which file it was on, if any.
    pub(super) fn close(&self, id: u64) -> Option<Closed> {
        let mut open = self.write();
        let handle = open.by_id.remove(&id)?;
        let Handle::File(file) = &*handle else { return None };
        let inode = open.by_ino.get_mut(&file.ino)?;
        inode.ids.retain(|other| *other != id);
        let through = inode.through;
        if inode.ids.is_empty() {
            open.by_ino.remove(&file.ino);
        }
        Some(Closed { ino: file.ino, writable: file.writable, through, file: file.file() })
    }

    /// The file handles of an inode.
    pub(super) fn of(&self, ino: u64) -> Vec<Arc<Handle>> {
        let open = self.read();
        let Some(inode) = open.by_ino.get(&ino) else { return Vec::new() };
        inode.ids.iter().filter_map(|id| open.by_id.get(id).cloned()).collect()
    }

    /// Whether an inode is open and its data passed through.
    pub(super) fn passes_through(&self, ino: u64) -> bool {
        self.read().by_ino.get(&ino).is_some_and(|inode| inode.through)
    }

    /// The inodes that are open for writing.
    pub(super) fn written(&self) -> Vec<u64> {
        let open = self.read();
        let writable = |handle: &Arc<Handle>| match &**handle {
            Handle::File(file) if file.writable => Some(file.ino),
            _ => None,
        };
        open.by_id.values().filter_map(writable).collect()
    }
}
