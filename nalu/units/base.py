"""What all units share: two sizes, an effective matrix, and shapes that are checked."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

EPSILON = 1e-7  # the ε of every logarithm in the paper's experiments


class Unit(nn.Module):
    """A layer with arithmetic meaning: (..., in_features) -> (..., out_features).

    A unit is drop-in for ``torch.nn.Linear``. The matrix its equation speaks of is
    ``unit.weight``, of shape (out_features, in_features), whatever the trained parameters are;
    a NALU with separate matrices has two of them, one after the other.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the last dimension of an
            input is not ``in_features``.
    """

    label: str  # how the paper writes the unit
    aliases: tuple[str, ...] = ()  # what else it has been called
    neutral: float = 0.0  # what it starts from in recurrent use: 1 if it multiplies

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number, 1 or more")
        self.in_features = int(in_features)
        self.out_features = int(out_features)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The effective matrices, (out_features, in_features) each."""
        return (self.weight,)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's ``scalar`` definition (``nalu.units.scalar``) on tensors."""
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the input has shape {tuple(x.shape)}, but its last dimension must be "
                f"in_features = {self.in_features}"
            )
        return self.scalar(x.unsqueeze(-2))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def empty_matrix(unit: Unit, device, dtype) -> nn.Parameter:
    """An uninitialised (out_features, in_features) parameter."""
    return nn.Parameter(
        torch.empty(unit.out_features, unit.in_features, device=device, dtype=dtype)
    )


def checked_epsilon(epsilon: float) -> float:
    """``epsilon``, or a ValueError when a logarithm cannot have it."""
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}: it must be a finite number, 0 or more")
    return epsilon


def side_by_side(unit: type[Unit], in_features: int, runs: int, **options) -> Unit:
    """Many units of one output as one: (..., in_features) -> (..., runs).

    Every output has the initial weights of a unit of its own, ``unit(in_features, 1)``, which
    those of ``unit(in_features, runs)`` would not have, and trains as one alone would, if the
    loss is a sum or mean over outputs. ``options`` go to the unit.
    """
    many = unit(in_features, runs, **options)
    alone = [unit(in_features, 1, **options) for _ in range(runs)]
    with torch.no_grad():
        for whole, *parts in zip(
            many.parameters(), *(one.parameters() for one in alone), strict=True
        ):
            whole.copy_(torch.cat(parts))
    return many


def matching(x: Tensor, weight: Tensor) -> Tensor:
    """``x``, or a ValueError when its last dimension is not the unit's number of inputs."""
    if x.ndim == 0 or x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"the input has shape {tuple(x.shape)}, but its last dimension must be "
            f"in_features = {weight.shape[-1]}"
        )
    return x
