"""The layers of the compiled engine, with gradients written by hand.

Samples are laid out (columns, BLOCK), so the rows of a batch are the lanes of the processor's
vectors: one block of the stream, of a layer's output or of a gradient is one loop of constant
length. A batch is processed block by block; gradients add up over blocks.

Every unit is reduced to up to three effective matrices, all (out · in,):

    e[0]  additive        z = W x, also of Linear and ReLU
    e[1]  multiplicative  z = exp(W log(|x| + ε)), or Π (W x + 1 - W) for NMU
    e[2]  gate            g = σ(G x)

``construct`` makes them of the trained parameters once a step, ``forward`` and ``backward``
know only them, and ``pull_back`` takes their gradients to the parameters. All functions work
in float32, which trains, and in float64, which tests compare with ``reference``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..units import EPSILON
from .elementary import exp, log, sigmoid, tanh
from .random import BLOCK

LINEAR, RELU, RELU6, NAC, NAC_MUL, NALU, NALU_SEPARATE, NAU, NMU = range(9)
KINDS = {
    "Linear": LINEAR, "ReLU": RELU, "ReLU6": RELU6, "NAC": NAC, "NACMul": NAC_MUL,
    "NALU": NALU, "NALU (separate)": NALU_SEPARATE, "NAU": NAU, "NMU": NMU,
}  # fmt: skip

# Nothing here allocates, so no function counts references (_nrt): a tenth of a µs at every call.
# A layer is some eighty words to pass, so all is inlined: a third of a step of the simple task.
options = {"nogil": True, "error_model": "numpy", "_nrt": False, "forceinline": True}
compiled = njit(**options)
reassociating = njit(**options, fastmath={"reassoc", "contract"})


# Sums over columns and rows. x: (in', BLOCK), in' >= in; z: (out, BLOCK); w: (out · in,).


@compiled
def copy(source, target):
    """target = source, flat."""
    for j in range(len(source)):
        target[j] = source[j]


@reassociating
def add_scaled(w, x, z):
    """z += w x for w, (in,), and one output z, (BLOCK,): four columns at a time."""
    quads = len(w) // 4 * 4
    for i in range(0, quads, 4):
        w0, w1, w2, w3 = w[i], w[i + 1], w[i + 2], w[i + 3]
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        for r in range(BLOCK):
            z[r] += (w0 * x0[r] + w1 * x1[r]) + (w2 * x2[r] + w3 * x3[r])
    for i in range(quads, len(w)):
        w_i, x_i = w[i], x[i]
        for r in range(BLOCK):
            z[r] += w_i * x_i[r]


@compiled
def matmul(w, x, z):
    """z = w x."""
    inputs = len(w) // len(z)
    for o in range(len(z)):
        z_o = z[o]
        for r in range(BLOCK):
            z_o[r] = 0
        add_scaled(w[o * inputs : (o + 1) * inputs], x, z_o)


@reassociating
def add_outer(dz, x, dw):
    """dw += dz xᵀ, the gradient of ``matmul`` for w: four columns at a time."""
    inputs = len(dw) // len(dz)
    zero = dw.dtype.type(0)
    quads = inputs // 4 * 4
    for o in range(len(dz)):
        d, dw_o = dz[o], dw[o * inputs : (o + 1) * inputs]
        for i in range(0, quads, 4):
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            s0 = s1 = s2 = s3 = zero
            for r in range(BLOCK):
                s0 += d[r] * x0[r]
                s1 += d[r] * x1[r]
                s2 += d[r] * x2[r]
                s3 += d[r] * x3[r]
            dw_o[i] += s0
            dw_o[i + 1] += s1
            dw_o[i + 2] += s2
            dw_o[i + 3] += s3
        for i in range(quads, inputs):
            x_i, s = x[i], zero
            for r in range(BLOCK):
                s += d[r] * x_i[r]
            dw_o[i] += s


@reassociating
def add_transposed(w, dz, dx):
    """dx += wᵀ dz, the gradient of ``matmul`` for x."""
    inputs = len(w) // len(dz)
    for o in range(len(dz)):
        dz_o = dz[o]
        for i in range(inputs):
            w_oi, dx_i = w[o * inputs + i], dx[i]
            for r in range(BLOCK):
                dx_i[r] += w_oi * dz_o[r]


# One unit.


class Layer(NamedTuple):
    """A unit's parameters, effective matrices, outputs, their gradients, and scratch."""

    kind: int
    p: np.ndarray  # trained parameters, flat, in the order of ``unit.parameters()``
    g: np.ndarray  # their gradients
    e: np.ndarray  # (3, out · in)
    de: np.ndarray
    bias: np.ndarray  # (out,)
    dbias: np.ndarray
    z: np.ndarray  # (out, BLOCK)
    dz: np.ndarray
    logs: np.ndarray  # (in, BLOCK): log(|x| + ε); for an NMU, products of factors
    branches: np.ndarray  # (3, out, BLOCK): a NALU's sum, product and gate
    factors: np.ndarray  # (4, ·): tanh(Ŵ) and σ(M̂) of NAC's matrices, additive first


@compiled
def nac_construct(w_hat, m_hat, t, s, w):
    """Eq. 2: W = tanh(Ŵ) σ(M̂), all flat, and its factors."""
    for j in range(len(w)):
        t[j], s[j] = tanh(w_hat[j]), sigmoid(m_hat[j])
        w[j] = t[j] * s[j]


@compiled
def nac_pull_back(t, s, dw, g_w, g_m):
    """The gradient of eq. 2 into g_w and g_m."""
    one = dw.dtype.type(1)
    for j in range(len(dw)):
        g_w[j] = dw[j] * (one - t[j] * t[j]) * s[j]
        g_m[j] = dw[j] * t[j] * s[j] * (one - s[j])


@compiled
def construct(layer):
    """The effective matrices and bias of the parameters."""
    kind, p, f = layer.kind, layer.p, layer.factors
    one, zero = p.dtype.type(1), p.dtype.type(0)
    add, mul, gate = layer.e[0], layer.e[1], layer.e[2]
    n = len(add)
    if kind <= RELU6:
        copy(p[:n], add)
        copy(p[n:], layer.bias)
    elif kind in (NAC, NAC_MUL):
        nac_construct(p[:n], p[n:], f[0], f[1], add)
        copy(add, mul)
    elif kind in (NALU, NALU_SEPARATE):
        copy(p[:n], gate)
        nac_construct(p[n : 2 * n], p[2 * n : 3 * n], f[0], f[1], add)
        if kind == NALU:
            copy(add, mul)
        else:
            nac_construct(p[3 * n : 4 * n], p[4 * n :], f[2], f[3], mul)
    elif kind == NAU:
        for j in range(n):
            add[j] = -one if p[j] < -one else one if p[j] > one else p[j]
    elif kind == NMU:
        for j in range(n):
            mul[j] = zero if p[j] < zero else one if p[j] > one else p[j]


@compiled
def pull_back(layer):
    """Gradients of effective matrices and bias to those of the parameters."""
    kind, p, g, f = layer.kind, layer.p, layer.g, layer.factors
    one, zero = p.dtype.type(1), p.dtype.type(0)
    dadd, dmul, dgate = layer.de[0], layer.de[1], layer.de[2]
    n = len(dadd)
    if kind <= RELU6:
        copy(dadd, g[:n])
        copy(layer.dbias, g[n:])
    elif kind in (NAC, NAC_MUL):
        dw = dadd if kind == NAC else dmul
        nac_pull_back(f[0], f[1], dw, g[:n], g[n:])
    elif kind in (NALU, NALU_SEPARATE):
        copy(dgate, g[:n])
        if kind == NALU:
            for j in range(n):
                dadd[j] += dmul[j]
        else:
            nac_pull_back(f[2], f[3], dmul, g[3 * n : 4 * n], g[4 * n :])
        nac_pull_back(f[0], f[1], dadd, g[n : 2 * n], g[2 * n : 3 * n])
    elif kind == NAU:
        for j in range(n):
            g[j] = dadd[j] if -one <= p[j] <= one else zero
    elif kind == NMU:
        for j in range(n):
            g[j] = dmul[j] if zero <= p[j] <= one else zero


@compiled
def forward(layer, x):
    """``layer.z`` of x: (in', BLOCK), in' >= in, -> (out, BLOCK)."""
    kind, e, z = layer.kind, layer.e, layer.z
    one, zero, six = z.dtype.type(1), z.dtype.type(0), z.dtype.type(6)
    outputs, inputs = len(z), len(layer.logs)
    if kind in (NAC_MUL, NALU, NALU_SEPARATE):
        epsilon = z.dtype.type(EPSILON)
        for i in range(inputs):
            x_i, log_i = x[i], layer.logs[i]
            for r in range(BLOCK):
                log_i[r] = log(abs(x_i[r]) + epsilon)
        matmul(e[1], layer.logs, z)
        for o in range(outputs):
            z_o = z[o]
            for r in range(BLOCK):
                z_o[r] = exp(z_o[r])
        if kind != NAC_MUL:
            matmul(e[0], x, layer.branches[0])
            matmul(e[2], x, layer.branches[2])
            for o in range(outputs):
                z_o, add = z[o], layer.branches[0, o]
                mul, gate = layer.branches[1, o], layer.branches[2, o]
                for r in range(BLOCK):
                    mul[r] = z_o[r]
                    gate[r] = sigmoid(gate[r])
                    z_o[r] = gate[r] * add[r] + (one - gate[r]) * mul[r]
    elif kind == NMU:
        for o in range(outputs):
            z_o = z[o]
            z_o[:] = one
            for i in range(inputs):
                w, x_i = e[1, o * inputs + i], x[i]
                for r in range(BLOCK):
                    z_o[r] *= w * x_i[r] + one - w
    else:
        matmul(e[0], x, z)
        if kind <= RELU6:
            for o in range(outputs):
                z_o = z[o]
                for r in range(BLOCK):
                    z_o[r] += layer.bias[o]
                    if kind != LINEAR and z_o[r] < zero:
                        z_o[r] = zero
                    if kind == RELU6 and z_o[r] > six:
                        z_o[r] = six


@compiled
def backward(layer, x, dx):
    """Add to ``layer.de`` and ``layer.dbias``, and to dx, (in', BLOCK), unless it is empty.

    Overwrites ``layer.dz`` and the scratch of ``forward``.
    """
    kind, e, de, z, dz = layer.kind, layer.e, layer.de, layer.z, layer.dz
    one, zero, six = z.dtype.type(1), z.dtype.type(0), z.dtype.type(6)
    outputs, inputs = len(z), len(layer.logs)
    wants_dx = len(dx) > 0
    if kind == NMU:
        nmu_backward(layer, x, dx)
    elif kind in (NAC_MUL, NALU, NALU_SEPARATE):
        if kind != NAC_MUL:
            dadd, dgate = layer.branches[0], layer.branches[2]
            for o in range(outputs):
                dz_o, z_o, add = dz[o], z[o], layer.branches[0, o]
                mul, gate = layer.branches[1, o], layer.branches[2, o]
                for r in range(BLOCK):
                    g, d = gate[r], dz_o[r]
                    gate[r] = d * (add[r] - mul[r]) * g * (one - g)
                    add[r] = d * g
                    dz_o[r] = d * (one - g)
                    z_o[r] = mul[r]
            add_outer(dadd, x, de[0])
            add_outer(dgate, x, de[2])
            if wants_dx:
                add_transposed(e[0], dadd, dx)
                add_transposed(e[2], dgate, dx)
        for o in range(outputs):
            z_o, dz_o = z[o], dz[o]
            for r in range(BLOCK):
                dz_o[r] *= z_o[r]
        add_outer(dz, layer.logs, de[1])
        if wants_dx:
            epsilon = z.dtype.type(EPSILON)
            layer.logs[:] = zero
            add_transposed(e[1], dz, layer.logs)
            for i in range(inputs):
                x_i, dx_i, dlog = x[i], dx[i], layer.logs[i]
                for r in range(BLOCK):
                    sign = one if x_i[r] > zero else -one if x_i[r] < zero else zero
                    dx_i[r] += dlog[r] * sign / (abs(x_i[r]) + epsilon)
    else:
        if kind <= RELU6:
            for o in range(outputs):
                z_o, dz_o = z[o], dz[o]
                total = zero
                for r in range(BLOCK):
                    if kind != LINEAR and z_o[r] <= zero:
                        dz_o[r] = zero
                    if kind == RELU6 and z_o[r] >= six:
                        dz_o[r] = zero
                    total += dz_o[r]
                layer.dbias[o] += total
        add_outer(dz, x, de[0])
        if wants_dx:
            add_transposed(e[0], dz, dx)


@compiled
def nmu_backward(layer, x, dx):
    """Eq. 6, with products of the factors before and after i in place of z / F_i."""
    e, de, dz, before = layer.e[1], layer.de[1], layer.dz, layer.logs
    one = e.dtype.type(1)
    outputs, inputs = len(dz), len(before)
    for o in range(outputs):
        dz_o = dz[o]
        before[0, :] = one
        for i in range(inputs - 1):
            w, x_i, before_i, next_i = e[o * inputs + i], x[i], before[i], before[i + 1]
            for r in range(BLOCK):
                next_i[r] = before_i[r] * (w * x_i[r] + one - w)
        for i in range(inputs - 1, -1, -1):
            w, x_i, before_i = e[o * inputs + i], x[i], before[i]
            for r in range(BLOCK):
                d = dz_o[r] * before_i[r]  # dz_o holds dL/dz times the factors after i
                dz_o[r] *= w * x_i[r] + one - w
                before_i[r] = d
            if len(dx) > 0:
                dx_i = dx[i]
                for r in range(BLOCK):
                    dx_i[r] += before_i[r] * w
            de[o * inputs + i] += product_sum(before_i, x_i)


@reassociating
def product_sum(d, x):
    """Σ_r d_r (x_r - 1)."""
    one = x.dtype.type(1)
    total = x.dtype.type(0)
    for r in range(BLOCK):
        total += d[r] * (x[r] - one)
    return total


def aligned_zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros that begin at a cache line, which half of all vectors would straddle otherwise."""
    line = 64
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + line, np.uint8)
    begin = -memory.ctypes.data % line
    return memory[begin : begin + size].view(dtype).reshape(shape)


def layer_of(name: str, p: np.ndarray, g: np.ndarray, outputs: int, inputs: int) -> Layer:
    """A layer on parameters p and their gradients g, with everything else zero."""
    n = outputs * inputs
    zeros = [(3, n), (3, n), (outputs,), (outputs,), (outputs, BLOCK), (outputs, BLOCK)]
    zeros += [(inputs, BLOCK), (3, outputs, BLOCK), (4, n)]
    return Layer(KINDS[name], p, g, *(aligned_zeros(shape, p.dtype) for shape in zeros))
