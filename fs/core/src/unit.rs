//! Work units: what can be claimed.

use crate::path::{InvalidPath, RelPath};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Something that can be claimed. As text: `src/a.rs`, `src/api/`, `proc:build`, `res:port-8080`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WorkUnit {
    /// One file (or symbolic link), which need not exist yet.
    File(RelPath),
    /// A directory with all that is below it; `./` is the whole workspace.
    Dir(RelPath),
    /// A named process, such as `proc:build`.
    Process(UnitName),
    /// A named resource, such as `res:port-8080`.
    Resource(UnitName),
}

impl Default for WorkUnit {
    /// The whole workspace.
    fn default() -> Self {
        Self::Dir(RelPath::root())
    }
}

/// The name after `proc:` or `res:`: letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// Why a text is no work unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Nothing was given.
    #[error(
        "a work unit is missing: name a file (src/a.rs), a directory (src/api/), proc:NAME or res:NAME"
    )]
    Empty,
    /// The name after `proc:` or `res:` is not one.
    #[error(
        "{0:?} is no work unit: the name after the colon may hold letters, digits, '-', '_' and '.'"
    )]
    Name(String),
    /// The path in it is not one.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// The path in it is elsewhere.
    #[error("{0} is outside the workspace; name a path in it")]
    Outside(String),
}

/// Whether a claim tolerates others on the same unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Many may hold it, as long as all are shared.
    Shared,
    /// One holds it.
    Exclusive,
}

impl Mode {
    /// Whether two leases of overlapping units may exist side by side (G1).
    pub fn compatible(self, other: Self) -> bool {
        self == Self::Shared && other == Self::Shared
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
}

impl WorkUnit {
    /// The path, for the two kinds that have one.
    pub fn path(&self) -> Option<&RelPath> {
        match self {
            Self::File(path) | Self::Dir(path) => Some(path),
            Self::Process(_) | Self::Resource(_) => None,
        }
    }

    /// Whether two units have something in common: the same path or name, or a directory and
    /// what is below it.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.path(), other.path()) {
            (Some(mine), Some(theirs)) => {
                mine == theirs || self.covers_path(theirs) || other.covers_path(mine)
            }
            (None, None) => self == other,
            _ => false,
        }
    }

    /// Whether holding this unit is enough to write `path`.
    pub fn covers_path(&self, path: &RelPath) -> bool {
        match self {
            Self::File(mine) => mine == path,
            Self::Dir(mine) => mine.contains(path),
            Self::Process(_) | Self::Resource(_) => false,
        }
    }

    /// Whether holding this unit includes holding all of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dir(mine), Self::Dir(theirs)) => mine.contains(theirs),
            (_, Self::File(path)) => self.covers_path(path),
            _ => self == other,
        }
    }
}

impl WorkUnit {
    /// The unit that people mean by `typed`: a name, or a path as `locate` understands it, which
    /// is a directory if it is written or, as `is_dir` says, found as one.
    pub fn typed<E: From<InvalidUnit>>(
        typed: &[u8],
        locate: impl FnOnce(&[u8]) -> Result<RelPath, E>,
        is_dir: impl FnOnce(&RelPath) -> bool,
    ) -> Result<Self, E> {
        if typed.is_empty() {
            return Err(InvalidUnit::Empty.into());
        }
        if typed.starts_with(b"proc:") || typed.starts_with(b"res:") {
            return Ok(String::from_utf8_lossy(typed).parse()?);
        }
        let path = locate(typed)?;
        let written = path.is_root() || typed.ends_with(b"/") || typed.ends_with(b"/.");
        Ok(if written || is_dir(&path) { Self::Dir(path) } else { Self::File(path) })
    }
}

impl FromStr for WorkUnit {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |name: &str| UnitName::of(name, text);
        if text.is_empty() {
            return Err(InvalidUnit::Empty);
        }
        if let Some(rest) = text.strip_prefix("proc:") {
            return name(rest).map(Self::Process);
        }
        if let Some(rest) = text.strip_prefix("res:") {
            return name(rest).map(Self::Resource);
        }
        let path: RelPath = text.parse()?;
        if text.ends_with('/') || path.is_root() {
            Ok(Self::Dir(path))
        } else {
            Ok(Self::File(path))
        }
    }
}

impl UnitName {
    /// `name`, which was given as a part of `text`.
    fn of(name: &str, text: &str) -> Result<Self, InvalidUnit> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.is_empty() && name.chars().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidUnit::Name(text.to_owned()))
        }
    }
}

impl FromStr for UnitName {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of(text, text)
    }
}

impl TryFrom<String> for UnitName {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(UnitName(name): UnitName) -> Self {
        name
    }
}

/// The path as text that can't be taken for a name: a file called `proc:x` is `./proc:x`.
fn on_paper(path: &RelPath) -> String {
    let text = path.to_string();
    if text.starts_with("proc:") || text.starts_with("res:") { format!("./{text}") } else { text }
}

impl fmt::Display for WorkUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::File(path) => on_paper(path),
            Self::Dir(path) => format!("{}/", on_paper(path)),
            Self::Process(UnitName(name)) => format!("proc:{name}"),
            Self::Resource(UnitName(name)) => format!("res:{name}"),
        };
        f.pad(&text)
    }
}

impl TryFrom<String> for WorkUnit {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkUnit> for String {
    fn from(unit: WorkUnit) -> Self {
        unit.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> WorkUnit {
        text.parse().unwrap()
    }

    #[test]
    fn units_read_back_as_they_are_written() {
        for text in
            ["src/a.rs", "src/api/", "proc:build", "res:port-8080", "./", "./proc:x", "./res:"]
        {
            assert_eq!(unit(text).to_string(), text);
        }
        assert_eq!(unit("."), WorkUnit::Dir(RelPath::root()));
        for bad in ["", "proc:", "proc:a b", "res:x/y", "/etc/passwd", "../x"] {
            assert!(bad.parse::<WorkUnit>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_directory_overlaps_all_below_it() {
        assert!(unit("src/").overlaps(&unit("src/a.rs")));
        assert!(unit("src/a.rs").overlaps(&unit("src/")));
        assert!(unit("src/").overlaps(&unit("src")), "the same path, as file or directory");
        assert!(!unit("src/a.rs").overlaps(&unit("src/b.rs")));
        assert!(!unit("src/").overlaps(&unit("src2/")));
        assert!(unit("./").overlaps(&unit("x")));
        assert!(unit("proc:x").overlaps(&unit("proc:x")));
        assert!(!unit("proc:x").overlaps(&unit("res:x")));
        assert!(!unit("./").overlaps(&unit("proc:x")), "a path never overlaps a name");
    }

    #[test]
    fn covering_is_one_sided() {
        assert!(unit("src/").covers(&unit("src/a/")));
        assert!(unit("src/").covers(&unit("src/a.rs")));
        assert!(!unit("src/a.rs").covers(&unit("src/")));
        assert!(!unit("src").covers(&unit("src/")));
        assert!(unit("res:x").covers(&unit("res:x")));
    }
}
