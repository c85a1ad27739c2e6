//! Where the repository is that a workspace belongs to, as git finds it.

use super::{GitError, plan};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest `.git` file, `commondir` or `alternates` that is read.
const LONGEST: u64 = 1 << 20;

/// How many alternates of alternates git follows.
const DEEPEST: usize = 5;

/// A repository with the worktree that a workspace is, or is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The directory that has `.git`.
    pub worktree: PathBuf,
    /// What its `.git` is or names.
    pub git_dir: PathBuf,
    /// What it shares with other worktrees; else `git_dir` itself.
    pub common_dir: PathBuf,
}

/// Finds the repository of `root`: at `root`, or above it on the same file system. None also if
/// there is something that git would not take for one.
///
/// `only` is the user to whom the git directories must belong, where the daemon could read those
/// of others too: else the owner of a workspace could have it show them to him.
pub fn locate(root: &Path, only: Option<u32>) -> Result<Option<Repository>, GitError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| GitError::Io { what: "look at", path, source }
    };
    let device = root.metadata().map_err(failed(root))?.dev();
    for worktree in root.ancestors() {
        if worktree.metadata().map_err(failed(worktree))?.dev() != device {
            break;
        }
        let git = worktree.join(".git");
        let found = match git.metadata() {
            Ok(found) if found.is_dir() => Some(git),
            Ok(found) if found.is_file() => named_in(&git, b"gitdir:"),
            Ok(_) => None,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(failed(&git)(error)),
        };
        let Some(repository) = found.and_then(|git_dir| Repository::at(worktree, &git_dir)) else {
            return Ok(None);
        };
        if let Some(dir) = repository.belongs_to_another(only) {
            tracing::warn!(dir = %dir.display(), "left alone: not the workspace's owner's");
            return Ok(None);
        }
        return Ok(Some(repository));
    }
    Ok(None)
}

impl Repository {
    fn at(worktree: &Path, git_dir: &Path) -> Option<Self> {
        let git_dir = git_dir.canonicalize().ok()?;
        let common_dir = match named_in(&git_dir.join("commondir"), b"") {
            Some(common) => common.canonicalize().ok()?,
            None => git_dir.clone(),
        };
        let is_one = git_dir.join("HEAD").symlink_metadata().is_ok()
            && common_dir.join("objects").is_dir()
            && common_dir.join("refs").is_dir();
        is_one.then(|| Self { worktree: worktree.to_owned(), git_dir, common_dir })
    }

    fn belongs_to_another(&self, only: Option<u32>) -> Option<&Path> {
        let only = only?;
        let mut dirs = [self.git_dir.as_path(), &self.common_dir].into_iter();
        dirs.find(|dir| dir.metadata().is_ok_and(|found| found.uid() != only))
    }

    /// Whether several worktrees share it.
    pub fn is_linked(&self) -> bool {
        self.git_dir != self.common_dir
    }
}

/// All directories in which git would look for objects, `objects` first; without those that are
/// not there, or that `only` could not read.
pub(super) fn object_dirs(objects: &Path, only: Option<u32>) -> Vec<PathBuf> {
    let mut found = vec![objects.to_owned()];
    let mut next = vec![objects.to_owned()];
    for _ in 0..=DEEPEST {
        for dir in std::mem::take(&mut next) {
            let Some(text) = read(&dir.join(plan::ALTERNATES)) else { continue };
            for line in plan::alternates(&text) {
                let Ok(other) = dir.join(OsStr::from_bytes(line)).canonicalize() else { continue };
                if other.is_dir() && may_read(&other, only) && !found.contains(&other) {
                    found.push(other.clone());
                    next.push(other);
                }
            }
        }
    }
    found
}

/// Whether `only`, if it is anybody, may read what is in a directory: his own, or everybody's.
fn may_read(dir: &Path, only: Option<u32>) -> bool {
    let Some(only) = only else { return true };
    let mode = |dir: &Path| dir.metadata().map_or(0, |found| found.mode());
    dir.metadata().is_ok_and(|found| found.uid() == only)
        || mode(dir) & 0o005 == 0o005 && dir.ancestors().all(|dir| mode(dir) & 0o001 == 0o001)
}

/// The directory that a small file names after `prefix`, as it stands there or relative to the
/// file's own.
pub(super) fn named_in(file: &Path, prefix: &[u8]) -> Option<PathBuf> {
    let text = read(file)?;
    let named = text.strip_prefix(prefix)?.trim_ascii();
    (!named.is_empty()).then(|| file.parent().unwrap_or(file).join(OsStr::from_bytes(named)))
}

/// A small regular file.
fn read(file: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = rustix::fs::open(file, flags, rustix::fs::Mode::empty()).ok()?;
    let file = std::fs::File::from(open);
    let mut text = Vec::new();
    let fits = file.metadata().is_ok_and(|found| found.is_file() && found.len() <= LONGEST);
    (fits && io::Read::read_to_end(&mut &file, &mut text).is_ok()).then_some(text)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
