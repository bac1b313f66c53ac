"""The likelihood of published summaries, against exact and simulated sampling distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import carpk as ck
from carpk import summaries as s
from carpk.assay.residual import Combined, LogNormal
from carpk.dataset.cohort_summaries import likelihoods_of, proportion_bounds
from carpk.population.replicates import with_summaries

NAN = math.nan
DAY = 7.0
SIGMA = 0.5
OMEGA = 0.8
TOTAL = math.hypot(SIGMA, OMEGA)  # SD of ln(level) over the population
CENTRE = math.log(20.0)


def summary(metric="level", statistic="median", value=20.0, n=22, **more):
    fields = {"time": DAY, "low": NAN, "high": NAN, "interval": "", "spread": NAN, "lloq": NAN}
    fields |= {"use": "fit", "label": "simulated"} | more
    return s.CohortSummary(metric=metric, statistic=statistic, value=value, n=n, **fields)


def cohort(*summaries, size=1024, sampling=(), dependence=True):
    return s.CohortLikelihood(
        tuple(summaries), tuple(sampling), {"": LogNormal()}, size, 1, dependence
    )


def log_likelihood(likelihood, centre=CENTRE, omega=OMEGA, sigma=SIGMA):
    """Of a population whose level on every day is exp(centre + omega z)."""
    z = jnp.asarray(likelihood.normals()[0][:, 0])
    f = jnp.exp(centre + omega * z)[:, None] * jnp.ones(len(likelihood.days))
    return likelihood.log_likelihoods(f, {"": {"sigma": sigma}})


def exact_order_statistics(y, rank, n):
    """ln joint density of order statistics of n draws of ln y ~ N(CENTRE, TOTAL), integer ranks."""
    x = (np.log(y) - CENTRE) / TOTAL
    u = scipy.stats.norm.cdf(x)
    gaps = np.diff(np.concatenate([[0], u, [1]]))
    between = np.diff(np.concatenate([[0], rank, [n + 1]])).astype(int) - 1
    ways = math.lgamma(n + 1) - sum(math.lgamma(b + 1) for b in between)
    density = scipy.stats.norm.logpdf(x) - math.log(TOTAL) - np.log(y)
    return ways + np.sum(between * np.log(gaps)) + density.sum()


class TestOrderStatistics:
    def test_median_and_quartiles_have_the_exact_joint_density_where_ranks_are_whole(self):
        y, n = np.array([11.0, 21.0, 43.0]), 21  # type-7 ranks 6, 11, 16
        one = summary(value=y[1], low=y[0], high=y[2], interval="IQR", n=n)
        exact = exact_order_statistics(y, [6, 11, 16], n)
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.01)

    def test_median_and_range_have_the_exact_joint_density(self):
        y, n = np.array([3.0, 21.0, 160.0]), 15
        one = summary(value=y[1], low=y[0], high=y[2], interval="range", n=n)
        exact = exact_order_statistics(y, [1, 8, 15], n)
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.01)

    def test_density_of_an_interpolated_median_matches_simulation(self):
        """n even: the median is the mean of two order statistics, ranks are fractional."""
        n, rng = 8, np.random.default_rng(1)
        medians = np.median(rng.normal(CENTRE, TOTAL, (200_000, n)), axis=1)
        grid = np.linspace(CENTRE - 0.7, CENTRE + 0.7, 8)
        kde = scipy.stats.gaussian_kde(medians)(grid)
        ours = [
            math.exp(log_likelihood(cohort(summary(value=math.exp(x), n=n)))[0] + x) for x in grid
        ]
        assert np.abs(np.array(ours) / kde - 1).max() < 0.15  # a few percent in the SD

    def test_density_integrates_to_one(self):
        def density(ln_y):
            return math.exp(float(log_likelihood(cohort(summary(value=math.exp(ln_y))))[0]) + ln_y)

        x = np.linspace(CENTRE - 2, CENTRE + 2, 161)
        assert np.trapezoid([density(v) for v in x], x) == pytest.approx(1.0, abs=1e-3)

    @pytest.mark.slow
    def test_more_patients_make_a_sharper_likelihood(self):
        def curvature(n):
            at = lambda c: log_likelihood(cohort(summary(n=n)), centre=c)[0]  # noqa: E731
            return -float(jax.grad(jax.grad(at))(CENTRE))

        assert curvature(80) / curvature(20) == pytest.approx(4.0, rel=0.15)


class TestMoments:
    def test_geometric_mean_and_cv_follow_normal_and_chi_square_in_a_log_normal_population(self):
        n, gm, cv = 25, 18.0, 110.0
        one = summary(statistic="geometric mean", value=gm, interval="CV%", spread=cv, n=n)
        s2 = math.log1p((cv / 100) ** 2)
        exact = scipy.stats.norm.logpdf(math.log(gm), CENTRE, TOTAL / math.sqrt(n))
        scale = TOTAL**2 / (n - 1)
        exact += scipy.stats.chi2.logpdf(s2 / scale, n - 1) - math.log(scale) + math.log(s2)
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.25)

    @pytest.mark.parametrize("tau", [0.3, 0.7, 1.1])
    def test_mean_and_sd_of_a_log_normal_have_their_simulated_joint_distribution(self, tau):
        n, rng = 40, np.random.default_rng(3)
        x = np.exp(rng.normal(0, tau, (20_000, n)))
        a = np.log(x.mean(1))
        b = 0.5 * np.log(np.log1p((x.std(1, ddof=1) / x.mean(1)) ** 2))
        table = s.moment_table(n)
        row = int(np.argmin(np.abs(np.exp(s.LN_TAU) - tau)))
        shift = math.log(tau) - s.LN_TAU[row]
        assert abs(a.mean() - table.mean[row, 0]) < 0.2 * a.std() + abs(shift)
        assert abs((b - math.log(tau)).mean() - table.mean[row, 1]) < 0.2 * b.std()
        assert a.std() == pytest.approx(table.sd[row, 0], rel=0.15)
        assert b.std() == pytest.approx(table.sd[row, 1], rel=0.15)

    def test_a_published_sd_is_a_standard_deviation_and_not_a_variance(self):
        """The likelihood of the population's own SD beats that of its square, and of its root."""
        mean = math.exp(CENTRE + TOTAL**2 / 2)
        sd = mean * math.sqrt(math.expm1(TOTAL**2))

        def at(spread):
            return float(
                log_likelihood(
                    cohort(
                        summary(statistic="mean", value=mean, interval="SD", spread=spread, n=60)
                    )
                )[0]
            )

        assert at(sd) > at(sd**2) + 5
        assert at(sd) > at(math.sqrt(sd)) + 5

    def test_a_count_is_binomial_in_the_share_above_the_limit(self):
        one = summary("detectable", "count", value=7.0, n=9, lloq=10.0)
        p = scipy.stats.norm.sf(math.log(10.0), CENTRE, TOTAL)
        exact = scipy.stats.binom.logpmf(7, 9, p)
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.01)


class TestDependence:
    def two(self, dependence=True, rho_patients=True):
        a, b = summary(time=7.0, n=22), summary(time=14.0, n=22)
        return cohort(a, b, dependence=dependence)

    def test_the_same_patients_on_two_days_are_not_two_cohorts(self):
        """Correlation of two medians of bivariate normal data is (2/pi) asin(rho) (exact)."""
        rho = OMEGA**2 / TOTAL**2
        margins = [s.quantiles(summary(n=22), _quantity()) for _ in range(2)]
        c = margins[0].hermite[0]
        ours = sum(c[m] ** 2 * rho ** (m + 1) for m in range(s.HERMITE_ORDER))
        assert ours == pytest.approx(2 / math.pi * math.asin(rho), rel=0.01)

    def test_dependence_leaves_single_statistics_alone(self):
        assert float(log_likelihood(cohort(summary()))[-1]) == 0.0

    def test_agreeing_medians_are_more_likely_together_than_apart(self):
        up = [summary(time=d, value=30.0) for d in (7.0, 14.0)]
        apart = [summary(time=7.0, value=30.0), summary(time=14.0, value=13.3)]
        assert log_likelihood(cohort(*up))[-1] > log_likelihood(cohort(*apart))[-1] + 0.3

    def test_scores_of_a_beta_variable_are_close_to_normal_scores(self):
        p = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
        for a, b in [(1, 22), (5.5, 13.5), (10, 10), (49, 49)]:
            x = scipy.stats.beta.ppf(p, a, b)
            error = np.abs(np.asarray(s.beta_score(x, a, b)) - scipy.stats.norm.ppf(p))
            assert error.max() < 0.04


def _quantity():
    x = jnp.linspace(-2, 2, 64)

    def at(y):
        return s.normal((jnp.log(y)[None, :] - CENTRE) / TOTAL * jnp.ones((64, 1)))

    return s.Quantity(x, jnp.ones(64), at)


class TestQuantities:
    T = np.array([3.0, 5, 8, 10, 12, 15, 18, 22, 28, 58, 88, 118, 148])

    def curves(self, noise=0.3, size=400, seed=0):
        rng = np.random.default_rng(seed)
        tmax = 9.0 * np.exp(0.25 * rng.standard_normal((size, 1)))
        alpha = 0.15 * np.exp(0.4 * rng.standard_normal((size, 1)))
        since = np.maximum(self.T - tmax, 0)
        decline = 0.99 * np.exp(-alpha * since) + 0.01 * np.exp(-0.003 * since)
        f = 1000 * np.exp(0.8 * np.minimum(self.T - tmax, 0)) * decline
        y = f * np.exp(noise * rng.standard_normal(f.shape))
        return s.Curves(self.T, jnp.asarray(f), jnp.asarray(y))

    def test_areas_are_those_of_nca(self):
        curves = self.curves()
        t = jnp.concatenate([jnp.zeros(1), jnp.asarray(self.T)])
        exact = [ck.nca.auc_to(28)(t, jnp.concatenate([jnp.zeros(1), c])) for c in curves.y[:40]]
        assert np.asarray(s.auc(curves, 28.0))[:40] == pytest.approx(np.log(exact), abs=1e-9)

    def test_a_baseline_sample_does_not_lengthen_an_area(self):
        curves = self.curves()
        before = jnp.full((400, 1), 50.0)
        y = jnp.concatenate([before, curves.y], axis=1)
        longer = s.Curves(np.array([-1.0, *self.T]), y, y)
        assert np.array_equal(s.auc(longer, 28.0), s.auc(curves, 28.0))

    def test_half_lives_are_those_of_nca_in_most_patients(self):
        """The rounded-off rule picks the same samples; where two choices tie, it averages."""
        curves = self.curves()
        ours, weight = s.log_half_life(curves, 0.5)
        exact = np.array([ck.nca.half_life(jnp.asarray(self.T), c, 0.5) for c in curves.y[:80]])
        known = np.isfinite(exact)
        error = np.abs(np.asarray(ours)[:80][known] - np.log(exact[known]))
        assert np.median(error) < 0.04
        assert np.mean(error < 0.2) > 0.85
        assert np.asarray(weight)[:80][known].mean() > 0.9

    def test_a_rise_is_no_half_life_even_where_it_fits_best(self):
        """Late levels that hardly fall, and noise: the last three samples rise in many patients."""
        rng = np.random.default_rng(4)
        t = np.array([7.0, 14, 21, 28, 60, 90, 120, 180])
        clean = 50 * (np.exp(-t / 6) + 0.05 * np.exp(-t / 150))
        y = jnp.asarray(clean * np.exp(0.7 * rng.standard_normal((300, len(t)))))
        ours, weight = s.log_half_life(s.Curves(t, y, y), math.nan)
        exact = np.log([ck.nca.half_life(jnp.asarray(t), c, 0.0) for c in y])
        rises = np.log(y[:, -1] / y[:, -3]) > 0
        known = np.isfinite(exact) & (np.asarray(weight) > 0.9)
        assert (rises & known).sum() > 50
        assert np.mean(np.abs(np.asarray(ours) - exact)[known] < 0.2) > 0.85
        assert np.std(np.asarray(ours)[known]) == pytest.approx(np.std(exact[known]), rel=0.1)

    @pytest.mark.parametrize(
        ("residual", "theta"),
        [(LogNormal(), {"sigma": 0.5}), (Combined(), {"sigma_add": 60.0, "sigma_prop": 0.4})],
    )
    def test_the_highest_sample_is_on_each_day_as_often_as_simulated(self, residual, theta):
        f = self.curves(size=100).f
        z = np.random.default_rng(6).standard_normal((4000, *f.shape))
        observed = np.argmax(np.asarray(residual.sample(z, f, theta)), axis=2)
        simulated = np.bincount(observed.ravel(), minlength=len(self.T)) / observed.size
        ours = np.asarray(s.peak_day_shares(f, residual, theta))
        assert ours == pytest.approx(simulated, abs=0.003)  # 4 standard errors
        assert abs(simulated - 1 / len(self.T)).max() > 0.2

    @pytest.mark.parametrize("n", [1, 9, 10, 60])
    def test_the_median_peak_day_has_its_simulated_probability(self, n):
        """On a sampling day, or of an even number halfway between two of them."""
        f, theta, draws = self.curves(size=100).f, {"sigma": 0.5}, 100_000
        share = np.asarray(s.peak_day_shares(f, LogNormal(), theta))
        rng = np.random.default_rng(5)
        medians = np.median(rng.choice(self.T, (draws, n), p=share), axis=1)
        halves = [] if n % 2 else (self.T[1:] + self.T[:-1]) / 2
        total = 0.0
        for day in [*self.T, *halves]:
            one = summary("tmax", value=day, n=n, time=NAN)
            ours = math.exp(float(s.peak_day(one, self.T, f, LogNormal(), theta)))
            assert ours == pytest.approx(np.mean(medians == day), abs=0.005), day
            total += ours
        assert total == pytest.approx(1.0, abs=0.02)  # less what skips a day, such as 8 and 12

    @pytest.mark.parametrize("n", [2, 3, 9, 10])
    def test_the_range_of_peak_days_has_its_simulated_probability(self, n):
        f, theta, draws = self.curves(size=100).f, {"sigma": 0.5}, 200_000
        share = np.asarray(s.peak_day_shares(f, LogNormal(), theta))
        days = np.random.default_rng(8).choice(self.T, (draws, n), p=share)
        printed = np.stack([days.min(1), np.median(days, axis=1), days.max(1)], axis=1)
        kinds, seen = np.unique(printed, axis=0, return_counts=True)
        adjacent = {*self.T, *(self.T[1:] + self.T[:-1]) / 2}
        for (low, value, high), k in sorted(
            zip(kinds.tolist(), seen, strict=True), key=lambda x: -x[1]
        )[:12]:
            if value not in adjacent:
                continue
            one = summary(
                "tmax", "median", value, n, interval="range", low=low, high=high, time=NAN
            )
            ours = math.exp(float(s.peak_day(one, self.T, f, LogNormal(), theta)))
            assert ours == pytest.approx(k / draws, abs=5 * math.sqrt(k) / draws), (
                low,
                value,
                high,
            )

    def test_a_peak_day_beside_the_schedule_stands_for_the_next_sampling_day(self):
        f = self.curves(size=100).f

        def ours(day, n):
            one = summary("tmax", value=day, n=n, time=NAN)
            return float(s.peak_day(one, self.T, f, LogNormal(), {"sigma": 0.5}))

        assert ours(9.83, 60) == ours(10.0, 60) != ours(9.0, 60)
        assert ours(9.0, 9) > max(ours(8.0, 9), ours(10.0, 9))  # of 9, either of the two days

    def test_an_impossible_peak_day_is_improbable_and_has_a_gradient(self):
        f = self.curves(size=100).f

        def ours(sigma, day, n):
            one = summary("tmax", value=day, n=n, time=NAN)
            return s.peak_day(one, self.T, f, LogNormal(), {"sigma": sigma})

        for day, n in ((148.0, 60), (133.0, 60), (148.0, 9)):
            value, slope = jax.value_and_grad(ours)(0.2, day, n)
            assert value < -500
            assert np.isfinite(slope)
        assert float(jax.grad(ours)(0.5, 9.0, 60)) == pytest.approx(
            float(ours(0.5001, 9.0, 60) - ours(0.4999, 9.0, 60)) / 2e-4, rel=1e-4
        )

    def test_the_observed_peak_has_the_simulated_distribution(self):
        curves = self.curves(noise=0.5, size=4000)
        q = s.quantity("cmax", NAN, NAN, curves, LogNormal(), {"sigma": 0.5})
        peaks = np.asarray(curves.y).max(1)
        for p in (0.1, 0.5, 0.9):
            y = float(np.quantile(peaks, p))
            ours = math.exp(float(s.population_distribution(q, jnp.array([y])).cdf[0]))
            assert ours == pytest.approx(p, abs=0.03)


SAMPLING = (3.0, 7.0, 10.0, 14.0, 21.0, 28.0)
PRINTED = {  # of a level, in its unit
    "": {},
    "IQR": {"low": 9.0, "high": 44.0},
    "range": {"low": 4.0, "high": 95.0},
    "95% CI": {"low": 15.0, "high": 26.0},
    "90% CI": {"low": 16.0, "high": 24.5},
    "SD": {"spread": 15.0},
    "SE": {"spread": 5.0},
    "CV%": {"spread": 60.0},
    "GSD": {"spread": 1.9},
}
OF_TMAX = {
    "": {},
    "range": {"low": 7.0, "high": 21.0},
    "95% CI": {"low": 8.0, "high": 12.0},
    "90% CI": {"low": 8.5, "high": 11.5},
    "SD": {"spread": 4.0},
    "SE": {"spread": 1.2},
    "CV%": {"spread": 40.0},
}
OF_METRIC = {"level": (7.0, 20.0), "cmax": (NAN, 30.0), "auc": (28.0, 400.0), "t_half": (NAN, 11.0)}


def cell(metric, statistic, interval, n):
    """A statistic of every kind that is accepted, with believable numbers."""
    if metric == "tmax":
        return summary(metric, statistic, 10.0, n, interval=interval, time=NAN, **OF_TMAX[interval])
    if metric == "detectable":
        near = {"low": 6.5 / n, "high": 7.5 / n} if statistic == "proportion" else {}
        value = 7 / n if near else 7.0
        return summary(metric, statistic, value, n, time=14.0, lloq=12.0, **near)
    time, value = OF_METRIC[metric]
    printed = {
        k: v if interval in ("CV%", "GSD") else v * value / 20 for k, v in PRINTED[interval].items()
    }
    name = {"percentile": "p25"}.get(statistic, statistic)
    return summary(metric, name, value, n, interval=interval, time=time, **printed)


def moved(one, name):
    """The same statistic with another number in one place."""
    if one.metric == "detectable":
        up = one.value + (1 / one.n if one.statistic == "proportion" else 1)
        return one._replace(value=up, low=one.low + 1 / one.n, high=one.high + 1 / one.n)
    next_day = {7.0: 10.0, 10.0: 14.0, 21.0: 28.0}
    number = getattr(one, name)
    ranks_only = one.metric == "tmax" and one.statistic == "median"
    return one._replace(**{name: next_day[number] if ranks_only else 1.1 * number})


def of_curves(likelihood, p):
    """ln likelihood of all summaries of curves that peak on day 8."""
    days = jnp.asarray(likelihood.days)
    z = jnp.asarray(likelihood.normals()[0][:, 0])
    f = jnp.exp(p[0] + p[1] * z)[:, None] * jnp.exp(-p[2] * jnp.abs(days - 8.0))
    return likelihood.log_likelihoods(f, {"": {"sigma": p[3]}})


POINT = jnp.array([3.1, 0.6, 0.08, 0.4])


@pytest.mark.parametrize(
    "metric", [pytest.param("level", marks=pytest.mark.slow), "tmax", "detectable"]
)
def test_every_number_of_an_accepted_statistic_moves_the_likelihood(metric):
    """All of `likelihoods_of`; Cmax, areas and half-lives have the margins of levels."""
    for statistic, kinds in likelihoods_of(metric).items():
        if statistic == "percentage":
            continue  # a proportion by then
        for kind in kinds:
            one = cell(metric, statistic, kind, 9)
            changed = [
                moved(one, name)
                for name in ("value", "low", "high", "spread")
                if math.isfinite(getattr(one, name)) and (metric != "detectable" or name == "value")
            ]
            every = cohort(one, *changed, size=32, sampling=SAMPLING, dependence=False)
            terms = np.asarray(of_curves(every, POINT))[:-1]
            place = (metric, statistic, kind, terms)
            assert np.isfinite(terms).all(), place
            assert len(changed) == 1 + len(PRINTED[kind]), place
            assert (abs(terms[1:] - terms[0]) > 1e-4).all(), place


@pytest.mark.parametrize(
    "metric",
    [
        *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("level", "auc")),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("tmax", "detectable")),
    ],
)
def test_gradients_of_every_kind_of_statistic_equal_finite_differences(metric):
    for statistic, kinds in likelihoods_of(metric).items():
        if statistic == "percentage":
            continue
        for kind in kinds:
            which = cell(metric, statistic, kind, 24 if metric == "detectable" else 21)
            one = cohort(which, size=64, sampling=SAMPLING)
            of = jax.jit(lambda p, one=one: jnp.sum(of_curves(one, p)))
            gradient = jax.jit(jax.grad(of))(POINT)
            for i in range(4):
                step = jnp.zeros(4).at[i].set(1e-5)
                difference = float(of(POINT + step) - of(POINT - step)) / 2e-5
                close = pytest.approx(difference, rel=5e-4, abs=1e-3)
                assert float(gradient[i]) == close, (metric, statistic, kind, i)


@pytest.mark.slow
def test_gradients_of_statistics_tied_to_each_other_equal_finite_differences():
    summaries = [
        summary(value=20.0, low=9.0, high=40.0, interval="IQR"),
        summary(time=14.0, value=20.0, low=2.0, high=140.0, interval="range", lloq=3.0),
        summary("level", "mean", 12.0, low=0.0, high=60.0, interval="range", time=21.0, lloq=1.0),
        summary("cmax", "geometric mean", 40.0, interval="CV%", spread=90.0, time=NAN),
        summary("cmax", "mean", 60.0, interval="SD", spread=50.0, time=NAN),
        summary("auc", "geometric mean", 700.0, interval="CV%", spread=90.0, time=28.0),
        summary("tmax", "median", 9.0, time=NAN),
        summary("detectable", "count", 15.0, time=14.0, lloq=12.0),
    ]
    likelihood = cohort(*summaries, size=128, sampling=SAMPLING)
    total = jax.jit(lambda p: jnp.sum(of_curves(likelihood, p)))
    gradient = jax.jit(jax.grad(total))(POINT)
    for i in range(4):
        step = jnp.zeros(4).at[i].set(1e-5)
        difference = float(total(POINT + step) - total(POINT - step)) / 2e-5
        assert float(gradient[i]) == pytest.approx(difference, rel=2e-4, abs=1e-3)


class TestBelowTheLimit:
    def test_a_median_below_the_limit_has_the_probability_that_it_is(self):
        n, lloq = 9, 18.0
        p = scipy.stats.norm.cdf(math.log(lloq), CENTRE, TOTAL)
        exact = scipy.stats.binom.logsf(4, n, p)  # five or more are below
        for value in (0.0, 17.0):
            ours = log_likelihood(cohort(summary(value=value, n=n, lloq=lloq)))[0]
            assert float(ours) == pytest.approx(exact, abs=0.02)

    def test_a_range_that_starts_below_the_limit_has_its_joint_probability(self):
        """P(smallest below, median and largest at y), of n = 5: 5! / 1! 1! u1 (u3-u1).. by hand."""
        n, lloq, y = 5, 8.0, np.array([21.0, 60.0])
        one = summary(value=y[0], low=0.0, high=y[1], interval="range", n=n, lloq=lloq)
        at = (np.log([lloq, *y]) - CENTRE) / TOTAL
        u = scipy.stats.norm.cdf(at)
        # of the two below the median one at least lies below the limit; one between median and top
        pairs = u[1] ** 2 - (u[1] - u[0]) ** 2
        density = scipy.stats.norm.pdf(at[1:]) / TOTAL / y
        exact = math.log(math.factorial(5) / 2 * pairs * (u[2] - u[1]) * density.prod())
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.02)

    @pytest.mark.exhaustive
    def test_replaced_data_are_censored_as_given_data_are(self):
        """`with_summaries` under jit does not know which of the numbers are below the limit."""
        one = summary(value=20.0, low=9.0, high=40.0, interval="range", lloq=10.0)
        other = summary("level", "mean", 25.0, low=9.0, high=60.0, interval="range", lloq=10.0)
        likelihood = cohort(one, other)

        @jax.jit
        def of(values):
            return log_likelihood(with_summaries(likelihood, values))

        for low, value in ((9.0, 20.0), (12.0, 20.0), (0.0, 8.0)):
            given = cohort(
                one._replace(low=low, value=value), other._replace(low=low, value=value + 5)
            )
            values = np.array([[value, low, 40.0, NAN], [value + 5, low, 60.0, NAN]])
            assert np.asarray(of(values)) == pytest.approx(
                np.asarray(log_likelihood(given)), rel=1e-9
            )

    def test_an_impossible_statistic_below_the_limit_is_improbable_and_has_a_gradient(self):
        one = cohort(summary(value=0.0, lloq=0.001, n=80))
        value, slope = jax.value_and_grad(lambda c: log_likelihood(one, centre=c)[0])(CENTRE)
        assert value < -500
        assert np.isfinite(slope)
        assert slope < 0


class TestProportions:
    def test_a_proportion_is_any_of_the_counts_that_are_printed_so(self):
        """77 % of 300 are 230, 231 or 232 patients."""
        low, high = proportion_bounds(77.0, "percentage")
        one = summary("detectable", "proportion", 0.77, n=300, lloq=10.0, low=low, high=high)
        p = scipy.stats.norm.sf(math.log(10.0), CENTRE, TOTAL)
        exact = math.log(scipy.stats.binom.pmf([230, 231, 232], 300, p).sum())
        assert float(log_likelihood(cohort(one))[0]) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (summary("tlast", "median", 100.0), "no likelihood"),
        (summary("tmax", "geometric mean", 9.0), "no likelihood"),
        (summary("cmax", "median", 9.0, time=NAN), "sampling"),
        (summary("detectable", "count", 3.0), "lloq"),
        (summary("level", "count", 3.0), "count"),
        (summary("tmax", "median", 9.0, interval="IQR", low=7.0, high=10.0), "IQR"),
        (summary(statistic="mean", interval="GSD", spread=2.0), "GSD"),
    ],
)
def test_a_statistic_without_likelihood_is_refused_with_advice(bad, words):
    with pytest.raises(ck.FitError, match=words):
        cohort(bad)


@pytest.mark.parametrize(
    ("interval", "use", "n", "needed"),
    [
        ("range", "fit", 32, 0),
        ("range", "fit", 33, 512),
        ("range", "fit", 80, 1024),
        ("range", "fit", 3000, 1024),
        ("range", "value", 80, 0),
        ("IQR", "fit", 80, 0),
    ],
)
def test_the_range_of_many_patients_takes_more_virtual_ones(interval, use, n, needed):
    few = summary("cmax", interval="IQR", n=3)
    assert s.needed_for_ranges([few, summary("cmax", interval=interval, n=n, use=use)]) == needed


@pytest.mark.exhaustive
def test_the_default_number_of_virtual_patients_is_enough():
    """Log-likelihood ratios with 256 virtual patients are those with 4,096 to within 15 %."""
    study = ck.load_study("zuma1_moffitt").dataset()
    theta = {"cmax": 40.0, "tmax": 6.5, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.004}
    theta |= {"beta_alpha": 0.02, "omega_cmax": 0.8, "omega_t_alpha": 0.7, "sigma": 0.6}
    model = ck.load_model("piecewise")
    default = ck.Population(model).virtual_patients

    def total(size, **change):
        population = ck.Population(model, varies=["cmax", "t_alpha"], virtual_patients=size)
        bound = population.bind(study)
        return float(bound.summary_log_likelihoods(theta | change)["moffitt"].sum())

    for change in ({"cmax": 60.0}, {"omega_cmax": 0.5}, {"t_alpha": 6.0}):
        few = total(default, **change) - total(default)
        many = total(4096, **change) - total(4096)
        assert few == pytest.approx(many, rel=0.15, abs=0.2)
