//! Views through real mounts. They run as root, like the machines that run all tests.

mod asking;
mod syncing;

use super::*;
use crate::gate::{Answer, Gate, Intent, Notice, Permit, Refusal, Requester, ViewControl};
use crate::view::{Owner, Scratch, ViewSpec};
use agentfs_core::RelPath;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom as Position, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the gate answers for one path.
#[derive(Clone, Copy)]
enum Say {
    No(Refusal),
    /// Keeps the question until the test answers it.
    Wait,
}

#[derive(Default)]
struct TestGate {
    say: Mutex<BTreeMap<String, Say>>,
    asked: Mutex<Vec<Intent>>,
    waiting: Mutex<Vec<Answer>>,
    read: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<String>>,
    /// Whether everything is permitted at once.
    open: AtomicBool,
    /// The names of the threads that opened something that can be read.
    openers: Mutex<Vec<String>>,
}

impl TestGate {
    fn say(&self, path: &str, say: Say) {
        self.say.lock().unwrap().insert(path.to_owned(), say);
    }

    fn units(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().flat_map(|intent| intent.units.iter().map(ToString::to_string)).collect()
    }
}

impl Gate for TestGate {
    fn already(&self, _: &Intent) -> Option<Permit> {
        self.open.load(Ordering::Relaxed).then(Permit::granted)
    }

    fn ask(&self, intent: Intent, requester: Requester, answer: Answer) {
        assert_ne!(requester.tid, 0);
        let said = intent
            .paths
            .iter()
            .find_map(|path| self.say.lock().unwrap().get(&path.to_string()).copied());
        self.asked.lock().unwrap().push(intent);
        match said {
            Some(Say::Wait) => self.waiting.lock().unwrap().push(answer),
            Some(Say::No(refusal)) => {
                std::thread::spawn(move || answer(Err(refusal)));
            }
            None => {
                std::thread::spawn(move || answer(Ok(Permit::granted())));
            }
        }
    }

    fn read(&self, path: &RelPath) {
        self.read.lock().unwrap().push(path.to_string());
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.openers.lock().unwrap().push(thread);
    }

    fn forget(&self, path: &RelPath) {
        self.forgotten.lock().unwrap().push(path.to_string());
    }

    fn notice(&self, notice: Notice) -> String {
        format!("{notice:?}\n")
    }
}

struct TestGuard(Arc<TestGate>);

struct Mounted {
    _guard: TestGuard,
    dir: tempfile::TempDir,
    gate: Arc<TestGate>,
    view: MountedView,
}

impl Drop for TestGuard {
    /// A test that fails must not leave threads that wait for the gate: they can't be killed.
    fn drop(&mut self) {
        for answer in
            self.0.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..)
        {
            answer(Err(Refusal::Closed));
        }
    }
}

impl Mounted {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }

    fn base(&self, path: &str) -> PathBuf {
        self.dir.path().join("base").join(path)
    }

    fn delta(&self, path: &str) -> PathBuf {
        self.dir.path().join("delta").join(path)
    }

    fn run(&self, command: &str) -> String {
        let done = Command::new("sh")
            .args(["-euc", command])
            .current_dir(self.at(""))
            .env("HOME", self.dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command}: {} {text} {errors}", done.status);
        text
    }
}

fn mounted(base: &[(&str, &str)]) -> Mounted {
    mounted_as(base, Owner { host: (0, 0), shown: (0, 0) })
}

fn mounted_as(base: &[(&str, &str)], owner: Owner) -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    for name in ["base", "delta", "work", "pins", "mnt"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (path, text) in base {
        let path = dir.path().join("base").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let gate = Arc::new(TestGate::default());
    let path = |name: &str| dir.path().join(name);
    let spec = ViewSpec {
        agent: "alice".parse().unwrap(),
        base: path("base"),
        delta: path("delta"),
        work: path("work"),
        pins: path("pins"),
        owner,
        scratch: Arc::new(Scratch::new(&path("base"), &[]).unwrap()),
    };
    let view = View::open(spec, gate.clone()).unwrap();
    let mounted = mount(view, &path("mnt")).unwrap();
    Mounted { _guard: TestGuard(gate.clone()), dir, gate, view: mounted }
}

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

#[test]
fn files_are_read_from_base_and_written_to_the_delta() {
    let m = mounted(&[("a.txt", "old\n"), ("d/b.txt", "b\n")]);
    assert_eq!(fs::read_to_string(m.at("a.txt")).unwrap(), "old\n");
    let before = fs::metadata(m.at("a.txt")).unwrap();
    assert_eq!(before.ino(), fs::metadata(m.base("a.txt")).unwrap().ino());

    let mut reader = fs::File::open(m.at("a.txt")).unwrap();
    fs::OpenOptions::new().append(true).open(m.at("a.txt")).unwrap().write_all(b"new\n").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old\nnew\n", "an open reader sees the write");
    assert_eq!(fs::read_to_string(m.base("a.txt")).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(m.delta("a.txt")).unwrap(), "old\nnew\n");
    assert_eq!(fs::metadata(m.at("a.txt")).unwrap().ino(), before.ino(), "over copy-up");

    fs::write(m.at("d/b.txt"), "short").unwrap();
    assert_eq!(fs::read_to_string(m.at("d/b.txt")).unwrap(), "short");
    fs::write(m.at("d/c.txt"), "c").unwrap();
    fs::remove_file(m.at("a.txt")).unwrap();
    assert!(!m.at("a.txt").exists());
    assert_eq!(fs::symlink_metadata(m.delta("a.txt")).unwrap().rdev(), 0, "a whiteout");
    fs::write(m.at("a.txt"), "again").unwrap();
    assert_eq!(fs::read_to_string(m.at("a.txt")).unwrap(), "again");

    let mut names: Vec<_> =
        fs::read_dir(m.at("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b.txt", "c.txt"]);
    assert_eq!(m.gate.units(), ["a.txt", "d/b.txt", "d/c.txt", "a.txt", "a.txt"]);
    assert!(m.gate.read.lock().unwrap().contains(&"a.txt".to_owned()));
}

#[test]
fn names_are_made_moved_and_removed_as_on_any_file_system() {
    let m = mounted(&[("a", "a"), ("d/x", "x"), ("d/y", "y"), ("e/z", "z")]);
    // Replace a file of base by rename, the way editors save.
    fs::write(m.at("a.tmp"), "saved").unwrap();
    let saved = fs::metadata(m.at("a.tmp")).unwrap().ino();
    fs::rename(m.at("a.tmp"), m.at("a")).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "saved");
    assert_eq!(fs::metadata(m.at("a")).unwrap().ino(), saved);
    assert!(m.gate.forgotten.lock().unwrap().contains(&"a.tmp".to_owned()));

    assert_eq!(errno(fs::rename(m.at("d"), m.at("d2"))), libc::EXDEV);
    fs::create_dir(m.at("n")).unwrap();
    fs::write(m.at("n/1"), "1").unwrap();
    let mut open = fs::File::open(m.at("n/1")).unwrap();
    fs::rename(m.at("n"), m.at("moved")).unwrap();
    assert_eq!(fs::read_to_string(m.at("moved/1")).unwrap(), "1");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1");
    assert_eq!(errno(fs::remove_dir(m.at("moved"))), libc::ENOTEMPTY);

    // A directory of base, emptied, removed and made again, is empty.
    fs::remove_file(m.at("d/x")).unwrap();
    fs::remove_file(m.at("d/y")).unwrap();
    fs::remove_dir(m.at("d")).unwrap();
    assert!(!m.at("d").exists());
    fs::create_dir(m.at("d")).unwrap();
    assert_eq!(fs::read_dir(m.at("d")).unwrap().count(), 0);
    fs::remove_dir_all(m.at("e")).unwrap();
    fs::rename(m.at("moved"), m.at("e")).unwrap();
    assert_eq!(m.run("ls e"), "1\n", "base's e/z stays hidden");

    fs::hard_link(m.at("a"), m.at("a2")).unwrap();
    let (one, two) = (fs::metadata(m.at("a")).unwrap(), fs::metadata(m.at("a2")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    fs::write(m.at("a2"), "both").unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "both");

    symlink("e/1", m.at("link")).unwrap();
    assert_eq!(fs::read_to_string(m.at("link")).unwrap(), "1");
    assert_eq!(fs::read_link(m.at("link")).unwrap(), PathBuf::from("e/1"));
    m.run("mkfifo p && test -p p && rm p");
    let denied = Command::new("mknod").arg(m.at("w")).args(["c", "0", "0"]).output().unwrap();
    assert!(!denied.status.success());
}

#[test]
fn renameat2_has_its_flags() {
    use rustix::fs::{CWD, RenameFlags as Flags, renameat_with};

    let m = mounted(&[("a", "a"), ("b", "b")]);
    let rename = |from: &str, to: &str, flags| {
        renameat_with(CWD, m.at(from), CWD, m.at(to), flags).map_err(std::io::Error::from)
    };
    assert_eq!(errno(rename("a", "b", Flags::NOREPLACE)), libc::EEXIST);
    rename("a", "b", Flags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "b");
    assert_eq!(fs::read_to_string(m.at("b")).unwrap(), "a");
    rename("a", "c", Flags::NOREPLACE).unwrap();
    assert_eq!(m.run("ls"), "b\nc\n");
    assert_eq!(errno(rename("b", "c", Flags::WHITEOUT)), libc::EINVAL);
}

#[test]
fn open_files_outlive_their_names() {
    let m = mounted(&[("a", "base"), ("gone", "g")]);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(m.at("a")).unwrap();
    fs::remove_file(m.at("a")).unwrap();
    file.write_all(b"more").unwrap();
    file.seek(Position::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "more");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.set_len(2).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2);
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    // A file of base that nobody has written.
    let reader = fs::File::open(m.at("gone")).unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    fs::write(m.at("gone"), "another").unwrap();
    let mut buffer = [0; 1];
    reader.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"g");
    assert_eq!(fs::read_to_string(m.base("gone")).unwrap(), "g");
}

#[test]
fn attributes_are_kept_over_copy_up_and_can_be_changed() {
    let m = mounted(&[("a", "text"), ("d/x", "x")]);
    m.run("true");
    fs::set_permissions(m.base("a"), fs::Permissions::from_mode(0o751)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let base = fs::File::options().write(true).open(m.base("a")).unwrap();
    base.set_modified(old).unwrap();
    rustix::fs::setxattr(m.base("a"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
        .unwrap();
    let file = fs::OpenOptions::new().write(true).open(m.at("a")).unwrap();
    let copy = fs::metadata(m.at("a")).unwrap();
    assert_eq!((copy.modified().unwrap(), copy.mode() & 0o7777), (old, 0o751));
    drop(file);
    let mut note = [0; 4];
    rustix::fs::getxattr(m.at("a"), "user.note", &mut note[..]).unwrap();
    assert_eq!(&note, b"kept");
    let mut names = [0; 100];
    let length = rustix::fs::listxattr(m.at("a"), &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.note\0", "the format's own are hidden");

    m.run("chmod 600 a && touch -d @5 a && truncate -s 2 a && setfattr -n user.x -v 1 a || true");
    let now = fs::metadata(m.at("a")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.len()), (0o600, 2));
    m.run("chmod 700 d && touch -d @7 d && chown 5:6 d");
    let dir = fs::metadata(m.at("d")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime(), dir.uid(), dir.gid()), (0o700, 7, 5, 6));
    assert_ne!(fs::metadata(m.base("d")).unwrap().mode() & 0o7777, 0o700);
    assert!(!m.gate.units().contains(&"d/".to_owned()), "directories merge");
    m.run("chmod 755 . && touch .");
}

#[test]
fn files_of_the_workspaces_owner_are_shown_as_the_agents() {
    let m = mounted_as(&[], Owner { host: (1234, 1235), shown: (77, 78) });
    fs::write(m.base("a"), "a").unwrap();
    std::os::unix::fs::chown(m.base("a"), Some(1234), Some(1235)).unwrap();
    std::os::unix::fs::chown(m.at(""), Some(77), Some(78)).unwrap();
    let a = fs::metadata(m.at("a")).unwrap();
    assert_eq!((a.uid(), a.gid()), (77, 78));
    let made = Command::new("sh")
        .args(["-c", "echo x > new && mkdir dir && ln -s new link && echo y >> a"])
        .current_dir(m.at(""))
        .uid(77)
        .gid(78)
        .status();
    assert!(made.unwrap().success());
    for name in ["new", "dir", "link", "a"] {
        let host = fs::symlink_metadata(m.delta(name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (1234, 1235), "{name}");
        let shown = fs::symlink_metadata(m.at(name)).unwrap();
        assert_eq!((shown.uid(), shown.gid()), (77, 78), "{name}");
    }
}

#[test]
fn refusals_reach_the_caller_and_others_go_on() {
    let m = mounted(&[("busy", ""), ("stale", ""), ("denied", ""), ("held", "h"), ("free", "")]);
    m.gate.say("busy", Say::No(Refusal::Busy));
    m.gate.say("stale", Say::No(Refusal::Stale));
    m.gate.say("denied", Say::No(Refusal::Denied));
    m.gate.say("held", Say::Wait);
    let write = |name: &str| fs::OpenOptions::new().write(true).open(m.at(name));
    assert_eq!(errno(write("busy")), libc::EBUSY);
    assert_eq!(errno(write("stale")), libc::EAGAIN);
    assert_eq!(errno(fs::remove_file(m.at("denied"))), libc::EACCES);
    assert_eq!(errno(fs::rename(m.at("free"), m.at("denied"))), libc::EACCES);
    assert_eq!(errno(symlink("x", m.at("busy/x"))), libc::ENOTDIR);

    let held = m.at("held");
    // More than there are session threads.
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let held = held.clone();
            std::thread::spawn(move || {
                // Not the standard library's open, which tries again after EINTR.
                let flags = rustix::fs::OFlags::WRONLY;
                rustix::fs::open(held, flags, rustix::fs::Mode::empty()).map(drop)
            })
        })
        .collect();
    while m.gate.waiting.lock().unwrap().len() < 5 {
        std::thread::yield_now();
    }
    assert_eq!(fs::read_to_string(m.at("held")).unwrap(), "h");
    fs::write(m.at("other"), "o").unwrap();
    assert_eq!(fs::read_dir(m.at("")).unwrap().count(), 7);
    for (index, answer) in m.gate.waiting.lock().unwrap().drain(..).enumerate() {
        answer(if index == 0 { Err(Refusal::Interrupted) } else { Ok(Permit::granted()) });
    }
    let failed = waiting.into_iter().filter_map(|thread| thread.join().unwrap().err());
    assert_eq!(failed.map(rustix::io::Errno::raw_os_error).collect::<Vec<_>>(), [libc::EINTR]);
}

#[test]
fn scratch_is_never_asked_for() {
    let m = mounted(&[(".gitignore", "target/\n"), (".git/HEAD", "ref: refs/heads/main\n")]);
    fs::create_dir_all(m.at("target/debug")).unwrap();
    let asked = m.gate.units();
    fs::write(m.at("target/debug/x"), "x").unwrap();
    fs::write(m.at(".git/HEAD"), "x").unwrap();
    fs::rename(m.at("target/debug"), m.at("target/release")).unwrap();
    fs::remove_file(m.at("target/release/x")).unwrap();
    assert_eq!(m.gate.units(), asked);
    assert!(m.gate.read.lock().unwrap().is_empty());
    fs::write(m.at("y"), "y").unwrap();
    fs::rename(m.at("y"), m.at("target/y")).unwrap();
    assert_eq!(m.gate.units(), ["y", "y"], "only the side that counts");
}

#[test]
fn notices_are_made_when_they_are_opened() {
    let m = mounted(&[]);
    assert_eq!(fs::read_to_string(m.at(".agentfs/whoami")).unwrap(), "Whoami\n");
    assert_eq!(m.run("cat .agentfs/explain"), "Explain\n");
    assert_eq!(fs::read_to_string(m.at(".agentfs/.gitignore")).unwrap(), "*\n");
    assert_eq!(errno(fs::write(m.at(".agentfs/x"), "")), libc::EROFS);
    assert_eq!(errno(fs::write(m.at(".agentfs/whoami"), "")), libc::EROFS);
    assert_eq!(errno(fs::remove_dir_all(m.at(".agentfs"))), libc::EROFS);
    assert_eq!(m.run("ls -A").trim(), ".agentfs");
    assert!(!m.delta(".agentfs").exists());
}

#[test]
fn git_works_and_its_index_needs_no_refresh() {
    let m = mounted(&[]);
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main";
    let base = m.base("");
    let setup = format!(
        "cd {} && {git} init -q . && mkdir -p src && echo 1 > src/a && echo 2 > b && \
         touch -d @1000000000 src/a b && {git} add . && {git} commit -qm one",
        base.display()
    );
    assert!(Command::new("sh").args(["-ec", &setup]).status().unwrap().success());
    let _ = fs::read_dir(m.at(""));
    m.gate.read.lock().unwrap().clear();
    assert_eq!(m.run("GIT_OPTIONAL_LOCKS=0 git status --porcelain"), "");
    let read = m.gate.read.lock().unwrap().clone();
    assert!(!read.contains(&"src/a".to_owned()), "the index fits: {read:?}");
    m.run(&format!("echo 3 >> b && {git} commit -qam two && {git} checkout -q -b topic"));
    m.run(&format!("{git} rm -q src/a && echo n > n && {git} add n && {git} commit -qm three"));
    assert_eq!(m.run("git log --format=%s"), "three\ntwo\none\n");
    assert_eq!(m.run("git status --porcelain"), "");
    m.run(&format!("{git} checkout -q main && {git} stash list && {git} gc -q"));
    assert_eq!(m.run("cat b src/a"), "2\n3\n1\n");
    let log = Command::new("git").arg("-C").arg(base).args(["log", "--format=%s"]).output();
    assert_eq!(String::from_utf8(log.unwrap().stdout).unwrap(), "one\n", "base's is untouched");
}

#[test]
fn data_is_mapped_locked_appended_and_sparse() {
    let m = mounted(&[("a", "0123456789"), ("db", "")]);
    m.run(
        r#"python3 - <<'PY'
import fcntl, mmap, os, sqlite3
f = open("a", "r+b")
shared = mmap.mmap(f.fileno(), 0)
shared[0:3] = b"abc"
assert open("a", "rb").read() == b"abc3456789"
os.pwrite(f.fileno(), b"Z", 9)
assert shared[9:10] == b"Z"
shared.close(); f.close()
assert open("a", "rb").read() == b"abc345678Z"

one = open("a", "r+b"); two = os.open("a", os.O_RDWR)
fcntl.lockf(one, fcntl.LOCK_EX)
pid = os.fork()
if pid == 0:
    try:
        fcntl.lockf(os.open("a", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(1)
    except BlockingIOError:
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

fds = [os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2)]
for i in range(100):
    os.write(fds[i % 2], b"%02d" % i)
assert open("log").read() == "".join("%02d" % i for i in range(100))

s = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.pwrite(s, b"end", 1 << 20)
assert os.lseek(s, 0, os.SEEK_DATA) > 0
assert os.lseek(s, 0, os.SEEK_HOLE) == 0
os.posix_fallocate(s, 0, 2 << 20)
assert os.fstat(s).st_size == 2 << 20
t = os.open("copy", os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(s, t, 3, 1 << 20, 0) == 3 and os.pread(t, 9, 0) == b"end"
os.fsync(s); os.fdatasync(s)
os.fsync(os.open(".", os.O_RDONLY))
assert os.statvfs(".").f_blocks > 0

for mode in ["delete", "wal"]:
    db = sqlite3.connect("db")
    assert db.execute("pragma journal_mode=" + mode).fetchone() == (mode,)
    db.execute("create table if not exists t (x)")
    db.execute("insert into t values (1)")
    db.commit()
    assert sqlite3.connect("db").execute("select count(*) from t").fetchone()[0] >= 1
    db.close()
try:
    os.open(".", os.O_TMPFILE | os.O_RDWR)
    assert False
except OSError as e:
    assert e.errno == 95, e
PY"#,
    );
    assert_eq!(fs::read_to_string(m.base("a")).unwrap(), "0123456789");
}

#[test]
fn listings_are_whole_while_entries_come_and_go() {
    let m = mounted(&[]);
    for index in 0..3000 {
        fs::write(m.base(&format!("f{index:04}")), "").unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for entry in fs::read_dir(m.at("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} twice");
        if name.ends_with('7') {
            fs::remove_file(m.at(&name)).unwrap();
            fs::write(m.at(&format!("new{name}")), "").unwrap();
        }
    }
    assert!((0..3000).all(|index| seen.contains(&format!("f{index:04}"))));
    assert_eq!(m.run("ls | wc -l").trim(), "3000");
    m.run("rm -rf ./f* ./n*");
    assert_eq!(m.run("ls"), "");
}

#[test]
fn pins_hold_a_view_at_its_version_and_sync_moves_it() {
    let m = mounted(&[("a", "one"), ("b", "b"), ("d/x", "x")]);
    let view = m.view.view().clone();
    let path = |text: &str| text.parse::<RelPath>().unwrap();
    let old = fs::File::open(m.at("a")).unwrap();
    let number = fs::metadata(m.at("a")).unwrap().ino();
    assert!(!m.at("new/file").exists());
    let touched = [path("a"), path("new/file"), path("d/x"), path("d")];
    view.pin(&touched).unwrap();
    // What an apply does.
    fs::write(m.base("a.tmp"), "two").unwrap();
    fs::rename(m.base("a.tmp"), m.base("a")).unwrap();
    fs::create_dir(m.base("new")).unwrap();
    fs::write(m.base("new/file"), "n").unwrap();
    fs::remove_dir_all(m.base("d")).unwrap();

    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "one");
    assert_eq!(fs::metadata(m.at("a")).unwrap().ino(), number);
    assert_eq!(m.run("ls && cat d/x"), "a\nb\nd\nx");
    view.sync(Some(&touched)).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "two", "at once");
    syncing::until(|| m.at("new/file").exists() && !m.at("d").exists());
    assert_eq!(fs::read_to_string(m.at("new/file")).unwrap(), "n");
    assert_eq!(fs::read_dir(m.dir.path().join("pins")).unwrap().count(), 0);
    let mut buffer = [0; 3];
    old.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"one", "what is open stays");
}

#[test]
fn what_is_dropped_from_the_delta_shows_base_again() {
    let m = mounted(&[("a", "base"), ("gone", "g"), (".gitignore", "out\n")]);
    let view = m.view.view().clone();
    fs::write(m.at("a"), "mine").unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    fs::create_dir_all(m.at("n/m")).unwrap();
    fs::write(m.at("n/m/f"), "f").unwrap();
    fs::write(m.at("out"), "scratch").unwrap();
    let open = fs::OpenOptions::new().append(true).open(m.at("a")).unwrap();
    assert_eq!(view.open_for_writing(), ["a".parse::<RelPath>().unwrap()]);
    drop(open);
    let written = || view.open_for_writing().len();
    while written() > 0 {
        std::thread::yield_now();
    }
    view.drop_from_delta(&["a".parse().unwrap()]).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "base");
    view.drop_from_delta(&[]).unwrap();
    assert_eq!(fs::read_to_string(m.at("gone")).unwrap(), "g");
    assert!(!m.at("n").exists());
    assert_eq!(fs::read_to_string(m.at("out")).unwrap(), "scratch");
    let left: Vec<_> =
        fs::read_dir(m.delta("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out"]);
}

#[test]
fn kernel_overlayfs_shows_the_delta_as_the_view_does() {
    let m = mounted(&[("a", "a"), ("d/x", "x"), ("d/s/y", "y"), ("e/z", "z"), ("f", "f")]);
    m.run(
        "echo more >> a && rm d/x && rm -r e && mkdir e && echo n > e/n && mv f d/f && \
         mkdir p && echo 1 > p/1 && mv p q && ln -s q/1 l && ln a a2 && rm -r d/s && \
         echo file > d/s && chmod 750 d && touch -d @77 q",
    );
    let overlay = m.dir.path().join("overlay");
    let show = "find . -path ./.agentfs -prune -o -printf '%p %y %m %U %G %T@ %l\\n' | sort && \
                find . -path ./.agentfs -prune -o -type f -print0 | sort -z | xargs -0 cat";
    let view = m.run(show);
    fs::create_dir(&overlay).unwrap();
    // overlayfs wants its upper directory for itself; a copy keeps whiteouts and attributes.
    let script = format!(
        "cd {dir} && cp -a delta upper && mkdir ovlwork && unshare -m sh -ec \
         'mount -t overlay overlay -o lowerdir=base,upperdir=upper,workdir=ovlwork overlay && \
          cd overlay && {show}'",
        dir = m.dir.path().display(),
        show = show.replace('\'', "'\\''"),
    );
    let done = Command::new("sh").args(["-ec", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8(done.stdout).unwrap(), view);
}

#[test]
fn a_mountpoint_in_use_is_refused_and_an_unmounted_view_can_be_mounted_again() {
    let m = mounted(&[("a", "a")]);
    let error = mount(m.view.view().clone(), &m.at("")).unwrap_err();
    assert!(matches!(error, MountError::Busy(_)), "{error}");
    let error = mount(m.view.view().clone(), &m.dir.path().join("none")).unwrap_err();
    assert!(matches!(error, MountError::NoMountpoint(_)), "{error}");
    let Mounted { dir, view: mounted, .. } = m;
    let view = mounted.view().clone();
    mounted.unmount().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("mnt")).unwrap().count(), 0);
    let again = mount(view, &dir.path().join("mnt")).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("mnt/a")).unwrap(), "a");
    drop(again);
}
