//! Trees that are deeper than a path may be long, and what can't be read.

use super::*;
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, mkdirat, open, openat};

/// Opens the directory `depth` levels of `name` below `root`, made where they are missing.
fn descend(root: &Path, name: &str, depth: usize) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        let _ = mkdirat(&dir, name, Mode::RWXU);
        dir = openat(&dir, name, flags, Mode::empty()).unwrap();
    }
    dir
}

fn put(dir: &OwnedFd, name: &str, content: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&file, content).unwrap();
}

fn content(dir: &OwnedFd, name: &str) -> Vec<u8> {
    let file = openat(dir, name, OFlags::RDONLY, Mode::empty()).unwrap();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(file), &mut content).unwrap();
    content
}

/// The paths of what is at `depth` levels of `name`, the last being `leaf`.
fn deep_path(name: &str, depth: usize, leaf: &str) -> RelPath {
    path(&[vec![name; depth].join("/"), leaf.to_owned()].join("/"))
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long_is_applied() {
    let world = World::new();
    let name = "d".repeat(200);
    put(&descend(&world.delta(), &name, 25), "f", b"deep");
    let changes = world.scan_based(&BasedOn::new());
    assert_eq!(changes.changes.len(), 26);
    assert_eq!(changes.changes[25].path, deep_path(&name, 25, "f"));
    let patch = String::from_utf8(world.patch(&changes)).unwrap();
    assert!(patch.ends_with("+deep\n\\ No newline at end of file\n"), "{patch}");
    let _ = world.prepare(&changes).unwrap().commit().unwrap();
    assert_eq!(content(&descend(&world.base(), &name, 25), "f"), b"deep");

    // And away again, from a whiteout at the top.
    let all = changes.changes.iter().map(|change| change.path.clone()).collect::<Vec<_>>();
    let based = world.notes(&all);
    fs::remove_dir_all(world.delta()).unwrap();
    fs::create_dir(world.delta()).unwrap();
    world.whiteout(&name);
    let changes = world.scan_based(&based);
    assert_eq!(changes.changes.len(), 26);
    let _ = world.prepare(&changes).unwrap().commit().unwrap();
    assert_eq!(fs::read_dir(world.base()).unwrap().count(), 0);
}

#[test]
fn depth_costs_memory_and_no_stack() {
    const DEPTH: usize = 2200;
    let world = World::new();
    put(&descend(&world.delta(), "d", DEPTH), "f", b"deep");
    let scanned = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        let changes = world.scan_based(&BasedOn::new());
        let staged = world.prepare(&changes).unwrap();
        let _ = staged.commit().unwrap();
        (world, changes.changes.len())
    });
    let (world, changes) = scanned.unwrap().join().unwrap();
    assert_eq!(changes, DEPTH + 1);
    assert_eq!(content(&descend(&world.base(), "d", DEPTH), "f"), b"deep");
    // `TempDir` holds a descriptor for each level.
    let removed = std::process::Command::new("rm").arg("-rf").arg(world.dir.path()).status();
    assert!(removed.unwrap().success());
}

#[test]
fn an_error_names_a_long_path_by_its_ends() {
    let world = World::new();
    let name = "d".repeat(200);
    let dir = descend(&world.delta(), &name, 25);
    put(&dir, "f", b"deep");
    let changes = world.scan_based(&BasedOn::new());
    put(&dir, "f", b"sneaked in");
    let error = world.prepare(&changes).unwrap_err().to_string();
    assert!(error.starts_with("ddd") && error.contains(" ... "), "{error}");
    assert!(error.contains("ddd/f has changed in the view"), "{error}");
    assert!(error.len() < 500, "{error}");
    let home = std::env::temp_dir().join(&name).join(&name);
    let error = failed_to_open(&home);
    assert!(error.len() < 500 && error.contains(" ... "), "{error}");
}

fn failed_to_open(base: &Path) -> String {
    let source = Source { base, delta: base, is_scratch: NOTHING_IS_SCRATCH };
    scan(&source, &BasedOn::new()).unwrap_err().to_string()
}
