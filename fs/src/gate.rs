//! The gate between a view and the owner of the workspace's state: what a write meets
//! (DESIGN.md §6), seen from the view's side.
//!
//! A view never decides: it says what an operation would write ([`Intent`]) and goes on only with
//! a [`Permit`]. It must never block a FUSE session thread on the answer: [`Gate::ask`] returns at
//! once and calls back later, when the answer may have taken a minute.

use agentfs_core::changeset::{Action, Before, FileKind};
use agentfs_core::{RelPath, WorkUnit};
use parking_lot::{ArcRwLockReadGuard, RawRwLock};

/// What one operation would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The operation, in words for people: "open", "rename", "unlink" ...
    pub operation: &'static str,
    /// What must be held, all or nothing.
    pub units: Vec<WorkUnit>,
    /// The paths whose entries the operation replaces, and whose version therefore counts (G2).
    pub paths: Vec<RelPath>,
    /// For the rename of a directory: where what base has below it will be.
    pub arrives: Vec<RelPath>,
    /// For a rename: the path that gets another name, and that name.
    pub moves: Option<(RelPath, RelPath)>,
}

/// Who asks, as the kernel names it: the thread whose system call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The thread's id in the daemon's pid namespace; 0 if it has none there.
    pub tid: u32,
}

/// Keeps applies away as long as it lives.
pub(crate) type NoApply = ArcRwLockReadGuard<RawRwLock, ()>;

/// Proof that the gate let an operation through, or that it needs none.
///
/// Only a gate makes one, and [`Permit::scratch`] for paths that are never locked. As long as it
/// lives, no apply of this agent's changes begins: what is being written is neither its old nor
/// its new version. So it is kept until the operation is done, and no longer.
#[derive(Debug)]
pub struct Permit {
    _no_apply: Option<NoApply>,
}

impl Permit {
    /// For an operation on scratch paths alone, which no apply touches.
    pub(crate) fn scratch() -> Self {
        Self { _no_apply: None }
    }

    /// For the gate's own use.
    pub(crate) fn guarded(no_apply: NoApply) -> Self {
        Self { _no_apply: Some(no_apply) }
    }

    /// For gates of tests, which apply nothing.
    #[cfg(test)]
    pub(crate) fn granted() -> Self {
        Self { _no_apply: None }
    }
}

/// Why an operation was refused. The journal and `agentctl explain` have the whole sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another agent holds the unit, and the deadline passed or waiting would be a deadlock.
    #[error("held by another agent")]
    Busy,
    /// Base has a version that this run has not read.
    #[error("changed since this run read it")]
    Stale,
    /// The run may not write it without a claim, or not at all.
    #[error("not claimed")]
    Denied,
    /// The policy lets nobody write it.
    #[error("read-only by the policy")]
    ReadOnly,
    /// The process that waited is gone or has a signal to take.
    #[error("interrupted")]
    Interrupted,
    /// No run of this agent is alive, or the daemon ends.
    #[error("no live run")]
    Closed,
    /// The journal has no space for it.
    #[error("no space left for the journal")]
    Full,
    /// The journal failed.
    #[error("the journal failed")]
    NotRecorded,
    /// What was written into a file of `.agentfs/` names no work unit.
    #[error("no work unit")]
    Invalid,
}

/// What the gate tells the operation when it is answered. It is called on the owner's thread, so
/// it only hands the work on and returns.
pub type Answer = Box<dyn FnOnce(Result<Permit, Refusal>) + Send>;

/// Like [`Answer`], to what was written into a file of `.agentfs/`.
pub type Ordered = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// One agent's way to the owner of the state.
pub trait Gate: Send + Sync + 'static {
    /// The fast path: a permit if this agent holds all that `intent` needs and the owner has
    /// already noted what its paths were based on. Never blocks, never goes to the owner.
    fn already(&self, intent: &Intent) -> Option<Permit>;

    /// Asks for `intent`; `answer` is called at most once, from another thread. If the owner has
    /// ended it is dropped, which must answer whoever waits with an error.
    fn ask(&self, intent: Intent, requester: Requester, answer: Answer);

    /// Whether the policy lets the agent read the file `path`.
    fn may_read(&self, path: &RelPath) -> bool;

    /// The run has opened `path` for reading and sees the version that the view shows now; `seen`
    /// is that version, if it is base's.
    fn read(&self, path: &RelPath, seen: Before);

    /// `path` is again as it is in base: what was claimed for it without being asked for can be
    /// given back (the temporary name of an editor's save).
    fn forget(&self, path: &RelPath);

    /// The text of one file of the virtual directory `.agentfs/`, made now. May take as long as
    /// the owner is busy: call it from a thread that may wait.
    fn notice(&self, notice: Notice) -> String;

    /// The agent has written `text` into a file of `.agentfs/` that takes orders; `is_dir` says
    /// whether the view shows a directory at a path. `done` is called like an [`Answer`]; what it
    /// means in words is the file's text from then on.
    fn order(
        &self,
        order: Notice,
        text: &[u8],
        is_dir: &dyn Fn(&RelPath) -> bool,
        requester: Requester,
        done: Ordered,
    );
}

/// The files of the virtual directory `.agentfs/` at a view's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Agent, run, base version, policy.
    Whoami,
    /// All leases.
    Locks,
    /// All claims that wait.
    Waiting,
    /// Why this agent waits or was refused.
    Explain,
    /// What this directory is.
    Readme,
    /// `*`, so that git ignores the directory.
    GitIgnore,
    /// Units that are written into it are claimed; has the latest answer.
    Claim,
    /// Units that are written into it are given back; has the latest answer.
    Release,
}

impl Notice {
    /// Every file with its name.
    pub const ALL: [(Notice, &'static str); 8] = [
        (Notice::Whoami, "whoami"),
        (Notice::Locks, "locks"),
        (Notice::Waiting, "waiting"),
        (Notice::Explain, "explain"),
        (Notice::Readme, "README.md"),
        (Notice::GitIgnore, ".gitignore"),
        (Notice::Claim, "claim"),
        (Notice::Release, "release"),
    ];

    /// Whether it takes orders: the others are for reading alone.
    pub fn takes_orders(self) -> bool {
        matches!(self, Self::Claim | Self::Release)
    }
}

/// A path that a view shows in another version than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Which.
    pub path: RelPath,
    /// What was there; none for nothing.
    pub before: Option<FileKind>,
    /// What is there now.
    pub after: Option<FileKind>,
}

impl Shift {
    /// The same as what has been done to the path.
    pub fn action(&self) -> Action {
        match (self.before, self.after) {
            (None, _) => Action::Added,
            (_, None) => Action::Deleted,
            (before, after) if before == after => Action::Modified,
            _ => Action::Retyped,
        }
    }
}

/// What came of moving a view to base's newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// What it shows otherwise, by path.
    pub shown: Vec<Shift>,
    /// Where base has changed and the delta hides it: these may be conflicts.
    pub covered: Vec<RelPath>,
}

/// What the owner of the state needs from a view. It never calls back into the gate.
pub trait ViewControl: Send + Sync + 'static {
    /// Before an apply replaces `paths` in base: keeps their present versions as pins, so that
    /// this view goes on showing them.
    fn pin(&self, paths: &[RelPath]) -> std::io::Result<()>;

    /// Moves `paths` (all, if none are given) to what base holds now: drops their pins and makes
    /// the kernel forget what it cached.
    fn sync(&self, paths: Option<&[RelPath]>) -> std::io::Result<()>;

    /// Moves the whole view while it is used, and says what that changes. The kernel is told of
    /// exactly that, soon: see [`ViewControl::settle`].
    fn advance(&self) -> std::io::Result<Advanced>;

    /// Waits until the kernel has heard of all that was changed, but never longer than a moment:
    /// an operation may be waiting at the gate in a directory that the kernel needs for it.
    fn settle(&self);

    /// After `paths` of the delta (all that is not scratch, if none are given) have become part of
    /// base, or were discarded: removes them from the delta and makes the kernel forget what it
    /// cached.
    fn drop_from_delta(&self, paths: Option<&[RelPath]>) -> std::io::Result<()>;

    /// The paths that some process has open for writing now.
    fn open_for_writing(&self) -> Vec<RelPath>;
}
