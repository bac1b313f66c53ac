"""Colours, intervals and the axis of time of every figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

BLUE, GREY, RED, INK = "#2a6fa8", "#9a9a9a", "#c23b22", "#222222"
WIDEST = (1e-2, 1e2)  # ratios beyond are drawn at the edge: one must not flatten the others
SPARE = ("#2e8b57", "#b8860b", "#7b4fa3")  # for more than three arms
LONG = 60.0  # day; follow-up beyond it would squeeze the peak on a linear axis of time
TICKS = (-28, -14, -7, -3, 0, 1, 3, 7, 14, 28, 60, 90, 180, 365, 730, 1460, 2920, 5840)
APART = 0.32  # least distance of labelled days, on the scale ln(1 + days)


def time_axis(
    axis: Axes,
    days: ArrayLike,
    *,
    size: float = 9,
    apart: float = APART,
    label: str = "days after infusion",
) -> None:
    """Label the axis of days after infusion; on the scale ln(1 + days) with long follow-up."""
    low, high = float(np.min(days)), float(np.max(days))
    room = 0.04 * max(high - low, 1.0)
    axis.set_xlim(low - room, high + room)
    if high > LONG:
        label += " (log scale)"
        axis.set_xscale("function", functions=(to_scale, from_scale))
        a, b = to_scale(np.array([low, high]))
        room = 0.04 * (b - a)
        axis.set_xlim(*from_scale(np.array([a - room, b + room])))
        shown: list[float] = []
        for day in TICKS:
            here = float(to_scale(np.array(float(day))))
            far = not shown or here - float(to_scale(np.array(shown[-1]))) > apart
            if a - room <= here <= b + room and far:
                shown.append(float(day))
        axis.xaxis.set_major_locator(FixedLocator(shown))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(label, fontsize=size)


def level_scale(values: ArrayLike) -> str:
    """Scale of an axis of levels: "log", but "linear" where one is 0, as a count can be."""
    return "linear" if (np.asarray(values, float) <= 0).any() else "log"


def to_scale(days: np.ndarray) -> np.ndarray:
    """ln(1 + days), and the same with a minus before day 0."""
    x: np.ndarray = np.sign(days) * np.log1p(np.abs(days))
    return x


def from_scale(x: np.ndarray) -> np.ndarray:
    """Days from the scale ln(1 + days)."""
    days: np.ndarray = np.sign(x) * np.expm1(np.abs(x))
    return days
