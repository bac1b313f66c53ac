"""Outcomes and curves of virtual patients, some draws at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from carpk._options import Interval
from carpk.comparison.arms import ArmSpec, Source, Window
from carpk.comparison.contrasts import quantiles
from carpk.comparison.outcomes import Measures, Outcome, measures
from carpk.inference.result import Fit
from carpk.params import Params
from carpk.simulation import simulate_in_blocks, virtual_patients
from carpk.solver.solve import first_below

if TYPE_CHECKING:
    from carpk._types import Arrays

BLOCK = 2**23  # outputs held in memory at a time


class VirtualPatientCounts(NamedTuple):
    """Failures and extinctions, counted in pairs of draw and patient.

    Attributes:
        failures: arm -> reason -> number.
        extinct: output -> arm -> share in which less than one cell is left at some time.
        iiv: whether any parameter differs between patients.
        pairs: of draw and patient.
    """

    failures: Mapping[str, Mapping[str, int]]
    extinct: Mapping[str, Mapping[str, float]]
    iiv: bool
    pairs: int


def simulated(
    source: Source,
    specs: Mapping[str, ArmSpec],
    wanted: Sequence[Outcome],
    output: str,
    grid: np.ndarray,
    windows: Mapping[str, Window],
    patients: int,
    draws: int | None,
    seed: int,
    interval: Interval,
) -> tuple[
    dict[str, dict[str, np.ndarray]],
    dict[str, np.ndarray],
    Mapping[str, Arrays],
    VirtualPatientCounts,
]:
    """Outcomes, arm -> name -> (draw, patient); quantiles of the output, arm -> (quantile, time);
    population parameters of each draw; counts.

    Outputs are made some draws at a time and forgotten: outcomes and quantiles are kept.
    """
    model = source.population.model if isinstance(source, Fit) else source
    values, curves = {}, {}
    failures: dict[str, dict[str, int]] = {}
    extinct: dict[str, dict[str, float]] = {}
    theta: Mapping[str, Arrays] = {}
    made: dict[tuple[bytes, bytes, bytes], Measures] = {}
    iiv, pairs = False, 0
    for name, spec in specs.items():
        params, theta = virtual_patients(
            source,
            spec.regimen,
            patients=patients,
            draws=draws,
            covariates=spec.covariates,
            seed=seed,
        )
        size = np.shape(next(iter(params.items()))[1])[0]
        pairs, iiv = size * patients, iiv or _differs(params)
        block = _divisor(size, BLOCK // (patients * grid.size * len(model.units)))
        window = windows[name]
        key = (window.t.tobytes(), window.inside.tobytes(), window.peak.tobytes())
        measure = made.setdefault(key, measures(wanted, window))  # compiled once where arms agree
        parts: list[dict[str, np.ndarray]] = []
        each: list[np.ndarray] = []
        failures[name] = {}
        gone = dict.fromkeys((o for o in (output, "tumor") if o in model.one_cell), 0)
        for part in simulate_in_blocks(model, spec.regimen, grid, params, block, True):
            outputs = {k: np.asarray(v) for k, v in part.outputs.items()}
            parts.append(measure(outputs))
            each.append(np.stack(quantiles(outputs[output], interval.with_median), axis=1))
            for reason, count in part.failures.items():
                failures[name][reason] = failures[name].get(reason, 0) + count
            for o in gone:
                gone[o] += int((first_below(outputs[o], model.one_cell[o]) < grid.size).sum())
        values[name] = {o.name: np.concatenate([p[o.name] for p in parts]) for o in wanted}
        curves[name] = np.nanmedian(np.concatenate(each), axis=0)
        for o, count in gone.items():
            extinct.setdefault(o, {})[name] = count / pairs
    return values, curves, theta, VirtualPatientCounts(failures, extinct, iiv, pairs)


def _differs(params: Params) -> bool:
    return any(bool(np.ptp(np.asarray(x), axis=1).any()) for _, x in params.items())


def _divisor(size: int, most: int) -> int:
    """The largest divisor of `size` up to `most`: all blocks have one shape and compile once."""
    return max(k for k in range(1, size + 1) if size % k == 0 and k <= max(most, 1))


def basis_of(
    source: Source,
    theta: Mapping[str, Arrays],
    patients: int,
    output: str,
    horizon: float,
    infusion: int | Mapping[str, int] | None,
) -> str:
    """Basis of the comparison, in words."""
    model = source.population.model if isinstance(source, Fit) else source
    size = len(next(iter(theta.values()))) if theta else 1
    if isinstance(source, Fit):
        what = f"{model.name!r} fitted to {source.data.name}, {size} posterior draws"
    elif theta:
        what = f"{model.name!r}, {size} draws from the posterior in its file"
    else:
        what = f"{model.name!r} at the values in its file"
    which = "the infusion"
    if isinstance(infusion, Mapping):
        which = "infusion " + ", ".join(f"{k} of {name!r}" for name, k in infusion.items())
    elif infusion is None:
        which = "the first infusion"
    elif infusion > 1:
        which = f"infusion {infusion}"
    return (
        f"{what}, x {patients} virtual patients, the same in every arm; {output} "
        f"[{model.units[output]}], {horizon:g} days from {which}"
    )
