"""Units in recurrent use, section 3.2: one unit runs over a sequence and carries a state.

    s_t = unit([x_t, s_{t-1}])

and what the paper compares them with: an LSTM, and the accumulator that knows the operation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Unit, matching
from .scalar import product


class Recurrent(nn.Module):
    """A unit over a sequence: (..., time, features) -> (..., time, out_features).

    The unit reads [x_t, s_{t-1}], features first, and its output is s_t. A unit that takes
    logarithms takes them of the absolute values of both, plus ε, as in the authors' code.

    Args:
        unit: with in_features = features + out_features.
        initial: every element of s_0; ``unit.neutral`` if None, as in the final paper: 1 for
            NAC•, its variants and NMU, 0 for all others, so that a NALU starts a product at 0.
        trained: whether s_0 is a parameter that starts there (the draft, from 0).

    Raises:
        ValueError: the unit has no input left beside its state, or ``initial`` is not finite.
    """

    initial: Tensor

    def __init__(self, unit: Unit, initial: float | None = None, trained: bool = False):
        super().__init__()
        if unit.in_features <= unit.out_features:
            raise ValueError(
                f"{unit} has {unit.in_features} inputs and a state of {unit.out_features}: in "
                "recurrent use it needs more inputs than outputs"
            )
        initial = unit.neutral if initial is None else initial
        if not math.isfinite(initial):
            raise ValueError(f"initial is {initial!r}: it must be a finite number")
        self.unit = unit
        some = next(unit.parameters(), torch.zeros(()))
        state = some.new_full((unit.out_features,), initial, requires_grad=False)
        if trained:
            self.initial = nn.Parameter(state)
        else:
            self.register_buffer("initial", state)

    def forward(self, x: Tensor) -> Tensor:
        """All states after s_0."""
        state = self.initial.to(x.dtype).expand(*x.shape[:-2], -1)
        states = []
        for x_t in x.unbind(-2):
            state = self.unit(torch.cat([x_t, state], -1))
            states.append(state)
        return torch.stack(states, -2)

    def inputs(self, x: Tensor, states: Tensor) -> Tensor:
        """What the unit read on the way from x to these states: (..., time, in_features)."""
        first = self.initial.to(x.dtype).expand(*x.shape[:-2], 1, -1)
        return torch.cat([x, torch.cat([first, states[..., :-1, :]], -2)], -1)


class Exact(Unit):
    """The accumulator that knows the operation: (..., 2) -> (..., 1), nothing to train.

    In recurrent use only what reads the digits is learned. Runs of it give the threshold of
    success (final paper).

    Raises:
        ValueError: ``operation`` is neither "sum" nor "product".
    """

    def __init__(self, operation: str):
        super().__init__(2, 1)
        if operation not in ("sum", "product"):
            raise ValueError(f"operation is {operation!r}: it must be 'sum' or 'product'")
        self.operation = operation
        self.neutral = 0.0 if operation == "sum" else 1.0
        self.register_buffer("weight", torch.ones(1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = matching(x, self.weight)
        return (x.sum(-1) if self.operation == "sum" else product(x))[..., None]


class LSTM(nn.Module):
    """Long short-term memory over a sequence: (..., time, in_features) -> (..., time, 1).

        i, f, o = σ(W x_t + U h_{t-1} + b), each with its own W, U and b
        c_t = f c_{t-1} + i tanh(W x_t + U h_{t-1} + b),  h_t = o tanh(c_t)

    The paper's has ``hidden_size`` 1 and h_t is its output, so it cannot leave (-1, 1): it fails
    by construction on digits. With ``read_out`` a linear layer of h_t is the output.
    Parameters have the names and initial values of ``torch.nn.LSTMCell`` (which ``torch.vmap``
    cannot run on a GPU), and h_0 = c_0 = 0. Source: the baseline of section 3.2 in the final paper.

    Raises:
        ValueError: ``hidden_size`` is not 1 and there is no ``read_out``.
    """

    def __init__(self, in_features: int, hidden_size: int = 1, read_out: bool = False):
        super().__init__()
        if hidden_size != 1 and not read_out:
            raise ValueError(f"hidden_size is {hidden_size!r}: without read_out it must be 1")
        cell = nn.LSTMCell(in_features, hidden_size)  # for its initial values
        for name, parameter in cell.named_parameters():
            self.register_parameter(name, parameter)
        self.read_out = nn.Linear(hidden_size, 1) if read_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias_ih + self.bias_hh
        h = c = x.new_zeros(*x.shape[:-2], self.weight_hh.shape[-1])
        outputs = []
        for from_x in F.linear(x, self.weight_ih, bias).unbind(-2):
            i, f, g, o = (from_x + F.linear(h, self.weight_hh)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return self.read_out(torch.stack(outputs, -2))
