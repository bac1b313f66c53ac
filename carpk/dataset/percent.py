"""Percent of cells to cells per volume, through the count of the same tube."""

import re
from collections import Counter

import numpy as np

from carpk.dataset import units
from carpk.dataset.tables import Table, count, each, listing
from carpk.dataset.validate import Settings

_PERCENT = re.compile(r"(?:%|percent)\s*(?:of)?\s*(?P<of>.*?)\s*(?:\+|cells|positive)*")
_COUNTS = {  # what a percentage is of -> analytes that count it
    "cd3": ("cd3", "t_cells", "cd3_count", "t cells"),
    "t": ("t_cells", "cd3", "t cells"),
    "t cell": ("t_cells", "cd3", "t cells"),
    "t cells": ("t_cells", "cd3", "t cells"),
    "lymphocytes": ("alc", "lymphocytes"),
    "lymphocyte": ("alc", "lymphocytes"),
    "leukocytes": ("wbc", "leukocytes"),
    "wbc": ("wbc", "leukocytes"),
    "cd45": ("wbc", "leukocytes"),
    "pbmc": ("pbmc",),
}
CELLS = "cells/µL"


def _percent_of(unit: str) -> re.Match[str] | None:
    return _PERCENT.fullmatch(unit.strip().lower())


def to_counts(table: Table, settings: Settings) -> Table:
    """CAR-T cells in percent of other cells as cells/µL, where the others were counted, too.

    A count of the same patient and time is needed for each; LLOQ, limit and SD go along.
    """
    if "unit" not in table or "analyte" not in table:
        return table
    analytes, given = table.texts("analyte"), table.texts("unit", required=False)
    shown = [u or settings.units.get(a, "") for a, u in zip(analytes, given, strict=True)]
    parts = each(_percent_of, shown)
    rows = [i for i, part in enumerate(parts) if part and analytes[i] == "car_t"]
    if not rows:
        return table
    patients, times, values = table.texts("patient"), table.numbers("time"), table.numbers("value")
    levels = [c for c in ("value", "lloq", "limit", "sd") if c in table]
    numbers = {c: table.numbers(c, required=False) for c in levels}
    columns = {c: list(table.columns[c]) for c in (*levels, "unit")}
    done: Counter[str] = Counter()
    for i in rows:
        part = parts[i]
        assert part is not None
        names = _COUNTS.get(part["of"], ())
        if not names:
            table.fail(
                f"car_t is in {shown[i]!r}: percent of what?",
                "Name the cells in the unit, such as '% of CD3', '% of lymphocytes' or '% of "
                "leukocytes', and give their count as an analyte (cd3, alc, wbc); cells/µL are "
                "percent x count / 100.",
                rows=[i],
                column="unit",
            )
        tube = [
            j
            for j in range(len(table))
            if patients[j] == patients[i] and times[j] == times[i] and analytes[j].lower() in names
        ]
        if not tube:
            table.fail(
                f"car_t is in {shown[i]!r}, but there is no count of these cells in the patient "
                f"at time {times[i]:g}",
                f"Give it as an analyte ({listing(names[:2])}) in cells/µL; cells/µL of CAR-T are "
                "percent x count / 100.",
                rows=[i],
                column="unit",
            )
        j = tube[0]
        known = units.measured(shown[j])
        if known is None or known[0] != CELLS:
            table.fail(
                f"{analytes[j]!r} is in {shown[j]!r}, not in cells per volume, and car_t is in "
                f"{shown[i]!r} of it",
                "Give a count in cells/µL.",
                rows=[j],
                column="unit",
            )
        factor = values[j] * known[1] / 100
        for column in levels:
            if not np.isnan(numbers[column][i]):
                columns[column][i] = float(numbers[column][i]) * factor
        columns["unit"][i] = CELLS
        done[f"{shown[i]}, by {analytes[j]}"] += 1
    for how, n in done.items():
        settings.notes.append(
            f"{table.label}: {count(n, 'entry')} of car_t in {how} of the same tube, turned into "
            f"{CELLS}."
        )
    return table.with_columns(**columns)
