"""Calibrate the model `niche` to `targets.csv`; writes `models/niche_posterior.csv` and a report.

    python data/niche_calibration/calibrate.py                        some minutes on two cores
    python data/niche_calibration/calibrate.py --iterations 20 --rounds 50 --draws 20 --out .
                                                                      a look, kept elsewhere

Estimated together: rho (blood cancers), its ratio in solid tumors, kF, kC, LH, th, SA0, dE and rN.
Everything else keeps the values of the model's file. Statistics of cohorts are compared with those
of 32 virtual patients (fixed quasi-random numbers) who differ as the file says, measured with an
assay whose ln has an SD of 0.5; figures that were read as a typical patient's with the typical
patient's. The copies of the transgene are over the modelled leukocytes.

The posterior is drawn by importance sampling from t distributions, each around what the one before
found, the first around the mode. The Pareto k of the weights is printed; above 0.7 the draws are
not to be used. `report.csv` holds every target
beside its posterior predictive: what is not met is read there.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import jax.scipy.stats as jst
import numpy as np
import pandas as pd
from scipy.optimize import minimize

import carpk as ck
from carpk import _files
from carpk._arviz import pareto_smoothed
from carpk.models import _niche_parts as parts
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver
from carpk.summaries import (
    CohortLikelihood,
    CohortSummary,
    Quantity,
    quantiles,
    virtual_normals,
)

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"
TARGETS = pd.read_csv(HERE / "targets.csv", index_col="target")
SIZE, SIGMA = 32, 0.5
FLU_ONLY = 9  # of the 32 virtual patients of HEROS: 3 of 11 had Flu alone (AACR 2019)
OTHER_LYMPHOCYTES = 1.25  # B and NK cells: lymphocytes over T cells (assumed: 20 to 30 % more)
DOUBT = 0.1  # chance that a statement without a number says nothing of the quantity (assumed)
REACH = 5.0  # prior SDs that the mode is looked for in
DRAWS, DEGREES, ROUNDS = 1000, 5, (1500, 1500, 1500, 1500, 6000)

# name -> (middle, SD) of the normal prior on the estimation scale
LOG, LOGIT, PLAIN = (jnp.exp, jsp.expit, lambda x: x)
PRIORS = {
    "rho": (np.log(1.5), 0.4, LOG),
    "solid": (np.log(2 / 3), 0.3, LOG),
    "kF": (np.log(0.18), 0.5, LOG),
    "kC": (np.log(0.1), 0.7, LOG),
    "LH": (np.log(170.0), 0.5, LOG),
    "th": (0.7, 0.4, PLAIN),
    "SA0": (np.log(0.1 / 0.9), 1.0, LOGIT),
    "dE": (np.log(0.155), 0.3, LOG),
    "rN": (np.log(0.15), 0.25, LOG),
}

MODEL = ck.load_model("niche")
OWN = {  # what the file has for each disease
    disease: {k: i.value for k, i in ck.load_model("niche", disease=disease).params.info().items()}
    for disease in ("heme", "solid")
}
FLU, FLU_CY = (parts.REGIMENS[name] for name in ("HEROS Flu", "HEROS Flu/Cy"))
STANDARD = parts.FLU_3 + parts.CY_3
HEROS_DRUGS = ck.Regimen(FLU_CY.drugs)
SAMPLES = (0.125, 7.0, 14.0, 21.0, 28.0, 42.0)  # of HEROS: after 3 h, then weekly (assumed)
BLOOD_DAYS = (3.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0)  # of Kochenderfer 2017 (assumed)
RISE = np.arange(2.0, 9.0, 0.5)
FALL = np.arange(10.0, 41.0, 5.0)
EXPANDED = np.log(3.0)  # ln fold from which cells count as expanded (assumed)


def rest(days):
    return STANDARD.shift(3 - days) + parts.ONCE


def values(u, disease):
    """Typical values from the vector on the estimation scale."""
    named = {k: inverse(x) for (k, (_, _, inverse)), x in zip(PRIORS.items(), u, strict=True)}
    ratio = named.pop("solid")
    if disease == "solid":
        named["rho"] = named["rho"] * ratio
    return named


def patients(typical, z):
    """Virtual patients with scores z (patient, effect); leaves (patient,)."""
    out, column = {}, 0
    for name, info in MODEL.params.info().items():
        x = jnp.broadcast_to(jnp.asarray(typical[name], float), (len(z),))
        if info.iiv and not info.is_covariate:
            x = info.transform.inverse(info.transform.forward(x) + info.iiv * z[:, column])
            column += 1
        out[name] = x
    return MODEL.params(**out)


VARYING = sum(bool(i.iiv) for i in MODEL.params.info().values())
Z = virtual_normals(SIZE, VARYING)
ONE = np.zeros((1, VARYING))
NOISE = virtual_normals(SIZE, 60)[:, ::-1]
U0 = np.array([m for m, _, _ in PRIORS.values()])
SD = np.array([s for _, s, _ in PRIORS.values()])
A_DAYS = np.unique([0.0, *BLOOD_DAYS, *RISE, *FALL])
B_DAYS = np.unique([0.0, *SAMPLES])
EARLY = np.arange(-8.0, 0.0, 0.25)  # so that steps are short while the drugs act
C_DAYS = np.unique([*np.arange(113.0), *(EARLY + 42), *(EARLY + 84)])
RUNS = {  # name -> disease, what each patient is given, days, scores
    "blood": ("heme", [STANDARD + parts.ONCE] * SIZE, A_DAYS, Z),
    "flu": ("solid", [FLU] * SIZE, B_DAYS, Z),
    "flu_cy": ("solid", [FLU_CY] * SIZE, B_DAYS, Z),
    "none": ("solid", [parts.ONCE] * SIZE, B_DAYS, Z),
    "typical": ("heme", [STANDARD + parts.ONCE], A_DAYS, ONE),
    "rest": ("heme", [rest(2), rest(8), rest(14)], np.arange(1.0, 29.0), np.repeat(ONE, 3, 0)),
    "cycles": ("solid", [parts.before_each(HEROS_DRUGS)], C_DAYS, ONE),
}


def everybody(u):
    """The patients of all runs; leaves (patient,)."""
    each = [patients(OWN[d] | values(u, d), z) for d, _, _, z in RUNS.values()]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *each)


def prepared():
    """One solver for the patients of all runs."""
    regimens = [regimen for _, given, _, _ in RUNS.values() for regimen in given]
    width = max(len(days) for _, _, days, _ in RUNS.values())
    rows = [
        np.pad(np.append(EARLY, days), (0, width - len(days)), constant_values=np.nan)
        for _, given, days, _ in RUNS.values()
        for _ in given
    ]
    schedule = Schedule.of(MODEL, regimens, np.array(rows), start=-30.0)
    rng = np.random.default_rng(1)
    centres = [U0 + 0.7 * SD * rng.standard_normal(len(U0)) * (i > 0) for i in range(6)]
    reference = jax.tree.map(lambda *x: jnp.stack(x), *map(everybody, centres))
    made = Solver.prepare(schedule, reference, rtol=5e-3, share=0.99)
    assert made.mesh is not None, made.why
    print(made.describe(), file=sys.stderr)
    return made


SOLVER = prepared()


def runs(u):
    """Name -> outputs (patient, day) of every run."""
    levels, first, out, skip = SOLVER(everybody(u)), 0, {}, len(EARLY)
    for name, (_, given, days, _) in RUNS.items():
        here = slice(first, first + len(given))
        out[name] = {
            k: levels[k][here, skip : skip + len(days)] for k in ("car_t", "alc", "transgene")
        }
        first += len(given)
    return out


def at(days, wanted):
    return np.searchsorted(days, wanted)


def statistics(u):
    """Target -> what the model says of it; cohorts as arrays over their patients."""
    r = runs(u)
    eps = SIGMA * NOISE
    blood, flu, both, none = (r[k] for k in ("blood", "flu", "flu_cy", "none"))
    peaks = blood["car_t"][:, at(A_DAYS, BLOOD_DAYS)] * jnp.exp(eps[:, : len(BLOOD_DAYS)])

    def sampled(levels):
        return levels["transgene"][:, at(B_DAYS, SAMPLES)]

    pooled = jnp.concatenate([sampled(flu)[:FLU_ONLY], sampled(both)[FLU_ONLY:]])
    noisy = jnp.log(pooled) + eps[:, : len(SAMPLES)]
    quiet = jnp.log(sampled(none)) + eps[:, : len(SAMPLES)]
    typical, rested, cycles = r["typical"], r["rest"]["car_t"], r["cycles"]["car_t"][0]
    rise = jnp.log(typical["car_t"][0, at(A_DAYS, RISE)])
    fall = jnp.log(typical["car_t"][0, at(A_DAYS, FALL)])
    ends = [jnp.max(cycles[(a <= C_DAYS) & (a + 34 > C_DAYS)]) for a in (1, 85)]
    return {
        "alc_heros_flu": OTHER_LYMPHOCYTES * flu["alc"][:, 0],
        "alc_heros_flu_cy": OTHER_LYMPHOCYTES * both["alc"][:, 0],
        "alc_axi_cel": OTHER_LYMPHOCYTES * blood["alc"][:, 0],
        "t_cells": typical["alc"][0, 0],
        "alc_day_30": OTHER_LYMPHOCYTES * blood["alc"][:, at(A_DAYS, 30.0)],
        "peak_without": jax.nn.logsumexp(quiet[:, 1:] / 0.05, axis=1) * 0.05 - quiet[:, 0],
        "pooled": pooled,
        "fold": jax.nn.logsumexp(noisy[:, 1:] / 0.05, axis=1) * 0.05 - noisy[:, 0],
        "peak_kochenderfer": peaks.max(axis=1),
        "t_double": jnp.log(2) / (jnp.max(jnp.diff(rise)) / 0.5),
        "t_half_contraction": jnp.log(2) * 5 / jnp.max(fall[:-1] - fall[1:]),
        "rest_8": rested[1].max() / rested[0].max(),
        "rest_14": rested[2].max() / rested[0].max(),
        "third_cycle": ends[1] / ends[0],
        "flu_cy_over_flu": jnp.exp(
            jnp.mean(jnp.log(both["car_t"].max(axis=1)) - jnp.log(flu["car_t"].max(axis=1)))
        ),
        "flu_cy_over_flu_copies": jnp.exp(
            jnp.mean(jnp.log(sampled(both).max(axis=1)) - jnp.log(sampled(flu).max(axis=1)))
        ),
    }


def share_below(x, limit, sd):
    """Share of patients below a limit, each measured with this SD of ln."""
    return jnp.mean(jst.norm.cdf((jnp.log(limit) - jnp.log(x)) / sd))


def binomial(k, n, p):
    p = jnp.clip(p, 1e-6, 1 - 1e-6)
    return k * jnp.log(p) + (n - k) * jnp.log1p(-p)


def summary(name, metric, statistic, time=np.nan, lloq=np.nan):
    row = TARGETS.loc[name]
    nan = float("nan")
    return CohortSummary(
        metric, time, statistic, float(row.value), nan, nan, "", nan, int(row.n), lloq, "fit", name
    )


HEROS = CohortLikelihood(
    summaries=(
        summary("tmax", "tmax", "median"),
        summary("detectable_day_42", "detectable", "count", 42.0, 50.0),
    ),
    sampling=SAMPLES,
    residuals={"": ck.LogNormal()},
    virtual_patients=SIZE,
    random_effect_count=VARYING,
)


def log_likelihoods(u):
    """Target -> ln likelihood."""
    s, value = statistics(u), TARGETS["value"]

    def typical(x, target, sd):
        return jst.norm.logpdf(jnp.log(x), np.log(value[target]), sd)

    def at_least(target, sd):
        return jst.norm.logcdf((jnp.log(s[target]) - np.log(value[target])) / sd)

    grown = jax.nn.sigmoid((s["fold"] - EXPANDED) / 0.1)
    low, high = (share_below(s["peak_kochenderfer"], x, 0.1) for x in (15.0, 98.0))
    thirds = jnp.clip(jnp.stack([low, high - low, 1 - high]), 1e-6, 1.0)
    median = jnp.mean(jnp.log(s["alc_axi_cel"]))
    edges = [(np.log(TARGETS[k]["alc_axi_cel"]) - median) / 0.5 for k in ("low", "high")]
    folds = Quantity(s["fold"], grown + 1e-3, None)
    tmax, late, _ = HEROS.log_likelihoods(s["pooled"], {"": {"sigma": SIGMA}})
    return {
        "alc_heros_flu": 3 * jnp.log(share_below(s["alc_heros_flu"], 100.0, 0.3) + 1e-9),
        "alc_heros_flu_cy": 3 * jnp.log(share_below(s["alc_heros_flu_cy"], 100.0, 0.3) + 1e-9),
        "alc_axi_cel": jnp.log(jst.norm.cdf(edges[1]) - jst.norm.cdf(edges[0]) + 1e-9),
        "t_cells_kimmel": typical(s["t_cells"], "t_cells_kimmel", 0.7),
        "t_cells_martinez": typical(s["t_cells"], "t_cells_martinez", 0.7),
        "alc_day_30": 10 / 96 * binomial(84, 96, 1 - share_below(s["alc_day_30"], 500.0, 0.3)),
        "peak_without": binomial(
            2, 17, jnp.mean(jax.nn.sigmoid((s["peak_without"] - EXPANDED) / 0.1))
        ),
        "expanded": 13 / 21 * binomial(19, 21, jnp.mean(grown)),
        "fold": quantiles(summary("fold", "fold", "median"), folds).log_prob,
        "tmax": tmax,
        "detectable_day_42": late,
        "peak_kochenderfer": jnp.sum(jnp.array([4.0, 10.0, 8.0]) * jnp.log(thirds)),
        "t_double": typical(s["t_double"], "t_double", 0.1),
        "t_half_contraction": typical(s["t_half_contraction"], "t_half_contraction", 0.15),
        "rest_8": at_least("rest_8", 0.3),
        "rest_14": at_least("rest_14", 0.5),
        "third_cycle": jnp.logaddexp(
            np.log(DOUBT), np.log(1 - DOUBT) + at_least("third_cycle", 0.5)
        ),
    }


def log_posterior(w):
    """Of the standardized parameters w: prior standard normal."""
    return sum(log_likelihoods(U0 + SD * w).values()) - 0.5 * jnp.sum(w**2)


def report(draws):
    """Every target beside the median and 90 % interval of what the posterior says of it."""
    rows = {
        "alc_heros_flu": ("alc_heros_flu", lambda x: jnp.median(x)),
        "alc_heros_flu_cy": ("alc_heros_flu_cy", lambda x: jnp.median(x)),
        "alc_axi_cel": ("alc_axi_cel", lambda x: jnp.median(x)),
        "t_cells_kimmel": ("t_cells", lambda x: x),
        "t_cells_martinez": ("t_cells", lambda x: x),
        "alc_day_30": ("alc_day_30", lambda x: jnp.median(x)),
        "peak_without": ("peak_without", lambda x: 17 * jnp.mean(x > EXPANDED)),
        "expanded": ("fold", lambda x: 21 * jnp.mean(x > EXPANDED)),
        "fold": ("fold", lambda x: jnp.exp(jnp.nanmedian(jnp.where(x > EXPANDED, x, jnp.nan)))),
        "tmax": ("pooled", lambda x: jnp.median(jnp.asarray(SAMPLES)[jnp.argmax(x, axis=1)])),
        "detectable_day_42": ("pooled", lambda x: 6 * jnp.mean(x[:, -1] > 50.0)),
        "peak_kochenderfer": ("peak_kochenderfer", lambda x: jnp.median(x)),
        "t_double": ("t_double", lambda x: x),
        "t_half_contraction": ("t_half_contraction", lambda x: x),
        "rest_8": ("rest_8", lambda x: x),
        "rest_14": ("rest_14", lambda x: x),
        "third_cycle": ("third_cycle", lambda x: x),
        "flu_cy_over_flu": ("flu_cy_over_flu", lambda x: x),
        "flu_cy_over_flu_copies": ("flu_cy_over_flu_copies", lambda x: x),
    }

    def one(u):
        s = statistics(u)
        return {name: f(s[key]) for name, (key, f) in rows.items()}

    said = jax.jit(partial(jax.lax.map, one))(jnp.asarray(draws))
    table = []
    for name, x in said.items():
        low, mid, high = np.quantile(np.asarray(x), [0.05, 0.5, 0.95])
        target = TARGETS["value"].get(name, np.nan)
        table.append((name, target, mid, low, high))
    columns = ["target", "value", "model_median", "eti90_low", "eti90_high"]
    return pd.DataFrame(table, columns=columns).set_index("target")


def lowest(iterations):
    """The mode of the standardized parameters, and the inverse Hessian that L-BFGS has met."""
    downhill = jax.jit(jax.value_and_grad(lambda w: -log_posterior(w)))

    def finite(w):
        value, slope = map(np.asarray, downhill(w))
        bad = not (np.isfinite(value) and np.isfinite(slope).all())
        return (1e10, np.zeros_like(slope)) if bad else (float(value), slope)

    bounds = [(-REACH, REACH)] * len(U0)
    options = {"maxcor": 50, "maxiter": iterations}
    found = minimize(
        finite, np.zeros(len(U0)), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return found.x, found.hess_inv.todense()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, nargs="+", default=ROUNDS)
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws that are written")
    parser.add_argument("--iterations", type=int, default=15000, help="at most, to the mode")
    parser.add_argument("--out", type=Path, help="folder of draws and report, if not their own")
    args = parser.parse_args()
    mode, metric = lowest(args.iterations)
    print(dict(zip(PRIORS, mode, strict=True)), file=sys.stderr)
    factor = np.linalg.cholesky(metric)
    rng = np.random.default_rng(2026)
    valued = jax.jit(partial(jax.lax.map, log_posterior))
    for size in args.rounds:  # each is drawn around what the one before found
        scale = np.sqrt(DEGREES / rng.chisquare(DEGREES, size))
        steps = rng.standard_normal((size, len(U0))) * scale[:, None]
        proposals = mode + steps @ factor.T
        inside = -(DEGREES + len(U0)) / 2 * np.log1p(np.sum(steps**2, axis=1) / DEGREES)
        target = np.asarray(valued(jnp.asarray(proposals)))
        ratio = np.where(np.isfinite(target), target - inside, -np.inf)
        smoothed, k_hat = pareto_smoothed(ratio)
        weights = np.exp(smoothed - smoothed.max())
        weights /= weights.sum()
        print(
            f"Pareto k {k_hat:.2f}, effective draws {1 / np.sum(weights**2):.0f}", file=sys.stderr
        )
        mode = weights @ proposals
        spread = np.cov(proposals.T, aweights=weights) + 0.01 * np.eye(len(U0))
        factor = np.linalg.cholesky(spread)
    chosen = rng.choice(len(proposals), args.draws, p=weights)
    draws = U0 + SD * proposals[chosen]
    named = {k: np.asarray(i(draws[:, j])) for j, (k, (_, _, i)) in enumerate(PRIORS.items())}
    frame = pd.DataFrame(named)
    frame.insert(1, "rho_solid", frame["rho"] * frame.pop("solid"))
    _files.write(
        (args.out or MODELS) / "niche_posterior.csv", frame.to_csv(index=False, float_format="%.5g")
    )
    found = report(draws)
    _files.write((args.out or HERE) / "report.csv", found.to_csv(float_format="%.4g"))
    print(frame.describe(percentiles=[0.05, 0.5, 0.95]).to_string())
    print(found.to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
