//! Folding an event into the state: the one way in which state ever changes, at run time and at
//! recovery alike.

use super::{
    Agent, ClaimEnd, Event, Exit, INCIDENTS_KEPT, Incident, LeaseEnd, Machine, Outcome, Run, State,
    Submission, Underway,
};
use crate::changeset::BasedOn;
use crate::ids::{AgentName, RunId};
use crate::locks::{Claim, Origin};
use crate::path::RelPath;
use crate::reads::{Looked, Reads};
use crate::time::Timestamp;
use crate::unit::WorkUnit;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An event that does not fit the state: the journal was not written by this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal does not fit together: {0}")]
pub struct Misfit(pub String);

fn misfit(what: &impl ToString) -> Misfit {
    Misfit(what.to_string())
}

impl Machine {
    /// Folds one event of the journal, as it was when it happened at `at`.
    pub fn fold(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        self.state.fold(event, at)
    }
}

impl State {
    pub(super) fn fold(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        match event {
            Event::RunQueued { .. }
            | Event::Configured { .. }
            | Event::RunStarted { .. }
            | Event::RunEnded { .. }
            | Event::ProcessBegan { .. }
            | Event::ProcessEnded { .. }
            | Event::Renewed { .. }
            | Event::Sealed { .. } => self.fold_run(event, at),
            Event::Granted { .. }
            | Event::LeaseEnded { .. }
            | Event::Queued { .. }
            | Event::ClaimMoved { .. }
            | Event::Approved { .. }
            | Event::ClaimEnded { .. }
            | Event::Refused { .. } => self.fold_lock(event, at),
            Event::Synced { .. } | Event::ConflictComes { .. } | Event::ConflictGone { .. } => {
                self.fold_moving(event, at)
            }
            Event::Based { .. }
            | Event::Read { .. }
            | Event::Forgotten { .. }
            | Event::ApplyBegun { .. }
            | Event::Applied { .. }
            | Event::Pending { .. }
            | Event::Discarded { .. }
            | Event::DeltaCleared { .. } => self.fold_work(event, at),
        }
    }

    /// What happens to runs.
    fn fold_run(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        match event {
            Event::RunQueued { submission } => {
                self.last_run = self.last_run.max(submission.run);
                self.submitted.insert(submission.run, (**submission).clone());
                self.line_up(&submission.agent);
            }
            Event::Configured { settings } => {
                self.settings = settings.clone();
                self.locks.set_slots(settings.slots.clone());
                self.hold_back_runs();
            }
            Event::RunStarted { run, agent, argv, policy, process, parent, plan } => {
                let started = Run {
                    id: *run,
                    agent: agent.clone(),
                    argv: argv.clone(),
                    policy: policy.clone(),
                    process: process.clone(),
                    started: at,
                    base: self.base_version,
                    ended: None,
                    outcome: None,
                    parent: parent.clone(),
                    plan: plan.clone(),
                    units: self.locks.leases_of(agent).map(|lease| lease.unit.clone()).collect(),
                    written: BTreeSet::new(),
                    processes: BTreeSet::new(),
                    incidents: Vec::new(),
                };
                self.begin(started);
            }
            Event::RunEnded { run, agent, exit, changed, why } => {
                let outcome = match changed {
                    0 => Outcome::Nothing,
                    _ => Outcome::Pending(why.clone()),
                };
                self.end(*run, agent, (at, *exit), outcome)?;
            }
            Event::ProcessBegan { run, unit, .. } => {
                let run = self.runs.get_mut(run).ok_or_else(|| misfit(run))?;
                run.processes.insert(unit.clone());
            }
            Event::Renewed { agent } => self.known_mut(agent)?.last_sign = at,
            Event::Sealed { agent } => self.known_mut(agent)?.sealed = true,
            _ => {}
        }
        Ok(())
    }

    /// What happens to leases and in the queue.
    fn fold_lock(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        match event {
            Event::Granted { lease } => {
                self.last_token = self.last_token.max(lease.token);
                let holder = self.agents.entry(lease.agent.clone()).or_insert_with(|| idle(at));
                // Whoever gets something has asked for it just now, or waits for it.
                holder.last_sign = at;
                if let Some(run) = lease.run.and_then(|run| self.runs.get_mut(&run)) {
                    run.units.insert(lease.unit.clone());
                }
                self.locks.insert(lease.clone());
            }
            Event::LeaseEnded { token, agent, unit, why } => {
                let lease = self.locks.remove(*token).ok_or_else(|| misfit(token))?;
                self.habits.learn(&lease.unit, at.since(lease.since));
                if *why == LeaseEnd::Forgotten {
                    self.no_longer_held(agent, unit);
                }
            }
            Event::Queued { claim, .. } => {
                self.last_claim = self.last_claim.max(claim.id);
                self.locks.enqueue(claim.clone());
                if claim.origin == Origin::Start {
                    self.hold_back_runs();
                }
            }
            Event::ClaimMoved { claim, rank, .. } => {
                self.locks.move_to(*claim, *rank).then_some(()).ok_or_else(|| misfit(claim))?;
                self.hold_back_runs();
            }
            Event::Approved { claim, .. } => {
                self.locks.approve(*claim).then_some(()).ok_or_else(|| misfit(claim))?;
            }
            Event::ClaimEnded { claim, end, text, .. } => {
                let claim = self.locks.dequeue(*claim).ok_or_else(|| misfit(claim))?;
                if claim.origin == Origin::Start && *end != ClaimEnd::Granted {
                    self.submitted.retain(|_, submission| submission.claim != claim.id);
                    self.line_up(&claim.agent);
                    self.hold_back_runs();
                }
                if *end != ClaimEnd::RunEnded {
                    self.remember(waited(&claim, at, text));
                }
            }
            Event::Refused { agent, unit, text, .. } => self.remember(Incident {
                at,
                agent: agent.clone(),
                unit: unit.clone(),
                waited: Duration::ZERO,
                text: text.clone(),
            }),
            _ => {}
        }
        Ok(())
    }

    /// What happens to changes.
    fn fold_work(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        match event {
            Event::Based { agent, path, before } => {
                let known = self.known_mut(agent)?;
                known.based.insert(path.clone(), *before);
                if let Some(run) = known.live.and_then(|run| self.runs.get_mut(&run)) {
                    run.written.insert(path.clone());
                }
            }
            Event::Read { agent, paths } => {
                let base = self.live_run_of(agent).map_or(self.base_version, |run| run.base);
                let looked = |(path, version): &(RelPath, _)| {
                    (path.clone(), Looked { version: *version, at, base })
                };
                self.known_mut(agent)?.reads.extend(paths.iter().map(looked));
            }
            Event::Forgotten { agent, path } => {
                let known = self.known_mut(agent)?;
                known.based.remove(path);
                known.forget_settled();
            }
            Event::ApplyBegun { agent, paths, stage, plan } => {
                let (paths, stage, plan) = (paths.clone(), stage.clone(), plan.clone());
                self.underway.insert(agent.clone(), Underway { paths, stage, plan });
            }
            Event::Applied { agent, version, paths, rebased } => {
                self.underway.remove(agent);
                self.base_version = *version;
                let known = self.known_mut(agent)?;
                if known.live.is_some() {
                    for path in paths {
                        known.based.remove(path);
                    }
                } else {
                    // What was copied up and never changed is not pending either.
                    known.based.clear();
                    known.reads.clear();
                }
                // It knows what it wrote.
                for path in paths {
                    known.reads.remove(path);
                }
                known.forget_settled();
                known.based.extend(rebased.iter().cloned());
                self.applied.insert(*version, (at, agent.clone()));
                self.note_authors(agent, paths);
                self.settle(agent, &Outcome::Applied(*version))?;
            }
            Event::Pending { agent, why } => self.explain_pending(agent, why),
            Event::Discarded { agent } => {
                let known = self.known_mut(agent)?;
                known.based.clear();
                known.reads.clear();
                known.forget_settled();
                known.clearing = true;
                self.settle(agent, &Outcome::Discarded)?;
            }
            Event::DeltaCleared { agent } => self.known_mut(agent)?.clearing = false,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, run: Run) {
        self.last_run = self.last_run.max(run.id);
        let agent = self.agents.entry(run.agent.clone()).or_insert_with(|| idle(run.started));
        agent.live = Some(run.id);
        agent.latest = Some(run.id);
        agent.sealed = false;
        agent.last_sign = run.started;
        agent.ttl = run.policy.ttl.0;
        self.submitted.remove(&run.id);
        let agent = run.agent.clone();
        self.runs.insert(run.id, run);
        self.line_up(&agent);
        self.hold_back_runs();
    }

    /// An agent works for whom its run works: the live one, or else the next, or else the latest.
    fn line_up(&mut self, agent: &AgentName) {
        let known = self.agents.get(agent);
        let is_live = known.is_some_and(|known| known.live.is_some());
        let next = self.submitted.values().find(|next| !is_live && next.agent == *agent);
        let latest = known.and_then(|known| self.runs.get(&known.latest?));
        let parent = next
            .map_or_else(|| latest.and_then(|run| run.parent.clone()), |next| next.parent.clone());
        self.locks.set_works_for(agent, parent);
    }

    /// Runs whose turn it is not are in nobody's way.
    fn hold_back_runs(&mut self) {
        let turns = |queued: &Submission| (queued.claim, !self.turns(queued).is_empty());
        let turns: Vec<_> = self.submitted.values().map(turns).collect();
        for (claim, is_held_back) in turns {
            self.locks.hold_back(claim, is_held_back);
        }
    }

    fn end(
        &mut self,
        run: RunId,
        agent: &AgentName,
        ended: (Timestamp, Exit),
        outcome: Outcome,
    ) -> Result<(), Misfit> {
        let pending = outcome != Outcome::Nothing;
        let known = self.runs.get_mut(&run).ok_or_else(|| misfit(&run))?;
        known.ended = Some(ended);
        known.outcome = Some(outcome);
        let name = agent.clone();
        let agent = self.known_mut(agent)?;
        agent.live = None;
        agent.last_sign = ended.0;
        agent.pending = pending;
        if !pending {
            agent.based.clear();
            agent.reads.clear();
        }
        agent.forget_settled();
        self.forget_authors();
        self.line_up(&name);
        self.hold_back_runs();
        Ok(())
    }

    pub(super) fn known_mut(&mut self, agent: &AgentName) -> Result<&mut Agent, Misfit> {
        self.agents.get_mut(agent).ok_or_else(|| misfit(agent))
    }

    /// All pending runs of an agent share one delta, and so one outcome.
    fn settle(&mut self, agent: &AgentName, outcome: &Outcome) -> Result<(), Misfit> {
        let known = self.known_mut(agent)?;
        known.sealed = false;
        known.pending = false;
        for pending in self.pending_runs(agent) {
            pending.outcome = Some(outcome.clone());
        }
        Ok(())
    }

    fn explain_pending(&mut self, agent: &AgentName, why: &str) {
        for pending in self.pending_runs(agent) {
            pending.outcome = Some(Outcome::Pending(why.to_owned()));
        }
    }

    fn pending_runs(&mut self, agent: &AgentName) -> impl Iterator<Item = &mut Run> {
        self.runs
            .values_mut()
            .filter(move |run| run.agent == *agent)
            .filter(|run| matches!(run.outcome, Some(Outcome::Pending(_))))
    }

    /// The name was only passing, so the run's summary need not tell of it.
    fn no_longer_held(&mut self, agent: &AgentName, unit: &WorkUnit) {
        let live = self.agents.get(agent).and_then(|agent| agent.live);
        if let Some(run) = live.and_then(|run| self.runs.get_mut(&run)) {
            run.units.remove(unit);
        }
    }

    fn remember(&mut self, incident: Incident) {
        let live = self.agents.get(&incident.agent).and_then(|agent| agent.live);
        if let Some(run) = live.and_then(|run| self.runs.get_mut(&run)) {
            run.incidents.push(incident.clone());
        }
        if self.incidents.len() == INCIDENTS_KEPT {
            self.incidents.pop_front();
        }
        self.incidents.push_back(incident);
    }
}

fn idle(at: Timestamp) -> Agent {
    let ttl = crate::config::Config::default().ttl.0;
    Agent {
        live: None,
        latest: None,
        based: BasedOn::new(),
        reads: Reads::new(),
        coming: BTreeMap::new(),
        pending: false,
        clearing: false,
        sealed: false,
        last_sign: at,
        ttl,
    }
}

fn waited(claim: &Claim, at: Timestamp, text: &str) -> Incident {
    let unit = claim.wants.first().map(|want| want.unit.clone()).unwrap_or_default();
    Incident {
        at,
        agent: claim.agent.clone(),
        unit,
        waited: at.since(claim.since),
        text: text.to_owned(),
    }
}
