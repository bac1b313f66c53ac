"""Residual models are distributions, limits are the integrals they claim, and units convert."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.integrate import quad

import carpk as ck
from carpk.assay.denominator import cells_per_ul, copies_per_ug, to_cells, to_copies
from carpk.assay.residual import log_likelihood

RESIDUALS = {
    "log-normal": (ck.LogNormal(), {"sigma": 0.56}),
    "proportional": (ck.Proportional(), {"sigma_prop": 0.4}),
    "combined": (ck.Combined(), {"sigma_add": 3.0, "sigma_prop": 0.2}),
    "additive": (ck.Additive(), {"sigma_add": 3.0}),
    "power": (ck.Power(), {"sigma_pow": 1.5, "power": 0.6}),
    "power of a half": (ck.Power(0.5), {"sigma_pow": 1.5}),
}
F = 20.0
NORMAL = {  # their SDs
    "proportional": lambda f: 0.4 * f,
    "combined": lambda f: np.sqrt(3.0**2 + (0.2 * f) ** 2),
    "additive": lambda f: 3.0,
    "power": lambda f: 1.5 * f**0.6,
    "power of a half": lambda f: 1.5 * np.sqrt(f),
}
each_residual = pytest.mark.parametrize("name", RESIDUALS)


def likelihood(name, y, f, censored, lloq=1.0, limit=None):
    residual, theta = RESIDUALS[name]
    y, f, lloq = (jnp.asarray(x, float) for x in (y, f, lloq))
    limit = None if limit is None else jnp.asarray(limit, float)
    return log_likelihood(residual, y, f, theta, jnp.asarray(censored), lloq, limit)


@each_residual
def test_the_density_integrates_to_one(name):
    residual, theta = RESIDUALS[name]
    low = 1e-9 if name == "log-normal" else -200.0
    density = jax.jit(lambda y: jnp.exp(residual.log_prob(y, F, theta)))
    area = quad(lambda y: float(density(y)), low, 1_000.0, points=[5.0, 20.0, 60.0], limit=200)[0]
    assert area == pytest.approx(1.0, abs=1e-6)


@each_residual
@pytest.mark.parametrize("y", [2.0, 19.0, 55.0])
def test_the_slope_of_the_distribution_function_is_the_density(name, y):
    residual, theta = RESIDUALS[name]
    slope = jax.grad(lambda y: jnp.exp(residual.log_cdf(y, F, theta)))(y)
    assert float(slope) == pytest.approx(float(jnp.exp(residual.log_prob(y, F, theta))), rel=1e-9)
    both = jnp.exp(residual.log_cdf(y, F, theta)) + jnp.exp(residual.log_sf(y, F, theta))
    assert float(both) == pytest.approx(1.0, rel=1e-12)


@each_residual
@pytest.mark.parametrize("z", [-2.0, 0.0, 1.3])
def test_sampling_undoes_the_standard_score(name, z):
    residual, theta = RESIDUALS[name]
    y = residual.sample(z, F, theta)
    assert float(residual.standardize(y, F, theta)[0]) == pytest.approx(z, abs=1e-12)


def test_densities_are_those_of_scipy_with_sigma_as_a_standard_deviation():
    y = np.array([3.0, 20.0, 41.0])
    exact = scipy.stats.lognorm.logpdf(y, s=0.56, scale=F)
    np.testing.assert_allclose(likelihood("log-normal", y, F, 0), exact, rtol=1e-12)
    for name, sd in NORMAL.items():
        exact = scipy.stats.norm.logpdf(y, F, sd(F))
        np.testing.assert_allclose(likelihood(name, y, F, 0), exact, rtol=1e-12)


def test_the_spread_of_sampled_logs_is_sigma():
    """Read as a variance, 0.56 would give an SD of 0.75."""
    z = jax.random.normal(jax.random.key(1), (40_000,))
    logs = jnp.log(ck.LogNormal().sample(z, F, {"sigma": 0.56}))
    assert float(jnp.std(logs)) == pytest.approx(0.56, rel=0.015)  # 4 standard errors


# --- censoring ------------------------------------------------------------------------------------


def below(name, lloq, f):
    """ln P(Y < lloq) by SciPy."""
    if name == "log-normal":
        return scipy.stats.norm.logcdf((np.log(lloq) - np.log(f)) / 0.56)
    return scipy.stats.norm.logcdf(lloq, f, NORMAL[name](f))


@each_residual
@pytest.mark.parametrize("f", [0.5, 10.0, 400.0])
def test_a_level_below_the_lloq_counts_as_its_probability(name, f):
    """M3; the value stored beside it plays no part."""
    exact = below(name, 10.0, f)
    for stored in (10.0, 5.0, 1e-3):
        got = likelihood(name, stored, f, 1, 10.0)
        assert float(got) == pytest.approx(float(exact), rel=1e-12)


@each_residual
def test_a_level_above_the_upper_limit_counts_as_its_probability(name):
    exact = np.log1p(-np.exp(below(name, 30.0, F)))
    assert float(likelihood(name, 30.0, F, -1, 1.0)) == pytest.approx(float(exact), rel=1e-9)


@each_residual
def test_a_level_between_limit_and_lloq_counts_as_the_interval(name):
    """M4: ln [P(Y < lloq) - P(Y < limit)]; without a limit it is M3."""
    exact = np.log(np.exp(below(name, 10.0, F)) - np.exp(below(name, 4.0, F)))
    got = likelihood(name, 10.0, F, 1, 10.0, 4.0)
    assert float(got) == pytest.approx(float(exact), rel=1e-9)
    assert float(got) < float(likelihood(name, 10.0, F, 1, 10.0))
    for no_limit in (np.nan, -np.inf, 12.0):
        got = likelihood(name, 10.0, F, 1, 10.0, no_limit)
        assert float(got) == pytest.approx(float(below(name, 10.0, F)), rel=1e-12)


def test_each_measurement_takes_its_own_branch():
    y, f = np.array([3.0, 10.0, 30.0, 10.0]), np.array([5.0, 12.0, 25.0, 12.0])
    censored, limit = np.array([0, 1, -1, 1]), np.array([np.nan, np.nan, np.nan, 4.0])
    together = likelihood("log-normal", y, f, censored, np.full(4, 10.0), limit)
    apart = [
        likelihood("log-normal", *row, 10.0, lim)
        for *row, lim in zip(y, f, censored, limit, strict=True)
    ]
    np.testing.assert_allclose(together, apart, rtol=1e-12)


@each_residual
@pytest.mark.parametrize("censored", [0, 1, -1])
@pytest.mark.parametrize("limit", [np.nan, 4.0])
def test_gradients_are_finite_deep_in_the_tails(name, censored, limit):
    f = jnp.array([1e-12, 1e-3, 10.0, 1e6, 1e12])
    slope = jax.grad(lambda f: likelihood(name, 10.0, f, censored, 10.0, limit).sum())(f)
    assert np.isfinite(slope).all()


@each_residual
@pytest.mark.parametrize("lloq", [0.0, np.nan])
def test_a_measured_level_needs_no_lloq(name, lloq):
    """The unused branch of a `where` once made the gradient NaN."""
    value, slope = jax.value_and_grad(lambda f: likelihood(name, 15.0, f, 0, lloq))(F)
    expected = jax.value_and_grad(lambda f: likelihood(name, 15.0, f, 0, 1.0))(F)
    assert (float(value), float(slope)) == pytest.approx([float(x) for x in expected], rel=1e-12)


def test_default_priors_name_exactly_the_residuals_parameters():
    for residual, theta in RESIDUALS.values():
        assert set(residual.priors()) == set(residual.names) == set(theta)
    sigma = ck.LogNormal().priors()["sigma"]
    low, mid, high = (float(sigma.icdf(q)) for q in (0.05, 0.5, 0.95))
    assert (low, mid, high) == pytest.approx((0.22, 0.5, 1.14), abs=0.005)  # as the docstring says


# --- qPCR units -----------------------------------------------------------------------------------


def test_a_microgram_of_pure_car_t_dna_holds_151515_genomes():
    assert float(copies_per_ug(500.0, 500.0)) == pytest.approx(151_515, rel=1e-5)
    assert float(copies_per_ug(500.0, 500.0, vcn=2.5)) == pytest.approx(2.5 * 151_515, rel=1e-5)


def test_cells_and_copies_convert_back_and_forth():
    for cells, leukocytes, vcn in [(0.3, 90.0, 1.0), (50.0, 4_000.0, 3.0)]:
        copies = copies_per_ug(cells, leukocytes, vcn)
        assert cells_per_ul(copies, leukocytes, vcn) == pytest.approx(cells, rel=1e-12)


def test_leukopenia_raises_copies_without_any_expansion():
    assert copies_per_ug(1.0, 200.0) / copies_per_ug(1.0, 6_000.0) == pytest.approx(30.0)


# --- the denominator of data ----------------------------------------------------------------------

ROWS = [  # simulated; the two patients' counts differ tenfold
    ("1", 0.0, "wbc", 500.0, "cells/µL", np.nan, 0),
    ("1", 14.0, "wbc", 2000.0, "cells/µL", np.nan, 0),
    ("1", 7.0, "transgene", 30_000.0, "copies/µg", 50.0, 0),
    ("1", 14.0, "transgene", 50.0, "copies/µg", 50.0, 1),
    ("1", 3.0, "il6", 12.0, "pg/mL", np.nan, 0),
    ("2", 28.0, "wbc", 6000.0, "cells/µL", np.nan, 0),
    ("2", 7.0, "transgene", 30_000.0, "copies/µg", 50.0, 0),
    ("2", 7.0, "wbc", 3000.0, "cells/µL", np.nan, 0),
    ("2", 1.0, "wbc", 5000.0, "cells/µL", np.nan, 0),
]
COLUMNS = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
GENOMES = 1e6 / 6.6


def observations(*more, without=()):
    rows = [row for i, row in enumerate(ROWS) if i not in without]
    return pd.DataFrame([*rows, *more], columns=COLUMNS)


def dataset(frame):
    doses = {"patient": ["1", "2"], "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    return ck.Dataset.from_frames(observations=frame, doses=pd.DataFrame(doses))


def test_copies_become_cells_through_the_counts_of_the_day():
    """By hand: halfway in time between 500 and 2000 there are sqrt(500 x 2000) = 1000 per µL."""
    cells = to_cells(observations(), vcn=1.5)
    one, two = (cells[cells["patient"] == p].set_index(["analyte", "time"]) for p in "12")
    assert one.loc[("car_t", 7.0), "value"] == pytest.approx(30_000 / GENOMES / 1.5 * 1000)
    assert two.loc[("car_t", 7.0), "value"] == pytest.approx(30_000 / GENOMES / 1.5 * 3000)
    assert set(cells["unit"][cells["analyte"] == "car_t"]) == {"cells/µL"}
    assert "transgene" not in set(cells["analyte"])


def test_a_limit_of_quantification_goes_with_its_sample():
    cells = to_cells(observations(), vcn=1.0)
    rows = cells[(cells["patient"] == "1") & (cells["analyte"] == "car_t")]
    limits = 50 / GENOMES * np.array([1000.0, 2000.0])
    np.testing.assert_allclose(rows["lloq"], limits)
    assert list(rows["censored"]) == [0, 1]
    assert rows["value"].iloc[1] == rows["lloq"].iloc[1]


def test_there_and_back_again_changes_nothing():
    frame, vcn = observations(), {"1": 1.5, "2": 0.8}
    back = to_copies(to_cells(frame, vcn=vcn), vcn=vcn)
    pd.testing.assert_frame_equal(back, frame)
    data = dataset(frame)
    again = to_copies(to_cells(data, vcn=vcn), vcn=vcn)
    pd.testing.assert_frame_equal(again.observations, data.observations)


def test_nothing_but_the_samples_is_touched():
    frame = observations()
    frame.index = [7] * len(frame)  # as after concat
    before = frame.copy()
    cells = to_cells(frame, vcn=1.0)
    pd.testing.assert_frame_equal(frame, before)
    others = (frame["analyte"] != "transgene").to_numpy()
    pd.testing.assert_frame_equal(cells[others], frame[others])


def test_a_data_set_says_what_was_converted_and_can_be_read_on():
    frame = observations()
    counts = frame["analyte"] == "wbc"
    frame.loc[counts, "value"] /= 1000
    frame.loc[counts, "unit"] = "10^9/L"
    data = dataset(frame)
    cells = to_cells(data, vcn=1.0)
    assert cells.units["car_t"] == "cells/µL"
    assert cells.notes[: len(data.notes)] == data.notes
    assert "3 of transgene in copies/µg converted to car_t in cells/µL" in cells.notes[-1]
    assert "151515 genomes" in cells.notes[-1]
    got = cells.arrays("car_t").value[0, 0]
    assert got == pytest.approx(30_000 / GENOMES * 1000)


def test_published_statistics_stay_and_it_is_said():
    study = ck.load_study("cartitude1").dataset()
    data = dataset(observations()) + study
    cells = to_cells(data, vcn=1.0)
    pd.testing.assert_frame_equal(cells.summaries, data.summaries)
    assert "Published summaries of transgene stay in copies/µg." in cells.notes[-1]


def test_a_constant_denominator_warns_that_leukopenia_reads_as_expansion():
    with pytest.warns(ck.CarpkWarning, match="leukopenia then reads as expansion, several-fold"):
        constant = to_cells(
            observations(), vcn=1.0, denominator="constant", leukocytes=6000.0, name="by_number"
        )
    rows = constant[constant["analyte"] == "by_number"]
    np.testing.assert_allclose(rows["value"], np.array([30_000, 50, 30_000]) / GENOMES * 6000)


def test_more_cells_than_leukocytes_are_pointed_out():
    many = observations(("1", 5.0, "transgene", 4e5, "copies/µg", 50.0, 0))
    with pytest.warns(ck.CarpkWarning, match=r"1 sample.*patient '1' on day 5.*2\.64-fold"):
        to_cells(many, vcn=1.0)


CELLS = ("1", 7.0, "car_t", 10.0, "cells/µL", 1.0, 0)


@pytest.mark.parametrize(
    ("frame", "arguments", "words"),
    [
        (observations(without=(1,)), {}, "'1' has a sample on day 7, but 'wbc' only from day 0 to"),
        (observations(without=(0,)), {}, "sample on day 7, .* from day 14 .* not extrapolated"),
        (observations(without=(5, 7, 8)), {}, "patient '2' has no 'wbc'.*leave out the patient"),
        (observations(without=(2, 3, 6)), {}, "has no 'transgene'; it has 'wbc', 'il6'"),
        (observations(), {"wbc": "leukocytes"}, "has no 'leukocytes'; it has 'wbc'"),
        (
            observations(("1", 3.0, "wbc", 0.7, "10^9/L", np.nan, 0)),
            {},
            "'wbc' must be in cells/µL, but is in '10\\^9/L' of patient '1' on day 3",
        ),
        (
            observations(("1", 3.0, "wbc", 0.0, "cells/µL", np.nan, 0)),
            {},
            "'wbc' of patient '1' on day 3 is not above 0",
        ),
        (
            observations(("1", 3.0, "wbc", 100.0, "cells/µL", 100.0, 1)),
            {},
            "on day 3 is only known to lie beyond a limit",
        ),
        (
            observations(("1", 14.0, "wbc", 100.0, "cells/µL", np.nan, 0)),
            {},
            "on day 14 is the second of that time",
        ),
        (observations(CELLS), {}, "has 'car_t' already, which another assay measured"),
        (observations(), {"vcn": 0.0}, "vcn of patient '1' must be a number above 0, but is 0"),
        (observations(), {"vcn": {"1": 1.0}}, "`vcn` has no patient '2'"),
        (observations(), {"leukocytes": 5e3}, "`leukocytes` belongs to denominator='constant'"),
        (observations(), {"denominator": "constant"}, "leukocytes .* above 0, but is None"),
        (observations(), {"denominator": "modelled"}, "fit the copies as they are to the output"),
        (observations().drop(columns="unit"), {}, "no column `unit`; needed are patient, time"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_patient_and_day(frame, arguments, words):
    with pytest.raises(ck.DatasetError, match=words):
        to_cells(frame, **{"vcn": 1.0, **arguments})
