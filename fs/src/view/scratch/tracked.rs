//! What base's git tracks, as its index says. This is the only place that knows gix-index.

use super::RECHECK;
use agentfs_core::RelPath;
use gix_index::decode::Options;
use gix_index::{File, State};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The tracked paths. Reads the index again when it has changed.
#[derive(Debug)]
pub(super) struct Tracked {
    index: PathBuf,
    known: Mutex<Known>,
}

/// The index as of one version of it. Git replaces the file, so each version has its own number.
#[derive(Debug, Default)]
struct Known {
    checked: Option<Instant>,
    version: Option<(u64, u64, i64, i64)>,
    state: Option<Arc<State>>,
}

impl Tracked {
    /// Those of the index file `index`, which may not exist.
    pub(super) fn by(index: PathBuf) -> Self {
        Self { index, known: Mutex::default() }
    }

    /// Whether `path` is tracked or, for a directory, something below it.
    pub(super) fn has(&self, path: &RelPath, is_dir: bool) -> bool {
        let Some(state) = self.state() else { return false };
        // A submodule, and a file that the agent has made a directory, are tracked by their name.
        let by_name = state.entry_range(path.as_bytes().into()).is_some();
        by_name || is_dir && state.prefixed_entries(below(path).as_slice().into()).is_some()
    }

    fn state(&self) -> Option<Arc<State>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.checked.is_some_and(|checked| checked.elapsed() < RECHECK) {
            return known.state.clone();
        }
        known.checked = Some(Instant::now());
        let version = self.index.symlink_metadata().ok();
        let version = version.map(|it| (it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
        if known.version != version {
            known.version = version;
            known.state = version.and_then(|_| self.read());
        }
        known.state.clone()
    }

    fn read(&self) -> Option<Arc<State>> {
        let one_thread = Options { thread_limit: Some(1), ..Options::default() };
        match File::at(&self.index, gix_index::hash::Kind::Sha1, true, one_thread) {
            Ok(file) => Some(Arc::new(State::from(file))),
            Err(error) => {
                let index = self.index.display();
                tracing::warn!(%index, %error, "git's index can't be read; what it tracks may count as ignored");
                None
            }
        }
    }
}

fn below(path: &RelPath) -> Vec<u8> {
    [path.as_bytes(), b"/"].concat()
}
