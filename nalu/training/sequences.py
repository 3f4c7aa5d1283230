"""The engine of sequential MNIST (section 3.2): ordinary modules and autograd on any device.

One run alone is an ordinary PyTorch loop. Several are trained side by side under ``torch.vmap``,
which turns their convolutions into grouped ones. That is for GPUs, where a batch of 64 sequences
is little work and most time goes into starting kernels, which then serve all runs. On a
processor core one run is work enough, and several at once are slower than one after the other:
give each core a run of its own.

All digits are on the device; a batch is gathered from them. For an evaluation every digit is
read once, and sequences of all lengths are gathered from the values read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..tasks import mnist
from ..tasks.mnist import OPERATIONS, Digits, SequentialMNIST, normalised
from ..units import Recurrent
from . import random
from .protocol import input_penalty
from .run import SHARED_SEED, Log
from .sequence_run import SequenceModel, SequenceRun
from .training import Training

TRAINS, CHECKPOINTS = SequenceRun, True

CHUNK = 1_000  # images that are read at once in an evaluation
FIXED = {"validation": random.VALIDATION, "test": random.TEST}  # sets that all runs share


def sequences(
    task: SequentialMNIST, labels: Tensor, seeds: Tensor, purpose: int, length: int
) -> Tensor:
    """Where the digits of each seed's sequences are: labels (n,) -> (seeds, windows, length).

    Those of ``SHARED_SEED`` with a purpose of ``FIXED`` are the evaluation sets.
    """
    allowed = task.allowed(labels)
    orders = random.permutations(seeds, purpose, 0, len(allowed))
    return torch.stack([task.windows(allowed, order, length) for order in orders])


def windows_and_targets(task: SequentialMNIST, length: int) -> tuple[Tensor, Tensor]:
    """The test sequences of a length: where their digits are in the test set, and the targets.

    Both (windows, length); a target for every prefix, whether the task scores it or not.
    """
    labels = mnist.load()["test"].labels
    shared = torch.tensor([SHARED_SEED])
    windows = sequences(task, labels, shared, random.TEST, length)[0]
    return windows, OPERATIONS[task.operation](labels[windows].double(), -1)


@torch.no_grad()
def predictions(model: SequenceModel, windows: Tensor) -> Tensor:
    """The states of a model after each digit of test sequences, (windows, length)."""
    images = normalised(mnist.load()["test"].images)
    values = torch.cat([model.reader(part) for part in images.split(CHUNK)])
    return model.accumulator(values[windows])[..., 0]


def objection(run: SequenceRun) -> str:
    """Why this engine cannot train the run, or "": it can train all of sequential MNIST."""
    return ""


def beside(run: SequenceRun) -> SequenceRun:
    """What runs have in common that are trained side by side: all but the seed."""
    return run.but(seed=0)


def train(
    runs: Sequence[SequenceRun],
    tick: Callable[[int], None] = lambda steps: None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    digits: dict[str, Digits] | None = None,
    provenance: dict[str, str] | None = None,
) -> list[Log]:
    """Train runs that differ in their seeds only, side by side.

    Args:
        runs: on a CPU best one at a time, on a GPU as many as its memory holds.
        tick: called with the number of steps (times runs) done since the last call, at first
            with those in the checkpoint; what it raises ends the training.
        dtype: float32, or float64 for comparisons.
        device: the GPU if there is one.
        checkpoint: a file that is written at every evaluation and at the end. If it exists, the
            training goes on from it, on a CPU to the same bits as without the interruption;
            that may also be for more epochs than it was begun with. It stays when all is done.
        digits: in place of all of MNIST, as ``load`` gives them.
        provenance: what is recorded of this computer and code. The logs have it, after that in
            the checkpoint where they differ: "this then that".

    Raises:
        ValueError: the runs differ in more than their seeds, there are too few digits for a
            sequence, or the checkpoint is damaged or another training's.
    """
    if len(set(map(beside, runs))) > 1:
        raise ValueError("the runs differ in more than their seeds: train them separately")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        # TensorFloat would round the factors of a convolution to 10 bits. Both are settings of
        # the whole process, where other threads may be training, so they stay.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    training = Sequences(runs, device, dtype, mnist.load() if digits is None else digits)
    training.provenance = provenance or {}
    return training.train(tick, checkpoint)


class Sequences(Training):
    """Runs of section 3.2 in progress; a round is an epoch."""

    alone_unstacked = True

    def __init__(
        self,
        runs: Sequence[SequenceRun],
        device: torch.device,
        dtype: torch.dtype,
        digits: dict[str, Digits],
    ):
        fused = {} if runs[0].optimizer.rule == "RMSprop" else {"fused": True}  # which has none
        super().__init__(runs, device, dtype, **fused)
        self.task, self.rounds = self.run.task, self.run.epochs
        self.last_evaluated = self.rounds
        self.digits = {name: Digits(*(t.to(device) for t in part)) for name, part in digits.items()}
        self.seeds = torch.tensor([run.seed for run in runs], device=device)
        length = self.task.train_length
        self.windows = self._windows("training", self.seeds, random.TRAINING, length)
        self.steps_a_round = -(-self.windows.shape[1] // self.run.batch_size)
        self.sets = [("validation", length), *(("test", n) for n in self.task.test_lengths)]
        shared = torch.full_like(self.seeds[:1], SHARED_SEED)
        self.fixed = [self._windows(name, shared, FIXED[name], n)[0] for name, n in self.sets]

    def _windows(self, split: str, seeds: Tensor, purpose: int, length: int) -> Tensor:
        """Sequences of digits of a split, an order for every seed: (seeds, windows, length)."""
        return sequences(self.task, self.digits[split].labels, seeds, purpose, length)

    def advance(self, tick: Callable[[int], None]) -> None:
        """One pass over the training sequences, in an order of its own for every run."""
        orders = random.permutations(self.seeds, random.SHUFFLE, self.at, self.windows.shape[1])
        shuffled = self.windows.gather(1, orders[..., None].expand_as(self.windows))
        for i, batch in enumerate(shuffled.split(self.run.batch_size, 1)):
            self.step(self.at * self.steps_a_round + i, batch)
            tick(len(self.runs))
        self.at += 1

    def step(self, step: int, batch: Tensor) -> None:
        """One step of all runs, with sequences (runs, rows, time); the paper counts from 1."""
        images, labels = self.digits["training"]
        x = normalised(images[batch]).to(self.dtype)
        target = self.task.target(labels[batch]).to(self.dtype)
        clock = self.at if self.run.protocol.in_epochs else step + 1

        def losses(model: SequenceModel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            values, states = model(x)
            error = (self.task.scored(states[..., 0]) - target).square().mean()
            penalty = self.regulariser(clock)
            if self.run.z_strength:
                read = model.accumulator.inputs(values, states)
                penalty = penalty + self.run.z_strength * input_penalty(
                    model.accumulator.unit, read
                )
            return error, penalty

        self.update(step, losses, x, target)

    @torch.no_grad()
    def evaluation(self) -> Tensor:
        values = {split: self._read(split) for split in FIXED}
        errors = []
        for (split, _), windows in zip(self.sets, self.fixed, strict=True):
            target = self.task.target(self.digits[split].labels[windows])
            states = self.each(lambda model, x: model.accumulator(x), values[split][:, windows])
            # In float64, as squares of long products can exceed float32.
            error = self.task.scored(states[..., 0]).double() - target
            errors.append(error.square().mean((-2, -1)))
        validation, *test = errors
        one_hot = nn.functional.one_hot(self.digits["validation"].labels.long(), 10).double()
        digits = (one_hot / one_hot.sum(0)).T @ values["validation"].double()
        epoch = torch.full_like(validation, self.at)
        columns = [validation, epoch, self.each(_sparsity_error).double(), *test]
        return torch.cat([torch.stack(columns, -1), digits.flatten(1)], -1)

    def _read(self, split: str) -> Tensor:
        """The values of all digits of a split: (runs, n, outputs)."""

        def read(images: Tensor) -> Tensor:
            x = normalised(images).to(self.dtype)
            return self.each(lambda model: model.reader(x))

        return torch.cat(list(map(read, self.digits[split].images.split(CHUNK))), 1)


def _sparsity_error(model: SequenceModel) -> Tensor:
    """max of min(|W|, |1 - |W||), a scalar; NaN where there is no arithmetic unit."""
    accumulator = model.accumulator
    if not isinstance(accumulator, Recurrent):
        return accumulator.weight_hh.sum() * torch.nan
    return accumulator.unit.sparsity_error()
