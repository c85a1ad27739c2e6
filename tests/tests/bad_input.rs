//! Bad input everywhere gets one clear sentence, and an exit code that tells programs the same.

use agentfs_tests::{World, eventually, in_both_worlds};

in_both_worlds!(
    what_is_no_workspace_is_refused,
    a_directory_without_git_is_served_when_it_is_named,
    workspaces_do_not_overlap,
    a_second_daemon_is_refused,
    a_mountpoint_that_can_t_be_used_is_refused,
    a_stale_mountpoint_is_taken_over,
    agents_and_units_that_are_none_are_refused,
    an_agent_runs_once_at_a_time,
    a_configuration_with_a_mistake_is_refused,
    a_wrong_command_line_is_a_usage_error,
    json_of_a_refusal_is_an_answer_too,
);

fn what_is_no_workspace_is_refused(world: &World) {
    world.sh("mkdir ../empty; echo x >../file").ok();
    let outside = world.path().join("empty");
    world.fs("mount ../file").run().refuses(6, &["file is not a directory", "repository"]);
    world.fs("mount ../missing").run().refuses(6, &["missing", "No such file"]);
    world
        .ctl("locks")
        .dir(&outside)
        .run()
        .refuses(6, &["empty is in no git repository", "agentfs mount"]);
    world.shim("run -- true").dir(&outside).run().refuses(125, &["is in no git repository"]);
    world.fs("status").dir(&outside).run().refuses(6, &["is in no git repository"]);
    world.ctl("locks").run().refuses(6, &["no agent was ever run in", "agentshim run"]);
    world.fs("status").run().refuses(6, &["no daemon serves", "agentfs mount"]);
    world.fs("unmount").run().refuses(6, &["no daemon serves"]);
    world.ctl("locks --workspace ../missing").run().refuses(6, &["missing"]);
}

fn a_directory_without_git_is_served_when_it_is_named(world: &World) {
    let plain = world.path().join("home/plain");
    world.sh("mkdir ~/plain && echo text >~/plain/file").ok();
    world.fs("mount .").dir(&plain).ok();
    let run = ["agentshim", "run", "--", "sh", "-c", "echo more >>file"];
    world.cmd(run).dir(&plain).ok();
    assert_eq!(world.sh("cat ~/plain/file").ok().out(), "text\nmore\n");
}

fn workspaces_do_not_overlap(world: &World) {
    world.sh("git init -q src/inner").ok();
    world.fs("mount .").ok();
    world
        .fs("mount src/inner")
        .run()
        .refuses(1, &["src/inner lies inside", "which is served", "agentfs unmount"]);
    world.fs("unmount").ok();
    world.fs("mount src/inner").ok();
    world
        .fs("mount .")
        .run()
        .refuses(1, &["src/inner is served and lies inside", "agentfs unmount"]);
}

fn a_second_daemon_is_refused(world: &World) {
    let first = world.fs("mount .").ok();
    assert!(first.out().contains("agentshim run"), "it says what next: {first}");
    let pid = world.status().pid.to_string();
    world.fs("mount .").run().refuses(1, &["is served already", &pid, "agentfs status"]);
    world.fs("mount . --foreground").run().refuses(1, &["is served already"]);
    assert_eq!(world.status().pid.to_string(), pid, "the first one serves on");
}

fn a_mountpoint_that_can_t_be_used_is_refused(world: &World) {
    world.sh("mkdir -p ../busy/alice && echo x >../busy/alice/file && echo x >../plain").ok();
    world.fs("mount . ../busy").run().refuses(1, &["busy can't be the mountpoint", "not empty"]);
    world
        .fs("mount . ../plain")
        .run()
        .refuses(1, &["plain can't be the mountpoint", "not a directory"]);
    world.fs("mount . src").run().refuses(1, &["can't be the mountpoint", "outside the workspace"]);
    world.fs("mount . ..").run().refuses(1, &["can't be the mountpoint", "outside the workspace"]);
    assert!(!world.runtime_dir().join("operator.sock").exists());
    world.fs("mount . ../views").ok();
    world.agent("alice").run("pwd").exits(0);
    assert_eq!(world.view("alice"), world.path().join("views/alice"));
}

fn a_stale_mountpoint_is_taken_over(world: &World) {
    world.fs("mount . ../views").ok();
    let mut alice = world.agent("alice").start("tell ready; await never");
    alice.hears("ready");
    // Stopped, so that the shim is gone before it can see to a new daemon.
    let daemon = world.status().pid;
    world.signal(daemon, "STOP");
    alice.signal("KILL");
    alice.finish().exits(137);
    world.signal(daemon, "KILL");
    eventually("the view is stale", || {
        // A name that the kernel has not cached.
        let done = world.cmd(["ls", "../views/alice/unseen"]).run();
        done.err().contains("Transport endpoint is not connected").then_some(())
    });
    world.fs("mount . ../views").ok();
    world.agent("alice").run("true").exits(0);
}

fn agents_and_units_that_are_none_are_refused(world: &World) {
    world.agent("alice").run("true").exits(0);
    for verb in ["diff", "apply", "discard --yes"] {
        world
            .ctl(&format!("{verb} nobody"))
            .run()
            .refuses(3, &["no agent is called nobody", "alice"]);
    }
    world.ctl("explain --agent nobody").run().refuses(3, &["no agent is called nobody"]);
    world.ctl("release src/a.txt").run().refuses(3, &["nobody holds src/a.txt"]);
    world
        .ctl("release src/a.txt --agent alice")
        .run()
        .refuses(3, &["alice does not hold src/a.txt"]);
    for unit in ["proc:", "proc:a/b", "res:a:b"] {
        world
            .ctl(&format!("claim {unit} --agent alice"))
            .run()
            .refuses(2, &[unit, "is no work unit"]);
    }
    world.cmd(["agentctl", "claim", ""]).run().refuses(2, &["a work unit is missing"]);
    for path in ["/etc/passwd", "../other", "src/../../x"] {
        world.ctl(&format!("explain {path}")).run().refuses(2, &[path, "is outside the workspace"]);
        world
            .ctl(&format!("claim {path} --agent alice"))
            .run()
            .refuses(2, &[path, "is outside the workspace"]);
        world
            .shim(&format!("run --claim {path} -- true"))
            .run()
            .refuses(125, &[path, "is outside the workspace"]);
    }
    world.shim("run --claim proc:a/b -- true").run().refuses(125, &["is no work unit"]);
    world.shim("run --agent operator -- true").run().refuses(125, &["operator"]);
}

fn an_agent_runs_once_at_a_time(world: &World) {
    let mut alice = world.agent("alice").start("tell ready; await end");
    alice.hears("ready");
    world
        .agent("alice")
        .cmd(&["true"])
        .run()
        .refuses(125, &["alice is already running (r1)", "--agent"]);
    world.ctl("discard alice --yes").run().refuses(4, &["alice is running"]);
    world.fs("unmount").run().refuses(1, &["alice (r1) is still running", "--force"]);
    alice.tells("end");
    alice.finish().exits(0);
    world.fs("unmount").ok();
}

fn a_configuration_with_a_mistake_is_refused(world: &World) {
    world.configure("wait = \"5s\"\nunclamed = \"deny\"\n");
    let words = ["agentfs.toml line 2", "unknown key \"unclamed\"", "did you mean \"unclaimed\"?"];
    world.fs("mount .").run().refuses(1, &words);
    world.agent("alice").cmd(&["true"]).run().refuses(125, &words);
    world.configure("wait = \"soon\"\n");
    world.fs("mount .").run().refuses(1, &["agentfs.toml line 1", "soon", "length of time"]);
    world.configure("publish = \"sometimes\"\n");
    world.fs("mount .").run().refuses(1, &["agentfs.toml line 1", "sometimes", "on-success"]);
    world.configure("wait = \n");
    world.fs("mount .").run().refuses(1, &["agentfs.toml line 1"]);

    world.configure("");
    world.agent("alice").run("true").exits(0);
    world.configure("unclamed = \"deny\"\n");
    world
        .agent("alice")
        .cmd(&["true"])
        .run()
        .refuses(125, &["agentfs.toml line 1", "did you mean"]);
    world.configure("");
    world.agent("alice").run("true").exits(0);
}

fn a_wrong_command_line_is_a_usage_error(world: &World) {
    let lines = [
        ("agentctl", "frobnicate", "unrecognized subcommand"),
        ("agentctl", "diff", "AGENT"),
        ("agentctl", "diff Al!ce", "is no agent name"),
        ("agentctl", "claim x --wait soon", "is no length of time"),
        ("agentfs", "mont", "mount"),
        ("agentshim", "run", "CMD"),
        ("agentshim", "run --agent A!B -- true", "is no agent name"),
        ("agentshim", "run --wait soon -- true", "is no length of time"),
        ("agentshim", "run --unclaimed maybe -- true", "claim, deny or ask"),
    ];
    for (program, arguments, words) in lines {
        let code = if program == "agentshim" { 125 } else { 2 };
        let done = world.cmd([program].into_iter().chain(arguments.split(' '))).run().exits(code);
        assert!(done.err().contains(words), "{words:?} is missing: {done}");
        assert!(done.out().is_empty() && !done.err().contains("panicked"), "{done}");
    }
    for program in ["agentctl", "agentfs", "agentshim"] {
        assert!(world.cmd([program, "--help"]).ok().out().contains("Usage: "));
        assert!(world.cmd([program, "--version"]).ok().out().starts_with(program));
    }
}

fn json_of_a_refusal_is_an_answer_too(world: &World) {
    world.agent("alice").run("true").exits(0);
    let refused = world.ctl("diff nobody --json").run().exits(3);
    let body: agentfs_api::types::ErrorBody = refused.json();
    assert_eq!(body.code, agentfs_api::types::ErrorCode::NotFound);
    assert!(refused.err().starts_with("agentctl: no agent is called nobody"), "{refused}");
}
