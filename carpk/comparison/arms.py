"""Arms of a comparison: regimens, covariates and time windows of the outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from carpk.dosing.regimen import Regimen
from carpk.errors import CarpkError, RegimenError
from carpk.inference.result import Fit
from carpk.simulation import check_regimen
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Source: TypeAlias = ClosedForm | ODEModel | Fit
Covariates: TypeAlias = Mapping[str, float | str]
Given: TypeAlias = Regimen | Covariates | tuple[Regimen, Covariates]
"""What a user says of an arm of virtual patients."""

FOLLOW_UP = 90.0  # days after the last infusion, unless said otherwise
GRID = np.concatenate([np.arange(0.0, 28.0, 0.25), np.arange(28.0, FOLLOW_UP + 1)])
OF_CELLS = ("car_t", "transgene")  # outputs that stay at 0 without an infusion of cells
# day after an infusion from which a concentration may be the peak: no dose on its way
PEAK_FROM = 1.0


class ArmSpec(NamedTuple):
    """Regimen of an arm and covariates of its patients."""

    regimen: Regimen
    covariates: Covariates


def spec_of(source: Source, name: str, given: Given | str) -> ArmSpec:
    model = source.population.model if isinstance(source, Fit) else source
    if isinstance(given, Regimen):
        spec = ArmSpec(given, {})
    elif isinstance(given, Mapping):
        if not isinstance(model, ClosedForm) or model.dose_effect is not None:
            raise RegimenError(
                f"compare: the arm {name!r} has covariates only, but {model.name!r} needs to know "
                f"what is given: {name!r}: (regimen, {dict(given)})."
            )
        spec = ArmSpec(Regimen.cells(), given)
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Regimen):
        spec = ArmSpec(given[0], given[1])
    else:
        raise CarpkError(
            f"compare: the arm {name!r} must be a Regimen, a mapping of covariates or both, "
            f"(regimen, covariates), but is {given!r}."
        )
    check_regimen(model, spec.regimen, stacklevel=4)
    return spec


def output_of(source: Source, output: str | None) -> str:
    if isinstance(source, Fit):
        model, usual = source.population.model, source.bound.output
    else:
        model, usual = source, "car_t" if "car_t" in source.outputs else next(iter(source.outputs))
    model.require(output or usual)
    return output or usual


def check_cells(specs: Mapping[str, ArmSpec], output: str) -> None:
    """Refuse an arm without cells where cells are compared."""
    for name, spec in specs.items():
        if output in OF_CELLS and not spec.regimen.infusions:
            raise RegimenError(
                f"compare: the arm {name!r} has no infusion of cells, so there is no {output!r} to "
                "compare; add Regimen.cells(...), or compare another output."
            )


def lloq_of(fit: Fit) -> float | None:
    """The limit of quantification of the fitted data, where there is one."""
    data, analyte = fit.data, fit.bound.analyte
    tables = (data.observations, data.summaries)
    found = [x for t in tables for x in t.loc[t["analyte"] == analyte, "lloq"].dropna()]
    known = {float(x) for x in found if x > 0}
    return known.pop() if len(known) == 1 else None


class Window(NamedTuple):
    """The days over which an arm's outcomes are taken.

    Attributes:
        infusion: its day.
        inside: which times of the grid, shape (time,).
        t: days since the infusion, of these.
        peak: which of these may hold a peak.
    """

    infusion: float
    inside: np.ndarray
    t: np.ndarray
    peak: np.ndarray


def windows_of(
    model: ClosedForm | ODEModel,
    specs: Mapping[str, ArmSpec],
    infusion: int | Mapping[str, int] | None,
    days: ArrayLike | None,
) -> tuple[np.ndarray, dict[str, Window], float]:
    """The common grid of times, the window of each arm, and how many days all windows last."""
    infused = {
        name: sorted({float(e.time) for e in spec.regimen.infusions}) or [0.0]
        for name, spec in specs.items()
    }
    every = sorted({day for times in infused.values() for day in times})
    if days is None:
        grid = np.concatenate([day + GRID for day in every])
        grid = grid[grid <= every[-1] + FOLLOW_UP]
    else:
        grid = np.asarray(days, float)
        if grid.ndim != 1 or grid.size < 2 or not (np.diff(grid) > 0).all():
            raise RegimenError("compare: `days` must be ascending times, shape (time,).")
    starts, ends = {}, {}
    for name, times in infused.items():
        k = infusion.get(name, 1) if isinstance(infusion, Mapping) else infusion or 1
        if not 1 <= k <= len(times):
            raise RegimenError(
                f"compare: the arm {name!r} has {len(times)} infusion(s), but infusion {k} is "
                "asked for. Say which one of each arm, infusion={arm: number}, or infusion=None "
                "for everything after the first."
            )
        starts[name] = times[k - 1]
        later = times[k] if infusion is not None and k < len(times) else np.inf
        ends[name] = min(float(grid[-1]), later)
    horizon = min(ends[name] - starts[name] for name in specs)
    if horizon <= PEAK_FROM:
        raise RegimenError(
            f"compare: only {max(horizon, 0):g} days after the infusion can be compared; give "
            "`days` that reach further."
        )
    stops = {name: min(starts[name] + horizon, ends[name]) for name in specs}
    # the concentration of a closed form on the day of an infusion has the new cells
    closed = isinstance(model, ClosedForm)
    last = {
        name: math.nextafter(stop, -math.inf) if closed else stop for name, stop in stops.items()
    }
    grid = np.unique([*grid, *starts.values(), *last.values(), *stops.values()])
    windows = {}
    for name in specs:
        inside = (grid >= starts[name]) & (grid <= last[name])
        t = grid[inside]
        peak = np.ones(t.size, bool)
        for day in infused[name]:
            peak &= (t < day) | (t >= day + PEAK_FROM)
        windows[name] = Window(starts[name], inside, t - starts[name], peak)
    return grid, windows, horizon
