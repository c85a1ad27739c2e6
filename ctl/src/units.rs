//! What people type, as paths and work units of the workspace.
//!
//! Paths are relative to where the user stands. Symbolic links on the way are followed, as the
//! view does when the file is written; the last component is the unit itself and is not.

use crate::error::Error;
use crate::session::Session;
use agentfs_core::{RelPath, WorkUnit};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the help of every command that takes UNITs says about them.
pub const HELP: &str = "\
A UNIT is a file (src/a.rs), a directory with all below it (src/api/), a named process \
(proc:build) or a named resource (res:port-8080). Paths are relative to the current directory. \
A directory that exists needs no slash at its end; one that does not exist yet does.";

impl Session {
    /// The path below the workspace's root that the user means by `typed`.
    pub fn path(&self, typed: &OsStr) -> Result<RelPath, Error> {
        let absolute = self.cwd.join(typed);
        self.workspace
            .relative(Path::new("/"), &without_links(&absolute))
            .ok_or_else(|| self.outside(typed))
    }

    /// The work unit that the user means by `typed`.
    pub fn unit(&self, typed: &OsStr) -> Result<WorkUnit, Error> {
        WorkUnit::typed(
            typed.as_bytes(),
            |path| self.path(OsStr::from_bytes(path)),
            |path| {
                let on_disk = self.workspace.root.join(path.to_path_buf());
                on_disk.symlink_metadata().is_ok_and(|entry| entry.is_dir())
            },
        )
    }

    fn outside(&self, typed: &OsStr) -> Error {
        Error::Outside { path: PathBuf::from(typed), root: self.workspace.root.clone() }
    }
}

/// `path` with the symbolic links in the nearest existing directory above it resolved.
fn without_links(path: &Path) -> PathBuf {
    // `dir/..` has no last component to spare, and `link/` means what the link leads to.
    let whole = path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/");
    if whole && let Ok(path) = path.canonicalize() {
        return path;
    }
    path.ancestors()
        .skip(1)
        .find_map(|dir| Some(dir.canonicalize().ok()?.join(path.strip_prefix(dir).ok()?)))
        .unwrap_or_else(|| path.to_owned())
}
