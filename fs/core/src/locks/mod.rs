//! The lock table: who holds which work unit, and who waits.
//!
//! A passive structure: [`crate::machine`] decides and folds events into it. What a decision costs
//! depends on the depth of a path, and on who holds or wants something that overlaps it, never on
//! the number of all leases ([`index`]).
//!
//! Invariants: no two leases of different agents overlap unless both are shared, or the unit has
//! slots for both, or one agent works for the other (G1); the queue has one order ([`order`]),
//! which is the same whenever it is asked for.

mod deadlock;
mod index;
mod lineage;
mod order;
#[cfg(test)]
mod tests;

pub(crate) use lineage::Terms;
pub use order::{HEAD_START, InvalidPriority, Place, Priority, Rank};

use crate::config::Span;
use crate::ids::{AgentName, ClaimId, RunId, Token};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::{Mode, WorkUnit};
use crate::want::Want;
use index::UnitIndex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a lease or claim came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody asked for it: `agentctl claim`, `.agentfs/claim`, a named process.
    Asked,
    /// The first write took it.
    Write,
    /// A run began with it: `--claim`, `--plan`.
    Start,
}

/// A granted claim on one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The fencing token: unique, and larger than that of every lease granted before.
    pub token: Token,
    /// What is held.
    pub unit: WorkUnit,
    /// Shared or exclusive.
    pub mode: Mode,
    /// Who holds it. All runs of one agent share its leases.
    pub agent: AgentName,
    /// The run that claimed it; none where the operator or an agent without a run did.
    pub run: Option<RunId>,
    /// Since when.
    pub since: Timestamp,
    /// How it came about.
    pub origin: Origin,
    /// How long it outlives the last sign of life, if that is not the run's own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// Whether the operator gave it, also where agents may not take it by themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_operator: bool,
}

/// A claim that waits: for all of its units at once, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredClaim")]
pub struct Claim {
    /// Its id.
    pub id: ClaimId,
    /// Who wants the units.
    pub agent: AgentName,
    /// For which run.
    pub run: Option<RunId>,
    /// What it wants; nothing, if it is a run that waits only for its turn.
    pub wants: Vec<Want>,
    /// What its place in the queue follows from.
    pub rank: Rank,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it gives up; none for never.
    pub deadline: Option<Timestamp>,
    /// What waits, for people: "open", "rename", "claim", "run".
    pub cause: String,
    /// How it came about.
    pub origin: Origin,
    /// Whether the operator has to agree first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Whether the operator claims it for the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_operator: bool,
    /// For a rename: the path that gets another name, and that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<(RelPath, RelPath)>,
}

/// A claim as journals have it: older ones with one mode for all units, and without a rank.
#[derive(Deserialize)]
struct StoredClaim {
    id: ClaimId,
    agent: AgentName,
    run: Option<RunId>,
    #[serde(default)]
    wants: Vec<Want>,
    #[serde(default)]
    units: Vec<WorkUnit>,
    mode: Option<Mode>,
    rank: Option<Rank>,
    since: Timestamp,
    deadline: Option<Timestamp>,
    cause: String,
    origin: Origin,
    #[serde(default)]
    asks: bool,
    #[serde(default)]
    by_operator: bool,
    moves: Option<(RelPath, RelPath)>,
}

impl From<StoredClaim> for Claim {
    fn from(stored: StoredClaim) -> Self {
        let mode = stored.mode.unwrap_or(Mode::Exclusive);
        let old = stored.units.into_iter().map(|unit| Want { unit, mode });
        Self {
            id: stored.id,
            agent: stored.agent,
            run: stored.run,
            wants: stored.wants.into_iter().chain(old).collect(),
            rank: stored.rank.unwrap_or_else(|| Rank::of(stored.since, Priority::Normal)),
            since: stored.since,
            deadline: stored.deadline,
            cause: stored.cause,
            origin: stored.origin,
            asks: stored.asks,
            by_operator: stored.by_operator,
            moves: stored.moves,
        }
    }
}

impl Claim {
    /// Its place in the queue.
    pub fn place(&self) -> Place {
        Place { rank: self.rank, claim: self.id }
    }

    /// Whether it wants something of `unit`.
    pub fn overlaps(&self, unit: &WorkUnit) -> bool {
        self.wants.iter().any(|want| want.unit.overlaps(unit))
    }
}

/// What stands in the way of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Who.
    pub agent: AgentName,
    /// The unit that it holds or wants.
    pub unit: WorkUnit,
    /// Since when.
    pub since: Timestamp,
    /// Whether it holds the unit; else it only is ahead in the queue.
    pub holds: bool,
}

/// What stands in the way of one wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Everything that does: first who holds, then who is ahead.
    pub by: Vec<Obstacle>,
    /// How many of them have to go: all, but for a unit with slots.
    pub must_go: usize,
}

impl Block {
    /// Whether enough have gone.
    fn opens(&self, has_gone: impl Fn(&AgentName) -> bool) -> bool {
        self.by.iter().filter(|obstacle| has_gone(&obstacle.agent)).count() >= self.must_go
    }
}

/// What one agent holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    tokens: BTreeSet<Token>,
    /// How many of the leases have which time to live of their own.
    ttls: BTreeMap<Option<Span>, usize>,
}

/// Leases and the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockTable {
    leases: BTreeMap<Token, Lease>,
    held: UnitIndex<Token>,
    by_agent: BTreeMap<AgentName, Holdings>,
    queue: BTreeMap<ClaimId, Claim>,
    line: BTreeSet<Place>,
    wanted: UnitIndex<ClaimId>,
    claims_by_agent: BTreeMap<AgentName, BTreeSet<ClaimId>>,
    deadlines: BTreeSet<(Timestamp, ClaimId)>,
    /// Claims that wait for something else than units, and so are in nobody's way.
    held_back: BTreeSet<ClaimId>,
    /// Of which units more than one holder is allowed, and how many.
    slots: BTreeMap<WorkUnit, usize>,
    /// For whom an agent works: what that one holds is not in its way.
    works_for: BTreeMap<AgentName, AgentName>,
}

impl LockTable {
    /// All leases, oldest first.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease with this token, if it still is one.
    pub fn lease(&self, token: Token) -> Option<&Lease> {
        self.leases.get(&token)
    }

    /// The leases of one agent, oldest first.
    pub fn leases_of(&self, agent: &AgentName) -> impl Iterator<Item = &Lease> {
        let tokens = self.by_agent.get(agent).into_iter().flat_map(|holdings| &holdings.tokens);
        tokens.filter_map(|token| self.leases.get(token))
    }

    /// The leases of one agent on exactly this unit's name or path, as file or directory.
    pub fn leases_at(&self, agent: &AgentName, unit: &WorkUnit) -> impl Iterator<Item = &Lease> {
        let found = self.held.at(unit).filter_map(|token| self.leases.get(&token));
        let agent = agent.clone();
        found.filter(move |lease| lease.agent == agent)
    }

    /// The times to live that the agent's leases have; none where it is the run's own.
    pub fn ttls_of(&self, agent: &AgentName) -> impl Iterator<Item = Option<Span>> {
        self.by_agent.get(agent).into_iter().flat_map(|holdings| holdings.ttls.keys().copied())
    }

    /// The agents that hold something.
    pub fn holders(&self) -> impl Iterator<Item = &AgentName> {
        self.by_agent.keys()
    }

    /// The claims that wait, the first in line first.
    pub fn queue(&self) -> impl ExactSizeIterator<Item = &Claim> {
        // The line and the queue have the same claims.
        self.line.iter().map(|place| &self.queue[&place.claim])
    }

    /// Whether nobody in the queue is behind `place`.
    pub(crate) fn is_last(&self, place: Place) -> bool {
        self.line.last().is_none_or(|last| *last < place)
    }

    /// The claim with this id, if it still waits.
    pub fn claim(&self, id: ClaimId) -> Option<&Claim> {
        self.queue.get(&id)
    }

    /// The claims of one agent that wait, first come first.
    pub fn claims_of(&self, agent: &AgentName) -> impl Iterator<Item = &Claim> {
        let ids = self.claims_by_agent.get(agent).into_iter().flatten();
        ids.filter_map(|id| self.queue.get(id))
    }

    /// The agents that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &AgentName> {
        self.claims_by_agent.keys()
    }

    /// The claim that gives up first, and when.
    pub fn next_deadline(&self) -> Option<(Timestamp, ClaimId)> {
        self.deadlines.first().copied()
    }

    /// Whether the claim waits for units alone: neither for the operator nor for a run's turn.
    pub fn is_ready(&self, id: ClaimId) -> bool {
        !self.held_back.contains(&id)
    }

    /// How many may hold the unit at once, if it is a counting unit.
    pub fn slots_of(&self, unit: &WorkUnit) -> Option<usize> {
        self.slots.get(unit).copied()
    }

    /// The agent's lease that already gives it `want`.
    pub fn held(&self, agent: &AgentName, want: &Want) -> Option<&Lease> {
        let counts = self.slots.contains_key(&want.unit);
        let enough = |lease: &&Lease| {
            lease.agent == *agent
                && lease.unit.covers(&want.unit)
                && (counts || lease.mode >= want.mode)
        };
        let tokens = self.held.at_or_above(&want.unit).into_iter();
        tokens.filter_map(|token| self.leases.get(&token)).find(enough)
    }

    /// The leases that overlap `unit`.
    pub fn overlapping<'a>(&'a self, unit: &WorkUnit) -> impl Iterator<Item = &'a Lease> + use<'a> {
        let mut tokens = self.held.at_or_above(unit);
        tokens.extend(self.held.below(unit));
        let found = tokens.into_iter().filter_map(|token| self.leases.get(&token));
        let unit = unit.clone();
        found.filter(move |lease| lease.unit.overlaps(&unit))
    }

    /// The claims that want something of `unit`, the first in line first.
    pub fn wanting(&self, unit: &WorkUnit) -> impl Iterator<Item = &Claim> {
        let at_or_above = self.wanted.at_or_above(unit).into_iter();
        let ids = at_or_above.chain(self.wanted.below(unit));
        let claims = ids.filter_map(|id| self.queue.get(&id)).filter(|c| c.overlaps(unit));
        let in_line: BTreeMap<Place, &Claim> = claims.map(|c| (c.place(), c)).collect();
        in_line.into_values()
    }

    /// What keeps `agent` from having `wants` now, wish by wish: leases of others, and claims of
    /// others that are ahead of `place` (of all, without one).
    ///
    /// A claim that is ahead does not count if it waits for this very agent (or for one that it
    /// works for), for what that holds or for what it claimed earlier: whoever waits for an agent
    /// must not also hold that agent up. (Whoever wants a slot counts as waiting for all who have
    /// one, also while another is free: so it can't change who waits for whom when one gets free.)
    pub fn blocks(&self, agent: &AgentName, wants: &[Want], place: Option<Place>) -> Vec<Block> {
        let missing = wants.iter().filter(|want| self.held(agent, want).is_none());
        missing.filter_map(|want| self.block(agent, want, place)).collect()
    }

    fn block(&self, agent: &AgentName, want: &Want, place: Option<Place>) -> Option<Block> {
        let slots = self.slots_of(&want.unit);
        let holds = |lease: &Lease| Obstacle {
            agent: lease.agent.clone(),
            unit: lease.unit.clone(),
            since: lease.since,
            holds: true,
        };
        let mut by: Vec<Obstacle> = self.against(agent, want).into_iter().map(holds).collect();
        let against = |claim: &Claim| {
            let wish = claim.wants.iter().find(|other| {
                let tolerated = slots.is_none() && other.mode.compatible(want.mode);
                other.unit.overlaps(&want.unit) && !tolerated
            })?;
            (!self.waits_for_its_side(claim, agent)).then(|| Obstacle {
                agent: claim.agent.clone(),
                unit: wish.unit.clone(),
                since: claim.since,
                holds: false,
            })
        };
        let ahead = self.wanting(&want.unit).filter(|claim| {
            let is_ahead = place.is_none_or(|place| claim.place() < place);
            is_ahead && self.is_ready(claim.id) && !self.tolerates(&claim.agent, agent)
        });
        for obstacle in ahead.filter_map(against) {
            // Of a counting unit each agent takes one, whether it holds it or is ahead.
            if slots.is_none() || by.iter().all(|other| other.agent != obstacle.agent) {
                by.push(obstacle);
            }
        }
        let free = slots.unwrap_or(1);
        match slots {
            Some(_) if by.len() < free => None,
            Some(_) => Some(Block { must_go: by.len() + 1 - free, by }),
            None if by.is_empty() => None,
            None => Some(Block { must_go: by.len(), by }),
        }
    }

    /// The same in a row: nothing means that the wants can be had.
    pub fn obstacles(
        &self,
        agent: &AgentName,
        wants: &[Want],
        place: Option<Place>,
    ) -> Vec<Obstacle> {
        self.blocks(agent, wants, place).into_iter().flat_map(|block| block.by).collect()
    }

    /// Whether nobody but `agent` holds or wants anything that overlaps the directory `dir`.
    pub fn is_alone(&self, agent: &AgentName, dir: &RelPath) -> bool {
        let unit = WorkUnit::Dir(dir.clone());
        let foreign = |lease: &Lease| lease.agent != *agent && lease.unit.overlaps(&unit);
        let foreign_claim = |claim: &Claim| claim.agent != *agent && claim.overlaps(&unit);
        let held = self.held.at_or_above(&unit).into_iter();
        let wanted = self.wanted.at_or_above(&unit).into_iter();
        let below = |mut agents: Box<dyn Iterator<Item = &AgentName> + '_>| {
            agents.any(|other| other != agent)
        };
        !held.filter_map(|token| self.leases.get(&token)).any(foreign)
            && !wanted.filter_map(|id| self.queue.get(&id)).any(foreign_claim)
            && !below(Box::new(self.held.agents_below(&unit, Mode::Exclusive)))
            && !below(Box::new(self.wanted.agents_below(&unit, Mode::Exclusive)))
    }

    /// The leases of others that `want` of `agent` can't be beside.
    fn against(&self, agent: &AgentName, want: &Want) -> Vec<&Lease> {
        let counts = self.slots.contains_key(&want.unit);
        let in_the_way = |lease: &&Lease| {
            !self.tolerates(&lease.agent, agent)
                && lease.unit.overlaps(&want.unit)
                && (counts || !lease.mode.compatible(want.mode))
        };
        let mut tokens = self.held.at_or_above(&want.unit);
        let mut below = self.held.agents_below(&want.unit, want.mode);
        if below.any(|other| !self.tolerates(other, agent)) {
            tokens.extend(self.held.below(&want.unit));
        }
        tokens.iter().filter_map(|token| self.leases.get(token)).filter(in_the_way).collect()
    }

    /// Whether `agent` is in the way of `claim`: by a lease, or by a claim further ahead that does
    /// not itself wait for whose `claim` is.
    fn waits_for(&self, claim: &Claim, agent: &AgentName) -> bool {
        if self.tolerates(agent, &claim.agent) {
            return false;
        }
        let holds = self.by_agent.contains_key(agent);
        // Each step goes further ahead, so this ends.
        let is_ahead = |own: &&Claim| {
            own.place() < claim.place()
                && self.is_ready(own.id)
                && !self.waits_for_its_side(own, &claim.agent)
        };
        let ahead: Vec<&Claim> = self.claims_of(agent).filter(is_ahead).collect();
        if !holds && ahead.is_empty() {
            return false;
        }
        claim.wants.iter().filter(|want| self.held(&claim.agent, want).is_none()).any(|want| {
            let is_against = |own: &Want| {
                let counts = self.slots.contains_key(&want.unit);
                own.unit.overlaps(&want.unit) && (counts || !own.mode.compatible(want.mode))
            };
            ahead.iter().any(|own| own.wants.iter().any(is_against))
                || self.against(&claim.agent, want).iter().any(|lease| lease.agent == *agent)
        })
    }

    /// Whether nothing stands in the way of the claim any more. What is held is looked at before
    /// the queue is, so that of many who want the same the others are passed over quickly.
    pub fn is_grantable(&self, claim: &Claim) -> bool {
        let missing = || claim.wants.iter().filter(|w| self.held(&claim.agent, w).is_none());
        let is_taken = |want: &Want| {
            self.slots_of(&want.unit).is_none() && !self.against(&claim.agent, want).is_empty()
        };
        self.is_ready(claim.id)
            && !missing().any(is_taken)
            && missing().all(|want| self.block(&claim.agent, want, Some(claim.place())).is_none())
    }

    /// The leases that have to end for `agent` to have `want`: of a counting unit the newest, and
    /// only as many as are too many.
    pub(crate) fn to_take(&self, agent: &AgentName, want: &Want) -> BTreeSet<Token> {
        if self.held(agent, want).is_some() {
            return BTreeSet::new();
        }
        let tokens: BTreeSet<Token> =
            self.against(agent, want).into_iter().map(|lease| lease.token).collect();
        let spared = self.slots_of(&want.unit).map_or(0, |slots| slots.saturating_sub(1));
        tokens.into_iter().skip(spared).collect()
    }

    pub(crate) fn insert(&mut self, lease: Lease) {
        self.held.insert(&lease.unit, &lease.agent, lease.mode, lease.token);
        let holdings = self.by_agent.entry(lease.agent.clone()).or_default();
        holdings.tokens.insert(lease.token);
        *holdings.ttls.entry(lease.ttl).or_default() += 1;
        self.leases.insert(lease.token, lease);
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Lease> {
        let lease = self.leases.remove(&token)?;
        self.held.remove(&lease.unit, &lease.agent, lease.mode, token);
        if let Some(holdings) = self.by_agent.get_mut(&lease.agent) {
            holdings.tokens.remove(&token);
            if let Some(count) = holdings.ttls.get_mut(&lease.ttl) {
                *count -= 1;
            }
            holdings.ttls.retain(|_, count| *count > 0);
            if holdings.tokens.is_empty() {
                self.by_agent.remove(&lease.agent);
            }
        }
        Some(lease)
    }

    pub(crate) fn enqueue(&mut self, claim: Claim) {
        for want in &claim.wants {
            self.wanted.insert(&want.unit, &claim.agent, want.mode, claim.id);
        }
        self.line.insert(claim.place());
        self.claims_by_agent.entry(claim.agent.clone()).or_default().insert(claim.id);
        self.deadlines.extend(claim.deadline.map(|at| (at, claim.id)));
        if claim.asks {
            self.held_back.insert(claim.id);
        }
        self.queue.insert(claim.id, claim);
    }

    pub(crate) fn dequeue(&mut self, id: ClaimId) -> Option<Claim> {
        let claim = self.queue.remove(&id)?;
        for want in &claim.wants {
            self.wanted.remove(&want.unit, &claim.agent, want.mode, id);
        }
        self.line.remove(&claim.place());
        if let Some(claims) = self.claims_by_agent.get_mut(&claim.agent) {
            claims.remove(&id);
            if claims.is_empty() {
                self.claims_by_agent.remove(&claim.agent);
            }
        }
        if let Some(at) = claim.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.held_back.remove(&id);
        Some(claim)
    }

    /// Gives a claim another place; false if it does not wait.
    pub(crate) fn move_to(&mut self, id: ClaimId, rank: Rank) -> bool {
        let Some(claim) = self.queue.get_mut(&id) else { return false };
        self.line.remove(&claim.place());
        claim.rank = rank;
        self.line.insert(claim.place());
        true
    }

    /// The operator agrees to a claim that asks; false if it does not wait.
    pub(crate) fn approve(&mut self, id: ClaimId) -> bool {
        let Some(claim) = self.queue.get_mut(&id) else { return false };
        claim.asks = false;
        self.held_back.remove(&id);
        true
    }

    /// Says whether a claim has to wait for something else than units.
    pub(crate) fn hold_back(&mut self, id: ClaimId, is_held_back: bool) {
        if is_held_back {
            self.held_back.insert(id);
        } else {
            self.held_back.remove(&id);
        }
    }

    pub(crate) fn set_slots(&mut self, slots: BTreeMap<WorkUnit, usize>) {
        self.slots = slots;
    }
}
