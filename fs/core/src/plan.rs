//! Plans: what a run is going to need, declared before it starts.
//!
//! A plan is a list of steps, each with the units that it needs. The run gets all of them at once
//! or waits before it starts, so that plans can't deadlock each other. As text it is YAML:
//!
//! ```yaml
//! priority: high
//! steps:
//!   - name: schema
//!     needs: [db/schema.sql, shared docs/]
//!   - name: test
//!     needs: [proc:test]
//! ```

use crate::explain;
use crate::ids::AgentName;
use crate::locks::Priority;
use crate::policy::Policy;
use crate::unit::WorkUnit;
use crate::want::{self, Want};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a run declares that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How much the run matters beside others: low, normal or high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["low", "normal", "high", null]))]
    pub priority: Option<Priority>,
    /// What it is going to do, in order.
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What people call it.
    pub name: String,
    /// The units that it needs: paths from the workspace's root (a directory ends with a slash and
    /// stands for all below it), `proc:NAME`, `res:NAME`; after the word `shared` where others may
    /// have it too.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub needs: Vec<Want>,
}

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// It is not the YAML that is meant.
    #[error("{0}")]
    Text(String),
    /// Two steps have the same name.
    #[error("two steps are called {0:?}; give each a name of its own")]
    SameName(String),
}

impl Plan {
    /// Reads the text of a plan.
    pub fn parse(text: &str) -> Result<Self, InvalidPlan> {
        let plan: Self =
            serde_norway::from_str(text).map_err(|error| InvalidPlan::Text(error.to_string()))?;
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        let again = |(at, name): &(usize, &&str)| names[..*at].contains(name);
        match names.iter().enumerate().find(again) {
            Some((_, name)) => Err(InvalidPlan::SameName((*name).to_owned())),
            None => Ok(plan),
        }
    }

    /// All that it needs, each unit once.
    pub fn wants(&self) -> Vec<Want> {
        want::merged(self.steps.iter().flat_map(|step| &step.needs).cloned())
    }

    /// What a policy keeps a run of `agent` from beginning with, and why, in sentences.
    pub fn barred(&self, agent: &AgentName, policy: &Policy) -> Vec<(Want, String)> {
        let barred = |want: Want| {
            let why = explain::out_of_bounds(agent, &want.unit, "run", policy.bars(&want)?);
            Some((want, why))
        };
        self.wants().into_iter().filter_map(barred).collect()
    }

    /// The names of the steps that need something of `unit`.
    pub fn steps_with(&self, unit: &WorkUnit) -> Vec<String> {
        let needs = |step: &&Step| step.needs.iter().any(|need| need.unit.overlaps(unit));
        self.steps.iter().filter(needs).map(|step| step.name.clone()).collect()
    }

    /// The step that first declares something of `unit`.
    pub fn step_of(&self, unit: &WorkUnit) -> Option<&Step> {
        let declares = |step: &&Step| step.needs.iter().any(|want| want.unit.covers(unit));
        self.steps.iter().find(declares)
    }
}

/// The JSON schema of a plan, for editors and other programs.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Plan).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_and_its_units_are_counted_once() {
        let plan = Plan::parse(
            "priority: high\nsteps:\n- {name: a, needs: [src/, shared docs/]}\n\
             - {name: b, needs: [src/x.rs, docs/y, \"proc:test\"]}\n- name: c\n",
        )
        .unwrap();
        assert_eq!(plan.priority, Some(Priority::High));
        let wants: Vec<String> = plan.wants().iter().map(ToString::to_string).collect();
        assert_eq!(wants, ["src/", "shared docs/", "docs/y", "proc:test"]);
        assert_eq!(plan.step_of(&"docs/y".parse().unwrap()).unwrap().name, "a");
        assert_eq!(plan.step_of(&"other".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_plan_says_where() {
        let error = |text| Plan::parse(text).unwrap_err().to_string();
        assert!(
            error("steps:\n- {name: a, need: [x]}\n").contains("needs"),
            "{}",
            error("steps:\n- {name: a, need: [x]}\n")
        );
        assert!(error("steps:\n- {name: a, needs: [../x]}\n").contains("outside"));
        assert!(error("steps: [{name: a}, {name: a}]").contains("two steps"));
    }

    #[test]
    fn the_schema_names_what_a_plan_has() {
        let schema = schema().to_string();
        assert!(schema.contains("needs") && schema.contains("priority"), "{schema}");
    }
}
