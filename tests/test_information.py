"""Fisher information: exact cases, other programs' numbers, and what is made of it."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import carpk as ck
from carpk.assay.residual import Combined, Proportional
from carpk.checks import PlannedArm, identifiability, sampling_times
from carpk.information import patients
from carpk.information.times import exchanged

INF = (-np.inf, np.inf)


class Line(ck.Params):
    a: ck.Scalar = ck.param(2.0, "1", "ln level on day 0", bounds=INF)
    b: ck.Scalar = ck.param(-0.1, "1/day", "slope of ln level", bounds=INF)


LINE = ck.ClosedForm(
    name="line",
    params=Line,
    outputs={"y": lambda t, p: jnp.exp(p.a + p.b * t)},
    units={"y": "cells/µL"},
)
DAYS = np.array([0.25, 1.0, 3.0, 7.0, 12.0])


def matrix_of(mean, variance, point, step=1e-5):
    """Reduced information of a normal vector, from its mean and variance as functions."""

    def slopes(f):
        moves = step * np.eye(len(point))
        return [(f(point + m) - f(point - m)) / (2 * step) for m in moves]

    inverse = np.linalg.inv(variance(point))
    d, v = slopes(mean), slopes(variance)
    size = range(len(point))
    return np.array(
        [
            [d[i] @ inverse @ d[j] + 0.5 * np.trace(inverse @ v[i] @ inverse @ v[j]) for j in size]
            for i in size
        ]
    )


def test_the_information_of_a_line_is_that_of_least_squares():
    result = identifiability(ck.Population(LINE), PlannedArm(6, {"y": DAYS}), at={"sigma": 0.4})
    x = np.stack([np.ones(5), DAYS])
    expected = np.zeros((3, 3))
    expected[:2, :2] = 6 * x @ x.T / 0.4**2
    expected[2, 2] = 2 * 6 * 5  # ln SD of 30 normal numbers
    assert result.names == ("a", "b", "sigma")
    assert result.information == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_random_effects_and_residual_error_share_the_variance():
    """Against 1/2 tr(V^-1 dV V^-1 dV) with V written out."""
    population = ck.Population(LINE, varies=["a", "b"])
    at = {"omega_a": 0.7, "omega_b": 0.05, "sigma": 0.4}
    result = identifiability(population, PlannedArm(4, {"y": DAYS}), at=at)

    def variance(u):
        w = np.exp(u[2:])
        of_effects = w[0] ** 2 + w[1] ** 2 * np.outer(DAYS, DAYS)
        return of_effects + w[2] ** 2 * np.eye(5)

    point = np.array([2.0, -0.1, *np.log([0.7, 0.05, 0.4])])
    expected = 4 * matrix_of(lambda u: u[0] + u[1] * DAYS, variance, point)
    assert result.names == ("a", "b", "omega_a", "omega_b", "sigma")
    assert result.information == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_effects_of_infusions_are_told_apart_from_those_of_patients():
    """Two infusions that do not overlap: V is block-wise in the infusion's effect."""

    class Pulse(ck.Params):
        a: ck.Scalar = ck.param(2.0, "1", "ln level while it lasts", bounds=INF)

    model = ck.ClosedForm(
        name="pulse",
        params=Pulse,
        outputs={"y": lambda t, p: jnp.where(t < 10, jnp.exp(p.a), 0.0)},
        units={"y": "cells/µL"},
    )
    population = ck.Population(model, varies={"a": ["patient", "infusion"]})
    arm = PlannedArm(3, {"y": [1, 2, 21, 22, 23]}, ck.Regimen.cells([0, 20], 1e8))
    at = {"omega_a": 0.6, "omega_a_infusion": 0.3, "sigma": 0.4}
    result = identifiability(population, arm, at=at)
    same = np.array([0, 0, 1, 1, 1])[:, None] == np.array([0, 0, 1, 1, 1])

    def variance(u):
        w = np.exp(2 * u[1:])
        return w[0] + w[1] * same + w[2] * np.eye(5)

    point = np.array([2.0, *np.log([0.6, 0.3, 0.4])])
    expected = 3 * matrix_of(lambda u: u[0] + np.zeros(5), variance, point)
    assert result.information == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_correlated_effects_share_the_variance():
    population = ck.Population(LINE, varies=["a", "b"], correlated=["a", "b"])
    rho = 0.6
    at = {"omega_a": 0.7, "omega_b": 0.05, "sigma": 0.4}
    at |= {"correlation": np.array([[1.0, rho], [rho, 1.0]])}
    result = identifiability(population, PlannedArm(4, {"y": DAYS}), at=at)

    def variance(u):
        one, other = np.exp(u[2:4])
        effects = one**2 + other**2 * np.outer(DAYS, DAYS)
        effects = effects + u[4] * one * other * np.add.outer(DAYS, DAYS)
        return effects + np.exp(2 * u[5]) * np.eye(5)

    point = np.array([2.0, -0.1, *np.log([0.7, 0.05]), rho, np.log(0.4)])
    expected = 4 * matrix_of(lambda u: u[0] + u[1] * DAYS, variance, point)
    names = ("a", "b", "omega_a", "omega_b", "correlation[a, b]", "sigma")
    assert result.names == names
    assert result.information == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_patients_of_a_cohort_share_its_effect():
    """Two arms of two and three patients: V of a whole cohort, written out."""
    varies = {"a": ["cohort", "patient"], "b": ["cohort"]}
    population = ck.Population(LINE, varies=varies)
    at = {"omega_a_cohort": 0.5, "omega_a": 0.7, "omega_b_cohort": 0.03, "sigma": 0.4}
    arms = {"one": PlannedArm(2, {"y": DAYS}), "other": PlannedArm(3, {"y": DAYS[:3]})}
    result = identifiability(population, arms, at=at)
    names = ("a", "b", "omega_a_cohort", "omega_a", "omega_b_cohort", "sigma")
    assert result.names == names
    point = np.array([2.0, -0.1, *np.log([0.5, 0.7, 0.03, 0.4])])

    def of_cohort(size, days):
        t = np.tile(days, size)
        same = np.repeat(np.arange(size), len(days))

        def variance(u):
            w = np.exp(2 * u[2:])
            shared = w[0] + w[2] * np.outer(t, t)
            return shared + w[1] * (same[:, None] == same) + w[3] * np.eye(len(t))

        return matrix_of(lambda u: u[0] + u[1] * t, variance, point)

    expected = of_cohort(2, DAYS) + of_cohort(3, DAYS[:3])
    assert result.information == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_covariate_called_cohort_is_a_covariate():
    """And no random effect that the patients of a cohort share."""

    def of(name):
        population = ck.Population(LINE, varies=["a"], covariates={"a": [name]})
        arms = {x: PlannedArm(4, {"y": DAYS}, covariates={name: x}) for x in ("one", "other")}
        return identifiability(population, arms, at={f"beta_a_{name}": 0.5})

    assert np.array_equal(of("cohort").information, of("arm").information)
    assert of("cohort").names[-1] == "beta_a_cohort[other]"


def test_an_exponent_is_planned_as_it_is_told_by_data():
    """Not as an effect per unit, which would look forty times as informative."""
    population = ck.Population(LINE, covariates={"a": {"weight": "power"}})
    arms = {
        name: PlannedArm(5, {"y": DAYS}, covariates={"weight": weight})
        for name, weight in (("light", 20.0), ("heavy", 80.0))
    }
    (effect,) = identifiability(population, arms).information.diagonal()[-1:]
    x = np.log([20 / 40, 80 / 40])
    assert effect == pytest.approx(5 * 5 * np.sum(x**2) / 0.5**2, rel=1e-6)


def test_expected_errors_of_the_warfarin_design_are_those_of_poped():
    """The example of Nyberg et al. (2015) Br J Clin Pharmacol 79:6-17, reduced matrix.

    Relative standard errors in percent as PopED prints them (recorded in babelmixr2,
    inst/poped/ex.2.a.warfarin.evaluate.babelmixr2.R); those of variances are twice those of SDs.
    """

    class Warfarin(ck.Params):
        CL: ck.Scalar = ck.param(0.15, "L/h", "clearance")
        V: ck.Scalar = ck.param(8.0, "L", "volume")
        KA: ck.Scalar = ck.param(1.0, "1/h", "rate of absorption")

    def concentration(t, p):
        k = p.CL / p.V
        return 70 * p.KA / (p.V * (p.KA - k)) * (jnp.exp(-k * t) - jnp.exp(-p.KA * t))

    model = ck.ClosedForm(
        name="warfarin",
        params=Warfarin,
        outputs={"c": concentration},
        units={"c": "mg/L"},
    )
    population = ck.Population(model, varies=["CL", "V", "KA"], residual=Proportional())
    arm = PlannedArm(32, {"c": [0.5, 1, 2, 6, 24, 36, 72, 120]})
    variances = {"omega_CL": 0.07, "omega_V": 0.02, "omega_KA": 0.6, "sigma_prop": 0.01}
    at = {name: np.sqrt(v) for name, v in variances.items()}
    errors = identifiability(population, arm, at=at).table["rse_percent"].to_numpy()
    poped = [4.738266, 2.756206, 13.925829, 25.627205, 30.344316, 25.777327, 11.170784]
    assert errors * [1, 1, 1, 2, 2, 2, 2] == pytest.approx(poped, rel=1e-5)


@pytest.mark.parametrize("limit", [-3.0, -0.5, 0.0, 1.2, 3.0])
def test_information_of_a_censored_normal_is_that_of_its_scores(limit):
    def expected(score):
        return scipy.integrate.quad(
            lambda z: score(z) * scipy.stats.norm.pdf(z), limit, 12, epsabs=1e-12
        )[0]

    hidden = scipy.stats.norm.pdf(limit) ** 2 / scipy.stats.norm.cdf(limit)
    mean = expected(lambda z: z**2) + hidden
    mixed = expected(lambda z: z * (z**2 - 1)) + limit * hidden
    spread = expected(lambda z: (z**2 - 1) ** 2) + limit**2 * hidden
    assert patients.censored_normal(limit) == pytest.approx((mean, mixed, spread), abs=1e-9)


def test_without_a_limit_nothing_is_censored_and_far_below_it_nothing_is_told():
    assert patients.censored_normal(-np.inf) == pytest.approx((1, 0, 2))
    assert patients.censored_normal(50.0) == pytest.approx((0, 0, 0))


def test_a_censored_sample_tells_of_mean_and_sd_together():
    """Without random effects the information is the sum over samples, whatever their number."""
    population = ck.Population(LINE, fixed={"b": -0.1})
    result = identifiability(population, PlannedArm(3, {"y": DAYS}, lloq=6.0), at={"sigma": 0.5})
    mean, mixed, spread = patients.censored_normal((np.log(6.0) - (2.0 - 0.1 * DAYS)) / 0.5)
    exact = 3 * np.array(
        [[mean.sum() / 0.5**2, mixed.sum() / 0.5], [mixed.sum() / 0.5, spread.sum()]]
    )
    assert result.information == pytest.approx(exact, rel=1e-6)


def scores_with_random_intercept(days, lloq, omega, sigma, size, rng):
    """Scores of the exact marginal M3 likelihood of simulated patients, by (a, b)."""
    nodes = np.linspace(-5, 5, 120)  # 0.1 residual SDs apart and more
    weights = scipy.stats.norm.pdf(nodes)
    mean = 2.0 - 0.1 * days
    y = mean + omega * rng.standard_normal((size, 1))
    y = y + sigma * rng.standard_normal((size, days.size))
    seen = y > np.log(lloq)

    def log_likelihood(a, b):
        m = (a + b * days) + omega * nodes[:, None]
        z = (y[:, None] - m) / sigma
        below = scipy.special.log_ndtr((np.log(lloq) - m) / sigma)
        each = np.where(seen[:, None], scipy.stats.norm.logpdf(z), below).sum(2)
        return scipy.special.logsumexp(each, b=weights, axis=1)

    h = 1e-5
    by_a = log_likelihood(2 + h, -0.1) - log_likelihood(2 - h, -0.1)
    by_b = log_likelihood(2, -0.1 + h) - log_likelihood(2, -0.1 - h)
    return np.stack([by_a, by_b]) / (2 * h)


@pytest.mark.parametrize(("omega", "sigma", "lloq"), [(0.6, 0.5, 2.0), (1.2, 0.4, 6.0)])
def test_censoring_with_random_effects_is_close_to_the_exact_likelihood(omega, sigma, lloq):
    """Standard errors against those of 8,000 simulated patients; up to 10 % too small."""
    days = np.array([1.0, 5.0, 10.0, 15.0, 20.0])
    at = {"omega_a": omega, "sigma": sigma}
    arm = PlannedArm(1, {"y": days}, lloq=lloq)
    result = identifiability(ck.Population(LINE, varies=["a"]), arm, at=at)
    rng = np.random.default_rng(5)
    exact = np.cov(scores_with_random_intercept(days, lloq, omega, sigma, 8_000, rng))
    found, exact = (np.sqrt(np.diag(np.linalg.inv(m))) for m in (result.information[:2, :2], exact))
    assert found == pytest.approx(exact, rel=0.12)


def test_a_sample_below_the_limit_tells_something_but_less_than_one_above():
    def of_b(days, lloq):
        result = identifiability(
            ck.Population(LINE), PlannedArm(5, {"y": days}, lloq=lloq), at={"sigma": 0.5}
        )
        return result.information[1, 1]

    assert of_b(DAYS[:3], 0) < of_b(DAYS, np.exp(1.3)) < of_b(DAYS, 0)


@pytest.mark.parametrize("residual", [Proportional(), Combined()])
def test_other_residual_models_are_normal_with_the_sd_they_say(residual):
    f, theta = np.array([0.5, 3.0, 40.0]), {"sigma_add": 0.7, "sigma_prop": 0.2}
    theta = {name: theta[name] for name in residual.names}
    add, prop = theta.get("sigma_add", 0.0) ** 2, (0.2 * f) ** 2
    near = f * np.array([[1.0], [1 + 1e-6]])
    mean, by_sd, limit = patients.standardized(residual, theta, f, near, np.ones(3))
    sd = np.sqrt(add + prop)
    assert (mean[1] - mean[0]) / (1e-6 * f) == pytest.approx(1 / sd, rel=1e-5)
    assert np.asarray(by_sd["sigma_prop"]) == pytest.approx(prop / sd**2)
    assert np.asarray(limit) == pytest.approx((1 - f) / sd)


class Product(ck.Params):
    a: ck.Scalar = ck.param(2.0, "1", "one factor")
    b: ck.Scalar = ck.param(3.0, "1", "the other")
    k: ck.Scalar = ck.param(0.1, "1/day", "rate of loss")


PRODUCT = ck.ClosedForm(
    name="product",
    params=Product,
    outputs={"y": lambda t, p: p.a * p.b * jnp.exp(-p.k * t)},
    units={"y": "cells/µL"},
)


def test_two_factors_of_a_product_are_named_and_one_is_to_be_fixed():
    result = identifiability(ck.Population(PRODUCT), PlannedArm(20, {"y": DAYS}))
    assert result.collinear[["a", "b"]].to_numpy().tolist() == [["b", "a"]]
    assert result.collinear["cosine"][0] == pytest.approx(1)
    assert result.table.loc[["a", "b"], "rse_percent"].tolist() == [np.inf, np.inf]
    assert np.isfinite(result.table.loc["k", "rse_percent"])
    assert result.fix.index.tolist() == ["b"]
    assert "cannot be told from a (cosine 1.000)" in result.fix.loc["b", "advice"]
    last = result.directions.iloc[-1]
    assert last["composition"] in ("a up, b down", "b up, a down")
    assert last["information"] == pytest.approx(0, abs=1e-6)


def test_fixing_what_is_advised_leaves_nothing_to_advise():
    population = ck.Population(PRODUCT, fixed={"b": 3.0})
    result = identifiability(population, PlannedArm(20, {"y": DAYS}))
    assert result.fix.empty
    assert (result.table["verdict"] == "informed").all()


def test_posterior_is_prior_and_information_added():
    priors = {"a": dist.Normal(2.0, 0.3), "sigma": dist.HalfNormal(1.0)}
    population = ck.Population(LINE, fixed={"b": -0.1}, priors=priors)
    table = identifiability(population, PlannedArm(2, {"y": [1, 2]})).table
    sigma = scipy.stats.halfnorm.median()
    assert table.loc["sigma", "value"] == pytest.approx(sigma, rel=1e-4)
    assert table.loc["sigma", "prior_sd"] == pytest.approx(np.pi / 8**0.5, rel=5e-3)  # of ln |Z|
    assert table.loc["a", "prior_sd"] == pytest.approx(0.3, rel=1e-3)
    exact = (1 / 0.3**2 + 4 / sigma**2) ** -0.5
    assert table.loc["a", "posterior_sd"] == pytest.approx(exact, rel=1e-3)


def test_a_prior_without_quantiles_is_drawn_from():
    priors = {
        "a": dist.TransformedDistribution(dist.Gamma(4.0, 2.0), dist.transforms.ExpTransform())
    }
    population = ck.Population(LINE, fixed={"b": -0.1}, priors=priors)
    table = identifiability(population, PlannedArm(2, {"y": [1, 2]}), at={"a": 2.0}).table
    assert table.loc["a", "value"] == 2.0


ARM = pd.DataFrame({"patient": list("pqrst"), "arm": ["x", "x", "x", "y", "y"]})
BY_ARM = ck.Population(LINE, varies=["a"], covariates={"a": ["arm"]})
PLAN = {
    "x": PlannedArm(3, {"y": DAYS}, lloq=2.0, covariates={"arm": "x"}),
    "y": PlannedArm(2, {"y": DAYS[:3]}, lloq=2.0, covariates={"arm": "y"}),
}


def test_a_design_that_was_carried_out_tells_what_it_told_when_planned():
    rows = [
        {"patient": p, "time": t, "analyte": "y", "value": 5.0, "unit": "cells/µL", "lloq": 2.0}
        for p, arm in ARM.to_numpy()
        for t in (DAYS if arm == "x" else DAYS[:3])
    ]
    doses = [
        {"patient": p, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
        for p in ARM["patient"]
    ]
    data = ck.Dataset.from_frames(ARM, pd.DataFrame(doses), pd.DataFrame(rows))
    carried_out, planned = identifiability(BY_ARM, data), identifiability(BY_ARM, PLAN)
    assert carried_out.names == planned.names
    assert carried_out.names[-1] == "beta_a_arm[y]"
    assert carried_out.information == pytest.approx(planned.information)


def test_the_effect_of_an_arm_is_told_by_that_arm():
    result = identifiability(BY_ARM, PLAN)
    effect = result.names.index("beta_a_arm[y]")
    alone = identifiability(
        ck.Population(LINE, varies=["a"]), {"y": PlannedArm(2, {"y": DAYS[:3]}, lloq=2.0)}
    )
    assert result.information[effect, effect] == pytest.approx(alone.information[0, 0])


def test_a_geometric_mean_with_cv_tells_as_much_as_its_sampling_distribution():
    """Of n log-normal levels with variance v: n / v of the mean, (n - 1) / 2 of ln v.

    4,000 simulations: SE 2 % of the mean, 4 % of the spread. 2,048 virtual patients stand for the
    population: 256, the default, tell 11 to 14 % more of the spread than there is.
    """
    summaries = {
        "cohort": "c",
        "analyte": "y",
        "metric": "level",
        "time": 1.0,
        "use": "fit",
        "n": 25,
    }
    summaries |= {"statistic": "geometric mean", "value": 6.0, "interval": "CV%", "spread": 95.0}
    summaries |= {"unit": "cells/µL", "source": "made up", "note": ""}
    data = ck.Dataset.from_frames(summaries=pd.DataFrame([summaries]))
    population = ck.Population(LINE, varies=["a"], fixed={"b": -0.1}, virtual_patients=2048)
    at = {"omega_a": 0.7, "sigma": 0.4}
    result = identifiability(population, data, at=at, simulations=4000)
    variance = np.array([0.7**2, 0.4**2])
    share = 2 * variance / variance.sum()  # of ln v by ln omega and ln sigma
    assert result.names == ("a", "omega_a", "sigma")
    assert result.information[0, 0] == pytest.approx(25 / variance.sum(), rel=0.1)
    of_spread = result.information[1:, 1:]
    assert of_spread == pytest.approx(12 * np.outer(share, share), rel=0.15)


def test_differential_equations_tell_what_their_solution_tells():
    class P(ck.Params):
        c0: ck.Scalar = ck.param(5.0, "cells/µL", "level after 1e8 cells")
        k: ck.Scalar = ck.param(0.3, "1/day", "rate of loss")

    class S(ck.States):
        c: ck.Scalar = ck.state("cells/µL", "cells")

    solved = ck.ODEModel(
        name="decay",
        params=P,
        states=S,
        vector_field=lambda t, y, p: S(-p.k * y.c),
        targets={"car_t": ck.Target("c", scale=lambda p: p.c0 / 1e8)},
        outputs={"y": lambda t, y, p: y.c, "half": lambda t, y, p: y.c / 2},
        units={"y": "cells/µL", "half": "cells/µL"},
    )
    outputs = {
        "y": lambda t, p: p.c0 * jnp.exp(-p.k * t),
        "half": lambda t, p: p.c0 * jnp.exp(-p.k * t) / 2,
    }
    closed = ck.ClosedForm(name="decay", params=P, outputs=outputs, units=solved.units)
    arm = PlannedArm(7, {"y": [1, 4, 9], "half": [4]}, ck.Regimen.cells(0, 1e8), lloq={"y": 0.5})
    one, other = (
        identifiability(ck.Population(m, varies=["k"], analytes=["y", "half"]), {"a": arm})
        for m in (solved, closed)
    )
    assert one.information == pytest.approx(other.information, rel=1e-3, abs=1e-3)
    assert one.names == ("c0", "k", "omega_k", "sigma_y", "sigma_half")


class TestSamplingTimes:
    population = ck.Population(LINE, varies=["a"])
    arms = PlannedArm(4, {"y": [5]})

    @pytest.mark.parametrize("focus", [(), ("b",), ("omega_a", "sigma")])
    def test_the_chosen_days_are_the_best_of_all(self, focus):
        days = [1, 2, 3, 8, 20]
        chosen = sampling_times(self.population, self.arms, {"y": days}, add=3, focus=focus)

        def value(some):
            result = identifiability(self.population, self.arms.also({"y": some}))
            pick = [result.names.index(n) for n in focus or result.names]
            return np.linalg.slogdet(result.covariance[np.ix_(pick, pick)])[1]

        best = min(itertools.combinations(days, 3), key=value)
        assert value(chosen.days["y"]) == pytest.approx(value(best))

    def test_days_are_exchanged_where_adding_alone_would_miss_the_best(self):
        worth = {"": 0, "a": 3, "b": 2, "c": 2, "ab": 4, "ac": 4, "bc": 5}

        def value(chosen):
            return worth["".join(sorted(chosen))]

        assert exchanged("abc", 2, value) == ["b", "c"]

    def test_what_it_reports_is_what_the_design_tells(self):
        chosen = sampling_times(self.population, self.arms, {"y": range(1, 21)}, add=2, focus=["b"])
        again = identifiability(self.population, chosen.arms)
        assert chosen.after.information == pytest.approx(again.information)
        without = identifiability(self.population, self.arms)
        assert chosen.before.information == pytest.approx(without.information)
        assert (chosen.table["lost"] > 0).all()
        assert "b: posterior SD" in repr(chosen)

    def test_chosen_days_beat_an_even_grid(self):
        model = ck.load_model("piecewise")
        population = ck.Population(model, varies=["cmax", "t_alpha"])
        arm = PlannedArm(10, {"car_t": []}, lloq=0.01)
        chosen = sampling_times(population, arm, {"car_t": range(1, 91, 4)}, add=6)
        even = identifiability(population, arm.also({"car_t": [15, 30, 45, 60, 75, 90]}))
        assert chosen.after.gain > even.gain + 1

    def test_no_day_is_sampled_twice(self):
        chosen = sampling_times(self.population, self.arms, {"y": [5, 6]}, add=1)
        assert chosen.days == {"y": (6.0,)}
        with pytest.raises(ck.FitError, match="must be from 1 to 1"):
            sampling_times(self.population, self.arms, {"y": [5, 6]}, add=2)

    def test_a_focus_must_be_a_parameter(self):
        with pytest.raises(ck.FitError, match="'c' in `focus` is not a parameter"):
            sampling_times(self.population, self.arms, {"y": [1]}, add=1, focus=["c"])


def test_designs_are_compared_parameter_by_parameter():
    few, many = (identifiability(ck.Population(LINE), PlannedArm(n, {"y": DAYS})) for n in (4, 16))
    change = few.compare(many)
    assert change.loc["b", "change_percent"] == pytest.approx(-50, abs=0.5)
    assert many.gain - few.gain == pytest.approx(3, abs=0.2)  # three SDs, each about halved


def test_the_figure_has_a_point_per_parameter_and_design():
    few, many = (identifiability(ck.Population(LINE), PlannedArm(n, {"y": DAYS})) for n in (4, 16))
    figure = ck.plot.identifiability({"few": few, "many": many})
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in points] == [
        few.ratio.tolist(),
        many.ratio.tolist(),
    ]
    assert few.plot().axes[0].get_xlabel() == "expected posterior SD / prior SD"


def test_it_says_in_a_sentence_what_the_design_tells():
    text = repr(identifiability(ck.Population(PRODUCT), PlannedArm(20, {"y": DAYS})))
    assert text.startswith("3 of 4 directions carry more information than the prior")
    assert "Told together, not apart: b and a (cosine 1.000)" in text
    assert "1. Fix b (fixed={'b': 3})" in text


@pytest.mark.parametrize(
    ("arms", "kwargs", "message"),
    [
        (PlannedArm(3, {"z": [1]}), {}, "has no output 'z'"),
        (PlannedArm(3, {"y": []}), {}, "has no days"),
        (PlannedArm(3, {"y": [1]}, ck.Regimen()), {}, "needs a regimen with cell infusions"),
        (PlannedArm(3, {"y": [1]}, covariates={"age": 3}), {}, "has the covariate 'age'"),
        (PlannedArm(3, {"y": [-1, 1]}), {}, "y of arm 'planned' on day -1 is 0"),
        (PlannedArm(3, {"y": [1]}), {"at": {"a": np.nan}}, "on day 1 has no value"),
        (PlannedArm(3, {"y": [1]}), {"at": {"c": 1.0}}, "'c' in `at` is not a parameter"),
    ],
)
def test_what_cannot_be_planned_is_refused(arms, kwargs, message):
    with pytest.raises(ck.CarpkError, match=message):
        identifiability(ck.Population(LINE), arms, **kwargs)


def test_an_arm_must_have_the_covariates_of_the_population():
    with pytest.raises(ck.FitError, match="has no value of the covariate 'arm'"):
        identifiability(BY_ARM, PLAN | {"y": PlannedArm(2, {"y": [1]})})


def test_equations_need_a_regimen_and_several_outputs_must_be_endpoints():
    model = ck.load_model("kimmel2021")
    with pytest.raises(ck.RegimenError, match="has no regimen"):
        identifiability(ck.Population(model), PlannedArm(3, {"car_t": [1]}))
    with pytest.raises(ck.FitError, match=r"analytes=\['car_t', 'tumor'\]"):
        identifiability(ck.Population(model), PlannedArm(3, {"car_t": [1], "tumor": [1]}))


@pytest.mark.parametrize("patients", [0, 2.5])
def test_an_arm_has_a_whole_number_of_patients(patients):
    with pytest.raises(ck.FitError, match="whole number above 0"):
        PlannedArm(patients, {"y": [1]})


def test_an_arm_has_days_per_output():
    with pytest.raises(ck.FitError, match=r"output -> days, such as \{'car_t'"):
        PlannedArm(3, [1, 7])
