//! The outer side of a sandbox: starts the inner process, relays terminal and signals, and
//! learns how the command ended.

use crate::apply::Handover;
use crate::error::SandboxError;
use crate::execs::{Execs, Watch};
use crate::plan::Plan;
use crate::signals::Signals;
use crate::terminal::{RawMode, Relay, copy_size};
use crate::wire::{Channel, FromInit, ToInit};
use agentfs_core::RelPath;
use agentfs_core::machine::Exit;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{SetArg, tcsetattr};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// How the command fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ran, and ended like this.
    Ran(Exit),
    /// Its file could not be executed.
    NotExecuted(Errno),
}

/// A sandbox that is being built or runs. Dropped, all of it is killed.
#[derive(Debug)]
pub struct Sandbox {
    inner: Child,
    channel: Channel,
    /// Scratch directories that are not mounted, as far as they are told.
    unmounted: Vec<(RelPath, String)>,
    /// What decides about execs, where somebody does.
    watch: Option<Watch>,
}

impl Sandbox {
    /// Starts the inner process with `plan`. Call it on the main thread: the sandbox dies with
    /// the thread that started it.
    pub fn launch(plan: &Plan) -> Result<Self, SandboxError> {
        let launch = || -> io::Result<Self> {
            let (ours, theirs) = Channel::pair()?;
            let plan = in_memory(plan)?;
            for inherited in [theirs.as_fd(), plan.as_fd()] {
                fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            let handover = Handover {
                plan: plan.as_raw_fd(),
                channel: theirs.as_fd().as_raw_fd(),
                parent: nix::unistd::getpid().as_raw(),
            };
            let inner = Command::new("/proc/self/exe")
                .arg0("agentshim")
                .arg("sandbox")
                .args(handover.arguments())
                .env_clear()
                .spawn()?;
            Ok(Self { inner, channel: ours, unmounted: Vec::new(), watch: None })
        };
        launch().map_err(SandboxError::Start)
    }

    /// The inner process, which is in the sandbox's user and mount namespaces.
    pub fn process(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.inner.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
    }

    /// Stays until the command and everything that came from it has ended. Blocks. Tells
    /// `unmounted` of the scratch directories that are not mounted, and why. `execs` decides
    /// about execs, where the plan says that they are heard.
    pub fn supervise(
        mut self,
        signals: &Signals,
        execs: Option<&Execs>,
        mut unmounted: impl FnMut(Vec<(RelPath, String)>),
    ) -> Result<Ended, SandboxError> {
        let mut terminal = None;
        let ended = loop {
            let ready = wait(&self.channel, signals, terminal.as_ref())
                .map_err(|errno| SandboxError::Start(errno.into()))?;
            if let Some(terminal) = &mut terminal {
                relay(terminal, ready);
            }
            while let Some(signal) = signals.next() {
                self.pass_on(signal, terminal.as_ref());
            }
            if ready.channel.intersects(READABLE)
                && let Some(ended) = self.listen(&mut terminal, execs, &mut unmounted)?
            {
                break ended;
            }
        };
        // Init has ended or is about to, and then nobody has the sandbox's terminal open.
        let _ = self.inner.wait();
        if let Some((relay, _)) = &mut terminal {
            while relay.show_output() {}
        }
        Ok(ended)
    }

    /// Receives one message and acts on it; gives the end, if it says that.
    fn listen(
        &mut self,
        terminal: &mut Option<Terminal>,
        execs: Option<&Execs>,
        unmounted: &mut impl FnMut(Vec<(RelPath, String)>),
    ) -> Result<Option<Ended>, SandboxError> {
        let message = self.channel.receive::<FromInit>().map_err(SandboxError::Start)?;
        match message {
            None => Err(SandboxError::Vanished),
            Some((FromInit::Failed(why), _)) => Err(SandboxError::Inside(why)),
            Some((FromInit::Unmounted(path, why), _)) => {
                self.unmounted.push((path, why));
                Ok(None)
            }
            Some((FromInit::AllMounted, _)) => {
                if !self.unmounted.is_empty() {
                    unmounted(std::mem::take(&mut self.unmounted));
                }
                Ok(None)
            }
            Some((FromInit::Execs, Some(listener))) => {
                let watch = execs.map(|execs| execs.watch(listener, self.inner.id()));
                self.watch = watch.transpose().map_err(SandboxError::Start)?;
                Ok(None)
            }
            Some((FromInit::NotExecuted(errno), _)) => {
                Ok(Some(Ended::NotExecuted(Errno::from_raw(errno))))
            }
            Some((FromInit::Ended(exit), _)) => Ok(Some(Ended::Ran(exit))),
            Some((FromInit::Terminal, Some(master))) => {
                *terminal = Some(connect(master).map_err(SandboxError::Terminal)?);
                self.tell(ToInit::Start);
                Ok(None)
            }
            Some((FromInit::Stopped, _)) => {
                if let Some((relay, raw)) = terminal {
                    while relay.show_output() {}
                    stop_with_the_job(raw);
                    let _ = copy_size(io::stdin().as_fd(), relay.master());
                }
                self.tell(ToInit::Resume);
                Ok(None)
            }
            Some((FromInit::Terminal | FromInit::Execs, None)) => {
                Err(SandboxError::Terminal(io::ErrorKind::InvalidData.into()))
            }
        }
    }

    fn pass_on(&self, signal: crate::signals::Received, terminal: Option<&Terminal>) {
        match terminal {
            Some((relay, _)) if signal.number == Signal::SIGWINCH as i32 => {
                // The kernel tells the foreground job inside. Fails only if a terminal is gone.
                let _ = copy_size(io::stdin().as_fd(), relay.master());
            }
            // In the user's own terminal the command has had it already, with the whole job.
            None if signal.from_terminal || signal.number == Signal::SIGWINCH as i32 => {}
            _ => self.tell(ToInit::Signal(signal.number)),
        }
    }

    /// Tells init. Where that fails it is gone, and the next receive says so.
    fn tell(&self, message: ToInit) {
        let _ = self.channel.send(&message, None);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Fails only if it has ended already, which is what is wanted.
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

/// The sandbox's terminal and the user's, raw as long as this lives.
type Terminal = (Relay, RawMode);

/// What has happened to each descriptor.
#[derive(Clone, Copy, Debug)]
struct Ready {
    channel: PollFlags,
    input: PollFlags,
    master: PollFlags,
}

/// Something to read, or the end of it.
const READABLE: PollFlags = PollFlags::POLLIN.union(PollFlags::POLLHUP).union(PollFlags::POLLERR);

fn wait(channel: &Channel, signals: &Signals, terminal: Option<&Terminal>) -> nix::Result<Ready> {
    let stdin = io::stdin();
    let mut fds = vec![
        PollFd::new(channel.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    if let Some((relay, _)) = terminal {
        let input = if relay.wants_input() { PollFlags::POLLIN } else { PollFlags::empty() };
        fds.push(PollFd::new(stdin.as_fd(), input));
        if relay.is_open() {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, relay.has_input());
            fds.push(PollFd::new(relay.master(), flags));
        }
    }
    match poll(&mut fds, PollTimeout::NONE) {
        // Interrupted, nothing has happened: the flags are as empty as they were.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let happened = |at: usize| fds.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    Ok(Ready { channel: happened(0), input: happened(2), master: happened(3) })
}

fn relay((relay, _): &mut Terminal, ready: Ready) {
    if ready.master.intersects(READABLE) {
        relay.show_output();
    }
    let input = ready.input.intersects(READABLE);
    if input && relay.wants_input() {
        relay.take_input();
    }
    if relay.has_input() && (input || ready.master.contains(PollFlags::POLLOUT)) {
        relay.give_input();
    }
}

/// Gives the sandbox's terminal the settings and the size of the user's, and makes that raw.
fn connect(master: OwnedFd) -> io::Result<Terminal> {
    let raw = RawMode::enter()?;
    tcsetattr(&master, SetArg::TCSANOW, raw.before())?;
    copy_size(io::stdin().as_fd(), master.as_fd())?;
    Ok((Relay::new(master)?, raw))
}

/// Ctrl-Z: stops this process as the command was, gives the terminal back to the user's shell,
/// and takes it again when the user resumes the job.
fn stop_with_the_job(raw: &RawMode) {
    // Where one of these fails the terminal is gone; the hangup comes as a signal.
    let _ = raw.suspend();
    let _ = raise(Signal::SIGSTOP);
    let _ = raw.again();
}

/// A file in memory that holds `plan`: command lines are visible to all.
pub(crate) fn in_memory(plan: &impl serde::Serialize) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(c"agentshim", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file.into())
}
