//! `agentctl grant`: agrees to a claim that waits.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types::GrantClaim;
use agentfs_core::ClaimId;

/// Agree to a claim that waits, and let it go ahead of all others
#[derive(Debug, clap::Args)]
#[command(after_help = "What others hold stays theirs without --steal: a claim that asks you \
    (unclaimed = \"ask\") then waits on for them, and for any other this is refused. What is \
    taken away is only the leases; whose they were keeps the work (`agentctl recover`).\n\n\
    Example:\n  agentctl queue\n  agentctl grant c3\n  agentctl grant c3 --steal")]
pub struct Grant {
    /// Which; see `agentctl queue`
    claim: ClaimId,
    /// Take what it wants away from those who hold it
    #[arg(long)]
    steal: bool,
}

impl Run for Grant {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        let stolen = client.grant(self.claim, GrantClaim { steal: self.steal })?;
        output::show(global, &stolen, |stolen, _| report::locks::agreed(self.claim, stolen))
    }
}
