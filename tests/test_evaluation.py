"""Scores and intervals against cases worked out by hand, and their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from nalu.evaluation import (
    beta_mean,
    gamma_mean,
    score,
    sequence_scores,
    sequence_thresholds,
    t_mean,
    threshold,
    wilson,
)
from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction
from nalu.training.run import Log, Run
from nalu.training.sequence_run import SequenceLog

NAN = math.nan


def log_of(interpolation, extrapolation, sparsity=None, diverged_at=None):
    n = len(extrapolation)
    sparsity = np.linspace(0.5, 0.1, n) if sparsity is None else np.array(sparsity)
    columns = np.array(interpolation, float), np.array(extrapolation, float), sparsity
    return Log(np.arange(n) * 1000, *columns, diverged_at, np.empty(0))


def draft(task=None):
    return Run(("NAU", "NMU"), task or SimpleMultiplication(extrapolation=(1, 6)), "draft")


def test_draft_takes_the_median_of_the_last_10_in_the_simple_task():
    errors = [9.0, 0.1, 9.0] + [0.1] * 4 + [0.3] * 4 + [0.15, 0.19]
    result = score(draft(), log_of([1.0] * 13, errors))  # median of the last 10: 0.17
    assert result.solved
    assert result.extrapolation_error == pytest.approx((0.15 + 0.19) / 2)
    assert result.solved_at == 1000  # the first below, also when it rises again
    assert result.sparsity_error == pytest.approx(np.median(np.linspace(0.5, 0.1, 13)[-10:]))


def test_draft_takes_the_last_100_of_a_static_function():
    errors = [0.1] * 60 + [0.3] * 55
    assert not score(draft(StaticFunction()), log_of(errors, errors)).solved  # 45 of 100 below
    errors = [0.1] * 70 + [0.3] * 45
    assert score(draft(StaticFunction()), log_of(errors, errors)).solved
    assert not score(draft(), log_of(errors, errors)).solved


def test_draft_ignores_nan_and_scores_what_a_diverged_run_logged():
    assert score(draft(), log_of([1.0] * 3, [NAN, 0.1, NAN], diverged_at=2500)).solved
    nothing = score(draft(), log_of([NAN] * 2, [NAN] * 2, [NAN] * 2, diverged_at=0))
    assert not nothing.solved
    assert math.isnan(nothing.extrapolation_error)
    assert math.isnan(nothing.solved_at)


def test_exactly_the_threshold_is_not_below_it():
    assert not score(draft(), log_of([0.2] * 10, [0.2] * 10)).solved


def final(**fields):
    return Run(("NAU", "NMU"), SimpleMultiplication(**fields), "final")


def test_final_selects_the_first_smallest_validation_error():
    limit = threshold(SimpleMultiplication())
    validation = [3.0, NAN, 1.0, 1.0, 2.0]
    good, bad = limit / 2, limit * 2
    result = score(final(), log_of(validation, [good, good, good, bad, bad]))
    assert result.solved
    assert result.solved_at == 0
    assert result.sparsity_error == pytest.approx(0.3)
    assert result.interpolation_error == 1.0
    result = score(final(), log_of(validation, [good, good, bad, good, good]))
    assert not result.solved
    assert math.isnan(result.solved_at)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        # From an independent simulation with exact subsets and another stream of samples.
        (StaticFunction("mul"), 0.1606),
        (StaticFunction("add"), 1.604e-5),
        (StaticFunction("sub"), 1.3825e-8),
        (StaticFunction("div"), 5.808e-12),
        (StaticFunction("sqrt"), 1.0097e-8),
        (StaticFunction("square"), 0.1600),
        (SimpleMultiplication(), 2.163e-6),
        (StaticFunction("mul", input_size=4), 4.809e-7),
        (StaticFunction("mul", extrapolation=((-6, -2), (2, 6))), 2.196e-4),
    ],
    ids=str,
)
def test_thresholds(task, expected):
    assert threshold(task) == pytest.approx(expected, rel=0.015)


def test_threshold_of_an_addition_has_a_closed_form():
    """ε² E[(2T - 2a - 2b)²] over 4 inputs of variance 4/3 and mean 4: T - a - b = -x₁ - x₂."""
    task = StaticFunction("add", input_size=4, subset_ratio=0.75, overlap_ratio=0.67)
    assert task.subsets(0) == ((0, 3), (1, 4))  # a + b = T + x₂ + x₃
    expected = 1e-10 * 4 * (8**2 + 2 * 4 / 3)
    assert threshold(task) == pytest.approx(expected, rel=0.002)


def test_wilson_interval_of_the_final_papers_table():
    assert wilson(31, 100) == pytest.approx((0.31, 0.228, 0.406), abs=5e-4)
    assert wilson(0, 100) == pytest.approx((0, 0, 0.037), abs=5e-4)
    assert wilson(100, 100) == pytest.approx((1, 0.963, 1), abs=5e-4)
    for successes, runs in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes of"):
            wilson(successes, runs)


def test_gamma_interval_of_exponential_data_is_near_the_exact_one():
    """For shape 1, 2 n x̄ / μ is χ² with 2 n degrees of freedom."""
    x = stats.expon.ppf((np.arange(400) + 0.5) / 400)
    mean, low, high = gamma_mean(x)
    assert mean == x.mean()
    assert low == pytest.approx(800 * mean / stats.chi2.ppf(0.975, 800), rel=0.01)
    assert high == pytest.approx(800 * mean / stats.chi2.ppf(0.025, 800), rel=0.01)


def test_gamma_interval_scales_with_its_data():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    assert np.array(gamma_mean(x * 1e6)) == pytest.approx(np.array(gamma_mean(x)) * 1e6)


def test_beta_mean_is_not_halved():
    x = stats.beta.ppf((np.arange(200) + 0.5) / 200, 2, 38) / 2
    mean, low, high = beta_mean(x)
    assert mean == pytest.approx(0.025, rel=0.01)
    half = 1.96 * stats.beta.std(2, 38) / 2 / 200**0.5
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_beta_mean_of_errors_at_rounding_level():
    x = stats.expon.ppf((np.arange(100) + 0.5) / 100) * 1e-7
    mean, low, high = beta_mean(x)
    assert low < x.mean() < high
    assert mean == pytest.approx(x.mean(), rel=0.02)


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Of 300 intervals from 80 values each, 0.95 ± 0.03 (2.4 sd) hold the mean: were the true
    coverage 0.88, that would be seen with power 0.98."""
    rng = np.random.default_rng(0)
    for estimate, draw, mean in (
        (gamma_mean, lambda: rng.gamma(3, 1e5, 80), 3e5),
        (beta_mean, lambda: rng.beta(2, 20, 80) / 2, 1 / 22),
    ):
        intervals = [estimate(draw()) for _ in range(300)]
        assert 0.92 < np.mean([low < mean < high for _, low, high in intervals]) < 0.98


def test_small_samples_have_a_t_interval():
    assert t_mean([1.0, 3.0]) == pytest.approx((2, 2 - 12.7062, 2 + 12.7062))
    assert gamma_mean([5.0])[0] == 5.0
    assert math.isnan(gamma_mean([5.0])[1])
    assert gamma_mean([7.0, 7.0]) == pytest.approx((7, 7, 7))
    assert gamma_mean([0.0, 1000.0])[1] < 0  # zeros have no likelihood under a gamma law
    assert beta_mean([0.5, 0.5]) == pytest.approx((0.5, 0.5, 0.5))
    assert math.isnan(gamma_mean([])[0])


# Sequential MNIST


def sequence_log(validation, test, sparsity=None) -> SequenceLog:
    n = len(validation)
    steps = [10 * i for i in range(n)]
    return SequenceLog(list(range(n)), steps, validation, test, sparsity or [0.0] * n, [], None)


def test_thresholds_of_sequences_against_numbers_of_the_t_table():
    """Errors at the best validation: 1, 2, 3 at one length, 5 at another. t₀.₉₉ with 2: 6.965."""
    logs = [
        sequence_log([2.0, 1.0, math.nan], [[9.0, 9.0], [1.0, 5.0], [0.0, 0.0]]),
        sequence_log([1.0, 1.0], [[2.0, 5.0], [9.0, 9.0]]),
        sequence_log([1.0], [[3.0, 5.0]]),
    ]
    first, second = sequence_thresholds(logs)
    assert first == pytest.approx(2 + 6.9646 / 3**0.5, rel=1e-4)
    assert second == pytest.approx(5.0)
    with pytest.raises(ValueError, match="1 reference runs: a threshold takes two or more"):
        sequence_thresholds(logs[:1])


def test_scores_of_sequences():
    log = sequence_log(
        [4.0, 2.0, 1.0, 3.0],
        [[9.0, 9.0], [0.5, 9.0], [0.6, 2.0], [0.1, 0.1]],
        [0.4, 0.3, 0.2, 0.1],
    )
    solved, failed = sequence_scores(log, [1.0, 1.0])
    assert solved == (True, 10.0, 0.2, 1.0, 0.6, 1.0)
    assert failed[0] is False
    assert math.isnan(failed.solved_at)
    assert failed[2:] == (0.2, 1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="3 thresholds: there must be one for each of 2 lengths"):
        sequence_scores(log, [1.0] * 3)
