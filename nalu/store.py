"""Where finished runs are kept: one file each, never changed, never trusted unchecked.

A record is a text file named after the run's key: JSON with the specification, the engine, the
score, where and when it was computed, and the log, the whole under a checksum. The runs that
come with the project and those of a reader's own cache have this one format.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import subprocess
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .evaluation import Score
from .training.run import Log, Run

RECORDED = Path(__file__).parents[1] / "data" / "runs"  # comes with the project


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


@lru_cache
def commit() -> str:
    """The commit of this code, "…-dirty" if changed since, or "" outside of a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def provenance(device: str, seconds: float) -> dict:
    """Where, when and with what a run was computed."""
    packages = {name: version(name) for name in ("torch", "numpy", "numba")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"device": device, "seconds": seconds, "date": now, "commit": commit()}
    return {**where, **packages}


@dataclass(frozen=True)
class Record:
    """A finished run as it is kept."""

    key: str
    engine: str
    specification: dict
    score: Score
    diverged_at: int | None
    provenance: dict
    packed: str  # the log: float32 rows, compressed, as text

    @classmethod
    def of(cls, run: Run, engine: str, log: Log, score: Score, provenance: dict) -> Record:
        table = np.column_stack([log.step, log.interpolation, log.extrapolation, log.sparsity])
        return cls(
            run.key(engine),
            engine,
            run.specification(),
            score,
            log.diverged_at,
            provenance,
            pack(table),
        )

    @property
    def log(self) -> np.ndarray:
        """(evaluations, 4) float32: step, the MSEs inside and outside, sparsity error."""
        return np.frombuffer(zlib.decompress(base64.b85decode(self.packed)), "<f4").reshape(-1, 4)

    def to_text(self) -> str:
        content = {**vars(self), "score": self.score._asdict()}
        return json.dumps({**content, "checksum": checksum(content)}, indent=1)

    @classmethod
    def from_text(cls, text: str, key: str) -> Record:
        """The record in a text.

        Raises:
            ValueError: the text is not a whole record, not unchanged, or not that of this key.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("checksum", None) != checksum(content):
            raise ValueError("its checksum does not fit")
        if content["key"] != key:
            raise ValueError(f"it is the record of {content['key']}")
        return cls(**{**content, "score": Score(**content["score"])})


def pack(log: np.ndarray) -> str:
    """A log, (evaluations, 4), as ``Record`` keeps it; what exceeds float32 becomes ∞."""
    with np.errstate(over="ignore"):
        return base64.b85encode(zlib.compress(log.astype("<f4").tobytes(), 9)).decode()


def checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Store:
    """Finished runs by key, in a folder that is written to and others that are only read.

    Args:
        folder: of new records; made when the first is written.
        recorded: folders that are looked into first and never written.
    """

    def __init__(self, folder: str | Path, recorded: Sequence[str | Path] = ()):
        self.folder = Path(folder)
        self.recorded = [Path(path) for path in recorded]

    def get(self, key: str) -> Record | None:
        """The record of a key, or None. A damaged record is warned about, not used."""
        for folder in (*self.recorded, self.folder):
            path = folder / f"{key}.json"
            try:
                return Record.from_text(path.read_text(encoding="utf-8"), key)
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError) as reason:
                warnings.warn(
                    f"{path} is damaged and not used ({reason}): delete it, or let a sweep "
                    "compute the run again",
                    DamagedRecord,
                    stacklevel=2,
                )
        return None

    def put(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{record.key}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(record.to_text())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.folder / f"{record.key}.json")
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def keys(self) -> Iterator[str]:
        """The keys of all records, damaged ones among them, each once."""
        seen = set()
        for folder in (*self.recorded, self.folder):
            for path in sorted(folder.glob("*.json")):
                if path.stem not in seen:
                    seen.add(path.stem)
                    yield path.stem


def default_store() -> Store:
    """The runs recorded with the project, and $NALU_CACHE or ~/.cache/nalu for new ones."""
    cache = os.environ.get("NALU_CACHE") or Path.home() / ".cache" / "nalu"
    return Store(Path(cache) / "runs", [RECORDED])


def device_name(device: str) -> str:
    """The processor or graphics card behind a torch device, in words."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()
