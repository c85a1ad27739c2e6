//! The order of the queue: who is next among those that want the same thing.
//!
//! First come, first served, with a head start by priority: a claim stands where it would stand
//! had it come one [`HEAD_START`] earlier for each step of its priority above `low`. Its place
//! never changes by itself, so waiting *is* the ageing, and the order is the same whenever it is
//! asked for. The bound: of all claims that come later than twice the head start after a claim,
//! none goes ahead of it, whatever their priorities; so nobody starves. (Those of agents that it
//! waits for anyway do, because nobody holds up whom it waits for; and an operator who moves
//! claims by hand can break that.)

use crate::ids::ClaimId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How much earlier one step of priority makes a claim.
pub const HEAD_START: Duration = Duration::from_secs(20);

/// How much a run matters beside others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Behind what came within a [`HEAD_START`] after it.
    Low,
    /// As it came.
    #[default]
    Normal,
    /// Ahead of what came within a [`HEAD_START`] before it.
    High,
}

impl Priority {
    /// All of them with their names.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Low, "low"), (Self::Normal, "normal"), (Self::High, "high")];

    fn steps(self) -> u32 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(priority, _)| priority == self).map_or("", |(_, n)| n);
        f.pad(name)
    }
}

/// Why a text is no priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no priority: write low, normal or high")]
pub struct InvalidPriority(pub String);

impl std::str::FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(priority, _)| *priority).ok_or_else(|| InvalidPriority(text.to_owned()))
    }
}

/// When a claim counts as having come, in milliseconds; smaller is further ahead.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Rank(pub i64);

impl Rank {
    /// The rank of what came at `since` with this priority.
    pub fn of(since: Timestamp, priority: Priority) -> Self {
        let came = i64::try_from(since.0).unwrap_or(i64::MAX);
        let head_start = HEAD_START * priority.steps();
        Self(came.saturating_sub(i64::try_from(head_start.as_millis()).unwrap_or(i64::MAX)))
    }

    /// One further ahead.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// One further behind.
    #[must_use]
    pub fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A place in the queue: no two claims have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What decides.
    pub rank: Rank,
    /// What decides among those of equal rank: who came first.
    pub claim: ClaimId,
}

impl Place {
    /// The last place ahead of this that `claim` can have.
    pub(crate) fn right_before(self, claim: ClaimId) -> Self {
        let rank = if claim < self.claim { self.rank } else { self.rank.before() };
        Self { rank, claim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_priority() -> impl Strategy<Value = Priority> {
        prop::sample::select(Priority::ALL.map(|(priority, _)| priority).to_vec())
    }

    proptest! {
        #[test]
        fn nothing_that_comes_later_than_the_bound_is_ahead(
            since in 0u64..1 << 40, later in 0u64..1 << 20, mine in any_priority(), theirs in any_priority()
        ) {
            let bound = HEAD_START.as_millis() as u64 * 2;
            let me = Rank::of(Timestamp(since), mine);
            let other = Rank::of(Timestamp(since + bound + later), theirs);
            prop_assert!(me <= other);
        }
    }

    #[test]
    fn a_priority_is_a_head_start() {
        let at = |secs: u64, priority| Rank::of(Timestamp(secs * 1_000), priority);
        assert!(at(10, Priority::High) < at(0, Priority::Normal));
        assert!(at(30, Priority::High) > at(0, Priority::Normal));
        assert_eq!("high".parse(), Ok(Priority::High));
        assert!("urgent".parse::<Priority>().is_err());
    }
}
