//! The wait before a run starts: asking the daemon for the run, and telling the user meanwhile what
//! it waits for.

use agentfs_api::types::{StartRun, StartedRun};
use agentfs_api::{ApiError, Client, Workspace};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often the queue is looked at. Most runs start before the first look.
const LOOK: Duration = Duration::from_millis(500);

/// Registers the run; blocks until it has started. With `tells`, what it waits for is written to
/// standard error, a line whenever that changes. A daemon that is killed meanwhile is replaced,
/// and asked again: the run then stands at the end of the queue.
pub fn start(
    workspace: &Workspace,
    request: &StartRun,
    tells: bool,
) -> Result<(Client, StartedRun), ApiError> {
    let client = Client::connect_or_start(workspace)?;
    let (done, ends) = mpsc::channel::<()>();
    let watched = client.clone();
    let process = request.pid;
    let teller = std::thread::spawn(move || tell(&watched, process, tells, &ends));
    let started = client.start_run(request);
    drop(done);
    let waited = teller.join().unwrap_or_default();
    match started {
        // It was in the queue, so the daemon has not refused it, but ended.
        Err(ApiError::NoDaemon(_) | ApiError::Transport(_)) if waited => {
            start(workspace, request, tells)
        }
        started => started.map(|started| (client, started)),
    }
}

/// Looks at the queue until `ends` is closed; says whether the run was ever in it.
fn tell(client: &Client, process: u32, tells: bool, ends: &mpsc::Receiver<()>) -> bool {
    let mut told = None;
    while ends.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let queue = client.queue().unwrap_or_default();
        let Some(own) = queue.into_iter().find(|claim| claim.process == Some(process)) else {
            continue;
        };
        let behind: Vec<_> =
            own.blockers.iter().map(|b| (b.agent.clone(), b.unit.clone())).collect();
        let now = Some((own.position, behind, own.why.len()));
        if told != now {
            told = now;
            if tells {
                let why = own.why.first().map_or("it starts at any moment", String::as_str);
                let run = own.run.map(|run| run.to_string()).unwrap_or_default();
                let (agent, place) = (&own.agent, own.position);
                anstream::eprintln!(
                    "agentshim: {agent} ({run}) waits to start, number {place} in line: {why}"
                );
            }
        }
    }
    told.is_some()
}
