"""NAC•,NMU of the final paper: the multiplication of NAC• with the weights of an NMU.

    W = min(max(Ŵ, 0), 1)
    z_o = exp(Σ_i W_oi log(|x_i| + ε))

Gradients are those of NAC•; regularisers and constraint are those of the NMU.
"""

from __future__ import annotations

from torch import Tensor, nn

from .base import Logarithmic, Model
from .constrained import Constrained
from .nac_mul import nac_mul, power
from .nmu import NMU


class NACMulNMU(Logarithmic, Constrained):
    """NAC•,NMU, (..., in_features) -> (..., out_features), of the final paper (section 3.2).

    Ŵ ~ Uniform(1/4, 3/4). The sign of the inputs is lost. In section 3.1 the authors' code puts
    it after a NAU, where the paper says NAC₊. To train it as in the paper call
    ``nalu.prepare`` on the model and its optimiser.

    Raises:
        ValueError: ``epsilon`` is negative or not finite.
    """

    label = "NAC•,NMU"
    aliases = ("ReRegualizedLinearPosNAC",)
    interval = NMU.interval
    neutral = 1.0
    bias_penalty = staticmethod(NMU.bias_penalty)
    out_of_bounds_penalty = staticmethod(NMU.out_of_bounds_penalty)
    models = {"NACMulNMU": Model(("NAU", "NACMulNMU"), "C9", ">", (0, (1, 1)))}

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.w_hat, 0.25, 0.75)

    def scalar(self, x):
        return power(x, self.weight, self.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return nac_mul(x, self.weight, self.epsilon)

    def read(self, x: Tensor) -> Tensor:
        """The logarithms; their mean is drawn to 1 all the same, although one of 0 is neutral."""
        return (x.abs() + self.epsilon).log()
