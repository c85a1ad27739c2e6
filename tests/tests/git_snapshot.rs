//! An agent's `.git` is a snapshot of base's from the moment its run begins: nothing that is done
//! to base's afterwards reaches the agent, and nothing that the agent does reaches base's.

use agentfs_tests::{GIT_WORK, Tree, World, eventually, in_both_worlds};
use std::path::PathBuf;

in_both_worlds!(
    base_moves_on_and_the_agent_does_not_notice,
    what_an_agent_does_to_its_git_never_reaches_base,
    the_first_status_reads_no_file,
    the_users_settings_stay_and_start_nothing,
    a_split_index_works,
    locks_are_nobodys_after_their_process,
    kept_commits_are_read_by_plain_git,
    pending_commits_survive_a_daemon_and_a_collection,
    a_copy_that_nobody_needs_goes,
    a_nested_repository_is_copied_on_write,
);

fn base_moves_on_and_the_agent_does_not_notice(world: &World) {
    world
        .sh("git checkout -q -b topic && git commit -q --allow-empty -m 'On topic'
             git checkout -q main && git commit -q --allow-empty -m 'Second' && git tag -a -m x v1")
        .ok();
    let mut alice = world.agent("alice").flags("--quiet").start(
        "set -e
         git rev-parse HEAD topic v1 >~/before
         tell ready; await moved
         git rev-parse HEAD topic v1 >~/after
         git symbolic-ref HEAD
         git log --format=%s topic
         git fsck --no-progress
         git status --porcelain
         git commit -q --allow-empty -m 'Third'
         echo x >>shared.txt && git stash -q && git stash pop -q && git checkout -q shared.txt
         git rebase -q topic
         git gc -q --prune=now
         git log --format=%s",
    );
    alice.hears("ready");
    world
        .sh("git checkout -q -b other && git commit -q --allow-empty -m 'In base'
             git branch -q -D topic main && git tag -d v1 >/dev/null
             git reflog expire --expire=now --all
             git repack -q -a -d && git gc -q --prune=now --aggressive && git pack-refs --all
             git commit -q --allow-empty -m 'In base again'")
        .ok();
    world.ctl("sync alice").ok();
    alice.tells("moved");
    let home = alice.home();
    let done = alice.finish().exits(0);
    assert_eq!(
        done.out(),
        "refs/heads/main\nOn topic\nThe beginning\nThird\nSecond\nOn topic\nThe beginning\n"
    );
    let read = |name: &str| std::fs::read_to_string(home.join(name)).expect("it is kept");
    assert_eq!(read("before"), read("after"), "HEAD, branch and tag are those of the run's start");
    world.sh("git fsck --strict 2>&1").ok();
    // The next run begins with what base is then.
    let next =
        world.agent("alice").flags("--quiet").run("git symbolic-ref HEAD; git log -1 --format=%s");
    assert_eq!(next.exits(0).out(), "refs/heads/other\nIn base again\n");
}

fn what_an_agent_does_to_its_git_never_reaches_base(world: &World) {
    world.sh("git branch topic && git gc -q && git commit -q --allow-empty -m Loose").ok();
    let git = world.repo().join(".git");
    let before = Tree::of(&git);
    let done = world.agent("alice").flags("--quiet").run(
        "set -e
         git config user.name Evil && git config core.hooksPath /tmp
         git branch -q -D topic && git pack-refs --all
         echo '#!/bin/sh' >.git/hooks/post-commit
         for file in $(find .git/objects -type f) .git/HEAD .git/packed-refs; do
             chmod u+w $file && echo junk >>$file && touch -d 1999-01-01 $file
         done
         ! git fsck 2>/dev/null
         ln -f .git/HEAD .git/objects/link && echo junk >.git/objects/link
         git gc -q --prune=now 2>/dev/null || true
         rm -rf .git
         test ! -e .git
         git init -q . && git add -A && git -c user.email=a@b -c user.name=a commit -q -m New",
    );
    done.exits(0);
    assert_eq!(before.differences(&Tree::of(&git)), [""; 0]);
    assert_eq!(world.sh("git fsck --strict --no-dangling 2>&1").ok().out(), "");
    assert_eq!(world.git("status --porcelain"), "");
    let next = world.agent("alice").flags("--quiet").run("git log --format=%s; git branch");
    assert_eq!(next.exits(0).out(), "Loose\nThe beginning\n* main\n  topic\n");
}

/// How many files git had to read, and how many it looked at, to refresh its index.
fn scanned(perf: &str) -> (u64, u64) {
    let sum = |what: &str| {
        let of = |line: &str| line.split_once(what)?.1.trim().parse::<u64>().ok();
        perf.lines().filter_map(of).sum()
    };
    (sum("refresh/sum_scan:"), sum("sum_lstat:"))
}

fn the_first_status_reads_no_file(world: &World) {
    world
        .sh("for i in $(seq 200); do echo $i >src/f$i; done; git add -A; git commit -q -m Many
             sleep 1.1; touch src; git update-index -q --refresh; git status --porcelain")
        .ok();
    let done = world
        .agent("alice")
        .flags("--quiet")
        .run("GIT_TRACE2_PERF=$HOME/perf git status --porcelain && cat ~/perf");
    let done = done.exits(0);
    assert!(!done.out().contains(" M "), "{done}");
    let (read, seen) = scanned(&done.out());
    assert!(seen >= 200, "this git does not say what it looks at: {done}");
    assert_eq!(read, 0, "git read files to see that they are unchanged: {done}");
}

fn the_users_settings_stay_and_start_nothing(world: &World) {
    world
        .sh("printf '#!/bin/sh\\ntouch \"$HOME/monitored\"\\nexit 1\\n' >.git/monitor
             chmod +x .git/monitor
             git status >/dev/null
             git config core.untrackedCache true && git config alias.greet '!echo hello'
             git config core.fsmonitor .git/monitor && git config extensions.worktreeConfig true
             printf '[core]\\n\\tfsmonitor = .git/monitor\\n' >.git/config.worktree")
        .ok();
    std::fs::remove_file(world.home().join("monitored")).unwrap_or_default();
    let done = world.agent("alice").flags("--quiet").run(
        "git status --porcelain; git greet; git config core.fsmonitor; git config gc.auto
         git config user.name; git config core.untrackedCache; ls ~/monitored 2>/dev/null; exit 0",
    );
    assert_eq!(done.exits(0).out(), "hello\nfalse\n0\nTester\nfalse\n");
    assert!(!world.home().join("monitored").exists(), "the daemon ran what the repository names");
    assert_eq!(world.git("config core.fsmonitor"), ".git/monitor\n");
    assert!(!world.base(".git/config").contains("checkStat"));
}

fn a_split_index_works(world: &World) {
    world
        .sh("git update-index --split-index && echo x >new && git add new && git commit -qm n")
        .ok();
    assert!(world.sh("ls .git/sharedindex.*").ok().out().contains("sharedindex"));
    let mut alice = world
        .agent("alice")
        .flags("--quiet")
        .start(&format!("tell ready; await moved; {GIT_WORK}git ls-files new"));
    alice.hears("ready");
    world.sh("git update-index --no-split-index && rm -f .git/sharedindex.*").ok();
    alice.tells("moved");
    let done = alice.finish().exits(0);
    assert!(done.out().ends_with("Work of the agent\nnew\n"), "{done}");
}

fn locks_are_nobodys_after_their_process(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.sh("touch .git/index.lock .git/refs/heads/main.lock .git/packed-refs.lock").ok();
    let mut alice = world.agent("alice").start(
        "set -e; git add -A; echo one >src/a.txt; git commit -q -am One; touch .git/index.lock .git/HEAD.lock; tell there; await never",
    );
    alice.hears("there");
    alice.signal("KILL");
    alice.finish().exits(137);
    eventually("the run has ended", || world.runs()[0].ended);
    let done = world
        .agent("alice")
        .flags("--quiet")
        .run("echo two >src/a.txt; git commit -q -am Two && git log --format=%s -2");
    assert_eq!(done.exits(0).out(), "Two\nOne\n", "its pending work goes on, its locks do not");
    assert!(world.repo().join(".git/index.lock").exists(), "base's locks are base's");
}

/// Where the agent's old `.git`s are.
fn kept(world: &World, agent: &str) -> Vec<PathBuf> {
    let dirs = world.states().into_iter().map(|dir| dir.join("agents").join(agent).join("kept"));
    let entries = dirs.filter_map(|dir| dir.read_dir().ok()).flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn kept_commits_are_read_by_plain_git(world: &World) {
    world.sh("git branch doomed && git checkout -q doomed && git commit -q --allow-empty -m Doomed && git checkout -q main").ok();
    let done = world.agent("alice").flags("--quiet").run(
        "set -e
         git checkout -q -b mine doomed && echo work >src/a.txt && git commit -q -am 'Only here'
         git branch -q -D main && git pack-refs --all && git gc -q
         echo later >src/a.txt && git commit -q -am 'And here'
         git config core.pager 'touch /tmp/evil' && echo x >.git/hooks/pre-commit
         find .git/refs .git/objects .git/logs -depth -exec chmod a-w {} +",
    );
    done.exits(0);
    // Looking leaves nothing that is worth keeping.
    world.agent("bob").run("git status").exits(0);
    world
        .sh("git branch -q -D doomed; git reflog expire --expire=now --all; git gc -q --prune=now")
        .ok();
    for agent in ["alice", "bob"] {
        world.agent(agent).run("git log --format=%s").exits(0);
    }
    assert_eq!(kept(world, "bob"), Vec::<PathBuf>::new());
    let kept = kept(world, "alice");
    let [git_dir] = kept.as_slice() else { panic!("{kept:?}") };
    assert!(git_dir.ends_with("git-before-r3"), "{kept:?}");
    let git = |arguments: &str| {
        let line = format!("git --git-dir {} {arguments}", git_dir.display());
        world.cmd(line.split(' ')).dir("/").ok().out()
    };
    assert_eq!(git("log --format=%s mine"), "And here\nOnly here\nDoomed\nThe beginning\n");
    assert_eq!(git("branch --format=%(refname:short)"), "doomed\nmine\n", "main is deleted in it");
    assert_eq!(git("show mine:src/a.txt"), "later\n");
    git("fsck --strict");
    // What an agent writes there, a user's git must not run.
    assert!(!git("config --list").contains("evil"));
    assert!(!git_dir.join("hooks/pre-commit").exists());
    assert!(
        git_dir.join("agent/config").exists() && git_dir.join("agent/hooks/pre-commit").exists()
    );
}

fn pending_commits_survive_a_daemon_and_a_collection(world: &World) {
    world.configure("publish = \"manual\"\n");
    world.sh("git add -A; git commit -q -m Configured; git gc -q").ok();
    world.agent("alice").run("echo one >src/a.txt && git commit -q -am One").exits(0);
    let pid = world.status().pid;
    world.signal(pid, "KILL");
    eventually("the daemon is gone", || (!world.is_running(pid)).then_some(()));
    world.sh("git commit -q --allow-empty -m More; git checkout -q --orphan new; git commit -q -m New; git branch -D main; git reflog expire --expire=now --all; git gc -q --prune=now").ok();
    let done = world
        .agent("alice")
        .flags("--quiet")
        .run("git fsck --no-progress && git log --format=%s && git show HEAD:src/a.txt");
    assert_eq!(done.exits(0).out(), "One\nConfigured\nThe beginning\none\n");
    world.ctl("discard --yes alice").ok();
    let done = world.agent("alice").flags("--quiet").run("git log --format=%s");
    assert_eq!(done.exits(0).out(), "New\n");
    assert_eq!(kept(world, "alice").len(), 1, "discarding changes discards no commits");
}

fn a_copy_that_nobody_needs_goes(world: &World) {
    world.agent("alice").run("git status").exits(0);
    world.agent("bob").run("git commit -q --allow-empty -m Kept").exits(0);
    let pinned = |agent: &str| {
        let dirs = world.states().into_iter().map(|dir| dir.join("agents").join(agent));
        dirs.map(|dir| dir.join("pins/.git")).any(|dir| dir.exists())
    };
    assert!(pinned("alice") && pinned("bob"));
    world.fs("unmount").ok();
    world.fs("mount .").ok();
    assert!(!pinned("alice"), "only what an agent may need is kept");
    assert!(pinned("bob"), "its commit is in it");
    let done = world.agent("alice").flags("--quiet").run(GIT_WORK);
    assert_eq!(done.exits(0).out(), "Work of the agent\n");
}

fn a_nested_repository_is_copied_on_write(world: &World) {
    world
        .sh("echo vendor/ >>.gitignore; git commit -q -am Ignored; git clone -q . vendor/lib")
        .ok();
    let git = world.repo().join("vendor/lib/.git");
    let before = Tree::of(&git);
    let done = world.agent("alice").flags("--quiet").run(
        "set -e; cd vendor/lib && git status --porcelain && git commit -q --allow-empty -m Inner && git log -1 --format=%s",
    );
    assert_eq!(done.exits(0).out(), "Inner\n");
    assert_eq!(before.differences(&Tree::of(&git)), [""; 0]);
}
