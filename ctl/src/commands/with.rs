//! `agentctl with`: runs a command that holds work units until it ends. For where named processes
//! can't be seen by themselves, and for what is no process of a run.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::units;
use agentfs_api::types::{ClaimUnits, Lock, ReleaseUnit, SOCKET_VARIABLE};
use agentfs_api::{ApiError, Client};
use agentfs_core::config::Span;
use agentfs_core::{Mode, Want, WorkUnit};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The units that an outer `agentctl with` holds, for those within.
const HELD_VARIABLE: &str = "AGENTFS_WITH";

/// How long to wait where neither the command line nor, for the caller, the daemon says it.
const WAIT: Duration = Duration::from_mins(1);

/// When to give a sign of life again that the daemon did not take.
const RENEW_AGAIN: Duration = Duration::from_millis(500);

/// Between two looks whether another caller has let go.
const LOOK_MILLIS: u8 = 50;

/// Run a command that holds work units from before it begins until it has ended
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "{}\n\nExits as the command does: 128+N if signal N ended it, 127 if it is not there, 126 if it \
     can't be executed. Where the units can't be had nothing is run, and the exit code is one of \
     those that `agentctl --help` lists. Within, the same units are not claimed again. If it is \
     killed by SIGKILL, the operator's leases end after `ttl`.\n\nExample:\n  \
     agentctl with proc:build --wait 5m -- make -j4", units::HELP
))]
pub struct With {
    /// What to hold
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::AnyPath)]
    units: Vec<OsString>,
    /// Tolerate others who share it
    #[arg(long)]
    shared: bool,
    /// How long to wait for it at most, such as 500ms, 30s or 10m; else a minute
    #[arg(long, value_name = "SPAN")]
    wait: Option<Span>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

impl Run for With {
    fn run(self, global: &Global) -> Result<(), Error> {
        let status = match self.status(global) {
            Err(Error::Interrupted(signal)) => 128 + i32::from(signal),
            other => other?,
        };
        std::process::exit(status);
    }
}

impl With {
    /// Runs the command; its exit as a shell shows it.
    fn status(self, global: &Global) -> Result<i32, Error> {
        // First of all: threads that are made later inherit it.
        let signals = Signals::take().map_err(Error::Signals)?;
        let session = Session::open(global)?;
        let outer = std::env::var(HELD_VARIABLE).unwrap_or_default();
        let units = self.units.iter().map(|typed| session.unit(typed));
        let units: Vec<WorkUnit> = units.collect::<Result<_, _>>()?;
        let is_held = |unit: &WorkUnit| outer.lines().any(|held| held == unit.to_string());
        let mut needed: Vec<_> = units.into_iter().filter(|unit| !is_held(unit)).collect();
        // In one order, so that no two callers wait for one another.
        needed.sort();
        needed.dedup();
        let deadline = Instant::now() + self.wait.map_or(WAIT, |wait| wait.0);
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        let _alone = alone(&needed, mode, &session, &signals, deadline)?;
        let held = Held::claim(&session, &needed, mode, &self.command, &signals, deadline)?;
        let _alive = SignsOfLife::give(&session, &needed);
        let within: Vec<String> = outer
            .lines()
            .map(str::to_owned)
            .chain(needed.iter().map(ToString::to_string))
            .collect();
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env(HELD_VARIABLE, within.join("\n"));
        let child = Signals::spawn(&mut command);
        let status = match child {
            Ok(child) => status_of(wait_for(child, &signals).map_err(Error::Signals)?),
            Err(error) => {
                let command = self.command[0].to_string_lossy();
                anstream::eprintln!("agentctl: {command} can't be executed: {error}");
                if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
            }
        };
        held.release()?;
        Ok(status)
    }
}

/// An exit as a shell shows it.
fn status_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Leases, and whether it is for this program to give them back.
struct Held<'s> {
    client: &'s Client,
    leases: Vec<Lock>,
}

impl<'s> Held<'s> {
    /// Claims all that is needed, unless a signal comes that is to end this program.
    fn claim(
        session: &'s Session,
        needed: &[WorkUnit],
        mode: Mode,
        command: &[OsString],
        signals: &Signals,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let client = &session.client;
        if needed.is_empty() {
            return Ok(Self { client, leases: Vec::new() });
        }
        let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let request = ClaimUnits {
            agent: None,
            wants: needed.iter().map(|unit| Want { unit: unit.clone(), mode }).collect(),
            wait: Some(Span(deadline.saturating_duration_since(Instant::now()))),
            cause: Some(words.join(" ")),
            on_behalf: false,
        };
        let asked = client.clone();
        let claimed = signals.unless_one_comes(move || -> Result<_, ApiError> {
            Ok((asked.locks()?, asked.claim(&request)?.leases))
        })?;
        let (before, mut leases) = claimed?;
        leases.retain(|lease| {
            !before.iter().any(|old| old.agent == lease.agent && old.unit == lease.unit)
        });
        Ok(Self { client, leases })
    }

    fn release(self) -> Result<(), Error> {
        for Lock { agent, unit, .. } in self.leases {
            match self.client.release(&ReleaseUnit { agent: Some(agent), unit }) {
                // The operator has taken it meanwhile.
                Ok(_) | Err(ApiError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Keeps what the operator holds from ending. A run's leases need none: it gives signs itself.
struct SignsOfLife {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SignsOfLife {
    fn give(session: &Session, units: &[WorkUnit]) -> Option<Self> {
        if units.is_empty() || is_inside() {
            return None;
        }
        let client = session.client.clone();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut again = Duration::ZERO;
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(again) {
                // A daemon that has died may be followed by another.
                again = client.renew().map_or(RENEW_AGAIN, |renewed| renewed.again.0);
            }
        });
        Some(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SignsOfLife {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; if it did, the leases would end by themselves.
            let _ = thread.join();
        }
    }
}

/// Whether this is in a run's sandbox.
fn is_inside() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

/// A lease belongs to the agent, so that the daemon would grant it to several of its processes at
/// the same time: those take turns by locks on files that only they see.
fn alone(
    units: &[WorkUnit],
    mode: Mode,
    session: &Session,
    signals: &Signals,
    deadline: Instant,
) -> Result<Vec<Flock<File>>, Error> {
    let place =
        if is_inside() { std::env::temp_dir() } else { session.workspace.runtime_dir.clone() };
    let lock = |unit: &WorkUnit| {
        let name = unit.to_string().replace('%', "%25").replace('/', "%2F");
        alone_with(unit, place.join(format!(".agentctl-with-{name}")), mode, signals, deadline)
    };
    units.iter().map(lock).collect()
}

fn alone_with(
    unit: &WorkUnit,
    path: PathBuf,
    mode: Mode,
    signals: &Signals,
    deadline: Instant,
) -> Result<Flock<File>, Error> {
    let how = match mode {
        Mode::Shared => FlockArg::LockSharedNonblock,
        Mode::Exclusive => FlockArg::LockExclusiveNonblock,
    };
    let file = File::options().create(true).append(true).open(&path);
    let mut file = file.map_err(|source| Error::Write { path: path.clone(), source })?;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(Error::Write { path, source: errno.into() }),
        }
        if Instant::now() >= deadline {
            return Err(Error::SameCaller(unit.clone()));
        }
        signals.sleep(LOOK_MILLIS)?;
    }
}

/// Waits for the command's end, and passes signals on to it.
fn wait_for(mut child: Child, signals: &Signals) -> nix::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        if let Some(status) = child.try_wait().map_err(|_| nix::errno::Errno::ECHILD)? {
            return Ok(status);
        }
        signals.wait(PollTimeout::NONE)?;
        while let Some(Received { signal, from_terminal }) = signals.next() {
            // What the terminal sends comes to the command by itself.
            if signal != Signal::SIGCHLD && !from_terminal {
                // It may have ended just now.
                let _ = kill(pid, signal);
            }
        }
    }
}

/// The signals of this process, which act on it no more.
struct Signals(SignalFd);

/// One that came.
struct Received {
    signal: Signal,
    from_terminal: bool,
}

impl Signals {
    const TAKEN: [Signal; 7] = [
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];

    fn take() -> nix::Result<Self> {
        let set: SigSet = Self::TAKEN.into_iter().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// Starts a command, to which they are as they were to this process.
    fn spawn(command: &mut Command) -> io::Result<Child> {
        let set: SigSet = Self::TAKEN.into_iter().collect();
        // A process begins with the mask of the one that starts it. A signal that comes just now
        // ends this program as if it had come before.
        set.thread_unblock()?;
        let child = command.spawn();
        set.thread_block()?;
        child
    }

    fn next(&self) -> Option<Received> {
        let info = self.0.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo.cast_signed()).ok()?;
        // SI_KERNEL: a key of the terminal, or its hangup.
        Some(Received { signal, from_terminal: info.ssi_code == 0x80 })
    }

    fn wait(&self, at_most: PollTimeout) -> nix::Result<()> {
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], at_most) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Waits a moment; an error if a signal came, as nothing has been run yet.
    fn sleep(&self, millis: u8) -> Result<(), Error> {
        self.wait(millis.into()).map_err(Error::Signals)?;
        let ends = std::iter::from_fn(|| self.next()).find(|one| one.signal != Signal::SIGCHLD);
        ends.map_or(Ok(()), |Received { signal, .. }| Err(Error::Interrupted(signal as u8)))
    }

    /// Does `work` on a thread of its own. An error if a signal comes before it is done: then this
    /// process must end, with which its requests end too.
    fn unless_one_comes<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let worker = std::thread::spawn(work);
        while !worker.is_finished() {
            self.sleep(1)?;
        }
        worker.join().or_else(|panic| std::panic::resume_unwind(panic))
    }
}
