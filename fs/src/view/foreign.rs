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
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The paths that are mounted elsewhere, with all below them.
#[derive(Debug, Default)]
pub(super) struct Foreign(RwLock<Vec<RelPath>>);

impl Foreign {
    /// Whether `path` is one of them or lies below one.
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.read().iter().any(|foreign| foreign.contains(path))
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<RelPath>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<RelPath>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// Says which directories are changed past the view from now on; none if none.
    pub fn set_foreign(&self, paths: Vec<RelPath>) {
        let _names = self.write_names();
        for path in &paths {
            self.layers.forget(path);
        }
        *self.layers.foreign().write() = paths;
    }

    /// Those directories.
    pub fn foreign(&self) -> Vec<RelPath> {
        self.layers.foreign().read().clone()
    }

    /// Whether `path` is one of them or lies below one.
    pub fn is_foreign(&self, path: &RelPath) -> bool {
        self.layers.foreign().has(path)
    }

    /// Whether the node is one of them: then its name is the view's, but what it is like is not.
    pub fn is_mount(&self, ino: u64) -> bool {
        if self.layers.foreign().read().is_empty() {
            return false;
        }
        self.path_of(ino).is_ok_and(|path| self.layers.foreign().read().contains(&path))
    }

    /// Whether one of them is at or below `path`.
    pub(super) fn holds_mounts(&self, path: &RelPath) -> bool {
        self.layers.foreign().read().iter().any(|foreign| path.contains(foreign))
    }

    /// The nodes of them and of the directories above them. If the kernel forgets the name of one
    /// of these, it unmounts what is below.
    pub(super) fn nodes_of_mounts(&self) -> BTreeSet<u64> {
        let mounts = self.foreign();
        let nodes = self.nodes();
        let on_the_way = mounts.iter().flat_map(RelPath::ancestors);
        on_the_way.filter_map(|path| nodes.ino(&path)).collect()
    }

    /// What is at `path` from now on is the view's.
    pub(super) fn forget_mount(&self, path: &RelPath) {
        self.layers.foreign().write().retain(|foreign| foreign != path);
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
        let creation = Creation { uid, gid, mode: 0o755, umask: 0 };
        let (staged, _) = self.delta.stage(|work, temp| {
            rustix::fs::mkdirat(work, temp, Mode::RWXU)?;
            self.own(work, temp, creation, FileType::Directory, None)
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
                Ok(dir) if dir.layer(Which::Base).is_some() => {
                    self.drop_one(&path)?;
                    self.layers.forget_all();
                }
                Ok(_) | Err(FsError::NotFound | FsError::NotDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
