"""The scripts in examples/ run as they are, with small settings, and find what was simulated."""

import runpy
from pathlib import Path

import pytest
import small

import carpk as ck

EXAMPLES = Path(__file__).parents[2] / "examples"
SIMULATED_FROM = {  # typical values in data/make.py, in the units of each script's model
    "theophylline": {"CL": 2.796, "V": 32.4, "ka": 1.6, "sigma_add": 0.71},
    "warfarin": {"CL": 0.15, "V": 8.0, "R0": 96.5, "kout": 0.055, "IC50": 1.007},
    "friberg": {"Circ0": 5.22, "MTT": 84.2, "slope": 15.6, "gamma": 0.145},
}


def test_every_script_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SIMULATED_FROM.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATED_FROM)
def test_an_example_reads_its_file_and_binds_its_model(name, monkeypatch):
    class Bound(Exception):
        pass

    def bind(population, data, **_):
        raise Bound(population.bind(data))

    monkeypatch.setattr(ck, "fit", bind)
    with pytest.raises(Bound) as reached:
        runpy.run_path(str(EXAMPLES / f"{name}.py"))
    (bound,) = reached.value.args
    assert len(bound.patients) == {"theophylline": 12, "warfarin": 32, "friberg": 24}[name]


FITTED = [
    pytest.param("theophylline", marks=pytest.mark.slow),
    pytest.param("warfarin", marks=pytest.mark.exhaustive),
    pytest.param("friberg", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize("name", FITTED)
def test_an_example_prints_its_verdict_and_finds_what_its_data_were_simulated_from(
    name, monkeypatch, capsys
):
    small.everywhere(small.PAGES, monkeypatch.setattr)
    fit = runpy.run_path(str(EXAMPLES / f"{name}.py"))["fit"]
    verdict, *_ = capsys.readouterr().out.splitlines()
    assert verdict.startswith(fit.verdict.grade)
    median = fit.summary()["median"]
    for parameter, value in SIMULATED_FROM[name].items():
        assert median[parameter] == pytest.approx(value, rel=0.3), parameter


def test_the_data_say_that_they_are_simulated():
    for page in ("README.md", "data/README.md"):
        assert "simulated" in (EXAMPLES / page).read_text(encoding="utf-8").lower()
