"""Parameters of a table: their units and terms of CDISC (PKPARMCD and PKPARM, C85839, C85493)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Term(NamedTuple):
    """One parameter; FOLDX, DBLTIME, TABOVE, TBELOW and TRECOV are carpk's own, not CDISC's."""

    unit: str  # with {c} for the concentration's, {d} for the dose's and {v} for a volume's
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

DRUGS = {
    "C0": Term("{c}", "C0", "Initial Conc"),
    "AUCPBEO": Term("%", "AUCPBEO", "AUC %Back Extrapolation Obs"),
    "AUCPBEP": Term("%", "AUCPBEP", "AUC %Back Extrapolation Pred"),
    "CLO": Term("{v}/day", "CLO", "Total CL Obs"),
    "CLFO": Term("{v}/day", "CLFO", "Total CL Obs by F"),
    "VZO": Term("{v}", "VZO", "Vz Obs"),
    "VZFO": Term("{v}", "VZFO", "Vz Obs by F"),
    "MRTIVIFO": Term("day", "MRTIVIFO", "MRT Intravasc Infinity Obs"),
    "MRTEVIFO": Term("day", "MRTEVIFO", "MRT Extravasc Infinity Obs"),
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
    return (PARAMETERS | DRUGS | RESPONSES).get(str(name))


def units_of(names: Iterable[str], concentration: str, dose: str) -> dict[str, str]:
    """Column -> unit; "L" and "L/day" where the dose is in mg and the concentration in mg/L."""
    volume = "L" if concentration == f"{dose}/L" else f"({dose})/({concentration})"
    known = {name: term(name) for name in names}
    units = {n: found.unit for n, found in known.items() if found is not None}
    return {n: u.format(c=concentration, d=dose, v=volume) for n, u in units.items()}
