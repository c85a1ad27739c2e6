//! Several agents edit, build and test one repository at the same time. Its tests need a port that
//! only one of them can have.

use agentfs_tests::{NamedProcess, World, in_both_worlds};
use std::collections::BTreeMap;
use std::net::TcpListener;

in_both_worlds!(four_agents_build_and_test_side_by_side);

const AGENTS: [&str; 4] = ["ada", "ben", "cleo", "dan"];

/// The repository of `scripts/bench agents`.
const FILES: [(&str, &str); 7] = [
    ("Makefile", include_str!("../../scripts/bench-parts/agents-repo/Makefile")),
    (".gitignore", include_str!("../../scripts/bench-parts/agents-repo/.gitignore")),
    ("agent.sh", include_str!("../../scripts/bench-parts/agents-repo/agent.sh")),
    ("agentfs.toml", include_str!("../../scripts/bench-parts/agents-repo/agentfs.toml")),
    ("src/module.h", include_str!("../../scripts/bench-parts/agents-repo/src/module.h")),
    ("src/server.c", include_str!("../../scripts/bench-parts/agents-repo/src/server.c")),
    ("tests/run.py", include_str!("../../scripts/bench-parts/agents-repo/tests/run.py")),
];

fn set_up(world: &World) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = free.expect("there is a free port").port().to_string();
    let module = "#define REVISION 1\n#include \"module.h\"\n";
    let modules = AGENTS.map(|name| (format!("src/mod_{name}.c"), module));
    let files = FILES.map(|(path, text)| (path.to_owned(), text));
    world.sh("mkdir -p tests").ok();
    for (path, text) in files.into_iter().chain(modules).chain([("port".to_owned(), &*port)]) {
        world.cmd(["tee", &path]).stdin(text).ok();
    }
    world.sh("git add -A; git commit -q -m 'A server'; make -s all").ok();
}

/// How many ran at the same time at most.
fn at_once(processes: &[NamedProcess]) -> usize {
    let beside = |one: &NamedProcess| {
        let begun = one.began.0;
        processes.iter().filter(|other| other.began.0 <= begun && begun < other.ended.0).count()
    };
    processes.iter().map(beside).max().unwrap_or_default()
}

fn four_agents_build_and_test_side_by_side(world: &World) {
    set_up(world);
    let start = |name| world.agent(name).cmd(&["sh", "agent.sh", name, "2"]).start();
    for agent in AGENTS.map(start) {
        let done = agent.finish().exits(0);
        assert_eq!(done.out(), "round 1\nround 2\n", "{done}");
    }
    for name in AGENTS {
        assert!(world.base(&format!("src/mod_{name}.c")).starts_with("#define REVISION 3\n"));
    }
    let tests = world.named_processes("proc:test");
    let builds = world.named_processes("proc:build");
    assert_eq!((tests.len(), builds.len()), (8, 8));
    assert_eq!(at_once(&tests), 1, "{tests:?}");
    assert!(at_once(&builds) <= 2, "{builds:?}");
    nobody_starves(world, &tests);
}

/// Nobody begins twice while another waits.
fn nobody_starves(world: &World, tests: &[NamedProcess]) {
    let mut waits: BTreeMap<String, u64> = BTreeMap::new();
    let mut waited = 0;
    for entry in world.log() {
        let event = &entry.event;
        let wants = event["claim"]["wants"].as_array();
        if event["type"] == "queued" && wants.is_some_and(|all| all.contains(&"proc:test".into())) {
            waits.insert(event["claim"]["id"].to_string(), entry.seq);
        }
        let Some(since) = waits.remove(&event["claim"].to_string()) else { continue };
        assert_eq!(event["end"], "granted", "{}", entry.text);
        waited += 1;
        for name in AGENTS {
            let meanwhile = |one: &&NamedProcess| (since..entry.seq).contains(&one.began.0);
            let of = tests.iter().filter(meanwhile).filter(|one| one.agent == name);
            assert!(of.count() <= 1, "{name} was let in twice before: {}", entry.text);
        }
    }
    assert!(waited > 0, "nobody has waited for anybody");
}
