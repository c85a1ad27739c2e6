//! Deciding what a command does: events, folded as they are made.

use super::{
    Author, BaseFacts, ClaimEnd, ClaimRequest, Command, Event, LeaseEnd, Machine, OPERATOR,
    PathFacts, Policy, ProcessMark, RefusalKind, Rejection, Reply, moving,
};
use crate::changeset::Before;
use crate::explain;
use crate::ids::{AgentName, ClaimId, RunId, Token};
use crate::locks::{Claim, Lease, Origin};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::{Mode, WorkUnit};
use crate::{config::Config, config::Unclaimed};
use std::time::Duration;

/// Names for agents that were given none: short, easy to tell apart, easy to type.
const SHORT_NAMES: [&str; 12] =
    ["ada", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "june", "kai", "lea"];

/// A sign of life is journaled when this part of the time to live has passed since the last one.
const RENEWALS_PER_TTL: u32 = 4;

/// One command in the making: the machine and the events so far.
struct Step<'m> {
    machine: &'m mut Machine,
    now: Timestamp,
    events: Vec<Event>,
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
        let mut step = Step { machine: self, now, events: Vec::new() };
        let reply = step.decide(command)?;
        step.grant_what_is_free();
        Ok((reply, step.events))
    }
}

impl Step<'_> {
    fn decide(&mut self, command: Command) -> Result<Reply, Rejection> {
        match command {
            Command::StartRun { agent, argv, policy, process } => {
                self.start_run(agent, argv, policy, process)
            }
            Command::Heartbeat { run } => self.heartbeat(run),
            Command::EndRun { run, exit, changed, why } => {
                let agent = self.machine.state.live_run(run)?.agent.clone();
                self.end_waits_of(&agent);
                self.emit(Event::RunEnded { run, agent: agent.clone(), exit, changed, why });
                if changed == 0 {
                    self.end_leases(&agent, LeaseEnd::RunEnded, |_| true);
                }
                Ok(Reply::Done)
            }
            Command::Claim(request) => Ok(self.claim(request)),
            Command::Admit { agent, cause, facts } => self.admit(&agent, &cause, facts),
            Command::Cancel { claim } => {
                self.machine.state.locks.claim(claim).ok_or(Rejection::NoSuchClaim(claim))?;
                self.end_claim(claim, ClaimEnd::Cancelled);
                Ok(Reply::Done)
            }
            Command::Release { agent, unit } => {
                self.machine.state.agent(&agent)?;
                let exactly = |lease: &Lease| lease.unit == unit;
                if self.end_leases(&agent, LeaseEnd::Released, exactly) == 0 {
                    return Err(Rejection::NotHeld(agent, unit));
                }
                self.seal_if_bare(&agent);
                Ok(Reply::Done)
            }
            Command::Forget { agent, path } => {
                if self.machine.state.agent(&agent)?.based.contains_key(&path) {
                    self.emit(Event::Forgotten { agent: agent.clone(), path: path.clone() });
                }
                self.end_leases(&agent, LeaseEnd::Forgotten, |lease| {
                    lease.origin == Origin::Write && lease.unit.path() == Some(&path)
                });
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

    fn start_run(
        &mut self,
        agent: Option<AgentName>,
        argv: Vec<String>,
        policy: Policy,
        process: ProcessMark,
    ) -> Result<Reply, Rejection> {
        let agent = agent.unwrap_or_else(|| self.free_name());
        if agent.as_str() == OPERATOR {
            return Err(Rejection::ReservedName);
        }
        if let Some(run) = self.machine.state.live_run_of(&agent) {
            return Err(Rejection::AlreadyRunning(agent, run.id));
        }
        let run = RunId(self.machine.state.last_run.0 + 1);
        self.emit(Event::RunStarted { run, agent: agent.clone(), argv, policy, process });
        Ok(Reply::Started(run, agent))
    }

    /// The first short name whose agent neither runs nor has changes.
    fn free_name(&self) -> AgentName {
        let agents = &self.machine.state.agents;
        let names = (1u32..).flat_map(|round| {
            SHORT_NAMES.iter().map(move |name| match round {
                1 => (*name).to_owned(),
                _ => format!("{name}{round}"),
            })
        });
        let free = |name: &AgentName| {
            agents.get(name).is_none_or(|known| known.live.is_none() && !known.may_have_changes())
        };
        names.filter_map(|name| name.parse().ok()).find(free).expect("names never run out")
    }

    fn heartbeat(&mut self, run: RunId) -> Result<Reply, Rejection> {
        let state = &self.machine.state;
        let agent = state.live_run(run)?.agent.clone();
        let known = state.agent(&agent)?;
        if self.now.since(known.last_sign) >= known.ttl / RENEWALS_PER_TTL {
            self.emit(Event::Renewed { agent });
        }
        Ok(Reply::Done)
    }

    fn claim(&mut self, request: ClaimRequest) -> Reply {
        let ClaimRequest { agent, units, mode, wait, cause, origin } = request;
        let state = &self.machine.state;
        let run = state.live_run_of(&agent);
        let (run_id, policy) = (run.map(|run| run.id), run.map(|run| run.policy.clone()));
        if origin == Origin::Write && run_id.is_none() {
            return Reply::Refused(RefusalKind::NoRun);
        }
        let missing = |unit: &&WorkUnit| state.locks.held(&agent, unit, mode).is_none();
        if origin == Origin::Write
            && policy.as_ref().is_some_and(|policy| policy.unclaimed == Unclaimed::Deny)
            && let Some(unit) =
                units.iter().filter(missing).find(|unit| !self.is_temporary(&agent, unit))
        {
            let (unit, why) = (unit.clone(), RefusalKind::Denied);
            let text = explain::denied(&agent, &unit, &cause);
            self.emit(Event::Refused { agent, unit, why, text });
            return Reply::Refused(why);
        }
        let obstacles = state.locks.obstacles(&agent, &units, mode, None);
        let Some(first) = obstacles.first() else {
            self.grant(&agent, run_id, &units, mode, origin);
            return Reply::Granted;
        };
        if let Some(circle) = state.locks.deadlock(&agent, &units, mode) {
            let (unit, why) = (first.unit.clone(), RefusalKind::Deadlock);
            let text = explain::deadlocked(&agent, &unit, &cause, &circle);
            self.emit(Event::Refused { agent, unit, why, text });
            return Reply::Refused(why);
        }
        let wait = wait.or(policy.map(|policy| policy.wait.0)).unwrap_or(Config::default().wait.0);
        let claim = Claim {
            id: ClaimId(state.last_claim.0 + 1),
            agent,
            run: run_id,
            units,
            mode,
            since: self.now,
            deadline: self.now.plus(wait),
            cause,
            origin,
        };
        let (id, why) = (claim.id, explain::waits(state, &claim, self.now));
        self.emit(Event::Queued { claim, why });
        if wait == Duration::ZERO {
            self.end_claim(id, ClaimEnd::TimedOut);
        }
        Reply::Waiting(id)
    }

    /// Whether `unit` looks like the temporary name under which an editor saves a file that the
    /// agent has claimed: these need no claim of their own (DESIGN §6).
    fn is_temporary(&self, agent: &AgentName, unit: &WorkUnit) -> bool {
        let WorkUnit::File(path) = unit else { return false };
        let locks = &self.machine.state.locks;
        let claimed = locks.leases_of(agent).filter(|lease| lease.origin == Origin::Asked);
        let nobody_elses =
            locks.obstacles(agent, std::slice::from_ref(unit), Mode::Exclusive, None);
        nobody_elses.is_empty()
            && claimed
                .filter_map(|lease| lease.unit.path())
                .any(|file| is_temporary_for(path, file))
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
            if let Some(lease) = state.locks.overlapping(&unit).find(|l| l.agent != *agent) {
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
        let kept: Vec<RelPath> = rebased.iter().map(|(path, _)| path.clone()).collect();
        let settled = |path: &RelPath| paths.contains(path) && !kept.contains(path);
        let ends = |lease: &Lease| {
            let of_a_write =
                lease.origin == Origin::Write && lease.unit.path().is_some_and(settled);
            !live || of_a_write
        };
        let paths = paths.clone();
        self.emit(Event::Applied { agent: agent.clone(), version, paths, rebased });
        self.end_leases(agent, LeaseEnd::Applied, ends);
        Ok(Reply::Done)
    }

    fn time_out(&mut self) {
        let late = |claim: &&Claim| claim.deadline <= self.now;
        let late: Vec<ClaimId> =
            self.machine.state.locks.queue().filter(late).map(|c| c.id).collect();
        for id in late {
            self.end_claim(id, ClaimEnd::TimedOut);
        }
        let silent: Vec<AgentName> = self
            .machine
            .state
            .agents
            .keys()
            .filter(|agent| self.machine.state.leases_end(agent) <= self.now)
            .cloned()
            .collect();
        for agent in silent {
            if self.end_leases(&agent, LeaseEnd::Expired, |_| true) > 0 {
                self.seal_if_bare(&agent);
            }
        }
    }

    /// Changes whose agent has no run and no lease any more are kept, and said to be sealed.
    fn seal_if_bare(&mut self, agent: &AgentName) {
        let state = &self.machine.state;
        let bare = state.locks.leases_of(agent).next().is_none();
        let known = state.agents.get(agent);
        if bare && known.is_some_and(|k| k.live.is_none() && k.may_have_changes() && !k.sealed) {
            self.emit(Event::Sealed { agent: agent.clone() });
        }
    }

    fn grant_what_is_free(&mut self) {
        while let Some(claim) = self.machine.state.locks.grantable().cloned() {
            self.end_claim(claim.id, ClaimEnd::Granted);
            self.grant(&claim.agent, claim.run, &claim.units, claim.mode, claim.origin);
        }
    }

    /// Grants those of `units` that the agent does not hold yet.
    fn grant(
        &mut self,
        agent: &AgentName,
        run: Option<RunId>,
        units: &[WorkUnit],
        mode: Mode,
        origin: Origin,
    ) {
        for unit in units {
            if self.machine.state.locks.held(agent, unit, mode).is_none() {
                let lease = Lease {
                    token: Token(self.machine.state.last_token.0 + 1),
                    unit: unit.clone(),
                    mode,
                    agent: agent.clone(),
                    run,
                    since: self.now,
                    origin,
                };
                self.emit(Event::Granted { lease });
            }
        }
    }

    fn end_claim(&mut self, id: ClaimId, end: ClaimEnd) {
        if let Some(claim) = self.machine.state.locks.claim(id).cloned() {
            let text = explain::wait_ended(&self.machine.state, &claim, end, self.now);
            self.emit(Event::ClaimEnded { claim: id, agent: claim.agent, end, text });
        }
    }

    fn end_waits_of(&mut self, agent: &AgentName) {
        let waiting = self.machine.state.locks.queue().filter(|claim| claim.agent == *agent);
        let waiting: Vec<ClaimId> = waiting.map(|claim| claim.id).collect();
        for id in waiting {
            self.end_claim(id, ClaimEnd::RunEnded);
        }
    }

    /// Ends the agent's leases that `which` picks; says how many.
    fn end_leases(
        &mut self,
        agent: &AgentName,
        why: LeaseEnd,
        which: impl Fn(&Lease) -> bool,
    ) -> usize {
        let leases = self.machine.state.locks.leases_of(agent).filter(|lease| which(lease));
        let ended: Vec<(Token, WorkUnit)> =
            leases.map(|lease| (lease.token, lease.unit.clone())).collect();
        let count = ended.len();
        for (token, unit) in ended {
            self.emit(Event::LeaseEnded { token, agent: agent.clone(), unit, why });
        }
        count
    }

    fn emit(&mut self, event: Event) {
        self.machine
            .fold(&event, self.now)
            .expect("an event that was just decided fits the state it was decided on");
        self.events.push(event);
    }
}

/// Whether `path` is a name that editors and agents use while they save `file`: beside it, and
/// holding its name (`.a.rs.swp`, `a.rs.tmp.4711`, `a.rs~`), or vim's probe `4913`.
fn is_temporary_for(path: &RelPath, file: &RelPath) -> bool {
    let (Some(name), Some(of)) = (path.file_name(), file.file_name()) else { return false };
    let (name, of) = (name.as_encoded_bytes(), of.as_encoded_bytes());
    let holds_its_name = name.len() > of.len() && name.windows(of.len()).any(|part| part == of);
    let probe = name.len() >= 4 && name.iter().all(u8::is_ascii_digit);
    path.parent() == file.parent() && (holds_its_name || probe)
}

#[cfg(test)]
mod tests {
    use super::is_temporary_for;

    #[test]
    fn temporary_names_are_those_that_hold_the_files_own() {
        let for_a =
            |name: &str| is_temporary_for(&name.parse().unwrap(), &"src/a.rs".parse().unwrap());
        for name in ["src/a.rs.tmp.4711.1700", "src/.a.rs.swp", "src/a.rs~", "src/4913"] {
            assert!(for_a(name), "{name}");
        }
        for name in ["src/b.rs", "a.rs.tmp", "src/x/a.rs.tmp", "src/a.rs", "src/12"] {
            assert!(!for_a(name), "{name}");
        }
    }
}
