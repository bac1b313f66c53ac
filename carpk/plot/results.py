"""Figures of results: simulations, comparisons, information, evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from carpk._options import Interval, options
from carpk.evidence.effects import span
from carpk.plot.style import BLUE, GREY, INK, RED, SPARE, WIDEST

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from carpk.comparison import Comparison
    from carpk.evidence import Evidence
    from carpk.information import Identifiability
    from carpk.simulation import Simulation


def simulation(result: Simulation, output: str) -> Figure:
    """Median and bands over simulated patients, one of them of 50 %, with arrows at infusions."""
    interval = options.interval
    low, high = interval.tails
    concentrations = result[output]
    t = concentrations["time"].values
    x = concentrations.values.reshape(-1, t.size)
    figure, axis = plt.subplots(figsize=(7, 4.2))
    positive = np.where(x > 0, x, np.nan)
    if x.shape[0] > 1:
        with np.errstate(all="ignore"):
            q = np.nanquantile(positive[:, t >= 0], [low, 0.25, 0.5, 0.75, high], axis=0)
        day = t[t >= 0]
        axis.fill_between(
            day, q[0], q[4], color=BLUE, alpha=0.2, lw=0, label=f"{interval} of patients"
        )
        axis.fill_between(day, q[1], q[3], color=BLUE, alpha=0.35, lw=0, label="50 % of patients")
        axis.plot(day, q[2], color=BLUE, lw=1.5, label="median")
    else:
        axis.plot(t, positive[0], color=BLUE, lw=1.5, label="typical patient")
    axis.set_yscale("log")
    for event in result.regimen.infusions:
        axis.annotate(
            "",
            (event.time, 0.0),
            (event.time, 0.09),
            xycoords=("data", "axes fraction"),
            arrowprops={"arrowstyle": "-|>", "color": RED},
        )
    axis.set_xlabel("days after the first infusion (red arrows: infusions)")
    axis.set_ylabel(f"{output} [{concentrations.attrs['units']}], simulated")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def comparison(result: Comparison) -> Figure:
    """Ratios of the arms to the reference with their intervals, and the curves of the arms.

    Thick lines are parameter uncertainty, thin ones the range of patients. Outcomes compared by
    differences stand in words; ratios beyond 0.01 and 100 are drawn there, as arrows.
    """
    from carpk.comparison.contrasts import usual

    table, arms = result.table, result.arms
    colours = dict(zip(arms, itertools.cycle((GREY, BLUE, RED, *SPARE)), strict=False))
    rows = [(key, table.loc[[key]].to_dict("records")[0]) for key, _ in usual(result.data)]
    heights = [len(rows) * 0.42 + 1.6, 3.6][: 1 if result.curves is None else 2]
    width = 8.0 if result.curves is None else 13.5
    figure, axes = plt.subplots(
        1, len(heights), figsize=(width, max(heights)), squeeze=False, layout="constrained"
    )
    axis = axes[0, 0]
    edges = [1.0]
    for i, ((_, arm, usually), row) in enumerate(rows):
        colour = colours[arm]
        axis.annotate(
            _in_words(row, usually, result.interval),
            (1.02, i),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
        if usually == "difference":
            continue
        patients = np.clip([row["patient_low"], row["patient_high"]], *WIDEST)
        draws = np.clip([row[column] for column in result.interval.columns], *WIDEST)
        middle = float(np.clip(row["estimate"], *WIDEST))
        marker = {WIDEST[0]: "<", WIDEST[1]: ">"}.get(middle, "o")
        axis.plot(patients, [i, i], color=colour, lw=1)
        axis.plot(draws, [i, i], color=colour, lw=5, alpha=0.6, solid_capstyle="butt")
        axis.plot(middle, i, marker, color=colour, ms=6)
        edges += [x for x in (middle, *patients, *draws) if math.isfinite(x)]
    axis.axvline(1.0, color=INK, lw=0.8)
    several = len(arms) > 2
    labels = [f"{outcome}: {arm}" if several else outcome for (outcome, arm, _), _ in rows]
    axis.set_yticks(range(len(rows)), labels)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    _ratio_axis(axis, min(edges), max(edges))
    others = "arm" if several else arms[1]
    axis.set_xlabel(f"{others} over {result.reference}, ratio")
    axis.plot([], [], "o", color=INK, ms=6, label="population")
    if np.isfinite(table["p_above"]).any():
        label = f"its {result.interval} credible interval (parameters)"
        axis.plot([], [], color=INK, lw=5, alpha=0.6, label=label)
    if np.isfinite(table["patient_low"]).any():
        axis.plot([], [], color=INK, lw=1, label=f"{result.interval} of patients")
    axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    axis.spines[["top", "right"]].set_visible(False)
    if result.curves is not None:
        _arm_curves(axes[0, 1], result, result.curves, colours)
    return figure


def _in_words(row: Mapping[Hashable, Any], contrast: str, interval: Interval) -> str:
    """ "x 1.7 (0.9 to 3.0)" or "-12 day (-20 to -3)"."""
    ratio = contrast == "ratio"
    unit = "" if row["unit"] == "1" else f" {row['unit']}"
    number = "{:.3g}" if ratio else "{:+.3g}"
    text = ("x " if ratio else "") + number.format(row["estimate"]) + unit
    for low, high, words in (
        (*interval.columns, " ({} to {})"),
        ("patient_low", "patient_high", "\npatients {} to {}"),
    ):
        if math.isfinite(row[low]):
            text += words.format(number.format(row[low]), number.format(row[high]))
    return text


def _ratio_axis(axis: Axes, low: float, high: float) -> None:
    """A log axis around 1 with plain numbers."""
    axis.set_xscale("log")
    low, high = min(low / 1.15, 0.5), max(high * 1.15, 2.0)
    axis.set_xlim(low, high)
    narrow = high / low < 300
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=9))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def _arm_curves(
    axis: Axes, result: Comparison, curves: xr.DataArray, colours: Mapping[str, str]
) -> None:
    """Median and band over patients of each arm, on a log axis."""
    t = curves["time"].values
    shown = t >= 0
    peak = 0.0
    for arm, colour in colours.items():
        low, mid, high = np.where(curves.sel(arm=arm) > 0, curves.sel(arm=arm), np.nan)
        axis.fill_between(t[shown], low[shown], high[shown], color=colour, alpha=0.2, lw=0)
        axis.plot(t[shown], mid[shown], color=colour, lw=1.6, label=f"{arm}: median")
        peak = max(peak, float(np.nanmax(high[shown])))
    axis.set_yscale("log")
    bottom = float(np.nanmin(np.where(curves > 0, curves, np.nan)[..., shown]))
    axis.set_ylim(bottom=max(bottom, peak * 1e-8))  # below one cell
    axis.set_xlabel("days after the first infusion")
    axis.set_ylabel(f"{curves.attrs['long_name']} [{curves.attrs['units']}], simulated")
    title = f"bands: {result.interval} of patients"
    axis.legend(frameon=False, fontsize=8, title=title, title_fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def identifiability(results: Identifiability | Mapping[str, Identifiability]) -> Figure:
    """Expected posterior over prior SD of every parameter, and the information by direction.

    Of one design, or of several by name. A parameter at 1 is left to its prior.
    """
    named = dict(results) if isinstance(results, Mapping) else {"": results}
    order = list(dict.fromkeys(n for r in named.values() for n in r.names))
    colours = plt.colormaps["viridis"](np.linspace(0.1, 0.8, len(named)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 1.6 + 0.26 * len(order)))
    for colour, (label, r) in zip(colours, named.items(), strict=True):
        rows = [order.index(n) for n in r.names]
        left.plot(r.ratio, rows, "o", color=colour, ms=6, label=label)
        values = np.maximum(r.directions["information"], 1e-3)
        right.plot(r.directions.index, values, "o-", color=colour, ms=4, lw=1, label=label)
    left.axvline(1.0, color=INK, lw=0.8)
    left.set_xlim(0, 1.05)
    left.set_yticks(range(len(order)), order, fontsize=8)
    left.invert_yaxis()
    left.grid(axis="y", color=GREY, lw=0.3)
    left.set_xlabel("expected posterior SD / prior SD")
    right.axhline(1.0, color=INK, lw=0.8)
    right.set_yscale("log")
    right.set_xlabel("direction, the best informed first")
    right.set_ylabel("information / the prior's")
    if len(named) > 1:
        right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def evidence(result: Evidence) -> Figure:
    """Forest plot of lymphodepletion: each study, and the averages with their priors."""
    studies, pooled = result.by_study(), result.summary()
    prior = result.prior_effects()
    pooled = pooled.loc[list(prior)]
    figure, axis = plt.subplots(figsize=(9.5, 1.9 + 0.36 * (len(studies) + len(pooled))))
    labels: list[tuple[float, str, pd.Series]] = []
    y = 0.0
    for name, row in studies.iterrows():
        axis.plot([row["fold_low"], row["fold_high"]], [y, y], color=BLUE, lw=1.5)
        axis.plot(row["fold"], y, "s", color=BLUE, ms=3 + math.sqrt(row["n"]))
        labels.append((y, f"{name}: {row['arm']} (n = {row['n']})", row))
        y += 1
    axis.axhline(y - 0.2, color=GREY, lw=0.6)
    y += 0.6
    for name, row in pooled.iterrows():
        low, high = 10 ** np.quantile(prior[str(name)], options.interval.tails)
        axis.plot([low, high], [y + 0.28, y + 0.28], color=GREY, lw=1)
        axis.plot([row["fold_low"], row["fold_high"]], [y, y], color=RED, lw=3, alpha=0.6)
        axis.plot(row["fold"], y, "D", color=RED, ms=6)
        labels.append((y, f"{name}", row))
        y += 1
    for at, _, row in labels:
        axis.text(
            1.02, at, span(row, ""), transform=axis.get_yaxis_transform(), va="center", fontsize=8
        )
    axis.set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels], fontsize=9)
    axis.set_ylim(y - 0.3, -0.7)
    axis.axvline(1.0, color=INK, lw=0.8)
    axis.set_xscale("log")
    axis.set_xlim(1e-4, 1e5)
    shown = f"median, {options.interval} interval"
    axis.set_xlabel(f"factor by which lymphodepletion multiplies expansion ({shown})")
    axis.plot([], [], "s-", color=BLUE, label="in one study, given the others; size: n")
    axis.plot([], [], "D-", color=RED, lw=3, alpha=0.6, label="average over studies")
    axis.plot([], [], color=GREY, lw=1, label="its prior")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    head = "" if result.ok else "DO NOT TRUST: "
    axis.set_title(f"{head}published evidence on lymphodepletion", loc="left", fontsize=11)
    figure.tight_layout()
    return figure
