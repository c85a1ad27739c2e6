//! What is a change, what is not, and what it is based on.

use super::*;
use agentfs_core::changeset::{Action, FileKind};

fn signed(world: &World, at: &str) -> agentfs_core::changeset::Before {
    signature(fs::File::open(world.base()).unwrap(), &path(at)).unwrap()
}

#[test]
fn what_was_merely_copied_up_is_no_change() {
    let world = World::new();
    world.write("base/d/same", "text");
    world.write("base/d/mode", "text");
    world.write("base/d/touched", "text");
    for name in ["same", "mode", "touched"] {
        world.write(&format!("delta/d/{name}"), "text");
    }
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.delta().join("d/mode"), mode).unwrap();
    let changes = world.scan();
    assert_eq!(words(&changes), ["Modified d/mode"]);
    let change = &changes.changes[0];
    assert_eq!((change.added, change.removed), (Some(0), Some(0)));
    assert_eq!(change.before_hash, change.after_hash);
}

#[test]
fn a_whiteout_of_a_directory_deletes_each_file_but_scratch() {
    let world = World::new();
    world.write("base/d/a", "1\n2\n");
    world.write("base/d/e/b", "3\n");
    world.write("base/d/target/built", "x");
    world.whiteout("d");
    let changes = world.scan();
    assert_eq!(words(&changes), ["Deleted d", "Deleted d/a", "Deleted d/e", "Deleted d/e/b"]);
    assert_eq!(changes.line_counts(), (0, 3));

    let applied = world.prepare(&changes).unwrap().commit().unwrap();
    assert_eq!(
        read_all(&world.base()).keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["d", "d/target", "d/target/built"]
    );
    assert_eq!(applied.kept, [Kept::Directory { path: path("d") }]);
    assert!(applied.kept[0].to_string().starts_with("the directory d stays"));
}

#[test]
fn an_opaque_directory_hides_what_base_has_at_any_depth() {
    let world = World::new();
    world.write("base/d/e/old", "1\n");
    world.write("base/d/same", "2\n");
    world.write("delta/d/e/new", "3\n");
    world.write("delta/d/same", "2\n");
    opaque(&world.delta().join("d"), true);
    assert_eq!(words(&world.scan()), ["Added d/e/new", "Deleted d/e/old"]);
}

#[test]
fn what_an_opaque_directory_hid_may_become_a_directory() {
    let world = World::new();
    world.write("base/d/x", "a file\n");
    world.write("delta/d/x/below", "1\n");
    opaque(&world.delta().join("d"), false);
    let changes = world.scan();
    assert_eq!(words(&changes), ["Retyped d/x", "Added d/x/below"]);
    assert_eq!(world.conflicts(&changes), Vec::<String>::new());
}

#[test]
fn scratch_and_private_paths_are_in_no_change_set() {
    let world = World::new();
    world.write("delta/target/x", "1");
    world.write("delta/.git/hooks/pre-commit", "1");
    world.write("delta/vendor/.git/config", "1");
    world.write("delta/.agentfs/whoami", "1");
    world.write("delta/.agentfs-stage-r1/000000", "1");
    world.write("delta/.gitignore", "1");
    rustix::fs::mknodat(CWD, world.delta().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(words(&world.scan()), ["Added .gitignore", "Added vendor"]);
}

#[test]
fn before_is_what_the_author_built_on() {
    let world = World::new();
    world.write("base/a", "old\n");
    let built_on = signed(&world, "a");
    let based = BasedOn::from([(path("a"), built_on), (path("new"), None)]);
    world.write("delta/a", "mine\n");
    world.write("delta/new", "mine\n");
    let calm = world.scan_based(&based);
    assert_eq!(world.conflicts(&calm), Vec::<String>::new());
    assert!(calm.changes[0].before_hash.is_some());

    // Someone else applies both paths.
    fs::remove_file(world.base().join("a")).unwrap();
    world.write("base/a", "theirs\n");
    world.write("base/new", "theirs\n");
    let moved = world.scan_based(&based);
    assert_eq!(world.conflicts(&moved), ["a", "new"]);
    assert_eq!(moved.changes[0].before, built_on);
    assert_eq!(moved.changes[0].before_hash, None);
    assert_eq!(moved.changes[1].action, Action::Added);
}

#[test]
fn what_the_author_never_asked_to_replace_is_a_conflict_and_never_deleted() {
    let world = World::new();
    // Another name of a hard link, copied up unasked; then somebody else's apply.
    world.write("base/a", "theirs");
    world.write("delta/a", "stale");
    symlink("stale", world.delta().join("l")).unwrap();
    symlink("theirs", world.base().join("l")).unwrap();
    // What a renamed directory took along, to where a person made the same name.
    world.write("base/d/f", "a person's");
    world.write("base/d/g", "a person's");
    world.write("delta/d/f", "mine");
    opaque(&world.delta().join("d"), true);
    world.write("base/gone", "theirs");
    world.whiteout("gone");
    let changes = world.scan_based(&BasedOn::new());
    assert_eq!(words(&changes), ["Added a", "Added d/f", "Added l"]);
    assert!(changes.changes.iter().all(|change| change.before.is_none()));
    assert_eq!(world.conflicts(&changes), ["a", "d/f", "l"]);
}

#[test]
fn a_directorys_mode_counts_only_if_its_author_set_it() {
    let world = World::new();
    world.write("base/d/old", "1");
    world.write("delta/d/new", "1");
    let built_on = world.notes(&[path("d")]);
    fs::set_permissions(world.base().join("d"), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(words(&world.scan_based(&BasedOn::new())), ["Added d/new"]);
    assert_eq!(words(&world.scan_based(&built_on)), ["Added d/new"], "a person's chmod stays");
    fs::set_permissions(world.delta().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(words(&world.scan_based(&BasedOn::new())), ["Added d/new"]);
    assert_eq!(words(&world.scan_based(&built_on)), ["Modified d", "Added d/new"]);
}

#[test]
fn what_an_agent_made_and_removed_deletes_nothing_of_others() {
    let world = World::new();
    world.write("base/x", "theirs");
    world.whiteout("x");
    let based = BasedOn::from([(path("x"), None)]);
    assert_eq!(words(&world.scan_based(&based)), Vec::<String>::new());
}

#[test]
fn what_came_into_a_removed_directory_later_is_not_deleted() {
    let world = World::new();
    world.write("base/d/a", "1\n");
    world.write("base/d/e/b", "1\n");
    let noted = ["d", "d/a", "d/e", "d/e/b"].map(|at| (path(at), signed(&world, at)));
    let based = BasedOn::from(noted);
    world.write("base/d/new", "a person's\n");
    world.write("base/d/e/new", "a person's\n");
    world.whiteout("d");
    let changes = world.scan_based(&based);
    assert_eq!(words(&changes), ["Deleted d", "Deleted d/a", "Deleted d/e", "Deleted d/e/b"]);
    assert_eq!(world.conflicts(&changes), Vec::<String>::new());
    let applied = world.prepare(&changes).unwrap().commit().unwrap();
    assert_eq!(applied.kept.len(), 2);
    assert_eq!((world.read("d/new"), world.read("d/e/new")), {
        ("a person's\n".to_owned(), "a person's\n".to_owned())
    });
    assert!(!world.base().join("d/a").exists());
}

#[test]
fn a_directory_that_hides_nothing_does_not_replace_a_link_unseen() {
    let world = World::new();
    world.write("delta/d/new", "mine");
    symlink("/etc", world.base().join("d")).unwrap();
    let changes = world.scan_based(&BasedOn::new());
    assert_eq!(words(&changes), ["Added d", "Added d/new"]);
    assert_eq!(world.conflicts(&changes), ["d"]);
}

#[test]
fn a_link_in_base_never_steers_a_write_outside() {
    let world = World::new();
    world.write("base/d/a", "old");
    world.write("delta/d/a", "new");
    world.write("outside/a", "precious");
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    fs::rename(world.base().join("d"), world.base().join("e")).unwrap();
    symlink("../outside", world.base().join("d")).unwrap();
    let refused = {
        let (base, delta) = (world.base(), world.delta());
        let source = Source { base: &base, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
        let stage = base.join(".agentfs-stage-r2");
        Staged::prepare(&source, &changes, &stage, None).unwrap_err().to_string()
    };
    assert!(refused.contains("/base/d leads through a symbolic link"), "{refused}");

    // A commit that has begun is finished all the same; the link makes room.
    let applied = staged.commit().unwrap();
    assert_eq!(fs::read_to_string(world.dir.path().join("outside/a")).unwrap(), "precious");
    assert_eq!((world.read("d/a"), world.read("e/a")), ("new".to_owned(), "old".to_owned()));
    let moved_to = path("d.agentfs-kept");
    assert_eq!(applied.kept, [Kept::Aside { path: path("d"), moved_to }]);
}

#[test]
fn a_base_behind_a_link_is_refused_by_name() {
    let world = World::new();
    let link = world.dir.path().join("link");
    symlink("base", &link).unwrap();
    let delta = world.delta();
    let source = Source { base: &link, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
    let error = scan(&source, &BasedOn::new()).unwrap_err().to_string();
    assert!(error.contains(&format!("{} leads through a symbolic link", link.display())));
}

#[test]
fn a_mark_that_is_not_understood_is_refused() {
    let world = World::new();
    world.write("delta/d/a", "1");
    let at = world.delta().join("d");
    lsetxattr(&at, "user.overlay.redirect", b"/x", XattrFlags::empty()).unwrap();
    let delta = world.delta();
    let base = world.base();
    let source = Source { base: &base, delta: &delta, is_scratch: NOTHING_IS_SCRATCH };
    let error = scan(&source, &BasedOn::new()).unwrap_err();
    assert!(error.to_string().contains("the delta's d has overlayfs's"), "{error}");
}

#[test]
fn a_signature_tells_versions_apart() {
    let world = World::new();
    world.write("base/a", "one");
    symlink("a", world.base().join("l")).unwrap();
    let first = signed(&world, "a").unwrap();
    assert_eq!((first.kind, first.size), (FileKind::File, 3));
    assert_eq!(signed(&world, "l").unwrap().kind, FileKind::Symlink);
    assert_eq!(signed(&world, "").unwrap().kind, FileKind::Dir);
    assert_eq!(signed(&world, "none"), None);
    assert_eq!(signed(&world, "a/below"), None);
    assert_eq!(signed(&world, "l/below"), None);
    world.write("base/b", "one");
    fs::rename(world.base().join("b"), world.base().join("a")).unwrap();
    assert_ne!(signed(&world, "a").unwrap(), first);
}

#[test]
fn a_delta_hides_what_it_has_itself_but_for_directories_and_unchanged_copies() {
    let world = World::new();
    let all = ["file", "copy", "mode", "gone", "d/under", "o/under", "f/under", "dir/x", "other"];
    for name in all {
        world.write(&format!("base/{name}"), "base");
    }
    for name in ["file", "d/other", "o/other", "dir/y", "f"] {
        world.write(&format!("delta/{name}"), "mine");
    }
    world.whiteout("gone");
    opaque(&world.delta().join("o"), true);
    let keep = |name: &str| {
        let (from, to) = (world.base().join(name), world.delta().join(name));
        fs::copy(&from, &to).unwrap();
        let time = fs::metadata(&from).unwrap().modified().unwrap();
        fs::File::open(&to).unwrap().set_modified(time).unwrap();
    };
    keep("copy");
    keep("mode");
    fs::set_permissions(world.delta().join("mode"), fs::Permissions::from_mode(0o711)).unwrap();
    let delta = fs::File::open(world.delta()).unwrap();
    let base = fs::File::open(world.base()).unwrap();
    let hidden = |name: &&str| {
        let now = signature(&base, &path(name)).unwrap().unwrap();
        hides(&delta, &path(name), &now).unwrap()
    };
    let hidden: Vec<&str> = [&all[..], &["dir"]].concat().into_iter().filter(hidden).collect();
    assert_eq!(hidden, ["file", "mode", "gone", "o/under", "f/under"]);
    // What somebody else makes of it since is not what the copy was made from.
    world.write("base/copy", "theirs");
    let now = signature(&base, &path("copy")).unwrap().unwrap();
    assert!(hides(&delta, &path("copy"), &now).unwrap());
}
