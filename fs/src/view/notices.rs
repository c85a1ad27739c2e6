//! The virtual directory `.agentfs/` at a view's root: in no layer, never stored.
//!
//! Every text but `.gitignore` is made by the owner of the workspace's state when the file is
//! opened, which may take long: never on a thread that serves the kernel. Like files of /proc they
//! have the size 0; `.gitignore` has its real one, because git reads as much as `stat` says.
//!
//! `claim` and `release` take orders, and a write into them waits as a claim does. The kernel holds
//! a lock on the inode meanwhile, at which a second writer could not even be killed; so each walk
//! to these files finds a number of its own ([`fresh_ino`]), and processes see one all the same.

use super::error::FsError;
use super::nodes::NOTICES;
use crate::gate::Notice;
use agentfs_core::RelPath;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory's name.
pub const DIRECTORY: &str = ".agentfs";
/// So that git ignores the directory.
pub(super) const GIT_IGNORE: &str = "*\n";

/// The number of the directory.
pub const DIRECTORY_INO: u64 = NOTICES;

/// The numbers of the files that take orders: so many that none comes again while a write waits.
const ORDERS: std::ops::Range<u64> = NOTICES - (1 << 20)..NOTICES;

/// The file with this number.
pub fn by_ino(ino: u64) -> Option<Notice> {
    if ORDERS.contains(&ino) {
        return Some(if ino & 1 == 0 { Notice::Claim } else { Notice::Release });
    }
    let index = ino.checked_sub(NOTICES + 1)?;
    Notice::ALL.get(usize::try_from(index).ok()?).map(|(notice, _)| *notice)
}

/// The file with this name.
pub(super) fn by_name(name: &OsStr) -> Option<Notice> {
    Notice::ALL.iter().find(|(_, known)| name == *known).map(|(notice, _)| *notice)
}

/// The number by which the kernel is to know a file from now on.
pub(super) fn fresh_ino(notice: Notice) -> u64 {
    static WALKS: AtomicU64 = AtomicU64::new(0);
    if !notice.takes_orders() {
        return ino(notice);
    }
    let walk = WALKS.fetch_add(1, Ordering::Relaxed) % ((ORDERS.end - ORDERS.start) / 2);
    ORDERS.start + 2 * walk + u64::from(notice == Notice::Release)
}

/// Whether the kernel must walk to it each time it is opened.
pub fn is_fresh_each_time(ino: u64) -> bool {
    ORDERS.contains(&ino)
}

/// The number of a file, as processes see it.
pub(super) fn ino(notice: Notice) -> u64 {
    let index = Notice::ALL.iter().position(|(known, _)| *known == notice).unwrap_or(0);
    NOTICES + 1 + index as u64
}

/// Whether the number is one of this directory's.
pub fn is_virtual(ino: u64) -> bool {
    ino == DIRECTORY_INO || by_ino(ino).is_some()
}

/// Whether the path is the directory or below it, or one that views never show.
pub fn is_virtual_path(path: &RelPath) -> bool {
    path.components().next().is_some_and(|first| first == DIRECTORY || is_stage(first))
}

/// Whether a name at the root is that of a directory in which an apply prepares what it moves
/// into base (where base's `.git` can't take it): no view shows one, also if an apply that was
/// interrupted has left it.
pub(super) fn is_stage(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".agentfs-stage-")
}

/// The name at the root for the private copy of a git directory that lies above the workspace: the
/// sandbox shows it at that directory's own place, and no view lists it.
pub const GIT_ABOVE: &str = ".agentfs-git";

/// Whether a name is that of an agent's private git directory, in the layers of a view.
pub(super) fn is_git(name: &OsStr) -> bool {
    name == ".git" || name == GIT_ABOVE
}

/// Whether a name that the layers have at the root is in no listing of it.
pub(super) fn is_unlisted(name: &OsStr) -> bool {
    name == DIRECTORY || name == GIT_ABOVE || is_stage(name)
}

/// Fails for a path that can't be written because it is virtual.
pub(super) fn refuse(path: &RelPath) -> Result<(), FsError> {
    if is_virtual_path(path) { Err(FsError::Virtual) } else { Ok(()) }
}
