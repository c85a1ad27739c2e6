//! Those that wait: writes held at the gate, and claims made by hand.

use super::orders::OrderedClaim;
use super::{NotRecorded, Owner, ServiceError, if_kept, list, report};
use crate::gate::{Answer, Intent, Notice, Permit, Refusal, Requester, ViewControl as _};
use crate::process;
use agentfs_api::types::Lock;
use agentfs_core::locks::{Lease, Origin};
use agentfs_core::machine::{
    Asker, ClaimEnd, ClaimRequest, Command, Event, LeaseEnd, ProcessMark, RefusalKind, Reply,
    RunRequest,
};
use agentfs_core::policy::Access;
use agentfs_core::{AgentName, ClaimId, RelPath, RunId, Token, Want, WorkUnit};
use std::collections::BTreeSet;
use tokio::sync::oneshot;

/// Who hears of the end of a claim.
pub(super) enum Waiter {
    /// A system call in a view.
    Write { agent: AgentName, intent: Intent, requester: Requester, answer: Answer },
    /// A write into `.agentfs/claim`.
    Order(OrderedClaim),
    /// A request of the API.
    Claim { request: ClaimRequest, claimant: Claimant },
    /// A run that waits before it starts.
    Start { run: RunId, agent: AgentName, process: ProcessMark, reply: Started },
}

/// Where the id of a run goes that has started.
type Started = oneshot::Sender<Result<(RunId, AgentName), ServiceError>>;

/// Where the leases of a claim go.
type Granted = oneshot::Sender<Result<Vec<Lock>, ServiceError>>;

/// Who has asked for units by the API.
pub(super) struct Claimant {
    pub(super) reply: Granted,
    /// Whether it has gone away. That is known before `reply` is closed.
    pub(super) has_hung_up: Box<dyn Fn() -> bool + Send>,
}

impl Claimant {
    fn is_gone(&self) -> bool {
        self.reply.is_closed() || (self.has_hung_up)()
    }
}

/// What a claim that has just ended was granted, by the events that followed that. What its agent
/// had before in a weaker mode does not count: that would be lost with it.
pub(super) fn got(following: &[Event]) -> Vec<Token> {
    let mut upgraded = Vec::new();
    let mut got = Vec::new();
    for event in following {
        match event {
            Event::RunStarted { .. } => {}
            Event::LeaseEnded { unit, why: LeaseEnd::Upgraded, .. } => upgraded.push(unit),
            Event::Granted { lease } if upgraded.contains(&&lease.unit) => {}
            Event::Granted { lease } => got.push(lease.token),
            _ => break,
        }
    }
    got
}

impl Waiter {
    /// Whether nobody would hear the answer any more.
    fn is_gone(&self) -> bool {
        match self {
            Self::Write { requester, .. } | Self::Order(OrderedClaim { requester, .. }) => {
                requester.tid != 0 && process::is_interrupted(requester.tid)
            }
            Self::Claim { claimant, .. } => claimant.is_gone(),
            Self::Start { process, .. } => !process::is_alive(process),
        }
    }
}

impl Waiter {
    /// The journal has failed and does not know of the wait.
    pub(super) fn fail(self, why: &NotRecorded) {
        match self {
            Self::Write { answer, .. } => answer(Err(unrecorded(why.clone()))),
            Self::Order(order) => order.fail(unrecorded(why.clone())),
            // Whoever has gone away needs no answer.
            Self::Claim { claimant, .. } => drop(claimant.reply.send(Err(why.clone().into()))),
            Self::Start { reply, .. } => drop(reply.send(Err(why.clone().into()))),
        }
    }
}

impl Owner {
    /// A write of `agent` stands at the gate.
    pub(super) fn write(
        &mut self,
        agent: AgentName,
        intent: Intent,
        requester: Requester,
        answer: Answer,
    ) {
        match self.command(Command::Claim(write_of(&agent, &intent))) {
            Ok(Reply::Waiting(claim)) => {
                self.wait(claim, Waiter::Write { agent, intent, requester, answer });
            }
            Ok(Reply::Refused(why)) => self.answer(answer, Err(refusal(why))),
            Ok(_) => self.admit(&agent, &intent, answer),
            Err(error) => {
                tracing::error!(%agent, %error, "a write was rejected");
                self.answer(answer, Err(Refusal::Closed));
            }
        }
    }

    /// The units of `intent` are held: lets it through if it is not based on an old version.
    fn admit(&mut self, agent: &AgentName, intent: &Intent, answer: Answer) {
        let Some(served) = self.agents.get(agent) else {
            return self.answer(answer, Err(Refusal::Closed));
        };
        // A path that is shown in an old version is shown in the new one from here on: a write
        // that goes through must build on it, and one that is refused must be able to read it.
        let outdated = served.gate.pinned(&intent.paths);
        if !outdated.is_empty() {
            if let Err(error) = served.view.sync(Some(&outdated)) {
                tracing::warn!(%agent, %error, "the view could not be moved to the new base");
            }
            // Only now: what is read until then is still noted as the old version.
            served.gate.unpin(&outdated);
        }
        let facts = served.gate.facts(&intent.paths);
        let cause = intent.operation.to_owned();
        match self.command(Command::Admit { agent: agent.clone(), cause, facts }) {
            Ok(Reply::Refused(why)) => self.answer(answer, Err(refusal(why))),
            Ok(_) => {
                let Some(served) = self.agents.get(agent) else {
                    return self.answer(answer, Err(Refusal::Closed));
                };
                served.gate.admit(&intent.paths);
                let permit = served.gate.permit();
                if let Some(path) = intent.paths.first() {
                    self.delegate(agent, path);
                }
                self.answer(answer, Ok(permit));
            }
            Err(error) => {
                tracing::error!(%agent, %error, "an admission was rejected");
                self.answer(answer, Err(Refusal::Closed));
            }
        }
    }

    /// Answers a write once the journal has the decision.
    fn answer(&mut self, answer: Answer, said: Result<Permit, Refusal>) {
        self.after_commit(move |kept| answer(kept.map_err(unrecorded).and(said)));
    }

    /// A claim by hand.
    pub(super) fn claim(&mut self, request: ClaimRequest, claimant: Claimant) {
        // What the same client has given up must not be granted beside this.
        self.cancel_those(|waiter| {
            matches!(waiter, Waiter::Claim { request: other, claimant }
                if other.agent == request.agent && claimant.is_gone())
        });
        let had: BTreeSet<WorkUnit> =
            self.state().locks.leases_of(&request.agent).map(|lease| lease.unit.clone()).collect();
        match self.command(Command::Claim(request.clone())) {
            Ok(Reply::Waiting(claim)) => self.wait(claim, Waiter::Claim { request, claimant }),
            Ok(Reply::Refused(_)) => {
                let text = self.last_words(&request.agent);
                let said = Err(ServiceError::NotGranted { timed_out: false, text });
                self.reply(claimant.reply, said);
            }
            Ok(_) => {
                let is_new = |lease: &&Lease| {
                    let wanted = request.wants.iter().any(|want| want.unit == lease.unit);
                    wanted && !had.contains(&lease.unit)
                };
                let now_held = self.state().locks.leases_of(&request.agent);
                let got = now_held.filter(is_new).map(|lease| lease.token).collect();
                self.granted(&request, claimant, got);
            }
            Err(error) => self.reply(claimant.reply, Err(error)),
        }
    }

    /// Tells of the grant. If nobody is there to hear it, `got` is given back.
    fn granted(&mut self, request: &ClaimRequest, claimant: Claimant, got: Vec<Token>) {
        if claimant.is_gone() {
            return self.give_back(&got);
        }
        let lease = |want: &Want| {
            let lease = self.state().locks.held(&request.agent, want)?;
            Some(report::lock(self.state(), lease))
        };
        let leases: Vec<Lock> = request.wants.iter().filter_map(lease).collect();
        let service = self.service.clone();
        self.after_commit(move |kept| {
            if claimant.reply.send(if_kept(kept, Ok(leases))).is_err() {
                service.send(Box::new(move |owner| owner.give_back(&got)));
            }
        });
    }

    /// Ends leases whose claimant is gone, unless another claim has just been granted on them.
    fn give_back(&mut self, got: &[Token]) {
        for token in got {
            let Some(lease) = self.state().locks.lease(*token) else { continue };
            let (agent, unit) = (lease.agent.clone(), lease.unit.clone());
            let rests_on_it = |(claim, waiter): (&ClaimId, &Waiter)| {
                matches!(waiter, Waiter::Claim { request, .. } | Waiter::Order(OrderedClaim { request, .. })
                    if request.agent == agent && request.wants.iter().any(|w| unit.covers(&w.unit)))
                    && self.state().locks.claim(*claim).is_none()
            };
            if self.waiters.iter().any(rests_on_it) {
                continue;
            }
            if let Err(error) = self.command(Command::Release { agent, unit }) {
                tracing::error!(%token, %error, "a lease that nobody waits for is still held");
            }
        }
    }

    fn reply(&mut self, reply: Granted, said: Result<Vec<Lock>, ServiceError>) {
        // Whoever has gone away needs no answer.
        self.after_commit(move |kept| drop(reply.send(if_kept(kept, said))));
    }

    /// Registers a run; `reply` hears of it when it has started.
    pub(super) fn submit(&mut self, request: RunRequest, reply: Started) {
        let process = request.process.clone();
        // Asked again: the last daemon had started it, and died before it could say so.
        let own =
            self.state().runs.values().find(|run| run.ended.is_none() && run.process == process);
        if let Some(run) = own {
            let started = (run.id, run.agent.clone());
            return self.reply_started(reply, Ok(started));
        }
        let said = match self.command(Command::StartRun(Box::new(request))) {
            Ok(Reply::Started(run, agent)) => Ok((run, agent)),
            Ok(Reply::Waiting(claim)) => {
                let submitted = &self.state().submitted;
                let submission = submitted.values().find(|s| s.claim == claim);
                let known = submission.map(|s| (s.run, s.agent.clone()));
                let Some((run, agent)) = known else { return };
                return self.wait(claim, Waiter::Start { run, agent, process, reply });
            }
            Ok(_) => Err(ServiceError::Stopped),
            Err(error) => Err(error),
        };
        self.reply_started(reply, said);
    }

    fn reply_started(&mut self, reply: Started, said: Result<(RunId, AgentName), ServiceError>) {
        // Whoever has gone away needs no answer.
        self.after_commit(move |kept| drop(reply.send(if_kept(kept, said))));
    }

    /// The sentence about the agent's latest refusal.
    pub(super) fn last_words(&self, agent: &AgentName) -> String {
        let incidents = &self.state().incidents;
        let latest = incidents.iter().rev().find(|incident| incident.agent == *agent);
        latest.map(|incident| incident.text.clone()).unwrap_or_default()
    }

    /// Keeps the waiter until its claim ends; a claim that may not wait at all has ended already.
    pub(super) fn wait(&mut self, claim: ClaimId, waiter: Waiter) {
        if self.state().locks.claim(claim).is_some() {
            self.waiters.insert(claim, waiter);
        } else {
            let agent = match &waiter {
                Waiter::Write { agent, .. } | Waiter::Start { agent, .. } => agent,
                Waiter::Claim { request, .. } | Waiter::Order(OrderedClaim { request, .. }) => {
                    &request.agent
                }
            };
            let text = self.last_words(agent);
            self.dismiss(waiter, ClaimEnd::TimedOut, text, Vec::new());
        }
    }

    /// A claim has left the queue: whoever waited for it goes on or is told why not.
    pub(super) fn claim_ended(
        &mut self,
        claim: ClaimId,
        end: ClaimEnd,
        text: &str,
        got: Vec<Token>,
    ) {
        if let Some(waiter) = self.waiters.remove(&claim) {
            self.dismiss(waiter, end, text.to_owned(), got);
        }
    }

    fn dismiss(&mut self, waiter: Waiter, end: ClaimEnd, text: String, got: Vec<Token>) {
        match (waiter, end) {
            (Waiter::Write { agent, intent, answer, .. }, ClaimEnd::Granted) => {
                self.admit(&agent, &intent, answer);
            }
            (Waiter::Claim { request, claimant }, ClaimEnd::Granted) => {
                self.granted(&request, claimant, got);
            }
            (Waiter::Start { run, agent, reply, .. }, ClaimEnd::Granted) => {
                self.reply_started(reply, Ok((run, agent)));
            }
            (Waiter::Write { answer, .. }, end) => self.answer(answer, Err(refused_by(end))),
            (Waiter::Order(order), end) => self.end_order(order, end, &text),
            (Waiter::Claim { claimant, .. }, _) => {
                let timed_out = end == ClaimEnd::TimedOut;
                self.reply(claimant.reply, Err(ServiceError::NotGranted { timed_out, text }));
            }
            (Waiter::Start { reply, .. }, _) => {
                let timed_out = end == ClaimEnd::TimedOut;
                self.reply_started(reply, Err(ServiceError::NotGranted { timed_out, text }));
            }
        }
    }

    /// Takes those out of the queue whose process is gone or has a signal to take.
    pub(super) fn look_at_waiters(&mut self) {
        self.cancel_those(Waiter::is_gone);
    }

    fn cancel_those(&mut self, which: impl Fn(&Waiter) -> bool) {
        let gone = self.waiters.iter().filter(|(_, waiter)| which(waiter));
        let gone: Vec<ClaimId> = gone.map(|(claim, _)| *claim).collect();
        for claim in gone {
            if let Err(error) = self.command(Command::Cancel { claim }) {
                tracing::error!(%claim, %error, "a waiter could not leave the queue");
            }
        }
    }

    /// A path is again as it is in base.
    pub(super) fn forget(&mut self, agent: AgentName, path: RelPath) {
        // It may have been made again since, and let through.
        let again = |served: &super::owner::Served| served.gate.is_admitted(&path);
        if self.agents.get(&agent).is_some_and(again) {
            return;
        }
        if let Err(error) = self.command(Command::Forget { agent, path }) {
            tracing::error!(%error, "a path could not be forgotten");
        }
    }

    /// The text of one file of the virtual directory `.agentfs/`.
    pub(super) fn notice(&self, agent: &AgentName, notice: Notice) -> String {
        let (state, now) = (self.state(), self.clock.now());
        match notice {
            Notice::Whoami => report::whoami(state, agent),
            Notice::Locks => {
                let line = |lock: Lock| {
                    format!(
                        "{}\t{}\t{}\t{}\n",
                        lock.unit,
                        lock.mode,
                        lock.agent,
                        lock.run.map(|run| run.to_string()).unwrap_or_default()
                    )
                };
                report::locks(state).into_iter().map(line).collect()
            }
            Notice::Waiting => {
                let line = |waiting: agentfs_api::types::Waiting| {
                    let wants = list(&waiting.wants);
                    format!("{}\t{}\t{wants}\t{}\n", waiting.position, waiting.agent, waiting.cause)
                };
                report::queue(state, now).into_iter().map(line).collect()
            }
            Notice::Explain => report::explanation_for(state, agent, now),
            Notice::Readme => include_str!("notice.md").to_owned(),
            Notice::GitIgnore => "*\n".to_owned(),
            Notice::Claim | Notice::Release => self.said(agent, notice),
        }
    }
}

/// What a write meets when the journal fails.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn unrecorded(why: NotRecorded) -> Refusal {
    if why.full { Refusal::Full } else { Refusal::NotRecorded }
}

/// What a write that waited meets when its claim has left the queue without a grant.
pub(super) fn refused_by(end: ClaimEnd) -> Refusal {
    match end {
        ClaimEnd::TimedOut | ClaimEnd::Deadlock | ClaimEnd::Impossible => Refusal::Busy,
        ClaimEnd::Refused => Refusal::Denied,
        ClaimEnd::Cancelled | ClaimEnd::RunEnded | ClaimEnd::Granted => Refusal::Interrupted,
    }
}

/// The claim that a write makes.
pub(super) fn write_of(agent: &AgentName, intent: &Intent) -> ClaimRequest {
    ClaimRequest {
        agent: agent.clone(),
        wants: intent.units.iter().cloned().map(Want::exclusive).collect(),
        wait: None,
        cause: intent.operation.to_owned(),
        origin: Origin::Write,
        by: Asker::Agent,
        touches: intent.paths.iter().chain(&intent.arrives).cloned().collect(),
        moves: intent.moves.clone(),
    }
}

pub(super) fn refusal(why: RefusalKind) -> Refusal {
    match why {
        RefusalKind::OutOfBounds(Access::ReadOnly) => Refusal::ReadOnly,
        RefusalKind::Denied | RefusalKind::OutOfBounds(_) => Refusal::Denied,
        RefusalKind::Deadlock | RefusalKind::TooMany => Refusal::Busy,
        RefusalKind::Stale => Refusal::Stale,
        RefusalKind::NoRun => Refusal::Closed,
    }
}

#[cfg(test)]
mod tests;
