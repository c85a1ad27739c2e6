//! Signs of life, and what runs tell of their processes.

use super::{Owner, ServiceError};
use agentfs_api::types::Renewed;
use agentfs_core::config::Span;
use agentfs_core::machine::Command;
use agentfs_core::{AgentName, RunId, WorkUnit};
use std::time::Duration;

/// How often a sign of life is asked for: often enough that three missed ones end no lease.
const SIGNS_PER_TTL: u32 = 8;

/// The longest time between two.
const SELDOM: Duration = Duration::from_secs(30);

/// The shortest.
const OFTEN: Duration = Duration::from_millis(100);

/// How long leases that live for `ttl` can be without another sign of life.
pub(super) fn again(ttl: Duration) -> Span {
    Span((ttl / SIGNS_PER_TTL).clamp(OFTEN, SELDOM))
}

impl Owner {
    /// A sign of life of a run.
    pub fn heartbeat(&mut self, run: RunId) -> Result<(), ServiceError> {
        self.command(Command::Heartbeat { run }).map(drop)
    }

    /// A sign of life for what `agent` holds without a run.
    pub fn renew(&mut self, agent: AgentName) -> Result<Renewed, ServiceError> {
        let again = again(self.state().shortest_ttl(&agent)?);
        self.command(Command::Renew { agent })?;
        Ok(Renewed { again })
    }

    /// A named process of a run has begun, or is gone with all that it started.
    pub fn note_process(
        &mut self,
        run: RunId,
        unit: WorkUnit,
        began: Option<Vec<String>>,
        pid: u32,
    ) -> Result<(), ServiceError> {
        self.command(Command::NoteProcess { run, unit, began, pid }).map(drop)
    }
}
