//! Filling a stage: copies of all new contents, as they shall be in base, and the plan.

use super::plan::{FEW, Owner, Plan, Step, times};
use super::tree::{Tree, hash_of};
use super::{ChangeSetError, Source, attributes};
use crate::stat::kind_of;
use agentfs_core::RelPath;
use agentfs_core::changeset::{Action, Change, ChangeSet, FileKind, Signature};
use rustix::fd::AsFd;
use rustix::fs::{
    Access, AtFlags, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fsync, futimens, mkdirat,
    openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

/// A stage being filled.
pub(super) struct Stage<'a> {
    source: &'a Source<'a>,
    base: Tree,
    delta: Tree,
    tree: Tree,
    /// The directory that holds the stage, to be synced too.
    home: Tree,
    owner: Option<Owner>,
}

impl<'a> Stage<'a> {
    /// Makes the directory `at`, and the one that holds it if need be.
    pub fn make(
        source: &'a Source<'a>,
        at: &Path,
        owner: Option<Owner>,
    ) -> Result<Self, ChangeSetError> {
        let base = Tree::open(source.base)?;
        let delta = Tree::open(source.delta)?;
        let home = make_home(at, owner)?;
        let name = at.file_name().unwrap_or(OsStr::new("stage"));
        match mkdirat(&home, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(ChangeSetError::StageExists { path: at.to_owned() }),
            Err(errno) => return Err(home.fail("make a directory in", &RelPath::root())(errno)),
        }
        let tree = Tree::open(at)?;
        Ok(Self { source, base, delta, tree, home, owner })
    }

    /// Writes every content and syncs all.
    pub fn fill(&self, changes: &ChangeSet) -> Result<Plan, ChangeSetError> {
        let mut removals = Vec::new();
        let mut rmdirs = Vec::new();
        let mut mkdirs = Vec::new();
        let mut puts = Vec::new();
        let mut settles = Vec::new();
        self.check_ways(changes)?;
        self.check_places(changes)?;
        let one_by_one = changes.changes.len() <= FEW;
        for (index, change) in changes.changes.iter().enumerate() {
            let path = change.path.clone();
            let replaces = change.before;
            let staged = format!("{index:06}");
            let was = self.base.signature(&path)?.map(|now| now.kind);
            match change.after.map(|after| (after.kind, after)) {
                None if was == Some(FileKind::Dir) => rmdirs.push(Step::Rmdir { path }),
                None => removals.push(Step::Unlink { path, replaces }),
                Some((FileKind::Special, _)) => {}
                Some((FileKind::Dir, after)) => {
                    let is_merged = was == Some(FileKind::Dir);
                    if !is_merged {
                        if was.is_some() {
                            removals.push(Step::Unlink { path: path.clone(), replaces });
                        }
                        self.directory(change, &staged, one_by_one)?;
                        mkdirs.push(Step::Mkdir { path: path.clone(), staged });
                    }
                    if !is_merged || change.action == Action::Modified {
                        let mtime_ns = (!is_merged).then_some(after.mtime_ns);
                        settles.push(Step::Settle { path, mode: after.mode, mtime_ns });
                    }
                }
                Some((kind, after)) => {
                    if kind == FileKind::Symlink {
                        self.link(change, after, &staged)?;
                    } else {
                        self.file(change, after, &staged, one_by_one)?;
                    }
                    let made = self.made(&staged)?;
                    puts.push(Step::Put { path, staged, replaces, after, made });
                }
            }
        }
        self.sync(one_by_one)?;
        // What is inside comes first when directories go or are settled.
        rmdirs.reverse();
        settles.reverse();
        Ok(Plan { steps: [removals, rmdirs, mkdirs, puts, settles].concat() })
    }

    /// The signature of a staged file.
    fn made(&self, staged: &str) -> Result<Signature, ChangeSetError> {
        let path = RelPath::root().join(staged.as_ref());
        let found = self.tree.signature(&path)?.ok_or(Errno::NOENT);
        found.map_err(self.tree.fail("look at", &path))
    }

    fn sync(&self, one_by_one: bool) -> Result<(), ChangeSetError> {
        let root = RelPath::root();
        let dir = self.tree.dir(&root).map_err(self.tree.fail("open", &root))?;
        let synced = if one_by_one { fsync(&dir) } else { rustix::fs::syncfs(&dir) };
        synced.map_err(self.tree.fail("sync", &root))?;
        let home = self.home.dir(&root).map_err(self.home.fail("open", &root))?;
        fsync(home).map_err(self.home.fail("sync", &root))
    }

    /// Refuses a way to a change that leads through a file or a link, unless the set replaces it.
    fn check_ways(&self, changes: &ChangeSet) -> Result<(), ChangeSetError> {
        let paths: BTreeSet<&RelPath> = changes.changes.iter().map(|change| &change.path).collect();
        let mut ways = BTreeSet::new();
        for change in changes.changes.iter().filter(|change| change.after.is_some()) {
            // What is above a way that is known is known too.
            for way in change.path.ancestors().skip(1) {
                if !ways.insert(way) {
                    break;
                }
            }
        }
        for way in ways.iter().filter(|way| !paths.contains(way)) {
            match self.base.dir(way) {
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.base.fail("write in", way)(errno)),
            }
        }
        Ok(())
    }

    /// Refuses now what would make the commit stop half-way.
    fn check_places(&self, changes: &ChangeSet) -> Result<(), ChangeSetError> {
        let root = RelPath::root();
        let device = |stat: Option<rustix::fs::Stat>| stat.map(|stat| stat.st_dev);
        let stage_device = device(self.tree.stat(&root)?);
        let deleted: BTreeSet<&RelPath> = changes
            .changes
            .iter()
            .filter(|change| change.after.is_none())
            .map(|change| &change.path)
            .collect();
        let mut places = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for change in &changes.changes {
            let unseen = change.path.ancestors().skip(1).take_while(|at| seen.insert(at.clone()));
            places.extend(unseen.into_iter().find(|place| self.is_base_dir(place)));
            let becomes_file = change.after.is_some_and(|after| after.kind != FileKind::Dir);
            if becomes_file && self.is_base_dir(&change.path) {
                self.check_empties(&change.path, &deleted)?;
            }
        }
        for place in &places {
            if device(self.base.stat(place)?) != stage_device {
                return Err(ChangeSetError::OtherFileSystem {
                    path: self.source.base.join(place.to_path_buf()),
                    stage: self.tree.at().to_owned(),
                });
            }
            let dir = self.base.dir(place).map_err(self.base.fail("open", place))?;
            rustix::fs::accessat(&dir, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
                .map_err(self.base.fail("write in", place))?;
        }
        Ok(())
    }

    fn is_base_dir(&self, path: &RelPath) -> bool {
        let found = self.base.stat(path).ok().flatten();
        found.is_some_and(|found| kind_of(&found) == FileKind::Dir)
    }

    /// Whether the directory `top` will be empty when all in `deleted` is gone.
    fn check_empties(
        &self,
        top: &RelPath,
        deleted: &BTreeSet<&RelPath>,
    ) -> Result<(), ChangeSetError> {
        let mut dirs = vec![top.clone()];
        while let Some(dir) = dirs.pop() {
            for name in self.base.names(&dir)? {
                let by = dir.join(&name);
                if !deleted.contains(&by) {
                    return Err(ChangeSetError::Occupied { path: top.clone(), by });
                }
                dirs.push(by);
            }
        }
        Ok(())
    }

    /// The owner of what takes the place of `path`: that of what is there, else the given one.
    fn owner_at(&self, path: &RelPath) -> Result<Option<Owner>, ChangeSetError> {
        let Some(owner) = self.owner else { return Ok(None) };
        let replaced = self.base.stat(path)?.filter(|found| kind_of(found) != FileKind::Dir);
        Ok(Some(replaced.map_or(owner, |stat| Owner { uid: stat.st_uid, gid: stat.st_gid })))
    }

    fn directory(&self, change: &Change, staged: &str, sync: bool) -> Result<(), ChangeSetError> {
        let path = &change.path;
        let make = || -> Result<(), Errno> {
            mkdirat(&self.tree, staged, Mode::RWXU)?;
            let made =
                openat(&self.tree, staged, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            attributes::copy(self.delta.dir(path)?, &made)?;
            own(&made, self.owner)?;
            // Until it is settled, it must be possible to write in it.
            fchmod(&made, Mode::RWXU)?;
            if sync { fsync(made) } else { Ok(()) }
        };
        make().map_err(self.delta.fail("stage", path))
    }

    fn link(&self, change: &Change, after: Signature, staged: &str) -> Result<(), ChangeSetError> {
        let path = &change.path;
        let owner = self.owner_at(path)?;
        let make = || -> Result<Vec<u8>, Errno> {
            let target = self.delta.link(path)?;
            symlinkat(target.as_slice(), &self.tree, staged)?;
            if let Some(owner) = owner {
                let (uid, gid) = ids(owner);
                chownat(&self.tree, staged, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            let times = times(after.mtime_ns);
            utimensat(&self.tree, staged, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(target)
        };
        let target = make().map_err(self.delta.fail("stage", path))?;
        same_as_scanned(change, &blake3::hash(&target).to_hex())
    }

    fn file(
        &self,
        change: &Change,
        after: Signature,
        staged: &str,
        sync: bool,
    ) -> Result<(), ChangeSetError> {
        let path = &change.path;
        let owner = self.owner_at(path)?;
        let mut from = self.delta.file(path).map_err(self.delta.fail("open", path))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = openat(&self.tree, staged, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.delta.fail("stage", path))?;
        let mut to = File::from(to);
        let copied = copy_data(&mut from, &mut to);
        let hash = copied.map_err(|error| self.delta.io("copy", path, error))?;
        same_as_scanned(change, &hash)?;
        let finish = || -> Result<(), Errno> {
            attributes::copy(&from, &to)?;
            own(&to, owner)?;
            fchmod(&to, Mode::from_raw_mode(after.mode & 0o1777))?;
            futimens(&to, &times(after.mtime_ns))?;
            if sync { fsync(&to) } else { Ok(()) }
        };
        finish().map_err(self.delta.fail("stage", path))
    }
}

/// Shares the blocks where the file system can, else copies; the hash of what arrived.
fn copy_data(from: &mut File, to: &mut File) -> std::io::Result<String> {
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_err() {
        std::io::copy(from, to)?;
    }
    to.seek(SeekFrom::Start(0))?;
    hash_of(to)
}

fn same_as_scanned(change: &Change, hash: &str) -> Result<(), ChangeSetError> {
    if change.after_hash.as_deref() == Some(hash) {
        return Ok(());
    }
    Err(ChangeSetError::ChangedSinceScan { path: change.path.clone() })
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
}

fn own(fd: impl AsFd, owner: Option<Owner>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = ids(owner);
    fchown(fd, uid, gid)
}

/// The directory that shall hold the stage `at`; made if only it is missing.
fn make_home(at: &Path, owner: Option<Owner>) -> Result<Tree, ChangeSetError> {
    let path = at.parent().unwrap_or(Path::new("/"));
    match Tree::open(path) {
        Err(ChangeSetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let above = Tree::open(path.parent().unwrap_or(Path::new("/")))?;
            let name = path.file_name().unwrap_or(OsStr::new("."));
            let root = RelPath::root();
            mkdirat(&above, name, Mode::RWXU).map_err(above.fail("make a directory in", &root))?;
            let synced = above.dir(&root).and_then(fsync);
            synced.map_err(above.fail("sync", &root))?;
            let home = Tree::open(path)?;
            // Another daemon of the same user may stage here next, without being root.
            let given = home.dir(&root).and_then(|dir| own(dir, owner));
            given.map_err(home.fail("set the owner of", &root))?;
            Ok(home)
        }
        other => other,
    }
}
