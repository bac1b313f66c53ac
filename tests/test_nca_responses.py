"""Counts and cytokines: baseline, nadir, days below, recovery, peak over baseline."""

import types

import numpy as np
import pandas as pd
import pytest

from carpk import nca
from carpk.errors import CarpkError
from carpk.nca import reasons

NAN = np.nan
FLU = [(-5.0, "flu", 30.0, "mg/m2"), (-4.0, "flu", 30.0, "mg/m2"), (0.0, "car_t", 1e8, "cells")]
# Simulated counts [cells/µL]; lymphodepletion on day -5.
ANC = {
    "back": {-6.0: 3000, -2.0: 1500, 3.0: 100, 10.0: 300, 20.0: 600, 27.0: 800},
    "back for a day": {-6.0: 3000, 3.0: 100, 10.0: 600, 14.0: 400, 20.0: 700, 30.0: 900},
    "not back": {-6.0: 3000, 3.0: 100, 10.0: 300},
    "never low": {-6.0: 3000, 3.0: 900, 10.0: 800},
    "no baseline": {3.0: 100, 10.0: 600, 20.0: 700},
    "drawn at the first dose": {-8.0: 4000, -5.0: 3500, 3.0: 0, 10.0: 600},
    "baseline only": {-6.0: 3000},
}


def data_of(counts, doses=None, lloq=10.0, analyte="anc"):
    rows = [(p, day, float(x)) for p, curve in counts.items() for day, x in curve.items()]
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte=analyte, unit="cells/µL", lloq=lloq)
    seen["censored"] = (seen["value"] == 0).astype(int) if lloq == lloq else 0
    given = [(p, *dose) for p in counts for dose in doses or FLU]
    doses = pd.DataFrame(given, columns=["patient", "time", "product", "amount", "unit"])
    people = pd.DataFrame({"patient": [*counts], "arm": ["x", *["y"] * (len(counts) - 1)]})
    return types.SimpleNamespace(observations=seen, doses=doses, patients=people)


def rows_of(table):
    return table.set_index("patient")


def says(row, name):
    return reasons.read(row["PPREASND"]).get(name, "")


# --- nadir ----------------------------------------------------------------------------------------

EXPECTED = {  # baseline, nadir, its day; recovery to 500: one sample, for 5 days, or why not
    "back": (3000, 100, 3, 20, 20),
    "back for a day": (3000, 100, 3, 10, 20),
    "not back": (3000, 100, 3, "not back by day 10", "not back by day 10"),
    "never low": (3000, 800, 10, "never below 500", "never below 500"),
    "no baseline": (NAN, 100, 3, 10, 10),
    "drawn at the first dose": (3500, 0, 3, 10, "back from day 10, but not followed for 5 day"),
    "baseline only": (3000, NAN, NAN, *["no sample after the first dose of the course"] * 2),
}


@pytest.mark.parametrize("name", ANC)
@pytest.mark.parametrize(("place", "sustained"), [(3, 0.0), (4, 5.0)])
def test_nadir_and_recovery_are_those_of_the_samples(name, place, sustained):
    row = rows_of(nca.nadir(data_of(ANC), below=500, sustained=sustained)).loc[name]
    *depth, recovered = *EXPECTED[name][:3], EXPECTED[name][place]
    assert row[["BASE", "CMIN", "TMIN"]].tolist() == pytest.approx(depth, nan_ok=True)
    if isinstance(recovered, str):
        assert np.isnan(row["TRECOV"])
        assert says(row, "TRECOV") == recovered
    else:
        assert row["TRECOV"] == recovered
        assert not says(row, "TRECOV")


@pytest.mark.parametrize(
    ("name", "start"), [("back", -6.0), ("no baseline", 3.0), ("drawn at the first dose", -5.0)]
)
@pytest.mark.parametrize("below", [150.0, 500.0, 1e5])
def test_days_below_are_counted_on_the_curve_from_the_baseline(name, start, below):
    row = rows_of(nca.nadir(data_of(ANC), below=below)).loc[name]
    t = np.array([day for day in ANC[name] if day >= start])
    fine = np.linspace(t[0], t[-1], 400_001)
    level = np.interp(fine, t, [ANC[name][day] for day in t])
    for (a, left), (b, right) in zip(
        *(list(zip(t[k:], [ANC[name][d] for d in t[k:]], strict=True)) for k in (0, 1)),
        strict=False,
    ):
        inside = (fine >= a) & (fine <= b)
        if 0 < right < left:  # declines are exponential
            level[inside] = left * (right / left) ** ((fine[inside] - a) / (b - a))
    assert row["TBELOW"] == pytest.approx((level < below).mean() * (t[-1] - t[0]), abs=1e-3)


def test_another_threshold_may_say_what_recovery_is():
    row = rows_of(nca.nadir(data_of(ANC), below=500, recovery=700)).loc["back"]
    assert row["TRECOV"] == 27
    assert row["METHOD"].endswith("recovery at or above 700")
    plain = rows_of(nca.nadir(data_of(ANC), below=500, sustained=3)).loc["back"]
    assert plain["METHOD"].endswith("recovery at or above 500 for 3 day")


def test_the_basis_of_a_baseline_is_told():
    table = rows_of(nca.nadir(data_of(ANC), below=500))
    assert table.loc["back", "BASIS"] == "day -6, before flu on day -5"
    assert table.loc["no baseline", "BASIS"] == "no sample up to flu on day -5"
    assert says(table.loc["no baseline"], "BASE") == "no sample up to flu on day -5"


AGAIN = [*FLU, (37.0, "flu", 30.0, "mg/m2"), (42.0, "car_t", 1e8, "cells")]


def test_each_infusion_has_the_baseline_before_its_own_lymphodepletion():
    counts = {"p": {-6.0: 3000, 3.0: 100, 30.0: 900, 36.0: 1200, 39.0: 80, 45.0: 20, 60.0: 700}}
    first, second = nca.nadir(data_of(counts, AGAIN), below=500).to_dict("records")
    assert (first["BASE"], first["CMIN"], first["TRECOV"]) == (3000, 100, 30)
    assert (second["BASE"], second["CMIN"], second["TMIN"]) == (1200, 20, 3)
    assert second["BASIS"] == "day 36, before flu on day 37"
    assert second["TRECOV"] == 18


def test_a_product_that_is_no_conditioning_need_not_open_a_course():
    doses = [*FLU, (20.0, "pd1", 200.0, "mg"), (42.0, "car_t", 1e8, "cells")]
    counts = {"p": {-6.0: 3000, 3.0: 100, 30.0: 900, 41.0: 1200, 45.0: 20}}
    every = nca.nadir(data_of(counts, doses), below=500).iloc[1]
    assert (every["BASE"], every["BASIS"]) == (100, "day 3, before pd1 on day 20")
    named = nca.nadir(data_of(counts, doses), below=500, conditioning=["flu"]).iloc[1]
    assert (named["BASE"], named["BASIS"]) == (1200, "day 41, before car_t on day 42")


def test_an_excluded_sample_is_no_baseline_and_no_nadir():
    counts = {"p": {-6.0: 3000, -5.5: 50, 3.0: 100, 10.0: 600, 36.0: 1200, 39.0: 80}}
    entries = [("p", -5.5, "clotted"), ("p", 39.0, "wrong tube")]
    entries = pd.DataFrame(entries, columns=["patient", "time", "reason"])
    first, second = nca.nadir(data_of(counts, AGAIN), below=500, exclude=entries).to_dict("records")
    assert (first["BASE"], first["NCAXRS"]) == (3000, "day -5.5: clotted")
    assert (second["BASE"], second["NCAXRS"]) == (1200, "day 39: wrong tube")
    assert np.isnan(second["CMIN"])
    assert nca.change(data_of(counts), exclude=entries[:1])["NCAXRS"][0] == "day -5.5: clotted"


# --- change from baseline -------------------------------------------------------------------------

IL6 = {
    "rises": ({-6.0: 20, -2.0: 900, 3.0: 400, 7.0: 100}, (20, 400, 3, 380, 20)),
    "BLQ baseline": ({-6.0: 0, 3.0: 400}, (0, 400, 3, 400, 40)),
    "BLQ ever": ({-6.0: 0, 3.0: 0}, (0, 0, 3, 0, 0)),
    "no baseline": ({3.0: 400}, (NAN, 400, 3, NAN, NAN)),
    "no peak": ({-6.0: 20, -2.0: 900}, (20, NAN, NAN, NAN, NAN)),
}


@pytest.mark.parametrize("name", IL6)
def test_a_peak_is_compared_with_the_baseline(name):
    curves = {key: curve for key, (curve, _) in IL6.items()}
    row = rows_of(nca.change(data_of(curves, analyte="il6"))).loc[name]
    columns = ["BASE", "CMAX", "TMAX", "CHG", "R2BASE"]
    assert row[columns].tolist() == pytest.approx(IL6[name][1], nan_ok=True)
    assert set(reasons.read(row["PPREASND"])) == {n for n in columns if np.isnan(row[n])}


def test_a_ratio_to_a_blq_baseline_rests_on_the_lloq_and_says_so():
    table = nca.change(data_of({"p": IL6["BLQ baseline"][0]}))
    assert table["BASIS"][0] == "day -6 (BLQ, LLOQ 10), before flu on day -5"
    unknown = nca.change(data_of({"p": IL6["BLQ baseline"][0]}, lloq=NAN)).iloc[0]
    assert np.isnan(unknown["R2BASE"])
    assert says(unknown, "R2BASE") == "baseline 0 and no LLOQ known"


# --- both -----------------------------------------------------------------------------------------

TABLES = {
    "nadir": lambda data, **more: nca.nadir(data, below=500, **more),
    "change": nca.change,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=[*TABLES])
def test_rows_have_arms_units_statistics_and_cdisc_terms(table):
    found = table(data_of({"p": ANC["back"], "q": ANC["not back"]}), by="arm")
    assert found["arm"].tolist() == ["x", "y"]
    assert found.attrs["units"]["BASE"] == "cells/µL"
    assert nca.summary(found, by="arm").loc[("x", "BASE"), "mean"] == 3000
    long = nca.pp_domain(found)
    assert len(long) == 10
    assert long["PPANMETH"].str.contains("baseline: day -6, before flu on day -5").all()
    assert (long["PPTESTCD"].str.len() <= 8).all()


@pytest.mark.parametrize(
    ("table", "arguments", "advice"),
    [
        (nca.nadir, {"below": 0}, "must be above 0"),
        (nca.nadir, {"below": 500, "recovery": -1}, "must be above 0"),
        (nca.nadir, {"below": 500, "sustained": -1}, "0 or more"),
        (nca.nadir, {"below": 500, "conditioning": ["fly"]}, "'fly', which was not.*mean 'flu'"),
        (nca.change, {"conditioning": ["fly"]}, "'fly', which was not given"),
    ],
)
def test_impossible_requests_are_refused(table, arguments, advice):
    with pytest.raises(CarpkError, match=advice):
        table(data_of(ANC), **arguments)
