"""A data set takes what is right, refuses the rest with advice, and says what it changed.

All patients here are simulated.
"""

import itertools
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carpk as ck
from carpk.dataset import Dataset, cohort_summaries, load_dataset, tables, units
from carpk.dosing.regimen import Infusion, Reset
from carpk.errors import CarpkWarning, DatasetError

FOLDER = Path(__file__).parent / "reference" / "dataset" / "simulated"


def patients(**columns):
    return pd.DataFrame({"patient": ["P1", "P2"], "cohort": ["flu", "flucy"], **columns})


def doses(**columns):
    table = {
        "patient": ["P1", "P1", "P2"],
        "time": [-5.0, 0.0, 0.0],
        "product": ["fludarabine", "car_t", "car_t"],
        "amount": [30.0, 1e8, 1e8],
        "unit": ["mg/m2", "cells", "cells"],
        "duration": [0.02, 0.0, 0.0],
    }
    return pd.DataFrame({**table, **columns})


def observations(**columns):
    table = {
        "patient": ["P1", "P1", "P2", "P2"],
        "time": [7.0, 14.0, 7.0, 180.0],
        "analyte": ["transgene"] * 4,
        "value": [2e4, 3e3, 5e4, 50.0],
        "unit": ["copies/µg"] * 4,
        "lloq": [50.0] * 4,
        "censored": [0, 0, 0, 1],
    }
    return pd.DataFrame({**table, **columns})


def summaries(**columns):
    table = {
        "cohort": ["flu", "flu", "flucy", "flucy"],
        "analyte": ["transgene"] * 4,
        "metric": ["cmax", "level", "auc", "detectable"],
        "time": [None, 28.0, 28.0, 42.0],
        "statistic": ["median", "geometric mean", "mean", "count"],
        "value": [4e4, 900.0, 3e5, 7],
        "low": [1e4, None, None, None],
        "high": [9e4, None, None, None],
        "interval": ["IQR", "CV%", "SD", ""],
        "spread": [None, 120.0, 2e5, None],
        "n": [9, 9, 8, 9],
        "unit": ["copies/µg", "copies/ug DNA", "day*copies/µg", "patients"],
        "lloq": [50.0] * 4,
        "use": ["fit", "fit", "check", "fit"],
        "source": ["Table 2"] * 4,
        "note": ["", "", "same patients as Cmax", ""],
    }
    return pd.DataFrame({**table, **columns})


def dataset(**tables):
    """The good data set, with some tables replaced."""
    given = {"patients": patients(), "doses": doses(), "observations": observations(), **tables}
    return Dataset.from_frames(**given)


def at(table, row, column, entry):
    """The table with one entry replaced, whatever its type."""
    changed = table.astype(object)
    changed.loc[row, column] = entry
    return changed


def refusal(**tables):
    with pytest.raises(DatasetError) as caught:
        dataset(**tables)
    return str(caught.value)


# ---- good data ------------------------------------------------------------------------------


def test_good_tables_pass_unchanged_and_without_notes():
    data = dataset()
    assert data.notes == ()
    assert data.observations["value"].tolist() == [2e4, 3e3, 5e4, 50.0]
    assert data.analytes == ("transgene",)
    assert data.units == {"transgene": "copies/µg"}
    assert data.infusions["product"].tolist() == ["car_t", "car_t"]


def test_the_caller_s_tables_are_not_touched():
    table = observations(unit=["copies/ng"] * 4)
    before = table.copy()
    data = dataset(observations=table)
    data.observations.loc[0, "value"] = -1.0
    pd.testing.assert_frame_equal(table, before)


def test_printing_shows_numbers_provenance_and_notes():
    data = dataset(
        observations=observations(unit=["copies/ug gDNA"] * 4),
        summaries=summaries(),
        about={"citation": "Doe 2024, Table 2", "licence": "CC BY 4.0"},
    )
    text = repr(data)
    assert str(data) == text
    for expected in (
        "2 patients, 3 doses (2 of cells), 4 observations, 4 published summaries",
        "transgene [copies/µg]: 4 observations of 2 patients, 25 % below LLOQ",
        "cohort 'flucy': 2 statistics",
        "Doe 2024, Table 2 (licence: CC BY 4.0)",
        "copies/ug gDNA",
    ):
        assert expected in text


def test_summaries_alone_and_individuals_alone_are_data_sets_but_nothing_is_not():
    alone = Dataset.from_frames(summaries=summaries(), sampling=[1, 7, 14, 28])
    assert alone.sampling == (1.0, 7.0, 14.0, 28.0)
    assert alone.patients.empty
    assert alone.arrays(["transgene"]).time.shape[0] == 0
    assert dataset().summaries.empty
    with pytest.raises(DatasetError, match="neither observations nor summaries"):
        Dataset.from_frames(patients=patients(), doses=doses())
    with pytest.raises(DatasetError, match="neither observations nor published"):
        Dataset.from_frames(doses=doses().iloc[:0], observations=observations().iloc[:0])


def test_patients_left_out_are_taken_from_the_other_tables_and_noted():
    data = dataset(patients=None)
    assert data.patients["patient"].tolist() == ["P1", "P2"]
    assert any("No patients table" in note for note in data.notes)


def test_numeric_labels_match_whatever_their_type():
    data = Dataset.from_frames(
        patients=pd.DataFrame({"patient": [1, 2]}),
        doses=doses(patient=["1", "1", "2"]),
        observations=observations(patient=[1.0, 1.0, 2.0, 2.0]),
    )
    assert data.arrays(["transgene"]).patients == ("1", "2")


# ---- what stands for a missing entry ---------------------------------------------------------


def crowd():
    """Ten patients with a dose and a sample each."""
    people = [f"P{i}" for i in range(10)]
    given = {"patient": people, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    seen = {"patient": people, "time": 7.0, "analyte": "alc", "value": np.arange(10) * 30 + 400.0}
    seen |= {"unit": "cells/µL", "lloq": 1.0, "censored": 0}
    return {
        "patients": pd.DataFrame({"patient": people, "weight": np.arange(10) * 3 + 55.0}),
        "doses": pd.DataFrame({**given, "duration": 0.0}),
        "observations": pd.DataFrame(seen),
    }


PLACES = {"weight": ("patients", "covariate `weight`"), "value": ("observations", "values of alc")}


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("column", PLACES)
@pytest.mark.parametrize("entry", [99, 999, 9999, "999", 9999.0, -9, -99, -999])
def test_numbers_that_stand_for_missing_ones_are_asked_about_or_declared(entry, column, times):
    frames, (table, what) = crowd(), PLACES[column]
    for row in range(times):
        frames[table] = at(frames[table], row, column, entry)
    usual = float(entry)
    if column == "value" and usual < 0:
        with pytest.raises(DatasetError, match=r"row 0.*must be positive.*missing={'value'"):
            Dataset.from_frames(**frames)
    else:
        asked = f"{usual:g} .{times} times?. among the {what}.*missing={{'{column}': .{usual:g}"
        with pytest.warns(CarpkWarning, match=asked):
            Dataset.from_frames(**frames)
    for told in ([entry], {column: [entry]}, {column.upper(): [usual]}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = Dataset.from_frames(**frames, missing=told)
        assert "missing, as declared" in "".join(data.notes)
        assert len(data.observations) == 10 - times * (column == "value")
        assert data.patients["weight"].isna().sum() == times * (column == "weight")
    if column == "weight":
        with pytest.raises(DatasetError, match=f"no value for {times} patient"):
            data.covariate("weight")


@pytest.mark.parametrize(
    ("column", "entries"),
    [
        ("weight", [99, 99, 120]),
        ("value", [99, 100, 101]),
        ("value", [999, 30, 4000]),
        ("weight", [98, 97, 96]),
    ],
)
def test_numbers_among_the_others_are_taken_as_they_are(column, entries):
    frames, (table, _) = crowd(), PLACES[column]
    frames[table].loc[:2, column] = entries
    if column == "value":
        frames[table].loc[3, column] = 20.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.from_frames(**frames)


def test_a_real_number_is_kept_without_a_question_where_nothing_is_declared_missing():
    frames = crowd()
    frames["patients"].loc[0, "weight"] = 99.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Dataset.from_frames(**frames, missing={"weight": []})
    assert data.patients["weight"][0] == 99


@pytest.mark.parametrize(
    ("entry", "given", "right"),
    [
        ("None", None, "None"),
        ("None", {"ld": ["None"]}, None),
        ("unknown", ["unknown"], None),
        ("NA", None, None),
        (".", None, None),
        ("n.d.", {"ld": ["n.d."]}, None),
    ],
)
def test_words_are_categories_or_missing_by_declaration(entry, given, right):
    data = dataset(patients=patients(ld=[entry, "Flu"]), missing=given)
    assert data.patients["ld"].tolist() == [right, "Flu"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": [-99]}, "`missing` names the column `weights`.*Did you mean `weight`"),
        ({"weight": "-99"}, "`missing` must list what stands for a missing entry"),
        ("NA", "`missing` must list"),
        (-99, "`missing` must list"),
    ],
)
def test_what_cannot_be_declared_missing_is_refused(given, words):
    with pytest.raises(DatasetError, match=words):
        Dataset.from_frames(**crowd(), missing=given)


# ---- upper limits -----------------------------------------------------------------------------


def at_the_top(times, top=900.0):
    frames = crowd()
    frames["observations"].loc[10 - times :, "value"] = top
    return frames


TOLD = {
    "number": {"uloq": 900.0},
    "by analyte": {"uloq": {"alc": 900}},
    "column": {},
    "below some": {"uloq": 895},
    "other unit": {"uloq": {"alc": 0.9}},
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("how", TOLD)
def test_values_at_the_upper_limit_are_right_censored(how, times):
    frames = at_the_top(times)
    seen = frames["observations"]
    if how == "column":
        frames["observations"] = seen.assign(uloq=[None] * 5 + [900.0] * 5)
    if how == "other unit":
        frames["observations"] = seen.assign(value=seen["value"] / 1e3, lloq=0.001, unit="1e9/L")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Dataset.from_frames(**frames, **TOLD[how])
    rows = data.observations
    assert rows["censored"].tolist() == [0] * (10 - times) + [-1] * times
    assert rows["value"].tolist()[-1] == pytest.approx(895 if how == "below some" else 900)
    assert [*rows] == ["patient", "time", "analyte", "value", "unit", "lloq", "censored", "limit"]
    above = f" or above it ({times})" if how == "below some" else ""
    assert f"upper limit of quantification{above} read as right-censored" in "".join(data.notes)


def test_a_highest_value_that_repeats_is_asked_about():
    with pytest.warns(CarpkWarning, match=r"of alc .900. is that of 3 of 10.*uloq={'alc': 900}"):
        Dataset.from_frames(**at_the_top(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.from_frames(**at_the_top(2))
        Dataset.from_frames(**at_the_top(10))
        kept = Dataset.from_frames(**at_the_top(3), uloq={"alc": np.inf})
    assert kept.observations["censored"].eq(0).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"uloq": -1}, "the ULOQ must be a positive number"),
        ({"uloq": {"il6": 3}}, "`uloq` names the analyte 'il6'"),
        ({"uloq": "900"}, "the ULOQ must be a positive number"),
        ({"lloq": np.inf}, "the LLOQ must be a positive number"),
    ],
)
def test_an_impossible_upper_limit_is_refused(given, words):
    with pytest.raises(DatasetError, match=words):
        Dataset.from_frames(**crowd(), **given)
    frames = crowd()
    frames["observations"]["uloq"] = -1
    with pytest.raises(DatasetError, match=r"row 0, column `uloq`.*must be positive, but is -1"):
        Dataset.from_frames(**frames)


# ---- magnitudes -------------------------------------------------------------------------------


def counts(analyte, unit, value, **more):
    """A patient's CAR T cells and another count on the same days."""
    cells = observations(analyte="car_t", unit="cells/µL", value=[20.0, 30, 10, 20], lloq=1.0)
    cells["censored"] = 0
    other = cells.assign(analyte=analyte, unit=unit, value=value)
    return pd.concat([cells, other], ignore_index=True).assign(**more)


@pytest.mark.parametrize(
    ("analyte", "unit", "value", "words"),
    [
        ("wbc", "1e9/L", 4000, r"wbc of patient 'P1' on day 7 is 4e\+06 .*\(4 rows like this"),
        ("alc", "K/µL", 1200, r"alc of patient 'P1'.*more than blood holds"),
        ("WBC", "cells/µL", 2e6, "WBC of patient 'P1'"),
        ("wbc", "cells/µL", 4.0, r"car_t .* is 20 cells/µL, above all leukocytes \(4; 4 rows"),
        ("wbc", "cells/mL", 4000, "above all leukocytes"),
    ],
)
def test_counts_that_cannot_be_are_asked_about(analyte, unit, value, words):
    with pytest.warns(CarpkWarning, match=words):
        dataset(observations=counts(analyte, unit, value))


@pytest.mark.parametrize(
    ("analyte", "unit", "value", "more"),
    [
        ("wbc", "1e9/L", 4, {}),
        ("wbc", "1e9/L", 400, {}),
        ("alc", "cells/µL", 5, {}),
        ("platelets", "1e9/L", 1500, {}),
        ("wbc", "cells/µL", 4.0, {"time": [7.0, 14, 7, 90, 8, 15, 8, 91]}),
    ],
)
def test_counts_that_can_be_are_taken_as_they_are(analyte, unit, value, more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset(observations=counts(analyte, unit, value, **more))


@pytest.mark.parametrize(
    ("times", "unit", "asked"),
    [
        ([24, 168, 336, 672], "day", True),
        ([-120, 24, 48, 960], "day", True),
        ([24, 168, 336, 672], "hour", False),
        ([24, -24, 24, -24], "day", False),
        ([24, 48, 72, 90], "day", False),
    ],
)
def test_hours_read_as_days_are_asked_about(times, unit, asked):
    seen = observations(analyte="alc", unit="cells/µL", time=times, censored=0)
    frames = {"doses": doses(time=[-24.0, 0, 0]), "observations": seen}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dataset(**frames, time_unit=unit)
    assert any("pass time_unit='hour'" in str(w.message) for w in told) == asked


def test_a_dose_of_few_cells_is_asked_about():
    with pytest.warns(CarpkWarning, match=r"row 2.*3 cells are very few"):
        dataset(doses=doses(amount=[30.0, 1e8, 3]))


LOOK_ALIKE = [("1", "01"), (1, "01"), ("1", "1.0"), ("P1", "p1"), ("P1", "P 1"), ("P01", "P1")]


@pytest.mark.parametrize("where", ["patients", "doses", "observations"])
@pytest.mark.parametrize(("usual", "odd"), LOOK_ALIKE)
def test_labels_that_may_be_one_patient_are_asked_about_in_every_table(where, usual, odd):
    frames = {"patients": patients(), "doses": doses(), "observations": observations()}
    frames = {name: frame.replace({"patient": {"P1": usual}}) for name, frame in frames.items()}
    last = len(frames[where]) - 1
    frames[where] = at(frames[where], last, "patient", odd)
    message = refusal(**frames)
    for part in (
        f"{where}, row {last}, column `patient`",
        f"{odd!r} may be another way to write {str(usual)!r}",
        f"write the label in one way (`{usual}`); if they are two",
    ):
        assert part in message


@pytest.mark.parametrize("labels", [("1", "10"), ("1", "1.5"), ("A1", "B1"), ("1.1", "1.2")])
def test_labels_that_differ_are_two_patients(labels):
    rename = dict(zip(("P1", "P2"), labels, strict=True))
    tables = (doses().replace({"patient": rename}), observations().replace({"patient": rename}))
    assert Dataset.from_frames(None, *tables).patients["patient"].tolist() == [*labels]


def test_blanks_around_labels_are_removed_with_a_note():
    data = dataset(doses=doses(patient=["P1 ", "P1", " P2"]))
    assert data.doses["patient"].tolist() == ["P1", "P1", "P2"]
    assert "doses: blanks around 2 labels of `patient` were removed." in data.notes


RECORDS = {
    "boluses": {},
    "rates": {"rate": [60.0, None, None], "duration": [0, 0, 0]},
    "rates of the model": {"rate": [-1.0, None, None], "duration": [0, 0, 0]},
    "steady state": {"ss": [1, 0, 0], "ii": [0.5, 0, 0], "unit": ["mg", "cells", "cells"]},
    "for ever": {"ss": [1, 0, 0], "amount": [0, 1e8, 1e8], "rate": [3, 0, 0], "duration": 0},
    "additional": {"addl": [2, 0, 1], "ii": [1, 0, 28]},
    "resets": {"evid": [3, 1, 4]},
    "compartments": {"compartment": ["depot", "", ""]},
    "order": {"record": [1, 3, 2], "ss": [1, 0, 0], "ii": [0.5, 0, 0]},
    "unknown amount": {"amount": [30.0, None, 1e8]},
}
TABLES = {
    "individual": {},
    "with published": {
        **{"summaries": summaries(), "sampling": [1, 7, 14], "about": {"doi": "x"}},
        "cohorts": pd.DataFrame({"cohort": ["flu", "flucy"], "cy": [0, 1]}),
    },
    "hours": {"time_unit": "hour"},
    "shifted": {"time_zero": "first dose", "name": "shifted"},
    "covariates and limits": {
        "patients": patients(ld=["None", "Flu"], age=[60, None], stage=["2", "3A"]),
        "observations": observations(limit=[None] * 3 + [5.0], lloq=[None, 50, 50, 50]),
    },
    "order": {"observations": observations(time=[0.0, 7, 0, 9], record=[4, 5, 1, 9])},
    "published alone": {"patients": None, "doses": None, "observations": None},
}


@pytest.mark.parametrize("more", TABLES)
@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.filterwarnings("ignore::carpk.errors.CarpkWarning")
def test_the_frames_of_a_data_set_make_it_again(record, more):
    given = {"doses": doses(**RECORDS[record]), **TABLES[more]}
    given |= {"summaries": summaries()} if more == "published alone" else {}
    data = dataset(**given)
    back = Dataset.from_frames(**data.to_frames())
    for table in ("patients", "doses", "observations", "summaries", "cohorts"):
        pd.testing.assert_frame_equal(getattr(back, table), getattr(data, table), check_exact=True)
    assert (back.name, back.sampling, back.about) == (data.name, data.sampling, data.about)


# ---- what is refused ------------------------------------------------------------------------

BAD_OBSERVATIONS = {
    "decimal comma": ("value", "12,5", ["'12,5' is not a number", "12.5"]),
    "no word for below": ("value", "traces", ["'traces' is not a number"]),
    "bound elsewhere": ("lloq", "<50", ["'<50' is not a number", "Only measured values"]),
    "missing value": ("value", None, ["number is missing", "sample not taken"]),
    "zero": ("value", 0.0, ["must be positive", "pre-dose baseline", "censored = 1"]),
    "negative": ("value", -3.0, ["must be positive", "-3"]),
    "infinite": ("value", np.inf, ["infinite", "finite number"]),
    "below its LLOQ": ("value", 20.0, ["20 is below its LLOQ 50", "lower the lloq"]),
    "date": ("time", "2024-03-01", ["is a date or clock time", "but others are numbers"]),
    "date for a value": ("value", "2024-03-01", ["not a number", "A date or a clock time stands"]),
    "missing time": ("time", "", ["missing", "days from the patient's first cell infusion"]),
    "impossible day": ("time", 45000, ["more than 40 years", "date"]),
    "before the infusion": ("time", -1, ["precedes", "first cell infusion", "`patients.csv`"]),
    "odd flag": ("censored", 2, ["0 (observed)", "but is 2"]),
    "missing flag": ("censored", None, ["missing", "Write 0"]),
    "negative LLOQ": ("lloq", -50, ["lloq must be positive"]),
    "missing analyte": ("analyte", " ", ["missing", "what was measured"]),
    "other assay": ("unit", "cells/µL", ["'transgene' must be in copies/µg", "leukocyte count"]),
    "unknown unit": ("unit", "furlong", ["'furlong'", "Convert the values"]),
    "missing unit": ("unit", None, ["unit of 'transgene' is missing", "units={'transgene'"]),
    "limit without flag": ("limit", 10.0, ["limit is given (10)", "censored = 1"]),
}


@pytest.mark.parametrize("case", BAD_OBSERVATIONS)
def test_a_bad_observation_is_refused_with_row_column_patient_and_advice(case):
    column, entry, expected = BAD_OBSERVATIONS[case]
    message = refusal(observations=at(observations(limit=[np.nan] * 4), 1, column, entry))
    for part in ("observations, row 1", f"column `{column}`", "patient 'P1'", *expected):
        assert part in message


NUMBERS = {
    "patients": ["age"],
    "doses": ["time", "amount", "duration", "rate", "ss", "ii", "addl", "evid", "record"],
    "observations": ["time", "value", "lloq", "censored", "limit", "record"],
    "cohorts": ["cy"],
}


@pytest.mark.parametrize(("name", "column"), [(t, c) for t, cs in NUMBERS.items() for c in cs])
def test_a_decimal_comma_is_refused_in_every_column_of_numbers(name, column):
    frames = {"patients": patients(age=[60, 70]), "doses": doses(), "cohorts": COHORTS}
    frames["observations"] = observations()
    table = frames[name] if column in frames[name] else frames[name].assign(**{column: None})
    message = refusal(**frames | {name: at(table, 0, column, "1,5")})
    assert f"{name}, row 0, column `{column}`" in message
    assert "Write decimals with a point (1.5)" in message


BAD_DOSES = {
    "negative amount": ("amount", -1e6, ["amount must be positive", "-1e+06"]),
    "word": ("amount", "1e8 cells", ["is not a number"]),
    "negative duration": ("duration", -1, ["zero or positive", "bolus"]),
    "missing duration": ("duration", None, ["Write 0 for a bolus"]),
    "unknown unit": ("unit", "vials", ["'vials' is unknown", "`cells/kg`", "`mg/m2`"]),
    "missing product": ("product", None, ["entry is missing", "fludarabine"]),
    "impossible day": ("time", 1e6, ["more than 40 years"]),
    "late first infusion": ("time", 3.0, ["first cell infusion is on day 3", "first dose"]),
}


@pytest.mark.parametrize("case", BAD_DOSES)
def test_a_bad_dose_is_refused_with_row_column_patient_and_advice(case):
    column, entry, expected = BAD_DOSES[case]
    message = refusal(doses=at(doses(), 2, column, entry))
    for part in ("doses, row 2", f"column `{column}`", "patient 'P2'", *expected):
        assert part in message


def test_doses_say_further_what_event_records_say_and_keep_only_that():
    given = doses(
        unit=["mg", "cells", "cells"],
        rate=[60.0, None, None],
        duration=[0, 0, 0],
        ii=[0.5, None, None],
        addl=[2, None, None],
        ss=[2, None, None],
        evid=[4, None, 3],
        compartment=["Y", "", ""],
    )
    data = dataset(doses=given, observations=observations(patient=["P1"] * 4))
    assert [*data.doses] == [*doses(), "rate", "ss", "ii", "evid", "compartment"]
    assert data.doses["time"].tolist() == [-5.0, -4.5, -4.0, 0.0, 0.0]
    assert data.doses["duration"].tolist() == [0.5, 0.5, 0.5, 0.0, 0.0]
    first, second = data.regimens()
    infusion = Infusion(
        -5.0, 30.0, product="fludarabine", unit="mg", compartment="Y", rate=60.0, ss=2, ii=0.5
    )
    assert first.events[:2] == (Reset(-5.0), infusion)
    assert [e.ss for e in first.doses] == [2, 0, 0, 0]
    assert second.events == (Reset(0.0),)
    hours = dataset(
        doses=doses(time=[-120.0, 0.0, 0.0], rate=[60.0, 0, 0], duration=[0, 0, 0]),
        time_unit="hour",
    )
    assert hours.doses["rate"].tolist()[0] == 60.0 * 24


BAD_RECORDS = {
    "ss": ({"ss": 3}, "ss must be 0, 1 or 2, but is 3"),
    "no ii": ({"ss": 1, "unit": "mg"}, "needs ii, the time between doses"),
    "cells": ({"ss": 1, "ii": 1.0}, "cells multiply"),
    "evid": ({"evid": 2}, "evid must be 1 (dose), 3 (reset) or 4 (both), but is 2"),
    "rate and duration": ({"rate": 5.0, "duration": 0.1}, "has a rate (5) and a duration"),
    "rate": ({"rate": -3.0}, "rate is -3, but must be positive, or -1 or -2"),
    "addl alone": ({"addl": 2}, "2 additional doses need ii"),
    "addl half": ({"addl": 0.5, "ii": 1.0}, "whole number from 0 to 100000, but is 0.5"),
    "addl for ever": ({"addl": 1e12, "ii": 1.0}, "whole number from 0 to 100000, but is 1e+12"),
    "negative ii": ({"addl": 2, "ii": -1.0}, "ii is negative (-1)"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_of_a_dose_is_refused_with_row_column_and_advice(case):
    entries, words = BAD_RECORDS[case]
    usual = {"duration": 0.0, "unit": "cells"}
    columns = {k: [usual.get(k, np.nan)] * 2 + [v] for k, v in entries.items()}
    columns["unit"] = ["mg/m2", "cells", entries.get("unit", "cells")]
    message = refusal(doses=doses(**columns))
    assert words in message
    assert "doses, row 2, column `" in message
    assert "patient 'P2'" in message


def test_a_sample_at_the_time_of_a_dose_is_before_it_unless_it_was_recorded_after():
    """Of cells at their first infusion there are none before it, which is said."""
    day_0 = {"time": [0.0, 14.0, 0.0, 180.0]}
    with pytest.warns(CarpkWarning, match=r"taken before it.*\(2 rows like this\).*`record`"):
        untold = dataset(observations=observations(**day_0))
    assert untold.arrays("transgene").follows.tolist() == [[-1, -1], [-1, -1]]
    with pytest.warns(CarpkWarning, match=r"patient 'P2'.*\(1 row like this\)"):
        told = dataset(
            doses=doses(record=[1, 2, 2]), observations=observations(record=[3, 4, 1, 3], **day_0)
        )
    assert told.arrays("transgene").follows.tolist() == [[1, 0], [0, 0]]
    assert told.arrays("transgene").follows_cells.tolist() == [[1, 0], [0, 0]]
    later = dataset(doses=doses(record=[1, 2, 2]), observations=observations(record=[3, 4, 3, 4]))
    assert "record" not in later.doses


def test_an_amount_that_is_not_known_is_refused_where_it_is_needed_and_not_before():
    data = dataset(doses=doses(amount=[30.0, None, 1e8]), patients=patients(bsa=[1.8, 1.9]))
    assert "the amount of 1 dose is not known" in "".join(data.notes)
    assert ck.nca.table(data, "transgene").CMAX.tolist() == [2e4, 5e4]
    curve = ck.load_model("piecewise", output="transgene", unit="copies/µg", cmax=2e4)
    ck.Population(curve, varies=["cmax"]).bind(data)
    needed = "patient 'P1'.* of car_t on day 0 is not known"
    with pytest.raises(DatasetError, match=needed):
        data.regimens()
    with pytest.raises(ck.FitError, match=r"'cmax' follows the dose.*'P1'.*day 0 is not known"):
        ck.Population(curve.with_dose_effect(0.3, 1e8), varies=["cmax"]).bind(data)
    with pytest.raises(DatasetError, match=r"'P1' .* NONMEM table needs it"):
        data.to_nonmem("unused.csv")


def test_none_is_a_category_among_words_and_missing_among_numbers():
    told = dataset(patients=patients(ld=["None", "Flu"], age=["None", 45]))
    assert told.covariate("ld").tolist() == ["None", "Flu"]
    assert "'None' of `ld` is a category like its others (1 row)" in "".join(told.notes)
    assert np.isnan(told.patients["age"][0])
    absent = dataset(patients=patients(ld=[None, "Flu"]))
    assert absent.patients["ld"].tolist() == [None, "Flu"]


def percent(unit, count="cd3", tube="cells/µL", **more):
    return pd.DataFrame(
        {
            "patient": ["P1", "P2", "P1", "P2"],
            "time": [7.0, 7.0, 7.0, 7.0],
            "analyte": ["car_t", "car_t", count, count],
            "value": [0.5, 40.0, 90.0, 1.2],
            "unit": [unit, unit, tube, tube if count == "cd3" else "10^3/µL"],
            "lloq": [0.1, 0.1, None, None],
            "censored": [0] * 4,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("unit", "count", "right"),
    [
        ("% of CD3", "cd3", [0.45, 0.48]),
        ("%CD3+", "cd3", [0.45, 0.48]),
        ("percent of T cells", "t_cells", [0.45, 480.0]),
        ("% lymphocytes", "alc", [0.45, 480.0]),
        ("% of leukocytes", "wbc", [0.45, 480.0]),
    ],
)
def test_percent_of_cells_is_turned_into_cells_by_their_count(unit, count, right):
    data = dataset(observations=percent(unit, count))
    rows = data.observations[data.observations["analyte"] == "car_t"]
    assert rows["value"].tolist() == pytest.approx(right)
    assert rows["lloq"].tolist() == pytest.approx(
        [0.1 * r / v for r, v in zip(right, (0.5, 40.0), strict=True)]
    )
    assert data.units["car_t"] == "cells/µL"
    assert "of the same tube" in "".join(data.notes)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (percent("%"), "row 0.*percent of what.*% of CD3"),
        (percent("% of CD3", time=[7.0, 7.0, 7.0, 8.0]), "row 1.*no count of these cells.*`cd3`"),
        (percent("% of CD3", tube="mL"), "row 2.*'mL', not in cells"),
    ],
)
def test_percent_without_a_count_is_refused(rows, words):
    with pytest.raises(DatasetError, match=words):
        dataset(observations=rows)


def test_a_summary_has_a_row_per_arm_and_analyte():
    told = dataset().summary()
    assert [*told.index] == [("flu", "transgene"), ("flucy", "transgene")]
    assert told["patients"].tolist() == told["infusions"].tolist() == [1, 1]
    assert told["samples"].tolist() == [2, 2]
    assert told["blq_percent"].tolist() == [0, 50]
    assert told["last_day"].tolist() == [14, 180]
    assert told["drugs"].tolist() == ["fludarabine", ""]
    everybody = dataset(patients=pd.DataFrame({"patient": ["P1", "P2"]})).summary()
    assert everybody.loc[("all", "transgene"), ["patients", "sampled"]].tolist() == [2, 2]


def test_the_figure_of_the_data_has_a_column_per_arm_and_a_strip_of_doses():
    again = pd.concat([doses(), doses().iloc[2:].assign(time=100.0)])
    data = dataset(doses=again)
    figure = data.plot()
    strips, panels = figure.axes[:2], figure.axes[2:]
    assert [a.get_title() for a in strips] == ["flu (n = 1)", "flucy (n = 1)"]
    assert [t.get_text() for t in strips[0].get_yticklabels()] == ["fludarabine", "car_t"]
    assert panels[0].get_ylabel() == "transgene [copies/µg]"
    assert panels[0].get_yscale() == "log"
    (blq,) = (
        line for line in panels[1].lines if line.get_marker() == "v" and len(line.get_xdata())
    )
    assert blq.get_xydata().tolist() == [[180, 50]]
    last = data.plot("transgene", since="last").axes
    assert len(last) == 2
    assert list(last[1].lines[0].get_xdata()) == [7, 80]
    plt.close("all")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"analytes": "il6"}, "no observations of 'il6'; patients were sampled for transgene"),
        ({"since": "second"}, 'since must be "first" or "last"'),
        ({"by": "arm"}, "no covariate `arm`"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(options, words):
    with pytest.raises(DatasetError, match=words):
        dataset().plot(**options)


BAD_SUMMARIES = {
    "unknown metric": (0, "metric", "c_max", ["'c_max' is unknown", "Did you mean 'cmax'?"]),
    "unknown statistic": (0, "statistic", "geomean", ["is unknown", "geometric mean"]),
    "unknown interval": (0, "interval", "iqr", ["'iqr' is unknown", "'IQR'"]),
    "unknown use": (0, "use", "yes", ["`fit`, `value`, `check`, `no`"]),
    "no source": (0, "source", "", ["entry is missing", "paper, page or table"]),
    "no note": (2, "note", "", ["use 'check' needs a reason"]),
    "no day": (1, "time", None, ["time of 'level' is missing", "the day of the level"]),
    "no end": (2, "time", None, ["time of 'auc' is missing", "starts on day 0"]),
    "needless day": (0, "time", 7, ["'cmax' has none", "metric 'level'"]),
    "no low": (0, "low", None, ["interval is IQR, but low is missing"]),
    "order": (0, "low", 6e4, ["low <= value <= high", "60000, 40000, 90000"]),
    "no spread": (1, "spread", None, ["interval is CV%, but spread is missing"]),
    "no positive spread": (1, "spread", -3, ["must be positive"]),
    "unnamed interval": (0, "interval", "", ["low is given", "not named"]),
    "low of SD": (2, "low", 1, ["low is given (1), but the interval is SD"]),
    "n of none": (1, "n", 0, ["whole number from 1"]),
    "n broken": (1, "n", 8.5, ["whole number from 1"]),
    "n of two": (0, "n", 2, ["needs n of at least 3"]),
    "n of one": (1, "n", 1, ["needs n of at least 2"]),
    "count of all": (3, "value", 11, ["count 11 exceeds n = 9"]),
    "share": (3, "value", 0.78, ["whole number", "'proportion'"]),
    "count with interval": (3, "low", 5, ["a count has no low"]),
    "mean of detectable": (3, "statistic", "mean", ["counted"]),
    "zero": (1, "value", -2, ["must be positive"]),
    "limit": (1, "lloq", 0, ["lloq must be positive"]),
    "unit of area": (2, "unit", "copies/µg", ["time times a level", "day*copies/µg"]),
    "unit": (0, "unit", "cells/µL", ["must be in copies/µg", "leukocyte count"]),
    "no unit": (0, "unit", "", ["unit is missing"]),
    "text": (0, "value", "4,1", ["'4,1' is not a number", "4.1"]),
}


@pytest.mark.parametrize("case", BAD_SUMMARIES)
def test_a_bad_statistic_is_refused_with_row_column_cohort_and_advice(case):
    row, column, entry, expected = BAD_SUMMARIES[case]
    message = refusal(summaries=at(summaries(), row, column, entry))
    cohort = "flu" if row < 2 else "flucy"
    for part in (f"summaries, row {row}", f"column `{column}`", f"cohort '{cohort}'", *expected):
        assert part in message


@pytest.mark.parametrize("column", ["patient", "time", "product", "amount", "unit"])
def test_a_missing_column_of_doses_is_named_with_what_it_means(column):
    message = refusal(doses=doses().drop(columns=column))
    assert f"doses: column `{column}` is missing" in message
    assert "Add it:" in message


@pytest.mark.parametrize("column", ["patient", "time", "analyte", "value"])
def test_a_missing_column_of_observations_is_named_with_its_likely_misspelling(column):
    message = refusal(observations=observations().rename(columns={column: column.upper() + "s"}))
    assert f"column `{column}` is missing" in message
    assert f"Rename `{column.upper()}s` to `{column}`" in message


def test_an_unknown_column_is_refused_by_name_with_the_nearest_known_one():
    message = refusal(observations=observations(lloqs=50.0))
    assert "column `lloqs` is unknown" in message
    assert "Did you mean `lloq`?" in message
    assert "`site` is unknown" in refusal(doses=doses(site="A"))


def test_a_repeated_column_is_refused():
    table = pd.concat([observations(), observations()[["value"]]], axis=1)
    assert "`value` appears 2 times" in refusal(observations=table)


def test_a_repeated_patient_is_refused_with_the_row_of_the_repetition():
    message = refusal(patients=pd.DataFrame({"patient": ["P1", "P2", "P1"]}))
    assert "patients, row 2, column `patient`: patient 'P1' appears 2 times" in message


@pytest.mark.parametrize("table", ["doses", "observations"])
def test_a_patient_who_is_not_in_the_patients_table_is_refused_with_the_nearest(table):
    make = {"doses": doses, "observations": observations}[table]
    message = refusal(**{table: at(make(), 2, "patient", "P22")})
    assert f"{table}, row 2, column `patient`: patient 'P22' is not in the patients" in message
    assert "Did you mean 'P2'?" in message


def test_a_patient_without_observations_is_noted_and_kept():
    data = dataset(patients=pd.DataFrame({"patient": ["P1", "P2", "P3"]}))
    assert any("1 patient without observations: P3" in note for note in data.notes)
    assert data.arrays(["transgene"]).mask.sum(axis=1).tolist() == [2, 2, 0]


@pytest.mark.parametrize("given", [doses().iloc[:2], at(doses(), 2, "unit", "mg"), None])
@pytest.mark.parametrize("analyte", ["car_t", "transgene"])
def test_a_cellular_level_needs_cells(given, analyte):
    unit = "cells/µL" if analyte == "car_t" else "copies/µg"
    message = refusal(doses=given, observations=observations(analyte=analyte, unit=unit))
    assert "holds no cells for the patient" in message


@pytest.mark.parametrize(
    ("analyte", "unit", "flag"),
    [
        *(("car_t", "cells/µL", 1), ("transgene", "copies/µg", 1)),
        *(("tumor", "mm3", 0), ("alc", "cells/µL", 0), ("il6", "pg/mL", 0)),
    ],
)
def test_untreated_patients_are_read_beside_treated_ones_and_asked_about(analyte, unit, flag):
    seen = observations(analyte=analyte, unit=unit, lloq=50.0)
    seen.loc[2:, ["censored", "value"]] = [flag, 50.0 if flag else 900.0]
    with pytest.warns(CarpkWarning, match=r"row 2, patient 'P2': 1 patient with samples and no"):
        data = dataset(doses=doses().iloc[:2], observations=seen)
    assert "1 patient with samples and no dose (P2): read as untreated" in "".join(data.notes)
    assert len(data.observations) == 4
    assert data.summary()["treated"].tolist() == [1, 0]
    data.plot()
    plt.close("all")


def test_data_without_any_dose_are_read():
    """Tumors of untreated animals: simulated, growing by a tenth a day."""
    days = np.array([0.0, 5, 10, 20])
    rows = [(p, t, 1e6 * np.exp(0.1 * t)) for p in "ab" for t in days]
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte="tumor", unit="cells", lloq=None, censored=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Dataset.from_frames(observations=seen)
    assert "2 patients with samples and no dose (a, b): read as untreated" in "".join(data.notes)
    assert data.doses.empty
    assert len(data.observations) == 8


def test_all_rows_of_one_trouble_are_counted():
    message = refusal(observations=observations(value=[1.0, 2.0, 3.0, 50.0]))
    assert "row 0" in message
    assert "The same holds for 2 more rows: 1, 2." in message


@pytest.mark.parametrize(
    "analyte", ["alc", "wbc", "anc", "t_cells", "b_cells", "platelets", "crp", "ferritin", "tumor"]
)
def test_what_a_patient_has_before_treatment_may_be_measured_then(analyte):
    unit = "cells/µL" if analyte == "alc" else "mL"
    table = observations(analyte=analyte, unit=unit, time=[-20, 1, 1, 2])
    assert dataset(observations=table).observations["time"].min() == -20


@pytest.mark.parametrize(("analyte", "unit"), [("car_t", "cells/µL"), ("transgene", "copies/µg")])
def test_before_the_infusion_cells_may_be_below_the_limit_alone(analyte, unit):
    table = observations(analyte=analyte, unit=unit, time=[-1.0, 7, 7, 8])
    assert "precedes the patient's first cell infusion" in refusal(observations=table)
    table.loc[0, ["value", "censored"]] = [50.0, 1]
    assert dataset(observations=table).observations["time"].min() == -1


def test_car_t_cells_and_drugs_may_not_precede_what_is_given():
    table = observations(analyte="car_t", unit="cells/µL", time=[-1, 1, 1, 2])
    assert "precedes the patient's first cell infusion" in refusal(observations=table)
    table = observations(analyte="fludarabine", unit="mg/L", time=[-20, 1, 1, 2])
    given = pd.concat([doses(), DRUG], ignore_index=True)
    assert "precedes the patient's first dose" in refusal(observations=table, doses=given)


DRUG = pd.DataFrame(
    {"patient": ["P1"], "time": -5.0, "product": "fludarabine", "amount": 50.0, "unit": "mg"}
).assign(duration=0.02)


@pytest.mark.parametrize(
    ("written", "product"),
    [
        *((x, "fludarabine") for x in ("Fludarabine", "FLUDARABINE PHOSPHATE", "Fludara", "flu")),
        *((x, "cyclophosphamide") for x in ("Cyclophosphamide", "Cytoxan", "CY", "Endoxan")),
        *((x, "car_t") for x in ("CAR-T", "CAR T cells", "car_t")),
        *((x, x) for x in ("Bendamustine", "tocilizumab")),
    ],
)
def test_a_drug_is_the_same_in_any_case_and_by_its_trade_name(written, product):
    given = pd.concat([doses(), DRUG.assign(product=written)], ignore_index=True)
    data = dataset(doses=given)
    assert data.doses["product"].tolist()[-1] == product
    assert any(f"kept as {product!r}" in note for note in data.notes) == (written != product)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *((u, 1e3) for u in ("K/µL", "k/uL", "Thou/uL", "10^3/µL", "10³/µL", "1e3/uL", "10*3/ul")),
        *((u, 1e3) for u in ("G/L", "10^9/L", "x10^9/L", "x10E9/L", "10*9/L", "10**9 cells/L")),
        *((u, 1e3) for u in ("1e9/L", "10⁹/L", "×10⁹/L")),
        *((u, 1.0) for u in ("/µL", "cells/mm^3", "cells/mm³", "/cumm", "10^6 cells/L", "1e6/L")),
        *((u, 1e-3) for u in ("cells/mL", "/mL")),
    ],
)
def test_counts_are_read_as_laboratories_write_them(unit, factor):
    assert units.measured(unit) == ("cells/µL", pytest.approx(factor, rel=1e-12))


@pytest.mark.parametrize("unit", ["g/L", "mg/L", "U/L", "10/x", "copies/L", "kg/L", "%", "mmol/L"])
def test_what_is_no_count_is_not_read_as_one(unit):
    assert units.measured(unit) is None


def test_volumes_of_tumors_are_in_millilitres():
    for unit, factor in {"mm3": 1e-3, "mm³": 1e-3, "mm^3": 1e-3, "cm3": 1.0, "cc": 1.0}.items():
        assert units.measured(unit) == ("mL", factor)


def test_exact_repetitions_of_an_observation_warn_and_replicates_do_not():
    table = observations(time=[7, 7, 7, 180], value=[2e4, 2e4, 5e4, 50])
    with pytest.warns(CarpkWarning, match=r"row 1, patient 'P1'.*repeats an earlier one"):
        data = dataset(observations=table)
    assert len(data.observations) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset(observations=observations(time=[7, 7, 7, 180]))


def test_very_few_cells_warn_that_the_unit_may_be_millions():
    with pytest.warns(CarpkWarning, match=r"row 2.*100 cells are very few.*'1e6 cells'"):
        dataset(doses=at(doses(), 2, "amount", 100.0))


def test_arguments_that_make_no_sense_are_refused_with_what_is_possible():
    for wrong, part in (
        ({"time_unit": "month"}, "'day', 'hour', 'minute' or 'week'"),
        ({"time_zero": "leukapheresis"}, "'first dose'"),
        ({"lloq": -1}, "positive number"),
        ({"lloq": {"trangene": 50}}, "Did you mean 'transgene'?"),
        ({"units": {"trangene": "copies/µg"}}, "Did you mean 'transgene'?"),
        ({"units": "copies/µg"}, "unit per analyte"),
        ({"sampling": [7, 1]}, "increasing"),
        ({"observations": 3}, "must be a data frame"),
    ):
        assert part in refusal(**wrong)


# ---- what is filled or converted, and noted ---------------------------------------------------


def test_a_given_lloq_fills_missing_ones_only_and_is_noted():
    table = observations(lloq=[None, 40.0, None, 50.0])
    data = dataset(observations=table, lloq={"transgene": 50})
    assert data.observations["lloq"].tolist() == [50, 40, 50, 50]
    assert any("2 observations of transgene was filled with 50" in note for note in data.notes)
    two = observations(analyte=["transgene", "il6"] * 2, unit=["copies/µg", "pg/mL"] * 2)
    two = two.drop(columns="lloq")
    assert "Give one for each" in refusal(observations=two, lloq=50)


def test_a_censored_row_needs_a_limit_and_holds_it_as_value():
    assert "its LLOQ is missing" in refusal(observations=at(observations(), 3, "lloq", None))
    data = dataset(observations=at(observations(), 3, "value", 12.0))
    assert data.observations["value"].iloc[3] == 50
    assert any("differed from the LLOQ (the first in row 3)" in note for note in data.notes)
    message = refusal(observations=at(observations(), 3, "value", 80.0))
    assert "80 is above its LLOQ 50, but flagged censored = 1" in message


def test_absent_flags_limits_and_durations_are_noted():
    data = dataset(
        observations=observations(value=[2e4, 3e3, 5e4, 90.0]).drop(columns=["lloq", "censored"]),
        doses=doses().drop(columns="duration"),
    )
    text = " ".join(data.notes)
    for part in ("no column `censored`", "no LLOQ is known for 4", "no column `duration`"):
        assert part in text
    assert data.observations["lloq"].isna().all()


@pytest.mark.parametrize(
    ("analyte", "unit", "own", "factor"),
    [
        ("car_t", "cells/uL", "cells/µL", 1),
        ("car_t", "cells/mm3", "cells/µL", 1),
        ("car_t", "cells/μL", "cells/µL", 1),
        ("car_t", "cells/mL", "cells/µL", 1e-3),
        ("alc", "1e9/L", "cells/µL", 1e3),
        ("alc", "10^9/L", "cells/µL", 1e3),
        ("transgene", "copies/ug", "copies/µg", 1),
        ("transgene", "copies/µg DNA", "copies/µg", 1),
        ("transgene", "copies/ug gDNA", "copies/µg", 1),
        ("il6", "ng/mL", "pg/mL", 1e3),
        ("tumor", "mL", "mL", 1),
    ],
)
def test_units_are_converted_by_their_table_with_value_lloq_and_limit_and_noted(
    analyte, unit, own, factor
):
    table = observations(analyte=analyte, unit=unit, limit=[np.nan] * 3 + [5.0])
    data = dataset(observations=table)
    assert data.units == {analyte: own}
    assert data.observations["value"].to_numpy() == pytest.approx(factor * table["value"])
    assert data.observations["lloq"].to_numpy() == pytest.approx(factor * table["lloq"])
    assert data.observations["limit"].iloc[3] == pytest.approx(factor * 5)
    assert any(unit in note for note in data.notes) == (unit != own)


def test_an_unknown_analyte_keeps_its_unit_but_only_one():
    table = observations(analyte="ferritin", unit="µg/L")
    assert dataset(observations=table).units == {"ferritin": "µg/L"}
    message = refusal(observations=at(table, 2, "unit", "IU/L"))
    assert "row 2" in message
    assert "'IU/L' here, but in 'µg/L' before" in message


def test_hours_and_weeks_become_days_and_are_noted():
    hours = dataset(
        doses=doses(time=[-120, 0, 0], duration=[0.5, 0, 0]),
        observations=observations(time=[168, 336, 168, 4320]),
        time_unit="hour",
    )
    assert hours.observations["time"].tolist() == [7, 14, 7, 180]
    assert hours.doses["time"].tolist() == [-5, 0, 0]
    assert hours.doses["duration"].iloc[0] == pytest.approx(0.5 / 24)
    assert sum("hours" in note for note in hours.notes) == 1
    weeks = dataset(observations=observations(time=[1, 2, 1, 26]), time_unit="week")
    assert weeks.observations["time"].tolist() == [7, 14, 7, 182]


@pytest.mark.parametrize(
    ("unit", "own", "factor"),
    [("1e6 cells", "cells", 1e6), ("10^6 cells/kg", "cells/kg", 1e6), ("cells/m²", "cells/m2", 1)],
)
def test_millions_of_cells_become_cells(unit, own, factor):
    data = dataset(doses=at(at(doses(), 2, "unit", unit), 2, "amount", 2e5))
    assert data.doses["unit"].iloc[2] == own
    assert data.doses["amount"].iloc[2] == 2e5 * factor
    assert any(unit in note for note in data.notes)


@given(st.floats(-300, 300), st.floats(-300, 300))
@settings(max_examples=25, deadline=None)
def test_shifting_to_the_first_dose_keeps_every_time_difference(first, second):
    shift = {"P1": first, "P2": second}
    moved_doses, moved = doses(), observations()
    moved_doses["time"] += moved_doses["patient"].map(shift)
    moved["time"] += moved["patient"].map(shift)
    data = dataset(doses=moved_doses, observations=moved, time_zero="first dose")
    assert data.infusions["time"].tolist() == pytest.approx([0, 0], abs=1e-9)
    np.testing.assert_allclose(data.observations["time"], observations()["time"], atol=1e-9)
    np.testing.assert_allclose(data.doses["time"], doses()["time"], atol=1e-9)
    assert any("shifted" in note for note in data.notes) == (max(abs(first), abs(second)) > 1e-9)


LABEL = st.sampled_from(["P1", "p1", "P1 ", "01", 1, 1.0, "1.0", None, "", "P2"])
ENTRY = st.sampled_from([None, "NA", "None", ".", -99, "-99", 999, "1,5", 70.5, "x", np.inf, True])
DECLARED = st.one_of(
    st.none(),
    st.lists(st.sampled_from([-99, 999, "x", "NA"]), max_size=2),
    st.dictionaries(st.sampled_from(["age", "VALUE", "dv", "wt"]), st.just([-99]), max_size=2),
)
LIMIT = st.sampled_from([None, 3e3, np.inf, -1, {"transgene": 2e4}, {"il6": 3}, "x"])


@given(
    label=LABEL,
    entry=ENTRY,
    where=st.sampled_from([("patients", "age"), ("observations", "value"), ("doses", "amount")]),
    declared=DECLARED,
    uloq=LIMIT,
)
@settings(max_examples=80, deadline=None)
def test_odd_labels_and_entries_are_read_or_refused_by_name(label, entry, where, declared, uloq):
    frames = {"patients": patients(age=[60, 70]), "doses": doses(), "observations": observations()}
    frames["observations"] = at(frames["observations"], 0, "patient", label)
    table, column = where
    frames[table] = at(frames[table], 1, column, entry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        try:
            data = Dataset.from_frames(**frames, missing=declared, uloq=uloq)
        except DatasetError as error:
            refused = str(error)
        else:
            assert np.isfinite(data.observations["value"]).all()
            assert set(data.patients["patient"]) == {"P1", "P2"}
            return
    assert refused.startswith("Dataset 'data set': ")
    assert re.search(r", row \d|`missing`|`uloq`|the ULOQ", refused), refused


# ---- summaries --------------------------------------------------------------------------------


def test_statistics_are_kept_with_their_units_converted():
    data = dataset(summaries=summaries(unit=["copies/ng", "copies/µg", "h*copies/ug", "count"]))
    table = data.summaries
    assert table["unit"].tolist() == ["copies/µg", "copies/µg", "day*copies/µg", "count"]
    assert table["value"].to_numpy() == pytest.approx([4e7, 900, 3e5 / 24, 7])
    assert table["low"].iloc[0] == 1e7
    assert table["spread"].to_numpy()[1:3] == pytest.approx([120, 2e5 / 24])
    assert table["lloq"].tolist() == [5e4, 50, 50, 50]
    assert table["n"].dtype.kind == "i"
    assert any("of cmax of transgene converted from copies/ng" in note for note in data.notes)


@pytest.mark.parametrize(
    "unit", ["day*copies/µg", "copies/µg*day", "days x copies/ug", "copies/µg·d", "d·copies/µg DNA"]
)
def test_the_unit_of_an_area_is_read_in_any_order(unit):
    data = dataset(summaries=at(summaries(), 2, "unit", unit))
    assert data.summaries["unit"].iloc[2] == "day*copies/µg"
    assert data.summaries["value"].iloc[2] == 3e5


def test_times_become_days_and_folds_have_no_unit():
    table = summaries().iloc[[0, 0]].reset_index(drop=True)
    table = table.assign(metric=["tmax", "fold"], value=[240.0, 3900.0], low=[168.0, 100.0])
    table = table.assign(high=[336.0, 9000.0], unit=["hour", "fold"], use="check", note="an IQR")
    found = dataset(summaries=table).summaries
    assert found["value"].tolist() == [10, 3900]
    assert found["unit"].tolist() == ["day", "1"]
    message = refusal(summaries=at(table, 0, "unit", "month"))
    assert "day, hour or week" in message
    assert "30.44" in message


def test_a_range_may_start_at_nothing_only_with_a_limit():
    table = at(at(summaries(), 0, "low", 0), 0, "interval", "range")
    assert dataset(summaries=table).summaries["low"].iloc[0] == 0
    assert "give the lloq too" in refusal(summaries=at(table, 0, "lloq", None))


def test_a_mean_may_lie_above_the_upper_quartile_but_a_median_may_not():
    table = at(summaries(), 0, "value", 1e5)
    assert "low <= value <= high" in refusal(summaries=table)
    with pytest.warns(CarpkWarning, match="outside its IQR"):
        found = dataset(summaries=at(table, 0, "statistic", "mean")).summaries
    assert len(found) == 4


def test_a_count_of_detectable_patients_without_a_limit_is_refused():
    message = refusal(summaries=at(summaries(), 3, "lloq", None))
    assert "neither lloq nor threshold" in message
    assert len(
        dataset(summaries=at(at(summaries(), 3, "lloq", None), 3, "threshold", 20)).summaries
    )


def row_of(**changes):
    """One fact: the median of 10 levels on day 28."""
    row = {"cohort": "a", "analyte": "car_t", "metric": "level", "time": 28.0, "value": 20.0}
    row |= {"statistic": "median", "n": 10, "unit": "cells/µL", "use": "fit", "source": "Table 1"}
    return pd.DataFrame([row | changes])


def ends(interval, low, high, **more):
    return {"interval": interval, "low": low, "high": high, **more}


IMPOSSIBLE = {
    "median of two": (ends("range", 10, 90, n=2), "value", "of 2 values from 10 to 90 is 50"),
    "mean of its range": (
        ends("range", 10, 90, statistic="mean", value=85),
        "value",
        "between 18 and 82",
    ),
    "outside its range": (ends("range", 30, 90), "low", "low <= value <= high"),
    "outside its IQR": (ends("IQR", 1, 9), "high", "low <= value <= high"),
    "bounds not ordered": (ends("IQR", 30, 9), "low", "low <= value <= high"),
    "equal numbers": (ends("IQR", 20, 30), "low", "equal"),
    "IQR as one number": ({"interval": "IQR", "spread": 12}, "spread", "as one number"),
    "one patient, an SD": ({"interval": "SD", "spread": 5, "n": 1}, "n", "at least 2"),
    "CI of a median of five": (ends("95% CI", 9, 40, n=5), "n", "at least 6"),
    "no SD": ({"interval": "SD", "spread": 0}, "spread", "must be positive"),
    "SD of no positive levels": (
        {"statistic": "mean", "interval": "SD", "spread": 90},
        "spread",
        "their SD is at most 63.2",
    ),
    "geometric SD below 1": (
        {"statistic": "geometric mean", "interval": "GSD", "spread": 0.6},
        "spread",
        "a factor above 1",
    ),
    "CI of a mean, not symmetric": (
        ends("95% CI", 15, 60, statistic="mean"),
        "low",
        "not symmetric",
    ),
    "n missing": ({"n": None}, "n", "number is missing"),
    "zero without a limit": ({"value": 0}, "value", "give the lloq too"),
    "BLQ without a limit": ({"value": "BLQ"}, "value", "give the lloq too"),
    "two limits": ({"value": "<5", "lloq": 2}, "value", "Give one limit"),
    "mean below the limit": (
        {"statistic": "mean", "lloq": 25},
        "value",
        "stood for levels below the LLOQ",
    ),
    "threshold without a count": ({"threshold": 5}, "threshold", "counts nobody"),
    "threshold below the limit": (
        {"metric": "detectable", "statistic": "count", "value": 7, "lloq": 5, "threshold": 2},
        "threshold",
        "below the lloq",
    ),
    "no whole number": (
        {"metric": "detectable", "statistic": "percentage", "value": 75, "lloq": 5},
        "value",
        "7 are 70, 8 are 80",
    ),
    "percentage as proportion": (
        {"metric": "detectable", "statistic": "proportion", "value": 70, "lloq": 5},
        "value",
        "between 0 and 1",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_numbers_that_contradict_each_other_are_refused(case):
    changes, column, words = IMPOSSIBLE[case]
    with pytest.raises(DatasetError, match=re.escape(words)) as refused:
        Dataset.from_frames(summaries=row_of(**changes), sampling=[7, 14, 28])
    assert f"summaries, row 0, column `{column}`, cohort 'a'" in str(refused.value)


def test_rounded_numbers_are_not_taken_for_contradictions():
    """The middle of 2.1 and 4.0 is printed as 3.1, a CI may be rounded, and 2 of 3 are 67 %."""
    two = ends("range", 2.1, 4.0, n=2, value=3.1)
    mean = ends("95% CI", 15.3, 24.8, statistic="mean", value=20)
    geometric = ends("95% CI", 15, 27, statistic="geometric mean")
    share = {"metric": "detectable", "statistic": "percentage", "value": 67, "lloq": 5, "n": 3}
    for changes in (two, mean, geometric, share):
        assert len(Dataset.from_frames(summaries=row_of(**changes)).summaries) == 1


def test_a_cv_below_3_percent_is_asked_about():
    with pytest.warns(CarpkWarning, match="if it is a fraction, write 60"):
        Dataset.from_frames(summaries=row_of(interval="CV%", spread=0.6))


@pytest.mark.parametrize("entry", ["<5", "< 5", "≤5", "BLQ", "nd", "<LLOQ", 0])
def test_statistics_below_the_limit_are_kept_as_censored(entry):
    limit = {} if str(entry)[-1] == "5" else {"lloq": 5}
    data = Dataset.from_frames(summaries=row_of(value=entry, **limit))
    assert data.summaries[["value", "lloq"]].to_numpy().tolist() == [[0, 5]]
    assert entry == 0 or any("censored statistic" in note for note in data.notes)


def test_every_cell_of_the_table_is_accepted_or_refused_by_name():
    """Metric x statistic x interval: what has no likelihood is refused where a fit would use it."""
    spreads = {"SD": 9, "SE": 3, "CV%": 60, "GSD": 1.9}
    units_of = {"level": "cells/µL", "area": "day*cells/µL", "count": "count", "ratio": "1"}
    accepted = 0
    for metric, statistic, kind in itertools.product(
        cohort_summaries.METRICS, (*cohort_summaries.STATISTICS, "p10"), cohort_summaries.INTERVALS
    ):
        counted = cohort_summaries.METRICS[metric] == "count"
        row = {"metric": metric, "statistic": statistic, "interval": kind, "lloq": 1.0}
        row["value"] = {"count": 7, "proportion": 0.7, "percentage": 70}.get(statistic, 20.0)
        if kind in cohort_summaries.WITH_ENDS:
            row |= {"low": 16.0, "high": 25.0 if "geo" in statistic else 24.0}
        elif kind:
            row["spread"] = spreads[kind]
        row["unit"] = units_of.get(cohort_summaries.METRICS[metric], "day")
        row["time"] = 28.0 if metric in cohort_summaries.TIMED else None
        why = cohort_summaries.no_likelihood(metric, statistic, kind)
        if not why:
            assert len(Dataset.from_frames(summaries=row_of(**row), sampling=[7, 14, 28]).summaries)
            accepted += 1
            continue
        with pytest.raises(DatasetError) as refused:
            Dataset.from_frames(summaries=row_of(**row), sampling=[7, 14, 28])
        assert "summaries, row 0, column `" in str(refused.value), row
        contradiction = counted != (statistic in cohort_summaries.COUNTED) or (counted and kind)
        assert contradiction or why in str(refused.value), row
    assert accepted == 3 * 24 + 13 + 8 + 3  # of levels, Cmax, areas; half-lives; Tmax; counts


def test_statistics_and_observations_of_an_analyte_share_its_unit():
    seen = observations(analyte="b_cells", unit="1/µL")
    table = summaries(analyte="b_cells", unit=["%", "%", "day*%", ""])
    assert "'%' here, but in '1/µL' elsewhere" in refusal(observations=seen, summaries=table)


def test_every_cohort_must_be_in_the_cohorts_table_if_there_is_one():
    table = pd.DataFrame({"cohort": ["flu"], "ld": ["Flu"]})
    message = refusal(summaries=summaries(), cohorts=table)
    assert "summaries, row 2, column `cohort`" in message
    assert "cohort 'flucy' is not in the cohorts table" in message


# ---- covariates -------------------------------------------------------------------------------

COHORTS = pd.DataFrame(
    {"cohort": ["flu", "flucy"], "conditioning": ["Flu", "Flu/Cy"], "cy": [0, 1]}
)


def test_covariates_come_from_the_patient_or_else_from_the_cohort():
    data = dataset(patients=patients(age=[60, 70]), cohorts=COHORTS)
    assert data.covariate("age").tolist() == [60.0, 70.0]
    assert data.covariate("AGE").tolist() == [60.0, 70.0]
    assert data.covariate("conditioning").tolist() == ["Flu", "Flu/Cy"]
    assert data.covariate("cy").dtype == np.float64
    assert data.covariate("cohort").tolist() == ["flu", "flucy"]
    assert data.cohort_covariate("conditioning") == {"flu": "Flu", "flucy": "Flu/Cy"}


def test_an_unknown_covariate_lists_the_known_and_a_missing_value_names_the_patient():
    data = dataset(patients=patients(age=[60, None]), cohorts=COHORTS)
    with pytest.raises(DatasetError, match=r"no covariate `agge`; known are .*`age`.*you mean"):
        data.covariate("agge")
    with pytest.raises(DatasetError, match=r"no value for 1 patient \(P2\)"):
        data.covariate("age")
    with pytest.raises(DatasetError, match=r"cohorts table has no covariate `age`"):
        data.cohort_covariate("age")


def test_a_covariate_of_numbers_and_slips_is_refused_and_one_of_stages_is_words():
    message = refusal(patients=patients(age=["60", "7,5"]))
    assert "patients, row 1, column `age`, patient 'P2'" in message
    data = dataset(patients=patients(stage=["2", "3A"]))
    assert data.covariate("stage").tolist() == ["2", "3A"]
    assert any("mixes numbers and words" in note for note in data.notes)


# ---- arrays -----------------------------------------------------------------------------------


def test_arrays_hold_every_observation_once_in_order_of_time_and_pad_harmlessly():
    rng = np.random.default_rng(3)
    shuffled = observations().iloc[rng.permutation(4)]
    shuffled = shuffled[shuffled["time"] != 180]
    data = dataset(observations=shuffled, doses=doses())
    arrays = data.arrays(["transgene"])
    assert arrays.patients == ("P1", "P2")
    assert arrays.time.tolist() == [[7, 14], [7, 0]]
    assert arrays.value.tolist() == [[2e4, 3e3], [5e4, 1]]
    assert arrays.lloq.tolist() == [[50, 50], [50, 1]]
    assert arrays.mask.tolist() == [[True, True], [True, False]]
    assert arrays.infusion_amount.tolist() == [[1e8], [1e8]]  # fludarabine is no infusion
    assert arrays.infusion_unit == "cells"
    assert np.isnan(arrays.limit).all()


def test_arrays_count_analytes_in_the_order_asked_for():
    table = observations(analyte=["transgene", "il6"] * 2, unit=["copies/µg", "pg/mL"] * 2)
    arrays = dataset(observations=table).arrays(["il6", "transgene"])
    assert arrays.analytes == ("il6", "transgene")
    assert arrays.analyte.tolist() == [[1, 0], [1, 0]]
    with pytest.raises(DatasetError, match=r"no analyte 'il7'.*Did you mean 'il6'"):
        dataset(observations=table).arrays(["il7"])


def test_an_unknown_limit_never_censors_and_a_limit_of_zero_is_none():
    table = observations(lloq=[None, 50, 50, 50], limit=[None, None, None, 0])
    arrays = dataset(observations=table).arrays(["transgene"])
    assert arrays.lloq[0, 0] == 1e-30
    assert np.isnan(arrays.limit).all()


def test_infusions_in_several_units_warn():
    data = dataset(doses=at(doses(), 2, "unit", "cells/kg"))
    with pytest.warns(CarpkWarning, match="cells and cells/kg"):
        assert data.arrays(["transgene"]).infusion_unit == "mixed"


# ---- sums -------------------------------------------------------------------------------------


def other():
    rename = {"P1": "Q1", "P2": "Q2"}
    return dataset(
        patients=patients(age=[1, 2]).assign(patient=["Q1", "Q2"]),
        doses=doses().replace({"patient": rename}),
        observations=observations().replace({"patient": rename}),
        name="other",
    )


def test_a_sum_holds_the_patients_of_both_and_notes_covariates_only_one_has():
    both = dataset() + other()
    assert both.name == "data set + other"
    assert both.patients["patient"].tolist() == ["P1", "P2", "Q1", "Q2"]
    assert len(both.observations) == 8
    assert both.patients["age"].tolist()[2:] == [1, 2]
    assert any("`age` is missing" in note for note in both.notes)
    np.testing.assert_array_equal(
        both.arrays(["transgene"]).value[2:], other().arrays(["transgene"]).value
    )


def test_a_sum_refuses_clashes_of_patients_units_cohorts_and_sampling():
    with pytest.raises(DatasetError, match=r"both have 2 patients named P1, P2.*Rename"):
        dataset() + dataset()
    seen = observations(analyte="ferritin", unit="µg/L")
    odd = other()
    odd_seen = odd.observations.assign(analyte="ferritin", unit="IU/L")
    odd = Dataset.from_frames(odd.patients, odd.doses, odd_seen, name="odd")
    with pytest.raises(DatasetError, match=r"'ferritin' is in 'µg/L'.*'IU/L' in 'odd'"):
        dataset(observations=seen) + odd
    first = Dataset.from_frames(summaries=summaries(), cohorts=COHORTS, sampling=[1, 7])
    second = Dataset.from_frames(summaries=summaries(), cohorts=COHORTS.assign(cy=2))
    with pytest.raises(DatasetError, match="'flu' is in several"):
        Dataset.concat(first, second, sampling=[1, 7])
    third = Dataset.from_frames(summaries=summaries(), sampling=[1, 14])
    with pytest.raises(DatasetError, match="different sampling days"):
        first + third
    assert Dataset.concat(first, third, sampling=[1, 7, 14]).sampling == (1, 7, 14)


# ---- folders ----------------------------------------------------------------------------------

FILES = {
    "about.toml": 'citation = "simulated for a test"\nlicence = "CC0"\n',
    "patients.csv": "patient,age\nP1,60\n",
    "doses.csv": "patient,time,product,amount,unit,duration\nP1,0,car_t,1e8,cells,0\n",
    "observations.csv": (
        "patient,time,analyte,value,unit,lloq,censored\n"
        "P1,7,transgene,20000,copies/µg,50,0\n"
        "\n"
        "P1,28,transgene,900,copies/µg,50,0\n"
    ),
}


def folder(path, **files):
    for name, text in {**FILES, **files}.items():
        if text is not None:
            (path / name).write_text(text, encoding="utf-8")
    return path


def folder_refusal(path, **files):
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder(path, **files))
    return str(caught.value)


def test_the_simulated_study_folder_is_read_as_about_toml_says():
    data = load_dataset(FOLDER)
    assert data.name == "simulated"
    assert "simulated" in repr(data)
    assert data.sampling == (1, 4, 7, 10, 14, 28)
    assert data.units == {"transgene": "copies/µg", "alc": "cells/µL"}
    assert (data.observations["lloq"] == 50).sum() == 4
    assert data.observations["time"].max() == 28  # given in hours
    assert data.summaries["metric"].tolist() == ["cmax", "detectable"]
    assert data.cohort_covariate("conditioning") == {"flu": "Flu", "flucy": "Flu/Cy"}
    assert data.covariate("conditioning").tolist() == ["Flu", "Flu/Cy"]


def test_rows_are_line_numbers_of_the_file_blank_lines_included(tmp_path):
    bad = FILES["observations.csv"].replace("900", "9,1").replace("9,1", '"9,1"')
    message = folder_refusal(tmp_path, **{"observations.csv": bad})
    assert "observations.csv, row 4, column `value`, patient 'P1': '9,1' is not" in message


def test_a_ragged_line_is_refused_with_its_number(tmp_path):
    bad = FILES["observations.csv"].replace("900", "9,1")
    message = folder_refusal(tmp_path, **{"observations.csv": bad})
    assert "observations.csv, row 4: 8 entries where the header names 7 columns" in message


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("about.toml", None, ["no about.toml", 'citation = "..."']),
        ("about.toml", "citation = x", ["not valid TOML", "line 1"]),
        ("about.toml", "time_unit = 3", ["time_unit must be a word"]),
        ("about.toml", "lloq = 'fifty'", ["LLOQ must be a positive number"]),
        ("doses.csv", None, ["no doses.csv", "`product`"]),
        ("observations.csv", None, ["neither observations.csv", "facts.csv"]),
        ("doses.csv", "patient;time\n", ["row 1", "semicolons"]),
        ("doses.csv", "", ["doses.csv is empty"]),
        ("doses.csv", "patient,,time\n", ["column 2 has no name"]),
        ("patients.csv", "Patient\nP1\n", ["Rename `Patient` to `patient`"]),
        ("patients.csv", 'patient,x\nP1,"a\n', ["not readable as CSV", "quotes"]),
    ],
)
def test_a_bad_folder_is_refused_by_file_with_advice(tmp_path, file, text, expected):
    message = folder_refusal(tmp_path, **{file: text})
    for part in expected:
        assert part in message


def test_a_misspelt_file_is_refused_and_another_noted(tmp_path):
    message = folder_refusal(tmp_path, **{"patients.csv": None, "Patient.csv": "patient\nP1\n"})
    assert "Did you mean patients.csv?" in message
    (tmp_path / "Patient.csv").unlink()
    data = load_dataset(folder(tmp_path, **{"weather.csv": "day\n1\n", "README.md": "x"}))
    assert any("weather.csv was not read" in note for note in data.notes)


def test_a_path_that_is_no_folder_is_refused_with_the_right_verb(tmp_path):
    folder(tmp_path)
    with pytest.raises(DatasetError, match=r"Dataset\.from_nonmem"):
        load_dataset(tmp_path / "doses.csv")
    (tmp_path / "heros").mkdir()
    with pytest.raises(DatasetError, match=r"no folder .*Did you mean .*heros"):
        load_dataset(tmp_path / "herros")
    with pytest.raises(DatasetError, match="does not exist either"):
        load_dataset(tmp_path / "a" / "b")


def test_latin_1_is_refused_because_of_its_micro(tmp_path):
    folder(tmp_path)
    (tmp_path / "doses.csv").write_bytes(FILES["doses.csv"].replace("cells", "µ").encode("latin-1"))
    with pytest.raises(DatasetError, match=r"doses.csv is not UTF-8.*CSV UTF-8"):
        load_dataset(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    assert len(load_dataset(folder(tmp_path, **{"doses.csv": "\ufeff" + FILES["doses.csv"]})).doses)


def test_about_toml_may_describe_assays_without_data_and_time_zero(tmp_path):
    about = FILES["about.toml"] + 'time_zero = "first dose"\n[lloq]\ntransgene = 50\nil6 = 2\n'
    late = FILES["doses.csv"].replace("P1,0", "P1,2")
    data = load_dataset(folder(tmp_path, **{"about.toml": about, "doses.csv": late}))
    assert data.observations["time"].tolist() == [5, 26]
    assert any("LLOQ of il6, of which there are no data" in note for note in data.notes)


def test_every_unit_in_the_table_leads_to_a_fixed_point():
    for unit in ("cells/uL", "1e9/L", "copies/ug gDNA", "ng/mL", "cm3"):
        name, _ = units.measured(unit)
        assert units.measured(name) == (name, 1.0)
    assert units.measured("copies/cell") is None


MIXED = [1, 1.0, True, "1", " 1 ", "1e0", None, "", ".", np.nan, float("nan"), pd.NA, -0.0, 0, "<5"]


@pytest.mark.parametrize("function", [tables.text_of, tables.number_of, tables.bound_of, type])
@pytest.mark.parametrize(
    "entries", [MIXED, MIXED[:2], MIXED[1:3], ["1", None, "1"], [1.0, "1"], [True, False], [], "ab"]
)
def test_entries_are_read_together_as_one_by_one(function, entries):
    together = tables.each(function, entries)
    assert repr(together) == repr([function(entry) for entry in entries])


def test_an_entry_that_repeats_is_read_once():
    calls, entries = [], ["a", "b"] * 99
    assert tables.each(lambda entry: calls.append(entry) or entry, entries) == entries
    assert sorted(calls) == ["a", "b"]
