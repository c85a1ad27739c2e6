//! Landlock: what may be written, enforced by the kernel beside the mounts. This is the only file
//! that knows the landlock crate.
//!
//! It mediates neither stat, chmod, utimes nor pathname sockets: the mounts must hide what those
//! could reach. Rules belong to inodes, so all mounts are in place before (hence [`NewRoot`]).

use super::mounts::NewRoot;
use super::privileges::Unprivileged;
use crate::error::SandboxError;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Proof that the file rules are in force.
#[derive(Debug)]
pub struct Restricted(());

/// The rights on files that must be had: the first kernel with cross-directory renames.
pub const REQUIRED: ABI = ABI::V2;
/// The first kernel that keeps abstract sockets and signals inside.
pub const SCOPED: ABI = ABI::V6;
/// The rights on files that are taken where the kernel has them: truncation, device ioctls.
const WANTED: ABI = ABI::V5;

/// The kernel's version of Landlock, 0 if it has none or does not use it.
pub fn version() -> i64 {
    let (no_rules, ask_version) = (std::ptr::null::<u8>(), 1);
    // SAFETY: with this flag the call reads no memory, makes nothing, and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_rules, 0usize, ask_version) };
    version.max(0)
}

/// Restricts this process and all that come from it: everything mounted may be read and
/// executed, what is below `writable` may be written, and the standard streams opened again.
pub fn restrict(
    writable: &[PathBuf],
    _root: &NewRoot,
    _unprivileged: &Unprivileged,
) -> Result<Restricted, SandboxError> {
    let status = ruleset(writable)?.restrict_self().map_err(|error| failed(&error))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => {
            Err(SandboxError::Landlock("it took the rules without enforcing them".to_owned()))
        }
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(Restricted(())),
    }
}

fn ruleset(writable: &[PathBuf]) -> Result<RulesetCreated, SandboxError> {
    let all = AccessFs::from_all(WANTED);
    let look = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = empty_ruleset(all).map_err(|error| failed(&error))?;
    allow_below(&mut rules, Path::new("/"), look)?;
    for path in writable {
        allow_below(&mut rules, path, all)?;
    }
    allow_standard_streams(&mut rules);
    Ok(rules)
}

fn empty_ruleset(handled: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(Scope::from_all(SCOPED))?
        .create()
}

fn allow_below(
    rules: &mut RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<(), SandboxError> {
    let fd = PathFd::new(path).map_err(|error| failed(&error))?;
    rules.add_rule(PathBeneath::new(fd, access)).map(drop).map_err(|error| failed(&error))
}

/// Lets programs open /dev/stdout again, which no other rule allows where it is a file of the
/// host. The kernel takes no rule on pipes, sockets and memory files, and needs none: so a
/// refusal here is no failure, and can only mean less access.
fn allow_standard_streams(rules: &mut RulesetCreated) {
    let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [input.as_fd(), output.as_fd(), errors.as_fd()] {
        if is_file_or_device(stream) {
            let rule = PathBeneath::new(stream, access);
            if let Err(error) = rules.add_rule(rule) {
                tracing::debug!(%error, "a standard stream can't be opened again");
            }
        }
    }
}

fn is_file_or_device(stream: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|stat| {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        kind.is_file() || kind.is_char_device()
    })
}

fn failed(error: &impl ToString) -> SandboxError {
    SandboxError::Landlock(error.to_string())
}
