//! Writing: to standard output what was asked for, to standard error what went wrong.

use crate::cli::Global;
use crate::error::Error;
use crate::report::{self, Page};
use agentfs_api::ApiError;
use agentfs_api::types::ErrorBody;
use agentfs_core::Timestamp;
use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// The page that reports are laid out for: this moment, this time zone, this terminal.
pub fn page() -> Page {
    Page { now: now(), zone: TimeZone::system(), width: terminal_width() }
}

/// Prints `value` as JSON if that was asked for, else as the text that `report` makes of it.
pub fn show<T: Serialize>(
    global: &Global,
    value: &T,
    report: impl FnOnce(&T, &Page) -> String,
) -> Result<(), Error> {
    if global.json { json(value) } else { text(&report(value, &page())) }
}

/// Prints `value` as JSON over several lines.
pub fn json<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other);
    bytes(format!("{}\n", text.map_err(Error::Output)?).as_bytes())
}

/// Prints `value` as one line of JSON.
pub fn json_line<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(io::Error::other);
    bytes(format!("{}\n", text.map_err(Error::Output)?).as_bytes())
}

/// Prints lines with styles, which only a terminal gets to see, and it not under `NO_COLOR`.
pub fn text(text: &str) -> Result<(), Error> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Tells people something beside the answer, on standard error.
pub fn note(text: &str) {
    anstream::eprintln!("{}", text.trim_end());
}

/// Says why the command failed.
pub fn complain(error: &Error) {
    anstream::eprintln!("{ERROR}agentctl:{ERROR:#} {}", report::printable(&error.to_string()));
    if let Some(ApiError::Refused { conflicts, .. }) = error.refusal()
        && !conflicts.is_empty()
    {
        note(&report::changes::conflicts(conflicts, &page()));
    }
}

/// With `--json` the daemon's refusal is an answer too; the sentence still goes to people.
pub fn answer_refusal(global: &Global, error: &Error) -> Result<(), Error> {
    match error.refusal() {
        Some(ApiError::Refused { code, message, conflicts }) if global.json => {
            json(&ErrorBody { code: *code, message: message.clone(), conflicts: conflicts.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether standard output shows colours.
pub fn is_coloured() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().plus(since_epoch)
}

fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out))?.ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}
