"""What the engines share that have a loop of their own: which runs they serve, and their logs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..tasks.arithmetic import OPERATIONS, Arithmetic
from ..units import unit_of
from .protocol import Draft, Final, Optimizer
from .run import Log, Run


def fused_objection(run: Run, layers: Collection[str], most: int = 2, least: int = 2) -> str:
    """Why a loop for so many of these layers and the paper's rules cannot train a run, or ""."""
    if run.stream != "philox":
        return f"has no stream {run.stream!r}"
    if unknown := [name for name in run.layers if name not in layers]:
        return f"has no layer {unknown[0]}"
    if not least <= len(run.layers) <= most:
        numbers = " or ".join(map(str, range(least, most + 1)))
        return f"trains models of {numbers} layers, not of {len(run.layers)}"
    if run.task.operation not in OPERATIONS or type(run.task).target is not Arithmetic.target:
        return f"has no operation {run.task.operation!r} of {run.task.name}"
    if noisy := [name for name in run.layers if unit_of(name).noisy]:
        return f"has no noise, which {noisy[0]} is trained with"
    if type(run.protocol) not in (Draft, Final):
        return f"has no protocol {run.protocol.name!r}"
    if run.optimizer != Optimizer():
        return "has no optimiser but Adam as it is"
    return ""


def log_of(run: Run, rows: np.ndarray, diverged: int, parameters: np.ndarray) -> Log:
    """The log of a run from its errors, (evaluations, 3), and the step that diverged, or -1."""
    done = rows if diverged < 0 else rows[: diverged // run.evaluate_every + 1]
    steps = np.arange(len(done)) * run.evaluate_every
    columns = np.column_stack([steps, done])
    return Log(run.columns(), columns, None if diverged < 0 else diverged, parameters)
