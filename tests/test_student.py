"""Student-t residuals: the distribution, and every function that takes a residual model."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats
from hierarchies import LINEAR, decaying

import carpk as ck
from carpk.assay import student
from carpk.assay.residual import log_likelihood
from carpk.information.patients import standardized

DFS = (1.0, 1.5, 2.3, 4.0, 7.0, 30.0, 200.0)


class TestDistribution:
    """Against SciPy, and against finite differences."""

    @pytest.mark.parametrize("df", DFS)
    def test_both_tails_are_those_of_scipy(self, df):
        x = np.array([-30.0, -6.0, -1.0, -1e-3, 0.0, 0.2, 3.0, 12.0])
        np.testing.assert_allclose(
            student.log_cdf(x, df), scipy.stats.t.logcdf(x, df), rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(student.log_pdf(x, df), scipy.stats.t.logpdf(x, df), rtol=1e-12)

    @pytest.mark.parametrize("df", DFS)
    def test_scores_and_quantiles_undo_each_other(self, df):
        z = np.array([-7.0, -2.0, -0.3, 0.0, 1e-6, 1.0, 4.0, 7.5])
        x = student.quantile_of_score(z, df)
        tails = scipy.stats.t.isf(scipy.stats.norm.sf(np.abs(z)), df)
        np.testing.assert_allclose(x, tails * np.sign(z), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(student.score(x, df), z, atol=1e-8)

    @pytest.mark.parametrize("of", [student.log_cdf, student.score, student.quantile_of_score])
    def test_derivatives_by_both_arguments_are_those_of_differences(self, of):
        x, df, h = np.array([-2.5, 0.7, 4.0]), np.full(3, 4.5), 1e-4
        found = jax.jit(jax.vmap(jax.grad(of, (0, 1))))(x, df)
        for i, (dx, ddf) in enumerate(((h, 0.0), (0.0, h))):
            slope = (of(x + dx, df + ddf) - of(x - dx, df - ddf)) / 2 / h
            np.testing.assert_allclose(found[i], slope, rtol=1e-5)

    @pytest.mark.slow
    def test_second_derivatives_of_the_censored_term_are_those_of_differences(self):
        x, df, h = np.array([-2.5, 0.7, 4.0]), np.full(3, 4.5), 1e-4
        first = jax.jit(jax.vmap(jax.grad(student.log_cdf)))
        second = jax.vmap(jax.grad(jax.grad(student.log_cdf)))(x, df)
        bend = (first(x + h, df) - first(x - h, df)) / 2 / h
        np.testing.assert_allclose(second, bend, rtol=1e-4, atol=1e-7)


THETA = {"sigma": 0.4}
RESIDUAL = ck.StudentT(df=3.0)


class TestResidual:
    def test_likelihood_is_scipys_measured_below_and_above_limits(self):
        y, f = np.array([3.0, 30.0, 0.5, 90.0]), np.array([5.0, 4.0, 1.5, 20.0])
        censored, t = np.array([0, 0, 1, -1]), np.log(y / f) / 0.4
        ours = log_likelihood(RESIDUAL, y, f, THETA, censored, y)
        law = scipy.stats.t(3.0)
        measured = law.logpdf(t) - np.log(0.4 * y)
        each = [measured, law.logcdf(t)]
        expected = np.select([censored == 0, censored == 1], each, law.logsf(t))
        np.testing.assert_allclose(ours, expected, rtol=1e-9)

    def test_the_density_of_its_score_is_its_density(self):
        y, f = np.array([3.0, 30.0, 0.5]), np.array([5.0, 4.0, 1.5])
        z, slope = RESIDUAL.standardize(y, f, THETA)
        density = scipy.stats.norm.logpdf(z) + slope
        np.testing.assert_allclose(density, RESIDUAL.log_prob(y, f, THETA), rtol=1e-9)

    def test_samples_have_its_quantiles(self):
        z = np.random.default_rng(0).standard_normal(20_000)
        y = np.asarray(RESIDUAL.sample(z, 5.0, THETA))
        assert scipy.stats.kstest(np.log(y / 5) / 0.4, scipy.stats.t(3.0).cdf).pvalue > 0.01

    def test_df_is_fixed_or_a_parameter(self):
        assert ck.StudentT().names == ("sigma",)
        assert ck.StudentT(df=None).names == ("sigma", "df")
        assert ck.StudentT(df=None).priors()["df"].mean == pytest.approx(20.0)
        with pytest.raises(ck.ModelError, match="at least 1"):
            ck.StudentT(df=0.5)

    def test_information_is_fishers(self):
        """Simulated scores: of ln f, and of ln sigma."""
        t = scipy.stats.t(3.0).rvs(400_000, random_state=1)
        by_mean = 4 * t / (3 + t**2)
        of_mean, of_sd = RESIDUAL.efficiency(THETA)
        z = jax.grad(lambda x: student.score(x, 3.0))
        assert of_mean * z(0.0) ** 2 == pytest.approx(by_mean.var(), rel=0.01)
        above = student.quantile_of_score(1.0, 3.0)
        by_sd = (t * by_mean - 1).var() / 2  # 2 for a normal variable
        assert of_sd * (above * z(above)) ** 2 == pytest.approx(by_sd, rel=0.02)

    def test_identifiability_takes_a_fixed_df(self):
        """Both of a level and of ln sigma the information is Fisher's, 4/6 and 2 x 3/6."""
        f, near = np.array([5.0]), np.array([[5.0], [5.0 * np.exp(1e-5)]])
        mean, by_sd, limit = standardized(RESIDUAL, THETA, f, near, np.array([2.0]))
        assert ((mean[1] - mean[0]) / 1e-5 * 0.4) ** 2 == pytest.approx(4 / 6, rel=1e-3)
        assert by_sd["sigma"] ** 2 == pytest.approx(3 / 6, rel=1e-3)
        share = scipy.stats.t.logcdf(np.log(2 / 5) / 0.4, 3.0)
        assert scipy.stats.norm.logcdf(limit) == pytest.approx(share, rel=1e-6)
        with pytest.raises(ck.ModelError, match="fixed df"):
            standardized(ck.StudentT(df=None), THETA | {"df": 3.0}, f, near, f)


def dirty(seed=3, patients=12):
    """Patients with t-distributed residuals (df 2.5)."""
    data = decaying(patients=patients, cohorts=1, seed=seed)
    rng = np.random.default_rng(seed)
    noise = 0.2 * rng.standard_t(2.5, len(data.observations))
    shift = dict(zip(data.patients["patient"], 0.5 * rng.standard_normal(patients), strict=True))
    day, who = data.observations["time"], data.observations["patient"].map(shift)
    level = 10 * np.exp(who - np.log(2) * day / 10 + noise)
    return ck.Dataset.from_frames(
        patients=data.patients,
        doses=data.doses,
        observations=data.observations.assign(value=level),
        name="simulated",
    )


PLAIN = ck.Population(LINEAR, varies=["base"])
HEAVY = dataclasses.replace(PLAIN, residual=ck.StudentT(df=2.5))


@pytest.fixture(scope="module")
def fits():
    """With the right residual, and with a log-normal one."""
    return [ck.fit(p, dirty(patients=24), method="laplace", progress=False) for p in (HEAVY, PLAIN)]


@pytest.mark.slow
class TestFits:
    """Laplace fits of data with heavy tails, and every function that asks the residual."""

    def test_moderate_tails_are_outliers_of_a_normal_residual_only(self, fits):
        heavy, plain = (fit.verdict for fit in fits)
        assert heavy.grade == "OK", str(heavy)
        assert "StudentT" in str(plain)
        assert plain.grade == "OK, BUT"

    def test_the_scale_and_the_curve_are_found(self, fits):
        table = fits[0].summary()
        assert table.loc["sigma", "eti90_low"] < 0.2 < table.loc["sigma", "eti90_high"]
        assert table.loc["halve", "eti90_low"] < 10 < table.loc["halve", "eti90_high"]
        wide = fits[1].summary().loc["halve"]
        narrow = table.loc["halve"]
        assert narrow["eti90_high"] - narrow["eti90_low"] < wide["eti90_high"] - wide["eti90_low"]

    def test_checks_take_it(self, fits, tmp_path):
        fit = fits[0]
        assert len(ck.checks.vpc(fit, replicates=60).outside) <= 3
        npde = ck.checks.npde(fit, replicates=200, seed=1).table["NPDE"]
        assert scipy.stats.kstest(npde, "norm").pvalue > 1e-3
        assert np.isfinite(ck.checks.gof(fit).table["IWRES"]).all()
        assert np.isfinite(ck.checks.loo(fit).elpd)
        back = ck.load_fit(fit.save(tmp_path / "fit.nc"), population=HEAVY)
        assert back.population.residual == ck.StudentT(df=2.5)
        sim = ck.simulate(back, ck.Regimen.cells(), np.linspace(0, 28, 8), patients=3, draws=5)
        assert np.isfinite(sim["car_t"]).all()


@pytest.mark.exhaustive
def test_df_is_estimated_from_many_samples():
    """Of 150 samples with df 2.5, by laplace."""
    pop = dataclasses.replace(PLAIN, residual=ck.StudentT(df=None))
    fit = ck.fit(pop, dirty(patients=30, seed=5), method="laplace", progress=False)
    df = fit.summary().loc["df"]
    assert fit.ok, str(fit.verdict)
    assert df["eti90_low"] < 2.5 < df["eti90_high"] < 15
