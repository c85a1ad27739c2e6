//! Processes inside a world: how they are started, watched and judged.

use crate::poll::{DEADLINE, eventually};
use crate::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// Writes its own process number, then becomes the command.
const INTRODUCE: &str = r#"echo $$ >"$0" && exec "$@""#;

/// A command to be run in a world, as the world's user, in the repository unless told otherwise.
#[derive(Debug)]
#[must_use = "a command does nothing until it is run or started"]
pub struct Cmd<'w> {
    world: &'w World,
    argv: Vec<OsString>,
    cwd: PathBuf,
    env: BTreeMap<OsString, OsString>,
    stdin: Option<Vec<u8>>,
    as_root: bool,
}

impl<'w> Cmd<'w> {
    pub(crate) fn new(world: &'w World, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self {
            world,
            argv: argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            cwd: world.repo(),
            env: world.environment(),
            stdin: None,
            as_root: false,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Runs it in `dir`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Takes a variable out of its environment.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Gives it something to read; else it reads `/dev/null`.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs it as root, also in the world of a user.
    pub fn as_root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Done {
        self.start().finish()
    }

    /// Runs it to its end, which must be a good one.
    #[track_caller]
    pub fn ok(self) -> Done {
        self.run().exits(0)
    }

    /// Runs it, and decodes the JSON that it prints.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(self) -> T {
        self.ok().json()
    }

    /// Starts it. Its output goes to files, so that it can be looked at while it runs.
    pub fn start(self) -> Running<'w> {
        let files = Files::new(self.world);
        if let Some(bytes) = &self.stdin {
            std::fs::write(&files.stdin, bytes).expect("the input can be written");
        }
        let stdin =
            if self.stdin.is_some() { files.stdin.as_path() } else { Path::new("/dev/null") };
        let create = |path: &Path| File::create(path).expect("the output's file can be made");
        let (world, what) = (self.world, self.line());
        let mut command = self.command(&files.pid);
        command
            .stdin(File::open(stdin).expect("the input can be opened"))
            .stdout(create(&files.stdout))
            .stderr(create(&files.stderr));
        let child = command.spawn().expect("nsenter can be started");
        Running { world, what, child, files }
    }

    /// Starts it with all three streams at `terminal`, which becomes its controlling terminal.
    pub(crate) fn start_at(self, terminal: impl Fn() -> io::Result<Stdio>) -> Running<'w> {
        let files = Files::new(self.world);
        let (world, what) = (self.world, self.line());
        let inner = self.command(&files.pid);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let stream = || terminal().expect("the terminal can be opened");
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        Running { world, what, child: child.expect("setsid can be started"), files }
    }

    fn line(&self) -> String {
        self.argv.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn command(self, pid: &Path) -> Command {
        let mut line: Vec<OsString> = self.world.enter().into_iter().map(OsString::from).collect();
        if !self.as_root {
            line.extend(self.world.become_user().into_iter().map(OsString::from));
        }
        line.extend(["env".into(), "-C".into(), self.cwd.into_os_string()]);
        line.extend(["sh".into(), "-c".into(), INTRODUCE.into(), pid.as_os_str().to_owned()]);
        line.extend(self.argv);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env_clear().envs(self.env);
        command
    }
}

/// Where a process's number and output are.
#[derive(Debug)]
struct Files {
    pid: PathBuf,
    stdin: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Files {
    fn new(world: &World) -> Self {
        let base = world.next_file();
        let file = |name: &str| base.with_extension(name);
        Self { pid: file("pid"), stdin: file("in"), stdout: file("out"), stderr: file("err") }
    }
}

/// A process that was started in a world.
#[derive(Debug)]
pub struct Running<'w> {
    world: &'w World,
    what: String,
    child: Child,
    files: Files,
}

impl Running<'_> {
    /// Its process number inside the world.
    pub fn pid(&self) -> u32 {
        eventually("the process says its number", || {
            std::fs::read_to_string(&self.files.pid).ok()?.trim().parse().ok()
        })
    }

    /// Sends it a signal, such as `"TERM"`.
    pub fn signal(&self, signal: &str) {
        self.world.signal(self.pid(), signal);
        if signal == "CONT" {
            // `nsenter` stops with what it has started, and goes on only when it is told to.
            let nsenter = Pid::from_raw(self.child.id().cast_signed());
            kill(nsenter, Signal::SIGCONT).expect("the signal can be sent");
        }
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.files.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.files.stderr)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the process can be looked at").is_some()
    }

    /// Waits for its end. Panics, with what it wrote, if there is none.
    #[track_caller]
    pub fn finish(mut self) -> Done {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the process can be looked at") {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "{self} does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let bytes = |path: &Path| std::fs::read(path).unwrap_or_default();
        Done {
            what: self.what.clone(),
            status,
            stdout: bytes(&self.files.stdout),
            stderr: bytes(&self.files.stderr),
        }
    }
}

impl std::fmt::Display for Running<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, err) = (self.stdout(), self.stderr());
        write!(f, "`{}`\n--- stdout\n{out}\n--- stderr\n{err}\n---", self.what)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Only the way into the world; what runs inside ends with the world.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A process that has ended.
#[derive(Debug)]
pub struct Done {
    what: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Done {
    /// The program that was run.
    pub fn program(&self) -> &str {
        self.what.split(' ').next().unwrap_or_default()
    }

    /// Its exit code as a shell shows it: 128+N for signal N.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Panics unless it exited with `code`.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "the check is what it is called for")]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code() == code, "expected exit {code}: {self}");
        self
    }

    /// Its standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Its standard output, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Its standard output, decoded from JSON.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no such JSON ({error}): {self}"),
        }
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, code) = (&self.what, self.code());
        write!(
            f,
            "`{what}` exited with {code}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.out(),
            self.err()
        )
    }
}
