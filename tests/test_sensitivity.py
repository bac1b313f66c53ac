"""What a posterior owes its prior and its data."""

import dataclasses

import conjugate
import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk import checks
from carpk._arviz import INFERENCE_DATA, az, group
from carpk.checks import powers
from carpk.inference.draws import log_priors


@pytest.fixture(scope="module")
def fit():
    return conjugate.fit_of(conjugate.POP.bind(conjugate.data()))


def with_prior(mean, sd, patients=12):
    """The exact fit under another prior of ln base: the fit's draws, chosen anew."""
    bound = conjugate.POP.bind(conjugate.data(patients))
    priors = {**conjugate.POP.priors, "base": dist.LogNormal(mean, sd)}
    other = dataclasses.replace(conjugate.POP, priors=priors).bind(bound.data)
    r, n = conjugate.logs(bound.individual)
    data_mean, data_sd = conjugate.typical_posterior(r, n, prior_precision=0.0)
    precision = 1 / data_sd**2 + 1 / sd**2
    centre = (data_mean / data_sd**2 + mean / sd**2) / precision
    rng = np.random.default_rng(1)
    mu = centre + precision**-0.5 * rng.normal(size=(4, 1000))
    samples = conjugate.posterior(bound.individual, (4, 1000), rng, mu=mu)
    return conjugate.made_up(other, samples)


def test_is_that_of_arviz(fit):
    """From the groups of the fit, log_prior and log_likelihood."""
    ours = checks.sensitivity(fit).table
    for component in ("prior", "likelihood"):
        if INFERENCE_DATA:
            theirs = az.psens(fit.idata, component=component, delta=0.01)["base"]
        else:
            theirs = az.psense(fit.idata, group=component)["base"]
        assert ours.loc["base", component] == pytest.approx(float(theirs), rel=0.02)


def test_a_prior_raised_to_a_power_is_the_normal_prior_with_another_width(fit):
    """On the estimation scale; the random effects' distribution stays as it is."""
    moved = checks.sensitivity(fit).moved
    r, n = conjugate.logs(fit.bound.individual)
    for power in (0.8, 1.25):
        precision = power / conjugate.PRIOR_SD**2
        mean, sd = conjugate.typical_posterior(r, n, prior_precision=precision)
        row = moved.loc[("base", "prior", power)]
        ends = np.log(row[["median", "eti90_low", "eti90_high"]].to_numpy(float))
        exact = mean + sd * scipy.stats.norm.ppf([0.5, 0.05, 0.95])
        assert ends == pytest.approx(exact, abs=0.03 * sd + 0.01)


def test_a_likelihood_raised_to_a_power_moves_as_refits_do(fit):
    """The density given the random effects, so a smaller variance of the assay's noise."""
    row = checks.sensitivity(fit).moved.loc[("base", "likelihood", 1.25)]
    a = fit.bound.individual
    r, n = conjugate.logs(a)
    mean, sd = conjugate.typical_posterior(r, n, sigma=conjugate.SIGMA / np.sqrt(1.25))
    assert np.log(row["median"]) == pytest.approx(mean, abs=0.05)
    assert np.log(row["eti90_high"] / row["eti90_low"]) == pytest.approx(2 * 1.645 * sd, rel=0.1)


@pytest.mark.parametrize(
    ("mean", "sd", "patients", "diagnosis"),
    [
        (np.log(10.0), 20.0, 12, "-"),
        (np.log(10.0) + 3.0, 0.3, 12, "prior-data conflict"),
        (np.log(10.0), 0.05, 2, "strong prior / weak likelihood"),
    ],
)
def test_names_the_trouble(mean, sd, patients, diagnosis):
    result = checks.sensitivity(with_prior(mean, sd, patients))
    assert result.table.loc["base", "diagnosis"] == diagnosis
    assert result.ok == (diagnosis != "prior-data conflict")
    first = repr(result).splitlines()[0]
    if diagnosis == "prior-data conflict":
        assert first.startswith("PRIOR AND DATA DISAGREE about base")
    else:
        assert first == "OK: no conflict between prior and data."
    assert ("prior decides base" in repr(result)) == (diagnosis.startswith("strong"))


def test_log_priors_are_those_of_the_estimation_scale():
    """A log-normal is normal there; a share is logit-normal; effects stay, summed over levels."""
    pop = ck.Population(
        ck.load_model("piecewise"),
        varies=["cmax"],
        covariates={"cmax": ["arm"]},
        priors={"fb": dist.Uniform(0, 1)},
    )
    rows = pd.DataFrame(
        [(p, 3.0, "car_t", 9.0, "cells/µL", 0.1, 0) for p in "abc"],
        columns=["patient", "time", "analyte", "value", "unit", "lloq", "censored"],
    )
    data = ck.Dataset.from_frames(
        patients=pd.DataFrame({"patient": list("abc"), "arm": list("xyz")}),
        doses=pd.DataFrame(
            {"patient": list("abc"), "time": 0.0, "product": "car_t", "amount": 1e8}
            | {"unit": "cells", "duration": 0.0}
        ),
        observations=rows,
        name="three",
    )
    bound = pop.bind(data)
    rng = np.random.default_rng(0)
    samples = {n: np.exp(0.1 * rng.normal(size=(2, 3))) for n in bound.priors}
    samples |= {n: rng.uniform(0.1, 0.9, size=(2, 3)) for n in ("fb", "beta_alpha")}
    samples["beta_cmax_arm"] = rng.normal(size=(2, 3, 2))
    found = log_priors(bound, samples)
    prior = bound.priors["cmax"]
    normal = scipy.stats.norm(float(prior.loc), float(prior.scale))
    np.testing.assert_allclose(found["cmax"], normal.logpdf(np.log(samples["cmax"])))
    x = samples["fb"]
    np.testing.assert_allclose(found["fb"], np.log(x * (1 - x)))
    both = scipy.stats.norm.logpdf(samples["beta_cmax_arm"]).sum(axis=-1)
    np.testing.assert_allclose(found["beta_cmax_arm"], both)


def test_the_fit_keeps_its_log_priors(fit):
    kept = group(fit.idata, "log_prior")
    assert set(kept) == set(fit.bound.priors)
    assert kept["base"].dims == ("chain", "draw")


def test_published_facts_are_part_of_the_likelihood():
    fit = conjugate.published()
    result, theta = checks.sensitivity(fit), fit.draws()
    summaries = jax.jit(jax.vmap(fit.bound.summary_log_likelihoods))(theta)
    total = np.sum([np.asarray(x).sum(axis=1) for x in summaries.values()], axis=0)
    log_prior = np.sum(list(log_priors(fit.bound, theta).values()), axis=0)
    again = powers.power_scaling({"base": theta["base"]}, log_prior, total)
    assert result.table.loc["base", "likelihood"] == pytest.approx(again.loc["base", "likelihood"])
    assert set(result.table.index) == set(fit.bound.priors)


def test_weights_that_cannot_be_relied_on_are_said(fit):
    result = dataclasses.replace(checks.sensitivity(fit), k_hat=0.9)
    assert not result.ok
    assert repr(result).startswith("DO NOT TRUST: the weights cannot be relied on")
