"""Barros 2021 (CARTmath): agreement with SciPy, outcomes by dose, rechallenge, IDO, BioModels."""

import numpy as np
import pytest
from agreement import reference

import carpk as ck
from carpk.models import barros2021

HDLM2 = ck.load_model("barros2021")
RAJI = ck.load_model("barros2021", cells="raji")
FORMS = ["raji", "raji_ido", "raji_ido_1mt"]
REGIMENS = HDLM2.regimens
DAYS = reference("barros2021", "2 million").index.to_numpy()
SHORT = reference("barros2021", "raji").index.to_numpy()
slow = pytest.mark.slow


def solve(treatment):
    """HDLM-2, on DAYS."""
    solution = ck.solve(HDLM2, treatment, DAYS)
    assert solution.reason == ""
    return solution


def raji(form, treatment=RAJI.regimens["10 million cells"]):
    """A form of RAJI on SHORT, by the model of the first that is compiled already."""
    other = ck.load_model("barros2021", cells=form)
    params = RAJI.params(**dict(other.params().items()))
    return ck.solve(RAJI, treatment, SHORT, params, method="kvaerno5")


def assert_agrees(solution, table):
    for state in ("C", "M", "T"):
        expected, got = table[state].to_numpy(), np.asarray(getattr(solution.states, state))
        shown = expected > 1e-6 * expected.max()
        np.testing.assert_allclose(got[shown], expected[shown], rtol=1e-5)


class TestEquations:
    @pytest.mark.parametrize(
        ("case", "name"),
        [
            ("2 million", "2 million cells"),
            ("0.5 million", "0.5 million cells"),
            ("0.2 million", "0.2 million cells"),
            ("rechallenge", "rechallenge"),
            pytest.param("weekly", "4 doses, every week", marks=slow),
            pytest.param("3 days", "10, 30 and 60 % on 3 days", marks=slow),
            pytest.param("BioModels", "BioModels", marks=slow),
        ],
    )
    def test_agrees_with_scipy(self, case, name):
        assert_agrees(solve(REGIMENS[name]), reference("barros2021", case))

    @pytest.mark.parametrize("form", FORMS)
    def test_agrees_with_scipy_for_raji(self, form):
        assert_agrees(raji(form), reference("barros2021", form))

    def test_a_tumor_far_below_one_cell_keeps_its_relative_accuracy(self):
        table = reference("barros2021", "2 million")
        assert table["T"].min() < 1e-26
        np.testing.assert_allclose(solve(REGIMENS["2 million cells"])["tumor"], table["T"], 1e-4)

    def test_no_digit_of_phi_and_rho_is_lost(self):
        assert RAJI.params().delta == pytest.approx(5.36e-5, rel=1e-9)
        assert HDLM2.params().delta == pytest.approx(0.085, rel=1e-12)

    def test_car_t_cells_grow_between_two_sizes_of_the_tumor_only(self):
        """M in balance is eps C / (theta T + mu); the sizes are `dormant` and `escape`."""
        p = HDLM2.params()
        small, large = (HDLM2.derived[name][0](p) for name in ("dormant", "escape"))

        def growth(tumor):
            woken = p.eps * p.theta * tumor / (p.theta * tumor + p.mu)
            return woken - p.delta - p.alpha * tumor

        np.testing.assert_allclose([growth(small), growth(large)], 0.0, atol=1e-12)
        assert growth(0.9 * small) < 0 < growth(1.1 * small)
        assert growth(1.1 * large) < 0 < growth(0.9 * large)


class TestOutcomes:
    """Classes of the paper, by the tumor on day 300: below 8e5, above 1e10, or in between."""

    def test_depend_on_the_dose(self):
        """Figure 4, (a) to (c): eliminated, held, escaped."""
        day = DAYS == 300
        for name in ("2 million cells", "1.5 million cells"):
            high = solve(REGIMENS[name])
            assert 44 <= high.extinct["tumor"] <= 48
            assert high["tumor"][day] < 1e-9
        held = solve(REGIMENS["0.5 million cells"])
        dormant = float(HDLM2.derived["dormant"][0](HDLM2.params()))
        np.testing.assert_allclose(held["tumor"][DAYS >= 300], dormant, rtol=0.2)
        assert solve(REGIMENS["0.2 million cells"])["tumor"][day] > 1e10

    @pytest.mark.parametrize(
        ("tumor", "escapes", "controlled"),
        [(1e6, 0.12e6, 0.14e6), (2e6, 0.24e6, 0.26e6), (1e7, 1.28e6, 1.30e6)],
    )
    def test_turn_where_a_public_redrawing_of_figure_5_has_them_turn(
        self, tumor, escapes, controlled
    ):
        """Smallest dose that controls so many tumor cells, in steps of 20,000 cells."""
        on_300 = [
            solve(barros2021.regimen({42: dose}, {0: tumor}))["tumor"][DAYS == 300][0]
            for dose in (escapes, controlled)
        ]
        assert on_300[0] > 1e10
        assert on_300[1] < 8e5

    def test_a_rechallenge_is_met_by_memory_cells(self):
        """Figure 3: effectors are gone by day 250, and a million tumor cells do not grow."""
        solution = solve(REGIMENS["rechallenge"])
        before = list(DAYS).index(250)
        assert solution.states.C[before] < 1e-6 < 1 < solution.states.M[before]
        assert solution.states.C[DAYS == 251] > 1
        assert solution["tumor"][DAYS == 251] < 1e5
        assert (solution["tumor"][DAYS >= 260] < 1e-5).all()

    @slow
    def test_a_dose_may_be_split(self):
        """Figure 4, (d) to (f)."""
        for name in ("4 doses, every week", "4 doses, every 2 weeks", "10, 30 and 60 % on 3 days"):
            split = solve(REGIMENS[name])
            assert "tumor" in split.extinct
            assert split["tumor"][DAYS == 300] < 1e-9

    def test_ido_weakens_car_t_cells_and_1_mt_restores_most_of_it(self):
        plain, ido, treated = (raji(form) for form in FORMS)
        for late in (SHORT == 10, SHORT == 15):
            assert plain["tumor"][late] < treated["tumor"][late] < ido["tumor"][late]
            assert plain["car_t_body"][late] > treated["car_t_body"][late] > ido["car_t_body"][late]
        regained = (ido["tumor"] - treated["tumor"]) / (ido["tumor"] - plain["tumor"])
        assert (regained[SHORT >= 8] > 0.85).all()


class TestDosing:
    def test_a_mouse_has_the_tumor_that_it_is_given(self):
        """Alone it grows by the logistic law in HDLM-2, and without a limit in RAJI."""
        none = solve(barros2021.regimen({42: 2e6}, {0: 1e-9}))
        assert none["tumor"][DAYS < 42].max() < 1e-7
        alone = solve(barros2021.regimen({42: 1e-9}, {0: 2e6}))
        p = HDLM2.params()
        grown = 2e6 * np.exp(p.r * DAYS)
        np.testing.assert_allclose(alone["tumor"], grown / (1 + p.b * (grown - 2e6)), rtol=1e-5)
        alone = raji("raji", barros2021.regimen({7: 1e-9}, {0: 3e6}))
        np.testing.assert_allclose(alone["tumor"], 3e6 * np.exp(0.5071721 * SHORT), rtol=1e-5)

    def test_every_infused_cell_takes_part(self):
        table = reference("barros2021", "2 million")
        just_after = solve(REGIMENS["2 million cells"])["car_t_body"][DAYS == 42.1]
        assert just_after == pytest.approx(1e6 * (table["C"] + table["M"])[42.1], rel=1e-5)

    @slow
    def test_biomodels_sets_the_cells_on_day_45_where_the_paper_adds_them_on_day_42(self):
        paper, biomodels = (solve(REGIMENS[name]) for name in ("2 million cells", "BioModels"))
        assert biomodels["car_t_body"][DAYS <= 45].max() == 0
        assert biomodels["tumor"][DAYS == 45] == pytest.approx(2.54e7, rel=0.01)
        assert paper["tumor"][DAYS == 45] < 1
        assert biomodels.extinct["tumor"] - paper.extinct["tumor"] == pytest.approx(3, abs=2)

    def test_unknown_cells_are_refused(self):
        with pytest.raises(ck.ModelError, match='must be "hdlm2" or "raji" or'):
            ck.load_model("barros2021", cells="nalm6")
