"""Records: whole, unchanged and the right one, or not used."""

import json
import os

import numpy as np
import pytest

from nalu.runs import compute
from nalu.store import DamagedRecord, Record, Store, pack
from nalu.tasks.arithmetic import SimpleMultiplication
from nalu.training.run import Run

RUN = Run(("NAU", "NMU"), SimpleMultiplication(), "draft", 3000, seed=1)


@pytest.fixture(scope="module")
def record():
    return compute([RUN], "cpu")[0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "own", [tmp_path / "recorded"])


def test_a_record_comes_back_as_it_was(store, record):
    assert store.get(record.key) is None
    store.put(record)
    back = store.get(record.key)
    assert (back.key, back.engine, back.packed) == (record.key, "cpu", record.packed)
    np.testing.assert_array_equal(back.score, record.score)
    assert Run.from_specification(back.specification) == RUN
    assert list(back.log[:, 0]) == [0, 1000, 2000, 3000]
    assert {"device", "seconds", "date", "torch", "numba"} <= back.provenance.keys()
    assert list(store.keys()) == [record.key]


def test_values_that_are_not_finite_survive(store, record):
    log = record.log.astype(float)
    log[1, 1:] = np.nan, np.inf, 1e300
    odd = Record(**{**vars(record), "packed": pack(log), "diverged_at": 17})
    store.put(odd)
    back = store.get(odd.key)
    assert back.diverged_at == 17
    np.testing.assert_array_equal(back.log[1, 1:], [np.nan, np.inf, np.inf])


def test_recorded_runs_are_read_first_and_never_written(tmp_path, store, record):
    Store(tmp_path / "recorded").put(record)
    file = tmp_path / "recorded" / f"{record.key}.json"
    file.chmod(0o444)
    before = file.read_bytes()
    store.put(Record(**{**vars(record), "engine": "other"}))
    assert store.get(record.key).engine == "cpu"
    assert file.read_bytes() == before


def truncated(text):
    return text[: len(text) // 2]


def altered(text):
    return text.replace('"solved": false', '"solved": true')


def of_another_run(text):
    return Record(**{**vars(Record.from_text(text, RUN.key("cpu"))), "key": "0" * 32}).to_text()


@pytest.mark.parametrize(
    "damage", [truncated, altered, of_another_run, lambda t: "", lambda t: "[]", lambda t: "{}"]
)
def test_a_damaged_record_is_reported_and_not_used(store, record, damage):
    store.put(record)
    file = store.folder / f"{record.key}.json"
    text = file.read_text(encoding="utf-8")
    assert damage(text) != text
    file.write_text(damage(text), encoding="utf-8")
    with pytest.warns(DamagedRecord, match=record.key):
        assert store.get(record.key) is None


def test_bytes_that_are_no_text_are_damage_too(store, record):
    store.put(record)
    (store.folder / f"{record.key}.json").write_bytes(b"\xff\xfe\x00")
    with pytest.warns(DamagedRecord):
        assert store.get(record.key) is None


def test_a_write_that_fails_leaves_nothing(store, record, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store.put(record)
    assert list(store.folder.iterdir()) == []


def test_a_record_is_readable_text(store, record):
    store.put(record)
    content = json.loads((store.folder / f"{record.key}.json").read_text(encoding="utf-8"))
    assert content["specification"]["layers"] == ["NAU", "NMU"]
    assert content["specification"]["protocol"]["name"] == "draft"
