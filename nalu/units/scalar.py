"""The definition of a unit as one scalar formula, from which everything else is made.

A unit's method ``scalar(x)`` gives its output o from its input i, x, and the elements of its
parameters that belong to o and i, with sums and products over the inputs where the equation has
them:

    def scalar(self, x):
        return total(self.weight * x)

It is written once and read twice. On tensors, x (..., 1, in_features) and parameters (out, in),
(out,) or (in,) broadcast to the output, (..., out_features). On symbols, ``symbolic(unit)`` has
the same methods on a graph of ``Node``, which ``typeset`` prints and ``nalu.training.graph``
differentiates and compiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn


class Node:
    """A number that depends on the axes it names: o(utput), i(nput), r(ow of a batch).

    Made by ``node`` only, so the same formula is the same object. It has the elementwise
    methods of a tensor that equations need.
    """

    def __init__(self, op: str, args: tuple, axes: frozenset[str]):
        self.op, self.args, self.axes = op, args, axes

    @property
    def inner(self) -> list[Node]:
        """Those of its arguments that are nodes."""
        return [arg for arg in self.args if isinstance(arg, Node)]

    def __add__(self, other):
        return plus(self, as_node(other))

    def __radd__(self, other):
        return plus(as_node(other), self)

    def __sub__(self, other):
        return node("sub", self, as_node(other))

    def __rsub__(self, other):
        return node("sub", as_node(other), self)

    def __mul__(self, other):
        return times(self, as_node(other))

    def __rmul__(self, other):
        return times(as_node(other), self)

    def __truediv__(self, other):
        return node("div", self, as_node(other))

    def __rtruediv__(self, other):
        return node("div", as_node(other), self)

    def __pow__(self, exponent: int):
        return math.prod([self] * exponent)

    def __neg__(self):
        return node("neg", self)

    def __abs__(self):
        return node("abs", self)

    def __lt__(self, other):
        return node("less", self, as_node(other))

    def clamp(self, min: float | None = None, max: float | None = None):
        low, high = -math.inf if min is None else min, math.inf if max is None else max
        return node("clamp", self, float(low), float(high))

    def minimum(self, other):
        return node("minimum", self, as_node(other))

    @property
    def T(self):
        return self  # axes have names, not places


def _elementwise(name: str) -> Callable[[Node], Node]:
    return lambda self: node(name, self)


FUNCTIONS = "exp", "log", "tanh", "sigmoid", "cos", "sin"
for _name in (*FUNCTIONS, "abs", "sign", "relu"):
    setattr(Node, _name, _elementwise(_name))


@cache
def node(op: str, *args) -> Node:
    """The node of an operation on nodes and constants.

    The leaves are ``number``, with its value, and ``leaf``, with a name, its axes and, if it is
    an element of an array, the first such element and the stride of axis i.
    """
    axes = set("".join(args[1]) if op == "leaf" else "")
    axes = axes.union(*(arg.axes for arg in args if isinstance(arg, Node)))
    if op in ("total", "product"):
        axes -= {"i"}
    if op == "rows":  # a sum over rows, and over all axes that are not in its second argument
        axes &= set(args[1])
    return Node(op, args, frozenset(axes))


def as_node(value) -> Node:
    return value if isinstance(value, Node) else node("number", float(value))


ZERO, ONE = as_node(0), as_node(1)


def plus(a: Node, b: Node) -> Node:
    return b if a is ZERO else a if b is ZERO else node("add", a, b)


def times(a: Node, b: Node) -> Node:
    return b if a is ONE else a if b is ONE else node("mul", a, b)


# What definitions are written with, for nodes and tensors alike.


def exp(v):
    return v.exp()


def log(v):
    return v.log()


def tanh(v):
    return v.tanh()


def sigmoid(v):
    return v.sigmoid()


def cos(v):
    return v.cos()


def total(v):
    """Σ_i v_i: a tensor's sum over its last dimension."""
    return node("total", v) if isinstance(v, Node) else v.sum(-1)


def product(v):
    """Π_i v_i: a tensor's product over its last dimension, by pairs.

    Only multiplications, so first and second derivatives are right where factors are zero
    and under ``torch.func``; those of ``torch.prod`` are not always.
    """
    if isinstance(v, Node):
        return node("product", v)
    while (n := v.shape[-1]) > 1:
        if n % 2:
            v = F.pad(v, (0, 1), value=1.0)
        v = v[..., 0::2] * v[..., 1::2]
    return v[..., 0]


def axes_of(parameter: Tensor, in_features: int, out_features: int) -> str:
    """Which axes the dimensions of a parameter are, by their sizes, which differ."""
    sizes = {in_features: "i", out_features: "o", 1: ""}
    return "".join(sizes[size] for size in parameter.shape)


def symbolic(make: Callable[[int, int], nn.Module]) -> nn.Module:
    """The unit that ``make(in_features, out_features)`` gives, with symbols for parameters.

    A parameter is the leaf of its full name, as in ``unit.named_parameters()``.
    """
    sizes = 2, 3
    unit = make(*sizes, device="meta")  # which draws nothing
    for path, module in unit.named_modules():
        for name, parameter in module._parameters.items():
            full = f"{path}.{name}" if path else name
            module._parameters[name] = node("leaf", full, axes_of(parameter, *sizes))
    return unit


X = node("leaf", "x", "ir")
