//! `agentctl refuse`: refuses a claim that waits.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::output;
use crate::session::Session;
use agentfs_api::types::RefuseClaim;
use agentfs_core::ClaimId;

/// Refuse a claim that waits
#[derive(Debug, clap::Args)]
#[command(after_help = "A write that waited fails with EACCES, a run that waited does not start. \
    The reason is in `agentctl explain` and inside the agent's view in `.agentfs/explain`.\n\n\
    Example:\n  agentctl queue\n  agentctl refuse c3 --because 'the schema is frozen'")]
pub struct Refuse {
    /// Which; see `agentctl queue`
    claim: ClaimId,
    /// Why, for whoever waits
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
}

impl Run for Refuse {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        client.refuse(self.claim, &RefuseClaim { why: self.because })?;
        output::show(global, &(), |(), _| format!("{} is refused", self.claim))
    }
}
