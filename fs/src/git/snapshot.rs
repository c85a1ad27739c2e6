//! Taking a snapshot of a repository, or bringing an old one up to date.
//!
//! The order is that of [`plan::Treatment`]: references first, objects last, so that each
//! reference finds its objects. If git deletes something under our hands, as `git gc` does when it
//! has packed it elsewhere, the whole is gone through again, which costs little.

use super::GitError;
use super::dirs::{Dir, Trash};
use super::locate::{self, Repository};
use super::mirror::{How, Mirror, NotDone, place, top};
use super::plan::{self, Origin, Treatment};
use rustix::fs::{FileType, Mode, Stat};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How often a repository is gone through that changes meanwhile.
const PASSES: u32 = 10;

/// Whose snapshot it is to be, and where.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// Of what.
    pub repository: &'a Repository,
    /// The directory that holds it, which is there.
    pub pins: &'a Path,
    /// Its name in there.
    pub name: &'a OsStr,
    /// A directory on the file system of `pins` that nothing else uses; made if it is missing.
    pub trash: &'a Path,
    /// Where links to objects can be made if they can't be made in it.
    pub beside: &'a Path,
    /// The workspace; none if the snapshot will be seen at the repository's own place.
    pub root: Option<&'a Path>,
    /// The user whose files it may show, where the daemon can read those of others too.
    pub only: Option<u32>,
}

/// A pass over a repository.
struct Pass<'a> {
    of: &'a Snapshot<'a>,
    mirror: Mirror,
    /// Directories of objects that are not in the snapshot.
    outside: Vec<PathBuf>,
    /// Below the workspace: what is to say where a submodule's git directory is.
    git_files: Vec<(PathBuf, String)>,
}

/// One name at the top of a git directory.
struct Top {
    kind: FileType,
    own: bool,
    common: bool,
}

impl Snapshot<'_> {
    /// Takes it. Blocks: for a few milliseconds, and longer where many files are new.
    pub fn take(&self) -> Result<(), GitError> {
        // What git replaces as a whole: objects may be in another pack by now, and HEAD may name
        // a branch that has gone.
        let common = &self.repository.common_dir;
        let replaced = [
            common.join("objects/pack"),
            common.join("packed-refs"),
            self.repository.git_dir.join("HEAD"),
        ];
        let version = || {
            replaced.each_ref().map(|path| {
                let found = path.symlink_metadata().ok()?;
                Some((found.ino(), found.mtime(), found.mtime_nsec()))
            })
        };
        for pass in 0..PASSES {
            let before = version();
            let trash = Trash::at(self.trash).map_err(GitError::io("make", self.trash))?;
            let mirror = Mirror {
                give: rustix::process::geteuid().is_root(),
                vanished: false,
                trash: vec![trash],
            };
            let mut pass_over =
                Pass { of: self, mirror, outside: Vec::new(), git_files: Vec::new() };
            let done = pass_over.go();
            pass_over.mirror.trash.into_iter().for_each(Trash::empty);
            done?;
            if !pass_over.mirror.vanished && version() == before {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(u64::from(pass) * 5));
        }
        Err(GitError::Restless(self.repository.common_dir.clone()))
    }
}

impl Pass<'_> {
    fn go(&mut self) -> Result<(), GitError> {
        let Repository { git_dir, common_dir, worktree } = self.of.repository;
        let open = |path: &Path| Dir::open(path).map_err(GitError::io("open", path));
        let own = open(git_dir)?;
        let common = (git_dir != common_dir).then(|| open(common_dir)).transpose()?;
        let pins = open(self.of.pins)?;
        let like = own.own_stat().map_err(GitError::io("look at", git_dir))?;
        let target = self.mirror.make(&pins, self.of.name, &like);
        let target = target.map_err(GitError::io("make", self.of.pins.join(self.of.name)))?;
        let seen_from = match self.of.root {
            Some(_) => Some("..".to_owned()),
            None if common.is_some() => Some(worktree.to_string_lossy().into_owned()),
            None => None,
        };
        let sources = Sources {
            own: &own,
            common: common.as_ref(),
            own_path: git_dir,
            common_path: common_dir,
        };
        self.git_dir(&sources, &target, &top(), seen_from.as_deref())?;
        if self.outside.iter().all(|dir| !dir.starts_with(self.of.beside)) {
            remove_beside(self.of.beside)?;
        }
        self.write_git_files(&pins)
    }

    /// Makes `target` a git directory like the sources; `at` is where it is in the snapshot.
    fn git_dir(
        &mut self,
        sources: &Sources<'_>,
        target: &Dir,
        at: &Path,
        worktree: Option<&str>,
    ) -> Result<(), GitError> {
        let tops = sources.tops()?;
        for ((treatment, name), found) in &tops {
            self.one(*treatment, name, found, sources, target, at, worktree)?;
        }
        let has = |name: &OsStr| tops.keys().any(|(_, known)| known == name);
        let failed = |source| GitError::Io { what: "clear", path: self.of.pins.join(at), source };
        for there in target.names().map_err(failed)? {
            if !has(&there.name) && there.name != plan::OURS {
                self.mirror.discard(target, &there.name).map_err(failed)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all of one place, and used nowhere else")]
    fn one(
        &mut self,
        treatment: Treatment,
        name: &OsStr,
        found: &Top,
        sources: &Sources<'_>,
        target: &Dir,
        at: &Path,
        worktree: Option<&str>,
    ) -> Result<(), GitError> {
        let path = sources.path_of(found).join(name);
        let failed = |what| GitError::io(what, path.clone());
        match treatment {
            Treatment::Skip => Ok(()),
            Treatment::Config => {
                let from = sources.first(found);
                let Some(stat) = from.stat(name).map_err(failed("look at"))? else {
                    self.mirror.vanished = true;
                    return Ok(());
                };
                let text = from.read(name).map_err(failed("read"))?.unwrap_or_default();
                self.write(target, name, &plan::private_config(&text, worktree), &stat)
                    .map_err(failed("copy"))
            }
            Treatment::Worktrees => {
                let Some(worktrees) = sources.own.dir(name).map_err(failed("open"))? else {
                    return Ok(());
                };
                self.worktrees(&worktrees, &path, target)
            }
            Treatment::Modules => {
                let Some(modules) = sources.own.dir(name).map_err(failed("open"))? else {
                    return Ok(());
                };
                let like = modules.own_stat().map_err(failed("look at"))?;
                let target = self.mirror.make(target, name, &like).map_err(failed("make"))?;
                self.modules(&modules, &path, &target, &at.join(name))
            }
            Treatment::Objects => self.objects(&path, target, at),
            Treatment::Store | Treatment::Copy | Treatment::Refs | Treatment::PackedRefs => {
                let how = if treatment == Treatment::Store { How::Link } else { How::Copy };
                let dirs = sources.of(found);
                let rule = |path: &Path, source: usize| {
                    plan::is_taken(path, if source == 0 { Origin::Own } else { Origin::Common })
                };
                if found.kind != FileType::Directory {
                    let from = sources.first(found);
                    let copied = self.mirror.copy(from, target, Path::new(name), name);
                    return copied.map_err(failed("copy"));
                }
                match self.mirror.inner(&dirs, target, Path::new(name), name, how, &rule) {
                    // Worth a link, but not as many copies as there are agents.
                    Err(NotDone::Elsewhere(_)) => {
                        tracing::info!(path = %path.display(), "not in the agents' copies");
                        self.mirror.discard(target, name).map_err(failed("clear"))
                    }
                    other => other.map_err(|error| place(sources.path_of(found), error)),
                }
            }
        }
    }

    /// Of the worktrees that a repository has elsewhere, those that the workspace contains: the
    /// agent sees them, and what names them is right for it, too.
    fn worktrees(&mut self, from: &Dir, path: &Path, target: &Dir) -> Result<(), GitError> {
        let failed = |what| GitError::io(what, path);
        let like = from.own_stat().map_err(failed("look at"))?;
        let name = OsStr::new("worktrees");
        let inner = self.mirror.make(target, name, &like).map_err(failed("make"))?;
        let is_inside = |entry: &OsStr| {
            let git_file = locate::named_in(&path.join(entry).join("gitdir"), b"");
            let root = self.of.root.unwrap_or(&self.of.repository.worktree);
            git_file.is_some_and(|git_file| normal(&git_file).starts_with(root))
        };
        let names = from.names().map_err(failed("list"))?;
        let inside: Vec<_> = names.into_iter().filter(|entry| is_inside(&entry.name)).collect();
        for there in inner.names().map_err(failed("list"))? {
            if !inside.iter().any(|entry| entry.name == there.name) {
                self.mirror.discard(&inner, &there.name).map_err(failed("clear"))?;
            }
        }
        let rule = |path: &Path, _: usize| plan::is_taken(path, Origin::Own);
        for entry in &inside {
            let (sources, at) = ([(0, from)], Path::new(&entry.name));
            let done = self.mirror.inner(&sources, &inner, at, &entry.name, How::Copy, &rule);
            done.map_err(|error| place(path, error))?;
        }
        if inside.is_empty() {
            self.mirror.discard(target, name).map_err(failed("clear"))?;
        }
        Ok(())
    }

    /// The git directories of submodules: each at its name, which may have slashes.
    fn modules(
        &mut self,
        from: &Dir,
        path: &Path,
        target: &Dir,
        at: &Path,
    ) -> Result<(), GitError> {
        let names = from.names().map_err(GitError::io("list", path))?;
        for entry in names.iter().filter(|entry| entry.kind == FileType::Directory) {
            let (path, at) = (path.join(&entry.name), at.join(&entry.name));
            let failed = |what| GitError::io(what, path.clone());
            let Some(inner) = from.dir(&entry.name).map_err(failed("open"))? else {
                self.mirror.vanished = true;
                continue;
            };
            let like = inner.own_stat().map_err(failed("look at"))?;
            let made = self.mirror.make(target, &entry.name, &like).map_err(failed("make"))?;
            if inner.stat("HEAD").map_err(failed("look at"))?.is_some() {
                let worktree = self.module_worktree(&inner, &path, &at);
                let sources =
                    Sources { own: &inner, common: None, own_path: &path, common_path: &path };
                self.git_dir(&sources, &made, &at, worktree.as_deref())?;
            } else {
                self.modules(&inner, &path, &made, &at)?;
            }
        }
        let gone = |there: &OsStr| !names.iter().any(|entry| entry.name == there);
        let failed = |source| GitError::Io { what: "clear", path: path.to_owned(), source };
        for there in target.names().map_err(failed)?.iter().filter(|there| gone(&there.name)) {
            self.mirror.discard(target, &there.name).map_err(failed)?;
        }
        Ok(())
    }

    /// Where the worktree of a submodule is, seen from its place in the snapshot; none if it is
    /// where it always is. If the snapshot's place is not the repository's own, notes that the
    /// submodule's `.git` has to name another directory.
    fn module_worktree(&mut self, module: &Dir, path: &Path, at: &Path) -> Option<String> {
        let root = self.of.root?;
        if root.join(self.of.name) == self.of.repository.git_dir {
            return None;
        }
        let config = module.read("config").ok()??;
        let worktree = normal(&path.join(plan::worktree_of(&config)?));
        let below = worktree.strip_prefix(root).ok()?.to_owned();
        let named = locate::named_in(&worktree.join(".git"), b"gitdir:")?;
        if named.canonicalize().ok()? != path.canonicalize().ok()? {
            return None;
        }
        let up = |path: &Path| "../".repeat(path.components().count());
        let place = Path::new(self.of.name).join(at);
        let text = format!("gitdir: {}{}\n", up(&below), place.display());
        let seen_from = format!("{}{}", up(&place), below.display());
        self.git_files.push((below, text));
        Some(seen_from)
    }

    /// Pins the files that name the git directories of submodules, and no others.
    fn write_git_files(&mut self, pins: &Dir) -> Result<(), GitError> {
        clear_git_files(pins, self.of.name).map_err(GitError::io("clear", self.of.pins))?;
        for (below, text) in std::mem::take(&mut self.git_files) {
            let Some(root) = self.of.root else { continue };
            let file = root.join(&below).join(".git");
            let failed = |what| GitError::io(what, file.clone());
            let mut base = Dir::open(root).map_err(failed("open"))?;
            let mut pinned: Option<Dir> = None;
            for name in &below {
                let Some(inner) = base.dir(name).map_err(failed("open"))? else { break };
                base = inner;
                let like = base.own_stat().map_err(failed("look at"))?;
                let made = self.mirror.make(pinned.as_ref().unwrap_or(pins), name, &like);
                pinned = Some(made.map_err(failed("pin"))?);
            }
            if let (Some(pinned), Some(like)) =
                (pinned, base.stat(".git").map_err(failed("look at"))?)
            {
                self.write(&pinned, OsStr::new(".git"), text.as_bytes(), &like)
                    .map_err(failed("pin"))?;
            }
        }
        Ok(())
    }

    /// A file of our own with the owner, the mode and the times of another.
    fn write(&self, dir: &Dir, name: &OsStr, text: &[u8], like: &Stat) -> std::io::Result<()> {
        let file = dir.write(name, text, Mode::RUSR | Mode::WUSR)?;
        self.mirror.finish(&file, like)
    }

    /// The objects of the git directory that has its own at `path`, with those of its alternates.
    fn objects(&mut self, path: &Path, target: &Dir, at: &Path) -> Result<(), GitError> {
        let failed = |what| GitError::io(what, path);
        let mut dirs = locate::object_dirs(path, self.of.only);
        let like = Dir::open(path).and_then(|dir| dir.own_stat()).map_err(failed("open"))?;
        let here =
            self.mirror.make(target, OsStr::new("objects"), &like).map_err(failed("make"))?;
        let mut beside: Option<(PathBuf, Dir)> = None;
        let mut outside = Vec::new();
        let mut how = How::Link;
        loop {
            let target = beside.as_ref().map_or(&here, |(_, dir)| dir);
            let error = match self.link_objects(&dirs, target, how) {
                Ok(()) => break,
                Err(error) => error,
            };
            match error {
                NotDone::Elsewhere(0) if beside.is_none() => {
                    self.link_objects(&[], &here, how).map_err(|error| place(path, error))?;
                    match self.make_beside(at, &like) {
                        Ok(made) => beside = Some(made),
                        Err(error) => {
                            tracing::warn!(%error, "objects are copied, because no links to them can be made");
                            how = How::Copy;
                        }
                    }
                }
                NotDone::Elsewhere(0) => (beside, how) = (None, How::Copy),
                NotDone::Elsewhere(other) => outside.push(dirs.remove(other)),
                failed @ NotDone::Failed(_) => return Err(place(path, failed)),
            }
        }
        outside.splice(0..0, beside.map(|(path, _)| path));
        self.write_alternates(&here, &outside, &like).map_err(failed("write the alternates of"))?;
        self.outside.append(&mut outside);
        Ok(())
    }

    fn link_objects(&mut self, dirs: &[PathBuf], target: &Dir, how: How) -> Result<(), NotDone> {
        let mut sources = Vec::new();
        for (at, path) in dirs.iter().enumerate() {
            sources.push((at, Dir::open(path).map_err(GitError::io("open", path))?));
        }
        let sources: Vec<(usize, &Dir)> = sources.iter().map(|(at, dir)| (*at, dir)).collect();
        let rule = |path: &Path, source: usize| plan::is_object(path, source > 0);
        self.mirror.tree(&sources, target, &top(), how, &rule)
    }

    /// A directory on the file system of base's git directory, and the place in the snapshot where
    /// the sandbox can show it, if it is inside of that.
    fn make_beside(&mut self, at: &Path, like: &Stat) -> Result<(PathBuf, Dir), GitError> {
        let common = &self.of.repository.common_dir;
        let path = self.of.beside.join(at).join("objects");
        let failed = |source| GitError::Io { what: "make", path: path.clone(), source };
        let mut dir = Dir::open(common).map_err(GitError::io("open", common))?;
        let make = |dir: &mut Dir, below: &Path| -> std::io::Result<()> {
            for name in below {
                *dir = dir.make_beside(name)?;
                self.mirror.adopt(dir, like)?;
            }
            Ok(())
        };
        let beside = self.of.beside.strip_prefix(common).unwrap_or(self.of.beside);
        make(&mut dir, beside).map_err(failed)?;
        let trash = Trash::beside(&dir).map_err(failed)?;
        make(&mut dir, &at.join("objects")).map_err(failed)?;
        self.mirror.trash.push(trash);
        if let Ok(inside) = path.strip_prefix(&self.of.repository.git_dir) {
            let snapshot = self.of.pins.join(self.of.name);
            let mut place = Dir::open(&snapshot).map_err(GitError::io("open", &snapshot))?;
            for name in inside {
                place = self.mirror.make(&place, name, like).map_err(failed)?;
            }
        }
        Ok((path, dir))
    }

    fn write_alternates(
        &self,
        objects: &Dir,
        dirs: &[PathBuf],
        like: &Stat,
    ) -> std::io::Result<()> {
        let [dir, file] = ["info", "alternates"].map(OsStr::new);
        if dirs.is_empty() {
            return objects.dir(dir)?.map_or(Ok(()), |info| info.remove_all(file));
        }
        let mut text = Vec::new();
        for dir in dirs {
            text.extend_from_slice(dir.as_os_str().as_bytes());
            text.push(b'\n');
        }
        let info = self.mirror.make(objects, dir, like)?;
        let mut like = *like;
        like.st_mode = 0o644;
        self.write(&info, file, &text, &like)
    }
}

/// Removes the files named `.git` that an earlier snapshot needed; `but` is a snapshot.
fn clear_git_files(dir: &Dir, but: &OsStr) -> std::io::Result<()> {
    for entry in dir.names()? {
        match entry.kind {
            FileType::RegularFile if entry.name == ".git" => dir.remove_all(&entry.name)?,
            FileType::Directory if entry.name != but => {
                dir.dir(&entry.name)?.map_or(Ok(()), |inner| clear_git_files(&inner, but))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The directories that one git directory is made from.
struct Sources<'a> {
    own: &'a Dir,
    common: Option<&'a Dir>,
    own_path: &'a Path,
    common_path: &'a Path,
}

impl<'a> Sources<'a> {
    /// The names at the top, in the order in which they are taken.
    fn tops(&self) -> Result<BTreeMap<(Treatment, OsString), Top>, GitError> {
        let mut tops = BTreeMap::new();
        let dirs = [(Some(self.own), Origin::Own), (self.common, Origin::Common)];
        for (dir, origin) in dirs.into_iter().filter_map(|(dir, origin)| Some((dir?, origin))) {
            let path = if origin == Origin::Own { self.own_path } else { self.common_path };
            for entry in dir.names().map_err(GitError::io("list", path))? {
                let treatment = plan::treatment(entry.name.as_bytes(), origin);
                if treatment == Treatment::Skip {
                    continue;
                }
                let found = Top { kind: entry.kind, own: false, common: false };
                let top: &mut Top = tops.entry((treatment, entry.name)).or_insert(found);
                top.own |= origin == Origin::Own;
                top.common |= origin == Origin::Common;
            }
        }
        Ok(tops)
    }

    fn of(&self, found: &Top) -> Vec<(usize, &'a Dir)> {
        let own = found.own.then_some((0, self.own));
        let common = self.common.filter(|_| found.common).map(|dir| (1, dir));
        own.into_iter().chain(common).collect()
    }

    fn first(&self, found: &Top) -> &'a Dir {
        if found.own { self.own } else { self.common.unwrap_or(self.own) }
    }

    fn path_of(&self, found: &Top) -> &'a Path {
        if found.own { self.own_path } else { self.common_path }
    }
}

/// The directories of objects, outside of a snapshot, that it names.
pub fn outside_of(snapshot: &Path) -> Vec<PathBuf> {
    let Ok(dir) = Dir::open(snapshot) else { return Vec::new() };
    let mut found = Vec::new();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        let info = dir.dir("objects").ok().flatten().and_then(|dir| dir.dir("info").ok().flatten());
        let text = info.and_then(|info| info.read("alternates").ok().flatten());
        let named = text.iter().flat_map(|text| plan::alternates(text));
        found.extend(named.map(|line| PathBuf::from(OsStr::from_bytes(line))));
        if let Ok(Some(modules)) = dir.dir("modules") {
            dirs.extend(git_dirs_below(&modules));
        }
    }
    found
}

/// The git directories of submodules below `modules`.
pub(super) fn git_dirs_below(modules: &Dir) -> Vec<Dir> {
    let mut found = Vec::new();
    for entry in modules.names().unwrap_or_default() {
        match modules.dir(&entry.name) {
            Ok(Some(dir)) if matches!(dir.stat("HEAD"), Ok(Some(_))) => found.push(dir),
            Ok(Some(dir)) => found.extend(git_dirs_below(&dir)),
            _ => {}
        }
    }
    found
}

/// Removes links beside base's objects, if there are any, and the empty directories of ours above
/// them.
pub(super) fn remove_beside(dir: &Path) -> Result<(), GitError> {
    let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let Ok(parent) = Dir::open_beside(above) else { return Ok(()) };
    parent.remove_all(name).map_err(GitError::io("remove", dir))?;
    // They stay if another agent, or an apply, has something there.
    for empty in above.ancestors().take(2) {
        let (Some(above), Some(name)) = (empty.parent(), empty.file_name()) else { break };
        if !Dir::open_beside(above).is_ok_and(|above| above.remove_empty(name)) {
            break;
        }
    }
    Ok(())
}

/// A path without `..`, by its text: what git writes as a submodule's worktree goes up from a
/// directory that has no links in it.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}
