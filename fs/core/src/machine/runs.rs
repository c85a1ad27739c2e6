//! Runs: their turn, their beginning, their signs of life, their end.
//!
//! A run that can't start yet stands in the queue like everybody else, by a claim for what it
//! begins with. As long as it is not its turn (other runs have to end first) that claim is held
//! back, and in nobody's way; so what holds up a run is only ever another run, or a lease.

use super::claims::Grantee;
use super::decide::Step;
use super::{
    After, Asker, ClaimEnd, Event, Exit, LeaseEnd, OPERATOR, Rejection, Reply, RunRequest,
    Submission,
};
use crate::explain;
use crate::ids::{AgentName, ClaimId, RunId};
use crate::locks::{Claim, Lease, Origin, Rank};
use crate::want;

/// Names for agents that were given none: short, easy to tell apart, easy to type.
const SHORT_NAMES: [&str; 12] =
    ["ada", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "june", "kai", "lea"];

/// A sign of life is journaled when this part of the shortest time to live has passed since the
/// last one.
const RENEWALS_PER_TTL: u32 = 4;

impl Step<'_> {
    pub(super) fn start_run(&mut self, request: RunRequest) -> Result<Reply, Rejection> {
        let RunRequest { agent, argv, policy, process, parent, after, wants, plan, wait } = request;
        let agent = agent.unwrap_or_else(|| self.free_name());
        self.may_begin(&agent, &after)?;
        let parent = parent.map(|run| Ok(self.state().live_run(run)?.agent.clone())).transpose()?;
        let policy = policy.of(&agent);
        if wants.len() > super::MOST_UNITS {
            return Err(Rejection::TooManyUnits(wants.len()));
        }
        let wants = want::merged(wants);
        // Whoever starts the run speaks for the operator, but what agents may never write it
        // can't give either.
        let out = self.out_of_bounds(&agent, Some(&policy), &wants, &[], Asker::Operator);
        if let Some((unit, access)) = out {
            let text = explain::out_of_bounds(&agent, &unit, "run", access);
            return Err(Rejection::OutOfBounds(text));
        }
        let submission = Submission {
            run: RunId(self.state().last_run.0 + 1),
            agent: agent.clone(),
            argv,
            policy,
            process,
            parent: parent.filter(|parent| *parent != agent),
            after,
            plan,
            claim: ClaimId(self.state().last_claim.0 + 1),
        };
        let run = submission.run;
        let claim = Claim {
            id: submission.claim,
            agent: agent.clone(),
            run: Some(run),
            wants,
            rank: Rank::of(self.now, submission.policy.priority),
            since: self.now,
            deadline: wait.map(|wait| self.now.plus(wait)),
            cause: "run".to_owned(),
            origin: Origin::Start,
            asks: false,
            by_operator: true,
            moves: None,
        };
        let place = Some(claim.place());
        let locks = self.state().locks.if_works_for(&agent, submission.parent.as_ref());
        let is_its_turn = self.state().turns(&submission).is_empty();
        if is_its_turn && locks.obstacles(&agent, &claim.wants, place).is_empty() {
            self.begin_run(submission);
            let (origin, by_operator) = (Origin::Start, true);
            self.grant(
                &Grantee { agent: &agent, run: Some(run), origin, by_operator },
                &claim.wants,
            );
            return Ok(Reply::Started(run, agent));
        }
        let circle = locks.deadlock(&agent, &claim.wants, place);
        if let Some(circle) = circle.filter(|_| is_its_turn) {
            let unit = claim.wants.first().map(|want| want.unit.clone()).unwrap_or_default();
            return Err(Rejection::Deadlock(explain::deadlocked(&agent, &unit, "run", &circle)));
        }
        let id = claim.id;
        self.emit(Event::RunQueued { submission: Box::new(submission) });
        let why = explain::waits(self.state(), &claim, self.now);
        self.emit(Event::Queued { claim, why });
        Ok(Reply::Waiting(id))
    }

    /// Whether a run of `agent` may be submitted at all.
    fn may_begin(&self, agent: &AgentName, after: &[After]) -> Result<(), Rejection> {
        if agent.as_str() == OPERATOR {
            return Err(Rejection::ReservedName);
        }
        if let Some(queued) = self.state().submitted.values().find(|s| s.agent == *agent) {
            return Err(Rejection::AlreadyQueued(agent.clone(), queued.run));
        }
        for After { run, succeeded } in after {
            let is_queued = self.state().submitted.contains_key(run);
            let known = self.state().runs.get(run);
            if !is_queued && known.is_none() {
                return Err(Rejection::UnknownRun(*run));
            }
            let failed =
                known.and_then(|run| run.ended).is_some_and(|(_, exit)| exit != Exit::Code(0));
            if *succeeded && failed {
                return Err(Rejection::Unsuccessful(*run));
            }
        }
        match self.state().live_run_of(agent) {
            Some(run) if !after.iter().any(|after| after.run == run.id) => {
                Err(Rejection::AlreadyRunning(agent.clone(), run.id))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn begin_run(&mut self, submission: Submission) {
        let Submission { run, agent, argv, policy, process, parent, plan, .. } = submission;
        self.emit(Event::RunStarted { run, agent, argv, policy, process, parent, plan });
    }

    /// The first short name whose agent neither runs, nor waits to, nor has changes.
    fn free_name(&self) -> AgentName {
        let state = self.state();
        let names = (1u32..).flat_map(|round| {
            SHORT_NAMES.iter().map(move |name| match round {
                1 => (*name).to_owned(),
                _ => format!("{name}{round}"),
            })
        });
        let free = |name: &AgentName| {
            let idle = state
                .agents
                .get(name)
                .is_none_or(|known| known.live.is_none() && !known.may_have_changes());
            idle && state.submitted.values().all(|submission| submission.agent != *name)
        };
        names.filter_map(|name| name.parse().ok()).find(free).expect("names never run out")
    }

    pub(super) fn end_run(
        &mut self,
        run: RunId,
        exit: Exit,
        changed: usize,
        why: String,
    ) -> Result<Reply, Rejection> {
        let agent = self.state().live_run(run)?.agent.clone();
        self.end_waits_of(&agent);
        self.emit(Event::RunEnded { run, agent: agent.clone(), exit, changed, why });
        // Named units protect what runs, and nothing runs any more.
        let is_named = |lease: &Lease| lease.unit.path().is_none();
        self.end_leases(&agent, LeaseEnd::RunEnded, |lease| changed == 0 || is_named(lease));
        if exit != Exit::Code(0) {
            self.give_up_after(run, &format!("its command {exit}"));
        }
        Ok(Reply::Done)
    }

    /// Ends the waits of runs that were to start only if `run` succeeds.
    pub(super) fn give_up_after(&mut self, run: RunId, why: &str) {
        let in_vain = |after: &After| after.run == run && after.succeeded;
        let in_vain: Vec<ClaimId> = self
            .state()
            .submitted
            .values()
            .filter(|submission| submission.after.iter().any(in_vain))
            .map(|submission| submission.claim)
            .collect();
        let why = format!("{run} had to succeed first, and {why}");
        for claim in in_vain {
            self.end_claim_because(claim, ClaimEnd::Impossible, Some(&why));
        }
    }

    pub(super) fn renew(&mut self, agent: AgentName) -> Result<Reply, Rejection> {
        let shortest = self.state().shortest_ttl(&agent)?;
        let last_sign = self.state().agent(&agent)?.last_sign;
        if self.now.since(last_sign) >= shortest / RENEWALS_PER_TTL {
            self.emit(Event::Renewed { agent });
        }
        Ok(Reply::Done)
    }

    pub(super) fn time_out(&mut self) {
        while let Some((at, claim)) = self.state().locks.next_deadline() {
            if at > self.now {
                break;
            }
            self.end_claim(claim, ClaimEnd::TimedOut);
        }
        let state = self.state();
        let is_silent =
            |agent: &&AgentName| state.first_lease_ends(agent).is_some_and(|ends| ends <= self.now);
        let silent: Vec<AgentName> = state.locks.holders().filter(is_silent).cloned().collect();
        for agent in silent {
            let now = self.now;
            let ended: Vec<_> = self
                .state()
                .locks
                .leases_of(&agent)
                .filter(|lease| self.state().lease_ends(lease) <= now)
                .map(|lease| lease.token)
                .collect();
            self.end_leases(&agent, LeaseEnd::Expired, |lease| {
                ended.binary_search(&lease.token).is_ok()
            });
            self.seal_if_bare(&agent);
        }
    }

    /// Changes whose agent has no run and no lease any more are kept, and said to be sealed.
    pub(super) fn seal_if_bare(&mut self, agent: &AgentName) {
        let state = self.state();
        let bare = state.locks.leases_of(agent).next().is_none();
        let known = state.agents.get(agent);
        if bare && known.is_some_and(|k| k.live.is_none() && k.may_have_changes() && !k.sealed) {
            self.emit(Event::Sealed { agent: agent.clone() });
        }
    }
}
