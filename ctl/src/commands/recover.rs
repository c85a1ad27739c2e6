//! `agentctl recover`: work that waits for a decision.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};

/// Show work that is neither applied nor discarded, also of agents that crashed
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl recover\n  agentctl diff alice")]
pub struct Recover {}

impl Run for Recover {
    fn run(self, global: &Global) -> Result<(), Error> {
        let work = Session::open(global)?.client.recoverable()?;
        output::show(global, &work, |work, page| report::recover::recover(work, page))
    }
}
