//! Answers to the kernel: a result of the view as a reply, or as the errno that stands for it.

use super::GENERATION;
use super::convert::{entry_ttl, errno, file_attr, ttl};
use super::kernel::{Answer, Kernel};
use crate::view::{Attr, FsError, Opened, View};
use fuser::{
    FileAttr, FileHandle, INodeNo, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyXattr,
};
use std::time::Duration;

/// Attributes, and how long the kernel may keep them and the name that they were found by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    attr: Attr,
    ttl: Duration,
    /// What is mounted there changes it, without anybody saying so.
    is_mount: bool,
}

impl Shown {
    /// Of an entry of the directory `dir`.
    pub(super) fn entry(view: &View, dir: u64, attr: Attr) -> Self {
        Self {
            attr,
            ttl: entry_ttl(view.is_told(dir), attr.ino),
            is_mount: view.is_mount(attr.ino),
        }
    }

    /// Of a line of a listing.
    pub(super) fn line(view: &View, told: bool, attr: Attr) -> Self {
        Self { attr, ttl: entry_ttl(told, attr.ino), is_mount: view.is_mount(attr.ino) }
    }

    /// Of a node by itself.
    pub(super) fn node(view: &View, attr: Attr) -> Self {
        Self { attr, ttl: ttl(view.is_node_told(attr.ino)), is_mount: false }
    }

    /// fuser takes the number by which the kernel knows a node also for the one that processes
    /// see; where they differ, the kernel has to ask for the attributes, which have the latter.
    pub(super) fn attr_ttl(&self) -> Duration {
        if self.attr.shown == self.attr.ino && !self.is_mount { self.ttl } else { Duration::ZERO }
    }
}

/// Notes why a request failed, on the way to the kernel.
pub(super) fn failed(operation: &'static str, error: FsError) -> fuser::Errno {
    tracing::debug!(operation, %error, "refused");
    errno(error)
}

pub(super) fn answer_entry(
    operation: &'static str,
    reply: ReplyEntry,
    made: Result<Shown, FsError>,
) {
    match made {
        Ok(shown) => {
            let attr = file_attr(&shown.attr);
            reply.entry_with_ttls(&shown.attr_ttl(), &shown.ttl, &attr, GENERATION);
        }
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_empty(operation: &'static str, reply: ReplyEmpty, done: Result<(), FsError>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_attr(
    operation: &'static str,
    reply: ReplyAttr,
    found: Result<Shown, FsError>,
) {
    match found {
        Ok(shown) => {
            let attr = FileAttr { ino: INodeNo(shown.attr.shown), ..file_attr(&shown.attr) };
            reply.attr(&shown.ttl, &attr);
        }
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_open(
    reply: ReplyOpen,
    kernel: &Kernel,
    view: &View,
    ino: u64,
    opened: Result<Opened, FsError>,
) {
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return reply.error(failed("open", error)),
    };
    let handle = FileHandle(opened.handle);
    match kernel.answer(view, ino, &opened, |file| reply.open_backing(file)) {
        Answer::Flags(flags) => reply.opened(handle, flags),
        Answer::Through(flags, id) => reply.opened_passthrough(handle, flags, &id),
    }
}

pub(super) fn answer_create(
    reply: ReplyCreate,
    kernel: &Kernel,
    view: &View,
    made: Result<(Shown, Opened), FsError>,
) {
    let (shown, opened) = match made {
        Ok(made) => made,
        Err(error) => return reply.error(failed("create", error)),
    };
    let (attr, handle) = (file_attr(&shown.attr), FileHandle(opened.handle));
    let ttl = shown.attr_ttl();
    match kernel.answer(view, shown.attr.ino, &opened, |file| reply.open_backing(file)) {
        Answer::Flags(flags) => reply.created(&ttl, &attr, GENERATION, handle, flags),
        Answer::Through(flags, id) => {
            reply.created_passthrough(&ttl, &attr, GENERATION, handle, flags, &id);
        }
    }
}

pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, FsError>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(fuser::Errno::ERANGE),
        Err(error) => reply.error(errno(error)),
    }
}
