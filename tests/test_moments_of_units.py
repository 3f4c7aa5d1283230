"""Means and variances of the units at initialisation: eq. 9, eq. 10 and their solutions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad

from nalu import moments as m
from nalu.units import nac_mul, nmu

SAMPLES = 200_000
sizes = st.integers(1, 64)
variances = st.floats(0.01, 20)


def measured(unit, weights, inputs):
    """Mean and variance of an output and a backpropagated gradient, each with its error."""
    x = inputs.clone().requires_grad_()
    z = torch.vmap(unit)(x, weights[:, None])[:, 0]
    z.sum().backward()
    above = torch.randint(2, (len(x),), dtype=torch.float64) * 2 - 1
    return [mean_and_variance(sample) for sample in (z.detach(), x.grad[:, 0] * above)]


def mean_and_variance(sample):
    mean, variance = sample.mean().item(), sample.var().item()
    fourth = (sample - mean).pow(4).mean().item()
    errors = (variance**0.5, (fourth - variance**2) ** 0.5)
    return [(mean, errors[0] / len(sample) ** 0.5), (variance, errors[1] / len(sample) ** 0.5)]


def assert_within(measured, expected, errors=4):
    for (value, error), wanted in zip(measured, expected, strict=True):
        assert abs(value - wanted) <= errors * error, (value, wanted, error)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def uniform(mean, variance, *shape):
    return mean + (torch.rand(*shape, dtype=torch.float64) - 0.5) * (12 * variance) ** 0.5


def coin(h_in):
    return torch.randint(2, (SAMPLES, h_in), dtype=torch.float64)


@pytest.mark.parametrize("h_in", [1, 2, 5])
@pytest.mark.parametrize("mean_z", [-1.0, 0.0, 1.5])
@pytest.mark.parametrize("var_w", [1 / 48, 1 / 12, 1 / 4])
def test_nmu_is_exact(h_in, mean_z, var_w):
    weights = coin(h_in) if var_w == 1 / 4 else uniform(0.5, var_w, SAMPLES, h_in)
    out, gradient = measured(nmu, weights, uniform(mean_z, 0.7, SAMPLES, h_in))
    assert_within(out, m.nmu_forward(h_in, var_w, mean_z, 0.7))
    assert_within(gradient, m.nmu_backward(h_in, 1, var_w, mean_z, 0.7))


@pytest.mark.parametrize("h_in", [1, 2, 5])
@pytest.mark.parametrize("mean_z", [0.0, 1.5])
def test_linear_is_exact(h_in, mean_z):
    weights = uniform(0, 0.3, SAMPLES, h_in)
    out, gradient = measured(lambda x, w: w @ x, weights, uniform(mean_z, 0.7, SAMPLES, h_in))
    assert_within(out, m.linear_forward(h_in, 0.3, mean_z, 0.7))
    assert_within(gradient, m.linear_backward(1, 0.3))


def test_gradients_of_several_outputs_add_up():
    """H_ℓ = 3, with the draft's four lines of eq. 10 beside the corrected one."""
    h_in, h_out, var_z = 2, 3, 1.0
    x = uniform(0, var_z, SAMPLES, h_in).requires_grad_()
    weights = torch.randint(2, (SAMPLES, h_out, h_in), dtype=torch.float64)
    above = torch.randint(2, (SAMPLES, h_out), dtype=torch.float64) * 2 - 1
    (torch.vmap(nmu)(x, weights) * above).sum().backward()
    found = mean_and_variance(x.grad[:, 0])
    expected = m.nmu_backward(h_in, h_out, 0.25, 0.0, var_z)
    assert_within(found, expected)
    draft = h_out * (0.5**h_in * (var_z + 1) ** (h_in - 1) - 0.25**h_in)
    assert abs(found[1][0] - draft) > 10 * found[1][1]


def test_nac_mul_estimates_are_close_where_they_should_be():
    h_in, var_w, mean_z, var_z = 3, 0.01, 2.0, 0.001
    r = m.nac_init_range(var_w)
    w_hat, m_hat = uniform(0, r**2 / 3, 2, SAMPLES, h_in)
    unit = lambda x, w: nac_mul(x, w, 1e-7)  # noqa: E731
    out, gradient = measured(
        unit, w_hat.tanh() * m_hat.sigmoid(), uniform(mean_z, var_z, SAMPLES, h_in)
    )
    for (value, error), estimate in [
        *zip(out, m.nac_mul_forward(h_in, var_w, mean_z, epsilon=1e-7), strict=True),
        (gradient[1], m.nac_mul_backward(h_in, 1, var_w, mean_z, var_z, epsilon=1e-7).variance),
    ]:
        assert value == pytest.approx(estimate, abs=4 * error, rel=0.05)


def test_nac_mul_to_second_order_against_quadrature():
    """One input that does not vary: E[z^W] for W ~ U[-a, a], as Var[W] becomes small."""
    worst = []
    for a in (0.4, 0.2, 0.1):
        exact = [quad(lambda w, c=c, a=a: 3.0 ** (c * w) / (2 * a), -a, a)[0] for c in (1, 2)]
        mean, variance = m.nac_mul_forward(1, a**2 / 3, 3.0, epsilon=0.0)
        worst.append((abs(mean - exact[0]), abs(variance - (exact[1] - exact[0] ** 2))))
    for before, after in pairwise(worst):
        for b, a in zip(before, after, strict=True):
            assert b / a == pytest.approx(16, rel=0.1)  # the error is of fourth order in a


@given(st.integers(1, 20), st.floats(0.01, 0.49), st.floats(-6, 6))
def test_nac_mul_variance_is_negative_exactly_above_4(h_in, var_w, log_mean):
    size = var_w * log_mean**2
    assume(size > 1e-3 and abs(size - 4) > 1e-3)
    _, variance = m.nac_mul_forward(h_in, var_w, np.exp(log_mean), epsilon=0.0)
    assert (variance < 0) == (size > 4)


@given(st.integers(1, 20), st.floats(0.01, 0.49), st.floats(0.01, 100), variances)
def test_epsilon_is_a_limit(h_in, var_w, mean_z, var_z):
    at = [m.nac_mul_forward(h_in, var_w, mean_z, epsilon=e).mean for e in (1e-12, 0.0)]
    assert at[0] == pytest.approx(at[1], rel=1e-6)
    at = [
        m.nac_mul_backward(h_in, 2, var_w, mean_z, var_z, epsilon=e).variance for e in (1e-12, 0.0)
    ]
    assert at[0] == pytest.approx(at[1], rel=1e-6)


@given(sizes, sizes, variances)
def test_nmu_solutions_solve(h_in, h_out, var_z):
    wanted = m.nmu_wanted_forward(h_in, var_z)
    assert m.nmu_forward(h_in, wanted, 0.0, var_z).variance == pytest.approx(var_z, rel=1e-9)
    wanted = m.nmu_wanted_backward(h_in, h_out, var_z)
    assert m.nmu_backward(h_in, h_out, wanted, 0.0, var_z).variance == pytest.approx(1, rel=1e-9)


@given(sizes, variances)
def test_forward_bounds_say_where_a_weight_exists(h_in, var_z):
    low, high, end = m.nmu_forward_bounds(h_in)
    assume(all(abs(var_z / bound - 1) > 1e-6 for bound in (low, high, end)))
    if var_z <= low or high <= var_z <= end:
        assert 0 <= m.nmu_init_variance(h_in, var_z) <= 0.25
    else:
        with pytest.raises(ValueError, match=r"between 0 and 0\.25: there is one for 0 < Var"):
            m.nmu_init_variance(h_in, var_z)


@pytest.mark.parametrize("h_in", range(1, 12))
def test_the_ends_of_the_bounds_are_within_them(h_in):
    for bound in filter(np.isfinite, m.nmu_forward_bounds(h_in)):
        assert 0 <= m.nmu_init_variance(h_in, bound) <= 0.25


@given(sizes, sizes, variances)
def test_backward_bounds_say_where_a_weight_exists(h_in, h_out, var_z):
    low, high = m.nmu_backward_bounds(h_in, h_out)
    assume(all(abs(var_z - bound) > 1e-6 for bound in (low, high)))
    wanted = m.nmu_wanted_backward(h_in, h_out, var_z)
    assume(min(abs(wanted), abs(wanted - 0.25)) > 1e-9)  # h_in = 1 does not look at Var[z]
    if low <= var_z <= high:
        assert 0 <= m.nmu_init_variance(h_in, var_z, h_out) <= 0.25
    else:
        with pytest.raises(ValueError, match=r"between 0 and 0\.25"):
            m.nmu_init_variance(h_in, var_z, h_out)


def test_bounds_that_can_be_had_by_hand():
    assert m.nmu_forward_bounds(1) == pytest.approx((0.5, np.inf, np.inf))
    assert m.nmu_forward_bounds(2) == pytest.approx((0.5, 1.5, 14))
    assert m.nmu_backward_bounds(2, 1) == pytest.approx((3, 15))
    assert m.nmu_forward_bounds(1000) == pytest.approx((2.0**-1000, 1, 3.0044), rel=1e-5)


@pytest.mark.parametrize("bounds", [m.nmu_forward_bounds, lambda h: m.nmu_backward_bounds(h, 7)])
def test_bounds_for_many_inputs_are_1_and_3(bounds):
    *_, high, end = bounds(400)
    assert (high, end) == pytest.approx((1, 3), rel=0.03)


def test_a_quarter_is_the_solution_for_unit_variance_and_many_inputs():
    wanted = m.nmu_wanted_forward(np.array([1, 2, 3, 400]), 1.0)
    assert wanted == pytest.approx([0.375, (17**0.5 - 2) / 8, (65 ** (1 / 3) - 2) / 8, 0.25])
    assert np.all(np.diff(wanted) < 0)
    assert m.nmu_wanted_backward(10**6, 8, 1.0) == pytest.approx(0.25, rel=1e-5)


@given(st.lists(st.floats(0.01, 0.25), min_size=1, max_size=4), sizes)
def test_everything_broadcasts(var_w, h_in):
    column = np.array(var_w)[:, None]
    row = np.array([0.5, 1.0, 2.0])
    for pair in (
        m.linear_forward(h_in, column, 0.0, row),
        m.nmu_forward(h_in, column, 0.0, row),
        m.nmu_backward(h_in, 3, column, 0.0, row),
        m.nac_mul_backward(h_in, 3, column, 2.0, row, epsilon=1e-7),
    ):
        assert np.broadcast_shapes(*(np.shape(part) for part in pair)) == (len(var_w), 3)
        assert pair.variance.dtype == np.float64
