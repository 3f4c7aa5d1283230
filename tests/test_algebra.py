"""Steps of a derivation: what holds is shown, what does not is refused."""

import pytest
import sympy as sp

from nalu.algebra import expectation, identity, second_order

x, y, r = sp.symbols("x y r", positive=True)


def test_an_identity_is_shown_as_given():
    integral = sp.Integral(x, (x, 0, 1))
    shown = identity(integral, sp.Rational(1, 2), "A").data
    assert shown == r"A = \int\limits_{0}^{1} x\, dx = \frac{1}{2}"
    assert identity(x + x, 2 * x, "A").data == r"A = 2 x"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (sp.log(1 + sp.exp(-r)), sp.log(1 + sp.exp(r)) - r),
        (sp.tanh(r / 2), (1 - sp.exp(-r)) / (1 + sp.exp(-r))),
        (sp.Derivative(sp.tanh(x), x), 1 - sp.tanh(x) ** 2),
    ],
)
def test_what_holds_is_found_to_hold(left, right):
    assert sp.latex(left) in identity(left, right).data


@pytest.mark.parametrize(
    ("left", "right"), [(x, y), (sp.Limit(x, x, 0), 1), (sp.Derivative(sp.tanh(x), x), 1)]
)
def test_what_does_not_hold_is_refused(left, right):
    with pytest.raises(ValueError, match="not 0"):
        identity(left, right)


def test_expectation_of_independent_variables():
    v, w = sp.symbols("v w")
    moments = {x: [0, v], y: [1, w, 5]}
    assert expectation((x + y) ** 2 + x * y**3, moments) == v + w
    assert expectation(sp.Integer(7), moments) == 7


def test_second_order_is_exact_for_a_quadratic_and_close_for_others():
    quadratic = 3 * x**2 + x * y - y + 2
    assert sp.expand(second_order(quadratic, {x: 1, y: 2}) - quadratic) == 0
    expanded = second_order(sp.exp(x * y), {x: 0, y: 1})
    assert sp.expand(expanded - (1 + x + x**2 / 2 + x * (y - 1))) == 0
