//! What `agentshim probe` finds on this machine.

use crate::place::{everywhere, show};
use serde_json::Value;
use std::process::Command;

fn checks(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", show(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn what_the_other_tests_use_is_found() {
    everywhere(|place| {
        let found = checks(place.outside(place.agentshim()).arg("probe"));
        let names: Vec<_> = found.iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["Landlock", "user namespaces", "seccomp", "cgroups", "scratch", "sandbox"]
        );
        for name in ["user namespaces", "seccomp", "scratch", "sandbox"] {
            assert_eq!(of(&found, name)["verdict"], "ok", "{found:#?}");
        }
        for check in &found {
            assert_eq!(check["verdict"] == "ok", check["remedy"].is_null(), "{check}");
        }
    });
}

#[test]
fn what_can_not_be_had_is_missing_with_the_step_that_failed() {
    everywhere(|place| {
        // Inside a sandbox no other can be built: mounting is refused.
        let mut inside = place.inside(&[place.agentshim().to_str().unwrap(), "probe"]);
        let found = checks(&mut inside);
        for name in ["user namespaces", "sandbox"] {
            let check = of(&found, name);
            assert_eq!(check["verdict"], "missing", "{check}");
            let finding = check["finding"].as_str().unwrap();
            assert!(finding.contains("no new namespaces"), "{check}");
        }
        assert_eq!(of(&found, "scratch")["verdict"], "limited");
        assert_eq!(of(&found, "seccomp")["verdict"], "ok");
    });
}

#[test]
fn a_sandbox_in_a_sandbox_is_refused() {
    everywhere(|place| {
        let shim = place.agentshim();
        let nested = [shim.to_str().unwrap(), "run", "--", "true"];
        let output = place.inside(&nested).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", show(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("agentshim: this is inside the sandbox"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    });
}
