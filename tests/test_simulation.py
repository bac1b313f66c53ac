"""Simulations are the model's levels, have the stated spread, and say what they leave out."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import carpk as ck

DAYS = np.linspace(-7, 90, 98)
STEIN = ck.load_model("stein2019")
ONE = ck.Regimen.cells()
THREE = ck.Regimen.cells(day=[0, 42, 84])


def test_without_patients_it_is_the_typical_patient():
    sim = ck.simulate(STEIN, THREE, DAYS)
    exact = STEIN.level("transgene", DAYS, STEIN.params(), jnp.array([0.0, 42.0, 84.0]))
    assert sim["transgene"].shape == (1, 1, 98)
    np.testing.assert_allclose(sim["transgene"][0, 0], exact, rtol=1e-12)


def test_axes_units_and_origin_are_written_on_the_data():
    sim = ck.simulate(STEIN, THREE, DAYS, patients=3, seed=1)
    level = sim["transgene"]
    assert level.dims == ("draw", "patient", "time")
    assert level.attrs == {"units": "copies/µg", "long_name": "transgene", "simulated": "yes"}
    assert level["time"].attrs["units"] == "day"
    np.testing.assert_array_equal(level["time"], DAYS)
    assert sim.outputs == ["transgene"]
    assert sim["tmax"].dims == ("draw", "patient", "infusion")
    assert sim["tmax"].attrs["units"] == "day"
    assert list(sim.parameters["infusion"].values) == [1, 2, 3]


def test_levels_belong_to_the_parameters_beside_them():
    sim = ck.simulate(STEIN, THREE, DAYS, patients=3, seed=1)
    starts = jnp.array([0.0, 42.0, 84.0])
    for i in range(3):
        p = STEIN.params(**{k: sim[k].values[0, i] for k in STEIN.params.info()})
        exact = STEIN.level("transgene", DAYS, p, starts)
        np.testing.assert_allclose(sim["transgene"][0, i], exact, rtol=1e-12)


def test_the_same_seed_gives_the_same_patients_and_another_gives_others():
    first, again, other = (ck.simulate(STEIN, ONE, DAYS, patients=4, seed=s) for s in (7, 7, 8))
    xr.testing.assert_identical(first.data, again.data)
    assert not np.isclose(first["cmax"], other["cmax"]).any()


def test_virtual_patients_have_the_spread_of_the_model_file():
    """4,000 patients: the sampling error of an SD is 1.1 %, and the bound four times that."""
    sim = ck.simulate(STEIN, ONE, [0.0, 28.0], patients=4_000, seed=3)
    scores = []
    for symbol, info in STEIN.params.info().items():
        u = np.asarray(info.transform.forward(jnp.asarray(sim[symbol].values[0, :, 0])))
        centre = float(info.transform.forward(info.value))
        assert u.std() == pytest.approx(info.iiv, rel=0.045), symbol
        assert u.mean() == pytest.approx(centre, abs=4 * info.iiv / 4_000**0.5), symbol
        scores.append((u - centre) / info.iiv)
    between = np.corrcoef(scores) - np.eye(len(scores))
    assert np.abs(between).max() < 4.5 / 4_000**0.5, "parameters are drawn independently"


def test_the_spread_of_simulated_peaks_is_that_of_cmax():
    t = np.linspace(0, 60, 241)
    sim = ck.simulate(STEIN, ONE, t, patients=4_000, seed=3)
    peaks = np.log(sim["transgene"].max("time").values[0])
    parameter = np.log(sim["cmax"].values[0, :, 0])
    inside = sim["tmax"].values[0, :, 0] < 60
    np.testing.assert_allclose(peaks[inside], parameter[inside], atol=0.35)  # a grid of 6 hours
    assert peaks.std() == pytest.approx(0.65, rel=0.06)


def test_a_parameter_without_published_spread_does_not_vary():
    sim = ck.simulate(ck.load_model("ogasawara2021"), ONE, DAYS, patients=5)
    np.testing.assert_array_equal(sim["transgene"][0, 1:], sim["transgene"][0, :-1])


def test_repeated_infusions_have_the_later_peaks():
    sim = ck.simulate(STEIN, THREE, np.linspace(0, 120, 1201))
    level = sim["transgene"][0, 0]
    for start in (0, 42, 84):
        window = level.sel(time=slice(start, start + 36))
        assert float(window.idxmax()) == pytest.approx(start + 9.3, abs=0.11)


def test_lymphodepletion_is_said_to_have_no_effect_on_a_closed_form():
    both = ck.Regimen.lymphodepletion("Flu/Cy") + ONE
    with pytest.warns(ck.CarpkWarning, match="cyclophosphamide, fludarabine have no effect"):
        sim = ck.simulate(STEIN, both, DAYS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = ck.simulate(STEIN, ONE, DAYS)
    np.testing.assert_array_equal(sim["transgene"], alone["transgene"])
    assert len(sim.regimen.drugs) == 6


def test_a_dose_effect_needs_and_uses_absolute_cells():
    model = STEIN.with_dose_effect(0.5, reference=1e8)
    per_kg = ck.Regimen.cells(0, 4e6, per="kg")
    with pytest.raises(ck.RegimenError, match=r"needs absolute cells; use regimen\.resolve"):
        ck.simulate(model, per_kg, DAYS)
    heavy = ck.simulate(model, per_kg.resolve(weight=100), DAYS)["transgene"]
    np.testing.assert_allclose(heavy, 2 * ck.simulate(STEIN, ONE, DAYS)["transgene"], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"days": [0.0]}, "at least two ascending times"),
        ({"days": [3.0, 1.0, 2.0]}, "at least two ascending times"),
        ({"regimen": ck.Regimen()}, r"no cell infusion; add Regimen\.cells"),
        ({"measured": True}, "needs a fit"),
        ({"draws": 10}, "need a fit, or a structural model with a posterior"),
        ({"covariates": {"sex": "f"}}, "not a covariate of .*needs a fit"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_advice(change, words):
    arguments = {"source": STEIN, "regimen": ONE, "days": DAYS} | change
    with pytest.raises(ck.CarpkError, match=words):
        ck.simulate(**arguments)


def test_the_summary_holds_peak_time_and_area_with_their_units():
    t = np.append(np.linspace(-7, 28, 3501), 40.0)
    table = ck.simulate(STEIN, ONE, t).summary().loc["transgene"]
    p = STEIN.params()
    rho, fall = np.log(p.foldx) / p.tmax, 28 - p.tmax
    area = p.cmax * (
        (1 - 1 / p.foldx) / rho
        + (1 - p.fb) * (1 - np.exp(-p.alpha * fall)) / p.alpha
        + p.fb * (1 - np.exp(-p.beta * fall)) / p.beta
    )
    assert list(table.columns) == ["median", "eti90_low", "eti90_high", "unit"]
    assert dict(table["unit"]) == {"CMAX": "copies/µg", "TMAX": "day", "AUC0_28D": "day*copies/µg"}
    assert table.loc["CMAX", "median"] == pytest.approx(24_000, rel=1e-3)
    assert table.loc["TMAX", "median"] == pytest.approx(9.3, abs=0.011)
    assert table.loc["AUC0_28D", "median"] == pytest.approx(area, rel=1e-3)
    assert list(ck.simulate(STEIN, ONE, [0.0, 9.0]).summary().loc["transgene"].index) == [
        "CMAX",
        "TMAX",
    ]


def test_the_interval_holds_ninety_percent_of_the_patients():
    sim = ck.simulate(STEIN, ONE, np.linspace(0, 40, 81), patients=200, seed=2)
    row = sim.summary().loc[("transgene", "CMAX")]
    peaks = sim["transgene"].max("time").values.ravel()
    assert np.mean((peaks > row["eti90_low"]) & (peaks < row["eti90_high"])) == pytest.approx(0.9)
    assert np.mean(peaks < row["median"]) == pytest.approx(0.5)
    assert repr(sim).startswith("Simulation: 1 draws, 200 patients, 81 times; median and 90 %")


def test_a_saved_simulation_opens_with_xarray_alone(tmp_path):
    sim = ck.simulate(STEIN, ONE, DAYS, patients=2)
    with xr.open_dataset(sim.save(tmp_path / "sim.nc"), engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), sim.data)


# --- with the uncertainty of a model's own posterior ----------------------------------------------

DRAWN = {"cmax": 24_000 * 1.1 ** np.arange(20), "tmax": 9.3 * 1.01 ** np.arange(20)}
UNSURE = dataclasses.replace(STEIN, calibration_draws=lambda: DRAWN)


def test_typical_values_come_from_the_posterior_of_the_model_jointly():
    sim = ck.simulate(UNSURE, THREE, DAYS, draws=50)
    np.testing.assert_allclose(sim["cmax"][:, 0, 0], DRAWN["cmax"], rtol=1e-12)
    np.testing.assert_allclose(sim["tmax"][:, 0, 2], DRAWN["tmax"], rtol=1e-12)
    np.testing.assert_allclose(sim["alpha"], STEIN.params().alpha, rtol=1e-12)
    fewer = ck.simulate(UNSURE, ONE, DAYS, draws=5)
    assert fewer["cmax"].shape == (5, 1, 1)
    steps = np.log(fewer["cmax"][:, 0, 0] / 24_000) / np.log(1.1)
    np.testing.assert_allclose(np.log(fewer["tmax"][:, 0, 0] / 9.3) / np.log(1.01), steps)
    assert ck.simulate(UNSURE, ONE, DAYS)["cmax"].item() == pytest.approx(24_000)


def test_patients_scatter_around_each_draw_as_the_model_file_says():
    sim = ck.simulate(UNSURE, ONE, [0.0, 28.0], draws=20, patients=300, seed=5)
    z = np.log(sim["cmax"].values[:, :, 0] / DRAWN["cmax"][:, None])
    assert z.std() == pytest.approx(STEIN.params.info()["cmax"].iiv, rel=0.04)
    assert np.abs(np.corrcoef(z) - np.eye(20)).max() < 0.3, "every draw has patients of its own"


@pytest.mark.parametrize(
    ("posterior", "words"),
    [
        ({"peak": np.ones(3)}, "its posterior has 'peak', which is not a parameter"),
        ({"cmax": np.ones((3, 2))}, r"shape \(draw,\), but 'cmax' has shape \(3, 2\)"),
        ({"cmax": np.ones(3), "tmax": np.ones(4)}, "as many draws of every parameter"),
        ({"fb": np.array([0.1, 1.2])}, r"draws of 'fb' outside the bounds \(0"),
    ],
)
def test_a_posterior_that_does_not_fit_the_model_is_refused(posterior, words):
    model = dataclasses.replace(STEIN, calibration_draws=lambda: posterior)
    with pytest.raises(ck.ModelError, match=words):
        ck.simulate(model, ONE, DAYS, draws=2)


# --- from a fit -----------------------------------------------------------------------------------


def test_the_typical_patient_of_each_draw_has_that_draws_parameters(known_fit):
    sim = ck.simulate(known_fit, THREE, DAYS, draws=20)
    model = known_fit.population.model
    np.testing.assert_allclose(sim["cmax"][:, 0, 0], 40 * 1.02 ** np.arange(20), rtol=1e-12)
    np.testing.assert_allclose(sim["tmax"][:, 0, 0], 8 * 1.02 ** np.arange(20), rtol=1e-12)
    p = model.params(**{k: float(sim[k][5, 0, 0]) for k in model.params.info()})
    exact = model.level("car_t", DAYS, p, jnp.array([0.0, 42.0, 84.0]))
    np.testing.assert_allclose(sim["car_t"][5, 0], exact, rtol=1e-9)


def test_patients_of_a_fit_vary_by_patient_and_by_infusion_as_the_omegas_say(known_fit):
    sim = ck.simulate(known_fit, THREE, [0.0, 28.0], patients=400, draws=20, seed=4)
    draw = 1.02 ** np.arange(20)[:, None, None]
    peak = np.log(sim["cmax"].values / (40 * draw)) / draw  # omegas grow with the draw, too
    assert peak[:, :, 0].std() == pytest.approx(np.hypot(0.9, 0.4), rel=0.03)
    within = peak[:, :, 0] - peak[:, :, 1]
    assert within.std() == pytest.approx(0.4 * 2**0.5, rel=0.03)
    assert (sim["tmax"].std("infusion") < 1e-12).all()
    assert (sim["fb"].std("patient") < 1e-12).all()


def test_patients_stay_who_they_are_when_infusions_are_added(known_fit):
    once, thrice = (
        ck.simulate(known_fit, regimen, [0.0, 28.0], patients=30, draws=20, seed=4)
        for regimen in (ONE, THREE)
    )
    for name in known_fit.population.model.params.info():
        np.testing.assert_allclose(once[name][:, :, 0], thrice[name][:, :, 0], rtol=1e-14)
    assert not np.isclose(thrice["cmax"][:, :, 0], thrice["cmax"][:, :, 1]).any()


def test_the_assay_adds_its_error_and_nothing_of_the_patients(known_fit):
    """Once the noise of draw 0 was made of the random numbers of the patients of draw 1."""
    days = np.arange(1.0, 31.0)
    true = ck.simulate(known_fit, ONE, days, patients=60, draws=20, seed=5)
    seen = ck.simulate(known_fit, ONE, days, patients=60, draws=20, seed=5, measured=True)
    np.testing.assert_array_equal(true["cmax"], seen["cmax"])
    draw = 1.02 ** np.arange(20)[:, None, None]
    z = np.log(seen["car_t"].values / true["car_t"].values) / (0.5 * draw)
    assert z.std() == pytest.approx(1.0, rel=0.015)  # 36,000 numbers: 4 standard errors
    peaks = np.log(true["cmax"].values[:, :, 0] / (40 * draw[:, :, 0])) / draw[:, :, 0]
    scores = peaks / np.hypot(0.9, 0.4)
    for i in range(20):
        for j in range(20):
            with_noise = np.corrcoef(scores[i], z[j].ravel()[::3][:60])[0, 1]
            assert abs(with_noise) < 0.6  # 400 pairs of 60 independent numbers: one in 100,000


def test_changing_the_fit_changes_nothing_in_place(known_fit):
    with pytest.raises(dataclasses.FrozenInstanceError):
        known_fit.settings = {}
