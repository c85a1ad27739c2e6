"""Ten agents build and test one repository at the same time: who had to wait, and what it cost.

What ran when is taken from the journal alone.
"""

import json
import statistics
import subprocess
import time

from common import PARTS, fail, markdown, run

REPO = PARTS / "agents-repo"
NAMES = ("ada", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "june", "kai", "lea")
MODULE = '#define REVISION 1\n#include "module.h"\n'


def options(parser):
    parser.add_argument("--agents", type=int, default=10, help="for agents: how many of them")


def files(names):
    """The repository: what is in agents-repo, and a module for each agent."""
    found = {str(path.relative_to(REPO)): path.read_text()
             for path in REPO.rglob("*") if path.is_file()}  # fmt: skip
    return {**found, **{f"src/mod_{name}.c": MODULE for name in names}}


def warm(repo):
    """The user has built it: agents begin with that, as it is ignored by git."""
    run("make", "-s", "all", cwd=repo)


def together(commands):
    """Runs one command for each agent, all at the same time: what they say, and how long it took.
    A command is its words and where it runs."""
    begun = time.monotonic()
    running = {
        name: subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, (words, cwd) in commands.items()
    }  # fmt: skip
    said = {}
    for name, process in running.items():
        out, err = process.communicate()
        if process.returncode != 0:
            fail(f"{name} exited with {process.returncode}: {out}{err}")
        said[name] = out
    return said, time.monotonic() - begun


def failures(said, what):
    return sum(text.count(f"{what} failed") for text in said.values())


def with_agentfs(repo, names, rounds):
    commands = {
        name: (["agentshim", "run", "--agent", name, "--quiet", "--",
                "sh", "agent.sh", name, str(rounds)], repo)
        for name in names
    }  # fmt: skip
    said, taken = together(commands)
    for name in names:
        if f"REVISION {rounds + 1}\n" not in (repo / f"src/mod_{name}.c").read_text():
            fail(f"what {name} did is not in the repository")
    return said, taken, json.loads(run("agentctl", "log", "--json"))


def in_worktrees(repo, names, rounds):
    trees = {name: repo.parent / f"tree-{name}" for name in names}
    for name, tree in trees.items():
        run("git", "worktree", "add", "--quiet", "--detach", str(tree), cwd=repo)
    try:
        return together({name: (["sh", "agent.sh", name, str(rounds)], tree)
                         for name, tree in trees.items()})  # fmt: skip
    finally:
        for tree in trees.values():
            run("git", "worktree", "remove", "--force", str(tree), cwd=repo)


def intervals(log, unit):
    """When each process of the unit ran, in seconds, in the order of the journal, and how many of
    them did at once."""
    open_ones, done, most = {}, [], 0
    for entry in log:
        event = entry["event"]
        if event.get("unit") != unit:
            continue
        key = (event["agent"], event.get("pid"))
        if event["type"] == "process_began":
            open_ones[key] = entry["at"] / 1000
            most = max(most, len(open_ones))
        elif event["type"] == "process_ended":
            done.append((event["agent"], open_ones.pop(key), entry["at"] / 1000))
    if open_ones:
        fail(f"processes of {unit} that never ended: {open_ones}")
    return done, most


def waits(log, unit, names):
    """How long each agent waited in the queue for the unit, time by time."""
    queued, waited = {}, {name: [] for name in names}
    for entry in log:
        event = entry["event"]
        if event["type"] == "queued" and unit in event["claim"]["wants"]:
            queued[event["claim"]["id"]] = entry["at"]
        elif event["type"] == "claim_ended" and event["claim"] in queued:
            begun = queued.pop(event["claim"])
            waited[event["agent"]].append((entry["at"] - begun) / 1000)
    return waited


def measure(repo, count, rounds):
    names = NAMES[:count]
    said, taken, log = with_agentfs(repo, names, rounds)
    tests, at_once = intervals(log, "proc:test")
    builds, builds_at_once = intervals(log, "proc:build")
    if len(tests) != count * rounds or len(builds) != count * rounds:
        fail(f"{len(tests)} tests and {len(builds)} builds are in the journal")
    if at_once != 1 or builds_at_once > 2:
        fail(f"{at_once} tests and {builds_at_once} builds ran at once")
    if failures(said, "test") or failures(said, "build"):
        fail(f"something failed: {said}")
    plain, plainly = in_worktrees(repo, names, rounds)
    gaps = [later[1] - earlier[2] for earlier, later in zip(tests, tests[1:])]
    waited = {what: waits(log, f"proc:{what}", names) for what in ("build", "test")}
    return {
        "agents": count,
        "rounds": rounds,
        "tests": len(tests),
        "tests_at_once": at_once,
        "builds_at_once": builds_at_once,
        "seconds": round(taken, 1),
        "test_seconds": round(sum(ended - begun for _, begun, ended in tests), 1),
        "median_gap_ms": round(statistics.median(gaps) * 1000),
        "waits": {
            name: {what: [round(one, 1) for one in of[name]] for what, of in waited.items()}
            for name in names
        },
        "worktrees": {"seconds": round(plainly, 1), "failed_tests": failures(plain, "test"),
                      "failed_builds": failures(plain, "build")},
    }  # fmt: skip


def text(found):
    plain = found["worktrees"]
    compared = [
        ["", "in all", "tests failed", "tests at once", "builds at once"],
        ["agentfs", f"{found['seconds']} s", f"0 of {found['tests']}", "1",
         str(found["builds_at_once"])],
        ["git worktrees", f"{plain['seconds']} s",
         f"{plain['failed_tests']} of {found['tests']}", "any", "any"],
    ]  # fmt: skip
    totals = {name: sum(sum(all) for all in of.values()) for name, of in found["waits"].items()}
    each = [one for of in found["waits"].values() for all in of.values() for one in all]
    widest = max(totals.values()) or 1
    rows = [["agent", "waits for a build, s", "waits for the test, s", "in all", "  "]]
    for name, of in found["waits"].items():
        lists = (" ".join(f"{one:.1f}" for one in of[what]) for what in ("build", "test"))
        bar = ("#" * round(20 * totals[name] / widest)).ljust(20)
        rows.append([name, *lists, f"{totals[name]:.1f} s", bar])
    return "\n".join([
        f"{found['agents']} agents, {found['rounds']} rounds of edit, build and test\n",
        markdown(compared),
        f"The tests alone, one after the other: {found['test_seconds']} s, so that the whole took "
        f"{found['seconds'] / found['test_seconds']:.2f} times that. From the end of one to the "
        f"beginning of the next: {found['median_gap_ms']} ms (median).\n",
        markdown(rows),
        f"One wait: median {statistics.median(each or [0]):.1f} s, longest {max(each, default=0):.1f} s. "
        f"All waits of an agent: median {statistics.median(totals.values()):.1f} s, most "
        f"{max(totals.values()):.1f} s.",
    ])  # fmt: skip
