"""Tables of NCA as files: CSV, LaTeX, Excel."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

from carpk import nca
from carpk.errors import CarpkError


def summarized():
    table = pd.DataFrame({"arm": ["A_1", "A_1", "B"], "CMAX": [19500.0, 9000.0, 0.01234]})
    table["FOLDX"] = [np.nan, np.nan, 3.0]
    table.attrs["units"] = {"CMAX": "copies/µg", "FOLDX": "1"}
    return table, nca.summary(table, by="arm")


def test_a_summary_bears_the_codes_of_cdisc():
    table = pd.DataFrame({"AUC0_28D": [1.0], "LAMZHL": [2.0], "BASE": [3.0]})
    codes = nca.summary(table)["PPTESTCD"]
    assert codes.to_dict() == {"AUC0_28D": "AUCINT", "LAMZHL": "LAMZHL", "BASE": "BASE"}


def test_patients_of_an_unknown_arm_are_summarized_too():
    table = pd.DataFrame({"arm": ["A", np.nan, np.nan], "CMAX": [1.0, 2.0, 3.0]})
    assert nca.summary(table, by="arm")["n"].tolist() == [1, 2]


@pytest.mark.parametrize("k", [0, 1])
def test_csv_has_every_row_and_digit(tmp_path, k):
    frame = summarized()[k]
    back = pd.read_csv(nca.export(frame, tmp_path / "t.csv"))
    plain = frame.reset_index() if k else frame
    assert back.columns.tolist() == plain.columns.tolist()
    kind = plain.select_dtypes("number").columns
    np.testing.assert_array_equal(back[kind].to_numpy(float), plain[kind].to_numpy(float))


def test_latex_is_escaped_and_has_significant_digits(tmp_path):
    table, summary = summarized()
    text = nca.export(table, tmp_path / "t.tex").read_text(encoding="utf-8")
    assert "CMAX [copies/µg]" in text
    assert "A\\_1 & 19500 &  \\\\" in text
    assert "0.0123 & 3" in text
    assert "FOLDX [1]" not in text
    more = nca.export(table.assign(CMAX=9000.4), tmp_path / "t.tex", digits=5)
    assert "9000.4" in more.read_text(encoding="utf-8")
    assert "geometric\\_mean" in nca.export(summary, tmp_path / "s.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize("k", [0, 1])
def test_excel_holds_the_numbers_that_the_table_holds(tmp_path, k):
    frame = summarized()[k]
    back = pd.read_excel(nca.export(frame, tmp_path / "t.xlsx"))
    plain = frame.reset_index() if k else frame
    kind = plain.select_dtypes("number").columns
    places = [plain.columns.get_loc(name) for name in kind]
    values = back.iloc[:, places].to_numpy(float)
    np.testing.assert_allclose(values, plain[kind].to_numpy(float), rtol=1e-14)
    assert ("CMAX [copies/µg]" in back) == (k == 0)


@pytest.mark.parametrize(("suffix", "package"), [(".tex", "jinja2"), (".xlsx", "openpyxl")])
def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path, monkeypatch, suffix, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(CarpkError, match=rf"needs {package}. Run `pip install .carpk\[\w+\]"):
        nca.export(summarized()[0], tmp_path / f"t{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["t.doc", "t"])
def test_another_kind_of_file_is_refused(tmp_path, name):
    with pytest.raises(CarpkError, match=r"must end in one of \.csv, \.tex, \.xlsx"):
        nca.export(summarized()[0], tmp_path / name)
