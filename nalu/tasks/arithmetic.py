"""The arithmetic tasks of section 3.1: an operation on the sums of two parts of the input.

    a = Σ x_i over the first subset,  b = Σ x_i over the second,  t = a ∘ b

A task says where samples lie and what their target is; it draws nothing itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from ..fields import as_float, as_whole

Ranges = tuple[tuple[float, float], ...]
Subset = tuple[int, int]  # first column, and the column after the last

OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "sqrt": lambda a, b: a**0.5,
    "square": lambda a, b: a * a,
}


def as_ranges(value, name: str) -> Ranges:
    """``(low, high)`` or a union ``((low, high), ...)``, as the latter.

    Raises:
        ValueError: a range is not two finite numbers, the lower first.
    """
    try:
        pairs = [value] if len(value) == 2 and isinstance(value[0], Real) else value
        ranges = tuple((float(low) + 0.0, float(high) + 0.0) for low, high in pairs)  # no -0.0
    except (TypeError, ValueError):
        ranges = ()
    if not ranges or not all(low < high and math.isfinite(high - low) for low, high in ranges):
        raise ValueError(
            f"{name} is {value!r}: it must be (low, high) with low < high, or several such pairs"
        )
    return ranges


class Arithmetic:
    """What the tasks share: ranges, an operation, and a target.

    A task gives ``subsets(offset)``, the columns that are summed to a and to b.
    """

    operation: str
    interpolation: Ranges
    extrapolation: Ranges

    def _check_ranges(self) -> None:
        for name in ("interpolation", "extrapolation"):
            object.__setattr__(self, name, as_ranges(getattr(self, name), name))

    def target(self, x, offset: int):
        """t of every sample, of an array or tensor x: (..., input_size) -> (..., 1)."""
        (a0, a1), (b0, b1) = self.subsets(offset)
        a, b = x[..., a0:a1].sum(-1), x[..., b0:b1].sum(-1)
        return OPERATIONS[self.operation](a, b)[..., None]


@dataclass(frozen=True)
class SimpleMultiplication(Arithmetic):
    """(x₁ + x₂ + x₃ + x₄) · (x₁ + x₂), section 3.1.1.

    Raises:
        ValueError: a range is not two finite numbers, the lower first.
    """

    interpolation: Ranges = ((1.0, 2.0),)  # where training samples lie
    extrapolation: Ranges = ((2.0, 6.0),)  # where the scores are taken; (1, 6) in the draft

    input_size: ClassVar[int] = 4
    operation: ClassVar[str] = "mul"
    offsets: ClassVar[int] = 1

    def __post_init__(self):
        self._check_ranges()

    def subsets(self, offset: int = 0) -> tuple[Subset, Subset]:
        return (0, 4), (0, 2)


@dataclass(frozen=True)
class StaticFunction(Arithmetic):
    """An operation on two overlapping windows of the input, section 3.1.2.

    A window has S = ⌊subset_ratio · input_size⌋ columns, and the two share
    ⌊overlap_ratio · S⌋. The first begins at the offset, drawn once per run from the
    ``offsets`` possible ones. √ and z² take the first window only.

    Raises:
        ValueError: a field is outside what its comment allows, or the windows do not fit.
    """

    operation: str = "mul"  # one of OPERATIONS
    input_size: int = 100  # columns of x, 1 or more
    subset_ratio: float = 0.25  # share of the columns in a window, in (0, 1]
    overlap_ratio: float = 0.5  # share of a window in the other, in [0, 1]
    interpolation: Ranges = ((1.0, 2.0),)  # where training samples lie
    extrapolation: Ranges = ((2.0, 6.0),)  # where the scores are taken; (1, 6) in the draft

    def __post_init__(self):
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"operation is {self.operation!r}: it must be one of {', '.join(OPERATIONS)}"
            )
        settle = object.__setattr__
        settle(self, "input_size", as_whole(self.input_size, "input_size", 1, 2**31 - 1))
        for name in ("overlap_ratio", "subset_ratio"):
            settle(self, name, as_float(getattr(self, name), name))
        if not 0 <= self.overlap_ratio <= 1:
            raise ValueError(f"overlap_ratio is {self.overlap_ratio!r}: it must be in [0, 1]")
        if not 0 < self.subset_ratio <= 1 or self.subset_size < 1:
            raise ValueError(
                f"subset_ratio is {self.subset_ratio!r}: it must be in (0, 1] and give at least "
                f"one of the {self.input_size} inputs to a subset"
            )
        if self.offsets < 1:
            raise ValueError(
                f"subset_ratio {self.subset_ratio} and overlap_ratio {self.overlap_ratio} need "
                f"{self.input_size - self.offsets + 1} inputs, and there are {self.input_size}: "
                "take smaller subsets or more overlap"
            )
        self._check_ranges()
        lowest = min(low for low, _ in (*self.interpolation, *self.extrapolation))
        if self.operation == "sqrt" and lowest < 0:
            raise ValueError(f"operation is 'sqrt', of sums from {lowest} on: ranges must be >= 0")

    @property
    def subset_size(self) -> int:
        return math.floor(self.subset_ratio * self.input_size)

    @property
    def overlap(self) -> int:
        """How many columns the two windows share."""
        return math.floor(self.overlap_ratio * self.subset_size)

    @property
    def offsets(self) -> int:
        """How many places there are for the windows."""
        return self.input_size - 2 * self.subset_size + self.overlap + 1

    def subsets(self, offset: int) -> tuple[Subset, Subset]:
        second = offset + self.subset_size - self.overlap
        return (offset, offset + self.subset_size), (second, second + self.subset_size)
