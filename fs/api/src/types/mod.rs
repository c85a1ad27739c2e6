//! The JSON bodies of the control API, version 1.
//!
//! Fields are only ever added, and each addition has a default, so that an older reader and a
//! newer writer understand each other.

mod changes;
mod locks;
mod plans;
mod runs;

pub use agentfs_core::machine::{After, Author, Exit, Moved};
pub use changes::*;
pub use locks::*;
pub use plans::*;
pub use runs::*;

use agentfs_core::changeset::Conflict;
use agentfs_core::config::Config;
use agentfs_core::{AgentName, BaseVersion, RunId, Timestamp, WorkUnit};
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
    /// It has a run that waits to start.
    Queued,
    /// None of these.
    Idle,
}

/// `GET /v1/explain?path=...`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Each a sentence: present waits first, then recent refusals, newest first.
    pub sentences: Vec<String>,
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
    /// The work units that it is about.
    #[serde(default)]
    pub units: Vec<WorkUnit>,
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
