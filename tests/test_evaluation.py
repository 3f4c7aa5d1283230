"""Scores and intervals against cases worked out by hand, and their coverage."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import nalu
from nalu.evaluation import (
    RULES,
    agreement,
    beta_mean,
    chance_of_fewer,
    differences,
    ending,
    error_by,
    gamma_mean,
    limit_of,
    score,
    sparsity_mean,
    success_by_choice,
    success_by_rule,
    summary,
    t_mean,
    threshold,
    wilson,
)
from nalu.experiments import simple_multiplication
from nalu.store import kept_rows
from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction
from nalu.training.protocol import Final
from nalu.training.run import Log, Run
from nalu.units import NAU, NMU, Linear

NAN = math.nan


def log_of(interpolation, extrapolation, sparsity=None, diverged_at=None):
    n = len(extrapolation)
    sparsity = np.linspace(0.5, 0.1, n) if sparsity is None else np.array(sparsity)
    rows = np.column_stack([np.arange(n) * 1000, interpolation, extrapolation, sparsity])
    return Log(draft().columns(), rows.astype(float), diverged_at, np.empty(0))


def solved_by(rule, run, curve):
    return error_by(rule, run, curve) < limit_of(rule, run)


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


def test_sparsity_errors_above_one_half_have_a_t_interval():
    assert sparsity_mean([0.4, 0.6, 0.8]) == t_mean([0.4, 0.6, 0.8])
    small = [1e-3, 2e-3, 3e-3]
    assert sparsity_mean(small).value == pytest.approx(2e-3)
    assert sparsity_mean(small)[1:] == beta_mean(small)[1:]
    assert np.isnan(sparsity_mean([])).all()


def test_summary_counts_all_runs_and_averages_over_the_solved():
    table = pd.DataFrame(
        {
            "operation": "mul",
            "model": ["NMU"] * 4 + ["NALU"] * 2,
            "seed": [0, 1, 2, 3, 0, 1],
            "iterations": 1000,
            "seconds": [1.0, 2.0, 3.0, 4.0, 5.0, 5.0],
            "solved": [True, True, True, False, False, False],
            "solved_at": [1000.0, 2000.0, 6000.0, NAN, NAN, NAN],
            "sparsity_error": [0.1, 0.2, 0.3, 0.5, 0.5, 0.5],
        }
    )
    nmu, nalu = (row for _, row in summary(table).iterrows())
    assert (nmu.model, nmu.runs, nmu.success_rate) == ("NMU", 4, 0.75)
    assert (nmu.success_rate_low, nmu.success_rate_high) == pytest.approx(wilson(3, 4)[1:])
    assert (nmu.solved_at, nmu.solved_at_median, nmu.seconds) == (3000, 2000, 2.5)
    assert nmu.solved_at_low < 3000 < nmu.solved_at_high
    assert nmu.sparsity_error == pytest.approx(0.2)
    assert nalu.success_rate == 0
    assert np.isnan([nalu.solved_at, nalu.sparsity_error, nalu.solved_at_median]).all()


def side(rate, runs, solved_at=NAN, sparsity=NAN, width=0.0):
    means = {"solved_at": solved_at, "sparsity_error": sparsity}
    ends = {f"{n}_low": v * (1 - width) if width else NAN for n, v in means.items()}
    ends |= {f"{n}_high": v * (1 + width) if width else NAN for n, v in means.items()}
    return pd.Series({"success_rate": rate, "runs": runs, **means, **ends})


@pytest.mark.parametrize("runs", range(1, 60))
def test_a_rate_is_within_its_interval_to_the_last_bit(runs):
    for successes in range(runs + 1):
        rate, low, high = wilson(successes, runs)
        assert 0 <= low <= rate <= high <= 1


def test_a_mean_of_sparsity_errors_is_within_its_interval():
    """One run that had not settled decides the mean, and no beta law has so heavy an end."""
    value, low, high = sparsity_mean([1e-7] * 99 + [0.499])
    assert value == pytest.approx((99e-7 + 0.499) / 100)
    assert 0 <= low <= value <= high < 0.02


def test_groups_by_a_label_that_some_runs_lack_are_kept():
    table = pd.DataFrame({"model": "NMU", "overlap_ratio": [NAN, NAN, 0.5], "seed": [0, 1, 0],
        "solved": True, "solved_at": 1000.0, "sparsity_error": 0.1})  # fmt: skip
    assert list(summary(table, ["overlap_ratio", "model"]).runs) == [2, 1]


RATE, MEANS = {"success rate": False}, ("solved at", "sparsity error")


def test_runs_of_several_experiments_are_not_pooled():
    table = pd.DataFrame({"model": "NMU", "operation": "mul", "input_size": [4, 4, 8],
        "seed": [0, 1, 1], "solved": True, "solved_at": 1.0, "sparsity_error": 0.1})  # fmt: skip
    apart = summary(table)
    assert list(apart.input_size) == [4, 8]
    assert list(apart.runs) == [2, 1]
    assert list(summary(table, ["input_size", "model"]).runs) == [2, 1]


def test_runs_that_differ_in_any_field_are_told_apart(tmp_path):
    """By strengths of a regulariser as well, whose seeds need not be the same."""
    weak, strong = (Final(strength, 0, 10) for strength in (0.0, 1.0))
    runs = simple_multiplication(weak, [0, 1], ["NMU"], 20)
    runs += simple_multiplication(strong, [2], ["NMU"], 20)
    table = summary(nalu.sweep(runs, store=tmp_path, progress=False))
    assert list(table.protocol_strength) == [0.0, 1.0]
    assert list(table.runs) == [2, 1]


def test_runs_of_other_layers_or_tasks_are_not_pooled(tmp_path):
    """Not even if they are given one label and have other seeds."""
    (first,) = simple_multiplication("draft", [0], ["NMU"], 20)
    other = first.but(layers=("NAC", "NMU"), model="NMU", seed=1)
    table = summary(nalu.sweep([first, other], store=tmp_path, progress=False))
    assert list(table.layers) == ["NAU → NMU", "NAC → NMU"]
    assert list(table.runs) == [1, 1]
    published = pd.DataFrame({"operation": ["mul"], "model": "NMU", "runs": 100})
    with pytest.raises(ValueError, match="rows differ in more than operation, model: name it"):
        agreement(table, published.assign(success_rate=0.0))


def test_a_run_that_is_given_twice_is_not_counted_twice(tmp_path):
    runs = simple_multiplication("draft", [0, 1, 0], ["NMU"], 20)
    with pytest.raises(ValueError, match="a run is there twice, with operation mul, model NMU"):
        summary(nalu.sweep(runs, store=tmp_path, progress=False))


def test_what_differs_beyond_chance():
    """28 and 13 of 100: Fisher's exact test gives p = 0.014; 28 and 18 of 100, p = 0.13."""
    assert differences(side(0.28, 100), side(0.13, 100)) == {"success rate": True}
    assert differences(side(0.28, 100), side(0.18, 100)) == RATE
    ours = side(1.0, 10, 1000.0, 0.1, width=0.1)
    assert differences(side(1.0, 10), side(1.0, 10, 2000.0, 0.2)) == RATE  # ours is missing
    assert differences(ours, side(1.0, 10)) == RATE
    assert differences(side(1.0, 10, 1000.0, 0.1), side(1.0, 10, 2000.0, 0.2)) == RATE


@pytest.mark.parametrize(("runs", "factor"), [(10, 2**0.5), (40, 1.25**0.5), (5, 3**0.5)])
def test_a_mean_without_interval_varies_like_ours_by_the_number_of_solved_runs(runs, factor):
    """Ours is of ten runs and good to a factor of 1.1 either way, 95 % of the time."""
    ours = side(1.0, 10, 1000.0, 0.1)
    for name in ("solved_at", "sparsity_error"):
        ours[f"{name}_low"], ours[f"{name}_high"] = ours[name] / 1.1, ours[name] * 1.1
    apart = 1.1**factor
    theirs = side(1.0, runs, 1000 * apart * 0.999, 0.1 / apart * 1.001)
    assert differences(ours, theirs) == RATE | dict.fromkeys(MEANS, False)
    theirs = side(1.0, runs, 1000 * apart * 1.001, 0.1 / apart * 0.999)
    assert differences(ours, theirs) == RATE | dict.fromkeys(MEANS, True)


def test_two_means_with_intervals_differ_if_these_do_not_explain_it():
    """Both to ± 10 %, so 14 % apart at most by chance."""
    ours = side(1.0, 100, 1000.0, 0.1, width=0.1)
    theirs = side(1.0, 100, 1140.0, 0.088, width=0.1)
    assert differences(ours, theirs) == RATE | dict.fromkeys(MEANS, False)
    theirs = side(1.0, 100, 1170.0, 0.085, width=0.1)
    assert differences(ours, theirs) == RATE | dict.fromkeys(MEANS, True)


def test_agreement_is_of_the_groups_and_measures_that_both_have():
    ours = pd.DataFrame([side(1.0, 10, 1000.0, 0.1, width=0.1), side(0.0, 10), side(1.0, 10)])
    ours.insert(0, "model", ["NMU", "NALU", "NACMul"])
    theirs = pd.DataFrame([side(1.0, 10, 2000.0, 0.1), side(0.9, 10, 2000.0, 0.1)])
    theirs.insert(0, "model", ["NMU", "NALU"])
    table = agreement(ours.assign(operation="mul"), theirs.assign(operation="mul"))
    assert table.index.tolist() == [("mul", "NMU"), ("mul", "NALU")]
    assert table["success rate"].tolist() == [False, True]
    assert table["solved at"].tolist() == [True, pd.NA]
    assert table["sparsity error"].tolist() == [False, pd.NA]
    assert table.count().sum() == 4


RNG = np.random.default_rng(3)
CURVE = pd.DataFrame(
    {
        "operation": "mul",
        "model": "NAU → NMU",
        "seed": 0,
        "step": np.arange(5001) * 1000,
        "interpolation_error": RNG.random(5001) + 1,
        "extrapolation_error": 0.3,
        "sparsity_error": 0.1,
    }
)


def test_the_rules_of_four_versions_read_different_errors():
    """Validation is least at 2000, and among the last hundred at 4950."""
    run, curve = draft(StaticFunction(extrapolation=(1, 6))), CURVE.copy()
    curve.loc[[2000, 4950], "interpolation_error"] = 0.1, 0.2
    curve.loc[2000, "extrapolation_error"] = threshold(run.task, 1e-5) / 2
    curve.loc[4950, "extrapolation_error"] = 0.1
    assert [solved_by(rule, run, curve) for rule in RULES] == [False, True, True, True]
    curve.loc[4950, "extrapolation_error"] = threshold(run.task, 1e-4) * 1.1
    assert [solved_by(rule, run, curve) for rule in RULES] == [False, False, False, True]
    curve.loc[4901:, "extrapolation_error"] = 0.1
    curve.loc[2000, "extrapolation_error"] = threshold(run.task, 1e-5) * 1.1
    assert [solved_by(rule, run, curve) for rule in RULES] == [True, True, True, False]
    rates = success_by_rule([run], curve)
    assert list(rates.success_rate) == [1, 1, 1, 0]
    assert list(rates.date) == [rule.date for rule in RULES]
    wider = success_by_rule([run], curve.assign(input_size=100), ["input_size", "model"])
    assert list(wider) == ["input_size", "model", "date", "success_rate", "error", "limit",
                           "success_rate_low", "success_rate_high"]  # fmt: skip
    assert wider.success_rate_low[0] == pytest.approx(wilson(1, 1).low)
    assert list(wider.limit) == pytest.approx(
        [0.2, 0.2, *(threshold(run.task, e) for e in (1e-4, 1e-5))]
    )
    assert list(wider.error[:2]) == pytest.approx([0.1, 0.1])
    assert list(wider.success_rate) == [1, 1, 1, 0]


def test_a_rate_has_a_choice_of_error_and_a_threshold():
    """Validation is least at the second evaluation; the errors at the end are lower."""
    run = draft(StaticFunction(extrapolation=(1, 6)))
    curves = [CURVE.assign(seed=seed) for seed in (0, 1)]
    for curve, best in zip(curves, (0.05, 0.5), strict=True):
        curve.loc[1, ["interpolation_error", "extrapolation_error"]] = 0.1, best
    table = success_by_choice(
        [run, run.but(seed=1)], pd.concat(curves), {"strict": 0.1, "lax": 0.4}
    )
    assert table.loc["median of the last hundred"].tolist() == [0.3, 0, 1]
    assert table.loc["least validation error of the last hundred"].tolist() == [0.3, 0, 1]
    assert table.loc["least validation error of all"].tolist() == pytest.approx([0.275, 0.5, 0.5])


def test_a_thinned_curve_gives_every_rule_what_the_whole_log_would():
    run = draft(StaticFunction(extrapolation=(1, 6)))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        curve = CURVE.assign(
            interpolation_error=rng.random(5001), extrapolation_error=rng.random(5001) ** 4
        )
        columns = ["step", "interpolation_error", "extrapolation_error", "sparsity_error"]
        thinned = curve.iloc[kept_rows(curve[columns].to_numpy("f4"), {})]
        assert len(thinned) < 310
        for rule in RULES:
            assert solved_by(rule, run, thinned) == solved_by(rule, run, curve)


@pytest.mark.parametrize(
    ("weights", "interpolation_error", "words"),
    [
        ([[1.0, -0.3]], 50.0, "has a negative second weight"),
        ([[1.0, 0.0]], 50.0, "leaves a factor out"),
        ([[1.0, 1.0]], 0.1, "fits the range of training"),
        ([[1.0, 0.9]], 50.0, "something else"),
    ],
)
def test_endings_of_unsolved_runs(weights, interpolation_error, words):
    model = nn.Sequential(NAU(4, 2), NMU(2, 1) if weights[0][1] >= 0 else Linear(2, 1))
    with torch.no_grad():
        next(model[1].parameters()).copy_(torch.tensor(weights))
    assert ending(model, interpolation_error).startswith(words)


def test_chance_of_fewer_successes():
    """Of two runs, none or one is solved in 3 of 4 cases if half of all are."""
    assert chance_of_fewer(0.5, 0.5, 2) == pytest.approx(0.75)
    assert chance_of_fewer(1.0, 0.3) == 1
    assert chance_of_fewer(0.13, 0.244) == pytest.approx(0.0037, abs=5e-4)
