//! `agentctl claim`: claims work units by hand.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report, units};
use agentfs_api::types::ClaimUnits;
use agentfs_core::config::Span;
use agentfs_core::{AgentName, Mode, Want};
use std::ffi::OsString;

/// Claim work units, all or none, and wait for them if others hold them
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "{}\n\nExample:\n  agentctl claim src/api/ proc:build --agent alice\n  \
     agentctl claim Cargo.toml --shared --wait 30s", units::HELP
))]
pub struct Claim {
    /// What to claim
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::AnyPath)]
    units: Vec<OsString>,
    /// Tolerate others who share it
    #[arg(long)]
    shared: bool,
    /// For whom; inside a sandbox always its own agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
    /// How long to wait at most, such as 500ms, 30s or 10m; else what agentfs.toml says
    #[arg(long, value_name = "SPAN")]
    wait: Option<Span>,
}

impl Run for Claim {
    fn run(self, global: &Global) -> Result<(), Error> {
        let session = Session::open(global)?;
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        let wants = self.units.iter().map(|typed| Ok(Want { unit: session.unit(typed)?, mode }));
        let wants = wants.collect::<Result<_, Error>>()?;
        let request =
            ClaimUnits { agent: self.agent, wants, wait: self.wait, cause: None, on_behalf: false };
        let claimed = session.client.claim(&request)?;
        output::show(global, &claimed, |claimed, page| {
            report::locks::claimed(&claimed.leases, page)
        })
    }
}
