//! Gives up every privilege, for good: capabilities, the way back to them, and root itself.

use super::mounts::NewRoot;
use crate::error::SandboxError;
use caps::CapSet;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Proof that this process is nobody special any more.
#[derive(Debug)]
pub struct Unprivileged(());

/// Drops all capabilities, becomes `become_user`, and makes that final. Takes the new root,
/// because none can be made afterwards.
pub fn drop_all(
    become_user: Option<(u32, u32)>,
    _root: &NewRoot,
) -> Result<Unprivileged, SandboxError> {
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability)
            .map_err(|cause| failed("capabilities", &cause))?;
    }
    lock_secure_bits().map_err(|cause| failed("root's privileges", &cause))?;
    if let Some((uid, gid)) = become_user {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[]).map_err(|cause| failed("supplementary groups", &cause))?;
        setresgid(gid, gid, gid).map_err(|cause| failed("the group", &cause))?;
        setresuid(uid, uid, uid).map_err(|cause| failed("the user", &cause))?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|cause| failed("capabilities", &cause))?;
    }
    prctl::set_no_new_privs().map_err(|cause| failed("set-user-id programs", &cause))?;
    // A change of user has cleared both: die with the parent; be opaque to the command, which
    // has the same user, so that it can't reach into its init.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|cause| failed("the parent", &cause))?;
    prctl::set_dumpable(false).map_err(|cause| failed("being debugged", &cause))?;
    Ok(Unprivileged(()))
}

/// User 0 means nothing from now on, and that can't be undone.
fn lock_secure_bits() -> std::io::Result<()> {
    let bits = libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
        | libc::SECBIT_KEEP_CAPS_LOCKED
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    // SAFETY: this prctl takes one number and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn failed(what: &'static str, cause: &impl ToString) -> SandboxError {
    SandboxError::Privileges { what, cause: cause.to_string() }
}
