"""What leaves a table: statistics as a paper prints them, the CDISC PP domain, files."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carpk import _files
from carpk._tables import as_frame, records
from carpk.errors import CarpkError
from carpk.nca import reasons
from carpk.nca.terms import term

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = ("n", "mean", "sd", "geometric_mean", "geometric_cv_percent", "median", "q1", "q3")


def summary(
    table: pd.DataFrame,
    by: str | Sequence[str] | None = None,
    parameters: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Statistics of a `table`, as a paper prints them: a row per group and parameter.

    Columns: PPTESTCD (of CDISC: AUC0_28D is an AUCINT), unit, n (values that are not missing),
    mean, sd, geometric_mean, geometric_cv_percent (100 sqrt(exp(variance of ln) - 1)), median, q1,
    q3, min, max. Geometric ones are missing where any value is 0, as CMAX of a patient without
    expansion. `export` writes it.

    Args:
        table: what `table`, `nadir` or `change` returned; with several infusions each counts for
            itself: take `table[table.infusion == 1]`, or `by="infusion"`.
        by: one or more of its columns, such as "cohort".
        parameters: the columns to summarize; all unless given.
    """
    units = table.attrs.get("units", {})
    names = [by] if isinstance(by, str) else list(by or ())
    wanted = list(parameters or (name for name in table if term(name)))
    for name in [*names, *wanted]:
        if name not in table:
            raise CarpkError(
                f"nca.summary: the table has no column {name!r}; it has "
                f"{', '.join(map(str, table.columns))}."
            )
    groups = table.groupby(names, sort=False, dropna=False) if names else [((), table)]
    rows = []
    for key, group in groups:
        for name in wanted:
            x = group[name].dropna().to_numpy(float)
            known = term(name)
            code = known.code if known else ""
            rows.append((*key, name, code, units.get(name, ""), *_statistics(x)))
    columns = [*names, "parameter", "PPTESTCD", "unit", *SUMMARY, "min", "max"]
    return as_frame(rows, columns).set_index([*names, "parameter"])


def _statistics(x: np.ndarray) -> tuple[float, ...]:
    """Those of `SUMMARY`, least and largest; missing where there is no value."""
    if not x.size:
        return (0, *[np.nan] * (len(SUMMARY) + 1))
    several = x.size > 1
    log = np.log(x) if (x > 0).all() else np.full(x.size, np.nan)
    spread = 100 * np.sqrt(np.expm1(log.var(ddof=1))) if several else np.nan
    quartiles = np.quantile(x, [0.5, 0.25, 0.75])
    sd = x.std(ddof=1) if several else np.nan
    return (x.size, x.mean(), sd, np.exp(log.mean()), spread, *quartiles, x.min(), x.max())


def pp_domain(table: pd.DataFrame) -> pd.DataFrame:
    """A `table` in the long form of the CDISC PP domain: one row per parameter.

    Results are text in PPORRES and numbers in PPSTRESN; a missing one has PPSTAT "NOT DONE" and its
    reason in PPREASND. PPGRPID counts the infusions of a patient. PPANMETH holds method and BLQ
    rule, and where there are such the extrapolation of this area, the samples excluded from the
    curve and the rules of acceptance that its terminal phase fails. AUC0_28D becomes AUCINT from
    P0D to P28D. FOLDX, DBLTIME and TABOVE are not CDISC terms and need a place in the study's own
    codelist.
    """
    units = table.attrs.get("units")
    if units is None:
        raise CarpkError(
            "The units of this table are lost: pass what `carpk.nca.table` returned, or set "
            '`.attrs["units"]` again from it (merging and concatenating tables drops it).'
        )
    names = [str(name) for name in table if term(name)]
    rows = [_result(row, name, units) for row in records(table) for name in names]
    long = as_frame(rows, PP)
    long["PPSEQ"] = long.groupby("USUBJID").cumcount() + 1
    return long


PP = (
    *("USUBJID", "PPSEQ", "PPGRPID", "PPCAT", "PPTESTCD", "PPTEST", "PPORRES", "PPORRESU"),
    *("PPSTRESN", "PPSTAT", "PPREASND", "PPSTINT", "PPENTINT", "PPANMETH"),
)


def _result(row: Mapping[str, Any], name: str, units: Mapping[str, str]) -> dict[str, object]:
    """One row of the PP domain."""
    known, why = term(name), reasons.read(str(row["PPREASND"])).get(name, "")
    assert known is not None
    value, done = float(row[name]), not why
    return {
        "USUBJID": row["patient"],
        "PPGRPID": f"infusion {row['infusion']}",
        "PPCAT": row["analyte"],
        "PPTESTCD": known.code,
        "PPTEST": known.test,
        "PPORRES": f"{value:.10g}" if done else "",
        "PPORRESU": units[name] if done and units[name] != "1" else "",
        "PPSTRESN": value if done else np.nan,
        "PPSTAT": "" if done else "NOT DONE",
        "PPREASND": why,
        "PPSTINT": known.begin,
        "PPENTINT": known.end,
        "PPANMETH": _method(row, name),
    }


def _method(row: Mapping[str, Any], name: str) -> str:
    said = [row["METHOD"], row["BLQRULE"], reasons.read(row.get("EXTRAP", "")).get(name, "")]
    said.append(f"over {row['FOLDBASE']}" if name == "FOLDX" and row["FOLDBASE"] else "")
    said.append(f"baseline: {row['BASIS']}" if row.get("BASIS") else "")
    said.append(f"samples excluded: {row['NCAXRS']}" if row.get("NCAXRS") else "")
    flagged = name in reasons.TERMINAL and row["FLAG"]
    said.append(f"not accepted: {row['FLAG']}" if flagged else "")
    return "; ".join(part for part in said if part)


WRITERS = {".csv": ("", ""), ".tex": ("jinja2", "latex"), ".xlsx": ("openpyxl", "excel")}
"""Suffix -> package that pandas needs, and the extra of carpk that has it."""


def export(table: pd.DataFrame, path: str | os.PathLike[str], *, digits: int = 3) -> Path:
    """Write a table of this module as CSV, LaTeX or Excel, by the suffix of `path`.

    CSV holds all digits, Excel 15, LaTeX (with the rules of its package booktabs) `digits`
    significant ones. Excel and LaTeX have the unit beside the name of a column.

    Raises:
        CarpkError: another suffix; or a package is missing that LaTeX (jinja2) or Excel (openpyxl)
            needs: `pip install "carpk[excel,latex]"`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise CarpkError(
            f"nca.export: {str(path)!r} must end in one of {', '.join(WRITERS)}, which say how."
        )
    package, extra = WRITERS[suffix]
    if package and importlib.util.find_spec(package) is None:
        raise CarpkError(
            f'nca.export: {suffix} needs {package}. Run `pip install "carpk[{extra}]"`, or write a '
            ".csv."
        )
    flat = table.reset_index() if table.index.names[0] is not None else table
    if suffix == ".csv":
        return _files.write(path, flat.to_csv(index=False))
    units = table.attrs.get("units", {})
    headed = flat.rename(columns={n: f"{n} [{unit}]" for n, unit in units.items() if unit != "1"})
    if suffix == ".xlsx":
        buffer = io.BytesIO()
        headed.to_excel(buffer, index=False)
        return _files.write(path, buffer.getvalue())
    number = functools.partial(_significant, digits=digits)
    return _files.write(
        path, headed.to_latex(index=False, escape=True, na_rep="", float_format=number)
    )


def _significant(x: float, digits: int) -> str:
    """A number as papers print it: 19500, 0.0123."""
    return np.format_float_positional(x, digits, unique=False, fractional=False, trim="-")
