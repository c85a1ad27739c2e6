//! What others make of a view and its delta: git, kernel overlayfs, mount.

use super::*;

#[test]
fn git_works_and_its_index_needs_no_refresh() {
    let m = mounted(&[]);
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main";
    let base = m.base("");
    let setup = format!(
        "cd {} && {git} init -q . && mkdir -p src && echo 1 > src/a && echo 2 > b && \
         touch -d @1000000000 src/a b && {git} add . && {git} commit -qm one",
        base.display()
    );
    assert!(Command::new("sh").args(["-ec", &setup]).status().unwrap().success());
    let _ = fs::read_dir(m.at(""));
    m.gate.read.lock().unwrap().clear();
    assert_eq!(m.run("GIT_OPTIONAL_LOCKS=0 git status --porcelain"), "");
    let read = m.gate.read.lock().unwrap().clone();
    assert!(!read.contains(&"src/a".to_owned()), "the index fits: {read:?}");
    m.run(&format!("echo 3 >> b && {git} commit -qam two && {git} checkout -q -b topic"));
    m.run(&format!("{git} rm -q src/a && echo n > n && {git} add n && {git} commit -qm three"));
    assert_eq!(m.run("git log --format=%s"), "three\ntwo\none\n");
    assert_eq!(m.run("git status --porcelain"), "");
    m.run(&format!("{git} checkout -q main && {git} stash list && {git} gc -q"));
    assert_eq!(m.run("cat b src/a"), "2\n3\n1\n");
    let log = Command::new("git").arg("-C").arg(base).args(["log", "--format=%s"]).output();
    assert_eq!(String::from_utf8(log.unwrap().stdout).unwrap(), "one\n", "base's is untouched");
}

#[test]
fn kernel_overlayfs_shows_the_delta_as_the_view_does() {
    let m = mounted(&[("a", "a"), ("d/x", "x"), ("d/s/y", "y"), ("e/z", "z"), ("f", "f")]);
    m.run(
        "echo more >> a && rm d/x && rm -r e && mkdir e && echo n > e/n && mv f d/f && \
         mkdir p && echo 1 > p/1 && mv p q && ln -s q/1 l && ln a a2 && rm -r d/s && \
         echo file > d/s && chmod 750 d && touch -d @77 q",
    );
    let overlay = m.dir.path().join("overlay");
    let show = "find . -path ./.agentfs -prune -o -printf '%p %y %m %U %G %T@ %l\\n' | sort && \
                find . -path ./.agentfs -prune -o -type f -print0 | sort -z | xargs -0 cat";
    let view = m.run(show);
    fs::create_dir(&overlay).unwrap();
    // overlayfs wants its upper directory for itself; a copy keeps whiteouts and attributes.
    let script = format!(
        "cd {dir} && cp -a delta upper && mkdir ovlwork && unshare -m sh -ec \
         'mount -t overlay overlay -o lowerdir=base,upperdir=upper,workdir=ovlwork overlay && \
          cd overlay && {show}'",
        dir = m.dir.path().display(),
        show = show.replace('\'', "'\\''"),
    );
    let done = Command::new("sh").args(["-ec", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8(done.stdout).unwrap(), view);
}

#[test]
fn a_mountpoint_in_use_is_refused_and_an_unmounted_view_can_be_mounted_again() {
    let m = mounted(&[("a", "a")]);
    let error = mount(m.view.view().clone(), &m.at(""), &Trust::default()).unwrap_err();
    assert!(matches!(error, MountError::Busy(_)), "{error}");
    let error =
        mount(m.view.view().clone(), &m.dir.path().join("none"), &Trust::default()).unwrap_err();
    assert!(matches!(error, MountError::NoMountpoint(_)), "{error}");
    let Mounted { dir, view: mounted, .. } = m;
    let view = mounted.view().clone();
    mounted.unmount().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("mnt")).unwrap().count(), 0);
    let again = mount(view, &dir.path().join("mnt"), &Trust::default()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("mnt/a")).unwrap(), "a");
    drop(again);
}
