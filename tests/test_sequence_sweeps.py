"""Runs of sequential MNIST through sweep, store and command line, with few digits."""

import dataclasses
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import nalu
from nalu import runs
from nalu.__main__ import main
from nalu.experiments import sequential_mnist, simple_multiplication
from nalu.store import DamagedRecord, Record, Store
from nalu.tasks import mnist
from nalu.tasks.mnist import Digits, SequentialMNIST
from nalu.training import sequences
from nalu.training.sequence_run import SequenceRun

SIZES = {"training": 150, "validation": 60, "test": 60}
FEW = """
from nalu.tasks import mnist
whole = mnist.load()
few = {name: mnist.Digits(*(t[:n] for t in whole[name])) for name, n in SIZES.items()}
mnist.load = lambda: few
"""
TASK = dataclasses.replace(SequentialMNIST.of("product"), test_lengths=(1, 2, 5))
RUN = SequenceRun("NMU", TASK, epochs=2, evaluate_every=1, batch_size=32, z_strength=1.0)
RUNS = [RUN, RUN.but(seed=1), RUN.but(unit="LSTM", model="", z_strength=0.0)]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    whole = mnist.load()
    few = {name: Digits(*(t[:n] for t in whole[name])) for name, n in SIZES.items()}
    monkeypatch.setattr(mnist, "load", lambda: few)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers of a sweep, which this file compares with
    yield few
    torch.set_num_threads(threads)


def test_one_row_a_run_with_errors_at_every_length(tmp_path, computed):
    table = nalu.sweep(RUNS, store=tmp_path, progress=False)
    assert list(table.columns) == [
        "experiment", "protocol", "model", "operation", "seed", "unit", "epochs", "z_strength",
        "cnn_outputs", "trained_state", "learning_rate", "batch_size", "evaluate_every", "digits",
        "train_length", "test_lengths", "prefixes", "protocol_strength", "protocol_start",
        "protocol_end", "optimizer_rule", "optimizer_rates", "optimizer_clip_value",
        "optimizer_clip_norm", "optimizer_restart_every", "optimizer_patience",
        "last_step", "best_epoch", "validation_error", "sparsity_error",
        "test_error_1", "test_error_2", "test_error_5",
        "diverged_at", "engine", "device", "seconds", "key",
    ]  # fmt: skip
    assert list(table.model) == ["NMU", "NMU", "LSTM"]
    assert list(table.last_step) == [2 * 3] * 3
    assert table.sparsity_error.isna().tolist() == [False, False, True]
    assert (table.engine == "sequences").all()
    assert (table.seconds > 0).all()
    computed.clear()
    assert nalu.sweep(RUNS, store=tmp_path, progress=False).equals(table)
    assert computed == []
    assert not list(tmp_path.glob("*.checkpoint"))


def test_learning_curves_have_a_row_an_evaluation(tmp_path):
    curves = nalu.learning_curves(RUNS, store=tmp_path, progress=False)
    assert list(curves.epoch) == [0, 1, 2] * 3
    assert list(curves.step) == [0, 3, 6] * 3
    table = nalu.sweep(RUNS, store=tmp_path, progress=False)
    least = curves.groupby(["model", "seed"], sort=False).validation_error.min()
    np.testing.assert_allclose(least, table.validation_error, rtol=1e-6)
    log = sequences.train([RUN], digits=mnist.load())[0]
    assert curves.digit_7[2] == pytest.approx(log["digit_7"][2], rel=1e-4)


def test_both_kinds_of_runs_go_in_one_sweep(tmp_path):
    arithmetic = simple_multiplication(seeds=[0], models=["NMU"], iterations=1000)
    table = nalu.sweep([*arithmetic, RUN], store=tmp_path, progress=False)
    assert list(table.engine) == ["cpu", "sequences"]
    assert table.validation_error.isna().tolist() == [True, False]
    curves = nalu.learning_curves([*arithmetic, RUN], store=tmp_path, progress=False)
    assert curves.validation_error.isna().tolist() == [True] * 2 + [False] * 3


def test_each_engine_knows_its_runs():
    arithmetic = simple_multiplication(seeds=[0])[0]
    assert runs.engine_for(RUN) == "sequences"
    assert [name for name in runs.ENGINES if not runs.objection(name, RUN)] == ["sequences"]
    assert "SequentialMNIST only" in runs.objection("sequences", arithmetic)
    with pytest.raises(ValueError, match=r"'cpu' trains .* Arithmetic only.* one of sequences for"):
        runs.engine_for(RUN, "cpu")
    with pytest.raises(ValueError, match=r"trains runs of SequentialMNIST .* one of .*reference"):
        runs.engine_for(arithmetic, "sequences")


def test_on_a_gpu_seeds_go_side_by_side(monkeypatch):
    assert [len(batch) for batch in runs.together(RUNS, "sequences")] == [1, 1, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [len(batch) for batch in runs.together(RUNS, "sequences")] == [2, 1]
    seeds = [RUN.but(seed=seed) for seed in range(12)]
    assert [len(batch) for batch in runs.together(seeds, "sequences")] == [10, 2]
    names = {runs.checkpoint_of(batch, "sequences", "x") for batch in (seeds[:2], seeds[:3])}
    assert len(names) == 2
    others = [run.but(learning_rate=0.1) for run in seeds[1:3]]
    names = {runs.checkpoint_of([seeds[0], other], "sequences", "x") for other in others}
    assert len(names) == 2


def test_progress_counts_steps(tmp_path, capfd, few):
    assert RUN.steps == 6
    nalu.sweep(RUNS, store=tmp_path)
    shown = capfd.readouterr().err
    assert "engine sequences" in shown
    assert "3 of 3 runs done" in shown
    assert "18.0/18.0" in shown


def test_steps_of_the_papers_runs(monkeypatch):
    monkeypatch.undo()
    assert [
        sequential_mnist(operation, seeds=[0])[0].steps for operation in ("product", "sum")
    ] == [
        388_000,
        86_000,
    ]


def test_trained_models_are_read_or_trained_again(tmp_path, computed, few):
    nalu.sweep(RUNS[:2], store=tmp_path, progress=False)
    computed.clear()
    models = nalu.trained_models(RUNS[:2], store=tmp_path)
    assert computed == []
    logs = sequences.train(RUNS[:1], digits=few)
    parameters = torch.nn.utils.parameters_to_vector(models[0].parameters())
    assert np.array_equal(parameters.detach().numpy(), logs[0].parameters)
    (file,) = tmp_path.glob(f"{RUNS[1].key('sequences')}-*.safetensors")
    for damage in (b"", file.read_bytes()[:-4] + b"abcd"):
        file.write_bytes(damage)
        with pytest.warns(DamagedRecord, match=rf"{file.name} is damaged .*: delete it"):
            nalu.trained_models(RUNS[1:2], store=tmp_path)
        assert computed == RUNS[1:2]
        computed.clear()
    file.unlink()
    nalu.trained_models(RUNS[:2], store=tmp_path)
    assert computed == RUNS[1:2]


def test_record_keeps_parameters_of_the_first_seed(tmp_path, computed):
    store = Store(tmp_path / "cache", [tmp_path / "recorded"])
    nalu.sweep(RUNS[:2], store=store, progress=False)
    cache = Store(store.folder)
    for run in RUNS[:2]:
        old = runs.in_store(run, "auto", cache)
        committed = {"device": "this", "date": "2026-01-01", "commit": "c0ffee"}
        cache.add([Record(**{**vars(old), "provenance": committed})])
    fresh = Store(tmp_path / "cache", [tmp_path / "recorded"])
    assert list(runs.record(RUNS[:2], store=fresh).result) == ["recorded"] * 2
    kept = [path.name for path in (tmp_path / "recorded").glob("*.safetensors")]
    assert len(kept) == 1
    assert kept[0].startswith(f"{RUN.key('sequences')}-")
    computed.clear()
    recorded = Store(tmp_path / "new", [tmp_path / "recorded"])
    nalu.sweep(RUNS[:2], store=recorded, progress=False)
    nalu.trained_models(RUNS[:1], store=recorded)
    assert computed == []
    nalu.trained_models(RUNS[1:2], store=recorded)
    assert computed == RUNS[1:2]


def killed_in_the_middle(run, folder):
    """A sweep of one run in a process that is killed when its checkpoint was written twice."""
    code = (
        f"import nalu, sys\nSIZES = {SIZES}\n{FEW}\n"
        "from nalu.training.run import run_of\n"
        f"run = run_of({run.specification()})\n"
        "nalu.sweep([run], store=sys.argv[1])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder], stderr=subprocess.PIPE)
    checkpoint = runs.checkpoint_of([run], "sequences", folder)
    until, seen = time.monotonic() + 120, set()
    while len(seen) < 2:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_ino)  # it is replaced, not written over
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return checkpoint


def test_a_killed_sweep_goes_on_where_its_checkpoint_is(tmp_path, few):
    run = RUN.but(epochs=30)
    whole = runs.compute([run], "sequences")[0]
    checkpoint = killed_in_the_middle(run, tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))
    steps = []
    resumed = runs.compute([run], "sequences", tmp_path, steps.append)[0]
    assert steps[0] > 1
    assert sum(steps) == run.steps
    assert resumed.digest == whole.digest
    assert resumed.parameters_digest == whole.parameters_digest
    table = nalu.sweep([run], store=tmp_path, progress=False)
    assert table.last_step[0] == run.steps
    assert not checkpoint.exists()
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".safetensors"}


def test_a_checkpoint_that_does_not_fit_is_an_error_that_names_it(tmp_path, few):
    path = runs.checkpoint_of([RUN], "sequences", tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=rf"{path.name} is not a whole checkpoint.*delete it"):
        nalu.sweep([RUN], store=tmp_path, progress=False)
    path.unlink()
    sequences.train([RUN.but(seed=5)], checkpoint=path, digits=few)
    with pytest.raises(ValueError, match=rf"{path.name} is the checkpoint of other runs: delete"):
        nalu.sweep([RUN], store=tmp_path, progress=False)
    path.unlink()
    assert len(nalu.sweep([RUN], store=tmp_path, progress=False)) == 1


def test_other_code_does_not_go_on_with_what_no_commit_has(monkeypatch):
    names = []
    for commit in ("c0ffee", "beef", "beef-dirty", ""):
        monkeypatch.setattr(runs, "commit", lambda commit=commit: commit)
        names.append(runs.checkpoint_of([RUN], "sequences", "x").name)
    assert names[0] == names[1] == f"{RUN.key('sequences')}.checkpoint"
    assert names[2] == names[3] == f"{RUN.key('sequences')}-{runs.code_digest()}.checkpoint"


def test_a_diverged_run_is_a_row(tmp_path):
    run = RUN.but(unit="NAU", model="", z_strength=0.0, learning_rate=1e30, epochs=5)
    row = nalu.sweep([run], store=tmp_path, progress=False).iloc[0]
    assert row.diverged_at >= row.last_step
    again = nalu.sweep([run], store=tmp_path, progress=False).iloc[0]
    assert again.equals(row)


def test_the_command_line(tmp_path, capsys):
    arguments = ["--models", "NMU,exact", "--seeds", "0", "--epochs", "5"]
    where = ["--store", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        task = dataclasses.replace(SequentialMNIST.of("product"), test_lengths=(1, 2))
        patch.setattr(SequentialMNIST, "of", lambda *_: task)
        assert main(["sweep", "sequential_mnist", *arguments, *where]) == 0
    shown = capsys.readouterr().out
    assert "validation_error" in shown
    assert "exact" in shown
    store = Store(tmp_path)
    records = map(store.get, list(store.keys()))
    assert {record.specification["protocol"]["name"] for record in records} == {"final"}
    assert main(["verify", "--sample", "2", *where]) == 0
    assert capsys.readouterr().out.count("identical") == 2


def test_scores_that_say_the_same():
    old = {"validation_error": 1.0}
    assert runs.alike(RUN, {"validation_error": 1.9}, old)
    assert not runs.alike(RUN, {"validation_error": 2.1}, old)
    assert not runs.alike(RUN, {"validation_error": math.nan}, old)


def test_seeds_side_by_side_leave_a_row_each_and_no_checkpoint(tmp_path, monkeypatch):
    """As on a GPU, here on a processor."""
    alone = nalu.sweep(RUNS[:2], store=tmp_path / "alone", progress=False)
    monkeypatch.setattr(runs, "keeps_one_core", lambda engine: False)
    assert [len(batch) for batch in runs.together(RUNS, "sequences")] == [2, 1]
    table = nalu.sweep(RUNS, store=tmp_path / "together", progress=False)
    np.testing.assert_allclose(table.validation_error[:2], alone.validation_error, rtol=1e-2)
    assert {path.suffix for path in (tmp_path / "together").iterdir()} == {".jsonl", ".safetensors"}
    models = nalu.trained_models(RUNS[:2], store=tmp_path / "together")
    biases = [model.reader.output.bias.item() for model in models]
    assert biases[0] != biases[1]
