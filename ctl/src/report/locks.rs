//! Leases, and what the operator does to them.

use super::agents::or_dash;
use super::{Page, finished, table, time, units};
use agentfs_api::types::{Freed, Lock, StealUnit, Stolen};
use agentfs_core::{AgentName, ClaimId, WorkUnit};
use std::collections::BTreeMap;

/// All leases, one a line.
pub fn locks(locks: &[Lock], page: &Page) -> String {
    let headings = ["UNIT", "MODE", "AGENT", "RUN", "SINCE", "EXPIRES", "WAITERS"];
    let mut table = table(page, &headings);
    for lock in locks {
        table.add_row([
            lock.unit.to_string(),
            lock.mode.to_string(),
            lock.agent.to_string(),
            or_dash(lock.run),
            time::ago(page, lock.since),
            time::until(page, lock.expires),
            lock.waiters.to_string(),
        ]);
    }
    finished(&table, "no leases: nobody holds anything")
}

/// What a claim was granted.
pub fn claimed(leases: &[Lock], page: &Page) -> String {
    let lines = leases.iter().map(|lock| {
        let ends = time::until(page, lock.expires);
        format!("{} holds {} ({}, expires {ends})", lock.agent, lock.unit, lock.mode)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What became of a claim that the operator agreed to.
pub fn agreed(claim: ClaimId, stolen: &Stolen) -> String {
    if stolen.waits {
        return format!(
            "{claim} is agreed to, and waits on for what others hold (`agentctl queue --why`)"
        );
    }
    match taken(stolen) {
        None => format!("{claim} is granted"),
        Some(taken) => format!("{claim} is granted: {taken}"),
    }
}

/// From whom a unit was taken.
pub fn stolen(request: &StealUnit, stolen: &Stolen) -> String {
    let unit = &request.unit;
    let next = match &request.to {
        Some(agent) => format!("{agent} holds {unit} now"),
        None => format!("the first in line has {unit} next (`agentctl queue`)"),
    };
    match taken(stolen) {
        None => format!("nobody else held anything of {unit}; {next}"),
        Some(taken) => format!("{taken}; {next}"),
    }
}

/// "taken from alice: src/a.rs; her work is kept", by agent.
fn taken(stolen: &Stolen) -> Option<String> {
    let mut by_agent: BTreeMap<&AgentName, Vec<WorkUnit>> = BTreeMap::new();
    for (agent, unit) in &stolen.from {
        by_agent.entry(agent).or_default().push(unit.clone());
    }
    let from: Vec<String> =
        by_agent.iter().map(|(agent, held)| format!("{agent} lost {}", units(held))).collect();
    let kept = "what they have written is kept (`agentctl recover`)";
    (!from.is_empty()).then(|| format!("{}, and {kept}", from.join(", ")))
}

/// That a unit is free.
pub fn freed(freed: &Freed) -> String {
    let millis = std::time::Duration::from_millis(freed.millis);
    format!("{} is free (waited {})", freed.unit, time::span(millis))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::{Mode, RunId, Token};

    fn lock(unit: &str) -> Lock {
        Lock {
            unit: unit.parse().unwrap(),
            mode: Mode::Exclusive,
            agent: "alice".parse().unwrap(),
            run: Some(RunId(7)),
            token: Token(3),
            since: seconds(988),
            expires: seconds(1_588),
            waiters: 1,
        }
    }

    #[test]
    fn a_lease_says_what_who_since_and_until() {
        let text = plain(&locks(&[lock("src/a.rs"), lock("proc:build")], &page()));
        assert_eq!(
            text,
            "UNIT        MODE       AGENT  RUN  SINCE    EXPIRES   WAITERS\n\
             src/a.rs    exclusive  alice  r7   12s ago  in 9m48s  1\n\
             proc:build  exclusive  alice  r7   12s ago  in 9m48s  1"
        );
        assert_eq!(
            claimed(&[lock("src/a.rs")], &page()),
            "alice holds src/a.rs (exclusive, expires in 9m48s)"
        );
    }

    #[test]
    fn what_was_taken_away_is_said_by_agent() {
        let unit = |text: &str| text.parse::<WorkUnit>().unwrap();
        let from = |who: &str, what: &str| (who.parse::<AgentName>().unwrap(), unit(what));
        let taken = Stolen {
            from: vec![from("bob", "src/b"), from("alice", "src/a"), from("bob", "src/c")],
            waits: false,
        };
        let kept = "and what they have written is kept (`agentctl recover`)";
        let to = |to: Option<&str>| StealUnit {
            unit: unit("src/"),
            to: to.map(|agent| agent.parse().unwrap()),
        };
        assert_eq!(
            stolen(&to(Some("carol")), &taken),
            format!("alice lost src/a, bob lost src/b, src/c, {kept}; carol holds src/ now")
        );
        assert_eq!(
            stolen(&to(Some("carol")), &Stolen::default()),
            "nobody else held anything of src/; carol holds src/ now"
        );
        assert_eq!(
            agreed(ClaimId(3), &taken),
            format!("c3 is granted: alice lost src/a, bob lost src/b, src/c, {kept}")
        );
        assert_eq!(agreed(ClaimId(3), &Stolen::default()), "c3 is granted");
        let waits = Stolen { waits: true, from: vec![] };
        assert!(agreed(ClaimId(3), &waits).starts_with("c3 is agreed to, and waits on"));
    }

    #[test]
    fn a_unit_that_is_free_is_said_so() {
        let free = Freed { unit: "src/".parse().unwrap(), millis: 61_000 };
        assert_eq!(freed(&free), "src/ is free (waited 1m01s)");
    }

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(locks(&[], &page()), "no leases: nobody holds anything");
    }
}
