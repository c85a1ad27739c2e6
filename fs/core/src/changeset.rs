//! Change sets: what an agent did to the workspace, as values.
//!
//! Reading a delta and writing base is the daemon's work; this module only says what a change is
//! and when base still is what its author built on (G2).

use crate::path::RelPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kinds of entries that a change set can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Dir,
    /// A FIFO, socket or device: kept in the view, never applied.
    Special,
}

/// What `stat` says of an entry, as far as it tells one version from another.
///
/// The change time is left out on purpose: making a pin (a hard link) changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// File, directory or symbolic link.
    pub kind: FileKind,
    /// Permission bits (`st_mode & 0o7777`).
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Inode number in base.
    pub ino: u64,
}

impl Signature {
    /// Whether both are the same version of an entry.
    ///
    /// A directory's size, time and inode say nothing of what a change set holds (its entries are
    /// paths of their own, and builds put scratch into it): two directories differ by mode alone.
    pub fn same_version(&self, other: &Self) -> bool {
        if self.kind == FileKind::Dir && other.kind == FileKind::Dir {
            return self.mode == other.mode;
        }
        self == other
    }
}

/// What base held when an agent first wrote a path: a signature, or nothing.
pub type Before = Option<Signature>;

/// Whether `a` and `b` are the same version of an entry, or both are nothing.
pub fn same_version(a: Before, b: Before) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same_version(&b),
        _ => false,
    }
}

/// For each path that an agent has written: what it was based on.
pub type BasedOn = BTreeMap<RelPath, Before>;

/// What a change does to its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The path is new.
    Added,
    /// Content or mode is different.
    Modified,
    /// The path is gone.
    Deleted,
    /// A file became a link, a directory a file, and so on.
    Retyped,
}

/// One path of a change set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub path: RelPath,
    /// What happened to it.
    pub action: Action,
    /// What the author based it on.
    pub before: Before,
    /// What it is now; none if deleted.
    pub after: Option<Signature>,
    /// BLAKE3 of the content before, in hexadecimal; none for what has no content.
    pub before_hash: Option<String>,
    /// BLAKE3 of the content after, in hexadecimal; none for what has no content.
    pub after_hash: Option<String>,
    /// Lines added; none if binary.
    pub added: Option<u64>,
    /// Lines removed; none if binary.
    pub removed: Option<u64>,
}

/// All that an agent changed and has not applied or discarded, ordered by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The changes; a path occurs once, a directory before what is below it.
    pub changes: Vec<Change>,
}

impl ChangeSet {
    /// Whether there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Lines added and removed over all text files.
    pub fn line_counts(&self) -> (u64, u64) {
        self.changes.iter().fold((0, 0), |(added, removed), change| {
            (added + change.added.unwrap_or(0), removed + change.removed.unwrap_or(0))
        })
    }
}

/// A path that can't be applied because base is not what the change was based on (G2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Where.
    pub path: RelPath,
    /// What the author based the change on.
    pub before: Before,
    /// What base holds now.
    pub now: Before,
}

/// The paths of `changes` whose base is not what they were based on, given what base holds now.
///
/// Two directories are never in conflict: directories merge.
pub fn conflicts<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
    now_in_base: impl Fn(&RelPath) -> Before,
) -> Vec<Conflict> {
    changes
        .into_iter()
        .filter_map(|change| {
            let now = now_in_base(&change.path);
            let both_directories = is_dir(change.after) && is_dir(now);
            (!same_version(now, change.before) && !both_directories).then(|| Conflict {
                path: change.path.clone(),
                before: change.before,
                now,
            })
        })
        .collect()
}

fn is_dir(entry: Before) -> bool {
    entry.is_some_and(|signature| signature.kind == FileKind::Dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(kind: FileKind, mtime_ns: i64) -> Signature {
        Signature { kind, mode: 0o644, size: 1, mtime_ns, ino: 5 }
    }

    fn change(path: &str, before: Before, after: Option<Signature>) -> Change {
        Change {
            path: path.parse().unwrap(),
            action: Action::Modified,
            before,
            after,
            before_hash: None,
            after_hash: None,
            added: Some(1),
            removed: None,
        }
    }

    #[test]
    fn a_change_conflicts_exactly_when_base_is_not_what_it_was_based_on() {
        let old = Some(signature(FileKind::File, 1));
        let new = Some(signature(FileKind::File, 2));
        let set = [change("a", old, new), change("b", None, new)];
        assert_eq!(conflicts(&set, |p| if p.as_bytes() == b"a" { old } else { None }), vec![]);
        let found = conflicts(&set, |_| new);
        assert_eq!(found.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(found[0].now, new);
    }

    #[test]
    fn directories_merge() {
        let dir = Some(signature(FileKind::Dir, 1));
        let made = [change("d", None, dir)];
        assert_eq!(conflicts(&made, |_| Some(signature(FileKind::Dir, 9))), vec![]);
        assert_eq!(conflicts(&made, |_| Some(signature(FileKind::File, 9))).len(), 1);
    }

    #[test]
    fn a_build_in_a_directory_does_not_forbid_its_removal() {
        let gone = [change("d", Some(signature(FileKind::Dir, 1)), None)];
        assert_eq!(conflicts(&gone, |_| Some(signature(FileKind::Dir, 9))), vec![]);
        let other_mode = Signature { mode: 0o755, ..signature(FileKind::Dir, 1) };
        assert_eq!(conflicts(&gone, |_| Some(other_mode)).len(), 1);
    }
}
