"""The plays: what the scripted model says to each agent, and what it waits for.

The tasks that the agents are given are about the small repository in `repo/`. The replies are in
aider's edit format, search-and-replace blocks; a reply that follows an edit is the commit's
message.
"""

from dataclasses import dataclass, field

# In a cue, who is not in the play but directs it.
OPERATOR = "operator"


@dataclass(frozen=True)
class Reply:
    text: str
    # (agent, n): said only when that agent has asked for the n-th time, or the operator has.
    after: tuple = None
    # What the request must contain, or the play has failed.
    expect: list = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    agent: str
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

TEST_POWER = edit(
    "test_calc.py",
    "class Calc(unittest.TestCase):\n",
    """\
class Calc(unittest.TestCase):
    def test_power(self):
        self.assertEqual(calc.power(2, 10), 1024)

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
    # Both edit calc.py. Bob has read it before alice writes, and writes while she holds it: his
    # write waits for hers, and is then refused. aider shows that to its user only; what the model
    # sees is that the test fails, and calc.py as it is now, with alice's change.
    "one-file": [
        Part(
            "alice",
            [
                Reply("It subtracts. I fix it.\n\n" + FIX_ADD, after=("bob", 1)),
                # The operator has seen that bob waits.
                Reply("fix: add() adds", after=(OPERATOR, 1)),
            ],
        ),
        Part(
            "bob",
            [
                Reply(
                    "The test first, then the function.\n\n" + TEST_POWER + "\n" + ADD_POWER,
                    after=("alice", 2),
                    expect=["return a - b"],
                ),
                Reply("test: power() raises to a power"),
                Reply(
                    "calc.py has changed, and has no power() yet. Once more.\n\n" + ADD_POWER,
                    expect=["has no attribute 'power'", "return a + b"],
                ),
                Reply("feat: power() raises to a power"),
            ],
        ),
    ],
}
