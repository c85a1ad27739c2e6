//! Claims and releases that an agent writes into its view's `.agentfs/`: for those whose own
//! sandbox leaves them no socket. The same claims as by the API, the answer as an errno, and in
//! words as the text of the file that was written.

use super::waiters::{Waiter, refusal, refused_by, unrecorded};
use super::{Owner, ServiceError, report};
use crate::gate::{Notice, Ordered, Refusal, Requester};
use agentfs_core::locks::Origin;
use agentfs_core::machine::{Asker, ClaimEnd, ClaimRequest, Command, Rejection, Reply};
use agentfs_core::unit::InvalidUnit;
use agentfs_core::{AgentName, Want, WorkUnit};
use std::time::Duration;

/// A claim that was written into `.agentfs/claim` and waits.
pub(super) struct OrderedClaim {
    pub(super) request: ClaimRequest,
    pub(super) requester: Requester,
    done: Ordered,
}

impl OrderedClaim {
    /// It is refused, for a reason that is not the claim's.
    pub(super) fn fail(self, why: Refusal) {
        (self.done)(Err(why));
    }
}

/// The claim that somebody asks for by name.
pub fn asked_for(
    agent: AgentName,
    wants: Vec<Want>,
    wait: Option<Duration>,
    by: Asker,
) -> ClaimRequest {
    let (cause, origin) = ("claim".to_owned(), Origin::Asked);
    ClaimRequest { agent, wants, wait, cause, origin, by, touches: Vec::new(), moves: None }
}

impl Owner {
    /// The agent has written `list` into the file `order`.
    pub(super) fn order(
        &mut self,
        agent: AgentName,
        order: Notice,
        list: Result<Vec<Want>, InvalidUnit>,
        requester: Requester,
        done: Ordered,
    ) {
        let refused = |why: String| format!("refused: {why}\n");
        let (said, words) = match list {
            Err(error) => (Err(Refusal::Invalid), refused(error.to_string())),
            Ok(_) if self.state().live_run_of(&agent).is_none() => {
                (Err(Refusal::Closed), refused(format!("{agent} has no run that is alive")))
            }
            Ok(list) if order == Notice::Release => match self.release_all(&agent, &list) {
                Ok(words) => (Ok(()), words),
                Err(error) => (Err(Refusal::Denied), refused(error.to_string())),
            },
            Ok(wants) => {
                let request = asked_for(agent, wants, None, Asker::Agent);
                return self.claim_by_order(OrderedClaim { request, requester, done });
            }
        };
        self.end(&agent, order, said, words, done);
    }

    fn claim_by_order(&mut self, order: OrderedClaim) {
        let agent = order.request.agent.clone();
        let (said, why) = match self.command(Command::Claim(order.request.clone())) {
            Ok(Reply::Waiting(claim)) => return self.wait(claim, Waiter::Order(order)),
            Ok(Reply::Refused(why)) => (refusal(why), self.last_words(&agent)),
            Ok(_) => return self.end_order(order, ClaimEnd::Granted, ""),
            Err(error) => (Refusal::Denied, error.to_string()),
        };
        self.end(&agent, Notice::Claim, Err(said), format!("refused: {why}\n"), order.done);
    }

    /// A claim by order has left the queue, or never had to wait.
    pub(super) fn end_order(&mut self, order: OrderedClaim, end: ClaimEnd, text: &str) {
        let OrderedClaim { request, done, .. } = order;
        let (said, words) = match end {
            ClaimEnd::Granted => (Ok(()), self.granted_in_words(&request)),
            end => (Err(refused_by(end)), format!("refused: {text}\n")),
        };
        self.end(&request.agent, Notice::Claim, said, words, done);
    }

    fn granted_in_words(&self, request: &ClaimRequest) -> String {
        let lease = |want: &Want| {
            let held = self.state().locks.held(&request.agent, want)?;
            let unit = &want.unit;
            let lease = report::lock(self.state(), held);
            // A directory may be what holds a file below it.
            let by =
                if lease.unit == *unit { String::new() } else { format!(" by {}", lease.unit) };
            Some(format!("granted: {unit}{by} ({}, fencing token {})\n", lease.mode, lease.token))
        };
        request.wants.iter().filter_map(lease).collect()
    }

    /// Gives back all of `units`, or none if one of them is not held.
    fn release_all(&mut self, agent: &AgentName, wants: &[Want]) -> Result<String, ServiceError> {
        let locks = &self.state().locks;
        let held =
            |unit: &&WorkUnit| locks.leases_at(agent, unit).any(|lease| lease.unit == **unit);
        if let Some(foreign) = wants.iter().map(|want| &want.unit).find(|unit| !held(unit)) {
            return Err(Rejection::NotHeld(agent.clone(), foreign.clone()).into());
        }
        let mut words = String::new();
        for unit in wants.iter().map(|want| &want.unit) {
            let line = format!("released: {unit}\n");
            // Named twice in one list.
            if !words.contains(&line) {
                self.command(Command::Release { agent: agent.clone(), unit: unit.clone() })?;
                words += &line;
            }
        }
        Ok(words)
    }

    fn end(
        &mut self,
        agent: &AgentName,
        order: Notice,
        said: Result<(), Refusal>,
        words: String,
        done: Ordered,
    ) {
        if let Some(served) = self.agents.get(agent) {
            served.gate.say(order, words);
        }
        self.after_commit(move |kept| done(kept.map_err(unrecorded).and(said)));
    }

    /// The text of a file that takes orders.
    pub(super) fn said(&self, agent: &AgentName, order: Notice) -> String {
        let said = self.agents.get(agent).and_then(|served| served.gate.said(order));
        said.unwrap_or_else(|| {
            match order {
                Notice::Release => "Write units into this file, one a line, to give them back.\n",
                _ => "Write units into this file, one a line, to claim all of them or none.\n",
            }
            .to_owned()
        })
    }
}
