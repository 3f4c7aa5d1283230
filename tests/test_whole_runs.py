"""Whole runs of the simple task: the engines agree on what is solved, and when."""

import numpy as np
import pytest
import torch
from scipy import stats

import nalu
from nalu.experiments import simple_multiplication

pytestmark = pytest.mark.engines

SEEDS, INTERVAL = 100, 100
FAST = {"iterations": 6_500, "learning_rate": 5e-3, "evaluate_every": INTERVAL}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Five times the paper's learning rate solves runs sooner: 40 s for the reference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    specs = simple_multiplication(seeds=range(SEEDS), models=["NMU"], **FAST)
    folder = tmp_path_factory.mktemp("store")
    yield [nalu.sweep(specs, engine, folder, progress=False) for engine in ("cpu", "reference")]
    torch.set_num_threads(threads)


def test_the_same_seeds_are_solved(tables):
    """Data and initial parameters are equal, so only rounding can change an outcome.

    At most 2 of 100 seeds may differ. Were an engine wrong in a way that changes an outcome
    with probability 0.08, more would with power 0.99 (binomial); 0.05, with 0.88.
    """
    cpu, reference = (table.solved for table in tables)
    assert 0.5 < reference.mean() < 0.9
    assert (cpu != reference).sum() <= 2


def test_they_are_solved_at_the_same_steps(tables):
    """In distribution by a Kolmogorov-Smirnov test at 10⁻³, and seed by seed in the median.

    The power of the first, from 2000 pairs of samples drawn with replacement from the 72 steps
    found here (mean 4640, sd 1320): 0.91 for a shift by half a standard deviation, 0.98 for an
    engine that needs 15 % more steps. Any shift above one evaluation moves the second.
    """
    cpu, reference = (table.solved_at.dropna() for table in tables)
    assert stats.ks_2samp(cpu, reference).pvalue > 1e-3
    both = tables[0].solved & tables[1].solved
    assert np.median((cpu[both] - reference[both]).abs()) <= INTERVAL


def test_success_and_speed_are_the_papers(tmp_path):
    """Draft Table 1 has 94 % of 100 seeds, solved at 15 766 on average (real steps).

    The sd is 2.4 % for the rate and, for the spread found here, 1900 steps for the mean. A rate
    of 79 % is found with power 0.9 (binomial), a mean of 24 000 with power 0.9 (normal).
    """
    specs = simple_multiplication(seeds=range(SEEDS), models=["NMU"])
    table = nalu.sweep(specs, store=tmp_path, progress=False)
    assert table.solved.mean() > 0.94 - 4 * 0.024
    assert abs(table.solved_at.mean() - 15_766) < 3 * 1900
    assert table.sparsity_error[table.solved].mean() < 1e-4


@pytest.mark.parametrize("model", ["NACMul", "NALU", "NMU"])
def test_engines_agree_on_recorded_runs_of_the_paper(model):
    """30 seeds of 200,000 steps: at most 3 solved by one engine only, and solved at like times.

    Were an engine wrong in a way that changes an outcome with probability 0.3, more than 3 would
    differ with power 0.99 (binomial); 0.2, with 0.88.
    """
    specs = simple_multiplication(seeds=range(30), models=[model])
    tables = [nalu.sweep(specs, engine, progress=False) for engine in ("cpu", "reference")]
    assert (tables[0].solved != tables[1].solved).sum() <= 3
    both = tables[0].solved & tables[1].solved
    assert both.sum() >= 3
    ratio = tables[0].solved_at[both] / tables[1].solved_at[both]
    assert abs(np.log(ratio.median())) < np.log(1.1)
