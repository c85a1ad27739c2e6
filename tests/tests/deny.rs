//! `unclaimed = "deny"`: an agent writes what it has claimed, and nothing else.

use agentfs_tests::{World, in_both_worlds};

/// `try COMMAND` counts the command as refused, or lists it as allowed.
const TRY: &str = r#"
    refused=0
    try() { if sh -c "$1" 2>>~/said; then echo "$1" >>~/allowed; else refused=$((refused + 1)); fi; }
"#;

in_both_worlds!(
    a_write_outside_the_claims_is_refused_and_explained,
    no_way_of_writing_leads_around_it,
    an_agent_may_claim_and_then_write,
);

fn a_write_outside_the_claims_is_refused_and_explained(world: &World) {
    let mut alice = world.agent("alice").flags("--unclaimed deny --claim src/").start(
        "echo fine >src/a.txt && echo fine >src/new.txt || exit 8
         echo never >shared.txt 2>~/said && exit 9
         cat .agentfs/explain >~/why; tell refused; await end; exit 0",
    );
    alice.hears("refused");
    let sentence = "alice was refused shared.txt (open for writing) with EACCES: it has not claimed it, and unclaimed = \"deny\"";
    assert!(alice.kept("why").contains(sentence), "{}", alice.kept("why"));
    let why = world.explain("shared.txt");
    assert!(why.contains(sentence) && why.contains("--claim shared.txt"), "{why}");
    alice.tells("end");
    let done = alice.finish().exits(0);
    assert!(done.err().contains("waited:") || done.err().contains("refused"), "{done}");
    assert_eq!(world.base("src/a.txt"), "fine\n");
    assert_eq!(world.base("src/new.txt"), "fine\n");
    assert_eq!(world.base("shared.txt"), "one\n");
}

fn no_way_of_writing_leads_around_it(world: &World) {
    world.configure("unclaimed = \"deny\"\n");
    let before = world.tree();
    let ways = [
        "echo x >shared.txt",
        "echo x >>shared.txt",
        "echo x >fresh.txt",
        "rm shared.txt",
        "mv shared.txt other.txt",
        "mv src moved",
        "rm -r docs",
        "chmod 0777 shared.txt",
        "touch shared.txt",
        "truncate -s 0 shared.txt",
        "ln shared.txt hard",
        "ln -s x soft",
        "ln -sfn x docs/link",
        "mkfifo pipe",
        "cp README.md shared.txt",
    ];
    let tries: String = ways.iter().map(|way| format!("try '{way}'\n")).collect();
    let all = ways.len();
    let script = format!("{TRY}{tries}cat ~/allowed 2>/dev/null; [ $refused = {all} ]");
    let done = world.agent("alice").run(&script).exits(0);
    assert_eq!(done.out(), "", "these were allowed");
    assert_eq!(world.tree().differences(&before), [""; 0]);
}

fn an_agent_may_claim_and_then_write(world: &World) {
    world.configure("unclaimed = \"deny\"\n");
    let done = world.agent("alice").run(
        "echo early >shared.txt 2>/dev/null && exit 9
         agentctl claim shared.txt && echo now >shared.txt",
    );
    done.exits(0);
    assert_eq!(world.base("shared.txt"), "now\n");
}
