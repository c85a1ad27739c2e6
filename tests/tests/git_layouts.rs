//! An agent's `.git` stands alone in whatever way base's repository is laid out: worktrees,
//! submodules, clones that lack or borrow objects, workspaces that are a part of a repository,
//! state on another file system.

use agentfs_tests::{Done, GIT_WORK, Tree, World, in_both_worlds};
use std::path::{Path, PathBuf};

in_both_worlds!(
    a_linked_worktree_is_a_repository_of_its_own,
    a_worktree_of_a_bare_repository,
    a_worktree_inside_the_workspace,
    submodules_work_in_the_main_worktree,
    submodules_work_in_a_linked_worktree,
    old_submodules_with_a_git_directory_of_their_own,
    a_shallow_and_partial_clone,
    borrowed_objects_are_there,
    a_workspace_that_is_a_part_of_a_repository,
    a_workspace_that_is_a_part_of_a_linked_worktree,
    state_on_another_file_system,
    whose_the_repository_is_counts,
);

/// Where a git directory is not what it was; where an apply prepares its files does not count.
fn unlike(before: &Tree, git: &Path) -> Vec<String> {
    let mut changed = before.differences(&Tree::of(git));
    changed.retain(|path| path != "agentfs");
    changed
}

/// Runs a script as an agent in `dir`, and checks that no git directory in `gits` has changed.
#[track_caller]
fn works(world: &World, dir: &Path, script: &str, gits: &[PathBuf]) -> Done {
    let before: Vec<Tree> = gits.iter().map(|git| Tree::of(git)).collect();
    let agent = world.agent("alice").flags("--quiet");
    let done = agent.sh(&format!("{GIT_WORK}{script}")).dir(dir).run().exits(0);
    for (git, before) in gits.iter().zip(before) {
        assert_eq!(unlike(&before, git), [""; 0], "in {}", git.display());
    }
    done
}

fn a_linked_worktree_is_a_repository_of_its_own(world: &World) {
    world.sh("git worktree add -q -b topic ../linked && git -C ../linked commit -q --allow-empty -m 'In the worktree'").ok();
    let (git, linked) = (world.repo().join(".git"), world.path().join("linked"));
    let done = works(
        world,
        &linked,
        "test -d .git && test ! -e .git/worktrees && test ! -e .git/commondir
         git log --format=%s topic; git rev-parse --show-toplevel --git-common-dir
         git reflog --format=%gs -2 topic; ! test -e ../repo/README.md",
        &[git],
    );
    let expected = format!(
        "Work of the agent\nIn the worktree\nThe beginning\n{}\n.git\ncommit: In the worktree\nbranch: Created from HEAD\n",
        linked.display()
    );
    assert_eq!(done.out(), expected);
    assert!(world.git("worktree list").contains("[topic]"));
    world.sh("git fsck --strict 2>&1; test -f ../linked/.git; git -C ../linked status").ok();
}

fn a_worktree_of_a_bare_repository(world: &World) {
    world
        .sh("git clone -q --bare . ../bare.git && git -C ../bare.git worktree add -q ../linked main
             git -C ../linked config user.name T && git -C ../linked config user.email t@e")
        .ok();
    let linked = world.path().join("linked");
    let done = works(
        world,
        &linked,
        "git rev-parse --is-bare-repository",
        &[world.path().join("bare.git")],
    );
    assert_eq!(done.out(), "Work of the agent\nfalse\n");
}

fn a_worktree_inside_the_workspace(world: &World) {
    world
        .sh("echo inner/ >>.gitignore && git commit -q -am Ignored
             git worktree add -q -b topic inner/tree && git worktree add -q -b far ../far")
        .ok();
    let script = "git worktree list | sed 's/.*\\[//'; cd inner/tree; git status --porcelain
        git commit -q --allow-empty -m Inner; git log --format=%s -2; git -C ../.. log -1 --format=%s topic
        cd ../..; git worktree add -q inner/new -b new; git -C inner/new status --porcelain";
    let done = works(world, &world.repo(), script, &[world.repo().join(".git")]);
    assert_eq!(done.out(), "Work of the agent\nagents-own]\ntopic]\nInner\nIgnored\nInner\n");
    assert_eq!(world.git("log -1 --format=%s topic"), "Ignored\n");
}

/// A repository `part` with one commit, beside base.
fn part(world: &World) {
    world
        .sh("mkdir ../part && cd ../part && git init -q -b main && echo part >README.md && git add -A
             git -c user.name=T -c user.email=t@e commit -q -m Part")
        .ok();
}

/// What an agent does in a submodule.
const IN_MODULE: &str = "
    cd lib/part; test -z \"$(git status --porcelain)\"; git log --format=%s
    git rev-parse --show-superproject-working-tree | sed 's,.*/,,'
    git -c user.name=T -c user.email=t@e commit -q --allow-empty -m Inner; git log -1 --format=%s; git fsck
    cd ../..; git status --porcelain | sed 's/^/status: /'; git submodule status | cut -c1,43-50
";

fn submodules_work_in_the_main_worktree(world: &World) {
    part(world);
    let add = "git -c protocol.file.allow=always submodule --quiet add";
    world.sh(&format!("{add} ../part lib/part && git commit -q -m Submodule")).ok();
    assert!(world.base("lib/part/.git").contains("gitdir: ../../.git/modules/lib/part"));
    let done = works(world, &world.repo(), IN_MODULE, &[world.repo().join(".git")]);
    let expected = "Work of the agent\nPart\nrepo\nInner\nstatus:  M lib/part\n+lib/part\n";
    assert_eq!(done.out(), expected);
    // The submodule as a workspace of its own.
    let done = works(world, &world.repo().join("lib/part"), "git log --format=%s main", &[]);
    assert!(done.out().starts_with("Work of the agent\n"), "{done}");
}

fn submodules_work_in_a_linked_worktree(world: &World) {
    part(world);
    let allow = "-c protocol.file.allow=always";
    world
        .sh(&format!(
            "git {allow} submodule --quiet add ../part lib/part && git commit -q -m Submodule
             git worktree add -q ../linked -b topic
             cd ../linked && git {allow} submodule --quiet update --init"
        ))
        .ok();
    let linked = world.path().join("linked");
    let text = std::fs::read_to_string(linked.join("lib/part/.git")).expect("it is a file");
    assert!(text.contains("/worktrees/linked/modules/lib/part"), "{text}");
    let done = works(world, &linked, IN_MODULE, &[world.repo().join(".git")]);
    let expected = "Work of the agent\nPart\nlinked\nInner\nstatus:  M lib/part\n+lib/part\n";
    assert_eq!(done.out(), expected);
    let now = std::fs::read_to_string(linked.join("lib/part/.git")).expect("it is a file");
    assert_eq!(now, text, "base's own file is as it was");
    world.cmd(["git", "status"]).dir(linked.join("lib/part")).ok();
    // The same again, with all of it there already.
    world.sh("git commit -q -am Applied").dir(&linked).ok();
    assert_eq!(works(world, &linked, IN_MODULE, &[]).out(), expected);
}

fn old_submodules_with_a_git_directory_of_their_own(world: &World) {
    part(world);
    world
        .sh("mkdir lib && git clone -q ../part lib/part && git add lib/part 2>/dev/null
             printf '[submodule \"lib/part\"]\\n\\tpath = lib/part\\n\\turl = ../part\\n' >.gitmodules
             git add .gitmodules && git commit -q -m 'Old submodule'")
        .ok();
    let gits = [world.repo().join(".git"), world.repo().join("lib/part/.git")];
    let done = works(world, &world.repo(), IN_MODULE, &gits);
    let expected = "Work of the agent\nPart\nrepo\nInner\nstatus:  M lib/part\n-lib/part\n";
    assert_eq!(done.out(), expected);
}

fn a_shallow_and_partial_clone(world: &World) {
    world
        .sh("git config uploadpack.allowFilter true; for i in 1 2 3; do echo $i >>README.md; git commit -qam $i; done
             git clone -q --depth 1 file://$PWD ../shallow
             git clone -q --filter=blob:none file://$PWD ../partial
             for clone in shallow partial; do git -C ../$clone config user.name T; git -C ../$clone config user.email t@e; done")
        .ok();
    let shallow = world.path().join("shallow");
    let done = works(
        world,
        &shallow,
        "git log --format=%s; git rev-parse --is-shallow-repository",
        &[shallow.join(".git")],
    );
    assert_eq!(done.out(), "Work of the agent\nWork of the agent\n3\ntrue\n");
    let partial = world.path().join("partial");
    let missing = "git rev-list --objects --all --missing=print | grep -c '^?'";
    assert_ne!(world.sh(missing).dir(&partial).run().out(), "0\n");
    let done = works(world, &partial, missing, &[partial.join(".git")]);
    assert_eq!(done.out(), "Work of the agent\n3\n", "what is missing in base is missing here");
}

fn borrowed_objects_are_there(world: &World) {
    world
        .sh("git clone -q --shared . ../second && cd ../second
             git config user.name T; git config user.email t@e; git commit -q --allow-empty -m Second
             git clone -q --shared . ../third && cd ../third
             git config user.name T; git config user.email t@e; git commit -q --allow-empty -m Third
             cd .. && mkdir relative && cd relative && git init -q -b main .
             git config user.name T; git config user.email t@e
             echo ../../../third/.git/objects >.git/objects/info/alternates
             git reset -q --hard $(git -C ../third rev-parse HEAD)")
        .ok();
    for name in ["third", "relative"] {
        let dir = world.path().join(name);
        let gits = [dir.join(".git"), world.repo().join(".git")];
        let script =
            "test ! -e .git/objects/info/alternates; git log --format=%s main; ! test -e ../repo";
        let done = works(world, &dir, script, &gits);
        assert_eq!(done.out(), "Work of the agent\nThird\nSecond\nThe beginning\n", "{name}");
    }
}

/// What an agent does in `src`, a part of the repository.
const IN_PART: &str = "
    test -z \"$(git status --porcelain)\"
    echo work >a.txt; git status --porcelain; git commit -q -am 'Work in a part'; git log --format=%s
    git fsck --no-dangling --no-progress; git stash list; git checkout -q -b mine HEAD~1; git checkout -q -
    git rev-parse --show-prefix
    cat ../README.md; echo no 2>/dev/null >../README.md || echo refused
    git config user.name Somebody; test -z \"$(git status --porcelain)\"; ls -a | grep agentfs
";

const IN_PART_SAID: &str =
    " M src/a.txt\nWork in a part\nThe beginning\nsrc/\n# A repository\nrefused\n.agentfs\n";

fn a_workspace_that_is_a_part_of_a_repository(world: &World) {
    let (git, src) = (world.repo().join(".git"), world.repo().join("src"));
    let before = Tree::of(&git);
    world.fs("mount src").ok();
    let agent = world.agent("alice").flags("--quiet");
    let done = agent.sh(&format!("set -e; {IN_PART}")).dir(&src).run().exits(0);
    assert_eq!(done.out(), IN_PART_SAID);
    assert_eq!(unlike(&before, &git), [""; 0]);
    assert_eq!(world.base("src/a.txt"), "work\n");
    assert_eq!(world.git("status --porcelain"), " M src/a.txt\n");
    // Its commit is kept, and the next run begins with base again.
    let agent = world.agent("alice").flags("--quiet");
    let done = agent.sh("git log --format=%s; git status --porcelain").dir(&src).run().exits(0);
    assert_eq!(done.out(), "The beginning\n M src/a.txt\n");
    let state = world.states().into_iter().next().expect("there is state");
    let kept = state.join("agents/alice/kept/git-above-before-r2").display().to_string();
    assert_eq!(world.git(&format!("--git-dir {kept} log -1 --format=%B")), "Work in a part\n\n");
    world.fs("unmount src").ok();
}

fn a_workspace_that_is_a_part_of_a_linked_worktree(world: &World) {
    world.sh("git worktree add -q -b topic ../linked").ok();
    let (git, src) = (world.repo().join(".git"), world.path().join("linked/src"));
    let before = Tree::of(&git);
    world.fs("mount ../linked/src").ok();
    let agent = world.agent("alice").flags("--quiet");
    let done = agent.sh(&format!("set -e; {IN_PART}git branch --show-current")).dir(&src).run();
    assert_eq!(done.exits(0).out(), format!("{IN_PART_SAID}topic\n"));
    assert_eq!(unlike(&before, &git), [""; 0]);
    world.fs("unmount ../linked/src").ok();
}

fn state_on_another_file_system(world: &World) {
    let place = world.path().join("elsewhere");
    let mount = "mkdir -p $PLACE && mount -t tmpfs -o mode=0777 elsewhere $PLACE";
    world.sh(mount).env("PLACE", &place).as_root().ok();
    world.sh("git branch old && git gc -q && git commit -q --allow-empty -m Loose").ok();
    let mut alice = world
        .agent("alice")
        .sh("set -e; echo ready; until [ -e gone.log ]; do sleep 0.02; done
             git log --format=%s; git fsck --no-progress; git status --porcelain
             ! touch $(git rev-parse --git-path objects)/../agentfs/*/alice/objects/x 2>/dev/null
             git commit -q --allow-empty -m Mine; git gc -q --prune=now; git log -1 --format=%s")
        .env("AGENTFS_STATE_DIR", &place)
        .start();
    agentfs_tests::eventually("the agent is there", || {
        assert!(!alice.has_ended(), "{alice}");
        alice.stdout().contains("ready").then_some(())
    });
    world
        .sh("git checkout -q --orphan new && git commit -q -m New && git branch -q -D main old
             git reflog expire --expire=now --all && git gc -q --prune=now && touch gone.log")
        .ok();
    let done = alice.finish().exits(0);
    assert_eq!(done.out(), "ready\nLoose\nThe beginning\nMine\n");
    world.sh("git fsck --strict 2>&1").ok();
    // What is set aside takes its objects with it.
    let next = world.agent("alice").flags("--quiet");
    let next = next.sh("git log --format=%s").env("AGENTFS_STATE_DIR", &place).run();
    assert_eq!(next.exits(0).out(), "New\n");
    let kept = "git --git-dir $(echo $PLACE/*/agents/alice/kept/git-before-r2)";
    let script = format!("{kept} log --format=%s; {kept} fsck --no-progress");
    let said = world.sh(&script).env("PLACE", &place).ok();
    assert_eq!(said.out(), "Mine\nLoose\nThe beginning\n");
    world.fs("unmount").env("AGENTFS_STATE_DIR", &place).run();
}

/// Root's daemon serves a repository of somebody else's as his, and shows him no more than that.
fn whose_the_repository_is_counts(world: &World) {
    world.cmd(["chown", "-R", "61234:61234", "."]).as_root().ok();
    let repo = world.repo();
    let done = works(world, &repo, "stat -c %u .git .git/HEAD; id -u", &[repo.join(".git")]);
    let said = done.out();
    let ids: Vec<&str> = said.lines().skip(1).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[2]), "{done}");
    world
        .sh("umask 077; git init -q ../secret && cd ../secret && git -c user.name=R -c user.email=r@e commit -q --allow-empty -m Secret
             umask 022; mkdir ../trap && echo \"gitdir: $PWD/.git\" >../trap/.git && touch ../trap/agentfs.toml
             chown -R 61234:61234 ../trap")
        .as_root()
        .ok();
    let trap = world.path().join("trap");
    let script = "! git log 2>/dev/null; ! grep -r Secret .git; test -f .git";
    world.agent("alice").flags("--quiet").sh(script).dir(&trap).run().exits(0);
}
