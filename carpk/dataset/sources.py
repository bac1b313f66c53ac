"""Files and folders as tables of text, to assemble a data set from or to list their problems."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from carpk.dataset import excel, nonmem, nonmem_file, tables
from carpk.dataset.assemble import Fields, Frames, assemble, each, settings_of
from carpk.dataset.doses import REQUIRED
from carpk.dataset.excel_names import Names
from carpk.dataset.folder import (
    FILES,
    check_unexpected_files,
    close_file,
    read_about,
    refuse_no_folder,
)
from carpk.dataset.nonmem_names import Arguments
from carpk.dataset.tables import Table, listing
from carpk.dataset.validate import Settings
from carpk.errors import DatasetError

KEYS = ("patients", "doses", "observations", "summaries", "cohorts")
Tables = Mapping[str, Table]


def _as_they_are(read: Tables, settings: Settings) -> dict[str, Table]:
    return dict(read)


@dataclass(frozen=True)
class Source:
    """The tables of a file or folder as they are written, and how they are read.

    Attributes:
        tables: by name, unchecked.
        settings: as given, with the notes on where the tables were found.
        read: (tables, settings) -> carpk's tables.
        owner: the column that names the patient.
    """

    tables: Tables
    settings: Settings
    read: Callable[[Tables, Settings], dict[str, Table]] = _as_they_are
    owner: str = "patient"
    sampling: Sequence[float] | None = None
    about: Mapping[str, object] = field(default_factory=dict)
    lenient: bool = False

    def frames(self, read: Tables) -> Frames:
        """Each of these tables checked by itself."""
        settings = copy.deepcopy(self.settings)
        return each(self.read(read, settings), settings, lenient=self.lenient)

    def fields(self, read: Tables | None = None) -> Fields:
        """The arguments of `Dataset`, from these tables or all."""
        settings = copy.deepcopy(self.settings)
        found = self.read(self.tables if read is None else read, settings)
        return assemble(found, settings, self.sampling, self.about, lenient=self.lenient)


def folder(path: Path, time_zero: str | None = None) -> Source:
    """A study folder: `about.toml` and its CSV files."""
    refuse_no_folder(path)
    about = read_about(path)
    name = str(about.get("name", path.name))
    settings = settings_of(
        name,
        about.get("time_unit", "day"),
        time_zero or about.get("time_zero", "first cell infusion"),
        about.get("units"),
        about.get("lloq"),
        about.get("uloq"),
        about.get("day_first"),
        about.get("missing"),
        source="about.toml",
    )
    for key in ("citation", "licence"):
        if not about.get(key) and not (key == "licence" and about.get("license")):
            settings.notes.append(f"about.toml states no {key}.")
    check_unexpected_files(path, settings)
    read = {
        key: tables.read_csv(path / file, name)
        for key, file in zip(KEYS, FILES, strict=True)
        if (path / file).is_file()
    }
    if "observations" not in read and "summaries" not in read:
        raise DatasetError(
            f"Dataset {name!r}: {path} holds neither observations.csv (individual data) nor "
            "facts.csv (published summaries). Add one of them."
        )
    if "observations" in read and "doses" not in read:
        raise DatasetError(
            f"Dataset {name!r}: {path} holds observations.csv, but no doses.csv. Add it, "
            f"with columns {listing(REQUIRED)}; without rows where nobody was treated."
        )
    sampling = about.get("sampling")
    if isinstance(sampling, Mapping):
        sampling = sampling.get("days")
    return Source(read, settings, sampling=sampling, about=about, lenient=True)


def nonmem_table(
    path: Path, given: Arguments, settings: Settings, about: Mapping[str, object]
) -> Source:
    """A NONMEM, Monolix or rxode2 table, with what its sidecar says."""
    if path.is_dir():
        raise DatasetError(
            f"Dataset {settings.name!r}: {path} is a folder. Read a study folder with "
            "carpk.load_dataset(path), or name the table in it."
        )
    _refuse_no_file(path, settings.name)
    given = nonmem_file.read_sidecar(path, given, settings.notes, settings.name)
    settings.units = dict(given.units or {})
    table = nonmem_file.read_lines(path, given.ignore, settings.name, settings.notes)
    read = partial(_events, given)
    return Source({"events": table}, settings, read, "ID", about={"file": path.name, **about})


def _events(given: Arguments, read: Tables, settings: Settings) -> dict[str, Table]:
    people, doses, observations = nonmem.read_events(read["events"], given, settings)
    return {"patients": people, "doses": doses, "observations": observations}


def workbook(
    path: Path,
    names: Names,
    settings: Settings,
    sampling: Sequence[float] | None = None,
    about: Mapping[str, object] | None = None,
) -> Source:
    """The sheets of a workbook."""
    _refuse_no_file(path, settings.name)
    read = excel.tables(path, names, settings.name, settings.notes)
    told: dict[str, Any] = {"file": path.name, **(about or {})}
    return Source(read, settings, partial(_sheets, names), sampling=sampling, about=told)


def _sheets(names: Names, read: Tables, settings: Settings) -> dict[str, Table]:
    return excel.entries(read, names, settings)


def _refuse_no_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise DatasetError(f"Dataset {name!r}: no file {path}. {close_file(path)}")


def source_of(path: Path) -> Source:
    """What a path holds: a workbook, a table of events or a study folder."""
    if path.is_dir():
        return folder(path)
    settings = settings_of(path.stem, "day", "first cell infusion", None, None)
    if path.suffix.lower() in excel.SUFFIXES:
        return workbook(path, excel.names_of(), settings)
    return nonmem_table(path, Arguments(), settings, {})
