"""The arithmetic tasks of section 3.1: an operation on the sums of two parts of the input.

    a = Σ x_i over the first subset,  b = Σ x_i over the second,  t = a ∘ b

A task says where samples lie and what their target is; it draws nothing itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from ..fields import Checked, as_float, checked, choice, whole

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


def ranges_text(ranges: Ranges) -> str:
    """Ranges as the paper writes them: U[1, 2], or U[-6, -2] ∪ U[2, 6]."""
    return " ∪ ".join(f"U[{low:g}, {high:g}]" for low, high in ranges)


class Arithmetic(Checked):
    """What the tasks share: ranges, an operation, a target, and what nearly reaches it.

    A task gives ``subsets(offset)``, the columns that are summed to a and to b, and how many
    ``offsets`` there are.
    """

    operation: str
    input_size: int
    interpolation: Ranges
    extrapolation: Ranges
    draws_offset: ClassVar[bool] = True  # whether the authors' code draws one, of one as well
    judged: ClassVar[int] = 100  # evaluations at the end whose errors the draft takes a median of

    def target(self, x, offset: int):
        """t of every sample, of an array or tensor x: (..., input_size) -> (..., 1)."""
        (a0, a1), (b0, b1) = self.subsets(offset)
        a, b = x[..., a0:a1].sum(-1), x[..., b0:b1].sum(-1)
        return OPERATIONS[self.operation](a, b)[..., None]

    def near(self, x, epsilon: float):
        """What an almost perfect model gives, at offset 0: (..., input_size) -> (..., 1).

        Its first layer has 1 - ε for the inputs of a subset and ε for all others, and its second
        layer is exact (final paper). The threshold of success is its mean squared error.
        """
        (a0, a1), (b0, b1) = self.subsets(0)
        a, b = x[..., a0:a1].sum(-1), x[..., b0:b1].sum(-1)
        every = x.sum(-1)
        near = a + epsilon * (every - 2 * a), b + epsilon * (every - 2 * b)
        return OPERATIONS[self.operation](*near)[..., None]


@dataclass(frozen=True)
class SimpleMultiplication(Arithmetic):
    """(x₁ + x₂ + x₃ + x₄) · (x₁ + x₂), section 3.1.1.

    Raises:
        ValueError: a range is not two finite numbers, the lower first.
    """

    interpolation: Ranges = checked(((1.0, 2.0),), as_ranges)  # where training samples lie
    extrapolation: Ranges = checked(((2.0, 6.0),), as_ranges)  # of the scores; draft (1, 6)

    input_size: ClassVar[int] = 4
    operation: ClassVar[str] = "mul"
    offsets: ClassVar[int] = 1
    draws_offset: ClassVar[bool] = False
    judged: ClassVar[int] = 10

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

    operation: str = choice("mul", OPERATIONS)
    input_size: int = whole(100, 1, 2**31 - 1)  # columns of x, 1 or more
    subset_ratio: float = checked(0.25, as_float)  # share of the columns in a window, in (0, 1]
    overlap_ratio: float = checked(0.5, as_float)  # share of a window in the other, in [0, 1]
    interpolation: Ranges = checked(((1.0, 2.0),), as_ranges)  # where training samples lie
    extrapolation: Ranges = checked(((2.0, 6.0),), as_ranges)  # of the scores; draft (1, 6)

    def settle(self) -> None:
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
