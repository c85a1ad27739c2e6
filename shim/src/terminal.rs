//! The user's terminal: raw while a command has a terminal of its own inside, restored in any
//! case, and the bytes between the two.

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Whether the command needs a terminal of its own: the user's input and output both are one.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The user's terminal in raw mode; dropped, it is as it was.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Makes the terminal of standard input raw, so that every key reaches the command.
    pub fn enter() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let guard = Self { before };
        guard.again()?;
        Ok(guard)
    }

    /// What the terminal's settings were.
    pub fn before(&self) -> &Termios {
        &self.before
    }

    /// Raw again, after [`RawMode::suspend`].
    pub fn again(&self) -> nix::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)
    }

    /// As it was, for as long as the user's shell has the terminal.
    pub fn suspend(&self) -> nix::Result<()> {
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to restore.
        let _ = self.suspend();
    }
}

/// Gives the terminal behind `to` the size of the one behind `from`.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize into `size`, which lives as long as the call.
    if unsafe { libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel reads one winsize from `size`, which lives as long as the call.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The master of the sandbox's terminal, with what the user has typed and it has not yet taken.
#[derive(Debug)]
pub struct Relay {
    master: OwnedFd,
    typed: Vec<u8>,
    /// Whether the user's terminal still gives something.
    input_open: bool,
    /// Whether the sandbox's terminal still gives something.
    output_open: bool,
}

impl Relay {
    /// A relay between the standard streams and `master`.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        // A command that does not read must not keep us from showing what it writes.
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { master, typed: Vec::new(), input_open: true, output_open: true })
    }

    /// The sandbox's terminal.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether to wait for the user's input: only when the last has been passed on.
    pub fn wants_input(&self) -> bool {
        self.input_open && self.typed.is_empty()
    }

    /// Whether there is input to pass on.
    pub fn has_input(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Whether the sandbox's terminal still may give something.
    pub fn is_open(&self) -> bool {
        self.output_open
    }

    /// Takes what the user has typed.
    pub fn take_input(&mut self) {
        let mut bytes = [0; 4096];
        match nix::unistd::read(io::stdin(), &mut bytes) {
            Ok(0) | Err(Errno::EIO) => self.input_open = false,
            Ok(length) => self.typed.extend_from_slice(&bytes[..length]),
            Err(_) => {}
        }
    }

    /// Passes on as much as the sandbox's terminal takes.
    pub fn give_input(&mut self) {
        match nix::unistd::write(&self.master, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.typed.clear(),
        }
    }

    /// Shows what the sandbox's terminal gives now; false if there was nothing.
    pub fn show_output(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match nix::unistd::read(&self.master, &mut bytes) {
            Ok(0) | Err(Errno::EIO) => {
                self.output_open = false;
                false
            }
            Ok(length) => {
                if write_all(&bytes[..length]).is_err() {
                    self.output_open = false;
                }
                true
            }
            Err(_) => false,
        }
    }
}

fn write_all(mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(io::stdout(), bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::EINTR) => {}
            // A terminal that somebody has made non-blocking.
            Err(Errno::EAGAIN) => {
                let stdout = io::stdout();
                let mut ready =
                    [nix::poll::PollFd::new(stdout.as_fd(), nix::poll::PollFlags::POLLOUT)];
                nix::poll::poll(&mut ready, nix::poll::PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
