"""A model as one graph of scalars, and its gradients: from definitions to what is compiled.

``model_graph`` writes out the formulas of ``nalu.units.scalar`` for every output and input, so
the only axes left are rows (r) and, when a layer reads many inputs, one loop over them (i): with
CHUNK columns to a turn of the loop, its leaves are the first of a turn, and ``total`` and
``product`` are over the turns. ``gradients`` is reverse-mode differentiation, with PyTorch's
derivatives at kinks; a product passes on the product of its other factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, reduce
from typing import NamedTuple

from ..units import Constrained
from ..units.scalar import ONE, X, ZERO, Node, as_node, node, plus, symbolic, times
from .run import LAYERS

UNROLLED = 8  # inputs of a layer that are written out; more become a loop
CHUNK = 4  # inputs to a turn of that loop


class Element(NamedTuple):
    """A place along an axis: a number, or one of the turns of a loop, with the first and stride."""

    first: int
    stride: int = 0


def places(size: int) -> list[Element]:
    """Where the inputs of a layer are: written out, or in turns and a rest."""
    turns = size // CHUNK if size > UNROLLED else 0
    in_turns = [Element(j, CHUNK) for j in range(CHUNK if turns else 0)]
    return in_turns + [Element(j) for j in range(CHUNK * turns, size)]


class LayerGraph(NamedTuple):
    """One layer of a model: the nodes of its outputs, matrices and parameters."""

    outputs: list[Node]
    matrices: list[Node]  # every element of every effective matrix
    parameters: dict[Node, Node]  # every element, and its symbol in the definition
    unit: Constrained  # or another unit, symbolic
    begin: int  # of its parameters among those of the model
    end: int


def layer_graph(name: str, xs: dict[Element, Node], sizes: tuple[int, int], begin: int):
    """The layer of a name on inputs, with its parameters from ``begin`` on."""
    unit, (inputs, outputs) = symbolic(LAYERS[name]), sizes
    extent = {"o": outputs, "i": inputs}
    starts, end = {}, begin
    for symbol in [p for module in unit.modules() for p in module._parameters.values()]:
        starts[symbol], size = end, 1
        for axis in symbol.args[1]:
            size *= extent[axis]
        end += size
    parameters: dict[Node, Node] = {}

    def element(symbol: Node, place: dict[str, Element]) -> Node:
        first, stride, step = starts[symbol], 0, 1
        for axis in reversed(symbol.args[1]):
            first, stride = first + step * place[axis].first, stride + step * place[axis].stride
            step *= extent[axis]
        leaf = node("leaf", "p", "i" if stride else "", first, stride)
        parameters[leaf] = symbol
        return leaf

    @cache
    def at(formula: Node, o: Element, i: Element | None) -> Node:
        """The formula of one output and, inside a sum or product, of one input."""
        if formula is X:
            return xs[i]
        if formula.op == "leaf":
            return element(formula, {"o": o, "i": i})
        if formula.op not in ("total", "product"):
            args = (at(a, o, i) if isinstance(a, Node) else a for a in formula.args)
            return node(formula.op, *args)
        join, start = (plus, ZERO) if formula.op == "total" else (times, ONE)
        each = [(j, at(formula.args[0], o, j)) for j in xs]
        turns = reduce(join, (one for j, one in each if j.stride), start)
        rest = reduce(join, (one for j, one in each if not j.stride), start)
        return join(node(formula.op, turns), rest) if "i" in turns.axes else rest

    everywhere = [(Element(o), i) for o in range(outputs) for i in xs]
    y = unit.scalar(X)
    return LayerGraph(
        [at(y, Element(o), None) for o in range(outputs)],
        [at(matrix, *place) for matrix in unit.matrices for place in everywhere],
        parameters,
        unit,
        begin,
        end,
    )


def model_graph(names: tuple[str, ...], sizes: tuple[int, ...]) -> list[LayerGraph]:
    """The layers of a model, one on the other; ``sizes`` are those of input and outputs."""
    xs = {i: node("leaf", "x", "ir" if i.stride else "r", *i) for i in places(sizes[0])}
    layers, begin = [], 0
    for name, *size in zip(names, sizes, sizes[1:], strict=False):
        layers.append(layer_graph(name, xs, tuple(size), begin))
        begin = layers[-1].end
        xs = {Element(o): z for o, z in enumerate(layers[-1].outputs)}
    return layers


# Differentiation.

PARTIALS: dict[str, Callable[..., tuple[Node, ...]]] = {  # of d = ∂L/∂z, z and z's arguments
    "add": lambda d, z, a, b: (d, d),
    "sub": lambda d, z, a, b: (d, -d),
    "neg": lambda d, z, a: (-d,),
    "mul": lambda d, z, a, b: (times(d, b), times(d, a)),
    "div": lambda d, z, a, b: (d / b, -(d * z / b)),
    "abs": lambda d, z, a: (d * a.sign(),),
    "exp": lambda d, z, a: (times(d, z),),
    "log": lambda d, z, a: (d / a,),
    "tanh": lambda d, z, a: (d * (1 - z * z),),
    "sigmoid": lambda d, z, a: (d * (z * (1 - z)),),
    "cos": lambda d, z, a: (-(d * a.sin()),),
    "sin": lambda d, z, a: (d * a.cos(),),
    "relu": lambda d, z, a: (node("positive", d, z),),
    "clamp": lambda d, z, a, low, high: (node("within", d, a, low, high),),
    "minimum": lambda d, z, a, b: (node("lesser", d, a, b), node("lesser", d, b, a)),
    "total": lambda d, z, a: (d,),
    "product": lambda d, z, a: (node("others", d, z, a),),
    "sign": lambda d, z, a: (),
    "less": lambda d, z, a, b: (),
}
LINEAR = "add", "sub", "neg"


def topological(roots: Iterable[Node]) -> list[Node]:
    """Everything that roots are made of, arguments first."""
    order: dict[Node, None] = {}

    def visit(one: Node) -> None:
        if one not in order:
            for arg in one.inner:
                visit(arg)
            order[one] = None

    for root in roots:
        visit(root)
    return list(order)


def summed(d: Node, axes: frozenset[str]) -> Node:
    """d, summed over those of its axes that are not in ``axes``."""
    if d.axes <= axes:
        return d
    if "r" in d.axes - axes:
        return node("rows", d, "".join(sorted(axes & d.axes)))
    return node("total", d)


def gradients(seeds: Iterable[tuple[Node, Node]], leaves: Iterable[Node]) -> dict[Node, Node]:
    """∂L/∂leaf for leaves of a graph, from pairs of a node and what ∂L/∂node begins with.

    Derivatives go down by axes, so that all that is summed over rows is summed once; sums and
    differences of parameters hand them on as they are.
    """
    seeds = list(seeds)
    wanted = set(leaves)
    order = topological(root for root, _ in seeds)
    leads: set[Node] = set()
    for one in order:
        if one in wanted or any(arg in leads for arg in one.inner):
            leads.add(one)
    bars: dict[Node, dict[frozenset, Node]] = {one: {} for one in order}

    def add(one: Node, d: Node) -> None:
        bars[one][d.axes] = plus(bars[one].get(d.axes, ZERO), d)

    for root, d in seeds:
        add(root, d)
    found = {}
    for z in reversed(order):
        parts = bars[z]
        if z not in leads or not parts:
            continue
        if z.op not in LINEAR:
            wide = [d for d in parts.values() if not d.axes <= z.axes]
            narrow = [summed(d, z.axes) for d in wide]
            narrow += [d for d in parts.values() if d.axes <= z.axes]
            parts = {None: reduce(plus, narrow)}
        if z in wanted:
            found[z] = parts[None]
        elif z.op in PARTIALS:
            for d in parts.values():
                for arg, partial in zip(z.inner, PARTIALS[z.op](d, z, *z.args), strict=False):
                    if arg in leads:
                        add(arg, partial)
    return found


def training_graph(layers: list[LayerGraph], draft: bool) -> tuple[Node, dict[Node, Node]]:
    """The sum of squared errors of a batch, and the gradient of every parameter's loss.

    Leaves: ``t``, the target; ``scale``, 2 / batch size; ``live``, whether a row counts; and
    ``strength``, that of the protocol's sparsity regulariser.
    """
    (z,) = layers[-1].outputs
    t, scale = node("leaf", "t", "r"), node("leaf", "scale", "")
    error = node("live", z - t)
    seeds = [(z, error * scale)]
    strength = node("leaf", "strength", "")
    for layer in layers:
        unit = layer.unit
        if not isinstance(unit, Constrained):
            continue
        share = as_node(1 / (layer.end - layer.begin))
        for w in layer.parameters:
            if draft:
                seeds.append((unit.bias_penalty(w), strength * share))
                seeds.append((unit.out_of_bounds_penalty(w), share))
            else:
                sparsity = unit.sparsity_penalty(w.clamp(*unit.interval))
                seeds.append((sparsity, strength * share))
    leaves = [p for layer in layers for p in layer.parameters]
    return node("rows", error * error, ""), gradients(seeds, leaves)
