"""How fast the engines are here: ``python -m nalu bench``, with ``--of loops`` or ``sequences``.

Beside every engine stands the ratio to a plain PyTorch loop and to an arithmetic floor, the
time that the step's random words, multiply-adds, logarithms and exponentials take at the rates
this processor reaches when it does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numba import njit

from .experiments import EXTRAPOLATION, MODELS, sequential_mnist
from .runs import cores
from .store import processor
from .tasks.arithmetic import SimpleMultiplication, StaticFunction
from .tasks.mnist import load, normalised
from .training import cpu, cuda, generated, random, reference
from .training.elementary import log
from .training.protocol import input_penalty, prepare
from .training.random import BLOCK
from .training.run import Run
from .training.sequence_run import SequenceRun
from .training.sequences import Sequences

RECORDED = Path(__file__).parents[1] / "data"
BENCHED = ("NMU", "NACMul", "NALU", "NAU")
SEEDS = 50  # trained side by side by the reference engine
ON_GPU = 2_376  # trained side by side on a GPU: two for each place on an H100

# Matrices that a batch is multiplied by, and logarithms or exponentials taken of a matrix's
# inputs and outputs, in a unit: (products, functions of inputs, functions of outputs).
COSTS = {"Linear": (1, 0, 0), "NAC": (1, 0, 0), "NACMul": (1, 1, 1), "NALU": (3, 1, 2)}


def plain_loop(run: Run, steps: int) -> None:
    """One run as most people write it, on one core and without evaluations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for batches this small more threads are slower
    model = run.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate)
    regulariser = prepare(model, optimizer, run.protocol)
    (low, high), offset = run.task.interpolation[0], run.offset
    for step in range(steps):
        x = torch.empty(run.batch_size, run.task.input_size).uniform_(low, high)
        target = run.task.target(x, offset)
        loss = torch.nn.functional.mse_loss(model(x), target) + regulariser(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)


def on_all_cores(run: Run, steps: int) -> None:
    with ThreadPoolExecutor(cores()) as pool:
        runs = [run.but(iterations=steps - 1, seed=seed) for seed in range(cores())]
        list(pool.map(lambda run: cpu.train([run]), runs))


def contenders() -> dict[str, tuple[int, Callable[[Run, int], None]]]:
    """By name: how many runs are trained at once, and a function that does so many steps."""

    def side_by_side(run, steps):
        reference.train([run.but(iterations=steps - 1, seed=seed) for seed in range(SEEDS)])

    def on_the_gpu(run, steps):
        cuda.train([run.but(iterations=steps - 1, seed=seed) for seed in range(ON_GPU)])

    return {
        "plain PyTorch loop": (1, plain_loop),
        f"reference, {SEEDS} seeds": (SEEDS, side_by_side),
        "cpu, one core": (1, lambda run, steps: cpu.train([run.but(iterations=steps - 1)])),
        f"cpu, {cores()} cores": (cores(), on_all_cores),
        **({f"cuda, {ON_GPU} runs": (ON_GPU, on_the_gpu)} if cuda.available() else {}),
    }


def seconds_per_step(work: Callable[[int], None], seconds: float) -> float:
    """The best of three measurements that take about so many seconds in all, without set-up."""

    def taken(steps: int) -> float:
        begin = time.perf_counter()
        work(steps)
        return time.perf_counter() - begin

    work(1)  # which may compile
    setup = min(taken(1) for _ in range(3))
    steps, longest = 1, 0.0
    while longest < setup + seconds / 6:
        steps *= 4
        longest = taken(steps)
    return (min(longest, taken(steps), taken(steps)) - setup) / (steps - 1)


@njit
def _logarithms(x, y, repeats):
    for _ in range(repeats):
        for i in range(len(x)):
            y[i] = log(x[i])


@njit
def _words(x, seed, low, unit, repeats):
    for step in range(repeats):
        random.fill(x, seed, random.TRAINING, step, 0, BLOCK - 1, low, unit)


def rates() -> dict[str, float]:
    """Seconds on one core for a random word, a multiply-add, and a logarithm."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix, size = torch.rand(512, 512), 512**3
    product = seconds_per_step(lambda n: [matrix @ matrix for _ in range(n)], 0.6) / size
    torch.set_num_threads(threads)
    x, y = np.full(4096, 1.5, np.float32), np.empty(4096, np.float32)
    logarithm = seconds_per_step(lambda n: _logarithms(x, y, n), 0.6) / x.size
    block, (low, unit) = np.empty((100, BLOCK), np.float32), random.bounds([(1, 2)])
    word = seconds_per_step(lambda n: _words(block, 1, low, unit, n), 0.6) / block.size
    return {"word": word, "multiply-add": product, "logarithm": logarithm}


def floor(run: Run, rate: dict[str, float]) -> float:
    """Seconds a step cannot do without on one core: its arithmetic at full rate."""
    inputs, hidden = run.task.input_size, run.hidden_size
    words = run.batch_size * -(-inputs // 4) * 4
    products = functions = 0
    for name, i, o in zip(run.layers, (inputs, hidden), (hidden, 1), strict=True):
        matrices, of_inputs, of_outputs = COSTS.get(name, (1, 0, 0))
        passes = 2 if i == inputs else 3  # forward, and gradients of weights and of inputs
        products += run.batch_size * matrices * passes * i * o
        functions += run.batch_size * (of_inputs * i + of_outputs * o)
    total = words * rate["word"] + products * rate["multiply-add"]
    return total + functions * rate["logarithm"]


def rows(seconds: float, models: Iterable[str] | None = None) -> Iterator[dict]:
    """One row per task, model and contender, with about so many seconds spent on each."""
    rate = rates()
    for task in (
        StaticFunction("mul", extrapolation=EXTRAPOLATION["draft"]),
        SimpleMultiplication(extrapolation=EXTRAPOLATION["draft"]),
    ):
        for model in models or BENCHED:
            run = Run(MODELS[model], task, "draft", model=model)
            plain, least = None, floor(run, rate)
            for name, (at_once, work) in contenders().items():
                step = seconds_per_step(lambda n, w=work, r=run: w(r, n), seconds) / at_once
                plain = plain or step
                yield {
                    "task": f"{task.input_size} inputs",
                    "model": model,
                    "engine": name,
                    "steps·runs/s": round(1 / step),
                    "µs a step": round(step * 1e6, 2),
                    "times plain": round(plain / step, 1),
                    "floor, µs": round(least * 1e6, 2),
                    "times floor": round(step / least, 1) if "one core" in name else "",
                }


def loop_rows(seconds: float, models: Iterable[str] = ("NMU", "NACMul", "NALU")) -> Iterator[dict]:
    """One row per task and model: the loop that is printed beside the one written by hand."""
    ranges = {"extrapolation": EXTRAPOLATION["draft"]}
    single = StaticFunction("mul", 2, 0.5, 0.0, **ranges)
    for task, depth in (
        (single, 1),
        (SimpleMultiplication(**ranges), 2),
        (StaticFunction(**ranges), 2),
    ):
        for model in models:
            run = Run(MODELS[model][-depth:], task, "draft", model=model)
            begin = time.perf_counter()
            generated.train([run.but(iterations=0)])
            row = {
                "task": f"{task.input_size} inputs, {depth} layer{'s' * (depth > 1)}",
                "model": model,
                "first use, s": round(time.perf_counter() - begin, 1),
            }
            for name, engine in (("generated", generated), ("cpu", cpu)):
                work, served = partial(_steps, engine, run), not engine.objection(run)
                taken = seconds_per_step(work, seconds) if served else np.nan
                row[f"{name}, µs a step"] = round(taken * 1e6, 2)
            yield row


def _steps(engine, run: Run, steps: int) -> None:
    engine.train([run.but(iterations=steps - 1)])


def hours(runs: Iterable[Run], table: pd.DataFrame) -> float:
    """What runs of section 3.1 take on one core without evaluations, by a table of ``rows``.

    A step is between those of the two tasks, by the number of inputs; a model that was not
    measured has the NAU's.
    """
    one_core = table[table.engine == "cpu, one core"]
    steps = one_core.pivot(index="model", columns="task", values="µs a step")
    total = 0.0
    for run in runs:
        of = steps.loc[run.model if run.model in steps.index else "NAU"]
        share = (run.task.input_size - 4) / 96
        step = of["4 inputs"] + share * (of["100 inputs"] - of["4 inputs"])
        total += run.iterations * step / 3.6e9
    return total


def sequence_hours(runs: Iterable[SequenceRun], table: pd.DataFrame) -> float:
    """What runs of section 3.2 take on one core without evaluations, by ``sequence_rows``.

    All models of an operation have the rate of the one that was measured.
    """
    alone = table[table.engine == "sequences, alone"]
    images = alone.set_index(alone.task.str.partition(" ")[0])["images/s"]
    return sum(
        run.steps * run.batch_size * run.task.train_length / images[run.task.operation] / 3600
        for run in runs
    )


def plain_sequences(run: SequenceRun, device: str) -> Callable[[int], None]:
    """A function that does so many steps of sequential MNIST as most people write them."""
    model = run.build().to(device)
    reader, accumulator = model.reader, model.accumulator
    cnn = torch.nn.Sequential(
        reader.conv1, torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        reader.conv2, torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), reader.hidden, torch.nn.ReLU(), reader.output,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate)
    regulariser = prepare(model, optimizer, run.protocol)
    images, labels = (part.to(device) for part in load()["training"])
    allowed = run.task.allowed(labels)

    def work(steps: int) -> None:
        for step in range(steps):
            size = (run.batch_size, run.task.train_length)
            batch = allowed[torch.randint(len(allowed), size, device=device)]
            values = cnn(normalised(images[batch]).flatten(0, 1).unsqueeze(1)).unflatten(0, size)
            states = accumulator(values)
            error = states[..., 0] - run.task.target(labels[batch]).float()
            penalty = input_penalty(accumulator.unit, accumulator.inputs(values, states))
            loss = error.square().mean() + regulariser(step) + run.z_strength * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return work


def sequence_rows(
    seconds: float,
    seeds: int = 10,
    device: str | None = None,
    units: Iterable[str] = ("NMU", "NAU"),
) -> Iterator[dict]:
    """One row per unit and contender of section 3.2: steps of training, no evaluations.

    An NMU multiplies and an NAU adds. On a CPU all contenders have one core.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def engine(runs: list[SequenceRun]) -> Callable[[int], None]:
        training = Sequences(runs, torch.device(device), torch.float32, load())
        batch = training.windows[:, : runs[0].batch_size]
        return lambda steps: [training.step(step, batch) for step in range(steps)]

    def finished(work: Callable[[int], None]) -> Callable[[int], None]:
        def and_wait(steps: int) -> None:
            work(steps)
            if device == "cuda":
                torch.cuda.synchronize()

        return and_wait

    for unit in units:
        operation = "product" if unit == "NMU" else "sum"
        runs = sequential_mnist(operation, seeds=range(seeds), models=[unit])
        plain = None
        for name, at_once, work in (
            ("plain PyTorch loop", 1, plain_sequences(runs[0], device)),
            ("sequences, alone", 1, engine(runs[:1])),
            (f"sequences, {seeds} seeds", seeds, engine(runs)),
        ):
            step = seconds_per_step(finished(work), seconds) / at_once
            plain = plain or step
            yield {
                "task": f"{operation} of {runs[0].task.train_length} digits",
                "model": unit,
                "engine": name,
                "images/s": round(runs[0].batch_size * runs[0].task.train_length / step),
                "ms a step": round(step * 1e3, 2),  # of one seed
                "times plain": round(plain / step, 2),
            }
    torch.set_num_threads(threads)


def machine() -> str:
    """What the numbers are of."""
    return f"{processor()}, {cores()} cores, torch {torch.__version__}"


def recorded(of: str = "arithmetic") -> pd.DataFrame:
    """A benchmark that comes with the project: the columns of its rows, machine and date."""
    return pd.read_csv(RECORDED / f"bench-{of}.csv")


BENCHES = {"arithmetic": rows, "loops": loop_rows, "sequences": sequence_rows}


def main(seconds: float, output: Path | None = None, of: str = "arithmetic") -> None:
    """Print the table, row by row as it is measured, and write it as CSV if there is an output."""
    print(machine())
    table = []
    for row in BENCHES[of](seconds):
        widths = [max(len(name), 9) + 1 for name in row]
        widths[0], widths[2] = 17, 19  # task and engine
        text = pd.DataFrame([row]).to_string(
            index=False, header=not table, col_space=widths, justify="right"
        )
        print(text, flush=True)
        table.append({**row, "machine": machine(), "date": f"{date.today()}"})
    if output:
        pd.DataFrame(table).to_csv(output, index=False)
