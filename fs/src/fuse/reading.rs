//! Requests that read and take more than one call of the view: listings.

use super::Adapter;
use crate::view::{Attr, DirList, FsError};
use std::ffi::OsStr;

impl Adapter {
    /// Adds lines of a listing from `offset` on, until `add` says that the answer is full. `add`
    /// also says whether the kernel knows the node by it.
    pub(super) fn fill(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&Attr, u64, &OsStr) -> (bool, bool),
    ) -> Result<(), FsError> {
        let list: DirList = self.view.list(handle, offset == 0)?;
        let mut at = offset;
        loop {
            let dots = [".", ".."];
            if let Some(name) = usize::try_from(at).ok().and_then(|at| dots.get(at)) {
                let mut attr = self.view.getattr(ino, None)?;
                if *name == ".." {
                    attr.ino = self.view.parent_of(ino);
                }
                if add(&attr, at + 1, OsStr::new(name)).0 {
                    return Ok(());
                }
                at += 1;
                continue;
            }
            let index = usize::try_from(at - 2).map_err(|_| FsError::Invalid)?;
            let Some(entry) = self.view.list_entry(&list, index)? else { return Ok(()) };
            at += 1;
            // Gone since the names were taken.
            let Some(attr) = entry.attr else { continue };
            let (full, known) = add(&attr, at, &entry.name);
            if !known {
                self.view.forget(attr.ino, 1);
            }
            if full {
                return Ok(());
            }
        }
    }
}
