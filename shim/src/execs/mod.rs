//! Named processes: hears of every exec in the sandbox, and holds those that are a work unit until
//! the daemon has granted it.
//!
//! ```text
//!   exec in the sandbox ──filter──► listener (a thread): which program? ──none of ours──► goes on
//!                                       │ one of ours: which arguments, where?
//!                                       ▼
//!                                   holder (a thread, many execs at a time): claims, holds,
//!                                   follows the process tree, gives back
//! ```
//!
//! All of it is outside the sandbox, in the process that the sandbox dies with. The listener never
//! waits for anything but the next exec; it reads memory and /proc, and no file. A program can
//! change its arguments after they are looked at, or run a copy under another name: what this gives
//! is order among programs that want it, like the locks on files that all have to ask for, and
//! not a limit of what they can do.

mod caller;
mod hold;
mod sys;
mod units;

use crate::error::SandboxError;
use agentfs_api::types::StartedRun;
use agentfs_api::{ApiError, PatientClient, Workspace};
use agentfs_core::process_rules::{Invocation, ProcessRules, concerns, named};
use agentfs_core::{AgentName, WorkUnit};
use hold::{Exec, Holder};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use sys::{Listener, Notification};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

/// How long the daemon may take to have back what a run's processes had.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is to be known before the sandbox is there.
#[derive(Debug)]
pub struct Execs {
    rules: Arc<ProcessRules>,
    root: PathBuf,
    agent: AgentName,
    client: PatientClient,
    /// Whom the processes belong to, if not to the caller.
    run_as: Option<(u32, u32)>,
}

/// The threads. Dropped, they end, and the units of the run's processes are given back.
#[derive(Debug)]
pub struct Watch {
    stop: Option<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Execs {
    /// For the rules of a run; none where it has none.
    pub fn of(started: &StartedRun, workspace: &Workspace) -> Result<Option<Self>, SandboxError> {
        if started.processes.is_empty() {
            return Ok(None);
        }
        if !sys::can_mark() {
            return Err(SandboxError::ProcessesUnmarked);
        }
        let client = PatientClient::of(workspace)
            .map_err(|error: ApiError| SandboxError::Start(io::Error::other(error.to_string())))?;
        Ok(Some(Self {
            rules: Arc::new(started.processes.clone()),
            root: started.root.clone(),
            agent: started.agent.clone(),
            client,
            run_as: started.run_as.filter(|_| nix::unistd::geteuid().is_root()),
        }))
    }

    /// Begins to answer what comes from `listener`. `inner` is the process whose child is the
    /// sandbox's first.
    pub fn watch(&self, listener: OwnedFd, inner: u32) -> io::Result<Watch> {
        let listener = Arc::new(Listener::new(listener));
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (held, holding) = unbounded_channel();
        let (agent, client) = (self.agent.clone(), self.client.clone());
        let answering = listener.clone();
        let run_as = self.run_as;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let holder = spawn("agentshim-hold", move || {
            if let Some(Err(error)) = run_as.map(sys::be_taken_for) {
                tracing::error!(%error, "named processes can't be followed");
            }
            let (returned, returns) = unbounded_channel();
            let holder = Rc::new(Holder {
                listener: answering,
                client,
                agent,
                inner: Pid::from_raw(inner.cast_signed()),
                units: RefCell::default(),
                changed: Notify::new(),
                returned,
            });
            LocalSet::new().block_on(&runtime, hold_all(holder, holding, returns));
            // What it still looks at may be on a file system that does not answer.
            runtime.shutdown_background();
        })?;
        let heard = Heard { rules: self.rules.clone(), root: self.root.clone(), held };
        let listens = spawn("agentshim-execs", move || {
            if let Err(error) = heard.listen(&listener, &stopped) {
                // No exec would ever go on again.
                anstream::eprintln!("agentshim: execs can't be heard of any more: {error}");
                std::process::exit(125);
            }
        })?;
        Ok(Watch { stop: Some(stop), threads: vec![listens, holder] })
    }
}

/// A thread without which no exec goes on: where it fails, so does the process, and with it the
/// sandbox.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    struct Vital;
    impl Drop for Vital {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _vital = Vital;
        work();
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic there has ended this process already.
            let _ = thread.join();
        }
    }
}

/// Holds what comes until nothing can come any more.
async fn hold_all(
    holder: Rc<Holder>,
    mut execs: UnboundedReceiver<Exec>,
    mut returns: UnboundedReceiver<hold::Returned>,
) {
    loop {
        tokio::select! {
            exec = execs.recv() => match exec {
                Some(exec) => drop(tokio::task::spawn_local(holder.clone().hold(exec))),
                None => break,
            },
            Some(returned) = returns.recv() => {
                drop(tokio::task::spawn_local(holder.clone().take_back(returned)));
            }
        }
    }
    if tokio::time::timeout(FAREWELL, holder.finish()).await.is_err() {
        tracing::warn!("the daemon did not hear of the end of named processes");
    }
}

/// What the listening thread works with.
struct Heard {
    rules: Arc<ProcessRules>,
    root: PathBuf,
    held: UnboundedSender<Exec>,
}

impl Heard {
    fn listen(&self, listener: &Listener, stopped: &OwnedFd) -> io::Result<()> {
        loop {
            let mut ready =
                [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [execs, stop] = ready.map(|fd| fd.revents());
            if !stop.is_empty() || execs.contains(PollFlags::HUP) {
                return Ok(());
            }
            if let Some(exec) = listener.receive()? {
                self.answer(listener, &exec);
            }
        }
    }

    fn answer(&self, listener: &Listener, exec: &Notification) {
        let Some(named) = self.named(exec) else { return listener.let_go(exec.id) };
        let id = exec.id;
        if self.held.send(named).is_err() {
            listener.let_go(id);
        }
    }

    /// The exec, if it is a named process.
    fn named(&self, exec: &Notification) -> Option<Exec> {
        let root = self.root.as_os_str().as_bytes();
        let program = caller::program(exec)?;
        if !concerns(&self.rules, root, &program) {
            return None;
        }
        // A program may be executed without any, not even its name.
        let arguments = caller::arguments(exec).unwrap_or_default();
        let cwd = caller::working_directory(exec.thread).unwrap_or_default();
        let command = Invocation { program: &program, arguments: &arguments, cwd: &cwd };
        let units: Vec<_> = named(&self.rules, root, command)
            .into_iter()
            .map(|(name, rule)| {
                let wait = rule.wait.map_or(Duration::ZERO, |wait| wait.0);
                (WorkUnit::Process(name.clone()), rule.mode, wait)
            })
            .collect();
        if units.is_empty() {
            return None;
        }
        let command = on_one_line(&program, &arguments);
        Some(Exec { id: exec.id, thread: exec.thread, program, command, units })
    }
}

/// A command for people, whose beginning says enough.
fn on_one_line(program: &[u8], arguments: &[Vec<u8>]) -> String {
    const ENOUGH: usize = 60;
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or(program);
    let words = std::iter::once(name).chain(arguments.iter().map(Vec::as_slice));
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    let line: String =
        words.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= ENOUGH {
        return line;
    }
    line.chars().take(ENOUGH - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_on_one_line() {
        let line = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|a| a.as_bytes().to_vec()).collect();
            on_one_line(b"/usr/bin/cargo", &arguments)
        };
        assert_eq!(line(&["test", "a\nb"]), "cargo test a b");
        let long = line(&["x".repeat(100).as_str()]);
        assert!(long.ends_with("...") && long.len() == 60);
    }
}
