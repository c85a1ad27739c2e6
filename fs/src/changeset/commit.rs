//! Performing a plan on base: each step from whichever state a crash has left.

use super::ChangeSetError;
use super::plan::{Applied, FEW, Kept, Plan, Step, times};
use super::tree::{Tree, is_gone};
use crate::stat::{kind_of, signature_of};
use agentfs_core::RelPath;
use agentfs_core::changeset::{BasedOn, Before, FileKind, Signature};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, Stat, fchmod, fchown, fsync, futimens, mkdirat, openat,
    renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

type Hook<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// Performs `plan`, syncs, removes the stage. The stage may be gone: then all was done before.
pub(super) fn perform(
    base: &Path,
    stage_dir: &Path,
    plan: &Plan,
    hook: &mut Hook<'_>,
) -> Result<Applied, ChangeSetError> {
    let stage = match Tree::open(stage_dir) {
        Ok(stage) => Some(stage),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(error),
    };
    let base = Tree::open(base)?;
    let mut commit = Commit { base, stage, kept: Vec::new(), now: BasedOn::new() };
    for (index, step) in plan.steps.iter().enumerate() {
        commit.step(step)?;
        stop_if(hook(index + 1), index + 1)?;
    }
    commit.sync(plan)?;
    stop_if(hook(plan.steps.len()), plan.steps.len())?;
    remove_stage(stage_dir)?;
    Ok(Applied { kept: commit.kept, now: commit.now })
}

fn stop_if(flow: ControlFlow<()>, step: usize) -> Result<(), ChangeSetError> {
    if flow.is_break() { Err(ChangeSetError::Stopped { step }) } else { Ok(()) }
}

fn is_missing(error: &ChangeSetError) -> bool {
    matches!(error, ChangeSetError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Removes a stage: a flat directory of files, links and empty directories.
pub(super) fn remove_stage(stage_dir: &Path) -> Result<(), ChangeSetError> {
    let (Some(home), Some(name)) = (stage_dir.parent(), stage_dir.file_name()) else {
        return Ok(());
    };
    let stage = match Tree::open(stage_dir) {
        Ok(stage) => stage,
        Err(error) if is_missing(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in stage.names(&RelPath::root())? {
        let removed = match unlinkat(&stage, &entry, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(&stage, &entry, AtFlags::REMOVEDIR),
            other => other,
        };
        removed.map_err(stage.fail("remove", &RelPath::root().join(&entry)))?;
    }
    let home = Tree::open(home)?;
    unlinkat(&home, name, AtFlags::REMOVEDIR).map_err(stage.fail("remove", &RelPath::root()))
}

struct Commit {
    base: Tree,
    stage: Option<Tree>,
    kept: Vec<Kept>,
    /// What each step has made of its path, known at the step: what base has there at the end may
    /// be somebody's later save, which the author has not seen.
    now: BasedOn,
}

impl Commit {
    fn step(&mut self, step: &Step) -> Result<(), ChangeSetError> {
        match step {
            Step::Unlink { path, replaces } => self.unlink(path, *replaces),
            Step::Rmdir { path } => self.rmdir(path),
            Step::Mkdir { path, staged } => self.mkdir(path, staged),
            Step::Put { path, staged, replaces, made, .. } => {
                self.put(path, staged, *replaces, *made)
            }
            Step::Settle { path, mode, mtime_ns } => self.settle(path, *mode, *mtime_ns),
        }
    }

    /// The open directory that holds `path`; none if there is no such directory (any more).
    fn place<'a>(&self, path: &'a RelPath) -> Result<Option<(OwnedFd, &'a OsStr)>, ChangeSetError> {
        match self.base.parent(path) {
            Ok(place) => Ok(Some(place)),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(self.base.fail("open the directory of", path)(errno)),
        }
    }

    fn look(&self, dir: &OwnedFd, path: &RelPath) -> Result<Option<Stat>, ChangeSetError> {
        let name = path.file_name().unwrap_or_default();
        Tree::stat_name(dir, name).map_err(self.base.fail("look at", path))
    }

    fn unlink(&mut self, path: &RelPath, replaces: Before) -> Result<(), ChangeSetError> {
        self.now.insert(path.clone(), None);
        let Some((dir, name)) = self.place(path)? else { return Ok(()) };
        match self.look(&dir, path)? {
            None => Ok(()),
            Some(found) if may_replace(&found, replaces) && kind_of(&found) != FileKind::Dir => {
                unlinkat(&dir, name, AtFlags::empty()).map_err(self.base.fail("remove", path))
            }
            // Already made a directory by a later step of this plan.
            Some(found) if kind_of(&found) == FileKind::Dir => Ok(()),
            Some(_) => {
                self.kept.push(Kept::Changed { path: path.clone() });
                Ok(())
            }
        }
    }

    fn rmdir(&mut self, path: &RelPath) -> Result<(), ChangeSetError> {
        self.now.insert(path.clone(), None);
        let Some((dir, name)) = self.place(path)? else { return Ok(()) };
        match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
                self.kept.push(Kept::Directory { path: path.clone() });
                self.now.insert(path.clone(), self.base.signature(path)?);
                Ok(())
            }
            Err(errno) => Err(self.base.fail("remove", path)(errno)),
        }
    }

    fn mkdir(&mut self, path: &RelPath, staged: &str) -> Result<(), ChangeSetError> {
        let (dir, name) = self.make_place(path)?;
        match self.look(&dir, path)? {
            Some(found) if kind_of(&found) == FileKind::Dir => return Ok(()),
            Some(_) => self.move_aside(&dir, path)?,
            None => {}
        }
        if self.staged(staged)?.is_some() {
            self.rename_in(staged, &dir, name, path)
        } else {
            // Made before the crash, and removed by somebody since.
            make_dir(&dir, name).map_err(self.base.fail("make the directory", path))
        }
    }

    fn put(
        &mut self,
        path: &RelPath,
        staged: &str,
        replaces: Before,
        made: Signature,
    ) -> Result<(), ChangeSetError> {
        self.now.insert(path.clone(), Some(made));
        let Some(found) = self.staged(staged)? else { return Ok(()) };
        let (dir, name) = self.make_place(path)?;
        // If the stage has another file under this name, it came out of base before a crash.
        if found.st_ino != made.ino || self.exchange(staged, &dir, name, path, replaces)? {
            self.look_at_old(staged, &dir, path, replaces)?;
        }
        Ok(())
    }

    /// Puts the staged file in its place in one instant. True if something was there, which now
    /// is in the stage instead.
    fn exchange(
        &mut self,
        staged: &str,
        dir: &OwnedFd,
        name: &OsStr,
        path: &RelPath,
        replaces: Before,
    ) -> Result<bool, ChangeSetError> {
        let Some(stage) = &self.stage else { return Ok(false) };
        loop {
            match rename_new(stage, staged.as_ref(), dir, name) {
                Err(Errno::EXIST) => {}
                other => return other.map(|()| false).map_err(self.base.fail("put", path)),
            }
            match renameat_with(stage, staged, dir, name, RenameFlags::EXCHANGE) {
                Ok(()) => return Ok(true),
                // What was there has gone in this very instant.
                Err(Errno::NOENT) => {}
                Err(Errno::INVAL | Errno::NOSYS) => {
                    return self.replace(staged, dir, path, replaces).map(|()| false);
                }
                Err(errno) => return Err(self.base.fail("replace", path)(errno)),
            }
        }
    }

    /// What the exchange took out of base: if it is what the author replaced it goes with the
    /// stage, else it is somebody's newer work and is put beside its old place.
    fn look_at_old(
        &mut self,
        staged: &str,
        dir: &OwnedFd,
        path: &RelPath,
        replaces: Before,
    ) -> Result<(), ChangeSetError> {
        let (Some(found), Some(stage)) = (self.staged(staged)?, &self.stage) else {
            return Ok(());
        };
        let is_to_go = match kind_of(&found) {
            FileKind::Dir => unlinkat(stage, staged, AtFlags::REMOVEDIR).is_ok(),
            _ => may_replace(&found, replaces),
        };
        if !is_to_go {
            let moved = rename_aside(stage, staged.as_ref(), dir, path);
            self.kept.extend(moved.map_err(self.base.fail("move aside", path))?);
        }
        Ok(())
    }

    /// The same where the file system can't exchange: a save between look and rename is lost.
    fn replace(
        &mut self,
        staged: &str,
        dir: &OwnedFd,
        path: &RelPath,
        replaces: Before,
    ) -> Result<(), ChangeSetError> {
        let name = path.file_name().unwrap_or_default();
        match self.look(dir, path)? {
            None => {}
            Some(found) if kind_of(&found) == FileKind::Dir => {
                match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    Err(_) => self.move_aside(dir, path)?,
                }
            }
            Some(found) if may_replace(&found, replaces) => {
                let stage = self.stage.as_ref().ok_or(Errno::NOENT);
                return stage
                    .and_then(|stage| renameat(stage, staged, dir, name))
                    .map_err(self.base.fail("replace", path));
            }
            Some(_) => self.move_aside(dir, path)?,
        }
        self.rename_in(staged, dir, name, path)
    }

    fn settle(
        &mut self,
        path: &RelPath,
        mode: u32,
        mtime_ns: Option<i64>,
    ) -> Result<(), ChangeSetError> {
        let dir = match self.base.dir(path) {
            Ok(dir) => dir,
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) => return Err(self.base.fail("open", path)(errno)),
        };
        let settled = fchmod(&dir, Mode::from_raw_mode(mode))
            .and_then(|()| mtime_ns.map_or(Ok(()), |at| futimens(&dir, &times(at))));
        let settled = settled.and_then(|()| rustix::fs::fstat(&dir));
        let settled = settled.map_err(self.base.fail("set the mode of", path))?;
        self.now.insert(path.clone(), Some(signature_of(&settled)));
        Ok(())
    }

    fn staged(&self, staged: &str) -> Result<Option<Stat>, ChangeSetError> {
        let Some(stage) = &self.stage else { return Ok(None) };
        let found = Tree::stat_name(stage, OsStr::new(staged));
        found.map_err(stage.fail("look into", &RelPath::root()))
    }

    /// Moves a staged entry to where nothing is. If something has appeared in this very instant
    /// it is moved aside first.
    fn rename_in(
        &mut self,
        staged: &str,
        dir: &OwnedFd,
        name: &OsStr,
        path: &RelPath,
    ) -> Result<(), ChangeSetError> {
        loop {
            let stage = self.stage.as_ref().ok_or(Errno::NOENT);
            match stage.and_then(|stage| rename_new(stage, staged.as_ref(), dir, name)) {
                Err(Errno::EXIST) => self.move_aside(dir, path)?,
                other => return other.map_err(self.base.fail("put", path)),
            }
        }
    }

    /// Gives what is at `path` a free name beside it.
    fn move_aside(&mut self, dir: &OwnedFd, path: &RelPath) -> Result<(), ChangeSetError> {
        let name = path.file_name().unwrap_or_default();
        let moved = rename_aside(dir, name, dir, path);
        self.kept.extend(moved.map_err(self.base.fail("move aside", path))?);
        Ok(())
    }

    /// The open directory that holds `path`; made anew if somebody has removed it meanwhile, or
    /// has put a file or a link there (which is never followed, but moved aside).
    fn make_place<'a>(
        &mut self,
        path: &'a RelPath,
    ) -> Result<(OwnedFd, &'a OsStr), ChangeSetError> {
        if let Some(place) = self.place(path)? {
            return Ok(place);
        }
        let above: Vec<RelPath> = path.ancestors().skip(1).collect();
        for dir in above.iter().rev().filter(|dir| !dir.is_root()) {
            let (parent, name) = self.base.parent(dir).map_err(self.base.fail("open", dir))?;
            match self.look(&parent, dir)? {
                Some(found) if kind_of(&found) == FileKind::Dir => continue,
                Some(_) => self.move_aside(&parent, dir)?,
                None => {}
            }
            make_dir(&parent, name).map_err(self.base.fail("make the directory", dir))?;
        }
        self.base.parent(path).map_err(self.base.fail("open the directory of", path))
    }

    /// Makes all that the plan has touched durable.
    fn sync(&self, plan: &Plan) -> Result<(), ChangeSetError> {
        let mut dirs: BTreeSet<RelPath> =
            plan.steps.iter().filter_map(|step| step.path().parent()).collect();
        dirs.extend(plan.steps.iter().filter_map(|step| match step {
            Step::Settle { path, .. } => Some(path.clone()),
            _ => None,
        }));
        let root = RelPath::root();
        if dirs.len() > FEW {
            let dir = self.base.dir(&root).map_err(self.base.fail("open", &root))?;
            return rustix::fs::syncfs(dir).map_err(self.base.fail("sync", &root));
        }
        for dir in dirs {
            match self.base.dir(&dir).and_then(fsync) {
                Ok(()) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => return Err(self.base.fail("sync", &dir)(errno)),
            }
        }
        Ok(())
    }
}

/// A rename that replaces nothing; file systems that have no such flag get the plain one.
fn rename_new(from: impl AsFd, name: &OsStr, to: impl AsFd, new: &OsStr) -> Result<(), Errno> {
    match renameat_with(&from, name, &to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match Tree::stat_name(&to, new)? {
            Some(_) => Err(Errno::EXIST),
            None => renameat(from, name, to, new),
        },
        other => other,
    }
}

/// Gives the entry `name` of `from` a free name in `dir`, which holds `path`; none if the entry is
/// gone by itself.
fn rename_aside(
    from: impl AsFd,
    name: &OsStr,
    dir: &OwnedFd,
    path: &RelPath,
) -> Result<Option<Kept>, Errno> {
    let mut attempt = 1;
    loop {
        let aside = aside_name(path.file_name().unwrap_or_default(), attempt);
        match rename_new(&from, name, dir, &aside) {
            Ok(()) => {
                let moved_to = path.parent().unwrap_or_default().join(&aside);
                return Ok(Some(Kept::Aside { path: path.clone(), moved_to }));
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::EXIST) => attempt += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// Makes a directory that belongs to whom the one around it belongs to.
fn make_dir(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    if rustix::process::geteuid().is_root() {
        let around = rustix::fs::fstat(dir)?;
        let made = openat(
            dir,
            name,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let uid = rustix::fs::Uid::from_raw(around.st_uid);
        let gid = rustix::fs::Gid::from_raw(around.st_gid);
        fchown(made, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// `NAME.agentfs-kept`, then `NAME.agentfs-kept-2` ..., within the length that names may have.
fn aside_name(name: &OsStr, attempt: u32) -> OsString {
    let bytes = name.as_bytes();
    let mut aside = OsStr::from_bytes(&bytes[..bytes.len().min(220)]).to_owned();
    aside.push(".agentfs-kept");
    if attempt > 1 {
        aside.push(format!("-{attempt}"));
    }
    aside
}

/// Whether what is at a place may give way to what replaces `before`.
fn may_replace(found: &Stat, before: Before) -> bool {
    before.is_some_and(|before| signature_of(found).same_version(&before))
}
