"""Body surface and renal function give the published worked values, for children and adults."""

import warnings

import numpy as np
import pytest

import carpk as ck
from carpk.dosing.body import UMOL_PER_MG, bsa, creatinine_clearance, egfr


def test_body_surface_is_that_of_published_examples():
    """170 cm, 70 kg: 1.818 (medicalequations.com); 175 cm, 70 kg: 1.845 m² (digicalcs.com)."""
    assert bsa(170, 70) == pytest.approx(1.818, abs=5e-4)
    assert bsa(175, 70) == pytest.approx(1.845, abs=5e-4)
    with_meters = 0.20247 * 1.70**0.725 * 70**0.425  # the form of Du Bois that has height in m
    assert bsa(170, 70, "dubois") == pytest.approx(with_meters, rel=1e-4)


def test_the_two_formulas_agree_in_the_ordinary_and_part_with_obesity():
    assert bsa(170, 70, "dubois") == pytest.approx(bsa(170, 70), rel=0.01)
    assert bsa(112, 20, "dubois") == pytest.approx(bsa(112, 20), rel=0.01)
    assert bsa(170, 150, "dubois") < 0.96 * bsa(170, 150)


def test_creatinine_clearance_is_that_of_published_examples():
    """superglobalcalculator.com, after Cockcroft and Gault 1976."""
    man = creatinine_clearance(1.2, age=60, sex="male", weight=80)
    woman = creatinine_clearance(0.9, age=45, sex="female", weight=65)
    assert man == pytest.approx(74.1, abs=0.05)
    assert woman == pytest.approx(80.9, abs=0.1)


def test_children_have_the_bedside_formula():
    """100 cm and 0.4 or 0.5 mg/dL: 103 (doctaverse) and 82.6 (calculatorlib) mL/min/1.73 m²."""
    child = {"age": 4, "sex": "f", "height": 100, "weight": 16}
    assert egfr(0.4, **child) == pytest.approx(103, abs=0.5)
    assert egfr(0.5, **child) == pytest.approx(82.6)
    assert egfr(0.5, **{**child, "weight": 30}) == pytest.approx(82.6)
    assert egfr(35.36 / UMOL_PER_MG, **child) == pytest.approx(103, abs=0.5)


def test_adults_have_cockcroft_gault_scaled_to_the_standard_surface():
    adult = egfr(1.2, age=60, sex="m", height=178, weight=80)
    assert adult == pytest.approx(74.07 * 1.73 / np.sqrt(178 * 80 / 3600), rel=1e-3)


@pytest.mark.parametrize(("sex", "limit"), [("male", 14.0), ("female", 17.0)])
def test_the_formula_changes_at_the_age_of_the_sex(sex, limit):
    """Langenhorst 2019: Cockcroft-Gault in men from 14 and in women from 17 years."""
    known = {"sex": sex, "height": 165, "weight": 55}
    assert egfr(0.6, age=limit - 1e-6, **known) == pytest.approx(0.413 * 165 / 0.6)
    clearance = creatinine_clearance(0.6, age=limit, sex=sex, weight=55)
    assert egfr(0.6, age=limit, **known) == pytest.approx(clearance * 1.73 / bsa(165, 55))


def test_arrays_are_patients_one_by_one():
    creatinine, age, sex = [0.4, 1.2, 0.9], [6, 60, 45], ["f", "male", "Female"]
    height, weight = [112, 178, 160], [20, 80, 65]
    together = egfr(creatinine, age=age, sex=sex, height=height, weight=weight)
    apart = [
        egfr(c, age=a, sex=s, height=h, weight=w)
        for c, a, s, h, w in zip(creatinine, age, sex, height, weight, strict=True)
    ]
    assert together.shape == (3,)
    np.testing.assert_allclose(together, apart)
    surfaces = [bsa(h, w) for h, w in zip(height, weight, strict=True)]
    np.testing.assert_allclose(bsa(height, weight), surfaces)


def test_infants_get_a_number_and_a_warning():
    infant = {"sex": "m", "height": 68, "weight": 8}
    with pytest.warns(ck.CarpkWarning, match="1 patient.*younger than one year"):
        egfr(0.3, age=0.7, **infant)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        egfr(0.3, age=1.0, **infant)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bsa(1.7, 70), r"height is 1\.7, but it must be in cm, from 30 to 250.*in m or"),
        (lambda: bsa(170, 70_000), "weight is 70000, but it must be in kg.* Was it in g"),
        (lambda: bsa([170, 160], [70, np.nan]), "weight of patient number 2 is missing.*Give it"),
        (lambda: bsa("tall", 70), "height must be a number in cm, but is 'tall'"),
        (lambda: bsa(170, 70, "haycock"), "no formula 'haycock'; known are 'mosteller' and"),
        (
            lambda: egfr(80, age=60, sex="m", height=178, weight=80),
            r"creatinine is 80, but it must be in mg/dL.*in µmol/L \(divide by 88\.4\)",
        ),
        (lambda: egfr(1, age=720, sex="m", height=178, weight=80), "age is 720.*in months"),
        (lambda: egfr(1, age=60, sex="x", height=178, weight=80), "sex is 'x', but must be 'male'"),
        (lambda: creatinine_clearance(1, age=-1, sex="m", weight=80), "age is -1"),
    ],
)
def test_a_number_in_another_unit_is_refused_with_the_unit_it_may_be_in(make, words):
    with pytest.raises(ck.CarpkError, match=words):
        make()
