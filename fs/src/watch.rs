//! The watch on base: hears of what people change there by hand, so that views need not ask.
//!
//! A directory is watched from the moment that a view first looks into it ([`BaseWatch::cover`]),
//! *before* it looks, so that no change falls between; with inotify, which needs no privileges. A
//! directory that can't be watched (the user's limit is reached, no permission to read it) is not
//! covered, and a view must ask base again after a moment.
//!
//! It must never miss a change silently: when the kernel's queue overflows it says that everything
//! may have changed. It knows no views: whoever wants to hear subscribes. Events of a few
//! milliseconds are told together, because builds and checkouts make thousands.

use agentfs_core::RelPath;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long events are gathered before they are told.
const GATHER: Duration = Duration::from_millis(5);

/// The most directories that are watched: each costs the kernel about a kilobyte and counts
/// against the user's limit, which other programs (editors) need too.
const MOST: usize = 65_536;

/// What has changed in base since the last time that was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseChanges {
    /// Everything may have: events were lost.
    pub all: bool,
    /// Entries that were made, removed, replaced or changed.
    pub paths: BTreeSet<RelPath>,
    /// Directories that came, went or moved with all that is below them.
    pub subtrees: BTreeSet<RelPath>,
}

/// Who wants to hear of changes. Called on the watch's own thread: must not take long.
pub trait BaseListener: Send + Sync + 'static {
    /// Base has changed.
    fn base_changed(&self, changes: &BaseChanges);
}

/// A watch on one workspace's base. Ends when it is dropped.
pub struct BaseWatch {
    state: Arc<State>,
}

struct State {
    /// None where the kernel gives no inotify instance: then nothing is covered.
    inotify: Option<Inotify>,
    watched: Mutex<Watched>,
    listeners: Mutex<Vec<Weak<dyn BaseListener>>>,
}

struct Inotify {
    events: OwnedFd,
    /// Becomes readable when the watch ends.
    end: OwnedFd,
}

impl Inotify {
    fn new() -> Result<Self, Errno> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { events, end: eventfd(0, EventfdFlags::CLOEXEC)? })
    }
}

#[derive(Default)]
struct Watched {
    by_path: BTreeMap<RelPath, i32>,
    by_watch: HashMap<i32, RelPath>,
    /// Whether the limit has been reached, which is said once.
    full: bool,
    ended: bool,
}

impl BaseWatch {
    /// Starts a watch on the workspace at `base` that covers nothing yet.
    pub fn start(base: &Path) -> Arc<Self> {
        let inotify = if is_remote(base) {
            tracing::info!("base is on a file system that others change unseen: it is asked often");
            None
        } else {
            let failed = |error: &Errno| tracing::warn!(%error, "base can't be watched");
            Inotify::new().inspect_err(failed).ok()
        };
        let state =
            Arc::new(State { inotify, watched: Mutex::default(), listeners: Mutex::default() });
        let heard = state.clone();
        let listening = std::thread::Builder::new()
            .name("agentfs-watch".to_owned())
            .spawn(move || heard.listen());
        if let Err(error) = listening {
            tracing::warn!(%error, "base can't be watched");
            state.watched().ended = true;
        }
        Arc::new(Self { state })
    }

    /// Has `listener` told of all changes from now on, as long as it lives.
    pub fn subscribe(&self, listener: Weak<dyn BaseListener>) {
        let mut listeners = self.state.listeners();
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(listener);
    }

    /// Watches the directory of base at `path`, open as `dir`. Says whether every change in it
    /// after this call will be told.
    pub fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> bool {
        self.state.cover(path, dir)
    }

    /// How many directories are watched.
    pub fn covered(&self) -> usize {
        self.state.watched().by_path.len()
    }
}

impl Drop for BaseWatch {
    fn drop(&mut self) {
        self.state.watched().ended = true;
        if let Some(inotify) = &self.state.inotify {
            // Fails only if it is readable already.
            let _ = rustix::io::write(&inotify.end, &1_u64.to_ne_bytes());
        }
    }
}

impl std::fmt::Debug for BaseWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseWatch").field("covered", &self.covered()).finish_non_exhaustive()
    }
}

impl State {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<dyn BaseListener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut watched = self.watched();
        if watched.by_path.contains_key(path) {
            return !watched.ended;
        }
        if watched.ended || watched.by_path.len() >= MOST {
            return false;
        }
        let events = WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(&inotify.events, proc_path(dir), events) {
            Ok(watch) => {
                // A directory that was moved is known by its new path from now on.
                if let Some(old) = watched.by_watch.insert(watch, path.clone()) {
                    watched.by_path.remove(&old);
                }
                watched.by_path.insert(path.clone(), watch);
                true
            }
            Err(error) => {
                if error == Errno::NOSPC && !std::mem::replace(&mut watched.full, true) {
                    tracing::warn!(
                        "the user's limit of inotify watches is reached: raise fs.inotify.\
                         max_user_watches, or changes made by hand show after a second"
                    );
                }
                false
            }
        }
    }

    /// Reads events until the watch ends.
    fn listen(&self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        loop {
            let wait = |fd| PollFd::new(fd, PollFlags::IN);
            let ready = poll(&mut [wait(&inotify.events), wait(&inotify.end)], None);
            if self.watched().ended {
                return;
            }
            std::thread::sleep(GATHER);
            let gathered = ready.and_then(|_| self.gather(inotify.events.as_fd(), &mut buffer));
            let changes = match gathered {
                Ok(changes) => changes,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the watch on base has failed");
                    self.watched().ended = true;
                    BaseChanges { all: true, ..BaseChanges::default() }
                }
            };
            if changes != BaseChanges::default() {
                self.tell(&changes);
            }
        }
    }

    fn tell(&self, changes: &BaseChanges) {
        let listeners = self.listeners().clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.base_changed(changes);
        }
    }

    /// All events that are there now.
    fn gather(
        &self,
        inotify: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<BaseChanges, Errno> {
        let mut changes = BaseChanges::default();
        let mut reader = Reader::new(inotify, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(changes),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            self.note(event.wd(), event.events(), name, &mut changes);
        }
    }

    fn note(&self, watch: i32, events: ReadFlags, name: Option<&OsStr>, changes: &mut BaseChanges) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            changes.all = true;
            // That directories went may be among what was lost: each is covered anew.
            self.uncover(&mut self.watched(), &RelPath::root());
            return;
        }
        let mut watched = self.watched();
        let Some(dir) = watched.by_watch.get(&watch).cloned() else { return };
        if events.contains(ReadFlags::IGNORED) {
            watched.by_watch.remove(&watch);
            if watched.by_path.get(&dir) == Some(&watch) {
                watched.by_path.remove(&dir);
            }
            return;
        }
        let Some(name) = name else {
            // Of the directory itself. That it went its parent tells too, but the root has none.
            if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                self.uncover(&mut watched, &dir);
                changes.subtrees.insert(dir.clone());
            }
            changes.paths.insert(dir);
            return;
        };
        let path = dir.join(name);
        let comes_or_goes =
            ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        if events.contains(ReadFlags::ISDIR) && events.intersects(comes_or_goes) {
            self.uncover(&mut watched, &path);
            changes.subtrees.insert(path.clone());
        }
        changes.paths.insert(path);
    }

    /// The directory is no longer at `top`: what is watched below it is so under a wrong path.
    fn uncover(&self, watched: &mut Watched, top: &RelPath) {
        let below: Vec<(RelPath, i32)> = watched
            .by_path
            .range(top.clone()..)
            .take_while(|(path, _)| path.as_bytes().starts_with(top.as_bytes()))
            .filter(|(path, _)| top.contains(path))
            .map(|(path, watch)| (path.clone(), *watch))
            .collect();
        for (path, watch) in below {
            watched.by_path.remove(&path);
            watched.by_watch.remove(&watch);
            if let Some(inotify) = &self.inotify {
                // It is gone already if the directory is.
                let _ = inotify::remove_watch(&inotify.events, watch);
            }
        }
    }
}

/// Whether another kernel, or another program, may change the files there: inotify does not hear
/// of it. (The magic numbers of statfs(2): NFS, CIFS, SMB2, 9P, FUSE with virtiofs, Ceph, AFS.)
fn is_remote(base: &Path) -> bool {
    const REMOTE: [i64; 7] =
        [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400, 0x5346_414f];
    rustix::fs::statfs(base).is_ok_and(|fs| REMOTE.contains(&fs.f_type))
}

/// A path by which the kernel finds an open directory.
fn proc_path(dir: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    #[derive(Default)]
    struct Heard(Mutex<BaseChanges>);

    impl BaseListener for Heard {
        fn base_changed(&self, changes: &BaseChanges) {
            let mut heard = self.0.lock().unwrap();
            heard.all |= changes.all;
            heard.paths.extend(changes.paths.iter().cloned());
            heard.subtrees.extend(changes.subtrees.iter().cloned());
        }
    }

    impl Heard {
        /// What was told, once `path` is among it.
        fn until(&self, path: &str) -> BaseChanges {
            let path: RelPath = path.parse().unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while !self.0.lock().unwrap().paths.contains(&path) {
                assert!(Instant::now() < deadline, "{path} was not told: {:?}", self.0);
                std::thread::sleep(Duration::from_millis(1));
            }
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    struct Watching {
        dir: tempfile::TempDir,
        watch: Arc<BaseWatch>,
        heard: Arc<Heard>,
    }

    fn watching() -> Watching {
        let dir = tempfile::tempdir().unwrap();
        let watch = BaseWatch::start(dir.path());
        let heard = Arc::new(Heard::default());
        let listener: Arc<dyn BaseListener> = heard.clone();
        watch.subscribe(Arc::downgrade(&listener));
        Watching { dir, watch, heard }
    }

    impl Watching {
        fn cover(&self, path: &str) -> bool {
            let dir = fs::File::open(self.dir.path().join(path)).unwrap();
            self.watch.cover(&path.parse().unwrap(), dir.as_fd())
        }
    }

    fn paths(all: &[&str]) -> BTreeSet<RelPath> {
        all.iter().map(|path| path.parse().unwrap()).collect()
    }

    #[test]
    fn changes_in_covered_directories_are_told_and_others_are_not() {
        let w = watching();
        let at = |path: &str| w.dir.path().join(path);
        fs::create_dir_all(at("d/inner")).unwrap();
        fs::write(at("d/a"), "1").unwrap();
        assert!(w.cover("d"));
        fs::write(at("d/inner/unseen"), "").unwrap();
        fs::write(at("d/a"), "2").unwrap();
        fs::remove_file(at("d/a")).unwrap();
        fs::write(at("d/b"), "").unwrap();
        fs::rename(at("d/b"), at("d/c")).unwrap();
        let told = w.heard.until("d/c");
        let other = BaseChanges { paths: BTreeSet::new(), ..told.clone() };
        assert_eq!(other, BaseChanges::default());
        assert!(told.paths.is_superset(&paths(&["d/a", "d/b", "d/c"])), "{told:?}");
        assert!(!told.paths.contains(&"d/inner/unseen".parse().unwrap()));
    }

    #[test]
    fn a_directory_that_moved_is_told_as_a_subtree_and_its_old_path_is_no_longer_covered() {
        let w = watching();
        let at = |path: &str| w.dir.path().join(path);
        fs::create_dir_all(at("d/inner")).unwrap();
        assert!(w.cover("") && w.cover("d") && w.cover("d/inner"));
        fs::rename(at("d"), at("e")).unwrap();
        let told = w.heard.until("e");
        assert!(told.subtrees.is_superset(&paths(&["d", "e"])), "{told:?}");
        assert_eq!(w.watch.covered(), 1, "the root alone");
        assert!(w.cover("e/inner"));
        fs::write(at("e/inner/x"), "").unwrap();
        w.heard.until("e/inner/x");
    }

    #[test]
    fn a_watch_that_was_dropped_ends_its_thread() {
        let w = watching();
        let state = Arc::downgrade(&w.watch.state);
        drop(w.watch);
        let deadline = Instant::now() + Duration::from_secs(5);
        while state.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the thread is still there");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
