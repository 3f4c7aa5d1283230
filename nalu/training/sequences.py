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

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..tasks import mnist
from ..tasks.mnist import OPERATIONS, Digits, SequentialMNIST, normalised
from ..units import Constrained, Recurrent
from . import random
from .files import write_whole
from .protocol import Regulariser, constrained_units, input_penalty
from .reference import stacked
from .run import SHARED_SEED
from .sequence_run import SequenceLog, SequenceModel, SequenceRun

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


class FunctionOf(nn.Module):
    """A function of a model and of inputs, as a module with the parameters of the model."""

    def __init__(self, model: nn.Module, function: Callable):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs):
        return self.function(self.model, *inputs)


def refusal(run) -> str:
    """Why this engine cannot train the run, or "": it can train all of sequential MNIST."""
    return "" if isinstance(run, SequenceRun) else "trains sequential MNIST only"


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
) -> list[SequenceLog]:
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
        ValueError: the runs differ in more than their seeds or are of other tasks, there are too
            few digits for a sequence, or the checkpoint is damaged or another training's.
    """
    if reason := refusal(runs[0]):
        raise ValueError(f"engine 'sequences' {reason}: use engine 'auto'")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training = Training(runs, device, dtype, mnist.load() if digits is None else digits)
    training.provenance = provenance or {}
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        training.resume(path)
        tick(len(runs) * training.epoch * training.batches)
    if device.type == "cuda":
        # TensorFloat would round the factors of a convolution to 10 bits. Both are settings of
        # the whole process, where other threads may be training, so they stay.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    while True:
        if training.to_be_evaluated:
            training.evaluate()
            if path is not None:
                training.save(path)
        if training.finished:
            break
        training.train_epoch(tick)
    if left := runs[0].epochs - training.epoch:  # all diverged
        tick(len(runs) * left * training.batches)
    if path is not None:
        training.save(path)
    return training.logs()


class Training:
    """Runs in progress: stacked parameters, (runs, ...), their optimiser, and what is logged."""

    def __init__(
        self,
        runs: Sequence[SequenceRun],
        device: torch.device,
        dtype: torch.dtype,
        digits: dict[str, Digits],
    ):
        self.runs, self.run, self.dtype = list(runs), runs[0], dtype
        if any(run.but(seed=0) != self.run.but(seed=0) for run in runs):
            raise ValueError("the runs differ in more than their seeds: train them separately")
        self.task = self.run.task
        self.digits = {name: Digits(*(t.to(device) for t in part)) for name, part in digits.items()}
        self.seeds = torch.tensor([run.seed for run in runs], device=device)
        length = self.task.train_length
        self.windows = self._windows("training", self.seeds, random.TRAINING, length)
        self.sets = [("validation", length), *(("test", n) for n in self.task.test_lengths)]
        shared = torch.full_like(self.seeds[:1], SHARED_SEED)
        self.fixed = [self._windows(name, shared, FIXED[name], n)[0] for name, n in self.sets]

        models = [run.build().to(device, dtype) for run in runs]
        self.model = models[0]
        self.parameters, self.stacked = stacked([FunctionOf(model, None) for model in models])
        self.regulariser = Regulariser(self.model, self.run.protocol)
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=self.run.learning_rate, fused=True
        )
        self.epoch = 0
        self.diverged_at = torch.full_like(self.seeds, -1)  # read once an epoch only
        self.rows: dict[str, list[Tensor]] = {}  # of the logs, each (runs, ...) float64
        self.evaluated: list[int] = []  # epochs
        # A processor core is shared with others; what counts is the time on it.
        self.clock = time.thread_time if device.type == "cpu" else time.perf_counter
        self.begin, self.earlier = self.clock(), 0.0  # seconds, those before it was resumed
        self.provenance: dict[str, str] = {}

    def _windows(self, split: str, seeds: Tensor, purpose: int, length: int) -> Tensor:
        """Sequences of digits of a split, an order for every seed: (seeds, windows, length)."""
        return sequences(self.task, self.digits[split].labels, seeds, purpose, length)

    def each(self, function: Callable, *inputs: Tensor):
        """``function(model, *inputs)`` for every run, of inputs and to results (runs, ...)."""
        of_model = FunctionOf(self.model, function)

        def one(parameters, *inputs):
            return functional_call(of_model, parameters, inputs)

        if len(self.runs) > 1:
            return vmap(one)(self.parameters, *inputs)
        alone = {name: parameter.squeeze(0) for name, parameter in self.parameters.items()}
        result = one(alone, *(x.squeeze(0) for x in inputs))
        return tuple(r[None] for r in result) if isinstance(result, tuple) else result[None]

    @property
    def batches(self) -> int:
        """Steps an epoch; the last batch may be smaller."""
        return -(-self.windows.shape[1] // self.run.batch_size)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.run.epochs or bool((self.diverged_at >= 0).all())

    @property
    def to_be_evaluated(self) -> bool:
        return self.epoch % self.run.evaluate_every == 0 and self.epoch not in self.evaluated

    def train_epoch(self, tick: Callable[[int], None]) -> None:
        """One pass over the training sequences, in an order of its own for every run."""
        orders = random.permutations(self.seeds, random.SHUFFLE, self.epoch, self.windows.shape[1])
        shuffled = self.windows.gather(1, orders[..., None].expand_as(self.windows))
        for i, batch in enumerate(shuffled.split(self.run.batch_size, 1)):
            self.update(batch, self.epoch * self.batches + i + 1)
            tick(len(self.runs))
        self.epoch += 1

    def update(self, batch: Tensor, step: int) -> None:
        """One step of Adam for all runs, then the constraint; steps count from 1, as in the paper.

        Args:
            batch: sequences, (runs, rows, time).
        """
        images, labels = self.digits["training"]
        x = normalised(images[batch]).to(self.dtype)
        target = self.task.target(labels[batch]).to(self.dtype)
        clock = self.epoch if self.run.protocol_name == "draft" else step

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

        self.optimizer.zero_grad()
        errors, penalties = self.each(losses, x, target)
        first = (self.diverged_at < 0) & ~torch.isfinite(errors.detach())
        self.diverged_at.masked_fill_(first, step)
        (errors + penalties).sum().backward()
        self.optimizer.step()
        for unit in constrained_units(self.stacked):
            self.run.protocol.constrain(unit)

    @torch.no_grad()
    def evaluate(self) -> None:
        """One row of every run's log."""
        values = {split: self._read(split) for split in FIXED}
        errors = []
        for (split, _), windows in zip(self.sets, self.fixed, strict=True):
            target = self.task.target(self.digits[split].labels[windows])
            states = self.each(lambda model, x: model.accumulator(x), values[split][:, windows])
            # In float64, as squares of long products can exceed float32.
            error = self.task.scored(states[..., 0]).double() - target
            errors.append(error.square().mean((-2, -1)))
        one_hot = nn.functional.one_hot(self.digits["validation"].labels.long(), 10).double()
        row = {
            "errors": torch.stack(errors, -1),
            "sparsity": self.each(_sparsity_error).double(),
            "digits": (one_hot / one_hot.sum(0)).T @ values["validation"].double(),
        }
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value.cpu())
        self.evaluated.append(self.epoch)

    def _read(self, split: str) -> Tensor:
        """The values of all digits of a split: (runs, n, outputs)."""

        def read(images: Tensor) -> Tensor:
            x = normalised(images).to(self.dtype)
            return self.each(lambda model: model.reader(x))

        return torch.cat(list(map(read, self.digits[split].images.split(CHUNK))), 1)

    def logs(self) -> list[SequenceLog]:
        logs, parameters = [], [p.float() for p in self.parameters.values()]
        steps = [epoch * self.batches for epoch in self.evaluated]
        for i, diverged in enumerate(self.diverged_at.tolist()):
            known = [at for at, step in enumerate(steps) if diverged < 0 or step < diverged]
            errors, sparsity, digits = (
                [self.rows[name][at][i].tolist() for at in known]
                for name in ("errors", "sparsity", "digits")
            )
            logs.append(
                SequenceLog(
                    [self.evaluated[at] for at in known],
                    [steps[at] for at in known],
                    [validation for validation, *_ in errors],
                    [test for _, *test in errors],
                    sparsity,
                    digits,
                    None if diverged < 0 else diverged,
                    np.concatenate([p[i].numpy(force=True).ravel() for p in parameters]),
                    self.earlier,
                    self.provenance,
                )
            )
        return logs

    def save(self, path: Path) -> None:
        """Write all that the rest of the training depends on, whole or not at all."""
        tensors = {"diverged at": self.diverged_at}
        for name, parameter in self.parameters.items():
            tensors[f"parameter {name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam {key} {name}"] = value
        for name, rows in self.rows.items():
            tensors[f"row {name}"] = torch.stack(rows)
        header = {
            "runs": [run.specification() for run in self.runs],
            "epoch": self.epoch,
            "evaluated": self.evaluated,
            "seconds": self.earlier + self.clock() - self.begin,
            "provenance": self.provenance,
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        header["checksum"] = _checksum(tensors)
        content = safetensors.torch.save(tensors, {"training": json.dumps(header)})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    def resume(self, path: Path) -> None:
        """Go on from what ``save`` wrote, perhaps for runs of fewer epochs than these.

        Raises:
            ValueError: the file is damaged, of other runs, or trained longer than these.
        """
        tensors, header = _read(path)
        saved = [_name(SequenceRun.from_specification(each)) for each in header["runs"]]
        if saved != [_name(run) for run in self.runs]:
            raise ValueError(f"{path} is the checkpoint of other runs: delete it, or name another")
        if header["epoch"] > self.run.epochs:
            raise ValueError(
                f"{path} has trained {header['epoch']} epochs already, and {self.run.epochs} are "
                "asked for: take more epochs, or name another file"
            )
        self.epoch, self.evaluated = header["epoch"], header["evaluated"]
        self.earlier = header["seconds"]
        for name, before in header["provenance"].items():
            legs = [*before.split(" then "), self.provenance.get(name, before)]
            self.provenance[name] = " then ".join(dict.fromkeys(legs))
        self.diverged_at.copy_(tensors["diverged at"])
        state = self.optimizer.state_dict()
        with torch.no_grad():
            for i, (name, parameter) in enumerate(self.parameters.items()):
                parameter.copy_(tensors[f"parameter {name}"])
                keys = ("step", "exp_avg", "exp_avg_sq") if self.epoch else ()
                state["state"][i] = {key: tensors[f"adam {key} {name}"] for key in keys}
        if self.epoch:
            self.optimizer.load_state_dict(state)
        self.rows = {
            name.removeprefix("row "): list(rows)
            for name, rows in tensors.items()
            if name.startswith("row ")
        }


def _name(run: SequenceRun) -> dict:
    """What a run of any number of epochs is called in a checkpoint."""
    return run.but(epochs=0).specification()


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["checksum"] != _checksum(tensors):
            raise ValueError("its checksum does not fit")
        return tensors, header
    except (SafetensorError, KeyError, ValueError) as reason:
        raise ValueError(
            f"{path} is not a whole checkpoint ({reason}): delete it to begin anew"
        ) from reason


def _checksum(tensors: dict[str, Tensor]) -> str:
    content = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content).hexdigest()[:16]


def _sparsity_error(model: SequenceModel) -> Tensor:
    """max of min(|W|, |1 - |W||), a scalar; NaN where there is no arithmetic unit."""
    accumulator = model.accumulator
    if not isinstance(accumulator, Recurrent):
        return accumulator.weight_hh.sum() * torch.nan
    return Constrained.sparsity_penalty(accumulator.unit.weight).max()
