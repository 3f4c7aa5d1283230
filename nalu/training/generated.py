"""The engine for any unit with a scalar definition: a compiled loop is printed for every model.

``graph`` makes one graph of a model and its gradients, ``printer`` the text of four functions of
it, and ``loop`` is what they run in. The modules lie in a cache folder under a digest of all that
is compiled into them, beside what Numba has compiled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..units import Constrained
from ..units.scalar import symbolic
from .cpu import adam_state, followed, rules_of, task_of
from .graph import CHUNK, LayerGraph, model_graph, training_graph
from .layers import aligned_zeros
from .printer import CONSTRUCT, PULL_BACK, ROWS, Memory, Printer
from .random import BLOCK
from .run import LAYERS, Log, Run

LARGEST = 16  # hidden units: each is written out
SOURCES = "random.py", "elementary.py", "layers.py", "cpu.py"  # beside ``loop``, compiled into it

FUNCTIONS = '''

@njit(**options, fastmath={{"contract"}})
def gradients(p, g, memory, task, rules, step, strength):
    """The data loss of a step, and the gradients of the whole loss into g."""
    real = p.dtype.type
    rows, kept, sums = memory.rows, memory.kept, memory.sums
    x, t, scale, strength = task.x, task.t[0], real(2 / rules.batch_size), real(strength)
    low, unit = task.interpolation
{start}
    for begin in range(0, rules.batch_size, BLOCK):
        fill(x, task.seed, TRAINING, step, begin, rules.batch_size - 1, low, unit)
        targets(task, x)
        live = rules.batch_size - begin
{rows}
{end}
    return loss / rules.batch_size


@compiled
def project(p):
    """Move the parameters of constrained units into their intervals."""
    real = p.dtype.type
{project}


@njit(**options, fastmath={{"contract"}})
def predict(p, memory, x, z):
    """The outputs of a block, (BLOCK,), for its inputs, (in', BLOCK)."""
    real = p.dtype.type
    rows, kept = memory.rows, memory.kept
{predict}


@njit(**options, fastmath={{"contract"}})
def matrices(p, memory, out):
    """Every element of every effective matrix."""
    real = p.dtype.type
    kept = memory.kept
{matrices}
'''


def projection(layers: list[LayerGraph]) -> str:
    """The lines of ``project``."""
    lines = []
    for layer in layers:
        if isinstance(layer.unit, Constrained):
            low, high = layer.unit.interval
            lines += [
                f"    low, high = real({low}), real({high})",
                f"    for j in range({layer.begin}, {layer.end}):",
                "        p[j] = low if p[j] < low else high if p[j] > high else p[j]",
            ]
    return "\n".join(lines)


def place(array: str, first: int, stride: int = 0) -> str:
    """An element of an array, one for every turn of a loop if it has a stride."""
    return f"{array}[{first} + {stride} * q]" if stride else f"{array}[{first}]"


def lines(*parts: str) -> str:
    return "\n".join(parts)


def printed(names: tuple[str, ...], sizes: tuple[int, ...], draft: bool) -> tuple[str, dict]:
    """The functions of a model as text, and the shapes of the memory they need."""
    layers = model_graph(names, sizes)
    turns = max(sizes[0] // CHUNK, 1)
    loss, found = training_graph(layers, draft)
    training, outputs, effective = Printer(turns), Printer(turns), Printer(turns)
    training.print(
        [("loss", loss), *((place("g", *leaf.args[2:]), d) for leaf, d in found.items())]
    )
    outputs.print([("z[r]", layers[-1].outputs[0])])
    elements = [w for layer in layers for w in layer.matrices]
    effective.print(
        [(f"out[{k * turns}{' + q' if w.axes else ''}]", w) for k, w in enumerate(elements)],
    )
    text = FUNCTIONS.format(
        start=lines(training.opening(), training.text(CONSTRUCT), training.zeros()),
        rows=training.text(ROWS, 2),
        end=training.text(PULL_BACK),
        project=projection(layers),
        predict=lines(outputs.opening(), outputs.text(CONSTRUCT), outputs.text(ROWS)),
        matrices=lines(effective.opening(), effective.text(CONSTRUCT)),
    )
    used = {
        name: max(printer.used[name] for printer in (training, outputs, effective))
        for name in ("rows", "kept", "sums")
    }
    shapes = {name: (size, BLOCK if name == "rows" else turns) for name, size in used.items()}
    return text, {**shapes, "matrices": (len(elements) * turns,)}


def folder() -> Path:
    """Where generated modules lie: in the cache of this project."""
    return Path(os.environ.get("NALU_CACHE") or Path.home() / ".cache" / "nalu") / "compiled"


@lru_cache
def compiled_model(names: tuple[str, ...], sizes: tuple[int, ...], draft: bool):
    """``advance`` of a model and the shapes of its ``Memory``.

    Numba keeps what it compiles beside the file, which therefore has a digest of everything
    that is compiled into it for a name; where nothing can be written, nothing is kept.
    """
    here = Path(__file__).parent
    functions, shapes = printed(names, sizes, draft)
    text = (here / "loop.py").read_text() + functions
    sources = [(here / name).read_bytes() for name in SOURCES]
    digest = hashlib.sha256(b"".join([text.encode(), *sources])).hexdigest()[:16]
    path = folder() / f"model_{digest}.py"
    namespace = {"__name__": f"{__package__}.{path.stem}", "__package__": __package__}
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            unfinished.write_text(text)
            unfinished.replace(path)
    except OSError:
        text = text.replace(", cache=True", "")
    exec(compile(text, path, "exec"), namespace)
    return namespace["advance"], shapes


# From a specification to arrays and back.


def sizes_of(run: Run) -> tuple[int, ...]:
    """How many numbers the input and every layer's output have."""
    return run.task.input_size, *[run.hidden_size] * (len(run.layers) - 1), 1


def refusal(run) -> str:
    """Why this engine cannot train the run, or ""."""
    if not isinstance(run, Run):
        return "trains the runs of section 3.1 only"
    if run.stream != "philox":
        return f"has no stream {run.stream!r}"
    if len(run.layers) > 2:
        return "trains models of one and two layers only"
    for name in run.layers:
        if not hasattr(symbolic(LAYERS[name]), "scalar"):
            return f"has no scalar definition of {name}"
    if run.hidden_size > LARGEST:
        return f"writes out at most {LARGEST} hidden units"
    return ""


def train(
    runs: Sequence[Run], tick: Callable[[int], None] = lambda steps: None, dtype: str = "float32"
) -> list[Log]:
    """Train one run after the other, without holding Python's lock, as engine ``cpu`` does.

    Raises:
        ValueError: a run that this engine does not serve.
    """
    return [_train(run, tick, dtype) for run in runs]


def _train(run: Run, tick: Callable[[int], None], dtype: str) -> Log:
    if reason := refusal(run):
        raise ValueError(f"engine 'generated' {reason}: use engine 'auto'")
    advance, shapes = compiled_model(run.layers, sizes_of(run), run.protocol_name == "draft")
    memory = Memory(**{name: aligned_zeros(shape, dtype) for name, shape in shapes.items()})
    state, task, rules = adam_state(run, dtype), task_of(run, dtype), rules_of(run)

    def steps(begin: int, end: int, log: np.ndarray) -> int:
        return advance(begin, end, task, rules, state, memory, log)

    return followed(run, steps, state[0], tick)
