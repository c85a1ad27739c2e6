//! A wish for one work unit: which, and whether others are tolerated on it.
//!
//! As text it is the unit, after the word `shared` where a shared claim is meant: `src/api/`,
//! `shared docs/`. A file whose name begins with that word is written `./shared x`.

use crate::path::RelPath;
use crate::unit::{InvalidUnit, Mode, WorkUnit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// What stands before a unit that is wanted shared.
const SHARED: &str = "shared ";

/// A unit, and in which mode it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Want {
    /// Which.
    pub unit: WorkUnit,
    /// Shared or exclusive.
    pub mode: Mode,
}

impl Want {
    /// The unit for its holder alone.
    pub fn exclusive(unit: WorkUnit) -> Self {
        Self { unit, mode: Mode::Exclusive }
    }

    /// The want that people mean by `typed`; `locate` and `is_dir` as for [`WorkUnit::typed`].
    pub fn typed<E: From<InvalidUnit>>(
        typed: &[u8],
        locate: impl FnOnce(&[u8]) -> Result<RelPath, E>,
        is_dir: impl FnOnce(&RelPath) -> bool,
    ) -> Result<Self, E> {
        let (mode, unit) = match typed.strip_prefix(SHARED.as_bytes()) {
            Some(rest) => (Mode::Shared, rest.trim_ascii_start()),
            None => (Mode::Exclusive, typed),
        };
        Ok(Self { unit: WorkUnit::typed(unit, locate, is_dir)?, mode })
    }

    /// Whether having this is having `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.unit.covers(&other.unit) && self.mode >= other.mode
    }
}

/// Each unit once, in the stronger of the modes it is wanted in, and none that another one of
/// them covers; in the order of their first mention.
pub fn merged(wants: impl IntoIterator<Item = Want>) -> Vec<Want> {
    let wants: Vec<Want> = wants.into_iter().collect();
    // By unit, the strongest mode of each; what covers a unit is at it or above it.
    let mut strongest: BTreeMap<&WorkUnit, Mode> = BTreeMap::new();
    for want in &wants {
        let mode = strongest.entry(&want.unit).or_insert(want.mode);
        *mode = want.mode.max(*mode);
    }
    let is_covered = |want: &Want| {
        let above = want.unit.path().into_iter().flat_map(RelPath::ancestors);
        above.map(WorkUnit::Dir).filter(|dir| *dir != want.unit).any(|dir| {
            dir.covers(&want.unit) && strongest.get(&dir).is_some_and(|mode| *mode >= want.mode)
        })
    };
    let mut told = BTreeSet::new();
    let kept = wants.iter().filter(|want| {
        strongest.get(&want.unit) == Some(&want.mode) && !is_covered(want) && told.insert(*want)
    });
    kept.cloned().collect()
}

impl FromStr for Want {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mode, unit) = match text.strip_prefix(SHARED) {
            Some(rest) => (Mode::Shared, rest.trim_start()),
            None => (Mode::Exclusive, text),
        };
        Ok(Self { unit: unit.parse()?, mode })
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit.to_string();
        let text = match self.mode {
            Mode::Shared => format!("{SHARED}{unit}"),
            Mode::Exclusive if unit.starts_with(SHARED) => format!("./{unit}"),
            Mode::Exclusive => unit,
        };
        f.pad(&text)
    }
}

impl TryFrom<String> for Want {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Want> for String {
    fn from(want: Want) -> Self {
        want.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(text: &str) -> Want {
        text.parse().unwrap()
    }

    #[test]
    fn wants_read_back_as_they_are_written() {
        for text in ["src/a", "shared src/", "./shared x", "shared proc:test", "shared shared x"] {
            assert_eq!(want(text).to_string(), text);
        }
        assert_eq!(want("shared  docs/").mode, Mode::Shared);
        assert_eq!(want("./shared x").mode, Mode::Exclusive);
        assert!("shared ".parse::<Want>().is_err());
    }

    #[test]
    fn merging_keeps_the_strongest() {
        let texts = ["shared src/a", "src/a", "shared src/", "docs/x", "docs/", "shared docs/y"];
        let merged: Vec<String> = merged(texts.map(want)).iter().map(ToString::to_string).collect();
        assert_eq!(merged, ["src/a", "shared src/", "docs/"]);
    }
}
