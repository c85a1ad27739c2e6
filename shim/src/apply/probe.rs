//! Tries single mechanisms, each in a child of its own that ends with the trial.

use super::{landlock, mounts, namespaces, overlay, owners, seccomp};
use crate::error::SandboxError;
use crate::plan::Scratch;
use crate::wire::{Channel, FromInit};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getegid, geteuid};

/// The version of Landlock below which there is no sandbox.
pub const LANDLOCK_REQUIRED: i64 = landlock::REQUIRED as i64;
/// The version of Landlock from which a sandbox has all that it asks for.
pub const LANDLOCK_FOR_ALL: i64 = landlock::SCOPED as i64;

/// The kernel's version of Landlock, 0 if there is none.
pub fn landlock_version() -> i64 {
    landlock::version()
}

/// Makes the namespaces of a user who is not root, and uses the rights that they give.
pub fn user_namespaces() -> Result<(), SandboxError> {
    let identity = (geteuid().as_raw(), getegid().as_raw());
    in_child(|| {
        namespaces::enter(Some(identity))?;
        mounts::try_out()
    })
}

/// Installs the system call filter.
pub fn seccomp() -> Result<(), SandboxError> {
    in_child(seccomp::try_out)
}

/// Mounts one scratch directory of a workspace, as a run would. Gives the reason if it can't be.
pub fn scratch(scratch: &Scratch) -> Result<(), SandboxError> {
    let root = geteuid().is_root();
    let identity = (!root).then(|| (geteuid().as_raw(), getegid().as_raw()));
    let owners = scratch.owner.as_ref().map(owners::namespace);
    in_child(|| {
        namespaces::enter(identity)?;
        mounts::keep_to_itself()?;
        match overlay::make(scratch, owners).first_refusal() {
            None => Ok(()),
            Some(why) => Err(SandboxError::Inside(why.to_owned())),
        }
    })
}

/// Call it before this process has other threads.
fn in_child(trial: impl FnOnce() -> Result<(), SandboxError>) -> Result<(), SandboxError> {
    let (ours, theirs) = Channel::pair().map_err(SandboxError::Start)?;
    // SAFETY: this process has one thread, so the child may do everything that it could do.
    match unsafe { fork() }.map_err(|cause| SandboxError::Start(cause.into()))? {
        ForkResult::Child => {
            let outcome = match trial() {
                Ok(()) => FromInit::Ended(agentfs_core::machine::Exit::Code(0)),
                Err(error) => FromInit::Failed(error.to_string()),
            };
            // Where this fails the other side sees the end without a word.
            let _ = theirs.send(&outcome, None);
            // SAFETY: the call takes a number and does not return.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let outcome = ours.receive::<FromInit>();
            // Nothing but its end is awaited; its word is here already.
            let _ = waitpid(child, None);
            match outcome.map_err(SandboxError::Start)? {
                Some((FromInit::Ended(_), _)) => Ok(()),
                Some((FromInit::Failed(why), _)) => Err(SandboxError::Inside(why)),
                _ => Err(SandboxError::Vanished),
            }
        }
    }
}
