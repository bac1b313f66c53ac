"""Formulas of SBML files: MathML as functions of the values of symbols."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import libsbml
from jax import Array

from carpk._types import Numbers, Values

TIME = "csymbol time"  # no id can be this
KIND = {  # of a node: the name of its MathML element
    number: re.sub(r"^AST_((FUNCTION|RELATIONAL|LOGICAL|CONSTANT)_)?", "", name).lower()
    for name, number in vars(libsbml).items()
    if name.startswith("AST_")
}
CONSTANTS = {"pi": math.pi, "e": math.e, "true": 1.0, "false": 0.0}  # libSBML's pi is a float32
COMPARE = {"gt": operator.gt, "geq": operator.ge, "lt": operator.lt, "leq": operator.le}


def truth(x: Numbers) -> Array:
    """1 for true: SBML calculates with truth values."""
    return jnp.where(x, 1.0, 0.0)


def _fold(f: Callable[..., Numbers], *start: float) -> Callable[..., Numbers]:
    return lambda *x: reduce(f, x, *start)


STEPS = ("eq", "neq", "floor", "ceiling", "quotient", "rem")  # a solver would step over them
FUNCTIONS: dict[str, Callable[..., Numbers]] = {
    "eq": lambda x, *y: math.prod(truth(x == each) for each in y),
    "neq": lambda x, y: truth(x != y),
    "floor": jnp.floor,
    "ceiling": jnp.ceil,
    "quotient": lambda x, y: jnp.trunc(x / y),
    "rem": jnp.fmod,
    "plus": _fold(operator.add, 0),
    "times": _fold(operator.mul, 1),
    "minus": lambda x, *y: x - y[0] if y else -x,
    "divide": jnp.divide,
    "power": lambda x, n: jnp.power(jnp.asarray(x, float), n),
    "root": lambda *x: jnp.sqrt(x[0]) if len(x) == 1 else jnp.power(x[1], 1 / x[0]),
    "abs": jnp.abs,
    "exp": jnp.exp,
    "ln": jnp.log,
    "log": lambda *x: jnp.log(x[-1]) / jnp.log(x[0] if len(x) > 1 else 10.0),
    "max": _fold(jnp.maximum),
    "min": _fold(jnp.minimum),
    "not": lambda x: truth(x == 0),
    "and": lambda *x: math.prod(truth(each != 0) for each in x),
    "or": lambda *x: 1 - math.prod(truth(each == 0) for each in x),
    "xor": lambda *x: sum(truth(each != 0) for each in x) % 2,
    "implies": lambda x, y: truth((x == 0) | (y != 0)),
}
for _one, _other in (("sin", "csc"), ("cos", "sec"), ("tan", "cot")):
    for _h in ("", "h"):
        _f, _arc = getattr(jnp, _one + _h), getattr(jnp, f"arc{_one}{_h}")
        FUNCTIONS |= {_one + _h: _f, f"arc{_one}{_h}": _arc}
        FUNCTIONS[_other + _h] = lambda x, f=_f: 1 / f(x)
        FUNCTIONS[f"arc{_other}{_h}"] = lambda x, f=_arc: f(1 / x)


class Expression(NamedTuple):
    """A formula: its value from those of symbols, and which symbols it names."""

    value: Callable[[Values], Numbers]
    names: frozenset[str] = frozenset()


Moment: TypeAlias = Callable[[Values], Array]  # the file's time, from the constants
SymbolTable = dict[str, Expression | Callable[[], Expression]]  # or how to translate it


class Found(dict[str, Numbers]):
    """Values of symbols; one that is not there is worked out when it is asked for."""

    def __init__(self, known: Values, find: Callable[[str], Callable[[Values], Numbers]]) -> None:
        super().__init__(known)
        self._find = find

    def __missing__(self, name: str) -> Numbers:
        self[name] = self._find(name)(self)
        return self[name]


def named(name: str) -> Expression:
    return Expression(lambda v: v[name], frozenset({name}))


def names_of(expressions: Iterable[Expression]) -> frozenset[str]:
    return frozenset().union(*(each.names for each in expressions))


def split(node: libsbml.ASTNode) -> tuple[str, list[libsbml.ASTNode]]:
    """The name of a node's MathML element, and its children."""
    return KIND[node.getType()], [node.getChild(i) for i in range(node.getNumChildren())]


def straight_line(f: Callable[[Numbers], Numbers]) -> tuple[float, float] | None:
    """f(0) and the slope, if f is a straight line."""

    def number(x: Numbers) -> Array:
        return jnp.asarray(f(x), float)

    slopes = [float(jax.grad(number)(x)) for x in (0.0, 0.7, -3.0, 1e3, 1e9)]
    offset = float(number(0.0))
    straight = all(math.isclose(slope, slopes[0], rel_tol=1e-9) for slope in slopes)
    return (offset, slopes[0]) if straight and math.isfinite(offset) else None


def piecewise(children: list[Expression], v: Values) -> Numbers:
    """The first piece whose condition holds; the others leave no trace in derivatives."""

    def piece(expression: Expression, here: Array) -> Numbers:
        return expression.value({n: jnp.where(here, v[n], 1.0) for n in expression.names})

    left, places = jnp.asarray(True), []
    for condition in children[1::2]:
        places.append(left & (condition.value(v) != 0))
        left = left & ~places[-1]
    total = piece(children[-1], left) if len(children) % 2 else jnp.nan
    for value, here in zip(children[:-1:2], places, strict=True):
        total = jnp.where(here, piece(value, here), total)
    return total
