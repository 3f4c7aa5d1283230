"""The command line."""

import math
import shlex
import subprocess
import sys

import pandas as pd
import pytest

import nalu
from nalu import bench
from nalu.__main__ import main, outcome, parser, specifications
from nalu.experiments import EXPERIMENTS, boundary, sequential_mnist, simple_multiplication
from nalu.store import Record, Store
from nalu.tables import recompute

SWEEP = ["sweep", "simple_multiplication", "--models", "NMU", "--iterations", "2000"]


def test_sweep_computes_prints_and_writes(tmp_path, capsys):
    output = tmp_path / "table.csv"
    arguments = ["--seeds", "0:3", "--store", str(tmp_path / "store"), "--output", str(output)]
    assert main([*SWEEP, *arguments]) == 0
    assert "success_rate" in capsys.readouterr().out
    table = pd.read_csv(output)
    runs = simple_multiplication(seeds=range(3), models=["NMU"], iterations=2000)
    assert list(table.key) == [f"{run.kind('cpu')}-{run.seed}" for run in runs]


def test_it_is_a_module():
    shown = subprocess.run(
        [sys.executable, "-m", "nalu", "sweep", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "simple_multiplication" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "static"], "invalid choice: 'static'"),
        (["sweep", "simple_multiplication", "--operations", "add"], "has no --operations"),
        (["sweep", "static_function", "--models", "XYZ"], "no unit is named 'XYZ'"),
        (["sweep", "static_function", "--epochs", "3"], "static_function has no --epochs"),
        (["sweep", "sequential_mnist", "--stream", "philox"], "mnist has no --stream"),
        (["sweep", "sequential_mnist", "--operation", "mul"], "operation is 'mul': it must be"),
        (["sweep", "static_function", "--seeds", "a"], "--seeds: invalid"),
        (["sweep", "static_function", "--sedes", "1"], "unrecognized arguments"),
        (["sweep", "boundary", "--values", "4"], "name it as well"),
        (["sweep", "boundary", "--parameter", "ranges", "--values", "1,2"], "of ranges is 1: it"),
        (["sweep", "boundary", "--interpolation", "2,1"], "interpolation is [2, 1]: it must be"),
        (["verify", "--sample", "0"], "--sample: 0 is not 1 or more"),
        (["bench", "--seconds", "0"], "--seconds: 0 is not positive"),
        (["sweep", "sequential_mnist", "--trained-state", "yes"], "yes is neither True nor False"),
    ],
)
def test_a_wrong_word_is_an_error_that_says_so(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_verify_tells_a_recorded_run_from_a_forged_one(tmp_path, capsys):
    runs = simple_multiplication(seeds=[0, 1], models=["NMU"], iterations=10_000)
    nalu.sweep(runs, store=tmp_path, progress=False)
    command = ["verify", "--sample", "2", "--store", str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr().out.count("identical") == 2
    store = Store(tmp_path)
    honest, other = (store.get(key) for key in list(store.keys()))
    score = {**honest.score, "solved": not honest.score["solved"], "solved_at": 1.0}
    store.add([Record(**{**vars(honest), "score": score, "digest": other.digest})])
    assert main(command) == 1
    assert "different" in capsys.readouterr().out


def test_verify_can_leave_long_runs_out(tmp_path, capsys):
    runs = simple_multiplication(seeds=[0], models=["NMU"], iterations=2000)
    nalu.sweep(runs, store=tmp_path, progress=False)
    store = Store(tmp_path)
    (short,) = map(store.get, list(store.keys()))
    store.add([Record(**{**vars(short), "seed": 1, "seconds": 100.0})])  # would be different
    assert main(["verify", "--seconds", "50", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("identical") == 1


def test_verify_of_nothing(tmp_path, capsys):
    assert main(["verify", "--store", str(tmp_path)]) == 1
    assert "no record was compared: there are none" in capsys.readouterr().err


def test_bench_compares_the_engines_at_both_tasks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "BENCHED", ("NMU",))
    output = tmp_path / "bench.csv"
    assert main(["bench", "--seconds", "0.02", "--output", str(output)]) == 0
    assert list(pd.read_csv(output)) == list(bench.recorded("arithmetic"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 4
    for start in (2, 6):
        engines = ["plain PyTorch", "reference", "one core", "cores"]
        assert all(name in line for name, line in zip(engines, lines[start:], strict=False))


def test_the_floor_counts_what_a_step_needs():
    run = simple_multiplication(seeds=[0], models=["NALU"])[0]
    rate = {"word": 1.0, "multiply-add": 0.0, "logarithm": 0.0}
    assert bench.floor(run, rate) == 128 * 4
    rate = {"word": 0.0, "multiply-add": 1.0, "logarithm": 0.0}
    assert bench.floor(run, rate) == 128 * (3 * 2 * 4 * 2 + 3 * 3 * 2 * 1)
    rate = {"word": 0.0, "multiply-add": 0.0, "logarithm": 1.0}
    assert bench.floor(run, rate) == 128 * (4 + 2 * 2 + 2 + 2 * 1)


def test_hours_are_those_of_the_measured_steps():
    table = pd.DataFrame(
        [("4 inputs", "NAU", 1.0), ("100 inputs", "NAU", 9.0), ("4 inputs", "NMU", 2.0),
         ("100 inputs", "NMU", 10.0)], columns=["task", "model", "µs a step"],
    ).assign(engine="cpu, one core")  # fmt: skip
    runs = boundary(values=[4, 100, 52], models=["NMU"], seeds=[0], iterations=3_600_000)
    assert [bench.hours([run], table) for run in runs] == pytest.approx([2e-3, 10e-3, 6e-3])
    unknown = boundary(values=[100], models=["Linear"], seeds=[0, 1], iterations=3_600_000)
    assert bench.hours(unknown, table) == pytest.approx(18e-3)
    images = pd.DataFrame(
        {"task": ["product of 2 digits", "sum of 10 digits"], "images/s": [100.0, 400.0]}
    ).assign(engine="sequences, alone")
    (run,) = sequential_mnist("sum", seeds=[0], models=["NAU"], epochs=2)
    assert bench.sequence_hours([run], images) == pytest.approx(run.steps * 64 * 10 / 400 / 3600)


def test_the_bench_of_loops_has_both_where_both_serve(monkeypatch):
    monkeypatch.setattr(bench, "seconds_per_step", lambda work, seconds: work(2) or 1e-6)
    rows = list(bench.loop_rows(0.01, ["NMU"]))
    assert [row["task"] for row in rows] == [
        "2 inputs, 1 layer", "4 inputs, 2 layers", "100 inputs, 2 layers"
    ]  # fmt: skip
    assert [row["generated, µs a step"] for row in rows] == [1.0] * 3
    assert [math.isnan(row["cpu, µs a step"]) for row in rows] == [True, False, False]
    assert [*rows[0], "machine", "date"] == list(bench.recorded("loops"))


def test_the_bench_of_sequences_compares_with_a_plain_loop():
    rows = list(bench.sequence_rows(0.01, seeds=2, device="cpu", units=["NMU"]))
    assert [row["engine"].split()[-1] for row in rows] == ["loop", "alone", "seeds"]
    assert {row["model"] for row in rows} == {"NMU"}
    assert rows[0]["times plain"] == 1.0
    assert all(row["images/s"] > 0 for row in rows)
    assert [*rows[0], "machine", "date"] == list(bench.recorded("sequences"))


@pytest.mark.parametrize(
    ("experiment", "seeds", "options"),
    [
        ("simple_multiplication", 3, {"protocol": "final", "models": ["NMU"], "iterations": 2000}),
        ("static_function", 2, {"operations": ["add", "div"], "models": None}),
        ("boundary", 2, {"parameter": "input_size", "values": [4, 300], "models": ["NMU", "NALU"]}),
        ("boundary", 1, {"parameter": "overlap_ratio", "values": [0.0, 1e-5, 1.0]}),
        ("boundary", 1, {"operation": "add", "interpolation": [-2, 2], "extrapolation": [2, 6]}),
        ("sequential_mnist", 1, {"models": ["LSTM (read-out)", "NMU"], "z_strength": 0.0}),
    ],
)
def test_the_command_of_a_caption_asks_for_the_runs_of_its_table(experiment, seeds, options):
    text = recompute(experiment, seeds, **options)
    line = shlex.split(text.removeprefix("Recompute: `").removesuffix("`."))
    assert line[:4] == ["python", "-m", "nalu", "sweep"]
    given = {name: value for name, value in options.items() if value is not None}
    expected = EXPERIMENTS[experiment](seeds=range(seeds), **given)
    assert specifications(parser().parse_args(line[3:])) == expected


def test_a_command_leaves_out_what_the_paper_has_anyway():
    options = {"protocol": "draft", "models": ["NACMul", "NALU", "NMU"], "iterations": 200_000}
    text = recompute("simple_multiplication", 100, **options, interpolation=[1.0, 2.0])
    assert text == "Recompute: `python -m nalu sweep simple_multiplication --seeds 0:100`."


def test_a_boundary_has_a_line_for_every_value():
    labels = [run.labels() for run in boundary(values=[4, 300], models=["NMU"], seeds=[0, 1])]
    solved = pd.DataFrame(
        {"solved": [True, True, False, True], "solved_at": 1000.0, "sparsity_error": 0.1}
    )
    table = outcome(pd.DataFrame(labels).join(solved))
    assert list(table.index) == [("NMU", "mul", 4), ("NMU", "mul", 300)]
    assert list(table.success_rate) == [1.0, 0.5]
    assert list(table.solved_at) == [1000.0, 1000.0]
