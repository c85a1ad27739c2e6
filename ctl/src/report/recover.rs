//! Work that waits for somebody's decision.

use super::agents::{exit, or_dash};
use super::{BOLD, Page, count, printable, table, time};
use agentfs_api::types::Recoverable;
use std::fmt::Write;

/// A table of what there is, and for each agent the commands to go on with.
pub fn recover(work: &[Recoverable], page: &Page) -> String {
    if work.is_empty() {
        return "nothing to recover: every change is applied or discarded".to_owned();
    }
    let headings = ["AGENT", "RUN", "ENDED", "HOW", "CHANGED", "LINES", "LEASES", "BASE"];
    let mut table = table(page, &headings);
    for one in work {
        let moved = match one.conflicts.len() {
            0 => "as it was".to_owned(),
            paths => format!("moved at {}", count(paths, "path")),
        };
        table.add_row([
            one.agent.to_string(),
            or_dash(one.run),
            one.ended.map_or_else(|| "still runs".to_owned(), |ended| time::ago(page, ended)),
            or_dash(one.exit.map(exit)),
            count(one.changed, "path"),
            format!("+{} -{}", one.added, one.removed),
            if one.sealed { "gone (sealed)" } else { "held" }.to_owned(),
            moved,
        ]);
    }
    let mut text = table.trim_fmt();
    for one in work {
        text.push('\n');
        go_on(&mut text, one);
    }
    text
}

/// Writing to a string can't fail, so what `writeln!` returns is let go.
fn go_on(text: &mut String, work: &Recoverable) {
    let Recoverable { agent, delta, conflicts, .. } = work;
    let _ =
        writeln!(text, "\n{BOLD}{agent}{BOLD:#}: kept in {}", printable(&delta.to_string_lossy()));
    if !conflicts.is_empty() {
        let paths = conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  base has moved since at: {paths}");
    }
    let width = agent.as_str().len();
    for (verb, what) in [
        ("diff", "see the changes"),
        ("apply", "make them part of base"),
        ("discard", "drop them for good"),
    ] {
        let command = format!("agentctl {verb} {agent}");
        let _ = write!(text, "  {command:<0$}  {what}", "agentctl discard ".len() + width);
        text.push_str(if verb == "discard" { "" } else { "\n" });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_api::types::Exit;
    use agentfs_core::RunId;

    #[test]
    fn each_agent_gets_the_commands_to_go_on() {
        let work = |agent: &str, conflicts: &[&str]| Recoverable {
            agent: agent.parse().unwrap(),
            run: Some(RunId(3)),
            exit: Some(Exit::Signal(9)),
            ended: Some(seconds(940)),
            changed: 2,
            added: 10,
            removed: 1,
            sealed: true,
            delta: "/state/agents/a/delta".into(),
            conflicts: conflicts.iter().map(|path| path.parse().unwrap()).collect(),
        };
        let text = plain(&recover(&[work("alice", &["src/a.rs"]), work("bo", &[])], &page()));
        assert_eq!(
            text,
            "AGENT  RUN  ENDED      HOW       CHANGED  LINES   LEASES         BASE\n\
             alice  r3   1m00s ago  signal 9  2 paths  +10 -1  gone (sealed)  moved at 1 path\n\
             bo     r3   1m00s ago  signal 9  2 paths  +10 -1  gone (sealed)  as it was\n\
             \nalice: kept in /state/agents/a/delta\n  base has moved since at: src/a.rs\n  \
             agentctl diff alice     see the changes\n  \
             agentctl apply alice    make them part of base\n  \
             agentctl discard alice  drop them for good\n\
             \nbo: kept in /state/agents/a/delta\n  \
             agentctl diff bo     see the changes\n  \
             agentctl apply bo    make them part of base\n  \
             agentctl discard bo  drop them for good"
        );
        assert!(recover(&[], &page()).starts_with("nothing to recover"));
    }
}
