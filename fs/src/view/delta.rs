//! Writing to a delta in overlayfs's on-disk format: whiteouts, opaque directories, copies of
//! what lower layers have.
//!
//! Whatever replaces something is made in the work directory first and moved into place by one
//! rename, so that another program that reads the delta, or the next daemon after a crash, never
//! sees half of it. Callers hold the view's namespace lock where names in the delta change.

use super::error::FsError;
use super::layers::{Entry, Format, Layers, MergedDir, Place, Which};
use super::sys;
use agentfs_core::RelPath;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec};
use rustix::fs::{Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a copy-up needs the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Keep,
    /// The file is about to be truncated.
    Drop,
}

/// The upper layer's writer.
#[derive(Debug)]
pub(super) struct Delta {
    work: OwnedFd,
    format: Format,
    /// Whether files may be given to other users.
    privileged: bool,
    next: AtomicU64,
}

/// A finished entry in the work directory; removed again unless it is moved into place.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    delta: &'a Delta,
    name: Option<OsString>,
}

impl Staged<'_> {
    /// Moves it to `name`, over whatever but a directory is there.
    pub(super) fn place(mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        if let Some(staged) = &self.name {
            fs::renameat(&self.delta.work, staged.as_os_str(), dir, name)?;
            self.name = None;
        }
        Ok(())
    }

    /// Moves it to `name`, and `dir` keeps its times: the view shows there what it has shown.
    pub(super) fn place_copy(self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        let times = times_of(&fs::fstat(dir)?);
        self.place(dir, name)?;
        set_times(dir, &times)
    }

    /// Changes places with what is at `name`, which is then removed with this guard.
    pub(super) fn exchange(self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        if let Some(staged) = &self.name {
            let flags = RenameFlags::EXCHANGE;
            fs::renameat_with(&self.delta.work, staged.as_os_str(), dir, name, flags)?;
        }
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What is left in the work directory is removed when the view is opened next.
            let _ = sys::remove_all(&self.delta.work, name);
        }
    }
}

impl Delta {
    /// Takes a work directory, and empties it of what a daemon that died has left there.
    pub(super) fn new(work: OwnedFd, format: Format, privileged: bool) -> Result<Self, Errno> {
        for (name, _) in sys::names(&work)? {
            sys::remove_all(&work, &name)?;
        }
        Ok(Self { work, format, privileged, next: AtomicU64::new(0) })
    }

    /// Makes the root of a delta that is still empty like base's.
    pub(super) fn adopt_root(&self, base: &OwnedFd, delta: &OwnedFd) -> Result<(), FsError> {
        if !sys::names(delta)?.is_empty() {
            return Ok(());
        }
        self.copy_metadata(base.as_fd(), delta.as_fd(), &fs::fstat(base)?)
    }

    /// Whether files may be given to other users.
    pub(super) fn privileged(&self) -> bool {
        self.privileged
    }

    /// Makes something in the work directory.
    pub(super) fn stage<T>(
        &self,
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<T, FsError>,
    ) -> Result<(Staged<'_>, T), FsError> {
        let name = OsString::from(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let staged = Staged { delta: self, name: Some(name.clone()) };
        let made = make(self.work.as_fd(), &name)?;
        Ok((staged, made))
    }

    /// Puts a whiteout where a file, or a directory with nothing to keep, is now.
    pub(super) fn cover(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        let (staged, ()) = self.stage(|work, temp| Ok(sys::make_whiteout(work, temp)?))?;
        staged.exchange(dir, name)
    }

    /// Puts a character device 0:0, as the view shows it, at a name where no directory is.
    pub(super) fn put_zero_device(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), FsError> {
        let (staged, ()) = self.stage(|work, temp| {
            Ok(fs::mknodat(work, temp, FileType::CharacterDevice, Mode::empty(), KEPT_ZERO)?)
        })?;
        staged.place(dir, name)
    }

    /// Lets what lower layers have below the directory show again.
    pub(super) fn unset_opaque(&self, dir: impl AsFd) -> Result<(), Errno> {
        match fs::removexattr(sys::proc_path(&dir), self.format.opaque()) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The attribute that [`Delta::set_opaque`] sets.
    pub(super) fn opaque_attribute(&self) -> &'static str {
        self.format.opaque()
    }

    /// Hides what lower layers have below the directory.
    pub(super) fn set_opaque(&self, dir: impl AsFd) -> Result<(), FsError> {
        let path = sys::proc_path(&dir);
        fs::setxattr(path, self.format.opaque(), b"y", XattrFlags::empty())?;
        Ok(())
    }

    /// The directory at `path`, copied up with all above it.
    pub(super) fn ensure_dir(&self, layers: &Layers, path: &RelPath) -> Result<MergedDir, FsError> {
        let mut missing = Vec::new();
        for at in path.ancestors() {
            let dir = layers.dir(&at)?;
            if dir.layer(Which::Delta).is_some() {
                break;
            }
            missing.push((at, dir));
        }
        while let Some((at, dir)) = missing.pop() {
            let (Some(above), Some(name)) = (at.parent(), at.file_name()) else { break };
            let above = layers.dir(&above)?;
            let source = dir.layer(Which::Pins).or(dir.layer(Which::Base));
            let (Some(source), Some(parent)) = (source, above.layer(Which::Delta)) else {
                return Err(FsError::NotFound);
            };
            let (staged, ()) = self.stage(|work, temp| {
                fs::mkdirat(work, temp, Mode::RWXU)?;
                let copy = sys::pin_at(work, temp)?;
                let stat = fs::fstat(source)?;
                self.note_number(copy.as_fd(), stat.st_ino)?;
                self.copy_metadata(source, copy.as_fd(), &stat)
            })?;
            staged.place_copy(parent, name)?;
            layers.forget_one(&at);
        }
        layers.dir(path)
    }

    /// Copies the entry of a lower layer into the work directory: data, mode, owner, times,
    /// extended attributes. Takes as long as the data takes.
    pub(super) fn copy(
        &self,
        place: &Place,
        entry: &Entry,
        content: Content,
    ) -> Result<Staged<'_>, FsError> {
        let dir = place.dir.layer(entry.top).ok_or(FsError::NotFound)?;
        let source = sys::pin_at(dir, &place.name)?;
        let stat = fs::fstat(&source)?;
        if (stat.st_dev, stat.st_ino) != (entry.stat.st_dev, entry.stat.st_ino) {
            return Err(FsError::Moved);
        }
        let (staged, ()) = self.stage(|work, temp| {
            Self::copy_content(source.as_fd(), &stat, work, temp, content)?;
            let copy = sys::pin_at(work, temp)?;
            self.note_number(copy.as_fd(), stat.st_ino)?;
            self.copy_metadata(source.as_fd(), copy.as_fd(), &stat)
        })?;
        Ok(staged)
    }

    fn copy_content(
        source: BorrowedFd<'_>,
        stat: &Stat,
        work: BorrowedFd<'_>,
        temp: &OsStr,
        content: Content,
    ) -> Result<(), FsError> {
        match sys::kind(stat) {
            FileType::RegularFile => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let copy = fs::openat(work, temp, flags, Mode::RUSR | Mode::WUSR)?;
                if content == Content::Keep && stat.st_size > 0 {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let data = fs::open(sys::proc_path(&source), flags, Mode::empty())?;
                    super::copy_up::copy_data(&data, &copy, stat.st_size as u64)?;
                }
            }
            FileType::Symlink => fs::symlinkat(sys::link_text(source)?, work, temp)?,
            FileType::Directory => return Err(FsError::IsDirectory),
            special => fs::mknodat(work, temp, special, Mode::RUSR, stat.st_rdev)?,
        }
        Ok(())
    }

    fn copy_metadata(
        &self,
        source: BorrowedFd<'_>,
        copy: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), FsError> {
        if self.privileged {
            set_owner(copy, Some(stat.st_uid), Some(stat.st_gid))?;
        }
        for name in sys::xattr_names(source)? {
            if is_hidden(&name) {
                continue;
            }
            let Some(value) = sys::xattr(source, name.as_os_str())? else { continue };
            match fs::setxattr(sys::proc_path(&copy), &name, &value, XattrFlags::empty()) {
                // What this user or file system can't keep is left behind, as cp does.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // After the attributes: who may not write to a file may not set those of its own kind.
        if sys::kind(stat) != FileType::Symlink {
            fs::chmod(sys::proc_path(&copy), sys::permissions(stat))?;
        }
        set_times(copy, &times_of(stat))
    }

    /// Remembers the inode number that processes know the file by. A file system that can't keep
    /// it costs no more than a new number after the kernel has forgotten the file.
    fn note_number(&self, copy: BorrowedFd<'_>, ino: u64) -> Result<(), FsError> {
        let value = ino.to_string();
        let path = sys::proc_path(&copy);
        match fs::setxattr(path, self.format.number(), value.as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::PERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The number that [`Delta::copy`] has noted.
    pub(super) fn noted_number(&self, place: &Place) -> Result<Option<u64>, FsError> {
        let Some(dir) = place.dir.layer(Which::Delta) else { return Ok(None) };
        let value = match sys::xattr(sys::pin_at(dir, &place.name)?, self.format.number()) {
            // A file that its owner, who is no root, may not read.
            Err(Errno::ACCESS) => None,
            other => other?,
        };
        Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
    }
}

/// Gives a file, opened in any way, to another user or group.
pub(super) fn set_owner(
    file: BorrowedFd<'_>,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), FsError> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// When the file was read and written.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

/// Sets the times of a file that was opened in any way.
pub(super) fn set_times(file: BorrowedFd<'_>, times: &Timestamps) -> Result<(), FsError> {
    fs::utimensat(file, c"", times, AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// The number under which a delta keeps a character device 0:0 that somebody has made, for 0:0 itself
/// is how it says "deleted": 0:1048575, which no driver can have.
pub(super) const KEPT_ZERO: u64 = 0xfff0_00ff;

/// The device number by which a delta keeps a device; none if that one is taken.
pub(super) fn device_in_delta(kind: FileType, device: u64) -> Option<u64> {
    match (kind, device) {
        (FileType::CharacterDevice, 0) => Some(KEPT_ZERO),
        (FileType::CharacterDevice, KEPT_ZERO) => None,
        _ => Some(device),
    }
}

/// The device number that the view shows.
pub(super) fn shown_device(stat: &Stat) -> u64 {
    match (sys::kind(stat), stat.st_rdev) {
        (FileType::CharacterDevice, KEPT_ZERO) => 0,
        (_, device) => device,
    }
}

/// Whether an extended attribute belongs to the format and not to the file.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}
