//! Directories of the view that the kernel serves past it: scratch that is mounted inside the
//! sandbox, with the delta as its upper layer.
//!
//! The view shows the same tree, because the format is the same, but hears of no change there. So
//! what it says of such paths must not be cached for long: [`View::is_foreign`] tells which.
//!
//! Invariant: what is mounted over has a directory in the delta, reached through directories alone.

use super::error::FsError;
use super::layers::{Format, Which};
use super::{Creation, Found, View, sys};
use agentfs_core::RelPath;
use rustix::fs::{FileType, Mode};
use std::sync::{PoisonError, RwLock};

/// The paths that are mounted elsewhere, with all below them.
#[derive(Debug, Default)]
pub(super) struct Foreign(RwLock<Vec<RelPath>>);

impl Foreign {
    fn has(&self, path: &RelPath) -> bool {
        let paths = self.0.read().unwrap_or_else(PoisonError::into_inner);
        paths.iter().any(|foreign| foreign.contains(path))
    }
}

impl View {
    /// Says which directories are changed past the view from now on; none if none.
    pub fn set_foreign(&self, paths: Vec<RelPath>) {
        *self.foreign.0.write().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    /// Those directories.
    pub fn foreign(&self) -> Vec<RelPath> {
        self.foreign.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `path` is one of them or lies below one.
    pub fn is_foreign(&self, path: &RelPath) -> bool {
        self.foreign.has(path)
    }

    /// Whether one of them is at or below `path`.
    pub(super) fn holds_mounts(&self, path: &RelPath) -> bool {
        self.foreign().iter().any(|foreign| path.contains(foreign))
    }

    /// What is at `path` from now on is the view's.
    pub(super) fn forget_mount(&self, path: &RelPath) {
        let mut paths = self.foreign.0.write().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|foreign| foreign != path);
    }

    /// Whether the delta's attributes are those that everyone may set.
    pub fn has_user_format(&self) -> bool {
        self.layers.format() == Format::User
    }

    /// Makes ready that a scratch directory is mounted: gives it a directory in the delta. Says
    /// whether base's shows below that; none if the view has something else there, or if what
    /// merges is more than delta and base.
    pub fn prepare_mount(&self, found: &Found) -> Result<Option<bool>, FsError> {
        let _names = self.write_names();
        match self.layers.dir(&found.path) {
            Ok(dir) if dir.layer(Which::Pins).is_some() => Ok(None),
            Ok(_) => {
                let dir = self.delta.ensure_dir(&self.layers, &found.path)?;
                Ok(Some(dir.layer(Which::Base).is_some()))
            }
            Err(FsError::NotFound) if found.named => self.make_named(&found.path),
            Err(FsError::NotFound | FsError::NotDirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a configured directory where the view has nothing but the directory above it.
    fn make_named(&self, path: &RelPath) -> Result<Option<bool>, FsError> {
        let place = match self.layers.place(path) {
            Ok(place) => place,
            Err(FsError::NotFound | FsError::NotDirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let parent = path.parent().ok_or(FsError::Invalid)?;
        let dir = self.delta.ensure_dir(&self.layers, &parent)?;
        let delta = dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
        if sys::stat_at(delta, &place.name)?.is_some() {
            // The agent has removed it.
            return Ok(None);
        }
        let (uid, gid) = self.owner.shown;
        let creation = Creation { uid, gid, mode: 0o755 };
        let (staged, ()) = self.delta.stage(|work, temp| {
            rustix::fs::mkdirat(work, temp, Mode::RWXU)?;
            self.own(work, temp, creation, FileType::Directory)
        })?;
        staged.place(delta, &place.name)?;
        self.invalidate(Some(std::slice::from_ref(path)));
        Ok(Some(false))
    }

    /// After a run: nothing is mounted any more. Directories that were made for it and got nothing
    /// go from the delta again, with those above them.
    pub fn forget_mounts(&self) -> Result<(), FsError> {
        let paths = self.foreign();
        self.set_foreign(Vec::new());
        let _names = self.write_names();
        for path in paths {
            match self.layers.dir(&path) {
                Ok(dir) if dir.layer(Which::Base).is_some() => self.drop_one(&path)?,
                Ok(_) | Err(FsError::NotFound | FsError::NotDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
