//! Deciding what a command does: events, folded as they are made.

use super::{
    Author, BaseFacts, Command, Event, LeaseEnd, Machine, PathFacts, RefusalKind, Rejection, Reply,
    State, moving,
};
use crate::changeset::Before;
use crate::explain;
use crate::ids::{AgentName, ClaimId, Token};
use crate::locks::{Claim, Lease, Origin, Place, Terms};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::WorkUnit;
use std::collections::BTreeSet;

/// One command in the making: the machine, the events so far, and what follows from them.
pub(super) struct Step<'m> {
    machine: &'m mut Machine,
    pub(super) now: Timestamp,
    events: Vec<Event>,
    /// Claims that may be granted now because of the events.
    pub(super) to_look_at: BTreeSet<Place>,
    /// Whether there may be a circle of waits now that no new claim has made.
    tangled: bool,
}

impl Machine {
    /// Decides `command` at time `now`, and changes the state accordingly.
    ///
    /// The events are for the journal; folding them into the state before gives the state after.
    /// On [`Rejection`] the state is as before.
    pub fn apply(
        &mut self,
        command: Command,
        now: Timestamp,
    ) -> Result<(Reply, Vec<Event>), Rejection> {
        let (events, to_look_at) = (Vec::new(), BTreeSet::new());
        let mut step = Step { machine: self, now, events, to_look_at, tangled: false };
        let reply = step.decide(command)?;
        step.grant_what_is_free();
        if std::mem::take(&mut step.tangled) {
            step.cut_knots();
        }
        Ok((reply, step.events))
    }
}

impl Step<'_> {
    pub(super) fn state(&self) -> &State {
        &self.machine.state
    }

    fn decide(&mut self, command: Command) -> Result<Reply, Rejection> {
        match command {
            Command::StartRun(request) => self.start_run(*request),
            Command::Configure(settings) => {
                if settings != self.state().settings {
                    self.emit(Event::Configured { settings });
                }
                Ok(Reply::Done)
            }
            Command::Heartbeat { run } => {
                let agent = self.state().live_run(run)?.agent.clone();
                self.renew(agent)
            }
            Command::Renew { agent } => self.renew(agent),
            Command::EndRun { run, exit, changed, why } => self.end_run(run, exit, changed, why),
            Command::NoteProcess { run, unit, began, pid } => {
                let agent = self.state().live_run(run)?.agent.clone();
                self.emit(match began {
                    Some(argv) => Event::ProcessBegan { run, agent, unit, argv, pid },
                    None => Event::ProcessEnded { run, agent, unit, pid },
                });
                Ok(Reply::Done)
            }
            Command::Claim(request) => Ok(self.claim(request)),
            Command::Admit { agent, cause, facts } => self.admit(&agent, &cause, facts),
            Command::NoteReads { agent, paths } => {
                self.state().agent(&agent)?;
                self.emit(Event::Read { agent, paths });
                Ok(Reply::Done)
            }
            Command::Cancel { claim } => self.cancel(claim),
            Command::MoveClaim { claim, to } => self.move_claim(claim, to),
            Command::Grant { claim, steal } => self.grant_by_hand(claim, steal),
            Command::Refuse { claim, why } => self.refuse_claim(claim, why.as_deref()),
            Command::Steal { unit, to } => self.steal(unit, to),
            Command::Release { agent, unit } => {
                self.machine.state.agent(&agent)?;
                if self.end_leases_on(&agent, &unit, LeaseEnd::Released) == 0 {
                    return Err(Rejection::NotHeld(agent, unit));
                }
                self.seal_if_bare(&agent);
                Ok(Reply::Done)
            }
            Command::Forget { agent, path } => {
                if self.machine.state.agent(&agent)?.based.contains_key(&path) {
                    self.emit(Event::Forgotten { agent: agent.clone(), path: path.clone() });
                }
                let at = WorkUnit::File(path);
                let leases = self.state().locks.leases_at(&agent, &at);
                let taken = leases.filter(|lease| lease.origin == Origin::Write);
                let taken = taken.map(|lease| (lease.token, lease.unit.clone())).collect();
                self.end_these(&agent, taken, LeaseEnd::Forgotten);
                Ok(Reply::Done)
            }
            Command::BeginApply { agent, paths, stage, plan } => {
                self.may_apply(&agent, &paths)?;
                self.emit(Event::ApplyBegun { agent, paths, stage, plan });
                Ok(Reply::Done)
            }
            Command::FinishApply { agent, rebased } => self.finish_apply(&agent, rebased),
            Command::KeepPending { agent, why } => {
                self.machine.state.agent(&agent)?;
                self.emit(Event::Pending { agent, why });
                Ok(Reply::Done)
            }
            Command::Discard { agent } => {
                let live = self.machine.state.agent(&agent)?.live.is_some();
                self.emit(Event::Discarded { agent: agent.clone() });
                self.end_leases(&agent, LeaseEnd::Discarded, |lease| {
                    !live || lease.origin == Origin::Write
                });
                Ok(Reply::Done)
            }
            Command::DeltaCleared { agent } => {
                self.machine.state.agent(&agent)?;
                self.emit(Event::DeltaCleared { agent });
                Ok(Reply::Done)
            }
            Command::Sync { agent, moved } => {
                let state = &self.machine.state;
                state.agent(&agent)?;
                let (version, moved) = (state.base_version, state.with_authors(moved));
                let from = state.live_run_of(&agent).map_or(version, |run| run.base);
                self.emit(Event::Synced { agent, version, moved: moved.clone() });
                Ok(Reply::Synced(from, version, moved))
            }
            Command::Compare { agent, by, facts } => self.compare(&agent, by, &facts),
            Command::Tick => {
                self.time_out();
                Ok(Reply::Done)
            }
        }
    }

    fn admit(
        &mut self,
        agent: &AgentName,
        cause: &str,
        facts: Vec<PathFacts>,
    ) -> Result<Reply, Rejection> {
        let known = self.machine.state.agent(agent)?;
        let new: Vec<PathFacts> =
            facts.into_iter().filter(|fact| !known.based.contains_key(&fact.path)).collect();
        if let Some(fact) = new.iter().find(|fact| fact.is_stale()) {
            let (unit, why) = (WorkUnit::File(fact.path.clone()), RefusalKind::Stale);
            let text = explain::stale(agent, &fact.path, cause, fact.read);
            self.emit(Event::Refused { agent: agent.clone(), unit, why, text });
            return Ok(Reply::Refused(why));
        }
        for fact in new {
            let before = fact.based_on();
            self.emit(Event::Based { agent: agent.clone(), path: fact.path, before });
        }
        Ok(Reply::Granted)
    }

    /// Another's lease on a changed path means that the path is that agent's to change (G1).
    fn may_apply(&self, agent: &AgentName, paths: &[RelPath]) -> Result<(), Rejection> {
        let state = &self.machine.state;
        state.agent(agent)?;
        if state.underway.contains_key(agent) {
            return Err(Rejection::ApplyUnderway(agent.clone()));
        }
        for path in paths {
            let unit = WorkUnit::File(path.clone());
            let is_anothers = |lease: &&Lease| {
                lease.agent != *agent && !state.locks.works_for(agent, &lease.agent)
            };
            if let Some(lease) = state.locks.overlapping(&unit).find(is_anothers) {
                return Err(Rejection::HeldByAnother {
                    path: path.clone(),
                    holder: lease.agent.clone(),
                    unit: lease.unit.clone(),
                });
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        agent: &AgentName,
        by: Option<AgentName>,
        facts: &[BaseFacts],
    ) -> Result<Reply, Rejection> {
        let state = &self.machine.state;
        let (begin, gone) = moving::compared(state.agent(agent)?, facts);
        let author = by.map(|agent| Author { agent, version: state.base_version });
        for path in begin {
            let (agent, author) = (agent.clone(), author.clone());
            self.emit(Event::ConflictComes { agent, path, author });
        }
        for path in gone {
            self.emit(Event::ConflictGone { agent: agent.clone(), path });
        }
        Ok(Reply::Done)
    }

    /// A run that goes on keeps what it asked for, and what it has written again.
    fn finish_apply(
        &mut self,
        agent: &AgentName,
        rebased: Vec<(RelPath, Before)>,
    ) -> Result<Reply, Rejection> {
        let state = &self.machine.state;
        let underway = state.underway.get(agent);
        let paths = underway.ok_or_else(|| Rejection::NoApply(agent.clone()))?.paths.clone();
        let version = state.base_version.next();
        let live = state.live_run_of(agent).is_some();
        let mut settled: BTreeSet<RelPath> = paths.iter().cloned().collect();
        for (path, _) in &rebased {
            settled.remove(path);
        }
        let ends = |lease: &Lease| {
            let of_a_write = lease.origin == Origin::Write
                && lease.unit.path().is_some_and(|path| settled.contains(path));
            !live || of_a_write
        };
        let paths = paths.clone();
        self.emit(Event::Applied { agent: agent.clone(), version, paths, rebased });
        self.end_leases(agent, LeaseEnd::Applied, ends);
        Ok(Reply::Done)
    }

    pub(super) fn emit(&mut self, event: Event) {
        // What it was before the event is what others may have waited for.
        self.look_again(&event);
        let was_involved = self.state().locks.is_involved();
        let terms = self.may_change_terms(&event).then(|| self.state().locks.terms());
        self.machine
            .fold(&event, self.now)
            .expect("an event that was just decided fits the state it was decided on");
        let is_about_locks = matches!(
            event,
            Event::Granted { .. }
                | Event::LeaseEnded { .. }
                | Event::Queued { .. }
                | Event::ClaimEnded { .. }
        );
        self.events.push(event);
        if is_about_locks && (was_involved || self.state().locks.is_involved()) {
            self.tangled = true;
            self.look_at_all();
        }
        if let Some(before) = terms.filter(|before| *before != self.state().locks.terms()) {
            self.tangled = true;
            self.look_at_all();
            self.part_ways(&before);
        }
    }

    /// Whether turns, slots or lineage may be others after the event.
    fn may_change_terms(&self, event: &Event) -> bool {
        let is_of_a_run = |id: &ClaimId| {
            self.state().locks.claim(*id).is_some_and(|claim| claim.origin == Origin::Start)
        };
        match event {
            Event::RunQueued { .. }
            | Event::RunStarted { .. }
            | Event::RunEnded { .. }
            | Event::Configured { .. } => true,
            Event::Queued { claim, .. } => claim.origin == Origin::Start,
            Event::ClaimEnded { claim, .. } | Event::ClaimMoved { claim, .. } => is_of_a_run(claim),
            _ => false,
        }
    }

    /// Who worked for another until now has no right any more to what it has only beside that
    /// one's leases. Its work stays.
    fn part_ways(&mut self, before: &Terms) {
        for agent in self.state().locks.parted(before) {
            let tokens: Vec<Token> =
                self.state().locks.leases_of(&agent).map(|lease| lease.token).collect();
            for token in tokens {
                let locks = &self.state().locks;
                if locks.lease(token).is_some_and(|lease| locks.clashes(lease)) {
                    self.end_leases(&agent, LeaseEnd::Parted, |lease| lease.token == token);
                }
            }
            self.seal_if_bare(&agent);
        }
    }

    /// Notes which claims an event may let through.
    fn look_again(&mut self, event: &Event) {
        match event {
            Event::LeaseEnded { agent, unit, .. } => {
                // Who waited for this agent was not in its way; now it may be.
                let locks = &self.state().locks;
                let waits = locks.claims_of(agent).next().is_some();
                self.tangled |= waits || locks.helper_waits(agent);
                self.look_at_those_that_want(unit);
                // What it wanted and had it misses now, and so waits for others, who are let by.
                let own: Vec<ClaimId> =
                    self.state().locks.claims_of(agent).map(|claim| claim.id).collect();
                for claim in own {
                    self.look_at_those_beside(claim);
                }
            }
            Event::Granted { lease } => {
                // Who waits for this agent from now on is not in its way any more; and the agent may
                // wait for it, or for less than before.
                let locks = &self.state().locks;
                let waits = locks.claims_of(&lease.agent).next().is_some();
                self.tangled |= waits && locks.wanting(&lease.unit).next().is_some();
                self.look_at_those_that_want_with(&lease.unit);
            }
            Event::Queued { claim, .. } => {
                // Those behind it wait for it from now on.
                if !self.state().locks.is_last(claim.place()) {
                    self.tangled = true;
                    for want in &claim.wants {
                        self.look_at_those_that_want_with(&want.unit);
                    }
                }
                self.look_at_claims_of(&claim.agent);
            }
            Event::ClaimEnded { claim, agent, .. } => {
                let locks = &self.state().locks;
                let waits = locks.claims_of(agent).nth(1).is_some();
                self.tangled |= waits || locks.helper_waits(agent);
                self.look_at_those_beside(*claim);
            }
            Event::ClaimMoved { claim, rank, .. } => {
                self.tangled = true;
                self.look_at_all();
                self.to_look_at.insert(Place { rank: *rank, claim: *claim });
            }
            Event::Approved { .. } => {
                self.tangled = true;
                self.look_at_all();
            }
            _ => {}
        }
    }

    fn look_at_those_that_want(&mut self, unit: &WorkUnit) {
        let places: Vec<Place> = self.state().locks.wanting(unit).map(Claim::place).collect();
        self.to_look_at.extend(places);
    }

    fn look_at_all(&mut self) {
        let places: Vec<Place> = self.state().locks.queue().map(Claim::place).collect();
        self.to_look_at.extend(places);
    }

    fn look_at_claims_of(&mut self, agent: &AgentName) {
        let places: Vec<Place> = self.state().locks.claims_of(agent).map(Claim::place).collect();
        self.to_look_at.extend(places);
    }

    fn look_at_those_beside(&mut self, claim: ClaimId) {
        let wants = self.state().locks.claim(claim).map(|claim| claim.wants.clone());
        for want in wants.into_iter().flatten() {
            self.look_at_those_that_want(&want.unit);
        }
    }

    /// Those that want something of `unit`, or of what is wanted together with it.
    fn look_at_those_that_want_with(&mut self, unit: &WorkUnit) {
        let wanting = self.state().locks.wanting(unit);
        let mut units: BTreeSet<WorkUnit> =
            wanting.flat_map(|claim| &claim.wants).map(|want| want.unit.clone()).collect();
        units.insert(unit.clone());
        for unit in &units {
            self.look_at_those_that_want(unit);
        }
    }
}
