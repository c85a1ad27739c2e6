//! The system calls that no crate has: the listener of the filter, marks on processes, and
//! whether two processes share their memory.

use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An exec that waits.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// By this it is answered.
    pub id: u64,
    /// The thread that wants to exec.
    pub thread: Pid,
    /// The number of the system call.
    pub call: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Where execs are heard of and answered.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over what the filter's installation gave.
    pub fn new(fd: OwnedFd) -> Self {
        // Both sides on one processor: the answer comes sooner. Older kernels know no such flag.
        const SYNC_WAKE_UP: u64 = 1;
        // SAFETY: this ioctl takes a number and touches no memory of ours.
        let _ = unsafe {
            libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
        };
        Self(fd)
    }

    /// The next exec; none if it is gone already. Blocks if there is nothing to read.
    pub fn receive(&self) -> io::Result<Option<Notification>> {
        // SAFETY: the structure is made of numbers; the kernel demands that all are zero.
        let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: this ioctl fills the structure, which is as long as the kernel's headers say.
        let result = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification)
        };
        if result == 0 {
            return Ok(Some(Notification {
                id: notification.id,
                thread: Pid::from_raw(notification.pid.cast_signed()),
                call: notification.data.nr,
                arguments: notification.data.args,
            }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The last: nobody is left who could exec.
            Some(libc::ENOENT | libc::EINTR | libc::ENOTCONN) => Ok(None),
            _ => Err(error),
        }
    }

    /// Lets the exec go on. Fails only if it is gone, which then matters to nobody.
    pub fn let_go(&self, id: u64) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        self.answer(libc::seccomp_notif_resp { id, val: 0, error: 0, flags });
    }

    /// Has the exec fail.
    pub fn refuse(&self, id: u64, errno: nix::errno::Errno) {
        self.answer(libc::seccomp_notif_resp { id, val: 0, error: -(errno as i32), flags: 0 });
    }

    /// Whether the exec still waits: only then is what was read of its process its own.
    pub fn still_waits(&self, id: u64) -> bool {
        // SAFETY: this ioctl reads one number.
        let result = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id)
        };
        result == 0
    }

    fn answer(&self, mut answer: libc::seccomp_notif_resp) {
        // SAFETY: this ioctl reads the structure.
        let _ = unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)
        };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A process, open as a pidfd, whose end can be awaited: it becomes readable.
pub fn awaited(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays what it is until it is dropped, and the `AsyncFd`, which
    // owns it from here on, lets nobody take it out while it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?)
}

/// The mark of number 0; the others are below. As a limit it is 146 000 years.
const HIGHEST_MARK: u64 = 1 << 62;

/// More than will ever be used.
const MARKS: u64 = 1 << 40;

/// Whether processes that come from this one can be marked.
pub fn can_mark() -> bool {
    matches!(limit(Pid::from_raw(0), None), Ok(limit) if limit.rlim_max == libc::RLIM_INFINITY)
}

/// Has this thread, and those that it starts, be of `user` and `group` where it is asked whether
/// processes of theirs may be marked. In all else it stays who it is. Root needs it where it is
/// not allowed to change limits of others, as in most containers.
pub fn be_taken_for((user, group): (u32, u32)) -> io::Result<()> {
    const AS_IT_IS: u32 = u32::MAX;
    for (call, id) in [(libc::SYS_setresgid, group), (libc::SYS_setresuid, user)] {
        // SAFETY: these calls take numbers, and, unlike the library's, concern this thread alone.
        if unsafe { libc::syscall(call, id, AS_IT_IS, AS_IT_IS) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Marks a process, and all that will come from it, with a number that is greater than the one
/// that it has.
///
/// The mark is the limit of the time that a real-time process may run without pause
/// (`RLIMIT_RTTIME`): it is inherited by each fork and kept by each exec, anyone may lower it,
/// nobody in a sandbox may raise it, it means nothing to processes that are not real-time, which
/// in a sandbox none can be, and from outside it is read by one system call.
pub fn mark(process: Pid, number: u64) -> io::Result<()> {
    let mark = HIGHEST_MARK - number;
    limit(process, Some(libc::rlimit64 { rlim_cur: mark, rlim_max: mark })).map(drop)
}

/// The number with which a process is marked, if it is.
pub fn mark_of(process: Pid) -> Option<u64> {
    let number = HIGHEST_MARK.checked_sub(limit(process, None).ok()?.rlim_max)?;
    (number < MARKS).then_some(number)
}

fn limit(process: Pid, new: Option<libc::rlimit64>) -> io::Result<libc::rlimit64> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures outlive the call; the new one may be null.
    let result =
        unsafe { libc::prlimit64(process.as_raw(), libc::RLIMIT_RTTIME, new, &raw mut old) };
    if result == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

/// Whether two processes have one memory, as after vfork. Also where that can't be known.
pub fn share_memory(a: Pid, b: Pid) -> bool {
    const MEMORY: libc::c_int = 1;
    // SAFETY: this system call takes numbers alone.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, a.as_raw(), b.as_raw(), MEMORY, 0u64, 0u64) };
    order <= 0
}

/// Sends a signal to one thread.
pub fn signal_thread(process: Pid, thread: Pid, signal: nix::sys::signal::Signal) {
    // SAFETY: this system call takes numbers alone.
    let _ = unsafe {
        libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), signal as libc::c_int)
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_mark_goes_to_all_that_come_from_a_process_and_grows() {
        assert!(can_mark(), "RLIMIT_RTTIME is limited here");
        let shell = "read go; sleep 60 & echo $!; wait";
        let mut child = Command::new("sh")
            .args(["-c", shell])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert_eq!(mark_of(pid), None);
        mark(pid, 7).unwrap();
        mark(pid, 9).unwrap();
        drop(child.stdin.take());
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let below = Pid::from_raw(line.trim().parse().unwrap());
        assert_eq!((mark_of(pid), mark_of(below)), (Some(9), Some(9)));
        assert_eq!(mark_of(nix::unistd::getpid()), None);
        nix::sys::signal::kill(below, nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn two_processes_of_their_own_share_nothing() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(!share_memory(pid, nix::unistd::getpid()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
