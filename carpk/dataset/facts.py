"""Published cohort statistics: one row per figure, and what each row must hold to be used."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from carpk.dataset import tables, units
from carpk.dataset.tables import Table, count, listing, nearest
from carpk.dataset.validate import Settings, convert
from carpk.errors import CarpkWarning

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
"""Metric -> what its values are."""

STATISTICS = ("median", "geometric mean", "mean", "count")
INTERVALS = ("", "IQR", "range", "CV%", "SD")
USES = ("fit", "value", "check", "no")
TIMED = {
    "level": "the day of the level",
    "detectable": "the day of the sample",
    "auc": "the day on which the area ends (it starts on day 0)",
}
RATIOS = ("1", "fold", "fold change", "ratio", "x")
COUNTS = ("", "1", "count", "patients", "patient", "infusions", "n")
FEWEST = {"": 1, "IQR": 3, "range": 2, "CV%": 2, "SD": 2}

REQUIRED = ["cohort", "analyte", "metric", "statistic", "value", "n", "unit", "use", "source"]
OPTIONAL = ["time", "low", "high", "interval", "spread", "lloq", "threshold", "note"]
COLUMNS = [
    *("cohort", "analyte", "metric", "time", "statistic", "value", "low", "high", "interval"),
    *("spread", "n", "unit", "lloq", "threshold", "use", "source", "note"),
]


def read_summaries(table: Table, settings: Settings) -> pd.DataFrame:
    """Cohort statistics in days and carpk's units, in the order given."""
    for column in OPTIONAL:
        if column not in table:
            table = table.with_columns(**{column: [None] * len(table)})
    table.require(REQUIRED, COLUMNS)
    words = {
        "cohort": table.texts("cohort"),
        "analyte": table.texts("analyte"),
        "metric": _choice(table, "metric", tuple(METRICS)),
        "statistic": _choice(table, "statistic", STATISTICS),
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
        _check_row(table, i, row)
    _convert(table, words, numbers, settings)
    frame = pd.DataFrame(
        {key: tables.words(words[key]) if key in words else numbers[key] for key in COLUMNS}
    )
    return frame.assign(n=numbers["n"].astype(np.int64))


def _choice(table: Table, column: str, known: Sequence[str]) -> list[str]:
    entries = table.texts(column, required="" not in known)
    for i, entry in enumerate(entries):
        if entry not in known:
            close = nearest(entry, known)
            hint = f"Did you mean {close!r}?" if close else "Use one of these."
            table.fail(
                f"{column} {entry!r} is unknown; known are {listing(w for w in known if w)}"
                + (" or nothing" if "" in known else ""),
                hint,
                rows=[i],
                column=column,
            )
    return entries


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


def _check_row(table: Table, i: int, row: dict) -> None:
    """Refuse what contradicts itself inside one row."""

    def fail(column: str, problem: str, advice: str) -> None:
        table.fail(problem, advice, rows=[i], column=column)

    metric, statistic, interval = row["metric"], row["statistic"], row["interval"]
    counted, value, n = METRICS[metric] == "count", row["value"], row["n"]
    if counted != (statistic == "count"):
        fail(
            "statistic",
            f"the statistic of {metric!r} cannot be {statistic!r}",
            "Patients that are detectable or have expanded are counted (statistic 'count'); "
            "everything else is a median, geometric mean or mean.",
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
    if n < FEWEST[interval]:
        fail(
            "n",
            f"an interval ({interval}) needs n of at least {FEWEST[interval]}, but n is {n:g}",
            "Correct n, or leave the interval out.",
        )
    for column in ("lloq", "threshold"):
        if row[column] <= 0:
            fail(column, f"{column} must be positive, but is {row[column]:g}", "Correct it.")
    if counted:
        _check_count(fail, row)
    else:
        _check_interval(fail, row)
        zero_allowed = METRICS[metric] == "level" and not np.isnan(row["lloq"])
        if value < 0 or (value == 0 and not zero_allowed):
            fail(
                "value",
                f"the {statistic} must be positive, but is {value:g}",
                "If it was below the limit of quantification, give the lloq too.",
            )
    if row["use"] != "fit" and not row["note"]:
        fail(
            "note",
            f"a row with use {row['use']!r} needs a reason",
            "Say in `note` why it is not fitted as it stands.",
        )
    unlimited = np.isnan(row["lloq"]) and np.isnan(row["threshold"])
    if metric == "detectable" and row["use"] in ("fit", "value") and unlimited:
        warnings.warn(
            f"{table.where(i, 'lloq')}: patients are counted as detectable, but neither lloq nor "
            "threshold says from which level on; the row cannot be fitted without.",
            CarpkWarning,
            stacklevel=5,
        )


def _check_count(fail, row: dict) -> None:
    value, n = row["value"], row["n"]
    if value < 0 or value != int(value):
        fail(
            "value",
            f"a count must be a whole number from 0, but is {value:g}",
            "Give the number of patients, not a share or percentage.",
        )
    if value > n:
        fail(
            "value",
            f"the count {value:g} exceeds n = {n:g}",
            "Give how many of the n patients; n is all that were looked at.",
        )
    for column in ("low", "high", "spread"):
        if not np.isnan(row[column]):
            fail(column, f"a count has no {column}", "Leave it empty.")
    if row["interval"]:
        fail("interval", "a count has no interval", "Leave it empty.")


def _check_interval(fail, row: dict) -> None:
    interval, value = row["interval"], row["value"]
    ends, spread = interval in ("IQR", "range"), interval in ("CV%", "SD")
    for column, needed in (("low", ends), ("high", ends), ("spread", spread)):
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
                "Name the interval: 'IQR' or 'range' with low and high, 'CV%' or 'SD' with spread.",
            )
    if spread and row["spread"] <= 0:
        fail("spread", f"the {interval} must be positive, but is {row['spread']:g}", "Correct it.")
    if not ends:
        return
    low, high = row["low"], row["high"]
    if low < 0 or (low == 0 and METRICS[row["metric"]] == "level" and np.isnan(row["lloq"])):
        fail(
            "low",
            f"the lower end is {low:g}",
            "Levels are positive: if it stands for 'not detected', give the lloq too.",
        )
    outside = low > value or value > high
    if row["statistic"] == "mean" and interval == "IQR":
        outside = low > high  # the mean of skewed data may lie above the upper quartile
    if outside:
        fail(
            "low" if low > value or low > high else "high",
            f"low <= value <= high does not hold: {low:g}, {value:g}, {high:g}",
            "Check the three numbers against the source, and that they are in one unit.",
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
        if words["interval"][i] == "SD":
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


def level_units(summaries: pd.DataFrame) -> dict[str, str]:
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
        for analyte, unit in level_units(summaries.iloc[[i]]).items():
            if first.setdefault(analyte, unit) != unit:
                table.fail(
                    f"{analyte!r} is in {unit!r} here, but in {first[analyte]!r} elsewhere",
                    "Bring all values of an analyte to one unit, or give the two assays two names.",
                    rows=[i],
                    column="unit",
                )
