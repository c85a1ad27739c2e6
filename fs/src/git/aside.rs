//! Setting an agent's `.git` aside, so that the next run begins with base's.
//!
//! What the agent has made is a delta over its snapshot, which git can't read. Both are put
//! together: the snapshot becomes the kept directory, and what the delta has is moved into it. So
//! commits in it are read by nothing but git. Settings and hooks that an agent has written are
//! kept apart, because a user's git would run what they name.

use super::dirs::{Dir, Trash};
use super::snapshot::{git_dirs_below, remove_beside};
use super::{GitError, plan};
use rustix::fs::{self, FileType, Mode};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Below a kept directory: what of the agent's own is no part of the repository.
const APART: &str = "agent";

/// Where the two are being put together. A daemon that died meanwhile is gone on for.
const UNDERWAY: &str = "underway";

/// What to set aside, and where.
#[derive(Clone, Debug)]
pub struct Aside<'a> {
    /// The agent's changes.
    pub delta: &'a Path,
    /// Its snapshots.
    pub pins: &'a Path,
    /// Their name in both.
    pub name: &'a OsStr,
    /// Where kept ones are; made if it is missing.
    pub kept: &'a Path,
    /// What this one is called there.
    pub label: &'a str,
    /// A directory on the file system of `pins` that nothing else uses; made if it is missing.
    pub trash: &'a Path,
    /// Where links to objects are if they could not be made in the snapshot.
    pub beside: &'a Path,
    /// The attribute that marks a directory of the delta as hiding what is below it.
    pub opaque: &'static str,
}

/// Takes the agent's `.git` out of its delta. If there is work in it, it is kept, and the snapshot
/// with it (G4); else only the delta's part goes. Only while no run of the agent lives.
pub fn set_aside(aside: &Aside<'_>) -> Result<(), GitError> {
    let open = |path: &Path| Dir::open(path).map_err(GitError::io("open", path));
    let (delta, pins) = (open(aside.delta)?, open(aside.pins)?);
    let failed = |what| GitError::io(what, aside.delta.join(aside.name));
    let underway = aside.kept.join(UNDERWAY).symlink_metadata().is_ok();
    let found = delta.stat(aside.name).map_err(failed("look at"))?;
    let kind = found.map(|stat| FileType::from_raw_mode(stat.st_mode));
    if !underway {
        match kind {
            None => return Ok(()),
            Some(FileType::Directory)
                if has_work(&delta, aside.name).map_err(failed("read"))? => {}
            Some(FileType::RegularFile) => {}
            Some(_) => return delta.remove_all(aside.name).map_err(failed("remove")),
        }
    }
    crate::layout::make_private(aside.kept).map_err(GitError::io("make", aside.kept))?;
    let kept = open(aside.kept)?;
    let label = free_name(&kept, aside.label).map_err(GitError::io("list", aside.kept))?;
    let is_dir = kind == Some(FileType::Directory);
    let snapshot = pins.dir(aside.name).map_err(GitError::io("open", aside.pins))?;
    if !underway && (!is_dir || snapshot.is_none()) {
        return rename(&delta, aside.name, &kept, &label).map_err(failed("keep"));
    }
    if !underway {
        rename(&pins, aside.name, &kept, OsStr::new(UNDERWAY)).map_err(failed("keep"))?;
    }
    let whole =
        kept.dir_of_mine(UNDERWAY).and_then(|dir| dir.ok_or(io::ErrorKind::NotFound.into()));
    let whole = whole.map_err(GitError::io("open", aside.kept))?;
    if let Some(changes) = delta.dir_of_mine(aside.name).map_err(failed("open"))? {
        let fold = Fold { opaque: aside.opaque };
        fold.git_dir(&changes, &whole).map_err(failed("keep"))?;
    }
    move_beside(&whole, aside.beside, &label)?;
    delta.remove_all(aside.name).map_err(failed("remove"))?;
    rename(&kept, OsStr::new(UNDERWAY), &kept, &label).map_err(failed("keep"))
}

/// Removes the `.git` of an agent that begins anew, delta and snapshot, unless there is work in it.
pub fn forget(aside: &Aside<'_>) -> Result<(), GitError> {
    let open = |path: &Path| Dir::open(path).map_err(GitError::io("open", path));
    let (delta, pins) = (open(aside.delta)?, open(aside.pins)?);
    let failed = |what| GitError::io(what, aside.delta.join(aside.name));
    let is_kept = aside.kept.join(UNDERWAY).symlink_metadata().is_ok()
        || has_work(&delta, aside.name).map_err(failed("read"))?;
    if is_kept {
        return Ok(());
    }
    delta.remove_all(aside.name).map_err(failed("remove"))?;
    if pins.stat(aside.name).map_err(GitError::io("look at", aside.pins))?.is_none() {
        return Ok(());
    }
    let trash = Trash::at(aside.trash).map_err(GitError::io("make", aside.trash))?;
    trash.take(&pins, aside.name).map_err(GitError::io("clear", aside.pins))?;
    trash.empty();
    remove_beside(aside.beside)
}

/// Removes the locks that processes of an earlier run have left in an agent's `.git`, which goes on
/// being used: none of them lives.
pub fn drop_locks(delta: &Path, name: &OsStr) -> Result<(), GitError> {
    let failed = |source| GitError::Io { what: "clear of locks", path: delta.join(name), source };
    let dir = Dir::open(delta).and_then(|delta| delta.dir_of_mine(name)).map_err(failed)?;
    dir.map_or(Ok(()), |dir| drop_locks_in(&dir)).map_err(failed)
}

fn drop_locks_in(dir: &Dir) -> io::Result<()> {
    for entry in dir.names()? {
        let name = entry.name.as_bytes();
        if entry.kind == FileType::RegularFile && plan::is_lock(name) {
            dir.remove_all(&entry.name)?;
        } else if entry.kind == FileType::Directory
            && !plan::is_fan_out(name)
            && let Some(inner) = dir.dir_of_mine(&entry.name)?
        {
            drop_locks_in(&inner)?;
        }
    }
    Ok(())
}

/// Whether a delta's `.git` has more than what git writes when it only looks.
fn has_work(delta: &Dir, name: &OsStr) -> io::Result<bool> {
    let Some(dir) = delta.dir_of_mine(name)? else {
        let stat = delta.stat(name)?;
        let kind = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
        return Ok(kind == Some(FileType::RegularFile));
    };
    for entry in dir.names()? {
        let is_file = matches!(entry.kind, FileType::RegularFile | FileType::Symlink);
        let is_dir = entry.kind == FileType::Directory;
        if is_file && !plan::is_trace(entry.name.as_bytes())
            || is_dir && has_work(&dir, &entry.name)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves changes in overlayfs's format into what they are changes of. Done again after an
/// interruption, it goes on.
struct Fold {
    opaque: &'static str,
}

impl Fold {
    fn git_dir(&self, from: &Dir, to: &Dir) -> io::Result<()> {
        for entry in from.names()? {
            let name = entry.name.as_os_str();
            if !plan::is_work(name.as_bytes()) || entry.kind == FileType::Symlink {
                if entry.kind != FileType::CharacterDevice {
                    rename(from, name, &to.make(APART)?, name)?;
                }
            } else if name == "modules"
                && let Some(modules) = self.enter(from, name, to)?
            {
                self.modules(&modules, &to.make(name)?)?;
            } else {
                self.entry(from, name, entry.kind, to)?;
            }
        }
        Ok(())
    }

    fn modules(&self, from: &Dir, to: &Dir) -> io::Result<()> {
        for entry in from.names()? {
            let Some(inner) = self.enter(from, &entry.name, to)? else { continue };
            let target = to.make(&entry.name)?;
            if target.stat("HEAD")?.is_some() || inner.stat("HEAD")?.is_some() {
                self.git_dir(&inner, &target)?;
            } else {
                self.modules(&inner, &target)?;
            }
        }
        Ok(())
    }

    fn entry(&self, from: &Dir, name: &OsStr, kind: FileType, to: &Dir) -> io::Result<()> {
        match kind {
            FileType::CharacterDevice => to.remove_all(name),
            FileType::RegularFile => rename(from, name, to, name),
            FileType::Directory => {
                let Some(inner) = self.enter(from, name, to)? else { return Ok(()) };
                let target = to.make(name)?;
                for entry in inner.names()? {
                    // Whose objects count, is for the snapshot to say.
                    if name != "info" || entry.name != "alternates" {
                        self.entry(&inner, &entry.name, entry.kind, &target)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A directory of the changes, after it has hidden what it hides.
    fn enter(&self, from: &Dir, name: &OsStr, to: &Dir) -> io::Result<Option<Dir>> {
        let Some(dir) = from.dir_of_mine(name)? else { return Ok(None) };
        match fs::fremovexattr(&dir, self.opaque) {
            Ok(()) => to.remove_all(name)?,
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Some(dir))
    }
}

/// Gives the links beside base's objects to the kept directory.
fn move_beside(kept: &Dir, beside: &Path, label: &OsStr) -> Result<(), GitError> {
    let (Some(above), Some(agent)) = (beside.parent(), beside.file_name()) else { return Ok(()) };
    let mut name = agent.to_owned();
    name.push("-");
    name.push(label);
    let there = above.join(&name);
    let Ok(parent) = Dir::open_beside(above) else { return Ok(()) };
    let failed = |source| GitError::Io { what: "keep", path: beside.to_owned(), source };
    if parent.dir(agent).map_err(failed)?.is_some() {
        rename(&parent, agent, &parent, &name).map_err(failed)?;
    } else if parent.dir(&name).map_err(failed)?.is_none() {
        return Ok(());
    }
    let mut dirs = vec![repoint(kept, beside, &there)];
    let modules = kept.dir("modules").map_err(GitError::io("open", "modules"))?;
    dirs.extend(modules.iter().flat_map(git_dirs_below).map(|dir| repoint(&dir, beside, &there)));
    dirs.into_iter().collect::<io::Result<()>>().map_err(GitError::io("write", beside))
}

/// Lets the alternates of a git directory name another place.
fn repoint(git_dir: &Dir, old: &Path, new: &Path) -> io::Result<()> {
    let Some(objects) = git_dir.dir("objects")? else { return Ok(()) };
    let Some(info) = objects.dir("info")? else { return Ok(()) };
    let Some(text) = info.read("alternates")? else { return Ok(()) };
    let mut changed = Vec::new();
    for line in plan::alternates(&text) {
        let path = PathBuf::from(OsStr::from_bytes(line));
        let path = path.strip_prefix(old).map_or(path.clone(), |below| new.join(below));
        changed.extend_from_slice(path.as_os_str().as_bytes());
        changed.push(b'\n');
    }
    info.write("alternates", &changed, Mode::from_raw_mode(0o644)).map(drop)
}

/// Moves an entry over whatever is there.
fn rename(from: &Dir, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()> {
    let is_dir = |stat: Option<fs::Stat>| {
        stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    if is_dir(to.stat(new)?) || is_dir(from.stat(name)?) {
        to.remove_all(new)?;
    }
    Ok(fs::renameat(from, name, to, new)?)
}

/// `label`, or with a number if that is taken.
fn free_name(dir: &Dir, label: &str) -> io::Result<OsString> {
    let mut name = OsString::from(label);
    for number in 2.. {
        if dir.stat(&name)?.is_none() {
            break;
        }
        name = OsString::from(format!("{label}-{number}"));
    }
    Ok(name)
}
