"""ODE models whose parameters differ from infusion to infusion, as IOV does in NONMEM and Monolix.

The references are SciPy's solutions, one occasion after the other.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.integrate import solve_ivp

import carpk as ck
from carpk.inference.density import LogDensity
from carpk.population.replicates import new_people
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver, solve_many


class Params(ck.Params):
    grow: ck.Scalar = ck.param(0.6, "1/day", "growth rate of few cells")
    room: ck.Scalar = ck.param(300.0, "cells/µL", "level at which growth stops")
    loss: ck.Scalar = ck.param(0.15, "1/day", "loss rate")
    volume: ck.Scalar = ck.param(4.0, "L", "volume in which a dose spreads")
    removal: ck.Scalar = ck.param(0.3, "1/day", "removal rate of the drug")
    start: ck.Scalar = ck.param(2.0, "cells/µL", "cells at the start")
    wait: ck.Scalar = ck.param(1.5, "day", "lag of the late cells")
    gain: ck.Scalar = ck.param(1.3, "1", "reading per cell")


class States(ck.States):
    C: ck.Scalar = ck.state("cells/µL", "cells", log=True)
    M: ck.Scalar = ck.state("cells/µL", "cells that persist")


def vector_field(t, y, p, c):
    lost = p.loss * (1 + c["drug"]) * y.C
    return States(C=p.grow * y.C * (1 - y.C / p.room) - lost, M=0.2 * lost - 0.02 * p.grow * y.M)


def spread(p):
    return 1e-6 / p.volume


MODEL = ck.ODEModel(
    name="again",
    params=Params,
    states=States,
    vector_field=vector_field,
    initial=lambda p: States(C=p.start, M=0.1 * p.start),
    outputs={"car_t": lambda t, y, p, c: p.gain * (y.C + y.M)},
    units={"car_t": "cells/µL"},
    targets={
        "car_t": ck.Target("C", bioavailability=spread),
        "late": ck.Target("C", bioavailability=spread, lag=lambda p: p.wait),
    },
    inputs={"drug": lambda p: ck.Disposition(10.0 * p.removal, 10.0)},
)
GIVEN = [0.0, 14.0, 30.0]  # days of the infusions
AMOUNT = 4e6
DRUG = [(-4.0, 20.0, 0.5), (26.0, 30.0, 1.0), (29.6, 8.0, 1.0)]  # the last runs into an infusion
REGIMEN = ck.Regimen.cells(GIVEN, AMOUNT) + ck.Regimen(
    tuple(ck.Infusion(t, mg, days, product="drug", unit="mg") for t, mg, days in DRUG)
)
DAYS = np.array([-4.0, -1.0, 0.0, 3.0, 8.0, 14.0, 14.5, 20.0, 27.0, 30.0, 33.0, 45.0, 60.0])
EACH = {  # parameter -> its value after each infusion
    "grow": [0.5, 0.9, 0.3],
    "room": [250.0, 400.0, 150.0],
    "loss": [0.1, 0.25, 0.12],
    "volume": [3.0, 5.0, 8.0],
    "start": [3.0, 50.0, 90.0],
    "gain": [1.0, 2.0, 0.7],
    "removal": [0.2, 0.8, 0.4],
}


def patients(*each):
    """Parameters of patients, leaves (P, 3), from parameter -> value after each infusion."""
    typical = dict(MODEL.params().items())
    rows = [{k: np.broadcast_to(e.get(k, v), 3) for k, v in typical.items()} for e in each]
    return MODEL.params(**{k: jnp.array(np.stack([r[k] for r in rows])) for k in typical})


@lru_cache
def solver(route, after=False):
    """Of two patients, the second with two infusions only."""
    twice = ck.Regimen(tuple(e for e in REGIMEN.events if e.product == "drug" or e.time < 20))
    schedule = Schedule.of(MODEL, [REGIMEN, twice], DAYS, follows=99 if after else 0)
    if route != "mesh":
        return Solver.adaptive(schedule, route)
    reference = jax.tree.map(lambda x: x[None], patients(EACH, EACH))
    ready = Solver.prepare(schedule, reference, rtol=1e-7, share=1.0)
    assert ready.mesh is not None, ready.why
    return ready


def scipy_levels(each, given=GIVEN, days=DAYS):
    """The output of one patient, integrated by SciPy from one change of anything to the next."""
    p = {k: np.broadcast_to(v, 3) for k, v in dict(MODEL.params().items(), **each).items()}
    rate = p["removal"][0]

    def drug(t):
        total = 0.0
        for start, amount, duration in DRUG:
            since = max(t - start, 0.0)
            running = min(since, duration)
            there = amount / duration / (10.0 * rate) * -np.expm1(-rate * running)
            total += there * np.exp(-rate * (since - running))
        return total

    def slope(t, y, k):
        lost = p["loss"][k] * (1 + drug(t)) * y[0]
        grow = p["grow"][k]
        return [grow * y[0] * (1 - y[0] / p["room"][k]) - lost, 0.2 * lost - 0.02 * grow * y[1]]

    changes = [x for start, _, duration in DRUG for x in (start, start + duration)]
    stops = sorted({*days, *given, *changes})
    y, k, levels = np.array([1.0, 0.1]) * p["start"][0], 0, {stops[0]: None}
    for begin, end in zip(stops, [*stops[1:], None], strict=True):
        levels[begin] = p["gain"][k] * y.sum()
        if begin in given:
            k = given.index(begin)
            y = y + np.array([1e-6 * AMOUNT / p["volume"][k], 0.0])
        if end is not None:
            options = {"method": "LSODA", "rtol": 1e-11, "atol": 1e-12}
            y = solve_ivp(slope, (begin, end), y, args=(k,), **options).y[:, -1]
    return np.array([levels[t] for t in days])


STIFF = pytest.param("kvaerno5", marks=pytest.mark.slow)


@pytest.mark.parametrize("route", ["tsit5", STIFF, "mesh"])
def test_each_infusion_has_parameters_of_its_own_on_every_route(route):
    levels = solver(route)(patients(EACH, EACH))["car_t"]
    np.testing.assert_allclose(levels[0], scipy_levels(EACH), rtol=3e-7)
    np.testing.assert_allclose(levels[1], scipy_levels(EACH, GIVEN[:2]), rtol=3e-7)


@pytest.mark.parametrize("route", ["tsit5", "mesh"])
def test_parameters_that_do_not_differ_give_what_patients_have_who_keep_theirs(route):
    every = patients({}, {"grow": 0.4})
    plain = jax.tree.map(lambda x: x[:, 0], every)
    np.testing.assert_allclose(
        solver(route)(every)["car_t"], solver(route)(plain)["car_t"], rtol=1e-12
    )


def test_an_observation_after_an_infusion_has_the_parameters_of_that_infusion():
    """Before a dose outputs have the old ones, as the level itself is that before the dose."""
    levels = np.asarray(solver("tsit5", True)(patients(EACH, EACH))["car_t"])[0]
    before = scipy_levels(EACH)
    k, third = np.searchsorted(DAYS, GIVEN[1:])
    cells = before[k] / EACH["gain"][0] + 1e-6 * AMOUNT / EACH["volume"][1]
    assert levels[k] == pytest.approx(EACH["gain"][1] * cells, rel=1e-6)
    np.testing.assert_allclose(levels[k + 1 : third], before[k + 1 : third], rtol=3e-7)


def moved(params, name, k, step):
    """The same, but for a parameter of the first patient after infusion k."""
    place = np.zeros(np.shape(getattr(params, name)))
    place[0, k] = step
    return params.replace(**{name: getattr(params, name) + place})


@pytest.mark.slow
@pytest.mark.parametrize("route", [pytest.param("tsit5", marks=pytest.mark.exhaustive), "mesh"])
def test_gradients_reach_the_value_of_every_infusion(route):
    weights, ready = 1 + 0.1 * np.arange(DAYS.size), solver(route)

    @jax.jit
    def total(params):
        levels = ready(params)["car_t"]
        return jnp.sum(weights * jnp.log(levels[0]))

    params = patients(EACH, EACH)
    slopes = jax.grad(total)(params)
    for name in EACH:
        for k, value in enumerate(EACH[name]):
            h = 1e-4 * value
            ends = [float(total(moved(params, name, k, s))) for s in (h, -h)]
            own = float(getattr(slopes, name)[0, k])
            slope = (ends[0] - ends[1]) / (2 * h)
            assert own == pytest.approx(slope, rel=1e-5, abs=1e-9), (name, k)
    for name in ("start", "removal"):  # those of the first infusion alone
        assert float(jnp.abs(getattr(slopes, name)[0, 1:]).max()) == 0.0
    assert float(jnp.abs(slopes.grow[1]).max()) == 0.0  # of another patient


@pytest.mark.slow
def test_an_infusion_changes_nothing_before_it():
    ready = solver("mesh")
    levels = jax.jacrev(lambda p: ready(p)["car_t"][0])(patients(EACH, EACH))
    for name in ("grow", "room", "loss", "volume", "gain"):
        for k, day in enumerate(GIVEN):
            by = np.asarray(getattr(levels, name)[:, 0, k])
            later = np.searchsorted(DAYS, day, side="right")
            assert (by[: later if k else 0] == 0).all(), (name, k)
            assert (by[later:] != 0).any(), (name, k)


@pytest.mark.exhaustive
def test_infusions_that_arrive_late_begin_their_occasion_then():
    """Each with the lag of its own occasion."""
    each = {"wait": [0.5, 2.25, 1.0], "grow": EACH["grow"], "volume": EACH["volume"]}
    late = ck.Regimen.cells(GIVEN, AMOUNT, product="late") + REGIMEN
    late = ck.Regimen(tuple(e for e in late.events if e.product != "car_t"))
    schedule = Schedule.of(MODEL, [late], DAYS)
    given = [t + w for t, w in zip(GIVEN, each["wait"], strict=True)]
    exact = scipy_levels(each, given)
    params = patients(each)
    np.testing.assert_allclose(
        Solver.adaptive(schedule, "tsit5")(params)["car_t"][0], exact, rtol=3e-7
    )
    reference = jax.tree.map(lambda x: x[None], params)
    mesh = Solver.prepare(schedule, reference, rtol=1e-7, share=1.0)
    total = jax.jit(lambda p: jnp.sum(jnp.log(mesh(p)["car_t"])))
    np.testing.assert_allclose(mesh(params)["car_t"][0], exact, rtol=3e-7)
    slopes = jax.grad(total)(params).wait[0]
    for k in range(3):
        ends = [float(total(moved(params, "wait", k, h))) for h in (1e-4, -1e-4)]
        assert float(slopes[k]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5)


@pytest.mark.slow
def test_a_mesh_is_as_fine_as_the_hardest_occasion_needs():
    fast = {"grow": [0.3, 6.0, 0.3]}
    ready = Solver.prepare(
        Schedule.of(MODEL, [REGIMEN], DAYS),
        jax.tree.map(lambda x: x[None], patients(fast)),
        rtol=1e-5,
        share=1.0,
    )
    assert ready.mesh is not None
    np.testing.assert_allclose(ready(patients(fast))["car_t"][0], scipy_levels(fast), rtol=3e-5)


@pytest.mark.slow
def test_a_virtual_population_may_have_values_for_each_infusion():
    """Some of a sample of patients on a mesh, and parameters that all of them share."""
    some = patients(EACH, {"grow": [0.4, 0.5, 0.8]})
    result = solve_many(MODEL, REGIMEN, DAYS, some.replace(room=300.0))
    np.testing.assert_allclose(
        result.outputs["car_t"][1], scipy_levels({"grow": [0.4, 0.5, 0.8]}), rtol=1e-4
    )
    two = jax.tree.map(lambda x: x[:, :2], some)
    with pytest.raises(ck.ModelError, match="3 infusions, but got parameters of 2"):
        solve_many(MODEL, REGIMEN, DAYS, two)


# --- population models ----------------------------------------------------------------------------

FIXED = {"loss": 0.15, "volume": 4.0, "removal": 0.3, "start": 2.0, "wait": 1.5, "gain": 1.3}
SAMPLES = np.array([2.0, 7.0, 13.0, 16.0, 21.0, 28.0, 32.0, 37.0, 44.0])
TRUTH = {"grow": 0.6, "room": 300.0, "omega_room": 0.3, "omega_room_infusion": 0.5, "sigma": 0.2}


def trial(size, values=None):
    """Patients of whom every other one has two infusions and the others three; (P, T) values."""
    people = [f"p{i}" for i in range(size)]
    doses = [
        (p, t, "car_t", AMOUNT, "cells", 0.0)
        for i, p in enumerate(people)
        for t in GIVEN[: 2 + i % 2]
    ]
    values = np.ones((size, SAMPLES.size)) if values is None else np.asarray(values)
    rows = [
        (p, t, "car_t", v, "cells/µL", 0.01, 0)
        for p, own in zip(people, values, strict=True)
        for t, v in zip(SAMPLES, own, strict=True)
    ]
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(
            doses, columns=["patient", "time", "product", "amount", "unit", "duration"]
        ),
        observations=pd.DataFrame(
            rows, columns=["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
        ),
        name="simulated",
    )


def population(**changes):
    varies = {"room": ["patient", "infusion"]}
    return ck.Population(MODEL, **{"varies": varies, "fixed": FIXED, **changes})


@pytest.fixture(scope="module")
def bound():
    return population().bind(trial(3))


@pytest.mark.slow
def test_the_likelihood_has_one_value_for_each_infusion(bound):
    density = LogDensity(bound)
    assert density.inner == 1 + 3
    z = np.random.default_rng(0).normal(size=(3, 4))
    sample = density.sample_of(density.outer_of(TRUTH), z, None)
    params, _ = bound.of_sample(sample)
    room = 300.0 * np.exp(0.3 * z[:, :1] + 0.5 * z[:, 1:])
    np.testing.assert_allclose(params.room, room)
    mu = density.typical(density.theta(density.outer_of(TRUTH)))
    b = np.concatenate([0.3 * z[:, :1], 0.5 * z[:, 1:]], axis=1)
    log_predictions = density.log_predictions(density.coordinates(mu, b))
    exact = Solver.adaptive(Schedule.of(MODEL, bound.data.regimens(), SAMPLES))(params)["car_t"]
    np.testing.assert_allclose(np.exp(log_predictions), exact, rtol=1e-4)


def once(bound, seed):
    """New patients at the true parameters: levels (P, T), and parameters, leaves (P, infusion)."""
    theta = {k: jnp.asarray(v)[None] for k, v in TRUTH.items()}
    found = new_people(bound, theta, np.random.default_rng(seed))
    return jax.tree.map(lambda x: x[0], found)


def test_new_patients_have_new_effects_for_each_infusion(bound):
    y, params = once(bound, seed=1)
    assert y.shape == (3, SAMPLES.size)
    assert params.room.shape == (3, 3)
    assert np.ptp(np.log(params.room), axis=1).min() > 0.1
    np.testing.assert_allclose(params.grow, 0.6)


def test_a_parameter_of_the_inputs_cannot_vary_by_infusion():
    assert MODEL.behind_inputs == {"removal"}
    with pytest.raises(ck.ModelError, match=r"'removal' cannot vary by infusion.*disposition"):
        population(varies={"removal": ["infusion"]}, fixed={})
    population(varies={"removal": ["patient"]}, fixed={})


@pytest.mark.slow
def test_a_published_cohort_has_effects_for_each_infusion_of_its_regimen():
    facts = pd.DataFrame(
        {
            "cohort": ["a", "a"],
            "analyte": "car_t",
            "metric": "level",
            "time": [10.0, 25.0],
            "statistic": "median",
            "value": [40.0, 60.0],
            "low": [10.0, 20.0],
            "high": [90.0, 150.0],
            "interval": "range",
            "n": 12,
            "unit": "cells/µL",
            "use": "fit",
            "source": "made up",
        }
    )
    data = ck.Dataset.from_frames(summaries=facts, name="published")
    known = {"fixed": {**FIXED, "grow": 0.6}, "priors": {"room": dist.LogNormal(5.7, 0.1)}}
    twice = ck.Regimen.cells(GIVEN[:2], AMOUNT)
    bound = population(regimens={"a": twice}, virtual_patients=16, **known).bind(data)
    theta = {k: jnp.asarray(v) for k, v in TRUTH.items() if k != "grow"}
    params = bound.virtual_patients(theta, "a")
    assert params.room.shape == (16, 2)
    exact = Solver.adaptive(Schedule.of(MODEL, [twice], [10.0, 25.0]))(params)["car_t"]
    np.testing.assert_allclose(bound.predictors["a"](params), exact, rtol=1e-3)
    assert np.isfinite(bound.summary_log_likelihoods(theta)["a"]).all()


@pytest.mark.exhaustive
def test_a_design_tells_how_much_infusions_differ_only_where_there_are_several():
    """With I patients and K infusions each, SD / sqrt(2 I (K - 1)) and a little more."""
    known = population(fixed={**FIXED, "grow": 0.6})
    at = {k: v for k, v in TRUTH.items() if k != "grow"}

    def error(design):
        table = ck.checks.identifiability(known, design, at=at).table
        return float(table["rse_percent"]["omega_room_infusion"])

    def arm(infusions):
        regimen = ck.Regimen.cells(GIVEN[:infusions], AMOUNT)
        return ck.checks.PlannedArm(16, {"car_t": SAMPLES}, regimen)

    once, twice, thrice = (error(arm(infusions)) for infusions in (1, 2, 3))
    assert once > 100
    assert 1.0 < twice / (100 / 32**0.5) < 1.3
    assert 1.0 < thrice / (100 / 64**0.5) < 1.3
    assert thrice < error(trial(16)) < twice


@pytest.fixture(scope="module")
def trial_fit():
    """16 patients with two or three infusions, simulated and fitted."""
    y, _ = once(population().bind(trial(16)), seed=5)
    return ck.fit(population(), trial(16, y), method="laplace", draws=200, seed=1, progress=False)


@pytest.mark.slow
def test_laplace_finds_how_much_infusions_of_one_patient_differ(trial_fit):
    effects = trial_fit.idata.posterior["eta_room_infusion"]
    assert effects.dims == ("chain", "draw", "patient", "infusion")
    assert effects.shape[2:] == (16, 3)
    omega = trial_fit.draws()["omega_room_infusion"]
    low, high = np.quantile(omega, [0.025, 0.975])
    assert low < TRUTH["omega_room_infusion"] < high
    assert high - low < 0.4
    # infusions that nobody had are as wide as infusions differ, the others are known
    spread = np.asarray(effects).reshape(-1, 16, 3).std(axis=0)
    assert spread[::2, 2].mean() == pytest.approx(omega.mean(), rel=0.15)
    own = np.asarray(trial_fit.idata.posterior["eta_room"])[..., None] + np.asarray(effects)
    assert own.std(axis=(0, 1))[1::2].mean() < 0.5 * omega.mean()


@pytest.mark.slow
def test_simulated_infusions_differ_and_stay_the_same_when_more_are_added(trial_fit):
    once, thrice = (
        ck.simulate(trial_fit, ck.Regimen.cells(days, AMOUNT), SAMPLES, patients=5, draws=4, seed=2)
        for days in (GIVEN[:1], GIVEN)
    )
    assert thrice["room"].dims == ("draw", "patient", "infusion")
    np.testing.assert_array_equal(once["room"][..., 0], thrice["room"][..., 0])
    assert float(thrice["room"].std("infusion").min()) > 0.01
    early = np.searchsorted(SAMPLES, GIVEN[1])
    first, both = (sim["car_t"].values[..., :early] for sim in (once, thrice))
    np.testing.assert_allclose(first, both, rtol=1e-3)
    draw, patient = 3, 1
    one = {k: thrice[k].values[draw, patient] for k in MODEL.params.info()}
    params = MODEL.params(**{k: v[None] for k, v in one.items()})
    schedule = Schedule.of(MODEL, [thrice.regimen], SAMPLES, start=0.0)
    exact = Solver.adaptive(schedule)(params)["car_t"][0]
    np.testing.assert_allclose(thrice["car_t"].values[draw, patient], exact, rtol=1e-3)


@pytest.mark.slow
def test_arms_are_compared_with_the_same_infusions(trial_fit):
    """The first infusion is the same in both arms, whatever follows."""
    arms = {name: ck.Regimen.cells(days, AMOUNT) for name, days in (("1", 0), ("3", GIVEN))}
    levels = {"outcomes": ["level_10d"], "patients": 5, "draws": 4, "infusion": 1, "seed": 2}
    one, three = ck.compare(trial_fit, arms, **levels).data["level_10d"]
    np.testing.assert_allclose(one, three, rtol=1e-3)


@pytest.mark.slow
def test_the_solver_did_not_change_the_fit(trial_fit):
    check = ck.checks.solver_error(trial_fit, draws=20)
    assert check.error.max() < 1e-3


@pytest.mark.slow
def test_a_fit_with_values_for_each_infusion_survives_a_file(trial_fit, tmp_path):
    again = ck.load_fit(trial_fit.save(tmp_path / "fit.nc"), population=population())
    np.testing.assert_array_equal(
        again.idata.posterior["eta_room_infusion"], trial_fit.idata.posterior["eta_room_infusion"]
    )
