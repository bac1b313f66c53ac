"""What a computation costs in floating-point operations, and how fast this machine does each kind.

`operations` counts in the equations as JAX traces them, `nanoseconds` times each kind alone on the
present CPU.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("add, multiply", "divide", "exp", "log")
KIND = {
    **dict.fromkeys(("add", "add_any", "sub", "mul", "neg", "square", "max", "min"), KINDS[0]),
    **dict.fromkeys(("div", "sqrt", "rsqrt"), KINDS[1]),
    **dict.fromkeys(("exp", "expm1", "exp2", "logistic"), KINDS[2]),
    **dict.fromkeys(("log", "log1p"), KINDS[3]),
}
LANES = 512  # numbers per array, few enough for the fastest cache
WIDE = 8  # independent operations on a number, so that none has to wait for another
DEEP = 4  # rounds of them before the number is stored


def operations(function: Callable, *args) -> dict[str, int]:
    """Operations of each of `KINDS` on numbers of floating point in one call.

    Counted before the compiler removes those done twice. What is done only under a condition is
    left out: in carpk, the doses. So are comparisons, selections and moves in memory.
    """
    counts: Counter[str] = Counter()
    _count(jax.make_jaxpr(function)(*args).jaxpr, 1, counts)
    return {kind: counts[kind] for kind in KINDS}


def _count(jaxpr, times: int, counts: Counter[str]) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        out = equation.outvars[0].aval
        if name in KIND and jnp.issubdtype(out.dtype, jnp.floating):
            counts[KIND[name]] += times * out.size
        elif name == "integer_pow":
            power = equation.params["y"]
            counts[KINDS[0]] += times * out.size * (abs(power) - 1)
            counts[KINDS[1]] += times * out.size * (power < 0)
        elif name != "cond":
            inside = times * equation.params["length"] if name == "scan" else times
            for inner in _inner(equation.params):
                _count(inner, inside, counts)


def _inner(params: dict) -> Iterator:
    """The computations that an operation consists of, such as the body of a loop."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(one, "jaxpr"):
                yield one.jaxpr


def nanoseconds(loops: int = 2000) -> dict[str, float]:
    """Time of one operation of each of `KINDS` where the compiler of JAX does nothing else.

    A multiplication and an addition together count as two. Two additions come with each of the
    others and are taken off.
    """
    add = _one(lambda x, i: x * 0.9 + i, loops) / 3
    of_one = {
        KINDS[1]: lambda x, i: 1.5 / (x + i),
        KINDS[2]: lambda x, i: jnp.exp(x - i),
        KINDS[3]: lambda x, i: jnp.log(x + i),
    }
    return {KINDS[0]: add, **{kind: _one(f, loops) - 2 * add for kind, f in of_one.items()}}


def _one(function: Callable, loops: int) -> float:
    """Nanoseconds of one `function` and one addition."""

    def body(_, x):
        for _ in range(DEEP):
            x = sum(function(x, i + 1.0) for i in range(WIDE)) * 0.01
        return x

    run = jax.jit(lambda x: jax.lax.fori_loop(0, loops, body, x))
    x = jnp.asarray(np.linspace(0.1, 1.0, LANES))
    jax.block_until_ready(run(x))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(run(x))
        seconds.append(time.perf_counter() - started)
    return 1e9 * min(seconds) / (loops * DEEP * WIDE * LANES)
