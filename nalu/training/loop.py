"""The loop around a model that ``generated`` prints.

The text of this file is the beginning of every generated module, whose end defines the
functions of the model that are named here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

# ruff: noqa: F401 (some are for what is printed)
from .cpu import adam, compiled, options, reassociating, sparsity_strength, targets
from .elementary import cos, exp, log, sigmoid, sin, tanh
from .random import BLOCK, EXTRAPOLATION, INTERPOLATION, TRAINING, fill

construct = predict = gradients = pull_back = matrices = project = None  # printed at the end
regularise_draft = regularise_final = None


class Memory(NamedTuple):
    """What the functions of the model keep numbers in."""

    e: np.ndarray  # what is made of parameters alone
    de: np.ndarray  # its gradients
    matrices: np.ndarray  # all elements of the effective matrices
    rows: np.ndarray  # (·, BLOCK)
    sums: np.ndarray  # (·, turns)


@reassociating
def plus(a, b):
    """a + b, in any order: so a sum over rows can be taken in vectors."""
    return a + b


@njit(**{**options, "forceinline": False})  # rare, and its own copy of the model to compile
def evaluate(p, memory, task, step, row):
    """Interpolation MSE, extrapolation MSE and sparsity error into a row of the log."""
    inside = outside = 0.0
    for begin in range(0, task.rows, BLOCK):
        for k in range(2):
            x, stored = task.x, (task.validation, task.test)[k]
            if len(stored) > 0:
                x = stored[begin // BLOCK]
            else:
                low, unit = (task.interpolation, task.extrapolation)[k]
                purpose = (INTERPOLATION, EXTRAPOLATION)[k]
                fill(x, task.seed, purpose, step, begin, task.rows - 1, low, unit)
            targets(task, x)
            error, t = task.errors[k], task.t[0]
            predict(p, memory.e, x, error, memory.rows)
            for r in range(BLOCK):
                error[r] -= t[r]
        for r in range(min(BLOCK, task.rows - begin)):
            inside += np.float64(task.errors[0, r]) ** 2
            outside += np.float64(task.errors[1, r]) ** 2
    matrices(p, memory.matrices)
    worst = 0.0
    for w in memory.matrices:
        a = abs(np.float64(w))
        distance = min(a, abs(1 - a))
        if not (distance <= worst or np.isnan(worst)):
            worst = distance
    row[0], row[1], row[2] = inside / task.rows, outside / task.rows, worst


@njit(**options, cache=True)
def advance(begin, end, task, rules, state, memory, rows):
    """Steps ``begin`` to ``end - 1`` of a run; the step that diverged, or -1.

    ``state`` is Adam's; ``rows``, (evaluations, 3), gets a row at every evaluation.
    """
    p, g = state[0], state[1]
    for step in range(begin, end):
        construct(p, memory.e)
        if step % rules.evaluate_every == 0:
            evaluate(p, memory, task, step, rows[step // rules.evaluate_every])
        g[:] = 0
        loss = gradients(p, g, memory, task, rules, step)
        if not np.isfinite(loss):
            return step
        pull_back(p, g, memory.de)
        strength = p.dtype.type(sparsity_strength(rules, step))
        if rules.projects:
            regularise_final(p, g, strength)
            adam(state, rules.learning_rate, step)
            project(p)
        else:
            regularise_draft(p, g, strength)
            adam(state, rules.learning_rate, step)
    return -1
