//! Named processes: which commands are work units of the kind `proc:NAME`.
//!
//! `[process.NAME]` in `agentfs.toml` lists *patterns*. A pattern is the beginning of a command line:
//!
//! - It is split into words at white space. Single and double quotes and the backslash work as in
//!   a shell; what they protect stands for itself, a `*` too.
//! - The first word is the program. Without a slash it is the name of the program's file, wherever
//!   that is; with one it is the whole path, from the workspace's root unless it begins with `/`.
//! - The other words are the arguments, from the first one on. What follows the last word of the
//!   pattern does not matter: `make` is also `make -j4 all`.
//! - `*` in a word stands for any characters; a word that is `*` alone for any number of
//!   arguments, none too: `cargo * test` is also `cargo +nightly --locked test`.
//!
//! Programs that start others (`env`, `sh -c`, `sudo`) need no patterns, as what they execute is
//! seen by itself.
//!
//! Pure: who sees the commands and what is done about them is the shim's part. A name is no
//! security boundary: a program that wants to run under another one can copy its file.

use crate::config::Span;
use crate::unit::{Mode, UnitName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

/// The rules of a workspace, by the name of the unit.
pub type ProcessRules = BTreeMap<UnitName, ProcessRule>;

/// One `[process.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRule {
    /// The commands that are this process.
    #[serde(rename = "match")]
    pub patterns: Patterns,
    /// Only where they are started in one of these directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<DirPattern>,
    /// How long one may wait for its turn, if not as long as a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// How many agents may have one at the same time.
    #[serde(default = "one")]
    pub slots: NonZeroUsize,
    /// Whether those that are shared run beside one another.
    #[serde(default = "exclusive")]
    pub mode: Mode,
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn exclusive() -> Mode {
    Mode::Exclusive
}

/// At least one pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Pattern>", into = "Vec<Pattern>")]
pub struct Patterns(Vec<Pattern>);

/// The beginning of a command line, with wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    program: Word,
    arguments: Vec<Word>,
}

/// Directories of the workspace, by the path from its root: `*` is any part of a name, `**` any
/// number of directories, none too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirPattern {
    text: String,
    names: Vec<Word>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// There is none.
    #[error("`match` is empty: name at least one command, such as [\"cargo build\"]")]
    None,
    /// It has no word.
    #[error("an empty pattern matches nothing: write a command, such as \"cargo build\"")]
    Empty,
    /// A quote that nothing ends.
    #[error("the pattern {0:?} ends within quotes or after a backslash; close them")]
    Open(String),
    /// A directory that can't be in the workspace.
    #[error("the cwd {0:?} is not below the workspace: write it from the root, such as \"web/**\"")]
    Outside(String),
}

/// A command as it is executed.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// The program's path, from `/` on, without `.` and `..`.
    pub program: &'a [u8],
    /// What follows the program's name.
    pub arguments: &'a [Vec<u8>],
    /// The working directory, likewise.
    pub cwd: &'a [u8],
}

/// The units that `command` is, in the workspace at `root`.
pub fn named<'a>(
    rules: &'a ProcessRules,
    root: &[u8],
    command: Invocation<'_>,
) -> Vec<(&'a UnitName, &'a ProcessRule)> {
    rules.iter().filter(|(_, rule)| rule.names(root, command)).collect()
}

/// Whether `program`, a path from `/` on, could be one of them, whatever its arguments.
pub fn concerns(rules: &ProcessRules, root: &[u8], program: &[u8]) -> bool {
    let mut patterns = rules.values().flat_map(|rule| &rule.patterns.0);
    patterns.any(|pattern| pattern.is_program(root, program))
}

/// `path`, as a process in `cwd` means it, from `/` on and without `.` and `..`. Symbolic links
/// are names like others here.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    let from_top = path.first() == Some(&b'/');
    let before: &[u8] = if from_top { b"" } else { cwd };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in before.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

/// The path of `dir` from `root`, if it is there or below.
fn below<'a>(root: &[u8], dir: &'a [u8]) -> Option<&'a [u8]> {
    let rest = dir.strip_prefix(root)?;
    if rest.is_empty() || root == b"/" { Some(rest) } else { rest.strip_prefix(b"/") }
}

impl ProcessRule {
    fn names(&self, root: &[u8], command: Invocation<'_>) -> bool {
        let there = |cwd: &DirPattern| below(root, command.cwd).is_some_and(|dir| cwd.has(dir));
        self.cwd.as_ref().is_none_or(there)
            && self.patterns.0.iter().any(|pattern| {
                pattern.is_program(root, command.program)
                    && begins(&pattern.arguments, command.arguments)
            })
    }
}

impl Pattern {
    fn is_program(&self, root: &[u8], program: &[u8]) -> bool {
        if !self.program.has(b'/') {
            let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or(program);
            return self.program.matches(name);
        }
        if self.program.0.first() == Some(&Some(b'/')) {
            return self.program.matches(program);
        }
        below(root, program).is_some_and(|path| self.program.matches(path))
    }
}

/// Whether `arguments` begin with what `words` say.
fn begins(words: &[Word], arguments: &[Vec<u8>]) -> bool {
    among(words, arguments, Word::is_any, |word, argument| word.matches(argument), false)
}

/// The matching of wildcards, for characters of a word, words of a command and names of a path
/// alike: goes on as far as possible, and back to the last wildcard, which takes one more.
fn among<P, T>(
    pattern: &[P],
    text: &[T],
    is_wild: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
    whole: bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut wild = None;
    loop {
        match pattern.get(p) {
            None if !whole || t == text.len() => return true,
            Some(wildcard) if is_wild(wildcard) => {
                wild = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(one) if text.get(t).is_some_and(|other| fits(one, other)) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        match wild {
            Some((after, taken)) if taken < text.len() => {
                wild = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Bytes; none is the wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word(Vec<Option<u8>>);

impl Word {
    fn is_any(&self) -> bool {
        self.0 == [None]
    }

    fn has(&self, byte: u8) -> bool {
        self.0.contains(&Some(byte))
    }

    fn matches(&self, text: &[u8]) -> bool {
        among(&self.0, text, Option::is_none, |byte, other| *byte == Some(*other), true)
    }
}

/// The words of a pattern.
fn words(text: &str) -> Result<Vec<Word>, InvalidPattern> {
    let open = || InvalidPattern::Open(text.to_owned());
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let literal = match (quote, byte) {
            (None, b' ' | b'\t' | b'\n' | b'\r') => {
                words.extend(word.take());
                continue;
            }
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
                continue;
            }
            (Some(end), byte) if byte == end => {
                quote = None;
                continue;
            }
            (None | Some(b'"'), b'\\') => Some(bytes.next().ok_or_else(open)?),
            (None, b'*') => None,
            (_, byte) => Some(byte),
        };
        word.get_or_insert_default().0.push(literal);
    }
    words.extend(word);
    if quote.is_some() { Err(open()) } else { Ok(words) }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = words(text)?.into_iter();
        let mut program = words.next().filter(|p| !p.0.is_empty()).ok_or(InvalidPattern::Empty)?;
        if program.0.starts_with(&[Some(b'.'), Some(b'/')]) {
            program.0.drain(..2);
        }
        Ok(Self { text: text.to_owned(), program, arguments: words.collect() })
    }
}

impl DirPattern {
    /// Whether `dir`, a path from the workspace's root, is one of these.
    fn has(&self, dir: &[u8]) -> bool {
        let names: Vec<&[u8]> = dir.split(|byte| *byte == b'/').filter(|n| !n.is_empty()).collect();
        let any = |name: &Word| name.0 == [None, None];
        among(&self.names, &names, any, |name, other| name.matches(other), true)
    }
}

impl FromStr for DirPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.starts_with('/') || text.split('/').any(|name| name == "..") {
            return Err(InvalidPattern::Outside(text.to_owned()));
        }
        let word = |name: &str| Word(name.bytes().map(|b| (b != b'*').then_some(b)).collect());
        let names = text.split('/').filter(|name| !name.is_empty() && *name != ".").map(word);
        Ok(Self { text: text.to_owned(), names: names.collect() })
    }
}

impl TryFrom<Vec<Pattern>> for Patterns {
    type Error = InvalidPattern;

    fn try_from(patterns: Vec<Pattern>) -> Result<Self, Self::Error> {
        if patterns.is_empty() { Err(InvalidPattern::None) } else { Ok(Self(patterns)) }
    }
}

impl From<Patterns> for Vec<Pattern> {
    fn from(patterns: Patterns) -> Self {
        patterns.0
    }
}

/// As the text that it was written as.
macro_rules! written {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidPattern;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(pattern: $type) -> Self {
                pattern.text
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.text)
            }
        }
    };
}

written!(Pattern);
written!(DirPattern);

#[cfg(test)]
mod tests;
