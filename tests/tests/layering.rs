//! The dependency rules of the design: who may know what.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies in the workspace").to_owned()
}

/// The names of what a member of the workspace depends on, tests apart.
fn dependencies(member: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let metadata: Value = serde_json::from_slice(&said.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == member);
    let all = package.unwrap_or_else(|| panic!("no member is called {member}"))["dependencies"]
        .as_array()
        .expect("there are dependencies");
    let normal = all.iter().filter(|dependency| dependency["kind"] != "dev");
    normal.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect()
}

/// The source files below `dir` whose code says `what`, relative to `dir`.
fn users_of(what: &str, dir: &str) -> BTreeSet<String> {
    let top = root().join(dir);
    let mut found = BTreeSet::new();
    let mut dirs = vec![top.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("the sources can be read") {
            let path = entry.expect("the sources can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the source can be read");
                if says(&text, what) {
                    let path = path.strip_prefix(&top).expect("it is below");
                    found.insert(path.display().to_string());
                }
            }
        }
    }
    found
}

/// Whether the file means a module beside it by `name`, not a crate.
fn brings_in_own_module(name: &str, file: &Path) -> bool {
    let text = fs::read_to_string(file).expect("the source can be read");
    let own =
        [format!("mod {name};"), format!("use super::{name}"), format!("use super::{{{name}")];
    own.iter().any(|own| text.contains(own.as_str()))
}

/// Whether a line that is no comment has `what` in it, and not as the end of a longer name.
fn says(text: &str, what: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let begins =
        |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c));
    code.flat_map(|line| line.match_indices(what).map(move |(at, _)| &line[..at])).any(begins)
}

#[test]
fn the_core_is_pure() {
    let core = dependencies("agentfs-core");
    for impure in ["tokio", "fuser", "rusqlite", "libc", "nix", "rustix", "reqwest", "axum", "jiff"]
    {
        assert!(!core.contains(impure), "agentfs-core depends on {impure}");
    }
    for impure in ["std::fs", "std::net", "std::process", "std::thread", "std::env"] {
        let users = users_of(impure, "fs/core/src");
        assert!(users.is_empty(), "{impure} in agentfs-core: {users:?}");
    }
    for clock in ["SystemTime", "Instant"] {
        let users = users_of(clock, "fs/core/src");
        assert!(users.is_empty(), "the core reads the time by {clock}: {users:?}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let none_of = |member: &str, forbidden: &[&str]| {
        let all = dependencies(member);
        for name in forbidden {
            assert!(!all.contains(*name), "{member} depends on {name}");
        }
    };
    none_of("agentfs-core", &["agentfs-api", "agentfs", "agentshim", "agentctl"]);
    none_of("agentfs-api", &["agentfs", "agentshim", "agentctl"]);
    none_of("agentshim", &["agentfs", "agentctl"]);
    none_of("agentctl", &["agentfs", "agentshim"]);
    none_of("agentfs", &["agentshim", "agentctl"]);
}

#[test]
fn foreign_types_stay_at_the_edge() {
    let outside = |what: &str, dir: &str, place: &str| {
        let users = users_of(what, dir);
        assert!(!users.is_empty(), "{what} is nowhere in {dir}: is this test still right?");
        users.into_iter().filter(|path| !path.starts_with(place)).collect::<Vec<_>>()
    };
    assert_eq!(outside("fuser::", "fs/src", "fuse/"), [""; 0]);
    assert_eq!(outside("rusqlite::", "fs/src", "store/"), [""; 0]);
    assert_eq!(outside("axum::", "fs/src", "server/"), [""; 0]);
    // The shim has a module of the crate's name: `apply::landlock`, the only one that may use it.
    let mut users = outside("landlock::", "shim/src", "apply/landlock.rs");
    users.retain(|path| !brings_in_own_module("landlock", &root().join("shim/src").join(path)));
    assert_eq!(users, [""; 0]);
}

#[test]
fn a_copy_of_a_repository_knows_no_views() {
    for other in ["crate::view", "crate::service", "crate::fuse", "crate::gate", "crate::changeset"]
    {
        assert_eq!(users_of(other, "fs/src/git"), BTreeSet::new(), "{other}");
    }
}

#[test]
fn code_is_told_from_words() {
    assert!(says("use fuser::Config;", "fuser::"));
    assert!(says("    let x = fuser::mount();", "fuser::"));
    assert!(!says("    // fuser::mount is not used", "fuser::"));
    assert!(!says("use crate::fuser::x; let a = nofuser::x();", "fuser::"));
}
