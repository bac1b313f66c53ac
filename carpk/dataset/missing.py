"""Numbers and words that stand for a missing entry: declared, or asked about."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from carpk.dataset.tables import Table, count, each, listing, nearest, number_of, text_of
from carpk.dataset.validate import Settings
from carpk.errors import CarpkWarning, DatasetError

Missing: TypeAlias = Mapping[str, Sequence[float | str]] | Sequence[float | str]
"""What stands for a missing entry: in covariates and values alike, or by column."""

SENTINELS = (99.0, 999.0, 9999.0, 99999.0, -9.0, -99.0, -999.0, -9999.0, -99999.0)
OFTEN = 3  # times at which a sentinel within the range of the others is asked about
OTHERS = 2  # values that make a range
_EVERYWHERE = ""
_VALUE = "value"


def declarations(given: object, place: str) -> dict[str, tuple[float | str, ...]]:
    """Column in lower case -> entries that are missing; those of `""` are so in every column."""
    by_column = given if isinstance(given, Mapping) else {_EVERYWHERE: given or ()}
    found: dict[str, tuple[float | str, ...]] = {}
    for column, entries in by_column.items():
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            raise DatasetError(
                f"{place}: `missing` must list what stands for a missing entry, such as [-99] or "
                f"{{'weight': [-99]}}, but is {given!r}. Make it a list, or a list per column."
            )
        key = str(column).lower()
        found[_VALUE if key == "dv" else key] = tuple(entries)
    return found


def declared(table: Table, columns: Iterable[str], settings: Settings) -> Table:
    """With nothing where an entry of `columns` stands for a missing one, which a note counts."""
    changed: dict[str, Sequence[object]] = {}
    for column in columns:
        words = _words(column, settings)
        gone = each(partial(_is_any, words=words), table.columns[column]) if words else ()
        rows = [i for i, is_gone in enumerate(gone) if is_gone]
        if rows:
            entries = list(table.columns[column])
            told = listing(dict.fromkeys(text_of(entries[i]) or entries[i] for i in rows))
            for i in rows:
                entries[i] = None
            changed[column] = entries
            settings.notes.append(
                f"{table.label}: {count(len(rows), 'entry')} of `{column}` ({told}) "
                f"{'is' if len(rows) == 1 else 'are'} missing, as declared."
            )
    return table.with_columns(**changed)


def _words(column: str, settings: Settings) -> tuple[float | str, ...]:
    key = column.lower()
    own = settings.missing.get(_VALUE if key == "dv" else key)
    return settings.missing.get(_EVERYWHERE, ()) if own is None else own


def _is_any(entry: object, words: Iterable[float | str]) -> bool:
    number = number_of(entry)
    if number is None or np.isnan(number):
        return str(entry).strip() in {str(word).strip() for word in words}
    return any(number_of(word) == number for word in words)


def without_missing(read: Mapping[str, Table], settings: Settings) -> dict[str, Table]:
    """Tables whose declared entries are missing; samples without a value are left out."""
    found = dict(read)
    known = [_EVERYWHERE, _VALUE]
    for name in ("patients", "cohorts"):
        if name in found:
            covariates = [c for c in found[name].columns if c not in ("patient", "cohort")]
            known += [c.lower() for c in covariates]
            found[name] = declared(found[name], covariates, settings)
    _refuse_unknown(settings, known)
    if "observations" in found and _VALUE in found["observations"]:
        found["observations"] = _sampled(found["observations"], settings)
    return found


def _refuse_unknown(settings: Settings, known: Sequence[str]) -> None:
    for column in settings.missing:
        if column not in known:
            close = nearest(column, known[1:])
            raise DatasetError(
                f"Dataset {settings.name!r}: `missing` names the column `{column}`, but covariates "
                f"and values are {listing(known[1:])}. "
                + (f"Did you mean `{close}`?" if close else "Remove it.")
            )


def _sampled(table: Table, settings: Settings) -> Table:
    words = _words(_VALUE, settings)
    missing = each(partial(_is_any, words=words), table.columns[_VALUE]) if words else ()
    gone = [i for i, is_gone in enumerate(missing) if is_gone]
    if not gone:
        return table
    settings.notes.append(
        f"{table.label}: {count(len(gone), 'row')} left out, as the value is missing, as declared."
    )
    return table.take([i for i in range(len(table)) if i not in set(gone)])


# ---- what was not declared --------------------------------------------------------------------


def ask_about_sentinels(
    patients: pd.DataFrame, observations: pd.DataFrame, settings: Settings
) -> None:
    """Warn of 99, 999, -99 and their like that stand apart from the other entries, or repeat."""
    columns = {c: patients[c] for c in patients if pd.api.types.is_numeric_dtype(patients[c])}
    for column, entries in columns.items():
        if str(column).lower() not in settings.missing:
            _ask(entries.to_numpy(float), f"covariate `{column}`", str(column), settings)
    if _VALUE not in settings.missing:
        seen = observations[observations["censored"] == 0]
        for analyte, rows in seen.groupby("analyte", sort=False):
            _ask(rows["value"].to_numpy(float), f"values of {analyte}", _VALUE, settings)


def _ask(entries: np.ndarray, what: str, column: str, settings: Settings) -> None:
    counts = Counter(entries[~np.isnan(entries)].tolist())
    others = [entry for entry in counts if entry not in SENTINELS]
    if len(others) < OTHERS:
        return
    most = max(counts[entry] for entry in others)
    for number in sorted(set(counts) & set(SENTINELS)):
        outside = not min(others) <= number <= max(others)
        if outside or counts[number] >= max(OFTEN, 2 * most):
            warnings.warn(
                f"Dataset {settings.name!r}: {number:g} ({count(counts[number], 'time')}) among "
                f"the {what}, whose others run from {min(others):g} to {max(others):g}, may stand "
                f"for a missing one. If so, pass missing={{{column!r}: [{number:g}]}}; if it is "
                f"real, missing={{{column!r}: []}}.",
                CarpkWarning,
                stacklevel=6,
            )
