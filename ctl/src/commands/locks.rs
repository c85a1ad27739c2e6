//! `agentctl locks`: all leases.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};

/// Show who holds what, and until when
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl locks\n  agentctl locks --json | jq -r '.[].unit'")]
pub struct Locks {}

impl Run for Locks {
    fn run(self, global: &Global) -> Result<(), Error> {
        let locks = Session::open(global)?.client.locks()?;
        output::show(global, &locks, |locks, page| report::locks::locks(locks, page))
    }
}
