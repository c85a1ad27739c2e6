use super::super::{Job, Service, Setup, asked_for};
use super::*;
use agentfs_api::Workspace;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;

struct World {
    owner: Owner,
    inbox: mpsc::Receiver<Job>,
    _dir: TempDir,
}

/// One who has claimed something, and can go away in two ways.
struct Client {
    gone: Arc<AtomicBool>,
    answer: oneshot::Receiver<Result<Vec<Lock>, ServiceError>>,
}

impl Client {
    fn hangs_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn hears_of_a_grant(mut self) -> bool {
        matches!(self.answer.try_recv(), Ok(Ok(_)))
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["base", "state", "runtime"] {
            fs::create_dir(at(name)).unwrap();
        }
        let (root, state_dir, runtime_dir) = (at("base"), at("state"), at("runtime"));
        let workspace = Workspace { root, state_dir, runtime_dir };
        let (jobs, inbox) = mpsc::channel();
        let setup = Setup { workspace, mountpoint: at("views") };
        let owner = Owner::open(setup, Service { jobs }).unwrap();
        Self { owner, inbox, _dir: dir }
    }

    fn claims(&mut self, agent: &str, units: &[&str]) -> Client {
        let gone = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let client = Client { gone: gone.clone(), answer };
        self.claims_as(agent, units, reply, gone);
        client
    }

    fn claims_as(&mut self, agent: &str, units: &[&str], reply: Granted, gone: Arc<AtomicBool>) {
        let wants = units.iter().map(|unit| Want::exclusive(unit.parse().unwrap())).collect();
        let wait = Some(Duration::from_mins(1));
        let request = asked_for(agent.parse().unwrap(), wants, wait, Asker::Agent);
        let has_hung_up = Box::new(move || gone.load(Ordering::Relaxed));
        self.owner.claim(request, Claimant { reply, has_hung_up });
    }

    fn releases(&mut self, agent: &str, unit: &str) {
        let (agent, unit) = (agent.parse().unwrap(), unit.parse().unwrap());
        self.owner.command(Command::Release { agent, unit }).unwrap();
    }

    /// Commits, tells everybody, and does what comes of that.
    fn commits(&mut self) {
        self.owner.commit().unwrap();
        for job in self.inbox.try_iter().collect::<Vec<_>>() {
            job(&mut self.owner);
        }
        self.owner.commit().unwrap();
    }

    fn held(&self) -> Vec<String> {
        let leases = self.owner.state().locks.leases();
        leases.map(|lease| format!("{} {}", lease.agent, lease.unit)).collect()
    }
}

#[test]
fn what_is_granted_to_one_who_has_gone_is_given_back() {
    let mut world = World::new();
    let alice = world.claims("alice", &["proc:test"]);
    let _own = world.claims("bob", &["res:port"]);
    let bob = world.claims("bob", &["proc:test", "res:port"]);
    let carol = world.claims("carol", &["proc:test"]);
    bob.hangs_up();
    world.releases("alice", "proc:test");
    world.commits();
    assert!(alice.hears_of_a_grant() && carol.hears_of_a_grant() && !bob.hears_of_a_grant());
    assert_eq!(world.held(), ["bob res:port", "carol proc:test"], "only what that claim got");
}

#[test]
fn what_is_free_is_given_back_too() {
    let mut world = World::new();
    let (reply, answer) = oneshot::channel();
    world.claims_as("alice", &["proc:test"], reply, Arc::new(AtomicBool::new(true)));
    world.commits();
    assert!(world.held().is_empty());
    drop(answer);
}

#[test]
fn one_who_goes_before_the_journal_has_the_grant_has_nothing() {
    let mut world = World::new();
    let alice = world.claims("alice", &["proc:test", "src/a"]);
    assert_eq!(world.held(), ["alice proc:test", "alice src/a"]);
    drop(alice);
    world.commits();
    assert!(world.held().is_empty());
}

#[test]
fn what_another_claim_rests_on_stays() {
    let mut world = World::new();
    let _alice = world.claims("alice", &["proc:test"]);
    let first = world.claims("bob", &["proc:test"]);
    let second = world.claims("bob", &["proc:test"]);
    first.hangs_up();
    world.releases("alice", "proc:test");
    world.commits();
    assert!(second.hears_of_a_grant() && !first.hears_of_a_grant());
    assert_eq!(world.held(), ["bob proc:test"]);
}

#[test]
fn who_asks_again_has_given_up_before() {
    let mut world = World::new();
    let _alice = world.claims("alice", &["proc:test"]);
    let first = world.claims("bob", &["proc:test"]);
    first.hangs_up();
    let second = world.claims("bob", &["proc:test"]);
    assert_eq!(world.owner.state().locks.queue().count(), 1);
    world.releases("alice", "proc:test");
    world.commits();
    assert!(second.hears_of_a_grant());
    assert_eq!(world.held(), ["bob proc:test"]);
}

#[test]
fn what_was_held_in_a_weaker_mode_is_not_lost() {
    let mut world = World::new();
    let wants = vec![Want { unit: "proc:test".parse().unwrap(), mode: agentfs_core::Mode::Shared }];
    for agent in ["alice", "bob"] {
        let request = asked_for(agent.parse().unwrap(), wants.clone(), None, Asker::Agent);
        world.owner.command(Command::Claim(request)).unwrap();
    }
    let bob = world.claims("bob", &["proc:test"]);
    bob.hangs_up();
    world.releases("alice", "proc:test");
    world.commits();
    assert_eq!(world.held(), ["bob proc:test"]);
}
