"""exp, log, tanh, the logistic function, cos and sin for compiled loops.

Calls into the C library keep a loop from being vectorised, so float32 has the polynomials of
Moshier's Cephes library (expf, logf, tanhf, sinf), branch-free and within about one unit in the
last place; cos and sin are within 10⁻⁷ up to some thousand turns. float64, which only tests use,
has the C library. Call these from compiled code only.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

f32 = np.float32
LOG2_E = f32(1.44269504088896341)
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)
EXP_LOWEST, EXP_HIGHEST = f32(-86.9), f32(88.72283)  # outside, exp32 is 0 or ∞
SQRT_HALF = f32(0.707106781186547524)
ONE, TWO, HALF, INFINITY = f32(1), f32(2), f32(0.5), f32(np.inf)
E0, E1, E2, E3, E4, E5 = (
    f32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3,
              4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)  # fmt: skip
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (
    f32(c)
    for c in (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
              1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
              3.3333331174e-1)
)  # fmt: skip
T0, T1, T2, T3, T4 = (
    f32(c)
    for c in (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2,
              1.33314422036e-1, -3.33332819422e-1)
)  # fmt: skip
TWO_OVER_PI = f32(0.636619772367581343)
PI_HIGH, PI_MIDDLE = f32(1.5703125), f32(4.837512969970703125e-4)  # π/2 in three parts
PI_LOW = f32(7.54978995489188216e-8)
S0, S1, S2 = f32(-1.9515295891e-4), f32(8.3321608736e-3), f32(-1.6666654611e-1)
C0, C1, C2 = f32(2.443315711809948e-5), f32(-1.388731625493765e-3), f32(4.166664568298827e-2)


def exp(x):
    """eˣ of one number, in its precision."""


def log(x):
    """Natural logarithm of one positive normal number, in its precision."""


def tanh(x):
    """Hyperbolic tangent of one number, in its precision."""


def sigmoid(x):
    """1 / (1 + e⁻ˣ) of one number, in its precision."""


def cos(x):
    """Cosine of one number, in its precision."""


def sin(x):
    """Sine of one number, in its precision."""


@overload(exp)
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp32(x):
        inside = x if x > EXP_LOWEST else EXP_LOWEST
        inside = inside if inside < EXP_HIGHEST else EXP_HIGHEST
        n = f32(np.floor(inside * LOG2_E + HALF))
        y = inside - n * LN2_HIGH - n * LN2_LOW
        p = ((((E0 * y + E1) * y + E2) * y + E3) * y + E4) * y + E5
        half_power = np.int32(np.int32(np.int32(n) + np.int32(126)) << np.int32(23))
        y = TWO * (p * y * y + y + ONE) * np.int32(half_power).view(np.float32)
        y = INFINITY if x > EXP_HIGHEST else y
        y = f32(0) if x < EXP_LOWEST else y
        return y if x == x else x

    return exp32


@overload(log)
def _log(x):
    if x != types.float32:
        return lambda x: math.log(x)

    def log32(x):
        bits = np.float32(x).view(np.int32)
        exponent = f32((bits >> np.int32(23)) - np.int32(126))
        mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)
        low = mantissa < SQRT_HALF
        exponent = exponent - ONE if low else exponent
        y = mantissa + mantissa - ONE if low else mantissa - ONE
        p = (((((((L0 * y + L1) * y + L2) * y + L3) * y + L4) * y + L5) * y + L6) * y + L7) * y
        z = y * y
        r = y * z * (p + L8) + exponent * LN2_LOW - HALF * z
        r = y + r + exponent * LN2_HIGH
        return r if x < INFINITY else x

    return log32


@overload(tanh)
def _tanh(x):
    if x != types.float32:
        return lambda x: math.tanh(x)

    def tanh32(x):
        z = x * x
        near = ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x
        far = ONE - TWO / (exp(TWO * abs(x)) + ONE)
        far = far if x > f32(0) else -far
        return near if abs(x) < f32(0.625) else far if x == x else x

    return tanh32


@overload(sigmoid)
def _sigmoid(x):
    one = f32(1) if x == types.float32 else 1.0
    return lambda x: one / (one + exp(-x))


@njit
def circular(x, quarter):
    """sin(x + quarter · π/2) in float32."""
    n = f32(np.floor(x * TWO_OVER_PI + HALF))
    y = ((x - n * PI_HIGH) - n * PI_MIDDLE) - n * PI_LOW
    z = y * y
    sine = ((S0 * z + S1) * z + S2) * z * y + y
    cosine = ((C0 * z + C1) * z + C2) * z * z - HALF * z + ONE
    turn = np.int32(n) + quarter
    value = cosine if turn & np.int32(1) else sine
    return -value if turn & np.int32(2) else value


@overload(cos)
def _cos(x):
    if x != types.float32:
        return lambda x: math.cos(x)
    return lambda x: circular(x, np.int32(1))


@overload(sin)
def _sin(x):
    if x != types.float32:
        return lambda x: math.sin(x)
    return lambda x: circular(x, np.int32(0))
