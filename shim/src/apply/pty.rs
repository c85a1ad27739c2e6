//! The sandbox's own terminal: a pair from its own devpts, so that `tty` names it and nothing of
//! the host's terminal is inside.

use super::privileges::Unprivileged;
use crate::error::SandboxError;
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, posix_openpt, unlockpt};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid, tcsetpgrp};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Both ends. The user's side is the master.
#[derive(Debug)]
pub struct Pty {
    /// To be handed out.
    pub master: PtyMaster,
    /// To be the command's terminal.
    pub slave: OwnedFd,
}

/// Makes a terminal. After the change of user, because that decides whom it belongs to.
pub fn open(_unprivileged: &Unprivileged) -> Result<Pty, SandboxError> {
    let make = || -> io::Result<Pty> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        unlockpt(&master)?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // SAFETY: the descriptor is an open pty master; this ioctl takes a number.
        let slave =
            unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
        if slave < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows of it.
        Ok(Pty { master, slave: unsafe { OwnedFd::from_raw_fd(slave) } })
    };
    make().map_err(SandboxError::Terminal)
}

/// Makes this process lead a new session with `slave` as its terminal and standard streams.
///
/// It is init that leads, not the command: a job whose parent is in the same session can be
/// stopped by Ctrl-Z, while the kernel does not stop an orphaned one.
pub fn take(slave: &OwnedFd, errors_too: bool) -> Result<(), SandboxError> {
    let take = || -> io::Result<()> {
        setsid()?;
        // SAFETY: the descriptor is an open terminal; this ioctl takes a number.
        if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        dup2_stdin(slave)?;
        dup2_stdout(slave)?;
        if errors_too {
            dup2_stderr(slave)?;
        }
        Ok(())
    };
    take().map_err(SandboxError::Terminal)
}

/// Puts the job of `leader` in the foreground of the terminal that standard input is.
pub fn foreground(leader: Pid) -> nix::Result<()> {
    tcsetpgrp(std::io::stdin(), leader)
}
