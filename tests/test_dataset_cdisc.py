"""CDISC's data sets are read by the names of their columns; study days have no day 0.

All patients here are simulated.
"""

import io
import warnings

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpk.dataset import Dataset
from carpk.errors import CarpkWarning, DatasetError

DM = pd.DataFrame({"STUDYID": "S", "USUBJID": ["S-1", "S-2"], "AGE": [60, 71], "SEX": ["F", "M"]})


def exposure(**more):
    table = {"STUDYID": "S", "DOMAIN": "EX", "USUBJID": ["S-1", "S-1", "S-2"], "EXSEQ": [1, 2, 1]}
    table |= {"EXTRT": ["FLUDARABINE", "car_t", "car_t"], "EXDOSE": [30, 1e8, 1e8]}
    return pd.DataFrame(table | {"EXDOSU": ["mg/m2", "cells", "cells"]} | more)


def findings(domain, **more):
    table = {"STUDYID": "S", "DOMAIN": domain, "USUBJID": ["S-1", "S-1", "S-1", "S-2"]}
    own = {"TESTCD": "transgene", "STRESC": ["BLQ", "900", "<50", "800"], "STRESU": "copies/µg"}
    own |= {"STRESN": [None, 900.0, None, 800.0], "LLOQ": 50.0, "BLFL": ["Y", "", "", ""]}
    named = {domain + name: entries for name, entries in (own | more).items()}
    return pd.DataFrame(table | named)


@pytest.mark.parametrize("domain", ["PC", "LB", "CP"])
@pytest.mark.parametrize("times", ["study days", "dates", "both"])
def test_findings_exposure_and_demographics_are_read_by_their_names(domain, times):
    days = {"EXSTDY": [-5, 1, 1]}, {"DY": [-1, 8, 15, 8]}
    dates = (
        {"EXSTDTC": ["2024-02-25", "2024-03-01", "2024-03-01"]},
        {"DTC": ["2024-02-29", "2024-03-08", "2024-03-15", "2024-03-08"]},
    )
    given = {"study days": [days], "dates": [dates], "both": [dates, days]}[times]
    doses, seen = ({k: v for each in given for k, v in each[i].items()} for i in (0, 1))
    data = Dataset.from_frames(DM, exposure(**doses), findings(domain, **seen))
    assert data.doses["time"].tolist() == [-5, 0, 0]
    assert data.observations["time"].tolist() == [-1, 7, 14, 7]
    assert data.observations["value"].tolist() == [50, 900, 50, 800]
    assert data.observations["censored"].tolist() == [1, 0, 1, 0]
    assert data.covariate("AGE").tolist() == [60, 71]
    assert data.doses["product"].tolist()[0] == "fludarabine"
    notes = "".join(data.notes)
    assert ("know no day 0" in notes) == (times == "study days")
    assert f"{domain}STRESN (value)" in notes
    assert "columns left out: `STUDYID`, `DOMAIN`" in notes
    assert f"2 rows with a limit or a word in {domain}STRESC" in notes


def test_a_study_day_of_0_is_refused():
    with pytest.raises(DatasetError, match=r"row 1, column `PCDY`, patient 'S-1'.*from -1 to 1"):
        Dataset.from_frames(DM, exposure(EXSTDY=[-5, 1, 1]), findings("PC", DY=[-1, 0, 15, 8]))


def test_samples_not_done_are_left_out_with_a_note():
    seen = findings("LB", DY=[1, 8, 15, 8], STAT=["NOT DONE", "", None, ""])
    data = Dataset.from_frames(DM, exposure(EXSTDY=[-5, 1, 1]), seen)
    assert data.observations["value"].tolist() == [900, 50, 800]
    assert "1 row left out, not done (LBSTAT)" in "".join(data.notes)


def test_study_days_counted_from_lymphodepletion_are_shifted_if_told():
    frames = (DM, exposure(EXSTDY=[1, 6, 6]), findings("PC", DY=[1, 13, 20, 13]))
    with pytest.raises(DatasetError, match=r"doses, row 1, column `EXSTDY`.*is on day 5"):
        Dataset.from_frames(*frames)
    data = Dataset.from_frames(*frames, time_zero="first dose")
    assert data.doses["time"].tolist() == [-5, 0, 0]
    assert data.observations["time"].tolist() == [-5, 7, 14, 7]


@pytest.mark.parametrize("column", ["ADY", "ady"])
def test_a_column_of_study_days_may_stand_for_time(column):
    doses = pd.DataFrame({"patient": ["a"], column: 1, "product": "car_t", "amount": 1e8})
    seen = pd.DataFrame(
        {"patient": "a", column: [-7, 1, 8], "analyte": "alc", "value": [1.0, 2, 3]}
    )
    units = {"unit": "cells/µL", "lloq": 0.1, "censored": 0}
    data = Dataset.from_frames(None, doses.assign(unit="cells", duration=0), seen.assign(**units))
    assert data.observations["time"].tolist() == [-7, 0, 7]


def test_adpc_is_read_by_its_names():
    seen = {"USUBJID": "S-1", "PARAMCD": "transgene", "AVAL": [50.0, 900], "AVALU": "copies/µg"}
    seen |= {"AFRLT": [24.0, 168], "NFRLT": [24.0, 192], "ALLOQ": 50.0, "BLQFN": [1, 0]}
    dose = {"patient": ["S-1"], "time": 0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    frames = (None, pd.DataFrame(dose | {"duration": 0}), pd.DataFrame(seen))
    data = Dataset.from_frames(*frames, time_unit="hour")
    assert data.observations["time"].tolist() == [1, 7]
    assert data.observations["censored"].tolist() == [1, 0]
    assert "columns left out: `NFRLT`" in "".join(data.notes)


ADPPK = """\
STUDYID,USUBJID,AFRLT,NFRLT,APRLT,DV,AVAL,AMT,DOSEA,EVID,MDV,PARAMCD,AVALU,ALLOQ,BLQFN
S,S-1,0,0,0,.,.,1e8,1e8,1,1,.,.,.,0
S,S-1,6.9,7,6.9,900,900,.,1e8,0,0,transgene,copies/µg,50,0
S,S-1,14.2,14,14.2,50,50,.,1e8,0,0,transgene,copies/µg,50,1
"""


@pytest.mark.parametrize("both", [True, False])
def test_adppk_is_an_event_table_whose_actual_times_are_read(tmp_path, both):
    frame = pd.read_csv(io.StringIO(ADPPK), dtype=str).drop(columns="STUDYID")
    path = tmp_path / "adppk.csv"
    (frame if both else frame.drop(columns="DV")).to_csv(path, index=False)
    data = Dataset.from_nonmem(path)
    assert data.observations["time"].tolist() == [6.9, 14.2]
    assert data.observations["value"].tolist() == [900, 50]
    assert data.observations["censored"].tolist() == [0, 1]
    assert data.units == {"transgene": "copies/µg"}
    assert data.patients.columns.tolist() == ["patient"]
    left = ("NFRLT", "APRLT", "DOSEA", *(["AVAL"] if both else []))
    assert all(f"`{name}`" in "".join(data.notes) for name in left)


def test_study_days_of_an_event_table_have_no_day_0(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("USUBJID,ADY,DV,LLOQ,AMT\na,1,.,.,1e8\na,8,5,1,.\n")
    data = Dataset.from_nonmem(path)
    assert data.observations["time"].tolist() == [7]
    assert "data.csv: the study days of ADY, which know no day 0" in "".join(data.notes)
    path.write_text("USUBJID,ADY,DV,AMT\na,0,.,1e8\na,8,5,.\n")
    with pytest.raises(DatasetError, match=r"row 2, column `ADY`, patient 'a'.*from -1 to 1"):
        Dataset.from_nonmem(path)


ENTRIES = st.sampled_from([None, "", "BLQ", "<50", 0, 1, -1, 50.0, "2024-03-01", "NOT DONE", "x"])
NAMES = ("USUBJID", "PCTESTCD", "PCSTRESN", "PCSTRESC", "PCSTRESU", "PCLLOQ", "PCDY", "PCSTAT")


@given(row=st.tuples(*[ENTRIES] * len(NAMES)), names=st.sets(st.sampled_from(NAMES), min_size=3))
@settings(max_examples=50, deadline=None)
def test_whatever_a_domain_holds_is_read_or_refused_with_its_place(row, names):
    good = findings("PC", DY=[1, 8, 15, 8]).astype(object)
    bad = {name: entry for name, entry in zip(NAMES, row, strict=True) if name in names}
    seen = pd.concat([good, pd.DataFrame([bad])], ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        try:
            data = Dataset.from_frames(DM, exposure(EXSTDY=[-5, 1, 1]), seen)
        except DatasetError as error:
            refused = str(error)
        else:
            assert len(data.observations) in (4, 5)
            return
    assert "observations" in refused
