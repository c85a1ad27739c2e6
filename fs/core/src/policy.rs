//! What a run's writes meet: the defaults of its run, and the rules for certain units.
//!
//! Rules stand in `agentfs.toml` one below the other; a later one that says something about a unit
//! overrides an earlier one in that, and in nothing else. A run keeps the rules it began with: they
//! are in the journal, so that its decisions can be replayed (G7).

use crate::config::{FILE_NAME, Span, Unclaimed};
use crate::ids::AgentName;
use crate::locks::Priority;
use crate::path::RelPath;
use crate::pattern::Pattern;
use crate::unit::{Mode, WorkUnit};
use crate::want::Want;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a run's writes meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// At a unit that nobody holds.
    pub unclaimed: Unclaimed,
    /// At a unit that another holds: the longest wait.
    pub wait: Span,
    /// How long leases outlive the last sign of life.
    pub ttl: Span,
    /// How much its claims matter beside others'.
    #[serde(default)]
    pub priority: Priority,
    /// What is different for certain units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// What an agent may do with certain units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read and write.
    #[default]
    Write,
    /// Read; write only what the operator has claimed for it by name.
    Protected,
    /// Read alone.
    ReadOnly,
    /// Neither.
    Forbidden,
}

impl Access {
    /// As `agentfs.toml` writes it.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Protected => "protected",
            Self::ReadOnly => "read-only",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What is different for certain units and agents: `[[policy]]` in `agentfs.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which units.
    pub units: Vec<Pattern>,
    /// Which agents; all, if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<Pattern>,
    /// What agents may do there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What a write meets that nobody holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed: Option<Unclaimed>,
    /// How long a write may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// How long a lease outlives the last sign of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

impl Rule {
    /// Whether it says something about an agent.
    pub fn is_for(&self, agent: &AgentName) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|p| p.matches_name(agent.as_str()))
    }

    fn is_about(&self, unit: &WorkUnit) -> bool {
        self.units.iter().any(|pattern| pattern.matches(unit))
    }
}

/// What holds for one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the agent may do with it.
    pub access: Access,
    /// What a write meets if nobody holds it.
    pub unclaimed: Unclaimed,
    /// How long a write may wait for it.
    pub wait: Span,
    /// How long a lease on it outlives the last sign of life, if not as long as the run says.
    pub ttl: Option<Span>,
}

impl Policy {
    /// What holds for `unit`.
    pub fn terms(&self, unit: &WorkUnit) -> Terms {
        // Who could write the rules would be above them.
        let is_rules = unit.path().is_some_and(|path| path.as_bytes() == FILE_NAME.as_bytes());
        let access = if is_rules { Access::Protected } else { Access::Write };
        let ttl = None;
        let mut terms = Terms { access, unclaimed: self.unclaimed, wait: self.wait, ttl };
        for rule in self.rules.iter().filter(|rule| rule.is_about(unit)) {
            terms.access = rule.access.unwrap_or(terms.access);
            terms.unclaimed = rule.unclaimed.unwrap_or(terms.unclaimed);
            terms.wait = rule.wait.unwrap_or(terms.wait);
            terms.ttl = rule.ttl.or(terms.ttl);
        }
        terms
    }

    /// What keeps a run from beginning with `want`: what agents may never write, not even the
    /// operator can give.
    pub fn bars(&self, want: &Want) -> Option<Access> {
        let access = self.terms(&want.unit).access;
        let never = matches!(access, Access::ReadOnly | Access::Forbidden);
        (never && want.mode == Mode::Exclusive).then_some(access)
    }

    /// The rules that are for this agent, and no others.
    #[must_use]
    pub fn of(mut self, agent: &AgentName) -> Self {
        self.rules.retain(|rule| rule.is_for(agent));
        self
    }

    /// Whether a write of something strictly below `dir` may be a question to the operator.
    pub fn may_ask_below(&self, dir: &RelPath) -> bool {
        let asks = |rule: &&Rule| rule.unclaimed == Some(Unclaimed::Ask);
        let mut patterns = self.rules.iter().filter(asks).flat_map(|rule| &rule.units);
        patterns.any(|pattern| pattern.may_match_below(dir))
    }

    /// The shortest time that a lease may outlive the last sign of life.
    pub fn shortest_ttl(&self) -> Duration {
        let own = self.rules.iter().filter_map(|rule| rule.ttl);
        own.chain([self.ttl]).map(|ttl| ttl.0).min().unwrap_or_default()
    }

    /// Whether a write of `unit` by itself needs nobody's leave.
    pub fn is_open(&self, unit: &WorkUnit) -> bool {
        let terms = self.terms(unit);
        terms.access == Access::Write && terms.unclaimed == Unclaimed::Claim
    }

    /// Whether there is anything that the agent may not read.
    pub fn forbids_something(&self) -> bool {
        self.rules.iter().any(|rule| rule.access == Some(Access::Forbidden))
    }

    /// Whether the agent may read a file.
    pub fn may_read(&self, path: &RelPath) -> bool {
        self.rules.is_empty()
            || self.terms(&WorkUnit::File(path.clone())).access != Access::Forbidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(units: &str, access: Option<Access>, unclaimed: Option<Unclaimed>) -> Rule {
        let units = units.split(' ').map(|p| p.parse().unwrap()).collect();
        Rule { units, agents: Vec::new(), access, unclaimed, wait: None, ttl: None }
    }

    #[test]
    fn later_rules_override_earlier_ones_in_what_they_say() {
        let secs = |n| Span(Duration::from_secs(n));
        let policy = Policy {
            unclaimed: Unclaimed::Claim,
            wait: secs(60),
            ttl: secs(600),
            priority: Priority::Normal,
            rules: vec![
                rule("/db/", Some(Access::Protected), Some(Unclaimed::Ask)),
                Rule { wait: Some(secs(5)), ..rule("*.sql", None, None) },
                rule("/db/seed/", Some(Access::Write), None),
            ],
        };
        let terms = |unit: &str| policy.terms(&unit.parse().unwrap());
        assert_eq!(terms("a.rs").access, Access::Write);
        let sql = terms("db/1.sql");
        assert_eq!(
            (sql.access, sql.unclaimed, sql.wait),
            (Access::Protected, Unclaimed::Ask, secs(5))
        );
        let seed = terms("db/seed/a");
        assert_eq!((seed.access, seed.unclaimed), (Access::Write, Unclaimed::Ask));
        assert!(
            policy.is_open(&"a.rs".parse().unwrap()) && !policy.is_open(&"db/x".parse().unwrap())
        );
    }

    #[test]
    fn a_run_can_t_begin_with_what_no_agent_may_write() {
        let policy = Policy {
            unclaimed: Unclaimed::Claim,
            wait: Span(Duration::ZERO),
            ttl: Span(Duration::ZERO),
            priority: Priority::Normal,
            rules: vec![
                rule("vendor/", Some(Access::ReadOnly), None),
                rule("db/", Some(Access::Protected), None),
            ],
        };
        let barred = |want: &str| policy.bars(&want.parse().unwrap());
        assert_eq!(barred("vendor/a"), Some(Access::ReadOnly));
        assert_eq!(barred("shared vendor/a"), None, "it only reads there");
        assert_eq!(barred("db/a"), None, "the operator may give it");
    }

    #[test]
    fn a_rule_may_be_for_some_agents_only() {
        let mut rule = rule("*", None, None);
        assert!(rule.is_for(&"bob".parse().unwrap()));
        rule.agents = vec!["claude-*".parse().unwrap()];
        assert!(rule.is_for(&"claude-1".parse().unwrap()) && !rule.is_for(&"bob".parse().unwrap()));
    }
}
