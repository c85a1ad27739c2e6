//! Requests that read and take more than one call of the view: listings.

use super::Adapter;
use crate::view::{Attr, DOTS, FsError};
use std::ffi::OsStr;

impl Adapter {
    /// Adds lines of a listing from `offset` on, until `add` says that the answer is full. `add`
    /// also says whether the kernel knows the node by it.
    pub(super) fn fill(
        &self,
        ino: u64,
        offset: u64,
        mut add: impl FnMut(&Attr, u64, &OsStr) -> (bool, bool),
    ) -> Result<(), FsError> {
        let listing = self.view.list(ino, offset)?;
        for (name, cookie) in [(".", 1), ("..", DOTS)] {
            if offset >= cookie {
                continue;
            }
            let mut attr = self.view.getattr(ino, None)?;
            if name == ".." {
                attr.ino = self.view.parent_of(ino);
            }
            if add(&attr, cookie, OsStr::new(name)).0 {
                return Ok(());
            }
        }
        for index in listing.after(offset).. {
            let Some(entry) = self.view.list_entry(&listing, index)? else { break };
            // Gone since the names were taken.
            let Some(attr) = entry.attr else { continue };
            let (full, known) = add(&attr, entry.cookie, &entry.name);
            if !known {
                self.view.forget(attr.ino, 1);
            }
            if full {
                return Ok(());
            }
        }
        self.view.end_list(ino);
        Ok(())
    }
}
