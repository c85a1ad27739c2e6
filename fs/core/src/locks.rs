//! The lock table: who holds which work unit, and who waits.
//!
//! A passive structure: [`crate::machine`] decides and folds events into it. Finding what overlaps
//! a unit costs the depth of its path and the leases below it, never the number of all leases.
//!
//! Invariants: no two leases of different agents overlap unless both are shared (G1); the queue is
//! ordered by [`ClaimId`], which grows, so it is first come, first served.

use crate::ids::{AgentName, ClaimId, RunId, Token};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::{Mode, WorkUnit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a lease or claim came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody asked for it: `--claim`, `agentctl claim`.
    Asked,
    /// The first write took it.
    Write,
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
}

/// A claim that waits: for all of its units at once, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its id, and with it its place in the queue.
    pub id: ClaimId,
    /// Who wants the units.
    pub agent: AgentName,
    /// For which run.
    pub run: Option<RunId>,
    /// What it wants.
    pub units: Vec<WorkUnit>,
    /// Shared or exclusive.
    pub mode: Mode,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it gives up.
    pub deadline: Timestamp,
    /// What waits, for people: "open", "rename", "claim".
    pub cause: String,
    /// How it came about.
    pub origin: Origin,
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

/// Leases and the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockTable {
    leases: BTreeMap<Token, Lease>,
    /// Leases on paths. A directory's subtree is one range of it: see [`LockTable::below`].
    on_paths: BTreeMap<RelPath, BTreeSet<Token>>,
    on_names: BTreeMap<WorkUnit, BTreeSet<Token>>,
    by_agent: BTreeMap<AgentName, BTreeSet<Token>>,
    queue: BTreeMap<ClaimId, Claim>,
}

impl LockTable {
    /// All leases, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease with this token, if it still is one.
    pub fn lease(&self, token: Token) -> Option<&Lease> {
        self.leases.get(&token)
    }

    /// The leases of one agent, oldest first.
    pub fn leases_of(&self, agent: &AgentName) -> impl Iterator<Item = &Lease> {
        self.by_agent.get(agent).into_iter().flatten().filter_map(|token| self.leases.get(token))
    }

    /// The claims that wait, first come first.
    pub fn queue(&self) -> impl Iterator<Item = &Claim> {
        self.queue.values()
    }

    /// The claim with this id, if it still waits.
    pub fn claim(&self, id: ClaimId) -> Option<&Claim> {
        self.queue.get(&id)
    }

    /// The agent's lease that already gives it `unit` in `mode`.
    pub fn held(&self, agent: &AgentName, unit: &WorkUnit, mode: Mode) -> Option<&Lease> {
        self.overlapping(unit).find(|lease| {
            lease.agent == *agent
                && lease.unit.covers(unit)
                && (lease.mode == Mode::Exclusive || mode == Mode::Shared)
        })
    }

    /// The leases that overlap `unit`.
    pub fn overlapping<'a, 'u>(
        &'a self,
        unit: &'u WorkUnit,
    ) -> impl Iterator<Item = &'a Lease> + use<'a, 'u> {
        let tokens: Vec<Token> = match unit {
            WorkUnit::Process(_) | WorkUnit::Resource(_) => {
                self.on_names.get(unit).into_iter().flatten().copied().collect()
            }
            WorkUnit::File(path) => self.at_or_above(path).collect(),
            WorkUnit::Dir(path) => self.at_or_above(path).chain(self.below(path)).collect(),
        };
        tokens
            .into_iter()
            .filter_map(|token| self.leases.get(&token))
            .filter(|lease| lease.unit.overlaps(unit))
    }

    fn at_or_above(&self, path: &RelPath) -> impl Iterator<Item = Token> {
        path.ancestors().filter_map(|at| self.on_paths.get(&at)).flatten().copied()
    }

    /// Leases strictly below a directory: in byte order these lie between `path/` and `path0`,
    /// '0' being the byte after the slash.
    fn below(&self, path: &RelPath) -> impl Iterator<Item = Token> {
        self.on_paths
            .range(path.clone()..)
            .take_while(move |(at, _)| path.is_root() || at.as_bytes().starts_with(path.as_bytes()))
            .filter(move |(at, _)| *at != path && path.contains(at))
            .flat_map(|(_, tokens)| tokens.iter().copied())
    }

    /// What keeps `agent` from holding `units` in `mode` now: incompatible leases of others, and
    /// claims of others that came before (`before`, none for a claim that is not queued yet).
    ///
    /// A claim that came before does not count if it waits for this very agent: whoever waits for
    /// an agent must not also hold that agent up.
    pub fn obstacles(
        &self,
        agent: &AgentName,
        units: &[WorkUnit],
        mode: Mode,
        before: Option<ClaimId>,
    ) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for unit in units.iter().filter(|unit| self.held(agent, unit, mode).is_none()) {
            found.extend(self.holders_against(agent, unit, mode).map(|lease| Obstacle {
                agent: lease.agent.clone(),
                unit: lease.unit.clone(),
                since: lease.since,
                holds: true,
            }));
            let ahead = self.queue.values().take_while(|c| before.is_none_or(|b| c.id < b));
            for claim in ahead.filter(|c| c.agent != *agent && !c.mode.compatible(mode)) {
                let wanted = claim.units.iter().find(|wanted| wanted.overlaps(unit));
                if let Some(wanted) = wanted.filter(|_| !self.waits_for(claim, agent)) {
                    found.push(Obstacle {
                        agent: claim.agent.clone(),
                        unit: wanted.clone(),
                        since: claim.since,
                        holds: false,
                    });
                }
            }
        }
        found
    }

    /// Whether nobody but `agent` holds or wants anything that overlaps the directory `dir`.
    pub fn is_alone(&self, agent: &AgentName, dir: &RelPath) -> bool {
        let unit = WorkUnit::Dir(dir.clone());
        let mine = |token: Token| {
            let lease = self.leases.get(&token);
            lease.is_none_or(|lease| lease.agent == *agent || !lease.unit.overlaps(&unit))
        };
        let wants = |claim: &Claim| claim.units.iter().any(|wanted| wanted.overlaps(&unit));
        self.at_or_above(dir).chain(self.below(dir)).all(mine)
            && !self.queue.values().any(|claim| claim.agent != *agent && wants(claim))
    }

    fn holders_against<'a>(
        &'a self,
        agent: &'a AgentName,
        unit: &'a WorkUnit,
        mode: Mode,
    ) -> impl Iterator<Item = &'a Lease> {
        self.overlapping(unit)
            .filter(move |lease| lease.agent != *agent && !lease.mode.compatible(mode))
    }

    /// Whether a lease of `agent` is in the way of `claim`.
    fn waits_for(&self, claim: &Claim, agent: &AgentName) -> bool {
        claim.units.iter().any(|unit| {
            self.holders_against(&claim.agent, unit, claim.mode).any(|lease| lease.agent == *agent)
        })
    }

    /// Whether `agent`, were it to wait for `units`, would wait for itself: the circle of agents,
    /// from the first in its way to the one that waits for it.
    pub fn deadlock(
        &self,
        agent: &AgentName,
        units: &[WorkUnit],
        mode: Mode,
    ) -> Option<Vec<AgentName>> {
        let mut paths: Vec<Vec<AgentName>> =
            self.obstacles(agent, units, mode, None).into_iter().map(|o| vec![o.agent]).collect();
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop() {
            let Some(last) = path.last().cloned() else { continue };
            if last == *agent {
                return Some(path);
            }
            if !seen.insert(last.clone()) {
                continue;
            }
            for claim in self.queue.values().filter(|claim| claim.agent == last) {
                let next = self.obstacles(&last, &claim.units, claim.mode, Some(claim.id));
                paths.extend(next.into_iter().map(|o| [path.clone(), vec![o.agent]].concat()));
            }
        }
        None
    }

    /// The first claim in the queue that nothing stands in the way of any more.
    pub fn grantable(&self) -> Option<&Claim> {
        self.queue
            .values()
            .find(|c| self.obstacles(&c.agent, &c.units, c.mode, Some(c.id)).is_empty())
    }

    pub(crate) fn insert(&mut self, lease: Lease) {
        match lease.unit.path() {
            Some(path) => self.on_paths.entry(path.clone()).or_default().insert(lease.token),
            None => self.on_names.entry(lease.unit.clone()).or_default().insert(lease.token),
        };
        self.by_agent.entry(lease.agent.clone()).or_default().insert(lease.token);
        self.leases.insert(lease.token, lease);
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Lease> {
        let lease = self.leases.remove(&token)?;
        match lease.unit.path() {
            Some(path) => forget(&mut self.on_paths, path, token),
            None => forget(&mut self.on_names, &lease.unit, token),
        }
        forget(&mut self.by_agent, &lease.agent, token);
        Some(lease)
    }

    pub(crate) fn enqueue(&mut self, claim: Claim) {
        self.queue.insert(claim.id, claim);
    }

    pub(crate) fn dequeue(&mut self, id: ClaimId) -> Option<Claim> {
        self.queue.remove(&id)
    }
}

/// Removes `token` from the set at `key`, and the set when that was its last.
fn forget<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Token>>, key: &K, token: Token) {
    if let Some(tokens) = index.get_mut(key) {
        tokens.remove(&token);
        if tokens.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent(name: &str) -> AgentName {
        name.parse().unwrap()
    }

    fn unit(text: &str) -> WorkUnit {
        text.parse().unwrap()
    }

    fn lease(token: u64, who: &str, what: &str, mode: Mode) -> Lease {
        Lease {
            token: Token(token),
            unit: unit(what),
            mode,
            agent: agent(who),
            run: None,
            since: Timestamp(0),
            origin: Origin::Asked,
        }
    }

    fn claim(id: u64, who: &str, what: &[&str]) -> Claim {
        Claim {
            id: ClaimId(id),
            agent: agent(who),
            run: None,
            units: what.iter().map(|u| unit(u)).collect(),
            mode: Mode::Exclusive,
            since: Timestamp(0),
            deadline: Timestamp(9),
            cause: "open".into(),
            origin: Origin::Write,
        }
    }

    fn in_the_way(table: &LockTable, who: &str, what: &str) -> Vec<String> {
        let found = table.obstacles(&agent(who), &[unit(what)], Mode::Exclusive, None);
        found.into_iter().map(|o| format!("{} {}", o.agent, o.unit)).collect()
    }

    #[test]
    fn a_directory_is_in_the_way_of_all_below_it_and_the_other_way_round() {
        let mut table = LockTable::default();
        table.insert(lease(1, "alice", "src/", Mode::Exclusive));
        assert_eq!(in_the_way(&table, "bob", "src/a/b.rs"), ["alice src/"]);
        assert_eq!(in_the_way(&table, "bob", "src2/a.rs"), [""; 0]);
        assert_eq!(in_the_way(&table, "alice", "src/a/b.rs"), [""; 0]);
        table.insert(lease(2, "carol", "doc/x/y", Mode::Exclusive));
        assert_eq!(in_the_way(&table, "bob", "doc/"), ["carol doc/x/y"]);
        assert_eq!(in_the_way(&table, "bob", "./"), ["carol doc/x/y", "alice src/"]);
        table.remove(Token(1));
        assert_eq!(in_the_way(&table, "bob", "src/a/b.rs"), [""; 0]);
    }

    #[test]
    fn shared_leases_tolerate_each_other_only() {
        let mut table = LockTable::default();
        table.insert(lease(1, "alice", "src/", Mode::Shared));
        let wants = |mode| table.obstacles(&agent("bob"), &[unit("src/a")], mode, None).len();
        assert_eq!((wants(Mode::Shared), wants(Mode::Exclusive)), (0, 1));
        assert!(table.held(&agent("alice"), &unit("src/a"), Mode::Shared).is_some());
        assert!(table.held(&agent("alice"), &unit("src/a"), Mode::Exclusive).is_none());
    }

    #[test]
    fn an_earlier_claim_is_ahead_unless_it_waits_for_the_one_who_asks() {
        let mut table = LockTable::default();
        table.insert(lease(1, "alice", "src/a", Mode::Exclusive));
        table.enqueue(claim(1, "bob", &["src/"]));
        assert_eq!(in_the_way(&table, "carol", "src/b"), ["bob src/"]);
        assert_eq!(in_the_way(&table, "alice", "src/b"), [""; 0], "bob waits for alice");
    }

    #[test]
    fn a_circle_of_waits_is_named() {
        let mut table = LockTable::default();
        table.insert(lease(1, "alice", "a", Mode::Exclusive));
        table.insert(lease(2, "bob", "b", Mode::Exclusive));
        table.insert(lease(3, "carol", "c", Mode::Exclusive));
        table.enqueue(claim(1, "alice", &["b"]));
        table.enqueue(claim(2, "bob", &["c"]));
        let circle = table.deadlock(&agent("carol"), &[unit("a")], Mode::Exclusive).unwrap();
        assert_eq!(circle, [agent("alice"), agent("bob"), agent("carol")]);
        assert_eq!(table.deadlock(&agent("dan"), &[unit("a")], Mode::Exclusive), None);
    }

    fn any_unit() -> impl Strategy<Value = WorkUnit> {
        let component = prop::sample::select(vec!["a", "a-", "a0", "b"]);
        (prop::collection::vec(component, 0..4), 0..3).prop_map(|(parts, kind)| {
            let path = parts.join("/");
            match kind {
                0 if !path.is_empty() => unit(&path),
                1 => unit("res:x"),
                _ => unit(&format!("./{path}/")),
            }
        })
    }

    proptest! {
        /// The indexes against the obvious: look at every lease.
        #[test]
        fn overlapping_finds_what_a_full_scan_finds(
            held in prop::collection::vec(any_unit(), 0..12), gone in 0usize..12, asked in any_unit()
        ) {
            let mut table = LockTable::default();
            for (at, unit) in held.iter().enumerate() {
                let mut one = lease(at as u64, "alice", "x", Mode::Shared);
                one.unit = unit.clone();
                table.insert(one);
            }
            table.remove(Token(gone as u64));
            let mut found: Vec<Token> = table.overlapping(&asked).map(|l| l.token).collect();
            found.sort();
            let obvious: Vec<Token> =
                table.leases().filter(|l| l.unit.overlaps(&asked)).map(|l| l.token).collect();
            prop_assert_eq!(found, obvious);
        }
    }
}
