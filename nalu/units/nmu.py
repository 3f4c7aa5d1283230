"""NMU, the neural multiplication unit: eq. 5.

    W = min(max(Ŵ, 0), 1)
    z_o = Π_i F_oi,  F_oi = W_oi x_i + 1 - W_oi

Gradients, eq. 6 with the product without factor i for z_o / F_oi, which is 0/0 at F_oi = 0,
and with the ∂L/∂z_o that the draft's second line lacks:

    ∂L/∂W_oi = ∂L/∂z_o (Π_{j≠i} F_oj) (x_i - 1)
    ∂L/∂x_i  = Σ_o ∂L/∂z_o (Π_{j≠i} F_oj) W_oi

Regularisers, each a mean over the matrix (the draft prints another normaliser, 1/(H_ℓ + H_ℓ₋₁)):

    R_bias   = mean Ŵ² (1 - Ŵ)²               draft, eq. 5
    R_oob    = mean max(|Ŵ - 1/2| - 1/2, 0)²  draft, eq. 5
    R_sparse = mean min(W, 1 - W)             final paper, with W ← min(max(W, 0), 1) after
                                              every step in place of R_oob
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Model, matching
from .constrained import Constrained
from .scalar import product


def nmu(x: Tensor, weight: Tensor) -> Tensor:
    """Π_i (W_oi x_i + 1 - W_oi): x (..., in) and W (out, in) give (..., out) (eq. 5)."""
    return product(weight * matching(x, weight).unsqueeze(-2) + 1 - weight)


class NMU(Constrained):
    """Neural multiplication unit, (..., in_features) -> (..., out_features), eq. 5.

    Ŵ ~ Uniform(1/4, 3/4), as in the authors' code; its variance is 1/48, while the draft
    proposes 1/4. To train it as in the paper call ``nalu.prepare`` on the model and its
    optimiser.

    With ``normalised=True`` (end of section 2.3) the input is divided by c, the standard
    deviation of the whole batch, and the output multiplied by c^(Σ_i W_oi); that is the same
    function when every W_oi is 0 or 1. A constant batch is left as it is.

    Raises:
        ValueError: ``normalised`` and fewer than two numbers in the input.
    """

    label = "NMU"
    aliases = ("nmu", "ReRegualizedLinearMNAC")
    interval = (0.0, 1.0)
    neutral = 1.0
    models = {"NMU": Model(("NAU", "NMU"), "C2", "^", "-.")}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        normalised: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.normalised = normalised

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.w_hat, 0.25, 0.75)

    def scalar(self, x):
        """Of the NMU that is not normalised."""
        return product(self.weight * x + 1 - self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not self.normalised:
            return nmu(x, weight)
        if matching(x, weight).numel() < 2:
            raise ValueError("a normalised NMU needs two numbers for a standard deviation")
        c = torch.std(x)
        c = torch.where(c > 0, c, torch.ones_like(c))
        return nmu(x / c, weight) * c ** weight.sum(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, normalised={self.normalised}"

    @staticmethod
    def bias_penalty(w_hat: Tensor) -> Tensor:
        return w_hat**2 * (1 - w_hat) ** 2

    @staticmethod
    def out_of_bounds_penalty(w_hat: Tensor) -> Tensor:
        return ((w_hat - 0.5).abs() - 0.5).clamp(min=0) ** 2
