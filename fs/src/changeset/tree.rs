//! One directory tree, opened so that no symbolic link in it can steer anyone out of it.

use super::ChangeSetError;
use crate::stat::{kind_of, signature_of};
use agentfs_core::RelPath;
use agentfs_core::changeset::{FileKind, Signature};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files above this many bytes are not compared line by line (git's `core.bigFileThreshold`).
pub(super) const BIG: u64 = 512 * 1024 * 1024;

/// A directory by descriptor, with its path for messages.
pub(super) struct Tree {
    fd: OwnedFd,
    at: PathBuf,
}

/// The content of a file or a symbolic link.
pub(super) struct Content {
    /// BLAKE3, in hexadecimal.
    pub hash: String,
    /// The bytes; none if there are more than were asked for.
    pub bytes: Option<Vec<u8>>,
}

impl Content {
    fn of(bytes: Vec<u8>) -> Self {
        Self { hash: blake3::hash(&bytes).to_hex().to_string(), bytes: Some(bytes) }
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// The most bytes that the kernel takes as one path (`PATH_MAX` without its NUL).
const LONGEST: usize = 4095;

/// Opens `path` beneath `root`; a symbolic link on the way is ELOOP. A path may be longer than the
/// kernel takes at once (a program makes one by going down step by step): then it is opened piece
/// by piece.
pub(super) fn open_beneath(
    root: impl AsFd,
    path: &RelPath,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let open = |at: BorrowedFd<'_>, piece: &[u8], flags: OFlags| {
        let piece = if piece.is_empty() { b"." } else { piece };
        rustix::fs::openat2(at, piece, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
    };
    let mut reached: Option<OwnedFd> = None;
    let mut rest = path.as_bytes();
    while rest.len() > LONGEST {
        let end = rest[..LONGEST].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let at = reached.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        reached = Some(open(at, &rest[..end], OFlags::PATH | OFlags::DIRECTORY)?);
        rest = &rest[end + 1..];
    }
    open(reached.as_ref().map_or(root.as_fd(), AsFd::as_fd), rest, flags)
}

/// What is at `path` beneath `root`, a symbolic link itself included. What lies behind one, or
/// behind a file, is not there.
pub(super) fn stat_beneath(root: impl AsFd, path: &RelPath) -> Result<Option<Stat>, Errno> {
    match open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => rustix::fs::fstat(fd).map(Some),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the answer says that nothing is there: no such entry, or only behind a file or link.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Whether it is overlayfs's mark for "deleted": a character device 0:0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Tree {
    /// Opens the directory `at`, of which no component may be a symbolic link.
    pub fn open(at: &Path) -> Result<Self, ChangeSetError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(CWD, at, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Ok(Self { fd, at: at.to_owned() }),
            Err(errno) => Err(failed("open", at.to_owned(), errno)),
        }
    }

    /// The path of this directory, for messages.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Turns the system's answer about `path` into an error that names it.
    pub fn fail(&self, what: &'static str, path: &RelPath) -> impl FnOnce(Errno) -> ChangeSetError {
        let path = if path.is_root() { self.at.clone() } else { self.at.join(path.to_path_buf()) };
        move |errno| failed(what, path, errno)
    }

    /// What is at `path`.
    pub fn stat(&self, path: &RelPath) -> Result<Option<Stat>, ChangeSetError> {
        stat_beneath(self, path).map_err(self.fail("look at", path))
    }

    /// The version of what is at `path`.
    pub fn signature(&self, path: &RelPath) -> Result<Option<Signature>, ChangeSetError> {
        Ok(self.stat(path)?.as_ref().map(signature_of))
    }

    /// Opens the directory `path` for reading its names.
    pub fn dir(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        open_beneath(self, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The open directory that holds `path`, and its name there; `path` must not be the root.
    pub fn parent<'a>(&self, path: &'a RelPath) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        Ok((open_beneath(self, &parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// The names in the directory `path`, ordered; none if it is not there.
    pub fn names(&self, path: &RelPath) -> Result<Vec<OsString>, ChangeSetError> {
        let read = || -> Result<Vec<OsString>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(self.dir(path)?)? {
                let name = entry?.file_name().to_bytes().to_owned();
                if name != b"." && name != b".." {
                    names.push(OsStr::from_bytes(&name).to_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        match read() {
            Err(errno) if is_gone(errno) => Ok(Vec::new()),
            other => other.map_err(self.fail("read the directory", path)),
        }
    }

    /// Opens the regular file `path` for reading. Never blocks on a FIFO and never acts on a
    /// device that someone has put there instead.
    pub fn file(&self, path: &RelPath) -> Result<File, Errno> {
        let seen = open_beneath(self, path, OFlags::PATH | OFlags::NOFOLLOW)?;
        if kind_of(&rustix::fs::fstat(&seen)?) != FileKind::File {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let file = open_beneath(self, path, flags)?;
        if kind_of(&rustix::fs::fstat(&file)?) != FileKind::File {
            return Err(Errno::INVAL);
        }
        Ok(File::from(file))
    }

    /// The target of the symbolic link `path`.
    pub fn link(&self, path: &RelPath) -> Result<Vec<u8>, Errno> {
        let link = open_beneath(self, path, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes())
    }

    /// The content of the file or link `path`; none for what has no content or is not there.
    /// The bytes are kept if there are at most `limit`.
    pub fn content(&self, path: &RelPath, limit: u64) -> Result<Option<Content>, ChangeSetError> {
        match self.signature(path)?.map(|found| found.kind) {
            Some(FileKind::Symlink) => match self.link(path) {
                Err(errno) if is_gone(errno) => Ok(None),
                other => Ok(Some(Content::of(other.map_err(self.fail("read the link", path))?))),
            },
            Some(FileKind::File) => {
                let file = match self.file(path) {
                    Err(errno) if is_gone(errno) => return Ok(None),
                    other => other.map_err(self.fail("open", path))?,
                };
                read_content(file, limit).map(Some).map_err(|source| self.io("read", path, source))
            }
            _ => Ok(None),
        }
    }

    /// An error of the standard library about `path`.
    pub fn io(&self, what: &'static str, path: &RelPath, source: std::io::Error) -> ChangeSetError {
        ChangeSetError::Io { what, path: self.at.join(path.to_path_buf()), source }
    }

    /// The metadata of one name in an open directory of this tree.
    pub fn stat_name(dir: impl AsFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn read_content(mut file: File, limit: u64) -> std::io::Result<Content> {
    if file.metadata()?.len() > limit {
        return Ok(Content { hash: hash_of(&file)?, bytes: None });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Content::of(bytes))
}

/// BLAKE3 of what can be read from `file` on, in hexadecimal.
pub(super) fn hash_of(file: &File) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn failed(what: &'static str, path: PathBuf, errno: Errno) -> ChangeSetError {
    if errno == Errno::LOOP {
        ChangeSetError::Symlink { path }
    } else {
        ChangeSetError::Io { what, path, source: errno.into() }
    }
}
