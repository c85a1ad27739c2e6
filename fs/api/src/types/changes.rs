//! What agents have changed and read, and what becomes of it.

use super::{Author, Exit, Moved, Outcome};
use agentfs_core::changeset::{ChangeSet, Conflict};
use agentfs_core::{AgentName, BaseVersion, RelPath, RunId, Timestamp, WorkUnit};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
