"""When a run of sequential MNIST counts as a success (section 3.2), at every test length.

At the evaluation with the smallest validation error, the same for all lengths, the test error
is below a threshold, which comes from runs that only have the digits to learn. So a run's own
record has errors only, and whether it is a success is known beside those other runs.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from .tasks import mnist
from .tasks.mnist import SequentialMNIST
from .training.run import Log, least
from .training.sequence_run import EXACT, SequenceRun
from .training.sequences import windows_and_targets

LEARNED = 10.0  # times the least validation error that a reference run may have
RUN = ["protocol", "operation", "model", "z_strength", "epochs", "seed", "key"]


def selected(run: SequenceRun, log: Log) -> dict:
    """What is recorded of a run: where it is selected, and its errors there.

    A run that diverged is scored on what it logged.
    """
    best = least(log["validation_error"])
    names = ["validation_error", "sparsity_error", *run.test_columns()]
    return {
        "last_step": int(log["step"][-1]),
        "best_epoch": int(log["epoch"][best]),
        **{name: float(log[name][best]) for name in names},
    }


def errors_by_length(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of test errors of a sweep or of learning curves, named by their length."""
    columns = [name for name in table if name.startswith("test_error_")]
    return table[columns].rename(columns=lambda name: int(name.rpartition("_")[2]))


def blind_errors(task: SequentialMNIST) -> pd.Series:
    """The MSE of a model that sees no image, over the test sequences of each length.

    It reads every digit as the mean of the allowed ones in training, and operates on them exactly.
    """
    labels = mnist.load()["training"].labels
    mean = labels[task.allowed(labels)].double().mean()
    errors = {}
    for length in task.test_lengths:
        _, targets = windows_and_targets(task, length)
        states = mnist.OPERATIONS[task.operation](mean.expand(1, length), -1)
        errors[length] = (task.scored(targets) - task.scored(states)).square().mean().item()
    return pd.Series(errors)


def learned(references: pd.DataFrame) -> pd.DataFrame:
    """Those rows of a sweep that did learn the digits: no error beyond ``LEARNED`` the least.

    Of the authors' ten reference runs for the product three did not, which they left out.
    """
    return references[references.validation_error <= LEARNED * references.validation_error.min()]


def threshold_margin(runs: int, degrees: int | None = None) -> float:
    """How far above the mean error of so many runs a threshold is, in standard deviations.

    That is t₀.₉₉ standard errors, with ``degrees`` of freedom, or ``runs`` - 1 if None.
    """
    return stats.t.ppf(0.99, runs - 1 if degrees is None else degrees) / math.sqrt(runs)


# Those of the final paper, whose code takes 8 degrees of freedom also for seven runs.
PAPER_MARGINS = {"product": threshold_margin(7, 8), "sum": threshold_margin(9)}


def sequence_thresholds(references: pd.DataFrame, margin: float | None = None) -> pd.Series:
    """What test errors have to be below, by length (final paper).

    Of runs whose unit is "exact" and that ``learned``, the mean of the test errors, and
    ``threshold_margin`` above it.

    Args:
        references: their rows of a sweep.
        margin: another one, in standard deviations, such as ``PAPER_MARGINS`` has.

    Raises:
        ValueError: some are of another unit, they are of several tasks or protocols, or fewer than
            two learned.
    """
    if others := set(references.get("model", ())) - {EXACT}:
        raise ValueError(f"reference runs are of {EXACT!r}, not of {', '.join(sorted(others))}")
    for name in ("operation", "protocol", "train_length"):
        if len(several := set(references.get(name, ()))) > 1:
            raise ValueError(f"reference runs differ in {name}: {', '.join(map(str, several))}")
    errors = errors_by_length(learned(references)) if len(references) else references
    n = len(errors)
    if n < 2:
        raise ValueError(
            f"{n} reference runs that learned the digits: a threshold takes two or more"
        )
    return errors.mean() + (threshold_margin(n) if margin is None else margin) * errors.std()


def sparse_from(curves: pd.DataFrame, limit: float = 1e-3) -> pd.Series:
    """From which step on the sparsity error of each run stays at ``limit`` or below, by key.

    NaN if it does not at the end.
    """
    steps = {}
    for key, curve in curves.groupby("key", sort=False):
        from_here_on = curve.sparsity_error[::-1].cummax()
        steps[key] = curve.step[from_here_on <= limit].min()
    return pd.Series(steps, dtype=float)


def sequence_scores(curves: pd.DataFrame, thresholds: pd.Series) -> pd.DataFrame:
    """The three measures of runs, and the errors behind them: a row a run and test length.

    ``solved_at`` is the step of the first evaluation below the threshold, of those that a
    learning curve keeps: all of a run of 1000 epochs.

    Args:
        curves: of ``nalu.learning_curves``.
        thresholds: by length, of ``sequence_thresholds``.

    Raises:
        ValueError: the thresholds are for other lengths than the curves.
    """
    lengths = list(errors_by_length(curves))
    if list(thresholds.index) != lengths:
        raise ValueError(
            f"thresholds are for lengths {list(thresholds.index)}, and test errors for {lengths}: "
            "take reference runs of the same task"
        )
    rows = []
    for labels, curve in curves.groupby(RUN, sort=False):
        best = curve.iloc[least(curve.validation_error)]
        for length, errors in errors_by_length(curve).items():
            below = errors.to_numpy() < thresholds[length]
            solved = bool(errors[best.name] < thresholds[length])
            rows.append(
                {
                    **dict(zip(RUN, labels, strict=True)),
                    "length": length,
                    "solved": solved,
                    "solved_at": float(curve.step.iloc[np.argmax(below)]) if solved else math.nan,
                    "sparsity_error": best.sparsity_error,
                    "validation_error": best.validation_error,
                    "test_error": errors[best.name],
                    "threshold": thresholds[length],
                }
            )
    return pd.DataFrame(rows)
