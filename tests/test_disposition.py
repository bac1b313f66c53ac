"""Linear disposition in closed form: against matrix exponentials, and where formulas degenerate."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from systems import linear, mammillary

import carpk as ck

DRUGS = {  # clearance, volume, (intercompartmental clearance, volume) of each peripheral one
    "one": (9.0, 4.0),
    "two": (9.0, 4.0, (6.0, 3.0)),
    "three": (9.0, 4.0, (6.0, 3.0), (0.5, 8.0)),
    "fludarabine": (24 * 9.1, 39.0, (24 * 8.6, 20.0)),
    "antibody": (0.2, 3.0, (0.5, 3.0), (0.01, 2.0)),
    "peripheral rates are equal": (9.0, 4.0, (6.0, 3.0), (2.0, 1.0)),
    "peripheral compartments are equal": (9.0, 4.0, (6.0, 3.0), (6.0, 3.0)),
    "hardly any exchange": (9.0, 4.0, (1e-6, 3.0)),
    "hardly any exchange with either": (9.0, 4.0, (1e-6, 3.0), (1e-7, 8.0)),
    "all rates are nearly equal": (9.0, 4.0, (1e-7, 1e-7 / 2.25), (1e-7, 1e-7 / 2.25)),
    "rates far apart": (2000.0, 1.0, (1.0, 1.0), (1e-3, 10.0)),
}
TIME = np.array([1.5, -2.0, 0.0, 0.0, 3.7])
AMOUNT = np.array([10.0, 40.0, 7.0, 0.3, 25.0])
DURATION = np.array([0.0, 0.5 / 24, 2.5, 0.0, 10.0])
T = np.array([9.0, 0.3, -2.5, -1.99, 2.0, 5.0, 1.501, 30.0])  # in no order


def disposition(clearance, volume, *peripheral):
    return ck.Disposition(clearance, volume, peripheral)


def in_compartments(drug, time, amount, duration):
    """Concentration at `T` by matrix exponentials."""
    matrix = mammillary(*drug)
    enter = np.eye(len(matrix))[0]
    doses = [(t, a * enter, d) for t, a, d in zip(time, amount, duration, strict=True)]
    return linear(matrix, doses, T)[:, 0] / drug[1]


@pytest.mark.parametrize("drug", DRUGS)
def test_many_doses_add_up_as_in_the_compartments(drug):
    """Boluses and infusions that overlap, in any order, before day 0 and after it."""
    exact = in_compartments(DRUGS[drug], TIME, AMOUNT, DURATION).real
    level = disposition(*DRUGS[drug]).concentration(T, TIME, AMOUNT, DURATION)
    np.testing.assert_allclose(level, exact, rtol=1e-6, atol=1e-14 * exact.max())


@pytest.mark.parametrize("drug", DRUGS)
@pytest.mark.slow
def test_gradients_are_those_of_the_compartments(drug):
    """In every parameter, in the times of the doses, their amounts and durations."""
    size = 2 * len(DRUGS[drug]) - 2  # of the numbers that describe the drug

    def apart(x):
        (clearance, volume), exchange = x[:2], [x[i : i + 2] for i in range(2, size, 2)]
        return (clearance, volume, *exchange), *x[size:].reshape(3, -1)

    def total(x):
        numbers, *doses = apart(x)
        return jnp.sum(jnp.log(disposition(*numbers).concentration(T, *doses)[T > -2]))

    flat = np.hstack([*DRUGS[drug], TIME, AMOUNT, DURATION])
    slope = jax.grad(total)(flat)
    for i in np.flatnonzero(flat):  # not the durations of 0: a bolus is no limit of infusions
        moved = flat + 1e-30j * (np.arange(len(flat)) == i)
        exact = np.log(in_compartments(*apart(moved))[T > -2]).sum().imag / 1e-30
        assert float(slope[i]) == pytest.approx(exact, rel=1e-5, abs=1e-8), i


def test_there_is_nothing_before_the_first_dose_and_all_of_it_just_after():
    """At a dose's own time the level just before or after it is given; an infusion has begun."""
    drug = disposition(*DRUGS["three"])
    t = np.array([0.99999, 1.0, 2.0])
    assert drug.concentration(t, 1.0, 8.0)[:2].tolist() == [0.0, 0.0]
    bolus, infusion = (drug.concentration(t, 1.0, 8.0, d, after=True) for d in (0.0, 0.5))
    assert bolus[:2].tolist() == [0.0, pytest.approx(8.0 / 4.0, rel=1e-12)]
    assert infusion[:2].tolist() == [0.0, 0.0]
    assert infusion[2] > bolus[2] > 0


@pytest.mark.parametrize("duration", [0.0, 0.5])
@pytest.mark.parametrize("drug", ["one", "two", "three"])
def test_the_area_under_the_curve_is_dose_over_clearance(drug, duration):
    model = disposition(*DRUGS[drug])
    level = jax.jit(lambda t: model.concentration(t[None], 0.0, 40.0, duration)[0])
    edges = [0.0, duration, 3.0, 30.0, 300.0, 3000.0]
    area = sum(quad(level, a, b, limit=200)[0] for a, b in pairwise(edges))
    assert area == pytest.approx(40.0 / DRUGS[drug][0], rel=1e-6)


def test_modes_are_propagated_as_the_concentration_is_written_down():
    """What the solvers carry from step to step, against the sum over doses."""
    modes = disposition(*DRUGS["three"]).modes()
    amplitude = tuple(10.0 * w for w in modes.weight)
    for dt in (0.2, 0.05, 0.75):  # an infusion of 7 over one day, in three steps
        amplitude = modes.after(amplitude, 7.0, dt)
    amplitude = modes.after(amplitude, 0.0, 2.0)
    level = disposition(*DRUGS["three"]).concentration(
        np.array([3.0]), np.zeros(2), np.array([10.0, 7.0]), np.array([0.0, 1.0])
    )
    assert float(sum(amplitude)) == pytest.approx(float(level[0]), rel=1e-12)


@pytest.mark.parametrize("peripheral", [((6.0, 3.0),) * 3, ((6.0, 3.0, 1.0),)])
def test_more_than_two_peripheral_compartments_are_refused(peripheral):
    with pytest.raises(
        ck.ModelError, match=r"at most two \(intercompartmental clearance, volume\)"
    ):
        ck.Disposition(9.0, 4.0, peripheral)
