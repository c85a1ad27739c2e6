//! Extended attributes: overlayfs's marks, and those that a file takes with it into base.

use super::ChangeSetError;
use super::tree::Tree;
use agentfs_core::RelPath;
use rustix::fd::AsFd;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// The namespaces in which overlayfs keeps its marks, and the marks that change what a delta
/// means. This program's views write `opaque` alone.
const OPAQUE: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];
const FOREIGN: [&CStr; 4] = [
    c"trusted.overlay.redirect",
    c"user.overlay.redirect",
    c"trusted.overlay.metacopy",
    c"user.overlay.metacopy",
];

/// The value of one attribute; none if the entry or the file system has none.
fn get(fd: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    // The kernel's limit on the size of a value (XATTR_SIZE_MAX).
    let mut value = Vec::with_capacity(65536);
    match fgetxattr(fd, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn list(fd: impl AsFd) -> Result<Vec<CString>, Errno> {
    // The kernel's limit on the size of the list (XATTR_LIST_MAX).
    let mut names = Vec::with_capacity(65536);
    match flistxattr(fd, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => Ok(names
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| CString::new(name).ok())
            .collect()),
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// Whether the open directory hides what base has below it.
pub(super) fn is_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    for name in OPAQUE {
        if get(&dir, name)?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses an entry whose content is elsewhere than in the delta.
pub(super) fn refuse_foreign_marks(
    tree: &Tree,
    fd: impl AsFd,
    path: &RelPath,
) -> Result<(), ChangeSetError> {
    for name in FOREIGN {
        if get(&fd, name).map_err(tree.fail("read the attributes of", path))?.is_some() {
            return Err(ChangeSetError::Overlay {
                path: path.clone(),
                feature: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Whether base may take the attribute over: a user's own and ACLs. Never overlayfs's marks, and
/// nothing that grants rights (`security.capability`) or labels (`trusted.`).
fn is_taken(name: &CStr) -> bool {
    let name = name.to_bytes();
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name.starts_with(b"system.posix_acl_")
}

/// Copies the attributes that base may take over. A file system that can't hold them goes
/// without, as `cp -a` does.
pub(super) fn copy(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    for name in list(&from)?.iter().filter(|name| is_taken(name)) {
        let Some(value) = get(&from, name)? else { continue };
        match fsetxattr(&to, name.as_c_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
