"""Sweeps: many runs, each looked up in a store or computed once on the best engine there is."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from .evaluation import score
from .store import Record, Store, default_store, device_name, provenance
from .training import cpu, cuda, reference
from .training.run import Run

ENGINES = {"cuda": cuda, "cpu": cpu, "reference": reference}  # the fastest first
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
    where = provenance(device_name(device), seconds)
    return [
        Record.of(run, engine, log, score(run, log), where)
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
        engine: "cuda", "cpu", "reference", or "auto" for the fastest that serves each run.
        store: a ``Store`` or a folder; the runs recorded with the project and the reader's
            cache if None.
        client: a Dask client or anything else with ``submit(function, *arguments)`` that
            returns futures; the cores of this machine if None.
        progress: show runs done, steps per second and time left.

    Raises:
        ValueError: an engine that does not exist, or does not serve a run.
    """
    runs = list(specs)
    store = store_of(store)
    found, missing = _look_up(runs, engine, store)
    with Progress(missing, len(set(runs)), progress) as bar:
        for record in _computed(missing, client, bar):
            store.put(record)
            found[record.key] = replace(record, packed="")  # rows need no logs
            bar.finished(record)
    return pd.DataFrame([row(run, found[run.key(name)]) for run, name in _named(runs, engine)])


def learning_curves(
    specs: Iterable[Run],
    engine: str = "auto",
    store: Store | str | Path | None = None,
    client=None,
    progress: bool = True,
) -> pd.DataFrame:
    """What ``sweep`` logged: one row per run and evaluation, with the MSEs and sparsity error."""
    runs, store = list(specs), store_of(store)
    sweep(runs, engine, store, client, progress)
    found, _ = _look_up(runs, engine, store)
    columns = ["step", "interpolation_error", "extrapolation_error", "sparsity_error"]
    tables = []
    for run, name in _named(runs, engine):
        table = pd.DataFrame(found[run.key(name)].log, columns=columns).astype({"step": "int64"})
        labels = labels_of(run)
        tables.append(table.assign(**labels)[[*labels, *columns]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def store_of(store: Store | str | Path | None) -> Store:
    if store is None:
        return default_store()
    return store if isinstance(store, Store) else Store(store)


def _named(runs: Iterable[Run], engine: str) -> Iterable[tuple[Run, str]]:
    return ((run, engine_for(run, engine)) for run in runs)


def _look_up(
    runs: Iterable[Run], engine: str, store: Store
) -> tuple[dict[str, Record], dict[str, list[Run]]]:
    """Records in the store by key, and the runs that are not there by engine."""
    found, missing = {}, {}
    for run, name in _named(dict.fromkeys(runs), engine):
        record = store.get(run.key(name))
        if record is None:
            missing.setdefault(name, []).append(run)
        else:
            found[record.key] = record
    return found, missing


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
            futures.discard(future)  # and with it the logs it holds
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
        **record.score._asdict(),
        "diverged_at": np.nan if record.diverged_at is None else record.diverged_at,
        "engine": record.engine,
        "device": record.provenance["device"],
        "seconds": record.provenance["seconds"],
        "key": record.key,
    }


def verify(store: Store, sample: int, seed: int = 0) -> pd.DataFrame:
    """Compute a random sample of the records in a store again and compare.

    The result of a run is "identical", or has the "same score" (solved or not, and solved at
    within a tenth), as another type of machine may round differently, or is "different".
    """
    keys = np.array(sorted(store.keys()), dtype=object)
    drawn = np.random.default_rng(seed).permutation(keys)[:sample]
    compared = []
    for record in filter(None, map(store.get, drawn)):
        run = Run.from_specification(record.specification)
        again = compute([run], record.engine)[0]
        close = np.isclose(again.score.solved_at, record.score.solved_at, rtol=0.1, equal_nan=True)
        same = close and again.score.solved == record.score.solved
        result = "identical" if again.packed == record.packed else "same score" if same else None
        labels = {name: labels_of(run)[name] for name in ("protocol", "model", "operation", "seed")}
        solved_at = {"solved_at": record.score.solved_at, "solved_at_again": again.score.solved_at}
        compared.append({**labels, **solved_at, "result": result or "different", "key": record.key})
    return pd.DataFrame(compared)
