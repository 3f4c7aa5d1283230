"""Steps of a derivation, carried out by sympy instead of by hand."""

from __future__ import annotations

import sympy as sp
from IPython.display import Math


def identity(left: sp.Expr, right: sp.Expr, name: str = "", relation: str = "=") -> Math:
    """``name = left = right`` as maths, after seeing that the last two are the same.

    Derivatives, integrals and limits that are not yet evaluated are shown as they are given.

    Args:
        name: what both sides are, in LaTeX.
        relation: between the name and the sides, in LaTeX.

    Raises:
        ValueError: sympy does not find that the difference is zero.
    """
    left, right = sp.sympify(left), sp.sympify(right)
    difference = (left - right).doit().rewrite(sp.exp)
    difference = sp.simplify(difference.replace(sp.log, _expanded_log))
    if difference != 0:
        raise ValueError(f"{left} - ({right}) is {difference}, not 0")
    sides = " = ".join(dict.fromkeys([sp.latex(left), sp.latex(right)]))  # one, if the same
    return Math(f"{name} {relation} {sides}" if name else sides)


def _expanded_log(argument: sp.Expr) -> sp.Expr:
    """log of a quotient of positive numbers as a difference, so that the parts can cancel."""
    return sp.expand_log(sp.log(sp.factor(sp.together(argument))), force=True)


def expectation(polynomial: sp.Expr, moments: dict[sp.Symbol, list[sp.Expr]]) -> sp.Expr:
    """E of a polynomial in independent random variables.

    Args:
        moments: for each variable E[x], E[x²] and so on, as far as the polynomial needs.
    """
    variables = list(moments)
    total = sp.Integer(0)
    for powers, coefficient in sp.Poly(polynomial, *variables).terms():
        parts = [moments[x][n - 1] for x, n in zip(variables, powers, strict=True) if n]
        total += coefficient * sp.prod(parts)
    return total


def second_order(function: sp.Expr, around: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The Taylor polynomial of second order of a function of several variables."""
    steps = {x: x - point for x, point in around.items()}
    total = function.subs(around)
    for x in around:
        total += function.diff(x).subs(around) * steps[x]
        for y in around:
            total += function.diff(x, y).subs(around) * steps[x] * steps[y] / 2
    return total
