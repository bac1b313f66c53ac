"""Tables as text with their line numbers or cells, so that every message can say where."""

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar, cast

import numpy as np
import pandas as pd

from carpk.errors import DatasetError, Entry

Frame: TypeAlias = pd.DataFrame | Mapping[str, Iterable[object]] | Iterable[Mapping[str, object]]
"""A data frame, or what pandas makes one of."""

Written = TypeVar("Written")
Value = TypeVar("Value")

MISSING = frozenset({"", ".", "na", "n/a", "nan", "none", "null", "<na>"})
BELOW = frozenset(
    {
        *("blq", "bql", "bloq", "blloq", "blod", "belowlloq", "belowloq", "belowlod", "lloq"),
        *("nd", "notdetected", "notdetectable", "undetected", "undetectable", "neg", "negative"),
        *("<lloq", "<loq", "<llq", "<lod", "<llod"),
    }
)
"""Entries that say 'below the limit of quantification': lower case, without blanks and points."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_NUMBERS = re.compile(r"(?>[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?\n)++")
"""Lines of numbers that NumPy reads as they stand; atomic, as a search back would never end."""
_NO_WORDS = re.compile(r"[0-9.eE+\s-]*")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|.*\d:\d\d.*")


@dataclass(frozen=True)
class Table:
    """Columns of raw entries, the file (or argument) they came from and the row of each."""

    label: str
    columns: Mapping[str, Sequence[object]]
    rows: Sequence[object]
    name: str = "data set"
    shown: Mapping[str, str] = field(default_factory=dict)
    """The file's own column names where they differ from carpk's, for messages."""
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column of a spreadsheet -> address of each entry; "" is for columns that are not named."""
    sheet: str = ""
    """Name of the spreadsheet's sheet."""

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def with_columns(self, **columns: Sequence[object]) -> "Table":
        return replace(self, columns={**self.columns, **columns})

    def take(self, keep: Sequence[int]) -> "Table":
        """The rows numbered `keep`, with their places in the file."""
        columns = {name: [entries[i] for i in keep] for name, entries in self.columns.items()}
        cells = {name: [entries[i] for i in keep] for name, entries in self.cells.items()}
        return replace(self, columns=columns, rows=[self.rows[i] for i in keep], cells=cells)

    def cell(self, row: int, column: str | None = None) -> str:
        """Address of an entry of a spreadsheet, such as 'D17'; '' in other tables."""
        addresses = self.cells.get(column or "", self.cells.get("", ()))
        return addresses[row] if addresses else ""

    def at(self, row: int | None = None, column: str | None = None) -> str:
        """Where in the table: a cell, else row and column."""
        if row is not None and (cell := self.cell(row, column)):
            return f"cell {cell}"
        parts = [] if row is None else [f"row {self.rows[row]}"]
        if column is not None:
            parts.append(f"column `{self.shown.get(column, column)}`")
        return ", ".join(parts)

    def owner(self, row: int) -> tuple[str, str] | None:
        """Whose row it is: ('patient', label) or ('cohort', label)."""
        for kind in ("patient", "cohort"):
            if kind in self.columns and (label := text_of(self.columns[kind][row])):
                return kind, label
        return None

    def where(self, row: int | None = None, column: str | None = None) -> str:
        """File, row, column and patient, as every message starts."""
        parts = [f"Dataset {self.name!r}: {self.label}", self.at(row, column)]
        owner = None if row is None else self.owner(row)
        if owner is not None and owner[0] != column:
            parts.append(f"{owner[0]} {owner[1]!r}")
        return ", ".join(part for part in parts if part)

    def fail(
        self, problem: str, advice: str, *, rows: Iterable[int] = (), column: str | None = None
    ) -> NoReturn:
        """Raise a `DatasetError` for the first of `rows` that also counts and lists the others."""
        rows = [int(row) for row in rows]
        more = ""
        if len(rows) > 1:
            listed = ", ".join(self.cell(row, column) or str(self.rows[row]) for row in rows[1:6])
            dots = ", ..." if len(rows) > 6 else ""
            number = count(len(rows) - 1, "more cell" if self.cell(rows[0], column) else "more row")
            more = f" The same holds for {number}: {listed}{dots}."
        place = self.where(rows[0] if rows else None, column)
        entries = tuple(
            Entry(self.rows[row], column, self.sheet, self.cell(row, column), self.owner(row))
            for row in rows
        )
        raise DatasetError(
            f"{place}: {problem}. {advice}{more}",
            table=self.label,
            entries=entries,
            problem=f"{problem}. {advice}",
        )

    def require(
        self, columns: Sequence[str], known: Sequence[str], *, covariates: bool = False
    ) -> None:
        """Refuse missing columns and, unless they are covariates, unknown ones."""
        for column in columns:
            if column not in self.columns:
                others = [name for name in self.columns if name not in known]
                close = nearest(column, others)
                advice = (
                    f"Rename `{close}` to `{column}`." if close else f"Add it: {meaning(column)}."
                )
                self.fail(
                    f"column `{self.shown.get(column, column)}` is missing (found: "
                    f"{listing(self.columns)})",
                    advice,
                )
        unknown = [name for name in self.columns if name not in known]
        if unknown and not covariates:
            close = nearest(unknown[0], known)
            hint = f"Did you mean `{close}`? If not, remove" if close else "Remove"
            self.fail(
                f"column `{unknown[0]}` is unknown; known are {listing(known)}",
                f"{hint} the column, or move it to the patients or cohorts table if it is a "
                "covariate.",
            )

    def texts(self, column: str, *, required: bool = True) -> list[str]:
        """Entries as text, blanks around them removed; '' where one is missing and may be."""
        entries = each(text_of, self.columns[column])
        empty = [i for i, entry in enumerate(entries) if not entry]
        if empty and required:
            self.fail("the entry is missing", f"Give {meaning(column)}.", rows=empty, column=column)
        return entries

    def numbers(self, column: str, *, required: bool = True, advice: str = "") -> np.ndarray:
        """Entries as float64; NaN where one is missing and may be."""
        entries = self.columns[column]
        values = plain_numbers(entries)
        if values is None:
            numbers = each(number_of, entries)
            if None in numbers:
                row = numbers.index(None)
                problem, remedy = not_a_number(entries[row], column)
                self.fail(problem, remedy, rows=[row], column=column)
            values = np.array(numbers, dtype=float)
        infinite = np.flatnonzero(np.isinf(values))
        if infinite.size:
            self.fail(
                "the entry is infinite", "Give a finite number.", rows=infinite, column=column
            )
        missing = np.flatnonzero(np.isnan(values))
        if missing.size and required:
            self.fail(
                "the number is missing",
                advice or f"Give {meaning(column)}.",
                rows=missing,
                column=column,
            )
        return values


_MEANING = {
    "patient": "the patient's label, as in the patients table",
    "cohort": "the cohort's label",
    "time": "days from the patient's first cell infusion",
    "product": "what was given, such as 'car_t' or 'fludarabine'",
    "amount": "the amount given, in the unit of the row",
    "duration": "the length of the infusion in days (0 for a bolus)",
    "analyte": "what was measured, such as 'car_t', 'transgene' or 'alc'",
    "value": "the measured value, or the LLOQ together with censored = 1",
    "unit": "the unit, such as 'copies/µg' or 'cells/µL' (doses: 'cells', 'cells/kg', 'mg/m2')",
    "lloq": "the lower limit of quantification, in the unit of the row",
    "censored": "0 (observed), 1 (below the LLOQ) or -1 (above the upper limit)",
    "limit": "the lower bound of the censored interval",
    "sd": "the known standard deviation of the value's error, in the unit of the row",
    "metric": "what the statistic is of, such as 'level' or 'cmax'",
    "statistic": "'median', 'geometric mean', 'mean', 'p10' (a percentile), 'count', 'proportion' "
    "or 'percentage'",
    "n": "the number of patients behind the statistic",
    "use": "'fit', 'value' (without its interval), 'check' or 'no'",
    "source": "paper, page or table that states the figure",
    "note": "why the row is not fitted",
    "interval": "'IQR', 'range', '95% CI', '90% CI', 'SD', 'SE', 'CV%', 'GSD' or nothing",
    "low": "the lower end of the interval",
    "high": "the upper end of the interval",
    "spread": "the SD, SE, CV in percent or geometric SD",
    "threshold": "the level or fold that counts as detected or expanded",
    "id": "the subject's label",
    "dv": "the measured value",
}


def meaning(column: str) -> str:
    """Meaning of a column, for advice."""
    return _MEANING.get(column.lower(), "a plain number")


def count(n: int, noun: str) -> str:
    """`n` and the noun, in the plural where needed."""
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun[:-1]}ies" if noun.endswith("y") else f"{n} {noun}s"


def listing(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def some(labels: Sequence[str]) -> str:
    """The first five labels, and how many more there are."""
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def words(entries: Iterable[str | None]) -> pd.Series:
    """A column of text, with None where an entry is missing."""
    return pd.Series(list(entries), dtype=object)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name closest to `word`, whatever its case; None if none is close (1: equal)."""
    by_lower = {str(name).lower(): str(name) for name in known}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def each(function: Callable[[Written], Value], entries: Iterable[Written]) -> list[Value]:
    """`function` of every entry, called once for entries that are the same: most repeat."""
    entries = list(entries)
    kinds = set(map(type, entries)) - {str, type(None)}
    if len(kinds) > 1 or not kinds <= {float, int, bool}:  # 1, 1.0 and True are equal, not the same
        return [function(entry) for entry in entries]
    known = {entry: function(entry) for entry in set(entries)}
    return [known[entry] for entry in entries]


def plain_numbers(entries: Sequence[object]) -> np.ndarray | None:
    """Entries that are all numbers, or all text of numbers and '.', as float64; else None."""
    kinds = set(map(type, entries))
    if kinds and kinds <= {int, float, bool}:
        return np.array(entries, dtype=float)
    if kinds != {str}:
        return None
    written = ["0" if entry == "." else entry for entry in cast(Sequence[str], entries)]
    lines = "\n".join(written) + "\n"
    if lines.count("\n") != len(written) or not _NUMBERS.fullmatch(lines):
        return None
    values = np.array(written).astype(float)
    values[[entry == "." for entry in entries]] = np.nan
    return values


def text_of(entry: object) -> str:
    """The entry as text without blanks around it; '' where it is missing."""
    if isinstance(entry, str):
        text = entry.strip()
        return "" if text.lower() in MISSING else text
    if entry is None or entry is pd.NA or entry is pd.NaT:
        return ""
    if isinstance(entry, float | np.floating):
        if np.isnan(entry):
            return ""
        return (
            str(int(entry))
            if float(entry).is_integer() and abs(float(entry)) < 1e15
            else str(entry)
        )
    text = str(entry).strip()
    return "" if text.lower() in MISSING else text


def number_of(entry: object) -> float | None:
    """The entry as a number, NaN where it is missing, None where it is no number."""
    if isinstance(entry, bool | np.bool_ | int | float | np.integer | np.floating):
        return float(entry)
    text = text_of(entry)
    if not text:
        return np.nan
    if _NUMBER.fullmatch(text):
        return float(text.lower().replace("d", "e"))
    if _INFINITE.fullmatch(text):
        return np.inf
    return None


def is_below(entry: object) -> bool:
    """The entry is a word for 'below the limit of quantification', such as 'BLQ' or 'n.d.'."""
    if not isinstance(entry, str) or entry[:1].isdigit():
        return False
    return re.sub(r"[\s.]+", "", entry.lower()) in BELOW


def bound_of(entry: object) -> tuple[str, float] | None:
    """('<', 50.0) of '<50' or '≤ 50', ('>', 1e6) of '>1e6'; None where the entry is no bound."""
    text = text_of(entry)
    if text[:1].isdigit():
        return None
    sign = {"<": "<", "≤": "<", ">": ">", "≥": ">"}.get(text[:1])
    number = number_of(text.lstrip("<>=≤≥ ")) if sign else None
    return None if sign is None or number is None or not np.isfinite(number) else (sign, number)


def flag_of(entry: object) -> int:
    """1 of '<50' and 'BLQ', -1 of '>1e6', 0 of any other entry: as in `censored`."""
    bound = bound_of(entry)
    if bound is not None:
        return 1 if bound[0] == "<" else -1
    return int(is_below(entry))


def flags_of(entries: Iterable[object]) -> list[int]:
    """`flag_of` of each entry."""
    entries = list(entries)
    if _NO_WORDS.fullmatch("\n".join(entry for entry in entries if isinstance(entry, str))):
        return [0] * len(entries)
    return each(flag_of, entries)


def not_a_number(entry: object, column: str) -> tuple[str, str]:
    """Say what an entry that is no number probably means, and what to write instead."""
    text = text_of(entry)
    problem = f"{text!r} is not a number"
    if bound_of(entry) is not None:
        return problem, "Only measured values may be bounds: give a number, or leave it empty."
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return problem, (
            f"Write decimals with a point ({text.replace(',', '.')}), without separators of "
            "thousands."
        )
    if is_below(entry):
        return problem, "Only measured values may be below a limit: give a number."
    if isinstance(entry, pd.Timestamp) or _DATE.fullmatch(text):
        return problem, (
            f"A date or a clock time stands where a number is expected: {meaning(column)}."
        )
    return problem, f"Expected {meaning(column)}."


def from_frame(frame: Frame, label: str, name: str) -> Table:
    """A table from a data frame, or from what pandas makes one of; rows go by their index."""
    try:
        if not isinstance(frame, pd.DataFrame):
            frame = pd.DataFrame(frame)  # type: ignore[arg-type]  # any mapping; the stubs say dict
    except (TypeError, ValueError) as trouble:
        raise DatasetError(
            f"Dataset {name!r}: `{label}` must be a data frame, but is "
            f"{type(frame).__name__} ({trouble}). Pass a pandas DataFrame with one row per entry."
        ) from trouble
    names = [str(column).strip() for column in frame.columns]
    _refuse_repeated(names, f"Dataset {name!r}: {label}")
    columns = {key: frame.iloc[:, i].tolist() for i, key in enumerate(names)}
    return Table(label, columns, frame.index.tolist(), name)


def _refuse_repeated(names: Sequence[str], place: str) -> None:
    for column in names:
        if names.count(column) > 1:
            raise DatasetError(
                f"{place}: column `{column}` appears {names.count(column)} times. Keep one, or "
                "rename the others."
            )


def read_text(path: Path, name: str) -> str:
    """The file as text, or a message that names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as trouble:
        raise DatasetError(
            f"Dataset {name!r}: {path.name} is not UTF-8 text (byte {trouble.start}). Save it as "
            "'CSV UTF-8'; the letter µ is the usual reason."
        ) from trouble
    except OSError as trouble:
        raise DatasetError(
            f"Dataset {name!r}: {path} cannot be read ({trouble.strerror}). Check the path and "
            "its permissions."
        ) from trouble


def read_csv(path: Path, name: str) -> Table:
    """A CSV file with its line numbers; ragged lines and semicolons are refused."""
    lines = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    header: list[str] = []
    records: list[list[str]] = []
    rows: list[int] = []
    place = f"Dataset {name!r}: {path.name}"
    try:
        for record in lines:
            if not any(cell.strip() for cell in record):
                continue
            if not header:
                header = [cell.strip() for cell in record]
                continue
            if len(record) != len(header):
                raise DatasetError(
                    f"{place}, row {lines.line_num}: {count(len(record), 'entry')} where the "
                    f"header names {count(len(header), 'column')}. Quote entries that hold a "
                    "comma, write decimals with a point, and give every column an entry "
                    "(nothing between two commas means missing)."
                )
            records.append(record)
            rows.append(lines.line_num)
    except csv.Error as trouble:
        raise DatasetError(
            f"{place}, row {lines.line_num}: not readable as CSV ({trouble}). Check the quotes."
        ) from trouble
    if not header:
        raise DatasetError(f"{place} is empty. Give at least a header line, or remove the file.")
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise DatasetError(
            f"{place}, row 1: the columns are separated by semicolons or tabs. Save the file with "
            "commas between columns and points in decimals."
        )
    if "" in header:
        raise DatasetError(
            f"{place}, row 1: column {header.index('') + 1} has no name. Name or remove it."
        )
    _refuse_repeated(header, f"{place}, row 1")
    columns = {column: [record[i] for record in records] for i, column in enumerate(header)}
    return Table(path.name, columns, rows, name)
