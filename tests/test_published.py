"""Published numbers come in this book's words and units."""

import pandas as pd
import pytest

from nalu import published
from nalu.experiments import BOUNDARIES, MODELS, MULTIPLYING, sequential_mnist, static_function
from nalu.tasks.mnist import SequentialMNIST


def test_table_1_is_in_real_steps():
    """2969 of the draft is 29 690 by the interval, and 28 690 as evaluations count from 0."""
    table = published.table("Table 1").set_index("model")
    assert table.solved_at["NACMul"] == 28_690
    assert table.solved_at_printed["NACMul"] == 2969
    assert list(table.success_rate) == [0.13, 0.26, 0.94]
    assert (table.runs == 100).all()
    assert published.table("Table 1", "final").set_index("model").solved_at["NMU"] == 14_000


def test_table_2_has_the_rows_of_the_experiment():
    table = published.table("Table 2")
    rows = {(run.task.operation, run.model) for run in static_function(seeds=[0])}
    assert set(zip(table.operation, table.model, strict=True)) == rows
    nmu = table[table.model == "NMU"].iloc[0]
    assert (nmu.solved_at, nmu.sparsity_error, nmu.runs) == (1_570_900, 0.0025, 10)
    corrected = published.table("Table 2", "final, corrected")
    assert set(zip(corrected.operation, corrected.model, strict=True)) == rows
    assert corrected.solved_at_low.lt(corrected.solved_at).sum() == 10  # the NALU has no a · b


@pytest.mark.parametrize(
    ("figure", "parameter"), [(4, "input_size"), (5, "overlap_ratio"), (6, "subset_ratio")]
)
def test_figures_have_the_grid_of_the_experiment(figure, parameter):
    table = published.figure(f"Figure {figure}")
    for model in MULTIPLYING:
        points = sorted(table[table.model == model][parameter])
        assert points == sorted(BOUNDARIES["draft"][parameter])
    assert table.success_rate.between(0, 1).all()


def test_all_figures_have_the_default_and_agree_on_it_there():
    values = {"input_size == 100": 4, "overlap_ratio == 0.5": 5, "subset_ratio == 0.25": 6}
    rates = []
    for default, number in values.items():
        there = published.figure(f"Figure {number}").query(default)
        rates.append(dict(there.set_index("model").success_rate))
    assert rates[0] == rates[1] == rates[2] == {"NACMul": 0.3, "NALU": 0.0, "NMU": 1.0}


@pytest.mark.parametrize("operation", ["product", "sum"])
def test_figures_of_sequences_have_the_lengths_of_the_task(operation):
    lengths = list(SequentialMNIST.of(operation).test_lengths)
    table = published.figure(operation, "final")
    models = {run.model for run in sequential_mnist(operation, seeds=[0])}
    assert models - {"LSTM (read-out)"} <= set(table.model)
    for _, group in table.groupby("model"):
        assert sorted(group.length) == lengths
        assert group.success_rate.between(0, 1).all()
    assert table[table.model.isin(["LSTM", "NALU"])].success_rate.eq(0).all()
    assert table.solved_at.min() > 100
    without = published.figure(f"{operation} without R_z", "final")
    assert {"NAU" if operation == "sum" else "NMU"} <= set(without.model)


def test_an_unknown_history_is_an_error():
    with pytest.raises(ValueError, match="no history of 'Table 3', only of Table 1"):
        published.history("Table 3")


@pytest.mark.parametrize("name", ["Table 1", "Table 2"])
def test_history_begins_with_the_draft_and_ends_with_the_final_paper(name):
    history = published.history(name)
    assert set(history.model) <= set(MODELS)
    for paper, date in (("draft", history.date.min()), ("final", history.date.max())):
        at = history[history.date == date].set_index(["operation", "model"]).success_rate
        table = published.table(name, paper).set_index(["operation", "model"]).success_rate
        pd.testing.assert_series_equal(at.sort_index(), table.sort_index(), check_dtype=False)


def test_an_unknown_table_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no 'Table 3' of 'draft'.*Table 1 of draft"):
        published.table("Table 3")
    with pytest.raises(ValueError, match="no 'Figure 7'"):
        published.figure("Figure 7")
