//! Claims: who gets what, who waits, and what the operator can do about it.

use super::decide::Step;
use super::{
    Asker, ClaimEnd, ClaimRequest, Event, LeaseEnd, Line, MOST_CLAIMS, MOST_UNITS, OPERATOR,
    RefusalKind, Rejection, Reply,
};
use crate::config::{Config, Span, Unclaimed};
use crate::explain;
use crate::ids::{AgentName, ClaimId, RunId, Token};
use crate::locks::{Claim, Lease, Origin, Place, Rank};
use crate::path::RelPath;
use crate::policy::{Access, Policy};
use crate::unit::{Mode, WorkUnit};
use crate::want::{self, Want};
use std::collections::BTreeSet;
use std::time::Duration;

/// What leases are granted for.
pub(super) struct Grantee<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) run: Option<RunId>,
    pub(super) origin: Origin,
    pub(super) by_operator: bool,
}

impl Step<'_> {
    pub(super) fn claim(&mut self, request: ClaimRequest) -> Reply {
        let ClaimRequest { agent, wants, wait, cause, origin, by, touches, moves } = request;
        if wants.len() > MOST_UNITS {
            let (unit, waiting) =
                (wants[0].unit.clone(), self.state().locks.claims_of(&agent).count());
            let text = explain::too_many(&agent, &unit, wants.len(), waiting);
            return self.refuse(agent, unit, RefusalKind::TooMany, text);
        }
        let wants = want::merged(wants);
        let run = self.state().live_run_of(&agent);
        let (run_id, policy) = (run.map(|run| run.id), run.map(|run| run.policy.clone()));
        if origin == Origin::Write && run_id.is_none() {
            return Reply::Refused(RefusalKind::NoRun);
        }
        let missing: Vec<Want> = wants
            .iter()
            .filter(|w| self.state().locks.held(&agent, w).is_none())
            .cloned()
            .collect();
        // What is below a directory that is renamed, and not held otherwise.
        let is_below = |path: &&RelPath| {
            let dir = |want: &Want| want.unit.path() != Some(*path) && want.unit.covers_path(path);
            wants.iter().any(dir)
        };
        let below = touches.iter().filter(is_below).cloned().map(WorkUnit::File);
        let below: Vec<Want> = below
            .map(Want::exclusive)
            .filter(|want| self.state().locks.held(&agent, want).is_none())
            .collect();
        if let Some((unit, why)) = self.out_of_bounds(&agent, policy.as_ref(), &wants, &touches, by)
        {
            let text = explain::out_of_bounds(&agent, &unit, &cause, why);
            return self.refuse(agent, unit, RefusalKind::OutOfBounds(why), text);
        }
        if origin == Origin::Write
            && let Some(unit) = self
                .denied(&agent, policy.as_ref(), &missing, moves.as_ref())
                .or_else(|| self.denied(&agent, policy.as_ref(), &below, moves.as_ref()))
        {
            let text = explain::denied(&agent, &unit, &cause);
            return self.refuse(agent, unit, RefusalKind::Denied, text);
        }
        let grantee =
            Grantee { agent: &agent, run: run_id, origin, by_operator: by == Asker::Operator };
        let asks = by == Asker::Agent
            && policy.as_ref().is_some_and(|policy| {
                missing.iter().any(|want| asks(policy, want, origin))
                    || below.iter().any(|want| asks(policy, want, origin))
            });
        let priority = policy.as_ref().map(|policy| policy.priority).unwrap_or_default();
        let id = ClaimId(self.state().last_claim.0 + 1);
        let place = Place { rank: Rank::of(self.now, priority), claim: id };
        let obstacles = self.state().locks.obstacles(&agent, &wants, Some(place));
        let Some(first) = obstacles.first().map(|o| o.unit.clone()).or_else(|| {
            // What nothing is in the way of can still be a question to the operator.
            missing.first().filter(|_| asks).map(|want| want.unit.clone())
        }) else {
            self.grant(&grantee, &wants);
            self.carry_over(&agent, moves.as_ref());
            return Reply::Granted;
        };
        let waiting = self.state().locks.claims_of(&agent).count();
        if waiting >= MOST_CLAIMS {
            let text = explain::too_many(&agent, &first, wants.len(), waiting);
            return self.refuse(agent, first, RefusalKind::TooMany, text);
        }
        let wait = wait.unwrap_or_else(|| longest_wait(policy.as_ref(), &missing));
        let claim = Claim {
            id,
            agent: agent.clone(),
            run: run_id,
            wants,
            rank: place.rank,
            since: self.now,
            deadline: Some(self.now.plus(wait)),
            cause,
            origin,
            asks,
            by_operator: by == Asker::Operator,
            moves,
        };
        let circle = self.state().locks.deadlock(&agent, &claim.wants, Some(place));
        if let Some(circle) = circle.filter(|_| !asks) {
            let text = explain::deadlocked(&agent, &first, &claim.cause, &circle);
            return self.refuse(agent, first, RefusalKind::Deadlock, text);
        }
        let why = explain::waits(self.state(), &claim, self.now);
        self.emit(Event::Queued { claim, why });
        if wait == Duration::ZERO {
            self.end_claim(id, ClaimEnd::TimedOut);
        }
        Reply::Waiting(id)
    }

    fn refuse(
        &mut self,
        agent: AgentName,
        unit: WorkUnit,
        why: RefusalKind,
        text: String,
    ) -> Reply {
        self.emit(Event::Refused { agent, unit, why, text });
        Reply::Refused(why)
    }

    /// The first of `wants` that the agent may not write, and what it may do with it.
    pub(super) fn out_of_bounds(
        &self,
        agent: &AgentName,
        policy: Option<&Policy>,
        wants: &[Want],
        touches: &[RelPath],
        by: Asker,
    ) -> Option<(WorkUnit, Access)> {
        let policy = policy?;
        let locks = &self.state().locks;
        let given = |want: &Want| locks.held(agent, want).is_some_and(|lease| lease.by_operator);
        let touched = touches.iter().cloned().map(WorkUnit::File).map(Want::exclusive);
        let written = wants.iter().filter(|want| want.mode == Mode::Exclusive).cloned();
        written.chain(touched).find_map(|want| {
            let access = policy.terms(&want.unit).access;
            let may = match access {
                Access::Write => true,
                Access::Protected => by == Asker::Operator || given(&want),
                Access::ReadOnly | Access::Forbidden => false,
            };
            (!may).then_some((want.unit, access))
        })
    }

    /// The first of the units that a write needs and that nobody may take without asking.
    fn denied(
        &self,
        agent: &AgentName,
        policy: Option<&Policy>,
        missing: &[Want],
        moves: Option<&(RelPath, RelPath)>,
    ) -> Option<WorkUnit> {
        let policy = policy?;
        let goes_along = |unit: &WorkUnit| {
            moves.is_some_and(|(from, to)| {
                unit.path() == Some(to) && self.asked_for(agent, from).is_some()
            })
        };
        let denied = missing.iter().map(|want| &want.unit).find(|unit| {
            policy.terms(unit).unclaimed == Unclaimed::Deny
                && !self.is_temporary(agent, unit)
                && !goes_along(unit)
        });
        denied.cloned()
    }

    /// The agent's own lease on a path, if it was asked for.
    fn asked_for(&self, agent: &AgentName, path: &RelPath) -> Option<&Lease> {
        let want = Want::exclusive(WorkUnit::File(path.clone()));
        let lease = self.state().locks.held(agent, &want)?;
        (lease.origin != Origin::Write).then_some(lease)
    }

    /// A lease that was asked for goes with its path: the new name is held as the old one was.
    /// The old name stays held, because that it is gone is a change, too.
    fn carry_over(&mut self, agent: &AgentName, moves: Option<&(RelPath, RelPath)>) {
        let Some((from, to)) = moves else { return };
        let at = |path: &RelPath| WorkUnit::File(path.clone());
        let locks = &self.state().locks;
        let old = locks.leases_at(agent, &at(from)).find(|l| l.origin != Origin::Write);
        let new = locks.leases_at(agent, &at(to)).find(|l| l.origin == Origin::Write);
        if let (Some(old), Some(new)) = (old.cloned(), new.cloned()) {
            let (token, unit) = (new.token, new.unit.clone());
            self.emit(Event::LeaseEnded {
                token,
                agent: agent.clone(),
                unit,
                why: LeaseEnd::Upgraded,
            });
            let token = Token(self.state().last_token.0 + 1);
            let (origin, ttl, by_operator) = (old.origin, old.ttl, old.by_operator);
            self.emit(Event::Granted { lease: Lease { token, origin, ttl, by_operator, ..new } });
        }
        self.carry_over_below(agent, from, to);
    }

    /// The same for what was asked for below a directory.
    fn carry_over_below(&mut self, agent: &AgentName, from: &RelPath, to: &RelPath) {
        let below = self.state().locks.overlapping(&WorkUnit::Dir(from.clone()));
        let asked = below.filter(|l| l.agent == *agent && l.origin != Origin::Write).cloned();
        let moved: Vec<Lease> = asked
            .filter_map(|lease| {
                let path = lease.unit.path().filter(|path| *path != from)?.rebase(from, to)?;
                let unit = match lease.unit {
                    WorkUnit::Dir(_) => WorkUnit::Dir(path),
                    _ => WorkUnit::File(path),
                };
                Some(Lease { unit, ..lease })
            })
            .collect();
        for lease in moved {
            let mut there = self.state().locks.leases_at(agent, &lease.unit);
            if there.all(|other| other.unit != lease.unit) {
                drop(there);
                let (token, since) = (Token(self.state().last_token.0 + 1), self.now);
                self.emit(Event::Granted { lease: Lease { token, since, ..lease } });
            }
        }
    }

    /// Whether `unit` looks like the temporary name under which an editor saves a file that the
    /// agent has claimed: these need no claim of their own (DESIGN §6).
    fn is_temporary(&self, agent: &AgentName, unit: &WorkUnit) -> bool {
        let WorkUnit::File(path) = unit else { return false };
        let locks = &self.state().locks;
        let claimed = locks.leases_of(agent).filter(|lease| lease.origin != Origin::Write);
        let nobody_elses =
            locks.obstacles(agent, &[Want::exclusive(unit.clone())], None).is_empty();
        nobody_elses
            && claimed
                .filter_map(|lease| lease.unit.path())
                .any(|file| is_temporary_for(path, file))
    }

    /// Grants those of `wants` that the agent does not hold yet. What it holds shared and gets
    /// exclusively is one lease afterwards.
    pub(super) fn grant(&mut self, to: &Grantee<'_>, wants: &[Want]) {
        for want in wants {
            if self.state().locks.held(to.agent, want).is_some() {
                continue;
            }
            self.end_leases_on(to.agent, &want.unit, LeaseEnd::Upgraded);
            let run = to.run.and_then(|run| self.state().runs.get(&run));
            let ttl = match run {
                Some(run) => run.policy.terms(&want.unit).ttl,
                None => self.state().settings.ttl,
            };
            let lease = Lease {
                token: Token(self.state().last_token.0 + 1),
                unit: want.unit.clone(),
                mode: want.mode,
                agent: to.agent.clone(),
                run: to.run,
                since: self.now,
                origin: to.origin,
                ttl,
                by_operator: to.by_operator,
            };
            self.emit(Event::Granted { lease });
        }
    }

    /// Grants a claim that waits, whatever is in its way: the caller has looked.
    pub(super) fn grant_claim(&mut self, claim: &Claim) {
        self.end_claim(claim.id, ClaimEnd::Granted);
        let submission = claim.run.and_then(|run| self.state().submitted.get(&run)).cloned();
        if let Some(submission) = submission.filter(|submission| submission.claim == claim.id) {
            self.begin_run(submission);
        }
        let (run, origin, by_operator) = (claim.run, claim.origin, claim.by_operator);
        self.grant(&Grantee { agent: &claim.agent, run, origin, by_operator }, &claim.wants);
        self.carry_over(&claim.agent, claim.moves.as_ref());
    }

    /// Grants what can be granted, in the order of the queue, until nothing can any more. Only
    /// claims that something has changed for are looked at.
    pub(super) fn grant_what_is_free(&mut self) {
        while let Some(claim) = self.next_to_look_at() {
            if self.state().locks.is_grantable(&claim) {
                self.grant_claim(&claim);
            }
        }
    }

    /// The first in line of the claims that have to be looked at again.
    fn next_to_look_at(&mut self) -> Option<Claim> {
        loop {
            let place = self.to_look_at.pop_first()?;
            if let Some(claim) = self.state().locks.claim(place.claim) {
                return Some(claim.clone());
            }
        }
    }

    /// Ends circles of waits that have come about without a new claim.
    pub(super) fn cut_knots(&mut self) {
        while let Some((claim, circle)) = self.state().locks.knot() {
            let (id, agent) = (claim.id, claim.agent.clone());
            let unit = claim.wants.first().map(|want| want.unit.clone()).unwrap_or_default();
            let text = explain::deadlocked(&agent, &unit, &claim.cause, &circle);
            let run = claim.run.filter(|_| claim.origin == Origin::Start);
            let (end, wants) = (ClaimEnd::Deadlock, claim.wants.clone());
            self.emit(Event::ClaimEnded { claim: id, agent, end, text, wants });
            if let Some(run) = run {
                self.give_up_after(run, NEVER_STARTED);
            }
            self.grant_what_is_free();
        }
    }

    pub(super) fn end_claim(&mut self, id: ClaimId, end: ClaimEnd) {
        self.end_claim_because(id, end, None);
    }

    pub(super) fn end_claim_because(&mut self, id: ClaimId, end: ClaimEnd, why: Option<&str>) {
        if let Some(claim) = self.state().locks.claim(id).cloned() {
            let text = explain::wait_ended(self.state(), &claim, end, why, self.now);
            let Claim { agent, wants, run, origin, .. } = claim;
            self.emit(Event::ClaimEnded { claim: id, agent, end, text, wants });
            if origin == Origin::Start
                && end != ClaimEnd::Granted
                && let Some(run) = run
            {
                self.give_up_after(run, NEVER_STARTED);
            }
        }
    }

    /// Ends the agent's waits, but not that of a run that is to start after this one.
    pub(super) fn end_waits_of(&mut self, agent: &AgentName) {
        let waiting = self.state().locks.claims_of(agent).filter(|c| c.origin != Origin::Start);
        let waiting: Vec<ClaimId> = waiting.map(|claim| claim.id).collect();
        for id in waiting {
            self.end_claim(id, ClaimEnd::RunEnded);
        }
    }

    /// Ends the agent's leases on exactly this unit; says how many.
    pub(super) fn end_leases_on(
        &mut self,
        agent: &AgentName,
        unit: &WorkUnit,
        why: LeaseEnd,
    ) -> usize {
        let leases = self.state().locks.leases_at(agent, unit).filter(|l| l.unit == *unit);
        let ended = leases.map(|lease| (lease.token, lease.unit.clone())).collect();
        self.end_these(agent, ended, why)
    }

    /// Ends the agent's leases that `which` picks, of all that it has; says how many.
    pub(super) fn end_leases(
        &mut self,
        agent: &AgentName,
        why: LeaseEnd,
        which: impl Fn(&Lease) -> bool,
    ) -> usize {
        let leases = self.state().locks.leases_of(agent).filter(|lease| which(lease));
        let ended = leases.map(|lease| (lease.token, lease.unit.clone())).collect();
        self.end_these(agent, ended, why)
    }

    pub(super) fn end_these(
        &mut self,
        agent: &AgentName,
        ended: Vec<(Token, WorkUnit)>,
        why: LeaseEnd,
    ) -> usize {
        let count = ended.len();
        for (token, unit) in ended {
            self.emit(Event::LeaseEnded { token, agent: agent.clone(), unit, why });
        }
        count
    }

    pub(super) fn cancel(&mut self, claim: ClaimId) -> Result<Reply, Rejection> {
        self.waiting(claim)?;
        self.end_claim(claim, ClaimEnd::Cancelled);
        Ok(Reply::Done)
    }

    pub(super) fn refuse_claim(
        &mut self,
        claim: ClaimId,
        why: Option<&str>,
    ) -> Result<Reply, Rejection> {
        self.waiting(claim)?;
        self.end_claim_because(claim, ClaimEnd::Refused, why);
        Ok(Reply::Done)
    }

    pub(super) fn move_claim(&mut self, claim: ClaimId, to: Line) -> Result<Reply, Rejection> {
        self.waiting(claim)?;
        if to == Line::Before(claim) {
            return Ok(Reply::Done);
        }
        let others = self.state().locks.queue().filter(|other| other.id != claim);
        let others: Vec<Place> = others.map(Claim::place).collect();
        let before = match to {
            Line::First => 0,
            Line::Last => others.len(),
            Line::Before(other) => {
                let at = others.iter().position(|place| place.claim == other);
                at.ok_or(Rejection::NoSuchClaim(other))?
            }
        };
        let (ahead, behind) = others.split_at(before);
        let Some(next) = behind.first() else {
            if let Some(last) = ahead.last() {
                self.put_at(Place { rank: last.rank.after(), claim });
            }
            return Ok(Reply::Done);
        };
        // Where ranks leave no room for it, those ahead move up.
        let mut at = next.right_before(claim);
        self.put_at(at);
        for place in ahead.iter().rev() {
            if *place < at {
                break;
            }
            at = at.right_before(place.claim);
            self.put_at(at);
        }
        Ok(Reply::Done)
    }

    fn put_at(&mut self, place: Place) {
        let Place { rank, claim } = place;
        if let Some(agent) = self.state().locks.claim(claim).map(|claim| claim.agent.clone()) {
            self.emit(Event::ClaimMoved { claim, agent, rank });
        }
    }

    /// What is only somebody's turn is passed over; what somebody holds is not, without `steal`.
    pub(super) fn grant_by_hand(&mut self, id: ClaimId, steal: bool) -> Result<Reply, Rejection> {
        let claim = self.waiting(id)?.clone();
        if let Some(run) = self.state().agent(&claim.agent).ok().and_then(|agent| agent.live)
            && claim.origin == Origin::Start
        {
            return Err(Rejection::AlreadyRunning(claim.agent, run));
        }
        let holders = self.holders_against(&claim);
        let holder = holders.first().cloned();
        if let Some((holder, unit)) = holder.filter(|_| !steal && !claim.asks) {
            return Err(Rejection::StillHeld { claim: id, holder, unit });
        }
        if claim.asks {
            self.emit(Event::Approved { claim: id, agent: claim.agent.clone() });
        }
        if steal || holders.is_empty() {
            let locks = &self.state().locks;
            let to_take = claim.wants.iter().flat_map(|want| locks.to_take(&claim.agent, want));
            let to_take = to_take.collect();
            let stolen = self.take_away(to_take);
            self.grant_claim(&claim);
            return Ok(Reply::Stolen(stolen));
        }
        Ok(Reply::Waiting(id))
    }

    pub(super) fn steal(
        &mut self,
        unit: WorkUnit,
        to: Option<AgentName>,
    ) -> Result<Reply, Rejection> {
        if let Some(agent) = to.as_ref().filter(|agent| agent.as_str() != OPERATOR) {
            self.state().agent(agent)?;
        }
        let wants = [Want::exclusive(unit.clone())];
        let locks = &self.state().locks;
        let is_anothers = |lease: &&Lease| {
            to.as_ref().is_none_or(|to| lease.agent != *to && !locks.works_for(to, &lease.agent))
        };
        let theirs = locks.overlapping(&unit).filter(is_anothers);
        let theirs = theirs.map(|lease| lease.token).collect();
        let stolen = self.take_away(theirs);
        if stolen.is_empty() && to.is_none() {
            return Err(Rejection::NobodyHolds(unit));
        }
        if let Some(agent) = to {
            let run = self.state().live_run_of(&agent).map(|run| run.id);
            let grantee = Grantee { agent: &agent, run, origin: Origin::Asked, by_operator: true };
            self.grant(&grantee, &wants);
        }
        Ok(Reply::Stolen(stolen))
    }

    /// Takes leases from those who hold them; their work stays, without its leases.
    fn take_away(&mut self, taken: BTreeSet<Token>) -> Vec<(AgentName, WorkUnit)> {
        let mut stolen = Vec::new();
        for token in taken {
            let Some(lease) = self.state().locks.lease(token) else { continue };
            let (agent, unit) = (lease.agent.clone(), lease.unit.clone());
            stolen.push((agent.clone(), unit.clone()));
            let why = LeaseEnd::Stolen;
            self.emit(Event::LeaseEnded { token, agent: agent.clone(), unit, why });
            self.seal_if_bare(&agent);
        }
        stolen
    }

    fn holders_against(&self, claim: &Claim) -> Vec<(AgentName, WorkUnit)> {
        let obstacles = self.state().locks.obstacles(&claim.agent, &claim.wants, Some(FIRST));
        obstacles.into_iter().filter(|o| o.holds).map(|o| (o.agent, o.unit)).collect()
    }

    fn waiting(&self, claim: ClaimId) -> Result<&Claim, Rejection> {
        self.state().locks.claim(claim).ok_or(Rejection::NoSuchClaim(claim))
    }
}

/// What became of a run whose wait ended otherwise than by a grant.
const NEVER_STARTED: &str = "it never started";

/// A place that nobody is ahead of.
const FIRST: Place = Place { rank: Rank(i64::MIN), claim: ClaimId(0) };

/// Whether the operator has to be asked for `want`: also for a directory that an agent asks for and
/// in which something may have to be asked for, because it would have that with it.
fn asks(policy: &Policy, want: &Want, origin: Origin) -> bool {
    let below = match &want.unit {
        WorkUnit::Dir(dir) => origin != Origin::Write && policy.may_ask_below(dir),
        _ => false,
    };
    below || policy.terms(&want.unit).unclaimed == Unclaimed::Ask
}

/// The longest that one of the wants may be waited for.
fn longest_wait(policy: Option<&Policy>, missing: &[Want]) -> Duration {
    let Some(policy) = policy else { return Config::default().wait.0 };
    let waits = missing.iter().map(|want| policy.terms(&want.unit).wait);
    waits.max().unwrap_or(Span(Duration::ZERO)).0
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
