"""NCA: exact curves, convergence, gradients, BLQ rules, and agreement with pkpdutils."""

import csv
import doctest
import types
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from carpk import nca
from carpk.errors import CarpkError, CarpkWarning

jax.config.update("jax_enable_x64", True)

REFERENCE = Path(__file__).parent / "reference" / "nca"
NAN = np.nan

# Rise to a peak on day 9, then decline; unevenly sampled, as in trials.
T = np.array([0.0, 1.0, 4.0, 7.0, 9.0, 11.0, 14.0, 21.0, 28.0])
C = np.array([40.0, 80.0, 630.0, 4900.0, 19500.0, 18300.0, 11400.0, 3800.0, 1400.0])

SCALARS = {
    "cmax": nca.cmax,
    "tmax": nca.tmax,
    "auc": nca.auc,
    "auc_last": nca.auc_last,
    "auc_to": nca.auc_to(20),
    "clast": nca.clast,
    "tlast": nca.tlast,
    "half_life": nca.half_life,
    "fold_expansion": nca.fold_expansion,
    "doubling_time": nca.doubling_time,
    "time_above": lambda t, c: nca.time_above(t, c, 500.0),
}


GRADIENTS = {name: jax.jit(jax.grad(f, argnums=(0, 1))) for name, f in SCALARS.items()}


# --- exact values ---------------------------------------------------------------------------------


def test_the_area_under_an_exponential_decline_is_exact():
    t = np.array([0.0, 0.3, 2.0, 9.0, 40.0])
    exact = 5.0 / 0.16 * (1 - np.exp(-0.16 * 40))
    assert nca.auc(t, 5.0 * np.exp(-0.16 * t)) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("rate", [1e-17, 1e-13, 1e-9, 1e-6, 9e-3, 1.1e-2, 30.0])
def test_area_and_its_gradient_stay_accurate_for_almost_flat_and_for_steep_declines(rate):
    """On one piece the area is (1 - exp(-rate)) / rate; `rate` enters through the last level."""

    def area(right):
        return nca.auc(jnp.array([0.0, 1.0]), jnp.stack([1.0, right]))

    right = np.exp(-rate)
    x = -np.log(right)  # the rate that survives rounding
    value = -np.expm1(-x) / x if x > 0 else 1.0
    assert area(right) == pytest.approx(value, rel=1e-14)
    series = 1 / 2 - x / 3 + x**2 / 8 - x**3 / 30 + x**4 / 144
    slope = series if x < 0.02 else (-np.expm1(-x) - x * right) / x**2
    assert jax.grad(area)(right) == pytest.approx(slope / right, rel=1e-9)


def test_the_area_of_a_rise_converges_with_order_two():
    def error(steps):
        t = np.linspace(0, 9, steps + 1)
        return abs(nca.auc(t, np.exp(0.7 * t)) - np.expm1(0.7 * 9) / 0.7)

    steps = [32, 64]
    slope = np.polyfit(np.log(steps), np.log([error(n) for n in steps]), deg=1)[0]
    assert -slope == pytest.approx(2.0, abs=0.05)


def test_partial_area_is_exact_inside_a_declining_piece():
    exact = 7.0 / 0.2 * (1 - np.exp(-0.2 * 11))
    for t in (np.array([0.0, 3.0, 30.0]), np.array([-5.0, 0.0, 4.0, 30.0])):
        assert nca.auc_to(11)(t, 7.0 * np.exp(-0.2 * t)) == pytest.approx(exact, rel=1e-14)


def test_partial_areas_add_up_to_the_whole():
    """Cutting anywhere, on a rise or on a decline, loses nothing: the curve is the same."""
    inserted = np.array(sorted({*T, 5.3, 17.9}))
    level = np.array([_level(day) for day in inserted])
    for day in (5.3, 9.0, 17.9, 28.0):
        whole = nca.auc(inserted, np.where(inserted <= day, level, NAN))
        assert nca.auc_to(day)(T, C) == pytest.approx(float(whole), rel=1e-13)


def _level(day):
    right = min(np.searchsorted(T, day), T.size - 1)
    if T[right] == day:
        return C[right]
    share = (day - T[right - 1]) / (T[right] - T[right - 1])
    if C[right] < C[right - 1]:
        return C[right - 1] ** (1 - share) * C[right] ** share
    return C[right - 1] * (1 - share) + C[right] * share


def test_partial_area_is_nan_when_the_data_stop_before_its_day():
    assert np.isnan(nca.auc_to(28.1)(T, C))
    assert np.isfinite(nca.auc_to(28)(T, C))
    assert np.isnan(nca.auc_to(28)(T, np.where(T == 28, NAN, C)))


def test_partial_area_forgives_rounding_of_its_last_day():
    since_infusion = (T + 7.3) - 7.3
    assert since_infusion[-1] < 28
    assert np.isfinite(nca.auc_to(28)(since_infusion, C))


def test_partial_area_starts_at_day_0_from_the_initial_level():
    t, c = np.array([-2.0, -1.0, 4.0, 10.0]), np.array([9.0, 0.0, 10.0, 10.0])
    late = t[2:], c[2:]
    assert nca.auc_to(10)(t, c) == nca.auc_to(10)(*late) == pytest.approx(20 + 60)
    assert nca.auc_to(10, initial=10.0)(*late) == pytest.approx(100)
    assert np.isnan(nca.auc_to(10, initial=None)(*late))


def test_partial_areas_are_named_for_their_day_and_made_once():
    assert nca.auc_to(28).__name__ == "auc_to_28"
    assert nca.auc_to(0.5).__name__ == "auc_to_0.5"
    assert nca.auc_to(28) is nca.auc_to(28.0)
    assert nca.auc_to(28) is not nca.auc_to(28, lloq=50)


def test_peak_and_last_level_are_read_off_the_curve():
    c = np.array([1.0, 6.0, 6.0, 3.0, 2.0])
    t = np.array([0.0, 2.0, 5.0, 9.0, 14.0])
    assert (nca.cmax(t, c), nca.tmax(t, c)) == (6.0, 2.0)
    assert (nca.clast(t, c), nca.tlast(t, c)) == (2.0, 14.0)
    assert (nca.clast(t, c, 3.0), nca.tlast(t, c, 3.0)) == (3.0, 9.0)


def test_terminal_phase_is_found_behind_a_contraction():
    """Two exact phases: the contraction ends on day 20, and only the later points fit a line."""
    t = np.array([0.0, 5.0, 8.0, 12.0, 16.0, 20.0, 40.0, 80.0, 160.0])
    c = np.where(t <= 20, np.exp(-0.3 * (t - 20)), np.exp(-0.01 * (t - 20)))
    c[0] = 1.0
    terminal = nca.lambda_z(t, c)
    assert terminal.lambda_z == pytest.approx(0.01, rel=1e-12)
    assert terminal.half_life == pytest.approx(np.log(2) / 0.01, rel=1e-12)
    assert (terminal.points, terminal.start, terminal.stop) == (4, 20.0, 160.0)
    assert terminal.r2_adjusted == pytest.approx(1.0, abs=1e-12)


def test_of_equally_good_windows_the_longest_is_taken():
    t = np.arange(10.0)
    c = np.exp(-0.2 * t) * np.where(t < 4, 1.001, 1.0)
    assert nca.lambda_z(t, c).points == 9
    assert nca.lambda_z(t, c, tie_tolerance=0.0).points <= 6


def test_the_regression_keeps_its_digits_far_from_time_zero():
    t = 1e6 + np.arange(6.0)
    c = 1e-200 * np.exp(-0.3 * (t - 1e6))
    assert nca.lambda_z(t, c).lambda_z == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize(
    ("claim", "c"),
    [
        ("two points after Tmax", [1.0, 5.0, 9.0, 4.0, 2.0]),
        ("a rise until the end", [1.0, 2.0, 3.0, 4.0, 5.0]),
        ("a rise after the fall", [9.0, 1.0, 2.0, 4.0, 8.0]),
        ("no change after Tmax", [1.0, 3.0, 2.0, 2.0, 2.0]),
        ("nothing quantifiable", [0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_no_half_life_is_made_up_from(claim, c):
    terminal = nca.lambda_z(np.arange(5.0), np.array(c))
    assert terminal.points == 0, claim
    assert all(np.isnan(terminal[i]) for i in (0, 1, 3, 4, 5)), claim


def test_doubling_time_is_that_of_the_expansion():
    t = np.array([0.0, 1.0, 4.0, 7.0, 10.0, 30.0])
    c = np.append(3.0 * 2 ** (t[:-1] / 0.78), 1.0)
    assert nca.doubling_time(t, c) == pytest.approx(0.78, rel=1e-13)
    assert nca.fold_expansion(t, c) == pytest.approx(2 ** (10 / 0.78), rel=1e-13)


def test_doubling_time_weighs_every_level_up_to_tmax():
    """ln 1, ln 2, ln 8 on days 0, 1, 2: the slope is 3/2 ln 2. The level after Tmax is left out."""
    t, c = np.arange(4.0), np.array([1.0, 2.0, 8.0, 7.0])
    assert nca.doubling_time(t, c) == pytest.approx(2 / 3, rel=1e-13)


def test_doubling_time_needs_two_quantifiable_levels_and_a_rise():
    t = np.array([0.0, 1.0, 2.0])
    assert np.isnan(nca.doubling_time(t, np.array([0.0, 9.0, 3.0])))
    assert np.isnan(nca.doubling_time(t, np.array([9.0, 8.0, 3.0])))
    assert np.isnan(nca.doubling_time(t, np.zeros(3)))


def test_fold_expansion_starts_at_the_first_quantifiable_level():
    t, c = np.array([0.0, 2.0, 4.0, 9.0]), np.array([20.0, 60.0, 50.0, 600.0])
    assert nca.fold_expansion(t, c) == pytest.approx(30)
    assert nca.fold_expansion(t, c, lloq=50.0) == pytest.approx(10)
    assert np.isnan(nca.fold_expansion(t, c, lloq=1000.0))


def test_fold_expansion_is_missing_where_the_rise_was_not_observed():
    assert np.isnan(nca.fold_expansion([6.0, 13.0, 20.0], [0.0, 600.0, 300.0], lloq=0.05))
    assert np.isnan(nca.fold_expansion([19.0, 25.0], [200.0, 90.0]))


def test_a_baseline_sample_enters_no_quantity_that_starts_with_the_infusion():
    """Day 0 was not sampled: its level is that at the infusion, and not between the two samples."""
    t, c = np.array([-1.0, 7.0, 14.0, 28.0]), np.array([8.0, 4.0, 100.0, 100.0])
    assert nca.auc_to(28)(t, c) == nca.auc_to(28)(t[1:], c[1:])
    assert np.isnan(nca.auc_to(28, initial=None)(t, c))
    assert nca.auc_last(t, c, initial=0.0) == nca.auc_last(t[1:], c[1:], initial=0.0)
    assert nca.auc_last(t, c) == nca.auc(t, c)
    assert nca.fold_expansion(t, c) == nca.fold_expansion(t[1:], c[1:])
    assert nca.doubling_time(t, c) == nca.doubling_time(t[1:], c[1:])


def test_an_unknown_limit_is_no_limit():
    t, c, unknown = np.arange(6.0), np.array([1.0, 2.0, 64.0, 16.0, 4.0, 1.0]), np.nan
    assert nca.apply_blq(c, np.full(6, unknown)).tolist() == c.tolist()
    assert nca.apply_blq([1.0, 60.0, 2.0], [unknown, 50.0, 50.0]).tolist() == [1.0, 60.0, 0.0]
    for name in ("auc_last", "clast", "tlast", "half_life", "fold_expansion", "doubling_time"):
        assert getattr(nca, name)(t, c, lloq=unknown) == getattr(nca, name)(t, c), name
    assert nca.auc_to(5, lloq=unknown)(t, c) == nca.auc_to(5)(t, c)
    assert np.isnan(nca.time_above(t, c, unknown))


@pytest.mark.parametrize("name", ["cmax", "tmax", "auc", "auc_last", "clast", "half_life"])
def test_negative_levels_without_a_limit_are_refused(name):
    with pytest.raises(CarpkError, match="number 2 of 3 is -4"):
        getattr(nca, name)([0.0, 1.0, 2.0], [1.0, -4.0, 2.0])


def test_a_negative_level_below_a_known_limit_follows_the_rule():
    t, c = np.arange(4.0), np.array([-3.0, 60.0, -2.0, 90.0])
    assert nca.apply_blq(c, 50.0).tolist()[:2] == [0.0, 60.0]
    assert nca.auc_last(t, c, 50.0) == nca.auc_last(t, np.maximum(c, 0.0), 50.0)
    with pytest.raises(CarpkError, match="number 3 of 4 is -2"):
        nca.auc_last(t, c, np.array([50.0, 50.0, np.nan, 50.0]))


def test_time_above_crosses_on_the_curve_whose_area_is_taken():
    """Rise 0 to 10 on a line: above 5 from day 1. Fall on an exponential: until day 2 + 3 ln 2."""
    t, c = np.array([0.0, 2.0, 8.0]), np.array([0.0, 10.0, 10 * np.exp(-2)])
    assert nca.time_above(t, c, 5.0) == pytest.approx(1 + 3 * np.log(2), rel=1e-13)
    assert nca.time_above(t, np.array([0.0, 10.0, 0.0]), 5.0) == pytest.approx(1 + 3)
    assert nca.time_above(t, c, 1.0) == pytest.approx(0.9 * 2 + 6)
    assert nca.time_above(t, c, 11.0) == 0
    assert nca.time_above(t, c, 0.0) == pytest.approx(8)
    assert nca.time_above(t, np.zeros(3), 0.0) == 0


# --- transformations ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALARS)
def test_missing_points_are_ignored_wherever_they_stand(name):
    gaps_t, gaps_c = [NAN, 0.5, NAN], [7.0, NAN, NAN]
    start = T + 3
    t = np.array([*gaps_t, *start[:4], *gaps_t[:1], *start[4:], NAN, 400.0])
    c = np.array([*gaps_c, *C[:4], *gaps_c[:1], *C[4:], 1e9, NAN])
    assert SCALARS[name](t, c) == pytest.approx(float(SCALARS[name](start, C)), rel=1e-14)


@pytest.mark.parametrize("name", SCALARS)
def test_a_curve_without_observations_has_no_value(name):
    assert np.isnan(SCALARS[name](T, np.full_like(C, NAN)))


@pytest.mark.parametrize("name", SCALARS)
def test_jit_and_vmap_change_nothing(name):
    f = SCALARS[name]
    curves = np.stack([C, C[::-1], np.where(T == 7, NAN, C), np.where(T > 9, 0.0, C)])
    one_by_one = [float(f(T, c)) for c in curves]
    together = jax.jit(jax.vmap(f, in_axes=(None, 0)))(T, jnp.asarray(curves))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-13)


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize(
    "c",
    [
        C,
        np.where(T < 5, 0.0, C),
        np.where(T > 10, 0.0, C),
        np.zeros_like(C),
        np.ones_like(C),
        np.where(T == 7, NAN, C),
        np.full_like(C, NAN),
    ],
    ids=["plain", "zeros-first", "zeros-last", "zeros", "flat", "gap", "empty"],
)
def test_gradients_are_finite(name, c):
    for gradient in GRADIENTS[name](jnp.asarray(T), jnp.asarray(c)):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", SCALARS)
def test_gradients_are_those_of_finite_differences(name):
    f, step = SCALARS[name], 1e-6
    _, gradient = GRADIENTS[name](jnp.asarray(T), jnp.asarray(C))
    for i in range(C.size):
        nudge = np.where(np.arange(C.size) == i, step * C, 0.0)
        slope = (f(T, C + nudge) - f(T, C - nudge)) / (2 * step * C[i])
        assert gradient[i] * C[i] == pytest.approx(float(slope) * C[i], rel=1e-5, abs=1e-4)


def test_nothing_depends_on_implicit_promotion():
    with jax.numpy_dtype_promotion("strict"):
        for f in SCALARS.values():
            assert f(T.astype(int).tolist(), C.astype(int).tolist()).dtype == jnp.float64
        assert nca.lambda_z(T.astype(np.float32), C.astype(int), 50).points == 4


# --- below the limit of quantification ------------------------------------------------------------

BT = np.array([0.0, 2.0, 5.0, 9.0, 14.0, 21.0, 28.0, 35.0])
BC = np.array([30.0, 40.0, 200.0, 900.0, 20.0, 300.0, 45.0, 10.0])  # LLOQ 50: low at 5 of 8 times


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [0, 0, 200, 900, NAN, 300, 0, 0]),
        ({"before": "drop"}, [NAN, NAN, 200, 900, NAN, 300, 0, 0]),
        ({"before": "half"}, [25, 25, 200, 900, NAN, 300, 0, 0]),
        ({"between": "zero"}, [0, 0, 200, 900, 0, 300, 0, 0]),
        ({"between": "half"}, [0, 0, 200, 900, 25, 300, 0, 0]),
        ({"after": "drop"}, [0, 0, 200, 900, NAN, 300, NAN, NAN]),
        ({"after": "half"}, [0, 0, 200, 900, NAN, 300, 25, 25]),
    ],
)
def test_each_blq_rule_acts_on_its_part_of_the_curve(rule, expected):
    np.testing.assert_array_equal(nca.apply_blq(BC, 50.0, nca.BLQ(**rule)), expected)


def test_area_to_the_last_level_has_zeros_first_and_nothing_after():
    by_hand = nca.auc(np.array([0, 2, 5, 9, 21.0]), np.array([0, 0, 200, 900, 300.0]))
    assert nca.auc_last(BT, BC, 50.0) == pytest.approx(float(by_hand), rel=1e-14)
    kept = nca.auc_last(BT, BC, 50.0, blq=nca.BLQ(between="half", after="half"))
    by_hand = nca.auc(np.array([0, 2, 5, 9, 14, 21.0]), np.array([0, 0, 200, 900, 25, 300.0]))
    assert kept == pytest.approx(float(by_hand), rel=1e-14)


def test_area_to_the_last_level_can_start_at_day_0():
    t, c = np.array([4.0, 10.0]), np.array([10.0, 10.0])
    assert nca.auc_last(t, c) == pytest.approx(60)
    assert nca.auc_last(t, c, initial=0.0) == pytest.approx(80)


def test_a_patient_whose_cells_vanish_still_has_an_area_to_day_28():
    to_zero = (200 * 3 / 2 + 4 * 550) + float(nca.auc([9.0, 21.0], [900.0, 300.0])) + 7 * 300 / 2
    assert nca.auc_to(28, lloq=50)(BT, BC) == pytest.approx(to_zero, rel=1e-13)
    assert np.isnan(nca.auc_to(28, lloq=50, blq=nca.BLQ(after="drop"))(BT, BC))


def test_half_life_and_doubling_time_see_only_quantifiable_levels():
    t = np.array([0.0, 2.0, 4.0, 7.0, 10.0, 14.0, 17.0, 21.0, 28.0])
    c = np.array([3.0, 64.0, 256.0, 4096.0, 2048.0, 9.0, 1024.0, 512.0, 11.0])
    keep = c >= 50
    assert nca.half_life(t, c, 50.0) == nca.half_life(t[keep], c[keep])
    assert nca.doubling_time(t, c, 50.0) == nca.doubling_time(t[keep], c[keep])
    assert nca.lambda_z(t, c, 50.0).stop == 21
    assert nca.lambda_z(t, c, 50.0).points == 3


def test_without_a_limit_zero_is_still_not_quantifiable():
    t, c = np.arange(4.0), np.array([0.0, 4.0, 2.0, 0.0])
    assert (nca.tlast(t, c), nca.clast(t, c)) == (2.0, 2.0)
    assert nca.auc_last(t, c) == pytest.approx(2 + 2 / np.log(2))
    assert nca.auc(t, c) == pytest.approx(2 + 2 / np.log(2) + 1)


def test_without_a_limit_zeros_between_two_infusions_count_as_they_are():
    t, c = np.arange(0.0, 35.0, 7.0), np.array([0.0, 4.0, 0.0, 0.0, 4.0])
    np.testing.assert_array_equal(nca.apply_blq(c), c)
    assert nca.auc_to(28)(t, c) == nca.auc_last(t, c) == nca.auc(t, c) == 7 * 6
    assert nca.auc_to(28, lloq=1.0)(t, c) == 7 * (2 + 12)


def test_a_curve_entirely_below_the_limit_has_no_area_and_no_times():
    assert nca.auc_last(BT, BC, 1e6) == 0
    assert nca.auc_to(28, lloq=1e6)(BT, BC) == 0
    assert np.isnan(nca.tlast(BT, BC, 1e6))


def test_the_limit_may_differ_between_observations():
    lloq = np.where(BT < 10, 10.0, 50.0)
    assert nca.fold_expansion(BT, BC, lloq) == pytest.approx(900 / 30)
    assert nca.tlast(BT, BC, lloq) == 21


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "c", "says"),
    [
        ([0.0, 2.0, 1.0], [1.0, 2.0, 3.0], "goes back from 2 to 1"),
        ([0.0, 1.0, 1.0], [1.0, 2.0, 3.0], "repeats from 1 to 1"),
        ([0.0, 1.0], [1.0, 2.0, 3.0], "same length"),
        ([[0.0, 1.0]], [[1.0, 2.0]], "jax.vmap"),
        ([], [], "same length"),
    ],
)
@pytest.mark.parametrize("name", SCALARS)
def test_unusable_curves_are_refused_with_advice(name, t, c, says):
    with pytest.raises(CarpkError, match=says):
        SCALARS[name](np.array(t), np.array(c))


def test_unsorted_times_are_refused_under_a_traced_level_too():
    with pytest.raises(CarpkError, match="goes back"):
        jax.grad(nca.auc, argnums=1)(np.array([0.0, 2.0, 1.0]), jnp.ones(3))


def test_a_repeated_time_without_a_level_is_no_error():
    assert nca.auc(np.array([0.0, 1.0, 1.0]), np.array([1.0, NAN, 1.0])) == 1.0


def test_impossible_settings_are_refused_with_advice():
    with pytest.raises(CarpkError, match="`after` must be one of 'zero', 'half', 'drop'"):
        nca.BLQ(after="lloq")
    with pytest.raises(CarpkError, match="`day`"):
        nca.auc_to(0)
    with pytest.raises(CarpkError, match="`min_points`"):
        nca.lambda_z(T, C, min_points=2)
    with pytest.raises(CarpkError, match="`lloq`"):
        nca.tlast(T, C, np.ones(3))


# --- another program ------------------------------------------------------------------------------


def _read(name, keys, value):
    with (REFERENCE / name).open() as file:
        table = defaultdict(dict)
        for row in csv.DictReader(file):
            table[row["curve"]][row[keys]] = float(row[value])
    return table


CURVES = _read("curves.csv", "time", "value")
PKPDUTILS = _read("pkpdutils.csv", "quantity", "value")
LLOQ = 50.0


def _padded(curve, length=16):
    """Times and levels as arrays of one length, so that all curves share one compilation."""
    t, c = np.full((2, length), NAN)
    t[: len(curve)], c[: len(curve)] = [float(day) for day in curve], [*curve.values()]
    return t, c


@pytest.mark.parametrize("name", CURVES)
def test_agrees_with_pkpdutils(name):
    """All where conventions coincide; see the two tests below for the two that differ.

    pkpdutils with the ICH M13A rule set and without a dose starts areas at the first sample, as
    carpk does; with an extravascular dose it puts a 0 at day 0, as `initial=0.0` does.
    """
    t, c = _padded(CURVES[name])
    ruled = nca.apply_blq(c, LLOQ)
    terminal = nca.lambda_z(t, c, LLOQ)
    ours = {
        "cmax": nca.cmax(t, ruled),
        "tmax": nca.tmax(t, ruled),
        "clast": nca.clast(t, c, LLOQ),
        "tlast": nca.tlast(t, c, LLOQ),
        "auc_last": nca.auc_last(t, c, LLOQ),
        "auc_all": nca.auc(t, ruled),
        "lambda_z": terminal.lambda_z,
        "thalf": terminal.half_life,
        "lambda_z_n_points": terminal.points if terminal.points > 0 else NAN,
        "lambda_z_t_first": terminal.start,
        "lambda_z_t_last": terminal.stop,
        "lambda_z_r2_adj": terminal.r2_adjusted,
        "auc_last_from_0": nca.auc_last(t, c, LLOQ, initial=0.0),
        "auc_0_10_from_0": nca.auc_to(10, lloq=LLOQ)(t, c),
        "auc_0_28_from_0": nca.auc_to(28, lloq=LLOQ)(t, c),
    }
    theirs = PKPDUTILS[name]
    assert set(theirs) == {*ours, "time_above_linear"}
    for quantity, value in ours.items():
        assert value == pytest.approx(theirs[quantity], rel=1e-6, nan_ok=True), quantity


@pytest.mark.parametrize("name", CURVES)
def test_time_above_differs_from_pkpdutils_only_where_the_curve_falls_through_the_limit(name):
    """pkpdutils crosses on straight lines; an exponential lies below its chord, so crosses before.

    Where the crossings are rises, or falls to a BLQ set to 0, both are lines and agree.
    """
    t, c = _padded(CURVES[name])
    ours = nca.time_above(t, nca.apply_blq(c, LLOQ), LLOQ)
    assert ours == pytest.approx(PKPDUTILS[name]["time_above_linear"], rel=1e-6)
    falling = nca.time_above(np.array([0.0, 2.0]), np.array([400.0, 10.0]), LLOQ)
    assert falling < 2 * (400 - LLOQ) / (400 - 10)


# --- tables ---------------------------------------------------------------------------------------


def dataset(**changes):
    """Patient A: two infusions on days 0 and 42. Patient B: one, censored at the end."""
    a1 = [(d, v, 0) for d, v in zip(T, C, strict=True)]
    a2 = [(42, 500, 0), (49, 5000, 0), (52, 9000, 0), (60, 3000, 0), (70, 900, 0), (84, 90, 0)]
    b = [(-3, 50, 1), (4, 400, 0), (9, 4000, 0), (14, 100, 0), (21, 50, 1), (30, 50, 1)]
    rows = [("A", *row) for row in [*a2, *a1]] + [("B", *row) for row in b]
    observations = pd.DataFrame(rows, columns=["patient", "time", "value", "censored"])
    observations = observations.sample(frac=1, random_state=0)  # no order is relied on
    observations = observations.assign(analyte="transgene", unit="copies/µg", lloq=50.0)
    doses = pd.DataFrame(
        [
            ("A", -5, "flu", 30.0, "mg/m2", 0.02),
            ("A", 0, "x19", 1e8, "cells", 0.0),
            ("A", 42, "x22", 1e8, "cells", 0.0),
            ("B", 0, "x19", 2e6, "cells/kg", 0.0),
        ],
        columns=["patient", "time", "product", "amount", "unit", "duration"],
    )
    patients = pd.DataFrame({"patient": ["A", "B"], "cohort": ["Flu/Cy", "Flu"]})
    parts = {"observations": observations, "doses": doses, "patients": patients}
    return types.SimpleNamespace(**{**parts, **changes})


def test_the_table_has_a_row_per_patient_and_infusion():
    table = nca.table(dataset())
    assert table[["patient", "infusion", "day"]].to_numpy().tolist() == [
        ["A", 1, 0.0],
        ["A", 2, 42.0],
        ["B", 1, 0.0],
    ]
    assert set(table["METHOD"].str.slice(0, 15)) == {"linear-up/log-d"}
    assert table["BLQRULE"].str.contains("between: dropped").all()
    assert table.attrs["units"]["AUCLST"] == "day*copies/µg"
    assert table.attrs["units"]["CMAX"] == "copies/µg"


def extrapolated(t, c, start):
    """Areas to infinity as PKNCA defines them, written with NumPy alone."""
    area = t[0] * (start + c[0]) / 2
    for width, left, right in zip(np.diff(t), c, c[1:], strict=False):
        falls = 0 < right < left
        area += width * ((left - right) / np.log(left / right) if falls else (left + right) / 2)
    best = None
    for n in range(3, len(t) - int(np.argmax(c))):
        x, y = t[-n:], np.log(c[-n:])
        slope, height = np.polyfit(x, y, 1)
        r2 = np.corrcoef(x, y)[0, 1] ** 2
        adjusted = 1 - (1 - r2) * (n - 1) / (n - 2)
        if slope < 0 and (best is None or adjusted > best[0] - 1e-4):
            highest = max(adjusted, best[0] if best else adjusted)
            best = (highest, -slope, np.exp(height + slope * t[-1]))
    _, rate, predicted = best
    found = {}
    for end, last in (("O", c[-1]), ("P", predicted)):
        found[f"AUCIF{end}"] = area + last / rate
        found[f"AUCPE{end}"] = 100 * last / rate / (area + last / rate)
    return found


def oral(**changes):
    """Two patients with a drug by mouth, in closed form: 100 mg and 50 mg, ke = 0.3, V = 10."""
    days = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0])
    rows, doses = [], []
    for patient, amount in (("A", 100.0), ("B", 50.0)):
        level = amount / 10 * 4 / (4 - 0.3) * (np.exp(-0.3 * days) - np.exp(-4 * days))
        rows += [(patient, d, v, 0) for d, v in zip(days, level, strict=True)]
        doses.append((patient, 0.0, "pill", amount, "mg", 0.0))
    observations = pd.DataFrame(rows, columns=["patient", "time", "value", "censored"])
    observations = observations.assign(analyte="pill", unit="mg/L", lloq=1e-3)
    names = ["patient", "time", "product", "amount", "unit", "duration"]
    doses = pd.DataFrame(doses, columns=names)
    parts = {"observations": observations, "doses": doses}
    return types.SimpleNamespace(
        **{**parts, "patients": pd.DataFrame({"patient": ["A", "B"]}), **changes}
    )


def test_a_drug_has_areas_to_infinity_and_values_per_dose():
    table = nca.table(oral())
    assert table["AUCIFO"].tolist() == pytest.approx([100 / 3, 50 / 3], rel=0.03)  # dose over CL
    assert table["LAMZ"].tolist() == pytest.approx([0.3, 0.3], rel=1e-2)
    assert table["AUCIFOD"][0] == pytest.approx(table["AUCIFOD"][1], rel=1e-12)
    assert table["CMAXD"].tolist() == pytest.approx((table["CMAX"] / [100, 50]).tolist())
    assert table.attrs["units"]["AUCIFOD"] == "day*mg/L/(mg)"
    for patient, row in table.set_index("patient").iterrows():
        own = oral().observations
        own = own[own["patient"] == patient]
        right = extrapolated(own["time"].to_numpy(), own["value"].to_numpy(), 0.0)
        assert {k: row[k] for k in right} == pytest.approx(right, rel=1e-11)


def test_the_product_of_the_analyte_opens_the_intervals_and_another_one_does_not():
    more = pd.concat([oral().doses, oral().doses.assign(time=3.0, product="other")])
    assert nca.table(oral(doses=more))["infusion"].tolist() == [1, 1]
    assert nca.table(oral(doses=more), product="other")["day"].tolist() == [3, 3]
    often = pd.concat([oral().doses, oral().doses.assign(time=0.6)])
    assert nca.table(oral(doses=often))["day"].tolist() == [0, 0.6] * 2
    assert nca.table(oral(doses=often), bags_within=1.0)["AUCIFOD"].notna().sum() == 2
    with pytest.raises(CarpkError, match="'x' was not given; it must be one of 'pill'"):
        nca.table(oral(), product="x")


def test_a_summary_has_the_statistics_of_a_paper():
    table = nca.table(dataset(), by="cohort")
    told = nca.summary(table, by="cohort", parameters=["CMAX", "TMAX"])
    x = np.array([19500.0, 9000.0])
    row = told.loc[("Flu/Cy", "CMAX")]
    assert row["unit"] == "copies/µg"
    assert row["n"] == 2
    assert row["geometric_mean"] == pytest.approx(np.sqrt(x.prod()))
    cv = 100 * np.sqrt(np.exp(np.var(np.log(x), ddof=1)) - 1)
    assert row["geometric_cv_percent"] == pytest.approx(cv)
    assert row[["mean", "median", "min", "max"]].tolist() == [14250, 14250, 9000, 19500]
    assert told.loc[("Flu", "CMAX"), ["n", "sd"]].tolist() == pytest.approx([1, NAN], nan_ok=True)
    none = nca.summary(table.assign(CMAX=[0.0, 1.0, 2.0]), parameters=["CMAX"]).loc["CMAX"]
    assert np.isnan(none["geometric_mean"])
    assert none["mean"] == 1
    assert "CMAX" in told.to_csv()
    with pytest.raises(CarpkError, match="no column 'CMX'"):
        nca.summary(table, parameters=["CMX"])


def test_the_table_is_what_the_functions_say():
    row = nca.table(dataset()).iloc[0]
    t, c = np.append(T, 42.0), np.append(C, 500.0)  # the trough of the second infusion
    terminal = nca.lambda_z(t, c, 50.0)
    expected = {
        "CMAX": nca.cmax(t, c),
        "TMAX": nca.tmax(t, c),
        "CLST": nca.clast(t, c, 50.0),
        "TLST": nca.tlast(t, c, 50.0),
        "AUCLST": nca.auc_last(t, c, 50.0),
        **extrapolated(t, np.where(c < 50, 0.0, c), 0.0),
        "AUC0_28D": nca.auc_to(28, lloq=50)(t, c),
        "LAMZ": terminal.lambda_z,
        "LAMZHL": terminal.half_life,
        "LAMZNPT": terminal.points,
        "LAMZLL": terminal.start,
        "LAMZUL": terminal.stop,
        "LAMZSPN": (terminal.stop - terminal.start) / terminal.half_life,
        "R2ADJ": terminal.r2_adjusted,
        "CMAXD": NAN,  # doses are in cells and in cells/kg
        "AUCLSTD": NAN,
        "AUCIFOD": NAN,
        "FOLDX": nca.fold_expansion(t, c, 50.0),
        "DBLTIME": nca.doubling_time(t, c, 50.0),
        "TABOVE": nca.time_above(t, nca.apply_blq(c, 50.0), 50.0),
    }
    assert [*row.index[4:-7]] == [*expected]
    for name, value in expected.items():
        assert row[name] == pytest.approx(float(value), rel=1e-11, nan_ok=True), name


def test_days_count_from_the_infusion_up_to_the_next():
    table = nca.table(dataset()).set_index(["patient", "infusion"])
    assert table.loc[("A", 1), ["TLST", "CLST"]].tolist() == [42, 500]  # taken before the second
    assert table.loc[("A", 2), "TMAX"] == 10
    assert table.loc[("A", 2), "CMAX"] == 9000
    assert table.loc[("A", 2), "TLST"] == 42
    assert np.isfinite(table.loc[("A", 2), "AUC0_28D"])


def curve_after(*given, samples=((1, 5.0), (7, 100.0), (14, 50.0), (28, 20.0), (35, 300.0))):
    """A data set of one patient, given bags of cells on these days."""
    seen = pd.DataFrame(samples, columns=["time", "value"])
    seen = seen.assign(patient="p", analyte="car_t", unit="cells/µL", lloq=1.0, censored=0)
    doses = pd.DataFrame({"patient": "p", "time": given, "product": "car_t", "unit": "cells"})
    return types.SimpleNamespace(observations=seen, doses=doses.assign(amount=1e8))


def month():
    """AUC0-28d of `curve_after`, written out: two rises, two declines."""

    def fall(high, low, days):
        return (high - low) / np.log(high / low) * days

    return 5 / 2 + 105 / 2 * 6 + fall(100, 50, 7) + fall(50, 20, 14)


@pytest.mark.parametrize("away", [0.0, 4e-15, -4e-15])
def test_the_trough_before_the_next_infusion_closes_the_interval(away):
    """Also where rounding moves one of the two."""
    first, second = nca.table(curve_after(0.0, 28.0 + away)).to_dict("records")
    assert first["AUC0_28D"] == pytest.approx(month(), rel=1e-12)
    assert (first["TLST"], first["CLST"]) == (28.0, 20.0)
    assert (second["TMAX"], second["CMAX"]) == (pytest.approx(7.0), 300.0)
    assert second["AUCLST"] == pytest.approx((20 + 300) / 2 * 7, rel=1e-12)


@pytest.mark.parametrize(
    ("bags", "within", "rows"),
    [
        ((0.0, 0.04), 1.0, 1),
        ((0.0, 0.04, 0.9), 1.0, 1),
        ((0.0, 0.5), 0.2, 2),
        ((0.0, 1.0), 1.0, 2),
        ((0.0, 0.0), 0.0, 1),
        ((0.0, 0.04, 28.0, 28.02), 1.0, 2),
        ((0.0, 0.7, 1.4), 1.0, 2),  # counted from the first bag of each
    ],
)
def test_bags_within_a_day_are_one_infusion(bags, within, rows):
    table = nca.table(curve_after(*bags), bags_within=within)
    assert len(table) == rows
    assert table["day"].iloc[0] == 0.0
    if bags in ((0.0, 0.04), (0.0, 0.04, 28.0, 28.02)):
        assert table["AUC0_28D"].iloc[0] == pytest.approx(month(), rel=1e-12)


def test_an_infusion_of_several_bags_is_labelled_by_all_of_them():
    data = curve_after(0.0, 0.04)
    data.doses["product"] = ["x19", "x22"]
    assert nca.table(data, by="product")["product"].tolist() == ["x19 + x22"]


def test_a_late_first_sample_starts_from_the_level_before_the_infusion():
    data = dataset()
    data.observations = data.observations[data.observations["time"] != 42]
    row = nca.table(data).iloc[1]
    t, c = np.array([0, 7, 10, 18, 28.0]), np.array([1400, 5000, 9000, 3000, 900.0])
    assert row["AUC0_28D"] == pytest.approx(float(nca.auc(t, c)), rel=1e-12)
    assert row["FOLDX"] == pytest.approx(9000 / 5000)
    c[0] = 0
    for column, below in (("value", 20.0), ("censored", 1)):
        data.observations.loc[data.observations["time"] == 28, column] = below
        row = nca.table(data).iloc[1]
        assert row["AUC0_28D"] == pytest.approx(float(nca.auc(t, c)), rel=1e-12), column


def test_a_censored_value_is_not_a_level_at_the_limit():
    row = nca.table(dataset()).iloc[2]
    assert (row["TLST"], row["CLST"]) == (14, 100)
    t, c = np.array([0, 4, 9, 14, 21, 30.0]), np.array([0, 400, 4000, 100, 0, 0.0])
    assert row["AUCLST"] == pytest.approx(float(nca.auc(t[:4], c[:4])), rel=1e-12)
    assert row["AUC0_28D"] == pytest.approx(float(nca.auc(t, c)), rel=1e-12)
    assert row["TABOVE"] == pytest.approx(float(nca.time_above(t, c, 50.0)), rel=1e-12)
    assert row["LAMZNPT"] == 0
    assert np.isnan(row["LAMZHL"])


def test_an_unknown_limit_is_read_from_the_censored_values():
    data = dataset()
    data.observations["lloq"] = NAN
    table = nca.table(data)
    assert table["TLST"].tolist() == nca.table(dataset())["TLST"].tolist()
    assert np.isnan(table["TABOVE"]).tolist() == [True, True, False]


def test_a_patient_who_never_had_measurable_cells_has_zero_exposure_and_no_times():
    data = dataset()
    data.observations.loc[data.observations["patient"] == "B", ["value", "censored"]] = (50, 1)
    row = nca.table(data).iloc[2]
    zero = ["CMAX", "AUCLST", "AUC0_28D", "TABOVE"]
    assert row[zero].tolist() == [0, 0, 0, 0]
    assert row[["TMAX", "TLST", "CLST", "FOLDX", "DBLTIME"]].isna().all()


def test_an_infusion_without_observations_keeps_an_empty_row():
    data = dataset()
    data.doses.loc[len(data.doses)] = ["A", 200, "x19", 1e8, "cells", 0.0]
    table = nca.table(data)
    assert table.loc[table["day"] == 200, ["CMAX", "AUCLST", "TABOVE"]].isna().all(axis=None)


def test_by_adds_columns_of_doses_and_patients_and_sorts():
    table = nca.table(dataset(), by=["cohort", "product"])
    assert table[["cohort", "product", "patient"]].to_numpy().tolist() == [
        ["Flu", "x19", "B"],
        ["Flu/Cy", "x19", "A"],
        ["Flu/Cy", "x22", "A"],
    ]
    with pytest.raises(CarpkError, match="'arm' is unknown"):
        nca.table(dataset(), by="arm")


def test_the_blq_rule_of_a_table_can_be_chosen():
    table = nca.table(dataset(), blq=nca.BLQ(after="drop"))
    assert np.isnan(table.loc[2, "AUC0_28D"])
    assert "dropped in partial areas" in table.loc[2, "BLQRULE"]


def test_unusable_data_sets_are_refused_with_advice():
    two = dataset()
    two.observations.loc[0, "analyte"] = "il6"
    with pytest.raises(CarpkError, match="choose one of 'il6', 'transgene'"):
        nca.table(two)
    with pytest.raises(CarpkError, match="'il7' is unknown"):
        nca.table(two, "il7")
    assert nca.table(two, "transgene")["analyte"].tolist() == ["transgene"] * 3
    units = dataset()
    units.observations.loc[0, "unit"] = "cells/µL"
    with pytest.raises(CarpkError, match="2 units"):
        nca.table(units)
    twice = dataset()
    twice.observations.loc[0, "time"] = 49
    with pytest.raises(CarpkError, match="'A' has more than one observation on day 49"):
        nca.table(twice)


def test_what_the_table_cannot_count_it_says():
    data = dataset()
    data.doses = data.doses[data.doses["patient"] == "A"]
    with pytest.warns(CarpkWarning, match="1 of 2 patients had no infusion of x19 or x22"):
        assert set(nca.table(data)["patient"]) == {"A"}
    data = dataset()
    data.observations.loc[2, "censored"] = -1
    with pytest.warns(CarpkWarning, match="lower bounds"):
        nca.table(data)


def test_the_pp_export_has_a_row_per_result_in_cdisc_terms():
    table = nca.table(dataset())
    long = nca.pp_domain(table)
    keys = ["PPTESTCD", "PPTEST", "PPORRES", "PPORRESU", "PPSTINT", "PPENTINT"]
    assert set(keys) <= set(long.columns)
    first = long[(long["USUBJID"] == "A") & (long["PPGRPID"] == "infusion 1")]
    peak = first.loc[first["PPTESTCD"] == "CMAX", keys].iloc[0].tolist()
    assert peak == ["CMAX", "Max Conc", "19500", "copies/µg", "", ""]
    area = first[first["PPTESTCD"] == "AUCINT"].iloc[0]
    assert (area["PPSTINT"], area["PPENTINT"]) == ("P0D", "P28D")
    assert area["PPSTRESN"] == table.loc[0, "AUC0_28D"]
    assert float(area["PPORRES"]) == pytest.approx(area["PPSTRESN"], rel=1e-9)
    assert (long["PPTESTCD"].str.len() <= 8).all()
    done = long["PPSTAT"] == ""
    results = table[list(table.attrs["units"])[1:]].replace({"LAMZNPT": {0: NAN}})
    assert (done.sum(), len(done)) == (results.count().sum(), results.size)
    assert (long["PPREASND"] != "").tolist() == (~done).tolist()
    assert long["PPSTRESN"].notna().tolist() == done.tolist()
    assert long[long["USUBJID"] == "A"]["PPSEQ"].is_unique
    assert long["PPANMETH"].str.contains("linear-up/log-down").all()
    with pytest.raises(CarpkError, match="units"):
        nca.pp_domain(pd.DataFrame(table.to_dict("list")))


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(nca).failed == 0
