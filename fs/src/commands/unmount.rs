//! `agentfs unmount`: ends the daemon of a workspace and its views.

use super::Which;
use super::error::CommandError;
use agentfs_api::{ApiError, Client};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the daemon may take to go away after it has said yes.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Also while agents run: their runs lose their views.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let workspace = args.which.workspace()?;
    let client = Client::connect(&workspace)?;
    client.shut_down(args.force)?;
    let asked = Instant::now();
    while workspace.operator_socket().exists() && asked.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    match client.status() {
        Err(ApiError::NoDaemon(_)) => {
            anstream::println!("unmounted {}", workspace.root.display());
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(CommandError::DaemonFailed(format!(
            "the daemon of {} has not ended yet; see {}",
            workspace.root.display(),
            workspace.daemon_log().display()
        ))),
    }
}
