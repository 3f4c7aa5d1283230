"""Means and variances at initialisation, of weights, outputs and gradients (section 2.3).

Everything is float64 and broadcasts over NumPy arrays. The names are those of the paper:

    h_in, h_out     H_ℓ₋₁ and H_ℓ, the sizes of a layer
    var_w           Var[W]
    mean_z, var_z   E[z_ℓ₋₁] and Var[z_ℓ₋₁], of every input
    var_gradient    Var[∂L/∂z_ℓ], of every gradient that arrives from above

``*_forward`` gives the moments of an output z_ℓ, ``*_backward`` those of ∂L/∂z_ℓ₋₁. All of
them assume that weights and inputs are independent of each other and each among themselves,
and that the gradients from above have mean 0, are uncorrelated with each other and
independent of weights and inputs. What else a formula assumes is in its own docstring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

NAC_VARIANCE_BOUND = 0.5  # eq. 8 grows with r towards 1/2 and never gets there
ROUNDING = 1e-12  # of a variance at the end of what there is
NMU_VARIANCE_BOUND = 0.25  # of W in [0, 1] with mean 1/2; only a coin flip on {0, 1} has it


class Moments(NamedTuple):
    mean: ArrayLike
    variance: ArrayLike


def nac_weight_variance(r):
    """Variance of W = tanh(Ŵ) σ(M̂) for Ŵ, M̂ ~ Uniform(-r, r), independent (eq. 8).

    Takes and returns an array of any shape; zero at r = 0, rising towards 1/2.

    Raises:
        ValueError: an r is negative or not finite.
    """
    r = np.asarray(r, dtype=np.float64)
    if not np.all((r >= 0) & (r < np.inf)):
        raise ValueError(f"r = {r} is half the width of an interval: it must be 0 or more, finite")
    tiny = r < 0.03  # there the closed form cancels, while four terms of its series suffice
    series = r**2 / 12 - 19 * r**4 / 720 + 101 * r**6 / 10080 - 2071 * r**8 / 518400
    r = np.where(tiny, 1.0, r)
    closed = (1 - np.tanh(r) / r) * (r - np.tanh(r / 2)) / (2 * r)
    return np.where(tiny, series, closed)[()]


def nac_init_range(variance: float) -> float:
    """The r at which Var[W] of NAC₊ is ``variance``: eq. 8 solved for r.

    Raises:
        ValueError: no r gives this variance, because it is not in (0, 1/2).
    """
    if not 0 < variance < NAC_VARIANCE_BOUND:
        raise ValueError(
            f"no r gives Var[W] = {variance:.4g}: eq. 8 takes values between 0 and "
            f"{NAC_VARIANCE_BOUND}, both excluded"
        )
    # Both factors of eq. 8 exceed 1 - 1/r, so V(r) > 1/2 - 1/r and this end is past the root.
    far = 2 / (NAC_VARIANCE_BOUND - variance) + 2
    near = np.sqrt(12 * variance) * (1 - 1e-9)  # V(r) < r²/12
    return brentq(lambda r: nac_weight_variance(r) - variance, near, far, xtol=1e-300, maxiter=2000)


def linear_forward(h_in, var_w, mean_z, var_z) -> Moments:
    """z_ℓ of NAC₊, NAU or any sum Σ W z, for E[W] = 0. Exact."""
    variance = _array(h_in) * var_w * (var_z + _array(mean_z) ** 2)
    return Moments(np.zeros_like(variance)[()], variance)


def linear_backward(h_out, var_w, var_gradient=1.0) -> Moments:
    """∂L/∂z_ℓ₋₁ of NAC₊, NAU or any sum Σ W z, for E[W] = 0. Exact."""
    variance = _array(h_out) * var_w * var_gradient
    return Moments(np.zeros_like(variance)[()], variance)


def nac_mul_f(c1, c2, h_in, var_w, mean_z, epsilon):
    """The f(c₁, c₂) of eq. 9: f(c², 1) estimates E[z_ℓ^c] and f(c², 2) its square."""
    logarithm = np.log(np.abs(_array(mean_z)) + epsilon)
    return (1 + c1 / 2 * var_w * logarithm**2) ** (c2 * _array(h_in))


def nac_mul_forward(h_in, var_w, mean_z, *, epsilon) -> Moments:
    """z_ℓ of NAC• (eq. 9), for E[W] = 0: an estimate to second order in W and z.

    Good while Var[W] log²(|E[z]| + ε) is small and z stays away from 0; Var[z] is not in it.
    Where that product is above 4 the estimated variance is negative, for any h_in.
    """
    first, second, square = (
        nac_mul_f(c1, c2, h_in, var_w, mean_z, epsilon) for c1, c2 in ((1, 1), (4, 1), (1, 2))
    )
    return Moments(first, second - square)


def nac_mul_backward(h_in, h_out, var_w, mean_z, var_z, var_gradient=1.0, *, epsilon) -> Moments:
    """∂L/∂z_ℓ₋₁ of NAC• (eq. 9, with f(4, 1) for the draft's f(2, 1)), for E[W] = 0.

    An estimate as ``nac_mul_forward``, which also takes z_ℓ for independent of the weight and
    the input that it is made of. Where E[z] = 0 it is of the order of Var[z] / ε⁴.
    """
    size = np.abs(_array(mean_z)) + epsilon
    inverse_square = 1 / size**2 + 3 * var_z / size**4
    second = nac_mul_f(4, 1, h_in, var_w, mean_z, epsilon)
    variance = var_gradient * _array(h_out) * second * var_w * inverse_square
    return Moments(np.zeros_like(variance)[()], variance)


def nmu_forward(h_in, var_w, mean_z, var_z) -> Moments:
    """z_ℓ of the NMU (eq. 10, for any E[z]), for E[W] = 1/2. Exact."""
    mean, second = _nmu_factor(var_w, mean_z, var_z)
    h_in = _array(h_in)
    return Moments(mean**h_in, second**h_in - mean ** (2 * h_in))


def nmu_backward(h_in, h_out, var_w, mean_z, var_z, var_gradient=1.0) -> Moments:
    """∂L/∂z_ℓ₋₁ of the NMU (eq. 10 without the draft's "- (1/4)^H"), for E[W] = 1/2. Exact."""
    _, second = _nmu_factor(var_w, mean_z, var_z)
    variance = var_gradient * _array(h_out) * (var_w + 0.25) * second ** (_array(h_in) - 1)
    return Moments(np.zeros_like(variance)[()], variance)


def _nmu_factor(var_w, mean_z, var_z) -> tuple:
    """E[F] and E[F²] of a factor F = W z + 1 - W = 1 + W (z - 1), for E[W] = 1/2."""
    away = _array(mean_z) - 1
    return 1 + away / 2, 1 + away + (var_w + 0.25) * (away**2 + var_z)


def nmu_wanted_forward(h_in, var_z):
    """The Var[W] at which an NMU keeps the variance of inputs with mean 0: eq. 10 solved.

    Nothing says that a weight in [0, 1] can have it: see ``nmu_init_variance``.
    """
    h_in, var_z = _array(h_in), _array(var_z)
    return np.exp(_log_kept(h_in, np.log(var_z)) / h_in - np.log1p(var_z)) - 0.25


def nmu_wanted_backward(h_in, h_out, var_z):
    """The same for the variance of the gradients."""
    h_in, var_z = _array(h_in), _array(var_z)
    return np.exp(((1 - h_in) * np.log1p(var_z) - np.log(h_out)) / h_in) - 0.25


def nmu_init_variance(h_in: int, var_z: float, h_out: int | None = None) -> float:
    """The Var[W] that keeps the variance of outputs or, given ``h_out``, of gradients.

    W is in [0, 1] with mean 1/2, the inputs have mean 0 and variance ``var_z`` > 0.

    Raises:
        ValueError: no such W exists, because its variance would not be in [0, 1/4].
    """
    if h_out is None:
        wanted, (low, high, end) = nmu_wanted_forward(h_in, var_z), nmu_forward_bounds(h_in)
        domain = f"0 < Var[z] <= {low:.4g}" + (f" or {high:.4g} to {end:.4g}" if high < end else "")
    else:
        wanted, (low, high) = (
            nmu_wanted_backward(h_in, h_out, var_z), nmu_backward_bounds(h_in, h_out)
        )  # fmt: skip
        domain = f"{low:.4g} <= Var[z] <= {high:.4g}" if low <= high else "no Var[z]"
    if not -ROUNDING <= wanted <= NMU_VARIANCE_BOUND + ROUNDING:
        raise ValueError(
            f"Var[z] = {var_z} needs Var[W] = {wanted:.4g}, but a weight in [0, 1] with mean 1/2 "
            f"has between 0 and {NMU_VARIANCE_BOUND}: there is one for {domain}"
        )
    return float(np.clip(wanted, 0, NMU_VARIANCE_BOUND))


def nmu_forward_bounds(h_in: int) -> tuple[float, float, float]:
    """(low, high, end): outputs can keep a Var[z] in (0, low] or [high, end], and no other.

    Between low and high Var[W] would be above 1/4, beyond end below 0. With one input there
    is only the first interval.
    """

    def excess(log_v: float, k: int) -> float:  # of v + 4^-H over ((1 + v) / k)^H, in logarithms
        return _log_kept(h_in, log_v) - h_in * (np.logaddexp(0, log_v) - np.log(k))

    low = brentq(excess, -h_in * np.log(4), np.log(0.6), args=2)
    if h_in == 1:
        return float(np.exp(low)), np.inf, np.inf
    high = brentq(excess, 0, np.log(2), args=2)
    end = brentq(excess, 0, np.log(15), args=4)
    return tuple(np.exp([low, high, end]).tolist())


def nmu_backward_bounds(h_in: int, h_out: int) -> tuple[float, float]:
    """(low, high): gradients can keep their variance for a Var[z] between them, if low <= high.

    Below low Var[W] would be above 1/4, beyond high below 0.
    """
    if h_in == 1:  # then Var[z] is not in it
        return (0.0, np.inf) if 2 <= h_out <= 4 else (np.inf, 0.0)
    low, high = (np.expm1((h_in * np.log(k) - np.log(h_out)) / (h_in - 1)) for k in (2, 4))
    return max(float(low), 0.0), float(high)


def _log_kept(h_in, log_v):
    """log(v + 4^-H): what E[z_ℓ²] must be for Var[z_ℓ] = v, from log v."""
    return np.logaddexp(log_v, -h_in * np.log(4))


def _array(x) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)
