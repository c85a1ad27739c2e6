//! What the outer process and the sandbox's init say to one another, over a socket pair that no
//! other process ever holds. One packet is one message, with at most one descriptor.

use agentfs_core::RelPath;
use agentfs_core::machine::Exit;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// From the outer process to init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// The terminal is ready: start the command.
    Start,
    /// Send this signal to the command.
    Signal(i32),
    /// The user has resumed the job.
    Resume,
}

/// From init to the outer process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// No sandbox, and why.
    Failed(String),
    /// This scratch directory is not mounted, and why: the view serves it.
    Unmounted(RelPath, String),
    /// No more of these will come.
    AllMounted,
    /// The master of the sandbox's terminal comes with this message.
    Terminal,
    /// What hears of every exec comes with this message, from the process that becomes the command.
    Execs,
    /// The command's file could not be executed: the errno.
    NotExecuted(i32),
    /// The command's job was stopped, as by Ctrl-Z.
    Stopped,
    /// The command has ended, and with it everything in the sandbox.
    Ended(Exit),
}

/// The longest message; all are a few bytes but for the sentence of a failure and for a path, each
/// byte of which may take four.
const LONGEST: usize = 32 * 1024;

/// One end of the connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two ends, both closed on exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// The end that this process was started with.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message.
    pub fn send(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.truncate(LONGEST);
        let fds = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
        let rights: Vec<ControlMessage<'_>> = rights.into_iter().collect();
        let data = [IoSlice::new(&bytes)];
        sendmsg::<()>(self.0.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Receives one message; none when the other end is closed. Blocks.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut data = [IoSliceMut::new(&mut bytes)];
        let message = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut data, Some(&mut space), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let mut received = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for fd in fds {
                    // SAFETY: the kernel has just made this descriptor for us and nobody else
                    // knows of it.
                    received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        let length = message.bytes;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..length])?, received)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_keep_their_borders_and_carry_descriptors() {
        let (here, there) = Channel::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        here.send(&FromInit::Terminal, Some(reader.as_fd())).unwrap();
        here.send(&FromInit::Ended(Exit::Code(7)), None).unwrap();
        drop((here, reader));
        let (first, fd) = there.receive::<FromInit>().unwrap().unwrap();
        assert_eq!(first, FromInit::Terminal);
        std::fs::File::from(writer).write_all(b"x").unwrap();
        let mut text = String::new();
        std::fs::File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let (second, fd) = there.receive::<FromInit>().unwrap().unwrap();
        assert_eq!((second, fd.is_none()), (FromInit::Ended(Exit::Code(7)), true));
        assert!(there.receive::<FromInit>().unwrap().is_none());
    }
}
