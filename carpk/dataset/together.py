"""Checks across tables: time zero, unknown patients, samples before treatment."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.dataset.doses import follows
from carpk.dataset.tables import Table, count, nearest, some
from carpk.dataset.validate import TIME_ZERO, Settings
from carpk.dosing.regimen import SAME
from carpk.errors import CarpkWarning

CELLULAR = ("car_t", "transgene")
"""Analytes that cannot exist before the first cell infusion."""


def settle_time_zero(
    doses: pd.DataFrame,
    observations: pd.DataFrame,
    dose_table: Table,
    settings: Settings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check that each patient's first cell infusion is on day 0, or shift it there if told to."""
    cells = doses[doses["unit"].isin(units.CELL_UNITS)]
    first = cells.groupby("patient", sort=False)["time"].min()
    if TIME_ZERO[settings.time_zero] == "shift":
        moved = first[first.abs() > 1e-9]
        if len(moved):
            shift = {"doses": doses["patient"].map(first).fillna(0.0).astype(float)}
            shift["observations"] = observations["patient"].map(first).fillna(0.0).astype(float)
            doses = doses.assign(time=doses["time"] - shift["doses"])
            observations = observations.assign(time=observations["time"] - shift["observations"])
            settings.notes.append(
                f"Times of {count(len(moved), 'patient')} were shifted so that the first cell "
                f"infusion is on day 0 (by {_range(-moved.to_numpy())} days)."
            )
        return doses, observations
    late = first[first.abs() > 1e-9]
    if len(late):
        patient = late.index[0]
        rows = np.flatnonzero(
            (doses["patient"] == patient)
            & doses["unit"].isin(units.CELL_UNITS)
            & (doses["time"] == late.iloc[0])
        )
        others = f"; so for {count(len(late) - 1, 'more patient')}" if len(late) > 1 else ""
        dose_table.fail(
            f"the patient's first cell infusion is on day {late.iloc[0]:g}, but time must count "
            f"days from it{others}",
            "Correct the times, or pass time_zero='first dose' (in about.toml: time_zero = "
            '"first dose") to shift each patient\'s times; if an earlier infusion is missing, '
            "add it.",
            rows=rows[:1],
            column="time",
        )
    return doses, observations


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def with_order(
    doses: pd.DataFrame, observations: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, with the order of recording where it matters.

    That is where a sample was recorded after a dose of its time, and, since a sample without order
    sees the steady state that a dose begins with, where any dose is at steady state.
    """
    told = follows(observations, doses)
    if (told > 0).any() or ("ss" in doses and (told == 0).any()):
        return doses, observations
    doses, observations = (x.drop(columns="record", errors="ignore") for x in (doses, observations))
    return doses, observations


def check_together(
    patients: pd.DataFrame,
    doses: pd.DataFrame,
    observations: pd.DataFrame,
    tables: Mapping[str, Table],
    notes: list[str],
) -> None:
    """Check across tables: patients known, treated, and sampled after treatment."""
    known = patients["patient"].tolist()
    for frame, table in ((doses, tables["doses"]), (observations, tables["observations"])):
        stray = ~frame["patient"].isin(known).to_numpy(dtype=bool)
        if stray.any():
            rows = np.flatnonzero(stray)
            label = frame["patient"].iloc[rows[0]]
            close = nearest(label, known)
            hint = f"Did you mean {close!r}? If not, add" if close else "Add"
            table.fail(
                f"patient {label!r} is not in the patients table",
                f"{hint} a row for the patient there.",
                rows=rows,
                column="patient",
            )
    _check_after_doses(doses, observations, tables["observations"])
    _tell_untreated(doses, observations, tables["observations"], notes)
    seen = set(observations["patient"])
    silent = [patient for patient in known if patient not in seen]
    if silent:
        notes.append(f"{count(len(silent), 'patient')} without observations: {some(silent)}.")
    _warn_of_duplicates(observations, tables["observations"])
    _warn_of_cells_before_infusion(doses, observations, tables["observations"])


def _warn_of_cells_before_infusion(
    doses: pd.DataFrame, observations: pd.DataFrame, table: Table
) -> None:
    """Levels that no model explains: measured at the first infusion of cells, taken before it."""
    cells = doses[doses["unit"].isin(units.CELL_UNITS)]
    first = cells.groupby("patient")["time"].min()
    at = observations["patient"].map(first).to_numpy(dtype=float)
    here = np.abs(observations["time"].to_numpy(dtype=float) - at) < SAME
    here &= observations["analyte"].isin(CELLULAR).to_numpy(dtype=bool)
    here &= (observations["censored"] != 1).to_numpy(dtype=bool)
    rows = np.flatnonzero(here & (follows(observations, cells) <= 0))
    if rows.size:
        i = int(rows[0])
        warnings.warn(
            f"{table.where(i)}: a level of {observations['value'].iloc[i]:g} at the time of the "
            "first infusion of cells, but a sample at the time of a dose is taken before it, when "
            f"there are none ({count(rows.size, 'row')} like this). Give the time of the sample, "
            "such as 0.02 days; or the order of recording, in a column `record` of doses and "
            "observations; or remove the row.",
            CarpkWarning,
            stacklevel=5,
        )


def _check_after_doses(doses: pd.DataFrame, observations: pd.DataFrame, table: Table) -> None:
    """Refuse levels of CAR T cells without or before their infusion; below the LLOQ they may be."""
    cells = doses[doses["unit"].isin(units.CELL_UNITS)]
    quantified = observations["censored"] != 1
    cellular = (observations["analyte"].isin(CELLULAR) & quantified).to_numpy(dtype=bool)
    uninfused = ~observations["patient"].isin(set(cells["patient"])).to_numpy(dtype=bool)
    if (cellular & uninfused).any():
        table.fail(
            "CAR T cells are reported, but the doses table holds no cells for the patient",
            "Add the infusion (unit 'cells', 'cells/kg' or 'cells/m2'), or correct the unit of "
            "the dose.",
            rows=np.flatnonzero(cellular & uninfused),
            column="patient",
        )
    drug = observations["analyte"].isin(set(doses["product"])).to_numpy(dtype=bool)  # its level
    time = observations["time"].to_numpy(dtype=float)
    for what, given, rows_of in (
        ("first cell infusion", cells, cellular),
        ("first dose", doses, drug & ~cellular),
    ):
        start = given.groupby("patient")["time"].min()
        begin = observations["patient"].map(start).to_numpy(dtype=float)
        early = np.flatnonzero(rows_of & (time < begin - 1e-9))
        if early.size:
            i = early[0]
            table.fail(
                f"the observation on day {time[i]:g} precedes the patient's {what} on day "
                f"{begin[i]:g}",
                "If it is a baseline, move it to `patients.csv` (the patients table), or flag it "
                "censored = 1 if it was below the LLOQ. If time zero is another day (such as "
                'leukapheresis), give time_zero = "first dose" in `about.toml` or as argument.',
                rows=early,
                column="time",
            )


def _tell_untreated(
    doses: pd.DataFrame, observations: pd.DataFrame, table: Table, notes: list[str]
) -> None:
    """Patients with samples and no dose: controls, unless the doses were forgotten."""
    treated = set(doses["patient"])
    found = [p for p in dict.fromkeys(observations["patient"]) if p not in treated]
    if not found:
        return
    who = f"{count(len(found), 'patient')} with samples and no dose ({some(found)})"
    notes.append(f"{who}: read as untreated, without CAR T cells, at the times given.")
    if treated:
        row = int(np.flatnonzero(observations["patient"] == found[0])[0])
        warnings.warn(
            f"{table.where(row)}: {who}, beside patients with doses, are read as untreated. If "
            "they were treated, add what they were given to the doses table.",
            CarpkWarning,
            stacklevel=5,
        )


def _warn_of_duplicates(observations: pd.DataFrame, table: Table) -> None:
    repeated = observations.duplicated(["patient", "time", "analyte", "value"]).to_numpy()
    if repeated.any():
        rows = np.flatnonzero(repeated)
        warnings.warn(
            f"{table.where(int(rows[0]))}: the observation repeats an earlier one of the same "
            f"patient, time, analyte and value ({count(rows.size, 'row')} like this). Both count; "
            "remove one unless they are two samples.",
            CarpkWarning,
            stacklevel=4,
        )
