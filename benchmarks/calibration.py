"""Are posteriors what they claim to be? Ranks of known truths; writes docs/calibration.md.

    python benchmarks/calibration.py --minutes 30          goes on where the last run stopped
    python benchmarks/calibration.py --only HEROS          parts whose name has these words
    python benchmarks/calibration.py --report              docs/calibration.md

Truths are drawn from the priors, data are simulated from them as they are published or measured,
and each data set is fitted; the rank of the truth among the draws must be uniform (simulation-based
calibration: Talts et al. 2018, arXiv:1804.06788). Every block of data sets is one line of
`calibration.jsonl`; what is there is not run again. Two parts are wrong on purpose.
"""

import argparse
import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import scipy.special
import scipy.stats as st
from verdict import append, code, lines, share, table

import carpk as ck
from carpk import evidence
from carpk.checks import SBC, sbc
from carpk.evidence.likelihoods import FEWEST, SLOPES
from carpk.inference.nuts import from_numpyro, one_chain_each, prior_draws
from carpk.solver.solve import solve_many

FOLDER = Path(__file__).resolve().parent
DONE = Path(__file__).with_suffix(".jsonl")
PAGE = FOLDER.parent / "docs" / "calibration.md"
RANKED = 99  # draws per data set: a central 90 % interval holds ranks 5 to 94
DRAWS = {"draws": 400, "tune": 300, "ranked": RANKED, "progress": False}


@dataclasses.dataclass(frozen=True)
class Part:
    """A kind of data, and what is fitted to it.

    Attributes:
        says: what is simulated and fitted.
        ranks: (data sets, seed) -> ranks of the truth.
        block: data sets per line.
        blocks: how many lines make the part whole.
        right: whether ranks must be uniform; otherwise they must not.
    """

    says: str
    ranks: Callable[[int, int], SBC]
    block: int
    blocks: int
    right: bool = True


# ---------------------------------------------------------------------------------------------
# Published cohorts
# ---------------------------------------------------------------------------------------------

SAMPLING = (3, 5, 8, 10, 12, 15, 18, 22, 28, 58, 88, 118, 148)
PRIORS = {  # about those of published CAR-T cohorts; assumed
    "cmax": dist.LogNormal(np.log(50), 0.7),
    "tmax": dist.LogNormal(np.log(9), 0.2),
    "omega_cmax": dist.LogNormal(np.log(0.8), 0.4),
    "sigma": dist.LogNormal(np.log(0.5), 0.2),
}
SPREAD = {"omega_t_alpha": dist.LogNormal(np.log(0.5), 0.4)}
FIXED = {"fb": 0.0079, "beta_alpha": 0.0142, "t_double": 0.755}
COHORT = {"cohort": "a", "analyte": "car_t", "unit": "cells/µL", "use": "fit", "value": 10.0}


def population(**changes: Any) -> ck.Population:
    """`piecewise`, whose Cmax and first half-life vary."""
    how = {"varies": ["cmax", "t_alpha"], "priors": PRIORS | SPREAD, "fixed": FIXED} | changes
    return ck.Population(ck.load_model("piecewise"), **how)


def level(day: float, n: int, **more: Any) -> dict[str, Any]:
    """Median and quartiles on a day. Here and below values are placeholders: n, days and
    statistics count."""
    quartiles = {"statistic": "median", "low": 5.0, "high": 20.0, "interval": "IQR"}
    return {"metric": "level", "time": day, "n": n, **quartiles, **more}


def peak(statistic: str, interval: str) -> list[dict[str, Any]]:
    """Cmax and the area to day 28 of 60 patients."""
    spread = {"statistic": statistic, "interval": interval, "n": 60}
    spread["spread"] = 20.0 if interval == "SD" else 100.0
    area = {"metric": "auc", "time": 28.0, "unit": "day*cells/µL"}
    return [{"metric": "cmax", **spread}, {**area, **spread}]


PUBLISHED = {
    "medians and quartiles": [level(d, 22) for d in (7.0, 14.0, 28.0, 90.0)],
    "geometric means": [
        *peak("geometric mean", "CV%"),
        {"metric": "tmax", "statistic": "median", "n": 60, "unit": "day"},
    ],
    "means, a range and a count": [
        *peak("mean", "SD"),
        level(28.0, 30, interval="range"),
        {"metric": "detectable", "statistic": "count", "time": 90.0, "unit": "count"}
        | {"n": 60, "lloq": 0.3},
    ],
}
MEDIANS = [level(d, 40) for d in (5.0, 7.0, 9.0, 11.0, 14.0, 21.0, 28.0)]


def of_cohort(rows: Sequence[Mapping], size: int, seed: int) -> SBC:
    data = cohort(rows)
    return sbc(population(virtual_patients=128), data, simulations=size, seed=seed, **DRAWS)


def cohort(rows: Sequence[Mapping]) -> ck.Dataset:
    facts = pd.DataFrame([COHORT | {"source": "simulated"} | dict(row) for row in rows])
    return ck.Dataset.from_frames(summaries=facts, sampling=SAMPLING, name="simulated")


def through_medians(size: int, seed: int) -> SBC:
    """One curve for all, through the medians of patients who peak on different days."""
    priors = PRIORS | {"omega_tmax": dist.LogNormal(np.log(0.4), 0.2)}
    truth = population(varies=["cmax", "tmax"], priors=priors, virtual_patients=128)
    own = {name: priors[name] for name in ("cmax", "tmax", "sigma")}
    one = dataclasses.replace(truth, varies=(), priors=own)
    how = {"simulations": size, "seed": seed, "fitted": one, "log_lik": False, **DRAWS}
    return sbc(truth, cohort(MEDIANS), **how)


# ---------------------------------------------------------------------------------------------
# Patients
# ---------------------------------------------------------------------------------------------

DAYS = (2.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0, 60.0)
LLOQ = 2.0  # cells/µL: a third of the samples or so lie below


class Measured(ck.LogNormal):
    """What is below the LLOQ counts as measured there: the error that M3 avoids."""

    def log_cdf(self, y: Any, f: Any, theta: Any) -> Any:
        return self.log_prob(y, f, theta)


def patients() -> ck.Dataset:
    names = [f"p{i}" for i in range(6)]
    seen = pd.MultiIndex.from_product([names, DAYS], names=["patient", "time"]).to_frame(False)
    doses = pd.DataFrame({"patient": names}).assign(
        time=0.0, product="car_t", amount=1e8, unit="cells", duration=0.0
    )
    return ck.Dataset.from_frames(
        doses=doses,
        observations=seen.assign(
            analyte="car_t", value=5.0, unit="cells/µL", lloq=LLOQ, censored=0
        ),
        name="simulated",
    )


def of_patients(size: int, seed: int, *, ignored: bool = False) -> SBC:
    truth = population()
    fitted = dataclasses.replace(truth, residual=Measured()) if ignored else None
    return sbc(truth, patients(), simulations=size, seed=seed, fitted=fitted, **DRAWS)


# ---------------------------------------------------------------------------------------------
# A trial as HEROS 2.0
# ---------------------------------------------------------------------------------------------

INFUSIONS = {"Flu": (1, 2, 2), "Flu/Cy": (1, 1, 1, 1, 2, 2, 2, 3, 3)}
EVERY = 42.0  # days between infusions, each after lymphodepletion of its own
ESTIMATED = ("kF", "kC", "rho", "rN", "dE")
SAMPLES = {"car_t": (3, 7, 10, 14, 21, 28), "alc": (0, 7, 14, 28)}


@cache
def niche() -> ck.ODEModel:
    return ck.load_model("niche", disease="solid", denominator="constant")


def trial() -> ck.Dataset:
    """3 patients after Flu and 9 after Flu/Cy, 21 infusions in all; cells and lymphocytes."""
    doses, seen = [], []
    for arm, each in INFUSIONS.items():
        regimen = niche().regimens[f"HEROS {arm}"]
        for i, infusions in enumerate(each):
            patient = f"{arm} {i + 1}"
            for later in range(infusions):
                for e in regimen.shift(later * EVERY).events:
                    doses.append((patient, e.time, e.product, e.amount, e.unit, 0.0))
                for analyte, days in SAMPLES.items():
                    seen += [(patient, later * EVERY + day, analyte) for day in days]
            seen.append((patient, -10, "alc"))
    names = ["patient", "time", "product", "amount", "unit", "duration"]
    observations = pd.DataFrame(seen, columns=["patient", "time", "analyte"])
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses, columns=names),
        observations=observations.assign(value=10.0, unit="cells/µL", lloq=0.1, censored=0),
        name="simulated trial",
    )


def expands(params: Any) -> np.ndarray:
    """Peak of typical patients after Flu/Cy over that after Flu."""
    days = np.arange(1.0, 29.0)
    flu, both = (
        solve_many(
            niche(), niche().regimens[f"HEROS {arm}"], days, params, rtol=1e-3, start=-10.0
        ).outputs["car_t"]
        for arm in ("Flu", "Flu/Cy")
    )
    return both.max(axis=1) / flu.max(axis=1)


def of_trial(size: int, seed: int) -> SBC:
    values = {k: i.value for k, i in niche().params.info().items() if k not in ESTIMATED}
    varies, analytes = ["kC", "rho"], ["car_t", "alc"]
    truth = ck.Population(niche(), varies=varies, fixed=values, analytes=analytes, rtol=5e-3)
    how = {"simulations": size, "seed": seed, "derived": {"Flu/Cy : Flu": expands}}
    return sbc(truth, trial(), method="laplace", log_lik=False, **how, **DRAWS)


# ---------------------------------------------------------------------------------------------
# Effects of lymphodepletion from published tables
# ---------------------------------------------------------------------------------------------

ERROR = {"odds_ratio": 1.4, "persistence": 0.17}  # as in the published rows


def scores(
    rng: np.random.Generator,
    mean: np.ndarray,
    share: np.ndarray,
    spread: float,
    n: int,
    *,
    expanded: bool = False,
) -> np.ndarray:
    """z of n patients of a mixed arm; with `expanded`, of n who expanded."""
    weight = share * st.norm.sf(0, mean, spread) if expanded else share
    component = rng.choice(len(share), n, p=weight / weight.sum())
    low = -mean / spread if expanded else np.full(len(share), -np.inf)
    u = st.norm.sf(low)[component] * rng.uniform(size=n)
    return mean[component] + spread * st.norm.isf(u)


def figure(
    rng: np.random.Generator, row: Any, t: Mapping, level: float, effect: np.ndarray
) -> tuple[float, float]:
    """(value, p) as such a study would have printed them."""
    mean, n = level + effect, 0 if np.isnan(row.n) else int(row.n)
    share = np.array([1 - row.cy, row.cy])
    slope = t[SLOPES[row.kind]] if row.kind in SLOPES else 0.0
    if row.kind in ERROR:
        seen = rng.normal(slope * share @ effect, ERROR[row.kind])
        value = np.exp(seen) if row.kind == "odds_ratio" else 10**seen
        return value, 2 * st.norm.sf(abs(seen) / ERROR[row.kind])
    if row.kind in ("detectable", "response"):
        component = rng.choice(len(share), n, p=share)
        p = scipy.special.expit(t["base_here"] + slope * effect)[component]
        return (rng.uniform(size=n) < p).sum(), np.nan
    if row.kind == "up_to":
        splits = [(m, k) for m in range(FEWEST, n) for k in range(FEWEST, n - m - FEWEST + 1)]
        m, k = splits[rng.integers(len(splits))]
        untreated = np.median(rng.normal(level, t["spread"], m))
        treated = scores(rng, mean, share, t["spread"], k).max() + t["dilution"]
        return np.round(treated - untreated), np.nan
    if row.kind == "median_fold":
        z = scores(rng, mean, share, t["spread"], n, expanded=True)
        return 10 ** np.median(z), np.nan
    count = (scores(rng, mean, share, t["spread"], n) > 0).sum()
    return (count if row.kind == "expanded" else float(count > 0)), np.nan


def printed(rng: np.random.Generator, bound: Any, t: Mapping) -> np.ndarray:
    """(value, p) of every row of the table, under the truth t."""
    a, u, v = (rng.normal(size=bound.sizes()[name]) for name in "auv")
    out = []
    for row in bound.table.itertuples():
        s, p = bound.studies.index(row.study), bound.products.index(row.product)
        flu = row.flu * (t["flu"] + t["tau"] * u[s])
        cy = (t["left"] if row.flu else 1.0) * (t["cy"] + t["tau"] * v[s])
        outcome = (row.product, row.kind)
        base = t["base"][bound.outcomes.index(outcome)] if outcome in bound.outcomes else 0.0
        level = t["level"] + t["level_sd"] * a[p]
        out.append(figure(rng, row, {**t, "base_here": base}, level, flu + np.array([0.0, cy])))
    return np.array(out, float).T


def of_evidence(size: int, seed: int) -> SBC:
    bound, rng = evidence.model(), np.random.default_rng([seed, 7])
    truth = prior_draws(bound.priors, size, seed=seed)
    truth["base"] = rng.normal(0, 1.5, (size, len(bound.outcomes)))
    each = [printed(rng, bound, {k: x[i] for k, x in truth.items()}) for i in range(size)]
    value, p = np.stack(each, axis=1)
    samples = one_chain_each(
        lambda data: from_numpyro(bound.numpyro_model, data),
        {"value": value, "p": p, "weight": np.ones_like(value)},
        draws=500,
        tune=500,
        seed=seed,
        target_accept=0.95,
        progress=False,
    )
    return SBC.of(
        evidence.lymphodepletion_effects(truth),
        evidence.lymphodepletion_effects(samples),
        draws=RANKED,
    )


# ---------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------

PARTS = {
    "medians and quartiles": Part(
        "`piecewise`, levels of 22 patients as medians with quartiles on four days; NUTS",
        partial(of_cohort, PUBLISHED["medians and quartiles"]),
        *(40, 5),
    ),
    "geometric means": Part(
        "`piecewise`, geometric means of Cmax and AUC of 60 patients with CVs, median Tmax; NUTS",
        partial(of_cohort, PUBLISHED["geometric means"]),
        *(40, 5),
    ),
    "means, a range and a count": Part(
        "`piecewise`, means of Cmax and AUC with SDs, the range of day 28, a count above the LLOQ "
        "on day 90; NUTS",
        partial(of_cohort, PUBLISHED["means, a range and a count"]),
        *(40, 5),
    ),
    "patients": Part(
        "`piecewise`, 6 patients, 8 samples each, about a third below the LLOQ; NUTS",
        of_patients,
        *(100, 2),
    ),
    "HEROS": Part(
        "`niche`, 3 patients after Flu and 9 after Flu/Cy, 21 infusions, cells and lymphocytes; "
        "Laplace",
        of_trial,
        *(10, 10),
    ),
    "evidence": Part(
        "effects of Flu and Cy from tables as those of `carpk.evidence`; NUTS",
        of_evidence,
        *(36, 5),
    ),
    "LLOQ as measured": Part(
        "as *patients*, but what is below the LLOQ is taken as measured there",
        partial(of_patients, ignored=True),
        *(40, 1),
        right=False,
    ),
    "one curve through medians": Part(
        "medians of 40 patients who peak on different days, fitted by one curve",
        through_medians,
        *(40, 1),
        right=False,
    ),
}


def go_on(minutes: float, only: str = "") -> None:
    """Run the blocks that are missing: the first of every part, then the second of each."""
    started = time.monotonic()
    known = {(line["part"], line["seed"]) for line in lines(DONE)}
    most = max(part.blocks for part in PARTS.values())
    todo = [(n, s) for s in range(most) for n, part in PARTS.items() if s < part.blocks]
    for name, seed in todo:
        if (name, seed) in known or only not in name:
            continue
        if time.monotonic() - started > 60 * minutes:
            print("Some blocks are left; the same command goes on.", flush=True)
            return
        begun = time.monotonic()
        result = PARTS[name].ranks(PARTS[name].block, seed)
        seconds = time.monotonic() - begun
        line = {"part": name, "seed": seed, "failed": result.failed, "seconds": round(seconds)}
        line |= {"ranks": {k: np.asarray(x).tolist() for k, x in result.ranks.items()}}
        append(DONE, line | {"code": code(), "date": f"{datetime.date.today()}"})
        print(f"{seconds:5.0f} s  {name}, block {seed + 1}", flush=True)
        jax.clear_caches()


# ---------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------

HEAD = ["data", "quantity", "data sets", "held 90 %", "held 50 %", "p", "posterior"]


def merged(done: Sequence[Mapping], name: str) -> SBC | None:
    """The ranks of all blocks of a part."""
    here = [line for line in done if line["part"] == name]
    if not here:
        return None
    ranks = {k: np.concatenate([line["ranks"][k] for line in here]) for k in here[0]["ranks"]}
    return SBC(ranks, RANKED, failed=sum(line["failed"] for line in here))


def held(ranks: np.ndarray, probability: float) -> float:
    """Share of data sets whose central interval of this probability holds the truth."""
    low = round((1 - probability) / 2 * (RANKED + 1))
    return float(np.mean((low <= ranks) & (ranks <= RANKED - low)))


def rows_of(name: str, result: SBC) -> list[list[str]]:
    rows = []
    for quantity, row in result.table.iterrows():
        ranks = result.ranks[quantity]
        shares = [f"{100 * held(ranks, p):.0f} %" for p in (0.9, 0.5)]
        told = [f"{row['p_adjusted']:.2f}", row["posterior"]]
        rows.append([name, quantity, f"{ranks.size}", *shares, *told])
    return rows


def page(done: Sequence[Mapping]) -> str:
    found = {name: merged(done, name) for name in PARTS}
    present = {name: result for name, result in found.items() if result is not None}
    right = {name: x for name, x in present.items() if PARTS[name].right}
    wrong = {name: x for name, x in present.items() if not PARTS[name].right}
    ranks = [x for result in right.values() for x in result.ranks.values()]
    inside, total = (sum(round(held(x, 0.9) * x.size) for x in ranks), sum(x.size for x in ranks))
    off = [f"{name} ({', '.join(x.off)})" for name, x in right.items() if x.off]
    unseen = [name for name, x in wrong.items() if not x.off]
    failed = sum(x.failed for x in present.values())
    planned = sum(part.blocks for part in PARTS.values())
    now = code()
    earlier = sum(line.get("code") != now for line in done)
    told = [
        "# Whether posteriors are what they claim to be",
        "Made by `python benchmarks/calibration.py --report` from `benchmarks/calibration.jsonl`, "
        f"{datetime.date.today()}: {len(done)} of {planned} blocks of simulated data sets"
        + (f", {earlier} of them by an earlier version of carpk" if earlier else "")
        + ". All data are simulated: truths come from the priors, data from the truths, and the "
        f"rank of each truth among {RANKED} posterior draws must be uniform. *held*: how often "
        "central intervals hold the truth; *p*: of the ECDF of the ranks, adjusted for the "
        "quantities of the same data (Holm); *posterior*: how it is off, where p is below 0.05. "
        "`log_lik` is the likelihood of all data, which shows data that are ignored.",
        f"**Intervals of 90 % hold {share(inside, total)} of the truths, if each counts alone. "
        + (f"Ranks are not uniform of: {'; '.join(off)}." if off else "No ranks tell against them.")
        + f"** Draws of {failed} data sets were not finite.",
        table(HEAD, [row for name, x in right.items() for row in rows_of(name, x)]),
        "What is simulated and fitted:",
        "\n".join(f"- *{name}*: {part.says}." for name, part in PARTS.items()),
        "## Wrong on purpose",
        "Two analyses that are often made, and whose intervals are wrong: "
        + ("ranks show both." if not unseen else f"not shown by ranks yet: {', '.join(unseen)}.")
        if wrong
        else "Not run yet.",
        table(HEAD, [row for name, x in wrong.items() for row in rows_of(name, x)]),
    ]
    return "\n\n".join(told) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="no block begins after these")
    parser.add_argument("--only", default="", help="parts whose name has these words")
    parser.add_argument("--report", action="store_true", help="write the page; fit nothing")
    args = parser.parse_args()
    if not args.report:
        go_on(args.minutes, args.only)
    text = page(lines(DONE))
    print(text)
    if args.report:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
