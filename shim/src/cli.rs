//! The command line.

use agentfs_core::config::{Span, Unclaimed};
use agentfs_core::locks::Priority;
use agentfs_core::{AgentName, RunId};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io;
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
    /// Prints a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, in roff
    #[command(after_help = "Example:\n  agentshim man | man -l -")]
    Man,
    /// Says as JSON what of a sandbox can be had here; `agentfs doctor` shows it to people
    #[command(hide = true)]
    Probe,
    /// Builds a sandbox from a description instead of a daemon's answer
    #[command(hide = true)]
    Confine(Confine),
}

const COMPLETIONS_HELP: &str = "\
Example:
  agentshim completions bash > ~/.local/share/bash-completion/completions/agentshim";

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
    /// What to hold before the command starts: src/a.rs, src/api/, proc:build, res:port-8080,
    /// "shared docs/"
    #[arg(long = "claim", value_name = "UNIT")]
    pub claims: Vec<String>,
    /// What it declares (see `agentctl plan schema`); the units of all steps are held before it
    /// starts
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
    /// How much it matters beside others; else what the plan says
    #[arg(long, value_name = "low|normal|high")]
    pub priority: Option<Priority>,
    /// Start only when this run has ended
    #[arg(long, value_name = "RUN")]
    pub after: Vec<RunId>,
    /// Start only when this run has ended and its command exited with 0
    #[arg(long, value_name = "RUN")]
    pub after_success: Vec<RunId>,
    /// The live run that it works for: what that one holds is not in its way
    #[arg(long, value_name = "RUN")]
    pub parent: Option<RunId>,
    /// How long to wait before it starts, such as 10m; else as long as it takes
    #[arg(long, value_name = "SPAN")]
    pub start_within: Option<Span>,
    /// How long a write may wait for what another agent holds, such as 90s
    #[arg(long, value_name = "SPAN")]
    pub wait: Option<Span>,
    /// What a write meets that nobody holds: it is claimed at once, refused, or the operator is
    /// asked
    #[arg(long, value_name = "claim|deny|ask", value_parser = unclaimed)]
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

/// A shell's completion script.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agentshim", &mut script);
    script
}

/// The manual page.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

fn unclaimed(text: &str) -> Result<Unclaimed, String> {
    match text {
        "claim" => Ok(Unclaimed::Claim),
        "deny" => Ok(Unclaimed::Deny),
        "ask" => Ok(Unclaimed::Ask),
        _ => Err("say claim, deny or ask".to_owned()),
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
        Cli::command().debug_assert();
    }

    #[test]
    fn shells_and_the_manual_learn_what_people_may_type() {
        let script = String::from_utf8(completions(clap_complete::Shell::Bash)).unwrap();
        let page = String::from_utf8(manual().unwrap()).unwrap();
        assert!(script.contains("--claim"), "{script}");
        assert!(page.contains("agentshim") && page.contains("completions"), "{page}");
        assert!(!page.contains("probe"), "{page}");
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
