"""Owens 2021: agreement with SciPy, Figures 5 and 6, what decides success, and how doses are read.

All patients and presets have the same equations, so most tests solve one model, compiled once, with
the numbers of the others.
"""

import numpy as np
import pytest
from agreement import reference

import carpk as ck
from carpk.models import owens2021

DOSES, PATIENTS, PRESETS = owens2021.DOSES, owens2021.PATIENTS, owens2021.PRESETS
treat = owens2021.regimen
OWENS = ck.load_model("owens2021")
NUMBERS = ["1", "2", "3", "4"]  # of PATIENTS, in the paper
COMPARED = reference("owens2021", "1 run").index
DAYS = np.union1d(COMPARED, [*range(60), *range(60, 401, 4)])  # success: before day 400
FIGURE6 = [(f"figure 6, {rest} days", "cll", "as_run", 3, rest, {"T0": 1e10}) for rest in (3, 4)]
CASES = [
    *(
        (f"{number} {preset.removeprefix('as_')}", patient, preset, 1, 2, {})
        for number, patient in zip(NUMBERS, PATIENTS, strict=True)
        for preset in PRESETS
    ),
    *FIGURE6,
]


def numbers(patient="dlbcl", preset="as_run", **changes):
    """Parameters of a patient, as those of the model that is compiled already."""
    other = ck.load_model("owens2021", patient=patient, preset=preset)
    return OWENS.params(**dict(other.params().items())).replace(**changes)


def solve(treatment, params):
    """From day 0, on DAYS."""
    solution = ck.solve(OWENS, treatment, DAYS, params, start=0.0)
    assert solution.reason == ""
    return solution


def cures(treatment, params):
    return "tumor" in solve(treatment, params).extinct


class TestEquations:
    @pytest.mark.parametrize(
        ("case", "patient", "preset", "level", "rest", "changes"), CASES, ids=[c[0] for c in CASES]
    )
    def test_agrees_with_scipy(self, case, patient, preset, level, rest, changes):
        """Nominal doses here; the reference has the 1 % of them that take part."""
        table = reference("owens2021", case)
        solution = solve(treat("C5", level, rest), numbers(patient, preset, **changes))
        seen = np.isin(DAYS, table.index)
        for state, got in [*vars(solution.states).items(), ("M", solution["chemotherapy"])]:
            expected = table[state].to_numpy()
            shown = expected > 1e-6 * expected.max()
            np.testing.assert_allclose(got[seen][shown], expected[shown], rtol=1e-5)

    def test_a_tumor_that_has_died_stays_so(self):
        """Far below 1e-12 cells the numbers are held, where the equations go on to 1e-300."""
        solution = solve(treat("C5", 1, 2), numbers())
        table = reference("owens2021", "1 run")
        assert table["T"].iloc[-1] < 1e-150
        assert 1e-17 < solution["tumor"][-1] < 1e-14
        assert (np.diff(solution["tumor"][DAYS > 40]) < 0).all()
        alive = np.interp(0.0, -np.log(table["T"]), table.index)
        assert solution.extinct["tumor"] == pytest.approx(alive, abs=1.0)


class TestOutcomes:
    def test_three_days_of_rest_cure_a_high_burden_of_cll_and_four_do_not(self):
        """Figure 6: five pulses. The numbers that are printed cure it after 2 days at most."""
        for preset, longest in (("as_run", 3), ("as_printed", 2)):
            params = numbers("cll", preset, T0=1e10)
            for rest in (2, 3, 4):
                assert cures(treat("C5", 3, rest), params) == (rest <= longest)

    def test_five_medium_pulses_cure_where_three_strong_ones_do_not(self):
        """Figure 5b: patient 1, medium burden, dose level 1, 2 days of rest; 5a: three pulses."""
        assert cures(treat("C5", 1, 2), numbers())
        assert not cures(treat("C3", 1, 2), numbers())
        assert not cures(treat("C3", 1, 2), numbers(T0=1e10))
        assert not cures(treat("C5", 1, 2), numbers(preset="as_printed"))

    def test_more_cells_and_less_tumor_allow_a_longer_rest(self):
        rests = {"low": (1e9, 9, 10, 11), "medium": (5e9, 2, 4, 4)}  # longest, by dose level
        for tumor, *longest in rests.values():
            for level, rest in zip(DOSES, longest, strict=True):
                assert cures(treat("C5", level, rest), numbers(T0=tumor))
                assert not cures(treat("C5", level, rest + 1), numbers(T0=tumor))
        assert not any(cures(treat(c, 3, 2), numbers(T0=1e10)) for c in ("C3", "C5"))

    def test_without_chemotherapy_no_dose_level_cures(self):
        for patient, low in zip(PATIENTS, (1e9, 1e9, 1e8, 1e8), strict=True):
            assert not cures(treat("none", 3, 2), numbers(patient, T0=low))

    def test_cells_needed_hardly_depend_on_the_patients_own_effectors(self):
        """Appendix C: cells given on day 0 to the low burden, without chemotherapy."""
        needed = 1.65e7  # that take part

        def enough(share, **changes):
            cells = ck.Regimen.cells(0, share * needed / 0.01)
            return cures(cells, numbers(T0=1e9, **changes))

        typical = OWENS.params()
        for symbol in ("k", "g", "dE", "jE", "mE", "qE"):
            for factor in (0.9, 1.1):
                changed = {symbol: factor * getattr(typical, symbol)}
                assert not enough(0.98, **changed), symbol
                assert enough(1.02, **changed), symbol
        for symbol, factor in (("a", 0.9), ("dC", 1.1), ("jC", 1.1), ("l", 0.9), ("K", 1.1)):
            assert enough(0.98, **{symbol: factor * getattr(typical, symbol)}), symbol


class TestDosing:
    def test_a_pulse_adds_its_strength_times_its_width(self):
        left = np.exp(-0.9)  # after a day; levels are those before a pulse of the same day
        for preset, added in (("as_run", 125 / 24), ("as_printed", 125 / 48)):
            drug = solve(treat("C3", 1, 2), numbers(preset=preset))["chemotherapy"]
            expected = added * np.cumsum([left, left**2, left**3])
            np.testing.assert_allclose(drug[np.isin(DAYS, [1, 2, 3])], expected, rtol=1e-9)

    def test_five_pulses_reach_a_level_that_the_text_does_not_have(self):
        """The text says 3.34 µM."""
        for preset, largest in (("as_run", 5.35), ("as_printed", 2.67)):
            drug = solve(treat("C5", 1, 2), numbers(preset=preset))["chemotherapy"]
            after_the_last = drug[DAYS == 4.5][0] * np.exp(0.45)
            assert after_the_last == pytest.approx(largest, rel=2e-3)

    @pytest.mark.parametrize(
        ("chemotherapy", "pulses", "strength", "infusion"),
        [("none", 0, 0, 3), ("C3", 3, 125, 5), ("C5", 5, 77, 7)],
    )
    def test_rest_counts_from_the_last_pulse(self, chemotherapy, pulses, strength, infusion):
        made = treat(chemotherapy, 2, 3)
        assert [(d.time, d.amount) for d in made.drugs] == [(d, strength) for d in range(pulses)]
        assert [(d.time, d.amount) for d in made.infusions] == [(infusion, 1e8)]


class TestPresets:
    def test_differ_in_the_death_of_car_t_cells_and_in_the_pulses_only(self):
        for patient in PATIENTS:
            run, printed = (dict(numbers(patient, preset).items()) for preset in PRESETS)
            assert {k for k in run if run[k] != printed[k]} == {"mC", "pulse_width"}
            assert (run["mC"], printed["mC"]) == (0.293, 0.0293)
            assert (run["pulse_width"], printed["pulse_width"]) == (1 / 24, 1 / 48)

    def test_only_what_is_printed_is_called_so(self):
        for preset in PRESETS:
            sources = ck.load_model("owens2021", preset=preset).describe()["source"]
            inferred = {k for k, source in sources.items() if "inferred" in source}
            assert inferred == ({"mC", "pulse_width"} if preset == "as_run" else set())

    def test_an_unknown_patient_is_refused(self):
        with pytest.raises(ck.ModelError, match='must be "dlbcl" or "cll" or "melanoma3" or'):
            ck.load_model("owens2021", patient="all")
