//! Which process is the attendant: what lets a view answer it by other rules than an agent.
//!
//! A process number names the attendant only while its process is there *or not yet waited for*:
//! so long the kernel gives the number to nobody else. Whoever waits for it takes the trust away
//! first ([`Trust::withdraw`]), and so no agent's process is ever taken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The attendant's process number, shared by the daemon and its views. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Trust(Arc<AtomicU32>);

impl Trust {
    /// `pid` is the attendant's: it was started by this process and not waited for.
    pub(super) fn give(&self, pid: u32) {
        self.0.store(pid, Ordering::SeqCst);
    }

    /// `pid` is nobody's any more, unless another has taken its place.
    pub(super) fn withdraw(&self, pid: u32) {
        // Another number there is that of the next attendant.
        let _ = self.0.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether a request comes from the attendant, which has one thread. The kernel says 0 for a
    /// process that has no number in the daemon's pid namespace.
    pub fn is_attendant(&self, tid: u32) -> bool {
        tid != 0 && self.0.load(Ordering::SeqCst) == tid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_attendant_is_trusted_and_nobody_without_a_number() {
        let trust = Trust::default();
        assert!(!trust.is_attendant(0) && !trust.is_attendant(7));
        trust.give(7);
        assert!(trust.is_attendant(7) && !trust.is_attendant(8) && !trust.is_attendant(0));
        trust.give(8);
        trust.withdraw(7);
        assert!(trust.is_attendant(8));
        trust.withdraw(8);
        assert!(!trust.is_attendant(8) && !trust.is_attendant(0));
    }
}
