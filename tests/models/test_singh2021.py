"""Singh 2021: agreement with SciPy and with rxode2, and its stiffness."""

import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference, solver_for

import carpk as ck
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

SINGH = ck.load_model("singh2021")
DAYS = reference("singh2021", "qss").index.to_numpy()


@pytest.fixture(scope="module")
def ide_cel():
    """binding -> solution for 450 million cells, on the days of the reference."""
    models = {"qss": SINGH, "full": ck.load_model("singh2021", binding="full")}
    dose = ck.Regimen.cells(0, 450e6)
    return {k: ck.solve(model, dose, DAYS, method="kvaerno5") for k, model in models.items()}


class TestSingh:
    @pytest.mark.parametrize("binding", ["qss", "full"])
    def test_agrees_with_scipy(self, ide_cel, binding):
        assert max(errors(ide_cel[binding], reference("singh2021", binding)).values()) < 1e-6

    def test_complexes_in_balance_hardly_change_the_peak(self, ide_cel):
        balanced, full = (np.asarray(ide_cel[k]["transgene"]) for k in ("qss", "full"))
        spread = DAYS >= 1  # before that the dose is still leaving the blood
        assert balanced[spread].max() == pytest.approx(full[spread].max(), rel=0.0005)
        np.testing.assert_allclose(balanced[spread], full[spread], rtol=0.02)

    @pytest.mark.parametrize(
        ("dose", "cmax", "nadir"),
        [(50e6, 37411, -92.5), (150e6, 36479, -92.4), (450e6, 35743, -92.3), (800e6, 35484, -92.3)],
    )
    def test_reproduces_rxode2(self, dose, cmax, nadir):
        """Peak (t > 1 d) and nadir of M-protein [%] in the vignette of nlmixr2lib, every 0.5 d."""
        solution = ck.solve(SINGH, ck.Regimen.cells(0, dose), DAYS, method="kvaerno5")
        assert solution["transgene"][DAYS > 1].max() == pytest.approx(cmax, rel=0.002)
        baseline = SINGH.derived["m_protein_baseline"][0](SINGH.params())
        change = 100 * (solution["m_protein"].min() / baseline - 1)
        assert change == pytest.approx(nadir, abs=0.1)

    def test_biomarkers_rest_at_their_baselines_where_the_tumor_does(self):
        still = SINGH.params().replace(Kg=1e-12)
        one_cell = ck.solve(SINGH, ck.Regimen.cells(0, 1.0), DAYS, still, method="kvaerno5")
        early = DAYS <= 2
        m_protein, sbcma = 12.1e-12 * 2.5e9 / 0.117, 0.175e-6 * 2.5e9 / 0.7
        np.testing.assert_allclose(one_cell["m_protein"][early], m_protein, rtol=1e-6)
        np.testing.assert_allclose(one_cell["sbcma"][early], sbcma, rtol=1e-6)
        np.testing.assert_allclose(one_cell["tumor"][early], 1.0, rtol=1e-6)

    def test_over_a_year_the_mesh_gives_way_to_the_adaptive_route(self):
        solver = solver_for(SINGH, ck.Regimen.cells(0, 450e6), [7.0, 14.0, 28.0, 365.0])
        assert solver.mesh is None
        assert "stiff" in solver.why

    @pytest.mark.exhaustive
    def test_has_gradients(self):
        schedule = Schedule.of(SINGH, [ck.Regimen.cells(0, 450e6)], np.array([7.0, 14.0]))
        solver = Solver.adaptive(schedule, "kvaerno5", rtol=1e-9)
        assert_has_gradients(SINGH, solver, "transgene", rtol=1e-4)

    def test_an_unknown_binding_is_refused(self):
        with pytest.raises(ck.ModelError, match='must be "qss" or "full", but is \'fast\''):
            ck.load_model("singh2021", binding="fast")
