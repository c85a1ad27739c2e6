//! Keeps a run in touch with its daemon: tells it that the run lives, and notices at once when
//! the daemon dies. A daemon that was killed is replaced, and the sandbox gets the view of the
//! new one; a daemon that was ended on purpose is not, until somebody starts another.

use crate::apply::reattach::{self, Attach};
use crate::env::SOCKET_INSIDE;
use crate::error::SandboxError;
use crate::terminal;
use agentfs_api::types::StartedRun;
use agentfs_api::{ApiError, Client, Workspace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a new daemon is looked for where this program may not, or can't, start one.
const LOOK_FOR_DAEMON: Duration = Duration::from_secs(1);

/// Why the sandbox is without its view, although a daemon serves.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the daemon serves no view of {0}; see its log")]
    NoView(String),
}

/// The thread that does it. Dropped, it ends.
pub struct Keeper {
    sandbox: Arc<Mutex<Option<OwnedFd>>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins.
    pub fn start(client: Client, workspace: Workspace, started: StartedRun) -> io::Result<Self> {
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let sandbox = Arc::default();
        let keeping =
            Keeping { client, workspace, started, sandbox: Arc::clone(&sandbox), stopped };
        let thread = std::thread::Builder::new()
            .name("agentshim-keeper".to_owned())
            .spawn(move || keeping.run())?;
        Ok(Self { sandbox, stop: Some(stop), thread: Some(thread) })
    }

    /// The sandbox is there: this process, a pidfd, is in it.
    pub fn knows(&self, process: OwnedFd) {
        *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; if it did, the run's end is still to be reported.
            let _ = thread.join();
        }
    }
}

/// Whether the daemon of `workspace`, which does not answer, was killed: one that ends by itself
/// removes its socket.
pub fn was_killed(workspace: &Workspace) -> bool {
    workspace.operator_socket().exists()
}

/// What the thread works with.
struct Keeping {
    client: Client,
    workspace: Workspace,
    started: StartedRun,
    sandbox: Arc<Mutex<Option<OwnedFd>>>,
    /// Its other end is closed when the run has ended.
    stopped: OwnedFd,
}

/// What a wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Stopped,
    DaemonDied,
    TimeIsUp,
}

impl Keeping {
    fn run(self) {
        let every = self.started.heartbeat.0.max(Duration::from_millis(100));
        let mut daemon = self.daemon();
        loop {
            let gone = match self.wait(daemon.as_ref(), every) {
                Woken::Stopped => return,
                Woken::DaemonDied => true,
                Woken::TimeIsUp => {
                    let told = self.client.heartbeat(self.started.run);
                    if let Err(error) = &told {
                        tracing::warn!(%error, "the daemon did not take a heartbeat");
                    }
                    matches!(told, Err(ApiError::NoDaemon(_)))
                }
            };
            if gone {
                if !self.replace() {
                    return;
                }
                daemon = self.daemon();
            }
        }
    }

    /// The daemon's process; none if it can't be watched, and is missed at the next heartbeat.
    fn daemon(&self) -> Option<OwnedFd> {
        let pid = self.client.status().ok()?.pid;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Its number may have gone to another meanwhile, unless it still answers.
        self.client.status().is_ok().then_some(process)
    }

    fn wait(&self, daemon: Option<&OwnedFd>, at_most: Duration) -> Woken {
        let mut fds = vec![PollFd::new(&self.stopped, PollFlags::IN)];
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        fds.extend(daemon.map(|daemon| PollFd::new(daemon, PollFlags::IN)));
        let time = Timespec::try_from(at_most).ok();
        // An error is a wait that was interrupted: one heartbeat too many.
        let _ = poll(&mut fds, time.as_ref());
        let happened = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        match (happened(0), happened(1)) {
            (true, _) => Woken::Stopped,
            (false, true) => Woken::DaemonDied,
            (false, false) => Woken::TimeIsUp,
        }
    }

    /// Sees to it that a daemon serves again and the sandbox has its view; false if the run ends
    /// before that.
    fn replace(&self) -> bool {
        let (agent, root) = (&self.started.agent, self.workspace.root.display());
        let on_purpose = !was_killed(&self.workspace);
        let mut told = false;
        if on_purpose {
            say(&format!(
                "the daemon of {root} was ended; {agent}'s work is kept, and `agentfs mount {root}` brings its view back"
            ));
            told = true;
        }
        loop {
            let found = if on_purpose {
                Client::connect(&self.workspace)
            } else {
                Client::connect_or_start(&self.workspace)
            };
            match found {
                Ok(_) => break,
                Err(error) if !told => {
                    say(&format!(
                        "the daemon of {root} has died, and there is no other yet: {error}; {agent}'s work is kept, see `agentctl recover`"
                    ));
                    told = true;
                }
                Err(_) => {}
            }
            if self.wait(None, LOOK_FOR_DAEMON) == Woken::Stopped {
                return false;
            }
        }
        let now = if on_purpose {
            format!("another daemon serves {root} now")
        } else {
            format!("the daemon of {root} died and another has taken over")
        };
        match self.attach() {
            Ok(()) => say(&format!(
                "{now}; {agent}'s work and leases are kept and its view is back (a shell that stands in it needs `cd \"$PWD\"`)"
            )),
            Err(error) => say(&format!(
                "{now}, but the sandbox can't get its view back: {error}; {agent}'s work is kept: end this run and start it again"
            )),
        }
        true
    }

    /// Gives the sandbox what the daemon serves now.
    fn attach(&self) -> Result<(), Lost> {
        let agent = &self.started.agent;
        let agents = self.client.agents()?;
        let view = agents.into_iter().find(|known| known.name == *agent).and_then(|it| it.view);
        let view = view.ok_or_else(|| Lost::NoView(agent.to_string()))?;
        let sandbox = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        // None has been built yet: it will find the new view by itself.
        let Some(process) = sandbox.as_ref() else { return Ok(()) };
        let attach = vec![
            Attach { from: view, at: self.started.root.clone() },
            Attach { from: self.started.socket.clone(), at: PathBuf::from(SOCKET_INSIDE) },
        ];
        let user_namespace = !rustix::process::geteuid().is_root();
        Ok(reattach::reattach(process.as_fd(), user_namespace, attach)?)
    }
}

/// A line for the user, whose terminal may be raw because the command has it.
fn say(line: &str) {
    let (before, end) = if terminal::is_interactive() { ("\r", "\r") } else { ("", "") };
    anstream::eprintln!("{before}agentshim: {line}{end}");
}
