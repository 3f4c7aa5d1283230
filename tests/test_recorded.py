"""The runs recorded with the project: whole, of committed code, and what the pages show."""

import re
import subprocess

import numpy as np
import pytest

from nalu.runs import run_of, verify
from nalu.store import RECORDED, Store


@pytest.fixture(scope="module")
def recorded():
    return Store(RECORDED)


def test_every_record_is_whole_and_is_filed_under_its_run(recorded):
    """A damaged one is a warning, and so fails here."""
    keys = list(recorded.keys())
    assert len(keys) > 600
    for record in map(recorded.get, keys):
        assert run_of(record).key(record.engine) == record.key
        assert np.isfinite(record.seconds)
        assert record.seconds > 0


def test_every_record_names_the_commit_that_computed_it(recorded):
    named = {record.provenance["commit"] for record in map(recorded.get, recorded.keys())}
    commits = {commit for several in named for commit in several.split(" then ")}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)
    log = ["git", "-C", str(RECORDED), "rev-list", "HEAD"]
    history = subprocess.run(log, capture_output=True, text=True, check=True).stdout.split()
    if len(history) > 1:  # a shallow clone has the last one only
        assert commits <= set(history)


def test_records_stay_small():
    assert sum(file.stat().st_size for file in RECORDED.iterdir()) < 50e6


@pytest.mark.parametrize("seed", [0, 1])
def test_short_runs_computed_again_are_the_same(recorded, seed):
    """Any machine must come to the same score; to the same bits only one like the recording's."""
    table = verify(recorded, sample=3, seed=seed, seconds=10)
    assert len(table) == 3
    assert set(table.result) <= {"identical", "same score"}


def test_pages_with_their_defaults_show_recorded_runs(site, cache):
    """Nothing was computed into the cache while the book was built."""
    assert list(Store(cache / "runs").keys()) == []
