//! The harness of the end-to-end suites.
//!
//! A suite works in a [`World`]: a git repository, a home, and the three programs, inside a mount
//! and a pid namespace of its own, as root or as an unprivileged user. Everything in it is real:
//! mounts, sandboxes, sockets, processes. Dropping it kills and unmounts all that it held, so
//! that a failed test leaves nothing behind; the daemon's log is printed first.
//!
//! Nothing here waits for a length of time: it polls for a condition ([`eventually`]) and gives
//! up after a deadline that only a defect can reach. Nothing is skipped: what a machine lacks for
//! these tests is a failure that says so.
#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "a harness that can't go on fails the test")]

mod agent;
mod journal;
mod namespaces;
mod poll;
mod process;
mod requirements;
mod said;
mod storage;
mod terminal;
mod tree;
mod world;

pub use agent::{Agent, Launch};
pub use journal::NamedProcess;
pub use poll::{DEADLINE, eventually, promptly};
pub use process::{Cmd, Done, Running};
pub use terminal::Terminal;
pub use tree::{Entry, Tree};
pub use world::{Programs, User, World};

/// The programs under test. Cargo builds them with each suite, and tells only the suite where.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::Programs {
            agentfs: env!("CARGO_BIN_EXE_e2e-agentfs"),
            agentshim: env!("CARGO_BIN_EXE_e2e-agentshim"),
            agentctl: env!("CARGO_BIN_EXE_e2e-agentctl"),
        }
    };
}

/// Each scenario, a function of a [`World`], as two tests: in a world of root's and in one of an
/// unprivileged user's. A scenario that is not listed is dead code, which the compiler refuses.
#[macro_export]
macro_rules! in_both_worlds {
    ($($scenario:ident),+ $(,)?) => { $(
        mod $scenario {
            #[test]
            fn as_root() {
                super::$scenario(&$crate::World::new($crate::User::Root, $crate::programs!()));
            }

            #[test]
            fn as_user() {
                let user = $crate::User::Unprivileged;
                super::$scenario(&$crate::World::new(user, $crate::programs!()));
            }
        }
    )+ };
}

/// What an agent does with git in all kinds of repositories; the tree must be clean before.
pub const GIT_WORK: &str = "
    set -e
    test -z \"$(git status --porcelain)\"
    git log --oneline >/dev/null
    git fsck --no-dangling --no-progress
    git checkout -q -b agents-own
    echo work >>README.md
    git commit -q -am 'Work of the agent'
    echo more >>README.md
    git stash -q
    git stash pop -q
    git checkout -q README.md
    test -z \"$(git status --porcelain)\"
    git log -1 --format=%s
";
