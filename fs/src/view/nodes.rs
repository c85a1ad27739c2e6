//! The table of inodes that the kernel knows: number to names and back.
//!
//! fuser makes the kernel's node id and the inode number that processes see one and the same, so
//! a number must be unique while the kernel knows it, and is chosen to be the one that git's index
//! already has: base's.
//!
//! A node knows its names as links: the number of a directory and a name in it. So renaming a
//! directory changes one node, and a workspace of a million files costs some 200 bytes for each
//! (`a_node_is_small`). Invariants: every link in `by_link` is one of its node's; a node lives as
//! long as the kernel knows it or a link goes through it; a node without links is an orphan
//! (unlinked, or replaced in base).

use agentfs_core::RelPath;
use hashbrown::HashTable;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The number of a view's root.
pub const ROOT: u64 = 1;
/// The number of `.agentfs/`; its files follow. All numbers are below 2^53: JavaScript has no
/// larger exact ones.
pub(super) const NOTICES: u64 = (1 << 53) - 64;
/// Added to the inode number of a file that only the delta has.
const DELTA: u64 = 1 << 51;
/// Numbers for what has none of its own.
const FREE: u64 = 1 << 52;

/// Which file of the host a node stands for: device and inode number.
pub(super) type Identity = (u64, u64);

/// What the layers say of a path when it is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    pub(super) is_dir: bool,
    /// Whether the delta has it.
    pub(super) in_delta: bool,
    /// The number that it should have, if any.
    pub(super) wanted: Option<u64>,
}

impl Facts {
    /// Whether other names of the same file are the same node.
    fn linkable(self) -> bool {
        self.in_delta && !self.is_dir
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    dir: u64,
    name: Box<[u8]>,
}

#[derive(Debug)]
struct Node {
    link: Option<Link>,
    /// Further hard links; none for nearly all.
    more: Vec<Link>,
    /// How often the kernel has been told of it.
    lookups: u64,
    /// How many links go through it.
    children: u32,
    is_dir: bool,
    in_delta: bool,
    /// The file lost its name without a request of the kernel's, which may think it is there.
    replaced: bool,
    identity: Identity,
    /// The version of the content that the kernel may have cached pages of.
    cached: Option<NonZeroU64>,
    /// The number that processes see, where it can't be the node's own.
    shown: Option<NonZeroU64>,
    orphan: Option<Arc<OwnedFd>>,
}

impl Node {
    fn new(facts: Facts) -> Self {
        Self {
            link: None,
            more: Vec::new(),
            lookups: 0,
            children: 0,
            is_dir: facts.is_dir,
            in_delta: facts.in_delta,
            replaced: false,
            identity: facts.identity,
            cached: None,
            shown: None,
            orphan: None,
        }
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.link.iter().chain(&self.more)
    }

    fn has(&self, dir: u64, name: &[u8]) -> bool {
        self.links().any(|link| link.dir == dir && *link.name == *name)
    }

    fn add(&mut self, link: Link) {
        if self.link.is_none() {
            self.link = Some(link);
        } else {
            self.more.push(link);
        }
    }

    fn remove(&mut self, dir: u64, name: &[u8]) {
        if self.link.as_ref().is_some_and(|link| link.dir == dir && *link.name == *name) {
            self.link = self.more.pop();
        } else {
            self.more.retain(|link| link.dir != dir || *link.name != *name);
        }
    }

    fn linkable(&self) -> bool {
        self.in_delta && !self.is_dir
    }
}

/// What a number stands for now.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// An entry of the view, with the file it was when it was looked up.
    Path(RelPath, Identity),
    /// A file without a name, held open.
    Orphan(Arc<OwnedFd>),
    /// The same, but the kernel may still believe in the name: who opens it by that has to look
    /// again, or would write into a file that nobody ever sees.
    Replaced(Arc<OwnedFd>),
    /// A file without a name that nothing but open handles reaches.
    Gone,
}

/// The table.
#[derive(Debug)]
pub(super) struct Nodes {
    by_ino: HashMap<u64, Node>,
    /// The number of each link, with the link's hash.
    by_link: HashTable<(u64, u64)>,
    hasher: RandomState,
    by_file: HashMap<Identity, u64>,
    next: u64,
}

impl Nodes {
    pub(super) fn new(root: Facts) -> Self {
        Self {
            by_ino: HashMap::from([(ROOT, Node { lookups: 1, ..Node::new(root) })]),
            by_link: HashTable::new(),
            hasher: RandomState::new(),
            by_file: HashMap::new(),
            next: FREE,
        }
    }

    fn hash(&self, dir: u64, name: &[u8]) -> u64 {
        self.hasher.hash_one((dir, name))
    }

    /// The node that `name` in the directory `dir` is, if the kernel knows it.
    fn child(&self, dir: u64, name: &[u8]) -> Option<u64> {
        let is_it =
            |(_, ino): &(u64, u64)| self.by_ino.get(ino).is_some_and(|node| node.has(dir, name));
        self.by_link.find(self.hash(dir, name), is_it).map(|(_, ino)| *ino)
    }

    /// The directory of `path`, which has to be known, and the name in it.
    fn place<'a>(&self, path: &'a RelPath) -> Option<(u64, &'a [u8])> {
        let name = path.file_name()?.as_bytes();
        Some((self.ino(&path.parent()?)?, name))
    }

    fn attach(&mut self, ino: u64, dir: u64, name: &[u8]) {
        let hash = self.hash(dir, name);
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.add(Link { dir, name: name.into() });
            self.by_link.insert_unique(hash, (hash, ino), |(hash, _)| *hash);
            if let Some(dir) = self.by_ino.get_mut(&dir) {
                dir.children += 1;
            }
        }
    }

    /// Takes a link away; node and directory stay until they are swept. Says whose it was.
    fn unlink(&mut self, dir: u64, name: &[u8]) -> Option<u64> {
        let ino = self.child(dir, name)?;
        let hash = self.hash(dir, name);
        let is_it = |(_, other): &(u64, u64)| *other == ino;
        // The same node under another name with the same hash is as good as never there.
        if let Ok(found) = self.by_link.find_entry(hash, is_it) {
            found.remove();
        }
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.remove(dir, name);
        }
        if let Some(node) = self.by_ino.get_mut(&dir) {
            node.children = node.children.saturating_sub(1);
        }
        Some(ino)
    }

    /// Removes a node that neither the kernel nor a link needs, and so on upwards.
    fn sweep(&mut self, ino: u64) {
        let mut left = vec![ino];
        while let Some(ino) = left.pop() {
            let unused = |node: &Node| node.lookups == 0 && node.children == 0;
            if ino == ROOT || !self.by_ino.get(&ino).is_some_and(unused) {
                continue;
            }
            let Some(node) = self.by_ino.remove(&ino) else { continue };
            if self.by_file.get(&node.identity) == Some(&ino) {
                self.by_file.remove(&node.identity);
            }
            for link in node.links() {
                let hash = self.hash(link.dir, &link.name);
                if let Ok(found) = self.by_link.find_entry(hash, |(_, other)| *other == ino) {
                    found.remove();
                }
                if let Some(dir) = self.by_ino.get_mut(&link.dir) {
                    dir.children = dir.children.saturating_sub(1);
                    left.push(link.dir);
                }
            }
        }
    }

    /// The number of `path`, which is as `facts` say: the one it has, or a new one if it is not
    /// known or another file has taken its place. None if the directory is not known.
    pub(super) fn bind(&mut self, path: &RelPath, facts: Facts) -> Option<u64> {
        let (dir, name) = self.place(path)?;
        if let Some(ino) = self.child(dir, name)
            && let Some(node) = self.by_ino.get(&ino)
        {
            if node.identity == facts.identity || (node.is_dir && facts.is_dir) {
                self.set_facts(ino, facts);
                return Some(ino);
            }
            self.unlink(dir, name);
            self.sweep(ino);
        }
        if facts.linkable()
            && let Some(&ino) = self.by_file.get(&facts.identity)
        {
            self.attach(ino, dir, name);
            return Some(ino);
        }
        let ino = self.number(facts);
        let shown = facts.wanted.filter(|wanted| *wanted != ino && *wanted < DELTA);
        let shown = shown.and_then(NonZeroU64::new);
        self.by_ino.insert(ino, Node { shown, ..Node::new(facts) });
        self.attach(ino, dir, name);
        self.set_facts(ino, facts);
        Some(ino)
    }

    fn number(&mut self, facts: Facts) -> u64 {
        let own = facts.identity.1;
        let wanted = facts.wanted.filter(|ino| *ino > ROOT && *ino < DELTA);
        let from_delta = (facts.in_delta && own < DELTA).then_some(DELTA | own);
        for ino in [wanted, from_delta].into_iter().flatten() {
            if !self.by_ino.contains_key(&ino) {
                return ino;
            }
        }
        self.next += 1;
        self.next
    }

    /// Notes which file the node is now, after a copy-up.
    pub(super) fn set_facts(&mut self, ino: u64, facts: Facts) {
        let Some(node) = self.by_ino.get_mut(&ino) else { return };
        let before = std::mem::replace(&mut node.identity, facts.identity);
        let was_linkable = node.linkable();
        (node.is_dir, node.in_delta) = (facts.is_dir, facts.in_delta);
        if was_linkable && self.by_file.get(&before) == Some(&ino) {
            self.by_file.remove(&before);
        }
        if facts.linkable() {
            self.by_file.insert(facts.identity, ino);
        }
    }

    /// The kernel has been told of the node once more.
    pub(super) fn remember(&mut self, ino: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel has forgotten `count` of what it was told.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.sweep(ino);
            self.shrink();
        }
    }

    /// Gives back memory when most of the table is empty, as after the kernel needed memory.
    fn shrink(&mut self) {
        const SMALL: usize = 1 << 12;
        let (used, reserved) = (self.by_ino.len(), self.by_ino.capacity());
        if reserved > SMALL && used < reserved / 8 {
            self.by_ino.shrink_to(used * 2);
            self.by_file.shrink_to(used * 2);
            self.by_link.shrink_to(used * 2, |(hash, _)| *hash);
        }
    }

    /// What the number stands for; none if the kernel should not know it.
    pub(super) fn target(&self, ino: u64) -> Option<Target> {
        let node = self.by_ino.get(&ino)?;
        Some(match (self.path(ino), &node.orphan) {
            (Some(path), _) => Target::Path(path, node.identity),
            (None, Some(file)) if node.replaced => Target::Replaced(file.clone()),
            (None, Some(file)) => Target::Orphan(file.clone()),
            (None, None) => Target::Gone,
        })
    }

    /// One path of a node.
    pub(super) fn path(&self, ino: u64) -> Option<RelPath> {
        if ino == ROOT {
            return Some(RelPath::root());
        }
        self.path_through(self.by_ino.get(&ino)?.link.as_ref()?)
    }

    fn path_through(&self, link: &Link) -> Option<RelPath> {
        let mut names: Vec<&[u8]> = vec![&link.name];
        let mut dir = link.dir;
        while dir != ROOT {
            let link = self.by_ino.get(&dir)?.link.as_ref()?;
            names.push(&link.name);
            dir = link.dir;
        }
        names.reverse();
        Some(RelPath::from_components(&names))
    }

    /// The paths of a node: several for hard links, none for an orphan.
    pub(super) fn paths(&self, ino: u64) -> Vec<RelPath> {
        if ino == ROOT {
            return vec![RelPath::root()];
        }
        let Some(node) = self.by_ino.get(&ino) else { return Vec::new() };
        node.links().filter_map(|link| self.path_through(link)).collect()
    }

    /// How many names the view has for a file of a lower layer; none for any other, which has as
    /// many as the host says.
    pub(super) fn links_of_lower(&self, ino: u64) -> Option<u32> {
        let node = self.by_ino.get(&ino).filter(|node| !node.in_delta)?;
        // What was replaced has its name in the eyes of who holds it open.
        Some(u32::from(node.link.is_some() || node.replaced))
    }

    /// Whether the node is a directory.
    pub(super) fn is_dir(&self, ino: u64) -> bool {
        self.by_ino.get(&ino).is_some_and(|node| node.is_dir)
    }

    /// The node that `path` names, if the kernel knows it.
    pub(super) fn ino(&self, path: &RelPath) -> Option<u64> {
        path.components().try_fold(ROOT, |dir, name| self.child(dir, name.as_bytes()))
    }

    /// The number that processes see of a node.
    pub(super) fn shown(&self, ino: u64) -> u64 {
        self.by_ino.get(&ino).and_then(|node| node.shown).map_or(ino, NonZeroU64::get)
    }

    /// All nodes but the root, each with the directory and the name of every link.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = (u64, &OsStr)>)> {
        self.by_ino.iter().filter(|(ino, _)| **ino != ROOT).map(|(ino, node)| {
            (*ino, node.links().map(|link| (link.dir, OsStr::from_bytes(&link.name))))
        })
    }

    /// How many nodes the kernel knows.
    pub(super) fn len(&self) -> usize {
        self.by_ino.len()
    }

    /// How much memory the table takes, in bytes: what is reserved, and a name of usual length for
    /// each node.
    pub(super) fn bytes(&self) -> usize {
        const NAME: usize = 32;
        self.by_ino.capacity() * (size_of::<(u64, Node)>() + 1)
            + self.by_link.capacity() * (size_of::<(u64, u64)>() + 1)
            + self.by_file.capacity() * (size_of::<(Identity, u64)>() + 1)
            + self.by_ino.len() * NAME
    }

    /// Notes which version of the content the kernel gets to cache; says whether it may keep
    /// what it has, and whether it can have anything.
    pub(super) fn caches(&mut self, ino: u64, version: NonZeroU64) -> Cached {
        let Some(node) = self.by_ino.get_mut(&ino) else { return Cached::Other };
        match node.cached.replace(version) {
            None => Cached::Nothing,
            Some(before) if before == version => Cached::Same,
            Some(_) => Cached::Other,
        }
    }

    /// `path` no longer names its node. `orphan` keeps the file reachable if that was its last
    /// name.
    pub(super) fn detach(&mut self, path: &RelPath, orphan: Option<Arc<OwnedFd>>) {
        let Some((dir, name)) = self.place(path) else { return };
        if let Some(ino) = self.unlink(dir, name) {
            self.orphaned(ino, orphan);
        }
        self.sweep(dir);
    }

    fn orphaned(&mut self, ino: u64, orphan: Option<Arc<OwnedFd>>) {
        if let Some(node) = self.by_ino.get_mut(&ino).filter(|node| node.link.is_none()) {
            node.orphan = orphan;
            let identity = node.identity;
            if self.by_file.get(&identity) == Some(&ino) {
                self.by_file.remove(&identity);
            }
        }
        self.sweep(ino);
    }

    /// Like [`Nodes::detach`], but the kernel has not asked for it and has to be told.
    pub(super) fn replace(&mut self, path: &RelPath, orphan: Option<Arc<OwnedFd>>) {
        let ino = self.ino(path);
        self.detach(path, orphan);
        if let Some(node) = ino.and_then(|ino| self.by_ino.get_mut(&ino)) {
            node.replaced = node.link.is_none();
        }
    }

    /// `from` and all below it is now at `to`, where nothing is known.
    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath) {
        let (Some((old, name)), Some(new)) = (self.place(from), self.place(to)) else { return };
        if let Some(ino) = self.unlink(old, name) {
            self.attach(ino, new.0, new.1);
        }
        self.sweep(old);
    }

    /// What is at and below `a` changes places with what is at and below `b`.
    pub(super) fn exchange(&mut self, a: &RelPath, b: &RelPath) {
        let (Some(place_a), Some(place_b)) = (self.place(a), self.place(b)) else { return };
        let at_a = self.unlink(place_a.0, place_a.1);
        let at_b = self.unlink(place_b.0, place_b.1);
        if let Some(ino) = at_a {
            self.attach(ino, place_b.0, place_b.1);
        }
        if let Some(ino) = at_b {
            self.attach(ino, place_a.0, place_a.1);
        }
    }
}

/// What the kernel can have cached of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// It has never been opened by this number.
    Nothing,
    /// The version that is there now.
    Same,
    /// Another one, or one that is not known.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    fn file(ino: u64) -> Facts {
        Facts { identity: (1, ino), is_dir: false, in_delta: false, wanted: Some(ino) }
    }

    fn in_delta(ino: u64) -> Facts {
        Facts { identity: (2, ino), is_dir: false, in_delta: true, wanted: None }
    }

    fn bind(nodes: &mut Nodes, name: &str, facts: Facts) -> u64 {
        nodes.bind(&path(name), facts).unwrap()
    }

    fn dir(ino: u64) -> Facts {
        Facts { is_dir: true, ..file(ino) }
    }

    fn nodes() -> Nodes {
        Nodes::new(Facts { identity: (1, 2), is_dir: true, in_delta: false, wanted: None })
    }

    #[test]
    fn a_file_that_was_replaced_is_no_longer_opened_by_its_name() {
        let mut nodes = nodes();
        let ino = bind(&mut nodes, "a", in_delta(5));
        bind(&mut nodes, "b", in_delta(5));
        nodes.remember(ino);
        let file = || Some(Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap())));
        nodes.replace(&path("a"), file());
        assert!(matches!(nodes.target(ino), Some(Target::Path(..))), "it has another name");
        nodes.replace(&path("b"), file());
        assert!(matches!(nodes.target(ino), Some(Target::Replaced(_))));
    }

    #[test]
    fn a_path_keeps_its_number_over_copy_up_and_takes_a_new_one_when_base_replaced_it() {
        let mut nodes = nodes();
        let ino = bind(&mut nodes, "a", file(70));
        assert_eq!(ino, 70, "base's number");
        nodes.set_facts(ino, in_delta(5));
        assert_eq!(bind(&mut nodes, "a", in_delta(5)), 70, "copied up");
        let other = bind(&mut nodes, "a", file(71));
        assert_eq!(other, 71);
        assert!(nodes.paths(70).is_empty(), "the old one is an orphan");
    }

    #[test]
    fn two_names_of_one_delta_file_are_one_node_and_numbers_are_never_shared() {
        let mut nodes = nodes();
        let ino = bind(&mut nodes, "a", in_delta(5));
        assert_eq!(bind(&mut nodes, "b", in_delta(5)), ino);
        assert_eq!(nodes.paths(ino), [path("a"), path("b")]);
        let base = bind(&mut nodes, "x", file(9));
        assert_ne!(bind(&mut nodes, "y", file(9)), base, "hard links in base are apart here");
    }

    #[test]
    fn renaming_a_directory_moves_what_is_below_it_and_nothing_beside_it() {
        let mut nodes = nodes();
        for (name, ino) in [("d", 10), ("d/y", 14)] {
            bind(&mut nodes, name, dir(ino));
        }
        for (name, ino) in [("d/x", 11), ("d-b", 12), ("d/y/z", 13)] {
            bind(&mut nodes, name, file(ino));
        }
        nodes.rename(&path("d"), &path("e"));
        assert_eq!(nodes.ino(&path("e/y/z")), Some(13));
        assert_eq!(nodes.ino(&path("d-b")), Some(12));
        assert_eq!(nodes.ino(&path("d/x")), None);
        nodes.exchange(&path("e"), &path("d-b"));
        assert_eq!(nodes.ino(&path("d-b/x")), Some(11));
        assert_eq!(nodes.ino(&path("e")), Some(12));
    }

    #[test]
    fn a_forgotten_node_is_gone_and_its_number_is_free() {
        let mut nodes = nodes();
        let ino = bind(&mut nodes, "a", file(70));
        nodes.remember(ino);
        nodes.remember(ino);
        nodes.forget(ino, 1);
        assert!(nodes.target(ino).is_some());
        nodes.forget(ino, 1);
        assert!(nodes.target(ino).is_none());
        assert_eq!(bind(&mut nodes, "b", file(70)), 70);
    }

    #[test]
    fn a_directory_lives_as_long_as_what_is_in_it() {
        let mut nodes = nodes();
        let d = bind(&mut nodes, "d", dir(10));
        let x = bind(&mut nodes, "d/x", file(11));
        nodes.remember(d);
        nodes.remember(x);
        nodes.forget(d, 1);
        assert_eq!(nodes.paths(x), [path("d/x")]);
        nodes.forget(x, 1);
        assert_eq!(nodes.len(), 1, "the root alone");
        assert!(nodes.by_link.is_empty() && nodes.by_file.is_empty());
    }

    #[test]
    fn all_directories_of_a_file_s_names_live_no_longer_than_it() {
        let mut nodes = nodes();
        let dirs =
            [("d", 10), ("e", 12), ("f", 14)].map(|(name, n)| bind(&mut nodes, name, dir(n)));
        for name in ["d/x", "e/x", "f/x"] {
            bind(&mut nodes, name, in_delta(5));
        }
        let x = nodes.ino(&path("d/x")).unwrap();
        for ino in dirs.into_iter().chain([x]) {
            nodes.remember(ino);
            nodes.forget(ino, 1);
        }
        assert_eq!(nodes.len(), 1, "the root alone");
    }

    #[test]
    fn a_table_that_has_become_empty_gives_its_memory_back() {
        let mut nodes = nodes();
        let names: Vec<_> = (0..20_000).map(|n| n.to_string()).collect();
        let inos: Vec<_> =
            names.iter().zip(10..).map(|(n, i)| bind(&mut nodes, n, file(i))).collect();
        for ino in &inos {
            nodes.remember(*ino);
        }
        let full = nodes.bytes();
        for ino in &inos {
            nodes.forget(*ino, 1);
        }
        assert!(nodes.bytes() < full / 4, "{} of {full}", nodes.bytes());
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 112, "{}", size_of::<Node>());
    }
}
