//! Whose files are shown as whose: a user namespace that is nothing but a map of users and groups,
//! for mounts that are to show the workspace's owner as the agent.

use agentfs_api::types::ScratchOwner;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// Makes it. Both users change places, and both groups, so that each id has one other; only root
/// may. Call it before this process is in another pid namespace than /proc.
pub fn namespace(owner: &ScratchOwner) -> io::Result<OwnedFd> {
    let (its_word, its_voice) = pipe()?;
    let (its_wait, our_hold) = pipe()?;
    // SAFETY: this process has one thread, so the child may do everything that it could do.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((its_word, our_hold));
            if unshare(CloneFlags::CLONE_NEWUSER).is_ok() {
                // Where these fail the parent is gone; so is the need for this process.
                let _ = File::from(its_voice).write_all(b"+");
                let _ = File::from(its_wait).read(&mut [0]);
            }
            // SAFETY: the call takes a number and does not return.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((its_voice, its_wait));
            let made = take(child, its_word, owner);
            drop(our_hold);
            // Nothing but its end is awaited.
            let _ = waitpid(child, None);
            made
        }
    }
}

fn take(child: Pid, its_word: OwnedFd, owner: &ScratchOwner) -> io::Result<OwnedFd> {
    File::from(its_word).read_exact(&mut [0])?;
    let of = |name: &str| format!("/proc/{child}/{name}");
    std::fs::write(of("uid_map"), swapped(owner.host.0, owner.shown.0))?;
    std::fs::write(of("gid_map"), swapped(owner.host.1, owner.shown.1))?;
    Ok(File::open(of("ns/user"))?.into())
}

/// The map in which `a` and `b` change places and all others stay, in the kernel's form.
fn swapped(a: u32, b: u32) -> String {
    let (low, high) = (a.min(b), a.max(b));
    let range =
        |from: u32, to: u32, count: u32| (count > 0).then(|| format!("{from} {to} {count}\n"));
    // The last id means "none" and is never mapped.
    let lines = if low == high {
        [range(0, 0, u32::MAX), None, None, None, None]
    } else {
        [
            range(0, 0, low),
            range(low, high, 1),
            range(low + 1, low + 1, high - low - 1),
            range(high, low, 1),
            range(high + 1, high + 1, u32::MAX - high - 1),
        ]
    };
    lines.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_change_places_and_all_others_stay() {
        assert_eq!(swapped(0, 65_534), "0 65534 1\n1 1 65533\n65534 0 1\n65535 65535 4294901760\n");
        assert_eq!(swapped(1000, 0), swapped(0, 1000));
        assert_eq!(swapped(5, 6), "0 0 5\n5 6 1\n6 5 1\n7 7 4294967288\n");
        assert_eq!(swapped(7, 7), "0 0 4294967295\n");
    }
}
