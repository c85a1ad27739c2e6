//! Plans: against what others hold, and against what a run has touched.

use super::agents::or_dash;
use super::{Page, count, finished, printable, table, time, units};
use agentfs_api::types::{Blocker, CheckedPlan, PlanConflict, PlannedRun, PlannedStep};
use agentfs_core::{Want, WorkUnit};

/// Whether a run with a plan would start now, and if not, why.
pub fn checked(checked: &CheckedPlan, page: &Page) -> String {
    let size = count(checked.wants.len(), "unit");
    if checked.starts {
        return format!("nothing is in the way: a run with this plan ({size}) would start now");
    }
    let mut parts = vec![format!("a run with this plan ({size}) would not start now:")];
    parts.extend(checked.turns.iter().map(|turn| format!("- {}", printable(turn))));
    if !checked.conflicts.is_empty() {
        parts.push(conflicts(&checked.conflicts, page));
    }
    parts.join("\n")
}

fn conflicts(conflicts: &[PlanConflict], page: &Page) -> String {
    let mut table = table(page, &["UNIT", "STEPS", "IN THE WAY", "SINCE", "WAY OUT"]);
    for conflict in conflicts {
        let since = conflict.blocker.as_ref().map(|blocker| time::ago(page, blocker.since));
        let who = conflict.blocker.as_ref().map_or_else(|| "a policy".to_owned(), blocker);
        table.add_row([
            conflict.want.to_string(),
            printable(&conflict.steps.join(", ")).into_owned(),
            who,
            or_dash(since),
            printable(way_out(conflict)).into_owned(),
        ]);
    }
    finished(&table, "")
}

fn blocker(blocker: &Blocker) -> String {
    let does = if blocker.holds { "holds" } else { "waits for" };
    format!("{} {does} {}", blocker.agent, blocker.unit)
}

/// Who and since when have columns of their own; what is left of the sentence is the way out. Of a
/// policy it is all.
fn way_out(conflict: &PlanConflict) -> &str {
    match conflict.why.split_once(". ") {
        Some((_, way_out)) if conflict.blocker.is_some() => way_out,
        _ => &conflict.why,
    }
}

/// A run's plan against what the run has touched.
pub fn planned(run: &PlannedRun, page: &Page) -> String {
    let mut parts = Vec::new();
    if !run.has_plan {
        parts.push(format!("{} of {} has declared no plan", run.run, run.agent));
    }
    let needs = |step: &PlannedStep| step.units.len();
    let planned: usize = run.steps.iter().map(needs).sum();
    let used = run.steps.iter().flat_map(|step| &step.units).filter(|(_, of)| !of.is_empty());
    let used = used.count();
    if run.has_plan {
        parts.push(format!(
            "{} of {} used {used} of the {} that it had planned",
            run.run,
            run.agent,
            count(planned, "unit")
        ));
    }
    if planned > 0 {
        parts.push(steps(&run.steps, page));
    }
    if !run.undeclared.is_empty() {
        let what = if run.has_plan { "touched without a plan" } else { "touched" };
        parts.push(format!("{what}: {}", units(&run.undeclared)));
    }
    parts.join("\n")
}

fn steps(steps: &[PlannedStep], page: &Page) -> String {
    let mut table = table(page, &["STEP", "UNIT", "TOUCHED"]);
    for step in steps {
        for (want, of) in &step.units {
            let name = printable(&step.name).into_owned();
            table.add_row([name, want.to_string(), touched(want, of)]);
        }
    }
    finished(&table, "")
}

fn touched(want: &Want, of: &[WorkUnit]) -> String {
    match of {
        [] => "unused".to_owned(),
        [only] if *only == want.unit => "used".to_owned(),
        some => units(some),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::RunId;

    fn unit(text: &str) -> WorkUnit {
        text.parse().unwrap()
    }

    #[test]
    fn a_plan_that_fits_is_said_so() {
        let fits = CheckedPlan {
            starts: true,
            wants: vec!["src/".parse().unwrap()],
            conflicts: vec![],
            turns: vec![],
        };
        assert_eq!(
            checked(&fits, &page()),
            "nothing is in the way: a run with this plan (1 unit) would start now"
        );
    }

    #[test]
    fn what_is_in_the_way_is_said_by_unit_with_the_way_out() {
        let held = PlanConflict {
            want: "src/a.rs".parse().unwrap(),
            steps: vec!["schema".into(), "code".into()],
            blocker: Some(Blocker {
                agent: "bob".parse().unwrap(),
                unit: unit("src/"),
                since: seconds(988),
                holds: true,
            }),
            why: "bob (r1) has held src/ for 12s. Apply it.".to_owned(),
        };
        let forbidden = PlanConflict {
            want: "vendor/".parse().unwrap(),
            steps: vec!["schema".into()],
            blocker: None,
            why: "a policy says so".to_owned(),
        };
        let waits = CheckedPlan {
            starts: false,
            wants: vec!["src/a.rs".parse().unwrap(), "vendor/".parse().unwrap()],
            conflicts: vec![held, forbidden],
            turns: vec!["2 runs are alive".to_owned()],
        };
        assert_eq!(
            plain(&checked(&waits, &page())),
            "a run with this plan (2 units) would not start now:\n\
             - 2 runs are alive\n\
             UNIT      STEPS         IN THE WAY      SINCE    WAY OUT\n\
             src/a.rs  schema, code  bob holds src/  12s ago  Apply it.\n\
             vendor/   schema        a policy        -        a policy says so"
        );
    }

    #[test]
    fn a_run_is_compared_with_its_plan() {
        let mut run = PlannedRun {
            run: RunId(7),
            agent: "alice".parse().unwrap(),
            steps: vec![PlannedStep {
                name: "code".into(),
                units: vec![
                    ("src/".parse().unwrap(), vec![unit("src/a.rs"), unit("src/b.rs")]),
                    ("proc:test".parse().unwrap(), vec![unit("proc:test")]),
                    ("docs/".parse().unwrap(), vec![]),
                ],
            }],
            undeclared: vec![unit("Cargo.toml")],
            has_plan: true,
        };
        assert_eq!(
            plain(&planned(&run, &page())),
            "r7 of alice used 2 of the 3 units that it had planned\n\
             STEP  UNIT       TOUCHED\n\
             code  src/       src/a.rs, src/b.rs\n\
             code  proc:test  used\n\
             code  docs/      unused\n\
             touched without a plan: Cargo.toml"
        );
        (run.steps, run.has_plan) = (vec![], false);
        assert_eq!(
            plain(&planned(&run, &page())),
            "r7 of alice has declared no plan\ntouched: Cargo.toml"
        );
    }
}
