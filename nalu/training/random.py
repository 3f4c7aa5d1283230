"""The stream of random numbers that every engine draws from: Philox4x32-10.

A number of the stream has an address, (seed, purpose, step, row, column), and is a pure
function of it: nothing depends on what was drawn before, beside it, or where. Philox (Salmon,
Moraes, Dror and Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter of
four 32-bit words into four random ones under a key of two:

    counter = (column // 4, row, step, purpose),  key = (low, high half of the seed)

and word number column % 4 belongs to the address. ``philox`` is one function for Python whole
numbers, NumPy and torch int64 arrays, and Numba, so all engines get the same words. A uniform
number is the upper 24 bits of its word, which float32 holds exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

# What numbers are drawn for: the second part of an address.
TRAINING, INTERPOLATION, EXTRAPOLATION, VALIDATION, TEST, OFFSET, THRESHOLD = range(7)
SHUFFLE, NOISE, RESTART = 7, 8, 9

BLOCK = 128  # rows in a block of samples: the engines' unit of work
MASK = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85


def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox4x32: a counter and a key, words in 64-bit integers, to four words.

    Arrays broadcast. Products wrap modulo 2⁶⁴, so a sign never reaches the words.
    """
    m0, m1 = MULTIPLIERS
    w0, w1 = WEYL
    for _ in range(10):
        p0 = c0 * m0
        p1 = c2 * m1
        c0 = ((p1 >> 32) & MASK) ^ c1 ^ k0
        c1 = p1 & MASK
        c2 = ((p0 >> 32) & MASK) ^ c3 ^ k1
        c3 = p0 & MASK
        k0 = (k0 + w0) & MASK
        k1 = (k1 + w1) & MASK
    return c0, c1, c2, c3


def word(seed: int, purpose: int, step: int = 0, row: int = 0, column: int = 0) -> int:
    """The 32-bit word at one address."""
    return philox(column // 4, row, step, purpose, seed & MASK, seed >> 32)[column % 4]


_philox = njit(philox, inline="always")


@njit(inline="always")
def _in_union(word, low, unit):
    """A word as a float32 in one of several ranges, as ``scale`` does it."""
    scaled = (word >> 8) * len(low)
    side = scaled >> 24
    return low[side] + unit[side] * np.float32(scaled & 0xFFFFFF)


@njit(nogil=True, cache=True)
def fill(x, seed, purpose, step, first, last, low, unit):
    """Fill x, (columns, BLOCK), with samples of rows ``first``, ``first + 1``, ... of one step.

    The number of columns is a multiple of 4; rows after ``last`` repeat it. ``low`` and
    ``unit`` are those of ``bounds``.
    """
    k0, k1 = seed & MASK, seed >> 32
    low0, unit0 = low[0], unit[0]
    for quad in range(x.shape[0] // 4):
        x0, x1, x2, x3 = x[4 * quad], x[4 * quad + 1], x[4 * quad + 2], x[4 * quad + 3]
        if len(low) == 1:  # the loop that decides how fast the compiled engine is
            for r in range(BLOCK):
                w = _philox(quad, min(first + r, last) & MASK, step, purpose, k0, k1)
                x0[r] = low0 + unit0 * np.float32(np.int32(w[0] >> 8))
                x1[r] = low0 + unit0 * np.float32(np.int32(w[1] >> 8))
                x2[r] = low0 + unit0 * np.float32(np.int32(w[2] >> 8))
                x3[r] = low0 + unit0 * np.float32(np.int32(w[3] >> 8))
        else:
            for r in range(BLOCK):
                w = _philox(quad, min(first + r, last) & MASK, step, purpose, k0, k1)
                x0[r] = _in_union(w[0], low, unit)
                x1[r] = _in_union(w[1], low, unit)
                x2[r] = _in_union(w[2], low, unit)
                x3[r] = _in_union(w[3], low, unit)


def bounds(ranges) -> tuple[np.ndarray, np.ndarray]:
    """Of ranges ((low, high), ...) the lows and the 2⁻²⁴ths of the widths: (ranges,) float32."""
    edges = np.asarray(ranges, dtype=np.float64)
    width = (edges[:, 1] - edges[:, 0]).astype(np.float32)
    return edges[:, 0].astype(np.float32), width * np.float32(2.0**-24)


def blocks(seed: int, purpose: int, step: int, rows: int, columns: int, ranges) -> np.ndarray:
    """All samples of a step as the compiled engine reads them: (blocks, columns', BLOCK) float32.

    columns' is ``columns`` rounded up to a multiple of 4; rows after the last repeat it.
    """
    low, unit = bounds(ranges)
    x = np.empty((-(-rows // BLOCK), -(-columns // 4) * 4, BLOCK), dtype=np.float32)
    for block in range(len(x)):
        fill(x[block], seed, purpose, step, block * BLOCK, rows - 1, low, unit)
    return x


def samples(
    seeds: Tensor, purpose: int, step: int, rows: int, columns: int, ranges=((0.0, 1.0),)
) -> Tensor:
    """Samples in ``ranges`` for many seeds: (seeds,) int64 -> (seeds, rows, columns) float32.

    Uniform on [0, 1) unless told otherwise; drawn on the device of ``seeds``.
    """
    if seeds.device.type == "cpu":
        drawn = [blocks(int(s), purpose, step, rows, columns, ranges) for s in seeds]
        x = torch.from_numpy(np.stack(drawn)).transpose(-2, -1).flatten(1, 2)
        return x[:, :rows, :columns].contiguous()
    return scale(words(seeds, purpose, step, rows, columns), ranges)


def words(seeds: Tensor, purpose: int, step: int, rows: int, columns: int) -> Tensor:
    """The words of ``samples``, on any device: (seeds,) int64 -> (seeds, rows, columns) int64."""
    seeds = seeds[:, None, None]
    quad = torch.arange(-(-columns // 4), device=seeds.device)
    row = torch.arange(rows, device=seeds.device)[:, None]
    constant = torch.full_like(quad, step), torch.full_like(quad, purpose)
    drawn = philox(quad, row, *constant, seeds & MASK, seeds >> 32)
    return torch.stack(torch.broadcast_tensors(*drawn), -1).flatten(2)[..., :columns]


def permutations(seeds: Tensor, purpose: int, step: int, size: int) -> Tensor:
    """An order of 0 ... size - 1 for every seed: (seeds,) int64 -> (seeds, size) int64.

    The words of row 0 decide it; equal words keep the order of their columns.
    """
    return words(seeds, purpose, step, 1, size)[:, 0].argsort(dim=-1, stable=True)


def scale(words: Tensor, ranges) -> Tensor:
    """Words as float32 numbers in a union of equally likely ranges, any shape."""
    low, unit = (torch.from_numpy(bound).to(words.device) for bound in bounds(ranges))
    scaled = (words >> 8) * len(ranges)
    return low[scaled >> 24] + unit[scaled >> 24] * (scaled & 0xFFFFFF).float()
