//! G5: a run reads and writes its view, its home and its /tmp, and behaves in all else as the
//! command would without it: exit status, signals, streams, terminal.

use agentfs_tests::{Terminal, User, World, in_both_worlds};

in_both_worlds!(
    the_repository_is_at_its_own_path_and_the_rest_is_out_of_reach,
    what_it_writes_elsewhere_goes_nowhere,
    it_has_no_privileges_and_sees_no_other_process,
    programs_in_the_user_s_home_run,
    the_exit_status_passes_through,
    signals_reach_the_command,
    streams_pass_through_byte_for_byte,
    a_terminal_passes_through,
    job_control_works_inside,
    an_agent_may_ask_but_not_decide,
    nothing_of_a_run_outlives_it,
    the_sandbox_is_as_good_for_this_user,
);

fn the_repository_is_at_its_own_path_and_the_rest_is_out_of_reach(world: &World) {
    world.sh("mkdir -m 0700 ~/.ssh && echo secret >~/.ssh/id && echo private >~/notes").ok();
    world.agent("bob").run("echo bob >src/b.txt; exit 1").exits(1);
    let bobs = world.home_of("bob").expect("bob has run");
    let agents = bobs.parent().and_then(|own| own.parent()).expect("it has a parent").to_owned();
    let mountpoint = world.status().mountpoint;
    let repo = world.repo().display().to_string();
    let done = world.agent("alice").cmd(&["sh", "-c", "pwd; cat src/b.txt"]).ok();
    assert_eq!(done.out(), format!("{repo}\nbeta\n"), "alice sees base, not bob's change");

    let forbidden = [
        world.home().join(".ssh/id"),
        world.home().join("notes"),
        world.state_dir(),
        world.runtime_dir(),
        mountpoint.join("bob"),
        mountpoint.join("alice"),
        agents,
        bobs,
        "/proc/1/root/etc".into(),
        "/root/.ssh".into(),
        "/etc/shadow".into(),
    ];
    for path in forbidden {
        let look = format!("if [ -d '{0}' ]; then ls -A '{0}'; else cat '{0}'; fi", path.display());
        let done = world.agent("alice").run(&look);
        assert!(done.code() != 0 && done.out().is_empty(), "{} is reached: {done}", path.display());
    }
    for way in ["/proc/1/root", "/proc/self/root", "/proc/self/cwd/../.."] {
        let base = format!("{way}{}", world.state_dir().display());
        world.agent("alice").cmd(&["ls", &base]).run().exits(2);
    }
}

fn what_it_writes_elsewhere_goes_nowhere(world: &World) {
    let mark = world.path().join("mark");
    let outside = [
        mark.display().to_string(),
        "/usr/mark".to_owned(),
        "/etc/mark".to_owned(),
        world.path().join("bin/mark").display().to_string(),
    ];
    for path in &outside {
        let _ = world.agent("alice").cmd(&["touch", path]).run();
        assert!(!std::path::Path::new(path).exists(), "{path} was written");
    }
    let done = world
        .agent("alice")
        .run("echo kept >/tmp/e2e-mark && cat /tmp/e2e-mark && echo home >~/mark");
    assert_eq!(done.exits(0).out(), "kept\n");
    assert!(!std::path::Path::new("/tmp/e2e-mark").exists(), "/tmp is private");
    assert!(!world.home().join("mark").exists(), "the user's home is untouched");
    world.agent("bob").cmd(&["ls", "/tmp/e2e-mark"]).run().exits(2);
    let home = world.home_of("alice").expect("it has run");
    assert_eq!(std::fs::read_to_string(home.join("mark")).expect("it is kept"), "home\n");
    world.agent("alice").cmd(&["sh", "-c", "rm ~/mark"]).ok();
}

fn it_has_no_privileges_and_sees_no_other_process(world: &World) {
    let done = world.agent("alice").cmd(&["sh", "-c", "id -u; cat /proc/self/status"]).ok().out();
    let field = |name: &str| {
        let line = done.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
        line.unwrap_or_else(|| panic!("{name} is missing:\n{done}")).trim().to_owned()
    };
    assert_ne!(done.lines().next(), Some("0"), "it is not root");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");

    let mut bystander = world.cmd(["sleep", "86399"]).start();
    let pid = bystander.pid().to_string();
    let list =
        world.agent("alice").cmd(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).ok();
    assert!(!list.out().contains("86399"), "{list}");
    let _ = world.agent("alice").cmd(&["kill", "-KILL", &pid]).run();
    assert!(!bystander.has_ended(), "its pid means nothing inside");
    for forbidden in
        ["unshare -r true", "mount -t tmpfs x /tmp", "umount .", "mknod n c 1 3", "chroot / true"]
    {
        let done = world.agent("alice").run(forbidden);
        assert_ne!(done.code(), 0, "{done}");
    }
}

fn programs_in_the_user_s_home_run(world: &World) {
    world
        .sh("mkdir -p ~/.local/bin ~/.nvm/versions/v1/bin ~/.nvm/versions/v1/lib
         printf '#!/bin/sh\\necho hello from home \"$@\"\\n' >~/.local/bin/hello
         echo library >~/.nvm/versions/v1/lib/data
         printf '#!/bin/sh\\ncat ${0%%/bin/*}/lib/data\\n' >~/.nvm/versions/v1/bin/tool
         chmod 0755 ~/.local/bin/hello ~/.nvm/versions/v1/bin/tool")
        .ok();
    let home = world.home().display().to_string();
    let path = format!(
        "{home}/.local/bin:{home}/.nvm/versions/v1/bin:{}/bin:/usr/local/bin:/usr/bin:/bin",
        world.path().display()
    );
    let done = world.agent("alice").cmd(&["hello", "you"]).env("PATH", path.as_str()).ok();
    assert_eq!(done.out(), "hello from home you\n");
    let done = world.agent("alice").cmd(&["tool"]).env("PATH", path.as_str()).ok();
    assert_eq!(done.out(), "library\n", "a tool finds what is beside it");
    let spoil = "echo evil >~/.local/bin/hello; echo evil >~/.nvm/versions/v1/bin/tool";
    let _ = world.agent("alice").sh(spoil).env("PATH", path.as_str()).run();
    assert!(
        !world.sh("cat ~/.local/bin/hello ~/.nvm/versions/v1/bin/tool").ok().out().contains("evil")
    );
}

fn the_exit_status_passes_through(world: &World) {
    for code in [0, 1, 7, 125, 255] {
        world.agent("alice").run(&format!("exit {code}")).exits(code);
    }
    world.agent("alice").run("kill -TERM $$").exits(143);
    world.agent("alice").run("kill -SEGV $$").exits(139);
    let missing = world.agent("alice").flags("--quiet").cmd(&["no-such-program"]).run();
    missing.refuses(127, &["no-such-program", "not found"]);
    let plain = world.agent("alice").flags("--quiet").cmd(&["./README.md"]).run();
    plain.refuses(126, &["./README.md", "can't be executed"]);
    let nowhere = world.shim("run -- true").dir("/").run();
    nowhere.refuses(125, &["no git repository"]);
    let runs: Vec<_> = world.runs().into_iter().map(|run| run.ended.is_some()).collect();
    assert_eq!(runs, [true; 9], "every run has an end");
}

fn signals_reach_the_command(world: &World) {
    let wait = "while :; do sleep 0.02; done";
    for (signal, code) in [("TERM", 33), ("INT", 34), ("HUP", 35)] {
        let trap = format!("trap 'exit {code}' {signal}; tell ready; {wait}");
        let mut alice = world.agent("alice").start(&trap);
        alice.hears("ready");
        alice.signal(signal);
        alice.finish().exits(code);
        let home = world.home_of("alice").expect("it has run");
        std::fs::remove_file(home.join("told-ready")).expect("it was told");
    }
    let mut alice = world.agent("alice").start(&format!("tell ready; {wait}"));
    alice.hears("ready");
    alice.signal("TERM");
    alice.finish().exits(143);
}

fn streams_pass_through_byte_for_byte(world: &World) {
    let bytes: Vec<u8> =
        (0..1_000_003_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let done = world.agent("alice").cmd(&["cat"]).stdin(bytes.clone()).ok();
    assert!(done.bytes() == bytes, "{} bytes came back", done.bytes().len());
    let done = world.agent("alice").flags("--quiet").run("echo out; echo err >&2").exits(0);
    assert_eq!((done.out().as_str(), done.err().as_str()), ("out\n", "err\n"));
}

fn a_terminal_passes_through(world: &World) {
    let script = r#"
        test -t 0 && test -t 1 && test -t 2 && echo terminals
        stty size; tty; trap 'echo interrupted; exit 42' INT
        read line; echo "heard $line"
        while :; do sleep 0.02; done"#;
    let mut terminal = Terminal::start(world.agent("alice").sh(script), 43, 117);
    terminal.shows("terminals");
    terminal.shows("43 117");
    terminal.shows("/dev/pts/");
    terminal.types("good morning\n");
    terminal.shows("heard good morning");
    terminal.types("\x03");
    terminal.shows("interrupted");
    terminal.finish().exits(42);
}

fn job_control_works_inside(world: &World) {
    let mut terminal = Terminal::start(world.agent("alice").cmd(&["bash", "--norc", "-i"]), 24, 80);
    terminal.types("echo is $((40 + 2))\n");
    terminal.shows("is 42");
    // A Ctrl-Z too early would only take back what was typed, as on any terminal.
    terminal.types("sh -c 'echo up $((50 + 5)); exec sleep 1000'\n");
    terminal.shows("up 55");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.types("jobs; kill -KILL %1; wait %1; echo $((6 * 7))ish\n");
    terminal.shows("42ish");
    terminal.types("exit 5\n");
    terminal.finish().exits(5);
}

fn an_agent_may_ask_but_not_decide(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.agent("bob").run("echo bob >src/b.txt").exits(0);
    let ctl = |arguments: &str| {
        let argv: Vec<&str> = ["agentctl"].into_iter().chain(arguments.split(' ')).collect();
        world.agent("alice").flags("--quiet").cmd(&argv).run()
    };
    let locks = ctl("locks").exits(0);
    assert!(locks.out().contains("src/b.txt") && locks.out().contains("bob"), "{locks}");
    ctl("claim src/c.txt").exits(0);
    for forbidden in [
        "apply bob",
        "discard bob --yes",
        "diff bob",
        "claim src/a.txt --agent bob",
        "release src/b.txt --agent bob",
    ] {
        let done = ctl(forbidden).exits(7);
        assert!(done.err().contains("agentctl: an agent may not"), "{done}");
    }
    assert_eq!(world.base("src/b.txt"), "beta\n");
    let whoami = world.agent("alice").cmd(&["cat", ".agentfs/whoami"]).ok().out();
    assert!(whoami.contains("agent: alice"), "{whoami}");
}

fn nothing_of_a_run_outlives_it(world: &World) {
    world.agent("alice").run("setsid sleep 86397 & exit 0").exits(0);
    assert!(!world.has_process("86397"), "a process in the background ends with its run");
}

fn the_sandbox_is_as_good_for_this_user(world: &World) {
    // The identity inside is the world's: nobody better than the user, and never root.
    let id = world.agent("alice").cmd(&["id", "-u"]).ok().out();
    let own = world.cmd(["id", "-u"]).ok().out();
    match world.user() {
        User::Root => assert_ne!(id, own),
        User::Unprivileged => assert_eq!(id, own),
    }
    let made = world.agent("alice").run("echo x >made && stat -c %u made").exits(0).out();
    assert_eq!(made, id, "what it makes belongs to it");
    assert_eq!(world.cmd(["stat", "-c", "%u", "made"]).ok().out(), own, "and then to the user");
}
