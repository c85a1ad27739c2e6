//! What the daemon asks git, and where a repository keeps its files. Nothing here runs what a
//! repository names (hooks, filters): only settings are read.

use super::locate::named_in;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Variables that would send git to another repository than the one it is asked about, as where
/// a git hook has started the daemon.
const MISLEADING: [&str; 3] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR"];

/// The settings that git has for the workspace at `root`, those whose lower-case keys match a
/// pattern of git-config(1); of a key that is set more than once, the last value. None where there
/// is no git. It runs nothing for that, so that a repository of somebody else than the daemon is
/// safe to ask about. Blocks for one run of git.
pub fn settings(root: &Path, pattern: &str, is_path: bool) -> BTreeMap<String, String> {
    let mut git = Command::new("git");
    for name in MISLEADING {
        git.env_remove(name);
    }
    let mut safe = OsString::from("safe.directory=");
    safe.push(root);
    git.arg("-c").arg(safe).arg("-C").arg(root).arg("config");
    if is_path {
        git.arg("--type=path");
    }
    git.args(["--null", "--get-regexp", pattern]);
    let answer = git.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let said = answer.ok().and_then(|answer| String::from_utf8(answer.stdout).ok());
    // Each is "key\nvalue\0"; where a key is set more than once, the last one counts.
    let settings = said.unwrap_or_default();
    let settings = settings.split('\0').filter_map(|setting| setting.split_once('\n'));
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Where a repository keeps what is asked for here; the files may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The index of its working tree.
    pub index: PathBuf,
    /// Ignore patterns that are not committed.
    pub exclude: PathBuf,
}

impl Places {
    /// Those of the working tree at `root`, which may be one of several (`git worktree`).
    pub fn of(root: &Path) -> Self {
        let dot_git = root.join(".git");
        let dir = named_in(&dot_git, b"gitdir:").unwrap_or(dot_git);
        let common = named_in(&dir.join("commondir"), b"").unwrap_or_else(|| dir.clone());
        Self { index: dir.join("index"), exclude: common.join("info/exclude") }
    }
}

/// The user's own ignore file for the workspace at `root`; it may not exist. Asks git.
pub fn user_excludes(root: &Path) -> Option<PathBuf> {
    let key = "core.excludesfile";
    if let Some(named) = settings(root, &format!("^{key}$"), true).remove(key) {
        return Some(root.join(named)).filter(|path| path != root);
    }
    let home = |name, below| Some(PathBuf::from(std::env::var_os(name)?).join(below));
    let set = |path: &PathBuf| path.is_absolute();
    let xdg = home("XDG_CONFIG_HOME", "git/ignore").filter(set);
    xdg.or_else(|| home("HOME", ".config/git/ignore").filter(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(dir: &Path, arguments: &[&str]) {
        let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    #[test]
    fn a_further_working_tree_has_an_index_of_its_own_and_the_excludes_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main");
        std::fs::create_dir(&main).unwrap();
        git(&main, &["init", "-q"]);
        let commit = ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q"];
        git(&main, &[&commit[..], &["--allow-empty", "-m", "x"]].concat());
        git(&main, &["worktree", "add", "-q", "../second"]);
        let places = Places::of(&main);
        assert_eq!(places.index, main.join(".git/index"));
        let second = Places::of(&dir.path().join("second"));
        assert_eq!(second.index, main.join(".git/worktrees/second/index"));
        assert_eq!(second.exclude.canonicalize().unwrap(), places.exclude);
    }

    #[test]
    fn the_repository_s_own_settings_count() {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q"]);
        git(dir.path(), &["config", "core.excludesFile", "/somewhere/else"]);
        assert_eq!(user_excludes(dir.path()).unwrap(), Path::new("/somewhere/else"));
    }
}
