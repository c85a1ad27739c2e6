//! A patch with colours, as `git diff` shows it on a terminal.
//!
//! Works on bytes: a patch holds what files hold. Lines inside a hunk are counted off against its
//! header, because a removed line `-- x` reads `--- x` and is no file header.

use super::{ADDED, BOLD, REMOVED};
use anstyle::{AnsiColor, Style};

const HUNK: Style = AnsiColor::Cyan.on_default();

/// The lines that a patch has outside its hunks, and that are worth a style.
const HEADERS: [&[u8]; 12] = [
    b"diff --git ",
    b"index ",
    b"--- ",
    b"+++ ",
    b"old mode ",
    b"new mode ",
    b"new file mode ",
    b"deleted file mode ",
    b"similarity index ",
    b"rename ",
    b"copy ",
    b"Binary files ",
];

/// Lines of a hunk that are still to come, before and after.
#[derive(Clone, Copy, Default)]
struct Left {
    old: u64,
    new: u64,
}

/// The patch with its lines styled.
pub fn coloured(patch: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(patch.len() + patch.len() / 4);
    let mut left = Left::default();
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        let style = if left.old > 0 || left.new > 0 {
            inside(line, &mut left)
        } else if let Some(hunk) = hunk_header(line) {
            left = hunk;
            Some(HUNK)
        } else {
            HEADERS.iter().any(|header| line.starts_with(header)).then_some(BOLD)
        };
        match style {
            Some(style) => styled(&mut out, line, style),
            None => out.extend_from_slice(line),
        }
    }
    out
}

fn inside(line: &[u8], left: &mut Left) -> Option<Style> {
    match line.first() {
        Some(b'+') => {
            left.new = left.new.saturating_sub(1);
            Some(ADDED)
        }
        Some(b'-') => {
            left.old = left.old.saturating_sub(1);
            Some(REMOVED)
        }
        // "\ No newline at end of file" belongs to the line before.
        Some(b'\\') => None,
        _ => {
            left.old = left.old.saturating_sub(1);
            left.new = left.new.saturating_sub(1);
            None
        }
    }
}

/// The lengths in `@@ -1,2 +3,4 @@`; a length that is left out is 1.
fn hunk_header(line: &[u8]) -> Option<Left> {
    let line =
        std::str::from_utf8(line.strip_prefix(b"@@ -")?.split(|b| *b == b'@').next()?).ok()?;
    let (old, new) = line.trim_end().split_once(" +")?;
    let length = |range: &str| {
        let (start, length) = range.split_once(',').unwrap_or((range, "1"));
        start.parse::<u64>().ok()?;
        length.parse().ok()
    };
    Some(Left { old: length(old)?, new: length(new)? })
}

/// The style ends before the line does, so that a pager may cut lines.
fn styled(out: &mut Vec<u8>, line: &[u8], style: Style) {
    let (text, end) = match line.strip_suffix(b"\n") {
        Some(text) => (text, &b"\n"[..]),
        None => (line, &b""[..]),
    };
    out.extend_from_slice(style.render().to_string().as_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(style.render_reset().to_string().as_bytes());
    out.extend_from_slice(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &[u8] = b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n\
        @@ -1,3 +1,2 @@ fn x() @@\n same\n--- gone\n-\xff\n+new\n\\ No newline at end of file\n\
        diff --git a/b b/b\nGIT binary patch\nliteral 3\nKabc\n";

    fn with(style: Style, text: &str) -> Vec<u8> {
        format!("{style}{text}{style:#}\n").into_bytes()
    }

    fn has(text: &[u8], part: &[u8]) -> bool {
        text.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn each_line_has_the_style_of_what_it_is() {
        let text = coloured(PATCH);
        assert!(has(&text, &with(BOLD, "--- a/x")));
        assert!(has(&text, &with(HUNK, "@@ -1,3 +1,2 @@ fn x() @@")));
        assert!(has(&text, &with(REMOVED, "--- gone")), "a removed line is no header");
        assert!(has(&text, &with(ADDED, "+new")));
        assert!(has(&text, b"\n same\n"));
        assert!(has(&text, &with(BOLD, "diff --git a/b b/b")));
        assert!(has(&text, b"\nliteral 3\nKabc\n"));
    }

    #[test]
    fn without_its_styles_it_is_the_patch() {
        let text = coloured(PATCH);
        let stripped: Vec<u8> = anstream::adapter::strip_bytes(&text).flatten().copied().collect();
        let valid: Vec<u8> = PATCH.iter().copied().filter(|byte| *byte != 0xff).collect();
        let stripped: Vec<u8> = stripped.into_iter().filter(|byte| *byte != 0xff).collect();
        assert_eq!(stripped, valid);
    }

    #[test]
    fn what_only_looks_like_a_hunk_is_none() {
        for line in ["@@", "@@ -x +y @@", "@@ -1,2 @@", "@@ -1,99999999999999999999 +1 @@"] {
            assert!(hunk_header(line.as_bytes()).is_none(), "{line}");
        }
    }
}
