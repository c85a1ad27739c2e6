//! Directories by handle: one name at a time, never through a symbolic link, so that nothing that
//! an agent or a repository's owner has put there leads anywhere else.

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Where what is removed waits for its end.
#[derive(Debug)]
pub(super) struct Trash(Dir);

impl Trash {
    /// The directory `trash`, which is made and stays.
    pub(super) fn at(trash: &Path) -> io::Result<Self> {
        match std::fs::create_dir(trash) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(Dir::open(trash)?)),
        }
    }

    /// The same below a directory in base.
    pub(super) fn beside(dir: &Dir) -> io::Result<Self> {
        Ok(Self(dir.make_beside("old")?))
    }

    /// Moves an entry there. Fails if that is on another file system.
    pub(super) fn take(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unique = format!("{}-{}", now.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(fs::renameat(dir, name, &self.0, unique)?)
    }

    /// Removes all that is there, by a thread of its own. What a daemon that ends leaves there, the
    /// next one removes with what it puts there itself.
    pub(super) fn empty(self) {
        let names = self.0.names().unwrap_or_default();
        if names.is_empty() {
            return;
        }
        std::thread::spawn(move || {
            for entry in names {
                if let Err(error) = self.0.remove_all(&entry.name) {
                    tracing::debug!(%error, "something that is not needed is still there");
                }
            }
        });
    }
}

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

/// One name of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    /// The inode number; of no use for a place where something is mounted.
    pub(super) ino: u64,
    pub(super) kind: FileType,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens a directory by its path, which may go through links but not end in one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, OPEN, Mode::empty())?))
    }

    /// Opens one in base by a path that goes through no link, and so leads to no other place than
    /// when it was made.
    pub(super) fn open_beside(path: &Path) -> io::Result<Self> {
        let (mode, resolve) = (Mode::empty(), ResolveFlags::NO_SYMLINKS);
        Ok(Self(fs::openat2(fs::CWD, path, OPEN, mode, resolve)?))
    }

    /// The directory `name` in this one; none if nothing or something else is there.
    pub(super) fn dir(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Self>> {
        match fs::openat(self, name.as_ref(), OPEN, Mode::empty()) {
            Ok(dir) => Ok(Some(Self(dir))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The directory `name`, made if it is missing; anything else that is there goes.
    pub(super) fn make(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let name = name.as_ref();
        if let Some(dir) = self.dir(name)? {
            return Ok(dir);
        }
        self.remove_all(name)?;
        fs::mkdirat(self, name, Mode::RWXU)?;
        self.dir(name)?.ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// The same in base, where nothing goes: fails if something else is there.
    pub(super) fn make_beside(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        match fs::mkdirat(self, name.as_ref(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.dir(name)?.ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// The names in it, without `.` and `..`.
    pub(super) fn names(&self) -> io::Result<Vec<Entry>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsString::from_vec(name.to_vec());
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(&name)? {
                    Some(stat) => FileType::from_raw_mode(stat.st_mode),
                    None => continue,
                },
                known => known,
            };
            names.push(Entry { name, ino: entry.ino(), kind });
        }
        Ok(names)
    }

    /// The entry itself; none if there is none.
    pub(super) fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        match fs::statat(self, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What is known of this directory.
    pub(super) fn own_stat(&self) -> io::Result<Stat> {
        Ok(fs::fstat(self)?)
    }

    /// The text of a small file; none if there is none, or if it is no regular file.
    pub(super) fn read(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(self, name.as_ref(), flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut text = Vec::new();
        io::Read::read_to_end(&mut &file, &mut text)?;
        Ok(Some(text))
    }

    /// Makes a file anew. Whatever was there is replaced, not written to.
    pub(super) fn write(
        &self,
        name: impl AsRef<OsStr>,
        text: &[u8],
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        let file = std::fs::File::from(self.create(name)?);
        io::Write::write_all(&mut &file, text)?;
        fs::fchmod(&file, mode)?;
        Ok(file.into())
    }

    /// An empty new file in the place of whatever was there.
    pub(super) fn create(&self, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        match fs::openat(self, name.as_ref(), flags, mode) {
            Err(Errno::EXIST) => {
                self.remove_all(&name)?;
                Ok(fs::openat(self, name.as_ref(), flags, mode)?)
            }
            other => Ok(other?),
        }
    }

    /// Removes `name` with all below it, also what its owner has made read-only.
    pub(super) fn remove_all(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = name.as_ref();
        match fs::unlinkat(self, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(inner) = self.dir_of_mine(name)? {
            for child in inner.names()? {
                inner.remove_all(&child.name)?;
            }
        }
        match fs::unlinkat(self, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a directory if it is empty. Says whether it was.
    pub(super) fn remove_empty(&self, name: &OsStr) -> bool {
        fs::unlinkat(self, name, AtFlags::REMOVEDIR).is_ok()
    }

    /// A directory of the daemon's own files, made accessible if its mode does not allow that: an
    /// agent can have taken the rights away.
    pub(super) fn dir_of_mine(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Self>> {
        let name = name.as_ref();
        let Some(stat) = self.stat(name)? else { return Ok(None) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(None);
        }
        if stat.st_mode & 0o700 != 0o700 {
            // A directory, and in a directory that nobody else can write to at this time.
            let mode = Mode::from_raw_mode(stat.st_mode & 0o777) | Mode::RWXU;
            fs::chmodat(self, name, mode, AtFlags::empty())?;
        }
        self.dir(name)
    }
}
