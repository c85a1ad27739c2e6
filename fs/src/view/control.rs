//! What the owner of the workspace's state does with a view: pin, sync, drop, ask.
//!
//! What the kernel has cached is invalidated through [`KernelCache`], by a thread of its own: the
//! kernel takes the directory's lock for it, which an operation that waits at the gate may hold.
//! So the owner does not wait for it, and this order makes that right: the layers change first,
//! then the kernel is told, then the owner goes on. Whatever reaches the view after the first
//! step finds the new version: an open of the inode that the kernel still has under the name gets
//! `ESTALE` (see [`FsError::Moved`]), upon which the kernel looks the name up again, and the inode
//! that it finds then has no pages cached yet. So no process can open the new name and read the
//! old data, and what counts as read was read (G2). Until the kernel has been told, and no longer
//! than its entries live, `stat` may show old attributes, and a new name may be missing; where a
//! whole view moves, before a run's first process, the caller waits so that there is no such time,
//! and so it does where the delta's own files are dropped.

use super::error::FsError;
use super::layers::Which;
use super::{View, notices, sys};
use crate::gate::{Advanced, ViewControl};
use crate::watch::{BaseChanges, BaseListener};
use agentfs_core::RelPath;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

/// Something that the kernel may have cached and must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Attributes and data of an inode.
    Inode(u64),
    /// Attributes of an inode.
    Attributes(u64),
    /// That a name in a directory is, or is not, there.
    Entry(u64, OsString),
}

/// The kernel's caches for one mount.
pub trait KernelCache: Send + Sync + 'static {
    /// Has the kernel forget, in this order, soon: returns at once.
    fn invalidate(&self, what: Vec<Cached>);

    /// Waits until all that was asked for is done, but never longer than a moment: some operation
    /// may be waiting at the gate in a directory that the kernel needs for it.
    fn settle(&self);
}

impl View {
    /// Says whom to tell when base or the delta change past the kernel; none after an unmount.
    pub fn attach_kernel(&self, kernel: Option<Arc<dyn KernelCache>>) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = kernel;
    }

    /// Waits a moment for the kernel.
    fn settle_kernel(&self) {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kernel) = kernel {
            kernel.settle();
        }
    }

    /// Lets the view show the pins' directory `name` at its root alone, without what base has
    /// there. Only while no run uses the view, and before it is synced.
    pub fn seclude(&self, name: &OsStr) -> io::Result<()> {
        let _names = self.write_names();
        let dir = sys::dir_at(self.layers.root(Which::Pins), name)?;
        Ok(self.delta.set_opaque(dir)?)
    }

    /// The attribute by which directories of this view's layers hide what is below them.
    pub fn opaque_attribute(&self) -> &'static str {
        self.delta.opaque_attribute()
    }

    /// Makes the kernel forget `paths`, or all, soon.
    pub(super) fn invalidate(&self, paths: Option<&[RelPath]>) {
        let Some(paths) = paths else { return self.invalidate_all() };
        self.invalidate_with(paths, &[]);
    }

    /// Makes the kernel forget `paths`, and of `dirs` the attributes, soon.
    pub(super) fn invalidate_with(&self, paths: &[RelPath], dirs: &[RelPath]) {
        let mut what = Vec::new();
        {
            let nodes = self.nodes();
            what.extend(dirs.iter().filter_map(|dir| nodes.ino(dir)).map(Cached::Inode));
            // Data first: entries may have to wait for an operation in their directory.
            what.extend(paths.iter().filter_map(|path| nodes.ino(path)).map(Cached::Inode));
            for path in paths {
                // A name that nobody has looked up may still be cached as missing, and so may a
                // directory above it.
                for at in path.ancestors() {
                    let Some((parent, name)) = at.parent().zip(at.file_name()) else { break };
                    if let Some(parent) = nodes.ino(&parent) {
                        what.push(Cached::Inode(parent));
                        // With the name of a directory the kernel forgets what is mounted there.
                        if !self.holds_mounts(&at) {
                            what.push(Cached::Entry(parent, name.to_owned()));
                        }
                        break;
                    }
                }
            }
        }
        what.dedup();
        self.tell_kernel(what);
    }

    fn invalidate_all(&self) {
        let mut what = vec![Cached::Inode(super::ROOT)];
        let mounts = self.nodes_of_mounts();
        for (ino, links) in self.nodes().all() {
            what.push(Cached::Inode(ino));
            if mounts.contains(&ino) {
                continue;
            }
            what.extend(links.map(|(dir, name)| Cached::Entry(dir, name.to_owned())));
        }
        // Data first, as above.
        what.sort_by_key(|cached| matches!(cached, Cached::Entry(..)));
        self.tell_kernel(what);
    }

    /// Has the kernel forget something soon, if the view is mounted.
    pub(super) fn tell_kernel(&self, what: Vec<Cached>) {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kernel) = kernel {
            kernel.invalidate(what);
        }
    }

    fn pin_one(&self, path: &RelPath) -> Result<(), FsError> {
        if path.is_root() || notices::is_virtual_path(path) {
            return Ok(());
        }
        // Walk down, making the directories that base has, to the path or to where base ends.
        let mut pins = self.layers.root(Which::Pins).try_clone_to_owned().map_err(FsError::from)?;
        let mut base = self.layers.root(Which::Base).try_clone_to_owned().map_err(FsError::from)?;
        let names: Vec<&OsStr> = path.components().collect();
        for (index, name) in names.iter().enumerate() {
            let last = index + 1 == names.len();
            let pinned = sys::stat_at(&pins, name)?;
            let Some(stat) = sys::stat_at(&base, name)? else {
                // Nothing here now: so it stays for this view, whatever base gets.
                return match pinned {
                    Some(_) => Ok(()),
                    None => Ok(sys::make_whiteout(&pins, *name)?),
                };
            };
            match pinned {
                Some(pinned) if last || !sys::is_dir(&pinned) => return Ok(()),
                Some(_) => {}
                None if sys::is_dir(&stat) => self.pin_dir(&base, &pins, name, &stat)?,
                None => return self.pin_file(&base, &pins, name),
            }
            if !last {
                pins = sys::dir_at(&pins, name)?;
                base = sys::dir_at(&base, name)?;
            }
        }
        Ok(())
    }

    fn pin_dir(
        &self,
        base: &OwnedFd,
        pins: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<(), FsError> {
        fs::mkdirat(pins, name, Mode::RWXU)?;
        let dir = sys::dir_at(pins, name)?;
        if self.delta.privileged() {
            super::delta::set_owner(dir.as_fd(), Some(stat.st_uid), Some(stat.st_gid))?;
        }
        fs::chmodat(pins, name, sys::permissions(stat), AtFlags::empty())?;
        let now = fs::statat(base, name, AtFlags::SYMLINK_NOFOLLOW)?;
        super::delta::set_times(dir.as_fd(), &super::delta::times_of(&now))
    }

    /// A hard link where that is possible: base's file is replaced by rename, never written.
    fn pin_file(&self, base: &OwnedFd, pins: &OwnedFd, name: &OsStr) -> Result<(), FsError> {
        match fs::linkat(base, name, pins, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => return Ok(()),
            Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        let source = sys::pin_at(base, name)?;
        let stat = fs::fstat(&source)?;
        match sys::kind(&stat) {
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::CLOEXEC;
                let data = fs::open(sys::proc_path(&source), read, Mode::empty())?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let copy = fs::openat(pins, name, flags, Mode::RUSR | Mode::WUSR)?;
                super::copy_up::copy_data(&data, &copy, stat.st_size as u64)?;
                fs::fchmod(&copy, sys::permissions(&stat))?;
            }
            FileType::Symlink => fs::symlinkat(sys::link_text(&source)?, pins, name)?,
            special => fs::mknodat(pins, name, special, sys::permissions(&stat), stat.st_rdev)?,
        }
        let copy = sys::pin_at(pins, name)?;
        if self.delta.privileged() {
            super::delta::set_owner(copy.as_fd(), Some(stat.st_uid), Some(stat.st_gid))?;
        }
        super::delta::set_times(copy.as_fd(), &super::delta::times_of(&stat))
    }

    /// Removes the pin of one path, or the whiteout above it that stands for it, and the
    /// directories that held nothing else. Says where the pin was: all of base that it hid shows
    /// again, which may be more than `path`.
    fn unpin(&self, path: &RelPath) -> Result<Option<RelPath>, FsError> {
        let root = self.layers.root(Which::Pins);
        for place in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { continue };
            let Ok(dir) = sys::dir_beneath(root, &parent) else { return Ok(None) };
            match sys::stat_at(&dir, name)? {
                None => return Ok(None),
                Some(stat) if !sys::is_dir(&stat) => {
                    fs::unlinkat(&dir, name, AtFlags::empty())?;
                    remove_empty(root, &parent)?;
                    return Ok(Some(place));
                }
                Some(_) => {}
            }
        }
        remove_empty(root, path)?;
        Ok(None)
    }

    /// Removes one path from the delta, and the directories above it that the delta had only for
    /// its sake.
    pub(super) fn drop_one(&self, path: &RelPath) -> Result<(), FsError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let root = self.layers.root(Which::Delta);
        let dir = match sys::dir_beneath(root, &parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let Some(stat) = sys::stat_at(&dir, name)? else { return Ok(()) };
        if sys::is_dir(&stat) {
            // Only what is left empty goes: what is below it and stays (scratch) is the agent's, and
            // hides nothing of what base has there now.
            match fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY) => self.delta.unset_opaque(sys::dir_at(&dir, name)?)?,
                Err(errno) => return Err(errno.into()),
            }
        } else {
            let orphan = match self.nodes().ino(path) {
                Some(_) if !sys::is_whiteout(&stat) => Some(Arc::new(sys::pin_at(&dir, name)?)),
                _ => None,
            };
            fs::unlinkat(&dir, name, AtFlags::empty())?;
            self.nodes().replace(path, orphan);
        }
        for parent in path.ancestors().skip(1).filter(|path| !path.is_root()) {
            // A directory that is in no lower layer is the agent's own work, even empty.
            let lower = self.layers.stat_in(Which::Base, &parent)?;
            if !lower.is_some_and(|stat| sys::is_dir(&stat)) || !remove_if_empty(root, &parent)? {
                break;
            }
        }
        Ok(())
    }

    /// Moves the whole view, which no run uses at that time.
    fn sync_all(&self) -> io::Result<()> {
        {
            let _names = self.write_names();
            self.layers.forget_all();
            drop_old_versions(self.layers.root(Which::Pins))?;
        }
        self.invalidate(None);
        self.settle_kernel();
        Ok(())
    }

    /// All paths of the delta that are not scratch, what is below a directory before it.
    fn delta_paths(&self) -> Result<Vec<RelPath>, FsError> {
        let mut found = Vec::new();
        let root = self.layers.root(Which::Delta).try_clone_to_owned().map_err(FsError::from)?;
        self.collect(&root, &RelPath::root(), &mut found)?;
        Ok(found)
    }

    fn collect(
        &self,
        dir: &OwnedFd,
        at: &RelPath,
        found: &mut Vec<RelPath>,
    ) -> Result<(), FsError> {
        for (name, _) in sys::names(dir)? {
            let path = at.join(&name);
            let Some(stat) = sys::stat_at(dir, &name)? else { continue };
            let is_dir = sys::is_dir(&stat);
            // That a directory is gone is as private as the directory was.
            let was_dir = sys::is_whiteout(&stat)
                && self.layers.stat_in(Which::Base, &path)?.is_some_and(|it| sys::is_dir(&it));
            if self.is_scratch(&path, is_dir || was_dir) {
                continue;
            }
            if is_dir {
                self.collect(&sys::dir_at(dir, &name)?, &path, found)?;
            }
            found.push(path);
        }
        Ok(())
    }
}

impl BaseListener for View {
    /// Somebody has changed base by hand: what the view shows of it, the kernel must forget.
    fn base_changed(&self, changes: &BaseChanges) {
        let changed: Vec<RelPath> = changes.paths.union(&changes.subtrees).cloned().collect();
        // While it is still known what was there.
        let edits = self.edits_to_tell(&changed);
        {
            // Whoever walks to a directory now has the old one kept before this, or the new one.
            let _names = self.write_names();
            if changes.all {
                self.layers.forget_all();
            }
            changes.subtrees.iter().for_each(|top| self.layers.forget(top));
        }
        if changes.all {
            self.invalidate(None);
        } else {
            self.invalidate(Some(&changed));
        }
        if let Some((tell, edits)) = edits {
            tell(edits);
        }
    }
}

impl ViewControl for View {
    fn pin(&self, paths: &[RelPath]) -> io::Result<()> {
        let _names = self.write_names();
        let pinned = paths.iter().try_for_each(|path| self.pin_one(path));
        self.layers.forget_all();
        Ok(pinned?)
    }

    fn sync(&self, paths: Option<&[RelPath]>) -> io::Result<()> {
        let Some(paths) = paths else { return self.sync_all() };
        let mut changed = paths.to_vec();
        {
            let _names = self.write_names();
            let unpinned = paths.iter().try_for_each(|path| {
                changed.extend(self.unpin(path)?.filter(|hidden| hidden != path));
                Ok::<_, FsError>(())
            });
            self.layers.forget_all();
            unpinned?;
        }
        self.invalidate(Some(&changed));
        Ok(())
    }

    fn advance(&self) -> io::Result<Advanced> {
        Ok(self.advance_all()?)
    }

    fn settle(&self) {
        self.settle_kernel();
    }

    fn drop_from_delta(&self, paths: Option<&[RelPath]>) -> io::Result<()> {
        let dropped = {
            let _names = self.write_names();
            let mut paths = paths.map_or_else(|| self.delta_paths(), |paths| Ok(paths.to_vec()))?;
            // What is below a directory goes before it.
            paths.sort();
            paths.reverse();
            let dropped = paths.iter().try_for_each(|path| self.drop_one(path));
            self.layers.forget_all();
            dropped?;
            paths
        };
        self.invalidate(Some(&dropped));
        // What was dropped is still held open for its handles, so an open of the inode that the
        // kernel has under the name would find it: the kernel is waited for.
        self.settle_kernel();
        Ok(())
    }

    fn open_for_writing(&self) -> Vec<RelPath> {
        let mut paths: Vec<_> =
            self.handles.written().into_iter().flat_map(|ino| self.paths_of(ino)).collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

/// Removes all pins but the snapshots of git directories, which only a new run replaces. Says
/// whether nothing is left.
fn drop_old_versions(dir: impl AsFd) -> Result<bool, Errno> {
    let mut empty = true;
    for (name, kind) in sys::names(&dir)? {
        let keeps = notices::is_git(&name)
            || kind == FileType::Directory && !drop_old_versions(sys::dir_at(&dir, &name)?)?;
        if keeps {
            empty = false;
        } else {
            sys::remove_all(&dir, &name)?;
        }
    }
    Ok(empty)
}

/// Removes the directory and those above it, up to the first that holds something.
fn remove_empty(root: impl AsFd, path: &RelPath) -> Result<(), Errno> {
    for dir in path.ancestors().filter(|path| !path.is_root()) {
        if !remove_if_empty(&root, &dir)? {
            break;
        }
    }
    Ok(())
}

fn remove_if_empty(root: impl AsFd, path: &RelPath) -> Result<bool, Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    let dir = sys::dir_beneath(root, &parent)?;
    match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}
