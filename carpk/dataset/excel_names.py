"""Names in laboratories' workbooks: sheets, columns, analytes, and units and days in headers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from carpk.dataset import units
from carpk.dataset.tables import number_of, text_of

SHEETS = {  # table -> names of its sheet
    "patients": "patients patient pts pt subjects subject demographics dm covariates baseline",
    "doses": "infusions infusion doses dose dosing treatment treatments administration ex",
    "observations": "samples sample observations observation measurements measurement results "
    "levels kinetics qpcr ddpcr flow pk pc",
    "cohorts": "cohorts cohort arms groups",
    "summaries": "summaries summary facts published",
}
_PATIENT = "patient|patient id|patient no|patient number|pat|pat id|pt|pt id|id|subject|subject id"
_PATIENT += "|subject no|subject number|subjid|usubjid|subj|participant|participant id|pid"
_DAYS = "time|day|days|study day|visit day|date|date time|datetime|time point|timepoint|hour|hours"
_DAYS += "|days after infusion|days post infusion|day post infusion|days since infusion|week|weeks"
_COHORT = "cohort|arm|group|dose level|treatment arm"
COLUMNS = {  # table -> carpk's column -> names of the column, in the spelling of `plain`
    "patients": {
        "patient": _PATIENT,
        "cohort": _COHORT,
        "weight": "weight|wt|bw|body weight",
        "bsa": "bsa|body surface area",
        "age": "age",
        "sex": "sex|gender",
        "height": "height|ht",
    },
    "doses": {
        "patient": _PATIENT,
        "time": f"{_DAYS}|infusion day|day of infusion|dosing day|dose day|infusion date|dose date",
        "product": "product|drug|medication|agent|treatment|given",
        "amount": "amount|dose|amt|dose given|cells infused|infused cells|cells|cell dose"
        "|car t dose|car+ cells|car+ t cells|car t cells|car t cells infused|number of cells",
        "unit": "unit|units|dose unit|dose units|doseu",
        "duration": "duration|infusion duration|length of infusion",
        "total": "total cells|total cells infused|total t cells|total cell dose|tnc",
        "transduced": "% car+|%car+|car+ %|car+|% car|% transduced|transduced|transduction"
        "|transduction efficiency|% transduction|% car positive|car positive|% car t",
        **{name: name for name in ("rate", "ss", "ii", "addl", "evid", "record")},
        "compartment": "compartment|cmt",
    },
    "observations": {
        "patient": _PATIENT,
        "time": f"{_DAYS}|sample day|sampling day|day of sample|sample date|sampling date"
        "|collection date",
        "analyte": "analyte|assay|test|parameter|param|marker|test name",
        "value": "value|result|results|test result|level|concentration|conc|dv",
        "unit": "unit|units|result unit|result units|dvu",
        "lloq": "lloq|loq|llq|lower limit of quantification|limit of quantification",
        "censored": "censored|cens",
        "limit": "limit",
        "sd": "sd|standard deviation",
        "record": "record",
    },
    "cohorts": {"cohort": _COHORT},
    "summaries": {},
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


ASIDE = _words(
    "comment|comments|remark|remarks|note|notes|sample id|sample no|barcode|tube|operator|visit"
    "|run|plate|s no|no|index"
)
"""Columns that say nothing which carpk uses; they are left out with a note."""
_CAR = _words(
    "car t|cart|car|car+|car t cell|car t cells|cart cells|car+ cells|car+ t cells|car t count"
    "|car positive t cells|car+ t"
)
_ANALYTES = {  # name in the spelling of `plain` -> carpk's
    word: name
    for name, words in {
        "transgene": "transgene|car transgene|transgene copies|car copies|car dna",
        "alc": "alc|lymphocytes|lymphocyte count|absolute lymphocyte count|lymphs",
        "il6": "il6|il 6|interleukin 6",
        "il15": "il15|il 15|interleukin 15",
        "cd3": "cd3|cd3+|t cells|cd3 count|cd3+ cells|cd3+ t cells",
        "wbc": "wbc|leukocytes|leucocytes|white blood cells",
    }.items()
    for word in _words(words)
}
_UNIT = re.compile(
    r"[%a-zµμ]{1,7}/[a-zµμ]{1,3}|kg|g|lbs?|m2|m²|cm|m|in|years?|yrs?|%.*|percent.*", re.IGNORECASE
)
_POWER = re.compile(r"(x\s*)?(10\s*\^?\s*\d+|1e\d+)(\s*/\s*(kg|m2|m²))?", re.IGNORECASE)
_LLOQ = re.compile(r"(?:ll?oq|llq)\s*[=:]?\s*(?P<number>[\d.]+(?:e[+-]?\d+)?)", re.IGNORECASE)
_DAY = re.compile(
    r"(?:(?:study\s*)?(?P<before>day|days|d|week|wk|w|hour|h)\s*)?(?P<number>[+-]?\d+(?:\.\d+)?)"
    r"\s*(?P<after>days?|d|weeks?|wks?|w|hours?|hrs?|h)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Names:
    """What the reader of a workbook says of its names.

    Attributes:
        sheets: table -> sheet.
        columns: column as the sheet names it -> carpk's.
        analytes: analyte as the workbook names it -> carpk's.
        analyte: the analyte of sheets that name none.
        ignore: columns that are not read.
    """

    sheets: Mapping[str, str]
    columns: Mapping[str, str]
    analytes: Mapping[str, str]
    analyte: str | None
    ignore: frozenset[str]


class Header(NamedTuple):
    """A column's name, and the unit and the LLOQ that stand beside it ("" and None if not)."""

    name: str
    unit: str
    lloq: float | None


def plain(text: str) -> str:
    """Lower case, with one blank for every run of blanks, points, slashes and the like."""
    return " ".join(re.sub(r"[\s_\-–./#:]+", " ", text.casefold()).split())


def spellings(table: str) -> dict[str, str]:
    """How columns of a table may be spelt -> carpk's column."""
    known = COLUMNS[table].items()
    return {word: column for column, words in known for word in words.split("|")}


def is_unit(text: str) -> bool:
    """Whether this reads as a unit of levels, doses, times or covariates."""
    known = units.measured(text) or units.dose(text) or units.time(text)
    return known is not None or bool(
        _UNIT.fullmatch(text.strip()) or _POWER.fullmatch(text.strip())
    )


def header(text: str) -> Header:
    """Name, unit and LLOQ of 'CAR-T (copies/µg, LLOQ 50)', 'ALC [10^9/L]' or 'IL-6 pg/mL'."""
    unit, lloq, name = "", None, text
    for group in re.findall(r"[(\[][^)\]]*[)\]]", text):
        parts = [part.strip() for part in re.split(r"[,;]", group[1:-1])]
        limits = [m for part in parts if (m := _LLOQ.fullmatch(part))]
        shown = [part for part in parts if is_unit(part)]
        if len(limits) + len(shown) == len(parts):
            name = name.replace(group, " ")
            unit = shown[0] if shown else unit
            lloq = number_of(limits[0]["number"]) if limits else lloq
    words = re.split(r",\s*|\s+", name.strip())
    for i in range(1, len(words)):
        rest = " ".join(words[i:])
        if not unit and (units.measured(rest) or _POWER.fullmatch(rest)):
            return Header(" ".join(words[:i]).strip(" ,"), rest, lloq)
    return Header(" ".join(name.split()).strip(" ,"), unit, lloq)


def analyte(name: str, unit: str, names: Names) -> str | None:
    """carpk's name of an analyte, its own where carpk has none; None where the unit must tell."""
    for given in (name, name.strip()):
        if given in names.analytes:
            return names.analytes[given]
    word = plain(name)
    if word in _CAR and name != "car_t":
        known = units.measured(unit)
        counted = unit.strip().startswith("%") or (known is not None and known[0] == "cells/µL")
        copies = known is not None and known[0] == "copies/µg"
        return "car_t" if counted else "transgene" if copies else None
    return _ANALYTES.get(word, name)


def is_analyte(name: str, names: Names) -> bool:
    """Whether a column of this name is known to hold levels."""
    return name in names.analytes or plain(name) in _CAR or plain(name) in _ANALYTES


def day_of(entry: object) -> float | None:
    """Days of 'D7', 'Day 14', 'd+28', 'week 4', '24 h' or 7; None where it is no time.

    'Month 3' is no time: months are not a fixed length.
    """
    found = _DAY.fullmatch(text_of(entry))
    if found is None or (found["before"] and found["after"]):
        return None
    known = units.time(found["before"] or found["after"] or "day")
    return None if known is None else float(found["number"]) * known[1]


def dose_unit(text: str) -> str:
    """The unit of a dose of cells: 'x10^6/kg' in a header is 'x10^6 cells/kg'."""
    if not _POWER.fullmatch(text.strip()):
        return text
    number, slash, per = text.partition("/")
    return f"{number.strip()} cells{slash}{per.strip()}"
