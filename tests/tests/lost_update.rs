//! G2: no lost update. An agent reads, waits, and then writes what it made of the old version:
//! the most common way in which agents that share a directory lose each other's work.

use agentfs_tests::{Done, Programs, User, World, eventually, in_both_worlds, programs};
use std::path::Path;

/// Adds a line to what it read earlier, in one write, as editors and agents do.
const WRITE_BACK: &str = r#"write_back() { { cat ~/read; echo "$1"; } >shared.txt; }"#;

in_both_worlds!(
    a_stale_write_is_refused_until_the_new_version_was_read,
    a_stale_write_is_refused_also_without_a_wait,
    a_stale_rename_over_a_file_is_refused_too,
    a_hard_link_s_old_name_is_not_brought_back,
    a_renamed_directory_replaces_no_file_of_a_human,
    a_human_s_mode_of_a_directory_stays,
    what_a_lost_note_was_about_counts_as_new_in_the_next_run,
    what_a_lost_note_was_about_counts_as_new_in_the_same_run,
    twenty_increments_by_four_agents_make_twenty,
);

fn a_stale_write_is_refused_until_the_new_version_was_read(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("cat shared.txt >/dev/null; echo alice >>shared.txt; tell holds; await end; exit 0");
    alice.hears("holds");
    let mut bob = world.agent("bob").start(&format!(
        r"{WRITE_BACK}
        cat shared.txt >~/read; tell read; await write
        write_back bob 2>~/first; echo $? >~/status
        write_back bob 2>~/second
        cat .agentfs/explain >~/why; tell refused; await again
        cat shared.txt >~/read; write_back bob && tell wrote; exit 0"
    ));
    bob.hears("read");
    bob.tells("write");
    bob.queues();
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\n");

    bob.hears("refused");
    assert_ne!(bob.kept("status").trim(), "0");
    for refusal in ["first", "second"] {
        let said = bob.kept(refusal);
        assert!(said.contains("temporarily unavailable"), "EAGAIN in words, {refusal}: {said:?}");
    }
    let sentence = "bob was refused shared.txt (open for writing) with EAGAIN: base has a newer version than the one that bob has read; read shared.txt again, then write";
    assert!(bob.kept("why").contains(sentence), "{}", bob.kept("why"));
    let why = world.explain("shared.txt");
    assert!(why.contains(sentence), "{why}");
    assert_eq!(world.base("shared.txt"), "one\nalice\n", "nothing was overwritten");

    bob.tells("again");
    bob.hears("wrote");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n", "both changes are there");
}

fn a_stale_write_is_refused_also_without_a_wait(world: &World) {
    let mut bob = world.agent("bob").start(&format!(
        r"{WRITE_BACK}
        cat shared.txt >~/read; tell read; await write
        write_back bob 2>~/first && exit 9
        cat shared.txt >~/read; write_back bob; exit $?"
    ));
    bob.hears("read");
    world.agent("alice").run("echo alice >>shared.txt").exits(0);
    bob.tells("write");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
}

fn a_stale_rename_over_a_file_is_refused_too(world: &World) {
    let mut bob = world.agent("bob").start(
        "cat shared.txt >~/read; tell read; await write
         save() { cp ~/read shared.tmp; echo bob >>shared.tmp; mv -f shared.tmp shared.txt; }
         save 2>~/first && exit 9
         cat shared.txt >~/read; save; exit $?",
    );
    bob.hears("read");
    world.agent("alice").run("echo alice >>shared.txt").exits(0);
    bob.tells("write");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
}

fn a_hard_link_s_old_name_is_not_brought_back(world: &World) {
    let mut alice =
        world.agent("alice").start("ln src/a.txt src/linked; tell linked; await end; exit 0");
    alice.hears("linked");
    let bob = world.agent("bob").start("echo newer >src/a.txt; exit 0");
    eventually("bob has written, or waits for the file that was linked", || {
        (world.base("src/a.txt") == "newer\n" || !world.queue().is_empty()).then_some(())
    });
    alice.tells("end");
    alice.finish().exits(0);
    bob.finish().exits(0);
    world.agent("alice").run("true").exits(0);
    assert_eq!(world.base("src/a.txt"), "newer\n");
    assert_eq!(world.base("src/linked"), "alpha\n");
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

fn a_renamed_directory_replaces_no_file_of_a_human(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("mkdir t; echo agent >t/f; mv t d2; tell moved; await end; exit 0");
    alice.hears("moved");
    world.sh("mkdir d2; echo human >d2/f").ok();
    alice.tells("end");
    let done = alice.finish().exits(0);
    assert!(done.err().contains("pending: ") && done.err().contains("d2/f"), "{done}");
    assert_eq!(world.base("d2/f"), "human\n");
    assert_eq!(world.seen_by("alice", "d2/f"), "agent\n", "the agent's file is kept");
    let [work] = world.recover().try_into().expect("it is pending");
    assert_eq!(work.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["d2/f"]);
}

fn a_human_s_mode_of_a_directory_stays(world: &World) {
    let mut alice = world.agent("alice").start("echo new >src/y; tell wrote; await end; exit 0");
    alice.hears("wrote");
    world.sh("chmod 0711 src").ok();
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("src/y"), "new\n");
    assert_eq!(world.tree().0[Path::new("src")].mode, 0o711);
}

/// What alice writes after her first write is let through by delegation: the journal hears of it
/// afterwards, and the disk of the journal within a second.
const LENT: &str = "echo alice >src/a.txt
    echo alice >src/b.txt; rm src/c.txt; : >>tool.sh; tell wrote; await again";

/// What the disk has of the journal after a power cut in that second: the end is not there. (The
/// chain of hashes looks back alone.)
fn lose_the_notes_of_what_was_lent(world: &World) {
    let lost = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
noted = 'SELECT min(seq) FROM events WHERE event LIKE ?'
begin, = db.execute(noted, ['%\"src/b.txt\"%']).fetchone()
gone = [event for event, in db.execute('SELECT event FROM events WHERE seq >= ?', [begin])]
for path in ['src/b.txt', 'src/c.txt', 'tool.sh']:
    assert any('\"based\"' in event and path in event for event in gone), gone
assert not any('run_' in event or '\"src/a.txt\"' in event for event in gone), gone
db.execute('DELETE FROM events WHERE seq >= ?', [begin])
db.commit()";
    let journal = world.states()[0].join("journal.db").display().to_string();
    world.cmd(["python3", "-c", lost, &journal]).ok();
}

fn kill_the_daemon(world: &World, pid: u32) {
    world.signal(pid, "KILL");
    eventually("the daemon is dead", || (!world.is_running(pid)).then_some(()));
}

/// Nothing of alice's is in base: what bob has made there since is a conflict.
fn expect_bobs_work(world: &World, alice: &Done) {
    assert!(alice.err().contains("pending: "), "{alice}");
    assert_eq!(world.base("src/a.txt"), "alpha\n", "whole or not at all");
    assert_eq!(world.base("src/b.txt") + &world.base("src/c.txt"), "bob\nbob\n");
    let [work] = world.recover().try_into().expect("alice's work is pending");
    let conflicts: Vec<_> = work.conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(conflicts, ["src/b.txt", "src/c.txt"], "and not what she only had open");
    assert_eq!(world.seen_by("alice", "src/b.txt"), "alice\nagain\n", "her work is kept");
}

const AGAIN: &str = "cat src/b.txt && echo again >>src/b.txt || exit 41
    echo again >src/c.txt || exit 42
    cat tool.sh && echo '# again' >>tool.sh || exit 43
    exit 0";

const BOB: &str = "echo bob >src/b.txt && echo bob >src/c.txt";

fn what_a_lost_note_was_about_counts_as_new_in_the_next_run(world: &World) {
    let mut alice = world.agent("alice").start(LENT);
    alice.hears("wrote");
    let daemon = world.status().pid;
    // Stopped, so that the shim is gone before it can see to a new daemon.
    world.signal(daemon, "STOP");
    alice.signal("KILL");
    alice.finish().exits(137);
    kill_the_daemon(world, daemon);
    lose_the_notes_of_what_was_lent(world);
    world.fs("mount").ok();
    world.agent("bob").run(BOB).exits(0);
    let alice = world.agent("alice").run(AGAIN).exits(0);
    expect_bobs_work(world, &alice);
}

fn what_a_lost_note_was_about_counts_as_new_in_the_same_run(world: &World) {
    let mut alice = world.agent("alice").start(&format!("{LENT}\n cd \"$PWD\"; {AGAIN}"));
    alice.hears("wrote");
    let daemon = world.status().pid;
    // Stopped, so that it sees to a new daemon only when the journal is as the power cut left it.
    alice.signal("STOP");
    kill_the_daemon(world, daemon);
    lose_the_notes_of_what_was_lent(world);
    alice.signal("CONT");
    eventually("it is taken over", || alice.stderr().contains("its view is back").then_some(()));
    world.agent("bob").run(BOB).exits(0);
    alice.tells("again");
    let alice = alice.finish().exits(0);
    expect_bobs_work(world, &alice);
}

fn twenty_increments_by_four_agents_make_twenty(world: &World) {
    world.sh("echo 0 >count").ok();
    let increment = "until n=$(cat count) && echo $((n + 1)) >count; do sleep 0.02; done";
    let worker = |name: &str| {
        let run = format!("agentshim run --quiet --agent {name} -- sh -c '{increment}' 2>&1");
        world.sh(&format!("for turn in 1 2 3 4 5; do {run}; done")).start()
    };
    let workers = ["alice", "bob", "carol", "dave"].map(worker);
    for worker in workers {
        worker.finish().exits(0);
    }
    assert_eq!(world.base("count"), "20\n", "{}", world.ctl("log").ok());
    assert!(world.recover().is_empty() && world.locks().is_empty());
}

/// What this is for: two processes on a plain directory do the same, and the first one's line is
/// gone at the end.
#[test]
fn without_agentfs_the_update_is_lost() {
    let programs: Programs = programs!();
    let world = World::new(User::Unprivileged, programs);
    let script = |name: &str| {
        format!(
            "export HOME={0}/{name}; mkdir -p $HOME; cat shared.txt >~/read; echo >~/read-done
             until [ -e ~/go ]; do sleep 0.02; done
             {WRITE_BACK}
             write_back {name}",
            world.home().display()
        )
    };
    let (alice, bob) = (world.sh(&script("alice")).start(), world.sh(&script("bob")).start());
    let file = |agent: &str, name: &str| world.home().join(agent).join(name);
    for agent in ["alice", "bob"] {
        eventually("it has read", || file(agent, "read-done").exists().then_some(()));
    }
    std::fs::write(file("alice", "go"), "").expect("it can be told");
    alice.finish().exits(0);
    std::fs::write(file("bob", "go"), "").expect("it can be told");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nbob\n", "alice's line is lost");
}
