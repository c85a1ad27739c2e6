//! Views that are moved to base's new version while they are used.

use super::*;
use crate::view::{Cached, KernelCache};

fn path(text: &str) -> RelPath {
    text.parse().unwrap()
}

/// Waits until something has come about; a test that waits in vain is ended by who runs it.
fn until(mut told: impl FnMut() -> bool) {
    while !told() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// What the kernel would be told.
#[derive(Default)]
struct Told(Mutex<Vec<Cached>>, Mutex<usize>);

impl KernelCache for Told {
    fn invalidate(&self, what: Vec<Cached>) {
        self.0.lock().unwrap().extend(what);
    }

    fn settle(&self) {
        *self.1.lock().unwrap() += 1;
    }
}

#[test]
fn a_new_file_shows_after_the_sync_of_another_one_below_the_pinned_directory() {
    let m = mounted(&[("a", "a")]);
    let view = m.view.view();
    assert!(!m.at("d").exists());
    // Bob applies d/x and d/e/z.
    view.pin(&[path("d/x"), path("d/e/z")]).unwrap();
    fs::create_dir_all(m.base("d/e")).unwrap();
    fs::write(m.base("d/x"), "bob").unwrap();
    fs::write(m.base("d/e/z"), "bob").unwrap();
    // Alice makes a directory of that name herself, and looks around in it.
    fs::create_dir(m.at("d")).unwrap();
    fs::write(m.at("d/y"), "alice").unwrap();
    assert_eq!(m.run("cat d/x d/e/z 2>/dev/null || ls d"), "y\n");

    view.sync(Some(&[path("d/y")])).unwrap();
    // What is cached as missing below it goes with the directory's own entry.
    until(|| m.at("d/x").exists() && m.at("d/e/z").exists());
    assert_eq!(m.run("cat d/x d/e/z d/y && ls d"), "bobbobalicee\nx\ny\n");
}

#[test]
fn a_directory_that_was_made_anew_over_a_pinned_whiteout_stays_empty_of_what_was_deleted() {
    let m = mounted(&[("d/x", "x"), ("d/y", "y")]);
    let view = m.view.view();
    m.run("rm -r d && mkdir d");
    view.pin(&[path("d/x")]).unwrap();
    view.sync(Some(&[path("d/x")])).unwrap();
    assert_eq!(m.run("ls d"), "");
}

#[test]
fn a_sync_behind_a_waiting_write_does_not_wait_for_the_kernel() {
    let m = mounted(&[("a", "a")]);
    let (view, kernel) = (m.view.view(), Arc::new(Told::default()));
    fs::write(m.at("a"), "mine").unwrap();
    view.attach_kernel(Some(kernel.clone()));
    let waits = || *kernel.1.lock().unwrap();
    view.sync(Some(&[path("a")])).unwrap();
    assert_eq!(waits(), 0);
    view.sync(None).unwrap();
    view.drop_from_delta(Some(&[path("a")])).unwrap();
    view.drop_from_delta(None).unwrap();
    assert_eq!(waits(), 3);
}

#[test]
fn what_is_opened_after_a_sync_is_the_new_version_before_the_kernel_is_told() {
    let m = mounted(&[("a", "one")]);
    let view = m.view.view();
    assert_eq!(m.run("cat a"), "one");
    view.attach_kernel(Some(Arc::new(Told::default())));
    view.pin(&[path("a")]).unwrap();
    fs::write(m.base("a.tmp"), "two").unwrap();
    fs::rename(m.base("a.tmp"), m.base("a")).unwrap();
    assert_eq!(m.run("cat a"), "one");
    view.sync(Some(&[path("a")])).unwrap();
    assert_eq!(m.run("cat a"), "two");
}

#[test]
fn what_an_interrupted_apply_has_left_at_the_root_is_not_shown() {
    let m = mounted(&[(".agentfs-stage-r7/000000", "x"), ("d/.agentfs-stage-r7", "a file")]);
    assert_eq!(m.run("ls -A && ls -A d"), ".agentfs\nd\n.agentfs-stage-r7\n");
    assert!(!m.at(".agentfs-stage-r7").exists());
    assert_eq!(errno(fs::create_dir(m.at(".agentfs-stage-r8"))), libc::EROFS);
    assert_eq!(errno(fs::rename(m.at("d"), m.at(".agentfs-stage-r8"))), libc::EXDEV);
    fs::write(m.at("f"), "f").unwrap();
    assert_eq!(errno(fs::rename(m.at("f"), m.at(".agentfs-stage-r8"))), libc::EROFS);
    assert!(!m.delta(".agentfs-stage-r8").exists());
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
    until(|| m.at("new/file").exists() && !m.at("d").exists());
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
    view.drop_from_delta(Some(&["a".parse().unwrap()])).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "base");
    view.drop_from_delta(None).unwrap();
    assert_eq!(fs::read_to_string(m.at("gone")).unwrap(), "g");
    assert!(!m.at("n").exists());
    assert_eq!(fs::read_to_string(m.at("out")).unwrap(), "scratch");
    let left: Vec<_> =
        fs::read_dir(m.delta("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out"]);
}
