//! Interactive programs, on a real terminal: the test holds its other end.

use crate::place::{Place, everywhere};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Stdio};

/// A user at a terminal, with a command in a sandbox.
struct Session {
    keyboard: File,
    /// What the test keeps open to look at the terminal's settings.
    terminal: OwnedFd,
    child: Child,
    seen: String,
}

impl Session {
    fn start(place: &Place, argv: &[&str]) -> Self {
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        if nix::unistd::geteuid().is_root() && place.starter == crate::place::Starter::User {
            nix::unistd::fchown(&pty.slave, Some(4242.into()), Some(4242.into())).unwrap();
        }
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // `setsid --ctty` makes the terminal the controlling one, as a login does.
        let child = place
            .outside("setsid")
            .arg("--ctty")
            .arg(place.agentshim())
            .args(place.confine(argv).iter().map(AsRef::as_ref))
            .env("TERM", "dumb")
            .env("PS1", "$ ")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { keyboard: File::from(pty.master), terminal: pty.slave, child, seen: String::new() }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads the screen until `text` is on it.
    fn sees(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let length = self.keyboard.read(&mut bytes).unwrap();
            assert_ne!(length, 0, "{text:?} never came: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel reads one winsize from `size`, which lives as long as the call.
        let result =
            unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0);
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_flags;
        !modes.contains(LocalFlags::ICANON) && !modes.contains(LocalFlags::ECHO)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The letter of the shim's state in /proc.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_command_at_a_terminal_has_one() {
    everywhere(|place| {
        let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; \
                      ls -l /dev/tty > /dev/null && echo tty > /dev/tty; exit 5";
        let mut session = Session::start(place, &["sh", "-c", script]);
        session.sees("/dev/pts/0");
        session.sees("31 97");
        session.sees("all");
        session.sees("tty\r\n");
        assert_eq!(session.exit_code(), Some(5));
        assert!(!session.is_raw(), "the user's terminal is still raw");
    });
}

#[test]
fn the_size_of_the_window_follows() {
    everywhere(|place| {
        let script = "trap 'stty size; exit 0' WINCH; echo ready; sleep 1000 & wait";
        let mut session = Session::start(place, &["sh", "-c", script]);
        session.sees("ready");
        session.resize(40, 120);
        session.sees("40 120");
        assert_eq!(session.exit_code(), Some(0));
    });
}

#[test]
fn a_shell_has_job_control() {
    everywhere(|place| {
        let mut session = Session::start(place, &["bash", "--norc", "-i"]);
        session.types("sleep 1000 &\njobs\n");
        session.sees("Running");
        session.types("kill %1; echo st''opped; exit 6\n");
        session.sees("stopped");
        assert_eq!(session.exit_code(), Some(6));
        assert!(!session.seen.contains("no job control"), "{}", session.seen);
        assert!(!session.seen.contains("cannot set terminal"), "{}", session.seen);
    });
}

#[test]
fn control_c_is_for_the_command() {
    everywhere(|place| {
        let script = "trap 'echo caught; exit 9' INT; echo ready; sleep 1000 & wait";
        let mut session = Session::start(place, &["sh", "-c", script]);
        session.sees("ready");
        assert!(session.is_raw());
        session.types("\x03");
        session.sees("caught");
        assert_eq!(session.exit_code(), Some(9));
    });
}

#[test]
fn control_z_stops_the_job_and_it_can_be_resumed() {
    everywhere(|place| {
        let mut session = Session::start(place, &["sh", "-c", "echo ready; exec cat"]);
        session.sees("ready");
        session.types("\x1a");
        while session.state() != 'T' {
            std::thread::yield_now();
        }
        assert!(!session.is_raw(), "the user's shell gets a raw terminal");
        kill(session.pid(), Signal::SIGCONT).unwrap();
        while !session.is_raw() {
            std::thread::yield_now();
        }
        session.types("hel\x7flo\n\x04");
        session.sees("helo");
        assert_eq!(session.exit_code(), Some(0));
        assert!(!session.is_raw());
    });
}

#[test]
fn a_command_that_is_killed_leaves_the_terminal_as_it_was() {
    everywhere(|place| {
        let mut session = Session::start(place, &["sh", "-c", "echo ready; exec sleep 1000"]);
        session.sees("ready");
        assert!(session.is_raw());
        kill(session.pid(), Signal::SIGTERM).unwrap();
        assert_eq!(session.exit_code(), Some(143));
        assert!(!session.is_raw());
    });
}

#[test]
fn a_long_output_comes_whole() {
    everywhere(|place| {
        let mut session = Session::start(place, &["sh", "-c", "seq 20000; echo fin''ished"]);
        session.sees("finished");
        assert!(session.seen.contains("\r\n19999\r\n20000\r\n"));
        assert_eq!(session.seen.lines().count(), 20001);
        assert_eq!(session.exit_code(), Some(0));
    });
}
