"""The table of NCA: every parameter on every kind of curve, choices by eye, and reasons."""

import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpk import nca
from carpk.errors import CarpkError
from carpk.nca import reasons

sys.path.append(str(Path(__file__).parent / "reference" / "nca"))
import definitions

NAN = np.nan
DAYS = [1.0, 3.0, 7.0, 10.0, 14.0, 21.0, 28.0, 42.0]
# Simulated curves, LLOQ 1, BLQ written as 0: everywhere, few points, observations that stop early.
CURVES = {
    "complete": dict(zip(DAYS, [2, 40, 900, 700, 250, 90, 30, 4], strict=True)),
    "BLQ at the start": dict(zip(DAYS, [0, 0, 900, 700, 250, 90, 30, 4], strict=True)),
    "BLQ in the middle": dict(zip(DAYS, [2, 40, 900, 700, 0, 90, 0, 4], strict=True)),
    "BLQ at the end": dict(zip(DAYS, [2, 40, 900, 700, 250, 90, 0, 0], strict=True)),
    "BLQ everywhere": dict(zip(DAYS, [0] * 8, strict=True)),
    "one sample": {7.0: 900.0},
    "one sample above the LLOQ": {7.0: 0.0, 14.0: 5.0, 28.0: 0.0},
    "no decline": dict(zip(DAYS, [2, 40, 90, 80, 85, 80, 88, 81], strict=True)),
    "still rising": dict(zip(DAYS[:4], [2, 40, 90, 900], strict=True)),
    "first is highest": dict(zip(DAYS, [900, 700, 250, 90, 30, 10, 4, 1], strict=True)),
    "last visit on day 27": {1.0: 2.0, 7.0: 900.0, 10.0: 700.0, 14.0: 250.0, 27.0: 30.0},
    "last visit on day 27, BLQ": {1.0: 2.0, 7.0: 900.0, 14.0: 250.0, 27.0: 0.0},
    "last visit on day 25": {1.0: 2.0, 7.0: 900.0, 10.0: 700.0, 14.0: 250.0, 25.0: 30.0},
}
INTERVALS = [(0, 7), (0, 28), (5, 20), (27.5, 28.5)]


def samples(patient, curve, start=0.0):
    return [(patient, start + day, float(c)) for day, c in curve.items()]


def data_of(curves, doses=((0.0, 1e8),)):
    """A data set with a patient per curve; each is given `doses` (day, cells)."""
    rows = [row for name, curve in curves.items() for row in samples(name, curve)]
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte="car_t", unit="cells/µL", lloq=1.0)
    seen["censored"] = (seen["value"] == 0).astype(int)
    given = [(name, day, amount) for name in curves for day, amount in doses]
    doses = pd.DataFrame(given, columns=["patient", "time", "amount"])
    return types.SimpleNamespace(
        observations=seen, doses=doses.assign(product="car_t", unit="cells")
    )


@pytest.fixture(scope="module")
def of_curves():
    return nca.table(data_of(CURVES), intervals=INTERVALS).set_index("patient")


@pytest.mark.parametrize("name", CURVES)
def test_every_parameter_of_every_curve_is_as_defined(of_curves, name):
    row = of_curves.loc[name]
    right = definitions.parameters([*CURVES[name].items()], 1.0, 1e8, intervals=INTERVALS)
    assert set(right) == set(of_curves.attrs["units"]) - {"day", "TABOVE"}
    for parameter, value in right.items():
        assert row[parameter] == pytest.approx(value, rel=1e-9, nan_ok=True), parameter


@pytest.mark.parametrize("name", CURVES)
def test_a_parameter_is_missing_if_and_only_if_a_reason_is_given(of_curves, name):
    row = of_curves.loc[name]
    told = reasons.read(row["PPREASND"])
    absent = {n for n in of_curves.attrs["units"] if n != "day" and np.isnan(row[n])}
    assert set(told) == absent | ({"LAMZNPT"} if row["LAMZNPT"] == 0 else set())


def says(row, parameter):
    return reasons.read(row["PPREASND"]).get(parameter, "")


def test_the_reasons_are_those_of_the_curve(of_curves):
    few = "fewer than 3 quantifiable concentrations after TMAX"
    assert says(of_curves.loc["one sample"], "LAMZ") == few
    assert says(of_curves.loc["one sample above the LLOQ"], "AUCIFO") == few
    assert says(of_curves.loc["BLQ everywhere"], "TMAX") == "all concentrations BLQ"
    assert says(of_curves.loc["first is highest"], "FOLDX").startswith("no rise from the first")
    assert says(of_curves.loc["last visit on day 25"], "AUC0_28D") == (
        "observations stop on day 25, more than 2 day before"
    )
    early = nca.table(data_of({"p": CURVES["complete"]}, [(0.0, 1e8), (20.0, 1e8)]))
    assert says(early.iloc[0], "AUC0_28D") == "next infusion on day 20"
    assert says(early.iloc[1], "FOLDX").startswith("no rise")
    late = nca.table(data_of({"p": {1.0: 5.0}}, [(0.0, NAN), (60.0, 1e8)]))
    assert says(late.iloc[0], "CMAXD") == "dose not known, or not in one unit"
    assert says(late.iloc[1], "CMAX") == "no observation from this infusion to the next"
    curves = {name: CURVES[name] for name in ("BLQ at the end", "BLQ everywhere")}
    dropped = nca.table(data_of(curves), blq=nca.BLQ(before="drop", after="drop"))
    assert says(dropped.iloc[0], "AUC0_28D") == "BLQ dropped after day 21"
    assert says(dropped.iloc[1], "AUC0_28D") == "all concentrations BLQ"
    unknown = data_of({"p": CURVES["complete"]})
    unknown.observations["lloq"] = NAN
    assert says(nca.table(unknown).iloc[0], "TABOVE") == "no LLOQ known"


# --- areas between two days -----------------------------------------------------------------------


@pytest.mark.parametrize("next_dose", [None, 28.0, 28.5, 60.0])
@pytest.mark.parametrize(
    ("last", "rule"), [(30.0, "by lambda z"), (0.0, "0 after the last BLQ")], ids=["seen", "BLQ"]
)
@pytest.mark.parametrize("most", [0.0, 0.9, 1.0, np.inf])
def test_an_area_goes_on_beyond_the_last_visit_only_as_stated(next_dose, last, rule, most):
    curve = {1.0: 2.0, 7.0: 900.0, 10.0: 700.0, 14.0: 250.0, 27.0: last}
    doses = [(0.0, 1e8)] + [(next_dose, 1e8)] * (next_dose is not None)
    row = nca.table(data_of({"p": curve}, doses), extrapolate=most).iloc[0]
    right = definitions.parameters([*curve.items()], 1.0, most=most)
    assert np.isfinite(right["AUC0_28D"]) == (most >= 1)
    assert row["AUC0_28D"] == pytest.approx(right["AUC0_28D"], rel=1e-9, nan_ok=True)
    told = reasons.read(row["EXTRAP"])
    stated = {"AUC0_28D": f"extrapolated by 1 day from day 27, {rule}"} if most >= 1 else {}
    assert told == stated


def test_an_area_is_never_extrapolated_past_the_next_infusion():
    curve = {1.0: 2.0, 7.0: 900.0, 10.0: 700.0, 14.0: 250.0, 26.0: 30.0}
    row = nca.table(data_of({"p": curve}, [(0.0, 1e8), (27.0, 1e8)]), extrapolate=np.inf).iloc[0]
    assert np.isnan(row["AUC0_28D"])
    assert says(row, "AUC0_28D") == "next infusion on day 27"


def test_areas_between_days_add_up_and_bear_the_days_in_cdisc_terms():
    table = nca.table(data_of(CURVES), intervals=[(0, 7), (7, 28), (0, 28)])
    both = table["AUC0_7D"] + table["AUC7_28D"]
    assert both.dropna().tolist() == pytest.approx(table["AUC0_28D"].dropna().tolist())
    long = nca.pp_domain(table)
    ends = long.loc[long["PPTESTCD"] == "AUCINT", ["PPSTINT", "PPENTINT"]].drop_duplicates()
    assert ends.to_numpy().tolist() == [["P0D", "P7D"], ["P7D", "P28D"], ["P0D", "P28D"]]
    early = long[long["USUBJID"] == "last visit on day 27"].set_index("PPENTINT")
    assert "extrapolated by 1 day from day 27" in early.loc["P28D", "PPANMETH"].iloc[0]
    assert "extrapolated" not in early.loc["P7D", "PPANMETH"]
    assert "AUC7_28D" in nca.summary(table).index


@pytest.mark.parametrize("pair", [(7, 0), (-1, 7), (0, np.inf), (3, 3), (NAN, 4)])
def test_impossible_intervals_are_refused(pair):
    with pytest.raises(CarpkError, match="`intervals` must hold pairs of days"):
        nca.table(data_of(CURVES), intervals=[pair])


# --- choices by eye -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("complete", (10, 28)),
        ("complete", (7, 14)),  # Tmax included, and not up to Tlast
        ("BLQ in the middle", (7, 28)),
        ("BLQ at the end", (7, 21)),
        ("first is highest", (1, 42)),
        ("no decline", (7, 42)),
    ],
)
def test_chosen_points_are_those_of_lambda_z_and_of_what_rests_on_it(name, days):
    choice = {"patient": name, "infusion": 1, "start": days[0], "stop": days[1], "reason": "by eye"}
    row = nca.table(data_of(CURVES), lambda_z=[choice]).set_index("patient").loc[name]
    right = definitions.parameters([*CURVES[name].items()], 1.0, 1e8, chosen=days)
    for parameter, value in right.items():
        assert row[parameter] == pytest.approx(value, rel=1e-9, nan_ok=True), parameter
    assert row["METHOD"].endswith(f"points from day {days[0]} to day {days[1]}, chosen: by eye")


def test_chosen_points_that_do_not_decline_give_no_lambda_z():
    choice = {"patient": ["complete"], "infusion": [1], "start": [1], "stop": [7]}
    table = nca.table(data_of(CURVES), lambda_z={**choice, "reason": ["an error"]})
    row = table.set_index("patient").loc["complete"]
    assert np.isnan(row["LAMZ"])
    assert says(row, "LAMZ") == "no decline over the chosen points"
    assert "chosen" not in table.set_index("patient").loc["no decline", "METHOD"]


def test_the_function_takes_the_same_points_as_the_table():
    t, c = np.array([*CURVES["complete"]]), np.array([*CURVES["complete"].values()], float)
    found = nca.lambda_z(t, c, 1.0, between=(10, 28))
    right = definitions.parameters([*CURVES["complete"].items()], 1.0, chosen=(10, 28))
    assert (found.start, found.stop, found.points) == (10, 28, 4)
    assert found.lambda_z == pytest.approx(right["LAMZ"], rel=1e-12)
    assert nca.lambda_z(t, c, 1.0, between=(29, 42)).points == 0
    with pytest.raises(CarpkError, match="`between` must be two days"):
        nca.lambda_z(t, c, between=(28, 10))


LEFT_OUT = [
    {"patient": "complete", "time": 7.0, "reason": "haemolysed"},
    {"patient": "BLQ at the end", "time": 28.0, "reason": "wrong tube"},
]


def test_an_excluded_sample_enters_nothing_and_its_reason_stands_in_the_table():
    data = data_of(CURVES)
    table = nca.table(data, exclude=pd.DataFrame(LEFT_OUT), intervals=INTERVALS)
    fewer = {name: dict(curve) for name, curve in CURVES.items()}
    for entry in LEFT_OUT:
        del fewer[entry["patient"]][entry["time"]]
    plain = nca.table(data_of(fewer), intervals=INTERVALS)
    same = [column for column in table if column != "NCAXRS"]
    pd.testing.assert_frame_equal(table[same], plain[same])
    told = table.set_index("patient")["NCAXRS"]
    assert told[told != ""].to_dict() == {
        "complete": "day 7: haemolysed",
        "BLQ at the end": "day 28: wrong tube",
    }
    long = nca.pp_domain(table)
    own = long[long["USUBJID"] == "complete"]
    assert own["PPANMETH"].str.contains("samples excluded: day 7: haemolysed").all()
    assert len(data.observations) == len(data_of(CURVES).observations)


def test_a_patient_all_of_whose_samples_are_excluded_keeps_a_row():
    entry = {"patient": "one sample", "time": 7, "reason": "haemolysed"}
    row = nca.table(data_of(CURVES), exclude=[entry]).set_index("patient").loc["one sample"]
    assert np.isnan(row["CMAX"])
    assert row["NCAXRS"] == "day 7: haemolysed"


def test_rows_are_excluded_whatever_their_index_says():
    data = data_of(CURVES)
    data.observations.index = [0] * len(data.observations)
    plain = nca.table(data_of(CURVES), exclude=LEFT_OUT)
    pd.testing.assert_frame_equal(nca.table(data, exclude=LEFT_OUT), plain)


def test_an_excluded_baseline_is_not_the_start_of_an_area():
    data = data_of({"p": {-1.0: 50.0, 7.0: 900.0, 14.0: 250.0}})
    entry = {"patient": "p", "time": -1, "reason": "of another patient"}
    assert nca.table(data)["AUCLST"][0] > nca.table(data, exclude=[entry])["AUCLST"][0]
    assert nca.table(data, exclude=[entry])["NCAXRS"][0] == "day -1: of another patient"


CHOICE = {"patient": "complete", "infusion": 1, "start": 10, "stop": 28, "reason": "by eye"}


@pytest.mark.parametrize(
    ("argument", "entries", "advice"),
    [
        ("lambda_z", [{**CHOICE, "patient": "Q"}], "'Q', infusion 1.*matches no infusion"),
        ("lambda_z", [{**CHOICE, "infusion": 2}], "infusion 2.*matches no infusion"),
        ("lambda_z", [CHOICE, CHOICE], "row 2.*a second time"),
        ("lambda_z", [{**CHOICE, "stop": 10}], "from day 10 to 10"),
        ("lambda_z", [{**CHOICE, "stop": 14}], "holds 2 quantifiable.*needs 3 or more"),
        ("lambda_z", [{**CHOICE, "reason": " "}], "row 1, gives no reason"),
        ("lambda_z", [{"patient": "complete"}], "columns patient, infusion, start, stop, reason"),
        ("exclude", [{**LEFT_OUT[0], "time": 8.0}], "matches no sample of 'car_t'"),
        ("exclude", [{**LEFT_OUT[0], "patient": "Q"}], "matches no sample"),
        ("exclude", [LEFT_OUT[0]] * 2, "row 2.*not excluded already"),
        ("exclude", [{**LEFT_OUT[0], "reason": None}], "gives no reason"),
        ("exclude", [{**LEFT_OUT[0], "analyte": "il6"}], "the columns patient, time, reason"),
    ],
)
def test_an_entry_that_matches_nothing_or_gives_no_reason_is_refused(argument, entries, advice):
    with pytest.raises(CarpkError, match=advice):
        nca.table(data_of(CURVES), **{argument: entries})


@pytest.mark.parametrize("kind", [int, str])
@pytest.mark.parametrize("written", [2, "2"])
def test_patients_are_found_whether_their_labels_are_numbers_or_text(kind, written):
    data = data_of({kind(1): CURVES["complete"], kind(2): CURVES["no decline"]})
    entry = {"patient": written, "time": 7.0, "reason": "haemolysed"}
    assert nca.table(data, exclude=[entry])["NCAXRS"].tolist() == ["", "day 7: haemolysed"]


# --- acceptance -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "parameter", "sign"),
    [("r2adj", "R2ADJ", "<"), ("span", "LAMZSPN", "<"), ("extrapolated", "AUCPEO", ">")],
)
def test_a_rule_of_acceptance_flags_and_leaves_every_value(of_curves, rule, parameter, sign):
    value = of_curves.loc["complete", parameter]
    off = {"r2adj": -1.0, "span": 0.0, "extrapolated": 100.0}
    for shift, flagged in ((-1e-6, sign == ">"), (1e-6, sign == "<")):
        rules = nca.Acceptance(**{**off, rule: float(value + shift)})
        table = nca.table(data_of(CURVES), intervals=INTERVALS, acceptance=rules)
        told = table.set_index("patient").loc["complete", "FLAG"]
        assert (f"{parameter} {value:.3g} {sign}" in told) == flagged
        values = table.set_index("patient")[of_curves.columns[3:-5]]
        pd.testing.assert_frame_equal(values, of_curves[of_curves.columns[3:-5]])


def test_without_a_terminal_phase_nothing_is_flagged_and_the_export_repeats_the_flag(of_curves):
    assert of_curves.loc["BLQ everywhere", "FLAG"] == ""
    assert of_curves.loc["no decline", "FLAG"].startswith("R2ADJ")
    long = nca.pp_domain(nca.table(data_of(CURVES)))
    own = long[long["USUBJID"] == "no decline"].set_index("PPTESTCD")["PPANMETH"]
    assert "not accepted: R2ADJ" in own["LAMZHL"]
    assert "not accepted" not in own["CMAX"]


# --- fold expansion -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "base"),
    [
        ({1.0: 20, 7.0: 900}, "20 on day 1, the first sample"),
        ({1.0: 0, 7.0: 30, 9.0: 900}, "30 on day 7, after BLQ on day 1"),
        ({1.0: 0, 7.0: 0}, ""),
    ],
)
def test_fold_expansion_says_over_what_it_is_taken(curve, base):
    table = nca.table(data_of({"p": curve}))
    assert table["FOLDBASE"].tolist() == [base]
    method = nca.pp_domain(table).set_index("PPTESTCD").loc["FOLDX", "PPANMETH"]
    assert (f"over {base}" in method) == bool(base)


# --- what was not foreseen ------------------------------------------------------------------------

POINTS = st.dictionaries(
    st.integers(1, 60).map(float), st.sampled_from([0.0, 1.0, 1.5, 3.0, 40.0, 900.0]), max_size=8
)


@settings(max_examples=40, deadline=None)
@given(curve=POINTS, again=st.sampled_from([None, 10.0, 28.0]), most=st.sampled_from([0.0, 5.0]))
def test_any_curve_gives_values_as_defined_or_a_reason(curve, again, most):
    doses = [(0.0, 1e8)] + [(again, 1e8)] * (again is not None)
    curves = {"p": dict(sorted(curve.items())), "other": {1.0: 5.0}}
    rows = nca.table(data_of(curves, doses), extrapolate=most)
    rows = rows[rows["patient"] == "p"]
    if not curve:
        assert rows.empty  # a patient without samples is no patient of the observations
        return
    first = rows.iloc[0]
    until = again or np.inf
    points = [(t, c) for t, c in curves["p"].items() if t <= until]
    right = definitions.parameters(points, 1.0, 1e8, most=most)
    if until < 28:
        right["AUC0_28D"] = NAN
    for parameter, value in right.items():
        assert first[parameter] == pytest.approx(value, rel=1e-6, nan_ok=True), parameter
    for _, row in rows.iterrows():
        absent = {n for n in right if np.isnan(row[n]) or (n == "LAMZNPT" and row[n] == 0)}
        assert set(reasons.read(row["PPREASND"])) - {"TABOVE"} == absent
