"""What cannot be solved is refused in one clear sentence, before anything is compiled."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

import carpk as ck
from carpk.solver import mesh
from carpk.solver.events import Schedule


class Params(ck.Params):
    rho: ck.Scalar = ck.param(0.5, "1/day", "growth rate")
    clearance: ck.Scalar = ck.param(9.0, "L/day", "clearance")


class OtherParams(Params):
    pass


class States(ck.States):
    cells: ck.Scalar = ck.state("cells/µL", "CAR-T cells", 0.1, log=True)
    tumor: ck.Scalar = ck.state("cells/µL", "tumor cells", 50.0)


MODEL = ck.ODEModel(
    name="small",
    params=Params,
    states=States,
    vector_field=lambda t, y, p, c: States(p.rho * y.cells, -c["drug"] * y.tumor),
    outputs={"level": lambda t, y, p, c: y.cells},
    units={"level": "cells/µL"},
    targets={"car_t": ck.Target("cells", scale=lambda p: 1e-8)},
    inputs={"drug": lambda p: ck.Disposition(p.clearance, 4.0)},
)
CELLS = ck.Regimen.cells(0.0)
DAYS = [0.0, 1.0, 2.0]


def solve(*events, days=DAYS, model=MODEL, **options):
    return ck.solve(model, ck.Regimen(events) if events else CELLS, days, **options)


def with_field(field):
    return dataclasses.replace(MODEL, vector_field=field)


def with_output(output):
    return dataclasses.replace(MODEL, outputs={"level": output})


REFUSED = {
    # observations
    "times out of order": (
        lambda: solve(days=[0.0, 2.0, 1.0]),
        r"observation times must ascend, but day 2 is followed by day 1; sort them\.",
    ),
    "no time": (lambda: solve(days=[]), "observation times must be at least one number"),
    "no time that is a number": (
        lambda: solve(days=[math.nan]),
        "observation times must be at least one number",
    ),
    "a gap in the times": (
        lambda: solve(days=[0.0, math.nan, 1.0]),
        "observation times must be at least one number",
    ),
    "an infinite time": (lambda: solve(days=[0.0, math.inf]), "An observation time is infinite"),
    "an observation before the start": (
        lambda: solve(days=[-1.0, 1.0], start=0.0),
        r"The observation on day -1 lies before the start on day 0; start earlier, or leave",
    ),
    "an event before the start": (
        lambda: solve(ck.Bolus(-2.0, 1e8), start=-1.0),
        r"The event on day -2 lies before the start on day -1; start earlier, or leave",
    ),
    "a start that is no day": (lambda: solve(start=-math.inf), "start is -inf, but must be a day"),
    # doses
    "a negative amount": (lambda: solve(ck.Bolus(0.0, -1e8)), "amount must be above 0"),
    "an amount that is not a number": (
        lambda: solve(ck.Bolus(0.0, math.nan)),
        "amount must be above 0",
    ),
    "an infusion of no duration": (
        lambda: solve(ck.Infusion(0.0, 1.0, 0.0, "drug")),
        "an infusion of 0.0 days; an infusion must last longer than 0 days, .* is a Bolus",
    ),
    "a negative factor": (
        lambda: solve(ck.Multiply(0.0, -0.5, "cells")),
        "Multiply on day 0.0 of 'cells' has amount -0.5, but it must be at least 0",
    ),
    "additional doses at no interval": (
        lambda: solve(ck.Bolus(0.0, 1e8, addl=2)),
        r"2 additional doses, so ii, the days between them, must be above 0, but it is 0.0\.",
    ),
    "half an additional dose": (
        lambda: solve(ck.Bolus(0.0, 1e8, addl=0.5, ii=1.0)),
        "addl must be a whole number from 0, but is 0.5",
    ),
    "a product that is not known": (
        lambda: solve(ck.Bolus(1.0, 5.0, "tocilizumab", "mg")),
        r"dose of tocilizumab on day 1 has nowhere to go in 'small': 'tocilizumab' is neither a "
        r"product it knows nor a compartment; known are car_t, cells, tumor, drug\.",
    ),
    "a compartment that is not known": (
        lambda: solve(ck.Bolus(1.0, 5.0, compartment="marrow")),
        "dose of car_t on day 1 has nowhere to go in 'small': 'marrow' is neither",
    ),
    "a state that is not known": (
        lambda: solve(ck.Replace(1.0, 5.0, "marrow")),
        r"Replace on day 1: 'marrow' is not a state of 'small'; it has cells, tumor\.",
    ),
    "the concentration of a drug set to a value": (
        lambda: solve(ck.Multiply(1.0, 0.5, "drug")),
        r"Multiply on day 1: 'drug' is not a state of 'small'; it has cells, tumor\.",
    ),
    "mg into cells": (
        lambda: solve(ck.Bolus(1.0, 5.0, unit="mg")),
        r"dose of car_t on day 1 is in mg, but 'small' takes car_t in cells\.",
    ),
    "amounts per m²": (
        lambda: solve(ck.Infusion(-5.0, 30.0, 0.02, "drug", per="m2")),
        r"dose of drug on day -5 is per m2, but 'small' has no covariate 'BSA'; make it absolute "
        r"with regimen\.resolve\(bsa=",
    ),
    # parameters
    "a parameter that is not a number": (
        lambda: solve(params=Params(rho=math.nan)),
        r"the parameter 'rho' is nan, but must be a finite number\.",
    ),
    "parameters of another model": (
        lambda: solve(params=ck.load_model("stein2019").params()),
        r"'small' needs its own parameters, small.params\(...\), but got Params",
    ),
    # model
    "a vector field of another type": (
        lambda: solve(model=with_field(lambda t, y, p, c: (p.rho * y.cells, 0.0))),
        r"the vector field must return States, but returned tuple\.",
    ),
    "a vector field of another shape": (
        lambda: solve(model=with_field(lambda t, y, p, c: States(jnp.ones(2), 0.0))),
        r"the vector field must return a number for 'cells', but returned shape \(2,\)",
    ),
    "a vector field without a number": (
        lambda: solve(model=with_field(lambda t, y, p, c: States(None, 0.0))),
        "the vector field must return a number for 'cells', but returned NoneType",
    ),
    "initial states of another shape": (
        lambda: solve(model=dataclasses.replace(MODEL, initial=lambda p: States(jnp.ones(3), 0.0))),
        r"`initial` must return a number for 'cells', but returned shape \(3,\)",
    ),
    "an output of another shape": (
        lambda: solve(model=with_output(lambda t, y, p, c: jnp.stack([y.cells, y.tumor]))),
        r"the output 'level' must be a number, but has shape \(2,\)",
    ),
    "a target that is no compartment": (
        lambda: dataclasses.replace(MODEL, targets={"car_t": ck.Target("blood")}),
        r"'car_t' goes into 'blood', which is not a compartment; known are cells, tumor, drug\.",
    ),
    "an input with the name of a state": (
        lambda: dataclasses.replace(MODEL, inputs={"tumor": lambda p: ck.Disposition(1.0, 1.0)}),
        "'tumor' is a state and an input; rename one of them",
    ),
    # options
    "a route that is not known": (
        lambda: solve(route="fast"),
        'the route must be "adaptive" or "mesh", but is \'fast\'',
    ),
    "a method that is not known": (
        lambda: solve(method="rk4"),
        "The method 'rk4' is not known; known are 'tsit5', 'dopri8', 'kvaerno5', 'kvaerno3'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_compiled(case, monkeypatch):
    """Nothing is compiled: neither the solver nor the timelines are reached."""
    make, words = REFUSED[case]
    reached = []
    monkeypatch.setattr("carpk.solver.solve._run", lambda *_: reached.append("solver"))
    monkeypatch.setattr(mesh, "choose", lambda *_, **__: reached.append("mesh"))
    monkeypatch.setattr(Schedule, "fixed", lambda *_: reached.append("timeline"))
    with pytest.raises((ck.ModelError, ck.RegimenError), match=words):
        make()
    assert reached == []


def test_messages_name_the_patient():
    with pytest.raises(ck.RegimenError, match=r"^Patient 'P02': the observation times must ascend"):
        Schedule.of(MODEL, [CELLS, CELLS], [[0.0, 1.0], [1.0, 0.0]], labels=["P01", "P02"])


def test_the_start_is_the_first_event_or_observation_of_each_patient():
    regimens = [CELLS, CELLS.shift(-3.0), ck.Regimen()]
    schedule = Schedule.of(MODEL, regimens, [[-1.0, 4.0], [2.0, np.nan], [5.0, 6.0]])
    assert schedule.rows.start.tolist() == [-1.0, -3.0, 5.0]


def test_doses_of_a_product_go_where_the_model_says_or_where_the_dose_says():
    given = ck.Regimen(
        (
            ck.Bolus(0.0, 1e8),
            ck.Bolus(1.0, 2.0, compartment="tumor"),
            ck.Infusion(2.0, 3.0, 0.1, "drug"),
            ck.Bolus(3.0, 4.0, "antibody", "mg", compartment="drug"),
        )
    )
    schedule = Schedule.of(MODEL, [given], DAYS)
    assert [target.compartment for target in schedule.structure.targets] == [
        "cells",
        "tumor",
        "drug",
    ]
    assert schedule.rows.events.aim.tolist() == [[0, 1, 2, 2]]
    assert schedule.structure.infused == (False, False, True)


def test_simultaneous_events_are_one_boundary_of_the_timeline():
    """`keep y + put + dose` composed: (3 y + 1) then doubled, with a dose of 5 after it."""
    events = [
        ck.Multiply(1.0, 3.0, "tumor"),
        ck.Bolus(1.0, 1.0, "tumor"),
        ck.Multiply(1.0, 2.0, "tumor"),
        ck.Bolus(1.0, 5.0, "tumor"),
    ]
    line = Schedule.of(MODEL, [ck.Regimen(tuple(events)), ck.Regimen()], DAYS).fixed()
    assert line.time.tolist() == [[0.0, 1.0, 2.0]] * 2
    assert line.at.tolist() == [[0, 1, 2]] * 2
    assert line.keep[:, 1].tolist() == [[1.0, 6.0, 1.0], [1.0, 1.0, 1.0]]
    assert line.dose[:, 1].tolist() == [[7.0], [0.0]]
