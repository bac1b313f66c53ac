"""Exposure is what the models' equations integrate to, and says where a patient stands."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import carpk as ck
from carpk.dosing import body
from carpk.exposures import COHORTS, exposure
from carpk.models import langenhorst2019

FLU_CY = ck.Regimen.lymphodepletion("Flu/Cy")
ADULT = {"weight": 78.0, "height": 178.0, "egfr": 110.0, "age": 60.0}
CHILD = {"weight": 20.0, "height": 112.0, "egfr": 115.0, "age": 6.0}
BOTH = {key: [ADULT[key], CHILD[key]] for key in ADULT}


def row(result):
    return result.table.iloc[0]


def test_an_adult_after_160_mg_per_m2_has_the_published_median():
    """Langenhorst 2019, section 3.3: 26 mg h/L; without the 0.781 it would be 34."""
    regimen = ck.Regimen.lymphodepletion(flu=[(d, 40) for d in (-5, -4, -3, -2)])
    auc = row(exposure(regimen, weight=78, bsa=1.93, egfr=110))["flu_auc"]
    assert auc == pytest.approx(26.0, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("patient", [ADULT, CHILD], ids=["adult", "child"])
@pytest.mark.parametrize("regimen", ["Flu/Cy", "HEROS Flu/Cy"])
def test_it_is_what_the_equations_integrate_to(regimen, patient):
    """The solver on half a year, against the closed form without end."""
    doses = ck.Regimen.lymphodepletion(regimen)
    got = row(exposure(doses, **patient))
    absolute = doses.resolve(height=patient["height"], weight=patient["weight"])
    flu = ck.load_model("langenhorst2019")
    params = flu.params(WT=patient["weight"], eGFR=patient["egfr"])
    given = ck.Regimen(tuple(d for d in absolute.doses if d.product == "fludarabine"))
    sol = ck.solve(flu, given, [0.0, 180.0], params)
    assert got["flu_auc"] == pytest.approx(float(sol["flu_auc"][1]), rel=1e-6)
    assert got["flu_at_cells"] == pytest.approx(float(sol["flu"][0]), rel=1e-6)
    cy = ck.load_model("cyclophosphamide", induction="off")
    given = ck.Regimen(tuple(d for d in absolute.doses if d.product == "cyclophosphamide"))
    sol = ck.solve(cy, given, [180.0], cy.params(WT=patient["weight"]))
    assert got["cy4oh_auc"] == pytest.approx(float(sol["cy4oh_auc"][0]), rel=1e-6)


def test_the_model_of_adults_with_lymphoma_gets_clearance_in_ml_per_min():
    product = ck.load_model("varela2025", product="tisa-cel")
    got = row(exposure(FLU_CY, **ADULT, model=product))
    surface = np.sqrt(178 * 78 / 3600)
    clearance = (3.9 + 1.7 * (110 * surface / 1.73) / 96) * (78 / 70) ** 0.75
    assert got["flu_auc"] == pytest.approx(0.781 * 90 * surface / clearance, rel=1e-9)
    axi_cel = row(exposure(FLU_CY, **ADULT, model="varela2025"))
    assert axi_cel["flu_auc"] < got["flu_auc"]


def test_intervals_and_chances_are_those_of_virtual_patients():
    """Simulated: 20,000 patients whose clearance has the published CV."""
    with ck.options(interval_prob=0.8):
        got = exposure(FLU_CY, **ADULT)
    assert "80 % of such patients" in repr(got)
    model = ck.load_model("langenhorst2019")
    omega = np.sqrt(np.log1p(0.23**2))
    fcl = np.exp(omega * np.random.default_rng(1).standard_normal(20_000))
    dose = 90 * np.sqrt(178 * 78 / 3600)
    params = model.params(WT=78.0, eGFR=110.0, fCL=jnp.asarray(fcl))
    auc = np.asarray(langenhorst2019.auc_of(params, dose))
    low, high = np.quantile(auc, [0.1, 0.9])
    assert (row(got)["flu_auc_low"], row(got)["flu_auc_high"]) == pytest.approx(
        (low, high), rel=0.01
    )
    for cutoff in (13.8, 14.0):
        assert row(got)[f"P(< {cutoff:g})"] == pytest.approx(np.mean(auc < cutoff), abs=0.01)
    inside = np.mean((auc > 18) & (auc < 20))
    assert row(got)["P(18 to 20)"] == pytest.approx(inside, abs=0.01)
    assert float(got.below(16.0).iloc[0]) == pytest.approx(np.mean(auc < 16), abs=0.01)
    cy = scipy.stats.lognorm(s=np.sqrt(np.log1p(0.464**2)), scale=row(got)["cy4oh_auc"])
    assert row(got)["cy4oh_auc_high"] == pytest.approx(cy.ppf(0.9), rel=1e-6)


def test_many_patients_are_each_as_if_alone():
    together = exposure(FLU_CY, **BOTH, patients=["adult", "child"])
    for name, patient in (("adult", ADULT), ("child", CHILD)):
        alone = row(exposure(FLU_CY, **patient))
        np.testing.assert_allclose(together.table.loc[name], alone, rtol=1e-9)


def test_a_higher_egfr_than_counts_at_the_age_is_lowered_and_said():
    """langenhorst2019: 140 to 30 years, 8 less every ten years after: 116 at 60."""
    at_most = exposure(FLU_CY, **{**ADULT, "egfr": 116.0})
    over = exposure(FLU_CY, **{**ADULT, "egfr": 160.0})
    assert row(over)["egfr"] == pytest.approx(116.0)
    assert row(over)["flu_auc"] == pytest.approx(row(at_most)["flu_auc"])
    assert any("eGFR of 1 patient(s) was lowered" in note for note in over.notes)
    assert not any("lowered" in note for note in at_most.notes)


def test_the_concentration_is_that_of_the_first_cell_infusion():
    late = exposure(FLU_CY + ck.Regimen.cells([2, 42], 1e8), **ADULT)
    early = exposure(FLU_CY, **ADULT)
    assert (late.day, early.day) == (2.0, 0.0)
    assert row(late)["flu_at_cells"] < 0.3 * row(early)["flu_at_cells"]


def test_the_first_line_says_where_a_patient_stands_and_what_a_cutoff_is():
    first = repr(exposure(FLU_CY, **ADULT)).splitlines()[0]
    assert first.startswith("F-ara-A: AUC 15.2 mg h/L (90 % of such patients: 10.5 to 22.1)")
    assert "above 13.8 (Fabrizio 2022), above 14 (Dekker 2022)" in first
    assert first.endswith("cutoffs seen in cohorts, not targets that were tested.")
    less = ck.Regimen.lymphodepletion(flu=[(-5, 30), (-4, 30)])
    assert "below 13.8 (Fabrizio 2022), below 14" in repr(exposure(less, **ADULT))
    many = repr(exposure(less, **BOTH)).splitlines()[0]
    assert "of 2 patients" in many
    assert "2 below 13.8 (Fabrizio 2022)" in many


def test_every_cutoff_is_printed_with_its_source():
    told = repr(exposure(FLU_CY, **ADULT))
    assert set(COHORTS) == set(langenhorst2019.AUC_ENOUGH)
    for name, auc in langenhorst2019.AUC_ENOUGH.items():
        assert f"{auc:g} mg h/L: {name}, {COHORTS[name]}" in told
    assert "18 to 20 mg h/L: window before axi-cel, Scordo 2023" in told
    assert "langenhorst2019" in told


def test_cyclophosphamide_alone_needs_no_kidneys_and_has_no_cutoff():
    only = exposure(ck.Regimen.lymphodepletion(cy=[(-5, 60, "kg")]), weight=20)
    assert row(only)["cy_mg"] == 1200
    assert "flu_auc" not in only.table
    assert "no cutoff of it is known" in repr(only)
    with pytest.raises(ck.CarpkError, match="no fludarabine"):
        only.below(14.0)


def test_a_result_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        exposure(FLU_CY, **ADULT).spread = 0.5


def test_patients_outside_those_of_the_model_are_pointed_out():
    with pytest.warns(ck.CarpkWarning, match=r"weight of 1 patient.*outside .* 4\.3 to 130"):
        exposure(FLU_CY, **{**ADULT, "weight": 150.0})
    with pytest.warns(ck.CarpkWarning, match=r"age of 1 patient.*0\.3 to 74"):
        exposure(FLU_CY, **{**ADULT, "age": 80.0})


def changed(**changes):
    known = {key: value for key, value in {**ADULT, **changes}.items() if value is not None}
    return lambda: exposure(FLU_CY, **known)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (changed(egfr=None), r"egfr=... \[mL/min/1\.73 m²\] is needed; carpk.body.egfr"),
        (changed(height=None), r"doses are per m², .* give height=... \[cm\] or bsa"),
        (changed(bsa=1.9), "height and bsa; give only one"),
        (changed(height=1.78), r"height is 1\.78, but it must be in cm"),
        (changed(egfr=6.6 / 60), r"egfr is 0\.11, but it must be in mL/min/1\.73 m²"),
        (changed(egfr=160.0, age=None), r"counts at most 140 .* give age=... \[years\]"),
        (changed(weight=[70.0, 80.0], age=[1, 2, 3]), r"one per patient, but they are .*\(2,\)"),
        (changed(patients=["a", "b"], weight=[70.0, 80.0, 90.0]), r"patients \(2,\)"),
        (changed(model="kimmel2021"), "'kimmel2021' is no model of fludarabine; known are"),
        (changed(model="varela2025", age=6), "fitted to adults, but patient 1 is 6 years old"),
        (lambda: exposure(ck.Regimen.cells(0, 1e8), **ADULT), "neither fludarabine nor"),
        (
            lambda: exposure(
                ck.Regimen.lymphodepletion(flu=[(-5, 50, "")]),
                weight=70,
                egfr=100,
                model="varela2025",
            ),
            "takes creatinine clearance in mL/min",
        ),
        (lambda: exposure(FLU_CY, **ADULT).below(-1), "must be above 0 mg h/L, but is -1"),
    ],
)
def test_what_is_missing_or_cannot_be_meant_is_refused(make, words):
    with pytest.raises(ck.CarpkError, match=words):
        make()


def test_other_drugs_are_named_and_not_counted():
    more = FLU_CY + ck.Regimen((ck.Bolus(-5.0, 10.0, "etoposide", "mg"),))
    got = exposure(more, **ADULT)
    assert row(got)["flu_auc"] == row(exposure(FLU_CY, **ADULT))["flu_auc"]
    assert "etoposide: no exposure is computed." in got.notes


def test_renal_function_from_creatinine_goes_in_as_it_comes_out():
    rate = body.egfr(0.4, age=6, sex="f", height=112, weight=20)
    got = row(exposure(FLU_CY, weight=20, height=112, age=6, egfr=rate))
    assert got["egfr"] == pytest.approx(0.413 * 112 / 0.4)
    assert math.isfinite(got["flu_auc"])
