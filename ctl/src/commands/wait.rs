//! `agentctl wait`: until nobody holds a unit.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report, units};
use agentfs_core::config::Span;
use std::ffi::OsString;

/// Wait until nobody holds anything of a work unit
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "{} Nothing is claimed: as soon as it is free, anybody may take it (`agentctl claim` waits and \
     takes). Inside a sandbox the agent's own leases do not count. The exit code is 5 if the \
     unit is still held when the time is up.\n\n\
     Example:\n  agentctl wait src/api/ --timeout 10m && make release", units::HELP
))]
pub struct Wait {
    /// What has to be free
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    unit: OsString,
    /// How long to wait at most, such as 500ms, 30s or 10m; else as long as it takes
    #[arg(long, value_name = "SPAN")]
    timeout: Option<Span>,
}

impl Run for Wait {
    fn run(self, global: &Global) -> Result<(), Error> {
        let session = Session::open(global)?;
        let freed = session.client.wait(&session.unit(&self.unit)?, self.timeout)?;
        output::show(global, &freed, |freed, _| report::locks::freed(freed))
    }
}
