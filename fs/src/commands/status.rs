//! `agentfs status`: the daemon of a workspace.

use super::Which;
use super::error::CommandError;
use agentfs_api::Client;
use agentfs_api::types::Status;
use agentfs_core::Timestamp;
use agentfs_core::explain::span;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let status = Client::connect(&args.which.workspace()?)?.status()?;
    if args.json {
        let text = serde_json::to_string_pretty(&status)
            .map_err(|error| CommandError::Output(error.into()))?;
        anstream::println!("{text}");
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        anstream::print!("{}", describe(&status, Timestamp::default().plus(now)));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status, now: Timestamp) -> String {
    let count =
        |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let rows = [
        ("workspace", status.root.display().to_string()),
        ("views", format!("{}/AGENT ({})", status.mountpoint.display(), status.mount_method)),
        ("state", status.state_dir.display().to_string()),
        (
            "daemon",
            format!(
                "process {}, version {}, for {}",
                status.pid,
                status.version,
                span(now.since(status.since))
            ),
        ),
        (
            "base",
            format!(
                "{} ({} applied)",
                status.base_version,
                count(status.base_version.0 as usize, "change set", "change sets")
            ),
        ),
        (
            "agents",
            format!(
                "{}, {} with changes to review{}",
                count(status.live_runs, "run", "runs"),
                status.pending,
                match status.conflicts {
                    0 => String::new(),
                    n => format!(", {}", count(n, "conflict to come", "conflicts to come")),
                }
            ),
        ),
        (
            "locks",
            format!("{}, {} waiting", count(status.leases, "lease", "leases"), status.waiting),
        ),
        (
            "policy",
            format!(
                "wait {}, ttl {}, publish {}",
                status.config.wait,
                status.config.ttl,
                serde_json::to_value(status.config.publish)
                    .ok()
                    .and_then(|value| value.as_str().map(str::to_owned))
                    .unwrap_or_default()
            ),
        ),
    ];
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
