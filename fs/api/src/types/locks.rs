//! Leases, claims and the queue.

use agentfs_core::config::Span;
use agentfs_core::locks::Priority;
use agentfs_core::{AgentName, ClaimId, Mode, RunId, Timestamp, Token, Want, WorkUnit};
use serde::{Deserialize, Serialize};

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
    /// How much it matters beside others.
    #[serde(default)]
    pub priority: Priority,
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

/// The answer to `POST /v1/heartbeat`, a sign of life for what the operator holds without a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// When to give the next one.
    pub again: Span,
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
    /// Whether it counts as the agent's own wish although the operator's program makes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_behalf: bool,
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

/// The answer to `GET /v1/wait?unit=...&timeout=...`: others hold nothing of the unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// What is free.
    pub unit: WorkUnit,
    /// How long that took, in milliseconds.
    pub millis: u64,
}
