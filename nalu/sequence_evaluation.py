"""When a run of sequential MNIST counts as a success (section 3.2), at every test length.

At the evaluation with the smallest validation error, the same for all lengths, the test error
is below a threshold, which comes from runs that only have the digits to learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from .evaluation import Score, at_least_error
from .training.sequence_run import SequenceLog


def selected(log: SequenceLog) -> int:
    """The evaluation with the smallest validation error, the first of equal ones."""
    evaluations = len(log.step)
    validation = np.array(log.validation, dtype=float)
    return int(at_least_error(evaluations, validation, np.arange(evaluations)))


def sequence_thresholds(logs: Sequence[SequenceLog]) -> list[float]:
    """What test errors have to be below, at each length (final paper).

    Of runs whose unit is "exact", the mean of the test errors where they are selected, and t₀.₉₉
    standard errors above it, with n - 1 degrees of freedom. Give it the runs that did learn the
    digits; of the authors' ten for the product three did not. (Their code takes t with 8
    degrees of freedom also for the seven others.)

    Raises:
        ValueError: there are fewer than two runs.
    """
    if len(logs) < 2:
        raise ValueError(f"{len(logs)} reference runs: a threshold takes two or more")
    errors = np.array([log.test[selected(log)] for log in logs])
    margin = stats.t.ppf(0.99, len(logs) - 1) * errors.std(0, ddof=1) / math.sqrt(len(logs))
    return (errors.mean(0) + margin).tolist()


def sequence_scores(log: SequenceLog, thresholds: Sequence[float]) -> list[Score]:
    """The three measures of a run, and the errors behind them, at every test length.

    A run that diverged is scored on what it logged. ``solved_at`` is the step of the first
    evaluation below the threshold.

    Raises:
        ValueError: there are not as many thresholds as test lengths.
    """
    best, test = selected(log), np.array(log.test)
    if len(thresholds) != test.shape[1]:
        raise ValueError(
            f"{len(thresholds)} thresholds: there must be one for each of {test.shape[1]} lengths"
        )
    scores = []
    for errors, limit in zip(test.T, thresholds, strict=True):
        solved = bool(errors[best] < limit)
        solved_at = float(log.step[np.argmax(errors < limit)]) if solved else math.nan
        measured = (log.sparsity[best], log.validation[best], float(errors[best]))
        scores.append(Score(solved, solved_at, *measured, limit))
    return scores
