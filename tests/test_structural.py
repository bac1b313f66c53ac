"""Closed forms: against the differential equations, by superposition, and through gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import carpk as ck
from carpk.models import piecewise

STEIN = ck.load_model("stein2019")
TYPICAL = STEIN.params()
DAYS = np.linspace(0, 365, 731)
TIGHT = {"rtol": 1e-10, "atol": 1e-12, "method": "DOP853"}


def stein_ode(t, p):
    """Effector and memory by integration: E' = rho E, then E' = -alpha E, M' = k E - beta M."""
    rho, k = np.log(p.foldx) / p.tmax, p.fb * (p.alpha - p.beta)
    up, down = t[t < p.tmax], t[t >= p.tmax]
    rise = solve_ivp(
        lambda t, y: rho * y, (0, p.tmax), [p.cmax / p.foldx], t_eval=[*up, p.tmax], **TIGHT
    )
    fall = solve_ivp(
        lambda t, y: [-p.alpha * y[0], k * y[0] - p.beta * y[1]],
        (p.tmax, t[-1]),
        [rise.y[0, -1], 0.0],
        t_eval=down,
        **TIGHT,
    )
    return np.concatenate([np.pad(rise.y[:, :-1], ((0, 1), (0, 0))), fall.y], axis=1)


def test_the_closed_form_is_the_solution_of_the_differential_equations():
    effector, memory = stein_ode(DAYS, TYPICAL)
    level = STEIN.level("transgene", DAYS, TYPICAL, after=True)
    np.testing.assert_allclose(level, effector + memory, rtol=1e-7)
    states = STEIN.states(jnp.asarray(DAYS), TYPICAL)
    np.testing.assert_allclose(states.effector, effector, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(states.memory, memory, rtol=1e-7, atol=1e-6)


CLOSED = [n for n in ck.list_models() if isinstance(ck.load_model(n), ck.ClosedForm)]


@pytest.mark.parametrize("name", CLOSED)
def test_states_add_up_to_the_output(name):
    model = ck.load_model(name)
    (output,) = model.outputs
    p = model.params()
    states = model.states(jnp.asarray(DAYS), p)
    total = sum(jax.tree.leaves(states))
    np.testing.assert_allclose(total, model.level(output, DAYS, p, after=True), rtol=1e-12)


def test_distribution_before_the_lag_follows_kdist():
    """C = C0 exp(-kdist t) up to the lag, then growth to exactly cmax."""
    p = {"cmax": 50.0, "tmax": 9.0, "rho": 0.9, "alpha": 0.14, "beta": 0.002, "fb": 0.01}
    t = jnp.array([0.0, 1.0, 2.0, 3.0, 9.0])
    level = np.asarray(piecewise.level(t, lag=2.0, kdist=0.7, **p))
    at_lag = 50 * np.exp(-0.9 * 7)
    expected = [at_lag * np.exp(1.4), at_lag * np.exp(0.7), at_lag, at_lag * np.exp(0.9), 50.0]
    np.testing.assert_allclose(level, expected, rtol=1e-12)


@pytest.mark.parametrize("lag", [9.0, 12.0, 40.0])
def test_a_lag_as_long_as_tmax_leaves_no_expansion(lag):
    """C is cmax from the infusion to tmax, then declines as without a lag."""
    p = {"cmax": 50.0, "tmax": 9.0, "rho": 0.9, "alpha": 0.14, "beta": 0.002, "fb": 0.01}
    t = jnp.array([0.0, 4.0, 7.0, 9.0, 14.0, 60.0])
    level, smooth = (f(t, lag=lag, **p) for f in (piecewise.level, piecewise.smooth_level))
    declining = piecewise.level(t, **p)
    np.testing.assert_allclose(level, [50, 50, 50, 50, *declining[4:]], rtol=1e-12)
    np.testing.assert_allclose(smooth, level, rtol=0.2 if lag < 10 else 0.03)
    slope = jax.grad(lambda lag: jnp.sum(piecewise.smooth_level(t, lag=lag, **p)))(lag)
    assert np.isfinite(slope)


# --- several infusions ----------------------------------------------------------------------------

STARTS = np.array([0.0, 42.0, 84.0])
PEAKS = np.array([24_000.0, 6_000.0, 900.0])


@pytest.mark.parametrize("smooth", [False, True])
def test_infusions_superpose_each_with_its_own_peak(smooth):
    p = TYPICAL.replace(cmax=jnp.asarray(PEAKS))
    together = STEIN.level("transgene", DAYS, p, STARTS, smooth=smooth, after=True)
    curve = (STEIN.smooth if smooth else STEIN.outputs)["transgene"]
    apart = sum(
        np.where(s <= DAYS, curve(jnp.asarray(np.abs(DAYS - s)), TYPICAL.replace(cmax=c)), 0.0)
        for s, c in zip(STARTS, PEAKS, strict=True)
    )
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    one_way = STEIN.level("transgene", DAYS[::-1], p, STARTS, smooth=smooth, after=True)
    np.testing.assert_array_equal(one_way[::-1], together)


@pytest.mark.parametrize("smooth", [False, True])
def test_nothing_is_there_before_the_first_infusion(smooth):
    t = np.array([-7.0, -1e-6, 0.0, 1.0])
    assert (np.asarray(STEIN.level("transgene", t, TYPICAL, 0.0, smooth=smooth))[:3] == 0).all()
    level = np.asarray(STEIN.level("transgene", t, TYPICAL, 0.0, smooth=smooth, after=True))
    assert (level[:2] == 0).all()
    assert level[2] == pytest.approx(24_000 / 3_900, rel=0.01)


@pytest.mark.parametrize("smooth", [False, True])
def test_an_infusion_at_infinity_never_happens_and_leaves_gradients_finite(smooth):
    def log_auc(p, starts):
        return jnp.log(jnp.sum(STEIN.level("transgene", DAYS, p, starts, smooth=smooth)))

    one, padded = jnp.array([0.0]), jnp.array([0.0, jnp.inf, jnp.inf])
    assert float(log_auc(TYPICAL, padded)) == float(log_auc(TYPICAL, one))
    slope = jax.jit(jax.grad(log_auc))
    lone, of_padded = (slope(TYPICAL, starts) for starts in (one, padded))
    np.testing.assert_allclose(jax.tree.leaves(of_padded), jax.tree.leaves(lone), rtol=1e-12)
    assert np.isfinite(jax.grad(log_auc, argnums=1)(TYPICAL, padded)).all()


# --- dose -----------------------------------------------------------------------------------------


def test_the_peak_does_not_follow_the_dose_unless_told_to():
    low, high = (STEIN.level("transgene", DAYS, TYPICAL, 0.0, jnp.array([a])) for a in (1e7, 1e9))
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_with_a_dose_effect_each_peak_is_scaled_by_its_own_dose(exponent):
    model = STEIN.with_dose_effect(exponent, reference=1e8)
    dose = np.array([1e8, 4e8, 2e7])
    scaled = TYPICAL.replace(cmax=jnp.asarray(24_000 * (dose / 1e8) ** exponent))
    np.testing.assert_allclose(
        model.level("transgene", DAYS, TYPICAL, STARTS, dose),
        STEIN.level("transgene", DAYS, scaled, STARTS),
        rtol=1e-12,
    )
    assert STEIN.dose_effect is None


def test_a_dose_effect_may_act_on_another_parameter():
    model = STEIN.with_dose_effect(-0.5, reference=1e8, parameter="tmax")
    np.testing.assert_allclose(
        model.level("transgene", DAYS, TYPICAL, 0.0, jnp.array([4e8])),
        STEIN.level("transgene", DAYS, TYPICAL.replace(tmax=9.3 / 2)),
        rtol=1e-12,
    )


# --- gradients through the switch -----------------------------------------------------------------


class Growth(ck.Params):
    r0: ck.Scalar = ck.param(24_000 / 3_900, "copies/µg", "level at the infusion", "Stein 2019")
    rho: ck.Scalar = ck.param(float(np.log(3_900) / 9.3), "1/day", "growth rate", "Stein 2019")
    tmax: ck.Scalar = ck.param(9.3, "day", "time of the peak", "Stein 2019")
    alpha: ck.Scalar = ck.param(0.16, "1/day", "contraction rate", "Stein 2019")
    fb: ck.Scalar = ck.param(0.0079, "1", "share that persists", "Stein 2019", (0, 1))
    beta: ck.Scalar = ck.param(0.0032, "1/day", "loss rate", "Stein 2019")


def growth_rates(p):
    return {
        "cmax": p.r0 * jnp.exp(p.rho * p.tmax),
        "tmax": p.tmax,
        **{k: getattr(p, k) for k in ("rho", "alpha", "beta", "fb")},
    }


GROWTH = ck.ClosedForm(
    name="growth",
    params=Growth,
    outputs={"transgene": lambda t, p: piecewise.level(t, **growth_rates(p))},
    smooth={"transgene": lambda t, p: piecewise.smooth_level(t, **growth_rates(p))},
    units={"transgene": "copies/µg"},
)


def decline_rate(p, since_peak):
    """-d ln C / dt at this many days after the peak."""
    fast, slow = (1 - p.fb) * np.exp(-p.alpha * since_peak), p.fb * np.exp(-p.beta * since_peak)
    return (p.alpha * fast + p.beta * slow) / (fast + slow)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("fb", [1e-12, 0.0079])
def test_a_later_switch_means_longer_growth_and_later_decline(smooth, fb):
    """d ln C(28) / d tmax = rho + alpha where nothing persists (1.05 for Stein 2019).

    With a hard switch inside an ODE solver this gradient silently comes out without rho.
    """
    p = Growth(fb=fb)

    def log_level(tmax):
        return jnp.log(
            GROWTH.level("transgene", jnp.array([28.0]), p.replace(tmax=tmax), smooth=smooth)[0]
        )

    exact = p.rho + decline_rate(p, 28 - 9.3)
    if fb < 1e-9:
        assert exact == pytest.approx(p.rho + p.alpha, rel=1e-6)
        assert exact == pytest.approx(1.05, abs=0.005)
    assert float(jax.grad(log_level)(9.3)) == pytest.approx(exact, rel=1e-8)
    h = 1e-4
    central = (log_level(9.3 + h) - log_level(9.3 - h)) / (2 * h)
    assert float(central) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_with_its_peak_held_stein_only_declines_later(smooth):
    """Stein's own parameters keep cmax, so that d ln C(28) / d tmax is the decline rate alone."""

    def log_level(tmax):
        p = TYPICAL.replace(tmax=tmax)
        return jnp.log(STEIN.level("transgene", jnp.array([28.0]), p, smooth=smooth)[0])

    assert float(jax.grad(log_level)(9.3)) == pytest.approx(decline_rate(TYPICAL, 18.7), rel=1e-8)


# --- refusals and tables --------------------------------------------------------------------------


def test_wrong_definitions_and_requests_are_refused_with_what_is_known():
    fields = {"name": "mine", "params": Growth, "outputs": GROWTH.outputs}
    with pytest.raises(ck.ModelError, match="'mine': the output 'transgene' has no unit"):
        ck.ClosedForm(**fields, units={})
    with pytest.raises(ck.ModelError, match="`smooth` must have the same outputs"):
        ck.ClosedForm(**fields, units=GROWTH.units, smooth={"car_t": lambda t, p: t})
    with pytest.raises(ck.ModelError, match=r"no output 'car_t'; it has transgene \[copies/µg\]"):
        GROWTH.level("car_t", DAYS, Growth())
    with pytest.raises(ck.ModelError, match="no parameter 'peak'; known are r0, rho"):
        GROWTH.with_dose_effect(0.5, 1e8, parameter="peak")
    with pytest.raises(ck.ModelError, match="no parameter 'cmax'"):
        GROWTH.with_dose_effect(0.5, 1e8)
    dosed = GROWTH.with_dose_effect(0.5, 1e8, parameter="r0")
    with pytest.raises(ck.ModelError, match=r"dose effect on r0, so the amount"):
        dosed.level("transgene", DAYS, Growth())


def test_states_need_a_unit_and_describe_themselves():
    with pytest.raises(ck.ModelError, match="every state needs a unit and a meaning"):
        ck.state("", "effector cells")

    class Bare(ck.States):
        effector: float = 0.0

    with pytest.raises(ck.ModelError, match=r"Bare\.effector has no unit"):
        Bare.describe()
    table = piecewise.States.describe()
    assert list(table.index) == ["effector", "memory"]
    assert list(table.columns) == ["initial", "unit", "about", "integrated_as"]
    assert (table["initial"] == 0).all()
