"""What `scripts/bench fs` compares: each gives the same repository at the same kind of path, in its own way.

A peer has a copy of the repository of its own and lies over that very path (as the view does in a
sandbox), so that names are as long for all, and builds that know their path stay warm. Opened, it is
fresh: nothing has been looked at through it, and nothing been written.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import fs_fixture
from common import PARTS, fail, run

WORKER = (PARTS / "fs_worker.py").read_text()
USER = 61_234


def setpriv(rootless):
    """What makes a process that of the unprivileged user."""
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if rootless else []


class Peer:
    """A directory on the disk: what all others are compared with."""

    name = "native"
    needs = "sh"  # a program that must be there

    def __init__(self, top, original, rootless):
        self.rootless, self.prefix = rootless, setpriv(rootless)
        self.own = top / self.name
        self.repo, self.home = self.own / "repo", self.own / "home"
        self.own.mkdir()
        self.home.mkdir()
        # The repository may be another user's: root's processes work on what a view shows as an agent's.
        (self.home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
        run("cp", "-a", original, self.repo)
        if rootless:
            run("chown", "-R", f"{USER}:{USER}", self.own)
        fs_fixture.settle(self.repo, self.prefix)
        self.worker = None

    def build_crates(self):
        """Somebody has built before: what is in target/ now is what others can stay warm by."""
        run(*self.prefix, "cargo", "build", "--offline", "--quiet", cwd=self.repo / "crates")

    def open(self):
        # What the last round changed was put back; git has to see that it is the same.
        fs_fixture.settle(self.repo, self.prefix)
        self.mount()
        self.work_in(self.repo)

    def work_in(self, directory):
        # The user goes there, not root: root has no way into what another user has mounted.
        self.start(
            [*self.prefix, "env", f"--chdir={directory}", "python3", "-c", WORKER],
            HOME=str(self.home),
        )

    def mount(self):
        pass

    def unmount(self):
        pass

    def start(self, command, **environment):
        self.worker = subprocess.Popen(
            command, env={**os.environ, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.ask({"do": "hello"})

    def ask(self, request):
        """One request to the worker, and its answer."""
        try:
            self.worker.stdin.write(json.dumps(request) + "\n")
            self.worker.stdin.flush()
            line = self.worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            fail(f"{self.name}: the worker ended with {self.worker.wait()}")
        return json.loads(line)

    def stop(self):
        self.worker.stdin.close()
        status = self.worker.wait()
        if status != 0:
            fail(f"{self.name}: the worker ended with {status}")

    def daemon(self):
        """The process that serves it, if one does."""
        return None

    def requests(self):
        """How many FUSE requests of each kind there have been, if that can be told."""
        return None


class NativeAgain(Peer):
    """The same as native: what differs between the two is noise, or a mistake of the benchmark."""

    name = "native-again"


class Mounted(Peer):
    """Something that is mounted afresh over the repository each time."""

    def upper(self):
        layers = self.own / "layers"
        for name in ("upper", "work"):
            run(*self.prefix, "mkdir", "-p", str(layers / name))
        lower, upper, work = self.repo, layers / "upper", layers / "work"
        return f"lowerdir={lower},upperdir={upper},workdir={work}"

    def unmount(self):
        if self.rootless:
            run(*self.prefix, "fusermount3", "-u", str(self.repo))
        else:
            run("umount", str(self.repo))
        self.forget()

    def forget(self):
        run("rm", "-rf", str(self.own / "layers"))


class Overlayfs(Mounted):
    name = "overlayfs"
    needs = "mount"

    def mount(self):
        run("mount", "-t", "overlay", "overlay", "-o", self.upper(), str(self.repo))


class Served(Mounted):
    """A FUSE file system with a daemon of its own, in the foreground so that its number is known."""

    process = None

    def serve(self, *command):
        self.process = subprocess.Popen(
            [*self.prefix, *command], cwd="/", stdin=subprocess.DEVNULL,
            stderr=(self.own / "said").open("w"))  # fmt: skip
        until = time.monotonic() + 20
        # Root can't look into what another user has mounted.
        while f" {self.repo} " not in Path("/proc/self/mounts").read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                said = (self.own / "said").read_text().strip()
                fail(f"`{' '.join(command)}` does not serve: {said}")
            time.sleep(0.01)

    def unmount(self):
        super().unmount()
        self.process.wait()

    def daemon(self):
        return self.process.pid


class FuseOverlayfs(Served):
    name = "fuse-overlayfs"
    needs = "fuse-overlayfs"

    def mount(self):
        allow = "" if self.rootless else ",allow_other"
        self.serve("fuse-overlayfs", "-f", "-o", self.upper() + allow, str(self.repo))


class Bindfs(Served):
    """Shows a directory as it is: what is written goes into the copy of the repository itself."""

    name = "bindfs"
    needs = "bindfs"

    def mount(self):
        others = ["--no-allow-other"] if self.rootless else []
        self.serve("bindfs", "-f", *others, str(self.repo), str(self.repo))


class Agentfs(Peer):
    """A run of an agent that is new to a daemon that is new; the work is done inside, in the sandbox."""

    name = "agentfs"
    needs = "setpriv"
    agent = "bench"

    def environment(self):
        state, runtime = self.own / "s", self.own / "r"
        return {**os.environ, "HOME": str(self.home), "AGENTFS_STATE_DIR": str(state),
                "AGENTFS_RUNTIME_DIR": str(runtime)}  # fmt: skip

    def tell(self, *command):
        return run(*self.prefix, *command, cwd="/", env=self.environment())

    def open(self):
        fs_fixture.settle(self.repo, self.prefix)
        self.tell("agentfs", "mount", str(self.repo))
        self.pid = self.status()["pid"]
        self.begin()

    def status(self, *more):
        return json.loads(self.tell("agentfs", "status", str(self.repo), "--json", *more))

    def begin(self):
        self.start(self.run_of("python3", "-c", WORKER), **self.environment())

    def run_of(self, *command):
        return [
            *self.prefix,
            "env",
            f"--chdir={self.repo}",
            "agentshim",
            "run",
            "--agent",
            self.agent,
            "--quiet",
            "--",
            *command,
        ]

    def unmount(self):
        self.tell("agentfs", "unmount", str(self.repo))
        for name in ("s", "r"):
            shutil.rmtree(self.own / name)

    def daemon(self):
        return self.pid

    def requests(self):
        views = self.status("--verbose").get("views", [])
        return next((view["requests"] for view in views if view["agent"] == self.agent), None)


class AgentfsOutside(Agentfs):
    """The same view, but the work is done by a process outside, at MOUNTPOINT/AGENT: what the sandbox adds is what
    `agentfs` is slower."""

    name = "agentfs-outside"

    def begin(self):
        self.holder = subprocess.Popen(
            self.run_of("cat"), env=self.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.holder.stdin.write("ready\n")
        self.holder.stdin.flush()
        self.holder.stdout.readline()
        self.work_in(Path(self.status()["mountpoint"]) / self.agent)

    def stop(self):
        super().stop()
        self.holder.stdin.close()
        self.holder.wait()


KINDS = (Peer, NativeAgain, Overlayfs, FuseOverlayfs, Bindfs, Agentfs, AgentfsOutside)
PEERS = {kind.name: kind for kind in KINDS}
