"""The table of published facts: read, and refused where a row cannot be used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carpk._tables import as_frame
from carpk.dataset.tables import read_csv
from carpk.errors import DatasetError
from carpk.evidence.likelihoods import COUNTS, FEWEST, LIKELIHOODS, RATIOS
from carpk.library.studies import DATA

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("study", "product", "kind", "flu", "cy", "value", "unit", "n", "p", "weight"),
    *("use", "source", "doi", "read", "note"),
)
NUMBERS = ("flu", "cy", "value", "n", "p", "weight")


def load(path: str | Path | None = None) -> pd.DataFrame:
    """The table of published facts, one per row, with sources; the library's, or your own.

    Columns are explained in `data/lymphodepletion/README.md`. `use` says whether a fact is in the
    likelihood ("fit") or not ("no"); `note` says why.
    """
    path = DATA / "lymphodepletion" / "evidence.csv" if path is None else Path(path)
    if not path.exists():
        raise DatasetError(f"Evidence: there is no file {path}; give the path of a CSV file.")
    table = read_csv(path, "evidence")
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise DatasetError(
            f"Evidence {path.name!r} has no column `{missing[0]}`; it must have "
            f"{', '.join(COLUMNS)}."
        )
    return as_frame(
        {
            c: (table.numbers if c in NUMBERS else table.texts)(c, required=False)
            for c in table.columns
        }
    )


def check(row: Any, place: str) -> None:
    """Refuse a row that its likelihood cannot use."""
    needed = {"value": row.value, "flu": row.flu, "cy": row.cy}
    if row.kind in (*COUNTS, "median_fold", "up_to"):
        needed["n"] = row.n
    if row.kind in RATIOS:
        needed["p"] = row.p
    missing = [name for name, number in needed.items() if math.isnan(number)]
    if row.kind not in LIKELIHOODS:
        trouble = f"the kind {row.kind!r} has no likelihood; known are {', '.join(LIKELIHOODS)}"
    elif missing:
        trouble = f"`{missing[0]}` is missing, which its likelihood needs"
    elif row.flu not in (0, 1) or not 0 <= row.cy <= 1:
        trouble = f"flu must be 0 or 1 and cy from 0 to 1, but they are {row.flu:g}, {row.cy:g}"
    elif row.kind in COUNTS and not 0 <= row.value <= row.n:
        trouble = f"the count {row.value:g} is not between 0 and n = {row.n:g}"
    elif row.kind in (*RATIOS, "median_fold") and row.value <= (row.kind == "median_fold"):
        trouble = f"the value {row.value:g} is impossible for a ratio, or for a fold of expansion"
    elif row.kind == "up_to" and row.n < 3 * FEWEST:
        trouble = f"n = {row.n:g} cannot be three cohorts of at least {FEWEST}"
    elif row.kind in RATIOS and (row.value == 1 or not 0 < row.p < 1):
        trouble = "its p-value must be between 0 and 1, and the ratio must not be 1"
    elif not math.isnan(row.weight) and not 0 < row.weight <= 1:
        trouble = f"the weight {row.weight:g} is not between 0 and 1"
    else:
        return
    raise DatasetError(f"{place}: {trouble}. Correct the row, or give it use 'no' and a note.")
