"""The formulas of ``scalar`` as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from .scalar import Node, X, symbolic

SYMBOLS = {"weight": "W", "bias": "b", "gate_weight": "G"}
FORMS = {
    "add": "{} + {}", "sub": "{} - {}", "neg": "-{}", "mul": r"{} \, {}",
    "div": r"\frac{{{}}}{{{}}}", "abs": r"\left|{}\right|",
    "total": r"\sum_i {}", "product": r"\prod_i {}",
    "sigmoid": r"\sigma({})", "less": "[{} < {}]", "relu": r"\max(0, {})",
    "minimum": r"\min({}, {})", "sign": r"\operatorname{{sign}}({})",
    **{name: rf"\{name}({{}})" for name in ("exp", "log", "tanh", "cos", "sin")},
}  # fmt: skip
BINDING = {"add": 0, "sub": 0, "total": 1, "product": 1, "neg": 2, "mul": 3}  # others bind most
WITHIN = {"add": (0, 0), "sub": (0, 1), "neg": (1,), "mul": (2, 3), "total": (1,), "product": (1,)}


def symbol(name: str, axes: str) -> str:
    """A parameter as it is printed: ``shared.w_hat`` of o and i is Ŵ_oi, ``add.w_hat`` Ŵ^add_oi."""
    path, _, name = name.rpartition(".")
    letter = SYMBOLS.get(name, name)
    if name.endswith("_hat"):
        letter = rf"\hat{{{name[0].upper()}}}"
    if path not in ("", "shared"):
        letter += rf"^\mathrm{{{path}}}"
    subscript = "".join(axis for axis in ("o", "i") if axis in axes)
    return f"{letter}_{{{subscript}}}" if subscript else letter


def latex(formula: Node, names: dict[Node, str] | None = None) -> str:
    """The LaTeX of a formula, as it was written, with names for some of its parts."""
    names, op, args = names or {}, formula.op, formula.args
    if formula in names:
        return names[formula]
    if op == "leaf":
        return symbol(*args)
    if op == "number":
        return number(args[0])
    square = op == "mul" and args[0] is args[1]
    within = (4, 4) if square else WITHIN.get(op, (0,) * len(args))
    parts = [latex(arg, names) for arg in formula.inner]
    for k, arg in enumerate(formula.inner):
        if arg not in names and BINDING.get(arg.op, 4) < within[k]:
            parts[k] = rf"\left({parts[k]}\right)"
    if square:
        return f"{parts[0]}^2"
    if op == "clamp":
        low, high = args[1:]
        part = parts[0] if low == -math.inf else rf"\max({parts[0]}, {number(low)})"
        return part if high == math.inf else rf"\min({part}, {number(high)})"
    return FORMS[op].format(*parts)


def number(value: float) -> str:
    mantissa, _, power = f"{value:.6g}".partition("e")
    if not power:
        return mantissa
    return rf"{mantissa} \cdot 10^{{{int(power)}}}".removeprefix(r"1 \cdot ")


def equations(make: Callable[[int, int], nn.Module]) -> list[str]:
    """The LaTeX of a unit: its effective matrices, unless they are parameters, gate, and output."""
    unit = symbolic(make)
    output = unit.scalar(X)
    made = [matrix for matrix in unit.matrices if matrix.op != "leaf"]
    names = {matrix: f"W{k * chr(39)}_{{oi}}" for k, matrix in enumerate(made)}
    names |= {gate: "g_o" for gate in gates(output)}
    lines = [f"{name} = {latex(part)}" for part, name in names.items()]
    return [*lines, f"z_o = {latex(output, names)}"]


def gates(formula: Node) -> set[Node]:
    """The gates in a formula, σ of something that belongs to an output: what is chosen by."""
    gate = formula.op == "sigmoid" and "o" in formula.axes and "i" not in formula.axes
    return {formula} if gate else set().union(*map(gates, formula.inner))
