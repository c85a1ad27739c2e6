"""Sums for people who do not trust their heads."""


def add(a, b):
    return a - b


def multiply(a, b):
    return a * b
