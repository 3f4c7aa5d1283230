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
    """What the model answers at tied weights w₁ and w₂, tensors of one shape.

    Args:
        unit: the multiplication of the second layer, from (2,) inputs and a (1, 2) weight,
            such as ``nmu`` or ``nac_mul``.
    """
    x = torch.tensor(problem.inputs, dtype=torch.float64)
    rows = torch.tensor(problem.rows, dtype=torch.float64)

    def one(w1: Tensor, w2: Tensor) -> Tensor:
        return unit((w1 * rows) @ x, w2.expand(1, 2)).squeeze()

    return torch.vmap(one)(w1.double().flatten(), w2.double().flatten()).reshape(w1.shape)


def loss_surface(
    problem: Problem, unit: Callable[[Tensor, Tensor], Tensor], w1: Tensor, w2: Tensor
) -> Tensor:
    """The squared error at tied weights w₁ and w₂, tensors of one shape (Figures 1 and 2)."""
    return (predictions(problem, unit, w1, w2) - problem.target) ** 2


def nac_mul_solution(problem: Problem, w2: float, epsilon: float) -> float | None:
    """The w₁ ≥ 0 at which NAC• has no loss at a given w₂, or None where there is none.

    (a w₁ + ε)(b w₁ + ε) = t^(1/w₂) is a quadratic equation in w₁; -w₁ solves it too, since
    NAC• does not see signs.
    """
    a, b = problem.sums
    level = problem.target ** (1 / w2)
    if level < epsilon**2:
        return None
    half = epsilon * (a + b) / 2
    return (level - epsilon**2) / (half + math.sqrt(half**2 + a * b * (level - epsilon**2)))
