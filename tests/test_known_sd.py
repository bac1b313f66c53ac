"""Known SDs of observations, from the table to the posterior, which has a closed form."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk.assay.residual import log_likelihood

KNOWN = ck.assay.KnownSD()
EXTRA = ck.assay.KnownSD(extra=True)
OMEGA, MEAN, WIDTH, ADDED = (
    0.5,
    10.0,
    8.0,
    0.7,
)  # the level is normal between groups: mean and its prior's SD


class Params(ck.Params):
    base: ck.Scalar = ck.param(MEAN, "cells/µL", "level", "assumed", bounds=(-np.inf, np.inf))
    other: ck.Scalar = ck.param(3.0, "pg/mL", "marker", "assumed")


MODEL = ck.ClosedForm(
    name="level",
    params=Params,
    outputs={
        "car_t": lambda t, p: p.base * jnp.ones_like(t),
        "il6": lambda t, p: p.other * jnp.ones_like(t),
    },
    units={"car_t": "cells/µL", "il6": "pg/mL"},
)


def rows(patients=8, days=(1.0, 4.0, 9.0), seed=0, analyte="car_t", unit="cells/µL"):
    """Simulated group means with standard errors that differ."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        [(f"g{i}", t) for i in range(patients) for t in days], columns=["patient", "time"]
    )
    sd = rng.uniform(0.5, 2.0, len(table))
    level = np.repeat(MEAN + OMEGA * rng.standard_normal(patients), len(days))
    value = np.abs(level + sd * rng.standard_normal(len(table)))
    return table.assign(analyte=analyte, value=value, unit=unit, sd=sd)


def dataset(table, **options):
    patients = list(dict.fromkeys(table["patient"]))
    doses = {"patient": patients, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses), observations=table, name="simulated means", **options
    )


def population(residual=KNOWN, **changed):
    priors = {"base": dist.Normal(MEAN, WIDTH), "omega_base": dist.LogNormal(np.log(OMEGA), 1e-4)}
    if residual == EXTRA:
        priors["sigma_add"] = dist.LogNormal(np.log(ADDED), 1e-4)
    settings = {"varies": ["base"], "fixed": {"other": 3.0}, "analytes": ["car_t"]}
    return ck.Population(MODEL, residual=residual, priors=priors, **(settings | changed))


def exact(table, residual=KNOWN):
    """Mean and SD of the level of the typical group: normal data, normal effects, normal prior."""
    variance = table["sd"] ** 2 + (ADDED**2 if residual == EXTRA else 0.0)
    groups = table.assign(w=1 / variance, wy=table["value"] / variance).groupby("patient")
    w, wy = groups["w"].sum(), groups["wy"].sum()
    each = 1 / (1 / w + OMEGA**2)
    precision = WIDTH**-2 + each.sum()
    return (MEAN * WIDTH**-2 + (each * wy / w).sum()) / precision, precision**-0.5


# --- the distribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [KNOWN, EXTRA])
@pytest.mark.parametrize("censored", [0, 1, -1])
def test_an_observation_is_normal_around_the_level_with_its_own_sd(residual, censored):
    y, f, sd = jnp.array([2.0, 9.0]), jnp.array([1.0, 10.0]), jnp.array([0.3, 4.0])
    theta = {"sd": sd} | ({"sigma_add": ADDED} if residual.extra else {})
    total = np.hypot(sd, ADDED if residual.extra else 0.0)
    normal = scipy.stats.norm(f, total)
    right = {0: normal.logpdf(y), 1: normal.logcdf(y), -1: normal.logsf(y)}[censored]
    found = log_likelihood(residual, y, f, theta, np.full(2, censored), y)
    np.testing.assert_allclose(found, right, rtol=1e-9)
    z = residual.standardize(y, f, theta)[0]
    np.testing.assert_allclose(residual.sample(z, f, theta), y, rtol=1e-12)
    assert residual.names == (("sigma_add",) if residual.extra else ())


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("analyte", "unit", "factor"),
    [("car_t", "cells/µL", 1.0), ("car_t", "cells/mL", 1e-3), ("alc", "1e9/L", 1e3)],
)
@pytest.mark.parametrize("way", ["frames", "to_frames", "to_nonmem", "concat"])
def test_an_sd_is_converted_with_its_value(analyte, unit, factor, way, tmp_path):
    table = rows(3, analyte=analyte, unit=unit)
    table.loc[1, "sd"] = np.nan
    data = dataset(table)
    if way == "to_frames":
        data = ck.Dataset.from_frames(**data.to_frames())
    elif way == "to_nonmem":
        data.to_nonmem(tmp_path / "data.csv")
        data = ck.Dataset.from_nonmem(tmp_path / "data.csv")
    elif way == "concat":
        other = rows(1, analyte=analyte, unit=unit).assign(patient="z").drop(columns="sd")
        data = ck.Dataset.concat(data, dataset(other))
        assert data.observations["sd"].isna().sum() == 4
        table = pd.concat([table, other])
    np.testing.assert_allclose(data.observations["sd"], factor * table["sd"], rtol=1e-12)
    np.testing.assert_allclose(data.observations["value"], factor * table["value"], rtol=1e-12)
    again = data.in_units({analyte: "cells/mL"})
    np.testing.assert_allclose(again.observations["sd"], 1e3 * factor * table["sd"], rtol=1e-12)
    a = data.arrays([analyte])
    assert a.sd.shape == a.value.shape
    assert np.isnan(a.sd[0, 1])
    assert (a.sd[~a.mask] == 1).all()


def test_an_sd_of_copies_is_converted_by_the_leukocytes():
    table = rows(2, analyte="transgene", unit="copies/µg")
    data = dataset(table)
    with pytest.warns(ck.CarpkWarning, match="constant"):
        cells = ck.assay.to_cells(data, vcn=2.0, denominator="constant", leukocytes=4000.0)
    ratio = cells.observations["value"] / table["value"]
    np.testing.assert_allclose(cells.observations["sd"], ratio * table["sd"])


def test_an_sd_of_a_percentage_is_converted_by_the_count():
    table = rows(2, analyte="car_t", unit="% of CD3")
    counts = table.assign(analyte="cd3", value=500.0, unit="cells/µL", sd=np.nan)
    seen = dataset(pd.concat([table, counts], ignore_index=True)).observations
    np.testing.assert_allclose(seen["sd"][: len(table)], 5.0 * table["sd"])


def test_data_without_sds_have_no_such_column():
    assert "sd" not in dataset(rows().drop(columns="sd")).observations
    assert any("the SD of 24 values is given" in note for note in dataset(rows()).notes)


@pytest.mark.parametrize("sd", [0.0, -1.0, np.inf])
def test_an_sd_that_is_none_is_refused(sd):
    table = rows()
    table.loc[4, "sd"] = sd
    with pytest.raises(ck.DatasetError, match="row 4, column `sd`"):
        dataset(table)


# --- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "residual"),
    [
        *(("map", KNOWN), ("laplace", KNOWN), ("nuts", KNOWN), ("laplace", EXTRA)),
        *(pytest.param(method, EXTRA, marks=pytest.mark.slow) for method in ("map", "nuts")),
    ],
)
def test_the_posterior_of_a_mean_is_that_of_the_closed_form(method, residual):
    table = rows()
    few = {"draws": 300, "tune": 200, "chains": 2} if method == "nuts" else {}
    fit = ck.fit(population(residual), dataset(table), method=method, seed=1, progress=False, **few)
    mean, sd = exact(table, residual)
    draws = fit.draws()["base"]
    assert draws.mean() == pytest.approx(mean, abs=(0.05 if method == "map" else 0.2) * sd)
    if method != "map":
        assert draws.std() == pytest.approx(sd, rel=0.15)


@pytest.fixture(scope="module")
def fit():
    """Two endpoints, of which one has known SDs, and the other none."""
    rng = np.random.default_rng(2)
    table = rows()
    other = table.assign(analyte="il6", unit="pg/mL", sd=np.nan)
    other["value"] = 3.0 * np.exp(0.3 * rng.standard_normal(len(other)))
    both = population(
        residual={"car_t": KNOWN, "il6": ck.LogNormal()}, analytes=["car_t", "il6"], fixed={}
    )
    data = dataset(pd.concat([table, other], ignore_index=True))
    return ck.fit(both, data, method="laplace", seed=1, progress=False)


def test_an_endpoint_without_sds_leaves_the_other_as_it_is(fit):
    mean, sd = exact(rows())
    draws = fit.draws()
    assert set(draws) == {"base", "other", "omega_base", "sigma_il6"}
    assert draws["base"].mean() == pytest.approx(mean, abs=0.2 * sd)
    assert draws["base"].std() == pytest.approx(sd, rel=0.15)
    assert np.median(draws["sigma_il6"]) == pytest.approx(0.3, rel=0.3)
    assert "DO NOT TRUST" not in repr(fit)


def test_checks_measure_each_observation_by_its_own_sd(fit):
    table = ck.checks.gof(fit, output="car_t", draws=200).table
    order = rows().set_index(["patient", "time"])["sd"]
    sd = order.loc[list(zip(table["patient"], table["time"], strict=True))].to_numpy()
    np.testing.assert_allclose(table["IWRES"], (table["DV"] - table["IPRED"]) / sd, rtol=1e-9)
    assert ck.checks.npde(fit, output="car_t", replicates=300).tests.loc["all three", "p"] > 0.01
    vpc = ck.checks.vpc(fit, output="car_t", replicates=100)
    assert len(vpc.outside) <= 0.2 * len(vpc.table)
    vpc.plot()
    ck.plot.individual_fits(fit, output="car_t", draws=20)
    plt.close("all")


def test_replicates_scatter_by_the_sd_of_each_observation(fit):
    bound = fit.bound
    a = bound.individual
    f = jnp.full(a.mask.shape, 10.0)
    theta = {k: np.median(v, axis=0) for k, v in fit.draws().items()}
    moved = np.asarray(bound.measured(f, jnp.ones(a.mask.shape), theta)) - 10.0
    here = a.mask & (a.analyte == 0)
    np.testing.assert_allclose(moved[here], a.sd[here], rtol=1e-12)


@pytest.mark.slow
def test_data_simulated_with_the_sds_are_fitted_again():
    found = ck.checks.recovery(population(), dataset(rows(4)), simulations=2, progress=False)
    assert np.isfinite(found.table().loc["base"].to_numpy(float)).all()


def test_a_saved_fit_keeps_the_sds(fit, tmp_path):
    fit.save(tmp_path / "fit.nc")
    again = ck.load_fit(tmp_path / "fit.nc", model=MODEL)
    assert again.population.residual == fit.population.residual
    np.testing.assert_array_equal(again.bound.individual.sd, fit.bound.individual.sd)
    pd.testing.assert_frame_equal(again.summary(), fit.summary())


def test_information_of_data_takes_their_sds():
    table = rows()
    found = ck.checks.identifiability(population(), dataset(table)).table
    assert found.loc["base", "posterior_sd"] == pytest.approx(exact(table)[1], rel=0.05)


# --- refusals -------------------------------------------------------------------------------------


def test_an_observation_without_its_sd_is_refused_with_patient_and_day():
    table = rows()
    table.loc[4, "sd"] = np.nan
    with pytest.raises(ck.FitError, match=r"patient 'g1', day 4: the SD of car_t .* \(1 have none"):
        population().bind(dataset(table))
    with pytest.raises(ck.FitError, match=r"patient 'g0', day 1: .* \(24 have none"):
        population(EXTRA).bind(dataset(table.drop(columns="sd")))


def test_a_new_measurement_with_an_unknown_sd_is_refused(fit):
    cells = ck.Regimen.cells(0, 1e8)
    with pytest.raises(ck.FitError, match="the SD of a new measurement is not known"):
        ck.simulate(fit, cells, [1.0, 2.0], measured=True)
    assert ck.simulate(fit, cells, [1.0, 2.0], patients=2, draws=3)["car_t"].shape == (3, 2, 2)


def test_planned_samples_and_published_summaries_without_sds_are_refused():
    arm = ck.checks.PlannedArm(patients=6, days={"car_t": [1.0, 4.0]})
    with pytest.raises(
        ck.FitError, match=r"planned samples have none\. Plan with ck.assay.Additive"
    ):
        ck.checks.identifiability(population(), arm)
    summaries = pd.DataFrame(
        {
            **{"cohort": ["A"], "analyte": ["car_t"], "metric": ["level"], "time": [7.0]},
            **{"statistic": ["median"], "value": [3.0], "unit": ["cells/µL"], "n": [9]},
            **{"use": ["fit"], "source": ["simulated"]},
        }
    )
    data = ck.Dataset.from_frames(summaries=summaries, name="simulated summaries")
    with pytest.raises(ck.FitError, match="sd = SD / sqrt\\(n\\)"):
        population().bind(data)
