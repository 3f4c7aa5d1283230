"""Thresholds and scores of sequential MNIST against cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from nalu.sequence_evaluation import (
    PAPER_MARGINS,
    blind_errors,
    learned,
    selected,
    sequence_scores,
    sequence_thresholds,
    sparse_from,
)
from nalu.tasks.mnist import SequentialMNIST, load
from nalu.training.run import Log
from nalu.training.sequence_run import SequenceRun
from nalu.training.sequences import windows_and_targets

RUN = SequenceRun("NMU", SequentialMNIST(test_lengths=(1, 3)))
TEST = [[9.0, 9.0], [0.5, 9.0], [0.6, 2.0], [0.1, 0.1]]
VALIDATION, SPARSITY = [4.0, 2.0, 1.0, 3.0], [0.4, 0.3, 0.2, 0.1]


def references(validation, *errors) -> pd.DataFrame:
    table = pd.DataFrame(errors, columns=RUN.test_columns())
    return table.assign(validation_error=validation, model="exact")


def curve(test=TEST, validation=VALIDATION, **labels) -> pd.DataFrame:
    table = pd.DataFrame(test, columns=RUN.test_columns())
    measures = {
        "validation_error": validation,
        "sparsity_error": SPARSITY,
        "step": range(0, 40, 10),
    }
    seed = labels.get("seed", 0)
    return table.assign(**measures, **{**RUN.labels(), "key": f"a-{seed}", **labels})


def test_thresholds_against_numbers_of_the_t_table():
    """Errors 1, 2, 3 at one length, 5 at another. t₀.₉₉ with 2 degrees of freedom: 6.965."""
    table = references([0.1, 0.2, 1.0], (1.0, 5.0), (2.0, 5.0), (3.0, 5.0))
    limits = sequence_thresholds(table)
    assert list(limits.index) == [1, 3]
    assert limits[1] == pytest.approx(2 + 6.9646 / 3**0.5, rel=1e-4)
    assert limits[3] == pytest.approx(5.0)
    assert sequence_thresholds(table, margin=1.5)[1] == pytest.approx(2 + 1.5)
    # t₀.₉₉ with 8 degrees of freedom: 2.896.
    assert PAPER_MARGINS["product"] == pytest.approx(2.8965 / 7**0.5, rel=1e-4)
    assert PAPER_MARGINS["sum"] == pytest.approx(2.8965 / 3, rel=1e-4)


def test_a_reference_that_did_not_learn_the_digits_is_left_out():
    table = references([0.1, 0.2, 50.0, math.nan], *[(float(i), 5.0) for i in range(4)])
    assert list(learned(table).index) == [0, 1]
    assert sequence_thresholds(table).equals(sequence_thresholds(table[:2]))
    with pytest.raises(ValueError, match="1 reference runs that learned the digits"):
        sequence_thresholds(table[1:])
    with pytest.raises(ValueError, match="are of 'exact', not of NMU"):
        sequence_thresholds(table.assign(model=["exact", "exact", "NMU", "NMU"]))
    with pytest.raises(ValueError, match="0 reference runs"):
        sequence_thresholds(pd.DataFrame())
    with pytest.raises(ValueError, match="differ in train_length: "):
        sequence_thresholds(table.assign(train_length=[2, 2, 3, 3]))


def test_a_record_has_the_errors_where_the_validation_error_is_least():
    rows = np.column_stack([[0, 10, 20, 30], VALIDATION, [0, 5, 10, 15], SPARSITY, TEST])
    log = Log(RUN.columns()[: rows.shape[1]], rows, None, np.zeros(1))
    assert selected(RUN, log) == {
        "last_step": 30,
        "best_epoch": 10,
        "validation_error": 1.0,
        "sparsity_error": 0.2,
        "test_error_1": 0.6,
        "test_error_3": 2.0,
    }


def test_scores():
    """A run of another learning rate has the same labels and another key."""
    curves = pd.concat([curve(), curve(key="b-0", validation=[math.nan, 1.0, 1.0, 3.0])])
    scores = sequence_scores(curves.reset_index(drop=True), pd.Series({1: 1.0, 3: 1.0}))
    assert list(scores.key) == ["a-0"] * 2 + ["b-0"] * 2
    assert list(scores.length) == [1, 3, 1, 3]
    assert list(scores.solved) == [True, False, True, False]
    assert list(scores.solved_at[::2]) == [10.0, 10.0]
    assert scores.solved_at[1::2].isna().all()
    assert list(scores.sparsity_error) == [0.2, 0.2, 0.3, 0.3]
    assert list(scores.test_error) == [0.6, 2.0, 0.5, 9.0]
    assert (scores.threshold == 1.0).all()
    with pytest.raises(ValueError, match=r"thresholds are for lengths \[1\]"):
        sequence_scores(curves, pd.Series({1: 1.0}))


def test_a_run_is_sparse_from_where_its_weights_stay():
    errors = {
        "stays": [0.4, 0.0, 0.0, 0.0],
        "leaves": [0.0, 0.4, 0.001, 0.0],
        "not": [0.0] * 3 + [1],
    }
    curves = [curve(key=key).assign(sparsity_error=error) for key, error in errors.items()]
    steps = sparse_from(pd.concat(curves))
    assert steps[["stays", "leaves"]].to_dict() == {"stays": 10, "leaves": 20}
    assert math.isnan(steps["not"])


def test_a_model_that_sees_no_image_errs_by_the_spread_of_digits():
    """At length 1 its error is their variance; at 2, by hand, that of all prefixes."""
    digits = load()
    for operation, values in (("sum", range(10)), ("product", range(1, 10))):
        task = SequentialMNIST.of(operation)
        errors = blind_errors(task)
        train, test = (
            [d for d in digits[name].labels.tolist() if d in values]
            for name in ("training", "test")
        )
        mean = np.mean(train)
        assert errors[1] == pytest.approx(np.mean([(d - mean) ** 2 for d in test]), rel=1e-12)
    windows, _ = windows_and_targets(task, 2)
    pairs = digits["test"].labels[windows].double().numpy()
    both = np.square(pairs[:, 0] - mean), np.square(pairs.prod(1) - mean**2)
    assert errors[2] == pytest.approx(np.mean(both), rel=1e-12)
    assert errors.is_monotonic_increasing
