//! What to confine: the facts that a sandbox is planned from.
//!
//! This is the only part that looks at the environment and at the host's directories. It decides
//! nothing about mounts: [`crate::plan`] does, from these facts alone.

use crate::env;
use agentfs_api::types::{Place, ScratchMounts, StartedRun};
use agentfs_core::{AgentName, RunId};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What one run is confined to, and what it may use.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Whose run.
    pub agent: AgentName,
    /// Which run.
    pub run: RunId,
    /// Where the view appears: the repository's own path.
    pub root: PathBuf,
    /// Where the view is served outside.
    pub view: PathBuf,
    /// The agent's own home outside.
    pub home: PathBuf,
    /// Where that home appears: the user's own home path.
    pub user_home: PathBuf,
    /// How the user's `HOME` is spelled, where a symbolic link is on the way to it.
    pub home_alias: Option<PathBuf>,
    /// The agent's control socket outside.
    pub socket: PathBuf,
    /// Who to be inside.
    pub identity: Identity,
    /// The working directory.
    pub cwd: PathBuf,
    /// The command and its arguments.
    pub argv: Vec<OsString>,
    /// The command's whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The system's directories, as they are at the top of the host.
    pub system: Vec<SystemEntry>,
    /// Where `/etc/resolv.conf` leads, if it leads to a place that is not a system directory.
    pub resolver: Option<PathBuf>,
    /// Directories with programs, read-only at their own path.
    pub tools: Vec<PathBuf>,
    /// Files and directories below `tools` that must not be readable.
    pub secrets: Vec<PathBuf>,
    /// Scratch directories to be mounted past the view, where they can be.
    pub scratch: Option<ScratchMounts>,
    /// Directories that must be reachable by no path: the daemon's state, views and sockets.
    pub hidden: Vec<PathBuf>,
    /// What the workspace's repository needs and the view does not have.
    pub places: Vec<Place>,
}

/// One entry at the top of the host's file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemEntry {
    /// A directory.
    Dir(PathBuf),
    /// A symbolic link, as `/bin` to `usr/bin`.
    Link {
        /// Where it is.
        at: PathBuf,
        /// What it says.
        to: PathBuf,
    },
}

impl SystemEntry {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Dir(path) | Self::Link { at: path, .. } => path,
        }
    }
}

/// How to become unprivileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The caller is not root: it stays who it is, in a user namespace of its own.
    Rootless {
        /// The caller's user.
        uid: u32,
        /// The caller's group.
        gid: u32,
    },
    /// The caller is root, and becomes this user and group.
    Become {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// Why no sandbox can be described.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The daemon does not say whom root should become.
    #[error(
        "a sandbox that root starts must become another user, and the daemon named none; start the daemon as root too, or run agentshim as a normal user"
    )]
    NobodyToBecome,
    /// Only root can become another user.
    #[error(
        "the daemon of this workspace runs as root and wants the agent to be user {0}; run agentshim as root too"
    )]
    NotRoot(u32),
    /// The current directory is gone or can't be named.
    #[error("the current directory can't be used: {0}; change to one that exists")]
    NoCurrentDirectory(std::io::Error),
}

/// Directories of the host that are shown read-only, where they exist.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix"];

/// Directories that the sandbox makes itself, so that no host directory may be shown there.
const OWN: [&str; 7] = ["/", "/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys"];

/// Directories below the home that a tool owns as a whole: its programs need what is beside them.
const TOOL_ROOTS: [&str; 38] = [
    ".asdf",
    ".bun",
    ".cabal",
    ".cargo",
    ".deno",
    ".dotnet",
    ".elan",
    ".fnm",
    ".foundry",
    ".gem",
    ".ghcup",
    ".goenv",
    ".jenv",
    ".juliaup",
    ".krew",
    ".linuxbrew",
    ".mix",
    ".nodenv",
    ".npm-global",
    ".npm-packages",
    ".nvm",
    ".opam",
    ".pixi",
    ".poetry",
    ".proto",
    ".pyenv",
    ".rbenv",
    ".rustup",
    ".rvm",
    ".rye",
    ".sdkman",
    ".volta",
    ".yarn",
    "anaconda3",
    "go",
    "miniconda3",
    "miniforge3",
    "mambaforge",
];

/// What tools keep beside their programs and nobody else may read.
const SECRETS: [&str; 5] = [
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".cabal/config",
    ".gem/credentials",
    ".rustup/.netrc",
];

impl Spec {
    /// Looks at this process's environment and the host, for `argv` in the run that the daemon
    /// has started. `private` are directories of the daemon that must stay out of reach.
    pub fn gather(
        started: &StartedRun,
        argv: Vec<OsString>,
        private: &[PathBuf],
    ) -> Result<Self, SpecError> {
        let cwd = std::env::current_dir().map_err(SpecError::NoCurrentDirectory)?;
        let identity = identity(started.run_as)?;
        let (user_home, home_alias) = user_home(started, std::env::var_os("HOME"));
        let hidden = hidden(started, private);
        let system = system_entries();
        let mut tools = Tools {
            home: &user_home,
            root: &started.root,
            hidden: &hidden,
            system: &system,
            found: Vec::new(),
        };
        tools.look_around(&argv);
        let tools = tools.found;
        let secrets = SECRETS
            .iter()
            .map(|name| user_home.join(name))
            .filter(|path| tools.iter().any(|tool| path.starts_with(tool)) && path.exists())
            .collect();
        let shown_home = home_alias.as_deref().unwrap_or(&user_home);
        let places = places(&started.places, &user_home);
        let mut env =
            env::inside(std::env::vars_os(), &started.agent, started.run, shown_home, &cwd);
        // A worktree around the workspace is shown as it is: it belongs to whom it belongs outside.
        for around in places.iter().filter(|place| started.root.starts_with(&place.at)) {
            env::let_git_find(&mut env, &around.at);
        }
        Ok(Self {
            env,
            agent: started.agent.clone(),
            run: started.run,
            root: started.root.clone(),
            view: started.view.clone(),
            home: started.home.clone(),
            user_home,
            home_alias,
            socket: started.socket.clone(),
            identity,
            cwd,
            argv,
            resolver: resolver(&system),
            system,
            tools,
            secrets,
            hidden,
            scratch: started.scratch.clone(),
            places,
        })
    }
}

fn identity(run_as: Option<(u32, u32)>) -> Result<Identity, SpecError> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    match run_as {
        Some((uid, gid)) if nix::unistd::geteuid().is_root() => Ok(Identity::Become { uid, gid }),
        None if uid == 0 => Err(SpecError::NobodyToBecome),
        Some((wanted, _)) if wanted != uid => Err(SpecError::NotRoot(wanted)),
        _ => Ok(Identity::Rootless { uid, gid }),
    }
}

/// Where the agent's home appears, and how `HOME` spells it where that is different.
fn user_home(started: &StartedRun, variable: Option<OsString>) -> (PathBuf, Option<PathBuf>) {
    let named = variable.map(PathBuf::from).filter(|home| {
        home.is_absolute()
            && !OWN.iter().chain(&SYSTEM).any(|own| home == Path::new(own))
            && home.to_str().is_some()
    });
    let Some(named) = named else {
        return (PathBuf::from(format!("/home/{}", started.agent)), None);
    };
    match named.canonicalize() {
        Ok(real) if real != named => (real, Some(named)),
        _ => (named, None),
    }
}

/// What may be shown of the places that the daemon has named: never the user's home, as where that
/// is a repository itself. Then a git directory is of no use either.
fn places(named: &[Place], user_home: &Path) -> Vec<Place> {
    let reveals = |place: &Place| user_home.starts_with(&place.at);
    let reveal = named.iter().any(reveals);
    let may = |place: &&Place| !reveal || !(reveals(place) || place.writable);
    named.iter().filter(may).cloned().collect()
}

/// The daemon's own directories, without those that others contain.
fn hidden(started: &StartedRun, private: &[PathBuf]) -> Vec<PathBuf> {
    let beside = [&started.view, &started.home, &started.socket];
    let mut all: Vec<PathBuf> =
        beside.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    all.extend_from_slice(private);
    all.sort();
    all.dedup();
    let inner = |path: &PathBuf| all.iter().any(|other| other != path && path.starts_with(other));
    all.iter().filter(|path| !inner(path)).cloned().collect()
}

fn system_entries() -> Vec<SystemEntry> {
    let entry = |at: &str| {
        let at = PathBuf::from(at);
        let kind = at.symlink_metadata().ok()?.file_type();
        if kind.is_symlink() {
            let to = at.read_link().ok()?;
            Some(SystemEntry::Link { at, to })
        } else {
            kind.is_dir().then_some(SystemEntry::Dir(at))
        }
    };
    SYSTEM.into_iter().filter_map(entry).collect()
}

/// Where `/etc/resolv.conf` leads, unless a system directory has it.
fn resolver(system: &[SystemEntry]) -> Option<PathBuf> {
    let real = Path::new("/etc/resolv.conf").canonicalize().ok()?;
    (!covered(system, &real)).then_some(real)
}

fn covered(system: &[SystemEntry], path: &Path) -> bool {
    system.iter().any(|entry| path.starts_with(entry.path()))
}

/// Finds the directories that programs need, beside the system's.
struct Tools<'a> {
    home: &'a Path,
    root: &'a Path,
    hidden: &'a [PathBuf],
    system: &'a [SystemEntry],
    found: Vec<PathBuf>,
}

impl Tools<'_> {
    fn look_around(&mut self, argv: &[OsString]) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> =
            std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
        for directory in &directories {
            self.add_program_directory(directory);
        }
        if let Some(program) = argv.first().and_then(|name| find_program(name, &directories)) {
            self.add_target(&program);
        }
        if let Some(rustup) = std::env::var_os("RUSTUP_HOME") {
            self.add(PathBuf::from(rustup));
        }
        if let Some(directory) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
            self.add(directory.to_owned());
        }
    }

    fn add_program_directory(&mut self, directory: &Path) {
        for needed in self.needed_by(directory) {
            self.add(needed);
        }
        // Installers of single tools put links here to a directory of the tool's own.
        if directory.starts_with(self.home)
            && let Ok(entries) = directory.read_dir()
        {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    self.add_target(&entry.path());
                }
            }
        }
    }

    /// Adds what the program behind a link needs, where that is elsewhere below the home.
    fn add_target(&mut self, program: &Path) {
        if let Ok(real) = program.canonicalize()
            && real.starts_with(self.home)
            && let Some(directory) = real.parent()
            && directory != self.home
        {
            for needed in self.needed_by(directory) {
                self.add(needed);
            }
        }
    }

    /// The directories without which the programs in `directory` do not work.
    fn needed_by(&self, directory: &Path) -> Vec<PathBuf> {
        // Python takes the file beside `bin` as the mark of a virtual environment.
        match directory.parent() {
            Some(environment) if environment.join("pyvenv.cfg").is_file() => {
                vec![environment.to_owned()]
            }
            _ => needed_by(self.home, directory),
        }
    }

    /// Adds a directory unless it is shown anyway, or shows what must not be seen.
    fn add(&mut self, directory: PathBuf) {
        let shown = covered(self.system, &directory)
            || directory.starts_with(self.root)
            || self.found.iter().any(|tool| directory.starts_with(tool));
        let reveals = OWN.iter().any(|own| directory == Path::new(own))
            || self.home.starts_with(&directory)
            || self.root.starts_with(&directory) && !directory.starts_with(self.home)
            || self.hidden.iter().any(|hidden| hidden.starts_with(&directory))
            || self.hidden.iter().any(|hidden| directory.starts_with(hidden))
            || ["/proc", "/dev", "/sys"].iter().any(|own| directory.starts_with(own));
        if !shown && !reveals && directory.to_str().is_some() && directory.is_dir() {
            self.found.retain(|tool| !tool.starts_with(&directory));
            self.found.push(directory);
        }
    }
}

/// The directories without which the programs in `directory` do not work. Pure: it knows the
/// layout of tools by name, and looks at nothing.
fn needed_by(home: &Path, directory: &Path) -> Vec<PathBuf> {
    let beside = |names: &[&str]| {
        let is_bin = directory.file_name() == Some(OsStr::new("bin"));
        let parent = directory.parent().filter(|parent| is_bin && *parent != home);
        let siblings = parent.into_iter().flat_map(|parent| names.iter().map(|n| parent.join(n)));
        std::iter::once(directory.to_owned()).chain(siblings).collect::<Vec<_>>()
    };
    let Ok(below) = directory.strip_prefix(home) else {
        return beside(&["lib", "libexec"]);
    };
    let parts: Vec<&OsStr> = below.iter().collect();
    match parts.as_slice() {
        [] => Vec::new(),
        [first, ..] if *first == ".cargo" => vec![home.join(".cargo"), home.join(".rustup")],
        [first, ..] if TOOL_ROOTS.iter().any(|root| first.as_bytes() == root.as_bytes()) => {
            vec![home.join(first)]
        }
        [local, share, tool, ..] if *local == ".local" && *share == "share" => {
            vec![home.join(".local/share").join(tool)]
        }
        _ => beside(&["lib", "libexec", "node_modules"]),
    }
}

/// The file that the command names, as a shell would find it.
fn find_program(name: &OsStr, directories: &[PathBuf]) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(directory: &str) -> Vec<String> {
        needed_by(Path::new("/home/u"), Path::new(directory))
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    #[test]
    fn a_tool_is_shown_with_what_it_needs_and_never_with_the_whole_home() {
        assert_eq!(needed("/home/u/.cargo/bin"), ["/home/u/.cargo", "/home/u/.rustup"]);
        assert_eq!(needed("/home/u/.nvm/versions/node/v22/bin"), ["/home/u/.nvm"]);
        assert_eq!(needed("/home/u/go/bin"), ["/home/u/go"]);
        assert_eq!(needed("/home/u/bin"), ["/home/u/bin"]);
        assert_eq!(needed("/home/u/.local/share/pipx/venvs/x/bin"), ["/home/u/.local/share/pipx"]);
        assert_eq!(
            needed("/home/u/.local/bin"),
            [
                "/home/u/.local/bin",
                "/home/u/.local/lib",
                "/home/u/.local/libexec",
                "/home/u/.local/node_modules"
            ]
        );
        assert_eq!(needed("/home/u"), [""; 0]);
        assert_eq!(needed("/srv/x"), ["/srv/x"]);
    }

    #[test]
    fn a_repository_around_the_home_is_not_shown() {
        let place = |at: &str, writable| Place { from: at.into(), at: at.into(), writable };
        let named = [place("/home", false), place("/home/.git", true), place("/objects", false)];
        let shown = |home: &str| places(&named, Path::new(home));
        assert_eq!(shown("/home/u"), [place("/objects", false)]);
        assert_eq!(shown("/home"), [place("/objects", false)]);
        assert_eq!(shown("/users/u"), named);
    }

    #[test]
    fn an_unknown_dot_directory_is_not_shown_as_a_whole() {
        assert!(!needed("/home/u/.claude/local/bin").contains(&"/home/u/.claude".to_owned()));
        assert!(!needed("/home/u/.ssh/bin").contains(&"/home/u/.ssh".to_owned()));
    }

    #[test]
    fn a_python_virtual_environment_is_shown_whole() {
        let place = tempfile::tempdir().unwrap();
        let (home, environment) = (place.path().join("home"), place.path().join("home/env"));
        std::fs::create_dir_all(environment.join("bin")).unwrap();
        std::fs::write(environment.join("pyvenv.cfg"), "").unwrap();
        let root = place.path().join("repo");
        let mut tools =
            Tools { home: &home, root: &root, hidden: &[], system: &[], found: Vec::new() };
        tools.add_program_directory(&environment.join("bin"));
        assert_eq!(tools.found, [environment]);
    }

    #[test]
    fn tools_never_reveal_home_state_or_the_repository() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path();
        for dir in ["home/bin", "state/views", "repo/bin", "tools"] {
            std::fs::create_dir_all(top.join(dir)).unwrap();
        }
        let hidden = [top.join("state")];
        let (home, root) = (top.join("home"), top.join("repo"));
        let mut tools =
            Tools { home: &home, root: &root, hidden: &hidden, system: &[], found: Vec::new() };
        for dir in ["", "home", "home/bin", "state", "state/views", "repo/bin", "tools", "none"] {
            tools.add(top.join(dir));
        }
        tools.add(PathBuf::from("/"));
        tools.add(PathBuf::from("/tmp"));
        assert_eq!(tools.found, [top.join("home/bin"), top.join("tools")]);
    }
}
