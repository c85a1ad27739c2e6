//! `agentctl log`: the journal in sentences.

use super::{Run, last};
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types::LogEntry;
use agentfs_core::AgentName;

/// Show what happened, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "With -f and --json each line is one entry.\n\n\
    Example:\n  agentctl log -n 20\n  agentctl log -f --agent alice")]
pub struct Log {
    /// Go on with each entry as it is written
    #[arg(short, long)]
    follow: bool,
    /// Only the last N
    #[arg(short = 'n', long = "number", value_name = "N")]
    number: Option<usize>,
    /// Only what this agent did
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
}

impl Run for Log {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        let mut entries = client.log(0)?;
        let newest = entries.last().map_or(0, |entry| entry.seq);
        entries.retain(|entry| self.wants(entry));
        let entries = last(entries, self.number);
        if !self.follow {
            return output::show(global, &entries, |entries, page| {
                report::journal::entries(entries, page)
            });
        }
        for entry in &entries {
            line(global, entry)?;
        }
        for entry in client.follow_log(newest)? {
            let entry = entry?;
            if self.wants(&entry) {
                line(global, &entry)?;
            }
        }
        Err(Error::LogEnded)
    }
}

impl Log {
    fn wants(&self, entry: &LogEntry) -> bool {
        self.agent.is_none() || self.agent == entry.agent
    }
}

fn line(global: &Global, entry: &LogEntry) -> Result<(), Error> {
    if global.json {
        output::json_line(entry)
    } else {
        output::text(&report::journal::entry(entry, &output::page()))
    }
}
