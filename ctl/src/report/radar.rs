//! Stale reads.

use super::agents::or_dash;
use super::{Page, finished, printable, table, time};
use agentfs_api::types::{ReadChange, StaleRead};

/// All stale reads, one a line.
pub fn stale(stale: &[StaleRead], page: &Page) -> String {
    let mut table = table(page, &["AGENT", "RUN", "PATH", "READ AT", "WHEN", "SINCE THEN", "WHEN"]);
    for read in stale {
        let then = match &read.change {
            ReadChange::Applied { by, version } => format!("{by} has applied {version}"),
            ReadChange::ByHand => "changed by hand".to_owned(),
            ReadChange::Underway { by } => format!("{by} is changing it"),
        };
        table.add_row([
            read.agent.to_string(),
            or_dash(read.run),
            read.path.to_string(),
            read.read.to_string(),
            time::ago(page, read.read_at),
            then,
            or_dash(read.since.map(|at| time::ago(page, at))),
        ]);
    }
    finished(&table, "nothing that a run has read has changed since")
}

/// One stale read in a sentence.
pub fn one(read: &StaleRead) -> String {
    printable(&read.text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::{BaseVersion, RunId};

    #[test]
    fn a_stale_read_says_who_what_when_and_what_has_become_of_it() {
        let read = StaleRead {
            agent: "alice".parse().unwrap(),
            run: Some(RunId(3)),
            path: "src/api.rs".parse().unwrap(),
            read: BaseVersion(3),
            read_at: seconds(988),
            change: ReadChange::Applied { by: "bob".parse().unwrap(), version: BaseVersion(4) },
            since: Some(seconds(995)),
            text: "alice built on src/api.rs".to_owned(),
        };
        let by_hand = StaleRead { change: ReadChange::ByHand, since: None, ..read.clone() };
        assert_eq!(
            plain(&stale(&[read.clone(), by_hand], &page())),
            "AGENT  RUN  PATH        READ AT  WHEN     SINCE THEN          WHEN\n\
             alice  r3   src/api.rs  v3       12s ago  bob has applied v4  5s ago\n\
             alice  r3   src/api.rs  v3       12s ago  changed by hand     -"
        );
        assert_eq!(one(&read), "alice built on src/api.rs");
        assert_eq!(stale(&[], &page()), "nothing that a run has read has changed since");
    }
}
