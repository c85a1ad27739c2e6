//! The few system calls that need more than one line: everything on names is relative to an open
//! directory, takes one component, and never follows a symbolic link.

use agentfs_core::RelPath;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Permission bits, set-id bits and sticky bit.
pub(super) fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

/// The kind of an entry.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether it is a directory.
pub(super) fn is_dir(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

/// Whether it is overlayfs's mark for "deleted": a character device 0:0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The entry itself; none if there is none.
pub(super) fn stat_at(dir: impl AsFd, name: &OsStr) -> Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A handle on the entry itself, of any kind, that needs no permission on it.
pub(super) fn pin_at(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A handle on the directory `name`; `NOTDIR` if it is something else.
pub(super) fn dir_at(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// The most bytes that the kernel takes as one path (`PATH_MAX` without its NUL).
const LONGEST: usize = 4095;

/// A handle on the directory at `path` below `root`, through no symbolic link. A path that is
/// longer than the kernel takes at once is opened piece by piece.
pub(super) fn dir_beneath(root: impl AsFd, path: &RelPath) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |at: BorrowedFd<'_>, piece: &[u8]| {
        let piece = if piece.is_empty() { b"." } else { piece };
        fs::openat2(at, piece, flags, Mode::empty(), resolve)
    };
    let mut reached: Option<OwnedFd> = None;
    let mut rest = path.as_bytes();
    while rest.len() > LONGEST {
        let end = rest[..LONGEST].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        reached = Some(open(reached.as_ref().map_or(root.as_fd(), AsFd::as_fd), &rest[..end])?);
        rest = &rest[end + 1..];
    }
    open(reached.as_ref().map_or(root.as_fd(), AsFd::as_fd), rest)
}

/// The names in the directory, without `.` and `..`.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<(OsString, FileType)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = fs::openat(dir, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in fs::Dir::new(open)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        }
    }
    Ok(names)
}

/// A path by which calls that take only paths reach an open file, also one opened with `O_PATH`.
///
/// Takes a reference, because the path is worth nothing once the file is closed.
pub(super) fn proc_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// The value of an extended attribute; none if it has none.
pub(super) fn xattr(
    file: impl AsFd,
    name: impl rustix::path::Arg + Copy,
) -> Result<Option<Vec<u8>>> {
    let path = proc_path(&file);
    loop {
        let size = match fs::getxattr_query(path.as_str(), name) {
            Ok(size) => size,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut value = Vec::with_capacity(size.max(1));
        match fs::getxattr(path.as_str(), name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => return Ok(Some(value)),
            // It grew in between.
            Err(Errno::RANGE) => {}
            Err(Errno::NODATA) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// The names of all extended attributes.
pub(super) fn xattr_names(file: impl AsFd) -> Result<Vec<OsString>> {
    let path = proc_path(&file);
    loop {
        let size = match fs::listxattr_query(path.as_str()) {
            Ok(size) => size,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let mut list = Vec::with_capacity(size.max(1));
        match fs::listxattr(path.as_str(), rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => {
                let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
                return Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect());
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The text of the symbolic link that `link` was opened on with [`pin_at`].
pub(super) fn link_text(link: impl AsFd) -> Result<OsString> {
    let text = fs::readlinkat(link, c"", Vec::new())?;
    Ok(OsString::from_vec(text.into_bytes()))
}

/// Makes overlayfs's mark for "deleted" at a name where nothing is.
pub(super) fn make_whiteout(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<()> {
    fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Removes `name` and all below it.
pub(super) fn remove_all(dir: impl AsFd, name: &OsStr) -> Result<()> {
    match fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let inner = dir_at(&dir, name)?;
    for (child, _) in names(&inner)? {
        remove_all(&inner, &child)?;
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
