"""NCA of a data set: one row per patient and infusion."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carpk._tables import as_frame, records
from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError
from carpk.nca.areas import METHOD, auc_last, clast, cmax, days_above, partial_area, tlast, tmax
from carpk.nca.choices import Acceptance, chosen_windows
from carpk.nca.curve import BLQ, apply_blq, fill, from_zero, quantifiable
from carpk.nca.drugs import (
    ROUTES,
    drug_parameters,
    duration_of,
    initial_concentration,
    route_of,
)
from carpk.nca.reasons import missing, refuse_too_few, told
from carpk.nca.slopes import doubling_time, fold_expansion, terminal_phase
from carpk.nca.terms import PARAMETERS, Interval, area_name, units_of
from carpk.nca.windows import Infusions, Tables, Window, named, padded_size, window_of

if TYPE_CHECKING:
    import pandas as pd

    from carpk.nca.choices import Entries


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
    lambda_z: Entries | None = None,
    exclude: Entries | None = None,
    acceptance: Acceptance | None = None,
    route: str | None = None,
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
    FOLDBASE, the concentration over which FOLDX is taken;
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
            0 (2 days unless given: assumed, a visit that came early; 0 for never). Never past the
            next infusion. EXTRAP states it.
        lambda_z: points chosen by eye: a table of patient, infusion (the first is 1), start, stop
            [days since the infusion] and reason; the concentrations between are taken, and no
            others.
        exclude: samples left out of everything: a table of patient, time [day, as in the
            observations] and reason.
        acceptance: rules that fill FLAG; no row is left out by them.
        route: of a drug: "bolus", "infusion" or "extravascular"; unless given, "infusion" where
            doses have a duration, "extravascular" where they have none. Where the analyte has the
            name of the product, or product or route are given, it adds clearance, volume
            and mean residence time (CLO, VZO, MRTIVIFO; by mouth CLFO, VZFO, MRTEVIFO), missing
            where a concentration is left from the dose before; after a bolus also C0, from which
            areas start, and the share of it in AUCIFO and AUCIFP (AUCPBEO, AUCPBEP).

    Raises:
        CarpkError: an entry of `lambda_z` or `exclude` matches nothing, or gives no reason; a route
            that the doses contradict.
    """
    blq, acceptance = blq or BLQ(), acceptance or Acceptance()
    names, areas = named(by), _intervals(intervals)
    infusions = Infusions.of(dataset, analyte, product, bags_within, exclude)
    way = route_of(route, product, infusions)
    chosen = chosen_windows(lambda_z, infusions.starts)
    rows, windows, left_out = [], [], []
    for given in infusions.opened(names):
        key = given.patient, given.number
        window = window_of(infusions.observations, given, infusions.dose(given), chosen.get(key))
        windows.append(_of_route(window, way, duration_of(infusions, given)))
        refuse_too_few(key, windows[-1])
        left_out.append(infusions.excluded(given.patient, given.after, given.stop))
        rows.append((*given.labels.values(), given.patient, infusions.analyte, *given[1:3]))
    frame = as_frame(rows, [*names, "patient", "analyte", "infusion", "day"])
    columns, gone_on = _columns(windows, blq, areas, extrapolate, way)
    methods = [_method(window, way) for window in windows]
    frame = frame.assign(**columns, METHOD=methods, BLQRULE=str(blq))
    frame["EXTRAP"] = gone_on
    frame["FOLDBASE"] = list(map(_fold_base, windows))
    frame["NCAXRS"] = left_out
    found = records(frame[list(columns)])
    frame["FLAG"] = [acceptance.failed(row) for row in found]
    frame["PPREASND"] = [
        told(missing(row, window, extrapolate)) for row, window in zip(found, windows, strict=True)
    ]
    if names:
        frame = frame.sort_values(names, kind="stable", ignore_index=True)
    units = units_of(columns, infusions.unit, infusions.dose_unit)
    frame.attrs["units"] = {"day": "day", **units}
    return frame


def _of_route(window: Window, route: str, duration: float) -> Window:
    """The curve of a drug starts with C0 after a bolus."""
    if route == "bolus":
        seen = np.where(window.quantifiable, window.c, 0.0)
        return window._replace(initial=initial_concentration(window.t, seen))
    return window._replace(duration=duration) if route == "infusion" else window


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
    windows: list[Window], blq: BLQ, areas: list[Interval], extrapolate: float, route: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Column -> a value per window, and what is said of extrapolated areas."""
    names = [*PARAMETERS]
    place = names.index("AUCPEP") + 1
    names[place:place] = map(area_name, areas)
    names += ROUTES[route]
    if not windows:
        return {name: np.zeros(0) for name in names}, []
    t, c, lloq, limit, initial, dose, until, low, high = _pad(windows)
    found, ruled = _parameters(t, c, lloq, limit, initial, dose, low, high, blq)
    pairs = np.full((padded_size(len(areas), 4), 2), np.nan)
    pairs[: len(areas)] = np.array(areas).reshape(-1, 2)
    partial, gap, last = _areas(t, ruled, initial, found["LAMZ"], until, pairs, extrapolate)
    found |= {area_name(ends): partial[:, k] for k, ends in enumerate(areas)}
    said = [
        told(_gone_on(areas, *(np.asarray(x[i, : len(areas)]) for x in (partial, gap, last))))
        for i in range(len(windows))
    ]
    columns = {name: np.asarray(x)[: len(windows)] for name, x in found.items()}
    if route:
        columns |= _of_drug(windows, np.asarray(ruled), columns)
    return {name: columns[name] for name in names}, said


def _of_drug(
    windows: list[Window], ruled: np.ndarray, columns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The columns that only drugs have."""
    rows = [
        drug_parameters(w, ruled[i, : w.t.size], {n: float(x[i]) for n, x in columns.items()})
        for i, w in enumerate(windows)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


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


def _method(window: Window, route: str) -> str:
    terminal = "best adjusted R2 of 3 or more points after TMAX, more points if within 0.0001"
    if window.chosen is not None:
        start, stop, reason = window.chosen
        terminal = f"points from day {start:g} to day {stop:g}, chosen: {reason}"
    first = "C0 (log-linear back-extrapolation)" if route == "bolus" else "0 or the last before it"
    drug = f"; {route}" if route else ""
    return f"{METHOD} from the infusion, first value {first}; lambda z: {terminal}{drug}"


def _fold_base(window: Window) -> str:
    """The concentration over which FOLDX is taken."""
    seen = np.flatnonzero(window.quantifiable)
    if not seen.size:
        return ""
    first = seen[0]
    blq = f"after BLQ on day {window.t[first - 1]:g}" if first else "the first sample"
    return f"{window.c[first]:g} on day {window.t[first]:g}, {blq}"


def _pad(windows: list[Window]) -> list[np.ndarray]:
    """Curves padded with nan."""
    rows, length = padded_size(len(windows), 16), padded_size(max(w.t.size for w in windows), 8)
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
