//! Who works for whom: what an agent's chief holds is not in its way.
//!
//! Invariant: nobody works for somebody who works for it.

use super::{Claim, Lease, LockTable};
use crate::ids::{AgentName, ClaimId};
use crate::unit::WorkUnit;
use crate::want::Want;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What changes seldom, and then for many.
#[derive(PartialEq, Eq)]
pub(crate) struct Terms {
    held_back: BTreeSet<ClaimId>,
    slots: BTreeMap<WorkUnit, usize>,
    works_for: BTreeMap<AgentName, AgentName>,
}

impl LockTable {
    /// Whether `agent` works for `other`, directly or not: what `other` holds is not in its way.
    pub fn works_for(&self, agent: &AgentName, other: &AgentName) -> bool {
        let mut at = agent;
        // There is no circle: see `set_works_for`.
        while let Some(above) = self.works_for.get(at) {
            if above == other {
                return true;
            }
            at = above;
        }
        false
    }

    /// Whether what `holder` has is not in the way of `agent`.
    pub(super) fn tolerates(&self, holder: &AgentName, agent: &AgentName) -> bool {
        holder == agent || self.works_for(agent, holder)
    }

    /// Whether somebody waits who works for `agent`.
    pub(crate) fn helper_waits(&self, agent: &AgentName) -> bool {
        !self.works_for.is_empty() && self.waiting().any(|other| self.works_for(other, agent))
    }

    /// Whether somebody waits more than once, or those do who work for one another: then who is let
    /// past whom may follow from any claim in the queue.
    pub(crate) fn is_involved(&self) -> bool {
        let waiting = self.queue.len();
        waiting > self.claims_by_agent.len() || (waiting > 1 && !self.works_for.is_empty())
    }

    /// Whether `claim` waits for `agent`, or for one that it works for: that one may wait for it.
    pub(super) fn waits_for_its_side(&self, claim: &Claim, agent: &AgentName) -> bool {
        let mut side = std::iter::successors(Some(agent), |at| self.works_for.get(at));
        side.any(|one| self.waits_for(claim, one))
    }

    /// Whether a lease can't be beside the others that there are.
    pub(crate) fn clashes(&self, lease: &Lease) -> bool {
        let want = Want { unit: lease.unit.clone(), mode: lease.mode };
        let others = self.against(&lease.agent, &want);
        let strangers = others.iter().filter(|other| !self.works_for(&other.agent, &lease.agent));
        strangers.count() >= self.slots_of(&lease.unit).unwrap_or(1)
    }

    /// The table as it is if `agent` works for `other`, or for nobody.
    pub(crate) fn if_works_for(
        &self,
        agent: &AgentName,
        other: Option<&AgentName>,
    ) -> Cow<'_, Self> {
        if self.works_for.get(agent) == other {
            return Cow::Borrowed(self);
        }
        let mut table = self.clone();
        table.set_works_for(agent, other.cloned());
        Cow::Owned(table)
    }

    /// What decides who is in whose way beside leases, claims and their order.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            held_back: self.held_back.clone(),
            slots: self.slots.clone(),
            works_for: self.works_for.clone(),
        }
    }

    /// The agents that work for others than they did by `before`, with those who work for them.
    pub(crate) fn parted(&self, before: &Terms) -> Vec<AgentName> {
        let changed: Vec<&AgentName> = before
            .works_for
            .iter()
            .filter(|(agent, other)| self.works_for.get(agent) != Some(other))
            .map(|(agent, _)| agent)
            .collect();
        let is_concerned = |agent: &&AgentName| {
            changed.iter().any(|other| agent == other || self.works_for(agent, other))
        };
        self.by_agent.keys().filter(is_concerned).cloned().collect()
    }

    /// Nobody works for those who work for it, so that there is no circle: who came first counts.
    pub(crate) fn set_works_for(&mut self, agent: &AgentName, other: Option<AgentName>) {
        self.works_for.remove(agent);
        if let Some(other) = other.filter(|other| !self.tolerates(agent, other)) {
            self.works_for.insert(agent.clone(), other);
        }
    }
}
