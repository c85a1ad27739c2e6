//! What looks without changing: lookup, attributes, listings, opening and reading. Never waits.

use super::error::FsError;
use super::handles::Handle;
use super::layers::{Entry, Place, Which};
use super::nodes::{Facts, Target};
use super::{View, acl, delta, notices, sys};
use crate::gate::{Notice, Refusal};
use crate::stat::signature_of;
use agentfs_core::RelPath;
use rustix::fs::{self, FileType, Mode, OFlags, SeekFrom, Stat, StatVfs};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};

/// What a process sees with `stat`.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The number by which the kernel knows it.
    pub ino: u64,
    /// The inode number that processes see: the same, but where another file has that one.
    pub shown: u64,
    /// User, as shown to the agent.
    pub uid: u32,
    /// Group, as shown to the agent.
    pub gid: u32,
    /// Number of hard links; 1 for directories that merge.
    pub nlink: u32,
    /// All else, from the file in force.
    pub stat: Stat,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// By which later requests name it.
    pub handle: u64,
    /// What the kernel may cache of it.
    pub caching: Caching,
}

/// What the kernel may cache of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Nothing: its size is not known.
    Direct,
    /// Nothing that it has, for that may be another version.
    Drop,
    /// What it has is still right.
    Keep,
    /// It has nothing yet, and this is all there is of this version.
    Store(Vec<u8>, NonZeroU64),
    /// It reads and writes the file itself, if that can be had.
    Through,
}

impl View {
    /// The path of a node; fails for one that has been unlinked.
    pub fn path_of(&self, ino: u64) -> Result<RelPath, FsError> {
        match self.nodes().target(ino) {
            Some(Target::Path(path, _)) => Ok(path),
            _ => Err(FsError::NotFound),
        }
    }

    /// All paths of a node: several for hard links, none for an unlinked one.
    pub fn paths_of(&self, ino: u64) -> Vec<RelPath> {
        self.nodes().paths(ino)
    }

    /// Whether a node is a directory; not if the kernel should not know it.
    pub fn is_dir(&self, ino: u64) -> bool {
        ino == notices::DIRECTORY_INO || self.nodes().is_dir(ino)
    }

    /// The number of the directory above; the root's is the root.
    pub fn parent_of(&self, ino: u64) -> u64 {
        let parent = self.path_of(ino).ok().and_then(|path| path.parent());
        parent.and_then(|path| self.nodes().ino(&path)).unwrap_or(super::ROOT)
    }

    /// The path of `name` in the directory `parent`.
    pub fn child_path(&self, parent: u64, name: &OsStr) -> Result<RelPath, FsError> {
        if notices::is_virtual(parent) {
            return Err(FsError::Virtual);
        }
        Ok(self.path_of(parent)?.join(name))
    }

    /// Finds `name` in the directory `parent`; none if there is nothing. The kernel knows the
    /// node once more.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Option<Attr>, FsError> {
        if parent == notices::DIRECTORY_INO {
            return notices::by_name(name).map(|notice| self.fresh_attr(notice)).transpose();
        }
        let _names = self.read_names();
        let path = self.child_path(parent, name)?;
        if path.as_bytes() == notices::DIRECTORY.as_bytes() {
            return self.virtual_dir_attr().map(Some);
        }
        if notices::is_virtual_path(&path) {
            return Ok(None);
        }
        match self.layers.place(&path) {
            Ok(place) => self.attr_at(&path, &place).map(|found| found.map(|(attr, _)| attr)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Binds what is at `path` to a node that the kernel knows once more. The names are locked.
    pub(super) fn attr_at(
        &self,
        path: &RelPath,
        place: &Place,
    ) -> Result<Option<(Attr, Entry)>, FsError> {
        let Some(entry) = place.entry()? else { return Ok(None) };
        let facts = self.facts(path, place, &entry)?;
        let ino = self.bind(path, facts)?;
        Ok(Some((self.attr(ino, &entry), entry)))
    }

    /// The number of `path`; the kernel knows the node once more.
    pub(super) fn bind(&self, path: &RelPath, facts: Facts) -> Result<u64, FsError> {
        let bound = |facts| {
            let mut nodes = self.nodes();
            let ino = nodes.bind(path, facts)?;
            nodes.remember(ino);
            Some(ino)
        };
        // The kernel looks up a directory before what is in it, so only a directory that it has
        // forgotten meanwhile is missing.
        bound(facts).ok_or(FsError::Moved)
    }

    fn facts(&self, path: &RelPath, place: &Place, entry: &Entry) -> Result<Facts, FsError> {
        let is_dir = sys::is_dir(&entry.stat);
        let in_delta = entry.top == Which::Delta;
        let wanted = if entry.base_ino.is_some() {
            entry.base_ino
        } else if !in_delta {
            (!is_dir).then_some(entry.stat.st_ino)
        } else if self.nodes().ino(path).is_none() {
            self.delta.noted_number(place)?
        } else {
            None
        };
        let identity = (entry.stat.st_dev, entry.stat.st_ino);
        Ok(Facts { identity, is_dir, in_delta, wanted })
    }

    /// The attributes of a node; those of the open file where the node has no name any more.
    pub fn getattr(&self, ino: u64, handle: Option<u64>) -> Result<Attr, FsError> {
        if ino == notices::DIRECTORY_INO {
            return self.virtual_dir_attr();
        }
        if let Some(notice) = notices::by_ino(ino) {
            return self.notice_attr(notice);
        }
        if let Some(file) = handle.and_then(|id| self.handles.file(id).ok()) {
            return self.attr_of_open(ino, &file);
        }
        let _names = self.read_names();
        let target = self.nodes().target(ino).ok_or(FsError::Moved)?;
        let gone = match target {
            Target::Orphan(file) | Target::Replaced(file) => {
                return self.attr_of_open(ino, &file);
            }
            Target::Gone => FsError::NotFound,
            Target::Path(path, identity) => match self.entry_of(ino, &path)? {
                Some(entry) if is_still(&entry, identity) => return Ok(self.attr(ino, &entry)),
                Some(_) => FsError::Moved,
                None => FsError::NotFound,
            },
        };
        for handle in self.handles.of(ino) {
            if let Handle::File(handle) = &*handle {
                return self.attr_of_open(ino, &handle.file());
            }
        }
        Err(gone)
    }

    fn entry_of(&self, ino: u64, path: &RelPath) -> Result<Option<Entry>, FsError> {
        let kept = if self.is_dir(ino) { self.layers.kept_entry(path)? } else { None };
        kept.map_or_else(|| self.layers.entry(path), |entry| Ok(Some(entry)))
    }

    pub(super) fn attr(&self, ino: u64, entry: &Entry) -> Attr {
        let mut attr = self.attr_of_file(ino, entry.stat);
        // A hard link of base is a file of its own here, and pins are hard links.
        if entry.merged || entry.top != Which::Delta {
            attr.nlink = if sys::is_dir(&entry.stat) && !entry.merged { attr.nlink } else { 1 };
        }
        attr
    }

    /// The attributes of an open file, which may have lost its name.
    fn attr_of_open(&self, ino: u64, file: &OwnedFd) -> Result<Attr, FsError> {
        let mut attr = self.attr_of_file(ino, fs::fstat(file)?);
        if let Some(links) = self.nodes().links_of_lower(ino) {
            attr.nlink = links;
        }
        Ok(attr)
    }

    fn attr_of_file(&self, ino: u64, mut stat: Stat) -> Attr {
        stat.st_rdev = delta::shown_device(&stat);
        let (uid, gid) = self.owner.show((stat.st_uid, stat.st_gid));
        let shown = self.nodes().shown(ino);
        Attr { ino, shown, uid, gid, nlink: stat.st_nlink as u32, stat }
    }

    pub(super) fn virtual_dir_attr(&self) -> Result<Attr, FsError> {
        let mut stat = fs::fstat(self.layers.root(Which::Base))?;
        stat.st_mode = FileType::Directory.as_raw_mode() | 0o555;
        stat.st_nlink = 2;
        Ok(self.attr_of_file(notices::DIRECTORY_INO, stat))
    }

    /// As the kernel is to know the file from now on.
    pub(super) fn fresh_attr(&self, notice: Notice) -> Result<Attr, FsError> {
        Ok(Attr { ino: notices::fresh_ino(notice), ..self.notice_attr(notice)? })
    }

    fn notice_attr(&self, notice: Notice) -> Result<Attr, FsError> {
        let mut stat = fs::fstat(self.layers.root(Which::Base))?;
        let permissions = if notice.takes_orders() { 0o666 } else { 0o444 };
        stat.st_mode = FileType::RegularFile.as_raw_mode() | permissions;
        stat.st_nlink = 1;
        stat.st_blocks = 0;
        stat.st_size =
            if notice == Notice::GitIgnore { notices::GIT_IGNORE.len() as i64 } else { 0 };
        Ok(self.attr_of_file(notices::ino(notice), stat))
    }

    /// The kernel has forgotten a node `count` times.
    pub fn forget(&self, ino: u64, count: u64) {
        if !notices::is_virtual(ino) {
            self.nodes().forget(ino, count);
        }
    }

    /// Whether the kernel may keep what it has seen in a directory until it is told otherwise;
    /// else it has to ask again after a moment.
    pub fn is_told(&self, dir: u64) -> bool {
        if notices::is_virtual(dir) {
            return false;
        }
        let _names = self.read_names();
        self.path_of(dir).and_then(|path| self.layers.dir(&path)).is_ok_and(|dir| dir.told())
    }

    /// The same for the attributes of a node.
    pub fn is_node_told(&self, ino: u64) -> bool {
        if notices::is_virtual(ino) {
            return false;
        }
        let _names = self.read_names();
        let Ok(path) = self.path_of(ino) else { return false };
        if self.is_foreign(&path) {
            return false;
        }
        let dir = path.parent().unwrap_or_else(RelPath::root);
        self.layers.dir(&dir).is_ok_and(|dir| dir.told())
    }

    /// Opens a regular file for reading.
    pub fn open_read(&self, ino: u64, flags: OFlags) -> Result<Opened, FsError> {
        let _names = self.read_names();
        let (file, found) = self.open_node(ino, read_flags(flags))?;
        let stat = fs::fstat(&file)?;
        if let Some((path, top)) = found {
            if !self.gate.may_read(&path) {
                return Err(Refusal::Denied.into());
            }
            // Before anything is read: should base get a new version in between, the run counts
            // as having read the old one, and is asked to read again; the other way round it
            // would overwrite what it has not seen (G2).
            self.note_read(&path, (top == Which::Base).then_some(&stat));
        }
        let through = self.passes_large(&stat);
        let (handle, through) = self.handles.open_file(ino, false, file, through);
        let caching = if through { Caching::Through } else { self.caching(ino, handle, &stat) };
        Ok(Opened { handle, caching })
    }

    /// Tells the gate that this run sees the version of `path` that the view shows; `seen` is it,
    /// if that is base's.
    pub(super) fn note_read(&self, path: &RelPath, seen: Option<&Stat>) {
        if !self.is_scratch(path, false) {
            self.gate.read(path, seen.map(signature_of));
        }
    }

    /// Whether `path` still shows the file that the node stands for.
    pub(super) fn is_current(&self, ino: u64, path: &RelPath) -> Result<bool, FsError> {
        let _names = self.read_names();
        let Some(Target::Path(_, identity)) = self.nodes().target(ino) else { return Ok(true) };
        let entry = self.layers.entry(path)?.ok_or(FsError::NotFound)?;
        Ok(is_still(&entry, identity))
    }

    /// Opens what a node stands for; says where it was found. The names are locked.
    pub(super) fn open_node(
        &self,
        ino: u64,
        flags: OFlags,
    ) -> Result<(OwnedFd, Option<(RelPath, Which)>), FsError> {
        let target = self.nodes().target(ino).ok_or(FsError::Moved)?;
        match target {
            Target::Orphan(file) => Ok((
                fs::open(sys::proc_path(&*file), flags & !OFlags::NOFOLLOW, Mode::empty())?,
                None,
            )),
            Target::Replaced(_) => Err(FsError::Moved),
            Target::Gone => Err(FsError::NotFound),
            Target::Path(path, identity) => {
                let place = self.layers.place(&path)?;
                let entry = place.entry()?.ok_or(FsError::NotFound)?;
                let dir = place.dir.layer(entry.top).ok_or(FsError::NotFound)?;
                let file = fs::openat(dir, &place.name, flags, Mode::empty())?;
                let stat = fs::fstat(&file)?;
                if (stat.st_dev, stat.st_ino) != identity {
                    return Err(FsError::Moved);
                }
                Ok((file, Some((path, entry.top))))
            }
        }
    }

    /// A handle on what a node stands for, of any kind, that is good for attributes.
    pub(super) fn pin_node(&self, ino: u64) -> Result<OwnedFd, FsError> {
        if notices::is_virtual(ino) {
            return Err(FsError::Unsupported);
        }
        let _names = self.read_names();
        let target = self.nodes().target(ino).ok_or(FsError::Moved)?;
        match target {
            Target::Orphan(file) | Target::Replaced(file) => {
                file.try_clone().map_err(FsError::from)
            }
            Target::Gone => Err(FsError::NotFound),
            Target::Path(path, _) => self.pin_path(&path),
        }
    }

    /// A handle on what is at `path`. The names are locked.
    pub(super) fn pin_path(&self, path: &RelPath) -> Result<OwnedFd, FsError> {
        if path.is_root() {
            return self.layers.root(Which::Delta).try_clone_to_owned().map_err(FsError::from);
        }
        let place = self.layers.place(path)?;
        let entry = place.entry()?.ok_or(FsError::NotFound)?;
        let dir = place.dir.layer(entry.top).ok_or(FsError::NotFound)?;
        Ok(sys::pin_at(dir, &place.name)?)
    }

    /// Opens a file of `.agentfs/`, with its text as it is now. May wait for the owner of the
    /// workspace's state: never call it on a thread that serves the kernel, but for `.gitignore`.
    pub fn open_notice(&self, notice: Notice) -> Opened {
        let text = match notice {
            Notice::GitIgnore => notices::GIT_IGNORE.to_owned(),
            other => self.gate.notice(other),
        };
        Opened { handle: self.handles.open_notice(text), caching: Caching::Direct }
    }

    /// A handle on nothing at all, for one who will only close it.
    pub fn open_nothing(&self) -> u64 {
        self.handles.open_notice(String::new())
    }

    /// Opens a file of `.agentfs/` for orders alone.
    pub fn open_for_orders(&self) -> Opened {
        Opened { handle: self.open_nothing(), caching: Caching::Direct }
    }

    /// Whether the view shows a directory at `path`.
    pub fn shows_dir(&self, path: &RelPath) -> bool {
        let _names = self.read_names();
        path.is_root()
            || matches!(self.layers.entry(path), Ok(Some(entry)) if sys::is_dir(&entry.stat))
    }

    /// The notice with this number, if it is one.
    pub fn notice(ino: u64) -> Option<Notice> {
        notices::by_ino(ino)
    }

    /// Reads at most `size` bytes at `offset`; fewer only at the end.
    pub fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Vec<u8>, FsError> {
        let handle = self.handles.get(handle)?;
        let file = match &*handle {
            Handle::File(file) => file.file(),
            Handle::Notice(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(size).min(text.len());
                return Ok(text[start..end].to_vec());
            }
        };
        let mut data = Vec::with_capacity(size);
        while data.len() < size {
            let at = offset + data.len() as u64;
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut data), at)
            })?;
            if read == 0 {
                break;
            }
        }
        Ok(data)
    }

    /// The text of a symbolic link.
    pub fn readlink(&self, ino: u64) -> Result<OsString, FsError> {
        Ok(sys::link_text(self.pin_node(ino)?)?)
    }

    /// Where the next data or hole begins.
    pub fn seek(&self, handle: u64, from: SeekFrom) -> Result<u64, FsError> {
        Ok(fs::seek(&*self.handles.file(handle)?, from)?)
    }

    /// Space and inodes of the file system that takes the agent's changes.
    pub fn statfs(&self) -> Result<StatVfs, FsError> {
        Ok(fs::fstatvfs(self.layers.root(Which::Delta))?)
    }

    /// The value of an extended attribute.
    pub fn get_xattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, FsError> {
        if notices::is_virtual(ino) {
            return Err(FsError::NoAttribute);
        }
        if super::delta::is_hidden(name) {
            return Err(FsError::NoAttribute);
        }
        let file = self.pin_node(ino)?;
        let value = sys::xattr(file.as_fd(), name)?.ok_or(FsError::NoAttribute)?;
        if name == acl::ACCESS || name == acl::DEFAULT {
            return Ok(acl::with_ids(&value, |ids| self.owner.show(ids)));
        }
        Ok(value)
    }

    /// The names of the extended attributes, each with a NUL at its end.
    pub fn list_xattr(&self, ino: u64) -> Result<Vec<u8>, FsError> {
        if notices::is_virtual(ino) {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        for name in sys::xattr_names(self.pin_node(ino)?)? {
            if !super::delta::is_hidden(&name) {
                list.extend_from_slice(name.as_encoded_bytes());
                list.push(0);
            }
        }
        Ok(list)
    }
}

/// Whether the entry is what the node was bound to; a directory is while it is one.
pub(super) fn is_still(entry: &Entry, identity: (u64, u64)) -> bool {
    sys::is_dir(&entry.stat) || (entry.stat.st_dev, entry.stat.st_ino) == identity
}

/// What a process asked for, as far as it concerns the file on the host: offsets and direct
/// input/output are between the process and the kernel.
fn read_flags(flags: OFlags) -> OFlags {
    (flags & (OFlags::NOATIME | OFlags::NONBLOCK)) | OFlags::NOFOLLOW | OFlags::CLOEXEC
}
