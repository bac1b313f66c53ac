"""Diagnostics of fits to patients' own data: VPC, NPDE, goodness of fit, random effects."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from carpk._options import options
from carpk.checks import GOF, NPDE, VPC, shrinkage
from carpk.checks.residuals import SHRUNK, eta_means
from carpk.checks.visual import BELOW, PERCENTILES, YES
from carpk.errors import FitError
from carpk.inference.result import Fit
from carpk.plot.style import BLUE, GREY, INK, RED, level_scale, time_axis
from carpk.population.random_effects import omega_name

MIDDLE = PERCENTILES[1]
BOXES = 2  # numbers with at most this many values are groups
GROUPS = 12  # behind a running median
LEVELS = 12  # values of a text covariate, beyond which it is a label and not a covariate


def vpc(result: VPC, *, points: bool = True) -> Figure:
    """Observed percentiles over the bands of their replicates, a column per stratum.

    Below them the share of observations below the LLOQ. Percentiles below the LLOQ are not drawn;
    a band some of whose replicates are below the LLOQ is open downwards, to the LLOQ or to the edge
    of the panel.
    """
    table = result.table
    strata = list(dict.fromkeys(table["stratum"]))
    shares = table[table["statistic"] == BELOW]
    limited = bool((shares[["observed", "high"]] > 0).to_numpy().any())
    rows = 2 if limited else 1
    figure, axes = plt.subplots(
        rows,
        len(strata),
        figsize=(1.6 + (3.4 if len(strata) > 1 else 6.4) * len(strata), 3.3 + 1.6 * rows),
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=[3, 1.1][:rows],
    )
    days = result.points["time"].to_numpy()
    bottom, top = _concentration_range(result)
    drawn = not result.corrected and bottom < result.lloq < top
    for column, stratum in enumerate(strata):
        part = table[table["stratum"] == stratum]
        own = result.points[result.points["stratum"] == stratum]
        axis = axes[0, column]
        if points:
            _points(axis, own["time"], own["value"], own["below"], faint=True)
        for p in PERCENTILES:
            rows_of = part[part["statistic"] == f"{p} %"].sort_values("time")
            open_at = result.lloq if drawn else bottom
            _band(axis, rows_of, RED if p == MIDDLE else BLUE, open_at, top)
            _observed(axis, rows_of, "-" if p == MIDDLE else "--")
        if drawn:
            axis.axhline(result.lloq, color=INK, lw=0.8, ls=":")
        shares_of_yes = part[part["statistic"] == YES].sort_values("time")
        _band(axis, shares_of_yes, RED, bottom, top)
        _observed(axis, shares_of_yes, "-")
        axis.set_yscale(level_scale(result.points["value"]))
        axis.set_ylim(bottom, top)
        patients = own["patient"].nunique()
        name = "" if result.by is None else f"{result.by}: {stratum}, "
        axis.set_title(f"{name}{patients} patients", loc="left", fontsize=9)
        if limited:
            under = axes[1, column]
            share = part[part["statistic"] == BELOW].sort_values("time")
            _band(under, share, GREY, 0.0, 1.0)
            _observed(under, share, "-")
            under.set_ylim(-0.03, 1.03)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes[-1]:
        time_axis(axis, days, size=8, label=result.day_label)
    corrected = ", prediction-corrected" if result.corrected else ""
    axes[0, 0].set_ylabel(f"{result.output} [{result.unit}]{corrected}", fontsize=9)
    if limited:
        axes[1, 0].set_ylabel("share below\nthe LLOQ", fontsize=9)
    kind = "Prediction-corrected VPC" if result.corrected else "VPC"
    _title(
        figure,
        f"{kind} of {result.output}, {result.data}: the data and {result.replicates} data sets "
        f"from the {result.source}",
    )
    key = axes[0, 0]
    middle, outer = ("median", "5th or 95th percentile")
    if (table["statistic"] == YES).any():
        middle, outer = "share of yes", ""
    handles = [
        key.plot([], [], color=INK, ls="-", marker="o", ms=3)[0],
        key.fill_between([], [], [], color=RED, alpha=0.3, lw=0),
    ]
    labels = [f"observed {middle}", f"{result.interval} interval of a replicated {middle}"]
    if outer:
        handles.insert(1, key.plot([], [], color=INK, ls="--", marker="o", ms=3)[0])
        handles.append(key.fill_between([], [], [], color=BLUE, alpha=0.3, lw=0))
        labels.insert(1, f"observed {outer}")
        labels.append(f"{result.interval} interval of a replicated {outer}")
    if limited:
        handles.append(axes[1, 0].fill_between([], [], [], color=GREY, alpha=0.3, lw=0))
        labels.append(f"{result.interval} interval of a replicated share")
    if drawn:
        handles.append(key.plot([], [], color=INK, lw=0.8, ls=":")[0])
        labels.append("LLOQ")
    if points:
        handles.append(key.plot([], [], "o", color=GREY, ms=3)[0])
        labels.append("observation")
        if result.points["below"].any():
            handles.append(key.plot([], [], "v", color=RED, ms=3)[0])
            words = "BLQ, at its corrected limit" if result.corrected else "BLQ, at the LLOQ"
            labels.append(words)
    _legend(figure, handles, labels, columns=2 if len(strata) == 1 else 4)
    return figure


def _concentration_range(result: VPC) -> tuple[float, float]:
    """Range of the axis of concentrations: observations, and bands near them."""
    concentrations = result.table[result.table["statistic"] != BELOW]
    shown = concentrations[["observed", "low", "median", "high"]].to_numpy(float)
    values = result.points["value"].to_numpy()
    if level_scale(values) == "linear":
        high = float(np.nanmax(np.append(shown[np.isfinite(shown)], values)))
        return -0.04 * high, 1.04 * high
    shown = shown[np.isfinite(shown) & (shown > 0)]
    measured = values[(values > 0) & ~result.points["below"].to_numpy()]
    if not measured.size:
        measured = values
    bottom, top = measured.min(), measured.max()
    if shown.size:
        bottom, top = min(bottom, shown.min()), max(top, shown.max())
    bottom, top = max(bottom, measured.min() / 100), min(top, measured.max() * 100)
    if not result.corrected and (result.points["below"].any() or result.lloq > bottom / 4):
        bottom = min(bottom, result.lloq) if math.isfinite(result.lloq) else bottom
    return bottom / 1.8, top * 1.8


def _band(axis: Axes, rows: pd.DataFrame, colour: str, open_at: float, top: float) -> None:
    """The interval of a replicated statistic from bin to bin; open where it is below the LLOQ."""
    t = rows["time"].to_numpy(float)
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    seen = high > -np.inf
    low = np.where(seen & (low == -np.inf), np.minimum(open_at, high), low)
    high = np.where(high == np.inf, top, high)
    low, high = (np.where(seen, x, np.nan) for x in (low, high))
    axis.fill_between(t, low, high, color=colour, alpha=0.3, lw=0)
    before, after = np.r_[False, seen[:-1]], np.r_[seen[1:], False]
    alone = seen & ~before & ~after  # a bin without neighbours has no area
    axis.vlines(t[alone], low[alone], high[alone], color=colour, alpha=0.3, lw=6)


def _observed(axis: Axes, rows: pd.DataFrame, style: str) -> None:
    y = rows["observed"].to_numpy(float)
    y = np.where(np.isfinite(y), y, np.nan)
    axis.plot(rows["time"], y, color=INK, ls=style, lw=1.1, marker="o", ms=3, zorder=4)


def _points(
    axis: Axes,
    x: ArrayLike,
    y: ArrayLike,
    below: ArrayLike,
    *,
    faint: bool = False,
    colour: str = INK,
) -> None:
    """Measured concentrations as dots, concentrations below the LLOQ as red triangles."""
    x, y, below = np.asarray(x), np.asarray(y), np.asarray(below, bool)
    if faint:
        axis.plot(x[~below], y[~below], "o", color=GREY, ms=2, alpha=0.6, zorder=2)
        axis.plot(x[below], y[below], "v", color=RED, ms=2.5, alpha=0.4, zorder=2)
        return
    axis.plot(x[~below], y[~below], "o", color=colour, ms=3, alpha=0.6, mew=0)
    axis.plot(x[below], y[below], "v", color=RED, ms=3.5, alpha=0.6, mew=0)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, wrap=True)


def _legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int = 4
) -> None:
    """A legend under all panels, and room for it."""
    rows = math.ceil(len(labels) / columns)
    space = (0.1 + 0.2 * rows) / figure.get_figheight()
    figure.tight_layout(rect=(0, space, 1, 1))
    figure.legend(
        handles, labels, loc="lower left", ncols=columns, frameon=False, fontsize=8, borderpad=0.2
    )


# --- residuals ------------------------------------------------------------------------------------


def npde(result: NPDE) -> Figure:
    """NPDE: QQ plot and histogram beside the standard normal; against time and PRED."""
    t = result.table
    x, below = t["NPDE"].to_numpy(), t["CENS"].to_numpy() == 1
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.8))
    qq, bars, time, pred = axes.flat
    n, interval = len(x), options.interval
    order = np.argsort(x)
    ranks = np.arange(1, n + 1)
    normal = scipy.stats.norm.ppf
    expected = normal((ranks - 0.5) / n)
    ends = [normal(scipy.stats.beta.ppf(q, ranks, n + 1 - ranks)) for q in interval.tails]
    qq.fill_between(expected, *ends, color=BLUE, alpha=0.25, lw=0)
    edge = max(3.0, float(np.abs(x).max()) * 1.05)
    qq.plot([-edge, edge], [-edge, edge], color=INK, lw=0.8)
    _points(qq, expected, x[order], below[order])
    qq.set_xlabel("standard normal quantile", fontsize=9)
    qq.set_ylabel("NPDE", fontsize=9)
    qq.set_title(f"band: {interval} of n independent normals, rank by rank", loc="left", fontsize=8)
    bins = np.linspace(-edge, edge, max(11, min(41, round(2 * n ** (1 / 2)))))
    bars.hist(x, bins, density=True, color=BLUE, alpha=0.5)
    grid = np.linspace(-edge, edge, 200)
    bars.plot(grid, scipy.stats.norm.pdf(grid), color=INK, lw=1)
    bars.set_xlabel("NPDE", fontsize=9)
    bars.set_yticks([])
    tests = result.tests
    p = dict(zip(tests.index, (f"{x:.2g}" for x in tests["p"].to_numpy(float)), strict=True))
    mean, variance = tests["value"].to_numpy(float)[:2]
    bars.set_title(
        f"mean {mean:.2f} (p {p['mean']}), variance {variance:.2f} (p {p['variance']}), "
        f"shape p {p['shape']}\n"
        f"adjusted p of all three {p['all three']}",
        loc="left",
        fontsize=8,
    )
    _score_axis(time, t["time"], x, below)
    time_axis(time, t["time"].to_numpy(), size=9)
    _score_axis(pred, t["PRED"], x, below)
    _concentration_axis(pred, t["PRED"].to_numpy(), f"PRED [{result.unit}]")
    for axis in (time, pred):
        axis.set_ylabel("NPDE", fontsize=9)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    _title(
        figure,
        f"NPDE of {result.output}, {result.data}: {n} observations against {result.replicates} "
        f"data sets from the {result.source}",
    )
    _residual_legend(figure, qq, bool(below.any()), imputed="BLQ, drawn at random (Nguyen 2012)")
    return figure


def gof(result: GOF) -> Figure:
    """Basic goodness of fit: above around the population, below around each patient's own curve.

    DV against PRED and IPRED on log axes; residuals (NPDE, which takes the place of CWRES, and
    IWRES) against time and prediction. BLQ are at the LLOQ, their NPDE drawn at random; they have
    no IWRES. Predictions far below all data are drawn at the edge of the panels on the left.
    """
    t = result.table
    below = t["CENS"].to_numpy() == 1
    figure, axes = plt.subplots(2, 3, figsize=(11.5, 7.2))
    shown = t[["DV", "PRED", "IPRED"]].to_numpy()
    measured = t["DV"].to_numpy()[~below & (t["DV"] > 0)]
    measured = measured if measured.size else t["DV"].to_numpy()
    ends = [max(shown.min(), measured.min() / 10) / 1.5, shown.max() * 1.5]
    if level_scale(t["DV"]) == "linear":
        ends = [-0.04 * shown.max(), 1.04 * shown.max()]
    words = {"PRED": "population prediction", "IPRED": "individual prediction"}
    for row, (prediction, residual) in enumerate({"PRED": "NPDE", "IPRED": "IWRES"}.items()):
        against, time, pred = axes[row]
        x = t[prediction].to_numpy()
        _points(against, np.maximum(x, ends[0]), t["DV"], below)
        against.plot(ends, ends, color=INK, lw=0.8)
        lloq = t["LLOQ"].dropna().unique()
        lloq = lloq[(lloq > ends[0]) & (lloq < ends[1])]
        if len(lloq) == 1:
            against.axhline(lloq[0], color=INK, lw=0.8, ls=":")
        _concentration_axis(against, ends, f"{prediction}: {words[prediction]} [{result.unit}]")
        for set_scale in (against.set_xscale, against.set_yscale):
            set_scale(level_scale(t["DV"]))
        against.set_xlim(ends)
        against.set_ylim(ends)
        against.set_aspect("equal", adjustable="box")
        against.set_ylabel(f"DV: {result.output} [{result.unit}]", fontsize=9)
        y = t[residual].to_numpy()
        _score_axis(time, t["time"], y, below)
        time_axis(time, t["time"].to_numpy(), size=9)
        _score_axis(pred, x, y, below)
        _concentration_axis(pred, x, f"{prediction} [{result.unit}]")
        for axis in (time, pred):
            axis.set_ylabel(residual, fontsize=9)
    axes[1, 1].set_title(
        f"residual shrinkage {result.shrinkage:.0%}"
        + ("; BLQ have no IWRES, which lifts those near the LLOQ" if below.any() else ""),
        loc="left",
        fontsize=8,
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    _title(figure, f"Goodness of fit of {result.output}, {result.data}")
    words_blq = "BLQ, DV at the LLOQ (its NPDE is drawn at random)"
    _residual_legend(figure, axes[0, 0], bool(below.any()), words_blq, lloq=len(lloq) == 1)
    return figure


def _residual_legend(
    figure: Figure, axis: Axes, below: bool, imputed: str, lloq: bool = False
) -> None:
    handles = [axis.plot([], [], "o", color=INK, ms=3)[0]]
    labels = ["observation"]
    if below:
        handles.append(axis.plot([], [], "v", color=RED, ms=4)[0])
        labels.append(imputed)
    handles.append(axis.plot([], [], color=BLUE, lw=1.5)[0])
    labels.append("median of groups of similar size")
    handles.append(axis.plot([], [], color=GREY, lw=0.8, ls="--")[0])
    labels.append(f"±{_edge():.2f}: {options.interval} of a standard normal")
    if lloq:
        handles.append(axis.plot([], [], color=INK, lw=0.8, ls=":")[0])
        labels.append("LLOQ")
    _legend(figure, handles, labels, columns=3)


def _edge() -> float:
    """Upper end of the interval of a standard normal."""
    return float(scipy.stats.norm.ppf(options.interval.tails[1]))


def _score_axis(axis: Axes, x: np.ndarray | pd.Series, y: np.ndarray, below: np.ndarray) -> None:
    """Standardised residuals with the middle of a standard normal and a running median."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    _points(axis, x, y, below)
    axis.axhline(0.0, color=INK, lw=0.8)
    for edge in (-_edge(), _edge()):
        axis.axhline(edge, color=GREY, lw=0.8, ls="--")
    here = np.isfinite(y)
    if here.sum() >= 10:
        x, y = x[here], y[here]
        group = np.unique(x, return_inverse=True)[1]  # by day, where samples share few days
        if group.max() >= GROUPS:
            shares = np.linspace(0, 1, 1 + max(1, min(GROUPS, len(x) // 15)))
            group = np.searchsorted(np.quantile(x, shares)[1:-1], x, side="right")
        middle = [(np.median(x[group == g]), np.median(y[group == g])) for g in np.unique(group)]
        axis.plot(*np.array(middle).T, color=BLUE, lw=1.5)
    largest = float(np.abs(y[np.isfinite(y)]).max()) if here.any() else 0.0
    axis.set_ylim(-max(3.2, 1.08 * largest), max(3.2, 1.08 * largest))


def _concentration_axis(axis: Axes, concentrations: ArrayLike, label: str) -> None:
    """A log axis of concentrations along x, at most ten decades."""
    axis.set_xscale("log")
    concentrations = np.asarray(concentrations, float)
    high = float(concentrations.max())
    low = max(float(concentrations.min()), high * 1e-10)
    axis.set_xlim(low / 1.5, high * 1.5)
    if high / low < 30:  # a decade or so: its own labels would be too few, those between too many
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(label, fontsize=9)


# --- random effects -------------------------------------------------------------------------------


def eta_covariates(result: Fit) -> Figure:
    """Each patient's random effects (posterior means) against every covariate of the data.

    Boxes for text and for numbers with two values; otherwise dots with Pearson's correlation. What
    a fit accounts for as a covariate already should show no relation any more. With shrinkage above
    30 % relations can be hidden, or not be real (see `checks.shrinkage`).
    """
    means, shrunk = eta_means(result, "plot.eta_covariates"), shrinkage(result)
    columns = _covariates(result)
    if not columns:
        raise FitError(
            f"plot.eta_covariates: {result.data.name} has no covariate that differs between "
            "patients; add columns to the patients table, or see plot.eta_pairs."
        )
    used = {c for cs in result.population.covariates.values() for c in cs}
    figure, axes = plt.subplots(
        len(means.columns),
        len(columns),
        figsize=(1.3 + 2.3 * len(columns), 0.9 + 2.0 * len(means.columns)),
        squeeze=False,
        sharex="col",
        sharey="row",
    )
    for i, name in enumerate(means.columns):
        y = means[name].to_numpy()
        for j, (covariate, values) in enumerate(columns.items()):
            axis = axes[i, j]
            axis.axhline(0.0, color=INK, lw=0.8)
            if values.dtype.kind in "fiu" and len(np.unique(values[~pd.isna(values)])) > BOXES:
                here = np.isfinite(values)
                axis.plot(values[here], y[here], "o", color=BLUE, ms=3, alpha=0.7, mew=0)
                r, slope = _correlation(values[here], y[here])
                ends = np.array([values[here].min(), values[here].max()])
                axis.plot(ends, y[here].mean() + slope * (ends - values[here].mean()), color=RED)
                axis.set_title(f"r = {r:.2f}", loc="left", fontsize=8, pad=2)
            else:
                _boxes(axis, values, y)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            if i == len(means.columns) - 1:
                here_too = " (in the model)" if covariate in used else ""
                axis.set_xlabel(f"{covariate}{here_too}", fontsize=8)
        axes[i, 0].set_ylabel(f"eta of {name}\nshrinkage {_warned(shrunk[name])}", fontsize=8)
    _title(
        figure,
        f"Random effects and covariates, {result.data.name}: posterior mean of each patient's "
        "deviation on the estimation scale",
    )
    figure.tight_layout()
    return figure


def eta_pairs(result: Fit) -> Figure:
    """Random effects (posterior means) among each other, and of each the histogram.

    The histograms are compared with the population's normal distribution; they are narrower by the
    shrinkage. A correlation is missing from the model if the dots show one.
    """
    means, shrunk = eta_means(result, "plot.eta_pairs"), shrinkage(result)
    names = list(means.columns)
    size = len(names)
    figure, axes = plt.subplots(
        size, size, figsize=(1.2 + 2.2 * size, 0.9 + 2.0 * size), squeeze=False, sharex="col"
    )
    draws = result.draws()
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            axis = axes[i, j]
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            if j > i:
                axis.set_visible(False)
                continue
            if i == size - 1:
                axis.set_xlabel(f"eta of {column}", fontsize=8)
            if i == j:
                omega = float(np.median(draws[omega_name(row)]))
                reach = max(3 * omega, float(means[row].abs().max()))
                grid = np.linspace(-reach, reach, 200)
                bins = np.linspace(-reach, reach, max(9, round(2 * len(means) ** 0.5)))
                axis.hist(means[row], bins, density=True, color=BLUE, alpha=0.5)
                axis.plot(grid, scipy.stats.norm.pdf(grid, scale=omega), color=INK, lw=1)
                axis.set_yticks([])
                axis.spines["left"].set_visible(False)
                axis.set_title(
                    f"omega {omega:.2f}, shrinkage {_warned(shrunk[row])}",
                    loc="left",
                    fontsize=8,
                    pad=2,
                )
                continue
            x, y = means[column].to_numpy(), means[row].to_numpy()
            axis.axhline(0.0, color=GREY, lw=0.6)
            axis.axvline(0.0, color=GREY, lw=0.6)
            axis.plot(x, y, "o", color=BLUE, ms=3, alpha=0.7, mew=0)
            axis.set_title(f"r = {_correlation(x, y)[0]:.2f}", loc="left", fontsize=8, pad=2)
            if j == 0:
                axis.set_ylabel(f"eta of {row}", fontsize=8)
    _title(
        figure,
        f"Random effects, {result.data.name}: posterior means; line: normal with SD omega",
    )
    figure.tight_layout()
    return figure


def _covariates(result: Fit) -> dict[str, np.ndarray]:
    """Columns of the patients table, and of the cohorts table, that differ between patients."""
    data = result.data
    people = data.patients
    tables = {str(c): people[c] for c in people.columns if c != "patient"}
    if "cohort" in people:
        for column in data.cohorts.columns:
            by_cohort = data.cohorts.set_index("cohort")[column] if column != "cohort" else None
            if by_cohort is not None and column not in tables:
                tables[str(column)] = people["cohort"].map(by_cohort)
    found = {}
    for name, series in tables.items():
        number = pd.api.types.is_numeric_dtype(series)
        values = series.to_numpy(dtype=float) if number else series.to_numpy(dtype=object)
        distinct = series.dropna().nunique()
        if distinct > 1 and (number or distinct <= LEVELS):
            found[name] = values
    return found


def _boxes(axis: Axes, values: np.ndarray, y: np.ndarray) -> None:
    """A box per group with every patient's dot, and its size."""
    number = values.dtype.kind in "fiu"
    groups = sorted({v for v in values[~pd.isna(values)]}, key=lambda v: v if number else str(v))
    parts = [y[values == g] for g in groups]
    axis.boxplot(
        parts,
        widths=0.55,
        showfliers=False,
        medianprops={"color": RED},
        boxprops={"color": GREY},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )
    for k, part in enumerate(parts, 1):
        spread = np.linspace(-0.16, 0.16, len(part)) if len(part) > 1 else np.zeros(1)
        axis.plot(k + spread, part, "o", color=BLUE, ms=2.5, alpha=0.7, mew=0)
    labels = [f"{g:g}" if number else str(g) for g in groups]
    crowded = sum(len(x) for x in labels) > 16
    texts = [f"{g}\nn = {len(p)}" for g, p in zip(labels, parts, strict=True)]
    axis.set_xticks(range(1, len(groups) + 1), texts, rotation=60 if crowded else 0)


def _correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Pearson's correlation and the slope of the regression of y on x."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), 0.0
    fitted = scipy.stats.linregress(x, y)
    return float(fitted.rvalue), float(fitted.slope)


def _warned(shrunk: float) -> str:
    return f"{shrunk:.0%}" + (" (high)" if shrunk > SHRUNK else "")
