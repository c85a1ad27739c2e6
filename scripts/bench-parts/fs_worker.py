"""The part of `scripts/bench fs` that works in a file system: in the view, or in what it is compared with.

One process in each of them, started in the repository, that reads what to do from standard input, one line of JSON
each (`{"do": "measure", "row": "find"}`), and answers with one line. It times the work itself, so that neither its own
start nor the way of the request counts. What a row needs is made before the clock starts and taken away after it
stopped.

It is handed to Python as text, since a sandbox has no way to the checkout; so it imports nothing of ours.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

MIB = 1 << 20
SIDE = Path(os.environ["HOME"]) / "side"  # on the host's own file system, in a sandbox too
ROWS = {}

# Those that write much: all is on the disk before they begin, and after they are put back.
WRITING = {"cargo-cold", "npm", "checkout", "tar", "cp", "rm", "write", "randwrite"}


def row(name):
    """Makes a function the work of a row; what it yields is the part that is timed."""

    def register(function):
        ROWS[name] = function
        return function

    return register


def command(*argv, quiet=True, **options):
    said = subprocess.DEVNULL if quiet else subprocess.PIPE
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.PIPE, **options
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"`{' '.join(argv)}` exited with {done.returncode}: {done.stderr.decode()[-500:]}"
        )
    return (done.stdout or b"") + done.stderr


# Each row is a generator: what is before the `yield` prepares, the function that it yields is timed, what comes after
# it restores. It may return more to report.


@row("status-first")
@row("status-warm")
def status():
    yield lambda: command("git", "status", "--porcelain")


@row("find")
def find():
    yield lambda: command("find", "src", "-type", "f", "-size", "+100M")


@row("ripgrep")
def ripgrep():
    yield lambda: command("rg", "--no-config", "--count", "needle", "src")


@row("checkout")
def checkout():
    yield lambda: command("git", "checkout", "--quiet", "other")
    command("git", "checkout", "--quiet", "main")


def unpack():
    Path("unpacked").mkdir()
    command("tar", "xf", str(SIDE / "tree.tar"), "-C", "unpacked")


def copy():
    command("cp", "-r", "src", "copied")


def remove(*names):
    command("rm", "-rf", *names)


@row("tar")
def tar():
    SIDE.mkdir(exist_ok=True)
    command("git", "archive", f"--output={SIDE / 'tree.tar'}", "HEAD", "src")
    remove("unpacked")
    yield unpack


@row("cp")
def cp():
    remove("copied")
    yield copy


@row("rm")
def rm():
    for name, make in (("unpacked", lambda: shutil.copytree("src", "unpacked")), ("copied", copy)):
        if not os.path.exists(name):
            make()
    yield lambda: remove("unpacked", "copied")


def fill(name, size):
    block = os.urandom(MIB)
    with open(name, "wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(block)


def drain(name):
    block = bytearray(MIB)
    with open(name, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def size_of_bulk():
    return os.stat("bulk.bin").st_size


@row("write")
def write():
    remove("written.bin")
    size = size_of_bulk()
    yield lambda: fill("written.bin", size)


@row("read")
def read():
    yield lambda: drain("bulk.bin")


def fio(mode, name):
    """Runs fio for a while and gives how long one operation took; no process start is in that."""
    said = command(
        "fio", "--name=bench", f"--rw={mode}", "--bs=4k", "--ioengine=psync", "--thread", "--invalidate=0",
        "--time_based", "--runtime=2", f"--size={size_of_bulk()}", "--fallocate=none", f"--filename={name}",
        "--output-format=json", quiet=False)  # fmt: skip
    begin = said.index(b"{")
    job = json.JSONDecoder().raw_decode(said[begin:].decode())[0]["jobs"][0]
    return 1 / job["read" if mode == "randread" else "write"]["iops"]


@row("randread")
def random_read():
    drain("bulk.bin")
    yield lambda: fio("randread", "bulk.bin")


@row("randwrite")
def random_write():
    if not os.path.exists("written.bin"):
        fill("written.bin", size_of_bulk())
    yield lambda: fio("randwrite", "written.bin")
    remove("written.bin")


def cargo(*arguments):
    said = command("cargo", "build", "--offline", *arguments, quiet=False, cwd="crates").decode()
    return sum(line.lstrip().startswith("Compiling ") for line in said.splitlines())


@row("cargo-warm")
def cargo_warm():
    built = []
    yield lambda: built.append(cargo())
    return {"rebuilt": built[0]}


@row("cargo-cold")
def cargo_cold():
    remove("crates/target/cold")
    yield lambda: cargo("--target-dir", "target/cold") and None
    remove("crates/target/cold")


@row("npm")
def npm():
    remove("web/node_modules")
    yield lambda: command(
        "npm", "install", "--offline", "--no-audit", "--no-fund", "--no-update-notifier", cwd="web"
    )
    remove("web/node_modules")


@row("unittest")
def unit_tests():
    # Bytecode goes into the tree, as it does for everybody: the first in a fresh mount.
    remove("tests/__pycache__")
    yield lambda: command("python3", "-m", "unittest", "discover", "--quiet", "tests")


@row("gate")
def gate():
    """Opens for writing, in turn: a file that this run holds and has copied up, and scratch, which is never locked.
    Two scratch files, because how much those differ is how much of a difference means nothing."""
    paths = {"gated": "held.txt", "scratch": "one.log", "again": "two.log"}
    for path in paths.values():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    times = {kind: [] for kind in paths}
    clock, flags = time.perf_counter_ns, os.O_WRONLY

    def all_in_turn():
        for turn in range(3000):
            kinds = list(paths)
            for kind in kinds[turn % 3 :] + kinds[: turn % 3]:
                begun = clock()
                fd = os.open(paths[kind], flags)
                taken = clock() - begun
                os.close(fd)
                times[kind].append(taken / 1000)

    yield all_in_turn
    remove("one.log", "two.log")
    return {"gate_us": {kind: statistics.median(all) for kind, all in times.items()}}


def measure(name):
    steps, more = ROWS[name](), {}
    work = next(steps)
    if name in WRITING:
        os.sync()
    begun = time.perf_counter()
    given = work()
    taken = time.perf_counter() - begun
    try:
        next(steps)
    except StopIteration as end:
        more = end.value or {}
    if name in WRITING:
        os.sync()
    # What measures itself gives its own time.
    return {"us": (given if isinstance(given, float) else taken) * 1e6, **more}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"done": True} if request["do"] == "hello" else measure(request["row"])
        except (OSError, RuntimeError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


main()
