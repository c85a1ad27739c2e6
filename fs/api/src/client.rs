//! The blocking client of the control API: HTTP over the workspace's unix socket.

use crate::locate::{LocateError, Workspace};
use crate::types::{
    Agent, ApplyChanges, CheckPlan, CheckedPlan, ClaimUnits, Claimed, Diff, EndRun, ErrorBody,
    ErrorCode, Explanation, GrantClaim, Lock, LogEntry, MoveClaim, PlannedRun, Recoverable,
    RefuseClaim, ReleaseUnit, Released, Run, RunSummary, Settled, StaleRead, StartRun, StartedRun,
    Status, StealUnit, Stolen, SyncView, Synced, Unmounted, Waiting,
};
use agentfs_core::changeset::Conflict;
use agentfs_core::{AgentName, ClaimId, RelPath, RunId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No daemon listens on the socket.
    #[error("no daemon serves {}; start it with `agentfs mount {}`", .0.display(), .0.display())]
    NoDaemon(PathBuf),
    /// Somebody else could have put the socket there.
    #[error("{} belongs to another user; remove it, or set AGENTFS_RUNTIME_DIR to a directory of your own", .0.display())]
    NotOurs(PathBuf),
    /// The daemon could not be started.
    #[error("the daemon of {} could not be started: {why}", root.display())]
    Start {
        /// The workspace.
        root: PathBuf,
        /// What it said.
        why: String,
    },
    /// The daemon refused, with a reason.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: ErrorCode,
        /// One sentence.
        message: String,
        /// The paths in the way, where an apply met another base.
        conflicts: Vec<Conflict>,
    },
    /// The connection broke, or the answer was not understood.
    #[error("the daemon's answer did not arrive: {0}")]
    Transport(String),
    /// No workspace here.
    #[error(transparent)]
    Locate(#[from] LocateError),
}

/// A connection to one workspace's daemon. All calls block until the daemon has answered; those
/// that may wait in the queue block as long as the wait that they ask for.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::blocking::Client,
    /// What to call the workspace in errors.
    root: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Does not connect yet.
    pub fn on_socket(socket: &Path, root: &Path) -> Result<Self, ApiError> {
        let http = reqwest::blocking::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .timeout(None)
            .build()
            .map_err(|error| ApiError::Transport(error.to_string()))?;
        Ok(Self { http, root: root.to_owned() })
    }

    /// A client of the running daemon of `workspace`; [`ApiError::NoDaemon`] if none answers.
    pub fn connect(workspace: &Workspace) -> Result<Self, ApiError> {
        if !workspace.runtime_dir_is_ours() {
            return Err(ApiError::NotOurs(workspace.runtime_dir.clone()));
        }
        let client = Self::on_socket(&workspace.operator_socket(), &workspace.root)?;
        match client.status() {
            // A daemon that has just been killed still took the connection; now it does not.
            Err(ApiError::Transport(_)) => client.status()?,
            answer => answer?,
        };
        Ok(client)
    }

    /// Like [`Client::connect`], but starts the daemon first if none answers: runs the `agentfs`
    /// beside this program, else the one on `PATH`, and waits until it serves.
    pub fn connect_or_start(workspace: &Workspace) -> Result<Self, ApiError> {
        match Self::connect(workspace) {
            Err(ApiError::NoDaemon(_)) => match start_daemon(workspace) {
                Ok(()) => Self::connect(workspace),
                // Somebody else may have started it at the same time.
                Err(error) => Self::connect_soon(workspace).ok_or(error),
            },
            answer => answer,
        }
    }

    fn connect_soon(workspace: &Workspace) -> Option<Self> {
        (0..20).find_map(|_| {
            let client = Self::connect(workspace).ok();
            if client.is_none() {
                std::thread::sleep(Duration::from_millis(100));
            }
            client
        })
    }

    /// The daemon and its workspace.
    pub fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status")
    }

    /// All leases.
    pub fn locks(&self) -> Result<Vec<Lock>, ApiError> {
        self.get("/v1/locks")
    }

    /// All claims that wait, in the order in which they will be granted.
    pub fn queue(&self) -> Result<Vec<Waiting>, ApiError> {
        self.get("/v1/queue")
    }

    /// All agents, by name.
    pub fn agents(&self) -> Result<Vec<Agent>, ApiError> {
        self.get("/v1/agents")
    }

    /// All runs, oldest first.
    pub fn runs(&self) -> Result<Vec<Run>, ApiError> {
        self.get("/v1/runs")
    }

    /// The journal after entry `after` (0 for all).
    pub fn log(&self, after: u64) -> Result<Vec<LogEntry>, ApiError> {
        self.get(&format!("/v1/log?after={after}"))
    }

    /// The journal after entry `after`, and then each entry as it is written. The iterator ends
    /// when the daemon does, however that ends.
    pub fn follow_log(
        &self,
        after: u64,
    ) -> Result<impl Iterator<Item = Result<LogEntry, ApiError>> + use<>, ApiError> {
        let response = self.http.get(url(&format!("/v1/log/stream?after={after}"))).send();
        // A stream that breaks off is a daemon that was killed: there is no network in between.
        let lines = BufReader::new(self.accept(response)?).lines().map_while(Result::ok);
        // Server-sent events: each is one `data:` line, the others are keep-alives.
        Ok(lines.filter_map(|line| {
            let json = line.strip_prefix("data:")?;
            let entry = serde_json::from_str(json);
            Some(entry.map_err(|error| ApiError::Transport(error.to_string())))
        }))
    }

    /// What an agent has changed and not applied or discarded.
    pub fn diff(&self, agent: &AgentName) -> Result<Diff, ApiError> {
        self.get(&format!("/v1/agents/{agent}/diff"))
    }

    /// The same as a patch that `git apply` accepts.
    pub fn patch(&self, agent: &AgentName) -> Result<Vec<u8>, ApiError> {
        let response = self.http.get(url(&format!("/v1/agents/{agent}/patch"))).send();
        let body = self.accept(response)?.bytes();
        Ok(body.map_err(|error| transport(&error))?.to_vec())
    }

    /// What runs have read and others have changed since.
    pub fn radar(&self) -> Result<Vec<StaleRead>, ApiError> {
        self.get("/v1/radar")
    }

    /// Makes an agent's changes part of base.
    pub fn apply(&self, agent: &AgentName, how: ApplyChanges) -> Result<Settled, ApiError> {
        self.post(&format!("/v1/agents/{agent}/apply"), &how)
    }

    /// Drops an agent's changes.
    pub fn discard(&self, agent: &AgentName) -> Result<Settled, ApiError> {
        self.post(&format!("/v1/agents/{agent}/discard"), &())
    }

    /// Claims units; blocks until granted or refused.
    pub fn claim(&self, request: &ClaimUnits) -> Result<Claimed, ApiError> {
        self.post("/v1/claims", request)
    }

    /// Releases a unit.
    pub fn release(&self, request: &ReleaseUnit) -> Result<Released, ApiError> {
        self.post("/v1/release", request)
    }

    /// Gives a claim another place in the queue.
    pub fn move_claim(&self, claim: ClaimId, to: MoveClaim) -> Result<(), ApiError> {
        self.post(&format!("/v1/claims/{claim}/move"), &to)
    }

    /// Agrees to a claim, and grants it ahead of all others.
    pub fn grant(&self, claim: ClaimId, how: GrantClaim) -> Result<Stolen, ApiError> {
        self.post(&format!("/v1/claims/{claim}/grant"), &how)
    }

    /// Refuses a claim.
    pub fn refuse(&self, claim: ClaimId, why: &RefuseClaim) -> Result<(), ApiError> {
        self.post(&format!("/v1/claims/{claim}/refuse"), why)
    }

    /// Takes a unit from those who hold something of it.
    pub fn steal(&self, request: &StealUnit) -> Result<Stolen, ApiError> {
        self.post("/v1/steal", request)
    }

    /// What would happen if a run with this plan started now.
    pub fn check_plan(&self, request: &CheckPlan) -> Result<CheckedPlan, ApiError> {
        self.post("/v1/plan/check", request)
    }

    /// A run's plan against what it touched.
    pub fn planned(&self, run: RunId) -> Result<PlannedRun, ApiError> {
        self.get(&format!("/v1/runs/{run}/plan"))
    }

    /// Moves a live view to base's newest version: the named agent's or, on an agent's own socket,
    /// its own.
    pub fn sync(&self, agent: Option<&AgentName>) -> Result<Synced, ApiError> {
        self.post("/v1/sync", &SyncView { agent: agent.cloned() })
    }

    /// Why something waits or was refused: about one path, or about everything.
    pub fn explain(
        &self,
        path: Option<&RelPath>,
        agent: Option<&AgentName>,
    ) -> Result<Explanation, ApiError> {
        let mut query = Vec::new();
        query.extend(path.map(|path| ("path", path.to_string())));
        query.extend(agent.map(|agent| ("agent", agent.to_string())));
        self.receive(self.http.get(url("/v1/explain")).query(&query).send())
    }

    /// Work that is neither applied nor discarded.
    pub fn recoverable(&self) -> Result<Vec<Recoverable>, ApiError> {
        self.get("/v1/recover")
    }

    /// Registers a run; blocks until it is its turn and the units it must hold are granted.
    pub fn start_run(&self, request: &StartRun) -> Result<StartedRun, ApiError> {
        self.post("/v1/runs", request)
    }

    /// Says that a run lives.
    pub fn heartbeat(&self, run: RunId) -> Result<(), ApiError> {
        self.post(&format!("/v1/runs/{run}/heartbeat"), &())
    }

    /// Says which scratch directories of a run the view has to serve after all.
    pub fn unmounted(&self, run: RunId, what: &Unmounted) -> Result<(), ApiError> {
        self.post(&format!("/v1/runs/{run}/unmounted"), what)
    }

    /// Ends a run, and publishes its changes if the policy says so.
    pub fn end_run(&self, run: RunId, request: &EndRun) -> Result<RunSummary, ApiError> {
        self.post(&format!("/v1/runs/{run}/end"), request)
    }

    /// Asks the daemon to unmount all views and end. Refused while runs live, unless `force`.
    pub fn shut_down(&self, force: bool) -> Result<(), ApiError> {
        self.post(&format!("/v1/shutdown?force={force}"), &())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.receive(self.http.get(url(path)).send())
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.receive(self.http.post(url(path)).json(body).send())
    }

    fn receive<T: DeserializeOwned>(
        &self,
        response: reqwest::Result<reqwest::blocking::Response>,
    ) -> Result<T, ApiError> {
        self.accept(response)?.json().map_err(|error| transport(&error))
    }

    /// The response if it is a success, else the error that it carries.
    fn accept(
        &self,
        response: reqwest::Result<reqwest::blocking::Response>,
    ) -> Result<reqwest::blocking::Response, ApiError> {
        let response = response.map_err(|error| unsent(&error, &self.root))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        Err(refused(status, response.json::<ErrorBody>().ok()))
    }
}

/// Why there is no response at all.
pub(crate) fn unsent(error: &reqwest::Error, root: &Path) -> ApiError {
    if error.is_connect() { ApiError::NoDaemon(root.to_owned()) } else { transport(error) }
}

/// What a response says that is no success.
pub(crate) fn refused(status: reqwest::StatusCode, body: Option<ErrorBody>) -> ApiError {
    match body {
        Some(ErrorBody { code, message, conflicts }) => {
            ApiError::Refused { code, message, conflicts }
        }
        None => ApiError::Transport(format!("status {status} without a reason")),
    }
}

pub(crate) fn url(path: &str) -> String {
    format!("http://agentfs{path}")
}

/// The error with its causes: reqwest's own text names only the request.
pub(crate) fn transport(error: &reqwest::Error) -> ApiError {
    let causes = std::iter::successors(error.source(), |cause| (**cause).source());
    let text = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    ApiError::Transport(text)
}

/// Runs `agentfs mount ROOT`, which returns when it serves.
fn start_daemon(workspace: &Workspace) -> Result<(), ApiError> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("agentfs")));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| "agentfs".into());
    let failed = |why: String| ApiError::Start { root: workspace.root.clone(), why };
    let output = Command::new(&program)
        .arg("mount")
        .arg(&workspace.root)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.trim().trim_start_matches("agentfs: ").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_log_that_breaks_off_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert_ne!(stream.read(&mut request).unwrap(), 0);
            let event = "data: {\"seq\":1,\"at\":0,\"agent\":null,\"text\":\"x\",\"event\":{}}\n\n";
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            // Killed: no last chunk.
            write!(stream, "{head}{:x}\r\n{event}\r\n", event.len()).unwrap();
        });
        let client = Client::on_socket(&socket, Path::new("/w")).unwrap();
        let mut log = client.follow_log(0).unwrap();
        assert_eq!(log.next().unwrap().unwrap().seq, 1);
        daemon.join().unwrap();
        let after = log.next();
        assert!(after.is_none(), "{after:?}");
    }
}
