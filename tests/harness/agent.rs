//! Agents: shell scripts under `agentshim run`, which the test and they themselves can pace.
//!
//! They talk through empty files in the agent's home, which is private to the agent inside and
//! lies in the daemon's state directory outside. A script knows `tell NAME`, which the test hears
//! by [`Agent::hears`], and `await NAME`, which ends after the test's [`Agent::tells`].

use crate::poll::{DEADLINE, eventually};
use crate::process::{Cmd, Done, Running};
use crate::world::World;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

const PRELUDE: &str = r#"
tell() { echo >"$HOME/told-$1"; }
await() { until [ -e "$HOME/go-$1" ]; do sleep 0.02; done; }
"#;

/// An agent that is about to be launched.
#[derive(Debug)]
#[must_use = "an agent does nothing until it is run or started"]
pub struct Launch<'w> {
    world: &'w World,
    name: String,
    flags: Vec<String>,
}

impl<'w> Launch<'w> {
    pub(crate) fn new(world: &'w World, name: &str) -> Self {
        Self { world, name: name.to_owned(), flags: Vec::new() }
    }

    /// More flags for `agentshim run`, separated by spaces.
    pub fn flags(mut self, flags: &str) -> Self {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// The command line that runs `argv`.
    pub fn cmd(&self, argv: &[&str]) -> Cmd<'w> {
        let run = ["agentshim", "run", "--agent", &self.name];
        let flags = self.flags.iter().map(String::as_str);
        self.world.cmd(run.into_iter().chain(flags).chain(["--"]).chain(argv.iter().copied()))
    }

    /// The command line that runs a shell script.
    pub fn sh(&self, script: &str) -> Cmd<'w> {
        self.cmd(&["sh", "-c", &format!("{PRELUDE}{script}")])
    }

    /// Runs a shell script to its end.
    pub fn run(&self, script: &str) -> Done {
        self.sh(script).run()
    }

    /// Starts a shell script.
    pub fn start(self, script: &str) -> Agent<'w> {
        let running = self.sh(script).start();
        Agent { world: self.world, name: self.name, running }
    }
}

/// An agent that runs.
#[derive(Debug)]
pub struct Agent<'w> {
    world: &'w World,
    name: String,
    running: Running<'w>,
}

impl Agent<'_> {
    /// Where its home is kept.
    pub fn home(&self) -> PathBuf {
        eventually("the agent has a home", || self.world.home_of(&self.name))
    }

    /// Whether its script has told `what`.
    pub fn has_told(&self, what: &str) -> bool {
        let home = self.world.home_of(&self.name);
        home.is_some_and(|home| home.join(format!("told-{what}")).exists())
    }

    /// Waits until its script tells `what`. Panics if it ends before it does.
    #[track_caller]
    pub fn hears(&mut self, what: &str) {
        let begun = Instant::now();
        while !self.has_told(what) {
            let ended = self.running.has_ended() && !self.has_told(what);
            let patient = !ended && begun.elapsed() < DEADLINE;
            assert!(patient, "{} never told {what:?}: {}", self.name, self.running);
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
    }

    /// Lets its script go on after `await what`.
    pub fn tells(&self, what: &str) {
        fs::write(self.home().join(format!("go-{what}")), "").expect("its home can be written to");
    }

    /// The text of a file in its home.
    #[track_caller]
    pub fn kept(&self, file: &str) -> String {
        match fs::read(self.home().join(file)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => panic!("{file} in {}'s home: {error}: {}", self.name, self.running),
        }
    }

    /// Waits until one of its writes stands in the queue.
    #[track_caller]
    pub fn queues(&mut self) -> agentfs_api::types::Waiting {
        let begun = Instant::now();
        loop {
            let queue = self.world.queue();
            if let Some(mine) = queue.into_iter().find(|one| one.agent.as_str() == self.name) {
                return mine;
            }
            let patient = !self.running.has_ended() && begun.elapsed() < DEADLINE;
            assert!(patient, "{} never waits: {}", self.name, self.running);
        }
    }

    /// Sends its `agentshim` a signal, such as `"KILL"`.
    pub fn signal(&self, signal: &str) {
        self.running.signal(signal);
    }

    /// What its `agentshim` has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Done {
        self.running.finish()
    }
}
