"""Runs in progress, side by side: what the engines share that take PyTorch's gradients.

The parameters of runs that differ in no shape are stacked, (runs, ...), and trained under
``torch.vmap`` by one optimiser. A training counts in rounds, a step of section 3.1 or an epoch of
section 3.2, evaluates every so many of them, and goes on from a checkpoint to the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .files import write_whole
from .protocol import Regulariser, constrained_units
from .run import BaseRun, Log, run_of


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


class FunctionOf(nn.Module):
    """A function of a model and of inputs, as a module with the parameters of the model."""

    def __init__(self, model: nn.Module, function: Callable | None = None):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs):
        return self.function(self.model, *inputs)


class Training:
    """Runs in progress: stacked parameters, (runs, ...), their optimiser, and what is logged.

    A subclass says how many ``rounds`` there are, makes one by ``advance``, of which each step is
    an ``update``, and gives a row of the log by ``evaluation``: (runs, columns but for "step").
    """

    alone_unstacked: ClassVar[bool] = False  # whether one run alone is trained without vmap
    saved_after: ClassVar[float] = 0.0  # seconds from one checkpoint to the next, at least
    steps_a_round: int = 1
    rounds: int  # of a complete run
    last_evaluated: int  # the last round before which there may be an evaluation

    def __init__(
        self, runs: Sequence[BaseRun], device: torch.device, dtype: torch.dtype, **options
    ):
        self.runs, self.run = list(runs), runs[0]
        self.device, self.dtype = device, dtype
        models = [run.build().to(device, dtype) for run in runs]
        self.model = models[0]
        self.parameters, self.stacked = stacked([FunctionOf(model) for model in models])
        self.regulariser = Regulariser(self.model, self.run.protocol)
        layers = {name: [] for name, _ in self.model.named_children()}
        for name, parameter in self.parameters.items():  # named as "model.0.w_hat"
            layers[name.split(".")[1]].append(parameter)
        rules, rate = self.run.optimizer, self.run.learning_rate
        self.optimizer = rules.made(list(layers.values()), rate, **options)
        self.at = 0  # rounds done
        self.diverged_at: list[int | None] = [None] * len(runs)
        self.last: list[Tensor | None] = [None] * len(runs)  # parameters of those
        self.steps: list[int] = []  # done before each evaluation
        self.rows: list[Tensor] = []  # of the log, each (runs, columns but for "step") float64
        # A processor core is shared with others; what counts is the time on it.
        self.clock = time.thread_time if device.type == "cpu" else time.perf_counter
        self.begin, self.earlier = self.clock(), 0.0  # seconds, those before it was resumed
        self.provenance: dict[str, str] = {}

    def advance(self, tick: Callable[[int], None]) -> None:
        """One round, or several up to the next evaluation; ``tick`` hears of steps times runs."""
        raise NotImplementedError

    def evaluation(self) -> Tensor:
        raise NotImplementedError

    def each(self, function: Callable, *inputs: Tensor):
        """``function(model, *inputs)`` for every run, to results (runs, ...).

        Inputs are (runs, ...), or (1, ...) where all runs have the same.
        """
        of_model = FunctionOf(self.model, function)

        def one(parameters, *inputs):
            return functional_call(of_model, parameters, inputs)

        if self.alone_unstacked and len(self.runs) == 1:
            alone = {name: parameter.squeeze(0) for name, parameter in self.parameters.items()}
            result = one(alone, *(x.squeeze(0) for x in inputs))
            return tuple(r[None] for r in result) if isinstance(result, tuple) else result[None]
        shared = [len(x) == 1 for x in inputs]
        inputs = [x[0] if same else x for x, same in zip(inputs, shared, strict=True)]
        dims = (0, *(None if same else 0 for same in shared))
        return vmap(one, dims)(self.parameters, *inputs)

    def update(self, step: int, losses: Callable, *inputs: Tensor) -> Tensor:
        """One step for all runs, counted from 0, then the constraint of the protocol.

        Args:
            losses: error and penalty of a model and its inputs, two scalars.

        Returns:
            The errors, (runs,).
        """
        self.optimizer.zero_grad()
        errors, penalties = self.each(losses, *inputs)
        finite = torch.isfinite(errors.detach())
        if not finite.all():
            for i, well in enumerate(finite.tolist()):
                if not well and self.diverged_at[i] is None:
                    self.diverged_at[i], self.last[i] = step, self._flat(i)
        (errors + penalties).sum().backward()
        self.run.optimizer.clip(list(self.parameters.values()))
        self.optimizer.step()
        for unit in constrained_units(self.stacked):
            self.run.protocol.constrain(unit)
        return errors.detach()

    def train(self, tick: Callable[[int], None], path: str | Path | None = None) -> list[Log]:
        """All rounds that are left.

        Args:
            tick: called with the number of steps (times runs) done since the last call, at first
                with those in the checkpoint; what it raises ends the training.
            path: of a checkpoint, written at evaluations and at the end. If it exists, the training
                goes on from it, also for more rounds than it was begun with; it stays.

        Raises:
            ValueError: the checkpoint is damaged or another training's.
        """
        path = None if path is None else Path(path)
        if path is not None and path.exists():
            self.resume(path)
            tick(len(self.runs) * self.at * self.steps_a_round)
        saved = self.clock()
        while True:
            if self.at <= self.last_evaluated and self.at % self.run.evaluate_every == 0:
                step = self.at * self.steps_a_round
                if step not in self.steps:
                    self.rows.append(self.evaluation().double().cpu())
                    self.steps.append(step)
                    if path is not None and self.clock() - saved >= self.saved_after:
                        self.save(path)
                        saved = self.clock()
            if self.at >= self.rounds or None not in self.diverged_at:
                break
            self.advance(tick)
        if left := self.rounds - self.at:  # all diverged
            tick(len(self.runs) * left * self.steps_a_round)
        if path is not None and self.clock() - self.begin >= self.saved_after:
            self.save(path)
        return self.logs()

    def _flat(self, i: int) -> Tensor:
        return torch.cat([p[i].detach().flatten() for p in self.parameters.values()]).clone()

    def logs(self) -> list[Log]:
        steps, rows = np.array(self.steps), torch.stack(self.rows, 1).numpy()
        logs = []
        for i, (run, diverged) in enumerate(zip(self.runs, self.diverged_at, strict=True)):
            known = steps <= (steps[-1] if diverged is None else diverged)
            last = self._flat(i) if diverged is None else self.last[i]
            logs.append(
                Log(
                    run.columns(),
                    np.column_stack([steps[known], rows[i, known]]),
                    diverged,
                    last.numpy(force=True),
                    self.earlier,
                    self.provenance,
                )
            )
        return logs

    def save(self, path: Path) -> None:
        """Write all that the rest of the training depends on, whole or not at all."""
        tensors = {"rows": torch.stack(self.rows)}
        states = self.optimizer.state_dict()["state"]
        for i, (name, parameter) in enumerate(self.parameters.items()):
            tensors[f"parameter {name}"] = parameter.detach()
            for key, value in states.get(i, {}).items():
                tensors[f"state {key} {name}"] = value
        for i, last in enumerate(self.last):
            if last is not None:
                tensors[f"last {i}"] = last
        header = {
            "runs": [run.specification() for run in self.runs],
            "at": self.at,
            "steps": self.steps,
            "diverged at": self.diverged_at,
            "seconds": self.earlier + self.clock() - self.begin,
            "provenance": self.provenance,
            **self.state(),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(header)
        metadata = {"training": text, "checksum": _checksum(text, tensors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, safetensors.torch.save(tensors, metadata))

    def state(self) -> dict:
        """What else a subclass has to know to go on, as JSON has it; attributes by name."""
        return {}

    def resume(self, path: Path) -> None:
        """Go on from what ``save`` wrote, perhaps for runs of fewer rounds than these.

        Raises:
            ValueError: the file is damaged, of other runs, or trained longer than these.
        """
        tensors, header = _read(path)
        saved = [_name(run_of(each)) for each in header["runs"]]
        if saved != [_name(run) for run in self.runs]:
            raise ValueError(f"{path} is the checkpoint of other runs: delete it, or name another")
        if header["at"] > self.rounds:
            length = self.run.length
            raise ValueError(
                f"{path} has trained {header['at']} {length} already, and "
                f"{getattr(self.run, length)} are asked for: take more {length}, or name another "
                "file"
            )
        self.at, self.steps, self.earlier = header["at"], header["steps"], header["seconds"]
        self.diverged_at, self.rows = header["diverged at"], list(tensors["rows"])
        for name in self.state():
            setattr(self, name, header[name])
        for name, before in header["provenance"].items():
            legs = [*before.split(" then "), self.provenance.get(name, before)]
            self.provenance[name] = " then ".join(dict.fromkeys(legs))
        state = self.optimizer.state_dict()
        with torch.no_grad():
            for i, (name, parameter) in enumerate(self.parameters.items()):
                parameter.copy_(tensors[f"parameter {name}"])
                entries = {
                    key.split(" ")[1]: tensor
                    for key, tensor in tensors.items()
                    if key.startswith("state ") and key.endswith(f" {name}")
                }
                if entries:
                    state["state"][i] = entries
        self.optimizer.load_state_dict(state)
        for i in range(len(self.runs)):
            self.last[i] = tensors.get(f"last {i}")


def _name(run: BaseRun) -> dict:
    """What a run of any length is called in a checkpoint."""
    return run.but(**{run.length: 0}).specification()


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["checksum"] != _checksum(metadata["training"], tensors):
            raise ValueError("its checksum does not fit")
        return tensors, json.loads(metadata["training"])
    except (SafetensorError, KeyError, ValueError) as reason:
        raise ValueError(
            f"{path} is not a whole checkpoint ({reason}): delete it to begin anew"
        ) from reason


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    parts = [header.encode()]
    for name in sorted(tensors):
        parts += [name.encode(), tensors[name].numpy().tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
