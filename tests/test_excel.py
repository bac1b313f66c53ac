"""Workbooks become the data set that they mean, or are refused with sheet and cell.

All patients here are simulated.
"""

import datetime
import sys

import numpy as np
import pandas as pd
import pytest
import workbooks
from hypothesis import given, settings
from hypothesis import strategies as st

from carpk.dataset import Dataset
from carpk.dataset.excel_names import Header, day_of, header
from carpk.errors import DatasetError

PATIENTS = [["patient"], ["P1"], ["P2"]]
INFUSIONS = [
    ["patient", "time", "product", "amount", "unit", "duration"],
    ["P1", 0, "car_t", 1e8, "cells", 0],
    ["P2", 0, "car_t", 1e8, "cells", 0],
]
LONG = [
    ["patient", "time", "analyte", "value", "unit", "lloq", "censored"],
    ["P1", 7, "transgene", 2e4, "copies/µg", 50, 0],
    ["P1", 14, "transgene", 50, "copies/µg", 50, 1],
    ["P2", 7, "transgene", 5e4, "copies/µg", 50, 0],
]
GROUP = "CAR-T (copies/µg, LLOQ 50)"
SHAPES = {
    "a row per observation": LONG,
    "columns by other names": [
        ["Subject ID", "Study day", "Assay", "Result", "Units", "LOQ"],
        ["P1", 7, "CAR-T", 2e4, "copies/ug", 50],
        ["P1", "Day 14", "CAR-T", "n.d.", "copies/ug", 50],
        ["P2", "D7", "CAR-T", 5e4, "copies/ug", 50],
    ],
    "an analyte beside the day": [
        ["ID", "Time (h)", GROUP],
        ["P1", 168, 2e4],
        ["P1", 336, "< 50"],
        ["P2", 168, 5e4],
    ],
    "unit in a second row": [
        ["ID", "Day", "Transgene", "LLOQ"],
        [None, None, "copies/µg"],
        ["P1", 7, 2e4, 50],
        ["P1", 14, "BLQ", 50],
        ["P2", 7, 5e4, 50],
    ],
    "a column per day": [["ID", f"{GROUP}"], [None, "D7", "D14"], ["P1", 2e4, "neg"], ["P2", 5e4]],
    "bare days below a group": [
        ["ID", GROUP, None],
        [None, 7, 14],
        ["P1", 2e4, "<50"],
        ["P2", 5e4],
    ],
    "weeks": [["ID", GROUP], [None, "Week 1", "Week 2"], ["P1", 2e4, "BQL"], ["P2", 5e4, "NA"]],
    "title, blank row and column": [
        ["Simulated levels"],
        [],
        [None, "ID", GROUP],
        [None, None, "day 7", None, "day 14"],
        [],
        [None, "P1", 2e4, None, "<LLOQ"],
        [],
        [None, "P2", 5e4],
    ],
    "a column per patient": [
        ["Day", "Parameter", "Unit", "P1", "P2", "LLOQ"],
        [7, "transgene", "copies/µg", 2e4, 5e4, 50],
        [14, "transgene", "copies/µg", "undetectable", None, 50],
    ],
}


def book(tmp_path, samples=LONG, patients=PATIENTS, infusions=INFUSIONS, **more):
    sheets = {"patients": patients, "infusions": infusions, "samples": samples}
    sheets = {name: rows for name, rows in sheets.items() if rows is not None}
    return workbooks.save(tmp_path / "cohort.xlsx", sheets, **more)


def refusal(path, **options):
    with pytest.raises(DatasetError) as refused:
        Dataset.from_excel(path, **options)
    return str(refused.value)


def core(data):
    """Patient, time, value and flag of the observations, in one order."""
    seen = data.observations.sort_values(["analyte", "patient", "time"])
    columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    return seen[columns].reset_index(drop=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_of_every_shape_mean_the_same(shape, tmp_path):
    data = Dataset.from_excel(book(tmp_path, SHAPES[shape]))
    expected = Dataset.from_excel(book(tmp_path, LONG))
    pd.testing.assert_frame_equal(core(data), core(expected))
    assert shape == "a row per observation" or any("sheet samples" in n for n in data.notes)


@pytest.mark.parametrize("name", [str.upper, str.title, lambda name: f" {name}"])
def test_sheets_are_found_in_any_case_and_noted(name, tmp_path):
    sheets = {
        "Demographics": PATIENTS,
        "DOSING": INFUSIONS,
        "Measurements": LONG,
        "Photos": [["x"]],
    }
    path = workbooks.save(tmp_path / "c.xlsx", {name(k): rows for k, rows in sheets.items()})
    data = Dataset.from_excel(path)
    assert len(data.observations) == 3
    assert sum("was read as" in note for note in data.notes) == 3
    assert sum("no table of a data set" in note for note in data.notes) == 1


def test_a_tidy_and_a_laboratorys_workbook_hold_the_same_levels(tmp_path):
    tidy = Dataset.from_excel(workbooks.tidy(tmp_path / "tidy.xlsx"))
    lab = Dataset.from_excel(workbooks.laboratory(tmp_path / "lab.xlsx"))
    one, other = core(tidy), core(lab)
    pd.testing.assert_frame_equal(
        one, other[other["analyte"] == "transgene"].reset_index(drop=True)
    )
    counts = lab.observations[lab.observations["analyte"] == "alc"]
    assert counts["value"].iloc[:2].tolist() == [100, 500]
    pd.testing.assert_frame_equal(tidy.patients, lab.patients)
    np.testing.assert_allclose(lab.infusions["amount"], tidy.infusions["amount"])
    assert lab.infusions["unit"].tolist() == tidy.infusions["unit"].tolist()


@pytest.mark.parametrize(
    ("heads", "row", "amount", "unit"),
    [
        (["Total cells", "% CAR+"], [3e8, 50], 1.5e8, "cells"),
        (["Total cells (x10^6/kg)", "Transduction efficiency (%)"], [4, 25], 1e6, "cells/kg"),
        (["TNC", "% transduced", "CAR+ cells"], [3e8, 50, 1.51e8], 1.51e8, "cells"),
        (["Cells infused (10^6/kg)"], [2], 2e6, "cells/kg"),
        (["CAR+ cells", "% CAR+"], [2e8, 40], 2e8, "cells"),
    ],
)
@pytest.mark.parametrize("where", ["infusions", "patients"])
def test_doses_are_of_car_t_cells(heads, row, amount, unit, where, tmp_path):
    day = [0] if where == "infusions" else []
    table = [["ID", *(["Day"] if day else []), *heads], *([p, *day, *row] for p in ("P1", "P2"))]
    if where == "infusions":
        path = book(tmp_path, infusions=table)
    else:
        path = book(tmp_path, patients=table, infusions=None)
    data = Dataset.from_excel(path)
    np.testing.assert_allclose(data.infusions["amount"], amount)
    assert set(data.infusions["unit"]) == {unit}
    assert set(data.infusions["product"]) == {"car_t"}
    assert any(heads[0] in note for note in data.notes)


def changed(table, row, column, entry):
    rows = [list(r) for r in table]
    rows[row][column] = entry
    return rows


def doses(heads, *rows):
    return [
        ["ID", "Day", *heads],
        *([p, 0, *row] for p, row in zip(("P1", "P2"), rows, strict=True)),
    ]


REFUSED = {  # what is in the workbook -> sheet and cell, words
    "a word": (
        {"samples": changed(LONG, 1, 3, "high")},
        "samples, cell D2, patient 'P1'",
        "'high' is",
    ),
    "a bare word for below": (
        {"samples": changed(changed(LONG, 2, 3, "ND"), 2, 5, None)},
        "samples, cell D3, patient 'P1'",
        "no LLOQ of transgene is known",
    ),
    "a month": (
        {"samples": changed(LONG, 1, 1, "Month 3")},
        "samples, cell B2, patient 'P1'",
        "'Month 3'",
    ),
    "an error of Excel": (
        {"samples": changed(LONG, 3, 3, "#DIV/0!")},
        "cell D4, patient 'P2'",
        "#DIV/0!",
    ),
    "a formula without result": ({"samples": changed(LONG, 1, 3, "=2*3")}, "cell D2", "'=2*3'"),
    "an unknown patient": (
        {"samples": changed(LONG, 3, 0, "P9")},
        "samples, cell A4",
        "'P9' is not in",
    ),
    "a dose that is none": (
        {"infusions": changed(INFUSIONS, 1, 3, -5)},
        "infusions, cell D2, patient 'P1'",
        "amount must be positive",
    ),
    "the wrong unit": ({"samples": changed(LONG, 1, 4, "furlong")}, "cell E2", "'furlong'"),
    "two columns of days": (
        {"samples": [[*LONG[0], "Day"], *LONG[1:]]},
        "samples, cell H1",
        "`time` (B1) and `Day` (H1) both read as `time`",
    ),
    "an unknown column": (
        {"samples": [[*LONG[0], "Colour"], *LONG[1:]]},
        "cell H1",
        "ignore=['Colour']",
    ),
    "an unknown column of doses": (
        {"infusions": [[*INFUSIONS[0], "Colour"], *INFUSIONS[1:]]},
        "infusions, cell G1",
        "`Colour` is unknown",
    ),
    "a column without a name": (
        {"samples": [LONG[0], [*LONG[1], "x"], *LONG[2:]]},
        "samples, cell H2",
        "column H has entries, but no header",
    ),
    "cells or copies": (
        {"samples": [["ID", "Day", "CAR-T", "LOQ"], ["P1", 7, 5, 1]]},
        "samples, cell C1",
        "`CAR-T` may be cells or copies",
    ),
    "days of no analyte": (
        {"samples": [["ID", "D7", "D14"], ["P1", 1, 2]]},
        "samples",
        "analyte='transgene'",
    ),
    "days beside a column of days": (
        {"samples": [["ID", "Day", "D7"], ["P1", 1, 2]]},
        "sheet samples",
        "no column holds values",
    ),
    "neither patient nor day": (
        {"samples": [["ALC [10^9/L]"], [1.0]]},
        "samples",
        "patient and time",
    ),
    "a dose without unit": (
        {"infusions": doses(["CAR-T dose"], [1e8], [1e8])},
        "sheet infusions",
        "column `unit` is missing",
    ),
    "a fraction for a percentage": (
        {"infusions": doses(["Total cells", "% CAR+"], [3e8, 0.5], [3e8, 0.4])},
        "infusions, cell D2, patient 'P1'",
        "may be a fraction",
    ),
    "a percentage of no total": (
        {"infusions": doses(["Cells infused", "% CAR+"], [3e8, 50], [3e8, 40])},
        "infusions, cell C2",
        "is it of all cells, or of CAR-T cells",
    ),
    "a total without percentage": (
        {"infusions": doses(["Total cells", "% CAR+"], [3e8, 50], [3e8, None])},
        "infusions, cell C3, patient 'P2'",
        "not the percentage",
    ),
    "a dose that does not follow": (
        {
            "infusions": doses(
                ["Total cells", "% CAR+", "CAR+ cells"], [3e8, 50, 3e8], [3e8, 50, 1.5e8]
            )
        },
        "infusions, cell E2",
        "differs by more than 5%",
    ),
    "a row of no patient": (
        {"samples": [["ID", "Day", GROUP], ["P1", 7, 60], [None, 14, 70]]},
        "samples, cell A3",
        "the entry is missing",
    ),
    "a day twice": (
        {"samples": [["ID", GROUP, None], [None, "D7", "Day 7"], ["P1", 1, 2]]},
        "samples, cell C2",
        "the columns of B2 and C2 have the same header",
    ),
    "a covariate twice": (
        {"patients": [["ID", "Grade", "Grade"], ["P1", 1, 2], ["P2", 1, 1]]},
        "patients, cell C1",
        "the columns of B1 and C1 have the same header",
    ),
    "pounds": (
        {"patients": [["ID", "Weight (lb)"], ["P1", 150], ["P2", 160]]},
        "cell B1",
        "must be in kg",
    ),
    "a unit in header and column": (
        {
            "samples": [
                ["ID", "Day", "Assay", "Result (copies/µg)", "Unit"],
                ["P1", 7, "x", 5, "copies/ng"],
            ]
        },
        "samples, cell E2",
        "'copies/µg' in the header",
    ),
    "an example of the template": (
        {"samples": changed(LONG, 1, 0, "EXAMPLE-1")},
        "samples, cell A2",
        "example of the template, and simulated",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_mean_two_things_or_nothing_is_refused_with_its_cell(case, tmp_path):
    sheets, where, words = REFUSED[case]
    message = refusal(book(tmp_path, **sheets))
    assert "cohort.xlsx, sheet " in message
    assert where in message
    assert words in message


@pytest.mark.parametrize(
    ("shown", "value"), [("0%", 0.5), ("0.0%", 0.5), ('0"%"', 50), ("0\\%", 50)]
)
def test_a_percentage_is_what_the_cell_shows(shown, value, tmp_path):
    table = doses(["Total cells", "% CAR+"], [3e8, value], [3e8, 40])
    path = book(tmp_path, infusions=table, formats=[("infusions", "D2", shown)])
    assert Dataset.from_excel(path).infusions["amount"].tolist() == [1.5e8, 1.2e8]


@pytest.mark.parametrize(
    ("block", "where"), [("D2:D3", "sheet samples, cell D3"), ("D2:E2", "sheet samples, cell E2")]
)
def test_a_merged_value_is_refused_since_it_is_one_sample(block, where, tmp_path):
    table = [["ID", "Day", "Analyte", "ALC [10^9/L]", "IL-6 pg/mL"], ["P1", 1, None, 1.0, 5.0]]
    table = [[row[i] for i in (0, 1, 1, 3, 4)] for row in [*table, ["P1", 2, None, 2.0, 6.0]]]
    table[0][2] = "Comment"
    message = refusal(book(tmp_path, table, merged=[("samples", block)]))
    assert where in message
    assert "Split the merged cells" in message


def test_a_label_merged_over_its_rows_holds_for_each(tmp_path):
    table = [["ID", "Day", GROUP], ["P1", 7, 2e4], [None, 14, "<50"], ["P2", 7, 5e4]]
    data = Dataset.from_excel(book(tmp_path, table, merged=[("samples", "A2:A3")]))
    pd.testing.assert_frame_equal(core(data), core(Dataset.from_excel(book(tmp_path))))
    assert "cell A3" in refusal(
        book(tmp_path, [[*row, None] for row in LONG[:2]] + [[None, *LONG[2][1:]]])
    )


@pytest.mark.parametrize(
    ("sheets", "options"),
    [
        ({"Sheet1": LONG}, {"sheets": {"observations": "Sheet1"}}),
        ({"samples": [[*LONG[0], "Colour"], *LONG[1:]]}, {"ignore": ["Colour"]}),
        (
            {"samples": [["who", *LONG[0][1:]], *LONG[1:]]},
            {"columns": {"who": "patient"}},
        ),
        (
            {"samples": [["ID", "D7", "D14"], ["P1", 2e4, "ND"], ["P2", 5e4]]},
            {"analyte": "transgene (copies/µg, LLOQ 50)"},
        ),
        (
            {"samples": [["ID", "D7", "D14"], ["P1", 2e4, "ND"], ["P2", 5e4]]},
            {"analyte": "transgene", "units": {"transgene": "copies/µg"}, "lloq": 50},
        ),
        (
            {
                "samples": [
                    ["ID", "Day", "Vector (copies/µg, LLOQ 50)"],
                    ["P1", 7, 2e4],
                    ["P1", 14, "ND"],
                    ["P2", 7, 5e4],
                ]
            },
            {"analytes": {"Vector": "transgene"}},
        ),
    ],
)
def test_what_a_workbook_does_not_say_may_be_told(sheets, options, tmp_path):
    path = workbooks.save(tmp_path / "c.xlsx", {"infusions": INFUSIONS, **sheets})
    if "analytes" not in options:  # without, it is an analyte of its own
        assert "sheet" in refusal(path)
    data = Dataset.from_excel(path, **options)
    pd.testing.assert_frame_equal(core(data), core(Dataset.from_excel(book(tmp_path))))


def test_cohorts_and_published_summaries_have_sheets_of_their_own(tmp_path):
    head = [
        "cohort",
        "analyte",
        "metric",
        "time",
        "statistic",
        "value",
        "n",
        "unit",
        "use",
        "source",
    ]
    fact = ["A", "transgene", "level", 28, "median", 900, 9, "copies/µg", "fit", "Table 2"]
    sheets = {"Arms": [["Arm", "flu"], ["A", 120]], "Published": [head, fact]}
    path = workbooks.save(tmp_path / "c.xlsx", sheets)
    data = Dataset.from_excel(path, sampling=[7, 14, 28])
    assert data.cohorts.to_dict("list") == {"cohort": ["A"], "flu": [120]}
    assert data.summaries["value"].tolist() == [900]
    workbooks.save(path, sheets | {"Published": [head, changed([fact], 0, 5, "x")[0]]})
    assert "sheet Published, cell F2, cohort 'A': 'x' is not a number" in refusal(path)


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("Pt info", "patients"),
        ("Patient data", "patients"),
        ("Infusion log", "doses"),
        ("Patient samples", "observations"),
        ("qPCR results", "observations"),
    ],
)
def test_a_word_in_the_name_of_a_sheet_tells_its_table(tmp_path, title, told):
    sheets = {"patients": PATIENTS, "doses": INFUSIONS, "observations": LONG}
    sheets[title] = sheets.pop(told)
    sheets["Sample handling"] = [["Freezer"], ["A"]]
    if told == "observations":
        del sheets["Sample handling"]
    data = Dataset.from_excel(workbooks.save(tmp_path / "c.xlsx", sheets))
    assert f"c.xlsx: sheet {title!r} was read as {told}." in data.notes
    assert len(data.observations) == len(LONG) - 1


@pytest.mark.parametrize("column", ["censored", "SD", "record", "limit"])
@pytest.mark.parametrize("heads", [("D7", "D14"), ("Day", GROUP, "ALC [10^9/L]")])
def test_what_is_said_of_one_observation_has_no_place_beside_a_row_of_several(
    tmp_path, heads, column
):
    rows = [["ID", *heads, column], *([p, *(7.0 for _ in heads), 1] for p in ("P1", "P2"))]
    message = refusal(book(tmp_path, rows), analyte="transgene (copies/µg)")
    assert f"`{column}`" in message
    assert f"ignore=[{column!r}]" in message


def test_the_known_sd_of_a_value_is_read(tmp_path):
    rows = [[*row, "SD" if i == 0 else 5.0] for i, row in enumerate(LONG)]
    assert Dataset.from_excel(book(tmp_path, rows)).observations["sd"].tolist() == [5.0] * 3


def test_two_sheets_of_samples_are_not_told_apart_by_a_word(tmp_path):
    sheets = {"doses": INFUSIONS, "qPCR results": LONG, "flow results": LONG}
    path = workbooks.save(tmp_path / "c.xlsx", sheets)
    assert "qPCR results" in refusal(path)


def test_a_footnote_and_empty_cells_are_counted_as_no_samples(tmp_path):
    rows = [
        ["ID", GROUP, None],
        [None, "D7", "D14"],
        ["P1", 60, None],
        ["P2", 70, "NA"],
        ["* LLOQ 50"],
    ]
    notes = Dataset.from_excel(book(tmp_path, rows)).notes
    assert any("2 observations; 4 empty cells counted as samples not taken" in n for n in notes)
    assert any(n.endswith("no sample in row 5 ('* LLOQ 50').") for n in notes)


def test_dates_are_days_from_the_infusion(tmp_path):
    start = datetime.datetime(2031, 5, 1, 9, 30)
    dated = [[*row] for row in LONG]
    given = [[*row] for row in INFUSIONS]
    for rows in (dated[1:], given[1:]):
        for row in rows:
            row[1] = start + datetime.timedelta(days=row[1])
    data = Dataset.from_excel(book(tmp_path, dated, infusions=given))
    plain = Dataset.from_excel(book(tmp_path))
    pd.testing.assert_frame_equal(data.observations, plain.observations)
    assert any("Dates became days since the patient's day 0" in note for note in data.notes)


def test_a_date_among_days_is_told_with_its_cell(tmp_path):
    rows = changed(LONG, 1, 1, datetime.datetime(2031, 5, 1, 9, 30))
    message = refusal(book(tmp_path, rows))
    assert "sheet samples, cell B2, patient 'P1': the time '2031-05-01 09:30:00' is a" in message


def test_sheets_of_a_file_that_is_none_are_refused(tmp_path):
    broken = tmp_path / "broken.xlsx"
    broken.write_text("no workbook")
    assert "broken.xlsx is not a workbook that can be read" in refusal(broken)
    assert "Did you mean" in refusal(tmp_path / "brokn.xlsx")
    both = workbooks.save(tmp_path / "both.xlsx", {"samples": LONG, "results": LONG})
    assert "'samples' and 'results' may both hold observations" in refusal(both)
    close = workbooks.save(tmp_path / "close.xlsx", {"samples": LONG, "infusjons": INFUSIONS})
    assert "Did you mean 'infusions'" in refusal(close)
    none = workbooks.save(tmp_path / "none.xlsx", {"Sheet1": LONG})
    assert "sheets={'observations': 'Sheet1'}" in refusal(none)


def test_without_openpyxl_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = book(tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert 'pip install "carpk[excel]"' in refusal(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CAR-T (copies/µg, LLOQ 50)", ("CAR-T", "copies/µg", 50.0)),
        ("ALC [10^9/L]", ("ALC", "10^9/L", None)),
        ("IL-6 pg/mL", ("IL-6", "pg/mL", None)),
        ("ALC, x10E9/L", ("ALC", "x10E9/L", None)),
        ("CAR-T (qPCR)", ("CAR-T (qPCR)", "", None)),
        ("CAR-T (% of CD3)", ("CAR-T", "% of CD3", None)),
        ("CRP (mg/L)", ("CRP", "mg/L", None)),
        ("Result (LLOQ = 12.5)", ("Result", "", 12.5)),
        ("patient", ("patient", "", None)),
    ],
)
def test_a_header_tells_name_unit_and_limit(text, expected):
    assert header(text) == Header(*expected)


TOLD = {
    "D0": 0,
    "Day 7": 7,
    "d+14": 14,
    "D-5": -5,
    "Week 4": 28,
    "24 h": 1,
    "7": 7,
    7: 7,
    "3 days": 3,
}
TOLD |= {"Study day 2": 2, "Month 3": None, "D7 pre": None, "P7": None}


@pytest.mark.parametrize(("text", "day"), TOLD.items())
def test_a_header_tells_a_day(text, day):
    assert day_of(text) == day


ENTRIES = st.one_of(
    st.none(),
    st.sampled_from(
        ["P1", "ND", "<50", ">1e6", "Day 7", "D7", "copies/µg", "ALC [10^9/L]", "#N/A"]
    ),
    st.sampled_from(["", " ", "=1+1", "Comment", "lloq", True, datetime.datetime(2031, 1, 1)]),
    st.integers(-3, 400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=6),
)
PLACES = st.tuples(st.integers(0, 4), st.integers(0, 8))


@pytest.mark.filterwarnings("ignore::carpk.CarpkWarning")
@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    sheet=st.sampled_from(["patients", "infusions", "samples"]),
    entries=st.dictionaries(PLACES, ENTRIES, min_size=1, max_size=4),
)
def test_a_workbook_of_any_cells_is_a_data_set_or_refused_with_its_sheet(
    shape, sheet, entries, tmp_path_factory
):
    sheets = {"patients": PATIENTS, "infusions": INFUSIONS, "samples": SHAPES[shape]}
    rows = [[*row, *[None] * (9 - len(row))] for row in sheets[sheet]]
    rows += [[None] * 9 for _ in range(5 - len(rows))]
    for (row, column), entry in entries.items():
        rows[row][column] = entry
    path = workbooks.save(tmp_path_factory.mktemp("f") / "f.xlsx", sheets | {sheet: rows})
    try:
        data = Dataset.from_excel(path)
    except DatasetError as refused:
        if "f.xlsx" not in str(refused):
            raise
    else:
        assert (data.observations["value"] > 0).all()
        assert set(data.observations["patient"]) <= set(data.patients["patient"])
