//! What agents try in order to read or write what `[[policy]]` keeps from them: by other names, from
//! above, through what git ignores, by way of a named process, and by the rules themselves.

use agentfs_api::types::Outcome;
use agentfs_tests::{World, in_both_worlds};

in_both_worlds!(
    what_git_ignores_and_is_forbidden_gets_no_other_name,
    whoever_wants_a_directory_is_asked_about_what_is_in_it,
    a_named_process_that_is_protected_is_not_run,
    a_directory_that_gets_another_name_brings_nothing_to_where_it_may_not_be,
    agents_do_not_write_the_rules,
);

fn what_git_ignores_and_is_forbidden_gets_no_other_name(world: &World) {
    world.configure("[[policy]]\nunits = [\"*.log\", \"/hidden/key\"]\naccess = \"forbidden\"\n");
    world
        .sh("echo secret >a.log; mkdir hidden; echo secret >hidden/key; echo /hidden/ >>.gitignore
             git add .gitignore; git commit -qm ignore")
        .ok();
    let done = world.agent("alice").run(
        "python3 -c 'print(open(\"a.log\", \"r+\").read())'
         mv a.log x; cat x; ln a.log y; cat y; cp a.log z; cat z; mv hidden w; cat w/key
         ln -s a.log s; cat s; python3 -c 'import os; os.truncate(\"a.log\", 3)'; exit 0",
    );
    assert!(!done.out().contains("secret"), "{done}");
    assert_eq!(world.base("a.log"), "secret\n");
}

fn whoever_wants_a_directory_is_asked_about_what_is_in_it(world: &World) {
    world.configure("[[policy]]\nunits = [\"/src/deep/\"]\nunclaimed = \"ask\"\n");
    world.sh("mkdir src/deep; echo one >src/deep/file; git add -A; git commit -qm deep").ok();
    let mut alice =
        world.agent("alice").start("tell here; echo src/ >.agentfs/claim; tell claimed; exit 0");
    alice.hears("here");
    let waiting = alice.queues();
    assert!(waiting.asks, "{waiting:?}");
    world.ctl(&format!("refuse {}", waiting.claim)).ok();
    alice.hears("claimed");
    alice.finish().exits(0);
    let mut bob = world.agent("bob").start("tell here; mv src else; tell moved; exit 0");
    bob.hears("here");
    let waiting = bob.queues();
    assert!(waiting.asks, "{waiting:?}");
    world.ctl(&format!("refuse {}", waiting.claim)).ok();
    bob.hears("moved");
    bob.finish().exits(0);
    assert_eq!(world.base("src/deep/file"), "one\n");
}

fn a_named_process_that_is_protected_is_not_run(world: &World) {
    world.configure(
        "[process.deploy]\nmatch = [\"./deploy*\"]\n
         [[policy]]\nunits = [\"proc:deploy\"]\naccess = \"protected\"\n",
    );
    world.sh("printf '#!/bin/sh\\necho deployed\\n' >deploy; chmod +x deploy; git add -A; git commit -qm d").ok();
    let done = world.agent("alice").run("./deploy; exit 0");
    assert!(!done.out().contains("deployed"), "{done}");
    assert!(done.err().contains("protected"), "{done}");
}

fn a_directory_that_gets_another_name_brings_nothing_to_where_it_may_not_be(world: &World) {
    world.configure("[[policy]]\nunits = [\"/.ci/jobs/\"]\naccess = \"protected\"\n");
    let done = world
        .agent("alice")
        .run("mkdir -p t/jobs; echo evil >t/jobs/x; mv t .ci && echo moved; exit 0");
    assert!(!world.repo().join(".ci").exists(), "{done}");
    let [run] = world.runs().try_into().expect("one run");
    assert!(matches!(run.outcome, Some(Outcome::Pending { .. })), "{done}");
    assert!(done.err().contains("protected"), "{done}");
    world.apply("alice");
    assert_eq!(world.base(".ci/jobs/x"), "evil\n", "who applies by hand has seen it");
}

fn agents_do_not_write_the_rules(world: &World) {
    world.configure("wait = \"5s\"\n");
    let done = world.agent("alice").run("echo 'wait = \"1s\"' >agentfs.toml; exit 0");
    assert!(done.err().contains("ermission denied"), "{done}");
    assert_eq!(world.base("agentfs.toml"), "wait = \"5s\"\n");
    world.configure("[[policy]]\nunits = [\"/agentfs.toml\"]\naccess = \"write\"\n");
    world.agent("bob").run("echo 'wait = \"1s\"' >agentfs.toml").exits(0);
    assert_eq!(world.base("agentfs.toml"), "wait = \"1s\"\n");
}
