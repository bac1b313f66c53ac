"""Labels of patients that may be two ways to write one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from carpk.dataset.tables import Table, listing, text_of

_DIGITS = re.compile(r"\d+")
_WHOLE = re.compile(r"\d+\.0*")


def refuse_look_alikes(tables: Iterable[Table], notes: list[str], column: str = "patient") -> None:
    """Refuse labels that differ by case, blanks inside, leading zeros or '.0' alone.

    Blanks around a label never tell patients apart; where they were removed, a note says so.
    """
    found: dict[str, list[tuple[str, Table, int]]] = {}
    padded: Counter[str] = Counter()
    for table in tables:
        for row, entry in enumerate(table.columns.get(column, ())):
            label = text_of(entry)
            padded[table.label] += isinstance(entry, str) and bool(label) and entry != label
            found.setdefault(_alike(label), []).append((label, table, row))
    for written in found.values():
        _refuse_second_spelling(written, column)
    for label, n in padded.items():
        if n:
            notes.append(f"{label}: blanks around {n} labels of `{column}` were removed.")


def _alike(label: str) -> str:
    """The label without what may be a slip in it."""
    whole = label.partition(".")[0] if _WHOLE.fullmatch(label) else label
    without_zeros = _DIGITS.sub(lambda digits: digits[0].lstrip("0") or "0", whole)
    return "".join(without_zeros.casefold().split())


def _refuse_second_spelling(written: Sequence[tuple[str, Table, int]], column: str) -> None:
    spellings = Counter(label for label, _, _ in written)
    if len(spellings) == 1:
        return
    usual, *others = (label for label, _ in spellings.most_common())
    odd, table, row = next(each for each in written if each[0] in others)
    _, other, place = next(each for each in written if each[0] == usual)
    table.fail(
        f"{odd!r} may be another way to write {usual!r} ({other.label}, {other.at(place)})",
        f"If they are one patient, write the label in one way ({listing([usual])}); if they are "
        f"two, give one a name that differs by more, such as {'B/' + odd!r}.",
        rows=[row],
        column=column,
    )
