"""A run as a value: everything that decides its result, and what comes out of it.

The specification lives with the engines because they read it; ``nalu.runs`` stores and sweeps.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from torch import nn

from ..fields import REQUIRED, Checked, amount, checked, choice, made, whole
from ..tasks.arithmetic import Arithmetic, ranges_text
from ..units import LAYERS, layer_named, unit_of
from . import random
from .authors import AuthorsStream
from .protocol import PROTOCOLS, Optimizer, Protocol, as_optimizer, protocol_for, protocol_named

STREAMS = ("philox", "authors")
SHARED_SEED = 0  # of the validation and test sets, which all runs of the final protocol share

_building = threading.Lock()  # units draw from torch's one global generator


@contextmanager
def initialising(seed: int) -> Iterator[None]:
    """Units made inside have initial parameters of ``seed``; torch's generator stays as it is."""
    with _building, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # and no GPU's
        yield


class BaseRun(Checked):
    """What kinds of run share: a specification, and a name in a store.

    A subclass is a dataclass with ``task``, ``protocol``, ``seed`` and the labels ``experiment``
    and ``model``. It says which tasks it ``learns``, has ``words()`` to find a file by, for sweeps
    ``steps``, and ``columns()`` of its log, and ``unset(changes)``: what stands for the paper's in
    the fields that those which change decide.
    """

    learns: ClassVar[type]  # the tasks it can have are of this class
    mathematics: ClassVar[int]  # raised when the same specification comes to give another result
    keeps_parameters: ClassVar[bool] = False  # whether a store has those a run ends with
    length: ClassVar[str]  # the field that says how long it is trained

    def but(self, **changes) -> Self:
        """The same run with other fields; what was the paper's for it is the paper's again."""
        decided = {}
        for name, value in self.unset(changes).items():
            paper = getattr(replace(self, **{name: value}), name)
            if name == "model" or getattr(self, name) == paper:
                decided[name] = value
        return replace(self, **{**decided, **changes})

    def specification(self) -> dict:
        """All that decides the result, as JSON has it: ``run_of`` goes back."""
        described = self.described()
        del described["name"]
        return {"mathematics": self.mathematics, **described}

    def labels(self) -> dict:
        """The columns of a sweep that say which run a row is about: every field, as a cell has it.

        Those of the protocol and the optimiser have their name before their own.
        """
        first = {
            "experiment": self.experiment,
            "protocol": self.protocol.name,
            "model": self.model,
            "operation": self.task.operation,
            "seed": self.seed,
        }
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("task", "protocol", "optimizer"):
            if (part := own.pop(name, None)) is not None:
                prefix = "" if name == "task" else f"{name}_"
                own |= {prefix + each.name: getattr(part, each.name) for each in fields(part)}
        return first | {name: cell(value) for name, value in own.items() if name not in first}

    def kind(self, engine: str) -> str:
        """What this run and those with other seeds, from one engine, are filed under."""
        seedless = copy.copy(self)
        object.__setattr__(seedless, "seed", 0)
        return _kind(seedless, engine)

    def key(self, engine: str) -> str:
        """The name of this run's result from one engine, the same on every machine."""
        return f"{self.kind(engine)}-{self.seed}"


def run_of(specification: dict) -> BaseRun:
    """The run that a specification describes, also after a trip through JSON."""
    task = made(specification["task"])
    (kind,) = (kind for kind in BaseRun.__subclasses__() if isinstance(task, kind.learns))
    values = {name: value for name, value in specification.items() if name != "mathematics"}
    return made({"name": kind.name, **values})


def cell(value):
    """A field of a run as a cell of a table: ranges as the paper writes them, others as text."""
    if not isinstance(value, tuple):
        return np.nan if value is None else value
    if value and isinstance(value[0], tuple):
        return ranges_text(value)
    return " → ".join(value) if value and isinstance(value[0], str) else ", ".join(map(str, value))


def _as_layers(value, name: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} is {value!r}: it must be the names of one or more units")
    return tuple(layer_named(unit) for unit in value)


@dataclass(frozen=True)
class Run(BaseRun):
    """One training of one model on one task: same specification, same result.

    Names are made canonical, ``protocol`` may be "draft" or "final", which stands for the
    paper's constants for these layers, and ``optimizer`` None for what their papers have.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    layers: tuple[str, ...] = checked(REQUIRED, _as_layers)  # units, from the input to the output
    task: Arithmetic = field()  # what is learned
    protocol: Protocol | str = "draft"  # rules of training and scoring
    iterations: int = whole(5_000_000)  # T in [0, 2³²): there are T + 1 updates, t = 0 ... T
    seed: int = whole(0)  # of parameters, offset and samples, in [0, 2³²): torch's has no more bits
    hidden_size: int = whole(2, 1)  # outputs of every layer but the last, 1 or more
    learning_rate: float = amount(1e-3, zero=False)  # of the optimiser, positive
    batch_size: int = whole(128, 1)  # samples a step, 1 or more
    evaluate_every: int = whole(1_000, 1)  # steps from one evaluation to the next, 1 or more
    stream: str = choice("philox", STREAMS)  # or "authors": the random numbers of their own code
    optimizer: Optimizer | None = checked(None, as_optimizer, silent=Optimizer())  # of steps
    experiment: str = field(default="", compare=False)  # what it is part of: a label
    model: str = field(default="", compare=False)  # how the paper's tables call the layers

    learns: ClassVar[type] = Arithmetic
    mathematics: ClassVar[int] = 1
    length: ClassVar[str] = "iterations"

    def unset(self, changes: Collection[str]) -> dict:
        if "layers" not in changes:
            return {"optimizer": None} if "learning_rate" in changes else {}
        paper = {"protocol": self.protocol.name} if self.protocol.name in PROTOCOLS else {}
        return {**paper, "model": "", "optimizer": None}

    def settle(self) -> None:
        if not isinstance(self.task, Arithmetic):
            tasks = " or a ".join(task.__name__ for task in Arithmetic.__subclasses__())
            raise ValueError(f"task is {self.task!r}: it must be a {tasks}")
        for ranges in (self.task.interpolation, self.task.extrapolation):
            if self.stream == "authors" and len(ranges) > 1:
                raise ValueError(
                    f"stream 'authors' has single ranges, not {ranges}: use stream 'philox'"
                )
        settle = object.__setattr__
        if not isinstance(self.protocol, Protocol):
            protocol_named(self.protocol)
        settle(self, "protocol", _protocol(self.layers, self.protocol))
        units = [unit_of(name) for name in self.layers]
        if self.optimizer is None:
            settle(self, "optimizer", Optimizer.of(units, self.learning_rate))
        if set(self.optimizer.rates or ()) == {self.learning_rate}:
            settle(self, "optimizer", replace(self.optimizer, rates=None))
        if self.optimizer.rates and len(self.optimizer.rates) != len(units):
            raise ValueError(
                f"rates is {self.optimizer.rates}: it must have one for each of {len(units)} layers"
            )
        settle(self, "model", self.model or cell(self.layers))

    @property
    def steps(self) -> int:
        """Updates of a complete run."""
        return self.iterations + 1

    @property
    def evaluations(self) -> int:
        """How many times a complete run is evaluated."""
        return self.iterations // self.evaluate_every + 1

    @property
    def sizes(self) -> list[int]:
        """How many numbers go into each layer, and at last how many come out."""
        return [self.task.input_size, *[self.hidden_size] * (len(self.layers) - 1), 1]

    @property
    def offset(self) -> int:
        """Where the subsets of the task begin in this run."""
        if self.stream == "authors":
            return AuthorsStream(self.task, self.seed).offset
        return random.word(self.seed, random.OFFSET) * self.task.offsets >> 32

    def labels(self) -> dict:
        labels = super().labels()
        layers = labels.pop("layers")
        task = {"input_size": self.task.input_size, "task": self.task.name}
        return labels | task | {"layers": layers}

    def columns(self) -> list[str]:
        """What the columns of its log are called, in learning curves as well."""
        return ["step", "interpolation_error", "extrapolation_error", "sparsity_error"]

    def words(self) -> list[str]:
        task = self.task
        return [*self.layers, task.operation, str(task.input_size), self.protocol.name]

    def build(self, draw: int = 0) -> nn.Sequential:
        """The model with its initial parameters, float32 on the CPU.

        Units initialise themselves from torch's generator, here seeded with ``seed``, or for the
        ``draw`` with which a run begins anew with a word of its stream. The authors' code
        initialises everything twice, and the second time counts.
        """
        sizes = self.sizes
        seed = random.word(self.seed, random.RESTART, draw) if draw else self.seed
        with initialising(seed):
            layers = zip(self.layers, sizes[:-1], sizes[1:], strict=True)
            model = nn.Sequential(*(LAYERS[name](i, o) for name, i, o in layers))
            if self.stream == "authors":
                for unit in model:
                    unit.reset_parameters()
        return model


@lru_cache
def _kind(run: BaseRun, engine: str) -> str:
    """Words to find a file by, and a digest of everything but the seed."""
    text = json.dumps({"engine": engine, **run.specification()}, sort_keys=True)
    return "-".join(
        [re.sub(r"\W+", "_", word) for word in (*run.words(), engine)]
        + [hashlib.sha256(text.encode()).hexdigest()[:16]]
    )


@lru_cache
def _protocol(layers: tuple[str, ...], protocol: str | Protocol) -> Protocol:
    with initialising(0):  # units draw when they are made, here only to be looked at
        return protocol_for(nn.Sequential(*(LAYERS[name](1, 1) for name in layers)), protocol)


def least(errors) -> int:
    """Which evaluation has the least error, the first of equal ones; NaN is none."""
    errors = np.asarray(errors, np.float64)
    return int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))


@dataclass
class Log:
    """What a run leaves behind: its evaluations, a row each, and its last parameters.

    Errors are mean squared errors; those in the training range are of the validation set where
    the protocol has one, and those outside of it of the test set. ``log["step"]`` is a column.
    """

    columns: list[str]  # their names: of ``run.columns()``, the first is "step"
    rows: np.ndarray  # (evaluations, columns) float64
    diverged_at: int | None  # the step, from 0 on, whose loss was not finite, which ended the run
    parameters: np.ndarray  # (parameters,) in the order of ``model.parameters()``
    earlier: float = field(default=0.0, compare=False)  # seconds before it was last resumed
    # what was said of the computers and the code that trained it, joined by " then "
    provenance: dict[str, str] = field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.rows[:, self.columns.index(name)]

    def table(self) -> np.ndarray:
        """(evaluations, columns) float32; what exceeds float32 becomes ∞."""
        with np.errstate(over="ignore"):
            return self.rows.astype("<f4")
