"""Pembrolizumab (Ahamadi 2017) agrees with SciPy and with what its paper says of covariates."""

import math

import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk.models import ahamadi2017

MODEL = ck.load_model("ahamadi2017")
PATIENT = {"WT": 55.0, "ALB": 30.0, "SLD": 200.0, "eGFR": 60.0, "FEMALE": 1.0, "NSCLC": 1.0}
PATIENT |= {"ECOG": 1.0, "PRIOR_IPI": 1.0, "fCL": 1.4, "fV": 0.8}
CASES = {"reference": ({}, 200.0), "patient": (PATIENT, 110.0)}


def change_in_cl(**covariates):
    """Clearance over that of the reference patient."""
    changed = ahamadi2017.clearance(MODEL.params(**covariates))
    return float(changed / ahamadi2017.clearance(MODEL.params()))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(case):
    changes, dose = CASES[case]
    table = reference("ahamadi2017", case)
    regimen = ahamadi2017.doses(dose, 21.0, 8)
    solution = ck.solve(MODEL, regimen, table.index, MODEL.params(**changes))
    assert max(errors(solution, table).values()) < 1e-6
    np.testing.assert_allclose(solution["pembrolizumab"], table["pembrolizumab"], rtol=1e-9)
    np.testing.assert_allclose(solution["pembrolizumab_auc"], table["auc"], rtol=1e-6)


def test_exposure_after_the_last_dose_is_all_that_was_given_over_clearance():
    regimen = MODEL.regimens["200 mg every 3 weeks"]
    auc = ck.solve(MODEL, regimen, [1500.0])["pembrolizumab_auc"][0]
    assert auc == pytest.approx(8 * 200 / 0.22, rel=1e-5)


def test_patients_with_ecog_0_clear_faster():
    """Discussion; the footnote of Table 3 has the wrong sign."""
    assert change_in_cl(ECOG=1.0) == pytest.approx(1 - 0.0739)


def test_no_group_of_patients_differs_in_clearance_by_more_than_a_sixth():
    """'modest and lacked clinical significance': abstract."""
    effects = [change_in_cl(**{name: 1.0}) for name in ("FEMALE", "NSCLC", "ECOG", "PRIOR_IPI")]
    assert effects == pytest.approx([0.848, 1.145, 0.9261, 1.140])
    assert max(abs(x - 1) for x in effects) < 1 / 6


def test_a_flat_dose_exposes_light_patients_more_and_a_dose_per_kg_heavy_ones():
    """The exponent of weight, 0.595, lies between 0 and 1."""
    flat = 1 / change_in_cl(WT=50.0)
    per_kg = (50 / 76.8) / change_in_cl(WT=50.0)
    assert flat > 1 > per_kg
    assert flat == pytest.approx((76.8 / 50) ** 0.595)


def test_clearances_share_one_random_effect_and_volumes_another():
    infos = MODEL.params.info()
    assert {n: i.iiv for n, i in infos.items() if i.iiv} == {
        "fCL": pytest.approx(math.sqrt(0.134)),
        "fV": pytest.approx(math.sqrt(0.0417)),
    }
    drug = ahamadi2017.pembrolizumab(MODEL.params(fCL=2.0, fV=3.0))
    (q, vp), *_ = drug.peripheral
    assert [drug.clearance, drug.volume, q, vp] == pytest.approx([0.44, 10.44, 1.59, 12.18])


class TestOccupancy:
    def test_is_not_part_of_the_model_unless_asked_for(self):
        assert "pd1_occupancy" not in MODEL.outputs
        assert "Kd" not in MODEL.params.info()

    def test_says_that_its_constant_is_unverified(self):
        model = ck.load_model("ahamadi2017", occupancy="unverified")
        assert "unverified" in model.params.info()["Kd"].source

    def test_is_near_one_while_doses_go_on_and_half_at_kd(self):
        model = ck.load_model("ahamadi2017", occupancy="unverified")
        sol = ck.solve(model, model.regimens["200 mg every 3 weeks"], [1.0, 21.0, 147.0, 500.0])
        bound, level = np.asarray(sol["pd1_occupancy"]), np.asarray(sol["pembrolizumab"])
        np.testing.assert_allclose(bound, level / (level + 0.1), rtol=1e-9)
        assert bound[:3].min() > 0.98
        assert bound[3] < 0.5
