//! Named processes: commands that are work units, seen through every exec and held until granted.

use agentfs_tests::{Terminal, World, eventually, in_both_worlds, promptly};
use std::time::Duration;

in_both_worlds!(
    two_agents_never_run_a_named_process_at_the_same_time,
    two_trees_of_one_run_do_not_overlap_either,
    without_rules_no_exec_is_heard,
    what_a_named_process_starts_is_not_held_again,
    a_wait_ends_with_ebusy_and_a_line,
    a_held_process_that_is_killed_leaves_the_queue,
    a_shim_that_dies_takes_its_held_processes_along,
    a_child_that_was_left_behind_keeps_the_unit,
    a_parent_that_waits_for_the_exec_is_not_held_up,
    a_shell_with_job_control_sees_no_stopped_job,
    a_shared_unit_is_held_by_many,
    a_new_daemon_is_asked_again,
    another_architecture_finds_no_way_around,
    agentctl_with_holds_a_unit_inside_a_run,
    agentctl_with_holds_a_unit_outside_of_runs,
);

/// Notes when it begins and ends, and lasts as long as it is told.
const WORK: &str = r#"#!/bin/sh
echo begin $(date +%s%N) >>"$HOME/times"
case $1 in until) until [ -e "$HOME/go-$2" ]; do sleep 0.02; done;; *) sleep "$1";; esac
echo end $(date +%s%N) >>"$HOME/times"
"#;

/// A repository with `./work`, and `agentfs.toml` as given.
fn set_up(world: &World, config: &str) {
    world.cmd(["tee", "work"]).stdin(WORK).ok();
    world.sh("chmod +x work").ok();
    world.configure(config);
}

/// The rule that makes `./work` a unit.
const TEST: &str = "[process.test]\nmatch = ['work']\n";

/// When each `./work` of an agent began and ended, in nanoseconds.
fn times(text: &str) -> Vec<(u64, u64)> {
    let mut open = None;
    let mut all = Vec::new();
    for line in text.lines() {
        let (what, at) = line.split_once(' ').expect("a time");
        let at = at.parse().expect("a number");
        match (what, open) {
            ("begin", None) => open = Some(at),
            ("end", Some(begun)) => {
                all.push((begun, at));
                open = None;
            }
            _ => panic!("they overlap: {text}"),
        }
    }
    assert!(open.is_none(), "one never ended: {text}");
    all
}

/// Waits until the agent, which has told that it is up, holds something.
fn holds(world: &World, agent: &mut agentfs_tests::Agent<'_>) {
    agent.hears("up");
    eventually("it is held", || (!holders(world).is_empty()).then_some(()));
}

fn holders(world: &World) -> Vec<(String, String)> {
    let all = world.locks().into_iter();
    all.map(|lock| (lock.unit.to_string(), lock.agent.to_string())).collect()
}

fn two_agents_never_run_a_named_process_at_the_same_time(world: &World) {
    set_up(world, TEST);
    let script =
        "tell ready; await go; for n in 1 2 3; do ./work 0.2 || exit 9; done; tell done; await end";
    let mut alice = world.agent("alice").start(script);
    let mut bob = world.agent("bob").start(script);
    for agent in [&mut alice, &mut bob] {
        agent.hears("ready");
        agent.tells("go");
    }
    let mut all = Vec::new();
    for agent in [&mut alice, &mut bob] {
        agent.hears("done");
        let mine = times(&agent.kept("times"));
        assert_eq!(mine.len(), 3);
        all.extend(mine);
    }
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{all:?}");
    promptly("nothing is held", || world.locks().is_empty().then_some(()));
    let log = world.log();
    let waited = log.iter().any(|entry| entry.text.contains("got proc:test (work 0.2) after"));
    assert!(waited, "{:?}", log.iter().map(|entry| &entry.text).collect::<Vec<_>>());
    for agent in [alice, bob] {
        agent.tells("end");
        agent.finish().exits(0);
    }
}

fn two_trees_of_one_run_do_not_overlap_either(world: &World) {
    set_up(world, &format!("{TEST}wait = '30s'\n"));
    let mut alice = world
        .agent("alice")
        .start("./work 0.3 & ./work 0.3 & ./work 0.3 & wait; tell done; await end");
    alice.hears("done");
    assert_eq!(times(&alice.kept("times")).len(), 3);
    alice.tells("end");
    alice.finish().exits(0);

    set_up(world, &format!("{TEST}wait = '500ms'\n"));
    let mut alice = world.agent("alice").start(
        "rm ~/times; ./work until first & until grep -qs begin ~/times; do sleep 0.02; done
         ./work 0; echo $? >~/status; tell refused; await first; wait; exit 0",
    );
    alice.hears("refused");
    assert_eq!(alice.kept("status").trim(), "126");
    let said = alice.stderr();
    assert!(
        said.contains("agentfs: alice was refused proc:test with EBUSY after waiting 5")
            && said.contains(": `work until first` of the same run has held it for "),
        "{said}"
    );
    alice.tells("first");
    alice.finish().exits(0);
}

fn without_rules_no_exec_is_heard(world: &World) {
    let filters = |world: &World| {
        let done =
            world.agent("alice").run("sed -n 's/^Seccomp_filters:[^0-9]*//p' /proc/self/status");
        done.exits(0).out().trim().parse::<u32>().expect("a number")
    };
    let without = filters(world);
    set_up(world, TEST);
    assert_eq!(filters(world), without + 1);
}

fn what_a_named_process_starts_is_not_held_again(world: &World) {
    set_up(world, &format!("{TEST}wait = '1s'\n[process.build]\nmatch = ['make']\nwait = '1s'\n"));
    world.cmd(["tee", "Makefile"]).stdin("all:\n\t$(MAKE) inner\n\nsame:\n\tsh -c 'env X=1 ./work until end'\n\ninner:\n\tsh -c './work until end'\n").ok();
    let mut alice =
        world.agent("alice").start("tell up; make all && tell made; await over; exit 0");
    alice.hears("up");
    eventually("both are held", || {
        let both = [("proc:build", "alice"), ("proc:test", "alice")];
        let both = both.map(|(unit, agent)| (unit.to_owned(), agent.to_owned()));
        (holders(world) == both).then_some(())
    });
    let busy = world.agent("bob").run("make same");
    assert!(busy.err().contains("bob was refused proc:build (make same)"), "{busy}");
    alice.tells("end");
    alice.hears("made");
    promptly("both are free", || holders(world).is_empty().then_some(()));
    alice.tells("over");
    alice.finish().exits(0);
}

fn a_wait_ends_with_ebusy_and_a_line(world: &World) {
    set_up(world, &format!("{TEST}wait = '1s'\n"));
    let mut alice = world.agent("alice").start("tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let bob = world.agent("bob").run("./work 0; exit $?").exits(126);
    assert!(
        bob.err().contains("agentfs: bob was refused proc:test (work 0) with EBUSY after waiting 1s: alice (r1) has held proc:test for "),
        "{bob}"
    );
    assert!(bob.err().to_lowercase().contains("busy"), "the shell says it too: {bob}");
    let why = world.explain("");
    assert!(why.contains("bob was refused proc:test"), "{why}");
    // The command of the run itself.
    let direct = world.agent("bob").cmd(&["./work", "0"]).run().exits(126);
    assert!(direct.err().contains("./work: is a named process that another has"), "{direct}");
    assert!(alice.stderr().is_empty() || !alice.stderr().contains("refused"));
    alice.tells("end");
    alice.finish().exits(0);
    world.agent("bob").run("./work 0").exits(0);
}

fn a_held_process_that_is_killed_leaves_the_queue(world: &World) {
    set_up(world, &format!("{TEST}wait = '5m'\n"));
    let mut alice = world.agent("alice").start("tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let python = "import subprocess, os
home = os.environ['HOME']
child = subprocess.Popen(['./work', '0'])
print(child.pid, file=open(home + '/pid', 'w'))
print(child.wait(), file=open(home + '/status', 'w'))";
    let shell = "./work 0 & echo $! >~/pid; wait $!; echo $? >~/status";
    let python = format!("python3 -c \"{python}\"");
    for (signal, start, status) in
        [("KILL", shell, "137"), ("TERM", shell, "143"), ("TERM", &python, "-15")]
    {
        let mut bob = world.agent("bob").start(&format!(
            "({start}; tell gone) & await kill; kill -{signal} $(cat ~/pid); await end; exit 1"
        ));
        let waiting = bob.queues();
        assert_eq!(waiting.cause, "work 0");
        // Long enough for one that is stopped after its exec to be so.
        std::thread::sleep(Duration::from_millis(400));
        bob.tells("kill");
        promptly("the killed process is gone", || bob.has_told("gone").then_some(()));
        assert_eq!(bob.kept("status").trim(), status, "SIG{signal} {start}");
        promptly("its claim is gone", || world.queue().is_empty().then_some(()));
        bob.tells("end");
        bob.finish().exits(1);
        for file in ["told-gone", "go-kill", "go-end"] {
            let home = world.home_of("bob").expect("it has run");
            std::fs::remove_file(home.join(file)).expect("it was there");
        }
    }
    assert_eq!(holders(world).len(), 1, "the holder has not noticed");
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_shim_that_dies_takes_its_held_processes_along(world: &World) {
    set_up(world, &format!("{TEST}wait = '5m'\n"));
    let mut alice = world.agent("alice").start("tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let mut bob = world.agent("bob").start("./work marked-as-bobs; exit 0");
    bob.queues();
    bob.signal("KILL");
    bob.finish().exits(137);
    promptly("its claim is gone", || world.queue().is_empty().then_some(()));
    eventually("it is gone", || (!world.has_process("marked-as-bobs")).then_some(()));
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_child_that_was_left_behind_keeps_the_unit(world: &World) {
    set_up(world, "[process.test]\nmatch = ['serve']\nwait = '300ms'\n");
    world
        .cmd(["tee", "serve"])
        .stdin("#!/usr/bin/python3\nimport os, sys, time\nif os.fork(): sys.exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nwhile not os.path.exists(os.environ['HOME'] + '/go-' + sys.argv[1]): time.sleep(0.01)\n")
        .ok();
    world.sh("chmod +x serve").ok();
    let mut alice = world.agent("alice").start("./serve stop && tell served; await end; exit 0");
    alice.hears("served");
    for _ in 0..3 {
        let busy = world.agent("bob").run("./serve x");
        assert!(busy.err().contains("alice (r1) has held proc:test for"), "{busy}");
    }
    alice.tells("stop");
    promptly("it is free", || holders(world).is_empty().then_some(()));
    alice.tells("end");
    alice.finish().exits(0);
}

/// Starts `./work`, says how long that took, does something else, and says how it ended.
const PARENT: &str = r"
import subprocess, time, sys
begun = time.monotonic()
child = subprocess.Popen(['./work', '0'])
took = time.monotonic() - begun
open(sys.argv[1], 'w').write('%f %d' % (took, child.wait()))
";

fn a_parent_that_waits_for_the_exec_is_not_held_up(world: &World) {
    set_up(world, &format!("{TEST}wait = '20s'\n"));
    world.cmd(["tee", "parent.py"]).stdin(PARENT).ok();
    let mut alice = world.agent("alice").start("tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let mut bob =
        world.agent("bob").start("python3 parent.py ~/took && tell done; await end; exit 0");
    bob.queues();
    std::thread::sleep(Duration::from_millis(1500));
    let stopped = "grep -l '^State:.T' /proc/[0-9]*/status | wc -l";
    assert_ne!(world.cmd(["sh", "-c", stopped]).ok().out(), "0\n", "it is stopped");
    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("done");
    let text = bob.kept("took");
    let (took, status) = text.split_once(' ').expect("two numbers");
    assert_eq!(status, "0");
    assert!(took.parse::<f64>().expect("seconds") < 1.0, "Popen took {took} s");
    assert_eq!(times(&bob.kept("times")).len(), 1);
    bob.tells("end");
    bob.finish().exits(0);

    // One that has been let go already can't be refused: it is ended.
    set_up(world, &format!("{TEST}wait = '1s'\n"));
    let mut alice = world.agent("alice").start("rm ~/go-end; tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let mut carol =
        world.agent("carol").start("python3 parent.py ~/took; tell done; await end; exit 0");
    carol.hears("done");
    let text = carol.kept("took");
    assert!(text.ends_with(" -14"), "SIGALRM: {text}");
    assert!(
        carol.stderr().contains("agentfs: carol was refused proc:test (work 0)"),
        "{}",
        carol.stderr()
    );
    assert!(!world.home_of("carol").expect("it has run").join("times").exists(), "it did nothing");
    carol.tells("end");
    carol.finish().exits(0);
    alice.tells("end");
    alice.finish().exits(0);
}

fn a_shell_with_job_control_sees_no_stopped_job(world: &World) {
    set_up(world, &format!("{TEST}wait = '1m'\n"));
    let mut alice = world.agent("alice").start("tell up; ./work until end; exit 0");
    holds(world, &mut alice);
    let bash = world.agent("bob").cmd(&["bash", "--norc", "--noprofile", "-i"]);
    let mut bob = Terminal::start(bash.env("PS1", "prompt> "), 24, 80);
    bob.shows("prompt> ");
    bob.types("./work 0; echo status=$?\r");
    eventually("it waits", || (world.queue().len() == 1).then_some(()));
    std::thread::sleep(Duration::from_millis(600));
    assert!(!bob.screen().contains("Stopped"), "{}", bob.screen());
    bob.types("\x03");
    promptly("its claim is gone", || world.queue().is_empty().then_some(()));
    bob.types("./work 0; echo sta''tus=$?\r");
    eventually("it waits again", || (world.queue().len() == 1).then_some(()));
    alice.tells("end");
    alice.finish().exits(0);
    bob.shows("status=0");
    assert!(!bob.screen().contains("Stopped"), "{}", bob.screen());
    bob.types("exit 3\r");
    bob.finish().exits(3);
}

fn a_shared_unit_is_held_by_many(world: &World) {
    set_up(world, &format!("{TEST}mode = 'shared'\nwait = '1s'\n"));
    let script = "tell up; ./work until end & ./work until end & await over; wait; exit 0";
    let mut agents = ["alice", "bob"].map(|name| world.agent(name).start(script));
    for agent in &mut agents {
        agent.hears("up");
    }
    eventually("both hold it", || (holders(world).len() == 2).then_some(()));
    let both = |name: &str| {
        let home = world.home_of(name).expect("it runs");
        let text = std::fs::read_to_string(home.join("times")).unwrap_or_default();
        (text.matches("begin").count() == 2).then_some(())
    };
    eventually("two of each run", || both("alice").and(both("bob")));
    world.ctl("claim proc:test --agent alice --wait 100ms").run().exits(5);
    for agent in agents {
        agent.tells("end");
        agent.tells("over");
        agent.finish().exits(0);
    }
}

fn a_new_daemon_is_asked_again(world: &World) {
    set_up(world, &format!("{TEST}wait = '1m'\n"));
    let mut alice = world
        .agent("alice")
        .start("tell up; cd /tmp; $OLDPWD/work until end; tell worked; await over; exit 0");
    holds(world, &mut alice);
    let mut bob = world
        .agent("bob")
        .start("cp work /tmp; cd /tmp; ./work 0; echo $? >~/status; tell done; await over; exit 0");
    bob.queues();
    world.signal(world.status().pid, "KILL");
    let waiting = bob.queues();
    assert_eq!(waiting.blockers[0].agent.as_str(), "alice", "its lease is kept");
    alice.tells("end");
    bob.hears("done");
    assert_eq!(bob.kept("status").trim(), "0");
    promptly("nothing is held", || holders(world).is_empty().then_some(()));
    for agent in [alice, bob] {
        agent.tells("over");
        agent.finish().exits(0);
    }
}

/// An exec by `int 0x80` is one of another architecture, whose numbers the filter does not know.
fn another_architecture_finds_no_way_around(world: &World) {
    set_up(world, TEST);
    // mov eax, 11; int 0x80; ret
    let script = "
import ctypes, mmap, sys
code = bytes.fromhex(sys.argv[1])
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_int)(at)())
";
    let run = |code: &str| world.agent("alice").cmd(&["python3", "-c", script, code]).run();
    run("b80b000000cd80c3").exits(128 + 31);
    // mov eax, 0x40000208 (x32 execve); syscall; ret: -ENOSYS
    assert_eq!(run("b8080200400f05c3").exits(0).out().trim(), "-38");
}

fn agentctl_with_holds_a_unit_inside_a_run(world: &World) {
    set_up(world, "");
    let mut alice = world.agent("alice").start(
        "tell up; agentctl with proc:test -- agentctl with proc:test -- ./work until end; tell worked
         agentctl with proc:test -- ./work 0.3 & agentctl with proc:test -- ./work 0.3; wait
         agentctl with proc:x -- sh -c 'exit 7'; echo $? >~/status
         agentctl with proc:x -- sh -c 'kill -9 $$'; echo $? >>~/status
         agentctl with proc:x -- ./nothing; echo $? >>~/status
         agentctl with proc:x -- sh -c 'trap \"exit 5\" TERM; tell() { echo >~/told-$1; }; tell trap; while :; do sleep 0.02; done' & with=$!
         until [ -e ~/told-trap ]; do sleep 0.02; done; kill -TERM $with; wait $with; echo $? >>~/status
         tell done; await over; exit 0",
    );
    holds(world, &mut alice);
    let busy =
        world.agent("bob").run("agentctl with proc:test --wait 500ms -- echo never; exit $?");
    let busy = busy.exits(5);
    assert!(busy.out().is_empty(), "{busy}");
    assert!(busy.err().contains("bob was refused proc:test (echo never) with EBUSY"), "{busy}");
    alice.tells("end");
    alice.hears("done");
    assert_eq!(alice.kept("status"), "7\n137\n127\n5\n");
    assert_eq!(times(&alice.kept("times")).len(), 3, "one after the other");
    assert!(holders(world).is_empty());
    alice.tells("over");
    alice.finish().exits(0);
}

fn agentctl_with_holds_a_unit_outside_of_runs(world: &World) {
    set_up(world, &format!("{TEST}wait = '500ms'\n"));
    world.agent("alice").run("true").exits(0);
    let with = world.cmd(["agentctl", "with", "proc:test", "--", "sleep", "60"]).start();
    eventually("it is held", || (!holders(world).is_empty()).then_some(()));
    let busy = world.agent("alice").run("./work 0; exit $?").exits(126);
    assert!(busy.err().contains("has held proc:test"), "{busy}");
    let again = world.cmd(["agentctl", "with", "proc:test", "--wait", "100ms", "--", "true"]).run();
    let again = again.exits(5);
    assert!(again.err().contains("held by another `agentctl with`"), "{again}");
    with.signal("TERM");
    with.finish().exits(143);
    assert!(holders(world).is_empty());
    world.agent("alice").run("./work 0").exits(0);
}
