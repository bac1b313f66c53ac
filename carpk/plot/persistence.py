"""Shares of patients over time, from interval-censored times."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carpk.nca.persistence import TimeToEvent
from carpk.plot.style import BLUE, GREY, RED, SPARE, time_axis


def time_to_event(result: TimeToEvent) -> Figure:
    """Turnbull's estimate for each arm: dashed between two samples, where the data do not tell."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    colours = itertools.cycle((BLUE, RED, *SPARE, GREY))
    by = list(result.by)
    arms = result.curve.groupby(by, dropna=False) if by else [((), result.curve)]
    for (arm, steps), n, colour in zip(arms, result.medians["n"], colours, strict=False):
        name = ", ".join(map(str, arm)) or result.analyte
        _curve(axis, steps, result.interval.columns, colour, f"{name} (n = {n})")
    days = result.table[["LEFT", "RIGHT"]].to_numpy(float)
    time_axis(axis, [0.0, days[np.isfinite(days)].max()])
    axis.set_xlabel(f"{axis.get_xlabel()}; bands: {result.interval}, patients resampled")
    axis.set_ylabel(f"share of patients before {result.event}")
    axis.set_ylim(-0.02, 1.02)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def _curve(
    axis: Axes, steps: pd.DataFrame, columns: tuple[str, str], colour: str, label: str
) -> None:
    """Levels between innermost intervals, and the way from each to the next."""
    seen = steps[np.isfinite(steps["RIGHT"])]
    ends = [*steps["LEFT"], *seen["RIGHT"].tail(1)][: len(seen) + 1]
    begins = [0.0, *seen["RIGHT"]]
    share, low, high = ([1.0, *seen[name]] for name in ("PROBAFT", *columns))
    day = np.ravel([begins, ends], order="F")
    band = (np.repeat(low, 2), np.repeat(high, 2))
    axis.fill_between(day, *band, color=colour, alpha=0.15, lw=0)
    axis.plot(day, np.repeat(share, 2), color=colour, lw=0.8, ls="--")
    for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        axis.plot(
            [begin, end], [share[k]] * 2, color=colour, lw=1.6, label=label if not k else None
        )
