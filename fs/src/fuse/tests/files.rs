//! Files as processes see them: data, attributes, open handles.

use super::*;

#[test]
fn files_are_read_from_base_and_written_to_the_delta() {
    let m = mounted(&[("a.txt", "old\n"), ("d/b.txt", "b\n")]);
    assert_eq!(fs::read_to_string(m.at("a.txt")).unwrap(), "old\n");
    let before = fs::metadata(m.at("a.txt")).unwrap();
    assert_eq!(before.ino(), fs::metadata(m.base("a.txt")).unwrap().ino());

    let mut reader = fs::File::open(m.at("a.txt")).unwrap();
    fs::OpenOptions::new().append(true).open(m.at("a.txt")).unwrap().write_all(b"new\n").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old\nnew\n", "an open reader sees the write");
    assert_eq!(fs::read_to_string(m.base("a.txt")).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(m.delta("a.txt")).unwrap(), "old\nnew\n");
    assert_eq!(fs::metadata(m.at("a.txt")).unwrap().ino(), before.ino(), "over copy-up");

    fs::write(m.at("d/b.txt"), "short").unwrap();
    assert_eq!(fs::read_to_string(m.at("d/b.txt")).unwrap(), "short");
    fs::write(m.at("d/c.txt"), "c").unwrap();
    fs::remove_file(m.at("a.txt")).unwrap();
    assert!(!m.at("a.txt").exists());
    assert_eq!(fs::symlink_metadata(m.delta("a.txt")).unwrap().rdev(), 0, "a whiteout");
    fs::write(m.at("a.txt"), "again").unwrap();
    assert_eq!(fs::read_to_string(m.at("a.txt")).unwrap(), "again");

    let mut names: Vec<_> =
        fs::read_dir(m.at("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b.txt", "c.txt"]);
    assert_eq!(m.gate.units(), ["a.txt", "d/b.txt", "d/c.txt", "a.txt", "a.txt"]);
    assert!(m.gate.read.lock().unwrap().contains(&"a.txt".to_owned()));
}

#[test]
fn open_files_outlive_their_names() {
    let m = mounted(&[("a", "base"), ("gone", "g")]);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(m.at("a")).unwrap();
    fs::remove_file(m.at("a")).unwrap();
    file.write_all(b"more").unwrap();
    file.seek(Position::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "more");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.set_len(2).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2);
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    // A file of base that nobody has written.
    let reader = fs::File::open(m.at("gone")).unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    fs::write(m.at("gone"), "another").unwrap();
    let mut buffer = [0; 1];
    reader.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"g");
    assert_eq!(fs::read_to_string(m.base("gone")).unwrap(), "g");
}

#[test]
fn attributes_are_kept_over_copy_up_and_can_be_changed() {
    let m = mounted(&[("a", "text"), ("d/x", "x")]);
    m.run("true");
    fs::set_permissions(m.base("a"), fs::Permissions::from_mode(0o751)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let base = fs::File::options().write(true).open(m.base("a")).unwrap();
    base.set_modified(old).unwrap();
    rustix::fs::setxattr(m.base("a"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
        .unwrap();
    let file = fs::OpenOptions::new().write(true).open(m.at("a")).unwrap();
    let copy = fs::metadata(m.at("a")).unwrap();
    assert_eq!((copy.modified().unwrap(), copy.mode() & 0o7777), (old, 0o751));
    drop(file);
    let mut note = [0; 4];
    rustix::fs::getxattr(m.at("a"), "user.note", &mut note[..]).unwrap();
    assert_eq!(&note, b"kept");
    let mut names = [0; 100];
    let length = rustix::fs::listxattr(m.at("a"), &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.note\0", "the format's own are hidden");

    m.run("chmod 600 a && touch -d @5 a && truncate -s 2 a && setfattr -n user.x -v 1 a || true");
    let now = fs::metadata(m.at("a")).unwrap();
    assert_eq!((now.mode() & 0o7777, now.len()), (0o600, 2));
    m.run("chmod 700 d && touch -d @7 d && chown 5:6 d");
    let dir = fs::metadata(m.at("d")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime(), dir.uid(), dir.gid()), (0o700, 7, 5, 6));
    assert_ne!(fs::metadata(m.base("d")).unwrap().mode() & 0o7777, 0o700);
    assert!(!m.gate.units().contains(&"d/".to_owned()), "directories merge");
    m.run("chmod 755 . && touch .");
}

#[test]
fn files_of_the_workspaces_owner_are_shown_as_the_agents() {
    let m = mounted_as(&[], Owner { host: (1234, 1235), shown: (77, 78) });
    fs::write(m.base("a"), "a").unwrap();
    std::os::unix::fs::chown(m.base("a"), Some(1234), Some(1235)).unwrap();
    std::os::unix::fs::chown(m.at(""), Some(77), Some(78)).unwrap();
    let a = fs::metadata(m.at("a")).unwrap();
    assert_eq!((a.uid(), a.gid()), (77, 78));
    let made = Command::new("sh")
        .args(["-c", "echo x > new && mkdir dir && ln -s new link && echo y >> a"])
        .current_dir(m.at(""))
        .uid(77)
        .gid(78)
        .status();
    assert!(made.unwrap().success());
    for name in ["new", "dir", "link", "a"] {
        let host = fs::symlink_metadata(m.delta(name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (1234, 1235), "{name}");
        let shown = fs::symlink_metadata(m.at(name)).unwrap();
        assert_eq!((shown.uid(), shown.gid()), (77, 78), "{name}");
    }
}

#[test]
fn each_user_stays_one_user_also_where_the_owner_is_shown_as_another() {
    let m = mounted_as(&[("a", "a")], Owner { host: (0, 0), shown: (65534, 65534) });
    let owner = |path: PathBuf| fs::symlink_metadata(path).map(|at| (at.uid(), at.gid())).unwrap();
    assert_eq!(owner(m.at("a")), (65534, 65534));
    for (name, id) in [("root", 0), ("nobody", 65534), ("other", 5)] {
        fs::write(m.at(name), name).unwrap();
        std::os::unix::fs::chown(m.at(name), Some(id), Some(id)).unwrap();
        assert_eq!(owner(m.at(name)), (id, id));
    }
    assert_eq!(owner(m.delta("nobody")), (0, 0), "the owner's, on the host");
    for group in [0, 65534, 5] {
        let dir = format!("of{group}");
        fs::create_dir(m.at(&dir)).unwrap();
        std::os::unix::fs::chown(m.at(&dir), None, Some(group)).unwrap();
        fs::set_permissions(m.at(&dir), fs::Permissions::from_mode(0o2755)).unwrap();
        fs::write(m.at(&format!("{dir}/f")), "").unwrap();
        assert_eq!(owner(m.at(&format!("{dir}/f"))), (0, group));
    }
}

#[test]
fn times_before_the_epoch_are_kept_to_the_nanosecond() {
    let m = mounted(&[("a", "a")]);
    for (second, nanosecond) in [(-1, 999_999_999), (-1, 0), (-86_400, 1), (0, 1)] {
        let time = rustix::fs::Timespec { tv_sec: second, tv_nsec: nanosecond };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let follow = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, m.at("a"), &times, follow).unwrap();
        for path in [m.at("a"), m.delta("a")] {
            let a = fs::metadata(path).unwrap();
            assert_eq!((a.mtime(), a.mtime_nsec()), (second, nanosecond));
        }
    }
}

#[test]
fn copying_up_moves_no_time_of_the_directories_above() {
    let m = mounted(&[("d/e/a", "a"), ("d/e/b", "b")]);
    m.run("touch -d @5 d/e/a d/e/b d/e d .");
    let times = || {
        let time =
            |path: &str| fs::metadata(m.at(path)).map(|at| (at.mtime(), at.atime())).unwrap();
        ["", "d", "d/e", "d/e/b"].map(time)
    };
    let before = times();
    m.run("chmod 600 d/e/a && echo more >>d/e/a");
    assert_eq!(times(), before);
    assert_eq!(
        fs::metadata(m.delta("d/e")).unwrap().mtime(),
        before[2].0,
        "and not in the cache alone"
    );
    m.run("touch d/e/new");
    assert_ne!(times()[2], before[2]);
}

#[test]
fn a_file_of_base_without_a_name_has_no_links() {
    let m = mounted(&[("a", "a"), ("b", "b"), ("d/c", "c")]);
    fs::hard_link(m.base("a"), m.base("other")).unwrap();
    let open = ["a", "b", "d/c"].map(|name| fs::File::open(m.at(name)).unwrap());
    let links = || open.each_ref().map(|file| file.metadata().unwrap().nlink());
    assert_eq!(links(), [1, 1, 1]);
    m.run("rm a && echo new >new && mv new b && rm -r d");
    assert_eq!(links(), [0, 0, 0]);
}

#[test]
fn access_control_lists_are_inherited_obeyed_and_name_whom_the_view_shows() {
    let m = mounted_as(&[("d/secret", "secret")], Owner { host: (0, 0), shown: (77, 78) });
    m.run(
        r#"python3 - <<'PY'
import os, struct
def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
NONE = 0xFFFFFFFF
def parsed(path, kind):
    value = os.getxattr(path, "system.posix_acl_" + kind)
    return [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]
def can_read(uid):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setegid(uid); os.seteuid(uid)
        try:
            open("d/secret").read()
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
os.umask(0o077)
os.chmod("d", 0o755); os.chmod("d/secret", 0o600)
assert not can_read(55)
os.setxattr("d/secret", "system.posix_acl_access",
            acl((1, 6, NONE), (2, 4, 55), (4, 0, NONE), (16, 4, NONE), (32, 0, NONE)))
assert can_read(55) and not can_read(56)
os.setxattr("d", "system.posix_acl_default",
            acl((1, 7, NONE), (2, 7, 77), (4, 5, NONE), (16, 7, NONE), (32, 5, NONE)))
os.mkdir("d/in", 0o750); open("d/in/f", "w").close(); os.symlink("f", "d/in/s")
assert parsed("d/in", "default") == parsed("d", "default")
assert parsed("d/in/f", "access") == [(1, 6, NONE), (2, 7, 77), (4, 5, NONE), (16, 6, NONE), (32, 4, NONE)]
assert oct(os.stat("d/in").st_mode & 0o7777) == "0o750", oct(os.stat("d/in").st_mode)
open("plain", "w").close()
assert oct(os.stat("plain").st_mode & 0o7777) == "0o600"
PY"#,
    );
    let mut list = [0; 44];
    rustix::fs::getxattr(m.delta("d/in/f"), "system.posix_acl_access", &mut list[..]).unwrap();
    assert_eq!(list[16..20], [0; 4], "the agent's entry is the owner's on the host");
}

#[test]
fn whoever_but_root_changes_a_program_takes_its_set_id_bits() {
    let m = mounted(&[("lower", "text")]);
    m.run(
        r#"python3 - <<'PY'
import os
os.chmod(".", 0o777)
open("from", "w").write("data")
def change(fd):
    yield "write", lambda: os.write(fd, b"x")
    yield "allocate", lambda: os.posix_fallocate(fd, 0, 9)
    yield "truncate", lambda: os.ftruncate(fd, 1)
    yield "copy", lambda: os.copy_file_range(os.open("from", os.O_RDONLY), fd, 2, 0, 0)
for path in ("lower", "own"):
    for number in range(4):
        for uid, left in ((5, 0o777), (0, None)):
            open(path, "a").close()
            os.chmod(path, 0o6777)
            pid = os.fork()
            if pid == 0:
                os.setegid(uid); os.seteuid(uid)
                fd = os.open(path, os.O_WRONLY)
                list(change(fd))[number][1]()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            mode = os.stat(path).st_mode & 0o7777
            assert left is None or mode == left, (path, number, uid, oct(mode))
PY"#,
    );
}

#[test]
fn data_is_mapped_locked_appended_and_sparse() {
    let m = mounted(&[("a", "0123456789"), ("db", "")]);
    m.run(
        r#"python3 - <<'PY'
import fcntl, mmap, os, sqlite3
f = open("a", "r+b")
shared = mmap.mmap(f.fileno(), 0)
shared[0:3] = b"abc"
assert open("a", "rb").read() == b"abc3456789"
os.pwrite(f.fileno(), b"Z", 9)
assert shared[9:10] == b"Z"
shared.close(); f.close()
assert open("a", "rb").read() == b"abc345678Z"

one = open("a", "r+b"); two = os.open("a", os.O_RDWR)
fcntl.lockf(one, fcntl.LOCK_EX)
pid = os.fork()
if pid == 0:
    try:
        fcntl.lockf(os.open("a", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(1)
    except BlockingIOError:
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

fds = [os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2)]
for i in range(100):
    os.write(fds[i % 2], b"%02d" % i)
assert open("log").read() == "".join("%02d" % i for i in range(100))

s = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.pwrite(s, b"end", 1 << 20)
assert os.lseek(s, 0, os.SEEK_DATA) > 0
assert os.lseek(s, 0, os.SEEK_HOLE) == 0
os.posix_fallocate(s, 0, 2 << 20)
assert os.fstat(s).st_size == 2 << 20
t = os.open("copy", os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(s, t, 3, 1 << 20, 0) == 3 and os.pread(t, 9, 0) == b"end"
os.fsync(s); os.fdatasync(s)
os.fsync(os.open(".", os.O_RDONLY))
assert os.statvfs(".").f_blocks > 0

for mode in ["delete", "wal"]:
    db = sqlite3.connect("db")
    assert db.execute("pragma journal_mode=" + mode).fetchone() == (mode,)
    db.execute("create table if not exists t (x)")
    db.execute("insert into t values (1)")
    db.commit()
    assert sqlite3.connect("db").execute("select count(*) from t").fetchone()[0] >= 1
    db.close()
try:
    os.open(".", os.O_TMPFILE | os.O_RDWR)
    assert False
except OSError as e:
    assert e.errno == 95, e
PY"#,
    );
    assert_eq!(fs::read_to_string(m.base("a")).unwrap(), "0123456789");
}
