//! A few threads for what must not hold up a thread that serves the kernel: copying a file up
//! after the gate's answer, texts of `.agentfs/`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end, when their work is done, after the last handle on them is dropped.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    jobs: Sender<Job>,
}

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        let queue: Arc<Mutex<Receiver<Job>>> = Arc::new(Mutex::new(queue));
        for index in 0..count {
            let queue = queue.clone();
            Builder::new().name(format!("{name}-{index}")).spawn(move || {
                while let Some(job) = next(&queue) {
                    job();
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Has `job` done by one of them, as soon as one is free. A job that can't be queued any more
    /// is dropped, which answers the kernel's request with an error.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
