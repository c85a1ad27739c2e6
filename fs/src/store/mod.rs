//! The journal: an append-only, hash-chained table of events. The only place that knows SQLite.
//!
//! What [`Store::append`] was to bring to the disk ([`Durable::Now`]) is there when it returns
//! (`synchronous = FULL`: under simulated power cuts anything less lost commits). Each row's hash covers the row before it,
//! so an altered, missing or reordered row is found by [`Store::load`]. It knows nothing of what
//! the events mean.

use agentfs_core::Timestamp;
use agentfs_core::machine::Event;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// Written to a new journal, and expected of an old one.
const FORMAT: i64 = 1;

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the journal {}: {source}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A row is not what was written.
    #[error("the journal {} was altered: entry {seq} {what}; restore it from a copy, or move its directory away to begin a new one", path.display())]
    Altered {
        /// Which journal.
        path: PathBuf,
        /// Which entry.
        seq: u64,
        /// How it shows.
        what: &'static str,
    },
    /// A newer program wrote it.
    #[error("the journal {} has format {found}, this program knows {FORMAT}; use the newer agentfs that wrote it", path.display())]
    Newer {
        /// Which journal.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
}

impl StoreError {
    /// Whether it is for want of space.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Database { source, .. }
            if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1 without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// A row as it is stored: the event as JSON, and the hash up to it.
type Row = (Entry, String, [u8; 32]);

/// When appended entries must be on disk, so that a loss of power can't take them. That the program
/// dies never takes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Before the call returns: somebody is told of them.
    Now,
    /// With the next that must, or with [`Store::sync`].
    Soon,
}

/// The journal of one workspace, open for appending.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    /// What SQLite's `synchronous` is set to.
    durable: Durable,
    path: PathBuf,
    last_seq: u64,
    last_hash: [u8; 32],
}

impl Store {
    /// Opens or creates `DIR/journal.db`.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("journal.db");
        let failed = |source| StoreError::Database { path: path.clone(), source };
        let db = Connection::open(&path).map_err(failed)?;
        let found = Self::set_up(&db).map_err(failed)?;
        if found > FORMAT {
            return Err(StoreError::Newer { path, found });
        }
        let last = db
            .query_row("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?))
            })
            .optional()
            .map_err(|source| StoreError::Database { path: path.clone(), source })?;
        let (last_seq, last_hash) = last.unwrap_or((0, [0; 32]));
        let durable = Durable::Now;
        Ok(Self { db, durable, path, last_seq: last_seq as u64, last_hash })
    }

    /// Creates what is missing; returns the format that is there.
    fn set_up(db: &Connection) -> rusqlite::Result<i64> {
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "full")?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS events (
                 seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, event TEXT NOT NULL, hash BLOB NOT NULL
             ) STRICT;",
        )?;
        let format: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if format == 0 {
            db.pragma_update(None, "user_version", FORMAT)?;
            return Ok(FORMAT);
        }
        Ok(format)
    }

    /// The number of the last entry; 0 if there is none.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Appends all of `events`, or none. Blocks until they are on disk, if they have to be now.
    ///
    /// In SQLite's WAL mode a commit with `synchronous = NORMAL` is not synced, and the next one
    /// with `FULL` syncs it too: <https://sqlite.org/pragma.html#pragma_synchronous>.
    pub fn append(
        &mut self,
        events: &[(Timestamp, Event)],
        durable: Durable,
    ) -> Result<Vec<Entry>, StoreError> {
        if durable != self.durable {
            let level = if durable == Durable::Now { "full" } else { "normal" };
            let set = self.db.pragma_update(None, "synchronous", level);
            set.map_err(|source| self.failed(source))?;
            self.durable = durable;
        }
        let (mut seq, mut hash) = (self.last_seq, self.last_hash);
        let mut rows = Vec::with_capacity(events.len());
        for (at, event) in events {
            let json = serde_json::to_string(event).map_err(|error| {
                self.failed(rusqlite::Error::ToSqlConversionFailure(error.into()))
            })?;
            seq += 1;
            hash = chain(&hash, seq, *at, &json);
            rows.push((Entry { seq, at: *at, event: event.clone() }, json, hash));
        }
        insert(&mut self.db, &rows).map_err(|source| self.failed(source))?;
        (self.last_seq, self.last_hash) = (seq, hash);
        Ok(rows.into_iter().map(|(entry, _, _)| entry).collect())
    }

    /// Brings everything to the disk. Blocks as long as that takes.
    pub fn sync(&self) -> Result<(), StoreError> {
        // A checkpoint syncs the log before it copies from it.
        let done = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        done.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source }
    }

    /// Entries after number `after`, at most `limit`, oldest first. Does not check the chain.
    pub fn after(&self, after: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(self.rows(after, limit)?.into_iter().map(|(entry, _, _)| entry).collect())
    }

    /// All entries, oldest first, with every hash checked.
    pub fn load(&self) -> Result<Vec<Entry>, StoreError> {
        let altered = |seq, what| StoreError::Altered { path: self.path.clone(), seq, what };
        let mut expected = [0; 32];
        let mut entries = Vec::new();
        for (at, (entry, json, hash)) in self.rows(0, usize::MAX)?.into_iter().enumerate() {
            if entry.seq != at as u64 + 1 {
                return Err(altered(at as u64 + 1, "is missing"));
            }
            expected = chain(&expected, entry.seq, entry.at, &json);
            if expected != hash {
                return Err(altered(entry.seq, "does not match its hash"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn rows(&self, after: u64, limit: usize) -> Result<Vec<Row>, StoreError> {
        let failed = |source| self.failed(source);
        let sql = "SELECT seq, at, event, hash FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let mut select = self.db.prepare_cached(sql).map_err(failed)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = select
            .query_map(params![after as i64, limit], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?,
                    row.get(3)?,
                ))
            })
            .map_err(failed)?;
        rows.map(|row| {
            let (seq, at, json, hash) = row.map_err(failed)?;
            let (seq, at) = (seq as u64, Timestamp(at as u64));
            let event = serde_json::from_str(&json).map_err(|_| StoreError::Altered {
                path: self.path.clone(),
                seq,
                what: "is not an event",
            })?;
            Ok((Entry { seq, at, event }, json, hash))
        })
        .collect()
    }
}

fn insert(db: &mut Connection, rows: &[Row]) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    let sql = "INSERT INTO events (seq, at, event, hash) VALUES (?1, ?2, ?3, ?4)";
    for (entry, json, hash) in rows {
        let mut insert = transaction.prepare_cached(sql)?;
        insert.execute(params![entry.seq as i64, entry.at.0 as i64, json, hash])?;
    }
    transaction.commit()
}

/// The hash of a row, over the hash of the row before it.
fn chain(before: &[u8; 32], seq: u64, at: Timestamp, json: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&seq.to_le_bytes()).update(&at.0.to_le_bytes());
    hasher.update(json.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_events(count: u64) -> Vec<(Timestamp, Event)> {
        let agent: agentfs_core::AgentName = "alice".parse().unwrap();
        (0..count)
            .map(|n| (Timestamp(n), Event::Pending { agent: agent.clone(), why: format!("{n}") }))
            .collect()
    }

    #[test]
    fn what_was_appended_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.append(&some_events(3), Durable::Now).unwrap();
        drop(store);
        let mut store = Store::open(dir.path()).unwrap();
        store.append(&some_events(2), Durable::Soon).unwrap();
        store.sync().unwrap();
        let all = store.load().unwrap();
        assert_eq!(all.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(store.after(3, 1).unwrap(), all[3..4]);
    }

    #[test]
    fn an_altered_a_missing_and_a_cut_row_are_found() {
        let alter = |sql: &str| {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(dir.path()).unwrap();
            store.append(&some_events(5), Durable::Now).unwrap();
            store.db.execute(sql, []).unwrap();
            store.load().map(|entries| entries.len()).map_err(|error| match error {
                StoreError::Altered { seq, .. } => seq,
                error => panic!("{error}"),
            })
        };
        assert_eq!(alter("UPDATE events SET at = at"), Ok(5));
        assert_eq!(alter("UPDATE events SET at = at + 1 WHERE seq = 3"), Err(3));
        assert_eq!(alter("UPDATE events SET event = replace(event, '1', '7')"), Err(2));
        assert_eq!(alter("DELETE FROM events WHERE seq = 2"), Err(2));
        assert_eq!(alter("UPDATE events SET event = 'x' WHERE seq = 4"), Err(4));
    }
}
