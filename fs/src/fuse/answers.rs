//! Answers to the kernel: a result of the view as a reply, or as the errno that stands for it.

use super::GENERATION;
use super::convert::{TTL, errno, file_attr};
use crate::view::{Attr, FsError, Opened};
use fuser::{FileHandle, FopenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr};

/// Notes why a request failed, on the way to the kernel.
pub(super) fn failed(operation: &'static str, error: FsError) -> fuser::Errno {
    tracing::debug!(operation, %error, "refused");
    errno(error)
}

pub(super) fn answer_entry(
    operation: &'static str,
    reply: ReplyEntry,
    made: Result<Attr, FsError>,
) {
    match made {
        Ok(attr) => reply.entry(&TTL, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_empty(operation: &'static str, reply: ReplyEmpty, done: Result<(), FsError>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_attr(operation: &'static str, reply: ReplyAttr, found: Result<Attr, FsError>) {
    match found {
        Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
        Err(error) => reply.error(failed(operation, error)),
    }
}

pub(super) fn answer_open(reply: ReplyOpen, opened: Result<Opened, FsError>) {
    match opened {
        Ok(opened) => reply.opened(FileHandle(opened.handle), fopen(opened)),
        Err(error) => reply.error(failed("open", error)),
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

pub(super) fn fopen(opened: Opened) -> FopenFlags {
    if opened.direct {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
    } else {
        FopenFlags::FOPEN_NOFLUSH
    }
}
