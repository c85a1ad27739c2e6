"""What `scripts/bench fs` says: a table, the targets, a plot. Pure: it measures nothing."""

import statistics

from common import described, length, markdown

# The rows in the order in which a round does them: the first in a mount first, the large ones last. A target is the
# greatest time that is good enough, as a ratio to that of a peer.
ROWS = {
    "status-first": ("git status, first in the mount", ("native", 1.5)),
    "status-warm": ("git status, warm", ("native", 1.2)),
    "find": ("find + stat, warm", ("native", 1.2)),
    "ripgrep": ("ripgrep, warm", ("native", 2.8)),
    "read": ("read, 1 MiB blocks", ("overlayfs", 1 / 0.9)),
    "randread": ("random read, 4 KiB (fio)", None),
    "unittest": ("python -m unittest, 800 tests", None),
    "cargo-warm": ("cargo build, warm target", ("native", 1.05)),
    "cargo-cold": ("cargo build, empty target", ("native", 1.05)),
    "npm": ("npm install, 60 packages", None),
    "checkout": ("git checkout, 2 000 files", ("native", 2)),
    "tar": ("tar x, 10 000 files", ("native", 3.5)),
    "cp": ("cp -r, 10 000 files", ("native", 3.5)),
    "rm": ("rm -rf, 20 000 files", ("native", 3.5)),
    "write": ("write, 1 MiB blocks", ("overlayfs", 1 / 0.9)),
    "randwrite": ("random write, 4 KiB (fio)", None),
    "gate": ("open for writing, held to scratch", None),
    "ready-1000": ("new view ready, 1 000 directories", None),
    "ready-10000": ("new view ready, 10 000 directories", None),
}
READY_TARGETS_MS = {"ready-1000": 50 + 10, "ready-10000": 50 + 100}
SELF = "agentfs"
GATE_TOLERANCE = 1.05
SELF_CHECK_TOLERANCE = 1.25


def summary(result):
    """Medians, ratios to native, and whether each target is met."""
    rows = []
    for name, samples in result["samples"].items():
        medians = {peer: middle(all, "us") for peer, all in samples.items()}
        row = {"row": name, "what": ROWS[name][0], "peers": {}}
        for peer, all in samples.items():
            times = [sample["us"] for sample in all]
            entry = {"median_us": round(medians[peer], 1), "least_us": round(min(times), 1),
                     "greatest_us": round(max(times), 1)}  # fmt: skip
            if "native" in medians:
                entry["ratio"] = round(medians[peer] / medians["native"], 3)
            if "daemon_cpu_us" in all[0]:
                entry["daemon_cpu_us"] = middle(all, "daemon_cpu_us")
            if "requests" in all[-1]:  # of one round: they are about the same in each
                entry["requests"] = all[-1]["requests"]
            row["peers"][peer] = entry
        row.update(judged(name, samples, medians, result))
        rows.append(row)
    return {
        **{
            key: result[key]
            for key in ("benchmark", "machine", "rounds", "size", "rootless", "image")
        },
        "rows": rows,
    }


def middle(samples, key):
    return statistics.median(sample[key] for sample in samples)


def judged(name, samples, medians, result):
    if SELF not in samples:
        return {}
    own = samples[SELF]
    if name == "gate":
        # The whole row's time means nothing here.
        kinds = {
            kind: statistics.median(it["gate_us"][kind] for it in own) for kind in own[0]["gate_us"]
        }
        ratio = kinds["gated"] / kinds["scratch"]
        return {
            "gate_us": kinds,
            "gated_to_scratch": round(ratio, 3),
            "scratch_to_scratch": round(kinds["again"] / kinds["scratch"], 3),
            "target": f"at most {GATE_TOLERANCE} times scratch",
            "met": ratio <= GATE_TOLERANCE,
        }
    if name in READY_TARGETS_MS:
        again = middle(own, "again_us")
        most = READY_TARGETS_MS[name]
        return {
            "view_us": medians[SELF],
            "again_us": again,
            "target": f"at most {most} ms",
            "met": medians[SELF] <= most * 1000,
        }
    found = {}
    if name == "cargo-warm":
        found["rebuilt"] = max(it["rebuilt"] for it in own)
    base, most = ROWS[name][1] or (None, None)
    if result["rootless"]:
        base, most = "fuse-overlayfs", 1
    if base not in medians:
        return found
    ratio = medians[SELF] / medians[base]
    said = f"at most {most:.2f} of {base}'s time".replace(".00", "")
    if "native" in medians:
        found["limit"] = round(most * medians[base] / medians["native"], 3)
    return {
        **found,
        "target": said,
        "to": base,
        "to_ratio": round(ratio, 3),
        "met": ratio <= most and not found.get("rebuilt"),
    }


def table(summed):
    """As Markdown: native in units of time, all else as a ratio to it, lower being better."""
    usual = [row for row in summed["rows"] if "native" in row["peers"]]
    blocks = []
    if usual:
        peers = list(usual[0]["peers"])
        rows = [[f"{summed['rounds']} rounds", peers[0], *peers[1:], "target", "met"]]
        for row in usual:
            cells = [length(row["peers"]["native"]["median_us"])]
            cells += [f"{row['peers'][peer]['ratio']:.2f}" for peer in peers[1:]]
            rows.append(
                [
                    row["what"],
                    *cells,
                    row.get("target", ""),
                    {True: "yes", False: "no"}.get(row.get("met"), ""),
                ]
            )
        blocks.append(markdown(rows))
    rest = [other_line(row) for row in summed["rows"]]
    blocks.append("".join(f"{line}\n" for line in rest if line))
    blocks.append(details(summed))
    return "\n".join(block for block in blocks if block)


def other_line(row):
    if "gate_us" in row:
        us = row["gate_us"]
        return (
            f"- {row['what']}: {us['gated']:.1f} µs a file that the run holds, {us['scratch']:.1f} µs scratch, ratio "
            f"{row['gated_to_scratch']:.2f} (another scratch file: {row['scratch_to_scratch']:.2f}); {verdict(row)}"
        )
    if "view_us" in row:
        return (
            f"- {row['what']}: {length(row['view_us'])} from `agentshim run` to its first output, "
            f"{length(row['again_us'])} when the view is there; {verdict(row)}"
        )
    if "rebuilt" in row:
        return f"- {row['what']}: at most {row['rebuilt']} crates built in the view's first build"
    return ""


def verdict(row):
    return f"target {row['target']}: {'met' if row['met'] else 'not met'}"


def details(summed):
    """What the daemon did for each row."""
    rows = [[SELF, "time", "daemon's CPU", "requests", "most of them"]]
    for row in summed["rows"]:
        entry = row["peers"].get(SELF, {})
        if "daemon_cpu_us" in entry:
            requests = entry.get("requests", {})
            most = sorted(requests.items(), key=lambda it: -it[1])[:4]
            rows.append([row["what"], length(entry["median_us"]), length(entry["daemon_cpu_us"]),
                         str(sum(requests.values())) if requests else "",
                         ", ".join(f"{kind} {count}" for kind, count in most)])  # fmt: skip
    return markdown(rows) if len(rows) > 1 else ""


def text(summed):
    size = f"{summed['size']} MiB in the large file"
    if summed["image"]:
        size += ", on an ext4 of its own in a file"
    return f"{described(summed['machine'])}, {size}\n\n{table(summed)}"


def self_check(summed):
    """The rows in which native and native again differ by more than noise may."""
    ratios = {row["what"]: row["peers"]["native-again"]["ratio"] for row in summed["rows"]}
    return {
        what: it
        for what, it in ratios.items()
        if not 1 / SELF_CHECK_TOLERANCE <= it <= SELF_CHECK_TOLERANCE
    }
