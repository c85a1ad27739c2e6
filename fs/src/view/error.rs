//! What can go wrong in a view, and the one place that says which errno a process sees for it.

use crate::gate::Refusal;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why one file operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// A system call on a layer failed.
    #[error(transparent)]
    Os(#[from] Errno),
    /// The gate said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such entry.
    #[error("no such file or directory")]
    NotFound,
    /// The entry is there already.
    #[error("exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A directory with a mount of the sandbox in it: programs fall back to copying.
    #[error("a directory with a mount in it is moved by copying it")]
    MovesMounts,
    /// The inode that the kernel names is no longer what its path shows: the kernel walks the
    /// path again by itself, so no process sees this one.
    #[error("the path shows another file by now")]
    Moved,
    /// The path is in the virtual directory `.agentfs/`.
    #[error(".agentfs is made by agentfs and can't be written")]
    Virtual,
    /// The number by which a delta keeps a 0:0 character device.
    #[error("a character device 0:1048575 can't be made in a view, which keeps 0:0 as that")]
    HiddenDevice,
    /// The operation or its flags are not supported.
    #[error("not supported")]
    Unsupported,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// The handle is not open, or not for this.
    #[error("not an open file")]
    BadHandle,
    /// The attribute is not there, or is one that views keep to themselves.
    #[error("no such attribute")]
    NoAttribute,
    /// The attribute belongs to overlayfs's on-disk format.
    #[error("attributes of overlayfs can't be set in a view")]
    HiddenAttribute,
}

impl FsError {
    /// The errno that the process sees. Refusals use those that common runtimes have words for,
    /// and never `ESTALE`: the kernel would try again by itself, past the gate.
    pub fn errno(self) -> Errno {
        match self {
            Self::Os(errno) => errno,
            Self::Refused(Refusal::Busy) => Errno::BUSY,
            Self::Refused(Refusal::Stale) => Errno::AGAIN,
            Self::Refused(Refusal::Denied) => Errno::ACCESS,
            Self::Refused(Refusal::Interrupted) => Errno::INTR,
            Self::Refused(Refusal::Closed | Refusal::ReadOnly) | Self::Virtual => Errno::ROFS,
            Self::Refused(Refusal::Full) => Errno::NOSPC,
            Self::Refused(Refusal::NotRecorded) => Errno::IO,
            Self::NotFound => Errno::NOENT,
            Self::Exists => Errno::EXIST,
            Self::NotDirectory => Errno::NOTDIR,
            Self::IsDirectory => Errno::ISDIR,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::MovesMounts => Errno::XDEV,
            Self::Moved => Errno::STALE,
            Self::HiddenDevice | Self::HiddenAttribute => Errno::PERM,
            Self::Unsupported => Errno::OPNOTSUPP,
            Self::Invalid | Self::Refused(Refusal::Invalid) => Errno::INVAL,
            Self::BadHandle => Errno::BADF,
            Self::NoAttribute => Errno::NODATA,
        }
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

impl From<FsError> for std::io::Error {
    fn from(error: FsError) -> Self {
        error.errno().into()
    }
}

/// Why a view could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// One of its directories can't be used.
    #[error("can't use {path} as the view's {role}: {source}")]
    Directory {
        /// What the directory is for.
        role: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The work directory is not on the delta's file system.
    #[error("{work} is not on the file system of {delta}: put both below one directory")]
    WorkElsewhere {
        /// The work directory.
        work: PathBuf,
        /// The delta.
        delta: PathBuf,
    },
    /// The delta's file system can't hold what the format needs.
    #[error(
        "the file system of {delta} can't keep {what}, which a view needs: \
         set AGENTFS_STATE_DIR to a directory on ext4, xfs, btrfs or tmpfs, in a container on a \
         volume ({source})"
    )]
    Format {
        /// The delta.
        delta: PathBuf,
        /// What it refused.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_an_errno_that_runtimes_have_words_for() {
        let errno = |refusal| FsError::Refused(refusal).errno();
        assert_eq!(errno(Refusal::Busy), Errno::BUSY);
        assert_eq!(errno(Refusal::Stale), Errno::AGAIN);
        assert_eq!(errno(Refusal::Denied), Errno::ACCESS);
        assert_eq!(errno(Refusal::Interrupted), Errno::INTR);
        assert_eq!(errno(Refusal::Closed), Errno::ROFS);
        assert_eq!(errno(Refusal::Invalid), Errno::INVAL);
        assert_eq!(errno(Refusal::Full), Errno::NOSPC);
    }
}
