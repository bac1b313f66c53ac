"""Counts, and yes and no: distributions are SciPy's, and fits are checked as any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk.assay.discrete import _ln_rising

KINDS = {
    "poisson": (ck.assay.Poisson(), {}, scipy.stats.poisson),
    **{
        f"negative binomial, alpha {alpha:g}": (
            ck.assay.NegativeBinomial(),
            {"alpha": alpha},
            lambda f, alpha=alpha: scipy.stats.nbinom(1 / alpha, 1 / (1 + alpha * f)),
        )
        for alpha in (1e-3, 0.3, 5.0)
    },
}
MEANS = (0.01, 0.5, 3.0, 40.0, 2000.0)
COUNTS = np.arange(0.0, 60.0)
SCORES = np.linspace(-5.0, 6.0, 23)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@pytest.mark.parametrize("f", MEANS)
def test_probabilities_and_quantiles_are_those_of_scipy(kind, f):
    residual, theta, exact = KINDS[kind]
    exact = exact(f)
    y = jnp.asarray(COUNTS)
    np.testing.assert_allclose(residual.log_prob(y, f, theta), exact.logpmf(COUNTS), 1e-8, 1e-8)
    np.testing.assert_allclose(residual.cdf(y, f, theta), exact.cdf(COUNTS), 1e-9, 1e-12)
    np.testing.assert_allclose(residual.sf(y, f, theta), exact.sf(COUNTS), 1e-9, 1e-12)
    np.testing.assert_allclose(
        residual.log_cdf(y, f, theta)[1:], exact.logcdf(COUNTS - 1)[1:], 1e-8, 1e-14
    )
    np.testing.assert_allclose(float(residual.variance(f, theta)), exact.var(), 1e-9)
    normal = scipy.stats.norm
    wanted = np.where(SCORES < 0, exact.ppf(normal.cdf(SCORES)), exact.isf(normal.sf(SCORES)))
    np.testing.assert_array_equal(residual.sample(jnp.asarray(SCORES), f, theta), wanted)


@each_kind
@pytest.mark.parametrize("f", [0.5, 40.0])
def test_scores_of_what_is_sampled_are_about_standard_normal(kind, f):
    residual, theta, _ = KINDS[kind]
    z = jnp.asarray(scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000))
    score = np.asarray(residual.score(residual.sample(z, f, theta), f, theta))
    assert abs(score.mean()) < 0.1
    assert 0.3 < score.std() < 1.02, "the middle of a share varies less than the share"


@pytest.mark.parametrize("f", [0.02, 0.5, 0.97])
def test_yes_and_no_have_their_probability(f):
    residual = ck.assay.Bernoulli()
    y = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(np.exp(residual.log_prob(y, f, {})), [1 - f, f], rtol=1e-12)
    z = jnp.asarray(scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000))
    assert float(residual.sample(z, f, {}).mean()) == pytest.approx(f, abs=1e-3)


@pytest.mark.parametrize("x", [1e-6, 0.01, 2.0, 30.0, 1e4, 1e9])
@pytest.mark.parametrize("y", [0.0, 1.0, 50.0, 2000.0])
def test_the_ways_of_a_negative_binomial_do_not_cancel(x, y):
    exact = np.sum(np.log(x + np.arange(int(y))))
    assert float(_ln_rising(x, y)) == pytest.approx(exact, rel=1e-12, abs=1e-13)


@each_kind
def test_the_slope_by_the_mean_is_that_of_differences(kind):
    residual, theta, _ = KINDS[kind]

    def total(f):
        return jnp.sum(residual.log_prob(jnp.asarray(COUNTS), f, theta))

    h = 1e-5
    difference = (total(3.0 + h) - total(3.0 - h)) / (2 * h)
    assert float(jax.grad(total)(3.0)) == pytest.approx(float(difference), rel=1e-6)


# --- fits -----------------------------------------------------------------------------------------


class Rate(ck.Params):
    base: ck.Scalar = ck.param(5.0, "1", "events per visit at first", "assumed", iiv=0.4)
    fall: ck.Scalar = ck.param(0.05, "1/day", "rate of decline", "assumed")


def rate(t, p):
    return p.base * jnp.exp(-p.fall * t)


def chance(t, p):
    return rate(t, p) / (1.0 + rate(t, p))


def model_of(unit):
    output = chance if unit == "yes/no" else rate
    return ck.ClosedForm(
        name="events", params=Rate, outputs={"events": output}, units={"events": unit}
    )


def simulated(draw, unit, patients=16, **changed):
    """Simulated observations of patients who differ, every other day for four weeks."""
    rng = np.random.default_rng(5)
    labels = [f"S{i + 1}" for i in range(patients)]
    base = 5.0 * np.exp(0.4 * rng.standard_normal(patients))
    rows = [
        {"patient": p, "time": t, "analyte": "events", "value": draw(rng, b * np.exp(-0.05 * t))}
        for p, b in zip(labels, base, strict=True)
        for t in np.arange(1.0, 29.0, 2.0)
    ]
    rows = pd.DataFrame(rows).assign(unit=unit)
    for column, value in changed.items():
        rows.loc[3, column] = value
    doses = pd.DataFrame({"patient": labels, "time": 0.0, "product": "car_t", "amount": 1e6})
    return ck.Dataset.from_frames(
        doses=doses.assign(unit="cells/kg"), observations=rows, name="simulated events"
    )


DRAWN = {
    "poisson": (ck.assay.Poisson(), lambda rng, f: float(rng.poisson(f)), "count"),
    "negative binomial": (
        ck.assay.NegativeBinomial(),
        lambda rng, f: float(rng.negative_binomial(2.0, 2.0 / (2.0 + f))),
        "count",
    ),
    "yes or no": (
        ck.assay.Bernoulli(),
        lambda rng, f: float(rng.uniform() < f / (1 + f)),
        "yes/no",
    ),
}


FITTED = [
    "yes or no",
    pytest.param("negative binomial", marks=pytest.mark.slow),
    pytest.param("poisson", marks=pytest.mark.exhaustive),
]


@pytest.fixture(scope="module", params=FITTED)
def fitted(request):
    residual, draw, unit = DRAWN[request.param]
    data = simulated(draw, unit)
    population = ck.Population(model_of(unit), varies=["base"], residual=residual)
    return ck.fit(population, data, method="laplace", seed=1)


def test_a_fit_to_counts_finds_what_they_were_simulated_with(fitted):
    assert "DO NOT TRUST" not in str(fitted)
    summary = fitted.summary()
    for name, truth in (("base", 5.0), ("fall", 0.05), ("omega_base", 0.4), ("alpha", 0.5)):
        if name in summary.index:
            low, high = summary.loc[name, ["eti90_low", "eti90_high"]]
            assert low / 1.3 < truth < high * 1.3, name


def test_checks_of_a_fit_to_counts_find_nothing_where_nothing_is(fitted):
    errors = ck.checks.npde(fitted, replicates=300)
    assert errors.tests.loc["all three", "p"] > 0.01
    vpc = ck.checks.vpc(fitted, replicates=100)
    binary = fitted.population.residual.binary
    assert set(vpc.table["statistic"]) == ({"yes"} if binary else {"5 %", "50 %", "95 %"})
    assert len(vpc.outside) <= 0.2 * len(vpc.table)
    table = ck.checks.gof(fitted, draws=300).table
    assert table["IWRES"].std() == pytest.approx(1.0, abs=0.15)
    assert "LLOQ" not in str(vpc)


def test_figures_of_counts_show_their_zeros_on_a_linear_axis(fitted):
    assert (fitted.data.observations["value"] == 0).any()
    for figure in (ck.plot.individual_fits(fitted), fitted.data.plot()):
        assert "log" not in {axis.get_yscale() for axis in figure.axes}
    vpc = ck.checks.vpc(fitted, replicates=50).plot()
    assert vpc.axes[0].get_yscale() == "linear"
    assert vpc.axes[0].get_ylim()[0] < 0


def test_information_before_a_fit_to_counts_is_about_that_of_the_fit(fitted):
    planned = ck.checks.identifiability(fitted.population, fitted.data).table
    draws = fitted.draws()
    for name in ("base", "fall"):
        after = float(np.std(np.log(draws[name])))
        assert planned.loc[name, "posterior_sd"] == pytest.approx(after, rel=0.4)


BAD = {
    "half a count": (DRAWN["poisson"], {"value": 2.5}, "2.5, which Poisson"),
    "two yeses": (DRAWN["yes or no"], {"value": 2.0}, "2, which Bernoulli"),
    "a limit": (DRAWN["poisson"], {"lloq": 1.0, "value": 2.0}, "a count of 0 is one"),
    "a count as a level": (
        (ck.LogNormal(), *DRAWN["poisson"][1:]),
        {"value": 0.0},
        "0, which LogNormal",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_observations_that_a_distribution_cannot_have_are_refused(case):
    (residual, draw, unit), changed, words = BAD[case]
    data = simulated(draw, unit, patients=3, **changed)
    with pytest.raises(ck.FitError, match=words):
        ck.Population(model_of(unit), residual=residual).bind(data)


def test_a_zero_is_a_value_of_counts_only():
    with pytest.raises(ck.DatasetError, match="Counts have the unit 'count'"):
        simulated(lambda rng, f: 0.0, "events per day", patients=1)


def test_summaries_of_counts_are_refused():
    summaries = pd.DataFrame(
        {
            **{"cohort": ["A"], "analyte": ["events"], "metric": ["level"], "time": [7.0]},
            **{"statistic": ["median"], "value": [3.0], "unit": ["count"], "n": [9]},
            **{"use": ["fit"], "source": ["simulated"]},
        }
    )
    data = ck.Dataset.from_frames(summaries=summaries, name="simulated summaries")
    with pytest.raises(ck.FitError, match="summaries of counts are not fitted"):
        ck.Population(model_of("count"), residual=ck.assay.Poisson()).bind(data)
