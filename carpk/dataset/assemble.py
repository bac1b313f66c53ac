"""From tables of text to a checked data set: each table first, then what holds between them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd

from carpk.dataset import (
    cdisc,
    censoring,
    cohort_summaries,
    dates,
    labels,
    magnitudes,
    missing,
    percent,
    tables,
    together,
    upper,
    validate,
)
from carpk.dataset import doses as dosing
from carpk.dataset.tables import Table, count, nearest
from carpk.dataset.validate import Settings
from carpk.errors import DatasetError


class Fields(TypedDict):
    """Arguments of `Dataset`."""

    name: str
    patients: pd.DataFrame
    doses: pd.DataFrame
    observations: pd.DataFrame
    summaries: pd.DataFrame
    cohorts: pd.DataFrame
    sampling: tuple[float, ...] | None
    about: dict[str, Any]
    notes: tuple[str, ...]


def settings_of(
    name: str,
    time_unit: object,
    time_zero: object,
    units_given: object,
    lloq: float | Mapping[str, float] | None,
    uloq: float | Mapping[str, float] | None = None,
    day_first: bool | None = None,
    declared: object = None,
    source: str = "",
) -> Settings:
    where = f" ({source})" if source else ""
    place = f"Dataset {name!r}{where}"
    unit, zero = _word(time_unit, "time_unit", place), _word(time_zero, "time_zero", place)
    if units_given is not None and not isinstance(units_given, Mapping):
        raise DatasetError(
            f"{place}: `units` must give a unit per analyte, such as "
            f'transgene = "copies/µg", but is {units_given!r}. Make it a table.'
        )
    absent = missing.declarations(declared, place)
    low, high = (dict(x) if isinstance(x, Mapping) else x for x in (lloq, uloq))
    return Settings(name, unit, zero, dict(units_given or {}), low, high, day_first, absent)


def _word(entry: object, what: str, place: str) -> str:
    if not isinstance(entry, str):
        raise DatasetError(
            f"{place}: {what} must be a word, but is {entry!r}. Write it as in "
            f'{what} = "{"day" if what == "time_unit" else "first dose"}".'
        )
    return entry


class Frames(NamedTuple):
    """Tables that are each in order, and the tables that they were read from."""

    patients: pd.DataFrame | None
    doses: pd.DataFrame
    observations: pd.DataFrame
    summaries: pd.DataFrame
    cohorts: pd.DataFrame
    tables: dict[str, Table]


def each(read: Mapping[str, Table], settings: Settings, *, lenient: bool = False) -> Frames:
    """Check each table by itself. `lenient`: about.toml may name more than there is."""
    name, notes = settings.name, settings.notes
    read = _in_own_terms(read, settings)
    doses_table = read.get("doses") or _empty("doses", dosing.REQUIRED, name)
    seen_table = read.get("observations") or _empty("observations", validate.OBSERVATIONS, name)
    summaries_table = read.get("summaries") or _empty("summaries", cohort_summaries.COLUMNS, name)
    named = [
        analyte
        for table in (seen_table, summaries_table)
        for analyte in tables.each(tables.text_of, table.columns.get("analyte", []))
    ]
    if lenient:
        _drop_unused_settings(settings, named)
    settings.reject_unknown_analytes(named)
    doses = dosing.read_doses(doses_table, settings)
    seen_table = upper.right_censored(censoring.flagged(seen_table, settings), settings)
    seen_table = percent.to_counts(seen_table, settings)
    observations = validate.read_observations(seen_table, settings)
    summaries = cohort_summaries.read_summaries(summaries_table, settings)
    people = validate.read_patients(read["patients"], notes) if "patients" in read else None
    cohorts_table = read.get("cohorts") or _empty("cohorts", ["cohort"], name)
    cohorts = validate.read_cohorts(cohorts_table, notes)
    used = {"doses": doses_table, "observations": seen_table, "summaries": summaries_table}
    return Frames(people, doses, observations, summaries, cohorts, {**read, **used})


def _in_own_terms(read: Mapping[str, Table], settings: Settings) -> dict[str, Table]:
    """Tables with carpk's columns, nothing where an entry is missing, and days for dates."""
    read = cdisc.in_own_words(read, settings)
    labels.refuse_look_alikes(read.values(), settings.notes)
    return dates.to_days(missing.without_missing(read, settings), settings)


def assemble(
    read: dict[str, Table],
    settings: Settings,
    sampling: Iterable[float] | None,
    about: Mapping[str, object] | None,
    *,
    lenient: bool = False,
) -> Fields:
    """Check each table, then what holds between them. `lenient`: about.toml may name more."""
    name, notes = settings.name, settings.notes
    read = cdisc.in_own_words(read, settings)
    labels.refuse_look_alikes(read.values(), notes)
    read = dates.to_days(missing.without_missing(read, settings), settings)
    if "observations" not in read and "summaries" not in read:
        raise DatasetError(
            f"Dataset {name!r}: there are neither observations nor summaries. Pass observations= "
            "(with doses=) for individual data, summaries= for published summaries, or both."
        )
    patients, doses, observations, summaries, cohorts, used = each(read, settings, lenient=lenient)
    if patients is None:
        people = list(dict.fromkeys([*observations["patient"], *doses["patient"]]))
        patients = pd.DataFrame({"patient": tables.words(people)})
        if people:
            notes.append(
                f"No patients table: {count(len(people), 'patient')} were taken from the "
                "observations and doses, without covariates."
            )
    if observations.empty and summaries.empty:
        raise DatasetError(
            f"Dataset {name!r}: there are neither observations nor published summaries. Add rows "
            "to one of the two tables."
        )
    doses, observations = together.settle_time_zero(doses, observations, used["doses"], settings)
    doses, observations = together.with_order(doses, observations)
    missing.ask_about_sentinels(patients, observations, settings)
    upper.ask_about_repeated_maxima(observations, settings)
    magnitudes.ask_about_magnitudes(doses, observations, settings)
    together.check_together(patients, doses, observations, used, notes)
    levels = dict(zip(observations["analyte"], observations["unit"], strict=True))
    cohort_summaries.check_units(used["summaries"], summaries, levels)
    if "cohorts" in read:
        _check_cohorts(cohorts, summaries, used["summaries"], patients, used.get("patients"))
    return dict(
        name=name,
        patients=patients,
        doses=doses,
        observations=observations,
        summaries=summaries,
        cohorts=cohorts,
        sampling=sampling_days(sampling, name),
        about=dict(about or {}),
        notes=tuple(notes),
    )


def _empty(label: str, columns: Sequence[str], name: str) -> Table:
    return Table(label, {column: [] for column in columns}, [], name)


def _drop_unused_settings(settings: Settings, named: Sequence[str]) -> None:
    """about.toml may describe assays of which the folder holds no data; say which."""
    for what, given in (
        ("unit", settings.units),
        ("LLOQ", settings.lloq),
        ("ULOQ", settings.uloq),
    ):
        if isinstance(given, dict):
            for analyte in [a for a in given if a not in named]:
                del given[analyte]
                settings.notes.append(
                    f"about.toml gives the {what} of {analyte}, of which there are no data."
                )


def _check_cohorts(
    cohorts: pd.DataFrame,
    summaries: pd.DataFrame,
    summaries_table: Table,
    patients: pd.DataFrame,
    patients_table: Table | None,
) -> None:
    known = cohorts["cohort"].tolist()
    for frame, table in ((summaries, summaries_table), (patients, patients_table)):
        if table is None or "cohort" not in frame:
            continue
        stray = np.flatnonzero(
            (~frame["cohort"].isin(known) & frame["cohort"].notna()).to_numpy(dtype=bool)
        )
        if stray.size:
            label = frame["cohort"].iloc[stray[0]]
            close = nearest(label, known)
            hint = f"Did you mean {close!r}? If not, add" if close else "Add"
            table.fail(
                f"cohort {label!r} is not in the cohorts table",
                f"{hint} a row for it there.",
                rows=stray,
                column="cohort",
            )


def sampling_days(days: Iterable[float] | None, name: str) -> tuple[float, ...] | None:
    if days is None:
        return None
    try:
        found = tuple(float(day) for day in days)
    except (TypeError, ValueError):
        found = (np.nan,)
    rises = all(a < b for a, b in itertools.pairwise(found))
    if not found or not np.isfinite(found).all() or not rises:
        raise DatasetError(
            f"Dataset {name!r}: the sampling days must be a list of increasing numbers of days, "
            f"but are {days!r}. Give the nominal days after infusion, such as [1, 4, 7, 14, 28]."
        )
    return found
