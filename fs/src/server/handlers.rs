//! The handlers: decode, ask the owner, encode.

use super::peer::Peer;
use super::{Caller, Context};
use crate::service::{Owner, ServiceError, asked_for};
use agentfs_api::types::{
    Agent, ApplyChanges, CheckPlan, CheckedPlan, ClaimUnits, Claimed, Diff, EndRun, Explanation,
    Freed, GrantClaim, Lock, LogEntry, MoveClaim, NoteProcess, PlannedRun, Recoverable,
    RefuseClaim, ReleaseUnit, Released, Renewed, Run, RunSummary, Settled, StaleRead, StartRun,
    StartedRun, Status, StealUnit, Stolen, SyncView, Synced, Unmounted, Waiting,
};
use agentfs_core::config::Span;
use agentfs_core::machine::{Asker, Exit, Line, OPERATOR};
use agentfs_core::{AgentName, ClaimId, RelPath, RunId, WorkUnit};
use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt as _};

type Answer<T> = Result<Json<T>, ServiceError>;

/// A body, decoded here rather than by axum, so that what is wrong is said in our own words.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ServiceError> {
    serde_json::from_slice(body).map_err(|error| ServiceError::BadRequest(error.to_string()))
}

/// A name or number from the path of the request.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, ServiceError> {
    text.parse().map_err(|error: T::Err| ServiceError::BadRequest(error.to_string()))
}

async fn ask<T: Send + 'static>(
    context: &Context,
    job: impl FnOnce(&mut Owner) -> Result<T, ServiceError> + Send + 'static,
) -> Answer<T> {
    context.service.ask(job).await.map(Json)
}

/// Runs what reads files apart from the owner and from tokio's own threads.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(ServiceError::Stopped))
}

impl Context {
    /// Finds conflicts that come, for an answer that tells of them.
    async fn look_for_conflicts(&self) -> Result<(), ServiceError> {
        let service = self.service.clone();
        blocking(move || service.look_for_conflicts()).await
    }

    /// The agent that a request speaks for: an agent only for itself.
    fn agent(&self, named: Option<AgentName>) -> Result<AgentName, ServiceError> {
        match (&self.caller, named) {
            (Caller::Operator, Some(agent)) => Ok(agent),
            (Caller::Operator, None) => parse(OPERATOR),
            (Caller::Agent(own), None) => Ok(own.clone()),
            (Caller::Agent(own), Some(agent)) if *own == agent => Ok(agent),
            (Caller::Agent(_), Some(_)) => Err(ServiceError::Forbidden("act for another agent")),
        }
    }
}

pub(super) async fn status(State(context): State<Context>) -> Answer<Status> {
    ask(&context, |owner| Ok(owner.status())).await
}

pub(super) async fn locks(State(context): State<Context>) -> Answer<Vec<Lock>> {
    ask(&context, |owner| Ok(owner.locks())).await
}

pub(super) async fn queue(State(context): State<Context>) -> Answer<Vec<Waiting>> {
    ask(&context, |owner| Ok(owner.queue())).await
}

pub(super) async fn agents(State(context): State<Context>) -> Answer<Vec<Agent>> {
    context.look_for_conflicts().await?;
    ask(&context, |owner| Ok(owner.agents())).await
}

pub(super) async fn runs(State(context): State<Context>) -> Answer<Vec<Run>> {
    ask(&context, |owner| Ok(owner.runs())).await
}

pub(super) async fn claim(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: axum::body::Bytes,
) -> Answer<Claimed> {
    let ClaimUnits { agent, wants, wait, cause, on_behalf } = decode(&body)?;
    let agent = context.agent(agent)?;
    if wants.is_empty() {
        return Err(ServiceError::BadRequest("name at least one unit to claim".to_owned()));
    }
    let by = match context.caller {
        Caller::Operator if !on_behalf => Asker::Operator,
        Caller::Operator | Caller::Agent(_) => Asker::Agent,
    };
    let mut request = asked_for(agent, wants, wait.map(|wait| wait.0), by);
    if let Some(cause) = cause {
        request.cause = in_one_line(&cause);
    }
    let leases = context.service.claim(request, move || peer.has_hung_up()).await?;
    Ok(Json(Claimed { leases }))
}

/// A cause that is part of sentences, at most this long.
const LONGEST_CAUSE: usize = 80;

fn in_one_line(cause: &str) -> String {
    let line: String = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= LONGEST_CAUSE {
        return line;
    }
    line.chars().take(LONGEST_CAUSE - 3).chain("...".chars()).collect()
}

pub(super) async fn release(
    State(context): State<Context>,
    body: axum::body::Bytes,
) -> Answer<Released> {
    let ReleaseUnit { agent, unit } = decode(&body)?;
    let named = match (&context.caller, agent) {
        (Caller::Operator, named) => named,
        (Caller::Agent(_), named) => Some(context.agent(named)?),
    };
    ask(&context, move |owner| owner.release(named, unit)).await
}

pub(super) async fn move_claim(
    State(context): State<Context>,
    Path(claim): Path<String>,
    body: axum::body::Bytes,
) -> Answer<()> {
    let claim: ClaimId = parse(&claim)?;
    let to = match decode(&body)? {
        MoveClaim::First => Line::First,
        MoveClaim::Before(other) => Line::Before(other),
        MoveClaim::Last => Line::Last,
    };
    ask(&context, move |owner| owner.move_claim(claim, to)).await
}

pub(super) async fn grant(
    State(context): State<Context>,
    Path(claim): Path<String>,
    body: axum::body::Bytes,
) -> Answer<Stolen> {
    let claim: ClaimId = parse(&claim)?;
    let GrantClaim { steal } = decode(&body)?;
    ask(&context, move |owner| owner.grant_by_hand(claim, steal)).await
}

pub(super) async fn refuse(
    State(context): State<Context>,
    Path(claim): Path<String>,
    body: axum::body::Bytes,
) -> Answer<()> {
    let claim: ClaimId = parse(&claim)?;
    let RefuseClaim { why } = decode(&body)?;
    ask(&context, move |owner| owner.refuse_claim(claim, why)).await
}

pub(super) async fn steal(
    State(context): State<Context>,
    body: axum::body::Bytes,
) -> Answer<Stolen> {
    let StealUnit { unit, to } = decode(&body)?;
    ask(&context, move |owner| owner.steal(unit, to)).await
}

pub(super) async fn check_plan(
    State(context): State<Context>,
    body: axum::body::Bytes,
) -> Answer<CheckedPlan> {
    let CheckPlan { agent, plan } = decode(&body)?;
    match &context.caller {
        Caller::Operator => ask(&context, move |owner| owner.check_plan(agent, &plan)).await,
        Caller::Agent(own) => {
            let own = own.clone();
            ask(&context, move |owner| owner.check_own_plan(&own, &plan)).await
        }
    }
}

pub(super) async fn planned(
    State(context): State<Context>,
    Path(run): Path<String>,
) -> Answer<PlannedRun> {
    let run: RunId = parse(&run)?;
    ask(&context, move |owner| owner.planned(run)).await
}

pub(super) async fn sync(
    State(context): State<Context>,
    body: axum::body::Bytes,
) -> Answer<Synced> {
    let SyncView { agent } = decode(&body)?;
    let agent = match (&context.caller, agent) {
        (Caller::Operator, None) => {
            return Err(ServiceError::BadRequest("say whose view to sync".to_owned()));
        }
        (_, agent) => context.agent(agent)?,
    };
    context.service.sync(agent).await.map(Json)
}

#[derive(Deserialize)]
pub(super) struct UntilFree {
    unit: String,
    timeout: Option<String>,
}

pub(super) async fn wait(
    State(context): State<Context>,
    Query(UntilFree { unit, timeout }): Query<UntilFree>,
) -> Answer<Freed> {
    let unit: WorkUnit = parse(&unit)?;
    let timeout: Option<Span> = timeout.as_deref().map(parse).transpose()?;
    let spared = match &context.caller {
        Caller::Operator => None,
        Caller::Agent(own) => Some(own.clone()),
    };
    context.service.until_free(unit, spared, timeout.map(|span| span.0)).await.map(Json)
}

#[derive(Deserialize)]
pub(super) struct About {
    path: Option<String>,
    agent: Option<String>,
}

pub(super) async fn explain(
    State(context): State<Context>,
    Query(about): Query<About>,
) -> Answer<Explanation> {
    let path: Option<RelPath> = about.path.as_deref().map(parse).transpose()?;
    let named = about.agent.as_deref().map(parse).transpose()?;
    let agent = match &context.caller {
        Caller::Operator => named,
        // About a path, an agent may hear who is in its way; about anything, only of itself.
        Caller::Agent(own) => path.is_none().then(|| own.clone()),
    };
    context.look_for_conflicts().await?;
    ask(&context, move |owner| owner.explain(path.as_ref(), agent.as_ref())).await
}

pub(super) async fn diff(
    State(context): State<Context>,
    Path(agent): Path<String>,
) -> Answer<Diff> {
    let agent = context.agent(Some(parse(&agent)?))?;
    context.look_for_conflicts().await?;
    let work = context.service.ask(move |owner| owner.work_of(&agent)).await?;
    let diff = blocking(move || {
        let changes = work.changes()?;
        let conflicts = work.conflicts(&changes)?;
        Ok(Diff { agent: work.agent, changes, conflicts })
    });
    diff.await.map(Json)
}

pub(super) async fn patch(
    State(context): State<Context>,
    Path(agent): Path<String>,
) -> Result<Vec<u8>, ServiceError> {
    let agent = context.agent(Some(parse(&agent)?))?;
    let work = context.service.ask(move |owner| owner.work_of(&agent)).await?;
    blocking(move || work.patch()).await
}

pub(super) async fn start_run(
    State(context): State<Context>,
    body: axum::body::Bytes,
) -> Answer<StartedRun> {
    let request: StartRun = decode(&body)?;
    // Apart from the request: a client that goes away must not leave a run that nobody watches.
    let started = tokio::spawn(begin_run(context, request)).await;
    started.unwrap_or(Err(ServiceError::Stopped)).map(Json)
}

async fn begin_run(context: Context, request: StartRun) -> Result<StartedRun, ServiceError> {
    let pid = request.pid;
    let (run, agent) = context.service.submit_run(request).await?;
    context.server.watch(run, pid);
    let started = context.service.begin_run(run, agent).await?;
    let ready = async {
        context.server.listen_for(&started.agent, started.run_as)?;
        context.service.warm(started.agent.clone()).await
    };
    if let Err(error) = ready.await {
        let run = started.run;
        context.service.end_run(run, Exit::NotStarted).await?;
        return Err(error);
    }
    Ok(started)
}

pub(super) async fn heartbeat(
    State(context): State<Context>,
    Path(run): Path<String>,
) -> Answer<()> {
    let run: RunId = parse(&run)?;
    ask(&context, move |owner| owner.heartbeat(run)).await
}

pub(super) async fn renew(State(context): State<Context>) -> Answer<Renewed> {
    let operator: AgentName = parse(OPERATOR)?;
    ask(&context, move |owner| owner.renew(operator)).await
}

pub(super) async fn note_process(
    State(context): State<Context>,
    Path(run): Path<String>,
    body: axum::body::Bytes,
) -> Answer<()> {
    let run: RunId = parse(&run)?;
    let NoteProcess { unit, began, pid } = decode(&body)?;
    ask(&context, move |owner| owner.note_process(run, unit, began, pid)).await
}

pub(super) async fn unmounted(
    State(context): State<Context>,
    Path(run): Path<String>,
    body: axum::body::Bytes,
) -> Answer<()> {
    let run: RunId = parse(&run)?;
    let Unmounted { directories } = decode(&body)?;
    ask(&context, move |owner| owner.unmounted(run, &directories)).await
}

pub(super) async fn end_run(
    State(context): State<Context>,
    Path(run): Path<String>,
    body: axum::body::Bytes,
) -> Answer<RunSummary> {
    let run: RunId = parse(&run)?;
    let EndRun { exit } = decode(&body)?;
    context.look_for_conflicts().await?;
    context.service.end_run(run, exit).await.map(Json)
}

pub(super) async fn radar(State(context): State<Context>) -> Answer<Vec<StaleRead>> {
    let own = match &context.caller {
        Caller::Operator => None,
        Caller::Agent(own) => Some(own.clone()),
    };
    let look = context.service.ask(move |owner| Ok(owner.look_at_reads(own.as_ref()))).await?;
    blocking(move || look.stale()).await.map(Json)
}

pub(super) async fn apply(
    State(context): State<Context>,
    Path(agent): Path<String>,
    body: axum::body::Bytes,
) -> Answer<Settled> {
    let agent: AgentName = parse(&agent)?;
    // Older clients send nothing.
    let ApplyChanges { stale } = match &*body {
        b"" | b"null" => ApplyChanges::default(),
        body => decode(body)?,
    };
    ask(&context, move |owner| owner.apply_agent(&agent, stale)).await
}

pub(super) async fn discard(
    State(context): State<Context>,
    Path(agent): Path<String>,
) -> Answer<Settled> {
    let agent: AgentName = parse(&agent)?;
    ask(&context, move |owner| owner.discard_agent(&agent)).await
}

pub(super) async fn recover(State(context): State<Context>) -> Answer<Vec<Recoverable>> {
    let pending = context.service.ask(|owner| Ok(owner.agents_at_rest())).await?;
    let mut found = Vec::new();
    for agent in pending {
        let work = context.service.ask(move |owner| owner.work_of(&agent)).await?;
        let (work, changes, conflicts) = blocking(move || {
            let changes = work.changes()?;
            let conflicts = work.conflicts(&changes)?;
            Ok((work, changes, conflicts))
        })
        .await?;
        if !changes.is_empty() {
            let entry = context
                .service
                .ask(move |owner| Ok(owner.recoverable(&work, &changes, &conflicts)));
            found.push(entry.await?);
        }
    }
    Ok(Json(found))
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

pub(super) async fn log(
    State(context): State<Context>,
    Query(After { after }): Query<After>,
) -> Answer<Vec<LogEntry>> {
    ask(&context, move |owner| owner.follow(after).map(|(past, _)| past)).await
}

pub(super) async fn log_stream(
    State(context): State<Context>,
    Query(After { after }): Query<After>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ServiceError> {
    let (past, live) = context.service.ask(move |owner| owner.follow(after)).await?;
    // A reader that falls so far behind that entries are lost to it is cut off, and can come back
    // with the last number that it saw.
    let live = BroadcastStream::new(live).map_while(Result::ok);
    let entries = tokio_stream::iter(past).chain(live);
    let events = entries.map(|entry| {
        let json = serde_json::to_string(&entry).unwrap_or_default();
        Ok(Event::default().id(entry.seq.to_string()).data(json))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
pub(super) struct HowHard {
    #[serde(default)]
    force: bool,
}

pub(super) async fn shut_down(
    State(context): State<Context>,
    Query(HowHard { force }): Query<HowHard>,
) -> Answer<()> {
    let stopped = ask(&context, move |owner| owner.stop(force)).await?;
    context.server.shut_down();
    Ok(stopped)
}
