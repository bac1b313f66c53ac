"""Labels of patients that may be two ways to write one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NoReturn

from carpk.dataset.tables import Table, each, listing, text_of

_DIGITS = re.compile(r"\d+")
_WHOLE = re.compile(r"\d+\.0*")


def refuse_look_alikes(tables: Iterable[Table], notes: list[str], column: str = "patient") -> None:
    """Refuse labels that differ by case, blanks inside, leading zeros or '.0' alone.

    Blanks around a label never tell patients apart; where they were removed, a note says so.
    """
    there = [table for table in tables if column in table]
    labels = [each(text_of, table.columns[column]) for table in there]
    padded: Counter[str] = Counter()
    for table in there:
        padded[table.label] += sum(each(_is_padded, table.columns[column]))
    spellings: dict[str, list[str]] = {}
    for label in dict.fromkeys(chain.from_iterable(labels)):
        spellings.setdefault(_alike(label), []).append(label)
    for written in spellings.values():
        if len(written) > 1:
            _refuse_second_spelling(written, there, labels, column)
    for label, n in padded.items():
        if n:
            notes.append(f"{label}: blanks around {n} labels of `{column}` were removed.")


def _is_padded(entry: object) -> bool:
    label = text_of(entry)
    return isinstance(entry, str) and bool(label) and entry != label


def _alike(label: str) -> str:
    """The label without what may be a slip in it."""
    whole = label.partition(".")[0] if _WHOLE.fullmatch(label) else label
    without_zeros = _DIGITS.sub(lambda digits: digits[0].lstrip("0") or "0", whole)
    return "".join(without_zeros.casefold().split())


def _refuse_second_spelling(
    written: Sequence[str], tables: Sequence[Table], labels: Sequence[Sequence[str]], column: str
) -> NoReturn:
    """Of labels that may be one, the first that is not the one written most often."""
    times = Counter(chain.from_iterable(labels))
    usual = max(written, key=times.__getitem__)
    odd = next(label for label in written if label != usual)

    def first(label: str) -> tuple[Table, int]:
        return next(
            (table, entries.index(label))
            for table, entries in zip(tables, labels, strict=True)
            if label in entries
        )

    (seen, seen_row), (table, row) = first(usual), first(odd)
    table.fail(
        f"{odd!r} may be another way to write {usual!r} ({seen.label}, {seen.at(seen_row)})",
        f"If they are one patient, write the label in one way ({listing([usual])}); if they are "
        f"two, give one a name that differs by more, such as {'B/' + odd!r}.",
        rows=[row],
        column=column,
    )
