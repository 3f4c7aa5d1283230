"""Figures 1 and 2 in numbers."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nalu.surfaces import PROBLEMS, loss_surface, nac_mul_solution, predictions
from nalu.units import nac_mul, nmu

DRAFT, FINAL = PROBLEMS["draft"], PROBLEMS["final"]


def nac_mul_with(epsilon):
    return partial(nac_mul, epsilon=epsilon)


def grid(lowest_w2):
    """The 49 × 49 points that the figures plot."""
    w1 = torch.linspace(-1, 1, 49, dtype=torch.float64)
    w2 = torch.linspace(lowest_w2, 1, 49, dtype=torch.float64)
    return torch.meshgrid(w1, w2, indexing="ij")


def loss_at(unit, w1, w2, problem=DRAFT):
    w1, w2 = torch.tensor(w1, dtype=torch.float64), torch.tensor(w2, dtype=torch.float64)
    return loss_surface(problem, unit, w1, w2).item()


def test_problems_are_those_of_the_papers():
    assert DRAFT.sums == (2.5, 4.5)
    assert DRAFT.target == 11.25
    assert FINAL.sums == pytest.approx((2.2, 6))
    assert FINAL.target == pytest.approx(13.2)


@pytest.mark.parametrize(
    ("problem", "a", "b", "t"), [(DRAFT, 2.5, 4.5, 11.25), (FINAL, 2.2, 6, 13.2)]
)
def test_loss_is_the_squared_error_of_the_tied_model(problem, a, b, t):
    w1, w2 = grid(lowest_w2=-1)
    nac = (abs(a * w1) + 0.1) ** w2 * (abs(b * w1) + 0.1) ** w2
    torch.testing.assert_close(predictions(problem, nac_mul_with(0.1), w1, w2), nac)
    torch.testing.assert_close(loss_surface(problem, nac_mul_with(0.1), w1, w2), (nac - t) ** 2)
    product = (w2 * a * w1 + 1 - w2) * (w2 * b * w1 + 1 - w2)
    torch.testing.assert_close(predictions(problem, nmu, w1, w2), product)
    torch.testing.assert_close(loss_surface(problem, nmu, w1, w2), (product - t) ** 2)


@pytest.mark.parametrize(
    ("epsilon", "highest", "share_above_500"),
    [(1e-7, 1e28, 0.012), (0.1, 7877, 0.0025), (1, 125.4, 0)],
)
def test_figure_1_has_the_heights_that_are_known(epsilon, highest, share_above_500):
    loss = loss_surface(DRAFT, nac_mul_with(epsilon), *grid(lowest_w2=-1))
    assert loss.max().item() == pytest.approx(highest, rel=1e-4)
    share = (loss > 500).double().mean().item()
    assert share == pytest.approx(share_above_500, abs=5e-4)


def test_figure_2_has_the_height_that_is_known():
    loss = loss_surface(DRAFT, nmu, *grid(lowest_w2=0))
    assert loss.max().item() == pytest.approx(127.7, abs=0.05)


@pytest.mark.parametrize("unit", [nac_mul_with(1e-7), nac_mul_with(1), nmu])
@pytest.mark.parametrize("w1", [-1.0, 0.0, 0.3])
def test_surface_is_flat_where_the_second_layer_is_zero(unit, w1):
    assert loss_at(unit, w1, 0.0) == pytest.approx((1 - 11.25) ** 2)


@pytest.mark.parametrize("w1", [-1.0, 1.0])
def test_desired_solution_and_its_mirror_image_solve_both_figures(w1):
    assert loss_at(nmu, 1.0, 1.0) == 0
    assert loss_at(nac_mul_with(0), w1, 1.0) == pytest.approx(0, abs=1e-25)
    assert loss_at(nmu, -w1, 1.0) == 0


@pytest.mark.parametrize(("epsilon", "loss"), [(1e-7, 4.9e-13), (0.1, 0.504), (1, 64.0)])
def test_epsilon_costs_the_desired_solution(epsilon, loss):
    assert loss_at(nac_mul_with(epsilon), 1.0, 1.0) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("w2", "epsilon", "w1"),
    [(-1, 1e-7, 0.0889), (-0.5, 1e-7, 0.0265), (-0.25, 1e-7, 0.00236), (-1, 0.1, 0.0582)],
)
def test_undesired_solutions_are_those_that_are_known(w2, epsilon, w1):
    assert nac_mul_solution(DRAFT, w2, epsilon) == pytest.approx(w1, rel=2e-3)


def test_large_epsilon_leaves_no_undesired_solution():
    assert nac_mul_solution(DRAFT, -1, 1.0) is None
    w1 = torch.linspace(0, 10, 1001, dtype=torch.float64)
    assert (loss_surface(DRAFT, nac_mul_with(1.0), w1, torch.full_like(w1, -1)) > 100).all()


@pytest.mark.parametrize("w2", [0.0, 1e-3, -1e-3])
def test_solution_that_no_float_can_hold_is_none(w2):
    assert nac_mul_solution(DRAFT, w2, 0.0) is None


def test_grids_in_float32_or_of_other_shapes_are_refused():
    fine = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for w1, w2 in ((fine.float(), fine.float()), (fine[:, None], fine[None])):
        with pytest.raises(ValueError, match="float64 tensors of one shape"):
            loss_surface(DRAFT, nmu, w1, w2)


@settings(deadline=None)
@given(
    problem=st.sampled_from([DRAFT, FINAL]),
    w2=st.floats(-2, -0.1) | st.floats(0.1, 2),
    epsilon=st.just(0.0) | st.floats(1e-9, 2),
)
def test_solution_has_no_loss_on_either_side_of_zero(problem, w2, epsilon):
    w1 = nac_mul_solution(problem, w2, epsilon)
    if w1 is None:  # then w₁ = 0, where the answer is nearest to the target, is past it
        assert w2 * (epsilon ** (2 * w2) - problem.target) > -1e-9
    else:
        assert w1 >= 0
        assert loss_at(nac_mul_with(epsilon), w1, w2, problem) == pytest.approx(0, abs=1e-18)
        assert loss_at(nac_mul_with(epsilon), -w1, w2, problem) == pytest.approx(0, abs=1e-18)
