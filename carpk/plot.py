"""Every figure. Levels are on a log10 axis; bands say what they are in the legend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from carpk.checks import Predictive, posterior_predictive, prior_predictive
from carpk.errors import FitError
from carpk.evidence import span
from carpk.inference import INTERVAL, PRIOR_DRAWS, Fit, patients
from carpk.sampler import prior_draws

if TYPE_CHECKING:
    from carpk.comparison import Comparison
    from carpk.evidence import Evidence
    from carpk.information import Identifiability
    from carpk.simulation import Simulation

BLUE, GREY, RED, INK = "#2a6fa8", "#9a9a9a", "#c23b22", "#222222"
WIDEST = (1e-2, 1e2)  # ratios beyond are drawn at the edge: one must not flatten the others
SPARE = ("#2e8b57", "#b8860b", "#7b4fa3")  # for more than three arms
LOW, HIGH = (1 - INTERVAL) / 2, (1 + INTERVAL) / 2


def fit(result: Fit, *, seed: int = 0) -> Figure:
    """Predictive bands over published figures, or individual fits; what the data call for."""
    if result.bound.cohorts:
        prior = prior_predictive(result.population, result.data, seed=seed)
        return predictive([prior, posterior_predictive(result, seed=seed)])
    return individual_fits(result, seed=seed)


def predictive(checks: Sequence[Predictive]) -> Figure:
    """Bands of replicated cohorts over the published figures, one panel per cohort.

    A band is the 90 % interval of the quartile of a replicated cohort of as many patients.
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
            bands = np.quantile(curves.values, [LOW, 0.5, HIGH], axis=0)
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
        "90 % bands of replicated cohorts",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(handles, labels, loc="lower left", ncols=4, frameon=False, fontsize=8)
    return figure


def _published(axis: Any, check: Predictive, cohort: str) -> None:
    """Published levels by day; else the published peak at the published time of the peak."""
    facts = [f for f in check.bound.cohorts[cohort].facts]
    levels = [f for f in facts if f.metric == "level"]
    bar = {"fmt": "o", "color": INK, "ms": 5, "capsize": 3, "lw": 1.2, "zorder": 5}
    if levels:
        y = np.array([f.value for f in levels])
        ends = np.array([[f.value - f.low, f.high - f.value] for f in levels]).T
        label = f"published: {levels[0].statistic}, {levels[0].interval}"
        axis.errorbar([f.time for f in levels], y, yerr=np.nan_to_num(ends), label=label, **bar)
        return
    peaks = [f for f in facts if f.metric == "cmax"]
    times = [f for f in facts if f.metric == "tmax"]
    if not (peaks and times):
        return
    peak, time = peaks[0], times[0]
    if peak.interval == "CV%":
        factor = math.exp(math.sqrt(math.log1p((peak.spread / 100) ** 2)))
        ends = np.array([[peak.value - peak.value / factor], [peak.value * factor - peak.value]])
        what = "geometric mean and SD of Cmax"
    else:
        spread = peak.spread if peak.interval == "SD" else 0.0
        ends = np.array([[min(spread, 0.9 * peak.value)], [spread]])
        what = "mean and SD of Cmax"
    label = f"published: {what}, at the median Tmax"
    axis.errorbar([time.value], [peak.value], yerr=ends, label=label, **bar)


def facts(check: Predictive) -> Figure:
    """Every published number against its replicates, as ratios."""
    table = check.facts.reset_index()
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
    axis.set_xlabel("replicated / published (median and 90 % interval)")
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
    info = bound.population.model.params.info()
    prior = prior_draws(bound.priors, PRIOR_DRAWS, seed=0)
    posterior = result.draws()
    panels = []
    for name in bound.priors:
        scale = bound.scale(name).forward
        before, after = (np.asarray(scale(x[name])) for x in (prior, posterior))
        if before.ndim == 1:
            panels.append((name, name, before, after))
        else:
            levels = bound.covariates[bound.effects[name][1]].columns
            for i, level in enumerate(levels):
                panels.append((name, f"{name}\n{level}", before[:, i], after[:, i]))
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.1 * rows + 0.5), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, label, before, after) in zip(axes.flat, panels, strict=False):
        low = min(np.quantile(before, 0.01), np.quantile(after, 0.001))
        high = max(np.quantile(before, 0.99), np.quantile(after, 0.999))
        bins = np.linspace(low, high, 50)
        axis.hist(after, bins, density=True, color=BLUE, alpha=0.6, label="posterior")
        axis.hist(before, bins, density=True, histtype="step", color=INK, lw=1.0, label="prior")
        unit = info[name].unit if name in info else "1"
        shown = label if unit == "1" else f"{label} [{unit}]"
        axis.set_title(shown, fontsize=8)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        _natural_ticks(axis, bound, name, low, high)
    axes.flat[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"Posterior and prior: {bound.data.name}", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _natural_ticks(axis: Any, bound: Any, name: str, low: float, high: float) -> None:
    """Label an axis of the estimation scale with natural values."""
    info = bound.population.model.params.info()
    if name in bound.effects:
        axis.tick_params(labelsize=7)
        return
    transform = info[name].transform if name in info else None
    inverse = transform.inverse if transform else np.exp
    ticks = np.linspace(low, high, 5)[1:-1]
    axis.set_xticks(ticks, [f"{float(inverse(x)):.2g}" for x in ticks], fontsize=7)


def individual_fits(
    result: Fit, output: str | None = None, *, draws: int = 200, seed: int = 0, most: int = 48
) -> Figure:
    """Each patient's data of one output with the 90 % interval of the patient's own curve."""
    import jax
    import jax.numpy as jnp

    bound = result.bound
    a = bound.individual
    observed = [bound.endpoints[analyte] for analyte in a.analytes]
    output = output or observed[0]
    if output not in observed:
        raise FitError(
            f"plot.individual_fits: there are no observations of {output!r} in this fit; it has "
            f"{', '.join(observed)}."
        )
    here = a.mask & (a.analyte == observed.index(output))
    sample = {k: jnp.asarray(v) for k, v in result.draws(draws, seed, effects=True).items()}
    grid = jnp.linspace(min(0.0, float(a.time[here].min())), float(a.time[here].max()), 200)
    levels_at = bound.patient_predictor(grid, output=output, smooth=False)

    def curves(sample: Any) -> Any:
        params, _ = patients(bound, sample)
        return levels_at(params)

    levels = jax.jit(lambda s: jax.lax.map(curves, s))(sample)
    low, mid, high = np.quantile(np.asarray(levels), [LOW, 0.5, HIGH], axis=0)
    shown = min(len(bound.patients), most)
    columns = min(8, shown)
    rows = math.ceil(shown / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.7 * columns + 0.8, 1.5 * rows + 0.8),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    measured = a.value[here]
    for axis in axes.flat[shown:]:
        axis.set_visible(False)
    for i, axis in zip(range(shown), axes.flat, strict=False):
        axis.fill_between(grid, low[i], high[i], color=BLUE, alpha=0.35, lw=0)
        axis.plot(grid, mid[i], color=BLUE, lw=1)
        seen = here[i]
        t, y, censored = a.time[i][seen], a.value[i][seen], a.censored[i][seen]
        axis.plot(t[censored == 0], y[censored == 0], "o", color=INK, ms=2.5)
        axis.plot(t[censored == 1], y[censored == 1], "v", color=RED, ms=3)
        axis.set_title(bound.patients[i], fontsize=7, pad=2)
        axis.tick_params(labelsize=6)
        axis.set_yscale("log")
    axes[0, 0].set_ylim(measured.min() / 5, measured.max() * 5)
    unit = bound.population.model.units[output]
    figure.supxlabel("days after infusion", fontsize=9)
    figure.supylabel(f"{output} [{unit}]", fontsize=9)
    figure.suptitle(
        f"Individual fits, {bound.data.name}: data (red triangle: below LLOQ), median and 90 % "
        "interval of the patient's curve",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    figure.tight_layout()
    return figure


def simulation(result: Simulation, output: str) -> Figure:
    """Median and 50 % and 90 % bands over simulated patients, with arrows at the infusions."""
    levels = result[output]
    t = levels["time"].values
    x = levels.values.reshape(-1, t.size)
    figure, axis = plt.subplots(figsize=(7, 4.2))
    positive = np.where(x > 0, x, np.nan)
    if x.shape[0] > 1:
        with np.errstate(all="ignore"):
            q = np.nanquantile(positive[:, t >= 0], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        day = t[t >= 0]
        axis.fill_between(day, q[0], q[4], color=BLUE, alpha=0.2, lw=0, label="90 % of patients")
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
    axis.set_ylabel(f"{output} [{levels.attrs['units']}], simulated")
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
            _in_words(row, usually),
            (1.02, i),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
        if usually == "difference":
            continue
        patients = np.clip([row["patient_low"], row["patient_high"]], *WIDEST)
        draws = np.clip([row["eti90_low"], row["eti90_high"]], *WIDEST)
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
        label = "its 90 % credible interval (parameters)"
        axis.plot([], [], color=INK, lw=5, alpha=0.6, label=label)
    if np.isfinite(table["patient_low"]).any():
        axis.plot([], [], color=INK, lw=1, label="90 % of patients")
    axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    axis.spines[["top", "right"]].set_visible(False)
    if result.curves is not None:
        _arm_curves(axes[0, 1], result.curves, colours)
    return figure


def _in_words(row: Mapping[Any, Any], contrast: str) -> str:
    """ "x 1.7 (0.9 to 3.0)" or "-12 day (-20 to -3)"."""
    ratio = contrast == "ratio"
    unit = "" if row["unit"] == "1" else f" {row['unit']}"
    number = "{:.3g}" if ratio else "{:+.3g}"
    text = ("x " if ratio else "") + number.format(row["estimate"]) + unit
    for low, high, words in (
        ("eti90_low", "eti90_high", " ({} to {})"),
        ("patient_low", "patient_high", "\npatients {} to {}"),
    ):
        if math.isfinite(row[low]):
            text += words.format(number.format(row[low]), number.format(row[high]))
    return text


def _ratio_axis(axis: Any, low: float, high: float) -> None:
    """A log axis around 1 with plain numbers."""
    axis.set_xscale("log")
    low, high = min(low / 1.15, 0.5), max(high * 1.15, 2.0)
    axis.set_xlim(low, high)
    narrow = high / low < 300
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=9))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def _arm_curves(axis: Any, curves: Any, colours: Mapping[str, str]) -> None:
    """Median and 90 % band over patients of each arm, on a log axis."""
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
    axis.set_ylim(bottom=max(bottom, peak * 1e-8))  # what is below is nobody's cell
    axis.set_xlabel("days after the first infusion")
    axis.set_ylabel(f"{curves.attrs['long_name']} [{curves.attrs['units']}], simulated")
    axis.legend(frameon=False, fontsize=8, title="bands: 90 % of patients", title_fontsize=8)
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
    labels: list[tuple[float, str, Any]] = []
    y = 0.0
    for name, row in studies.iterrows():
        axis.plot([row["fold_low"], row["fold_high"]], [y, y], color=BLUE, lw=1.5)
        axis.plot(row["fold"], y, "s", color=BLUE, ms=3 + math.sqrt(row["n"]))
        labels.append((y, f"{name}: {row['arm']} (n = {row['n']})", row))
        y += 1
    axis.axhline(y - 0.2, color=GREY, lw=0.6)
    y += 0.6
    for name, row in pooled.iterrows():
        low, high = 10 ** np.quantile(prior[str(name)], [LOW, HIGH])
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
    axis.set_xlabel("factor by which lymphodepletion multiplies expansion (median, 90 % interval)")
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
