"""Every unit against its equation, written once more with plain loops, and its gradients."""

import math
import statistics
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call

from nalu.units import NALU, NMU, UNITS, nac_mul, nac_weight, nmu

VARIANTS = UNITS | {
    "NALU separate": partial(NALU, separate=True),
    "NMU normalised": partial(NMU, normalised=True),
}


# The paper's equations for one example x, from the arrays p of a unit's state_dict.


def affine(p, x):
    z = p["bias"].copy()
    for o, i in np.ndindex(p["weight"].shape):
        z[o] += p["weight"][o, i] * x[i]
    return z


def relu(p, x):
    return [max(0, y) for y in affine(p, x)]


def relu6(p, x):
    return [min(y, 6) for y in relu(p, x)]


def nac_matrix(p):  # eq. 1, line 1
    weight = np.empty_like(p["w_hat"])
    for o, i in np.ndindex(weight.shape):
        weight[o, i] = math.tanh(p["w_hat"][o, i]) / (1 + math.exp(-p["m_hat"][o, i]))
    return weight


def nac(p, x):  # eq. 1, line 2
    weight = nac_matrix(p)
    z = np.zeros(len(weight))
    for o, i in np.ndindex(weight.shape):
        z[o] += weight[o, i] * x[i]
    return z


def nac_dot(p, x):  # eq. 1, line 3, as the product of powers that it is
    return powers(nac_matrix(p), p, x)


def powers(weight, p, x):
    z = np.ones(len(weight))
    for o, i in np.ndindex(weight.shape):
        z[o] *= (abs(x[i]) + p["epsilon"]) ** weight[o, i]
    return z


def nac_dot_sigma(p, x):  # final paper
    return powers(np.array([[1 / (1 + math.exp(-w)) for w in row] for row in p["w_hat"]]), p, x)


def nac_dot_nmu(p, x):  # final paper
    return powers(np.array([[min(max(w, 0), 1) for w in row] for row in p["w_hat"]]), p, x)


def nalu(p, x, add="shared", mul="shared"):  # section 2
    a = nac({"w_hat": p[f"{add}.w_hat"], "m_hat": p[f"{add}.m_hat"]}, x)
    m = nac_dot({**p, "w_hat": p[f"{mul}.w_hat"], "m_hat": p[f"{mul}.m_hat"]}, x)
    z = np.empty(len(a))
    for o, row in enumerate(p["gate_weight"]):
        g = 1 / (1 + math.exp(-sum(weight * value for weight, value in zip(row, x, strict=True))))
        z[o] = g * a[o] + (1 - g) * m[o]
    return z


def nau(p, x):  # eq. 3
    z = np.zeros(len(p["w_hat"]))
    for o, i in np.ndindex(p["w_hat"].shape):
        z[o] += min(max(p["w_hat"][o, i], -1), 1) * x[i]
    return z


def nmu_product(p, x):  # eq. 5
    z = np.ones(len(p["w_hat"]))
    for o, i in np.ndindex(p["w_hat"].shape):
        weight = min(max(p["w_hat"][o, i], 0), 1)
        z[o] *= weight * x[i] + 1 - weight
    return z


def nmu_normalised(p, x):  # end of section 2.3; c is the deviation of the whole batch
    z = nmu_product(p, x / p["c"])
    for o, i in np.ndindex(p["w_hat"].shape):
        z[o] *= p["c"] ** min(max(p["w_hat"][o, i], 0), 1)
    return z


EQUATIONS = {
    "Linear": affine,
    "ReLU": relu,
    "ReLU6": relu6,
    "NAC": nac,
    "NACMul": nac_dot,
    "NACMulSigma": nac_dot_sigma,
    "NACMulNMU": nac_dot_nmu,
    "NALU": nalu,
    "NALU separate": partial(nalu, add="add", mul="mul"),
    "NAU": nau,
    "NMU": nmu_product,
    "NMU normalised": nmu_normalised,
}


def by_equation(name, unit, x):
    p = {key: value.numpy() for key, value in unit.state_dict().items()}
    p["epsilon"] = getattr(unit, "epsilon", None)
    p["c"] = statistics.stdev(x.flatten().tolist())
    examples = x.numpy().reshape(-1, unit.in_features)
    z = np.array([EQUATIONS[name](p, example) for example in examples])
    return z.reshape(*x.shape[:-1], unit.out_features)


def random_unit(name, in_features, out_features, **kwargs):
    """A unit in float64 with parameters on both sides of every interval."""
    torch.manual_seed(in_features)
    unit = VARIANTS[name](in_features, out_features, dtype=torch.float64, **kwargs)
    for parameter in unit.parameters():
        torch.nn.init.uniform_(parameter, -1.5, 1.5)
    return unit


def random_inputs(*shape):
    """Numbers of both signs, away from zero."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.uniform(0.3, 3.3, shape) * random.choice([-1, 1], shape))


@pytest.mark.parametrize("leading", [(), (7,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("in_features", [2, 5, 8])
@pytest.mark.parametrize("name", VARIANTS)
def test_unit_computes_its_equation(name, in_features, leading):
    unit = random_unit(name, in_features, 3)
    x = random_inputs(*leading, in_features)
    x[..., 1] = 0
    with torch.no_grad():
        np.testing.assert_allclose(unit(x), by_equation(name, unit, x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["NACMul", "NACMulSigma", "NACMulNMU", "NALU", "NALU separate"])
def test_epsilon_keeps_the_logarithm_of_zero_finite(name):
    unit = random_unit(name, 2, 3, epsilon=0.25)
    x = torch.tensor([0.0, -2.0], dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(unit(x), by_equation(name, unit, x), rtol=1e-13)


@pytest.mark.parametrize("in_features", range(1, 10))
def test_nmu_with_weights_one_is_the_product_of_its_inputs(in_features):
    x = random_inputs(in_features)
    z = nmu(x, torch.ones(1, in_features, dtype=torch.float64))
    assert z.item() == pytest.approx(math.prod(x.tolist()), rel=1e-13)


def test_normalising_an_nmu_changes_nothing_at_whole_weights():
    normalised = NMU(3, 2, normalised=True, dtype=torch.float64)
    normalised.w_hat.data = torch.tensor([[0.0, 1, 1], [1, 1, 1]], dtype=torch.float64)
    x = 100 * random_inputs(16, 3)
    torch.testing.assert_close(normalised(x), nmu(x, normalised.weight), rtol=1e-13, atol=0)


def backward(function, d_z, *values):
    """z and ∂L/∂value of each value, by autograd, from ∂L/∂z."""
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    z = function(*tensors)
    z.backward(torch.from_numpy(d_z))
    return z.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)


def test_gradient_of_the_nac_weight_is_eq_2():
    w_hat, m_hat, d_weight = np.random.default_rng(0).normal(size=(3, 3, 4))
    _, d_w_hat, d_m_hat = backward(nac_weight, d_weight, w_hat, m_hat)
    for o, i in np.ndindex(3, 4):
        tanh = math.tanh(w_hat[o, i])
        gate = 1 / (1 + math.exp(-m_hat[o, i]))
        expected = d_weight[o, i] * (1 - tanh**2) * gate
        assert d_w_hat[o, i] == pytest.approx(expected, rel=1e-12)
        expected = d_weight[o, i] * tanh * gate * (1 - gate)
        assert d_m_hat[o, i] == pytest.approx(expected, rel=1e-12)


def test_gradient_of_nac_mul_is_eq_4():
    random = np.random.default_rng(0)
    x, weight, d_z = np.array([-3, -0.5, 0.2, 4]), random.normal(size=(3, 4)), random.normal(size=3)
    z, d_x, d_weight = backward(partial(nac_mul, epsilon=0.1), d_z, x, weight)
    for o, i in np.ndindex(3, 4):
        expected = d_z[o] * z[o] * math.log(abs(x[i]) + 0.1)
        assert d_weight[o, i] == pytest.approx(expected, rel=1e-12)
    for i in range(4):
        sign = 1 if x[i] > 0 else -1
        expected = sum(d_z[o] * z[o] * weight[o, i] * sign / (abs(x[i]) + 0.1) for o in range(3))
        assert d_x[i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_gradient_of_the_nmu_is_eq_6_also_where_factors_are_zero(zeros):
    random = np.random.default_rng(0)
    x, weight, d_z = random.normal(size=5), random.random((3, 5)), random.normal(size=3)
    x[:zeros] = -1
    weight[0, :zeros] = 0.5  # 0.5 · (-1) + 1 - 0.5 = 0
    factors = weight * x + 1 - weight
    assert (factors == 0).sum() == zeros

    _, d_x, d_weight = backward(nmu, d_z, x, weight)
    rest = np.ones((3, 5))  # the product without factor i
    for o, i, j in np.ndindex(3, 5, 5):
        rest[o, i] *= factors[o, j] if i != j else 1
    for o, i in np.ndindex(3, 5):
        expected = d_z[o] * rest[o, i] * (x[i] - 1)
        assert d_weight[o, i] == pytest.approx(expected, rel=1e-12)
    for i in range(5):
        expected = sum(d_z[o] * rest[o, i] * weight[o, i] for o in range(3))
        assert d_x[i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["NALU", "NALU separate"])
def test_gradient_of_the_gate_is_the_difference_of_its_branches(name):
    unit = random_unit(name, 4, 3)
    x = random_inputs(4)
    d_z = torch.randn(3, dtype=torch.float64)  # ∂L/∂z
    unit(x).backward(d_z)
    add, mul = unit.weight if unit.separate else (unit.weight, unit.weight)
    with torch.no_grad():
        g = unit.gate(x)
        d_gate_input = d_z * (add @ x - nac_mul(x, mul)) * g * (1 - g)  # ∂L/∂(G x)
    torch.testing.assert_close(unit.gate_weight.grad, torch.outer(d_gate_input, x))


def as_function(unit):
    """The unit as a function of its input and parameters, and the parameters."""
    names, parameters = zip(*unit.named_parameters(), strict=True)

    def function(x, *values):
        return functional_call(unit, dict(zip(names, values, strict=True)), x)

    return function, parameters


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives_agree_with_finite_differences(name, check):
    function, parameters = as_function(random_unit(name, 3, 2))
    assert check(function, (random_inputs(2, 3).requires_grad_(), *parameters))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_derivatives_of_the_nmu_agree_with_finite_differences_at_zero_factors(zeros, check):
    unit = NMU(4, 1, dtype=torch.float64)
    torch.nn.init.constant_(unit.w_hat, 0.5)
    x = torch.tensor([[-1.0] * zeros + [2.0] * (4 - zeros)], dtype=torch.float64)
    assert unit(x) == 0
    function, parameters = as_function(unit)
    assert check(function, (x.requires_grad_(), *parameters))
