//! Which keys (leases, claims) are on which units, and whose they are.
//!
//! Two questions are answered without looking at what does not matter: what is at or above a path
//! (the depth of the path), and who has something strictly below a directory (the number of agents
//! that have). For the second each directory counts, by agent and mode, what is below it: these
//! are Gray's intention modes, IS and IX, kept as numbers ("Granularity of Locks in a Shared Data
//! Base", 1976). Listing what is below a directory costs as much as there is below it.
//!
//! Invariant: the counts of a directory are those of the entries strictly below it; nothing is
//! kept for directories without any.

use crate::ids::AgentName;
use crate::path::RelPath;
use crate::unit::{Mode, WorkUnit};
use std::collections::{BTreeMap, BTreeSet};

/// How much an agent has below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Below {
    shared: usize,
    exclusive: usize,
}

impl Below {
    fn count(&mut self, mode: Mode) -> &mut usize {
        match mode {
            Mode::Shared => &mut self.shared,
            Mode::Exclusive => &mut self.exclusive,
        }
    }

    /// Whether some of it does not tolerate `mode` beside it.
    fn is_against(self, mode: Mode) -> bool {
        self.exclusive > 0 || (mode == Mode::Exclusive && self.shared > 0)
    }
}

/// Keys by unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitIndex<K> {
    on_paths: BTreeMap<RelPath, BTreeSet<K>>,
    on_names: BTreeMap<WorkUnit, BTreeSet<K>>,
    below: BTreeMap<RelPath, BTreeMap<AgentName, Below>>,
}

impl<K> Default for UnitIndex<K> {
    fn default() -> Self {
        Self { on_paths: BTreeMap::new(), on_names: BTreeMap::new(), below: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> UnitIndex<K> {
    /// Adds a key that is not there yet.
    pub(super) fn insert(&mut self, unit: &WorkUnit, agent: &AgentName, mode: Mode, key: K) {
        let Some(path) = unit.path() else {
            self.on_names.entry(unit.clone()).or_default().insert(key);
            return;
        };
        self.on_paths.entry(path.clone()).or_default().insert(key);
        for dir in path.ancestors().skip(1) {
            let counts = self.below.entry(dir).or_default().entry(agent.clone()).or_default();
            *counts.count(mode) += 1;
        }
    }

    /// Takes away a key that is there.
    pub(super) fn remove(&mut self, unit: &WorkUnit, agent: &AgentName, mode: Mode, key: K) {
        let Some(path) = unit.path() else { return forget(&mut self.on_names, unit, &key) };
        forget(&mut self.on_paths, path, &key);
        for dir in path.ancestors().skip(1) {
            let Some(agents) = self.below.get_mut(&dir) else { continue };
            let Some(counts) = agents.get_mut(agent) else { continue };
            *counts.count(mode) -= 1;
            if *counts == Below::default() {
                agents.remove(agent);
            }
            if agents.is_empty() {
                self.below.remove(&dir);
            }
        }
    }

    /// The keys on a unit's own name or path: on a path these may be for a file or a directory.
    pub(super) fn at(&self, unit: &WorkUnit) -> impl Iterator<Item = K> {
        let keys = match unit.path() {
            None => self.on_names.get(unit),
            Some(path) => self.on_paths.get(path),
        };
        keys.into_iter().flatten().copied()
    }

    /// The keys on a unit's own name or path and on the directories above it, some of which may
    /// not overlap it: a file is at a path, too.
    pub(super) fn at_or_above(&self, unit: &WorkUnit) -> Vec<K> {
        match unit.path() {
            None => self.on_names.get(unit).into_iter().flatten().copied().collect(),
            Some(path) => {
                let above = path.ancestors();
                above.filter_map(|at| self.on_paths.get(&at)).flatten().copied().collect()
            }
        }
    }

    /// The keys strictly below a unit, if it is a directory: in byte order these lie between
    /// `path/` and `path0`, '0' being the byte after the slash.
    pub(super) fn below(&self, unit: &WorkUnit) -> impl Iterator<Item = K> {
        let dir = match unit {
            WorkUnit::Dir(path) => Some(path),
            _ => None,
        };
        dir.into_iter().flat_map(|dir| {
            let inside = |at: &RelPath| dir.is_root() || at.as_bytes().starts_with(dir.as_bytes());
            self.on_paths
                .range(dir.clone()..)
                .take_while(move |(at, _)| inside(at))
                .filter(move |(at, _)| *at != dir && dir.contains(at))
                .flat_map(|(_, keys)| keys.iter().copied())
        })
    }

    /// The agents that have something strictly below `unit` that does not tolerate `mode`.
    pub(super) fn agents_below<'a>(
        &'a self,
        unit: &WorkUnit,
        mode: Mode,
    ) -> impl Iterator<Item = &'a AgentName> {
        let agents = match unit {
            WorkUnit::Dir(dir) => self.below.get(dir),
            _ => None,
        };
        agents.into_iter().flatten().filter(move |(_, has)| has.is_against(mode)).map(|(a, _)| a)
    }
}

/// Removes `key` from the set at `at`, and the set when that was its last.
fn forget<A: Ord, K: Ord>(index: &mut BTreeMap<A, BTreeSet<K>>, at: &A, key: &K) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
