//! `agentctl steal`: takes a unit from those who hold it.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report, units};
use agentfs_api::types::StealUnit;
use agentfs_core::AgentName;
use std::ffi::OsString;

/// Take a work unit away from those who hold something of it; their work is kept
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "{} Only the leases go: what their agents have written stays theirs, in `agentctl recover`, \
     and their next write there waits or is refused. Without --to the first in line has it next.\n\n\
     Example:\n  agentctl steal src/api/\n  agentctl steal proc:build --to bob", units::HELP
))]
pub struct Steal {
    /// What to take away
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    unit: OsString,
    /// Who gets it
    #[arg(long, value_name = "AGENT")]
    to: Option<AgentName>,
}

impl Run for Steal {
    fn run(self, global: &Global) -> Result<(), Error> {
        let session = Session::open(global)?;
        let request = StealUnit { unit: session.unit(&self.unit)?, to: self.to };
        let stolen = session.client.steal(&request)?;
        output::show(global, &stolen, |stolen, _| report::locks::stolen(&request, stolen))
    }
}
