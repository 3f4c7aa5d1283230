"""The variance of NAC weights against its definition, and its inverse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from nalu.moments import nac_init_range, nac_weight_variance

SWITCH = 0.03  # from a series to the closed form


def by_quadrature(r):
    """E[W²] = E[tanh²(Ŵ)] E[σ²(M̂)]; the mean of W is zero."""
    tanh, _ = quad(lambda w: math.tanh(w) ** 2, 0, r, epsabs=0, epsrel=1e-13)
    gate, _ = quad(lambda m: 1 / (1 + math.exp(-m)) ** 2, -r, r, epsabs=0, epsrel=1e-13)
    return tanh / r * gate / (2 * r)


@pytest.mark.parametrize("r", [1e-6, 1e-3, 0.02, 0.0299999, 0.03, 0.1, 0.5, 1, 3, 9.471406, 20])
def test_variance_is_that_of_eq_8_by_quadrature(r):
    assert nac_weight_variance(r) == pytest.approx(by_quadrature(r), rel=2e-12, abs=0)


@pytest.mark.parametrize("r", [0.02, 0.503909, 2.0, 9.471406])
def test_variance_is_that_of_drawn_weights(r):
    w_hat, m_hat = np.random.default_rng(0).uniform(-r, r, (2, 200_000))
    weight = np.tanh(w_hat) / (1 + np.exp(-m_hat))
    standard_error = weight.std() / weight.size**0.5
    assert abs(weight.mean()) < 3 * standard_error
    squares = weight**2
    standard_error = squares.std() / squares.size**0.5
    assert abs(squares.mean() - nac_weight_variance(r)) < 3 * standard_error


def test_series_and_closed_form_meet():
    below, above = nac_weight_variance([np.nextafter(SWITCH, 0), SWITCH])
    assert below == pytest.approx(above, rel=1e-12, abs=0)


def test_variance_grows_from_zero_to_a_half():
    assert nac_weight_variance(0) == 0
    variances = nac_weight_variance(np.geomspace(1e-8, 1e8, 2000))
    assert (np.diff(variances) > 0).all()
    assert 0.5 - 1e-7 < variances[-1] < 0.5


def test_variance_takes_arrays_of_any_shape():
    r = np.array([[0.0, 0.01, 0.1], [1, 10, 100]])
    variances = nac_weight_variance(r)
    assert variances.shape == r.shape
    assert variances.tolist() == [[nac_weight_variance(value) for value in row] for row in r]
    assert nac_weight_variance(1).shape == ()


@pytest.mark.parametrize("r", [-0.1, math.inf, math.nan])
def test_range_that_is_none_is_refused(r):
    with pytest.raises(ValueError, match="it must be 0 or more"):
        nac_weight_variance([1.0, r])


@settings(deadline=None)
@given(st.floats(1e-6, 0.5 - 1e-6) | st.floats(1e-300, 1e-6))
def test_range_found_for_a_variance_has_it(variance):
    assert nac_weight_variance(nac_init_range(variance)) == pytest.approx(variance, rel=1e-8)


@settings(deadline=None)
@given(st.floats(1e-3, 1e3))
def test_range_is_found_again_from_its_variance(r):
    assert nac_init_range(nac_weight_variance(r)) == pytest.approx(r, rel=1e-8)


@pytest.mark.parametrize(
    ("fan", "r"),
    [
        (100 + 2, 0.503909),
        (4 + 2, 5.425508),
        (5, 9.471406),  # the least of the authors' code
        (10 + 2, 2.074248),
        (25 + 2, 1.098834),
        (200 + 2, 0.351312),
        (100 + 3, 0.501267),
        (100 + 10, 0.483869),
    ],
)
def test_ranges_of_the_papers_layers(fan, r):
    assert nac_init_range(2 / fan) == pytest.approx(r, abs=6e-7)


@pytest.mark.parametrize("variance", [-1.0, 0.0, 0.5, 2 / 3, math.inf, math.nan])
def test_variance_that_no_range_gives_is_refused(variance):
    with pytest.raises(ValueError, match=r"between 0 and 0\.5, both excluded"):
        nac_init_range(variance)
