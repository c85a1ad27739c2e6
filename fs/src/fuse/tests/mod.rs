//! Views through real mounts. They run as root, like the machines that run all tests.

mod asking;
mod caching;
mod files;
mod names;
mod programs;
mod reference;
mod syncing;

use super::*;
use crate::attendant::Trust;
use crate::gate::{Answer, Gate, Intent, Notice, Ordered, Permit, Refusal, Requester, ViewControl};
use crate::view::{Owner, Scratch, ViewSpec};
use crate::watch::BaseWatch;
use agentfs_core::changeset::Before;
use agentfs_core::{RelPath, Want, unit_list};
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
    orders: Mutex<Vec<(Notice, Vec<Want>)>>,
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

    fn may_read(&self, _: &RelPath) -> bool {
        true
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

    fn read(&self, path: &RelPath, _: Before) {
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

    fn order(
        &self,
        order: Notice,
        text: &[u8],
        is_dir: &dyn Fn(&RelPath) -> bool,
        requester: Requester,
        done: Ordered,
    ) {
        assert_ne!(requester.tid, 0);
        let list = unit_list::parse(text, |path| Ok(RelPath::from_bytes(path)?), is_dir);
        let said = match list {
            Ok(list) if list[0].to_string() == "busy" => Err(Refusal::Busy),
            Ok(list) => {
                self.orders.lock().unwrap().push((order, list));
                Ok(())
            }
            Err(_) => Err(Refusal::Invalid),
        };
        std::thread::spawn(move || done(said));
    }
}

struct TestGuard(Arc<TestGate>);

struct Mounted {
    // The order matters: what is mounted in the directory goes before it, or it would stay.
    _guard: TestGuard,
    view: MountedView,
    dir: tempfile::TempDir,
    gate: Arc<TestGate>,
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
        watch: BaseWatch::start(&path("base")),
    };
    let view = View::open(spec, gate.clone()).unwrap();
    let mounted = mount(view, &path("mnt"), &Trust::default()).unwrap();
    Mounted { _guard: TestGuard(gate.clone()), dir, gate, view: mounted }
}

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}
