"""Columns of CDISC data sets by carpk's names: SDTM (DM, EX, PC, LB, CP) and ADaM (ADPC, ADPPK).

A study day (--DY, ADY) has no day 0: day 1 is that of the first dose, day -1 the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from carpk.dataset.doses import OPTIONAL, REQUIRED
from carpk.dataset.tables import Table, count, flag_of, listing, text_of
from carpk.dataset.validate import MAY_SAY, OBSERVATIONS, Settings

STUDY_DAYS = ("ADY", "PCDY", "LBDY", "CPDY", "EXSTDY", "EXDY")
_SUBJECTS = {"USUBJID": "patient", "SUBJID": "patient"}
_DOMAINS = ("PC", "LB", "CP")
_FINDINGS = {  # of a domain, whose two letters stand before
    "TESTCD": "analyte",
    "STRESN": "value",
    "STRESU": "unit",
    "LLOQ": "lloq",
    "DTC": "time",
    "DY": "time",
}
_ANALYSIS = {
    "PARAMCD": "analyte",
    "AVAL": "value",
    "AVALU": "unit",
    "ALLOQ": "lloq",
    "AFRLT": "time",
    "ADY": "time",
    "BLQFN": "censored",
}
NAMES = {  # where two columns say one thing, the first that holds anything is read
    "patients": _SUBJECTS,
    "doses": {
        **_SUBJECTS,
        **{"EXTRT": "product", "EXDOSE": "amount", "EXDOSU": "unit"},
        **{"EXSTDTC": "time", "EXSTDY": "time", "EXDY": "time", "ADY": "time"},
    },
    "observations": {
        **_SUBJECTS,
        **_ANALYSIS,
        **{domain + name: own for domain in _DOMAINS for name, own in _FINDINGS.items()},
    },
}
_OWN = {"doses": [*REQUIRED, *OPTIONAL, "date"], "observations": [*OBSERVATIONS, *MAY_SAY, "date"]}
EVENT_COLUMNS = {
    "AFRLT": "TIME",
    "AVAL": "DV",
    "AVALU": "DVU",
    "ALLOQ": "LLOQ",
    "BLQFN": "BLQ",
    "PARAMCD": "DVID",
}
"""Columns of ADPPK -> NONMEM's, which are read instead where they are there."""
BESIDE_EVENTS = (*EVENT_COLUMNS, "ADY", "NFRLT", "APRLT", "NPRLT", "DOSEA", "BLQFL")
"""Columns of ADPPK that say again, or nominally, what others say."""


def in_own_words(read: Mapping[str, Table], settings: Settings) -> dict[str, Table]:
    """Tables with CDISC's columns under carpk's names; other columns are left out with a note."""
    return {key: _renamed(table, key, settings) for key, table in read.items()}


def _renamed(table: Table, kind: str, settings: Settings) -> Table:
    upper = {column.upper(): column for column in table.columns}
    if not set(upper) & {*_SUBJECTS, *STUDY_DAYS} or kind not in NAMES:
        return table
    chosen: dict[str, str] = {}
    for theirs, own in NAMES[kind].items():
        there = theirs in upper and own not in table and own not in chosen
        if there and any(text_of(entry) for entry in table.columns[upper[theirs]]):
            chosen[own] = upper[theirs]
    if kind == "observations":
        table = _measured(table, upper, chosen, settings)
    kept = [c for c in table.columns if c in _OWN.get(kind, table.columns)]
    kept = [c for c in kept if c not in chosen.values()]
    columns = {c: table.columns[c] for c in kept}
    columns |= {own: table.columns[column] for own, column in chosen.items()}
    _say(table, chosen, kept, settings)
    renamed = replace(table, columns=columns, shown={**table.shown, **chosen})
    if chosen.get("time", "").upper() in STUDY_DAYS:
        return renamed.with_columns(time=from_study_days(renamed, "time", settings))
    return renamed


def _say(table: Table, chosen: Mapping[str, str], kept: Sequence[str], settings: Settings) -> None:
    read = listing(f"{column} ({own})" for own, column in chosen.items())
    out = [c for c in table.columns if c not in kept and c not in chosen.values()]
    rest = f"; columns left out: {listing(out)}" if out else ""
    settings.notes.append(f"{table.label}: read as CDISC's: {read}{rest}.")


def _measured(
    table: Table, upper: Mapping[str, str], chosen: dict[str, str], settings: Settings
) -> Table:
    """Samples that were taken, with those below the limit flagged, whose result is a word."""
    domain = next((d for d in _DOMAINS if f"{d}TESTCD" in upper), "")
    if f"{domain}STAT" in upper and domain:
        done = [not text_of(entry) for entry in table.columns[upper[f"{domain}STAT"]]]
        if not all(done):
            settings.notes.append(
                f"{table.label}: {count(done.count(False), 'row')} left out, not done "
                f"({domain}STAT)."
            )
            table = table.take([i for i, was in enumerate(done) if was])
    words = upper.get(f"{domain}STRESC")
    if not domain or words is None or "value" not in chosen or "lloq" not in chosen:
        return table
    return _with_flags(table, words, chosen, settings)


def _with_flags(table: Table, words: str, chosen: dict[str, str], settings: Settings) -> Table:
    values, limits = list(table.columns[chosen["value"]]), table.columns[chosen["lloq"]]
    below = [
        not text_of(value) and flag_of(word) == 1
        for value, word in zip(values, table.columns[words], strict=True)
    ]
    flagged = [limit if low else v for v, limit, low in zip(values, limits, below, strict=True)]
    if any(below):
        settings.notes.append(
            f"{table.label}: {count(sum(below), 'row')} with a limit or a word in {words} and no "
            f"{chosen['value']} read as below the LLOQ."
        )
    chosen["censored"] = "censored"
    changed: dict[str, Sequence[object]] = {chosen["value"]: flagged}
    return table.with_columns(**changed, censored=[int(low) for low in below])


def from_study_days(table: Table, column: str, settings: Settings) -> list[float]:
    """Study days, which know no day 0, as days since the day 1."""
    days = table.numbers(column)
    zero = np.flatnonzero(days == 0)
    if zero.size:
        table.fail(
            "a study day is 0, but CDISC's go from -1 to 1",
            "Correct it, or name the column `time` (in a NONMEM table TIME) if day 0 is the first.",
            rows=zero,
            column=column,
        )
    shown = table.shown.get(column, column)
    settings.notes.append(
        f"{table.label}: the study days of {shown}, which know no day 0, became days since day 1."
    )
    found: list[float] = np.where(days > 0, days - 1, days).tolist()
    return found
