"""The part of `scripts/bench memory` that measures: what the daemon needs for a workspace of many
files that has been looked at as a whole, and for many views at once."""

import os
import re
import subprocess
import time
from pathlib import Path

FILES_IN_A_DIRECTORY = 100


def make_files(root, count):
    """`count` empty files, a hundred in each directory."""
    for number in range(count // FILES_IN_A_DIRECTORY):
        directory = root / f"d{number // 100:03}" / f"d{number % 100:02}"
        directory.mkdir(parents=True)
        for file in range(FILES_IN_A_DIRECTORY):
            (directory / f"file-{file:02}.txt").touch()


def process(pid):
    """What the kernel says of a process: memory, threads, open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    field = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)", status)}
    return {
        "rss_kib": field["VmRSS"],
        "threads": field["Threads"],
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def settled(pid):
    """The process when its memory changes no more."""
    before = process(pid)
    while True:
        time.sleep(1)
        now = process(pid)
        if abs(now["rss_kib"] - before["rss_kib"]) < 64:
            return now
        before = now


def look_at_all(pid, agent):
    """`find` in a view, then the kernel forgets what it has cached."""
    before = settled(pid)
    begun = time.perf_counter()
    command = ["agentshim", "run", "--agent", agent, "--quiet", "--", "sh", "-c", "find . | wc -l"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = time.perf_counter() - begun
    count = int(found.stdout)
    after = settled(pid)
    rows = [("at the start", before), (f"after find saw {count} names in {taken:.1f} s", after)]
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        rows.append(("after the kernel forgot them", settled(pid)))
    grown = (after["rss_kib"] - before["rss_kib"]) * 1024
    return rows, round(grown / count)


def many_views(pid, count):
    """`count` agents that run at the same time, each of which writes a file of its own."""
    before = settled(pid)
    # Each says that it has written, and waits until its input ends.
    script = "echo mine > own-$0.txt; echo written; cat"
    agents = [
        subprocess.Popen(
            ["agentshim", "run", "--agent", f"many{n}", "--quiet", "--", "sh", "-c", script, str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(count)
    ]  # fmt: skip
    for agent in agents:
        if agent.stdout.readline() != "written\n":
            raise RuntimeError("an agent could not write")
    during = settled(pid)
    for agent in agents:
        agent.stdin.close()
    if any(agent.wait() for agent in agents):
        raise RuntimeError("an agent failed")
    return [(f"before {count} views", before), (f"with {count} views", during)]
