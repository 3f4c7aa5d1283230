"""The rules of a run: what each version of the paper adds to the loss, how it keeps weights in
their intervals, on which samples it evaluates a model and which error counts; and the optimiser.

A layer alone is not the paper's unit: without its regulariser and constraint a NAU or NMU is
a lookalike. ``prepare`` ties both to the model and its optimiser, and an optimiser step after a
``backward`` that the regulariser was not part of is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from ..fields import REQUIRED, Checked, amount, as_amount, checked, choice, whole
from ..units import UNITS, Constrained, Unit


class Protocol(Checked):
    """The rules of training and scoring of one version of the paper.

    A subclass says what follows, and has the paper's constants for a model in ``of``.
    """

    rows: ClassVar[int]  # samples of an evaluation
    fixed: ClassVar[bool]  # whether all runs are evaluated on the same ones, or each on new ones
    selects: ClassVar[bool]  # the evaluation with the least validation error counts, or the last
    epsilon: ClassVar[float | None]  # of the threshold; None for 0.2
    projects: ClassVar[bool]  # whether parameters are kept in their interval after every step
    # Of sequential MNIST: fields of a run, and whether steps are counted in epochs.
    sequences: ClassVar[dict]
    in_epochs: ClassVar[bool]

    @classmethod
    def of(cls, units: Iterable[Unit]) -> Protocol:
        """The rules with the paper's constants for a model of section 3.1 with these units."""
        raise NotImplementedError

    @classmethod
    def of_sequences(cls) -> Protocol:
        """The rules with the paper's constants for all models of section 3.2."""
        raise NotImplementedError

    def sparsity_strength(self, step):
        """The factor of the sparsity regulariser at steps counted from 0, a number or an array."""
        raise NotImplementedError

    def penalty(self, unit: Constrained, step: int) -> Tensor:
        """What one unit adds to the loss at a step: a scalar."""
        raise NotImplementedError

    def constrain(self, unit: Constrained) -> None:
        """What is done to a unit after every step, elementwise: parameters may be those of runs."""
        if self.projects:
            unit.project_()


@dataclass(frozen=True)
class Draft(Protocol):
    """The draft of May 2019: weights are clipped in the forward pass only.

    At step t the loss gains, for every constrained unit,

        strength (1 - exp(-rate t)) R_bias + R_oob

    with R_bias and R_oob of the unclipped Ŵ (eq. 3 and 5), which bring it back into its interval.

    Raises:
        ValueError: a constant is negative or not finite.
    """

    strength: float = amount(0.1)  # what the factor of R_bias comes to, 0 or more
    rate: float = amount(1e-5)  # how fast, per step, 0 or more

    name: ClassVar[str] = "draft"
    rows, fixed, selects, epsilon, projects = 2_048, False, False, None, False
    sequences = {"cnn_outputs": 10, "trained_state": True, "evaluate_every": 10}
    in_epochs = True

    @classmethod
    def of(cls, units: Iterable[Unit]) -> Draft:
        return cls()

    @classmethod
    def of_sequences(cls) -> Draft:
        return cls()

    def sparsity_strength(self, step):
        return self.strength * (1 - np.exp(-self.rate * step))

    def penalty(self, unit: Constrained, step: int) -> Tensor:
        bias = unit.bias_penalty(unit.w_hat).mean()
        strength = float(self.sparsity_strength(step))
        return strength * bias + unit.out_of_bounds_penalty(unit.w_hat).mean()


@dataclass(frozen=True)
class Final(Protocol):
    """The ICLR 2020 paper: weights are projected into their interval after every step.

    At step t the loss gains strength · min(max((t - start) / (end - start), 0), 1) R_sparse
    for every constrained unit.

    Raises:
        ValueError: ``strength`` is negative or not finite; the ends are not whole numbers, 0 or
            more, or ``end`` is not after ``start``.
    """

    strength: float = amount(REQUIRED)  # the factor of R_sparse from ``end`` on, 0 or more
    start: int = whole(REQUIRED)  # the last step without it, 0 or more
    end: int = whole(REQUIRED)  # the first step with all of it, after ``start``

    name: ClassVar[str] = "final"
    rows, fixed, selects, epsilon, projects = 10_000, True, True, 1e-5, True
    sequences = {"cnn_outputs": 1, "trained_state": False, "evaluate_every": 5}
    in_epochs = False

    def settle(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"the ramp ends at {self.end}, which must be after {self.start}")

    @classmethod
    def of(cls, units: Iterable[Unit]) -> Final:
        constrained = [unit for unit in units if isinstance(unit, Constrained)]
        multiplies = any(unit.neutral for unit in constrained)
        return FINAL_MULTIPLICATION if multiplies else FINAL_ADDITION

    @classmethod
    def of_sequences(cls) -> Final:
        return FINAL_SEQUENCE

    def sparsity_strength(self, step):
        return self.strength * np.clip((step - self.start) / (self.end - self.start), 0.0, 1.0)

    def penalty(self, unit: Constrained, step: int) -> Tensor:
        return float(self.sparsity_strength(step)) * unit.sparsity_penalty(unit.weight).mean()


PROTOCOLS = {rules.name: rules for rules in (Draft, Final)}

# The final paper's constants differ by model: one that multiplies, or not. They are for runs
# of millions of steps, and do nothing before ``start``.
FINAL_MULTIPLICATION = Final(strength=10.0, start=1_000_000, end=2_000_000)
FINAL_ADDITION = Final(strength=0.01, start=5_000, end=50_000)
FINAL_SEQUENCE = Final(strength=10.0, start=10_000, end=100_000)  # all models of section 3.2


# With the constants of the frameworks in which later units were trained.
OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "RMSprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-10),
    "SGD": torch.optim.SGD,
}


def _as_rates(value, name: str) -> tuple[float, ...]:
    rates = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(as_amount(rate, name, zero=False) for rate in rates)


@dataclass(frozen=True)
class Optimizer(Checked):
    """How a run makes steps of its gradients: by Adam, unless a later unit's paper has another.

    A run that begins anew does so with other initial parameters and the moments of a first step
    (iNALU, Schlör, Ring and Hotho, 2020), if of its errors since it began, one for each step, more
    than ``patience`` are known, the second half has a mean above 1, and the first a mean that is
    not above it by more than a standard deviation of the second.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    rule: str = choice("Adam", OPTIMIZERS)  # with the constants above
    rates: tuple[float, ...] | None = checked(None, _as_rates)  # of each layer; None for the run's
    clip_value: float | None = amount(None, zero=False)  # what no entry of a gradient exceeds
    clip_norm: float | None = amount(None, zero=False)  # what the norm of a run's whole one doesn't
    restart_every: int | None = whole(None, 1)  # steps between tests whether to begin anew
    patience: int | None = whole(None, 1)  # 5,000 unless told otherwise, if there are tests

    def settle(self) -> None:
        patience = self.restart_every and (self.patience or 5_000)
        object.__setattr__(self, "patience", patience)

    @classmethod
    def of(cls, units: Sequence[type[Unit]], rate: float) -> Optimizer:
        """What the papers of a model's units have; ``rate`` is the learning rate of the others.

        Raises:
            ValueError: two units differ in more than the rate.
        """
        needs = [dict(unit.optimizer) for unit in units]
        rates = tuple(need.pop("rate", rate) for need in needs)
        merged = {name: value for need in needs for name, value in need.items()}
        if any(need[name] != merged[name] for need in needs for name in need):
            names = ", ".join(unit.__name__ for unit in units)
            raise ValueError(f"{names} are trained by different rules: name an optimizer")
        return cls(rates=None if set(rates) <= {rate} else rates, **merged)

    def made(self, layers: Sequence[Sequence[Tensor]], rate: float, **options):
        """The optimiser of PyTorch for the parameters of each layer; ``options`` are its own."""
        rates = self.rates or (rate,)
        if self.rates is None:
            layers = [[parameter for layer in layers for parameter in layer]]
        groups = [{"params": p, "lr": lr} for p, lr in zip(layers, rates, strict=True)]
        return OPTIMIZERS[self.rule](groups, lr=rate, **options)

    @torch.no_grad()
    def clip(self, parameters: Sequence[Tensor]) -> None:
        """Clip the gradients of stacked parameters, (runs, ...), of each run by itself."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.clip_value is not None:
            for gradient in gradients:
                gradient.clamp_(-self.clip_value, self.clip_value)
        if self.clip_norm is not None:
            squares = torch.stack([g.square().flatten(1).sum(1) for g in gradients])
            factor = (self.clip_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))

    def starts_anew(self, errors: Sequence[float]) -> bool:
        """Whether the errors of the steps since a run began say that it should begin again."""
        if len(errors) <= self.patience:
            return False
        first, second = np.array_split(np.asarray(errors), 2)
        return bool(second.mean() > 1 and first.mean() <= second.mean() + second.std())


def as_optimizer(value, name: str) -> Optimizer:
    """The value, if it is an optimiser.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, Optimizer):
        raise ValueError(f"{name} is {value!r}: it must be an Optimizer")
    return value


def constrained_units(model: nn.Module) -> Iterator[Constrained]:
    """The units of a model that have a constraint, in its own order."""
    return (module for module in model.modules() if isinstance(module, Constrained))


def protocol_named(name: str) -> type[Protocol]:
    """The rules of that version of the paper.

    Raises:
        ValueError: there is no such version.
    """
    if not isinstance(name, str) or name not in PROTOCOLS:
        kinds = " or ".join(rules.__name__ for rules in PROTOCOLS.values())
        raise ValueError(
            f"no protocol is named {name!r}: use {', '.join(map(repr, PROTOCOLS))}, or a {kinds} "
            "of your own"
        )
    return PROTOCOLS[name]


def protocol_for(model: nn.Module, protocol: str | Protocol) -> Protocol:
    """``protocol`` itself, or the one of that name with the paper's constants for this model.

    Raises:
        ValueError: there is no such version.
    """
    if isinstance(protocol, Protocol):
        return protocol
    return protocol_named(protocol).of(m for m in model.modules() if isinstance(m, Unit))


def with_r_z() -> str:
    """The units that R_z is defined for, in words."""
    return ", ".join(name for name, unit in UNITS.items() if unit.r_z)


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
    if not unit.r_z:
        raise ValueError(f"R_z is defined for {with_r_z()}, not for {unit}: leave it out")
    mean = unit.read(inputs).flatten(0, -2).mean(0)
    return ((1 - unit.weight.abs()) * (mean - unit.neutral) ** 2).mean()


class Regulariser:
    """What ``prepare`` returns: ``regulariser(step)`` is the term of the loss at a step."""

    def __init__(self, model: nn.Module, protocol: Protocol):
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
    model: nn.Module, optimizer: torch.optim.Optimizer, protocol: str | Protocol = "final"
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
