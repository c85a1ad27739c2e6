//! Paths below a workspace's root: any bytes but NUL, always relative, always normal.
//!
//! A [`RelPath`] has no empty, `.` or `..` component and no slash at either end, so joining it to
//! a directory can never leave that directory by itself (symbolic links are the adapters' matter:
//! `openat2` with `RESOLVE_NO_SYMLINKS`). The root itself is the empty path.
//!
//! In JSON and on terminals a path is text: bytes that are not UTF-8, control characters and the
//! backslash are written `\xHH`, so every path has exactly one spelling and can be read back.

use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A normal path relative to the workspace's root. Ordered by bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(Vec<u8>);

/// Why bytes are not a path in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It begins with a slash.
    #[error("{0} is absolute; name it relative to the workspace's root")]
    Absolute(String),
    /// It has a `..` that leaves the workspace.
    #[error("{0} is outside the workspace")]
    Outside(String),
    /// It holds a NUL byte.
    #[error("{0:?} holds a NUL byte, which no file name can")]
    Nul(String),
    /// A `\xHH` in it is not two hexadecimal digits.
    #[error("{0:?} holds a backslash that is not a \\xHH escape")]
    Escape(String),
}

impl RelPath {
    /// The workspace's root: the empty path.
    pub fn root() -> Self {
        Self::default()
    }

    /// Normalises `bytes`: drops empty and `.` components and resolves `..` by text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPath> {
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        if bytes.first() == Some(&b'/') {
            return Err(InvalidPath::Absolute(shown()));
        }
        if bytes.contains(&0) {
            return Err(InvalidPath::Nul(shown()));
        }
        let mut kept: Vec<&[u8]> = Vec::new();
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    kept.pop().ok_or_else(|| InvalidPath::Outside(shown()))?;
                }
                name => kept.push(name),
            }
        }
        Ok(Self(kept.join(&b'/')))
    }

    /// Like [`RelPath::from_bytes`], for a path of the operating system.
    pub fn from_path(path: &Path) -> Result<Self, InvalidPath> {
        Self::from_bytes(path.as_os_str().as_bytes())
    }

    /// From names that are one component each, first to last.
    ///
    /// # Panics
    /// If one of them is not, as [`RelPath::join`].
    #[must_use]
    pub fn from_components(names: &[&[u8]]) -> Self {
        for name in names {
            assert_component(name);
        }
        Self(names.join(&b'/'))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of the operating system; the root is `.`.
    pub fn to_path_buf(&self) -> PathBuf {
        if self.is_root() {
            PathBuf::from(".")
        } else {
            PathBuf::from(OsString::from_vec(self.0.clone()))
        }
    }

    /// Whether this is the workspace's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry `name` of this directory.
    ///
    /// # Panics
    /// If `name` is not one component: the kernel never sends such a name.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        let name = name.as_bytes();
        assert_component(name);
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The directory that holds it; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// The last component; none for the root.
    pub fn file_name(&self) -> Option<&OsStr> {
        if self.is_root() {
            return None;
        }
        let start = self.0.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        Some(OsStr::from_bytes(&self.0[start..]))
    }

    /// The components, first to last.
    pub fn components(&self) -> impl Iterator<Item = &OsStr> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty()).map(OsStr::from_bytes)
    }

    /// Whether `other` is this path or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        self.is_root()
            || self == other
            || (other.0.starts_with(&self.0) && other.0.get(self.0.len()) == Some(&b'/'))
    }

    /// This path and every directory above it, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// This path with the prefix `from` replaced by `to`; none if it is not below `from`.
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        if !from.contains(self) {
            return None;
        }
        let rest = &self.0[from.0.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let mut bytes = to.0.clone();
        if !bytes.is_empty() && !rest.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(rest);
        Some(Self(bytes))
    }
}

impl FromStr for RelPath {
    type Err = InvalidPath;

    /// Reads the text form: `\xHH` stands for one byte.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&unescape(text)?)
    }
}

fn assert_component(name: &[u8]) {
    assert!(
        !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'),
        "not one path component: {name:?}"
    );
}

fn unescape(text: &str) -> Result<Vec<u8>, InvalidPath> {
    let wrong = || InvalidPath::Escape(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.strip_prefix(b"x").and_then(|t| t.get(..2)).ok_or_else(wrong)?;
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &tail[3..];
    }
    Ok(bytes)
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\\' || c.is_control() {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        write!(text, "\\x{byte:02x}")?;
                    }
                } else {
                    text.push(c);
                }
            }
            for byte in chunk.invalid() {
                write!(text, "\\x{byte:02x}")?;
            }
        }
        f.pad(if text.is_empty() { "." } else { &text })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for RelPath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> Self {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_normal() {
        assert_eq!(path("a//b/./c/"), path("a/b/c"));
        assert_eq!(path("a/../b"), path("b"));
        assert_eq!(path("."), RelPath::root());
        assert!(matches!("../x".parse::<RelPath>(), Err(InvalidPath::Outside(_))));
        assert!(matches!("a/../../x".parse::<RelPath>(), Err(InvalidPath::Outside(_))));
        assert!(matches!("/etc".parse::<RelPath>(), Err(InvalidPath::Absolute(_))));
        assert!(matches!(RelPath::from_bytes(b"a\0b"), Err(InvalidPath::Nul(_))));
        assert!(matches!("a\\q".parse::<RelPath>(), Err(InvalidPath::Escape(_))));
    }

    #[test]
    fn containment_is_by_component() {
        assert!(path("src").contains(&path("src/a.rs")));
        assert!(!path("src").contains(&path("src2/a.rs")));
        assert!(!path("src").contains(&path("src-old")));
        assert!(RelPath::root().contains(&path("x")));
        assert!(path("x").contains(&path("x")));
    }

    #[test]
    fn rebase_moves_a_subtree() {
        assert_eq!(path("a/b/c").rebase(&path("a"), &path("z")), Some(path("z/b/c")));
        assert_eq!(path("a").rebase(&path("a"), &path("z")), Some(path("z")));
        assert_eq!(path("ab").rebase(&path("a"), &path("z")), None);
    }

    proptest! {
        #[test]
        fn every_path_has_one_spelling_that_reads_back(
            bytes in prop::collection::vec(1u8..=255, 0..40)
        ) {
            if let Ok(path) = RelPath::from_bytes(&bytes) {
                prop_assert_eq!(&path.to_string().parse::<RelPath>().unwrap(), &path);
                let json = serde_json::to_string(&path).unwrap();
                prop_assert_eq!(serde_json::from_str::<RelPath>(&json).unwrap(), path);
            }
        }

        #[test]
        fn a_child_is_contained_and_leads_back(
            bytes in prop::collection::vec(1u8..=255, 0..20), name in "[a-z.]{3,9}"
        ) {
            if let Ok(dir) = RelPath::from_bytes(&bytes) {
                let child = dir.join(OsStr::new(&name));
                prop_assert!(dir.contains(&child));
                prop_assert_eq!(child.parent(), Some(dir));
                prop_assert_eq!(child.file_name(), Some(OsStr::new(&name)));
            }
        }
    }
}
