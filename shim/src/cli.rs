//! The command line.

use agentfs_core::AgentName;
use agentfs_core::config::{Span, Unclaimed};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs an unmodified program as an agent: in its own view of the repository, under namespaces,
/// Landlock and a system call filter.
#[derive(Debug, Parser)]
#[command(name = "agentshim", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Subcommands,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Subcommands {
    /// Runs a command as an agent, and says at the end what it changed
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Builds a sandbox from a description instead of a daemon's answer
    #[command(hide = true)]
    Confine(Confine),
}

const RUN_HELP: &str = "\
Example:
  cd repo
  agentshim run --agent alice -- claude
  agentshim run --agent bob --claim src/api/ --wait 2m -- aider --message \"fix the parser\"

The exit status is the command's own, or 128+N if signal N ended it; 125 if agentshim itself
failed, 126 if the command can't be executed, 127 if it was not found.";

/// `agentshim run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The agent's name; a free short name if none is given
    #[arg(long, value_name = "NAME")]
    pub agent: Option<AgentName>,
    /// What to hold before the command starts: src/a.rs, src/api/, proc:build, res:port-8080
    #[arg(long = "claim", value_name = "UNIT")]
    pub claims: Vec<String>,
    /// How long a write may wait for what another agent holds, such as 90s
    #[arg(long, value_name = "SPAN")]
    pub wait: Option<Span>,
    /// What a write meets that nobody holds: it is claimed at once, or refused
    #[arg(long, value_name = "claim|deny", value_parser = unclaimed)]
    pub unclaimed: Option<Unclaimed>,
    /// Write the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// Write nothing but errors
    #[arg(long)]
    pub quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}

/// `agentshim confine`.
#[derive(Debug, Args)]
pub struct Confine {
    /// A file with the description: what the daemon answers to the start of a run, as JSON
    pub started: PathBuf,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}

fn unclaimed(text: &str) -> Result<Unclaimed, String> {
    match text {
        "claim" => Ok(Unclaimed::Claim),
        "deny" => Ok(Unclaimed::Deny),
        _ => Err("say claim or deny".to_owned()),
    }
}

/// What is wrong with a command line, in one line.
pub fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
    format!("{}; see `agentshim run --help`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["agentshim", "run", "--quiet", "--", "ls", "--json"]);
        let Ok(Cli { command: Subcommands::Run(run) }) = cli else { panic!("{cli:?}") };
        assert!(run.quiet && !run.json);
        assert_eq!(run.argv, ["ls", "--json"]);
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        let error = Cli::try_parse_from(["agentshim", "run", "--wait", "soon", "--", "ls"]);
        assert_eq!(
            sentence(&error.unwrap_err()),
            "invalid value 'soon' for '--wait <SPAN>': \"soon\" is no length of time: write a \
             number and ms, s, m or h, such as \"90s\"; see `agentshim run --help`"
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [&["--agent", "A B"][..], &["--wait", "soon"], &["--unclaimed", "maybe"]] {
            let line = [&["agentshim", "run"], bad, &["--", "ls"]].concat();
            assert!(Cli::try_parse_from(&line).is_err(), "{bad:?} was taken");
        }
        assert!(Cli::try_parse_from(["agentshim", "run"]).is_err());
    }
}
