"""Words for the door."""


def hello(name):
    return f"Hello, {name}!"
