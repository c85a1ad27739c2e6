//! What the journal tells of named processes, and nothing else does.

use crate::world::World;
use agentfs_core::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// A process that a rule has named, with all that it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedProcess {
    /// Whose it was.
    pub agent: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// The entry that it began with, and when.
    pub began: (u64, Timestamp),
    /// The entry that it ended with, and when.
    pub ended: (u64, Timestamp),
}

impl World {
    /// The processes that were `unit`, in the order of their beginnings. All must have ended.
    #[track_caller]
    pub fn named_processes(&self, unit: &str) -> Vec<NamedProcess> {
        let mut open: BTreeMap<(String, String), NamedProcess> = BTreeMap::new();
        let mut all = Vec::new();
        for entry in self.log() {
            let (event, at) = (&entry.event, (entry.seq, entry.at));
            if event["unit"] != unit {
                continue;
            }
            let agent = event["agent"].as_str().unwrap_or_default().to_owned();
            let key = (agent.clone(), event["pid"].to_string());
            if event["type"] == "process_began" {
                let words = |words: &Value| serde_json::from_value(words.clone());
                let argv = words(&event["argv"]).expect("a command line has words");
                let process = NamedProcess { agent, argv, began: at, ended: at };
                assert!(open.insert(key, process).is_none(), "it has begun twice: {}", entry.text);
            } else if event["type"] == "process_ended" {
                let process = open.remove(&key).expect("what has ended has begun");
                all.push(NamedProcess { ended: at, ..process });
            }
        }
        assert!(open.is_empty(), "these never ended: {open:?}");
        all.sort_by_key(|process| process.began.0);
        all
    }
}
