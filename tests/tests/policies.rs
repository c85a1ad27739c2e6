//! `[[policy]]` and `unclaimed` in `agentfs.toml`: who may read and write what, who is asked, and
//! how long leases last.

use agentfs_tests::{World, eventually, in_both_worlds, promptly};

/// `refused WORDS COMMAND`: the command must fail, and say these words.
const REFUSED: &str = r#"
    refused() {
        if sh -c "$2" 2>~/said; then echo "allowed: $2" >>~/wrong; fi
        grep -qi "$1" ~/said || { echo "not \"$1\": $2: $(cat ~/said)" >>~/wrong; }
    }
    wrong() { cat ~/wrong 2>/dev/null; [ ! -e ~/wrong ]; }
"#;

const ACCESS: &str = r#"
    [[policy]]
    units = ["/src/a.txt", "proc:deploy"]
    access = "protected"

    [[policy]]
    units = ["docs/"]
    access = "read-only"

    [[policy]]
    units = ["tool.sh", "*.key"]
    access = "forbidden"
"#;

in_both_worlds!(
    a_write_goes_on_when_the_operator_grants_it,
    a_claim_that_is_agreed_to_still_waits_for_its_holder,
    a_write_that_the_operator_refuses_is_denied,
    nobody_answers_and_the_write_is_busy,
    an_agent_that_is_granted_something_is_not_asked_about_again,
    what_is_protected_is_written_only_with_the_operators_leave,
    what_is_read_only_is_never_written,
    what_is_forbidden_is_not_even_read,
    what_an_apply_brings_is_forbidden_all_the_same,
    what_git_ignores_is_forbidden_all_the_same,
    rules_are_for_the_agents_that_they_name,
    a_lease_lives_as_long_as_its_policy_says,
    a_claimed_file_that_is_renamed_stays_claimed,
);

fn a_write_goes_on_when_the_operator_grants_it(world: &World) {
    world.configure("unclaimed = \"ask\"\n");
    let mut alice = world
        .agent("alice")
        .start("tell here; echo alice >>shared.txt && tell wrote; echo new >src/new.txt && tell made; exit 0");
    alice.hears("here");
    let waiting = alice.queues();
    assert!(waiting.asks && waiting.blockers.is_empty(), "{waiting:?}");
    let table = world.ctl("queue").ok().out();
    assert!(table.contains("you are asked"), "{table}");
    let why = world.ctl("queue --why").ok().out();
    let claim = waiting.claim;
    assert!(why.contains(&format!("`agentctl grant {claim}` agrees")), "{why}");
    assert!(world.locks().is_empty());
    let said = world.ctl(&format!("grant {claim}")).ok().out();
    assert_eq!(said, format!("{claim} is granted\n"));
    alice.hears("wrote");
    let second = alice.queues();
    assert_eq!(second.wants[0].to_string(), "src/new.txt");
    world.ctl(&format!("grant {}", second.claim)).ok();
    alice.finish().exits(0);
    assert_eq!(world.base("shared.txt") + &world.base("src/new.txt"), "one\nalice\nnew\n");
    world.ctl(&format!("grant {claim}")).run().refuses(3, &["does not wait any more"]);
}

fn a_claim_that_is_agreed_to_still_waits_for_its_holder(world: &World) {
    let mut alice =
        world.agent("alice").start("echo alice >>shared.txt; tell holds; await end; exit 0");
    alice.hears("holds");
    let mut bob = world
        .agent("bob")
        .flags("--unclaimed ask")
        .start("echo bob >>shared.txt && tell wrote; exit 0");
    let waiting = bob.queues();
    assert!(waiting.asks && waiting.why.len() == 2, "{waiting:?}");
    let said = world.ctl(&format!("grant {}", waiting.claim)).ok().out();
    assert!(said.contains("is agreed to, and waits on"), "{said}");
    let waiting = bob.queues();
    assert!(!waiting.asks && waiting.why.len() == 1, "{waiting:?}");
    alice.tells("end");
    alice.finish().exits(0);
    bob.hears("wrote");
    bob.finish().exits(0);
    assert_eq!(world.base("shared.txt"), "one\nalice\nbob\n");
}

fn a_write_that_the_operator_refuses_is_denied(world: &World) {
    let mut alice = world.agent("alice").flags("--unclaimed ask").start(
        "tell here; sh -c 'echo alice >>shared.txt' 2>~/said; cat .agentfs/explain >~/why; tell tried
         await end; exit 1",
    );
    alice.hears("here");
    let waiting = alice.queues();
    world.ctl(&format!("refuse {} --because frozen", waiting.claim)).ok();
    alice.hears("tried");
    assert!(alice.kept("said").contains("Permission denied"), "{}", alice.kept("said"));
    let why = alice.kept("why");
    assert!(why.contains("by the operator: frozen"), "{why}");
    assert!(world.locks().is_empty() && world.queue().is_empty());
    alice.tells("end");
    alice.finish().exits(1);
    assert_eq!(world.base("shared.txt"), "one\n");
}

fn nobody_answers_and_the_write_is_busy(world: &World) {
    let alice = world.agent("alice").flags("--unclaimed ask --wait 1s");
    let done = alice.run("sh -c 'echo alice >>shared.txt' || cat shared.txt; exit 3").exits(3);
    assert_eq!(done.out(), "one\n");
    assert!(done.err().contains("busy"), "{done}");
    let why = world.explain("shared.txt");
    assert!(why.contains("EBUSY") && why.contains("has the operator asked first"), "{why}");
}

fn an_agent_that_is_granted_something_is_not_asked_about_again(world: &World) {
    let mut alice = world
        .agent("alice")
        .flags("--unclaimed ask --claim src/")
        .start("echo 1 >src/a.txt && echo 2 >src/new.txt && tell wrote; await end; exit 0");
    alice.hears("wrote");
    assert!(world.queue().is_empty());
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("src/a.txt"), "1\n");
}

fn what_is_protected_is_written_only_with_the_operators_leave(world: &World) {
    world.configure(ACCESS);
    let mut alice = world.agent("alice").start(&format!(
        "{REFUSED}
         echo x >early && echo x >later && cat src/a.txt >/dev/null || exit 8
         for way in 'echo x >src/a.txt' 'rm src/a.txt' 'mv src/a.txt b' 'chmod 600 src/a.txt' \
             'mv src moved' 'mv src/b.txt src/a.txt'; do
             refused 'permission denied' \"$way\"
         done
         refused 'only the operator gives it' 'agentctl claim src/a.txt'
         refused 'only the operator gives it' 'agentctl claim proc:deploy'
         [ -e src/b.txt ] && [ -e src/c.txt ] || exit 9
         tell tried; await leave
         echo alice >>src/a.txt && tell wrote; await end; wrong"
    ));
    alice.hears("tried");
    assert!(world.locks().iter().all(|lock| !lock.unit.to_string().starts_with("src/a")));
    let why = world.explain("src/a.txt");
    assert!(why.contains("`agentctl claim src/a.txt --agent alice`"), "{why}");
    world.ctl("claim src/a.txt --agent alice").ok();
    alice.tells("leave");
    alice.hears("wrote");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.base("src/a.txt"), "alpha\nalice\n");
    let given = world.agent("bob").flags("--claim src/a.txt").run("echo bob >>src/a.txt");
    given.exits(0);
    assert_eq!(world.base("src/a.txt"), "alpha\nalice\nbob\n");
}

fn what_is_read_only_is_never_written(world: &World) {
    world.configure(ACCESS);
    let before = world.tree();
    let mut alice = world.agent("alice").start(&format!(
        "{REFUSED}
         cat docs/image.bin >/dev/null && ls docs >/dev/null || exit 8
         for way in 'echo x >docs/image.bin' 'echo x >docs/new' 'rm docs/link' 'mv docs d2' \
             'touch docs/image.bin' 'ln -s x docs/l' 'mv shared.txt docs/s' 'rm -r docs'; do
             refused 'read-only file system' \"$way\"
         done
         tell tried; await end; wrong"
    ));
    alice.hears("tried");
    let refused = world.ctl("claim docs/image.bin --agent alice").run().exits(4);
    assert!(refused.err().contains("read-only"), "{refused}");
    alice.tells("end");
    alice.finish().exits(0);
    assert_eq!(world.tree().differences(&before), [""; 0]);
    let refused = world.agent("bob").flags("--claim docs/").run("true").exits(125);
    assert!(refused.err().contains("access = \"read-only\""), "{refused}");
}

fn what_is_forbidden_is_not_even_read(world: &World) {
    world.configure(ACCESS);
    let done = world.agent("alice").run(&format!(
        "{REFUSED}
         echo x >early && echo x >later || exit 8
         for way in 'cat tool.sh' ./tool.sh 'sh tool.sh' 'cp tool.sh x' 'echo x >>tool.sh' \
             'ln tool.sh x' 'mv tool.sh x' 'mv shared.txt a.key' 'echo x >a.key'; do
             refused 'permission denied' \"$way\"
         done
         [ -e tool.sh ] && cat shared.txt >/dev/null || exit 9
         wrong"
    ));
    done.exits(0);
    assert!(world.locks().is_empty() && world.recover().is_empty());
    world.sh("echo secret >deep.key").ok();
    world.agent("alice").run("! cat deep.key").exits(0);
}

fn what_an_apply_brings_is_forbidden_all_the_same(world: &World) {
    world.configure(
        "[[policy]]\nunits = [\"*.key\"]\nagents = [\"alice\"]\naccess = \"forbidden\"\n",
    );
    let mut alice = world
        .agent("alice")
        .start("tell ready; await synced; [ -e new.key ] || exit 8; cat new.key && exit 9; exit 0");
    alice.hears("ready");
    world.agent("bob").run("echo secret >new.key").exits(0);
    world.ctl("sync alice").ok();
    alice.tells("synced");
    let done = alice.finish().exits(0);
    assert!(done.out().is_empty(), "{done}");
    let read = world.agent("bob").run("cat new.key").exits(0);
    assert_eq!(read.out(), "secret\n");
}

fn what_git_ignores_is_forbidden_all_the_same(world: &World) {
    world.sh("printf 'secrets/\\n.env\\nbuild/\\ncache/\\n' >>.gitignore").ok();
    world.sh("mkdir -p secrets build/deep cache; echo x >.env; echo x >secrets/a").ok();
    world.sh("echo x >build/deep/a.key; echo x >build/plain; echo x >cache/a").ok();
    world.configure(
        "[[policy]]\nunits = [\".env\", \"secrets/\", \"*.key\"]\naccess = \"forbidden\"\n",
    );
    let script = "cat build/plain cache/a
        for file in .env secrets/a build/deep/a.key; do cat $file && exit 9; done
        echo mine >cache/b && echo mine >build/b && stat -f -c %T cache build";
    let done = world.agent("alice").run(script).exits(0);
    let seen: Vec<String> = done.out().lines().map(str::to_owned).collect();
    assert_eq!(seen, ["x", "x", "overlayfs", "fuseblk"], "{done}");
    world.agent("alice").run(script).exits(0);
}

fn rules_are_for_the_agents_that_they_name(world: &World) {
    world.configure(
        "[[policy]]\nunits = [\"**\"]\nagents = [\"claude-*\"]\nunclaimed = \"deny\"\n\
         [[policy]]\nunits = [\"docs/\"]\nagents = [\"claude-*\"]\nunclaimed = \"claim\"\n",
    );
    let denied = world.agent("claude-1").run("echo x >>docs/x && ! echo x >>shared.txt").exits(0);
    assert!(denied.err().contains("Permission denied"), "{denied}");
    world.agent("bob").run("echo bob >>shared.txt").exits(0);
    assert_eq!(world.base("shared.txt"), "one\nbob\n");
}

fn a_lease_lives_as_long_as_its_policy_says(world: &World) {
    world.configure("publish = \"manual\"\n[[policy]]\nunits = [\"/src/\"]\nttl = \"1500ms\"\n");
    let mut alice = world
        .agent("alice")
        .start("echo a >src/a.txt; echo a >shared.txt; tell wrote; await end; exit 0");
    alice.hears("wrote");
    let units = || world.locks().iter().map(|lock| lock.unit.to_string()).collect::<Vec<String>>();
    let since = world.log().iter().map(|entry| entry.at).max().expect("there are entries");
    eventually("signs of life have prolonged it", || {
        let log = world.log();
        let renewed = log.iter().filter(|entry| entry.text.contains("alive"));
        let later = renewed.filter(|entry| entry.at.since(since).as_millis() > 2_000).count();
        (later > 0).then_some(())
    });
    assert_eq!(units(), ["shared.txt", "src/a.txt"], "while its run lives it is held");
    alice.tells("end");
    alice.finish().exits(0);
    eventually("the short one expires", || (units() == ["shared.txt"]).then_some(()));
    let ended = world.log().into_iter().rev().find(|entry| entry.text.contains("src/a.txt"));
    let ended = ended.expect("it is in the journal");
    assert_eq!(ended.text, "src/a.txt is free again, alice had it: no sign of life for too long");
    assert_eq!(ended.units, ["src/a.txt".parse().expect("a unit")]);
    world.agent("bob").run("echo bob >src/a.txt").exits(0);
    assert_eq!(world.recover().len(), 2, "the work of both is kept");
}

fn a_claimed_file_that_is_renamed_stays_claimed(world: &World) {
    world.configure("unclaimed = \"deny\"\nwait = \"500ms\"\n");
    let mut alice = world.agent("alice").flags("--claim src/a.txt").start(
        "mv src/a.txt src/moved.txt && echo more >>src/moved.txt && tell moved; await end; exit 0",
    );
    alice.hears("moved");
    let held: Vec<String> = world.locks().iter().map(|lock| lock.unit.to_string()).collect();
    assert_eq!(held, ["src/a.txt", "src/moved.txt"]);
    let busy = world.ctl("claim src/moved.txt --wait 100ms").run().exits(5);
    assert!(busy.err().contains("alice"), "{busy}");
    alice.tells("end");
    alice.finish().exits(0);
    promptly("both are free", || world.locks().is_empty().then_some(()));
    assert_eq!(world.base("src/moved.txt"), "alpha\nmore\n");
    assert!(!world.repo().join("src/a.txt").exists());
}
