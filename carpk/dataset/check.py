"""Every problem of a file at once: what is refused is set aside, and the rest is read again."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from carpk.dataset.dataset import Dataset
from carpk.dataset.sources import Source, Tables, source_of
from carpk.dataset.tables import Table, count, some, text_of
from carpk.errors import CarpkWarning, DatasetError, Entry

Read = TypeVar("Read")


@dataclass(frozen=True)
class Check:
    """What is wrong with a file, and the data set if nothing is.

    Attributes:
        file: its name.
        problems: each with the entries that share it.
        warnings: what a correct data set needs as a caveat.
        unchecked: patients whose tables were not compared, since one has a problem.
        data: the data set; None where there are problems.
    """

    file: str
    problems: tuple[DatasetError, ...] = ()
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    data: Dataset | None = None

    @property
    def ok(self) -> bool:
        return self.data is not None

    def __repr__(self) -> str:
        if self.data is not None:
            lines = [f"{self.file}: no problems.", "", self.data.summary().to_string(), ""]
            lines += [f"warning: {warning}" for warning in self.warnings]
            return "\n".join([*lines, *(f"note: {note}" for note in self.data.notes)])
        lines = [f"{self.file}: {count(len(self.problems), 'problem')}"]
        lines += [f"  {_line(problem)}" for problem in self.problems]
        if self.unchecked:
            lines.append(
                f"Not compared between tables before these are corrected: "
                f"{some(list(self.unchecked))}."
            )
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """All of it, as lists and dictionaries."""
        found: dict[str, Any] = {"file": self.file, "ok": self.ok, "warnings": [*self.warnings]}
        found["problems"] = [
            {
                "table": problem.table,
                "problem": problem.problem,
                "entries": [_entry(entry) for entry in problem.entries],
            }
            for problem in self.problems
        ]
        if self.data is not None:
            rows = self.data.summary().reset_index().to_dict("records")
            found |= {"summary": rows, "notes": [*self.data.notes]}
        return found


def _line(problem: DatasetError) -> str:
    if not problem.entries:
        return problem.problem
    places = dict.fromkeys(_address(entry, problem.table) for entry in problem.entries)
    owners = dict.fromkeys(e.owner for e in problem.entries if e.owner)
    said = [f"{kind} {label!r}" for kind, label in owners]
    return f"{', '.join([*places, *said[:1]])}: {problem.problem}"


def _address(entry: Entry, table: str) -> str:
    if entry.cell:
        return f"{entry.sheet}!{entry.cell}"
    column = f", column `{entry.column}`" if entry.column else ""
    return f"{table}, row {entry.row}{column}"


def _entry(entry: Entry) -> dict[str, Any]:
    said = entry._asdict() | {"row": str(entry.row)}
    owner = said.pop("owner")
    return said | ({owner[0]: owner[1]} if owner else {})


def check(path: Path) -> Check:
    """Read a workbook, a table of events or a study folder, and list all that is refused."""
    try:
        source = source_of(path)
    except DatasetError as problem:
        return Check(path.name, (problem,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CarpkWarning)
        problems, tables, frames = _all(source.frames, source.tables, _without_entries)
        problems.sort(key=lambda problem: _order(problem, source.tables))
        if frames is None:
            return Check(path.name, tuple(problems))
        owners = {entry.owner for problem in problems for entry in problem.entries}
        if None in owners:
            return Check(path.name, tuple(problems), unchecked=tuple(_patients(source)))
        first = sorted({owner[1] for owner in owners if owner})
        tables = _without_patients(tables, first, source)
        if first and not _patients(replace(source, tables=tables)):
            return Check(path.name, tuple(problems), unchecked=tuple(first))
        del caught[:]

        def aside(read: Tables, problem: DatasetError) -> Tables:
            labels = [entry.owner[1] for entry in problem.entries if entry.owner]
            return _without_patients(read, labels, source)

        later, _, fields = _all(source.fields, tables, aside)
    if problems or later or fields is None:
        told = [problem for problem in later if problem.entries]  # the rest may be missing for them
        found = (*problems, *told) or tuple(later)
        return Check(path.name, found, unchecked=tuple(first))
    caveats = tuple(dict.fromkeys(str(w.message) for w in caught))
    return Check(path.name, warnings=caveats, data=Dataset(**fields))


def _all(
    read: Callable[[Tables], Read],
    tables: Tables,
    aside: Callable[[Tables, DatasetError], Tables],
) -> tuple[list[DatasetError], Tables, Read | None]:
    """Problems one after another, until none is left or one is of a table as a whole."""
    problems: list[DatasetError] = []
    while True:
        try:
            return problems, tables, read(tables)
        except DatasetError as problem:
            problems.append(problem)
            left = aside(tables, problem)
            if sum(map(len, left.values())) == sum(map(len, tables.values())):
                return problems, tables, None
            tables = left


def _without_entries(tables: Tables, problem: DatasetError) -> Tables:
    """Without the rows that a problem names; in a wide sheet, without its cells."""
    rows = {str(entry.row) for entry in problem.entries}
    return {
        key: _keep(table, (str(row) not in rows for row in table.rows))
        if table.label == problem.table
        else table
        for key, table in tables.items()
    }


def _without_patients(tables: Tables, patients: Iterable[str], source: Source) -> Tables:
    gone = set(patients)
    return {
        key: _keep(table, (text_of(e) not in gone for e in table.columns[source.owner]))
        if source.owner in table
        else table
        for key, table in tables.items()
    }


def _order(problem: DatasetError, tables: Tables) -> tuple[int, int]:
    """The place of a problem among the tables, and in its own."""
    for i, table in enumerate(tables.values()):
        if problem.entries and table.label == problem.table:
            rows = [str(row) for row in table.rows]
            return i, rows.index(str(problem.entries[0].row))
    return len(tables), 0


def _keep(table: Table, kept: Iterable[bool]) -> Table:
    return table.take([i for i, keep in enumerate(kept) if keep])


def _patients(source: Source) -> list[str]:
    tables: Mapping[str, Table] = source.tables
    every = (e for t in tables.values() if source.owner in t for e in t.columns[source.owner])
    return sorted({text_of(entry) for entry in every} - {""})
