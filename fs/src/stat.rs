//! What `stat` says, in this program's words: one translation for views and change sets, for the
//! two compare what they have seen.

use agentfs_core::changeset::{FileKind, Signature};
use rustix::fs::{FileType, Stat};

/// The version that `stat` tells.
pub fn signature_of(stat: &Stat) -> Signature {
    Signature {
        kind: kind_of(stat),
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: stat
            .st_mtime
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        ino: stat.st_ino,
    }
}

/// The kind of entry that `stat` tells.
pub fn kind_of(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Symlink => FileKind::Symlink,
        FileType::Directory => FileKind::Dir,
        _ => FileKind::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

    #[test]
    fn times_before_the_epoch_and_special_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("fifo");
        mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let time = Timespec { tv_sec: -2, tv_nsec: 999_999_999 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &at, &times, AtFlags::empty()).unwrap();
        let found = signature_of(&rustix::fs::lstat(&at).unwrap());
        assert_eq!((found.kind, found.mode), (FileKind::Special, 0o600));
        assert_eq!(found.mtime_ns, -1_000_000_001);
    }
}
