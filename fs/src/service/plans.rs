//! Plans and the queue, as the operator handles them.

use super::{Owner, ServiceError, report};
use agentfs_api::types::{CheckedPlan, PlanConflict, PlannedRun, PlannedStep, Stolen};
use agentfs_core::machine::{Command, Line, Rejection, Reply, Run};
use agentfs_core::plan::Plan;
use agentfs_core::policy::Access;
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
        // An agent that holds nothing stands for one that is new.
        let agent = agent.map_or_else(|| "new".parse(), Ok);
        let agent = agent.map_err(|_| ServiceError::Stopped)?;
        let wants = plan.wants();
        let units: Vec<WorkUnit> = wants.iter().map(|want| want.unit.clone()).collect();
        self.recall(&agent, &units);
        let mut policy = self.config.policy();
        policy.rules.retain(|rule| rule.is_for(&agent));
        let mut conflicts = Vec::new();
        for want in &wants {
            let access = policy.terms(&want.unit).access;
            if matches!(access, Access::ReadOnly | Access::Forbidden) {
                let why = explain::out_of_bounds(&agent, &want.unit, "run", access);
                conflicts.push(conflict(plan, want, None, why));
            }
            conflicts.extend(self.obstacles_of(&agent, plan, want));
        }
        let most = self.state().settings.max_parallel.unwrap_or(usize::MAX);
        let alive = self.state().agents.values().filter(|known| known.live.is_some()).count();
        let is_idle = self.state().live_run_of(&agent).is_none();
        let starts = conflicts.is_empty() && alive < most && is_idle;
        Ok(CheckedPlan { starts, wants, conflicts })
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
    let needs = |step: &&agentfs_core::plan::Step| {
        step.needs.iter().any(|need| need.unit.overlaps(&want.unit))
    };
    let steps = plan.steps.iter().filter(needs).map(|step| step.name.clone()).collect();
    PlanConflict { want: want.clone(), steps, blocker, why }
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
