//! The queue: who waits for what, in which order, and why.

use super::agents::or_dash;
use super::{BOLD, Page, finished, printable, table, time};
use agentfs_api::types::{Blocker, Waiting};
use agentfs_core::locks::Priority;

/// All claims that wait, one a line; narrow enough for 80 columns as long as names are short.
pub fn queue(queue: &[Waiting], page: &Page) -> String {
    let headings = ["CLAIM", "PLACE", "AGENT", "WANTS", "BEHIND", "SINCE", "TAKES", "GIVES UP"];
    let mut table = table(page, &headings);
    for claim in queue {
        let deadline = claim.deadline.map(|deadline| time::until(page, deadline));
        table.add_row([
            claim.claim.to_string(),
            claim.position.to_string(),
            claim.agent.to_string(),
            wants(claim),
            behind(claim),
            time::ago(page, claim.since),
            or_dash(claim.estimate.map(|left| format!("~{}", time::span(left.0)))),
            or_dash(deadline),
        ]);
    }
    finished(&table, EMPTY)
}

const EMPTY: &str = "nothing waits";

/// Each claim that waits with all that there is to say about it.
pub fn why(queue: &[Waiting], page: &Page) -> String {
    if queue.is_empty() {
        return EMPTY.to_owned();
    }
    let told: Vec<String> = queue.iter().map(|claim| why_one(claim, page)).collect();
    told.join("\n\n")
}

fn why_one(claim: &Waiting, page: &Page) -> String {
    let run = claim.run.map(|run| format!(" ({run})")).unwrap_or_default();
    let heading = format!("{BOLD}{}{BOLD:#}  {}{run}: {}", claim.claim, claim.agent, wants(claim));
    let mut facts = vec![
        format!("number {} in line", claim.position),
        printable(&claim.cause).into_owned(),
        format!("waits since {}", time::ago(page, claim.since)),
    ];
    if claim.priority != Priority::Normal {
        facts.push(format!("priority {}", claim.priority));
    }
    facts.extend(claim.estimate.map(|left| format!("takes about {} more", time::span(left.0))));
    facts.push(claim.deadline.map_or_else(
        || "never gives up".to_owned(),
        |deadline| format!("gives up {}", time::until(page, deadline)),
    ));
    let mut lines = vec![heading, format!("    {}", facts.join(", "))];
    lines.extend(claim.why.iter().map(|why| format!("    - {}", printable(why))));
    if claim.why.is_empty() {
        lines.push("    - nothing is in the way: it goes on at any moment".to_owned());
    }
    lines.join("\n")
}

/// What a claim is for; a run may wait for nothing but its turn.
fn wants(claim: &Waiting) -> String {
    let wants: Vec<String> = claim.wants.iter().map(ToString::to_string).collect();
    match (claim.process.is_some(), wants.is_empty()) {
        (true, true) => "to start".to_owned(),
        (true, false) => format!("to start: {}", wants.join(", ")),
        (false, _) => wants.join(", "),
    }
}

fn behind(claim: &Waiting) -> String {
    let mut behind: Vec<String> = claim.blockers.iter().map(blocker).collect();
    if claim.asks {
        behind.insert(0, "you are asked".to_owned());
    } else if behind.is_empty() && claim.process.is_some() {
        behind.push("its turn".to_owned());
    }
    let more = behind.len().saturating_sub(1);
    let first = behind.into_iter().next();
    or_dash(first.map(|first| if more > 0 { format!("{first}, {more} more") } else { first }))
}

/// "bob holds src/", or "bob waits for src/" if that only is ahead in the queue.
fn blocker(blocker: &Blocker) -> String {
    let does = if blocker.holds { "holds" } else { "waits for" };
    format!("{} {does} {}", blocker.agent, blocker.unit)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::config::Span;
    use agentfs_core::{ClaimId, RunId};
    use std::time::Duration;

    fn claim() -> Waiting {
        let blocker = |agent: &str, holds| Blocker {
            agent: agent.parse().unwrap(),
            unit: "src/".parse().unwrap(),
            since: seconds(1),
            holds,
        };
        Waiting {
            claim: ClaimId(1),
            position: 2,
            wants: vec!["src/a.rs".parse().unwrap(), "shared src/b.rs".parse().unwrap()],
            agent: "carol".parse().unwrap(),
            run: Some(RunId(9)),
            blockers: vec![blocker("alice", true), blocker("bob", false)],
            since: seconds(990),
            deadline: Some(seconds(1_050)),
            cause: "open for writing".to_owned(),
            asks: false,
            process: None,
            estimate: Some(Span(Duration::from_secs(40))),
            why: vec!["alice has held src/ for 5s. It is free then.".to_owned()],
            priority: Priority::High,
        }
    }

    #[test]
    fn a_waiting_claim_says_who_is_in_the_way() {
        assert_eq!(
            plain(&queue(&[claim()], &page())),
            "CLAIM  PLACE  AGENT  WANTS                      BEHIND                    \
             SINCE    TAKES  GIVES UP\n\
             c1     2      carol  src/a.rs, shared src/b.rs  alice holds src/, 1 more  \
             10s ago  ~40s   in 50s"
        );
        let mut start = claim();
        (start.wants, start.blockers, start.process) = (vec![], vec![], Some(7));
        let text = plain(&queue(&[start.clone()], &page()));
        assert!(text.contains("to start") && text.contains("its turn"), "{text}");
        start.asks = true;
        let text = plain(&queue(&[start], &page()));
        assert!(text.contains("you are asked"), "{text}");
    }

    #[test]
    fn on_80_columns_it_stays_readable() {
        let narrow = Page { width: Some(80), ..page() };
        let text = plain(&queue(&[claim()], &narrow));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() <= 4, "{text}");
        for whole in ["c1", "carol", "10s ago", "~40s", "in 50s", "src/a.rs,", "alice holds"] {
            assert!(text.contains(whole), "{whole} is broken over lines:\n{text}");
        }
    }

    #[test]
    fn why_says_all_that_there_is_to_say() {
        assert_eq!(
            plain(&why(&[claim()], &page())),
            "c1  carol (r9): src/a.rs, shared src/b.rs\n    \
             number 2 in line, open for writing, waits since 10s ago, priority high, takes about \
             40s more, gives up in 50s\n    \
             - alice has held src/ for 5s. It is free then."
        );
        let soon = Waiting { why: vec![], deadline: None, ..claim() };
        let text = plain(&why(&[soon.clone(), soon], &page()));
        assert!(text.contains("never gives up") && text.contains("at any moment"), "{text}");
        assert_eq!(text.matches("\n\nc1").count(), 1, "a blank line between: {text}");
    }

    #[test]
    fn an_empty_queue_is_said_in_words() {
        assert_eq!(queue(&[], &page()), "nothing waits");
        assert_eq!(why(&[], &page()), "nothing waits");
    }
}
