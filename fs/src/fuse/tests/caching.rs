//! What the kernel keeps, what it works on by itself, and what makes it ask again.

use super::*;
use crate::view::DOTS;
use std::time::{Duration, Instant};

fn requests(m: &Mounted, kind: &str) -> u64 {
    m.view.requests().iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| *count)
}

fn within_a_second(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_the_kernel_has_seen_it_does_not_ask_for_again() {
    let m = mounted(&[("a", "aaa"), ("d/b", "b"), ("d/e/c", "c")]);
    // Attributes of the file system, and `.agentfs/`, are asked for each time.
    let counts = |m: &Mounted| {
        let mut all = m.view.requests();
        all.retain(|(name, _)| !["open", "release", "statfs"].contains(name));
        all
    };
    let look =
        "find . -path ./.agentfs -prune -o -ls >&2; cat a d/b >&2; test ! -e d/nothing; ls d";
    m.run(look);
    m.run(look);
    // Longer than anything that is not told of is kept.
    std::thread::sleep(Duration::from_millis(1200));
    m.run("ls -d .agentfs");
    let before = counts(&m);
    m.run(look);
    assert_eq!(counts(&m), before);
    assert_eq!(requests(&m, "read"), 0, "small files come with their first open");
}

#[test]
fn what_a_person_does_in_base_shows_at_once() {
    let m = mounted(&[("a", "old"), ("d/b", "b"), ("d/gone", "g"), ("e/x", "x")]);
    m.run("find . >&2; cat a d/b d/gone e/x; test ! -e d/new");
    fs::write(m.base("a"), "new text").unwrap();
    fs::write(m.base("d/new"), "n").unwrap();
    fs::remove_file(m.base("d/gone")).unwrap();
    fs::rename(m.base("e"), m.base("f")).unwrap();
    let read = |path: &str| fs::read_to_string(m.at(path)).unwrap_or_default();
    within_a_second("an edit in place", || read("a") == "new text");
    within_a_second("a new file", || read("d/new") == "n");
    within_a_second("a file that is gone", || !m.at("d/gone").exists());
    within_a_second("a directory that moved", || read("f/x") == "x" && !m.at("e").exists());
    within_a_second("in listings, too", || m.run("ls . d") == ".:\na\nd\nf\n\nd:\nb\nnew\n");
    // And what is in the directory by its new name.
    fs::write(m.base("f/x"), "again").unwrap();
    within_a_second("an edit below a directory that moved", || read("f/x") == "again");
}

#[test]
fn an_edit_that_keeps_time_and_size_is_seen_by_the_next_open() {
    let m = mounted(&[("a", "one")]);
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "one");
    let time = fs::metadata(m.base("a")).unwrap().modified().unwrap();
    fs::write(m.base("a"), "two").unwrap();
    fs::File::options().write(true).open(m.base("a")).unwrap().set_modified(time).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "two");
}

#[test]
fn data_of_written_files_goes_past_the_daemon() {
    let m = mounted(&[("a", "base")]);
    fs::write(m.at("new"), vec![7; 3 << 20]).unwrap();
    assert_eq!(fs::metadata(m.at("new")).unwrap().len(), 3 << 20);
    let mut file = fs::File::options().read(true).append(true).open(m.at("a")).unwrap();
    file.write_all(b" and mine").unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "base and mine");
    drop(file);
    assert_eq!(requests(&m, "write"), 0);
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "base and mine");
    assert_eq!(fs::read_to_string(m.delta("a")).unwrap(), "base and mine");
    assert_eq!(fs::read_to_string(m.base("a")).unwrap(), "base");
}

#[test]
fn a_reader_sees_what_a_later_writer_writes() {
    let m = mounted(&[("a", "old text")]);
    let mut reader = fs::File::open(m.at("a")).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    fs::File::options().write(true).open(m.at("a")).unwrap().write_all(b"new").unwrap();
    reader.seek(Position::Start(0)).unwrap();
    text.clear();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "new text");
    // Alone again, the file is passed through.
    drop(reader);
    let before = requests(&m, "write");
    fs::write(m.at("a"), "third").unwrap();
    assert_eq!(requests(&m, "write"), before);
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "third");
}

#[test]
fn a_large_file_that_somebody_reads_keeps_its_number_when_another_writes_it() {
    let m = mounted(&[("big", &"x".repeat(2 << 20))]);
    let number = fs::metadata(m.at("big")).unwrap().ino();
    let mut reader = fs::File::open(m.at("big")).unwrap();
    let mut begin = [0; 5];
    reader.read_exact(&mut begin).unwrap();
    assert_eq!(requests(&m, "read"), 0, "large files are passed through");
    let writer = fs::File::options().write(true).open(m.at("big")).unwrap();
    writer.write_at(b"after", 0).unwrap();
    assert_eq!(&fs::read(m.at("big")).unwrap()[..6], b"afterx");
    assert_eq!(fs::metadata(m.at("big")).unwrap().ino(), number);
    assert_eq!(writer.metadata().unwrap().ino(), number);
    // As in overlayfs, who had it open before it was copied up keeps the old file.
    reader.seek(Position::Start(0)).unwrap();
    reader.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"xxxxx");
    drop((reader, writer));
    assert_eq!(&fs::read(m.at("big")).unwrap()[..6], b"afterx");
    assert_eq!(fs::metadata(m.at("big")).unwrap().ino(), number);
}

#[test]
fn a_listing_of_many_names_is_whole_while_names_come_and_go() {
    let m = mounted(&[("d/first", "")]);
    for n in 0..3000 {
        fs::write(m.base(&format!("d/{n}")), "").unwrap();
    }
    let mut entries = fs::read_dir(m.at("d")).unwrap();
    let mut seen: Vec<_> = entries.by_ref().take(100).map(|e| e.unwrap().file_name()).collect();
    for n in 0..50 {
        fs::write(m.at(&format!("d/new-{n}")), "").unwrap();
        fs::remove_file(m.at(&format!("d/{n}"))).unwrap();
    }
    seen.extend(entries.map(|e| e.unwrap().file_name()));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "no name twice");
    let there = |name: &String| seen.iter().any(|s| s.to_str() == Some(name));
    assert!((50..3000).map(|n| n.to_string()).all(|name| there(&name)), "what stayed is there");
}

#[test]
fn what_was_written_since_a_file_was_read_is_not_covered_by_what_was_read() {
    let m = mounted(&[("a", "old\n"), ("b", "old\n")]);
    let view = m.view.view();
    let keeps = |name: &str, meanwhile: &str| {
        let attr = view.lookup(crate::view::ROOT, OsStr::new(name)).unwrap().unwrap();
        let opened = view.open_read(attr.ino, OFlags::RDONLY).unwrap();
        m.run(meanwhile);
        let none = |_: &_| Err(std::io::ErrorKind::Unsupported.into());
        match Kernel::default().answer(view, attr.ino, &opened, none) {
            kernel::Answer::Flags(flags) => flags.contains(fuser::FopenFlags::FOPEN_KEEP_CACHE),
            kernel::Answer::Through(..) => false,
        }
    };
    assert!(keeps("a", ":"));
    assert!(!keeps("b", "echo new >b"));
}

#[test]
fn a_listing_that_fails_midway_gives_what_it_has_and_fails_when_asked_for_the_rest() {
    use rustix::mount::{MountFlags, UnmountFlags, unmount};
    let m = mounted(&[("d/1", ""), ("d/2", ""), ("d/3", ""), ("d/4", ""), ("d/dead/x", "")]);
    // A mount whose server is gone answers ENOTCONN to whoever looks at it.
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let options = std::ffi::CString::new(options).unwrap();
    let dead = m.base("d/dead");
    rustix::mount::mount("dead", &dead, "fuse", MountFlags::empty(), options.as_c_str()).unwrap();
    drop(device);
    let view = m.view.view();
    let d = view.lookup(crate::view::ROOT, OsStr::new("d")).unwrap().unwrap().ino;
    let workers = || Workers::start("test", 1).unwrap();
    let adapter = Adapter::new(
        view.clone(),
        (workers(), workers()),
        Arc::default(),
        Announced::new(Trust::default()),
    );
    let (mut offset, mut told) = (DOTS, Vec::new());
    let failed = loop {
        let before = told.len();
        let filled = adapter.fill(d, offset, |attr, cookie, name| {
            told.push((attr.ino, name.to_owned()));
            offset = cookie;
            (false, true)
        });
        match filled {
            Err(_) => break told.len() == before,
            Ok(()) => assert!(told.len() > before, "it fails in the end"),
        }
    };
    unmount(&dead, UnmountFlags::DETACH).unwrap();
    assert!(failed, "what fails has told the kernel of nothing: {told:?}");
}
