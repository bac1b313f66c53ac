"""Ranks are uniform for calibrated posteriors, and for no others."""

import dataclasses

import conjugate
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_hex

import carpk as ck
from carpk import checks
from carpk.checks import calibration, truth
from carpk.inference.nuts import prior_draws
from carpk.plot.style import BLUE, RED
from carpk.population.replicates import simulated, with_values

SIMULATIONS, DRAWS = 100, 49


def ranks_of(shift=0.0, scale=1.0, seed=0, simulations=SIMULATIONS):
    """SBC of a normal mean with a normal prior; draws are shifted and scaled by posterior SDs."""
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=simulations)
    y = mu + rng.normal(size=simulations)
    z = shift + scale * rng.normal(size=(simulations, DRAWS))
    below = y[:, None] / 2 + z * np.sqrt(0.5) < mu[:, None]
    return checks.SBC({"mu": below.sum(axis=1)}, DRAWS)


class TestRanks:
    def test_count_the_draws_below_the_truth(self):
        samples = np.array([[1.0, 2.0, 3.0], [5.0, 4.0, 6.0]])
        result = checks.SBC.of({"x": np.array([2.5, 0.0])}, {"x": samples})
        assert result.ranks["x"].tolist() == [2, 0]
        assert result.draws == 3

    def test_are_of_evenly_spaced_draws(self):
        samples = np.tile(np.arange(10.0), (2, 1))
        result = checks.SBC.of({"x": np.array([4.5, 100.0])}, {"x": samples}, draws=4)
        assert result.draws == 4
        assert result.ranks["x"].tolist() == [2, 4]  # draws 0, 3, 6 and 9

    def test_of_draws_that_are_not_finite_are_failures(self):
        samples = np.random.default_rng(0).normal(size=(5, DRAWS))
        samples[2, 7] = np.nan
        result = checks.SBC.of({"x": np.zeros(5)}, {"x": samples})
        assert (result.failed, result.simulations) == (1, 4)
        assert not result.ok
        assert repr(result).startswith("DO NOT TRUST: draws of 1 of the fits are not finite.")


class TestVerdict:
    def test_is_ok_for_exact_draws_but_for_one_set_in_twenty(self):
        """200 sets; a rate of 5 % gives 4 to 18 with a chance of 99.5 %."""
        uniform = ranks_of()._uniform
        p = []
        for seed in range(200):
            result = ranks_of(seed=seed)
            result.__dict__["_uniform"] = uniform  # of the same size, so the same
            p.append(result.table.loc["mu", "p_ecdf"])
        assert 4 <= np.sum(np.array(p) < 0.05) <= 18
        assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3

    @pytest.mark.parametrize(
        ("shift", "scale", "words"),
        [(0.8, 1, "too high"), (-0.8, 1, "too low"), (0, 0.5, "too narrow"), (0, 2, "too wide")],
    )
    def test_says_how_a_posterior_is_off(self, shift, scale, words):
        result = ranks_of(shift, scale)
        assert not result.ok
        assert result.table.loc["mu", "posterior"] == words
        assert repr(result).startswith(
            "DO NOT TRUST: the ranks of 1 of 1 quantities over 100 simulated data sets are not "
            "uniform: mu."
        )

    def test_ok_is_said_first(self):
        assert repr(ranks_of()).startswith("OK: uniform ranks of 1 quantities over 100")

    def test_band_holds_uniform_ranks_as_often_as_it_says(self):
        """Simultaneously, over all shares."""
        result = ranks_of()
        _, low, high = result.band()
        rng = np.random.default_rng(1)
        counts = rng.multinomial(SIMULATIONS, np.full(DRAWS + 1, 1 / (DRAWS + 1)), size=4000)
        share = np.arange(1, DRAWS + 1) / (DRAWS + 1)
        off = np.cumsum(counts, axis=1)[:, :-1] / SIMULATIONS - share
        inside = np.all((off >= low - 1e-12) & (off <= high + 1e-12), axis=1)
        assert 0.94 < inside.mean() < 0.985  # discrete, so a little more than 95 %

    def test_a_curve_leaves_its_band_where_it_is_not_ok(self):
        for result in (ranks_of(), ranks_of(scale=0.5), ranks_of(shift=0.6)):
            _, low, high = result.band()
            line = result.ecdf_difference("mu")
            assert np.any((line < low - 1e-12) | (line > high + 1e-12)) == bool(result.off)

    def test_is_adjusted_for_the_number_of_quantities(self):
        """Holm: the smallest times their number, the next times one less, never falling."""
        adjusted = calibration.holm(np.array([0.04, 0.01, 0.03, 0.9]))
        assert adjusted == pytest.approx([0.09, 0.04, 0.09, 0.9])
        one = ranks_of(shift=0.3, seed=3)
        many = dataclasses.replace(one, ranks={f"{i}": one.ranks["mu"] for i in range(8)}, ess={})
        ratio = many.table["p_adjusted"].iloc[0] / one.table["p_adjusted"].iloc[0]
        assert ratio == pytest.approx(8.0)
        assert many.prob > one.prob

    def test_chi2_of_uniform_ranks_is_uniform(self):
        p = []
        for seed in range(200):
            result = ranks_of(seed=seed, simulations=200)
            p.append(result._p_chi2(result.ranks["mu"]))
        assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
        assert ranks_of(scale=0.5)._p_chi2(ranks_of(scale=0.5).ranks["mu"]) < 1e-4

    def test_chains_too_short_for_their_ranks_are_said(self):
        """An autocorrelation of 0.97 leaves some 49 / 65 effective draws."""
        rng = np.random.default_rng(0)
        x = np.zeros((SIMULATIONS, 4 * DRAWS))
        for i in range(1, x.shape[1]):
            x[:, i] = 0.97 * x[:, i - 1] + rng.normal(size=SIMULATIONS)
        result = checks.SBC.of({"x": np.zeros(SIMULATIONS)}, {"x": x}, draws=DRAWS)
        assert "fewer than 34 effective draws of x, where 49 are ranked" in repr(result)
        assert "raise draws" in repr(result)
        independent = rng.normal(size=x.shape)
        fine = checks.SBC.of({"x": np.zeros(SIMULATIONS)}, {"x": independent}, draws=DRAWS)
        assert "raise draws" not in repr(fine)


@pytest.fixture(scope="module")
def design():
    return conjugate.data(patients=4)


def exact(spread=1.0):
    """In the place of a sampler: exact draws of each simulated data set, deviations scaled."""

    def draw(model, values, *, draws, seed, **_):
        individual = conjugate.POP.bind(conjugate.data(patients=4)).individual
        rng, found = np.random.default_rng(seed), []
        for value in values["value"]:
            one = dataclasses.replace(individual, value=value)
            sample = conjugate.posterior(one, (draws,), rng)
            mean = np.log(sample["base"]).mean()
            sample["base"] = np.exp(mean + spread * (np.log(sample["base"]) - mean))
            found.append(sample)
        return {k: np.stack([x[k] for x in found]) for k in found[0]}

    return draw


class TestOfAPopulation:
    def run(self, monkeypatch, design, sampler, **options):
        monkeypatch.setattr(truth, "sampled", sampler)
        options = {"simulations": 100, "draws": 60, "ranked": 49, "progress": False} | options
        return checks.sbc(conjugate.POP, design, **options)

    def test_exact_draws_are_calibrated(self, monkeypatch, design):
        result = self.run(monkeypatch, design, exact())
        assert list(result.ranks) == ["base", "omega_base", "sigma", "log_lik"]
        assert result.ok
        assert result.draws == 49

    @pytest.mark.parametrize(
        "population",
        [pytest.param(conjugate.POP, marks=pytest.mark.exhaustive), conjugate.without_spread()],
    )
    def test_draws_around_modes_are_exact_where_all_is_normal(self, design, population):
        """With patients integrated out, and without: each data set has points of its own."""
        how = {"simulations": 60, "draws": 60, "ranked": 49, "log_lik": False, "progress": False}
        assert checks.sbc(population, design, method="laplace", seed=2, **how).ok

    def test_draws_too_close_together_are_not(self, monkeypatch, design):
        result = self.run(monkeypatch, design, exact(0.4), log_lik=False)
        assert result.off == ("base",)
        assert result.table.loc["base", "posterior"] == "too narrow"

    def test_draws_of_the_prior_show_in_the_likelihood_alone(self, monkeypatch, design):
        """Ranks of every parameter are uniform, though the data were ignored."""

        def prior(model, values, *, draws, seed, **_):
            size = (len(values["value"]), draws)
            drawn = prior_draws(conjugate.POP.bind(design).priors, size[0] * draws, seed + 1)
            drawn = {k: v.reshape(size) for k, v in drawn.items()}
            scores = np.random.default_rng(seed).normal(size=(*size, 4))
            return drawn | {"eta_base": drawn["omega_base"][..., None] * scores}

        result = self.run(monkeypatch, design, prior)
        assert result.off == ("log_lik",)

    def test_derived_quantities_are_ranked_too(self, monkeypatch, design):
        def squared(p):
            return p.base**2

        result = self.run(monkeypatch, design, exact(), derived={"base²": squared}, log_lik=False)
        assert result.ranks["base²"].tolist() == result.ranks["base"].tolist()

    def test_the_likelihood_at_the_truth_is_that_of_its_patients(self, design):
        """The simulated levels scatter around those of the patients that come with them."""
        bound = conjugate.POP.bind(design)
        theta = prior_draws(bound.priors, 300, 0)
        values, people = simulated(bound, theta, 0)
        assert people.base.shape == (300, 4, 1)
        a = bound.individual
        f = np.asarray(people.base) * np.exp(-conjugate.RATE * a.time)
        z = (np.log(values["value"] / f) / theta["sigma"][:, None, None])[:, a.mask]
        assert z.std() == pytest.approx(1.0, abs=0.05)
        params = jax.tree.map(lambda x: x[0], people)
        first = {k: v[0] for k, v in values.items()}
        one = {k: v[0] for k, v in theta.items()}
        ours = with_values(bound, first).observation_log_likelihoods(params, one)
        sigma = one["sigma"]
        plain = scipy.stats.norm.logpdf(z[0]) - np.log(sigma) - np.log(first["value"][a.mask])
        assert float(ours.sum()) == pytest.approx(plain.sum())

    def test_refuses_what_it_cannot_rank(self, monkeypatch, design):
        for ranked in (0, 61):
            with pytest.raises(ck.FitError, match=r"ranked must be between 1 and draws \(60\)"):
                self.run(monkeypatch, design, exact(), ranked=ranked)
        with pytest.raises(ck.FitError, match='must be "nuts" or "laplace", but is'):
            self.run(monkeypatch, design, exact(), method="exact")
        with pytest.raises(ck.FitError, match="omega_base of the fitted population has no true"):
            checks.sbc(conjugate.without_spread(), design, fitted=conjugate.POP, simulations=2)


class TestFigure:
    def test_shows_each_quantity_in_its_band_and_what_left_it(self):
        good, bad = ranks_of(), ranks_of(scale=0.4)
        both = dataclasses.replace(
            good, ranks={"good": good.ranks["mu"], "bad": bad.ranks["mu"]}, ess={}
        )
        figure = both.plot()
        axes = [axis for axis in figure.axes if axis.get_visible()]
        assert [axis.get_title(loc="left") for axis in axes] == ["good", "bad: too narrow"]
        colours = [to_hex(axis.lines[-1].get_color()) for axis in axes]
        assert colours == [BLUE, RED]
        assert "DO NOT TRUST" in figure.get_suptitle()
        plt.close(figure)
