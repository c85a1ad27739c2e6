//! A world: a repository, a home, the three programs, and a machine to themselves.

use crate::agent::Launch;
use crate::namespaces::Namespaces;
use crate::process::{Cmd, Done};
use crate::requirements::{self, SYSTEM_PATH};
use crate::tree::Tree;
use agentfs_api::types::{
    Agent, Explanation, Lock, LogEntry, Recoverable, Run, Settled, Status, Waiting,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Uid};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Where worlds are made: every user can go there, and it is a disk, as a repository's is.
const WORLDS: &str = "/var/tmp";

/// The unprivileged user. The host need not know it; inside its worlds it has a name.
const USER: u32 = 61_234;

/// What a world's repository begins with.
const REPOSITORY: &str = r"
git init -q -b main .
git config user.name Tester
git config user.email tester@example.com
mkdir -p src docs
printf 'one\n' >shared.txt
printf 'alpha\n' >src/a.txt
printf 'beta\n' >src/b.txt
printf 'gamma\n' >src/c.txt
printf '# A repository\n' >README.md
printf '#!/bin/sh\necho tool\n' >tool.sh
chmod 0755 tool.sh
head -c 5000 /dev/zero | tr '\0' '\377' >docs/image.bin
ln -s README.md docs/link
printf 'target/\n*.log\n' >.gitignore
git add -A
git commit -q -m 'The beginning'
find . -path ./.git -prune -o -exec touch -h -d '2020-02-03 04:05:06.123456789' {} +
git update-index -q --refresh
";

/// Where the programs under test are: see [`crate::programs`].
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The daemon.
    pub agentfs: &'static str,
    /// The process wrapper.
    pub agentshim: &'static str,
    /// The control program.
    pub agentctl: &'static str,
}

/// Who works in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Root.
    Root,
    /// Somebody without any privilege, for whom fusermount3 mounts.
    Unprivileged,
}

/// A repository and all that goes with it. Dropped, nothing of it is left.
#[derive(Debug)]
pub struct World {
    // The order matters: first all processes end, then the files go.
    namespaces: Namespaces,
    dir: TempDir,
    user: User,
    files: AtomicU32,
}

impl World {
    /// A world with a repository of a few files and one commit, and no daemon.
    pub fn new(user: User, programs: Programs) -> Self {
        requirements::demand();
        let dir = tempfile::Builder::new().prefix("afs-").tempdir_in(WORLDS);
        let dir = dir.expect("a directory for the world can be made");
        let at = |name: &str| dir.path().join(name);
        open_to_all(dir.path());
        if user == User::Unprivileged {
            give(dir.path());
        }
        for name in ["bin", "repo", "home", "s", "r", "device", "files"] {
            fs::create_dir(at(name)).expect("the world's directories can be made");
            open_to_all(&at(name));
            if user == User::Unprivileged && name != "bin" {
                give(&at(name));
            }
        }
        for (from, name) in [
            (programs.agentfs, "agentfs"),
            (programs.agentshim, "agentshim"),
            (programs.agentctl, "agentctl"),
        ] {
            let to = at("bin").join(name);
            if fs::hard_link(from, &to).is_err() {
                fs::copy(from, &to).expect("the programs can be copied");
            }
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let home = at("home").display().to_string();
        let line = format!("agentfs-e2e:x:{USER}:{USER}::{home}:/bin/sh\n");
        fs::write(at("passwd"), passwd + &line).expect("the world's passwd can be written");
        let (device, passwd) = (at("device"), at("passwd"));
        let usual = (user == User::Unprivileged).then_some((device.as_path(), passwd.as_path()));
        let namespaces = Namespaces::new(usual);
        let world = Self { namespaces, dir, user, files: AtomicU32::default() };
        world.sh(REPOSITORY).ok();
        world
    }

    /// Who works in it.
    pub fn user(&self) -> User {
        self.user
    }

    /// The directory that all of it lies in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The repository: base.
    pub fn repo(&self) -> PathBuf {
        self.path().join("repo")
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// What `AGENTFS_STATE_DIR` names.
    pub fn state_dir(&self) -> PathBuf {
        self.path().join("s")
    }

    /// What `AGENTFS_RUNTIME_DIR` names: short, since the paths of sockets must be.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path().join("r")
    }

    /// Where an agent's home is kept.
    pub fn home_of(&self, agent: &str) -> Option<PathBuf> {
        self.states().into_iter().map(|state| state.join("agents").join(agent).join("home")).next()
    }

    /// The state directories of the workspaces that were served in this world.
    pub fn states(&self) -> Vec<PathBuf> {
        let places = [self.state_dir(), self.home().join(".local/state/agentfs")];
        let entries = places.iter().filter_map(|place| place.read_dir().ok()).flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// Any command, as the world's user, in the repository.
    pub fn cmd(&self, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Cmd<'_> {
        Cmd::new(self, argv)
    }

    /// A shell script, likewise; its first failure ends it.
    pub fn sh(&self, script: &str) -> Cmd<'_> {
        self.cmd(["sh", "-euc", script])
    }

    /// `agentctl` with arguments separated by spaces.
    pub fn ctl(&self, arguments: &str) -> Cmd<'_> {
        self.cmd(["agentctl"].into_iter().chain(arguments.split_whitespace()))
    }

    /// `agentfs` likewise.
    pub fn fs(&self, arguments: &str) -> Cmd<'_> {
        self.cmd(["agentfs"].into_iter().chain(arguments.split_whitespace()))
    }

    /// `agentshim` likewise.
    pub fn shim(&self, arguments: &str) -> Cmd<'_> {
        self.cmd(["agentshim"].into_iter().chain(arguments.split_whitespace()))
    }

    /// An agent to be launched: `agentshim run --agent NAME`.
    pub fn agent(&self, name: &str) -> Launch<'_> {
        Launch::new(self, name)
    }

    /// `git` in the repository, with arguments separated by spaces; what it prints.
    #[track_caller]
    pub fn git(&self, arguments: &str) -> String {
        self.cmd(["git"].into_iter().chain(arguments.split_whitespace())).ok().out()
    }

    /// Writes `agentfs.toml`.
    pub fn configure(&self, text: &str) {
        self.cmd(["tee", "agentfs.toml"]).stdin(text).ok();
    }

    /// The text of a file of base.
    #[track_caller]
    pub fn base(&self, path: &str) -> String {
        match fs::read_to_string(self.repo().join(path)) {
            Ok(text) => text,
            Err(error) => panic!("{path} in base: {error}"),
        }
    }

    /// Everything in base but `.git`.
    pub fn tree(&self) -> Tree {
        Tree::of(&self.repo())
    }

    /// Where the agent's view is served, as the daemon says.
    #[track_caller]
    pub fn view(&self, agent: &str) -> PathBuf {
        let agents = self.agents();
        let found = agents.into_iter().find(|known| known.name.as_str() == agent);
        found.and_then(|known| known.view).expect("the agent has a view")
    }

    /// The text of a file in an agent's view, read by the world's user from outside.
    #[track_caller]
    pub fn seen_by(&self, agent: &str, path: &str) -> String {
        self.cmd(["cat"]).arg(self.view(agent).join(path)).ok().out()
    }

    /// `agentctl agents`.
    #[track_caller]
    pub fn agents(&self) -> Vec<Agent> {
        self.ctl("agents --json").json()
    }

    /// `agentctl runs`.
    #[track_caller]
    pub fn runs(&self) -> Vec<Run> {
        self.ctl("runs --json").json()
    }

    /// `agentctl locks`.
    #[track_caller]
    pub fn locks(&self) -> Vec<Lock> {
        self.ctl("locks --json").json()
    }

    /// `agentctl queue`.
    #[track_caller]
    pub fn queue(&self) -> Vec<Waiting> {
        self.ctl("queue --json").json()
    }

    /// `agentctl recover`.
    #[track_caller]
    pub fn recover(&self) -> Vec<Recoverable> {
        self.ctl("recover --json").json()
    }

    /// `agentctl log`.
    #[track_caller]
    pub fn log(&self) -> Vec<LogEntry> {
        self.ctl("log --json").json()
    }

    /// `agentctl explain`, about everything or one path.
    #[track_caller]
    pub fn explain(&self, path: &str) -> String {
        let explanation: Explanation = self.ctl(&format!("explain --json {path}")).json();
        explanation.sentences.join("\n")
    }

    /// `agentctl apply`, which must succeed.
    #[track_caller]
    pub fn apply(&self, agent: &str) -> Settled {
        self.ctl(&format!("apply --json {agent}")).json()
    }

    /// `agentfs status`.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.fs("status --json").json()
    }

    /// What is mounted in the world by agentfs.
    pub fn mounted_views(&self) -> Vec<String> {
        let mounts = self.cmd(["cat", "/proc/self/mounts"]).ok().out();
        // The world began with the host's mounts, which are none of its business.
        let own = format!("{}/", self.path().display());
        let views = mounts.lines().filter(|line| line.starts_with("agentfs:"));
        let places = views.filter_map(|line| line.split(' ').nth(1));
        places.filter(|place| place.starts_with(&own)).map(str::to_owned).collect()
    }

    /// Sends a signal, such as `"TERM"`, to a process of this world.
    #[track_caller]
    pub fn signal(&self, pid: u32, signal: &str) {
        let signal: Signal = format!("SIG{signal}").parse().expect("there is such a signal");
        let process = self.namespaces.host_pid(pid).expect("the process is there");
        kill(process, signal).expect("the signal can be sent");
    }

    /// Whether the world has a process of this number.
    pub fn is_running(&self, pid: u32) -> bool {
        self.namespaces.host_pid(pid).is_some()
    }

    /// Whether any process of this world has `mark` in its command line.
    pub fn has_process(&self, mark: &str) -> bool {
        let list = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
        let done: Done = self.cmd(["sh", "-c", list]).as_root().run();
        done.out().contains(mark)
    }

    pub(crate) fn environment(&self) -> BTreeMap<OsString, OsString> {
        let bin = self.path().join("bin");
        let path = format!("{}:{SYSTEM_PATH}", bin.display());
        let variables: [(&str, OsString); 8] = [
            ("PATH", path.into()),
            ("HOME", self.home().into()),
            ("LANG", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
            ("AGENTFS_STATE_DIR", self.state_dir().into()),
            ("AGENTFS_RUNTIME_DIR", self.runtime_dir().into()),
            ("RUST_BACKTRACE", "1".into()),
            ("TERM", "xterm".into()),
        ];
        variables.map(|(name, value)| (name.into(), value)).into()
    }

    pub(crate) fn enter(&self) -> Vec<String> {
        self.namespaces.enter()
    }

    /// What makes a process the world's user; the same for root, who stays root.
    pub(crate) fn become_user(&self) -> Vec<String> {
        match self.user {
            User::Root => Vec::new(),
            User::Unprivileged => vec![
                "setpriv".to_owned(),
                format!("--reuid={USER}"),
                format!("--regid={USER}"),
                "--clear-groups".to_owned(),
                "--".to_owned(),
            ],
        }
    }

    /// A name for the files of one process, without extension.
    pub(crate) fn next_file(&self) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        self.path().join("files").join(number.to_string())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for state in self.states() {
                let log = fs::read_to_string(state.join("daemon.log")).unwrap_or_default();
                eprintln!("--- the daemon's log, {}\n{log}---", state.display());
            }
        }
    }
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
}

fn give(path: &Path) {
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    nix::unistd::chown(path, Some(user), Some(group)).expect("it can be given away");
}
