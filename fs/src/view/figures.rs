//! What a view costs: for `agentfs status -v`.

use super::View;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a view holds in memory, and what it has copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How many files and directories the kernel knows.
    pub inodes: usize,
    /// How much memory they take, in bytes, about.
    pub inode_bytes: usize,
    /// How many files were copied up.
    pub copied_files: u64,
    /// How many bytes that were.
    pub copied_bytes: u64,
}

/// Counts copy-ups.
#[derive(Debug, Default)]
pub(super) struct Copied {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Copied {
    pub(super) fn note(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl View {
    /// What it costs now.
    pub fn figures(&self) -> Figures {
        let nodes = self.nodes();
        Figures {
            inodes: nodes.len(),
            inode_bytes: nodes.bytes(),
            copied_files: self.copied.files.load(Ordering::Relaxed),
            copied_bytes: self.copied.bytes.load(Ordering::Relaxed),
        }
    }
}
