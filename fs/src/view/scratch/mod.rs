//! Which paths are scratch: private to each agent, never locked, never in a change set.
//!
//! That is `.git`, what git ignores (the `.gitignore` files of base, `.git/info/exclude`, the
//! user's own ignore file), and what `agentfs.toml` names in the same syntax. What is below a
//! scratch directory is scratch. What base's git *tracks* is not, whatever the patterns say, and
//! neither are the directories that lead to it: its changes would be lost.

mod find;
mod tracked;

use crate::git;
use agentfs_core::RelPath;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tracked::Tracked;

pub use find::Found;

/// How long what an ignore file, or git's index, was found to be is good for: an operation on
/// thousands of files looks at each of them once.
const RECHECK: Duration = Duration::from_millis(10);

/// Why the scratch paths can't be decided.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// A pattern of `agentfs.toml`.
    #[error("the scratch pattern {pattern:?} is not in gitignore's syntax: {reason}")]
    Pattern {
        /// Which.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Decides which paths are scratch. Reads ignore files when they have changed, and so may block
/// for as long as reading a small file in base does.
#[derive(Debug)]
pub struct Scratch {
    base: PathBuf,
    configured: Gitignore,
    /// The configured patterns that name one directory from the root.
    named: Vec<RelPath>,
    /// The ignore files that hold for the whole workspace, the stronger one first.
    for_all: Vec<PathBuf>,
    tracked: Tracked,
    files: Mutex<HashMap<PathBuf, Rules>>,
}

/// The rules of one ignore file as of one version of it; none if there is no file.
#[derive(Clone, Debug)]
struct Rules {
    checked: Instant,
    version: Option<(SystemTime, u64)>,
    patterns: Option<Arc<Gitignore>>,
}

impl Scratch {
    /// For the workspace at `base`, with the `patterns` of its configuration. Asks git where the
    /// user's own ignore file is.
    pub fn new(base: &Path, patterns: &[String]) -> Result<Self, ScratchError> {
        let refused = |pattern: &str, error: &ignore::Error| ScratchError::Pattern {
            pattern: pattern.to_owned(),
            reason: error.to_string(),
        };
        let mut builder = GitignoreBuilder::new(base);
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| refused(pattern, &error))?;
        }
        let configured = builder.build().map_err(|error| refused(&patterns.join("\n"), &error))?;
        let places = git::Places::of(base);
        Ok(Self {
            base: base.to_owned(),
            configured,
            named: patterns.iter().filter_map(|pattern| find::directory(pattern)).collect(),
            for_all: [Some(places.exclude), git::user_excludes(base)]
                .into_iter()
                .flatten()
                .collect(),
            tracked: Tracked::by(places.index),
            files: Mutex::new(HashMap::new()),
        })
    }

    /// Whether `path` is scratch; `is_dir` says what is or will be there.
    pub fn is_scratch(&self, path: &RelPath, is_dir: bool) -> bool {
        if path.components().any(super::notices::is_git) {
            return true;
        }
        let mut chain: Vec<RelPath> = path.ancestors().filter(|path| !path.is_root()).collect();
        chain.reverse();
        let last = chain.len().saturating_sub(1);
        let ignored =
            chain.iter().enumerate().any(|(at, path)| self.is_ignored(path, is_dir || at < last));
        ignored && !self.tracked.has(path, is_dir)
    }

    /// What the patterns say of `path` itself.
    fn is_ignored(&self, path: &RelPath, is_dir: bool) -> bool {
        let full = self.base.join(path.to_path_buf());
        let above = path.ancestors().skip(1).filter_map(|dir| {
            let root =
                if dir.is_root() { self.base.clone() } else { self.base.join(dir.to_path_buf()) };
            self.rules(&root, &root.join(".gitignore"))
        });
        self.decide(&full, is_dir, above.chain(self.for_all()))
    }

    /// The patterns that hold for the whole workspace, the stronger ones first.
    fn for_all(&self) -> impl Iterator<Item = Arc<Gitignore>> {
        self.for_all.iter().filter_map(|file| self.rules(&self.base, file))
    }

    /// Whether the entry at `full` is ignored: the configured patterns decide or, in their order,
    /// the first with an opinion.
    fn decide(
        &self,
        full: &Path,
        is_dir: bool,
        mut patterns: impl Iterator<Item = Arc<Gitignore>>,
    ) -> bool {
        let configured = match self.configured.matched(full, is_dir) {
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
            Match::None => None,
        };
        let opinion = |rules: Arc<Gitignore>| match rules.matched(full, is_dir) {
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
            Match::None => None,
        };
        configured.or_else(|| patterns.find_map(opinion)).unwrap_or(false)
    }

    fn files(&self) -> MutexGuard<'_, HashMap<PathBuf, Rules>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of `file` as it is now; a symbolic link counts for nothing, as with git.
    fn rules(&self, root: &Path, file: &Path) -> Option<Arc<Gitignore>> {
        if let Some(known) = self.files().get(file)
            && known.checked.elapsed() < RECHECK
        {
            return known.patterns.clone();
        }
        let checked = Instant::now();
        let version = std::fs::symlink_metadata(file)
            .ok()
            .filter(std::fs::Metadata::is_file)
            .and_then(|stat| Some((stat.modified().ok()?, stat.len())));
        let mut files = self.files();
        if let Some(known) = files.get_mut(file)
            && known.version == version
        {
            known.checked = checked;
            return known.patterns.clone();
        }
        let rules = version.map(|_| {
            let mut builder = GitignoreBuilder::new(root);
            if let Some(error) = builder.add(file) {
                tracing::warn!(file = %file.display(), %error, "a line of an ignore file is skipped");
            }
            Arc::new(builder.build().unwrap_or_else(|_| Gitignore::empty()))
        });
        files.insert(file.to_owned(), Rules { checked, version, patterns: rules.clone() });
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn scratch(dir: &tempfile::TempDir, path: &str) -> bool {
        let scratch = Scratch::new(dir.path(), &["*.sqlite".to_owned(), "/cache/".to_owned()]);
        scratch.unwrap().is_scratch(&path.parse().unwrap(), path.ends_with('/'))
    }

    #[test]
    fn what_git_ignores_is_scratch_with_all_below_it() {
        let dir = workspace(&[
            (".gitignore", "target/\n*.log\n!keep.log\n"),
            ("sub/.gitignore", "!*.log\n/out\n"),
            (".git/info/exclude", "private\n"),
        ]);
        for yes in [
            ".git/HEAD",
            "target/",
            "target/debug/x",
            "a.log",
            "x/a.log",
            "sub/out",
            "sub/out/x",
            "private",
            "deep/private/x",
            "db.sqlite",
            "cache/x",
            "module/.git/index",
        ] {
            assert!(scratch(&dir, yes), "{yes}");
        }
        for no in ["src/a.rs", "keep.log", "sub/a.log", "sub/x/out", "target", ".gitignore", "."] {
            assert!(!scratch(&dir, no), "{no}");
        }
    }

    #[test]
    fn a_changed_ignore_file_counts_after_a_moment() {
        let dir = workspace(&[(".gitignore", "a\n")]);
        let scratch = Scratch::new(dir.path(), &[]).unwrap();
        assert!(scratch.is_scratch(&"a".parse().unwrap(), false));
        std::fs::write(dir.path().join(".gitignore"), "something\n").unwrap();
        std::thread::sleep(RECHECK);
        assert!(!scratch.is_scratch(&"a".parse().unwrap(), false));
        std::fs::remove_file(dir.path().join(".gitignore")).unwrap();
        std::thread::sleep(RECHECK);
        assert!(!scratch.is_scratch(&"something".parse().unwrap(), false));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let dir = workspace(&[]);
        let error = Scratch::new(dir.path(), &["[z-a]".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"[z-a]\""), "{error}");
    }
}
