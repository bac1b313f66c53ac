"""The adaptive route: Diffrax between the boundaries of the timeline."""

from __future__ import annotations

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

from carpk._types import Numbers
from carpk.errors import ModelError
from carpk.params import Params
from carpk.solver import steady
from carpk.solver.events import Patient, Structure, Timeline
from carpk.solver.system import (
    NOT_FINITE,
    OK,
    TOO_MANY_STEPS,
    Content,
    Solved,
    System,
    after,
    observed,
    placed,
)

RTOL = 1e-8  # of the adaptive route: relative, and absolute on the log of a state
ATOL = 1e-12  # of the adaptive route, for states not integrated as logs, in their own unit
MAX_STEPS = 100_000  # of the adaptive route, between two boundaries

EXPLICIT = {"tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8}
STIFF = {"kvaerno5": diffrax.Kvaerno5, "kvaerno3": diffrax.Kvaerno3}


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

    def solve(
        self, structure: Structure, line: Timeline | None, params: Params, patient: Patient
    ) -> Solved:
        """States, outputs, code, steps and residual of one patient; works under vmap."""
        system, line = placed(structure, line, params, patient)
        method = steady.Method(self._walk_period, jax.jacrev)
        puts, residual = steady.begun(structure, params, patient, method)

        def segment(
            carry: tuple[Content, Array, Array], k: Array
        ) -> tuple[tuple[Content, Array, Array], Content]:
            content, code, steps = carry
            here = system.during(line.occasion[k])
            content = here.act(line, k, content, steady.at(puts, line, k))
            end = jnp.where(code == OK, line.time[k + 1], line.time[k])  # no steps on nan
            content, code, more = self._segment(here, line, k, end, content, code)
            return (content, code, steps + more), content

        begin = system.begin()
        carry = (begin, jnp.asarray(OK), jnp.asarray(0))
        (_, code, steps), rest = jax.lax.scan(segment, carry, jnp.arange(line.time.shape[0] - 1))
        states, outputs = observed(system, line, after(begin, rest))
        states, outputs, code = steady.judged(states, outputs, code, residual)
        return states, outputs, code, steps, residual

    def _walk_period(self, system: System, line: Timeline, content: Content) -> Content:
        """The content at the end of a timeline."""

        def segment(content: Content, k: Array) -> tuple[Content, None]:
            content = system.act(line, k, content)
            end, ok = line.time[k + 1], jnp.asarray(OK)
            return self._segment(system, line, k, end, content, ok)[0], None

        end: Content = jax.lax.scan(segment, content, jnp.arange(line.time.shape[0] - 1))[0]
        return end

    def _segment(
        self,
        here: System,
        line: Timeline,
        k: Array,
        end: Array,
        content: Content,
        code: Array,
    ) -> tuple[Content, Array, Array]:
        """Content at the end of segment `k`, code and number of steps."""
        flows, begin = here.inflow(line.rate[k]), line.time[k]
        amplitude = here.propagate(content.amplitude, flows, end - begin)
        if not content.u:
            return Content((), amplitude), code, jnp.asarray(0)
        logs = jnp.array(here.structure.model.logs)
        rtol = jnp.where(logs, 0.0, self.rtol)
        atol = jnp.where(logs, self.rtol, self.atol)
        controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=lambda x: jnp.max(jnp.abs(x)))
        method = (
            STIFF[self.method](root_finder=diffrax.VeryChord(rtol=self.rtol, atol=self.atol))
            if self.method in STIFF
            else EXPLICIT[self.method]()
        )

        def slope(t: Numbers, u: Array, _: None) -> Array:
            c = here.concentrations(content.amplitude, flows, jnp.subtract(t, begin))
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
        return Content(tuple(u), amplitude), code, sol.stats["num_steps"]
