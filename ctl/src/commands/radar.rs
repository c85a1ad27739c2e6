//! `agentctl radar`: who has read what others have changed since.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::Client;
use agentfs_api::types::StaleRead;
use agentfs_core::AgentName;
use std::time::Duration;

/// How often the live view looks again. Edits by hand are in no journal, so it has to look.
const LOOK: Duration = Duration::from_secs(1);

/// Show who has built on what others have changed since, or are changing now
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With -f each stale read is told once, when it is found; with --json, too, \
    as one line.\n\nExample:\n  agentctl radar\n  agentctl radar -f --agent alice"
)]
pub struct Radar {
    /// Go on, and tell each one as it comes
    #[arg(short, long)]
    follow: bool,
    /// Only what this agent has read
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
}

impl Run for Radar {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        if !self.follow {
            let stale = self.look(&client)?;
            return output::show(global, &stale, |stale, page| report::radar::stale(stale, page));
        }
        let mut told: Vec<StaleRead> = Vec::new();
        loop {
            let now = self.look(&client)?;
            for read in now.iter().filter(|read| !told.iter().any(|old| is_same(old, read))) {
                if global.json {
                    output::json_line(read)?;
                } else {
                    output::text(&report::radar::one(read))?;
                }
            }
            told = now;
            std::thread::sleep(LOOK);
        }
    }
}

impl Radar {
    fn look(&self, client: &Client) -> Result<Vec<StaleRead>, Error> {
        let mut stale = client.radar()?;
        stale.retain(|read| self.agent.as_ref().is_none_or(|agent| *agent == read.agent));
        Ok(stale)
    }
}

/// Whether both tell the same: sentences and spans grow older by themselves.
fn is_same(one: &StaleRead, other: &StaleRead) -> bool {
    (&one.agent, &one.path, &one.change, one.read_at)
        == (&other.agent, &other.path, &other.change, other.read_at)
}
