//! Plans and the queue, as the operator handles them.

use super::owner::read_config;
use super::{Owner, ServiceError, report};
use agentfs_api::types::{CheckedPlan, PlanConflict, PlannedRun, PlannedStep, Stolen};
use agentfs_core::machine::{Command, Line, Rejection, Reply, Run, Turn};
use agentfs_core::plan::Plan;
use agentfs_core::{AgentName, ClaimId, RunId, Want, WorkUnit, explain};
use std::collections::BTreeSet;

impl Owner {
    /// Gives a claim another place in the queue.
    pub fn move_claim(&mut self, claim: ClaimId, to: Line) -> Result<(), ServiceError> {
        self.command(Command::MoveClaim { claim, to }).map(drop)
    }

    /// Agrees to a claim, and grants it ahead of all others.
    pub fn grant_by_hand(&mut self, claim: ClaimId, steal: bool) -> Result<Stolen, ServiceError> {
        self.command(Command::Grant { claim, steal }).map(stolen)
    }

    /// Refuses a claim.
    pub fn refuse_claim(
        &mut self,
        claim: ClaimId,
        why: Option<String>,
    ) -> Result<(), ServiceError> {
        self.command(Command::Refuse { claim, why }).map(drop)
    }

    /// Takes a unit from those who hold something of it.
    pub fn steal(&mut self, unit: WorkUnit, to: Option<AgentName>) -> Result<Stolen, ServiceError> {
        self.command(Command::Steal { unit, to }).map(stolen)
    }

    /// What would happen if a run with this plan started now.
    pub fn check_plan(
        &mut self,
        agent: Option<AgentName>,
        plan: &Plan,
    ) -> Result<CheckedPlan, ServiceError> {
        let agent = agent.unwrap_or_else(|| self.unknown_agent());
        let mut checked = self.check_own_plan(&agent, plan)?;
        let config = read_config(&self.workspace)?;
        checked.turns = self.turns_of(&agent, config.settings().max_parallel);
        checked.starts &= checked.turns.is_empty();
        Ok(checked)
    }

    /// Whether an agent would have all of this plan at once: it runs already, so its turn has come.
    pub fn check_own_plan(
        &mut self,
        agent: &AgentName,
        plan: &Plan,
    ) -> Result<CheckedPlan, ServiceError> {
        let wants = plan.wants();
        let units: Vec<WorkUnit> = wants.iter().map(|want| want.unit.clone()).collect();
        self.recall(agent, &units);
        // As it is now: a run would begin with that.
        let policy = read_config(&self.workspace)?.policy().of(agent);
        let barred = plan.barred(agent, &policy).into_iter();
        let mut conflicts: Vec<PlanConflict> =
            barred.map(|(want, why)| conflict(plan, &want, None, why)).collect();
        for want in &wants {
            conflicts.extend(self.obstacles_of(agent, plan, want));
        }
        let starts = conflicts.is_empty();
        Ok(CheckedPlan { starts, wants, conflicts, turns: Vec::new() })
    }

    /// The name of an agent that has never been.
    fn unknown_agent(&self) -> AgentName {
        let new = AgentName::of_a_new_one();
        let numbered = (2..).filter_map(|n| format!("{new}-{n}").parse().ok());
        let mut names = std::iter::once(new.clone()).chain(numbered);
        names.find(|name| !self.state().agents.contains_key(name)).unwrap_or(new)
    }

    /// Why a run of `agent` would not start at once even if it needed no unit.
    fn turns_of(&self, agent: &AgentName, most: Option<usize>) -> Vec<String> {
        let state = self.state();
        let live = state.live_run_of(agent).map(|run| Turn::SameAgent(run.id));
        let queued = state.submitted.values().find(|submission| submission.agent == *agent);
        let queued = queued.map(|submission| Turn::SameAgent(submission.run));
        let alive = state.agents.values().filter(|known| known.live.is_some()).count();
        let parallel = most.filter(|most| alive >= *most).map(Turn::Parallel);
        let turns = live.or(queued).into_iter().chain(parallel);
        let told = turns.map(|turn| {
            let (why, way_out) = explain::not_its_turn(state, turn);
            format!("{why}. {way_out}")
        });
        told.collect()
    }

    fn obstacles_of(&self, agent: &AgentName, plan: &Plan, want: &Want) -> Vec<PlanConflict> {
        let state = self.state();
        let obstacles = state.locks.obstacles(agent, std::slice::from_ref(want), None);
        let now = self.clock.now();
        let told = obstacles.into_iter().map(|obstacle| {
            let (why, way_out) = explain::obstacle(state, &obstacle, now);
            let blocker = Some(report::blocker(obstacle));
            conflict(plan, want, blocker, format!("{why}. {way_out}"))
        });
        told.collect()
    }

    /// A run's plan against what it touched.
    pub fn planned(&mut self, run: RunId) -> Result<PlannedRun, ServiceError> {
        self.collect_all();
        let known = self.state().runs.get(&run).ok_or(Rejection::UnknownRun(run))?;
        Ok(planned(known))
    }
}

fn stolen(reply: Reply) -> Stolen {
    match reply {
        Reply::Stolen(from) => Stolen { from, waits: false },
        reply => Stolen { from: Vec::new(), waits: matches!(reply, Reply::Waiting(_)) },
    }
}

fn conflict(
    plan: &Plan,
    want: &Want,
    blocker: Option<agentfs_api::types::Blocker>,
    why: String,
) -> PlanConflict {
    PlanConflict { want: want.clone(), steps: plan.steps_with(&want.unit), blocker, why }
}

/// What a run touched: the paths that it wrote, and the named units that it held.
fn touched(run: &Run) -> BTreeSet<WorkUnit> {
    let written = run.written.iter().cloned().map(WorkUnit::File);
    let declared: BTreeSet<WorkUnit> =
        run.plan.iter().flat_map(Plan::wants).map(|w| w.unit).collect();
    let named = run.units.iter().filter(|unit| unit.path().is_none() && !declared.contains(unit));
    written.chain(named.cloned()).chain(run.processes.iter().cloned()).collect()
}

fn planned(run: &Run) -> PlannedRun {
    let touched = touched(run);
    let of = |want: &Want| {
        let inside = touched.iter().filter(|unit| want.unit.covers(unit));
        (want.clone(), inside.cloned().collect())
    };
    let step = |step: &agentfs_core::plan::Step| PlannedStep {
        name: step.name.clone(),
        units: step.needs.iter().map(of).collect(),
    };
    let plan = run.plan.clone().unwrap_or_default();
    let undeclared = touched.iter().filter(|unit| plan.step_of(unit).is_none()).cloned().collect();
    PlannedRun {
        run: run.id,
        agent: run.agent.clone(),
        steps: plan.steps.iter().map(step).collect(),
        undeclared,
        has_plan: run.plan.is_some(),
    }
}
