//! What `/proc` tells of other processes: whether one still is the one it was, and whether one
//! that waits has a signal to take.

use agentfs_core::machine::ProcessMark;
use std::fs;

/// The mark of the process `pid`; none if there is no such process.
pub fn mark(pid: u32) -> Option<ProcessMark> {
    Some(ProcessMark { pid, started: started(pid)?, boot: boot_id() })
}

/// Whether the marked process is alive: the same number, started at the same time of this boot.
pub fn is_alive(mark: &ProcessMark) -> bool {
    self::mark(mark.pid).as_ref() == Some(mark)
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot (proc_pid_stat(5)).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(22 - 3)?.parse().ok()
}

/// Whether the thread `tid` is gone or has a signal that would interrupt its system call.
///
/// The kernel tells a FUSE daemon by FUSE_INTERRUPT, which `fuser` does not pass on; so whoever
/// keeps a process waiting has to look.
pub fn is_interrupted(tid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => has_signal_to_take(&status),
        Err(_) => true,
    }
}

/// Reads proc_pid_status(5): pending for the thread or its process, not blocked, not ignored.
fn has_signal_to_take(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") != 0
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
        let status = |pending: &str, shared: &str, blocked: &str, ignored: &str| {
            format!(
                "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n"
            )
        };
        assert!(!has_signal_to_take(&status("0", "0", "0", "0")));
        assert!(has_signal_to_take(&status("0000000000000100", "0", "0", "0")));
        assert!(has_signal_to_take(&status("0", "0000000000000002", "0", "0")));
        assert!(!has_signal_to_take(&status("2", "0", "2", "0")));
        assert!(!has_signal_to_take(&status("0", "2", "0", "2")));
    }

    #[test]
    fn a_sleeping_process_is_not_interrupted() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!is_interrupted(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
