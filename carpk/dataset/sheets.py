"""Sheets of a workbook: their cells, where their tables begin, and what heads each column.

The one file that reads with openpyxl. Cells keep their type: dates stay dates.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from carpk.dataset.excel_names import day_of, is_unit, plain, spellings
from carpk.dataset.tables import count, text_of
from carpk.errors import DatasetError, Entry

MISSING = (
    'Reading workbooks needs openpyxl, which is not installed: pip install "carpk[excel]". Or '
    "save each sheet as a CSV file (see carpk.load_dataset)."
)


_LITERAL = re.compile(r'"[^"]*"|\\.')  # of a number format: shown as it is, such as a unit


class Column(NamedTuple):
    """A column of a sheet: its place, its header, and the entry of a second header row."""

    at: int
    text: str
    below: object
    cell: str


@dataclass(frozen=True)
class Sheet:
    """The cells of a sheet by (row, column) from 1; blank ones are left out.

    Attributes:
        merged: cells that hold the entry of a merged range, but for its first cell.
    """

    file: str
    name: str
    dataset: str
    values: Mapping[tuple[int, int], object]
    merged: Mapping[tuple[int, int], tuple[int, int]]

    @property
    def label(self) -> str:
        return f"{self.file}, sheet {self.name}"

    def row(self, row: int) -> dict[int, object]:
        """Column -> entry of one row."""
        return {c: value for (r, c), value in self.values.items() if r == row}

    def fail(self, problem: str, advice: str, cell: tuple[int, int] | None = None) -> NoReturn:
        """Raise a `DatasetError` for a cell, or for the sheet."""
        at = "" if cell is None else address(*cell)
        place = f"Dataset {self.dataset!r}: {self.label}" + (f", cell {at}" if at else "")
        entries = (Entry(cell[0], None, self.name, at, None),) if cell else ()
        said = f"{problem}. {advice}"
        raise DatasetError(f"{place}: {said}", table=self.label, entries=entries, problem=said)


@dataclass(frozen=True)
class Layout:
    """The one table of a sheet: its columns, and the numbers of the rows below its header."""

    sheet: Sheet
    columns: tuple[Column, ...]
    rows: tuple[int, ...]

    def entries(self, column: Column) -> list[object]:
        return [self.sheet.values.get((row, column.at)) for row in self.rows]

    def cells(self, column: Column) -> list[str]:
        return [address(row, column.at) for row in self.rows]

    def refuse_merged(self, column: Column) -> None:
        """Refuse a number that stands for several cells."""
        for row in self.rows:
            if (row, column.at) in self.sheet.merged:
                self.sheet.fail(
                    f"the cell is merged with {address(*self.sheet.merged[row, column.at])}",
                    "Split the merged cells and give each its own entry.",
                    (row, column.at),
                )


def address(row: int, column: int) -> str:
    """'D17' of (17, 4)."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return f"{letters}{row}"


def open_workbook(path: Path, name: str, notes: list[str]) -> dict[str, Sheet]:
    """The sheets of a workbook that hold anything, by name."""
    place = f"Dataset {name!r}: {path.name}"
    try:
        import openpyxl
    except ImportError as trouble:
        raise DatasetError(f"{place}: {MISSING}") from trouble
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and lists that are not read
            results = openpyxl.load_workbook(path, data_only=True)
            formulas = openpyxl.load_workbook(path)
    except Exception as trouble:  # whatever a damaged or foreign file makes of a parser
        raise DatasetError(
            f"{place} is not a workbook that can be read ({type(trouble).__name__}: {trouble}). "
            "Save it as 'Excel workbook (.xlsx)', without a password."
        ) from trouble
    found = {}
    for sheet in results.worksheets:
        read = _read(sheet, formulas[sheet.title], path.name, name, notes)
        if read.values:
            found[sheet.title] = read
    return found


def _read(sheet: Any, formulas: Any, file: str, name: str, notes: list[str]) -> Sheet:
    values: dict[tuple[int, int], object] = {}
    percent = 0
    for row in formulas.iter_rows():
        for written in row:
            if written.value is None or text_of(written.value) == "" == str(written.value).strip():
                continue
            cell, place = sheet[written.coordinate], (written.row, written.column)
            entry = cell.value
            if entry is None:
                Sheet(file, sheet.title, name, {}, {}).fail(
                    f"the result of the formula {written.value!r} is not in the file",
                    "Open the workbook in a spreadsheet program and save it, or paste the values.",
                    place,
                )
            if isinstance(entry, int | float) and "%" in _LITERAL.sub("", cell.number_format or ""):
                entry, percent = 100 * entry, percent + 1
            values[place] = entry.strip() if isinstance(entry, str) else entry
    merged: dict[tuple[int, int], tuple[int, int]] = {}
    for block in formulas.merged_cells.ranges:
        first = (block.min_row, block.min_col)
        inside = [(r, c) for r, c in _inside(block) if (r, c) != first]
        if first in values:
            merged |= dict.fromkeys(inside, first)
            values |= dict.fromkeys(inside, values[first])
    if percent:
        notes.append(
            f"{file}, sheet {sheet.title}: {count(percent, 'cell')} shown in percent read as such "
            "(0.45 shown as 45 % is 45)."
        )
    return Sheet(file, sheet.title, name, values, merged)


def _inside(block: Any) -> list[tuple[int, int]]:
    rows, columns = range(block.min_row, block.max_row + 1), range(block.min_col, block.max_col + 1)
    return [(row, column) for row in rows for column in columns]


def layout(sheet: Sheet, table: str, notes: list[str]) -> Layout:
    """Find the table of a sheet: titles above it are skipped, its header has one row or two."""
    rows = sorted({row for row, _ in sheet.values})
    left = min(column for _, column in sheet.values)
    titles = []
    while rows and _is_title(sheet, rows[0], left):
        titles.append(rows.pop(0))
    if len(rows) < 1:
        sheet.fail("the sheet holds no table", "Give a header row and one row per entry.")
    for row in titles:
        notes.append(f"{sheet.label}: row {row} was taken for a title and was not read.")
    head, body = rows[0], rows[1:]
    two = bool(body) and body[0] == head + 1 and _is_second_header(sheet, head, left, table)
    body = body[1:] if two else body
    used = sorted({column for row, column in sheet.values if row in {head, *body}})
    columns = tuple(_column(sheet, head, two, index, notes) for index in used)
    return Layout(sheet, columns, tuple(body))


def _is_title(sheet: Sheet, row: int, left: int) -> bool:
    """A row with one entry, at the left edge of a wider table; a merged range is one entry."""
    here = {sheet.merged.get((row, c), (row, c)) for c in sheet.row(row)}
    wider = any(r > row and c > left for r, c in sheet.values)
    return wider and len(here) == 1 and next(iter(here))[1] == left


def _is_second_header(sheet: Sheet, head: int, left: int, table: str) -> bool:
    """Whether the row below a header goes on with units or days of its columns."""
    below = {c: v for c, v in sheet.row(head + 1).items() if (head + 1, c) not in sheet.merged}
    known = spellings(table)
    first = below.pop(left, None)
    if first is not None and known.get(plain(text_of(first))) != "patient":
        return False
    grouped = any(r == head and anchor[0] == head for (r, _), anchor in sheet.merged.items())
    gaps = any((head, c) not in sheet.values for c in below)
    texts = [v for v in below.values() if plain(text_of(v)) not in known]
    told = [v for v in texts if isinstance(v, str) and (is_unit(v) or day_of(v) is not None)]
    days = [v for v in texts if day_of(v) is not None]
    plainly = len(told) == len(texts) and not all(_is_number(v) for v in texts)
    return bool(texts) and (plainly or ((grouped or gaps) and len(days) == len(texts)))


def _is_number(entry: object) -> bool:
    return isinstance(entry, int | float) or text_of(entry).replace(".", "", 1).isdigit()


def _column(sheet: Sheet, head: int, two: bool, index: int, notes: list[str]) -> Column:
    """The header of a column; one that stands left of it is carried over it, noted."""
    top = sheet.values.get((head, index))
    below = sheet.values.get((head + 1, index)) if two else None
    if two and sheet.merged.get((head + 1, index), (0, 0))[0] == head:
        below = None
    if top is None and below is None:
        row = next(r for r, c in sheet.values if c == index and r > head)
        sheet.fail(
            f"column {address(head, index)[: -len(str(head))]} has entries, but no header",
            "Name it in the header row, or clear it.",
            (row, index),
        )
    if top is None and day_of(below) is not None:
        left = max((c for r, c in sheet.values if r == head and c < index), default=None)
        if left is not None:
            top = sheet.values[head, left]
            notes.append(
                f"{sheet.label}: the header in {address(head, left)} ({top}) was carried to "
                f"{address(head, index)}."
            )
    if isinstance(below, str) and is_unit(below) and day_of(below) is None:
        return Column(index, f"{text_of(top)} ({below})", None, address(head, index))
    if top is None:
        return Column(index, text_of(below), None, address(head + 1, index))
    return Column(index, text_of(top), below, address(head + (below is not None), index))
