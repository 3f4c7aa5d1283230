"""Sweeps: what is in the store is read, what is missing is computed, nothing finished is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

import nalu
from nalu import runs
from nalu.experiments import simple_multiplication, static_function
from nalu.store import DamagedRecord, Record, Store, default_store, without_curve
from nalu.training.run import LAYERS, ranges_text
from nalu.units import NAU

SHORT = simple_multiplication(seeds=range(3), models=["NMU", "Linear"], iterations=2000)
SIMPLE = simple_multiplication(seeds=range(4), models=["NMU"], iterations=2000)


def test_one_row_a_run_in_order(tmp_path):
    table = nalu.sweep(SHORT, store=tmp_path, progress=False)
    assert list(table.model) == ["NMU"] * 3 + ["Linear"] * 3
    assert list(table.seed) == [0, 1, 2] * 2
    first = ["experiment", "protocol", "model", "operation", "seed", "iterations"]
    assert list(table.columns[:6]) == first
    assert {"solved", "solved_at", "sparsity_error", "engine", "device", "seconds"} <= set(table)
    assert (table.engine == "cpu").all()
    assert table.solved.dtype == bool


def test_new_parameters_compute_only_what_is_new(tmp_path, computed):
    once = nalu.sweep(SHORT, store=tmp_path, progress=False)
    assert sorted(map(hash, computed)) == sorted(map(hash, SHORT))
    computed.clear()
    more = simple_multiplication(seeds=range(4), models=["NMU"], iterations=2000)
    table = nalu.sweep([*more, more[0]], store=tmp_path, progress=False)
    assert computed == [more[3]]
    assert list(table.seed) == [0, 1, 2, 3, 0]
    assert table.loc[:2].equals(once.loc[:2])


def test_labels_do_not_make_another_run(tmp_path, computed):
    nalu.sweep(SHORT[:1], store=tmp_path, progress=False)
    table = nalu.sweep([SHORT[0].but(experiment="mine")], store=tmp_path, progress=False)
    assert len(computed) == 1
    assert table.experiment[0] == "mine"


def test_a_damaged_record_is_computed_again(tmp_path, computed):
    table = nalu.sweep(SHORT[:2], store=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    computed.clear()
    with pytest.warns(DamagedRecord, match="is damaged and not used"):
        again = nalu.sweep(SHORT[:2], store=tmp_path, progress=False)
    assert len(computed) == 1
    assert again.drop(columns="seconds").equals(table.drop(columns="seconds"))


def test_every_way_to_compute_gives_the_same_table(tmp_path):
    def table(name, **arguments):
        found = nalu.sweep(SHORT, store=tmp_path / name, progress=False, **arguments)
        return found.drop(columns=["seconds"])

    here = table("here")
    with ThreadPoolExecutor(2) as threads:
        assert table("threads", client=threads).equals(here)
    with ProcessPoolExecutor(1) as processes:
        assert table("processes", client=processes).equals(here)


def test_a_dask_cluster_gives_the_same_table(tmp_path):
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        there = nalu.sweep(SHORT, store=tmp_path / "there", client=client, progress=False)
    here = nalu.sweep(SHORT, store=tmp_path / "here", progress=False)
    assert there.drop(columns="seconds").equals(here.drop(columns="seconds"))


def test_reference_trains_seeds_side_by_side_and_agrees(tmp_path, computed, monkeypatch):
    monkeypatch.setitem(runs.SIDE_BY_SIDE, "reference", 2)
    specs = [run.but(iterations=200, evaluate_every=100) for run in SHORT]
    assert [len(batch) for batch in runs.together(specs, "reference")] == [2, 1, 2, 1]
    slow = nalu.sweep(specs, "reference", store=tmp_path, progress=False)
    fast = nalu.sweep(specs, "cpu", store=tmp_path, progress=False)
    assert len(computed) == 12  # the two do not share records
    assert (slow.engine == "reference").all()
    np.testing.assert_allclose(slow.sparsity_error, fast.sparsity_error, rtol=1e-3)


def test_records_are_drawn_from_every_kind_alike():
    keys = [f"many-{seed}" for seed in range(999)] + ["few-0"]
    assert sorted(runs._drawn(keys, 0)) == sorted(keys)
    first = [next(runs._drawn(keys, seed)) for seed in range(100)]
    assert 30 < first.count("few-0") < 70
    assert len(set(first)) > 20


def test_auto_takes_the_fastest_engine_that_serves():
    assert runs.engine_for(SHORT[0]) == "cpu"
    assert runs.engine_for(SHORT[0].but(stream="authors")) == "reference"
    with pytest.raises(ValueError, match="'NMU' is no run: take those"):
        nalu.sweep(["NMU"])
    with pytest.raises(ValueError, match="no engine is named 'gpu'"):
        nalu.sweep(SHORT, engine="gpu")
    with pytest.raises(ValueError, match="'cpu' has no stream 'authors': use 'auto' or one of ref"):
        runs.engine_for(SHORT[0].but(stream="authors"), "cpu")


def test_a_unit_that_only_pytorch_knows_is_trained_by_the_reference(tmp_path, monkeypatch):
    class Doubled(NAU):
        def forward(self, x):
            return 2 * super().forward(x)

    monkeypatch.setitem(LAYERS, "Doubled", Doubled)
    run = SHORT[0].but(layers=("Doubled", "NMU"), iterations=10, evaluate_every=10)
    table = nalu.sweep([run], store=tmp_path, progress=False)
    assert list(table.engine) == ["reference"]


def test_learning_curves(tmp_path):
    curves = nalu.learning_curves(SHORT[:2], store=tmp_path, progress=False)
    assert list(curves.step) == [0, 1000, 2000] * 2
    assert list(curves.seed) == [0] * 3 + [1] * 3
    final = nalu.sweep(SHORT[:1], store=tmp_path, progress=False)
    assert curves.extrapolation_error[:3].median() == pytest.approx(final.extrapolation_error[0])


def test_a_curve_that_was_left_out_is_computed_again(tmp_path, computed):
    nalu.sweep(SHORT[:2], store=tmp_path / "a", progress=False)
    whole = Store(tmp_path / "a")
    bare = Store(tmp_path / "b")
    bare.add([without_curve(whole.get(key)) for key in list(whole.keys())])
    computed.clear()
    store = Store(tmp_path / "c", [tmp_path / "b"])
    nalu.sweep(SHORT[:2], store=store, progress=False)
    assert computed == []
    curves = nalu.learning_curves(SHORT[:2], store=store, progress=False)
    assert computed == SHORT[:2]
    assert curves.equals(nalu.learning_curves(SHORT[:2], store=whole, progress=False))


def test_auto_takes_the_record_of_any_engine(tmp_path, computed):
    run = SHORT[0].but(iterations=10, evaluate_every=10)
    slow = nalu.sweep([run], "reference", store=tmp_path, progress=False)
    computed.clear()
    assert nalu.sweep([run], store=tmp_path, progress=False).equals(slow)
    assert computed == []
    assert list(nalu.sweep([run], "cpu", store=tmp_path, progress=False).engine) == ["cpu"]


def test_record_adds_committed_runs_and_leaves_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CURVES", 1)
    store = Store(tmp_path / "cache", [tmp_path / "recorded"])
    nalu.sweep(SHORT[:2], store=tmp_path / "cache", progress=False)
    cache = Store(tmp_path / "cache")
    committed = {"device": "this", "date": "2026-01-01", "commit": "c0ffee"}
    for seed in (0, 1):
        old = runs.in_store(SHORT[seed], "cpu", cache)
        cache.add([Record(**{**vars(old), "provenance": committed})])
    nalu.sweep([SHORT[2]], store=tmp_path / "cache", progress=False)
    dirty = Record(
        **{**vars(runs.in_store(SHORT[2], "cpu", Store(tmp_path / "cache"))),
           "provenance": {**committed, "commit": "c0ffee-dirty"}}
    )  # fmt: skip
    Store(tmp_path / "cache").add([dirty])
    results = runs.record(SHORT[:4], store=store).result
    assert list(results) == ["recorded", "recorded", "uncommitted", "not computed"]
    assert list(runs.record(SHORT[:2], store=store).result) == ["was recorded"] * 2
    kept = [runs.in_store(run, "cpu", Store(tmp_path / "recorded")) for run in SHORT[:3]]
    assert [bool(record and record.packed) for record in kept] == [True, False, False]
    assert kept[2] is None
    (file,) = (tmp_path / "recorded").iterdir()
    assert file.read_text(encoding="utf-8").count("c0ffee") == 1


@pytest.mark.parametrize("protocol", ["draft", "final"])
def test_a_row_of_plain_values_by_either_protocol(tmp_path, protocol):
    specs = simple_multiplication(protocol, seeds=[0], models=["NMU"], iterations=1000)
    first = nalu.sweep(specs, store=tmp_path, progress=False)
    read = nalu.sweep(specs, store=tmp_path, progress=False)
    assert read.equals(first)
    assert read.solved.dtype == bool


def test_a_trained_model_is_the_one_that_was_scored():
    """Its sparsity error is that of the last evaluation, an update before the end."""
    specs = [run.but(evaluate_every=1, iterations=50) for run in SHORT[:2]]
    for run, model in zip(specs, nalu.trained_models(specs), strict=True):
        log = runs.ENGINES["cpu"].train([run.but(iterations=51)])[0]
        weights = [unit.weight.detach().abs() for unit in model]
        worst = max(float(torch.minimum(w, (1 - w).abs()).max()) for w in weights)
        assert worst == pytest.approx(log["sparsity_error"][-1], rel=1e-6)


def test_an_empty_sweep_is_an_empty_table(tmp_path):
    assert len(nalu.sweep([], store=tmp_path)) == 0


def test_progress_shows_engine_runs_and_steps(tmp_path, capfd):
    nalu.sweep(SHORT, store=tmp_path)
    shown = capfd.readouterr().err
    assert "engine cpu" in shown
    assert "6 of 6 runs done" in shown
    assert "12.0k" in shown
    assert "step/s" in shown
    nalu.sweep(SHORT, store=tmp_path)
    assert capfd.readouterr().err == ""


def test_an_error_in_a_run_ends_the_sweep_and_keeps_what_is_finished(tmp_path, monkeypatch):
    """The last run would take a quarter of an hour, whether or not it begins before the end."""
    compute = runs.compute

    def failing(batch, *arguments):
        if batch[0] == SHORT[3]:
            raise RuntimeError("out of order")
        return compute(batch, *arguments)

    monkeypatch.setattr(runs, "compute", failing)
    monkeypatch.setattr(runs, "cores", lambda: 1)
    long = static_function(seeds=[0], operations=["mul"], models=["NMU"], iterations=100_000_000)
    with pytest.raises(RuntimeError, match="out of order"):
        nalu.sweep(SHORT[:4] + long, store=tmp_path, progress=False)
    assert all(runs.in_store(run, "cpu", Store(tmp_path)) for run in SHORT[:3])
    assert len(list(Store(tmp_path).keys())) == 3


def test_ctrl_c_ends_a_sweep_at_once_and_loses_nothing_finished(tmp_path):
    """Two short runs finish, the third would take a quarter of an hour: then an interrupt.

    A job in the background ignores interrupts, and so would what it starts.
    """
    code = (
        "import nalu, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from nalu.experiments import simple_multiplication, static_function\n"
        "short = simple_multiplication(seeds=[0, 1], models=['NMU'], iterations=2000)\n"
        "long = static_function(seeds=[0], operations=['mul'], models=['NMU'],"
        " iterations=100_000_000)\n"
        "nalu.sweep(short + long, store=sys.argv[1])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while len(list(Store(tmp_path).keys())) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    try:
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - begin < 10
    assert process.returncode != 0
    assert "KeyboardInterrupt" in shown
    finished = simple_multiplication(seeds=[0, 1], models=["NMU"], iterations=2000)
    assert all(runs.in_store(run, "cpu", Store(tmp_path)) for run in finished)


def test_the_default_store_is_a_cache_beside_the_recorded_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NALU_CACHE", str(tmp_path))
    assert default_store().folder == tmp_path / "runs"
    monkeypatch.delenv("NALU_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_store().folder == tmp_path / "home" / ".cache" / "nalu" / "runs"
    assert [folder.parts[-2:] for folder in default_store().recorded] == [("data", "runs")]


def test_as_many_workers_as_cores():
    """Those of this process, where the system tells them apart from the machine's."""
    allowed = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count()))
    assert runs.cores() == len(allowed(0))


def test_a_union_of_ranges_is_written_as_in_the_paper():
    assert ranges_text(((-6.0, -2.0), (2.0, 6.0))) == "U[-6, -2] ∪ U[2, 6]"
    task = static_function("final", operations=["mul"])[0].task
    assert ranges_text(task.interpolation) == "U[1, 2]"


def test_a_run_that_fails_does_not_take_along_what_others_finish(tmp_path, monkeypatch):
    compute, other_began = runs.compute, threading.Event()

    def failing(batch, *arguments):
        other_began.set() if batch[0].seed else other_began.wait()
        if batch[0].seed == 0:
            raise RuntimeError("no luck")
        time.sleep(0.2)
        return compute(batch, "cpu")

    monkeypatch.setattr(runs, "compute", failing)
    monkeypatch.setattr(runs, "cores", lambda: 2)
    with pytest.raises(RuntimeError, match="no luck"):
        nalu.sweep(SHORT[:2], store=tmp_path, progress=False)
    assert list(Store(tmp_path).keys()) == [SHORT[1].key("cpu")]


def test_a_run_that_failed_on_a_client_is_forgotten_there(tmp_path):
    """Dask answers an equal call with the future of the one before, unless it is told not to."""
    future = Future()
    future.set_exception(RuntimeError("no luck"))
    client = mock.Mock()
    client.get_executor.return_value = SimpleNamespace(submit=lambda *arguments: future)
    with pytest.raises(RuntimeError, match="no luck"):
        nalu.sweep(SHORT[:1], store=tmp_path, client=client, progress=False)
    client.get_executor.assert_called_once_with(pure=False)


def test_what_a_client_has_finished_when_a_run_fails_is_not_lost(tmp_path):
    """Seed 1 fails, 0 and 2 are finished by then, and 3 is not waited for."""
    futures = {run.seed: Future() for run in SIMPLE}

    def submit(function, batch, *arguments):
        (run,) = batch
        if run.seed == 3:  # the last: all others are through
            futures[1].set_exception(RuntimeError("no luck"))
            for seed in (0, 2):
                futures[seed].set_result(function([SIMPLE[seed]], *arguments))
        return futures[run.seed]

    client = SimpleNamespace(submit=submit)
    with pytest.raises(RuntimeError, match="no luck"):
        nalu.sweep(SIMPLE, store=tmp_path, client=client, progress=False)
    assert {run.seed for run in SIMPLE if runs.in_store(run, "cpu", Store(tmp_path))} == {0, 2}


def test_verify_counts_the_seconds_of_what_was_trained_beside_a_run(tmp_path):
    """One of several that took 3 s in all, a share each, may take all of them again alone."""
    run = SHORT[0].but(iterations=10, evaluate_every=10)
    nalu.sweep([run], "reference", store=tmp_path, progress=False)
    store = Store(tmp_path)
    kept = runs.in_store(run, "reference", store)
    store.add([replace(kept, seconds=3 / runs.SIDE_BY_SIDE["reference"])])
    assert len(runs.verify(Store(tmp_path), 1, seconds=2)) == 0
    assert len(runs.verify(Store(tmp_path), 1, seconds=4)) == 1


PEAK = """
import resource
import sys
import nalu
from nalu.experiments import simple_multiplication
runs = simple_multiplication(seeds=range(int(sys.argv[2])), models=["NMU"], iterations=1000)
print(len(nalu.sweep(runs, store=sys.argv[1], progress=False)))
try:  # in kB; elsewhere than on Linux in bytes, and there not that of the parent
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
except FileNotFoundError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_sweep_of_1000_runs_needs_less_than_500_mb(tmp_path):
    """Of a process of its own, that finds the loop compiled: compiling takes 600 MB, once."""
    for count in (1, 1000):
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 1000
    assert kilobytes < 500_000


def test_a_sweep_leaves_the_number_of_threads_as_it_was(tmp_path, monkeypatch):
    compute, threads = runs.compute, torch.get_num_threads()

    def with_one_thread(*arguments):
        torch.set_num_threads(1)
        return compute(*arguments)

    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(runs, "compute", with_one_thread)
        nalu.sweep(SHORT[:1], store=tmp_path, progress=False)
        with ThreadPoolExecutor(1) as pool:  # a thread begins with the number that was set last
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(threads)
