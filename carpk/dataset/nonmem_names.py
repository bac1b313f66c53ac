"""Meaning of compartments, endpoints and further columns of an event table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from scipy.special import exp10

from carpk.dataset import units as unit_table
from carpk.dataset.cdisc import BESIDE_EVENTS
from carpk.dataset.dates import NONMEM as DATES
from carpk.dataset.tables import Table, count, each, listing, nearest, number_of, text_of
from carpk.dataset.validate import Settings

ALIASES = {"YTYPE": "DVID", "TINF": "DUR", "USUBJID": "ID", "SUBJID": "ID"}
EVENTS = [
    *("ID", "TIME", "DV", "AMT", "EVID", "CMT", "ADM", "RATE", "DUR", "ADDL", "II", "SS"),
    *("MDV", "CENS", "LIMIT", "LLOQ", "ULOQ", "BLQ", "SD", "DVID", "DVU", "DOSEU"),
]
LOGARITHMS = {"LNDV": np.exp, "LDV": np.exp, "LOG10DV": exp10, "L10DV": exp10}
"""Columns with logarithms of levels, which are read where there is no DV -> what undoes them."""
DERIVED = ("OCC", "NTIME", "TAD", "C", *LOGARITHMS, "LOGDV", *BESIDE_EVENTS)
"""Columns that are computed from the others, are nominal or hold comments; left out with a note."""
SHOWN = {
    "patient": "ID",
    "time": "TIME",
    "value": "DV",
    "amount": "AMT",
    "duration": "DUR",
    "rate": "RATE",
    "ss": "SS",
    "ii": "II",
    "addl": "ADDL",
    "evid": "EVID",
    "censored": "CENS",
    "lloq": "LLOQ",
    "uloq": "ULOQ",
    "limit": "LIMIT",
    "sd": "SD",
    "analyte": "DVID",
    "product": "CMT",
    "unit": "units",
}
Value = TypeVar("Value")
Labelled: TypeAlias = Mapping[int, Value] | Mapping[str, Value]
"""Compartment or endpoint -> something."""
Labels: TypeAlias = int | str | list[int] | list[str] | tuple[int | str, ...] | set[int] | set[str]
"""A compartment, or several."""
Products: TypeAlias = Labelled[str | Sequence[str]] | str | tuple[str, str]
"""Compartment -> product, or (product, unit); or that of all doses."""

DEFAULT_ANALYTE, DEFAULT_PRODUCT = "car_t", "car_t"


@dataclass(frozen=True)
class Arguments:
    """Arguments beyond the table itself; saved beside a written table."""

    analytes: Labelled[str] | str | None = None
    units: Mapping[str, str] | None = None
    products: Products | None = None
    infusion_cmt: Labels | None = None
    covariates: Sequence[str] | Mapping[str, str] | None = None
    ignore: str | None = "C"


def key_of(entry: object) -> str:
    """A compartment or endpoint as a label: 1, 1.0, '1' and '01' are one."""
    number = number_of(entry)
    if number is not None and not np.isnan(number):
        return f"{number:g}"
    return text_of(entry)


def _mapping(given: object, what: str, example: str, table: Table) -> dict[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        table.fail(f"`{what}` must be a mapping such as {example}, but is {given!r}", "Correct it.")
    return {key_of(key): value for key, value in given.items()}


def dose_products(
    table: Table, rows: np.ndarray, arguments: Arguments, settings: Settings
) -> tuple[list[str], list[str]]:
    """Product and unit of each dose row, from ADM or CMT, the arguments and DOSEU."""
    notes, column = settings.notes, "ADM" if "ADM" in table else "CMT"
    receiving = arguments.infusion_cmt
    cells: Iterable[object] = [receiving]
    if receiving is None:
        cells = []
    elif isinstance(receiving, list | tuple | set):
        cells = receiving
    infusions = {key_of(entry) for entry in cells}
    keys = [""] * len(rows)
    if column in table:
        keys = each(key_of, [table.columns[column][i] for i in rows])
        for j, key in enumerate(keys):
            if not key:
                table.fail(
                    "the compartment of the dose is missing",
                    f"Give {column}.",
                    rows=[rows[j]],
                    column=column,
                )
    present = list(dict.fromkeys(keys))
    products = _products(arguments.products, present, column, table)
    for what, named in (("products", set(products)), ("infusion_cmt", infusions)):
        if strangers := sorted(named - set(present)):
            shown = listing(present) if column in table else f"no column {column}"
            table.fail(
                f"`{what}` names {column} {strangers[0]}, but the doses have {shown}",
                "Correct the argument.",
            )
    if len(present) > 1 and not infusions and not set(present) <= set(products):
        unnamed = [key for key in present if key not in products]
        table.fail(
            f"the doses go into several compartments ({column} {listing(present)}), and "
            f"{listing(unnamed)} is not named",
            "Pass infusion_cmt=<the one that receives cells> and name the others, such as "
            "products={1: 'car_t', 2: ('fludarabine', 'mg/m2')}.",
            rows=[rows[keys.index(unnamed[0])]],
            column=column,
        )
    names: dict[str, str] = {}
    stated: dict[str, str] = {}
    for key in present:
        entry = products.get(key)
        if isinstance(entry, list | tuple):
            if len(entry) != 2:
                shown = f"products[{key}]" if key else "products"
                table.fail(
                    f"{shown} must be a name or (name, unit), but is {entry!r}",
                    "Correct the argument.",
                )
            names[key], stated[key] = str(entry[0]), str(entry[1])
        elif entry is not None:
            names[key] = str(entry)
        elif len(present) == 1 or key in infusions:
            names[key] = DEFAULT_PRODUCT
            where = f" in {column} {key}" if key else ""
            notes.append(f"{table.label}: doses{where} were taken for the product 'car_t'.")
        else:
            table.fail(
                f"the product given into {column} {key} is unknown",
                f"Name it: products={{{key}: ('fludarabine', 'mg/m2')}}.",
                rows=[rows[keys.index(key)]],
                column=column,
            )
    units = []
    assumed: Counter[str] = Counter()
    named_units = {  # units={'fludarabine': 'mg/m2'}; a name that is also an analyte means that
        name: settings.units.pop(name)
        for name in set(names.values()) - _analytes(arguments)
        if unit_table.dose(settings.units.get(name, "")) is not None
    }
    for i, key in zip(rows, keys, strict=True):
        unit = text_of(table.columns["DOSEU"][i]) if "DOSEU" in table else ""
        unit = stated.get(key) or unit or named_units.get(names[key], "")
        if not unit:
            drug = (infusions and key not in infusions) or (not infusions and len(present) > 1)
            if drug and names[key] != DEFAULT_PRODUCT:
                table.fail(
                    f"the unit of the dose of {names[key]!r} is unknown",
                    f"Give it with the product, products={{{key}: ({names[key]!r}, 'mg/m2')}}, or "
                    "in a column DOSEU.",
                    rows=[i],
                    column=column,
                )
            unit = "cells"
            assumed[names[key]] += 1
        units.append(unit)
        known = unit_table.dose(unit)
        is_cells = known is not None and known[0] in unit_table.CELL_UNITS
        if infusions and known is not None and is_cells != (key in infusions):
            table.fail(
                f"{column} {key} is {'not ' if is_cells else ''}named in infusion_cmt, but its "
                f"doses are in {unit!r}",
                "Correct infusion_cmt or the unit.",
                rows=[i],
                column=column,
            )
    for name, n in assumed.items():
        notes.append(
            f"{table.label}: {count(n, 'dose')} of {name} without a unit taken "
            f"for 'cells'; for other units pass products={{1: ({name!r}, 'cells/kg')}}."
        )
    return [names[key] for key in keys], units


def _products(
    given: Products | None, present: list[str], column: str, table: Table
) -> dict[str, object]:
    """Compartment -> product of its doses, or (product, unit)."""
    if not isinstance(given, str | list | tuple):
        return _mapping(given, "products", "{1: 'car_t'}", table)
    if len(present) > 1:
        table.fail(
            f"one product is named ({given!r}), but the doses have {column} {listing(present)}",
            f"Name each: products={{{present[0]}: ..., {present[1]}: ...}}.",
        )
    return dict.fromkeys(present, given)


def _analytes(arguments: Arguments) -> set[str]:
    if isinstance(arguments.analytes, Mapping):
        return set(arguments.analytes.values())
    return {arguments.analytes or DEFAULT_ANALYTE}


def analyte_names(
    table: Table, keep: np.ndarray, arguments: Arguments, notes: list[str]
) -> list[str]:
    """Analyte of each observation: from DVID, else from CMT if the observations differ in it."""
    if isinstance(arguments.analytes, str):
        given: dict[str, object] = {"": arguments.analytes}
    else:
        given = _mapping(arguments.analytes, "analytes", "{1: 'car_t', 2: 'tumor'}", table)
    column = "DVID" if "DVID" in table else "CMT"
    keys = [""] * len(keep)
    if column in table:
        keys = each(key_of, [table.columns[column][i] for i in keep])
        if column == "DVID" and "" in keys and len(set(keys)) > 1:
            bad = [keep[j] for j, key in enumerate(keys) if not key]
            table.fail("DVID of the observation is missing", "Give it.", rows=bad, column="DVID")
    present = list(dict.fromkeys(keys))
    words = [key for key in present if key and number_of(key) is None]
    if not present:
        return []
    if isinstance(arguments.analytes, str) and len(present) > 1:
        table.fail(
            f"one analyte is named ({given['']!r}), but the observations have {column} "
            f"{listing(present)}",
            f"Name each: analytes={{{present[0]}: ..., {present[1]}: ...}}.",
        )
    if isinstance(arguments.analytes, str):
        return [arguments.analytes] * len(keep)
    if given:
        for key in present:
            if key not in given:
                table.fail(
                    f"{column} {key or '(missing)'} is not named in `analytes` ({listing(given)})",
                    f"Add it: analytes={{..., {key or 1}: 'tumor'}}.",
                    rows=[keep[keys.index(key)]],
                    column=column,
                )
        if strangers := [key for key in given if key not in present]:
            table.fail(
                f"`analytes` names {column} {strangers[0]}, but the observations have "
                f"{listing(present)}",
                "Correct the argument.",
            )
        return [str(given[key]) for key in keys]
    if column == "DVID" and words and len(words) == len(present):
        return keys
    if len(present) > 1:
        table.fail(
            f"the observations have several endpoints ({column} {listing(present)})",
            f"Name them: analytes={{{present[0] or 1}: 'car_t', {present[1] or 2}: 'tumor'}}.",
            column=column,
        )
    notes.append(
        f"{table.label}: the one endpoint was taken for {DEFAULT_ANALYTE!r}; for another pass "
        "analytes={1: 'transgene'}."
    )
    return [DEFAULT_ANALYTE] * len(keep)


def assume_units(table: Table, analytes: list[str], given: list[str], settings: Settings) -> None:
    """Units of known analytes assumed where neither DVU nor `units` gives them, with a note."""
    assumed: Counter[str] = Counter()
    for j, analyte in enumerate(analytes):
        own = unit_table.KNOWN_ANALYTES.get(analyte)
        if not given[j] and analyte not in settings.units and own is not None:
            given[j] = own
            assumed[analyte] += 1
    for analyte, n in assumed.items():
        own = unit_table.KNOWN_ANALYTES[analyte]
        settings.notes.append(
            f"{table.label}: {count(n, 'observation')} of {analyte} had no unit and "
            f"{'was' if n == 1 else 'were'} taken for {own}; for another pass "
            f"units={{{analyte!r}: ...}}."
        )


def read_patients(
    table: Table, ids: list[str], wanted: Sequence[str] | Mapping[str, str] | None, notes: list[str]
) -> Table:
    """One row per ID with its covariates: all other columns, which must not change within an ID."""
    found = [c for c in table.columns if c not in (*EVENTS, *DERIVED, *DATES, "patient")]
    derived = [c for c in table.columns if c in DERIVED]
    rules = dict.fromkeys(found, "constant")
    called = {column: column for column in found}
    if wanted is not None:
        if isinstance(wanted, str):
            wanted = [wanted]
        given = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, "constant")
        asked = [c for c in derived if c.lower() in {str(key).lower() for key in given}]
        table = table.with_columns(**{c.lower(): table.columns[c] for c in asked})
        derived = [c for c in derived if c not in asked]
        found += [c.lower() for c in asked]
        rules = {}
        for key, rule in given.items():
            if str(key).lower() not in found:
                close = nearest(str(key), found)
                table.fail(
                    f"covariate `{key}` is no column of the table; others than NONMEM's are "
                    f"{listing(found)}",
                    f"Did you mean `{close}`?" if close else "Correct `covariates`.",
                )
            if rule not in ("constant", "first"):
                table.fail(
                    f"covariates[{key!r}] must be 'constant' or 'first', but is {rule!r}",
                    "Use 'first' to keep each patient's first value.",
                )
            rules[str(key).lower()] = rule
            if str(key).lower() != "cohort":
                called[str(key).lower()] = str(key)
        derived += [c for c in found if c not in rules]
    if derived:
        notes.append(f"{table.label}: columns left out: {listing(derived)}.")
    starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
    ends = [*starts[1:], len(ids)]
    columns: dict[str, Sequence[object]] = {"patient": [ids[i] for i in starts]}
    for column, rule in rules.items():
        columns[called[column]] = _one_value_each(
            table, column, rule, list(zip(starts, ends, strict=True)), notes
        )
    return Table(table.label, columns, [table.rows[i] for i in starts], table.name, SHOWN)


def _one_value_each(
    table: Table, column: str, rule: str, spans: list[tuple[int, int]], notes: list[str]
) -> list[object]:
    entries, chosen = table.columns[column], []
    texts, keys = each(text_of, entries), each(key_of, entries)
    gaps = varied = 0
    for start, end in spans:
        there = [i for i in range(start, end) if texts[i] or entries[i] == "None"]
        gaps += bool(there) and len(there) < end - start
        other = [i for i in there if keys[i] != keys[there[0]]]
        if other and rule == "constant":
            table.fail(
                f"covariate `{column}` changes from {text_of(entries[there[0]])} to "
                f"{text_of(entries[other[0]])} within the patient; covariates that vary over time "
                "are not supported",
                f"Keep the first value with covariates={{'{column}': 'first', ...}}, leave the "
                "column out by listing the others in `covariates`, or make it an analyte.",
                rows=[other[0]],
                column=column,
            )
        varied += bool(other)
        chosen.append(entries[there[0]] if there else None)
    if gaps:
        notes.append(
            f"{table.label}: `{column}` is given on some rows only of {count(gaps, 'patient')}; "
            "the value given was used."
        )
    if varied:
        notes.append(
            f"{table.label}: `{column}` changes over time in {count(varied, 'patient')}; the first "
            "value was kept, as asked."
        )
    return chosen
