//! A view without a mount against a model: a map from path to what is there.
//!
//! The model starts as base does, so every operation meets files and directories of both layers.
//! While the agent works others' changes are applied to base, which pins hold away from it. At the
//! end kernel overlayfs has to show the same tree, of the delta over the pins over base.

use super::*;
use crate::gate::{Answer, Gate, Intent, Notice, Ordered, Permit, Requester, ViewControl as _};
use agentfs_core::changeset::Before;
use proptest::prelude::*;
use rustix::fs::{OFlags, RenameFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;

struct Permissive;

impl Gate for Permissive {
    fn already(&self, _: &Intent) -> Option<Permit> {
        Some(Permit::granted())
    }

    fn may_read(&self, _: &RelPath) -> bool {
        true
    }

    fn ask(&self, _: Intent, _: Requester, answer: Answer) {
        answer(Ok(Permit::granted()));
    }

    fn read(&self, _: &RelPath, _: Before) {}

    fn forget(&self, _: &RelPath) {}

    fn notice(&self, _: Notice) -> String {
        String::new()
    }

    fn order(
        &self,
        _: Notice,
        _: &[u8],
        _: &dyn Fn(&RelPath) -> bool,
        _: Requester,
        done: Ordered,
    ) {
        done(Ok(()));
    }
}

/// What is at a path. Files are by number, because hard links share theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
    Link(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    text: String,
    mode: u32,
    /// The extended attribute `user.note`.
    note: String,
}

#[derive(Clone, Debug, Default)]
struct Model {
    names: BTreeMap<RelPath, Node>,
    files: Vec<Content>,
}

/// Only whether an operation worked is compared, and what the view shows then.
type Done = Option<()>;

impl Model {
    fn file(&mut self, path: &RelPath, text: &str) {
        self.files.push(Content { text: text.to_owned(), mode: 0o644, note: String::new() });
        self.names.insert(path.clone(), Node::File(self.files.len() - 1));
    }

    fn vacant(&self, path: &RelPath) -> Done {
        let parent = path.parent()?;
        let there = parent.is_root() || self.names.get(&parent) == Some(&Node::Dir);
        (there && !self.names.contains_key(path)).then_some(())
    }

    fn is_empty(&self, dir: &RelPath) -> bool {
        !self.names.keys().any(|path| path != dir && dir.contains(path))
    }

    fn number(&self, path: &RelPath) -> Option<usize> {
        match self.names.get(path)? {
            Node::File(number) => Some(*number),
            _ => None,
        }
    }

    fn apply(&mut self, operation: &Operation) -> Done {
        match operation {
            Operation::Create(path, text) => {
                self.vacant(path)?;
                self.file(path, text);
            }
            Operation::Append(path, text) => {
                let number = self.number(path)?;
                self.files[number].text.push_str(text);
            }
            Operation::Chmod(path, mode) => {
                let number = self.number(path)?;
                self.files[number].mode = *mode;
            }
            Operation::Unlink(path) => {
                self.names.get(path).filter(|node| **node != Node::Dir)?;
                self.names.remove(path);
            }
            Operation::Mkdir(path) => {
                self.vacant(path)?;
                self.names.insert(path.clone(), Node::Dir);
            }
            Operation::Rmdir(path) => {
                self.names.get(path).filter(|node| **node == Node::Dir)?;
                self.is_empty(path).then_some(())?;
                self.names.remove(path);
            }
            Operation::Symlink(path, text) => {
                self.vacant(path)?;
                self.names.insert(path.clone(), Node::Link(text.clone()));
            }
            Operation::Link(old, new) => {
                let number = self.number(old)?;
                self.vacant(new)?;
                self.names.insert(new.clone(), Node::File(number));
            }
            Operation::Rename(from, to) => self.rename(from, to)?,
            Operation::Exchange(a, b) => self.exchange(a, b)?,
            Operation::Truncate(path, size) => {
                let text = &mut self.number(path).map(|number| &mut self.files[number])?.text;
                let kept = text.chars().chain(std::iter::repeat('\0')).take(*size).collect();
                *text = kept;
            }
            Operation::Note(path, note) => {
                let number = self.number(path)?;
                self.files[number].note.clone_from(note);
            }
        }
        Some(())
    }

    fn take(&mut self, top: &RelPath) -> Vec<(RelPath, Node)> {
        let below: Vec<_> = self.names.keys().filter(|path| top.contains(path)).cloned().collect();
        below
            .into_iter()
            .filter_map(|path| Some((path.clone(), self.names.remove(&path)?)))
            .collect()
    }

    fn exchange(&mut self, a: &RelPath, b: &RelPath) -> Done {
        self.names.get(a).and(self.names.get(b))?;
        (a == b || !(a.contains(b) || b.contains(a))).then_some(())?;
        let (at_a, at_b) = (self.take(a), self.take(b));
        let moved = at_a.into_iter().map(|(path, node)| (path.rebase(a, b), node));
        let moved = moved.chain(at_b.into_iter().map(|(path, node)| (path.rebase(b, a), node)));
        self.names.extend(moved.filter_map(|(path, node)| Some((path?, node))));
        Some(())
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) -> Done {
        let source = self.names.get(from)?.clone();
        if from == to {
            return Some(());
        }
        if from.contains(to) {
            return None;
        }
        match self.names.get(to) {
            None => self.vacant(to)?,
            // Two names of one file: POSIX does nothing.
            Some(Node::File(_))
                if self.number(from).is_some_and(|a| self.number(to) == Some(a)) =>
            {
                return Some(());
            }
            Some(target) => {
                ((source == Node::Dir) == (*target == Node::Dir)).then_some(())?;
                (*target != Node::Dir || self.is_empty(to)).then_some(())?;
            }
        }
        let moved = self.take(from);
        for (path, node) in moved {
            self.names.insert(path.rebase(from, to)?, node);
        }
        Some(())
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Create(RelPath, String),
    Append(RelPath, String),
    Chmod(RelPath, u32),
    Unlink(RelPath),
    Mkdir(RelPath),
    Rmdir(RelPath),
    Symlink(RelPath, String),
    Link(RelPath, RelPath),
    Rename(RelPath, RelPath),
    Exchange(RelPath, RelPath),
    Truncate(RelPath, usize),
    Note(RelPath, String),
}

/// What happens to a workspace.
#[derive(Clone, Debug)]
enum Event {
    /// The agent does something.
    Own(Operation),
    /// Somebody else's file is applied to base, or their deletion of one.
    Others(RelPath, Option<String>),
}

const CREATION: Creation = Creation { mode: 0o644, umask: 0, uid: 0, gid: 0 };

/// Looks every name on the way up, as the kernel does.
fn find(view: &View, path: &RelPath) -> Result<Attr, FsError> {
    let mut ino = ROOT;
    let mut found = view.getattr(ROOT, None)?;
    for name in path.components() {
        found = view.lookup(ino, name)?.ok_or(FsError::NotFound)?;
        ino = found.ino;
    }
    Ok(found)
}

fn is_kind(attr: &Attr, kind: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(attr.stat.st_mode) == kind
}

/// What the kernel makes of a system call: it looks names up and lets no wrong kind through.
fn perform(view: &View, operation: &Operation) -> Result<(), FsError> {
    let permit = Permit::granted();
    let file = |path: &RelPath| {
        let attr = find(view, path)?;
        let regular = is_kind(&attr, rustix::fs::FileType::RegularFile);
        if regular { Ok(attr) } else { Err(FsError::Invalid) }
    };
    // The directory of a new name is looked up before the view hears of the name.
    if let Operation::Create(new, _)
    | Operation::Mkdir(new)
    | Operation::Symlink(new, _)
    | Operation::Link(_, new)
    | Operation::Rename(_, new) = operation
        && let Some(parent) = new.parent()
    {
        find(view, &parent)?;
    }
    match operation {
        Operation::Create(path, text) => {
            let flags = OFlags::WRONLY | OFlags::EXCL;
            let (_, opened) = view.create(path, CREATION, flags, &permit)?;
            view.write(opened.handle, 0, text.as_bytes(), false)?;
            view.close(opened.handle);
        }
        Operation::Append(path, text) => {
            let attr = file(path)?;
            let opened =
                view.open_write(attr.ino, Some(path), OFlags::WRONLY, ByRoot(true), &permit)?;
            let end = attr.stat.st_size as u64;
            view.write(opened.handle, end, text.as_bytes(), false)?;
            view.close(opened.handle);
        }
        Operation::Chmod(path, mode) => {
            let changes = Changes { mode: Some(*mode), ..Changes::default() };
            view.setattr(file(path)?.ino, Some(path), changes, &permit)?;
        }
        Operation::Unlink(path) => view.unlink(path, &permit)?,
        Operation::Mkdir(path) => {
            view.mkdir(path, Creation { mode: 0o755, ..CREATION }, &permit)?;
        }
        Operation::Rmdir(path) => view.rmdir(path, &permit)?,
        Operation::Symlink(path, text) => {
            view.symlink(path, OsStr::new(text), CREATION, &permit)?;
        }
        Operation::Link(old, new) => {
            view.link(file(old)?.ino, old, new, &permit)?;
        }
        Operation::Rename(from, to) => view.rename(from, to, RenameFlags::empty(), &permit)?,
        Operation::Exchange(a, b) => {
            find(view, a).and(find(view, b))?;
            view.rename(a, b, RenameFlags::EXCHANGE, &permit)?;
        }
        Operation::Truncate(path, size) => {
            let changes = Changes { size: Some(*size as u64), ..Changes::default() };
            view.setattr(file(path)?.ino, Some(path), changes, &permit)?;
        }
        Operation::Note(path, note) => {
            let attribute = (OsStr::new("user.note"), note.as_bytes());
            view.set_xattr(file(path)?.ino, Some(path), attribute, XattrFlags::empty(), &permit)?;
        }
    }
    Ok(())
}

/// All that the view shows, read through lookups and listings.
fn shown(view: &View, at: &RelPath, all: &mut BTreeMap<RelPath, String>) -> Result<(), FsError> {
    let list = view.list(find(view, at)?.ino, 0)?;
    let mut index = 0;
    while let Some(entry) = view.list_entry(&list, index)? {
        index += 1;
        let path = at.join(&entry.name);
        if is_virtual_path(&path) {
            continue;
        }
        let attr = find(view, &path)?;
        assert_eq!(entry.attr.map(|listed| listed.ino), Some(attr.ino), "{path}");
        let text = if is_kind(&attr, rustix::fs::FileType::Directory) {
            shown(view, &path, all)?;
            "directory".to_owned()
        } else if is_kind(&attr, rustix::fs::FileType::Symlink) {
            format!("-> {}", view.readlink(attr.ino)?.display())
        } else {
            let opened = view.open_read(attr.ino, OFlags::RDONLY)?;
            let data = view.read(opened.handle, 0, 1000)?;
            view.close(opened.handle);
            let note = view.get_xattr(attr.ino, OsStr::new("user.note")).unwrap_or_default();
            let (text, note) = (String::from_utf8_lossy(&data), String::from_utf8_lossy(&note));
            format!("{:o} {text} {note}", attr.stat.st_mode & 0o7777)
        };
        all.insert(path, text);
    }
    Ok(())
}

fn expected(model: &Model) -> BTreeMap<RelPath, String> {
    let text = |node: &Node| match node {
        Node::Dir => "directory".to_owned(),
        Node::Link(text) => format!("-> {text}"),
        Node::File(number) => {
            let Content { text, mode, note } = &model.files[*number];
            format!("{mode:o} {text} {note}")
        }
    };
    model.names.iter().map(|(path, node)| (path.clone(), text(node))).collect()
}

/// Few enough that operations meet: names of base, and beside and below them.
fn a_path() -> impl Strategy<Value = RelPath> {
    let paths = ["a", "b", "b/a", "d", "d/a", "d/b", "d/d", "d/d/b"];
    prop::sample::select(paths.to_vec()).prop_map(|path| path.parse().unwrap())
}

fn an_operation() -> impl Strategy<Value = Operation> {
    let text = || "[xyz]{0,3}";
    prop_oneof![
        (a_path(), text()).prop_map(|(path, text)| Operation::Create(path, text)),
        (a_path(), text()).prop_map(|(path, text)| Operation::Append(path, text)),
        (a_path(), prop::sample::select(vec![0o600, 0o640, 0o755]))
            .prop_map(|(path, mode)| Operation::Chmod(path, mode)),
        a_path().prop_map(Operation::Unlink),
        a_path().prop_map(Operation::Mkdir),
        a_path().prop_map(Operation::Rmdir),
        (a_path(), "[xyz]{1,3}").prop_map(|(path, text)| Operation::Symlink(path, text)),
        (a_path(), a_path()).prop_map(|(old, new)| Operation::Link(old, new)),
        (a_path(), a_path()).prop_map(|(from, to)| Operation::Rename(from, to)),
        (a_path(), a_path()).prop_map(|(a, b)| Operation::Exchange(a, b)),
        (a_path(), 0_usize..6).prop_map(|(path, size)| Operation::Truncate(path, size)),
        (a_path(), text()).prop_map(|(path, note)| Operation::Note(path, note)),
    ]
}

fn an_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => an_operation().prop_map(Event::Own),
        1 => (a_path(), prop::option::of("[uvw]{1,3}")).prop_map(|(path, text)| Event::Others(path, text)),
    ]
}

/// Applies to base what somebody else did at `path`, if it can be done there: what the view shows is
/// pinned first. Says whether base has changed.
fn others_apply(view: &View, base: &Path, path: &RelPath, text: Option<&str>) -> bool {
    let at = base.join(path.to_path_buf());
    let parent_is_dir = at.parent().is_some_and(Path::is_dir);
    let is_file = at.symlink_metadata().is_ok_and(|found| !found.is_dir());
    if !parent_is_dir || at.is_dir() || (text.is_none() && !is_file) {
        return false;
    }
    view.pin(std::slice::from_ref(path)).unwrap();
    match text {
        // By rename, as an apply does it: a pin is a hard link.
        Some(text) => {
            let staged = base.with_file_name("staged");
            std::fs::write(&staged, text).unwrap();
            std::fs::rename(staged, at).unwrap();
        }
        None => std::fs::remove_file(at).unwrap(),
    }
    true
}

/// All that a directory of the host shows, in the same words as [`shown`].
fn shown_by_host(dir: &Path, at: &RelPath, all: &mut BTreeMap<RelPath, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (at.join(&entry.file_name()), entry.file_type().unwrap());
        let text = if kind.is_dir() {
            shown_by_host(&entry.path(), &path, all);
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(entry.path()).unwrap().display())
        } else {
            let mut note = [0; 100];
            let length =
                rustix::fs::getxattr(entry.path(), "user.note", &mut note[..]).unwrap_or(0);
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            let (text, note) = (std::fs::read(entry.path()).unwrap(), &note[..length]);
            format!("{mode:o} {} {}", String::from_utf8_lossy(&text), String::from_utf8_lossy(note))
        };
        all.insert(path, text);
    }
}

/// What kernel overlayfs makes of the three layers.
fn shown_by_kernel(dir: &Path) -> BTreeMap<RelPath, String> {
    struct Overlay(PathBuf);
    impl Drop for Overlay {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let overlay = Overlay(dir.join("overlay"));
    std::fs::create_dir_all(&overlay.0).unwrap();
    // Read-only: it takes the delta as a lower layer too, and writes nothing into it.
    let layers = ["delta", "pins", "base"].map(|name| dir.join(name).display().to_string());
    let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":"))).unwrap();
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("overlay", &overlay.0, "overlay", flags, options.as_c_str()).unwrap();
    let mut all = BTreeMap::new();
    shown_by_host(&overlay.0, &RelPath::root(), &mut all);
    all
}

/// A view over a base of a few files, and its model.
fn view_and_model(dir: &Path) -> (Arc<View>, Model) {
    let mut model = Model::default();
    for name in ["base", "delta", "work", "pins", "base/d", "base/d/d"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    for name in ["d", "d/d"] {
        model.names.insert(name.parse().unwrap(), Node::Dir);
    }
    for (name, text) in [("a", "one"), ("d/a", "two"), ("d/d/b", "three")] {
        let path = dir.join("base").join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(path, mode).unwrap();
        model.file(&name.parse().unwrap(), text);
    }
    let spec = ViewSpec {
        agent: "alice".parse().unwrap(),
        base: dir.join("base"),
        delta: dir.join("delta"),
        work: dir.join("work"),
        pins: dir.join("pins"),
        owner: Owner { host: (0, 0), shown: (0, 0) },
        scratch: Arc::new(Scratch::new(&dir.join("base"), &[]).unwrap()),
        watch: BaseWatch::start(&dir.join("base")),
    };
    (View::open(spec, Arc::new(Permissive)).unwrap(), model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_view_is_what_the_operations_on_it_make(
        events in prop::collection::vec(an_event(), 1..60)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (view, mut model) = view_and_model(dir.path());
        let base = dir.path().join("base");
        let mut base_is = BTreeMap::new();
        shown_by_host(&base, &RelPath::root(), &mut base_is);
        for event in events {
            match &event {
                Event::Own(operation) => {
                    let done = perform(&view, operation);
                    let modelled = model.apply(operation);
                    prop_assert_eq!(done.is_ok(), modelled.is_some(), "{:?}: {:?}", operation, done);
                }
                Event::Others(path, text) => {
                    if others_apply(&view, &base, path, text.as_deref()) {
                        base_is.remove(path);
                        base_is.extend(text.iter().map(|text| (path.clone(), format!("644 {text} "))));
                    }
                }
            }
            let mut all = BTreeMap::new();
            shown(&view, &RelPath::root(), &mut all).unwrap();
            prop_assert_eq!(all, expected(&model), "after {:?}", event);
        }
        prop_assert_eq!(shown_by_kernel(dir.path()), expected(&model));
        let mut base_now = BTreeMap::new();
        shown_by_host(&base, &RelPath::root(), &mut base_now);
        prop_assert_eq!(base_now, base_is, "nothing but what others applied is in base");
    }
}
