"""What CONTRIBUTING.md shows is run, from top to bottom in one folder."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]+)\n|^```python(?: file=(\S+))?\n(.*?)^```", PAGE, re.M | re.S)


def pieces():
    heading = ""
    for found, file, code in BLOCKS:
        heading = found or heading
        if code:
            yield heading, file, code


@pytest.mark.parametrize(
    "heading", sorted({heading for heading, *_ in pieces()}), ids=lambda heading: heading
)
def test_what_the_page_shows_runs(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _, file, code in (piece for piece in pieces() if piece[0] == heading):
        if file:
            Path(file).write_text(code, encoding="utf-8")
        else:
            exec(compile(code, f"CONTRIBUTING.md, {heading}", "exec"), {"__name__": "shown"})
