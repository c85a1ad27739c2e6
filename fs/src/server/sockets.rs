//! The sockets that are listened on, and the processes that are watched.

use super::peer::Peer;
use super::{Caller, Context, router};
use crate::layout;
use crate::service::{Service, ServiceError};
use agentfs_api::Workspace;
use agentfs_core::machine::Exit;
use agentfs_core::{AgentName, RunId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// When to try again to record the end of a run that the journal had no place for.
const RECORD_AGAIN: Duration = Duration::from_secs(2);

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket could not be made.
    #[error("can't listen on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The owner failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// The running server. Clones are the same one.
#[derive(Clone)]
pub struct Server {
    service: Service,
    workspace: Workspace,
    listening: Arc<Mutex<BTreeSet<AgentName>>>,
    /// Becomes true when the server is to end.
    ended: Arc<watch::Sender<bool>>,
}

impl Server {
    /// Listens on the operator's socket, and watches the processes of the runs that live.
    pub async fn start(service: Service, workspace: Workspace) -> Result<Self, ServerError> {
        let ended = Arc::new(watch::channel(false).0);
        let server = Self { service, workspace, listening: Arc::default(), ended };
        let socket = server.workspace.operator_socket();
        server.listen(&socket, Caller::Operator)?;
        for live in server.service.ask(|owner| Ok(owner.live_runs())).await? {
            server.watch(live.run, live.process);
            if let Err(error) = server.listen_for(&live.agent, live.run_as) {
                tracing::error!(agent = %live.agent, %error, "its socket is not served again");
            }
        }
        Ok(server)
    }

    /// Waits until somebody asks the server to end.
    pub async fn ended(&self) {
        // The sender lives in `self`, so this can't fail.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// Ends the server: open requests are still answered.
    pub fn shut_down(&self) {
        self.ended.send_replace(true);
    }

    /// Listens on an agent's socket, which belongs to the user that the agent runs as.
    pub fn listen_for(
        &self,
        agent: &AgentName,
        run_as: Option<(u32, u32)>,
    ) -> Result<(), ServiceError> {
        let socket = self.workspace.agent_socket(agent);
        let listening = || self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let new = listening().insert(agent.clone());
        if new {
            let dir = socket.parent().unwrap_or(Path::new("/"));
            layout::make_private(dir).map_err(ServiceError::io("make the directory", dir))?;
            let listens = self.listen(&socket, Caller::Agent(agent.clone()));
            if let Err(ServerError::Listen { path, source }) = listens {
                listening().remove(agent);
                return Err(ServiceError::Io { what: "listen on", path, source });
            }
        }
        if let Some(user) = run_as {
            let given = layout::give(&socket, user);
            given.map_err(ServiceError::io("give the agent", &socket))?;
        }
        Ok(())
    }

    fn listen(&self, socket: &Path, caller: Caller) -> Result<(), ServerError> {
        let failed = |source| ServerError::Listen { path: socket.to_owned(), source };
        // A socket that an earlier daemon left; the workspace's lock says that it is dead.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(failed)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let context = Context { service: self.service.clone(), caller, server: self.clone() };
        let server = self.clone();
        tokio::spawn(async move {
            let service = router(context).into_make_service_with_connect_info::<Peer>();
            let serving = axum::serve(listener, service);
            tokio::select! {
                Err(error) = serving => tracing::error!(%error, "a socket is served no more"),
                () = server.ended() => {}
            }
        });
        Ok(())
    }

    /// Ends `run` as lost when the process `pid` ends without having said how the run went.
    pub fn watch(&self, run: RunId, pid: u32) {
        let service = self.service.clone();
        tokio::spawn(async move {
            let ended = tokio::task::spawn_blocking(move || wait_for_end(pid)).await;
            if ended.is_err() {
                return;
            }
            let mut lost = service.end_run(run, Exit::Lost).await;
            while let Err(ServiceError::NotRecorded(_)) = lost {
                tokio::time::sleep(RECORD_AGAIN).await;
                lost = service.end_run(run, Exit::Lost).await;
            }
            match lost {
                Ok(_) => tracing::warn!(%run, "the shim vanished; the run is lost"),
                // It said before how the run ended, or the daemon ends.
                Err(ServiceError::Rejected(_) | ServiceError::Stopped) => {}
                Err(error) => tracing::error!(%run, %error, "a lost run could not be ended"),
            }
        });
    }
}

/// Returns when the process has ended; at once if there is none, or if it can't be watched.
/// Blocks its thread as long as the process lives.
fn wait_for_end(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // A pidfd becomes readable when its process ends (pidfd_open(2)).
    let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
    while let Err(Errno::INTR) = poll(&mut ends, None) {}
}
