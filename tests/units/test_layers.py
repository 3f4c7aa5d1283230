"""What users of PyTorch expect of a layer, for every unit."""

import io
import math
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import nalu.units
from nalu.units import (
    NAC,
    NALU,
    NAU,
    NMU,
    UNITS,
    Linear,
    NACMul,
    NACMulNMU,
    NACMulSigma,
    ReLU,
    ReLU6,
    side_by_side,
    unit_named,
)

VARIANTS = UNITS | {
    "NALU separate": partial(NALU, separate=True),
    "NMU normalised": partial(NMU, normalised=True),
}


def inputs(*shape):
    """Numbers from 1 to 2, as in the paper's tasks."""
    return 1 + torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=VARIANTS)
def make(request):
    """A constructor of a unit."""
    torch.manual_seed(0)
    return VARIANTS[request.param]


def test_unit_is_drop_in_for_linear(make):
    x = inputs(16, 4)
    model = nn.Sequential(make(4, 3), make(3, 2))
    target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))(x).detach()
    loss = nn.functional.mse_loss(model(x), target)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_input_may_have_any_leading_dimensions(make):
    unit, x = make(4, 3), inputs(2, 5, 4)
    assert unit(x[0, 0]).shape == (3,)
    assert unit(x).shape == (2, 5, 3)
    torch.testing.assert_close(unit(x).reshape(10, 3), unit(x.reshape(10, 4)))


@pytest.mark.parametrize("name", UNITS)
def test_an_empty_batch_gives_an_empty_batch(name):
    assert UNITS[name](4, 3)(inputs(0, 4)).shape == (0, 3)


@pytest.mark.parametrize("shape", [(2, 3), (4, 1), (5,)], ids=str)
def test_input_of_another_size_is_refused_with_both_numbers(make, shape):
    with pytest.raises(ValueError, match=r"in_features = 4") as error:
        make(4, 3)(inputs(*shape))
    assert f"shape {shape}" in str(error.value)


@pytest.mark.parametrize("name", UNITS)
def test_a_bare_number_is_no_input(name):
    with pytest.raises(ValueError, match=r"shape \(\), .* in_features = 1"):
        UNITS[name](1, 3)(torch.tensor(2.0))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3", None])
def test_size_that_is_no_count_is_refused(make, size):
    with pytest.raises(ValueError, match=f"in_features is {size!r}.* 1 or more"):
        make(size, 3)
    with pytest.raises(ValueError, match=f"out_features is {size!r}.* 1 or more"):
        make(4, size)


LOGARITHMS = [NACMul, NACMulSigma, NACMulNMU, NALU, partial(NALU, separate=True)]


@pytest.mark.parametrize("make", LOGARITHMS)
@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
def test_epsilon_that_no_logarithm_can_have_is_refused(make, epsilon):
    with pytest.raises(ValueError, match=f"epsilon is {epsilon}"):
        make(4, 3, epsilon=epsilon)


def test_sizes_may_come_from_numpy(make):
    assert make(np.int64(4), np.int64(3))(inputs(4)).shape[-1] == 3


def test_normalised_nmu_refuses_a_single_number():
    with pytest.raises(ValueError, match="two numbers"):
        NMU(1, 3, normalised=True)(inputs(1))


# Names


@pytest.mark.parametrize("unit", UNITS.values())
def test_unit_is_found_by_each_of_its_names(unit):
    for name in (unit.__name__, unit.label, *unit.aliases):
        assert unit_named(name) is unit


def test_unknown_name_is_refused_with_a_list_of_units():
    with pytest.raises(ValueError, match="'MLP'") as error:
        unit_named("MLP")
    assert all(name in str(error.value) for name in UNITS)


# State, device, dtype


def test_state_survives_a_file(make):
    unit, other, x = make(4, 3), make(4, 3), inputs(5, 4)
    file = io.BytesIO()
    torch.save(unit.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert all(type(value) is torch.Tensor for value in state.values())
    assert not torch.equal(other(x), unit(x))
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(x), unit(x))


def test_copy_is_independent(make):
    unit, x = make(4, 3), inputs(5, 4)
    before = unit(x)
    copied = deepcopy(unit)
    assert torch.equal(copied(x), before)
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(unit(x), before)
    assert not torch.equal(copied(x), before)


def test_representation_tells_how_to_make_the_unit_again(make):
    unit, x = make(4, 3), inputs(5, 4)
    again = eval(f"{type(unit).__name__}({unit.extra_repr()})", vars(nalu.units))
    again.load_state_dict(unit.state_dict())
    assert again.extra_repr() == unit.extra_repr()
    assert torch.equal(again(x), unit(x))


@pytest.mark.parametrize("make", LOGARITHMS)
def test_representation_shows_the_epsilon(make):
    assert "epsilon=0.25" in make(4, 3, epsilon=0.25).extra_repr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_every_tensor(make, dtype):
    unit = make(4, 3, dtype=dtype)
    assert {parameter.dtype for parameter in unit.parameters()} == {dtype}
    assert unit(inputs(5, 4).to(dtype)).dtype == dtype


def test_unit_can_be_made_on_another_device(make):
    unit = make(4, 3, device="meta")
    assert {parameter.device.type for parameter in unit.parameters()} == {"meta"}
    assert unit(inputs(5, 4).to("meta")).shape == (5, 3)


@pytest.mark.parametrize("name", UNITS)
def test_weight_is_the_matrix_whatever_is_trained(name):
    assert UNITS[name](4, 3).weight.shape == (3, 4)


def test_weight_of_a_separate_nalu_stacks_addition_and_multiplication():
    unit = NALU(4, 3, separate=True)
    assert torch.equal(unit.weight, torch.stack([unit.add.weight, unit.mul.weight]))


# Transformations of functions


def loss_of(unit, parameters, x):
    return functional_call(unit, parameters, x).square().mean()


def test_compiled_unit_equals_eager(make):
    unit, x = make(4, 3), inputs(5, 4)
    compiled = torch.compile(deepcopy(unit), backend="aot_eager", fullgraph=True)
    x_eager, x_compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    unit(x_eager).square().mean().backward()
    compiled(x_compiled).square().mean().backward()
    torch.testing.assert_close(compiled(x), unit(x))
    torch.testing.assert_close(x_compiled.grad, x_eager.grad)
    for ours, theirs in zip(compiled.parameters(), unit.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_many_units_at_once_equal_one_after_another(make):
    units, x = [make(4, 3) for _ in range(3)], inputs(3, 5, 4)
    parameters, buffers = stack_module_state(units)
    assert not buffers
    outputs = vmap(partial(functional_call, units[0]))(parameters, x)
    gradients = vmap(grad(partial(loss_of, units[0])))(parameters, x)
    for k, unit in enumerate(units):
        torch.testing.assert_close(outputs[k], unit(x[k]))
        unit(x[k]).square().mean().backward()
        for name, parameter in unit.named_parameters():
            torch.testing.assert_close(gradients[name][k], parameter.grad)


def test_gradients_per_example_of_an_nmu_are_right_at_zero_factors():
    unit = NMU(4, 2, dtype=torch.float64)
    nn.init.constant_(unit.w_hat, 0.5)
    x = torch.tensor([[-1, 2, 3, 4], [-1, -1, 3, 4], [-1, -1, -1, 4]], dtype=torch.float64)
    w_hat = dict(unit.named_parameters())

    def first_output(parameters, example):
        return functional_call(unit, parameters, example)[0]

    gradients = vmap(grad(first_output), in_dims=(None, 0))(w_hat, x)["w_hat"]
    expected = torch.zeros(3, 2, 4, dtype=torch.float64)
    expected[0, 0, 0] = (1.5 * 2 * 2.5) * (-1 - 1)  # only where no other factor is zero
    assert torch.equal(gradients, expected)


# Initialisation


def draws(unit, name):
    """Ten thousand draws of one initial parameter of a unit, or a few more."""
    torch.manual_seed(0)
    values = []
    for _ in range(10_000 // unit.get_parameter(name).numel() + 1):
        unit.reset_parameters()
        values.append(unit.get_parameter(name).detach().flatten().clone())
    return torch.cat(values).double().numpy()


UNIFORM = [
    # unit, its sizes, parameter, lowest, highest
    (Linear, 100, 2, "weight", -((6 / 102) ** 0.5), (6 / 102) ** 0.5),
    (Linear, 2, 1, "weight", -(2**0.5), 2**0.5),
    (ReLU, 100, 2, "weight", -(0.06**0.5), 0.06**0.5),
    (ReLU6, 100, 2, "weight", -(0.06**0.5), 0.06**0.5),
    (NAC, 100, 2, "w_hat", -0.503909, 0.503909),
    (NAC, 100, 2, "m_hat", -0.503909, 0.503909),
    (NAC, 4, 2, "w_hat", -5.425508, 5.425508),
    (NAC, 2, 1, "w_hat", -9.471406, 9.471406),
    (NACMul, 10, 2, "m_hat", -2.074248, 2.074248),
    (NALU, 25, 2, "shared.w_hat", -1.098834, 1.098834),
    (NALU, 100, 2, "gate_weight", -((6 / 102) ** 0.5), (6 / 102) ** 0.5),
    (partial(NALU, separate=True), 200, 2, "add.w_hat", -0.351312, 0.351312),
    (partial(NALU, separate=True), 200, 2, "mul.m_hat", -0.351312, 0.351312),
    (NAU, 100, 2, "w_hat", -0.242536, 0.242536),
    (NAU, 4, 2, "w_hat", -0.5, 0.5),  # Glorot would give 1
    (NAU, 2, 1, "w_hat", -0.5, 0.5),
    (NMU, 2, 1, "w_hat", 0.25, 0.75),
    (NMU, 100, 2, "w_hat", 0.25, 0.75),
    (NACMulNMU, 2, 1, "w_hat", 0.25, 0.75),
]


@pytest.mark.parametrize(("make", "in_features", "out_features", "name", "low", "high"), UNIFORM)
def test_initial_parameters_are_uniform_in_the_papers_interval(
    make, in_features, out_features, name, low, high
):
    values = draws(make(in_features, out_features), name)
    width = high - low
    assert low - 1e-6 < values.min() < low + 1e-3 * width
    assert high - 1e-3 * width < values.max() < high + 1e-6
    assert kstest(values, "uniform", args=(low, width)).pvalue > 0.01


@pytest.mark.parametrize(("in_features", "out_features"), [(2, 1), (100, 2)])
def test_initial_parameters_of_a_sigmoid_nac_are_normal(in_features, out_features):
    values = draws(NACMulSigma(in_features, out_features), "w_hat")
    assert kstest(values, "norm", args=(0, (2 / (in_features + out_features)) ** 0.5)).pvalue > 0.01


@pytest.mark.parametrize("make", [Linear, ReLU, ReLU6])
def test_initial_bias_is_zero(make):
    assert not make(4, 3).bias.any()


@pytest.mark.parametrize(
    ("make", "in_features", "out_features", "variance"),
    [
        (NAC, 100, 2, 2 / 102),
        (NAC, 2, 1, 2 / 5),  # 2 + 1 features count as 5
        (NACMul, 10, 2, 2 / 12),
        (NAU, 4, 2, 1 / 12),
        (NMU, 2, 1, 1 / 48),
    ],
)
def test_initial_weights_have_the_papers_variance(make, in_features, out_features, variance):
    torch.manual_seed(0)
    units = [make(in_features, out_features) for _ in range(4000)]
    weights = torch.stack([unit.weight.detach() for unit in units])
    assert weights.var().item() == pytest.approx(variance, rel=0.03)


def test_seed_decides_what_is_drawn(make):
    torch.manual_seed(1)
    first = make(4, 3).state_dict()
    other = make(4, 3).state_dict()
    torch.manual_seed(1)
    again = make(4, 3).state_dict()
    for name, value in first.items():
        assert torch.equal(again[name], value)
        assert name == "bias" or not torch.equal(other[name], value)


def test_resetting_draws_every_parameter_as_construction_does(make):
    unit = make(4, 3)
    for parameter in unit.parameters():
        nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(1)
    unit.reset_parameters()
    torch.manual_seed(1)
    new = make(4, 3)
    for name, value in new.state_dict().items():
        assert torch.equal(unit.state_dict()[name], value)


@pytest.mark.parametrize("name", UNITS)
def test_units_side_by_side_start_and_answer_as_units_alone(name):
    torch.manual_seed(1)
    many = side_by_side(UNITS[name], 4, 3, dtype=torch.float64)
    torch.manual_seed(1)
    UNITS[name](4, 3, dtype=torch.float64)  # drawn first and overwritten
    alone = [UNITS[name](4, 1, dtype=torch.float64) for _ in range(3)]
    x = inputs(16, 4).double()
    torch.testing.assert_close(many(x), torch.cat([one(x) for one in alone], dim=1))
    assert many.out_features == 3


def test_normalised_nmu_leaves_a_constant_batch_as_it_is():
    unit = NMU(4, 3, normalised=True)
    x = torch.full((16, 4), 2.0)
    torch.testing.assert_close(unit(x), nalu.units.nmu(x, unit.weight))
