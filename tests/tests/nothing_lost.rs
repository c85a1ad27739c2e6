//! G4 and G9 in what is easily overlooked: work that is written while it is applied, that is no
//! file, that somebody's new rules would hide, or whose path is very long; and what was applied,
//! discarded or queued once, which stays so.

use agentfs_api::types::{AgentState, Outcome};
use agentfs_tests::{World, eventually, in_both_worlds};
use std::fs;

in_both_worlds!(
    what_is_written_while_it_is_applied_is_never_lost,
    what_children_write_until_they_are_killed_is_published,
    what_is_open_when_the_run_ends_is_kept,
    a_file_that_was_rewritten_with_the_same_bytes_is_no_pending_change,
    a_new_ignore_rule_hides_no_work_of_others,
    directories_alone_are_work_too,
    a_run_that_can_t_begin_takes_nothing_from_the_one_before,
    discarded_work_stays_gone_when_the_daemon_is_killed_while_it_clears,
    paths_longer_than_the_kernel_takes_keep_nobody_from_working,
    work_below_paths_longer_than_the_kernel_takes_can_be_discarded,
    work_below_paths_longer_than_the_kernel_takes_can_be_applied,
    the_end_of_a_child_costs_no_place_in_the_queue,
    an_author_sees_its_own_work_after_it_was_applied,
    an_unmount_after_a_short_run_always_succeeds,
);

/// Kills the daemon, and waits until it is gone.
fn kill_the_daemon(world: &World) {
    let pid = world.status().pid;
    world.signal(pid, "KILL");
    eventually("the daemon is dead", || {
        let alive = world.cmd(["kill", "-0", &pid.to_string()]).as_root().run();
        (alive.code() != 0).then_some(())
    });
}

fn what_is_written_while_it_is_applied_is_never_lost(world: &World) {
    let mut alice = world.agent("alice").start(
        r#"i=0; tell begun
        until [ -e "$HOME/go-end" ]; do
            i=$((i + 1))
            echo $i >latest.txt || echo "latest.txt $i" >>~/refused
            echo $i >>every.txt || echo "every.txt $i" >>~/refused
            { echo $i >saved.tmp && mv saved.tmp saved.txt; } || echo "saved.txt $i" >>~/refused
            for file in latest.txt every.txt saved.txt; do
                read=$(tail -n 1 $file)
                [ "$read" = $i ] || echo "$file is read as $read at $i" >>~/refused
            done
        done
        echo $i >~/last; exit 1"#,
    );
    alice.hears("begun");
    let mut applied = 0;
    for _ in 0..400 {
        let done = world.ctl("apply --json alice").run();
        match done.code() {
            0 if matches!(
                done.json::<agentfs_api::types::Settled>().outcome,
                Outcome::Applied { .. }
            ) =>
            {
                applied += 1;
            }
            0 => {}
            _ => assert!(done.err().contains("open for writing"), "{done}"),
        }
        if applied == 20 {
            break;
        }
    }
    alice.tells("end");
    let home = alice.home();
    alice.finish().exits(1);
    assert_eq!(applied, 20, "applies between its writes");
    let refused = fs::read_to_string(home.join("refused")).unwrap_or_default();
    assert_eq!(refused, "", "what it writes alone is never refused, and is what it reads");

    let last = fs::read_to_string(home.join("last")).expect("it has counted");
    let count: u32 = last.trim().parse().expect("it is a number");
    let every: String = (1..=count).map(|i| format!("{i}\n")).collect();
    assert_eq!(world.seen_by("alice", "latest.txt"), last);
    assert_eq!(world.seen_by("alice", "saved.txt"), last);
    assert_eq!(world.seen_by("alice", "every.txt"), every);
    if !world.recover().is_empty() {
        world.apply("alice");
    }
    assert_eq!(world.base("latest.txt"), last);
    assert_eq!(world.base("saved.txt"), last);
    assert_eq!(world.base("every.txt"), every);
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

fn what_children_write_until_they_are_killed_is_published(world: &World) {
    let alice = world.agent("alice").run(
        r#"trap '' HUP TERM
        exec 3>>src/a.txt
        write() { i=0; while :; do i=$((i + 1)); "$@" $i && echo $i >~/$1; done; }
        held() { echo $1 >&3; }
        opened() { echo $1 >>src/b.txt; }
        made() { mkdir -p d$1 && echo $1 >d$1/made; }
        write held & write opened & write made &
        until [ -s ~/held ] && [ -s ~/opened ] && [ -s ~/made ]; do sleep 0.02; done
        exit 0"#,
    );
    let home = world.home_of("alice").expect("she has a home");
    let last = |kind: &str| -> usize {
        let text = fs::read_to_string(home.join(kind)).expect("it has counted");
        // It may have been killed between making the file empty and writing to it.
        text.trim().parse().unwrap_or(1)
    };
    let alice = alice.exits(0);
    assert!(alice.err().contains("applied"), "{alice}");
    assert!(world.base("src/a.txt").lines().count() > last("held"), "one line was there before");
    assert!(world.base("src/b.txt").lines().count() > last("opened"));
    assert_eq!(world.base(&format!("d{0}/made", last("made"))), format!("{}\n", last("made")));
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

fn what_is_open_when_the_run_ends_is_kept(world: &World) {
    // With changes of its own that could be published, and without.
    for (turn, script) in ["true", "echo alice >new.txt"].into_iter().enumerate() {
        let mut alice =
            world.agent("alice").start(&format!("{script}; tell done{turn}; await end{turn}"));
        alice.hears(&format!("done{turn}"));
        let file = |name: &str| world.home().join(format!("{name}{turn}"));
        let writer = world
            .sh(r#"exec 3<>"$VIEW/src/a.txt"; : >"$OPENED"
                until [ -e "$GO" ]; do sleep 0.02; done; echo "late$TURN" >&3"#)
            .env("VIEW", world.view("alice").display().to_string())
            .env("OPENED", file("opened").display().to_string())
            .env("GO", file("go").display().to_string())
            .env("TURN", turn.to_string())
            .start();
        eventually("it is open", || file("opened").exists().then_some(()));
        alice.tells(&format!("end{turn}"));
        let alice = alice.finish().exits(0);
        let said = "pending: src/a.txt was still open for writing when the run ended";
        assert!(alice.err().contains(said), "{alice}");
        fs::write(file("go"), "").expect("it can be told");
        writer.finish().exits(0);
        assert_eq!(world.seen_by("alice", "src/a.txt"), format!("late{turn}\n"));
        world.apply("alice");
        assert_eq!(world.base("src/a.txt"), format!("late{turn}\n"));
        assert_eq!(world.repo().join("new.txt").exists(), turn == 1);
        assert!(world.recover().is_empty() && world.locks().is_empty());
    }
}

fn a_file_that_was_rewritten_with_the_same_bytes_is_no_pending_change(world: &World) {
    let someone = |script| world.cmd(["agentshim", "run", "--", "sh", "-c", script]);
    someone("printf 'one\\n' >shared.txt; echo real >src/a.txt").ok();
    assert_eq!(world.base("src/a.txt"), "real\n");
    let [agent] = world.agents().try_into().expect("one agent");
    assert_eq!((agent.state, agent.changed, agent.leases), (AgentState::Idle, 0, 0), "{agent:?}");

    world.agent("bob").run("echo bob >shared.txt").exits(0);
    assert_eq!(world.base("shared.txt"), "bob\n");
    let next = someone("cat shared.txt; echo again >src/a.txt").ok();
    assert_eq!(next.out(), "bob\n", "a later change of base is seen");
    let runs = world.runs();
    let mine = runs.iter().filter(|run| run.agent == agent.name).count();
    assert_eq!(mine, 2, "its name is free for the next one: {runs:?}");
    assert_eq!(world.base("src/a.txt"), "again\n", "later sets apply: {next}");
    assert_eq!(world.base("shared.txt"), "bob\n");
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

fn a_new_ignore_rule_hides_no_work_of_others(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("mkdir out; echo work >out.txt; echo deep >out/deep; tell wrote; await end; exit 1");
    alice.hears("wrote");
    world.agent("bob").run("printf 'out.txt\\nout/\\n' >>.gitignore").exits(0);
    assert!(world.base(".gitignore").contains("out.txt"));
    alice.tells("end");
    alice.finish().exits(1);
    let diff = world.ctl("diff alice").ok().out();
    assert!(diff.contains("+work") && diff.contains("+deep"), "{diff}");
    assert_eq!(world.recover().len(), 1);
    world.apply("alice");
    assert_eq!(world.base("out.txt"), "work\n");
    assert_eq!(world.base("out/deep"), "deep\n");
}

fn a_run_that_can_t_begin_takes_nothing_from_the_one_before(world: &World) {
    world.agent("alice").run("echo work >new.txt; exit 1").exits(1);
    let views = world.view("alice");
    let views = views.parent().expect("a view lies in the mountpoint");
    world.fs("unmount").ok();
    fs::create_dir_all(views).expect("nothing is mounted there any more");
    fs::write(views.join("alice"), "in the way").expect("the mountpoint can be written");
    world.agent("alice").run("true").exits(125);

    let [work] = world.recover().try_into().expect("alice's work is still listed");
    assert_eq!((work.agent.as_str(), work.changed), ("alice", 1));
    assert_eq!(world.locks().len(), 1, "and still leased");
    world.apply("alice");
    assert_eq!(world.base("new.txt"), "work\n");
}

fn directories_alone_are_work_too(world: &World) {
    let done = world.agent("alice").run("mkdir -p nd/deep; exit 1").exits(1);
    assert!(done.err().contains("pending: "), "{done}");
    let [agent] = world.agents().try_into().expect("one agent");
    assert_eq!(agent.state, AgentState::Pending, "{agent:?}");
    let [work] = world.recover().try_into().expect("it is listed");
    assert_eq!(work.agent.as_str(), "alice");
    assert!(world.ctl("recover").ok().out().contains("agentctl apply alice"));
    world.apply("alice");
    assert!(world.repo().join("nd/deep").is_dir());
    assert!(world.recover().is_empty());
}

fn discarded_work_stays_gone_when_the_daemon_is_killed_while_it_clears(world: &World) {
    world.agent("alice").run("echo alice >src/a.txt; echo more >new.txt; exit 1").exits(1);
    let delta = world.recover()[0].delta.display().to_string();
    let kept = world.home().join("kept").display().to_string();
    world.cmd(["cp", "-a", &delta, &kept]).ok();
    world.ctl("discard alice --yes").ok();

    // What the disk holds when the daemon is killed after the journal has the discard, and before
    // the files are gone: the chain of hashes looks back alone, so its end can be cut off.
    world.fs("unmount").ok();
    let cut_off = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
begin, = db.execute('SELECT max(seq) FROM events WHERE event LIKE ?', ['%delta_cleared%']).fetchone()
db.execute('DELETE FROM events WHERE seq >= ?', [begin])
db.commit()";
    let journal = world.states()[0].join("journal.db").display().to_string();
    world.cmd(["python3", "-c", cut_off, &journal]).ok();
    world.sh("cp -a \"$KEPT/.\" \"$DELTA/\"").env("KEPT", kept).env("DELTA", delta).ok();

    world.agent("bob").run("echo bob >src/a.txt").exits(0);
    assert!(world.recover().is_empty());
    let next = world.agent("alice").run("cat src/a.txt; ls new.txt").exits(2);
    assert_eq!(next.out(), "bob\n", "nothing of it is back");
    world.agent("alice").run("true").exits(0);
    assert_eq!(world.base("src/a.txt"), "bob\n");
    assert!(!world.repo().join("new.txt").exists());
}

/// Makes a file below 25 directories with names of 200 characters each.
const NESTED: &str = "long=$(printf '%200s' '' | tr ' ' d); i=0
    while [ $i -lt 25 ]; do mkdir $long && cd -P $long || exit 9; i=$((i + 1)); done
    echo deep >file; exit 1";

fn paths_longer_than_the_kernel_takes_keep_nobody_from_working(world: &World) {
    world.agent("alice").run(NESTED).exits(1);
    let [run] = world.runs().try_into().expect("one run");
    assert!(run.ended.is_some(), "{run:?}");
    assert_eq!(world.recover().len(), 1);

    kill_the_daemon(world);
    world.fs("mount").ok();
    world.agent("bob").run("echo bob >src/b.txt").exits(0);
    assert_eq!(world.base("src/b.txt"), "bob\n");
    assert_eq!(world.recover()[0].agent.as_str(), "alice");
}

fn work_below_paths_longer_than_the_kernel_takes_can_be_discarded(world: &World) {
    world.agent("alice").run(NESTED).exits(1);
    world.ctl("discard alice --yes").ok();
    assert!(world.recover().is_empty());
    world.agent("alice").run("echo alice >src/a.txt").exits(0);
    assert_eq!(world.base("src/a.txt"), "alice\n");
}

fn work_below_paths_longer_than_the_kernel_takes_can_be_applied(world: &World) {
    world.agent("alice").run(NESTED).exits(1);
    world.apply("alice");
    let found = world.cmd(["find", ".", "-name", "file"]).ok().out();
    assert_eq!(found.matches('/').count(), 26, "{found}");
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

fn the_end_of_a_child_costs_no_place_in_the_queue(world: &World) {
    let mut alice = world.agent("alice").start("echo alice >>shared.txt; tell holds; await end");
    alice.hears("holds");
    // The shell that waits has a child, which somebody else ends.
    let mut bob = world.agent("bob").start(
        "echo 'sleep $((86390 + 4)) & echo $! >~/child; echo bob >>shared.txt' >~/script
         bash ~/script & await child
         kill $(cat ~/child); tell killed; wait $!",
    );
    let before = bob.queues();
    bob.tells("child");
    bob.hears("killed");
    eventually("the child has ended", || (!world.has_process("86394")).then_some(()));
    let mut carol = world.agent("carol").start("echo carol >>shared.txt");
    carol.queues();
    let after = bob.queues();
    assert_eq!((after.claim, after.position), (before.claim, 1), "{after:?}");
    alice.tells("end");
    alice.finish().exits(0);
    bob.finish().exits(0);
    carol.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\ncarol\n");
    let log = world.log();
    let queued = |entry: &&agentfs_api::types::LogEntry| {
        entry.event["type"] == "queued" && entry.agent.as_ref().is_some_and(|a| a.as_str() == "bob")
    };
    assert_eq!(log.iter().filter(queued).count(), 1, "bob has queued once");
}

fn an_author_sees_its_own_work_after_it_was_applied(world: &World) {
    let mut alice = world.agent("alice").start(
        "tell started; await make
         mkdir d; echo mine >d/y; echo mine >top.txt; tell made; await look
         { ls d; cat d/y top.txt; } >~/seen 2>&1; tell looked; await end; exit 0",
    );
    alice.hears("started");
    world.agent("bob").run("mkdir d; echo bob >d/x").exits(0);
    alice.tells("make");
    alice.hears("made");
    world.apply("alice");
    assert_eq!(world.base("d/y"), "mine\n");
    alice.tells("look");
    alice.hears("looked");
    let seen = alice.kept("seen");
    assert!(seen.contains("y\n") && seen.ends_with("mine\nmine\n"), "{seen}");
    alice.tells("end");
    alice.finish().exits(0);
    let next = world.agent("alice").run("cat d/x d/y top.txt").exits(0);
    assert_eq!(next.out(), "bob\nmine\nmine\n");
}

fn an_unmount_after_a_short_run_always_succeeds(world: &World) {
    for turn in 1..=10 {
        world.agent("alice").run(&format!("echo {turn} >>turns")).exits(0);
        world.fs("unmount").ok();
        assert_eq!(world.mounted_views(), [""; 0], "turn {turn}");
    }
    assert_eq!(world.base("turns").lines().count(), 10);
}
