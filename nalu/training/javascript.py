"""Printed functions in JavaScript, for training in a reader's browser.

What ``printer`` writes is a small part of Python: assignments, loops over ranges, arithmetic and
choices. Here each of these has its counterpart. Numbers are float64 between arrays, and arrays of
two dimensions are arrays of rows.
"""

from __future__ import annotations

import ast

from ..units.scalar import FUNCTIONS

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
RELATIONS = {ast.Lt: "<", ast.Gt: ">", ast.LtE: "<=", ast.GtE: ">=", ast.Eq: "==="}
MATHS = {*FUNCTIONS, "abs", "min", "max", "sqrt"} - {"sigmoid"}
SIGMOID = "const sigmoid = (x) => 1 / (1 + Math.exp(-x));\n"


def expression(tree: ast.expr) -> str:
    match tree:
        case ast.Constant(value):
            return repr(value)
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{expression(value)}.{name}"
        case ast.UnaryOp(ast.USub(), value):
            return f"(-{expression(value)})"
        case ast.BinOp(left, operator, right):
            return f"({expression(left)} {OPERATORS[type(operator)]} {expression(right)})"
        case ast.IfExp(test, this, other):
            return f"({expression(test)} ? {expression(this)} : {expression(other)})"
        case ast.Compare(left, relations, rights):
            sides = [expression(side) for side in (left, *rights)]
            signs = [RELATIONS[type(relation)] for relation in relations]
            pairs = zip(sides, signs, sides[1:], strict=False)
            return "(" + " && ".join(f"{a} {sign} {b}" for a, sign, b in pairs) + ")"
        case ast.Call(ast.Name("real"), [value]):
            return expression(value)
        case ast.Call(ast.Name("plus"), [a, b]):
            return f"({expression(a)} + {expression(b)})"
        case ast.Call(ast.Name(name), arguments):
            name = f"Math.{name}" if name in MATHS else name
            return f"{name}({', '.join(map(expression, arguments))})"
        case ast.Subscript(array, ast.Tuple(indices)):
            return expression(array) + "".join(f"[{expression(index)}]" for index in indices)
        case ast.Subscript(array, index):
            return f"{expression(array)}[{expression(index)}]"
    raise ValueError(f"JavaScript has no {ast.unparse(tree)!r} here")


def statement(tree: ast.stmt) -> list[str]:
    match tree:
        case ast.Expr(ast.Constant()) | ast.Assign([ast.Name("real")]):
            return []
        case ast.Expr(value):
            return [f"{expression(value)};"]
        case ast.Assign([ast.Subscript(array, ast.Tuple([index, ast.Slice()]))], value):
            return [f"{expression(array)}[{expression(index)}].fill({expression(value)});"]
        case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)):
            pairs = zip(targets, values, strict=True)
            return [f"{expression(one)} = {expression(value)};" for one, value in pairs]
        case ast.Assign([ast.Tuple(targets)], value):
            return [f"[{', '.join(map(expression, targets))}] = {expression(value)};"]
        case ast.Assign([target], value):
            return [f"{expression(target)} = {expression(value)};"]
        case ast.AugAssign(target, operator, value):
            return [f"{expression(target)} {OPERATORS[type(operator)]}= {expression(value)};"]
        case ast.Return(value):
            return [f"return {expression(value)};"]
        case ast.For(ast.Name(q), ast.Call(ast.Name("range"), bounds), body):
            ends = [expression(bound) for bound in bounds]
            begin, end, step = [["0", *ends, "1"], [*ends, "1"], ends][len(ends) - 1]
            sign = ">" if step == "(-1)" else "<"
            lines = [f"  {line}" for one in body for line in statement(one)]
            return [f"for (let {q} = {begin}; {q} {sign} {end}; {q} += {step}) {{", *lines, "}"]
    raise ValueError(f"JavaScript has no {ast.unparse(tree)!r} here")


def function(tree: ast.FunctionDef) -> list[str]:
    parameters = [argument.arg for argument in tree.args.args]
    assigned = [
        one.id
        for one in ast.walk(tree)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    ]
    local = [
        name for name in dict.fromkeys(assigned) if name not in ("real", "q", "r", *parameters)
    ]
    lines = [f"let {', '.join(local)};"] if local else []
    lines += [line for one in tree.body for line in statement(one)]
    return [f"function {tree.name}({', '.join(parameters)}) {{", *(f"  {x}" for x in lines), "}"]


def javascript(text: str) -> str:
    """The functions of printed text, in JavaScript; those they call must be there too."""
    functions = [one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)]
    return SIGMOID + "\n".join(line for one in functions for line in function(one)) + "\n"
