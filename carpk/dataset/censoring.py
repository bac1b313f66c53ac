"""Values as laboratories write them: '<50', 'BLQ', 'n.d.' below the LLOQ, '>1e6' above a limit."""

from collections import Counter
from typing import NoReturn

import numpy as np

from carpk.dataset.tables import Table, bound_of, count, flags_of, number_of, text_of
from carpk.dataset.validate import Settings, note_filled_lloq

SIDES = {1: "below the LLOQ", -1: "above an upper limit"}
"""Flag in `censored` -> what it says."""


def flagged(table: Table, settings: Settings) -> Table:
    """Bounds and words among the values as numbers, with their `censored` and `lloq`, noted.

    '<50' is below an LLOQ of 50. A word needs an LLOQ, of its row or of `settings`.
    """
    entries = table.columns.get("value", ())
    flags = {i: flag for i, flag in enumerate(flags_of(entries)) if flag}
    if not flags or "analyte" not in table:
        return table
    analytes, blank = table.texts("analyte", required=False), [None] * len(table)
    if "lloq" in table:
        table.numbers("lloq", required=False)
    columns = {
        "value": list(entries),
        "lloq": list(table.columns.get("lloq", blank)),
        "censored": list(table.columns.get("censored", [0] * len(table))),
    }
    filled: Counter[str] = Counter()
    for i, flag in flags.items():
        said = text_of(columns["censored"][i])
        if "censored" in table and said and number_of(said) != flag:
            _refuse_flag(table, i, flag, said)
        columns["censored"][i] = flag
        bound = bound_of(entries[i])
        known = number_of(columns["lloq"][i])
        if bound is None and (known is None or np.isnan(known)):
            known = settings.lloq_of(analytes[i], analytes)
            filled[analytes[i]] += 1
        columns["value"][i] = _limit(table, i, analytes[i], bound, known)
        if flag == 1:
            columns["lloq"][i] = columns["value"][i]
    for flag, side in SIDES.items():
        seen = Counter(text_of(entries[i]) for i in flags if flags[i] == flag)
        if seen:
            shown = ", ".join(f"{word!r} ({n})" for word, n in seen.most_common(5))
            more = f" and {len(seen) - 5} others" if len(seen) > 5 else ""
            settings.notes.append(
                f"{table.label}: {count(seen.total(), 'value')} read as {side} (censored = "
                f"{flag}): {shown}{more}."
            )
    note_filled_lloq(table, filled, analytes, settings)
    return table.with_columns(**columns)


def _refuse_flag(table: Table, row: int, flag: int, said: str) -> NoReturn:
    word = text_of(table.columns["value"][row])
    table.fail(
        f"{word!r} says {SIDES[flag]}, but censored is {said!r}",
        f"Write censored = {flag}, or leave the entry empty.",
        rows=[row],
        column="censored",
    )


def _limit(
    table: Table, row: int, analyte: str, bound: tuple[str, float] | None, lloq: float | None
) -> float:
    """The number that stands for a value beyond a limit."""
    word = text_of(table.columns["value"][row])
    if bound is None and (lloq is None or np.isnan(lloq)):
        table.fail(
            f"{word!r} says below the LLOQ, but no LLOQ of {analyte} is known",
            f"Write the limit, such as '<50', or give it in a column `lloq` or as "
            f"lloq={{{analyte!r}: number}}.",
            rows=[row],
            column="value",
        )
    if bound is None:
        assert lloq is not None
        return lloq
    sign, number = bound
    if sign == "<" and lloq is not None and not np.isnan(lloq) and lloq != number:
        table.fail(
            f"{word!r} is not below the LLOQ of its row, {lloq:g}",
            "Give one limit.",
            rows=[row],
            column="value",
        )
    return number
