//! Finds the directories of base that are scratch, so that they can be mounted inside.
//!
//! A walk over base by the ignore rules that does not descend into what it finds, nor into `.git`,
//! nor through symbolic links. It is bounded: in a tree that is larger than that, those that are
//! deepest are not found, and are served by the view.

use super::Scratch;
use agentfs_core::RelPath;
use ignore::gitignore::Gitignore;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The most directories that are looked into: some 0.1 s.
const MOST_LOOKED_INTO: usize = 20_000;

/// A scratch directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub path: RelPath,
    /// Whether `agentfs.toml` names it: then it is made where base has none.
    pub named: bool,
}

/// The ignore rules on the way to a directory, the nearest first.
struct Level {
    rules: Arc<Gitignore>,
    above: Option<Arc<Level>>,
}

/// A directory still to be looked into.
struct Waiting {
    path: RelPath,
    level: Option<Arc<Level>>,
    /// It is ignored itself, but something below it is tracked.
    ignored: bool,
}

impl Scratch {
    /// The top-most scratch directories, at most `most`: those with directories in them before
    /// those without, which are small; then those nearest the root. Those of an agent's `delta`
    /// too, which base need not have. Reads all directories that are not scratch, and blocks as
    /// long.
    pub fn find(&self, most: usize, delta: Option<&Path>) -> Vec<Found> {
        let mut found = self.walk(&self.base);
        if let Some(delta) = delta {
            let own = self.walk(delta);
            found.extend(own.into_iter().filter(|path| !found.contains(path)).collect::<Vec<_>>());
        }
        let size = |path: &RelPath| {
            // A file system that does not count the directories in a directory says 1.
            let links =
                |top: &Path| Some(top.join(path.to_path_buf()).symlink_metadata().ok()?.nlink());
            let tops = [Some(self.base.as_path()), delta];
            tops.into_iter().flatten().filter_map(links).all(|links| links == 2)
        };
        found.sort_by_cached_key(|path| (size(path), path.components().count()));
        let named = self.named.iter().map(|path| Found { path: path.clone(), named: true });
        let others = found.into_iter().filter(|path| !self.named.contains(path));
        let mut all: Vec<Found> =
            named.chain(others.map(|path| Found { path, named: false })).collect();
        // One in another, as where the configuration names what is in an ignored directory.
        let paths: Vec<RelPath> = all.iter().map(|found| found.path.clone()).collect();
        all.retain(|one| !paths.iter().any(|it| *it != one.path && it.contains(&one.path)));
        all.truncate(most);
        all
    }

    /// All that the layer at `top` has, nearest the root first.
    fn walk(&self, top: &Path) -> Vec<RelPath> {
        let mut found = Vec::new();
        let mut looked_into = 0;
        let for_all: Vec<_> = self.for_all().collect();
        let root = Waiting { path: RelPath::root(), level: None, ignored: false };
        let mut waiting = VecDeque::from([root]);
        while let Some(Waiting { path, level, ignored }) = waiting.pop_front() {
            looked_into += 1;
            if looked_into > MOST_LOOKED_INTO {
                tracing::info!(most = MOST_LOOKED_INTO, "not all of base is searched for scratch");
                break;
            }
            let full =
                if path.is_root() { self.base.clone() } else { self.base.join(path.to_path_buf()) };
            let (names, has_rules) = directories(&top.join(path.to_path_buf()));
            // The rules are base's, which a listing of another layer does not tell of.
            let has_rules = has_rules || top != self.base;
            let own = has_rules.then(|| self.rules(&full, &full.join(".gitignore"))).flatten();
            let level = match own {
                Some(rules) => Some(Arc::new(Level { rules, above: level })),
                None => level,
            };
            for name in names {
                let inner = path.join(&name);
                let patterns = || upwards(level.as_ref()).chain(for_all.iter().cloned());
                let ignored = ignored || self.decide(&full.join(&name), true, patterns());
                if ignored && !self.tracked.has(&inner, true) {
                    found.push(inner);
                } else {
                    waiting.push_back(Waiting { path: inner, level: level.clone(), ignored });
                }
            }
        }
        found
    }
}

fn upwards(level: Option<&Arc<Level>>) -> impl Iterator<Item = Arc<Gitignore>> {
    std::iter::successors(level.map(Arc::as_ref), |level| level.above.as_deref())
        .map(|level| level.rules.clone())
}

/// The names of the directories in `dir`, ordered, but for those that are never looked into; and
/// whether it has an ignore file. A directory that can't be read has nothing in it.
fn directories(dir: &Path) -> (Vec<OsString>, bool) {
    let mut names = Vec::new();
    let mut has_rules = false;
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        has_rules |= name == ".gitignore";
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && ![".git", ".agentfs"].contains(&name.to_str().unwrap_or_default())
        {
            names.push(name);
        }
    }
    names.sort();
    (names, has_rules)
}

/// The directory that a pattern of the configuration names, if it names exactly one: from the
/// root (a slash at its beginning or in it), as a directory (a slash at its end).
pub(super) fn directory(pattern: &str) -> Option<RelPath> {
    let inner = pattern.strip_suffix('/')?;
    let from_root = inner.contains('/');
    let plain = !inner.contains(['*', '?', '[', '\\']) && !inner.starts_with(['!', '#']);
    let path = RelPath::from_bytes(inner.trim_start_matches('/').as_bytes()).ok()?;
    let private = path.components().any(|name| name == OsStr::new(".git"));
    (from_root && plain && !private && !path.is_root()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn workspace(dirs: &[&str], files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in dirs {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn found(dir: &tempfile::TempDir, patterns: &[&str], most: usize) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|&it| it.to_owned()).collect();
        let scratch = Scratch::new(dir.path(), &patterns).unwrap();
        let found = scratch.find(most, None);
        for one in &found {
            assert!(scratch.is_scratch(&one.path, true), "{one:?}");
        }
        found.iter().map(|found| found.path.to_string()).collect()
    }

    #[test]
    fn only_the_topmost_are_found_and_large_ones_first() {
        let dir = workspace(
            &[
                "a/node_modules/x/node_modules",
                "node_modules/y",
                "logs",
                "src/deep/target/debug",
                ".git/target",
                "sub/kept",
                "sub/out",
            ],
            &[
                (".gitignore", "node_modules/\n/logs\ntarget\nkept\n"),
                ("sub/.gitignore", "!kept\n/out\n"),
            ],
        );
        std::os::unix::fs::symlink("src", dir.path().join("target")).unwrap();
        let all = found(&dir, &[], 64);
        assert_eq!(all, ["node_modules", "a/node_modules", "src/deep/target", "logs", "sub/out"]);
        assert_eq!(found(&dir, &[], 2), ["node_modules", "a/node_modules"]);
    }

    #[test]
    fn configured_ones_are_there_before_base_has_them() {
        let dir = workspace(&["target/x", "a"], &[(".gitignore", "target\n")]);
        let patterns = ["/cache/", "a/b/", "anywhere/", "*.log", "!/c/", "/x*/", "target/in/"];
        assert_eq!(found(&dir, &patterns, 64), ["cache", "a/b", "target"]);
    }

    #[test]
    fn what_is_tracked_is_not_scratch_nor_is_the_way_to_it() {
        let dir = workspace(
            &["vendor/b/x"],
            &[(".gitignore", "vendor\n*.log\n"), ("vendor/a/kept", "x"), ("kept.log", "x")],
        );
        let git = |arguments: &[&str]| {
            let done = Command::new("git").arg("-C").arg(dir.path()).args(arguments).status();
            assert!(done.unwrap().success());
        };
        git(&["init", "-q"]);
        let scratch = Scratch::new(dir.path(), &[]).unwrap();
        let is = |path: &str| scratch.is_scratch(&path.parse().unwrap(), path.ends_with('/'));
        assert!(is("vendor/") && is("vendor/a/kept") && is("kept.log"));
        git(&["add", "-f", "vendor/a/kept", "kept.log"]);
        std::thread::sleep(super::super::RECHECK);
        assert!(!is("vendor/") && !is("vendor/a/") && !is("vendor/a/kept") && !is("kept.log"));
        assert!(is("vendor/a/new") && is("vendor/b/") && is("vendor/a/new/") && is("other.log"));
        assert_eq!(found(&dir, &[], 64), ["vendor/b"]);
        git(&["rm", "-q", "--cached", "vendor/a/kept"]);
        assert_eq!(found(&dir, &[], 64), ["vendor"]);
    }
}
