//! Whether a delta hides what base has at a path. Asked before a path is written for the first
//! time: what is hidden then was written earlier, and if no note tells what that was based on,
//! nobody knows (G2).
//!
//! Only what the delta has without the agent's having changed it hides nothing: a directory over a
//! directory, because these merge, and a copy that still is as it came from base.

use super::attributes::is_opaque;
use super::tree::{Tree, is_whiteout};
use crate::stat::{kind_of, signature_of};
use agentfs_core::RelPath;
use agentfs_core::changeset::{FileKind, Signature};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, Stat, openat};
use std::io;

/// Whether the delta at the open directory `delta` has something at `path`, or above it, because
/// of which the view does not show `base`, which is what base has at `path`.
pub fn hides(delta: impl AsFd, path: &RelPath, base: &Signature) -> io::Result<bool> {
    let mut reached: Option<OwnedFd> = None;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let dir: BorrowedFd<'_> = reached.as_ref().map_or(delta.as_fd(), AsFd::as_fd);
        let Some(found) = Tree::stat_name(dir, name)? else { return Ok(false) };
        if names.peek().is_none() {
            return Ok(!is_as_it_came(&found, base));
        }
        if kind_of(&found) != FileKind::Dir {
            return Ok(true);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = openat(dir, name, flags, Mode::empty())?;
        if is_opaque(&below)? {
            return Ok(true);
        }
        reached = Some(below);
    }
    Ok(false)
}

/// A copy keeps mode, size and time of what it was made from. Another agent's or a person's
/// version with the very same ones would be that same version.
fn is_as_it_came(found: &Stat, base: &Signature) -> bool {
    let mine = signature_of(found);
    let dirs = mine.kind == FileKind::Dir && base.kind == FileKind::Dir;
    dirs || !is_whiteout(found) && Signature { ino: base.ino, ..mine } == *base
}
