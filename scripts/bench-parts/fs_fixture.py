"""The repository that `scripts/bench fs` works on: the same on every machine and in every run.

10 000 small text files in 1 000 directories, two branches that differ in 2 000 of them, and beside
them a few crates, npm packages and tests, for the rows about those. Nothing in it needs a network.
"""

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

from common import run

FILES, DIRECTORIES, CHANGED = 10_000, 1_000, 2_000
CRATES, PACKAGES, TESTS = 12, 60, 80
LONG_AGO = 1_580_700_000_123_456_789  # so that git need not doubt any time in its index

WORDS = """the of view lease claim delta base pin apply agent run write read lock queue journal path
file directory scratch gate open close rename link version change set unit wait deadline holder
let match return struct enum trait impl fn use mod pub self result option error state event""".split()


class Texts:
    """Slices of one long text: as compressible as source code, and quick to make."""

    def __init__(self):
        self.random = random.Random(20_200_203)
        words = self.random.choices(WORDS, k=400_000)
        lines = (" ".join(words[at : at + 9]) for at in range(0, len(words), 9))
        self.text = "\n".join(lines)

    def of(self, size):
        begin = self.random.randrange(len(self.text) - size)
        needle = " needle" if self.random.random() < 0.02 else ""
        return self.text[begin : begin + size - 1 - len(needle)] + needle + "\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(repo, *arguments):
    names = ("-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
    return run("git", *names, *arguments, cwd=repo)


def age(repo):
    for directory, names, files in os.walk(repo):
        if ".git" in names:
            names.remove(".git")
        for name in files:
            os.utime(os.path.join(directory, name), ns=(LONG_AGO, LONG_AGO))


def source_files():
    """Names with the shape that source trees have: a few levels, about ten files each."""
    for number in range(FILES):
        directory = number % DIRECTORIES
        top, middle = directory % 10, directory // 10 % 10
        yield f"src/part{top}/area{middle}/unit{directory // 100}/file{number // DIRECTORIES}.txt"


def make(repo, bulk_mib):
    """Makes the repository in a directory that does not exist."""
    texts = Texts()
    for name in source_files():
        # From 0.2 to 20 KiB, most of them small.
        write(repo / name, texts.of(int(200 * 100 ** texts.random.random())))
    write(repo / ".gitignore", "target/\nnode_modules/\n__pycache__/\n*.log\n")
    write(repo / "agentfs.toml", 'publish = "manual"\n')
    write(repo / "held.txt", "text\n")
    make_crates(repo / "crates")
    make_packages(repo / "web", texts)
    make_tests(repo / "tests")
    git(repo, "init", "--quiet", "--initial-branch=main", ".")
    commit(repo, "The beginning")
    git(repo, "checkout", "--quiet", "-b", "other")
    for name in texts.random.sample(list(source_files()), CHANGED):
        with open(repo / name, "a") as file:
            file.write(texts.of(200))
    commit(repo, "2 000 files are changed")
    git(repo, "checkout", "--quiet", "main")
    git(repo, "repack", "-a", "-d", "--quiet")
    # Neither tracked nor ignored, as somebody's own file may be.
    block = texts.random.randbytes(1 << 20)
    with open(repo / "bulk.bin", "wb") as file:
        for _ in range(bulk_mib):
            file.write(block)
    age(repo)
    settle(repo)


def commit(repo, message):
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", f"--message={message}")


def settle(repo, prefix=()):
    """Lets git see that nothing is changed, until it need not look into any file again."""
    subprocess.run([*prefix, "git", "update-index", "--refresh", "-q"], cwd=repo)
    run(*prefix, "git", "status", "--porcelain", cwd=repo)


def make_many_directories(repo, directories):
    """A repository that has as many directories, for what it costs to make a view."""
    for number in range(directories):
        write(repo / f"d{number % 100}" / f"e{number}" / "file.txt", "text\n")
    write(repo / "agentfs.toml", 'publish = "manual"\n')
    git(repo, "init", "--quiet", "--initial-branch=main", ".")
    age(repo)
    commit(repo, "The beginning")


def make_crates(top):
    names = [f"part{number}" for number in range(CRATES)]
    members = ", ".join(f'"{name}"' for name in ["program", *names])
    write(top / "Cargo.toml", f'[workspace]\nresolver = "3"\nmembers = [{members}]\n')
    for number, name in enumerate(names):
        crate(
            top / name, name, names[max(0, number - 2) : number], "lib.rs", library(names, number)
        )
    calls = " + ".join(f"{name}::entry(1)" for name in names)
    crate(
        top / "program",
        "program",
        names,
        "main.rs",
        f'fn main() {{ println!("{{}}", {calls}); }}\n',
    )
    entries = [
        f'[[package]]\nname = "{name}"\nversion = "0.1.0"\n' + depends(needs)
        for name, needs in sorted(
            [("program", names), *((n, names[max(0, i - 2) : i]) for i, n in enumerate(names))]
        )
    ]
    head = "# This file is automatically @generated by Cargo.\n# It is not intended for manual editing.\n"
    write(top / "Cargo.lock", f"{head}version = 4\n\n" + "\n".join(entries))


def depends(needs):
    lines = "".join(f' "{name}",\n' for name in sorted(needs))
    return f"dependencies = [\n{lines}]\n" if needs else ""


def crate(top, name, needs, file, text):
    lines = "".join(f'{need} = {{ path = "../{need}" }}\n' for need in needs)
    package = f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2024"\n'
    write(top / "Cargo.toml", f"{package}\n[dependencies]\n{lines}")
    write(top / "src" / file, text)


def library(names, number):
    items = "".join(
        f"#[derive(Clone, Debug, PartialEq)]\npub struct S{n} {{ pub a: u64, pub b: Vec<u64> }}\n"
        f"impl S{n} {{ pub fn sum(&self) -> u64 {{ self.b.iter().map(|x| x ^ self.a).sum() }} }}\n"
        for n in range(40)
    )
    calls = "".join(
        f"    total += S{n} {{ a: x, b: (0..x).collect() }}.sum();\n" for n in range(40)
    )
    below = "".join(
        f"    total += {name}::entry(x);\n" for name in names[max(0, number - 2) : number]
    )
    return f"{items}pub fn entry(x: u64) -> u64 {{\n    let mut total = 0;\n{calls}{below}    total\n}}\n"


def make_packages(top, texts):
    """npm packages as `npm pack` would pack them, and a program that depends on them all."""
    (top / "vendor").mkdir(parents=True)
    needed = {}
    for number in range(PACKAGES):
        name = f"package-{number}"
        files = {f"lib/part{n}.js": texts.of(texts.random.randrange(300, 6000)) for n in range(30)}
        files["package.json"] = json.dumps(
            {"name": name, "version": "1.0.0", "main": "lib/part0.js"}
        )
        with tarfile.open(top / "vendor" / f"{name}-1.0.0.tgz", "w:gz") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(f"package/{path}")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        needed[name] = f"file:vendor/{name}-1.0.0.tgz"
    about = {"name": "web", "version": "1.0.0", "private": True, "dependencies": needed}
    write(top / "package.json", json.dumps(about, indent=2))


def make_tests(top):
    for number in range(TESTS):
        cases = "".join(
            f"    def test_{n}(self):\n        self.assertEqual({number} + {n}, {number + n})\n\n"
            for n in range(10)
        )
        head = "import unittest\n\n\nclass Tests(unittest.TestCase):\n"
        write(top / f"test_{number}.py", head + cases)


def toolchain(to):
    """Gives the Rust that is in use here a place that every user can reach: links, where possible."""
    system_root = Path(run("rustc", "--print", "sysroot").strip())
    to.mkdir()
    for name in ("bin", "lib", "libexec"):
        if (system_root / name).is_dir():
            linked = subprocess.run(
                ["cp", "-al", system_root / name, to / name], stderr=subprocess.DEVNULL
            )
            if linked.returncode != 0:
                shutil.rmtree(to / name, ignore_errors=True)
                run("cp", "-a", system_root / name, to / name)
