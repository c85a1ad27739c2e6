//! Views through real mounts. They run as root, like the machines that run all tests.

use super::*;
use crate::gate::{Answer, Gate, Intent, Notice, Permit, Refusal, Requester, ViewControl};
use crate::view::{Owner, Scratch, ViewSpec};
use agentfs_core::RelPath;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom as Position, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

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
    fn already(&self, _intent: &Intent) -> Option<Permit> {
        None
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
    }

    fn forget(&self, path: &RelPath) {
        self.forgotten.lock().unwrap().push(path.to_string());
    }

    fn notice(&self, notice: Notice) -> String {
        format!("{notice:?}\n")
    }
}

struct Mounted {
    dir: tempfile::TempDir,
    gate: Arc<TestGate>,
    mounted: MountedView,
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
    Mounted { dir, gate, mounted }
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
