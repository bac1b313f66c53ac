"""NCA of drugs: routes, C0 of a bolus, clearance, volume, mean residence time."""

import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carpk import nca
from carpk.errors import CarpkError
from carpk.nca import reasons

sys.path.append(str(Path(__file__).parent / "reference" / "nca"))
import definitions

NAN = np.nan
T = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0])
CURVES = {  # simulated [mg/L], LLOQ 0.01
    "one phase": 10 * np.exp(-0.6 * T),
    "two phases": 8 * np.exp(-3 * T) + 2 * np.exp(-0.3 * T),
    "still rising": 4 * (np.exp(-0.3 * T) - np.exp(-4 * T)),
    "first sample BLQ": np.where(T < 0.2, 0.0, 10 * np.exp(-0.6 * T)),
    "second sample BLQ": np.where(T == 0.25, 0.0, 10 * np.exp(-0.6 * T)),
    "BLQ at the end": np.where(T > 3, 0.0, 10 * np.exp(-0.6 * T)),
    "two samples": np.array([9.0, 7.0]),
    "one sample": np.array([9.0]),
    "BLQ everywhere": np.zeros(8),
}
ROUTES = {"bolus": 0.0, "infusion": 0.05, "extravascular": 0.0}


def data_of(curves, duration=0.0, doses=((0.0, 100.0),), unit="mg"):
    rows = [
        (name, day, float(x))
        for name, curve in curves.items()
        for day, x in zip(T, curve, strict=False)
    ]
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte="drug", unit="mg/L", lloq=0.01)
    seen["censored"] = (seen["value"] == 0).astype(int)
    given = pd.DataFrame([(name, *dose) for name in curves for dose in doses])
    given.columns = ["patient", "time", "amount"]
    given = given.assign(product="drug", unit=unit, duration=duration)
    return types.SimpleNamespace(observations=seen, doses=given)


@pytest.fixture(scope="module")
def of_routes():
    return {
        route: nca.table(data_of(CURVES, duration), route=route).set_index("patient")
        for route, duration in ROUTES.items()
    }


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("route", ROUTES)
def test_every_parameter_of_every_curve_and_route_is_as_defined(of_routes, route, name):
    row = of_routes[route].loc[name]
    points = list(zip(T, CURVES[name], strict=False))
    right = definitions.of_drug(points, 0.01, 100.0, route, ROUTES[route])
    assert set(right) == set(of_routes[route].attrs["units"]) - {"day", "TABOVE"}
    for parameter, value in right.items():
        assert row[parameter] == pytest.approx(value, rel=1e-8, nan_ok=True), parameter
    told = reasons.read(row["PPREASND"])
    absent = {n for n, x in right.items() if np.isnan(x) or (n == "LAMZNPT" and x == 0)}
    assert set(told) == absent


def test_a_bolus_of_one_compartment_gives_its_clearance_and_volume(of_routes):
    """V = 10 L, k = 0.6/day: CL = 6 L/day, MRT = 1/k. All is exponential, so exact."""
    row = of_routes["bolus"].loc["one phase"]
    found = row[["C0", "CLO", "VZO", "MRTIVIFO", "AUCPBEO"]].tolist()
    assert found == pytest.approx([10, 6, 10, 1 / 0.6, 100 * (1 - np.exp(-0.06))], rel=1e-9)
    units = of_routes["bolus"].attrs["units"]
    assert [units[n] for n in ("C0", "CLO", "VZO", "MRTIVIFO")] == ["mg/L", "L/day", "L", "day"]
    assert row["METHOD"].endswith("; bolus")
    assert "first value C0 (log-linear back-extrapolation)" in row["METHOD"]


def test_other_units_are_written_out():
    units = nca.table(data_of(CURVES, unit="mg/m2"), route="bolus").attrs["units"]
    assert (units["VZO"], units["CLO"]) == ("(mg/m2)/(mg/L)", "(mg/m2)/(mg/L)/day")


@pytest.mark.parametrize("route", ROUTES)
def test_clearance_is_not_computed_on_what_an_earlier_dose_left(route):
    doses = [(0.0, 100.0), (1.0, 100.0)]
    table = nca.table(data_of({"p": CURVES["one phase"]}, ROUTES[route], doses), route=route)
    first, second = table.to_dict("records")
    names = [n for n in table if n in ("CLO", "VZO", "MRTIVIFO", "CLFO", "VZFO", "MRTEVIFO")]
    assert len(names) == 3
    for name in names:
        assert np.isnan(second[name])
        assert reasons.read(second["PPREASND"])[name] == "concentration left from the dose before"
        assert np.isfinite(first[name])
    assert second["AUCIFO"] > 0


@pytest.mark.parametrize(
    ("duration", "route", "takes"),
    [
        (0.0, None, "extravascular"),
        (0.05, None, "infusion"),
        (0.05, "infusion", "infusion"),
        (0.0, "infusion", "infusion"),
        (0.05, "extravascular", "extravascular"),
    ],
)
def test_the_route_is_the_one_given_or_that_of_the_durations(duration, route, takes):
    table = nca.table(data_of({"p": CURVES["one phase"]}, duration), route=route)
    assert table["METHOD"][0].endswith(f"; {takes}")
    long = nca.pp_domain(table).set_index("PPTESTCD")
    code = "CLFO" if takes == "extravascular" else "CLO"
    assert long.loc[code, "PPTEST"] == ("Total CL Obs by F" if code == "CLFO" else "Total CL Obs")


def test_half_of_the_whole_duration_of_several_bags_is_taken_from_the_residence_time():
    doses = [(0.0, 50.0), (0.02, 50.0)]
    data = data_of({"p": CURVES["one phase"]}, 0.03, doses)
    data.doses.index = [0, 0]
    bags = nca.table(data, bags_within=0.05)["MRTIVIFO"][0]
    whole = nca.table(data_of({"p": CURVES["one phase"]}, 0.05))["MRTIVIFO"][0]
    assert bags == pytest.approx(whole, rel=1e-12)


def test_only_the_level_of_a_drug_has_its_clearance():
    data = data_of({"p": CURVES["one phase"]})
    data.observations["analyte"] = "il6"
    assert "CLFO" not in nca.table(data)
    assert "CLFO" in nca.table(data, product="drug")  # a metabolite has another name


@pytest.mark.parametrize(
    ("duration", "unit", "route", "advice"),
    [
        (0.05, "mg", "bolus", "'p' on day 0 has a duration"),
        (0.0, "mg", "oral", "one of 'bolus', 'infusion', 'extravascular'.*'oral'"),
        (0.0, "mg", "", "one of 'bolus'"),
        (0.0, "cells", "bolus", "is for drugs, but is 'bolus' for doses of cells"),
        ([0.0, 0.05], "mg", None, "some doses have a duration and some have none"),
    ],
)
def test_a_route_that_the_doses_contradict_is_refused(duration, unit, route, advice):
    doses = [(0.0, 100.0), (3.0, 100.0)]
    with pytest.raises(CarpkError, match=advice):
        nca.table(data_of({"p": CURVES["one phase"]}, duration, doses, unit), route=route)
