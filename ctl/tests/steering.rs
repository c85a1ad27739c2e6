//! The words by which the operator orders the queue, takes leases away and looks at plans: the
//! requests that they make, what is printed, and the exit codes. The daemon is canned answers.
#![expect(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod daemon;

use daemon::Daemon;
use serde_json::{Value, json};

fn waiting(claim: u64) -> Value {
    json!({
        "claim": claim, "position": 1, "wants": ["src/a.rs"], "agent": "bob", "run": 2,
        "blockers": [{ "agent": "alice", "unit": "src/", "since": 0, "holds": true }],
        "since": 0, "deadline": null, "cause": "open for writing", "asks": false,
        "why": ["alice (r1) has held src/ for 5s. It is free when r1 has ended."],
    })
}

const PLAN: &str = "steps:\n- {name: code, needs: [src/, shared docs/]}\n";

#[test]
fn the_queue_is_shown_explained_and_ordered() {
    let daemon = ["c3", "c4"]
        .iter()
        .fold(Daemon::start().answers("GET /v1/queue", json!([waiting(3)])), |daemon, claim| {
            daemon.answers(&format!("POST /v1/claims/{claim}/move"), Value::Null)
        });
    let table = daemon.run(&["queue"]);
    assert!(table.out.contains("bob    src/a.rs  alice holds src/"), "{table:?}");
    let why = daemon.run(&["queue", "--why"]);
    assert!(why.out.starts_with("c3  bob (r2): src/a.rs\n"), "{why:?}");
    assert!(why.out.contains("    - alice (r1) has held src/ for 5s."), "{why:?}");
    for words in [
        &["queue", "--move", "c3", "--first"][..],
        &["queue", "--move", "c3", "--last"],
        &["queue", "--move", "4", "--before", "c3"],
    ] {
        let moved = daemon.run(words);
        assert!(moved.code == 0 && moved.out.contains("bob"), "{words:?}: {moved:?}");
    }
    let moves: Vec<String> =
        daemon.requests().into_iter().filter(|request| request.starts_with("POST")).collect();
    assert_eq!(
        moves,
        [
            r#"POST /v1/claims/c3/move "first""#,
            r#"POST /v1/claims/c3/move "last""#,
            r#"POST /v1/claims/c4/move {"before":3}"#,
        ]
    );
    for wrong in [
        &["queue", "--move", "c3"][..],
        &["queue", "--first"],
        &["queue", "--move", "c3", "--first", "--last"],
        &["queue", "--move", "x"],
    ] {
        assert_eq!(daemon.run(wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn a_claim_is_granted_or_refused_by_hand() {
    let taken = json!({ "from": [["alice", "src/a.rs"]], "waits": false });
    let held = json!({ "code": "conflict", "message": "alice holds src/a.rs, which c4 wants" });
    let daemon = Daemon::start()
        .answers("POST /v1/claims/c3/grant", &taken)
        .refuses("POST /v1/claims/c4/grant", 409, &held)
        .answers("POST /v1/claims/c3/refuse", Value::Null);
    let granted = daemon.run(&["grant", "c3", "--steal"]);
    assert_eq!(
        granted.out,
        "c3 is granted: alice lost src/a.rs, and what they have written is kept (`agentctl \
         recover`)\n"
    );
    let json = daemon.run(&["grant", "c3", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap(), taken);
    let refused = daemon.run(&["grant", "c4"]);
    assert_eq!((refused.code, refused.out.as_str()), (4, ""), "{refused:?}");
    assert_eq!(daemon.run(&["refuse", "c3", "--because", "frozen"]).out, "c3 is refused\n");
    assert_eq!(daemon.run(&["refuse", "c3", "--json"]).out, "null\n");
    assert_eq!(daemon.run(&["refuse", "c9"]).code, 3);
    let asked = daemon.requests();
    assert_eq!(asked[0], r#"POST /v1/claims/c3/grant {"steal":true}"#);
    assert_eq!(asked[1], r#"POST /v1/claims/c3/grant {"steal":false}"#);
    assert_eq!(asked[3], r#"POST /v1/claims/c3/refuse {"why":"frozen"}"#);
}

#[test]
fn a_unit_is_taken_away_or_waited_for() {
    let late = json!({ "code": "timed_out", "message": "src/ is not free after 2s: alice" });
    let daemon = Daemon::start()
        .answers("POST /v1/steal", json!({ "from": [["alice", "src/a.rs"]], "waits": false }))
        .answers("GET /v1/wait?unit=src%2F", json!({ "unit": "src/", "millis": 1200 }))
        .refuses("GET /v1/wait?unit=src%2F&timeout=2s", 408, &late);
    let stolen = daemon.run(&["steal", "src", "--to", "bob"]);
    assert_eq!(
        stolen.out,
        "alice lost src/a.rs, and what they have written is kept (`agentctl recover`); bob holds \
         src/ now\n"
    );
    assert_eq!(daemon.run(&["wait", "src"]).out, "src/ is free (waited 1s)\n");
    let late = daemon.run(&["wait", "src", "--timeout", "2s"]);
    assert_eq!((late.code, late.out.as_str()), (5, ""), "{late:?}");
    assert_eq!(late.err, "agentctl: src/ is not free after 2s: alice\n");
    assert_eq!(daemon.requests()[0], r#"POST /v1/steal {"unit":"src/","to":"bob"}"#);
}

#[test]
fn a_plan_is_checked_before_it_is_run() {
    let starts = json!({ "starts": true, "wants": ["src/", "shared docs/"], "conflicts": [] });
    let daemon = Daemon::start().answers("POST /v1/plan/check", &starts);
    std::fs::write(daemon.root.join("plan.yaml"), PLAN).unwrap();
    let checked = daemon.run(&["plan", "check", "plan.yaml"]);
    let says = "nothing is in the way: a run with this plan (2 units) would start now\n";
    assert_eq!((checked.code, checked.out.as_str()), (0, says), "{checked:?}");
    assert_eq!(
        daemon.requests(),
        [concat!(
            r#"POST /v1/plan/check {"agent":null,"plan":{"steps":[{"name":"code","#,
            r#""needs":["src/","shared docs/"]}]}}"#
        )]
    );
    let waits = json!({
        "starts": false, "wants": ["src/"], "turns": [],
        "conflicts": [{
            "want": "src/", "steps": ["code"], "why": "alice (r1) has held src/ for 9s. Wait.",
            "blocker": { "agent": "alice", "unit": "src/", "since": 0, "holds": true },
        }],
    });
    let daemon = daemon.answers("POST /v1/plan/check", &waits);
    let checked = daemon.run(&["plan", "check", "plan.yaml", "--agent", "bob"]);
    assert_eq!(checked.code, 8, "{checked:?}");
    assert!(checked.out.contains("src/  code   alice holds src/"), "{checked:?}");
    assert_eq!(checked.err, "agentctl: a run with this plan would not start now\n");
    let json = daemon.run(&["plan", "check", "plan.yaml", "--json"]);
    assert_eq!(json.code, 8);
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap(), waits);
}

#[test]
fn what_is_no_plan_is_said_and_nobody_is_asked() {
    let daemon = Daemon::start();
    std::fs::write(daemon.root.join("bad.yaml"), "steps:\n- {name: a, need: [x]}\n").unwrap();
    let bad = daemon.run(&["plan", "check", "bad.yaml"]);
    assert_eq!(bad.code, 2, "{bad:?}");
    assert!(bad.err.starts_with("agentctl: bad.yaml is no plan: "), "{bad:?}");
    let missing = daemon.run(&["plan", "check", "none.yaml"]);
    assert!(missing.code == 1 && missing.err.contains("none.yaml can't be read"), "{missing:?}");
    assert_eq!(daemon.requests(), Vec::<String>::new());
    let schema = daemon.run(&["plan", "schema"]);
    let schema: Value = serde_json::from_str(&schema.out).unwrap();
    assert!(schema["properties"]["steps"].is_object(), "{schema}");
}

#[test]
fn where_no_agent_ever_ran_only_the_configuration_is_in_the_way_of_a_plan() {
    let nobody = Daemon::none();
    std::fs::write(nobody.root.join("plan.yaml"), PLAN).unwrap();
    let checked = nobody.run(&["plan", "check", "plan.yaml"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.starts_with("nothing is in the way"), "{checked:?}");
    let config = "[[policy]]\nunits = [\"/src/\"]\naccess = \"read-only\"\n";
    std::fs::write(nobody.root.join("agentfs.toml"), config).unwrap();
    let checked = nobody.run(&["plan", "check", "plan.yaml"]);
    assert_eq!(checked.code, 8, "{checked:?}");
    assert!(checked.out.contains("a policy") && checked.out.contains("EROFS"), "{checked:?}");
    std::fs::write(nobody.root.join("agentfs.toml"), "wate = 1\n").unwrap();
    let checked = nobody.run(&["plan", "check", "plan.yaml"]);
    assert!(checked.code == 2 && checked.err.contains("agentfs.toml line 1"), "{checked:?}");
    assert_eq!(nobody.run(&["plan", "show", "r1"]).code, 6);
}

#[test]
fn a_run_is_compared_with_its_plan() {
    let planned = json!({
        "run": 1, "agent": "alice", "has_plan": true, "undeclared": ["Cargo.toml"],
        "steps": [{ "name": "code", "units": [["src/", ["src/a.rs"]], ["docs/", []]] }],
    });
    let daemon = Daemon::start().answers("GET /v1/runs/r1/plan", &planned);
    let shown = daemon.run(&["plan", "show", "r1"]);
    assert!(shown.code == 0 && shown.out.contains("code  docs/  unused"), "{shown:?}");
    assert!(shown.out.contains("touched without a plan: Cargo.toml"), "{shown:?}");
    assert_eq!(daemon.run(&["plan", "show", "r9"]).code, 3);
}
