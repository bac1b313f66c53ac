"""A fit beside its data: predictive bands, published summaries, priors, patients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from carpk._options import options
from carpk.checks import Predictive, posterior_predictive, prior_predictive
from carpk.checks.observed import Observed, middle
from carpk.dataset.cohort_summaries import WITH_ENDS
from carpk.dataset.overview import check_since, counted_from, day_label, dose_word
from carpk.inference.nuts import prior_draws
from carpk.inference.result import Fit
from carpk.inference.starts import PRIOR_DRAWS
from carpk.plot.style import (
    BLUE,
    GREY,
    INK,
    LONG,
    RED,
    from_scale,
    level_scale,
    time_axis,
    to_scale,
)
from carpk.population.bound import BoundPopulation
from carpk.population.parameters import PopulationParameter
from carpk.structural import ClosedForm
from carpk.summaries import CohortSummary, sample_log_sd
from carpk.verdict.modes import SAME_MODE

if TYPE_CHECKING:
    from jax import Array

    from carpk.params import Params


def fit(result: Fit, *, seed: int = 0) -> Figure:
    """Predictive bands over published summaries, or individual fits, by kind of data."""
    if result.bound.cohorts:
        prior = prior_predictive(result.population, result.data, seed=seed)
        return predictive([prior, posterior_predictive(result, seed=seed)])
    return individual_fits(result, seed=seed)


def predictive(checks: Sequence[Predictive]) -> Figure:
    """Bands of replicated cohorts over the published summaries, one panel per cohort.

    A band is the interval of the quartile of a replicated cohort of as many patients.
    """
    last = checks[-1]
    cohorts = list(last.bound.cohorts)
    figure, axes = plt.subplots(
        1, len(cohorts), figsize=(1.5 + 5.5 * len(cohorts), 4.6), squeeze=False, sharey=True
    )
    unit = last.bound.population.model.units[last.bound.output]
    floors = []
    for axis, cohort in zip(axes[0], cohorts, strict=True):
        for check in checks:
            curves = check.curves[cohort]
            t = curves["time"].values
            bands = np.quantile(curves.values, check.interval.with_median, axis=0)
            if check.kind == "prior":
                for edge, label in ((0, "prior: median"), (2, None)):
                    axis.plot(t, bands[edge, 1], color=GREY, lw=1, ls="--", label=label)
                continue
            for q, alpha, label in (
                (0, 0.18, "posterior: lower and upper quartile"),
                (2, 0.18, None),
                (1, 0.45, "posterior: median"),
            ):
                axis.fill_between(
                    t, bands[0, q], bands[2, q], color=BLUE, alpha=alpha, lw=0, label=label
                )
            axis.plot(t, bands[1, 1], color=BLUE, lw=1.5)
            floors.append(float(bands[0, 0][t > 4].min()))
        _published(axis, last, cohort)
        size = last.curves[cohort].attrs["patients"]
        axis.set_title(f"{cohort} (n = {size})", loc="left", fontsize=10)
        axis.set_yscale("log")
        axis.set_xlabel("days after infusion")
        axis.spines[["top", "right"]].set_visible(False)
    bottom = min(floors)
    axes[0, 0].set_ylim(bottom=10 ** math.floor(math.log10(bottom)))
    axes[0, 0].set_ylabel(f"{last.bound.output} [{unit}]")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.suptitle(
        f"{last.bound.population.model.name} fitted to {last.bound.data.name}: "
        f"{last.interval} bands of replicated cohorts",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(handles, labels, loc="lower left", ncols=4, frameon=False, fontsize=8)
    return figure


def _published(axis: Axes, check: Predictive, cohort: str) -> None:
    """Published concentrations by day; else the published Cmax at the published Tmax."""
    own = check.bound.output
    summaries = [f for f in check.bound.cohorts[cohort].summaries if f.output == own]
    concentrations = [f for f in summaries if f.metric == "level"]
    bar: dict[str, Any] = {"fmt": "o", "color": INK, "ms": 5, "capsize": 3, "lw": 1.2, "zorder": 5}
    if concentrations:
        y = np.array([max(f.value, f.lloq if f.value < f.lloq else 0.0) for f in concentrations])
        ends = np.abs(np.array([interval_ends(f) for f in concentrations]) - y[:, None]).T
        kinds = dict.fromkeys(f"{f.statistic}, {f.interval}".rstrip(", ") for f in concentrations)
        axis.errorbar(
            [f.time for f in concentrations],
            y,
            yerr=ends,
            label=f"published: {'; '.join(kinds)}",
            **bar,
        )
        return
    peaks = [f for f in summaries if f.metric == "cmax"]
    times = [f for f in summaries if f.metric == "tmax"]
    if not (peaks and times):
        return
    peak, time = peaks[0], times[0]
    ends = np.abs(np.array([interval_ends(peak)]) - peak.value).T
    what = f"{peak.statistic} of Cmax" + (f" ({peak.interval})" if peak.interval else "")
    label = f"published: {what}, at the {time.statistic} Tmax"
    axis.errorbar([time.value], [peak.value], yerr=ends, label=label, **bar)


def interval_ends(summary: CohortSummary) -> tuple[float, float]:
    """Ends of the error bar of a published summary; the value without interval."""
    if summary.interval in WITH_ENDS:
        return max(summary.low, 0.1 * summary.value), summary.high
    if not summary.interval:
        return summary.value, summary.value
    if summary.statistic == "geometric mean" and summary.interval in ("CV%", "GSD"):
        factor = math.exp(sample_log_sd(summary))
        return summary.value / factor, summary.value * factor
    half = summary.spread / 100 * summary.value if summary.interval == "CV%" else summary.spread
    return max(summary.value - half, 0.1 * summary.value), summary.value + half


def summaries(check: Predictive) -> Figure:
    """Every published summary against its replicates, as ratios."""
    table = check.summaries.reset_index()
    figure, axis = plt.subplots(figsize=(8.5, 1.3 + 0.28 * len(table)))
    several = table["cohort"].nunique() > 1
    for i, row in enumerate(table.itertuples()):
        ratio = np.array([row.low, row.median, row.high]) / row.observed
        ratio = np.maximum(ratio, 1e-3)
        fitted = row.use != "check"
        colour = BLUE if fitted else GREY
        axis.plot(ratio[[0, 2]], [i, i], color=colour, lw=3, alpha=0.6, solid_capstyle="butt")
        axis.plot(ratio[1], i, "o", color=colour, ms=5)
    labels = [
        f"{r.cohort}: {r.statistic}" if several else f"{r.statistic}" for r in table.itertuples()
    ]
    axis.set_yticks(
        range(len(table)), [f"{s} (n = {n})" for s, n in zip(labels, table["n"], strict=True)]
    )
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.axvline(1.0, color=INK, lw=0.8)
    axis.set_xlabel(f"replicated / published (median and {check.interval} interval)")
    axis.plot([], [], color=BLUE, lw=3, alpha=0.6, label="in the likelihood")
    if (table["use"] == "check").any():
        axis.plot([], [], color=GREY, lw=3, alpha=0.6, label="kept out, compared here")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        f"{check.kind} predictive check: {check.bound.data.name}", loc="left", fontsize=11
    )
    figure.tight_layout()
    return figure


def prior_posterior(result: Fit) -> Figure:
    """Posterior (filled) against prior (line) of every population parameter."""
    bound = result.bound
    prior = prior_draws(bound.priors, PRIOR_DRAWS, seed=0)
    posterior = result.draws()
    panels = []
    for name in bound.priors:
        parameter = bound.parameters[name]
        of_prior, afters = (
            parameter.split(np.asarray(parameter.transform.forward(x[name])))
            for x in (prior, posterior)
        )
        panels += [(parameter, label, of_prior[label], afters[label]) for label in of_prior]
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.1 * rows + 0.5), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (parameter, label, before, after) in zip(axes.flat, panels, strict=False):
        low = min(np.quantile(before, 0.01), np.quantile(after, 0.001))
        high = max(np.quantile(before, 0.99), np.quantile(after, 0.999))
        bins = np.linspace(low, high, 50)
        axis.hist(after, bins, density=True, color=BLUE, alpha=0.6, label="posterior")
        axis.hist(before, bins, density=True, histtype="step", color=INK, lw=1.0, label="prior")
        shown = label.replace("[", "\n").removesuffix("]")
        shown += "" if parameter.unit in ("", "1") else f" [{parameter.unit}]"
        axis.set_title(shown, fontsize=8)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        _natural_ticks(axis, parameter, low, high)
    axes.flat[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"Posterior and prior: {bound.data.name}", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _natural_ticks(axis: Axes, parameter: PopulationParameter, low: float, high: float) -> None:
    """Label an axis of the estimation scale with natural values."""
    if parameter.transform.name == "identity":
        axis.tick_params(labelsize=7)
        return
    ticks = np.linspace(low, high, 5)[1:-1]
    inverse = parameter.transform.inverse
    axis.set_xticks(ticks, [f"{float(inverse(x)):.2g}" for x in ticks], fontsize=7)


@dataclasses.dataclass(frozen=True)
class Panel:
    """What a panel of `individual_fits` shows of a patient: all, or what follows one infusion.

    Attributes:
        patient: index into the patients.
        label: its title.
        here: which of the observations it shows.
        start: day from which its days count.
        stop: day on which its curve ends, that of the next infusion.
        first: nothing was given before it, so that days before `start` belong to it.
        place: number of the panel among the patient's.
    """

    patient: int
    label: str
    here: np.ndarray
    start: float = 0.0
    stop: float = math.inf
    first: bool = True
    place: int = 0


def _panels(seen: Observed, since: str) -> tuple[np.ndarray, list[Panel]]:
    """The days of the observations, and the panels of the patients, or of their infusions."""
    patients, data = seen.bound.patients, seen.bound.data
    if since == "first":
        return seen.time, [Panel(i, p, seen.patient == i) for i, p in enumerate(patients)]
    days, number = seen.since_last()
    doses, word = counted_from(data), dose_word(data)
    found = []
    for i, patient in enumerate(patients):
        times = np.unique(doses.loc[doses["patient"] == patient, "time"].to_numpy(float))
        ends = [0.0, *times, math.inf]
        own = seen.patient == i
        for place, n in enumerate(np.unique(number[own])):
            label = f"{patient}, {word} {n}" if len(times) > 1 else patient
            here = own & (number == n)
            found.append(Panel(i, label, here, ends[n], ends[n + 1], n <= 1, place))
    return days, found


def individual_fits(
    result: Fit,
    output: str | None = None,
    *,
    since: str = "first",
    draws: int = 200,
    seed: int = 0,
    most: int = 48,
) -> Figure:
    """Each patient's data of one output with IPRED, the interval of the patient's own curve.

    PRED is the curve without random effects, at the patient's covariates and doses. Arrows are
    infusions of cells, grey ticks other drugs of the days shown: from the infusion, or the first
    observation before it, to the last one.

    Args:
        result: a fit.
        output: of several endpoints; the first unless given.
        since: "first" or "last": days count from the first infusion of cells, or from the last one
            before the sample (of a drug in data without cells: time after dose, TAD). With "last",
            a panel per patient and infusion that has samples; its curve ends at the next infusion.
        draws: of the posterior behind the curves.
        seed: same seed, same draws.
        most: panels.
    """
    interval = options.interval
    check_since(since, "plot.individual_fits")
    bound = result.bound
    seen = Observed.of(bound, output, "plot.individual_fits")
    output = seen.output
    times, panels = _panels(seen, since)
    hidden, panels = len(panels[most:]), panels[:most]
    days = _grid(min(0.0, float(times.min())), float(times.max()))
    low, mid, high, pred = _curves(result, output, panels, days, draws, seed)
    columns = min(8, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(1.7 * columns + 0.8, 6.5), 1.5 * rows + 1.4),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    bottom, top = seen.value.min() / 5, seen.value.max() * 12
    scale = level_scale(seen.value)
    if scale == "linear":
        highest = max(float(seen.value.max()), float(np.nanmax(high)))
        bottom, top = -0.05 * highest, 1.3 * highest
    limits = np.unique(seen.lloq[seen.limited])
    limits = limits[(limits > bottom) & (limits < top)]
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    others = False
    for i, (panel, axis) in enumerate(zip(panels, axes.flat, strict=False)):
        axis.fill_between(days, low[i], high[i], color=BLUE, alpha=0.35, lw=0)
        axis.plot(days, pred[i], color=GREY, lw=1, ls="--")
        axis.plot(days, mid[i], color=BLUE, lw=1)
        if len(limits) == 1:
            axis.axhline(limits[0], color=INK, lw=0.6, ls=":")
        t, y, censored = (x[panel.here] for x in (times, seen.value, seen.censored))
        axis.plot(t[censored == 0], y[censored == 0], "o", color=INK, ms=2.5)
        axis.plot(t[censored == 1], y[censored == 1], "v", color=RED, ms=3)
        axis.plot(t[censored == -1], y[censored == -1], "^", color=RED, ms=3)
        axis.set_title(panel.label, fontsize=7, pad=2)
        axis.tick_params(labelsize=6)
        axis.set_yscale(scale)
        axis.spines[["top", "right"]].set_visible(False)
        time_axis(axis, days, apart=0.9)
        axis.set_xlabel("")
        others |= _doses(axis, bound, panel)
    axes[0, 0].set_ylim(bottom, top)
    figure.supylabel(f"{output} [{seen.unit}]", fontsize=9)
    shown = f"{len(panels)} of {len(panels) + hidden}"
    what = "patients" if since == "first" else f"{dose_word(bound.data)}s with samples"
    more = f" (the first {shown} {what})" if hidden else ""
    figure.suptitle(
        f"Individual fits of {output}, {bound.data.name}{more}", x=0.01, ha="left", fontsize=10
    )
    key = axes[0, 0]
    entries = {
        "observed": key.plot([], [], "o", color=INK, ms=3)[0],
        "IPRED, median": key.plot([], [], color=BLUE, lw=1)[0],
        f"its {interval} interval": key.fill_between([], [], [], color=BLUE, alpha=0.35, lw=0),
        "PRED, no random effects": key.plot([], [], color=GREY, lw=1, ls="--")[0],
    }
    if (seen.censored == 1).any():
        entries["below LLOQ"] = key.plot([], [], "v", color=RED, ms=3)[0]
    if (seen.censored == -1).any():
        entries["above the range"] = key.plot([], [], "^", color=RED, ms=3)[0]
    if len(limits) == 1:
        entries["LLOQ"] = key.plot([], [], color=INK, lw=0.6, ls=":")[0]
    entries["cells infused"] = key.plot([], [], marker="$\\downarrow$", color=INK, ls="", ms=7)[0]
    if others:
        entries["other drug"] = key.plot([], [], marker="|", color=GREY, ls="", ms=6)[0]
    words = day_label(bound.data, since) + " (log scale)" * bool(days[-1] > LONG)
    _key_below(figure, entries, words)
    return figure


def _curves(
    result: Fit, output: str, panels: Sequence[Panel], days: np.ndarray, draws: int, seed: int
) -> list[np.ndarray]:
    """Ends and median of IPRED, and PRED, (panel, day): low, median, high, PRED; NaN outside."""
    import jax
    import jax.numpy as jnp

    bound = result.bound
    each = max(panel.place for panel in panels) + 1
    grid = np.tile(days, (len(bound.patients), each, 1))
    outside = np.zeros((len(panels), len(days)), bool)
    closed = isinstance(bound.population.model, ClosedForm)
    for i, panel in enumerate(panels):
        earliest = -math.inf if panel.first else panel.start
        own = panel.start + days
        outside[i] = (own < earliest) | (own > panel.stop) | (closed & panel.first & (days <= 0))
        own = np.clip(own, earliest, panel.stop)
        grid[panel.patient, panel.place] = own
        grid[panel.patient, panel.place + 1 :] = own[-1]  # in order, where others have more panels
    levels_at = bound.patient_predictor(
        jnp.asarray(grid.reshape(len(grid), -1)), output=output, smooth=False
    )
    rows, places = (np.array([getattr(p, x) for p in panels]) for x in ("patient", "place"))

    def levels(params: Params) -> Array:
        found: Array = levels_at(params).reshape(grid.shape)[rows, places]
        return found

    sample = {k: jnp.asarray(v) for k, v in result.draws(draws, seed, effects=True).items()}
    ipred = jax.jit(lambda s: jax.lax.map(lambda x: levels(bound.of_sample(x)[0]), s))(sample)
    pred = jax.jit(lambda th: levels(bound.typical_patients(th)))(middle(result.draws()))
    ends = np.quantile(np.asarray(ipred), options.interval.with_median, axis=0)
    return [np.where(outside, np.nan, x) for x in (*ends, np.asarray(pred))]


def _key_below(figure: Figure, entries: dict[str, Artist], words: str) -> None:
    """The name of the axis of time and the key, in as many lines as it needs, under the panels."""
    lines = math.ceil(len(entries) / (figure.get_figwidth() / 1.6))
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, (0.28 + 0.2 * lines) / height, 1, 1))
    figure.text(0.5, (0.15 + 0.2 * lines) / height, words, ha="center", fontsize=9)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="lower left",
        ncols=math.ceil(len(entries) / lines),
        frameon=False,
        fontsize=8,
        borderpad=0.2,
    )


def _grid(first: float, last: float) -> np.ndarray:
    """Days of a curve: dense at the beginning, where concentrations rise."""
    even = np.linspace(to_scale(np.array(first)), to_scale(np.array(last)), 200)
    days = np.concatenate([np.linspace(first, last, 100), from_scale(even)])
    return np.unique(np.clip(days, first, last))


def _doses(axis: Axes, bound: BoundPopulation, panel: Panel) -> bool:
    """Arrows for a panel's infusions of cells, ticks for other drugs; whether there are ticks."""
    data, across = bound.data, axis.get_xaxis_transform()
    own = data.doses[data.doses["patient"] == bound.patients[panel.patient]]
    day = own["time"] - panel.start
    within = (own["time"] < panel.stop) & (panel.first | (day >= 0))
    cells = own.index.isin(data.infusions.index)
    for arrow in day[within & cells]:
        axis.annotate(
            "",
            (arrow, 0.84),
            (arrow, 1.0),
            xycoords=across,
            arrowprops={"arrowstyle": "->", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0},
        )
    ticks = day[within & ~cells & day.between(*axis.get_xlim())].to_numpy(float)
    axis.plot(ticks, np.full(len(ticks), 0.95), "|", color=GREY, ms=5, transform=across)
    return bool(len(ticks))


def waterfall(result: Fit) -> Figure:
    """ln density at the end of each start, relative to the best one, best first.

    A step that several starts share is a mode; a best one that a single start reached may not be
    the best there is.
    """
    ends = np.array(result.settings["ends"])
    below = np.maximum(ends[0] - ends, 1e-4)
    figure, axis = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    axis.plot(range(1, len(below) + 1), below, "o-", color=BLUE, lw=1, ms=5)
    axis.set_yscale("log")
    axis.axhline(SAME_MODE, color=GREY, lw=0.8, ls="--", label=f"the same mode: within {SAME_MODE}")
    axis.set_xlabel("start, best first")
    axis.set_ylabel("ln density below the best")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result.population.model.name} on {result.data.name}: modes from {len(ends)} starts",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure
