//! What the API asks of the owner without changing much.

use super::owner::Served;
use super::publish::Work;
use super::{Owner, ServiceError, report};
use agentfs_api::types::{
    Agent, Explanation, Lock, Recoverable, Released, Run, Status, ViewStatus, Waiting,
};
use agentfs_core::changeset::{ChangeSet, Conflict};
use agentfs_core::machine::{Command, Rejection};
use agentfs_core::{AgentName, RelPath, WorkUnit, explain};
use std::collections::BTreeSet;

impl Owner {
    /// The daemon and its workspace.
    pub fn status(&self) -> Status {
        let state = self.state();
        let live = |agent: &agentfs_core::machine::Agent| agent.live.is_some();
        let method = if rustix::process::geteuid().is_root() {
            "as root"
        } else {
            "rootless, by fusermount3"
        };
        Status {
            root: self.workspace.root.clone(),
            mountpoint: self.mountpoint.clone(),
            state_dir: self.workspace.state_dir.clone(),
            pid: std::process::id(),
            since: self.started,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            base_version: state.base_version,
            live_runs: state.agents.values().filter(|agent| live(agent)).count(),
            leases: state.locks.leases().count(),
            waiting: state.locks.queue().count(),
            pending: self.agents_at_rest().len(),
            conflicts: state.coming().count(),
            config: self.config.clone(),
            mount_method: method.to_owned(),
            watched: self.watch.covered(),
            views: self.views(),
        }
    }

    fn views(&self) -> Vec<ViewStatus> {
        let view = |(agent, served): (&AgentName, &Served)| {
            let mounted = served.mounted.as_ref()?;
            let figures = served.view.figures();
            let requests = mounted.requests().into_iter();
            Some(ViewStatus {
                agent: agent.clone(),
                mountpoint: mounted.mountpoint().to_owned(),
                passthrough: served.view.passthrough(),
                inodes: figures.inodes,
                inode_bytes: figures.inode_bytes,
                copied_files: figures.copied_files,
                copied_bytes: figures.copied_bytes,
                requests: requests.map(|(kind, count)| (kind.to_owned(), count)).collect(),
            })
        };
        self.agents.iter().filter_map(view).collect()
    }

    /// All leases.
    pub fn locks(&self) -> Vec<Lock> {
        report::locks(self.state())
    }

    /// All claims that wait.
    pub fn queue(&self) -> Vec<Waiting> {
        report::queue(self.state(), self.clock.now())
    }

    /// All agents.
    pub fn agents(&self) -> Vec<Agent> {
        let mounted = |agent: &AgentName| {
            let served = self.agents.get(agent)?;
            served.mounted.is_some().then(|| self.mountpoint.join(agent.as_str()))
        };
        report::agents(self.state(), mounted)
    }

    /// All runs.
    pub fn runs(&self) -> Vec<Run> {
        report::runs(self.state())
    }

    /// Why something waits or was refused.
    pub fn explain(
        &self,
        path: Option<&RelPath>,
        agent: Option<&AgentName>,
    ) -> Result<Explanation, ServiceError> {
        if let Some(agent) = agent {
            self.state().agent(agent)?;
        }
        Ok(Explanation { sentences: explain::explain(self.state(), path, agent, self.clock.now()) })
    }

    /// The agents that have no live run, but have written something that is neither applied nor
    /// discarded.
    pub fn agents_at_rest(&self) -> Vec<AgentName> {
        let agents = self.state().agents.iter();
        let at_rest = agents.filter(|(_, agent)| agent.live.is_none() && agent.may_have_changes());
        at_rest.map(|(name, _)| name.clone()).collect()
    }

    /// An agent's pending work as `agentctl recover` lists it.
    pub fn recoverable(
        &self,
        work: &Work,
        changes: &ChangeSet,
        conflicts: &[Conflict],
    ) -> Recoverable {
        let delta = work.delta().to_owned();
        report::recoverable(self.state(), &work.agent, changes, conflicts, delta)
    }

    /// Gives a lease back: the named agent's or, if none is named, that of the only holder.
    pub fn release(
        &mut self,
        named: Option<AgentName>,
        unit: WorkUnit,
    ) -> Result<Released, ServiceError> {
        let agent = match named {
            Some(agent) => agent,
            None => self.only_holder(&unit)?,
        };
        self.command(Command::Release { agent: agent.clone(), unit: unit.clone() })?;
        Ok(Released { agent, unit })
    }

    fn only_holder(&self, unit: &WorkUnit) -> Result<AgentName, ServiceError> {
        let leases = self.state().locks.overlapping(unit).filter(|lease| lease.unit == *unit);
        let holders: BTreeSet<&AgentName> = leases.map(|lease| &lease.agent).collect();
        let mut holders = holders.into_iter();
        match (holders.next(), holders.next()) {
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(ServiceError::BadRequest(format!(
                "several agents hold {unit}; say whose lease with --agent"
            ))),
            (None, _) => Err(Rejection::NobodyHolds(unit.clone()).into()),
        }
    }
}
