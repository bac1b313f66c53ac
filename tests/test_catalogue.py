"""The list of models is complete and current, and a model's page holds all that its file says."""

from pathlib import Path

import pytest

import carpk as ck
from carpk.library import catalogue
from carpk.library.models import options_of

ROOT = Path(__file__).parents[1]


def test_the_readme_of_the_models_is_current():
    """If it is not: carpk models --markdown > models/README.md"""
    assert (ROOT / "models" / "README.md").read_text(encoding="utf-8") == catalogue.markdown()


def test_the_list_names_every_model_with_its_outputs_and_states():
    listed = catalogue.listing()
    assert list(listed) == ck.list_models()
    row = listed["kimmel2021"]
    assert row["product"] == "axicabtagene ciloleucel"
    assert row["outputs"] == {"car_t": "cells/µL", "t_cells": "cells/µL", "tumor": "mL"}
    assert row["states"] == ["N", "C", "B"]
    assert row["options"] == {"scale": ["blood", "body"], "cure": [False, True]}
    assert listed["stein2019"]["states"] == ["closed form"]
    text = catalogue.lines()
    assert all(f"{name}: " in text for name in ck.list_models())
    assert max(map(len, text.splitlines())) <= 140


@pytest.mark.parametrize("name", ck.list_models())
def test_a_page_has_equations_parameters_sources_and_citation(name):
    model, page = ck.load_model(name), catalogue.page(name)
    assert page.startswith(model.doc.strip())
    lines = page.splitlines()
    for symbol, info in model.params.info().items():
        row = next(x for x in lines if x.split()[:2] == [symbol, f"{info.value:g}"])
        assert info.about in row
        assert info.source in row
    assert all(f"{output} [{unit}]" in page for output, unit in model.units.items())
    assert model.reference in page
    assert all(quantity in page for quantity in model.published)
    assert all(option in page for option in options_of(name))


def test_a_page_shows_the_variant_asked_for():
    assert "death rate of tumor cells" not in catalogue.page("kimmel2021")
    assert "death rate of tumor cells" in catalogue.page("kimmel2021", cure="True", scale="body")
    with pytest.raises(ck.ModelError, match="cure must be False or True, but is 'maybe'"):
        catalogue.page("kimmel2021", cure="maybe")


def test_the_source_is_the_file():
    text = (ROOT / "models" / "singh2021.py").read_text(encoding="utf-8")
    assert catalogue.source("singh2021") == text
    with pytest.raises(ck.ModelError, match="did you mean 'singh2021'"):
        catalogue.source("singh")
