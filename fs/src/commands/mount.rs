//! `agentfs mount`: starts the daemon, in the background unless told otherwise.

use super::daemon;
use super::error::CommandError;
use crate::layout;
use agentfs_api::Workspace;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The repository (or any directory) to serve.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the views go, as MOUNTPOINT/AGENT; by default where a daemon that died had them, else
    /// below the runtime directory.
    mountpoint: Option<PathBuf>,
    /// Stay in the foreground and log to the terminal.
    #[arg(long)]
    foreground: bool,
    /// Used by `mount` itself: the process in the background, which says on its standard output
    /// when it serves.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let workspace = Workspace::at(&args.dir)?;
    let mountpoint = mountpoint(&workspace, args.mountpoint.as_deref())?;
    if args.foreground || args.background {
        return daemon::serve(workspace, mountpoint, args.background);
    }
    start(&workspace, &mountpoint)?;
    anstream::println!("serving {}", workspace.root.display());
    anstream::println!("views   {}/AGENT", mountpoint.display());
    anstream::println!("next    agentshim run -- CMD");
    Ok(ExitCode::SUCCESS)
}

/// Where views go: absolute. The daemon makes it if it is not there. Unless the user says so, it is
/// where a daemon that was killed had them.
fn mountpoint(workspace: &Workspace, given: Option<&Path>) -> Result<PathBuf, CommandError> {
    let Some(given) = given else {
        let noted = layout::noted_mountpoint(workspace);
        return Ok(noted.unwrap_or_else(|| workspace.default_mountpoint()));
    };
    let refused = |why: String| CommandError::Mountpoint { path: given.to_owned(), why };
    let path = resolve(given).map_err(|error| refused(error.to_string()))?;
    if path.starts_with(&workspace.root) || workspace.root.starts_with(&path) {
        return Err(refused("it must lie outside the workspace".to_owned()));
    }
    match path.metadata() {
        Ok(found) if !found.is_dir() => Err(refused("it is not a directory".to_owned())),
        Ok(_) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(refused(format!(
            "the daemon of what is mounted there has died; `fusermount3 -u -z {0}` (as root: `umount -l {0}`) frees it",
            given.display()
        ))),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// The path without symbolic links, also when its last component does not exist yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(_), Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        (found, _, _) => found,
    }
}

/// Starts the daemon in the background and waits until it serves or says why not.
fn start(workspace: &Workspace, mountpoint: &Path) -> Result<(), CommandError> {
    layout::make_private(&workspace.state_dir)
        .map_err(CommandError::io("make the directory", &workspace.state_dir))?;
    let log = workspace.daemon_log();
    let log_file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(CommandError::io("open", &log))?;
    let program = std::env::current_exe().map_err(CommandError::io("find", "agentfs"))?;
    let mut command = Command::new(&program);
    command.args(["mount", "--background"]).arg(&workspace.root);
    if mountpoint != workspace.default_mountpoint() {
        command.arg(mountpoint);
    }
    // What this process was given and never asked for is not for a daemon to hold: whoever reads
    // the other end of such a pipe would wait for its end as long as the daemon lives.
    close_fds::set_fds_cloexec(3, &[]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .current_dir("/")
        .spawn()
        .map_err(CommandError::io("start", &program))?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An error while reading is the same as having heard nothing.
        let _ = BufReader::new(stdout).read_line(&mut said);
    }
    match said.trim_end() {
        daemon::READY => Ok(()),
        "" => Err(CommandError::DaemonFailed(format!(
            "the daemon ended before it served; see {}",
            log.display()
        ))),
        why => Err(CommandError::DaemonFailed(why.to_owned())),
    }
}
