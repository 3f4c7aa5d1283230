"""The rules of both versions of the paper, and what `prepare` sees to."""

import math

import pytest
import torch
from torch import nn

from nalu import NAC, NALU, NAU, NMU, Draft, Final, Linear, NACMul, NACMulNMU, prepare
from nalu.training.protocol import input_penalty
from nalu.units import UNITS, Constrained


def with_weights(unit, w_hat):
    """A unit whose Ŵ is the given matrix, in float64."""
    w_hat = torch.tensor(w_hat, dtype=torch.float64)
    unit = unit(w_hat.shape[1], w_hat.shape[0], dtype=torch.float64)
    unit.w_hat.data = w_hat
    return unit


def sgd(model, lr=1.0):
    return torch.optim.SGD(model.parameters(), lr=lr)


# The strength of the regulariser


@pytest.mark.parametrize(
    ("protocol", "step", "strength"),
    [
        (Draft(), 0, 0.0),
        (Draft(), 1, 0.1 * 1e-5 * (1 - 0.5e-5)),
        (Draft(), 100_000, 0.1 * (1 - math.exp(-1))),
        (Draft(), 10**8, 0.1),
        (Draft(strength=2, rate=math.log(2)), 2, 1.5),
        (Final(strength=10, start=1000, end=3000), 0, 0),
        (Final(strength=10, start=1000, end=3000), 1000, 0),
        (Final(strength=10, start=1000, end=3000), 1001, 0.005),
        (Final(strength=10, start=1000, end=3000), 2500, 7.5),
        (Final(strength=10, start=1000, end=3000), 3000, 10),
        (Final(strength=10, start=1000, end=3000), 10**7, 10),
    ],
    ids=str,
)
def test_sparsity_is_demanded_more_and_more(protocol, step, strength):
    assert protocol.sparsity_strength(step) == pytest.approx(strength, rel=1e-9)


@pytest.mark.parametrize("end", [999, 1000])
def test_ramp_that_ends_before_it_starts_is_refused(end):
    with pytest.raises(ValueError, match=f"{end}, which must be after 1000"):
        Final(strength=10, start=1000, end=end)


@pytest.mark.parametrize(
    ("rules", "constants", "message"),
    [
        (Draft, (math.nan,), "strength is nan: it must be 0 or more"),
        (Draft, (0.1, math.inf), "rate is inf"),
        (Draft, ("0.1",), "strength is '0.1': it must be a number"),
        (Final, (-1.0, 0, 1), "strength is -1.0"),
        (Final, (1.0, 1e3, 2000), "start is 1000.0: it must be a whole number"),
        (Final, (1.0, 0, None), "end is None"),
        (Final, (1.0, -1, 1), "start is -1"),
    ],
)
def test_constants_that_no_training_can_have_are_refused(rules, constants, message):
    with pytest.raises(ValueError, match=message):
        rules(*constants)


@pytest.mark.parametrize(
    ("model", "constants"),
    [
        (nn.Sequential(NAU(4, 2), NMU(2, 1)), Final(10.0, 1_000_000, 2_000_000)),
        (NMU(4, 1), Final(10.0, 1_000_000, 2_000_000)),
        (nn.Sequential(NAU(4, 2), NAU(2, 1)), Final(0.01, 5_000, 50_000)),
    ],
    ids=["NAU-NMU", "NMU", "NAU-NAU"],
)
def test_constants_are_the_papers_for_this_model(model, constants):
    assert prepare(model, sgd(model)).protocol == constants
    assert prepare(model, sgd(model), "final").protocol == constants
    assert prepare(model, sgd(model), "draft").protocol == Draft(strength=0.1, rate=1e-5)


def test_constants_of_ones_own_are_kept():
    model, mine = NMU(2, 1), Final(strength=1.0, start=5, end=6)
    assert prepare(model, sgd(model), mine).protocol is mine


# The regulariser

NAU_HAT = [[0.5, -2.0, 1.0], [0.0, -0.25, 1.5]]
NMU_HAT = [[0.5, 1.5, -1.0]]


@pytest.mark.parametrize(
    ("unit", "w_hat", "bias", "out_of_bounds"),
    [
        (NAU, NAU_HAT, (0.0625 + 4 + 0 + 0 + 0.03515625 + 0.5625) / 6, (1 + 0.25) / 6),
        (NMU, NMU_HAT, (0.0625 + 0.5625 + 4) / 3, (0.25 + 1) / 3),
    ],
)
def test_draft_regularises_the_unclipped_parameter(unit, w_hat, bias, out_of_bounds):
    unit = with_weights(unit, w_hat)
    halfway = Draft(strength=2, rate=math.log(2))  # strength 1 at step 1, 1.5 at step 2
    regulariser = prepare(unit, sgd(unit), halfway)
    assert regulariser(0).item() == pytest.approx(out_of_bounds, rel=1e-12)
    assert regulariser(1).item() == pytest.approx(bias + out_of_bounds, rel=1e-12)
    assert regulariser(2).item() == pytest.approx(1.5 * bias + out_of_bounds, rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "w_hat", "sparsity"),
    [
        (NAU, [[0.5, -0.75, 1.0], [0.0, -0.25, 1.5]], (0.5 + 0.25 + 0 + 0 + 0.25 + 0) / 6),
        (NMU, [[0.5, 0.875, -1.0]], (0.5 + 0.125 + 0) / 3),
    ],
)
def test_final_regularises_the_distance_to_whole_numbers(unit, w_hat, sparsity):
    unit = with_weights(unit, w_hat)
    regulariser = prepare(unit, sgd(unit), Final(strength=8, start=0, end=2))
    assert regulariser(0).item() == 0
    assert regulariser(1).item() == pytest.approx(4 * sparsity, rel=1e-12)
    assert regulariser(2).item() == pytest.approx(8 * sparsity, rel=1e-12)


@pytest.mark.parametrize("protocol", [Draft(), Final(strength=8, start=0, end=2)], ids=str)
def test_regulariser_sums_over_units_however_deep(protocol):
    nau, nmu = with_weights(NAU, NAU_HAT), with_weights(NMU, NMU_HAT)
    alone = [prepare(unit, sgd(unit), protocol)(2) for unit in (nau, nmu)]
    model = nn.Sequential(nau, nn.Sequential(nn.Identity(), nn.ModuleDict({"product": nmu})))
    torch.testing.assert_close(prepare(model, sgd(model), protocol)(2), sum(alone))


@pytest.mark.parametrize(
    "unit", [unit for unit in UNITS.values() if not issubclass(unit, Constrained)]
)
def test_units_without_constraint_train_in_the_same_loop(unit):
    model = nn.Sequential(unit(4, 2), Linear(2, 1))
    optimizer = sgd(model, lr=0.01)
    regulariser = prepare(model, optimizer)
    for step in range(2):
        penalty = regulariser(step)
        assert penalty == 0
        penalty += model(torch.ones(3, 4)).square().mean()  # in place, as some people write it
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()


# The constraint

INTERVALS = [(NAU, -1.0, 1.0), (NMU, 0.0, 1.0), (NACMulNMU, 0.0, 1.0)]


@pytest.mark.parametrize("push", [-1e9, 1e9])
@pytest.mark.parametrize(("unit", "low", "high"), INTERVALS)
def test_final_keeps_weights_inside_whatever_the_gradient(unit, low, high, push):
    unit = unit(3, 2)
    optimizer = sgd(unit)
    regulariser = prepare(unit, optimizer)
    ((unit.weight * push).sum() + regulariser(0)).backward()
    optimizer.step()
    assert (unit.w_hat == (low if push > 0 else high)).all()


@pytest.mark.parametrize(("unit", "low", "high"), INTERVALS)
def test_final_leaves_weights_inside_the_interval_to_the_optimiser(unit, low, high):
    unit = unit(3, 2)
    before = unit.w_hat.detach().clone()
    optimizer = sgd(unit)
    regulariser = prepare(unit, optimizer)
    (0.01 * unit.weight.sum() + regulariser(0)).backward()
    optimizer.step()
    torch.testing.assert_close(unit.w_hat.detach(), before - 0.01)


@pytest.mark.parametrize(("unit", "low", "high"), INTERVALS)
def test_draft_clips_in_the_forward_pass_and_brings_the_parameter_back(unit, low, high):
    unit = unit(3, 2)
    optimizer = sgd(unit)
    regulariser = prepare(unit, optimizer, "draft")
    (-100 * unit.weight.sum() + regulariser(0)).backward()
    optimizer.step()
    assert (unit.w_hat > 50).all()
    for step in range(1, 100):
        assert (unit.weight == high).all()
        optimizer.zero_grad()
        regulariser(step).backward()
        optimizer.step()
    torch.testing.assert_close(unit.w_hat.detach(), torch.full((2, 3), high))


@pytest.mark.parametrize(("unit", "low", "high"), INTERVALS)
def test_data_loss_of_the_draft_has_no_gradient_strictly_outside(unit, low, high):
    unit = with_weights(unit, [[low - 0.5, low, 0.5, high, high + 0.5]])
    prepare(unit, sgd(unit), "draft")
    unit(torch.full((5,), 2.0, dtype=torch.float64)).backward()
    assert (unit.w_hat.grad != 0).tolist() == [[False, True, True, True, False]]


def test_units_that_are_frozen_are_accepted_and_stay():
    model = nn.Sequential(NAU(4, 2), NMU(2, 1))
    model[0].requires_grad_(False)
    frozen, free = (unit.w_hat.detach().clone() for unit in model)
    optimizer = sgd(model[1], lr=0.01)
    regulariser = prepare(model, optimizer)
    (model(torch.ones(4)).sum() + model[1].weight.sum() + regulariser(0)).backward()
    optimizer.step()
    assert torch.equal(model[0].w_hat, frozen)
    assert not torch.equal(model[1].w_hat, free)


# What is refused


@pytest.mark.parametrize("protocol", ["draft", "final"])
def test_step_without_the_regulariser_is_an_error(protocol):
    model = NAU(4, 1)
    optimizer = sgd(model)
    regulariser = prepare(model, optimizer, protocol)
    for step in range(2):  # the first step and a later one
        model(torch.ones(4)).sum().backward()
        with pytest.raises(RuntimeError, match=r"add regulariser\(step\) to the loss"):
            optimizer.step()
        regulariser(step)  # asked for and left out of the loss
        model(torch.ones(4)).sum().backward()
        with pytest.raises(RuntimeError, match=r"add regulariser\(step\) to the loss"):
            optimizer.step()
        (model(torch.ones(4)).sum() + regulariser(step)).backward()
        optimizer.step()


def test_optimiser_is_prepared_once():
    model = NAU(4, 1)
    optimizer = sgd(model)
    prepare(model, optimizer)
    with pytest.raises(ValueError, match="prepared already: make a new one"):
        prepare(model, optimizer)


def test_optimiser_of_some_of_the_units_is_refused():
    model = nn.Sequential(NAU(4, 2), NMU(2, 1))
    with pytest.raises(ValueError, match=r"does not train 1 \(NMU\(in_features=2"):
        prepare(model, sgd(model[0]))


def test_optimiser_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"does not train the model .* of this same model"):
        prepare(NAU(4, 1), sgd(NAU(4, 1)))


def test_refused_optimiser_can_still_be_prepared():
    model = NAU(4, 1)
    optimizer = sgd(model)
    with pytest.raises(ValueError, match=r"'May 2019'.*'draft', 'final'"):
        prepare(model, optimizer, "May 2019")
    with pytest.raises(ValueError, match="does not train"):
        prepare(NMU(4, 1), optimizer)
    assert prepare(model, optimizer, "draft")(0) == 0


def test_negative_step_is_refused():
    model = NAU(4, 1)
    with pytest.raises(ValueError, match="step is -1: it counts optimiser steps, from 0"):
        prepare(model, sgd(model))(-1)


# All of it together


def test_ordinary_training_loop_finds_the_operation():
    def examples(count, low, high):
        x = low + (high - low) * torch.rand(count, 4)
        return x, (x[:, :2].sum(-1) * x.sum(-1)).unsqueeze(-1)

    torch.manual_seed(0)
    model = nn.Sequential(NAU(4, 2), NMU(2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regulariser = prepare(model, optimizer, Final(strength=10, start=2000, end=3000))
    for step in range(4000):
        x, target = examples(128, 1, 2)
        loss = nn.functional.mse_loss(model(x), target) + regulariser(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for unit in model:
        torch.testing.assert_close(unit.weight, unit.weight.round(), rtol=0, atol=0.01)
    x, target = examples(1000, 2, 6)
    torch.testing.assert_close(model(x), target, rtol=0.01, atol=0)


def test_r_z_of_numbers_worked_out_by_hand():
    """z̄ = (2, 0.5): the means over the batch and time of each of the two inputs."""
    inputs = torch.tensor([[[1.0, 0.0], [3.0, 1.0]], [[4.0, -1.0], [0.0, 2.0]]])
    for unit, w_hat, expected in (
        (NMU(2, 1), [0.25, 1.0], (0.75 * 1.0 + 0.0) / 2),
        (NMU(2, 1), [0.0, 0.5], (1.0 + 0.5 * 0.25) / 2),
        (NAU(2, 1), [-0.5, 0.0], (0.5 * 4.0 + 0.25) / 2),
        (NAU(2, 2), [[1.0, -1.0], [0.0, 0.5]], (0.0 + 0.0 + 4.0 + 0.125) / 4),
    ):
        unit.w_hat.data = torch.tensor(w_hat).view_as(unit.w_hat)
        assert input_penalty(unit, inputs).item() == pytest.approx(expected)
    nac = NAC(2, 1)
    nac.w_hat.data, nac.m_hat.data = torch.full((1, 2), 100.0), torch.zeros(1, 2)  # W = 1/2
    assert input_penalty(nac, inputs).item() == pytest.approx((0.5 * 4.0 + 0.5 * 0.25) / 2)


def test_r_z_of_a_nac_with_the_weights_of_an_nmu_is_of_logarithms():
    """As in the authors' code, drawn to 1, which is no neutral logarithm."""
    unit = with_weights(NACMulNMU, [[0.25, 1.0]])
    inputs = torch.tensor([[math.e, 5.0], [-(math.e**3), 7.0]], dtype=torch.float64)
    assert input_penalty(unit, inputs).item() == pytest.approx(0.75 * (2 - 1) ** 2 / 2)


@pytest.mark.parametrize("unit", [NAC, NAU, NMU, NACMulNMU])
def test_r_z_has_gradients_for_weights_and_inputs(unit):
    unit = unit(3, 2, dtype=torch.float64)
    inputs = torch.rand(4, 5, 3, dtype=torch.float64, requires_grad=True)

    def penalty(inputs, *parameters):  # gradcheck changes the unit's own, in place
        return input_penalty(unit, inputs)

    assert torch.autograd.gradcheck(penalty, [inputs, *unit.parameters()])


@pytest.mark.parametrize("unit", [NACMul, NALU])
def test_r_z_is_not_defined_for_other_units(unit):
    with pytest.raises(ValueError, match="R_z is defined for NAC, NACMulNMU, NAU, NMU, not for NA"):
        input_penalty(unit(2, 1), torch.rand(4, 2))
