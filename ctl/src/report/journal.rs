//! The journal and explanations: sentences.

use super::{Page, printable, time};
use agentfs_api::types::{Explanation, LogEntry};

/// One entry: when, and a sentence.
pub fn entry(entry: &LogEntry, page: &Page) -> String {
    format!("{}  {}", time::local(page, entry.at), printable(&entry.text))
}

/// Entries, one a line.
pub fn entries(entries: &[LogEntry], page: &Page) -> String {
    if entries.is_empty() {
        return "the journal has no such entries".to_owned();
    }
    entries.iter().map(|one| entry(one, page)).collect::<Vec<_>>().join("\n")
}

/// Why things wait or were refused, one sentence a line.
pub fn explanation(explanation: &Explanation) -> String {
    if explanation.sentences.is_empty() {
        return "nothing waits and nothing was refused".to_owned();
    }
    let lines = explanation.sentences.iter().map(|sentence| printable(sentence));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, seconds};
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        let one = LogEntry {
            seq: 1,
            at: seconds(1_000),
            agent: None,
            units: vec![],
            text: "alice ran a\nb".to_owned(),
            event: serde_json::Value::Null,
        };
        assert_eq!(entry(&one, &page()), "1970-01-01 00:16:40  alice ran a\\x0ab");
        assert_eq!(entries(&[], &page()), "the journal has no such entries");
    }

    #[test]
    fn nothing_to_explain_is_said() {
        let none = Explanation { sentences: vec![] };
        assert_eq!(explanation(&none), "nothing waits and nothing was refused");
        let two = Explanation { sentences: vec!["a.".into(), "b.".into()] };
        assert_eq!(explanation(&two), "a.\nb.");
    }
}
