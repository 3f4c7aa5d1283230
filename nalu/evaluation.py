"""When a run counts as a success, and how sure one can be of a rate or a mean.

Per run: ``score``. Draft: the median of the last extrapolation errors is below 0.2. Final
paper: at the step with the smallest validation error the test error is below the ``threshold``
of the task.

Over runs: ``wilson`` for success rates, ``gamma_mean`` for solved at, ``sparsity_mean`` for
sparsity errors, each with a 95 % interval; ``summary`` puts them into a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from torch import nn

from .tasks.arithmetic import Arithmetic
from .training import random
from .training.protocol import Final
from .training.run import SHARED_SEED, Log, Run, least

DRAFT_THRESHOLD = 0.2
# Columns of a sweep that do not tell apart runs by their fields.
LABELS = ("experiment", "engine", "device", "seconds", "key")


@lru_cache
def threshold(task: Arithmetic, epsilon: float = Final.epsilon) -> float:
    """The error of an almost perfect model on the extrapolation range (final paper).

    The MSE over 2²⁰ samples of ``task.near``. Subsets are the task's own. The authors' code
    simulates windows of one more input, which share one more: 0.1600 for a · b at the defaults
    and not 0.1606, and a seventh of the value at 4 inputs.
    """
    rows, batches = 2**13, 2**7
    total = 0.0
    for batch in range(batches):
        size = (rows, task.input_size, task.extrapolation)
        x = random.blocks(SHARED_SEED, random.THRESHOLD, batch, *size).astype(np.float64)
        x = x.swapaxes(1, 2)[..., : task.input_size]
        total += np.square(task.near(x, epsilon) - task.target(x, 0)).mean()
    return float(total / batches)


class Rule(NamedTuple):
    """How a version of the paper decided whether a run is solved."""

    date: str  # of the version
    words: str
    select: Callable  # the error that counts: ``median_of_last`` or ``at_least_error``
    last: int | None  # among how many of the last evaluations; None for all
    epsilon: float | None  # of the threshold; None for 0.2


class Score(NamedTuple):
    """What the paper reports of one run."""

    solved: bool
    solved_at: float  # step of the first evaluation below the threshold, NaN if not solved
    sparsity_error: float
    interpolation_error: float  # MSE, where the sparsity error is taken
    extrapolation_error: float
    threshold: float  # what the extrapolation error has to be below


def median_of_last(last: int, validation: np.ndarray, values: np.ndarray) -> float:
    """What the draft calls the error of a run: a median over its end, NaN left out."""
    values = values[-last:]
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else math.nan


def at_least_error(last: int, validation: np.ndarray, values: np.ndarray) -> float:
    """The value where the validation error is least among the last, the first of equal ones."""
    return float(values[-last:][least(validation[-last:])])


def score(run: Run, log: Log) -> Score:
    """The three measures of a run by the rules of its protocol, with the errors behind them.

    Draft: medians of the last 10 evaluations for simple multiplication and 100 for a static
    function, NaN left out. Final: the evaluation with the smallest validation error, the first
    of equal ones. A run that diverged is scored on what it logged, where the authors' code, but
    for the NALU, goes on and logs NaN. ``solved_at`` is the real step; the draft prints the
    evaluation's number from 1 on instead, times 1000 or, in Table 1, by mistake times 100.
    """
    rules = run.protocol
    limit = DRAFT_THRESHOLD if rules.epsilon is None else threshold(run.task, rules.epsilon)
    select, last = (
        (at_least_error, len(log.rows)) if rules.selects else (median_of_last, run.task.judged)
    )
    inside, outside = log["interpolation_error"], log["extrapolation_error"]
    errors = [select(last, inside, log[name]) for name in log.columns[1:]]
    solved = errors[1] < limit
    solved_at = float(log["step"][np.argmax(outside < limit)]) if solved else math.nan
    return Score(solved, solved_at, errors[2], *errors[:2], limit)


def ending(model: nn.Sequential, interpolation_error: float) -> str:
    """What an unsolved run of a · b ended at, in words, by the first that applies.

    Args:
        model: two units, trained; the second has one output and one matrix, unlike a NALU with
            separate ones.
    """
    (weight,) = model[1].weight.detach()
    if interpolation_error < DRAFT_THRESHOLD:
        return "fits the range of training, and no other"
    if weight.min() < -0.1:
        return "has a negative second weight, below -0.1"
    if weight.abs().min() < 0.1:
        return "leaves a factor out, by a second weight within 0.1 of 0"
    return "something else"


RULES = (
    Rule("2019-05-11", "median of the last, 0.2", median_of_last, 100, None),
    Rule("2019-05-15", "best of the last 100, 0.2", at_least_error, 100, None),
    Rule("2019-05-18", "best of the last 100, ε = 10⁻⁴", at_least_error, 100, 1e-4),
    Rule("2019-09-08", "best of all, ε = 10⁻⁵", at_least_error, None, 1e-5),
)


def error_by(rule: Rule, run: Run, curve: pd.DataFrame) -> float:
    """The extrapolation error that a rule reads from a run's learning curve.

    A thinned curve gives what the whole log would: it keeps what the rules read.
    """
    last = run.task.judged if rule.select is median_of_last else rule.last or len(curve)
    return rule.select(
        last, curve.interpolation_error.to_numpy(), curve.extrapolation_error.to_numpy()
    )


def limit_of(rule: Rule, run: Run) -> float:
    """What that error has to be below."""
    return DRAFT_THRESHOLD if rule.epsilon is None else threshold(run.task, rule.epsilon)


def success_by_rule(
    runs: Sequence[Run], curves: pd.DataFrame, by: Sequence[str] = ("operation", "model")
) -> pd.DataFrame:
    """Success rates of runs by each of ``RULES``: a row for each group and date.

    ``success_rate`` has ``_low`` and ``_high`` for the ends of its 95 % interval. Also the mean
    ``error`` that the rule reads, and the ``limit`` that it has to be below.

    Args:
        curves: of ``nalu.learning_curves`` for these runs.
        by: labels of runs (``Run.labels``) that make a group, enough to tell runs of a seed apart.
    """
    by_run = dict(list(curves.groupby([*by, "seed"])))
    rows = []
    for run in runs:
        group = [run.labels()[name] for name in by]
        curve = by_run[*group, run.seed]
        for rule in RULES:
            error, limit = error_by(rule, run, curve), limit_of(rule, run)
            rows.append([*group, rule.date, error < limit, error, limit])
    table = pd.DataFrame(rows, columns=[*by, "date", "success_rate", "error", "limit"])
    groups = table.groupby([*by, "date"], sort=False)
    rates = groups.mean().reset_index()
    intervals = [wilson(int(solved.sum()), len(solved)) for _, solved in groups.success_rate]
    rates["success_rate_low"] = [interval.low for interval in intervals]
    rates["success_rate_high"] = [interval.high for interval in intervals]
    return rates


# Ways to choose the error of a run: of a rule its first half.
CHOICES = {
    "median of the last hundred": (median_of_last, None),
    "least validation error of the last hundred": (at_least_error, 100),
    "least validation error of all": (at_least_error, None),
}


def success_by_choice(
    runs: Sequence[Run], curves: pd.DataFrame, limits: dict[str, float]
) -> pd.DataFrame:
    """Success rates of runs of one model for each of ``CHOICES`` and each threshold.

    A row a choice; ``median`` is that of the runs' errors, the other columns are called as
    ``limits``, the thresholds.

    Args:
        curves: of ``nalu.learning_curves`` for these runs.
    """
    by_seed = dict(list(curves.groupby("seed")))
    rows = {}
    for words, (select, last) in CHOICES.items():
        rule = Rule("", words, select, last, None)
        errors = np.array([error_by(rule, run, by_seed[run.seed]) for run in runs])
        below = {name: float((errors < limit).mean()) for name, limit in limits.items()}
        rows[words] = {"median": float(np.median(errors)), **below}
    return pd.DataFrame.from_dict(rows, orient="index")


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, runs: int) -> Estimate:
    """A success rate with its Wilson interval.

    Raises:
        ValueError: there are no runs, or not ``successes`` among them.
    """
    if not 0 <= successes <= runs or runs < 1:
        raise ValueError(f"{successes} successes of {runs} runs: there must be 0 ... runs, of >= 1")
    interval = stats.binomtest(successes, runs).proportion_ci(method="wilson")
    rate = successes / runs
    # Rounding must not put an end on the wrong side of the rate.
    return Estimate(rate, float(min(interval.low, rate)), float(max(interval.high, rate)))


def chance_of_fewer(observed: float, rate: float, runs: int = 100) -> float:
    """How often so many runs have the observed success rate or a lower one, if ``rate`` is true."""
    return float(stats.binom.cdf(round(observed * runs), runs, rate))


def gamma_mean(values) -> Estimate:
    """The mean of positive numbers, with its profile-likelihood interval under a gamma law.

    The estimate is the sample mean, exactly: it maximises the likelihood. Several of the final
    paper's means do not. Fewer than two values, equal ones and zeros have a t interval, which
    is NaN for one value.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2 or x.std() <= 1e-5 or x.min() <= 0:
        return t_mean(x)
    mean, mean_log = float(x.mean()), float(np.log(x).mean())

    def profile(log_mu: float) -> float:
        """The log-likelihood per value at a mean, with the best shape for it."""
        spread = log_mu + mean / math.exp(log_mu) - 1 - mean_log  # = log α - ψ(α)
        low, high = 0.4 / spread, 2 / spread  # 1/2 < α (log α - ψ(α)) < 1
        shape = optimize.brentq(lambda a: math.log(a) - special.digamma(a) - spread, low, high)
        return shape * (math.log(shape) - log_mu - mean / math.exp(log_mu) + mean_log) - (
            special.gammaln(shape) + mean_log
        )

    low, high = _interval(profile, math.log(mean), len(x), -math.inf, math.inf)
    return Estimate(mean, math.exp(low), math.exp(high))


def beta_mean(values) -> Estimate:
    """The mean of sparsity errors, with its profile-likelihood interval under a beta law.

    2 x ~ Beta(2 μ v, (1 - 2 μ) v) for errors x, put into [10⁻¹⁶, 1/2 - 10⁻¹⁶]. (The authors'
    code evaluates the density at x in place of 2 x, and so halves its means.) Fewer than two
    values and equal ones have a t interval within [0, 1/2].
    """
    x = np.clip(np.asarray(values, dtype=np.float64), 1e-16, 0.5 - 1e-16)
    if len(x) < 2 or np.ptp(x) <= 1e-9 * x.max():
        estimate, low, high = t_mean(x)
        return Estimate(estimate, max(low, 0.0), min(high, 0.5))
    log_y, log_rest = np.log(2 * x).mean(), np.log1p(-2 * x).mean()

    def profile(logit: float) -> float:
        """The log-likelihood per value at a mean, with the best v for it."""
        share, rest = special.expit(logit), special.expit(-logit)

        def negative(log_v: float) -> float:
            a, b = share * math.exp(log_v), rest * math.exp(log_v)
            return special.betaln(a, b) - (a - 1) * log_y - (b - 1) * log_rest

        return -optimize.minimize_scalar(negative, bounds=(-20, 60), method="bounded").fun

    around = special.logit(2 * x.mean())
    best = optimize.minimize_scalar(
        lambda logit: -profile(logit), bounds=(around - 5, around + 5), method="bounded"
    ).x
    low, high = _interval(profile, best, len(x), special.logit(1e-18), special.logit(1 - 1e-15))
    return Estimate(*(float(special.expit(end)) / 2 for end in (best, low, high)))


def t_mean(values) -> Estimate:
    """The mean with its t interval, NaN for fewer than two values."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean()) if len(x) else math.nan
    if len(x) < 2:
        return Estimate(mean, math.nan, math.nan)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Estimate(mean, mean - half, mean + half)


def sparsity_mean(values) -> Estimate:
    """The mean of sparsity errors, with the interval of ``beta_mean``.

    It is a t interval if the beta law does not fit, because weights without constraint are
    further than 1/2 from 0 and ±1, or because one error outweighs all others and the mean is
    outside of the beta law's own interval.
    """
    x = np.asarray(values, dtype=np.float64)
    mean, low, high = t_mean(x)
    if len(x) and x.max() <= 0.5:
        _, low_beta, high_beta = beta_mean(x)
        if math.isnan(low_beta) or low_beta <= mean <= high_beta:
            return Estimate(mean, low_beta, high_beta)
        low, high = max(low, 0.0), min(high, 0.5)
    return Estimate(mean, low, high)


def summary(table: pd.DataFrame, by: Sequence[str] = ("operation", "model")) -> pd.DataFrame:
    """The three measures of each group of a sweep's rows, in the order they come in.

    Columns: those of ``by``, ``runs``, ``iterations`` or ``epochs`` and, each also with ``_low``
    and ``_high`` for the ends of its 95 % interval, ``success_rate``, ``solved_at`` and
    ``sparsity_error``, the last two means over solved runs and NaN where there are none;
    ``solved_at_median``; ``seconds``, the mean of a run.

    Where runs of a group differ in other fields, columns of those are added to ``by``.

    Raises:
        ValueError: a run is there twice.
    """
    by, rows = told_apart(table, by), []
    for values, group in table.groupby(by, sort=False, dropna=False):
        if group.seed.duplicated().any():
            names = ", ".join(f"{name} {value}" for name, value in zip(by, values, strict=True))
            raise ValueError(f"a run is there twice, with {names}: give each seed once")
        solved = group[group.solved]
        estimates = {
            "success_rate": wilson(len(solved), len(group)),
            "solved_at": gamma_mean(solved.solved_at),
            "sparsity_error": sparsity_mean(solved.sparsity_error.dropna()),
        }
        row = {**dict(zip(by, values, strict=True)), "runs": len(group)}
        for name in group.columns.intersection(["iterations", "epochs"]):
            row[name] = group[name].max()
        for name, (value, low, high) in estimates.items():
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        row["solved_at_median"] = solved.solved_at.median()
        if "seconds" in group:
            row["seconds"] = group.seconds.mean()
        rows.append(row)
    return pd.DataFrame(rows)


def told_apart(table: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """``by``, and the columns of other fields by which runs of a sweep differ within a group."""
    fields = table.columns[: table.columns.get_loc("solved")]
    others = [name for name in fields if name not in {*by, "seed", *LABELS}]
    values = table.groupby(list(by), dropna=False)[others].nunique(dropna=False)
    return [*by, *(name for name in others if (values[name] > 1).any())]


def differences(ours: pd.Series, published: pd.Series) -> dict[str, bool]:
    """The measures that can be compared, and whether they differ beyond chance.

    Success rates: Fisher's exact test on both numbers of runs, below 0.05. Solved at and
    sparsity error: the logarithms are further apart than 1.96 standard errors, those of the 95 %
    intervals. A published mean without interval is taken to vary as ours does, by the number of
    its solved runs. Nothing is said of a mean if ours has no interval, or one that reaches 0.
    """
    solved = [round(row.success_rate * row.runs) for row in (ours, published)]
    table = [[n, row.runs - n] for n, row in zip(solved, (ours, published), strict=True)]
    differ = {"success rate": bool(stats.fisher_exact(table).pvalue < 0.05)}
    for name, word in (("solved_at", "solved at"), ("sparsity_error", "sparsity error")):
        here, there = (
            [row.get(f"{name}{end}", math.nan) for end in ("", "_low", "_high")]
            for row in (ours, published)
        )
        if not all(value > 0 for value in (*here, there[0])):  # NaN is not, either
            continue
        spread = math.log(here[2] / here[1]) / 2
        of_theirs = spread * math.sqrt(solved[0] / solved[1])
        if there[1] > 0:
            of_theirs = math.log(there[2] / there[1]) / 2
        differ[word] = abs(math.log(here[0] / there[0])) > math.hypot(spread, of_theirs)
    return differ


def agreement(
    ours: pd.DataFrame, published: pd.DataFrame, by: Sequence[str] = ("operation", "model")
) -> pd.DataFrame:
    """Where rows of ``summary`` and published ones differ beyond chance, by ``differences``.

    A row for each group that both have, indexed by it, and a column for each measure: True,
    False, or NA where it cannot be compared.

    Raises:
        ValueError: ours has several rows of a group.
    """
    if ours.duplicated(list(by)).any():
        raise ValueError(f"rows differ in more than {', '.join(by)}: name it in 'by' as well")
    theirs = published.set_index(list(by))
    rows = {
        key: differences(row, theirs.loc[key])
        for key, row in ours.set_index(list(by)).iterrows()
        if key in theirs.index
    }
    index = pd.MultiIndex.from_tuples(rows, names=by)
    columns = ["success rate", "solved at", "sparsity error"]
    return pd.DataFrame(rows.values(), index, columns, dtype="boolean")


def _interval(profile, best: float, n: int, lowest: float, highest: float) -> tuple[float, float]:
    """Where n times the profile has fallen by half the 95 % point of χ² on both sides of best."""
    peak, drop = profile(best), stats.chi2.ppf(0.95, 1) / 2

    def excess(at: float) -> float:
        return n * (profile(at) - peak) + drop

    ends = []
    for direction, limit in ((-1, lowest), (1, highest)):
        step = 0.01
        while excess(best + direction * step) > 0:
            step *= 2
            if direction * (best + direction * step - limit) >= 0:
                ends.append(limit)
                break
        else:
            ends.append(optimize.brentq(excess, best, best + direction * step))
    return ends[0], ends[1]
