//! `agentctl release`: gives leases back.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, units};
use agentfs_api::types::ReleaseUnit;
use agentfs_core::AgentName;
use std::ffi::OsString;

/// Release work units, so that others can have them
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "{} With --json there is one answer for each unit, one after the other.\n\nExample:\n  \
     agentctl release src/api/\n  agentctl release proc:build --agent alice", units::HELP
))]
pub struct Release {
    /// What to release
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::AnyPath)]
    units: Vec<OsString>,
    /// Whose lease; else your own, or that of the only holder
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
}

impl Run for Release {
    fn run(self, global: &Global) -> Result<(), Error> {
        let session = Session::open(global)?;
        let units = self.units.iter().map(|typed| session.unit(typed));
        for unit in units.collect::<Result<Vec<_>, _>>()? {
            let released =
                session.client.release(&ReleaseUnit { agent: self.agent.clone(), unit })?;
            output::show(global, &released, |released, _| {
                format!("{} no longer holds {}", released.agent, released.unit)
            })?;
        }
        Ok(())
    }
}
