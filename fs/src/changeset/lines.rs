//! Text by lines, counted and compared as git does.

use super::tree::Content;
use similar::{Algorithm, DiffOp, capture_diff_slices, group_diff_ops};
use std::ops::Range;

/// How many unchanged lines surround a change.
const CONTEXT: usize = 3;

/// Whether git would call it binary: a NUL among the first 8000 bytes.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(8000)].contains(&0)
}

/// The lines with their ends; the last one may have none. Only `\n` ends a line.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

fn operations(old: &[&[u8]], new: &[&[u8]]) -> Vec<DiffOp> {
    capture_diff_slices(Algorithm::Myers, old, new)
}

/// Lines added and removed; none if either side is binary or too big to compare.
pub(super) fn counts(old: Option<&Content>, new: Option<&Content>) -> Option<(u64, u64)> {
    let old = text(old)?;
    let new = text(new)?;
    let (mut added, mut removed) = (0, 0);
    for operation in operations(&lines(old), &lines(new)) {
        if !matches!(operation, DiffOp::Equal { .. }) {
            added += operation.new_range().len() as u64;
            removed += operation.old_range().len() as u64;
        }
    }
    Some((added, removed))
}

fn text(side: Option<&Content>) -> Option<&[u8]> {
    match side {
        None => Some(b""),
        Some(content) => content.bytes.as_deref().filter(|bytes| !is_binary(bytes)),
    }
}

/// The hunks of a unified diff from `old` to `new`; nothing if they are equal.
pub(super) fn hunks(old: &[u8], new: &[u8]) -> Vec<u8> {
    let (old, new) = (lines(old), lines(new));
    let mut out = Vec::new();
    for group in group_diff_ops(operations(&old, &new), CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let old_range = first.old_range().start..last.old_range().end;
        let new_range = first.new_range().start..last.new_range().end;
        let header = format!("@@ -{} +{} @@\n", position(&old_range), position(&new_range));
        out.extend_from_slice(header.as_bytes());
        for operation in group {
            if let DiffOp::Equal { .. } = operation {
                push(&mut out, b' ', &old[operation.old_range()]);
            } else {
                push(&mut out, b'-', &old[operation.old_range()]);
                push(&mut out, b'+', &new[operation.new_range()]);
            }
        }
    }
    out
}

/// A hunk's place: the first line's number and how many; an empty range names the line before it.
fn position(range: &Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        count => format!("{},{count}", range.start + 1),
    }
}

fn push(out: &mut Vec<u8>, mark: u8, lines: &[&[u8]]) {
    for line in lines {
        out.push(mark);
        out.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            out.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks_are_what_git_writes() {
        assert_eq!(hunks(b"a\n", b"a\n"), b"");
        assert_eq!(hunks(b"", b"a\nb"), b"@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n");
        assert_eq!(
            hunks(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n", b"1\n2\n3\n4\nx\n6\n7\n8\n9\n"),
            b"@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"
        );
    }

    #[test]
    fn only_newlines_end_a_line() {
        assert_eq!(hunks(b"a\rb\n", b"a\rc\n"), b"@@ -1 +1 @@\n-a\rb\n+a\rc\n");
    }
}
