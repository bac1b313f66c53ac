"""Effects of lymphodepletion on expansion: from draws to names, rows of tables and words."""

from __future__ import annotations

from typing import Any

import numpy as np

from carpk._options import options
from carpk._types import Draws

EFFECTS = {  # name of the draws -> in tables
    "flu": "Flu",
    "cy": "Cy",
    "added": "Cy, added to Flu",
    "flu_cy": "Flu/Cy",
}
ANOTHER = "Flu/Cy, another study"
TAU = "tau (SD between studies)"
TWOFOLD = np.log10(2)


def lymphodepletion_effects(draws: Draws) -> dict[str, np.ndarray]:
    """The average effects [log10] that the question is about."""
    flu, cy, added = draws["flu"], draws["cy"], draws["left"] * draws["cy"]
    return {"flu": flu, "cy": cy, "added": added, "flu_cy": flu + added}


def _another(draws: Draws) -> np.ndarray:
    """Flu/Cy in a study that is not in the table: one draw from the distribution of studies."""
    u, v = np.random.default_rng(0).normal(size=(2, len(draws["tau"])))
    cy = draws["cy"] + draws["tau"] * v
    both: np.ndarray = draws["flu"] + draws["tau"] * u + draws["left"] * cy
    return both


def named(draws: Draws) -> dict[str, np.ndarray]:
    """The effects by their names in tables."""
    each = lymphodepletion_effects(draws)
    return {EFFECTS[key]: x for key, x in each.items()} | {ANOTHER: _another(draws)}


def row_of(x: np.ndarray, before: np.ndarray | None = None) -> dict[str, float]:
    """Columns of a summary: log10 and fold, median and interval."""
    low, mid, high = np.quantile(x, options.interval.with_median)
    row = {"median": mid} | dict(zip(options.interval.columns, (low, high), strict=True))
    row |= {"fold": 10**mid, "fold_low": 10**low, "fold_high": 10**high}
    row |= {"above_0": np.mean(x > 0), "above_2_fold": np.mean(x > TWOFOLD)}
    return row if before is None else row | {"sd_ratio": np.std(x) / np.std(before)}


def span(row: Any, unit: str = "-fold") -> str:
    """ "60-fold (8 to 500)", to two digits, of a row of `Evidence.summary`."""
    mid, low, high = (f"{float(f'{row[c]:.1e}'):,.12g}" for c in ("fold", "fold_low", "fold_high"))
    return f"{mid}{unit} ({low} to {high})"
