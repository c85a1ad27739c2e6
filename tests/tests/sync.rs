//! What moves beneath an agent while it runs: its view at a sync, and base under its own changes.

use agentfs_api::types::{LogEntry, Synced};
use agentfs_core::changeset::Action;
use agentfs_tests::{Agent, World, eventually, in_both_worlds, promptly};

const MANUAL: &str = "publish = \"manual\"\n";

in_both_worlds!(
    a_view_moves_when_it_is_synced_and_not_before,
    what_was_read_before_a_sync_is_stale_after_it,
    an_agent_syncs_its_own_view_and_no_other,
    a_sync_after_many_looks_shows_the_new_version_at_once,
    a_human_s_edit_is_a_conflict_to_come_until_it_is_undone,
    an_apply_is_a_conflict_to_come_for_who_wrote_the_same_path,
    watchers_in_a_view_hear_what_a_sync_brings,
    an_attendant_that_dies_is_started_again,
    a_daemon_that_is_killed_while_a_view_is_walked_leaves_nothing_behind,
);

/// Changes files in each way, and applies that.
const BOB: &str = "echo bob >>shared.txt; mkdir -p made/deep; echo new >made/deep/file
    rm src/b.txt; rm -r docs; exit 0";

fn sync(world: &World, agent: &str) -> Synced {
    world.ctl(&format!("sync --json {agent}")).json()
}

fn told(log: &[LogEntry], kind: &str) -> usize {
    log.iter().filter(|entry| entry.event["type"] == kind).count()
}

fn a_view_moves_when_it_is_synced_and_not_before(world: &World) {
    let mut alice = world.agent("alice").start(
        r"exec 3<shared.txt 4<docs/image.bin
        cat shared.txt src/b.txt >~/before; ls made 2>/dev/null; ls docs; stat shared.txt
        tell ready; await applied
        cat shared.txt src/b.txt >~/pinned; [ ! -e made ] && [ -L docs/link ] && tell looked
        await synced
        cat shared.txt made/deep/file >~/moved
        [ ! -e src/b.txt ] && [ ! -e docs ] && tell moved
        cat <&3 >~/open; wc -c <&4 >>~/open; cat .agentfs/whoami >>~/open; tell done; exit 0",
    );
    alice.hears("ready");
    world.agent("bob").run(BOB).exits(0);
    alice.tells("applied");
    alice.hears("looked");
    assert_eq!(alice.kept("pinned"), alice.kept("before"), "an apply moves nothing");

    let synced = sync(world, "alice");
    assert_eq!(world.seen_by("alice", "shared.txt"), "one\nbob\n", "at once");
    let moved: Vec<(String, Action)> =
        synced.moved.iter().map(|moved| (moved.path.to_string(), moved.action)).collect();
    let expected = [
        ("docs", Action::Deleted),
        ("docs/image.bin", Action::Deleted),
        ("docs/link", Action::Deleted),
        ("made", Action::Added),
        ("made/deep", Action::Added),
        ("made/deep/file", Action::Added),
        ("shared.txt", Action::Modified),
        ("src/b.txt", Action::Deleted),
    ];
    assert_eq!(moved, expected.map(|(path, action)| (path.to_owned(), action)));
    for moved in &synced.moved {
        let by = moved.author.as_ref().expect("the journal knows who did it");
        assert_eq!((by.agent.as_str(), by.version.0), ("bob", 1), "{moved:?}");
    }
    assert_eq!((synced.from.0, synced.version.0), (0, 1));
    assert!(synced.conflicts.is_empty(), "{synced:?}");
    assert_eq!(told(&world.log(), "synced"), 1);

    alice.tells("synced");
    alice.hears("moved");
    alice.hears("done");
    assert_eq!(alice.kept("moved"), "one\nbob\nnew\n");
    let open = alice.kept("open");
    assert!(open.starts_with("one\n5000\n"), "what is open stays: {open:?}");
    assert!(open.contains("base: v1\n"), "{open:?}");
    let again = world.ctl("sync alice").ok().out();
    assert_eq!(again, "alice's view is at v1: 0 paths moved\n");
    alice.finish().exits(0);
    assert_eq!(world.ctl("sync alice").ok().out(), "alice's view is at v1: 0 paths moved\n");
    world.ctl("sync carol").run().exits(3);
}

fn what_was_read_before_a_sync_is_stale_after_it(world: &World) {
    let mut alice = world.agent("alice").start(
        r"cat shared.txt src/a.txt >~/read; tell read; await synced
        { cat ~/read; echo mine; } 2>~/why >shared.txt && exit 9
        echo mine 2>~/fine >>src/a.txt || exit 8
        cat shared.txt >/dev/null; echo mine >>shared.txt || exit 7
        exit 0",
    );
    alice.hears("read");
    world.agent("bob").run(BOB).exits(0);
    sync(world, "alice");
    alice.tells("synced");
    let home = alice.home();
    alice.finish().exits(0);
    let _ = home;
    assert_eq!(world.base("shared.txt"), "one\nbob\nmine\n");
    assert_eq!(world.base("src/a.txt"), "alpha\nmine\n");
}

fn an_agent_syncs_its_own_view_and_no_other(world: &World) {
    let mut alice = world.agent("alice").start(
        r"cat shared.txt >/dev/null; tell ready; await applied
        agentctl sync >~/said; cat shared.txt >~/seen
        agentctl sync bob 2>~/refused && exit 9
        tell done; await end; exit 0",
    );
    alice.hears("ready");
    world.agent("bob").run(BOB).exits(0);
    alice.tells("applied");
    alice.hears("done");
    assert_eq!(alice.kept("seen"), "one\nbob\n");
    let said = alice.kept("said");
    assert!(said.starts_with("alice's view was at v0 and is at v1 now: 8 paths moved"), "{said}");
    assert!(said.contains("modified  shared.txt      v1       bob\n"), "{said}");
    let refused = alice.kept("refused");
    assert!(refused.contains("an agent may not act for another agent"), "{refused}");
    let whose = world.ctl("sync").run();
    assert_ne!(whose.code(), 0);
    assert!(whose.err().contains("say whose view to sync"), "{whose}");
    let all = world.ctl("sync --all").ok().out();
    assert_eq!(all, "alice's view is at v1: 0 paths moved\n");
    alice.tells("end");
    alice.finish().exits(0);
    let none = world.ctl("sync --all").ok();
    assert!(none.out().is_empty() && none.err().contains("no agent runs"), "{none}");
}

fn a_sync_after_many_looks_shows_the_new_version_at_once(world: &World) {
    let mut alice = world.agent("alice").start(
        "(while :; do cat shared.txt; ls -l . made; stat shared.txt made; done) >/dev/null 2>&1 &
        tell ready; await end; kill $!; exit 0",
    );
    alice.hears("ready");
    let view = world.view("alice");
    let mut text = "one\n".to_owned();
    for round in 0..8 {
        let made = format!("made-{round}");
        let script = format!("echo {round} >>shared.txt; mkdir -p made; echo x >made/{made}");
        world.agent("bob").run(&script).exits(0);
        sync(world, "alice");
        text.extend([round.to_string(), "\n".to_owned()]);
        let look = format!("stat -c %s shared.txt; cat shared.txt; ls made | grep -cx {made}");
        let seen = world.sh(&look).dir(&view).ok().out();
        assert_eq!(seen, format!("{}\n{text}1\n", text.len()), "round {round}");
    }
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_human_s_edit_is_a_conflict_to_come_until_it_is_undone(world: &World) {
    world.configure(MANUAL);
    let mut alice = world.agent("alice").start(
        "echo alice >>src/a.txt; echo alice >>src/c.txt; tell wrote; await edited
        cat .agentfs/explain >~/why; tell explained; await end; exit 0",
    );
    alice.hears("wrote");
    let conflicts = || world.agents()[0].conflicts;
    assert_eq!(conflicts(), 0);
    world.sh("cp -p src/a.txt ../saved; echo human >>src/a.txt").ok();
    alice.tells("edited");
    alice.hears("explained");
    eventually("the watch has told it", || {
        (told(&world.log(), "conflict_comes") == 1).then_some(())
    });
    let sentence =
        "alice's change to src/a.txt will conflict: somebody has changed it in base by hand";
    assert!(alice.kept("why").contains(sentence), "{}", alice.kept("why"));
    assert_eq!(conflicts(), 1);
    assert!(world.ctl("agents").ok().out().contains("CONFLICTS"));
    assert_eq!(world.status().conflicts, 1);
    assert!(world.fs("status").ok().out().contains("1 conflict to come"));
    assert!(world.explain("src/a.txt").contains(sentence));
    assert!(!world.explain("src/c.txt").contains("conflict"));
    let diff = world.ctl("diff alice --stat").ok();
    assert!(diff.err().contains("an apply would be refused"), "{diff}");
    world.ctl("apply alice").run().exits(4);
    assert_eq!(told(&world.log(), "conflict_comes"), 1, "told once");

    world.sh("cat ../saved >src/a.txt; touch -r ../saved src/a.txt").ok();
    assert_eq!(conflicts(), 0);
    assert_eq!(told(&world.log(), "conflict_gone"), 1);
    assert!(!world.explain("").contains("will conflict"));

    world.sh("rm src/c.txt").ok();
    alice.tells("end");
    let done = alice.finish().exits(0);
    let said = done.err();
    assert!(said.contains("conflict: alice's change to src/c.txt will conflict"), "{said}");
    assert_eq!(told(&world.log(), "conflict_comes"), 2);
    world.ctl("discard alice --yes").ok();
    assert_eq!(conflicts(), 0);
    assert!(!world.explain("").contains("will conflict"));
}

fn an_apply_is_a_conflict_to_come_for_who_wrote_the_same_path(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("echo alice >>shared.txt; tell wrote; await end; cat shared.txt >~/seen; exit 1");
    alice.hears("wrote");
    world.ctl("release shared.txt --agent alice").ok();
    world.agent("bob").run(BOB).exits(0);
    let log = world.log();
    assert_eq!(told(&log, "conflict_comes"), 1, "before anybody has looked");
    let synced = sync(world, "alice");
    let moved: Vec<String> = synced.moved.iter().map(|moved| moved.path.to_string()).collect();
    assert!(!moved.contains(&"shared.txt".to_owned()), "{moved:?}");
    assert!(moved.contains(&"src/b.txt".to_owned()), "{moved:?}");
    let [conflict] = synced.conflicts.as_slice() else { panic!("{synced:?}") };
    assert_eq!(conflict.path.to_string(), "shared.txt");
    let author = conflict.author.as_ref().expect("the journal knows");
    assert_eq!((author.agent.as_str(), author.version.0), ("bob", 1));
    assert!(conflict.text.contains("bob has applied another version (v1)"), "{conflict:?}");
    alice.tells("end");
    let home = alice.home();
    alice.finish().exits(1);
    let seen = std::fs::read_to_string(home.join("seen")).expect("it looked");
    assert_eq!(seen, "one\nalice\n", "its own change stays");
}

/// Watches the whole view, and writes down what it hears.
const WATCH: &str = r"watch() {
    inotifywait -q -m -r -e modify,create,delete,close_write,attrib,moved_to --format '%e %w%f' \
        --exclude '^\./\.git' . >>~/events 2>~/watching &
    until [ -s ~/events ]; do touch README.md; sleep 0.05; done
}";

fn hear(alice: &Agent, event: &str) {
    promptly(event, || alice.kept("events").lines().any(|line| line == event).then_some(()));
}

fn watchers_in_a_view_hear_what_a_sync_brings(world: &World) {
    world.configure(MANUAL);
    let mut alice = world.agent("alice").start(&format!(
        "{WATCH}
        find . >/dev/null; watch; : >~/events; tell ready; await end; kill %1; exit 0"
    ));
    alice.hears("ready");
    world.agent("bob").run(BOB).exits(0);
    world.apply("bob");
    assert!(!alice.kept("events").contains("shared.txt"), "an apply tells nobody");
    sync(world, "alice");
    for event in [
        "MODIFY ./shared.txt",
        "CLOSE_WRITE,CLOSE ./shared.txt",
        "CREATE,ISDIR ./made",
        "DELETE ./src/b.txt",
        "DELETE ./docs/image.bin",
        "DELETE ./docs/link",
        "DELETE,ISDIR ./docs",
    ] {
        hear(&alice, event);
    }
    assert!(!alice.kept("events").contains("src/a.txt"), "{}", alice.kept("events"));
    // A directory that a watcher knows by now.
    world.agent("bob").run("echo more >made/another; exit 0").exits(0);
    world.apply("bob");
    sync(world, "alice");
    for event in ["CREATE ./made/another", "CLOSE_WRITE,CLOSE ./made/another"] {
        hear(&alice, event);
    }
    let seen = world.sh("cat shared.txt made/deep/file made/another; ls -a src; ls docs || true");
    let seen = seen.dir(world.view("alice")).ok().out();
    assert_eq!(seen, "one\nbob\nnew\nmore\n.\n..\na.txt\nc.txt\n");
    // What a person does shows at once, and is told too.
    world.sh("echo human >>src/a.txt; echo h >src/new.txt; rm src/c.txt").ok();
    for event in ["MODIFY ./src/a.txt", "CREATE ./src/new.txt", "DELETE ./src/c.txt"] {
        hear(&alice, event);
    }
    let locks = world.locks();
    assert!(locks.iter().all(|lock| lock.unit.to_string() == "README.md"), "{locks:?}");
    alice.tells("end");
    alice.finish().exits(0);
}

/// The attendant's process number.
fn attendant(world: &World) -> Option<u32> {
    let done = world.cmd(["pgrep", "-f", "^agentfs attend"]).as_root().run();
    done.out().lines().next().and_then(|pid| pid.parse().ok())
}

fn an_attendant_that_dies_is_started_again(world: &World) {
    let mut alice = world.agent("alice").start("tell ready; await end; exit 0");
    alice.hears("ready");
    let first = eventually("there is an attendant", || attendant(world));
    let fds = world.cmd(["ls", &format!("/proc/{first}/fd")]).as_root().ok().out();
    assert_eq!(fds, "0\n1\n2\n", "it has its pipes and nothing else");
    world.signal(first, "KILL");
    eventually("it is gone", || (!world.is_running(first)).then_some(()));
    world.agent("bob").run(BOB).exits(0);
    assert!(!sync(world, "alice").moved.is_empty());
    let second = eventually("there is another one", || attendant(world));
    assert_ne!(first, second);
    alice.tells("end");
    alice.finish().exits(0);
    world.fs("unmount").ok();
    promptly("it ends with its daemon", || attendant(world).is_none().then_some(()));
}

fn a_daemon_that_is_killed_while_a_view_is_walked_leaves_nothing_behind(world: &World) {
    world.cmd(["bash", "-c", "mkdir big big/{1..2000}; touch big/{1..2000}/{1..10}"]).ok();
    let alice = world.agent("alice").start("tell ready; await end; exit 0");
    eventually("the view is being walked", || attendant(world));
    let daemon = world.status().pid;
    world.signal(daemon, "KILL");
    promptly("the attendant is gone", || attendant(world).is_none().then_some(()));
    drop(alice);
}
