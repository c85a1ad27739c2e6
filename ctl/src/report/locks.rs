//! Leases and the queue.

use super::agents::or_dash;
use super::{Page, finished, table, time};
use agentfs_api::types::{Blocker, Lock, Waiting};

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

/// All claims that wait, one a line.
pub fn queue(queue: &[Waiting], page: &Page) -> String {
    let headings =
        ["CLAIM", "POSITION", "AGENT", "WANTS", "BEHIND", "SINCE", "ABOUT", "GIVES UP", "CAUSE"];
    let mut table = table(page, &headings);
    for claim in queue {
        let mut behind: Vec<String> = claim.blockers.iter().map(blocker).collect();
        if claim.asks {
            behind.insert(0, "the operator is asked".to_owned());
        } else if behind.is_empty() && claim.process.is_some() {
            behind.push("its turn".to_owned());
        }
        let wants: Vec<String> = claim.wants.iter().map(ToString::to_string).collect();
        let estimate = claim.estimate.map(|left| agentfs_core::explain::span(left.0));
        let deadline = claim.deadline.map(|deadline| time::until(page, deadline));
        table.add_row([
            claim.claim.to_string(),
            claim.position.to_string(),
            claim.agent.to_string(),
            or_dash((!wants.is_empty()).then(|| wants.join(", "))),
            behind.join(", "),
            time::ago(page, claim.since),
            or_dash(estimate),
            or_dash(deadline),
            super::printable(&claim.cause).into_owned(),
        ]);
    }
    finished(&table, "nothing waits")
}

/// "bob holds src/", or "bob waits for src/" if that only is ahead in the queue.
fn blocker(blocker: &Blocker) -> String {
    let does = if blocker.holds { "holds" } else { "waits for" };
    format!("{} {does} {}", blocker.agent, blocker.unit)
}

/// What a claim was granted.
pub fn claimed(leases: &[Lock], page: &Page) -> String {
    let lines = leases.iter().map(|lock| {
        let ends = time::until(page, lock.expires);
        format!("{} holds {} ({}, expires {ends})", lock.agent, lock.unit, lock.mode)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::{ClaimId, Mode, RunId, Token};

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
    fn a_waiting_claim_says_who_is_in_the_way() {
        let blocker = |agent: &str, holds| Blocker {
            agent: agent.parse().unwrap(),
            unit: "src/".parse().unwrap(),
            since: seconds(1),
            holds,
        };
        let claim = Waiting {
            claim: ClaimId(1),
            position: 2,
            wants: vec!["src/a.rs".parse().unwrap(), "shared src/b.rs".parse().unwrap()],
            agent: "carol".parse().unwrap(),
            run: Some(RunId(9)),
            blockers: vec![blocker("alice", true), blocker("bob", false)],
            since: seconds(990),
            deadline: Some(seconds(1_050)),
            cause: "open".to_owned(),
            asks: false,
            process: None,
            estimate: Some(agentfs_core::config::Span(std::time::Duration::from_secs(40))),
            why: vec![],
        };
        let text = plain(&queue(&[claim], &page()));
        for part in [
            "carol",
            "c1",
            "src/a.rs, shared src/b.rs",
            "40s",
            "alice holds src/, bob waits for src/",
            "10s ago",
            "in 50s",
            "open",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(locks(&[], &page()), "no leases: nobody holds anything");
        assert_eq!(queue(&[], &page()), "nothing waits");
    }
}
