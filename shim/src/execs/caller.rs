//! What can be known of a process that stands before an exec, from outside.
//!
//! It may be changed by other threads of the process until the exec happens: it says which unit a
//! well-meaning program is, and protects nothing.

use super::sys::{self, Notification};
use agentfs_core::process_rules::absolute;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use procfs::process::{Process, Stat};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The longest path, as the kernel has it.
const LONGEST_PATH: usize = 4096;
/// No pattern looks at more arguments, or at more of one.
const MOST_ARGUMENTS: usize = 1024;
/// Of one argument.
const LONGEST_ARGUMENT: usize = 4096;
/// The size of the smallest page: what is read never goes across the border of one.
const PAGE: u64 = 4096;
/// In a process's flags: forked, and has not executed anything since.
const FORKED_ONLY: u32 = 0x40;

/// The path of the program, from `/` on; none if it can't be read.
pub fn program(exec: &Notification) -> Option<Vec<u8>> {
    let at = |n: usize| exec.arguments[n];
    if i64::from(exec.call) != libc::SYS_execveat {
        let path = string(exec.thread, at(0), LONGEST_PATH)?;
        return located(&path, || working_directory(exec.thread));
    }
    let path = string(exec.thread, at(1), LONGEST_PATH)?;
    let base = at(0) as i32;
    located(&path, || match base {
        libc::AT_FDCWD => working_directory(exec.thread),
        fd => link(exec.thread, &format!("fd/{fd}")),
    })
}

fn located(path: &[u8], base: impl FnOnce() -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let base = if path.first() == Some(&b'/') { Vec::new() } else { base()? };
    Some(absolute(&base, path))
}

/// What follows the program's name; none if it can't be read.
pub fn arguments(exec: &Notification) -> Option<Vec<Vec<u8>>> {
    let vector = exec.arguments[if i64::from(exec.call) == libc::SYS_execveat { 2 } else { 1 }];
    let mut arguments = Vec::new();
    for n in 1..=MOST_ARGUMENTS as u64 {
        let mut pointer = [0; 8];
        let at = vector.checked_add(n * pointer.len() as u64)?;
        (read(exec.thread, at, &mut pointer)? == pointer.len()).then_some(())?;
        match u64::from_ne_bytes(pointer) {
            0 => break,
            pointer => arguments.push(string(exec.thread, pointer, LONGEST_ARGUMENT)?),
        }
    }
    Some(arguments)
}

/// Where the thread is.
pub fn working_directory(thread: Pid) -> Option<Vec<u8>> {
    link(thread, "cwd")
}

fn link(thread: Pid, name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read_link(format!("/proc/{thread}/{name}")).ok()?.into_os_string().into_vec())
}

/// The bytes up to a zero byte, or the first `longest`.
fn string(thread: Pid, mut at: u64, longest: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < longest {
        let mut page = [0; PAGE as usize];
        let size = (PAGE - at % PAGE) as usize;
        let length = read(thread, at, &mut page[..size])?;
        let read = &page[..length];
        if let Some(end) = read.iter().position(|byte| *byte == 0) {
            all.extend_from_slice(&read[..end]);
            return Some(all);
        }
        all.extend_from_slice(read);
        at = at.checked_add(length as u64).filter(|_| length > 0)?;
    }
    all.truncate(longest);
    Some(all)
}

fn read(thread: Pid, at: u64, to: &mut [u8]) -> Option<usize> {
    let from = RemoteIoVec { base: usize::try_from(at).ok()?, len: to.len() };
    process_vm_readv(thread, &mut [IoSliceMut::new(to)], &[from]).ok()
}

/// Those who only wait for a command once they have started it. Some do with vfork.
const SHELLS: [&str; 9] = ["ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "sh", "zsh"];

/// A process that stands before an exec, or has been stopped after it.
#[derive(Debug)]
pub struct Caller {
    /// The process.
    pub pid: Pid,
    /// The thread that wants to exec.
    thread: Pid,
    /// The process by a descriptor, which becomes readable at its end.
    pub process: OwnedFd,
}

impl Caller {
    /// The process that the thread belongs to.
    pub fn of(thread: Pid) -> io::Result<Self> {
        let status = Process::new(thread.as_raw()).and_then(|it| it.status());
        let pid = Pid::from_raw(status.map_err(io::Error::other)?.tgid);
        Ok(Self { pid, thread, process: open(pid)? })
    }

    /// Whether `program` is a file that the process could execute; those who look for a program
    /// in many places try to execute one that is not there. Blocks as long as the file system does.
    pub fn is_executable(thread: Pid, program: &[u8]) -> bool {
        let look = || -> rustix::io::Result<bool> {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::open(format!("/proc/{thread}/root"), flags, Mode::empty())?;
            let path = Path::new(OsStr::from_bytes(program));
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let file = rustix::fs::openat2(root, path, flags, Mode::empty(), inside)?;
            let found = rustix::fs::fstat(&file)?;
            let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode).is_file();
            Ok(is_file && found.st_mode & 0o111 != 0)
        };
        // What can't be looked at may be there.
        look().unwrap_or_else(|errno| {
            !matches!(errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)
        })
    }

    /// Whether its parent may do nothing else until the exec has happened, so that it is better
    /// not to hold it there for long. `init` is the first process of the sandbox.
    pub fn keeps_its_parent_waiting(&self, is_init: impl Fn(&Stat) -> bool) -> bool {
        let Some(own) = stat(self.pid) else { return false };
        // It has executed something before, and its parent has gone on then.
        if own.flags & FORKED_ONLY == 0 {
            return false;
        }
        let Some(parent) = stat(Pid::from_raw(own.ppid)) else { return false };
        // Both would take a stopped process for one that the user has stopped.
        let job_control =
            own.pgrp != parent.pgrp && own.session == parent.session && own.tty_nr != 0;
        if job_control || is_init(&parent) || SHELLS.contains(&parent.comm.as_str()) {
            return false;
        }
        sys::share_memory(self.pid, Pid::from_raw(own.ppid)) || self.has_closing_pipe()
    }

    /// Whether a descriptor is closed by the exec at whose other end somebody may wait for that.
    fn has_closing_pipe(&self) -> bool {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return true };
        fds.flatten().any(|fd| {
            let to = std::fs::read_link(fd.path()).unwrap_or_default().into_os_string();
            let waitable =
                to.as_bytes().starts_with(b"pipe:") || to.as_bytes().starts_with(b"socket:");
            waitable && self.is_closed_by_exec(&fd.file_name())
        })
    }

    fn is_closed_by_exec(&self, fd: &OsStr) -> bool {
        let info = Path::new("/proc").join(self.pid.to_string()).join("fdinfo").join(fd);
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
    }

    /// Stops it at the first instruction of what it is about to execute. Only the thread's own
    /// signal is not lost in the exec.
    pub fn stop_after_exec(&self) {
        use nix::sys::signal::Signal::SIGSTOP;
        sys::signal_thread(self.pid, self.thread, SIGSTOP);
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ends it without its having done anything: by `SIGALRM`, else by `SIGKILL`.
    pub fn end(&self) {
        let deaf = |stat: procfs::process::Status| {
            let alarm = 1 << (libc::SIGALRM - 1);
            (stat.sigblk | stat.sigign) & alarm != 0
        };
        let status = Process::new(self.pid.as_raw()).and_then(|it| it.status());
        if status.map_or(true, deaf) {
            return self.signal(rustix::process::Signal::KILL);
        }
        self.signal(rustix::process::Signal::ALARM);
        self.resume();
    }

    /// Sees to it that the stopped process stays so, unless somebody has sent it a signal that
    /// will end it: it takes that when it is resumed, before it does anything.
    pub fn keep_stopped(&self) {
        let Ok(process) = Process::new(self.pid.as_raw()) else { return };
        let Ok(status) = process.status() else { return };
        if (status.sigpnd | status.shdpnd) & !(status.sigblk | status.sigign) & DEADLY != 0 {
            self.resume();
        } else if !status.state.starts_with(['T', 't', 'Z', 'X']) {
            self.signal(rustix::process::Signal::STOP);
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.process, signal);
    }

    /// Writes a line to its standard error, in a thread that may wait for it to be read. Who
    /// holds the other end of the channel hears of its end.
    pub fn tell(&self, line: String, told: tokio::sync::oneshot::Sender<()>) {
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let Ok(fd) = rustix::process::pidfd_getfd(&self.process, 2, flags) else { return };
        let write = move || {
            let mut stderr = std::fs::File::from(fd);
            // Where nobody reads it, nobody misses it.
            let _ = stderr.write_all(line.as_bytes());
            let _ = told.send(());
        };
        let thread = std::thread::Builder::new().name("agentshim-tell".to_owned());
        if let Err(error) = thread.spawn(write) {
            tracing::warn!(%error, "a refusal could not be told");
        }
    }
}

/// The signals that end a process which has just been executed.
const DEADLY: u64 = {
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    let (mut all, mut n) = (u64::MAX, 0);
    while n < harmless.len() {
        all &= !(1 << (harmless[n] - 1));
        n += 1;
    }
    all
};

fn stat(pid: Pid) -> Option<Stat> {
    Process::new(pid.as_raw()).ok()?.stat().ok()
}

/// A process by a descriptor.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?)
}

/// Whether a process that is open as `process` has ended, all its threads.
pub fn has_ended(process: &impl AsFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}

/// The processes that are marked with a number that `is_wanted`, of those in the same pid
/// namespace as `like`, that have not ended.
pub fn marked(namespace: &OsStr, is_wanted: impl Fn(u64) -> bool) -> Vec<OwnedFd> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw)
        .filter(|pid| sys::mark_of(*pid).is_some_and(&is_wanted))
        .filter_map(|pid| {
            let process = open(pid).ok()?;
            let ours = pid_namespace(pid).is_some_and(|its| its == namespace);
            (ours && !has_ended(&process)).then_some(process)
        })
        .collect()
}

/// What names the pid namespace of a process.
pub fn pid_namespace(pid: Pid) -> Option<std::ffi::OsString> {
    Some(std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?.into_os_string())
}
