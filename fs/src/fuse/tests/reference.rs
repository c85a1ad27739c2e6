//! A view against a plain copy of base on the host's own file system: the same system calls have the
//! same outcome in both, to the errno, and make the same tree.

use super::*;
use proptest::prelude::*;
use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use std::path::Path;

#[derive(Clone, Debug)]
enum Call {
    Write(String, Vec<u8>),
    Append(String, Vec<u8>),
    WriteAt(String, u64, Vec<u8>),
    Truncate(String, u64),
    Chmod(String, u32),
    Note(String, Vec<u8>),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    RemoveAll(String),
    Symlink(String, String),
    Link(String, String),
    Rename(String, String),
    NoReplace(String, String),
    Exchange(String, String),
}

const BASE: [(&str, &str); 5] =
    [("a", "one"), ("d/a", "two"), ("d/d/b", "three"), ("d/d/c", "four"), ("e/e", "five")];

fn a_path() -> impl Strategy<Value = String> {
    let paths = ["a", "b", "d", "d/a", "d/d", "d/d/b", "d/d/n", "e", "e/e", "n", "n/d", "a/x"];
    prop::sample::select(paths.to_vec()).prop_map(str::to_owned)
}

fn a_call() -> impl Strategy<Value = Call> {
    let data = || prop::collection::vec(b'u'..=b'z', 0..6);
    let two = || (a_path(), a_path());
    prop_oneof![
        (a_path(), data()).prop_map(|(path, data)| Call::Write(path, data)),
        (a_path(), data()).prop_map(|(path, data)| Call::Append(path, data)),
        (a_path(), 0_u64..9000, data()).prop_map(|(path, at, data)| Call::WriteAt(path, at, data)),
        (a_path(), 0_u64..9000).prop_map(|(path, size)| Call::Truncate(path, size)),
        (a_path(), prop::sample::select(vec![0o600, 0o755, 0o1777, 0o2750, 0]))
            .prop_map(|(path, mode)| Call::Chmod(path, mode)),
        (a_path(), data()).prop_map(|(path, data)| Call::Note(path, data)),
        a_path().prop_map(Call::Unlink),
        a_path().prop_map(Call::Mkdir),
        a_path().prop_map(Call::Rmdir),
        a_path().prop_map(Call::RemoveAll),
        two().prop_map(|(path, text)| Call::Symlink(path, text)),
        two().prop_map(|(old, new)| Call::Link(old, new)),
        two().prop_map(|(from, to)| Call::Rename(from, to)),
        two().prop_map(|(from, to)| Call::NoReplace(from, to)),
        two().prop_map(|(a, b)| Call::Exchange(a, b)),
    ]
}

/// What came of the call: its errno, or 0.
fn outcome(top: &Path, call: &Call) -> i32 {
    let at = |path: &str| top.join(path);
    let open = |path: &str| fs::File::options().write(true).open(at(path));
    let rename = |from: &str, to: &str, flags| {
        renameat_with(CWD, at(from), CWD, at(to), flags).map_err(std::io::Error::from)
    };
    errno(match call {
        Call::Write(path, data) => fs::write(at(path), data),
        Call::Append(path, data) => {
            let file = fs::File::options().append(true).create(true).open(at(path));
            file.and_then(|mut file| file.write_all(data))
        }
        Call::WriteAt(path, offset, data) => {
            open(path).and_then(|file| file.write_all_at(data, *offset))
        }
        Call::Truncate(path, size) => open(path).and_then(|file| file.set_len(*size)),
        Call::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)),
        Call::Note(path, data) => {
            let set = rustix::fs::setxattr(at(path), "user.note", data, XattrFlags::empty());
            set.map_err(std::io::Error::from)
        }
        Call::Unlink(path) => fs::remove_file(at(path)),
        Call::Mkdir(path) => fs::create_dir(at(path)),
        Call::Rmdir(path) => fs::remove_dir(at(path)),
        Call::RemoveAll(path) => fs::remove_dir_all(at(path)),
        Call::Symlink(path, text) => symlink(text, at(path)),
        Call::Link(old, new) => fs::hard_link(at(old), at(new)),
        Call::Rename(from, to) => fs::rename(at(from), at(to)),
        Call::NoReplace(from, to) => rename(from, to, RenameFlags::NOREPLACE),
        Call::Exchange(a, b) => rename(a, b, RenameFlags::EXCHANGE),
    })
}

/// Everything below `top`: kind, mode, links of what is no directory, size, note, content.
fn tree(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut to_walk = vec![PathBuf::new()];
    while let Some(dir) = to_walk.pop() {
        for entry in fs::read_dir(top.join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            if path.starts_with(".agentfs") {
                continue;
            }
            let at = top.join(&path);
            let found = fs::symlink_metadata(&at).unwrap();
            let mut note = [0; 9];
            let length = rustix::fs::lgetxattr(&at, "user.note", &mut note[..]).unwrap_or(0);
            let shown = if found.is_dir() {
                to_walk.push(path.clone());
                String::new()
            } else if found.is_symlink() {
                fs::read_link(&at).unwrap().display().to_string()
            } else {
                String::from_utf8(fs::read(&at).unwrap()).unwrap()
            };
            let links = if found.is_dir() { 0 } else { found.nlink() };
            let text = format!("{:o} {links} {:?} {shown:?}", found.mode(), &note[..length]);
            all.insert(path, text);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_calls_have_the_same_outcome_as_on_a_plain_file_system(
        calls in prop::collection::vec(a_call(), 1..40)
    ) {
        let m = mounted(&BASE);
        m.gate.open.store(true, Ordering::Relaxed);
        let plain = m.dir.path().join("plain");
        let copied = Command::new("cp").arg("-a").args([&m.base(""), &plain]).status().unwrap();
        prop_assert!(copied.success());
        for call in &calls {
            prop_assert_eq!(outcome(&m.at(""), call), outcome(&plain, call), "{:?}", call);
        }
        prop_assert_eq!(tree(&m.at("")), tree(&plain));
    }
}
