"""Drugs in linear compartments: every absorption on every route, against matrix exponentials."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import linear, mammillary

import carpk as ck

COUNTS = ("one", "two", "three")
ABSORPTIONS = ("none", "first_order", "zero_order", "sequential", "parallel")
REGIMEN = ck.Regimen(
    (
        ck.Bolus(0.0, 100.0, "drug", "mg"),
        ck.Bolus(0.4, 50.0, "drug", "mg", addl=2, ii=0.3),
        ck.Infusion(0.7, 20.0, 0.45, "drug_iv"),
        ck.Bolus(1.3, 10.0, "drug_iv", "mg"),
        ck.Bolus(2.49, 30.0, "drug", "mg"),  # on its way, or entering, when all is taken away
        ck.Reset(2.5),
        ck.Bolus(2.5, 40.0, "drug", "mg"),
    )
)
DAYS = np.array([-0.5, 0.05, 0.4, 0.45, 0.9, 1.3, 1.31, 2.0, 2.5, 2.53, 2.7, 4.0])


def model_of(count, absorption, **options):
    return getattr(ck.disposition, f"{count}_compartment")(absorption, **options)


def exact(p, count, absorption, regimen=REGIMEN, days=DAYS):
    """Level (time,) of a patient with these parameters (a dict), by matrix exponentials."""
    volume = p["V"] if count == "one" else p["V1"]
    pairs = {"one": [], "two": [("Q", "V2")], "three": [("Q2", "V2"), ("Q3", "V3")]}[count]
    body = mammillary(p["CL"], volume, *((p[q], p[v]) for q, v in pairs))
    size = len(body) + 1  # the last is the depot
    matrix = np.zeros((size, size), np.result_type(*p.values()))
    matrix[:-1, :-1] = body
    matrix[-1, -1], matrix[0, -1] = -p.get("ka", 0.0), p.get("ka", 0.0)
    # turned, since SciPy's expm loses half of its digits in triangular matrices with equal rates
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    matrix, central, depot = turn @ matrix @ turn.T, turn[:, 0], turn[:, -1]
    share, lag, long = p.get("F", 1.0), p.get("Tlag", 0.0), p.get("Tk0", 0.0)
    total = np.zeros(len(days), matrix.dtype)
    for i, event in enumerate(regimen.events):
        if isinstance(event, ck.Reset):
            continue
        if event.product == "drug_iv":
            doses = [(event.time, event.amount * central, event.days)]
        else:
            amount, at = event.amount * share, event.time + lag
            doses = {
                "none": [(at, amount * central, 0.0)],
                "first_order": [(at, amount * depot, 0.0)],
                "zero_order": [(at, amount * central, long)],
                "sequential": [(at, amount * depot, long)],
            }.get(absorption) or [
                (at, amount * p["Fr"] * depot, 0.0),
                (at, amount * (1 - p["Fr"]) * central, long),
            ]
        later = (x.time for x in regimen.events[i:] if isinstance(x, ck.Reset))
        until = next(later, np.inf)
        level = (linear(matrix, doses, days) @ turn)[:, 0] / volume
        total = total + np.where(days <= until, level, 0.0)
    return total


@pytest.mark.parametrize("absorption", ABSORPTIONS)
@pytest.mark.parametrize("count", COUNTS)
def test_every_absorption_is_that_of_the_compartments_on_every_route(count, absorption):
    model = model_of(count, absorption, lag=True, bioavailability=True)
    p = dict(model.params().items())
    right = exact(p, count, absorption).real
    closed = ck.solve(model, REGIMEN, DAYS, route="mesh")
    assert closed.route == "closed form (a sum over doses)"
    step_by_step = ck.solve(model, REGIMEN, DAYS)
    assert "adaptive" in step_by_step.route
    for solution in (closed, step_by_step):
        np.testing.assert_allclose(solution["conc"], right, rtol=1e-8, atol=1e-12)


BY_THE_HOUR = (("one", "sequential"), ("two", "parallel"), ("three", "first_order"))


@pytest.mark.parametrize(("count", "absorption"), BY_THE_HOUR)
def test_parameters_by_the_hour_are_those_by_the_day(count, absorption):
    hourly = model_of(count, absorption, lag=True, bioavailability=True, time_unit="hour")
    daily = model_of(count, absorption, lag=True, bioavailability=True)
    by_day, by_hour = daily.params.info(), hourly.params.info()
    for name, info in by_day.items():
        power = {"L/day": 1, "1/day": 1, "day": -1}.get(info.unit, 0)
        assert by_hour[name].value == pytest.approx(info.value / 24**power)
        assert by_hour[name].unit == info.unit.replace("day", "h")
    levels = [ck.solve(m, REGIMEN, DAYS, route="mesh")["conc"] for m in (hourly, daily)]
    np.testing.assert_allclose(*levels, rtol=1e-10)


class Area(ck.States):
    auc: ck.Scalar = ck.state("mg day/L", "area under the curve")


@pytest.mark.parametrize(
    "absorption",
    [
        pytest.param(x, marks=pytest.mark.slow if x == "parallel" else pytest.mark.exhaustive)
        for x in ABSORPTIONS
    ],
)
def test_as_an_input_of_differential_equations_a_drug_is_the_same(absorption):
    alone = model_of("two", absorption, lag=True)
    model = dataclasses.replace(
        alone, origin=None, states=Area, vector_field=lambda t, y, p, c: Area(c["central"])
    )
    right = ck.solve(alone, REGIMEN, DAYS)["conc"]
    for route in ("adaptive", "mesh"):
        solution = ck.solve(model, REGIMEN, DAYS, route=route)
        np.testing.assert_allclose(solution["conc"], right, rtol=1e-8, atol=1e-12)
    area = ck.solve(model, ck.Regimen(REGIMEN.events[:1]), [0.0, 300.0]).states.auc[-1]
    assert float(area) == pytest.approx(100.0 / float(model.params().CL), rel=1e-5)


@pytest.mark.parametrize("absorption", ["first_order", "sequential"])
@pytest.mark.parametrize("count", COUNTS)
def test_rates_that_are_equal_or_nearly_so_leave_no_hole(count, absorption):
    """ka at, and beside, each rate of the disposition: level, and derivative in ka."""
    model, once, days = model_of(count, absorption), ck.Regimen(REGIMEN.events[:1]), DAYS[1:]
    drug, typical = model.inputs["central"], dict(model.params().items())
    own = drug(model.params()).modes().rate
    apart = np.array([0.0, 1e-9, 1e-5, -9.9e-4, 1.1e-3, 2.1e-3, 1e-2])
    near = np.concatenate([float(rate) * (1 + apart) for rate in own])

    def level(ka):
        values = drug(model.params(**typical | {"ka": ka}))
        return values.concentration(days, 0.0, 100.0, typical.get("Tk0", 0.0), depot=True)

    levels, slopes = jax.jit(jax.vmap(lambda ka: jax.jvp(level, (ka,), (1.0,))))(near)
    for ka, found, slope in zip(near, levels, slopes, strict=True):
        step = 1e-5 * ka
        down, right, up = (
            exact(typical | {"ka": x}, count, absorption, once, days)
            for x in (ka - step, ka, ka + step)
        )
        np.testing.assert_allclose(found, right, rtol=1e-8, err_msg=f"ka = {ka}")
        change = (up - down) / (2 * step)
        np.testing.assert_allclose(slope, change, rtol=1e-6, atol=1e-8 * np.abs(change).max())


@pytest.mark.parametrize("duration", [0.0, 0.3, 1.3])
@pytest.mark.parametrize("depot", [False, True])
def test_steady_state_is_the_sum_over_all_doses_before(depot, duration):
    """Also of infusions that are longer than the time between them."""
    drug = ck.Disposition(9.0, 4.0, ((6.0, 3.0),), 7.3)
    t = np.array([0.0, 0.1, 0.29, 0.5, 0.8, 2.0, 7.0])
    times = -0.5 * np.arange(400)
    right = drug.concentration(t, times, 10.0, duration, depot=depot, after=True)
    found = drug.concentration(t, 0.0, 10.0, duration, depot=depot, interval=0.5, after=True)
    np.testing.assert_allclose(found, right, rtol=1e-10)


def test_an_infusion_that_ran_for_ever_was_at_its_rate_over_clearance():
    drug = ck.Disposition(9.0, 4.0, ((6.0, 3.0),))
    found = drug.concentration(np.array([0.0]), 0.0, 5.0, interval=0.0, after=True)  # 5 mg/day
    assert float(found[0]) == pytest.approx(5.0 / 9.0, rel=1e-12)


def theophylline_like():
    """12 simulated patients, 10 samples each after 320 mg by mouth."""
    rng = np.random.default_rng(1)
    t = np.array([0.25, 0.57, 1.12, 2.02, 3.82, 5.1, 7.03, 9.05, 12.12, 24.37]) / 24
    seen, doses = [], []
    for i in range(12):
        eta = rng.normal(size=3) * (0.6, 0.25, 0.14)
        ka, cl, v = np.exp(eta) * (36.0, 67.2, 32.0)
        k = cl / v
        level = 320 / v * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))
        level = level * np.exp(0.1 * rng.normal(size=t.size))
        seen += [(f"s{i}", *x, "theophylline", "mg/L") for x in zip(t, level, strict=True)]
        doses.append((f"s{i}", 0.0, "theophylline", 320.0, "mg", 0.0))
    return ck.Dataset.from_frames(
        doses=[dict(zip(DOSE, x, strict=True)) for x in doses],
        observations=[dict(zip(SEEN, x, strict=True)) for x in seen],
        name="simulated",
    )


DOSE = ("patient", "time", "product", "amount", "unit", "duration")
SEEN = ("patient", "time", "value", "analyte", "unit")


@pytest.mark.slow
def test_a_drug_is_fitted_saved_and_simulated(tmp_path):
    names = {"output": "theophylline", "product": "theophylline"}
    model = ck.disposition.one_compartment("first_order", **names)
    data = theophylline_like()
    fit = ck.fit(
        ck.Population(model, varies=["ka", "CL", "V"]), data, method="laplace", progress=False
    )
    assert fit.ok, fit
    found = fit.summary()
    for name, truth in {"CL": 67.2, "V": 32.0, "ka": 36.0, "sigma": 0.1}.items():
        assert found.loc[name, "eti90_low"] < truth < found.loc[name, "eti90_high"], name
    again = ck.load_fit(fit.save(tmp_path / "fit.nc"))
    assert again.bound.population.model.name == "one_compartment"
    days = np.linspace(0.0, 1.0, 9)
    levels = ck.simulate(again, data.regimens()[0], days, patients=5)["theophylline"]
    assert np.isfinite(levels.values).all()


def test_units_of_the_assay_are_those_of_mg_and_litres():
    plain, nano = (ck.disposition.one_compartment(unit=unit) for unit in ("mg/L", "ng/mL"))
    mg, ng = (ck.solve(x, REGIMEN, DAYS)["conc"] for x in (plain, nano))
    np.testing.assert_allclose(ng, 1000 * jnp.asarray(mg))
    with pytest.raises(ck.ModelError, match="must be one of mg/L, µg/mL, ng/mL, µg/L"):
        ck.disposition.one_compartment(unit="nM")


def test_a_closed_form_of_cells_refuses_doses_that_it_does_not_see():
    model = ck.load_model("piecewise", output="theophylline", unit="mg/L", cmax=10.0)
    with pytest.raises(ck.FitError, match="has doses of theophylline, and no cells: 'piecewise'"):
        ck.Population(model).bind(theophylline_like())
