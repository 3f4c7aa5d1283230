"""What NAU, NMU and NAC•,NMU share: a weight kept in an interval and drawn to its whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Unit, empty_matrix


class Constrained(Unit):
    """A unit whose ``weight`` is its parameter Ŵ (``w_hat``) clipped to ``interval``.

    A subclass gives the summands of its two regularisers in the draft, elementwise functions
    of Ŵ: ``bias_penalty``, zero at the whole numbers of the interval, and
    ``out_of_bounds_penalty``, zero inside it. ``nalu.prepare`` adds their means to the loss.
    """

    interval: tuple[float, float]

    def __init__(self, in_features: int, out_features: int, *, device=None, dtype=None):
        super().__init__(in_features, out_features)
        self.w_hat = empty_matrix(self, device, dtype)
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:
        return self.w_hat.clamp(*self.interval)

    @torch.no_grad()
    def project_(self) -> None:
        """Move Ŵ into the interval, in place (final paper, after every step)."""
        self.w_hat.clamp_(*self.interval)

    @staticmethod
    def sparsity_penalty(weight: Tensor) -> Tensor:
        """The summand of R_sparse, the distance to the nearest whole number (final paper)."""
        return weight.abs().minimum((1 - weight.abs()).abs())
