"""What all benchmarks share: the programs, other commands, and the machine that it is."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

PARTS = Path(__file__).resolve().parent
CHECKOUT = PARTS.parent.parent
# Which agentfs is measured: another one, if this is set, else the release build of this checkout.
OTHERS = os.environ.get("AGENTFS_PROGRAMS")
PROGRAMS = Path(OTHERS) if OTHERS else CHECKOUT / "target" / "release"

# Where fixtures are made: a disk, as a repository's is, that every user can reach.
SCRATCH = "/var/tmp"


def fail(why):
    sys.exit(f"bench: {why}")


def build():
    if OTHERS:
        return
    packages = [f"--package={name}" for name in ("agentfs", "agentshim", "agentctl")]
    command = ["cargo", "build", "--release", "--quiet", "--bins", *packages]
    if subprocess.run(command, cwd=CHECKOUT).returncode != 0:
        fail("the programs can't be built")


def run(*command, **options):
    """Runs a command and gives what it prints; what it says is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        fail(
            f"`{' '.join(map(str, command))}` exited with {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def length(us):
    if us >= 1e6:
        return f"{us / 1e6:.2f} s"
    return f"{us / 1000:.2f} ms" if us >= 1000 else f"{us:.1f} µs"


def markdown(rows):
    """A table for people who read it as text too; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for name, *numbers in (rows[0], rule, *rows[1:]):
        cells = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def machine():
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine())  # fmt: skip
    found = json.loads(run("findmnt", "--json", "--output=FSTYPE", f"--target={SCRATCH}"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "file_system": found["filesystems"][0]["fstype"],
        "user": "root" if os.geteuid() == 0 else "unprivileged",
        "load": round(os.getloadavg()[0], 1),
    }


def described(on):
    return (f"{on['date']}, {on['cpus']} x {on['cpu']}, Linux {on['kernel']}, "
            f"{on['file_system']}, release build, {on['user']}, load {on['load']} at the start")  # fmt: skip
