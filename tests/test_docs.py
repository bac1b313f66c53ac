"""What the pages of `docs/` show is run."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import carpk as ck

PAGE = (Path(__file__).parents[1] / "docs" / "write_a_model.md").read_text(encoding="utf-8")
FILE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_page_of_models_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(USE, names)
    plt.close("all")
    assert names["sol"].reason == ""
    assert names["sol"]["car_t"].max() > 5
    assert names["model"].about.startswith("CAR-T cells that grow on tumor")


def test_the_error_it_shows_is_the_one_that_comes(folder):
    shown = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL).group(1)
    path = folder / "wrong.py"
    path.write_text(FILE.replace("y.B / (p.B50 + y.B)", "y.T / (p.B50 + y.T)"), encoding="utf-8")
    with pytest.raises(ck.ModelError) as trouble:
        ck.load_model(path)
    said = str(trouble.value).replace(str(path), "mine.py")
    assert said.startswith(shown.rstrip("\n"))
