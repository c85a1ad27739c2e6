//! What runs have read: which version of which path, so that it can be said who has built on what
//! is not so any more.
//!
//! A version is kept as a number made of its signature. Two versions with the same number would be
//! taken for one, which is as likely as a wrong guess among 2^64.

use crate::changeset::{Before, FileKind};
use crate::ids::BaseVersion;
use crate::path::RelPath;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A version of a base entry, in short; that there was nothing is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(u64);

/// What is known of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Which version it was.
    pub version: Fingerprint,
    /// When it was heard of, which is at most a moment later.
    pub at: Timestamp,
    /// The version of base that the view was at.
    pub base: BaseVersion,
}

/// The latest read of each path.
pub type Reads = BTreeMap<RelPath, Looked>;

impl From<Before> for Fingerprint {
    fn from(version: Before) -> Self {
        let Some(version) = version else { return Self(0) };
        let kind = match version.kind {
            FileKind::File => 1,
            FileKind::Dir => 2,
            FileKind::Symlink => 3,
            FileKind::Special => 4,
        };
        // Of a directory only the mode counts, as everywhere.
        let content = match version.kind {
            FileKind::Dir => [0; 3],
            _ => [version.size, version.mtime_ns.cast_unsigned(), version.ino],
        };
        let fields = [kind, u64::from(version.mode)].into_iter().chain(content);
        let bytes = fields.flat_map(u64::to_le_bytes);
        // FNV-1a (Fowler, Noll, Vo), which has no state that could differ between versions.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changeset::Signature;

    #[test]
    fn every_field_makes_another_version() {
        let one = Signature { kind: FileKind::File, mode: 0o644, size: 3, mtime_ns: 5, ino: 7 };
        let of = |version| Fingerprint::from(Some(version));
        let others = [
            Signature { kind: FileKind::Symlink, ..one },
            Signature { mode: 0o755, ..one },
            Signature { size: 4, ..one },
            Signature { mtime_ns: -5, ..one },
            Signature { ino: 8, ..one },
        ];
        for other in others {
            assert_ne!(of(one), of(other), "{other:?}");
        }
        assert_ne!(of(one), Fingerprint::from(None));
        let dir = Signature { kind: FileKind::Dir, ..one };
        assert_eq!(of(dir), of(Signature { size: 9, ino: 9, ..dir }));
        assert_eq!(serde_json::to_string(&of(one)).unwrap(), "11793363742078688698");
    }
}
