"""NONMEM, Monolix and rxode2 tables: one row per event, split into carpk's tables.

Column names are read in any case. Rows keep the order of the file; at equal times nothing is
rearranged, and a sample that stands after a dose of its time sees it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from carpk.dataset import cdisc, dates, labels, missing
from carpk.dataset.doses import DOSE, RESET, RESET_AND_DOSE
from carpk.dataset.nonmem_names import (
    DERIVED,
    EVENTS,
    SHOWN,
    Arguments,
    analyte_names,
    assume_units,
    dose_products,
    read_patients,
)
from carpk.dataset.tables import Table, count, flags_of, text_of
from carpk.dataset.validate import Settings
from carpk.dosing.regimen import SAME

DOSES = (DOSE, RESET_AND_DOSE)
_READ_APART = ("ID", "TIME", "DV", "CMT", "ADM", "DVID", "DVU", "DOSEU")


def read_events(
    table: Table, arguments: Arguments, settings: Settings
) -> tuple[Table, Table, Table]:
    """Split an event table into patients, doses and observations that know their rows."""
    notes = settings.notes
    labels.refuse_look_alikes([table], notes, "ID")
    ids = table.texts("ID")
    table = _without_missing(table, settings).with_columns(patient=list(ids))
    if "TIME" not in table and "ADY" in table:
        table = table.with_columns(TIME=cdisc.from_study_days(table, "ADY", settings))
    dated = dates.nonmem_column(table)
    if dated is not None:
        table = table.with_columns(TIME=dates.read_dates([dated], settings)[0])
    numbers = {c: _numbers(table, c) for c in EVENTS if c in table and c not in _READ_APART}
    numbers["DV"] = _values(table)
    _check_order(table, ids, table.numbers("TIME") if dated is None else dates.in_order(table))
    evid = _event_types(table, numbers, notes)
    _refuse_stray(table, numbers, evid)
    doses = _doses(table, numbers, evid, arguments, settings)
    observations = _observations(table, numbers, evid, arguments, settings)
    patients = read_patients(table, ids, arguments.covariates, notes)
    return patients, doses, observations


def _without_missing(table: Table, settings: Settings) -> Table:
    """What is declared missing is nothing in a covariate, and MDV 1 in DV."""
    known = (*EVENTS, *DERIVED, *dates.NONMEM)
    there = missing.declared(table, [c for c in table.columns if c not in known], settings)
    values = missing.declared(there, ["DV"], settings)
    before, after = there.columns["DV"], values.columns["DV"]
    gone = [a is not b for a, b in zip(before, after, strict=True)]
    if not any(gone):
        return there
    quiet = table.columns.get("MDV", [0] * len(table))
    return values.with_columns(MDV=[1 if g else mdv for g, mdv in zip(gone, quiet, strict=True)])


def _numbers(table: Table, column: str) -> np.ndarray:
    return table.numbers(column, required=False)


def _values(table: Table) -> np.ndarray:
    """DV, NaN where it says below or above a limit (`censoring` reads that)."""
    written = table.columns["DV"]
    both = zip(written, flags_of(written), strict=True)
    plain = ["." if flag else entry for entry, flag in both]
    return table.with_columns(DV=plain).numbers("DV", required=False)


def _get(numbers: Mapping[str, np.ndarray], column: str, rows: int) -> np.ndarray:
    """The column with nothing read as zero, as NONMEM does for event columns."""
    return np.nan_to_num(numbers[column]) if column in numbers else np.zeros(rows)


def _check_order(table: Table, ids: list[str], times: np.ndarray) -> None:
    closed: set[str] = set()
    told = table.columns["TIME"]
    for i in range(1, len(ids)):
        if ids[i] == ids[i - 1]:
            if times[i] < times[i - 1] - SAME:
                table.fail(
                    f"TIME goes back from {text_of(told[i - 1])} to {text_of(told[i])}",
                    "Sort the rows of each ID by TIME.",
                    rows=[i],
                    column="TIME",
                )
            continue
        closed.add(ids[i - 1])
        if ids[i] in closed:
            table.fail(
                f"ID {ids[i]!r} appears again after rows of other IDs",
                "Sort the table by ID and TIME, or give a different subject another ID.",
                rows=[i],
                column="ID",
            )


def _event_types(table: Table, numbers: Mapping[str, np.ndarray], notes: list[str]) -> np.ndarray:
    """EVID of every row, inferred from AMT where the table has none."""
    amount = _get(numbers, "AMT", len(table))
    if "EVID" not in numbers:
        evid = np.where((amount > 0) | _endless(table, numbers), 1, 0)
        if "AMT" in numbers and (amount < 0).any():
            table.fail(
                "AMT is negative",
                "Give what was infused.",
                rows=np.flatnonzero(amount < 0),
                column="AMT",
            )
        notes.append(
            f"{table.label}: no column EVID; {count(int(evid.sum()), 'row')} with AMT > 0 were "
            "read as doses (EVID 1), the others as observations (EVID 0)."
        )
        return evid
    evid = numbers["EVID"]

    def refuse(bad: np.ndarray, problem: str, advice: str, column: str = "EVID") -> None:
        if bad.any():
            table.fail(problem, advice, rows=np.flatnonzero(bad), column=column)

    refuse(np.isnan(evid), "EVID is missing", "Write 0 (observation) or 1 (dose).")
    refuse(
        ~np.isin(evid, range(5)),
        "EVID must be 0 (observation), 1 (dose), 2 (other event), 3 (reset) or 4 (reset and dose)",
        "Correct the entry.",
    )
    given = np.isin(evid, DOSES)
    refuse(
        given & (amount <= 0) & ~_endless(table, numbers),
        "a dose (EVID 1) needs AMT > 0",
        "Give the amount, or remove the row of a dose not given.",
        "AMT",
    )
    refuse(
        ~given & (amount != 0),
        "AMT is given on a row that is no dose",
        "Set EVID to 1 if it is one, else AMT to 0 or '.'.",
        "AMT",
    )
    return evid.astype(int)


def _endless(table: Table, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Infusions that have run for ever: at steady state, with a rate and no amount."""
    rows = len(table)
    steady = np.isin(_get(numbers, "SS", rows), (1, 2)) & (_get(numbers, "II", rows) == 0)
    rate = _get(numbers, "RATE", rows)
    endless: np.ndarray = steady & ((rate > 0) | (rate == -1))
    endless &= _get(numbers, "AMT", rows) == 0
    return endless


def _refuse_stray(table: Table, numbers: Mapping[str, np.ndarray], evid: np.ndarray) -> None:
    """Refuse columns of doses on other rows, and values on rows that are no observations."""
    rows, dose = len(table), np.isin(evid, DOSES)
    for column in ("RATE", "DUR", "ADDL", "II", "SS"):
        stray = ~dose & (_get(numbers, column, rows) != 0)
        if stray.any():
            table.fail(
                f"{column} is given on a row that is no dose",
                f"Set EVID to 1 if it is one, else {column} to 0 or '.'.",
                rows=np.flatnonzero(stray),
                column=column,
            )
    value = _get(numbers, "DV", rows)
    quiet = _get(numbers, "MDV", rows) == 1
    value[np.array(flags_of(table.columns["DV"]), bool)] = np.inf
    both = (evid != 0) & (value != 0) & ~quiet
    if both.any():
        table.fail(
            "DV is given on a row that is no observation",
            "Put the observation on a row of its own (EVID 0), or set MDV to 1 or DV to '.'.",
            rows=np.flatnonzero(both),
            column="DV",
        )


def _doses(
    table: Table,
    numbers: Mapping[str, np.ndarray],
    evid: np.ndarray,
    arguments: Arguments,
    settings: Settings,
) -> Table:
    """Doses and resets, in the words of carpk's own table."""
    size, notes = len(table), settings.notes
    rows = np.flatnonzero(np.isin(evid, (*DOSES, RESET)))
    places, given = rows.tolist(), np.isin(evid[rows], DOSES)
    amount, rate = _get(numbers, "AMT", size), _get(numbers, "RATE", size)
    duration = _get(numbers, "DUR", size)
    timed = (rate > 0) & (amount > 0)
    clash = timed & (duration != 0)
    clash[clash] = ~np.isclose(duration[clash], (amount / np.where(timed, rate, 1.0))[clash], 1e-3)
    if clash.any():
        i = np.flatnonzero(clash)[0]
        table.fail(
            f"DUR is {duration[i]:g}, but AMT/RATE is {amount[i] / rate[i]:g}",
            "Keep one of RATE and DUR.",
            rows=np.flatnonzero(clash),
            column="DUR",
        )
    rate = np.where(timed & (duration > 0), 0.0, rate)
    products, units = dose_products(table, rows[given], arguments, settings)
    if "MDV" in numbers and "DV" in numbers:
        silent = int((_get(numbers, "DV", size)[evid != 0] != 0).sum())
        if silent:
            notes.append(
                f"{table.label}: DV of {count(silent, 'row')} with MDV 1 that are no observations "
                "was not used."
            )
    if resets := int((evid >= RESET).sum()):
        notes.append(f"{table.label}: {count(resets, 'reset')} (EVID 3 or 4).")
    named = iter(zip(products, units, strict=True))
    both = [next(named) if dose else ("", "") for dose in given]
    columns: dict[str, Sequence[object]] = {
        "patient": [table.columns["patient"][i] for i in places],
        "time": [table.columns["TIME"][i] for i in places],
        "product": [product for product, _ in both],
        "amount": amount[rows].tolist(),
        "unit": [unit for _, unit in both],
        "duration": duration[rows].tolist(),
        "rate": rate[rows].tolist(),
        "evid": evid[rows].tolist(),
        "record": places,
    }
    for column in ("SS", "II", "ADDL"):
        columns[column.lower()] = _get(numbers, column, size)[rows].tolist()
    return Table(table.label, columns, [table.rows[i] for i in places], table.name, SHOWN)


def _observations(
    table: Table,
    numbers: Mapping[str, np.ndarray],
    evid: np.ndarray,
    arguments: Arguments,
    settings: Settings,
) -> Table:
    """Observations with analyte, unit and censoring; MDV 1 and EVID 2 rows stay out, counted."""
    notes, rows = settings.notes, len(table)
    mdv = _get(numbers, "MDV", rows)
    if not np.isin(mdv, (0, 1)).all():
        bad = np.flatnonzero(~np.isin(mdv, (0, 1)))
        table.fail("MDV must be 0 or 1", "Correct the entry.", rows=bad, column="MDV")
    blq, cens = _get(numbers, "BLQ", rows), _get(numbers, "CENS", rows)
    for column, values, allowed in (("BLQ", blq, (0, 1)), ("CENS", cens, (-1, 0, 1))):
        odd = np.flatnonzero((evid == 0) & ~np.isin(values, allowed))
        if odd.size:
            table.fail(
                f"{column} must be {' or '.join(map(str, allowed))}, but is {values[odd[0]]:g}",
                "Correct the flag.",
                rows=odd,
                column=column,
            )
    if other := int((evid == 2).sum()):
        notes.append(f"{table.label}: {count(other, 'row')} with EVID 2 kept out of observations.")
    left_out = (evid == 0) & (mdv == 1)
    if left_out.any():
        below = int((left_out & ((blq == 1) | (cens == 1))).sum())
        flagged = f", {below} of them flagged as below the LLOQ" if below else ""
        n = int(left_out.sum())
        notes.append(f"{table.label}: {count(n, 'observation')} with MDV 1 left out{flagged}.")
    keep = np.flatnonzero((evid == 0) & (mdv == 0))
    analytes = analyte_names(table, keep, arguments, notes)
    value, written = numbers["DV"].copy(), table.columns["DV"]
    lloq = numbers["LLOQ"].copy() if "LLOQ" in numbers else np.full(rows, np.nan)
    limit = numbers["LIMIT"].copy() if "LIMIT" in numbers else np.full(rows, np.nan)
    censored, told = np.where(blq == 1, 1.0, cens), "BLQ" in table or "CENS" in table
    both = np.flatnonzero((evid == 0) & (blq == 1) & (cens == -1))
    if both.size:
        table.fail("BLQ is 1, but CENS is -1", "Correct one of them.", rows=both, column="BLQ")
    converted, kinds, beyond = 0, list(dict.fromkeys(analytes)), flags_of(written)
    for j, i in enumerate(keep.tolist()):
        if beyond[i]:
            continue
        if np.isnan(lloq[i]):
            lloq[i] = settings.lloq_of(analytes[j], kinds)
        if blq[i] == 1 and cens[i] != 1:
            if np.isnan(lloq[i]):
                table.fail(
                    "BLQ is 1, but the LLOQ is unknown",
                    "Add a column LLOQ, or pass lloq={analyte: number}.",
                    rows=[i],
                    column="BLQ",
                )
            value[i] = lloq[i]
            converted += 1
        elif cens[i] == 1 and np.isnan(lloq[i]):
            if value[i] <= 0:
                table.fail(
                    f"CENS is 1, but DV is {value[i]:g} and there is no LLOQ",
                    "Write the LLOQ as DV, as Monolix does, or add a column LLOQ.",
                    rows=[i],
                    column="DV",
                )
            lloq[i] = value[i]
    if converted:
        notes.append(
            f"{table.label}: {count(converted, 'row')} with BLQ 1 read as CENS 1 with DV = LLOQ."
        )
    idle = np.isin(np.arange(rows), keep) & ~np.isnan(limit) & (censored != 1)
    if idle.any():
        if (limit[idle] != 0).any():
            notes.append(
                f"{table.label}: LIMIT of {count(int(idle.sum()), 'row')} that are not CENS 1 was "
                "not used."
            )
        limit[idle] = np.nan
    given = [text_of(table.columns["DVU"][i]) if "DVU" in table else "" for i in keep.tolist()]
    assume_units(table, analytes, given, settings)
    entries = np.where(beyond, np.array(written, dtype=object), value)
    flags = np.where(np.array(beyond) & (not told), np.nan, censored)
    ids = table.columns["patient"]
    columns: dict[str, Sequence[object]] = {
        "patient": [ids[i] for i in keep.tolist()],
        "time": [table.columns["TIME"][i] for i in keep.tolist()],
        "analyte": list(analytes),
        "value": [entries[i] for i in keep.tolist()],
        "unit": given,
        "lloq": lloq[keep].tolist(),
        "censored": [flags[i] for i in keep.tolist()],
        "limit": limit[keep].tolist(),
        "record": keep.tolist(),
    }
    if "SD" in numbers:
        columns["sd"] = numbers["SD"][keep].tolist()
    if "ULOQ" in numbers:
        columns["uloq"] = numbers["ULOQ"][keep].tolist()
    return Table(table.label, columns, [table.rows[i] for i in keep.tolist()], table.name, SHOWN)
