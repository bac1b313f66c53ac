"""Predictive checks and recovery."""

import dataclasses

import numpy as np
import pytest

import carpk as ck
from carpk import checks
from carpk._options import Interval
from carpk.population import replicates

POP = ck.Population(ck.load_model("piecewise"), varies=["cmax", "t_alpha"])


@pytest.fixture(scope="module")
def prior():
    return ck.checks.prior_predictive(POP, ck.load_study("zuma1_moffitt"), draws=100)


def test_every_printed_number_has_replicates(prior):
    assert len(prior.summaries) == 12  # four days, a median and two quartiles
    assert prior.summaries["n"].tolist()[:3] == [19, 19, 19]
    assert (prior.summaries["low"] < prior.summaries["high"]).all()


def test_replicated_quartiles_are_in_order(prior):
    curves = prior.curves["moffitt"]
    assert curves.dims == ("draw", "quantile", "time")
    assert (np.diff(curves.to_numpy(), axis=1) >= 0).all()


@pytest.mark.slow
def test_facts_outside_the_likelihood_are_compared_too():
    copies = ck.load_model("piecewise", output="transgene", unit="copies/µg", cmax=24_000)
    pop = ck.Population(copies, varies=["cmax"])
    summaries = ck.checks.prior_predictive(pop, ck.load_study("eliana_ensign"), draws=60).summaries
    assert set(summaries["use"]) == {"fit", "value", "check"}
    assert any("tlast" in statistic for _, statistic in summaries.index)


def test_geometric_cv_is_that_of_a_log_normal():
    x = np.exp(np.random.default_rng(0).normal(0, 0.8, 200_000))
    assert replicates.spread_of(x, "geometric mean", "CV%") == pytest.approx(
        100 * np.sqrt(np.expm1(0.64)), rel=0.01
    )


def test_recovery_counts_what_it_covers():
    truth = {"a": np.array([1.0, 2.0, 3.0])}
    quantiles = {"a": np.array([[1, 0, 2], [5, 4, 6], [3, 1, 9]], float)}
    result = checks.Recovery(truth, quantiles, {"a": np.array([0.0, 3.0, 0.0])}, 0, Interval(0.9))
    assert result.covered("a").tolist() == [True, False, True]
    assert result.table().loc["a", "coverage"] == pytest.approx(2 / 3)


def test_simulated_facts_are_those_of_the_population():
    """A cohort simulated at known parameters has the quartiles of that population."""
    study = ck.load_study("zuma1_moffitt").dataset()
    big = dataclasses.replace(study, summaries=study.summaries.assign(n=4000))
    bound = POP.bind(big)
    theta = {"cmax": 40.0, "tmax": 6.0, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.01}
    theta |= {"beta_alpha": 0.02, "omega_cmax": 0.7, "omega_t_alpha": 0.4, "sigma": 0.5}
    theta = {k: np.full(2, v) for k, v in theta.items()}
    values = replicates.simulated_values(bound, theta, seed=1)["moffitt"]
    one = {k: v[0] for k, v in theta.items()}
    levels = bound.predictors["moffitt"](bound.virtual_patients(one, "moffitt"))
    noise = bound.cohorts["moffitt"].normals()[1]
    y = np.asarray(levels) * np.exp(0.5 * noise)
    for day in range(4):
        exact = np.quantile(y[:, day], [0.5, 0.25, 0.75])
        assert values[0, day, :3] == pytest.approx(exact, rel=0.15)
