//! Moving a view forward while its run lives: all pins go at once, and what that changes is told
//! path by path.
//!
//! What the agent has written itself is never touched: a path that its delta *covers* is shown as
//! before, and told apart, because an apply may meet a conflict there. The snapshot of `.git` is
//! no pin of this kind and stays. The order is that of [`super::control`]: the layers change
//! first, then the kernel is told of exactly the paths that show another version, and whoever has
//! a file open goes on reading the version that was opened.

use super::error::FsError;
use super::layers::Which;
use super::{Attr, View, notices, sys};
use crate::gate::{Advanced, Shift};
use crate::stat::kind_of;
use agentfs_core::RelPath;
use agentfs_core::changeset::{FileKind, same_version};
use rustix::fs::{self, AtFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

/// The most edits of one moment that watchers are told of: a checkout is more than they can take.
const MOST_EDITS: usize = 1_024;

/// Is told what people's edits of base change in a view.
pub type Teller = dyn Fn(Vec<Shift>) + Send + Sync;

/// What a walk over the pins has found.
#[derive(Debug, Default)]
struct Walk {
    shifts: Vec<Shift>,
    /// Directories of the pins: their attributes may be others now, and nothing else of them.
    dirs: Vec<RelPath>,
}

impl View {
    /// Removes all pins. Says what the view shows otherwise since then, and where its delta hides
    /// a change of base.
    pub(super) fn advance_all(&self) -> Result<Advanced, FsError> {
        let mut walk = Walk::default();
        let mut advanced = Advanced::default();
        {
            let _names = self.write_names();
            let pins = self.layers.root(Which::Pins).try_clone_to_owned()?;
            let base = self.layers.root(Which::Base).try_clone_to_owned()?;
            let dropped = self.drop_pins(&pins, Some(&base), &RelPath::root(), &mut walk);
            self.layers.forget_all();
            dropped?;
            for shift in walk.shifts {
                // What can't be looked at in the delta is the agent's own doing.
                if self.is_covered(&shift.path).unwrap_or(true) {
                    advanced.covered.push(shift.path);
                } else {
                    advanced.shown.push(shift);
                }
            }
        }
        advanced.shown.sort_by(|a, b| a.path.cmp(&b.path));
        advanced.covered.sort();
        let paths: Vec<RelPath> = advanced.shown.iter().map(|shift| shift.path.clone()).collect();
        self.invalidate_with(&paths, &walk.dirs);
        Ok(advanced)
    }

    /// Removes all that is in the directory `pins`, which is at `at` and stands for `base`.
    fn drop_pins(
        &self,
        pins: &OwnedFd,
        base: Option<&OwnedFd>,
        at: &RelPath,
        walk: &mut Walk,
    ) -> Result<(), FsError> {
        for (name, _) in sys::names(pins)? {
            if notices::is_git(&name) {
                continue;
            }
            let path = at.join(&name);
            let Some(pin) = sys::stat_at(pins, &name)? else { continue };
            let now = base.map_or(Ok(None), |base| sys::stat_at(base, &name))?;
            let both_dirs = sys::is_dir(&pin) && now.as_ref().is_some_and(sys::is_dir);
            if let Some(shift) = shift(&path, &pin, now.as_ref()) {
                walk.shifts.push(shift);
            }
            if sys::is_dir(&pin) {
                let below = match base.filter(|_| both_dirs) {
                    Some(base) => Some(sys::dir_at(base, &name)?),
                    None => None,
                };
                self.drop_pins(&sys::dir_at(pins, &name)?, below.as_ref(), &path, walk)?;
                walk.dirs.push(path.clone());
                match fs::unlinkat(pins, &name, AtFlags::REMOVEDIR) {
                    // It holds what belongs to the snapshot.
                    Ok(()) | Err(Errno::NOTEMPTY) => {}
                    Err(errno) => return Err(errno.into()),
                }
            } else {
                fs::unlinkat(pins, &name, AtFlags::empty())?;
            }
            if let Some(base) = base
                && !both_dirs
                && now.as_ref().is_some_and(sys::is_dir)
            {
                self.appear(base, &name, &path, walk)?;
            }
        }
        Ok(())
    }

    /// All below the directory `name` of base was hidden, and shows now; but for scratch, which
    /// nobody is told of.
    fn appear(
        &self,
        base: &OwnedFd,
        name: &OsStr,
        path: &RelPath,
        walk: &mut Walk,
    ) -> Result<(), FsError> {
        let dir = match sys::dir_at(base, name) {
            // What nobody may look at, nobody sees appear.
            Err(Errno::ACCESS) => return Ok(()),
            dir => dir?,
        };
        let names = match sys::names(&dir) {
            Err(Errno::ACCESS) => return Ok(()),
            names => names?,
        };
        for (name, _) in names {
            let path = path.join(&name);
            let Some(found) = sys::stat_at(&dir, &name)? else { continue };
            let is_dir = sys::is_dir(&found);
            if self.is_scratch(&path, is_dir) {
                continue;
            }
            walk.shifts.push(Shift {
                path: path.clone(),
                before: None,
                after: Some(kind_of(&found)),
            });
            if is_dir {
                self.appear(&dir, &name, &path, walk)?;
            }
        }
        Ok(())
    }

    /// Whether the delta decides what is shown at `path`. The names are locked.
    fn is_covered(&self, path: &RelPath) -> Result<bool, FsError> {
        let mut dir = self.layers.root(Which::Delta).try_clone_to_owned()?;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            match sys::stat_at(&dir, name)? {
                None => return Ok(false),
                Some(found) if !sys::is_dir(&found) || names.peek().is_none() => return Ok(true),
                Some(_) => {}
            }
            dir = sys::dir_at(&dir, name)?;
            if self.layers.is_opaque(&dir)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The node by which the kernel may still know what was at `path`, and its attributes if
    /// somebody has it open. The kernel knows it once more.
    pub fn known_as(&self, path: &RelPath, is_dir: bool) -> Option<(u64, Option<Attr>)> {
        let ino = {
            let mut nodes = self.nodes();
            let ino = nodes.ino(path).filter(|ino| nodes.is_dir(*ino) == is_dir)?;
            nodes.remember(ino);
            ino
        };
        Some((ino, self.getattr(ino, None).ok()))
    }

    /// Says who is told what people's edits of base change in this view; none after an unmount.
    /// Called on the watch's thread: must not take long.
    pub fn attach_teller(&self, teller: Option<Arc<Teller>>) {
        *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = teller;
    }

    /// What there is to tell of `paths`, which somebody has changed in base, and whom.
    pub(super) fn edits_to_tell(&self, paths: &[RelPath]) -> Option<(Arc<Teller>, Vec<Shift>)> {
        let teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        match self.edited(&paths[..paths.len().min(MOST_EDITS)]) {
            Ok(edits) => Some((teller, edits)).filter(|(_, edits)| !edits.is_empty()),
            Err(error) => {
                tracing::debug!(%error, "what was edited can't be told");
                None
            }
        }
    }

    /// What has become of `paths`, which somebody has changed in base past the kernel, as far as
    /// it shows in this view. What the kernel has not looked at counts as new.
    pub(super) fn edited(&self, paths: &[RelPath]) -> Result<Vec<Shift>, FsError> {
        let _names = self.read_names();
        let mut found = Vec::new();
        for path in paths {
            let is_none_of_its_business = path.is_root() || notices::is_virtual_path(path);
            if is_none_of_its_business || self.is_covered(path)? {
                continue;
            }
            let entry = self.layers.entry(path)?;
            if entry.as_ref().is_some_and(|entry| entry.top != Which::Base)
                || self.is_scratch(path, entry.as_ref().is_some_and(|e| sys::is_dir(&e.stat)))
            {
                continue;
            }
            let after = entry.map(|entry| kind_of(&entry.stat));
            let before = {
                let nodes = self.nodes();
                nodes.ino(path).map(|ino| nodes.is_dir(ino)).map(|is_dir| match after {
                    _ if is_dir => FileKind::Dir,
                    Some(kind) if kind != FileKind::Dir => kind,
                    _ => FileKind::File,
                })
            };
            if before.is_some() || after.is_some() {
                found.push(Shift { path: path.clone(), before, after });
            }
        }
        Ok(found)
    }
}

/// What becomes of `path` when its pin goes; none if base has what was pinned.
fn shift(path: &RelPath, pin: &Stat, now: Option<&Stat>) -> Option<Shift> {
    let before = (!sys::is_whiteout(pin)).then(|| crate::stat::signature_of(pin));
    let after = now.map(crate::stat::signature_of);
    (!same_version(before, after)).then(|| Shift {
        path: path.clone(),
        before: before.map(|before| before.kind),
        after: after.map(|after| after.kind),
    })
}
