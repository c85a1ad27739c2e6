//! Units as an agent writes them into `.agentfs/claim` and `.agentfs/release`: one a line, each
//! after the word `shared` where a shared claim is meant. Pure: the caller knows the directories.

use crate::path::RelPath;
use crate::unit::{InvalidUnit, Mode, WorkUnit};

/// What one write names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitList {
    /// How all of them are claimed.
    pub mode: Mode,
    /// At least one.
    pub units: Vec<WorkUnit>,
}

impl UnitList {
    /// Reads `text`; `locate` and `is_dir` as for [`WorkUnit::typed`]. Empty lines say nothing.
    pub fn parse(
        text: &[u8],
        locate: impl Fn(&[u8]) -> Result<RelPath, InvalidUnit>,
        is_dir: impl Fn(&RelPath) -> bool,
    ) -> Result<Self, InvalidUnit> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let mut list: Option<Self> = None;
        for line in lines.filter(|line| !line.is_empty()) {
            // A file of such a name is claimed as `./shared x`.
            let (mode, typed) = match line.strip_prefix(b"shared ") {
                Some(rest) => (Mode::Shared, rest.trim_ascii_start()),
                None => (Mode::Exclusive, line),
            };
            let list = list.get_or_insert(Self { mode, units: Vec::new() });
            if list.mode != mode {
                return Err(InvalidUnit::MixedModes);
            }
            list.units.push(WorkUnit::typed(typed, &locate, &is_dir)?);
        }
        list.ok_or(InvalidUnit::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Mode, String), InvalidUnit> {
        let list = UnitList::parse(
            text.as_bytes(),
            |typed| Ok(RelPath::from_bytes(typed)?),
            |path| path.as_bytes() == b"src",
        )?;
        let units: Vec<String> = list.units.iter().map(ToString::to_string).collect();
        Ok((list.mode, units.join(" ")))
    }

    #[test]
    fn lines_are_units_and_directories_are_known_as_such() {
        let said = |mode, units: &str| Ok((mode, units.to_owned()));
        assert_eq!(parse("src/a.rs\n"), said(Mode::Exclusive, "src/a.rs"));
        assert_eq!(
            parse("src\n\n new/ \nproc:build"),
            said(Mode::Exclusive, "src/ new/ proc:build")
        );
        assert_eq!(parse("shared docs/\nshared  a b\n"), said(Mode::Shared, "docs/ a b"));
        assert_eq!(parse("./shared x"), said(Mode::Exclusive, "shared x"));
    }

    #[test]
    fn what_names_no_unit_is_refused() {
        assert_eq!(parse(" \n\n"), Err(InvalidUnit::Empty));
        assert_eq!(parse("shared a\nb\n"), Err(InvalidUnit::MixedModes));
        assert!(matches!(parse("proc:a b"), Err(InvalidUnit::Name(_))));
        assert!(matches!(parse("a\n../x"), Err(InvalidUnit::Path(_))));
    }
}
