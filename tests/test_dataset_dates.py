"""Dates and clock times become days since the first cell infusion, or are refused with advice.

All patients here are simulated.
"""

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpk.dataset import Dataset, load_dataset
from carpk.errors import CarpkWarning, DatasetError

DAY_0 = datetime.datetime(2024, 3, 1, 10, 30)


def tables(doses, samples, more_doses=None, more_samples=None):
    """Fludarabine and cells, and lymphocytes, at these times."""
    given = {"patient": "a", "time": doses, "product": ["fludarabine", "car_t"]}
    given |= {"amount": [30.0, 1e8], "unit": ["mg/m2", "cells"], "duration": [0.02, 0.0]}
    seen = {"patient": "a", "time": samples, "analyte": "alc", "unit": "cells/µL", "lloq": 10.0}
    seen |= {"value": np.arange(len(samples)) + 900.0, "censored": 0}
    frames = (given | (more_doses or {}), seen | (more_samples or {}))
    return dict(zip(("doses", "observations"), map(pd.DataFrame, frames), strict=True))


def read(*times, patients=None, day_first=None, time_unit="day", **more):
    frames = tables(*times, **more)
    return Dataset.from_frames(patients, **frames, day_first=day_first, time_unit=time_unit)


def days(data):
    return [*data.doses["time"], *data.observations["time"]]


FORMS = {
    "ISO with T": "%Y-%m-%dT%H:%M",
    "ISO with a blank and seconds": "%Y-%m-%d %H:%M:%S",
    "ISO with slashes": "%Y/%m/%d %H:%M",
    "day first": "%d/%m/%Y %H:%M",
    "day first with points": "%d.%m.%Y %H:%M",
    "month first": "%m/%d/%Y %H:%M",
    "month first, half days": "%m-%d-%Y %I:%M %p",
    "named month": "%d-%b-%Y %H:%M",
    "SAS": "%d%b%Y:%H:%M:%S",
    "Timestamp": pd.Timestamp,
    "datetime": lambda moment: moment,
    "datetime64": np.datetime64,
}


def written(moment, form):
    return moment.strftime(form) if isinstance(form, str) else form(moment)


@pytest.mark.parametrize("form", FORMS)
def test_dates_in_every_form_become_days_with_their_fractions(form):
    offsets = [-5.25, 0.0, -10.0, 0.0, 7 + 1 / 24]
    moments = [written(DAY_0 + datetime.timedelta(days=offset), FORMS[form]) for offset in offsets]
    data = read(moments[:2], moments[2:])
    assert days(data) == pytest.approx(offsets, abs=1e-12)
    assert "Dates became days" in "".join(data.notes)


@given(
    start=st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2060, 1, 1)),
    minutes=st.lists(st.integers(-40 * 1440, 900 * 1440), min_size=1, max_size=4),
    form=st.sampled_from([*FORMS]),
)
@settings(max_examples=40, deadline=None)
def test_a_date_is_as_many_days_from_the_infusion_as_the_calendar_says(start, minutes, form):
    start = start.replace(minute=1, second=0, microsecond=0)
    seen = [start + datetime.timedelta(minutes=m) for m in minutes]
    flu = start - datetime.timedelta(days=5)
    order = {"day": True, "month": False}.get(form.split()[0])
    texts = [written(moment, FORMS[form]) for moment in (flu, start, *seen)]
    data = read(texts[:2], texts[2:], day_first=order)
    assert days(data) == pytest.approx([-5, 0, *(m / 1440 for m in minutes)], abs=1e-9)


TODAY = datetime.date(2024, 3, 1)


@pytest.mark.parametrize("entry", ["2024-03-01", TODAY, pd.Timestamp(TODAY)])
def test_dates_alone_count_whole_days_and_a_sample_of_day_0_is_before_the_infusion(entry):
    data = read(["2024-02-25", entry], [entry, "2024-02-29", "2024-03-08 00:00"])
    assert days(data) == [-5, 0, 0, -1, 7]
    assert "rows without a clock time (doses 2 and observations 3) count whole" in data.notes[0]
    cells = {"more_samples": {"analyte": "car_t"}}
    with pytest.warns(CarpkWarning, match="taken before it"):
        read(["2024-02-25", entry], [entry], **cells)


def test_a_date_without_a_clock_time_is_at_the_time_of_day_of_the_infusion():
    data = read(["2024-02-25", "2024-03-01 10:30"], ["2024-03-08", "2024-03-08 16:30"])
    assert days(data) == [-5, 0, 7, 7.25]
    assert "(doses 1 and observations 1) count whole days" in data.notes[0]


@pytest.mark.parametrize("clock", ["text", "time"])
def test_dates_and_clock_times_may_stand_in_two_columns(clock):
    as_written = {"text": str, "time": datetime.time.fromisoformat}[clock]
    data = read(
        [as_written("10:30:00"), as_written("10:30:00")],
        [None, as_written("16:30:00")],
        more_doses={"date": pd.to_datetime(["2024-02-25", "2024-03-01"])},
        more_samples={"date": ["2024-03-01", "2024-03-08"]},
    )
    assert days(data) == [-5, 0, 0, 7.25]


def test_hours_hold_for_durations_and_not_for_dates():
    frames = tables(["2024-02-25", "2024-03-01"], ["2024-03-08"], {"duration": [12.0, 0.0]})
    data = Dataset.from_frames(**frames, time_unit="hour")
    assert days(data) == [-5, 0, 7]
    assert data.doses["duration"].tolist() == [0.5, 0]


# ---- day first or month first -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("doses", "samples", "told", "right", "note"),
    [
        (["05/02/2024", "01/03/2024"], ["31/03/2024"], None, [-25, 0, 30], "day first, as '31/0"),
        (["02/05/2024", "03/01/2024"], ["03/31/2024"], None, [-25, 0, 30], "month first, as '03"),
        (["05/02/2024", "01/03/2024"], ["04/03/2024"], True, [-25, 0, 3], "day first, as `day"),
        (["05/02/2024", "01/03/2024"], ["01/04/2024"], False, [120, 0, 1], "month first, as `d"),
        (["02/02/2024", "2024-03-03"], ["04/04/2024"], None, [-30, 0, 32], "became days"),
    ],
)
def test_the_order_of_day_and_month_is_proved_or_told(doses, samples, told, right, note):
    data = read(doses, samples, day_first=told)
    assert days(data) == right
    assert note in "".join(data.notes)


def test_dates_that_may_be_read_in_two_ways_are_asked_about():
    with pytest.raises(DatasetError) as caught:
        read(["05/02/2024", "01/03/2024"], ["2024-03-04"])
    for part in ("doses, row 0, column `time`, patient 'a'", "5 Feb or 2 May", "day_first=True"):
        assert part in str(caught.value)
    with pytest.raises(DatasetError, match=r"day_first must be True .* but is 'yes'"):
        read(["2024-02-05", "2024-03-01"], ["2024-03-04"], day_first="yes")


# ---- what is refused --------------------------------------------------------------------------

BAD = {
    "31 February": ("2024-02-31", "no day of the calendar"),
    "two orders": ("12/31/2024", "'12/31/2024' has the month first, but"),
    "month 13 as told": ("2024-13-01", "no day of the calendar"),
    "two digits": ("01/03/24", "year of '01/03/24' has not four digits"),
    "zone Z": ("2024-03-08T08:30Z", "has a time zone"),
    "zone by hours": ("2024-03-08T08:30+02:00", "has a time zone"),
    "zone by name": ("2024-03-08 08:30 CET", "has a time zone"),
    "zone of an object": (pd.Timestamp("2024-03-08", tz="Europe/Berlin"), "has a time zone"),
    "clock alone": ("08:30", "clock time without a date"),
    "no such hour": ("2024-03-08 24:30", "no clock time of a day"),
    "no such half": ("2024-03-08 13:30 pm", "no clock time of a day"),
    "part of a date": ("2024-03", "no complete date"),
    "word": ("unknown", "no complete date"),
    "duration": (pd.Timedelta(days=7), "no complete date"),
    "missing": (None, "the time is missing"),
    "NaT": (pd.NaT, "the time is missing"),
    "number": (7.0, "is a number, but others are dates"),
    "number as text": ("7", "is a number, but others are dates"),
    "clock of no infusion": ("2024-03-08 08:30", "the patient's day 0 (2024-03-01) has none"),
    "far away": ("1924-03-08", "more than 40 years"),
}


@pytest.mark.parametrize("kind", ["doses", "observations"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_date_is_refused_with_table_row_column_patient_and_advice(kind, case):
    entry, expected = BAD[case]
    frames = tables(["25/02/2024", "2024-03-01"], ["28/03/2024", "29/03/2024", "30/03/2024"])
    frames[kind] = frames[kind].astype(object)
    row = {"doses": 0, "observations": 1}[kind]
    frames[kind].at[row, "time"] = entry  # noqa: PD008 (an entry of any type)
    with pytest.raises(DatasetError) as caught:
        Dataset.from_frames(**frames)
    for part in (f"{kind}, row {row}, column `time`, patient 'a'", expected):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("doses", "samples", "where"),
    [
        ([-5, 0], ["2024-03-08"], "observations, row 0.*is a date.*others are numbers"),
        (["2024-02-25", "2024-03-01"], [7.0], "observations, row 0.*is a number.*others are dates"),
    ],
)
def test_doses_and_observations_are_both_dates_or_both_numbers(doses, samples, where):
    with pytest.raises(DatasetError, match=where):
        read(doses, samples)


def test_dates_beside_days_are_refused():
    with pytest.raises(DatasetError, match=r"`date` holds dates, but '7' in `time` is no clock"):
        read(["08:00", "10:30"], [7], {"date": ["2024-02-25", "2024-03-01"]}, {"date": "2024-3-8"})


# ---- day 0 ------------------------------------------------------------------------------------


def test_a_patient_without_cells_needs_a_date_of_day_0():
    frames = (["2024-02-25", "2024-03-01"], ["2024-03-08"])
    drugs = {"more_doses": {"unit": "mg"}}
    with pytest.raises(DatasetError, match=r"day 0 of patient 'a' is not known.*`time_zero`"):
        read(*frames, **drugs)
    told = pd.DataFrame({"patient": ["a"], "time_zero": ["2024-02-20"], "age": [60]})
    data = read(*frames, patients=told, **drugs)
    assert days(data) == [5, 10, 17]
    assert [*data.patients] == ["patient", "age"]
    assert "`time_zero` gave the date of day 0 of 1 patient" in data.notes[0]
    with pytest.raises(DatasetError, match="first cell infusion is on day 10"):
        read(*frames, patients=told)


def test_each_patient_counts_from_the_first_of_their_own_infusions():
    cells = {"unit": "cells", "amount": 1e8}
    frames = tables(["2024-05-01", "2024-03-01"], ["2024-03-08"], cells)
    other = {"patient": "b", "time": "2023-01-01"}
    both = {k: pd.concat([f, f.tail(1).assign(**other)]) for k, f in frames.items()}
    data = Dataset.from_frames(**both)
    assert days(data) == [61, 0, 0, 7, 0]


# ---- files ------------------------------------------------------------------------------------


def nonmem(tmp_path, rows, header="ID,DATE,TIME,DV,AMT,EVID"):
    path = tmp_path / "data.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("column", "form"),
    [
        *(("DATE", f) for f in ("%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y", "%d-%b-%Y")),
        *(("DAT1", f) for f in ("%d/%m/%Y", "%d-%m-%Y")),
        *(("DAT2", f) for f in ("%Y/%m/%d", "%Y-%m-%d")),
        *(("DAT3", f) for f in ("%Y/%d/%m", "%Y-%d-%m")),
        ("dat1", "%d/%m/%Y"),
    ],
)
def test_the_date_columns_of_nonmem_with_clock_times_in_time(tmp_path, column, form):
    dates = [datetime.date(2024, 3, d).strftime(form) for d in (1, 1, 1, 8, 31)]
    rows = [
        f"1,{dates[0]},10:30,.,1e8,1",
        f"1,{dates[1]},.,70,.,0",
        f"1,{dates[2]},16:30,80,.,0",
        f"1,{dates[3]},9:30,90,.,0",
        f"1,{dates[4]},.,95,.,0",
    ]
    header = f"ID,{column},TIME,DV,AMT,EVID"
    data = Dataset.from_nonmem(nonmem(tmp_path, rows, header), analytes="alc")
    assert data.observations["time"].tolist() == pytest.approx([0, 0.25, 7 - 1 / 24, 30])
    assert data.patients.columns.tolist() == ["patient"]
    follows = data.arrays("alc").follows
    assert follows[0, 0] == 1, "recorded after the infusion on the date of the infusion"


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (["1,1/3/2024,.,.,1e8,1"], None, "row 2, column `DATE`, patient '1': .*1 Mar or 3 Jan"),
        (["1,2024/3/1,.,.,1e8,1"], "ID,DAT1,TIME,DV,AMT,EVID", "is not last, as in DAT1"),
        (["1,1/3/2024,.,.,1e8,1"], "ID,DAT2,TIME,DV,AMT,EVID", "is not first, as in DAT2"),
        (["1,2024-3-1,0,.,1e8,1"], None, "column `TIME`.*`DATE` holds dates, but '0'"),
        (["1,17,8:30,.,1e8,1"], None, "row 2, column `DATE`.*'17 8:30' is no complete date"),
        (["1,2024-3-8,.,9,.,0", "1,2024-3-1,.,.,1e8,1"], None, "row 3.*back from 2024-03-08 to"),
        (["1,x,y,0,.,1e8,1"], "ID,DATE,DAT1,TIME,DV,AMT,EVID", "`DATE`, `DAT1` both hold dates"),
        (["1,8:30,.,1e8,1"], "ID,TIME,DV,AMT,EVID", "'8:30' is a clock time without a date"),
    ],
)
def test_bad_dates_of_event_tables_are_refused(tmp_path, rows, header, words):
    path = nonmem(tmp_path, rows, header or "ID,DATE,TIME,DV,AMT,EVID")
    with pytest.raises(DatasetError, match=words):
        Dataset.from_nonmem(path)


def test_an_event_table_may_hold_dates_in_time_and_lack_a_column_of_its_own(tmp_path):
    rows = ["1,2024-02-25 08:00,.,.,1e8,1", "1,2024-03-03T20:00,9,.,.,0"]
    header = "ID,TIME,DV,LLOQ,AMT,EVID"
    assert days(Dataset.from_nonmem(nonmem(tmp_path, rows, header))) == [0, 7.5]
    rows = ["1,2024-02-25,.,.,1e8,1", "1,2024-03-03,9,.,.,0"]
    header = "ID,DATE,DV,LLOQ,AMT,EVID"
    assert days(Dataset.from_nonmem(nonmem(tmp_path, rows, header))) == [0, 7]


def test_a_folder_says_in_about_toml_whether_the_day_is_first(tmp_path):
    frames = tables(["05/02/2024", "01/03/2024"], ["04/03/2024"])
    for key, frame in frames.items():
        frame.to_csv(tmp_path / f"{key}.csv", index=False)
    about = 'citation = "simulated"\nlicence = "CC0"\n'
    (tmp_path / "about.toml").write_text(about)
    with pytest.raises(DatasetError, match=r"doses.csv, row 2, column `time`.*day_first"):
        load_dataset(tmp_path)
    (tmp_path / "about.toml").write_text(f"{about}day_first = true\n")
    assert days(load_dataset(tmp_path)) == [-25, 0, 3]


ENTRIES = st.one_of(
    st.text("0123456789-/.: TZapmMar+,", max_size=16),
    st.datetimes().map(str),
    st.dates(),
    st.datetimes(),
    st.floats(-100, 100),
    st.sampled_from(["", None, "01/02/2024", "2024-03-01", "2024-03-01T08:30", "8:30"]),
)


@given(times=st.lists(ENTRIES, min_size=3, max_size=5), two=st.booleans(), day_first=st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_stands_for_times_is_read_or_refused_with_its_place(times, two, day_first):
    frames = tables(times[:2], times[2:])
    if two:
        frames = {k: f.assign(date=f["time"], time="8:30") for k, f in frames.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CarpkWarning)
        try:
            data = Dataset.from_frames(**frames, day_first=day_first)
        except DatasetError as error:
            refused = str(error)
        else:
            assert data.infusions["time"].tolist() == pytest.approx([0], abs=1e-9)
            assert np.isfinite(days(data)).all()
            return
    assert ", row " in refused
    assert ", column `" in refused
