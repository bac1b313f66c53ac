"""Upper limits of quantification: values at the limit are right-censored, or asked about."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from carpk.dataset.missing import SENTINELS
from carpk.dataset.tables import Table, count
from carpk.dataset.units import WHOLE
from carpk.dataset.validate import Settings, limits_of
from carpk.errors import CarpkWarning

REPEATS, SHARE = 3, 0.02  # of the highest value, from which on it looks like a limit


def right_censored(table: Table, settings: Settings) -> Table:
    """Values at or above the upper limit as the limit, with censored = -1, which a note counts."""
    if "uloq" not in table and settings.uloq is None:
        return table
    if "uloq" not in table:
        table = table.with_columns(uloq=[None] * len(table))
    if "censored" not in table:
        table = table.with_columns(censored=[0] * len(table))
    if not {"analyte", "value"} <= set(table.columns):
        return table
    limits = _limits(table, settings)
    values, flags = (
        table.numbers("value", required=False),
        table.numbers("censored", required=False),
    )
    high = (flags == 0) & (values >= limits)
    if high.any():
        over = int((high & (values > limits)).sum())
        more = f" or above it ({over})" if over else ""
        settings.notes.append(
            f"{table.label}: {count(int(high.sum()), 'value')} at the upper limit of "
            f"quantification{more} read as right-censored there (censored = -1)."
        )
    kept = {name: entries for name, entries in table.columns.items() if name != "uloq"}
    for name, new in (("value", limits), ("censored", np.full(len(table), -1))):
        both = zip(kept[name], new.tolist(), high, strict=True)
        kept[name] = [limit if at else entry for entry, limit, at in both]
    return replace(table, columns=kept)


def _limits(table: Table, settings: Settings) -> np.ndarray:
    """The upper limit of each row in the unit of the data; NaN where none is known."""
    advice = "Give the assay's upper limit, or leave the entry empty where there is none."
    limits = limits_of(table, "uloq", advice)
    analytes = table.texts("analyte")
    kinds = list(dict.fromkeys(analytes))
    told = [settings.uloq_of(analyte, kinds) for analyte in analytes]
    return np.where(np.isnan(limits), told, limits)


def ask_about_repeated_maxima(observations: pd.DataFrame, settings: Settings) -> None:
    """Warn of an analyte whose highest value repeats, as an upper limit does."""
    seen = observations[(observations["censored"] == 0) & ~observations["unit"].isin(WHOLE)]
    for analyte, rows in seen.groupby("analyte", sort=False):
        values = rows["value"].to_numpy(float)
        top = values.max()
        times = int((values == top).sum())
        if times < max(REPEATS, SHARE * len(values)) or times == len(values):
            continue
        if top in SENTINELS:  # asked about as one
            continue
        if not np.isnan(settings.uloq_of(str(analyte), [str(analyte)])):
            continue
        warnings.warn(
            f"Dataset {settings.name!r}: the highest value of {analyte} ({top:g}) is that of "
            f"{times} of {len(values)} samples, as at an upper limit of quantification. If it is "
            f"one, pass uloq={{{analyte!r}: {top:g}}} (in the unit of the data), so that it counts "
            f"as right-censored; if not, uloq={{{analyte!r}: inf}}.",
            CarpkWarning,
            stacklevel=5,
        )
