//! One file per command: its arguments, its help with an example, and what it does.

mod agents;
mod apply;
mod claim;
mod completions;
mod diff;
mod discard;
mod explain;
mod locks;
mod log;
mod man;
mod queue;
mod radar;
mod recover;
mod release;
mod runs;
mod sync;
mod with;

pub use agents::Agents;
pub use apply::Apply;
pub use claim::Claim;
pub use completions::Completions;
pub use diff::Diff;
pub use discard::Discard;
pub use explain::Explain;
pub use locks::Locks;
pub use log::Log;
pub use man::Man;
pub use queue::Queue;
pub use radar::Radar;
pub use recover::Recover;
pub use release::Release;
pub use runs::Runs;
pub use sync::Sync;
pub use with::With;

use crate::cli::Global;
use crate::error::Error;

/// A command as it was typed, ready to be done once.
pub trait Run {
    /// Does it. Blocks until the daemon has answered and the answer is written.
    fn run(self, global: &Global) -> Result<(), Error>;
}

/// The last `number` of `items`; all of them where no number is given.
fn last<T>(mut items: Vec<T>, number: Option<usize>) -> Vec<T> {
    let skipped = items.len().saturating_sub(number.unwrap_or(usize::MAX));
    items.drain(..skipped);
    items
}

#[cfg(test)]
mod tests {
    use super::last;

    #[test]
    fn the_last_of_a_list_are_its_newest() {
        assert_eq!(last(vec![1, 2, 3], Some(2)), [2, 3]);
        assert_eq!(last(vec![1, 2, 3], Some(9)), [1, 2, 3]);
        assert_eq!(last(vec![1, 2, 3], Some(0)), [0; 0]);
        assert_eq!(last(vec![1, 2, 3], None), [1, 2, 3]);
    }
}
