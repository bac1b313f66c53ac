"""Meshes: how the steps of the fast route are laid out, and how good they are.

A mesh belongs to a model, the timelines of some patients and parameters that stand for those it
will be used with: draws from the prior, from the posterior, or the virtual patients themselves.
Steps are placed so that each makes about the same error (equidistribution of the embedded error
estimate, de Boor 1973), and made shorter until the outputs agree with those of a mesh of half the
step. That estimate is not a guarantee: `checks.solver_error` compares with the adaptive route.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk._types import Arrays
from carpk.params import Params
from carpk.solver import steady
from carpk.solver.events import Patient, Schedule, Structure, Timeline
from carpk.solver.march import METHOD, ORDER, Steps, relative_error, runge_kutta
from carpk.solver.system import BEYOND, Content, System, observed, placed

MAX_STEPS = 1500  # a mesh with more costs more than it saves: the adaptive route is taken
ROUNDS = 12
STABLE = 2.5  # largest step times spectral radius; the method is stable to a little beyond 3
START_STEP = 0.25  # day; longest step of the first mesh: with longer ones stiff patients blow up

Walked: TypeAlias = tuple[Content, Content, tuple[Array, ...], Array]  # in `_run_one`


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Steps of all patients of a schedule.

    Attributes:
        steps: leaves (P, ...), but for `any_first`.
        size: number of steps, that of the patient with most.
        rtol: the bound that was asked for.
        share: share of the reference patients for which it holds.
        error: estimated relative error of the outputs, the largest over that share.
        worst: the same over all of them.
        local: largest estimated error of any one step, over that share.
    """

    steps: Steps[Arrays]
    size: int
    rtol: float
    share: float
    error: float
    worst: float
    local: float

    def __repr__(self) -> str:
        return (
            f"Mesh of {self.size} steps: estimated relative error of the outputs at most "
            f"{self.error:.1e} in {self.share:.0%} of the reference patients (asked for: "
            f"{self.rtol:.0e}), {self.worst:.1e} in all"
        )


def choose(
    schedule: Schedule,
    reference: Params,
    *,
    rtol: float = 1e-4,
    share: float = 0.95,
    line: Timeline | None = None,
) -> Mesh | str:
    """A mesh with outputs within `rtol`, or the reason why there is none.

    Args:
        schedule: events and times of P patients.
        reference: parameters, leaves (D, P) or (D, P, infusion): D draws for every patient.
        rtol: largest relative error of the outputs at the observation times, which is the error
            of their logarithms.
        share: of the reference patients for which it must hold; the hardest ones may miss it.
        line: timelines of the schedule, where no dose lags.
    """
    trial = _Trial(schedule, reference, line)
    layout = trial.first_layout()
    tolerance, best, hardest = 0.01 * rtol, None, np.inf
    stiffness, settled = None, False
    for attempt in range(ROUNDS):
        steps = pack(layout, trial.boundaries)
        size = steps.segment.shape[1]
        if size > MAX_STEPS:
            break
        demand, error = trial(layout, share)
        hardest = float(np.quantile(error, share, method="higher"))
        if hardest <= rtol and (best is None or size < best.size):
            kept = error[error <= hardest]
            local = max(float(d.max()) for d in demand) ** ORDER
            best = Mesh(steps, size, rtol, share, float(kept.max()), float(error.max()), local)
        if attempt and best is not None and best.size == size and hardest > 0.2 * rtol:
            break
        if attempt and np.isfinite(hardest):
            tolerance *= float(np.clip(0.5 * rtol / max(hardest, 1e-300), 1e-2, 1e2))
        unit = tolerance ** (1 / ORDER)
        if stiffness is None or not settled:  # a first mesh that blows up says little
            stiffness, settled = trial.stiffness(share), bool(np.isfinite(hardest))
        layout = [_refined(*each, unit) for each in zip(layout, demand, stiffness, strict=True)]
    if best is not None:
        return best
    if not np.isfinite(hardest):
        return (
            f"the equations have no finite solution for more than {1 - share:.0%} of the reference "
            "patients on any mesh tried: look for parameters without bounds, or stiff equations"
        )
    return (
        f"a mesh would need more than {MAX_STEPS} steps for a relative error of {rtol:g}: the "
        "equations are stiff at the reference parameters"
    )


class Layout(NamedTuple):
    """The steps of one patient: segment, offset and width of each, in order."""

    segment: np.ndarray
    offset: np.ndarray
    width: np.ndarray


def pack(layout: Sequence[Layout], boundaries: int) -> Steps[Arrays]:
    """Layouts of all patients as arrays, with steps of no length where a patient needs fewer."""
    size = max(len(one.segment) for one in layout)

    def filled(columns: Sequence[np.ndarray], pad: float) -> np.ndarray:
        return np.stack([np.pad(c, (0, size - len(c)), constant_values=pad) for c in columns])

    first = [np.diff(one.segment, prepend=-1) > 0 for one in layout]
    node = [np.searchsorted(one.segment, np.arange(boundaries), side="left") for one in layout]
    starts = filled(first, False)
    return Steps(
        segment=filled([one.segment for one in layout], boundaries - 2),
        offset=filled([one.offset for one in layout], 1.0),
        width=filled([one.width for one in layout], 0.0),
        first=starts,
        any_first=np.any(starts, axis=0),
        node=np.stack(node),
    )


class _Trial:
    """Runs of a layout and of its halves, at the reference parameters."""

    capacity = 2 * MAX_STEPS

    def __init__(self, schedule: Schedule, reference: Params, line: Timeline | None) -> None:
        self.schedule, self.reference, self.line = schedule, reference, line
        typical = jax.tree.map(lambda x: x[0], reference)
        lines = _late(schedule.structure, typical, schedule.rows) if line is None else line
        self.lengths = np.diff(np.asarray(lines.time), axis=1)
        self.last = np.asarray(lines.at).max(axis=1)  # boundary at which anything is observed
        self.boundaries = self.lengths.shape[1] + 1
        self.at: Content

    def first_layout(self) -> list[Layout]:
        """Steps of at most `START_STEP`, four in each segment."""
        layouts = []
        for lengths, last in zip(self.lengths, self.last, strict=True):
            counts = np.maximum(np.ceil(lengths / START_STEP), 4).astype(int)
            if self.line is not None:
                unseen = np.arange(len(counts)) >= max(last, 1)
                counts[lengths <= 0] = 1
                counts[unseen & (lengths <= 0)] = 0  # these only fill up the timeline
            budget = MAX_STEPS - len(counts)
            counts = np.where(
                counts > 0, np.maximum(1, counts * min(1.0, budget / counts.sum())), 0
            )
            layouts.append(_joined([_even(k, int(n)) for k, n in enumerate(counts)]))
        return layouts

    def __call__(
        self, layout: Sequence[Layout], share: float
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """(demand per step of each patient, relative error of the outputs per draw and patient).

        The demand is the fifth root of the largest local error over the reference patients, the
        hardest ones left out; nan where no solution is finite.
        """
        halves = [
            Layout(
                np.repeat(one.segment, 2),
                (one.offset[:, None] + one.width[:, None] * np.array([0.0, 0.5])).ravel(),
                np.repeat(one.width / 2, 2),
            )
            for one in layout
        ]
        (coarse, local, _), (fine, _, self.at) = (self._run(x) for x in (layout, halves))
        error = np.zeros(local.shape[:2])
        for name, a in coarse.items():
            b = fine[name]
            scale = np.abs(b) + BEYOND * np.abs(b).max(axis=2, keepdims=True) + 1e-300
            error = np.maximum(error, np.max(np.abs(a - b) / scale, axis=2))
        error = np.where(np.isfinite(error), error, np.inf)
        local = np.where(np.isfinite(local), local, np.inf)
        total = np.sum(local ** (1 / ORDER), axis=2)
        kept = total <= np.quantile(total, share, method="higher")
        demand = []
        for p, one in enumerate(layout):
            most = np.max(local[kept[:, p], p, : len(one.segment)], axis=0, initial=0.0)
            demand.append(most ** (1 / ORDER))
        return demand, error

    def stiffness(self, share: float) -> np.ndarray:
        """Steps that each segment needs for the method to be stable in it, (P, B - 1).

        From the spectral radius at both ends of the segments of the last run, the largest over the
        reference patients but for the hardest ones.
        """
        given = (self.reference, self.schedule.rows)
        matrices = np.asarray(_jacobians(self.schedule.structure, self.line, self.at, *given))
        matrices = np.where(np.isfinite(matrices), matrices, 0.0)
        radius = np.abs(np.linalg.eigvals(matrices)).max(axis=(-2, -1))
        most: np.ndarray = np.quantile(radius, share, axis=0, method="higher")
        return most * self.lengths / STABLE

    def _run(self, layout: Sequence[Layout]) -> tuple[dict[str, np.ndarray], np.ndarray, Content]:
        steps = pack(layout, self.boundaries)
        size = steps.segment.shape[1]
        room = self.capacity - size
        wide = steps.each(lambda x: np.pad(x, ((0, 0), (0, room)), mode="edge"))
        wide = wide._replace(any_first=np.pad(steps.any_first, (0, room)), node=steps.node)
        given = (self.reference, self.schedule.rows)
        outputs, local, at = _run(self.schedule.structure, self.line, wide, size, *given)
        return {k: np.asarray(v) for k, v in outputs.items()}, np.asarray(local), at


@partial(jax.jit, static_argnums=0)
def _late(structure: Structure, params: Params, patients: Patient) -> Timeline:
    """Timelines of patients with these parameters, lag times included."""
    return jax.vmap(lambda p, patient: placed(structure, None, p, patient)[1])(params, patients)


@partial(jax.jit, static_argnums=0)
def _run(
    structure: Structure,
    line: Timeline | None,
    steps: Steps[Arrays],
    size: int,
    reference: Params,
    patients: Patient,
) -> tuple[dict[str, Array], Array, Content]:
    """`_run_one` over draws and patients, (D, P, ...)."""
    axes: Steps[int | None] = Steps(0, 0, 0, 0, None, 0)
    each = None if line is None else 0
    every = jax.vmap(partial(_run_one, structure), in_axes=(each, axes, None, 0, 0))
    return jax.vmap(every, in_axes=(None, None, None, 0, None))(
        line, steps, size, reference, patients
    )


def _run_one(
    structure: Structure,
    line: Timeline | None,
    steps: Steps[Arrays],
    size: int,
    params: Params,
    patient: Patient,
) -> tuple[dict[str, Array], Array, Content]:
    """Outputs and local errors of one patient on the first `size` steps."""
    system, line = placed(structure, line, params, patient)
    puts, _ = steady.begun(structure, params, patient, METHOD)
    begin = system.begin()
    at = jax.tree.map(lambda x: jnp.repeat(x[None], line.time.shape[0], axis=0), begin)

    def step(i: Array, carry: Walked) -> Walked:
        content, at, peak, local = carry
        k = steps.segment[i]
        here = system.during(line.occasion[k])
        acted = here.act(line, k, content, steady.at(puts, line, k))
        content = jax.tree.map(partial(jnp.where, steps.first[i]), acted, content)
        length = line.time[k + 1] - line.time[k]
        time = jnp.add(line.time[k], steps.offset[i] * length)
        h = jnp.multiply(steps.width[i], length)
        flows = here.inflow(line.rate[k])
        new, error = runge_kutta(here, time, h, content, flows, errors=True)
        peak, size = relative_error(structure, content, new, error, peak)
        local = local.at[i].set(size)
        at = jax.tree.map(lambda a, v: a.at[k + 1].set(v), at, new)
        return new, at, peak, local

    peak = tuple(jnp.zeros(()) for _ in begin.u)
    local = jnp.zeros(steps.segment.shape[0])
    _, at, _, local = jax.lax.fori_loop(0, size, step, (begin, at, peak, local))
    _, outputs = observed(system, line, at)
    return outputs, local, at


@partial(jax.jit, static_argnums=0)
def _jacobians(
    structure: Structure,
    line: Timeline | None,
    at: Content,
    reference: Params,
    patients: Patient,
) -> Array:
    """`_jacobians_one` over draws and patients, (D, P, ...)."""
    each = None if line is None else 0
    every = jax.vmap(partial(_jacobians_one, structure), in_axes=(each, 0, 0, 0))
    return jax.vmap(every, in_axes=(None, 0, 0, None))(line, at, reference, patients)


def _jacobians_one(
    structure: Structure, line: Timeline | None, at: Content, params: Params, patient: Patient
) -> Array:
    """Jacobians of the equations after each boundary and before the next, (B - 1, 2, S, S)."""
    system, line = placed(structure, line, params, patient)
    puts, _ = steady.begun(structure, params, patient, METHOD)

    def one(here: System, k: Array, where: Array, content: Content) -> Array:
        flows = here.inflow(line.rate[k])
        c = here.input_concentrations(content.amplitude)

        def slope(u: Array) -> Array:
            return jnp.stack(here.slope(line.time[where], tuple(u), c, flows))

        jacobian: Array = jax.jacfwd(slope)(jnp.stack(content.u))
        return jacobian

    def both(k: Array) -> Array:
        here = system.during(line.occasion[k])
        begin, end = (jax.tree.map(lambda x, i=i: x[i], at) for i in (k, k + 1))
        acted = here.act(line, k, begin, steady.at(puts, line, k))
        return jnp.stack([one(here, k, k, acted), one(here, k, k + 1, end)])

    return jax.vmap(both)(jnp.arange(line.time.shape[0] - 1))


def _even(segment: int, count: int) -> Layout:
    offset = np.arange(count) / max(count, 1)
    return Layout(np.full(count, segment), offset, np.full(count, 1 / max(count, 1)))


def _joined(parts: Sequence[Layout]) -> Layout:
    return Layout(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _refined(layout: Layout, demand: np.ndarray, stiffness: np.ndarray, unit: float) -> Layout:
    """New steps, each with a demand of at most `unit`, spread evenly within each segment."""
    parts = []
    for k in np.unique(layout.segment):
        here = layout.segment == k
        d = np.where(np.isfinite(demand[here]), demand[here], 4 * unit)  # unsolvable: by four
        d = np.maximum(d, stiffness[k] * layout.width[here] * unit) + 0.05 * d.mean() + 1e-12
        steps = max(1, int(np.ceil(min(d.sum() / unit, 2 * MAX_STEPS))))
        edges = np.append(layout.offset[here], 1.0)
        ends = np.interp(np.linspace(0, d.sum(), steps + 1), np.append(0, np.cumsum(d)), edges)
        parts.append(Layout(np.full(steps, k), ends[:-1], np.diff(ends)))
    return _joined(parts)
