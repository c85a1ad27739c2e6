//! What a run says at its end. Pure: text from what the daemon reported.

use agentfs_api::types::{Outcome, RunSummary, StartedRun};
use agentfs_core::changeset::{Action, Change, FileKind};
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;

/// The most files that are listed one by one.
const MOST_FILES: usize = 20;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();

/// The line at the start.
pub fn start(started: &StartedRun) -> String {
    format!(
        "{DIM}agentshim: {} in {}, run {}{DIM:#}",
        started.agent,
        started.root.display(),
        started.run
    )
}

/// The lines at the end. With colours; whoever prints them strips those where they don't belong.
pub fn end(summary: &RunSummary) -> String {
    let mut text = String::new();
    headline(&mut text, summary);
    for change in summary.changes.changes.iter().take(MOST_FILES) {
        line(&mut text, format_args!("  {}", change_line(change)));
    }
    let more = summary.changes.changes.len().saturating_sub(MOST_FILES);
    if more > 0 {
        line(&mut text, format_args!("  and {more} more"));
    }
    if !summary.units.is_empty() {
        let units: Vec<String> =
            summary.units.iter().take(MOST_FILES).map(ToString::to_string).collect();
        let more = summary.units.len() - units.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        line(&mut text, format_args!("held: {}{more}", units.join(", ")));
    }
    for wait in &summary.waits {
        line(&mut text, format_args!("{YELLOW}waited:{YELLOW:#} {}", wait.text));
    }
    for conflict in &summary.conflicts {
        line(&mut text, format_args!("{RED}conflict:{RED:#} {}", conflict.text));
    }
    for read in summary.stale.iter().take(MOST_FILES) {
        line(&mut text, format_args!("{YELLOW}built on:{YELLOW:#} {}", read.text));
    }
    outcome(&mut text, summary);
    text
}

fn headline(text: &mut String, summary: &RunSummary) {
    let count = summary.changes.changes.len();
    if count == 0 {
        line(text, format_args!("{BOLD}{}{BOLD:#} changed nothing", summary.agent));
        return;
    }
    let (added, removed) = summary.changes.line_counts();
    let paths = if count == 1 { "path" } else { "paths" };
    line(
        text,
        format_args!(
            "{BOLD}{}{BOLD:#} changed {count} {paths}, {GREEN}+{added}{GREEN:#} {RED}-{removed}{RED:#}",
            summary.agent
        ),
    );
}

fn change_line(change: &Change) -> String {
    let (style, sign) = match change.action {
        Action::Added => (GREEN, 'A'),
        Action::Modified => (YELLOW, 'M'),
        Action::Deleted => (RED, 'D'),
        Action::Retyped => (YELLOW, 'T'),
    };
    let is_dir = change.after.or(change.before).is_some_and(|entry| entry.kind == FileKind::Dir);
    let counts = match (change.added, change.removed) {
        _ if is_dir => "/".to_owned(),
        (None, None) => String::new(),
        (added, removed) => format!(
            "  {GREEN}+{}{GREEN:#} {RED}-{}{RED:#}",
            added.unwrap_or(0),
            removed.unwrap_or(0)
        ),
    };
    format!("{style}{sign}{style:#} {}{counts}", change.path)
}

fn outcome(text: &mut String, summary: &RunSummary) {
    let agent = &summary.agent;
    match &summary.outcome {
        Outcome::Nothing => {}
        Outcome::Applied { version } => {
            line(text, format_args!("{GREEN}applied{GREEN:#} to base as {version}"));
            next(text, "agentctl log");
        }
        Outcome::Pending { why } => {
            line(text, format_args!("{YELLOW}pending:{YELLOW:#} {why}"));
            next(text, &format!("agentctl diff {agent}"));
            next(text, &format!("agentctl apply {agent}"));
        }
        Outcome::Discarded => line(text, format_args!("discarded")),
    }
}

fn next(text: &mut String, command: &str) {
    line(text, format_args!("  {BOLD}{command}{BOLD:#}"));
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentfs_api::types::{ComingConflict, WaitRecord};
    use agentfs_core::changeset::ChangeSet;
    use agentfs_core::{BaseVersion, RunId, Timestamp};

    fn change(path: &str, action: Action, added: Option<u64>, removed: Option<u64>) -> Change {
        Change {
            path: path.parse().unwrap(),
            action,
            before: None,
            after: None,
            before_hash: None,
            after_hash: None,
            added,
            removed,
        }
    }

    fn summary(changes: Vec<Change>, outcome: Outcome) -> RunSummary {
        RunSummary {
            run: RunId(7),
            agent: "alice".parse().unwrap(),
            changes: ChangeSet { changes },
            units: vec!["src/a.rs".parse().unwrap(), "docs/".parse().unwrap()],
            waits: vec![WaitRecord {
                unit: "src/a.rs".parse().unwrap(),
                millis: 1200,
                text: "src/a.rs was held by bob for 1.2 s".to_owned(),
            }],
            outcome,
            conflicts: Vec::new(),
            stale: Vec::new(),
        }
    }

    fn plain(summary: &RunSummary) -> String {
        anstream::adapter::strip_str(&end(summary)).to_string()
    }

    #[test]
    fn a_pending_run_says_what_why_and_what_next() {
        let changes = vec![
            change("docs/x.png", Action::Added, None, None),
            change("src/a.rs", Action::Modified, Some(3), Some(1)),
        ];
        let why = "the command exited with status 2".to_owned();
        assert_eq!(
            plain(&summary(changes, Outcome::Pending { why })),
            "alice changed 2 paths, +3 -1\n  \
             A docs/x.png\n  \
             M src/a.rs  +3 -1\n\
             held: src/a.rs, docs/\n\
             waited: src/a.rs was held by bob for 1.2 s\n\
             pending: the command exited with status 2\n  \
             agentctl diff alice\n  \
             agentctl apply alice\n"
        );
    }

    #[test]
    fn conflicts_that_come_are_told_before_what_to_do() {
        let changes = vec![change("a", Action::Modified, Some(1), Some(1))];
        let mut one = summary(changes, Outcome::Pending { why: "manual".to_owned() });
        one.conflicts.push(ComingConflict {
            agent: "alice".parse().unwrap(),
            path: "a".parse().unwrap(),
            since: Timestamp(0),
            author: None,
            text: "alice's change to a will conflict".to_owned(),
        });
        let text = plain(&one);
        assert!(text.contains("conflict: alice's change to a will conflict\npending: "), "{text}");
    }

    #[test]
    fn an_applied_run_names_the_version() {
        let changes = vec![change("a", Action::Deleted, Some(0), Some(9))];
        let text = plain(&summary(changes, Outcome::Applied { version: BaseVersion(4) }));
        assert!(text.contains("changed 1 path, +0 -9\n"), "{text}");
        assert!(text.contains("applied to base as v4\n"), "{text}");
    }

    #[test]
    fn a_long_list_is_cut() {
        let changes: Vec<Change> = (0..MOST_FILES + 5)
            .map(|n| change(&format!("f{n:03}"), Action::Added, Some(1), Some(0)))
            .collect();
        let text = plain(&summary(changes, Outcome::Nothing));
        assert!(text.contains("f019") && !text.contains("f020"), "{text}");
        assert!(text.contains("  and 5 more\n"), "{text}");
    }

    #[test]
    fn a_run_that_changed_nothing_says_so_in_a_line() {
        let mut summary = summary(Vec::new(), Outcome::Nothing);
        summary.units.clear();
        summary.waits.clear();
        assert_eq!(plain(&summary), "alice changed nothing\n");
    }
}
