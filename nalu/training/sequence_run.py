"""A run of sequential MNIST as a value (section 3.2): its specification, its model, its log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import as_strength, as_whole
from ..tasks import mnist
from ..tasks.mnist import SequentialMNIST
from ..units import LSTM, Exact, Recurrent
from .protocol import FINAL_SEQUENCE, WITH_R_Z, Draft, Final
from .run import LAYERS, Filed, initialising, layer_named

# Accumulators beside the units. The paper's LSTM has one output and nothing after it, which
# cannot leave (-1, 1). The fair one has a read-out and a hidden size that is not tuned, but so
# large that it is no excuse, at a hundredth of the CNN's parameters.
LSTMS = {"LSTM": {}, "LSTM (read-out)": {"hidden_size": 32, "read_out": True}}
EXACT = "exact"  # knows the operation: only the CNN is learned

PROTOCOLS = {"draft": Draft(), "final": FINAL_SEQUENCE}


class Reader(nn.Module):
    """The CNN that reads a digit: normalised images (n, 28, 28) -> (n, outputs).

    Two convolutions, each with a rectifier and pooling, and two linear layers, initialised as
    PyTorch does it. One output is a regression of the digit.
    """

    def __init__(self, outputs: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.hidden = nn.Linear(800, 500)
        self.output = nn.Linear(500, outputs)

    def forward(self, images: Tensor) -> Tensor:
        # Channels come last in memory, here and so in all that follows: 1.6 times as fast on a
        # CPU. The pool comes before the rectifier, which then has a quarter of the numbers; the
        # result is the same.
        x = images.unsqueeze(-1).movedim(-1, 1)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.output(F.relu(self.hidden(x.flatten(1))))


class SequenceModel(nn.Module):
    """A reader and an accumulator: images (rows, time, 28, 28) -> the states (rows, time, 1).

    Also returned, and first, is what was read: (rows, time, outputs).
    """

    def __init__(self, reader: Reader, accumulator: Recurrent | LSTM):
        super().__init__()
        self.reader = reader
        self.accumulator = accumulator

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.reader(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return values, self.accumulator(values)


@dataclass(frozen=True)
class SequenceRun(Filed):
    """One training of one model on sequential MNIST: same specification, same result.

    Names are made canonical. ``protocol`` may be "draft" or "final", and stands then for the
    paper's constants; fields that are None become what that version of the paper has.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    unit: str  # that accumulates: a unit, "LSTM", "LSTM (read-out)" or "exact"
    task: SequentialMNIST  # what is learned
    protocol: Draft | Final | str = "final"  # rules of training; the draft counts t in epochs
    epochs: int = 1_000  # in [0, 10⁶]; an epoch reads every training sequence once
    seed: int = 0  # of parameters, sequences and their order, in [0, 2³²)
    z_strength: float = 0.0  # of R_z, 0 or more; 1 in the final paper where R_z is on
    cnn_outputs: int | None = None  # numbers read from an image, 1 or more; draft 10, final 1
    trained_state: bool | None = None  # whether s₀ is trained, from 0: draft yes, final no
    learning_rate: float = 1e-3  # of Adam, positive
    batch_size: int = 64  # sequences a step, 1 or more
    evaluate_every: int | None = None  # epochs between evaluations, 1 or more; draft 10, final 5
    experiment: str = field(default="", compare=False)  # what it is part of: a label
    model: str = field(default="", compare=False)  # how figures call it

    mathematics: ClassVar[int] = 1
    tasks: ClassVar[dict[str, type]] = {"SequentialMNIST": SequentialMNIST}
    keeps_parameters: ClassVar[bool] = True

    def unset(self, changes: Collection[str]) -> dict:
        fields = {"model": ""} if "unit" in changes else {}
        if {"unit", "protocol"} & set(changes):
            fields |= dict.fromkeys(("cnn_outputs", "trained_state", "evaluate_every"))
        return fields

    def __post_init__(self):
        settle = object.__setattr__
        if self.unit not in (*LSTMS, EXACT):
            settle(self, "unit", layer_named(self.unit))
        if not isinstance(self.task, SequentialMNIST):
            raise ValueError(f"task is {self.task!r}: it must be a SequentialMNIST")
        if not isinstance(self.protocol, Draft | Final):
            if self.protocol not in PROTOCOLS:
                raise ValueError(
                    f"no protocol is named {self.protocol!r}: use 'draft', 'final', or a Draft or "
                    "Final of your own"
                )
            settle(self, "protocol", PROTOCOLS[self.protocol])
        draft, own_state = self.protocol_name == "draft", self.unit in LAYERS
        if self.cnn_outputs is None:
            settle(self, "cnn_outputs", 10 if draft and self.unit != EXACT else 1)
        if self.evaluate_every is None:
            settle(self, "evaluate_every", 10 if draft else 5)
        if self.trained_state is None:
            settle(self, "trained_state", draft and own_state)
        limits = {"epochs": (0, 10**6), "seed": (0, 2**32 - 1)}
        for name in ("epochs", "seed", "cnn_outputs", "batch_size", "evaluate_every"):
            whole = as_whole(getattr(self, name), name, *limits.get(name, (1, 10**6)))
            settle(self, name, whole)
        for name in ("learning_rate", "z_strength"):
            number = as_strength(getattr(self, name), name, zero=name == "z_strength")
            settle(self, name, number)
        if self.z_strength and not self.has_r_z:
            names = ", ".join(unit.__name__ for unit in WITH_R_Z)
            raise ValueError(
                f"z_strength is {self.z_strength!r}, but R_z is defined for {names} only: it must "
                f"be 0 for {self.unit}"
            )
        if self.unit == EXACT and self.cnn_outputs != 1:
            raise ValueError(f"cnn_outputs is {self.cnn_outputs!r}: it must be 1 for {EXACT!r}")
        if type(self.trained_state) is not bool or (self.trained_state and not own_state):
            raise ValueError(
                f"trained_state is {self.trained_state!r}: it must be True or False, and False "
                f"for {', '.join((*LSTMS, EXACT))}"
            )
        settle(self, "model", self.model or self.unit)

    @property
    def has_r_z(self) -> bool:
        """Whether R_z is defined for the unit."""
        return LAYERS.get(self.unit) in WITH_R_Z

    @property
    def steps(self) -> int:
        """Updates of a complete run, on all of MNIST."""
        digits = len(self.task.allowed(mnist.load()["training"].labels))
        return self.epochs * -(-(digits // self.task.train_length) // self.batch_size)

    @property
    def evaluations(self) -> int:
        """How many times a complete run is evaluated: before the first epoch, and so on."""
        return self.epochs // self.evaluate_every + 1

    def labels(self) -> dict:
        """The columns of a sweep that say which run a row is about."""
        return {
            "experiment": self.experiment,
            "protocol": self.protocol_name,
            "model": self.model,
            "operation": self.task.operation,
            "seed": self.seed,
            "epochs": self.epochs,
            "train_length": self.task.train_length,
            "z_strength": self.z_strength,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
        }

    def test_columns(self) -> list[str]:
        """What the errors at each test length are called in sweeps and learning curves."""
        return [f"test_error_{length}" for length in self.task.test_lengths]

    def columns(self) -> list[str]:
        """What the columns of ``SequenceLog.table`` are called in learning curves."""
        digits = [
            f"digit_{digit}" + (f"_{i}" if self.cnn_outputs > 1 else "")
            for digit in range(10)
            for i in range(self.cnn_outputs)
        ]
        measures = ["step", "validation_error", "epoch", "sparsity_error"]
        return [*measures, *self.test_columns(), *digits]

    def words(self) -> list[str]:
        return ["mnist", self.unit, self.task.operation, self.protocol_name]

    def build(self) -> SequenceModel:
        """The model with its initial parameters, float32 on the CPU."""
        outputs = self.cnn_outputs
        with initialising(self.seed):
            reader = Reader(outputs)
            if self.unit in LSTMS:
                return SequenceModel(reader, LSTM(outputs, **LSTMS[self.unit]))
            exact = self.unit == EXACT
            unit = Exact(self.task.operation) if exact else LAYERS[self.unit](outputs + 1, 1)
            initial = 0.0 if self.trained_state else None
            return SequenceModel(reader, Recurrent(unit, initial, self.trained_state))


@dataclass
class SequenceLog:
    """What a run leaves behind: its evaluations, one entry each, and its last parameters.

    Errors are mean squared errors over sequences, and over prefixes where those have targets.
    """

    epoch: list[int]  # epochs trained before the evaluation
    step: list[int]  # updates made before it
    validation: list[float]  # MSE at the length of training
    test: list[list[float]]  # MSE at each of the task's test lengths
    sparsity: list[float]  # max of min(|W|, |1 - |W||) of the unit, NaN for an LSTM
    digits: list[list[list[float]]]  # (10, outputs): mean value read from each digit (validation)
    diverged_at: int | None  # the step, from 1 on, whose loss was not finite
    # (parameters,) float32, in the order of ``model.parameters()``; not finite if it diverged
    parameters: np.ndarray = field(compare=False)
    earlier: float = field(default=0.0, compare=False)  # seconds before it was last resumed
    # what was said of the computers and the code that trained it, joined by " then "
    provenance: dict[str, str] = field(default_factory=dict, compare=False)

    def table(self) -> np.ndarray:
        """(evaluations, columns) float32: step, validation, epoch, sparsity, test, digits.

        What exceeds float32 becomes ∞.
        """
        rows = zip(self.step, self.validation, self.epoch, self.sparsity, strict=True)
        n = len(self.step)
        flat = [list(rows), self.test, np.reshape(self.digits, (n, -1))]
        with np.errstate(over="ignore"):
            return np.concatenate([np.reshape(part, (n, -1)) for part in flat], 1).astype("<f4")
