"""NCA of a data set: one row per patient and infusion, and the CDISC PP domain."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carpk._tables import as_frame
from carpk.errors import CarpkError, CarpkWarning
from carpk.nca.areas import METHOD, auc_last, clast, cmax, days_above, partial_area, tlast, tmax
from carpk.nca.curve import BLQ, apply_blq, fill, from_zero, quantifiable
from carpk.nca.slopes import doubling_time, fold_expansion, lambda_z

if TYPE_CHECKING:
    import pandas as pd


class Tables(Protocol):
    """What of a data set is analysed."""

    @property
    def observations(self) -> pd.DataFrame: ...

    @property
    def doses(self) -> pd.DataFrame: ...


SAME = 1e-9  # days between times that are one, but for rounding

# Column -> (unit, with {c} for the level's and {d} for the dose's; CDISC PPTESTCD; PPTEST; start
# and end of an interval).
# FOLDX, DBLTIME and TABOVE are carpk's own: CDISC has no code for them.
_PARAMETERS: dict[str, tuple[str, str, str, str, str]] = {
    "CMAX": ("{c}", "CMAX", "Max Conc", "", ""),
    "TMAX": ("day", "TMAX", "Time of CMAX", "", ""),
    "CLST": ("{c}", "CLST", "Last Nonzero Conc", "", ""),
    "TLST": ("day", "TLST", "Time of Last Nonzero Conc", "", ""),
    "AUCLST": ("day*{c}", "AUCLST", "AUC to Last Nonzero Conc", "", ""),
    "AUCIFO": ("day*{c}", "AUCIFO", "AUC Infinity Obs", "", ""),
    "AUCPEO": ("%", "AUCPEO", "AUC %Extrapolation Obs", "", ""),
    "AUCIFP": ("day*{c}", "AUCIFP", "AUC Infinity Pred", "", ""),
    "AUCPEP": ("%", "AUCPEP", "AUC %Extrapolation Pred", "", ""),
    "AUC0_28D": ("day*{c}", "AUCINT", "AUC from T1 to T2", "P0D", "P28D"),
    "LAMZ": ("1/day", "LAMZ", "Lambda z", "", ""),
    "LAMZHL": ("day", "LAMZHL", "Half-Life Lambda z", "", ""),
    "LAMZNPT": ("1", "LAMZNPT", "Number of Points for Lambda z", "", ""),
    "LAMZLL": ("day", "LAMZLL", "Lambda z Lower Limit", "", ""),
    "LAMZUL": ("day", "LAMZUL", "Lambda z Upper Limit", "", ""),
    "LAMZSPN": ("1", "LAMZSPN", "Lambda z Span", "", ""),
    "R2ADJ": ("1", "R2ADJ", "R Squared Adjusted", "", ""),
    "CMAXD": ("{c}/({d})", "CMAXD", "Max Conc Norm by Dose", "", ""),
    "AUCLSTD": ("day*{c}/({d})", "AUCLSTD", "AUC to Last Nonzero Conc Norm by Dose", "", ""),
    "AUCIFOD": ("day*{c}/({d})", "AUCIFOD", "AUC Infinity Obs Norm by Dose", "", ""),
    "FOLDX": ("1", "FOLDX", "Fold Expansion", "", ""),
    "DBLTIME": ("day", "DBLTIME", "Doubling Time to CMAX", "", ""),
    "TABOVE": ("day", "TABOVE", "Time Above LLOQ", "", ""),
}


@functools.partial(jax.jit, static_argnames="blq")
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0, None))
def _parameters(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    lloq: Float[Array, " time"],
    limit: Float[Array, ""],
    initial: Float[Array, ""],
    dose: Float[Array, ""],
    blq: BLQ,
) -> dict[str, Array]:
    """The columns of `table` for one curve."""
    ruled = apply_blq(c, lloq, blq)
    seen = quantifiable(c, lloq)
    terminal = lambda_z(t, c, lloq)
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
        "AUC0_28D": partial_area(t, ruled, 28.0, initial),
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
    }


def table(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    product: str | None = None,
    blq: BLQ | None = None,
    bags_within: float | None = None,
) -> pd.DataFrame:
    """NCA of a data set: one row per patient and infusion, columns named as in CDISC PKPARMCD.

    Infusions are those of cells; of the drug itself where the analyte has the name of a product, or
    `product` is given; and all doses where there are no cells. Bags of cells that begin within
    `bags_within` days (1 unless given; 0 for drugs) of the first are one infusion. Days count from
    its beginning up to the next infusion. A sample at the time of an infusion was taken before it:
    it closes the interval of the infusion before. Areas and TABOVE start at the infusion, with the
    patient's last concentration before it, or 0 if there is none. AUC0_28D is missing where
    observations stop, or the next infusion comes, before day 28. CMAX is 0 and TMAX missing where
    all concentrations are BLQ. TABOVE counts from the highest LLOQ of the row's observations and is
    missing where none is known. AUCIFO and AUCIFP are areas up to the next infusion, extrapolated
    from the last observed and from the predicted concentration: of a re-infused patient, what
    the infusion would have added alone. CMAXD, AUCLSTD and AUCIFOD are over the dose, in its
    unit, and missing where it is not known.

    `analyte` may be left out if there is only one. `by` adds columns of the data set's doses (such
    as "product"), patients (such as "cohort") or observations, and sorts the rows by them. Units
    are in `.attrs["units"]`, the methods in the columns METHOD and BLQRULE.
    """
    blq = BLQ() if blq is None else blq
    names = [by] if isinstance(by, str) else list(by or ())
    observations, analyte, unit = _observations(dataset, analyte)
    doses, within = _doses(dataset, analyte, product, bags_within)
    infusions = _infusions(doses, observations, within)
    dose_unit = " or ".join(dict.fromkeys(doses["unit"].astype(str))) or "dose"
    rows, curves, given = [], [], []
    for patient, starts in infusions.items():
        own = observations[observations["patient"] == patient].sort_values("time")
        for k, start in enumerate(starts):
            stop = starts[k + 1] if k + 1 < len(starts) else np.inf
            labels = {name: _label(dataset, doses, name, patient, start, within) for name in names}
            rows.append(
                {**labels, "patient": patient, "analyte": analyte, "infusion": k + 1, "day": start}
            )
            curves.append(_window(own, start, stop, patient))
            given.append(_amount(doses, patient, start, within))
    frame = as_frame(rows, [*names, "patient", "analyte", "infusion", "day"])
    columns = (
        _parameters(*_pad(curves, given), blq) if curves else {name: [] for name in _PARAMETERS}
    )
    for name in _PARAMETERS:
        frame[name] = np.asarray(columns[name])[: len(curves)]
    frame["METHOD"] = (
        f"{METHOD} from the infusion, first value 0 or the last before it; lambda z: best adjusted "
        f"R2 of 3 or more points after TMAX, more points if within 0.0001"
    )
    frame["BLQRULE"] = str(blq)
    if names:
        frame = frame.sort_values(names, kind="stable", ignore_index=True)
    frame.attrs["units"] = {
        "day": "day",
        **{name: entry[0].format(c=unit, d=dose_unit) for name, entry in _PARAMETERS.items()},
    }
    return frame


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
    own: pd.DataFrame, start: float, stop: float, patient: Hashable
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Times since the infusion, concentrations, LLOQs, the highest LLOQ, the value before."""
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
    return (
        during["time"].to_numpy(float) - start,
        during["value"].to_numpy(float),
        during["lloq"].fillna(0.0).to_numpy(float),
        float(known.max()) if known.size else np.nan,
        initial,
    )


def _pad(
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray, float, float]], doses: list[float]
) -> list[np.ndarray]:
    """Curves padded with nan; both lengths are powers of two, so that few shapes are compiled."""

    def power_of_two(n: int) -> int:
        return max(8, 1 << (n - 1).bit_length())

    rows, length = power_of_two(len(curves)), power_of_two(max(curve[0].size for curve in curves))
    t, c, lloq = np.full((3, rows, length), np.nan)
    limit, initial = np.full(rows, np.nan), np.zeros(rows)
    for i, (*points, highest, before) in enumerate(curves):
        for array, values in zip((t, c, lloq), points, strict=True):
            array[i, : values.size] = values
        limit[i], initial[i] = highest, before
    dose = np.pad(np.array(doses), (0, rows - len(doses)), constant_values=np.nan)
    return [t, c, np.nan_to_num(lloq), limit, initial, np.where(dose > 0, dose, np.nan)]


SUMMARY = ("n", "mean", "sd", "geometric_mean", "geometric_cv_percent", "median", "q1", "q3")


def summary(
    table: pd.DataFrame,
    by: str | Sequence[str] | None = None,
    parameters: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Statistics of a `table`, as a paper prints them: a row per group and parameter.

    Columns: unit, n (values that are not missing), mean, sd, geometric_mean, geometric_cv_percent
    (100 sqrt(exp(variance of ln) - 1)), median, q1, q3, min, max. Geometric ones are missing where
    any value is 0, as CMAX of a patient without expansion. Its `to_csv`, `to_excel` and `to_latex`
    write it.

    Args:
        table: what `table` returned; with several infusions each counts for itself: take
            `table[table.infusion == 1]`, or `by="infusion"`.
        by: one or more of its columns, such as "cohort".
        parameters: the columns to summarize; all unless given.
    """
    units = table.attrs.get("units", {})
    names = [by] if isinstance(by, str) else list(by or ())
    wanted = list(parameters or (name for name in _PARAMETERS if name in table))
    for name in [*names, *wanted]:
        if name not in table:
            raise CarpkError(
                f"nca.summary: the table has no column {name!r}; it has "
                f"{', '.join(map(str, table.columns))}."
            )
    groups = table.groupby(names, sort=False) if names else [((), table)]
    rows = []
    for key, group in groups:
        for name in wanted:
            x = group[name].dropna().to_numpy(float)
            rows.append((*key, name, units.get(name, ""), *_statistics(x)))
    columns = [*names, "parameter", "unit", *SUMMARY, "min", "max"]
    return as_frame(rows, columns).set_index([*names, "parameter"])


def _statistics(x: np.ndarray) -> tuple[float, ...]:
    """Those of `SUMMARY`, least and largest; missing where there is no value."""
    if not x.size:
        return (0, *[np.nan] * (len(SUMMARY) + 1))
    several = x.size > 1
    log = np.log(x) if (x > 0).all() else np.full(x.size, np.nan)
    spread = 100 * np.sqrt(np.expm1(log.var(ddof=1))) if several else np.nan
    quartiles = np.quantile(x, [0.5, 0.25, 0.75])
    sd = x.std(ddof=1) if several else np.nan
    return (x.size, x.mean(), sd, np.exp(log.mean()), spread, *quartiles, x.min(), x.max())


def pp_domain(table: pd.DataFrame) -> pd.DataFrame:
    """A `table` in the long form of the CDISC PP domain: one row per result.

    Results are text in PPORRES and numbers in PPSTRESN; missing ones have no row. PPGRPID counts
    the infusions of a patient, PPANMETH holds method and BLQ rule. AUC0_28D becomes AUCINT from
    P0D to P28D. FOLDX, DBLTIME and TABOVE are not CDISC terms and need a place in the study's own
    codelist.
    """
    units = table.attrs.get("units")
    if units is None:
        raise CarpkError(
            "The units of this table are lost: pass what `carpk.nca.table` returned, or set "
            '`.attrs["units"]` again from it (merging and concatenating tables drops it).'
        )
    rows = []
    absent = table.isna()
    for i, row in enumerate(table.to_dict("records")):
        for name, (_, code, test, begin, end) in _PARAMETERS.items():
            if absent[name].iloc[i] or (name == "LAMZNPT" and row[name] == 0):
                continue
            rows.append(
                {
                    "USUBJID": row["patient"],
                    "PPGRPID": f"infusion {row['infusion']}",
                    "PPCAT": row["analyte"],
                    "PPTESTCD": code,
                    "PPTEST": test,
                    "PPORRES": f"{row[name]:.10g}",
                    "PPORRESU": "" if units[name] == "1" else units[name],
                    "PPSTRESN": float(row[name]),
                    "PPSTINT": begin,
                    "PPENTINT": end,
                    "PPANMETH": f"{row['METHOD']}; {row['BLQRULE']}",
                }
            )
    names = ["USUBJID", "PPSEQ", "PPGRPID", "PPCAT", "PPTESTCD", "PPTEST", "PPORRES", "PPORRESU"]
    long = as_frame(rows, [*names, "PPSTRESN", "PPSTINT", "PPENTINT", "PPANMETH"])
    long["PPSEQ"] = long.groupby("USUBJID").cumcount() + 1
    return long
