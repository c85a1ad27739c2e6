//! Exit codes: a promise to scripts, so a number never changes its meaning.

use std::process::ExitCode;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failure = 1,
    /// The command line or the request is wrong.
    Usage = 2,
    /// No such agent, run or unit.
    NotFound = 3,
    /// Another agent holds it, or base is not what the change was based on.
    Refused = 4,
    /// The wait reached its deadline.
    TimedOut = 5,
    /// No daemon, or no workspace.
    NoDaemon = 6,
    /// The caller has no right to do this.
    Forbidden = 7,
    /// A run with this plan would not start at once.
    WouldWait = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The table that `agentctl --help` and the man page end with.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the command line or the request is wrong
  3  no such agent, run or unit
  4  refused: another agent holds it, or base has moved
  5  the wait reached its deadline
  6  no daemon or no workspace
  7  the caller has no right to do this
  8  a run with this plan would wait, or a policy forbids it

Example:
  agentctl locks               who holds what
  agentctl diff alice          what alice has changed
  agentctl apply alice         make it part of the repository
  agentctl explain src/api.rs  why a write to it waits or was refused";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_and_the_crate_s_documentation_tell_the_same() {
        let documented = include_str!("lib.rs");
        let rows: Vec<&str> =
            HELP.lines().skip(1).take_while(|line| !line.is_empty()).map(str::trim).collect();
        assert_eq!(rows.len(), Exit::WouldWait as usize + 1);
        for row in rows {
            let (code, meaning) = row.split_once("  ").unwrap();
            assert!(documented.contains(&format!("//! | {code} | {meaning} |")), "{row}");
        }
    }
}
