"""Values as laboratories write them mean the same in frames, folders and NONMEM tables.

All patients here are simulated.
"""

import numpy as np
import pandas as pd
import pytest

from carpk.dataset import Dataset
from carpk.errors import DatasetError

BELOW = ["<50", "< 50", "≤50", "BLQ", "bql", "ND", "n.d.", "n. d.", "neg", "Negative"]
BELOW += ["undetectable", "not detected", "<LLOQ", "< LOQ", "below LOQ"]


def frames(tmp_path, values, lloq, limit):
    doses = {"patient": ["P1"], "time": [0], "product": ["car_t"], "amount": [1e8]}
    seen = {"patient": ["P1"] * 2, "time": [7, 14], "analyte": ["transgene"] * 2, "value": values}
    seen |= {"unit": ["copies/µg"] * 2} | ({"lloq": lloq} if lloq else {})
    doses = pd.DataFrame(doses | {"unit": ["cells"]})
    return Dataset.from_frames(None, doses, pd.DataFrame(seen), lloq=limit)


def folder(tmp_path, values, lloq, limit):
    (tmp_path / "about.toml").write_text(
        'citation = "simulated"\nlicence = "CC0"\n' + (f"lloq = {limit}\n" if limit else ""),
        encoding="utf-8",
    )
    doses = "patient,time,product,amount,unit,duration\nP1,0,car_t,1e8,cells,0\n"
    (tmp_path / "doses.csv").write_text(doses, encoding="utf-8")
    lines = ["patient,time,analyte,value,unit" + (",lloq" if lloq else "")]
    for day, value, own in zip((7, 14), values, lloq or (None, None), strict=True):
        lines.append(f"P1,{day},transgene,{value},copies/µg" + (f",{own or ''}" if lloq else ""))
    (tmp_path / "observations.csv").write_text("\n".join(lines), encoding="utf-8")
    return Dataset.from_folder(tmp_path)


def nonmem(tmp_path, values, lloq, limit):
    lines = ["ID,TIME,DV,AMT" + (",LLOQ" if lloq else ""), "P1,0,.,1e8" + (",." if lloq else "")]
    for day, value, own in zip((7, 14), values, lloq or (None, None), strict=True):
        lines.append(f"P1,{day},{value},." + (f",{own or '.'}" if lloq else ""))
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    units = {"transgene": "copies/µg"}
    return Dataset.from_nonmem(path, analytes="transgene", units=units, lloq=limit, ignore=None)


READERS = pytest.mark.parametrize("read", [frames, folder, nonmem])


@READERS
@pytest.mark.parametrize("limit", ["column", "argument"])
@pytest.mark.parametrize("entry", BELOW)
def test_an_entry_below_the_limit_is_censored_at_it_and_counted(read, limit, entry, tmp_path):
    lloq = [50, 50] if limit == "column" else None
    data = read(tmp_path, [2000, entry], lloq, 50 if limit == "argument" else None)
    seen = data.observations
    assert seen[["value", "lloq"]].to_numpy().tolist() == [[2000, 50], [50, 50]]
    assert seen["censored"].tolist() == [0, 1]
    assert any(
        f"1 value read as below the LLOQ (censored = 1): {entry!r} (1)." in n for n in data.notes
    )


@READERS
def test_a_bound_is_its_own_limit(read, tmp_path):
    """What an argument gives for the analyte is for rows that have none."""
    seen = read(tmp_path, ["<50", ">1e6"], None, 20).observations
    assert seen["censored"].tolist() == [1, -1]
    assert seen["value"].tolist() == [50, 1e6]
    assert seen["lloq"].tolist() == [50, 20]


@READERS
@pytest.mark.parametrize(
    ("value", "lloq", "words"),
    [
        ("ND", None, "'ND' says below the LLOQ, but no LLOQ of transgene is known"),
        ("<50", 20, "'<50' is not below the LLOQ of its row, 20"),
        ("<0", None, "lloq must be positive"),
        ("<fifty", None, "'<fifty' is not a number"),
    ],
)
def test_an_entry_without_one_limit_is_refused_with_its_row(read, value, lloq, words, tmp_path):
    with pytest.raises(DatasetError) as refused:
        read(tmp_path, [2000, value], [lloq, lloq] if lloq else None, None)
    assert words in str(refused.value)
    assert "patient 'P1'" in str(refused.value)
    assert len(refused.value.entries) == 1
    assert refused.value.entries[0].owner == ("patient", "P1")


@pytest.mark.parametrize("flag", [0, 1, None, np.nan, ""])
@pytest.mark.parametrize(("value", "own"), [("<50", 1), (">1e6", -1)])
def test_a_flag_beside_a_bound_may_be_empty_but_not_contradict_it(flag, value, own):
    doses = pd.DataFrame({"patient": ["P1"], "time": 0, "product": "car_t", "amount": 1e8})
    seen = {"patient": ["P1"], "time": 7, "analyte": "transgene", "value": value}
    seen = pd.DataFrame(seen | {"unit": "copies/µg"}).assign(
        censored=pd.Series([flag], dtype=object)
    )
    given = {"doses": doses.assign(unit="cells"), "observations": seen}
    if flag in (0, 1) and flag != own:
        with pytest.raises(DatasetError, match=f"but censored is '{flag}'"):
            Dataset.from_frames(**given)
    else:
        assert Dataset.from_frames(**given).observations["censored"].tolist() == [own]


def test_words_in_percent_of_counted_cells_go_along_with_their_limit():
    doses = pd.DataFrame({"patient": ["P1"], "time": 0, "product": "car_t", "amount": 1e8})
    seen = {"patient": "P1", "time": [7, 7, 14, 14], "analyte": ["car_t", "cd3"] * 2}
    seen = pd.DataFrame(seen | {"value": ["12", 500, "neg", 400], "unit": ["% of CD3", "/µL"] * 2})
    data = Dataset.from_frames(
        doses=doses.assign(unit="cells"), observations=seen, lloq={"car_t": 0.1}
    )
    cells = data.observations[data.observations["analyte"] == "car_t"]
    np.testing.assert_allclose(cells["value"], [60, 0.4])
    assert cells["censored"].tolist() == [0, 1]
