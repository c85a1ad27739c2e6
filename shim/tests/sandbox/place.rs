//! A repository, a view, a user's home and an agent's home, and a way to run things in between.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A user without a name, a group or any right.
const STRANGER: u32 = 4242;
/// Whom root becomes.
const NOBODY: u32 = 65534;

/// Who starts the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starter {
    /// Root, which becomes nobody.
    Root,
    /// A user who is not root.
    User,
}

/// A directory with everything that a sandbox needs; gone when dropped.
pub struct Place {
    directory: tempfile::TempDir,
    /// Who starts sandboxes here.
    pub starter: Starter,
    /// The agent's control socket: something listens.
    pub socket: UnixListener,
}

/// Runs `test` at a fresh place for each way to start a sandbox on this machine.
pub fn everywhere(test: impl Fn(&Place)) {
    let is_root = nix::unistd::geteuid().is_root();
    let starters: &[Starter] =
        if is_root { &[Starter::Root, Starter::User] } else { &[Starter::User] };
    for starter in starters {
        eprintln!("started by {starter:?}:");
        test(&Place::new(*starter));
    }
}

impl Place {
    fn new(starter: Starter) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket_path = directory.path().join("state/sockets/alice.sock");
        for dir in ["repo/.git", "repo/sub", "view/.git", "view/sub", "user/.ssh", "user/bin"] {
            std::fs::create_dir_all(directory.path().join(dir)).unwrap();
        }
        for dir in ["state/views", "state/homes/alice", "state/views/bob", "programs", "other"] {
            std::fs::create_dir_all(directory.path().join(dir)).unwrap();
        }
        std::fs::create_dir_all(socket_path.parent().unwrap()).unwrap();
        std::fs::rename(directory.path().join("view"), directory.path().join("state/views/alice"))
            .unwrap();
        let socket = UnixListener::bind(socket_path).unwrap();
        let place = Self { directory, starter, socket };
        place.write("repo/file", "base\n");
        place.write("state/views/alice/file", "view\n");
        place.write("state/views/bob/file", "bob\n");
        place.write("other/secret", "secret\n");
        place.write("user/.ssh/id_ed25519", "key\n");
        place.write("user/notes", "notes\n");
        place.install(env!("CARGO_BIN_EXE_agentshim").as_ref(), "programs/agentshim");
        let run_as = (starter == Starter::Root).then_some((NOBODY, NOBODY));
        let answer = serde_json::json!({
            "run": 1, "agent": "alice", "root": place.path("repo"),
            "view": place.path("state/views/alice"), "home": place.path("state/homes/alice"),
            "socket": place.path("state/sockets/alice.sock"), "run_as": run_as,
            "heartbeat": "10s",
        });
        place.write("started.json", &answer.to_string());
        place.hand_over();
        place
    }

    /// Gives each part to whom it belongs on a real machine.
    fn hand_over(&self) {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.directory.path(), mode).unwrap();
        if nix::unistd::geteuid().is_root() {
            let (user, agent) = match self.starter {
                Starter::Root => (0, NOBODY),
                Starter::User => (STRANGER, STRANGER),
            };
            chown(self.directory.path(), user);
            chown(&self.path("state/views/alice"), agent);
            chown(&self.path("state/homes/alice"), agent);
            chown(&self.path("state/sockets/alice.sock"), agent);
        }
    }

    /// A path here.
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Writes a file here.
    pub fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes a shell script here.
    pub fn write_script(&self, below: &str, text: &str) {
        let draft = format!("{below}.draft");
        self.write(&draft, &format!("#!/bin/sh\n{text}\n"));
        self.install(&self.path(&draft), below);
        std::fs::remove_file(self.path(&draft)).unwrap();
    }

    /// Puts a program here. By another process: a descriptor for writing that this one had, and
    /// that a child of another test still has, would make the program busy.
    fn install(&self, from: &Path, below: &str) {
        let mut install = Command::new("install");
        assert!(install.args([from, &self.path(below)]).status().unwrap().success());
    }

    /// The text of a file here.
    pub fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).unwrap()
    }

    /// `program` outside, as the user who starts sandboxes, standing in the repository.
    pub fn outside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path("repo"))
            .env("HOME", self.path("user"))
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("user/bin").display()),
            )
            .env_remove("RUSTUP_HOME")
            .env("AGENTFS_STATE_DIR", self.path("state"))
            .env("AGENTFS_RUNTIME_DIR", self.path("state"))
            .stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() && self.starter == Starter::User {
            command.uid(STRANGER).gid(STRANGER);
        }
        command
    }

    /// The arguments after `agentshim` that run `argv` inside.
    pub fn confine<'a>(&self, argv: &[&'a str]) -> Vec<std::borrow::Cow<'a, str>> {
        let started = self.path("started.json").display().to_string();
        let own = ["confine".into(), started.into(), "--".into()];
        own.into_iter().chain(argv.iter().map(|arg| (*arg).into())).collect()
    }

    /// The program under test.
    pub fn agentshim(&self) -> PathBuf {
        self.path("programs/agentshim")
    }

    /// `argv` inside.
    pub fn inside(&self, argv: &[&str]) -> Command {
        let mut command = self.outside(self.agentshim());
        command.args(self.confine(argv).iter().map(AsRef::as_ref));
        command
    }

    /// A shell script inside.
    pub fn script(&self, script: &str) -> Output {
        let output = self.inside(&["sh", "-c", script]).output().unwrap();
        eprintln!("{script}\n{}", show(&output));
        output
    }

    /// What a shell script prints inside; it must succeed.
    pub fn says(&self, script: &str) -> String {
        let output = self.script(script);
        assert!(output.status.success(), "{script}: {}", show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asserts that a shell script succeeds outside and fails inside.
    pub fn refused(&self, script: &str) {
        let control = self.outside("sh").args(["-c", script]).output().unwrap();
        assert!(control.status.success(), "outside: {script}: {}", show(&control));
        let output = self.script(script);
        assert!(!output.status.success(), "{script} succeeds inside");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.starts_with("agentshim:"), "no sandbox: {said}");
    }
}

/// An output for people.
pub fn show(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn chown(path: &Path, owner: u32) {
    let metadata = path.symlink_metadata().unwrap();
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if metadata.is_dir() {
        for entry in path.read_dir().unwrap() {
            chown(&entry.unwrap().path(), owner);
        }
    }
}
