//! What a program says when it refuses: one clear sentence for people.

use crate::process::Done;

/// What shows that a value was dumped where a sentence should be.
const DUMPS: [&str; 7] =
    ["panicked", "Err(", "Some(", "Error {", "Os {", "kind:", "RUST_BACKTRACE"];

/// Judges the words of a program that has refused.
pub trait Say {
    /// Panics unless standard error is one sentence that begins with the program's name and has
    /// each of `words` in it, and the program exited with `code`.
    fn refuses(self, code: i32, words: &[&str]) -> Self;
}

impl Say for Done {
    #[track_caller]
    fn refuses(self, code: i32, words: &[&str]) -> Self {
        let done = self.exits(code);
        let said = done.err();
        let lines: Vec<&str> = said.lines().collect();
        let program = done.program().to_owned();
        assert!(lines.len() == 1, "one sentence is wanted: {done}");
        assert!(said.starts_with(&format!("{program}: ")), "{program} does not say it: {done}");
        for dump in DUMPS {
            assert!(!said.contains(dump), "{dump:?} is no word for people: {done}");
        }
        for word in words {
            assert!(said.contains(word), "{word:?} is missing: {done}");
        }
        done
    }
}
