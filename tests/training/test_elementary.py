"""Elementary functions of the compiled engine against the C library."""

import numpy as np
import pytest
from numba import njit

from nalu.training import elementary

FUNCTIONS = {
    "exp": (np.exp, (-86, 88)),
    "log": (np.log, (1e-7, 1e3)),
    "tanh": (np.tanh, (-12, 12)),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-80, 80)),
    "cos": (np.cos, (-np.pi, np.pi)),
    "sin": (np.sin, (-np.pi, np.pi)),
}


CIRCULAR = "cos", "sin"


def compiled(name):
    function = getattr(elementary, name)

    @njit
    def apply(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    def call(x):
        y = np.empty_like(x)
        apply(x, y)
        return y

    return call


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_within_three_units_in_the_last_place(name):
    exact, (low, high) = FUNCTIONS[name]
    x = np.linspace(low, high, 400_001, dtype=np.float32)
    x = np.concatenate([x, np.geomspace(1e-7, high, 100_001, dtype=np.float32)])
    y = exact(x.astype(np.float64))
    least = 0.1 if name in CIRCULAR else 0  # near their zeros the error counts as it is
    ulp = np.spacing(np.maximum(np.abs(y), least).astype(np.float32))
    assert (np.abs(compiled(name)(x) - y) / ulp).max() < 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_is_the_c_library(name):
    exact, (low, high) = FUNCTIONS[name]
    x = np.linspace(low, high, 1001)
    np.testing.assert_allclose(compiled(name)(x), exact(x), rtol=1e-14)


@pytest.mark.parametrize("name", CIRCULAR)
def test_many_turns_are_taken_off_without_loss(name):
    x = np.linspace(-1000, 1000, 400_001, dtype=np.float32)
    y = FUNCTIONS[name][0](x.astype(np.float64))
    np.testing.assert_allclose(compiled(name)(x), y, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("exp", [0, 200, np.inf, -200, -np.inf, np.nan], [1, np.inf, np.inf, 0, 0, np.nan]),
        ("log", [1, np.inf, np.nan], [0, np.inf, np.nan]),
        ("tanh", [0, np.inf, -np.inf, 1e30, np.nan], [0, 1, -1, 1, np.nan]),
        ("cos", [0, np.nan, np.inf], [1, np.nan, np.nan]),
        ("sin", [0, np.nan, -np.inf], [0, np.nan, np.nan]),
        ("sigmoid", [0, np.inf, -np.inf, np.nan], [0.5, 1, 0, np.nan]),
    ],
)
def test_values_at_the_edges(name, inputs, outputs):
    y = compiled(name)(np.array(inputs, dtype=np.float32))
    np.testing.assert_array_equal(y, np.array(outputs, dtype=np.float32))
