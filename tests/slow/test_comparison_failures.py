"""Patients whose equations cannot be solved: a stiff method has to try first, which takes long."""

import math

import numpy as np
import pytest

import carpk as ck
from carpk.comparison import compare

pytestmark = pytest.mark.slow


class Params(ck.Params):
    r: ck.Scalar = ck.param(0.1, "1/day", "loss rate", "made up", iiv=0.2)
    BURST: ck.Scalar = ck.covariate(0.0, "1", "1 where cells burst", "made up")


class States(ck.States):
    C: ck.Scalar = ck.state("cells/µL", "cells", 1.0)


MODEL = ck.ODEModel(
    name="burst",
    params=Params,
    states=States,
    vector_field=lambda t, y, p: States(C=-p.r * y.C + p.BURST * y.C**2),
    targets={"car_t": ck.Target("C", scale=lambda p: 1e-7)},
    outputs={"car_t": lambda t, y, p: y.C},
    units={"car_t": "cells/µL"},
)


def test_patients_without_a_solution_are_left_out_of_every_arm_and_counted():
    dose, fails = ck.Regimen.cells(0, 1e8), np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    result = compare(
        MODEL,
        {"a": dose, "b": (dose, {"BURST": fails})},
        ["cmax"],
        days=np.linspace(0, 40, 41),
        patients=6,
    )
    cmax = result.table.loc[("cmax", "b", "ratio")]
    assert cmax["left_out"] == 2
    assert cmax["estimate"] == pytest.approx(1.0, rel=1e-4)
    assert np.isfinite(result.data["cmax"].sel(arm="a")).all()
    kept = result.data["cmax"].sel(arm="a").values[0, fails == 0]
    center = result.by_arm.loc[("cmax", "a"), "center"]
    assert center == pytest.approx(math.exp(np.log(kept).mean()), rel=1e-9)
    assert any("2 of 6 virtual patients have no solution under 'b'" in x for x in result.caveats)
    assert not any("is not defined" in x for x in result.caveats)
    assert "left_out" in repr(result)
