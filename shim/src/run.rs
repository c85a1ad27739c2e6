//! `agentshim run`: asks the daemon for a run, runs the command in its sandbox, reports the end.

use crate::cli::{Confine, Run};
use crate::env::SOCKET_INSIDE;
use crate::error::SandboxError;
use crate::execs::Execs;
use crate::keeper::{self, Keeper};
use crate::plan::{Plan, Stdio};
use crate::sandbox::{Ended, Sandbox};
use crate::signals::{Interrupted, Signals};
use crate::spec::{Spec, SpecError};
use crate::{queue, summary, terminal};
use agentfs_api::types::{After, EndRun, RunSummary, StartRun, StartedRun, Unmounted};
use agentfs_api::{ApiError, Client, LocateError, Workspace};
use agentfs_core::machine::Exit;
use agentfs_core::plan::Plan as Declared;
use agentfs_core::unit::InvalidUnit;
use agentfs_core::{RelPath, RunId, Want};
use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit status of failures that are not the command's.
const OWN_FAILURE: u8 = 125;
/// The exit status where the command's file can't be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The exit status where there is no such command.
const NOT_FOUND: u8 = 127;

/// Why a run did not come to its command's end. Each is one sentence for people.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is in a sandbox already.
    #[error(
        "this is inside the sandbox of an agent already, where no other can be built; run it outside, or start the command itself"
    )]
    Nested,
    /// The output could not be written.
    #[error("the output can't be written: {0}")]
    Output(std::io::Error),
    /// There is no current directory.
    #[error("the current directory can't be used: {0}; change to one that exists")]
    CurrentDirectory(std::io::Error),
    /// The signals could not be taken.
    #[error("signals can't be passed on: {0}")]
    Signals(Errno),
    /// No workspace here.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The daemon refused or is not there.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A claim that is none.
    #[error(transparent)]
    Unit(#[from] InvalidUnit),
    /// A claim elsewhere.
    #[error("{claim:?} is outside the workspace {}; claim a path in it", root.display())]
    ClaimOutside {
        /// What was asked for.
        claim: String,
        /// The workspace.
        root: PathBuf,
    },
    /// A plan that is none.
    #[error("{} is no plan: {why}; `agentctl plan schema` says what one looks like", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A description that is none.
    #[error("{} does not describe a sandbox: {why}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing to plan a sandbox from.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The command could not be executed.
    #[error("{command}: {}", why_not_executed(*cause))]
    NotExecuted {
        /// Its name.
        command: String,
        /// Why.
        cause: Errno,
    },
    /// A signal came before the command was there.
    #[error("interrupted before the command started")]
    Interrupted(i32),
}

impl RunError {
    /// The exit status for it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NotExecuted { cause: Errno::ENOENT | Errno::ENOTDIR, .. } => NOT_FOUND,
            Self::NotExecuted { .. } => NOT_EXECUTABLE,
            Self::Interrupted(signal) => status_of(Exit::Signal(*signal)),
            _ => OWN_FAILURE,
        })
    }
}

fn why_not_executed(cause: Errno) -> &'static str {
    match cause {
        Errno::ENOENT | Errno::ENOTDIR => {
            "not found inside the sandbox; give a command that PATH finds, or its path"
        }
        Errno::EACCES | Errno::EPERM => "can't be executed; see its permissions with `ls -l`",
        Errno::ENOEXEC => {
            "is no program for this machine; a script needs a first line such as #!/bin/sh"
        }
        Errno::EBUSY => {
            "is a named process that another has at the moment; `agentctl explain` says who"
        }
        Errno::E2BIG => "has too long a command line or environment; shorten it",
        other => other.desc(),
    }
}

/// `agentshim run`.
pub fn run(args: Run) -> Result<ExitCode, RunError> {
    refuse_nesting()?;
    let signals = Signals::take().map_err(RunError::Signals)?;
    let cwd = std::env::current_dir().map_err(RunError::CurrentDirectory)?;
    let workspace = Workspace::containing(&cwd)?;
    let request = StartRun {
        agent: args.agent,
        argv: args.argv.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        claims: claims(&args.claims, &workspace, &cwd)?,
        plan: args.plan.as_deref().map(read_plan).transpose()?,
        priority: args.priority,
        after: after(&args.after, &args.after_success),
        parent: args.parent,
        start_within: args.start_within,
        unclaimed: args.unclaimed,
        wait: args.wait,
        pid: std::process::id(),
    };
    let place = workspace.clone();
    let tells = !args.quiet;
    // The daemon may take as long as the queue is; Ctrl-C must end that.
    let (client, started) = signals
        .unless_interrupted(move || queue::start(&place, &request, tells))
        .map_err(|Interrupted(signal)| RunError::Interrupted(signal))??;
    if !args.quiet {
        anstream::eprintln!("{}", summary::start(&started));
    }
    let tell = |directories| {
        if let Err(error) = client.unmounted(started.run, &Unmounted { directories }) {
            tracing::warn!(%error, "the daemon did not hear that scratch is not mounted");
        }
    };
    let keeper = Keeper::start(client.clone(), workspace.clone(), started.clone());
    let ended = keeper.map_err(|cause| SandboxError::Start(cause).into()).and_then(|keeper| {
        let private = private(&workspace);
        let execs = Execs::of(&started, &workspace)?;
        let outside = Outside { private: &private, keeper: Some(&keeper), execs: execs.as_ref() };
        confined(&started, args.argv.clone(), outside, &signals, tell)
    });
    let mut report = end(&client, started.run, ended.as_ref(), args.quiet, args.json);
    // Also where the daemon was killed while it was asked.
    let unheard = matches!(report, Err(ApiError::NoDaemon(_) | ApiError::Transport(_)));
    if unheard && keeper::was_killed(&workspace) {
        report = Client::connect_or_start(&workspace)
            .and_then(|client| end(&client, started.run, ended.as_ref(), args.quiet, args.json));
    }
    let code = exit_code(&args.argv, ended);
    if let Err(error) = report {
        anstream::eprintln!(
            "agentshim: the run's end was not recorded: {error}; its changes are kept, see `agentctl recover`"
        );
    }
    code
}

/// `agentshim confine`: the same sandbox without a daemon.
pub fn confine(args: &Confine) -> Result<ExitCode, RunError> {
    refuse_nesting()?;
    let signals = Signals::take().map_err(RunError::Signals)?;
    let wrong = |why: String| RunError::Description { path: args.started.clone(), why };
    let json = std::fs::read(&args.started).map_err(|error| wrong(error.to_string()))?;
    let started: StartedRun =
        serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
    let workspace = Workspace::at(&started.root)?;
    let tell = |unmounted: Vec<(RelPath, String)>| {
        for (path, why) in unmounted {
            anstream::eprintln!("agentshim: {path} is not mounted past the view: {why}");
        }
    };
    let private = private(&workspace);
    let outside = Outside { private: &private, keeper: None, execs: None };
    let ended = confined(&started, args.argv.clone(), outside, &signals, tell);
    exit_code(&args.argv, ended)
}

/// Only in a sandbox is there a socket at this place, which no daemon uses outside.
fn refuse_nesting() -> Result<(), RunError> {
    if Path::new(SOCKET_INSIDE).exists() { Err(RunError::Nested) } else { Ok(()) }
}

/// What of a workspace no sandbox may show.
fn private(workspace: &Workspace) -> Vec<PathBuf> {
    let above = |path: &Path| path.parent().map(Path::to_owned);
    [above(&workspace.state_dir), above(&workspace.runtime_dir)].into_iter().flatten().collect()
}

/// What goes on around a sandbox.
#[derive(Clone, Copy)]
struct Outside<'a> {
    /// What it may not show.
    private: &'a [PathBuf],
    /// Who gives it the next daemon's view.
    keeper: Option<&'a Keeper>,
    /// Who decides about its named processes.
    execs: Option<&'a Execs>,
}

fn confined(
    started: &StartedRun,
    argv: Vec<OsString>,
    Outside { private, keeper, execs }: Outside<'_>,
    signals: &Signals,
    unmounted: impl FnMut(Vec<(RelPath, String)>),
) -> Result<Ended, RunError> {
    let spec = Spec::gather(started, argv, private)?;
    let stdio = if terminal::is_interactive() {
        Stdio::Terminal { errors: std::io::stderr().is_terminal() }
    } else {
        Stdio::Inherited
    };
    let plan = Plan::of(&spec, stdio).with_execs_heard(execs.is_some());
    let sandbox = Sandbox::launch(&plan)?;
    if let Some(keeper) = keeper {
        keeper.knows(sandbox.process().map_err(SandboxError::Start)?);
    }
    Ok(sandbox.supervise(signals, execs, unmounted)?)
}

/// Tells the daemon how it ended, and the user what that means.
fn end(
    client: &Client,
    run: RunId,
    ended: Result<&Ended, &RunError>,
    quiet: bool,
    json: bool,
) -> Result<(), ApiError> {
    let exit = match ended {
        Ok(Ended::Ran(exit)) => *exit,
        Ok(Ended::NotExecuted(Errno::ENOENT | Errno::ENOTDIR)) => Exit::Code(NOT_FOUND.into()),
        Ok(Ended::NotExecuted(_)) => Exit::Code(NOT_EXECUTABLE.into()),
        Err(_) => Exit::NotStarted,
    };
    let report = client.end_run(run, &EndRun { exit })?;
    if json {
        print_json(&report);
    } else if !quiet {
        anstream::eprint!("{}", summary::end(&report));
    }
    Ok(())
}

fn print_json(report: &RunSummary) {
    match serde_json::to_string(report) {
        Ok(text) => anstream::eprintln!("{text}"),
        Err(error) => anstream::eprintln!("agentshim: the summary can't be written: {error}"),
    }
}

fn exit_code(argv: &[OsString], ended: Result<Ended, RunError>) -> Result<ExitCode, RunError> {
    match ended? {
        Ended::Ran(exit) => Ok(ExitCode::from(status_of(exit))),
        Ended::NotExecuted(cause) => {
            let command = argv.first().map(|name| name.to_string_lossy().into_owned());
            Err(RunError::NotExecuted { command: command.unwrap_or_default(), cause })
        }
    }
}

/// An exit as a shell would show it.
fn status_of(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => (code & 0xff) as u8,
        Exit::Signal(number) => (128 + number).clamp(0, 255) as u8,
        Exit::Lost | Exit::NotStarted => OWN_FAILURE,
    }
}

/// Work units as the user names them: paths from where the user stands.
fn claims(texts: &[String], workspace: &Workspace, cwd: &Path) -> Result<Vec<Want>, RunError> {
    texts.iter().map(|text| claim(text, workspace, cwd)).collect()
}

fn claim(text: &str, workspace: &Workspace, cwd: &Path) -> Result<Want, RunError> {
    let locate = |typed: &[u8]| {
        let outside =
            || RunError::ClaimOutside { claim: text.to_owned(), root: workspace.root.clone() };
        workspace.relative(cwd, Path::new(OsStr::from_bytes(typed))).ok_or_else(outside)
    };
    let is_dir = |path: &RelPath| {
        let on_disk = workspace.root.join(path.to_path_buf());
        on_disk.symlink_metadata().is_ok_and(|entry| entry.is_dir())
    };
    Want::typed(text.as_bytes(), locate, is_dir)
}

/// The plan in a file.
fn read_plan(path: &Path) -> Result<Declared, RunError> {
    let wrong = |why: String| RunError::Plan { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Declared::parse(&text).map_err(|error| wrong(error.to_string()))
}

/// The runs that have to end first.
fn after(ended: &[RunId], succeeded: &[RunId]) -> Vec<After> {
    let ended = ended.iter().map(|run| After { run: *run, succeeded: false });
    ended.chain(succeeded.iter().map(|run| After { run: *run, succeeded: true })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: "/w".into(), state_dir: "/s/w-1".into(), runtime_dir: "/r/w-1".into() }
    }

    #[test]
    fn claims_are_named_from_where_the_user_stands() {
        let claimed = |cwd: &str, text: &str| {
            claim(text, &workspace(), Path::new(cwd)).map(|want| want.to_string())
        };
        assert_eq!(claimed("/w", "src/a.rs").unwrap(), "src/a.rs");
        assert_eq!(claimed("/w/src", "a.rs").unwrap(), "src/a.rs");
        assert_eq!(claimed("/w/src", "../docs/").unwrap(), "docs/");
        assert_eq!(claimed("/w/src", "/w/x").unwrap(), "x");
        assert_eq!(claimed("/w", ".").unwrap(), "./");
        assert_eq!(claimed("/w/src", "proc:build").unwrap(), "proc:build");
        assert_eq!(claimed("/w/src", "shared a.rs").unwrap(), "shared src/a.rs");
        let error = claimed("/w/src", "../../x").unwrap_err().to_string();
        assert_eq!(error, "\"../../x\" is outside the workspace /w; claim a path in it");
    }

    #[test]
    fn an_exit_is_shown_as_a_shell_shows_it() {
        assert_eq!(status_of(Exit::Code(7)), 7);
        assert_eq!(status_of(Exit::Signal(15)), 143);
        assert_eq!(status_of(Exit::Lost), 125);
    }
}
