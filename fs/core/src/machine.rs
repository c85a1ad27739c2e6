//! The state machine of one workspace (being written).
use serde::{Deserialize, Serialize};

/// How a run's command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// Its shim vanished, so nobody knows.
    Lost,
}
