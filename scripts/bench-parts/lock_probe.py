"""The part of `scripts/bench lock` that runs as an agent, in its view.

Opens files for writing, each kind in turn, and prints how long the opens took:

- free: nobody holds the file, so the open claims it (journaled) and copies it up;
- leased: the run holds its directory by a claim made before, so the open only copies it up;
- held: this run has it and has copied it up;
- host: a file in the agent's home, which is the host's own file system.
"""

import json
import os
import sys
import time

rounds = int(sys.argv[1])
held, host = "held.txt", os.path.join(os.environ["HOME"], "file.txt")
os.close(os.open(held, os.O_WRONLY))
os.close(os.open(host, os.O_WRONLY | os.O_CREAT))

kinds = {
    "host file": lambda n: host,
    "held and copied up": lambda n: held,
    "leased, copies up": lambda n: f"leased/{n}.txt",
    "free: claims, copies up": lambda n: f"free/{n}.txt",
}
times = {kind: [] for kind in kinds}
for n in range(rounds):
    for kind, path_of in kinds.items():
        path = path_of(n)
        os.stat(path)
        begun = time.perf_counter_ns()
        fd = os.open(path, os.O_WRONLY)
        taken = time.perf_counter_ns() - begun
        os.close(fd)
        times[kind].append(taken / 1000)
print(json.dumps(times))
