//! What can be typed: the global flags and the list of commands.

use crate::commands::{
    Agents, Apply, Claim, Completions, Diff, Discard, Explain, Locks, Log, Man, Queue, Radar,
    Recover, Release, Run, Runs, Sync, With,
};
use crate::error::Error;
use crate::{exit, output};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// See and steer the agents that work on a repository.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, arg_required_else_help = true, after_help = exit::HELP)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Print the daemon's answer as JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// The repository; else the one that holds the current directory, or the sandbox's own
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Locks(Locks),
    Queue(Queue),
    Agents(Agents),
    Runs(Runs),
    Log(Log),
    Diff(Diff),
    Apply(Apply),
    Discard(Discard),
    Claim(Claim),
    Release(Release),
    With(With),
    Sync(Sync),
    Explain(Explain),
    Radar(Radar),
    Recover(Recover),
    Completions(Completions),
    Man(Man),
}

impl Cli {
    /// Does what was typed.
    pub fn run(self) -> Result<(), Error> {
        let global = self.global;
        let done = self.command.run(&global);
        if let Err(error) = &done {
            output::answer_refusal(&global, error)?;
        }
        done
    }
}

impl Command {
    fn run(self, global: &Global) -> Result<(), Error> {
        match self {
            Self::Locks(command) => command.run(global),
            Self::Queue(command) => command.run(global),
            Self::Agents(command) => command.run(global),
            Self::Runs(command) => command.run(global),
            Self::Log(command) => command.run(global),
            Self::Diff(command) => command.run(global),
            Self::Apply(command) => command.run(global),
            Self::Discard(command) => command.run(global),
            Self::Claim(command) => command.run(global),
            Self::Release(command) => command.run(global),
            Self::With(command) => command.run(global),
            Self::Sync(command) => command.run(global),
            Self::Explain(command) => command.run(global),
            Self::Radar(command) => command.run(global),
            Self::Recover(command) => command.run(global),
            Self::Completions(command) => command.run(global),
            Self::Man(command) => command.run(global),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_line_of_help_and_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing");
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(&format!("agentctl {name}")), "{name} shows no example");
        }
    }
}
