//! Views that are moved to base's new version while they are used.

use super::*;
use crate::view::{Cached, KernelCache};
use crate::watch::{BaseChanges, BaseListener as _};

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
    assert_eq!(errno(fs::rename(m.at("d"), m.at(".agentfs-stage-r8"))), libc::EROFS);
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

#[test]
fn what_stays_in_a_directory_that_was_applied_hides_nothing_of_base() {
    let m = mounted(&[("d/x", "x"), (".gitignore", "out\n")]);
    let view = m.view.view().clone();
    m.run("mv d e && mkdir e/out && echo private >e/out/o");
    // As an apply does it.
    fs::rename(m.base("d"), m.base("e")).unwrap();
    view.drop_from_delta(Some(&["d", "d/x", "e", "e/x"].map(path))).unwrap();
    fs::write(m.base("e/new"), "new").unwrap();
    assert_eq!(m.run("ls && ls e && cat e/out/o e/x"), "e\nnew\nout\nx\nprivate\nx");
}

#[test]
fn a_view_that_is_used_advances_path_by_path_and_keeps_what_is_open() {
    let m = mounted(&[("a", "one"), ("b", "b"), ("d/x", "x"), ("mine", "base"), ("same", "s")]);
    let view = m.view.view();
    fs::write(m.at("mine"), "alice").unwrap();
    let old = fs::File::open(m.at("a")).unwrap();
    let gone = fs::File::open(m.at("d/x")).unwrap();
    assert!(!m.at("new").exists());
    assert_eq!(m.run("ls; cat a b d/x same"), "a\nb\nd\nmine\nsame\nonebxs");
    fs::create_dir_all(m.dir.path().join("pins/.git/refs")).unwrap();
    let touched = ["a", "d", "d/x", "mine", "new/deep/f", "same"].map(path);
    view.pin(&touched).unwrap();
    // Bob's apply.
    for (name, text) in [("a", "two"), ("mine", "bob")] {
        fs::write(m.base("tmp"), text).unwrap();
        fs::rename(m.base("tmp"), m.base(name)).unwrap();
    }
    fs::remove_dir_all(m.base("d")).unwrap();
    fs::create_dir_all(m.base("new/deep")).unwrap();
    fs::write(m.base("new/deep/f"), "n").unwrap();
    assert_eq!(m.run("cat a d/x mine same"), "onexalices");

    let told = Arc::new(Told::default());
    view.attach_kernel(Some(told.clone()));
    // The watch on base tells of Bob's apply too, in its own time: of this last.
    fs::write(m.base("last"), "").unwrap();
    until(|| told.0.lock().unwrap().contains(&Cached::Entry(1, "last".into())));
    told.0.lock().unwrap().clear();
    let advanced = view.advance().unwrap();
    let shown: Vec<String> =
        advanced.shown.iter().map(|shift| format!("{:?} {}", shift.action(), shift.path)).collect();
    assert_eq!(
        shown,
        [
            "Modified a",
            "Deleted d",
            "Deleted d/x",
            "Added new",
            "Added new/deep",
            "Added new/deep/f"
        ]
    );
    assert_eq!(advanced.covered, [path("mine")]);
    let left = fs::read_dir(m.dir.path().join("pins")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".git"], "the snapshot of .git is no pin");
    let forgotten = told.0.lock().unwrap().clone();
    let name = |name: &str| Cached::Entry(1, name.into());
    for told in ["a", "d", "new"] {
        assert!(forgotten.contains(&name(told)), "{told}: {forgotten:?}");
    }
    for kept in ["b", "mine", "same"] {
        assert!(!forgotten.contains(&name(kept)), "{kept}: {forgotten:?}");
        let ino = fs::metadata(m.base(kept)).unwrap().ino();
        assert!(!forgotten.contains(&Cached::Inode(ino)), "{kept}: {forgotten:?}");
    }
    for (file, text) in [(&old, b"one".as_slice()), (&gone, b"x")] {
        let mut buffer = vec![0; text.len()];
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(buffer, text, "what is open stays");
    }
    assert_eq!(view.advance().unwrap(), crate::gate::Advanced::default(), "nothing is left");
}

#[test]
fn after_an_advance_and_a_moment_for_the_kernel_everybody_sees_the_new_version() {
    let m = mounted(&[("a", "one"), ("d/x", "x"), ("e/y", "y")]);
    let view = m.view.view();
    for _ in 0..20 {
        view.pin(&["a", "d/x", "d/n", "fresh"].map(path)).unwrap();
        m.run("cat a; ls -l d; ! cat d/n fresh; stat a d/x");
        let text = format!("{}.", fs::read_to_string(m.base("a")).unwrap());
        fs::write(m.base("tmp"), &text).unwrap();
        fs::rename(m.base("tmp"), m.base("a")).unwrap();
        fs::rename(m.base("d/x"), m.base("d/n")).unwrap();
        fs::write(m.base("fresh"), "f").unwrap();
        let _ = view.advance().unwrap();
        view.settle();
        assert_eq!(fs::metadata(m.at("a")).unwrap().len(), text.len() as u64);
        assert_eq!(fs::read_to_string(m.at("a")).unwrap(), text);
        assert_eq!(m.run("ls d; cat d/n fresh"), "n\nxf");
        view.pin(&["d/x", "d/n", "fresh"].map(path)).unwrap();
        fs::rename(m.base("d/n"), m.base("d/x")).unwrap();
        fs::remove_file(m.base("fresh")).unwrap();
        let _ = view.advance().unwrap();
        view.settle();
        assert_eq!(m.run("ls; cat d/x"), "a\nd\ne\nx");
    }
}

#[test]
fn what_somebody_edits_in_base_is_told_where_the_view_shows_it() {
    let m =
        mounted(&[("a", "a"), ("b", "b"), ("mine", "m"), ("pinned", "p"), (".gitignore", "out\n")]);
    let view = m.view.view();
    m.run("cat a b mine pinned >/dev/null; ls >/dev/null");
    fs::write(m.at("mine"), "alice").unwrap();
    view.pin(&[path("pinned")]).unwrap();
    fs::write(m.base("new"), "n").unwrap();
    fs::write(m.base("out"), "scratch").unwrap();
    fs::remove_file(m.base("b")).unwrap();
    let edited = ["a", "b", "mine", "pinned", "new", "out", "never", ".agentfs/x"].map(path);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (sink, paths) = (heard.clone(), edited.into_iter().collect());
    view.attach_teller(Some(Arc::new(move |edits| sink.lock().unwrap().extend(edits))));
    view.base_changed(&BaseChanges { paths, ..BaseChanges::default() });
    let told = heard.lock().unwrap().clone();
    let told: Vec<String> =
        told.iter().map(|shift| format!("{:?} {}", shift.action(), shift.path)).collect();
    for edit in ["Modified a", "Deleted b", "Added new"] {
        assert!(told.contains(&edit.to_owned()), "{told:?}");
    }
    let unseen = |edit: &String| {
        ["mine", "pinned", "out", "never", "x"].iter().any(|name| edit.ends_with(name))
    };
    assert!(!told.iter().any(unseen), "{told:?}");
}
