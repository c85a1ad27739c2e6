//! Init: the first process of the sandbox. It builds the root, gives up every right, starts the
//! command, and then only reaps, forwards signals and reports.
//!
//! When it ends the kernel kills everything in the pid namespace. It is not debuggable, so that
//! the command, which has the same user, can't reach the channel or what it knows.

use super::command::{self, Prepared};
use super::seccomp::Confined;
use super::{landlock, mounts, overlay, privileges, pty, seccomp};
use crate::error::SandboxError;
use crate::plan::{Plan, Stdio};
use crate::wire::{Channel, FromInit, ToInit};
use agentfs_core::machine::Exit;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Is init, until everything has ended.
pub fn run(plan: &Plan, owners: Option<io::Result<OwnedFd>>, channel: &Channel) -> ! {
    if let Err(error) = try_run(plan, owners, channel) {
        // Where this fails the outer process is gone and nobody is left to tell.
        let _ = channel.send(&FromInit::Failed(error.to_string()), None);
    }
    // No destructors and no exit handlers: they belong to the process that forked this one.
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(0) }
}

fn try_run(
    plan: &Plan,
    owners: Option<io::Result<OwnedFd>>,
    channel: &Channel,
) -> Result<(), SandboxError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|cause| SandboxError::Start(cause.into()))?;
    let command = command::prepare(&plan.argv, &plan.env)
        .map_err(|error| SandboxError::Start(error.into()))?;
    let overlays = || match &plan.scratch {
        Some(scratch) => overlay::make(scratch, owners),
        None => overlay::Made::default(),
    };
    let (root, unmounted) = mounts::build(&plan.steps, overlays)?;
    for (path, why) in unmounted {
        channel.send(&FromInit::Unmounted(path, why), None).map_err(SandboxError::Start)?;
    }
    channel.send(&FromInit::AllMounted, None).map_err(SandboxError::Start)?;
    let unprivileged = privileges::drop_all(plan.become_user, &root)?;
    nix::unistd::chdir(&plan.cwd).map_err(|cause| SandboxError::Directory {
        path: plan.cwd.clone(),
        agent: plan.agent.clone(),
        cause,
    })?;
    if let Stdio::Terminal { errors } = plan.stdio {
        let pty = pty::open(&unprivileged)?;
        pty::take(&pty.slave, errors)?;
        channel
            .send(&FromInit::Terminal, Some(pty.master.as_fd()))
            .map_err(SandboxError::Terminal)?;
    }
    let restricted = landlock::restrict(&plan.writable, &root, &unprivileged)?;
    let confined = seccomp::install(&restricted)?;
    if matches!(plan.stdio, Stdio::Terminal { .. }) && !wait_for_start(channel) {
        return Ok(());
    }
    let job = Job::start(&command, plan, channel, &confined)?;
    supervise(&job, channel).map_err(|cause| SandboxError::Start(cause.into()))
}

/// Waits until the user's terminal is ready; false if the outer process is gone.
fn wait_for_start(channel: &Channel) -> bool {
    loop {
        match channel.receive::<ToInit>() {
            Ok(Some((ToInit::Start, _))) => return true,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}

/// The command, as init sees it.
struct Job {
    command: Pid,
    /// Whether it is a job of its own, in the sandbox's terminal.
    own_terminal: bool,
}

impl Job {
    fn start(
        command: &Prepared,
        plan: &Plan,
        channel: &Channel,
        confined: &Confined,
    ) -> Result<Self, SandboxError> {
        let own_terminal = matches!(plan.stdio, Stdio::Terminal { .. });
        // SAFETY: this process has one thread, so the child may do everything that it could do.
        match unsafe { fork() }.map_err(|cause| SandboxError::Start(cause.into()))? {
            ForkResult::Parent { child } => {
                let job = Self { command: child, own_terminal };
                job.to_foreground();
                Ok(job)
            }
            ForkResult::Child => {
                if own_terminal {
                    let this = Self { command: nix::unistd::getpid(), own_terminal };
                    this.to_foreground();
                }
                let said = match report_execs(plan, channel) {
                    Ok(()) => {
                        let errno = command::become_command(command, confined);
                        FromInit::NotExecuted(errno as i32)
                    }
                    Err(error) => FromInit::Failed(error.to_string()),
                };
                // Where this fails the outer process is gone and nobody is left to tell.
                let _ = channel.send(&said, None);
                // SAFETY: the call takes a number and does not return.
                unsafe { libc::_exit(127) }
            }
        }
    }

    /// Makes the command a job of its own in the foreground. Both it and init do this, because
    /// neither may go on before it is done; whoever comes second fails harmlessly.
    fn to_foreground(&self) {
        if self.own_terminal {
            let _ = setpgid(self.command, self.command);
            let _ = pty::foreground(self.command);
        }
    }

    fn resume(&self) {
        self.to_foreground();
        // The whole job was stopped, and it may have ended meanwhile.
        let _ = kill(Pid::from_raw(-self.command.as_raw()), Signal::SIGCONT);
    }
}

/// The last step before the command: from here on the outer process decides about every exec.
fn report_execs(plan: &Plan, channel: &Channel) -> Result<(), SandboxError> {
    if !plan.execs_are_heard {
        return Ok(());
    }
    // What the outer process reads of this one it may not read of init, which keeps to itself;
    // nobody else in the sandbox is there yet.
    let opened = prctl::set_dumpable(true).map_err(|cause| SandboxError::Start(cause.into()));
    opened?;
    let listener = super::notify::install()?;
    channel.send(&FromInit::Execs, Some(listener.as_fd())).map_err(SandboxError::Start)
}

/// Reaps and forwards until the command has ended or the outer process is gone.
fn supervise(job: &Job, channel: &Channel) -> nix::Result<()> {
    let mut child_signals = SigSet::empty();
    child_signals.add(Signal::SIGCHLD);
    let signals =
        SignalFd::with_flags(&child_signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        if let Some(exit) = reap(job, channel)? {
            let _ = channel.send(&FromInit::Ended(exit), None);
            return Ok(());
        }
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let [_, from_outside] = ready.map(|fd| fd.any().unwrap_or(false));
        while signals.read_signal()?.is_some() {}
        if from_outside && !obey(job, channel) {
            return Ok(());
        }
    }
}

/// Does what the outer process wants; false if it is gone.
fn obey(job: &Job, channel: &Channel) -> bool {
    match channel.receive::<ToInit>() {
        Ok(Some((ToInit::Signal(number), _))) => {
            if let Ok(signal) = Signal::try_from(number) {
                // It may have ended just now.
                let _ = kill(job.command, signal);
            }
            true
        }
        Ok(Some((ToInit::Resume, _))) => {
            job.resume();
            true
        }
        Ok(Some((ToInit::Start, _))) => true,
        Ok(None) | Err(_) => false,
    }
}

/// Collects all that have ended; the exit of the command if it is among them.
fn reap(job: &Job, channel: &Channel) -> nix::Result<Option<Exit>> {
    let mut flags = WaitPidFlag::WNOHANG;
    if job.own_terminal {
        flags |= WaitPidFlag::WUNTRACED;
    }
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == job.command => {
                return Ok(Some(Exit::Code(code)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == job.command => {
                return Ok(Some(Exit::Signal(signal as i32)));
            }
            Ok(WaitStatus::Stopped(pid, _)) if pid == job.command => {
                let _ = channel.send(&FromInit::Stopped, None);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            // A real-time signal has no name in nix: the wait status is lost with it.
            Err(Errno::EINVAL) => return Ok(Some(Exit::Lost)),
            Err(errno) => return Err(errno),
        }
    }
}
