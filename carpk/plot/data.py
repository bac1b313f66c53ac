"""The data as they are: levels of every patient, what was given, and what lies below the limit."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carpk.dataset import Dataset
from carpk.dataset.overview import arms, check_since, day_label, since_last
from carpk.dataset.units import CELL_UNITS
from carpk.errors import DatasetError
from carpk.plot.style import BLUE, GREY, INK, RED, level_scale, time_axis

MOST_PANELS = 6  # arms side by side
BARS = 4 / 24  # day; shorter infusions are drawn as ticks


def dataset(
    data: Dataset,
    analytes: str | list[str] | None = None,
    *,
    by: str | None = None,
    since: str = "first",
) -> Figure:
    """Levels of every patient, a column of panels per arm, a row per analyte.

    Triangles at the lower edge of what was measured are samples below the LLOQ, dotted lines the
    LLOQ. The strip on top has a line per product: infusions of cells, and drugs before and after
    them, all patients of the arm upon each other.

    Args:
        analytes: one or more; all of the observations unless given.
        by: covariate whose values are the arms; `cohort` unless given, where the data have it.
        since: "first" or "last": days count from the first infusion of cells, or from the last one
            before the sample (of a drug in data without cells: time after dose, TAD), so that
            re-infusions lie upon each other.
    """
    check_since(since, "plot.dataset")
    known = list(dict.fromkeys(data.observations["analyte"]))
    wanted = [analytes] if isinstance(analytes, str) else list(analytes or known)
    if not known or not set(wanted) <= set(known):
        strange = next((a for a in wanted if a not in known), "")
        raise DatasetError(
            f"Dataset {data.name!r}: there are no observations of {strange!r}; patients were "
            f"sampled for {', '.join(known) or 'nothing'}."
        )
    arm = arms(data, by)
    names = list(dict.fromkeys(arm.values()))
    if len(names) > MOST_PANELS:
        raise DatasetError(
            f"plot.dataset: {len(names)} arms do not fit side by side ({MOST_PANELS} do). Give "
            "another `by`, or plot some of the patients."
        )
    seen = data.observations.assign(
        day=data.observations["time"]
        if since == "first"
        else since_last(data, data.observations)[0],
        arm=data.observations["patient"].map(arm),
    )
    seen = seen[seen["analyte"].isin(wanted)]
    given = data.doses.assign(arm=data.doses["patient"].map(arm))
    given = given[given["unit"] != ""]
    products = list(dict.fromkeys(given.sort_values("time", kind="stable")["product"]))
    strip = 0.25 * len(products) + 0.2 if since == "first" and products else 0.0
    heights = [strip] * bool(strip) + [2.2] * len(wanted)
    figure, axes = plt.subplots(
        len(heights),
        len(names),
        figsize=(max(3.0 * len(names) + 1.2, 5.0), sum(heights) + 1.3),
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=heights,
    )
    days = [seen["day"].min(), seen["day"].max()]
    if strip:
        days = [min(days[0], given["time"].min()), max(days[1], given["time"].max())]
    for column, name in zip(axes.T, names, strict=True):
        people = sum(own == name for own in arm.values())
        column[0].set_title(f"{name} (n = {people})" if name != "all" else "", fontsize=9)
        if strip:
            _strip(column[0], given[given["arm"] == name], products)
        for axis, analyte in zip(column[bool(strip) :], wanted, strict=True):
            _levels(axis, seen[(seen["arm"] == name) & (seen["analyte"] == analyte)])
            time_axis(axis, days, size=8, apart=0.5)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("")
        words = column[-1].get_xscale() == "function"
        column[-1].set_xlabel(day_label(data, since) + " (log scale)" * words, fontsize=8)
    for axis, analyte in zip(axes[bool(strip) :, 0], wanted, strict=True):
        axis.set_ylabel(f"{analyte} [{data.units[analyte]}]", fontsize=8)
    _key(figure, axes[-1, -1], seen)
    simulated = ", simulated" if data.about.get("simulated") else ""
    figure.suptitle(f"{data.name}{simulated}", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _key(figure: Figure, axis: Axes, seen: pd.DataFrame) -> None:
    """The signs that were used, beside the title."""
    entries = [("sample", axis.plot([], [], "o", color=INK, ms=2.6, mew=0)[0])]
    for flag, words, mark in ((1, "below the LLOQ", "v"), (-1, "above the range", "^")):
        if (seen["censored"] == flag).any():
            entries.append((words, axis.plot([], [], mark, color=RED, ms=2.6, mew=0)[0]))
    if seen["lloq"].notna().any():
        entries.append(("LLOQ", axis.plot([], [], color=GREY, lw=0.8, ls=":")[0]))
    labels, handles = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="upper right", ncols=4, fontsize=7, frameon=False)


def _levels(axis: Axes, seen: pd.DataFrame) -> None:
    """One line per patient; samples below the LLOQ as triangles at it."""
    for _, own in seen.sort_values("time", kind="stable").groupby("patient", sort=False):
        for _, part in own.groupby((own["day"].diff() < 0).cumsum()):  # a line per infusion
            axis.plot(part["day"], part["value"], color=BLUE, lw=0.7, alpha=0.45)
    for flag, mark, color in ((0, "o", INK), (1, "v", RED), (-1, "^", RED)):
        own = seen[seen["censored"] == flag]
        axis.plot(own["day"], own["value"], mark, color=color, ms=2.6, alpha=0.8, mew=0)
    for limit in np.unique(seen["lloq"].dropna())[:3]:
        axis.axhline(limit, color=GREY, lw=0.8, ls=":")
    axis.set_yscale(level_scale(seen["value"]))
    axis.spines[["top", "right"]].set_visible(False)


def _strip(axis: Axes, given: pd.DataFrame, products: list[str]) -> None:
    """A line per product with all that the arm was given."""
    for place, product in enumerate(products):
        own = given[given["product"] == product]
        cells = own["unit"].isin(CELL_UNITS)
        axis.plot(own["time"][cells], np.full(int(cells.sum()), place), "^", color=RED, ms=4, mew=0)
        drugs = own[~cells]
        axis.plot(drugs["time"], np.full(len(drugs), place), "|", color=INK, ms=6, mew=0.9)
        for start, length in zip(drugs["time"], drugs["duration"], strict=True):
            if length > BARS:
                axis.plot([start, start + length], [place, place], color=INK, lw=2.5, alpha=0.5)
    axis.set_yticks(range(len(products)), products, fontsize=7)
    axis.set_ylim(len(products) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
