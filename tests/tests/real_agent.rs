//! The main job with a real agent: aider as it comes from its package index, every version pinned,
//! two at once on one repository. Only the language model is played, by a server on loopback
//! (`tests/agents/`): it says what a play has for each agent, and it is the proxy through which
//! any request to another host would go, and fail the test.

use agentfs_api::types::Outcome;
use agentfs_tests::{Running, World, eventually, in_both_worlds};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

in_both_worlds!(
    two_agents_edit_different_files_and_run_tests,
    two_agents_edit_the_same_file_and_both_changes_are_there,
);

fn two_agents_edit_different_files_and_run_tests(world: &World) {
    let mut model = Model::playing("two-files");
    prepare(world);
    let alice = aider(world, &model, "alice", "add() subtracts: fix and test it", "calc.py");
    let bob = aider(world, &model, "bob", "Greetings need a bye(), with a test", "greet.py");
    for agent in [alice, bob] {
        agent.finish().exits(0);
    }
    model.was_followed();
    everything_is_applied(world, 2);
    let (calc, greet) = (world.base("calc.py"), world.base("greet.py"));
    assert!(calc.contains("return a + b"), "alice's change is in base: {calc}");
    assert!(greet.contains("def bye"), "bob's change is in base: {greet}");
    base_passes(world, 4);
}

fn two_agents_edit_the_same_file_and_both_changes_are_there(world: &World) {
    let mut model = Model::playing("one-file");
    prepare(world);
    world.fs("mount .").ok();
    let alice = aider(world, &model, "alice", "add() subtracts: fix it", "calc.py");
    let bob = aider(world, &model, "bob", "calc needs a power(), with a test", "calc.py");
    let waiting = eventually("bob waits for calc.py", || {
        world.queue().into_iter().find(|one| one.agent.as_str() == "bob")
    });
    let wanted: Vec<String> = waiting.wants.iter().map(ToString::to_string).collect();
    assert_eq!(wanted, ["calc.py"]);
    assert_eq!(waiting.blockers[0].agent.as_str(), "alice");
    model.go();
    alice.finish().exits(0);
    let bob = bob.finish().exits(0);
    model.was_followed();

    let refused = "Resource temporarily unavailable";
    let said = bob.out().replace('\n', " ");
    assert!(said.contains(refused), "bob's first write was refused: {bob}");
    everything_is_applied(world, 2);
    let calc = world.base("calc.py");
    assert!(calc.contains("return a + b"), "alice's change is in base: {calc}");
    assert!(calc.contains("def power"), "bob's change is in base: {calc}");
    base_passes(world, 3);
}

/// The small Python repository that the plays are about, and the agent in the user's home.
fn prepare(world: &World) {
    let files = agents().join("repo").read_dir().expect("the plays' repository is there");
    for file in files.flatten() {
        let text = fs::read(file.path()).expect("its files can be read");
        world.cmd(["tee".into(), file.file_name()]).stdin(text).ok();
    }
    world.sh("git add -A; git commit -q -m 'A calculator'; mkdir -p ~/.local/share/agents").ok();
    let (from, to) = (environment(), world.home().join(".local/share/agents"));
    world
        .cmd(["mount".as_ref(), "--bind".as_ref(), from.as_os_str(), to.as_os_str()])
        .as_root()
        .ok();
}

/// aider under `agentshim run`, with a task; it may edit `file` and the file's test.
fn aider<'w>(world: &'w World, model: &Model, agent: &str, task: &str, file: &str) -> Running<'w> {
    let test = format!("test_{file}");
    let home = world.home();
    let path = format!(
        "{}/.local/share/agents/bin:{}/bin:/usr/local/bin:/usr/bin:/bin",
        home.display(),
        world.path().display()
    );
    let line = ["python", "-m", "aider", "--message", task, file, &test];
    let mut command = world
        .agent(agent)
        .cmd(&line)
        .env("PATH", path)
        .env("OPENAI_API_BASE", format!("{}/v1", model.address))
        .env("OPENAI_API_KEY", agent);
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command = command.env(proxy, &model.address);
    }
    for direct in ["no_proxy", "NO_PROXY"] {
        command = command.env(direct, "127.0.0.1");
    }
    command.start()
}

#[track_caller]
fn everything_is_applied(world: &World, runs: usize) {
    let outcomes: Vec<_> = world.runs().into_iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes.len(), runs);
    for outcome in outcomes {
        assert!(matches!(outcome, Some(Outcome::Applied { .. })), "{outcome:?}");
    }
    assert!(world.locks().is_empty(), "nothing is held any more");
}

/// The tests pass in base, and there are as many as there should be.
#[track_caller]
fn base_passes(world: &World, tests: usize) {
    let done = world.cmd(["python3", "-B", "-m", "unittest"]).ok();
    assert!(done.err().contains(&format!("Ran {tests} tests")), "{done}");
}

fn agents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("agents")
}

/// The virtual environment with the agent, made if it is not there.
fn environment() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("agents-venv");
    let made = Command::new(agents().join("make-venv")).arg(&directory).output();
    let made = made.expect("make-venv can be started");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    directory
}

/// The server that plays the language model. It ends when it is dropped.
struct Model {
    // One play at a time: each of its agents alone keeps a processor busy for seconds.
    _stage: File,
    server: Child,
    says: BufReader<ChildStdout>,
    address: String,
}

impl Model {
    fn playing(play: &str) -> Self {
        let stage = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("stage.lock"));
        let stage = stage.expect("the stage's lock can be made");
        stage.lock().expect("the stage can be locked");
        let mut server = Command::new("python3")
            .arg("-B")
            .arg(agents().join("llm_server.py"))
            .arg(play)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed; on Debian and Ubuntu: apt-get install python3-venv");
        let says = BufReader::new(server.stdout.take().expect("it is piped"));
        let mut model = Self { _stage: stage, server, says, address: String::new() };
        model.address = model.line();
        assert!(model.address.starts_with("http://"), "the model plays {play}");
        model
    }

    /// Gives the operator's cue.
    fn go(&mut self) {
        self.tell("go");
    }

    /// Panics unless every agent has had all its replies, and nobody asked for anything else.
    #[track_caller]
    fn was_followed(&mut self) {
        self.tell("report");
        let report: Value = serde_json::from_str(&self.line()).expect("the report is JSON");
        assert_eq!(report["trouble"], Value::Array(Vec::new()));
        for (agent, part) in report["parts"].as_object().expect("parts have names") {
            assert_eq!(part["asked"], part["replies"], "{agent} was to ask for every reply");
        }
    }

    fn tell(&mut self, command: &str) {
        let stdin = self.server.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{command}").expect("the model listens");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("the model can be heard");
        line.trim_end().to_owned()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
