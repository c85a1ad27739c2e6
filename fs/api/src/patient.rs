//! A client for those who must be able to stop waiting: its calls are futures, and one that is
//! dropped closes its connection, by which a claim leaves the queue.

use crate::client::{ApiError, refused, transport, unsent, url};
use crate::locate::Workspace;
use crate::types::{ClaimUnits, Claimed, ErrorBody, Lock, ReleaseUnit, Released};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// A connection to one workspace's daemon, for the operator. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct PatientClient {
    http: reqwest::Client,
    /// What to call the workspace in errors.
    root: PathBuf,
}

impl PatientClient {
    /// A client of the daemon of `workspace`, whichever serves it when it is asked.
    pub fn of(workspace: &Workspace) -> Result<Self, ApiError> {
        if !workspace.runtime_dir_is_ours() {
            return Err(ApiError::NotOurs(workspace.runtime_dir.clone()));
        }
        let http = reqwest::Client::builder()
            .unix_socket(workspace.operator_socket())
            .no_proxy()
            // A connection that is kept may be one to a daemon that has died meanwhile.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| transport(&error))?;
        Ok(Self { http, root: workspace.root.clone() })
    }

    /// Claims units; done when they are granted or refused.
    pub async fn claim(&self, request: &ClaimUnits) -> Result<Claimed, ApiError> {
        self.receive(self.http.post(url("/v1/claims")).json(request)).await
    }

    /// Releases a unit.
    pub async fn release(&self, request: &ReleaseUnit) -> Result<Released, ApiError> {
        self.receive(self.http.post(url("/v1/release")).json(request)).await
    }

    /// All leases.
    pub async fn locks(&self) -> Result<Vec<Lock>, ApiError> {
        self.receive(self.http.get(url("/v1/locks"))).await
    }

    async fn receive<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ApiError> {
        let response = request.send().await.map_err(|error| unsent(&error, &self.root))?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(|error| transport(&error));
        }
        Err(refused(status, response.json::<ErrorBody>().await.ok()))
    }
}
