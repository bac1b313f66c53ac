"""Patients whose posterior is known in closed form, and draws of it that nothing sampled.

A level declines with a known rate from `base`, which varies between patients, and the assay is
log-normal: logs of the levels are jointly normal, ln base ~ Normal(ln 10, 1) included. The SDs have
priors so narrow that they are known.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import scipy.stats

import carpk as ck
from carpk.inference.draws import assemble

RATE, OMEGA, SIGMA = 0.1, 0.7, 0.4
PRIOR_MEAN, PRIOR_SD = np.log(10.0), 1.0
KNOWN = 1e-5  # SD of ln(omega) and ln(sigma)
SETTINGS = {"method": "nuts", "draws": 1000, "tune": 0, "chains": 4, "seed": 0}
SETTINGS |= {"target_accept": 0.9, "starts": 1, "max_draws": 1000}


class Params(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0")
    rate: ck.Scalar = ck.param(RATE, "1/day", "rate of the decline")


def car_t(t, p):
    return p.base * jnp.exp(-p.rate * t)


MODEL = ck.ClosedForm(
    name="decline", params=Params, outputs={"car_t": car_t}, units={"car_t": "cells/µL"}
)
POP = ck.Population(
    MODEL,
    varies=["base"],
    fixed={"rate": RATE},
    priors={
        "base": dist.LogNormal(PRIOR_MEAN, PRIOR_SD),
        "omega_base": dist.LogNormal(np.log(OMEGA), KNOWN),
        "sigma": dist.LogNormal(np.log(SIGMA), KNOWN),
    },
)


def data(patients=12, seed=0, shift=None):
    """Patients with 2 to 4 samples each, in two arms; `shift` moves ln base of some of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(patients):
        base = PRIOR_MEAN + OMEGA * rng.normal() + (shift or {}).get(f"p{i}", 0.0)
        for t in (1.0, 3.0, 7.0, 14.0)[: 2 + i % 3]:
            level = float(np.exp(base - RATE * t + SIGMA * rng.normal()))
            rows.append((f"p{i}", t, "car_t", level, "cells/µL", 1e-6, 0))
    columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    names = [f"p{i}" for i in range(patients)]
    return ck.Dataset.from_frames(
        patients=pd.DataFrame({"patient": names, "arm": [f"arm {i % 4}" for i in range(patients)]}),
        doses=pd.DataFrame(
            {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8}
            | {"unit": "cells", "duration": 0.0}
        ),
        observations=pd.DataFrame(rows, columns=columns),
        name="decline",
    )


def logs(individual):
    """ln level at day 0 that each sample tells, and the number of samples, per patient."""
    r = np.where(individual.mask, np.log(individual.value) + RATE * individual.time, 0.0)
    return r, individual.mask.sum(axis=1)


def typical_posterior(r, n, prior_precision=PRIOR_SD**-2, sigma=SIGMA):
    """Mean and SD of ln base of the typical patient."""
    each = OMEGA**2 + sigma**2 / np.maximum(n, 1)  # variance of a patient's mean
    precision = prior_precision + np.sum((n > 0) / each)
    means = r.sum(axis=1) / np.maximum(n, 1)
    mean = (PRIOR_MEAN * prior_precision + np.sum((n > 0) * means / each)) / precision
    return mean, precision**-0.5


def posterior(individual, shape, rng, mu=None):
    """Exact draws, name -> (*shape, ...), as the fit stores them; `mu` of ln base where given."""
    r, n = logs(individual)
    if mu is None:
        mean, sd = typical_posterior(r, n)
        mu = mean + sd * rng.normal(size=shape)
    variance = 1 / (n / SIGMA**2 + 1 / OMEGA**2)
    centre = variance * (r.sum(axis=1) - n * mu[..., None]) / SIGMA**2
    eta = centre + np.sqrt(variance) * rng.normal(size=(*shape, len(n)))
    known = {
        k: v * np.exp(KNOWN * rng.normal(size=shape))
        for k, v in (("omega_base", OMEGA), ("sigma", SIGMA))
    }
    return {"base": np.exp(mu), **known, "eta_base": eta}


def fit_of(bound, settings=SETTINGS, seed=1, **_):
    """A `Fit` of exact draws, in the place of `inference.fit_bound`."""
    shape = (settings["chains"], settings["draws"])
    samples = posterior(bound.individual, shape, np.random.default_rng(seed))
    return made_up(bound, samples, settings)


def made_up(bound, samples, settings=SETTINGS):
    """A `Fit` of these draws, name -> (chain, draw, ...)."""
    rng, shape = np.random.default_rng(0), samples["sigma"].shape[:2]
    stats = {"energy": rng.normal(size=shape), "diverging": np.zeros(shape, bool)}
    stats["reached_max_treedepth"] = np.zeros(shape, bool)
    return assemble(bound, samples, stats, dict(settings))


def density_of_left_out(bound, groups):
    """ln density of each group of samples given all other samples; groups are masks (P, T)."""
    a = bound.individual
    owner, _ = np.nonzero(a.mask)
    x = logs(a)[0][a.mask]
    cov = PRIOR_SD**2 + OMEGA**2 * (owner[:, None] == owner) + SIGMA**2 * np.eye(len(x))
    found = []
    for out in (g[a.mask] for g in groups):
        gain = cov[np.ix_(out, ~out)] @ np.linalg.inv(cov[np.ix_(~out, ~out)])
        mean = PRIOR_MEAN + gain @ (x[~out] - PRIOR_MEAN)
        left = cov[np.ix_(out, out)] - gain @ cov[np.ix_(~out, out)]
        of_logs = scipy.stats.multivariate_normal.logpdf(x[out], mean, left)
        found.append(of_logs - np.log(a.value[a.mask][out]).sum())
    return np.array(found)


def without_spread():
    """The same population with a base that does not vary."""
    priors = {k: v for k, v in POP.priors.items() if k != "omega_base"}
    return dataclasses.replace(POP, varies=(), priors=priors)


def published():
    """Geometric means of two cohorts on two days, instead of patients, and made-up draws."""
    base = {"analyte": "car_t", "metric": "level", "statistic": "geometric mean", "n": 20}
    base |= {"unit": "cells/µL", "use": "value", "source": "made up", "note": "no interval"}
    rows = [base | {"cohort": c, "time": t, "value": 9.0} for c in "ab" for t in (1.0, 3.0)]
    data = ck.Dataset.from_frames(summaries=pd.DataFrame(rows), name="published")
    priors = {"base": POP.priors["base"]}
    bound = dataclasses.replace(POP, priors=priors, virtual_patients=16).bind(data)
    rng = np.random.default_rng(0)
    centre = {"base": 11.0, "omega_base": OMEGA, "sigma": SIGMA}
    draws = {k: v * np.exp(0.1 * rng.normal(size=(2, 50))) for k, v in centre.items()}
    return made_up(bound, draws)
