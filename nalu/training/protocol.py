"""The rules of training: what each version of the paper adds to the loss and how it keeps
weights in their intervals.

A layer alone is not the paper's unit: without its regulariser and constraint a NAU or NMU is
a lookalike. ``prepare`` ties both to the model and its optimiser, and an optimiser step after a
``backward`` that the regulariser was not part of is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..fields import as_strength, as_whole
from ..units import NAC, NAU, NMU, Constrained, NACMulNMU, Unit


@dataclass(frozen=True)
class Draft:
    """The draft of May 2019: weights are clipped in the forward pass only.

    At step t the loss gains, for every constrained unit,

        strength (1 - exp(-rate t)) R_bias + R_oob

    with R_bias and R_oob of the unclipped Ŵ (eq. 3 and 5).

    Raises:
        ValueError: a constant is negative or not finite.
    """

    strength: float = 0.1  # what the factor of R_bias comes to, 0 or more
    rate: float = 1e-5  # how fast, per step, 0 or more

    def __post_init__(self):
        for name in ("strength", "rate"):
            object.__setattr__(self, name, as_strength(getattr(self, name), name))

    def sparsity_strength(self, step: int) -> float:
        """The factor of R_bias at a step, counted from 0."""
        return self.strength * (1 - math.exp(-self.rate * step))

    def penalty(self, unit: Constrained, step: int) -> Tensor:
        """What one unit adds to the loss at a step: a scalar."""
        bias = unit.bias_penalty(unit.w_hat).mean()
        return self.sparsity_strength(step) * bias + unit.out_of_bounds_penalty(unit.w_hat).mean()

    def constrain(self, unit: Constrained) -> None:
        """Nothing: the forward pass clips, and R_oob brings Ŵ back."""


@dataclass(frozen=True)
class Final:
    """The ICLR 2020 paper: weights are projected into their interval after every step.

    At step t the loss gains strength · min(max((t - start) / (end - start), 0), 1) R_sparse
    for every constrained unit.

    Raises:
        ValueError: ``strength`` is negative or not finite; the ends are not whole numbers, 0 or
            more, or ``end`` is not after ``start``.
    """

    strength: float  # the factor of R_sparse from ``end`` on, 0 or more
    start: int  # the last step without it, 0 or more
    end: int  # the first step with all of it, after ``start``

    def __post_init__(self):
        object.__setattr__(self, "strength", as_strength(self.strength, "strength"))
        for name in ("start", "end"):
            whole = as_whole(getattr(self, name), name, 0, 2**32 - 1)
            object.__setattr__(self, name, whole)
        if not self.start < self.end:
            raise ValueError(f"the ramp ends at {self.end}, which must be after {self.start}")

    def sparsity_strength(self, step: int) -> float:
        """The factor of R_sparse at a step, counted from 0."""
        ramp = (step - self.start) / (self.end - self.start)
        return self.strength * min(max(ramp, 0.0), 1.0)

    def penalty(self, unit: Constrained, step: int) -> Tensor:
        """What one unit adds to the loss at a step: a scalar."""
        return self.sparsity_strength(step) * unit.sparsity_penalty(unit.weight).mean()

    def constrain(self, unit: Constrained) -> None:
        """Project, as must happen after every step."""
        unit.project_()


# The final paper's constants differ by model: one that multiplies, or not. They are for runs
# of millions of steps, and do nothing before ``start``.
FINAL_MULTIPLICATION = Final(strength=10.0, start=1_000_000, end=2_000_000)
FINAL_ADDITION = Final(strength=0.01, start=5_000, end=50_000)
FINAL_SEQUENCE = Final(strength=10.0, start=10_000, end=100_000)  # all models of section 3.2


WITH_R_Z = (NAC, NAU, NMU, NACMulNMU)  # the units that R_z is defined for


def constrained_units(model: nn.Module) -> Iterator[Constrained]:
    """The units of a model that have a constraint, in its own order."""
    return (module for module in model.modules() if isinstance(module, Constrained))


def protocol_for(model: nn.Module, protocol: str | Draft | Final) -> Draft | Final:
    """``protocol`` itself, or the one of that name with the paper's constants for this model.

    Raises:
        ValueError: a name other than "draft" and "final".
    """
    if isinstance(protocol, Draft | Final):
        return protocol
    if protocol == "draft":
        return Draft()
    if protocol == "final":
        multiplies = any(unit.neutral for unit in constrained_units(model))
        return FINAL_MULTIPLICATION if multiplies else FINAL_ADDITION
    raise ValueError(
        f"no protocol is named {protocol!r}: use 'draft', 'final', or a Draft or Final of your own"
    )


def input_penalty(unit: Unit, inputs: Tensor) -> Tensor:
    """R_z of the final paper (section 3.2), of what a unit read: (..., in_features) -> scalar.

        R_z = mean (1 - |W_oi|) (z̄_i - e)²,  e = 0 for NAC₊ and NAU, 1 for NMU and NAC•,NMU

    where z̄_i is the mean of input i over everything else, in recurrent use over the batch and
    time. An input that the unit does not pass on (W = 0) could have any value as far as the
    error goes; this draws its mean to e, which adds or multiplies nothing. The gradient goes
    to the weights and through z̄ to what gave the inputs, as in the authors' code.

    There, and so here, what NAC•,NMU reads are the logarithms, whose mean is drawn to 1 as well,
    although a logarithm that changes nothing is 0.

    Raises:
        ValueError: R_z is not defined for the unit.
    """
    if type(unit) not in WITH_R_Z:
        names = ", ".join(known.__name__ for known in WITH_R_Z)
        raise ValueError(f"R_z is defined for {names}, not for {unit}: leave it out")
    if isinstance(unit, NACMulNMU):
        inputs = (inputs.abs() + unit.epsilon).log()
    mean = inputs.flatten(0, -2).mean(0)
    return ((1 - unit.weight.abs()) * (mean - unit.neutral) ** 2).mean()


class Regulariser:
    """What ``prepare`` returns: ``regulariser(step)`` is the term of the loss at a step."""

    def __init__(self, model: nn.Module, protocol: Draft | Final):
        self.protocol = protocol
        self.units = list(constrained_units(model))
        self.arrived = False  # whether a gradient has come through since the last step
        some = next(model.parameters(), torch.zeros(()))
        self.zero = torch.zeros((), dtype=some.dtype, device=some.device)

    def __call__(self, step: int) -> Tensor:
        """The sum over units, a scalar; step counts optimiser steps from 0.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step is {step}: it counts optimiser steps, from 0")
        penalties = (self.protocol.penalty(unit, step) for unit in self.units)
        term = sum(penalties, self.zero.clone())
        if term.requires_grad:
            term.register_hook(self._arrive)
        return term

    def _arrive(self, gradient: Tensor) -> None:
        self.arrived = True

    def after_step(self, optimizer, args, kwargs) -> None:
        """Hook of the optimiser: constrain the units, and see that nothing was forgotten."""
        for unit in self.units:
            self.protocol.constrain(unit)
        trained = any(unit.w_hat.requires_grad for unit in self.units)
        if trained and not self.arrived:
            raise RuntimeError(
                "this step had no regulariser in its loss, so the units are not the paper's: "
                "add regulariser(step) to the loss before backward()"
            )
        self.arrived = False


_prepared: WeakSet[torch.optim.Optimizer] = WeakSet()


def prepare(
    model: nn.Module, optimizer: torch.optim.Optimizer, protocol: str | Draft | Final = "final"
) -> Regulariser:
    """Train the constrained units of ``model`` by the rules of the paper (section 3).

    After each ``optimizer.step()`` the constraint of the protocol is applied. Add what the
    returned regulariser gives for a step to the loss of that step. A copy of the optimiser, as
    by ``copy.deepcopy``, is not prepared. ::

        regulariser = nalu.prepare(model, optimizer)
        loss = mse_loss(model(x), target) + regulariser(step)

    Args:
        model: any module; its constrained units (NAU, NMU, NAC•,NMU) are found, however deep.
        optimizer: the one that trains them.
        protocol: "draft", "final", or a ``Draft`` or ``Final`` with constants of your own. The
            constants of the final paper are for long training: sparsity is asked for from step
            1,000,000 on (a model with an NMU or NAC•,NMU) or 5,000 (NAU only).

    Raises:
        ValueError: no such protocol, an optimiser that is prepared already, or one that does
            not train every constrained unit.
    """
    regulariser = Regulariser(model, protocol_for(model, protocol))
    if optimizer in _prepared:
        raise ValueError("this optimiser is prepared already: make a new one")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, unit in model.named_modules():
        wanted = isinstance(unit, Constrained) and unit.w_hat.requires_grad
        if wanted and id(unit.w_hat) not in trained:
            raise ValueError(
                f"the optimiser does not train {name or 'the model'} ({unit}): give it "
                "model.parameters() of this same model"
            )
    optimizer.register_step_post_hook(regulariser.after_step)
    _prepared.add(optimizer)
    return regulariser
