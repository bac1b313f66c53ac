"""Labels of patients that may be two ways to write one."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from carpk.dataset.tables import Table, each, listing, text_of

_DIGITS = re.compile(r"\d+")
_WHOLE = re.compile(r"\d+\.0*")


@dataclass
class _Spelling:
    """Where a label is written first, and how often it is in all tables."""

    table: Table
    row: int
    times: int = 0


def refuse_look_alikes(tables: Iterable[Table], notes: list[str], column: str = "patient") -> None:
    """Refuse labels that differ by case, blanks inside, leading zeros or '.0' alone.

    Blanks around a label never tell patients apart; where they were removed, a note says so.
    """
    found: dict[str, dict[str, _Spelling]] = {}
    padded: Counter[str] = Counter()
    for table in tables:
        entries = table.columns.get(column, ())
        padded[table.label] += sum(each(_is_padded, entries))
        labels = each(text_of, entries)
        first = {label: row for row, label in reversed([*enumerate(labels)])}
        for label, times in Counter(labels).items():
            written = found.setdefault(_alike(label), {})
            written.setdefault(label, _Spelling(table, first[label])).times += times
    for written in found.values():
        _refuse_second_spelling(written, column)
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


def _refuse_second_spelling(written: Mapping[str, _Spelling], column: str) -> None:
    if len(written) == 1:
        return
    usual = max(written, key=lambda label: written[label].times)
    odd = next(label for label in written if label != usual)
    seen = written[usual]
    written[odd].table.fail(
        f"{odd!r} may be another way to write {usual!r} ({seen.table.label}, "
        f"{seen.table.at(seen.row)})",
        f"If they are one patient, write the label in one way ({listing([usual])}); if they are "
        f"two, give one a name that differs by more, such as {'B/' + odd!r}.",
        rows=[written[odd].row],
        column=column,
    )
