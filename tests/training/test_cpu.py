"""The compiled engine by itself: gradients, reproducibility, divergence."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from nalu.tasks.arithmetic import SimpleMultiplication, StaticFunction
from nalu.training import cpu, elementary, layers, random, reference
from nalu.training.protocol import Optimizer
from nalu.training.random import BLOCK
from nalu.training.run import LAYERS, Run

NMU_RUN = Run(("NAU", "NMU"), StaticFunction(extrapolation=(1, 6)), "draft", 3000)


def engine_gradients(name, unit, x, dz):
    """Output and gradients of one layer for x, (BLOCK, in), and dL/dz, (BLOCK, out)."""
    p = torch.nn.utils.parameters_to_vector(unit.parameters()).detach().numpy()
    layer = layers.layer_of(name, p, np.zeros_like(p), dz.shape[1], x.shape[1])
    columns = np.ascontiguousarray(x.T)
    dx = np.zeros_like(columns)
    layers.construct(layer)
    layers.forward(layer, columns)
    z = layer.z.T.copy()
    layer.dz[:] = dz.T
    layers.backward(layer, columns, dx)
    layers.pull_back(layer)
    return z, dx.T, layer.g


@pytest.mark.parametrize("place", [(0, 0), (0, -1), (1, 0), (1, -1)])
def test_a_sparsity_error_that_is_nan_is_not_lost_among_numbers(place):
    both = []
    for _ in range(2):
        p = np.full(15, 0.3)
        both.append(layers.layer_of("Linear", p, np.zeros_like(p), 3, 5))
    which, weight = place
    for layer in both:
        layers.construct(layer)
    assert cpu.sparsity_error(tuple(both)) == pytest.approx(0.3)
    both[which].e[0].reshape(-1)[weight] = np.nan
    assert np.isnan(cpu.sparsity_error(tuple(both)))


@pytest.mark.parametrize("name", layers.KINDS)
def test_hand_written_gradients_of_every_unit(name):
    """With inputs that are zero and negative, and for NMU factors that are zero."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    unit = LAYERS[name](5, 3).double()
    x = torch.randn(BLOCK, 5, dtype=torch.float64, generator=generator)
    x[0] = 0
    x[1, :2] = 0
    if name == "NMU":
        with torch.no_grad():
            unit.w_hat[0] = 1.0  # so W x + 1 - W is 0 where x is
    dz = torch.randn(BLOCK, 3, dtype=torch.float64, generator=generator)
    z, dx, gradients = engine_gradients(name, unit, x.numpy(), dz.numpy())
    x.requires_grad_()
    right = unit(x)
    right.backward(dz)
    np.testing.assert_allclose(z, right.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, x.grad, rtol=1e-10, atol=1e-10)
    expected = torch.cat([p.grad.flatten() for p in unit.parameters()])
    np.testing.assert_allclose(gradients, expected, rtol=1e-10, atol=1e-10)


def same(one, other) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.parameters, other.parameters)


def test_a_run_is_the_same_to_the_bit_whatever_runs_beside_it():
    alone = cpu.train([NMU_RUN])[0]
    others = [NMU_RUN.but(seed=seed, layers=("NALU", "NALU")) for seed in range(3)]
    with ThreadPoolExecutor(4) as pool:
        logs = list(pool.map(lambda run: cpu.train([run])[0], [*others, NMU_RUN]))
    assert same(alone, logs[-1])
    assert not same(alone, cpu.train([NMU_RUN.but(seed=1)])[0])


def test_training_does_not_hold_the_interpreter():
    """While a run of about half a second trains, this thread goes on counting."""
    counted = 0
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(cpu.train, [NMU_RUN.but(iterations=60_000)])
        while not training.done():
            time.sleep(0.005)
            counted += 1
    assert training.result()[0].diverged_at is None
    assert counted > 20


def test_ticks_count_every_step_once():
    ticks = []
    cpu.train([NMU_RUN.but(iterations=41_234, task=SimpleMultiplication())], ticks.append)
    assert sum(ticks) == 41_235
    assert len(ticks) == 3


@pytest.mark.parametrize("engine", [cpu, reference])
def test_a_loss_that_is_not_finite_ends_the_run(engine):
    """100 factors of two NMU layers are more than float32 holds; a linear model is not."""
    run = Run(("NMU", "NMU"), StaticFunction(), "draft", 50, evaluate_every=10)
    ticks = []
    log = engine.train([run], ticks.append)[0]
    assert log.diverged_at == 0
    assert list(log["step"]) == [0]
    assert sum(ticks) == 51
    assert np.isfinite(log.parameters).all()
    assert engine.train([run.but(layers=("Linear", "Linear"))])[0].diverged_at is None


def test_only_the_runs_that_diverge_end():
    """Some of these do, at different steps: the same in both engines, and as if alone."""
    task = StaticFunction("mul", 92)
    runs = [
        Run(("NMU", "NMU"), task, "draft", 20, seed, evaluate_every=10) for seed in (0, 2, 4, 5)
    ]
    steps = [log.diverged_at for log in reference.train(runs)]
    assert None in steps
    assert len(set(steps)) > 2
    assert steps == [log.diverged_at for log in cpu.train(runs)]
    assert steps == [reference.train([run])[0].diverged_at for run in runs]


def test_the_compiled_loop_is_cached_under_all_its_sources():
    """Numba's key has what ``advance`` closes over; a file that is not in it would go stale."""
    assert cpu.advance.py_func.__closure__[0].cell_contents == cpu.digest(*cpu.SOURCES)
    digests = {cpu.digest(name) for name in cpu.SOURCES}
    assert len(digests) == len(cpu.SOURCES)
    for module in (cpu, layers, random, elementary):
        assert Path(module.__file__).name in cpu.SOURCES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stream": "authors"}, "has no stream 'authors'"),
        ({"layers": ("NAC", "NACMulSigma")}, "has no layer NACMulSigma"),
        ({"layers": ("NAU",)}, "trains models of 2 layers, not of 1"),
        ({"layers": ("NAU", "NAU", "NMU")}, "trains models of 2 layers, not of 3"),
        ({"optimizer": Optimizer(clip_norm=1.0)}, "has no optimiser but Adam as it is"),
    ],
)
def test_the_engine_says_which_runs_it_does_not_serve(change, reason):
    run = NMU_RUN.but(**change)
    assert cpu.objection(run) == reason
    assert cpu.objection(NMU_RUN) == ""
    with pytest.raises(ValueError, match=f"{reason}: use engine 'auto'"):
        cpu.train([run])
