"""NALU, which chooses between addition and multiplication: section 2.

a = NAC₊(x),  m = NAC•(x),  g = σ(G x)
z = g ⊙ a + (1 - g) ⊙ m
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import EPSILON, Logarithmic, Model, matching
from .nac import NAC
from .nac_mul import nac_mul, power
from .scalar import sigmoid, total


class NALU(Logarithmic):
    """The NALU (Trask et al., 2018), (..., in_features) -> (..., out_features), section 2.

    Addition and multiplication share one W, or have one each with ``separate=True``; then
    ``weight`` stacks the two, addition first, to (2, out_features, in_features). The gate
    has no bias and G ~ Uniform(-b, b) with b² = 6 / (in_features + out_features).

    Raises:
        ValueError: ``epsilon`` is negative or not finite.
    """

    label = "NALU"
    aliases = ("nalu",)
    variants = {"NALU (separate)": {"separate": True}}
    models = {
        "NALU": Model(("NALU", "NALU"), "C1", "s", "--"),  # the next two in the final paper's
        "NALU (shared)": Model(("NAC", "NALU"), "C3", "s", "--"),  # experiment with gates
        "NALU (separate)": Model(("NAC", "NALU (separate)"), "C6", "s", ":"),
    }

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        separate: bool = False,
        epsilon: float = EPSILON,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, epsilon=epsilon)
        self.separate = separate
        for name in ("add", "mul") if separate else ("shared",):  # each holds one W
            self.add_module(name, NAC(in_features, out_features, device=device, dtype=dtype))
        gate = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.gate_weight = nn.Parameter(gate)
        nn.init.xavier_uniform_(self.gate_weight)

    def reset_parameters(self) -> None:
        for unit in self.children():
            unit.reset_parameters()
        nn.init.xavier_uniform_(self.gate_weight)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        return (self.add.weight, self.mul.weight) if self.separate else (self.shared.weight,)

    @property
    def weight(self) -> Tensor:
        return torch.stack(self.matrices) if self.separate else self.shared.weight

    def gate(self, x: Tensor) -> Tensor:
        """g = σ(G x), the share of addition: (..., in_features) -> (..., out_features)."""
        return torch.sigmoid(F.linear(matching(x, self.gate_weight), self.gate_weight))

    def scalar(self, x):
        add, mul = self.matrices[0], self.matrices[-1]
        g = sigmoid(total(self.gate_weight * x))
        return g * total(add * x) + (1 - g) * power(x, mul, self.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        g = self.gate(x)
        add, mul = self.weight if self.separate else (self.shared.weight,) * 2
        return g * F.linear(x, add) + (1 - g) * nac_mul(x, mul, self.epsilon)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, separate={self.separate}"
