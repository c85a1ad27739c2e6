//! The only place that knows fuser: decodes the kernel's requests, asks the gate, calls the view,
//! answers, traces.
//!
//! A session thread never waits: what may (the gate's answer, a text of `.agentfs/`) takes the
//! reply along and is finished elsewhere. File locks are left to the kernel.

mod announced;
mod answers;
mod controls;
mod convert;
mod counts;
mod gated;
mod kernel;
mod mount;
mod probe;
mod reading;
#[cfg(test)]
mod tests;
mod workers;

pub use announced::Announcing;
pub use mount::{MountError, MountedView, SOURCE_PREFIX, detach, mount};
pub use probe::{Probed, probe};

use crate::view::{self, ByRoot, Changes, Creation, FsError, View};
use agentfs_core::changeset::FileKind;
use announced::Announced;
use answers::{
    Shown, answer_attr, answer_create, answer_empty, answer_entry, answer_open, answer_xattr,
    failed,
};
use convert::{file_attr, file_type, no_entry, set_time, ttl};
use counts::Kind;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use gated::{RENAME, Want};
use kernel::Kernel;
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom, XattrFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use workers::Workers;

const GENERATION: Generation = Generation(0);

/// What is asked of the kernel, each if it has it.
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Each open says whether the pages of the one before are still right.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_MAX_PAGES,
    // Access control lists are obeyed by the kernel and inherited by the view, which for that has to
    // know the mode as it was asked for.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];

/// A view as fuser's file system.
#[derive(Debug)]
struct Adapter {
    view: Arc<View>,
    workers: Workers,
    /// For what waits for the owner, who may be waiting for a worker.
    asking: Workers,
    kernel: Arc<Kernel>,
    announced: Arc<Announced>,
}

impl Adapter {
    fn new(
        view: Arc<View>,
        (workers, asking): (Workers, Workers),
        kernel: Arc<Kernel>,
        announced: Arc<Announced>,
    ) -> Self {
        Self { view, workers, asking, kernel, announced }
    }

    fn count(&self, kind: Kind) {
        self.kernel.counts.note(kind);
    }

    /// What to ask for before the attributes of a node change: all its names. An unlinked file has
    /// none and counts for nobody.
    fn node_wants(&self, ino: u64) -> Vec<Want> {
        let want = if self.view.is_dir(ino) { Want::DirAttributes } else { Want::Kept };
        self.view.paths_of(ino).into_iter().map(want).collect()
    }
}

fn open_flags(raw: i32) -> OFlags {
    OFlags::from_bits_retain(raw.cast_unsigned())
}

fn writes(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC)
}

fn creation(request: &Request, mode: u32, umask: u32) -> Creation {
    Creation { mode: mode & 0o7777, umask, uid: request.uid(), gid: request.gid() }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in WANTED {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::debug!(?missing, "the kernel lacks a FUSE feature");
            }
        }
        let passes = rustix::process::geteuid().is_root()
            && config.set_max_stack_depth(self.view.stack_depth()).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.view.set_passthrough(passes);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count(Kind::Lookup);
        let Some(reply) = self.unless_announced(req.pid(), parent, name, reply) else { return };
        match self.view.lookup(parent.0, name) {
            Ok(Some(attr)) => {
                answer_entry("lookup", reply, Ok(Shown::entry(&self.view, parent.0, attr)));
            }
            Ok(None) => {
                // When all is forgotten at once, nobody knows what was missing here; what was missing
                // below goes with its directory.
                let told = parent != INodeNo::ROOT && self.view.is_told(parent.0);
                reply.entry(&ttl(told), &no_entry(), GENERATION);
            }
            Err(error) => reply.error(failed("lookup", error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.count(Kind::Forget);
        self.view.forget(ino.0, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.count(Kind::Getattr);
        let Some(reply) = self.unless_gone_by(req.pid(), ino, reply) else { return };
        let found = self.view.getattr(ino.0, fh.map(|fh| fh.0));
        answer_attr("stat", reply, found.map(|attr| Shown::node(&self.view, attr)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.count(Kind::Setattr);
        let Some(reply) = self.unless_changed(req.pid(), ino, reply) else { return };
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let by_root = ByRoot(req.uid() == 0);
        let changes = Changes { mode, uid, gid, size, atime, mtime, by_root };
        if let (Some(size), Some(fh)) = (changes.size, fh)
            && changes.only_size()
        {
            let done = self.view.truncate(ino.0, fh.0, size, by_root);
            let done = done.map(|attr| Shown::node(&self.view, attr));
            return answer_attr("truncate", reply, done);
        }
        let path = self.view.path_of(ino.0).ok();
        let wants = self.node_wants(ino.0);
        let act = move |view: &View, permit: &_| {
            let done = view.setattr(ino.0, path.as_ref(), changes, permit);
            done.map(|attr| Shown::node(view, attr))
        };
        self.gated(req.pid(), "change of attributes", &wants, act, |done| {
            answer_attr("setattr", reply, done);
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.count(Kind::Readlink);
        match self.view.readlink(ino.0) {
            Ok(text) => reply.data(text.as_bytes()),
            Err(error) => reply.error(failed("readlink", error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.count(Kind::Mknod);
        let made = self.unless_made(req.pid(), (parent, name), FileKind::File, reply);
        let Some(reply) = made else { return };
        let path = match self.view.child_path(parent.0, name) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("mknod", error)),
        };
        let creation = creation(req, mode, umask);
        let kind = FileType::from_raw_mode(mode);
        let wants = [Want::File(path.clone())];
        let act = move |view: &View, permit: &_| {
            let made = view.mknod(&path, creation, kind, rdev.into(), permit);
            made.map(|attr| Shown::entry(view, parent.0, attr))
        };
        self.gated(req.pid(), "mknod", &wants, act, |made| answer_entry("mknod", reply, made));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.count(Kind::Mkdir);
        let made = self.unless_made(req.pid(), (parent, name), FileKind::Dir, reply);
        let Some(reply) = made else { return };
        let path = match self.view.child_path(parent.0, name) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("mkdir", error)),
        };
        let creation = creation(req, mode, umask);
        let act = move |view: &View, permit: &_| {
            let made = view.mkdir(&path, creation, permit);
            made.map(|attr| Shown::entry(view, parent.0, attr))
        };
        self.gated(req.pid(), "mkdir", &[], act, |made| answer_entry("mkdir", reply, made));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count(Kind::Unlink);
        let Some(reply) = self.unless_gone(req.pid(), parent, name, reply) else { return };
        let path = match self.view.child_path(parent.0, name) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("unlink", error)),
        };
        let wants = [Want::File(path.clone())];
        let act = move |view: &View, permit: &_| view.unlink(&path, permit);
        self.gated(req.pid(), "unlink", &wants, act, |done| answer_empty("unlink", reply, done));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count(Kind::Rmdir);
        let Some(reply) = self.unless_gone(req.pid(), parent, name, reply) else { return };
        // A directory that is not empty is not claimed: git tries this after every deletion.
        let path = self.view.child_path(parent.0, name);
        let path = match path.and_then(|path| self.view.check_rmdir(&path).map(|()| path)) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("rmdir", error)),
        };
        let wants = [Want::Dir(path.clone())];
        let act = move |view: &View, permit: &_| view.rmdir(&path, permit);
        self.gated(req.pid(), "rmdir", &wants, act, |done| answer_empty("rmdir", reply, done));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.count(Kind::Symlink);
        let made = self.unless_made(req.pid(), (parent, link_name), FileKind::Symlink, reply);
        let Some(reply) = made else { return };
        let path = match self.view.child_path(parent.0, link_name) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("symlink", error)),
        };
        let creation = creation(req, 0o777, 0);
        let text = target.as_os_str().to_owned();
        let wants = [Want::File(path.clone())];
        let act = move |view: &View, permit: &_| {
            let made = view.symlink(&path, &text, creation, permit);
            made.map(|attr| Shown::entry(view, parent.0, attr))
        };
        self.gated(req.pid(), "symlink", &wants, act, |made| answer_entry("symlink", reply, made));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Rename);
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let paths = self.view.child_path(parent.0, name).and_then(|from| {
            let to = self.view.child_path(newparent.0, newname)?;
            let moves = self.view.check_rename(&from, &to, flags)?;
            Ok((from, to, moves))
        });
        let (from, to, moves) = match paths {
            Ok(found) => found,
            Err(error) => return reply.error(failed("rename", error)),
        };
        let want = if moves.is_dir { Want::Dir } else { Want::Kept };
        let mut wants = vec![want(from.clone()), want(to.clone())];
        wants.extend(moves.below.into_iter().map(|lower| Want::Below(lower.path, lower.is_dir)));
        let act = move |view: &View, permit: &_| view.rename(&from, &to, flags, permit);
        self.gated(req.pid(), RENAME, &wants, act, |done| answer_empty("rename", reply, done));
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.count(Kind::Link);
        let paths = self.view.path_of(ino.0).and_then(|old| {
            let new = self.view.child_path(newparent.0, newname)?;
            Ok((old, new))
        });
        let (old, new) = match paths {
            Ok(paths) => paths,
            Err(error) => return reply.error(failed("link", error)),
        };
        // The old name too: what it names is copied up, and so becomes part of the agent's work.
        let wants = [Want::Kept(old.clone()), Want::File(new.clone())];
        let act = move |view: &View, permit: &_| {
            let made = view.link(ino.0, &old, &new, permit);
            made.map(|attr| Shown::entry(view, newparent.0, attr))
        };
        self.gated(req.pid(), "link", &wants, act, |made| answer_entry("link", reply, made));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.count(Kind::Open);
        let Some(reply) = self.unless_closed(req.pid(), reply) else { return };
        let flags = open_flags(flags.0);
        if view::is_virtual(ino.0) {
            return self.open_virtual(ino.0, flags, reply);
        }
        if !writes(flags) {
            let opened = self.view.open_read(ino.0, flags);
            return answer_open(reply, &self.kernel, &self.view, ino.0, opened);
        }
        let (path, by_root) = (self.view.path_of(ino.0).ok(), ByRoot(req.uid() == 0));
        let want = if flags.contains(OFlags::TRUNC) { Want::File } else { Want::Kept };
        let wants = self.view.paths_of(ino.0).into_iter().map(want).collect::<Vec<_>>();
        let act = move |view: &View, permit: &_| {
            view.open_write(ino.0, path.as_ref(), flags, by_root, permit)
        };
        let (view, kernel) = (self.view.clone(), self.kernel.clone());
        self.gated(req.pid(), "open for writing", &wants, act, move |opened| {
            answer_open(reply, &kernel, &view, ino.0, opened);
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.count(Kind::Create);
        let path = match self.view.child_path(parent.0, name) {
            Ok(path) => path,
            Err(error) => return reply.error(failed("create", error)),
        };
        let (creation, flags) = (creation(req, mode, umask), open_flags(flags));
        let wants = [Want::File(path.clone())];
        let act = move |view: &View, permit: &_| {
            let made = view.create(&path, creation, flags, permit);
            made.map(|(attr, opened)| (Shown::entry(view, parent.0, attr), opened))
        };
        let (view, kernel) = (self.view.clone(), self.kernel.clone());
        self.gated(req.pid(), "create", &wants, act, move |made| {
            answer_create(reply, &kernel, &view, made);
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Kind::Read);
        match self.view.read(fh.0, offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(failed("read", error)),
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.count(Kind::Write);
        if view::is_virtual(ino.0) {
            return self.order(req.pid(), ino.0, data, reply);
        }
        let drop_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.view.write(fh.0, offset, data, drop_privileges) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(failed("write", error)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Release);
        self.kernel.close(&self.view, fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Fsync);
        answer_empty("fsync", reply, self.view.fsync(fh.0, datasync));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Kind::Opendir);
        // The kernel asks once, and from then on opens directories and keeps their listings by
        // itself.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.count(Kind::Readdir);
        let filled = self.fill(ino.0, offset, |attr, next, name| {
            let kind = file_type(FileType::from_raw_mode(attr.stat.st_mode));
            let full = reply.add(INodeNo(attr.ino), next, kind, name);
            // A plain listing tells the kernel of no node.
            (full, false)
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdir", error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.count(Kind::Readdirplus);
        let told = self.view.is_told(ino.0);
        let filled = self.fill(ino.0, offset, |attr, next, name| {
            let entry = file_attr(attr);
            let ttl = Shown::line(&self.view, told, *attr).attr_ttl();
            let full = reply.add(entry.ino, next, name, &ttl, &entry, GENERATION);
            (full, !full)
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdir", error)),
        }
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Fsync);
        answer_empty("fsync", reply, self.view.fsync_dir(ino.0));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.count(Kind::Statfs);
        match self.view.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(failed("statfs", error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Setxattr);
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        let path = self.view.path_of(ino.0).ok();
        let (name, value) = (name.to_owned(), value.to_owned());
        let act = move |view: &View, permit: &_| {
            view.set_xattr(ino.0, path.as_ref(), (&name, &value), flags, permit)
        };
        self.gated(req.pid(), "setxattr", &self.node_wants(ino.0), act, |done| {
            answer_empty("setxattr", reply, done);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.count(Kind::Getxattr);
        answer_xattr(reply, size, self.view.get_xattr(ino.0, name));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.count(Kind::Listxattr);
        answer_xattr(reply, size, self.view.list_xattr(ino.0));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count(Kind::Removexattr);
        let path = self.view.path_of(ino.0).ok();
        let name = name.to_owned();
        let act =
            move |view: &View, permit: &_| view.remove_xattr(ino.0, path.as_ref(), &name, permit);
        self.gated(req.pid(), "removexattr", &self.node_wants(ino.0), act, |done| {
            answer_empty("removexattr", reply, done);
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.count(Kind::Fallocate);
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let by_root = ByRoot(req.uid() == 0);
        let done = self.view.fallocate(fh.0, mode, (offset, length), by_root);
        answer_empty("fallocate", reply, done);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.count(Kind::Lseek);
        let from = match (whence, u64::try_from(offset)) {
            (libc::SEEK_DATA, Ok(offset)) => SeekFrom::Data(offset),
            (libc::SEEK_HOLE, Ok(offset)) => SeekFrom::Hole(offset),
            _ => return reply.error(failed("lseek", FsError::Invalid)),
        };
        match self.view.seek(fh.0, from) {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(failed("lseek", error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.count(Kind::CopyFileRange);
        // The answer has 32 bits, so that is the most that one request copies.
        let length = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        let copied = self.view.copy_range(from, to, length, ByRoot(req.uid() == 0));
        match copied {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(failed("copy_file_range", error)),
        }
    }
}
