"""The loss surfaces of Figures 1 and 2: two layers whose weights are tied to two numbers.

The first layer adds, with rows of weights that are 0 or w₁; the second multiplies, with both
weights w₂. The loss is the squared error of one example, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One example: inputs, and which of them each row of the first layer adds."""

    inputs: tuple[float, ...]
    rows: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def sums(self) -> tuple[float, float]:
        """The two hidden values at w₁ = 1."""
        a, b = (
            sum(x for x, take in zip(self.inputs, row, strict=True) if take) for row in self.rows
        )
        return a, b

    @property
    def target(self) -> float:
        """The product of the two sums: solved by w₁ = w₂ = 1."""
        return math.prod(self.sums)


# The draft and the final paper print different problems in the same figure.
PROBLEMS = {
    "draft": Problem((1, 1.5, 2, 2), ((1, 1, 0, 0), (1, 1, 1, 0))),
    "final": Problem((1, 1.2, 1.8, 2), ((1, 1, 0, 0), (1, 1, 1, 1))),
}


def predictions(
    problem: Problem, unit: Callable[[Tensor, Tensor], Tensor], w1: Tensor, w2: Tensor
) -> Tensor:
    """What the model answers at tied weights w₁ and w₂, float64 tensors of one shape.

    Args:
        unit: the multiplication of the second layer, from (2,) inputs and a (1, 2) weight,
            such as ``nmu`` or ``nac_mul``.

    Raises:
        ValueError: other shapes or dtypes; in float32 the walls of NAC• would be missed.
    """
    if w1.shape != w2.shape or {w1.dtype, w2.dtype} != {torch.float64}:
        raise ValueError(
            f"w1 and w2 must be float64 tensors of one shape, not {w1.dtype} {tuple(w1.shape)} "
            f"and {w2.dtype} {tuple(w2.shape)}"
        )
    x = torch.tensor(problem.inputs, dtype=torch.float64)
    rows = torch.tensor(problem.rows, dtype=torch.float64)

    def one(w1: Tensor, w2: Tensor) -> Tensor:
        return unit((w1 * rows) @ x, w2.expand(1, 2)).squeeze()

    return torch.vmap(one)(w1.flatten(), w2.flatten()).reshape(w1.shape)


def loss_surface(
    problem: Problem, unit: Callable[[Tensor, Tensor], Tensor], w1: Tensor, w2: Tensor
) -> Tensor:
    """The squared error at tied weights w₁ and w₂ (Figures 1 and 2), as ``predictions``."""
    return (predictions(problem, unit, w1, w2) - problem.target) ** 2


def nac_mul_solution(problem: Problem, w2: float, epsilon: float) -> float | None:
    """The w₁ > 0 at which NAC• has no loss at a given w₂, or None where there is none.

    (a w₁ + ε)(b w₁ + ε) = t^(1/w₂) is a quadratic equation in w₁; -w₁ solves it too, since
    NAC• does not see signs. Near w₂ = 0 the solution leaves what a float can hold.
    """
    a, b = problem.sums
    exponent = math.log(problem.target) / w2 if w2 else math.inf
    level = math.exp(exponent) if exponent < 700 else math.inf
    if not epsilon**2 < level < math.inf:
        return None
    half = epsilon * (a + b) / 2
    return (level - epsilon**2) / (half + math.sqrt(half**2 + a * b * (level - epsilon**2)))
