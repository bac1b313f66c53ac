"""Published cohort summaries: one row each, and the columns that a row must have."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, TypeAlias, TypedDict, cast

import numpy as np
import pandas as pd

from carpk.dataset import tables, units
from carpk.dataset.tables import (
    Table,
    bound_of,
    count,
    flag_of,
    listing,
    nearest,
    number_of,
    text_of,
)
from carpk.dataset.validate import Settings, convert
from carpk.errors import CarpkWarning

Fail: TypeAlias = Callable[[str, str, str], NoReturn]  # column, problem, advice
Ask: TypeAlias = Callable[[str, str], None]  # column, question


class Row(TypedDict):
    """A published summary, an entry per column."""

    cohort: str
    analyte: str
    metric: str
    time: float
    statistic: str
    value: float
    low: float
    high: float
    interval: str
    spread: float
    n: float
    unit: str
    lloq: float
    threshold: float
    use: str
    source: str
    note: str


METRICS = {
    "level": "level",
    "cmax": "level",
    "clast": "level",
    "auc": "area",
    "tmax": "time",
    "t_half": "time",
    "tlast": "time",
    "tbql": "time",
    "auc_last": "area",
    "fold": "ratio",
    "detectable": "count",
    "expanded": "count",
}
"""Metric -> kind of its values."""

STATISTICS = ("median", "geometric mean", "mean", "count", "proportion", "percentage")
COUNTED = ("count", "proportion", "percentage")
INTERVALS = ("", "IQR", "range", "95% CI", "90% CI", "SD", "SE", "CV%", "GSD")
WITH_ENDS = ("IQR", "range", "95% CI", "90% CI")
CONFIDENCE = ("95% CI", "90% CI")
USES = ("fit", "value", "check", "no")
SAMPLED = ("cmax", "tmax", "auc", "t_half")
"""Metrics that depend on the sampling days."""

LIKELIHOODS = {
    "median": ("", "IQR", "range", "95% CI", "90% CI", "SD", "CV%"),
    "geometric mean": ("", "IQR", "range", "95% CI", "90% CI", "SD", "CV%", "GSD"),
    "mean": ("", "IQR", "range", "95% CI", "90% CI", "SD", "SE", "CV%"),
    "percentile": ("",),
    "count": ("",),
    "proportion": ("",),
    "percentage": ("",),
}
"""Statistic -> intervals that a fit can use with it (`carpk.summaries`). CV% is the
geometric CV beside a geometric mean, and SD over mean otherwise; GSD is the geometric SD, a
factor."""

LIKELIHOODS_OF_TMAX = {
    "median": ("", "range"),
    "mean": ("", "95% CI", "90% CI", "SD", "SE", "CV%"),
}
LIKELIHOODS_OF_HALF_LIFE = {
    "median": ("", "IQR", "range", "95% CI", "90% CI"),
    "geometric mean": ("", "IQR", "range", "95% CI", "90% CI", "CV%", "GSD"),
    "percentile": ("",),
}
"""Without means and SDs: ln 2 over a slope that may be near 0 has none, and those of a cohort are
made by its longest half-life."""
CONTINUOUS = ("level", "cmax", "auc")

TIMED = {
    "level": "the day of the level",
    "detectable": "the day of the sample",
    "auc": "the day on which the area ends (it starts on day 0)",
}
RATIOS = ("1", "fold", "fold change", "ratio", "x")
COUNTS = ("", "1", "%", "count", "patients", "patient", "infusions", "n")
FEWEST = {"": 1, "IQR": 3}
FEWEST_OF_MEDIAN_CI = {"95% CI": 6, "90% CI": 5}  # its ends are order statistics
SMALLEST_CV = 3.0  # percent; less is a fraction by mistake


def percent_of(statistic: str) -> float | None:
    """10 of "p10", the 10th percentile; None if it is no percentile."""
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?|100)", statistic)
    return float(found[1]) if found else None


def likelihoods_of(metric: str) -> dict[str, tuple[str, ...]]:
    """Statistic -> intervals that have a likelihood, for one metric."""
    if metric == "tmax":
        return LIKELIHOODS_OF_TMAX
    if metric == "t_half":
        return LIKELIHOODS_OF_HALF_LIFE
    if metric == "detectable":
        return {name: LIKELIHOODS[name] for name in COUNTED}
    if metric in CONTINUOUS:
        return {name: kinds for name, kinds in LIKELIHOODS.items() if name not in COUNTED}
    return {}


def no_likelihood(metric: str, statistic: str, interval: str) -> str:
    """Why a statistic with this interval cannot be fitted, as a clause; "" if it can."""
    known = likelihoods_of(metric)
    if not known:
        fitted = [m for m in METRICS if likelihoods_of(m)]
        return f"the metric {metric!r} has no likelihood; known are {listing(fitted)}"
    name = "percentile" if percent_of(statistic) is not None else statistic
    if name not in known:
        return (
            f"the {statistic} of {metric!r} has no likelihood; known are "
            f"{listing('p10, p90, ...' if k == 'percentile' else k for k in known)}"
        )
    if interval not in known[name]:
        kinds = [kind for kind in known[name] if kind]
        what = f"{statistic} of {metric!r}"
        accepted = f"its intervals are {listing(kinds)} or nothing" if kinds else "it has none"
        return f"the interval {interval!r} of a {what} has no likelihood; {accepted}"
    return ""


REQUIRED = ["cohort", "analyte", "metric", "statistic", "value", "n", "unit", "use", "source"]
OPTIONAL = ["time", "low", "high", "interval", "spread", "lloq", "threshold", "note"]
COLUMNS = list(Row.__annotations__)


def read_summaries(table: Table, settings: Settings) -> pd.DataFrame:
    """Cohort summaries in days and carpk's units, in the order given."""
    for column in OPTIONAL:
        if column not in table:
            table = table.with_columns(**{column: [None] * len(table)})
    table.require(REQUIRED, COLUMNS)
    table = _below_the_limit(table, settings)
    words = {
        "cohort": table.texts("cohort"),
        "analyte": table.texts("analyte"),
        "metric": _choice(table, "metric", tuple(METRICS)),
        "statistic": _choice(table, "statistic", STATISTICS, "p10, p90, ..."),
        "interval": _choice(table, "interval", INTERVALS),
        "unit": table.texts("unit", required=False),
        "use": _choice(table, "use", USES),
        "source": table.texts("source"),
        "note": table.texts("note", required=False),
    }
    numbers = {
        "time": table.numbers("time", required=False),
        "value": table.numbers("value"),
        **{
            column: table.numbers(column, required=False)
            for column in ("low", "high", "spread", "lloq", "threshold")
        },
        "n": table.numbers("n"),
    }
    _fill_lloq(table, words["analyte"], numbers["lloq"], settings)
    for i in range(len(table)):
        row = {key: column[i] for key, column in (words | numbers).items()}
        _check_row(table, i, cast("Row", row))  # its keys are those of `words` and `numbers`
    _convert(table, words, numbers, settings)
    frame = pd.DataFrame(
        {key: tables.words(words[key]) if key in words else numbers[key] for key in COLUMNS}
    )
    return frame.assign(n=numbers["n"].astype(np.int64))


def _choice(table: Table, column: str, known: Sequence[str], more: str = "") -> list[str]:
    entries = table.texts(column, required="" not in known)
    for i, entry in enumerate(entries):
        if entry not in known and not (more and percent_of(entry) is not None):
            close = nearest(entry, known)
            hint = f"Did you mean {close!r}?" if close else "Use one of these."
            table.fail(
                f"{column} {entry!r} is unknown; known are "
                + listing([*(w for w in known if w), *([more] if more else [])])
                + (" or nothing" if "" in known else ""),
                hint,
                rows=[i],
                column=column,
            )
    return entries


def _below_the_limit(table: Table, settings: Settings) -> Table:
    """Entries such as '<50' or 'BLQ' as 0, the sign of a censored statistic, with their LLOQ."""
    columns = {c: list(table.columns[c]) for c in ("value", "low", "high", "lloq")}
    found = 0
    for i in range(len(table)):
        for column in ("value", "low", "high"):
            entry = text_of(columns[column][i])
            if flag_of(entry) != 1:
                continue
            _, limit = bound_of(entry) or ("", None)
            known = number_of(columns["lloq"][i])
            if limit is not None and known is not None and np.isnan(known):
                columns["lloq"][i] = limit
            elif limit is not None and known != limit:
                table.fail(
                    f"{entry!r} is not below the lloq of this row, {columns['lloq'][i]}",
                    "Give one limit.",
                    rows=[i],
                    column=column,
                )
            columns[column][i] = 0.0
            found += 1
    if found:
        settings.notes.append(
            f"{table.label}: {count(found, 'entry')} below the LLOQ (such as '<50' or 'BLQ') kept "
            "as 0, with that LLOQ: a censored statistic."
        )
    return table.with_columns(**columns)


def _fill_lloq(table: Table, analytes: list[str], lloq: np.ndarray, settings: Settings) -> None:
    """Fill missing limits with the one given for the analyte, and say so."""
    if settings.lloq is None:
        return
    filled: dict[str, int] = {}
    for i in np.flatnonzero(np.isnan(lloq)):
        lloq[i] = settings.lloq_of(analytes[i], analytes)
        if not np.isnan(lloq[i]):
            filled[analytes[i]] = filled.get(analytes[i], 0) + 1
    for analyte, n in filled.items():
        settings.notes.append(
            f"{table.label}: the LLOQ of {count(n, 'row')} of {analyte} was filled with "
            f"{settings.lloq_of(analyte, analytes):g}, as given."
        )


def _check_row(table: Table, i: int, row: Row) -> None:
    """Refuse what contradicts itself inside one row, and what a fit cannot use."""

    def fail(column: str, problem: str, advice: str) -> NoReturn:
        table.fail(problem, advice, rows=[i], column=column)

    def ask(column: str, words: str) -> None:
        warnings.warn(f"{table.where(i, column)}: {words}", CarpkWarning, stacklevel=6)

    metric, statistic, interval = row["metric"], row["statistic"], row["interval"]
    counted, n = METRICS[metric] == "count", row["n"]
    if counted != (statistic in COUNTED):
        fail(
            "statistic",
            f"the statistic of {metric!r} cannot be {statistic!r}",
            "Patients that are detectable or have expanded are counted (statistic 'count', "
            "'proportion' or 'percentage'); everything else is a median, percentile, geometric "
            "mean or mean.",
        )
    if np.isnan(row["time"]) and metric in TIMED:
        fail("time", f"the time of {metric!r} is missing", f"Give {TIMED[metric]}.")
    if not np.isnan(row["time"]) and metric not in (*TIMED, "expanded"):
        fail(
            "time",
            f"a time is given ({row['time']:g}), but {metric!r} has none",
            "Leave it empty; a level on a day has the metric 'level'.",
        )
    if metric == "auc" and row["time"] <= 0:
        fail("time", f"the area ends on day {row['time']:g}", f"Give {TIMED['auc']}.")
    if abs(row["time"]) > 40 * 365.25:
        fail("time", f"time is {row['time']:g} days, more than 40 years", "Give days.")
    if n < 1 or n != int(n):
        fail("n", f"n must be a whole number from 1, but is {n:g}", "Give the number of patients.")
    fewest = FEWEST.get(interval, 2)
    if statistic == "median":
        fewest = FEWEST_OF_MEDIAN_CI.get(interval, fewest)
    if n < fewest:
        fail(
            "n",
            f"an interval ({interval}) of a {statistic} needs n of at least {fewest}, but n is "
            f"{n:g}",
            "Correct n, or leave the interval out.",
        )
    for column in ("lloq", "threshold"):
        if row[column] <= 0:
            fail(column, f"{column} must be positive, but is {row[column]:g}", "Correct it.")
    if counted:
        _check_count(fail, row)
    else:
        _check_interval(fail, ask, row)
        _check_zero(fail, row)
    if row["use"] != "fit" and not row["note"]:
        fail(
            "note",
            f"a row with use {row['use']!r} needs a reason",
            "Say in `note` why it is not fitted as it stands.",
        )
    if row["use"] in ("fit", "value"):
        _check_likelihood(fail, row)


def _check_likelihood(fail: Fail, row: Row) -> None:
    """Refuse a row for a fit that would not use every number of it."""
    metric, statistic, interval = row["metric"], row["statistic"], row["interval"]
    alone = row["use"] == "value"
    out = 'Set `use` to "check" to compare it after the fit, or to "no", and say why in `note`.'
    why = no_likelihood(metric, statistic, "")
    if why:
        fail("use", why, out)
    why = no_likelihood(metric, statistic, interval)
    if why and not alone:
        fail(
            "interval",
            why,
            f'Set `use` to "value" to fit the {statistic} without it, or to "check", and say why '
            "in `note`.",
        )
    if metric == "detectable" and np.isnan(row["lloq"]) and np.isnan(row["threshold"]):
        fail(
            "lloq",
            "patients are counted as detectable, but neither lloq nor threshold says from which "
            "level on",
            f"Give one of them. {out}",
        )
    if metric == "detectable" and row["threshold"] < row["lloq"]:
        fail(
            "threshold",
            f"the threshold {row['threshold']:g} is below the lloq {row['lloq']:g}",
            f"No sample tells on which side of it a level lies: correct one of the two. {out}",
        )
    if metric != "detectable" and not np.isnan(row["threshold"]):
        fail(
            "threshold",
            f"a threshold is given ({row['threshold']:g}), but {metric!r} counts nobody",
            "Leave it empty; patients above a level have the metric 'detectable'.",
        )
    if METRICS[metric] == "level" and statistic in ("mean", "geometric mean"):
        if row["value"] < row["lloq"]:
            fail(
                "value",
                f"the {statistic} {row['value']:g} is below the lloq {row['lloq']:g}",
                "Such a mean depends on what stood for levels below the LLOQ. " + out,
            )
        ends = row["interval"] in ("IQR", "range") and not alone
        if statistic == "geometric mean" and ends and row["low"] < row["lloq"]:
            fail(
                "low",
                f"the lower end {row['low']:g} of a geometric mean is below the lloq "
                f"{row['lloq']:g}",
                "Such a mean depends on what stood for levels below the LLOQ. " + out,
            )


def _check_zero(fail: Fail, row: Row) -> None:
    value, statistic = row["value"], row["statistic"]
    zero_allowed = METRICS[row["metric"]] == "level" and not np.isnan(row["lloq"])
    if value < 0 or (value == 0 and not zero_allowed):
        fail(
            "value",
            f"the {statistic} must be positive, but is {value:g}",
            "If it was below the limit of quantification, give the lloq too.",
        )


def _check_count(fail: Fail, row: Row) -> None:
    value, n, statistic = row["value"], row["n"], row["statistic"]
    if statistic == "count":
        if value < 0 or value != int(value):
            fail(
                "value",
                f"a count must be a whole number from 0, but is {value:g}",
                "Give the number of patients, or name the statistic 'proportion' or 'percentage'.",
            )
        if value > n:
            fail(
                "value",
                f"the count {value:g} exceeds n = {n:g}",
                "Give how many of the n patients; n is all that were looked at.",
            )
    else:
        most = 1 if statistic == "proportion" else 100
        if not 0 <= value <= most:
            hint = "A percentage has the statistic 'percentage'." if most == 1 else "Correct it."
            fail("value", f"a {statistic} lies between 0 and {most}, but is {value:g}", hint)
        low, high = proportion_bounds(value, statistic)
        share = np.arange(int(n) + 1) / n
        if not np.any((share >= low) & (share <= high)):
            near = int(np.clip(np.floor(value / most * n), 0, n - 1))
            fail(
                "value",
                f"a {statistic} of {value:g} is no whole number of {n:g} patients: "
                f"{near} are {most * near / n:.3g}, {near + 1} are {most * (near + 1) / n:.3g}",
                "Correct n, the patients that were looked at, or the value.",
            )
    for column in ("low", "high", "spread"):
        if not np.isnan(row[column]):
            fail(
                column,
                f"a {statistic} has no {column}",
                "Leave it empty: what n patients leave uncertain follows from n.",
            )
    if row["interval"]:
        fail("interval", f"a {statistic} has no interval", "Leave it empty.")


def proportion_bounds(value: float, statistic: str) -> tuple[float, float]:
    """Smallest and largest share of patients that is printed as this proportion or percentage."""
    most = 1 if statistic == "proportion" else 100
    half = 0.5 * 10.0 ** -decimals(value) * (1 + 1e-9)
    return (value - half) / most, (value + half) / most


def decimals(value: float) -> int:
    """Digits behind the point of a number as it was printed."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def rounding(value: float) -> float:
    """Rounding error of a reported value: half a unit of its last digit."""
    if value != int(value):
        return 0.5 * 10.0 ** -decimals(value)
    digits = len(str(int(abs(value)))) - len(str(int(abs(value))).rstrip("0")) if value else 0
    return min(0.5 * 10.0**digits, max(0.5, 0.02 * abs(value)))


def _check_interval(fail: Fail, ask: Ask, row: Row) -> None:
    """Check a statistic against its interval."""
    interval, spread = row["interval"], row["spread"]
    ends = interval in WITH_ENDS
    if ends and np.isnan(row["low"]) and np.isnan(row["high"]) and not np.isnan(spread):
        fail(
            "spread",
            f"the {interval} is given as one number, {spread:g}",
            "Give both its ends, as low and high; a width alone says too little: leave interval "
            "and spread empty, and keep it in `note`.",
        )
    column: Literal["low", "high", "spread"]
    for column, needed in (("low", ends), ("high", ends), ("spread", bool(interval) and not ends)):
        there = not np.isnan(row[column])
        if needed and not there:
            fail(
                column,
                f"the interval is {interval}, but {column} is missing",
                f"Give {'low and high' if ends else 'spread'}, or leave the interval empty.",
            )
        if there and not needed:
            kind = f"is {interval}" if interval else "is not named"
            fail(
                column if interval else "interval",
                f"{column} is given ({row[column]:g}), but the interval {kind}",
                "Name the interval: 'IQR', 'range', '95% CI' or '90% CI' with low and high; 'SD', "
                "'SE', 'CV%' or 'GSD' with spread.",
            )
    if ends:
        _check_ends(fail, ask, row)
    elif interval:
        _check_spread(fail, ask, row)


def _check_spread(fail: Fail, ask: Ask, row: Row) -> None:
    interval, spread, value, n = row["interval"], row["spread"], row["value"], row["n"]
    if spread <= 0:
        fail("spread", f"the {interval} must be positive, but is {spread:g}", "Correct it.")
    if interval == "GSD" and spread <= 1:
        fail(
            "spread",
            f"a geometric SD is a factor above 1, but is {spread:g}",
            "If it is the SD of the logs, give its exponential.",
        )
    if interval == "CV%" and spread < SMALLEST_CV:
        ask(
            "spread",
            f"a CV of {spread:g} % between patients is less than any assay's: if it is a fraction, "
            f"write {100 * spread:g}.",
        )
    if row["statistic"] != "mean" or value <= 0:
        return
    relative = {"SD": spread / value, "SE": spread * np.sqrt(n) / value, "CV%": spread / 100}
    if relative.get(interval, 0.0) > np.sqrt(n) * (1 + 1e-6):
        fail(
            "spread",
            f"no {n:g} positive numbers with the mean {value:g} have the {interval} {spread:g}: "
            f"their SD is at most {np.sqrt(n) * value:g}",
            "Check both numbers and n against the source; perhaps the statistic is a median.",
        )


def _check_ends(fail: Fail, ask: Ask, row: Row) -> None:
    low, value, high = row["low"], row["value"], row["high"]
    statistic, interval, n = row["statistic"], row["interval"], row["n"]
    confidence = interval in CONFIDENCE
    level = METRICS[row["metric"]] == "level"
    of_mean = confidence and statistic == "mean"  # symmetric: it may go below 0
    if not of_mean and (low < 0 or (low == 0 and level and np.isnan(row["lloq"]))):
        fail(
            "low",
            f"the lower end is {low:g}",
            "Levels are positive: if it stands for 'not detected', give the lloq too.",
        )
    if confidence and statistic == "geometric mean" and low <= 0:
        fail("low", f"the lower end of the {interval} is {low:g}", "It is positive: correct it.")
    free = interval == "IQR" and statistic in ("mean", "geometric mean")
    outside = low > high if free else low > value or value > high
    if outside:
        fail(
            "low" if low > value or low > high else "high",
            f"low <= value <= high does not hold: {low:g}, {value:g}, {high:g}",
            "Check the three numbers against the source, and that they are in one unit.",
        )
    if free and not low <= value <= high:
        ask(
            "value",
            f"the {statistic} {value:g} lies outside its IQR, {low:g} to {high:g}: it may, where a "
            "few patients are far from the others; check it against the source.",
        )
    if confidence and statistic != "median":
        _check_symmetric(fail, row)
    if interval == "range":
        _check_range(fail, row)
    tied = low == high or (statistic == "median" and value in (low, high))
    measured = np.isnan(row["lloq"]) or high >= row["lloq"]
    smooth = row["metric"] in CONTINUOUS and row["use"] == "fit" and n > 1
    if smooth and tied and measured and not (value == low and value < row["lloq"]):
        fail(
            "low" if value == low else "high",
            f"two of the three numbers are equal: {low:g}, {value:g}, {high:g}",
            "Rounded to the same digits they have no likelihood: give more digits, or set `use` to "
            '"value" and say why in `note`.',
        )


def _check_symmetric(fail: Fail, row: Row) -> None:
    """Refuse a confidence interval that is not that of Student's t."""
    low, value, high = row["low"], row["value"], row["high"]
    scale = np.log if row["statistic"] == "geometric mean" else np.asarray
    off = abs(scale(high) + scale(low) - 2 * scale(value)) / max(scale(high) - scale(low), 1e-12)
    slack = rounding(low) + rounding(high) + 2 * rounding(value)
    slack = slack / (value if row["statistic"] == "geometric mean" else 1.0)
    if off > 0.1 + slack / max(scale(high) - scale(low), 1e-12):
        kind = "of the logs " if row["statistic"] == "geometric mean" else ""
        fail(
            "low",
            f"the {row['interval']} {low:g} to {high:g} is not symmetric {kind}about the "
            f"{row['statistic']} {value:g}, as one from Student's t is",
            "Check the three numbers; if it comes from a bootstrap or a model, set `use` to "
            '"value" and say so in `note`.',
        )


def _check_range(fail: Fail, row: Row) -> None:
    """Check a statistic against the smallest and the largest of n values."""
    low, value, high, n = row["low"], row["value"], row["high"], row["n"]
    statistic = row["statistic"]
    ends = f"the {statistic} of {n:g} values from {low:g} to {high:g}"
    slack = rounding(value) + (rounding(low) + rounding(high)) / 2
    if n == 2 and (statistic != "geometric mean" or low > 0):
        middle = np.sqrt(low * high) if statistic == "geometric mean" else (low + high) / 2
        if abs(value - middle) > slack:
            fail(
                "value",
                f"{ends} is {middle:g}, but {value:g} is given",
                "Check n and the three numbers.",
            )
    elif statistic == "mean":
        least, most = ((n - 1) * low + high) / n, (low + (n - 1) * high) / n
        if not least - slack <= value <= most + slack:
            fail(
                "value",
                f"{ends} lies between {least:g} and {most:g}, but {value:g} is given",
                "Check n and the three numbers.",
            )


def _convert(
    table: Table, words: dict[str, list[str]], numbers: dict[str, np.ndarray], settings: Settings
) -> None:
    """Bring values to carpk's units in place; one note per kind of conversion."""
    done: dict[tuple[str, str, str, str, float], int] = {}
    filled: dict[tuple[str, str], int] = {}
    for i, (analyte, metric, unit) in enumerate(
        zip(words["analyte"], words["metric"], words["unit"], strict=True)
    ):
        kind = METRICS[metric]
        if not unit and kind == "level" and analyte in settings.units:
            unit = settings.units[analyte]
            filled[analyte, unit] = filled.get((analyte, unit), 0) + 1
        name, factor, level_factor = _unit_of(table, i, analyte, metric, unit)
        for column in ("value", "low", "high"):
            if kind != "count":
                numbers[column][i] *= factor
        if words["interval"][i] in ("SD", "SE"):
            numbers["spread"][i] *= factor
        numbers["lloq"][i] *= level_factor
        if kind in ("level", "count"):
            numbers["threshold"][i] *= level_factor
        words["unit"][i] = name
        if unit and name != unit:
            key = (analyte, metric, unit, name, factor if kind != "count" else level_factor)
            done[key] = done.get(key, 0) + 1
    for (analyte, unit), n in filled.items():
        settings.notes.append(
            f"{table.label}: {count(n, 'row')} of {analyte} had no unit; {unit} was used, as given."
        )
    for (analyte, metric, old, new, factor), n in done.items():
        how = f"converted from {old} to {new} (factor {factor:g})"
        if factor == 1:
            how = f"in {old!r}, which is {new!r}"
        settings.notes.append(f"{table.label}: {count(n, 'row')} of {metric} of {analyte} {how}.")


def _unit_of(
    table: Table, i: int, analyte: str, metric: str, unit: str
) -> tuple[str, float, float]:
    """carpk's unit, the factor of the values, and the factor of levels (lloq, threshold)."""
    kind = METRICS[metric]
    if kind == "count":
        if unit.lower() in COUNTS:
            return "count", 1.0, 1.0
        name, factor = convert(table, i, analyte, unit)  # the unit of lloq and threshold
        return name, 1.0, factor
    if not unit:
        example = {"ratio": "1", "time": "day", "area": "day*copies/µg"}.get(kind, "copies/µg")
        table.fail("the unit is missing", f"Give it, such as {example!r}.", rows=[i], column="unit")
    if kind == "ratio":
        if unit.lower() not in RATIOS:
            table.fail(
                f"a fold has no unit, but {unit!r} is given", "Write '1'.", rows=[i], column="unit"
            )
        return "1", 1.0, 1.0
    if kind == "time":
        found = units.time(unit)
        if found is None:
            table.fail(
                f"{metric} must be in day, hour or week, but is in {unit!r}",
                "Convert it to days (a month has 30.44, a year 365.25).",
                rows=[i],
                column="unit",
            )
        return "day", found[1], 1.0
    if kind == "area":
        parts = units.area(unit)
        if parts is None:
            table.fail(
                f"the unit of an area must be a time times a level, but is {unit!r}",
                "Write it like 'day*copies/µg'.",
                rows=[i],
                column="unit",
            )
        level, days, _ = parts
        name, factor = convert(table, i, analyte, level)
        return f"day*{name}", factor * days, factor
    name, factor = convert(table, i, analyte, unit)
    return name, factor, factor


def converted(summaries: pd.DataFrame, analyte: str, unit: str, factor: float) -> pd.DataFrame:
    """The statistics with those of one analyte in another unit of its levels."""
    kind = summaries["metric"].map(METRICS)
    own = summaries["analyte"] == analyte
    level, area = own & (kind == "level"), own & (kind == "area")
    limits = own & (
        kind.isin(["level", "area"]) | ((kind == "count") & (summaries["unit"] != "count"))
    )
    out = summaries.copy()
    for column in ("value", "low", "high"):
        out.loc[level | area, column] *= factor
    out.loc[(level | area) & summaries["interval"].isin(["SD", "SE"]), "spread"] *= factor
    for column in ("lloq", "threshold"):
        out.loc[limits, column] *= factor
    out.loc[limits & ~area, "unit"] = unit
    out.loc[area, "unit"] = f"day*{unit}"
    return out


def concentration_units(summaries: pd.DataFrame) -> dict[str, str]:
    """Analyte -> unit of its levels, as far as the statistics tell."""
    found: dict[str, str] = {}
    for analyte, metric, unit in zip(
        summaries["analyte"], summaries["metric"], summaries["unit"], strict=True
    ):
        if METRICS[metric] == "area":
            found.setdefault(analyte, unit.removeprefix("day*"))
        elif METRICS[metric] == "level" or (METRICS[metric] == "count" and unit != "count"):
            found.setdefault(analyte, unit)
    return found


def check_units(table: Table, summaries: pd.DataFrame, observed: dict[str, str]) -> None:
    """One unit per analyte, in the statistics and the observations."""
    first = dict(observed)
    for i in range(len(summaries)):
        for analyte, unit in concentration_units(summaries.iloc[[i]]).items():
            if first.setdefault(analyte, unit) != unit:
                table.fail(
                    f"{analyte!r} is in {unit!r} here, but in {first[analyte]!r} elsewhere",
                    "Bring all values of an analyte to one unit, or give the two assays two names.",
                    rows=[i],
                    column="unit",
                )
