"""Kimmel 2021: agreement with SciPy, ghost tumors, second infusions, and the chance of cure."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference, solver_for
from scipy.integrate import quad

import carpk as ck
from carpk.solver import march

KIMMEL = ck.load_model("kimmel2021")
PAPER = KIMMEL.regimens["paper"]
GHOST = {"KC": 193.0, "rB": 0.265}  # carrying capacity of the upper quartile, fast tumor


def twice(share):
    """Infusions on days 0 and 90, the second after lymphodepletion that leaves `share`."""
    lymphodepletion = ck.Regimen((ck.Multiply(90, share, "N"), ck.Multiply(90, share, "C")))
    return lymphodepletion + ck.Regimen.cells([0, 90], 1.8e8)


class TestEquations:
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    @pytest.mark.parametrize("route", ["adaptive", "mesh"])
    def test_a_tumor_below_double_precision_leaves_the_cells_alone(self, route):
        model = ck.load_model("kimmel2021")
        params = model.params(KC=400.0, gammaB=8.0, rB=0.02)
        sol = ck.solve(model, PAPER, [30.0, 365.0], params, route=route, start=0.0)
        assert sol.reason == ""
        assert sol["tumor"][-1] < 1e-299
        cells = ck.solve(model, PAPER, [30.0, 365.0], params.replace(gammaB=0.1), start=0.0)
        assert sol["car_t"] == pytest.approx(np.asarray(cells["car_t"]), rel=1e-4)

    @pytest.mark.slow
    def test_a_stiff_method_follows_a_tumor_below_1e_154(self):
        """The derivative of dB/B once squared 1/B, which is no number there."""
        params = KIMMEL.params(KC=329.0, KN=533.0, rN=0.112, rhoC=0.01, gammaB=3.15, kB=1.4)
        days = [30.0, 300.0, 365.0]
        stiff, explicit = (
            ck.solve(KIMMEL, PAPER, days, params, method=method, rtol=1e-7)
            for method in ("kvaerno5", "tsit5")
        )
        assert stiff.reason == ""
        assert stiff["tumor"][-1] < 1e-154
        np.testing.assert_allclose(stiff["tumor"], explicit["tumor"], rtol=1e-3)

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

    @pytest.mark.slow
    def test_the_mesh_agrees_with_scipy_and_has_gradients(self):
        table = reference("kimmel2021", "two")
        solver = solver_for(KIMMEL, twice(6 / 500), table.index, rtol=1e-5, share=1.0)
        assert solver.mesh is not None, solver.why
        outputs = solver(jax.tree.map(lambda x: jnp.full(1, x), KIMMEL.params()))
        for output, state in (("car_t", "C"), ("t_cells", "N"), ("tumor", "B")):
            np.testing.assert_allclose(outputs[output][0], table[state], rtol=3e-5)
        assert_has_gradients(KIMMEL, solver, "tumor", size=1e-5, rtol=1e-6)

    @pytest.mark.exhaustive
    def test_both_ways_of_reverse_mode_agree_and_have_second_derivatives(self, monkeypatch):
        """One for few patients, one for many; `jax.hessian` is forward over reverse mode."""
        model = ck.load_model("kimmel2021")
        solver = solver_for(model, PAPER, [3.0, 7.0, 28.0])
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), solver.line)
        steps = solver.mesh.steps.each(lambda x: jnp.asarray(x[0]))
        patient = jax.tree.map(lambda x: x[0], solver.schedule.rows)

        def total(v):
            p = model.params(KC=v[0], rN=v[1], gammaB=v[2])
            found = march.march(solver.schedule.structure, 1, None, one, steps, p, patient)
            return sum(jnp.log(x).sum() for x in found[1].values())

        v = jnp.array([139.0, 0.17, 1.15])
        gradients = []
        for limit in (0, 10**9):
            monkeypatch.setattr(march, "SIDE_BY_SIDE", limit)
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


class TestCure:
    """A birth-death process (Kendall 1948) behind the tumor of the equations."""

    MODEL = ck.load_model("kimmel2021", cure=True)
    DAYS = np.array([10.0, 40.0, 60.0, 80.0, 150.0, 300.0])

    def solve(self, **changes):
        return ck.solve(self.MODEL, PAPER, self.DAYS, self.MODEL.params(**changes), method="tsit5")

    def test_equals_the_closed_form_by_quadrature(self):
        """P0 = (1 - 1/(1+J))^n with J from the trajectories of the model without a chance."""
        p = self.MODEL.params(rB=0.1)
        days = np.linspace(0, 100, 4001)
        plain = ck.solve(KIMMEL, PAPER, days, KIMMEL.params(rB=0.1), method="tsit5", after=True)
        c, b = np.asarray(plain["car_t"]), np.asarray(plain["tumor"])
        death = p.turnover + p.gammaB * c / (p.kB + c)
        integrand = death * p.B0 / b
        j = quad(lambda t: np.interp(t, days, integrand), 0, 80.0, limit=2000, epsrel=1e-8)[0]
        expected = np.exp(94.86e9 * np.log1p(-1 / (1 + j)))
        assert 0.5 < expected < 0.99
        assert self.solve(rB=0.1)["cure"][3] == pytest.approx(expected, rel=1e-3)

    @pytest.mark.slow
    def test_equals_what_single_cells_do(self):
        """20,000 simulated tumors of 100 cells, in steps of 0.01 days."""
        model, dt, rng = self.MODEL, 0.01, np.random.default_rng(1)
        p = model.params(rB=0.05, B0=1e-7)
        days = np.arange(0.0, 3.0 + dt / 2, dt)
        c = np.asarray(ck.solve(model, PAPER, days, p, method="tsit5", after=True)["car_t"])
        cells = np.full(20_000, 100)
        for level in c[:-1] + np.diff(c) / 2:
            death = p.turnover + p.gammaB * level / (p.kB + level)
            born = rng.binomial(cells, 1 - np.exp(-(p.rB + p.turnover) * dt))
            cells = cells + born - rng.binomial(cells, 1 - np.exp(-death * dt))
        exact = ck.solve(model, PAPER, [3.0], p, method="tsit5", start=0.0)["cure"][0]
        assert (cells == 0).mean() == pytest.approx(float(exact), abs=0.02)

    def test_mostly_falls_between_days_20_and_80(self):
        """Results: when the tumors of cured patients are gone."""
        cure = self.solve(rB=0.1)["cure"]
        assert cure[0] < 1e-6
        assert cure[3] > 0.85 * cure[-1]
        assert cure[-1] > 0.9

    def test_is_hopeless_for_a_fast_tumor_and_certain_for_a_slow_one(self):
        assert self.solve(rB=0.265)["cure"][-1] < 1e-6
        assert self.solve(rB=0.01)["cure"][-1] > 0.999

    @pytest.mark.slow
    def test_has_gradients_on_the_mesh(self):
        solver = solver_for(self.MODEL, PAPER, [80.0, 150.0], rtol=1e-6, share=1.0)
        assert solver.mesh is not None, solver.why
        slow = self.MODEL.params(rB=0.1)
        params = jax.tree.map(lambda x: jnp.full(1, x), slow)
        gradient = jax.grad(lambda p: solver(p)["cure"][0, -1])(params)
        assert all(np.isfinite(x) for _, x in gradient.items())
        h = 1e-4
        up, down = (
            float(solver(params.replace(gammaB=params.gammaB + d))["cure"][0, -1]) for d in (h, -h)
        )
        assert gradient.gammaB[0] == pytest.approx((up - down) / (2 * h), rel=1e-4)

    @pytest.mark.slow
    def test_does_not_depend_on_the_scale(self):
        body = ck.load_model("kimmel2021", scale="body", cure=True)
        exact = body.params(KC=139.0 * 5e8, kB=4.05 * 5e8, rB=0.1)
        same = ck.solve(body, PAPER, self.DAYS, exact, method="tsit5")
        np.testing.assert_allclose(same["cure"], self.solve(rB=0.1)["cure"], rtol=1e-5, atol=1e-30)


def test_solutions_name_the_day_of_the_last_tumor_cell():
    sol = ck.solve(KIMMEL, PAPER, range(100), KIMMEL.params(rB=0.05), method="tsit5")
    day = sol.extinct["tumor"]
    assert 20 < day < 80
    assert sol["tumor"][int(day)] < 1e-9 < sol["tumor"][int(day) - 1]
    assert "what returns is not a relapse" in repr(sol)
    assert ck.solve(KIMMEL, PAPER, range(20)).extinct == {}
