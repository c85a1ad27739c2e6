//! Units as an agent writes them into `.agentfs/claim` and `.agentfs/release`: one a line, each
//! after the word `shared` where a shared claim is meant. Pure: the caller knows the directories.

use crate::path::RelPath;
use crate::unit::InvalidUnit;
use crate::want::Want;

/// What one write names: at least one unit.
///
/// Reads `text`; `locate` and `is_dir` as for [`crate::WorkUnit::typed`]. Empty lines say nothing.
pub fn parse(
    text: &[u8],
    locate: impl Fn(&[u8]) -> Result<RelPath, InvalidUnit>,
    is_dir: impl Fn(&RelPath) -> bool,
) -> Result<Vec<Want>, InvalidUnit> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let wants: Vec<Want> = lines
        .filter(|line| !line.is_empty())
        .map(|line| Want::typed(line, &locate, &is_dir))
        .collect::<Result<_, _>>()?;
    if wants.is_empty() { Err(InvalidUnit::Empty) } else { Ok(wants) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<String, InvalidUnit> {
        let wants = parse(
            text.as_bytes(),
            |typed| Ok(RelPath::from_bytes(typed)?),
            |path| path.as_bytes() == b"src",
        )?;
        let wants: Vec<String> = wants.iter().map(ToString::to_string).collect();
        Ok(wants.join(", "))
    }

    #[test]
    fn lines_are_units_and_directories_are_known_as_such() {
        let reads = |text: &str, as_text: &str| assert_eq!(said(text), Ok(as_text.to_owned()));
        reads("src/a.rs\n", "src/a.rs");
        reads("src\n\n new/ \nproc:build", "src/, new/, proc:build");
        reads("shared docs/\nshared  a b\nc\n", "shared docs/, shared a b, c");
        reads("./shared x", "./shared x");
    }

    #[test]
    fn what_names_no_unit_is_refused() {
        assert_eq!(said(" \n\n"), Err(InvalidUnit::Empty));
        assert!(matches!(said("proc:a b"), Err(InvalidUnit::Name(_))));
        assert!(matches!(said("a\n../x"), Err(InvalidUnit::Path(_))));
    }
}
