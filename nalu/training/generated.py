"""The engine for small models of units with a scalar definition: each has its loop printed.

``graph`` makes one graph of a model and its gradients, ``printer`` the text of its functions, and
``loop`` is what they run in. The modules lie in a cache folder under a digest of all that is
compiled into them, beside what Numba has compiled.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import numpy as np
import torch

from ..units import LAYERS, Constrained, Unit
from ..units.scalar import Node
from .cpu import adam_state, followed, rules_of, task_of
from .files import write_whole
from .fused import fused_objection
from .graph import (
    CHUNK,
    UNROLLED,
    Loop,
    data_gradients,
    model_graph,
    projected,
    pulled_back,
    regularised,
)
from .layers import aligned_zeros
from .printer import PARAMETERS, ROWS, SUMS, Printer, indented, place
from .random import BLOCK
from .run import Log, Run, initialising

TRAINS, CHECKPOINTS = Run, False

LARGEST = 10  # hidden units, each of which is written out
LARGEST_LOOPED = 2  # and where inputs are a loop, which with more of them is not vectorised
SOURCES = "random.py", "elementary.py", "layers.py", "cpu.py"  # beside ``loop``, compiled into it

FUNCTIONS = """

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
{opening}
    for begin in range(0, rules.batch_size, BLOCK):
        fill(x, task.seed, TRAINING, step, begin, rules.batch_size - 1, low, unit)
        targets(task, x)
        live = rules.batch_size - begin
{rows}
{sums}
    return loss / rules.batch_size
"""

ELEMENTWISE = """

@compiled
def {name}({arguments}):
    real = p.dtype.type
{body}
"""

_compiling = threading.Lock()
Results = list[tuple[str, Node]]  # the left sides of assignments, and what they assign


def assigned(array: str, sign: str, values: dict[Node, Node]) -> Results:
    """Values written to the places of leaves in an array."""
    return [(f"{array}[{place(*leaf.args[2:])}] {sign}", one) for leaf, one in values.items()]


def elementwise(name: str, arguments: str, loops: list[tuple[int, Results]]) -> str:
    """A function of loops over parameters, each of a size and with results."""
    texts = []
    for size, results in loops:
        if results:
            printer = Printer(size)
            printer.print(results)
            texts += [*printer.opening(), *printer.texts[PARAMETERS]]
    return ELEMENTWISE.format(name=name, arguments=arguments, body=indented(texts))


@lru_cache
def printed(names: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[str, dict[str, tuple]]:
    """The functions of a model as text, and the shapes of the memory they need."""
    layers = model_graph(names, sizes)
    (z,) = layers[-1].outputs
    loss, found = data_gradients(z)
    direct = {leaf: d for leaf, d in found.items() if leaf.args[0] == "p"}
    others = {leaf: d for leaf, d in found.items() if leaf.args[0] == "e"}
    turns = max(sizes[0] // CHUNK, 1)
    outputs, training = Printer(turns), Printer(turns)
    outputs.print([("z[r] =", z)])
    training.print([("loss =", loss), *assigned("g", "+=", direct), *assigned("de", "=", others)])
    loops = [(layer.unit, loop) for layer in layers for loop in layer.loops]
    matrices, count = [], 0
    for _, loop in loops:
        for matrix in loop.matrices:
            matrices.append((loop.size, [(f"out[{place(count, 1)}] =", matrix)]))
            count += loop.size

    def each(array: str, sign: str, values: Callable[[Unit, Loop], dict[Node, Node]]):
        return [(loop.size, assigned(array, sign, values(unit, loop))) for unit, loop in loops]

    text = FUNCTIONS.format(
        predict=indented([*outputs.opening(), *outputs.texts[ROWS]]),
        opening=indented(training.opening()),
        rows=indented(training.texts[ROWS], 2),
        sums=indented(training.texts[SUMS]),
    )
    text += elementwise("construct", "p, e", each("e", "=", lambda unit, loop: loop.effective))
    text += elementwise("matrices", "p, out", matrices)
    text += elementwise("project", "p", each("p", "=", projected))
    pulled = each("g", "+=", lambda unit, loop: pulled_back(loop))
    text += elementwise("pull_back", "p, g, de", pulled)
    for name, draft in (("draft", True), ("final", False)):
        penalties = each("g", "+=", partial(regularised, draft=draft))
        text += elementwise(f"regularise_{name}", "p, g, strength", penalties)
    made = sum(loop.size * len(loop.effective) for _, loop in loops)
    rows = max(outputs.used["rows"], training.used["rows"])
    return text, {
        "e": (made,), "de": (made,), "matrices": (count,),
        "rows": (rows, BLOCK), "sums": (training.used["sums"], turns),
    }  # fmt: skip


def folder() -> Path:
    """Where generated modules lie: in the cache of this project."""
    return Path(os.environ.get("NALU_CACHE") or Path.home() / ".cache" / "nalu") / "compiled"


@lru_cache
def compiled_model(names: tuple[str, ...], sizes: tuple[int, ...]):
    """The module of a model and the shapes of its ``Memory``.

    Numba keeps what it compiles beside the file, which therefore has a digest of everything
    that is compiled into it for a name; where nothing can be written, nothing is kept.
    """
    here = Path(__file__).parent
    functions, shapes = printed(names, sizes)
    text = (here / "loop.py").read_text() + functions
    sources = [(here / name).read_bytes() for name in SOURCES]
    digest = hashlib.sha256(b"".join([text.encode(), *sources])).hexdigest()[:16]
    path = folder() / f"model_{digest}.py"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())
    except OSError:
        text = text.replace(", cache=True", "")
    module = module_from_spec(ModuleSpec(f"{__package__}.{path.stem}", None))
    sys.modules[module.__name__] = module  # where Numba looks for what it has kept
    exec(compile(text, path, "exec"), vars(module))
    return module, shapes


# From a specification to arrays and back.


def objection(run: Run) -> str:
    """Why this engine cannot train the run, or ""."""
    inputs = run.task.input_size
    largest = LARGEST if inputs <= UNROLLED else LARGEST_LOOPED
    if len(run.layers) > 1 and run.hidden_size > largest:
        return f"has at most {largest} hidden units for {inputs} inputs"
    defined = [name for name in run.layers if is_defined(LAYERS[name])]
    reason = fused_objection(run, defined, least=1)
    return reason or printing_objection(run.layers, tuple(run.sizes))


@lru_cache
def is_defined(make: Callable[[int, int], Unit]) -> bool:
    """Whether a layer's scalar definition is its forward pass, and its rules are what is read."""
    with initialising(0):
        unit = make(3, 2).double()
    if not hasattr(unit, "scalar") or type(unit).sparsity_error is not Unit.sparsity_error:
        return False
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3)
    with torch.no_grad():
        same = torch.allclose(unit(x), unit.scalar(x.unsqueeze(-2)), equal_nan=True)
    if not isinstance(unit, Constrained):
        return same
    own = type(unit).project_ is not Constrained.project_
    return same and not own and [name for name, _ in unit.named_parameters()] == ["w_hat"]


@lru_cache
def printing_objection(names: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Why the definitions of a model cannot be printed, or ""."""
    try:
        printed(names, sizes)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as reason:
        return f"cannot print {' → '.join(names)} ({reason})"
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
    if reason := objection(run):
        raise ValueError(f"engine 'generated' {reason}: use engine 'auto'")
    with _compiling:  # once, if several threads ask
        module, shapes = compiled_model(run.layers, tuple(run.sizes))
    memory = module.Memory(**{name: aligned_zeros(shape, dtype) for name, shape in shapes.items()})
    state, task, rules = adam_state(run, dtype), task_of(run, dtype), rules_of(run)

    def steps(begin: int, end: int, log: np.ndarray) -> int:
        return module.advance(begin, end, task, rules, state, memory, log)

    return followed(run, steps, state[0], tick)
