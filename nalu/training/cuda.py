"""The engine for GPUs: one fused Triton kernel, a program per run.

A launch takes all runs of one shape and schedule, whatever their seeds, windows and ranges,
through up to ``STRIDE`` steps. A program is one warp (more
for big layers), so that threads meet by shuffles and wait at no barrier within a tile. It draws
the batch tile by tile in registers, takes each tile through both layers and back with gradients
written by hand, and adds the gradients up in registers; sums over the batch are taken once a step.
Parameters and Adam's moments are a few kilobytes a run that stay in the caches. Nothing else is
read or written in a step.

Samples are laid out (columns, rows) with rows the innermost lanes, so a thread has few rows and
many columns: a sum over columns is mostly within a thread. The four words of a block of the
stream, the columns 4q ... 4q + 3, stay in one thread as well, as columns q, Q + q, 2Q + q,
3Q + q, Q being the number of blocks in a row rounded up to a power of 2. Parameters of the first
layer have the same order, and ones that belong to no column are kept at zero, where no unit sees
the input. A layer is up to three effective matrices, as in ``cpu``: the functions below know a
unit by its kind, and the kinds, sizes and rules of a run are constants of its kernel.

Without a CUDA device the engine serves nothing, unless TRITON_INTERPRET is set to 1 before this
module is imported: then kernels run in Triton's interpreter, as tests do.
"""

# ruff: noqa: SIM109 (kernels have no ``in``)

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

import numpy as np
import torch

from ..tasks.arithmetic import OPERATIONS
from ..units import EPSILON
from . import random
from .fused import fused_objection, log_of
from .random import EXTRAPOLATION, INTERPOLATION, TEST, TRAINING, VALIDATION
from .run import SHARED_SEED, Log, Run

TRAINS, CHECKPOINTS = Run, False

# Batches of runs that share a device, each launched by a thread. Launches take turns in so many
# queues, 8 unless told otherwise before a device is used: with 8, forty batches had a fifth of the
# speed of an H100.
AT_ONCE = 32
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", str(AT_ONCE))

# Triton takes 70 MB: imported where torch is built for GPUs, or the variable says how to run it.
triton = None
if torch.backends.cuda.is_built() or "TRITON_INTERPRET" in os.environ:
    with suppress(ImportError):  # there is no Triton for macOS and Windows
        import triton
        import triton.language as tl

jit = triton.jit if triton else lambda function: function
constant = tl.constexpr if triton else lambda value: value

TILE = 1024  # numbers of a tile of gradients in the registers of a warp
LARGEST = 1 << 14  # numbers in a padded matrix
STRIDE = 2_000  # steps of a launch at most: a fraction of a second, so that Ctrl-C is heard
CHUNK = 100_000  # steps whose schedule is on the device
AHEAD = 2  # launches that wait for the device, so that it never waits for Python
INTERPRETED = bool(triton) and triton.knobs.runtime.interpret

# Kinds of layers, and operations in the order of OPERATIONS.
KINDS = (
    "Linear", "ReLU", "ReLU6", "NAC", "NACMul", "NALU", "NAU", "NMU", "NALU (separate)",
)  # fmt: skip
LINEAR, RELU, RELU6, NAC, NAC_MUL, NALU, NAU, NMU, NALU_SEPARATE = map(constant, range(len(KINDS)))
MATRICES = 1, 1, 1, 2, 2, 3, 1, 1, 5  # trained ones, of each kind
ADD, SUB, MUL, DIV, SQRT, SQUARE = map(constant, range(6))
TINY = constant(EPSILON)
M0, M1 = map(constant, random.MULTIPLIERS)
W0, W1 = map(constant, random.WEYL)
TRAIN, FRESH_INTERPOLATION, FRESH_EXTRAPOLATION = map(
    constant, (TRAINING, INTERPOLATION, EXTRAPOLATION)
)
FIXED_VALIDATION, FIXED_TEST, FIXED_SEED = map(constant, (VALIDATION, TEST, SHARED_SEED))


# Elementary functions to about one unit in the last place (Cephes, as in ``elementary``); those
# of Triton are the chip's approximations.


@jit
def exp(x):
    inside = tl.minimum(tl.maximum(x, -86.9), 88.72283)
    n = tl.floor(inside * 1.44269504088896341 + 0.5)
    y = inside - n * 0.693359375 + n * 2.12194440e-4
    p = 1.9875691500e-4 * y + 1.3981999507e-3
    p = ((p * y + 8.3334519073e-3) * y + 4.1665795894e-2) * y + 1.6666665459e-1
    p = (p * y + 5.0000001201e-1) * y * y + y + 1.0
    half_power = ((n.to(tl.int32) + 126) << 23).to(tl.float32, bitcast=True)
    p = 2.0 * p * half_power
    p = tl.where(x > 88.72283, float("inf"), tl.where(x < -86.9, 0.0, p))
    return tl.where(x == x, p, x)


@jit
def log(x):
    """Of positive normal numbers, ∞ and NaN."""
    bits = x.to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    low = mantissa < 0.707106781186547524
    exponent = ((bits >> 23) - tl.where(low, 127, 126)).to(tl.float32)
    y = tl.where(low, mantissa + mantissa, mantissa) - 1.0
    z = y * y
    p = (7.0376836292e-2 * y - 1.1514610310e-1) * y + 1.1676998740e-1
    p = ((p * y - 1.2420140846e-1) * y + 1.4249322787e-1) * y - 1.6668057665e-1
    p = ((p * y + 2.0000714765e-1) * y - 2.4999993993e-1) * y + 3.3333331174e-1
    r = y * z * p - exponent * 2.12194440e-4 - 0.5 * z
    return tl.where(x < float("inf"), y + r + exponent * 0.693359375, x)


@jit
def tanh(x):
    z = x * x
    p = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
    p = ((p * z + 1.33314422036e-1) * z - 3.33332819422e-1) * z
    far = 1.0 - 2.0 / (exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, p * x + x, tl.where(x < 0.0, -far, far))


@jit
def sigmoid(x):
    return 1.0 / (1.0 + exp(-x))


# The stream.


@jit
def philox(c0, c1, c2, c3, k0, k1):
    """``random.philox`` for uint32: shapes may differ, and the first rounds stay small."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * M0
        p1 = c2.to(tl.uint64) * M1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 += W0
        k1 += W1
    return c0, c1, c2, c3


@jit
def words(purpose, step, rows, quads, k0, k1):
    """All words of a step's rows, (R,), and blocks, (Q,): (4 Q, R) uint32."""
    step = step.to(tl.uint32)
    purpose = tl.zeros_like(step) + purpose
    w0, w1, w2, w3 = philox(quads[:, None], rows[None, :], step, purpose, k0, k1)
    w = tl.permute(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (2, 3, 0, 1))
    return tl.reshape(w, (4 * quads.shape[0], rows.shape[0]))


@jit
def samples(w, ranges, RANGES: tl.constexpr):
    """Words as ``random.scale`` makes them numbers; ranges: RANGES lows, RANGES units.

    The product is rounded before the sum: adding it to 0 keeps it from being fused with that.
    """
    k = (w >> 8).to(tl.int32)
    if RANGES == 1:
        return tl.load(ranges) + tl.fma(k.to(tl.float32), tl.load(ranges + 1), 0.0)
    k = k * RANGES
    unit = tl.load(ranges + RANGES + (k >> 24))
    return tl.load(ranges + (k >> 24)) + tl.fma((k & 0xFFFFFF).to(tl.float32), unit, 0.0)


@jit
def targets(x, in_a, in_b, OPERATION: tl.constexpr):
    """x: (I, R), and 1 where a column is in a window, else 0: (I,) each -> (R,)."""
    a = tl.sum(x * in_a[:, None], 0)
    b = tl.sum(x * in_b[:, None], 0)
    if OPERATION == ADD:
        return a + b
    elif OPERATION == SUB:
        return a - b
    elif OPERATION == MUL:
        return a * b
    elif OPERATION == DIV:
        return tl.div_rn(a, b)
    elif OPERATION == SQRT:
        return tl.sqrt_rn(a)
    else:
        return a * a


# One unit. x: (I, R); effective matrices and ``index``, where their numbers are: (O, I).


@jit
def nac_weight(p, index, N: tl.constexpr):
    return tanh(tl.load(p + index)) * sigmoid(tl.load(p + N + index))


@jit
def construct(KIND: tl.constexpr, p, index, N: tl.constexpr):
    """Effective matrices (additive, multiplicative, gate), and bias, (O,), of parameters at p."""
    bias = tl.sum(tl.zeros_like(index), 1).to(tl.float32)
    if KIND == NAC or KIND == NAC_MUL:
        w = nac_weight(p, index, N)
        return w, w, w, bias
    gate = tl.load(p + index)
    if KIND == NALU:
        w = nac_weight(p + N, index, N)
        return w, w, gate, bias
    elif KIND == NALU_SEPARATE:
        return nac_weight(p + N, index, N), nac_weight(p + 3 * N, index, N), gate, bias
    elif KIND == NAU:
        w = tl.minimum(tl.maximum(gate, -1.0), 1.0)
        return w, w, w, bias
    elif KIND == NMU:
        w = tl.minimum(tl.maximum(gate, 0.0), 1.0)
        return w, w, w, bias
    else:
        bias = tl.load(p + N + tl.arange(0, index.shape[0]))
        return gate, gate, gate, bias


@jit
def matmul(w, x):
    return tl.sum(w[:, :, None] * x[None, :, :], 1)


@jit
def product(f):
    """Over the second of three dimensions."""
    last = tl.arange(0, f.shape[1])[None, :, None] == f.shape[1] - 1
    return tl.sum(tl.where(last, tl.cumprod(f, 1), 0.0), 1)


@jit
def forward(KIND: tl.constexpr, x, matrices):
    """The output, (O, R), and three things that ``backward`` wants."""
    add, mul, gate, bias = matrices
    if KIND == NMU:  # the product of the factors that are not 0, and how many are
        f = mul[:, :, None] * x[None, :, :] + (1.0 - mul)[:, :, None]
        m = product(tl.where(f == 0.0, 1.0, f))
        zeros = tl.sum(tl.where(f == 0.0, 1.0, 0.0), 1)
        return tl.where(zeros > 0.0, 0.0, m), zeros, m, m
    elif KIND == NAC_MUL:
        m = exp(matmul(mul, log(tl.abs(x) + TINY)))
        return m, m, m, m
    elif KIND == NALU or KIND == NALU_SEPARATE:
        s = matmul(add, x)
        m = exp(matmul(mul, log(tl.abs(x) + TINY)))
        g = sigmoid(matmul(gate, x))
        return g * s + (1.0 - g) * m, s, m, g
    else:
        s = matmul(add, x) + bias[:, None]
        z = s
        if KIND == RELU or KIND == RELU6:
            z = tl.where(s < 0.0, 0.0, s)
        if KIND == RELU6:
            z = tl.where(s > 6.0, 6.0, z)
        return z, s, s, s


@jit
def backward(KIND: tl.constexpr, x, matrices, kept, dz, totals, WANTS_DX: tl.constexpr):
    """Add to the gradients of the matrices, row by row: (O, I, R); and ∂L/∂x: (I, R)."""
    add, mul, gate, _ = matrices
    s, m, g = kept
    d_add, d_mul, d_gate, d_bias = totals
    dx = tl.zeros_like(x)
    if KIND == NMU:  # eq. 6, with the product without factor i
        f = mul[:, :, None] * x[None, :, :] + (1.0 - mul)[:, :, None]
        others = tl.where(s > 0.0, 0.0, m * dz)[:, None, :] / tl.where(f == 0.0, 1.0, f)
        d = tl.where(f == 0.0, tl.where(s == 1.0, m * dz, 0.0)[:, None, :], others)
        d_mul += d * (x - 1.0)[None, :, :]
        if WANTS_DX:
            dx = tl.sum(d * mul[:, :, None], 0)
    elif KIND == NAC_MUL or KIND == NALU or KIND == NALU_SEPARATE:
        if KIND != NAC_MUL:
            ds, dg = dz * g, dz * (s - m) * g * (1.0 - g)
            dz = dz * (1.0 - g)
            d_add += ds[:, None, :] * x[None, :, :]
            d_gate += dg[:, None, :] * x[None, :, :]
            if WANTS_DX:
                dx += tl.sum(add[:, :, None] * ds[:, None, :], 0)
                dx += tl.sum(gate[:, :, None] * dg[:, None, :], 0)
        dm = dz * m
        size = tl.abs(x) + TINY
        d_mul += dm[:, None, :] * log(size)[None, :, :]
        if WANTS_DX:
            sign = tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))
            dx += tl.sum(mul[:, :, None] * dm[:, None, :], 0) * (sign / size)
    else:
        if KIND == RELU or KIND == RELU6:
            dz = tl.where(s <= 0.0, 0.0, dz)
        if KIND == RELU6:
            dz = tl.where(s >= 6.0, 0.0, dz)
        d_bias += dz
        d_add += dz[:, None, :] * x[None, :, :]
        if WANTS_DX:
            dx = tl.sum(add[:, :, None] * dz[:, None, :], 0)
    return (d_add, d_mul, d_gate, d_bias), dx


@jit
def adam(p, index, gradient, size, correction, N: tl.constexpr, LOW: tl.constexpr = None):
    """One update of the parameters at p + index, with moments N and 2 N further on.

    If there is a LOW, they are projected to [LOW, 1] (final paper).
    """
    p += index
    mean = 0.9 * tl.load(p + N) + 0.1 * gradient
    square = 0.999 * tl.load(p + 2 * N) + 0.001 * gradient * gradient
    w = tl.load(p) - tl.div_rn(size * mean, tl.sqrt_rn(square) * correction + 1e-8)
    tl.store(p + N, mean)
    tl.store(p + 2 * N, square)
    if LOW is not None:
        w = tl.where(w < LOW, LOW, tl.where(w > 1.0, 1.0, w))
    tl.store(p, w)


@jit
def update_nac(p, index, dw, size, correction, M: tl.constexpr, N: tl.constexpr):
    """Eq. 2, and one update of Ŵ at p and M̂ at p + M."""
    t, s = tanh(tl.load(p + index)), sigmoid(tl.load(p + M + index))
    adam(p, index, dw * (1.0 - t * t) * s, size, correction, N)
    adam(p + M, index, dw * t * s * (1.0 - s), size, correction, N)


@jit
def update(KIND: tl.constexpr, DRAFT: tl.constexpr, COUNT: tl.constexpr, p, index, real, totals,
           size, correction, strength, N: tl.constexpr):  # fmt: skip
    """From gradients of effective matrices to parameters; COUNT is how many a matrix has."""
    M: tl.constexpr = index.shape[0] * index.shape[1]
    add, mul, gate, bias = totals
    add, mul = tl.where(real, tl.sum(add, 2), 0.0), tl.where(real, tl.sum(mul, 2), 0.0)
    gate = tl.where(real, tl.sum(gate, 2), 0.0)
    if KIND == NAC:
        update_nac(p, index, add, size, correction, M, N)
    elif KIND == NAC_MUL:
        update_nac(p, index, mul, size, correction, M, N)
    elif KIND == NALU or KIND == NALU_SEPARATE:
        adam(p, index, gate, size, correction, N)
        if KIND == NALU:
            update_nac(p + M, index, add + mul, size, correction, M, N)
        else:
            update_nac(p + M, index, add, size, correction, M, N)
            update_nac(p + 3 * M, index, mul, size, correction, M, N)
    elif KIND <= RELU6:
        adam(p, index, add, size, correction, N)
        rows = tl.arange(0, index.shape[0])
        adam(p + M, rows, tl.sum(bias, 1), size, correction, N)
    else:  # NAU, NMU: eq. 3 and 5
        low: tl.constexpr = -1.0 if KIND == NAU else 0.0
        w = tl.load(p + index)
        g = tl.where((w >= low) & (w <= 1.0), add if KIND == NAU else mul, 0.0)
        a = tl.abs(w)
        if DRAFT:
            inner = a if KIND == NAU else w
            g += strength * w * (1.0 - inner) * (1.0 - 2.0 * inner)
            beyond = tl.where(w > 1.0, w - 1.0, tl.where(w < low, w - low, 0.0))
            g += 2.0 / COUNT * beyond
            adam(p, index, g, size, correction, N)
        else:
            slope = tl.where(a < 0.5, 1.0, tl.where((a > 0.5) & (a < 1.0), -1.0, 0.0))
            g += strength * tl.where(w > 0.0, slope, tl.where(w < 0.0, -slope, 0.0))
            adam(p, index, g, size, correction, N, low)


@jit
def sparsity_error(KIND: tl.constexpr, matrices):
    """max over the unit's matrices of min(|W|, |1 - |W||); 0 where there is no parameter."""
    add, mul, _, _ = matrices
    a, b = tl.abs(add), tl.abs(mul)
    distance = tl.minimum(a, tl.abs(1.0 - a))
    if KIND == NALU_SEPARATE:
        distance = tl.maximum(distance, tl.minimum(b, tl.abs(1.0 - b)))
    nan = tl.sum(tl.sum(tl.where(distance == distance, 0.0, 1.0), 1), 0) > 0.0
    return tl.where(nan, float("nan"), tl.max(tl.max(distance, 1), 0))


# The kernel.


@jit
def mean_error(FIRST: tl.constexpr, SECOND: tl.constexpr, OPERATION: tl.constexpr, first, second,
               purpose, step, quads, k0, k1, ranges, RANGES: tl.constexpr, in_a, in_b,
               ROWS: tl.constexpr, R: tl.constexpr):  # fmt: skip
    """MSE over ROWS samples."""
    total = tl.zeros((R,), tl.float64)
    for above in range(0, ROWS, R):
        rows = above + tl.arange(0, R)
        x = samples(words(purpose, step, rows.to(tl.uint32), quads, k0, k1), ranges, RANGES)
        z, _, _, _ = forward(FIRST, x, first)
        z, _, _, _ = forward(SECOND, z, second)
        d = (tl.sum(z, 0) - targets(x, in_a, in_b, OPERATION)).to(tl.float64)
        total += tl.where(rows < ROWS, d * d, 0.0)
    return tl.sum(total, 0) / ROWS


@jit(do_not_specialize=["log", "begin", "end", "evaluate"]) if triton else jit
def kernel(state, runs, ranges, schedule, log, diverged, begin, end, evaluate,
           FIRST: tl.constexpr, SECOND: tl.constexpr, OPERATION: tl.constexpr,
           DRAFT: tl.constexpr, INPUTS: tl.constexpr, HIDDEN: tl.constexpr,
           BATCH: tl.constexpr, ROWS: tl.constexpr, NEAR: tl.constexpr, FAR: tl.constexpr,
           SPLIT: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, H: tl.constexpr,
           R: tl.constexpr, SCORED: tl.constexpr):  # fmt: skip
    """Evaluate if asked to, then make the steps from ``begin`` to before ``end``.

    Args:
        state: (runs, 3, N) parameters and Adam's moments, padded; the second layer's at SPLIT.
        runs: (runs, 6) int32: two halves of the seed, and the columns where the windows
            a and b begin and end.
        ranges: (runs, ·) the interpolation range as ``samples`` wants it, then the extrapolation
            range.
        schedule: (steps, 4) numbers that ``schedule_of`` gives for each step.
        log: (runs, 3) float64, a row of the evaluation.
        diverged: (runs,) int32, the step where a run ended, or -1.
        NEAR, FAR: how many ranges the two are unions of.
        Q, H, R, SCORED: padded numbers of blocks and hidden units; rows of a tile when training
            and when evaluating.
    """
    run = tl.program_id(0)
    p = state + run.to(tl.int64) * (3 * N)
    ranges += run * (2 * NEAR + 2 * FAR)
    k0 = tl.load(runs + 6 * run).to(tl.uint32, bitcast=True)
    k1 = tl.load(runs + 6 * run + 1).to(tl.uint32, bitcast=True)
    position = tl.arange(0, 4 * Q)
    column = 4 * (position % Q) + position // Q
    begins, ends = tl.load(runs + 6 * run + 2), tl.load(runs + 6 * run + 3)
    in_a = ((column >= begins) & (column < ends)).to(tl.float32)
    begins, ends = tl.load(runs + 6 * run + 4), tl.load(runs + 6 * run + 5)
    in_b = ((column >= begins) & (column < ends)).to(tl.float32)
    quads = tl.arange(0, Q).to(tl.uint32)
    hidden = tl.arange(0, H)
    index1 = hidden[:, None] * (4 * Q) + position[None, :]
    index2 = tl.arange(0, 1)[:, None] + hidden[None, :]
    real1 = (hidden < HIDDEN)[:, None] & (column < INPUTS)[None, :]
    real2 = (hidden < HIDDEN)[None, :]

    alive = tl.load(diverged + run) < 0
    if alive & (evaluate > 0):
        first = construct(FIRST, p, index1, 4 * Q * H)
        second = construct(SECOND, p + SPLIT, index2, H)
        far = ranges + 2 * NEAR
        if DRAFT:
            near_purpose, far_purpose, at = FRESH_INTERPOLATION, FRESH_EXTRAPOLATION, begin
            e0, e1 = k0, k1
        else:  # numbers computed from others, because the stream wants them on the chip
            near_purpose, far_purpose, at = FIXED_VALIDATION, FIXED_TEST, begin * 0
            e0, e1 = k0 * 0 + FIXED_SEED, k1 * 0
        near_error = mean_error(FIRST, SECOND, OPERATION, first, second, near_purpose, at, quads,
                                e0, e1, ranges, NEAR, in_a, in_b, ROWS, SCORED)  # fmt: skip
        far_error = mean_error(FIRST, SECOND, OPERATION, first, second, far_purpose, at, quads,
                               e0, e1, far, FAR, in_a, in_b, ROWS, SCORED)  # fmt: skip
        worst = tl.maximum(sparsity_error(FIRST, first), sparsity_error(SECOND, second),
                           propagate_nan=tl.PropagateNan.ALL)  # fmt: skip
        tl.store(log + 3 * run, near_error)
        tl.store(log + 3 * run + 1, far_error)
        tl.store(log + 3 * run + 2, worst.to(tl.float64))

    step = tl.where(alive, begin, end)
    while step < end:
        first = construct(FIRST, p, index1, 4 * Q * H)
        second = construct(SECOND, p + SPLIT, index2, H)
        g = tl.zeros((H, 4 * Q, R), tl.float32)
        totals1 = g, g, g, tl.zeros((H, R), tl.float32)
        g = tl.zeros((1, H, R), tl.float32)
        totals2 = g, g, g, tl.zeros((1, R), tl.float32)
        loss = tl.zeros((R,), tl.float32)
        for above in range(0, BATCH, R):
            rows = above + tl.arange(0, R)
            x = samples(words(TRAIN, step, rows.to(tl.uint32), quads, k0, k1), ranges, NEAR)
            h, s1, m1, g1 = forward(FIRST, x, first)
            z, s2, m2, g2 = forward(SECOND, h, second)
            d = tl.sum(z, 0) - targets(x, in_a, in_b, OPERATION)
            d = tl.where(rows < BATCH, d, 0.0)
            loss += d * d
            dz = (d * (2.0 / BATCH))[None, :]
            totals2, dh = backward(SECOND, h, second, (s2, m2, g2), dz, totals2, True)
            totals1, _ = backward(FIRST, x, first, (s1, m1, g1), dh, totals1, False)
        if tl.abs(tl.sum(loss, 0)) < float("inf"):
            size, correction = tl.load(schedule), tl.load(schedule + 1)
            tl.debug_barrier()  # every thread has read the parameters
            update(FIRST, DRAFT, HIDDEN * INPUTS, p, index1, real1, totals1, size, correction,
                   tl.load(schedule + 2), N)  # fmt: skip
            update(SECOND, DRAFT, HIDDEN, p + SPLIT, index2, real2, totals2, size, correction,
                   tl.load(schedule + 3), N)  # fmt: skip
            tl.debug_barrier()  # every thread sees the new ones
            schedule += 4
            step += 1
        else:
            tl.store(diverged + run, step)
            step = end


# From specifications to a launch and back.


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is n or more."""
    return 1 << (n - 1).bit_length()


def shape_of(run: Run) -> dict[str, int | bool]:
    """The constants of the kernel that trains a run."""
    task = run.task
    first, second = map(KINDS.index, run.layers)
    quads, hidden = power_of_2(-(-task.input_size // 4)), power_of_2(run.hidden_size)
    split, n = size(first, hidden, 4 * quads), size(second, 1, hidden)
    rows = min(power_of_2(run.batch_size), 128, max(1, TILE // numbers(first, hidden, quads)))
    scored = rows
    if INTERPRETED:  # where an operation costs the same for few numbers as for many
        rows, scored = power_of_2(run.batch_size), power_of_2(run.protocol.rows)
    return {
        "FIRST": first, "SECOND": second, "OPERATION": list(OPERATIONS).index(task.operation),
        "DRAFT": not run.protocol.projects, "INPUTS": task.input_size,
        "HIDDEN": run.hidden_size, "BATCH": run.batch_size, "ROWS": run.protocol.rows,
        "NEAR": len(task.interpolation), "FAR": len(task.extrapolation),
        "SPLIT": split, "N": split + n, "Q": quads, "H": hidden, "R": rows, "SCORED": scored,
    }  # fmt: skip


def numbers(kind: int, hidden: int, quads: int) -> int:
    """How many gradients the first layer has for one row; a NALU's count twice."""
    return hidden * 4 * quads * (2 if KINDS[kind].startswith("NALU") else 1)


def options_for(shape: dict[str, int | bool]) -> dict[str, int | bool]:
    """How the kernel is compiled: for one warp, unless its tile needs the registers of more."""
    tile = shape["R"] * numbers(shape["FIRST"], shape["H"], shape["Q"])
    return {"num_warps": min(8, max(1, tile // TILE)), "num_stages": 1, "enable_fp_fusion": True}


def size(kind: int, outputs: int, inputs: int) -> int:
    """How many numbers the parameters of a layer are in the kernel's state."""
    return MATRICES[kind] * outputs * inputs + (outputs if kind <= RELU6 else 0)


def places(shape: dict[str, int | bool]) -> np.ndarray:
    """Where in the kernel's state the parameters of a model are, in its own order."""
    inputs, hidden, quads = shape["INPUTS"], shape["HIDDEN"], shape["Q"]
    column = np.arange(inputs)
    first = np.arange(hidden)[:, None] * (4 * quads) + column % 4 * quads + column // 4
    layers = [(shape["FIRST"], 0, first, shape["H"], 4 * quads)]
    layers += [(shape["SECOND"], shape["SPLIT"], np.arange(hidden)[None], 1, shape["H"])]
    found = []
    for kind, begin, index, outputs, padded in layers:
        for k in range(MATRICES[kind]):
            found.append(begin + k * outputs * padded + index.ravel())
        if kind <= RELU6:
            found.append(begin + outputs * padded + np.arange(len(index)))
    return np.concatenate(found)


def schedule_of(run: Run, begin: int, end: int) -> np.ndarray:
    """What depends on the step alone: (end - begin, 4) float32.

    Of Adam the step size and the correction of the second moment, and the strength of the
    sparsity regulariser's gradient in the first and in the second layer.
    """
    t = np.arange(begin, end, dtype=np.float64)
    rule, counts = run.protocol, (run.task.input_size * run.hidden_size, run.hidden_size)
    strength = rule.sparsity_strength(t) * (1 if rule.projects else 2)  # of a square's gradient
    columns = [run.learning_rate / (1 - 0.9 ** (t + 1)), 1 / np.sqrt(1 - 0.999 ** (t + 1))]
    columns += [strength / count for count in counts]
    return np.stack(columns, -1).astype(np.float32)


def available() -> bool:
    """Whether there is a device, or the interpreter stands in for one."""
    return INTERPRETED or (triton is not None and torch.cuda.is_available())


def objection(run: Run) -> str:
    """Why this engine cannot train the run here, or ""."""
    if not available():
        return "finds no CUDA device"
    if reason := fused_objection(run, KINDS):
        return reason
    if run.iterations >= 2**31 - 1:
        return f"counts to 2³¹ steps, not to {run.iterations}"
    if power_of_2(run.hidden_size) * power_of_2(-(-run.task.input_size // 4)) * 4 > LARGEST:
        return f"has no room for {run.task.input_size} inputs and {run.hidden_size} hidden units"
    return ""


def train(runs: Sequence[Run], tick: Callable[[int], None] = lambda steps: None) -> list[Log]:
    """Train runs side by side, those of one shape and schedule in one launch.

    ``tick`` is called with the number of steps (times runs) done since the last call, several
    times a second when there are few runs; what it raises ends the training.

    Raises:
        ValueError: a run that this engine does not serve, or there is no CUDA device.
    """
    for run in runs:
        if reason := objection(run):
            raise ValueError(f"engine 'cuda' {reason}: use engine 'auto'")
    kinds: dict[tuple, list[int]] = {}
    for i, run in enumerate(runs):
        kinds.setdefault(beside(run), []).append(i)
    logs: dict[int, Log] = {}
    # On a stream of its own, so that calls from several threads share the device.
    with nullcontext() if INTERPRETED else torch.cuda.stream(torch.cuda.Stream()):
        for members in kinds.values():
            trained = _train([runs[i] for i in members], tick)
            logs.update(zip(members, trained, strict=True))
    return [logs[i] for i in range(len(runs))]


def beside(run: Run) -> tuple:
    """What runs have in common that are trained in one launch: shape and schedule."""
    schedule = run.protocol, run.learning_rate, run.iterations, run.evaluate_every
    return *shape_of(run).values(), *schedule


def _train(runs: list[Run], tick: Callable[[int], None]) -> list[Log]:
    run, shape = runs[0], shape_of(runs[0])
    where = places(shape)
    initial = [torch.nn.utils.parameters_to_vector(r.build().parameters()) for r in runs]
    state = torch.zeros(len(runs), 3, shape["N"])
    state[:, 0, where] = torch.stack(initial).detach()
    keys = [(r.seed & random.MASK, r.seed >> 32, *np.ravel(r.task.subsets(r.offset))) for r in runs]
    keys = np.array(keys, dtype=np.uint32).view(np.int32)
    sets = [(r.task.interpolation, r.task.extrapolation) for r in runs]
    ranges = [np.concatenate([b for union in both for b in random.bounds(union)]) for both in sets]
    device = torch.device("cpu" if INTERPRETED else "cuda")
    parts = state, keys, np.stack(ranges)
    state, keys, ranges = (torch.as_tensor(part).to(device) for part in parts)
    diverged = torch.full((len(runs),), -1, dtype=torch.int32, device=device)
    log = torch.full((run.evaluations, len(runs), 3), math.nan, dtype=torch.float64, device=device)
    launched: deque[torch.cuda.Event] = deque()
    step, last = 0, run.iterations + 1
    while step < last and (diverged < 0).any():
        begin, stop = step, min(step + CHUNK, last)
        schedule = torch.from_numpy(schedule_of(run, begin, stop)).to(device)
        while step < stop:
            number, since = divmod(step, run.evaluate_every)
            end = min(step - since + run.evaluate_every, step + STRIDE, stop)
            kernel[(len(runs),)](
                state, keys, ranges, schedule[step - begin :], log[number], diverged, step, end,
                int(not since), **shape, **options_for(shape),
            )  # fmt: skip
            if not INTERPRETED:
                launched.append(torch.cuda.Event(blocking=True))
                launched[-1].record()
                if len(launched) > AHEAD:
                    launched.popleft().synchronize()
            tick((end - step) * len(runs))
            step = end
    tick((last - step) * len(runs))
    logs, parameters = log.cpu().numpy(), state[:, 0].cpu().numpy()[:, where]
    return [
        log_of(run, logs[:, i], at, parameters[i])
        for i, (run, at) in enumerate(zip(runs, diverged.tolist(), strict=True))
    ]
