"""The two routes through the equations of one patient; `solve` is what users call.

*adaptive*: Diffrax between the boundaries of the timeline, an explicit or a stiff method, tight
tolerances. *mesh*: the steps are laid out beforehand (`mesh`), so that the loop has no
branches, runs over many patients at once and is cheap to differentiate.

On both, what happens at a boundary is exact, and drugs with linear disposition are propagated in
closed form. States declared with `log=True` are integrated as logarithms. A solution that fails is
nan with a reason, never an exception.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from carpk._types import Arrays, Numbers, Values
from carpk.dosing.disposition import Exponentials, Modes
from carpk.params import Params
from carpk.solver.events import Patient, Structure, Timeline
from carpk.structural import States

FLOOR = 1e-30  # in any unit; a state integrated as its log is never below it when it is set
LOWEST = -690.0  # a log below it is read as this: its exponential would be 0, and divides
BEYOND = 1e-12  # of its largest value: below, no relative accuracy is asked

OK, TOO_MANY_STEPS, NOT_FINITE, TOO_COARSE, UNSTEADY = range(5)
REASONS = {
    OK: "",
    TOO_MANY_STEPS: "the solver used up its steps: the equations are stiff for an explicit "
    'method, or have no solution there; try method="kvaerno5"',
    NOT_FINITE: "a state is not finite: it grows without bound, or the vector field divides by "
    "zero or takes the log of a negative number there",
    TOO_COARSE: "the mesh is too coarse for these parameters",
    UNSTEADY: "there is no steady state of these doses (SS), or none was found: more is given than "
    "is eliminated, or something grows by itself; give the doses one by one",
}

T = TypeVar("T")
Solved: TypeAlias = tuple[States, dict[str, Array], Array, Array, Array]
# states, outputs, code, steps and the residual of the steady states
Flows: TypeAlias = tuple[Array | None, ...]  # per compartment; None where nothing ever runs


class Content(NamedTuple):
    """Content of a patient's compartments.

    Attributes:
        u: a number per state, the log of those integrated as logs.
        amplitude: per input, the amplitudes of its exponentials.
    """

    u: tuple[Array, ...]
    amplitude: tuple[Exponentials, ...]


@jax.custom_jvp
def _relative(slope: Array, x: Array) -> Array:
    """slope / x, with a derivative that does not square a x near 0."""
    return slope / x


@_relative.defjvp
def _relative_jvp(at: tuple[Array, Array], tangent: tuple[Array, Array]) -> tuple[Array, Array]:
    (slope, x), (d_slope, d_level) = at, tangent
    ratio = slope / x
    return ratio, (d_slope - ratio * d_level) / x


@dataclasses.dataclass(frozen=True)
class System:
    """A structural model with the parameters of one patient in one occasion.

    The disposition of the inputs is that of the first occasion in all of them.

    Attributes:
        structure: model and targets.
        every: parameters, leaves () or (occasion,).
        params: those of this occasion, scalars.
        initial: the states at the start, natural scale.
        share: per target, what of a unit given arrives in this occasion: bioavailability times
            scale.
        modes: exponentials per input.
    """

    structure: Structure
    every: Params
    params: Params
    initial: tuple[Array, ...]
    share: tuple[Array, ...]
    modes: tuple[Modes, ...]

    @classmethod
    def of(cls, structure: Structure, every: Params, occasion: Arrays | int = 0) -> System:
        model, params, first = structure.model, every.during(occasion), every.during(0)
        start = model.start(params)
        one = jnp.ones(())
        return cls(
            structure=structure,
            every=every,
            params=params,
            initial=tuple(jnp.asarray(getattr(start, s), float) for s in model.states.names()),
            share=tuple(
                one * math.prod(f(params) for f in (t.bioavailability, t.scale) if f is not None)
                for t in structure.targets
            ),
            modes=tuple(f(first).modes() for f in model.inputs.values()),
        )

    def during(self, occasion: Arrays | int) -> System:
        """The patient in another occasion; itself where no parameter differs."""
        same = all(jnp.ndim(x) == 0 for x in jax.tree.leaves(self.every))
        return self if same else System.of(self.structure, self.every, occasion)

    def begin(self) -> Content:
        """The compartments at the start."""
        return Content(self.scaled(self.initial), tuple(m.nothing() for m in self.modes))

    def scaled(self, y: Sequence[Array]) -> tuple[Array, ...]:
        """The scale of integration from the natural one."""
        logs = self.structure.model.logs
        return tuple(
            jnp.log(jnp.maximum(x, FLOOR)) if log else x for x, log in zip(y, logs, strict=True)
        )

    def natural(self, u: Sequence[Array]) -> tuple[Array, ...]:
        """The natural scale from that of integration.

        The barrier keeps XLA from turning a division by exp(u) into another exponential.
        """
        logs = self.structure.model.logs
        return tuple(
            jax.lax.optimization_barrier(  # type: ignore[no-untyped-call]  # JAX gives it no type
                jnp.exp(jnp.maximum(x, LOWEST))
            )
            if log
            else x
            for x, log in zip(u, logs, strict=True)
        )

    def inflow(self, rate: Arrays) -> Flows:
        """Infusion rates into each compartment per day; None where none ever runs."""
        flows: list[Array | None] = [None] * len(self.structure.model.compartments)
        for g, (share, infused) in enumerate(zip(self.share, self.structure.infused, strict=True)):
            if infused:
                c = self.structure.into[g]
                flow = share * rate[g]
                before = flows[c]
                flows[c] = flow if before is None else before + flow
        return tuple(flows)

    def concentrations(
        self, amplitude: Sequence[Exponentials], flows: Flows, dt: Array | float
    ) -> dict[str, Numbers]:
        """Concentration of each input, `dt` days after these amplitudes."""
        return self.input_concentrations(self.propagate(amplitude, flows, dt))

    def input_concentrations(self, amplitude: Sequence[Exponentials]) -> dict[str, Numbers]:
        """Concentration of each input that has these amplitudes."""
        each = zip(self.structure.model.inputs, self.modes, amplitude, strict=True)
        return {name: m.concentration(a) for name, m, a in each}

    def into(self, every: Sequence[T]) -> list[tuple[T, T | None]]:
        """What goes into each input, directly and by its depot, of what compartments get."""
        model = self.structure.model
        names = dict(zip(model.compartments, every, strict=True))
        depots = {name: names[depot] for depot, name in model.depots.items()}
        return [(names[name], depots.get(name)) for name in model.inputs]

    def propagate(
        self, amplitude: Sequence[Exponentials], flows: Flows, dt: Array | float
    ) -> tuple[Exponentials, ...]:
        """The amplitudes of each input `dt` days later."""
        drugs = zip(self.modes, amplitude, self.into(flows), strict=True)
        return tuple(m.after(a, flow, dt, late) for m, a, (flow, late) in drugs)

    def slope(self, t: Numbers, u: Sequence[Array], c: Values, flows: Flows) -> tuple[Array, ...]:
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

    def extra(self, c: Values) -> tuple[Values, ...]:
        """The concentrations as an argument, for a model that takes them."""
        return (c,) if self.structure.model.inputs else ()

    def act(
        self, line: Timeline, k: Arrays | int, content: Content, steady: Content | None = None
    ) -> Content:
        """The compartments after what happens at boundary `k`.

        `steady` is what a steady state that begins there adds: states on their natural scale, and
        amplitudes; None where none ever begins.
        """
        keep, reset, put, dose = (x[k] for x in line[1:5])
        gain: list[Numbers] = [0.0] * len(self.structure.model.compartments)
        for g, c in enumerate(self.structure.into):
            gain[c] = gain[c] + self.share[g] * dose[g]
        for i, x in enumerate(() if steady is None else steady.u):
            gain[i] = gain[i] + x
        states = [
            keep[i] * x + reset[i] * start + put[i] + gain[i]
            for i, (x, start) in enumerate(zip(self.natural(content.u), self.initial, strict=True))
        ]
        # compartments without an event stay unchanged: log-states below FLOOR are not clipped
        still = [(keep[i] == 1) & (put[i] + gain[i] == 0) for i in range(len(states))]
        u = [
            jnp.where(same, old, new)
            for same, old, new in zip(still, content.u, self.scaled(states), strict=True)
        ]
        size = range(len(self.structure.model.compartments))
        acts = [(keep[i], put[i] + gain[i]) for i in size]
        drugs = []
        for m, amplitude, (own, depot) in zip(
            self.modes, content.amplitude, self.into(acts), strict=True
        ):
            modes = zip(amplitude, m.weight, strict=False)
            new = [own[0] * a + w * own[1] for a, w in modes]
            drugs.append((*new, *([] if depot is None else [depot[0] * amplitude[-1] + depot[1]])))
        if steady is not None:
            drugs = jax.tree.map(jnp.add, drugs, list(steady.amplitude))
        return Content(tuple(u), tuple(drugs))

    def outputs(self, t: Numbers, content: Content) -> tuple[States, dict[str, Array]]:
        """States and outputs of compartments that hold this."""
        states = self.structure.model.states(*self.natural(content.u))
        return states, self.outputs_of(t, states, self.input_concentrations(content.amplitude))

    def outputs_of(self, t: Numbers, states: States, c: Values) -> dict[str, Array]:
        """Outputs of these states and concentrations."""
        return {
            k: jnp.asarray(f(t, states, self.params, *self.extra(c)), float)
            for k, f in self.structure.model.outputs.items()
        }


def placed(
    structure: Structure, line: Timeline | None, params: Params, patient: Patient
) -> tuple[System, Timeline]:
    """The system of a patient, and the timeline: made here where it depends on the lags."""
    system = System.of(structure, params)
    return system, structure.timeline(patient, params) if line is None else line


def observed(
    system: System, line: Timeline, at_boundary: Content
) -> tuple[States, dict[str, Array]]:
    """States and outputs at the observations, from the content before each boundary.

    Outputs have the parameters of the occasion that ends there.
    """
    ended = jnp.concatenate([jnp.zeros(1, int), line.occasion[:-1]])

    def one(k: Arrays, content: Content) -> tuple[States, dict[str, Array]]:
        return system.during(ended[k]).outputs(line.time[k], content)

    return jax.vmap(one)(line.at, jax.tree.map(lambda x: x[line.at], at_boundary))


def after(begin: Content, rest: Content) -> Content:
    """Content at the start, then the rest."""
    whole: Content = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begin, rest)
    return whole
