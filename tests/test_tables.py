"""Tables say in words what the numbers are."""

import math

import pandas as pd
import pytest

from nalu import tables
from nalu.evaluation import summary
from nalu.tasks.mnist import SequentialMNIST
from nalu.training.sequence_run import SequenceRun


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("NACMul", "NAC•"),
        ("NAC", "NAC₊"),
        ("NMU", "NMU"),
        ("NALU (separate)", "NALU (separate)"),
        ("LSTM (read-out)", "LSTM (read-out)"),
        ("exact", "exact"),
    ],
)
def test_models_are_called_as_in_the_paper(model, label):
    assert tables.model_label(model) == label


def test_a_rate_is_a_percentage_with_its_interval():
    assert tables.percent(0.94, 0.875, 0.972) == "94 % [87.5, 97.2]"
    assert tables.percent(1.0) == "100 %"
    assert tables.percent(0.5, math.nan, math.nan) == "50 %"


@pytest.mark.parametrize(
    ("value", "low", "high", "scale", "text"),
    [
        (15_400.0, 13_500.0, 17_700.0, 1000, "15.4 [13.5, 17.7]"),
        (3_371_250.0, math.nan, math.nan, 1000, "3,370"),
        (6.5e-6, 5.6e-6, 1.2e-5, 0, "6.5 [5.6, 12.0] ×10⁻⁶"),
        (0.47, 0.4, 0.5, 0, "0.47 [0.4, 0.5]"),
        (0.0, math.nan, math.nan, 0, "0"),
        (math.nan, math.nan, math.nan, 0, "—"),
    ],
)
def test_a_mean_is_written_with_its_interval(value, low, high, scale, text):
    assert tables.measure(value, low, high, scale) == text


def test_a_row_without_a_measure_has_a_dash():
    rows = pd.DataFrame({"success_rate": [0.5], "solved_at": [9500.0], "solved_at_low": [9000.0],
                         "solved_at_high": [9900.0]})  # fmt: skip
    assert tables.measures(rows).to_numpy().tolist() == [["50 %", "9.5 [9, 9.9]", "—"]]


def sweep_rows(model, solved, solved_at, sparsity):
    return [
        {"operation": "mul", "model": model, "seed": seed, "iterations": 1000, "protocol": "draft",
         "solved": ok, "solved_at": at, "sparsity_error": error, "engine": "cpu", "device": "d",
         "seconds": 0.5}
        for seed, (ok, at, error) in enumerate(zip(solved, solved_at, sparsity, strict=True))
    ]  # fmt: skip


TABLE = pd.DataFrame(
    sweep_rows("NMU", [True] * 4, [1000.0, 2000.0, 3000.0, 4000.0], [1e-3, 2e-3, 3e-3, 4e-3])
    + sweep_rows("NALU", [False] * 4, [math.nan] * 4, [0.5] * 4)
)


def test_a_comparison_has_two_rows_a_model_and_says_what_differs():
    published = pd.DataFrame(
        [
            {"operation": "mul", "model": "NMU", "runs": 10, "success_rate": 1.0,
             "solved_at": 90_000.0, "sparsity_error": 2.5e-3},
            {"operation": "mul", "model": "NALU", "runs": 100, "success_rate": 0.94,
             "solved_at": math.nan, "sparsity_error": math.nan},
        ]
    )  # fmt: skip
    compared = tables.comparison(summary(TABLE), {"paper": published})
    assert list(compared.iloc[:, 1]) == ["here", "paper"] * 2
    assert compared.model[0] == "$a \\cdot b$, NMU"
    assert compared["solved at, 1000 steps"][0].startswith("2.5 [")
    assert list(compared.differs) == ["", "solved at", "", "success rate"]
    assert compared["sparsity error"][2] == "—"


def test_a_boundary_table_has_the_points_of_both():
    ours = summary(TABLE.assign(overlap_ratio=0.25), ["overlap_ratio", "model"])
    published = pd.DataFrame(
        {"overlap_ratio": [0.25, 0.5], "model": "NMU", "runs": 10, "success_rate": 1.0,
         "solved_at": 2500.0, "sparsity_error": 2e-3}
    )  # fmt: skip
    compared = tables.boundary_table(ours, published, "overlap_ratio")
    assert list(compared.model) == ["NMU", "NALU"]
    assert compared.iloc[0, 3].startswith("2.5 [")
    assert compared.iloc[0, 3].endswith("] (2.5)")
    assert compared.differs[0] == "nothing"


def test_rates_by_rule_stand_beside_what_was_printed_then():
    rates = pd.DataFrame(
        [("mul", "NMU", "2019-05-11", 0.9), ("mul", "NMU", "2019-05-15", 0.8)],
        columns=["operation", "model", "date", "success_rate"],
    )
    rates = pd.concat([rates, rates.assign(date=["2019-05-18", "2019-09-08"])], ignore_index=True)
    printed = rates[:1].assign(success_rate=1.0)
    table = tables.rules_table(rates, printed)
    assert list(table.iloc[0, 1:]) == ["90 % (100 %)", "80 %", "90 %", "80 %"]
    assert table.columns[1].startswith("2019-05-11")


def test_where_runs_come_from_is_said_in_steps_or_epochs():
    line = tables.provenance_line(TABLE)
    assert line == "4 seeds each, 1,000 steps, draft protocol; engine cpu on d, 0.5 s a run."
    epochs = TABLE.rename(columns={"iterations": "epochs"}).query("seed == 0")
    epochs = epochs.assign(seconds=[150.0, 1234.0])
    line = tables.provenance_line(epochs)
    assert line.startswith("1 seed each, 1,000 epochs, draft protocol; engine cpu on d")
    assert line.endswith(", 150 to 1,200 s a run.")


def test_a_caption_says_what_where_from_and_how_again():
    text = tables.caption("What is shown.", TABLE, "Recompute: `one`.", "Recompute: `two`.")
    line = tables.provenance_line(TABLE)
    assert text == f"What is shown. {line} Recompute: `one`. Recompute: `two`."
    assert tables.caption("What is shown.", TABLE) == f"What is shown. {line}"


def test_a_run_of_sequences_is_solved_at_so_many_lengths():
    run = {"model": "NACMul", "seed": 3, "best_epoch": 5, "validation_error": 0.5, "key": "a-3"}
    table = pd.DataFrame([{**run, "sparsity_error": 2e-3, "seconds": 90.0}])
    scores = pd.DataFrame({"key": ["a-3"] * 3 + ["b-3"], "solved": [True, False, True, True]})
    (line,) = tables.sequence_table(table, scores).to_numpy().tolist()
    assert line == ["NAC•", 3, 5, 0.5, "2.0 ×10⁻³", "2 of 3", 1.5]


def test_a_printed_rate_is_judged_by_one_of_many_runs():
    ours = summary(TABLE).query("model == 'NMU'").assign(success_rate=0.5)
    published = pd.DataFrame(
        [{"operation": "mul", "model": "NMU", "runs": 4, "success_rate": 0.25}]
    )
    (line,) = tables.rates_table(ours, published).to_dict("records")
    assert line["runs"] == 4
    assert line["printed, of 4 runs"] == "25 % [4.56, 69.9]"
    assert line["as few in 4"] == "31 %"  # (1 + 4) / 16


def test_digits_are_written_as_the_draft_prints_them():
    published = pd.DataFrame(
        [{"operation": "mul", "model": "NMU", "success_rate": 0.94, "solved_at": 15_770.0,
          "solved_at_printed": 1677.0, "sparsity_error": 3.04e-6}]
    )  # fmt: skip
    (line,) = tables.printed_digits_table(summary(TABLE), published).to_dict("records")
    assert line == {
        "model": "NMU",
        "success rate": "100%",
        "success rate, printed": "94%",
        "converged at": "350",  # (2500 + 1000) / 10
        "converged at, printed": "1677",
        "sparsity error": "2.5e-03",
        "sparsity error, printed": "3.0e-06",
    }


def test_runs_cut_short_stand_beside_the_published_ones():
    published = pd.DataFrame(
        [{"operation": "mul", "model": "NMU", "runs": 100, "success_rate": 0.98,
          "solved_at": 9500.0, "solved_at_median": 7000.0}]
    )  # fmt: skip
    ours, theirs = (
        tables.cut_short_table({"ours": TABLE.query("model == 'NMU'")}, published)
        .drop(columns="model")
        .to_numpy()
        .tolist()
    )
    assert ours == ["ours", 4, "1", 4, "2.5", "2.5", "4.0"]
    assert theirs == ["the authors', in the paper", 100, "not", 98, "9.5", "7.0", "not known"]


def test_shares_below_a_threshold_are_percentages():
    rates = pd.DataFrame({"median": [0.3], "0.2": [0.25]}, index=["best of all"])
    (line,) = tables.choices_table(rates).to_dict("records")
    assert line == {"error": "best of all", "median": 0.3, "below 0.2": "25 %"}


def test_a_benchmark_has_a_row_a_task_and_model():
    names = ["task", "model", "engine", "µs a step", "times plain", "floor, µs"]
    rows = [("4 inputs", "NACMul", "plain PyTorch loop", 800.0, 1.0, 5.0),
            ("4 inputs", "NACMul", "cpu, one core", 8.0, 100.0, 5.0)]  # fmt: skip
    (line,) = tables.bench_table(pd.DataFrame(rows, columns=names)).to_dict("records")
    assert line.pop("one core / floor") == pytest.approx(1.6)
    assert line == {"task": "4 inputs", "model": "NAC•", "plain PyTorch loop": "800 (1)",
                    "cpu, one core": "8 (100)", "floor": 5.0}  # fmt: skip


def test_what_rounding_decides_is_counted():
    nan = math.nan
    yes, no = True, False
    one = pd.DataFrame(
        sweep_rows("NMU", [yes, yes, no, no, yes], [1e3, 2e3, nan, nan, 3e3], [0.1] * 5)
    )
    other = one.assign(
        engine="reference", solved=[yes, yes, yes, no, no], solved_at=[1e3, 5e3, 9e3, nan, nan]
    )
    (line,) = tables.engines_table(one, other).to_dict("records")
    assert (line["runs"], line["solved, cpu"], line["solved, reference"]) == (5, 3, 3)
    assert (line["apart"], line["later or sooner"]) == (2, 1)
    assert (line["solved at, 1000 steps, cpu"], line["solved at, 1000 steps, reference"]) == (2, 5)


def test_runs_trained_now_stand_beside_those_recorded():
    table = tables.beside_recorded(TABLE, TABLE[(TABLE.seed < 1) | (TABLE.model == "NALU")])
    assert list(table["solved at"][:2]) == ["1,000", "2,000"]
    assert list(table.recorded[:2]) == ["1,000", "not asked for"]
    assert set(table.recorded[4:]) == {"not solved"}


def test_errors_by_rule_stand_over_their_limits():
    rates = pd.DataFrame({"input_size": 125, "date": [rule.date for rule in tables.RULES],
        "success_rate": [0.0, 1.0, 1.0, 0.5], "error": [0.455, 0.00712, 0.00712, 0.1],
        "limit": [0.2, 0.2, 23.4, 0.234]})  # fmt: skip
    table = tables.rule_errors_table(rates, "input_size")
    assert list(table.iloc[0]) == [
        125, "0 % (0.46 / 0.2)", "100 % (0.0071 / 0.2)", "100 % (0.0071 / 23)",
        "50 % (0.1 / 0.23)",
    ]  # fmt: skip
    assert table.columns[1] == "median of the last, 0.2"


def test_a_point_that_was_not_published_is_in_a_boundary_table():
    ours = summary(TABLE.assign(input_size=300), ["input_size", "model"])
    published = pd.DataFrame({"input_size": [100], "model": "NMU", "runs": 10, "success_rate": 1.0})
    compared = tables.boundary_table(ours, published, "input_size")
    assert list(compared.model) == ["NMU", "NALU"]
    assert list(compared.differs) == ["", ""]
    assert compared.iloc[0, 2].startswith("100 % [")


def test_a_model_without_a_name_is_called_by_its_layers():
    assert tables.model_label("NAU → NACMul") == "NAU → NAC•"
    assert tables.model_label("NAC → NALU (separate)") == "NAC₊ → NALU (separate)"


def test_a_table_shows_numbers_rounded_and_texts_as_they_are(monkeypatch):
    shown = []
    monkeypatch.setattr(tables, "display", lambda data, raw: shown.append(data))
    frame = pd.DataFrame(
        {"$x$": ["1,000", "2"], "steps": [5_000_000, 38_800], "error": [1234.5, 2.5e-7]}
    )
    tables.show_table(frame, "tab-name", "A caption.", digits=".2g")
    markdown = shown[0]["text/markdown"].splitlines()
    assert markdown[:3] == [":::{table} A caption.", ":name: tab-name", ""]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in markdown[3:7]]
    assert cells[0] == ["$x$", "steps", "error"]
    assert all(side.endswith("-:") for side in cells[1])
    assert cells[2:] == [["1,000", "5,000,000", "1,200"], ["2", "38,800", "2.5e-07"]]
    assert "<td>38,800</td>" in shown[0]["text/html"]
    tables.show_table(frame.assign(error=["—", (1.0, 2)]), "tab-name", "A caption.")
    assert "(1.0, 2)" in shown[1]["text/markdown"]
    assert not shown[1]["text/markdown"].splitlines()[4].endswith(":|")


def test_the_weights_of_a_run_stand_beside_what_it_reads():
    run = SequenceRun("NALU (separate)", SequentialMNIST(test_lengths=(1,)), epochs=0)
    lstm = run.but(unit="LSTM", model="", z_strength=0.0)
    models = {each: each.build() for each in (run, lstm)}
    curve = {"operation": "product", "model": run.model, "seed": 0, "sparsity_error": [0.4, 0.3],
             "digit_9": [1.0, 40_800.0]}  # fmt: skip
    (line,) = tables.weights_table(models, {}, pd.DataFrame(curve)).to_dict("records")
    assert len(line["weights before"].split(", ")) == 4  # two matrices of two weights
    assert line["weights after"] == "not kept"
    assert line["sparsity error"] == 0.3
    assert line["a 9 is read as"] == "40,800"
