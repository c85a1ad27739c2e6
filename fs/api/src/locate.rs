//! Where a workspace is, and where its state and its sockets are.
//!
//! The workspace is found from the current directory upwards, as git does. Its state lies under
//! `$AGENTFS_STATE_DIR`, else `$XDG_STATE_HOME/agentfs`, else `~/.local/state/agentfs`; its
//! sockets and views under `$AGENTFS_RUNTIME_DIR`, else `/run/agentfs` for root and
//! `$XDG_RUNTIME_DIR/agentfs` for others, else `/tmp/agentfs-UID`. Below both, each workspace has
//! a directory named after itself and a hash of its path.

use agentfs_core::{AgentName, RelPath};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why no workspace was found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The path given does not exist or can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a file.
    #[error("{} is not a directory; name the repository to serve", .0.display())]
    NotADirectory(PathBuf),
    /// Neither it nor a directory above it is a repository.
    #[error(
        "{} is in no git repository and no directory with an agentfs.toml; change to one, or serve a directory by `agentfs mount DIR`", .0.display()
    )]
    NoWorkspace(PathBuf),
    /// Neither `$HOME` nor `$XDG_STATE_HOME` is set.
    #[error(
        "neither HOME nor XDG_STATE_HOME is set; set AGENTFS_STATE_DIR to say where state may be kept"
    )]
    NoStateDir,
}

/// A workspace and the places that belong to it. Holding one says nothing about a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The real directory, absolute and without symbolic links.
    pub root: PathBuf,
    /// Where journal, deltas and homes are kept.
    pub state_dir: PathBuf,
    /// Where sockets and views are.
    pub runtime_dir: PathBuf,
}

impl Workspace {
    /// The workspace whose root is exactly `dir`.
    pub fn at(dir: &Path) -> Result<Self, LocateError> {
        let root = canonical_dir(dir)?;
        Ok(Places::of_this_user()?.workspace(&root))
    }

    /// The workspace that `dir` lies in: the nearest directory upwards that a daemon serves, else
    /// the nearest that one has ever served, else the nearest with an `agentfs.toml` or a `.git`.
    ///
    /// So a submodule or a nested repository belongs to the workspace around it, whether or not
    /// that has a daemon at the moment.
    pub fn containing(dir: &Path) -> Result<Self, LocateError> {
        let start = canonical_dir(dir)?;
        Places::of_this_user()?.containing(&start).ok_or(LocateError::NoWorkspace(start))
    }

    /// The operator's control socket.
    pub fn operator_socket(&self) -> PathBuf {
        self.runtime_dir.join("operator.sock")
    }

    /// The control socket of one agent, mounted into its sandbox.
    pub fn agent_socket(&self, agent: &AgentName) -> PathBuf {
        self.runtime_dir.join("agents").join(format!("{agent}.sock"))
    }

    /// Where views are mounted unless the user names a mountpoint.
    pub fn default_mountpoint(&self) -> PathBuf {
        self.runtime_dir.join("views")
    }

    /// What the daemon writes when it runs in the background.
    pub fn daemon_log(&self) -> PathBuf {
        self.state_dir.join("daemon.log")
    }

    /// Whether nobody but this user can have put sockets there: the directory is this user's own,
    /// or is not there. (Where `XDG_RUNTIME_DIR` is not set it lies in `/tmp`.)
    pub fn runtime_dir_is_ours(&self) -> bool {
        match self.runtime_dir.symlink_metadata() {
            Ok(found) => {
                let user = rustix::process::geteuid().as_raw();
                found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0
            }
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Whether a daemon has ever served this workspace: there is a journal.
    pub fn has_state(&self) -> bool {
        self.state_dir.join("journal.db").exists()
    }

    /// The path of `path` below the root, where the user stands in `cwd`; none if outside.
    ///
    /// Works by text, because the path need not exist.
    pub fn relative(&self, cwd: &Path, path: &Path) -> Option<RelPath> {
        let absolute = cwd.join(path);
        let below = absolute.as_os_str().as_bytes();
        let normal = RelPath::from_bytes(below.strip_prefix(b"/")?).ok()?;
        let root =
            RelPath::from_bytes(self.root.as_os_str().as_bytes().strip_prefix(b"/")?).ok()?;
        normal.rebase(&root, &RelPath::root())
    }
}

/// Where one user's workspaces have what belongs to them.
struct Places {
    state: PathBuf,
    runtime: PathBuf,
}

impl Places {
    fn of_this_user() -> Result<Self, LocateError> {
        Ok(Self { state: state_base()?, runtime: runtime_base() })
    }

    fn workspace(&self, root: &Path) -> Workspace {
        let id = id_of(root);
        Workspace {
            root: root.to_owned(),
            state_dir: self.state.join(&id),
            runtime_dir: self.runtime.join(&id),
        }
    }

    /// The nearest that is served; else, no further up than the nearest repository of its own,
    /// the nearest that has state; else the nearest that looks like one.
    fn containing(&self, start: &Path) -> Option<Workspace> {
        let upwards = || start.ancestors().map(|dir| self.workspace(dir));
        let served = upwards().find(|workspace| workspace.operator_socket().exists());
        served.or_else(|| {
            let top = upwards().position(|workspace| stands_alone(&workspace.root));
            let within = top.map_or(usize::MAX, |top| top + 1);
            let with_state = upwards().take(within).find(Workspace::has_state);
            with_state.or_else(|| upwards().find(|workspace| is_marked(&workspace.root)))
        })
    }
}

/// Whether `dir` is a repository of its own, not part of another: a submodule's `.git` is a file.
fn stands_alone(dir: &Path) -> bool {
    dir.join(agentfs_core::config::FILE_NAME).is_file() || dir.join(".git").is_dir()
}

/// Whether `dir` looks like something to serve.
fn is_marked(dir: &Path) -> bool {
    dir.join(agentfs_core::config::FILE_NAME).is_file() || dir.join(".git").exists()
}

/// The roots of all workspaces that a daemon of this user serves now.
pub fn served() -> Vec<PathBuf> {
    let dirs = runtime_base().read_dir().into_iter().flatten().flatten();
    let sockets = dirs.map(|dir| dir.path().join("operator.sock")).filter(|path| path.exists());
    let status = |socket: PathBuf| {
        let client = crate::Client::on_socket(&socket, Path::new("?")).ok()?;
        client.status().ok()
    };
    sockets.filter_map(status).map(|status| status.root).collect()
}

fn canonical_dir(dir: &Path) -> Result<PathBuf, LocateError> {
    let unreadable = |source| LocateError::Unreadable { path: dir.to_owned(), source };
    let root = dir.canonicalize().map_err(unreadable)?;
    if root.is_dir() { Ok(root) } else { Err(LocateError::NotADirectory(dir.to_owned())) }
}

/// A directory name for a workspace: its own name, made safe, and a hash of its path.
fn id_of(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).take(24).collect();
    let hash = blake3::hash(root.as_os_str().as_bytes()).to_hex();
    format!("{name}-{}", &hash[..8])
}

fn state_base() -> Result<PathBuf, LocateError> {
    variable("AGENTFS_STATE_DIR")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_STATE_HOME").map(|dir| PathBuf::from(dir).join("agentfs")))
        .or_else(|| variable("HOME").map(|dir| PathBuf::from(dir).join(".local/state/agentfs")))
        .ok_or(LocateError::NoStateDir)
}

fn runtime_base() -> PathBuf {
    let user = rustix::process::geteuid();
    if let Some(dir) = variable("AGENTFS_RUNTIME_DIR") {
        return PathBuf::from(dir);
    }
    if user.is_root() {
        return PathBuf::from("/run/agentfs");
    }
    match variable("XDG_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir).join("agentfs"),
        None => PathBuf::from(format!("/tmp/agentfs-{}", user.as_raw())),
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(root: &str) -> Workspace {
        Workspace { root: root.into(), state_dir: "/s".into(), runtime_dir: "/r".into() }
    }

    #[test]
    fn paths_are_relative_to_the_root_whereever_the_user_stands() {
        let w = workspace("/home/u/repo");
        let rel = |cwd: &str, path: &str| {
            w.relative(Path::new(cwd), Path::new(path)).map(|p| p.to_string())
        };
        assert_eq!(rel("/home/u/repo/src", "a.rs").as_deref(), Some("src/a.rs"));
        assert_eq!(rel("/home/u/repo/src", "../b").as_deref(), Some("b"));
        assert_eq!(rel("/tmp", "/home/u/repo/x").as_deref(), Some("x"));
        assert_eq!(rel("/home/u/repo", "../other/x"), None);
        assert_eq!(rel("/home/u/repo", "/home/u/repo2/x"), None);
        assert_eq!(rel("/home/u/repo", ".").as_deref(), Some("."));
    }

    #[test]
    fn two_directories_of_one_name_are_two_workspaces() {
        assert_ne!(id_of(Path::new("/a/repo")), id_of(Path::new("/b/repo")));
        assert!(id_of(Path::new("/a/my repo")).starts_with("my_repo-"));
    }

    #[test]
    fn a_nested_repository_belongs_to_the_workspace_around_it_that_has_state() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let places = Places { state: top.join("state"), runtime: top.join("runtime") };
        let (outer, inner) = (top.join("outer"), top.join("outer/vendor/inner"));
        std::fs::create_dir_all(outer.join(".git")).unwrap();
        std::fs::create_dir_all(inner.join("src")).unwrap();
        // A submodule's `.git` is a file.
        std::fs::write(inner.join(".git"), "gitdir: ../../.git/modules/inner\n").unwrap();
        let found = || places.containing(&inner.join("src")).map(|workspace| workspace.root);
        let make = |file: PathBuf| {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        };
        assert_eq!(found().as_ref(), Some(&inner));
        make(places.workspace(&outer).state_dir.join("journal.db"));
        assert_eq!(found().as_ref(), Some(&outer));
        make(places.workspace(&inner).state_dir.join("journal.db"));
        assert_eq!(found().as_ref(), Some(&inner), "the nearest with state comes first");
        make(places.workspace(&outer).operator_socket());
        assert_eq!(found().as_ref(), Some(&outer), "a served one comes before all");
    }

    #[test]
    fn a_repository_of_its_own_is_not_part_of_what_lies_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let places = Places { state: top.join("state"), runtime: top.join("runtime") };
        let (home, repo) = (top.join("home"), top.join("home/repo"));
        std::fs::create_dir_all(repo.join(".git")).unwrap();
        let journal = places.workspace(&home).state_dir.join("journal.db");
        std::fs::create_dir_all(journal.parent().unwrap()).unwrap();
        std::fs::write(journal, "").unwrap();
        assert_eq!(places.containing(&repo).map(|found| found.root), Some(repo));
    }

    #[test]
    fn a_repository_is_found_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("repo/.git")).unwrap();
        std::fs::create_dir_all(root.join("repo/a/b")).unwrap();
        let found = Workspace::containing(&root.join("repo/a/b")).unwrap();
        assert_eq!(found.root, root.join("repo"));
        let file = root.join("f");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Workspace::containing(&file), Err(LocateError::NotADirectory(_))));
    }
}
