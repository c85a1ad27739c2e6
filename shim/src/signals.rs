//! The signals that the shim passes on, taken from a descriptor instead of by handlers.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};

/// Those that end a job, and the change of the window's size.
const TAKEN: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// The signals of this process, which act on it no more.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// One signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Whether the terminal sent it, to the whole foreground job, and not a process to this one.
    pub from_terminal: bool,
}

impl Signals {
    /// Takes the signals over. Call it before any thread is made: threads inherit it.
    pub fn take() -> nix::Result<Self> {
        let set: SigSet = TAKEN.into_iter().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// The next signal that has come, if any. Never blocks.
    pub fn next(&self) -> Option<Received> {
        let info = self.0.read_signal().ok().flatten()?;
        // SI_KERNEL: a key of the terminal, or its hangup.
        Some(Received {
            number: info.ssi_signo.cast_signed(),
            from_terminal: info.ssi_code == libc::SI_KERNEL,
        })
    }

    /// Does `work` on a thread of its own; if a signal that ends a job comes before it is done,
    /// gives that instead, and the caller must end the process.
    pub fn unless_interrupted<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Interrupted> {
        // The worker's end of the pipe is closed when it is done, however it ends.
        // Nobody else may hold that end, least of all a daemon that is started meanwhile.
        let pipe = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
        let Ok((done, working)) = pipe else { return Ok(work()) };
        let worker = std::thread::spawn(move || {
            let _working = working;
            work()
        });
        loop {
            let mut ready = [
                PollFd::new(self.as_fd(), PollFlags::POLLIN),
                PollFd::new(done.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
            let over = ready[1].any().unwrap_or(true);
            while let Some(signal) = self.next() {
                if signal.number != Signal::SIGWINCH as i32 {
                    return Err(Interrupted(signal.number));
                }
            }
            if over {
                break;
            }
        }
        match worker.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A signal came that ends this process; its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted(pub i32);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
