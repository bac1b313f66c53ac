"""Validation of patients, doses and observations; errors name their row and a remedy."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.dataset.tables import Table, count, each, listing, nearest, number_of, text_of, words
from carpk.errors import DatasetError

OBSERVATIONS = ["patient", "time", "analyte", "value", "unit", "lloq", "censored", "limit"]
MAY_SAY = ["sd", "record"]  # further columns of observations

TIME_ZERO = {
    "first cell infusion": "check",
    "first infusion": "check",
    "first dose": "shift",
}
LONGEST = 40 * 365.25  # days


@dataclass
class Settings:
    """Settings for reading a data set; `notes` collects the changes made to it."""

    name: str
    time_unit: str = "day"
    time_zero: str = "first cell infusion"
    units: dict[str, str] = field(default_factory=dict)
    lloq: float | dict[str, float] | None = None
    uloq: float | dict[str, float] | None = None
    day_first: bool | None = None
    missing: dict[str, tuple[float | str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dated: bool = False
    """Times were dates, and are days already."""

    def __post_init__(self) -> None:
        if units.time(str(self.time_unit)) is None:
            raise DatasetError(
                f"Dataset {self.name!r}: time_unit must be 'day', 'hour', 'minute' or 'week', "
                f"but is {self.time_unit!r}. Months are not a fixed length: give days."
            )
        if self.time_zero not in TIME_ZERO:
            raise DatasetError(
                f"Dataset {self.name!r}: time_zero must be 'first cell infusion' (times already "
                "count from it) or 'first dose' (shift each patient's times to it), but is "
                f"{self.time_zero!r}."
            )
        if not (self.day_first is None or isinstance(self.day_first, bool)):
            raise DatasetError(
                f"Dataset {self.name!r}: day_first must be True (31/01/2024) or False "
                f"(01/31/2024), or left out where the dates tell, but is {self.day_first!r}."
            )
        if not isinstance(self.units, Mapping):
            raise DatasetError(
                f"Dataset {self.name!r}: `units` must map analytes to units, such as "
                f"{{'transgene': 'copies/µg'}}, but is {self.units!r}."
            )
        self._check_limits("lloq", self.lloq, most=np.finfo(float).max)
        self._check_limits("uloq", self.uloq, most=np.inf)

    def _check_limits(
        self,
        what: str,
        given: float | dict[str, float] | None,
        most: float,
    ) -> None:
        limits = given if isinstance(given, Mapping) else {what: given}
        for key, limit in limits.items():
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if limit is not None and not (number and 0 < limit <= most):
                raise DatasetError(
                    f"Dataset {self.name!r}: the {what.upper()} must be a positive number or map "
                    f"analytes to positive numbers, but {key!r} is {limit!r}. Give it in the unit "
                    f"of the data, such as {what}={{'transgene': 50}}."
                )

    @property
    def time(self) -> tuple[str, float]:
        """Unit of time, and days in it."""
        known = units.time(self.time_unit)
        assert known is not None
        return known

    @property
    def per_day(self) -> float:
        """Days in the unit of time."""
        return self.time[1]

    def lloq_of(self, analyte: str, analytes: Sequence[str]) -> float:
        """The LLOQ given for `analyte`, in the unit of the data; NaN if none was given."""
        return self._limit_of("lloq", self.lloq, analyte, analytes)

    def uloq_of(self, analyte: str, analytes: Sequence[str]) -> float:
        """The upper limit given for `analyte`, likewise."""
        return self._limit_of("uloq", self.uloq, analyte, analytes)

    def _limit_of(
        self,
        what: str,
        given: float | dict[str, float] | None,
        analyte: str,
        analytes: Sequence[str],
    ) -> float:
        if isinstance(given, Mapping):
            return float(given.get(analyte, np.nan))
        if given is None:
            return np.nan
        if len(set(analytes)) > 1:
            raise DatasetError(
                f"Dataset {self.name!r}: one number is given as {what.upper()} ({given:g}), but "
                f"there are several analytes ({listing(dict.fromkeys(analytes))}). Give one for "
                f"each: {what}={{analyte: number}}."
            )
        return float(given)

    def reject_unknown_analytes(self, analytes: Sequence[str]) -> None:
        """Refuse units and limits of analytes that the data do not hold."""
        for what, given in (("units", self.units), ("lloq", self.lloq), ("uloq", self.uloq)):
            if not isinstance(given, Mapping):
                continue
            for analyte in given:
                if analyte not in analytes:
                    close = nearest(analyte, analytes)
                    hint = f"Did you mean {close!r}?" if close else "Remove it."
                    raise DatasetError(
                        f"Dataset {self.name!r}: `{what}` names the analyte {analyte!r}, but the "
                        f"data hold {listing(dict.fromkeys(analytes))}. {hint}"
                    )


def read_patients(table: Table, notes: list[str]) -> pd.DataFrame:
    """Patients and their covariates; a column of numbers is numeric, any other is categories."""
    table.require(["patient"], ["patient"], covariates=True)
    patients = table.texts("patient")
    _refuse_repeats(table, patients, "patient")
    return _with_covariates(table, {"patient": patients}, notes)


def read_cohorts(table: Table, notes: list[str]) -> pd.DataFrame:
    """Cohorts and their covariates."""
    table.require(["cohort"], ["cohort"], covariates=True)
    cohorts = table.texts("cohort")
    _refuse_repeats(table, cohorts, "cohort")
    return _with_covariates(table, {"cohort": cohorts}, notes)


def _refuse_repeats(table: Table, labels: Sequence[str], column: str) -> None:
    for label, times in Counter(labels).items():
        if times > 1:
            rows = [i for i, other in enumerate(labels) if other == label]
            table.fail(
                f"{column} {label!r} appears {times} times",
                f"Keep one row per {column}; what changes over time belongs in doses or "
                "observations.",
                rows=rows[1:],
                column=column,
            )


def _with_covariates(table: Table, start: dict[str, list[str]], notes: list[str]) -> pd.DataFrame:
    columns: dict[str, object] = {key: words(value) for key, value in start.items()}
    for column in table.columns:
        if column not in start:
            columns[column] = covariate(table, column, notes)
    return pd.DataFrame(columns)


def covariate(table: Table, column: str, notes: list[str]) -> pd.Series:
    """One covariate: float64 if every entry is a number, else text; missing stays missing."""
    entries = table.columns[column]
    if entries and all(isinstance(entry, bool | np.bool_) for entry in entries):
        notes.append(f"{table.label}: `{column}` holds True and False and is kept as 1 and 0.")
    labels = each(text_of, entries)
    none = [i for i, entry in enumerate(entries) if str(entry).strip().lower() == "none"]
    none = [i for i in none if isinstance(entries[i], str)]
    if none and any(word and number_of(word) is None for word in labels):
        for i in none:  # a level of a category, such as no lymphodepletion
            labels[i] = str(entries[i]).strip()
        notes.append(
            f"{table.label}: {labels[none[0]]!r} of `{column}` is a category like its others "
            f"({count(len(none), 'row')}); leave the entry empty where it is missing."
        )
    there = [i for i, word in enumerate(labels) if word]
    plain = [i for i in there if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", labels[i])]
    plain += [i for i in there if isinstance(entries[i], bool | np.bool_)]
    if column not in ("cohort", "patient") and there and len(plain) == len(there):
        return pd.Series(table.numbers(column, required=False))
    odd = [i for i in there if i not in set(plain)]
    slips = [i for i in odd if re.fullmatch(r"[+-]?\d+,\d+|[<>≤≥].*|[+-]?inf(inity)?", labels[i])]
    if column not in ("cohort", "patient") and slips and (plain or len(slips) == len(there)):
        table.numbers(column, required=False)  # refuses '12,5' and '<50' with their remedy
    if column != "cohort" and plain and odd:
        notes.append(
            f"{table.label}: `{column}` mixes numbers and words (such as {labels[odd[0]]!r}) and "
            "is kept as categories."
        )
    return words([word or None for word in labels])


def days_of(
    table: Table, column: str, settings: Settings, *, advice: str = "", required: bool = True
) -> np.ndarray:
    """Times or durations of a column in days."""
    unit, factor = ("day", 1.0) if settings.dated and column == "time" else settings.time
    days = table.numbers(column, advice=advice, required=required)
    days = days * factor if factor >= 1 else days / round(1 / factor)
    far = np.flatnonzero(np.abs(days) > LONGEST)
    if far.size:
        table.fail(
            f"{column} is {days[far[0]]:g} days, more than 40 years",
            "It is probably a date, or in hours or minutes: give days since the first cell "
            "infusion, or pass time_unit='hour'.",
            rows=far,
            column=column,
        )
    note = f"Times and durations were given in {unit}s and are kept in days."
    if factor != 1 and len(table) and note not in settings.notes:
        settings.notes.append(note)
    return days


def read_observations(table: Table, settings: Settings) -> pd.DataFrame:
    """Observations in days and carpk's units, in the order given."""
    notes, missing = settings.notes, [None] * len(table)
    for column in ("lloq", "limit", "unit"):
        if column not in table:
            table = table.with_columns(**{column: list(missing)})
    if "censored" not in table:
        table = table.with_columns(censored=[0] * len(table))
        if len(table):
            notes.append(f"{table.label}: no column `censored`; no value counts as censored.")
    required = [c for c in OBSERVATIONS if c not in ("unit", "lloq", "limit")]
    table.require(required, [*OBSERVATIONS, *MAY_SAY])
    patients, analytes = table.texts("patient"), table.texts("analyte")
    times = days_of(table, "time", settings)
    censored = table.numbers("censored", advice="Write 0 for an observed value.")
    odd = np.flatnonzero(~np.isin(censored, (-1, 0, 1)))
    if odd.size:
        table.fail(
            f"censored must be 0 (observed), 1 (below the LLOQ) or -1 (above the upper limit), "
            f"but is {censored[odd[0]]:g}",
            "Correct the flag.",
            rows=odd,
            column="censored",
        )
    values = table.numbers(
        "value",
        advice="Remove the row of a sample not taken; below the LLOQ write value = LLOQ and "
        "censored = 1.",
    )
    lloq = _fill_lloq(table, analytes, settings)
    limit = table.numbers("limit", required=False)
    given = table.texts("unit", required=False)
    given = [unit or settings.units.get(a, "") for unit, a in zip(given, analytes, strict=True)]
    whole = np.isin(given, units.WHOLE)
    values = _check_values(table, values, lloq, limit, censored, whole, notes)
    names, factors = measured_units(table, analytes, table.texts("unit", required=False), settings)
    columns = {
        "patient": words(patients),
        "time": times,
        "analyte": words(analytes),
        "value": values * factors,
        "unit": words(names),
        "lloq": lloq * factors,
        "censored": censored.astype(np.int64),
        "limit": limit * factors,
    }
    if "sd" in table:
        columns["sd"] = _known_sd(table, notes) * factors
    if "record" in table:
        columns["record"] = table.numbers("record", required=False)
    return pd.DataFrame(columns)


def _known_sd(table: Table, notes: list[str]) -> np.ndarray:
    """The known SD of each value, in its unit; NaN where unknown."""
    sd = table.numbers("sd", required=False)
    bad = np.flatnonzero(sd <= 0)
    if bad.size:
        table.fail(
            f"sd must be a positive number, but is {sd[bad[0]]:g}",
            "Give the standard deviation of the value's error in the unit of the value, or leave "
            "the entry empty where it is unknown.",
            rows=bad,
            column="sd",
        )
    if len(table):
        notes.append(
            f"{table.label}: the SD of {count(int((~np.isnan(sd)).sum()), 'value')} is given; "
            "residual=ck.assay.KnownSD() uses it, other residual models do not."
        )
    return sd


def limits_of(table: Table, column: str, advice: str) -> np.ndarray:
    """Limits of quantification, which are positive; NaN where the entry is missing."""
    limits = table.numbers(column, required=False)
    bad = np.flatnonzero(limits <= 0)
    if bad.size:
        problem = f"{column} must be positive, but is {limits[bad[0]]:g}"
        table.fail(problem, advice, rows=bad, column=column)
    return limits


def _fill_lloq(table: Table, analytes: list[str], settings: Settings) -> np.ndarray:
    advice = "Give the assay's limit, or leave the entry empty where it is unknown."
    lloq = limits_of(table, "lloq", advice)
    empty = np.isnan(lloq)
    filled: Counter[str] = Counter()
    kinds = list(dict.fromkeys(analytes))
    for i in np.flatnonzero(empty):
        lloq[i] = settings.lloq_of(analytes[i], kinds)
        if not np.isnan(lloq[i]):
            filled[analytes[i]] += 1
    note_filled_lloq(table, filled, kinds, settings)
    unknown = Counter(analytes[i] for i in np.flatnonzero(np.isnan(lloq)))
    for analyte, n in unknown.items():
        settings.notes.append(
            f"{table.label}: no LLOQ is known for {count(n, 'observation')} of {analyte}."
        )
    return lloq


def note_filled_lloq(
    table: Table, filled: Counter[str], analytes: Sequence[str], settings: Settings
) -> None:
    """Say where the LLOQ given for an analyte was used, and how often."""
    for analyte, n in filled.items():
        given = settings.lloq_of(analyte, analytes)
        settings.notes.append(
            f"{table.label}: the LLOQ of {count(n, 'observation')} of {analyte} was filled with "
            f"{given:g}, as given."
        )


def _check_values(
    table: Table,
    values: np.ndarray,
    lloq: np.ndarray,
    limit: np.ndarray,
    censored: np.ndarray,
    whole: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    """Refuse values that contradict their flag; a censored value becomes its LLOQ, with a note."""
    left = censored == 1

    def refuse(bad: np.ndarray, problem: str, advice: str, column: str = "value") -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            i = rows[0]
            problem = problem.format(value=values[i], lloq=lloq[i], limit=limit[i])
            table.fail(problem, advice, rows=rows, column=column)

    refuse(
        left & np.isnan(lloq),
        "the observation is flagged censored = 1, but its LLOQ is missing",
        "Give the LLOQ in the column, or for all rows with lloq={analyte: number}.",
        "lloq",
    )
    refuse(
        ~left & ((values < 0) | (values == 0) & ~whole),
        "the value must be positive, but is {value:g} and not flagged as censored",
        "If it is below the limit of quantification, write value = LLOQ, lloq and censored = 1; "
        "if it is a pre-dose baseline, remove the row; if it stands for a missing one, declare "
        "it with missing={'value': [...]}. Counts have the unit 'count', yes (1) and no (0) "
        "'yes/no': there, 0 is a value.",
    )
    refuse(
        ~left & (values < lloq),
        "the value {value:g} is below its LLOQ {lloq:g}, but not flagged as censored",
        "Either write value = LLOQ and censored = 1, or lower the lloq if it was quantified.",
    )
    refuse(
        left & (values > lloq * (1 + 1e-9)),
        "the value {value:g} is above its LLOQ {lloq:g}, but flagged censored = 1",
        "Write censored = 0 if it was quantified, else value = LLOQ.",
    )
    refuse(left & (values < 0), "the value is negative ({value:g})", "Write value = LLOQ.")
    refuse(
        ~np.isnan(limit) & ~left,
        "a limit is given ({limit:g}), but the observation is not flagged censored = 1",
        "Leave the limit empty, or set the flag.",
        "limit",
    )
    refuse(
        left & ((limit < 0) | (limit >= lloq)),
        "the limit {limit:g} must lie between 0 and the LLOQ {lloq:g}",
        "The censored interval runs from the limit to the LLOQ: correct one of them.",
        "limit",
    )
    lower = left & (values != lloq)
    if lower.any():
        notes.append(
            f"{table.label}: {count(int(lower.sum()), 'value')} flagged censored = 1 differed from "
            f"the LLOQ (the first in {table.at(int(np.flatnonzero(lower)[0]))}); the LLOQ stands "
            "in their place."
        )
    return np.where(left, lloq, values)


def measured_units(
    table: Table, analytes: Sequence[str], given: Sequence[str], settings: Settings
) -> tuple[list[str], np.ndarray]:
    """carpk's unit of each row and the factor that leads to it; one unit per analyte."""
    pairs = list(zip(analytes, given, strict=True))
    known: dict[tuple[str, str], tuple[str, float]] = {}
    done: Counter[tuple[str, str, str, float]] = Counter()
    filled: Counter[tuple[str, str]] = Counter()
    first: dict[str, str] = {}
    for pair, times in Counter(pairs).items():
        (analyte, unit), i = pair, pairs.index(pair)
        if not unit:
            unit = settings.units.get(analyte, "")
            if not unit:
                own = units.KNOWN_ANALYTES.get(analyte)
                example = own or "mL"
                table.fail(
                    f"the unit of {analyte!r} is missing",
                    f"Give it in the column `unit`, or as units={{{analyte!r}: {example!r}}}.",
                    rows=[i],
                    column="unit",
                )
            filled[analyte, unit] += times
        name, factor = convert(table, i, analyte, unit)
        if first.setdefault(analyte, name) != name:
            table.fail(
                f"{analyte!r} is in {name!r} here, but in {first[analyte]!r} before",
                "Bring all values of an analyte to one unit, or give the two assays two names.",
                rows=[i],
                column="unit",
            )
        if name != unit:
            done[analyte, unit, name, factor] += times
        known[pair] = name, factor
    names, factors = zip(*map(known.__getitem__, pairs), strict=True) if pairs else ((), ())
    for (analyte, unit), n in filled.items():
        settings.notes.append(
            f"{table.label}: {count(n, 'entry')} of {analyte} had no unit; {unit} was used, "
            "as given."
        )
    for (analyte, old, new, factor), n in done.items():
        how = f"converted from {old} to {new} (factor {factor:g})"
        if factor == 1:
            how = f"in {old}, which is {new}"
        settings.notes.append(f"{table.label}: {count(n, 'entry')} of {analyte} {how}.")
    return list(names), np.array(factors, dtype=float)


def convert(table: Table, row: int, analyte: str, unit: str) -> tuple[str, float]:
    """carpk's unit and factor for one row of a known analyte; an unknown analyte's own unit."""
    found = units.measured(unit)
    own = units.KNOWN_ANALYTES.get(analyte)
    if own is None:
        return found or (unit, 1.0)
    if found is not None and found[0] == own:
        return found
    advice = "Convert the values, or give the analyte another name."
    if {own, found[0] if found else ""} == {"cells/µL", "copies/µg"}:
        other = "transgene" if analyte == "car_t" else "car_t"
        advice = (
            "Copies per µg of DNA and cells per µL are different assays: going from one to the "
            "other needs the leukocyte count of the same day and the vector copy number "
            f"(carpk.assay.to_cells). If it was measured as such, call the analyte {other!r}."
        )
    return table.fail(
        f"{analyte!r} must be in {own} or a unit that converts to it, but is in {unit!r}",
        advice,
        rows=[row],
        column="unit",
    )
