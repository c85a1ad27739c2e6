"""`scripts/bench locks`: what leases cost, beside other ways to have them, and who waits how long."""

import fcntl
import http.client
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from base64 import b64encode
from pathlib import Path

from common import CHECKOUT, PARTS, SCRATCH, fail, length, markdown, percentile, run

EXAMPLES = CHECKOUT / "target" / "release" / "examples"
HELD = 100_000


def build_examples():
    for package, example in (("agentfs-core", "lock_cost"), ("agentfs-api", "lock_load")):
        command = ["cargo", "build", "--release", "--quiet", f"--package={package}",
                   f"--example={example}"]  # fmt: skip
        if subprocess.run(command, cwd=CHECKOUT).returncode != 0:
            fail(f"{example} can't be built")


def load(repo, *arguments):
    said = run(EXAMPLES / "lock_load", repo, *map(str, arguments))
    return json.loads(said) if said else None


class Flock:
    """An advisory lock on an open file: no queue, no time to live, nothing on disk."""

    name = "flock"

    def __init__(self, top):
        self.files = [os.open(top / f"f{n}", os.O_CREAT | os.O_RDWR) for n in range(100)]

    def pair(self, n):
        fcntl.flock(self.files[n % 100], fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(self.files[n % 100], fcntl.LOCK_UN)

    def end(self):
        for file in self.files:
            os.close(file)


class Sqlite:
    """A table with a row for each lease, in this very process, each change synced to disk."""

    name = "SQLite alone, synced"

    def __init__(self, top):
        self.db = sqlite3.connect(top / "leases.db", isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.db.execute("create table leases (unit text primary key, agent text, token integer)")

    def pair(self, n):
        unit = f"own/{n % 100}"
        self.db.execute("begin immediate")
        self.db.execute("insert into leases values (?, 'agent', ?)", (unit, n))
        self.db.execute("commit")
        self.db.execute("begin immediate")
        self.db.execute("delete from leases where unit = ?", (unit,))
        self.db.execute("commit")

    def end(self):
        self.db.close()


class Etcd:
    """A key with a lease, made if it is not there: one server, its HTTP interface."""

    name = "etcd, one server"

    def __init__(self, top):
        self.port, peer = free_port(), free_port()
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{peer}"
        self.server = subprocess.Popen(
            ["etcd", f"--data-dir={top / 'etcd'}", f"--listen-client-urls={client}",
             f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
             "--log-level=error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.lease = self.post("/v3/lease/grant", {"TTL": 600})["ID"]
                return
            except (OSError, KeyError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    fail("etcd does not answer")
                time.sleep(0.1)

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body))
        return json.loads(self.connection.getresponse().read())

    def pair(self, n):
        key = b64encode(f"own/{n % 100}".encode()).decode()
        put = {"requestPut": {"key": key, "value": "YQ==", "lease": self.lease}}
        absent = {"key": key, "target": "CREATE", "createRevision": "0"}
        if not self.post("/v3/kv/txn", {"compare": [absent], "success": [put]}).get("succeeded"):
            fail("etcd did not grant a free key")
        self.post("/v3/kv/deleterange", {"key": key})

    def end(self):
        self.server.kill()
        self.server.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def against_others(repo, rounds):
    """Claim and release of something free, microseconds for the pair, each way in turn."""
    with tempfile.TemporaryDirectory(prefix="afs-bench-", dir=SCRATCH) as top:
        ways = [Flock, Sqlite]
        if shutil.which("etcd"):
            ways.append(Etcd)
        others = [way(Path(top)) for way in ways]
        times = {"agentfs, by its socket": [], **{way.name: [] for way in ways}}
        try:
            for _ in range(rounds):
                seen = load(repo, "claim", 1, 60, 0)
                pairs = zip(seen["claims"][0][10:], seen["releases"][0][10:])
                times["agentfs, by its socket"] += [claim + release for claim, release in pairs]
                for other in others:
                    for n in range(60):
                        begun = time.perf_counter_ns()
                        other.pair(n)
                        taken = (time.perf_counter_ns() - begun) / 1000
                        if n >= 10:
                            times[other.name].append(taken)
        finally:
            for other in others:
                other.end()
    return times


def first_open(rounds):
    command = ["agentshim", "run", "--agent", "bench", "--quiet", "--claim", "leased/",
               "--", "python3", "-c", (PARTS / "lock_probe.py").read_text(), str(rounds)]  # fmt: skip
    return json.loads(run(*command))


def many(repo, agents, rounds, units):
    seen = load(repo, "claim", agents, rounds, units)
    waits = [us for one in seen["claims"] for us in one]
    means = [statistics.mean(one) for one in seen["claims"]]
    edges = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, float("inf")]
    histogram = [sum(low <= us < high for us in waits) for low, high in zip([0, *edges], edges)]
    return {
        "agents": agents,
        "units": units,
        "pairs_per_second": round(agents * rounds / seen["seconds"]),
        "median_us": statistics.median(waits),
        "p95_us": percentile(waits, 95),
        "longest_us": max(waits),
        "histogram": histogram,
        "slowest_to_fastest_agent": round(max(means) / min(means), 2),
    }


def measure(workspace, rounds):
    rounds = rounds or 5
    build_examples()
    files = {f"{group}/{n}.txt": "text\n" for group in ("free", "leased") for n in range(200)}
    files["held.txt"] = "text\n"
    result = {"core": json.loads(run(EXAMPLES / "lock_cost"))}
    with workspace(files) as (repo, _):
        result["pairs"] = against_others(repo, rounds)
        result["open"] = first_open(200)
        result["throughput"] = [many(repo, n, max(5, 300 // n), 0) for n in (1, 10, 100)]
        result["crowd"] = [many(repo, 100, 10, units) for units in (10_000, 20)]
    with workspace(files) as (repo, _):
        load(repo, "hold", HELD)
        seen = load(repo, "claim", 1, 60 * rounds, 0)
        pairs = [a + b for a, b in zip(seen["claims"][0][10:], seen["releases"][0][10:])]
        result["pairs"][f"agentfs, {HELD:,} leases held"] = pairs
        result["open_among_many"] = first_open(200)
        result["throughput"] += [{**many(repo, n, max(5, 300 // n), 0), "held": HELD}
                                 for n in (1, 10, 100)]  # fmt: skip
    return result


def text(result):
    core = [["leases held", "a file", "beside them", "a directory", "a named unit"]]
    for row in result["core"]:
        cells = [row[kind] / 1000 for kind in ("file_far_away", "file_beside", "directory", "named")]
        core.append([f"{row['held']:,}", *(f"{us:.1f} µs" for us in cells)])
    base = statistics.median(result["pairs"]["agentfs, by its socket"])
    pairs = [["claim and release", "median", "95 % below", "to agentfs"]]
    for name, times in result["pairs"].items():
        median = statistics.median(times)
        pairs.append([name, length(median), length(percentile(times, 95)), f"{median / base:.2f}"])
    opens = [["open for writing, in a view", "no other lease", f"{HELD:,} leases held"]]
    for kind, times in result["open"].items():
        among = result["open_among_many"][kind]
        opens.append([kind, length(statistics.median(times)), length(statistics.median(among))])
    load = [["agents, each its own file", "pairs a second", "median", "95 % below"]]
    for row in result["throughput"]:
        held = f", {row['held']:,} held" if "held" in row else ""
        load.append([f"{row['agents']}{held}", str(row["pairs_per_second"]),
                     length(row["median_us"]), length(row["p95_us"])])  # fmt: skip
    names = ["1 ms", "3 ms", "10 ms", "30 ms", "100 ms", "300 ms", "1 s", "more"]
    crowd = [["100 agents, random files of", *names, "longest", "slowest to fastest agent"]]
    for row in result["crowd"]:
        crowd.append([f"{row['units']:,}", *map(str, row["histogram"]),
                      length(row["longest_us"]), str(row["slowest_to_fastest_agent"])])  # fmt: skip
    parts = {
        "Deciding alone, in the core: a claim and its release": core,
        "Through the socket, beside others": pairs,
        "Through the view": opens,
        "Throughput": load,
        "Waits until a claim is granted, how many at most so long": crowd,
    }
    return "\n".join(f"{title}\n\n{markdown(rows)}" for title, rows in parts.items())
