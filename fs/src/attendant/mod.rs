//! The attendant: a process beside the daemon that *uses* the views from outside, because a
//! process that both serves and uses a FUSE mount can hang unkillably when it is killed.
//!
//! It is this same program (`agentfs attend`, started when it is first needed), has one thread, no
//! descriptor but its pipes, and two things to do: to walk a fresh view, so that the kernel has
//! names and attributes before the agent asks ([`walk`]); and to perform in a view what a sync has
//! brought, so that watchers (inotify) hear of it ([`announce`]). Nothing depends on it: without it
//! the first `git status` is slower and watchers hear less.
//!
//! This file is the daemon's end. What must hold:
//! - Nobody waits for the attendant but those who ask for it, and no longer than they say; the
//!   owner of the state never does.
//! - It is trusted ([`Trust`]) from its start until it is known to be dead, and its number is not
//!   given up before the trust is withdrawn.
//! - It ends with the daemon: by the end of its standard input, or by the signal that the kernel
//!   sends when the thread that started it ends, which lives as long as the daemon wants it.

pub(crate) mod announce;
mod protocol;
pub(crate) mod serve;
mod trust;
pub(crate) mod walk;

pub use protocol::{Happened, News};
pub use trust::Trust;

use crate::fuse::Announcing;
use crate::gate::Shift;
use protocol::{Done, Order, Warming, What, news_of};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most entries of a view that are warmed.
const MOST_ENTRIES: u64 = 200_000;
/// The longest that a walk goes on, also when nobody waits for it any more.
const LONGEST_WALK: Duration = Duration::from_secs(10);
/// The most names that one change announces: the kernel keeps no more events for a watcher.
const MOST_NEWS: usize = 8_192;

/// Which of a workspace's paths a walk leaves out.
#[derive(Clone, Debug)]
pub struct Skips {
    /// The workspace's real directory.
    pub base: PathBuf,
    /// The configuration's scratch patterns.
    pub scratch: Vec<String>,
}

enum Job {
    Warm(PathBuf, Skips),
    Announce(Announcing, Vec<Shift>),
}

/// Says when an order is done, by being dropped.
type Finished = Sender<u64>;

/// The daemon's attendant. Clones are the same one; it ends after the last is dropped.
#[derive(Clone)]
pub struct Attendant {
    jobs: Sender<(Job, Finished)>,
    trust: Trust,
}

/// Something that the attendant was asked to do.
#[derive(Debug)]
pub struct Underway(Receiver<u64>);

impl Underway {
    /// Waits until it is done, or can't be done, but no longer than `budget`. Says how many
    /// entries it was about, if it is done.
    pub fn wait(&self, budget: Duration) -> Option<u64> {
        self.0.recv_timeout(budget).ok()
    }
}

impl Attendant {
    /// An attendant that will be started when it is needed.
    pub fn new() -> io::Result<Self> {
        let (jobs, inbox) = channel();
        let trust = Trust::default();
        let keeper = Keeper { trust: trust.clone(), next: 0, hand: None };
        std::thread::Builder::new()
            .name("agentfs-attend".to_owned())
            .spawn(move || keeper.keep(&inbox))?;
        Ok(Self { jobs, trust })
    }

    /// By which views tell the attendant from agents.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Has the view at `mountpoint` walked once. Returns at once.
    pub fn warm(&self, mountpoint: &Path, skips: Skips) -> Underway {
        self.ask(Job::Warm(mountpoint.to_owned(), skips))
    }

    /// Has watchers in the view told of `shifts`. Returns at once.
    pub fn announce(&self, view: Announcing, shifts: Vec<Shift>) -> Underway {
        self.ask(Job::Announce(view, shifts))
    }

    fn ask(&self, job: Job) -> Underway {
        let (finished, told) = channel();
        // The thread ends only with the last handle.
        let _ = self.jobs.send((job, finished));
        Underway(told)
    }
}

/// The thread that starts the attendant and hands it its orders.
struct Keeper {
    trust: Trust,
    next: u64,
    hand: Option<Hand>,
}

/// An attendant that was started.
struct Hand {
    orders: ChildStdin,
    waiting: Arc<Waiting>,
}

/// Who waits for which order of one attendant.
#[derive(Default)]
struct Waiting {
    ended: AtomicBool,
    orders: Mutex<HashMap<u64, (Finished, Option<Announcing>)>>,
}

impl Waiting {
    fn orders(&self) -> MutexGuard<'_, HashMap<u64, (Finished, Option<Announcing>)>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, id: u64, count: u64) {
        if let Some((finished, view)) = self.orders().remove(&id) {
            if let Some(view) = view {
                view.expect_nothing(id);
            }
            // Whoever waited may have lost patience.
            let _ = finished.send(count);
        }
    }

    /// The attendant is dead: nobody waits any longer.
    fn give_up(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for (id, (_, view)) in self.orders().drain() {
            if let Some(view) = view {
                view.expect_nothing(id);
            }
        }
    }
}

impl Keeper {
    fn keep(mut self, inbox: &Receiver<(Job, Finished)>) {
        while let Ok((job, finished)) = inbox.recv() {
            self.next += 1;
            let Some((order, view)) = self.order(job) else { continue };
            if let Err(error) = self.hand_over(&order, &finished, view.as_ref()) {
                tracing::warn!(%error, "there is no attendant: views start cold, watchers hear less");
            }
        }
    }

    /// The order, and the view that expects what it will do; none if there is nothing to do.
    fn order(&self, job: Job) -> Option<(Order, Option<Announcing>)> {
        let id = self.next;
        match job {
            Job::Warm(mountpoint, skips) => {
                let what = What::Warm(Warming {
                    base: skips.base.as_os_str().as_bytes().to_vec(),
                    scratch: skips.scratch,
                    entries: MOST_ENTRIES,
                    millis: LONGEST_WALK.as_millis() as u64,
                });
                let mountpoint = mountpoint.as_os_str().as_bytes().to_vec();
                Some((Order { id, mountpoint, what }, None))
            }
            Job::Announce(view, shifts) => {
                let mut news = news_of(&shifts);
                news.truncate(MOST_NEWS);
                if news.is_empty() {
                    return None;
                }
                let mountpoint = view.mountpoint().as_os_str().as_bytes().to_vec();
                Some((Order { id, mountpoint, what: What::Announce(news) }, Some(view)))
            }
        }
    }

    /// Gives the order to the attendant; to a new one, if the present one is dead.
    fn hand_over(
        &mut self,
        order: &Order,
        finished: &Finished,
        view: Option<&Announcing>,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        for fresh in [false, true] {
            let hand = match self.hand.take().filter(|hand| !hand.is_dead()) {
                Some(hand) => self.hand.insert(hand),
                None => {
                    let started = start(&self.trust)?;
                    self.hand.insert(started)
                }
            };
            if let (Some(view), What::Announce(news)) = (view, &order.what) {
                view.expect(order.id, news);
            }
            hand.waiting.orders().insert(order.id, (finished.clone(), view.cloned()));
            match hand.orders.write_all(&line) {
                Ok(()) => break,
                Err(error) => {
                    hand.waiting.finish(order.id, 0);
                    self.hand = None;
                    if fresh {
                        return Err(error);
                    }
                }
            }
        }
        // It may have died before it was waited for.
        if let Some(hand) = self.hand.as_ref().filter(|hand| hand.is_dead()) {
            hand.waiting.give_up();
        }
        Ok(())
    }
}

impl Hand {
    fn is_dead(&self) -> bool {
        self.waiting.ended.load(Ordering::SeqCst)
    }
}

/// Starts an attendant, and a thread that hears what it says and sees it die.
fn start(trust: &Trust) -> io::Result<Hand> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("agentfs")
        .arg("attend")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    trust.give(child.id());
    let waiting = Arc::new(Waiting::default());
    let (Some(orders), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
        end(child, trust);
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (hears, trusted) = (waiting.clone(), trust.clone());
    let pid = child.id();
    std::thread::Builder::new()
        .name("agentfs-attended".to_owned())
        .spawn(move || hear(child, said, &hears, &trusted))?;
    tracing::debug!(pid, "started the attendant");
    Ok(Hand { orders, waiting })
}

fn hear(child: Child, said: ChildStdout, waiting: &Waiting, trust: &Trust) {
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Done { id, count }) => waiting.finish(id, count),
            Err(error) => tracing::warn!(%error, "the attendant said something odd"),
        }
    }
    end(child, trust);
    waiting.give_up();
}

/// Sees the attendant off. Its number is free for others only after it has been waited for.
fn end(mut child: Child, trust: &Trust) {
    trust.withdraw(child.id());
    // It has closed its pipe, so it is ending; if it is not, it is of no use any more.
    let _ = child.kill();
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "the attendant can't be waited for");
    }
}
