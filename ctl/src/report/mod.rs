//! Text for people, made of the API's values.
//!
//! Pure: no I/O and no clock. What a report must know of the world is its [`Page`]. Texts hold
//! ANSI styles; `output` takes them out where nobody wants them. Whatever an agent could have put
//! into a value (arguments, file names) passes through [`printable`] before it reaches a terminal.

pub mod agents;
pub mod changes;
pub mod journal;
pub mod locks;
pub mod patch;
pub mod radar;
pub mod recover;
pub mod stat;
pub mod sync;
pub mod time;

use agentfs_core::{Timestamp, WorkUnit};
use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::fmt::Write;

pub(crate) const ADDED: Style = AnsiColor::Green.on_default();
pub(crate) const REMOVED: Style = AnsiColor::Red.on_default();
pub(crate) const BOLD: Style = Style::new().bold();

/// What a report is laid out for.
#[derive(Clone, Debug)]
pub struct Page {
    /// The moment that "12s ago" is counted from.
    pub now: Timestamp,
    /// Where the reader's clock is.
    pub zone: TimeZone,
    /// The terminal's columns; none for a file or a pipe, whose lines have no end.
    pub width: Option<u16>,
}

/// A table with these headings: columns two spaces apart, no lines, wrapped only on a terminal.
pub(crate) fn table(page: &Page, headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().enforce_styling().style_text_only();
    let heading = |text: &&str| Cell::new(text).add_attribute(Attribute::Bold);
    table.set_header(headings.iter().map(heading));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(width) = page.width {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// The table's text, or `if_empty` if it has no rows.
pub(crate) fn finished(table: &Table, if_empty: &str) -> String {
    if table.is_empty() { if_empty.to_owned() } else { table.trim_fmt() }
}

/// `text` with its control characters written `\xHH`, so that it can't take over a terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string can't fail.
            let _ = write!(shown, "\\x{:02x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// "1 path", "2 paths".
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The most units that a sentence names; `--json` has all of them.
const UNITS_NAMED: usize = 8;

/// Units, one after the other; of many the first, and how many more there are.
pub(crate) fn units(units: &[WorkUnit]) -> String {
    let named = units.iter().take(UNITS_NAMED).map(ToString::to_string);
    let text = named.collect::<Vec<_>>().join(", ");
    match units.len().saturating_sub(UNITS_NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn of_many_units_only_the_first_are_named() {
        let all: Vec<WorkUnit> = (1..=10).map(|n| format!("f{n}").parse().unwrap()).collect();
        assert_eq!(units(&all[..2]), "f1, f2");
        assert_eq!(units(&all), "f1, f2, f3, f4, f5, f6, f7, f8 and 2 more");
    }

    /// A page at 1 000 s, in UTC, without a width.
    pub fn page() -> Page {
        Page { now: seconds(1_000), zone: TimeZone::UTC, width: None }
    }

    pub fn seconds(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    /// A report without its styles.
    pub fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let mut table = table(&page(), &["UNIT", "AGENT"]);
        table.add_row(["src/long/name.rs", "al"]).add_row(["a", "bob"]);
        assert_eq!(
            plain(&finished(&table, "")),
            "UNIT              AGENT\nsrc/long/name.rs  al\na                 bob"
        );
    }

    #[test]
    fn a_narrow_terminal_wraps_cells() {
        let narrow = Page { width: Some(30), ..page() };
        let mut table = table(&narrow, &["A", "B"]);
        table.add_row(["many words that do not fit into one line", "b"]);
        let text = plain(&finished(&table, ""));
        assert!(text.lines().count() > 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
    }

    #[test]
    fn an_agent_can_t_send_escapes_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\x1b[2Jb\\x0a");
        assert_eq!(printable("é plain"), "é plain");
    }
}
