"""The plays: what the scripted model says to each agent, and what it waits for.

The tasks are about the small repository in `repo/`. The replies are in aider's edit format,
search-and-replace blocks; a reply that follows an edit is the commit's message.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    text: str
    # (agent, n): said only when that agent has asked for the n-th time.
    after: tuple = None
    # What the request must contain, or the play has failed.
    expect: list = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    agent: str
    # In every request of this agent, and in nobody else's.
    task: str
    replies: list


def edit(path, old, new):
    return f"{path}\n```python\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n"


FIX_ADD = edit("calc.py", "    return a - b\n", "    return a + b\n")

TEST_ADD = edit(
    "test_calc.py",
    "class Calc(unittest.TestCase):\n",
    """\
class Calc(unittest.TestCase):
    def test_add(self):
        self.assertEqual(calc.add(2, 3), 5)

""",
)

ADD_BYE = edit(
    "greet.py",
    '    return f"Hello, {name}!"\n',
    """\
    return f"Hello, {name}!"


def bye(name):
    return f"Bye, {name}!"
""",
)

TEST_BYE = edit(
    "test_greet.py",
    "class Greet(unittest.TestCase):\n",
    """\
class Greet(unittest.TestCase):
    def test_bye(self):
        self.assertEqual(greet.bye("Ada"), "Bye, Ada!")

""",
)

ADD_POWER = edit(
    "calc.py",
    "    return a * b\n",
    """\
    return a * b


def power(a, b):
    return a**b
""",
)

PLAYS = {
    # Two agents, two files each: nobody waits. Each has begun before the other one edits.
    "two-files": [
        Part(
            "alice",
            "add() subtracts",
            [
                Reply(
                    "It subtracts. I fix it and test it.\n\n" + FIX_ADD + "\n" + TEST_ADD,
                    after=("bob", 1),
                    expect=["return a - b"],
                ),
                Reply("fix: add() adds"),
            ],
        ),
        Part(
            "bob",
            "say goodbye",
            [
                Reply(
                    "A function and its test.\n\n" + ADD_BYE + "\n" + TEST_BYE,
                    after=("alice", 1),
                    expect=["def hello"],
                ),
                Reply("feat: bye() says goodbye"),
            ],
        ),
    ],
    # Both edit calc.py. Bob has read it before alice writes, and writes while she holds it. His
    # write is refused; he is shown the file again, with her change, and his edit is then on top.
    "one-file": [
        Part(
            "alice",
            "add() subtracts",
            [
                Reply("It subtracts. I fix it.\n\n" + FIX_ADD, after=("bob", 1)),
                Reply("fix: add() adds"),
            ],
        ),
        Part(
            "bob",
            "raise to a power",
            [
                Reply(
                    "Here it is.\n\n" + ADD_POWER,
                    after=("alice", 2),
                    expect=["return a - b"],
                ),
                Reply(
                    "The file has changed meanwhile; I do it again on the new one.\n\n" + ADD_POWER,
                    expect=["Resource temporarily unavailable", "return a + b"],
                ),
                Reply("feat: power() raises to a power"),
            ],
        ),
    ],
}
