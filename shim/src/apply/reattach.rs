//! Gives a sandbox that runs what a new daemon serves: from outside, in a process of its own,
//! because only one with a single thread may enter a user namespace.
//!
//! The sandbox keeps all its limits: nothing of it runs this, and Landlock's rule for the view is
//! on the directory above. What is attached covers what the old daemon served; whoever stands in
//! that goes on standing there until it changes its directory.

use super::mounts;
use crate::error::SandboxError;
use crate::plan::Access;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What to attach: where it is outside, and where it belongs inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Outside.
    pub from: PathBuf,
    /// Inside.
    pub at: PathBuf,
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Whether the sandbox has a user namespace of its own.
    user_namespace: bool,
    attach: Vec<Attach>,
}

/// Attaches `attach` in the sandbox that `process`, a pidfd, belongs to. Blocks.
pub fn reattach(
    process: BorrowedFd<'_>,
    user_namespace: bool,
    attach: Vec<Attach>,
) -> Result<(), SandboxError> {
    let said = || -> io::Result<std::process::Output> {
        let order = crate::sandbox::in_memory(&Order { user_namespace, attach })?;
        let process = process.try_clone_to_owned()?;
        for inherited in [&order, &process] {
            rustix::io::fcntl_setfd(inherited, rustix::io::FdFlags::empty())?;
        }
        let fds = [&order, &process].map(|fd| fd.as_raw_fd().to_string());
        Command::new("/proc/self/exe")
            .arg0("agentshim")
            .arg("reattach")
            .args(fds)
            .env_clear()
            .output()
    };
    let output = said().map_err(SandboxError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(SandboxError::Inside(if why.is_empty() { output.status.to_string() } else { why }))
}

/// The process: does what it is told by the descriptors on its command line.
pub fn inner(arguments: &[OsString]) -> ExitCode {
    let number = |at: usize| arguments.get(at)?.to_str()?.parse::<RawFd>().ok();
    let (Some(order @ 3..), Some(process @ 3..)) = (number(0), number(1)) else {
        anstream::eprintln!("agentshim: `reattach` is for agentshim itself");
        return ExitCode::from(125);
    };
    // SAFETY: whoever started this has made both descriptors for it, it has opened nothing yet
    // that could have their numbers, and each is given away once.
    let (order, process) = unsafe { (OwnedFd::from_raw_fd(order), OwnedFd::from_raw_fd(process)) };
    match attach_all(order, &process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads this may be gone.
            let _ = writeln!(io::stdout(), "{error}");
            ExitCode::from(125)
        }
    }
}

fn attach_all(order: OwnedFd, process: &OwnedFd) -> Result<(), SandboxError> {
    let mut json = Vec::new();
    std::fs::File::from(order).read_to_end(&mut json).map_err(SandboxError::Start)?;
    let order: Order =
        serde_json::from_slice(&json).map_err(|error| SandboxError::Start(error.into()))?;
    let namespaces = |cause| SandboxError::Namespaces { cause };
    if order.user_namespace {
        setns(process, CloneFlags::CLONE_NEWUSER).map_err(namespaces)?;
    }
    // A copy of the host's mounts, in which this process has the right to take hold of them, and
    // from which nothing that is mounted later finds its way into the sandbox.
    unshare(CloneFlags::CLONE_NEWNS).map_err(namespaces)?;
    let top = Path::new("/");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, top, None::<&str>, private, None::<&str>)
        .map_err(|cause| mounts::failed("the private mount table", top, cause))?;
    let taken: Vec<(&Attach, OwnedFd)> = order
        .attach
        .iter()
        .map(|attach| {
            let tree = mounts::take(&attach.from, Access::Writable);
            let tree = tree.map_err(|cause| failed(attach, cause))?;
            Ok((attach, tree))
        })
        .collect::<Result<_, SandboxError>>()?;
    setns(process, CloneFlags::CLONE_NEWNS).map_err(namespaces)?;
    taken.iter().try_for_each(|(attach, tree)| {
        cover(&attach.at, tree).map_err(|cause| failed(attach, cause))
    })
}

/// Mounts `tree` over what is at `at`. The agent may have made symbolic links on the way, which
/// are not followed.
fn cover(at: &Path, tree: &OwnedFd) -> io::Result<()> {
    let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    rustix::process::fchdir(open(dir)?)?;
    let mount = || {
        let both =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, "", open(Path::new(name))?, "", both)
    };
    match mount() {
        // What is mounted there has been deleted outside, as a socket is that is made anew.
        Err(Errno::NOENT) => {
            unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            Ok(mount()?)
        }
        other => Ok(other?),
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn failed(attach: &Attach, cause: io::Error) -> SandboxError {
    mounts::failed(attach.from.to_string_lossy(), &attach.at, cause)
}
