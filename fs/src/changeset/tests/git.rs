//! `git apply` is the judge of patches.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

fn git_apply(tree: &Path, patch: &[u8], arguments: &[&str]) {
    if patch.is_empty() {
        return;
    }
    let mut child = Command::new("git")
        .arg("apply")
        .args(arguments)
        .current_dir(tree)
        .env("GIT_CEILING_DIRECTORIES", tree)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", tree)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(patch).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "git apply: {}\n{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(patch)
    );
}

/// The tree as git keeps it: files with their executable bit, and links.
pub(super) fn as_git_sees(model: &Model) -> Model {
    let kept = model.iter().filter_map(|(path, node)| {
        let node = match node {
            Node::File(content, mode) => Node::File(content.clone(), mode & 0o100),
            Node::Link(target) => Node::Link(target.clone()),
            Node::Dir(_) => return None,
        };
        Some((path.clone(), node))
    });
    kept.collect()
}

/// Without the directories that git does not know of, as they hold no file.
fn without_empty_directories(model: &Model) -> Model {
    let is_kept = |path: &RelPath| {
        model.iter().any(|(other, node)| path.contains(other) && !matches!(node, Node::Dir(_)))
    };
    let kept = model.iter().filter(|(path, _)| is_kept(path));
    kept.map(|(path, node)| (path.clone(), node.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn git_apply_makes_of_base_what_the_view_shows((base, after, choices) in any_work()) {
        let (base, after) = (without_empty_directories(&base), without_empty_directories(&after));
        let world = World::of(&base);
        write_delta(&world.delta(), &base, &after, choices);
        let patch = world.patch(&world.scan());
        let copy = World::of(&base);
        git_apply(&copy.base(), &patch, &[]);
        prop_assert_eq!(as_git_sees(&read_all(&copy.base())), as_git_sees(&after));
        // The way back restores contents; git itself forgets the mode of what was deleted, so
        // links can't be compared.
        let contents = |model: &Model| -> Vec<(RelPath, Vec<u8>)> {
            let files = model.iter().filter_map(|(path, node)| match node {
                Node::File(content, _) | Node::Link(content) => Some((path.clone(), content.clone())),
                Node::Dir(_) => None,
            });
            files.collect()
        };
        if !base.values().any(|node| matches!(node, Node::Link(_))) {
            git_apply(&copy.base(), &patch, &["-R"]);
            prop_assert_eq!(contents(&read_all(&copy.base())), contents(&base));
        }
    }
}

#[test]
fn the_patch_is_the_one_that_git_writes() {
    let world = World::new();
    world.write("base/src/a.rs", "one\ntwo\nthree\n");
    world.write("delta/src/a.rs", "one\n2\nthree");
    world.write("delta/new file", "x\n");
    world.write("base/gone", "y");
    world.whiteout("gone");
    let changes = world.scan();
    assert_eq!(words(&changes), ["Deleted gone", "Added new file", "Modified src/a.rs"]);
    assert_eq!(changes.line_counts(), (3, 3));
    // git itself makes the expected text, from the same two trees in one directory.
    let ours = String::from_utf8(world.patch(&changes)).unwrap();
    fs::remove_file(world.delta().join("gone")).unwrap();
    let theirs = Command::new("git")
        .args(["diff", "--no-index", "--no-prefix", "--full-index", "base", "delta"])
        .current_dir(world.dir.path())
        .output()
        .unwrap();
    let theirs = String::from_utf8(theirs.stdout).unwrap();
    let theirs = theirs.replace("base/", "a/").replace("delta/", "b/");
    let theirs = theirs.replace("diff --git a/gone a/gone", "diff --git a/gone b/gone");
    let theirs =
        theirs.replace("diff --git b/new file b/new file", "diff --git a/new file b/new file");
    assert_eq!(ours, theirs);
}
