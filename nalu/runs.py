"""Sweeps: many runs, each looked up in a store or computed once on the best engine there is."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from .evaluation import score
from .store import Record, Store, default_store, provenance, without_curve
from .training import cpu, cuda, reference
from .training.run import Run

ENGINES = {"cuda": cuda, "cpu": cpu, "reference": reference}  # the fastest first
CURVES = 100  # seeds whose learning curves are recorded with the project: those of the paper
SIDE_BY_SIDE = {"cuda": 1_024, "reference": 50}  # runs that an engine trains at once


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_for(run: Run, engine: str = "auto") -> str:
    """The engine of that name, or with "auto" the fastest that serves the run.

    Raises:
        ValueError: no engine has that name, or it does not serve the run.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(
            f"no engine is named {engine!r}: use 'auto' or one of {', '.join(ENGINES)}"
        )
    for name in ENGINES if engine == "auto" else [engine]:
        if ENGINES[name].serves(run):
            return name
    raise ValueError(f"engine {engine!r} does not serve {run}: use 'auto' or 'reference'")


def compute(runs: Sequence[Run], engine: str, tick=lambda steps: None) -> list[Record]:
    """Train runs that go together on an engine; what a worker does."""
    device = "cuda" if engine != "cpu" and torch.cuda.is_available() else "cpu"
    # The cpu engine keeps one core: what it took of it, whatever else ran there.
    clock = time.thread_time if engine == "cpu" else time.perf_counter
    begin = clock()
    logs = ENGINES[engine].train(runs, tick)
    seconds = (clock() - begin) / len(runs)
    where = provenance(device)
    return [
        Record.of(run, engine, log, score(run, log)._asdict(), where, seconds)
        for run, log in zip(runs, logs, strict=True)
    ]


def together(runs: Iterable[Run], engine: str) -> list[list[Run]]:
    """Runs as an engine likes them: one by one, or for some those of one kind."""
    runs = list(runs)
    if engine not in SIDE_BY_SIDE:
        return [[run] for run in runs]
    kinds: dict[Run, list[Run]] = {}
    for run in runs:
        kinds.setdefault(run.but(seed=0), []).append(run)
    return [
        kind[begin : begin + SIDE_BY_SIDE[engine]]
        for kind in kinds.values()
        for begin in range(0, len(kind), SIDE_BY_SIDE[engine])
    ]


def sweep(
    specs: Iterable[Run],
    engine: str = "auto",
    store: Store | str | Path | None = None,
    client=None,
    progress: bool = True,
) -> pd.DataFrame:
    """The results of runs: one row each, in their order.

    Runs that are in the store are read, the others computed and each written as soon as it is
    finished, so an interrupted sweep goes on where it stopped.

    Args:
        specs: runs, for example from ``nalu.experiments``; equal ones are computed once.
        engine: "cuda", "cpu", "reference", or "auto" for the fastest that serves each run and
            any engine's records.
        store: a ``Store`` or a folder; the runs recorded with the project and the reader's
            cache if None.
        client: a Dask client or anything else with ``submit(function, *arguments)`` that
            returns futures; the cores of this machine if None.
        progress: show runs done, steps per second and time left.

    Raises:
        ValueError: an engine that does not exist, or does not serve a run.
    """
    runs = list(specs)
    found = _found(runs, engine, store_of(store), client, progress)
    return pd.DataFrame([row(run, found[run]) for run in runs])


def learning_curves(
    specs: Iterable[Run],
    engine: str = "auto",
    store: Store | str | Path | None = None,
    client=None,
    progress: bool = True,
) -> pd.DataFrame:
    """How runs went: one row per run and evaluation kept, with the MSEs and sparsity error.

    A long run's curve is thinned (``nalu.store.kept_rows``).
    """
    runs = list(specs)
    found = _found(runs, engine, store_of(store), client, progress, with_curve=True)
    columns = ["step", "interpolation_error", "extrapolation_error", "sparsity_error"]
    tables = []
    for run in runs:
        table = pd.DataFrame(found[run].curve, columns=columns).astype({"step": "int64"})
        labels = labels_of(run)
        tables.append(table.assign(**labels)[[*labels, *columns]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def trained_models(specs: Iterable[Run], engine: str = "auto") -> list[nn.Sequential]:
    """The models of runs with the parameters they end with: computed now and not kept."""

    def trained(run: Run) -> nn.Sequential:
        (log,) = ENGINES[engine_for(run, engine)].train([run])
        model = run.build()
        parameters = torch.from_numpy(log.parameters)
        nn.utils.vector_to_parameters(parameters, model.parameters())
        return model

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(trained, specs))


def store_of(store: Store | str | Path | None) -> Store:
    if store is None:
        return default_store()
    return store if isinstance(store, Store) else Store(store)


def in_store(run: Run, engine: str, store: Store, with_curve: bool = False) -> Record | None:
    """The record of a run, with engine "auto" that of any engine."""
    names = ENGINES if engine == "auto" else [engine]
    records = (store.get(run.key(name), with_curve) for name in names)
    return next(filter(None, records), None)


def _found(runs, engine, store, client, progress, with_curve=False) -> dict[Run, Record]:
    """The records of runs, from the store or computed and added to it."""
    runs = dict.fromkeys(runs)
    engines = {run: engine_for(run, engine) for run in runs}
    found = {run: in_store(run, engine, store, with_curve) for run in runs}
    missing: dict[str, list[Run]] = {}
    for run in runs:
        if found[run] is None:
            missing.setdefault(engines[run], []).append(run)
    with Progress(missing, len(runs), progress) as bar:
        for record in _computed(missing, client, bar):
            store.add([record])
            found[run_of(record)] = record
            bar.finished(record)
    return found


def run_of(record: Record) -> Run:
    return Run.from_specification({**record.specification, "seed": record.seed})


def _computed(missing: dict[str, list[Run]], client, bar: Progress):
    """Records as they are finished, from this machine's cores or from a client's workers."""
    tasks = [(batch, name) for name, runs in missing.items() for batch in together(runs, name)]
    stop = threading.Event()

    def tick(steps: int) -> None:
        if stop.is_set():
            raise CancelledError
        bar.advance(steps)

    done = queue.SimpleQueue()
    pool = None if client else ThreadPoolExecutor(cores())
    futures = set()
    try:
        for batch, name in tasks:
            here = () if client else (tick,)
            future = (client or pool).submit(compute, batch, name, *here)
            futures.add(future)
            future.add_done_callback(done.put)
        for _ in tasks:
            future = done.get()
            futures.discard(future)  # and with it what it holds
            records = future.result()
            if client:
                bar.advance(sum(map(steps_of, records)))
            yield from records
    finally:
        stop.set()
        for future in futures:
            future.cancel()
        if pool:
            pool.shutdown()


def steps_of(record: Record) -> int:
    return record.specification["iterations"] + 1


class Progress:
    """A bar that counts steps over all runs that are to be computed."""

    def __init__(self, missing: dict[str, list[Run]], runs: int, shown: bool):
        todo = [run for group in missing.values() for run in group]
        self.runs, self.done = runs, runs - len(todo)
        self.lock = threading.Lock()
        self.bar = tqdm(
            total=sum(run.iterations + 1 for run in todo),
            desc=" and ".join(f"engine {name}" for name in missing),
            unit="step",
            unit_scale=True,
            mininterval=0.5,
            disable=not (shown and todo),
        )
        self._show()

    def advance(self, steps: int) -> None:
        with self.lock:
            self.bar.update(steps)

    def finished(self, record: Record) -> None:
        self.done += 1
        self._show()

    def _show(self) -> None:
        with self.lock:
            self.bar.set_postfix_str(f"{self.done} of {self.runs} runs done")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()


def labels_of(run: Run) -> dict:
    """The columns that say which run a row is about."""
    task = run.task
    return {
        "experiment": run.experiment,
        "protocol": run.protocol_name,
        "model": run.model,
        "operation": task.operation,
        "seed": run.seed,
        "iterations": run.iterations,
        "input_size": task.input_size,
        "subset_ratio": getattr(task, "subset_ratio", np.nan),
        "overlap_ratio": getattr(task, "overlap_ratio", np.nan),
        "hidden_size": run.hidden_size,
        "interpolation": ranges_text(task.interpolation),
        "extrapolation": ranges_text(task.extrapolation),
    }


def ranges_text(ranges) -> str:
    """Ranges as the paper writes them: U[1, 2], or U[-6, -2] ∪ U[2, 6]."""
    return " ∪ ".join(f"U[{low:g}, {high:g}]" for low, high in ranges)


def row(run: Run, record: Record) -> dict:
    """One row of a sweep."""
    return {
        **labels_of(run),
        **record.score,
        "diverged_at": np.nan if record.diverged_at is None else record.diverged_at,
        "engine": record.engine,
        "device": record.provenance["device"],
        "seconds": record.seconds,
        "key": record.key,
    }


def record(specs: Iterable[Run], engine: str = "auto", store: Store | None = None) -> pd.DataFrame:
    """Add runs of the reader's cache to those recorded with the project, which stay as they are.

    Seeds of ``CURVES`` and above leave their learning curves behind. The table has a row for
    each run, whose ``result`` is "recorded", "was recorded", "not computed", or "uncommitted"
    for one that code computed that no commit has.
    """
    store = store or default_store()
    cache, recorded = Store(store.folder), Store(store.recorded[0])
    new, rows = [], []
    for run in dict.fromkeys(specs):
        found = in_store(run, engine, cache)
        if in_store(run, engine, recorded):
            result = "was recorded"
        elif found is None:
            result = "not computed"
        elif not found.provenance["commit"] or "dirty" in found.provenance["commit"]:
            result = "uncommitted"
        else:
            result = "recorded"
            new.append(found if run.seed < CURVES else without_curve(found))
        rows.append({**labels_of(run), "result": result})
    recorded.add(new)
    return pd.DataFrame(rows)


def verify(store: Store, sample: int, seed: int = 0, iterations: int | None = None) -> pd.DataFrame:
    """Compute a random sample of the records in a store again and compare.

    The result of a run is "identical", or has the "same score" (solved or not, and solved at
    within a tenth), as another type of machine may round differently, or is "different".
    ``iterations``, if given, leaves out longer runs.
    """
    drawn = np.random.default_rng(seed).permutation(np.array(sorted(store.keys()), dtype=object))
    compared = []
    for kept in filter(None, map(store.get, drawn)):
        if len(compared) == sample:
            break
        run = run_of(kept)
        if iterations is not None and run.iterations > iterations:
            continue
        again = compute([run], kept.engine)[0]
        old, new = (r.score["solved_at"] for r in (kept, again))
        close = np.isclose(new, old, rtol=0.1, equal_nan=True)
        same = close and again.score["solved"] == kept.score["solved"]
        result = "identical" if again.digest == kept.digest else "same score" if same else None
        labels = {name: labels_of(run)[name] for name in ("protocol", "model", "operation", "seed")}
        scores = {"solved_at": old, "solved_at_again": new, "seconds": again.seconds}
        compared.append({**labels, **scores, "result": result or "different", "key": kept.key})
    return pd.DataFrame(compared)
