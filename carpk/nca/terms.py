"""Parameters of a table: their units and terms of CDISC (PKPARMCD and PKPARM, C85839, C85493)."""

from __future__ import annotations

import re
from typing import NamedTuple


class Term(NamedTuple):
    """One parameter; FOLDX, DBLTIME, TABOVE, TBELOW and TRECOV are carpk's own, not CDISC's."""

    unit: str  # with {c} for the concentration's and {d} for the dose's
    code: str  # PPTESTCD
    test: str  # PPTEST
    begin: str = ""  # PPSTINT
    end: str = ""  # PPENTINT


PARAMETERS = {
    "CMAX": Term("{c}", "CMAX", "Max Conc"),
    "TMAX": Term("day", "TMAX", "Time of CMAX"),
    "CLST": Term("{c}", "CLST", "Last Nonzero Conc"),
    "TLST": Term("day", "TLST", "Time of Last Nonzero Conc"),
    "AUCLST": Term("day*{c}", "AUCLST", "AUC to Last Nonzero Conc"),
    "AUCIFO": Term("day*{c}", "AUCIFO", "AUC Infinity Obs"),
    "AUCPEO": Term("%", "AUCPEO", "AUC %Extrapolation Obs"),
    "AUCIFP": Term("day*{c}", "AUCIFP", "AUC Infinity Pred"),
    "AUCPEP": Term("%", "AUCPEP", "AUC %Extrapolation Pred"),
    "LAMZ": Term("1/day", "LAMZ", "Lambda z"),
    "LAMZHL": Term("day", "LAMZHL", "Half-Life Lambda z"),
    "LAMZNPT": Term("1", "LAMZNPT", "Number of Points for Lambda z"),
    "LAMZLL": Term("day", "LAMZLL", "Lambda z Lower Limit"),
    "LAMZUL": Term("day", "LAMZUL", "Lambda z Upper Limit"),
    "LAMZSPN": Term("1", "LAMZSPN", "Lambda z Span"),
    "R2ADJ": Term("1", "R2ADJ", "R Squared Adjusted"),
    "CMAXD": Term("{c}/({d})", "CMAXD", "Max Conc Norm by Dose"),
    "AUCLSTD": Term("day*{c}/({d})", "AUCLSTD", "AUC to Last Nonzero Conc Norm by Dose"),
    "AUCIFOD": Term("day*{c}/({d})", "AUCIFOD", "AUC Infinity Obs Norm by Dose"),
    "FOLDX": Term("1", "FOLDX", "Fold Expansion"),
    "DBLTIME": Term("day", "DBLTIME", "Doubling Time to CMAX"),
    "TABOVE": Term("day", "TABOVE", "Time Above LLOQ"),
}

RESPONSES = {  # of counts and cytokines; BASE, CHG and R2BASE as in ADaM
    "BASE": Term("{c}", "BASE", "Baseline"),
    "CMIN": Term("{c}", "CMIN", "Min Conc"),
    "TMIN": Term("day", "TMIN", "Time of CMIN Observation"),
    "TBELOW": Term("day", "TBELOW", "Time Below Threshold"),
    "TRECOV": Term("day", "TRECOV", "Time of Recovery"),
    "CHG": Term("{c}", "CHG", "Change from Baseline"),
    "R2BASE": Term("1", "R2BASE", "Ratio to Baseline"),
}

Interval = tuple[float, float]  # first and last day since the infusion


def area_name(interval: Interval) -> str:
    """Column of an area between two days, such as "AUC0_28D"."""
    return "AUC{:g}_{:g}D".format(*interval)


def interval_of(name: object) -> Interval | None:
    """The two days of a column such as "AUC0_28D"; None of any other."""
    found = re.fullmatch(r"AUC([\d.e+-]+)_([\d.e+-]+)D", str(name))
    return None if found is None else (float(found[1]), float(found[2]))


def term(name: object) -> Term | None:
    """What is known of a column; None where it is no parameter."""
    interval = interval_of(name)
    if interval is not None:
        begin, end = (f"P{day:g}D" for day in interval)
        return Term("day*{c}", "AUCINT", "AUC from T1 to T2", begin, end)
    return (PARAMETERS | RESPONSES).get(str(name))
