//! Makes one directory like others: by copying, or by hard links.
//!
//! What is there already from the last time and still the same is left alone, so that doing it
//! again costs no more than looking. What the sources do not have is removed. The sources may
//! change meanwhile: then `vanished` says so, and whoever asked does it again.

use super::dirs::{Dir, Trash};
use super::{GitError, plan};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How files get into the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As files of their own, with mode and times of the source.
    Copy,
    /// As the same files under another name; copied where a file can't have one more name.
    Link,
}

/// What was not done.
#[derive(Debug)]
pub(super) enum NotDone {
    /// Files of this source can't be linked: it lies on another file system.
    Elsewhere(usize),
    Failed(GitError),
}

impl From<GitError> for NotDone {
    fn from(error: GitError) -> Self {
        Self::Failed(error)
    }
}

/// Within which time of a change a file's times do not tell of the next one, in nanoseconds: a
/// tick of the kernel's clock is at most ten milliseconds.
const TICK: i64 = 20_000_000;

/// Up to which size reading and writing costs less than asking the kernel to copy.
const SMALL: i64 = 1 << 16;

/// A directory that was made like another has that one's time less so many seconds: so it can't
/// be taken for the time at which the directory was changed last.
const NOTED: i64 = 1_000_000_000;

/// The one who makes directories alike.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// Whether what is made is given to the owner of its source: as root.
    pub(super) give: bool,
    /// Whether something was there when a directory was listed, and gone when it was its turn.
    pub(super) vanished: bool,
    /// Where what is removed goes, of each file system that there is a target on.
    pub(super) trash: Vec<Trash>,
}

/// What a name is to become.
struct Wanted {
    /// The first source that has it.
    source: usize,
    ino: u64,
    kind: FileType,
}

/// Decides on a path, relative to the top, of the source with this number.
pub(super) type Rule<'a> = &'a dyn Fn(&Path, usize) -> bool;

impl Mirror {
    /// Makes what is below `target`, which stands for `path`, what the sources have below that
    /// `rule` takes; of two at one name the first counts, and directories merge. What `kept` says
    /// of a path is for names in the target that no source has.
    pub(super) fn tree(
        &mut self,
        sources: &[(usize, &Dir)],
        target: &Dir,
        path: &Path,
        how: How,
        rule: Rule<'_>,
    ) -> Result<(), NotDone> {
        let failed = |what| move |source| GitError::Io { what, path: path.to_owned(), source };
        let mut wanted: HashMap<OsString, Wanted> = HashMap::new();
        for (source, dir) in sources {
            for entry in dir.names().map_err(failed("list"))? {
                if rule(&path.join(&entry.name), *source) {
                    let found = Wanted { source: *source, ino: entry.ino, kind: entry.kind };
                    wanted.entry(entry.name).or_insert(found);
                }
            }
        }
        let mut present: HashMap<OsString, u64> = HashMap::new();
        for entry in target.names().map_err(failed("list"))? {
            if wanted.contains_key(&entry.name) {
                present.insert(entry.name, entry.ino);
            } else if path.join(&entry.name) != Path::new(super::plan::ALTERNATES) {
                self.discard(target, &entry.name).map_err(failed("clear"))?;
            }
        }
        for (name, found) in &wanted {
            let inner = path.join(name);
            let Some((_, source)) = sources.iter().find(|(at, _)| *at == found.source) else {
                continue;
            };
            match found.kind {
                FileType::Directory => self.inner(sources, target, &inner, name, how, rule)?,
                // The same number under the same name: a link that is there already.
                _ if how == How::Link && present.get(name) == Some(&found.ino) => {}
                FileType::RegularFile if how == How::Link => {
                    self.link(source, target, &inner, name).map_err(|errno| match errno {
                        None => NotDone::Elsewhere(found.source),
                        Some(source) => {
                            GitError::Io { what: "link", path: inner.clone(), source }.into()
                        }
                    })?;
                }
                FileType::RegularFile | FileType::Symlink => self
                    .copy(source, target, &inner, name)
                    .map_err(|source| GitError::Io { what: "copy", path: inner.clone(), source })?,
                // Sockets and the like are for the processes that made them.
                _ => {}
            }
        }
        Ok(())
    }

    /// Does the same below one name, which some of the sources have.
    pub(super) fn inner(
        &mut self,
        sources: &[(usize, &Dir)],
        target: &Dir,
        path: &Path,
        name: &OsStr,
        how: How,
        rule: Rule<'_>,
    ) -> Result<(), NotDone> {
        let failed = |what| move |source| GitError::Io { what, path: path.to_owned(), source };
        let mut below = Vec::new();
        for (at, source) in sources {
            match source.dir(name) {
                Ok(Some(dir)) => below.push((*at, dir)),
                Ok(None) => {}
                Err(error) if is_unreadable(&error) => unreadable(path),
                Err(error) => return Err(failed("open")(error).into()),
            }
        }
        let Some((_, first)) = below.first() else {
            self.vanished = true;
            return Ok(());
        };
        let like = first.own_stat().map_err(failed("look at"))?;
        let inner = self.make(target, name, &like).map_err(failed("make"))?;
        // Only names are in it, and its time tells of each that comes and goes.
        let is_flat = how == How::Link && below.len() == 1 && plan::is_fan_out(name.as_bytes());
        if is_flat && is_as_of(&inner, &like).map_err(failed("look at"))? {
            return Ok(());
        }
        let settled = is_flat && is_settled(&like);
        let below: Vec<(usize, &Dir)> = below.iter().map(|(at, dir)| (*at, dir)).collect();
        self.tree(&below, &inner, path, how, rule)?;
        if settled {
            let mut times = times_of(&like);
            times.last_modification.tv_sec -= NOTED;
            let noted = fs::futimens(&inner, &times).map_err(io::Error::from);
            noted.map_err(failed("set the time of"))?;
        }
        Ok(())
    }

    /// Removes what a target has too much: later, where that can be, because the last link to an
    /// object takes a file system long to remove.
    pub(super) fn discard(&self, target: &Dir, name: &OsStr) -> io::Result<()> {
        if self.trash.iter().any(|trash| trash.take(target, name).is_ok()) {
            return Ok(());
        }
        target.remove_all(name)
    }

    /// A directory with mode and owner of another, made if it is missing.
    pub(super) fn make(&self, target: &Dir, name: &OsStr, like: &Stat) -> io::Result<Dir> {
        if let Some(dir) = target.dir(name)? {
            return Ok(dir);
        }
        let dir = target.make(name)?;
        self.adopt(&dir, like)?;
        Ok(dir)
    }

    /// Gives a directory that was made the owner and the mode of another.
    pub(super) fn adopt(&self, dir: &Dir, like: &Stat) -> io::Result<()> {
        if self.give {
            let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
            fs::fchown(dir, Some(uid), Some(gid))?;
        }
        Ok(fs::fchmod(dir, Mode::from_raw_mode(like.st_mode & 0o7777) | Mode::RWXU)?)
    }

    /// Gives a file one more name. Fails with none where that name would be on another file system.
    fn link(
        &mut self,
        source: &Dir,
        target: &Dir,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), Option<io::Error>> {
        let link = || fs::linkat(source, name, target, name, AtFlags::empty());
        let result = match link() {
            Err(Errno::EXIST) => {
                target.remove_all(name).map_err(Some)?;
                link()
            }
            other => other,
        };
        match result {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => {
                self.vanished = true;
                Ok(())
            }
            Err(Errno::XDEV) => Err(None),
            // Not this user's file, too many names, or no links at all on this file system.
            Err(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {
                self.copy(source, target, path, name).map_err(Some)
            }
            Err(errno) => Err(Some(errno.into())),
        }
    }

    /// Copies a file, or a symbolic link as one, unless an earlier copy is as good.
    pub(super) fn copy(
        &mut self,
        source: &Dir,
        target: &Dir,
        path: &Path,
        name: &OsStr,
    ) -> io::Result<()> {
        let Some(stat) = source.stat(name)? else {
            self.vanished = true;
            return Ok(());
        };
        if target.stat(name)?.is_some_and(|copy| is_copy_of(&copy, &stat)) {
            return Ok(());
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let text = fs::readlinkat(source, name, Vec::new())?;
            target.remove_all(name)?;
            return Ok(fs::symlinkat(text, target, name)?);
        }
        let flags =
            fs::OFlags::RDONLY | fs::OFlags::NOFOLLOW | fs::OFlags::NONBLOCK | fs::OFlags::CLOEXEC;
        let from = match fs::openat(source, name, flags, Mode::empty()) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::LOOP) => {
                self.vanished = true;
                return Ok(());
            }
            Err(Errno::ACCESS) => {
                unreadable(path);
                return target.remove_all(name);
            }
            Err(errno) => return Err(errno.into()),
        };
        let stat = fs::fstat(&from)?;
        let to = target.create(name)?;
        let (mut from, mut to) = (File::from(from), File::from(to));
        if stat.st_size > SMALL {
            if fs::ioctl_ficlone(&to, &from).is_err() {
                io::copy(&mut from, &mut to)?;
            }
        } else {
            let mut content = Vec::with_capacity(stat.st_size as usize + 1);
            from.read_to_end(&mut content)?;
            to.write_all(&content)?;
        }
        self.finish(&to.into(), &stat)
    }

    /// Gives a copy the owner, the mode and the times of its source.
    pub(super) fn finish(&self, copy: &OwnedFd, like: &Stat) -> io::Result<()> {
        if self.give {
            let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
            fs::fchown(copy, Some(uid), Some(gid))?;
        }
        fs::fchmod(copy, Mode::from_raw_mode(like.st_mode & 0o777))?;
        Ok(fs::futimens(copy, &times_of(like))?)
    }
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Whether a directory was made like its source when that had this time.
fn is_as_of(dir: &Dir, source: &Stat) -> io::Result<bool> {
    let stat = dir.own_stat()?;
    Ok((stat.st_mtime + NOTED, stat.st_mtime_nsec) == (source.st_mtime, source.st_mtime_nsec))
}

/// Whether a directory was last changed so long ago that its time will tell of the next change.
fn is_settled(stat: &Stat) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as i64 > stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64 + TICK
}

/// Whether a copy that was made earlier is still one: its source has not been changed since, not
/// even within the clock's tick in which the copy was made.
fn is_copy_of(copy: &Stat, source: &Stat) -> bool {
    let change = |stat: &Stat| stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64;
    copy.st_size == source.st_size
        && (copy.st_mtime, copy.st_mtime_nsec) == (source.st_mtime, source.st_mtime_nsec)
        && copy.st_mode == source.st_mode
        && change(copy) > change(source) + TICK
}

fn is_unreadable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What this user can't read in base, no agent of his can.
fn unreadable(path: &Path) {
    tracing::warn!(path = %path.display(), "no agent gets what can't be read in base's .git");
}

/// For errors: where a path in a git directory is.
pub(super) fn place(dir: &Path, error: NotDone) -> GitError {
    match error {
        NotDone::Elsewhere(_) => {
            GitError::Io { what: "link", path: dir.to_owned(), source: Errno::XDEV.into() }
        }
        NotDone::Failed(GitError::Io { what, path, source }) => {
            GitError::Io { what, path: dir.join(path), source }
        }
        NotDone::Failed(error) => error,
    }
}

/// A path of no length: the top.
pub(super) fn top() -> PathBuf {
    PathBuf::new()
}
