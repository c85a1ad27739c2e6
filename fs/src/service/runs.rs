//! Runs: their beginning, their end, and what a new daemon does about those of the last one.

use super::gate::AgentGate;
use super::owner::{Served, read_config};
use super::publish::Work;
use super::{Owner, ServiceError, report, sync};
use crate::changeset;
use crate::fuse;
use crate::gate::ViewControl;
use crate::identity;
use crate::layout::{self, AgentDirs};
use crate::process;
use crate::view::{Found, Scratch, View, ViewSpec};
use agentfs_api::types::{Outcome, Place, RunSummary, ScratchMounts, StartRun, StartedRun};
use agentfs_core::changeset::ChangeSet;
use agentfs_core::config::{Publish, Span};
use agentfs_core::machine::{Command, Exit, Policy, Reply};
use agentfs_core::process_rules::ProcessRules;
use agentfs_core::{AgentName, RelPath, RunId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often a run says that it lives: often enough that three missed ones end no lease.
const HEARTBEATS_PER_TTL: u32 = 8;

/// The longest time between two signs of life.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(30);

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
    /// Registers a run and serves its view. Its claims are made afterwards.
    /// `scratch` are the directories to be mounted past the view, where that can be.
    pub fn start_run(
        &mut self,
        request: StartRun,
        scratch: &[Found],
    ) -> Result<StartedRun, ServiceError> {
        let policy = Policy {
            unclaimed: request.unclaimed.unwrap_or(self.config.unclaimed),
            wait: request.wait.unwrap_or(self.config.wait),
            ttl: self.config.ttl,
        };
        let process = process::mark(request.pid).ok_or(ServiceError::NoSuchProcess(request.pid))?;
        let StartRun { agent, argv, .. } = request;
        let wait = policy.wait;
        let started = self.command(Command::StartRun { agent, argv, policy, process })?;
        let Reply::Started(run, agent) = started else { return Err(ServiceError::Stopped) };
        match self.begin_view(run, &agent) {
            Ok((dirs, places)) => {
                let scratch = self.prepare_mounts(&agent, &dirs, scratch);
                let started = self.started(run, agent, dirs, scratch, places);
                Ok(StartedRun { processes: self.processes(wait), ..started })
            }
            Err(error) => {
                // What earlier runs of the agent left is still there.
                let found = self.changes_of(&agent);
                self.end_run(run, Exit::NotStarted, found)?;
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
        self.gate_of(agent)?.open();
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
        let heartbeat = (self.config.ttl.0 / HEARTBEATS_PER_TTL).min(LONGEST_HEARTBEAT);
        StartedRun {
            run,
            root: self.workspace.root.clone(),
            view: self.mountpoint.join(agent.as_str()),
            home: dirs.home,
            socket: self.workspace.agent_socket(&agent),
            run_as: self.run_as(),
            heartbeat: Span(heartbeat.max(Duration::from_millis(100))),
            scratch,
            agent,
            places,
            processes: ProcessRules::new(),
        }
    }

    /// The named processes of the configuration; those without a wait of their own have `wait`.
    fn processes(&self, wait: Span) -> ProcessRules {
        let mut rules = self.config.process.clone();
        for rule in rules.values_mut() {
            rule.wait.get_or_insert(wait);
        }
        rules
    }

    /// What counts as scratch, by the configuration as it is now; and the agent's delta.
    pub(super) fn fresh_scratch(
        &mut self,
        agent: Option<&AgentName>,
    ) -> Result<(Arc<Scratch>, Option<PathBuf>), ServiceError> {
        self.reread_config()?;
        let delta = agent.map(|agent| AgentDirs::of(&self.workspace, agent).delta);
        Ok((self.scratch.clone(), delta))
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

    /// The gate of an agent whose view is open.
    fn gate_of(&self, agent: &AgentName) -> Result<&Arc<AgentGate>, ServiceError> {
        self.agents.get(agent).map(|served| &served.gate).ok_or(ServiceError::Stopped)
    }

    /// Serves a run that began under another daemon again.
    fn serve_again(&mut self, agent: &AgentName) -> Result<(), ServiceError> {
        self.serve(agent)?;
        self.gate_of(agent)?.reopen();
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
            let root = rustix::fs::open(
                &self.workspace.root,
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
                rustix::fs::Mode::empty(),
            )
            .map_err(ServiceError::io("open", &self.workspace.root))?;
            // A path that can't be looked at counts as absent: a write based on it is then
            // refused at apply, never merged into something unseen.
            let base_entry =
                move |path: &RelPath| changeset::signature(&root, path).unwrap_or(None);
            let (workspace, service) = (self.workspace.clone(), self.service.clone());
            let gate = AgentGate::new(agent.clone(), workspace, service, Box::new(base_entry));
            let view = View::open(spec, gate.clone())?;
            self.agents.insert(agent.clone(), Served { view, gate, mounted: None });
        }
        Ok(dirs)
    }

    /// A sign of life.
    pub fn heartbeat(&mut self, run: RunId) -> Result<(), ServiceError> {
        self.command(Command::Heartbeat { run }).map(drop)
    }

    /// What is needed to look at what a run, which lives, has changed.
    pub(super) fn work_of_run(&mut self, run: RunId) -> Result<Work, ServiceError> {
        let agent = self.state().live_run(run)?.agent.clone();
        self.work_of(&agent)
    }

    /// Ends a run of which `found` is what it has changed, publishes that if the policy says so,
    /// and tells how it went. Changes that can't be read are kept as they are.
    pub(super) fn end_run(
        &mut self,
        run: RunId,
        exit: Exit,
        found: Result<ChangeSet, ServiceError>,
    ) -> Result<RunSummary, ServiceError> {
        let agent = self.state().live_run(run)?.agent.clone();
        let units = self.state().live_run(run)?.units.iter().cloned().collect();
        self.forget_mounts(&agent);
        let publish = self.config.publish;
        let why = match (&found, publish) {
            (Err(error), _) => format!("they can't be read: {error}"),
            _ if exit != Exit::Code(0) => format!("the command {exit}"),
            (_, Publish::Manual) => "publish = \"manual\"".to_owned(),
            (_, Publish::OnSuccess) => "the daemon ended before they were applied".to_owned(),
        };
        let is_unread = found.is_err();
        let changes = found.unwrap_or_default();
        let changed = if is_unread {
            self.state().agent(&agent)?.based.len().max(1)
        } else {
            changes.changes.len()
        };
        self.command(Command::EndRun { run, exit, changed, why })?;
        if changed == 0 {
            self.drop_copies(&agent);
        } else if exit == Exit::Code(0) && publish == Publish::OnSuccess && !is_unread {
            self.publish_run(&agent, &changes)?;
        }
        let conflicts = report::coming(self.state(), Some(&agent), self.clock.now());
        let ended = self.state().runs.get(&run);
        let outcome = ended.and_then(|run| run.outcome.as_ref()).map(report::outcome);
        Ok(RunSummary {
            run,
            agent,
            changes,
            units,
            waits: ended.map(report::waits).unwrap_or_default(),
            outcome: outcome.unwrap_or(Outcome::Nothing),
            conflicts,
        })
    }

    /// Applies the changes of a run that has ended; where that can't be, they stay pending.
    fn publish_run(&mut self, agent: &AgentName, changes: &ChangeSet) -> Result<(), ServiceError> {
        let paths: Vec<RelPath> = changes.changes.iter().map(|c| c.path.clone()).collect();
        let still = self.stand_still(agent, &paths);
        if let Err(error) = still.and_then(|still| self.apply_set(agent, changes, still)) {
            let (agent, why) = (agent.clone(), error.to_string());
            self.command(Command::KeepPending { agent, why })?;
        }
        Ok(())
    }

    /// After a run without changes: files that were copied up and not changed need not stay.
    fn drop_copies(&self, agent: &AgentName) {
        if let Some(served) = self.agents.get(agent)
            && let Err(error) = served.view.drop_from_delta(None)
        {
            tracing::warn!(%agent, %error, "unchanged copies stay in the delta");
        }
    }

    /// What a new daemon does first: finishes applies that were cut off, ends runs whose shim is
    /// gone, serves the views of the others again. Returns when all is consistent (G9). What goes
    /// wrong with one agent is logged, and is no reason not to serve the others.
    pub(super) fn recover(&mut self) -> Result<(), ServiceError> {
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
                let found = self.changes_of(&agent);
                self.end_run(run, Exit::Lost, found)?;
            } else if let Err(error) = self.serve_again(&agent) {
                tracing::error!(%agent, %error, "its view can't be served again");
            }
        }
        self.end_stale_waits()?;
        if let Err(error) = self.forget_idle_gits() {
            tracing::error!(%error, "copies of the repository that nobody needs are still there");
        }
        self.commit()?;
        Ok(())
    }

    /// Claims that waited when the last daemon ended: whoever waited has long had an error.
    fn end_stale_waits(&mut self) -> Result<(), ServiceError> {
        let stale: Vec<_> = self.state().locks.queue().map(|claim| claim.id).collect();
        for claim in stale {
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
