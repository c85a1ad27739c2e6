//! How many requests of each kind the kernel has sent: what a tool costs is how often it had to
//! ask.

use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of request, each with the name that FUSE's documentation has for it.
const KINDS: [(Kind, &str); 29] = [
    (Kind::Lookup, "lookup"),
    (Kind::Forget, "forget"),
    (Kind::Getattr, "getattr"),
    (Kind::Setattr, "setattr"),
    (Kind::Readlink, "readlink"),
    (Kind::Mknod, "mknod"),
    (Kind::Mkdir, "mkdir"),
    (Kind::Unlink, "unlink"),
    (Kind::Rmdir, "rmdir"),
    (Kind::Symlink, "symlink"),
    (Kind::Rename, "rename"),
    (Kind::Link, "link"),
    (Kind::Open, "open"),
    (Kind::Create, "create"),
    (Kind::Read, "read"),
    (Kind::Write, "write"),
    (Kind::Release, "release"),
    (Kind::Fsync, "fsync"),
    (Kind::Opendir, "opendir"),
    (Kind::Readdir, "readdir"),
    (Kind::Readdirplus, "readdirplus"),
    (Kind::Statfs, "statfs"),
    (Kind::Setxattr, "setxattr"),
    (Kind::Getxattr, "getxattr"),
    (Kind::Listxattr, "listxattr"),
    (Kind::Removexattr, "removexattr"),
    (Kind::Fallocate, "fallocate"),
    (Kind::Lseek, "lseek"),
    (Kind::CopyFileRange, "copy_file_range"),
];

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Readdirplus,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyFileRange,
}

/// The counters of one mount.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; KINDS.len()]);

impl Counts {
    pub(super) fn note(&self, kind: Kind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The kinds that were asked for, with how often.
    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let count = |kind: Kind| self.0[kind as usize].load(Ordering::Relaxed);
        let all = KINDS.iter().map(|(kind, name)| (*name, count(*kind)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_counter() {
        for (at, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, at);
        }
        let counts = Counts::default();
        counts.note(Kind::CopyFileRange);
        counts.note(Kind::Lookup);
        counts.note(Kind::Lookup);
        assert_eq!(counts.all(), [("lookup", 2), ("copy_file_range", 1)]);
    }
}
