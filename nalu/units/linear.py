"""The baselines without arithmetic bias: y = φ(W x + b).

φ is the identity in ``Linear``, max(0, ·) in ``ReLU`` and min(max(0, ·), 6) in ``ReLU6``.
In the paper's baseline models the last layer is always ``Linear``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Unit, empty_matrix, matching
from .scalar import total


class Linear(Unit):
    """Affine layer, (..., in_features) -> (..., out_features).

    W ~ Uniform(-b, b) with b² = 6 / (in_features + out_features) (Glorot), bias 0, as in the
    paper's experiments. ``torch.nn.Linear`` is the same layer with another initialisation.
    """

    label = "Linear"
    aliases = ("linear",)

    def __init__(self, in_features: int, out_features: int, *, device=None, dtype=None):
        super().__init__(in_features, out_features)
        self.weight = empty_matrix(self, device, dtype)
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

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

    def scalar(self, x):
        return super().scalar(x).clamp(max=6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=6)
