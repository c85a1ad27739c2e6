//! The daemon's clock: the one place that asks the system for the time.

use agentfs_core::Timestamp;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock as it was at the start, moved on by the monotonic clock.
///
/// So a step of the wall clock changes no deadline, and the time that a laptop was suspended does
/// not count: [`Instant`] is `CLOCK_MONOTONIC`, which stands still meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    since: Instant,
}

impl Clock {
    /// A clock that never shows less than `at_least`, the time of the journal's last entry.
    pub fn starting_after(at_least: Timestamp) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: Timestamp::default().plus(wall).max(at_least), since: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.wall.plus(self.since.elapsed())
    }
}
