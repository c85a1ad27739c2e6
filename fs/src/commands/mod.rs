//! The command line of `agentfs`: one file per command.
//!
//! Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 6 no daemon or no workspace.

mod allocator;
mod attend;
mod daemon;
mod doctor;
mod error;
mod mount;
mod status;
mod unmount;

use clap::{Parser, Subcommand};
use error::CommandError;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the command line is wrong
  6  no daemon or no workspace

Examples:
  agentfs mount ./repo         serve a repository (agentshim does this by itself)
  agentfs status               what is served, where, how busy
  agentfs doctor               what this machine can do, and how to get the rest
  agentfs unmount ./repo       take all views away and end the daemon";

/// Serves a repository to several coding agents: each its own copy-on-write view, each write
/// under a lease.
#[derive(Debug, Parser)]
#[command(name = "agentfs", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the daemon of a workspace; returns when it serves.
    #[command(
        after_help = "Example:\n  agentfs mount ./repo                   views under the runtime directory\n  agentfs mount ./repo ~/views           views under ~/views/AGENT\n  agentfs mount ./repo --foreground      stay, and log to the terminal"
    )]
    Mount(mount::Args),
    /// Unmount all views of a workspace and end its daemon.
    #[command(
        after_help = "Example:\n  agentfs unmount\n  agentfs unmount ./repo --force         also while agents run"
    )]
    Unmount(unmount::Args),
    /// Tell what is served, where, and how busy it is.
    #[command(after_help = "Example:\n  agentfs status --json")]
    Status(status::Args),
    /// Check what this machine can do for agents, and say how to get the rest.
    #[command(after_help = "Example:\n  agentfs doctor --json")]
    Doctor(doctor::Args),
    /// Serve the daemon that started it.
    #[command(hide = true)]
    Attend,
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  agentfs completions bash > ~/.local/share/bash-completion/completions/agentfs"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    #[command(after_help = "Example:\n  agentfs man > agentfs.1")]
    Man,
}

/// Which workspace a command is about.
#[derive(Debug, clap::Args)]
struct Which {
    /// The workspace; else the one that the current directory lies in.
    dir: Option<PathBuf>,
}

impl Which {
    fn workspace(&self) -> Result<agentfs_api::Workspace, CommandError> {
        let dir = self.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        Ok(agentfs_api::Workspace::containing(&dir)?)
    }
}

/// Runs the program: reads its arguments, does what they say, and returns the exit status.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Mount(args) => mount::run(&args),
        Command::Unmount(args) => unmount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Attend => attend::run(),
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "agentfs", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            let page = clap_mangen::Man::new(<Cli as clap::CommandFactory>::command());
            page.render(&mut std::io::stdout())
                .map(|()| ExitCode::SUCCESS)
                .map_err(CommandError::Output)
        }
    };
    done.unwrap_or_else(|error| {
        anstream::eprintln!("agentfs: {error}");
        error.exit_code()
    })
}
