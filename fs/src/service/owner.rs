//! The owner: one thread, all state.

use super::gate::AgentGate;
use super::sync::Ears;
use super::waiters::Waiter;
use super::{Job, NotRecorded, Service, ServiceError};
use crate::attendant::Attendant;
use crate::clock::Clock;
use crate::fuse::MountedView;
use crate::gate::ViewControl as _;
use crate::store::{Durable, Entry, Store};
use crate::view::{Owner as FileOwner, Scratch, View};
use crate::watch::BaseWatch;
use agentfs_api::Workspace;
use agentfs_api::types::LogEntry;
use agentfs_core::config::{self, Config};
use agentfs_core::explain;
use agentfs_core::machine::{Command, Event, LeaseEnd, Machine, Reply, State};
use agentfs_core::{AgentName, ClaimId, RelPath, Timestamp, Want, WorkUnit};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// How many jobs share one commit of the journal.
const JOBS_PER_COMMIT: usize = 64;

/// How often those that wait are looked at: whether their process is still there (G6: within 1 s).
const LOOK_AT_WAITERS: Duration = Duration::from_millis(100);

/// How long the owner rests after the journal has failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How long entries of the journal that nobody waits for may take to be on disk.
const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// How many entries a slow reader of the event stream may lag behind before it has to reload.
const LOG_BACKLOG: usize = 1024;

/// What an owner is made of.
pub struct Setup {
    /// The workspace.
    pub workspace: Workspace,
    /// Where views are mounted.
    pub mountpoint: PathBuf,
}

/// One agent as it is served.
pub(super) struct Served {
    pub(super) view: Arc<View>,
    pub(super) gate: Arc<AgentGate>,
    /// None for an agent that has not run since the daemon started.
    pub(super) mounted: Option<MountedView>,
}

/// Who is told whether the journal has taken what was decided.
type Afterwards = Box<dyn FnOnce(Result<(), NotRecorded>) + Send>;

/// The owner of the state. Everything in it is touched by its own thread alone.
pub struct Owner {
    pub(super) workspace: Workspace,
    pub(super) mountpoint: PathBuf,
    pub(super) service: Service,
    pub(super) clock: Clock,
    pub(super) started: Timestamp,
    pub(super) config: Config,
    pub(super) scratch: Arc<Scratch>,
    pub(super) files: FileOwner,
    pub(super) watch: Arc<BaseWatch>,
    /// What the watch tells the owner through.
    _ears: Arc<Ears>,
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) agents: BTreeMap<AgentName, Served>,
    pub(super) waiters: BTreeMap<ClaimId, Waiter>,
    pub(super) attendant: Attendant,
    log: broadcast::Sender<LogEntry>,
    /// Events that are folded, but not yet in the journal.
    unsaved: Vec<(Timestamp, Event)>,
    /// What to do when they are, or can't be.
    afterwards: Vec<Afterwards>,
    /// Since when gates know of reads that the journal does not have.
    pub(super) unread: Option<Instant>,
    /// Since when the journal has entries that may not be on disk.
    unsynced: Option<Instant>,
    stopping: bool,
}

impl Owner {
    /// Opens the journal and folds it.
    pub(super) fn open(setup: Setup, service: Service) -> Result<Self, ServiceError> {
        let Setup { workspace, mountpoint } = setup;
        let store = Store::open(&workspace.state_dir)?;
        let (machine, last) = fold(&store)?;
        let clock = Clock::starting_after(last);
        let config = read_config(&workspace)?;
        let scratch = Arc::new(Scratch::new(&workspace.root, &config.scratch)?);
        let files = crate::layout::owner_of(&workspace.root)
            .map_err(ServiceError::io("read", &workspace.root))?;
        let (watch, ears) = (BaseWatch::start(&workspace.root), Arc::new(Ears(service.clone())));
        let listener: Weak<Ears> = Arc::downgrade(&ears);
        watch.subscribe(listener);
        Ok(Self {
            mountpoint,
            service,
            started: clock.now(),
            clock,
            config,
            scratch,
            files,
            watch,
            _ears: ears,
            machine,
            store,
            agents: BTreeMap::new(),
            waiters: BTreeMap::new(),
            attendant: Attendant::new()
                .map_err(ServiceError::io("start a thread in", &workspace.root))?,
            log: broadcast::channel(LOG_BACKLOG).0,
            unsaved: Vec::new(),
            afterwards: Vec::new(),
            unread: None,
            unsynced: None,
            stopping: false,
            workspace,
        })
    }

    /// Does jobs until told to stop, or until nobody can send any more.
    pub(super) fn run(mut self, inbox: &mpsc::Receiver<Job>) {
        while !self.stopping {
            match inbox.recv_timeout(self.until_next_tick()) {
                Ok(job) => self.perform(job),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            inbox.try_iter().take(JOBS_PER_COMMIT - 1).for_each(|job| self.perform(job));
            self.look_at_waiters();
            self.tick();
            // Who needs to know has been told.
            let _ = self.commit_as_asked();
        }
        self.sync_if_due(Duration::ZERO);
    }

    /// Does one job, which decides on all that has been let through before it.
    fn perform(&mut self, job: Job) {
        self.collect_all();
        job(self);
    }

    fn until_next_tick(&self) -> Duration {
        let longest = Duration::from_hours(1);
        let deadline = self.state().next_deadline().map(|at| at.since(self.clock.now()));
        // A deadline in milliseconds is reached one after it is rounded to.
        let next = deadline.map_or(longest, |left| left + Duration::from_millis(1));
        let due = self.unsynced.is_some() || self.unread.is_some();
        let next = if due { next.min(SYNC_WITHIN) } else { next };
        if self.waiters.is_empty() { next.min(longest) } else { next.min(LOOK_AT_WAITERS) }
    }

    fn tick(&mut self) {
        self.sync_if_due(SYNC_WITHIN);
        if self.unread.is_some_and(|since| since.elapsed() >= SYNC_WITHIN) {
            self.note_reads();
        }
        let now = self.clock.now();
        if self.state().next_deadline().is_some_and(|deadline| deadline <= now)
            && let Err(error) = self.command(Command::Tick)
        {
            tracing::error!(%error, "the clock's command was rejected");
        }
    }

    /// The present state.
    pub(super) fn state(&self) -> &State {
        self.machine.state()
    }

    /// Decides a command; its events go to the journal with the next commit, and their
    /// consequences for views and waiters are set going.
    pub(super) fn command(&mut self, command: Command) -> Result<Reply, ServiceError> {
        self.recall_for(&command);
        self.decide(command)
    }

    /// Takes back what is lent where the command is about to decide.
    fn recall_for(&mut self, command: &Command) {
        match command {
            Command::Claim(request) => self.recall(&request.agent, &units_of(&request.wants)),
            Command::StartRun(request) => {
                // Whoever it is, nobody may be writing there unheard.
                let everybody = self.agents.keys().cloned().collect::<Vec<_>>();
                let units = units_of(&request.wants);
                for agent in everybody.iter().filter(|agent| request.agent.as_ref() != Some(*agent))
                {
                    self.recall_units(agent, &units);
                }
            }
            Command::Steal { unit, .. } => {
                let everybody = self.agents.keys().cloned().collect::<Vec<_>>();
                for agent in &everybody {
                    self.recall_units(agent, std::slice::from_ref(unit));
                }
            }
            Command::BeginApply { agent, paths, .. } => {
                let units: Vec<_> = paths.iter().cloned().map(WorkUnit::File).collect();
                self.recall(agent, &units);
                self.recall_from(agent);
            }
            Command::EndRun { run, .. } => {
                let agent = self.state().live_run(*run).map(|run| run.agent.clone());
                if let Ok(agent) = agent {
                    self.recall_from(&agent);
                }
            }
            Command::Release { agent, .. } | Command::Discard { agent } => self.recall_from(agent),
            _ => {}
        }
    }

    /// Like [`Owner::command`], with everything recalled that has to be.
    pub(super) fn decide(&mut self, command: Command) -> Result<Reply, ServiceError> {
        let now = self.clock.now();
        let (reply, events) = self.machine.apply(command, now)?;
        self.unsaved.extend(events.iter().map(|event| (now, event.clone())));
        for event in &events {
            self.consequences(event);
        }
        Ok(reply)
    }

    fn consequences(&mut self, event: &Event) {
        match event {
            Event::ClaimEnded { claim, end, text, .. } => self.claim_ended(*claim, *end, text),
            Event::LeaseEnded { agent, unit, why, .. } => {
                if let Some(served) = self.agents.get(agent) {
                    served.gate.revoke(unit);
                    if matches!(why, LeaseEnd::Expired | LeaseEnd::Stolen) {
                        // Nobody may write unheard for an agent that gives no sign of life, or
                        // where somebody else writes from now on.
                        served.gate.recall(&[WorkUnit::Dir(RelPath::root())]);
                    }
                }
            }
            Event::RunEnded { agent, .. } => {
                if let Some(served) = self.agents.get(agent) {
                    served.gate.close();
                }
            }
            _ => {}
        }
    }

    /// Tells `answer` when everything decided so far is in the journal, or that it can't be.
    pub(super) fn after_commit(
        &mut self,
        answer: impl FnOnce(Result<(), NotRecorded>) + Send + 'static,
    ) {
        self.afterwards.push(Box::new(answer));
    }

    /// Brings the journal up to date, and then answers.
    ///
    /// If the journal fails, all are told so, and the state goes back to what the journal has.
    pub(super) fn commit(&mut self) -> Result<(), NotRecorded> {
        self.record(Durable::Now)
    }

    /// The same where nobody waits for an answer: what gates have let through, leases that ended.
    /// The disk is not waited for, and so does not hold up those who write beside the journal.
    fn commit_unasked(&mut self) -> Result<(), NotRecorded> {
        self.record(Durable::Soon)
    }

    /// Brings the journal up to date, and waits for the disk if somebody waits for an answer.
    pub(super) fn commit_as_asked(&mut self) -> Result<(), NotRecorded> {
        if self.afterwards.is_empty() { self.commit_unasked() } else { self.commit() }
    }

    fn sync_if_due(&mut self, within: Duration) {
        if self.unsynced.is_some_and(|since| since.elapsed() >= within) {
            self.unsynced = None;
            if let Err(error) = self.store.sync() {
                tracing::error!(%error, "the journal's latest entries may not be on disk");
            }
        }
    }

    fn record(&mut self, durable: Durable) -> Result<(), NotRecorded> {
        let events = std::mem::take(&mut self.unsaved);
        let answers = std::mem::take(&mut self.afterwards);
        let mut recorded = Ok(());
        if events.is_empty() && !answers.is_empty() {
            // What is answered may rest on what is not on disk yet.
            self.sync_if_due(Duration::ZERO);
        }
        if !events.is_empty() {
            match self.store.append(&events, durable) {
                Ok(entries) => {
                    self.unsynced = match durable {
                        Durable::Now => None,
                        Durable::Soon => self.unsynced.or_else(|| Some(Instant::now())),
                    };
                    for entry in entries {
                        self.publish_entry(entry);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the journal failed; the state goes back to it");
                    let why = NotRecorded::new(&error, &self.workspace.state_dir);
                    self.go_back(&why);
                    recorded = Err(why);
                }
            }
        }
        for answer in answers {
            answer(recorded.clone());
        }
        recorded
    }

    fn go_back(&mut self, why: &NotRecorded) {
        match fold(&self.store) {
            Ok((machine, _)) => self.machine = machine,
            Err(error) => {
                tracing::error!(%error, "the journal can't be read back; the daemon stops");
                self.stopping = true;
            }
        }
        // Those whose claim the journal has go on waiting.
        let locks = &self.machine.state().locks;
        let (stay, go) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|(claim, _)| !self.stopping && locks.claim(*claim).is_some());
        self.waiters = stay;
        let go: BTreeMap<ClaimId, Waiter> = go;
        for waiter in go.into_values() {
            waiter.fail(why);
        }
        for (agent, served) in &self.agents {
            let live = self.machine.state().live_run_of(agent).is_some();
            served.gate.forget_admissions(live);
        }
        // What the clock asks for is asked for again and again until the journal takes it.
        std::thread::sleep(PAUSE_AFTER_FAILURE);
    }

    fn publish_entry(&self, entry: Entry) {
        // Nobody listening is no error.
        drop(self.log.send(log_entry(entry)));
    }

    /// The journal after entry `after`, and a receiver of all that comes later: no gap, no
    /// repetition.
    pub fn follow(
        &mut self,
        after: u64,
    ) -> Result<(Vec<LogEntry>, broadcast::Receiver<LogEntry>), ServiceError> {
        self.commit()?;
        let past = self.store.after(after, usize::MAX)?;
        Ok((past.into_iter().map(log_entry).collect(), self.log.subscribe()))
    }

    /// Unmounts every view and ends the owner's thread. Runs that live lose their view.
    pub fn stop(&mut self, force: bool) -> Result<(), ServiceError> {
        let live: Vec<String> = self
            .state()
            .runs
            .values()
            .filter(|run| run.ended.is_none())
            .map(|run| format!("{} ({})", run.agent, run.id))
            .collect();
        if !live.is_empty() && !force {
            let verb = if live.len() == 1 { "is" } else { "are" };
            return Err(ServiceError::RunsAlive(format!("{} {verb}", live.join(", "))));
        }
        for served in self.agents.values_mut() {
            served.gate.close();
            served.mounted = None;
        }
        for agent in self.state().agents.keys() {
            // Only if nothing is in it; and a next daemon makes it again.
            let _ = std::fs::remove_dir(self.mountpoint.join(agent.as_str()));
        }
        self.waiters.clear();
        self.stopping = true;
        Ok(())
    }

    /// Forgets what the kernel cached of base in the views that are not bound to an old version.
    pub(super) fn refresh_idle_views(&self) {
        for (agent, served) in &self.agents {
            if self.state().live_run_of(agent).is_none()
                && let Err(error) = served.view.sync(None)
            {
                tracing::warn!(%agent, %error, "the view could not be moved to the new base");
            }
        }
    }
}

/// The state that the journal tells, and the time of its last entry.
fn fold(store: &Store) -> Result<(Machine, Timestamp), ServiceError> {
    let mut machine = Machine::default();
    let mut last = Timestamp::default();
    for entry in store.load()? {
        machine.fold(&entry.event, entry.at)?;
        last = last.max(entry.at);
    }
    Ok((machine, last))
}

/// `agentfs.toml` as it is now; the default if there is none.
pub(super) fn read_config(workspace: &Workspace) -> Result<Config, ServiceError> {
    let path = workspace.root.join(config::FILE_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Config::parse(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(ServiceError::io("read", path)(error)),
    }
}

fn units_of(wants: &[Want]) -> Vec<WorkUnit> {
    wants.iter().map(|want| want.unit.clone()).collect()
}

fn log_entry(entry: Entry) -> LogEntry {
    let Entry { seq, at, event } = entry;
    LogEntry {
        seq,
        at,
        agent: explain::whose(&event).cloned(),
        text: explain::describe(&event),
        event: serde_json::to_value(&event).unwrap_or_default(),
    }
}
