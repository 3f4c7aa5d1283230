"""NAC•,σ of the final paper: a NAC• that can multiply but not divide.

    W = σ(Ŵ)
    z_o = exp(Σ_i W_oi log(|x_i| + ε))

Gradients are those of NAC•, with ∂W/∂Ŵ = W (1 - W).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from .base import Logarithmic, Model
from .nac_mul import nac_mul, power
from .scalar import sigmoid


class NACMulSigma(Logarithmic):
    """NAC•,σ, (..., in_features) -> (..., out_features), of the final paper (section 3.2).

    Ŵ ~ Normal with variance 2 / (in_features + out_features), so weights start around 1/2. The
    sign of the inputs is lost.

    Raises:
        ValueError: ``epsilon`` is negative or not finite.
    """

    label = "NAC•,σ"
    aliases = ("PosNAC", "NAC•,sigma")
    neutral = 1.0
    axes = {"w_hat": "oi"}
    models = {"NACMulSigma": Model(("NAC", "NACMulSigma"), "C8", "<", (0, (3, 1, 1, 1)))}

    def reset_parameters(self) -> None:
        nn.init.normal_(self.w_hat, std=math.sqrt(2 / (self.in_features + self.out_features)))

    @property
    def weight(self) -> Tensor:
        return sigmoid(self.w_hat)

    def scalar(self, x):
        return power(x, self.weight, self.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return nac_mul(x, self.weight, self.epsilon)
