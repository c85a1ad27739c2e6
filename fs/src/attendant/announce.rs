//! Doing in a view what has already happened in it, so that watchers hear of it.
//!
//! The kernel makes inotify's events from system calls, and none when a FUSE daemon tells it to
//! forget something. So the attendant does the matching call: it makes the file that is new,
//! removes what has gone, cuts a changed file to the size that it has. The view knows who calls
//! ([`super::Trust`]), answers with the present truth and changes nothing.
//!
//! What an agent has put into its view is hostile: each name is reached through no symbolic link
//! and on no other mount, and nothing is opened before it is known to be a regular file of the view.

use super::protocol::{Happened, News};
use super::walk::{dir_beneath, open_view};
use agentfs_core::changeset::FileKind;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timestamps};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Tells `news` in the view at `mountpoint`; says how much of it could be told.
pub(super) fn announce(mountpoint: &Path, news: &[News]) -> u64 {
    let Ok(root) = open_view(mountpoint) else { return 0 };
    news.iter().filter(|news| tell(&root, news).is_ok()).count() as u64
}

fn tell(root: &OwnedFd, news: &News) -> rustix::io::Result<()> {
    let (Some(parent), Some(name)) = (news.path.parent(), news.path.file_name()) else {
        return Ok(());
    };
    let dir = dir_beneath(root, &parent, OFlags::PATH)?;
    match news.what {
        Happened::Gone(FileKind::Dir) => fs::unlinkat(&dir, name, AtFlags::REMOVEDIR),
        Happened::Gone(_) => fs::unlinkat(&dir, name, AtFlags::empty()),
        Happened::Made(FileKind::Dir) => fs::mkdirat(&dir, name, Mode::RWXU),
        Happened::Made(FileKind::Symlink) => fs::symlinkat(c".", &dir, name),
        Happened::Made(FileKind::Special) => Ok(()),
        Happened::Made(FileKind::File) => {
            let mode = Mode::RUSR | Mode::WUSR;
            fs::mknodat(&dir, name, FileType::RegularFile, mode, 0)?;
            // Many watchers wait until a file that was written is closed.
            drop(for_writing(&pinned(&dir, name)?));
            Ok(())
        }
        Happened::Changed => {
            let changed = pinned(&dir, name)?;
            let stat = fs::fstat(&changed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return touch(&changed, &stat);
            }
            match for_writing(&changed) {
                Ok(file) => fs::ftruncate(file, stat.st_size as u64),
                // It is not writable, or is being executed: at least its attributes.
                Err(_) => touch(&changed, &stat),
            }
        }
    }
}

/// A handle on the name itself, of any kind, that opens nothing.
fn pinned(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens exactly the file that `file` is a handle on: no name is walked again.
fn for_writing(file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty())
}

fn touch(file: &OwnedFd, stat: &fs::Stat) -> rustix::io::Result<()> {
    let time = |seconds, nanoseconds: u64| fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH)
}
