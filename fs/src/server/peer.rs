//! The other end of a connection.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::net::UnixListener;

/// The process that has connected, as long as the connection is there.
#[derive(Clone, Debug)]
pub struct Peer(Option<Arc<OwnedFd>>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::at(stream.io())
    }
}

impl Peer {
    fn at(socket: &impl AsFd) -> Self {
        // Without a descriptor left it is heard of a moment later, when its request is dropped.
        Self(socket.as_fd().try_clone_to_owned().ok().map(Arc::new))
    }

    /// Whether it has closed the connection. True from the moment of that on, and so before
    /// anything that it asks for by another connection afterwards.
    pub fn has_hung_up(&self) -> bool {
        let Some(socket) = &self.0 else { return false };
        let mut ends = [PollFd::new(socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut ends, Some(&now)).is_ok() && ends[0].revents().contains(PollFlags::HUP)
    }
}

#[cfg(test)]
mod tests {
    use super::Peer;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_has_hung_up_is_known_at_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::at(&ours);
        assert!(!peer.has_hung_up());
        drop(theirs);
        assert!(peer.has_hung_up());
    }
}
