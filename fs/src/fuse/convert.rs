//! Between fuser's types and the view's.

use crate::view::{Attr, FsError, SetTime, is_fresh_each_time};
use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the kernel may keep what the view tells it of every change of.
const TOLD: Duration = Duration::from_hours(24);

/// The same where base can change without anybody telling: what a person's edit takes to show.
const UNTOLD: Duration = Duration::from_secs(1);

/// How long the kernel may keep entries and attributes without asking again.
pub(super) fn ttl(told: bool) -> Duration {
    if told { TOLD } else { UNTOLD }
}

/// How long the kernel may keep the entry that leads to a number.
pub(super) fn entry_ttl(told: bool, ino: u64) -> Duration {
    if is_fresh_each_time(ino) { Duration::ZERO } else { ttl(told) }
}

pub(super) fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

pub(super) fn file_type(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Host;
    match kind {
        Host::Directory => FileType::Directory,
        Host::Symlink => FileType::Symlink,
        Host::Fifo => FileType::NamedPipe,
        Host::Socket => FileType::Socket,
        Host::CharacterDevice => FileType::CharDevice,
        Host::BlockDevice => FileType::BlockDevice,
        Host::RegularFile | Host::Unknown => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec as u32),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec as u32),
        crtime: UNIX_EPOCH,
        kind: file_type(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// What the kernel takes for "there is nothing at this name, and you may remember that".
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    base + Duration::from_nanos(nanoseconds.into())
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    let time = match time {
        TimeOrNow::Now => return SetTime::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => SetTime::At(since.as_secs() as i64, since.subsec_nanos()),
        // fuser takes the kernel's seconds and nanoseconds both off the epoch, where the kernel
        // counts the nanoseconds forwards: this is what the kernel said.
        Err(before) => {
            let before = before.duration();
            SetTime::At(-(before.as_secs() as i64), before.subsec_nanos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_the_kernel_said() {
        let said = |seconds, nanoseconds| {
            let since = Duration::new(i64::unsigned_abs(seconds), nanoseconds);
            // As fuser has it.
            let time = if seconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since };
            set_time(TimeOrNow::SpecificTime(time))
        };
        for (seconds, nanoseconds) in [(0, 0), (5, 7), (-1, 0), (-1, 999_999_999), (-7, 1)] {
            assert_eq!(said(seconds, nanoseconds), SetTime::At(seconds, nanoseconds));
        }
    }

    #[test]
    fn times_before_the_epoch_are_shown() {
        assert_eq!(time(-1, 999_999_999), UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!(time(-7, 0), UNIX_EPOCH - Duration::from_secs(7));
    }
}
