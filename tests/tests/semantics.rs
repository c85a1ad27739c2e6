//! `docs/semantics.md` and `docs/locks.md` are true: each of their `console` blocks is done in a fresh
//! workspace, and what they say that commands print is what they print.
//!
//! `$` is the user in the repository, `NAME$` an agent in its sandbox: one run for each name, which
//! begins with its first line and ends with `exit`. A line `...` stands for any lines, `[..]` for
//! anything within one.

use agentfs_tests::{Agent, User, World, programs};
use std::collections::BTreeMap;
use std::path::Path;

const SEMANTICS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/semantics.md");
const LOCKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/locks.md");

/// The one shell script that an agent is: from the step `$number` on, it does what it finds in its
/// home, one after the other.
const AGENT: &str = r#"
tell "begun-$number"
while await "$number"; do
    [ ! -e ~/"end-$number" ] || exit 0
    sh ~/"step-$number" >~/said 2>&1 || echo "(exit status $?)" >>~/said
    tell "$number"
    number=$((number + 1))
done
"#;

#[derive(Debug)]
struct Step {
    line: usize,
    who: String,
    command: String,
    expected: Vec<String>,
}

/// The steps of each block of the document.
fn blocks(text: &str) -> Vec<Vec<Step>> {
    let mut blocks: Vec<Vec<Step>> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
            if inside {
                blocks.push(Vec::new());
            }
            continue;
        }
        let Some(block) = blocks.last_mut().filter(|_| inside) else { continue };
        match line.split_once("$ ") {
            Some((who, command)) if who.bytes().all(|b| b.is_ascii_lowercase()) => {
                let (who, command) = (who.to_owned(), command.to_owned());
                block.push(Step { line: index + 1, who, command, expected: Vec::new() });
            }
            _ => {
                block.last_mut().expect("a block begins with a command").expected.push(line.into());
            }
        }
    }
    blocks
}

/// Whether what was printed is what the document says.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| is_line(line, first) && matches(rest, others)),
    }
}

fn is_line(expected: &str, printed: &str) -> bool {
    match expected.split_once("[..]") {
        None => expected == printed,
        Some((before, after)) => printed.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| is_line(after, &rest[at..]))
        }),
    }
}

/// An agent that runs, and the number of its next step; a later run of it counts on.
struct Actor<'w> {
    agent: Agent<'w>,
    next: u32,
}

impl<'w> Actor<'w> {
    fn begin(world: &'w World, name: &str, next: u32) -> Self {
        let mut agent = world.agent(name).start(&format!("number={next}\n{AGENT}"));
        agent.hears(&format!("begun-{next}"));
        Self { agent, next }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.agent.home().join(format!("{file}-{}", self.next));
        std::fs::write(path, text).expect("its home can be written to");
        self.agent.tells(&self.next.to_string());
    }

    fn does(&mut self, command: &str) -> String {
        self.write("step", command);
        self.agent.hears(&self.next.to_string());
        self.next += 1;
        self.agent.kept("said")
    }

    fn exits(self) -> String {
        self.write("end", "");
        let done = self.agent.finish().exits(0);
        format!("{}{}", done.out(), done.err())
    }
}

fn perform(document: &str, world: &World, block: &[Step]) {
    let mut agents: BTreeMap<&str, Actor<'_>> = BTreeMap::new();
    let mut steps: BTreeMap<&str, u32> = BTreeMap::new();
    for step in block {
        let who = step.who.as_str();
        let printed = match step.command.as_str() {
            command if who.is_empty() => {
                world.cmd(["sh", "-c", &format!("exec 2>&1; {command}")]).run().out()
            }
            "exit" => {
                let actor = agents.remove(who).expect("the agent runs");
                steps.insert(who, actor.next + 1);
                actor.exits()
            }
            command => {
                let next = steps.get(who).copied().unwrap_or_default();
                agents.entry(who).or_insert_with(|| Actor::begin(world, who, next)).does(command)
            }
        };
        let lines: Vec<&str> = printed.lines().collect();
        assert!(
            matches(&step.expected, &lines),
            "{document}:{}: {who}$ {}\nprinted, as {:?}:\n{printed}",
            step.line,
            step.command,
            world.user(),
        );
    }
    for (_, actor) in agents {
        actor.exits();
    }
}

fn every_example_is_true(document: &str, user: User) {
    let text = std::fs::read_to_string(Path::new(document)).expect("the document is there");
    let blocks = blocks(&text);
    assert!(blocks.len() > 3, "the document has examples");
    for block in blocks {
        perform(document, &World::new(user, programs!()), &block);
    }
}

#[test]
fn every_example_is_true_as_root() {
    every_example_is_true(SEMANTICS, User::Root);
}

#[test]
fn every_example_is_true_as_user() {
    every_example_is_true(SEMANTICS, User::Unprivileged);
}

#[test]
fn every_example_of_locks_is_true_as_root() {
    every_example_is_true(LOCKS, User::Root);
}

#[test]
fn every_example_of_locks_is_true_as_user() {
    every_example_is_true(LOCKS, User::Unprivileged);
}

#[test]
fn an_example_that_is_wrong_is_noticed() {
    let of = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches(&of("a\n...\nc[..]e"), &["a", "b", "b", "cde"]));
    assert!(matches(&of("..."), &[]));
    for (expected, printed) in
        [("a", "b"), ("a", "a\nb"), ("", "a"), ("a\n...\nc", "a\nb"), ("a[..]c", "ab")]
    {
        assert!(
            !matches(&of(expected), &printed.lines().collect::<Vec<_>>()),
            "{expected} {printed}"
        );
    }
}
