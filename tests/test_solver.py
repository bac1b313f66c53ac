"""Both routes: exact solutions and gradients, convergence order, what events mean, failures.

The systems with exact solutions are in `systems.py`.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from systems import SYSTEMS

import carpk as ck
from carpk.solver import mesh, solve
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver
from carpk.solver.system import NOT_FINITE, OK, REASONS, TOO_MANY_STEPS


def each(params, patients=1):
    """The same parameters for every patient, leaves (P,)."""
    return jax.tree.map(lambda x: jnp.full(patients, float(x)), params)


def prepared(schedule, route, rtol=1e-7):
    """A solver on the mesh, or on the adaptive route with the method named."""
    if route != "mesh":
        return Solver.adaptive(schedule, route)
    reference = jax.tree.map(
        lambda x: x[None], each(schedule.structure.model.params(), schedule.patients)
    )
    ready = Solver.prepare(schedule, reference, rtol=rtol, share=1.0)
    assert ready.mesh is not None, ready.why
    return ready


def plan_of(system):
    return Schedule.of(system.model, [system.regimen], system.times)


# --- exact solutions and gradients ----------------------------------------------------------------


ADAPTIVE = ("tsit5", "dopri8", "kvaerno5")


def pairs(routes, *fast):
    """Every system with every route; those that are not `fast` are slow, as each pair compiles."""

    def marks(name, route):
        if (name, route) in fast:
            return ()
        return pytest.mark.slow if route in ("tsit5", "mesh") else pytest.mark.exhaustive

    return [pytest.param(name, r, marks=marks(name, r)) for name in SYSTEMS for r in routes]


def check_outputs(outputs, system):
    for name, exact in system.exact(system.typical()).items():
        np.testing.assert_allclose(outputs[name][0], exact.real, rtol=3e-7, err_msg=name)


FAST = [("kill", "tsit5"), ("gompertz", "dopri8"), ("one", "kvaerno5")]
FAST_MESH = [("chain", "mesh"), ("logistic", "mesh")]


@pytest.mark.parametrize(("name", "route"), pairs(ADAPTIVE, *FAST))
def test_adaptive_methods_follow_the_exact_solution(name, route):
    system = SYSTEMS[name]
    _, outputs, code, *_ = prepared(plan_of(system), route).run(each(system.model.params()))
    assert REASONS[int(code[0])] == ""
    check_outputs(outputs, system)


@pytest.mark.parametrize(("name", "route"), pairs((*ADAPTIVE, "mesh"), *FAST_MESH))
def test_every_route_has_the_exact_outputs_and_gradients(name, route):
    """With respect to every parameter, bioavailability and lags among them."""
    system = SYSTEMS[name]
    ready = prepared(plan_of(system), route)
    weights = 1 + 0.1 * np.arange(len(system.times))

    def total(params):
        outputs = ready(params)
        return sum(jnp.sum(weights * jnp.log(y[0])) for y in outputs.values()), outputs

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, outputs), slopes = run(each(system.model.params()))
    check_outputs(outputs, system)
    for parameter, exact in system.gradient(weights).items():
        slope = float(getattr(slopes, parameter)[0])
        assert slope == pytest.approx(exact, rel=1e-5, abs=1e-7), parameter


def with_even_steps(schedule, n):
    """A solver with n equal steps in every segment."""
    line = None if schedule.structure.moves else schedule.fixed()
    boundaries = (
        1 + schedule.rows.times.shape[1] + 2 * schedule.rows.events.time.shape[1]
        if line is None
        else line.time.shape[1]
    )
    segment = np.repeat(np.arange(boundaries - 1), n)
    offset = np.tile(np.arange(n) / n, boundaries - 1)
    layout = mesh.Layout(segment, offset, np.full_like(offset, 1 / n))
    steps = mesh.pack([layout] * schedule.patients, boundaries)
    chosen = mesh.Mesh(steps, len(segment), rtol=0.0, share=1.0, error=0.0, worst=0.0, local=0.0)
    return Solver(schedule, line, chosen, Solver.adaptive(schedule).settings)


@pytest.mark.parametrize(("name", "steps"), [("chain", 2), ("logistic", 8), ("gompertz", 8)])
def test_events_off_the_grid_do_not_cost_the_mesh_route_its_order(name, steps):
    """An `if t < stop` in the vector field would drop the method of order 5 to about order 1.

    The last two are integrated as logs.
    """
    system = SYSTEMS[name]
    schedule, params = plan_of(system), each(system.model.params())
    exact = {k: y[-1].real for k, y in system.exact(system.typical()).items()}

    def error(n):
        outputs = with_even_steps(schedule, n)(params)
        return max(abs(float(outputs[k][0, -1]) / y - 1) for k, y in exact.items())

    assert np.log2(error(steps) / error(2 * steps)) > 4.7


@pytest.mark.parametrize("route", ["adaptive", "mesh"])
def test_a_half_hour_infusion_is_never_stepped_over(route):
    """It comes amid sixty days in which nothing else happens, to a drug that is gone by then."""
    given = ck.Regimen((ck.Infusion(0.0, 24.0, 0.5 / 24, "memory", "cells"),))
    solution = ck.solve(SYSTEMS["chain"].model, given, [30.0], start=-30.0, route=route)
    p = SYSTEMS["chain"].typical()
    rate, enter = p["beta"], 24.0 / (0.5 / 24)
    infused = enter / rate * -np.expm1(-rate * 0.5 / 24) * np.exp(-rate * (30 - 0.5 / 24))
    old = 0.02 * np.exp(-60 * rate)
    turned = np.exp(-60 * rate) - np.exp(-60 * p["alpha"])
    old += p["before"] * p["kappa"] / (p["alpha"] - rate) * turned
    assert solution["memory"][0] == pytest.approx(infused + old, rel=1e-6)


class SwitchParams(ck.Params):
    rho: ck.Scalar = ck.param(0.8, "1/day", "expansion rate")
    alpha: ck.Scalar = ck.param(0.15, "1/day", "contraction rate")
    tmax: ck.Scalar = ck.param(9.3, "day", "day of the peak")


class SwitchStates(ck.States):
    cells: ck.Scalar = ck.state("cells/µL", "CAR-T cells", 0.01, log=True)
    past: ck.Scalar = ck.state("1", "0 before the peak, 1 after it")


SWITCH = ck.ODEModel(
    name="switch",
    params=SwitchParams,
    states=SwitchStates,
    vector_field=lambda t, y, p: SwitchStates(
        (p.rho - (p.rho + p.alpha) * y.past) * y.cells, jnp.zeros(())
    ),
    outputs={"cells": lambda t, y, p: y.cells},
    units={"cells": "cells/µL"},
    targets={"switch": ck.Target("past", lag=lambda p: p.tmax)},
)


@pytest.mark.parametrize("route", ["mesh", pytest.param("tsit5", marks=pytest.mark.slow)])
def test_a_switch_at_tmax_has_the_right_gradient(route):
    """An `if t < p.tmax` in the vector field has none; a dose that lags by tmax has."""
    t = np.array([2.0, 9.0, 9.5, 20.0])
    ready = prepared(Schedule.of(SWITCH, [ck.Regimen((ck.Bolus(0, 1.0, "switch"),))], t), route)
    p, after = SwitchParams(), t > 9.3

    def logs(params):
        y = jnp.log(ready(params)["cells"][0])
        return jnp.sum(y * 10.0 ** np.arange(4)), y  # each time has digits of its own

    (_, y), slopes = jax.jit(jax.value_and_grad(logs, has_aux=True))(each(p))
    rise, fall = np.where(after, 9.3, t), np.where(after, t - 9.3, 0.0)
    np.testing.assert_allclose(y, np.log(0.01) + p.rho * rise - p.alpha * fall, rtol=1e-8)
    weights = 10.0 ** np.arange(4)
    assert slopes.tmax[0] == pytest.approx(np.sum(weights * after) * (p.rho + p.alpha))
    assert slopes.rho[0] == pytest.approx(np.sum(weights * rise))
    assert slopes.alpha[0] == pytest.approx(-np.sum(weights * fall))


# --- what events mean -----------------------------------------------------------------------------

T = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0])
K, Q, LAG, SHARE, A, B = 0.7, 0.2, 0.4, 0.5, 2.0, 0.5


class PairParams(ck.Params):
    k: ck.Scalar = ck.param(K, "1/day", "loss of a")
    q: ck.Scalar = ck.param(Q, "1/day", "loss of b")
    lag: ck.Scalar = ck.param(LAG, "day", "lag of the product that is late")
    share: ck.Scalar = ck.param(SHARE, "1", "its bioavailability")


class PairStates(ck.States):
    a: ck.Scalar = ck.state("cells/µL", "integrated as itself", A)
    b: ck.Scalar = ck.state("cells/µL", "integrated as its log", B, log=True)


PAIR = ck.ODEModel(
    name="pair",
    params=PairParams,
    states=PairStates,
    vector_field=lambda t, y, p: PairStates(-p.k * y.a, -p.q * y.b),
    outputs={"a": lambda t, y, p: y.a, "b": lambda t, y, p: y.b},
    units={"a": "cells/µL", "b": "cells/µL"},
    targets={"late": ck.Target("a", bioavailability=lambda p: p.share, lag=lambda p: p.lag)},
)


def a(start=A, since=0.0):
    return start * np.exp(-K * (T - since))


def b(start=B, since=0.0):
    return start * np.exp(-Q * (T - since))


def enters(amount, since, stop, duration=None, rate=K):
    """What is there of an infusion that runs from `since` to `stop`."""
    speed = amount / ((stop - since) if duration is None else duration)
    running = np.clip(T, since, stop) - since
    return speed / rate * -np.expm1(-rate * running) * np.exp(-rate * (T - since - running))


# name -> (events, what a and b are); `past(day)` says whether an observation comes after the
# events of that day: at their own time it does not, unless asked for.
LAWS = {
    "a bolus adds to what is there": (
        [ck.Bolus(1, 3.0, "a"), ck.Bolus(1.5, 0.2, "b")],
        lambda past: (a() + past(1) * a(3, 1), b() + past(1.5) * b(0.2, 1.5)),
    ),
    "two products go into two compartments at once": (
        [ck.Bolus(2, 3.0, "a"), ck.Bolus(2, 0.2, "b")],
        lambda past: (a() + past(2) * a(3, 2), b() + past(2) * b(0.2, 2)),
    ),
    "a dose goes where it says, whatever the product": (
        [ck.Bolus(1, 3.0, "late", compartment="b"), ck.Bolus(1, 3.0, "new", compartment="a")],
        lambda past: (a() + past(1) * a(3, 1), b() + past(1) * b(3, 1)),
    ),
    "days may be negative": (
        [ck.Bolus(-2.5, 3.0, "a"), ck.Infusion(-2, 0.6, 1.3, "b", "cells")],
        lambda past: (a(5, -2.5), b(since=-2.5) + enters(0.6, -2, -0.7, rate=Q)),
    ),
    "infusions into one compartment overlap": (
        [
            ck.Infusion(0.3, 3.0, 1.2, "a", "cells"),  # ends when the state is observed
            ck.Infusion(0.9, 1.0, 1.9, "a", "cells"),
            ck.Infusion(1, 2.0, 0.5, "a", "cells"),
        ],
        lambda past: (
            a() + enters(3, 0.3, 1.5) + enters(1, 0.9, 2.8) + enters(2, 1, 1.5),
            b(),
        ),
    ),
    "consecutive infusions act as one long infusion": (
        [ck.Infusion(0.7, 1.0, 0.8, "a", "cells"), ck.Infusion(1.5, 1.5, 1.2, "a", "cells")],
        lambda past: (a() + enters(2.5, 0.7, 2.7), b()),
    ),
    "what comes after the last observation is not seen": (
        [ck.Infusion(3.5, 3.0, 9.0, "a", "cells"), ck.Bolus(4.1, 9.0, "a"), ck.Reset(5)],
        lambda past: (a() + enters(3, 3.5, 12.5), b()),
    ),
    "a reset puts back what was there at the start": (
        [ck.Bolus(0.5, 3.0, "a"), ck.Reset(1.5)],
        lambda past: (
            np.where(past(1.5), a(A, 1.5), a() + past(0.5) * a(3, 0.5)),
            np.where(past(1.5), b(B, 1.5), b()),
        ),
    ),
    "a reset and then a dose is EVID 4": (
        [ck.Reset(1.5), ck.Bolus(1.5, 3.0, "a")],
        lambda past: (np.where(past(1.5), a(A + 3, 1.5), a()), np.where(past(1.5), b(B, 1.5), b())),
    ),
    "a dose and then a reset is a reset": (
        [ck.Bolus(1.5, 3.0, "a"), ck.Reset(1.5)],
        lambda past: (np.where(past(1.5), a(A, 1.5), a()), np.where(past(1.5), b(B, 1.5), b())),
    ),
    "a reset stops an infusion that runs": (
        [ck.Infusion(1, 4.0, 2.0, "a", "cells"), ck.Reset(1.7)],
        lambda past: (
            np.where(past(1.7), a(A, 1.7), a() + enters(4, 1, 3)),
            np.where(past(1.7), b(B, 1.7), b()),
        ),
    ),
    "a reset does not stop the infusion that comes after it": (
        [
            ck.Infusion(1, 4.0, 2.0, "a", "cells"),
            ck.Reset(1.7),
            ck.Infusion(1.7, 3, 1, "a", "cells"),
        ],
        lambda past: (
            np.where(past(1.7), a(A, 1.7), a() + enters(4, 1, 3)) + enters(3, 1.7, 2.7),
            np.where(past(1.7), b(B, 1.7), b()),
        ),
    ),
    "replace sets one compartment": (
        [ck.Replace(1, 7.0, "a"), ck.Replace(2, 0.01, "b")],
        lambda past: (np.where(past(1), a(7, 1), a()), np.where(past(2), b(0.01, 2), b())),
    ),
    "multiply scales one compartment": (
        [ck.Multiply(1, 0.25, "a"), ck.Multiply(2, 3.0, "b")],
        lambda past: (a() * np.where(past(1), 0.25, 1), b() * np.where(past(2), 3.0, 1)),
    ),
    "nothing is left of what is multiplied by 0": (
        [ck.Multiply(1, 0.0, "a"), ck.Multiply(2, 0.0, "b"), ck.Bolus(3, 0.4, "b")],
        lambda past: (a() * ~past(1), b() * ~past(2) + past(3) * b(0.4, 3)),
    ),
    "a dose is multiplied by what comes after it": (
        [ck.Bolus(1, 3.0, "a"), ck.Multiply(1, 0.5, "a")],
        lambda past: (np.where(past(1), (a() + a(3, 1)) / 2, a()), b()),
    ),
    "a dose is not multiplied by what comes before it": (
        [ck.Multiply(1, 0.5, "a"), ck.Bolus(1, 3.0, "a")],
        lambda past: (np.where(past(1), a() / 2 + a(3, 1), a()), b()),
    ),
    "events of one time act in the order given": (
        [
            ck.Replace(2, 4.0, "a"),
            ck.Multiply(2, 0.5, "a"),
            ck.Bolus(2, 1.0, "a"),
            ck.Multiply(2, 3.0, "a"),
            ck.Multiply(2, 0.1, "b"),
            ck.Reset(2),
            ck.Multiply(2, 5.0, "a"),
            ck.Bolus(2, 1.0, "a"),
            ck.Multiply(2, 2.0, "a"),
        ],
        lambda past: (
            np.where(past(2), a(2 * (5 * A + 1), 2), a()),
            np.where(past(2), b(B, 2), b()),
        ),
    ),
    "an infusion is not multiplied": (
        [ck.Infusion(1, 4.0, 2.0, "a", "cells"), ck.Multiply(1, 0.5, "a")],
        lambda past: (np.where(past(1), a() / 2, a()) + enters(4, 1, 3), b()),
    ),
}
LATE = {
    "a late dose arrives by its lag later, as far as available": (
        [ck.Bolus(0.5, 3.0, "late"), ck.Infusion(0.9, 4.0, 1.1, "late", "cells")],
        lambda past: (a() + past(0.9) * a(1.5, 0.9) + enters(2, 1.3, 2.4), b()),
    ),
    "a late dose is overtaken by one given later": (
        [ck.Bolus(0.8, 4.0, "late"), ck.Multiply(1.1, 0.5, "a"), ck.Bolus(1.1, 1.0, "a")],
        lambda past: (
            np.where(past(1.1), a() / 2, a()) + past(1.1) * a(1, 1.1) + past(1.2) * a(2, 1.2),
            b(),
        ),
    ),
    "a reset cancels a dose that waits for its lag": (
        [ck.Bolus(1.2, 3.0, "late"), ck.Infusion(1.2, 3, 1, "late", "cells"), ck.Reset(1.4)],
        lambda past: (np.where(past(1.4), a(A, 1.4), a()), np.where(past(1.4), b(B, 1.4), b())),
    ),
    "a reset does not cancel a late dose given after it": (
        [ck.Reset(1.4), ck.Bolus(1.4, 3.0, "late")],
        lambda past: (
            np.where(past(1.4), a(A, 1.4), a()) + past(1.8) * a(1.5, 1.8),
            np.where(past(1.4), b(B, 1.4), b()),
        ),
    ),
    "a reset stops a late infusion that has arrived": (
        [ck.Infusion(0.9, 4.0, 1.1, "late", "cells"), ck.Reset(1.7)],
        lambda past: (
            np.where(past(1.7), a(A, 1.7), a() + enters(2, 1.3, 2.4)),
            np.where(past(1.7), b(B, 1.7), b()),
        ),
    ),
}


@lru_cache
def solved(route, late, after):
    """All laws at once, as patients of one plan; with late doses it is another kind of schedule."""
    laws = {**LAWS, **LATE} if late else LAWS
    schedule = Schedule.of(
        PAIR, [ck.Regimen(tuple(e)) for e, _ in laws.values()], T, follows=99 if after else 0
    )
    assert schedule.structure.moves == late
    outputs = prepared(schedule, route)(each(PAIR.params(), schedule.patients))
    return {name: (outputs["a"][i], outputs["b"][i]) for i, name in enumerate(laws)}


@pytest.mark.parametrize(
    ("law", "route", "late", "after"),
    [
        pytest.param(
            law,
            route,
            late,
            after,
            id=f"{law}, {route}" + ", late doses" * late,
            marks=[pytest.mark.slow] * (late and route == "mesh"),
        )
        for route, after in [("tsit5", False), ("mesh", True)]
        for late, laws in [(False, LAWS), (True, {**LAWS, **LATE})]
        for law in laws
    ],
)
def test_events_mean_what_they_say(law, route, late, after):
    """An observation sees the level before an event, or after it where asked (on the mesh)."""
    later = np.greater_equal if after else np.greater
    _, exact = {**LAWS, **LATE}[law]
    expected = exact(lambda day: later(T, day))
    for got, want in zip(solved(route, late, after)[law], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-25)


# --- any regimen ----------------------------------------------------------------------------------


class AnyParams(ck.Params):
    rho: ck.Scalar = ck.param(1.1, "1/day", "largest expansion rate")
    lag: ck.Scalar = ck.param(0.35, "day", "lag of the late product")


class AnyStates(ck.States):
    drug: ck.Scalar = ck.state("mg", "a drug whose elimination saturates", 0.5)
    cells: ck.Scalar = ck.state("cells/µL", "CAR-T cells", 1.0, log=True)
    tumor: ck.Scalar = ck.state("cells/µL", "tumor cells", 40.0, log=True)


def slopes(drug, cells, tumor):
    up, kill = 1.1 * tumor / (30 + tumor) - 0.3, 0.02 * cells + 0.3 * drug / (1 + drug)
    return -2 * drug / (1 + drug), up * cells, (0.4 * (1 - tumor / 90) - kill) * tumor


ANY = ck.ODEModel(
    name="any",
    params=AnyParams,
    states=AnyStates,
    vector_field=lambda t, y, p: AnyStates(*slopes(y.drug, y.cells, y.tumor)),
    outputs={k: lambda t, y, p, k=k: getattr(y, k) for k in AnyStates.names()},
    units={"drug": "mg", "cells": "cells/µL", "tumor": "cells/µL"},
    targets={"late": ck.Target("drug", lambda p: 0.8, lag=lambda p: p.lag, unit="mg")},
)
SEEN = np.array([0.0, 1.0, 2.5, 4.0, 7.0])
PRODUCTS = {"drug": "mg", "cells": "cells", "tumor": "cells", "late": "mg"}
days = st.sampled_from(SEEN) | st.floats(-1.5, 6.5).map(lambda day: round(day, 9))
amounts = st.floats(0.01, 30.0)


def event_of(products):
    product = st.sampled_from([(p, PRODUCTS[p]) for p in products])
    state = st.sampled_from(AnyStates.names())
    return st.one_of(
        st.builds(lambda d, a, p: ck.Bolus(d, a, *p), days, amounts, product),
        st.builds(
            lambda d, a, n, p: ck.Infusion(d, a, n, *p), days, amounts, st.floats(0.02, 3), product
        ),
        st.builds(ck.Multiply, days, st.floats(0.01, 2.0), state),
        st.builds(ck.Replace, days, amounts, state),
        st.builds(ck.Reset, days),
    )


def event_by_event(regimen):
    """Levels at `SEEN`, (time, state), with SciPy from one event to the next."""
    initial, names = np.array([0.5, 1.0, 40.0]), AnyStates.names()
    at = [e.time + 0.35 * (getattr(e, "product", "") == "late") for e in regimen.events]
    agenda = sorted(zip(at, range(len(at)), regimen.events, strict=True), key=lambda x: x[:2])
    ends = [x + e.days for x, e in zip(at, regimen.events, strict=True) if hasattr(e, "days")]
    y, running, seen = initial.copy(), {}, []  # running: event number -> (end, rate per state)
    now, cancelled = min([0.0, *(e.time for e in regimen.events)]), set()
    for day in sorted({*SEEN, *at, *ends}):
        if day > SEEN[-1]:
            break
        if day > now:
            rate = sum((r for _, r in running.values()), np.zeros(3))
            solution = solve_ivp(
                lambda _, y, rate=rate: np.add(slopes(*y), rate),
                (now, day),
                y,
                method="DOP853",
                rtol=1e-10,
                atol=1e-13,
            )
            y, now = solution.y[:, -1], day
        if day in SEEN:
            seen.append(y.copy())
        running = {i: (end, rate) for i, (end, rate) in running.items() if end > day}
        for _, i, event in [x for x in agenda if x[0] == day and x[1] not in cancelled]:
            if isinstance(event, ck.Reset):
                y, running = initial.copy(), {}
                cancelled |= set(range(i))  # those before it have acted, or never will
            elif isinstance(event, ck.Replace | ck.Multiply):
                j = names.index(event.compartment)
                y[j] = event.amount * (y[j] if isinstance(event, ck.Multiply) else 1)
            else:
                late = event.product == "late"
                entering = (
                    event.amount
                    * (0.8 if late else 1.0)
                    * np.eye(3)[0 if late else names.index(event.product)]
                )
                if isinstance(event, ck.Bolus):
                    y = y + entering
                else:
                    running[i] = (day + event.days, entering / event.days)
    return np.array(seen)


@pytest.mark.parametrize("late", [False, True], ids=["prompt", "late"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.slow
def test_any_regimen_is_solved_as_by_another_integrator(data, late):
    """A first patient has every kind of dose and as many boundaries as any: one compilation."""
    products = list(PRODUCTS) if late else list(PRODUCTS)[:3]
    most = [ck.Infusion(0.1 + i / 7, 1.0, 3.03, p, PRODUCTS[p]) for i, p in enumerate(products)]
    most += [ck.Infusion(0.9 + i / 7, 1.0, 3.03, "drug") for i in range(6 - len(most))]
    events = data.draw(st.lists(event_of(products), min_size=1, max_size=6))
    regimen = ck.Regimen(tuple(events))
    schedule = Schedule.of(ANY, [ck.Regimen(tuple(most)), regimen], SEEN)
    assert schedule.structure.moves == late
    exact = event_by_event(regimen)
    for ready in (Solver.adaptive(schedule), with_even_steps(schedule, 40)):
        outputs = ready(each(AnyParams(), 2))
        for j, name in enumerate(AnyStates.names()):
            np.testing.assert_allclose(outputs[name][1], exact[:, j], rtol=2e-6, atol=1e-9)


# --- many patients --------------------------------------------------------------------------------


def test_patients_with_other_schedules_are_as_if_alone():
    """On a mesh of their own they have other steps, so they agree to its tolerance only."""
    name = "infusions into one compartment overlap"
    schedule = Schedule.of(PAIR, [ck.Regimen(tuple(LAWS[name][0]))], T, follows=99)
    alone = prepared(schedule, "mesh")(each(PAIR.params()))
    together = solved("mesh", False, True)[name]
    np.testing.assert_allclose(alone["a"][0], together[0], rtol=1e-6)
    np.testing.assert_allclose(alone["b"][0], together[1], rtol=1e-6)


def test_a_patient_may_be_observed_less_often_than_others():
    times = np.array([[1.0, 2.0, 4.0], [1.5, np.nan, np.nan]])
    dose = ck.Regimen((ck.Bolus(1.2, 3.0, "a"),))
    schedule = Schedule.of(PAIR, [dose, dose], times, start=0.0)
    outputs = prepared(schedule, "mesh")(each(PAIR.params(), 2))
    exact = a() + (T > 1.2) * a(3, 1.2)
    np.testing.assert_allclose(outputs["a"][0], exact[[1, 3, 5]], rtol=1e-6)
    assert float(outputs["a"][1, 0]) == pytest.approx(exact[2], rel=1e-6)


@pytest.mark.parametrize("shared", [True, False], ids=["one schedule", "many schedules"])
@pytest.mark.slow
def test_more_patients_than_run_side_by_side_are_the_same(shared, monkeypatch):
    """Eleven, four at a time: the last three have a place left beside them."""
    monkeypatch.setattr(solve, "CHUNK", 4)
    amounts = np.linspace(1, 3, 11)
    given = [ck.Regimen((ck.Bolus(1.2, x, "a"), ck.Multiply(2.2, 0.5, "b"))) for x in amounts]
    schedule = Schedule.of(PAIR, given[:1] if shared else given, T)
    loss = np.linspace(0.1, 0.9, 11)
    params = PairParams(*(jnp.asarray(x) for x in np.broadcast_arrays(K, loss, LAG, SHARE)))
    outputs = prepared(schedule, "mesh")(params)
    dose = (T > 1.2) * a(1, 1.2)
    expected = a() + (1.0 if shared else amounts[:, None]) * dose
    np.testing.assert_allclose(outputs["a"], np.broadcast_to(expected, (11, 6)), rtol=1e-6)
    survive = B * np.exp(-loss[:, None] * T) * np.where(T > 2.2, 0.5, 1.0)
    np.testing.assert_allclose(outputs["b"], survive, rtol=1e-6)


# --- failures -------------------------------------------------------------------------------------


class TroubleParams(ck.Params):
    stiff: ck.Scalar = ck.param(1.0, "1/day", "approach of cos(t)")
    blow: ck.Scalar = ck.param(0.0, "1/day", "growth with the square", bounds=(-1, 9))
    before: ck.Scalar = ck.param(0.0, "1", "at the start", bounds=(-1, 9))


class Y(ck.States):
    y: ck.Scalar = ck.state("1", "a number")


TROUBLE = ck.ODEModel(
    name="trouble",
    params=TroubleParams,
    states=Y,
    initial=lambda p: Y(p.before),
    vector_field=lambda t, y, p: Y(p.stiff * (jnp.cos(t) - y.y) + p.blow * y.y**2),
    outputs={"y": lambda t, y, p: y.y},
    units={"y": "1"},
)
DAYS = np.array([0.0, 0.3, 9.0])
FINE, BLOWS = TroubleParams(), TroubleParams(0.0, 1.0, 2.0)  # 2 / (1 - 2 t)
STIFF = TroubleParams(stiff=1e6)


def pursuit(k, t):
    """The solution without growth from 0: y follows cos(t)."""
    return k * (k * np.cos(t) + np.sin(t) - k * np.exp(-k * t)) / (k**2 + 1)


def test_what_cannot_be_solved_is_nan_with_a_reason_and_leaves_others_alone():
    solving = prepared(Schedule.of(TROUBLE, [ck.Regimen()], DAYS), "tsit5")
    params = jax.tree.map(lambda *x: jnp.stack([*map(jnp.asarray, x)]), STIFF, FINE, BLOWS)
    _, outputs, code, *_ = solving.run(params)
    assert code.tolist() == [TOO_MANY_STEPS, OK, TOO_MANY_STEPS]
    stiff, fine, blows = np.asarray(outputs["y"])
    np.testing.assert_allclose(fine, pursuit(1.0, DAYS), rtol=1e-7, atol=1e-12)
    assert np.isnan(stiff[2])
    np.testing.assert_allclose(blows, [2, 5, np.nan], rtol=1e-6)


def test_on_the_mesh_what_blows_up_is_nan_with_a_reason_and_leaves_others_alone():
    solving = prepared(Schedule.of(TROUBLE, [ck.Regimen()], DAYS), "mesh")
    params = jax.tree.map(lambda *x: jnp.stack([*map(jnp.asarray, x)]), BLOWS, FINE)
    _, outputs, code, *_ = solving.run(params)
    assert code.tolist() == [NOT_FINITE, OK]
    assert np.isnan(outputs["y"][0, 2])
    np.testing.assert_allclose(outputs["y"][1], pursuit(1.0, DAYS), rtol=1e-6, atol=1e-12)


def test_a_solution_that_fails_says_so_first():
    solution = ck.solve(TROUBLE, ck.Regimen(), DAYS, STIFF, method="tsit5")
    assert 'try method="kvaerno5"' in solution.reason
    head, reason = repr(solution).splitlines()[0].split("; FAILED: ")
    assert head == f"Solution: {solution.steps} steps, adaptive (tsit5) route"
    assert reason == solution.reason


def test_a_solution_that_failed_takes_no_more_steps():
    """Each later segment once used up as many again, and all patients wait for the slowest."""
    days = np.linspace(0, 9, 7)
    solution = ck.solve(TROUBLE, ck.Regimen(), days, STIFF, method="tsit5")
    assert solution.steps <= 10_000 + len(days)


@pytest.mark.slow
def test_stiff_equations_are_solved_without_being_asked_for():
    """By the stiff method after the explicit one, and without a mesh; both say so."""
    for route in ("adaptive", "mesh"):
        solution = ck.solve(TROUBLE, ck.Regimen(), DAYS, STIFF, route=route)
        assert solution.reason == ""
        np.testing.assert_allclose(solution["y"], pursuit(1e6, DAYS), rtol=1e-6)
        assert "adaptive (kvaerno5" in solution.route


def test_without_a_mesh_the_solver_says_why():
    schedule = Schedule.of(TROUBLE, [ck.Regimen()], DAYS)
    reference = jax.tree.map(lambda x: x[None], each(STIFF))
    why = mesh.choose(schedule, reference, line=schedule.fixed())
    assert "stiff" in why
    ready = Solver.prepare(schedule, reference)
    assert (ready.mesh, ready.why) == (None, why)
    assert why in ready.describe()


# --- one patient ----------------------------------------------------------------------------------


def test_a_solution_has_a_table_of_outputs_and_states():
    solution = ck.solve(PAIR, ck.Regimen((ck.Bolus(0.0, 3.0, "a"),)), [0.0, 2.0], after=True)
    assert list(solution.table().columns) == ["a [cells/µL]", "b [cells/µL]", "a", "b"]
    np.testing.assert_allclose(solution["a"], 5 * np.exp(-K * solution.time), rtol=1e-7)
    np.testing.assert_array_equal(solution.states.a, solution["a"])
    with pytest.raises(ck.ModelError, match="no output 'c'; it has a, b, and the states a, b"):
        solution["c"]


@pytest.mark.parametrize("route", ["adaptive", "mesh"])
def test_a_patient_seen_only_when_the_dose_is_given_is_solved(route):
    solution = ck.solve(PAIR, ck.Regimen((ck.Bolus(1.0, 3.0, "a"),)), [1.0], route=route)
    assert solution["a"].tolist() == [A]
