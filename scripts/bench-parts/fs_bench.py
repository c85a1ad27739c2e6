"""`scripts/bench fs`: file system work in a view, beside the disk itself and other file systems over it.

Runs itself again in a mount and a pid namespace, so that every mount and every process is gone when it ends, however
it ends. There a round does row after row, and each row in all peers in turn, in an order that changes with the round.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fs_fixture
import fs_peers
import fs_report
from common import PROGRAMS, SCRATCH, fail, length, machine, run

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
ROOT_PEERS = ["native", "overlayfs", "fuse-overlayfs", "bindfs", "agentfs"]
ROOTLESS_PEERS = ["native", "fuse-overlayfs", "bindfs", "agentfs"]
READY = {"ready-1000": 1_000, "ready-10000": 10_000}
REPEATS = dict.fromkeys(("status-warm", "find", "ripgrep", "read"), 5)  # short, and change nothing
AGENTFS_ONLY = {"gate", *READY}
TOOLS = {"ripgrep": "rg", "randread": "fio", "randwrite": "fio", "cargo-warm": "cargo",
         "cargo-cold": "cargo", "npm": "npm"}  # fmt: skip

# What a usual machine has and this one may lack: a device for everybody, and a name for the user.
# The shell stays the first process, which collects those that lost their parent.
INIT = r"""
set -eu
if [ -n "$1" ]; then
    mkdir "$1"
    mount -t tmpfs -o mode=0755 afs-bench "$1"
    mknod "$1/fuse" c 10 229
    chmod 0666 "$1/fuse"
    mount --bind "$1/fuse" /dev/fuse
    mount --bind "$2" /etc/passwd
fi
shift 2
"$@" & wait $!
"""


def options(parser):
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    group = parser.add_argument_group("fs")
    group.add_argument("--rows", help=f"some of: {','.join(fs_report.ROWS)}")
    group.add_argument("--peers", help=f"some of: {','.join(fs_peers.PEERS)}")
    group.add_argument("--rootless", action="store_true", help="all of it as an unprivileged user")
    group.add_argument("--size", type=int, default=256, help="of the large file, in MiB")
    group.add_argument("--image", action="store_true",
                       help="on an ext4 of its own, in a file: what else writes to the disk, and a "
                            "disk that is told of each block that becomes free, matter less")  # fmt: skip
    group.add_argument("--plot", metavar="FILE", help="write a plot, as SVG")
    group.add_argument("--self-check", action="store_true",
                       help="measure the disk against itself; fails if the ratios are not about 1")  # fmt: skip
    group.add_argument("--inside", help="(for itself)")


def chosen(text, known, usual):
    names = text.split(",") if text else usual
    for name in names:
        if name not in known:
            fail(f"there is no {name}; choose from {', '.join(known)}")
    return [name for name in known if name in names]


def measure(arguments):
    """All of it; gives what was measured."""
    if os.geteuid() != 0:
        fail(
            "fs mounts file systems, so it needs root (sudo), for --rootless too, where it then becomes another user"
        )
    if arguments.self_check:
        arguments.peers = "native,native-again"
    usual = ROOTLESS_PEERS if arguments.rootless else ROOT_PEERS
    peers = chosen(arguments.peers, fs_peers.PEERS, usual)
    if "native" not in peers:
        peers.insert(0, "native")
    rows = chosen(arguments.rows, fs_report.ROWS, list(fs_report.ROWS))
    for name in peers:
        if shutil.which(fs_peers.PEERS[name].needs) is None:
            fail(
                f"{name} is missing; on Debian and Ubuntu: apt-get install {name}, or leave it out by --peers"
            )
    missing = {TOOLS[row] for row in rows if row in TOOLS and shutil.which(TOOLS[row]) is None}
    if missing:
        fail(f"{', '.join(sorted(missing))} missing; install, or leave the rows out by --rows")
    plan = {"peers": peers, "rows": rows, "rounds": arguments.rounds or 5, "size": arguments.size,
            "rootless": arguments.rootless, "image": arguments.image}  # fmt: skip
    with directory() as top:
        prepare(top, plan)
        in_namespaces(top, plan)
        return json.loads((top / "result.json").read_text())


@contextlib.contextmanager
def directory():
    """A directory that is gone at the end, also when this is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(deaf() or 143))
    top = Path(tempfile.mkdtemp(prefix="afs-bench-", dir=SCRATCH))
    try:
        yield top
    finally:
        deaf()
        # Python would take a minute for what this does in a second.
        subprocess.run(["rm", "-rf", "--one-file-system", top], check=True, start_new_session=True)


def deaf():
    """From now on there is nothing to do but to tidy up: to be told to end twice must not stop that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def prepare(top, plan):
    """What needs the host's own tools and programs, which are not at the place for every user."""
    top.chmod(0o755)
    (top / "bin").mkdir()
    for name in ("agentfs", "agentshim", "agentctl"):
        shutil.copy(PROGRAMS / name, top / "bin")
    if any(row.startswith("cargo") for row in plan["rows"]):
        fs_fixture.toolchain(top / "rust")
    user = f"afs-bench:x:{fs_peers.USER}:{fs_peers.USER}::{top}/disk/agentfs/home:/bin/sh\n"
    (top / "passwd").write_text(Path("/etc/passwd").read_text() + user)
    (top / "plan.json").write_text(json.dumps(plan))


def in_namespaces(top, plan):
    device = str(top / "device") if plan["rootless"] else ""
    init = ["sh", "-c", INIT, "init", device, str(top / "passwd")]
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
               "--kill-child", "--mount-proc", *init,
               sys.executable, sys.argv[0], "fs", "--inside", str(top)]  # fmt: skip
    environment = {"LANG": "C.UTF-8", "TZ": "UTC", "HOME": str(top),
                   "PATH": f"{top}/bin:{top}/rust/bin:{SYSTEM_PATH}"}  # fmt: skip
    inner = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        status = inner.wait()
    finally:
        end(inner)
    if status != 0:
        sys.exit(1)


def end(unshare):
    """Kills all in the namespaces, by their first process: `unshare` ends when no process is left."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    with contextlib.suppress(OSError):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    unshare.wait()


def inside(top):
    """The part in the namespaces."""
    plan = json.loads((Path(top) / "plan.json").read_text())
    top = disk(Path(top), plan)
    result = {"benchmark": "fs", "machine": machine(), **plan, "samples": {}}
    if plan["rootless"]:
        result["machine"]["user"] = "unprivileged"
    say(f"making {fs_fixture.FILES} files")
    rows = [row for row in plan["rows"] if row not in READY]
    if rows:
        fs_fixture.make(top / "original", plan["size"])
        peers = [make_peer(top, name, plan) for name in plan["peers"]]
        for number in range(plan["rounds"]):
            one_round(number, peers, rows, result["samples"])
    for row in READY:
        if row in plan["rows"] and "agentfs" in plan["peers"]:
            measure_ready(top, row, plan, result["samples"])
    (top.parent / "result.json").write_text(json.dumps(result))


def disk(top, plan):
    """The directory in which all is done."""
    place = top / "disk"
    place.mkdir()
    if plan["image"]:
        run("truncate", f"--size={8 * 1024 + 20 * plan['size']}M", str(top / "image"))
        run("mkfs.ext4", "-q", str(top / "image"))
        run("mount", "-o", "loop,nodiscard", str(top / "image"), str(place))
    return place


def say(what):
    print(f"bench: {what}", file=sys.stderr, flush=True)


def make_peer(top, name, plan):
    peer = fs_peers.PEERS[name](top, top / "original", plan["rootless"])
    if any(row.startswith("cargo") for row in plan["rows"]):
        peer.build_crates()
    return peer


def one_round(number, peers, rows, samples):
    begun = time.monotonic()
    turned = peers[number % len(peers) :] + peers[: number % len(peers)]
    for peer in turned:
        peer.open()
    for row in rows:
        those = [
            peer for peer in turned if row not in AGENTFS_ONLY or isinstance(peer, fs_peers.Agentfs)
        ]
        now = {peer.name: [] for peer in those}
        for _ in range(REPEATS.get(row, 1)):
            for peer in those:
                now[peer.name].append(one(peer, row))
        for name, all in now.items():
            samples.setdefault(row, {}).setdefault(name, []).extend(all)
        medians = [f"{name} {length(fs_report.middle(all, 'us'))}" for name, all in now.items()]
        say(f"round {number + 1}: {row}: {', '.join(medians)}")
    # A sandbox may keep alive what was mounted when it was made: first all work ends.
    for peer in turned:
        peer.stop()
    for peer in turned:
        peer.unmount()
    say(f"round {number + 1} took {time.monotonic() - begun:.0f} s")


def one(peer, row):
    """One row in one peer: what the worker says, and what its daemon did for it (preparing and restoring included)."""
    requests, cpu = peer.requests(), cpu_of(peer.daemon())
    sample = peer.ask({"do": "measure", "row": row})
    if "error" in sample:
        fail(f"{row} in {peer.name}: {sample['error']}")
    if cpu is not None:
        sample["daemon_cpu_us"] = cpu_of(peer.daemon()) - cpu
    after = peer.requests()
    if requests is not None and after is not None:
        counts = {kind: count - requests.get(kind, 0) for kind, count in after.items()}
        sample["requests"] = {kind: count for kind, count in counts.items() if count}
    return sample


def cpu_of(pid):
    if pid is None:
        return None
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def measure_ready(top, row, plan, samples):
    """From the start of `agentshim run` for a new agent to the first thing that its command does with the view, less
    what the same takes on a view that is there."""
    original = top / row
    fs_fixture.make_many_directories(original, READY[row])
    peer = ReadyPeer(top / f"{row}-peers", original, plan["rootless"])
    peer.tell("agentfs", "mount", str(peer.repo))
    samples[row] = {"agentfs": [peer.new_and_old(number) for number in range(plan["rounds"])]}
    peer.tell("agentfs", "unmount", str(peer.repo))


class ReadyPeer(fs_peers.Agentfs):
    def __init__(self, top, *more):
        top.mkdir()
        super().__init__(top, *more)

    def new_and_old(self, number):
        self.agent = f"bench{number}"
        new = self.seconds()
        return {"us": new * 1e6, "again_us": self.seconds() * 1e6}

    def seconds(self):
        command = self.run_of("sh", "-c", "ls; read -r line")
        begun = time.perf_counter()
        run = subprocess.Popen(command, env=self.environment(),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        if not run.stdout.readline():
            fail("a run for the view's readiness failed")
        taken = time.perf_counter() - begun
        run.communicate(b"\n")
        return taken
