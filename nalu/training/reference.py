"""The reference engine: ordinary units, autograd and an optimiser of PyTorch, many runs at once.

It is the definition of what is right. It trains any unit on any device, in float32 or
float64, on the stream all engines share or on the one of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import random
from .authors import AuthorsStream
from .run import SHARED_SEED, Log, Run
from .training import Training

TRAINS, CHECKPOINTS = Run, True


class Samples:
    """Samples and targets of many runs, whose seeds, ranges and windows may differ."""

    def __init__(self, runs: Sequence[Run], device: torch.device, dtype: torch.dtype):
        self.runs = runs
        self.windows = {(run.task, run.offset) for run in runs}
        self.offsets = [run.offset for run in runs]
        self.authors = [AuthorsStream(r.task, r.seed) for r in runs if r.stream == "authors"]
        self.device, self.dtype = device, dtype
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, purpose: int, step: int, rows: int) -> tuple[Tensor, Tensor]:
        """(runs, rows, in) and (runs, rows, 1); one run long where all share the samples."""
        outside = purpose in (random.EXTRAPOLATION, random.TEST)
        tasks = [run.task for run in self.runs]
        ranges = [task.extrapolation if outside else task.interpolation for task in tasks]
        if self.authors:
            pairs = [
                stream.samples(purpose, rows, own)
                for stream, own in zip(self.authors, ranges, strict=True)
            ]
            x, target = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
            return self._placed(x), self._placed(target)
        seeds = [run.seed for run in self.runs]
        if purpose in (random.VALIDATION, random.TEST):
            seeds = [SHARED_SEED] * (1 if len(set(ranges)) == 1 else len(seeds))
        x = self.drawn(seeds, purpose, step, rows, tasks[0].input_size, ranges=ranges[: len(seeds)])
        return x, self._targets(x)

    def drawn(self, seeds: list[int], purpose: int, step: int, *size: int, ranges) -> Tensor:
        """Samples of seeds and ranges, one for each: (seeds, rows, columns)."""
        if len(set(ranges)) == 1:
            drawn = random.samples(self._seeds(seeds), purpose, step, *size, ranges[0])
        else:
            each = zip(seeds, ranges, strict=True)
            parts = [random.samples(self._seeds([s]), purpose, step, *size, r) for s, r in each]
            drawn = torch.cat(parts)
        return self._placed(drawn)

    def _seeds(self, seeds: list[int]) -> Tensor:
        return torch.tensor(seeds, device=self.device)

    def _targets(self, x: Tensor) -> Tensor:
        if len(self.windows) == 1:
            ((task, offset),) = self.windows
            return task.target(x, offset).expand(len(self.runs), -1, -1)
        each = zip(x.expand(len(self.runs), -1, -1), self.runs, self.offsets, strict=True)
        return torch.stack([run.task.target(x, offset) for x, run, offset in each])

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    def kept(self, purpose: int, rows: int) -> tuple[Tensor, Tensor]:
        """The samples of a purpose that has the same ones at every step."""
        if purpose not in self.stored:
            self.stored[purpose] = self(purpose, 0, rows)
        return self.stored[purpose]


def objection(run: Run) -> str:
    """Why this engine cannot train the run, or "": it can train all of section 3.1."""
    return ""


def beside(run: Run) -> tuple:
    """What runs have in common that are trained side by side: all that decides a shape or a rule.

    One that may begin anew is trained alone, for its optimiser to begin anew as well.
    """
    alone = run if run.optimizer.restart_every else None
    rules = [
        each.name for each in fields(run) if each.compare and each.name not in ("seed", "task")
    ]
    return alone, run.task.operation, run.task.input_size, *(getattr(run, name) for name in rules)


def train(
    runs: Sequence[Run],
    tick: Callable[[int], None] = lambda steps: None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    provenance: dict[str, str] | None = None,
) -> list[Log]:
    """Train runs side by side that differ in their seeds, ranges and windows only.

    Args:
        runs: that ``beside`` says nothing different of.
        tick: called with the number of steps (times runs) done since the last call; what it
            raises ends the training.
        dtype: float32, or float64 for comparisons.
        device: the GPU if there is one.
        checkpoint: a file to go on from, for trainings of minutes; see ``Training.train``. Those
            on the authors' stream have none.
        provenance: what is recorded of this computer and code.

    Raises:
        ValueError: the runs differ in more, or the checkpoint is damaged or another training's.
    """
    if len(set(map(beside, runs))) > 1:
        raise ValueError(
            "the reference engine trains runs side by side that differ in seed, ranges and windows "
            "only"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if any(run.stream == "authors" for run in runs):
        checkpoint = None  # that stream can only be read from its beginning on
    training = Arithmetic(runs, device, dtype)
    training.provenance = provenance or {}
    return training.train(tick, checkpoint)


class Arithmetic(Training):
    """Runs of section 3.1 in progress."""

    saved_after = 30.0

    def __init__(self, runs: Sequence[Run], device: torch.device, dtype: torch.dtype):
        super().__init__(runs, device, dtype)
        self.samples = Samples(runs, device, dtype)
        self.rounds, self.last_evaluated = self.run.steps, self.run.iterations
        self.noisy = [unit.in_features for unit in self.model if unit.noisy]
        self.draws, self.errors = 0, []  # initial parameters drawn anew, errors since then

    def state(self) -> dict:
        return {"draws": self.draws, "errors": self.errors}

    def advance(self, tick: Callable[[int], None]) -> None:
        begin, every = self.at, self.run.evaluate_every
        for step in range(begin, min(begin - begin % every + every, self.rounds)):
            self.step(step)
            self.at = step + 1
            if None not in self.diverged_at:
                break
        tick((self.at - begin) * len(self.runs))

    def step(self, step: int) -> None:
        """One step of all runs, and where the optimiser has it, beginning anew."""
        inputs = self.samples(random.TRAINING, step, self.run.batch_size)
        if self.noisy:
            inputs = *inputs, self.noise(step)

        def losses(model: nn.Sequential, x: Tensor, target: Tensor, *noise: Tensor):
            outputs = with_noise(model, x, *noise) if noise else model(x)
            return (outputs - target).square().mean(), self.regulariser(step)

        errors = self.update(step, losses, *inputs)
        rules = self.run.optimizer
        if rules.restart_every:
            self.errors.append(errors.item())
            if step % rules.restart_every == 0 and rules.starts_anew(self.errors):
                self.draws, self.errors = self.draws + 1, []
                fresh = self.run.build(self.draws).to(self.device, self.dtype).parameters()
                with torch.no_grad():
                    for parameter, new in zip(self.parameters.values(), fresh, strict=True):
                        parameter.copy_(new[None])
                self.optimizer.state.clear()

    def noise(self, step: int) -> Tensor:
        """U[0, 1) for every sample and input of the noisy units: (runs, rows, inputs)."""
        seeds, unit = [run.seed for run in self.runs], [((0.0, 1.0),)]
        size = self.run.batch_size, sum(self.noisy)
        return self.samples.drawn(seeds, random.NOISE, step, *size, ranges=unit)

    @torch.no_grad()
    def evaluation(self) -> Tensor:
        rules = self.run.protocol
        if rules.fixed:
            sets = [self.samples.kept(p, rules.rows) for p in (random.VALIDATION, random.TEST)]
        else:
            purposes = (random.INTERPOLATION, random.EXTRAPOLATION)
            sets = [self.samples(purpose, self.at, rules.rows) for purpose in purposes]

        def error(model: nn.Sequential, x: Tensor, target: Tensor) -> Tensor:
            return (model(x) - target).square().mean()

        def sparsity(model: nn.Sequential) -> Tensor:
            return torch.stack([unit.sparsity_error() for unit in model]).max()

        return torch.stack([*(self.each(error, *part) for part in sets), self.each(sparsity)], -1)


def with_noise(model: nn.Sequential, x: Tensor, noise: Tensor) -> Tensor:
    """The outputs of a model in training, each noisy unit with its columns of the noise."""
    at = 0
    for unit in model:
        if unit.noisy:
            x = unit(x, noise[..., at : at + unit.in_features])
            at += unit.in_features
        else:
            x = unit(x)
    return x
