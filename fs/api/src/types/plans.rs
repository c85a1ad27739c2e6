//! Plans: what would happen, and what did.

use super::Blocker;
use agentfs_core::plan::Plan;
use agentfs_core::{AgentName, RunId, Want, WorkUnit};
use serde::{Deserialize, Serialize};

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
    /// Why else it would not start at once, in sentences.
    #[serde(default)]
    pub turns: Vec<String>,
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
