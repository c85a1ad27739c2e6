//! The program as scripts and people meet it: the words it takes, the requests that it makes of
//! them, what it prints where, and its exit codes. The daemon is canned answers; the socket, the
//! HTTP, the program and (where it matters) the terminal are real.
#![expect(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod daemon;

use daemon::{Daemon, Ended};
use nix::pty::openpty;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn lock(unit: &str) -> Value {
    json!({
        "unit": unit, "mode": "exclusive", "agent": "alice", "run": 7, "token": 1,
        "since": 0, "expires": 0, "waiters": 2,
    })
}

fn change(path: &str, added: u64, removed: u64) -> Value {
    let file = json!({ "kind": "file", "mode": 0o644, "size": 1, "mtime_ns": 0, "ino": 1 });
    json!({
        "path": path, "action": "modified", "before": file, "after": file,
        "before_hash": null, "after_hash": null, "added": added, "removed": removed,
    })
}

fn diff(conflicts: &Value) -> Value {
    json!({
        "agent": "alice",
        "changes": { "changes": [change("src/a.rs", 3, 1)] },
        "conflicts": conflicts,
    })
}

fn settled(agent: &str, outcome: &Value) -> Value {
    json!({
        "agent": agent, "changes": { "changes": [change("src/a.rs", 3, 1)] },
        "outcome": outcome, "released": ["src/a.rs"],
    })
}

fn conflict() -> Value {
    json!([{
        "path": "src/a.rs", "before": null,
        "now": { "kind": "file", "mode": 0o644, "size": 5, "mtime_ns": 0, "ino": 9 },
    }])
}

const PATCH: &[u8] = b"diff --git a/src/a.rs b/src/a.rs\n--- a/src/a.rs\n+++ b/src/a.rs\n\
    @@ -1 +1 @@\n-old \x1b[2J\xff\n+new\n";

/// Runs a command with a terminal of its own on all three streams, types `typed`, and returns
/// what the terminal shows.
fn on_terminal(mut command: Command, typed: &str) -> Ended {
    let pty = openpty(None, None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(pty.slave);
    let mut master = File::from(pty.master);
    master.write_all(typed.as_bytes()).unwrap();
    let mut shown = Vec::new();
    // A terminal that nobody holds open any more ends in an error, not in an end of file.
    let _ = master.read_to_end(&mut shown);
    let code = child.wait().unwrap().code().unwrap();
    Ended { code, out: String::from_utf8_lossy(&shown).into_owned(), err: String::new() }
}

#[test]
fn a_sync_is_of_the_named_view_of_one_s_own_or_of_all_that_run() {
    let synced = json!({
        "agent": "alice", "from": 1, "version": 2, "conflicts": [],
        "moved": [{
            "path": "src/a.rs", "action": "modified", "author": { "agent": "bob", "version": 2 },
        }],
    });
    let agent = |name: &str, state: &str| {
        json!({
            "name": name, "state": state, "run": 1, "view": null, "leases": 0, "changed": 0,
            "last_active": 0,
        })
    };
    let all = json!([agent("alice", "running"), agent("carol", "idle"), agent("dan", "waiting")]);
    let daemon = Daemon::start().answers("POST /v1/sync", &synced).answers("GET /v1/agents", &all);
    let ended = daemon.run(&["sync", "alice"]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (
            0,
            "alice's view was at v1 and is at v2 now: 1 path moved\n\
             CHANGE    PATH      VERSION  BY\nmodified  src/a.rs  v2       bob\n"
        ),
        "{ended:?}"
    );
    let ended = daemon.run(&["sync", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), synced);
    let ended = daemon.run(&["sync", "--all"]);
    assert_eq!(ended.out.matches("1 path moved").count(), 2, "those that run: {ended:?}");
    assert_eq!(daemon.run(&["sync", "--all", "alice"]).code, 2);
}

#[test]
fn a_table_for_people_and_the_daemon_s_value_for_programs() {
    let locks = json!([lock("src/a.rs")]);
    let daemon = Daemon::start().answers("GET /v1/locks", &locks);
    let ended = daemon.run(&["locks"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.starts_with("UNIT      MODE       AGENT"), "{ended:?}");
    assert!(!ended.out.contains('\u{1b}'), "no colours into a pipe: {ended:?}");
    let ended = daemon.run(&["locks", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), locks);
    assert!(ended.out.contains("\n  {\n"), "it is laid out for reading: {ended:?}");
}

#[test]
fn empty_lists_are_said_in_words() {
    let daemon = ["locks", "queue", "agents", "runs", "recover", "log?after=0"]
        .iter()
        .fold(Daemon::start(), |daemon, list| {
            daemon.answers(&format!("GET /v1/{list}"), json!([]))
        });
    for (command, says) in [
        ("locks", "no leases: nobody holds anything\n"),
        ("queue", "nothing waits\n"),
        ("agents", "no agents: run one by `agentshim run -- CMD`\n"),
        ("runs", "no runs: start one by `agentshim run -- CMD`\n"),
        ("recover", "nothing to recover: every change is applied or discarded\n"),
        ("log", "the journal has no such entries\n"),
    ] {
        assert_eq!(daemon.run(&[command]).out, says);
        assert_eq!(daemon.run(&[command, "--json"]).out, "[]\n");
    }
}

#[test]
fn each_kind_of_refusal_has_its_exit_code() {
    for (status, code, exit) in [
        (400, "bad_request", 2),
        (404, "not_found", 3),
        (409, "conflict", 4),
        (408, "timed_out", 5),
        (403, "forbidden", 7),
        (500, "internal", 1),
    ] {
        let body = json!({ "code": code, "message": "no agent zoe; known: alice\u{1b}[2J" });
        let daemon = Daemon::start().refuses("POST /v1/agents/zoe/apply", status, &body);
        let ended = daemon.run(&["apply", "zoe"]);
        assert_eq!(ended.code, exit, "{code}");
        assert_eq!(ended.err, "agentctl: no agent zoe; known: alice\\x1b[2J\n");
        assert_eq!(ended.out, "");
        let ended = daemon.run(&["apply", "zoe", "--json"]);
        assert_eq!(ended.code, exit);
        assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), body);
    }
}

#[test]
fn what_is_typed_wrong_is_a_usage_error_and_asks_nobody() {
    let daemon = Daemon::start();
    for words in [
        &["locks", "--no-such"][..],
        &["apply"],
        &["apply", "Not A Name"],
        &["claim", "proc:a b"],
        &["claim", "a", "--wait", "soon"],
        &["claim", ""],
        &["claim", "../other/x"],
        &["release", "/etc/passwd"],
        &["explain", "/etc/passwd"],
        &["discard", "alice"],
        &["completions", "tcsh"],
    ] {
        let ended = daemon.run(words);
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{words:?}: {ended:?}");
    }
    assert_eq!(daemon.requests(), Vec::<String>::new());
    let ended = daemon.run(&["explain", "../other/x"]);
    let says = format!(
        "agentctl: ../other/x is outside the workspace {}; name a path below it\n",
        daemon.root.display()
    );
    assert_eq!(ended.err, says);
}

#[test]
fn without_a_daemon_it_says_what_to_type() {
    let nobody = Daemon::none();
    let ended = nobody.run(&["locks"]);
    assert_eq!(ended.code, 6);
    let root = nobody.root.display();
    let says = format!(
        "agentctl: no agent was ever run in {root}; run one there by `agentshim run -- CMD`\n"
    );
    assert_eq!(ended.err, says);
    let mut elsewhere = nobody.agentctl(&["locks"]);
    let ended = Ended::from(elsewhere.current_dir(nobody.root.parent().unwrap()).output().unwrap());
    assert_eq!(ended.code, 6);
    assert!(ended.err.contains("is in no git repository"), "{ended:?}");
    let mut sandboxed = nobody.agentctl(&["locks"]);
    let ended = Ended::from(sandboxed.env("AGENTFS_SOCKET", &nobody.socket).output().unwrap());
    assert_eq!(ended.code, 6);
    assert!(ended.err.contains("does not answer on"), "{ended:?}");
}

#[test]
fn a_workspace_with_a_journal_has_its_daemon_started() {
    let nobody = Daemon::none();
    let state = nobody.agentctl(&[]).get_envs().find_map(|(name, value)| {
        (name == "AGENTFS_STATE_DIR").then(|| std::path::PathBuf::from(value.unwrap()))
    });
    let id = nobody.socket.parent().unwrap().file_name().unwrap();
    let state = state.unwrap().join(id);
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("journal.db"), "").unwrap();
    // An `agentfs` that can't serve: what it says must reach the user. The program takes the one
    // beside itself, so both are put into a directory of their own; by a shell, because a file
    // that this process has open for writing can't be run while another test forks.
    let bin = nobody.root.join("bin");
    let script = "mkdir $0 && cd $0 && cp $1 agentctl && chmod +x agentctl &&
        printf '#!/bin/sh\necho \"agentfs: $1 is refused\" >&2\nexit 1\n' >agentfs &&
        chmod +x agentfs";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(&bin).arg(env!("CARGO_BIN_EXE_agentctl"));
    assert!(shell.status().unwrap().success());
    let template = nobody.agentctl(&["locks"]);
    let mut command = Command::new(bin.join("agentctl"));
    command.args(template.get_args()).current_dir(&nobody.root).env_clear();
    for (name, value) in template.get_envs() {
        command.env(name, value.unwrap());
    }
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.code, 6);
    assert!(ended.err.ends_with("could not be started: mount is refused\n"), "{ended:?}");
}

#[test]
fn inside_a_sandbox_the_socket_says_where_to_ask_and_the_daemon_where_the_root_is() {
    let daemon = Daemon::start()
        .answers("GET /v1/explain?path=src%2Fnested%2Fa", json!({ "sentences": ["It waits."] }));
    let nested = daemon.root.join("src/nested");
    std::fs::create_dir_all(nested.join(".git")).unwrap();
    let mut command = daemon.agentctl(&["explain", "a"]);
    command.current_dir(&nested).env_remove("AGENTFS_RUNTIME_DIR");
    let ended = Ended::from(command.env("AGENTFS_SOCKET", &daemon.socket).output().unwrap());
    assert_eq!((ended.code, ended.out.as_str()), (0, "It waits.\n"), "{ended:?}");
}

#[test]
fn units_are_relative_to_where_the_user_stands() {
    let daemon = Daemon::start().answers("POST /v1/claims", json!({ "leases": [lock("src/a")] }));
    std::fs::create_dir(daemon.root.join("src/api")).unwrap();
    std::os::unix::fs::symlink("src", daemon.root.join("link")).unwrap();
    std::os::unix::fs::symlink("a.rs", daemon.root.join("src/name")).unwrap();
    let claimed = |cwd: &str, unit: &str| {
        let mut command = daemon.agentctl(&["claim", unit]);
        let ended = Ended::from(command.current_dir(daemon.root.join(cwd)).output().unwrap());
        assert_eq!(ended.code, 0, "{ended:?}");
        let request = daemon.requests().pop().unwrap();
        let body: Value = serde_json::from_str(request.split_once("claims ").unwrap().1).unwrap();
        body["wants"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(claimed("src", "new.rs"), "src/new.rs");
    assert_eq!(claimed("src", "api"), "src/api/", "an existing directory needs no slash");
    assert_eq!(claimed("src", "later/"), "src/later/", "one to come does");
    assert_eq!(claimed("src", "../x/./y"), "x/y");
    assert_eq!(claimed("src", "."), "src/");
    assert_eq!(claimed("src/api", "../.."), "./", "the whole workspace");
    assert_eq!(claimed("src", "proc:build"), "proc:build");
    assert_eq!(claimed("src", "./proc:build"), "src/proc:build", "a file of that name");
    assert_eq!(claimed(".", "./res:x"), "./res:x");
    assert_eq!(claimed(".", "link/a.rs"), "src/a.rs", "where the link leads is what is written");
    assert_eq!(claimed(".", "src/name"), "src/name", "the link itself");
    assert_eq!(claimed(".", "link/"), "src/");
    let absolute = daemon.root.join("src/b.rs");
    assert_eq!(claimed("src", absolute.to_str().unwrap()), "src/b.rs");
}

#[test]
fn a_claim_says_how_and_for_whom() {
    let daemon = Daemon::start()
        .answers("POST /v1/claims", json!({ "leases": [lock("src/"), lock("proc:x")] }))
        .answers("POST /v1/release", json!({ "agent": "alice", "unit": "src/" }));
    let words = ["claim", "src", "proc:x", "--shared", "--agent", "alice", "--wait", "1500ms"];
    let ended = daemon.run(&words);
    assert_eq!(
        ended.out,
        "alice holds src/ (exclusive, expires now)\nalice holds proc:x (exclusive, expires now)\n"
    );
    assert_eq!(daemon.run(&["release", "src/", "proc:x"]).code, 0);
    let requests = daemon.requests();
    assert_eq!(
        requests,
        [
            r#"POST /v1/claims {"agent":"alice","wants":["shared src/","shared proc:x"],"wait":"1500ms"}"#,
            r#"POST /v1/release {"agent":null,"unit":"src/"}"#,
            r#"POST /v1/release {"agent":null,"unit":"proc:x"}"#,
        ]
    );
}

#[test]
fn a_patch_reaches_a_pipe_byte_for_byte_and_conflicts_go_beside_it() {
    let daemon = Daemon::start().answers("GET /v1/agents/alice/diff", diff(&conflict())).says(
        "GET /v1/agents/alice/patch",
        200,
        PATCH,
    );
    let output = daemon.agentctl(&["diff", "alice"]).output().unwrap();
    assert_eq!(output.stdout, PATCH);
    let ended = Ended::from(output);
    assert!(ended.err.starts_with("base is no longer what alice built on"), "{ended:?}");
    assert!(ended.err.contains("src/a.rs  nothing   file of 1970-01-01 00:00:00, 5 bytes"));
    let stat = daemon.run(&["diff", "alice", "--stat"]);
    assert_eq!(stat.out, " src/a.rs | 4 +++-\n 1 file changed, 3 insertions(+), 1 deletion(-)\n");
    assert_eq!(daemon.run(&["diff", "alice", "--name-only"]).out, "src/a.rs\n");
}

#[test]
fn on_a_terminal_a_patch_has_colours_and_a_pager() {
    let daemon = Daemon::start().answers("GET /v1/agents/alice/diff", diff(&json!([]))).says(
        "GET /v1/agents/alice/patch",
        200,
        PATCH,
    );
    let green = "\u{1b}[32m+new\u{1b}[0m";
    let mut paged = daemon.agentctl(&["diff", "alice"]);
    paged.env("AGENTFS_PAGER", "sed 's/^/paged: /'").env("PAGER", "false").env("TERM", "xterm");
    let ended = on_terminal(paged, "");
    assert_eq!(ended.code, 0);
    assert!(ended.out.contains(&format!("paged: {green}")), "{ended:?}");
    let mut bare = daemon.agentctl(&["diff", "alice", "--no-pager"]);
    bare.env("PAGER", "false").env("TERM", "xterm");
    let ended = on_terminal(bare, "");
    assert!(ended.code == 0 && ended.out.contains(green), "{ended:?}");
    let mut colourless = daemon.agentctl(&["diff", "alice"]);
    colourless.env("PAGER", "cat").env("TERM", "xterm").env("NO_COLOR", "1");
    let ended = on_terminal(colourless, "");
    assert!(ended.code == 0 && ended.out.contains("\n+new"), "{ended:?}");
}

#[test]
fn several_agents_are_applied_until_one_is_refused() {
    let applied = json!({ "state": "applied", "version": 4 });
    let daemon =
        Daemon::start().answers("POST /v1/agents/alice/apply", settled("alice", &applied)).refuses(
            "POST /v1/agents/bob/apply",
            409,
            json!({ "code": "conflict", "message": "base has moved", "conflicts": conflict() }),
        );
    let ended = daemon.run(&["apply", "alice", "bob", "carol"]);
    assert_eq!(ended.code, 4);
    assert_eq!(
        ended.out,
        "alice's changes are part of base now, which is v4: 1 path, +3 -1; free again: src/a.rs\n"
    );
    let lines: Vec<&str> = ended.err.lines().collect();
    assert_eq!(lines[0], "agentctl: base has moved; not tried: carol");
    assert!(lines[1].starts_with("PATH      BASED ON  BASE HAS NOW"), "{ended:?}");
    assert!(lines[2].starts_with("src/a.rs  nothing   file of "), "{ended:?}");
    assert_eq!(daemon.requests().len(), 2);
}

#[test]
fn an_apply_that_keeps_the_changes_is_no_success() {
    let pending = json!({ "state": "pending", "why": "alice still runs" });
    let daemon = Daemon::start().answers("POST /v1/agents/alice/apply", settled("alice", &pending));
    let ended = daemon.run(&["apply", "alice"]);
    assert_eq!(ended.code, 4);
    assert_eq!(ended.err, "agentctl: alice's changes are not applied: alice still runs\n");
}

#[test]
fn a_discard_is_asked_about() {
    let discarded = json!({ "state": "discarded" });
    let daemon = Daemon::start()
        .answers("GET /v1/agents/alice/diff", diff(&json!([])))
        .answers("POST /v1/agents/alice/discard", settled("alice", &discarded));
    let ended = on_terminal(daemon.agentctl(&["discard", "alice"]), "n\n");
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains("Drop alice's changes for good? [y/N]"), "{ended:?}");
    assert!(ended.out.contains("1 file changed"), "it shows what is at stake: {ended:?}");
    assert!(!daemon.requests().iter().any(|request| request.contains("discard")));
    let ended = on_terminal(daemon.agentctl(&["discard", "alice"]), "y\n");
    assert!(ended.code == 0 && ended.out.contains("changes are discarded"), "{ended:?}");
    assert_eq!(daemon.run(&["discard", "alice", "--yes"]).code, 0);
    let asked = daemon.requests();
    assert_eq!(asked.iter().filter(|request| request.contains("discard")).count(), 2);
}

#[test]
fn the_log_is_filtered_and_followed() {
    let entry = |seq: u64, agent: &str, text: &str| {
        json!({
            "seq": seq, "at": seq * 1000, "agent": agent, "text": text, "event": { "kind": "x" },
        })
    };
    let stream = format!(
        "data:{}\n\n:keep-alive\n\ndata:{}\n\n",
        entry(4, "bob", "bob went"),
        entry(5, "alice", "alice went")
    );
    let daemon = Daemon::start()
        .answers(
            "GET /v1/log?after=0",
            json!([
                entry(1, "alice", "alice came"),
                entry(2, "bob", "bob came"),
                entry(3, "alice", "alice wrote"),
            ]),
        )
        .says("GET /v1/log/stream?after=3", 200, stream.as_bytes());
    assert_eq!(
        daemon.run(&["log", "-n", "2"]).out,
        "1970-01-01 00:00:02  bob came\n1970-01-01 00:00:03  alice wrote\n"
    );
    let ended = daemon.run(&["log", "-f", "-n", "1", "--agent", "alice"]);
    assert_eq!(ended.out, "1970-01-01 00:00:03  alice wrote\n1970-01-01 00:00:05  alice went\n");
    assert_eq!(ended.code, 6, "the daemon ended: {ended:?}");
    let ended = daemon.run(&["log", "-f", "--json"]);
    let lines: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[4]["text"], "alice went");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let locks: Vec<Value> = (0..20_000).map(|n| lock(&format!("src/{n}.rs"))).collect();
    let daemon = Daemon::start().answers("GET /v1/locks", locks);
    let mut child = daemon.agentctl(&["locks"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn completions_and_manual_pages_need_no_workspace() {
    let nobody = Daemon::none();
    let outside = nobody.root.parent().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let mut command = nobody.agentctl(&["completions", shell]);
        let ended = Ended::from(command.current_dir(outside).output().unwrap());
        assert!(ended.code == 0 && ended.out.contains("recover"), "{shell}: {ended:?}");
    }
    let ended = nobody.run(&["man"]);
    assert!(ended.out.contains(".TH agentctl 1"), "{ended:?}");
    let pages = outside.join("man1");
    std::fs::create_dir(&pages).unwrap();
    assert_eq!(nobody.run(&["man", pages.to_str().unwrap()]).code, 0);
    assert!(pages.join("agentctl.1").is_file() && pages.join("agentctl-locks.1").is_file());
    let ended = nobody.run(&["man", "/no/such/directory"]);
    assert!(ended.code == 1 && ended.err.contains("/no/such/directory: "), "{ended:?}");
}

#[test]
fn help_tells_the_exit_codes_and_each_command_an_example() {
    let nobody = Daemon::none();
    let help = nobody.run(&["--help"]);
    assert!(help.code == 0 && help.out.contains("6  no daemon or no workspace"), "{help:?}");
    let help = nobody.run(&["claim", "--help"]);
    assert!(help.out.contains("one that does not exist yet does."), "{help:?}");
    assert!(help.out.contains("agentctl claim src/api/"), "{help:?}");
}
