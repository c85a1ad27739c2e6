//! `agentctl agents`: all agents.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};

/// Show all agents and what they do
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl agents")]
pub struct Agents {}

impl Run for Agents {
    fn run(self, global: &Global) -> Result<(), Error> {
        let agents = Session::open(global)?.client.agents()?;
        output::show(global, &agents, |agents, page| report::agents::agents(agents, page))
    }
}
