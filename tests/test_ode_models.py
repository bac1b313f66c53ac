"""The library's differential equations agree with SciPy, and keep what their files promise.

The reference trajectories are in `tests/reference/`, written by the scripts beside them.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import carpk as ck
from carpk import routes
from carpk.events import Plan
from carpk.solver import Solver

REFERENCE = Path(__file__).parent / "reference"
PAPER = ck.Regimen.cells(0, 1.8e8)  # the dose of Kimmel 2021
GHOST = {"KC": 193.0, "rB": 0.265}  # carrying capacity of the upper quartile, fast tumor


def reference(name, case):
    table = pd.read_csv(REFERENCE / f"{name}.csv")
    return table[table["case"] == case].drop(columns="case").set_index("time")


def errors(solution, table):
    """State -> largest relative error where the reference exceeds 1e-6 of its peak."""
    out = {}
    for name in table.columns.intersection(solution.states.names()):
        expected, got = table[name].to_numpy(), np.asarray(getattr(solution.states, name))
        shown = expected > 1e-6 * expected.max()
        out[name] = np.abs(got / expected - 1)[shown].max()
    return out


def twice(share):
    """Infusions on days 0 and 90, the second after lymphodepletion that leaves `share`."""
    lymphodepletion = ck.Regimen((ck.Multiply(90, share, "N"), ck.Multiply(90, share, "C")))
    return lymphodepletion + ck.Regimen.cells([0, 90], 1.8e8)


def solver_for(model, regimen, days, **settings):
    """`Solver.prepare` at the typical patient."""
    params = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
    return Solver.prepare(Plan.of(model, [regimen], np.asarray(days)), params, **settings)


def assert_has_gradients(model, run, output, size=1e-3, rtol=1e-5):
    """Finite for every parameter, and equal to central differences along two random directions."""
    infos = model.params.info()
    u = jnp.array([float(i.transform.forward(i.value)) for i in infos.values()])

    @jax.jit
    @jax.value_and_grad
    def total(u):
        p = {n: i.transform.inverse(x) for (n, i), x in zip(infos.items(), u, strict=True)}
        levels = run(jax.tree.map(lambda x: x[None], model.params(**p)))[output]
        return jnp.sum(jnp.log(levels))

    gradient = np.asarray(total(u)[1])
    assert np.isfinite(gradient).all()
    rng = np.random.default_rng(0)
    for _ in range(2):
        way = rng.normal(size=u.size)
        way /= np.linalg.norm(way)
        central = (total(u + size * way)[0] - total(u - size * way)[0]) / (2 * size)
        np.testing.assert_allclose(gradient @ way, central, rtol=rtol)


# --- kimmel2021 -----------------------------------------------------------------------------------

KIMMEL = ck.load_model("kimmel2021")


class TestKimmel:
    @pytest.mark.parametrize(
        ("case", "regimen", "changes"),
        [("one", PAPER, {}), ("two", twice(6 / 500), {}), ("ghost", PAPER, GHOST)],
    )
    def test_agrees_with_scipy(self, case, regimen, changes):
        table = reference("kimmel2021", case)
        params = KIMMEL.params().replace(**changes)
        solution = ck.solve(KIMMEL, regimen, table.index, params, method="tsit5")
        assert max(errors(solution, table).values()) < 1e-6

    def test_a_tumor_far_below_one_cell_keeps_its_relative_accuracy(self):
        """1e-9 mL is a cell. On the natural scale the solver's noise grows back as a relapse."""
        table = reference("kimmel2021", "ghost")
        params = KIMMEL.params().replace(**GHOST)
        tumor = ck.solve(KIMMEL, PAPER, table.index, params, method="tsit5")["tumor"]
        assert tumor.min() < 1e-21
        np.testing.assert_allclose(tumor, table["B"], rtol=1e-5)

        class Natural(ck.States):
            N: ck.Scalar = ck.state("cells/µL", "normal T cells")
            C: ck.Scalar = ck.state("cells/µL", "CAR-T cells")
            B: ck.Scalar = ck.state("mL", "tumor")

        natural = dataclasses.replace(
            KIMMEL, states=Natural, initial=lambda p: Natural(p.N0, 0.0, p.B0)
        )
        loose = {"method": "tsit5", "rtol": 1e-6, "atol": 1e-9}
        noise = ck.solve(natural, PAPER, table.index, params, **loose)["tumor"]
        assert abs(noise[-1] / tumor[-1]) > 1e3

    @pytest.mark.parametrize("route", ["adaptive", "mesh"])
    def test_a_tumor_below_the_floor_does_not_depend_on_who_looks(self, route):
        """A state set to its floor at every observation would be lifted to 1e-30 each time."""
        params = ck.load_model("kimmel2021").params(KC=193.0, gammaB=1.35, kB=2.8)
        model = ck.load_model("kimmel2021")
        seldom, often = [60.0, 365.0], np.arange(5.0, 366.0, 5.0)
        tumor = [
            np.asarray(ck.solve(model, PAPER, days, params, route=route, start=0.0)["tumor"])
            for days in (seldom, often)
        ]
        assert tumor[1].min() < 1e-30
        assert tumor[1][-1] == pytest.approx(tumor[0][-1], rel=1e-3)

    @pytest.mark.parametrize("route", ["adaptive", "mesh"])
    def test_a_tumor_below_double_precision_leaves_the_cells_alone(self, route):
        model = ck.load_model("kimmel2021")
        params = model.params(KC=400.0, gammaB=8.0, rB=0.02)
        sol = ck.solve(model, PAPER, [30.0, 365.0], params, route=route, start=0.0)
        assert sol.reason == ""
        assert sol["tumor"][-1] < 1e-299
        cells = ck.solve(model, PAPER, [30.0, 365.0], params.replace(gammaB=0.1), start=0.0)
        assert sol["car_t"] == pytest.approx(np.asarray(cells["car_t"]), rel=1e-4)

    def test_without_an_infusion_there_are_no_car_t_cells(self):
        """A log cannot be of zero: the state starts at 1e-30 and stays out of sight."""
        solution = ck.solve(KIMMEL, ck.Regimen(), reference("kimmel2021", "one").index, start=0.0)
        assert solution["car_t"].max() < 1e-27
        assert solution["t_cells"][-1] == pytest.approx(500, rel=1e-6)
        tumor = 94.86 * np.exp(0.19 * 365)
        assert solution["tumor"][-1] == pytest.approx(tumor, rel=1e-6)

    def test_car_t_cells_are_back_at_the_level_of_the_infusion_by_day_90(self):
        """Results, (c): 'levels comparable to their value at infusion by day 90'."""
        table = reference("kimmel2021", "one")
        level = np.interp(90, table.index, table["C"])
        assert level == pytest.approx(0.36, rel=0.1)

    def test_a_second_infusion_helps_after_lymphodepletion_only(self):
        """Results, (g)."""
        days = reference("kimmel2021", "two").index
        after, without = (
            ck.solve(KIMMEL, twice(share), days, method="tsit5") for share in (6 / 500, 1.0)
        )
        assert after["car_t"][days > 90].max() > 25
        assert without["car_t"][days > 90].max() < 1
        assert after["tumor"][-1] < 1e-3 * without["tumor"][-1]

    def test_body_and_blood_are_the_same_model_but_for_rounded_constants(self):
        body = ck.load_model("kimmel2021", scale="body")
        exact = body.params().replace(KC=139.0 * 5e8, kB=4.05 * 5e8)
        table = reference("kimmel2021", "one")
        same = ck.solve(body, PAPER, table.index, exact, method="tsit5")
        for output, state in (("car_t", "C"), ("t_cells", "N"), ("tumor", "B")):
            np.testing.assert_allclose(same[output], table[state], rtol=1e-6)
        rounded = ck.solve(body, PAPER, table.index, method="tsit5")
        assert rounded["car_t"].max() == pytest.approx(table["C"].max(), rel=0.005)
        np.testing.assert_allclose(rounded["t_cells"], table["N"], rtol=0.001)
        np.testing.assert_allclose(rounded["car_t"], table["C"], rtol=0.03)
        np.testing.assert_allclose(rounded["tumor"], table["B"], rtol=0.2)

    def test_the_mesh_agrees_with_scipy_and_has_gradients(self):
        table = reference("kimmel2021", "two")
        solver = solver_for(KIMMEL, twice(6 / 500), table.index, rtol=1e-5, share=1.0)
        assert solver.mesh is not None, solver.why
        outputs = solver(jax.tree.map(lambda x: jnp.full(1, x), KIMMEL.params()))
        for output, state in (("car_t", "C"), ("t_cells", "N"), ("tumor", "B")):
            np.testing.assert_allclose(outputs[output][0], table[state], rtol=3e-5)
        assert_has_gradients(KIMMEL, solver, "tumor", size=1e-5, rtol=1e-6)

    @pytest.mark.slow
    def test_both_ways_of_reverse_mode_agree_and_have_second_derivatives(self, monkeypatch):
        """One for few patients, one for many; `jax.hessian` is forward over reverse mode."""
        model = ck.load_model("kimmel2021")
        solver = solver_for(model, PAPER, [3.0, 7.0, 28.0])
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), solver.line)
        steps = solver.mesh.steps.each(lambda x: jnp.asarray(x[0]))
        patient = jax.tree.map(lambda x: x[0], solver.plan.rows)

        def total(v):
            p = model.params(KC=v[0], rN=v[1], gammaB=v[2])
            march = routes.march(solver.plan.structure, 1, None, one, steps, p, patient)
            return sum(jnp.log(x).sum() for x in march[1].values())

        v = jnp.array([139.0, 0.17, 1.15])
        gradients = []
        for limit in (0, 10**9):
            monkeypatch.setattr(routes, "SIDE_BY_SIDE", limit)
            gradients.append(np.asarray(jax.jit(jax.grad(total))(v)))
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-10)
        hessian = np.asarray(jax.jit(jax.hessian(total))(v))
        slope = jax.jit(jax.grad(total))
        for i, h in enumerate(np.diag([0.05, 1e-4, 1e-4])):
            column = (slope(v + h) - slope(v - h)) / (2 * h[i])
            assert hessian[:, i] == pytest.approx(np.asarray(column), rel=1e-3, abs=1e-6)

    def test_an_unknown_scale_is_refused(self):
        with pytest.raises(ck.ModelError, match='must be "blood" or "body", but is \'blod\''):
            ck.load_model("kimmel2021", scale="blod")


# --- singh2021 ------------------------------------------------------------------------------------

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

    @pytest.mark.slow
    def test_has_gradients(self):
        plan = Plan.of(SINGH, [ck.Regimen.cells(0, 450e6)], np.array([7.0, 14.0]))
        solver = Solver.adaptive(plan, "kvaerno5", rtol=1e-9)
        assert_has_gradients(SINGH, solver, "transgene", rtol=1e-4)

    def test_an_unknown_binding_is_refused(self):
        with pytest.raises(ck.ModelError, match='must be "qss" or "full", but is \'fast\''):
            ck.load_model("singh2021", binding="fast")
