"""The fields of a specification: checked, and in one form, so that equal ones are also alike."""

from __future__ import annotations

import math
from numbers import Integral, Real


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


def as_strength(value, name: str, zero: bool = True) -> float:
    """A finite number that is not negative and, without ``zero``, positive.

    Raises:
        ValueError: it is none.
    """
    number = as_float(value, name)
    if not 0 <= number < math.inf or (number == 0 and not zero):
        least = "0 or more" if zero else "positive"
        raise ValueError(f"{name} is {value!r}: it must be {least}, and finite")
    return number
