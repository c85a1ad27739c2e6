//! What moves beneath an agent: the version of base that its view shows, and base's entries under
//! its own changes.
//!
//! A *coming conflict* is a path that an agent has written, and that base no longer has as it was
//! then: the agent's next apply would be refused there. It is journaled once when it is found, and
//! once when it is gone, because base is again as it was or because the change is settled.
//! Invariant: an agent's coming conflicts are always some of the paths in its
//! [`based`](super::Agent::based).

use super::{Agent, Event, Misfit, State};
use crate::changeset::{Action, Before, same_version};
use crate::ids::{AgentName, BaseVersion};
use crate::path::RelPath;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Who made base's version of a path, by which apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Whose change set it was.
    pub agent: AgentName,
    /// The version of base that it made.
    pub version: BaseVersion,
}

/// One path that a view shows in another version since a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Which.
    pub path: RelPath,
    /// What has become of it, seen from the view.
    pub action: Action,
    /// By whom, where the journal knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Author>,
}

/// A conflict that an apply would meet now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// When it was found.
    pub since: Timestamp,
    /// Whose apply made it; none if somebody changed base by hand.
    pub author: Option<Author>,
}

/// What is on disk for a path that an agent has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFacts {
    /// Which.
    pub path: RelPath,
    /// The version in base now.
    pub base: Before,
    /// Whether the agent and base both have a directory there: these merge.
    pub merges: bool,
}

impl BaseFacts {
    /// Whether an apply of a change that is based on `before` would be refused.
    pub fn conflicts_with(&self, before: Before) -> bool {
        !same_version(self.base, before) && !self.merges
    }
}

/// The paths of `facts` at which the agent's coming conflicts are not what they are known to be:
/// those that begin, and those that are gone.
pub(super) fn compared(agent: &Agent, facts: &[BaseFacts]) -> (Vec<RelPath>, Vec<RelPath>) {
    let (mut begin, mut gone) = (Vec::new(), Vec::new());
    for fact in facts {
        let Some(before) = agent.based.get(&fact.path) else { continue };
        match (fact.conflicts_with(*before), agent.coming.contains_key(&fact.path)) {
            (true, false) if !begin.contains(&fact.path) => begin.push(fact.path.clone()),
            (false, true) if !gone.contains(&fact.path) => gone.push(fact.path.clone()),
            _ => {}
        }
    }
    (begin, gone)
}

impl Agent {
    /// Drops the coming conflicts of changes that are settled.
    pub(super) fn forget_settled(&mut self) {
        let Self { coming, based, .. } = self;
        coming.retain(|path, _| based.contains_key(path));
    }
}

impl State {
    /// All coming conflicts, by agent and path.
    pub fn coming(&self) -> impl Iterator<Item = (&AgentName, &RelPath, &Coming)> {
        self.agents.iter().flat_map(|(name, agent)| {
            agent.coming.iter().map(move |(path, coming)| (name, path, coming))
        })
    }

    /// What a sync moved, with who did it.
    pub(super) fn with_authors(&self, moved: Vec<(RelPath, Action)>) -> Vec<Moved> {
        let tell = |(path, action)| Moved { author: self.recent.get(&path).cloned(), path, action };
        moved.into_iter().map(tell).collect()
    }

    /// Folds the events that this module is about; others change nothing here.
    pub(super) fn fold_moving(&mut self, event: &Event, at: Timestamp) -> Result<(), Misfit> {
        match event {
            Event::Synced { agent, version, .. } => {
                let live = self.known_mut(agent)?.live;
                if let Some(run) = live.and_then(|run| self.runs.get_mut(&run)) {
                    run.base = *version;
                }
            }
            Event::ConflictComes { agent, path, author } => {
                let coming = Coming { since: at, author: author.clone() };
                self.known_mut(agent)?.coming.insert(path.clone(), coming);
            }
            Event::ConflictGone { agent, path } => {
                self.known_mut(agent)?.coming.remove(path);
            }
            _ => {}
        }
        Ok(())
    }

    /// Remembers who changed `paths` last, as long as a run may live whose view is older.
    pub(super) fn note_authors(&mut self, agent: &AgentName, paths: &[RelPath]) {
        let author = Author { agent: agent.clone(), version: self.base_version };
        self.recent.extend(paths.iter().map(|path| (path.clone(), author.clone())));
        self.forget_authors();
    }

    /// Without a live run every view is at the newest version, and without changes that rest on
    /// what was read nobody will ask.
    pub(super) fn forget_authors(&mut self) {
        if self.agents.values().all(|agent| agent.live.is_none() && agent.reads.is_empty()) {
            self.recent.clear();
        }
    }
}
