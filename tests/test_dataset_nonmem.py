"""NONMEM, Monolix and rxode2 tables become data sets, and back, without a loss or a guess.

All patients here are simulated.
"""

import json
import string
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from carpk.dataset import Dataset
from carpk.errors import CarpkWarning, DatasetError

SIMULATED = """\
# simulated: lymphodepletion with fludarabine, then CAR T cells; qPCR and tumor volume
ID,TIME,DV,AMT,EVID,MDV,CMT,RATE,ADDL,II,DVID,CENS,LLOQ,WT,LD
1,-5,.,30,1,1,2,720,3,1,.,0,.,70,flu
1,0,.,1e8,1,1,1,0,0,0,.,0,.,70,flu
C,0.5,9,0,0,0,3,0,0,0,1,0,50,70,flu
1,0,120,0,0,0,3,0,0,0,2,0,.,70,flu
1,7,21000,0,0,0,3,0,0,0,1,0,50,70,flu
1,14,.,0,0,1,3,0,0,0,1,0,50,70,flu
1,90,50,0,0,0,3,0,0,0,1,1,50,70,flu
1,90,.,0,2,1,3,0,0,0,.,0,.,70,flu
2,0,.,2e8,1,1,1,0,1,42,.,0,.,81.5,flucy
2,7,64000,0,0,0,3,0,0,0,1,0,50,81.5,flucy
2,7,65000,0,0,0,3,0,0,0,1,0,50,81.5,flucy
"""
READ = {
    "analytes": {1: "transgene", 2: "tumor"},
    "units": {"transgene": "copies/ug", "tumor": "mL"},
    "products": {2: ("fludarabine", "mg/m2")},
    "infusion_cmt": 1,
}


@pytest.fixture
def table(tmp_path):
    """Write lines to a file, or a changed copy of a small good table, and give its path."""

    def write(text=None, **changes):
        path = tmp_path / "data.csv"
        path.write_text(SMALL if text is None else text, encoding="utf-8")
        return path

    return write


SMALL = """\
ID,TIME,DV,AMT,EVID
1,0,.,1e8,1
1,7,200,.,0
1,14,30,.,0
"""


def columns(**extra):
    """The small table with further columns: one entry per row."""
    frame = {
        "ID": ["1", "1", "1"],
        "TIME": ["0", "7", "14"],
        "DV": [".", "200", "30"],
        "AMT": ["1e8", ".", "."],
        "EVID": ["1", "0", "0"],
        **extra,
    }
    frame = {key: entries for key, entries in frame.items() if entries is not None}
    rows = zip(*frame.values(), strict=True)
    return "\n".join([",".join(frame), *(",".join(row) for row in rows)]) + "\n"


def read(path, **arguments):
    return Dataset.from_nonmem(path, **arguments)


def noted(data, part):
    return any(part in note for note in data.notes)


# ---- good tables ------------------------------------------------------------------------------


def test_a_realistic_table_is_read_with_everything_that_happened_in_its_notes(table):
    data = read(table(SIMULATED), **READ)
    assert data.patients["patient"].tolist() == ["1", "2"]
    assert data.covariate("WT").tolist() == [70, 81.5]
    assert data.covariate("ld").tolist() == ["flu", "flucy"]
    flu = data.doses[data.doses["product"] == "fludarabine"]
    assert flu["time"].tolist() == [-5, -4, -3, -2]
    assert flu["duration"].to_numpy() == pytest.approx([30 / 720] * 4)
    assert flu["unit"].unique().tolist() == ["mg/m2"]
    assert data.infusions["time"].tolist() == [0, 0, 42]
    assert data.infusions["amount"].tolist() == [1e8, 2e8, 2e8]
    gene = data.observations[data.observations["analyte"] == "transgene"]
    assert gene["value"].tolist() == [21000, 50, 64000, 65000]
    assert gene["censored"].tolist() == [0, 1, 0, 0]
    assert data.units == {"tumor": "mL", "transgene": "copies/µg"}
    for part in (
        "2 lines ignored",
        ": 1, 5.",
        "1 observation with MDV 1 left out",
        "1 row with EVID 2 kept out",
        "4 doses given by ADDL and II (2 rows) were written out",
        "without a unit taken for 'cells'",
    ):
        assert noted(data, part), part


def test_column_names_are_read_in_any_case_and_separators_do_not_matter(tmp_path):
    path = tmp_path / "data.csv"
    for separator in (",", ";", "\t", "   "):
        path.write_text(SMALL.lower().replace(",", separator))
        assert read(path).observations["value"].tolist() == [200, 30]


def test_a_single_endpoint_is_car_t_in_cells_unless_named_and_both_are_noted(table):
    data = read(table())
    assert data.units == {"car_t": "cells/µL"}
    assert noted(data, "taken for 'car_t'")
    assert noted(data, "taken for cells/µL")
    data = read(table(), analytes="transgene", units={"transgene": "copies/µg"}, lloq=10)
    assert data.units == {"transgene": "copies/µg"}
    assert data.observations["lloq"].tolist() == [10, 10]


def test_without_evid_doses_are_inferred_from_amt_and_noted(table):
    data = read(table(columns(EVID=None)))
    assert len(data.doses) == 1
    assert len(data.observations) == 2
    assert noted(data, "no column EVID; 1 row with AMT > 0")


def test_endpoints_may_be_words_or_the_compartment_of_the_observation(table):
    words = columns(YTYPE=[".", "car_t", "tumor"])
    assert read(table(words), units={"tumor": "mL"}).analytes == ("car_t", "tumor")
    by_cmt = columns(CMT=["1", "2", "3"])
    data = read(table(by_cmt), analytes={2: "car_t", 3: "il6"})
    assert data.analytes == ("car_t", "il6")


def test_units_may_stand_in_columns(table):
    text = columns(DVU=[".", "cells/mL", "cells/mL"], DOSEU=["1e6 cells/kg", ".", "."])
    data = read(table(text.replace("1e8", "2")))
    assert data.observations["value"].tolist() == pytest.approx([0.2, 0.03])
    assert data.doses[["amount", "unit"]].to_numpy().tolist() == [[2e6, "cells/kg"]]


def test_units_may_name_a_product(table):
    text = "ID,TIME,DV,AMT,CMT\n1,-3,.,25,2\n1,0,.,1e8,1\n1,7,200,.,3\n"
    arguments = {"products": {1: "car_t", 2: "fludarabine"}, "units": {"fludarabine": "mg/m2"}}
    assert read(table(text), **arguments).doses["unit"].tolist() == ["mg/m2", "cells"]


DRUG = "ID,TIME,DV,AMT{more}\n1,0,.,320{dose}\n1,1,8,.{seen}\n"


@pytest.mark.parametrize("cmt", [False, True])
@pytest.mark.parametrize(
    ("products", "units", "unit"),
    [
        (("theophylline", "mg"), {}, "mg"),
        (["theophylline", "mg"], {}, "mg"),
        ("theophylline", {"theophylline": "mg"}, "mg"),
        ("theophylline", {}, "cells"),
    ],
)
def test_a_single_product_is_named_without_its_compartment(table, cmt, products, units, unit):
    more = dict(more=",CMT", dose=",1", seen=",2") if cmt else dict(more="", dose="", seen="")
    data = read(
        table(DRUG.format(**more)),
        products=products,
        analytes="conc",
        units={"conc": "mg/L"} | units,
    )
    assert data.doses[["product", "unit"]].to_numpy().tolist() == [["theophylline", unit]]
    assert any("taken for 'cells'" in note for note in data.notes) == (unit == "cells")


def test_a_single_name_does_not_stand_for_products_of_several_compartments(table):
    text = "ID,TIME,DV,AMT,CMT\n1,-3,.,25,2\n1,0,.,1e8,1\n1,7,200,.,3\n"
    with pytest.raises(DatasetError, match=r"one product is named .* have CMT `2`, `1`.*products="):
        read(table(text), products="theophylline")
    with pytest.raises(DatasetError, match=r"products must be a name or \(name, unit\)"):
        read(table(DRUG.format(more="", dose="", seen="")), products=("a", "mg", "b"))


def test_rows_at_equal_times_keep_the_order_of_the_file(table):
    text = "ID,TIME,DV,AMT\n1,0,.,1e8\n1,7,30,.\n1,7,10,.\n1,7,20,.\n"
    data = read(table(text))
    assert data.observations["value"].tolist() == [30, 10, 20]
    assert data.arrays(["car_t"]).value.tolist() == [[30, 10, 20]]


def test_hours_apply_to_times_intervals_and_rates(table):
    text = columns(RATE=["1e8", "0", "0"], ADDL=["1", "0", "0"], II=["168", "0", "0"])
    data = read(table(text), time_unit="hour")
    assert data.doses["time"].tolist() == [0, 7]
    assert data.doses["duration"].to_numpy() == pytest.approx([1 / 24, 1 / 24])


def test_times_are_shifted_to_the_first_cells_only_if_told(table):
    text = SMALL.replace("1,0,", "1,3,")
    with pytest.raises(DatasetError, match=r"row 2, column `TIME`.*day 3.*time_zero='first dose'"):
        read(table(text))
    data = read(table(text), time_zero="first dose")
    assert data.observations["time"].tolist() == [4, 11]
    assert noted(data, "shifted")


# ---- censoring --------------------------------------------------------------------------------


def test_cens_and_blq_are_two_ways_to_say_the_same(table):
    text = columns(CENS=["0", "0", "1"], LLOQ=[".", "30", "30"])
    cens = read(table(text))
    blq = read(table(columns(BLQ=["0", "0", "1"], LLOQ=[".", "30", "30"]).replace("14,30", "14,0")))
    pd.testing.assert_frame_equal(cens.observations, blq.observations)
    assert cens.observations["censored"].tolist() == [0, 1]
    assert noted(blq, "1 row with BLQ 1 read as CENS 1")


def test_dv_of_a_censored_row_is_its_lloq_where_no_column_says(table):
    data = read(table(columns(CENS=["0", "0", "1"], LIMIT=[".", ".", "5"])))
    assert data.observations["lloq"].tolist()[1] == 30
    assert data.observations["limit"].tolist()[1] == 5
    assert data.arrays(["car_t"]).limit[0, 1] == 5
    data = read(table(columns(CENS=["0", "-1", "0"])))
    assert data.observations["censored"].tolist() == [-1, 0]


def test_a_limit_of_an_observed_row_is_left_out_with_a_note(table):
    data = read(table(columns(CENS=["0", "0", "1"], LIMIT=["0", "7", "5"])))
    assert np.isnan(data.observations["limit"].iloc[0])
    assert noted(data, "LIMIT of 1 row that are not CENS 1")


# ---- comments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["# a comment", "@,x", "C,7,9,.,0", "C1,7,9,.,0", "c 1 2 3"])
def test_comment_lines_are_ignored_and_counted(table, line):
    data = read(table(SMALL + line + "\n"))
    assert len(data.observations) == 2
    assert noted(data, "1 line ignored")
    assert noted(data, ": 5.")


def test_a_repeated_header_is_skipped_and_noted(table):
    data = read(table(SMALL + SMALL.splitlines()[0] + "\n"))
    assert noted(data, "1 line skipped as repetitions of the header: 5.")


def test_labels_that_start_with_the_comment_letter_are_patients_or_refused_never_dropped(table):
    rows = SMALL.replace("\n1,", "\nC01,")
    assert read(table(rows)).patients["patient"].tolist() == ["C01"]
    mixed = rows + "A1,0,.,1e8,1\nA1,7,5,.,0\n"
    with pytest.raises(DatasetError, match=r"row 2: .*subject's label.*ignore=None"):
        read(table(mixed))
    assert read(table(mixed), ignore=None).patients["patient"].tolist() == ["C01", "A1"]
    numbered = table(mixed + "2,0,.,1e8,1\n2,7,1,.,0\n")
    assert read(numbered, ignore="@").patients["patient"].tolist() == ["2"]


# ---- covariates -------------------------------------------------------------------------------


def test_a_covariate_that_changes_is_refused_by_name_unless_its_first_value_is_asked_for(table):
    text = columns(AGE=["60"] * 3, WBC=["4", "0.1", "2"])
    with pytest.raises(DatasetError) as caught:
        read(table(text))
    for part in ("row 3", "column `wbc`", "patient '1'", "changes from 4 to 0.1", "'first'"):
        assert part in str(caught.value)
    data = read(table(text), covariates=["AGE"])
    assert data.patients.columns.tolist() == ["patient", "AGE"]
    assert noted(data, "columns left out: `wbc`")
    data = read(table(text), covariates={"age": "constant", "wbc": "first"})
    assert data.covariate("wbc").tolist() == [4]
    assert noted(data, "the first value was kept, as asked")
    with pytest.raises(DatasetError, match="Did you mean `age`"):
        read(table(text), covariates=["agee"])


def test_columns_that_follow_from_others_are_left_out_with_a_note(table):
    data = read(table(columns(TAD=["0", "7", "14"], OCC=["1", "1", "1"])))
    assert data.patients.columns.tolist() == ["patient"]
    assert noted(data, "`TAD`, `OCC`")


def test_a_column_uloq_censors_what_is_at_it(table):
    data = read(table(columns(ULOQ=[".", "200", "200"])))
    assert data.observations["censored"].tolist() == [-1, 0]
    assert data.patients.columns.tolist() == ["patient"]


BY_COLUMN = ({"DV": [-99], "wt": ["-99"]}, {"value": [-99], "WT": [-99]})


@pytest.mark.parametrize("given", [[-99], *BY_COLUMN])
def test_what_is_declared_missing_is_so_in_covariates_and_in_dv(table, given):
    text = columns(DV=["-99", "-99", "30"], WT=["70", "-99", "70"])
    data = read(table(text), missing=given)
    assert data.patients["wt"].tolist() == [70]
    assert data.observations["value"].tolist() == [30]
    assert noted(data, "2 entries of `DV` (`-99`) are missing, as declared")
    assert noted(data, "1 observation with MDV 1 left out")


# ---- refusals ---------------------------------------------------------------------------------

BAD = {
    "EVID 3": (columns(EVID=["3", "2", "0"]), 2, "AMT", "no dose"),
    "EVID 7": (columns(EVID=["1", "7", "0"]), 3, "EVID", "must be 0 (observation)"),
    "no EVID": (columns(EVID=["1", ".", "0"]), 3, "EVID", "EVID is missing"),
    "SS of cells": (columns(SS=["1", "0", "0"], II=["1", "0", "0"]), 2, "SS", "cells multiply"),
    "SS without II": (columns(SS=["1", "0", "0"]), 2, "SS", "needs ii"),
    "SS 3": (columns(SS=["3", "0", "0"]), 2, "SS", "0, 1 or 2"),
    "SS on observation": (columns(SS=["0", "1", "0"]), 3, "SS", "no dose"),
    "RATE -5": (columns(RATE=["-5", "0", "0"]), 2, "RATE", "must be positive"),
    "ADDL": (columns(ADDL=["2", "0", "0"]), 2, "ADDL", "need ii"),
    "too many": (columns(ADDL=["1e12", "0", "0"], II=["1", "0", "0"]), 2, "ADDL", "0 to 100000"),
    "ADDL half": (columns(ADDL=["1.5", "0", "0"]), 2, "ADDL", "whole number"),
    "RATE and DUR": (
        columns(RATE=["1e8", ".", "."], DUR=["3", ".", "."]), 2, "DUR", "Keep one of RATE and DUR"
    ),
    "RATE on observation": (columns(RATE=["0", "4", "0"]), 3, "RATE", "no dose"),
    "AMT on observation": (columns(AMT=["1e8", "5", "."]), 3, "AMT", "Set EVID to 1"),
    "dose without AMT": (columns(AMT=["0", ".", "."]), 2, "AMT", "needs AMT > 0"),
    "DV on dose": (columns(DV=["8", "200", "30"]), 2, "DV", "row of its own"),
    "no DV": (columns(DV=[".", ".", "30"]), 3, "DV", "number is missing"),
    "DV of zero": (columns(DV=[".", "0", "30"]), 3, "DV", "pre-dose baseline"),
    "DV as text": (columns(DV=[".", "low", "30"]), 3, "DV", "'low' is not a number"),
    "order": (columns(TIME=["0", "14", "7"]), 4, "TIME", "goes back from 14 to 7"),
    "clock": (columns(TIME=["0", "12:30", "14"]), 3, "TIME", "is a date or clock time"),
    "MDV": (columns(MDV=["1", "0", "3"]), 4, "MDV", "must be 0 or 1"),
    "CENS": (columns(CENS=["0", "2", "0"]), 3, "CENS", "-1 or 0 or 1"),
    "BLQ": (columns(BLQ=["0", "0", "1"]), 4, "BLQ", "Add a column LLOQ"),
    "BLQ and CENS": (
        columns(BLQ=["0", "0", "1"], CENS=["0", "0", "-1"]), 4, "BLQ", "CENS is -1"
    ),
    "CENS without value": (
        columns(DV=[".", "200", "0"], CENS=["0", "0", "1"]), 4, "DV", "Write the LLOQ as DV"
    ),
    "CENS above": (
        columns(CENS=["0", "1", "0"], LLOQ=["30"] * 3), 3, "DV", "above its LLOQ 30"
    ),
    "early": (columns(TIME=["0", "7", "14"]).replace("1,0,", "1,-1,"), 2, "TIME", "day -1"),
    "no compartment": (columns(CMT=[".", "1", "1"]), 2, "CMT", "compartment of the dose"),
    "no DVID": (columns(DVID=[".", "1", "."]), 4, "DVID", "Give it"),
    "01": (columns(ID=["1", "01", "1"]), 3, "ID", "may be another way to write '1'"),
    "no ID": (columns(ID=["1", "", "1"]), 3, "ID", "subject's label"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_with_line_column_and_advice(table, case):
    text, row, column, part = BAD[case]
    with pytest.raises(DatasetError) as caught:
        read(table(text))
    message = str(caught.value)
    for expected in (f"data.csv, row {row}, column `{column}`", part):
        assert expected in message
    assert "patient '1'" in message or column == "ID"


def test_a_subject_that_appears_twice_is_refused(table):
    text = SMALL + "2,0,.,1e8,1\n1,20,3,.,0\n"
    with pytest.raises(DatasetError, match=r"row 6, column `ID`.*appears again"):
        read(table(text))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("TIME,DV\n0,1\n", "column ID is missing"),
        ("ID,TIMES,DV\n1,0,1\n", "Rename `TIMES` to TIME"),
        ("ID,TIME,DV,\n1,0,1,\n", "column 4 has no name"),
        ("ID,TIME,DV,DVID,YTYPE\n1,0,1,1,1\n", "`DVID`, `YTYPE` mean the same"),
        ("ID,TIME,DV\n1,0\n", "row 2: 2 entries where the header names 3 columns"),
        ("ID,DATE,TIME,DV\n1,2024-01-01,0,1\n", "`DATE` holds dates, but '0'"),
        ("ID,TIME,DV\nC,0,1\n", "leaves no line"),
    ],
)
def test_a_bad_file_is_refused_with_advice(table, text, part):
    with pytest.raises(DatasetError) as caught:
        read(table(text))
    assert part in str(caught.value)


def test_several_endpoints_or_compartments_must_be_named(table):
    several = columns(DVID=[".", "1", "2"])
    for arguments, part in (
        ({}, r"several endpoints \(DVID `1`, `2`\).*analytes="),
        ({"analytes": {1: "car_t"}}, r"row 4, column `DVID`.*DVID 2 is not named"),
        ({"analytes": {1: "car_t", 2: "il6", 3: "alc"}}, "names DVID 3"),
        ({"analytes": "car_t"}, "one analyte is named"),
    ):
        with pytest.raises(DatasetError, match=part):
            read(table(several), **arguments)
    doses = "ID,TIME,DV,AMT,CMT\n1,-3,.,25,2\n1,0,.,1e8,1\n1,7,200,.,3\n"
    for arguments, part in (
        ({}, r"several compartments.*infusion_cmt"),
        ({"infusion_cmt": 1}, r"row 2.*into CMT 2 is unknown"),
        ({"infusion_cmt": 9}, "names CMT 9"),
        ({"infusion_cmt": 1, "products": {2: "flu"}}, r"unit of the dose of 'flu' is unknown"),
        ({"infusion_cmt": 1, "products": {2: ("flu", "cells")}}, "not named in infusion_cmt"),
    ):
        with pytest.raises(DatasetError, match=part):
            read(table(doses), **arguments)


def test_a_path_that_is_no_file_is_refused_with_the_right_verb(tmp_path, table):
    table()
    with pytest.raises(DatasetError, match=r"Did you mean .*data.csv"):
        read(tmp_path / "dat.csv")
    with pytest.raises(DatasetError, match="load_dataset"):
        read(tmp_path)


# ---- laws -------------------------------------------------------------------------------------


@given(
    addl=st.integers(0, 20),
    ii=st.floats(0.5, 60),
    start=st.floats(-20, 0),
    amount=st.floats(1e4, 1e10),
)
@settings(max_examples=40, deadline=None)
def test_addl_means_the_doses_written_one_by_one(tmp_path_factory, addl, ii, start, amount):
    folder = tmp_path_factory.getbasetemp()
    short = f"ID,TIME,DV,AMT,ADDL,II\n1,{start!r},.,{amount!r},{addl},{ii!r}\n1,900,1,.,0,0\n"
    times = [start + k * ii for k in range(addl + 1)]
    rows = [(t, f"1,{t!r},.,{amount!r}") for t in times] + [(900.0, "1,900,1,.")]
    assume(times[-1] < 900)
    long = "ID,TIME,DV,AMT\n" + "\n".join(line for _, line in rows) + "\n"
    read_back = []
    for text in (short, long):
        path = folder / "addl.csv"
        path.write_text(text)
        read_back.append(read(path, time_zero="first dose"))
    pd.testing.assert_frame_equal(read_back[0].doses, read_back[1].doses)
    pd.testing.assert_frame_equal(read_back[0].observations, read_back[1].observations)
    assert len(read_back[0].doses) == addl + 1


LABELS = st.text(string.ascii_letters + string.digits + "-_ /#@.,'\"µ", min_size=1, max_size=8)
LABELS = LABELS.map(str.strip).filter(
    lambda text: text and text.lower() not in (".", "na", "nan", "none", "null", "n/a")
)
POSITIVE = st.floats(1e-3, 1e7)


@st.composite
def data_sets(draw):
    """Small data sets with anything that a table can hold."""
    labels = draw(st.lists(LABELS, min_size=1, max_size=3, unique=True))
    people = {"patient": labels}
    if draw(st.booleans()):
        people["age"] = [draw(st.floats(1, 99)) for _ in labels]
    if draw(st.booleans()):
        people["Arm of study"] = [draw(st.sampled_from(["Flu", "Flu/Cy, x"])) for _ in labels]
    doses, seen = [], []
    for label in labels:
        cells = draw(st.sampled_from(["cells", "cells/kg"]))
        doses.append((label, 0.0, "car_t", draw(st.floats(1e4, 1e10)), cells, 0.0))
        for _ in range(draw(st.integers(0, 2))):
            span = draw(st.sampled_from([0.0, 0.04, 1.0]))
            time = draw(st.floats(-9, 99))
            doses.append((label, time, "flu", draw(st.floats(0.1, 900)), "mg/m2", span))
        for _ in range(draw(st.integers(0, 4))):
            analyte = draw(st.sampled_from(["transgene", "tumor"]))
            unit = {"transgene": "copies/µg", "tumor": "mL"}[analyte]
            value, flag = draw(POSITIVE), draw(st.sampled_from([0, 1, -1]))
            lloq = value if flag == 1 else draw(st.sampled_from([np.nan, value / 2]))
            limit = draw(st.sampled_from([np.nan, value / 3])) if flag == 1 else np.nan
            time = draw(st.floats(0, 900))
            seen.append((label, time, analyte, value, unit, lloq, flag, limit))
    names = ["patient", "time", "product", "amount", "unit", "duration"]
    seen_names = ["patient", "time", "analyte", "value", "unit", "lloq", "censored", "limit"]
    assume(seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        return Dataset.from_frames(
            patients=pd.DataFrame(people),
            doses=pd.DataFrame(doses, columns=names),
            observations=pd.DataFrame(seen, columns=seen_names),
        )


def sorted_by_patient(data, frame):
    order = {patient: i for i, patient in enumerate(data.patients["patient"])}
    ranked = frame.assign(rank=frame["patient"].map(order))
    ranked = ranked.sort_values(["rank", "time"], kind="stable").drop(columns="rank")
    return ranked.reset_index(drop=True)


@given(data=data_sets(), use_sidecar=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_is_read_back(tmp_path_factory, data, use_sidecar):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    arguments = data.to_nonmem(path)
    if not use_sidecar:
        path.with_suffix(".info.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        back = read(path) if use_sidecar else read(path, **arguments)
    assert back.units == data.units
    for table in ("doses", "observations"):
        expected = sorted_by_patient(data, getattr(data, table))
        pd.testing.assert_frame_equal(getattr(back, table), expected, rtol=1e-12)
    pd.testing.assert_frame_equal(back.patients, data.patients)


@given(data=data_sets())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_frames_of_a_data_set_make_it_again(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        back = Dataset.from_frames(**data.to_frames())
    for table in ("patients", "doses", "observations", "summaries", "cohorts"):
        pd.testing.assert_frame_equal(getattr(back, table), getattr(data, table), check_exact=True)


CELL = st.sampled_from(
    ["1", "01", ".", "", "-99", "2024-03-01", "01/03/2024", "8:30", "0", "7", "<5", "x", "1e8"]
)


@given(
    name=st.sampled_from(
        ["DATE", "DAT1", "DAT2", "DAT3", "ADY", "AFRLT", "ULOQ", "ALLOQ", "BLQFN"]
    ),
    extra=st.lists(CELL, min_size=3, max_size=3),
    times=st.one_of(st.none(), st.lists(CELL, min_size=3, max_size=3)),
    declared=st.sampled_from([None, [-99], {"DV": [200]}]),
)
@settings(max_examples=100, deadline=None)
def test_any_event_table_is_read_or_refused_by_name(tmp_path_factory, name, extra, times, declared):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    usual = {} if times is None else {"TIME": times}
    path.write_text(columns(**{name: extra}, **usual), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        try:
            data = read(path, missing=declared)
        except DatasetError as error:
            refused = str(error)
        else:
            assert data.infusions["time"].tolist() == pytest.approx([0], abs=1e-9)
            assert np.isfinite(data.observations["time"]).all()
            return
    assert refused.startswith("Dataset 'fuzz': fuzz.csv")


def test_the_frames_of_an_event_table_make_it_again(table):
    data = read(table(SIMULATED), **READ)
    back = Dataset.from_frames(**data.to_frames())
    for name in ("patients", "doses", "observations"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(data, name), check_exact=True)


def test_a_written_table_has_upper_case_columns_in_numbers_and_a_sidecar(tmp_path, table):
    data = read(table(SIMULATED), **READ)
    path = tmp_path / "out.csv"
    arguments = data.to_nonmem(path)
    header = path.read_text().splitlines()[0].split(",")
    assert header == [name.upper() for name in header]
    assert header[-2:] == ["WT", "LD"]
    frame = pd.read_csv(path, na_values=".")
    assert sorted(frame["DVID"].dropna().unique()) == [1, 2]
    assert frame["EVID"].isin([0, 1]).all()
    assert frame.groupby("ID")["TIME"].is_monotonic_increasing.all()
    beside = json.loads((tmp_path / "out.info.json").read_text())
    assert beside["carpk"]["arguments"]["infusion_cmt"] == arguments["infusion_cmt"]
    assert noted(read(path), "out.info.json gave analytes")


def test_a_strange_sidecar_is_noted_and_not_believed(table):
    path = table()
    path.with_suffix(".info.json").write_text('{"columns": []}')
    assert noted(read(path), "data.info.json was not written by carpk")


def test_patients_without_events_survive_the_round_trip(tmp_path):
    people = pd.DataFrame({"patient": ["a", "b"], "age": [1.0, 2.0]})
    doses = pd.DataFrame(
        [("a", 0.0, "car_t", 1e8, "cells", 0.0)],
        columns=["patient", "time", "product", "amount", "unit", "duration"],
    )
    seen = pd.DataFrame(
        [("a", 7.0, "car_t", 5.0, "cells/µL", 1.0, 0)],
        columns=["patient", "time", "analyte", "value", "unit", "lloq", "censored"],
    )
    data = Dataset.from_frames(people, doses, seen)
    data.to_nonmem(tmp_path / "x.csv")
    pd.testing.assert_frame_equal(read(tmp_path / "x.csv").patients, data.patients)


FACT = ("cohort", "analyte", "metric", "statistic", "value", "n", "unit", "use", "source")


def test_what_cannot_be_written_is_said(tmp_path):
    facts = pd.DataFrame(
        [("a", "car_t", "cmax", "median", 9.0, 5, "cells/µL", "fit", "made up")],
        columns=list(FACT),
    )
    with pytest.raises(DatasetError, match="no individual patients"):
        Dataset.from_frames(summaries=facts).to_nonmem(tmp_path / "x.csv")


def test_covariates_of_cohorts_are_written_for_each_patient_and_statistics_are_not(tmp_path, table):
    plain = read(table(columns(COHORT=["flu"] * 3)), units={"car_t": "cells/µL"})
    facts = [("flu", "car_t", "cmax", "median", 900.0, 5, "cells/µL", "fit", "made up")]
    data = Dataset.from_frames(
        plain.patients,
        plain.doses,
        plain.observations,
        summaries=pd.DataFrame(facts, columns=list(FACT)),
        cohorts=pd.DataFrame({"cohort": ["flu"], "conditioning": ["Flu"]}),
    )
    with pytest.warns(CarpkWarning, match=r"published summaries \(1\) are not written"):
        data.to_nonmem(tmp_path / "x.csv")
    back = read(tmp_path / "x.csv")
    assert back.covariate("conditioning").tolist() == ["Flu"]
    assert back.covariate("cohort").tolist() == ["flu"]
    with pytest.warns(CarpkWarning), pytest.raises(DatasetError, match="no folder"):
        data.to_nonmem(tmp_path / "nowhere" / "x.csv")


def test_subjects_called_by_letters_are_not_taken_for_comments(table):
    rows = "".join(f"{p},0,1e8,.,1\n{p},7,.,100,0\n" for p in "ABCD")
    path = table("ID,TIME,AMT,DV,EVID\n" + rows)
    with pytest.raises(DatasetError, match=r"row 6: .*subject's label.*ignore=None"):
        read(path)
    assert read(path, ignore=None).patients["patient"].tolist() == list("ABCD")


def test_a_column_left_out_by_itself_is_read_where_it_is_asked_for(table):
    path = table("ID,TIME,AMT,DV,EVID,OCC\n1,0,1e8,.,1,1\n1,7,.,50,0,1\n")
    assert "OCC" not in read(path).patients
    assert read(path, covariates=["OCC"]).patients["OCC"].tolist() == [1.0]
    varies = table("ID,TIME,AMT,DV,EVID,OCC\n1,0,1e8,.,1,1\n1,7,.,50,0,2\n")
    with pytest.raises(DatasetError, match="`occ` changes from 1 to 2 within the patient"):
        read(varies, covariates=["occ"])


def test_a_weight_with_a_decimal_comma_is_no_category(table):
    path = table('ID,TIME,AMT,DV,EVID,WT\n1,0,1e8,.,1,"72,5"\n1,7,.,50,0,"72,5"\n')
    with pytest.raises(DatasetError, match=r"'72,5' is not a number.*\(72\.5\)"):
        read(path)


@pytest.mark.parametrize(
    ("column", "of"), [("LNDV", np.log), ("ldv", np.log), ("LOG10DV", np.log10)]
)
def test_logarithms_become_levels_where_there_is_no_dv(table, column, of):
    text = f"ID,TIME,{column},AMT,EVID\n1,0,.,1e8,1\n1,7,{of(20000.0)},.,0\n"
    data = read(table(text), analytes="transgene", units={"transgene": "copies/µg"})
    assert data.observations["value"].tolist() == pytest.approx([20000.0])
    assert f"the logarithms in {column}" in "".join(data.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,TIME,LNDV,AMT\n1,0,.,1e8\n1,7,20000,.\n", "row 3, column `LNDV`.*that of no level"),
        ("ID,TIME,LOGDV,AMT\n1,0,.,1e8\n1,7,4.3,.\n", "base that is not told.*LOG10DV"),
    ],
)
def test_what_may_not_be_logarithms_is_refused(table, text, words):
    with pytest.raises(DatasetError, match=words):
        read(table(text))


def test_logarithms_beside_levels_are_left_out(table):
    text = "ID,TIME,DV,LNDV,AMT,EVID\n1,0,.,.,1e8,1\n1,7,20,3,.,0\n1,9,30,3.4,.,0\n"
    data = read(table(text))
    assert data.observations["value"].tolist() == [20, 30]
    assert "columns left out: `LNDV`" in "".join(data.notes)
