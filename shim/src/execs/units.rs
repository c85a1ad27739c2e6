//! Which process trees of this run hold which units, and who of them comes next.
//!
//! A lease belongs to the agent, so that the daemon grants a unit to all of a run's processes:
//! that two trees of one run do not overlap is decided here. A unit is asked of the daemon for
//! the first tree that has it, and given back after the last.
//!
//! ```text
//!   (absent) --take--> changing --settle--> held by one or, shared, by more trees
//!       ^                                              | last one leaves
//!       +------------ gone <------------ changing <----+
//! ```

use agentfs_core::{Mode, WorkUnit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The number of a process tree, which is the mark of its processes; greater for one inside.
pub type TreeId = u64;

/// A process that is a unit, with all that come from it.
#[derive(Debug)]
struct Tree {
    /// The tree that it is in.
    inside: Option<TreeId>,
    units: BTreeSet<WorkUnit>,
    command: String,
    since: Instant,
}

/// What this run has of one unit.
#[derive(Debug)]
struct Held {
    mode: Mode,
    trees: BTreeSet<TreeId>,
    /// The daemon has granted it, and is not being asked to take it back.
    settled: bool,
    /// Whether it is for this program to give it back.
    ours: bool,
}

/// What a tree may do about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has the unit: another of the run's trees has it too.
    Joined,
    /// It is first, and has to ask the daemon.
    Ask,
    /// Another tree of this run is in the way.
    Wait,
}

/// All trees and units of a run.
#[derive(Debug, Default)]
pub struct Units {
    last: TreeId,
    trees: BTreeMap<TreeId, Tree>,
    held: BTreeMap<WorkUnit, Held>,
}

impl Units {
    /// A tree that is about to begin, in a process with this mark.
    pub fn plant(&mut self, inside: Option<TreeId>, command: &str, now: Instant) -> TreeId {
        self.last += 1;
        let inside = inside.filter(|tree| self.trees.contains_key(tree));
        let units = BTreeSet::new();
        let tree = Tree { inside, units, command: command.to_owned(), since: now };
        self.trees.insert(self.last, tree);
        self.last
    }

    /// Whether a process with this mark is in a tree that has the unit.
    pub fn has(&self, mark: Option<TreeId>, unit: &WorkUnit) -> bool {
        self.around(mark).any(|tree| tree.units.contains(unit))
    }

    /// Whether a process with this mark is in `tree`.
    pub fn is_in(&self, mark: TreeId, tree: TreeId) -> bool {
        let mut inner = Some(mark);
        while let Some(mark) = inner {
            if mark == tree {
                return true;
            }
            inner = self.trees.get(&mark).and_then(|tree| tree.inside);
        }
        false
    }

    fn around(&self, mark: Option<TreeId>) -> impl Iterator<Item = &Tree> {
        let tree = |mark: TreeId| self.trees.get(&mark);
        std::iter::successors(mark.and_then(tree), move |inner| inner.inside.and_then(tree))
    }

    /// The tree wants the unit.
    pub fn take(&mut self, tree: TreeId, unit: &WorkUnit, mode: Mode) -> Turn {
        match self.held.get_mut(unit) {
            None => {
                let trees = BTreeSet::from([tree]);
                let held = Held { mode, trees, settled: false, ours: false };
                self.held.insert(unit.clone(), held);
                Turn::Ask
            }
            Some(held) if held.settled && held.mode.compatible(mode) => {
                held.trees.insert(tree);
                self.note(tree, unit);
                Turn::Joined
            }
            Some(_) => Turn::Wait,
        }
    }

    /// The daemon has granted the unit to the tree that asked; `ours` if it was not held before.
    pub fn settle(&mut self, tree: TreeId, unit: &WorkUnit, ours: bool) {
        if let Some(held) = self.held.get_mut(unit) {
            (held.settled, held.ours) = (true, ours);
        }
        self.note(tree, unit);
    }

    fn note(&mut self, tree: TreeId, unit: &WorkUnit) {
        if let Some(tree) = self.trees.get_mut(&tree) {
            tree.units.insert(unit.clone());
        }
    }

    /// The tree does not have the unit any more. Whether the daemon is to be told; then the unit
    /// is nobody's only after [`Units::gone`].
    pub fn leave(&mut self, tree: TreeId, unit: &WorkUnit) -> bool {
        if let Some(tree) = self.trees.get_mut(&tree) {
            tree.units.remove(unit);
        }
        let Some(held) = self.held.get_mut(unit) else { return false };
        if !held.trees.remove(&tree) || !held.trees.is_empty() {
            return false;
        }
        if held.settled && held.ours {
            held.settled = false;
            return true;
        }
        // Never granted (the daemon takes back by itself what it grants to nobody), or somebody
        // else's to give back.
        self.held.remove(unit);
        false
    }

    /// The daemon has the unit back.
    pub fn gone(&mut self, unit: &WorkUnit) {
        if self.held.get(unit).is_some_and(|held| held.trees.is_empty()) {
            self.held.remove(unit);
        }
    }

    /// All processes of the tree have ended: the units that it had.
    pub fn fell(&mut self, tree: TreeId) -> BTreeSet<WorkUnit> {
        self.trees.remove(&tree).map(|tree| tree.units).unwrap_or_default()
    }

    /// The units that are this program's to give back.
    pub fn ours(&self) -> Vec<WorkUnit> {
        let ours = self.held.iter().filter(|(_, held)| held.ours || !held.settled);
        ours.map(|(unit, _)| unit.clone()).collect()
    }

    /// Who of this run is in the way of `unit`: the command and since when.
    pub fn in_the_way(&self, unit: &WorkUnit) -> Option<(&str, Instant)> {
        let first = self.held.get(unit)?.trees.first()?;
        self.trees.get(first).map(|tree| (tree.command.as_str(), tree.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> WorkUnit {
        format!("proc:{name}").parse().unwrap()
    }

    #[test]
    fn a_unit_is_asked_for_once_and_given_back_after_the_last() {
        let mut units = Units::default();
        let test = unit("test");
        let now = Instant::now();
        let (first, second) = (units.plant(None, "a", now), units.plant(None, "b", now));
        assert_eq!(units.take(first, &test, Mode::Shared), Turn::Ask);
        assert_eq!(units.take(second, &test, Mode::Shared), Turn::Wait, "not granted yet");
        units.settle(first, &test, true);
        assert_eq!(units.take(second, &test, Mode::Exclusive), Turn::Wait);
        assert_eq!(units.in_the_way(&test).map(|(command, _)| command), Some("a"));
        assert_eq!(units.take(second, &test, Mode::Shared), Turn::Joined);
        assert!(units.has(Some(second), &test));
        assert!(!units.leave(first, &test));
        assert!(units.leave(second, &test));
        let third = units.plant(None, "c", now);
        assert_eq!(units.take(third, &test, Mode::Shared), Turn::Wait, "it is being given back");
        units.gone(&test);
        assert_eq!(units.take(third, &test, Mode::Shared), Turn::Ask);
        units.settle(third, &test, false);
        assert!(!units.leave(third, &test), "somebody else's to give back");
        assert!(units.ours().is_empty());
    }

    #[test]
    fn what_was_never_granted_is_not_given_back() {
        let mut units = Units::default();
        let build = unit("build");
        let now = Instant::now();
        let (first, second) = (units.plant(None, "make", now), units.plant(None, "make", now));
        assert_eq!(units.take(first, &build, Mode::Exclusive), Turn::Ask);
        assert_eq!(units.take(second, &build, Mode::Exclusive), Turn::Wait);
        assert!(!units.leave(first, &build), "the agent may hold it shared for another reason");
        assert_eq!(units.take(second, &build, Mode::Exclusive), Turn::Ask);
    }

    #[test]
    fn what_is_inside_a_tree_has_what_the_tree_has() {
        let mut units = Units::default();
        let (build, test) = (unit("build"), unit("test"));
        let now = Instant::now();
        let outer = units.plant(None, "make", now);
        units.take(outer, &build, Mode::Exclusive);
        units.settle(outer, &build, true);
        let inner = units.plant(Some(outer), "cargo", now);
        assert!(units.has(Some(inner), &build) && !units.has(Some(inner), &test));
        assert!(units.is_in(inner, outer) && !units.is_in(outer, inner));
        assert!(!units.has(None, &build) && !units.has(Some(77), &build));
        assert_eq!(units.fell(outer).into_iter().collect::<Vec<_>>(), [build]);
    }
}
