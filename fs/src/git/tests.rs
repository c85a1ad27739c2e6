//! Snapshots of real repositories, made by real git, looked at by real git.

use super::*;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A repository with two commits, the first of them in a pack, and a place for snapshots.
struct Place {
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with_state(tempfile::tempdir().unwrap())
    }

    fn with_state(state: tempfile::TempDir) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), state };
        for name in ["delta", "pins"] {
            std::fs::create_dir(place.state.path().join(name)).unwrap();
        }
        place.git(&["init", "-q", "-b", "main"]);
        place.git(&["config", "user.name", "T"]);
        place.git(&["config", "user.email", "t@e"]);
        place.commit("One");
        place.git(&["gc", "-q"]);
        place.commit("Two");
        place
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn commit(&self, message: &str) {
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.root(), arguments)
    }

    fn snapshot(&self) -> PathBuf {
        self.state.path().join("pins/.git")
    }

    fn beside(&self) -> PathBuf {
        self.root().join(".git/agentfs/id/alice")
    }

    fn take(&self) -> Result<(), GitError> {
        let repository = locate(self.root(), None)?.unwrap();
        let snapshot = Snapshot {
            repository: &repository,
            pins: &self.state.path().join("pins"),
            name: OsStr::new(".git"),
            trash: &self.state.path().join("trash"),
            beside: &self.beside(),
            root: Some(self.root()),
            only: None,
        };
        snapshot.take()
    }

    /// What plain git says of the snapshot.
    fn seen(&self, arguments: &[&str]) -> String {
        let dir = self.snapshot().display().to_string();
        let mut all = vec!["--git-dir", dir.as_str()];
        all.extend(arguments);
        git(Path::new("/"), &all)
    }
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").current_dir(dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

const LOG: [&str; 2] = ["log", "--format=%s"];

#[test]
fn a_snapshot_stays_and_is_brought_up_to_date() {
    let place = Place::new();
    place.take().unwrap();
    place.git(&["checkout", "-q", "--orphan", "new"]);
    place.commit("New");
    place.git(&["branch", "-q", "-D", "main"]);
    place.git(&["reflog", "expire", "--expire=now", "--all"]);
    place.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(place.seen(&LOG), "Two\nOne");
    assert_eq!(place.seen(&["fsck", "--strict"]), "");
    place.take().unwrap();
    assert_eq!(place.seen(&LOG), "New");
    assert_eq!(place.seen(&["branch", "--format=%(refname)"]), "refs/heads/new");
    let packs = |git: &Path| {
        let mut names: Vec<_> = git.join("objects/pack").read_dir().unwrap().flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        names.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>()
    };
    assert_eq!(packs(&place.snapshot()), packs(&place.root().join(".git")), "old packs are gone");
}

#[test]
fn a_reference_that_is_changed_within_one_tick_is_taken_again() {
    let place = Place::new();
    let file = place.root().join(".git/refs/heads/main");
    let [one, two] = ["HEAD~1", "HEAD"].map(|commit| place.git(&["rev-parse", commit]));
    for commit in [&one, &two, &one, &two, &one] {
        std::fs::write(&file, format!("{commit}\n")).unwrap();
        place.take().unwrap();
        assert_eq!(place.seen(&["rev-parse", "HEAD"]), **commit);
    }
}

#[test]
fn loose_objects_that_come_and_go_in_known_directories_are_seen() {
    let place = Place::new();
    let objects = place.root().join(".git/objects");
    let fan_out = place.git(&["rev-parse", "HEAD"])[..2].to_owned();
    let (inside, copy) = (objects.join(&fan_out), place.snapshot().join("objects").join(&fan_out));
    let names = |dir: &Path| {
        let mut names: Vec<_> = dir.read_dir().unwrap().flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    for round in 0..20 {
        place.take().unwrap();
        assert_eq!(names(&inside), names(&copy), "round {round}");
        let file = inside.join(format!("{:038}", round / 2));
        if round % 2 == 0 {
            std::fs::write(&file, "no object").unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        // Both within the time in which a directory's time tells nothing, and after it.
        std::thread::sleep(std::time::Duration::from_millis(if round % 3 == 0 { 50 } else { 0 }));
    }
}

#[test]
fn a_repository_that_is_packed_and_pruned_meanwhile_is_taken_whole() {
    let place = Place::new();
    let script = "while [ -e .git/go ]; do
        git commit -q --allow-empty -m More && git checkout -q -B topic && git pack-refs --all
        git repack -q -a -d && git prune-packed -q && git checkout -q main && git branch -q -D topic
    done";
    std::fs::write(place.root().join(".git/go"), "").unwrap();
    let mut busy = Command::new("sh")
        .args(["-ec", script])
        .current_dir(place.root())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut taken = 0;
    for _ in 0..60 {
        match place.take() {
            Ok(()) => {
                taken += 1;
                place.seen(&["fsck", "--connectivity-only"]);
                assert!(place.seen(&LOG).ends_with("Two\nOne"));
            }
            // Said, and never half a repository.
            Err(GitError::Restless(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    std::fs::remove_file(place.root().join(".git/go")).unwrap();
    busy.wait().unwrap();
    assert!(taken > 40, "only {taken} of 60 were taken");
}

#[test]
fn objects_of_another_file_system_are_linked_beside_or_else_copied() {
    let place = Place::with_state(tempfile::tempdir_in("/dev/shm").unwrap());
    place.take().unwrap();
    assert_eq!(outside_of(&place.snapshot()), [place.beside().join("objects")]);
    place.git(&["checkout", "-q", "--orphan", "new"]);
    place.commit("New");
    place.git(&["branch", "-q", "-D", "main"]);
    place.git(&["reflog", "expire", "--expire=now", "--all"]);
    place.git(&["gc", "-q", "--prune=now"]);
    assert_eq!(place.seen(&LOG), "Two\nOne");
    // A link leads nowhere.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::remove_dir_all(place.root().join(".git/agentfs")).unwrap();
    std::fs::create_dir_all(elsewhere.path().join("id/alice/objects")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), place.root().join(".git/agentfs")).unwrap();
    place.take().unwrap();
    assert!(elsewhere.path().join("id/alice/objects").is_dir());
    assert_eq!(outside_of(&place.snapshot()), Vec::<PathBuf>::new());
    std::fs::remove_file(place.root().join(".git/agentfs")).unwrap();
    place.take().unwrap();
    // A name that is taken is left alone.
    std::fs::remove_dir_all(place.root().join(".git/agentfs")).unwrap();
    std::fs::write(place.root().join(".git/agentfs"), "the user's").unwrap();
    place.take().unwrap();
    assert_eq!(outside_of(&place.snapshot()), Vec::<PathBuf>::new());
    assert_eq!((place.seen(&LOG), place.seen(&["fsck"])), ("New".into(), String::new()));
    std::fs::remove_file(place.root().join(".git/agentfs")).unwrap();
    place.take().unwrap();
    assert_eq!(place.seen(&["fsck"]), "");
    assert_eq!(outside_of(&place.snapshot()), [place.beside().join("objects")]);
}

#[test]
fn a_repository_is_found_as_git_finds_it_and_only_ones_own() {
    let place = Place::new();
    let found = |dir: &Path, only| locate(dir, only).unwrap();
    let below = place.root().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let repository = found(&below, None).unwrap();
    assert_eq!(repository.worktree, place.root());
    assert!(!repository.is_linked());
    let me = rustix::process::geteuid().as_raw();
    assert!(found(&below, Some(me)).is_some());
    assert_eq!(found(&below, Some(me + 1)), None, "another user's");
    place.git(&["worktree", "add", "-q", "linked"]);
    let repository = found(&place.root().join("linked"), None).unwrap();
    assert!(repository.is_linked());
    assert_eq!(repository.git_dir, place.root().join(".git/worktrees/linked"));
    assert_eq!(repository.common_dir, place.root().join(".git"));
    std::fs::write(below.join(".git"), "gitdir: /nowhere\n").unwrap();
    assert_eq!(found(&below, None), None, "git would refuse it, too");
    assert_eq!(found(place.state.path(), None), None);
}

#[test]
fn links_that_somebody_has_put_there_are_not_followed() {
    let place = Place::new();
    let secret = place.state.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let git = place.root().join(".git");
    for at in ["description", "info/exclude", "refs/heads/evil"] {
        std::fs::remove_file(git.join(at)).unwrap_or_default();
        std::os::unix::fs::symlink(&secret, git.join(at)).unwrap();
    }
    std::os::unix::fs::symlink(place.state.path(), git.join("hooks/dir")).unwrap();
    place.take().unwrap();
    for at in ["description", "info/exclude", "refs/heads/evil", "hooks/dir"] {
        assert!(place.snapshot().join(at).is_symlink(), "{at}");
    }
}
