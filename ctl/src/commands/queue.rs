//! `agentctl queue`: the claims that wait, and their order.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types::MoveClaim;
use agentfs_core::ClaimId;
use clap::ArgGroup;

/// Show what waits, behind whom, and when it gives up; or change the order
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The first in line comes first. PLACE is the number among those that want \
    something of the same; TAKES is a guess by what has been. Without --why only the first thing \
    in the way is shown. With --move the queue is shown as it is afterwards.\n\n\
    Example:\n  agentctl queue --why\n  agentctl queue --move c7 --first\n  \
    agentctl queue --move c7 --before c3",
    group = ArgGroup::new("place").args(["first", "last", "before"])
)]
pub struct Queue {
    /// Say of each all that it waits for, and the way out
    #[arg(long)]
    why: bool,
    /// Give this claim another place
    #[arg(long = "move", value_name = "CLAIM", requires = "place")]
    moved: Option<ClaimId>,
    /// Ahead of all
    #[arg(long, requires = "moved")]
    first: bool,
    /// Behind all
    #[arg(long, requires = "moved")]
    last: bool,
    /// Right ahead of this one
    #[arg(long, value_name = "CLAIM", requires = "moved")]
    before: Option<ClaimId>,
}

impl Run for Queue {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        if let Some(claim) = self.moved {
            let beside = if self.last { MoveClaim::Last } else { MoveClaim::First };
            client.move_claim(claim, self.before.map_or(beside, MoveClaim::Before))?;
        }
        let queue = client.queue()?;
        output::show(global, &queue, |queue, page| {
            if self.why {
                report::queue::why(queue, page)
            } else {
                report::queue::queue(queue, page)
            }
        })
    }
}
