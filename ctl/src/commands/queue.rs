//! `agentctl queue`: the claims that wait.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};

/// Show what waits, behind whom, and when it gives up
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl queue")]
pub struct Queue {}

impl Run for Queue {
    fn run(self, global: &Global) -> Result<(), Error> {
        let queue = Session::open(global)?.client.queue()?;
        output::show(global, &queue, |queue, page| report::locks::queue(queue, page))
    }
}
