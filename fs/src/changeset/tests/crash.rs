//! A commit that is cut off after any step, and what it keeps rather than lose.

use super::*;
use std::ops::ControlFlow;

/// Stages and commits all of the delta, stopping after `stop` steps if there are as many; then
/// goes on as a new process would, from the plan as the journal has it.
fn apply_with_crash(world: &World, stop: Option<usize>) -> (Applied, usize) {
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    let plan = serde_json::to_string(staged.plan()).unwrap();
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    let mut calls = 0;
    let outcome = staged.commit_watched(&mut |_| {
        calls += 1;
        if Some(calls) == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let applied = match outcome {
        Ok(applied) => applied,
        Err(ChangeSetError::Stopped { .. }) => {
            resume(&world.base(), &world.stage(), &plan).unwrap()
        }
        Err(error) => panic!("{error}"),
    };
    // Also the crash after the very end, before the journal has it.
    let again = resume(&world.base(), &world.stage(), &plan).unwrap();
    assert_eq!(again.now, applied.now);
    (applied, calls)
}

fn check(world: &World, base: &Model, after: &Model) {
    assert_eq!(&read_all(&world.base()), after);
    assert!(!world.stage().exists());
    for (path, node) in after {
        let is_new = match (base.get(path), node) {
            (Some(Node::Dir(_)), Node::Dir(_)) => false,
            (Some(old), new) if old == new => false,
            _ => true,
        };
        if is_new {
            assert_eq!(mtime_at(&world.base(), path), mtime_of(path, node), "mtime of {path}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_commit_cut_off_anywhere_is_finished((base, after, choices) in any_work()) {
        let mut stop = None;
        let mut calls = 1;
        while stop.unwrap_or(0) <= calls {
            let world = World::of(&base);
            write_delta(&world.delta(), &base, &after, choices);
            let (applied, made) = apply_with_crash(&world, stop);
            prop_assert_eq!(applied.kept, vec![]);
            check(&world, &base, &after);
            prop_assert!(world.scan().is_empty(), "what is applied is no change any more");
            if stop.is_none() {
                calls = made;
            }
            stop = Some(stop.unwrap_or(0) + 1);
        }
    }
}

#[test]
fn a_persons_save_during_the_commit_is_moved_aside() {
    let world = World::new();
    world.write("base/a", "old");
    world.write("base/b", "old");
    world.write("delta/a", "agent");
    world.write("delta/new", "agent");
    world.whiteout("b");
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    for name in ["a", "b", "new"] {
        world.write("base/saved", "person");
        fs::rename(world.base().join("saved"), world.base().join(name)).unwrap();
    }
    let applied = staged.commit().unwrap();
    assert_eq!(world.read("a"), "agent");
    assert_eq!(world.read("new"), "agent");
    assert_eq!(world.read("a.agentfs-kept"), "person");
    assert_eq!(world.read("new.agentfs-kept"), "person");
    assert_eq!(world.read("b"), "person");
    let kept: Vec<String> = applied.kept.iter().map(ToString::to_string).collect();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().any(|k| k.contains("their version is now a.agentfs-kept")), "{kept:?}");
}

/// The instant in which the commit has exchanged the staged file with what base had.
fn exchange(world: &World, plan: &Plan, name: &str) {
    let staged = plan.steps.iter().find_map(|step| match step {
        Step::Put { path: at, staged, .. } if *at == path(name) => Some(staged.clone()),
        _ => None,
    });
    let (staged, to) = (world.stage().join(staged.unwrap()), world.base().join(name));
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, &staged, CWD, &to, flags).unwrap();
}

#[test]
fn a_commit_cut_off_between_exchange_and_look_keeps_a_persons_version() {
    let world = World::new();
    for name in ["calm", "saved", "dir"] {
        world.write(&format!("base/{name}"), "old");
        world.write(&format!("delta/{name}"), "agent");
    }
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    world.write("base/new", "person");
    fs::rename(world.base().join("new"), world.base().join("saved")).unwrap();
    fs::remove_file(world.base().join("dir")).unwrap();
    world.write("base/dir/below", "person");
    let plan = staged.plan().clone();
    for name in ["calm", "saved", "dir"] {
        exchange(&world, &plan, name);
    }
    let applied = resume(&world.base(), &world.stage(), &plan).unwrap();
    for name in ["calm", "saved", "dir"] {
        assert_eq!(world.read(name), "agent");
    }
    assert_eq!(world.read("saved.agentfs-kept"), "person");
    assert_eq!(world.read("dir.agentfs-kept/below"), "person");
    assert_eq!(applied.kept.len(), 2, "{:?}", applied.kept);
    assert_eq!(fs::read_dir(world.base()).unwrap().count(), 5);
}

#[test]
fn a_persons_save_after_the_commit_is_not_what_was_published() {
    let world = World::new();
    world.write("base/a", "old");
    world.write("base/gone", "old");
    world.write("delta/a", "agent");
    world.write("delta/d/b", "agent");
    world.whiteout("gone");
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    let plan = staged.plan().clone();
    let calm = std::cell::RefCell::new(BasedOn::new());
    let applied = staged
        .commit_watched(&mut |done| {
            if done == plan.steps.len() && calm.borrow().is_empty() {
                let all = ["a", "d", "d/b", "gone"].map(path);
                calm.replace(world.notes(&all));
                for name in ["a", "d/b", "gone"] {
                    world.write("base/new", "person");
                    fs::rename(world.base().join("new"), world.base().join(name)).unwrap();
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(world.read("a"), "person");
    assert_eq!(applied.now, calm.into_inner());
}

#[test]
fn a_directory_with_scratch_in_it_does_not_become_a_file() {
    let world = World::new();
    world.write("base/d/a", "1");
    world.write("base/d/target/built", "x");
    world.write("delta/d", "a file now");
    let changes = world.scan();
    assert_eq!(words(&changes), ["Retyped d", "Deleted d/a"]);
    let error = world.prepare(&changes).unwrap_err();
    assert!(error.to_string().contains("base still has d/target in it"), "{error}");
    assert!(!world.stage().exists());
    assert_eq!(world.read("d/a"), "1");
}

#[test]
fn what_changed_since_the_scan_is_not_applied() {
    let world = World::new();
    world.write("delta/a", "reviewed");
    let changes = world.scan();
    world.write("delta/a", "sneaked in");
    let error = world.prepare(&changes).unwrap_err();
    assert!(matches!(error, ChangeSetError::ChangedSinceScan { .. }), "{error}");
    assert!(!world.stage().exists());
    assert!(!world.base().join("a").exists());
}

#[test]
fn what_the_agent_wrote_since_is_not_to_be_dropped() {
    let world = World::new();
    world.write("base/gone", "1");
    world.write("base/back", "1");
    world.write("delta/a", "staged");
    world.write("delta/d/b", "staged");
    world.whiteout("gone");
    world.whiteout("back");
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    let plan = staged.plan().clone();
    let unchanged = || {
        let mut paths = unchanged_since_staged(&world.delta(), &plan).unwrap();
        paths.sort();
        paths.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(unchanged(), ["a", "back", "d", "d/b", "gone"]);
    fs::rename(world.delta().join("d/b"), world.delta().join("d/old")).unwrap();
    world.write("delta/d/b", "staged");
    fs::remove_file(world.delta().join("back")).unwrap();
    world.write("delta/back", "again");
    let _ = staged.commit().unwrap();
    assert_eq!(unchanged(), ["a", "d", "gone"]);
}

#[test]
fn an_abandoned_stage_leaves_base_as_it_was() {
    let world = World::new();
    fs::create_dir(world.base().join(".git")).unwrap();
    world.write("delta/a", "new");
    let changes = world.scan();
    let staged = world.prepare(&changes).unwrap();
    assert_eq!(staged.stage_dir(), world.base().join(".git/agentfs/stage-r1"));
    assert!(matches!(world.prepare(&changes), Err(ChangeSetError::StageExists { .. })));
    let left = stages(&world.base()).unwrap();
    assert_eq!(left, [(agentfs_core::RunId(1), world.stage())]);
    abandon(&world.stage()).unwrap();
    abandon(&world.stage()).unwrap();
    assert_eq!(stages(&world.base()).unwrap(), []);
    fs::rename(world.base().join(".git"), world.dir.path().join("git")).unwrap();
    symlink("../git", world.base().join(".git")).unwrap();
    assert_eq!(world.stage(), world.base().join(".agentfs-stage-r1"));
    assert_eq!(stages(&world.base()).unwrap(), []);
    assert!(!world.base().join("a").exists());
}

#[test]
fn owners_modes_times_and_attributes_arrive() {
    let world = World::new();
    let own = |at: &str, id: u32| {
        std::os::unix::fs::lchown(world.base().join(at), Some(id), Some(id)).unwrap();
    };
    world.write("base/a", "old");
    own("", 1234);
    own("a", 4321);
    world.write("delta/a", "new");
    world.write("delta/d/b", "new");
    symlink("b", world.delta().join("d/l")).unwrap();
    let b = world.delta().join("d/b");
    lsetxattr(&b, "user.note", b"kept", XattrFlags::empty()).unwrap();
    lsetxattr(&b, "user.overlay.origin", b"left", XattrFlags::empty()).unwrap();
    fs::set_permissions(&b, fs::Permissions::from_mode(0o6750)).unwrap();
    let changes = world.scan();
    let at = mtime_at(&world.delta(), &path("d/b"));
    let _ = world.prepare(&changes).unwrap().commit().unwrap();
    let owner = |at: &str| {
        let found = fs::symlink_metadata(world.base().join(at)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("a"), (4321, 4321));
    for at in ["d", "d/b", "d/l"] {
        assert_eq!(owner(at), (1234, 1234), "{at}");
    }
    assert_eq!(mtime_at(&world.base(), &path("d/b")), at);
    let there = world.base().join("d/b");
    let mode = fs::metadata(&there).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o750, "set-user-id never leaves a view");
    let mut value = Vec::with_capacity(64);
    let spare = rustix::buffer::spare_capacity(&mut value);
    rustix::fs::lgetxattr(&there, "user.note", spare).unwrap();
    assert_eq!(value, b"kept");
    let marks = rustix::fs::lgetxattr(&there, "user.overlay.origin", &mut [0u8; 8]);
    assert!(marks.is_err(), "overlayfs's marks stay in the delta");
}

#[test]
fn a_new_read_only_directory_arrives_with_what_is_in_it() {
    let world = World::new();
    let base = Model::new();
    let mut after = Model::new();
    edit(&mut after, &Edit::Put(path("d/e/f"), Node::File(b"x".to_vec(), 0o444)));
    edit(&mut after, &Edit::Put(path("d/e"), Node::Dir(0o555)));
    edit(&mut after, &Edit::Put(path("d"), Node::Dir(0o555)));
    write_delta(&world.delta(), &base, &after, 0);
    let _ = apply_with_crash(&world, Some(3));
    check(&world, &base, &after);
    for at in ["base/d/e", "base/d", "delta/d/e", "delta/d"] {
        let writable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(world.dir.path().join(at), writable).unwrap();
    }
}

#[test]
fn a_large_set_is_synced_as_one() {
    let world = World::new();
    for index in 0..100 {
        world.write(&format!("delta/d{index}/f"), "x");
    }
    let changes = world.scan();
    let applied = world.prepare(&changes).unwrap().commit().unwrap();
    assert_eq!(applied.now.len(), 200);
    assert_eq!(read_all(&world.base()).len(), 200);
}

#[test]
fn a_directory_on_another_file_system_is_refused_before_anything_is_done() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let world = World::new();
    world.write("base/m/a", "old");
    world.write("delta/m/a", "new");
    world.write("delta/b", "new");
    let at = world.base().join("m");
    mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None).unwrap();
    let prepared = world.prepare(&world.scan());
    unmount(&at, UnmountFlags::DETACH).unwrap();
    let error = prepared.unwrap_err();
    assert!(matches!(error, ChangeSetError::OtherFileSystem { .. }), "{error}");
    assert!(!world.base().join("b").exists());
}
