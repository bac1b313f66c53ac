"""Nivolumab (Hu 2024) agrees with SciPy and with what its paper says of children and of time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk.models import hu2024_nivolumab as hu

MODEL = ck.load_model("hu2024_nivolumab")
ADULT = hu.doses(240.0, 14.0, 6)
TEEN = {"START": 30.0, "WT": 50.0, "LBM": 38.0, "eGFR": 110.0, "AGE": 15.0, "FEMALE": 1.0}
TEEN |= {"PS": 1.0, "OTHER_ST": 1.0}
CASES = {
    "adult": ({}, ADULT),
    "teen": (TEEN, hu.doses(150.0, 14.0, 6).shift(30.0)),
    "combination": ({"OTHER_ST": 1.0, "IPI_3_Q3W": 1.0}, ADULT),
    "glioblastoma": ({"CNS": 1.0}, ADULT),
}


def late_over_first(**covariates):
    """Clearance 50 T50 after the first dose over that at it."""
    p = MODEL.params(**covariates)
    return float(hu.clearance(50 * 2670 / 24, p) / hu.clearance(0.0, p))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(case):
    changes, regimen = CASES[case]
    table = reference("hu2024_nivolumab", case)
    solution = ck.solve(MODEL, regimen, table.index, MODEL.params(**changes))
    assert max(errors(solution, table).values()) < 1e-6


class TestClearance:
    @pytest.mark.parametrize(
        ("covariates", "emax"),
        [
            ({}, -0.298),
            ({"PS": 1.0}, -0.455),
            ({"IPI_1_Q6W": 1.0}, -0.422),
            ({"LYMPHOMA": 1.0}, -0.166),
            ({"OTHER_ST": 1.0}, -0.180),
            ({"OTHER_ST": 1.0, "AGE": 15.0}, -0.298),
            ({"LYMPHOMA": 1.0, "AGE": 15.0}, -0.298),
            ({"CNS": 1.0, "AGE": 10.0}, 0.398),
            ({"CNS": 1.0}, 0.0),
        ],
    )
    def test_ends_at_exp_emax_of_the_first(self, covariates, emax):
        """Figure 1: 'CLss / CL0 = exp(Emax)'."""
        assert late_over_first(**covariates) == pytest.approx(math.exp(emax), rel=1e-3)

    def test_is_halfway_in_ln_at_t50(self):
        p = MODEL.params()
        half = hu.clearance(2670 / 24, p) / hu.clearance(0.0, p)
        assert float(half) == pytest.approx(math.exp(-0.298 / 2), rel=1e-12)

    def test_has_derivatives_at_the_first_dose_and_before(self):
        for t in (-5.0, 0.0, 1e-9):
            by_time = jax.grad(hu.clearance)(t, MODEL.params())
            by_params = jax.grad(lambda p, t=t: hu.clearance(t, p))(MODEL.params())
            assert np.isfinite(by_time)
            assert all(np.isfinite(x) for _, x in by_params.items())

    def test_counts_time_from_the_day_of_the_first_dose(self):
        late = MODEL.params(START=30.0)
        t = jnp.array([0.0, 100.0])
        shifted = [float(hu.clearance(x + 30, late)) for x in t]
        assert shifted == pytest.approx([float(hu.clearance(x, MODEL.params())) for x in t])
        assert float(hu.clearance(20.0, late)) == float(hu.first_clearance(late))

    def test_of_ipilimumab_every_6_weeks_starts_where_it_starts_alone(self):
        """Its coefficient on CL is fixed to 0 in the authors' code."""
        assert float(hu.first_clearance(MODEL.params(IPI_1_Q6W=1.0))) == pytest.approx(0.23184)
        assert float(hu.first_clearance(MODEL.params(IPI_3_Q3W=1.0))) == pytest.approx(
            0.23184 * math.exp(0.349)
        )


@pytest.fixture(scope="module")
def mean_level():
    """Mean concentration of the twelfth interval [µg/mL] by patient and regimen."""
    teen = {"WT": 55.0, "LBM": 55 * 35.4 / 44.1, "AGE": 15.0, "OTHER_ST": 1.0}
    adult = {"WT": 82.3, "LBM": 57.7}
    out = {}
    for name, person, dose in [
        ("adult, 240 mg", adult, 240.0),
        ("teen, 240 mg", teen, 240.0),
        ("teen, 3 mg/kg", teen, 165.0),
    ]:
        regimen = hu.doses(dose, 14.0, 12)
        auc = ck.solve(MODEL, regimen, [154.0, 168.0], MODEL.params(**person))["nivolumab_auc"]
        out[name] = float(auc[1] - auc[0]) / 14
    return out


class TestDosesForAdolescents:
    """Results and Figures S9, S10: exposure at steady state against that of adults."""

    def test_the_flat_adult_dose_exceeds_the_exposure_of_adults(self, mean_level):
        assert mean_level["teen, 240 mg"] > 1.2 * mean_level["adult, 240 mg"]

    def test_a_dose_per_kg_comes_close_to_it(self, mean_level):
        ratio = mean_level["teen, 3 mg/kg"] / mean_level["adult, 240 mg"]
        assert ratio == pytest.approx(1.0, abs=0.2)


def test_random_effects_are_two_equal_blocks_and_an_additive_one():
    infos = MODEL.params.info()
    for cl, v in (("CL0", "VC"), ("Q", "VP")):
        assert infos[cl].iiv ** 2 == pytest.approx(0.108)
        assert infos[v].iiv ** 2 == pytest.approx(0.0751)
        covariance = MODEL.correlation[cl, v] * infos[cl].iiv * infos[v].iiv
        assert covariance == pytest.approx(0.0220)
    assert infos["Emax"].iiv == pytest.approx(0.4)
    assert infos["Emax"].transform.name == "identity"


def test_occupancy_needs_an_unverified_constant_and_is_off_unless_asked_for():
    assert "pd1_occupancy" not in MODEL.outputs
    model = ck.load_model("hu2024_nivolumab", occupancy="unverified")
    assert "unverified" in model.params.info()["Kd"].source
    for amount, share in ((0.0, 0.0), (4.01 * 0.1, 0.5), (4.01 * 9.9, 0.99)):
        bound = model.outputs["pd1_occupancy"](0.0, hu.States(central=amount), model.params())
        assert float(bound) == pytest.approx(share)
