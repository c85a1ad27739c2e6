//! Claims and releases by `.agentfs/claim` and `.agentfs/release`, with nothing but a shell.

use agentfs_tests::{World, eventually, in_both_worlds, promptly};

in_both_worlds!(
    a_claim_by_echo_makes_another_wait_until_the_release,
    a_refused_claim_fails_the_write_and_says_why,
    what_names_no_unit_is_refused_at_once,
    a_writer_that_is_killed_leaves_the_queue,
);

fn a_claim_by_echo_makes_another_wait_until_the_release(world: &World) {
    let mut alice = world.agent("alice").start(
        "printf 'src\nres:port-8080\n' >.agentfs/claim || exit 41
         cp .agentfs/claim $HOME/granted
         tell holds; await release
         printf '%s/src/\nres:port-8080\n' $PWD >.agentfs/release || exit 42
         cp .agentfs/release $HOME/released
         tell released; await end; exit 0",
    );
    alice.hears("holds");
    let granted = alice.kept("granted");
    assert!(granted.contains("granted: src/ (exclusive, fencing token "), "{granted}");
    assert!(granted.contains("granted: res:port-8080"), "{granted}");
    let held: Vec<String> = world.locks().iter().map(|lock| lock.unit.to_string()).collect();
    assert_eq!(held, ["src/", "res:port-8080"]);

    let mut bob = world
        .agent("bob")
        .start("echo shared src/a.txt >.agentfs/claim && tell has; await end; exit 0");
    let waiting = bob.queues();
    assert_eq!(
        (waiting.wants[0].to_string().as_str(), waiting.cause.as_str()),
        ("shared src/a.txt", "claim")
    );
    assert!(!bob.has_told("has"));
    alice.tells("release");
    alice.hears("released");
    assert_eq!(alice.kept("released"), "released: src/\nreleased: res:port-8080\n");
    bob.hears("has");
    let [lock] = world.locks().try_into().expect("one lease");
    assert_eq!((lock.agent.as_str(), lock.mode.to_string()), ("bob", "shared".to_owned()));
    alice.tells("end");
    bob.tells("end");
    alice.finish().exits(0);
    bob.finish().exits(0);
}

fn a_refused_claim_fails_the_write_and_says_why(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("echo shared.txt >.agentfs/claim; tell holds; await end; exit 0");
    alice.hears("holds");
    let done = world.agent("bob").flags("--wait 1s").run(
        "bash -c 'echo shared.txt >.agentfs/claim'; cat .agentfs/claim
         bash -c 'echo shared.txt >.agentfs/release'; cat .agentfs/release
         python3 -c 'import os
try: os.write(os.open(\".agentfs/claim\", os.O_WRONLY), b\"shared.txt\")
except OSError as error: print(error.strerror)'",
    );
    let (out, err) = (done.out(), done.err());
    assert!(err.contains("Device or resource busy"), "the shell prints it: {done}");
    assert!(out.contains("refused: bob was refused shared.txt (claim) with EBUSY"), "{done}");
    assert!(out.contains("alice (r1) has held shared.txt"), "{done}");
    assert!(err.contains("Permission denied"), "{done}");
    assert!(out.contains("refused: bob does not hold shared.txt"), "{done}");
    assert!(out.ends_with("Device or resource busy\n"), "{done}");
    assert!(world.explain("shared.txt").contains("bob was refused shared.txt (claim)"));
    alice.tells("end");
    alice.finish().exits(0);
}

fn what_names_no_unit_is_refused_at_once(world: &World) {
    let done = world.agent("alice").run(
        "for bad in proc: /etc/passwd ../x ''; do
             bash -c 'echo \"$0\" >.agentfs/claim' \"$bad\" && exit 41; cat .agentfs/claim
         done
         echo x >.agentfs/locks; ls -l .agentfs; git status --porcelain; exit 0",
    );
    let done = done.exits(0);
    assert_eq!(done.err().matches("Invalid argument").count(), 4, "{done}");
    assert_eq!(done.out().matches("refused: ").count(), 4, "{done}");
    for why in ["/etc/passwd is outside the workspace", "a work unit is missing"] {
        assert!(done.out().contains(why), "{done}");
    }
    assert_eq!(done.out().matches("-rw-rw-rw-").count(), 2, "{done}");
    assert!(world.locks().is_empty());
}

fn a_writer_that_is_killed_leaves_the_queue(world: &World) {
    let mut alice = world
        .agent("alice")
        .start("echo shared.txt >.agentfs/claim; tell holds; await end; exit 0");
    alice.hears("holds");
    // Two of one agent at the same time: neither stands in the other's way.
    let mut bob = world.agent("bob").start(
        "sh -c 'echo $$ >$HOME/first; exec 2>&-; echo shared.txt >.agentfs/claim' & first=$!
         sh -c 'echo src/a.txt >.agentfs/claim' || exit 41
         sh -c 'exec 2>&-; echo shared.txt >.agentfs/claim' & second=$!
         tell waits; await kill
         kill -9 $second; wait $second; tell second
         kill -9 $first; wait $first; tell first; exit 0",
    );
    bob.hears("waits");
    eventually("both wait", || (world.queue().len() == 2).then_some(()));
    bob.tells("kill");
    promptly("the second is gone", || bob.has_told("second").then_some(()));
    promptly("the first is gone", || bob.has_told("first").then_some(()));
    promptly("the queue is empty", || world.queue().is_empty().then_some(()));
    bob.finish().exits(0);
    alice.tells("end");
    alice.finish().exits(0);
}
