"""Study folders: which files there are, and what `about.toml` says of them."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from carpk.dataset import tables
from carpk.dataset.tables import listing, nearest
from carpk.dataset.validate import Settings
from carpk.errors import DatasetError

FILES = ("patients.csv", "doses.csv", "observations.csv", "facts.csv", "cohorts.csv")
NUMBERS = ("time", "value", "low", "high", "spread", "n", "lloq")  # columns of facts.csv


def close_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either; check the path."
    close = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return f"Did you mean {path.parent / close}?" if close else "Check the path."


def refuse_no_folder(folder: Path) -> None:
    if folder.is_file():
        raise DatasetError(
            f"{folder} is a file, but a data set is a folder with about.toml, observations.csv and "
            "doses.csv or facts.csv. Read a NONMEM, Monolix or rxode2 table with "
            f"Dataset.from_nonmem({str(folder)!r})."
        )
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. {close_file(folder)}")


def read_about(folder: Path) -> dict[str, Any]:
    path = folder / "about.toml"
    if not path.is_file():
        raise DatasetError(
            f"Dataset {folder.name!r}: {folder} holds no about.toml. Write one that says at least "
            'where the data come from (citation = "...") and under which licence (licence = "...").'
        )
    try:
        return tomllib.loads(tables.read_text(path, folder.name))
    except tomllib.TOMLDecodeError as trouble:
        raise DatasetError(
            f"Dataset {folder.name!r}: about.toml is not valid TOML: {trouble}. Text goes in "
            "quotes, lists in [brackets]."
        ) from trouble


def check_unexpected_files(folder: Path, settings: Settings) -> None:
    """Refuse a CSV file that looks misspelt; note those that are not part of a data set."""
    there = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".csv")
    absent = [file for file in FILES if file not in there]
    for file in there:
        if file in FILES:
            continue
        close = nearest(file.removesuffix(".csv"), [name.removesuffix(".csv") for name in absent])
        if close:
            raise DatasetError(
                f"Dataset {settings.name!r}: {folder / file} is no file of a data set. Did you "
                f"mean {close}.csv? If not, move it elsewhere; known are {listing(FILES)}."
            )
        settings.notes.append(f"{file} was not read: it is no file of a data set.")


def as_given(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of published figures as it stands, unchecked but for its columns.

    Of `columns`, words are text, "" where missing; other columns are numbers where they hold
    nothing else. A file that does not exist has no rows.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    table = tables.read_csv(path, path.parent.name)
    table.require(columns, columns, covariates=True)
    found: dict[str, pd.Series] = {}
    for column, entries in table.columns.items():
        texts = [tables.text_of(entry) for entry in entries]
        if column in columns and column not in NUMBERS:
            found[column] = pd.Series(texts, dtype=str)
            continue
        words = pd.Series([text or None for text in texts], dtype=object)
        try:
            found[column] = pd.to_numeric(words)
        except ValueError:
            found[column] = words.astype(str).where(words.notna())
    return pd.DataFrame(found)


def provenance(about: Mapping[str, object]) -> str:
    what = about.get("citation") or about.get("source") or about.get("file")
    licence = about.get("licence") or about.get("license")
    simulated = "simulated; " if about.get("simulated") else ""
    return f"{simulated}{what or 'not stated'}" + (f" (licence: {licence})" if licence else "")
