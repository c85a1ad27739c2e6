//! `agentctl explain`: why something waits or was refused.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_core::AgentName;
use std::ffi::OsString;

/// Say why writes wait or were refused, and what to do next
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl explain\n  agentctl explain src/api.rs")]
pub struct Explain {
    /// Only about this path, relative to the current directory
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    path: Option<OsString>,
    /// Only about this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
}

impl Run for Explain {
    fn run(self, global: &Global) -> Result<(), Error> {
        let session = Session::open(global)?;
        let path = self.path.map(|typed| session.path(&typed)).transpose()?;
        let explanation = session.client.explain(path.as_ref(), self.agent.as_ref())?;
        output::show(global, &explanation, |explanation, _| {
            report::journal::explanation(explanation)
        })
    }
}
