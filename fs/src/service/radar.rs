//! The radar: who has read what another has changed since, or is changing now.
//!
//! Gates know at once what their run opens for reading, the journal hears of it within a second
//! ([`Owner::note_reads`]): nobody waits for that, and the daemon's death may take the last second of it.
//! Whether a read is stale is asked of base itself, when somebody wants to know: a `stat` for each
//! path that was read, apart from the owner ([`Look`]) but for an apply, which has to be sure.

use super::{Owner, ServiceError};
use crate::changeset;
use agentfs_api::types::{ReadChange, StaleRead};
use agentfs_core::changeset::Before;
use agentfs_core::config::Isolation;
use agentfs_core::machine::{Author, Command};
use agentfs_core::reads::{Fingerprint, Looked};
use agentfs_core::{AgentName, BaseVersion, RelPath, RunId, Timestamp, explain};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How many reads one entry of the journal holds.
const READS_PER_ENTRY: usize = 1_000;

/// What runs have read, to be compared with base apart from the owner.
pub struct Look {
    root: PathBuf,
    now: Timestamp,
    readers: Vec<Reader>,
    authors: BTreeMap<RelPath, Author>,
    applied: BTreeMap<BaseVersion, Timestamp>,
    underway: BTreeMap<RelPath, Vec<(AgentName, Timestamp)>>,
}

/// One agent, and what its work rests on.
struct Reader {
    agent: AgentName,
    run: Option<RunId>,
    reads: Vec<(RelPath, Looked)>,
}

impl Look {
    /// What is stale now, by agent and path. Blocks while it looks at base.
    pub fn stale(&self) -> Result<Vec<StaleRead>, ServiceError> {
        let base = open(&self.root)?;
        let mut found = Vec::new();
        for reader in &self.readers {
            for (path, looked) in &reader.reads {
                found.extend(self.changes_of(&base, reader, path, looked));
            }
        }
        Ok(found)
    }

    fn changes_of(
        &self,
        base: &OwnedFd,
        reader: &Reader,
        path: &RelPath,
        looked: &Looked,
    ) -> Vec<StaleRead> {
        // What can't be looked at is not known to be what it was.
        let found = changeset::signature(base, path);
        let is_same = found.as_ref().is_ok_and(|now| Fingerprint::from(*now) == looked.version);
        let now = found.unwrap_or(None);
        let stale = |(change, since)| self.told(reader, path, looked, change, since);
        let mut found = Vec::new();
        if !is_same {
            found.push(stale(self.applied_since(path, looked, now)));
        }
        let others = self.underway.get(path).into_iter().flatten();
        let others = others.filter(|(agent, _)| *agent != reader.agent);
        found.extend(
            others
                .map(|(by, since)| stale((ReadChange::Underway { by: by.clone() }, Some(*since)))),
        );
        found
    }

    /// Who made base's present version, and when.
    fn applied_since(
        &self,
        path: &RelPath,
        looked: &Looked,
        now: Before,
    ) -> (ReadChange, Option<Timestamp>) {
        let above = || path.ancestors().find_map(|at| self.authors.get(&at));
        match above().filter(|author| author.version > looked.base) {
            Some(Author { agent, version }) => {
                let change = ReadChange::Applied { by: agent.clone(), version: *version };
                (change, self.applied.get(version).copied())
            }
            None => {
                let millis = now.and_then(|now| u64::try_from(now.mtime_ns / 1_000_000).ok());
                (ReadChange::ByHand, millis.map(Timestamp).filter(|at| *at <= self.now))
            }
        }
    }

    fn told(
        &self,
        reader: &Reader,
        path: &RelPath,
        looked: &Looked,
        change: ReadChange,
        since: Option<Timestamp>,
    ) -> StaleRead {
        let (agent, run) = (reader.agent.clone(), reader.run);
        let (read, read_at) = (looked.base, looked.at);
        let ago = explain::span(self.now.since(read_at));
        let when = since.map(|at| format!(" ({} ago)", explain::span(self.now.since(at))));
        let when = when.unwrap_or_default();
        let then = match &change {
            ReadChange::Applied { by, version } => format!("{by} has applied {version}{when}"),
            ReadChange::ByHand => format!("somebody has changed it by hand{when}"),
            ReadChange::Underway { by } => format!("{by} is changing it{when}"),
        };
        let text = format!("{agent} built on {path} at {read} ({ago} ago), and {then}");
        StaleRead { agent, run, path: path.clone(), read, read_at, change, since, text }
    }
}

impl Owner {
    /// A gate knows of reads that the journal does not have: it will, within a second.
    pub(super) fn reads_are_due(&mut self) {
        self.unread.get_or_insert_with(Instant::now);
    }

    /// Journals what runs have read.
    pub(super) fn note_reads(&mut self) {
        self.unread = None;
        let agents: Vec<AgentName> = self.agents.keys().cloned().collect();
        for agent in agents {
            self.note_reads_of(&agent);
        }
    }

    pub(super) fn note_reads_of(&mut self, agent: &AgentName) {
        let reads = self.agents.get(agent).map(|served| served.gate.take_reads());
        let mut reads = reads.unwrap_or_default();
        reads.sort_by(|(a, _), (b, _)| a.cmp(b));
        for paths in reads.chunks(READS_PER_ENTRY).map(<[_]>::to_vec) {
            let note = Command::NoteReads { agent: agent.clone(), paths };
            if let Err(error) = self.command(note) {
                tracing::error!(%agent, %error, "what it has read is not noted");
            }
        }
    }

    /// All that is needed to say what is stale: of one agent, or of all.
    pub fn look_at_reads(&mut self, only: Option<&AgentName>) -> Look {
        self.note_reads();
        let state = self.state();
        let mut underway: BTreeMap<RelPath, Vec<(AgentName, Timestamp)>> = BTreeMap::new();
        for (agent, known) in state.agents.iter().filter(|(_, known)| !known.clearing) {
            for path in known.based.keys() {
                let unit = agentfs_core::WorkUnit::File(path.clone());
                let held = state.locks.overlapping(&unit).find(|lease| lease.agent == *agent);
                let since = held.map_or(known.last_sign, |lease| lease.since);
                underway.entry(path.clone()).or_default().push((agent.clone(), since));
            }
        }
        let readers = state.agents.iter().filter(|(name, _)| only.is_none_or(|o| o == *name));
        let reader = |(name, known): (&AgentName, &agentfs_core::machine::Agent)| Reader {
            agent: name.clone(),
            run: known.latest,
            // What it has written itself is another matter: a conflict, if anything.
            reads: known
                .reads
                .iter()
                .filter(|(path, _)| !known.based.contains_key(*path))
                .map(|(path, looked)| (path.clone(), *looked))
                .collect(),
        };
        Look {
            root: self.workspace.root.clone(),
            now: self.clock.now(),
            readers: readers.map(reader).collect(),
            authors: state.recent.clone(),
            applied: state.applied.iter().map(|(version, (at, _))| (*version, *at)).collect(),
            underway,
        }
    }

    /// What the agent's work rests on that base has in another version by now. What can't be
    /// looked at is left out.
    pub(super) fn stale_reads_of(&mut self, agent: &AgentName) -> Vec<StaleRead> {
        let mut stale = self.look_at_reads(Some(agent)).stale().unwrap_or_default();
        stale.retain(is_in_base);
        stale
    }

    /// Where `isolation = "serializable"`, changes that rest on old versions are not applied.
    pub(super) fn refuse_stale_reads(&mut self, agent: &AgentName) -> Result<(), ServiceError> {
        if self.config.isolation != Isolation::Serializable {
            return Ok(());
        }
        let mut stale = self.look_at_reads(Some(agent)).stale()?;
        stale.retain(is_in_base);
        if stale.is_empty() {
            return Ok(());
        }
        Err(ServiceError::StaleReads { agent: agent.clone(), stale })
    }
}

/// Whether base has another version by now, and not only another agent.
fn is_in_base(read: &StaleRead) -> bool {
    !matches!(read.change, ReadChange::Underway { .. })
}

fn open(root: &Path) -> Result<OwnedFd, ServiceError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(ServiceError::io("open", root))
}
