//! The JSON bodies of the control API, version 1.
//!
//! Fields are only ever added, and each addition has a default, so that an older reader and a
//! newer writer understand each other.

use agentfs_core::changeset::{ChangeSet, Conflict};
use agentfs_core::config::{Config, Span, Unclaimed};
use agentfs_core::locks::Priority;
use agentfs_core::plan::Plan;
use agentfs_core::process_rules::ProcessRules;
use agentfs_core::{
    AgentName, BaseVersion, ClaimId, Mode, RelPath, RunId, Timestamp, Token, Want, WorkUnit,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The environment variable that names the control socket; set inside every sandbox.
pub const SOCKET_VARIABLE: &str = "AGENTFS_SOCKET";

/// The answer to a request that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What kind of failure, for programs.
    pub code: ErrorCode,
    /// One sentence for people: what failed, which, and what to do.
    pub message: String,
    /// The paths in the way, where an apply met another base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
}

/// Kinds of failure. Each has one HTTP status and one exit code of `agentctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not well-formed.
    BadRequest,
    /// No such agent, run, unit or claim.
    NotFound,
    /// Another agent holds it, or base is not what the change was based on.
    Conflict,
    /// The wait reached its deadline.
    TimedOut,
    /// The caller has no right to do this.
    Forbidden,
    /// The daemon failed.
    Internal,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The workspace's real directory.
    pub root: PathBuf,
    /// Where the views are: `MOUNTPOINT/AGENT`.
    pub mountpoint: PathBuf,
    /// Where journal, deltas and homes are kept.
    pub state_dir: PathBuf,
    /// The daemon's process id.
    pub pid: u32,
    /// When it began to serve.
    pub since: Timestamp,
    /// The daemon's version.
    pub version: String,
    /// How many change sets have been applied.
    pub base_version: BaseVersion,
    /// Live runs.
    pub live_runs: usize,
    /// Leases held.
    pub leases: usize,
    /// Claims that wait.
    pub waiting: usize,
    /// Agents with changes that are neither applied nor discarded.
    pub pending: usize,
    /// Paths at which an apply would be refused now, over all agents.
    #[serde(default)]
    pub conflicts: usize,
    /// The configuration in force.
    pub config: Config,
    /// How views are served, e.g. "as root" or "rootless, by fusermount3".
    pub mount_method: String,
    /// How many directories of base are watched, so that nobody has to ask them again.
    #[serde(default)]
    pub watched: usize,
    /// The views that are mounted.
    #[serde(default)]
    pub views: Vec<ViewStatus>,
}

/// How one view is served, and what that has cost since it was mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Whose it is.
    pub agent: AgentName,
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Whether the kernel reads and writes large and written files by itself.
    pub passthrough: bool,
    /// How many files and directories the kernel knows.
    pub inodes: usize,
    /// How much memory the daemon needs for them, in bytes.
    pub inode_bytes: usize,
    /// How many files were copied up.
    pub copied_files: u64,
    /// How many bytes that were.
    pub copied_bytes: u64,
    /// How many requests of each kind the kernel has sent.
    pub requests: BTreeMap<String, u64>,
}

/// One lease: `GET /v1/locks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// What is held.
    pub unit: WorkUnit,
    /// Shared or exclusive.
    pub mode: Mode,
    /// Who holds it.
    pub agent: AgentName,
    /// The run that claimed it; none for a claim made by hand without one.
    pub run: Option<RunId>,
    /// The fencing token.
    pub token: Token,
    /// Since when.
    pub since: Timestamp,
    /// When it ends if its run gives no sign of life.
    pub expires: Timestamp,
    /// How many claims wait for it.
    pub waiters: usize,
}

/// One claim that waits: `GET /v1/queue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The claim.
    pub claim: ClaimId,
    /// Its place among the claims that overlap it, from 1.
    pub position: usize,
    /// What it wants; nothing, if it is a run that waits only for its turn.
    pub wants: Vec<Want>,
    /// Who wants it.
    pub agent: AgentName,
    /// For which run, if for one.
    pub run: Option<RunId>,
    /// Who is in the way, and with what.
    pub blockers: Vec<Blocker>,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it gives up; none for never.
    pub deadline: Option<Timestamp>,
    /// What waits: an open, a rename, a claim by hand, a run that is to start.
    pub cause: String,
    /// Whether the operator has to agree first.
    pub asks: bool,
    /// The process that waits to start a run, for such a claim.
    #[serde(default)]
    pub process: Option<u32>,
    /// How much longer it is going to take, by what has been; none where nobody can know.
    #[serde(default)]
    pub estimate: Option<Span>,
    /// Each thing that it waits for, with the way out, in sentences.
    #[serde(default)]
    pub why: Vec<String>,
}

/// What stands in the way of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The agent.
    pub agent: AgentName,
    /// The unit it holds, or waits for with an earlier place in the queue.
    pub unit: WorkUnit,
    /// Since when.
    pub since: Timestamp,
    /// Whether it holds the unit; else it only is ahead in the queue.
    pub holds: bool,
}

/// One agent: `GET /v1/agents`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// What it is doing.
    pub state: AgentState,
    /// Its latest run.
    pub run: Option<RunId>,
    /// Where its view is served, if it is.
    pub view: Option<PathBuf>,
    /// Units it holds.
    pub leases: usize,
    /// Paths it has changed and not yet applied or discarded.
    pub changed: usize,
    /// Paths among these at which an apply would be refused now.
    #[serde(default)]
    pub conflicts: usize,
    /// The last sign of life.
    pub last_active: Timestamp,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It has a live run.
    Running,
    /// It has a live run that waits in the queue.
    Waiting,
    /// It has no live run, but changes that wait for apply or discard.
    Pending,
    /// Neither.
    Idle,
}

/// One run: `GET /v1/runs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub agent: AgentName,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What became of its changes; none while it lives.
    pub outcome: Option<Outcome>,
}

pub use agentfs_core::machine::{After, Author, Exit, Moved};

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

/// Something that a run has read and somebody else has changed since: `GET /v1/radar`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleRead {
    /// Who has read it.
    pub agent: AgentName,
    /// In which run, the latest of that agent.
    pub run: Option<RunId>,
    /// What.
    pub path: RelPath,
    /// At which version of base.
    pub read: BaseVersion,
    /// When.
    pub read_at: Timestamp,
    /// What has become of it.
    pub change: ReadChange,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// One sentence.
    pub text: String,
}

/// What has become of something that a run has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadChange {
    /// Base has another version, of an agent.
    Applied {
        /// Whose.
        by: AgentName,
        /// Which version of base that made.
        version: BaseVersion,
    },
    /// Base has another version, and no agent made it.
    ByHand,
    /// Another agent has changed it, and that is not applied yet.
    Underway {
        /// Who.
        by: AgentName,
    },
}

/// `POST /v1/agents/AGENT/apply`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyChanges {
    /// Whether what the changes rest on may have changed, whatever `isolation` says.
    #[serde(default)]
    pub stale: bool,
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

/// `POST /v1/claims`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimUnits {
    /// For whom; an agent's own socket needs no name.
    pub agent: Option<AgentName>,
    /// All or none of these.
    pub wants: Vec<Want>,
    /// How long to wait; none for the configuration's `wait`.
    #[serde(default)]
    pub wait: Option<Span>,
    /// What claims them, for sentences, such as a command; none for "claim".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The answer to [`ClaimUnits`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claimed {
    /// The leases, in the order of the units that were asked for.
    pub leases: Vec<Lock>,
}

/// `POST /v1/release`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseUnit {
    /// Whose lease; none for the caller's own or, for the operator, the only holder.
    pub agent: Option<AgentName>,
    /// What to release.
    pub unit: WorkUnit,
}

/// The answer to [`ReleaseUnit`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Released {
    /// Who held it.
    pub agent: AgentName,
    /// What was released.
    pub unit: WorkUnit,
}

/// `POST /v1/claims/CLAIM/move`: where in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveClaim {
    /// Ahead of all.
    First,
    /// Right ahead of this claim.
    Before(ClaimId),
    /// Behind all.
    Last,
}

/// `POST /v1/claims/CLAIM/grant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantClaim {
    /// Whether those who hold what it wants lose it.
    #[serde(default)]
    pub steal: bool,
}

/// `POST /v1/claims/CLAIM/refuse`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefuseClaim {
    /// Why, for whoever waited.
    #[serde(default)]
    pub why: Option<String>,
}

/// `POST /v1/steal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StealUnit {
    /// What.
    pub unit: WorkUnit,
    /// Who gets it; nobody for the first in line.
    #[serde(default)]
    pub to: Option<AgentName>,
}

/// What was taken away: the answer to [`StealUnit`] and [`GrantClaim`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stolen {
    /// From whom, and what.
    pub from: Vec<(AgentName, WorkUnit)>,
    /// Whether a claim that was agreed to waits on, because others hold something of it.
    #[serde(default)]
    pub waits: bool,
}

/// `POST /v1/plan/check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckPlan {
    /// Whose run it would be; none for a new agent.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// What it would declare.
    pub plan: Plan,
}

/// The answer to [`CheckPlan`]: what would happen if a run started with it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedPlan {
    /// Whether it would start at once.
    pub starts: bool,
    /// All that it would begin with.
    pub wants: Vec<Want>,
    /// Who is in the way, of which steps, in sentences.
    pub conflicts: Vec<PlanConflict>,
}

/// Something that a plan would wait for, or that a policy forbids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanConflict {
    /// The unit that is wanted.
    pub want: Want,
    /// The steps that want it.
    pub steps: Vec<String>,
    /// Who holds it or is ahead; none if a policy forbids it.
    pub blocker: Option<Blocker>,
    /// In words.
    pub why: String,
}

/// `GET /v1/runs/RUN/plan`: a plan against what was touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRun {
    /// Which run.
    pub run: RunId,
    /// Whose.
    pub agent: AgentName,
    /// Its steps with their units.
    pub steps: Vec<PlannedStep>,
    /// What it touched and had not declared.
    pub undeclared: Vec<WorkUnit>,
    /// Whether it had a plan at all.
    pub has_plan: bool,
}

/// One step of a [`PlannedRun`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What people call it.
    pub name: String,
    /// Each unit, and what was touched of it: nothing means that it was not used.
    pub units: Vec<(Want, Vec<WorkUnit>)>,
}

/// `GET /v1/agents/AGENT/diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Diff {
    /// Whose.
    pub agent: AgentName,
    /// The changes with line counts; `GET .../patch` has the text.
    pub changes: ChangeSet,
    /// Paths whose base is no longer what they were based on.
    pub conflicts: Vec<Conflict>,
}

/// `POST /v1/agents/AGENT/apply` and `.../discard`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// Whose changes.
    pub agent: AgentName,
    /// What they were.
    pub changes: ChangeSet,
    /// What became of them.
    pub outcome: Outcome,
    /// The units that are free again.
    pub released: Vec<WorkUnit>,
}

/// `POST /v1/sync`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncView {
    /// Whose view; an agent's own socket needs no name.
    pub agent: Option<AgentName>,
}

/// The answer to [`SyncView`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Whose view.
    pub agent: AgentName,
    /// The version of base that it was at.
    pub from: BaseVersion,
    /// The version that it is at now.
    pub version: BaseVersion,
    /// What it shows otherwise, by path.
    pub moved: Vec<Moved>,
    /// Where base has changed under the agent's own changes, which it goes on seeing.
    pub conflicts: Vec<ComingConflict>,
}

/// A path at which an apply would be refused now, because base has changed under the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingConflict {
    /// Whose change.
    pub agent: AgentName,
    /// Where.
    pub path: RelPath,
    /// When it was found.
    pub since: Timestamp,
    /// Whose apply changed base; none if somebody did by hand.
    #[serde(default)]
    pub author: Option<Author>,
    /// One sentence.
    pub text: String,
}

/// `GET /v1/explain?path=...`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Each a sentence: present waits first, then recent refusals, newest first.
    pub sentences: Vec<String>,
}

/// Work that is neither applied nor discarded: `GET /v1/recover`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recoverable {
    /// Whose.
    pub agent: AgentName,
    /// The run that made it.
    pub run: Option<RunId>,
    /// How that run ended.
    pub exit: Option<Exit>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Paths changed.
    pub changed: usize,
    /// Lines added.
    pub added: u64,
    /// Lines removed.
    pub removed: u64,
    /// Whether its leases are gone: it can still be applied where base has not moved.
    pub sealed: bool,
    /// Where the delta is on disk, in overlayfs's format.
    pub delta: PathBuf,
    /// Paths whose base has moved since.
    pub conflicts: Vec<RelPath>,
}

/// One entry of the journal: `GET /v1/log`, and an event of `GET /v1/log/stream`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its number, from 1 without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Whose doing it is about, if an agent's.
    pub agent: Option<AgentName>,
    /// A sentence.
    pub text: String,
    /// The event itself.
    pub event: serde_json::Value,
}

/// One thing that `agentfs doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what it means.
    pub finding: String,
    /// What to do about it, unless all is well.
    pub remedy: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something works less well, or not for everybody.
    Limited,
    /// Agents can't run without it.
    Missing,
}
