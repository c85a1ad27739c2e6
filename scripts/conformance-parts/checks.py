"""What file systems are asked by `scripts/conformance`, one small question at a time.

    checks.py fixtures DIR        makes the files that the checks begin with (as the lower layer)
    checks.py run DIR [NAME...]   runs them there and prints one JSON object: name to outcome

A check does something to the files of its own directory and returns what it saw, in a form that
does not depend on place or time. The outcome on the native file system is the right one; any
other outcome is a difference. Nothing here knows which file system it is on.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import select
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

CHECKS = {}
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
# `--long`: as many entries as anybody has, and time for them.
MANY, PATIENCE = (100_000, 1200) if "CONFORMANCE_LONG" in os.environ else (3_000, 240)
LONG_AGO = 1_580_702_646_123_456_789


def check(function):
    CHECKS[function.__name__] = function
    return function


def saw(action, *arguments, **named):
    """What came of a call: its result, or the name of its error."""
    try:
        return action(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]


def system(name, *arguments):
    """A call that Python has no function for."""
    function = getattr(LIBC, name)
    arguments = [
        ctypes.c_longlong(a) if isinstance(a, int) else a.encode() if isinstance(a, str) else a
        for a in arguments
    ]
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(source, target, flags):
    return system("renameat2", AT_FDCWD, str(source), AT_FDCWD, str(target), flags)


def fallocate(fd, mode, offset, length):
    return system("fallocate", fd, mode, offset, length)


def tree(top):
    """Everything below `top`: kind, mode, links, text or content."""
    found = {}
    for path in sorted(Path(top).rglob("*")):
        status = path.lstat()
        kind = stat.filemode(status.st_mode)
        if path.is_symlink():
            text = f"-> {os.readlink(path)}"
        elif path.is_file():
            text = f"{hashlib.sha1(path.read_bytes()).hexdigest()[:12]} {status.st_size}"
        else:
            text = ""
        found[str(path.relative_to(top))] = f"{kind} {text}".strip()
    return found


def changed(path, action):
    """Which times of `path` an action moves forward."""
    before = os.lstat(path)
    time.sleep(0.012)
    result = saw(action)
    after = os.lstat(path)
    names = ("st_mtime_ns", "st_ctime_ns")
    moved = [name[3:8] for name in names if getattr(after, name) > getattr(before, name)]
    back = [name[3:8] for name in names if getattr(after, name) < getattr(before, name)]
    return [moved, back, result if isinstance(result, str) else None]


def child(action):
    """Runs `action` in a process of its own; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = action() or 0
    except OSError as error:
        code = error.errno
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(*command, **named):
    named.setdefault("check", True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, **named)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{command}: {error.stderr.strip()[-500:]}") from error
    return done.stdout.strip()


# --- names -----------------------------------------------------------------------------------


@check
def rename_a_file_of_the_lower_layer(at):
    before = (at / "file").stat().st_ino
    os.rename(at / "file", at / "new")
    return [(at / "new").read_text(), (at / "file").exists(), (at / "new").stat().st_ino == before]


@check
def rename_a_directory_of_the_lower_layer(at):
    return [saw(os.rename, at / "dir", at / "moved"), tree(at)]


@check
def rename_a_directory_that_merges(at):
    (at / "dir" / "new").write_text("new")
    return [saw(os.rename, at / "dir", at / "moved"), tree(at)]


@check
def rename_a_directory_of_the_lower_layer_with_its_changes_and_back(at):
    (at / "dir" / "x").unlink()
    (at / "dir" / "y").write_text("changed")
    there = saw(os.rename, at / "dir", at / "moved")
    (at / "elsewhere").mkdir()
    (at / "elsewhere" / "file").write_text("elsewhere")
    back = saw(os.rename, at / "moved", at / "dir")
    return [there, back, tree(at)]


@check
def rename_a_directory_over_an_emptied_one(at):
    for name in ("x", "y"):
        (at / "dir" / name).unlink()
    (at / "dir" / "deep" / "z").unlink()
    (at / "dir" / "deep").rmdir()
    (at / "new").mkdir()
    (at / "new" / "inside").write_text("inside")
    return [saw(os.rename, at / "new", at / "dir"), tree(at)]


@check
def rename_a_directory_with_an_open_file_and_a_working_directory_inside(at):
    (at / "new" / "deep").mkdir(parents=True)
    file = (at / "new" / "deep" / "f").open("w+")
    os.chdir(at / "new" / "deep")
    os.rename(at / "new", at / "moved")
    file.write("after")
    file.flush()
    return [Path("f").read_text(), os.getcwd().endswith("moved/deep"), tree(at / "moved")]


@check
def rename_over_an_open_file(at):
    held = (at / "file").open()
    (at / "new").write_text("new\n")
    os.rename(at / "new", at / "file")
    return [held.read(), os.fstat(held.fileno()).st_nlink, (at / "file").read_text()]


@check
def rename_noreplace(at):
    return [
        saw(renameat2, at / "file", at / "h1", NOREPLACE),
        saw(renameat2, at / "file", at / "new", NOREPLACE),
        (at / "new").read_text(),
    ]


@check
def rename_exchange_files(at):
    (at / "new").write_text("new")
    return [saw(renameat2, at / "file", at / "new", EXCHANGE), tree(at)]


@check
def rename_exchange_a_file_and_a_new_directory(at):
    (at / "new").mkdir()
    (at / "new" / "inside").write_text("inside")
    return [saw(renameat2, at / "file", at / "new", EXCHANGE), tree(at)]


@check
def rename_exchange_a_directory_of_the_lower_layer(at):
    (at / "new").mkdir()
    (at / "new" / "inside").write_text("inside")
    return [saw(renameat2, at / "dir", at / "new", EXCHANGE), tree(at)]


@check
def rename_whiteout(at):
    done = saw(renameat2, at / "file", at / "new", WHITEOUT)
    left = saw(os.lstat, at / "file")
    return [done, left if isinstance(left, str) else [oct(left.st_mode), left.st_rdev], tree(at)]


@check
def rename_whiteout_with_exchange_makes_no_sense(at):
    return saw(renameat2, at / "file", at / "h1", WHITEOUT | EXCHANGE)


@check
def rename_into_itself(at):
    return [
        saw(os.rename, at / "dir", at / "dir" / "deep" / "in"),
        saw(os.rename, at / "dir" / "deep", at / "dir"),
        saw(os.rename, at / "file", at / "file"),
        saw(os.rename, at / "dir", at / "file"),
        saw(os.rename, at / "file", at / "dir"),
    ]


@check
def rename_moves_times(at):
    (at / "to").mkdir()
    (at / "new").write_text("x")
    return [
        changed(at, lambda: os.rename(at / "new", at / "to" / "new")),
        changed(at / "to", lambda: os.rename(at / "to" / "new", at / "new")),
    ]


@check
def rename_touches_the_ctime_of_what_moves(at):
    outcome = []
    for name in ("file", "dir"):
        before = (at / name).stat()
        time.sleep(0.012)
        done = saw(os.rename, at / name, at / "moved")
        there = at / "moved" if done is None else at / name
        after = there.stat()
        outcome.append([done, after.st_ctime_ns > before.st_ctime_ns,
                        after.st_mtime_ns == before.st_mtime_ns])  # fmt: skip
        if done is None:
            os.rename(at / "moved", at / name)
    return outcome


@check
def hard_links_of_the_lower_layer_are_one_file(at):
    before = [(at / name).stat().st_nlink for name in ("h1", "h2")]
    same = (at / "h1").stat().st_ino == (at / "h2").stat().st_ino
    (at / "h1").write_text("changed")
    return [before, same, (at / "h2").read_text(), (at / "h1").stat().st_nlink]


@check
def hard_link_of_a_file_of_the_lower_layer(at):
    before = (at / "file").stat()
    os.link(at / "file", at / "new")
    after = (at / "file").stat()
    (at / "new").write_text("through the new name")
    return [after.st_nlink, after.st_ino == before.st_ino, (at / "file").read_text(),
            (at / "new").stat().st_ino == after.st_ino]  # fmt: skip


@check
def hard_link_counts(at):
    (at / "a").write_text("a")
    counts = []
    for name in ("b", "c"):
        os.link(at / "a", at / name)
        counts.append((at / "a").stat().st_nlink)
    os.unlink(at / "a")
    counts.append((at / "b").stat().st_nlink)
    os.rename(at / "b", at / "c")
    counts.append([(at / "b").exists(), (at / "c").stat().st_nlink])
    os.unlink(at / "b")
    counts.append((at / "c").stat().st_nlink)
    return counts


@check
def hard_link_of_a_symbolic_link(at):
    os.link(at / "sym", at / "new", follow_symlinks=False)
    system("linkat", AT_FDCWD, str(at / "sym"), AT_FDCWD, str(at / "through"), AT_SYMLINK_FOLLOW)
    return [os.readlink(at / "new"), os.lstat(at / "new").st_nlink, (at / "through").read_text()]


@check
def hard_link_of_a_directory(at):
    return saw(os.link, at / "dir", at / "new")


@check
def hard_link_of_an_open_file_by_its_descriptor(at):
    file = (at / "file").open()
    outcome = [saw(system, "linkat", AT_FDCWD, f"/proc/self/fd/{file.fileno()}", AT_FDCWD,
                   str(at / "new"), AT_SYMLINK_FOLLOW)]  # fmt: skip
    os.unlink(at / "file")
    os.unlink(at / "new")
    outcome.append(saw(system, "linkat", AT_FDCWD, f"/proc/self/fd/{file.fileno()}", AT_FDCWD,
                       str(at / "again"), AT_SYMLINK_FOLLOW))  # fmt: skip
    return outcome


@check
def link_and_unlink_touch_the_ctime(at):
    return [
        changed(at / "file", lambda: os.link(at / "file", at / "new")),
        changed(at / "file", lambda: os.unlink(at / "new")),
        changed(at, lambda: os.unlink(at / "file")),
    ]


@check
def unlink_while_open(at):
    outcome = []
    for name in ("file", "new"):
        if name == "new":
            (at / name).write_text("hello\n")
        file = (at / name).open("r+")
        os.unlink(at / name)
        file.seek(0, 2)
        file.write("more")
        file.flush()
        file.seek(0)
        os.fchmod(file.fileno(), 0o640)
        status = os.fstat(file.fileno())
        again = Path(f"/proc/self/fd/{file.fileno()}").read_text()
        outcome.append([file.read(), status.st_nlink, oct(status.st_mode), status.st_size, again,
                        os.path.exists(at / name)])  # fmt: skip
    return outcome


@check
def unlink_of_a_read_file_of_the_lower_layer_and_a_new_one_at_its_name(at):
    old = (at / "file").open()
    os.unlink(at / "file")
    (at / "file").write_text("second")
    return [old.read(), (at / "file").read_text(), os.fstat(old.fileno()).st_nlink]


@check
def remove_and_make_a_directory_of_the_lower_layer_again(at):
    run("rm", "-r", at / "dir")
    (at / "dir").mkdir()
    first = tree(at / "dir")
    (at / "dir" / "x").mkdir()
    return [first, tree(at)]


@check
def remove_a_directory_while_it_is_read(at):
    fd = os.open(at / "dir", os.O_RDONLY)
    run("rm", "-r", at / "dir")
    return [saw(os.listdir, fd), os.fstat(fd).st_nlink,
            saw(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)]  # fmt: skip


@check
def remove_the_working_directory(at):
    (at / "new").mkdir()
    os.chdir(at / "new")
    os.rmdir(at / "new")
    return [saw(os.getcwd), saw(os.listdir, "."), saw(os.mkdir, "x"), saw(os.stat, "..") is not None]


@check
def directory_link_counts(at):
    counts = [at.stat().st_nlink - 3, (at / "dir").stat().st_nlink]
    (at / "dir" / "new").mkdir()
    counts.append((at / "dir").stat().st_nlink)
    (at / "new").mkdir()
    counts.append((at / "new").stat().st_nlink)
    (at / "new" / "in").mkdir()
    counts.append((at / "new").stat().st_nlink)
    return counts


@check
def names_of_any_bytes(at):
    names = [b"n" * 255, b"\xff\xfe", b"new\nline", b" ", b"\\", b"-", b"\xc3\xa9", b"e\xcc\x81", b"*"]
    top = os.fsencode(at) + b"/bytes"
    os.mkdir(top)
    for name in names:
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    listed = sorted(os.listdir(top))
    same = [open(top + b"/" + name, "rb").read() == name for name in listed]
    return [listed == sorted(names), all(same), saw(os.mkdir, top + b"/" + b"n" * 256),
            saw(os.stat, top + b"/" + b"n" * 256)]  # fmt: skip


@check
def a_tree_deeper_than_a_path_may_be_long(at):
    os.chdir(at)
    name = "d" * 200
    for _ in range(30):
        os.mkdir(name)
        os.chdir(name)
    Path("end").write_text("deep")
    os.rename("end", "moved")
    text = Path("moved").read_text()
    up = os.open(".", os.O_RDONLY)
    found = sorted(os.listdir(up))
    os.unlink("moved")
    for _ in range(30):
        os.chdir("..")
        os.rmdir(name)
    return [text, found, os.path.exists(name)]


@check
def symbolic_links(at):
    os.symlink("x" * 4095, at / "long")
    os.symlink("loop", at / "loop")
    os.symlink("nowhere", at / "dangling")
    return [
        len(os.readlink(at / "long")),
        saw(os.symlink, "x" * 4096, at / "longer"),
        saw(os.symlink, "", at / "empty"),
        saw(open, at / "loop"),
        saw(open, at / "dangling"),
        saw(os.open, at / "sym", os.O_RDONLY | os.O_NOFOLLOW),
        os.lstat(at / "sym").st_size,
        (at / "sym").read_text(),
        saw(os.chmod, at / "sym", 0o600),
        oct((at / "file").stat().st_mode),
    ]


# --- permissions and attributes --------------------------------------------------------------


@check
def modes_of_what_is_made(at):
    outcome = []
    for mask in (0o022, 0o077, 0):
        old = os.umask(mask)
        os.close(os.open(at / f"f{mask}", os.O_CREAT | os.O_WRONLY, 0o777))
        os.mkdir(at / f"d{mask}", 0o777)
        os.mkfifo(at / f"p{mask}", 0o777)
        os.symlink("x", at / f"s{mask}")
        os.umask(old)
        outcome.append([oct((at / f"{k}{mask}").lstat().st_mode) for k in "fdps"])
    return outcome


@check
def a_file_made_without_write_permission_is_written(at):
    fd = os.open(at / "new", os.O_CREAT | os.O_WRONLY, 0o444)
    os.write(fd, b"text")
    os.close(fd)
    fd = os.open(at / "none", os.O_CREAT | os.O_RDWR, 0)
    os.write(fd, b"text")
    os.fsync(fd)
    os.close(fd)
    return [(at / "new").read_text(), oct((at / "none").stat().st_mode), (at / "none").stat().st_size]


@check
def chmod_000_and_back(at):
    outcome = []
    for name in ("file", "h1", "new"):
        if name == "new":
            (at / name).write_text("new")
        os.chmod(at / name, 0)
        outcome.append([oct((at / name).stat().st_mode), saw((at / name).rename, at / "moved") is not None])
        os.link(at / "moved", at / "second")
        os.unlink(at / "second")
        os.utime(at / "moved", ns=(1, 2))
        os.truncate(at / "moved", 1) if os.geteuid() == 0 else None
        os.chmod(at / "moved", 0o600)
        outcome.append((at / "moved").read_text()[:1])
        os.unlink(at / "moved")
    os.chmod(at / "dir", 0)
    listed = saw(os.listdir, at / "dir")
    outcome.append(listed if isinstance(listed, str) else sorted(listed))
    os.chmod(at / "dir", 0o755)
    outcome.append(sorted(os.listdir(at / "dir")))
    return outcome


@check
def files_of_the_lower_layer_without_permissions(at):
    outcome = [saw((at / "closed").read_text), oct((at / "closed").stat().st_mode)]
    os.utime(at / "closed", ns=(5, 6))
    outcome.append((at / "closed").stat().st_mtime_ns)
    os.rename(at / "closed", at / "new")
    os.chmod(at / "new", 0o600)
    outcome.append((at / "new").read_text())
    outcome.append(saw(os.listdir, at / "closed.d"))
    outcome.append(saw(os.stat, at / "closed.d" / "in") if os.geteuid() else None)
    os.chmod(at / "closed.d", 0o700)
    outcome.append(os.listdir(at / "closed.d"))
    return outcome


@check
def writing_clears_set_id_bits(at):
    outcome = []
    actions = {
        "write": lambda fd, path: os.write(fd, b"x"),
        "ftruncate": lambda fd, path: os.ftruncate(fd, 1),
        "truncate": lambda fd, path: os.truncate(path, 2),
        "fallocate": lambda fd, path: fallocate(fd, 0, 0, 8),
        "open": lambda fd, path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        "chown": lambda fd, path: os.chown(path, os.getuid(), os.getgid()),
        "mmap": None,
    }
    for source in ("new", "suid"):
        for name, action in actions.items():
            for mode in (0o6755, 0o2745, 0o4644):
                path = at / (f"{name}-{mode:o}" if source == "new" else source)
                if source == "new":
                    path.write_text("text")
                os.truncate(path, 4)
                os.chmod(path, mode)
                fd = os.open(path, os.O_RDWR)
                if action is None:
                    with mmap.mmap(fd, 4) as area:
                        area[0] = 65
                else:
                    action(fd, path)
                os.close(fd)
                outcome.append([source, name, oct(mode), oct(path.stat().st_mode & 0o7777)])
    return outcome


@check
def an_unprivileged_write_clears_set_id_bits(at):
    if os.geteuid():
        return None
    outcome = []
    for mode in (0o6777, 0o2777, 0o4777):
        path = at / f"f{mode:o}"
        path.write_text("text")
        os.chmod(path, mode)
        os.chmod(at, 0o777)

        def act(path=path):
            os.setegid(61235)
            os.seteuid(61235)
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"x")

        outcome.append([ended(child(act)), oct(path.stat().st_mode & 0o7777)])
    return outcome


@check
def sticky_directories(at):
    if os.geteuid():
        return None
    (at / "d").mkdir()
    os.chmod(at / "d", 0o1777)
    os.chmod(at, 0o777)
    os.chmod(at / "sticky", 0o1777)
    for directory in ("d", "sticky"):
        (at / directory / "mine").write_text("x")

    def other(action):
        def act():
            os.setgroups([])
            os.setegid(61235)
            os.seteuid(61235)
            action()

        return errno.errorcode.get(ended(child(act)), 0)

    return [
        [
            other(lambda: os.unlink(at / d / "mine")),
            other(lambda: os.rename(at / d / "mine", at / d / "x")),
            other(lambda: os.unlink(at / d / "there")),
            other(lambda: (at / d / "own").write_text("x")),
            other(lambda: os.unlink(at / d / "own")),
        ]
        for d in ("d", "sticky")
    ]


@check
def a_set_group_id_directory_gives_its_group(at):
    if os.geteuid():
        return None
    os.chown(at / "dir", 0, 61235)
    os.chmod(at / "dir", 0o2775)
    (at / "dir" / "f").write_text("x")
    (at / "dir" / "d").mkdir()
    os.symlink("x", at / "dir" / "s")
    os.mkfifo(at / "dir" / "p")
    os.close(os.open(at / "dir" / "g", os.O_CREAT | os.O_WRONLY, 0o2775))
    return [
        [name, (at / "dir" / name).lstat().st_gid, oct((at / "dir" / name).lstat().st_mode)]
        for name in "fdspg"
    ]


@check
def owners(at):
    if os.geteuid():
        return [(at / "file").stat().st_uid == os.geteuid(), saw(os.chown, at / "file", 0, 0)]
    outcome = []
    for name in ("file", "dir", "sym"):
        for owner in ((1, 2), (65534, 65534), (0, 0), (61234, 61234), (-1, 5), (7, -1)):
            os.lchown(at / name, *owner)
            status = (at / name).lstat()
            outcome.append([name, status.st_uid, status.st_gid])
    return outcome


@check
def new_files_belong_to_who_makes_them(at):
    if os.geteuid():
        return [(at / "x").write_text("x"), (at / "x").stat().st_uid == os.geteuid()]
    os.chmod(at, 0o777)
    outcome = []
    for uid in (0, 65534, 61234, 61235, 5):

        def act(uid=uid):
            os.setegid(uid)
            os.seteuid(uid)
            (at / f"f{uid}").write_text("x")
            (at / f"d{uid}").mkdir()

        ended(child(act))
        outcome.append([[(at / f"{k}{uid}").stat().st_uid, (at / f"{k}{uid}").stat().st_gid] for k in "fd"])
    return outcome


@check
def times_in_nanoseconds(at):
    outcome = []
    for name in ("file", "dir", "new"):
        if name == "new":
            (at / name).write_text("x")
        for ns in ((1, 2), (1_700_000_000_123_456_789, 1_600_000_000_987_654_321), (-1, -2), (2**32 * 10**9, 2**33 * 10**9)):
            os.utime(at / name, ns=ns)
            status = (at / name).stat()
            outcome.append([status.st_atime_ns, status.st_mtime_ns])
    os.utime(at / "sym", ns=(3, 4), follow_symlinks=False)
    outcome.append([os.lstat(at / "sym").st_mtime_ns, (at / "file").stat().st_mtime_ns])
    return outcome


@check
def what_moves_which_time(at):
    (at / "own").write_text("x")
    outcome = []
    for name in ("own", "file"):
        path = at / name

        def write(path=path):
            with path.open("r+") as file:
                file.write("y")

        def write_mapped(path=path):
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 1) as area:
                area[0] = 66
                area.flush()

        outcome += [
            changed(path, lambda path=path: os.chmod(path, 0o640)),
            changed(path, lambda path=path: path.read_text()),
            changed(path, write),
            changed(path, lambda path=path: os.truncate(path, path.stat().st_size)),
            changed(path, lambda path=path: os.truncate(path, 1)),
            changed(path, write_mapped),
            changed(path, lambda path=path: os.setxattr(path, "user.x", b"1")),
            changed(path, lambda path=path: os.close(os.open(path, os.O_RDWR))),
            changed(path, lambda path=path: os.utime(path, ns=(1, 1))),
        ]
    outcome += [
        changed(at, lambda: (at / "n").write_text("x")),
        changed(at, lambda: (at / "n").unlink()),
        changed(at, lambda: (at / "n").mkdir()),
        changed(at, lambda: (at / "n").rmdir()),
        changed(at / "dir", lambda: (at / "dir" / "x").write_text("again")),
        changed(at / "dir", lambda: (at / "dir" / "x").unlink()),
        changed(at / "dir", lambda: (at / "dir" / "deep" / "new").write_text("x")),
        changed(at / "dir", lambda: os.listdir(at / "dir")),
    ]
    return outcome


@check
def copying_up_keeps_attributes(at):
    before = [(at / name).lstat() for name in ("file", "dir", "suid", "sym")]
    with (at / "file").open("a"):
        pass
    (at / "dir" / "deep" / "z").write_text("changed")
    os.chmod(at / "suid", 0o4755)
    os.utime(at / "sym", ns=(9, before[3].st_mtime_ns), follow_symlinks=False)
    after = [(at / name).lstat() for name in ("file", "dir", "suid", "sym")]
    keys = ("st_ino", "st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size", "st_dev")
    return [[key for key in keys if getattr(a, key) != getattr(b, key)] for a, b in zip(before, after)]


@check
def access_asks_for_the_real_user(at):
    outcome = []
    for mode in (0o000, 0o400, 0o200, 0o100, 0o755):
        os.chmod(at / "file", mode)
        outcome.append([os.access(at / "file", way) for way in (os.R_OK, os.W_OK, os.X_OK)])
    return outcome


@check
def extended_attributes(at):
    outcome = []
    for name in ("file", "dir", "new"):
        if name == "new":
            (at / name).write_text("x")
        path = at / name
        os.setxattr(path, "user.a", b"1")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.big", b"x" * 2000)
        outcome.append([
            sorted(os.listxattr(path)),
            os.getxattr(path, "user.a"),
            os.getxattr(path, "user.empty"),
            len(os.getxattr(path, "user.big")),
            saw(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE),
            saw(os.setxattr, path, "user.none", b"2", os.XATTR_REPLACE),
            saw(os.setxattr, path, "user.a", b"2", os.XATTR_REPLACE),
            saw(os.getxattr, path, "user.none"),
            saw(os.removexattr, path, "user.none"),
            saw(os.removexattr, path, "user.a"),
            saw(os.setxattr, path, "user.", b""),
            saw(os.setxattr, path, "nonsense", b""),
            saw(os.setxattr, path, "user.huge", b"x" * 65537),
            saw(os.setxattr, path, "user." + "n" * 250, b"x"),
            saw(os.setxattr, path, "user." + "n" * 251, b"x"),
            sorted(n for n in os.listxattr(path) if len(n) < 100),
        ])  # fmt: skip
    return [[v.decode() if isinstance(v, bytes) else v for v in row] for row in outcome]


@check
def extended_attributes_survive_copying_up(at):
    with (at / "xattr").open("a") as file:
        file.write("more")
    os.rename(at / "xattr", at / "moved")
    (at / "dir" / "new").write_text("x")
    return [os.getxattr(at / "moved", "user.kept").decode(), os.getxattr(at / "dir", "user.kept").decode(),
            saw(os.getxattr, at / "sym", "user.x", follow_symlinks=False),
            saw(os.setxattr, at / "sym", "user.x", b"", follow_symlinks=False)]  # fmt: skip


@check
def extended_attributes_of_other_kinds(at):
    os.mkfifo(at / "fifo")
    return [
        saw(os.setxattr, at / "fifo", "user.x", b""),
        saw(os.setxattr, at / "file", "trusted.x", b"t"),
        saw(lambda: os.getxattr(at / "file", "trusted.x").decode()),
        saw(os.setxattr, at / "file", "security.x", b"s"),
        [name for name in os.listxattr(at / "file") if name != "security.selinux"],
    ]


@check
def access_control_lists_as_data(at):
    if saw(run, "getfacl", "--version") is None:
        return None
    outcome = []
    for name in ("file", "dir", "new"):
        if name == "new":
            (at / name).write_text("x")
        done = subprocess.run(["setfacl", "-m", "u:61235:rw,g:5:r", name], cwd=at, capture_output=True, text=True)
        outcome.append([done.returncode, done.stderr.strip()])
        outcome.append(run("getfacl", "-n", "--omit-header", name, cwd=at).split())
        outcome.append(oct((at / name).stat().st_mode))
    return outcome


@check
def default_access_control_lists(at):
    done = subprocess.run(["setfacl", "-d", "-m", "u:61235:rwx,g::rx,o::-", "dir"], cwd=at, capture_output=True, text=True)
    (at / "dir" / "f").write_text("x")
    (at / "dir" / "d").mkdir()
    listed = [run("getfacl", "-n", "--omit-header", f"dir/{name}", cwd=at).split() for name in "fd"]
    return [done.returncode, done.stderr.strip(), listed]


@check
def access_control_lists_decide(at):
    if os.geteuid():
        return None
    os.chmod(at, 0o755)
    (at / "f").write_text("secret")
    os.chmod(at / "f", 0o600)
    done = subprocess.run(["setfacl", "-m", "u:61235:r", "f"], cwd=at, capture_output=True, text=True)

    def act():
        os.setgroups([])
        os.setegid(61235)
        os.seteuid(61235)
        (at / "f").read_text()

    return [done.returncode, errno.errorcode.get(ended(child(act)), 0)]


@check
def special_files(at):
    outcome = []
    os.mkfifo(at / "fifo")
    server = socket.socket(socket.AF_UNIX)
    os.chdir(at)
    server.bind("socket")
    outcome.append([stat.filemode((at / name).stat().st_mode)[0] for name in ("fifo", "socket")])
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.sendall(b"hello")
    outcome.append(server.accept()[0].recv(9).decode())

    def writer():
        (at / "fifo").write_text("through")

    pid = child(writer)
    outcome.append((at / "fifo").read_text())
    ended(pid)
    os.rename(at / "fifo", at / "moved")
    os.link(at / "moved", at / "again")
    os.unlink(at / "moved")
    return [*outcome, tree(at)["again"], saw(os.open, at / "socket", os.O_RDONLY)]


@check
def devices(at):
    if os.geteuid():
        return saw(os.mknod, at / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    outcome = []
    for name, kind, number in (
        ("null", stat.S_IFCHR, (1, 3)),
        ("zero", stat.S_IFCHR, (0, 0)),
        ("disk", stat.S_IFBLK, (8, 300)),
        ("disk0", stat.S_IFBLK, (0, 0)),
        ("large", stat.S_IFCHR, (4000, 1_000_000)),
    ):
        done = saw(os.mknod, at / name, kind | 0o600, os.makedev(*number))
        status = saw(os.lstat, at / name)
        if isinstance(status, str):
            outcome.append([name, done, status])
            continue
        number = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        outcome.append([name, done, oct(status.st_mode), number])
        os.rename(at / name, at / "moved")
        os.link(at / "moved", at / name)
        os.unlink(at / "moved")
    return [*outcome, tree(at)]


@check
def space_and_limits(at):
    space = os.statvfs(at)
    return [space.f_namemax, space.f_bsize, space.f_frsize, space.f_blocks > 0, space.f_files > 0,
            os.pathconf(at, "PC_NAME_MAX"), os.pathconf(at, "PC_PATH_MAX")]  # fmt: skip


@check
def inode_numbers_are_stable(at):
    names = ("file", "dir", "sym", "dir/x", "dir/deep/z")
    number = lambda: [os.lstat(at / name).st_ino for name in names]
    first = number()
    listed = {e.name: e.inode() for e in os.scandir(at)}
    (at / "file").write_text("changed")
    (at / "dir" / "deep" / "z").write_text("changed")
    os.chmod(at / "dir", 0o700)
    os.utime(at / "sym", ns=(1, 1), follow_symlinks=False)
    second = number()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("2")
    return [first == second, number() == first, len(set(first)) == len(first),
            listed["file"] == first[0], listed["dir"] == first[1]]  # fmt: skip


# --- data -------------------------------------------------------------------------------------


@check
def open_flags(at):
    flags = {
        "creat-excl": os.O_CREAT | os.O_EXCL | os.O_WRONLY,
        "directory": os.O_DIRECTORY | os.O_RDONLY,
        "trunc-read": os.O_TRUNC | os.O_RDONLY,
        "path": os.O_PATH,
        "noatime": os.O_NOATIME | os.O_RDONLY,
        "sync": os.O_SYNC | os.O_WRONLY,
        "nonblock": os.O_NONBLOCK | os.O_RDWR,
    }
    outcome = []
    for name, flag in flags.items():
        for path in ("file", "dir", "none", "sym"):
            got = saw(os.open, at / path, flag, 0o600)
            outcome.append([name, path, got if isinstance(got, str) else "ok"])
            if path == "none" and got != "ENOENT":
                os.unlink(at / path)
    return [*outcome, saw(os.open, at / "dir", os.O_WRONLY), (at / "file").read_text(),
            saw(os.open, at / "file" / "x", os.O_RDONLY), saw(os.open, f"{at}/file/", os.O_RDONLY),
            saw(os.open, f"{at}/none/", os.O_CREAT | os.O_WRONLY)]  # fmt: skip


@check
def appending_by_several_writers(at):
    outcome = []
    for name in ("file", "new"):
        path = at / name

        def act(number, path=path):
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            for line in range(300):
                os.write(fd, f"{number} {line} {'x' * (number * 13)}\n".encode())

        pids = [child(lambda n=n: act(n)) for n in range(4)]
        codes = [ended(pid) for pid in pids]
        lines = path.read_text().splitlines()
        seen = {n: [int(l.split()[1]) for l in lines if l.split()[0] == str(n)] for n in range(4)}
        outcome.append([codes, len(lines), all(seen[n] == list(range(300)) for n in range(4))])
    return outcome


@check
def appending_and_position(at):
    fd = os.open(at / "file", os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"end")
    position = os.lseek(fd, 0, os.SEEK_CUR)
    wrote = os.pwrite(fd, b"!", 0)
    return [position, wrote, (at / "file").read_text()]


@check
def readers_see_what_is_written_after_they_opened(at):
    reader = os.open(at / "file", os.O_RDONLY)
    first = os.pread(reader, 100, 0)
    writer = os.open(at / "file", os.O_RDWR)
    os.pwrite(writer, b"HELLO", 0)
    second = os.pread(reader, 100, 0)
    os.ftruncate(writer, 2)
    third = os.pread(reader, 100, 0)
    os.pwrite(writer, b"far", 5000)
    return [first.decode(), second.decode(), third.decode(), os.fstat(reader).st_size,
            os.fstat(reader).st_ino == os.fstat(writer).st_ino]  # fmt: skip


@check
def a_mapping_of_a_file_that_is_copied_up_sees_the_change(at):
    with (at / "file").open("rb") as file:
        area = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = bytes(area[:5])
    with (at / "file").open("r+b") as file:
        file.write(b"HELLO")
    return [before.decode(), bytes(area[:5]).decode()]


@check
def mappings_and_calls_agree(at):
    path = at / "new"
    path.write_bytes(b"a" * 8192)
    fd = os.open(path, os.O_RDWR)
    area = mmap.mmap(fd, 8192)
    area[0:5] = b"first"
    one = os.pread(fd, 5, 0)
    os.pwrite(fd, b"second", 4096)
    two = bytes(area[4096:4102])

    def act():
        other = os.open(path, os.O_RDWR)
        theirs = mmap.mmap(other, 8192)
        theirs[100:105] = b"other"
        os.pwrite(other, b"third", 200)
        return 0 if bytes(theirs[0:5]) == b"first" else 9

    code = ended(child(act))
    return [one.decode(), two.decode(), code, bytes(area[100:105]).decode(), bytes(area[200:205]).decode()]


@check
def a_private_mapping_keeps_its_changes(at):
    with (at / "file").open("r+b") as file:
        area = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    area[0:1] = b"J"
    return [bytes(area[:5]).decode(), (at / "file").read_text()]


@check
def mapped_writes_reach_the_file(at):
    outcome = []
    for name in ("file", "new"):
        path = at / name
        if name == "new":
            path.write_text("hello\n")
        with path.open("r+b") as file:
            area = mmap.mmap(file.fileno(), 0)
        area[0:5] = b"MAPPD"
        area.close()
        outcome.append(path.read_text())
    return outcome


@check
def mapping_past_the_end_and_growing(at):
    path = at / "new"
    path.write_bytes(b"x" * 10)
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, 4096)
    area = mmap.mmap(fd, 4096)
    tail = bytes(area[10:20])
    area[4000] = 7
    os.ftruncate(fd, 10)
    os.ftruncate(fd, 4096)
    return [tail.hex(), area[4000], os.pread(fd, 1, 4000).hex()]


@check
def a_program_runs_and_its_file_is_busy(at):
    for name in ("new", "lower"):
        path = at / name
        if name == "new":
            path.write_bytes(Path("/bin/sleep").read_bytes())
            os.chmod(path, 0o755)
        else:
            os.rename(at / "program", path)
    outcome = []
    for name in ("new", "lower"):
        running = subprocess.Popen([at / name, "5"])
        time.sleep(0.1)
        outcome.append(saw(os.open, at / name, os.O_WRONLY))
        running.kill()
        running.wait()
    script = at / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    os.chmod(script, 0o755)
    return [*outcome, run(script)]


@check
def direct_io(at):
    outcome = []
    for name in ("file", "new", "block"):
        flags = os.O_DIRECT | os.O_RDWR | os.O_CREAT
        fd = saw(os.open, at / name, flags, 0o644)
        if isinstance(fd, str):
            outcome.append(fd)
            continue
        area = mmap.mmap(-1, 8192)
        area[:8192] = b"d" * 8192
        wrote = saw(os.pwritev, fd, [memoryview(area)[:4096]], 4096)
        read = saw(os.preadv, fd, [memoryview(area)[4096:]], 4096)
        outcome.append([wrote, read, (at / name).stat().st_size,
                        hashlib.sha1((at / name).read_bytes()).hexdigest()])  # fmt: skip
    return outcome


@check
def temporary_files_without_a_name(at):
    fd = saw(os.open, at, os.O_TMPFILE | os.O_RDWR, 0o600)
    if isinstance(fd, str):
        return fd
    os.write(fd, b"text")
    linked = saw(system, "linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, str(at / "named"), AT_SYMLINK_FOLLOW)
    return [linked, (at / "named").read_text()]


@check
def holes(at):
    outcome = []
    fd = os.open(at / "new", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x" * 4096, 262144)
    for name, file in (("new", fd), ("sparse", os.open(at / "sparse", os.O_RDONLY))):
        seek = lambda offset, whence, file=file: saw(os.lseek, file, offset, whence)
        outcome.append([name, seek(0, os.SEEK_DATA), seek(0, os.SEEK_HOLE), seek(262144, os.SEEK_HOLE),
                        seek(300000, os.SEEK_DATA), seek(1 << 20, os.SEEK_HOLE), seek(1 << 21, os.SEEK_DATA),
                        os.fstat(file).st_blocks <= 64])  # fmt: skip
    with (at / "sparse").open("r+b") as file:
        file.write(b"first")
    outcome.append([(at / "sparse").stat().st_blocks <= 64, (at / "sparse").stat().st_size])
    return outcome


@check
def fallocate_modes(at):
    outcome = []
    for name in ("new", "block"):
        for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE, ZERO, ZERO | KEEP_SIZE, COLLAPSE, INSERT, UNSHARE, 128):
            path = at / f"{name}-{mode}"
            path.write_bytes((at / "block").read_bytes())
            fd = os.open(path, os.O_RDWR)
            done = saw(fallocate, fd, mode, 4096, 4096)
            past = saw(fallocate, fd, mode, 1 << 20, 4096)
            outcome.append([mode, done, past, path.stat().st_size, hashlib.sha1(path.read_bytes()).hexdigest()[:10]])
    fd = os.open(at / "block", os.O_RDWR)
    outcome.append([saw(fallocate, fd, 0, -1, 10), saw(fallocate, fd, 0, 0, 0),
                    saw(fallocate, os.open(at / "block", os.O_RDONLY), 0, 0, 10),
                    saw(os.posix_fallocate, fd, 0, 100000), os.fstat(fd).st_size])  # fmt: skip
    return outcome


@check
def copying_between_files(at):
    source = os.open(at / "block", os.O_RDWR)
    target = os.open(at / "new", os.O_RDWR | os.O_CREAT)
    outcome = [
        saw(os.copy_file_range, source, target, 6000, 100, 5000),
        saw(os.copy_file_range, source, target, 1 << 20, 0, 0),
        saw(os.copy_file_range, source, source, 4096, 0, 1 << 16),
        saw(os.copy_file_range, source, source, 4096, 0, 100),
        saw(os.copy_file_range, target, os.open(at / "file", os.O_RDONLY), 10, 0, 0),
        saw(os.sendfile, target, source, 100, 1000),
    ]
    outcome.append(saw(fcntl.ioctl, target, 0x40049409, source))
    return [*outcome, tree(at)]


@check
def a_file_larger_than_four_gib(at):
    fd = os.open(at / "new", os.O_RDWR | os.O_CREAT)
    end = 5 << 30
    os.pwrite(fd, b"beyond", end)
    os.pwrite(fd, b"edge", (4 << 30) - 2)
    return [os.fstat(fd).st_size, os.pread(fd, 9, end).decode(), os.pread(fd, 4, (4 << 30) - 2).decode(),
            os.lseek(fd, 4096, os.SEEK_DATA) // 4096, os.fstat(fd).st_blocks < 100,
            saw(os.ftruncate, fd, 1 << 43), saw(os.pwrite, fd, b"x", (1 << 63) - 2),
            saw(os.ftruncate, fd, 10)]  # fmt: skip


@check
def vectored_and_odd_reads(at):
    fd = os.open(at / "block", os.O_RDWR)
    pieces = [bytearray(5), bytearray(4096), bytearray(1)]
    read = os.preadv(fd, pieces, 3)
    wrote = os.pwritev(fd, [b"aa", b"", b"bb"], 16380)
    return [read, hashlib.sha1(b"".join(pieces)).hexdigest(), wrote, os.pread(fd, 10, 16380).decode(),
            os.pread(fd, 10, 1 << 30).decode(), saw(os.pread, fd, 10, -1),
            saw(os.write, os.open(at / "file", os.O_RDONLY), b"x"),
            saw(os.read, os.open(at / "file", os.O_WRONLY), 1), saw(os.read, os.open(at / "dir", os.O_RDONLY), 1)]  # fmt: skip


# --- directories ------------------------------------------------------------------------------


class Stream:
    """A directory stream of the C library: telldir, seekdir, rewinddir."""

    def __init__(self, path):
        LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
        LIBC.telldir.restype = ctypes.c_long
        self.stream = ctypes.c_void_p(LIBC.opendir(os.fsencode(path)))

    def read(self):
        at = LIBC.readdir(self.stream)
        if not at:
            return None
        length = struct.unpack_from("=H", ctypes.string_at(at + 16, 2))[0]
        raw = ctypes.string_at(at, length)
        return raw[19:].split(b"\0")[0].decode()

    def rest(self):
        return list(iter(self.read, None))

    def tell(self):
        return LIBC.telldir(self.stream)

    def seek(self, position):
        LIBC.seekdir(self.stream, ctypes.c_long(position))

    def rewind(self):
        LIBC.rewinddir(self.stream)


@check
def positions_in_a_directory(at):
    for number in range(3000):
        (at / "dir" / f"n{number}").touch()
    stream = Stream(at / "dir")
    positions = []
    while True:
        position = stream.tell()
        name = stream.read()
        if name is None:
            break
        positions.append((position, name))
    picks = random.Random(1).sample(positions, 200)
    right = 0
    for position, name in picks:
        stream.seek(position)
        right += stream.read() == name
    for number in range(0, 3000, 2):
        (at / "dir" / f"n{number}").unlink()
    again = 0
    odd = [(p, n) for p, n in picks if n[0] == "n" and int(n[1:]) % 2]
    for position, name in odd:
        stream.seek(position)
        again += stream.read() == name
    stream.rewind()
    return [len(positions), right, again == len(odd), len(stream.rest())]


@check
def a_listing_while_names_come_and_go(at):
    top = at / "dir"
    for number in range(2000):
        (top / f"n{number}").touch()
    stream = Stream(top)
    seen = [stream.read() for _ in range(100)]
    untouched = {f"n{number}" for number in range(0, 2000, 3)}
    for number in range(2000):
        if number % 3 == 1:
            (top / f"n{number}").unlink()
        elif number % 3 == 2:
            os.rename(top / f"n{number}", top / f"r{number}")
        if number % 5 == 0:
            (top / f"new{number}").touch()
    seen += stream.rest()
    return [untouched <= set(seen), len([n for n in seen if n in untouched]) == len(untouched)]


@check
def remove_while_listing(at):
    top = at / "many"
    top.mkdir()
    for number in range(2000):
        (top / f"n{number}").touch()
    for entry in os.scandir(top):
        os.unlink(entry.path)
    return [os.listdir(top), saw(os.rmdir, top)]


@check
def a_directory_of_very_many_entries(at):
    top = at / "many"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for number in range(MANY):
        os.mknod(f"n{number}", dir_fd=fd)
    first = len(os.listdir(top))
    gone = 0
    for entry in os.scandir(top):
        if int(entry.name[1:]) % 2:
            os.unlink(entry.name, dir_fd=fd)
            gone += 1
    second = len(os.listdir(top))
    for name in os.listdir(top):
        os.unlink(name, dir_fd=fd)
    return [first, gone, second, saw(os.rmdir, top)]


@check
def a_listing_says_kinds_and_dots(at):
    os.mkfifo(at / "fifo")
    kinds = sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink(), e.is_file(follow_symlinks=False)) for e in os.scandir(at))
    names = Stream(at).rest()
    return [kinds, sorted(names)[:2], len(names)]


@check
def another_handle_sees_new_names_at_once(at):
    fd = os.open(at / "dir", os.O_RDONLY)
    before = sorted(os.listdir(fd))
    (at / "dir" / "new").touch()
    os.unlink(at / "dir" / "x")
    return [before, sorted(os.listdir(at / "dir")), sorted(os.listdir(fd))]


# --- locks and notifications ------------------------------------------------------------------


@check
def record_locks_between_processes(at):
    file = (at / "file").open("r+")
    fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)

    def act(start):
        other = (at / "file").open("r+")
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

    outcome = [errno.errorcode.get(ended(child(lambda s=s: act(s))), 0) for s in (0, 5, 10)]
    (at / "file").open().close()
    outcome.append(errno.errorcode.get(ended(child(lambda: act(0))), 0))
    return outcome


@check
def whole_file_locks_between_processes(at):
    file = (at / "file").open()
    fcntl.flock(file, fcntl.LOCK_SH)

    def act(kind):
        fcntl.flock((at / "file").open("r+"), kind | fcntl.LOCK_NB)

    outcome = [errno.errorcode.get(ended(child(lambda k=k: act(k))), 0) for k in (fcntl.LOCK_SH, fcntl.LOCK_EX)]
    fcntl.flock(file, fcntl.LOCK_UN)
    return [*outcome, errno.errorcode.get(ended(child(lambda: act(fcntl.LOCK_EX))), 0)]


@check
def a_lock_of_a_file_of_the_lower_layer_outlives_its_copying_up(at):
    reader = (at / "file").open()
    fcntl.flock(reader, fcntl.LOCK_EX)
    (at / "file").open("r+").write("x")

    def act():
        fcntl.flock((at / "file").open("r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)

    return errno.errorcode.get(ended(child(act)), 0)


@check
def open_file_description_locks(at):
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    one, two = (at / "file").open("r+"), (at / "file").open("r+")
    return [saw(lambda: fcntl.fcntl(one, 37, lock) and 0), saw(lambda: fcntl.fcntl(two, 37, lock) and 0)]


@check
def file_leases(at):
    file = (at / "file").open()
    return [saw(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK), saw(fcntl.fcntl, file, fcntl.F_GETLEASE)]


@check
def a_lock_is_waited_for_and_its_wait_interrupted(at):
    file = (at / "file").open("r+")
    fcntl.flock(file, fcntl.LOCK_EX)

    def act():
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError(errno.EINTR, "")))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        fcntl.flock((at / "file").open("r+"), fcntl.LOCK_EX)

    return errno.errorcode.get(ended(child(act)), 0)


@check
def notifications(at):
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    for name in (at, at / "dir"):
        system("inotify_add_watch", fd, str(name), 0xFFF & ~0x31)
    with (at / "file").open("r+") as file:
        file.write("x")
    (at / "new").write_text("x")
    os.rename(at / "new", at / "dir" / "new")
    os.chmod(at / "h1", 0o600)
    os.unlink(at / "dir" / "x")
    (at / "made").mkdir()
    os.rmdir(at / "made")
    os.link(at / "file", at / "linked")
    time.sleep(0.2)
    events, raw = [], saw(os.read, fd, 65536)
    while raw and not isinstance(raw, str):
        _, mask, _, length = struct.unpack_from("iIII", raw)
        events.append([hex(mask), raw[16:16 + length].rstrip(b"\0").decode()])
        raw = raw[16 + length:]
    return events


# --- programs ---------------------------------------------------------------------------------


def bank(path, journal):
    """One process that moves money between accounts; the sum never changes."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute(f"pragma journal_mode={journal}")
    generator = random.Random(os.getpid())
    for _ in range(40):
        connection.execute("begin immediate")
        one, two, amount = generator.randrange(50), generator.randrange(50), generator.randrange(9)
        connection.execute("update account set sum = sum - ? where id = ?", (amount, one))
        connection.execute("update account set sum = sum + ? where id = ?", (amount, two))
        connection.execute("insert into log (text) values (?)", ("x" * generator.randrange(3000),))
        connection.execute("rollback" if generator.randrange(4) == 0 else "commit")


def sqlite(at, journal, name):
    path = at / name
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    mode = connection.execute(f"pragma journal_mode={journal}").fetchone()[0]
    if name == "new.db":
        make_bank(connection)
    pids = [child(lambda: bank(path, journal)) for _ in range(4)]
    codes = [ended(pid) for pid in pids]
    victim = child(lambda: [bank(path, journal) for _ in range(50)] and 0)
    time.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    ended(victim)
    total = connection.execute("select sum(sum) from account").fetchone()[0]
    whole = connection.execute("pragma integrity_check").fetchone()[0]
    connection.execute("vacuum")
    mapped = connection.execute("pragma mmap_size=10000000").fetchone()
    again = connection.execute("select sum(sum) from account").fetchone()[0]
    connection.close()
    return [mode, codes, total, whole, mapped, again, sorted(p.name for p in at.glob(f"{name}*"))]


def make_bank(connection):
    connection.execute("create table account (id integer primary key, sum integer)")
    connection.execute("create table log (text)")
    connection.executemany("insert into account values (?, 100)", [(n,) for n in range(50)])


for journal in ("wal", "delete", "truncate", "persist"):
    for name in ("new.db", "lower.db"):
        def sqlite_check(at, journal=journal, name=name):
            return sqlite(at, journal, name)

        CHECKS[f"sqlite_{journal}_{name[:-3]}"] = sqlite_check

GIT = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main",
       "-c", "commit.gpgsign=false", "-c", "advice.detachedHead=false"]  # fmt: skip


@check
def git_at_work(at):
    os.environ.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
                      GIT_AUTHOR_DATE="2020-01-01T00:00:00Z", GIT_COMMITTER_DATE="2020-01-01T00:00:00Z")  # fmt: skip
    here = at / "repository"
    here.mkdir()

    def git(*command, cwd=here, patient=False):
        return run(*GIT, *command, cwd=cwd, check=not patient)

    git("init", "-q")
    for number in range(150):
        path = here / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line {number}\n" * 20)
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "side")
    for number in range(0, 150, 3):
        (here / f"d{number % 7}" / f"f{number}").write_text("side\n")
    git("mv", "d1", "moved")
    git("commit", "-qam", "side")
    git("checkout", "-q", "main")
    (here / "d2" / "f2").write_text("main\n")
    git("commit", "-qam", "main")
    git("rebase", "-q", "main", "side")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "merge", "side")
    (here / "moved" / "f1").write_text("stashed\n")
    git("stash", "-q")
    git("stash", "pop", "-q")
    patch = git("diff") + "\n"
    git("checkout", "-q", ".")
    (at / "patch").write_text(patch)
    git("apply", "--index", "../patch")
    git("commit", "-qm", "applied")
    git("worktree", "add", "-q", "../tree", "side")
    git("gc", "-q", "--prune=now")
    git("bisect", "start", "HEAD", "HEAD~2")
    (at / "test").write_text("#!/bin/sh\ngrep -q stashed moved/f1 && exit 1\nexit 0\n")
    os.chmod(at / "test", 0o755)
    git("bisect", "run", str(at / "test"), patient=True)
    culprit = git("log", "-1", "--format=%s", "refs/bisect/bad")
    git("bisect", "reset")
    git("clone", "-q", str(here), str(at / "clone"))
    git("clone", "-q", "--no-local", "--bare", str(here), str(at / "bare"))
    git("repack", "-adq", cwd=at / "clone")
    fsck = git("fsck", "--full", "--strict", cwd=at / "clone")
    shown = git("log", "--format=%s %T", "--graph")
    git("rm", "-rq", "d3")
    git("reset", "-q", "--hard")
    git("clean", "-qfdx")
    return [shown, fsck, culprit, git("status", "--porcelain"), git("status", "--porcelain", cwd=at / "tree"),
            len(git("ls-files").split())]  # fmt: skip


@check
def git_checkout_over_a_tree_of_the_lower_layer(at):
    """The directories of the lower layer go and come again."""
    os.environ.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")

    def git(*command):
        return run(*GIT, *command, cwd=at / "dir")

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-q", "--orphan", "other")
    git("rm", "-rqf", ".")
    (at / "dir" / "x").mkdir()
    (at / "dir" / "x" / "in").write_text("in")
    git("add", "-A")
    git("commit", "-qm", "two")
    git("checkout", "-q", "main")
    first = {k: v for k, v in tree(at / "dir").items() if not k.startswith(".git")}
    git("checkout", "-q", "other")
    second = {k: v for k, v in tree(at / "dir").items() if not k.startswith(".git")}
    return [first, second, git("status", "--porcelain")]


@check
def editors_save(at):
    outcome = []
    for name in ("file", "new"):
        path = at / name
        if name == "new":
            path.write_text("hello\n")
        os.chmod(path, 0o640)
        # In place.
        path.write_text("in place\n")
        # A temporary file beside it, and a rename.
        temporary = at / f".{name}.swp"
        with temporary.open("x") as file:
            file.write("renamed\n")
            os.fchmod(file.fileno(), 0o640)
            os.fsync(file.fileno())
        os.rename(temporary, path)
        outcome.append([path.read_text(), oct(path.stat().st_mode)])
        # The old one is renamed to a backup, and a new one is written.
        os.rename(path, at / f"{name}~")
        path.write_text("new\n")
        outcome.append([path.read_text(), (at / f"{name}~").read_text()])
        # The backup is a hard link.
        os.unlink(at / f"{name}~")
        os.link(path, at / f"{name}~")
        os.unlink(path)
        path.write_text("newer\n")
        outcome.append([path.read_text(), (at / f"{name}~").read_text()])
    run("sed", "-i", "s/newer/by sed/", at / "file")
    return [*outcome, (at / "file").read_text(), tree(at)]


@check
def copies_and_archives(at):
    run("cp", "-a", at / "dir", at / "copy")
    run("cp", "--reflink=auto", "--sparse=always", at / "sparse", at / "sparse2")
    run("tar", "cf", at / "a.tar", "-C", at, "dir", "file", "sym")
    (at / "out").mkdir()
    run("tar", "xf", at / "a.tar", "-C", at / "out")
    run("rm", "-r", at / "dir")
    moved = subprocess.run(["mv", at / "copy", at / "dir"]).returncode
    os.unlink(at / "a.tar")
    return [moved, tree(at)]


@check
def moving_by_mv_over_directories(at):
    codes = [subprocess.run(["mv", at / "dir", at / "moved"]).returncode,
             subprocess.run(["mv", at / "moved" / "deep", at / "deep"]).returncode]  # fmt: skip
    return [codes, tree(at)]


# --- the run ----------------------------------------------------------------------------------


def make_fixtures(top):
    for name in CHECKS:
        at = top / name
        (at / "dir" / "deep").mkdir(parents=True)
        (at / "file").write_text("hello\n")
        (at / "dir" / "x").write_text("x")
        (at / "dir" / "y").write_text("y")
        (at / "dir" / "deep" / "z").write_text("z")
        (at / "h1").write_text("linked\n")
        os.link(at / "h1", at / "h2")
        os.symlink("file", at / "sym")
        (at / "suid").write_text("suid")
        os.chmod(at / "suid", 0o4755)
        (at / "xattr").write_text("x")
        for kept in ("xattr", "dir"):
            os.setxattr(at / kept, "user.kept", b"kept")
        (at / "block").write_bytes(bytes(range(256)) * 64)
        (at / "program").write_bytes(Path("/bin/sleep").read_bytes())
        os.chmod(at / "program", 0o755)
        with (at / "sparse").open("wb") as file:
            os.ftruncate(file.fileno(), 1 << 20)
            os.pwrite(file.fileno(), b"x" * 4096, 262144)
        (at / "sticky").mkdir()
        (at / "sticky" / "there").write_text("x")
        (at / "closed").write_text("closed")
        os.chmod(at / "closed", 0)
        (at / "closed.d").mkdir()
        (at / "closed.d" / "in").write_text("in")
        os.chmod(at / "closed.d", 0)
        if name.endswith("_lower"):
            connection = sqlite3.connect(at / "lower.db", isolation_level=None)
            make_bank(connection)
            connection.close()
        for path in at.rglob("*"):
            os.utime(path, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
        os.utime(at, ns=(LONG_AGO, LONG_AGO))


def outcome_of(function, at):
    """Runs one check in a process of its own, which has not for ever."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.umask(0o022)
        try:
            result = function(at)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)
            line = [frame.lineno for frame in where if frame.filename == __file__][1:2]
            if isinstance(error, OSError) and error.errno:
                result = {"failed": errno.errorcode.get(error.errno, str(error)), "line": line}
            else:
                result = {"failed": f"{type(error).__name__}: {error}".replace(str(at), "AT"), "line": line}
        text = json.dumps(result, default=str).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(text)
        os._exit(0)
    os.close(writer)
    parts, deadline = [], time.monotonic() + PATIENCE
    while True:
        ready, _, _ = select.select([reader], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            os.killpg(pid, signal.SIGKILL)
            parts = [json.dumps({"failed": f"not done in {PATIENCE} s"}).encode()]
            break
        data = os.read(reader, 65536)
        if not data:
            break
        parts.append(data)
    os.close(reader)
    os.waitpid(pid, 0)
    return json.loads(b"".join(parts) or b'{"failed": "died"}')


def main():
    command, top, *names = sys.argv[1:]
    top = Path(top)
    if command == "fixtures":
        make_fixtures(top)
        return
    outcomes = {}
    for name, function in CHECKS.items():
        if not names or any(part in name for part in names):
            begun = time.monotonic()
            outcomes[name] = outcome_of(function, top / name)
            print(f"{name} {time.monotonic() - begun:.2f} s", file=sys.stderr, flush=True)
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
