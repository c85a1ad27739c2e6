//! What becomes of an exec that is a named process: it is held until its units are granted.
//!
//! It is held in the kernel, before it has happened, so that a refusal is an exec that fails with
//! EBUSY. Where its parent can't do anything meanwhile it is held like that for a moment only;
//! then it happens, and the process is stopped before its first instruction. Such a one can't be
//! refused any more, and is ended by SIGALRM.

use super::caller::{self, Caller};
use super::sys::{self, Listener};
use super::tidings::{Teller, Tiding};
use super::units::{TreeId, Turn, Units};
use agentfs_api::types::{ClaimUnits, NoteProcess, ReleaseUnit};
use agentfs_api::{ApiError, PatientClient};
use agentfs_core::{AgentName, Mode, RunId, Want, WorkUnit, explain};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, sleep_until, timeout};

/// How long a parent that waits for the exec is made to wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often a process that was stopped is looked at: whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// Between two tries to reach a daemon that has died.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How long after its deadline the daemon's answer is waited for.
const GRACE: Duration = Duration::from_secs(2);

/// How long a refusal may take to be written before the process hears of it.
const TELLING: Duration = Duration::from_millis(100);

/// How long looking at a file may take.
const LOOKING: Duration = Duration::from_secs(1);

/// An exec that is a named process.
#[derive(Debug)]
pub struct Exec {
    /// By this it is answered.
    pub id: u64,
    /// The thread that wants it.
    pub thread: Pid,
    /// The program's path.
    pub program: Vec<u8>,
    /// The command, for people.
    pub command: String,
    /// The command line, for the journal.
    pub argv: Vec<String>,
    /// What it needs, and how long it may wait for each.
    pub units: Vec<(WorkUnit, Mode, Duration)>,
}

/// All that the execs of a run have in common.
pub struct Holder {
    pub listener: Arc<Listener>,
    pub client: PatientClient,
    pub agent: AgentName,
    pub run: RunId,
    /// The process whose child is the sandbox's first.
    pub inner: Pid,
    pub units: RefCell<Units>,
    /// Some unit is free, or shared.
    pub changed: Notify,
    /// What the daemon is to hear.
    pub teller: Teller,
}

/// Why an exec is refused, in a sentence.
struct Refusal(String);

impl Holder {
    /// Holds the exec until it is decided, and its units until all that came from it has ended.
    pub async fn hold(self: Rc<Self>, exec: Exec) {
        let caller = match Caller::of(exec.thread) {
            // Else its number may be another's by now, and nobody waits for an answer.
            Ok(caller) if self.listener.still_waits(exec.id) => caller,
            Ok(_) => return,
            Err(error) => return self.fail(&exec, &error),
        };
        let inside = sys::mark_of(caller.pid);
        let is_needed =
            |(unit, ..): &&(WorkUnit, Mode, Duration)| !self.units.borrow().has(inside, unit);
        let needed: Vec<_> = exec.units.iter().filter(is_needed).cloned().collect();
        if needed.is_empty() || !is_executable(&exec).await {
            return self.listener.let_go(exec.id);
        }
        let tree = self.units.borrow_mut().plant(inside, &exec.command, Instant::now());
        let mut slots = Slots { holder: self.clone(), tree, units: Vec::new() };
        let Some(namespace) = caller::pid_namespace(caller.pid) else {
            return self.fail(&exec, &io::ErrorKind::NotFound.into());
        };
        match self.wait(&exec, &caller, &needed, &mut slots).await {
            Ok(Outcome::Granted { stopped }) => {
                self.teller.begun(tree, &slots.units, &exec.argv, caller.pid);
                self.begin(&exec, &caller, tree, stopped);
                self.until_fallen(tree, caller.process, &namespace).await;
                // Before the units are given back, so that the journal has it in this order.
                self.teller.ended(tree);
                tracing::info!(command = exec.command, "a named process has ended");
            }
            Ok(Outcome::Gone) => {}
            Err(error) => self.fail(&exec, &error),
        }
    }

    /// What can't be held must not run: there may be no descriptors left. Or it has ended.
    fn fail(&self, exec: &Exec, error: &io::Error) {
        tracing::error!(%error, command = exec.command, "a named process can't be held");
        self.listener.refuse(exec.id, Errno::EAGAIN);
    }

    /// Marks the process and lets it run.
    fn begin(&self, exec: &Exec, caller: &Caller, tree: TreeId, stopped: bool) {
        let (pid, command) = (caller.pid.as_raw(), &exec.command);
        if let Err(error) = sys::mark(caller.pid, tree) {
            tracing::warn!(%error, pid, command, "a named process can't be followed");
        }
        tracing::info!(pid, command, "a named process begins");
        if stopped {
            caller.resume();
        } else {
            self.listener.let_go(exec.id);
        }
    }

    /// Waits for the units, and answers the exec if they are refused.
    async fn wait(
        &self,
        exec: &Exec,
        caller: &Caller,
        needed: &[(WorkUnit, Mode, Duration)],
        slots: &mut Slots,
    ) -> io::Result<Outcome> {
        let begun = tokio::time::Instant::now();
        let process = sys::awaited(caller.process.try_clone()?)?;
        let is_init = |parent: &procfs::process::Stat| parent.ppid == self.inner.as_raw();
        let impatient = caller.keeps_its_parent_waiting(is_init);
        let mut stopped = false;
        let acquired = {
            let mut acquiring = pin!(self.acquire(exec, needed, slots));
            loop {
                tokio::select! {
                    biased;
                    acquired = &mut acquiring => break acquired,
                    _ = process.readable() => return Ok(Outcome::Gone),
                    () = sleep_until(begun + PATIENCE), if impatient && !stopped => {
                        caller.stop_after_exec();
                        self.listener.let_go(exec.id);
                        stopped = true;
                    }
                    () = sleep(LOOK), if stopped => caller.keep_stopped(),
                }
            }
        };
        let Err(Refusal(why)) = acquired else { return Ok(Outcome::Granted { stopped }) };
        let (told, hears) = oneshot::channel();
        caller.tell(format!("agentfs: {why}\n"), told);
        let _ = timeout(TELLING, hears).await;
        if stopped {
            caller.end();
        } else {
            self.listener.refuse(exec.id, Errno::EBUSY);
        }
        Ok(Outcome::Gone)
    }

    /// Gets one unit after the other, in the order of their names, so that no two trees wait for
    /// one another.
    async fn acquire(
        &self,
        exec: &Exec,
        needed: &[(WorkUnit, Mode, Duration)],
        slots: &mut Slots,
    ) -> Result<(), Refusal> {
        let begun = Instant::now();
        for (unit, mode, wait) in needed {
            let deadline = begun + *wait;
            let asks = self.turn(slots.tree, unit, *mode, deadline).await?;
            slots.units.push(unit.clone());
            if asks {
                let ours = self.claim(exec, unit, *mode, deadline).await?;
                self.units.borrow_mut().settle(slots.tree, unit, ours);
                self.changed.notify_waiters();
            }
        }
        Ok(())
    }

    /// Waits until no other tree of this run is in the way; whether the daemon is to be asked.
    async fn turn(
        &self,
        tree: TreeId,
        unit: &WorkUnit,
        mode: Mode,
        deadline: Instant,
    ) -> Result<bool, Refusal> {
        let begun = Instant::now();
        loop {
            let changed = self.changed.notified();
            let turn = self.units.borrow_mut().take(tree, unit, mode);
            match turn {
                Turn::Ask => return Ok(true),
                Turn::Joined => return Ok(false),
                Turn::Wait => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if timeout(left, changed).await.is_err() {
                return Err(self.busy_here(unit, begun));
            }
        }
    }

    /// The sentence about another tree of the same run.
    fn busy_here(&self, unit: &WorkUnit, begun: Instant) -> Refusal {
        let agent = &self.agent;
        let after = explain::span(begun.elapsed());
        let units = self.units.borrow();
        let who = units.in_the_way(unit).map_or_else(String::new, |(command, since)| {
            let held = explain::span(since.elapsed());
            format!(
                ": `{command}` of the same run has held it for {held}; wait for its end, or end it"
            )
        });
        Refusal(format!("{agent} was refused {unit} with EBUSY after waiting {after}{who}"))
    }

    /// Claims the unit from the daemon, also from one that takes over from another. Whether the
    /// agent did not have it before.
    async fn claim(
        &self,
        exec: &Exec,
        unit: &WorkUnit,
        mode: Mode,
        deadline: Instant,
    ) -> Result<bool, Refusal> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left + GRACE, self.try_claim(exec, unit, mode, left)).await {
                Ok(Ok(ours)) => return Ok(ours),
                Ok(Err(ApiError::NoDaemon(_) | ApiError::Transport(_))) if !left.is_zero() => {
                    sleep(TRY_AGAIN).await;
                }
                Ok(Err(error)) => return Err(Refusal(error.to_string())),
                Err(_) => {
                    let agent = &self.agent;
                    return Err(Refusal(format!(
                        "{agent} was refused {unit} with EBUSY: the daemon does not answer; see `agentfs status`"
                    )));
                }
            }
        }
    }

    async fn try_claim(
        &self,
        exec: &Exec,
        unit: &WorkUnit,
        mode: Mode,
        wait: Duration,
    ) -> Result<bool, ApiError> {
        let locks = self.client.locks().await?;
        let before = locks.iter().any(|lock| lock.agent == self.agent && lock.unit == *unit);
        let request = ClaimUnits {
            agent: Some(self.agent.clone()),
            wants: vec![Want { unit: unit.clone(), mode }],
            wait: Some(agentfs_core::config::Span(wait)),
            cause: Some(exec.command.clone()),
            // The policy speaks of what agents run, not of who tells.
            on_behalf: true,
        };
        self.client.claim(&request).await.map(|_| !before)
    }

    /// Waits until every process of the tree has ended, `first` before the others.
    async fn until_fallen(&self, tree: TreeId, first: OwnedFd, namespace: &OsString) {
        let mut living = vec![first];
        let mut looks = 0;
        // Twice: one may have forked behind the look's back, and ended before it.
        while looks < 2 {
            for process in living {
                if let Ok(process) = sys::awaited(process) {
                    // An error is a process that can't be waited for, and is looked at again.
                    let _ = process.readable().await;
                }
            }
            let is_in = |mark| self.units.borrow().is_in(mark, tree);
            living = caller::marked(namespace, is_in);
            looks = if living.is_empty() { looks + 1 } else { 0 };
        }
    }

    /// Tells the daemon all that it is to hear, one after the other, until the run has ended.
    pub async fn tell(&self, mut tidings: UnboundedReceiver<Tiding>) {
        while let Some(tiding) = tidings.recv().await {
            match tiding {
                Tiding::Process(note) => self.note(&note).await,
                Tiding::Returned(unit) => self.give_back(unit).await,
                Tiding::RunEnded => break,
            }
        }
        let ours = self.units.borrow().ours();
        for unit in ours {
            self.give_back(unit).await;
        }
    }

    /// Has the journal know of a named process.
    async fn note(&self, note: &NoteProcess) {
        loop {
            match self.client.note_process(self.run, note).await {
                Err(ApiError::NoDaemon(_) | ApiError::Transport(_)) => sleep(TRY_AGAIN).await,
                Err(error) => return tracing::warn!(%error, "a named process is not journaled"),
                Ok(()) => return,
            }
        }
    }

    /// Gives a unit back, to a daemon that may be another one by now.
    async fn give_back(&self, unit: WorkUnit) {
        let request = ReleaseUnit { agent: Some(self.agent.clone()), unit: unit.clone() };
        // Any other refusal: it never was held, or the operator has taken it.
        while let Err(ApiError::NoDaemon(_) | ApiError::Transport(_)) =
            self.client.release(&request).await
        {
            sleep(TRY_AGAIN).await;
        }
        self.units.borrow_mut().gone(&unit);
        self.changed.notify_waiters();
    }
}

/// How a wait ended.
enum Outcome {
    /// The units are there.
    Granted {
        /// The exec has happened, and the process is stopped.
        stopped: bool,
    },
    /// The process has ended, or has been refused.
    Gone,
}

/// Units that a tree has or asks for. Dropped, it leaves them.
struct Slots {
    holder: Rc<Holder>,
    tree: TreeId,
    units: Vec<WorkUnit>,
}

impl Drop for Slots {
    fn drop(&mut self) {
        for unit in std::mem::take(&mut self.units) {
            // Also a claim that was given up: it may have been granted just before.
            if self.holder.units.borrow_mut().leave(self.tree, &unit) {
                self.holder.teller.returned(unit);
            }
        }
        self.holder.units.borrow_mut().fell(self.tree);
        self.holder.changed.notify_waiters();
    }
}

async fn is_executable(exec: &Exec) -> bool {
    let (thread, program) = (exec.thread, exec.program.clone());
    let look = tokio::task::spawn_blocking(move || Caller::is_executable(thread, &program));
    // A file system that does not answer has the exec wait, not this.
    !matches!(timeout(LOOKING, look).await, Ok(Ok(false)))
}
