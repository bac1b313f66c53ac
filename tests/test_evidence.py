"""Evidence on lymphodepletion: every term is what it says, every figure has a source, and nothing
is claimed that the facts do not carry."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import scipy.stats as st
import xarray as xr
from numpyro.infer.util import log_density

from carpk import _arviz, evidence
from carpk.checks.powers import WIDE, distance, power_scaling
from carpk.errors import DatasetError, FitError
from carpk.evidence import likelihoods
from carpk.evidence.likelihoods import LIKELIHOODS, SLOPES, ArmPrediction, ReportedResult
from carpk.verdict.judge import Verdict
from carpk.verdict.words import trouble

TABLE = evidence.load()
FITTED = TABLE[TABLE["use"] == "fit"]
MIXED = {  # two components, of which neither is rare
    "level": -0.4,
    "effect": jnp.array([0.9, 1.7]),
    "share": jnp.array([0.3, 0.7]),
    "spread": 0.8,
    "base": -0.2,
    "slope": 1.3,
    "dilution": 0.4,
}
SHARE, MEAN = np.array([0.3, 0.7]), -0.4 + np.array([0.9, 1.7])


def above(z):
    return float(SHARE @ st.norm.sf(z, MEAN, 0.8))


def exact_expanded():
    return st.binom.logpmf(19, 21, above(0.0))


def exact_some_expanded():
    return np.log(1 - st.binom.pmf(0, 6, above(0.0)))


def exact_median_fold():
    """Of five draws above 0, two lie below the median and two above."""
    z = np.log10(89.0)
    below = 1 - above(z) / above(0.0)
    density = SHARE @ st.norm.pdf(z, MEAN, 0.8) / above(0.0)
    return st.beta.logpdf(below, 3, 3) + np.log(density)


def exact_up_to():
    """The highest of k less the median of m, by adaptive quadrature over the latter."""
    shift = float(SHARE @ np.array([0.9, 1.7])) + 0.4
    splits = [(m, k) for m in range(2, 8) for k in range(2, 8) if 11 - m - k >= 2]

    def density(m, k):
        sd = np.sqrt(0.8**2 * np.pi / 2 / m + 1 / 12)

        def joint(x):
            z = (3 + x - shift) / 0.8
            highest = k * st.norm.cdf(z) ** (k - 1) * st.norm.pdf(z) / 0.8
            return highest * st.norm.pdf(x, 0, sd)

        return scipy.integrate.quad(joint, -8 * sd, 8 * sd)[0]

    return np.log(np.mean([density(m, k) for m, k in splits]))


def exact_linked_count():
    p = SHARE @ scipy.special.expit(-0.2 + 1.3 * np.array([0.9, 1.7]))
    return st.binom.logpmf(19, 21, p)


def exact_ratio(value, p, log):
    """With this standard error, and no effect, the ratio has this two-sided p-value."""
    error = scipy.optimize.brentq(lambda s: 2 * st.norm.sf(abs(log(value)), 0, s) - p, 1e-3, 1e3)
    return st.norm.logpdf(log(value), 1.3 * SHARE @ np.array([0.9, 1.7]), error)


EXACT = {
    "expanded": (ReportedResult(19.0, 21, np.nan), exact_expanded()),
    "some_expanded": (ReportedResult(1.0, 6, np.nan), exact_some_expanded()),
    "median_fold": (ReportedResult(89.0, 5, np.nan), exact_median_fold()),
    "up_to": (ReportedResult(3.0, 11, np.nan), exact_up_to()),
    "detectable": (ReportedResult(19.0, 21, np.nan), exact_linked_count()),
    "response": (ReportedResult(19.0, 21, np.nan), exact_linked_count()),
    "odds_ratio": (ReportedResult(0.3, 0, 0.291), exact_ratio(0.3, 0.291, np.log)),
    "persistence": (ReportedResult(2.9, 0, 0.0078), exact_ratio(2.9, 0.0078, np.log10)),
}


KINDS = list(LIKELIHOODS)


@jax.jit
def terms(effect, slope):
    """ln likelihood of the fact of every kind, shape (kind,)."""
    arm = ArmPrediction(**MIXED | {"effect": effect, "slope": slope})
    return jnp.stack([LIKELIHOODS[kind](EXACT[kind][0], arm) for kind in KINDS])


pulls = jax.jit(jax.jacobian(terms))  # (kind, component of the arm)


@pytest.mark.parametrize("kind", KINDS)
def test_every_term_is_the_density_of_what_was_printed(kind):
    found = terms(MIXED["effect"], MIXED["slope"])[KINDS.index(kind)]
    assert float(found) == pytest.approx(EXACT[kind][1], abs=2e-3)


def test_none_expanded_is_the_rest_of_some_expanded():
    some, none = (
        likelihoods.some_expanded(ReportedResult(k, 6, np.nan), ArmPrediction(**MIXED))
        for k in (1.0, 0.0)
    )
    assert float(jnp.exp(some) + jnp.exp(none)) == pytest.approx(1)


def test_an_outcome_without_a_tie_to_expansion_cannot_move_an_effect():
    linked = np.array([KINDS.index(kind) for kind in SLOPES])
    assert np.abs(pulls(MIXED["effect"], 0.0)[linked]).max() == 0
    assert np.abs(pulls(MIXED["effect"], 1.0)[linked]).max(axis=1).min() > 0.01


@pytest.mark.parametrize("shift", [-12.0, 12.0])
def test_terms_have_finite_derivatives_far_from_the_figures(shift):
    assert np.isfinite(pulls(MIXED["effect"] + shift, 1.0)).all()


def parameters(bound, **changes):
    sizes = bound.sizes()
    theta = {name: jnp.full(sizes.get(name, ()), 0.6) for name in (*bound.priors, "a", "u", "v")}
    return theta | {"level": -1.0} | changes  # so that nothing is certain


def test_every_fact_depends_on_its_drugs_its_study_and_its_product_and_on_nothing_else():
    bound = evidence.model()
    theta, t = parameters(bound), bound.table

    def facts(some):
        return bound.log_likelihoods(theta | some, bound.data())

    names = ("flu", "cy", "left", "a", "u", "v")
    slopes = jax.jit(jax.jacobian(facts))({name: theta[name] for name in names})
    depends = {name: np.abs(x) > 1e-12 for name, x in slopes.items()}
    flu, cy = t["flu"].to_numpy() > 0, t["cy"].to_numpy() > 0
    for name, given in {"flu": flu, "cy": cy, "left": flu & cy}.items():
        np.testing.assert_array_equal(depends[name], given, name)
    study = t["study"].to_numpy()[:, None] == np.array(bound.studies)
    np.testing.assert_array_equal(depends["u"], study & flu[:, None])
    np.testing.assert_array_equal(depends["v"], study & cy[:, None])
    product = t["product"].to_numpy()[:, None] == np.array(bound.products)
    levels = t["kind"].isin(["expanded", "some_expanded", "median_fold"]).to_numpy()
    np.testing.assert_array_equal(depends["a"], product & levels[:, None])


@pytest.mark.slow
def test_the_joint_density_is_that_of_the_priors_and_of_the_weighted_facts():
    bound = evidence.model(TABLE[TABLE["study"].isin(["HEROS 2.0", "CTL clones"])])
    theta = parameters(bound)
    density, _ = log_density(bound.numpyro_model, (), {}, theta)
    standard = dict.fromkeys("auv", dist.Normal())
    prior = sum(p.log_prob(theta[name]).sum() for name, p in {**bound.priors, **standard}.items())
    facts = bound.log_likelihoods(theta, bound.data())
    weights = np.array([0.619, 1, 1, 1])  # 21 infusions of 13 patients
    assert float(density) == pytest.approx(float(prior + weights @ facts))


def test_a_base_rate_is_a_parameter_only_where_an_outcome_needs_it():
    assert "base" not in evidence.model(TABLE[TABLE["study"] == "CTL clones"]).priors
    assert evidence.model().outcomes == (
        ("HER2-CD28z, sarcoma", "detectable"),
        ("CART-BCMA, myeloma", "response"),
    )


class TestTheTable:
    def test_says_where_every_figure_was_read_and_why_one_is_kept_out(self):
        for row in TABLE.itertuples():
            assert row.source, row
            assert row.read, row
            assert row.use in {"fit", "no"}, row
            assert row.note or row.use == "fit", row
            assert row.kind in {*LIKELIHOODS, "other"}, row

    def test_holds_no_figure_from_memory(self):
        text = " ".join(TABLE["note"]) + " ".join(TABLE["read"]) + " ".join(TABLE["source"])
        assert "background" not in text.lower()
        assert "recalled" not in text.lower()

    def test_has_a_row_for_every_kind(self):
        assert set(FITTED["kind"]) == set(LIKELIHOODS)

    def test_figures_are_those_printed(self):
        printed = [
            ("HEROS 1.0", "expanded", 0, 9),
            ("HEROS 1.0", "detectable", 7, 9),
            ("HEROS 2.0", "expanded", 19, 21),
            ("HEROS 2.0", "median_fold", 89, 5),
            ("HEROS 2.0", "detectable", 6, 6),
            ("HER2 VST", "expanded", 2, 17),
            ("GD2-CAR3", "up_to", 3, 11),
            ("1RG-CART", "some_expanded", 1, 6),
            ("CART-BCMA", "expanded", 9, 9),
            ("CART-BCMA", "expanded", 16, 16),
            ("CART-BCMA", "response", 4, 9),
            ("CART-BCMA", "response", 7, 11),
            ("CTL clones", "persistence", 2.9, 10),
            ("CD19 reinfusion", "odds_ratio", 33.57, 40),
            ("CD19 reinfusion", "odds_ratio", 0.3, 23),
        ]
        found = FITTED[["study", "kind", "value", "n"]].itertuples(index=False, name=None)
        assert list(found) == printed

    @pytest.mark.parametrize(
        ("column", "entry", "said"),
        [
            ("kind", "rumour", "'rumour' has no likelihood"),
            ("value", np.nan, "`value` is missing"),
            ("n", np.nan, "`n` is missing"),
            ("flu", 0.5, "flu must be 0 or 1"),
            ("cy", 1.5, "cy from 0 to 1"),
            ("value", 30.0, "count 30 is not between 0 and n = 9"),
            ("weight", 2.0, "weight 2 is not between 0 and 1"),
        ],
    )
    def test_refuses_a_row_that_cannot_be_used_and_says_which(self, column, entry, said):
        wrong = TABLE.copy()
        wrong.loc[0, column] = entry
        with pytest.raises(DatasetError, match=said) as trouble:
            evidence.model(wrong)
        assert "row 1 (HEROS 1.0" in str(trouble.value)

    def test_refuses_an_unknown_prior_an_empty_table_and_a_file_without_a_column(self, tmp_path):
        with pytest.raises(DatasetError, match="no parameter 'beta'"):
            evidence.model(priors={"beta": dist.Normal()})
        with pytest.raises(DatasetError, match="no row of the table has use 'fit'"):
            evidence.model(TABLE.assign(use="no"))
        TABLE.drop(columns="note").to_csv(tmp_path / "mine.csv", index=False)
        with pytest.raises(DatasetError, match=r"'mine.csv' has no column `note`"):
            evidence.load(tmp_path / "mine.csv")
        with pytest.raises(FitError, match="chains must be a whole number"):
            evidence.fit(chains=0)


class TestPowerScaling:
    def test_the_distance_is_that_between_the_distributions(self):
        x = st.norm.ppf((np.arange(40_000) + 0.5) / 40_000)

        def between(z):
            p, q = st.norm.cdf(z), st.norm.cdf(z - 0.5)
            m = (p + q) / 2
            return scipy.special.rel_entr(p, m) + scipy.special.rel_entr(q, m)

        def area(z):
            return st.norm.cdf(z) + st.norm.cdf(z - 0.5)

        ends = x[0], x[-1]
        exact = scipy.integrate.quad(between, *ends)[0] / np.log(2)
        exact = np.sqrt(exact / scipy.integrate.quad(area, *ends)[0])
        one, other = (distance(s * x, np.exp(0.5 * x)) for s in (1, -1))
        assert one == other
        assert exact - 1e-4 < one < exact + 0.1  # not symmetric: the larger of two

    @pytest.mark.skipif(not hasattr(_arviz.az, "psens"), reason="ArviZ 0.x only")
    def test_the_sensitivity_is_that_of_arviz(self):
        x = st.norm.rvs(1.0, 0.7, size=(4, 500), random_state=1)
        log_prior, log_likelihood = st.norm.logpdf(x, 0, 1), st.norm.logpdf(2.0, x, 1)
        groups = {"posterior": x, "log_prior": log_prior, "log_likelihood": log_likelihood}
        dims = ("chain", "draw")
        idata = _arviz.to_idata({k: xr.Dataset({"x": (dims, v)}) for k, v in groups.items()})
        draws = (x.ravel(), log_prior.ravel(), log_likelihood.ravel())
        mine = power_scaling({"x": draws[0]}, *draws[1:], alphas=WIDE)
        for component in ("prior", "likelihood"):
            theirs = float(_arviz.az.psens(idata, component=component, delta=0.25)["x"])
            assert mine.loc["x", component] == pytest.approx(theirs, rel=0.02)

    @pytest.mark.parametrize(
        ("seen", "error", "prior_sd", "diagnosis"),
        [
            (6.0, 1.0, 1.0, "prior-data conflict"),
            (0.5, 20.0, 1.0, "strong prior / weak likelihood"),
            (0.5, 1.0, 50.0, "-"),
        ],
    )
    def test_names_the_trouble_of_a_normal_mean(self, seen, error, prior_sd, diagnosis):
        precision = 1 / prior_sd**2 + 1 / error**2
        x = st.norm.rvs(seen / error**2 / precision, precision**-0.5, 4000, random_state=2)
        log_prior, log_likelihood = st.norm.logpdf(x, 0, prior_sd), st.norm.logpdf(seen, x, error)
        table = power_scaling({"x": x}, log_prior, log_likelihood)
        assert table.loc["x", "diagnosis"] == diagnosis


@pytest.fixture(scope="module")
def made_up():
    """A result whose posterior is known because nothing sampled it."""
    bound, rng = evidence.model(TABLE), np.random.default_rng(5)
    values = {"flu": (1.5, 0.2), "cy": (0.6, 0.3), "left": (0.5, 0.05), "tau": (0.3, 0.01)}
    sizes, dims = bound.sizes(), ("chain", "draw", "each")
    posterior, prior = {}, {}
    for name in (*bound.priors, "a", "u", "v", "log_likelihood"):
        shape = (2, 500, *([sizes[name]] if name in sizes else []))
        x = rng.normal(*values.get(name, (0.5, 0.1)), shape)
        posterior[name] = ((*dims[:2], f"{name}_each")[: x.ndim], x)
        prior[name] = (dims[:2], rng.uniform(-2, 2, shape[:2]))
    idata = _arviz.to_idata({"posterior": xr.Dataset(posterior), "prior": xr.Dataset(prior)})
    numbers = {"rhat_max": 2.0, "ess_min": 3.0, "divergences": 0.0, "ebfmi_min": 1.0}
    verdict = Verdict((trouble("made up", "The draws are made up: sample them."),), numbers)
    settings = {"draws": 500, "tune": 0, "chains": 2, "seed": 0}
    return evidence.Evidence(TABLE, bound, idata, verdict, settings)


def test_the_first_line_says_whether_to_trust_it(made_up):
    assert not made_up.ok
    lines = repr(made_up).splitlines()
    assert lines[0].startswith("DO NOT TRUST: R-hat at most 2.000")
    assert f"{len(FITTED)} facts of 8 studies" in lines[2]
    assert lines[-1] == made_up.sentence


def test_the_summary_is_that_of_the_draws(made_up):
    table, d, p = made_up.summary(), made_up.draws, made_up.prior
    both = d["flu"] + d["left"] * d["cy"]
    assert table.loc["Flu/Cy", "median"] == pytest.approx(np.median(both))
    assert table.loc["Flu/Cy", "fold_high"] == pytest.approx(10 ** np.quantile(both, 0.95))
    assert table.loc["Cy", "above_0"] == np.mean(d["cy"] > 0)
    assert table.loc["Cy", "above_2_fold"] == np.mean(10 ** d["cy"] > 2)
    ratio = np.std(d["left"] * d["cy"]) / np.std(p["left"] * p["cy"])
    assert table.loc["Cy, added to Flu", "sd_ratio"] == pytest.approx(ratio)
    sd = np.sqrt(np.var(both) + 0.3**2 * (1 + 0.5**2))
    low, high = table.loc["Flu/Cy, another study", ["eti90_low", "eti90_high"]]
    assert high - low == pytest.approx(2 * 1.645 * sd, rel=0.1)


def test_a_study_has_the_effect_of_what_it_gave(made_up):
    table, d, studies = made_up.by_study(), made_up.draws, made_up.model.studies
    u, v = (
        {study: d["tau"] * d[name][:, i] for i, study in enumerate(studies)} for name in ("u", "v")
    )
    expected = {
        "CTL clones": d["flu"] + u["CTL clones"],
        "CART-BCMA": d["cy"] + v["CART-BCMA"],
        "GD2-CAR3": d["flu"] + u["GD2-CAR3"] + d["left"] * (d["cy"] + v["GD2-CAR3"]),
    }
    for study, x in expected.items():
        assert table.loc[study, "median"] == pytest.approx(np.median(x)), study
    assert list(table["arm"]) == ["Flu or Flu/Cy", "Flu/Cy", "Flu/Cy", "Cy", "Flu", "Flu/Cy"]


def test_the_forest_names_every_study_with_lymphodepletion_and_every_average(made_up):
    figure = made_up.plot()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    plt.close(figure)
    assert [x.split(":")[0] for x in labels[:6]] == list(made_up.by_study().index)
    assert labels[6:] == list(made_up.summary().index[:5])


@pytest.mark.parametrize(
    ("cy", "said"),
    [(0.0, "Known is how much"), (0.6, "Not known is how much"), (3.0, "Known is how much")],
)
def test_the_sentence_claims_no_more_than_the_draws(made_up, cy, said):
    """Known is that Cy at least doubles expansion, or that it does not; not what lies between."""
    posterior = _arviz.group(made_up.idata, "posterior")
    posterior = posterior.assign(cy=posterior["cy"] - 0.6 + cy)
    groups = {"posterior": posterior, "prior": _arviz.group(made_up.idata, "prior")}
    sentence = dataclasses.replace(made_up, idata=_arviz.to_idata(groups)).sentence
    assert f" {said}" in sentence
    assert sentence.startswith("Flu/Cy raises expansion")
    assert "No study in the table reports Flu and Flu/Cy apart" in sentence
