//! Requests of the attendant: it does in a view what has already happened, for watchers to hear.
//!
//! They are answered with the present truth, change nothing and ask no gate. A name that is to be
//! announced as new looks absent to the attendant's look-up until it has "made" it, and one that
//! has gone looks present until it has "removed" it; to everybody else the truth shows all along,
//! and no such answer may be kept by the kernel. The attendant is told by its process number
//! ([`Trust`]); whatever else it asks that would change something is refused, so that nothing can
//! be done through it that its daemon has not announced.

use super::answers::{Shown, answer_attr, answer_entry, failed};
use super::convert::{file_attr, no_entry};
use super::{Adapter, GENERATION};
use crate::attendant::{Happened, News, Trust};
use crate::gate::ViewControl as _;
use crate::stat::kind_of;
use crate::view::{Attr, FsError, View};
use agentfs_core::RelPath;
use agentfs_core::changeset::FileKind;
use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyOpen,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Answers that are not the truth: the kernel must not keep them for a moment.
const NOT_KEPT: Duration = Duration::ZERO;

/// Numbers of things that have gone and that the kernel does not know any more.
const GONE_FILE: u64 = (1 << 53) - 32;
const GONE_DIR: u64 = GONE_FILE + 1;

/// What the attendant is about to do in one view.
#[derive(Debug, Default)]
pub(super) struct Announced {
    trust: Trust,
    expected: Mutex<Expected>,
}

/// By path: what is announced, by which order.
#[derive(Debug, Default)]
struct Expected {
    gone: HashMap<RelPath, (u64, FileKind)>,
    made: HashMap<RelPath, (u64, FileKind)>,
}

/// A mounted view, as far as announcing something in it needs one.
#[derive(Clone)]
pub struct Announcing {
    view: Arc<View>,
    mountpoint: PathBuf,
    announced: Arc<Announced>,
}

impl Announced {
    pub(super) fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, expected: Mutex::default() })
    }

    pub(super) fn is_attendant(&self, tid: u32) -> bool {
        self.trust.is_attendant(tid)
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announcing {
    pub(super) fn new(view: Arc<View>, mountpoint: PathBuf, announced: Arc<Announced>) -> Self {
        Self { view, mountpoint, announced }
    }

    /// Where the view is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Waits a moment until the kernel has heard of what was changed in the view.
    pub fn settle(&self) {
        self.view.settle();
    }

    /// The attendant is about to be told of `news` by order `id`.
    pub fn expect(&self, id: u64, news: &[News]) {
        let mut expected = self.announced.expected();
        for News { path, what } in news {
            match *what {
                Happened::Gone(kind) => drop(expected.gone.insert(path.clone(), (id, kind))),
                Happened::Made(kind) => drop(expected.made.insert(path.clone(), (id, kind))),
                Happened::Changed => {}
            }
        }
    }

    /// The order is done, or will never be.
    pub fn expect_nothing(&self, id: u64) {
        let mut expected = self.announced.expected();
        expected.gone.retain(|_, (by, _)| *by != id);
        expected.made.retain(|_, (by, _)| *by != id);
    }
}

impl std::fmt::Debug for Announcing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcing").field("mountpoint", &self.mountpoint).finish_non_exhaustive()
    }
}

impl Adapter {
    /// The reply, if the look-up is none that the attendant makes for an announcement.
    pub(super) fn unless_announced(
        &self,
        tid: u32,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) -> Option<ReplyEntry> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let Ok(path) = self.view.child_path(parent.0, name) else { return Some(reply) };
        let (gone, made) = {
            let expected = self.announced.expected();
            (expected.gone.get(&path).copied(), expected.made.contains_key(&path))
        };
        match gone {
            Some((_, kind)) if made || !self.shows(parent, name) => {
                let known = self.view.known_as(&path, kind == FileKind::Dir);
                let attr = attr_of_gone(kind, known);
                reply.entry(&NOT_KEPT, &attr, GENERATION);
                None
            }
            _ if made => {
                reply.entry(&NOT_KEPT, &no_entry(), GENERATION);
                None
            }
            _ => Some(reply),
        }
    }

    fn shows(&self, parent: INodeNo, name: &OsStr) -> bool {
        match self.view.lookup(parent.0, name) {
            Ok(Some(attr)) => {
                self.view.forget(attr.ino, 1);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Answers the attendant's look at the attributes of something that has gone, on the way to
    /// what was below it.
    pub(super) fn unless_gone_by(
        &self,
        tid: u32,
        ino: INodeNo,
        reply: ReplyAttr,
    ) -> Option<ReplyAttr> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let path = self.view.path_of(ino.0).ok();
        let gone = path.and_then(|path| self.announced.expected().gone.get(&path).copied());
        match gone {
            Some((_, kind)) => {
                let open = self.view.getattr(ino.0, None).ok();
                reply.attr(&NOT_KEPT, &attr_of_gone(kind, Some((ino.0, open))));
                None
            }
            None => Some(reply),
        }
    }

    /// Answers the attendant's making of something that is there, if this is the attendant.
    pub(super) fn unless_made(
        &self,
        tid: u32,
        (parent, name): (INodeNo, &OsStr),
        kind: FileKind,
        reply: ReplyEntry,
    ) -> Option<ReplyEntry> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let made = self.view.child_path(parent.0, name).and_then(|path| {
            let expected = self.announced.expected().made.remove(&path);
            if expected.is_none_or(|(_, expected)| expected != kind) {
                return Err(FsError::Virtual);
            }
            let attr = self.view.lookup(parent.0, name)?.ok_or(FsError::NotFound)?;
            if kind_of(&attr.stat) == kind {
                Ok(attr)
            } else {
                self.view.forget(attr.ino, 1);
                Err(FsError::Moved)
            }
        });
        let made = made.map(|attr| Shown::entry(&self.view, parent.0, attr));
        answer_entry("announcement", reply, made);
        None
    }

    /// Answers the attendant's removal of something that has gone, if this is the attendant.
    pub(super) fn unless_gone(
        &self,
        tid: u32,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEmpty,
    ) -> Option<ReplyEmpty> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let path = self.view.child_path(parent.0, name);
        let told = path.is_ok_and(|path| {
            let mut expected = self.announced.expected();
            let replaced = expected.made.contains_key(&path);
            let gone = expected.gone.remove(&path).is_some();
            drop(expected);
            gone && (replaced || !self.shows(parent, name))
        });
        if told {
            reply.ok();
        } else {
            reply.error(failed("announcement", FsError::Virtual));
        }
        None
    }

    /// Answers the attendant's change of attributes with those that are, if this is the attendant.
    pub(super) fn unless_changed(
        &self,
        tid: u32,
        ino: INodeNo,
        reply: ReplyAttr,
    ) -> Option<ReplyAttr> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let now = self.view.getattr(ino.0, None).map(|attr| Shown::node(&self.view, attr));
        answer_attr("announcement", reply, now);
        None
    }

    /// Gives the attendant a handle on nothing, if this is the attendant: it only closes it. Not
    /// cached, because the kernel lets no cached and no passed-through handle in beside each other.
    pub(super) fn unless_closed(&self, tid: u32, reply: ReplyOpen) -> Option<ReplyOpen> {
        if !self.announced.is_attendant(tid) {
            return Some(reply);
        }
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(self.view.open_nothing()), flags);
        None
    }
}

/// Attributes of something that has gone: as the node that the kernel still knows, whose watchers
/// are to hear of it; else as one that stands for it.
fn attr_of_gone(kind: FileKind, known: Option<(u64, Option<Attr>)>) -> FileAttr {
    let mut attr = no_entry();
    attr.kind = match kind {
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::File | FileKind::Special => FileType::RegularFile,
    };
    // The attendant's own, as it is of the daemon's user: it has to be able to remove it.
    attr.perm = 0o700;
    attr.uid = rustix::process::geteuid().as_raw();
    attr.gid = rustix::process::getegid().as_raw();
    attr.nlink = 1;
    attr.ino = INodeNo(if kind == FileKind::Dir { GONE_DIR } else { GONE_FILE });
    if let Some((ino, open)) = known {
        // Who has it open goes on reading: its size must stay what it is.
        attr = open.map_or(attr, |open| file_attr(&open));
        attr.ino = INodeNo(ino);
    }
    attr
}
