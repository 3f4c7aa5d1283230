"""Sweeps: many runs, each looked up in a store or computed once on the best engine there is."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from .evaluation import score
from .sequence_evaluation import selected
from .store import Record, Store, code_digest, commit, default_store, provenance, without_curve
from .training import cpu, cuda, generated, reference, sequences
from .training.run import BaseRun, Log, Run, run_of
from .training.sequence_run import SequenceRun

# The fastest first. A module says what it ``TRAINS``, and whether it ``CHECKPOINTS``.
ENGINES = {
    "cuda": cuda, "cpu": cpu, "generated": generated, "reference": reference,
    "sequences": sequences,
}  # fmt: skip


class Scoring(NamedTuple):
    """How the runs of a section are scored, and their scores compared."""

    score: Callable[[BaseRun, Log], dict]  # what is recorded
    measure: str  # what two computations of a run are compared by
    alike: Callable[[float, float], bool]  # whether two of these say the same


SCORING = {
    Run: Scoring(
        lambda run, log: score(run, log)._asdict(),
        "solved_at",
        lambda new, old: bool(np.isclose(new, old, rtol=0.1, equal_nan=True)),
    ),
    # Rounding grows from step to step.
    SequenceRun: Scoring(selected, "validation_error", lambda new, old: old / 2 < new < old * 2),
}
CURVES = 100  # seeds whose learning curves are recorded with the project: those of the paper
PARAMETERS = 1  # seeds whose parameters are, if they are kept at all
# How many runs an engine trains at once, on a GPU if there is one; others have a core for each.
SIDE_BY_SIDE = {"cuda": 1_024, "reference": 50, "sequences": 10}


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def objection(engine: str, run: BaseRun) -> str:
    """Why an engine cannot train a run here, or ""."""
    module = ENGINES[engine]
    if not isinstance(run, module.TRAINS):
        return f"trains runs of {module.TRAINS.learns.__name__} only"
    return module.objection(run)


def engine_for(run: BaseRun, engine: str = "auto") -> str:
    """The engine of that name, or with "auto" the fastest that serves the run.

    Raises:
        ValueError: no engine has that name, or it does not serve the run, and why; no run.
    """
    if not isinstance(run, BaseRun):
        raise ValueError(f"{run!r} is no run: take those that nalu.experiments makes")
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(
            f"no engine is named {engine!r}: use 'auto' or one of {', '.join(ENGINES)}"
        )
    serving = [name for name in ENGINES if not objection(name, run)]
    if engine == "auto":
        return serving[0]
    if engine in serving:
        return engine
    raise ValueError(
        f"engine {engine!r} {objection(engine, run)}: use 'auto' or one of "
        f"{', '.join(serving)} for {'-'.join(run.words())}"
    )


def device_of(engine: str) -> str:
    return "cuda" if engine in SIDE_BY_SIDE and torch.cuda.is_available() else "cpu"


def keeps_one_core(engine: str) -> bool:
    """Whether a run has a core to itself; others use all there are, or a GPU."""
    return engine not in SIDE_BY_SIDE or (engine == "sequences" and device_of(engine) == "cpu")


def compute(
    runs: Sequence[BaseRun], engine: str, folder: Path | None = None, tick=lambda steps: None
) -> list[Record]:
    """Train runs that go together on an engine; what a worker does.

    ``folder`` is for the checkpoint of a long training, which stays there.
    """
    device, options = device_of(engine), {}
    where = provenance(device)
    if ENGINES[engine].CHECKPOINTS:
        options["checkpoint"] = folder and checkpoint_of(runs, engine, folder)
        options["provenance"] = where
    if keeps_one_core(engine):
        torch.set_num_threads(1)
    # What a run took of its core, whatever else ran there.
    clock = time.thread_time if keeps_one_core(engine) else time.perf_counter
    begin = clock()
    logs = ENGINES[engine].train(runs, tick, **options)
    seconds = clock() - begin + logs[0].earlier
    where = logs[0].provenance or where
    return [
        Record.of(run, engine, log, score_of(run, log), where, seconds / len(runs))
        for run, log in zip(runs, logs, strict=True)
    ]


def score_of(run: BaseRun, log: Log) -> dict:
    """What is recorded as the score of a run, by its rules."""
    return SCORING[type(run)].score(run, log)


def checkpoint_of(runs: Sequence[BaseRun], engine: str, folder: Path) -> Path:
    """Where the training of these runs is kept until they are recorded.

    What code began that no commit has, other code does not go on with.
    """
    name = runs[0].key(engine)
    if len(runs) > 1:
        keys = ",".join(run.key(engine) for run in runs)
        name = f"{runs[0].kind(engine)}-{len(runs)}_runs_{zlib.crc32(keys.encode()):08x}"
    clean = commit() and "dirty" not in commit()
    return Path(folder) / f"{name}{'' if clean else f'-{code_digest()}'}.checkpoint"


def together(runs: Iterable[BaseRun], engine: str) -> list[list[BaseRun]]:
    """Runs as an engine likes them: one by one, or those that it can train side by side."""
    if keeps_one_core(engine):
        return [[run] for run in runs]
    at_once, kinds = SIDE_BY_SIDE[engine], {}
    for run in runs:
        kinds.setdefault(ENGINES[engine].beside(run), []).append(run)
    return [
        kind[begin : begin + at_once]
        for kind in kinds.values()
        for begin in range(0, len(kind), at_once)
    ]


def sweep(
    specs: Iterable[BaseRun],
    engine: str = "auto",
    store: Store | str | Path | None = None,
    client=None,
    progress: bool = True,
) -> pd.DataFrame:
    """The results of runs: one row each, in their order.

    Runs that are in the store are read, the others computed and each written as soon as it is
    finished, so an interrupted sweep goes on where it stopped. What engines "reference" and
    "sequences" have trained of a long run is kept in a checkpoint beside the records until it is
    finished.

    Args:
        specs: runs, for example from ``nalu.experiments``; equal ones are computed once.
        engine: "cuda", "cpu", "generated" or "reference" for section 3.1, "sequences" for 3.2, or
            "auto" for the fastest that serves each run and any engine's records.
        store: a ``Store`` or a folder; the runs recorded with the project and the reader's
            cache if None.
        client: a Dask client or anything else with ``submit(function, *arguments)`` that
            returns futures; the cores of this machine if None. Its workers should share the
            folder of the store, where checkpoints are.
        progress: show runs done, steps per second and time left.

    Raises:
        ValueError: an engine that does not exist, or does not serve a run; a checkpoint that is
            damaged or of other runs.
    """
    runs = list(specs)
    found = _found(runs, engine, store_of(store), client, progress)
    return pd.DataFrame([row(run, found[run]) for run in runs])


def learning_curves(
    specs: Iterable[BaseRun],
    engine: str = "auto",
    store: Store | str | Path | None = None,
    client=None,
    progress: bool = True,
) -> pd.DataFrame:
    """How runs went: one row per run and evaluation kept, with the MSEs and sparsity error.

    Those of sequential MNIST also have what is read from each digit. A long run's curve is
    thinned (``nalu.store.kept_rows``). ``key`` tells runs apart; arguments and errors are those
    of ``sweep``.
    """
    runs = list(specs)
    found = _found(runs, engine, store_of(store), client, progress, with_curve=True)
    tables = []
    for run in runs:
        table = pd.DataFrame(found[run].curve, columns=run.columns())
        whole = [name for name in ("step", "epoch") if name in table]
        labels = pd.DataFrame([{**run.labels(), "key": found[run].key}] * len(table))
        tables.append(pd.concat([labels, table.astype(dict.fromkeys(whole, "int64"))], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["step"])


def trained_models(
    specs: Iterable[BaseRun], engine: str = "auto", store: Store | str | Path | None = None
) -> list[nn.Module]:
    """The models of runs with the parameters they end with.

    Those of sequential MNIST are read, or computed and kept, as by ``sweep``; the others, which
    take seconds, are computed now and not kept. Arguments and errors are those of ``sweep``.
    """
    specs, store = list(specs), store_of(store)
    kept = [run for run in specs if run.keeps_parameters]
    found = _found(kept, engine, store, None, False, with_parameters=True)

    def trained(run: BaseRun) -> nn.Module:
        if run in found:
            parameters = store.parameters(found[run])
        else:
            (log,) = ENGINES[engine_for(run, engine)].train([run])
            parameters = log.parameters
        model = run.build()
        nn.utils.vector_to_parameters(torch.from_numpy(parameters), model.parameters())
        return model

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(trained, specs))


def store_of(store: Store | str | Path | None) -> Store:
    if store is None:
        return default_store()
    return store if isinstance(store, Store) else Store(store)


def in_store(run: BaseRun, engine: str, store: Store, **needs: bool) -> Record | None:
    """The record of a run, with engine "auto" that of any engine; ``needs`` as ``Store.get``."""
    names = ENGINES if engine == "auto" else [engine]
    records = (store.get(run.key(name), **needs) for name in names)
    return next(filter(None, records), None)


def _found(runs, engine, store, client, progress, **needs: bool) -> dict[BaseRun, Record]:
    """The records of runs, from the store or computed and added to it."""
    runs = dict.fromkeys(runs)
    engines = {run: engine_for(run, engine) for run in runs}
    found = {run: in_store(run, engine, store, **needs) for run in runs}
    missing: dict[str, list[BaseRun]] = {}
    for run in runs:
        if found[run] is None:
            missing.setdefault(engines[run], []).append(run)
    with Progress(missing, len(runs), progress) as bar:
        for records in _computed(missing, store.folder, client, bar):
            store.add(records)
            done = [run_in(record) for record in records]
            checkpoint_of(done, records[0].engine, store.folder).unlink(missing_ok=True)
            for run, record in zip(done, records, strict=True):
                found[run] = replace(record, parameters=None)
                bar.finished()
    return found


def run_in(record: Record) -> BaseRun:
    """The run of a record."""
    return run_of({**record.specification, "seed": record.seed})


def _computed(missing: dict[str, list[BaseRun]], folder: Path, client, bar: Progress):
    """Records of runs trained together, as they are finished, here or on a client's workers."""
    tasks = [(batch, name) for name, runs in missing.items() for batch in together(runs, name)]
    stop = threading.Event()
    threads = torch.get_num_threads()  # which ``compute`` changes, for the whole process

    def tick(steps: int) -> None:
        if stop.is_set():
            raise CancelledError
        bar.advance(steps)

    at_once = cuda.AT_ONCE if "cuda" in missing else cores()
    pool = ThreadPoolExecutor(at_once) if client is None else executor_of(client)
    here = (tick,) if client is None else ()
    futures = {pool.submit(compute, batch, name, folder, *here) for batch, name in tasks}
    failure = None

    def end() -> None:
        stop.set()
        for future in futures:
            future.cancel()
        if client is None:
            pool.shutdown()

    def told(records: list[Record]) -> list[Record]:
        if client is not None:
            bar.advance(sum(run_in(record).steps for record in records))
        return records

    try:
        for future in as_completed(set(futures)):
            if failure := future.exception():
                break
            futures.discard(future)  # and with it what it holds
            yield told(future.result())
        end()
        for future in futures:  # what others have finished by now is not lost
            if future.done() and not future.cancelled() and not future.exception():
                yield told(future.result())
    finally:
        end()
        if client is None:
            torch.set_num_threads(threads)
    if failure:
        raise failure


def executor_of(client):
    """An executor of ``concurrent.futures`` for a Dask client, or the client itself if it is one.

    Dask answers an equal call with the result of the one before, a failure as well, unless told
    that it is not pure.
    """
    return client.get_executor(pure=False) if hasattr(client, "get_executor") else client


class Progress:
    """A bar that counts steps over all runs that are to be computed."""

    def __init__(self, missing: dict[str, list[BaseRun]], runs: int, shown: bool):
        todo = [run for group in missing.values() for run in group]
        self.runs, self.done = runs, runs - len(todo)
        self.lock = threading.Lock()
        self.bar = tqdm(
            total=sum(run.steps for run in todo),
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

    def finished(self) -> None:
        self.done += 1
        self._show()

    def _show(self) -> None:
        with self.lock:
            self.bar.set_postfix_str(f"{self.done} of {self.runs} runs done")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()


def row(run: BaseRun, record: Record) -> dict:
    """One row of a sweep."""
    return {
        **run.labels(),
        **record.score,
        "diverged_at": np.nan if record.diverged_at is None else record.diverged_at,
        "engine": record.engine,
        "device": record.provenance["device"],
        "seconds": record.seconds,
        "key": record.key,
    }


def record(
    specs: Iterable[BaseRun], engine: str = "auto", store: Store | None = None
) -> pd.DataFrame:
    """Add runs of the reader's cache to those recorded with the project, which stay as they are.

    Seeds of ``CURVES`` and above leave their learning curves behind, those of ``PARAMETERS`` and
    above what parameters are kept. The table has a row for
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
            found = found if run.seed < CURVES else without_curve(found)
            parameters = cache.parameters(found) if run.seed < PARAMETERS else None
            new.append(replace(found, parameters=parameters))
        rows.append({**run.labels(), "result": result})
    recorded.add(new)
    return pd.DataFrame(rows)


def verify(store: Store, sample: int, seed: int = 0, seconds: float | None = None) -> pd.DataFrame:
    """Compute a random sample of the records in a store again and compare.

    Each is drawn from those of a kind that is drawn first: else most would be of simple
    multiplication, which has the most seeds. The result of a run is "identical", or has the "same
    score" by ``alike``, as another type of machine may round differently, or is "different".
    ``seconds``, if given, leaves out runs that took longer; left out as well are those of an
    engine that this machine does not have.

    Raises:
        ValueError: ``sample`` is not 1 or more.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}: it must be 1 or more")
    compared = []
    for kept in filter(None, map(store.get, _drawn(store.keys(), seed))):
        if len(compared) == sample:
            break
        # Of runs that were trained side by side each has its share of the seconds.
        others = 1 if keeps_one_core(kept.engine) else SIDE_BY_SIDE[kept.engine]
        if seconds is not None and others * kept.seconds > seconds:
            continue
        run = run_in(kept)
        if objection(kept.engine, run):  # without a GPU
            continue
        threads = torch.get_num_threads()
        try:
            (again,) = compute([run], kept.engine)
        finally:
            torch.set_num_threads(threads)
        same = "same score" if alike(run, again.score, kept.score) else "different"
        labels = {name: run.labels()[name] for name in ("protocol", "model", "operation", "seed")}
        measure = SCORING[type(run)].measure
        scores = {measure: kept.score[measure], f"{measure}_again": again.score[measure]}
        result = "identical" if again.digest == kept.digest else same
        rest = {"seconds": again.seconds, "result": result, "key": kept.key}
        compared.append({**labels, **scores, **rest})
    return pd.DataFrame(compared)


def _drawn(keys: Iterable[str], seed: int) -> Iterator[str]:
    """Keys of records in a random order, each next one of a random kind."""
    kinds: dict[str, list[str]] = {}
    for key in sorted(keys):
        kinds.setdefault(key.rpartition("-")[0], []).append(key)
    draw = np.random.default_rng(seed)
    while kinds:
        kind = list(kinds)[draw.integers(len(kinds))]
        yield kinds[kind].pop(draw.integers(len(kinds[kind])))
        if not kinds[kind]:
            del kinds[kind]


def alike(run: BaseRun, new: dict, old: dict) -> bool:
    """Whether two scores of a run say the same, by the measure of its section."""
    scoring = SCORING[type(run)]
    one, other = new[scoring.measure], old[scoring.measure]
    return new.get("solved") == old.get("solved") and (one == other or scoring.alike(one, other))
