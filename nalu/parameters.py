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
    """The numbers from ``low`` to ``high``, both included or, if ``open``, excluded."""

    low: float
    high: float
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if self.open:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def __str__(self) -> str:
        edge = "excluded" if self.open else "included"
        return f"a number between {self.low} and {self.high}, {edge}"


def check_parameters(**allowed: Container) -> None:
    """Refuse unknown names, wrong types and values that are not allowed.

    Args:
        allowed: for each parameter that has one, what its values (or, in a list, each value)
            must be ``in``: a list of choices, a ``range``, a ``Between``.

    Raises:
        ValueError: one line for each parameter that is wrong: what was given, what is allowed.
        TypeError: an argument names no parameter of this notebook.
    """
    namespace = get_ipython().user_ns
    types = namespace.get("__annotations__", {})
    if strays := allowed.keys() - types.keys():
        raise TypeError(f"the parameters cell has no {', '.join(strays)}, only {', '.join(types)}")
    problems = []
    for name in injected_names(namespace["In"]):
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            problems.append(f"there is no parameter {name}{hint}, only {', '.join(types)}")
    for name, kind in types.items():
        problems += problems_with(name, namespace[name], kind, allowed.get(name))
    if problems:
        raise ValueError("\n".join(problems))


def injected_names(history: list[str]) -> list[str]:
    """The names that papermill assigned, in the cell it marks with a comment."""
    cells = [ast.parse(cell) for cell in history if cell.startswith("# Parameters\n")]
    return [
        target.id
        for cell in cells
        for statement in cell.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


# What the types of parameters are called, one and many.
WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    str: ("text", "texts"),
    bool: ("True or False", "True or False"),
}


def problems_with(
    name: str, value: Any, kind: type | GenericAlias, allowed: Container | None
) -> list[str]:
    """A sentence if ``value``, or each value of a list, is not what it should be."""
    if isinstance(kind, GenericAlias):  # list[int] and the like
        (item,) = kind.__args__
        if isinstance(value, list) and value:
            return [p for v in value for p in problems_with(f"in {name}, {v!r}", v, item, allowed)]
        expected = f"a list of {WORDS[item][1]}, at least one: with papermill, -y '{name}: [...]'"
    elif not (type(value) is kind or (kind is float and type(value) is int)) or (
        kind is float and not math.isfinite(value)
    ):
        expected = WORDS[kind][0]
    elif allowed is not None and value not in allowed:
        expected = described(allowed)
    else:
        return []
    given = name if name.startswith("in ") else f"{name} is {value!r}, but"
    return [f"{given} must be {expected}"]


def described(allowed: Container) -> str:
    """The values that are allowed, in words."""
    if isinstance(allowed, range):
        step = f" in steps of {allowed.step}" if allowed.step != 1 else ""
        return f"a whole number from {allowed[0]} to {allowed[-1]}{step}"
    if isinstance(allowed, Between):
        return str(allowed)
    return "one of " + ", ".join(map(repr, allowed))
