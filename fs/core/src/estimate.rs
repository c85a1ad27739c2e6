//! How long a wait is going to take, by what has been.
//!
//! A guess for people, never a reason for a decision. It is a part of the state all the same, so
//! that a replay tells what was told (G7).

use crate::locks::{Block, Claim};
use crate::machine::State;
use crate::time::Timestamp;
use crate::unit::WorkUnit;
use std::collections::BTreeMap;
use std::time::Duration;

/// How much of the mean the latest time makes: one part in this many.
const WEIGHT: u32 = 4;

/// How long units are held: a mean in which later times count more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// Of each named unit.
    named: BTreeMap<WorkUnit, Duration>,
    /// Of paths, all together: the same path is seldom held twice.
    paths: Option<Duration>,
}

impl Habits {
    /// A lease on `unit` has ended after this time.
    pub(crate) fn learn(&mut self, unit: &WorkUnit, held: Duration) {
        let mean = |old: Duration| (old * (WEIGHT - 1) + held) / WEIGHT;
        match unit.path() {
            Some(_) => self.paths = Some(self.paths.map_or(held, mean)),
            None => {
                let old = self.named.get(unit).copied();
                self.named.insert(unit.clone(), old.map_or(held, mean));
            }
        }
    }

    /// How long `unit` is held as a rule; none while nobody can know.
    pub fn of(&self, unit: &WorkUnit) -> Option<Duration> {
        match unit.path() {
            Some(_) => self.paths,
            None => self.named.get(unit).copied(),
        }
    }
}

/// How long a claim is going to wait for units from now on, if all goes as it has gone; none where
/// nobody can know, because it is not about units, or has taken longer than ever already.
pub fn wait(state: &State, claim: &Claim, now: Timestamp) -> Option<Duration> {
    if !state.locks.is_ready(claim.id) {
        return None;
    }
    let blocks = state.locks.blocks(&claim.agent, &claim.wants, Some(claim.place()));
    let until_open = |block: &Block| -> Option<Duration> {
        let mut times = Vec::new();
        for obstacle in &block.by {
            let usual = state.habits.of(&obstacle.unit)?;
            let gone = if obstacle.holds { now.since(obstacle.since) } else { Duration::ZERO };
            times.push(usual.checked_sub(gone).filter(|left| !left.is_zero())?);
        }
        // Holders go side by side, those ahead one after the other.
        let holders = block.by.iter().filter(|obstacle| obstacle.holds).count();
        times[..holders].sort();
        let ahead: Duration = times[holders..].iter().sum();
        let slots = (block.by.len() + 1).checked_sub(block.must_go)?.max(1);
        let first = if block.must_go >= holders { times[..holders].last() } else { times.first() };
        Some(first.copied().unwrap_or_default() + ahead / u32::try_from(slots).ok()?)
    };
    let opens: Option<Vec<Duration>> = blocks.iter().map(until_open).collect();
    opens?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_times_count_more() {
        let unit: WorkUnit = "proc:test".parse().unwrap();
        let mut habits = Habits::default();
        assert_eq!(habits.of(&unit), None);
        let secs = Duration::from_secs;
        habits.learn(&unit, secs(8));
        habits.learn(&unit, secs(40));
        assert_eq!(habits.of(&unit), Some(secs(16)));
        assert_eq!(habits.of(&"a".parse().unwrap()), None);
    }
}
