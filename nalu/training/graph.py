"""A model as one graph of scalars, and its gradients: from definitions to what is compiled.

``model_graph`` writes out the formulas of ``nalu.units.scalar`` for every output and input, so
the only axes left are rows (r) and, when a layer reads many inputs, one loop over them (i): with
CHUNK columns to a turn of the loop, its leaves are the first of a turn, and ``total`` and
``product`` are over the turns. ``gradients`` is reverse-mode differentiation, with PyTorch's
derivatives at kinks; a product passes on the product of its other factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, reduce
from typing import NamedTuple

from ..units import LAYERS, Constrained, Unit
from ..units.scalar import ONE, ZERO, Node, X, as_node, node, plus, symbolic, times

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


class Loop(NamedTuple):
    """Parameters of a layer that have the same axes, element by element: axis i is all of them."""

    size: int
    parameters: list[Node]
    effective: dict[Node, Node]  # leaves of the loops over rows, and what they are made of
    matrices: list[Node]  # the effective matrices that are made of them


class Layer(NamedTuple):
    """One layer of a model: its unit on symbols, its loops, and the nodes of its outputs."""

    unit: Unit
    loops: list[Loop]
    outputs: list[Node]
    parameters: int  # how many there are


def axes_of(formula: Node) -> str | None:
    """The axes of the parameters that a formula is made of, if they have the same and it is."""
    leaves = [one for one in topological([formula]) if one.op == "leaf"]
    axes = {leaf.args[1] for leaf in leaves}
    return axes.pop() if len(axes) == 1 and X not in leaves else None


def effective(formula: Node) -> list[Node]:
    """The largest parts of a formula that are made of parameters of the same axes alone.

    Sums and differences are no such parts: their terms are.
    """
    if formula.op not in (*LINEAR, "leaf") and axes_of(formula) is not None:
        return [formula]
    return [part for arg in formula.inner for part in effective(arg)]


def rebuilt(formula: Node, instead: dict[Node, Node]) -> Node:
    """A formula with other nodes in place of some."""
    if formula in instead:
        return instead[formula]
    args = (rebuilt(arg, instead) if isinstance(arg, Node) else arg for arg in formula.args)
    return node(formula.op, *args) if formula.inner else formula


def layer_of(unit: Unit, xs: dict[Element, Node], sizes: tuple[int, int], first: int, made: int):
    """The layer of a symbolic unit on inputs.

    Its parameters begin at ``first`` of the model's, and what is made of them at ``made``.
    """
    extent = dict(zip("io", sizes, strict=True))
    begins: dict[Node, tuple[str, int]] = {}
    symbols: dict[Node, Node] = {}
    loops: dict[str, Loop] = {}
    y, begin = unit.scalar(X), first
    for symbol in [p for module in unit.modules() for p in module._parameters.values()]:
        axes = symbol.args[1]
        loop = loops.setdefault(axes, Loop(math.prod(extent[axis] for axis in axes), [], {}, []))
        symbols[symbol] = node("leaf", "p", "i", begin, 1)
        loop.parameters.append(symbols[symbol])
        begins[symbol] = "p", begin
        begin += loop.size
    for formula in dict.fromkeys(effective(y)):
        loop = loops[axes_of(formula)]
        loop.effective[node("leaf", "e", "i", made, 1)] = rebuilt(formula, symbols)
        begins[formula] = "e", made
        made += loop.size
    for matrix in unit.matrices:
        loops[axes_of(matrix)].matrices.append(rebuilt(matrix, symbols))

    def element(formula: Node, place: dict[str, Element]) -> Node:
        array, start = begins[formula]
        stride, step = 0, 1
        for axis in reversed(axes_of(formula)):
            start, stride = start + step * place[axis].first, stride + step * place[axis].stride
            step *= extent[axis]
        return node("leaf", array, "i" if stride else "", start, stride)

    @cache
    def at(formula: Node, o: Element, i: Element | None) -> Node:
        """The formula of one output and, inside a sum or product, of one input."""
        if formula is X:
            return xs[i]
        if formula in begins:
            return element(formula, {"o": o, "i": i})
        if formula.op not in ("total", "product"):
            args = (at(a, o, i) if isinstance(a, Node) else a for a in formula.args)
            return node(formula.op, *args)
        join, start = (plus, ZERO) if formula.op == "total" else (times, ONE)
        each = [(j, at(formula.args[0], o, j)) for j in xs]
        turns = reduce(join, (one for j, one in each if j.stride), start)
        rest = reduce(join, (one for j, one in each if not j.stride), start)
        return join(node(formula.op, turns), rest) if "i" in turns.axes else rest

    outputs = [at(y, Element(o), None) for o in range(extent["o"])]
    return Layer(unit, list(loops.values()), outputs, begin - first), made


def model_graph(names: tuple[str, ...], sizes: tuple[int, ...]) -> list[Layer]:
    """The layers of a model, one on the other; ``sizes`` are those of input and outputs."""
    xs = {i: node("leaf", "x", "ir" if i.stride else "r", *i) for i in places(sizes[0])}
    layers, first, made = [], 0, 0
    for name, *size in zip(names, sizes, sizes[1:], strict=False):
        layer, made = layer_of(symbolic(LAYERS[name]), xs, tuple(size), first, made)
        layers.append(layer)
        first += layer.parameters
        xs = {Element(o): z for o, z in enumerate(layer.outputs)}
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


def gradients(seeds: Iterable[tuple[Node, Node]], wanted: Iterable[Node]) -> dict[Node, Node]:
    """∂L/∂leaf for leaves of a graph, from pairs of a node and what ∂L/∂node begins with.

    Derivatives go down by axes, so that all that is summed over rows is summed once; sums and
    differences of parameters hand them on as they are.
    """
    seeds = list(seeds)
    wanted = set(wanted)
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


def data_gradients(z: Node) -> tuple[Node, dict[Node, Node]]:
    """The sum of squared errors of a batch, and its gradients for all that z begins with.

    Leaves beside those of z: ``t``, the target, and ``scale``, 2 / batch size; ``live`` is zero
    in rows that do not count.
    """
    error = node("live", z - node("leaf", "t", "r"))
    elements = [one for one in topological([z]) if one.op == "leaf" and one.args[0] != "x"]
    found = gradients([(z, error * node("leaf", "scale", ""))], elements)
    return node("rows", error * error, ""), found


def pulled_back(loop: Loop) -> dict[Node, Node]:
    """The gradients of a loop's parameters from ``de``, those of what is made of them."""
    made = [(one, node("leaf", "de", *e.args[1:])) for e, one in loop.effective.items()]
    return gradients(made, loop.parameters)


def regularised(unit: Unit, loop: Loop, draft: bool) -> dict[Node, Node]:
    """The gradients of what a protocol adds to the loss for the parameters of a loop.

    A leaf ``strength`` is that of the protocol's sparsity regulariser.
    """
    if not isinstance(unit, Constrained):
        return {}
    strength, share = node("leaf", "strength", ""), as_node(1 / loop.size)
    seeds = []
    for w in loop.parameters:
        if draft:
            seeds.append((unit.bias_penalty(w), strength * share))
            seeds.append((unit.out_of_bounds_penalty(w), share))
        else:
            seeds.append((unit.sparsity_penalty(w.clamp(*unit.interval)), strength * share))
    return gradients(seeds, loop.parameters)


def projected(unit: Unit, loop: Loop) -> dict[Node, Node]:
    """Where the final protocol moves the parameters of a loop."""
    if not isinstance(unit, Constrained):
        return {}
    return {p: p.clamp(*unit.interval) for p in loop.parameters}
