//! The kernel writes the delta: what overlayfs leaves in its upper directory is a delta as good
//! as a view's.

use super::git::as_git_sees;
use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(options).unwrap();
        mount(kind, at, kind, MountFlags::empty(), options.as_c_str()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Does the edit with plain system calls, as any program would.
fn perform(root: &Path, edit: &Edit) {
    let remove = |path: &RelPath| {
        let at = root.join(path.to_path_buf());
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&at).unwrap(),
            Ok(_) => fs::remove_file(&at).unwrap(),
            Err(_) => {}
        }
    };
    match edit {
        Edit::Remove(path) => remove(path),
        Edit::Put(path, node) => {
            let above: Vec<RelPath> = path.ancestors().skip(1).collect();
            for dir in above.iter().rev().filter(|dir| !dir.is_root()) {
                let at = root.join(dir.to_path_buf());
                if !fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
                    remove(dir);
                    fs::create_dir(&at).unwrap();
                }
            }
            let at = root.join(path.to_path_buf());
            let found = fs::symlink_metadata(&at);
            match node {
                Node::Dir(mode) => {
                    if !found.is_ok_and(|found| found.is_dir()) {
                        remove(path);
                        fs::create_dir(&at).unwrap();
                    }
                    fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
                }
                // In place if it can be, so that the kernel copies up.
                Node::File(..) if found.is_ok_and(|found| found.is_file()) => {
                    write_node(root, path, node);
                }
                _ => {
                    remove(path);
                    write_node(root, path, node);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn what_the_kernels_overlay_shows_is_what_base_becomes(
        make in any_edits(14), work in any_edits(8)
    ) {
        let world = World::new();
        // An overlay's upper directory can't be on an overlay, as containers have it.
        let _disk = Mounted::new("tmpfs", world.dir.path(), "mode=0755");
        for name in ["base", "delta", "work"] {
            fs::create_dir(world.dir.path().join(name)).unwrap();
        }
        let mut base = Model::new();
        for one in &make {
            edit(&mut base, one);
        }
        write_all(&world.base(), &base);

        let merged = world.dir.path().join("merged");
        let at = |name: &str| world.dir.path().join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
            at("base"), at("delta"), at("work")
        );
        let overlay = Mounted::new("overlay", &merged, &options);
        for one in &work {
            perform(&merged, one);
        }
        let shown = read_all(&merged);
        let times: Vec<(RelPath, i64)> = shown
            .iter()
            .filter(|(_, node)| !matches!(node, Node::Dir(_)))
            .map(|(path, _)| (path.clone(), mtime_at(&merged, path)))
            .collect();
        drop(overlay);

        let patch = world.patch(&world.scan());
        let _ = world.prepare(&world.scan()).unwrap().commit().unwrap();
        prop_assert_eq!(&read_all(&world.base()), &shown);
        for (path, at) in times {
            // What was written again as it was is no change, so base keeps its time.
            if base.get(&path) != shown.get(&path) {
                prop_assert_eq!(mtime_at(&world.base(), &path), at, "mtime of {}", path);
            }
        }
        prop_assert_eq!(world.patch(&world.scan()), b"");
        prop_assert_eq!(patch.is_empty(), as_git_sees(&base) == as_git_sees(&shown));
    }
}
