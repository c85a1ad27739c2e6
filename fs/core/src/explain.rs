//! Sentences for people (G8): why something waits or was refused, and what to do next.
//!
//! Pure text from values. Times are told as spans, because the core knows no time zone.

use crate::ids::AgentName;
use crate::locks::{Claim, Obstacle};
use crate::machine::{Author, ClaimEnd, Coming, Event, Read, State};
use crate::path::RelPath;
use crate::time::Timestamp;
use crate::unit::WorkUnit;
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
    let obstacles = state.locks.obstacles(&claim.agent, &claim.units, claim.mode, Some(claim.id));
    let gives_up = span(claim.deadline.since(now));
    match obstacles.first() {
        Some(obstacle) => format!(
            "{} waits for {} ({}): {}; gives up in {gives_up}. {}",
            claim.agent,
            list(&claim.units),
            claim.cause,
            in_the_way(state, obstacle, now),
            way_out(state, obstacle),
        ),
        None => format!("{} is about to get {}", claim.agent, list(&claim.units)),
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
            "It is free when what {agent} runs as {unit} has ended; `agentctl release {unit} --agent {agent}` frees it now."
        ),
        (true, true) => format!(
            "It is free when {agent}'s run has ended and its changes are applied; `agentctl apply {agent}` does so now."
        ),
        (true, false) => format!(
            "{agent} is not running: `agentctl apply {agent}`, `agentctl discard {agent}` or `agentctl release {unit} --agent {agent}` frees it."
        ),
    }
}

/// How a wait ended, told when it does.
pub fn wait_ended(state: &State, claim: &Claim, end: ClaimEnd, now: Timestamp) -> String {
    let wanted = list(&claim.units);
    let after = span(now.since(claim.since));
    let agent = &claim.agent;
    let cause = &claim.cause;
    match end {
        ClaimEnd::Granted => format!("{agent} got {wanted} ({cause}) after {after}"),
        ClaimEnd::Cancelled => {
            format!(
                "{agent} stopped waiting for {wanted} ({cause}) after {after}: the process was interrupted"
            )
        }
        ClaimEnd::RunEnded => {
            format!("{agent} stopped waiting for {wanted} ({cause}) after {after}: its run ended")
        }
        ClaimEnd::TimedOut => {
            let obstacles = state.locks.obstacles(agent, &claim.units, claim.mode, Some(claim.id));
            let who = obstacles
                .first()
                .map(|o| format!("{}. {}", in_the_way(state, o, now), way_out(state, o)))
                .unwrap_or_default();
            format!(
                "{agent} was refused {wanted} ({cause}) with EBUSY after waiting {after}: {who}"
            )
        }
    }
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
    let about = |who: &AgentName, units: &[WorkUnit]| {
        let this_path = |path: &RelPath| {
            let file = WorkUnit::File(path.clone());
            units.iter().any(|unit| unit.overlaps(&file))
        };
        agent.is_none_or(|agent| agent == who) && path.is_none_or(this_path)
    };
    let waiting = state
        .locks
        .queue()
        .filter(|claim| about(&claim.agent, &claim.units))
        .map(|claim| waits(state, claim, now));
    let coming = state
        .coming()
        .filter(|(who, path, _)| about(who, &[WorkUnit::File((*path).clone())]))
        .map(|(who, path, coming)| will_conflict(who, path, coming, now));
    let held = state
        .locks
        .leases()
        .filter(|lease| path.is_some() && about(&lease.agent, std::slice::from_ref(&lease.unit)))
        .map(|lease| {
            let since = span(now.since(lease.since));
            format!("{} has held {} ({}) for {since}", lease.agent, lease.unit, lease.mode)
        });
    let past = state
        .incidents
        .iter()
        .rev()
        .filter(|incident| about(&incident.agent, std::slice::from_ref(&incident.unit)))
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
        Event::Renewed { agent } => format!("{agent} is alive"),
        Event::Granted { lease } => {
            format!("{} holds {} ({}, {})", lease.agent, lease.unit, lease.mode, lease.token)
        }
        Event::LeaseEnded { agent, unit, why, .. } => {
            format!("{unit} is free again, {agent} had it: {why}")
        }
        Event::Queued { why, .. } => why.clone(),
        Event::ClaimEnded { text, .. } | Event::Refused { text, .. } => text.clone(),
        Event::Based { agent, path, before } => {
            let what = if before.is_some() { "changes" } else { "makes" };
            format!("{agent} {what} {path}")
        }
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

/// Whose doing an entry of the journal is.
pub fn whose(event: &Event) -> &AgentName {
    match event {
        Event::Granted { lease } => &lease.agent,
        Event::Queued { claim, .. } => &claim.agent,
        Event::RunStarted { agent, .. }
        | Event::RunEnded { agent, .. }
        | Event::Renewed { agent }
        | Event::LeaseEnded { agent, .. }
        | Event::ClaimEnded { agent, .. }
        | Event::Refused { agent, .. }
        | Event::Based { agent, .. }
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
    }
}

fn paths(count: usize) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

fn list(units: &[WorkUnit]) -> String {
    let units: Vec<String> = units.iter().map(ToString::to_string).collect();
    units.join(", ")
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
