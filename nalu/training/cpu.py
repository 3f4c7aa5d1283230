"""The compiled engine: one fused loop per run, on one core and without Python's lock.

The loop draws samples, goes through both layers and back, adds the regulariser, takes a step of
Adam, projects, and every so often evaluates. ``layers`` says how it is laid out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from ..tasks.arithmetic import OPERATIONS
from . import random
from .fused import fused_objection, log_of
from .layers import (
    KINDS,
    NAC_MUL,
    NALU,
    NALU_SEPARATE,
    NAU,
    NMU,
    add_scaled,
    aligned_zeros,
    backward,
    compiled,
    construct,
    forward,
    layer_of,
    options,
    pull_back,
    reassociating,
)
from .random import BLOCK, EXTRAPOLATION, INTERPOLATION, TEST, TRAINING, VALIDATION, fill
from .run import SHARED_SEED, Log, Run

TRAINS, CHECKPOINTS = Run, False

ADD, SUB, MUL, DIV, SQRT, SQUARE = range(6)


# The rules of a step.


class Rules(NamedTuple):
    """Optimiser and protocol of a run, as numbers."""

    projects: bool  # as the final paper does, and has its regulariser
    strength: float  # of the sparsity regulariser
    rate: float  # its exponential rise (draft)
    start: float  # beginning and end of its ramp (final)
    end: float
    learning_rate: float
    batch_size: int
    evaluate_every: int


@compiled
def sparsity_strength(rules, step):
    """The factor of the protocol's sparsity regulariser at a step."""
    if not rules.projects:
        return rules.strength * (1 - math.exp(-rules.rate * step))
    ramp = (step - rules.start) / (rules.end - rules.start)
    return rules.strength * min(max(ramp, 0.0), 1.0)


@compiled
def add_regulariser(layer, rules, strength):
    """Add the gradient of the protocol's regulariser to ``layer.g`` (eq. 3 and 5)."""
    p, g = layer.p, layer.g
    real = p.dtype.type
    zero, one, two, half = real(0), real(1), real(2), real(0.5)
    symmetric = layer.kind == NAU
    if not rules.projects:
        bias = real(2 * strength / p.size)
        bounds = real(2 / p.size)
        for j in range(p.size):
            w = p[j]
            a = abs(w) if symmetric else w
            g[j] += bias * w * (one - a) * (one - two * a)
            beyond = w - one if w > one else zero
            lowest = -one if symmetric else zero
            beyond = w - lowest if w < lowest else beyond
            g[j] += bounds * beyond
    else:
        slope_size = real(strength / p.size)
        for j in range(p.size):
            a = abs(p[j])
            slope = one if a < half else -one if half < a < one else zero
            slope = slope if p[j] > zero else -slope if p[j] < zero else zero
            g[j] += slope_size * slope


@compiled
def adam(state, rate, step):
    """One update of Adam at a step counted from 0.

    ``state``, (4, parameters), has parameters, gradients, and their first and second moments.
    """
    p, g, mean, square = state[0], state[1], state[2], state[3]
    real = p.dtype.type
    keep_mean, keep_square = real(0.9), real(0.999)
    new_mean, new_square = real(1 - 0.9), real(1 - 0.999)
    size, correction = real(rate), real(1)
    if step < 40_000:  # later both powers are below 2⁻⁵⁴; taking them is a tenth of a step
        size = real(rate / (1 - 0.9 ** (step + 1)))
        correction = real(1 / math.sqrt(1 - 0.999 ** (step + 1)))
    epsilon = real(1e-8)
    for j in range(p.size):
        mean[j] = keep_mean * mean[j] + new_mean * g[j]
        square[j] = keep_square * square[j] + new_square * g[j] * g[j]
        p[j] -= size * mean[j] / (np.sqrt(square[j]) * correction + epsilon)


@compiled
def project(layer):
    """Move NAU and NMU parameters into their interval (final paper)."""
    p = layer.p
    one, zero = p.dtype.type(1), p.dtype.type(0)
    lowest = -one if layer.kind == NAU else zero
    for j in range(p.size):
        p[j] = lowest if p[j] < lowest else one if p[j] > one else p[j]


# The task and its score.


class Task(NamedTuple):
    """Samples and targets of a run, as numbers."""

    seed: int
    operation: int
    subsets: np.ndarray  # (4,) int64: beginning and end of a, beginning and end of b
    interpolation: tuple[np.ndarray, np.ndarray]  # of ``random.bounds``
    extrapolation: tuple[np.ndarray, np.ndarray]
    validation: np.ndarray  # (blocks, in', BLOCK) stored samples, empty in the draft protocol
    test: np.ndarray
    rows: int  # samples in an evaluation
    x: np.ndarray  # (in', BLOCK) the current block
    t: np.ndarray  # (2, BLOCK) its targets, and scratch
    errors: np.ndarray  # (2, BLOCK) of an evaluation, in both ranges
    ones: np.ndarray  # (in',)


@compiled
def targets(task, x):
    """Targets of the samples x, (in', BLOCK), into ``task.t[0]``."""
    a, b = task.t[0], task.t[1]
    for r in range(BLOCK):
        a[r] = b[r] = 0
    a0, a1, b0, b1 = task.subsets
    add_scaled(task.ones[: a1 - a0], x[a0:a1], a)
    add_scaled(task.ones[: b1 - b0], x[b0:b1], b)
    for r in range(BLOCK):
        if task.operation == ADD:
            a[r] += b[r]
        elif task.operation == SUB:
            a[r] -= b[r]
        elif task.operation == MUL:
            a[r] *= b[r]
        elif task.operation == DIV:
            a[r] /= b[r]
        elif task.operation == SQRT:
            a[r] = np.sqrt(a[r])
        else:
            a[r] *= a[r]


@njit(**{**options, "forceinline": False})  # rare, and its own copy of both layers to compile
def evaluate(first, second, task, step, mse):
    """MSE over ``task.rows`` samples of both ranges: stored ones if there are any, else fresh.

    The two sums grow side by side, because each waits for its last addition.
    """
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
            forward(first, x)
            forward(second, first.z)
            error, z, t = task.errors[k], second.z[0], task.t[0]
            for r in range(BLOCK):
                error[r] = z[r] - t[r]
        for r in range(min(BLOCK, task.rows - begin)):
            inside += np.float64(task.errors[0, r]) ** 2
            outside += np.float64(task.errors[1, r]) ** 2
    mse[0], mse[1] = inside / task.rows, outside / task.rows


@compiled
def sparsity_error(layers):
    """max over the units' matrices of min(|W|, |1 - |W||), NaN if one of these is."""
    worst = 0.0
    for layer in layers:
        for k in range(2):
            additive, both = k == 0, layer.kind in (NALU, NALU_SEPARATE)
            if both or additive != (layer.kind in (NAC_MUL, NMU)):
                for w in layer.e[k]:
                    a = abs(np.float64(w))
                    distance = min(a, abs(1 - a))
                    if not (distance <= worst or np.isnan(worst)):
                        worst = distance
    return worst


@reassociating
def sum_of_squares(d):
    """Σ_r d_r²."""
    total = d.dtype.type(0)
    for r in range(BLOCK):
        total += d[r] * d[r]
    return total


@njit(inline="always")  # by Numba, which saves compiling it by itself
def loss_and_gradients(first, second, task, rules, step):
    """The data loss of a step, with its gradients in ``first.g`` and ``second.g``."""
    for layer in (first, second):
        layer.de[:] = 0
        layer.dbias[:] = 0
    x, t, z, dz = task.x, task.t[0], second.z[0], second.dz[0]
    low, unit = task.interpolation
    scale, zero = x.dtype.type(2 / rules.batch_size), x.dtype.type(0)
    total = 0.0
    for begin in range(0, rules.batch_size, BLOCK):
        fill(x, task.seed, TRAINING, step, begin, rules.batch_size - 1, low, unit)
        targets(task, x)
        forward(first, x)
        forward(second, first.z)
        rows = min(BLOCK, rules.batch_size - begin)
        for r in range(BLOCK):
            dz[r] = z[r] - t[r] if r < rows else zero
        total += sum_of_squares(dz)
        for r in range(BLOCK):
            dz[r] *= scale
        first.dz[:] = 0
        backward(second, first.z, first.dz)
        backward(first, x, x[:0])
    for layer in (first, second):
        pull_back(layer)
    return total / rules.batch_size


def compiled_from(sources: int):
    """``advance``, compiled once for these sources and then read from Numba's cache.

    Numba looks for changes in the file of a cached function only; but its key covers what the
    function closes over, here a digest of all files that are compiled into it.
    """

    @njit(**options, cache=True)
    def advance(begin, end, first, second, task, rules, state, log):
        """Steps ``begin`` to ``end - 1`` of a run; the step that diverged, or -1.

        ``state`` is Adam's, and has the parameters and gradients of the layers; ``log``,
        (evaluations, 3), gets a row of interpolation MSE, extrapolation MSE and sparsity error
        at every evaluation.
        """
        sources  # noqa: B018
        for step in range(begin, end):
            construct(first)
            construct(second)
            if step % rules.evaluate_every == 0:
                row = log[step // rules.evaluate_every]
                evaluate(first, second, task, step, row)
                row[2] = sparsity_error((first, second))
            loss = loss_and_gradients(first, second, task, rules, step)
            if not np.isfinite(loss):
                return step
            strength = sparsity_strength(rules, step)
            for layer in (first, second):
                if layer.kind in (NAU, NMU):
                    add_regulariser(layer, rules, strength)
            adam(state, rules.learning_rate, step)
            if rules.projects:
                for layer in (first, second):
                    if layer.kind in (NAU, NMU):
                        project(layer)
        return -1

    return advance


def digest(*files: str) -> int:
    """A number for the text of files, named from this one's folder."""
    texts = [(Path(__file__).parent / file).read_bytes() for file in files]
    return int(hashlib.sha256(b"".join(texts)).hexdigest()[:15], 16)


SOURCES = "random.py", "elementary.py", "layers.py", "cpu.py", "../units/base.py"
advance = compiled_from(digest(*SOURCES))


# From a specification to arrays and back.


def objection(run: Run) -> str:
    """Why this engine cannot train the run, or ""."""
    return fused_objection(run, KINDS)


@lru_cache(maxsize=8)
def shared_samples(purpose: int, rows: int, columns: int, ranges, dtype: str) -> np.ndarray:
    """The validation or test set of the final protocol, as ``random.blocks`` lays it out."""
    return random.blocks(SHARED_SEED, purpose, 0, rows, columns, ranges).astype(dtype, copy=False)


def task_of(run: Run, dtype: str) -> Task:
    task, columns = run.task, -(-run.task.input_size // 4) * 4
    sets = [np.empty((0, columns, BLOCK), dtype)] * 2
    if run.protocol.fixed:
        sets = [
            shared_samples(purpose, run.protocol.rows, task.input_size, ranges, dtype)
            for purpose, ranges in ((VALIDATION, task.interpolation), (TEST, task.extrapolation))
        ]
    return Task(
        run.seed,
        list(OPERATIONS).index(task.operation),
        np.array(task.subsets(run.offset)).ravel(),
        random.bounds(task.interpolation),
        random.bounds(task.extrapolation),
        *sets,
        run.protocol.rows,
        aligned_zeros((columns, BLOCK), dtype),
        aligned_zeros((2, BLOCK), dtype),
        aligned_zeros((2, BLOCK), dtype),
        np.ones(columns, dtype),
    )


def rules_of(run: Run) -> Rules:
    rule = run.protocol
    shape = (0.0, float(rule.start), float(rule.end)) if rule.projects else (rule.rate, 0.0, 1.0)
    return Rules(
        rule.projects, rule.strength, *shape, run.learning_rate, run.batch_size, run.evaluate_every
    )


def train(
    runs: Sequence[Run], tick: Callable[[int], None] = lambda steps: None, dtype: str = "float32"
) -> list[Log]:
    """Train one run after the other, without holding Python's lock.

    ``tick`` is called with the number of steps done since the last call, several times a
    second; what it raises ends the training.

    Raises:
        ValueError: a run that this engine does not serve.
    """
    return [_train(run, tick, dtype) for run in runs]


def _train(run: Run, tick: Callable[[int], None], dtype: str) -> Log:
    if reason := objection(run):
        raise ValueError(f"engine 'cpu' {reason}: use engine 'auto'")
    state = adam_state(run, dtype)
    split = sum(q.numel() for q in run.build()[0].parameters())
    p, g = state[:2]
    first = layer_of(run.layers[0], p[:split], g[:split], run.hidden_size, run.task.input_size)
    second = layer_of(run.layers[1], p[split:], g[split:], 1, run.hidden_size)
    task, rules = task_of(run, dtype), rules_of(run)

    def steps(begin: int, end: int, log: np.ndarray) -> int:
        return advance(begin, end, first, second, task, rules, state, log)

    return followed(run, steps, p, tick)


def adam_state(run: Run, dtype: str) -> np.ndarray:
    """(4, parameters): the initial parameters of a run, and zeros for the rest of ``adam``."""
    p = torch.nn.utils.parameters_to_vector(run.build().parameters()).detach().numpy()
    state = aligned_zeros((4, p.size), dtype)
    state[0] = p
    return state


def followed(run: Run, steps: Callable, p: np.ndarray, tick: Callable[[int], None]) -> Log:
    """A whole run, 20,000 steps at a time, whose parameters are p.

    ``steps(begin, end, log)`` does those from ``begin`` to ``end - 1``, writes its evaluations,
    and gives the step that diverged, or -1.
    """
    log = np.full((run.evaluations, 3), np.nan)
    stride, diverged, step = 20_000, -1, 0
    while step <= run.iterations and diverged < 0:
        end = min(step + stride, run.iterations + 1)
        diverged = steps(step, end, log)
        tick((end if diverged < 0 else run.iterations + 1) - step)
        step = end
    return log_of(run, log, diverged, p.copy())
