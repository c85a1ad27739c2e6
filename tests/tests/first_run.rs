//! The first-run bar: in any git repository `agentshim run -- CMD` alone works, and says at the
//! end what changed, what became of it and what to type next.

use agentfs_api::types::{Outcome, RunSummary};
use agentfs_tests::{Done, User, World, in_both_worlds};
use std::collections::BTreeSet;

/// The summary's lines, without the line at the start.
fn summary(done: &Done) -> Vec<String> {
    let lines = done.err().lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(lines.first().is_some_and(|line| line.starts_with("agentshim: ")), "{done}");
    lines[1..].to_vec()
}

in_both_worlds!(
    one_command_is_enough,
    it_works_where_nothing_is_set_up,
    it_works_in_a_home_that_is_private,
    a_failed_command_s_changes_wait,
    a_command_that_changes_nothing_says_so,
    agents_get_names,
    programs_get_json,
    the_log_can_be_followed,
    the_daemon_tells_of_itself_and_ends,
    the_doctor_finds_what_there_is,
);

fn one_command_is_enough(world: &World) {
    let done = world
        .cmd([
            "agentshim",
            "run",
            "--",
            "sh",
            "-c",
            "echo more >>shared.txt; echo new >made.txt; rm src/c.txt",
        ])
        .ok();
    let name = world.agents()[0].name.to_string();
    assert_eq!(
        summary(&done),
        [
            format!("{name} changed 3 paths, +2 -1"),
            "  A made.txt  +1 -0".to_owned(),
            "  M shared.txt  +1 -0".to_owned(),
            "  D src/c.txt  +0 -1".to_owned(),
            "held: made.txt, shared.txt, src/c.txt".to_owned(),
            "applied to base as v1".to_owned(),
            "  agentctl log".to_owned(),
        ],
        "{done}"
    );
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
    assert_eq!(world.base("made.txt"), "new\n");
    assert!(!world.repo().join("src/c.txt").exists());
    assert!(!done.err().contains('\x1b'), "no colours in a file: {done}");
}

fn it_works_where_nothing_is_set_up(world: &World) {
    // Neither AGENTFS_STATE_DIR nor AGENTFS_RUNTIME_DIR: the places are the usual ones.
    let bare = |argv: &[&str]| {
        let cmd =
            world.cmd(argv).without_env("AGENTFS_STATE_DIR").without_env("AGENTFS_RUNTIME_DIR");
        match world.user() {
            User::Root => cmd,
            User::Unprivileged => cmd.env("XDG_RUNTIME_DIR", world.home().join("run")),
        }
    };
    world.sh("mkdir -p ~/run").ok();
    bare(&["agentshim", "run", "--", "sh", "-c", "echo more >>../shared.txt"])
        .dir(world.repo().join("src"))
        .ok();
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
    assert!(world.home().join(".local/state/agentfs").is_dir());
    let status = bare(&["agentfs", "status"]).ok().out();
    let place = if world.user() == User::Root { "/run/agentfs/" } else { "/home/run/agentfs/" };
    assert!(status.contains(place), "{status}");
    bare(&["agentfs", "unmount"]).ok();
}

fn it_works_in_a_home_that_is_private(world: &World) {
    world.sh("chmod 0700 ~; cp -a . ~/'my repo'; mkdir -p ~/bin; echo secret >~/secret").ok();
    world.sh("printf '#!/bin/sh\\necho found\\n' >~/bin/mine; chmod 0755 ~/bin/mine").ok();
    let repo = world.home().join("my repo");
    let path = format!(
        "{}:{}/bin:/usr/bin:/bin",
        world.home().join("bin").display(),
        world.path().display()
    );
    let script = "mine; pwd; cat ~/secret 2>/dev/null; ls ..; echo more >>shared.txt";
    let done =
        world.cmd(["agentshim", "run", "--", "sh", "-c", script]).dir(&repo).env("PATH", path).ok();
    let wanted = format!("found\n{}\n", repo.display());
    assert!(done.out().starts_with(&wanted) && !done.out().contains("secret"), "{done}");
    assert_eq!(world.sh("cat ~/'my repo/shared.txt'").ok().out(), "one\nmore\n");
}

fn a_failed_command_s_changes_wait(world: &World) {
    let done = world.agent("alice").run("echo more >>shared.txt; exit 3").exits(3);
    assert_eq!(
        summary(&done),
        [
            "alice changed 1 path, +1 -0",
            "  M shared.txt  +1 -0",
            "held: shared.txt",
            "pending: the command exited with status 3",
            "  agentctl diff alice",
            "  agentctl apply alice",
        ],
        "{done}"
    );
    assert_eq!(world.base("shared.txt"), "one\n");
    // The next commands to type, typed.
    let diff = world.ctl("diff alice").ok();
    assert!(diff.out().contains("+more"), "{diff}");
    world.sh("git stash list; git apply --check -").stdin(diff.bytes()).ok();
    assert!(world.ctl("diff alice --stat").ok().out().contains("shared.txt"));
    let applied = world.ctl("apply alice").ok().out();
    assert!(applied.contains("alice's changes are part of base now, which is v1"), "{applied}");
    assert_eq!(world.base("shared.txt"), "one\nmore\n");
    assert_eq!(world.ctl("apply alice").ok().out().trim(), "alice has no changes");
}

fn a_command_that_changes_nothing_says_so(world: &World) {
    let done = world.agent("alice").run("cat shared.txt; ls -R >/dev/null").exits(0);
    assert_eq!(done.out(), "one\n");
    assert_eq!(summary(&done), ["alice changed nothing"]);
    assert!(world.locks().is_empty() && world.recover().is_empty());
}

fn agents_get_names(world: &World) {
    let mut names = BTreeSet::new();
    for _ in 0..3 {
        world.shim("run --quiet -- true").ok();
    }
    let mut alive = Vec::new();
    for _ in 0..3 {
        alive.push(world.shim("run --quiet -- sleep 1000").start());
    }
    agentfs_tests::eventually("three runs are alive", || {
        let live = world.runs().into_iter().filter(|run| run.ended.is_none());
        names = live.map(|run| run.agent.to_string()).collect();
        (names.len() == 3).then_some(())
    });
    assert!(names.iter().all(|name| name.len() <= 8), "short: {names:?}");
    for run in alive {
        run.signal("TERM");
        run.finish().exits(143);
    }
}

fn programs_get_json(world: &World) {
    let done = world.agent("alice").flags("--json").run("echo more >>shared.txt").exits(0);
    let last = done.err().lines().last().expect("it says something").to_owned();
    let summary: RunSummary = serde_json::from_str(&last).expect("the summary is JSON");
    assert_eq!(summary.agent.as_str(), "alice");
    assert_eq!(summary.changes.changes.len(), 1);
    assert!(matches!(summary.outcome, Outcome::Applied { .. }));
    for command in ["locks", "queue", "agents", "runs", "log", "diff alice", "recover", "explain"] {
        let _: serde_json::Value = world.ctl(&format!("{command} --json")).json();
        assert!(!world.ctl(command).ok().err().contains("panicked"));
    }
    let log = world.log();
    let numbers: Vec<u64> = log.iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, (1..=log.len() as u64).collect::<Vec<_>>(), "no gaps");
    assert!(log.iter().any(|entry| entry.text.contains("alice holds shared.txt")), "{log:?}");
    assert!(log.iter().any(|entry| entry.text.starts_with("base is at v1")), "{log:?}");
}

fn the_log_can_be_followed(world: &World) {
    world.agent("alice").run("true").exits(0);
    let follower = world.ctl("log -f").start();
    agentfs_tests::eventually("it shows the past", || {
        follower.stdout().contains("alice began r1").then_some(())
    });
    world.agent("bob").run("echo more >>shared.txt").exits(0);
    agentfs_tests::eventually("it shows what comes", || {
        let shown = follower.stdout();
        (shown.contains("bob began r2") && shown.contains("bob's changes to 1 path are applied"))
            .then_some(())
    });
    world.fs("unmount").ok();
    follower.finish().exits(6);
}

fn the_daemon_tells_of_itself_and_ends(world: &World) {
    let text = world.fs("mount .").ok().out();
    assert!(text.contains("serving") && text.contains("agentshim run"), "{text}");
    world.agent("alice").run("true").exits(0);
    let status = world.fs("status").ok().out();
    for wanted in
        [world.repo().display().to_string(), world.status().pid.to_string(), "views".to_owned()]
    {
        assert!(status.contains(&wanted), "{wanted:?} is missing:\n{status}");
    }
    let method = if world.user() == User::Root { "as root" } else { "rootless" };
    assert!(status.contains(method), "{status}");
    assert_eq!(world.mounted_views().len(), 1);
    let pid = world.status().pid;
    assert!(world.fs("unmount").ok().out().contains("unmounted"));
    assert_eq!(world.mounted_views(), [""; 0]);
    let gone = || (!world.is_running(pid)).then_some(());
    agentfs_tests::eventually("the daemon's process is gone", gone);
}

fn the_doctor_finds_what_there_is(world: &World) {
    let done = world.fs("doctor").ok();
    for wanted in
        ["kernel", "/dev/fuse", "mount", "passthrough", "andlock", "user namespaces", "cgroup"]
    {
        assert!(done.out().contains(wanted), "{wanted:?} is missing: {done}");
    }
    if world.user() == User::Unprivileged {
        assert!(done.out().contains("fusermount3"), "{done}");
    }
    let checks: Vec<agentfs_api::types::Check> = world.fs("doctor --json").json();
    assert!(checks.iter().all(|check| !check.finding.is_empty()));
    assert_eq!(world.mounted_views(), [""; 0], "it leaves nothing behind");
}
