//! Delegation: a directory in which nobody else holds or wants anything is lent to an agent's
//! gate, which then lets writes to files there through at once and reports them afterwards.
//!
//! So the first write of a file costs no round trip to the owner, and thousands of new files in a
//! row share one commit of the journal. It is the scheme of NFS version 4 (RFC 8881, chapter 10):
//! who gets in the way makes the owner *recall* the delegation before it decides anything.
//!
//! Invariants: delegated directories of different agents never overlap each other, nor another's
//! lease or claim; what was let through is told to the owner before it decides anything else about
//! those paths (that a name is free again is passed over if it was made again since); nothing is
//! lent where `unclaimed` is not "claim". What a daemon that dies has let through and not yet
//! journaled is in the delta without a note. It counts as new, also when it is written again
//! ([`PathFacts::own`](agentfs_core::machine::PathFacts::own)): so an apply of it over something
//! in base is a conflict, never a lost update.

use super::Owner;
use super::gate::Taken;
use super::waiters::write_of;
use agentfs_core::config::Unclaimed;
use agentfs_core::machine::{ClaimRequest, Command, Reply, Run};
use agentfs_core::{AgentName, RelPath, WorkUnit};
use std::time::Duration;

impl Owner {
    /// Lends the agent the widest directory around `path` in which it is alone.
    pub(super) fn delegate(&mut self, agent: &AgentName, path: &RelPath) {
        let claims = |run: &Run| run.policy.unclaimed == Unclaimed::Claim;
        if !self.state().live_run_of(agent).is_some_and(claims) {
            return;
        }
        let mut above: Vec<RelPath> = path.ancestors().skip(1).collect();
        above.reverse();
        let alone = above.into_iter().find(|dir| self.is_alone(agent, dir));
        if let (Some(dir), Some(served)) = (alone, self.agents.get(agent)) {
            served.gate.delegate(dir);
        }
    }

    fn is_alone(&self, agent: &AgentName, dir: &RelPath) -> bool {
        let unit = WorkUnit::Dir(dir.clone());
        let others = self.agents.iter().filter(|(name, _)| *name != agent);
        self.state().locks.is_alone(agent, dir)
            && others.map(|(_, served)| served).all(|served| !served.gate.overlaps(&unit))
    }

    /// Before `agent` gets or changes `units`: nobody else may be writing there unheard.
    pub(super) fn recall(&mut self, agent: &AgentName, units: &[WorkUnit]) {
        let others = self.agents.iter().filter(|(name, _)| *name != agent);
        let recalled: Vec<AgentName> = others
            .filter(|(_, served)| served.gate.recall(units))
            .map(|(name, _)| name.clone())
            .collect();
        for other in recalled {
            self.collect(&other);
        }
    }

    /// Takes back from the agent what it was lent of `units`.
    pub(super) fn recall_units(&mut self, agent: &AgentName, units: &[WorkUnit]) {
        if self.agents.get(agent).is_some_and(|served| served.gate.recall(units)) {
            self.collect(agent);
        }
    }

    /// Takes back all that the agent was lent.
    pub(super) fn recall_from(&mut self, agent: &AgentName) {
        if let Some(served) = self.agents.get(agent) {
            served.gate.recall(&[WorkUnit::Dir(RelPath::root())]);
        }
        self.collect(agent);
    }

    /// Hears of all that gates have let through.
    pub(super) fn collect_all(&mut self) {
        let untold = self.agents.iter().filter(|(_, served)| served.gate.has_untold());
        let untold: Vec<AgentName> = untold.map(|(agent, _)| agent.clone()).collect();
        for agent in untold {
            self.collect(&agent);
        }
    }

    /// Hears of what the agent's gate has let through.
    pub(super) fn collect(&mut self, agent: &AgentName) {
        let untold = self.agents.get(agent).map(|served| served.gate.take_untold());
        for Taken { intent, facts } in untold.unwrap_or_default() {
            let request = ClaimRequest { wait: Some(Duration::ZERO), ..write_of(agent, &intent) };
            let cause = intent.operation.to_owned();
            let admit = Command::Admit { agent: agent.clone(), cause, facts };
            let noted = self.decide(Command::Claim(request)).and_then(|claimed| match claimed {
                Reply::Granted => self.decide(admit),
                other => Ok(other),
            });
            match noted {
                Ok(Reply::Granted) => {}
                // The run has ended in between: what it wrote is in its delta, and counts as new.
                Ok(other) => {
                    tracing::warn!(%agent, ?other, "a write that went through is not noted");
                }
                Err(error) => {
                    tracing::error!(%agent, %error, "a write that went through is not noted");
                }
            }
        }
    }
}
