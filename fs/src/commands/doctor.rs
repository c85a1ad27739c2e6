//! `agentfs doctor`: what this machine can do for agents, and how to get the rest.
//!
//! Each check tries the real thing where that is possible: a mount is mounted, and the sandbox's
//! parts are asked of the program that builds it (`agentshim probe`).

use super::error::CommandError;
use crate::fuse;
use agentfs_api::types::{Check, Verdict};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The oldest kernel with all that is used: passthrough of file data came with 6.9, `openat2`
/// and unprivileged whiteouts are older.
const KERNEL_FOR_ALL: (u32, u32) = (6, 9);

/// The oldest kernel on which agents run: whiteouts made by users came with 5.8, Landlock with
/// 5.13.
const KERNEL_FOR_ANY: (u32, u32) = (5, 13);

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let mut checks = vec![kernel(), device()];
    checks.extend(helper());
    checks.extend(mount());
    checks.extend(sandbox());
    let worst = checks.iter().map(|check| check.verdict).max();
    if args.json {
        let text = serde_json::to_string_pretty(&checks)
            .map_err(|error| CommandError::Output(error.into()))?;
        anstream::println!("{text}");
    } else {
        anstream::print!("{}", describe(&checks));
    }
    Ok(if worst == Some(Verdict::Missing) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(name: &str, verdict: Verdict, finding: impl Into<String>, remedy: Option<&str>) -> Check {
    let remedy = remedy.map(str::to_owned);
    Check { name: name.to_owned(), verdict, finding: finding.into(), remedy }
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (verdict, means, remedy) = if version >= KERNEL_FOR_ALL {
        (Verdict::Ok, "new enough for everything", None)
    } else if version >= KERNEL_FOR_ANY {
        (
            Verdict::Limited,
            "works; file data can't be passed through before 6.9",
            Some("a newer kernel makes views faster"),
        )
    } else {
        (
            Verdict::Missing,
            "too old: whiteouts and Landlock need 5.13",
            Some("use a kernel from 5.13, better 6.9"),
        )
    };
    check("kernel", verdict, format!("{release}: {means}"), remedy)
}

fn device() -> Check {
    let device = Path::new("/dev/fuse");
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(device);
    match opened.map_err(|error| error.kind()) {
        Ok(_) => check("/dev/fuse", Verdict::Ok, "can be opened", None),
        Err(std::io::ErrorKind::NotFound) => check(
            "/dev/fuse",
            Verdict::Missing,
            "is not there: no view can be mounted",
            Some("`modprobe fuse`; in a container, start it with --device /dev/fuse"),
        ),
        Err(kind) => check(
            "/dev/fuse",
            Verdict::Missing,
            format!("can't be opened ({kind}): this user can't mount views"),
            Some("`sudo chmod 666 /dev/fuse`, as distributions do by default"),
        ),
    }
}

/// What users without root need to mount; root does without.
fn helper() -> Option<Check> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let version = Command::new("fusermount3").arg("--version").output();
    Some(match version {
        Ok(said) if said.status.success() => {
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            check("fusermount3", Verdict::Ok, said, None)
        }
        _ => check(
            "fusermount3",
            Verdict::Missing,
            "is not there: users other than root can't mount views",
            Some("`sudo apt-get install fuse3` (or your distribution's fuse3)"),
        ),
    })
}

/// Mounts an empty file system for a moment.
fn mount() -> Vec<Check> {
    match fuse::probe() {
        Ok(found) => vec![
            check("mount", Verdict::Ok, "a view was mounted and unmounted", None),
            if found.passthrough {
                check("passthrough", Verdict::Ok, "the kernel can serve file data itself", None)
            } else {
                check(
                    "passthrough",
                    Verdict::Limited,
                    "file data goes through the daemon: right, but slower for large files",
                    Some("needs a kernel from 6.9 and a daemon that runs as root"),
                )
            },
        ],
        Err(error) => vec![check(
            "mount",
            Verdict::Missing,
            error.to_string(),
            Some("see /dev/fuse and fusermount3 above; in a container, allow mounts"),
        )],
    }
}

/// The parts of the sandbox, as `agentshim` finds them.
fn sandbox() -> Vec<Check> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("agentshim")));
    let program =
        beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("agentshim"));
    let output = Command::new(&program).arg("probe").output();
    let checks = output.ok().and_then(|said| serde_json::from_slice(&said.stdout).ok());
    checks.unwrap_or_else(|| {
        vec![check(
            "agentshim",
            Verdict::Missing,
            "does not answer: no agent can be run",
            Some("install it beside agentfs (`cargo install --path shim`)"),
        )]
    })
}

fn describe(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let lines = |Check { name, verdict, finding, remedy }: &Check| {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Limited => "limited",
            Verdict::Missing => "MISSING",
        };
        let found = format!("{verdict:<7}  {name:<width$}  {finding}\n");
        let indent = " ".repeat(9 + width);
        let remedy = remedy.as_ref().map(|remedy| format!("{indent}  -> {remedy}\n"));
        found + &remedy.unwrap_or_default()
    };
    checks.iter().map(lines).collect()
}
