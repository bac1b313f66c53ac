"""Workbooks of laboratories: which sheet is which table, and entries in carpk's words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from carpk.dataset import units
from carpk.dataset.excel_names import SHEETS, Names, analyte, day_of, dose_unit, header, plain
from carpk.dataset.excel_names import spellings as spellings_of
from carpk.dataset.sheets import Layout, Sheet, layout, open_workbook
from carpk.dataset.tables import Table, count, listing, nearest, number_of, text_of
from carpk.dataset.validate import Settings
from carpk.dataset.wide import Roles, long_table, refuse_unknown, roles, samples, with_constant
from carpk.errors import DatasetError

SUFFIXES = (".xlsx", ".xlsm")
EXAMPLE = "EXAMPLE-"
"""How the patients of a template begin."""
ERRORS = frozenset({"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"})
COVARIATE_UNITS = {"weight": ("kg",), "bsa": ("m2", "m²"), "height": ("cm",)}
TIMES = {"doses": ("time", "duration", "ii"), "observations": ("time",)}
CLOSE = 0.8  # similarity of a sheet's name to a table's that is taken for a typing error
ROUNDED = 0.05  # relative: what total x percent may differ by from the dose beside them


def _is_of(title: str, tables: set[str], words: Mapping[str, str]) -> bool:
    """Whether a word in the name of a sheet stands for one of these tables."""
    return any(words.get(word) in tables for word in plain(title).split())


def names_of(
    sheets: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    analytes: Mapping[str, str] | None = None,
    analyte: str | None = None,
    ignore: Sequence[str] = (),
) -> Names:
    """What the reader says of a workbook's names."""
    return Names(sheets or {}, columns or {}, analytes or {}, analyte, frozenset(ignore))


# ---- the workbook as tables -------------------------------------------------------------------


def tables(path: Path, names: Names, dataset: str, notes: list[str]) -> dict[str, Table]:
    """The tables of a workbook as they are written, with the cell of each entry."""
    chosen = _choose(open_workbook(path, dataset, notes), names, path.name, dataset, notes)
    laid = {table: layout(sheet, table, notes) for table, sheet in chosen.items()}
    found: dict[str, Table] = {}
    for table in ("patients", "cohorts", "summaries"):
        if table in laid:
            found |= _plain_table(table, laid[table], names, dataset, "doses" in laid, notes)
    if "doses" in laid:
        of = roles(laid["doses"], "doses", names, notes)
        for column in of.others:
            refuse_unknown(laid["doses"], column, "doses")
        found["doses"] = _with_units(long_table(laid["doses"], of, dataset), notes)
    labels = {
        text_of(entry)
        for table in ("patients", "doses")
        if table in found
        for entry in found[table].columns.get("patient", ())
    }
    if "observations" in laid:
        found["observations"] = samples(laid["observations"], names, labels, dataset, notes)
    return found


def _choose(
    sheets: Mapping[str, Sheet], names: Names, file: str, dataset: str, notes: list[str]
) -> dict[str, Sheet]:
    """Table -> its sheet, by the names of the sheets and what the reader was told."""
    place = f"Dataset {dataset!r}: {file}"
    for told, title in names.sheets.items():
        if told not in SHEETS or title not in sheets:
            raise DatasetError(
                f"{place}: sheets={{{told!r}: {title!r}}} names no table or no sheet; tables are "
                f"{listing(SHEETS)}, sheets with entries {listing(sheets)}."
            )
    chosen = {table: sheets[title] for table, title in names.sheets.items()}
    words = {word: table for table, known in SHEETS.items() for word in known.split()}
    left = [title for title in sheets if title not in names.sheets.values()]
    for title in list(left):
        table = words.get(plain(title))
        if table is None or table in names.sheets:
            continue
        if table in chosen:
            raise DatasetError(
                f"{place}: sheets {chosen[table].name!r} and {title!r} may both hold {table}. Say "
                f"which, sheets={{{table!r}: {title!r}}}, or put both into one sheet."
            )
        chosen[table] = sheets[title]
        left.remove(title)
    for title in list(left):  # 'Pt info', 'qPCR results', 'Patient samples'
        found = {words[word] for word in plain(title).split() if word in words}
        found = (found - {"patients"} or found) - {*chosen, *names.sheets}
        others = [other for other in left if other != title]
        if len(found) == 1 and not any(_is_of(other, found, words) for other in others):
            chosen[found.pop()] = sheets[title]
            left.remove(title)
    absent = [word for word, table in words.items() if table not in chosen]
    for title in left:
        close = nearest(title, absent, CLOSE)
        if close:
            raise DatasetError(
                f"{place}: sheet {title!r} is no table. Did you mean {close!r}? If not, rename it."
            )
        notes.append(f"{file}: sheet {title!r} was not read: it is no table of a data set.")
    for table, sheet in chosen.items():
        if sheet.name != table:
            notes.append(f"{file}: sheet {sheet.name!r} was read as {table}.")
    if "observations" not in chosen and "summaries" not in chosen:
        raise DatasetError(
            f"{place}: no sheet holds samples (sheets with entries: {listing(sheets)}). Call it "
            f"'samples', or say sheets={{'observations': {next(iter(sheets), 'Sheet1')!r}}}."
        )
    return chosen


def _plain_table(
    table: str, laid: Layout, names: Names, dataset: str, dosed: bool, notes: list[str]
) -> dict[str, Table]:
    """A sheet with a row per patient, cohort or statistic; patients' doses beside them."""
    found = roles(laid, table, names, notes)
    for own, known in COVARIATE_UNITS.items():
        unit = header(found.named[own].text).unit if own in found.named else ""
        if unit and unit not in known:
            column = found.named[own]
            laid.sheet.fail(
                f"`{column.text}` is in {unit!r}, but {own} must be in {known[0]}",
                "Convert it.",
                (min(row for row, _ in laid.sheet.values), column.at),
            )
    if table != "patients" or dosed or "patient" not in found.named:
        return {table: long_table(laid, found, dataset)}
    spelt = spellings_of("doses")
    doses = {spelt.get(plain(header(c.text).name), ""): c for c in found.others}
    doses = {own: c for own, c in doses.items() if own in ("amount", "total", "transduced", "time")}
    if not any(_of_cells(column.text) for column in doses.values()):
        return {table: long_table(laid, found, dataset)}
    kept = Roles(found.named, tuple(c for c in found.others if c not in doses.values()))
    of = Roles({"patient": found.named["patient"], **doses}, ())
    given = long_table(laid, of, dataset)
    notes.append(
        f"{laid.sheet.label}: there is no sheet of infusions; "
        f"{listing(c.text for c in doses.values())} "
        f"{'were' if len(doses) > 1 else 'was'} read as each patient's infusion"
        + ("." if "time" in given else ", on day 0.")
    )
    if "time" not in given:
        given = given.with_columns(time=[0.0] * len(given))
    return {table: long_table(laid, kept, dataset), "doses": _with_units(given, notes)}


def _of_cells(text: str) -> bool:
    head = header(text)
    known = units.dose(dose_unit(head.unit))
    return "cell" in plain(head.name) or (known is not None and known[0] in units.CELL_UNITS)


def _with_units(table: Table, notes: list[str]) -> Table:
    """Doses with the unit in a header, and the product where the header says cells."""
    for column in ("amount", "total"):
        if column not in table:
            continue
        text = table.shown[column]
        if unit := header(text).unit:
            table = with_constant(table, "unit", dose_unit(unit), column, notes)
        elif "unit" not in table and _of_cells(text):
            table = with_constant(table, "unit", "cells", column, notes)
        if "product" not in table and (_of_cells(text) or "car" in plain(text)):
            table = with_constant(table, "product", "car_t", column, notes)
    return table


# ---- entries in carpk's words -----------------------------------------------------------------


def entries(read: Mapping[str, Table], names: Names, settings: Settings) -> dict[str, Table]:
    """The tables with times, doses and analytes as the other readers have them."""
    found = {}
    for key, table in read.items():
        _refuse_examples_and_errors(table)
        for column in TIMES.get(key, ()):
            if column in table:
                table = _in_unit_of_time(table, column, settings)
        if key == "doses":
            table = _transduced(table, settings.notes)
        if key == "observations":
            table = _analytes(table, names, settings.notes)
        found[key] = table
    return found


def _refuse_examples_and_errors(table: Table) -> None:
    for owner in ("patient", "cohort"):
        labels = [text_of(entry) for entry in table.columns.get(owner, ())]
        if rows := [i for i, label in enumerate(labels) if label.startswith(EXAMPLE)]:
            table.fail(
                "the row is an example of the template, and simulated",
                "Write your own rows in place of the examples.",
                rows=rows,
                column=owner,
            )
    for column, column_entries in table.columns.items():
        if rows := [i for i, e in enumerate(column_entries) if isinstance(e, str) and e in ERRORS]:
            table.fail(
                f"the cell shows the error {column_entries[rows[0]]}",
                "Correct its formula, or leave the cell empty.",
                rows=rows,
                column=column,
            )


def _in_unit_of_time(table: Table, column: str, settings: Settings) -> Table:
    """Times whose header or entry says their unit, in that of `settings`, noted."""
    head = header(table.shown.get(column, column))
    stated = units.time(head.unit) or units.time(plain(head.name))
    name, days = stated or settings.time
    factor, changed, out = days / settings.per_day, Counter[str](), list[object]()
    for entry in table.columns[column]:
        number = number_of(entry)
        said = day_of(entry) if number is None else None
        if said is not None:
            changed[text_of(entry)] += 1
            out.append(_exactly(said, 1 / settings.per_day))
        elif number is None or np.isnan(number):
            out.append(entry)
        else:
            out.append(_exactly(number, factor))
    if factor != 1:
        settings.notes.append(
            f"{table.label}: `{table.shown.get(column, column)}` is in {name}s and was converted "
            f"to {settings.time[0]}s."
        )
    if changed:
        settings.notes.append(
            f"{table.label}: {count(changed.total(), 'time')} such as {next(iter(changed))!r} "
            f"read as {settings.time[0]}s."
        )
    return table.with_columns(**{column: out})


def _exactly(number: float, factor: float) -> float:
    """The product; 48 hours are 2 days, not 48 * 0.041666..."""
    return number * factor if factor >= 1 else number / (1 / factor)


def _transduced(table: Table, notes: list[str]) -> Table:
    """Doses of CAR-T cells as total cells times the share that carries the CAR, noted."""
    if "total" not in table and "transduced" not in table:
        return table
    blank = [np.nan] * len(table)
    total, percent, amount = (
        table.numbers(c, required=False) if c in table else np.array(blank)
        for c in ("total", "transduced", "amount")
    )
    _check_percent(table, percent)
    plain_dose = "amount" in table and "car" in plain(table.shown["amount"])
    dose = total * percent / 100

    def refuse(bad: np.ndarray, column: str, problem: str, advice: str) -> None:
        if bad.any():
            table.fail(problem, advice, rows=np.flatnonzero(bad), column=column)

    refuse(
        np.isnan(dose) & np.isnan(amount) & ~np.isnan(total),
        "total",
        "the total of cells is given, but not the percentage that carries the CAR",
        "Give it in a column '% CAR+', or the dose of CAR-T cells itself.",
    )
    refuse(
        ~np.isnan(percent) & np.isnan(total) & ~np.isnan(amount) & (not plain_dose),
        "amount",
        "a percentage of CAR+ cells stands beside the dose: is it of all cells, or of CAR-T cells?",
        "Call the column 'Total cells' or 'CAR-T cells'.",
    )
    refuse(
        np.abs(amount / np.where(dose > 0, dose, np.nan) - 1) > ROUNDED,
        "amount",
        f"the dose differs by more than {ROUNDED:.0%} from total cells x % CAR+",
        "Correct one of the three.",
    )
    used = ~np.isnan(dose) & np.isnan(amount)
    _note_transduced(
        table, int(used.sum()), int((~np.isnan(amount) & ~np.isnan(percent)).sum()), notes
    )
    kept = {c: e for c, e in table.columns.items() if c not in ("total", "transduced")}
    kept["amount"] = [float(a) for a in np.where(used, dose, amount)]
    cells = {"amount": table.cells.get("amount", table.cells.get("total", ())), **table.cells}
    return replace(table, columns=kept, cells=cells)


def _note_transduced(table: Table, used: int, unused: int, notes: list[str]) -> None:
    if used:
        notes.append(
            f"{table.label}: {count(used, 'dose')} of CAR-T cells computed as "
            f"`{table.shown['total']}` x `{table.shown['transduced']}` / 100."
        )
    if unused:
        notes.append(
            f"{table.label}: {count(unused, 'dose')} read from `{table.shown['amount']}`; the "
            "percentage beside it was not needed."
        )


def _check_percent(table: Table, percent: np.ndarray) -> None:
    known = percent[~np.isnan(percent)]
    odd = np.flatnonzero((percent <= 0) | (percent > 100))
    if odd.size:
        table.fail(
            f"{percent[odd[0]]:g} is no percentage of cells",
            "Give a number above 0 and up to 100.",
            rows=odd,
            column="transduced",
        )
    if known.size and (known <= 1).all():
        table.fail(
            f"{known[0]:g} in a column of percentages may be a fraction",
            "Write percentages as numbers up to 100, or let the cells show them with a % sign.",
            rows=np.flatnonzero(~np.isnan(percent)),
            column="transduced",
        )


def _analytes(table: Table, names: Names, notes: list[str]) -> Table:
    """Analytes by the names that models know; what may be cells or copies needs its unit."""
    given = table.texts("analyte", required=False) if "analyte" in table else []
    shown = table.texts("unit", required=False) if "unit" in table else [""] * len(given)
    out = []
    renamed: Counter[tuple[str, str]] = Counter()
    for i, (name, unit) in enumerate(zip(given, shown, strict=True)):
        own = analyte(name, unit, names)
        if own is None:
            table.fail(
                f"{name!r} may be cells or copies: its unit does not tell",
                "Give the unit, copies/µg or cells/µL, in the row.",
                rows=[i],
                column="analyte",
            )
        renamed[name, own] += name != own
        out.append(own)
    for (old, new), n in renamed.items():
        if n:
            notes.append(f"{table.label}: {count(n, 'observation')} of {old!r} kept as {new!r}.")
    return table.with_columns(analyte=out) if given else table
