"""NCA of a data set: one row per patient and infusion."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carpk._tables import Columns, Rows, as_frame, records
from carpk.errors import CarpkError, CarpkWarning
from carpk.nca.areas import METHOD, auc_last, clast, cmax, days_above, partial_area, tlast, tmax
from carpk.nca.choices import (
    SAME,
    Acceptance,
    Chosen,
    chosen_windows,
    exclusions_told,
    without_excluded,
)
from carpk.nca.curve import BLQ, apply_blq, fill, from_zero, quantifiable
from carpk.nca.reasons import Window, missing, refuse_too_few, told
from carpk.nca.slopes import doubling_time, fold_expansion, terminal_phase
from carpk.nca.terms import PARAMETERS, Interval, area_name, term

if TYPE_CHECKING:
    import pandas as pd


class Tables(Protocol):
    """What of a data set is analysed."""

    @property
    def observations(self) -> pd.DataFrame: ...

    @property
    def doses(self) -> pd.DataFrame: ...


@functools.partial(jax.jit, static_argnames="blq")
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0, 0, 0, None))
def _parameters(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    lloq: Float[Array, " time"],
    limit: Float[Array, ""],
    initial: Float[Array, ""],
    dose: Float[Array, ""],
    low: Float[Array, ""],
    high: Float[Array, ""],
    blq: BLQ,
) -> tuple[dict[str, Array], Array]:
    """The columns of `table` for one curve, but for areas between two days; the curve as ruled."""
    ruled = apply_blq(c, lloq, blq)
    seen = quantifiable(c, lloq)
    terminal = terminal_phase(t, c, lloq, low, high)
    _, *filled = fill(t, ruled)
    above = days_above(*from_zero(*filled, initial), limit)
    highest, last = cmax(t, ruled), clast(t, c, lloq)
    area = auc_last(t, c, lloq, blq=blq, initial=initial)
    rest, predicted = last / terminal.lambda_z, terminal.clast / terminal.lambda_z
    return {
        "CMAX": highest,
        "TMAX": jnp.where(seen.any(), tmax(t, ruled), jnp.nan),
        "CLST": last,
        "TLST": tlast(t, c, lloq),
        "AUCLST": area,
        "AUCIFO": area + rest,
        "AUCPEO": 100 * rest / (area + rest),
        "AUCIFP": area + predicted,
        "AUCPEP": 100 * predicted / (area + predicted),
        "LAMZ": terminal.lambda_z,
        "LAMZHL": terminal.half_life,
        "LAMZNPT": terminal.points,
        "LAMZLL": terminal.start,
        "LAMZUL": terminal.stop,
        "LAMZSPN": (terminal.stop - terminal.start) / terminal.half_life,
        "R2ADJ": terminal.r2_adjusted,
        "CMAXD": highest / dose,
        "AUCLSTD": area / dose,
        "AUCIFOD": (area + rest) / dose,
        "FOLDX": fold_expansion(t, c, lloq),
        "DBLTIME": doubling_time(t, c, lloq),
        "TABOVE": jnp.where(jnp.isnan(limit), jnp.nan, above),
    }, ruled


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, None, None))  # curves
@functools.partial(jax.vmap, in_axes=(None, None, None, None, None, 0, None))  # intervals
def _areas(
    t: Float[Array, " time"],
    ruled: Float[Array, " time"],
    initial: Float[Array, ""],
    rate: Float[Array, ""],
    until: Float[Array, ""],
    interval: Float[Array, " ends"],
    most: Float[Array, ""],
) -> tuple[Array, Array, Array]:
    """Area of an interval; days extrapolated in it; the last concentration, from which they go."""
    any_observed, time, c = fill(t, ruled)
    start, stop = interval
    gap = stop - time[-1]
    from_last = jnp.maximum(start - time[-1], 0.0)
    tail = c[-1] * (jnp.exp(-rate * from_last) - jnp.exp(-rate * gap)) / rate
    observed = partial_area(t, ruled, start, jnp.minimum(stop, time[-1]), initial)
    short = gap > stop * SAME
    goes_on = any_observed & short & (gap <= most) & (until >= stop * (1 - SAME))
    extended = jnp.where(start < time[-1], observed, 0.0) + jnp.where(c[-1] > 0, tail, 0.0)
    whole = partial_area(t, ruled, start, stop, initial)
    return jnp.where(goes_on, extended, whole), jnp.where(goes_on, gap, 0.0), c[-1]


def table(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    product: str | None = None,
    blq: BLQ | None = None,
    bags_within: float | None = None,
    intervals: Sequence[Interval] = ((0.0, 28.0),),
    extrapolate: float = 2.0,
    lambda_z: Rows | Columns | pd.DataFrame | None = None,
    exclude: Rows | Columns | pd.DataFrame | None = None,
    acceptance: Acceptance | None = None,
) -> pd.DataFrame:
    """NCA of a data set: one row per patient and infusion, columns named as in CDISC PKPARMCD.

    Infusions are those of cells; of the drug itself where the analyte has the name of a product, or
    `product` is given; and all doses where there are no cells. Bags of cells that begin within
    `bags_within` days (1 unless given; 0 for drugs) of the first are one infusion. Days count from
    its beginning up to the next infusion. A sample at the time of an infusion was taken before it:
    it closes the interval of the infusion before. Areas and TABOVE start at the infusion, with the
    patient's last concentration before it, or 0 if there is none. CMAX is 0 and TMAX missing where
    all concentrations are BLQ. TABOVE counts from the highest LLOQ of the row's observations and is
    missing where none is known. AUCIFO and AUCIFP are areas up to the next infusion, extrapolated
    from the last observed and from the predicted concentration: of a re-infused patient, what
    the infusion would have added alone. CMAXD, AUCLSTD and AUCIFOD are over the dose, in its
    unit, and missing where it is not known.

    Units are in `.attrs["units"]`. Columns of text say how the row came about: METHOD, BLQRULE;
    EXTRAP, the areas between two days that go beyond the last observation, and by which rule;
    NCAXRS, the samples that were excluded, and why (as NCAwXRS of ADNCA); FLAG, the rules of
    acceptance that the terminal phase fails; PPREASND, why parameters are missing.

    Args:
        dataset: with tables `observations` and `doses`, and perhaps `patients`.
        analyte: may be left out if there is only one.
        by: columns of the data set's doses (such as "product"), patients (such as "cohort") or
            observations, which are added and by which the rows are sorted.
        product: whose doses open the intervals.
        blq: what becomes of concentrations below the LLOQ.
        bags_within: days within which bags are one infusion.
        intervals: pairs of days since the infusion, an area each: (7, 28) is AUC7_28D.
        extrapolate: where observations stop at most so many days before the end of an interval,
            its area goes on from the last concentration by lambda z, and at 0 after a BLQ taken as
            0 (2 days unless given: assumed, a visit that came early; 0 for never; infinity as
            Phoenix). Never past the next infusion. EXTRAP states it.
        lambda_z: points chosen by eye: a table of patient, infusion (the first is 1), start, stop
            [days since the infusion] and reason; the concentrations between are taken, and no
            others.
        exclude: samples left out of everything: a table of patient, time [day, as in the
            observations] and reason.
        acceptance: rules that fill FLAG; no row is left out by them.

    Raises:
        CarpkError: an entry of `lambda_z` or `exclude` matches nothing, or gives no reason.
    """
    blq, acceptance = blq or BLQ(), acceptance or Acceptance()
    names = [by] if isinstance(by, str) else list(by or ())
    areas = _intervals(intervals)
    every, analyte, unit = _observations(dataset, analyte)
    doses, within = _doses(dataset, analyte, product, bags_within)
    infusions = _infusions(doses, every, within)
    chosen = chosen_windows(lambda_z, infusions)
    observations, removed = without_excluded(every, exclude, analyte)
    dose_unit = " or ".join(dict.fromkeys(doses["unit"].astype(str))) or "dose"
    rows, windows, left_out = [], [], []
    for patient, starts in infusions.items():
        own = observations[observations["patient"] == patient].sort_values("time")
        for k, start in enumerate(starts):
            stop = starts[k + 1] if k + 1 < len(starts) else np.inf
            labels = {name: _label(dataset, doses, name, patient, start, within) for name in names}
            rows.append(
                {**labels, "patient": patient, "analyte": analyte, "infusion": k + 1, "day": start}
            )
            dose = _amount(doses, patient, start, within)
            windows.append(_window(own, start, stop, patient, dose, chosen.get((patient, k + 1))))
            refuse_too_few((patient, k + 1), windows[-1])
            since = start if k else -np.inf
            left_out.append(exclusions_told(removed.get(patient, []), since, stop))
    frame = as_frame(rows, [*names, "patient", "analyte", "infusion", "day"])
    columns, gone_on = _columns(windows, blq, areas, extrapolate)
    frame = frame.assign(**columns, METHOD=list(map(_method, windows)), BLQRULE=str(blq))
    frame["EXTRAP"] = gone_on
    frame["NCAXRS"] = left_out
    found = records(frame[list(columns)])
    frame["FLAG"] = [acceptance.failed(row) for row in found]
    frame["PPREASND"] = [
        told(missing(row, window, extrapolate)) for row, window in zip(found, windows, strict=True)
    ]
    if names:
        frame = frame.sort_values(names, kind="stable", ignore_index=True)
    units = {name: known.unit for name in columns if (known := term(name))}
    frame.attrs["units"] = {
        "day": "day",
        **{name: form.format(c=unit, d=dose_unit) for name, form in units.items()},
    }
    return frame


def _intervals(given: Sequence[Interval]) -> list[Interval]:
    """Areas between two days, checked."""
    for start, stop in given:
        if not 0 <= start < stop < np.inf:
            raise CarpkError(
                f"nca.table: `intervals` must hold pairs of days since the infusion, such as "
                f"(0, 28), the earlier first, but holds ({start}, {stop})."
            )
    return [(float(start), float(stop)) for start, stop in given]


def _columns(
    windows: list[Window], blq: BLQ, areas: list[Interval], extrapolate: float
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Column -> a value per window, and what is said of extrapolated areas."""
    names = [*PARAMETERS]
    place = names.index("AUCPEP") + 1
    names[place:place] = map(area_name, areas)
    if not windows:
        return {name: np.zeros(0) for name in names}, []
    t, c, lloq, limit, initial, dose, until, low, high = _pad(windows)
    found, ruled = _parameters(t, c, lloq, limit, initial, dose, low, high, blq)
    pairs = np.full((_padded(len(areas), 4), 2), np.nan)
    pairs[: len(areas)] = np.array(areas).reshape(-1, 2)
    partial, gap, last = _areas(t, ruled, initial, found["LAMZ"], until, pairs, extrapolate)
    found |= {area_name(ends): partial[:, k] for k, ends in enumerate(areas)}
    said = [
        told(_gone_on(areas, *(np.asarray(x[i, : len(areas)]) for x in (partial, gap, last))))
        for i in range(len(windows))
    ]
    return {name: np.asarray(found[name])[: len(windows)] for name in names}, said


def _gone_on(
    areas: list[Interval], area: np.ndarray, gap: np.ndarray, last: np.ndarray
) -> dict[str, str]:
    """Area -> how far it was extrapolated, and by which rule."""
    return {
        area_name(ends): f"extrapolated by {days:g} day from day {ends[1] - days:g}, "
        + ("by lambda z" if c > 0 else "0 after the last BLQ")
        for ends, value, days, c in zip(areas, area, gap, last, strict=True)
        if days > 0 and not np.isnan(value)
    }


def _method(window: Window) -> str:
    terminal = "best adjusted R2 of 3 or more points after TMAX, more points if within 0.0001"
    if window.chosen is not None:
        start, stop, reason = window.chosen
        terminal = f"points from day {start:g} to day {stop:g}, chosen: {reason}"
    return f"{METHOD} from the infusion, first value 0 or the last before it; lambda z: {terminal}"


def _observations(dataset: Tables, analyte: str | None) -> tuple[pd.DataFrame, str, str]:
    """The observed values of one analyte, with `value` 0 where censored and `lloq` where known."""
    found = dataset.observations
    choices = sorted(set(found["analyte"]))
    if analyte is None and len(choices) == 1:
        analyte = choices[0]
    if analyte not in choices:
        asked = "`analyte` must be named" if analyte is None else f"Analyte {analyte!r} is unknown"
        raise CarpkError(f"{asked}: choose one of {', '.join(map(repr, choices)) or 'none'}.")
    found = found[(found["analyte"] == analyte) & found["value"].notna() & found["time"].notna()]
    units = list(dict.fromkeys(found["unit"]))
    if len(units) > 1:
        raise CarpkError(
            f"Analyte {analyte!r} comes in {len(units)} units ({', '.join(map(str, units))}). "
            f"Convert its values to one unit first."
        )
    censored = found["censored"].fillna(0)
    if (upper := int((~censored.isin([0, 1])).sum())) > 0:
        warnings.warn(
            f"{upper} values of {analyte!r} are censored otherwise than from below and are used as "
            f"they stand: CMAX and areas of these patients are lower bounds.",
            CarpkWarning,
            stacklevel=3,
        )
    left = censored == 1
    lloq = found["lloq"].astype(float)
    lloq = lloq.where(lloq.notna() | ~left, found["value"])  # a censored value holds the LLOQ
    found = found.assign(value=found["value"].astype(float).where(~left, 0.0), lloq=lloq)
    negative = found[(found["value"] < 0) & ~(lloq > 0)]
    if len(negative):
        patient, day, value = negative[["patient", "time", "value"]].iloc[0]
        raise CarpkError(
            f"Patient {patient!r} has the value {value:g} of {analyte!r} on day {day:g} and no "
            "LLOQ. Give the LLOQ, so that the BLQ rule holds for it, or remove a failed sample."
        )
    return found, str(analyte), str(units[0]) if units else ""


def _doses(
    dataset: Tables, analyte: str, product: str | None, bags_within: float | None
) -> tuple[pd.DataFrame, float]:
    """The doses from which days count, and how far apart those of one infusion may begin."""
    doses = dataset.doses
    doses = doses[doses["unit"].astype(str) != ""]
    names = list(dict.fromkeys(doses["product"]))
    if product is not None and product not in names:
        raise CarpkError(
            f"`product` {product!r} was not given; it must be one of "
            f"{', '.join(map(repr, names)) or 'none'}."
        )
    cells = doses["unit"].astype(str).str.startswith("cells")
    if product is None and analyte in names:
        product = analyte
    if product is not None:
        doses = doses[doses["product"] == product]
    elif cells.any():
        doses = doses[cells]
    drugs = not doses["unit"].astype(str).str.startswith("cells").any()
    return doses, (0.0 if drugs else 1.0) if bags_within is None else bags_within


def _infusions(
    doses: pd.DataFrame, observations: pd.DataFrame, within: float
) -> dict[Hashable, list[float]]:
    """Days of each observed patient's infusions: of the first bag of each."""
    days = {
        patient: _first_bags(sorted(group["time"].astype(float)), within)
        for patient, group in doses.groupby("patient", sort=False)
    }
    patients = list(dict.fromkeys(observations["patient"]))
    without = [patient for patient in patients if patient not in days]
    if without:
        what = " or ".join(dict.fromkeys(doses["product"])) or "cells"
        warnings.warn(
            f"{len(without)} of {len(patients)} patients had no infusion of {what} and are left "
            f"out: {', '.join(map(str, without[:5]))}{', ...' if len(without) > 5 else ''}. Add "
            "the dose from which their days count.",
            CarpkWarning,
            stacklevel=3,
        )
    return {patient: days[patient] for patient in patients if patient in days}


def _of_infusion(
    doses: pd.DataFrame, patient: Hashable, start: float, within: float
) -> pd.DataFrame:
    """The doses that are one infusion."""
    since = doses["time"].astype(float) - start
    bags = (since >= 0) & (since < max(within, SAME))
    return doses[(doses["patient"] == patient) & bags]


def _amount(doses: pd.DataFrame, patient: Hashable, start: float, within: float) -> float:
    """What an infusion held; NaN where that is not known, or doses have several units."""
    bags = _of_infusion(doses, patient, start, within)
    alike = len(set(doses["unit"])) == 1
    return float(bags["amount"].sum(skipna=False)) if alike else np.nan


def _first_bags(days: Sequence[float], within: float) -> list[float]:
    firsts: list[float] = []
    for day in days:
        if not firsts or day - firsts[-1] >= max(within, SAME):
            firsts.append(day)
    return firsts


def _label(
    dataset: Tables,
    doses: pd.DataFrame,
    name: str,
    patient: Hashable,
    start: float,
    within: float,
) -> object:
    """Value of the data set's column `name` for one infusion of one patient."""
    if name in doses:
        values = list(dict.fromkeys(_of_infusion(doses, patient, start, within)[name]))
        return values[0] if len(values) == 1 else " + ".join(map(str, values))
    for frame in (getattr(dataset, "patients", None), dataset.observations):
        if frame is None or name not in frame:
            continue
        rows = frame["patient"] if "patient" in frame else frame.index.to_series()
        values = list(dict.fromkeys(frame.loc[rows == patient, name]))
        if len(values) == 1:
            return values[0]
        raise CarpkError(
            f"`by` column {name!r} must hold one value per patient, but holds {len(values)} for "
            f"patient {patient!r}."
        )
    raise CarpkError(
        f"`by` column {name!r} is unknown: it must be a column of the data set's doses, patients "
        f"or observations."
    )


def _window(
    own: pd.DataFrame,
    start: float,
    stop: float,
    patient: Hashable,
    dose: float,
    chosen: Chosen | None,
) -> Window:
    """What was observed from an infusion to the next."""
    during = own[(own["time"] > start + SAME) & (own["time"] <= stop + SAME)]
    repeated = during.loc[during["time"].duplicated(), "time"]
    if not repeated.empty:
        raise CarpkError(
            f"Patient {patient!r} has more than one observation on day {repeated.iloc[0]:g}. "
            f"Average replicates first."
        )
    before = own[own["time"] <= start + SAME]
    initial = 0.0
    if not before.empty:
        concentration, lloq = before["value"].iloc[-1], before["lloq"].iloc[-1]
        initial = 0.0 if concentration < lloq else max(float(concentration), 0.0)
    known = during["lloq"].dropna()
    return Window(
        during["time"].to_numpy(float) - start,
        during["value"].to_numpy(float),
        during["lloq"].fillna(0.0).to_numpy(float),
        float(known.max()) if known.size else np.nan,
        initial,
        dose if dose > 0 else np.nan,
        stop - start,
        chosen,
    )


def _pad(windows: list[Window]) -> list[np.ndarray]:
    """Curves padded with nan."""
    rows, length = _padded(len(windows), 16), _padded(max(w.t.size for w in windows), 8)
    t, c, lloq = np.full((3, rows, length), np.nan)
    numbers = np.full((6, rows), np.nan)
    for i, w in enumerate(windows):
        for array, values in zip((t, c, lloq), (w.t, w.c, w.lloq), strict=True):
            array[i, : values.size] = values
        days = (np.nan, np.nan)
        if w.chosen is not None:
            days = (w.chosen.start - SAME, w.chosen.stop + SAME)
        numbers[:, i] = w.limit, w.initial, w.dose, w.until, *days
    return [t, c, np.nan_to_num(lloq), *numbers]


def _padded(n: int, least: int) -> int:
    """A power of two, so that few shapes are compiled."""
    return max(least, 1 << (n - 1).bit_length()) if n else least
