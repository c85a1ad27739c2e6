//! Names and numbers that must not be confused with one another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of an agent: 1 to 32 of `a-z`, `0-9`, `-`, `_`, beginning with a letter or digit.
///
/// It names directories and sockets, so nothing else may ever be in it. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(Arc<str>);

/// Why a text is not an agent's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no agent name: use 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter or digit"
)]
pub struct InvalidAgentName(pub String);

impl AgentName {
    /// Stands for an agent that has no name yet, where one has to be spoken of.
    pub fn of_a_new_one() -> Self {
        Self("new-agent".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = InvalidAgentName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        let first_is_alphanumeric = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if (1..=32).contains(&text.len()) && text.chars().all(allowed) && first_is_alphanumeric {
            Ok(Self(text.into()))
        } else {
            Err(InvalidAgentName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = InvalidAgentName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text is not a run's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no run: runs are written r1, r2, ... (see `agentctl runs`)")]
pub struct InvalidRunId(pub String);

/// One execution of a command by an agent; written `r7`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("r{}", self.0))
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('r').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| InvalidRunId(text.to_owned()))
    }
}

/// The fencing token of a lease: grows with every grant, so that whoever checks it can tell an
/// old holder from the present one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("#{}", self.0))
    }
}

/// A claim that waits in the queue.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ClaimId(pub u64);

/// Why a text is not a claim's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no claim: claims are written c1, c2, ... (see `agentctl queue`)")]
pub struct InvalidClaimId(pub String);

impl FromStr for ClaimId {
    type Err = InvalidClaimId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('c').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| InvalidClaimId(text.to_owned()))
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("c{}", self.0))
    }
}

/// The version of base: grows by one with every change set that is applied; written `v3`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BaseVersion(pub u64);

impl BaseVersion {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for BaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("v{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_names_are_safe_as_directory_names() {
        for good in ["a", "alice", "a1", "0x", "claude-2", "my_agent"] {
            assert_eq!(good.parse::<AgentName>().unwrap().as_str(), good);
        }
        assert_eq!("new-agent".parse(), Ok(AgentName::of_a_new_one()));
        let long = "x".repeat(33);
        for bad in ["", ".", "..", "a/b", "Alice", "-x", "_x", "é", "a b", "a\0", long.as_str()] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_run_is_read_back_as_it_is_written() {
        assert_eq!(RunId(7).to_string().parse(), Ok(RunId(7)));
        assert!("x7".parse::<RunId>().is_err());
    }
}
