//! What became of change sets, and what stood in their way.

use super::{Page, count, table, time, units};
use agentfs_api::types::{Outcome, Settled};
use agentfs_core::changeset::{Before, ChangeSet, Conflict, FileKind, Signature};

/// "3 paths, +10 -2".
pub fn size(set: &ChangeSet) -> String {
    let (added, removed) = set.line_counts();
    format!("{}, +{added} -{removed}", count(set.changes.len(), "path"))
}

/// What an apply or a discard did, in a sentence.
pub fn settled(settled: &Settled) -> String {
    let Settled { agent, changes, outcome, released } = settled;
    let size = size(changes);
    let done = match outcome {
        Outcome::Nothing => format!("{agent} has no changes"),
        Outcome::Applied { version } => {
            format!("{agent}'s changes are part of base now, which is {version}: {size}")
        }
        Outcome::Discarded => format!("{agent}'s changes are discarded: {size}"),
        Outcome::Pending { why } => {
            format!("{agent}'s changes wait: {}: {size}", super::printable(why))
        }
    };
    if released.is_empty() { done } else { format!("{done}; free again: {}", units(released)) }
}

/// The paths whose base is not what a change was based on: what it was, and what it is.
pub fn conflicts(conflicts: &[Conflict], page: &Page) -> String {
    let mut table = table(page, &["PATH", "BASED ON", "BASE HAS NOW"]);
    for Conflict { path, before, now } in conflicts {
        let (mut was, mut is) = (entry(*before, page), entry(*now, page));
        if was == is {
            // Versions of one second, one size and one mode: tell them apart by what is left.
            was += &fine(*before);
            is += &fine(*now);
        }
        table.add_row([path.to_string(), was, is]);
    }
    table.trim_fmt()
}

fn entry(entry: Before, page: &Page) -> String {
    let Some(Signature { kind, mode, size, mtime_ns, .. }) = entry else {
        return "nothing".to_owned();
    };
    let time = time::local_nanos(page, mtime_ns);
    match kind {
        FileKind::File => {
            format!("file of {time}, {}, mode {mode:o}", count(size as usize, "byte"))
        }
        FileKind::Symlink => format!("symbolic link of {time}"),
        FileKind::Dir => format!("directory, mode {mode:o}"),
        FileKind::Special => format!("special file of {time}"),
    }
}

fn fine(entry: Before) -> String {
    entry.map_or_else(String::new, |signature| {
        let nanos = signature.mtime_ns.rem_euclid(1_000_000_000);
        format!(", +{nanos}ns, inode {}", signature.ino)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain};
    use super::*;
    use agentfs_core::BaseVersion;

    #[test]
    fn an_apply_says_what_is_in_base_and_what_is_free() {
        let mut one = Settled {
            agent: "alice".parse().unwrap(),
            changes: ChangeSet::default(),
            outcome: Outcome::Applied { version: BaseVersion(4) },
            released: vec!["src/a.rs".parse().unwrap(), "src/api/".parse().unwrap()],
        };
        assert_eq!(
            settled(&one),
            "alice's changes are part of base now, which is v4: 0 paths, +0 -0; \
             free again: src/a.rs, src/api/"
        );
        one.outcome = Outcome::Nothing;
        one.released.clear();
        assert_eq!(settled(&one), "alice has no changes");
    }

    #[test]
    fn a_conflict_shows_both_versions() {
        let file = |size, ino| {
            Some(Signature { kind: FileKind::File, mode: 0o644, size, mtime_ns: 7, ino })
        };
        let conflict =
            |path: &str, before, now| Conflict { path: path.parse().unwrap(), before, now };
        let text = plain(&conflicts(
            &[
                conflict("a", file(1, 5), file(20, 6)),
                conflict("b", None, file(3, 7)),
                conflict("same", file(1, 8), file(1, 9)),
            ],
            &page(),
        ));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("PATH  BASED ON"), "{text}");
        assert!(lines[1].contains("00, 1 byte, mode 644"), "{text}");
        assert!(lines[1].ends_with("00:00:00, 20 bytes, mode 644"), "{text}");
        assert!(lines[2].starts_with("b     nothing "), "{text}");
        assert!(lines[3].contains("inode 8") && lines[3].ends_with("+7ns, inode 9"), "{text}");
    }
}
