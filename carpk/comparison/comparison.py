"""`compare` and what it gives: the outcomes of the arms, how they differ, and its caveats."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from carpk import _files
from carpk._arviz import netcdf
from carpk._late import late
from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.comparison import caveats, published
from carpk.comparison.arms import Given, check_cells, lloq_of, output_of, spec_of, windows_of
from carpk.comparison.contrasts import by_arm_of, contrasts, population, table_of, usual
from carpk.comparison.outcomes import Asked, outcomes_of
from carpk.comparison.virtual import basis_of, simulated
from carpk.dataset import Dataset
from carpk.errors import CarpkError
from carpk.inference.result import Fit
from carpk.library.study import Study
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

DRAWS = 200  # of the parameters, where their uncertainty is known


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Outcomes of two or more arms, and how they differ.

    Attributes:
        data: a variable per outcome, dims (arm, draw, patient), or (arm, draw) for published
            statistics; `attrs` hold its unit, its usual contrast ("ratio" or "difference") and the
            arms of which draws are uncertainty.
        basis: what the comparison rests on, in words.
        caveats: what to know before using it, a sentence or two each.
        curves: outputs per arm, dims (arm, quantile, time): quantiles over virtual patients, the
            median draw; None for published cohorts.
        doubt: whether the fit behind it cannot be trusted; a caveat says why.
        interval: of tables and curves: `options.interval_prob` when it was made.
    """

    data: xr.Dataset
    basis: str
    caveats: tuple[str, ...]
    curves: xr.DataArray | None = None
    doubt: bool = False
    interval: Interval = dataclasses.field(default_factory=lambda: options.interval)

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        name: str = self.data.attrs["reference"]
        return name

    @property
    def arms(self) -> list[str]:
        """Names of the arms, the reference first."""
        names = [str(arm) for arm in self.data["arm"].values]
        return [self.reference, *(arm for arm in names if arm != self.reference)]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per outcome, arm and contrast ("ratio" or "difference", arm over reference).

        Columns: estimate (median over draws of the population's contrast), its equal-tailed
        credible interval (eti90_low, eti90_high) and p_above, P(ratio > 1) or P(difference > 0),
        ties counted half: all nan where parameter uncertainty is not known. Then the same
        patient's contrast: patient_median, patient_low and patient_high (an interval
        over patients of the same share; mean over draws) and patients_above, the share of patients
        above 1 or 0. Then share_parameters, of the variance of the contrast (ln ratio); mc_se, the
        standard error that the number of virtual patients leaves in one draw's contrast (ln
        ratio); left_out, pairs of draw and patient without the outcome in some arm; unit. Ratios
        are given where every value is positive.
        """
        return table_of(self.data, self.interval)

    @cached_property
    def draws(self) -> pd.DataFrame:
        """The population's contrast of each draw; columns (outcome, arm, contrast)."""
        return as_frame({key: population(c) for key, c in contrasts(self.data)})

    @cached_property
    def by_arm(self) -> pd.DataFrame:
        """Each arm by itself, one row per outcome and arm.

        Columns: center (geometric mean over patients, or mean where `contrast` is "difference";
        median over draws), eti90_low and eti90_high over draws, patient_low and patient_high (an
        interval over patients of the same share, mean over draws), unit.
        """
        return by_arm_of(self.data, self.interval)

    def plot(self) -> Figure:
        """Contrasts with their intervals, and the curves of the arms."""
        figure: Figure = late("carpk.plot.comparison")(self)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write outcomes, curves and caveats to a NetCDF file, or `table` to a CSV file (.csv)."""
        if Path(path).suffix == ".csv":
            return _files.write(path, self.table.to_csv())
        data = self.data if self.curves is None else self.data.assign(curves=self.curves)
        data = data.assign_attrs(basis=self.basis, caveats="\n".join(self.caveats))
        for variable in data.data_vars.values():
            if "uncertain" in variable.attrs:
                variable.attrs["uncertain"] = "; ".join(variable.attrs["uncertain"])
        return _files.write(path, netcdf({"/": data}))

    def __repr__(self) -> str:
        return _text(self)


def compare(
    source: ClosedForm | ODEModel | Fit | Dataset | Study,
    arms: Mapping[str, Given | str],
    outcomes: Asked | None = None,
    *,
    reference: str | None = None,
    output: str | None = None,
    infusion: int | Mapping[str, int] | None = 1,
    days: ArrayLike | None = None,
    lloq: float | None = None,
    patients: int = 200,
    draws: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare arms: the same virtual patients under each of them, or published cohorts.

    Args:
        source: a structural model, a `Fit`, or a `Dataset` or `Study` with published cohorts.
        arms: name of the arm -> its `Regimen`; or, of a fit or of the equations, its covariates,
            {"conditioning": "Flu"} (a closed form then gets one infusion); or both, (regimen,
            covariates). Of published cohorts: name of the arm -> name of the cohort.
        outcomes: functions f(t, c) -> number, such as those in `carpk.nca`, of days since the
            infusion and levels; or names: "cmax", "tmax", "auc0_28d", "level_90d" (any day),
            "persistence" (days at or above `lloq`), "detectable_90d" (share at or above `lloq`),
            "tumor_nadir" (lowest tumor over that at the infusion; below one cell counts as one);
            or a mapping, name -> either. Of published cohorts: metrics, "cmax" or "auc". Left out,
            everything that the source can give.
        reference: arm that the others are compared with; the first unless said otherwise.
        output: the output compared; what was fitted, or "car_t", or the model's first output.
        infusion: which infusion the outcomes belong to: its number, or arm -> number; they reach to
            the next one. None: the first, and everything after it. All arms are followed equally
            long after it, as long as the shortest.
        days: times [day] at which levels are computed; every 6 hours, from day 28 daily, to 90 days
            after the last infusion unless said otherwise. Tmax and Cmax are as exact as this grid.
        lloq: level that counts as detectable; of a fit that of its data, where they have one.
        patients: virtual patients per draw.
        draws: of the parameters, 200 unless said otherwise, of a fit or of a structural model with
            a `posterior`; 4000 of a published summary. Other structural models have one.
        seed: same seed, same patients.

    The peak is the largest level from one day after the infusion on, so that a dose on its way is
    none; `nca.cmax` and `nca.tmax` mean this too. AUC starts at the infusion, with the level then.
    """
    if len(arms) < 2:
        raise CarpkError(
            f"compare: there is {len(arms)} arm, but a comparison needs two or more: "
            '{"Flu": ..., "Flu/Cy": ...}.'
        )
    reference = next(iter(arms)) if reference is None else reference
    if reference not in arms:
        raise CarpkError(
            f"compare: the reference {reference!r} is not an arm; arms are {', '.join(arms)}."
        )
    if isinstance(source, Dataset | Study):
        return Comparison(
            *published.cohorts(source, arms, outcomes, reference, draws or published.DRAWS, seed)
        )
    if patients < 2:
        raise CarpkError(f"compare: `patients` must be at least 2, but is {patients}.")
    specs = {name: spec_of(source, name, given) for name, given in arms.items()}
    model = source.population.model if isinstance(source, Fit) else source
    output = output_of(source, output)
    check_cells(specs, output)
    if lloq is None and isinstance(source, Fit) and output == source.bound.output:
        lloq = lloq_of(source)
    grid, windows, horizon = windows_of(model, specs, infusion, days)
    wanted = outcomes_of(model, output, horizon, lloq, outcomes)
    if draws is None and (isinstance(source, Fit) or source.calibration_draws is not None):
        draws = DRAWS
    interval = options.interval
    values, curves, theta, counts = simulated(
        source, specs, wanted, output, grid, windows, patients, draws, seed, interval
    )
    basis = basis_of(source, theta, patients, output, horizon, infusion)
    coords = {"arm": list(specs)}
    variables = {}
    for o in wanted:
        x = np.stack([values[name][o.name] for name in specs])
        if not np.isfinite(x).any(axis=(1, 2)).all():
            raise CarpkError(
                f"compare: in some arm {o.name!r} is defined for no patient, within {horizon:g} "
                "days of the infusion. Give `days` that reach further, or leave it out."
            )
        attrs: dict[str, str | list[str]] = {"units": o.unit, "contrast": o.contrast}
        attrs["uncertain"] = list(specs) if x.shape[1] > 1 else []
        variables[o.name] = (("arm", "draw", "patient"), x, attrs)
    data = xr.Dataset(variables, coords=coords, attrs={"reference": reference})
    levels = xr.DataArray(
        np.stack([curves[name] for name in specs]),
        dims=("arm", "quantile", "time"),
        coords=coords | {"quantile": list(interval.with_median), "time": grid},
        attrs={"units": model.units[output], "long_name": output},
    )
    found = [
        *caveats.about_arms(source, specs, reference, output),
        *caveats.about_parameters(source, specs, theta, data),
        *(caveats.about_extrapolation(source, specs, windows) if isinstance(source, Fit) else ()),
        *caveats.about_patients(model, data, counts),
        "Simulated patients, and a model's answer: not a trial, and not a tool for clinical "
        "decisions.",
    ]
    doubt = isinstance(source, Fit) and not source.ok
    return Comparison(data, basis, tuple(found), levels, doubt, interval)


def _text(comparison: Comparison) -> str:
    keys = [key for key, _ in usual(comparison.data)]
    rows = comparison.table.loc[keys]
    heads = []
    for (outcome, arm, contrast), row in zip(keys, rows.to_dict("records"), strict=True):
        if outcome != keys[0][0]:
            continue
        sign, unit, of = ("x ", "", "ratio > 1")
        if contrast == "difference":
            sign, unit, of = ("", f" {row['unit']}", "difference > 0")
        text = f"{outcome} of {arm} against {comparison.reference}: "
        text += f"{sign}{row['estimate']:.3g}{unit}"
        if math.isfinite(row["p_above"]):
            low, high = (row[column] for column in comparison.interval.columns)
            text += f" ({comparison.interval} credible interval {low:.3g} to {high:.3g}, P({of}) = "
            text += f"{row['p_above']:.2f})"
        heads.append(text)
    head = "; ".join(heads) + "."
    if not np.isfinite(rows["p_above"]).any():
        head += " Parameter uncertainty is NOT included."
    if comparison.doubt:
        head = f"DO NOT TRUST the fit behind this (see below). {head}"
    shown = rows.drop(columns=[c for c in rows if rows[c].isna().all()])
    if not shown["left_out"].any():
        shown = shown.drop(columns="left_out")
    lines = [
        textwrap.fill(head, 100),
        textwrap.fill(f"Comparison: {comparison.basis}.", 100),
        shown.to_string(float_format="{:.3g}".format, na_rep=""),
    ]
    lines += [
        textwrap.fill(text, 100, initial_indent=f"{i:3d}. ", subsequent_indent=" " * 5)
        for i, text in enumerate(comparison.caveats, 1)
    ]
    return "\n".join(lines)
