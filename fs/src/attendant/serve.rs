//! The attendant's own life (`agentfs attend`): orders in, walks and announcements, answers out.
//!
//! One thread, so that its thread number is its process number, by which views know it. A walk is
//! done directory by directory, and between two of them new orders are looked for: what is to be
//! announced never waits for a long walk.

use super::protocol::{Done, Order, What};
use super::{announce, walk::Walk};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Signal};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Serves the daemon until it closes the pipe, or dies.
pub(crate) fn serve() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Nobody but root has any business with it, also where agents are of the same user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Above all no descriptor of a view's device: it would keep the view alive without its daemon.
    // SAFETY: this process has one thread and has opened nothing but its standard streams.
    unsafe { close_fds::close_open_fds(3, &[]) };
    let mut orders = Orders::default();
    let mut walks: VecDeque<(u64, Walk)> = VecDeque::new();
    loop {
        match orders.next(walks.is_empty())? {
            Heard::End => return Ok(()),
            Heard::Order(order) => take(order, &mut walks)?,
            Heard::Nothing => {}
        }
        if let Some((id, walk)) = walks.front_mut()
            && !walk.step()
        {
            let done = Done { id: *id, count: walk.seen() };
            walks.pop_front();
            say(&done)?;
        }
    }
}

fn take(order: Order, walks: &mut VecDeque<(u64, Walk)>) -> io::Result<()> {
    let Order { id, mountpoint, what } = order;
    let mountpoint = Path::new(OsStr::from_bytes(&mountpoint));
    match what {
        What::Warm(warming) => match Walk::of(mountpoint, &warming) {
            Ok(walk) => walks.push_back((id, walk)),
            Err(_) => say(&Done { id, count: 0 })?,
        },
        What::Announce(news) => {
            say(&Done { id, count: announce::announce(mountpoint, &news) })?;
        }
    }
    Ok(())
}

fn say(done: &Done) -> io::Result<()> {
    let mut line = serde_json::to_vec(done)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

enum Heard {
    Order(Order),
    Nothing,
    End,
}

/// The standard input, cut into lines without waiting for more than there is.
#[derive(Default)]
struct Orders {
    read: Vec<u8>,
}

impl Orders {
    /// The next order; waits for one if `patient`.
    fn next(&mut self, patient: bool) -> io::Result<Heard> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Heard::Order(serde_json::from_slice(&line)?));
            }
            let stdin = rustix::stdio::stdin();
            if !patient {
                let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
                if poll(&mut ready, Some(&Timespec::default()))? == 0 {
                    return Ok(Heard::Nothing);
                }
            }
            self.read.reserve(1 << 16);
            let read = &mut self.read;
            if rustix::io::retry_on_intr(|| {
                rustix::io::read(stdin, rustix::buffer::spare_capacity(read))
            })? == 0
            {
                return Ok(Heard::End);
            }
        }
    }
}
