//! What a sync changed in a view.

use super::{Page, count, table};
use agentfs_api::types::{Moved, Synced};
use agentfs_core::changeset::Action;
use comfy_table::{Cell, Color};

/// A sentence, what moved one a line, and the conflicts that come.
pub fn synced(synced: &Synced, page: &Page) -> String {
    let Synced { agent, from, version, moved, conflicts } = synced;
    let at = if from == version {
        format!("{agent}'s view is at {version}")
    } else {
        format!("{agent}'s view was at {from} and is at {version} now")
    };
    let mut text = format!("{at}: {} moved", count(moved.len(), "path"));
    if !moved.is_empty() {
        let mut table = table(page, &["CHANGE", "PATH", "VERSION", "BY"]);
        for Moved { path, action, author } in moved {
            let by = author.as_ref();
            table.add_row([
                kind(*action),
                Cell::new(path),
                Cell::new(by.map_or_else(|| "-".to_owned(), |by| by.version.to_string())),
                Cell::new(by.map_or_else(|| "-".to_owned(), |by| by.agent.to_string())),
            ]);
        }
        text = format!("{text}\n{}", table.trim_fmt());
    }
    for conflict in conflicts {
        text = format!("{text}\n{}", conflict.text);
    }
    text
}

fn kind(action: Action) -> Cell {
    match action {
        Action::Added => Cell::new("added").fg(Color::DarkGreen),
        Action::Modified => Cell::new("modified").fg(Color::DarkYellow),
        Action::Deleted => Cell::new("removed").fg(Color::DarkRed),
        Action::Retyped => Cell::new("retyped").fg(Color::DarkYellow),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain};
    use super::*;
    use agentfs_api::types::{Author, ComingConflict};
    use agentfs_core::{BaseVersion, Timestamp};

    #[test]
    fn a_sync_says_what_moved_by_whom_and_what_will_conflict() {
        let by = Author { agent: "bob".parse().unwrap(), version: BaseVersion(3) };
        let moved =
            |path: &str, action, author| Moved { path: path.parse().unwrap(), action, author };
        let mut one = Synced {
            agent: "alice".parse().unwrap(),
            from: BaseVersion(1),
            version: BaseVersion(3),
            moved: vec![
                moved("src/a.rs", Action::Modified, Some(by)),
                moved("x", Action::Deleted, None),
            ],
            conflicts: vec![ComingConflict {
                agent: "alice".parse().unwrap(),
                path: "y".parse().unwrap(),
                since: Timestamp(0),
                author: None,
                text: "it will conflict".to_owned(),
            }],
        };
        assert_eq!(
            plain(&synced(&one, &page())),
            "alice's view was at v1 and is at v3 now: 2 paths moved\n\
             CHANGE    PATH      VERSION  BY\n\
             modified  src/a.rs  v3       bob\n\
             removed   x         -        -\n\
             it will conflict"
        );
        one.from = one.version;
        one.moved.clear();
        one.conflicts.clear();
        assert_eq!(synced(&one, &page()), "alice's view is at v3: 0 paths moved");
    }
}
