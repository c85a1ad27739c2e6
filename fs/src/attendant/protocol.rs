//! What the daemon and its attendant say to each other: one JSON value a line, paths as bytes.
//!
//! Both ends are the same program, so the format is nobody else's business and needs no version.

use crate::gate::Shift;
use agentfs_core::RelPath;
use agentfs_core::changeset::FileKind;
use serde::{Deserialize, Serialize};

/// What the attendant is to do; the daemon numbers its orders.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: u64,
    /// Where the view is mounted.
    pub(super) mountpoint: Vec<u8>,
    pub(super) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    Warm(Warming),
    Announce(Vec<News>),
}

/// How far a walk goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Warming {
    /// The workspace's real directory, whose ignore files say what is scratch.
    pub(super) base: Vec<u8>,
    /// The configuration's own patterns.
    pub(super) scratch: Vec<String>,
    /// The most entries that it looks at.
    pub(super) entries: u64,
    /// The longest that it takes, in milliseconds.
    pub(super) millis: u64,
}

/// The order is done, or as much of it as could be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) id: u64,
    /// How many entries it looked at, or how much news it told.
    pub(super) count: u64,
}

/// Something that watchers in a view are to hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Where.
    pub path: RelPath,
    /// What has happened.
    pub what: Happened,
}

/// What has happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// It has gone.
    Gone(FileKind),
    /// It is new.
    Made(FileKind),
    /// It has another content or other attributes.
    Changed,
}

/// The news of `shifts` in the order in which they can be told: what has gone first, what is below
/// a directory before it; then the rest, a directory before what is below it.
pub(super) fn news_of(shifts: &[Shift]) -> Vec<News> {
    let mut gone = Vec::new();
    let mut here = Vec::new();
    for Shift { path, before, after } in shifts {
        let mut tell = |what| {
            let list = if matches!(what, Happened::Gone(_)) { &mut gone } else { &mut here };
            list.push(News { path: path.clone(), what });
        };
        match (*before, *after) {
            (Some(before), Some(after)) if before == after => tell(Happened::Changed),
            (before, after) => {
                if let Some(before) = before {
                    tell(Happened::Gone(before));
                }
                if let Some(after) = after {
                    tell(Happened::Made(after));
                }
            }
        }
    }
    gone.sort_by(|a, b| b.path.cmp(&a.path));
    here.sort_by(|a, b| a.path.cmp(&b.path));
    gone.append(&mut here);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_is_told_from_below_and_what_is_new_from_above() {
        let shift =
            |path: &str, before, after| Shift { path: path.parse().unwrap(), before, after };
        let (file, dir) = (Some(FileKind::File), Some(FileKind::Dir));
        let told = news_of(&[
            shift("d", dir, None),
            shift("d/x", file, None),
            shift("n", None, dir),
            shift("n/f", None, file),
            shift("m", file, file),
            shift("t", file, dir),
        ]);
        let said: Vec<String> = told.iter().map(|n| format!("{} {:?}", n.path, n.what)).collect();
        assert_eq!(
            said,
            [
                "t Gone(File)",
                "d/x Gone(File)",
                "d Gone(Dir)",
                "m Changed",
                "n Made(Dir)",
                "n/f Made(File)",
                "t Made(Dir)",
            ]
        );
    }
}
