"""The baselines without arithmetic bias: y = φ(W x + b).

φ is the identity in ``Linear``, max(0, ·) in ``ReLU`` and min(max(0, ·), 6) in ``ReLU6``.
In the paper's baseline models the last layer is always ``Linear``.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model, Unit, matching
from .scalar import total


class Linear(Unit):
    """Affine layer, (..., in_features) -> (..., out_features).

    W ~ Uniform(-b, b) with b² = 6 / (in_features + out_features) (Glorot), bias 0, as in the
    paper's experiments. ``torch.nn.Linear`` is the same layer with another initialisation.
    """

    label = "Linear"
    aliases = ("linear",)
    axes = {"weight": "oi", "bias": "o"}
    models = {"Linear": Model(("Linear", "Linear"), "C4", "D", ":")}

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def scalar(self, x):
        return total(self.weight * x) + self.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(matching(x, self.weight), self.weight, self.bias)


class ReLU(Linear):
    """Affine layer and rectifier; W ~ Uniform(-b, b) with b² = 6 / in_features (He), bias 0."""

    label = "ReLU"
    aliases = ("relu",)
    models = {"ReLU": Model(("ReLU", "Linear"), "C5", "p", ":")}

    def reset_parameters(self) -> None:
        bound = math.sqrt(6 / self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def scalar(self, x):
        return super().scalar(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class ReLU6(ReLU):
    """Affine layer and rectifier cut off at 6, initialised as ``ReLU``."""

    label = "ReLU6"
    aliases = ("relu6",)
    models = {"ReLU6": Model(("ReLU6", "Linear"), "C6", "h", ":")}

    def scalar(self, x):
        return super().scalar(x).clamp(max=6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=6)
