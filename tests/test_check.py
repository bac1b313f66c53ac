"""`carpk check` lists every problem of a file, once and with its place; a template reads back.

All patients here are simulated.
"""

import itertools
import json

import openpyxl
import pytest
import workbooks
from typer.testing import CliRunner

import carpk as ck
from carpk import cli
from carpk.dataset.check import check
from carpk.dataset.template import COLUMNS, EXAMPLE

FAULTS = {  # (sheet, cell) -> entry, words of the problem
    ("samples", "D3"): ("high", "'high' is not a number"),
    ("samples", "D9"): ("12,5", "'12,5' is not a number"),
    ("samples", "B12"): (45000, "more than 40 years"),
    ("samples", "G16"): (2, "censored must be 0"),
    ("samples", "E20"): ("furlong", "'transgene' must be in copies/µg"),
    ("infusions", "D6"): (-30, "amount must be positive"),
    ("infusions", "E9"): ("vials", "dose unit 'vials' is unknown"),
    ("patients", "C3"): ("<50", "'<50' is not a number"),
    ("patients", "A7"): ("P05", "patient 'P05' appears 2 times"),
}


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def with_faults(path, faults):
    workbooks.tidy(path)
    book = openpyxl.load_workbook(path)
    for sheet, cell in faults:
        book[sheet][cell] = FAULTS[sheet, cell][0]
    book.save(path)
    return path


@pytest.mark.parametrize(
    "faults", [*((fault,) for fault in FAULTS), *itertools.pairwise(FAULTS), tuple(FAULTS)]
)
def test_every_fault_is_listed_once_with_its_cell_and_none_that_follows_from_it(faults, tmp_path):
    found = check(with_faults(tmp_path / "c.xlsx", faults))
    places = [(e.sheet, e.cell) for problem in found.problems for e in problem.entries]
    listed = [place for place in places if place in FAULTS]
    assert sorted(listed) == sorted(faults)
    # P06 called P05 leaves the rows of P06 without a patient, wherever it is compared
    assert {place for place in places if place not in FAULTS} <= (
        {(s, f"A{r}") for s in ("infusions", "samples") for r in range(2, 50)}
        if ("patients", "A7") in faults
        else set()
    )
    for place in faults:
        assert f"{place[0]}!{place[1]}" in repr(found)
        assert FAULTS[place][1] in repr(found)


def test_a_clean_workbook_shows_what_it_holds_and_exit_code_0(tmp_path):
    path = workbooks.laboratory(tmp_path / "c.xlsx")
    data = ck.Dataset.from_excel(path)
    shown = run("check", path)
    assert shown.exit_code == 0
    assert data.summary().to_string() in shown.stdout
    assert all(note in shown.stdout for note in data.notes)
    told = json.loads(run("check", path, "--json").stdout)
    assert told["ok"]
    assert told["notes"] == list(data.notes)
    assert [row["samples"] for row in told["summary"]] == data.summary()["samples"].tolist()


def test_problems_end_with_exit_code_1_and_are_machine_readable(tmp_path):
    path = with_faults(tmp_path / "c.xlsx", tuple(FAULTS)[:3])
    shown = run("check", path)
    assert shown.exit_code == 1
    assert shown.stdout.startswith("c.xlsx: 3 problems\n  samples!D3, patient 'P01': 'high' is not")
    told = json.loads(run("check", path, "--json").stdout)
    assert not told["ok"]
    cells = [(e["sheet"], e["cell"], e["patient"]) for p in told["problems"] for e in p["entries"]]
    assert cells == [("samples", "D3", "P01"), ("samples", "D9", "P02"), ("samples", "B12", "P02")]


def test_problems_between_tables_are_listed_too(tmp_path):
    path = workbooks.tidy(tmp_path / "c.xlsx")
    book = openpyxl.load_workbook(path)
    book["samples"]["A4"] = "P9"  # no such patient
    book["infusions"]["B9"] = 3  # P02 is infused on day 3
    book["samples"]["D20"] = "high"  # of P03, who is not compared
    book.save(path)
    found = check(path)
    cells = [e.cell for problem in found.problems for e in problem.entries]
    assert cells == ["D20", "B9", "A4"]
    assert found.unchecked == ("P03",)
    assert "Not compared between tables before these are corrected: P03." in repr(found)


def test_a_sheet_that_cannot_be_read_stops_the_check_with_one_problem(tmp_path):
    path = workbooks.save(tmp_path / "c.xlsx", {"samples": [["Colour"], ["red"]]})
    (problem,) = check(path).problems
    assert "found: `Colour`" in repr(problem)
    assert run("check", tmp_path / "none.xlsx").exit_code == 1


LINES = [
    "ID,TIME,DV,AMT,CMT",
    "1,0,.,1e8,1",
    "1,7,20,.,2",
    "1,14,30,.,2",
    "2,0,.,1e8,1",
    "2,7,9,.,2",
]


def test_problems_of_a_table_of_events_are_its_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("\n".join(LINES), encoding="utf-8")
    assert check(path).ok
    bad = [*LINES[:2], "1,7,low,.,2", "1,14,30,x,2", *LINES[4:], "2,9,-5,.,2"]
    path.write_text("\n".join(bad), encoding="utf-8")
    found = check(path)
    assert [e.row for problem in found.problems for e in problem.entries] == [3, 4, 7]
    assert "data.csv, row 3, column `DV`" in repr(found)


def test_problems_of_a_folder_are_in_its_files(tmp_path):
    (tmp_path / "about.toml").write_text(
        'citation = "simulated"\nlicence = "CC0"\n', encoding="utf-8"
    )
    doses = "patient,time,product,amount,unit\nA,0,car_t,-1,cells\nB,0,car_t,1e8,cells\n"
    (tmp_path / "doses.csv").write_text(doses, encoding="utf-8")
    lines = "patient,time,analyte,value,unit,lloq\nA,7,transgene,x,copies/µg,50\n"
    lines += "B,7,transgene,70,copies/µg,50\nB,-1,transgene,70,copies/µg,50\n"
    (tmp_path / "observations.csv").write_text(lines, encoding="utf-8")
    found = check(tmp_path)
    assert [(p.table, p.entries[0].row) for p in found.problems] == [
        ("doses.csv", 2),
        ("observations.csv", 2),
        ("observations.csv", 4),
    ]


def own_rows(path):
    """A template whose examples a reader has replaced with rows of two patients."""
    book = openpyxl.load_workbook(path)
    for name in COLUMNS:
        for row in book[name].iter_rows(min_row=2, max_col=1):
            if row[0].value:
                row[0].value = row[0].value.replace(EXAMPLE, "P")
    book.save(path)


def test_a_template_reads_back_once_its_examples_are_replaced(tmp_path):
    path = tmp_path / "cohort.xlsx"
    assert run("template", path).exit_code == 0
    refused = check(path).problems
    assert [problem.table.split()[-1] for problem in refused] == list(COLUMNS)
    own_rows(path)
    found = check(path)
    assert found.ok
    data = found.data
    assert data.patients.columns.tolist() == list(COLUMNS["patients"])
    assert data.analytes == ("transgene", "alc")
    assert data.observations["censored"].tolist() == [0, 1, 0]


def test_a_template_explains_each_column_and_offers_units_and_products(tmp_path):
    path = tmp_path / "cohort.xlsx"
    run("template", path)
    book = openpyxl.load_workbook(path)
    told = {(row[0], row[1]) for row in book["about"].iter_rows(values_only=True)}
    assert {(name, column) for name, columns in COLUMNS.items() for column in columns} <= told
    offered = {
        (sheet.title, str(rule.sqref)): rule.formula1
        for sheet in book
        for rule in sheet.data_validations.dataValidation
    }
    assert "car_t" in offered["infusions", "C2:C2000"]
    assert "cells/kg" in offered["infusions", "E2:E2000"]
    assert "copies/µg" in offered["samples", "E2:E2000"]


@pytest.mark.parametrize(
    ("name", "words"), [("c.xlsx", "exists and may hold"), ("c.csv", "end with .xlsx")]
)
def test_a_template_replaces_nothing_and_is_a_workbook(name, words, tmp_path):
    (tmp_path / "c.xlsx").write_bytes(b"mine")
    result = run("template", tmp_path / name)
    assert words in str(result.exception)
    assert (tmp_path / "c.xlsx").read_bytes() == b"mine"


def test_a_workbook_is_fitted_like_any_data(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(ck, "fit", lambda population, data, **_: given.append(data) or 1 / 0)
    run("fit", workbooks.tidy(tmp_path / "c.xlsx"))
    (data,) = given
    assert data.name == "c"
    assert len(data.observations) == len(workbooks.PATIENTS) * len(workbooks.DAYS)
