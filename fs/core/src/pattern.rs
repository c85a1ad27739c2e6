//! Patterns of work units, as `agentfs.toml` writes them: `migrations/**`, `*.lock`, `docs/`,
//! `proc:deploy*`.
//!
//! For paths they read as in `.gitignore`: one without a slash (but at its end) means the name in
//! any directory, one with a slash is relative to the workspace's root; what matches a directory
//! matches all below it. `*` stays within a name, `**` does not.

use crate::path::RelPath;
use crate::unit::WorkUnit;
use globset::{Candidate, GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A pattern and what it was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    /// The path from the root, for one that is not meant in any directory.
    anchor: Option<String>,
    itself: GlobMatcher,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: {why}")]
pub struct InvalidPattern {
    text: String,
    why: String,
}

impl Pattern {
    /// Whether the unit is one that is meant: for a directory, itself or one above it.
    pub fn matches(&self, unit: &WorkUnit) -> bool {
        match unit.path() {
            Some(path) => path.ancestors().any(|at| self.matches_bytes(at.as_bytes())),
            None => self.matches_bytes(unit.to_string().as_bytes()),
        }
    }

    /// Whether something strictly below `dir` may be meant.
    pub fn may_match_below(&self, dir: &RelPath) -> bool {
        let Some(rest) = self.anchor.as_deref() else { return true };
        let is_plain = |name: &&str| !name.contains(['*', '?', '[', '{', '\\']);
        let names: Vec<&[u8]> = rest.split('/').take_while(is_plain).map(str::as_bytes).collect();
        let anchor = RelPath::from_components(&names);
        dir.contains(&anchor) || anchor.contains(dir)
    }

    /// Whether a name, such as an agent's, is one that is meant.
    pub fn matches_name(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    fn matches_bytes(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.itself.is_match_candidate(&Candidate::from_bytes(bytes))
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: String| InvalidPattern { text: text.to_owned(), why };
        let is_name = text.starts_with("proc:") || text.starts_with("res:");
        let path = text.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/');
        // `dir/**` is the directory's content, and so is what a match of the directory means.
        let path = path.strip_suffix("/**").unwrap_or(path);
        if path.is_empty() {
            return Err(wrong("it names nothing; write \"**\" for everything".to_owned()));
        }
        let anchored = is_name || text.trim_end_matches('/').contains('/');
        let glob = if anchored || path == "**" { path.to_owned() } else { format!("**/{path}") };
        let built = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
        let itself = built.map_err(|error| wrong(error.kind().to_string()))?.compile_matcher();
        let anchor = anchored.then(|| path.to_owned());
        Ok(Self { text: text.to_owned(), anchor, itself })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, unit: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&unit.parse().unwrap())
    }

    #[test]
    fn what_may_match_below_a_directory_is_known_by_the_beginning() {
        let below = |pattern: &str, dir: &str| {
            let pattern: Pattern = pattern.parse().unwrap();
            pattern.may_match_below(&dir.parse().unwrap())
        };
        assert!(below("*.lock", "src") && below("src/gen/*", "src") && below("src/*/x", "src/a"));
        assert!(below("src/gen", "src") && below("src/gen", ""));
        assert!(!below("src/gen", "doc") && !below("src/gen/*", "doc"));
    }

    #[test]
    fn patterns_read_as_in_gitignore() {
        for (pattern, unit) in [
            ("*.lock", "a.lock"),
            ("*.lock", "deep/er/a.lock"),
            ("migrations/**", "migrations/1/up.sql"),
            ("migrations/**", "migrations/"),
            ("docs/", "docs/x/y"),
            ("docs/", "sub/docs/x"),
            ("/docs", "docs/x"),
            ("src/*/gen", "src/a/gen/x.rs"),
            ("src/**/gen", "src/a/b/gen"),
            ("**", "anything"),
            ("proc:deploy*", "proc:deploy-prod"),
            ("./a", "a"),
        ] {
            assert!(matches(pattern, unit), "{pattern} {unit}");
        }
        for (pattern, unit) in [
            ("*.lock", "a.locked"),
            ("src/*", "x/src/a"),
            ("src/*.rs", "src/a/b.rs"),
            ("/docs", "sub/docs"),
            ("migrations/**", "migrations2/x"),
            ("proc:deploy", "proc:deploy2"),
        ] {
            assert!(!matches(pattern, unit), "{pattern} {unit}");
        }
        assert!("".parse::<Pattern>().is_err());
        assert!("a[".parse::<Pattern>().is_err());
    }
}
