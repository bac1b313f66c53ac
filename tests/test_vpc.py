"""Diagnostics of patients' own data: VPC, NPDE, goodness of fit, random effects.

Fits here are known, not sampled: a posterior of one draw, the truth behind simulated data.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

import carpk as ck
from carpk._arviz import to_idata
from carpk.checks import residuals, visual
from carpk.population.parameters import Kind
from carpk.population.replicates import new_people
from carpk.verdict.judge import Verdict
from carpk.verdict.words import trouble


class Params(ck.Params):
    c0: ck.Scalar = ck.param(20.0, "cells/µL", "level on day 0", "assumed")
    k: ck.Scalar = ck.param(0.1, "1/day", "loss", "assumed")
    m0: ck.Scalar = ck.param(5.0, "pg/mL", "marker", "assumed")


MODEL = ck.ClosedForm(
    name="decline",
    params=Params,
    outputs={
        "car_t": lambda t, p: p.c0 * jnp.exp(-p.k * t),
        "marker": lambda t, p: p.m0 * jnp.ones_like(t),
    },
    units={"car_t": "cells/µL", "marker": "pg/mL"},
)
DAYS = (1.0, 4.0, 8.0, 16.0)
TRUTH = {"c0": 20.0, "k": 0.1, "m0": 5.0, "omega_c0": 0.6}
TRUTH |= {"sigma_car_t": 0.3, "sigma_marker": 0.2, "beta_c0_arm": np.array([2.0])}
SPREAD = np.hypot(0.6, 0.3)  # SD of ln y between patients
POP = ck.Population(MODEL, varies=["c0"], covariates={"c0": ["arm"]}, analytes=["car_t", "marker"])


def trial(patients=30, lloq=4.0, population=POP, truth=TRUTH, seed=0):
    """A simulated trial: arm b (every third patient) has e² times the cells of arm a."""
    names = [f"p{i}" for i in range(patients)]
    rows = [
        (name, day, analyte, 1e6, unit, lloq if analyte == "car_t" else 0.01, 0)
        for name in names
        for analyte, unit in MODEL.units.items()
        for day in (DAYS if analyte == "car_t" else DAYS[:2])
    ]
    columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    people = {
        "patient": names,
        "arm": ["b" if i % 3 == 1 else "a" for i in range(patients)],
        "age": np.linspace(20, 70, patients),
        "sex": ["f" if i % 2 else "m" for i in range(patients)],
    }
    doses = {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    data = ck.Dataset.from_frames(
        patients=pd.DataFrame(people),
        doses=pd.DataFrame(doses | {"duration": 0.0}),
        observations=pd.DataFrame(rows, columns=columns),
        name="simulated",
    )
    bound = population.bind(data)
    theta = {k: np.asarray(v)[None] for k, v in truth.items()}
    y = new_people(bound, theta, np.random.default_rng(seed))[0][0]
    a = bound.individual
    found = {
        (a.patients[i], a.time[i, j], a.analytes[a.analyte[i, j]]): y[i, j]
        for i, j in zip(*np.nonzero(a.mask), strict=True)
    }
    table = data.observations
    y = np.array([found[key] for key in zip(table.patient, table.time, table.analyte, strict=True)])
    below = (y < table["lloq"]).astype(int)
    table = table.assign(value=np.maximum(y, table["lloq"]), censored=below)
    return dataclasses.replace(data, observations=table)


BOUND = {}


def bind(data, population):
    """The same for all fits of a data set by one population model."""
    key = id(data), id(population)
    if key not in BOUND:
        BOUND[key] = (data, population, population.bind(data))
    return BOUND[key][2]


def known(data, population=POP, truth=TRUTH, **effects):
    """A fit whose posterior is one draw: the truth, and these effects of the patients."""
    bound = bind(data, population)
    effects = effects or {"eta_c0": np.zeros(len(bound.patients))}
    values = {
        k: (("chain", "draw"), np.full((1, 1), v)) for k, v in truth.items() if np.ndim(v) < 1
    }
    for name in bound.named(Kind.BETA):
        values[name] = (("chain", "draw", "arm_level"), truth[name].reshape(1, 1, -1))
    for name, x in effects.items():
        values[name] = (("chain", "draw", "patient"), np.reshape(x, (1, 1, -1)))
    posterior = xr.Dataset(values, coords={"patient": list(bound.patients)})
    verdict = Verdict((trouble("made up", "Known, not sampled."),), {})
    fit = ck.Fit(population, data, to_idata({"posterior": posterior}), verdict, {"seed": 0})
    vars(fit)["bound"] = bound  # in place of another one, which would be compiled again
    return fit


@pytest.fixture(scope="module")
def data():
    return trial()


@pytest.fixture(scope="module")
def many():
    """300 patients, a third of their levels below the LLOQ."""
    return trial(patients=300, lloq=14.0, seed=3)


@pytest.fixture(scope="module")
def fit(data):
    return known(data)


@pytest.fixture(scope="module")
def checked(fit):
    return ck.checks.vpc(fit, by="arm", bins="times", replicates=400)


class TestPercentiles:
    def test_without_censoring_are_those_of_numpy(self):
        x = np.random.default_rng(0).lognormal(size=(3, 40))
        ours = visual.percentiles(x, np.zeros(x.shape, bool))
        np.testing.assert_allclose(ours, np.percentile(x, [5, 50, 95], axis=1).T, rtol=1e-12)

    def test_with_one_limit_rank_blq_as_the_lowest(self):
        """Of 11 levels, 4 BLQ: rank 1.5 is among them, the median the 6th, rank 10.5 is 8.5."""
        x = np.array([2.0, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9])
        below = x == 2
        assert visual.percentiles(x, below).tolist() == [-np.inf, 4.0, 8.5]
        assert visual.percentiles(x, below, [30, 31, 40]).tolist() == [
            -np.inf,  # its lower neighbour is BLQ
            -np.inf,
            3.0,
        ]
        assert visual.percentiles(x[:4], below[:4]).tolist() == [-np.inf] * 3
        at_the_limit = np.array([2.0, 2.0, 3.0]), np.array([False, True, False])
        assert visual.percentiles(*at_the_limit, [0, 50]).tolist() == [-np.inf, 2.0]

    def test_beyond_the_range_of_the_assay_are_infinite(self):
        x = np.array([1.0, 2.0, np.inf])
        assert visual.percentiles(x, np.zeros(3, bool)).tolist()[1:] == [2.0, np.inf]
        x[1] = np.inf
        assert visual.percentiles(x, np.zeros(3, bool)).tolist() == [np.inf] * 3

    def test_with_several_limits_share_the_weight_of_blq_among_what_is_lower(self):
        """By hand: of 3, <5, 8, 10 the 3 has the weight of <5 too: ranks 2, 3, 4."""
        x, below = np.array([8.0, 5.0, 10.0, 3.0]), np.array([False, True, False, False])
        assert visual.percentiles(x, below, [0, 50, 100]) == pytest.approx([3.0, 5.5, 10.0])

    def test_with_limits_of_their_own_stay_true(self):
        """Ranking BLQ lowest would put the 40th percentile far too low."""
        rng = np.random.default_rng(1)
        y, limit = rng.normal(size=(2, 5000))
        below = y < limit
        ours = visual.percentiles(np.where(below, limit, y), below, [40])[0]
        assert ours == pytest.approx(scipy.stats.norm.ppf(0.4), abs=0.08)
        lowest = np.quantile(np.where(below, -10.0, y), 0.4)
        assert lowest < -1


class TestBins:
    def test_are_the_best_partition(self):
        """All 256 partitions of nine days, by brute force."""
        days = np.repeat([0, 1, 1.5, 4, 7, 7.5, 8, 30, 60], [2, 5, 5, 6, 5, 3, 4, 7, 2]).astype(
            float
        )
        times, x = np.unique(days), np.log1p(days)
        best = (np.inf, None)
        for cuts in itertools.product([False, True], repeat=len(times) - 1):
            edges = ((times[:-1] + times[1:]) / 2)[list(cuts)]
            bin_of = np.searchsorted(edges, days)
            groups = [x[bin_of == b] for b in range(len(edges) + 1)]
            if min(map(len, groups)) < 5:
                continue
            within = sum(((g - g.mean()) ** 2).sum() for g in groups) / len(x)
            best = min(best, (np.log(within + 1e-4) + 0.3 * len(groups), tuple(edges)))
        assert visual.clusters(days)[1:-1] == pytest.approx(best[1])

    def test_follow_visits_that_are_not_kept_to_the_day(self):
        rng = np.random.default_rng(0)
        visits = np.array([1.0, 3, 7, 14, 28, 90, 365])
        days = (visits * rng.uniform(0.95, 1.05, (40, 7))).ravel()
        edges = visual.clusters(days)
        assert (np.searchsorted(edges[1:-1], visits) == np.arange(7)).all()
        assert len(edges) == 8

    def test_are_what_is_asked_for(self, fit):
        assert visual.bin_edges(np.array([1.0, 2, 4]), "times", "x").tolist() == [1, 1.5, 3, 4]
        table = ck.checks.vpc(fit, bins=[0, 4, 20], replicates=20).table
        assert table["n"].unique().tolist() == [30, 90]  # day 4 is in the bin that begins there
        assert table.groupby("bin")["time_low"].first().tolist() == [1.0, 4.0]


class TestVPC:
    def test_compares_percentiles_of_the_data(self, checked, data):
        rows = data.observations[data.observations["analyte"] == "car_t"]
        arm = data.patients.set_index("patient")["arm"]
        own = rows[(rows["time"] == 1) & (rows["patient"].map(arm) == "a")]["value"]
        t = checked.table.set_index(["stratum", "time", "statistic"])
        assert t.loc[("a", 1.0, "50 %"), "observed"] == pytest.approx(np.median(own))
        assert t.loc[("a", 1.0, "50 %"), "n"] == 20
        assert t.loc[("a", 16.0, "5 %"), "observed"] == -np.inf

    def test_counts_what_is_below_the_lloq(self, checked, data):
        rows = data.observations[data.observations["analyte"] == "car_t"]
        late = rows[rows["time"] == 16.0]
        arm = late["patient"].map(data.patients.set_index("patient")["arm"])
        t = checked.table.set_index(["stratum", "time", "statistic"])["observed"]
        assert 0.2 < t["a", 16.0, "below LLOQ"] < 0.9
        for name in ("a", "b"):
            share = (late["censored"][arm == name] == 1).mean()
            assert t[name, 16.0, "below LLOQ"] == pytest.approx(share)

    def test_has_the_intervals_of_new_patients(self, checked):
        """Of 20 patients each is below the LLOQ with the same chance: a binomial number."""
        t = checked.table.set_index(["stratum", "time", "statistic"])
        for day in DAYS:
            chance = scipy.stats.norm.cdf(np.log(4.0 / (20 * np.exp(-0.1 * day))) / SPREAD)
            exact = scipy.stats.binom(20, chance).ppf([0.05, 0.5, 0.95])
            ours = t.loc[("a", day, "below LLOQ"), ["low", "median", "high"]].to_numpy(float)
            assert np.abs(ours * 20 - exact).max() < 1.5
        middle = t.loc[("b", 1.0, "50 %"), ["low", "median", "high"]].to_numpy(float)
        assert middle[1] == pytest.approx(20 * np.exp(1.9), rel=0.1)  # e² times those of arm a
        error = 1.2533 * SPREAD / np.sqrt(10)  # SE of a median of 10
        assert np.log(middle[2] / middle[0]) == pytest.approx(2 * 1.645 * error, rel=0.25)

    def test_censors_replicates_above_the_range_as_the_data(self, data):
        """An assay that reads no more than 40: half of arm b is above it on day 8."""
        table = data.observations.copy()
        over = (table["analyte"] == "car_t") & (table["value"] > 40)
        table.loc[over, ["value", "censored"]] = 40.0, -1
        result = known_vpc(dataclasses.replace(data, observations=table), by="arm")
        t = result.table.set_index(["stratum", "time", "statistic"])
        assert t.loc[("b", 1.0, "50 %"), ["observed", "median", "high"]].tolist() == [np.inf] * 3
        assert not (t["high"].between(40, np.inf, inclusive="neither")).any()
        assert ">range" in repr(result)

    def test_says_in_words_what_lies_outside(self, checked, fit):
        text = repr(checked)
        assert "Visual predictive check of car_t [cells/µL] by arm: simulated, 120" in text
        assert "observed shares below the LLOQ lie in the 90 % interval" in text
        assert "<LLOQ" in text
        assert "-inf" not in text
        wrong = known(fit.data, truth=TRUTH | {"c0": 60.0})
        other = ck.checks.vpc(wrong, bins="times", replicates=100)
        assert "50 %" in set(other.outside["statistic"])
        assert "*" in repr(other)

    def test_same_seed_gives_the_same_table(self, fit):
        a, b, c = (ck.checks.vpc(fit, replicates=30, seed=s).table for s in (1, 1, 2))
        pd.testing.assert_frame_equal(a, b)
        assert not a.equals(c)

    def test_takes_another_endpoint(self, fit):
        other = ck.checks.vpc(fit, output="marker", replicates=50)
        assert other.unit == "pg/mL"
        assert other.table["n"].unique().tolist() == [30]
        assert other.table.loc[0, "median"] < 5 < other.table.loc[2, "median"]

    def test_checks_a_prior_without_a_fit(self, data):
        prior = ck.checks.vpc(bind(data, POP), replicates=40)
        assert "from the prior" in repr(prior)
        wide, narrow = (x.table.query("statistic == '50 %'") for x in (prior, known_vpc(data)))
        assert (np.log(wide["high"].iloc[0]) - np.log(narrow["high"].iloc[0])) > 0.5


def known_vpc(data, **settings):
    return ck.checks.vpc(known(data), replicates=40, bins="times", **settings)


class TestPredictionCorrected:
    def test_takes_out_what_covariates_explain(self, many):
        """Two arms in one bin differ 7-fold; corrected, patients' spread and residuals remain."""
        plain, corrected = (
            ck.checks.vpc(known(many), bins="times", replicates=60, corrected=c).table.set_index(
                ["time", "statistic"]
            )
            for c in (False, True)
        )
        for column in ("observed", "median"):
            wide, narrow = (
                np.log(t.loc[(1.0, "95 %"), column] / t.loc[(1.0, "50 %"), column])
                for t in (plain, corrected)
            )
            assert narrow == pytest.approx(1.645 * SPREAD, rel=0.15)
            assert wide > narrow + 1

    def test_moves_levels_and_limits_by_the_median_pred(self, data):
        """20 of 30 patients are in arm a, so the median PRED is theirs: b moves by e^-2."""
        result = known_vpc(data, corrected=True)
        arm = data.patients.set_index("patient")["arm"]
        of_b = result.points["patient"].map(arm) == "b"
        rows = data.observations[data.observations["analyte"] == "car_t"]
        rows = rows.set_index(["patient", "time"])["value"]
        key = pd.MultiIndex.from_frame(result.points[["patient", "time"]])
        ratio = result.points["value"].to_numpy() / rows.loc[key].to_numpy()
        np.testing.assert_allclose(ratio[of_b], np.exp(-2.0), rtol=1e-9)
        np.testing.assert_allclose(ratio[~of_b], 1.0, rtol=1e-9)
        assert result.points["below"].any()

    def test_leaves_shares_below_the_lloq_alone(self, data):
        plain, corrected = (known_vpc(data, corrected=c).table for c in (False, True))
        below = plain["statistic"] == "below LLOQ"
        pd.testing.assert_frame_equal(plain[below], corrected[below])


class TestNPDE:
    def test_are_standard_normal_under_the_model(self, many):
        """With BLQ and all. Fix the seed, keep the threshold."""
        result = ck.checks.npde(known(many))
        x = result.table["NPDE"]
        assert (result.table["CENS"] == 1).mean() > 0.3
        assert abs(x.mean()) < 4 / np.sqrt(len(x))
        assert abs(x.var() - 1) < 4 * np.sqrt(2 / len(x))
        assert scipy.stats.kstest(x, "norm").pvalue > 1e-3
        assert result.tests.loc["all three", "p"] > 1e-3
        by_day = x.to_numpy().reshape(300, 4)
        assert np.abs(np.corrcoef(by_day, rowvar=False) - np.eye(4)).max() < 4 / np.sqrt(300)
        plain = np.corrcoef(result.table["NPD"].to_numpy().reshape(300, 4), rowvar=False)
        assert plain[0, 1] > 0.5  # what decorrelation is for

    def test_are_not_with_a_wrong_residual_error(self, many):
        result = ck.checks.npde(known(many, truth=TRUTH | {"sigma_car_t": 0.15}))
        assert result.table["NPDE"].var() > 1.5
        assert result.tests.loc["variance", "p"] < 1e-6
        assert repr(result).startswith(
            "NPDE depart from the standard normal, above all in their var"
        )

    def test_are_decorrelated_as_by_regression_on_what_came_before(self):
        """L^-1 (x - m) without any factorisation: residuals over their SD, one by one."""
        rng = np.random.default_rng(0)
        many = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 3.0
        x = rng.normal(size=5)
        one, white = residuals.decorrelated(x, many)
        centred, mean = many - many.mean(0), many.mean(0)
        for j in range(5):
            slope = np.linalg.lstsq(centred[:, :j], centred[:, j])[0]
            rest = centred[:, j] - centred[:, :j] @ slope
            sd = np.sqrt((rest**2).sum() / 399)
            assert white[:, j] == pytest.approx(rest / sd)
            assert one[j] == pytest.approx((x[j] - mean[j] - (x - mean)[:j] @ slope) / sd)

    def test_impute_blq_within_their_predicted_probability(self, fit):
        a, b, c = (ck.checks.npde(fit, seed=s).table for s in (1, 1, 2))
        pd.testing.assert_frame_equal(a, b)
        below = (a["CENS"] == 1).to_numpy()
        assert below.any()
        assert not np.allclose(a["NPD"][below], c["NPD"][below], atol=0.05)
        assert np.allclose(a["NPD"][~below], c["NPD"][~below], atol=0.6)
        chance = np.log(4.0 / a["PRED"]) / SPREAD  # score of the LLOQ
        assert (a["NPD"][below] < chance[below] + 0.2).all()
        assert a["NPD"][below].min() < chance[below].min() - 0.5

    def test_are_tested_as_by_the_package_npde(self):
        x = np.random.default_rng(4).normal(0.1, 1.2, 200)
        tests = residuals.tests_of_npde(x)
        chi = scipy.stats.chi2(199).sf(x.var(ddof=1) * 199)
        assert tests.loc["variance", "p"] == pytest.approx(2 * chi)
        assert tests.loc["mean", "p"] == scipy.stats.wilcoxon(x).pvalue
        assert tests.loc["all three", "p"] == pytest.approx(3 * tests["p"].iloc[:3].min())
        assert np.isnan(residuals.tests_of_npde(x[:2]).loc["all three", "p"])


class TestGoodnessOfFit:
    def test_has_predictions_and_residuals_by_the_formula(self, data):
        shifts = np.linspace(-1, 1, 30)
        result = ck.checks.gof(known(data, eta_c0=shifts), draws=100)
        t = result.table
        person = t["patient"].str[1:].astype(int).to_numpy()
        pred = 20 * np.exp(-0.1 * t["time"] + 2.0 * (person % 3 == 1))
        ipred = pred * np.exp(shifts[person])
        np.testing.assert_allclose(t["PRED"], pred, rtol=1e-9)
        np.testing.assert_allclose(t["IPRED"], ipred, rtol=1e-9)
        measured = t["CENS"] == 0
        score = np.log(t["DV"] / ipred) / 0.3
        np.testing.assert_allclose(t["IWRES"][measured], score[measured], rtol=1e-7)
        assert t["IWRES"][~measured].isna().all()
        assert result.shrinkage == pytest.approx(1 - t["IWRES"].std())
        assert list(t) == [
            *("patient", "time", "output", "DV", "CENS", "LLOQ", "PRED", "IPRED", "IWRES", "NPDE")
        ]
        assert "DV / IPRED: median" in repr(result)


class TestRandomEffects:
    def test_shrink_by_what_the_data_do_not_tell(self, data):
        means = np.linspace(-1, 1, 30)
        shrunk = ck.checks.shrinkage(known(data, eta_c0=means))
        assert shrunk["c0"] == pytest.approx(1 - np.std(means, ddof=1) / 0.6)


class TestFigures:
    @pytest.fixture(autouse=True)
    def closed(self):
        yield
        plt.close("all")

    def test_say_what_their_bands_are(self, checked):
        figure = checked.plot()
        words = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "90 % interval of a replicated median" in words
        assert "BLQ, at the LLOQ" in words
        assert len(figure.axes) == 4  # two arms: levels, and shares below the LLOQ
        assert "from the posterior" in figure.get_suptitle()

    def test_never_draw_a_percentile_below_the_lloq(self, checked):
        for axis in checked.plot().axes[:2]:
            for line in axis.lines:
                if line.get_marker() == "o" and line.get_linestyle() in ("-", "--"):
                    y = np.asarray(line.get_ydata(), float)
                    assert not (y < 4.0).any()

    def test_are_drawn_of_everything(self, fit, data):
        ck.checks.npde(fit, replicates=100).plot()
        ck.checks.gof(fit, draws=100).plot()
        known_vpc(data, corrected=True).plot(points=False)
        grid = ck.plot.eta_covariates(known(data, eta_c0=np.linspace(-1, 1, 30)))
        labels = [axis.get_xlabel() for axis in grid.axes]
        assert labels == ["arm (in the model)", "age", "sex"]
        assert "r = 1.00" in grid.axes[1].get_title(loc="left")
        ck.plot.eta_pairs(fit)
        panels = ck.plot.individual_fits(fit, most=4)
        words = [text.get_text() for text in panels.legends[0].get_texts()]
        assert {"PRED, no random effects", "LLOQ", "cells infused"} <= set(words)


class TestRefusals:
    @pytest.mark.parametrize("check", ["vpc", "npde", "gof", "shrinkage"])
    def test_cohort_statistics_have_checks_of_their_own(self, check, known_fit):
        with pytest.raises(ck.FitError, match=r"published cohort summaries only"):
            getattr(ck.checks, check)(known_fit)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"output": "il6"}, r"no observations of 'il6' in this fit; it has car_t, marker"),
            ({"by": "arms"}, r"no covariate `arms`; known are .*Did you mean `arm`\?"),
            ({"by": "age"}, r"'age' has 30 different values, too many for a panel each"),
            ({"bins": "auto5"}, r'bins must be "auto", "times" or at least two ascending edges'),
            ({"bins": [4, 1]}, r"at least two ascending edges in days, but is \[4, 1\]"),
            ({"bins": [0, 8]}, r"30 observations, on day 16 for one, lie outside the bins"),
            ({"replicates": 3}, r"replicates must be a whole number of at least 20, but is 3"),
        ],
    )
    def test_of_what_a_vpc_cannot_do_say_what_it_can(self, settings, message, fit):
        with pytest.raises(ck.CarpkError, match=message):
            ck.checks.vpc(fit, **settings)

    def test_too_few_replicates_for_a_covariance(self, fit, monkeypatch):
        monkeypatch.setattr(residuals, "PER_SAMPLE", 10)
        with pytest.raises(ck.FitError, match=r"20 replicates are too few .* use replicates=40"):
            ck.checks.npde(fit, replicates=20)

    def test_nothing_to_plot_random_effects_against(self, data):
        alone = dataclasses.replace(data, patients=data.patients[["patient"]])
        bare = ck.Population(MODEL, varies=["c0"], analytes=["car_t", "marker"])
        truth = {k: v for k, v in TRUTH.items() if k != "beta_c0_arm"}
        with pytest.raises(ck.FitError, match=r"no covariate that differs between patients"):
            ck.plot.eta_covariates(known(alone, bare, truth))

    def test_nothing_varies(self, data):
        bare = ck.Population(MODEL, analytes=["car_t", "marker"])
        truth = {k: v for k, v in TRUTH.items() if not k.endswith(("_c0", "_arm"))}
        with pytest.raises(ck.FitError, match="no parameter varies between patients"):
            ck.checks.shrinkage(known(data, bare, truth))


def test_samples_before_the_first_dose_do_not_move_corrected_percentiles():
    """They have no prediction by which to correct them, and are left out."""
    data = trial(patients=12)
    first = data.observations.drop_duplicates("patient").assign(time=0.0, value=4.0, censored=1)
    rows = pd.concat([first, data.observations], ignore_index=True)
    early = known(dataclasses.replace(data, observations=rows))
    checked = [
        ck.checks.vpc(fit, corrected=True, bins=[0, 2, 20], replicates=50)
        for fit in (early, known(data))
    ]
    result, alone = checked
    assert (result.left_out, alone.left_out) == (12, 0)
    observed, right = (x.table[x.table["statistic"] != "below LLOQ"] for x in checked)
    assert observed["observed"].tolist() == right["observed"].tolist()
    assert len(result.points) == len(alone.points)
    assert "12 observations with a prediction of 0, as before the first dose" in repr(result)
    assert ck.checks.vpc(early, bins=[0, 2, 20], replicates=50).left_out == 0
