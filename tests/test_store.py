"""Records: whole, unchanged and the right one, or not used."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nalu import store as store_module
from nalu.evaluation import score
from nalu.runs import compute, run_in
from nalu.store import DamagedRecord, Record, Store, kept_rows, pack, without_curve
from nalu.tasks.arithmetic import SimpleMultiplication
from nalu.training.run import Log, Run

RUN = Run(("NAU", "NMU"), SimpleMultiplication(), "draft", 3000, seed=1)


@pytest.fixture(scope="module")
def records():
    return [compute([RUN.but(seed=seed)], "cpu")[0] for seed in (1, 2, 3)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "own", [tmp_path / "recorded"])


def same(back, record):
    """Equal also where a score is NaN: the checksum covers all."""
    return back.kind == record.kind and back.own() | {"score": 0} == record.own() | {"score": 0}


def reopened(store):
    return Store(store.folder, store.recorded)


def test_a_record_comes_back_as_it_was(store, records):
    assert store.get(records[0].key) is None
    store.add(records[:1])
    for seen in (store, reopened(store)):
        back = seen.get(records[0].key)
        assert same(back, records[0])
        assert run_in(back) == RUN
        assert list(back.curve[:, 0]) == [0, 1000, 2000, 3000]
        assert back.seconds > 0
        assert {"device", "date", "commit", "torch", "numba"} <= back.provenance.keys()
        assert list(seen.keys()) == [records[0].key]
    assert records[0].key == f"{RUN.kind('cpu')}-1"


def test_records_of_a_kind_share_a_file_and_what_they_have_in_common(store, records):
    store.add(records[:2])
    store.add(records[2:])
    (file,) = store.folder.iterdir()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert ["seed" in line for line in lines] == [False, True, True, False, True]
    assert lines[0]["specification"]["layers"] == ["NAU", "NMU"]
    assert all(same(reopened(store).get(r.key), r) for r in records)


def test_values_that_are_not_finite_survive(store, records):
    rows = np.array([[0, 1.0, np.inf, 0.5], [1000, np.nan, 1e300, 0.5]])
    odd = Log(RUN.columns(), rows, 1017, np.zeros(3))
    record = Record.of(RUN, "cpu", odd, score(RUN, odd)._asdict(), {}, 1.0)
    store.add([record])
    back = reopened(store).get(record.key)
    assert back.diverged_at == 1017
    np.testing.assert_array_equal(back.curve[:, 1], [1, np.nan])
    np.testing.assert_array_equal(back.curve[:, 2], [np.inf, np.inf])
    assert np.isnan(back.score["solved_at"])


def test_recorded_runs_are_read_first_and_never_written(tmp_path, store, records):
    Store(tmp_path / "recorded").add(records[:1])
    (file,) = (tmp_path / "recorded").iterdir()
    file.chmod(0o444)
    before = file.read_bytes()
    store.add([Record(**{**vars(records[0]), "seconds": 17.0}), records[1]])
    again = reopened(store)
    assert again.get(records[0].key).seconds == records[0].seconds
    assert set(again.keys()) == {records[0].key, records[1].key}
    assert len(list(again.keys())) == 2
    assert file.read_bytes() == before


def test_a_record_without_its_curve_serves_where_none_is_asked_for(tmp_path, store, records):
    Store(tmp_path / "recorded").add([without_curve(records[0])])
    assert not store.get(records[0].key).packed
    assert store.get(records[0].key, with_curve=True) is None
    store.add(records[:1])
    assert same(store.get(records[0].key, with_curve=True), records[0])


def truncated(line):
    return line[: len(line) // 2]


def altered(line):
    return line.replace(b'"solved": false', b'"solved": true')


def of_another_seed(line):
    return line.replace(b'"seed": 2', b'"seed": 5')


DAMAGE = [truncated, altered, of_another_seed, lambda t: b"[]", lambda t: b"{", lambda t: b"\xff"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_reported_and_not_used_and_the_others_are(store, records, damage):
    store.add(records)
    (file,) = store.folder.iterdir()
    lines = file.read_bytes().split(b"\n")
    assert damage(lines[3]) != lines[3]
    lines[3] = damage(lines[3])
    file.write_bytes(b"\n".join(lines))
    with pytest.warns(DamagedRecord, match=r"line 4 of .*delete the line"):
        assert reopened(store).get(records[1].key) is None
    with pytest.warns(DamagedRecord):
        assert set(reopened(store).keys()) == {records[0].key, records[2].key}


def test_a_line_that_another_process_is_writing_is_waited_for(store, records):
    store.add(records)
    (file,) = store.folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    writer = threading.Timer(0.03, file.write_bytes, [whole])
    writer.start()
    assert len(list(reopened(store).keys())) == len(records)
    writer.join()


def test_what_records_share_is_under_their_checksums(store, records):
    store.add(records)
    (file,) = store.folder.iterdir()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"learning_rate": 0.001', '"learning_rate": 0.01'))
    with pytest.warns(DamagedRecord):
        assert list(reopened(store).keys()) == []


def test_a_write_that_was_cut_short_loses_one_record(store, records):
    """As when the disk is full or the power fails, and the sweep is started again."""
    store.add(records[:1])
    (file,) = store.folder.iterdir()
    with file.open("ab") as unfinished:
        unfinished.write(b'\n{"seed": 2, "sco')
    again = reopened(store)
    with pytest.warns(DamagedRecord):
        again.add(records[1:])
    after = reopened(store)
    with pytest.warns(DamagedRecord):
        assert same(after.get(records[0].key), records[0])
    assert all(same(after.get(record.key), record) for record in records[1:])


def test_a_long_log_is_thinned_to_what_scores_and_figures_need():
    rng = np.random.default_rng(0)
    table = np.column_stack([np.arange(5001) * 1000, rng.random((5001, 3)) + 1]).astype("<f4")
    table[1234, 1], table[4950, 1], table[777, 1] = 0.1, 0.2, np.nan
    kept = kept_rows(table, {"solved_at": 77_000.0})
    assert {0, 5000, 1234, 4950, 77, *range(4901, 5001)} <= set(kept)
    assert len(kept) <= store_module.EVENLY + store_module.LAST + 4
    assert np.diff(kept).min() > 0
    assert np.diff(kept).max() <= 25
    short = table[:201]
    assert list(kept_rows(short, {})) == list(range(201))
    assert len(kept_rows(table[:0], {})) == 0


def test_a_packed_curve_has_its_shape(records):
    table = np.arange(12, dtype="<f4").reshape(4, 3)
    record = Record(**{**vars(records[0]), "packed": pack(table)})
    np.testing.assert_array_equal(record.curve, table)


def test_a_record_that_was_not_written_whole_is_an_error(store, records):
    """As on a full disk: the file system takes a part and says how much."""
    store.add(records[:1])
    (file,) = store.folder.iterdir()
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, size[1]))
    try:
        with pytest.raises(OSError, match=r"only 20 of \d+ bytes were added to"):
            store.add(records[1:2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        signal.signal(signal.SIGXFSZ, ignored)
    assert store.get(records[1].key) is None
    with pytest.warns(DamagedRecord):
        assert reopened(store).get(records[1].key) is None


def test_parameters_of_two_machines_are_in_two_files(store, records):
    mine, other = (
        replace(records[0], parameters=p, parameters_digest=store_module.digest(p))
        for p in (np.ones(3, np.float32), np.zeros(3, np.float32))
    )
    store.add([mine])
    store.add([other])
    assert np.array_equal(store.parameters(mine), mine.parameters)
    assert np.array_equal(store.parameters(other), other.parameters)


def git(folder, *arguments):
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit_in(folder, code="pass"):
    """What a process says that runs a copy of the package there."""
    command = [sys.executable, "-c", f"from nalu import store; {code}; print(store.commit())"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_code_that_was_imported(tmp_path):
    package = Path(store_module.__file__).parent
    shutil.copytree(package, tmp_path / "nalu", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__\nignored\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    first = git(tmp_path, "rev-parse", "HEAD").strip()
    later = (
        "import os; open('nalu/new.py', 'w').close(); os.system('git add .');"
        "os.system('git -c user.name=A -c user.email=a commit --quiet -m later')"
    )
    assert commit_in(tmp_path, later) == first != git(tmp_path, "rev-parse", "HEAD").strip()
    copy = tmp_path / "ignored"
    shutil.copytree(tmp_path / "nalu", copy / "nalu")
    assert commit_in(copy) == ""  # and not that of the project around it
