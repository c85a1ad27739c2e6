//! agentshim: runs one unmodified program inside its view of a workspace, confined.
//!
//! A run goes through three forms, each in a module of its own: what to confine ([`spec`], looks
//! at the host), a list of steps ([`plan`], pure), and their execution ([`apply`], one file per
//! mechanism, in a process of its own). [`sandbox`] is the outer side of that process, with the
//! user's [`terminal`] and [`signals`]; [`run`] ties them to the daemon, and [`keeper`] to the next
//! one if it dies. [`execs`] holds the processes that are work units until they may run.
//!
//! It never decides about locks or versions: that is the daemon's. And it never runs a command
//! in less than the whole sandbox: where a layer can't be had it refuses and says why.

pub mod apply;
pub mod cli;
pub mod env;
pub mod error;
pub mod execs;
pub mod keeper;
pub mod plan;
pub mod probe;
mod queue;
pub mod run;
pub mod sandbox;
pub mod signals;
pub mod spec;
pub mod summary;
pub mod terminal;
pub mod wire;

use clap::Parser;
use cli::{Cli, Subcommands};
use run::RunError;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Runs the program and returns its exit status.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Not for people, and in a hurry: it does not go through the command line's parser.
    if arguments.get(1).is_some_and(|verb| verb == "sandbox") {
        return apply::inner(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|verb| verb == "reattach") {
        return apply::reattach::inner(&arguments[2..]);
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() {
                // Help and version; where this fails there is nobody to read it.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            anstream::eprintln!("agentshim: {}", cli::sentence(&error));
            return ExitCode::from(125);
        }
    };
    let result = match cli.command {
        Subcommands::Run(args) => run::run(args),
        Subcommands::Confine(args) => run::confine(&args),
        Subcommands::Completions { shell } => print(&cli::completions(shell)),
        Subcommands::Man => cli::manual().map_err(RunError::Output).and_then(|page| print(&page)),
        Subcommands::Probe => serde_json::to_vec_pretty(&probe::all())
            .map_err(|error| RunError::Output(error.into()))
            .and_then(|json| print(&[&json[..], b"\n"].concat())),
    };
    result.unwrap_or_else(|error| {
        anstream::eprintln!("agentshim: {error}");
        error.exit_code()
    })
}

fn print(bytes: &[u8]) -> Result<ExitCode, RunError> {
    let mut output = std::io::stdout();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(RunError::Output)?;
    Ok(ExitCode::SUCCESS)
}
