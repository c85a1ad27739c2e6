//! Runs: their beginning, what a sandbox is built from, and their end.

use super::{After, ComingConflict, Exit, StaleRead};
use agentfs_core::changeset::ChangeSet;
use agentfs_core::config::{Span, Unclaimed};
use agentfs_core::locks::Priority;
use agentfs_core::plan::Plan;
use agentfs_core::process_rules::ProcessRules;
use agentfs_core::{AgentName, BaseVersion, RelPath, RunId, Timestamp, Want, WorkUnit};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One run: `GET /v1/runs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub agent: AgentName,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// When it began; for one that is queued, since when it waits.
    pub started: Timestamp,
    /// Whether it has not begun yet.
    #[serde(default)]
    pub queued: bool,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What became of its changes; none while it lives.
    pub outcome: Option<Outcome>,
}

/// What became of a run's changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// There were none.
    Nothing,
    /// They are part of base.
    Applied {
        /// The version of base that they made.
        version: BaseVersion,
    },
    /// They wait in the agent's delta.
    Pending {
        /// Why, in a sentence.
        why: String,
    },
    /// Somebody discarded them.
    Discarded,
}

/// `POST /v1/runs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartRun {
    /// Which agent; none for a free short name.
    pub agent: Option<AgentName>,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// What it must hold before it starts.
    #[serde(default)]
    pub claims: Vec<Want>,
    /// What it declares; the units of all steps are claimed before it starts, too.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// How much it matters beside others; none for the plan's word, else normal.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// Which runs have to end first.
    #[serde(default)]
    pub after: Vec<After>,
    /// The live run that it works for: what that holds is not in its way.
    #[serde(default)]
    pub parent: Option<RunId>,
    /// How long it may wait before it starts; none for ever.
    #[serde(default)]
    pub start_within: Option<Span>,
    /// Overrides `unclaimed` of the configuration.
    #[serde(default)]
    pub unclaimed: Option<Unclaimed>,
    /// Overrides `wait` of the configuration.
    #[serde(default)]
    pub wait: Option<Span>,
    /// The process whose end is the run's end (the shim).
    pub pid: u32,
}

/// The answer to [`StartRun`]: all that a sandbox is built from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartedRun {
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// The workspace's real directory: inside, the view is mounted over it.
    pub root: PathBuf,
    /// Where the agent's view is served.
    pub view: PathBuf,
    /// The agent's private home directory.
    pub home: PathBuf,
    /// The agent's own control socket.
    pub socket: PathBuf,
    /// The user and group to become first, where the daemon runs as root.
    pub run_as: Option<(u32, u32)>,
    /// How often to send a heartbeat.
    pub heartbeat: Span,
    /// The scratch directories that can be mounted past the view; none if none.
    #[serde(default)]
    pub scratch: Option<ScratchMounts>,
    /// What else the sandbox has to show for the repository to work.
    #[serde(default)]
    pub places: Vec<Place>,
    /// The commands that are work units, each with its `wait`; none if none.
    #[serde(default)]
    pub processes: ProcessRules,
}

/// Scratch directories to be mounted inside by kernel overlayfs, over the view: base's copy below,
/// the agent's delta above. Where one can't be, the view serves it with the same meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScratchMounts {
    /// The agent's own directory. In it is, of the directory at `PATH`, which is the Nth of the
    /// list from 0: its upper layer `delta/PATH`, and its work directory `mounts/N`. An empty
    /// lower layer is `mounts/empty`.
    pub layers: PathBuf,
    /// Whether the delta's attributes are `user.overlay.*` and not `trusted.overlay.*`.
    pub user_format: bool,
    /// Whose files are to be shown as whose, if that is different.
    pub owner: Option<ScratchOwner>,
    /// The directories, the most important first; none in another.
    pub directories: Vec<ScratchDirectory>,
}

/// One directory of [`ScratchMounts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScratchDirectory {
    /// Where.
    pub path: RelPath,
    /// Whether base's directory shows below the delta's.
    pub over_base: bool,
}

/// Users and groups that change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScratchOwner {
    /// The owner on the host: user and group.
    pub host: (u32, u32),
    /// Who the agent runs as.
    pub shown: (u32, u32),
}

/// `POST /v1/runs/RUN/unmounted`: scratch that could not be mounted, so that the view serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmounted {
    /// Each with the reason.
    pub directories: Vec<(RelPath, String)>,
}

/// `POST /v1/runs/RUN/process`: a named process of the run has begun, or is gone with all that it
/// started. The end of the run is the end of those that are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteProcess {
    /// What it holds.
    pub unit: WorkUnit,
    /// Its command line; none when it is gone.
    #[serde(default)]
    pub began: Option<Vec<String>>,
    /// Its number outside.
    pub pid: u32,
}

/// A directory of the host that a sandbox shows, beside the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where it is outside.
    pub from: PathBuf,
    /// Where it is to be inside.
    pub at: PathBuf,
    /// Whether it can be written to; only what is private to the agent can.
    #[serde(default)]
    pub writable: bool,
}

/// `POST /v1/runs/RUN/end`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndRun {
    /// How the command ended.
    pub exit: Exit,
}

/// The answer to [`EndRun`]: what people want to read at the end of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// What the agent's delta holds, or held until it was applied.
    pub changes: ChangeSet,
    /// The units that it held.
    pub units: Vec<WorkUnit>,
    /// The waits and refusals it had, in order.
    pub waits: Vec<WaitRecord>,
    /// What became of the changes.
    pub outcome: Outcome,
    /// Where base has changed under those that are still pending.
    #[serde(default)]
    pub conflicts: Vec<ComingConflict>,
    /// What the run has read and others have changed since.
    #[serde(default)]
    pub stale: Vec<StaleRead>,
}

/// One wait that has ended, or one refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitRecord {
    /// For what.
    pub unit: WorkUnit,
    /// How long, in milliseconds.
    pub millis: u64,
    /// One sentence: who was in the way and how it ended.
    pub text: String,
}
