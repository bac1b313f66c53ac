"""Visual predictive checks: percentiles of the data by day against those of replicated data.

A replicated data set has as many new patients as the data, with their covariates, doses, sampling
days and limits of quantification, but random effects and residuals drawn anew, at one draw of the
posterior. What is compared is like with like: concentrations below the LLOQ are censored in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from carpk._late import late
from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.checks.observed import Observed, bound_of, middle, population_draws
from carpk.dataset.overview import check_since, day_label, dose_word
from carpk.errors import FitError
from carpk.inference.result import Fit
from carpk.population.bound import BoundPopulation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PERCENTILES = (5, 50, 95)
BELOW = "below LLOQ"
YES = "yes"
LEAST = 5  # observations in an automatic bin
MOST = 20  # automatic bins
COST = 0.3  # of one more bin, in ln(variance within bins)
ALIKE = 0.01  # times that differ by 1 % are taken as one by automatic bins
GRID = 400  # distinct times that automatic bins tell apart
STRATA = 12
TOLERANCE = 1e-9
NOTHING = 1e-15  # of the largest prediction: smaller ones are none


@dataclasses.dataclass(frozen=True)
class VPC:
    """A visual predictive check of one output.

    Attributes:
        table: one row per stratum, bin and statistic. `time` is the median day of the bin's
            observations, `time_low` and `time_high` their range, `n` their number; `statistic` is
            "5 %", "50 %", "95 %" (concentrations, counts), "below LLOQ" or, of observations that
            are yes or no, "yes" (shares of the observations);
            `observed`, and `low`, `median` and `high`: the median and equal-tailed interval of
            the same statistic over replicated data sets. A percentile at or below the LLOQ is -inf
            (inf: above the range of the assay): it compares, but is never drawn.
        points: one row per observation: patient, stratum, bin, time, value (corrected, if asked
            for), below.
        output, unit: what was checked.
        by: the covariate of the strata, or None.
        day_label: what its days are: "days after infusion", "days after the last infusion" or
            "days after the last dose".
        corrected: prediction-corrected.
        edges: of the bins [day]; each includes its lower edge.
        lloq: the limit of quantification where all observations have the same, else NaN.
        replicates, failed: replicated data sets; those left out as they were not finite.
        left_out: samples without a prediction that could correct them, as before the first dose.
        source: "posterior" or "prior".
        data: name of the data set.
        interval: `options.interval_prob` when it was made.
    """

    table: pd.DataFrame
    points: pd.DataFrame
    output: str
    unit: str
    by: str | None
    day_label: str
    corrected: bool
    edges: tuple[float, ...]
    lloq: float
    replicates: int
    failed: int
    left_out: int
    source: str
    data: str
    interval: Interval

    @property
    def outside(self) -> pd.DataFrame:
        """The rows of the table whose observed statistic lies outside its interval."""
        t = self.table
        return t[(t["observed"] < t["low"]) | (t["observed"] > t["high"])]

    def plot(self, *, points: bool = True) -> Figure:
        """Observed percentiles over the bands of their replicates; shares below the LLOQ."""
        figure: Figure = late("carpk.plot.vpc")(self, points=points)
        return figure

    def __repr__(self) -> str:
        kind = "Prediction-corrected visual" if self.corrected else "Visual"
        strata = "" if self.by is None else f" by {self.by}"
        patients = self.points["patient"].nunique()
        head = (
            f"{kind} predictive check of {self.output} [{self.unit}]{strata}: {self.data}, "
            f"{len(self.points)} observations, against {self.replicates} data sets of {patients} "
            f"new patients from the {self.source}."
        )
        lines = [head]
        if "last" in self.day_label:
            lines.append(f"  Time: {self.day_label}.")
        if self.failed:
            lines.append(f"  {self.failed} draws without finite concentrations are left out.")
        if self.left_out:
            lines.append(
                f"  {self.left_out} observations with a prediction of 0, as before the first dose, "
                "cannot be corrected and are left out."
            )
        t = self.table
        told = t[~((t["low"] == t["high"]) & (t["observed"] == t["low"]))]  # could have differed
        for words, own in (
            ("observed percentiles", told[~told["statistic"].isin([BELOW, YES])]),
            ("observed shares of yes", told[told["statistic"] == YES]),
            ("observed shares below the LLOQ", told[told["statistic"] == BELOW]),
        ):
            if len(own):
                inside = (own["low"] <= own["observed"]) & (own["observed"] <= own["high"])
                lines.append(
                    f"  {inside.sum()} of {len(own)} {words} lie in the {self.interval} interval "
                    "of their replicates."
                )
        lines.append(f"Observed ({self.interval} interval of replicates); * outside:")
        return "\n".join([*lines, _wide(t).to_string(index=False)])


def vpc(
    fit: Fit | BoundPopulation,
    *,
    output: str | None = None,
    by: str | None = None,
    since: str = "first",
    corrected: bool = False,
    bins: str | Sequence[float] = "auto",
    replicates: int = 500,
    seed: int = 0,
) -> VPC:
    """Percentiles of the patients' data by day, against those of data replicated from the fit.

    Concentrations below the LLOQ are censored in the data and in every replicate alike, and
    percentiles are Kaplan-Meier estimates for concentrations censored from the left
    (`percentiles`). With one LLOQ these are the plain percentiles with BLQ as the lowest; one that
    falls among BLQ is not drawn. The shares below the LLOQ are compared for themselves.

    Prediction-corrected (Bergstrand 2011, doi:10.1208/s12248-011-9255-z), every concentration is
    moved on the log scale by the median of ln PRED in its bin and stratum less its own ln PRED, so
    that doses, covariates and days that differ within a bin do not widen it. PRED is the
    concentration with all random effects 0 at the patient's covariates and doses and the median of
    the posterior; the same for data and replicates. Samples before the first dose have none, and
    are left out. Limits of quantification are moved with their
    concentration: each BLQ is known to lie below its own corrected limit, and its share of the
    distribution goes to what is lower.

    Replicates keep the sampling days of the real patients: where patients leave the study because
    of their concentrations, data and replicates differ for this reason as well.

    Args:
        fit: a fit; or a population model bound to data (`population.bind(data)`), whose prior is
            checked.
        output: of several endpoints; the first unless given.
        by: column of the patients or cohorts table, a panel for each of its values: an arm, say; or
            "infusion" ("dose" of a drug), a panel for the samples after each infusion.
        since: "first" or "last": days count from the first infusion of cells, or from the last one
            before the sample (of a drug in data without cells: time after dose, TAD), so that
            re-infusions share their bins. Before the first infusion days count to it.
        corrected: prediction-corrected.
        bins: "auto": clusters of sampling times on the scale ln(1 + days), each with at least 5
            observations, at most 20; the sum of squares within them is the smallest possible for
            their number, and one more must lower its logarithm by 0.3. "times": every day by
            itself. Or edges [day].
        replicates: replicated data sets.
        seed: same seed, same replicates.
    """
    who, interval = "checks.vpc", options.interval
    bound = bound_of(fit)
    seen = Observed.of(bound, output, who)
    check_since(since, who)
    after, number = seen.since_last()
    time = after if since == "last" else seen.time
    stratum, names = _strata(seen, number, by, who)
    edges = bin_edges(time, bins, who)
    theta = population_draws(fit, replicates, seed, who)
    y, failed = seen.replicates(theta, seed, who)
    below_y = y < seen.lloq
    y = np.where(below_y, seen.lloq, y)
    y = np.where(y > seen.upper, np.inf, y)
    below = seen.censored == 1
    value = np.where(seen.censored == -1, np.inf, np.where(below, seen.lloq, seen.value))
    shift = np.zeros(len(value))
    log_pred, known = shift, np.ones(len(value), bool)
    binary = bound.population.residual_of(seen.output).binary
    if corrected and binary:
        raise FitError(
            f"{who}: {seen.output!r} is yes or no, whose share has no prediction correction; leave "
            "out `corrected`, or stratify with `by`."
        )
    if corrected:
        pred = seen.population_prediction(middle(theta))
        log_pred, known = np.log(pred), pred > NOTHING * pred.max()
    which = np.searchsorted(edges[1:-1], time, side="right")
    rows: list[dict[str, str | float]] = []
    for s, name in enumerate(names):
        for b in range(len(edges) - 1):
            here = (stratum == s) & (which == b) & known
            if not here.any():
                continue
            shift[here] = np.median(log_pred[here]) - log_pred[here]
            factor = np.exp(shift[here])
            entry = {
                "stratum": name,
                "bin": b,
                "time": np.median(time[here]),
                "time_low": time[here].min(),
                "time_high": time[here].max(),
                "n": int(here.sum()),
            }
            if binary:
                share, again = value[here].mean(), ends_of(y[:, here].mean(axis=1), interval)
                rows.append(entry | _row(YES, share, again))
                continue
            found = percentiles(value[here] * factor, below[here])
            replicated = percentiles(y[:, here] * factor, below_y[:, here])
            again = ends_of(replicated, interval)
            for i, p in enumerate(PERCENTILES):
                rows.append(entry | _row(f"{p} %", found[i], again[:, i]))
            if seen.limited[here].any():
                limited = below_y[:, here][:, seen.limited[here]]
                share = float(below[here][seen.limited[here]].mean())
                rows.append(entry | _row(BELOW, share, ends_of(limited.mean(axis=1), interval)))
    points = as_frame(
        {
            "patient": seen.labels,
            "stratum": np.asarray(names, object)[stratum],
            "bin": which,
            "time": time,
            "value": np.where(np.isfinite(value), value, seen.value) * np.exp(shift),
            "below": below,
        }
    )[known]
    limits = np.unique(seen.lloq)
    return VPC(
        table=as_frame(rows),
        points=points,
        output=seen.output,
        unit=seen.unit,
        by=by,
        day_label=day_label(bound.data, since),
        corrected=corrected,
        edges=tuple(float(x) for x in edges),
        lloq=float(limits[0]) if len(limits) == 1 and seen.limited.all() else float("nan"),
        replicates=len(y),
        failed=failed,
        left_out=int((~known).sum()),
        source="prior" if isinstance(fit, BoundPopulation) else "posterior",
        data=bound.data.name,
        interval=interval,
    )


def _row(statistic: str, observed: float, again: np.ndarray) -> dict[str, str | float]:
    low, mid, high = (float(x) for x in again)
    return {
        "statistic": statistic,
        "observed": float(observed),
        "low": low,
        "median": mid,
        "high": high,
    }


def _strata(
    seen: Observed, number: np.ndarray, by: str | None, who: str
) -> tuple[np.ndarray, list[str]]:
    """The stratum of every observation as an index into their names."""
    data = seen.bound.data
    if by is None:
        return np.zeros(len(seen.time), int), ["all"]
    if by == dose_word(data) and not data.has_covariate(by):
        found, index = np.unique(number, return_inverse=True)
        _refuse_many(by, len(found), who)
        return index, [str(x) for x in found]
    values = data.covariate(by)
    found = np.unique(values) if values.dtype.kind == "f" else np.array(list(dict.fromkeys(values)))
    _refuse_many(by, len(found), who)
    index = np.argmax(values[:, None] == found, axis=1)
    names = [f"{x:g}" if values.dtype.kind == "f" else str(x) for x in found]
    return index[seen.patient], names


def _refuse_many(by: str, values: int, who: str) -> None:
    if values > STRATA:
        raise FitError(
            f"{who}: {by!r} has {values} different values, too many for a panel each; add a "
            "column of groups to the patients table, with pandas.cut say, and give its name as "
            "`by`."
        )


def ends_of(x: np.ndarray, interval: Interval) -> np.ndarray:
    """Ends of the equal-tailed interval and the median over draws, (3, ...): low, mid, high.

    Order statistics, so that percentiles below the LLOQ (-inf) can be among them.
    """
    ordered = np.sort(x, axis=0)
    last = len(x) - 1
    low, high = (last * share for share in interval.tails)
    return ordered[[int(np.floor(low)), round(last / 2), int(np.ceil(high))]]


def percentiles(
    values: np.ndarray, below: np.ndarray, shares: Sequence[float] = PERCENTILES
) -> np.ndarray:
    """Percentiles of concentrations of which some are only known to lie below a limit.

    The Kaplan-Meier estimate for censoring from the left: a concentration below a limit shares its
    weight among whatever is lower. With one limit for all this is the plain percentile (linear
    between neighbours, as NumPy and R have it) with those below the limit as the lowest.

    Args:
        values: (..., n) concentrations; the limit where `below`; inf where above the range of the
            assay.
        below: (..., n) whether only the limit is known.
        shares: percent.

    Returns:
        (..., len(shares)); -inf where the percentile, or its lower neighbour, is below all limits.
    """
    # at the same concentration, what lies below comes first
    order = np.lexsort((~below, values), axis=-1)
    v, b = np.take_along_axis(values, order, -1), np.take_along_axis(below, order, -1)
    n = v.shape[-1]
    rank = np.arange(1, n + 1)
    kept = np.where(b, 1.0, 1.0 - 1.0 / rank)
    lower = np.cumprod(kept[..., ::-1], axis=-1)[..., ::-1]  # P(Y < v)
    upto = n * np.concatenate([lower[..., 1:], np.ones((*lower.shape[:-1], 1))], axis=-1)
    out = []
    for share in shares:
        wanted = 1 + (n - 1) * share / 100  # a rank among n
        under = ~b & (upto <= wanted + TOLERANCE)
        over = ~b & (upto > wanted + TOLERANCE)
        i, j = n - 1 - np.argmax(under[..., ::-1], axis=-1), np.argmax(over, axis=-1)
        left, right = _at(v, i), _at(v, j)
        first, second = _at(upto, i), _at(upto, j)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.clip((wanted - first) / (second - first), 0.0, 1.0)
            even = (t < TOLERANCE) | (left == right)  # of which infinite ones have no difference
            between = np.where(even, left, left + t * (right - left))
        has_left, has_right = under.any(-1), over.any(-1)
        lowest = np.where(has_right & (_at(lower, j) < TOLERANCE), right, -np.inf)
        out.append(np.where(has_left, np.where(has_right, between, left), lowest))
    return np.stack(out, axis=-1)


def _at(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, index[..., None], -1)[..., 0]


# --- bins -----------------------------------------------------------------------------------------


def bin_edges(days: np.ndarray, bins: str | Sequence[float], who: str) -> np.ndarray:
    """Edges of the bins of these sampling times; see `vpc`."""
    if isinstance(bins, str):
        if bins == "times":
            return _between(np.unique(days), np.unique(days))
        if bins == "auto":
            return clusters(days)
    else:
        edges = np.asarray(bins, float)
        if edges.ndim == 1 and len(edges) > 1 and (np.diff(edges) > 0).all():
            out = days[(days < edges[0]) | (days > edges[-1])]
            if out.size:
                raise FitError(
                    f"{who}: {out.size} observations, on day {out[0]:g} for one, lie outside the "
                    f"bins from day {edges[0]:g} to day {edges[-1]:g}; add edges that hold them."
                )
            return edges
    raise FitError(
        f'{who}: bins must be "auto", "times" or at least two ascending edges in days, but is '
        f"{bins!r}."
    )


def clusters(days: np.ndarray) -> np.ndarray:
    """Edges between clusters of sampling times.

    For every number of bins the partition with the smallest sum of squares of ln(1 + days) within
    bins, by dynamic programming, each bin with at least `LEAST` observations; and of these numbers
    the one with the smallest ln(variance within) + 0.3 bins: penalised as proposed by Lavielle and
    Bleakley (2011, doi:10.1007/s10928-011-9223-3) for sampling times.
    """
    times, counts = np.unique(days, return_counts=True)
    low = high = times
    while len(times) > GRID:  # neighbours together
        pairs = np.arange(0, len(times), 2)
        low, high = low[pairs], high[np.minimum(pairs + 1, len(times) - 1)]
        times, counts = (low + high) / 2, np.add.reduceat(counts, pairs)
    x = np.sign(times) * np.log1p(np.abs(times))
    sums = [np.concatenate([[0.0], np.cumsum(counts * x**k)]) for k in range(3)]
    n, s, q = (np.subtract.outer(c, c).T for c in sums)  # [i, j]: of times i to j - 1
    least = min(LEAST, len(days))
    with np.errstate(invalid="ignore", divide="ignore"):
        cost = np.where(n >= least, np.maximum(q - s**2 / n, 0.0), np.inf)
    best = cost[0]
    cut = [np.zeros(len(best), int)]
    totals = [best[-1]]
    for _ in range(1, MOST):
        through = best[:, None] + cost
        cut.append(np.argmin(through, axis=0))
        best = through.min(axis=0)
        totals.append(best[-1])
    size = np.arange(1, MOST + 1)
    with np.errstate(invalid="ignore"):
        k = int(np.argmin(np.log(np.array(totals) / len(days) + ALIKE**2) + COST * size))
    ends, j = [], len(times)
    for i in range(k, 0, -1):
        j = int(cut[i][j])
        ends.append(j)
    starts = np.array([0, *ends[::-1]])
    stops = np.array([*starts[1:], len(times)]) - 1
    return _between(low[starts], high[stops])


def _between(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Edges half-way between bins that begin and end on these days."""
    outer = (first[0], last[-1]) if last[-1] > first[0] else (first[0] - 0.5, last[-1] + 0.5)
    return np.concatenate([[outer[0]], (last[:-1] + first[1:]) / 2, [outer[1]]])


# --- in words -------------------------------------------------------------------------------------


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """A row per stratum and bin, in words."""
    rows = []
    for (stratum, _), part in table.groupby(["stratum", "bin"], sort=False):
        first = part.iloc[0]
        a, b = first["time_low"], first["time_high"]
        row = {
            "stratum": stratum,
            "day": f"{a:.4g}" if a == b else f"{a:.4g} to {b:.4g}",
            "n": first["n"],
        }
        for r in part.to_dict("records"):
            text = _percent if r["statistic"] in (BELOW, YES) else _concentration
            star = "" if r["low"] <= r["observed"] <= r["high"] else " *"
            ends = f"{text(r['low'])} to {text(r['high'])}"
            row[r["statistic"]] = f"{text(r['observed'])} ({ends}){star}"
        rows.append(row)
    wide = as_frame(rows).fillna("")
    return wide if table["stratum"].iloc[0] != "all" else wide.drop(columns="stratum")


def _concentration(x: float) -> str:
    return "<LLOQ" if x == -np.inf else ">range" if x == np.inf else f"{x:.3g}"


def _percent(x: float) -> str:
    return f"{100 * x:.0f} %"
