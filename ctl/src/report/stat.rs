//! Change sets as `git diff --stat` shows them.

use super::{ADDED, Page, REMOVED, count};
use agentfs_core::changeset::{Action, Change, ChangeSet, FileKind};
use anstyle::Style;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// The columns that a bar may have where there is no terminal to ask.
const COLUMNS: usize = 80;
/// A bar is never narrower than this, even if lines get longer than the terminal.
const LEAST_BAR: usize = 10;

/// One line for each change with a bar of its size, and a line with the sums.
pub fn stat(set: &ChangeSet, page: &Page) -> String {
    let rows: Vec<Row> = set.changes.iter().map(Row::of).collect();
    let names = rows.iter().map(|row| row.name.width()).max().unwrap_or(0);
    let counts = rows.iter().map(|row| row.count.len()).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.added + row.removed).max().unwrap_or(0);
    let columns = page.width.map_or(COLUMNS, usize::from);
    let room = columns.saturating_sub(names + counts + " | ".len() + 2).max(LEAST_BAR) as u64;
    let mut text = String::new();
    for row in &rows {
        let gap = " ".repeat(names - row.name.width());
        let bar = bar(row.added, row.removed, most, room);
        let line = format!(" {}{gap} | {:>counts$} {bar}", row.name, row.count);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text + &sums(set)
}

/// " 2 files changed, 3 insertions(+), 1 deletion(-)", as git says it.
fn sums(set: &ChangeSet) -> String {
    let (added, removed) = set.line_counts();
    let mut text = format!(" {} changed", count(set.changes.len(), "file"));
    if added > 0 || removed == 0 {
        let _ = write!(text, ", {}(+)", count(added as usize, "insertion"));
    }
    if removed > 0 || added == 0 {
        let _ = write!(text, ", {}(-)", count(removed as usize, "deletion"));
    }
    text
}

struct Row {
    name: String,
    count: String,
    added: u64,
    removed: u64,
}

impl Row {
    fn of(change: &Change) -> Self {
        let count = match (change.added, change.removed, kind(change)) {
            (None, None, FileKind::Dir) => "dir".to_owned(),
            (None, None, FileKind::Special) => "never applied".to_owned(),
            (None, None, FileKind::File | FileKind::Symlink) => "Bin".to_owned(),
            (added, removed, _) => (added.unwrap_or(0) + removed.unwrap_or(0)).to_string(),
        };
        let note = note(change).map(|note| format!(" ({note})")).unwrap_or_default();
        Self {
            name: format!("{}{note}", change.path),
            count,
            added: change.added.unwrap_or(0),
            removed: change.removed.unwrap_or(0),
        }
    }
}

fn kind(change: &Change) -> FileKind {
    change.after.or(change.before).map_or(FileKind::File, |signature| signature.kind)
}

/// What the number of lines does not tell, in the words of `git diff --compact-summary`.
fn note(change: &Change) -> Option<&'static str> {
    let executable = |mode: u32| mode & 0o111 != 0;
    match (change.action, change.before, change.after) {
        (Action::Added, _, Some(after)) if after.kind == FileKind::Symlink => Some("new +l"),
        (Action::Added, _, Some(after))
            if after.kind == FileKind::File && executable(after.mode) =>
        {
            Some("new +x")
        }
        (Action::Added, ..) => Some("new"),
        (Action::Deleted, ..) => Some("gone"),
        (Action::Retyped, ..) => Some("retyped"),
        (Action::Modified, Some(before), Some(after)) => {
            match (executable(before.mode), executable(after.mode)) {
                (false, true) => Some("mode +x"),
                (true, false) => Some("mode -x"),
                _ if before.mode != after.mode => Some("mode"),
                _ => None,
            }
        }
        (Action::Modified, ..) => None,
    }
}

/// `+++--`, scaled so that the largest change of the set fills `room`.
fn bar(added: u64, removed: u64, most: u64, room: u64) -> String {
    let total = added + removed;
    let (plus, minus) = if most <= room {
        (added, removed)
    } else {
        // A change is never scaled to nothing, and neither is one side of it.
        let length = scaled(total, most, room).max(u64::from(added > 0) + u64::from(removed > 0));
        let plus = scaled(added, total, length).min(length - u64::from(removed > 0));
        (plus, length - plus)
    };
    side("+", plus, ADDED) + &side("-", minus, REMOVED)
}

fn side(sign: &str, length: u64, style: Style) -> String {
    if length == 0 {
        return String::new();
    }
    format!("{style}{}{style:#}", sign.repeat(length as usize))
}

/// `part` of `whole` as a part of `room`; at least 1 if there is any.
fn scaled(part: u64, whole: u64, room: u64) -> u64 {
    if part == 0 { 0 } else { (part * room / whole.max(1)).max(1) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain};
    use super::*;
    use agentfs_core::changeset::Signature;

    fn entry(kind: FileKind, mode: u32) -> Signature {
        Signature { kind, mode, size: 1, mtime_ns: 0, ino: 1 }
    }

    fn change(path: &str, action: Action, lines: Option<(u64, u64)>) -> Change {
        let file = Some(entry(FileKind::File, 0o644));
        Change {
            path: path.parse().unwrap(),
            action,
            before: if action == Action::Added { None } else { file },
            after: if action == Action::Deleted { None } else { file },
            before_hash: None,
            after_hash: None,
            added: lines.map(|(added, _)| added),
            removed: lines.map(|(_, removed)| removed),
        }
    }

    #[test]
    fn it_looks_like_git_s() {
        let set = ChangeSet {
            changes: vec![
                change("a.png", Action::Modified, None),
                change("src/api.rs", Action::Modified, Some((3, 1))),
                change("src/new.rs", Action::Added, Some((2, 0))),
                change("x", Action::Deleted, Some((0, 1))),
            ],
        };
        assert_eq!(
            plain(&stat(&set, &page())),
            " a.png            | Bin\n src/api.rs       |   4 +++-\n src/new.rs (new) |   2 ++\n \
             x (gone)         |   1 -\n 4 files changed, 5 insertions(+), 2 deletions(-)"
        );
    }

    #[test]
    fn what_is_no_text_is_named() {
        let mut dir = change("d", Action::Added, None);
        dir.after = Some(entry(FileKind::Dir, 0o755));
        let mut script = change("s", Action::Modified, Some((0, 0)));
        script.after = Some(entry(FileKind::File, 0o755));
        let text = plain(&stat(&ChangeSet { changes: vec![dir, script] }, &page()));
        assert!(text.contains("d (new)     | dir\n"), "{text}");
        assert!(text.contains("s (mode +x) |   0\n"), "{text}");
        assert!(text.ends_with(" 2 files changed, 0 insertions(+), 0 deletions(-)"), "{text}");
    }

    #[test]
    fn bars_fit_and_show_both_sides() {
        for (added, removed) in [(1, 100_000), (100_000, 1), (7, 0), (0, 1), (50_000, 50_000)] {
            let bar = plain(&bar(added, removed, 100_001, 40));
            assert!(bar.len() <= 40, "{bar}");
            assert_eq!(bar.contains('+'), added > 0, "{bar}");
            assert_eq!(bar.contains('-'), removed > 0, "{bar}");
        }
        assert_eq!(plain(&bar(2, 1, 3, 40)), "++-", "small changes are counted, not scaled");
        let narrow = Page { width: Some(40), ..page() };
        let set = ChangeSet { changes: vec![change("a", Action::Modified, Some((900, 30)))] };
        let text = plain(&stat(&set, &narrow));
        assert!(text.lines().next().unwrap().len() <= 40, "{text}");
    }
}
