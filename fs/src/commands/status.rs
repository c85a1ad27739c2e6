//! `agentfs status`: the daemon of a workspace.

use super::Which;
use super::error::CommandError;
use agentfs_api::Client;
use agentfs_api::types::{Status, ViewStatus};
use agentfs_core::Timestamp;
use agentfs_core::explain::span;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Say also how each view is served, and what that has cost.
    #[arg(long, short)]
    verbose: bool,
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
        if args.verbose {
            status.views.iter().for_each(|view| anstream::print!("\n{}", in_detail(view, &status)));
        }
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
    table(&rows)
}

fn table(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

/// How one view is served: what the kernel does by itself, and what it had to ask.
fn in_detail(view: &ViewStatus, status: &Status) -> String {
    let data = if view.passthrough {
        "written and large files by the kernel itself, others from its cache"
    } else {
        "through the daemon, and from the kernel's cache"
    };
    let requests = view.requests.iter().map(|(kind, count)| format!("{kind} {count}"));
    let requests: Vec<String> = requests.collect();
    table(&[
        ("view", format!("{} at {}", view.agent, view.mountpoint.display())),
        ("file data", data.to_owned()),
        (
            "caching",
            format!("until something changes; {} directories of base watched", status.watched),
        ),
        ("inodes", format!("{} in {}", view.inodes, size(view.inode_bytes as u64))),
        ("copy-up", format!("{} files, {}", view.copied_files, size(view.copied_bytes))),
        ("requests", requests.join(", ")),
    ])
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
