"""A graph of scalars as the text of compiled loops.

A function loops over the rows of a block, and then writes what follows from sums over rows; or it
loops over parameters only. It is a sequence of passes, each one loop over rows, over the turns of
the inputs, or over both. They are printed from the last to the first, and each asks the earlier
ones for what it needs: a number of a row, or of a row and turn if it costs a function or a
division, is kept in memory; anything else is computed again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache
from textwrap import indent

from ..units.scalar import FUNCTIONS, Node

TEXT = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "neg": "-{}",
    "abs": "abs({})", "sign": "one if {0} > zero else -one if {0} < zero else zero",
    "relu": "zero if {0} < zero else {0}", "positive": "{} if {} > zero else zero",
    "less": "one if {} < {} else zero", "minimum": "{0} if {0} < {1} else {1}",
    "lesser": "{0} if {1} < {2} else half * {0} if {1} == {2} else zero",
    "clamp": "{1} if {0} < {1} else {2} if {0} > {2} else {0}",
    "within": "{0} if {2} <= {1} <= {3} else zero", "live": "{} if r < live else zero",
    **{name: name + "({})" for name in FUNCTIONS},
}  # fmt: skip
COSTLY = {*FUNCTIONS, "div", "others"}

PARAMETERS, ROWS, SUMS = range(3)


@cache
def part(one: Node) -> int:
    """Which part of a function has a node."""
    if one.op == "rows":
        return SUMS
    return ROWS if "r" in one.axes else max(map(part, one.inner), default=PARAMETERS)


@cache
def turn(one: Node) -> int:
    """Which pass of its part: over rows, even numbers run over inputs too, and odd ones do not."""
    if part(one) != ROWS:
        return int("i" in one.axes)
    before = max((turn(arg) for arg in one.inner if part(arg) == ROWS), default=0)
    if one.op in ("total", "product"):
        return before + 1
    return before + (before + ("i" not in one.axes)) % 2


class Printer:
    """The text of one function.

    Its arrays are p and e, of parameters and what is made of them; x, (in', BLOCK), and t,
    (BLOCK,), of samples; and ``rows``, (·, BLOCK), and ``sums``, (·, turns), to keep numbers in.
    """

    def __init__(self, turns: int):
        self.turns = turns
        self.asked: dict[tuple[int, int], dict[tuple, None]] = defaultdict(dict)
        self.slots: dict[tuple, int] = {}
        self.used: dict[str, int] = defaultdict(int)
        self.prelude: dict[str, None] = {}
        self.zeroed: dict[str, None] = {}
        self.texts: dict[int, list[str]] = {PARAMETERS: [], ROWS: [], SUMS: []}
        self.count = 0

    def print(self, results: list[tuple[str, Node]]) -> None:
        """Everything, so that the ``results`` get their nodes: pairs as of 'z[r] =' and z."""
        for target, one in results:
            self.asked[part(one), turn(one)]["give", one, target] = None
        while self.asked:
            place = max(self.asked)
            self.here, asked = place, self.asked.pop(place)
            self.texts[place[0]].insert(0, self.one_pass(list(asked)))

    # Memory.

    def slot(self, array: str, size: int, *key) -> int:
        if (array, *key) not in self.slots:
            self.slots[array, *key] = self.used[array]
            self.used[array] += size
        return self.slots[array, *key]

    def row(self, key: str, one: Node) -> str:
        """The name of a row of ``rows`` that belongs to a node."""
        turns = self.turns if key == "prefix" or "i" in one.axes else 0
        slot = self.slot("rows", turns or 1, key, one)
        name = f"{key}{slot}"
        if turns:
            self.outer[f"{name} = rows[{slot} + q]"] = None
        else:
            self.prelude[f"{name} = rows[{slot}]"] = None
        return name

    def variable(self, text: str, varies: bool) -> str:
        self.count += 1
        (self.inner if varies else self.outer)[f"v{self.count} = {text}"] = None
        return f"v{self.count}"

    # Nodes.

    def constant(self, value: float) -> str:
        name = {0.0: "zero", 1.0: "one", 0.5: "half"}.get(value)
        if name is None:
            name = f"c{self.slot('constants', 1, value)}"
        self.prelude[f"{name} = real({value!r})"] = None
        return name

    def ask(self, what: str, one: Node, of: Node) -> None:
        self.asked[part(of), turn(of)][what, one, ""] = None

    def value(self, one: Node) -> str:
        """An expression for a node where the pass is now."""
        if isinstance(one, float):
            return self.constant(one)
        if one not in self.names:
            self.names[one] = self.found(one)
        return self.names[one]

    def found(self, one: Node) -> str:
        op, axes = one.op, one.axes
        if op == "number":
            return self.constant(one.args[0])
        if op == "leaf":
            return self.leaf(*one.args)
        if op == "rows":
            self.ask("rows", one, one.args[0])
            slot = self.slot("sums" if axes else "scalars", 1, one)
            return self.variable(f"sums[{slot}, q]", False) if axes else f"s{slot}"
        if op in ("total", "product"):
            if part(one) != ROWS:
                raise NotImplementedError("a sum of parameters over a loop of inputs")
            self.ask("join", one, one.args[0])
            return f"{self.row('joined', one)}[r]"
        kept = "r" in axes and ("i" not in axes or op in COSTLY)
        if not kept or (part(one), turn(one)) == self.here:
            return self.computed(one)
        self.ask("keep", one, one)
        return f"{self.row('row', one)}[r]"

    def computed(self, one: Node) -> str:
        op, args = one.op, one.args
        if op == "others":
            return self.others(*args)
        if op in ("clamp", "within"):
            *args, low, high = args
            if low == -math.inf or high == math.inf:
                return self.variable(self.one_sided(op, args, low, high), "r" in one.axes)
            args = (*args, low, high)
        for name, value in (("zero", 0.0), ("one", 1.0), ("half", 0.5)):
            if name in TEXT[op]:
                self.constant(value)
        return self.variable(TEXT[op].format(*map(self.value, args)), "r" in one.axes)

    def one_sided(self, op: str, args: list[Node], low: float, high: float) -> str:
        sign, bound = ("<", low) if high == math.inf else (">", high)
        names = [self.value(arg) for arg in args]
        bound = self.value(bound)
        if op == "clamp":
            return f"{bound} if {names[0]} {sign} {bound} else {names[0]}"
        return f"{self.value(0.0)} if {names[1]} {sign} {bound} else {names[0]}"

    def leaf(self, name: str, axes: str, first: int = 0, stride: int = 0) -> str:
        index = place(first, stride)
        if name in ("p", "e", "de"):
            return self.variable(f"{name}[{index}]", False)
        if name == "x":
            row = f"x_{first}" if stride else f"x{first}"
            (self.outer if stride else self.prelude)[f"{row} = x[{index}]"] = None
            return f"{row}[r]"
        return f"{name}[r]" if axes else name

    def others(self, d: Node, whole: Node, factor: Node) -> str:
        """d times the product of the factors of all other turns: those before and those after."""
        self.descending = True
        before, after = self.row("prefix", whole), self.row("after", whole)
        self.first.append(f"for r in range(BLOCK):\n    {after}[r] = {self.value(d)}")
        value = self.variable(f"{after}[r] * {before}[r]", True)
        self.inner[f"{after}[r] = {after}[r] * {self.value(factor)}"] = None
        return value

    # Passes.

    def one_pass(self, asked: list[tuple]) -> str:
        """The text of a pass that does what was asked of it."""
        self.names: dict[Node, str] = {}
        self.outer: dict[str, None] = {}
        self.inner: dict[str, None] = {}
        self.first: list[str] = []
        self.after: list[str] = []
        self.descending = False
        for what, one, target in asked:
            getattr(self, f"do_{what}")(one, target)
        lanes = self.here[0] == ROWS
        looped = self.here[1] % 2 == (0 if lanes else 1)
        body = list(self.outer)
        if lanes:
            body += ["for r in range(BLOCK):", *(f"    {line}" for line in self.inner)]
        body += self.after
        if looped:
            order = (
                f"range({self.turns - 1}, -1, -1)" if self.descending else f"range({self.turns})"
            )
            body = [f"for q in {order}:", *(f"    {line}" for line in body)]
        return "\n".join([*self.first, *body])

    def do_give(self, one: Node, target: str) -> None:
        (self.inner if "[r]" in target else self.outer)[f"{target} {self.value(one)}"] = None

    def do_keep(self, one: Node, _: str) -> None:
        self.inner[f"{self.row('row', one)}[r] = {self.value(one)}"] = None

    def do_rows(self, one: Node, _: str) -> None:
        slot = self.slot("sums" if one.axes else "scalars", 1, one)
        name, value = f"s{slot}", self.value(one.args[0])
        self.constant(0.0)
        if one.axes:
            name = f"sum{slot}"
            self.outer[f"{name} = zero"] = None
            self.after.append(f"sums[{slot}, q] += {name}")
            self.zeroed[f"sums[{slot}, :] = zero"] = None
        else:
            self.zeroed[f"{name} = zero"] = None
        self.inner[f"{name} = plus({name}, {value})"] = None

    def do_join(self, one: Node, _: str) -> None:
        row, value = self.row("joined", one), self.value(one.args[0])
        start, sign = ("zero", "+") if one.op == "total" else ("one", "*")
        self.constant(0.0 if one.op == "total" else 1.0)
        self.first.append(f"for r in range(BLOCK):\n    {row}[r] = {start}")
        if ("rows", "prefix", one) in self.slots:
            self.inner[f"{self.row('prefix', one)}[r] = {row}[r]"] = None
        self.inner[f"{row}[r] = {row}[r] {sign} {value}"] = None

    def opening(self) -> list[str]:
        """What comes before all parts."""
        return [*self.prelude, *self.zeroed]


def place(first: int, stride: int = 0) -> str:
    """The index of an element of an array, at turn q of a loop if it has a stride."""
    turns = "q" if stride == 1 else f"{stride} * q"
    return " + ".join([f"{first}"] * (first > 0 or not stride) + [turns] * (stride > 0))


def indented(texts: list[str], by: int = 1) -> str:
    return indent("\n".join(texts), by * "    ")
