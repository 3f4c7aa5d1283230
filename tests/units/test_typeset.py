"""The formulas that definitions typeset to."""

import pytest

from nalu.training.run import LAYERS
from nalu.units import NAU
from nalu.units.scalar import X, symbolic, total
from nalu.units.typeset import equations, latex

W_NAC = r"W_{oi} = \tanh(\hat{W}_{oi}) \, \sigma(\hat{M}_{oi})"
FORMULAS = {
    "ReLU": [r"z_o = \max(0, \sum_i W_{oi} \, x_{i} + b_{o})"],
    "NAC": [W_NAC, r"z_o = \sum_i W_{oi} \, x_{i}"],
    "NACMul": [W_NAC, r"z_o = \exp(\sum_i W_{oi} \, \log(\left|x_{i}\right| + 10^{-7}))"],
    "NALU": [
        W_NAC,
        r"g_o = \sigma(\sum_i G_{oi} \, x_{i})",
        r"z_o = g_o \, \left(\sum_i W_{oi} \, x_{i}\right)"
        r" + \left(1 - g_o\right) \, \exp(\sum_i W_{oi} \, \log(\left|x_{i}\right| + 10^{-7}))",
    ],
    "NMU": [
        r"W_{oi} = \min(\max(\hat{W}_{oi}, 0), 1)",
        r"z_o = \prod_i \left(W_{oi} \, x_{i} + 1 - W_{oi}\right)",
    ],
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_unit_is_typeset_as_in_the_paper(name):
    assert equations(LAYERS[name]) == FORMULAS[name]


def test_a_penalty_is_typeset():
    unit = symbolic(NAU)
    square = r"\hat{W}_{oi}^2 \, \left(1 - \left|\hat{W}_{oi}\right|\right)^2"
    assert latex(unit.bias_penalty(unit.w_hat)) == square


def test_brackets_are_where_they_are_needed():
    w = symbolic(LAYERS["Linear"]).weight
    assert latex(w - (w - X)) == r"W_{oi} - \left(W_{oi} - x_{i}\right)"
    assert latex((w + 1) * (w * X)) == r"\left(W_{oi} + 1\right) \, W_{oi} \, x_{i}"
    assert latex(1 - total(w) * X) == r"1 - \left(\sum_i W_{oi}\right) \, x_{i}"
    assert latex((w + 1) / 2.5e-6) == r"\frac{W_{oi} + 1}{2.5 \cdot 10^{-6}}"
    assert latex(-(w + X)) == r"-\left(W_{oi} + x_{i}\right)"
