//! `agentctl`, the control program: what the operator, and with fewer rights an agent, asks of
//! the daemon of a workspace.
//!
//! `cli` says what can be typed, `commands` has one file per command, `session` finds the
//! daemon, `units` turns what people type into work units, `report` turns the API's values into
//! text (pure: no I/O, no clock), `output` writes it.
//!
//! This program keeps no state and decides nothing: every answer is the daemon's. With `--json`
//! its standard output is exactly the API's value; sentences for people about what went wrong go
//! to standard error. Its exit codes:
//!
//! | code | means |
//! | --- | --- |
//! | 0 | done |
//! | 1 | it failed |
//! | 2 | the command line or the request is wrong |
//! | 3 | no such agent, run or unit |
//! | 4 | refused: another agent holds it, or base has moved |
//! | 5 | the wait reached its deadline |
//! | 6 | no daemon or no workspace |
//! | 7 | the caller has no right to do this |
//! | 8 | a run with this plan would wait, or a policy forbids it |
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod error;
mod exit;
mod output;
mod report;
mod session;
mod units;

use clap::Parser;
use error::Error;
use std::process::ExitCode;

/// Runs the program: reads its arguments, does what they say, and returns the exit status that
/// the table above documents.
pub fn run() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => finish(cli.run()),
        Err(error) => {
            // Nothing is left to do where even this can't be printed.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::Exit::Usage as u8))
        }
    }
}

fn finish(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => exit::Exit::Ok.into(),
        // Whoever read the output has seen enough: `agentctl log | head`.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            exit::Exit::Ok.into()
        }
        Err(error) => {
            output::complain(&error);
            error.exit().into()
        }
    }
}
