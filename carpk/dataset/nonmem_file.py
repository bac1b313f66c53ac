"""Event tables as files: reading lines and columns, writing a table and its metadata."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from carpk.dataset import units as unit_table
from carpk.dataset.cdisc import EVENT_COLUMNS
from carpk.dataset.dates import NONMEM as DATES
from carpk.dataset.doses import DOSE, RESET
from carpk.dataset.nonmem_names import (
    ALIASES,
    DERIVED,
    EVENTS,
    LOGARITHMS,
    Arguments,
)
from carpk.dataset.tables import (
    MISSING,
    Table,
    count,
    listing,
    nearest,
    number_of,
    read_text,
    text_of,
)
from carpk.dosing.regimen import SAME
from carpk.errors import DatasetError

LARGEST_LOG = 50.0  # of a level


def read_lines(path: Path, ignore: str | None, name: str, notes: list[str]) -> Table:
    """The table as text: separator found from the header, comment lines skipped and counted."""
    place = f"Dataset {name!r}: {path.name}"
    text = read_text(path, name)
    lines = [(i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    comments = {i for i, line in lines if ignore is not None and line.lstrip()[0] in "#@"}
    if lines and {"ID", "TIME"} <= set(re.split(r"[\s,;]+", lines[0][1].upper().lstrip("#@ "))):
        comments.discard(lines[0][0])  # Monolix allows '#ID' in the header
    lines = [(i, line) for i, line in lines if i not in comments]
    if not lines:
        raise DatasetError(f"{place} is empty. Give a header line and one line per event.")
    first, header_line = lines[0]
    separator = next((s for s in (",", ";", "\t") if s in header_line), None)
    header = _split(header_line, separator)
    if "" in header:
        raise DatasetError(
            f"{place}, row {first}: column {header.index('') + 1} has no name. Name or remove it."
        )
    records = [(i, _split(line, separator)) for i, line in lines[1:]]
    repeated = [i for i, record in records if record == header]
    records = [(i, record) for i, record in records if record != header]
    records, skipped = _skip_comments(records, ignore, place)
    for reason, rows in (
        (f"ignored (they start with '#', '@' or ignore={ignore!r})", [*comments, *skipped]),
        ("skipped as repetitions of the header", repeated),
    ):
        if rows:
            listed = ", ".join(map(str, sorted(rows)[:8])) + (", ..." if len(rows) > 8 else "")
            notes.append(f"{path.name}: {count(len(rows), 'line')} {reason}: {listed}.")
    for i, record in records:
        if len(record) != len(header):
            raise DatasetError(
                f"{place}, row {i}: {count(len(record), 'entry')} where the header names "
                f"{count(len(header), 'column')}. Write '.' for a missing entry; if the line is a "
                "comment, start it with '#'."
            )
    names = _column_names(header, f"{place}, row {first}")
    columns = {key: [record[j] for _, record in records] for j, key in enumerate(names)}
    table = Table(path.name, columns, [i for i, _ in records], name)
    return table if "DV" in table else _from_logarithms(table, header, notes)


def _from_logarithms(table: Table, header: Sequence[str], notes: list[str]) -> Table:
    """With DV from the column that holds its logarithms."""
    column = next(c for c in LOGARITHMS if c in table)
    logs = table.numbers(column, required=False)
    high = np.flatnonzero(logs > LARGEST_LOG)
    if high.size:
        table.fail(
            f"{column} holds logarithms, but {logs[high[0]]:g} is that of no level",
            "Name the column DV if it holds levels.",
            rows=high,
            column=column,
        )
    levels = [None if np.isnan(x) else float(LOGARITHMS[column](x)) for x in logs]
    shown = next(h for h in header if h.strip().upper() == column)
    notes.append(
        f"{table.label}: there is no DV; the logarithms in {shown} (base "
        f"{10 if '10' in column else 'e'}) were turned into levels. Limits (LLOQ, LIMIT) and "
        "SD are read as those of levels."
    )
    return table.with_columns(DV=levels)


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    if '"' not in line:
        cells = line.split(separator)
        plain = line.isascii() and " " not in line and "\t" not in line
        return cells if plain else [cell.strip() for cell in cells]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _skip_comments(
    records: list[tuple[int, list[str]]], ignore: str | None, place: str
) -> tuple[list[tuple[int, list[str]]], list[int]]:
    """Leave out lines that start with the ignore character, as NONMEM's IGNORE does."""
    if ignore is None or not records:
        return records, []
    if not (isinstance(ignore, str) and len(ignore) == 1):
        raise DatasetError(
            f"{place}: `ignore` must be one character ('@' for any letter) or None, but is "
            f"{ignore!r}."
        )

    def starts(record: list[str]) -> bool:
        start = record[0][:1]
        return start.isalpha() if ignore == "@" else start.upper() == ignore.upper() != ""

    # "C" or "C01" is a comment where subjects are numbered, but a subject where all labels are
    # words; where both readings are possible the user has to say.
    marked = [starts(record) for _, record in records]
    if not any(marked):
        return records, []
    flagged = [i for i, _ in compress(records, marked)]
    longer = [i for i, record in compress(records, marked) if len(record[0]) > 1]
    others = [record for (_, record), mark in zip(records, marked, strict=True) if not mark]
    numbered = all(number_of(r[0]) is not None for r in others)
    if ignore != "@" and not others and longer:
        flagged = [i for i in flagged if i not in longer]
    elif ignore != "@" and not numbered:
        raise DatasetError(
            f"{place}, row {flagged[0]}: the line starts with {ignore!r}, which marks comments, "
            "but could also be a subject's label, as other labels are words too. Pass "
            "ignore=None to read all lines, ignore='@' to skip every line that starts with a "
            "letter, or mark comments with '#'."
        )
    skipped = set(flagged)
    kept = [(i, record) for i, record in records if i not in skipped]
    if not kept:
        raise DatasetError(
            f"{place}: ignore={ignore!r} leaves no line of {len(records)}. Pass ignore=None if "
            "subjects have names that start so."
        )
    return kept, sorted(skipped)


def _column_names(header: Sequence[str], place: str) -> list[str]:
    """Event columns in upper case, covariates in lower case; a column given twice is refused."""
    upper = [name.lstrip("#@").strip().upper() for name in header]
    names = []
    for name in upper:
        alias = ALIASES.get(name, name)
        if name in EVENT_COLUMNS and EVENT_COLUMNS[name] not in upper:
            alias = EVENT_COLUMNS[name]
        known = alias in EVENTS and (alias == name or alias != "ID" or "ID" not in upper)
        names.append(alias if known else name if name in (*DERIVED, *DATES) else name.lower())
    for name, times in Counter(names).items():
        if times > 1:
            same = [h for h, n in zip(header, names, strict=True) if n == name]
            raise DatasetError(f"{place}: {listing(same)} mean the same column. Keep one of them.")
    for required in ("ID", "DV") if set(names) & {*DATES, "ADY"} else ("ID", "TIME", "DV"):
        if required == "DV" and "DV" not in names and "LOGDV" in names:
            raise DatasetError(
                f"{place}: there is no DV, but LOGDV, logarithms to a base that is not told. Name "
                "it LNDV (base e) or LOG10DV (base 10)."
            )
        if required not in names and not (required == "DV" and set(names) & set(LOGARITHMS)):
            close = nearest(required, [h for h in header if h.upper() not in EVENTS])
            hint = f"Rename `{close}` to {required}" if close else f"Add {required}"
            raise DatasetError(
                f"{place}: column {required} is missing (found: {listing(header)}). {hint}; a "
                "NONMEM table has at least ID, TIME, DV and AMT."
            )
    return names


def sidecar(path: Path) -> Path:
    """The metadata file of a written table: `data.info.json`."""
    return path.with_suffix(".info.json")


def read_sidecar(path: Path, arguments: Arguments, notes: list[str], name: str) -> Arguments:
    """Arguments that were not given, from the file that `write` left beside the table."""
    beside = sidecar(path)
    if not beside.is_file():
        return arguments
    try:
        content = json.loads(read_text(beside, name))
        saved = content["carpk"]["arguments"]
        given = {key: saved[key] for key in saved if key in Arguments.__dataclass_fields__}
    except (ValueError, KeyError, TypeError):
        notes.append(f"{beside.name} was not written by carpk and was not read.")
        return arguments
    default = Arguments()
    for key, others in (("analytes", ["units"]), ("products", ["infusion_cmt"])):
        if getattr(arguments, key) is not None:
            given = {k: v for k, v in given.items() if k not in others}
    used = {k: v for k, v in given.items() if getattr(arguments, k) == getattr(default, k)}
    used = {k: v for k, v in used.items() if v != getattr(default, k)}
    if used:
        notes.append(f"{beside.name} gave {', '.join(used)}.")
    return replace(arguments, **used)


class Written(TypedDict):
    """Arguments of `from_nonmem` that read a written table back."""

    analytes: dict[int, str] | None
    units: dict[str, str] | None
    products: dict[int, list[str]] | None
    infusion_cmt: list[int] | None
    covariates: list[str]
    ignore: None


def event_table(
    patients: pd.DataFrame,
    doses: pd.DataFrame,
    observations: pd.DataFrame,
    units: Mapping[str, str],
) -> tuple[str, Written]:
    """The text of an event table, and the arguments that read it back."""
    drugs = doses if "evid" not in doses else doses[doses["evid"] != RESET]
    pairs = dict.fromkeys(zip(drugs["product"], drugs["unit"], strict=True))
    products = {pair: i for i, pair in enumerate(pairs, start=1)}
    endpoints = {a: i for i, a in enumerate(dict.fromkeys(observations["analyte"]), start=1)}
    names = {c: c.upper() for c in patients.columns if c != "patient"}
    for column, upper in names.items():
        known = (*EVENTS, *DERIVED, *DATES, *ALIASES)
        if upper in known or [*names.values()].count(upper) > 1:
            raise DatasetError(
                f"Covariate `{column}` would be written as {upper}, which is taken. Rename it."
            )
    if doses["amount"].isna().any():
        lacks = doses[doses["amount"].isna()].iloc[0]
        raise DatasetError(
            f"The amount of {lacks['product']} that patient {lacks['patient']!r} was given on day "
            f"{lacks['time']:g} is not known, and a NONMEM table needs it. Give it, or leave the "
            "patient out."
        )
    events: dict[str, list[tuple[tuple[float, ...], dict[str, object]]]] = {
        p: [] for p in patients["patient"]
    }

    def place(row: Mapping[Hashable, Any], otherwise: int) -> tuple[float, ...]:
        """Time and order; observations before doses where the order of recording is not known."""
        record = row.get("record", np.nan)
        time = round(row["time"] / SAME) * SAME  # times that count as one are told apart by order
        return time, otherwise if np.isnan(record) else record, otherwise, row["time"]

    for row in observations.to_dict("records"):
        number = endpoints[row["analyte"]]
        event = {
            **{
                "TIME": row["time"],
                "EVID": 0,
                "MDV": 0,
                "AMT": ".",
                "RATE": ".",
                "DV": row["value"],
                "DVID": number,
            },
            **{"CMT": len(products) + number, "CENS": row["censored"]},
            **{"LIMIT": row["limit"], "LLOQ": row["lloq"], "SD": row.get("sd", np.nan)},
        }
        events[row["patient"]].append((place(row, 0), event))
    quiet = {"DV": ".", "DVID": ".", "CENS": 0, "LIMIT": ".", "LLOQ": "."}
    for row in doses.to_dict("records"):
        evid, rate = int(row.get("evid", DOSE)), float(row.get("rate", np.nan))
        if np.isnan(rate):
            rate = row["amount"] / row["duration"] if row["duration"] > 0 else 0
        given = 0 if evid == RESET else products[row["product"], row["unit"]]
        event = {"EVID": evid, "MDV": 1, "AMT": row["amount"], "RATE": rate, "CMT": given, **quiet}
        event["TIME"] = row["time"]
        steady = {"SS": int(row.get("ss", 0)), "II": row.get("ii", 0.0)}
        lasts = row["duration"] if np.isnan(row.get("rate", np.nan)) else 0.0
        events[row["patient"]].append((place(row, 1), {**event, **steady, "DUR": lasts}))
    more = ["SD"] * ("sd" in observations)
    more += [name for name in ("SS", "II") if name.lower() in doses]
    if any(event.get("DUR", 0) for mine in events.values() for _, event in mine):
        more.append("DUR")  # which holds whatever the bioavailability; of RATE alone the rate does
    order = [*("ID", "TIME", "DV", "AMT", "EVID", "MDV", "CMT", "RATE", "DVID", "CENS"), "LIMIT"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*order, "LLOQ", *more, *names.values()])
    for person in patients.to_dict("records"):
        label = person["patient"]
        other = {"TIME": 0.0, "EVID": 2, "MDV": 1, "AMT": ".", "RATE": ".", "CMT": ".", **quiet}
        mine = events[label] or [((0.0,), other)]
        for _, event in sorted(mine, key=lambda e: e[0]):
            cells = [label, *(event[c] for c in order[1:]), event["LLOQ"]]
            cells += [event.get(c, ".") for c in more]
            writer.writerow([_cell(c) for c in [*cells, *(person[c] for c in names)]])
    cell_rows = [i for (_, unit), i in products.items() if unit in unit_table.CELL_UNITS]
    arguments: Written = {
        "analytes": {i: analyte for analyte, i in endpoints.items()} or None,
        "units": {a: units[a] for a in endpoints} or None,
        "products": {i: list(pair) for pair, i in products.items()} or None,
        "infusion_cmt": cell_rows or None,
        "covariates": list(names),
        "ignore": None,
    }
    for text in (*patients["patient"], *endpoints):
        if text.lower() in MISSING or re.search(r"[\r\n]", text):
            raise DatasetError(f"The label {text!r} cannot be written to a table. Rename it.")
    return out.getvalue(), arguments


def sidecar_text(arguments: Written, about: Mapping[str, object]) -> str:
    columns = {
        "TIME": "days from the first cell infusion",
        "DV": "value in the unit of its DVID; the LLOQ where CENS is 1",
        "AMT": "amount in the unit of its CMT",
        "RATE": "AMT per day; 0 is a bolus",
        "CENS": "1 below the LLOQ, -1 above the upper limit",
        "LIMIT": "lower bound of the censored interval",
        "SD": "known standard deviation of DV's error, in the unit of DV",
    }
    content = {"carpk": {"arguments": arguments, "columns": columns, "about": about}}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def _cell(entry: object) -> str:
    if isinstance(entry, float | np.floating):
        return "." if np.isnan(entry) else repr(float(entry))
    return text_of(entry) or "."
