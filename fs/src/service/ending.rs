//! The end of a run: what it has changed is looked at, published if the policy says so, and else
//! kept.
//!
//! To read a large delta takes long, so that is done apart from the owner ([`Look`]), while what
//! the run has left behind may still write: a child that outlives the command for a moment, a
//! sandbox whose shim was killed, whoever else uses the view. So the owner decides only when no
//! write can begin any more, and looks again itself if one has begun since ([`Seen`]).
//!
//! What must never happen here: that something which was written is dropped (G4). What a process
//! has open is written without anybody being asked, so a run that ends while one of its files is
//! open for writing keeps all it has changed, and it is said which file that is.

use super::publish::{Work, being_written};
use super::{Owner, ServiceError, report};
use crate::view::View;
use agentfs_api::types::{Outcome, RunSummary};
use agentfs_core::changeset::ChangeSet;
use agentfs_core::config::Publish;
use agentfs_core::machine::{Command, Exit};
use agentfs_core::{AgentName, RunId};
use std::sync::Arc;

/// All that is needed to look at what a run that ends has changed, apart from the owner.
pub(super) struct Look {
    work: Work,
    view: Arc<View>,
    begun: u64,
}

/// What a run had changed when so many writes had begun, and none was open.
pub(super) struct Seen {
    changes: ChangeSet,
    begun: u64,
}

impl Look {
    /// Blocks while it reads the delta. None if that is no use: the owner has to look itself.
    pub fn take(self) -> Option<Seen> {
        if being_written(&self.view, |path| self.work.counts(path)).is_some() {
            return None;
        }
        Some(Seen { changes: self.work.changes().ok()?, begun: self.begun })
    }
}

impl Owner {
    /// What is needed to look at what a run, which lives, has changed.
    pub(super) fn look_at_run(&mut self, run: RunId) -> Result<Look, ServiceError> {
        let agent = self.state().live_run(run)?.agent.clone();
        // What has begun until now is in the delta before anybody looks, and is counted.
        let _still = self.stop_writes(&agent)?;
        let work = self.work_of(&agent)?;
        let served = self.agents.get(&agent).ok_or(ServiceError::Stopped)?;
        Ok(Look { work, view: served.view.clone(), begun: served.gate.writes_begun() })
    }

    /// Ends a run, publishes what it has changed if the policy says so, and tells how it went.
    /// Changes that can't be read are kept as they are. `seen` is what was seen of them before.
    pub(super) fn end_run(
        &mut self,
        run: RunId,
        exit: Exit,
        seen: Option<Seen>,
    ) -> Result<RunSummary, ServiceError> {
        let agent = self.state().live_run(run)?.agent.clone();
        let units = self.state().live_run(run)?.units.iter().cloned().collect();
        self.note_reads_of(&agent);
        self.forget_mounts(&agent);
        let still = self.stop_writes(&agent)?;
        let open = self.left_open(&agent);
        let found = self.changes_since(&agent, seen);
        let publish = self.config.publish;
        let nothing_yet = found.as_ref().is_ok_and(ChangeSet::is_empty);
        let why = match (&found, &open) {
            (Err(error), _) => format!("they can't be read: {error}"),
            (Ok(_), Some(path)) if nothing_yet || exit == Exit::Code(0) => {
                format!("{path} was still open for writing when the run ended")
            }
            _ if exit != Exit::Code(0) => format!("the command {exit}"),
            _ if publish == Publish::Manual => "publish = \"manual\"".to_owned(),
            _ => "the daemon ended before they were applied".to_owned(),
        };
        let publishes = exit == Exit::Code(0)
            && publish == Publish::OnSuccess
            && found.is_ok()
            && open.is_none();
        let changed = match &found {
            Err(_) => self.state().agent(&agent)?.based.len().max(1),
            Ok(changes) => changes.changes.len().max(usize::from(open.is_some())),
        };
        let changes = found.unwrap_or_default();
        self.command(Command::EndRun { run, exit, changed, why })?;
        let stale = if changed == 0 { Vec::new() } else { self.stale_reads_of(&agent) };
        if changed == 0 {
            self.drop_copies(&agent);
        } else if publishes {
            let may = self
                .refuse_out_of_bounds(&agent, &changes, false)
                .and_then(|()| self.refuse_stale_reads(&agent));
            if let Err(error) = may.and_then(|()| self.apply_set(&agent, &changes, still)) {
                let (agent, why) = (agent.clone(), error.to_string());
                self.command(Command::KeepPending { agent, why })?;
            }
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
            stale,
        })
    }

    /// What the agent has changed: what was seen, if nothing was written since.
    fn changes_since(
        &mut self,
        agent: &AgentName,
        seen: Option<Seen>,
    ) -> Result<ChangeSet, ServiceError> {
        let begun = self.agents.get(agent).map(|served| served.gate.writes_begun());
        match seen.filter(|seen| begun == Some(seen.begun)) {
            Some(seen) => Ok(seen.changes),
            None => self.changes_of(agent),
        }
    }

    /// After a run without changes: files that were copied up and not changed need not stay.
    fn drop_copies(&self, agent: &AgentName) {
        if let Err(error) = self.drop_from_delta(agent, None) {
            tracing::warn!(%agent, %error, "unchanged copies stay in the delta");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Service, Setup};
    use super::*;
    use crate::changeset::{Source, Staged};
    use crate::gate::{Gate as _, Intent, Permit, Requester};
    use crate::view::{ByRoot, Creation, ROOT};
    use agentfs_api::Workspace;
    use agentfs_core::config::Config;
    use agentfs_core::machine::{Reply, RunRequest};
    use agentfs_core::{RelPath, WorkUnit};
    use rustix::fs::OFlags;
    use std::fs;
    use std::sync::mpsc;
    use tempfile::TempDir;

    /// A run of alice in a view that is not mounted: the tests are its processes.
    struct World {
        dir: TempDir,
        owner: Owner,
        run: RunId,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["base", "state", "runtime"] {
                fs::create_dir(at(name)).unwrap();
            }
            fs::write(at("base/a"), "base\n").unwrap();
            let (root, state_dir, runtime_dir) = (at("base"), at("state"), at("runtime"));
            let workspace = Workspace { root, state_dir, runtime_dir };
            let setup = Setup { workspace, mountpoint: at("views") };
            let mut owner = Owner::open(setup, Service { jobs: mpsc::channel().0 }).unwrap();
            let request = RunRequest {
                agent: Some(alice()),
                argv: vec!["true".into()],
                policy: Config::default().policy(),
                process: crate::process::mark(std::process::id()).unwrap(),
                parent: None,
                after: vec![],
                wants: vec![],
                plan: None,
                wait: None,
            };
            let started = owner.command(Command::StartRun(Box::new(request)));
            let Reply::Started(run, _) = started.unwrap() else { panic!("it has begun") };
            owner.open_view(&alice()).unwrap();
            owner.agents[&alice()].gate.open(None);
            Self { dir, owner, run }
        }

        fn view(&self) -> Arc<View> {
            self.owner.agents[&alice()].view.clone()
        }

        /// What the gate gives for a write of `name`.
        fn permit(&mut self, name: &str) -> Permit {
            let path: RelPath = name.parse().unwrap();
            let units = vec![WorkUnit::File(path.clone())];
            let intent = Intent {
                operation: "open",
                units,
                paths: vec![path],
                arrives: vec![],
                moves: None,
            };
            if let Some(permit) = self.owner.agents[&alice()].gate.already(&intent) {
                return permit;
            }
            let (reply, answer) = mpsc::channel();
            let reply = Box::new(move |said| reply.send(said).unwrap());
            self.owner.write(alice(), intent, Requester { tid: 0 }, reply);
            self.owner.commit().unwrap();
            answer.recv().unwrap().unwrap()
        }

        /// Opens a file of base for writing, without changing it.
        fn open(&mut self, name: &str) -> u64 {
            let permit = self.permit(name);
            let ino = self.view().lookup(ROOT, name.as_ref()).unwrap().unwrap().ino;
            let path = name.parse().unwrap();
            let opened =
                self.view().open_write(ino, Some(&path), OFlags::RDWR, ByRoot(false), &permit);
            opened.unwrap().handle
        }

        fn make(&mut self, name: &str, text: &str) {
            let permit = self.permit(name);
            let creation = Creation { mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
            let path = name.parse().unwrap();
            let (_, opened) = self.view().create(&path, creation, OFlags::RDWR, &permit).unwrap();
            self.view().write(opened.handle, 0, text.as_bytes(), false).unwrap();
            self.view().close(opened.handle);
        }

        fn delta(&self) -> std::path::PathBuf {
            crate::layout::AgentDirs::of(&self.owner.workspace, &alice()).delta
        }

        fn base(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.dir.path().join("base").join(name)).ok()
        }

        fn pending(&mut self) -> Vec<String> {
            let changes = self.owner.changes_of(&alice()).unwrap().changes;
            changes.iter().map(|change| change.path.to_string()).collect()
        }
    }

    fn alice() -> AgentName {
        "alice".parse().unwrap()
    }

    #[test]
    fn what_was_seen_is_what_is_published() {
        let mut world = World::new();
        world.make("new", "work\n");
        let seen = world.owner.look_at_run(world.run).unwrap().take().expect("nothing is open");
        let ended = world.owner.end_run(world.run, Exit::Code(0), Some(seen)).unwrap();
        assert!(matches!(ended.outcome, Outcome::Applied { .. }), "{ended:?}");
        assert_eq!(world.base("new").as_deref(), Some("work\n"));
    }

    #[test]
    fn what_is_written_after_the_look_is_published_too() {
        for before in [None, Some("early")] {
            let mut world = World::new();
            if let Some(name) = before {
                world.make(name, "work\n");
            }
            let seen = world.owner.look_at_run(world.run).unwrap().take().expect("nothing is open");
            assert_eq!(seen.changes.changes.len(), usize::from(before.is_some()));
            world.make("late", "work\n");
            let ended = world.owner.end_run(world.run, Exit::Code(0), Some(seen)).unwrap();
            assert!(matches!(ended.outcome, Outcome::Applied { .. }), "{before:?}: {ended:?}");
            assert_eq!(world.base("late").as_deref(), Some("work\n"), "{before:?}");
            assert_eq!(world.pending(), [""; 0]);
        }
    }

    #[test]
    fn what_is_open_for_writing_at_the_end_is_kept_and_said() {
        for before in [None, Some("early")] {
            let mut world = World::new();
            if let Some(name) = before {
                world.make(name, "work\n");
            }
            let seen = world.owner.look_at_run(world.run).unwrap().take();
            let handle = world.open("a");
            assert!(world.owner.look_at_run(world.run).unwrap().take().is_none(), "it is open");
            let ended = world.owner.end_run(world.run, Exit::Code(0), seen).unwrap();
            let Outcome::Pending { why } = &ended.outcome else { panic!("{ended:?}") };
            assert!(why.starts_with("a was still open for writing"), "{why}");
            world.view().write(handle, 0, b"late", false).unwrap();
            world.view().close(handle);
            let kept: Vec<&str> = ["a"].into_iter().chain(before).collect();
            assert_eq!(world.pending(), kept);
            world.owner.apply_agent(&alice(), false).unwrap();
            assert_eq!(world.base("a").as_deref(), Some("late\n"));
            assert_eq!(world.pending(), [""; 0]);
        }
    }

    #[test]
    fn what_is_not_as_it_was_staged_stays_in_the_delta() {
        let mut world = World::new();
        world.make("new", "work\n");
        let changes = world.owner.changes_of(&alice()).unwrap();
        world.owner.end_run(world.run, Exit::Code(1), None).unwrap();
        // A daemon began to apply and died; meanwhile the delta has moved on.
        let (base, delta) = (world.dir.path().join("base"), world.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: &|_, _| false };
        let stage = base.join(".agentfs-stage-r1");
        let staged = Staged::prepare(&source, &changes, &stage, None).unwrap();
        let plan = serde_json::to_string(staged.plan()).unwrap();
        let (stage, paths) = (stage.display().to_string(), vec!["new".parse().unwrap()]);
        world.owner.command(Command::BeginApply { agent: alice(), paths, stage, plan }).unwrap();
        fs::write(delta.join("new"), "newer\n").unwrap();
        world.owner.finish_applies().unwrap();
        assert_eq!(world.base("new").as_deref(), Some("work\n"));
        assert_eq!(world.pending(), ["new"]);
        assert!(world.owner.state().agent(&alice()).unwrap().may_have_changes());
        world.owner.apply_agent(&alice(), false).unwrap();
        assert_eq!(world.base("new").as_deref(), Some("newer\n"));
    }
}
