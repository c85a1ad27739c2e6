//! The virtual directory `.agentfs/` at a view's root: in no layer, never written.
//!
//! Every text but `.gitignore` is made by the owner of the workspace's state when the file is
//! opened, which may take long: never on a thread that serves the kernel. Like files of /proc they
//! have the size 0; `.gitignore` has its real one, because git reads as much as `stat` says.

use super::error::FsError;
use super::nodes::NOTICES;
use crate::gate::Notice;
use agentfs_core::RelPath;
use std::ffi::OsStr;

/// The directory's name.
pub const DIRECTORY: &str = ".agentfs";
/// So that git ignores the directory.
pub(super) const GIT_IGNORE: &str = "*\n";

/// The number of the directory.
pub const DIRECTORY_INO: u64 = NOTICES;

/// The file with this number.
pub fn by_ino(ino: u64) -> Option<Notice> {
    let index = ino.checked_sub(NOTICES + 1)?;
    Notice::ALL.get(usize::try_from(index).ok()?).map(|(notice, _)| *notice)
}

/// The file with this name.
pub(super) fn by_name(name: &OsStr) -> Option<Notice> {
    Notice::ALL.iter().find(|(_, known)| name == *known).map(|(notice, _)| *notice)
}

/// The number of a file.
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
