//! What a directory of a lower layer needs before it can be moved: all of it in the delta, and
//! nothing in the delta that speaks of the place where it was.
//!
//! Overlayfs's answer is `EXDEV`, or a mark that points to the old place and that other programs
//! (and unprivileged overlayfs) do not follow. So it is copied up, by one system call of the
//! agent's instead of one for each file.

use super::delta::Content;
use super::error::FsError;
use super::layers::{Entry, Which};
use super::{View, sys};
use agentfs_core::RelPath;
use rustix::fs::{self, AtFlags, FileType};
use std::os::fd::{AsFd, OwnedFd};

/// An entry that a lower layer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lower {
    /// Where.
    pub path: RelPath,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether the delta has it too.
    in_delta: bool,
}

impl View {
    /// All that the view shows below the directory `path` and that a lower layer has. The names
    /// are locked.
    ///
    /// Not a recursion: an agent decides how deep its tree is. No directory stays open either, for
    /// there may be more of them than a process may open.
    pub(super) fn lower_below(&self, path: &RelPath) -> Result<Vec<Lower>, FsError> {
        let mut found = Vec::new();
        let mut to_walk = vec![path.clone()];
        while let Some(at) = to_walk.pop() {
            let dir = self.layers.dir(&at)?;
            if dir.layer(Which::Pins).is_none() && dir.layer(Which::Base).is_none() {
                continue;
            }
            for name in dir.list()? {
                let Some(entry) = dir.entry(&name)? else { continue };
                let (path, is_dir) = (at.join(&name), sys::is_dir(&entry.stat));
                if is_dir {
                    to_walk.push(path.clone());
                }
                let in_delta = entry.top == Which::Delta;
                if !in_delta || entry.merged {
                    found.push(Lower { path, is_dir, in_delta });
                }
            }
        }
        Ok(found)
    }

    /// What has to be copied up before `path`, which is as `entry` says, can be moved. The names
    /// are locked.
    pub(super) fn to_copy(&self, path: &RelPath, entry: &Entry) -> Result<Vec<Lower>, FsError> {
        let is_dir = sys::is_dir(&entry.stat);
        let in_delta = entry.top == Which::Delta;
        let mut all = vec![Lower { path: path.clone(), is_dir, in_delta }];
        if is_dir && (entry.merged || !in_delta) {
            all.extend(self.lower_below(path)?);
        }
        all.retain(|lower| !lower.in_delta);
        Ok(all)
    }

    /// Copies up what [`View::to_copy`] has found; what is gone by now is left out.
    pub(super) fn copy_all(&self, all: &[Lower]) -> Result<(), FsError> {
        for lower in all {
            let copied = if lower.is_dir {
                let _names = self.write_names();
                self.delta.ensure_dir(&self.layers, &lower.path).map(|_| ())
            } else {
                self.copy_up(&lower.path, Content::Keep)
            };
            match copied {
                Ok(()) | Err(FsError::NotFound | FsError::NotDirectory | FsError::Moved) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets a directory, all of which is in the delta, stand for itself: what lower layers have at
    /// its name is hidden, now and where it will be, and the whiteouts below it, which would be of
    /// no use there, are gone. The names are locked for writing.
    pub(super) fn set_apart(&self, dir: &OwnedFd, merged: bool) -> Result<(), FsError> {
        self.delta.set_opaque(dir)?;
        if !merged {
            return Ok(());
        }
        let mut to_walk = vec![RelPath::root()];
        while let Some(at) = to_walk.pop() {
            let inner = sys::dir_beneath(dir.as_fd(), &at)?;
            for (name, kind) in sys::names(&inner)? {
                let whiteout = kind == FileType::CharacterDevice
                    && sys::stat_at(&inner, &name)?.is_some_and(|stat| sys::is_whiteout(&stat));
                if whiteout {
                    fs::unlinkat(&inner, &name, AtFlags::empty())?;
                } else if kind == FileType::Directory {
                    to_walk.push(at.join(&name));
                }
            }
        }
        Ok(())
    }
}
