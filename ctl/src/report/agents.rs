//! Agents and their runs.

use super::{Page, finished, printable, table, time};
use agentfs_api::types::{Agent, AgentState, Exit, Outcome, Run};
use comfy_table::{Cell, Color};

/// The most of a command that a table shows; `--json` has all of it.
const COMMAND_CHARS: usize = 60;

/// All agents, one a line; with the conflicts that come, where there are any.
pub fn agents(agents: &[Agent], page: &Page) -> String {
    let in_danger = agents.iter().any(|agent| agent.conflicts > 0);
    let mut headings = vec!["AGENT", "STATE", "RUN", "LEASES", "CHANGED", "ACTIVE", "VIEW"];
    if in_danger {
        headings.insert(5, "CONFLICTS");
    }
    let mut table = table(page, &headings);
    for agent in agents {
        let view = agent.view.as_ref().map(|path| path.display().to_string());
        let mut row = vec![
            Cell::new(&agent.name),
            state(agent.state),
            Cell::new(or_dash(agent.run)),
            Cell::new(agent.leases),
            Cell::new(agent.changed),
            Cell::new(time::ago(page, agent.last_active)),
            Cell::new(printable(&or_dash(view))),
        ];
        if in_danger {
            row.insert(5, conflicts(agent.conflicts));
        }
        table.add_row(row);
    }
    finished(&table, "no agents: run one by `agentshim run -- CMD`")
}

fn conflicts(count: usize) -> Cell {
    let cell = Cell::new(count);
    if count > 0 { cell.fg(Color::DarkRed) } else { cell }
}

fn state(state: AgentState) -> Cell {
    match state {
        AgentState::Running => Cell::new("running").fg(Color::DarkGreen),
        AgentState::Waiting => Cell::new("waiting").fg(Color::DarkYellow),
        AgentState::Pending => Cell::new("pending").fg(Color::DarkCyan),
        AgentState::Queued => Cell::new("queued").fg(Color::DarkYellow),
        AgentState::Idle => Cell::new("idle"),
    }
}

/// All runs, one a line.
pub fn runs(runs: &[Run], page: &Page) -> String {
    let headings = ["RUN", "AGENT", "STARTED", "TOOK", "ENDED", "CHANGES", "COMMAND"];
    let mut table = table(page, &headings);
    for run in runs {
        let took = time::span(run.ended.unwrap_or(page.now).since(run.started));
        let alive = if run.queued { "queued" } else { "running" };
        let ended = run.exit.map_or_else(|| alive.to_owned(), exit);
        table.add_row([
            run.id.to_string(),
            run.agent.to_string(),
            or_dash((!run.queued).then(|| time::ago(page, run.started))),
            or_dash((!run.queued).then_some(took)),
            ended,
            or_dash(run.outcome.as_ref().map(outcome)),
            command(&run.argv),
        ]);
    }
    finished(&table, "no runs: start one by `agentshim run -- CMD`")
}

/// How a command ended.
pub fn exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::Lost => "lost".to_owned(),
        Exit::NotStarted => "never started".to_owned(),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Nothing => "none".to_owned(),
        Outcome::Applied { version } => format!("applied as {version}"),
        Outcome::Pending { why } => format!("pending: {}", printable(why)),
        Outcome::Discarded => "discarded".to_owned(),
    }
}

/// The command as it could be typed into a shell, cut where it gets long.
fn command(argv: &[String]) -> String {
    let words = argv.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    let line = printable(&line);
    match line.char_indices().nth(COMMAND_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

/// The value, or `-` where there is none.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{page, plain, seconds};
    use super::*;
    use agentfs_core::{BaseVersion, RunId};

    fn run(exit: Option<Exit>, outcome: Option<Outcome>) -> Run {
        Run {
            id: RunId(7),
            agent: "alice".parse().unwrap(),
            argv: vec!["claude".into(), "-p".into(), "fix it".into()],
            started: seconds(900),
            queued: false,
            ended: exit.map(|_| seconds(960)),
            exit,
            outcome,
        }
    }

    #[test]
    fn a_run_says_how_it_ended_and_what_became_of_its_changes() {
        let applied = Outcome::Applied { version: BaseVersion(4) };
        let text = plain(&runs(&[run(Some(Exit::Code(0)), Some(applied))], &page()));
        assert_eq!(
            text,
            "RUN  AGENT  STARTED    TOOK   ENDED   CHANGES        COMMAND\n\
             r7   alice  1m40s ago  1m00s  exit 0  applied as v4  claude -p 'fix it'"
        );
    }

    #[test]
    fn a_live_run_is_running_until_now() {
        let text = plain(&runs(&[run(None, None)], &page()));
        assert!(text.contains("1m40s  running  -"), "{text}");
        let queued = Run { queued: true, ..run(None, None) };
        let text = plain(&runs(&[queued], &page()));
        assert!(text.contains("alice  -        -     queued  -"), "{text}");
    }

    #[test]
    fn an_agent_says_what_it_does() {
        let mut agent = Agent {
            name: "bob".parse().unwrap(),
            state: AgentState::Waiting,
            run: None,
            view: None,
            leases: 2,
            changed: 3,
            conflicts: 0,
            last_active: seconds(999),
        };
        assert_eq!(
            plain(&agents(&[agent.clone()], &page())),
            "AGENT  STATE    RUN  LEASES  CHANGED  ACTIVE  VIEW\n\
             bob    waiting  -    2       3        1s ago  -"
        );
        agent.conflicts = 1;
        assert_eq!(
            plain(&agents(&[agent], &page())),
            "AGENT  STATE    RUN  LEASES  CHANGED  CONFLICTS  ACTIVE  VIEW\n\
             bob    waiting  -    2       3        1          1s ago  -"
        );
    }

    #[test]
    fn commands_are_quoted_and_cut() {
        let argv = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(command(&argv(&["sh", "-c", "it's"])), r"sh -c 'it'\''s'");
        assert_eq!(command(&argv(&["a", ""])), "a ''");
        let long = command(&argv(&["x".repeat(500).as_str()]));
        assert_eq!(long.chars().count(), COMMAND_CHARS + 1);
        assert_eq!(command(&argv(&["\u{1b}[2J"])), r"'\x1b[2J'");
    }
}
