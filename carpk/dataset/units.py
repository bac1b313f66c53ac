"""Units of measurements, doses and times, and the only conversions carpk makes: when data enter.

The table is short on purpose. What it does not hold is never guessed: a unit that differs from
carpk's own by an assay (copies/µg DNA against cells/µL) needs data, not a factor.
"""

import re
from functools import cache

KNOWN_ANALYTES = {
    "car_t": "cells/µL",
    "transgene": "copies/µg",
    "alc": "cells/µL",
    "il6": "pg/mL",
    "il15": "pg/mL",
}
"""Analytes whose unit carpk fixes: the shared outputs of all structural models."""

WHOLE = ("count", "yes/no")
"""Units of what is counted, and of yes (1) and no (0): 0 is an observation like any other."""

# Spelling (lower case, without blanks) -> carpk's unit and the factor that leads to it.
_MEASURED = {
    "copies/ug": ("copies/µg", 1.0),
    "copies/mcg": ("copies/µg", 1.0),
    "copies/ng": ("copies/µg", 1e3),
    "pg/ml": ("pg/mL", 1.0),
    "ng/l": ("pg/mL", 1.0),
    "ng/ml": ("pg/mL", 1e3),
    "ml": ("mL", 1.0),
    "cm3": ("mL", 1.0),
    "cm^3": ("mL", 1.0),
    "cc": ("mL", 1.0),
    "mm3": ("mL", 1e-3),
    "mm^3": ("mL", 1e-3),
}
# Counts per volume, as laboratories write them: K/µL, Thou/uL, x10E9/L, 10*9/L, /mm^3, G/L
_COUNT = re.compile(
    r"(?:(?P<word>k|thou|thousand)|(?:x?10(?:\^|\*\*?|e)?|1e)(?P<power>\d{1,2}))?(?:cells)?"
    r"/(?P<volume>ul|mcl|mm\^?3|cumm|ml|l)"
)
_PER_MICROLITRE = {"ml": 1e-3, "l": 1e-6}
_TIMES = {"day": 1.0, "hour": 1 / 24, "week": 7.0, "minute": 1 / 1440}
_TIME_SPELLINGS = {
    **{word: "day" for word in ("day", "days", "d")},
    **{word: "hour" for word in ("hour", "hours", "h", "hr", "hrs")},
    **{word: "week" for word in ("week", "weeks", "wk", "wks", "w")},
    **{word: "minute" for word in ("minute", "minutes", "min", "mins")},
}
DOSE_UNITS = ("cells", "cells/kg", "cells/m2", "mg", "mg/kg", "mg/m2")
CELL_UNITS = DOSE_UNITS[:3]
_DOSE_PREFIXES = {"": 1.0, "1e6": 1e6, "10^6": 1e6, "x10^6": 1e6}
_DRUG_PREFIXES = {"mg": 1.0, "g": 1e3, "ug": 1e-3}


@cache
def spelling(unit: str) -> str:
    """`unit` in lower case, without blanks, with `u` for both Unicode letters µ."""
    plain = unit.strip().lower().replace("µ", "u").replace("μ", "u")
    for fancy, simple in (("³", "3"), ("²", "2"), ("⁹", "^9"), ("⁶", "^6"), ("×", "x")):
        plain = plain.replace(fancy, simple)
    plain = re.sub(r"\s*(of\s+)?(genomic\s+)?g?dna$", "", plain)
    return re.sub(r"\s+", "", plain)


def measured(unit: str) -> tuple[str, float] | None:
    """carpk's unit and the factor that leads to it, or None where no such unit is known."""
    plain = "1e9/l" if unit.strip() == "G/L" else spelling(unit)  # g/L are grams
    count = _COUNT.fullmatch(plain)
    if count is None:
        return _MEASURED.get(plain)
    number = 1e3 if count["word"] else 10.0 ** int(count["power"] or 0)
    return "cells/µL", number * _PER_MICROLITRE.get(count["volume"], 1.0)


def between(unit: str, other: str) -> float | None:
    """The factor that leads from a unit to another one; None where none is known."""
    if unit == other:
        return 1.0
    one, two = measured(unit), measured(other)
    return one[1] / two[1] if one and two and one[0] == two[0] else None


def time(unit: str) -> tuple[str, float] | None:
    """carpk's name of a unit of time and its length in days; None where it is unknown."""
    name = _TIME_SPELLINGS.get(unit.strip().lower())
    return None if name is None else (name, _TIMES[name])


def area(unit: str) -> tuple[str, float, str] | None:
    """Split the unit of an area under the curve: (unit of the level, days, word for the time).

    Reads "day*copies/µg", "copies/µg x days", "cells·h/µL": the order does not matter.
    """
    plain = re.sub(r"\s*[·×∙*]\s*|\s+x\s+", "*", unit.strip())
    plain = re.sub(r"(?<=[A-Za-zµμ])-(?=(day|hour|week)s?\b)|(?<=[a-z])-(?=[a-z])", "*", plain)
    numerator, slash, denominator = plain.partition("/")
    if slash and "*" in denominator:  # copies/µg*day
        denominator, _, rest = denominator.partition("*")
        numerator = f"{rest}*{numerator}"
    factors = [word.strip() for word in numerator.split("*") if word.strip()]
    times = [word for word in factors if time(word)]
    rest_of = [word for word in factors if not time(word)]
    if len(times) != 1 or len(rest_of) != 1:
        return None
    known = time(times[0])
    assert known is not None
    level = f"{rest_of[0]}/{denominator.strip()}" if slash else rest_of[0]
    return level, known[1], known[0]


@cache
def dose(unit: str) -> tuple[str, float] | None:
    """carpk's unit of a dose and the factor that leads to it; None where it is unknown."""
    plain = spelling(unit)
    amount, slash, per = plain.partition("/")
    per = "m2" if per in ("m2", "m^2", "sqm") else per
    if per not in ("", "kg", "m2") or (slash and not per):
        return None
    if amount.endswith("cells"):
        factor, base = _DOSE_PREFIXES.get(amount.removesuffix("cells")), "cells"
    else:
        factor, base = _DRUG_PREFIXES.get(amount), "mg"
    if factor is None:
        return None
    return (f"{base}/{per}" if per else base), factor
