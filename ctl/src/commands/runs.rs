//! `agentctl runs`: all runs.

use super::{Run, last};
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};

/// Show what was run, by whom, and what became of its changes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl runs -n 5")]
pub struct Runs {
    /// Only the last N
    #[arg(short = 'n', long = "number", value_name = "N")]
    number: Option<usize>,
}

impl Run for Runs {
    fn run(self, global: &Global) -> Result<(), Error> {
        let runs = last(Session::open(global)?.client.runs()?, self.number);
        output::show(global, &runs, |runs, page| report::agents::runs(runs, page))
    }
}
