//! Why there is no sandbox: the step that failed, its cause, and what to do about it.

use nix::errno::Errno;
use std::path::PathBuf;

/// A step of building the sandbox that failed. Nothing of the command has run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The inner process could not be started or told what to do.
    #[error("the sandbox's process could not be started: {0}")]
    Start(std::io::Error),
    /// The inner process ended without a word.
    #[error(
        "the sandbox was killed from outside, perhaps because memory ran out; see `dmesg` and run it again"
    )]
    Vanished,
    /// The inner process says why it gave up.
    #[error("{0}")]
    Inside(String),
    /// No namespaces.
    #[error("no new namespaces: {cause}; {}", namespace_remedy(*cause))]
    Namespaces {
        /// What the kernel said.
        cause: Errno,
    },
    /// The user namespace is there, but may not be used.
    #[error(
        "the user namespace refuses its identity map ({file}: {cause}); allow it with `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run agentshim as root"
    )]
    IdentityMap {
        /// Which file of /proc.
        file: &'static str,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// One mount of the new root failed.
    #[error("{what} could not be mounted at {}: {cause}", at.display())]
    Mount {
        /// What.
        what: String,
        /// Where.
        at: PathBuf,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// The agent's home has something else where a mount must be.
    #[error(
        "{} is taken in the agent's home or view; remove or rename what the agent has put there", .0.display()
    )]
    Taken(PathBuf),
    /// Rights could not be given up.
    #[error(
        "{what} could not be given up: {cause}; run agentshim as a normal user or as full root"
    )]
    Privileges {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        cause: String,
    },
    /// No Landlock.
    #[error(
        "this kernel enforces no Landlock rules on files ({0}); use Linux 5.19 or newer with `landlock` in the boot parameter `lsm=`"
    )]
    Landlock(String),
    /// No system call filter.
    #[error(
        "the system call filter could not be installed: {0}; use a kernel with CONFIG_SECCOMP_FILTER"
    )]
    Seccomp(String),
    /// Execs can't be heard of.
    #[error("the named processes of agentfs.toml can't be seen: {}; {}", .0, listener_remedy(*.0))]
    ProcessesUnseen(Errno),
    /// The limit by which process trees are told apart is in use.
    #[error(
        "the named processes of agentfs.toml can't be followed, because RLIMIT_RTTIME is limited; lift it with `ulimit -HS -R unlimited` (as root), or take `rttime` out of /etc/security/limits.conf"
    )]
    ProcessesUnmarked,
    /// No pseudo-terminal.
    #[error("no terminal could be made inside the sandbox: {0}")]
    Terminal(std::io::Error),
    /// The directory in which the command should start is not in the view.
    #[error(
        "{} can't be entered in the view of {agent}: {cause}; change to a directory that the view has", path.display()
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Whose view.
        agent: String,
        /// What the kernel said.
        cause: Errno,
    },
}

fn listener_remedy(cause: Errno) -> &'static str {
    match cause {
        Errno::EBUSY => {
            "something around this machine or container listens to system calls already; take the rules out and use `agentctl with proc:NAME -- CMD`"
        }
        _ => {
            "use Linux 5.19 or newer, or take the rules out and use `agentctl with proc:NAME -- CMD`"
        }
    }
}

fn namespace_remedy(cause: Errno) -> &'static str {
    match cause {
        Errno::ENOSPC => {
            "allow more with `sysctl user.max_user_namespaces=10000`, or run agentshim as root"
        }
        Errno::EPERM => {
            "allow user namespaces with `sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`, or run agentshim as root"
        }
        _ => "use a kernel with user, pid, mount, ipc, uts and cgroup namespaces",
    }
}
