"""Magnitudes that no patient has, such as slips of a thousand: asked about before a fit."""

import warnings

import numpy as np
import pandas as pd

from carpk.dataset.tables import count
from carpk.dataset.validate import Settings
from carpk.errors import CarpkWarning

LEUKOCYTES = ("wbc", "leukocytes")
COUNTED = (*LEUKOCYTES, "alc", "lymphocytes", "anc", "t_cells", "b_cells")
MOST_PER_MICROLITRE = 1e6
HOURS, LATTICE = 24, 3  # hours in a day; distinct times on multiples of it that look like hours


def ask_about_magnitudes(
    doses: pd.DataFrame, observations: pd.DataFrame, settings: Settings
) -> None:
    """Warn of counts beyond any patient's, CAR T cells above leukocytes, and hours as days."""
    _ask_about_counts(observations, settings)
    _ask_about_shares(observations, settings)
    _ask_about_hours(doses, observations, settings)


def _ask(settings: Settings, found: str, advice: str) -> None:
    warnings.warn(f"Dataset {settings.name!r}: {found}. {advice}", CarpkWarning, stacklevel=6)


def _ask_about_counts(observations: pd.DataFrame, settings: Settings) -> None:
    counted = observations["analyte"].str.lower().isin(COUNTED)
    here = counted & (observations["unit"] == "cells/µL")
    high = observations[here & (observations["value"] > MOST_PER_MICROLITRE)]
    if len(high):
        first = high.iloc[0]
        _ask(
            settings,
            f"{first['analyte']} of patient {first['patient']!r} on day {first['time']:g} is "
            f"{first['value']:g} cells/µL, more than blood holds ({count(len(high), 'row')} like "
            "this)",
            "If the counts are in cells/µL already, the unit is not 1e9/L; if in cells/mL or "
            "cells/L, write that.",
        )


def _ask_about_shares(observations: pd.DataFrame, settings: Settings) -> None:
    counts = observations[observations["unit"] == "cells/µL"]
    cells = counts[(counts["analyte"] == "car_t") & (counts["censored"] != 1)]
    whole = counts[counts["analyte"].str.lower().isin(LEUKOCYTES)]
    both = cells.merge(whole, on=["patient", "time"], suffixes=("", "_all"))
    over = both[both["value"] > both["value_all"]]
    if len(over):
        first = over.iloc[0]
        _ask(
            settings,
            f"car_t of patient {first['patient']!r} on day {first['time']:g} is "
            f"{first['value']:g} cells/µL, above all leukocytes ({first['value_all']:g}; "
            f"{count(len(over), 'row')} like this)",
            "Look at the units of both: a factor of 1,000 lies between cells/µL and 1e9/L or "
            "cells/mL.",
        )


def _ask_about_hours(doses: pd.DataFrame, observations: pd.DataFrame, settings: Settings) -> None:
    if settings.dated or settings.time[0] != "day":
        return
    times = pd.concat([doses["time"], observations["time"]]).to_numpy(float)
    apart = np.unique(times[times != 0])
    if len(apart) >= LATTICE and (apart % HOURS == 0).all():
        _ask(
            settings,
            f"all times are multiples of 24 days ({', '.join(f'{t:g}' for t in apart[:4])}, ...)",
            "If they are hours, pass time_unit='hour'.",
        )
