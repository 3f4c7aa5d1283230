"""NAC•, the multiplication of the NALU: eq. 1.

    W = tanh(Ŵ) σ(M̂)
    z_o = exp(Σ_i W_oi log(|x_i| + ε))

Gradients, eq. 4:

    ∂z_o/∂W_oi = z_o log(|x_i| + ε)
    ∂z_o/∂x_i  = z_o W_oi sign(x_i) / (|x_i| + ε)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import EPSILON, Logarithmic, Model, matching
from .nac import NAC
from .scalar import exp, log, total


def nac_mul(x: Tensor, weight: Tensor, epsilon: float = EPSILON) -> Tensor:
    """exp(log(|x| + ε) Wᵀ): x (..., in) and W (out, in) give (..., out) (eq. 1)."""
    return F.linear((matching(x, weight).abs() + epsilon).log(), weight).exp()


def power(x, weight, epsilon: float):
    """exp(Σ_i W_oi log(|x_i| + ε)), as a scalar definition (eq. 1)."""
    return exp(total(weight * log(abs(x) + epsilon)))


class NACMul(Logarithmic, NAC):
    """NAC• (Trask et al., 2018), (..., in_features) -> (..., out_features), eq. 1.

    Weights and initialisation are those of ``NAC``. The sign of the inputs is lost.

    Raises:
        ValueError: ``epsilon`` is negative or not finite.
    """

    label = "NAC•"
    aliases = ("NAC*", "NAC_*", "NAC_•", "NAC_mul", "nac_mul")
    neutral = 1.0
    models = {"NACMul": Model(("NAC", "NACMul"), "C0", "o")}
    r_z = False

    def scalar(self, x):
        return power(x, self.weight, self.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return nac_mul(x, self.weight, self.epsilon)
