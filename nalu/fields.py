"""The fields of a specification: checked, and in one form, so that equal ones are also alike."""

from __future__ import annotations

import math
from numbers import Real


def as_float(value, name: str) -> float:
    """A number as the one form that it has in a specification: 1 and 1.0 are equal, not alike.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} is {value!r}: it must be a number")
    return float(value)


def as_rate(value, name: str) -> float:
    """The same of a positive, finite number.

    Raises:
        ValueError: it is none.
    """
    number = as_float(value, name)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value!r}: it must be positive")
    return number


def check_whole(value, name: str, low: int, high: int) -> None:
    """Refuse what is not a Python integer from ``low`` to ``high``.

    Raises:
        ValueError: naming all of these.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
