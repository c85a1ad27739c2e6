//! Namespaces: user (where the caller is not root), mount, pid, ipc, uts and cgroup.
//!
//! The network namespace stays the host's, so that an agent reaches its model; Landlock cuts
//! abstract sockets and signals.

use crate::error::SandboxError;
use nix::sched::{CloneFlags, unshare};

/// Moves this process into new namespaces; its next child will be the first of the new pid
/// namespace. With `identity` the user namespace is new too, and knows that user and group alone.
pub fn enter(identity: Option<(u32, u32)>) -> Result<(), SandboxError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if identity.is_some() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|cause| SandboxError::Namespaces { cause })?;
    if let Some((uid, gid)) = identity {
        // The kernel lets an unprivileged process map its group only after it has given up
        // setgroups, with which a group could be dropped to get past a denial.
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
        write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    }
    Ok(())
}

fn write(file: &'static str, text: &str) -> Result<(), SandboxError> {
    std::fs::write(file, text).map_err(|cause| SandboxError::IdentityMap { file, cause })
}
