//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long anything may take before it counts as never happening. Generous: a loaded machine
/// with two cores is slow, a hang is forever.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// What `look` finds, as soon as it finds something. Panics with `what` after [`DEADLINE`].
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, look)
}

/// For what the documentation promises within a second: what `look` finds. A second promised
/// is three granted, since these machines are shared.
pub fn promptly<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(3), what, look)
}

fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}
