//! A change set as a patch that `git apply` accepts.
//!
//! The old side is what base holds now. Where base still is what the author built on that is the
//! same thing; where base has moved on, the patch says what applying would do to base as it is
//! (the conflict itself is told by [`super::conflicts_now`]).
//!
//! Only what git keeps is in it: content, the executable bit, symbolic links. Directories and
//! other mode bits are not. Object ids, which binary patches need, are those of a SHA-1
//! repository.

use super::encode::{blob_id, literal, name};
use super::lines::{hunks, is_binary};
use super::tree::{BIG, Tree};
use super::{ChangeSetError, Source};
use agentfs_core::RelPath;
use agentfs_core::changeset::{ChangeSet, FileKind};
use std::io;

const LINK: u32 = 0o120_000;
const NO_BLOB: &str = "0000000000000000000000000000000000000000";

/// One side of a file's change.
struct Side {
    mode: u32,
    bytes: Vec<u8>,
}

/// The patch from base to the delta of `source` for the paths of `changes`; empty if git would
/// see no difference. Holds the files in memory, one pair at a time.
pub fn patch(source: &Source<'_>, changes: &ChangeSet) -> Result<Vec<u8>, ChangeSetError> {
    let base = Tree::open(source.base)?;
    let delta = Tree::open(source.delta)?;
    let mut out = Vec::new();
    for change in &changes.changes {
        let old = side(&base, &change.path)?;
        let new = if change.after.is_some() { side(&delta, &change.path)? } else { None };
        file(&mut out, &change.path, old.as_ref(), new.as_ref())
            .map_err(|error| delta.io("compress", &change.path, error))?;
    }
    Ok(out)
}

fn side(tree: &Tree, path: &RelPath) -> Result<Option<Side>, ChangeSetError> {
    let Some(found) = tree.signature(path)? else { return Ok(None) };
    let mode = match found.kind {
        FileKind::File if found.mode & 0o100 != 0 => 0o100_755,
        FileKind::File => 0o100_644,
        FileKind::Symlink => LINK,
        FileKind::Dir | FileKind::Special => return Ok(None),
    };
    let bytes = tree.content(path, u64::MAX)?.and_then(|content| content.bytes);
    Ok(bytes.map(|bytes| Side { mode, bytes }))
}

/// Writes the patch of one path. A file that becomes a link goes and comes, as in git's own.
fn file(
    out: &mut Vec<u8>,
    path: &RelPath,
    old: Option<&Side>,
    new: Option<&Side>,
) -> io::Result<()> {
    match (old, new) {
        (None, None) => Ok(()),
        (Some(o), Some(n)) if (o.mode == LINK) != (n.mode == LINK) => {
            file(out, path, old, None)?;
            file(out, path, None, new)
        }
        (Some(o), Some(n)) if o.mode == n.mode && o.bytes == n.bytes => Ok(()),
        _ => {
            header(out, path, old, new);
            body(out, path, old, new)
        }
    }
}

fn header(out: &mut Vec<u8>, path: &RelPath, old: Option<&Side>, new: Option<&Side>) {
    let names = [b"diff --git ".to_vec(), name("a", path), b" ".to_vec(), name("b", path)];
    out.extend_from_slice(&names.concat());
    out.push(b'\n');
    let id = |side: Option<&Side>| side.map_or(NO_BLOB.to_owned(), |side| blob_id(&side.bytes));
    let mut text = String::new();
    let mut line = |words: String| text.push_str(&(words + "\n"));
    match (old, new) {
        (None, Some(new)) => line(format!("new file mode {:o}", new.mode)),
        (Some(old), None) => line(format!("deleted file mode {:o}", old.mode)),
        (Some(old), Some(new)) if old.mode != new.mode => {
            line(format!("old mode {:o}", old.mode));
            line(format!("new mode {:o}", new.mode));
        }
        _ => {}
    }
    match (old, new) {
        (Some(old), Some(new)) if old.bytes == new.bytes => {}
        (Some(o), Some(n)) if o.mode == n.mode => {
            line(format!("index {}..{} {:o}", id(old), id(new), n.mode));
        }
        _ => line(format!("index {}..{}", id(old), id(new))),
    }
    out.extend_from_slice(text.as_bytes());
}

fn body(
    out: &mut Vec<u8>,
    path: &RelPath,
    old: Option<&Side>,
    new: Option<&Side>,
) -> io::Result<()> {
    let old_bytes = old.map_or(&b""[..], |side| &side.bytes);
    let new_bytes = new.map_or(&b""[..], |side| &side.bytes);
    if old_bytes == new_bytes {
        return Ok(());
    }
    let is_opaque = |bytes: &[u8]| is_binary(bytes) || bytes.len() as u64 > BIG;
    if is_opaque(old_bytes) || is_opaque(new_bytes) {
        out.extend_from_slice(b"GIT binary patch\n");
        out.extend_from_slice(&literal(new_bytes)?);
        out.extend_from_slice(&literal(old_bytes)?);
        return Ok(());
    }
    side_name(out, "--- ", "a", path, old.is_some());
    side_name(out, "+++ ", "b", path, new.is_some());
    out.extend_from_slice(&hunks(old_bytes, new_bytes));
    Ok(())
}

fn side_name(out: &mut Vec<u8>, mark: &str, letter: &str, path: &RelPath, is_there: bool) {
    out.extend_from_slice(mark.as_bytes());
    if is_there {
        out.extend_from_slice(&name(letter, path));
        // Without the tab a name with a space would end at the space.
        if path.as_bytes().contains(&b' ') {
            out.push(b'\t');
        }
    } else {
        out.extend_from_slice(b"/dev/null");
    }
    out.push(b'\n');
}
