//! `agentctl discard`: drops a change set.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::Client;
use agentfs_core::AgentName;
use std::io::{self, IsTerminal, Write};

/// Drop an agent's changes for good
#[derive(Debug, clap::Args)]
#[command(after_help = "Asks first; without a terminal to ask on, --yes is required.\n\n\
    Example:\n  agentctl diff alice --stat\n  agentctl discard alice")]
pub struct Discard {
    /// Whose changes
    agent: AgentName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Run for Discard {
    fn run(self, global: &Global) -> Result<(), Error> {
        if !self.yes && !can_ask() {
            return Err(Error::NeedsYes);
        }
        let client = Session::open(global)?.client;
        if !self.yes && !self.is_meant(&client)? {
            return Err(Error::Declined);
        }
        let settled = client.discard(&self.agent)?;
        output::show(global, &settled, |settled, _| report::changes::settled(settled))
    }
}

impl Discard {
    /// Shows what is at stake and asks. Where there is nothing to lose there is no question.
    fn is_meant(&self, client: &Client) -> Result<bool, Error> {
        let diff = client.diff(&self.agent)?;
        if diff.changes.is_empty() {
            return Ok(true);
        }
        output::note(&report::stat::stat(&diff.changes, &output::page()));
        anstream::eprint!("Drop {}'s changes for good? [y/N] ", self.agent);
        io::stderr().flush().map_err(Error::Output)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(Error::Output)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
