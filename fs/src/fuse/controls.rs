//! The files of `.agentfs/` that take orders: what is written into them is asked of the owner of
//! the state, and the write ends when that is answered. So the error is the write's own, which
//! shells print; one that came with the close they would not.

use super::answers::{answer_open, failed};
use super::{Adapter, writes};
use crate::gate::{Notice, Requester};
use crate::view::{FsError, View};
use fuser::{ReplyOpen, ReplyWrite};
use rustix::fs::OFlags;

impl Adapter {
    /// Opens a file of `.agentfs/`; its text is made by a worker, because that may take long.
    pub(super) fn open_virtual(&self, ino: u64, flags: OFlags, reply: ReplyOpen) {
        let Some(notice) = View::notice(ino) else {
            return reply.error(failed("open", FsError::IsDirectory));
        };
        if writes(flags) && !notice.takes_orders() {
            return reply.error(failed("open", FsError::Virtual));
        }
        let (view, kernel) = (self.view.clone(), self.kernel.clone());
        if flags & OFlags::ACCMODE == OFlags::WRONLY {
            return answer_open(reply, &kernel, &view, ino, Ok(view.open_for_orders()));
        }
        if notice == Notice::GitIgnore {
            return answer_open(reply, &kernel, &view, ino, Ok(view.open_notice(notice)));
        }
        self.asking.run(move || {
            answer_open(reply, &kernel, &view, ino, Ok(view.open_notice(notice)));
        });
    }

    /// Passes on what the thread `tid` has written; each write is an order of its own.
    pub(super) fn order(&self, tid: u32, ino: u64, text: &[u8], reply: ReplyWrite) {
        let Some(notice) = View::notice(ino).filter(|notice| notice.takes_orders()) else {
            return reply.error(failed("write", FsError::Virtual));
        };
        let written = text.len() as u32;
        let done = move |said: Result<(), crate::gate::Refusal>| match said {
            Ok(()) => reply.written(written),
            Err(refusal) => reply.error(failed("order", refusal.into())),
        };
        let is_dir = |path: &_| self.view.shows_dir(path);
        let requester = Requester { tid };
        self.view.gate().order(notice, text, &is_dir, requester, Box::new(done));
    }
}
