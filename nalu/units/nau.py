"""NAU, the neural addition unit: eq. 3.

    W = min(max(Ŵ, -1), 1)
    z_o = Σ_i W_oi x_i

Regularisers, each a mean over the matrix (the draft prints another normaliser, 1/(H_ℓ + H_ℓ₋₁)):

    R_bias   = mean Ŵ² (1 - |Ŵ|)²             draft, eq. 3
    R_oob    = mean max(|Ŵ| - 1, 0)²          draft, eq. 3
    R_sparse = mean min(|W|, 1 - |W|)         final paper, with W ← min(max(W, -1), 1) after
                                              every step in place of R_oob
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model, matching
from .constrained import Constrained
from .scalar import total


class NAU(Constrained):
    """Neural addition unit, (..., in_features) -> (..., out_features), eq. 3.

    Ŵ ~ Uniform(-r, r), r = min(1/2, √(6 / (in_features + out_features))). To train it as in
    the paper call ``nalu.prepare`` on the model and its optimiser.
    """

    label = "NAU"
    aliases = ("nau", "ReRegualizedLinearNAC", "modified NAC₊")
    interval = (-1.0, 1.0)
    models = {"NAU": Model(("NAU", "NAU"), "C2", "^", "-.")}

    def reset_parameters(self) -> None:
        r = min(0.5, math.sqrt(6 / (self.in_features + self.out_features)))
        nn.init.uniform_(self.w_hat, -r, r)

    def scalar(self, x):
        return total(self.weight * x)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        return F.linear(matching(x, weight), weight)

    @staticmethod
    def bias_penalty(w_hat: Tensor) -> Tensor:
        return w_hat**2 * (1 - w_hat.abs()) ** 2

    @staticmethod
    def out_of_bounds_penalty(w_hat: Tensor) -> Tensor:
        return (w_hat.abs() - 1).clamp(min=0) ** 2
