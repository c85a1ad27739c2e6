//! Carries a [`Plan`] out, in a process of its own: one file per mechanism.
//!
//! ```text
//! agentshim run            may have threads; relays terminal and signals
//!   agentshim sandbox      one thread: enters the namespaces, forks, waits   (this module)
//!     init, pid 1 inside   mounts, gives rights up, forks the command, reaps (init.rs)
//!       the command
//! ```
//!
//! `agentshim probe` tries single mechanisms of these (probe.rs). `agentshim reattach` gives a
//! sandbox that runs the view of a new daemon (reattach.rs).
//!
//! Each dies with its parent, and all of the pid namespace with init: nothing survives the outer
//! process. The proofs (`NewRoot`, `Unprivileged`, `Restricted`, `Confined`) fix the order of the
//! steps: each takes the one before, and only the last lets a command be executed.

mod command;
mod init;
mod landlock;
mod mounts;
mod namespaces;
mod notify;
mod overlay;
mod owners;
mod privileges;
pub mod probe;
mod pty;
pub mod reattach;
mod seccomp;

use crate::error::SandboxError;
use crate::plan::Plan;
use crate::wire::{Channel, FromInit};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

/// What the inner process is told on its command line: two descriptors and its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The plan, as JSON.
    pub plan: RawFd,
    /// The connection to the outer process.
    pub channel: RawFd,
    /// The outer process.
    pub parent: i32,
}

impl Handover {
    /// The command line's form.
    pub fn arguments(self) -> [String; 3] {
        [self.plan.to_string(), self.channel.to_string(), self.parent.to_string()]
    }

    fn parse(arguments: &[OsString]) -> Option<Self> {
        let number = |at: usize| arguments.get(at)?.to_str()?.parse::<i32>().ok();
        let open = |fd: &i32| *fd > 2;
        Some(Self {
            plan: number(0).filter(open)?,
            channel: number(1).filter(open)?,
            parent: number(2)?,
        })
    }
}

/// The inner process: builds the sandbox, runs the command in it, and ends when that has ended.
/// All that there is to say is said over the channel.
pub fn inner(arguments: &[OsString]) -> ExitCode {
    let Some(handover) = Handover::parse(arguments) else {
        anstream::eprintln!("agentshim: `sandbox` is for agentshim itself; use `agentshim run`");
        return ExitCode::from(125);
    };
    // SAFETY: the outer process has made both descriptors for this process, which has opened
    // nothing yet that could have their numbers, and gives each away once.
    let (plan, channel) =
        unsafe { (OwnedFd::from_raw_fd(handover.plan), OwnedFd::from_raw_fd(handover.channel)) };
    let channel = Channel::from_fd(channel);
    match enter(plan, &channel, handover.parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where this fails the outer process is gone and nobody is left to tell.
            let _ = channel.send(&FromInit::Failed(error.to_string()), None);
            ExitCode::from(125)
        }
    }
}

fn enter(plan: OwnedFd, channel: &Channel, parent: i32) -> Result<(), SandboxError> {
    die_with(parent)?;
    let mut json = Vec::new();
    std::fs::File::from(plan).read_to_end(&mut json).map_err(SandboxError::Start)?;
    let plan: Plan =
        serde_json::from_slice(&json).map_err(|error| SandboxError::Start(error.into()))?;
    // Ctrl-C reaches the whole foreground job; what it means is for the command to decide.
    SigSet::all().thread_block().map_err(|cause| SandboxError::Start(cause.into()))?;
    let owner = plan.scratch.as_ref().and_then(|scratch| scratch.owner);
    let owners = owner.as_ref().map(owners::namespace);
    namespaces::enter(plan.user_namespace)?;
    // SAFETY: this process has one thread, so the child may do everything that it could do.
    match unsafe { fork() }.map_err(|cause| SandboxError::Start(cause.into()))? {
        ForkResult::Child => init::run(&plan, owners, channel),
        ForkResult::Parent { child } => {
            // A plain end says all that init had to say; another is seen as silence.
            while let Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_))
            | Err(nix::errno::Errno::EINTR) = waitpid(child, None)
            {}
            Ok(())
        }
    }
}

/// Dies as soon as the outer process has, however it dies.
fn die_with(parent: i32) -> Result<(), SandboxError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|cause| SandboxError::Start(cause.into()))?;
    // It may have died before that call.
    if getppid() == Pid::from_raw(parent) { Ok(()) } else { Err(SandboxError::Vanished) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_reads_back_and_never_names_a_standard_stream() {
        let handover = Handover { plan: 3, channel: 4, parent: 77 };
        let arguments = handover.arguments().map(OsString::from);
        assert_eq!(Handover::parse(&arguments), Some(handover));
        assert_eq!(Handover::parse(&["1".into(), "4".into(), "77".into()]), None);
        assert_eq!(Handover::parse(&[]), None);
    }
}
