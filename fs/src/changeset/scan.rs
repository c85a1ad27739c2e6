//! From a delta over base to the list of changes.
//!
//! `before` is what the author built on: what the gate noted when the path was first written, and
//! nothing where it noted nothing, for then the author never asked to replace what base has. So a
//! stale copy that got into the delta unasked (another name of a hard link, what a renamed
//! directory took along) is a conflict and not an overwrite, and what came into a directory after
//! the agent had removed or hidden it stays (a view has directories emptied one entry at a time,
//! so each entry that the agent removed is noted).
//!
//! An agent may be at work meanwhile: what goes away under the scan is as if it had never been
//! there. Contents are hashed as they were read, so an apply notices what changed later.
//!
//! Not a change: what equals base byte for byte with the same mode; a directory that was merely
//! copied up, whatever its mode, as long as it is not noted itself; scratch, `.agentfs` and git's own directories; FIFOs, sockets and devices; what the
//! agent itself made and removed again.

use super::attributes::{is_opaque, refuse_foreign_marks};
use super::lines;
use super::tree::{BIG, Content, Tree, is_gone, is_whiteout, stat_beneath};
use super::{ChangeSetError, Source, is_private};
use crate::stat::{kind_of, signature_of};
use agentfs_core::RelPath;
use agentfs_core::changeset::{
    Action, BasedOn, Before, Change, ChangeSet, Conflict, FileKind, Signature, conflicts,
    same_version,
};
use rustix::fd::AsFd;
use rustix::fs::Stat;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;

/// The version of what is at `path` beneath the directory `root`; none if nothing is there, which
/// is also so for what lies behind a file or a symbolic link.
pub fn signature(root: impl AsFd, path: &RelPath) -> io::Result<Before> {
    Ok(stat_beneath(root, path)?.as_ref().map(signature_of))
}

/// The paths of `changes` at which base is not what their author built on (G2).
pub fn conflicts_now(
    source: &Source<'_>,
    changes: &ChangeSet,
) -> Result<Vec<Conflict>, ChangeSetError> {
    let base = Tree::open(source.base)?;
    let mut now = BTreeMap::new();
    for change in &changes.changes {
        now.insert(&change.path, base.signature(&change.path)?);
    }
    Ok(conflicts(&changes.changes, |path| now.get(path).copied().flatten()))
}

/// Reads the delta of `source` over its base. Reads every changed file whole; blocks as long.
pub fn scan(source: &Source<'_>, based: &BasedOn) -> Result<ChangeSet, ChangeSetError> {
    let mut scan = Scan {
        base: Tree::open(source.base)?,
        delta: Tree::open(source.delta)?,
        is_scratch: source.is_scratch,
        based,
        changes: Vec::new(),
        to_walk: vec![(RelPath::root(), false)],
        to_empty: Vec::new(),
    };
    while let Some((dir, hides)) = scan.to_walk.pop() {
        scan.walk(&dir, hides)?;
    }
    while let Some(dir) = scan.to_empty.pop() {
        scan.delete_below(&dir, &[])?;
    }
    scan.changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(ChangeSet { changes: scan.changes })
}

struct Scan<'a> {
    base: Tree,
    delta: Tree,
    is_scratch: &'a (dyn Fn(&RelPath, bool) -> bool + Sync),
    based: &'a BasedOn,
    changes: Vec<Change>,
    /// Directories of the delta still to be visited, and whether they hide base's entries. Not a
    /// recursion: an agent decides how deep its tree is, and it must not cost the daemon's stack.
    to_walk: Vec<(RelPath, bool)>,
    /// Directories of base of which nothing is left.
    to_empty: Vec<RelPath>,
}

impl Scan<'_> {
    /// Visits the delta's directory `dir`; `hides` says that base's entries below it are gone
    /// unless the delta has them.
    fn walk(&mut self, dir: &RelPath, hides: bool) -> Result<(), ChangeSetError> {
        let names = self.delta.names(dir)?;
        for name in &names {
            let path = dir.join(name);
            if let Some(found) = self.delta.stat(&path)? {
                self.visit(&path, &found, hides)?;
            }
        }
        if hides {
            self.delete_below(dir, &names)?;
        }
        Ok(())
    }

    fn visit(&mut self, path: &RelPath, found: &Stat, hides: bool) -> Result<(), ChangeSetError> {
        if is_whiteout(found) {
            return self.delete(path);
        }
        let kind = kind_of(found);
        if kind == FileKind::Special || self.skips(path, kind == FileKind::Dir) {
            return Ok(());
        }
        if kind != FileKind::Dir {
            self.to_empty.push(path.clone());
            return self.file(path, found);
        }
        let fd = match self.delta.dir(path) {
            Err(errno) if is_gone(errno) => return Ok(()),
            other => other.map_err(self.delta.fail("open", path))?,
        };
        refuse_foreign_marks(&self.delta, &fd, path)?;
        let opaque = is_opaque(&fd).map_err(self.delta.fail("read the attributes of", path))?;
        drop(fd);
        self.directory(path, signature_of(found))?;
        self.to_walk.push((path.clone(), hides || opaque));
        Ok(())
    }

    /// Scratch and private paths are no part of any change set.
    fn skips(&self, path: &RelPath, is_dir: bool) -> bool {
        is_private(path) || (self.is_scratch)(path, is_dir)
    }

    /// What the author built `path` on.
    fn before(&self, path: &RelPath) -> Before {
        self.based.get(path).copied().flatten()
    }

    /// The delta has no `path` any more: base's entry goes, with all below it.
    fn delete(&mut self, path: &RelPath) -> Result<(), ChangeSetError> {
        let Some(now) = self.base.signature(path)? else { return Ok(()) };
        let is_dir = now.kind == FileKind::Dir;
        if now.kind == FileKind::Special || self.skips(path, is_dir) {
            return Ok(());
        }
        // What the author never had (it made and removed an entry of its own) is not its to delete.
        let Some(before) = self.before(path) else { return Ok(()) };
        let content = self.base.content(path, BIG)?;
        let counts = lines::counts(content.as_ref(), None);
        self.changes.push(Change {
            path: path.clone(),
            action: Action::Deleted,
            before: Some(before),
            after: None,
            before_hash: content.filter(|_| now.same_version(&before)).map(|c| c.hash),
            after_hash: None,
            added: counts.map(|(added, _)| added),
            removed: counts.map(|(_, removed)| removed),
        });
        if is_dir {
            self.to_empty.push(path.clone());
        }
        Ok(())
    }

    /// Deletes what base has in the directory `dir`, but for `kept` (ordered).
    fn delete_below(&mut self, dir: &RelPath, kept: &[OsString]) -> Result<(), ChangeSetError> {
        for name in self.base.names(dir)? {
            let path = dir.join(&name);
            if kept.binary_search(&name).is_err() {
                self.delete(&path)?;
            }
        }
        Ok(())
    }

    /// The delta has a directory at `path`.
    fn directory(&mut self, path: &RelPath, after: Signature) -> Result<(), ChangeSetError> {
        let now = self.base.signature(path)?;
        let before = self.before(path);
        let is_change = match (before, now) {
            (Some(before), Some(now)) if before.kind == FileKind::Dir && is_dir(now) => {
                after.mode != before.mode && after.mode != now.mode
            }
            (_, Some(now)) => !is_dir(now),
            (_, None) => true,
        };
        if is_change {
            self.changes.push(Change {
                path: path.clone(),
                action: action(before, FileKind::Dir),
                before,
                after: Some(after),
                before_hash: None,
                after_hash: None,
                added: Some(0),
                removed: Some(0),
            });
        }
        Ok(())
    }

    /// The delta has a file or a symbolic link at `path`.
    fn file(&mut self, path: &RelPath, found: &Stat) -> Result<(), ChangeSetError> {
        let mut after = signature_of(found);
        if after.kind == FileKind::File {
            match self.delta.file(path) {
                Err(errno) if is_gone(errno) => return Ok(()),
                Err(errno) => return Err(self.delta.fail("open", path)(errno)),
                Ok(file) => refuse_foreign_marks(&self.delta, file, path)?,
            }
        }
        let Some(content) = self.delta.content(path, BIG)? else { return Ok(()) };
        let now = self.base.signature(path)?;
        let old = self.base.content(path, BIG)?;
        let same_content = old.as_ref().is_some_and(|old| old.hash == content.hash);
        let raw_mode = after.mode;
        after.mode = mode_in_base(after);
        let same_mode = |now: Signature| {
            now.kind == FileKind::Symlink || now.mode == raw_mode || now.mode == after.mode
        };
        if same_content && now.is_some_and(|now| now.kind == after.kind && same_mode(now)) {
            return Ok(());
        }
        let before = self.before(path);
        let counts = lines::counts(old.as_ref(), Some(&content));
        self.changes.push(Change {
            path: path.clone(),
            action: action(before, after.kind),
            before,
            after: Some(after),
            before_hash: hash_if(old, same_version(now, before)),
            after_hash: Some(content.hash),
            added: counts.map(|(added, _)| added),
            removed: counts.map(|(_, removed)| removed),
        });
        Ok(())
    }
}

/// The mode that a file takes into base: set-user-id and set-group-id never leave a view, for in
/// base the file belongs to someone else.
pub(super) fn mode_in_base(after: Signature) -> u32 {
    if after.kind == FileKind::File { after.mode & 0o1777 } else { after.mode }
}

fn hash_if(content: Option<Content>, known: bool) -> Option<String> {
    content.filter(|_| known).map(|content| content.hash)
}

fn is_dir(entry: Signature) -> bool {
    entry.kind == FileKind::Dir
}

fn action(before: Before, after: FileKind) -> Action {
    match before {
        None => Action::Added,
        Some(before) if before.kind == after => Action::Modified,
        Some(_) => Action::Retyped,
    }
}
