//! A directory tree as values that can be compared: every byte, mode and time of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The permission bits.
    pub mode: u32,
    /// When its content was changed: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The content of a file, the target of a link; none for a directory.
    pub content: Option<Vec<u8>>,
}

/// Everything below a directory but `.git`, by path. A directory's time is left out: it tells of
/// names that came and went, which the entries tell themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Entry>);

impl Tree {
    /// The tree below `root`.
    pub fn of(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("the directory can be read") {
                let path = entry.expect("the directory can be read").path();
                let name = path.strip_prefix(root).expect("it is below").to_owned();
                if name == Path::new(".git") {
                    continue;
                }
                let found = path.symlink_metadata().expect("the entry can be looked at");
                let content = if found.is_dir() {
                    dirs.push(path.clone());
                    None
                } else if found.is_symlink() {
                    let target = fs::read_link(&path).expect("the link can be read");
                    Some(target.into_os_string().into_encoded_bytes())
                } else {
                    Some(fs::read(&path).expect("the file can be read"))
                };
                let mtime =
                    if found.is_dir() { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
                tree.insert(name, Entry { mode: found.mode() & 0o7777, mtime, content });
            }
        }
        Self(tree)
    }

    /// The paths at which two trees differ, sorted.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut paths: Vec<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        paths.retain(|path| self.0.get(*path) != other.0.get(*path));
        paths.into_iter().map(|path| path.display().to_string()).collect()
    }
}
