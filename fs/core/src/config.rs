//! `agentfs.toml`: the workspace's configuration, committed at the repository's root.
//!
//! Every key has a default; a key that is not known is refused with the one that was probably
//! meant, because a setting that silently does nothing is worse than an error.

use crate::locks::Priority;
use crate::machine::Settings;
use crate::policy::{Policy, Rule};
use crate::process_rules::ProcessRules;
use crate::unit::WorkUnit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

/// The name of the file at the workspace's root.
pub const FILE_NAME: &str = "agentfs.toml";

/// What `agentfs.toml` says, with the defaults for what it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What a write to a unit that nobody holds meets.
    pub unclaimed: Unclaimed,
    /// How long a write may wait for a unit that another holds.
    pub wait: Span,
    /// How long a lease outlives the last sign of life of its run.
    pub ttl: Span,
    /// When a run's changes are applied to base by themselves.
    pub publish: Publish,
    /// Paths, as gitignore patterns, that are private and never locked, beside those git ignores.
    pub scratch: Vec<String>,
    /// What an apply does about files that its run has read and others have changed since.
    pub isolation: Isolation,
    /// How many runs may be alive at once; none for as many as are started.
    pub max_parallel: Option<NonZeroUsize>,
    /// Named resources: `[resource.gpu] slots = 2`.
    pub resource: BTreeMap<String, Resource>,
    /// Commands that are work units, by the name of the unit `proc:NAME`.
    #[serde(skip_serializing_if = "ProcessRules::is_empty")]
    pub process: ProcessRules,
    /// What is different for certain units: `[[policy]]`.
    pub policy: Vec<Rule>,
}

/// A named resource, `res:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// How many may hold it at once.
    pub slots: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unclaimed: Unclaimed::Claim,
            wait: Span(Duration::from_mins(1)),
            ttl: Span(Duration::from_mins(10)),
            publish: Publish::OnSuccess,
            scratch: Vec::new(),
            isolation: Isolation::Snapshot,
            max_parallel: None,
            resource: BTreeMap::new(),
            process: ProcessRules::new(),
            policy: Vec::new(),
        }
    }
}

/// What a write to a unit that nobody holds meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unclaimed {
    /// The unit is claimed at once, for the writer.
    #[default]
    Claim,
    /// The write is refused; the agent must claim first.
    Deny,
    /// The write waits until the operator agrees.
    Ask,
}

/// What an apply does about what its run has read and others have changed since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Nothing: only what the run has written counts.
    #[default]
    Snapshot,
    /// It is refused: what was applied could have been done one run after the other.
    Serializable,
}

/// When a run's changes are applied to base by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publish {
    /// When its command exits with status 0.
    #[default]
    OnSuccess,
    /// Only by `agentctl apply`.
    Manual,
}

/// A length of time, written `500ms`, `90s`, `10m` or `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: write a number and ms, s, m or h, such as \"90s\"")]
pub struct InvalidSpan(pub String);

impl std::str::FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidSpan(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis_per_unit = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let millis = number.checked_mul(millis_per_unit).ok_or_else(wrong)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let text = match millis {
            0 => "0s".to_owned(),
            m if m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
            m if m % 60_000 == 0 => format!("{}m", m / 60_000),
            m if m % 1_000 == 0 => format!("{}s", m / 1_000),
            m => format!("{m}ms"),
        };
        f.pad(&text)
    }
}

/// Why a configuration was not taken: one sentence that says where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}{}: {message}", line.map(|n| format!(" line {n}")).unwrap_or_default())]
pub struct InvalidConfig {
    /// The line, counted from 1, where known.
    pub line: Option<usize>,
    /// What is wrong, and what was probably meant.
    pub message: String,
}

impl Config {
    /// Reads the text of an `agentfs.toml`.
    pub fn parse(text: &str) -> Result<Self, InvalidConfig> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let message = error.message();
            InvalidConfig { line, message: suggest(message).unwrap_or_else(|| message.to_owned()) }
        })?;
        let unit = |name: &String| format!("res:{name}").parse::<WorkUnit>();
        if let Some(error) = config.resource.keys().find_map(|name| unit(name).err()) {
            return Err(InvalidConfig { line: None, message: error.to_string() });
        }
        Ok(config)
    }

    /// What the writes of a run meet. The rules are those for all agents.
    pub fn policy(&self) -> Policy {
        let (unclaimed, wait, ttl) = (self.unclaimed, self.wait, self.ttl);
        Policy { unclaimed, wait, ttl, priority: Priority::Normal, rules: self.policy.clone() }
    }

    /// What holds for all runs together.
    pub fn settings(&self) -> Settings {
        let slots = self.resource.iter().filter_map(|(name, resource)| {
            let unit = format!("res:{name}").parse().ok()?;
            Some((unit, resource.slots.get()))
        });
        let processes = self.process.iter().filter(|(_, rule)| rule.slots.get() > 1);
        let processes =
            processes.map(|(name, rule)| (WorkUnit::Process(name.clone()), rule.slots.get()));
        Settings {
            max_parallel: self.max_parallel.map(NonZeroUsize::get),
            slots: slots.chain(processes).collect(),
        }
    }
}

/// Turns serde's "unknown field `x`, expected one of ..." into a sentence with the likely key.
fn suggest(message: &str) -> Option<String> {
    let (what, rest) = ["field", "variant"].iter().find_map(|what| {
        message.strip_prefix(&format!("unknown {what} `")).map(|rest| (*what, rest))
    })?;
    let (given, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(2));
    let what = if what == "field" { "key" } else { "value" };
    let meant = nearest.map(|(_, name)| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    Some(format!("unknown {what} \"{given}\"{meant} (known: {})", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            unclaimed = "deny"
            wait = "1500ms"
            ttl = "2h"
            publish = "manual"
            scratch = ["*.log", "tmp/"]
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.unclaimed, Unclaimed::Deny);
        assert_eq!(config.wait.0, Duration::from_millis(1500));
        assert_eq!(config.ttl.to_string(), "2h");
        assert_eq!(config.publish, Publish::Manual);
        assert_eq!(config.scratch, ["*.log", "tmp/"]);
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let error = Config::parse("wait = \"1s\"\nunclamed = \"deny\"\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "agentfs.toml line 2: unknown key \"unclamed\"; did you mean \"unclaimed\"? \
             (known: unclaimed, wait, ttl, publish, scratch, isolation, max_parallel, resource, \
             process, policy)"
        );
        let error = Config::parse("unclaimed = \"denny\"\n").unwrap_err().to_string();
        assert!(error.contains("did you mean \"deny\"?"), "{error}");
    }

    #[test]
    fn spans_read_back_as_they_are_written() {
        for text in ["500ms", "90s", "10m", "2h", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for bad in ["", "5", "s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?} was taken");
        }
    }
}
