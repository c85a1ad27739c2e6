//! Requests that read and take more than one call of the view: listings.

use super::Adapter;
use crate::view::{Attr, DOTS, FsError};
use std::ffi::OsStr;

impl Adapter {
    /// Adds lines of a listing from `offset` on, until `add` says that the answer is full. `add`
    /// also says whether the kernel knows the node by it. What fails after the first line fails
    /// when the kernel asks for the rest: it would never hear of the nodes that it knows by now.
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
        let mut added = false;
        for index in listing.after(offset).. {
            let entry = match self.view.list_entry(&listing, index) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(_) if added => return Ok(()),
                Err(error) => return Err(error),
            };
            // Gone since the names were taken.
            let Some(attr) = entry.attr else { continue };
            let (full, known) = add(&attr, entry.cookie, &entry.name);
            added = true;
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
