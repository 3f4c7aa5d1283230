"""NAC₊, the addition of the NALU: eq. 1.

    W = tanh(Ŵ) σ(M̂)
    z_o = Σ_i W_oi x_i

Gradients, eq. 2:

    ∂L/∂Ŵ = ∂L/∂W (1 - tanh²(Ŵ)) σ(M̂)
    ∂L/∂M̂ = ∂L/∂W tanh(Ŵ) σ(M̂) (1 - σ(M̂))
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..moments import nac_init_range
from .base import Model, Unit, matching
from .scalar import sigmoid, tanh, total


def nac_weight(w_hat: Tensor, m_hat: Tensor) -> Tensor:
    """W = tanh(Ŵ) σ(M̂), elementwise over any broadcastable shapes (eq. 1)."""
    return tanh(w_hat) * sigmoid(m_hat)


class NAC(Unit):
    """NAC₊ (Trask et al., 2018), (..., in_features) -> (..., out_features), eq. 1.

    Ŵ and M̂ ~ Uniform(-r, r), with r such that Var[W] = 2 / (in_features + out_features)
    (eq. 8). That has a solution only for more than 4 features in all; below 5 the sum counts
    as 5, as in the authors' code.
    """

    label = "NAC₊"
    aliases = ("NAC+", "NAC_+", "NAC_add", "nac")
    axes = {"w_hat": "oi", "m_hat": "oi"}
    models = {"NAC": Model(("NAC", "NAC"), "C0", "o")}
    r_z = True

    def reset_parameters(self) -> None:
        r = nac_init_range(2 / max(self.in_features + self.out_features, 5))
        nn.init.uniform_(self.w_hat, -r, r)
        nn.init.uniform_(self.m_hat, -r, r)

    @property
    def weight(self) -> Tensor:
        return nac_weight(self.w_hat, self.m_hat)

    def scalar(self, x):
        return total(self.weight * x)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        return F.linear(matching(x, weight), weight)
