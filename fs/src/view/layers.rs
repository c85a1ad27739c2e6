//! The three directories of a view and how they merge: delta over pins over base.
//!
//! This is overlayfs's rule. A name is looked for from the top: a whiteout ends the search, an
//! entry that is no directory hides all below it, directories at one name merge until one of them
//! is opaque. A [`MergedDir`] holds the directories of one path that take part; everything else
//! asks it. Nothing here writes.
//!
//! Directories that were walked to are kept open, so that most look-ups walk no path. Whoever
//! changes which directories take part says so: [`Layers::forget`], [`Layers::forget_all`]. What a
//! person changes in base the watch tells, if it covers the directory; one that it can't cover is
//! walked to again after [`UNCOVERED`].
//!
//! Paths are walked one component at a time with `O_NOFOLLOW`, so no symbolic link in any layer,
//! whoever made it, leads out of that layer.

use super::error::FsError;
use super::foreign::Foreign;
use super::sys;
use crate::watch::BaseWatch;
use agentfs_core::RelPath;
use lru::LruCache;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what a directory of base that the watch does not cover has said is good for.
pub(super) const UNCOVERED: Duration = Duration::from_secs(1);

/// How many directories are kept open: at most three descriptors each.
const OPEN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

/// One of the three layers, from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Delta,
    Pins,
    Base,
}

impl Which {
    const ALL: [Self; 3] = [Self::Delta, Self::Pins, Self::Base];
}

/// Names of the attributes of overlayfs's format: root's, or those that everyone may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Trusted,
    User,
}

impl Format {
    /// Marks a directory that hides what is below it, with the value `y`.
    pub(super) fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// The inode number that a copied-up file had before, in decimal. Ours; overlayfs hides and
    /// ignores it.
    pub(super) fn number(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.agentfs.ino",
            Self::User => "user.overlay.agentfs.ino",
        }
    }
}

/// The roots of the three layers.
#[derive(Debug)]
pub(super) struct Layers {
    root: MergedDir,
    watch: Arc<BaseWatch>,
    foreign: Foreign,
    open: Mutex<LruCache<RelPath, Kept>>,
}

/// A directory that is kept open.
#[derive(Clone, Debug)]
struct Kept {
    dir: MergedDir,
    /// When it has to be walked to again, if ever.
    until: Option<Instant>,
}

/// One directory of the view: those of its layers that take part, opened with `O_PATH`.
#[derive(Clone, Debug)]
pub(super) struct MergedDir {
    dirs: [Option<Arc<OwnedFd>>; 3],
    format: Format,
    /// Whether all that changes here is told: by the view itself, or by the watch on base.
    told: bool,
}

/// What a view shows at a name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The layer whose entry is shown.
    pub(super) top: Which,
    /// What `stat` says of that entry.
    pub(super) stat: Stat,
    /// For a directory: the inode number of base's, if it takes part.
    pub(super) base_ino: Option<u64>,
    /// For a directory: whether another layer's takes part below `top`.
    pub(super) merged: bool,
}

/// A name in the directory that would hold it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) dir: MergedDir,
    pub(super) name: OsString,
}

impl Place {
    pub(super) fn entry(&self) -> Result<Option<Entry>, FsError> {
        self.dir.entry(&self.name)
    }
}

impl Layers {
    pub(super) fn new(layers: [OwnedFd; 3], format: Format, watch: Arc<BaseWatch>) -> Self {
        let dirs = layers.map(|dir| Some(Arc::new(dir)));
        let mut root = MergedDir { dirs, format, told: false };
        root.cover(&watch, &RelPath::root());
        let foreign = Foreign::default();
        Self { root, watch, foreign, open: Mutex::new(LruCache::new(OPEN)) }
    }

    fn kept(&self) -> MutexGuard<'_, LruCache<RelPath, Kept>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose attributes the format has.
    pub(super) fn format(&self) -> Format {
        self.root.format
    }

    /// The directories that others change too.
    pub(super) fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    /// The root directory of one layer.
    pub(super) fn root(&self, which: Which) -> BorrowedFd<'_> {
        match &self.root.dirs[which as usize] {
            Some(dir) => dir.as_fd(),
            None => unreachable!("every layer has a root"),
        }
    }

    /// The directory at `path`.
    pub(super) fn dir(&self, path: &RelPath) -> Result<MergedDir, FsError> {
        let mut missing: Vec<RelPath> = Vec::new();
        let mut dir = loop {
            let at = missing.last().map_or_else(|| Some(path.clone()), RelPath::parent);
            let Some(at) = at.filter(|at| !at.is_root()) else { break self.root.clone() };
            if let Some(kept) = self.kept().get(&at)
                && kept.until.is_none_or(|until| Instant::now() < until)
            {
                break kept.dir.clone();
            }
            missing.push(at);
        };
        for at in missing.into_iter().rev() {
            let Some(name) = at.file_name() else { continue };
            dir = dir.descend(name)?;
            if self.foreign.has(&at) {
                // Other directories may take part at any time, and nobody says so.
                dir.told = false;
                continue;
            }
            dir.cover(&self.watch, &at);
            let until = (!dir.told).then(|| Instant::now() + UNCOVERED);
            self.kept().put(at, Kept { dir: dir.clone(), until });
        }
        Ok(dir)
    }

    /// What the view shows at the directory `path`, if it is kept open: the kernel asks this after
    /// every change in a directory, so it must not walk.
    pub(super) fn kept_entry(&self, path: &RelPath) -> Result<Option<Entry>, FsError> {
        let dir = match self.kept().get(path) {
            Some(kept) if kept.until.is_none_or(|until| Instant::now() < until) => kept.dir.clone(),
            _ => return Ok(None),
        };
        let mut layers = Which::ALL.into_iter().filter(|which| dir.layer(*which).is_some());
        let Some(top) = layers.next() else { return Ok(None) };
        let merged = layers.next().is_some();
        let stat_of = |which| dir.layer(which).map(rustix::fs::fstat).transpose();
        let Some(stat) = stat_of(top)? else { return Ok(None) };
        let base_ino = stat_of(Which::Base)?.map(|stat| stat.st_ino);
        Ok(Some(Entry { top, stat, base_ino, merged }))
    }

    /// Other directories take part at `top` or below it than before.
    pub(super) fn forget(&self, top: &RelPath) {
        let mut kept = self.kept();
        let below: Vec<RelPath> =
            kept.iter().map(|(path, _)| path).filter(|path| top.contains(path)).cloned().collect();
        for path in below {
            kept.pop(&path);
        }
    }

    /// A layer has got the directory `path` alone; those below it are what they were.
    pub(super) fn forget_one(&self, path: &RelPath) {
        self.kept().pop(path);
    }

    /// Other directories take part than before.
    pub(super) fn forget_all(&self) {
        self.kept().clear();
    }

    /// Where `path` is or would be; the root has no place.
    pub(super) fn place(&self, path: &RelPath) -> Result<Place, FsError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(FsError::Invalid);
        };
        Ok(Place { dir: self.dir(&parent)?, name: name.to_owned() })
    }

    /// What the view shows at `path`; none if nothing, or if a directory on the way is missing.
    pub(super) fn entry(&self, path: &RelPath) -> Result<Option<Entry>, FsError> {
        if path.is_root() {
            return self.root_entry().map(Some);
        }
        match self.place(path) {
            Ok(place) => place.entry(),
            Err(FsError::NotFound | FsError::NotDirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The root is the delta's own, as in overlayfs.
    fn root_entry(&self) -> Result<Entry, FsError> {
        let stat = rustix::fs::fstat(self.root(Which::Delta))?;
        Ok(Entry { top: Which::Delta, stat, base_ino: None, merged: true })
    }

    /// Whether a directory of the delta or the pins hides what is below it.
    pub(super) fn is_opaque(&self, dir: &OwnedFd) -> Result<bool, FsError> {
        self.root.is_opaque(dir)
    }

    /// What one layer alone holds at `path`; none also if a directory on the way is missing.
    pub(super) fn stat_in(&self, which: Which, path: &RelPath) -> Result<Option<Stat>, FsError> {
        let root = self.root(which);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Some(rustix::fs::fstat(root)?));
        };
        match sys::dir_beneath(root, &parent) {
            Ok(dir) => Ok(sys::stat_at(dir, name)?),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl MergedDir {
    /// Has changes in base's directory told from now on, if there is one.
    fn cover(&mut self, watch: &BaseWatch, path: &RelPath) {
        self.told = match self.layer(Which::Base) {
            Some(base) => watch.cover(path, base),
            None => true,
        };
    }

    /// Whether every change here is told, so that what was seen once may be kept.
    pub(super) fn told(&self) -> bool {
        self.told
    }

    /// The directory of one layer, if it takes part.
    pub(super) fn layer(&self, which: Which) -> Option<BorrowedFd<'_>> {
        self.dirs[which as usize].as_ref().map(AsFd::as_fd)
    }

    /// What the view shows at `name`.
    pub(super) fn entry(&self, name: &OsStr) -> Result<Option<Entry>, FsError> {
        self.entry_from(name, &Which::ALL)
    }

    /// What would show at `name` if the delta had nothing there.
    pub(super) fn lower_entry(&self, name: &OsStr) -> Result<Option<Entry>, FsError> {
        self.entry_from(name, &[Which::Pins, Which::Base])
    }

    fn entry_from(&self, name: &OsStr, layers: &[Which]) -> Result<Option<Entry>, FsError> {
        let mut found: Option<Entry> = None;
        for which in layers.iter().copied() {
            let Some(dir) = self.layer(which) else { continue };
            let Some(stat) = sys::stat_at(dir, name)? else { continue };
            if sys::is_whiteout(&stat) || (found.is_some() && !sys::is_dir(&stat)) {
                break;
            }
            let base_ino = (which == Which::Base).then_some(stat.st_ino);
            match &mut found {
                Some(entry) => {
                    entry.merged = true;
                    entry.base_ino = base_ino;
                }
                None => found = Some(Entry { top: which, stat, base_ino, merged: false }),
            }
            if !sys::is_dir(&stat)
                || (which != Which::Base && self.is_opaque(&sys::dir_at(dir, name)?)?)
            {
                break;
            }
        }
        Ok(found)
    }

    /// The directory `name`.
    pub(super) fn descend(&self, name: &OsStr) -> Result<Self, FsError> {
        let mut dirs = [None, None, None];
        let mut found = false;
        for which in Which::ALL {
            let Some(dir) = self.layer(which) else { continue };
            match sys::dir_at(dir, name) {
                Ok(inner) => {
                    let opaque = which != Which::Base && self.is_opaque(&inner)?;
                    dirs[which as usize] = Some(Arc::new(inner));
                    found = true;
                    if opaque {
                        break;
                    }
                }
                Err(rustix::io::Errno::NOENT) => {}
                // Something that is no directory ends the search: a whiteout, or a file.
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    if found {
                        break;
                    }
                    let whiteout =
                        sys::stat_at(dir, name)?.is_none_or(|stat| sys::is_whiteout(&stat));
                    return Err(if whiteout { FsError::NotFound } else { FsError::NotDirectory });
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if found {
            Ok(Self { dirs, format: self.format, told: false })
        } else {
            Err(FsError::NotFound)
        }
    }

    /// The names of all that the view shows here, each once, in no order.
    pub(super) fn list(&self) -> Result<Vec<OsString>, FsError> {
        let mut seen: HashMap<OsString, bool> = HashMap::new();
        for which in Which::ALL {
            let Some(dir) = self.layer(which) else { continue };
            for (name, kind) in sys::names(dir)? {
                if seen.contains_key(&name) {
                    continue;
                }
                let shown = match kind {
                    FileType::CharacterDevice | FileType::Unknown => {
                        sys::stat_at(dir, &name)?.is_some_and(|stat| !sys::is_whiteout(&stat))
                    }
                    _ => true,
                };
                seen.insert(name, shown);
            }
        }
        Ok(seen.into_iter().filter_map(|(name, shown)| shown.then_some(name)).collect())
    }

    /// Whether the view shows nothing here.
    pub(super) fn is_empty(&self) -> Result<bool, FsError> {
        Ok(self.list()?.is_empty())
    }

    fn is_opaque(&self, dir: &OwnedFd) -> Result<bool, FsError> {
        match sys::xattr(dir, self.format.opaque()) {
            Ok(value) => Ok(value.is_some_and(|value| value == b"y")),
            // The owner's own, who is no root and may not read it: nobody sees what is in it before
            // it gets another mode, and then it is looked at again.
            Err(rustix::io::Errno::ACCESS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Opens a layer's root.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}
