//! The system call filter: what no program in the sandbox may ask of the kernel, each with the
//! reason. Everything else is allowed; a list of what is allowed would break tools every month.

use super::landlock::Restricted;
use crate::error::SandboxError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Proof that the sandbox is complete: only with it is a command executed.
#[derive(Debug)]
pub struct Confined(());

/// One system call that is refused, and why.
struct Denied {
    number: libc::c_long,
    /// Read by people and by the tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "documents the list; checked by a test"))]
    reason: &'static str,
}

const fn deny(number: libc::c_long, reason: &'static str) -> Denied {
    Denied { number, reason }
}

/// Refused with EPERM whatever the arguments.
const DENIED: &[Denied] = &[
    deny(libc::SYS_unshare, "a user namespace of its own gives capabilities back"),
    deny(libc::SYS_setns, "joins namespaces of others"),
    deny(libc::SYS_mount, "changes what is shown"),
    deny(libc::SYS_umount2, "uncovers what a mount hides"),
    deny(libc::SYS_pivot_root, "changes what is shown"),
    deny(libc::SYS_chroot, "Landlock does not mediate it"),
    deny(libc::SYS_open_tree, "takes hold of mounts"),
    deny(libc::SYS_move_mount, "changes what is shown"),
    deny(libc::SYS_fsopen, "makes mounts"),
    deny(libc::SYS_fsconfig, "makes mounts"),
    deny(libc::SYS_fsmount, "makes mounts"),
    deny(libc::SYS_fspick, "changes mounts"),
    deny(libc::SYS_mount_setattr, "makes read-only mounts writable; Landlock does not mediate it"),
    deny(libc::SYS_bpf, "loads programs into the kernel"),
    deny(libc::SYS_perf_event_open, "observes the kernel and other processes"),
    deny(libc::SYS_userfaultfd, "stops the kernel at a chosen instruction: used by exploits"),
    deny(libc::SYS_add_key, "keyrings belong to the user, not to the sandbox"),
    deny(libc::SYS_request_key, "keyrings belong to the user, not to the sandbox"),
    deny(libc::SYS_keyctl, "keyrings belong to the user, not to the sandbox"),
    deny(libc::SYS_kexec_load, "replaces the kernel"),
    deny(libc::SYS_kexec_file_load, "replaces the kernel"),
    deny(libc::SYS_init_module, "loads code into the kernel"),
    deny(libc::SYS_finit_module, "loads code into the kernel"),
    deny(libc::SYS_delete_module, "removes code from the kernel"),
    deny(libc::SYS_reboot, "is the host's business"),
    deny(libc::SYS_swapon, "is the host's business"),
    deny(libc::SYS_swapoff, "is the host's business"),
    deny(libc::SYS_acct, "is the host's business"),
    deny(libc::SYS_syslog, "reads the kernel's log"),
    deny(libc::SYS_quotactl, "is the host's business"),
    deny(SYS_QUOTACTL_FD, "is the host's business"),
    deny(libc::SYS_open_by_handle_at, "opens files past every path"),
];

/// quotactl by descriptor; the number is the same on all architectures that are served.
const SYS_QUOTACTL_FD: libc::c_long = 443;

/// Refused with ENOSYS, so that callers take the older way, which can be filtered.
const ABSENT: &[Denied] = &[
    deny(libc::SYS_clone3, "its flags are in memory, where a filter can't see them"),
    deny(libc::SYS_io_uring_setup, "does what other calls do, past the filter"),
    deny(libc::SYS_io_uring_enter, "does what other calls do, past the filter"),
    deny(libc::SYS_io_uring_register, "does what other calls do, past the filter"),
];

/// Flags of `clone` that make namespaces.
///
/// `CLONE_NEWTIME` is not among them: as a flag of `clone` it is part of the signal number.
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Kinds of sockets that programs need; others (vsock, packet, alg, ...) lead to the host's
/// hardware and hypervisor, or to rarely used code in the kernel.
const SOCKET_FAMILIES: [libc::c_int; 4] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// ioctls that put characters into a terminal's input, as if the user had typed them.
const TERMINAL_INJECTION: [u64; 2] = [TIOCSTI, TIOCLINUX];

/// One character into a terminal's input. Spelled out, because its type differs between C
/// libraries.
const TIOCSTI: u64 = 0x5412;

/// The console's selection and paste.
const TIOCLINUX: u64 = 0x541C;

/// Puts the filter on this process and all that come from it.
pub fn install(_restricted: &Restricted) -> Result<Confined, SandboxError> {
    try_out().map(|()| Confined(()))
}

/// The filter alone, which is no sandbox. In any case no privileges can be had afterwards.
pub fn try_out() -> Result<(), SandboxError> {
    for filter in filters().map_err(|error| failed(&error))? {
        // This sets no_new_privs, without which nobody but root may install one.
        seccompiler::apply_filter(&filter).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn filters() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut refused = always(DENIED);
    refused.insert(libc::SYS_clone, any_flag(0, &NAMESPACE_FLAGS)?);
    refused.insert(libc::SYS_ioctl, any_of(1, &TERMINAL_INJECTION)?);
    refused.insert(libc::SYS_socket, none_of(0, &SOCKET_FAMILIES)?);
    refused.insert(libc::SYS_socketpair, none_of(0, &SOCKET_FAMILIES)?);
    let mut filters = vec![compile(refused, libc::EPERM)?, compile(always(ABSENT), libc::ENOSYS)?];
    if cfg!(target_arch = "x86_64") {
        filters.push(without_x32());
    }
    Ok(filters)
}

/// A filter that answers `errno` where a rule matches, and kills on another architecture's calls:
/// their numbers mean something else, so that the list would not hold for them.
fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

fn always(list: &[Denied]) -> BTreeMap<i64, Vec<SeccompRule>> {
    list.iter().map(|denied| (denied.number, Vec::new())).collect()
}

/// Matches where the argument has at least one of these flags.
fn any_flag(
    argument: u8,
    flags: &[libc::c_int],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    flags
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            SeccompRule::new(vec![condition(argument, SeccompCmpOp::MaskedEq(flag), flag)?])
        })
        .collect()
}

/// Matches where the argument is one of these.
fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values
        .iter()
        .map(|value| SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *value)?]))
        .collect()
}

/// Matches where the argument is none of these.
fn none_of(
    argument: u8,
    values: &[libc::c_int],
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let conditions: Result<Vec<_>, _> = values
        .iter()
        .map(|value| condition(argument, SeccompCmpOp::Ne, u64::from(value.cast_unsigned())))
        .collect();
    Ok(vec![SeccompRule::new(conditions?)?])
}

/// The kernel looks at the lower half of each of these arguments alone, and so does the filter.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Refuses the x32 calls, which have the same architecture and other numbers: the second table
/// would pass a filter of single numbers.
fn without_x32() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let statement = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    vec![
        statement(LOAD_WORD, 0, 0, 0),
        statement(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_BIT),
        statement(RETURN, 0, 0, refuse),
        statement(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn failed(error: &impl ToString) -> SandboxError {
    SandboxError::Seccomp(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_fit_the_kernels_limit() {
        for filter in filters().unwrap() {
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn every_denial_has_a_reason_and_is_listed_once() {
        let mut seen = std::collections::BTreeSet::new();
        for denied in DENIED.iter().chain(ABSENT) {
            assert!(!denied.reason.is_empty());
            assert!(seen.insert(denied.number), "{} is listed twice", denied.number);
        }
    }
}
