//! Finding the daemon: by the sandbox's socket, else by the workspace.

use crate::cli::Global;
use crate::error::Error;
use agentfs_api::types::SOCKET_VARIABLE;
use agentfs_api::{ApiError, Client, Workspace};
use std::path::PathBuf;

/// A daemon that answers, and the workspace that it serves.
#[derive(Debug)]
pub struct Session {
    /// Where to ask.
    pub client: Client,
    /// What is asked about.
    pub workspace: Workspace,
    /// Where the user stands.
    pub cwd: PathBuf,
}

impl Session {
    /// Connects. A daemon that has served this workspace before is started again where none
    /// runs: its answers come from the journal, so there is something to ask about.
    pub fn open(global: &Global) -> Result<Self, Error> {
        let cwd = std::env::current_dir().map_err(Error::CurrentDir)?;
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        match (&global.workspace, socket) {
            (Some(dir), _) => Self::of_workspace(Workspace::containing(dir)?, cwd),
            (None, Some(socket)) => Self::of_socket(PathBuf::from(socket), cwd),
            (None, None) => Self::of_workspace(Workspace::containing(&cwd)?, cwd),
        }
    }

    fn of_workspace(workspace: Workspace, cwd: PathBuf) -> Result<Self, Error> {
        let client = match Client::connect(&workspace) {
            Err(ApiError::NoDaemon(_)) if workspace.has_state() => {
                Client::connect_or_start(&workspace)?
            }
            Err(ApiError::NoDaemon(root)) => return Err(Error::NeverUsed(root)),
            answer => answer?,
        };
        Ok(Self { client, workspace, cwd })
    }

    /// Inside a sandbox only the daemon knows which directory is the root: a repository within
    /// the workspace would look like one.
    fn of_socket(socket: PathBuf, cwd: PathBuf) -> Result<Self, Error> {
        let client = Client::on_socket(&socket, &cwd)?;
        let root = match client.status() {
            Err(ApiError::NoDaemon(_)) => return Err(Error::DeadSocket(socket)),
            status => status?.root,
        };
        Ok(Self { client, workspace: Workspace::at(&root)?, cwd })
    }
}
