//! A file system with a file that is well and one that can't be read beyond its first pages, as
//! on a disk that fails. Serves until it is killed: `e2e-faulty MOUNTPOINT`.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request, SessionACL,
};
use std::ffi::OsStr;
use std::time::{Duration, UNIX_EPOCH};

const TTL: Duration = Duration::from_secs(1);
const GOOD: &[u8] = b"good\n";
const BAD_SIZE: u64 = 1 << 20;
/// How much of the bad file can be read.
const READABLE: u64 = 1 << 16;

struct Faulty;

fn attributes(ino: u64) -> Option<FileAttr> {
    let (kind, perm, size) = match ino {
        1 => (FileType::Directory, 0o755, 0),
        2 => (FileType::RegularFile, 0o666, GOOD.len() as u64),
        3 => (FileType::RegularFile, 0o666, BAD_SIZE),
        _ => return None,
    };
    Some(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for Faulty {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.as_encoded_bytes() {
            b"good" => 2,
            b"bad" => 3,
            _ => 0,
        };
        match attributes(ino) {
            Some(found) => reply.entry(&TTL, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(ino.0) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = offset + u64::from(size);
        if ino.0 == 2 {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(GOOD.len());
            reply.data(&GOOD[from..]);
        } else if end <= READABLE {
            reply.data(&vec![b'x'; size as usize]);
        } else {
            reply.error(Errno::EIO);
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (1, FileType::Directory, "."),
            (1, FileType::Directory, ".."),
            (2, FileType::RegularFile, "good"),
            (3, FileType::RegularFile, "bad"),
        ];
        for (at, (ino, kind, name)) in (1u64..).zip(entries) {
            if at > offset && reply.add(INodeNo(ino), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() -> std::io::Result<()> {
    let mountpoint = std::env::args_os().nth(1).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("e2e-faulty".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    fuser::mount(Faulty, mountpoint, &config)
}
