//! Runs: their beginning, and what a new daemon does about those of the last one.

use super::gate::AgentGate;
use super::owner::{Served, read_config};
use super::signs::again;
use super::{Owner, ServiceError, sync};
use crate::changeset;
use crate::fuse;
use crate::gate::ViewControl as _;
use crate::identity;
use crate::layout::{self, AgentDirs};
use crate::process;
use crate::view::{Found, Scratch, View, ViewSpec};
use agentfs_api::types::{Place, ScratchMounts, StartRun, StartedRun};
use agentfs_core::changeset::Signature;
use agentfs_core::machine::{Command, Exit, Policy, RunRequest};
use agentfs_core::plan::Plan;
use agentfs_core::process_rules::ProcessRules;
use agentfs_core::{AgentName, RelPath, RunId};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run that has not ended, for the server.
pub struct LiveRun {
    /// Which.
    pub run: RunId,
    /// The process whose end is its end.
    pub process: u32,
    /// Whose.
    pub agent: AgentName,
    /// Whom the agent has become, where the daemon runs as root.
    pub run_as: Option<(u32, u32)>,
}

impl Owner {
    /// The run that is asked for, by the configuration as it is now.
    pub(super) fn run_request(&mut self, request: StartRun) -> Result<RunRequest, ServiceError> {
        self.reread_config()?;
        self.command(Command::Configure(self.config.settings()))?;
        let StartRun { agent, argv, claims, plan, priority, after, parent, pid, .. } = request;
        let process = process::mark(pid).ok_or(ServiceError::NoSuchProcess(pid))?;
        let mut policy = self.config.policy();
        policy.unclaimed = request.unclaimed.unwrap_or(policy.unclaimed);
        policy.wait = request.wait.unwrap_or(policy.wait);
        let planned = plan.as_ref().and_then(|plan| plan.priority);
        policy.priority = priority.or(planned).unwrap_or_default();
        let wants = claims.into_iter().chain(plan.iter().flat_map(Plan::wants)).collect();
        let wait = request.start_within.map(|span| span.0);
        Ok(RunRequest { agent, argv, policy, process, parent, after, wants, plan, wait })
    }

    /// Serves the view of a run that has started. `scratch` are the directories to be mounted past
    /// the view, where that can be.
    pub fn begin_run(
        &mut self,
        run: RunId,
        agent: AgentName,
        scratch: &[Found],
    ) -> Result<StartedRun, ServiceError> {
        match self.begin_view(run, &agent) {
            Ok((dirs, places)) => {
                let scratch = self.prepare_mounts(&agent, &dirs, scratch);
                Ok(self.started(run, agent, dirs, scratch, places))
            }
            Err(error) => {
                // What earlier runs of the agent left is still there.
                self.end_run(run, Exit::NotStarted, None)?;
                Err(error)
            }
        }
    }

    /// The view of a run that begins, and what the sandbox has to show beside it.
    fn begin_view(
        &mut self,
        run: RunId,
        agent: &AgentName,
    ) -> Result<(AgentDirs, Vec<Place>), ServiceError> {
        self.clear_discarded(agent)?;
        let places = self.begin_git(run, agent)?;
        let dirs = self.serve(agent)?;
        self.gate_of(agent)?.open(self.policy_of(agent));
        if let Err(error) = identity::seed(&dirs.home, &self.workspace.root, self.files.shown) {
            tracing::warn!(%agent, %error, "the agent's home has no git identity");
        }
        Ok((dirs, places))
    }

    fn started(
        &self,
        run: RunId,
        agent: AgentName,
        dirs: AgentDirs,
        scratch: Option<ScratchMounts>,
        places: Vec<Place>,
    ) -> StartedRun {
        let policy = self.state().live_run(run).map(|run| run.policy.shortest_ttl());
        let ttl = policy.unwrap_or(self.config.ttl.0);
        StartedRun {
            run,
            root: self.workspace.root.clone(),
            view: self.mountpoint.join(agent.as_str()),
            home: dirs.home,
            socket: self.workspace.agent_socket(&agent),
            run_as: self.run_as(),
            heartbeat: again(ttl),
            scratch,
            agent,
            places,
            processes: self.processes(run),
        }
    }

    /// The named processes of the configuration; those without a wait of their own have the run's.
    fn processes(&self, run: RunId) -> ProcessRules {
        let wait = self.state().live_run(run).map_or(self.config.wait, |run| run.policy.wait);
        let mut rules = self.config.process.clone();
        for rule in rules.values_mut() {
            rule.wait.get_or_insert(wait);
        }
        rules
    }

    /// What counts as scratch, and the agent's delta.
    pub(super) fn fresh_scratch(&self, agent: &AgentName) -> (Arc<Scratch>, PathBuf) {
        (self.scratch.clone(), AgentDirs::of(&self.workspace, agent).delta)
    }

    fn reread_config(&mut self) -> Result<(), ServiceError> {
        let config = read_config(&self.workspace)?;
        if config.scratch != self.config.scratch {
            // Views that are already open keep the patterns they began with.
            self.scratch = Arc::new(Scratch::new(&self.workspace.root, &config.scratch)?);
        }
        self.config = config;
        Ok(())
    }

    /// Makes the agent's view be there, at the newest version of base.
    fn serve(&mut self, agent: &AgentName) -> Result<AgentDirs, ServiceError> {
        let dirs = self.open_view(agent)?;
        let mountpoint = self.mountpoint.join(agent.as_str());
        let Some(served) = self.agents.get_mut(agent) else { return Err(ServiceError::Stopped) };
        served
            .view
            .sync(None)
            .map_err(ServiceError::io("bring up to date the view at", &mountpoint))?;
        if served.mounted.as_ref().is_none_or(fuse::MountedView::has_ended) {
            layout::make_private(&mountpoint)
                .map_err(ServiceError::io("make the directory", &mountpoint))?;
            // The old mount lets go of the view before the new one takes it.
            served.mounted = None;
            let mounted = fuse::mount(served.view.clone(), &mountpoint, self.attendant.trust())?;
            sync::tell_watchers(&self.attendant, &mounted);
            served.mounted = Some(mounted);
        }
        Ok(dirs)
    }

    fn policy_of(&self, agent: &AgentName) -> Option<Policy> {
        self.state().live_run_of(agent).map(|run| run.policy.clone())
    }

    /// The gate of an agent whose view is open.
    fn gate_of(&self, agent: &AgentName) -> Result<&Arc<AgentGate>, ServiceError> {
        self.agents.get(agent).map(|served| &served.gate).ok_or(ServiceError::Stopped)
    }

    /// Serves a run that began under another daemon again.
    fn serve_again(&mut self, agent: &AgentName) -> Result<(), ServiceError> {
        self.recall_mounts(agent)?;
        self.serve(agent)?;
        self.gate_of(agent)?.reopen(self.policy_of(agent));
        Ok(())
    }

    /// Opens the agent's view without mounting it: enough to look at its delta or to drop it.
    pub(super) fn open_view(&mut self, agent: &AgentName) -> Result<AgentDirs, ServiceError> {
        let dirs = AgentDirs::of(&self.workspace, agent);
        if !self.agents.contains_key(agent) {
            let made = dirs.make(self.files);
            made.map_err(ServiceError::io("make directories in", &self.workspace.state_dir))?;
            let spec = ViewSpec {
                agent: agent.clone(),
                base: self.workspace.root.clone(),
                delta: dirs.delta.clone(),
                work: dirs.work.clone(),
                pins: dirs.pins.clone(),
                owner: self.files,
                scratch: self.scratch.clone(),
                watch: self.watch.clone(),
            };
            let open = |dir: &Path| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(dir, flags, Mode::empty());
                opened.map_err(ServiceError::io("open", dir))
            };
            let (base, delta) = (open(&self.workspace.root)?, open(&dirs.delta)?);
            // A path that can't be looked at counts as absent, or as the agent's own: a write of
            // it is then refused at apply, never merged into something unseen.
            let base_entry =
                move |path: &RelPath| changeset::signature(&base, path).unwrap_or(None);
            let own_entry = move |path: &RelPath, base: &Signature| {
                changeset::hides(&delta, path, base).unwrap_or(true)
            };
            let gate = AgentGate::new(
                agent.clone(),
                self.workspace.clone(),
                self.service.clone(),
                Box::new(base_entry),
                Box::new(own_entry),
            );
            let view = View::open(spec, gate.clone())?;
            self.agents.insert(agent.clone(), Served { view, gate, mounted: None });
        }
        Ok(dirs)
    }

    /// What a new daemon does first: finishes applies that were cut off, ends runs whose shim is
    /// gone, serves the views of the others again. Returns when all is consistent (G9). What goes
    /// wrong with one agent is logged, and is no reason not to serve the others.
    pub(super) fn recover(&mut self) -> Result<(), ServiceError> {
        self.command(Command::Configure(self.config.settings()))?;
        // First of all: what ends now must not be granted to somebody who has gone.
        self.end_stale_waits()?;
        self.finish_applies()?;
        let agents: Vec<AgentName> = self.state().agents.keys().cloned().collect();
        for agent in agents {
            if let Err(error) = self.clear_discarded(&agent) {
                tracing::error!(%agent, %error, "discarded files are still there");
            }
        }
        let live: Vec<(RunId, AgentName, bool)> = self
            .state()
            .runs
            .values()
            .filter(|run| run.ended.is_none())
            .map(|run| (run.id, run.agent.clone(), process::is_alive(&run.process)))
            .collect();
        for (run, agent, alive) in live {
            if !alive {
                if let Err(error) = self.recall_mounts(&agent) {
                    tracing::warn!(%agent, %error, "directories made for mounts stay in the delta");
                }
                self.end_run(run, Exit::Lost, None)?;
            } else if let Err(error) = self.serve_again(&agent) {
                tracing::error!(%agent, %error, "its view can't be served again");
            }
        }
        if let Err(error) = self.forget_idle_gits() {
            tracing::error!(%error, "copies of the repository that nobody needs are still there");
        }
        self.commit()?;
        Ok(())
    }

    /// Claims that waited when the last daemon ended: whoever waited has long had an error.
    fn end_stale_waits(&mut self) -> Result<(), ServiceError> {
        let stale: Vec<_> = self.state().locks.queue().map(|claim| claim.id).collect();
        // The last in line first: that lets nobody go ahead.
        for claim in stale.into_iter().rev() {
            // Ending one may have granted another.
            if self.state().locks.claim(claim).is_some() {
                self.command(Command::Cancel { claim })?;
            }
        }
        Ok(())
    }

    /// The live runs with the processes that they end with: to be watched, and listened to.
    pub fn live_runs(&self) -> Vec<LiveRun> {
        let live = self.state().runs.values().filter(|run| run.ended.is_none());
        let live = live.map(|run| LiveRun {
            run: run.id,
            process: run.process.pid,
            agent: run.agent.clone(),
            run_as: self.run_as(),
        });
        live.collect()
    }

    /// Whom an agent becomes, where the daemon runs as root.
    fn run_as(&self) -> Option<(u32, u32)> {
        rustix::process::geteuid().is_root().then_some(self.files.shown)
    }
}
