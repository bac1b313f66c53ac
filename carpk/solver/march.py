"""The mesh route: steps laid out beforehand, in one loop without branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk._types import Arrays
from carpk.params import Params
from carpk.solver import steady
from carpk.solver.events import Patient, Structure, Timeline
from carpk.solver.system import (
    BEYOND,
    NOT_FINITE,
    OK,
    TOO_COARSE,
    Content,
    Flows,
    Solved,
    System,
    after,
    observed,
    placed,
)

TABLEAU = diffrax.Tsit5.tableau
STAGES = 6  # the seventh is for the error estimate only
A = tuple(tuple(float(x) for x in row) for row in TABLEAU.a_lower)
B = tuple(float(x) for x in TABLEAU.b_sol)
B_ERROR = tuple(float(x) for x in TABLEAU.b_error)
C = (0.0, *(float(x) for x in TABLEAU.c))
ORDER = 5

PERIOD_STEPS = 64  # in each segment of a period at steady state
SIDE_BY_SIDE = 4096  # steps times patients; with more, `_walk` leaves the cache

T = TypeVar("T")
Move: TypeAlias = tuple[Array, Array, Content | None]  # begin and length; what steady states put
Where: TypeAlias = tuple[Arrays, Arrays, Arrays, Arrays]  # segment, first, any_first, rates
Saved: TypeAlias = tuple[Params, Move, Timeline, Where, Content]  # for reverse mode


class Steps(NamedTuple, Generic[T]):
    """Steps laid out beforehand, n of them; each lies inside one segment of the timeline.

    Attributes:
        segment: the segment of each step, (n,); those after the last boundary have no length.
        offset, width: where the step begins and how long it is, as shares of its segment, (n,).
        first: whether it is the first of its segment, (n,).
        any_first: the same for any patient, (n,); shared by all patients.
        node: number of steps before each boundary, (B,).
    """

    segment: T
    offset: T
    width: T
    first: T
    any_first: T
    node: T

    def each(self, f: Callable[[T], T]) -> Steps[T]:
        """With `f` applied to what every patient has of its own."""
        segment, offset, width, first = (f(x) for x in self[:4])
        return Steps(segment, offset, width, first, self.any_first, f(self.node))


def march(
    structure: Structure,
    lanes: int,
    error_limit: float | None,
    line: Timeline | None,
    steps: Steps[Arrays],
    params: Params,
    patient: Patient,
) -> Solved:
    """States, outputs, code, steps and residual of one patient, one of `lanes` under vmap.

    With a `error_limit`, a patient for whom the estimated error of any step exceeds it is reported
    as TOO_COARSE; that costs a seventh stage in every step, and is not for derivatives.
    """
    system, line = placed(structure, line, params, patient)
    puts, residual = steady.begun(structure, params, patient, METHOD)
    begins, lengths = line.time[steps.segment], jnp.diff(line.time)[steps.segment]
    moves = (
        jnp.add(begins, steps.offset * lengths),
        jnp.multiply(steps.width, lengths),
        steady.at(puts, line, steps.segment),
    )
    where = (steps.segment, steps.first, steps.any_first, line.rate[steps.segment])
    unseen = line._replace(at=None)  # type: ignore[arg-type]  # steps do not look at it
    given = (structure, params, moves, unseen, where, system.begin())
    worst = jnp.zeros(())
    if error_limit is not None:
        nodes, worst = _walk_with_error(*given)
    elif lanes * steps.segment.shape[0] <= SIDE_BY_SIDE:
        nodes = _walk(*given)
    else:
        nodes = _walk_step_by_step(*given)
    at = jax.tree.map(lambda v: v[steps.node], after(system.begin(), nodes))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in at.u]))
    states, outputs = observed(system, line, at)
    code = jnp.where(worst > (np.inf if error_limit is None else error_limit), TOO_COARSE, OK)
    code = jnp.where(finite, code, NOT_FINITE)
    states, outputs, code = steady.judged(states, outputs, code, residual)
    return states, outputs, code, jnp.asarray(steps.segment.shape[0]), residual


def _step(
    structure: Structure,
    line: Timeline,
    params: Params,
    content: Content,
    move: Move,
    where: Where,
) -> Content:
    """Content after one step: the events at its start, then the equations."""
    system, content = _after_events(structure, line, params, content, move, where)
    time, h, _ = move
    return runge_kutta(system, time, h, content, system.inflow(where[-1]))[0]


def _after_events(
    structure: Structure,
    line: Timeline,
    params: Params,
    content: Content,
    move: Move,
    where: Where,
) -> tuple[System, Content]:
    k, first, any_first, _ = where
    system = System.of(structure, params, line.occasion[k])
    content = jax.lax.cond(
        any_first,
        lambda c: jax.tree.map(partial(jnp.where, first), system.act(line, k, c, move[2]), c),
        lambda c: c,
        content,
    )
    return system, content


def _walk_with_error(
    structure: Structure,
    params: Params,
    moves: Move,
    line: Timeline,
    where: Where,
    begin: Content,
) -> tuple[Content, Array]:
    """Content after each step, leaves (n,), and the largest estimated error of any step."""

    def step(
        carry: tuple[Content, tuple[Array, ...], Array], x: tuple[Move, Where]
    ) -> tuple[tuple[Content, tuple[Array, ...], Array], Content]:
        content, peak, worst = carry
        (time, h, _), where = x
        system, content = _after_events(structure, line, params, content, x[0], where)
        flows = system.inflow(where[-1])
        new, error = runge_kutta(system, time, h, content, flows, errors=True)
        peak, size = relative_error(structure, content, new, error, peak)
        return (new, peak, jnp.maximum(worst, size)), new

    none = tuple(jnp.zeros(()) for _ in begin.u)
    (_, _, worst), nodes = jax.lax.scan(step, (begin, none, jnp.zeros(())), (moves, where))
    return nodes, worst


def relative_error(
    structure: Structure,
    before: Content,
    after: Content,
    error: Sequence[Array],
    peak: Sequence[Array],
) -> tuple[tuple[Array, ...], Array]:
    """(largest content so far, estimated error of a step), the error that of the worst state.

    It is absolute for states integrated as logs, relative to their content for the others.
    """
    sizes = [jnp.maximum(jnp.abs(a), jnp.abs(b)) for a, b in zip(before.u, after.u, strict=True)]
    peak = tuple(jnp.maximum(a, b) for a, b in zip(peak, sizes, strict=True))
    relative = [
        jnp.abs(e) if log else jnp.abs(e) / (s + BEYOND * m + 1e-300)
        for e, s, m, log in zip(error, sizes, peak, structure.model.logs, strict=True)
    ]
    return peak, jnp.max(jnp.stack(relative))


def _walk_step_by_step(
    structure: Structure,
    params: Params,
    moves: Move,
    line: Timeline,
    where: Where,
    begin: Content,
) -> Content:
    """Content after each step, leaves (n,); recomputed step by step in reverse mode."""

    @partial(jax.checkpoint, prevent_cse=False)
    def step(content: Content, x: tuple[Move, Where]) -> tuple[Content, Content]:
        content = _step(structure, line, params, content, *x)
        return content, content

    nodes: Content = jax.lax.scan(step, begin, (moves, where))[1]
    return nodes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(
    structure: Structure,
    params: Params,
    moves: Move,
    line: Timeline,
    where: Where,
    begin: Content,
) -> Content:
    """Content after each step, leaves (n,); differentiable in params, moves and begin.

    Reverse mode by hand: with the ends of the steps at hand, their derivatives do not depend on
    each other and are taken side by side. Only the product of the small Jacobians is left to a
    loop.
    """
    return _walk_step_by_step(structure, params, moves, line, where, begin)


def _walk_forward(
    structure: Structure,
    params: Params,
    moves: Move,
    line: Timeline,
    where: Where,
    begin: Content,
) -> tuple[Content, Saved]:
    nodes = _walk_step_by_step(structure, params, moves, line, where, begin)
    starts = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), begin, nodes)
    return nodes, (params, moves, line, where, starts)


def _walk_backward(
    structure: Structure, saved: Saved, given: Content
) -> tuple[Params, Move, None, None, Content]:
    params, moves, line, where, starts = saved
    leaves, shape = jax.tree.flatten(starts)

    def ends(params: Params, moves: Move, starts: Content) -> Content:
        return jax.vmap(partial(_step, structure, line, params))(starts, moves, where)

    def along(direction: Array) -> Content:
        tangent = [jnp.ones_like(v) * d for v, d in zip(leaves, direction, strict=True)]
        at = partial(ends, params, moves)
        tangents: Content = jax.jvp(at, (starts,), (jax.tree.unflatten(shape, tangent),))[1]
        return tangents

    # one leaf per number at the end of a step, by all those at its start: (n, start)
    jacobian = jax.vmap(along, in_axes=0, out_axes=1)(jnp.eye(len(leaves)))

    def back(adjoint: Array, x: tuple[list[Array], Array]) -> tuple[Array, Array]:
        columns, gain = x
        return gain + sum(column * a for column, a in zip(columns, adjoint, strict=True)), adjoint

    gains = jnp.stack(jax.tree.leaves(given), axis=1)
    earlier = jnp.concatenate([jnp.zeros_like(gains[:1]), gains[:-1]])
    columns = jax.tree.leaves(jacobian)
    first, adjoints = jax.lax.scan(back, gains[-1], (columns, earlier), reverse=True)
    _, pull = jax.vjp(partial(ends, starts=starts), params, moves)
    by_params, by_moves = pull(jax.tree.unflatten(shape, list(adjoints.T)))
    return by_params, by_moves, None, None, jax.tree.unflatten(shape, list(first))


_walk.defvjp(_walk_forward, _walk_backward)


def _walk_period(system: System, line: Timeline, content: Content) -> Content:
    """The content at the end of a timeline, by `PERIOD_STEPS` steps in each segment."""

    def segment(content: Content, k: Array) -> tuple[Content, None]:
        content, flows = system.act(line, k, content), system.inflow(line.rate[k])
        h = (line.time[k + 1] - line.time[k]) / PERIOD_STEPS

        def step(content: Content, i: Array) -> tuple[Content, None]:
            return runge_kutta(system, line.time[k] + i * h, h, content, flows)[0], None

        return jax.lax.scan(step, content, jnp.arange(PERIOD_STEPS))[0], None

    end: Content = jax.lax.scan(segment, content, jnp.arange(line.time.shape[0] - 1))[0]
    return end


METHOD = steady.Method(_walk_period, jax.jacfwd)


def runge_kutta(
    system: System, t: Array, h: Array, content: Content, flows: Flows, errors: bool = False
) -> tuple[Content, tuple[Array, ...]]:
    """One step of Tsitouras' method of order 5, and its estimated error per state if asked for."""
    u = content.u
    slopes: list[tuple[Array, ...]] = []

    def stage(j: int, weights: Sequence[float]) -> tuple[Array, ...]:
        c = system.concentrations(content.amplitude, flows, C[j] * h)
        return system.slope(t + C[j] * h, combined(weights), c, flows)

    def combined(weights: Sequence[float]) -> tuple[Array, ...]:
        return tuple(
            x + h * sum(w * k[i] for w, k in zip(weights, slopes, strict=False)) if slopes else x
            for i, x in enumerate(u)
        )

    for j in range(STAGES):
        slopes.append(stage(j, A[j - 1] if j else ()))
    new = combined(B)
    error: tuple[Array, ...] = ()
    if errors:
        slopes.append(stage(STAGES, A[STAGES - 1]))
        error = tuple(
            h * sum(w * k[i] for w, k in zip(B_ERROR, slopes, strict=True)) for i in range(len(u))
        )
    return Content(new, system.propagate(content.amplitude, flows, h)), error
