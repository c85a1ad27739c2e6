//! `agentctl sync`: moves a live view to base's newest version.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types::AgentState;
use agentfs_core::AgentName;

/// Move an agent's view to the newest version of the repository, and say what changed
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An apply changes nothing in the views of other agents that run: each goes \
    on seeing the version that it began with until it is synced. What the agent has changed itself \
    stays as it is; where base has changed too, that is told. What it had read before has to be \
    read again before it is written. With --all there is one answer for each agent that runs, one \
    after the other.\n\n\
    Example:\n  agentctl sync alice\n  agentctl sync --all\n  agentctl sync    (inside a sandbox)"
)]
pub struct Sync {
    /// Whose view; inside a sandbox always its own agent's
    #[arg(value_name = "AGENT")]
    agent: Option<AgentName>,
    /// The views of all agents that run
    #[arg(long, conflicts_with = "agent")]
    all: bool,
}

impl Run for Sync {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        if !self.all {
            let synced = client.sync(self.agent.as_ref())?;
            return output::show(global, &synced, report::sync::synced);
        }
        let runs = |state| matches!(state, AgentState::Running | AgentState::Waiting);
        let mut agents = client.agents()?;
        agents.retain(|agent| runs(agent.state));
        if agents.is_empty() {
            output::note("no agent runs, so there is no view to sync");
        }
        for agent in agents {
            let synced = client.sync(Some(&agent.name))?;
            output::show(global, &synced, report::sync::synced)?;
        }
        Ok(())
    }
}
