//! The new root: takes hold of everything of the host that will be shown, leaves the host's root
//! for an empty tmpfs, and only then puts things into place.
//!
//! That order is what keeps the agent's home from playing tricks: while paths in it are followed
//! and directories made in it, nothing of the host is below `/` any more.

use super::overlay;
use crate::error::SandboxError;
use crate::plan::{Access, Otherwise, Step};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, move_mount, open_tree,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Proof that the host's root is gone.
#[derive(Debug)]
pub struct NewRoot(());

/// Builds the new root and enters it. A directory that has to be made belongs to whom the one
/// that it is made in belongs to: what is made in the agent's home is the agent's.
///
/// `overlays` makes the scratch mounts while the host's root is there; they are attached last, and
/// what could not be mounted is told.
pub fn build(
    steps: &[Step],
    overlays: impl FnOnce() -> overlay::Made,
) -> Result<(NewRoot, overlay::Unmounted), SandboxError> {
    let top = Path::new("/");
    keep_to_itself()?;
    let prepared: Vec<Prepared<'_>> =
        steps.iter().map(prepare).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let overlays = overlays();
    enter_empty_root().map_err(|cause| failed("the new root", top, cause))?;
    for step in prepared {
        step.attach()?;
    }
    Ok((NewRoot(()), overlays.attach()))
}

/// Whatever is mounted from now on is so in this process's namespace alone.
pub fn keep_to_itself() -> Result<(), SandboxError> {
    let top = Path::new("/");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, top, None::<&str>, private, None::<&str>)
        .map_err(|cause| failed("the private mount table", top, cause))
}

/// A step with what it needs of the host in hand.
struct Prepared<'a> {
    step: &'a Step,
    source: Option<OwnedFd>,
}

/// Takes hold of a step's source; none if it is to be skipped.
fn prepare(step: &Step) -> Result<Option<Prepared<'_>>, SandboxError> {
    let source = match step {
        Step::Bind { from, at, access, otherwise } => match take(from, *access) {
            Ok(tree) => Some(tree),
            Err(_) if *otherwise == Otherwise::Skip => return Ok(None),
            Err(cause) => return Err(failed(from.to_string_lossy(), at, cause)),
        },
        // A user namespace gets a new /proc only as long as it sees the host's.
        Step::Proc { at } => Some(new_proc().map_err(|cause| failed("proc", at, cause))?),
        Step::Mask { at } => {
            let null = take(Path::new("/dev/null"), Access::Device);
            Some(null.map_err(|cause| failed("a mask", at, cause))?)
        }
        Step::Tmpfs { .. } | Step::Devpts { .. } | Step::Link { .. } | Step::SealRoot => None,
    };
    Ok(Some(Prepared { step, source }))
}

/// A copy of the mounts at and below `from`, attached nowhere yet.
pub(super) fn take(from: &Path, access: Access) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, from, flags)?;
    let attributes = match access {
        Access::ReadOnly => {
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV
        }
        Access::Writable => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        Access::Device => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
    };
    set_attributes(&tree, attributes, true)?;
    Ok(tree)
}

fn new_proc() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Sets mount attributes, also of all mounts below if `recursive`.
fn set_attributes(tree: &OwnedFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let change =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    change_mount(tree, &change, recursive)
}

/// Shows the files of a mount that is attached nowhere as the user namespace maps their owners.
pub(super) fn map_owners(tree: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    change_mount(tree, &change, false)
}

fn change_mount(tree: &OwnedFd, change: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid empty C string, `change` is a valid structure of the size that
    // is given, and the kernel only reads both during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(change),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts an empty file system somewhere, to see that this can be done.
pub fn try_out() -> Result<(), SandboxError> {
    new_tmpfs(Path::new("/tmp"), 0o755)
}

/// Leaves the host's root for an empty tmpfs.
fn enter_empty_root() -> nix::Result<()> {
    // Any directory will do as the place: the tmpfs is stacked on it and becomes the root.
    let place = "/tmp";
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some("mode=755"))?;
    nix::unistd::chdir(place)?;
    nix::unistd::pivot_root(".", ".")?;
    // The old root is now stacked on the new one.
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

impl Prepared<'_> {
    fn attach(self) -> Result<(), SandboxError> {
        match (self.step, self.source) {
            (Step::Tmpfs { at, mode }, _) => {
                make_place(at, FileType::Directory)?;
                new_tmpfs(at, *mode)
            }
            (Step::Bind { from, at, otherwise, .. }, Some(tree)) => {
                let kind =
                    kind_of(&tree).map_err(|cause| failed(from.to_string_lossy(), at, cause))?;
                match make_place(at, kind) {
                    Err(_) if *otherwise == Otherwise::Skip => return Ok(()),
                    other => other?,
                }
                put(&tree, at).map_err(|cause| failed(from.to_string_lossy(), at, cause))
            }
            (Step::Proc { at }, Some(tree)) => {
                make_place(at, FileType::Directory)?;
                put(&tree, at).map_err(|cause| failed("proc", at, cause))
            }
            (Step::Devpts { at }, _) => {
                make_place(at, FileType::Directory)?;
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
                let options = Some("newinstance,ptmxmode=0666,mode=620");
                mount(Some("devpts"), at, Some("devpts"), flags, options)
                    .map_err(|cause| failed("devpts", at, cause))
            }
            (Step::Link { at, to }, _) => link(at, to),
            (Step::Mask { at }, Some(null)) => mask(at, &null),
            (Step::SealRoot, _) => {
                seal().map_err(|cause| failed("the root", Path::new("/"), cause))
            }
            // `prepare` gives each of these its source.
            (Step::Bind { at, .. } | Step::Proc { at } | Step::Mask { at }, None) => {
                Err(failed("nothing", at, nix::errno::Errno::EBADF))
            }
        }
    }
}

fn put(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn new_tmpfs(at: &Path, mode: u32) -> Result<(), SandboxError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode={mode:o}");
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|cause| failed("tmpfs", at, cause))
}

fn kind_of(tree: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode))
}

/// Hides a directory behind an empty one, a file behind nothing.
fn mask(at: &Path, null: &OwnedFd) -> Result<(), SandboxError> {
    match at.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(there) if there.is_dir() => new_tmpfs(at, 0o555),
        Ok(there) if there.is_symlink() => Err(SandboxError::Taken(at.to_owned())),
        Ok(_) => put(null, at).map_err(|cause| failed("a mask", at, cause)),
    }
}

fn link(at: &Path, to: &Path) -> Result<(), SandboxError> {
    make_parents(at)?;
    match std::os::unix::fs::symlink(to, at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("a link", at, error))
        }
        _ => Ok(()),
    }
}

fn seal() -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    set_attributes(&root, libc::MOUNT_ATTR_RDONLY, false)
}

/// Makes sure that something of `kind` (a directory, or else a file) is at `at` to be mounted on.
fn make_place(at: &Path, kind: FileType) -> Result<(), SandboxError> {
    let directory = kind == FileType::Directory;
    if let Ok(there) = at.symlink_metadata() {
        let fits = !there.is_symlink() && there.is_dir() == directory;
        return if fits { Ok(()) } else { Err(SandboxError::Taken(at.to_owned())) };
    }
    make_parents(at)?;
    if directory {
        make_directory(at)
    } else {
        let new = std::fs::OpenOptions::new().write(true).create_new(true).open(at);
        new.map(drop).map_err(|cause| failed("a place", at, cause))
    }
}

fn make_parents(at: &Path) -> Result<(), SandboxError> {
    let missing: Vec<&Path> =
        at.ancestors().skip(1).take_while(|dir| dir.symlink_metadata().is_err()).collect();
    missing.into_iter().rev().try_for_each(make_directory)
}

fn make_directory(at: &Path) -> Result<(), SandboxError> {
    let make = || -> io::Result<()> {
        std::fs::create_dir(at)?;
        let parent = at.parent().unwrap_or(Path::new("/")).metadata()?;
        let made = at.symlink_metadata()?;
        if (parent.uid(), parent.gid()) != (made.uid(), made.gid()) {
            std::os::unix::fs::lchown(at, Some(parent.uid()), Some(parent.gid()))?;
        }
        Ok(())
    };
    make().map_err(|cause| failed("a directory", at, cause))
}

pub(super) fn failed(
    what: impl Into<String>,
    at: &Path,
    cause: impl Into<io::Error>,
) -> SandboxError {
    SandboxError::Mount { what: what.into(), at: PathBuf::from(at), cause: cause.into() }
}
