//! The filter that tells the outer process of every exec, where there are named processes.
//!
//! It decides nothing: each exec waits until the outer process lets it go on or refuses it, and
//! where that process is gone fails with ENOSYS, while the sandbox dies.

use crate::error::SandboxError;
use nix::errno::Errno;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// This program's architecture as the kernel calls it in a filter.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
/// This program's architecture as the kernel calls it in a filter.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
/// This program's architecture as the kernel calls it in a filter.
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xC000_00F3;

/// Set in the numbers of x32 calls, which have the same architecture.
const X32_BIT: u32 = 0x4000_0000;

/// Puts the filter on this process and all that come from it. Gives the descriptor at which the
/// execs are heard of: nobody in the sandbox may keep it.
pub fn install() -> Result<OwnedFd, SandboxError> {
    let mut filter = filter();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // A process that is held can still be killed, and no other signal asks a second time.
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program outlives the call, which copies it, and its length is that of the array.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if fd < 0 {
        return Err(SandboxError::ProcessesUnseen(Errno::last()));
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Kills on another architecture's calls and refuses x32's, whose numbers mean something else:
/// both have an exec too.
fn filter() -> [libc::sock_filter; 10] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const NUMBER_AT: u32 = 0;
    const ARCHITECTURE_AT: u32 = 4;
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [
        statement(LOAD_WORD, 0, 0, ARCHITECTURE_AT),
        statement(JUMP_IF_EQUAL, 1, 0, ARCHITECTURE),
        statement(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        statement(LOAD_WORD, 0, 0, NUMBER_AT),
        statement(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_BIT),
        statement(RETURN, 0, 0, refused),
        statement(JUMP_IF_EQUAL, 2, 0, libc::SYS_execve as u32),
        statement(JUMP_IF_EQUAL, 1, 0, libc::SYS_execveat as u32),
        statement(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        statement(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}
