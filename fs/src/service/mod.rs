//! The owner of a workspace's state, and the way to reach it.
//!
//! One thread owns everything ([`owner::Owner`]): the state machine, the journal, the views. Who
//! wants something sends it a job ([`Service`]). It takes the jobs that have come in, applies
//! them one after the other, appends the events of all of them to the journal in one
//! transaction, and only then answers: what was answered is on disk. There are no locks around
//! the domain.
//!
//! What must never happen here: file system work of a view on the owner's thread (the FUSE side
//! does it when it is answered), and an answer before the commit.

mod delegation;
mod ending;
mod error;
mod gate;
mod git;
mod mounts;
mod orders;
mod owner;
mod plans;
mod publish;
mod queries;
mod radar;
mod report;
mod runs;
mod sync;
mod waiters;

pub use error::{NotRecorded, ServiceError};
pub use orders::asked_for;
pub use owner::{Owner, Setup};
pub use runs::LiveRun;

use agentfs_api::types::{Lock, RunSummary, StartRun, StartedRun};
use agentfs_core::machine::{ClaimRequest, Exit};
use agentfs_core::{AgentName, RunId, Want};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Something for the owner to do.
type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// The way to a workspace's owner. Clones reach the same one.
#[derive(Clone)]
pub struct Service {
    jobs: mpsc::Sender<Job>,
}

impl Service {
    /// Starts the owner's thread, which recovers what an earlier daemon left: returns when that
    /// is done. The thread ends when every `Service` is dropped or after [`Owner::stop`].
    pub fn start(setup: Setup) -> Result<Self, ServiceError> {
        let (jobs, inbox) = mpsc::channel();
        let service = Self { jobs };
        let mut owner = Owner::open(setup, service.clone())?;
        owner.recover()?;
        std::thread::Builder::new()
            .name("agentfs-owner".to_owned())
            .spawn(move || owner.run(&inbox))
            .map_err(ServiceError::io("start the owner's thread", "/"))?;
        Ok(service)
    }

    /// Has the owner do `job`, and returns what it says once the journal has it.
    pub async fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> Result<R, ServiceError> + Send + 'static,
    ) -> Result<R, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |owner| {
            let said = job(owner);
            owner.after_commit(move |kept| drop(reply.send(if_kept(kept, said))));
        }));
        answer.await.unwrap_or(Err(ServiceError::Stopped))
    }

    /// Like [`Service::ask`], for a thread that may block.
    pub fn ask_blocking<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> Result<R, ServiceError> + Send + 'static,
    ) -> Result<R, ServiceError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Box::new(move |owner| {
            let said = job(owner);
            owner.after_commit(move |kept| drop(reply.send(if_kept(kept, said))));
        }));
        answer.recv().unwrap_or(Err(ServiceError::Stopped))
    }

    /// Registers a run, and waits until it is its turn and it has the units it begins with. The
    /// run is alive from then on, and whoever asked has to begin it or to end it. While it waits
    /// it is given up when its process is gone, not when the future is dropped.
    pub async fn submit_run(&self, request: StartRun) -> Result<(RunId, AgentName), ServiceError> {
        let request = self.ask(move |owner| owner.run_request(request)).await?;
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |owner| owner.submit(request, reply)));
        answer.await.unwrap_or(Err(ServiceError::Stopped))
    }

    /// Serves the view of a run that has started. Looking for scratch in base may take long, so
    /// that is done while the owner serves others.
    pub async fn begin_run(
        &self,
        run: RunId,
        agent: AgentName,
    ) -> Result<StartedRun, ServiceError> {
        let whose = agent.clone();
        let (scratch, delta) = self.ask(move |owner| Ok(owner.fresh_scratch(&whose))).await?;
        let look = move || scratch.find(mounts::MOST, Some(delta.as_path()));
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.unwrap_or_default();
        self.ask(move |owner| owner.begin_run(run, agent, &found)).await
    }

    /// Ends a run, publishes its changes if the policy says so, and tells how it went. Reading
    /// what it changed may take long, so that is done while the owner serves others.
    pub async fn end_run(&self, run: RunId, exit: Exit) -> Result<RunSummary, ServiceError> {
        let look = self.ask(move |owner| owner.look_at_run(run)).await?;
        let seen = tokio::task::spawn_blocking(move || look.take()).await;
        let seen = seen.unwrap_or(None);
        self.ask(move |owner| owner.end_run(run, exit, seen)).await
    }

    /// Claims units and waits until they are granted or refused. If the future is dropped
    /// meanwhile, the claim leaves the queue.
    pub async fn claim(&self, request: ClaimRequest) -> Result<Vec<Lock>, ServiceError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(move |owner| owner.claim(request, reply)));
        answer.await.unwrap_or(Err(ServiceError::Stopped))
    }

    /// Sends a job without waiting. A job sent after the owner has ended is dropped, and with it
    /// whatever it would have answered.
    fn send(&self, job: Job) {
        drop(self.jobs.send(job));
    }
}

/// What was said, if the journal has it.
fn if_kept<R>(
    kept: Result<(), NotRecorded>,
    said: Result<R, ServiceError>,
) -> Result<R, ServiceError> {
    said.and_then(|said| kept.map(|()| said).map_err(ServiceError::from))
}

/// What a claim is for as a list for people.
fn list(wants: &[Want]) -> String {
    wants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
