"""The reference engine: ordinary units, autograd and Adam of PyTorch, many seeds at once.

It is the definition of what is right. It trains any unit on any device, in float32 or
float64, on the stream all engines share or on the one of the authors' code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..units import Constrained
from . import random
from .authors import AuthorsStream
from .protocol import Regulariser, constrained_units
from .run import SHARED_SEED, Log, Run


def stacked(modules: Sequence[nn.Module]) -> tuple[dict[str, Tensor], nn.Module]:
    """The parameters of modules that differ in nothing else, (modules, ...), by name.

    Also a module that holds them all at once, in the same memory.
    """
    parameters, _ = stack_module_state(list(modules))
    holder = copy.deepcopy(modules[0])
    for name, parameter in parameters.items():
        owner, _, attribute = name.rpartition(".")
        setattr(holder.get_submodule(owner), attribute, nn.Parameter(parameter.detach()))
    return parameters, holder


class Objective(nn.Module):
    """One run's model with its data loss and what the protocol adds to it."""

    def __init__(self, run: Run, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.model = run.build().to(device, dtype)
        self.regulariser = Regulariser(self.model, run.protocol)

    def forward(self, x: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """MSE and penalty, two scalars, of samples (rows, in) and targets (rows, 1)."""
        return (self.model(x) - target).square().mean(), self.regulariser(step)


class SparsityError(nn.Module):
    """max over all matrices of min(|W|, |1 - |W||), a scalar."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        distances = [Constrained.sparsity_penalty(unit.weight).max() for unit in self.model]
        return torch.stack(distances).max()


class Samples:
    """Samples and targets of many runs that differ in their seeds only."""

    def __init__(self, runs: Sequence[Run], device: torch.device, dtype: torch.dtype):
        self.task = runs[0].task
        self.offsets = [run.offset for run in runs]
        self.seeds = torch.tensor([run.seed for run in runs], device=device)
        self.authors = [AuthorsStream(r.task, r.seed) for r in runs if r.stream == "authors"]
        self.device, self.dtype = device, dtype
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, purpose: int, step: int, rows: int) -> tuple[Tensor, Tensor]:
        """(runs, rows, in) and (runs, rows, 1); one run long where all share the samples."""
        evaluated_elsewhere = purpose in (random.EXTRAPOLATION, random.TEST)
        ranges = self.task.extrapolation if evaluated_elsewhere else self.task.interpolation
        if self.authors:
            pairs = [stream.samples(purpose, rows, ranges) for stream in self.authors]
            x, target = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
            return self._placed(x), self._placed(target)
        seeds = self.seeds
        if purpose in (random.VALIDATION, random.TEST):
            seeds = torch.full_like(seeds[:1], SHARED_SEED)
        x = self._placed(random.samples(seeds, purpose, step, rows, self.task.input_size, ranges))
        return x, self._targets(x)

    def _targets(self, x: Tensor) -> Tensor:
        if len(set(self.offsets)) == 1:
            target = self.task.target(x, self.offsets[0])
            return target.expand(len(self.offsets), -1, -1)
        each = x.expand(len(self.offsets), -1, -1)
        pairs = zip(each, self.offsets, strict=True)
        return torch.stack([self.task.target(x, offset) for x, offset in pairs])

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    def kept(self, purpose: int, rows: int) -> tuple[Tensor, Tensor]:
        """The samples of a purpose that has the same ones at every step."""
        if purpose not in self.stored:
            self.stored[purpose] = self(purpose, 0, rows)
        return self.stored[purpose]


def refusal(run) -> str:
    """Why this engine cannot train the run, or "": it can train all of section 3.1."""
    return "" if isinstance(run, Run) else "trains the runs of section 3.1 only"


def beside(run: Run) -> Run:
    """What runs have in common that are trained side by side: all but the seed."""
    return run.but(seed=0)


def train(
    runs: Sequence[Run],
    tick: Callable[[int], None] = lambda steps: None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> list[Log]:
    """Train runs that differ in their seeds only, side by side.

    ``tick`` is called with the number of steps (times runs) done since the last call; what it
    raises ends the training. ``device`` is the GPU if there is one.

    Raises:
        ValueError: the runs differ in more than their seeds, or are of section 3.2.
    """
    run = runs[0]
    if reason := refusal(run):
        raise ValueError(f"engine 'reference' {reason}: use engine 'auto'")
    if any(other.but(seed=run.seed) != run for other in runs):
        raise ValueError("the reference engine trains runs side by side that differ in seed only")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batch = Batch(runs, device, dtype)
    since = 0
    for step in range(run.iterations + 1):
        if step % run.evaluate_every == 0:
            batch.evaluate(step)
            tick(since * len(runs))
            since = 0
        since += 1
        batch.update(step)
        if all(diverged is not None for diverged in batch.diverged_at):
            break
    tick((run.iterations + 1 - step - 1 + since) * len(runs))
    return batch.logs()


class Batch:
    """The state of runs trained side by side: stacked parameters, their optimiser, the log."""

    def __init__(self, runs: Sequence[Run], device: torch.device, dtype: torch.dtype):
        self.run, self.size = runs[0], len(runs)
        self.samples = Samples(runs, device, dtype)
        objectives = [Objective(run, device, dtype) for run in runs]
        self.parameters, self.stacked = stacked(objectives)
        self.objective = objectives[0]
        self.sparsity = SparsityError(self.objective.model)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=self.run.learning_rate)
        self.rows: list[Tensor] = []  # of the log, (runs, 3)
        self.steps: list[int] = []
        self.diverged_at: list[int | None] = [None] * self.size
        self.last: list[Tensor | None] = [None] * self.size

    def losses(self, x: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """MSE and penalty of every run: (runs,) each; samples may be those of one run."""

        def one(parameters, x, target):
            return functional_call(self.objective, parameters, (x, target, step))

        shared = len(x) == 1
        in_dims = (0, None if shared else 0, 0)
        return vmap(one, in_dims)(self.parameters, x[0] if shared else x, target)

    @torch.no_grad()
    def evaluate(self, step: int) -> None:
        """One row of every run's log."""
        run = self.run
        if run.protocol_name == "draft":
            purposes = (random.INTERPOLATION, random.EXTRAPOLATION)
            sets = [self.samples(purpose, step, run.evaluation_rows) for purpose in purposes]
        else:
            purposes = (random.VALIDATION, random.TEST)
            sets = [self.samples.kept(purpose, run.evaluation_rows) for purpose in purposes]
        errors = [self.losses(x, target, step)[0] for x, target in sets]
        sparsity = vmap(lambda p: functional_call(self.sparsity, p, ()))(self.parameters)
        self.rows.append(torch.stack([*errors, sparsity], -1).cpu())
        self.steps.append(step)

    def update(self, step: int) -> None:
        """One step of Adam for all runs, then the constraint of the protocol."""
        x, target = self.samples(random.TRAINING, step, self.run.batch_size)
        self.optimizer.zero_grad()
        errors, penalties = self.losses(x, target, step)
        if not torch.isfinite(errors).all():
            self._stop(torch.isfinite(errors).tolist(), step)
        (errors + penalties).sum().backward()
        self.optimizer.step()
        for unit in constrained_units(self.stacked.model):
            self.run.protocol.constrain(unit)

    def _stop(self, finite: list[bool], step: int) -> None:
        for i, well in enumerate(finite):
            if not well and self.diverged_at[i] is None:
                self.diverged_at[i] = step
                self.last[i] = self._flat(i)

    def _flat(self, i: int) -> Tensor:
        return torch.cat([p[i].detach().flatten() for p in self.parameters.values()]).clone()

    def logs(self) -> list[Log]:
        rows, steps = torch.stack(self.rows, 1).double().numpy(), np.array(self.steps)
        logs = []
        for i, diverged in enumerate(self.diverged_at):
            known = steps <= (self.run.iterations if diverged is None else diverged)
            last = self._flat(i) if diverged is None else self.last[i]
            logs.append(Log(steps[known], *rows[i, known].T, diverged, last.cpu().numpy()))
        return logs
