"""Thresholds and scores of sequential MNIST against cases worked out by hand."""

import math

import pytest

from nalu.sequence_evaluation import sequence_scores, sequence_thresholds
from nalu.training.sequence_run import SequenceLog


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
