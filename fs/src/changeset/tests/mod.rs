//! Change sets on real directories: what the trees of the tests are made of.

mod crash;
mod deep;
mod deltas;
mod git;
mod overlay;

use super::*;
use agentfs_core::changeset::{BasedOn, ChangeSet};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat, utimensat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(Vec<u8>, u32),
    Link(Vec<u8>),
    Dir(u32),
}

/// A tree as a value; every directory above an entry is in it, the root is not.
type Model = BTreeMap<RelPath, Node>;

fn path(text: &str) -> RelPath {
    text.parse().unwrap()
}

/// Base and delta in a temporary directory of their own.
struct World {
    dir: TempDir,
}

const NOTHING_IS_SCRATCH: &(dyn Fn(&RelPath, bool) -> bool + Sync) = &|_, _| false;

fn target_is_scratch(path: &RelPath, _: bool) -> bool {
    path.components().any(|name| name == "target")
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("base")).unwrap();
        fs::create_dir(dir.path().join("delta")).unwrap();
        Self { dir }
    }

    fn of(base: &Model) -> Self {
        let world = Self::new();
        write_all(&world.base(), base);
        world
    }

    fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    fn delta(&self) -> PathBuf {
        self.dir.path().join("delta")
    }

    fn stage(&self) -> PathBuf {
        stage_dir_for(&self.base(), agentfs_core::RunId(1)).unwrap()
    }

    /// What an author has changed who built on base as it is now.
    fn scan(&self) -> ChangeSet {
        self.scan_based(&self.notes(read_all(&self.base()).keys()))
    }

    /// The notes of an author who has seen `paths` as they are in base now.
    fn notes<'a>(&self, paths: impl IntoIterator<Item = &'a RelPath>) -> BasedOn {
        let base = fs::File::open(self.base()).unwrap();
        let note = |path: &RelPath| (path.clone(), signature(&base, path).unwrap());
        paths.into_iter().map(note).collect()
    }

    fn scan_based(&self, based: &BasedOn) -> ChangeSet {
        let (base, delta) = (self.base(), self.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: &target_is_scratch };
        scan(&source, based).unwrap()
    }

    fn prepare(&self, changes: &ChangeSet) -> Result<Staged, ChangeSetError> {
        let (base, delta) = (self.base(), self.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
        let owner = Owner::for_new_files(&base).unwrap();
        Staged::prepare(&source, changes, &self.stage(), owner)
    }

    fn conflicts(&self, changes: &ChangeSet) -> Vec<String> {
        let (base, delta) = (self.base(), self.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
        let found = conflicts_now(&source, changes).unwrap();
        found.iter().map(|conflict| conflict.path.to_string()).collect()
    }

    fn patch(&self, changes: &ChangeSet) -> Vec<u8> {
        let (base, delta) = (self.base(), self.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
        patch(&source, changes).unwrap()
    }

    fn write(&self, at: &str, content: &str) {
        let at = self.dir.path().join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }

    fn whiteout(&self, at: &str) {
        let at = self.dir.path().join("delta").join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        whiteout(&at);
    }

    fn read(&self, at: &str) -> String {
        fs::read_to_string(self.base().join(at)).unwrap()
    }
}

/// The changes in words: `Added a`, ...
fn words(changes: &ChangeSet) -> Vec<String> {
    changes.changes.iter().map(|change| format!("{:?} {}", change.action, change.path)).collect()
}

fn whiteout(at: &Path) {
    mknodat(CWD, at, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn opaque(at: &Path, trusted: bool) {
    // Only root may write the trusted name space.
    let name = if trusted && rustix::process::geteuid().is_root() {
        "trusted.overlay.opaque"
    } else {
        "user.overlay.opaque"
    };
    lsetxattr(at, name, b"y", XattrFlags::empty()).unwrap();
}

/// A time that tells versions of an entry apart, with nanoseconds.
fn mtime_of(path: &RelPath, node: &Node) -> i64 {
    let hash = blake3::hash(format!("{path:?} {node:?}").as_bytes());
    let word = u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap());
    1_600_000_000_000_000_000 + i64::from(word) * 1_000_001
}

fn write_node(root: &Path, path: &RelPath, node: &Node) {
    let at = root.join(path.to_path_buf());
    match node {
        Node::File(content, mode) => {
            fs::write(&at, content).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Node::Link(target) => symlink(OsStr::from_bytes(target), &at).unwrap(),
        // Its mode comes with its time, when all is in it.
        Node::Dir(_) => fs::create_dir(&at).unwrap(),
    }
}

fn stamp(root: &Path, path: &RelPath, node: &Node) {
    let at = root.join(path.to_path_buf());
    let times = super::plan::times(mtime_of(path, node));
    utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    if let Node::Dir(mode) = node {
        fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
    }
}

fn write_all(root: &Path, model: &Model) {
    for (path, node) in model {
        write_node(root, path, node);
    }
    for (path, node) in model.iter().rev() {
        stamp(root, path, node);
    }
}

/// The tree at `root`; `.agentfs-stage-*` included, should it be there.
fn read_all(root: &Path) -> Model {
    fn walk(root: &Path, dir: &RelPath, model: &mut Model) {
        for entry in fs::read_dir(root.join(dir.to_path_buf())).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(&entry.file_name());
            let kind = entry.file_type().unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            let node = if kind.is_dir() {
                Node::Dir(mode)
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                Node::Link(target.as_os_str().as_bytes().to_owned())
            } else {
                Node::File(fs::read(entry.path()).unwrap(), mode)
            };
            model.insert(path.clone(), node);
            if kind.is_dir() {
                walk(root, &path, model);
            }
        }
    }
    let mut model = Model::new();
    walk(root, &RelPath::root(), &mut model);
    model
}

fn mtime_at(root: &Path, path: &RelPath) -> i64 {
    let found = fs::symlink_metadata(root.join(path.to_path_buf())).unwrap();
    found.mtime() * 1_000_000_000 + found.mtime_nsec()
}

/// Writes what an agent's view would leave in `delta` when `base` has become `after`. `choices`
/// decides where the format leaves a choice: needless copies up, opaque directories.
fn write_delta(delta: &Path, base: &Model, after: &Model, choices: u64) {
    let mut writer = DeltaWriter { delta, base, after, choices, stamps: Vec::new() };
    writer.dir(&RelPath::root(), false);
    for (path, node) in writer.stamps.iter().rev() {
        stamp(delta, path, node);
    }
}

struct DeltaWriter<'a> {
    delta: &'a Path,
    base: &'a Model,
    after: &'a Model,
    choices: u64,
    stamps: Vec<(RelPath, Node)>,
}

impl DeltaWriter<'_> {
    fn choose(&mut self) -> bool {
        self.choices = self.choices.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.choices >> 63 == 1
    }

    fn dir(&mut self, dir: &RelPath, hidden: bool) {
        let children = |model: &Model| -> Vec<RelPath> {
            model.keys().filter(|path| path.parent().as_ref() == Some(dir)).cloned().collect()
        };
        for gone in children(self.base) {
            if !hidden && !self.after.contains_key(&gone) {
                whiteout(&self.delta.join(gone.to_path_buf()));
            }
        }
        for path in children(self.after) {
            self.entry(&path, hidden);
        }
    }

    fn entry(&mut self, path: &RelPath, hidden: bool) {
        let node = self.after[path].clone();
        let was = self.base.get(path).filter(|_| !hidden);
        if !matches!(node, Node::Dir(_)) {
            if was != Some(&node) || self.choose() {
                write_node(self.delta, path, &node);
                self.stamps.push((path.clone(), node));
            }
            return;
        }
        let below = |model: &Model| -> Model {
            let below = model.iter().filter(|(other, _)| path.contains(other));
            below.map(|(path, node)| (path.clone(), node.clone())).collect()
        };
        if !hidden && below(self.base) == below(self.after) && self.choose() {
            return;
        }
        write_node(self.delta, path, &node);
        let hides = match was {
            Some(Node::Dir(_)) => self.choose(),
            Some(_) => true,
            None => false,
        };
        if hides {
            let trusted = self.choose();
            opaque(&self.delta.join(path.to_path_buf()), trusted);
        }
        self.stamps.push((path.clone(), node));
        self.dir(path, hidden || hides || was.is_none());
    }
}

/// What happens to a tree.
#[derive(Clone, Debug)]
enum Edit {
    Put(RelPath, Node),
    Remove(RelPath),
}

fn edit(model: &mut Model, edit: &Edit) {
    match edit {
        Edit::Remove(path) => model.retain(|other, _| !path.contains(other)),
        Edit::Put(path, node) => {
            for above in path.ancestors().skip(1).filter(|above| !above.is_root()) {
                if !matches!(model.get(&above), Some(Node::Dir(_))) {
                    model.insert(above, Node::Dir(0o755));
                }
            }
            if !matches!(node, Node::Dir(_)) {
                model.retain(|other, _| !path.contains(other));
            }
            model.insert(path.clone(), node.clone());
        }
    }
}

fn any_path() -> impl Strategy<Value = RelPath> {
    let name = prop::sample::select(vec![
        &b"a"[..],
        b"b",
        b"c d",
        b"-e",
        "\u{fc}\n\"".as_bytes(),
        b"\xff\t\\",
    ]);
    prop::collection::vec(name, 1..4)
        .prop_map(|names| RelPath::from_bytes(&names.join(&b'/')).unwrap())
}

fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let lines =
        prop::collection::vec(prop::sample::select(vec!["one", "two", "", "\r", "x\r"]), 0..30);
    prop_oneof![
        4 => (lines, any::<bool>()).prop_map(|(lines, ends)| {
            let mut text = lines.join("\n").into_bytes();
            if ends {
                text.push(b'\n');
            }
            text
        }),
        1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(|mut bytes| {
            bytes.insert(0, 0);
            bytes
        }),
        1 => Just(Vec::new()),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    prop_oneof![
        6 => (any_content(), prop::sample::select(vec![0o644, 0o755, 0o600, 0o444]))
            .prop_map(|(content, mode)| Node::File(content, mode)),
        // None is a loop: `git apply` can't replace such a link by a directory.
        1 => prop::sample::select(vec!["nowhere", "../x y", "/etc/passwd"])
            .prop_map(|target| Node::Link(target.as_bytes().to_owned())),
        2 => prop::sample::select(vec![0o755, 0o700, 0o2711]).prop_map(Node::Dir),
    ]
}

fn any_edits(most: usize) -> impl Strategy<Value = Vec<Edit>> {
    let one = prop_oneof![
        3 => (any_path(), any_node()).prop_map(|(path, node)| Edit::Put(path, node)),
        1 => any_path().prop_map(Edit::Remove),
    ];
    prop::collection::vec(one, 0..most)
}

/// A tree, and the same after an agent has worked on it.
fn any_work() -> impl Strategy<Value = (Model, Model, u64)> {
    (any_edits(14), any_edits(8), any::<u64>()).prop_map(|(make, work, choices)| {
        let mut base = Model::new();
        for one in &make {
            edit(&mut base, one);
        }
        let mut after = base.clone();
        for one in &work {
            edit(&mut after, one);
        }
        (base, after, choices)
    })
}
