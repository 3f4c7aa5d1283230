"""What all units share: two sizes, trained parameters, an effective matrix, and checked shapes."""

from __future__ import annotations

import math
from numbers import Integral
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

EPSILON = 1e-7  # the ε of every logarithm in the paper's experiments


class Model(NamedTuple):
    """A model that tables and figures know by name."""

    layers: tuple[str, ...]  # names of its units, from the input on
    colour: str  # of its lines and points
    marker: str  # of its points
    line: str | tuple = "-"  # dashes of its lines


class Unit(nn.Module):
    """A layer with arithmetic meaning: (..., in_features) -> (..., out_features).

    A unit is drop-in for ``torch.nn.Linear``. The matrix its equation speaks of is
    ``unit.weight``, of shape (out_features, in_features), whatever the trained parameters are;
    a NALU with separate matrices has two of them, one after the other. A subclass gives it,
    and its function as ``scalar`` (``nalu.units.scalar``), as ``forward``, or as both.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the last dimension of an
            input is not ``in_features``.
    """

    label: str  # how the paper writes the unit
    aliases: tuple[str, ...] = ()  # what else it has been called
    neutral: float = 0.0  # what it starts from in recurrent use: 1 if it multiplies
    r_z: bool = False  # whether R_z is defined: it draws the mean of ``read`` to ``neutral``
    # Its trained parameters with their axes: "oi" for (out_features, in_features), "o", "i", "".
    axes: ClassVar[dict[str, str]] = {}
    models: ClassVar[dict[str, Model]] = {}  # named after it
    variants: ClassVar[dict[str, dict]] = {}  # its options by the name of a layer that has them
    optimizer: ClassVar[dict] = {}  # its paper's, where not Adam: of ``Optimizer``, and "rate"
    noisy: ClassVar[bool] = False  # whether ``forward`` takes noise in training, beside the input

    def __init__(self, in_features: int, out_features: int, *, device=None, dtype=None):
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number, 1 or more")
        self.in_features = int(in_features)
        self.out_features = int(out_features)
        sizes = {"o": self.out_features, "i": self.in_features}
        for name, axes in self.axes.items():
            empty = torch.empty([sizes[axis] for axis in axes], device=device, dtype=dtype)
            setattr(self, name, nn.Parameter(empty))
        if self.axes:
            self.reset_parameters()

    def sparsity_error(self) -> Tensor:
        """max over ``weight`` of min(|W|, |1 - |W||), a scalar."""
        return distance(self.weight).max()

    def read(self, x: Tensor) -> Tensor:
        """What R_z takes means of: the input, unless the unit is defined by a function of it."""
        return x

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


class Logarithmic(Unit):
    """A unit that takes logarithms, of |x| + ε.

    Raises:
        ValueError: ``epsilon`` is negative or not finite.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        epsilon: float = EPSILON,
        device=None,
        dtype=None,
    ):
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon is {epsilon}: it must be a finite number, 0 or more")
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, epsilon={self.epsilon}"


def distance(weight: Tensor) -> Tensor:
    """min(|W|, |1 - |W||), elementwise: how far weights are from -1, 0 and 1."""
    return weight.abs().minimum((1 - weight.abs()).abs())


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
