//! `agentctl apply`: makes change sets part of base.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::Client;
use agentfs_api::types::{ApplyChanges, Outcome, Settled};
use agentfs_core::AgentName;

/// Make an agent's changes part of the repository, whole or not at all
#[derive(Debug, clap::Args)]
#[command(after_help = "Several agents are applied in the order given, until one is refused. \
    Where base is not what a change was based on, nothing of that agent is applied and the paths \
    are listed. With --json there is one answer for each agent, one after the other.\n\n\
    Example:\n  agentctl apply alice\n  agentctl apply alice bob")]
pub struct Apply {
    /// Whose changes
    #[arg(required = true, value_name = "AGENT")]
    agents: Vec<AgentName>,
    /// Also where isolation = "serializable", and what a run has read has changed since
    #[arg(long)]
    stale: bool,
}

impl Run for Apply {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        for (done, agent) in self.agents.iter().enumerate() {
            apply(global, &client, agent, self.stale).map_err(|error| {
                match &self.agents[done + 1..] {
                    [] => error,
                    left => Error::Stopped { source: Box::new(error), left: left.to_vec() },
                }
            })?;
        }
        Ok(())
    }
}

fn apply(global: &Global, client: &Client, agent: &AgentName, stale: bool) -> Result<(), Error> {
    let settled = client.apply(agent, ApplyChanges { stale })?;
    let Settled { agent, outcome, .. } = &settled;
    if let Outcome::Pending { why } = outcome {
        if global.json {
            output::json(&settled)?;
        }
        return Err(Error::NotApplied { agent: agent.clone(), why: why.clone() });
    }
    output::show(global, &settled, |settled, _| report::changes::settled(settled))
}
