//! A terminal with somebody at it.

use crate::poll::eventually;
use crate::process::{Cmd, Done, Running};
use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

/// A process that has a terminal of its own, and the other end of that terminal.
#[derive(Debug)]
pub struct Terminal<'w> {
    running: Running<'w>,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl<'w> Terminal<'w> {
    /// Starts `command` at a terminal of `rows` and `columns`.
    pub fn start(command: Cmd<'w>, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal can be made");
        let slave: OwnedFd = pty.slave;
        let running = command.start_at(|| Ok(Stdio::from(slave.try_clone()?)));
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone().expect("the terminal can be shared");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = screen.clone();
        // Ends by itself: a terminal that nobody has open any more can't be read.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&buffer[..length]);
            }
        });
        Self { running, keyboard, screen }
    }

    /// Types.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes input");
    }

    /// What the screen has shown so far.
    pub fn screen(&self) -> String {
        let shown = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until the screen shows `text`.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let what = format!("the screen shows {text:?}");
        let look = || self.screen().contains(text).then_some(());
        let found = catch_unwind(AssertUnwindSafe(|| eventually(&what, look)));
        assert!(found.is_ok(), "{what}, it has only:\n{}", self.screen());
    }

    /// Waits for the process's end.
    #[track_caller]
    pub fn finish(mut self) -> Done {
        let what = "the process at the terminal ends";
        let ended = || self.running.has_ended().then_some(());
        let found = catch_unwind(AssertUnwindSafe(|| eventually(what, ended)));
        assert!(found.is_ok(), "{what}, it shows:\n{}", self.screen());
        self.running.finish()
    }
}
