"""The fields of a specification: checked, in one form, and described, so that equal ones are alike.

A specification is a dataclass that inherits from ``Checked``; each of its fields says by ``whole``,
``amount``, ``choice`` or ``checked`` what it may be. Plain dataclasses do: the layers need torch
alone, and so do the rules of training that come with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import MISSING as REQUIRED
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any


def as_whole(value, name: str, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, also one of NumPy's.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return int(value)


def as_float(value, name: str) -> float:
    """A number: 1 and 1.0, or 0.0 and -0.0, are equal, but not alike.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} is {value!r}: it must be a number")
    return float(value) + 0.0


def as_amount(value, name: str, zero: bool = True) -> float:
    """A finite number that is not negative and, without ``zero``, positive.

    Raises:
        ValueError: it is none.
    """
    number = as_float(value, name)
    if not 0 <= number < math.inf or (number == 0 and not zero):
        least = "0 or more" if zero else "positive"
        raise ValueError(f"{name} is {value!r}: it must be {least}, and finite")
    return number


def as_choice(value, name: str, choices: Collection) -> Any:
    """One of some choices, which are of one type.

    Raises:
        ValueError: it is none.
    """
    if value not in list(choices) or type(value) is not type(next(iter(choices))):
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(str, choices))}")
    return value


def checked(default, check: Callable[[Any, str], Any], *, silent=REQUIRED):
    """A field whose value becomes ``check(value, name)``; None, if that is the default, may stay.

    Args:
        default: or ``REQUIRED``.
        silent: of a field that came when runs were recorded: the value that they have. With it a
            specification does not name the field, and so their keys stay.
    """
    return field(default=default, metadata={"check": check, "silent": silent})


def whole(default, low: int = 0, high: int = 2**32 - 1, **options):
    """A field of a whole number from ``low`` to ``high``."""
    return checked(default, lambda value, name: as_whole(value, name, low, high), **options)


def amount(default, zero: bool = True, **options):
    """A field of a finite number, not negative and, without ``zero``, positive."""
    return checked(default, lambda value, name: as_amount(value, name, zero), **options)


def choice(default, choices: Collection, **options):
    """A field of one of some choices."""
    return checked(default, lambda value, name: as_choice(value, name, choices), **options)


_known: dict[str, type[Checked]] = {}  # by the name that a specification has for them


class Checked:
    """A frozen dataclass whose fields are checked when it is made, and that JSON can hold.

    ``settle`` is for what several fields decide together. A subclass can be made again from what
    ``described`` says, by its ``name``: its class name unless it has another.

    Raises:
        ValueError: a field is outside what it says.
    """

    name: str

    def __init_subclass__(cls):
        if "name" not in vars(cls):
            cls.name = cls.__name__
        _known[cls.name] = cls

    def __post_init__(self):
        for each in fields(self):
            value, check = getattr(self, each.name), each.metadata.get("check")
            if check and (value is not None or each.default is not None):
                object.__setattr__(self, each.name, check(value, each.name))
        self.settle()

    def settle(self) -> None:
        """Check what several fields decide, and set what follows from others."""

    def described(self) -> dict:
        """Its name and all fields that count, as JSON has them."""
        names = [each.name for each in fields(self) if counts(self, each)]
        return {"name": self.name, **{name: _plain(getattr(self, name)) for name in names}}


def counts(owner: Checked, each: dataclasses.Field) -> bool:
    """Whether a specification names a field: labels never, later ones if they say something."""
    silent = each.metadata.get("silent", REQUIRED)
    return each.compare and (silent is REQUIRED or getattr(owner, each.name) != silent)


def _plain(value):
    if isinstance(value, Checked):
        return value.described()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def made(description: dict) -> Checked:
    """What ``described`` gave, also after a trip through JSON."""
    values = {key: made(v) if isinstance(v, dict) else v for key, v in description.items()}
    return _known[values.pop("name")](**values)
