"""Errors and warnings: what, where, what was expected and what to do, in a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class CarpkError(ValueError):
    """Something a user gave cannot be used; the message says what, where and what to do."""


class Entry(NamedTuple):
    """Where a table holds what cannot be used: `cell` of a `sheet`, else `row` and `column`."""

    row: object
    column: str | None
    sheet: str
    cell: str
    owner: tuple[str, str] | None  # 'patient' or 'cohort', and its label


class DatasetError(CarpkError):
    """A table, file or study folder holds an entry that cannot be used as it stands.

    Attributes:
        table: label of the table, as the message has it; "" where it is not one table.
        entries: the offending ones; none where the table as a whole cannot be used.
        problem: what is wrong and what to do, without the place.
    """

    def __init__(
        self,
        message: str,
        *,
        table: str = "",
        entries: tuple[Entry, ...] = (),
        problem: str = "",
    ) -> None:
        super().__init__(message)
        self.table, self.entries, self.problem = table, entries, problem or message


class ModelError(CarpkError):
    """A structural model, parameter or output is unknown or wrongly defined."""


class RegimenError(CarpkError):
    """A dose, infusion or schedule is impossible or not supported."""


class FitError(CarpkError):
    """A population model and a data set do not fit together, or a saved fit cannot be read."""


class SaveError(CarpkError):
    """A file or folder cannot be written."""


class CarpkWarning(UserWarning):
    """Nothing is wrong with the input, but the answer needs a caveat."""


def nearest_of(word: str, known: Iterable[str]) -> str:
    """ "did you mean ...? Known are ..." """
    names = list(known)
    if not names:
        return "there is none to choose from."
    by_lower = {name.lower(): name for name in names}
    close = [
        by_lower[n] for n in difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    ]
    if not close:
        close = [n for n in names if word and (word.lower() in n.lower())][:3]
    hint = f"did you mean {' or '.join(map(repr, close))}? Known" if close else "known"
    return f"{hint} are {', '.join(names)}."
