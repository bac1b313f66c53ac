"""The two routes through the equations of one patient; `carpk.solver` is what users call.

*adaptive*: Diffrax between the boundaries of the timeline, an explicit or a stiff method, tight
tolerances. *mesh*: the steps are laid out beforehand (`carpk.mesh`), so that the loop has no
branches, runs over many patients at once and is cheap to differentiate.

On both, what happens at a boundary is exact, and drugs with linear disposition are propagated in
closed form. States declared with `log=True` are integrated as logarithms. A solution that fails is
nan with a reason, never an exception.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from carpk.disposition import Modes
from carpk.errors import ModelError
from carpk.events import Structure, Timeline
from carpk.structural import States

FLOOR = 1e-30  # in any unit; a state integrated as its log is never below it when it is set
LOWEST = -690.0  # a log below it is read as this: its exponential would be 0, and divides
RTOL = 1e-8  # of the adaptive route: relative, and absolute on the log of a state
ATOL = 1e-12  # of the adaptive route, for states not integrated as logs, in their own unit
BEYOND = 1e-12  # of its largest value: what is smaller need not be relatively exact
MAX_STEPS = 100_000  # of the adaptive route, between two boundaries

EXPLICIT = {"tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8}
STIFF = {"kvaerno5": diffrax.Kvaerno5, "kvaerno3": diffrax.Kvaerno3}

TABLEAU = diffrax.Tsit5.tableau
STAGES = 6  # the seventh is for the error estimate only
A = tuple(tuple(float(x) for x in row) for row in TABLEAU.a_lower)
B = tuple(float(x) for x in TABLEAU.b_sol)
B_ERROR = tuple(float(x) for x in TABLEAU.b_error)
C = (0.0, *(float(x) for x in TABLEAU.c))
ORDER = 5

SIDE_BY_SIDE = 4096  # steps times patients; with more, what `_walk` works on leaves the cache

OK, TOO_MANY_STEPS, NOT_FINITE, TOO_COARSE = range(4)
REASONS = {
    OK: "",
    TOO_MANY_STEPS: "the solver used up its steps: the equations are stiff for an explicit "
    'method, or have no solution there; try method="kvaerno5"',
    NOT_FINITE: "a state is not finite: it grows without bound, or the vector field divides by "
    "zero or takes the log of a negative number there",
    TOO_COARSE: "the mesh is too coarse for these parameters",
}


class Content(NamedTuple):
    """What a patient's compartments hold.

    Attributes:
        u: a number per state, the log of those integrated as logs.
        amplitude: per input, the amplitudes of its exponentials.
    """

    u: tuple[Any, ...]
    amplitude: tuple[tuple[Any, ...], ...]


@jax.custom_jvp
def _relative(slope: Any, level: Any) -> Any:
    """slope / level, with a derivative that does not square a level near 0."""
    return slope / level


@_relative.defjvp
def _relative_jvp(at: Any, tangent: Any) -> Any:
    (slope, level), (d_slope, d_level) = at, tangent
    ratio = slope / level
    return ratio, (d_slope - ratio * d_level) / level


@dataclasses.dataclass(frozen=True)
class System:
    """A structural model with the parameters of one patient in one occasion.

    The disposition of the inputs is that of the first occasion in all of them.

    Attributes:
        structure: model and targets.
        every: parameters, leaves () or (occasion,).
        params: those of this occasion, scalars.
        initial: the states at the start, natural scale.
        share: bioavailability per target, of the doses that arrive in this occasion.
        modes: exponentials per input.
    """

    structure: Structure
    every: Any
    params: Any
    initial: tuple[Any, ...]
    share: tuple[Any, ...]
    modes: tuple[Modes, ...]

    @classmethod
    def of(cls, structure: Structure, every: Any, occasion: Any = 0) -> System:
        model, params, first = structure.model, every.during(occasion), every.during(0)
        start = model.start(params)
        one = jnp.ones(())
        return cls(
            structure=structure,
            every=every,
            params=params,
            initial=tuple(jnp.asarray(getattr(start, s), float) for s in model.states.names()),
            share=tuple(
                one if t.bioavailability is None else jnp.asarray(t.bioavailability(params), float)
                for t in structure.targets
            ),
            modes=tuple(f(first).modes() for f in model.inputs.values()),
        )

    def during(self, occasion: Any) -> System:
        """The same patient in another occasion; itself where no parameter differs."""
        same = all(jnp.ndim(x) == 0 for x in jax.tree.leaves(self.every))
        return self if same else System.of(self.structure, self.every, occasion)

    def begin(self) -> Content:
        """The compartments at the start."""
        amplitude = tuple(tuple(jnp.zeros(()) for _ in m.rate) for m in self.modes)
        return Content(self.scaled(self.initial), amplitude)

    def scaled(self, y: Sequence[Any]) -> tuple[Any, ...]:
        """The scale of integration from the natural one."""
        logs = self.structure.model.logs
        return tuple(
            jnp.log(jnp.maximum(x, FLOOR)) if log else x for x, log in zip(y, logs, strict=True)
        )

    def natural(self, u: Sequence[Any]) -> tuple[Any, ...]:
        """The natural scale from that of integration.

        The barrier keeps XLA from turning a division by exp(u) into another exponential.
        """
        logs = self.structure.model.logs
        return tuple(
            jax.lax.optimization_barrier(jnp.exp(jnp.maximum(x, LOWEST))) if log else x
            for x, log in zip(u, logs, strict=True)
        )

    def inflow(self, rate: Sequence[Any]) -> tuple[Any, ...]:
        """What infusions bring into each compartment per day; None where none ever runs."""
        flows: list[Any] = [None] * len(self.structure.model.compartments)
        for g, (share, infused) in enumerate(zip(self.share, self.structure.infused, strict=True)):
            if infused:
                c = self.structure.into[g]
                flow = share * rate[g]
                flows[c] = flow if flows[c] is None else flows[c] + flow
        return tuple(flows)

    def concentrations(
        self, amplitude: Sequence[Any], flows: Sequence[Any], dt: Any
    ) -> dict[str, Any]:
        """Concentration of each input, `dt` days after these amplitudes."""
        return self.levels(self.propagate(amplitude, flows, dt))

    def levels(self, amplitude: Sequence[Any]) -> dict[str, Any]:
        """Concentration of each input that has these amplitudes."""
        return {k: sum(a) for k, a in zip(self.structure.model.inputs, amplitude, strict=True)}

    def propagate(self, amplitude: Sequence[Any], flows: Sequence[Any], dt: Any) -> tuple[Any, ...]:
        """The amplitudes of each input `dt` days later."""
        drugs = flows[len(self.initial) :]
        return tuple(
            m.after(a, flow, dt) for m, a, flow in zip(self.modes, amplitude, drugs, strict=True)
        )

    def slope(self, t: Any, u: Sequence[Any], c: Mapping[str, Any], flows: Sequence[Any]) -> Any:
        """Derivatives on the scale of integration."""
        model = self.structure.model
        y = self.natural(u)
        dy = model.vector_field(t, model.states(*y), self.params, *self.extra(c))
        slopes = []
        for i, name in enumerate(model.states.names()):
            d = getattr(dy, name)
            if flows[i] is not None:
                d = d + flows[i]
            slopes.append(_relative(d, y[i]) if model.logs[i] else jnp.asarray(d, float))
        return tuple(slopes)

    def extra(self, c: Mapping[str, Any]) -> tuple[Any, ...]:
        """The concentrations as an argument, for a model that takes them."""
        return (c,) if self.structure.model.inputs else ()

    def act(self, line: Timeline, k: Any, content: Content) -> Content:
        """The compartments after what happens at boundary `k`."""
        keep, reset, put, dose = (x[k] for x in line[1:5])
        gain: list[Any] = [0.0] * len(self.structure.model.compartments)
        for g, c in enumerate(self.structure.into):
            gain[c] = gain[c] + self.share[g] * dose[g]
        states = [
            keep[i] * x + reset[i] * start + put[i] + gain[i]
            for i, (x, start) in enumerate(zip(self.natural(content.u), self.initial, strict=True))
        ]
        # what nothing happens to stays as it is, a log below the floor above all
        still = [(keep[i] == 1) & (put[i] + gain[i] == 0) for i in range(len(states))]
        u = [
            jnp.where(same, old, new)
            for same, old, new in zip(still, content.u, self.scaled(states), strict=True)
        ]
        first = len(states)
        drugs = []
        for j, (m, amplitude) in enumerate(zip(self.modes, content.amplitude, strict=True)):
            c = first + j
            drugs.append(
                tuple(
                    keep[c] * a + w * (put[c] + gain[c])
                    for a, w in zip(amplitude, m.weight, strict=True)
                )
            )
        return Content(tuple(u), tuple(drugs))

    def outputs(self, t: Any, content: Content) -> tuple[States, dict[str, Any]]:
        """States and outputs of compartments that hold this."""
        model = self.structure.model
        states = model.states(*self.natural(content.u))
        more = self.extra(self.levels(content.amplitude))
        values = {
            k: jnp.asarray(f(t, states, self.params, *more), float)
            for k, f in model.outputs.items()
        }
        return states, values


def placed(
    structure: Structure, line: Timeline | None, params: Any, patient: Any
) -> tuple[System, Timeline]:
    """The system of a patient, and the timeline: made here where it depends on the lags."""
    system = System.of(structure, params)
    return system, structure.timeline(patient, params) if line is None else line


def observed(system: System, line: Timeline, at_boundary: Content) -> tuple[States, dict[str, Any]]:
    """States and outputs at the observations, from what is there before each boundary.

    Outputs have the parameters of the occasion that ends there, or of the one that begins there
    where observations see what is there after it.
    """
    ended = jnp.concatenate([jnp.zeros(1, int), line.occasion[:-1]])
    occasion = line.occasion if system.structure.after else ended

    def one(k: Any, content: Content) -> tuple[States, dict[str, Any]]:
        here = system.during(occasion[k])
        if system.structure.after:
            content = here.act(line, k, content)
        return here.outputs(line.time[k], content)

    return jax.vmap(one)(line.at, jax.tree.map(lambda x: x[line.at], at_boundary))


# ---------------------------------------------------------------------------------------------
# Adaptive route
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """Settings of the adaptive route.

    Attributes:
        method: "tsit5" or "dopri8" (explicit), "kvaerno5" or "kvaerno3" (stiff).
        rtol: relative tolerance; of a state integrated as its log, absolute on the log.
        atol: absolute tolerance of the other states, in their own unit.
        max_steps: between two boundaries.
    """

    method: str = "tsit5"
    rtol: float = RTOL
    atol: float = ATOL
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        known = [*EXPLICIT, *STIFF]
        if self.method not in known:
            raise ModelError(
                f"The method {self.method!r} is not known; known are {', '.join(map(repr, known))}."
            )

    def solve(self, structure: Structure, line: Timeline | None, params: Any, patient: Any) -> Any:
        """States, outputs, code and number of steps of one patient; works under vmap."""
        system, line = placed(structure, line, params, patient)
        logs = jnp.array(structure.model.logs)
        rtol = jnp.where(logs, 0.0, self.rtol)
        atol = jnp.where(logs, self.rtol, self.atol)
        controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=lambda x: jnp.max(jnp.abs(x)))
        if self.method in STIFF:
            finder = diffrax.VeryChord(rtol=self.rtol, atol=self.atol)
            method: Any = STIFF[self.method](root_finder=finder)
        else:
            method = EXPLICIT[self.method]()

        def segment(carry: Any, k: Any) -> Any:
            content, code, steps = carry
            here = system.during(line.occasion[k])
            content = here.act(line, k, content)
            flows = here.inflow(line.rate[k])
            begin = line.time[k]
            end = jnp.where(code == OK, line.time[k + 1], begin)  # no steps on nan

            def slope(t: Any, u: Any, _: Any) -> Any:
                c = here.concentrations(content.amplitude, flows, t - begin)
                return jnp.stack(here.slope(t, tuple(u), c, flows))

            sol = diffrax.diffeqsolve(
                diffrax.ODETerm(slope),
                method,
                begin,
                end,
                None,
                jnp.stack(content.u),
                stepsize_controller=controller,
                max_steps=self.max_steps,
                throw=False,
            )
            u = sol.ys[0]
            failed = sol.result != diffrax.RESULTS.successful
            finite = jnp.all(jnp.isfinite(u))
            reason = jnp.where(failed, TOO_MANY_STEPS, jnp.where(finite, OK, NOT_FINITE))
            code = jnp.where(code == OK, reason, code)
            u = jnp.where(code == OK, u, jnp.nan)
            amplitude = here.propagate(content.amplitude, flows, end - begin)
            content = Content(tuple(u), amplitude)
            return (content, code, steps + sol.stats["num_steps"]), content

        begin = system.begin()
        carry = (begin, jnp.asarray(OK), jnp.asarray(0))
        (_, code, steps), rest = jax.lax.scan(segment, carry, jnp.arange(line.time.shape[0] - 1))
        states, outputs = observed(system, line, after(begin, rest))
        return states, outputs, code, steps


# ---------------------------------------------------------------------------------------------
# Mesh route
# ---------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """Steps laid out beforehand, n of them; each lies inside one segment of the timeline.

    Attributes:
        segment: the segment of each step, (n,); those after the last boundary have no length.
        offset, width: where the step begins and how long it is, as shares of its segment, (n,).
        first: whether it is the first of its segment, (n,).
        any_first: the same for any patient, (n,); shared by all patients.
        node: number of steps before each boundary, (B,).
    """

    segment: Any
    offset: Any
    width: Any
    first: Any
    any_first: Any
    node: Any

    def each(self, f: Callable[[Any], Any]) -> Steps:
        """With `f` applied to what every patient has of its own."""
        segment, offset, width, first = (f(x) for x in self[:4])
        return Steps(segment, offset, width, first, self.any_first, f(self.node))


def march(
    structure: Structure,
    lanes: int,
    bound: float | None,
    line: Timeline | None,
    steps: Steps,
    params: Any,
    patient: Any,
) -> Any:
    """States, outputs, code and number of steps of one patient, one of `lanes` under vmap.

    With a `bound`, a patient for whom the estimated error of any step exceeds it is reported as
    TOO_COARSE; that costs a seventh stage in every step, and is not for derivatives.
    """
    system, line = placed(structure, line, params, patient)
    begins, lengths = line.time[steps.segment], jnp.diff(line.time)[steps.segment]
    moves = (begins + steps.offset * lengths, steps.width * lengths)
    where = (steps.segment, steps.first, steps.any_first, line.rate[steps.segment])
    given = (structure, params, moves, line._replace(at=None), where, system.begin())
    worst = jnp.zeros(())
    if bound is not None:
        nodes, worst = _walk_with_error(*given)
    elif lanes * steps.segment.shape[0] <= SIDE_BY_SIDE:
        nodes = _walk(*given)
    else:
        nodes = _walk_step_by_step(*given)
    at = jax.tree.map(lambda v: v[steps.node], after(system.begin(), nodes))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in at.u]))
    states, outputs = observed(system, line, at)
    code = jnp.where(worst > (np.inf if bound is None else bound), TOO_COARSE, OK)
    code = jnp.where(finite, code, NOT_FINITE)
    return states, outputs, code, jnp.asarray(steps.segment.shape[0])


def _step(
    structure: Structure, line: Timeline, params: Any, content: Content, move: Any, where: Any
) -> Content:
    """What is there after one step: the events at its start, then the equations."""
    system, content = _after_events(structure, line, params, content, where)
    time, h = move
    return runge_kutta(system, time, h, content, system.inflow(where[-1]))[0]


def _after_events(
    structure: Structure, line: Timeline, params: Any, content: Content, where: Any
) -> tuple[System, Content]:
    k, first, any_first, _ = where
    system = System.of(structure, params, line.occasion[k])
    content = jax.lax.cond(
        any_first,
        lambda c: jax.tree.map(partial(jnp.where, first), system.act(line, k, c), c),
        lambda c: c,
        content,
    )
    return system, content


def _walk_with_error(
    structure: Structure, params: Any, moves: Any, line: Timeline, where: Any, begin: Content
) -> tuple[Content, Any]:
    """What is there after each step, leaves (n,), and the largest estimated error of any step."""

    def step(carry: Any, x: Any) -> Any:
        content, peak, worst = carry
        (time, h), where = x
        system, content = _after_events(structure, line, params, content, where)
        flows = system.inflow(where[-1])
        new, error = runge_kutta(system, time, h, content, flows, errors=True)
        peak, size = relative_error(structure, content, new, error, peak)
        return (new, peak, jnp.maximum(worst, size)), new

    none = tuple(jnp.zeros(()) for _ in begin.u)
    (_, _, worst), nodes = jax.lax.scan(step, (begin, none, jnp.zeros(())), (moves, where))
    return nodes, worst


def relative_error(
    structure: Structure, before: Content, after: Content, error: Sequence[Any], peak: Any
) -> tuple[tuple[Any, ...], Any]:
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
    structure: Structure, params: Any, moves: Any, line: Timeline, where: Any, begin: Content
) -> Content:
    """What is there after each step, leaves (n,); in reverse mode each step is made again."""

    @partial(jax.checkpoint, prevent_cse=False)
    def step(content: Content, x: Any) -> Any:
        content = _step(structure, line, params, content, *x)
        return content, content

    return jax.lax.scan(step, begin, (moves, where))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(
    structure: Structure, params: Any, moves: Any, line: Timeline, where: Any, begin: Content
) -> Content:
    """What is there after each step, leaves (n,); differentiable in params, moves and begin.

    Reverse mode by hand: with the ends of the steps at hand, their derivatives do not depend on
    each other and are taken side by side. Only the product of the small Jacobians is left to a
    loop.
    """
    return _walk_step_by_step(structure, params, moves, line, where, begin)


def _walk_forward(
    structure: Structure, params: Any, moves: Any, line: Timeline, where: Any, begin: Content
) -> Any:
    nodes = _walk_step_by_step(structure, params, moves, line, where, begin)
    starts = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), begin, nodes)
    return nodes, (params, moves, line, where, starts)


def _walk_backward(structure: Structure, saved: Any, given: Content) -> Any:
    params, moves, line, where, starts = saved
    leaves, shape = jax.tree.flatten(starts)

    def ends(params: Any, moves: Any, starts: Content) -> Content:
        return jax.vmap(partial(_step, structure, line, params))(starts, moves, where)

    def along(direction: Any) -> Any:
        tangent = [jnp.ones_like(v) * d for v, d in zip(leaves, direction, strict=True)]
        at = partial(ends, params, moves)
        return jax.jvp(at, (starts,), (jax.tree.unflatten(shape, tangent),))[1]

    # one leaf per number at the end of a step, by all those at its start: (n, start)
    jacobian = jax.vmap(along, in_axes=0, out_axes=1)(jnp.eye(len(leaves)))

    def back(adjoint: Any, x: Any) -> Any:
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


def runge_kutta(
    system: System, t: Any, h: Any, content: Content, flows: Sequence[Any], errors: bool = False
) -> tuple[Content, tuple[Any, ...]]:
    """One step of Tsitouras' method of order 5, and its estimated error per state if asked for."""
    u = content.u
    slopes: list[Any] = []

    def stage(j: int, weights: Sequence[float]) -> Any:
        c = system.concentrations(content.amplitude, flows, C[j] * h)
        return system.slope(t + C[j] * h, combined(weights), c, flows)

    def combined(weights: Sequence[float]) -> tuple[Any, ...]:
        return tuple(
            x + h * sum(w * k[i] for w, k in zip(weights, slopes, strict=False)) if slopes else x
            for i, x in enumerate(u)
        )

    for j in range(STAGES):
        slopes.append(stage(j, A[j - 1] if j else ()))
    new = combined(B)
    error: tuple[Any, ...] = ()
    if errors:
        slopes.append(stage(STAGES, A[STAGES - 1]))
        error = tuple(
            h * sum(w * k[i] for w, k in zip(B_ERROR, slopes, strict=True)) for i in range(len(u))
        )
    return Content(new, system.propagate(content.amplitude, flows, h)), error


def after(begin: Content, rest: Content) -> Content:
    """What is there at the start, then the rest."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begin, rest)
