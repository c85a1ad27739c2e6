//! git's notations: quoted names, object ids, base 85.

use agentfs_core::RelPath;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};
use std::fmt::Write as _;
use std::io::{self, Write};

const BASE85: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/// How many bytes one line of a binary patch holds.
const LINE: usize = 52;

/// `path` below the one-letter directory `side`, in quotes if git would quote it.
pub(super) fn name(side: &str, path: &RelPath) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 4);
    let odd = bytes.iter().any(|b| !matches!(b, b' '..=b'~') || matches!(b, b'"' | b'\\'));
    if odd {
        out.push(b'"');
    }
    out.extend_from_slice(side.as_bytes());
    out.push(b'/');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0b => out.extend_from_slice(b"\\v"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    if odd {
        out.push(b'"');
    }
    out
}

/// The object id of `content` as a blob, in a repository of the usual (SHA-1) object format.
pub(super) fn blob_id(content: &[u8]) -> String {
    let mut sha = Sha1::new();
    sha.update(format!("blob {}\0", content.len()));
    sha.update(content);
    sha.finalize().iter().fold(String::with_capacity(40), |mut id, byte| {
        // Writing to a String can't fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// `content` as one half of a `GIT binary patch`.
pub(super) fn literal(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(content)?;
    let deflated = zlib.finish()?;
    let mut out = format!("literal {}\n", content.len()).into_bytes();
    for line in deflated.chunks(LINE) {
        let count = line.len() as u8;
        out.push(if count <= 26 { b'A' + count - 1 } else { b'a' + count - 27 });
        for chunk in line.chunks(4) {
            out.extend_from_slice(&five(chunk));
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    Ok(out)
}

/// Up to four bytes, filled with zeros, as five digits.
fn five(chunk: &[u8]) -> [u8; 5] {
    let mut word = [0; 4];
    word[..chunk.len()].copy_from_slice(chunk);
    let mut rest = u32::from_be_bytes(word);
    let mut digits = [0; 5];
    for digit in digits.iter_mut().rev() {
        *digit = BASE85[(rest % 85) as usize];
        rest /= 85;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_git_does() {
        let shown = |bytes: &[u8]| {
            String::from_utf8(name("a", &RelPath::from_bytes(bytes).unwrap())).unwrap()
        };
        assert_eq!(shown(b"src/a b.rs"), "a/src/a b.rs");
        assert_eq!(shown("\u{e4}\n\"x\"\\".as_bytes()), r#""a/\303\244\n\"x\"\\""#);
        assert_eq!(shown(b"\x01\x7f"), r#""a/\001\177""#);
    }

    #[test]
    fn a_blob_has_the_id_that_git_gives_it() {
        assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(blob_id(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
