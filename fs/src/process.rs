//! What `/proc` tells of other processes: whether one still is the one it was, and whether one
//! that waits has a signal to take.

use agentfs_core::machine::ProcessMark;
use procfs::process::{Process, Status};

/// The mark of the process `pid`; none if there is no such process.
pub fn mark(pid: u32) -> Option<ProcessMark> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    // One that has ended keeps its number until its parent has heard of it.
    if matches!(stat.state, 'Z' | 'X') {
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(ProcessMark { pid, started: stat.starttime, boot: boot.trim().to_owned() })
}

/// Whether the marked process is alive: the same number, started at the same time of this boot.
pub fn is_alive(mark: &ProcessMark) -> bool {
    self::mark(mark.pid).as_ref() == Some(mark)
}

/// Whether the thread `tid` is gone or has a signal that would interrupt its system call.
///
/// The kernel tells a FUSE daemon by `FUSE_INTERRUPT`, which `fuser` does not pass on; so whoever
/// keeps a process waiting has to look.
pub fn is_interrupted(tid: u32) -> bool {
    let thread = i32::try_from(tid).ok().and_then(|tid| Process::new(tid).ok());
    let status = thread.and_then(|thread| thread.status().ok());
    status.is_none_or(|status| has_signal_to_take(&status))
}

/// Signals of everyday life, which a program that handles them does not expect to interrupt the
/// opening of a file: SIGALRM, SIGCHLD, SIGCONT, SIGURG, SIGVTALRM, SIGPROF, SIGWINCH.
const EVERYDAY: [i32; 7] = [14, 17, 18, 23, 26, 27, 28];

/// Pending for the thread or its process, not blocked, not ignored (`proc_pid_status(5)`), and one
/// that somebody means.
fn has_signal_to_take(status: &Status) -> bool {
    let everyday: u64 = EVERYDAY.iter().map(|number| 1 << (number - 1)).sum();
    (status.sigpnd | status.shdpnd) & !status.sigblk & !status.sigign & !everyday != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_told_apart_from_its_successor() {
        let mine = mark(std::process::id()).unwrap();
        assert!(is_alive(&mine));
        assert!(!is_alive(&ProcessMark { started: mine.started + 1, ..mine.clone() }));
        assert!(!is_alive(&ProcessMark { boot: "another".into(), ..mine }));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let marked = mark(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&marked));
        assert!(is_interrupted(marked.pid), "gone is interrupted");
    }

    #[test]
    fn only_signals_that_would_be_taken_count() {
        let mut status = Process::myself().unwrap().status().unwrap();
        let mut with = |sigpnd, shdpnd, sigblk, sigign| {
            (status.sigpnd, status.shdpnd) = (sigpnd, shdpnd);
            (status.sigblk, status.sigign) = (sigblk, sigign);
            has_signal_to_take(&status)
        };
        assert!(!with(0, 0, 0, 0));
        assert!(with(0x100, 0, 0, 0));
        assert!(with(0, 2, 0, 0));
        assert!(!with(2, 0, 2, 0));
        assert!(!with(0, 2, 0, 2));
        assert!(!with(1 << 16, 0, 0, 0), "SIGCHLD");
    }

    #[test]
    fn a_sleeping_process_is_not_interrupted() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!is_interrupted(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
