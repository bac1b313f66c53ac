"""Doses: validation of their table, and the regimens that it means.

Every dose has `REQUIRED`; a table may say more (`OPTIONAL`), in the words and codes of NONMEM, and
keeps the columns that say anything.
"""

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.dataset.tables import Table, count, listing, words
from carpk.dataset.validate import Settings, days_of
from carpk.dosing import regimen as dosing
from carpk.dosing.regimen import (
    MODELLED_DURATION,
    MODELLED_RATE,
    MOST_DOSES,
    SAME,
    UNTOLD,
    Regimen,
)
from carpk.errors import CarpkWarning, DatasetError

REQUIRED = ["patient", "time", "product", "amount", "unit", "duration"]
OPTIONAL: dict[str, float | str] = {  # what holds where nothing is said
    "rate": np.nan,
    "ss": 0,
    "ii": 0.0,
    "addl": 0,
    "evid": 1,
    "compartment": "",
    "record": np.nan,
}
MODELLED = (MODELLED_RATE, MODELLED_DURATION)
DOSE, RESET, RESET_AND_DOSE = 1, 3, 4  # EVID
FEWEST_CELLS, MOST_CELLS = 1e3, 1e13

PRODUCTS = {  # as records name them -> as models do
    **dict.fromkeys(("fludarabine", "fludarabine phosphate", "flu", "fludara"), "fludarabine"),
    **dict.fromkeys(
        ("cyclophosphamide", "cy", "ctx", "cytoxan", "endoxan", "neosar"), "cyclophosphamide"
    ),
    **dict.fromkeys(("car_t", "car-t", "car t", "cart", "car-t cells", "car t cells"), "car_t"),
}


def read_doses(table: Table, settings: Settings) -> pd.DataFrame:
    """Doses in days and carpk's units, in the order given; additional ones (ADDL) written out."""
    if "duration" not in table:
        if len(table) and "rate" not in table:
            settings.notes.append(f"{table.label}: no column `duration`; all doses are boluses.")
        table = table.with_columns(duration=[0.0] * len(table))
    absent = [name for name in OPTIONAL if name not in table]
    table = table.with_columns(**{name: [OPTIONAL[name]] * len(table) for name in absent})
    table.require(REQUIRED, [*REQUIRED, *OPTIONAL])
    patients = table.texts("patient")
    evid = _codes(table, "evid", (DOSE, RESET, RESET_AND_DOSE), "1 (dose), 3 (reset) or 4 (both)")
    here = np.flatnonzero(evid != RESET)
    given = table.take(here.tolist())
    products = _products(given, settings.notes)
    times = days_of(table, "time", settings)
    columns = _amounts(given, settings) | {"product": words(products)}

    def spread(values: Iterable[object], filling: object) -> pd.Series:
        out = pd.Series([filling] * len(table), dtype=object if isinstance(filling, str) else None)
        out[here] = list(values)
        return out

    blank = {"product": "", "unit": "", "amount": 0.0, "duration": 0.0, **OPTIONAL}
    every = {name: spread(values, blank[name]) for name, values in columns.items()}
    every |= {
        "patient": words(patients),
        "time": pd.Series(times),
        "evid": pd.Series(evid),
        "compartment": words(table.texts("compartment", required=False)),
        "record": pd.Series(table.numbers("record", required=False)),
    }
    frame = _written_out(pd.DataFrame(every), table, settings.notes)
    used = [name for name in OPTIONAL if name in frame and _says_more(frame[name], OPTIONAL[name])]
    return frame[[*REQUIRED, *used]]


def _says_more(column: pd.Series, usual: float | str) -> bool:
    return bool(column.notna().any() if usual != usual else (column != usual).any())


def _codes(table: Table, column: str, known: tuple[int, ...], words: str) -> np.ndarray:
    values = table.numbers(column, required=False)
    values = np.where(np.isnan(values), float(OPTIONAL[column]), values)
    odd = np.flatnonzero(~np.isin(values, known))
    if odd.size:
        table.fail(
            f"{column} must be {words}, but is {values[odd[0]]:g}",
            "Correct the entry.",
            rows=odd,
            column=column,
        )
    return values.astype(int)


def _amounts(table: Table, settings: Settings) -> dict[str, np.ndarray | pd.Series]:
    """Amounts and how they are given, in carpk's units, of rows that are doses."""
    amounts = table.numbers("amount", required=False)
    durations = days_of(table, "duration", settings, advice="Write 0 for a bolus.")
    rate = table.numbers("rate", required=False)
    rate = np.where(rate == 0, np.nan, rate)
    ss = _codes(table, "ss", (0, 1, 2), "0, 1 or 2")
    ii = days_of(table, "ii", settings, required=False)
    ii = np.nan_to_num(ii)
    addl = np.nan_to_num(table.numbers("addl", required=False))
    endless = (ss > 0) & (ii == 0) & (amounts == 0) & ((rate > 0) | (rate == MODELLED_RATE))

    def refuse(bad: np.ndarray, column: str, problem: str, remedy: str) -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            value = {"amount": amounts, "duration": durations, "rate": rate, "ii": ii, "addl": addl}
            problem = problem.format(value.get(column, ss)[rows[0]])
            table.fail(problem, remedy, rows=rows, column=column)

    refuse(
        (amounts <= 0) & ~endless,
        "amount",
        "amount must be positive, but is {:g}",
        "Give what was infused, or remove the row of a dose not given.",
    )
    refuse(
        durations < 0,
        "duration",
        "duration must be zero or positive, but is {:g}",
        "Write 0 for a bolus, else the length of the infusion.",
    )
    refuse(
        (rate < 0) & ~np.isin(rate, MODELLED),
        "rate",
        "rate is {:g}, but must be positive, or -1 or -2 (the model gives rate or duration)",
        "Give the amount per time, or 0 for a bolus.",
    )
    refuse(
        ~np.isnan(rate) & (durations > 0),
        "rate",
        "the dose has a rate ({:g}) and a duration",
        "Give one of the two: bioavailability changes the duration where the rate is given.",
    )
    refuse(ii < 0, "ii", "ii is negative ({:g})", "Give the time between doses.")
    refuse(
        (addl < 0) | (addl != np.floor(addl)) | (addl > MOST_DOSES),
        "addl",
        f"addl must be a whole number from 0 to {MOST_DOSES}, but is {{:g}}",
        "Give the number of additional doses.",
    )
    refuse(
        (addl > 0) & (ii <= 0),
        "addl",
        "{:g} additional doses need ii, the time between doses",
        "Give it, or list the doses one by one.",
    )
    refuse(
        (ss > 0) & (ii <= 0) & ~endless,
        "ss",
        "a dose at steady state (ss = {:g}) needs ii, the time between doses",
        "Give it; or an amount of 0 and a rate, for an infusion that has run for ever.",
    )
    names, factors = [], np.ones(len(table))
    changed: Counter[tuple[str, str]] = Counter()
    for i, unit in enumerate(table.texts("unit")):
        found = units.dose(unit)
        if found is None:
            table.fail(
                f"dose unit {unit!r} is unknown; known are {listing(units.DOSE_UNITS)}",
                "Convert the amount to one of these.",
                rows=[i],
                column="unit",
            )
        names.append(found[0])
        factors[i] = found[1]
        if found[0] != unit:
            changed[unit, found[0]] += 1
    for (old, new), times_changed in changed.items():
        settings.notes.append(
            f"{table.label}: {count(times_changed, 'dose')} in {old} kept in {new}."
        )
    cells = np.array([name in units.CELL_UNITS for name in names], dtype=bool)
    refuse(
        cells & (ss > 0),
        "ss",
        "cells multiply, and have no steady state of doses (ss = {:g})",
        "List the infusions that were given and set ss to 0.",
    )
    unknown = np.isnan(amounts)
    if unknown.any():
        settings.notes.append(
            f"{table.label}: the amount of {count(int(unknown.sum()), 'dose')} is not known, which "
            "a model that needs it will refuse."
        )
    amounts = amounts * factors
    timed = rate > 0
    rate[timed] = (rate * factors)[timed] / settings.per_day
    with np.errstate(invalid="ignore", divide="ignore"):
        durations = np.where(timed & ~endless, amounts / rate, durations)
    _warn_of_cell_numbers(table, amounts, names, cells)
    return {
        "amount": amounts,
        "unit": words(names),
        "duration": durations,
        "rate": rate,
        "ss": ss,
        "ii": ii,
        "addl": addl.astype(int),
    }


def _written_out(frame: pd.DataFrame, table: Table, notes: list[str]) -> pd.DataFrame:
    """With additional doses as rows of their own, after the one that stands for them."""
    addl = frame["addl"].to_numpy(int)
    total = int(addl.sum())
    if total > MOST_DOSES:
        table.fail(
            f"the doses stand for {total} additional ones, more than {MOST_DOSES}",
            "Look at addl.",
            rows=[int(np.argmax(addl))],
            column="addl",
        )
    idle = int(((frame["ii"] > 0) & (addl == 0) & (frame["ss"] == 0)).sum())
    if idle:
        notes.append(f"{table.label}: II without ADDL had no effect ({count(idle, 'row')}).")
    row = np.repeat(np.arange(len(frame)), addl + 1)
    number = np.arange(len(row)) - np.repeat(np.cumsum(addl + 1) - addl - 1, addl + 1)
    written = frame.iloc[row].reset_index(drop=True)
    written["time"] = written["time"] + number * written["ii"]
    extra = pd.Series(number > 0)
    written["ss"] = written["ss"].mask(extra, 0)
    written["evid"] = written["evid"].mask(extra, DOSE)
    written["ii"] = written["ii"].where(written["ss"] > 0, 0.0)
    if total:
        stand = count(int((addl > 0).sum()), "row")
        notes.append(
            f"{table.label}: {count(total, 'dose')} given by ADDL and II ({stand}) were written "
            "out."
        )
    return written.drop(columns="addl")


def _products(table: Table, notes: list[str]) -> list[str]:
    """Products by the names that models know, whatever their case; others as they are."""
    given = table.texts("product")
    known = [PRODUCTS.get(" ".join(name.lower().split()), name) for name in given]
    for (old, new), n in Counter(zip(given, known, strict=True)).items():
        if old != new:
            notes.append(f"{table.label}: {count(n, 'dose')} of {old!r} kept as {new!r}.")
    return known


def _warn_of_cell_numbers(
    table: Table, amounts: np.ndarray, names: list[str], cells: np.ndarray
) -> None:
    few = np.flatnonzero(cells & (amounts < FEWEST_CELLS))
    many = np.flatnonzero(cells & (amounts > MOST_CELLS))
    for odd, size, hint in (
        (few, "few", "If amounts are in millions of cells, write the unit as '1e6 cells'."),
        (many, "many", "If amounts were multiplied by 1e6 twice, correct them."),
    ):
        if odd.size:
            i = odd[0]
            warnings.warn(
                f"{table.where(i, 'amount')}: {amounts[i]:g} {names[i]} are very {size} "
                f"({count(odd.size, 'dose')} like this). {hint}",
                CarpkWarning,
                stacklevel=4,
            )


# ---- as regimens ----------------------------------------------------------------------------


def regimens(name: str, patients: pd.DataFrame, doses: pd.DataFrame) -> list[Regimen]:
    """The regimen of each patient, absolute amounts."""
    own = {patient: rows for patient, rows in doses.groupby("patient", sort=False)}
    usual: dict[Hashable, Any] = dict(OPTIONAL.items())
    found = []
    for patient in patients.to_dict("records"):
        rows = own.get(patient["patient"])
        events: list[dosing.Event] = []
        for dose in [] if rows is None else rows.to_dict("records"):
            dose = {**usual, **dose}
            if dose["evid"] != DOSE:
                events.append(dosing.Reset(dose["time"]))
            if dose["evid"] != RESET:
                events.append(_event(dose, patient, name))
        found.append(Regimen(tuple(events)))
    return found


def _event(dose: Mapping[Hashable, Any], patient: Mapping[Hashable, Any], name: str) -> dosing.Dose:
    unit, _, per = str(dose["unit"]).partition("/")
    size = {"kg": "weight", "m2": "bsa"}.get(per)
    if size is not None and not patient.get(size, np.nan) > 0:
        raise DatasetError(
            f"Dataset {name!r}, patient {patient['patient']!r}: the dose of {dose['product']} on "
            f"day {dose['time']:g} is per {per}, so the patient's {size!r} is needed; add it as a "
            "column of the patients."
        )
    factor = 1.0 if size is None else patient[size]
    kind: dict[str, Any] = {key: dose[key] for key in ("product", "compartment")}
    kind |= {"unit": unit, "ss": int(dose["ss"]), "ii": float(dose["ii"]) if dose["ss"] else 0.0}
    if np.isnan(dose["amount"]):
        raise DatasetError(
            f"Dataset {name!r}, patient {patient['patient']!r}: the amount of {dose['product']} on "
            f"day {dose['time']:g} is not known, but the model needs it. Give it, leave the "
            "patient out, or take a closed form, which goes by the day alone."
        )
    at, amount, rate = dose["time"], dose["amount"] * factor, dose["rate"]
    if not np.isnan(rate):
        rate = int(rate) if rate in MODELLED else rate * factor
        return dosing.Infusion(at, amount, rate=rate, **kind)
    if dose["duration"] > 0:
        return dosing.Infusion(at, amount, dose["duration"], **kind)
    return dosing.Bolus(at, amount, **kind)


def follows(observations: pd.DataFrame, doses: pd.DataFrame) -> np.ndarray:
    """How many of the events at its time were recorded before each observation; or UNTOLD."""
    found = np.full(len(observations), UNTOLD)
    if "record" not in doses or "record" not in observations:
        return found
    evid = np.asarray(doses.get("evid", 1))
    events = np.broadcast_to(np.where(evid == RESET_AND_DOSE, 2, 1), len(doses))
    patients = pd.Index(doses["patient"].unique())
    given = patients.get_indexer(doses["patient"])
    whose = patients.get_indexer(observations["patient"])
    given_at, times = doses["time"].to_numpy(), observations["time"].to_numpy()
    given_as, records = doses["record"].to_numpy(), observations["record"].to_numpy()
    sample, dose = _near(whose, times, given, given_at)
    before = (whose[sample] == given[dose]) & (given_as[dose] < records[sample])
    before &= np.abs(times[sample] - given_at[dose]) < SAME
    told = np.bincount(sample, before * events[dose], minlength=len(found)).astype(int)
    return np.where((whose >= 0) & ~np.isnan(records), told, found)


def _near(
    whose: np.ndarray, times: np.ndarray, given: np.ndarray, given_at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a sample and a dose at about its time, those of one patient among them.

    Patients are put one after another on a single line of time, where 1e-3 days are more than
    what rounding moves.
    """
    both = np.concatenate([times, given_at])
    length = np.ptp(both) + 1 if both.size else 1.0
    line, at = given * length + given_at, whose * length + times
    order = np.argsort(line)
    first = np.searchsorted(line, at - 1e-3, sorter=order)
    number = np.searchsorted(line, at + 1e-3, side="right", sorter=order) - first
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number - first, number)
    return np.repeat(np.arange(len(times)), number), order[place]
