"""NONMEM's event records, from a file to a level on three routes."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import carpk as ck
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import event_grammar as bench


@pytest.mark.parametrize(
    ("lag", "modelled"),
    [
        pytest.param(True, None, marks=pytest.mark.slow),
        pytest.param(False, "rate", marks=pytest.mark.exhaustive),
        (True, "duration"),
    ],
)
def test_records_mean_in_closed_form_what_they_mean_to_nonmem(lag, modelled, tmp_path):
    """The others are in `docs/event_grammar.md`."""
    for name, error in bench.compared("closed", lag, modelled, tmp_path / "data.csv").items():
        assert error < 1e-8, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "lag", "modelled"),
    [
        ("mesh", True, None),
        pytest.param("adaptive", False, "duration", marks=pytest.mark.exhaustive),
    ],
)
def test_records_mean_in_differential_equations_what_they_mean_to_nonmem(
    route, lag, modelled, tmp_path
):
    errors = bench.compared(route, lag, modelled, tmp_path / "data.csv")
    for name, error in errors.items():
        assert error < 1e-5, name


def test_the_page_has_every_case():
    page = Path(__file__).parents[1].joinpath("docs", "event_grammar.md").read_text()
    assert [x for x in bench.GRAMMAR if f"| {x} |" not in page] == []
    assert page.startswith(bench.PAGE)


def model_of(elimination, **more):
    class Amount(ck.States):
        drug: ck.Scalar = ck.state("mg", "amount", **more)

    return ck.ODEModel(
        name="one",
        params=bench.Params,
        states=Amount,
        vector_field=lambda t, y, p: Amount(-elimination(y.drug, p)),
        targets={"drug": ck.Target("drug", unit="mg", rate=lambda p: p.R)},
        outputs={"conc": lambda t, y, p: y.drug / p.V1},
        units={"conc": "mg/L"},
    )


LINEAR = model_of(lambda x, p: p.CL / p.V1 * x)
SATURABLE = model_of(lambda x, p: 90.0 * x / (30.0 + x))  # at most 90 mg/day
DAILY = ck.Regimen((ck.Infusion(0.0, 20.0, 0.1, "drug", ss=1, ii=0.5),))


@pytest.mark.parametrize("route", [pytest.param("adaptive", marks=pytest.mark.exhaustive), "mesh"])
@pytest.mark.slow
def test_a_saturable_drug_has_the_steady_state_of_many_doses_and_its_derivative(route):
    many = ck.Regimen((ck.Infusion(-20.0, 20.0, 0.1, "drug", addl=40, ii=0.5),))
    days = [0.0, 0.05, 0.1, 0.4]
    right = ck.solve(SATURABLE, many, days, method="tsit5")
    found = ck.solve(SATURABLE, DAILY, days, route=route)
    np.testing.assert_allclose(found["conc"], right["conc"], rtol=1e-5)
    assert found.residual < 1e-9
    assert "steady state to" in repr(found)


@pytest.mark.slow
def test_a_steady_state_has_the_derivatives_of_what_it_is():
    schedule = Schedule.of(LINEAR, [DAILY], [0.02, 0.3])
    typical = jax.tree.map(lambda x: jnp.asarray(x, float)[None], LINEAR.params())
    solver = Solver.prepare(
        schedule, jax.tree.map(lambda x: x[None], typical), rtol=1e-7, share=1.0
    )

    def level(clearance):
        found = solver(typical.replace(CL=clearance[None]))["conc"]
        return jnp.sum(jnp.log(found))

    def exact(clearance):
        p = {**bench.reference.P, "CL": clearance, "Q": 1e-12, "ka": 1.0}
        records = [bench.dose(0.0, 2, 20.0, DUR=0.1, SS=1, II=0.5)]
        records += [{"TIME": t, "EVID": 0, "CMT": 2} for t in (0.02, 0.3)]
        return np.log(bench.reference.levels(records, p=p, share={2: 1.0})).sum()

    slope, bend = jax.jit(lambda x: (jax.grad(level)(x), jax.hessian(level)(x)))(jnp.asarray(6.0))
    step = 1e-2
    low, middle, high = (exact(6.0 + k * step) for k in (-1, 0, 1))
    assert float(slope) == pytest.approx((high - low) / (2 * step), rel=1e-4)
    assert float(bend) == pytest.approx((high - 2 * middle + low) / step**2, rel=1e-3)


@pytest.mark.slow
def test_what_has_no_steady_state_is_nan_with_a_reason():
    """More is given than can be eliminated."""
    regimen = ck.Regimen((ck.Bolus(0.0, 60.0, "drug", "mg", ss=1, ii=0.5),))
    solution = ck.solve(SATURABLE, regimen, [0.0, 0.1], route="mesh")
    assert "no steady state" in solution.reason
    assert np.isnan(solution["conc"]).all()


@pytest.mark.parametrize(
    ("ss", "right"), [((1,), "first"), ((1, 2), "both"), ((1, 1), "first"), ((2, 2), "both")]
)
def test_a_sample_without_order_sees_the_steady_state_before_the_dose(ss, right):
    """The trough: as a sample a moment later sees it, less the doses that were given."""
    model = bench.models(False, None)[0]
    products = ("drug", "drug_iv")
    doses = [
        ck.Bolus(0.0, 40.0, product, "mg", ss=s, ii=0.5)
        for product, s in zip(products, ss, strict=False)
    ]
    many = [
        dataclasses.replace(dose, time=-100.0, addl=199, ss=0)
        for dose in (doses if right == "both" else doses[:1])
    ]
    found, exact = (
        ck.solve(model, ck.Regimen(tuple(d)), [0.0], route="mesh") for d in (doses, many)
    )
    assert float(found["conc"][0]) == pytest.approx(float(exact["conc"][0]), rel=1e-9)


@pytest.mark.parametrize(
    ("regimen", "words"),
    [
        (ck.Infusion(0.0, 9.0, product="drug", rate=-2), "the model must give its duration"),
        (ck.Infusion(0.0, 9.0, product="drug", rate=5.0), "0.0001. If that converts units"),
    ],
)
def test_an_infusion_that_the_model_cannot_time_is_refused(regimen, words):
    target = ck.Target("drug", lambda p: 1e-4, unit="mg", rate=lambda p: p.R)
    model = dataclasses.replace(LINEAR, targets={"drug": target})
    with pytest.raises(ck.RegimenError, match=words):
        ck.solve(model, ck.Regimen((regimen,)), [0.0, 1.0])


def test_rounding_does_not_change_the_order_of_a_sample_and_a_dose():
    """Hours are not exact in days; nor is the sum of a time and a lag."""
    dose = ck.Regimen((ck.Bolus(7 / 24 + 1 / 24, 40.0, "drug", "mg"),))
    bolus = dataclasses.replace(LINEAR, targets={"drug": ck.Target("drug", unit="mg")})
    late = bench.models(True, None)[1]
    for hour in (8 / 24, np.nextafter(8 / 24, 1), np.nextafter(8 / 24, 0)):
        before, after = (ck.solve(bolus, dose, [hour], after=x)["conc"] for x in (False, True))
        assert float(before[0]) == 0
        assert float(after[0]) == pytest.approx(10.0)
    for shift in (-1e-12, 0.0, 1e-12):  # a late dose comes before a sample of its time
        seen = ck.solve(late, dose, [8 / 24 + bench.LAG[1] + shift])
        assert float(seen.states.depot[0]) == pytest.approx(0.7 * 40.0)
