"""Means and variances of the units' weights and outputs (sections 2.1 and 2.3 of the paper).

Everything here is float64 and broadcasts over NumPy arrays.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

NAC_VARIANCE_BOUND = 0.5  # eq. 8 grows with r towards 1/2 and never gets there


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
            f"no r gives Var[W] = {variance}: eq. 8 takes values between 0 and "
            f"{NAC_VARIANCE_BOUND}, both excluded"
        )
    # Both factors of eq. 8 exceed 1 - 1/r, so V(r) > 1/2 - 1/r and this end is past the root.
    far = 2 / (NAC_VARIANCE_BOUND - variance) + 2
    near = np.sqrt(12 * variance) * (1 - 1e-9)  # V(r) < r²/12
    return brentq(lambda r: nac_weight_variance(r) - variance, near, far, xtol=1e-300, maxiter=2000)
