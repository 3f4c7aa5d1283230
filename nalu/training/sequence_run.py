"""A run of sequential MNIST as a value (section 3.2): its specification, its model, its log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..fields import REQUIRED, amount, checked, choice, whole
from ..tasks import mnist
from ..tasks.mnist import SequentialMNIST
from ..units import LAYERS, LSTM, Exact, Recurrent, layer_named, unit_of
from .protocol import Optimizer, Protocol, as_optimizer, protocol_named, with_r_z
from .run import BaseRun, initialising

# Accumulators beside the units. The paper's LSTM has one output and nothing after it, which
# cannot leave (-1, 1). The fair one has a read-out and a hidden size that is not tuned, but so
# large that it is no excuse, at a hundredth of the CNN's parameters.
LSTMS = {"LSTM": {}, "LSTM (read-out)": {"hidden_size": 32, "read_out": True}}
EXACT = "exact"  # knows the operation: only the CNN is learned


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


def _as_unit(value, name: str) -> str:
    return value if value in (*LSTMS, EXACT) else layer_named(value)


@dataclass(frozen=True)
class SequenceRun(BaseRun):
    """One training of one model on sequential MNIST: same specification, same result.

    Names are made canonical. ``protocol`` may be "draft" or "final", and stands then for the
    paper's constants; fields that are None become what that version of the paper has.

    Raises:
        ValueError: a field is outside what its comment allows.
    """

    unit: str = checked(REQUIRED, _as_unit)  # that accumulates: also one of LSTMS, or "exact"
    task: SequentialMNIST = field()  # what is learned
    protocol: Protocol | str = "final"  # rules of training; the draft counts t in epochs
    epochs: int = whole(1_000, 0, 10**6)  # in each of them every training sequence is read once
    seed: int = whole(0)  # of parameters, sequences and their order, in [0, 2³²)
    z_strength: float = amount(0.0)  # of R_z, 0 or more; 1 in the final paper where R_z is on
    cnn_outputs: int | None = whole(None, 1, 10**6)  # read from an image; draft 10, final 1
    trained_state: bool | None = choice(None, (True, False))  # s₀, from 0: draft yes, final no
    learning_rate: float = amount(1e-3, zero=False)  # of Adam, positive
    batch_size: int = whole(64, 1, 10**6)  # sequences a step, 1 or more
    evaluate_every: int | None = whole(None, 1, 10**6)  # epochs; draft 10, final 5
    optimizer: Optimizer | None = checked(None, as_optimizer, silent=Optimizer())  # of steps
    experiment: str = field(default="", compare=False)  # what it is part of: a label
    model: str = field(default="", compare=False)  # how figures call it

    learns: ClassVar[type] = SequentialMNIST
    mathematics: ClassVar[int] = 1
    keeps_parameters: ClassVar[bool] = True
    length: ClassVar[str] = "epochs"

    def unset(self, changes: Collection[str]) -> dict:
        unset = {"model": "", "optimizer": None} if "unit" in changes else {}
        if {"unit", "protocol"} & set(changes):
            unset |= dict.fromkeys(("cnn_outputs", "trained_state", "evaluate_every"))
        return unset

    def settle(self) -> None:
        settle = object.__setattr__
        if not isinstance(self.task, SequentialMNIST):
            raise ValueError(f"task is {self.task!r}: it must be a SequentialMNIST")
        if not isinstance(self.protocol, Protocol):
            settle(self, "protocol", protocol_named(self.protocol).of_sequences())
        own_state = self.unit in LAYERS
        paper = dict(self.protocol.sequences)
        if not own_state:
            paper |= {"trained_state": False} | ({"cnn_outputs": 1} if self.unit == EXACT else {})
        for name, value in paper.items():
            if getattr(self, name) is None:
                settle(self, name, value)
        units = [unit_of(self.unit)] if own_state else []
        if self.optimizer is None:
            settle(self, "optimizer", Optimizer.of(units, self.learning_rate))
        if self.optimizer.rates or self.optimizer.restart_every or any(u.noisy for u in units):
            raise ValueError(
                f"{self.unit} by {self.optimizer} has learning rates by layer, restarts or noise: "
                "runs of sequential MNIST have none of these"
            )
        if self.z_strength and not self.has_r_z:
            raise ValueError(
                f"z_strength is {self.z_strength!r}, but R_z is defined for {with_r_z()} only: it "
                f"must be 0 for {self.unit}"
            )
        if self.unit == EXACT and self.cnn_outputs != 1:
            raise ValueError(f"cnn_outputs is {self.cnn_outputs!r}: it must be 1 for {EXACT!r}")
        if self.trained_state and not own_state:
            raise ValueError(
                f"trained_state is {self.trained_state!r}: it must be False for "
                f"{', '.join((*LSTMS, EXACT))}"
            )
        settle(self, "model", self.model or self.unit)

    @property
    def has_r_z(self) -> bool:
        """Whether R_z is defined for the unit."""
        return self.unit in LAYERS and unit_of(self.unit).r_z

    @property
    def steps(self) -> int:
        """Updates of a complete run, on all of MNIST."""
        digits = len(self.task.allowed(mnist.load()["training"].labels))
        return self.epochs * -(-(digits // self.task.train_length) // self.batch_size)

    @property
    def evaluations(self) -> int:
        """How many times a complete run is evaluated: before the first epoch, and so on."""
        return self.epochs // self.evaluate_every + 1

    def test_columns(self) -> list[str]:
        """What the errors at each test length are called in sweeps and learning curves."""
        return [f"test_error_{length}" for length in self.task.test_lengths]

    def columns(self) -> list[str]:
        """What the columns of its log are called in learning curves."""
        digits = [
            f"digit_{digit}" + (f"_{i}" if self.cnn_outputs > 1 else "")
            for digit in range(10)
            for i in range(self.cnn_outputs)
        ]
        measures = ["step", "validation_error", "epoch", "sparsity_error"]
        return [*measures, *self.test_columns(), *digits]

    def words(self) -> list[str]:
        return ["mnist", self.unit, self.task.operation, self.protocol.name]

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
