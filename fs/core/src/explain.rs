//! Sentences for people (G8): why something waits or was refused, and what to do next.
//!
//! Pure text from values. Times are told as spans, because the core knows no time zone.

use crate::estimate;
use crate::ids::AgentName;
use crate::locks::{Claim, Obstacle, Origin};
use crate::machine::{
    Author, ClaimEnd, Coming, Event, MOST_CLAIMS, MOST_UNITS, Read, State, Submission, Turn,
};
use crate::path::RelPath;
use crate::policy::Access;
use crate::time::Timestamp;
use crate::unit::WorkUnit;
use crate::want::Want;
use std::time::Duration;

/// A span as people say it: `250ms`, `12s`, `3m05s`, `2h10m`.
pub fn span(span: Duration) -> String {
    match (span.as_millis(), span.as_secs()) {
        (millis @ 0..1_000, _) => format!("{millis}ms"),
        (_, secs @ 0..60) => format!("{secs}s"),
        (_, secs @ 60..3_600) => format!("{}m{:02}s", secs / 60, secs % 60),
        (_, secs) => format!("{}h{:02}m", secs / 3_600, secs % 3_600 / 60),
    }
}

/// Why a claim waits, and until when.
pub fn waits(state: &State, claim: &Claim, now: Timestamp) -> String {
    let what = wish(state, claim);
    let gives_up = match claim.deadline {
        Some(deadline) => format!("; gives up in {}", span(deadline.since(now))),
        None => String::new(),
    };
    let reasons = reasons(state, claim, now);
    let Some((why, way_out)) = reasons.into_iter().next() else {
        return format!("{} is about to get {what}", claim.agent);
    };
    let guess = match estimate::wait(state, claim, now) {
        Some(left) => format!("; by what has been, in about {}", span(left)),
        None => String::new(),
    };
    format!("{} waits for {what} ({}): {why}{guess}{gives_up}. {way_out}", claim.agent, claim.cause)
}

/// Everything that a claim waits for, each with the way out.
pub fn reasons(state: &State, claim: &Claim, now: Timestamp) -> Vec<(String, String)> {
    let submission = claim.run.and_then(|run| state.submitted.get(&run));
    let turns = submission.map(|s| state.turns(s)).unwrap_or_default();
    let turns = turns.into_iter().map(|turn| not_its_turn(state, turn));
    let asks = claim.asks.then(|| {
        let id = claim.id;
        let why = "the policy has the operator asked first (unclaimed = \"ask\")".to_owned();
        (why, format!("`agentctl grant {id}` agrees, `agentctl refuse {id}` does not."))
    });
    let obstacles = state.locks.obstacles(&claim.agent, &claim.wants, Some(claim.place()));
    let units = obstacles.into_iter().map(|it| obstacle(state, &it, now));
    turns.chain(asks).chain(units).collect()
}

/// What stands in the way, and the way out.
pub fn obstacle(state: &State, obstacle: &Obstacle, now: Timestamp) -> (String, String) {
    (in_the_way(state, obstacle, now), way_out(state, obstacle))
}

/// Why it is not a run's turn, and when it is.
pub fn not_its_turn(state: &State, turn: Turn) -> (String, String) {
    let command = |run| {
        let known = state.runs.get(&run).map(|run| run.agent.clone());
        let queued = || state.submitted.get(&run).map(|submission| submission.agent.clone());
        known.or_else(queued).map(|agent| format!("{agent} ({run})")).unwrap_or_default()
    };
    match turn {
        Turn::SameAgent(run) | Turn::After(run) => (
            format!("it starts after {}", command(run)),
            format!("It is its turn when {run} has ended."),
        ),
        Turn::Parallel(most) => (
            format!("{most} runs are alive, and max_parallel = {most}"),
            "It is its turn when one of them has ended.".to_owned(),
        ),
    }
}

fn in_the_way(state: &State, obstacle: &Obstacle, now: Timestamp) -> String {
    let Obstacle { agent, unit, since, holds } = obstacle;
    let verb = if *holds { "has held" } else { "has waited for" };
    let run = state.agents.get(agent).and_then(|known| known.latest);
    let run = run.map(|run| format!(" ({run})")).unwrap_or_default();
    format!("{agent}{run} {verb} {unit} for {}", span(now.since(*since)))
}

fn way_out(state: &State, obstacle: &Obstacle) -> String {
    let Obstacle { agent, unit, holds, .. } = obstacle;
    let running = state.live_run_of(agent).is_some();
    match (holds, running) {
        (false, _) => format!("It is {agent}'s turn first."),
        (true, true) if matches!(unit, WorkUnit::Process(_)) => format!(
            "It is free when what {agent} runs as {unit} has ended; `agentctl steal {unit}` takes it away."
        ),
        (true, true) if unit.path().is_none() => {
            format!("It is free when {agent} gives it back; `agentctl steal {unit}` takes it away.")
        }
        (true, true) => format!(
            "It is free when {agent}'s run has ended and its changes are applied; `agentctl apply {agent}` does so now."
        ),
        (true, false) => format!(
            "{agent} is not running: `agentctl apply {agent}`, `agentctl discard {agent}` or `agentctl release {unit} --agent {agent}` frees it."
        ),
    }
}

/// How a wait ended, told when it does; `why` is what somebody said about it.
pub fn wait_ended(
    state: &State,
    claim: &Claim,
    end: ClaimEnd,
    why: Option<&str>,
    now: Timestamp,
) -> String {
    let wanted = wish(state, claim);
    let after = span(now.since(claim.since));
    let agent = &claim.agent;
    let cause = &claim.cause;
    let stopped = format!("{agent} stopped waiting for {wanted} ({cause}) after {after}");
    let said = why.map(|why| format!(": {why}")).unwrap_or_default();
    match end {
        ClaimEnd::Granted => format!("{agent} got {wanted} ({cause}) after {after}"),
        ClaimEnd::Cancelled => format!("{stopped}: the process was interrupted"),
        ClaimEnd::RunEnded => format!("{stopped}: its run ended"),
        ClaimEnd::Impossible | ClaimEnd::Deadlock => format!("{stopped}{said}"),
        ClaimEnd::Refused => {
            format!("{agent} was refused {wanted} ({cause}) after {after} by the operator{said}")
        }
        ClaimEnd::TimedOut => {
            let reasons = reasons(state, claim, now);
            let who = reasons.first().map(|(why, way_out)| format!("{why}. {way_out}"));
            let errno = if claim.origin == Origin::Start { "" } else { " with EBUSY" };
            format!(
                "{agent} was refused {wanted} ({cause}){errno} after waiting {after}: {}",
                who.unwrap_or_default()
            )
        }
    }
}

/// What a claim is for, in words.
fn wish(state: &State, claim: &Claim) -> String {
    let run = claim.run.filter(|run| state.submitted.contains_key(run));
    match run {
        Some(run) if claim.wants.is_empty() => format!("{run} to start"),
        Some(run) => format!("{run} to start with {}", list(&claim.wants)),
        None => list(&claim.wants),
    }
}

/// A write where the policy lets agents not write.
pub fn out_of_bounds(agent: &AgentName, unit: &WorkUnit, cause: &str, access: Access) -> String {
    let (errno, why) = match access {
        Access::ReadOnly => {
            ("EROFS", "access = \"read-only\"; nobody writes it through agentfs".to_owned())
        }
        Access::Forbidden => {
            ("EACCES", "access = \"forbidden\"; no agent reads or writes it".to_owned())
        }
        Access::Protected | Access::Write => (
            "EACCES",
            format!(
                "access = \"protected\"; only the operator gives it: `agentctl claim {unit} --agent {agent}`"
            ),
        ),
    };
    format!(
        "{agent} was refused {unit} ({cause}) with {errno}: a policy of agentfs.toml says {why}"
    )
}

/// A claim that asks for too much.
pub fn too_many(agent: &AgentName, unit: &WorkUnit, units: usize, waiting: usize) -> String {
    format!(
        "{agent} was refused {unit} and what it asked for with it: {units} units in one claim, and {waiting} claims of it wait already; at most {MOST_UNITS} and {MOST_CLAIMS} may, so claim directories"
    )
}

/// A write outside the claims, under `unclaimed = "deny"`.
pub fn denied(agent: &AgentName, unit: &WorkUnit, cause: &str) -> String {
    format!(
        "{agent} was refused {unit} ({cause}) with EACCES: it has not claimed it, and unclaimed = \"deny\"; `agentctl claim {unit}` (by {agent}) or `--claim {unit}` at the start lets it write"
    )
}

/// A wait that would never end.
pub fn deadlocked(agent: &AgentName, unit: &WorkUnit, cause: &str, circle: &[AgentName]) -> String {
    let circle: Vec<&str> = circle.iter().map(AgentName::as_str).collect();
    format!(
        "{agent} was refused {unit} ({cause}) with EBUSY at once: {agent} would wait for {}, a deadlock; let {agent} finish with what it holds, or apply one of the others' changes",
        circle.join(", who waits for ")
    )
}

/// A write based on a version that is not base's any more (G2).
pub fn stale(agent: &AgentName, path: &RelPath, cause: &str, read: Read) -> String {
    let why = match read {
        Read::Unknown => format!(
            "the daemon was replaced while {agent} ran, and can't know which version {agent} has read"
        ),
        Read::Never | Read::Version(_) => {
            format!("base has a newer version than the one that {agent} has read")
        }
    };
    format!(
        "{agent} was refused {path} ({cause}) with EAGAIN: {why}; read {path} again, then write"
    )
}

/// An apply that would be refused now (G2).
pub fn will_conflict(agent: &AgentName, path: &RelPath, coming: &Coming, now: Timestamp) -> String {
    format!(
        "{} ({} ago); look at both (`agentctl diff {agent}`), then redo the change or `agentctl discard {agent}`",
        conflict_comes(agent, path, coming.author.as_ref()),
        span(now.since(coming.since)),
    )
}

fn conflict_comes(agent: &AgentName, path: &RelPath, author: Option<&Author>) -> String {
    let by = author.map_or_else(
        || "somebody has changed it in base by hand".to_owned(),
        |author| format!("{} has applied another version ({})", author.agent, author.version),
    );
    format!(
        "{agent}'s change to {path} will conflict: {by} since {agent} first wrote there, so an apply would be refused"
    )
}

/// Everything there is to say about `path` or `agent`, or about all: present waits first, then
/// conflicts that come, who holds what, then recent refusals and waits, newest first.
pub fn explain(
    state: &State,
    path: Option<&RelPath>,
    agent: Option<&AgentName>,
    now: Timestamp,
) -> Vec<String> {
    let about = |who: &AgentName, units: &[&WorkUnit]| {
        let this_path = |path: &RelPath| {
            let file = WorkUnit::File(path.clone());
            units.iter().any(|unit| unit.overlaps(&file))
        };
        agent.is_none_or(|agent| agent == who) && path.is_none_or(this_path)
    };
    let waiting = state
        .locks
        .queue()
        .filter(|claim| {
            about(&claim.agent, &claim.wants.iter().map(|want| &want.unit).collect::<Vec<_>>())
        })
        .map(|claim| waits(state, claim, now));
    let coming = state
        .coming()
        .filter(|(who, path, _)| about(who, &[&WorkUnit::File((*path).clone())]))
        .map(|(who, path, coming)| will_conflict(who, path, coming, now));
    let held = state
        .locks
        .leases()
        .filter(|lease| path.is_some() && about(&lease.agent, &[&lease.unit]))
        .map(|lease| {
            let since = span(now.since(lease.since));
            format!("{} has held {} ({}) for {since}", lease.agent, lease.unit, lease.mode)
        });
    let past = state
        .incidents
        .iter()
        .rev()
        .filter(|incident| about(&incident.agent, &[&incident.unit]))
        .take(20)
        .map(|incident| format!("{} ({} ago)", incident.text, span(now.since(incident.at))));
    waiting.chain(coming).chain(held).chain(past).collect()
}

/// An entry of the journal in a sentence.
pub fn describe(event: &Event) -> String {
    match event {
        Event::RunStarted { run, agent, argv, .. } => {
            format!("{agent} began {run}: {}", argv.join(" "))
        }
        Event::RunEnded { run, agent, exit, changed, .. } => {
            format!("{run} of {agent} ended: the command {exit}; {} changed", paths(*changed))
        }
        Event::ProcessBegan { agent, unit, argv, pid, .. } => {
            format!("{agent} runs {unit} (process {pid}): {}", argv.join(" "))
        }
        Event::ProcessEnded { agent, unit, pid, .. } => {
            format!("{agent}'s {unit} (process {pid}) has ended with all that it started")
        }
        Event::Renewed { agent } => format!("{agent} is alive"),
        Event::Granted { lease } => {
            format!("{} holds {} ({}, {})", lease.agent, lease.unit, lease.mode, lease.token)
        }
        Event::LeaseEnded { agent, unit, why, .. } => {
            format!("{unit} is free again, {agent} had it: {why}")
        }
        Event::RunQueued { submission } => {
            let Submission { run, agent, argv, .. } = &**submission;
            format!("{agent}'s {run} waits to start: {}", argv.join(" "))
        }
        Event::Configured { settings } => {
            let most = settings.max_parallel.map_or("any number of".to_owned(), |n| n.to_string());
            let slots = settings.slots.iter().map(|(unit, n)| format!("; {unit} has {n} slots"));
            format!("{most} runs may be alive at once{}", slots.collect::<String>())
        }
        Event::ClaimMoved { claim, agent, .. } => {
            format!("the operator moved {agent}'s claim {claim} in the queue")
        }
        Event::Approved { claim, agent } => {
            format!("the operator agreed to {agent}'s claim {claim}")
        }
        Event::Queued { why, .. } => why.clone(),
        Event::ClaimEnded { text, .. } | Event::Refused { text, .. } => text.clone(),
        Event::Based { agent, path, before } => {
            let what = if before.is_some() { "changes" } else { "makes" };
            format!("{agent} {what} {path}")
        }
        Event::Read { agent, paths: all } => format!("{agent} has read {}", paths(all.len())),
        Event::Forgotten { agent, path } => format!("{agent} left {path} as it was"),
        Event::ApplyBegun { agent, paths: all, .. } => {
            format!("an apply of {agent}'s changes to {} begins", paths(all.len()))
        }
        Event::Applied { agent, version, paths: all, .. } => {
            format!("base is at {version}: {agent}'s changes to {} are applied", paths(all.len()))
        }
        Event::Pending { agent, why } => format!("{agent}'s changes stay pending: {why}"),
        Event::Discarded { agent } => format!("{agent}'s changes were discarded"),
        Event::DeltaCleared { agent } => format!("{agent}'s discarded files are gone"),
        Event::Synced { agent, version, moved } => {
            format!("{agent}'s view is at {version} now: {} moved", paths(moved.len()))
        }
        Event::ConflictComes { agent, path, author } => {
            conflict_comes(agent, path, author.as_ref())
        }
        Event::ConflictGone { agent, path } => {
            format!("{agent}'s change to {path} conflicts no more: base has the old version again")
        }
        Event::Sealed { agent } => {
            format!("{agent}'s changes are sealed: kept, but without leases")
        }
    }
}

/// Whose doing an entry of the journal is, or who it is about; none for the operator's alone.
pub fn whose(event: &Event) -> Option<&AgentName> {
    Some(match event {
        Event::Configured { .. } => return None,
        Event::Granted { lease } => &lease.agent,
        Event::Queued { claim, .. } => &claim.agent,
        Event::RunQueued { submission } => &submission.agent,
        Event::RunStarted { agent, .. }
        | Event::RunEnded { agent, .. }
        | Event::ProcessBegan { agent, .. }
        | Event::ProcessEnded { agent, .. }
        | Event::Renewed { agent }
        | Event::LeaseEnded { agent, .. }
        | Event::ClaimMoved { agent, .. }
        | Event::Approved { agent, .. }
        | Event::ClaimEnded { agent, .. }
        | Event::Refused { agent, .. }
        | Event::Based { agent, .. }
        | Event::Read { agent, .. }
        | Event::Forgotten { agent, .. }
        | Event::ApplyBegun { agent, .. }
        | Event::Applied { agent, .. }
        | Event::Pending { agent, .. }
        | Event::Discarded { agent }
        | Event::DeltaCleared { agent }
        | Event::Synced { agent, .. }
        | Event::ConflictComes { agent, .. }
        | Event::ConflictGone { agent, .. }
        | Event::Sealed { agent } => agent,
    })
}

/// The work units that an entry of the journal is about.
pub fn units(event: &Event) -> Vec<WorkUnit> {
    let wanted = |wants: &[Want]| wants.iter().map(|want| want.unit.clone()).collect();
    let files = |paths: &[RelPath]| paths.iter().cloned().map(WorkUnit::File).collect();
    match event {
        Event::Granted { lease } => vec![lease.unit.clone()],
        Event::ProcessBegan { unit, .. }
        | Event::ProcessEnded { unit, .. }
        | Event::LeaseEnded { unit, .. }
        | Event::Refused { unit, .. } => vec![unit.clone()],
        Event::Queued { claim, .. } => wanted(&claim.wants),
        Event::ClaimEnded { wants, .. } => wanted(wants),
        Event::Based { path, .. }
        | Event::Forgotten { path, .. }
        | Event::ConflictComes { path, .. }
        | Event::ConflictGone { path, .. } => vec![WorkUnit::File(path.clone())],
        Event::ApplyBegun { paths, .. } | Event::Applied { paths, .. } => files(paths),
        Event::Read { paths, .. } => {
            paths.iter().map(|(path, _)| WorkUnit::File(path.clone())).collect()
        }
        Event::Synced { moved, .. } => {
            moved.iter().map(|moved| WorkUnit::File(moved.path.clone())).collect()
        }
        Event::RunStarted { .. }
        | Event::RunEnded { .. }
        | Event::RunQueued { .. }
        | Event::Configured { .. }
        | Event::Renewed { .. }
        | Event::ClaimMoved { .. }
        | Event::Approved { .. }
        | Event::Pending { .. }
        | Event::Discarded { .. }
        | Event::DeltaCleared { .. }
        | Event::Sealed { .. } => Vec::new(),
    }
}

fn paths(count: usize) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

fn list(wants: &[Want]) -> String {
    let wants: Vec<String> = wants.iter().map(ToString::to_string).collect();
    wants.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let said = |millis| span(Duration::from_millis(millis));
        assert_eq!(said(250), "250ms");
        assert_eq!(said(12_900), "12s");
        assert_eq!(said(185_000), "3m05s");
        assert_eq!(said(7_800_000), "2h10m");
    }
}
