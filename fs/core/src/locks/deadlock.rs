//! Waits that would never end.
//!
//! An agent waits for what stands in the way of each of its claims. Where all of it has to go, one
//! agent that never goes is enough to wait for ever; of a counting unit it is enough that as many
//! go as are in the way too many. So it is not circles that are looked for, but what is left when
//! everybody who can go on has gone (the reduction of an AND-OR graph, as in Knapp, "Deadlock
//! Detection in Distributed Databases", 1987); among those that are left there is a circle to be
//! told. Claims that wait for the operator, or for a run's turn, wait for nobody here.

use super::order::Place;
use super::{Block, Claim, LockTable};
use crate::ids::AgentName;
use crate::want::Want;
use std::collections::{BTreeMap, BTreeSet};

/// For what each agent waits.
type Waits = BTreeMap<AgentName, Vec<Block>>;

impl LockTable {
    /// Whether `agent`, were it to wait for `wants` at `place`, would wait for itself: the circle
    /// of agents, from the first in its way to the one that waits for it.
    pub fn deadlock(
        &self,
        agent: &AgentName,
        wants: &[Want],
        place: Option<Place>,
    ) -> Option<Vec<AgentName>> {
        let is_last = place.is_none_or(|place| self.is_last(place));
        let has_something =
            self.by_agent.contains_key(agent) || self.claims_by_agent.contains_key(agent);
        if is_last && !has_something {
            // Nobody waits for an agent that has nothing and is ahead of nobody.
            return None;
        }
        let mut first = self.blocks(agent, wants, place);
        first.extend(self.waits_of(agent));
        circle(agent, &self.stuck(agent, first))
    }

    /// The claim that has to go for others to go on, if there is a circle: of those in it, the
    /// last in the queue.
    pub(crate) fn knot(&self) -> Option<(&Claim, Vec<AgentName>)> {
        let waiting: Waits =
            self.waiting().map(|agent| (agent.clone(), self.waits_of(agent))).collect();
        let stuck = reduced(waiting);
        self.queue().collect::<Vec<_>>().into_iter().rev().find_map(|claim| {
            let is_ready = self.is_ready(claim.id);
            let circle = circle(&claim.agent, &stuck).filter(|_| is_ready)?;
            Some((claim, circle))
        })
    }

    fn waits_of(&self, agent: &AgentName) -> Vec<Block> {
        self.claims_of(agent)
            .filter(|claim| self.is_ready(claim.id))
            .flat_map(|claim| self.blocks(agent, &claim.wants, Some(claim.place())))
            .collect()
    }

    /// Of those that `agent` waits for, directly or not, the ones that can never go on, with what
    /// they wait for.
    fn stuck(&self, agent: &AgentName, first: Vec<Block>) -> Waits {
        let mut waits = Waits::from([(agent.clone(), first)]);
        let mut unseen = vec![agent.clone()];
        while let Some(next) = unseen.pop() {
            let blocks = waits.get(&next).into_iter().flatten();
            let others: Vec<AgentName> =
                blocks.flat_map(|block| &block.by).map(|o| o.agent.clone()).collect();
            for other in others {
                if !waits.contains_key(&other) {
                    waits.insert(other.clone(), self.waits_of(&other));
                    unseen.push(other);
                }
            }
        }
        reduced(waits)
    }
}

/// What is left when all who can go on have gone.
fn reduced(mut waits: Waits) -> Waits {
    loop {
        let left: BTreeSet<AgentName> = waits.keys().cloned().collect();
        let has_gone = |agent: &AgentName| !left.contains(agent);
        waits.retain(|_, blocks| blocks.iter().any(|block| !block.opens(has_gone)));
        if waits.len() == left.len() {
            return waits;
        }
    }
}

/// The way from `agent` through those that are stuck back to `agent`.
fn circle(agent: &AgentName, stuck: &Waits) -> Option<Vec<AgentName>> {
    let next = |at: &AgentName| -> Vec<AgentName> {
        let blocks = stuck.get(at).into_iter().flatten().flat_map(|block| &block.by);
        blocks.map(|o| o.agent.clone()).filter(|other| stuck.contains_key(other)).collect()
    };
    let mut ways: Vec<Vec<AgentName>> = next(agent).into_iter().map(|o| vec![o]).collect();
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        let Some(last) = way.last() else { continue };
        if last == agent {
            return Some(way);
        }
        if seen.insert(last.clone()) {
            ways.extend(next(last).into_iter().map(|o| [way.clone(), vec![o]].concat()));
        }
    }
    None
}
