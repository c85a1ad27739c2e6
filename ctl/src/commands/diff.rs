//! `agentctl diff`: what an agent has changed.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types;
use agentfs_core::AgentName;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, IsTerminal, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The pager where the user names none: quit if it fits, keep colours, leave the screen alone.
const DEFAULT_PAGER: &str = "less -FRX";

/// Show what an agent has changed, as a patch that `git apply` accepts
#[derive(Debug, clap::Args)]
#[command(after_help = "Paths whose base has moved since are listed on standard error. On a \
    terminal the patch goes through $AGENTFS_PAGER, else $PAGER, else less.\n\n\
    Example:\n  agentctl diff alice\n  agentctl diff alice --stat\n  \
    agentctl diff alice > alice.patch")]
pub struct Diff {
    /// Whose changes
    agent: AgentName,
    /// Show only how much changed in each file
    #[arg(long, conflicts_with = "name_only")]
    stat: bool,
    /// Show only the paths
    #[arg(long)]
    name_only: bool,
    /// Print the patch right to the terminal
    #[arg(long)]
    no_pager: bool,
}

impl Run for Diff {
    fn run(self, global: &Global) -> Result<(), Error> {
        let client = Session::open(global)?.client;
        let diff = client.diff(&self.agent)?;
        if global.json {
            return output::json(&diff);
        }
        warn_of_conflicts(&diff);
        if diff.changes.is_empty() {
            output::note(&format!("{} has no changes", self.agent));
            return Ok(());
        }
        if self.stat {
            return output::text(&report::stat::stat(&diff.changes, &output::page()));
        }
        if self.name_only {
            let paths = diff.changes.changes.iter().map(|change| change.path.to_string());
            return output::text(&paths.collect::<Vec<_>>().join("\n"));
        }
        self.show(&client.patch(&self.agent)?)
    }
}

impl Diff {
    fn show(&self, patch: &[u8]) -> Result<(), Error> {
        if !io::stdout().is_terminal() {
            return output::bytes(patch);
        }
        let coloured =
            if output::is_coloured() { report::patch::coloured(patch) } else { patch.to_vec() };
        match pager().filter(|_| !self.no_pager) {
            Some(pager) => page(&pager, &coloured),
            None => output::bytes(&coloured),
        }
    }
}

fn warn_of_conflicts(diff: &types::Diff) {
    if !diff.conflicts.is_empty() {
        output::note(&format!(
            "base is no longer what {} built on; an apply would be refused:\n{}",
            diff.agent,
            report::changes::conflicts(&diff.conflicts, &output::page())
        ));
    }
}

/// The user's pager; none if it is `cat` or set to nothing, as for git, or if there is no less.
fn pager() -> Option<String> {
    let named = ["AGENTFS_PAGER", "PAGER"].into_iter().find_map(|name| std::env::var(name).ok());
    match named {
        Some(pager) => (!pager.is_empty() && pager != "cat").then_some(pager),
        None => has_less().then(|| DEFAULT_PAGER.to_owned()),
    }
}

fn has_less() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("less").is_file())
}

/// Becomes the pager, with the patch as its input. All of the patch is there already, so nothing
/// is left to do beside it, and the terminal's signals are the pager's own matter.
fn page(pager: &str, patch: &[u8]) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Pager { pager: pager.to_owned(), source };
    let memory = rustix::fs::memfd_create("patch", MemfdFlags::CLOEXEC);
    let mut input = File::from(memory.map_err(|errno| failed(errno.into()))?);
    input.write_all(patch).and_then(|()| input.rewind()).map_err(failed)?;
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(pager).stdin(input);
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    Err(failed(command.exec()))
}
