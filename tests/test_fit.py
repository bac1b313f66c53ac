"""From data to posterior, verdict and file."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk.inference.density import LogDensity

DAYS = [2.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0, 60.0]
LLOQ = 0.5


def simulated(patients=6, seed=0, lloq=LLOQ):
    """Simulated patients of a known population; every value is invented."""
    rng = np.random.default_rng(seed)
    model = ck.load_model("piecewise")
    rows = []
    for i in range(patients):
        p = model.params().replace(
            cmax=60 * math.exp(0.6 * rng.standard_normal() - 1.0 * (i % 2)),
            t_alpha=5 * math.exp(0.3 * rng.standard_normal()),
        )
        levels = np.asarray(model.level("car_t", jnp.array(DAYS), p))
        for t, y in zip(DAYS, levels * np.exp(0.4 * rng.standard_normal(len(DAYS))), strict=True):
            rows.append((f"p{i}", t, "car_t", max(y, lloq), "cells/µL", lloq, int(y < lloq)))
    columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    names = [f"p{i}" for i in range(patients)]
    return ck.Dataset.from_frames(
        patients=pd.DataFrame(
            {"patient": names, "arm": ["a" if i % 2 == 0 else "b" for i in range(patients)]}
        ),
        doses=pd.DataFrame(
            {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8}
            | {"unit": "cells", "duration": 0.0}
        ),
        observations=pd.DataFrame(rows, columns=columns),
        name="simulated",
    )


POP = ck.Population(
    ck.load_model("piecewise"),
    varies=["cmax", "t_alpha"],
    covariates={"cmax": ["arm"]},
    fixed={"fb": 0.0079, "beta_alpha": 0.0142},
)


@pytest.fixture(scope="module")
def data():
    return simulated()


@pytest.fixture(scope="module")
def fit(data):
    return ck.fit(POP, data, draws=150, tune=150, chains=2, seed=3, starts=1, progress=False)


@pytest.fixture(scope="module")
def poor(data):
    """Hardly sampled, with a prior that has no plain arguments."""
    prior = dist.TransformedDistribution(dist.Normal(4.0, 1.0), [dist.transforms.ExpTransform()])
    pop = ck.Population(ck.load_model("piecewise"), priors={"cmax": prior})
    return ck.fit(pop, data, draws=10, tune=10, chains=2, starts=1, progress=False)


def test_log_likelihood_of_patients_is_the_plain_sum_over_samples(data):
    """An independent transcription with SciPy, M3 term included."""
    bound = POP.bind(data)
    assert (bound.individual.censored == 1).any()
    size = len(bound.patients)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (size,)), POP.structural(_phi(bound)))
    theta = {"sigma": 0.45}
    ours = np.asarray(bound.observation_log_likelihoods(params, theta))
    model = POP.model
    total = 0.0
    for i, patient in enumerate(bound.patients):
        p = model.params(
            **{n: float(np.ravel(getattr(params, n))[i]) for n in POP.estimated}, **POP.fixed
        )
        rows = data.observations[data.observations["patient"] == patient]
        f = np.asarray(model.level("car_t", jnp.array(rows["time"].to_numpy()), p, smooth=True))
        for y, mean, c in zip(rows["value"], f, rows["censored"], strict=True):
            z = (math.log(LLOQ if c else y) - math.log(mean)) / 0.45
            total += (
                scipy.stats.norm.logcdf(z)
                if c
                else scipy.stats.norm.logpdf(z) - math.log(0.45) - math.log(y)
            )
    assert ours.sum() == pytest.approx(total, rel=1e-10)


def _phi(bound):
    info = bound.population.model.params.info()
    size = len(bound.patients)
    shift = np.linspace(-0.3, 0.3, size)
    return {
        n: info[n].transform.forward(info[n].value) + jnp.asarray(shift)
        for n in bound.population.estimated
    }


def test_individuals_and_summaries_add_up_in_one_posterior(data):
    study = ck.load_study("zuma1_moffitt").dataset()
    pop = ck.Population(ck.load_model("piecewise"), varies=["cmax"])
    theta = {"cmax": 40.0, "tmax": 8.0, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.01}
    theta |= {"beta_alpha": 0.02, "omega_cmax": 0.7, "sigma": 0.5}
    both, people, cohort = (LogDensity(pop.bind(d)) for d in (data + study, data, study))
    u = both.outer_of(theta)
    z = np.linspace(-1, 1, 6)[:, None]

    def likelihood(of, z):
        one = jax.jit(lambda z: of.log_joint(u, z, None) - of.log_prior(u))
        return float(one(z))

    apart = likelihood(people, z) + likelihood(cohort, np.zeros((0, 1)))
    assert likelihood(both, z) == pytest.approx(apart, rel=1e-9)


class TestFit:
    def test_finds_the_simulated_population(self, fit):
        table = fit.summary()
        assert 25 < table.loc["cmax", "median"] < 150
        assert 7 < table.loc["tmax", "median"] < 11
        assert table.loc["beta_cmax_arm[b]", "eti90_high"] < 0.6

    def test_says_first_whether_it_can_be_trusted(self, fit):
        first = repr(fit).splitlines()[0]
        assert first.startswith(f"{fit.verdict.head}: ")
        assert "R-hat" in first
        assert fit.ok == (not fit.verdict.troubles)

    def test_too_few_draws_are_not_ok_and_get_numbered_advice(self, poor):
        assert not poor.ok
        assert "1. " in repr(poor)
        assert "draws" in " ".join(poor.verdict.troubles)

    @pytest.mark.exhaustive
    def test_same_seed_gives_the_same_draws(self, data, fit):
        again = ck.fit(POP, data, draws=150, tune=150, chains=2, seed=3, starts=1, progress=False)
        for name in fit.posterior.data_vars:
            np.testing.assert_array_equal(again.posterior[name], fit.posterior[name])

    def test_a_saved_fit_comes_back_whole(self, fit, tmp_path):
        back = ck.load_fit(fit.save(tmp_path / "fit.nc"))
        for name in fit.posterior.data_vars:
            np.testing.assert_array_equal(back.posterior[name], fit.posterior[name])
        pd.testing.assert_frame_equal(back.summary(), fit.summary())
        assert str(back.verdict) == str(fit.verdict)
        assert back.settings == fit.settings
        assert back.data.units == fit.data.units
        sim = ck.simulate(back, ck.Regimen.cells(), np.linspace(0, 28, 29), patients=3, draws=5)
        assert sim["car_t"].shape == (5, 3, 29)

    def test_the_file_opens_without_carpk(self, fit, tmp_path):
        import xarray as xr

        with xr.open_datatree(fit.save(tmp_path / "fit.nc"), engine="h5netcdf") as tree:
            likelihood = {"log_likelihood", "posterior_predictive", "observed_data"}
            others = {"posterior", "sample_stats", "prior", "log_prior", "constant_data"}
            wanted = likelihood | others
            assert set(tree.children) == wanted
            assert tree["posterior"]["eta_cmax"].dims == ("chain", "draw", "patient")
            for name in likelihood:
                assert tree[name]["car_t"].dims[-1] == "obs_id"
            assert tree["constant_data"]["lloq"].sizes["obs_id"] == 48
            assert tree["posterior"]["cmax"].dims == ("chain", "draw")

    def test_pointwise_log_likelihood_is_that_of_the_observations(self, fit):
        from carpk._arviz import group

        each = group(fit.idata, "log_likelihood")["car_t"]
        assert each.sizes["obs_id"] == len(fit.data.observations)
        assert np.isfinite(each.to_numpy()).all()

    @pytest.mark.exhaustive
    def test_a_parameter_without_information_is_named(self):
        data = ck.load_study("zuma1_moffitt")  # no figure before day 7
        pop = ck.Population(ck.load_model("piecewise"), varies=["cmax"])
        quick = ck.fit(pop, data, draws=150, tune=200, chains=2, starts=1, progress=False)
        assert "t_double" in " ".join(quick.verdict.doubts)


class TestPublishedPriors:
    def test_take_values_and_spreads_from_the_model_file(self):
        population = ck.Population(
            ck.load_model("piecewise"), varies=["cmax", "tmax"], priors="published"
        )
        priors, weak = population.priors, population.default_priors()
        assert priors["cmax"].scale == weak["cmax"].scale == 1.5  # the file assumed its value
        assert priors["tmax"].loc == pytest.approx(math.log(9.29))
        assert priors["omega_tmax"].loc == pytest.approx(math.log(0.38))
        assert priors["omega_tmax"].scale < weak["omega_tmax"].scale

    def test_widen_a_posterior_of_the_model_itself(self):
        model = ck.load_model("niche", disease="solid")
        draws = np.log(np.asarray(model.calibration_draws()["rho"]))
        prior = ck.Population(model, priors="published").priors["rho"]
        assert prior.scale == pytest.approx(1.5 * draws.std())

    def test_other_words_are_refused(self):
        with pytest.raises(ck.ModelError, match="'publishd' is not known"):
            ck.Population(ck.load_model("piecewise"), priors="publishd")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"varies": ["cmaxx"]}, "cmaxx"),
            ({"varies": {"cmax": ["week"]}}, "patient"),
            ({"covariates": {"cmax": "arm"}}, "list"),
            ({"fixed": {"cmax": 1.0}, "varies": ["cmax"]}, "fixed"),
            ({"priors": {"cmxa": dist.Normal(0.0, 1.0)}}, "cmxa"),
            ({"priors": {"cmax": 3.0}}, "NumPyro"),
            ({"virtual_patients": 100}, "power of two"),
        ],
    )
    def test_a_population_that_cannot_be_is_refused(self, arguments, words):
        with pytest.raises(ck.ModelError, match=words):
            ck.Population(ck.load_model("piecewise"), **arguments)

    def test_units_that_do_not_match_are_refused_with_the_way_out(self, data):
        with pytest.raises(ck.FitError, match="cells/µL"):
            ck.Population(ck.load_model("stein2019"), analytes={"car_t": "transgene"}).bind(data)

    def test_an_unknown_output_is_refused(self, data):
        with pytest.raises(ck.FitError, match="transgene"):
            ck.Population(ck.load_model("stein2019")).bind(data)

    def test_an_unknown_covariate_is_refused(self, data):
        pop = ck.Population(ck.load_model("piecewise"), covariates={"cmax": ["weight"]})
        with pytest.raises(ck.CarpkError, match="weight"):
            pop.bind(data)

    def test_a_covariate_without_contrast_is_refused(self):
        pop = ck.Population(ck.load_model("piecewise"), covariates={"cmax": ["arm"]})
        with pytest.raises(ck.FitError, match="single value"):
            pop.bind(simulated(patients=1))

    def test_unknown_methods_and_numbers_are_refused(self, data):
        with pytest.raises(ck.FitError, match="method"):
            ck.fit(POP, data, method="saem")
        with pytest.raises(ck.FitError, match="draws"):
            ck.fit(POP, data, draws=0)


THETA = {"cmax": 40.0, "tmax": 8.0, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.01}
THETA |= {"beta_alpha": 0.02, "omega_cmax": 0.6, "omega_cmax_infusion": 0.3, "sigma": 0.5}


def test_each_infusion_can_have_its_own_peak():
    """With variation by infusion the likelihood takes one parameter per infusion."""
    data = simulated(patients=2)
    doses = pd.concat([data.doses, data.doses.assign(time=30.0)])
    again = ck.Dataset.from_frames(
        patients=data.patients, doses=doses, observations=data.observations, name="simulated"
    )
    pop = ck.Population(ck.load_model("piecewise"), varies={"cmax": ["patient", "infusion"]})
    density = LogDensity(pop.bind(again))
    assert density.inner == 3  # of the patient, and of each infusion
    sample = density.sample_of(density.outer_of(THETA), np.ones((2, 3)), None)
    assert sample["eta_cmax_infusion"].shape == (2, 2)
    np.testing.assert_allclose(sample["eta_cmax"], 0.6)
    np.testing.assert_allclose(sample["eta_cmax_infusion"], 0.3)
    params, _ = density.bound.of_sample(sample)
    np.testing.assert_allclose(params.cmax, 40.0 * math.exp(0.9))
    assert np.isfinite(density.log_joint(density.outer_of(THETA), np.ones((2, 3)), None))
