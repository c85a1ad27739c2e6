//! `agentctl completions`: what a shell needs to complete command lines.

use super::Run;
use crate::cli::{Cli, Global};
use crate::error::Error;
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a shell's completions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    agentctl completions bash > ~/.local/share/bash-completion/completions/agentctl\n  \
    agentctl completions fish > ~/.config/fish/completions/agentctl.fish")]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Run for Completions {
    fn run(self, _: &Global) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "agentctl", &mut script);
        output::bytes(&script)
    }
}
