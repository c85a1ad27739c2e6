//! Those that wait until others hold nothing of a unit, without wanting it themselves.
//!
//! They stand in no queue: a unit that goes from one holder to the next is not free. Nothing is
//! polled: each decision that ends leases is looked at, and an onlooker that goes away says so.

use super::{Owner, Service, ServiceError, if_kept};
use agentfs_api::types::Freed;
use agentfs_core::locks::{Lease, Obstacle};
use agentfs_core::machine::Event;
use agentfs_core::{AgentName, WorkUnit, explain};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Who waits for a unit to be free.
pub(super) struct Onlooker {
    unit: WorkUnit,
    /// Whose leases do not count: those of the agent that waits.
    spared: Option<AgentName>,
    reply: oneshot::Sender<Result<(), ServiceError>>,
}

/// Takes those that nobody waits for any more off the list when it is dropped.
struct Leaving(Service);

impl Drop for Leaving {
    fn drop(&mut self) {
        let gone = |owner: &mut Owner| owner.onlookers.retain(|one| !one.reply.is_closed());
        self.0.send(Box::new(gone));
    }
}

impl Service {
    /// Waits until others than `spared` hold nothing of `unit`, for `timeout` at most.
    pub async fn until_free(
        &self,
        unit: WorkUnit,
        spared: Option<AgentName>,
        timeout: Option<Duration>,
    ) -> Result<Freed, ServiceError> {
        let begun = Instant::now();
        let leaving = Leaving(self.clone());
        let (reply, answer) = oneshot::channel();
        let (of, spares) = (unit.clone(), spared.clone());
        let onlooker = Onlooker { unit: of, spared: spares, reply };
        self.send(Box::new(move |owner| owner.look_on(onlooker)));
        let ended = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, answer).await.ok(),
            None => Some(answer.await),
        };
        let held = unit.clone();
        // Only after the answer is dropped is it seen that nobody waits for it.
        drop(leaving);
        match ended {
            Some(said) => said.unwrap_or(Err(ServiceError::Stopped))?,
            None => self.ask(move |owner| owner.still_held(&held, spared.as_ref(), begun)).await?,
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Freed { unit, millis })
    }
}

impl Owner {
    fn look_on(&mut self, onlooker: Onlooker) {
        if self.is_free(&onlooker) {
            self.tell_free(onlooker);
        } else {
            self.onlookers.push(onlooker);
        }
    }

    /// After a decision: tells those whose unit it has set free.
    pub(super) fn tell_onlookers(&mut self, events: &[Event]) {
        let ends = |event: &Event| matches!(event, Event::LeaseEnded { .. });
        if self.onlookers.is_empty() || !events.iter().any(ends) {
            return;
        }
        let waiting = std::mem::take(&mut self.onlookers);
        for onlooker in waiting {
            self.look_on(onlooker);
        }
    }

    fn tell_free(&mut self, onlooker: Onlooker) {
        // Whoever has gone away needs no answer.
        self.after_commit(move |kept| drop(onlooker.reply.send(if_kept(kept, Ok(())))));
    }

    fn is_free(&self, onlooker: &Onlooker) -> bool {
        self.holders(&onlooker.unit, onlooker.spared.as_ref()).next().is_none()
    }

    fn holders(&self, unit: &WorkUnit, spared: Option<&AgentName>) -> impl Iterator<Item = &Lease> {
        let overlapping = self.state().locks.overlapping(unit);
        overlapping.filter(move |lease| Some(&lease.agent) != spared)
    }

    /// The time is up: who holds the unit, and what to do about it.
    fn still_held(
        &mut self,
        unit: &WorkUnit,
        spared: Option<&AgentName>,
        begun: Instant,
    ) -> Result<(), ServiceError> {
        let Some(lease) = self.holders(unit, spared).next() else { return Ok(()) };
        let obstacle = Obstacle {
            agent: lease.agent.clone(),
            unit: lease.unit.clone(),
            since: lease.since,
            holds: true,
        };
        let (why, way_out) = explain::obstacle(self.state(), &obstacle, self.clock.now());
        let waited = explain::span(begun.elapsed());
        let text = format!("{unit} is not free after {waited}: {why}. {way_out}");
        Err(ServiceError::NotGranted { timed_out: true, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Setup, asked_for};
    use agentfs_api::Workspace;
    use agentfs_core::Want;
    use agentfs_core::machine::{Asker, OPERATOR};

    fn service(dir: &std::path::Path) -> Service {
        let at = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (root, state_dir, runtime_dir) = (at("root"), at("state"), at("run"));
        let mountpoint = at("views");
        Service::start(Setup { workspace: Workspace { root, state_dir, runtime_dir }, mountpoint })
            .unwrap()
    }

    async fn onlookers(service: &Service) -> usize {
        service.ask(|owner| Ok(owner.onlookers.len())).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        let unit: WorkUnit = "res:db".parse().unwrap();
        let wants = vec![Want::exclusive(unit.clone())];
        let operator: AgentName = OPERATOR.parse().unwrap();
        let claim = asked_for(operator.clone(), wants, None, Asker::Operator);
        service.claim(claim, || false).await.unwrap();
        let spared = service.until_free(unit.clone(), Some(operator.clone()), None).await;
        assert_eq!(spared.unwrap().unit, unit, "its own leases do not count");

        let waits = tokio::spawn({
            let (service, unit) = (service.clone(), unit.clone());
            async move { service.until_free(unit, None, None).await }
        });
        let stays = tokio::spawn({
            let (service, unit) = (service.clone(), unit.clone());
            async move { service.until_free(unit, None, None).await }
        });
        while onlookers(&service).await < 2 {
            tokio::task::yield_now().await;
        }
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        assert_eq!(onlookers(&service).await, 1);

        let short = Some(Duration::from_millis(20));
        let late = service.until_free(unit.clone(), None, short).await.unwrap_err().to_string();
        assert!(late.contains("operator has held res:db"), "{late}");
        assert_eq!(onlookers(&service).await, 1);

        service.ask(move |owner| owner.release(Some(operator), unit)).await.unwrap();
        assert!(stays.await.unwrap().is_ok());
        assert_eq!(onlookers(&service).await, 0);
    }
}
