//! The machine against stories, against recovery, and against the guarantee G1.

use super::*;
use crate::changeset::{Action, Before, FileKind, Signature};
use crate::config::{Span, Unclaimed};
use crate::locks::{Origin, Priority};
use crate::want::Want;
use proptest::prelude::*;

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

fn unit(text: &str) -> WorkUnit {
    text.parse().unwrap()
}

fn policy(unclaimed: Unclaimed) -> Policy {
    let secs = |n| Span(Duration::from_secs(n));
    Policy { unclaimed, wait: secs(60), ttl: secs(600), priority: Priority::Normal, rules: vec![] }
}

fn process() -> ProcessMark {
    ProcessMark { pid: 1, started: 1, boot: "b".into() }
}

fn request(agent: Option<&str>) -> RunRequest {
    RunRequest {
        agent: agent.map(name),
        argv: vec!["x".into()],
        policy: policy(Unclaimed::Claim),
        process: process(),
        parent: None,
        after: vec![],
        wants: vec![],
        plan: None,
        wait: None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what base holds is a `Before`")]
fn version(mtime_ns: i64) -> Before {
    Some(Signature { kind: FileKind::File, mode: 0o644, size: 3, mtime_ns, ino: 9 })
}

/// A machine with its journal and a clock that the test moves, in seconds.
#[derive(Default)]
struct Story {
    machine: Machine,
    journal: Vec<(Event, Timestamp)>,
    now: Timestamp,
}

impl Story {
    fn with(agents: &[&str]) -> Self {
        let mut story = Self::default();
        for agent in agents {
            story.start(agent, Unclaimed::Claim);
        }
        story
    }

    fn start(&mut self, agent: &str, unclaimed: Unclaimed) {
        let policy = policy(unclaimed);
        self.submit(RunRequest { policy, ..request(Some(agent)) }).unwrap();
    }

    fn submit(&mut self, request: RunRequest) -> Result<Reply, Rejection> {
        self.run(Command::StartRun(Box::new(request)))
    }

    fn run(&mut self, command: Command) -> Result<Reply, Rejection> {
        let (reply, events) = self.machine.apply(command, self.now)?;
        self.journal.extend(events.into_iter().map(|event| (event, self.now)));
        Ok(reply)
    }

    fn write(&mut self, agent: &str, what: &str) -> Reply {
        self.claim(agent, what, Origin::Write)
    }

    fn claim(&mut self, agent: &str, what: &str, origin: Origin) -> Reply {
        self.run(Command::Claim(ClaimRequest {
            agent: name(agent),
            wants: what.split_whitespace().map(unit).map(Want::exclusive).collect(),
            wait: None,
            cause: "open".into(),
            origin,
            by: Asker::Agent,
            touches: vec![],
            moves: None,
        }))
        .unwrap()
    }

    fn admit(&mut self, agent: &str, path: &str, read: Option<Before>, base: Before) -> Reply {
        let read = read.map_or(Read::Never, Read::Version);
        self.admit_as(agent, path, read, base)
    }

    fn admit_as(&mut self, agent: &str, path: &str, read: Read, base: Before) -> Reply {
        let facts = vec![PathFacts { path: path.parse().unwrap(), read, base, own: false }];
        self.run(Command::Admit { agent: name(agent), cause: "open".into(), facts }).unwrap()
    }

    fn compare(&mut self, agent: &str, path: &str, by: Option<&str>, base: Before) {
        let facts = vec![BaseFacts { path: path.parse().unwrap(), base, merges: false }];
        let command = Command::Compare { agent: name(agent), by: by.map(name), facts };
        self.run(command).unwrap();
    }

    fn coming(&self) -> Vec<String> {
        let coming = self.machine.state.coming();
        coming.map(|(agent, path, _)| format!("{agent} {path}")).collect()
    }

    fn apply_changes(&mut self, agent: &str) -> Result<Reply, Rejection> {
        let agent = name(agent);
        let paths = self.machine.state.agents[&agent].based.keys().cloned().collect();
        let (stage, plan) = (String::new(), String::new());
        self.run(Command::BeginApply { agent: agent.clone(), paths, stage, plan })?;
        self.run(Command::FinishApply { agent, rebased: vec![] })
    }

    fn end(&mut self, agent: &str, exit: Exit) {
        let run = self.machine.state.agents[&name(agent)].live.unwrap();
        let changed = self.machine.state.agents[&name(agent)].based.len();
        self.run(Command::EndRun { run, exit, changed, why: "why".into() }).unwrap();
    }

    fn at(&mut self, secs: u64) {
        self.now = Timestamp(secs * 1_000);
        self.run(Command::Tick).unwrap();
    }

    fn holders(&self) -> Vec<String> {
        let leases = self.machine.state.locks.leases();
        leases.map(|lease| format!("{} {}", lease.agent, lease.unit)).collect()
    }

    fn explained(&self, agent: &str) -> Vec<String> {
        crate::explain::explain(&self.machine.state, None, Some(&name(agent)), self.now)
    }
}

#[test]
fn a_free_unit_is_claimed_by_the_first_write_and_the_second_writer_waits() {
    let mut s = Story::with(&["alice", "bob"]);
    assert_eq!(s.write("alice", "a"), Reply::Granted);
    assert_eq!(s.write("alice", "a"), Reply::Granted, "leases are re-entrant");
    assert_eq!(s.write("bob", "a"), Reply::Waiting(ClaimId(1)));
    s.at(12);
    assert_eq!(
        s.explained("bob"),
        [
            "bob waits for a (open): alice (r1) has held a for 12s; gives up in 48s. It is free when \
          alice's run has ended and its changes are applied; `agentctl apply alice` does so now."
        ]
    );
    s.end("alice", Exit::Code(0));
    assert_eq!(s.holders(), ["bob a"], "alice had changed nothing");
}

#[test]
fn a_wait_ends_at_its_deadline_and_says_who_was_in_the_way() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.write("bob", "a");
    s.at(59);
    assert_eq!(s.machine.state.locks.queue().count(), 1);
    s.at(60);
    assert_eq!(s.machine.state.locks.queue().count(), 0);
    let said = s.explained("bob");
    assert!(said[0].contains("EBUSY after waiting 1m00s: alice (r1) has held a"), "{said:?}");
}

#[test]
fn leases_outlive_the_run_until_its_changes_are_applied() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    s.end("alice", Exit::Code(1));
    assert_eq!(s.write("bob", "a"), Reply::Waiting(ClaimId(1)));
    s.apply_changes("alice").unwrap();
    assert_eq!(s.holders(), ["bob a"]);
    assert_eq!(s.machine.state.base_version, BaseVersion(1));
    assert_eq!(s.machine.state.runs[&RunId(1)].outcome, Some(Outcome::Applied(BaseVersion(1))));
}

#[test]
fn a_write_on_an_old_version_is_refused_until_the_new_one_is_read() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("bob", "a");
    let read_old = Some(version(1));
    assert_eq!(s.admit("bob", "a", read_old, version(2)), Reply::Refused(RefusalKind::Stale));
    assert_eq!(s.holders(), ["bob a"], "the lease stays, so that nobody slips in between");
    assert!(s.explained("bob")[0].contains("read a again, then write"));
    assert_eq!(s.admit("bob", "a", Some(version(2)), version(2)), Reply::Granted);
    assert_eq!(s.admit("bob", "a", read_old, version(3)), Reply::Granted, "already its own");
    assert_eq!(s.admit("bob", "never-read", None, version(5)), Reply::Granted);
}

#[test]
fn what_nobody_knows_whether_it_was_read_must_be_read_again() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "a");
    let unknown = s.admit_as("alice", "a", Read::Unknown, version(1));
    assert_eq!(unknown, Reply::Refused(RefusalKind::Stale));
    let why = &s.explained("alice")[0];
    assert!(why.contains("the daemon was replaced") && why.contains("read a again"), "{why}");
    assert_eq!(s.admit("alice", "a", Some(version(1)), version(1)), Reply::Granted);
    let written = s.admit_as("alice", "a", Read::Unknown, version(1));
    assert_eq!(written, Reply::Granted, "already its own");
}

#[test]
fn what_is_in_the_delta_without_a_note_is_never_based_on_the_newest_version() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "a b");
    s.admit("alice", "a", None, version(1));
    let own = |path: &str, read| PathFacts {
        path: path.parse().unwrap(),
        read,
        base: version(2),
        own: true,
    };
    // Neither unread nor read before base changed: she can't read what her own work hides.
    let facts = vec![own("a", Read::Unknown), own("b", Read::Version(version(1)))];
    let admit = Command::Admit { agent: name("alice"), cause: "open".into(), facts };
    assert_eq!(s.run(admit).unwrap(), Reply::Granted);
    let based = &s.machine.state.agents[&name("alice")].based;
    let based: Vec<_> = based.iter().map(|(path, before)| (path.to_string(), *before)).collect();
    assert_eq!(based, [("a".into(), version(1)), ("b".into(), None)], "a note is believed");
}

#[test]
fn deny_refuses_what_was_not_claimed_but_not_an_editors_temporary_name() {
    let mut s = Story::default();
    s.start("alice", Unclaimed::Deny);
    assert_eq!(s.claim("alice", "src/a.rs", Origin::Asked), Reply::Granted);
    assert_eq!(s.write("alice", "src/a.rs"), Reply::Granted);
    assert_eq!(s.write("alice", "src/b.rs"), Reply::Refused(RefusalKind::Denied));
    assert_eq!(s.write("alice", "src/a.rs.tmp.1 src/a.rs"), Reply::Granted);
    assert!(s.explained("alice")[0].contains("EACCES"));
    s.run(Command::Forget { agent: name("alice"), path: "src/a.rs.tmp.1".parse().unwrap() })
        .unwrap();
    assert_eq!(s.holders(), ["alice src/a.rs"]);
}

#[test]
fn leases_that_were_asked_for_go_with_their_paths_also_after_a_wait_and_below_directories() {
    let mut s = Story::with(&["alice", "bob"]);
    s.claim("alice", "src/a src/sub/", Origin::Asked);
    s.claim("bob", "lib/x", Origin::Asked);
    let renames = ClaimRequest {
        agent: name("alice"),
        wants: ["src/", "lib/"].map(|dir| Want::exclusive(unit(dir))).to_vec(),
        wait: None,
        cause: "rename".into(),
        origin: Origin::Write,
        by: Asker::Agent,
        touches: vec![],
        moves: Some(("src".parse().unwrap(), "lib".parse().unwrap())),
    };
    assert_eq!(s.run(Command::Claim(renames)), Ok(Reply::Waiting(ClaimId(1))));
    s.run(Command::Release { agent: name("bob"), unit: unit("lib/x") }).unwrap();
    let asked = s.machine.state.locks.leases().filter(|lease| lease.origin == Origin::Asked);
    let mut asked: Vec<String> = asked.map(|lease| lease.unit.to_string()).collect();
    asked.sort();
    assert_eq!(asked, ["lib/a", "lib/sub/", "src/a", "src/sub/"]);
}

#[test]
fn a_deadlock_is_refused_at_once() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.write("bob", "b");
    assert_eq!(s.write("alice", "b"), Reply::Waiting(ClaimId(1)));
    assert_eq!(s.write("bob", "a"), Reply::Refused(RefusalKind::Deadlock));
    assert!(s.explained("bob")[0].contains("bob would wait for alice, who waits for bob"));
}

#[test]
fn nobody_is_let_past_by_a_claim_that_does_not_wait_for_it() {
    let mut s = Story::with(&["alice", "bob", "carol"]);
    s.write("carol", "d/e/");
    s.write("alice", "d/a");
    assert_eq!(s.write("bob", "d/a"), Reply::Waiting(ClaimId(1)));
    // Behind carol alone: bob, who is ahead, waits for alice himself.
    assert_eq!(s.write("alice", "d/"), Reply::Waiting(ClaimId(2)));
    // So bob waits behind alice, and would wait for himself if he got it.
    assert_eq!(s.write("bob", "d/b"), Reply::Waiting(ClaimId(3)));
    assert_eq!(s.machine.state.locks.knot(), None);
}

#[test]
fn what_was_written_again_during_an_apply_stays_pending_and_leased() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    s.write("alice", "b");
    s.admit("alice", "b", None, version(1));
    let agent = name("alice");
    let paths = vec!["a".parse().unwrap(), "b".parse().unwrap()];
    let (stage, plan) = (String::new(), String::new());
    s.run(Command::BeginApply { agent: agent.clone(), paths, stage, plan }).unwrap();
    let rebased = vec![("b".parse().unwrap(), version(2))];
    s.run(Command::FinishApply { agent: agent.clone(), rebased }).unwrap();
    assert_eq!(s.holders(), ["alice b"]);
    let based = &s.machine.state.agents[&agent].based;
    assert_eq!(
        based.iter().map(|(p, b)| (p.to_string(), *b)).collect::<Vec<_>>(),
        [("b".into(), version(2))]
    );
}

#[test]
fn a_discard_is_remembered_until_the_delta_is_cleared() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    s.end("alice", Exit::Code(1));
    assert!(s.machine.state.agents[&name("alice")].may_have_changes());
    s.run(Command::Discard { agent: name("alice") }).unwrap();
    let state = |s: &Story| s.machine.state.agents[&name("alice")].clone();
    assert!(state(&s).clearing && !state(&s).may_have_changes());
    s.run(Command::DeltaCleared { agent: name("alice") }).unwrap();
    assert!(!state(&s).clearing);
}

#[test]
fn a_coming_conflict_is_told_once_and_taken_back_when_base_is_as_it_was() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    let told = |s: &Story| {
        let comes = |(event, _): &&(Event, Timestamp)| matches!(event, Event::ConflictComes { .. });
        s.journal.iter().filter(comes).count()
    };
    s.compare("alice", "a", None, version(1));
    s.compare("alice", "never-written", None, version(9));
    assert_eq!((s.coming(), told(&s)), (vec![], 0));
    s.compare("alice", "a", None, version(2));
    s.compare("alice", "a", None, version(3));
    assert_eq!((s.coming(), told(&s)), (vec!["alice a".to_owned()], 1));
    s.at(5);
    let said = s.explained("alice");
    assert!(said[0].contains("will conflict: somebody has changed it in base by hand"), "{said:?}");
    assert!(said[0].contains("(5s ago); look at both (`agentctl diff alice`)"), "{said:?}");
    assert_eq!(s.explained("bob"), [""; 0]);
    s.compare("alice", "a", None, version(1));
    assert_eq!(s.coming(), [""; 0]);
    s.compare("alice", "a", None, version(2));
    assert_eq!((s.coming(), told(&s)), (vec!["alice a".to_owned()], 2));
    s.run(Command::Discard { agent: name("alice") }).unwrap();
    assert_eq!(s.coming(), [""; 0], "settled");
}

#[test]
fn directories_that_merge_do_not_conflict() {
    let mut s = Story::with(&["alice"]);
    s.admit("alice", "d", None, None);
    let made = |merges| BaseFacts { path: "d".parse().unwrap(), base: version(1), merges };
    let compare = |facts| Command::Compare { agent: name("alice"), by: None, facts };
    s.run(compare(vec![made(true)])).unwrap();
    assert_eq!(s.coming(), [""; 0]);
    s.run(compare(vec![made(false), made(false)])).unwrap();
    assert_eq!(s.coming(), ["alice d"]);
}

#[test]
fn a_sync_tells_who_moved_what_and_which_version_the_view_is_at() {
    let mut s = Story::with(&["alice", "bob"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    s.apply_changes("alice").unwrap();
    let base = |s: &Story| s.machine.state.runs[&RunId(2)].base;
    assert_eq!(base(&s), BaseVersion(0));
    let moved = ["a", "by-hand"].map(|path| (path.parse().unwrap(), Action::Modified)).to_vec();
    s.run(Command::Sync { agent: name("bob"), moved }).unwrap();
    assert_eq!(base(&s), BaseVersion(1));
    let Some((Event::Synced { moved, version, .. }, _)) = s.journal.last() else { panic!() };
    let by = Author { agent: name("alice"), version: BaseVersion(1) };
    assert_eq!((moved[0].author.as_ref(), moved[1].author.as_ref()), (Some(&by), None));
    assert_eq!(*version, BaseVersion(1));
    s.end("alice", Exit::Code(0));
    assert!(!s.machine.state.recent.is_empty(), "bob may ask");
    s.end("bob", Exit::Code(0));
    assert!(s.machine.state.recent.is_empty(), "nobody will ask");
}

#[test]
fn an_apply_makes_a_conflict_come_for_whoever_wrote_the_same_path() {
    let mut s = Story::with(&["alice", "bob"]);
    s.admit("bob", "a", None, version(1));
    s.admit("alice", "a", None, version(1));
    s.apply_changes("alice").unwrap();
    s.compare("bob", "a", Some("alice"), version(2));
    let said = s.explained("bob");
    assert!(said[0].contains("alice has applied another version (v1)"), "{said:?}");
}

#[test]
fn a_directory_made_and_removed_again_is_free() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "td/");
    s.run(Command::Forget { agent: name("alice"), path: "td".parse().unwrap() }).unwrap();
    assert_eq!(s.holders(), [""; 0]);
}

#[test]
fn silence_ends_leases_but_not_work() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "a");
    s.admit("alice", "a", None, version(1));
    s.end("alice", Exit::Lost);
    s.at(599);
    assert_eq!(s.holders(), ["alice a"]);
    s.at(600);
    assert_eq!(s.holders(), [""; 0]);
    assert!(s.machine.state.agents[&name("alice")].sealed);
    s.start("bob", Unclaimed::Claim);
    s.write("bob", "a");
    let refused = s.apply_changes("alice").unwrap_err();
    assert!(matches!(refused, Rejection::HeldByAnother { .. }), "{refused}");
    s.end("bob", Exit::Code(0));
    s.apply_changes("alice").unwrap();
}

#[test]
fn heartbeats_keep_leases_and_are_journaled_seldom() {
    let mut s = Story::with(&["alice"]);
    s.write("alice", "a");
    let before = s.journal.len();
    for secs in (10..=2_000).step_by(10) {
        s.at(secs);
        s.run(Command::Heartbeat { run: RunId(1) }).unwrap();
    }
    assert_eq!(s.holders(), ["alice a"]);
    assert_eq!(s.journal.len() - before, 13, "one every 150 s");
}

#[test]
fn a_run_that_waits_for_units_holds_up_only_those_that_want_the_same() {
    let mut story = Story::default();
    let max_parallel = Some(3);
    story.run(Command::Configure(Settings { max_parallel, ..Settings::default() })).unwrap();
    story.start("alice", Unclaimed::Claim);
    story.write("alice", "a");
    let wants = |what: &str| vec![Want::exclusive(unit(what))];
    let bob = RunRequest { wants: wants("a"), ..request(Some("bob")) };
    assert!(matches!(story.submit(bob), Ok(Reply::Waiting(_))));
    let carol = RunRequest { wants: wants("b"), ..request(Some("carol")) };
    assert!(matches!(story.submit(carol), Ok(Reply::Started(..))), "there is room beside bob");
    assert!(matches!(story.submit(request(Some("dan"))), Ok(Reply::Started(..))));
    let eve = story.submit(request(Some("eve")));
    assert!(matches!(eve, Ok(Reply::Waiting(_))), "three are alive");
    assert!(story.explained("eve")[0].contains("max_parallel = 3"), "{:?}", story.explained("eve"));
    story.end("alice", Exit::Code(0));
    let alive = |who: &str| story.machine.state.live_run_of(&name(who)).is_some();
    assert!(alive("bob") && !alive("eve"), "who came first has the room: {:?}", story.holders());
}

#[test]
fn leases_without_a_run_end_by_the_settings_and_can_be_renewed() {
    let mut s = Story::default();
    let settings = Settings { ttl: Some(Span(Duration::from_secs(20))), ..Settings::default() };
    s.run(Command::Configure(settings)).unwrap();
    s.claim("operator", "proc:test", Origin::Asked);
    for secs in (5..=60).step_by(5) {
        s.at(secs);
        s.run(Command::Renew { agent: name("operator") }).unwrap();
    }
    s.at(79);
    assert_eq!(s.holders(), ["operator proc:test"]);
    s.at(80);
    assert!(s.holders().is_empty());
    assert!(s.run(Command::Renew { agent: name("nobody") }).is_err());
}

#[test]
fn names_are_free_when_their_agent_neither_runs_nor_has_changes() {
    let mut s = Story::default();
    let start = |s: &mut Story| match s.submit(request(None)).unwrap() {
        Reply::Started(_, agent) => agent.to_string(),
        reply => panic!("{reply:?}"),
    };
    assert_eq!((start(&mut s), start(&mut s)), ("ada".into(), "ben".into()));
    s.end("ada", Exit::Code(0));
    assert_eq!(start(&mut s), "ada");
    s.write("ada", "a");
    s.admit("ada", "a", None, None);
    s.end("ada", Exit::Code(1));
    assert_eq!(start(&mut s), "cleo");
    let again = s.submit(request(Some("ben")));
    assert_eq!(again, Err(Rejection::AlreadyRunning(name("ben"), RunId(2))));
}

fn any_command() -> impl Strategy<Value = (u8, u8, u8, u64)> {
    (0u8..11, 0u8..3, 0u8..6, 0u64..200)
}

const UNITS: [&str; 6] = ["d/a", "d/b", "d/", "d/e/", "c", "res:x"];

/// Runs random commands; those that are rejected are part of the game.
fn random_story(commands: Vec<(u8, u8, u8, u64)>, check: impl Fn(&Story)) -> Story {
    let agents = ["alice", "bob", "carol"];
    let mut s = Story::with(&agents);
    for (what, who, which, pause) in commands {
        let agent = agents[usize::from(who)];
        let wanted = UNITS[usize::from(which)];
        s.now = Timestamp(s.now.0 + pause * 1_000);
        match what {
            0..3 => drop(s.write(agent, wanted)),
            3 => drop(s.admit(agent, "d/a", None, version(1))),
            4 => drop(s.run(Command::Release { agent: name(agent), unit: unit(wanted) })),
            5 => drop(s.apply_changes(agent)),
            6 if s.machine.state.agents[&name(agent)].live.is_some() => {
                s.end(agent, Exit::Code(0));
            }
            7 if s.machine.state.agents[&name(agent)].live.is_none() => {
                s.start(agent, Unclaimed::Claim);
            }
            9 => s.compare(agent, "d/a", Some("carol"), version(i64::from(which) % 2)),
            10 => {
                let moved = vec![("d/a".parse().unwrap(), Action::Modified)];
                s.run(Command::Sync { agent: name(agent), moved }).unwrap();
            }
            _ => drop(s.run(Command::Tick)),
        }
        for agent in s.machine.state.agents.values() {
            let written = |path| agent.based.contains_key(path);
            assert!(agent.coming.keys().all(written), "{agent:?}");
        }
        check(&s);
    }
    s
}

proptest! {
    #[test]
    fn no_two_leases_overlap_and_nobody_who_could_go_on_waits(
        commands in prop::collection::vec(any_command(), 0..60)
    ) {
        random_story(commands, |s| {
            let leases: Vec<_> = s.machine.state.locks.leases().collect();
            for (at, one) in leases.iter().enumerate() {
                for other in &leases[at + 1..] {
                    let apart = one.agent == other.agent || !one.unit.overlaps(&other.unit);
                    assert!(apart, "G1: {one:?} and {other:?}");
                    assert!(one.token < other.token, "tokens grow");
                }
            }
            let locks = &s.machine.state.locks;
            assert!(!locks.queue().any(|claim| locks.is_grantable(claim)), "a lost wake-up");
            assert_eq!(locks.knot(), None, "nobody waits for itself");
        });
    }

    #[test]
    fn the_journal_alone_gives_the_same_state(
        commands in prop::collection::vec(any_command(), 0..60)
    ) {
        let s = random_story(commands, |_| {});
        let mut again = Machine::default();
        for (event, at) in &s.journal {
            let json = serde_json::to_string(event).unwrap();
            again.fold(&serde_json::from_str(&json).unwrap(), *at).unwrap();
        }
        prop_assert_eq!(again, s.machine);
    }
}
