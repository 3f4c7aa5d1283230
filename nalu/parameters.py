"""The parameters of a notebook, checked before anything is computed.

Papermill overwrites the defaults of a notebook's parameters cell without looking at names or
types. ``check_parameters`` does, in the cell after it: the annotations of the parameters cell
say which names and types there are, and its own arguments say which values.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Container
from dataclasses import dataclass
from types import GenericAlias
from typing import Any

from IPython import get_ipython


@dataclass(frozen=True)
class Between:
    """The finite numbers from ``low`` to ``high``, both included or, if ``open``, excluded."""

    low: float
    high: float
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if self.open:
            return self.low < value < self.high
        return self.low <= value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        edge = "excluded" if self.open else "included"
        return f"a number between {self.low} and {self.high}, {edge}"


def check_parameters(**allowed: Container) -> None:
    """Refuse unknown names, wrong types and values that are not allowed.

    Args:
        allowed: for each parameter that has one, what its values (or, in a list, each value)
            must be ``in``: a list of choices, a ``range``, a ``Between``.

    Raises:
        ValueError: names every parameter that is wrong, what was given and what is allowed.
    """
    shell = get_ipython()
    namespace = shell.user_ns
    types = namespace["__annotations__"]
    problems = []
    for name in injected_names(namespace["In"]):
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"there is no parameter {name}, only {', '.join(types)}{hint}")
    for name, kind in types.items():
        if problem := problem_with(namespace[name], kind, allowed.get(name)):
            problems.append(f"{name} is {namespace[name]!r}, but must be {problem}")
    if problems:
        raise ValueError("; ".join(problems))


def injected_names(history: list[str]) -> list[str]:
    """The names that papermill assigned, in the cell it marks with a comment."""
    cells = [ast.parse(cell) for cell in history if cell.startswith("# Parameters\n")]
    return [
        target.id
        for cell in cells
        for statement in cell.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    ]


# What the types of parameters are called, one and many.
WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("True or False", "True or False"),
}


def problem_with(value: Any, kind: type | GenericAlias, allowed: Container | None) -> str | None:
    """What ``value`` should have been, or None when it is fine."""
    if isinstance(kind, GenericAlias):  # list[int] and the like
        (item,) = kind.__args__
        if not isinstance(value, list):
            return f"a list of {WORDS[item][1]}; papermill takes one as -y 'name: [1, 2]'"
        if not value:
            return f"a list of {WORDS[item][1]}, with at least one"
        problems = (problem_with(v, item, allowed) for v in value)
        return next((f"a list, each {problem}" for problem in problems if problem), None)
    whole_for_float = kind is float and type(value) is int
    if type(value) is not kind and not whole_for_float:
        return WORDS[kind][0]
    if allowed is not None and value not in allowed:
        return described(allowed)
    return None


def described(allowed: Container) -> str:
    if isinstance(allowed, range):
        return f"a whole number from {allowed.start} to {allowed.stop - 1}"
    if isinstance(allowed, Between):
        return str(allowed)
    return "one of " + ", ".join(map(repr, allowed))
