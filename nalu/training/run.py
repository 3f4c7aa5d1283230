"""A run as a value: everything that decides its result, and what comes out of it.

The specification lives with the engines because they read it; ``nalu.runs`` stores and sweeps.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from typing import ClassVar, Self

import numpy as np
import torch
from torch import nn

from ..fields import as_strength, as_whole
from ..tasks.arithmetic import SimpleMultiplication, StaticFunction
from ..units import NALU, UNITS, unit_named
from . import random
from .authors import AuthorsStream
from .protocol import Draft, Final, protocol_for

LAYERS = {**UNITS, "NALU (separate)": partial(NALU, separate=True)}
STREAMS = ("philox", "authors")
TASKS = {task.__name__: task for task in (StaticFunction, SimpleMultiplication)}
EVALUATION_ROWS = {"draft": 2_048, "final": 10_000}
SHARED_SEED = 0  # of the validation and test sets, which all runs of the final protocol share

_building = threading.Lock()  # units draw from torch's one global generator


@contextmanager
def initialising(seed: int) -> Iterator[None]:
    """Units made inside have initial parameters of ``seed``; torch's generator stays as it is."""
    with _building, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # and no GPU's
        yield


def layer_named(name: str) -> str:
    """The name of a layer as ``Run`` keeps it, from any name its unit has had.

    Raises:
        ValueError: no unit has that name.
    """
    return name if name in LAYERS else unit_named(name).__name__


class Filed:
    """What kinds of run share: a specification, and a name in a store.

    A subclass is a dataclass with ``task``, ``protocol``, ``seed`` and the labels ``experiment``
    and ``model``; it has ``words()`` to find a file by, for sweeps ``steps``, ``labels()`` and
    ``columns()``, and ``unset(changes)``: what stands for the paper's in the fields that those
    which change decide.
    """

    mathematics: ClassVar[int]  # raised when the same specification comes to give another result
    tasks: ClassVar[dict[str, type]]  # that it can have, by name
    keeps_parameters: ClassVar[bool] = False  # whether a store has those a run ends with

    @property
    def protocol_name(self) -> str:
        return type(self.protocol).__name__.lower()

    def but(self, **changes) -> Self:
        """The same run with other fields; what was the paper's for it is the paper's again."""
        decided = {}
        for name, value in self.unset(changes).items():
            paper = getattr(replace(self, **{name: value}), name)
            if name == "model" or getattr(self, name) == paper:
                decided[name] = value
        return replace(self, **{**decided, **changes})

    def specification(self) -> dict:
        """All that decides the result, as JSON has it: ``from_specification`` goes back."""
        fields = asdict(self)
        del fields["experiment"], fields["model"]
        fields["task"] = {"name": type(self.task).__name__, **fields["task"]}
        fields["protocol"] = {"name": self.protocol_name, **fields["protocol"]}
        return json.loads(json.dumps({"mathematics": self.mathematics, **fields}))

    @classmethod
    def from_specification(cls, specification: dict) -> Self:
        """The run that ``specification`` describes, also after a trip through JSON."""
        fields = dict(specification)
        del fields["mathematics"]
        for name, kinds in (("task", cls.tasks), ("protocol", {"draft": Draft, "final": Final})):
            values = dict(fields[name])
            fields[name] = kinds[values.pop("name")](**values)
        return cls(**fields)

    def kind(self, engine: str) -> str:
        """What this run and those with other seeds, from one engine, are filed under."""
        seedless = copy.copy(self)
        object.__setattr__(seedless, "seed", 0)
        return _kind(seedless, engine)

    def key(self, engine: str) -> str:
        """The name of this run's result from one engine, the same on every machine."""
        return f"{self.kind(engine)}-{self.seed}"


@dataclass(frozen=True)
class Run(Filed):
    """One training of one model on one task: same specification, same result.

    Names are made canonical and ``protocol`` may be "draft" or "final", which stands for the
    paper's constants for these layers.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    layers: tuple[str, str]  # the unit that reads the input, and the one that gives the output
    task: StaticFunction | SimpleMultiplication  # what is learned
    protocol: Draft | Final | str = "draft"  # rules of training and scoring
    iterations: int = 5_000_000  # T in [0, 2³²): there are T + 1 updates, t = 0 ... T
    seed: int = 0  # of parameters, offset and samples, in [0, 2³²): torch's has no more bits
    hidden_size: int = 2  # outputs of the first layer, 1 or more
    learning_rate: float = 1e-3  # of Adam, positive
    batch_size: int = 128  # samples a step, 1 or more
    evaluate_every: int = 1_000  # steps from one evaluation to the next, 1 or more
    stream: str = "philox"  # or "authors": the random numbers of the paper's own code
    experiment: str = field(default="", compare=False)  # what it is part of: a label
    model: str = field(default="", compare=False)  # how the paper's tables call the layers

    mathematics: ClassVar[int] = 1
    tasks: ClassVar[dict[str, type]] = TASKS

    def unset(self, changes: Collection[str]) -> dict:
        return {"protocol": self.protocol_name, "model": ""} if "layers" in changes else {}

    def __post_init__(self):
        if isinstance(self.layers, str) or len(self.layers) != 2:
            raise ValueError(f"layers is {self.layers!r}: it must be the names of two units")
        object.__setattr__(self, "layers", tuple(layer_named(name) for name in self.layers))
        if not isinstance(self.task, StaticFunction | SimpleMultiplication):
            raise ValueError(
                f"task is {self.task!r}: it must be a StaticFunction or a SimpleMultiplication"
            )
        for name in ("iterations", "seed", "hidden_size", "batch_size", "evaluate_every"):
            low = 0 if name in ("iterations", "seed") else 1
            whole = as_whole(getattr(self, name), name, low, 2**32 - 1)
            object.__setattr__(self, name, whole)
        rate = as_strength(self.learning_rate, "learning_rate", zero=False)
        object.__setattr__(self, "learning_rate", rate)
        if self.stream not in STREAMS:
            raise ValueError(f"stream is {self.stream!r}: it must be one of {', '.join(STREAMS)}")
        for ranges in (self.task.interpolation, self.task.extrapolation):
            if self.stream == "authors" and len(ranges) > 1:
                raise ValueError(
                    f"stream 'authors' has single ranges, not {ranges}: use stream 'philox'"
                )
        object.__setattr__(self, "protocol", _protocol(self.layers, self.protocol))
        object.__setattr__(self, "model", self.model or "-".join(self.layers))

    @property
    def steps(self) -> int:
        """Updates of a complete run."""
        return self.iterations + 1

    @property
    def evaluation_rows(self) -> int:
        """How many samples a score is the mean of."""
        return EVALUATION_ROWS[self.protocol_name]

    @property
    def evaluations(self) -> int:
        """How many times a complete run is evaluated."""
        return self.iterations // self.evaluate_every + 1

    @property
    def offset(self) -> int:
        """Where the subsets of the task begin in this run."""
        if self.stream == "authors":
            return AuthorsStream(self.task, self.seed).offset
        return random.word(self.seed, random.OFFSET) * self.task.offsets >> 32

    def labels(self) -> dict:
        """The columns of a sweep that say which run a row is about."""
        task = self.task
        return {
            "experiment": self.experiment,
            "protocol": self.protocol_name,
            "model": self.model,
            "operation": task.operation,
            "seed": self.seed,
            "iterations": self.iterations,
            "input_size": task.input_size,
            "subset_ratio": getattr(task, "subset_ratio", np.nan),
            "overlap_ratio": getattr(task, "overlap_ratio", np.nan),
            "hidden_size": self.hidden_size,
            "interpolation": ranges_text(task.interpolation),
            "extrapolation": ranges_text(task.extrapolation),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "stream": self.stream,
        }

    def columns(self) -> list[str]:
        """What the columns of ``Log.table`` are called in learning curves."""
        return ["step", "interpolation_error", "extrapolation_error", "sparsity_error"]

    def words(self) -> list[str]:
        task = self.task
        return [*self.layers, task.operation, str(task.input_size), self.protocol_name]

    def build(self) -> nn.Sequential:
        """The model with its initial parameters, float32 on the CPU.

        Units initialise themselves from torch's generator, here seeded with ``seed``. The
        authors' code initialises everything twice, and the second time counts.
        """
        first, second = (LAYERS[name] for name in self.layers)
        with initialising(self.seed):
            model = nn.Sequential(
                first(self.task.input_size, self.hidden_size), second(self.hidden_size, 1)
            )
            if self.stream == "authors":
                for unit in model:
                    unit.reset_parameters()
        return model


def ranges_text(ranges) -> str:
    """Ranges as the paper writes them: U[1, 2], or U[-6, -2] ∪ U[2, 6]."""
    return " ∪ ".join(f"U[{low:g}, {high:g}]" for low, high in ranges)


@lru_cache
def _kind(run: Filed, engine: str) -> str:
    """Words to find a file by, and a digest of everything but the seed."""
    text = json.dumps({"engine": engine, **run.specification()}, sort_keys=True)
    return "-".join(
        [re.sub(r"\W+", "_", word) for word in (*run.words(), engine)]
        + [hashlib.sha256(text.encode()).hexdigest()[:16]]
    )


@lru_cache
def _protocol(layers: tuple[str, str], protocol: str | Draft | Final) -> Draft | Final:
    with initialising(0):  # units draw when they are made, here only to be looked at
        return protocol_for(nn.Sequential(*(LAYERS[name](1, 1) for name in layers)), protocol)


def least(errors) -> int:
    """Which evaluation has the least error, the first of equal ones; NaN is none."""
    errors = np.asarray(errors, np.float64)
    return int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))


@dataclass
class Log:
    """What a run leaves behind: its evaluations, one row each, and its last parameters."""

    step: np.ndarray  # (evaluations,) int64: updates made before the evaluation
    interpolation: np.ndarray  # (evaluations,) MSE, in the final protocol on the validation set
    extrapolation: np.ndarray  # (evaluations,) MSE, in the final protocol on the test set
    sparsity: np.ndarray  # (evaluations,) max over all matrices of min(|W|, |1 - |W||)
    diverged_at: int | None  # the step whose loss was not finite, which ended the run
    parameters: np.ndarray  # (parameters,) in the order of ``model.parameters()``

    def table(self) -> np.ndarray:
        """(evaluations, 4) float32: the columns above; what exceeds float32 becomes ∞."""
        columns = [self.step, self.interpolation, self.extrapolation, self.sparsity]
        with np.errstate(over="ignore"):
            return np.column_stack(columns).astype("<f4")
