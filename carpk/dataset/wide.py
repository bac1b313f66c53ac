"""Sheets of samples, whatever their shape, as one row per observation.

Four shapes are known: a row per observation; analytes side by side, a row per patient and time; a
column per day, a row per patient; a column per patient, a row per time. Each entry keeps its cell.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from carpk.dataset.excel_names import (
    ASIDE,
    Header,
    Names,
    analyte,
    day_of,
    header,
    is_analyte,
    is_unit,
    plain,
    spellings,
)
from carpk.dataset.sheets import Column, Layout, address
from carpk.dataset.tables import Table, count, listing, nearest, text_of

VALUES = "value"
TAKEN = ("patient", "time", "analyte", "value", "unit", "lloq")


@dataclass(frozen=True)
class Roles:
    """What the columns of a sheet are: named ones by carpk's name, the others as they come."""

    named: dict[str, Column]
    others: tuple[Column, ...]


def roles(layout: Layout, table: str, names: Names, notes: list[str]) -> Roles:
    """Columns by the name that carpk has for them; two of one name are refused."""
    known, sheet = spellings(table), layout.sheet
    named: dict[str, Column] = {}
    others, renamed = [], []
    for column in layout.columns:
        name = header(column.text).name
        if names.ignore & {column.text, name} or _aside(column, name, known, names):
            notes.append(f"{sheet.label}: column `{column.text}` was not read.")
            continue
        own = names.columns.get(column.text) or names.columns.get(name) or known.get(plain(name))
        own = own or known.get(plain(column.text))
        if own is None or day_of(column.below) is not None:
            others.append(column)
            continue
        if own in named:
            sheet.fail(
                f"`{named[own].text}` ({named[own].cell}) and `{column.text}` ({column.cell}) both "
                f"read as `{own}`",
                f"Keep one of them, or say ignore=[{column.text!r}].",
                _place(layout, column),
            )
        named[own] = column
        if column.text != own:
            renamed.append(f"`{column.text}` as `{own}`")
    if renamed:
        notes.append(f"{sheet.label}: columns read {', '.join(renamed)}.")
    return Roles(named, tuple(others))


def _aside(column: Column, name: str, known: dict[str, str], names: Names) -> bool:
    word = plain(name)
    return word in ASIDE and word not in known and column.text not in names.columns


def _place(layout: Layout, column: Column) -> tuple[int, int]:
    digits = "".join(c for c in column.cell if c.isdigit())
    return int(digits), column.at


def long_table(layout: Layout, found: Roles, dataset: str) -> Table:
    """A sheet that has a row per entry as a table; columns that carpk does not name keep theirs."""
    named = found.named | {column.text: column for column in found.others}
    for column in found.others:
        _refuse_twin(layout, column, [c for c in found.others if c.text == column.text])
    for own, column in named.items():
        if own in ("value", "amount", "total", "transduced"):
            layout.refuse_merged(column)
    return Table(
        layout.sheet.label,
        {own: layout.entries(column) for own, column in named.items()},
        layout.rows,
        dataset,
        {own: column.text for own, column in named.items()},
        {own: layout.cells(column) for own, column in named.items()},
        layout.sheet.name,
    )


def samples(
    layout: Layout, names: Names, patients: Collection[str], dataset: str, notes: list[str]
) -> Table:
    """The observations of a sheet.

    Args:
        patients: labels of the other sheets; a column of this name is a patient's.
    """
    found = roles(layout, "observations", names, notes)
    if VALUES in found.named:
        for column in found.others:
            refuse_unknown(layout, column, "observations")
        return _one_analyte(long_table(layout, found, dataset), layout, found, names, notes)
    shape = _shape(layout, found, names, patients)
    return _melted(layout, found, shape, names, dataset, notes)


def _refuse_twin(layout: Layout, column: Column, same: Sequence[Column]) -> None:
    if column != same[0]:
        layout.sheet.fail(
            f"the columns of {same[0].cell} and {column.cell} have the same header",
            "Keep one, or give the two different names.",
            _place(layout, column),
        )


def refuse_unknown(layout: Layout, column: Column, table: str) -> NoReturn:
    """Refuse a column that is none of a table's."""
    known = spellings(table)
    close = nearest(column.text, known)
    hint = f"Did you mean `{close}`? If not, say" if close else "Say"
    wide = ", days such as 'D7', and analytes with their unit such as 'ALC [10^9/L]'"
    layout.sheet.fail(
        f"column `{column.text}` is unknown; known are {listing(dict.fromkeys(known.values()))}"
        f"{wide if table == 'observations' else ''}",
        f"{hint} what it is, as in columns={{{column.text!r}: {next(iter(known.values()))!r}}}, or "
        f"leave it out with ignore=[{column.text!r}].",
        _place(layout, column),
    )


def _shape(layout: Layout, found: Roles, names: Names, patients: Collection[str]) -> str:
    """'time', 'patient' or 'analyte': what the columns that hold values differ in."""
    others, named = found.others, found.named
    days = [c for c in others if _day(c) is not None]
    people = [c for c in others if c.text in patients or c.text.casefold() in patients]
    heads = [c for c in others if _is_analyte(c, names)]
    fits = {
        "time": bool(days) and len(days) == len(others) and "time" not in named,
        "patient": bool(people) and len(people) == len(others) and "patient" not in named,
        "analyte": bool(heads) and len(heads) == len(others) and {"time", "patient"} <= set(named),
    }
    needs = {"time": "patient", "patient": "time", "analyte": "time"}
    shapes = [shape for shape, fit in fits.items() if fit and needs[shape] in named]
    if len(shapes) == 1:
        return shapes[0]
    best = max((days, people, heads), key=len)
    odd = [c for c in others if c not in best]
    if best and odd:
        refuse_unknown(layout, odd[0], "observations")
    lacks = [name for name in ("patient", "time") if name not in named]
    held = listing(c.text for c in layout.columns)
    if lacks and others:
        layout.sheet.fail(
            f"there is no column for {' and '.join(lacks)} (found: {held})",
            "Name it as carpk does, or by columns={...}; a column per day needs names such as "
            "'D7', one per patient the labels of the sheet of patients.",
        )
    return layout.sheet.fail(
        f"no column holds values (found: {held})",
        "Give a column `value`, or one per day ('D7'), per patient, or per analyte with its unit "
        "('ALC [10^9/L]').",
    )


def _day(column: Column) -> float | None:
    """The day that heads a column, in its second row or its only one."""
    return day_of(column.text if column.below is None else column.below)


def _is_analyte(column: Column, names: Names) -> bool:
    head = header(column.text)
    return column.below is None and (is_analyte(head.name, names) or is_unit(head.unit))


def _melted(
    layout: Layout, found: Roles, shape: str, names: Names, dataset: str, notes: list[str]
) -> Table:
    """One row per cell that holds a value; empty cells are samples not taken, counted."""
    sheet = layout.sheet
    for name, column in found.named.items():
        if name not in TAKEN:
            sheet.fail(
                f"`{column.text}` (`{name}`) says something of single observations, and stands "
                f"beside a column per {'day' if shape == 'time' else shape}",
                f"Give a row per observation, or leave it out with ignore=[{column.text!r}].",
                _place(layout, column),
            )
    columns: dict[str, list[object]] = {name: [] for name in TAKEN}
    cells: dict[str, list[str]] = {name: [] for name in ("", *TAKEN)}
    heads = {c: _head(layout, c, found, shape, names) for c in found.others}
    for column in found.others:
        layout.refuse_merged(column)
        _refuse_twin(layout, column, [c for c in found.others if heads[c] == heads[column]])
    empty, used = 0, set()
    for row in layout.rows:
        of_row = {name: (sheet.values.get((row, c.at)), c) for name, c in found.named.items()}
        for column in found.others:
            entry = sheet.values.get((row, column.at))
            if not text_of(entry):
                empty += 1
                continue
            used.add(row)
            cell = address(row, column.at)
            for name in TAKEN:
                own = heads[column].get(name)
                where = cell if own is None else column.cell
                if name in of_row:
                    own, where = of_row[name][0], address(row, of_row[name][1].at)
                columns[name].append(entry if name == VALUES else own)
                cells[name].append(cell if name == VALUES else where)
            cells[""].append(cell)
    idle = [row for row in layout.rows if row not in used]
    kept = {name: values for name, values in columns.items() if any(v is not None for v in values)}
    how = {"time": "day", "patient": "patient", "analyte": "analyte"}[shape]
    notes.append(
        f"{sheet.label}: a column per {how} turned into {count(len(cells['']), 'observation')}; "
        f"{count(empty, 'empty cell')} counted as samples not taken."
    )
    if idle:
        heads_of = (text_of(next(iter(sheet.row(row).values()))) for row in idle)
        listed = (f"{row} ({head!r})" for row, head in zip(idle, heads_of, strict=True))
        notes.append(f"{sheet.label}: no sample in row {', '.join(listed)}.")
    shown = {name: column.text for name, column in found.named.items()}
    shown |= {"time": "day"} if shape == "time" else {}
    return Table(sheet.label, kept, cells[""], dataset, shown, cells, sheet.name)


def _head(
    layout: Layout, column: Column, found: Roles, shape: str, names: Names
) -> dict[str, object]:
    """What the header of a column of values says of them: analyte, unit, LLOQ, time or patient."""
    said: dict[str, object] = {}
    grouped = column.below is not None or shape == "analyte"
    text = column.text if grouped else ""
    head = header(text)
    if shape == "time":
        said["time"] = _day(column)
    if shape == "patient":
        said["patient"] = column.text
        head = Header("", "", None)
    if head.name:
        said |= _said(layout, column, head, names)
    elif "analyte" not in found.named:
        said |= _said(layout, column, _told(layout, names), names)
    if head.lloq is not None and "lloq" in found.named:
        layout.sheet.fail(
            f"`{column.text}` gives an LLOQ, and so does column `{found.named['lloq'].text}`",
            "Keep one.",
            _place(layout, column),
        )
    several = len({header(c.text).name for c in found.others}) > 1
    if grouped and several and {"lloq", "unit"} & set(found.named):
        layout.sheet.fail(
            "one column of limits or units stands beside several analytes",
            "Write unit and LLOQ into each header, such as 'CAR-T (copies/µg, LLOQ 50)'.",
        )
    return said


def _told(layout: Layout, names: Names) -> Header:
    """The analyte of a sheet that names none, as the reader was told."""
    if names.analyte is None:
        layout.sheet.fail(
            "the sheet does not say what was measured",
            "Write the analyte and its unit right above its columns, such as 'CAR-T (copies/µg)' "
            "(a title at the left edge is not read), or pass analyte='transgene'.",
        )
    return header(names.analyte)


def _said(layout: Layout, column: Column, head: Header, names: Names) -> dict[str, object]:
    name = analyte(head.name, head.unit, names)
    if name is None:
        layout.sheet.fail(
            f"`{head.name}` may be cells or copies: its unit does not tell",
            f"Write the unit beside it, such as '{head.name} (copies/µg)' or '{head.name} "
            "(cells/µL)'.",
            _place(layout, column),
        )
    said: dict[str, object] = {"analyte": name}
    return said | {k: v for k, v in (("unit", head.unit), ("lloq", head.lloq)) if v}


def _one_analyte(
    table: Table, layout: Layout, found: Roles, names: Names, notes: list[str]
) -> Table:
    """A long table with the analyte, unit and LLOQ that only its headers or arguments give."""
    head = header(found.named[VALUES].text)
    if head.unit:
        table = with_constant(table, "unit", head.unit, VALUES, notes)
    if head.lloq is not None:
        table = with_constant(table, "lloq", head.lloq, VALUES, notes)
    if "analyte" in table:
        return table
    told = _told(layout, names)
    unit = head.unit or told.unit
    said = _said(layout, found.named[VALUES], told._replace(unit=unit), names)
    return table.with_columns(
        **{
            name: [value] * len(table)
            for name, value in said.items()
            if name not in table.columns and value
        }
    )


def with_constant(table: Table, column: str, value: object, source: str, notes: list[str]) -> Table:
    """The table with what a header gives for all rows; a column that says otherwise is refused."""
    if column in table:
        shown = [text_of(entry) for entry in table.columns[column]]
        rows = [i for i, entry in enumerate(shown) if entry not in ("", text_of(value))]
        if rows:
            table.fail(
                f"the {column} is {text_of(table.columns[column][rows[0]])!r} here, but "
                f"{text_of(value)!r} in the header `{table.shown[source]}`",
                "Keep one.",
                rows=rows,
                column=column,
            )
    notes.append(f"{table.label}: `{table.shown[source]}` gives the {column}, {text_of(value)}.")
    filled = table.with_columns(**{column: [value] * len(table)})
    return replace(filled, cells={**table.cells, column: table.cells[source]})
