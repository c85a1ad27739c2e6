//! Walking a fresh view, so that the kernel has its names and attributes before anybody asks.
//!
//! The kernel fills its caches from the answers to READDIRPLUS, and asks for as much at once as the
//! reader has room for: hence the large buffer. Directories are read breadth first, because what
//! is near the root is asked for first, and each is opened beneath the view's root, through no
//! symbolic link and onto no other mount, whatever the agent has put there meanwhile.
//!
//! Left out are `.git/objects` (git reads packs by their index, and loose objects one by one) and
//! scratch directories, which `git status` does not enter either.

use super::protocol::Warming;
use crate::view::Scratch;
use agentfs_core::RelPath;
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The room for one answer.
const BUFFER: usize = 1 << 18;

/// A file system of the kernel's type `fuse`.
const FUSE: u64 = 0x6573_5546;

/// A walk that is under way.
pub(super) struct Walk {
    root: OwnedFd,
    scratch: Option<Scratch>,
    dirs: VecDeque<RelPath>,
    buffer: Vec<MaybeUninit<u8>>,
    seen: u64,
    most: u64,
    until: Instant,
}

impl Walk {
    /// A walk of the view at `mountpoint`, with its first step still to do.
    pub(super) fn of(mountpoint: &Path, warming: &Warming) -> io::Result<Self> {
        let base = Path::new(OsStr::from_bytes(&warming.base));
        Ok(Self {
            root: open_view(mountpoint)?,
            // The daemon has read these patterns before, so they are well-formed.
            scratch: Scratch::new(base, &warming.scratch).ok(),
            dirs: VecDeque::from([RelPath::root()]),
            buffer: vec![MaybeUninit::uninit(); BUFFER],
            seen: 0,
            most: warming.entries,
            until: Instant::now() + Duration::from_millis(warming.millis),
        })
    }

    /// How many entries it has seen.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Reads one directory; false if that was the last. One that can't be read is passed over.
    pub(super) fn step(&mut self) -> bool {
        let Some(path) = self.dirs.pop_front() else { return false };
        if let Ok(dir) = dir_beneath(&self.root, &path, OFlags::RDONLY) {
            let mut entries = RawDir::new(&dir, &mut self.buffer);
            while let Some(Ok(entry)) = entries.next() {
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                self.seen += 1;
                let below = path.join(OsStr::from_bytes(name));
                if entry.file_type() == FileType::Directory
                    && is_worth_it(&below, self.scratch.as_ref())
                {
                    self.dirs.push_back(below);
                }
            }
            // Reading has made the kernel doubt the directory's access time: who opens it next
            // would ask.
            let _ = rustix::fs::fstat(&dir);
        }
        !self.dirs.is_empty() && self.seen < self.most && Instant::now() < self.until
    }
}

fn is_worth_it(path: &RelPath, scratch: Option<&Scratch>) -> bool {
    let mut names = path.components();
    if names.next().is_some_and(|first| first == ".git") {
        return names.next().is_none_or(|second| second != "objects");
    }
    scratch.is_none_or(|scratch| !scratch.is_scratch(path, true))
}

/// The root of a mounted view; fails where no file system of this kind is mounted.
pub(super) fn open_view(mountpoint: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(mountpoint, flags, Mode::empty())?;
    if rustix::fs::fstatfs(&root)?.f_type as u64 == FUSE {
        Ok(root)
    } else {
        Err(Errno::NOTCONN.into())
    }
}

/// The directory at `path` of the view, through no symbolic link and on no other mount.
pub(super) fn dir_beneath(
    root: impl AsFd,
    path: &RelPath,
    mode: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = mode | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let at = if path.is_root() { b"." } else { path.as_bytes() };
    rustix::fs::openat2(root, at, flags, Mode::empty(), resolve)
}
