"""Where finished runs are kept: text files that are only added to, and never trusted unchecked.

A file holds the records of one kind of run, which differ in their seeds only: JSON, one line a
record. A line without a seed is what the records after it share: engine, specification, and
with what they were computed. A record has its score and seconds, a digest of its whole log, its
learning curve unless that was left out, and a checksum. The parameters that a run ended with, where
they are kept, are in a file beside. The runs that come with the project and those of a reader's
own cache have this one format.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import subprocess
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from .training.files import write_whole
from .training.run import least

RECORDED = Path(__file__).parents[1] / "data" / "runs"  # comes with the project
EVENLY, LAST = 200, 100  # evaluations of a learning curve: over the whole run, and at its end


class DamagedRecord(UserWarning):
    """A record that cannot be used; its run counts as not computed."""


@lru_cache
def processor() -> str:
    """What this machine computes on, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The processor or graphics card behind a torch device, in words."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


@lru_cache
def commit() -> str:
    """The commit of this code, "…-dirty" if changed since, or "" outside of a checkout.

    Only what decides results counts as changed: the package and its dependencies.
    """
    changes = ["status", "--porcelain", "--", ".", "../pyproject.toml", "../constraints.txt"]
    tracked = ["ls-files", "--error-unmatch", __file__]  # or the commit is another project's
    texts = []
    for command in (["rev-parse", "HEAD"], changes, tracked):
        try:
            done = subprocess.run(
                ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            return ""
        texts.append(done.stdout.strip())
    return texts[0] + "-dirty" * bool(texts[1])


@lru_cache
def code_digest() -> str:
    """What tells changes of this code apart, committed or not."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


commit(), code_digest()  # those of what is imported now: the files may change before it computes


def provenance(device: str) -> dict:
    """Where, when and with what runs are computed."""
    packages = {name: version(name) for name in ("torch", "numpy", "numba")}
    today = datetime.now(UTC).date().isoformat()
    return {"device": device_name(device), "date": today, "commit": commit(), **packages}


@dataclass(frozen=True)
class Record:
    """A finished run as it is kept."""

    kind: str  # of ``Run.kind``
    seed: int
    engine: str
    specification: dict  # but for the seed
    provenance: dict
    score: dict
    diverged_at: int | None
    seconds: float  # of one core, or of the device, for this run
    digest: str  # of the whole log
    packed: str  # the learning curve: float32 rows, compressed, as text; or ""
    parameters_digest: str = ""  # of those it ended with, where they are kept
    # (parameters,) float32, on their way into a store: ``Store.parameters`` reads them
    parameters: np.ndarray | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, run, engine: str, log, score: dict, provenance: dict, seconds: float) -> Record:
        """The record of a finished run and its log, a ``Run`` and ``Log`` or their like."""
        specification = run.specification()
        table = log.table()
        parameters = log.parameters if run.keeps_parameters else None
        return cls(
            run.kind(engine),
            specification.pop("seed"),
            engine,
            specification,
            provenance,
            score,
            log.diverged_at,
            seconds,
            digest(table),
            pack(table[kept_rows(table, score)]),
            "" if parameters is None else digest(parameters),
            parameters,
        )

    @property
    def key(self) -> str:
        return f"{self.kind}-{self.seed}"

    @property
    def curve(self) -> np.ndarray:
        """Evaluations, at most ``EVENLY + LAST`` and a few, of those that ``Log.table`` has."""
        flat = np.frombuffer(zlib.decompress(base64.b85decode(self.packed)), "<f4")
        columns = int(flat[0])
        return flat[1:].reshape(-1, columns)

    def shared(self) -> dict:
        """What a file says once for many records."""
        names = ("engine", "specification", "provenance")
        return {name: getattr(self, name) for name in names}

    def own(self) -> dict:
        """What a file says of this record."""
        names = (
            "seed", "score", "diverged_at", "seconds", "digest", "packed", "parameters_digest"
        )  # fmt: skip
        content = {name: getattr(self, name) for name in names}
        content = {name: value for name, value in content.items() if value not in (None, "")}
        return {**content, "checksum": checksum(self.shared(), content)}

    @classmethod
    def from_lines(cls, kind: str, shared: dict, own: dict) -> Record:
        """The record that two lines of a file describe.

        Raises:
            ValueError: they are not the whole record, or not unchanged.
        """
        content = dict(own)
        if content.pop("checksum", None) != checksum(shared, content):
            raise ValueError("its checksum does not fit")
        return cls(kind=kind, **shared, **{"diverged_at": None, "packed": "", **content})


def digest(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]


def checksum(*content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def kept_rows(table: np.ndarray, score: dict) -> np.ndarray:
    """Which evaluations of a log, (evaluations, columns), make its learning curve.

    Evenly spaced ones; the last, that of the least validation error and that of the least among
    the last, which other rules of scoring read; and where the run was solved.
    """
    rows = len(table)
    if not rows:
        return np.arange(0)
    stride = -(-rows // (EVENLY + 1))
    begin = max(rows - LAST, 0)
    errors = table[:, 1]
    best = [least(errors), begin + least(errors[begin:])]
    solved_at = np.flatnonzero(table[:, 0] == score.get("solved_at"))
    return np.unique(
        np.concatenate([np.arange(0, rows, stride), np.arange(begin, rows), best, solved_at])
    ).astype(int)


def pack(table: np.ndarray) -> str:
    """A learning curve, (evaluations, columns) float32, as ``Record`` keeps it."""
    flat = np.concatenate([[table.shape[1]], table.ravel()]).astype("<f4")
    return base64.b85encode(zlib.compress(flat.tobytes(), 9)).decode()


class Store:
    """Finished runs by key, in a folder that is added to and others that are only read.

    A file is read once, when it is first asked for.

    Args:
        folder: of new records; made when the first is written.
        recorded: folders that are looked into first and never written.
    """

    def __init__(self, folder: str | Path, recorded: Sequence[str | Path] = ()):
        self.folder = Path(folder)
        self.recorded = [Path(path) for path in recorded]
        self._folders = [*self.recorded, self.folder]
        self._known: dict[Path, dict[int, Record]] = {}

    def get(
        self, key: str, with_curve: bool = False, with_parameters: bool = False
    ) -> Record | None:
        """The record of a key, or None. A damaged record is warned about, not used.

        ``with_curve`` asks for one that has its learning curve, ``with_parameters`` for one
        whose parameters are kept.
        """
        kind, _, seed = key.rpartition("-")
        for folder in self._folders:
            record = self._records(folder / f"{kind}.jsonl").get(int(seed))
            if not record or (with_curve and not record.packed):
                continue
            if not with_parameters or self.parameters(record) is not None:
                return record
        return None

    def parameters(self, record: Record) -> np.ndarray | None:
        """The parameters that a run ended with, (parameters,) float32, or None.

        A damaged file is warned about, not used.
        """
        for path in (folder / parameters_file(record) for folder in self._folders):
            if not path.is_file():
                continue
            try:
                parameters = safetensors.numpy.load_file(path)["parameters"]
            except (safetensors.SafetensorError, KeyError):
                parameters = np.zeros(0, np.float32)
            if digest(parameters) == record.parameters_digest:
                return parameters
            warnings.warn(
                f"{path} is damaged and not used: delete it",
                DamagedRecord,
                stacklevel=3,
            )
        return None

    def add(self, records: Sequence[Record]) -> None:
        """Append records, those of a kind in one write, and keep their parameters.

        Raises:
            OSError: something was not written whole; a record in the store is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            if record.parameters is not None:
                content = safetensors.numpy.save({"parameters": record.parameters})
                write_whole(self.folder / parameters_file(record), content)
        for kind, group in groupby(records, lambda record: record.kind):
            path, lines = self.folder / f"{kind}.jsonl", []
            known, new, shared = self._records(path), {}, None
            for record in group:
                if record.shared() != shared:
                    shared = record.shared()
                    lines.append(json.dumps(shared))
                lines.append(json.dumps(record.own()))
                new[record.seed] = replace(record, parameters=None)
            # A line begins with its newline: one that was cut short cannot reach the next.
            content = "".join(f"\n{line}" for line in lines).encode()
            with path.open("ab", buffering=0) as file:
                written = file.write(content)
                os.fsync(file.fileno())
            if written < len(content):
                raise OSError(f"only {written} of {len(content)} bytes were added to {path}")
            known |= new

    def keys(self) -> Iterator[str]:
        """The keys of all records, each once."""
        seen = set()
        for folder in self._folders:
            for path in sorted(folder.glob("*.jsonl")):
                keys = [f"{path.stem}-{seed}" for seed in sorted(self._records(path))]
                yield from (key for key in keys if key not in seen)
                seen.update(keys)

    def _records(self, path: Path) -> dict[int, Record]:
        if path not in self._known:
            self._known[path] = dict(_read(path)) if path.is_file() else {}
        return self._known[path]


def _read(path: Path) -> Iterator[tuple[int, Record]]:
    """The seeds and records of a file, with a warning for each line that is damaged."""
    shared: dict = {}
    lines = path.read_bytes().split(b"\n")
    try:
        json.loads(lines[-1] or b"{}")
    except ValueError:  # perhaps another process is about to finish the line
        time.sleep(0.1)
        lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
            if "seed" not in content:
                shared = content
                continue
            record = Record.from_lines(path.stem, shared, content)
        except (ValueError, KeyError, TypeError) as reason:
            warnings.warn(
                f"line {number} of {path} is damaged and not used ({reason}): delete the line; "
                "a sweep computes the run again",
                DamagedRecord,
                stacklevel=4,
            )
        else:
            yield record.seed, record


def parameters_file(record: Record) -> str:
    """Its name says what is in it, so that another machine's parameters are in another file."""
    return f"{record.key}-{record.parameters_digest}.safetensors"


def without_curve(record: Record) -> Record:
    return replace(record, packed="")


def default_store() -> Store:
    """The runs recorded with the project, and $NALU_CACHE or ~/.cache/nalu for new ones."""
    cache = os.environ.get("NALU_CACHE") or Path.home() / ".cache" / "nalu"
    return Store(Path(cache) / "runs", [RECORDED])
