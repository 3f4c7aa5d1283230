"""The engine for GPUs against the reference; without a GPU, in Triton's interpreter.

Triton decides when it is imported whether kernels are compiled or interpreted, for the whole
process. So without a GPU every call of the engine is made in a worker process that is born with
TRITON_INTERPRET=1, and this process and its other tests see nothing of it. Compilation for a
GPU needs none, and has a worker that is born without that variable. With a GPU the same tests
run here, on the GPU.
"""

import itertools
import multiprocessing
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

import nalu
from nalu.experiments import MODELS
from nalu.runs import engine_for, together
from nalu.tasks.arithmetic import OPERATIONS, SimpleMultiplication, StaticFunction
from nalu.training import cuda, random, reference
from nalu.training.protocol import Draft, Final
from nalu.training.run import Run

triton = pytest.importorskip("triton", reason="Triton is built for Linux only")
tl = triton.language

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SHARP = {"draft": Draft(strength=1.0, rate=0.1), "final": Final(strength=1.0, start=0, end=50)}
SMALL = StaticFunction("mul", input_size=10, extrapolation=(1, 6))
RANGES = {"interpolation": (-2, 2), "extrapolation": ((-6, -2), (2, 6))}
RUN = Run(("NAU", "NMU"), SMALL, "draft", 9, seed=3, evaluate_every=5, batch_size=32)


def worker(**environment: str):
    """A process of its own, born with these variables."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with mock.patch.dict(os.environ, environment):
        pool.submit(int).result()
    return pool


@pytest.fixture(scope="module")
def engine():
    """An executor for functions of this file and of the engine."""
    with ThreadPoolExecutor(1) if GPU else worker(TRITON_INTERPRET="1") as pool:
        yield pool


@pytest.fixture(scope="module")
def compiler():
    """An executor where kernels are compiled, and which sees no GPU where there is one."""
    with worker(TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="") as pool:
        yield pool


def distance(log, truth) -> float:
    return np.abs(log.parameters - truth.parameters).max() / np.abs(truth.parameters).max()


def agree(engine, runs, train=cuda.train) -> None:
    """As far from the truth, the reference in float64, as PyTorch's own float32."""
    trained = engine.submit(train, runs)
    truths = [reference.train([run], dtype=torch.float64, device="cpu")[0] for run in runs]
    singles = [reference.train([run], device="cpu")[0] for run in runs]
    for run, log, truth, single in zip(runs, trained.result(), truths, singles, strict=True):
        assert log.diverged_at == truth.diverged_at
        np.testing.assert_array_equal(log["step"], truth["step"])
        assert distance(log, truth) < 1e-6 + 10 * distance(single, truth), run
        for name in ("interpolation_error", "extrapolation_error", "sparsity_error"):
            measured, right = log[name], truth[name]
            rounding = 1e-4 + 10 * np.abs(single[name] / right - 1).max(initial=0)
            np.testing.assert_allclose(measured, right, rtol=rounding, atol=1e-7, err_msg=run)


@pytest.mark.parametrize("protocol", ["draft", "final"])
@pytest.mark.parametrize("steps", [1, 10, 100] if GPU else [1, 10])
def test_every_model_and_operation_after_steps(engine, steps, protocol):
    """The operations by turns: there are more models. A hundred steps are long if interpreted."""
    models = [model for model, layers in MODELS.items() if set(layers) <= set(cuda.KINDS)]
    pairs = zip(models, itertools.cycle(OPERATIONS), strict=False)
    agree(
        engine,
        [
            RUN.but(
                layers=MODELS[model],
                model="",
                task=StaticFunction(operation, input_size=8, extrapolation=(1, 6)),
                protocol=protocol,
                iterations=steps - 1,
                evaluate_every=50,
            )
            for model, operation in pairs
        ],
    )


@pytest.mark.engines
@pytest.mark.parametrize("first", cuda.KINDS)
def test_every_pair_of_layers_with_sharp_regularisers(engine, first):
    """3 steps, with one partner 10; the protocols by turns, which matters to NAU and NMU only."""
    names, protocols = list(cuda.KINDS), itertools.cycle(SHARP.values())
    partner = names[names.index(first) - 1]
    runs = [RUN.but(layers=(first, name), protocol=next(protocols)) for name in names]
    agree(engine, [run if run.layers[1] == partner else run.but(iterations=2) for run in runs])


@pytest.mark.parametrize("protocol", SHARP)
def test_parameters_at_and_beyond_their_bounds(engine, protocol):
    layers = [("NAU", "NMU"), ("NMU", "NAU")]
    runs = [
        RUN.but(layers=pair, protocol=SHARP[protocol], learning_rate=0.3, iterations=5)
        for pair in layers
    ]
    truth = [reference.train([r], dtype=torch.float64, device="cpu")[0].parameters for r in runs]
    truth = np.concatenate(truth)
    assert (np.abs(truth) > 1).any() == (protocol == "draft")
    assert np.isin(truth, [-1, 0, 1]).any() == (protocol == "final")
    agree(engine, runs)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": SimpleMultiplication()},
        {"task": StaticFunction("sub", input_size=101, overlap_ratio=0.0)},
        {"task": StaticFunction("mul", 10, **RANGES)},
        {"task": StaticFunction("mul", 10, interpolation=((-2, -1), (1, 2), (3, 4)))},
        {"task": StaticFunction("mul", 10, interpolation=(0.1, 0.2), extrapolation=(0.2, 2))},
        {"hidden_size": 1},
        {"hidden_size": 7},
        {"batch_size": 1},
        {"batch_size": 300},
        {"seed": 2**31 + 12345},
    ],
    ids=str,
)
def test_every_parameter_of_a_run(engine, changes):
    run = RUN.but(iterations=3, evaluate_every=3)
    agree(engine, [run.but(layers=MODELS[m], model="", **changes) for m in ("NMU", "NALU")])


def in_tiles(runs):
    """Train in tiles of 8 rows and evaluate in tiles of 512; the interpreter takes all at once."""
    whole = cuda.shape_of
    with mock.patch.object(cuda, "shape_of", lambda run: whole(run) | {"R": 8, "SCORED": 512}):
        return cuda.train(runs)


def test_a_batch_in_several_tiles_the_last_one_not_full(engine):
    run = RUN.but(batch_size=20, iterations=3)
    pairs = [("NAU", "NMU"), ("NALU", "NALU (separate)"), ("ReLU", "Linear"), ("NMU", "NACMul")]
    agree(engine, [run.but(layers=layers, model="") for layers in pairs], in_tiles)


@triton.jit
def draw(out, k0, k1, purpose: tl.constexpr, step, ROWS: tl.constexpr, QUADS: tl.constexpr):
    rows, quads = tl.arange(0, ROWS), tl.arange(0, QUADS)
    k0, k1 = k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True)
    w = cuda.words(purpose, step, rows.to(tl.uint32), quads.to(tl.uint32), k0, k1)
    position = tl.arange(0, 4 * QUADS)
    column = 4 * (position % QUADS) + position // QUADS
    tl.store(out + rows[None, :] * (4 * QUADS) + column[:, None], w.to(tl.int32, bitcast=True))


@triton.jit
def apply(x, out, FUNCTION: tl.constexpr, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    y = tl.load(x + at)
    if FUNCTION == 0:
        y = cuda.exp(y)
    elif FUNCTION == 1:
        y = cuda.log(y)
    elif FUNCTION == 2:
        y = cuda.tanh(y)
    else:
        y = cuda.sigmoid(y)
    tl.store(out + at, y)


def applied(function, x):
    given = torch.from_numpy(x).to(DEVICE)
    out = torch.empty_like(given)
    apply[(1,)](given, out, function, len(x))
    return out.cpu().numpy()


@pytest.mark.parametrize(
    ("function", "exact", "low", "high", "edges"),
    [
        (0, np.exp, -86, 88, {0: 1, 200: np.inf, -200: 0, np.inf: np.inf, -np.inf: 0}),
        (1, np.log, 1e-7, 1e3, {1: 0, np.inf: np.inf}),
        (2, np.tanh, -12, 12, {0: 0, np.inf: 1, -np.inf: -1, 1e30: 1}),
        (3, lambda x: 1 / (1 + np.exp(-x)), -80, 80, {0: 0.5, np.inf: 1, -np.inf: 0}),
    ],
    ids=["exp", "log", "tanh", "sigmoid"],
)
def test_elementary_functions(engine, function, exact, low, high, edges):
    """Within three units in the last place, and right at the edges."""
    x = np.linspace(low, high, 1 << 16, dtype=np.float32)
    x[::2] = np.geomspace(1e-7, high, 1 << 15, dtype=np.float32)
    y = exact(x.astype(np.float64))
    ulp = np.spacing(np.abs(y).astype(np.float32))
    assert (np.abs(engine.submit(applied, function, x).result() - y) / ulp).max() < 3
    x = np.array([*edges, *[np.nan] * (8 - len(edges))], dtype=np.float32)
    y = np.array([*edges.values(), *[np.nan] * (8 - len(edges))], dtype=np.float32)
    np.testing.assert_array_equal(engine.submit(applied, function, x).result(), y)


def drawn(seed, purpose, step, rows, quads):
    """The words of the kernel's stream, (rows, 4 quads)."""
    out = torch.zeros(rows, 4 * quads, dtype=torch.int32, device=DEVICE)
    low, high = np.array([seed & random.MASK, seed >> 32], dtype=np.uint32).view(np.int32)
    draw[(1,)](out, int(low), int(high), purpose, step, rows, quads)
    return out.cpu().numpy().view(np.uint32)


@pytest.mark.parametrize(
    ("seed", "purpose", "step"), [(0, 0, 0), (7, 4, 5), (2**62 + 12345, 2, 2**31 - 1)]
)
def test_words_are_those_of_the_stream(engine, seed, purpose, step):
    words = random.words(torch.tensor([seed]), purpose, step, 64, 32)[0]
    np.testing.assert_array_equal(
        engine.submit(drawn, seed, purpose, step, 64, 8).result(), words.numpy()
    )


def test_inputs_that_are_zero_and_factors_that_are_zero(engine):
    """Of an NMU at W = 1, whose factors are its inputs; a ReLU gives exact zeros."""
    task = StaticFunction("mul", 4, subset_ratio=0.5, interpolation=(-1, 1))
    runs = [
        RUN.but(layers=("ReLU", second), task=task, learning_rate=0.5, iterations=3, seed=seed)
        for second in ("NMU", "NACMul", "NALU")
        for seed in range(2)
    ]
    agree(engine, runs)


def same(one, other) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.parameters, other.parameters)


def test_a_run_is_the_same_to_the_bit_whatever_runs_beside_it(engine):
    alone = engine.submit(cuda.train, [RUN]).result()[0]
    others = [RUN.but(seed=seed) for seed in range(3)]
    elsewhere = replace(SMALL, interpolation=(3, 4), extrapolation=(4, 9), overlap_ratio=0.0)
    others.insert(0, RUN.but(task=elsewhere))
    assert len(set(map(cuda.beside, [*others, RUN]))) == 1
    others.insert(1, RUN.but(layers=("NALU", "NALU"), model=""))
    logs = engine.submit(cuda.train, [*others, RUN]).result()
    assert same(alone, logs[-1])
    assert not same(alone, logs[0])


def test_only_the_runs_that_diverge_end(engine):
    """100 factors of two NMU layers are more than float32 holds, in some at once, in some later."""
    task = StaticFunction("mul", 92)
    runs = [
        Run(("NMU", "NMU"), task, "draft", 20, seed, evaluate_every=10) for seed in (0, 2, 4, 5)
    ]
    truth = reference.train(runs, device="cpu")
    steps = [log.diverged_at for log in truth]
    assert None in steps
    assert len(set(steps)) > 2
    logs = engine.submit(cuda.train, runs).result()
    assert [log.diverged_at for log in logs] == steps
    for log, right in zip(logs, truth, strict=True):
        np.testing.assert_array_equal(log["step"], right["step"])
        assert np.isfinite(log.parameters).all()


def ticks(run):
    counted = []
    cuda.train([run, run.but(seed=1)], counted.append)
    return counted


def test_ticks_count_every_step_once(engine):
    run = RUN.but(task=SimpleMultiplication(), iterations=12)
    assert engine.submit(ticks, run).result() == [10, 10, 6, 0]
    diverging = Run(("NMU", "NMU"), StaticFunction(), "draft", 50, 0, evaluate_every=10)
    assert sum(engine.submit(ticks, diverging).result()) == 102


def test_the_engine_says_which_runs_it_does_not_serve(engine):
    authors = RUN.but(stream="authors")
    with pytest.raises(ValueError, match="has no stream 'authors': use engine 'auto'"):
        engine.submit(cuda.train, [authors]).result()
    unknown = RUN.but(layers=("NAC", "NACMulSigma"))
    with pytest.raises(ValueError, match="has no layer NACMulSigma: use engine"):
        engine.submit(cuda.train, [unknown]).result()
    large = RUN.but(hidden_size=10_000)
    with pytest.raises(ValueError, match="10000 hidden units"):
        engine.submit(cuda.train, [large]).result()
    assert engine.submit(cuda.objection, RUN).result() == ""


def swept(runs, store):
    return nalu.sweep(runs, engine="auto", store=store, progress=False)


def test_a_sweep_takes_this_engine_where_it_serves(engine, tmp_path):
    runs = [RUN.but(iterations=0, seed=seed) for seed in range(2)]
    table = engine.submit(swept, runs, tmp_path / "runs").result()
    assert list(table["engine"]) == ["cuda", "cuda"]
    assert together([runs[0], RUN, runs[1]], "cuda") == [runs, [RUN]]


def test_without_a_device_the_engine_serves_nothing(compiler):
    assert compiler.submit(cuda.objection, RUN).result() == "finds no CUDA device"
    assert compiler.submit(engine_for, RUN).result() == "cpu"
    with pytest.raises(ValueError, match="no CUDA device: use engine 'auto'"):
        compiler.submit(cuda.train, [RUN]).result()


def compiled(run):
    """Registers a thread, and bytes of its stack, of the run's kernel on an H100."""
    shape = cuda.shape_of(run)
    types = ["*fp32", "*i32", "*fp32", "*fp32", "*fp64", "*i32", "i32", "i32", "i32"]
    signature = dict(zip(cuda.kernel.arg_names, types, strict=False))
    signature |= dict.fromkeys(shape, "constexpr")
    source = triton.compiler.ASTSource(cuda.kernel, signature, shape)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    binary = triton.compile(source, target=target, options=cuda.options_for(shape))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}


def test_the_kernel_compiles_for_an_h100_and_its_numbers_stay_in_registers(compiler):
    """Ahead of time, so also without a GPU."""
    used = compiler.submit(compiled, Run(("NAU", "NMU"), StaticFunction())).result()
    assert used["REG"] <= 255
    assert used["STACK"] == 0
    assert used["LOCAL"] == 0
