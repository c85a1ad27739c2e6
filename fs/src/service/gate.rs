//! One agent's gate: the fast path that needs no round trip, and the way to the owner.

use super::{Owner, Service};
use crate::gate::{Answer, Gate, Intent, NoApply, Notice, Ordered, Permit, Requester};
use agentfs_api::Workspace;
use agentfs_core::changeset::{Before, FileKind, Signature};
use agentfs_core::machine::{PathFacts, Policy, Read};
use agentfs_core::reads::Fingerprint;
use agentfs_core::unit::InvalidUnit;
use agentfs_core::{AgentName, RelPath, WorkUnit, unit_list};
use parking_lot::{ArcRwLockWriteGuard, RawRwLock, RwLock};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps an agent's writes away as long as it lives.
pub type NoWrites = ArcRwLockWriteGuard<RawRwLock, ()>;

/// What base holds at a path, looked up when asked.
type BaseEntry = dyn Fn(&RelPath) -> Before + Send + Sync;

/// Whether the delta hides what base holds at a path, looked up when asked.
type OwnEntry = dyn Fn(&RelPath, &Signature) -> bool + Send + Sync;

/// What the owner and an agent's view know in common.
///
/// The owner alone lets paths in and out; the view only asks. Everything in it can be rebuilt
/// from the journal except what was read, which begins anew with each run. After a restart of the
/// daemon in the middle of a run it is unknown, and what is unknown counts as changed.
#[derive(Default)]
struct Known {
    /// Whether a run of this agent is alive: without one nothing is written.
    live: bool,
    /// What that run's writes meet.
    policy: Option<Arc<Policy>>,
    /// Paths whose units are held and whose base version has been noted.
    admitted: HashSet<RelPath>,
    /// The version of each path that the run last opened for reading.
    read: HashMap<RelPath, Before>,
    /// Of these the owner has not heard yet.
    unnoted: HashSet<RelPath>,
    /// Whether the run has read more than `read` says: it began under another daemon.
    has_a_past: bool,
    /// Paths that the view shows in an older version than base has, and that version.
    pinned: HashMap<RelPath, Before>,
    /// Directories in which this agent is alone: see [`super::delegation`].
    delegated: Vec<RelPath>,
    /// What was let through there, and the owner has not heard of.
    untold: Vec<Taken>,
    /// The latest answers to orders, in words.
    said: HashMap<Notice, String>,
}

/// A write that the gate let through by itself.
#[derive(Debug)]
pub struct Taken {
    /// What it was.
    pub intent: Intent,
    /// What there was to know of its paths.
    pub facts: Vec<PathFacts>,
}

impl Known {
    /// Whether nothing is left to ask for.
    fn admits(&self, intent: &Intent) -> bool {
        let is_admitted = |path: &RelPath| self.admitted.contains(path);
        let units_are_files = intent.units.iter().all(|unit| match unit {
            WorkUnit::File(path) => is_admitted(path),
            WorkUnit::Dir(_) | WorkUnit::Process(_) | WorkUnit::Resource(_) => false,
        });
        units_are_files && intent.paths.iter().all(is_admitted)
    }

    /// Whether all of it lies where nobody else is, and is shown as base has it.
    fn is_delegated(&self, intent: &Intent) -> bool {
        let lent = |path: &RelPath| self.delegated.iter().any(|dir| dir.contains(path));
        let current = |unit: &WorkUnit| !self.pinned.keys().any(|path| unit.covers_path(path));
        let open = |unit: &WorkUnit| self.policy.as_ref().is_none_or(|p| p.is_open(unit));
        let open_path = |path: &RelPath| open(&WorkUnit::File(path.clone()));
        intent.units.iter().all(|unit| unit.path().is_some_and(lent) && current(unit) && open(unit))
            && intent.arrives.iter().all(open_path)
            && intent
                .paths
                .iter()
                .all(|path| lent(path) && !self.pinned.contains_key(path) && open_path(path))
    }
}

/// One agent's way to the owner of the state.
pub struct AgentGate {
    agent: AgentName,
    workspace: Workspace,
    service: Service,
    base_entry: Box<BaseEntry>,
    own_entry: Box<OwnEntry>,
    known: Mutex<Known>,
    /// Held for reading by every operation that writes, for writing by an apply.
    applying: Arc<RwLock<()>>,
    /// How many operations that write have begun.
    begun: AtomicU64,
}

impl AgentGate {
    /// A gate that lets nothing through yet.
    pub fn new(
        agent: AgentName,
        workspace: Workspace,
        service: Service,
        base_entry: Box<BaseEntry>,
        own_entry: Box<OwnEntry>,
    ) -> Arc<Self> {
        let (known, applying, begun) = Default::default();
        Arc::new(Self { agent, workspace, service, base_entry, own_entry, known, applying, begun })
    }

    /// What an order came to, for whoever reads its file.
    pub fn say(&self, order: Notice, words: String) {
        self.known().said.insert(order, words);
    }

    /// The latest answer to an order.
    pub fn said(&self, order: Notice) -> Option<String> {
        self.known().said.get(&order).cloned()
    }

    /// The path that the agent means: from the root of the view, or below the repository's own.
    fn locate(&self, typed: &[u8]) -> Result<RelPath, InvalidUnit> {
        let root = &self.workspace.root;
        let path = self.workspace.relative(root, Path::new(OsStr::from_bytes(typed)));
        path.ok_or_else(|| InvalidUnit::Outside(String::from_utf8_lossy(typed).into_owned()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere left plain sets, which are still what they were.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins: it has read nothing, and its view is at the newest version of base.
    pub fn open(&self, policy: Option<Policy>) {
        let mut known = self.known();
        let untold = std::mem::take(&mut known.untold);
        let policy = policy.map(Arc::new);
        *known = Known { live: true, policy, untold, ..Known::default() };
    }

    /// A run goes on that began under another daemon: nobody knows what it has read.
    pub fn reopen(&self, policy: Option<Policy>) {
        let mut known = self.known();
        let untold = std::mem::take(&mut known.untold);
        let policy = policy.map(Arc::new);
        *known = Known { live: true, policy, has_a_past: true, untold, ..Known::default() };
    }

    /// The run has ended.
    pub fn close(&self) {
        let mut known = self.known();
        let untold = std::mem::take(&mut known.untold);
        *known = Known { untold, ..Known::default() };
    }

    /// Whether writes of `path` need no round trip.
    pub fn is_admitted(&self, path: &RelPath) -> bool {
        self.known().admitted.contains(path)
    }

    /// Nobody else holds or wants anything in `dir`: writes there need not be asked for.
    pub fn delegate(&self, dir: RelPath) {
        let mut known = self.known();
        known.delegated.retain(|narrower| !dir.contains(narrower));
        known.delegated.push(dir);
    }

    /// Whether a directory is lent in which something of `unit` is.
    pub fn overlaps(&self, unit: &WorkUnit) -> bool {
        let dir = |dir: &RelPath| WorkUnit::Dir(dir.clone());
        self.known().delegated.iter().any(|lent| dir(lent).overlaps(unit))
    }

    /// Takes back what is lent of `units`; says whether the owner has not heard of some writes.
    pub fn recall(&self, units: &[WorkUnit]) -> bool {
        let mut known = self.known();
        let overlaps = |dir: &RelPath| {
            let dir = WorkUnit::Dir(dir.clone());
            units.iter().any(|unit| dir.overlaps(unit))
        };
        known.delegated.retain(|dir| !overlaps(dir));
        !known.untold.is_empty()
    }

    /// Whether the owner has not heard of some writes.
    pub fn has_untold(&self) -> bool {
        !self.known().untold.is_empty()
    }

    /// What was read that the owner has not heard of.
    pub fn take_reads(&self) -> Vec<(RelPath, Fingerprint)> {
        let mut known = self.known();
        let unnoted = std::mem::take(&mut known.unnoted);
        let version = |path: RelPath| known.read.get(&path).map(|seen| (path, (*seen).into()));
        unnoted.into_iter().filter_map(version).collect()
    }

    /// The writes that the owner has not heard of.
    pub fn take_untold(&self) -> Vec<Taken> {
        std::mem::take(&mut self.known().untold)
    }

    /// For an operation that the owner has let through. Never while this thread holds the guard
    /// of [`AgentGate::stop_writes`]: it would wait for itself.
    pub fn permit(&self) -> Permit {
        self.begin(self.applying.read_arc())
    }

    fn begin(&self, no_apply: NoApply) -> Permit {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Permit::guarded(no_apply)
    }

    /// How many operations that write have begun. Whoever finds the same number twice, each time
    /// while no writes are under way ([`AgentGate::stop_writes`]), knows that there was none in
    /// between. What is written to a file that was open already is not among them.
    pub fn writes_begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until no operation that writes is under way, and lets none begin while the guard
    /// lives. They never wait for the owner, so the owner may wait for them.
    pub fn stop_writes(&self) -> NoWrites {
        self.applying.write_arc()
    }

    /// After the journal has failed: what was admitted may not be in it. What was read and what
    /// is pinned stays true.
    pub fn forget_admissions(&self, live: bool) {
        let mut known = self.known();
        known.live = live;
        known.admitted.clear();
        known.delegated.clear();
    }

    /// The next writes of `paths` need no round trip.
    pub fn admit(&self, paths: &[RelPath]) {
        self.known().admitted.extend(paths.iter().cloned());
    }

    /// A lease on `unit` has ended: what it covered has to be asked for again.
    pub fn revoke(&self, unit: &WorkUnit) {
        let admitted = &mut self.known().admitted;
        match unit {
            // A run may have leases by the ten thousand, and they all end at once.
            WorkUnit::File(path) => {
                admitted.remove(path);
            }
            other => admitted.retain(|path| !other.covers_path(path)),
        }
    }

    /// Base gets new versions of the paths of `old`, and this view goes on showing the old ones.
    pub fn pin(&self, old: impl IntoIterator<Item = (RelPath, Before)>) {
        let mut known = self.known();
        for (path, version) in old {
            known.pinned.entry(path).or_insert(version);
        }
    }

    /// Which of `paths` the view shows in an older version than base's.
    pub fn pinned(&self, paths: &[RelPath]) -> Vec<RelPath> {
        let known = self.known();
        paths.iter().filter(|path| known.pinned.contains_key(*path)).cloned().collect()
    }

    /// The view shows base's version of `paths` again.
    pub fn unpin(&self, paths: &[RelPath]) {
        let mut known = self.known();
        for path in paths {
            known.pinned.remove(path);
        }
    }

    /// The view shows base's version of everything. What was read before stays known as what it
    /// was, and so counts as stale where base has moved.
    pub fn unpin_all(&self) {
        self.known().pinned.clear();
    }

    /// The agent's own changes have become base's `now`: it knows what it wrote.
    pub fn published(&self, now: &[(RelPath, Before)]) {
        let mut known = self.known();
        for (path, version) in now {
            known.admitted.remove(path);
            known.pinned.remove(path);
            known.read.insert(path.clone(), *version);
        }
    }

    /// What there is to know of each path before it is written.
    pub fn facts(&self, paths: &[RelPath]) -> Vec<PathFacts> {
        self.facts_of(&self.known(), paths)
    }

    fn facts_of(&self, known: &Known, paths: &[RelPath]) -> Vec<PathFacts> {
        let fact = |path: &RelPath| {
            let base = (self.base_entry)(path);
            let read = match known.read.get(path) {
                Some(version) => Read::Version(*version),
                // Only of files is it ever noted that they were read.
                None if known.has_a_past && base.is_some_and(|b| b.kind == FileKind::File) => {
                    Read::Unknown
                }
                None => Read::Never,
            };
            // Where base has nothing, nothing is hidden.
            let own = base.is_some_and(|base| (self.own_entry)(path, &base));
            PathFacts { path: path.clone(), read, base, own }
        };
        paths.iter().map(fact).collect()
    }

    /// Lets `intent` through where this agent is alone, and has the owner told soon. Not where
    /// the run would overwrite what it has not read: the owner knows what to do about that.
    fn take(&self, mut known: MutexGuard<'_, Known>, intent: &Intent) -> Option<Permit> {
        if !known.is_delegated(intent) {
            return None;
        }
        let facts = self.facts_of(&known, &intent.paths);
        if facts.iter().any(PathFacts::is_stale) {
            return None;
        }
        let permit = self.applying.try_read_arc().map(|guard| self.begin(guard))?;
        known.admitted.extend(intent.paths.iter().cloned());
        let first = known.untold.is_empty();
        known.untold.push(Taken { intent: intent.clone(), facts });
        drop(known);
        if first {
            let agent = self.agent.clone();
            self.service.send(Box::new(move |owner| owner.collect(&agent)));
        }
        Some(permit)
    }
}

impl Gate for AgentGate {
    fn already(&self, intent: &Intent) -> Option<Permit> {
        let known = self.known();
        if !known.live {
            return None;
        }
        if known.admits(intent) {
            // If not, an apply is underway: the owner answers when it is done.
            return self.applying.try_read_arc().map(|guard| self.begin(guard));
        }
        self.take(known, intent)
    }

    fn ask(&self, intent: Intent, requester: Requester, answer: Answer) {
        let agent = self.agent.clone();
        self.service.send(Box::new(move |owner| owner.write(agent, intent, requester, answer)));
    }

    fn may_read(&self, path: &RelPath) -> bool {
        self.known().policy.as_ref().is_none_or(|policy| policy.may_read(path))
    }

    fn read(&self, path: &RelPath, seen: Before) {
        if self.known().admitted.contains(path) {
            return;
        }
        let version = seen.or_else(|| (self.base_entry)(path));
        let mut known = self.known();
        let shown = known.pinned.get(path).copied().unwrap_or(version);
        if known.read.insert(path.clone(), shown) == Some(shown) {
            return;
        }
        let first = known.unnoted.is_empty();
        known.unnoted.insert(path.clone());
        drop(known);
        if first {
            self.service.send(Box::new(Owner::reads_are_due));
        }
    }

    fn forget(&self, path: &RelPath) {
        let (agent, path) = (self.agent.clone(), path.clone());
        self.known().admitted.remove(&path);
        self.service.send(Box::new(move |owner| owner.forget(agent, path)));
    }

    fn notice(&self, notice: Notice) -> String {
        if notice == Notice::Explain
            && let Err(error) = self.service.look_for_conflicts()
        {
            tracing::warn!(%error, "coming conflicts could not be looked for");
        }
        let agent = self.agent.clone();
        let text = self.service.ask_blocking(move |owner| Ok(owner.notice(&agent, notice)));
        text.unwrap_or_else(|error| format!("{error}\n"))
    }

    fn order(
        &self,
        order: Notice,
        text: &[u8],
        is_dir: &dyn Fn(&RelPath) -> bool,
        requester: Requester,
        done: Ordered,
    ) {
        let agent = self.agent.clone();
        let list = unit_list::parse(text, |typed| self.locate(typed), is_dir);
        self.service.send(Box::new(move |owner| owner.order(agent, order, list, requester, done)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[expect(clippy::unnecessary_wraps, reason = "what base holds is a `Before`")]
    fn version(mtime_ns: i64) -> Before {
        Some(Signature { kind: FileKind::File, mode: 0o644, size: 1, mtime_ns, ino: 2 })
    }

    fn gate_over(base: Before) -> Arc<AgentGate> {
        gate_between(base, false)
    }

    fn gate_between(base: Before, own: bool) -> Arc<AgentGate> {
        let service = Service { jobs: mpsc::channel().0 };
        let at = |name: &str| std::path::PathBuf::from(name);
        let workspace =
            Workspace { root: at("/w"), state_dir: at("/s/w-1"), runtime_dir: at("/r/w-1") };
        let (base, own) = (Box::new(move |_: &_| base), Box::new(move |_: &_, _: &_| own));
        AgentGate::new("alice".parse().unwrap(), workspace, service, base, own)
    }

    fn writes(path: &str) -> Intent {
        let path: RelPath = path.parse().unwrap();
        let units = vec![WorkUnit::File(path.clone())];
        Intent { operation: "open", units, paths: vec![path], arrives: vec![], moves: None }
    }

    #[test]
    fn the_fast_path_is_open_exactly_for_what_was_admitted() {
        let gate = gate_over(version(1));
        gate.open(None);
        assert!(gate.already(&writes("a")).is_none());
        gate.admit(&writes("a").paths);
        assert!(gate.already(&writes("a")).is_some());
        assert!(gate.already(&writes("b")).is_none());
        gate.revoke(&"./".parse().unwrap());
        assert!(gate.already(&writes("a")).is_none());
        gate.admit(&writes("a").paths);
        gate.close();
        assert!(gate.already(&writes("a")).is_none(), "no run, no write");
        assert_eq!(gate.writes_begun(), 1, "exactly what was let through");
    }

    #[test]
    fn what_an_earlier_daemon_saw_being_read_is_unknown_until_it_is_read_again() {
        let gate = gate_over(version(1));
        gate.reopen(None);
        let paths = writes("a").paths;
        assert_eq!(gate.facts(&paths)[0].read, Read::Unknown);
        gate.read(&paths[0], None);
        assert_eq!(gate.facts(&paths)[0].read, Read::Version(version(1)));
        gate.open(None);
        assert_eq!(gate.facts(&paths)[0].read, Read::Never, "another run");
        let new = gate_over(None);
        new.reopen(None);
        assert_eq!(new.facts(&paths)[0].read, Read::Never, "there was nothing to be read");
    }

    #[test]
    fn orders_name_paths_from_the_root_or_by_the_repositorys_own_path() {
        let gate = gate_over(None);
        assert_eq!(gate.locate(b"src/../a").unwrap().to_string(), "a");
        assert_eq!(gate.locate(b"/w/src/a").unwrap().to_string(), "src/a");
        for elsewhere in [b"/x/a".as_slice(), b"../a"] {
            assert!(matches!(gate.locate(elsewhere), Err(InvalidUnit::Outside(_))));
        }
    }

    #[test]
    fn making_a_directory_needs_a_live_run_and_nothing_else() {
        let mkdir = Intent {
            operation: "mkdir",
            units: vec![],
            paths: vec![],
            arrives: vec![],
            moves: None,
        };
        let gate = gate_over(None);
        assert!(gate.already(&mkdir).is_none());
        gate.open(None);
        assert!(gate.already(&mkdir).is_some());
    }

    #[test]
    fn where_an_agent_is_alone_its_writes_go_through_and_are_told_afterwards() {
        let gate = gate_over(version(1));
        gate.open(None);
        gate.delegate("d".parse().unwrap());
        assert!(gate.already(&writes("a")).is_none(), "not there");
        assert!(gate.already(&writes("d/a")).is_some());
        assert!(gate.already(&writes("d/a")).is_some(), "told once");
        let untold = gate.take_untold();
        assert_eq!(untold.len(), 1);
        assert_eq!(untold[0].facts[0].base, version(1));
        assert!(!gate.recall(&["e/".parse().unwrap()]) && gate.overlaps(&"d/".parse().unwrap()));
        assert!(gate.already(&writes("d/b")).is_some());
        assert!(gate.recall(&["d/x".parse().unwrap()]), "something is untold");
        assert!(gate.already(&writes("d/c")).is_none(), "no longer alone");
        assert!(gate.already(&writes("d/b")).is_some(), "what it has it keeps");
    }

    #[test]
    fn nothing_unread_or_outdated_goes_through_untold() {
        let gate = gate_over(version(2));
        gate.open(None);
        gate.delegate(RelPath::root());
        let path = |text: &str| text.parse::<RelPath>().unwrap();
        gate.read(&path("read"), version(1));
        assert!(gate.already(&writes("read")).is_none(), "base has another version");
        gate.pin([(path("d/pinned"), version(1))]);
        assert!(gate.already(&writes("d/pinned")).is_none());
        let rmdir = |dir: &str| Intent {
            operation: "rmdir",
            units: vec![WorkUnit::Dir(path(dir))],
            paths: vec![path(dir)],
            arrives: vec![],
            moves: None,
        };
        assert!(gate.already(&rmdir("d")).is_none(), "something in it is pinned");
        assert!(gate.already(&rmdir("e")).is_some());
        gate.close();
        assert!(gate.already(&writes("other")).is_none(), "no run, no write");
        assert_eq!(gate.take_untold().len(), 1, "what went through is still told");
    }

    #[test]
    fn what_the_delta_hides_is_told_and_is_not_stale() {
        let gate = gate_between(version(2), true);
        gate.reopen(None);
        gate.delegate(RelPath::root());
        assert!(gate.already(&writes("a")).is_some(), "base's version is not there to be read");
        assert!(gate.take_untold()[0].facts[0].own);
        assert!(!gate_between(None, true).facts(&writes("a").paths)[0].own, "nothing is hidden");
    }

    #[test]
    fn what_was_read_is_what_the_view_showed() {
        let gate = gate_over(version(2));
        gate.open(None);
        let paths = writes("a").paths;
        assert_eq!(gate.facts(&paths)[0].read, Read::Never);
        gate.pin([(paths[0].clone(), version(1))]);
        gate.read(&paths[0], None);
        assert_eq!(gate.facts(&paths)[0].read, Read::Version(version(1)), "the pinned version");
        assert_eq!(gate.pinned(&paths), paths);
        gate.unpin(&paths);
        gate.read(&paths[0], None);
        assert_eq!(gate.facts(&paths)[0].read, Read::Version(version(2)));
        assert_eq!(gate.pinned(&paths), []);
    }

    #[test]
    fn what_was_read_before_a_sync_is_stale_after_it() {
        let gate = gate_over(version(2));
        gate.open(None);
        let paths = writes("a").paths;
        gate.pin([(paths[0].clone(), version(1))]);
        gate.read(&paths[0], version(1));
        gate.unpin_all();
        let facts = gate.facts(&paths);
        assert_eq!((facts[0].read, facts[0].base), (Read::Version(version(1)), version(2)));
        gate.read(&paths[0], version(2));
        assert_eq!(gate.facts(&paths)[0].read, Read::Version(version(2)));
    }
}
