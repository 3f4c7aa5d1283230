"""The engine for any unit with a scalar definition: a compiled loop is printed for every model.

``graph`` makes one graph of a model and its gradients, ``printer`` the text of four functions of
it, and ``loop`` is what they run in. The modules lie in a cache folder under a digest of all that
is compiled into them, beside what Numba has compiled.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np

from ..units import Constrained
from ..units.scalar import Node, symbolic
from .cpu import adam_state, followed, rules_of, task_of
from .graph import CHUNK, Layer, data_gradients, loop_gradients, model_graph
from .layers import aligned_zeros
from .printer import PARAMETERS, ROWS, SUMS, Printer
from .random import BLOCK
from .run import LAYERS, Log, Run

LARGEST = 16  # hidden units: each is written out
SOURCES = "random.py", "elementary.py", "layers.py", "cpu.py"  # beside ``loop``, compiled into it

FUNCTIONS = """

@compiled
def construct(p, e):
    real = p.dtype.type
{construct}


@njit(**options, fastmath={{"contract"}})
def predict(p, e, x, z, rows):
    real = p.dtype.type
{predict}


@njit(**options, fastmath={{"contract"}})
def gradients(p, g, memory, task, rules, step):
    real = p.dtype.type
    e, de, rows, sums = memory.e, memory.de, memory.rows, memory.sums
    x, t, scale = task.x, task.t[0], real(2 / rules.batch_size)
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
def pull_back(p, g, de, strength):
    real = p.dtype.type
    strength = real(strength)
{pull_back}


@compiled
def matrices(p, out):
    real = p.dtype.type
{matrices}


@compiled
def project(p):
    real = p.dtype.type
{project}
"""


def place(target: str, array: str, first: int, stride: int = 0) -> str:
    """The left side of a result in an array, at every turn of a loop if it has a stride."""
    return target.format(f"{array}[{first} + {stride} * q]" if stride else f"{array}[{first}]")


def elementwise(loops: list[tuple[int, list[tuple[str, Node]]]]) -> str:
    """Loops over parameters: of pairs of a size and results."""
    texts = []
    for size, results in loops:
        if results:
            printer = Printer(size)
            printer.print(results)
            texts += [printer.opening(), printer.text(PARAMETERS)]
    return "\n".join(texts)


def projection(layer: Layer) -> list[tuple[int, list[tuple[str, Node]]]]:
    """What moves the parameters of a constrained unit into their interval."""
    if not isinstance(layer.unit, Constrained):
        return []
    return [
        (loop.size, [(place("{} =", "p", begin, 1), p.clamp(*layer.unit.interval))])
        for loop in layer.loops
        for p, begin in loop.parameters.items()
    ]


def printed(names: tuple[str, ...], sizes: tuple[int, ...], draft: bool) -> tuple[str, dict]:
    """The functions of a model as text, and the shapes of the memory they need."""
    layers = model_graph(names, sizes)
    loops = [(layer, loop) for layer in layers for loop in layer.loops]
    (z,) = layers[-1].outputs
    turns = max(sizes[0] // CHUNK, 1)
    outputs, training = Printer(turns), Printer(turns)
    outputs.print([("z[r] =", z)])
    loss, found = data_gradients(z)
    arrays = {"p": "g", "e": "de"}
    summed = [
        (place("{} +=" if leaf.args[0] == "p" else "{} =", arrays[leaf.args[0]], *leaf.args[2:]), d)
        for leaf, d in found.items()
    ]
    training.print([("loss =", loss), *summed])
    made, effective, pulled, count, total = [], [], [], 0, 0
    for layer, loop in loops:
        made.append(
            (loop.size, [(place("{} =", "e", k, 1), one) for one, k in loop.effective.items()])
        )
        count += loop.size * len(loop.effective)
        found = loop_gradients(layer, loop, draft)
        pulled.append(
            (loop.size, [(place("{} +=", "g", loop.parameters[p], 1), d) for p, d in found.items()])
        )
        for matrix in loop.matrices:
            effective.append((loop.size, [(place("{} =", "out", total, 1), matrix)]))
            total += loop.size
    text = FUNCTIONS.format(
        construct=elementwise(made),
        predict=outputs.opening() + "\n" + outputs.text(ROWS),
        start=training.opening(),
        rows=training.text(ROWS, 2),
        end=training.text(SUMS),
        pull_back=elementwise(pulled),
        matrices=elementwise(effective),
        project=elementwise([loop for layer in layers for loop in projection(layer)]),
    )
    rows = max(outputs.used["rows"], training.used["rows"])
    return text, {
        "e": (count,), "de": (count,), "matrices": (total,),
        "rows": (rows, BLOCK), "sums": (training.used["sums"], turns),
    }  # fmt: skip


def folder() -> Path:
    """Where generated modules lie: in the cache of this project."""
    return Path(os.environ.get("NALU_CACHE") or Path.home() / ".cache" / "nalu") / "compiled"


@lru_cache
def compiled_model(names: tuple[str, ...], sizes: tuple[int, ...], draft: bool):
    """The module of a model and the shapes of its ``Memory``.

    Numba keeps what it compiles beside the file, which therefore has a digest of everything
    that is compiled into it for a name; where nothing can be written, nothing is kept.
    """
    here = Path(__file__).parent
    functions, shapes = printed(names, sizes, draft)
    text = (here / "loop.py").read_text() + functions
    sources = [(here / name).read_bytes() for name in SOURCES]
    digest = hashlib.sha256(b"".join([text.encode(), *sources])).hexdigest()[:16]
    path = folder() / f"model_{digest}.py"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            unfinished.write_text(text)
            unfinished.replace(path)
    except OSError:
        text = text.replace(", cache=True", "")
    module = ModuleType(f"{__package__}.{path.stem}")
    sys.modules[module.__name__] = module  # where Numba looks for what it has kept
    exec(compile(text, path, "exec"), vars(module))
    return module, shapes


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
    module, shapes = compiled_model(run.layers, sizes_of(run), run.protocol_name == "draft")
    memory = module.Memory(**{name: aligned_zeros(shape, dtype) for name, shape in shapes.items()})
    state, task, rules = adam_state(run, dtype), task_of(run, dtype), rules_of(run)

    def steps(begin: int, end: int, log: np.ndarray) -> int:
        return module.advance(begin, end, task, rules, state, memory, log)

    return followed(run, steps, state[0], tick)
