//! The table of inodes that the kernel knows: number to paths and back.
//!
//! fuser makes the kernel's node id and the inode number that processes see one and the same, so
//! a number must be unique while the kernel knows it, and is chosen to be the one that git's index
//! already has: base's. Invariants: every path in `by_path` names a node that lists it; a node
//! without paths is an orphan (unlinked, or replaced in base) and is kept until it is forgotten.

use agentfs_core::RelPath;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
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

#[derive(Debug)]
struct Node {
    paths: Vec<RelPath>,
    lookups: u64,
    facts: Facts,
    orphan: Option<Arc<OwnedFd>>,
    /// The file lost its name without a request of the kernel's, which may think it is there.
    replaced: bool,
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
    by_path: BTreeMap<RelPath, u64>,
    by_file: HashMap<Identity, u64>,
    next: u64,
}

impl Nodes {
    pub(super) fn new(root: Facts) -> Self {
        let paths = vec![RelPath::root()];
        let node = Node { paths, lookups: 1, facts: root, orphan: None, replaced: false };
        Self {
            by_ino: HashMap::from([(ROOT, node)]),
            by_path: BTreeMap::from([(RelPath::root(), ROOT)]),
            by_file: HashMap::new(),
            next: FREE,
        }
    }

    /// The number of `path`, which is as `facts` say: the one it has, or a new one if it is not
    /// known or another file has taken its place.
    pub(super) fn bind(&mut self, path: &RelPath, facts: Facts) -> u64 {
        if let Some(&ino) = self.by_path.get(path)
            && let Some(node) = self.by_ino.get_mut(&ino)
        {
            let same = node.facts.identity == facts.identity;
            if same || (node.facts.is_dir && facts.is_dir) {
                self.set_facts(ino, facts);
                return ino;
            }
            self.detach(path, None);
        }
        if facts.linkable()
            && let Some(&ino) = self.by_file.get(&facts.identity)
        {
            self.alias(ino, path);
            return ino;
        }
        let ino = self.number(facts);
        let node =
            Node { paths: vec![path.clone()], lookups: 0, facts, orphan: None, replaced: false };
        self.by_ino.insert(ino, node);
        self.by_path.insert(path.clone(), ino);
        self.set_facts(ino, facts);
        ino
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
        let before = std::mem::replace(&mut node.facts, facts);
        if before.linkable() && self.by_file.get(&before.identity) == Some(&ino) {
            self.by_file.remove(&before.identity);
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
        let Some(node) = self.by_ino.get_mut(&ino) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 || ino == ROOT {
            return;
        }
        if let Some(node) = self.by_ino.remove(&ino) {
            for path in &node.paths {
                self.by_path.remove(path);
            }
            if self.by_file.get(&node.facts.identity) == Some(&ino) {
                self.by_file.remove(&node.facts.identity);
            }
        }
    }

    /// What the number stands for; none if the kernel should not know it.
    pub(super) fn target(&self, ino: u64) -> Option<Target> {
        let node = self.by_ino.get(&ino)?;
        Some(match (node.paths.first(), &node.orphan) {
            (Some(path), _) => Target::Path(path.clone(), node.facts.identity),
            (None, Some(file)) if node.replaced => Target::Replaced(file.clone()),
            (None, Some(file)) => Target::Orphan(file.clone()),
            (None, None) => Target::Gone,
        })
    }

    /// The paths of a node: several for hard links, none for an orphan.
    pub(super) fn paths(&self, ino: u64) -> Vec<RelPath> {
        self.by_ino.get(&ino).map(|node| node.paths.clone()).unwrap_or_default()
    }

    /// How many names the view has for a file of a lower layer; none for any other, which has as
    /// many as the host says.
    pub(super) fn links_of_lower(&self, ino: u64) -> Option<u32> {
        let node = self.by_ino.get(&ino).filter(|node| !node.facts.in_delta)?;
        Some(u32::from(!node.paths.is_empty()))
    }

    /// Whether the node is a directory.
    pub(super) fn is_dir(&self, ino: u64) -> bool {
        self.by_ino.get(&ino).is_some_and(|node| node.facts.is_dir)
    }

    /// The node that `path` names, if the kernel knows it.
    pub(super) fn ino(&self, path: &RelPath) -> Option<u64> {
        self.by_path.get(path).copied()
    }

    /// All nodes with a path, for a change of the whole view.
    pub(super) fn all(&self) -> Vec<(RelPath, u64)> {
        self.by_path.iter().map(|(path, ino)| (path.clone(), *ino)).collect()
    }

    /// `path` no longer names its node. `orphan` keeps the file reachable if that was its last
    /// name.
    pub(super) fn detach(&mut self, path: &RelPath, orphan: Option<Arc<OwnedFd>>) {
        let Some(ino) = self.by_path.remove(path) else { return };
        let Some(node) = self.by_ino.get_mut(&ino) else { return };
        node.paths.retain(|other| other != path);
        if node.paths.is_empty() {
            node.orphan = orphan;
            if self.by_file.get(&node.facts.identity) == Some(&ino) {
                self.by_file.remove(&node.facts.identity);
            }
        }
    }

    /// Like [`Nodes::detach`], but the kernel has not asked for it and has to be told.
    pub(super) fn replace(&mut self, path: &RelPath, orphan: Option<Arc<OwnedFd>>) {
        let ino = self.by_path.get(path).copied();
        self.detach(path, orphan);
        if let Some(node) = ino.and_then(|ino| self.by_ino.get_mut(&ino)) {
            node.replaced = node.paths.is_empty();
        }
    }

    /// `path` is another name of the node.
    pub(super) fn alias(&mut self, ino: u64, path: &RelPath) {
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.paths.push(path.clone());
            self.by_path.insert(path.clone(), ino);
        }
    }

    /// `from` and all below it is now at `to`, where nothing is known.
    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath) {
        let moved = self.take_subtree(from);
        self.put_subtree(moved, from, to);
    }

    /// What is at and below `a` changes places with what is at and below `b`.
    pub(super) fn exchange(&mut self, a: &RelPath, b: &RelPath) {
        let at_a = self.take_subtree(a);
        let at_b = self.take_subtree(b);
        self.put_subtree(at_a, a, b);
        self.put_subtree(at_b, b, a);
    }

    fn take_subtree(&mut self, top: &RelPath) -> Vec<(RelPath, u64)> {
        // Ordered by bytes, so all below `top` begin with its bytes, with other names between.
        let below: Vec<_> = self
            .by_path
            .range(top.clone()..)
            .take_while(|(path, _)| path.as_bytes().starts_with(top.as_bytes()))
            .filter(|(path, _)| top.contains(path))
            .map(|(path, ino)| (path.clone(), *ino))
            .collect();
        for (path, _) in &below {
            self.by_path.remove(path);
        }
        below
    }

    fn put_subtree(&mut self, moved: Vec<(RelPath, u64)>, from: &RelPath, to: &RelPath) {
        for (old, ino) in moved {
            let Some(new) = old.rebase(from, to) else { continue };
            if let Some(node) = self.by_ino.get_mut(&ino) {
                for path in &mut node.paths {
                    if *path == old {
                        *path = new.clone();
                    }
                }
                self.by_path.insert(new, ino);
            }
        }
    }
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

    fn nodes() -> Nodes {
        Nodes::new(Facts { identity: (1, 2), is_dir: true, in_delta: false, wanted: None })
    }

    #[test]
    fn a_file_that_was_replaced_is_no_longer_opened_by_its_name() {
        let mut nodes = nodes();
        let ino = nodes.bind(&path("a"), in_delta(5));
        nodes.alias(ino, &path("b"));
        let file = || Some(Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap())));
        nodes.replace(&path("a"), file());
        assert!(matches!(nodes.target(ino), Some(Target::Path(..))), "it has another name");
        nodes.replace(&path("b"), file());
        assert!(matches!(nodes.target(ino), Some(Target::Replaced(_))));
    }

    #[test]
    fn a_path_keeps_its_number_over_copy_up_and_takes_a_new_one_when_base_replaced_it() {
        let mut nodes = nodes();
        let ino = nodes.bind(&path("a"), file(70));
        assert_eq!(ino, 70, "base's number");
        nodes.set_facts(ino, in_delta(5));
        assert_eq!(nodes.bind(&path("a"), in_delta(5)), 70, "copied up");
        let other = nodes.bind(&path("a"), file(71));
        assert_eq!(other, 71);
        assert!(nodes.paths(70).is_empty(), "the old one is an orphan");
    }

    #[test]
    fn two_names_of_one_delta_file_are_one_node_and_numbers_are_never_shared() {
        let mut nodes = nodes();
        let ino = nodes.bind(&path("a"), in_delta(5));
        assert_eq!(nodes.bind(&path("b"), in_delta(5)), ino);
        assert_eq!(nodes.paths(ino), [path("a"), path("b")]);
        let base = nodes.bind(&path("x"), file(9));
        assert_ne!(nodes.bind(&path("y"), file(9)), base, "hard links in base are apart here");
    }

    #[test]
    fn renaming_a_directory_moves_what_is_below_it_and_nothing_beside_it() {
        let mut nodes = nodes();
        for (name, ino) in [("d", 10), ("d/x", 11), ("d-b", 12), ("d/y/z", 13)] {
            nodes.bind(&path(name), file(ino));
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
        let ino = nodes.bind(&path("a"), file(70));
        nodes.remember(ino);
        nodes.remember(ino);
        nodes.forget(ino, 1);
        assert!(nodes.target(ino).is_some());
        nodes.forget(ino, 1);
        assert!(nodes.target(ino).is_none());
        assert_eq!(nodes.bind(&path("b"), file(70)), 70);
    }
}
