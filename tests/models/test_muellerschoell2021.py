"""Axicabtagene ciloleucel (Müller-Schöll 2021) agrees with SciPy and says what its paper says."""

import math

import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk import nca
from carpk.models import muellerschoell2021 as paper

MODEL = ck.load_model("muellerschoell2021")
DOSE = MODEL.regimens["paper"]
TWO = ck.Regimen.cells([0, 60], [2e8, 1e8])
CASES = {
    "reference": ({}, DOSE),
    "transplant": ({"ASCT": 1.0, "CD4CD8": 0.130}, DOSE),
    "low": ({"LOW": 1.0, "MTV": 264.0, "CD4CD8": 4.01}, DOSE),
    "two": ({}, TWO),
}


def month(regimen=DOSE, **covariates):
    """CAR-T cells on `MONTH`."""
    return np.asarray(ck.solve(MODEL, regimen, paper.MONTH, MODEL.params(**covariates))["car_t"])


def rate(**covariates):
    """Expansion rate over that of the reference patient."""
    return paper.expansion_rate(MODEL.params(**covariates)) / 0.00846


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(case):
    changes, regimen = CASES[case]
    table = reference("muellerschoell2021", case)
    solution = ck.solve(MODEL, regimen, table.index, MODEL.params(**changes))
    found = errors(solution, table)
    assert set(found) == {"TN", "TCM", "TEM", "TEff", "B"}
    assert max(found.values()) < 1e-6
    cells = table.drop(columns="B")
    np.testing.assert_allclose(solution["car_t"], cells.sum(axis=1), rtol=1e-6)
    for output, state in zip(("tn", "tcm", "tem", "teff"), cells, strict=True):
        np.testing.assert_allclose(solution[output], cells[state], rtol=1e-6)
    np.testing.assert_allclose(solution["tumor"], table["B"], rtol=1e-6)


@pytest.mark.slow
def test_the_mesh_agrees_with_scipy_over_a_year():
    table = reference("muellerschoell2021", "two")
    solution = ck.solve(MODEL, TWO, table.index, route="mesh")
    assert solution.route.startswith("mesh")
    for state in table:
        np.testing.assert_allclose(getattr(solution.states, state), table[state], rtol=1e-4)


def test_the_dose_of_the_paper_is_a_tenth_of_a_cell_per_µl_of_each_phenotype():
    """Section 3.1.4."""
    (dose,) = DOSE.doses
    given = {t.compartment: t.scale(MODEL.params()) for t in MODEL.into("car_t")}
    levels = {state: dose.amount * share for state, share in given.items()}
    assert levels == pytest.approx(
        {"TN": 0.1, "TCM": 0.1, "TEM": 0.1, "TEff": 0.1, "infused": 0.4}, rel=1e-12
    )


def test_before_an_infusion_there_are_no_car_t_cells_and_the_tumor_grows():
    """A log cannot be of zero: what starts at 1e-30 would be 10 cells/µL after 120 days."""
    days = reference("muellerschoell2021", "reference").index
    late = ck.solve(MODEL, ck.Regimen.cells(500, 2e8), days, start=0.0)
    assert late["car_t"].max() < 1e-28
    logistic = 5000 / (1 + (5000 / 85.7 - 1) * np.exp(-0.0023 * days))
    np.testing.assert_allclose(late["tumor"], logistic, rtol=1e-6)


@pytest.mark.parametrize("dose", [2e7, 2e9])
def test_ten_times_more_or_less_at_the_start_moves_the_peak_in_time_only(dose):
    """Figure S5: 'minor impact only on Tmax'."""
    paper_dose, other = month(), month(ck.Regimen.cells(0, dose))
    assert other.max() == pytest.approx(paper_dose.max(), rel=0.12)
    assert abs(paper.MONTH[other.argmax()] - paper.MONTH[paper_dose.argmax()]) > 1.5


def test_expansion_depends_on_transplant_and_ratio_as_in_equations_10_and_11():
    assert rate() == pytest.approx(1.0)
    assert rate(ASCT=1.0) == pytest.approx(3.53)
    assert rate(CD4CD8=0.1) == pytest.approx(10**0.385)
    assert rate(LOW=1.0) == pytest.approx(0.0007 / 0.00846)
    assert rate(LOW=1.0, ASCT=1.0) == pytest.approx(3.53 * 0.0007 / 0.00846)
    assert rate(LOW=1.0, CD4CD8=0.1) == rate(LOW=1.0)
    assert rate(LOW=1.0, Vmax1_ref=0.1) == rate(LOW=1.0)  # no random effect in the low class


def test_random_effects_are_those_of_the_paper_in_the_reference_class_only():
    infos = MODEL.params.info()
    assert {n: i.iiv for n, i in infos.items() if i.iiv} == {
        "Vmax1_ref": pytest.approx(math.sqrt(math.log(1 + 1.5**2))),
        "Vmax5_2": pytest.approx(math.sqrt(math.log(1 + 3.07**2))),
    }
    assert infos["LOW"].share == pytest.approx(1 - 0.803)


def test_the_cohort_is_the_one_described():
    """19 patients, 4 of low expansion, 7 after a transplant, median MTV 85.7 mL (2.54 to 3555)."""
    mtv = paper.COHORT["MTV"]
    assert {len(values) for values in paper.COHORT.values()} == {19}
    assert (sum(paper.COHORT["LOW"]), sum(paper.COHORT["ASCT"])) == (4, 7)
    assert (min(mtv), np.median(mtv), max(mtv)) == (2.54, MODEL.params().MTV, 3555)
    assert (min(paper.COHORT["CD4CD8"]), max(paper.COHORT["CD4CD8"])) == (0.0512, 8.94)


@pytest.mark.parametrize(
    ("low", "all_of_it", "sampled", "differentiated", "printed"),
    [(0, 232, 188, 180, 179), (1, 121, 105, 94, 94.0)],
)
def test_the_auc_is_29_percent_above_that_of_the_paper(
    low, all_of_it, sampled, differentiated, printed
):
    """And would be what the text at the head of the file says if the paper took less of it."""

    def median(cells, days):
        index = np.searchsorted(paper.MONTH, np.asarray(days) - 1e-6)
        auc = lambda s: nca.auc(paper.MONTH[index], cells(s)[index])  # noqa: E731
        return paper.median_in_class(low, auc)(MODEL.params())

    found = median(lambda s: s["car_t"], paper.MONTH)
    assert found == pytest.approx(all_of_it, rel=0.005)
    assert found / printed == pytest.approx(1.29, abs=0.01)
    assert median(lambda s: s["car_t"], [7, 14, 28]) == pytest.approx(sampled, rel=0.005)
    without_naive = median(lambda s: s["car_t"] - s["tn"], paper.MONTH)
    assert without_naive == pytest.approx(differentiated, rel=0.005)


def test_low_expansion_is_low():
    assert month(LOW=1.0).max() < 0.1 * month().max()


def test_few_naive_cells_hold_their_number_on_the_tumor_that_is_called_so():
    hold = float(MODEL.derived["mtv_hold"][0](MODEL.params()))
    assert hold == pytest.approx(1.13 * (0.140 + 0.0104 - 0.0005) / 0.00846)
    few = paper.States(TN=1e-9, B=hold, infused=1.0)
    change = paper.vector_field(0.0, few, MODEL.params())
    assert float(change.TN) == pytest.approx(0.0, abs=1e-16)


def test_every_output_but_the_sum_has_its_residual_error():
    assert set(paper.RESIDUAL_CV) == set(MODEL.outputs) - {"car_t"}
