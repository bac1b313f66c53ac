"""The shell: lists and tables, JSON that parses, and exit codes that a script can use."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import carpk as ck
from carpk import _files, cli
from carpk.verdict.judge import Verdict
from carpk.verdict.words import doubt

pytestmark = pytest.mark.portable


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def shell(monkeypatch, capsys):
    """carpk as the shell runs it: exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["carpk", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


def test_version_is_that_of_the_package():
    assert run("--version").output == f"carpk {ck.__version__}\n"


def test_models_lists_every_model_with_its_unit():
    result = run("models")
    assert result.exit_code == 0
    heads = result.stdout.partition("\n\n")[0].splitlines()
    assert heads == [f"{name}: {ck.load_model(name).about}" for name in ck.list_models()]
    long = run("models", "--long").stdout
    assert [x.split(":")[0] for x in long.splitlines() if x[0] != " "] == ck.list_models()
    assert "transgene [copies/µg]" in long
    listed = json.loads(run("models", "--json").stdout)
    units = {name: row["outputs"] for name, row in listed.items()}
    assert units == {n: dict(ck.load_model(n).units) for n in ck.list_models()}
    markdown = run("models", "--markdown").stdout
    assert markdown.startswith("# The models")


def test_a_model_is_shown_with_its_parameters():
    assert "doi:10.1002/psp4.12388" in run("models", "stein2019").stdout
    assert "turnover" in run("models", "kimmel2021", "--option", "cure:True").stdout
    assert run("models", "stein2019", "--source").stdout.startswith('"""Tisagenlecleucel')
    table = json.loads(run("models", "stein2019", "--json").stdout)
    assert list(table) == list(ck.load_model("stein2019").params.info())
    assert table["cmax"]["value"] == 24_000
    assert table["cmax"]["unit"] == "copies/µg"


def test_studies_are_listed_and_shown_with_their_facts():
    titles = json.loads(run("studies", "--json").stdout)
    assert list(titles) == ck.list_studies()
    assert [line.split()[0] for line in run("studies").stdout.splitlines()] == ck.list_studies()
    study = ck.load_study("zuma1_moffitt")
    assert "doi:10.1098/rspb.2021.0229" in run("studies", "zuma1_moffitt").stdout
    assert len(json.loads(run("studies", "zuma1_moffitt", "--json").stdout)) == len(study.summaries)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "stien2019"], "did you mean 'stein2019'"),
        (["studies", "zuma1"], "did you mean 'zuma1_moffitt'"),
        (["fit", "no_such_study"], "neither a study"),
        (["fit", "zuma1_moffitt", "--model", "piecewise", "--varies", "cmx"], "'cmx' in `varies`"),
        (["compare", "eliana_ensign", "--arm", "responders"], "needs two or more"),
        (["compare", "niche", "--arm", "Flu", "--arm", "Flu/Cyy"], "'Flu/Cyy' is not a preset"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_1(shell, arguments, words):
    code, out, err = shell(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("carpk: ")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["models", "--no-such-option"],
        ["fit"],
        ["fit", "zuma1_moffitt", "--draws", "0"],
        ["fit", "zuma1_moffitt", "--covariate", "cmax"],
        ["fit", "zuma1_moffitt", "--analyte", "car_t"],
        ["compare", "niche"],
        ["compare", "fit.nc", "--arm", "Flu", "--arm", "Flu/Cy"],
        ["compare", "niche", "--arm", "Flu", "--arm", "none", "--per", "lb"],
    ],
)
def test_wrong_usage_ends_with_exit_code_2(shell, arguments):
    code, out, err = shell(*arguments)
    assert code == 2
    assert out == ""
    assert err


def test_help_is_there_for_every_command():
    for command in ("models", "studies", "template", "check", "fit", "rerun", "compare", "demo"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.stdout


# --- fit, with the sampling left out --------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch, known_fit):
    """What the command asks of `ck.fit`, which returns the fit that is known."""
    got = {}

    def fit(population, data, **settings):
        got.update(settings, population=population, data=data)
        return got.get("answer", known_fit)

    monkeypatch.setattr(ck, "fit", fit)
    return got


def test_a_fit_that_cannot_be_trusted_is_shown_and_ends_with_exit_code_3(asked, known_fit, shell):
    code, out, _ = shell("fit", "zuma1_moffitt", "--model", "piecewise", "--varies", "cmax")
    assert code == 3
    assert out.startswith("DO NOT TRUST")
    assert out.strip() == repr(known_fit)


def test_a_fit_that_can_be_trusted_ends_with_exit_code_0(asked, known_fit, shell):
    verdict = Verdict((), known_fit.verdict.numbers)
    asked["answer"] = dataclasses.replace(known_fit, verdict=verdict)
    code, out, _ = shell("fit", "zuma1_moffitt", "--model", "piecewise", "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    assert json.loads(out)["grade"] == "OK"


def test_a_doubt_about_the_data_is_told_and_ends_with_exit_code_0(asked, known_fit, shell):
    verdict = Verdict((doubt("LLOQ", "Look at lloq."),), known_fit.verdict.numbers)
    asked["answer"] = dataclasses.replace(known_fit, verdict=verdict)
    code, out, _ = shell("fit", "zuma1_moffitt", "--model", "piecewise", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["grade"] == "OK, BUT"
    assert answer["ok"] is True
    assert answer["doubts"] == ["Look at lloq."]


def test_the_options_reach_the_fit(asked, shell):
    options = "--draws 7 --tune 8 --chains 2 --seed 9 --target-accept 0.95 --varies cmax,tmax"
    options += " --method laplace --draws-in here --max-draws 21"
    shell("fit", "eliana_ensign", *options.split(), "--covariate", "cmax:response")
    expected = {"draws": 7, "tune": 8, "chains": 2, "seed": 9, "target_accept": 0.95}
    expected |= {"method": "laplace", "folder": Path("here"), "max_draws": 21}
    assert {k: asked[k] for k in expected} == expected
    assert asked["population"].model.name == "stein2019"
    assert asked["population"].varies == ["cmax", "tmax"]
    assert asked["population"].covariates == {"cmax": ["response"]}
    assert asked["data"].name == "eliana_ensign"


def test_json_and_files_hold_verdict_and_summary(asked, known_fit, shell, tmp_path):
    out = tmp_path / "deep" / "folder"
    code, text, _ = shell("fit", "zuma1_moffitt", "--model", "piecewise", "--json", "--out", out)
    answer = json.loads(text)
    assert code == 3
    assert answer["ok"] is False
    assert answer["troubles"] == ["The draws are made up: sample them."]
    assert answer["notes"] == ["A note."]
    table = known_fit.summary()
    assert list(answer["summary"]) == list(table.index)
    assert answer["summary"]["cmax"]["median"] == pytest.approx(table.loc["cmax", "median"])
    assert sorted(p.name for p in out.iterdir()) == ["fit.nc", "fit.png", "summary.csv"]
    assert list(pd.read_csv(out / "summary.csv", index_col=0).index) == list(table.index)


def test_a_folder_that_takes_no_files_is_told_before_the_draws(asked, shell, tmp_path):
    (tmp_path / "file").write_text("x")
    for command in (
        ["fit", "zuma1_moffitt", "--model", "piecewise"],
        ["compare", "eliana_ensign", "--arm", "non_responders", "--arm", "responders"],
        ["demo"],
    ):
        code, out, err = shell(*command, "--out", tmp_path / "file")
        assert (code, out) == (1, "")
        assert err.startswith("carpk: ")
        assert re.search(r"file' cannot be written to \(.*(exists|Not a directory)\)", err)
    assert not asked


def test_a_full_disk_after_the_draws_loses_none(asked, known_fit, shell, tmp_path, monkeypatch):
    """The table is shown, the fit goes elsewhere, and the sentence says where."""
    write, out = _files.write, tmp_path / "out"

    def full(path, content):
        if Path(path).is_relative_to(out) and not _files.is_part(Path(path).name):
            raise ck.SaveError(f"{str(path)!r} cannot be written (No space left on device).")
        return write(path, content)

    monkeypatch.setattr(_files, "write", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, text, err = shell("fit", "zuma1_moffitt", "--model", "piecewise", "--out", out)
    assert code == 1
    assert text.strip() == repr(known_fit)
    kept = re.search(r"The fit is in '(.*fit\.nc)'\.", err).group(1)
    np.testing.assert_array_equal(
        ck.load_fit(kept, known_fit.population).posterior["cmax"], known_fit.posterior["cmax"]
    )
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_real_fit_of_twenty_draws_is_not_trusted(shell, tmp_path):
    options = "--draws 20 --tune 20 --chains 1 --model piecewise --varies cmax --json"
    code, text, err = shell("fit", "zuma1_moffitt", *options.split(), "--out", tmp_path)
    assert code == 3
    assert json.loads(text)["troubles"]
    assert "100 %" in err
    assert {p.name for p in tmp_path.iterdir()} == {"fit.nc", "fit.png", "summary.csv"}


# --- compare --------------------------------------------------------------------------------------


def test_published_cohorts_are_compared_as_in_python(tmp_path):
    arms = ("--arm", "non_responders", "--arm", "responders")
    what = ("--outcome", "cmax", "--json", "--out", tmp_path)
    result = run("compare", "eliana_ensign", *arms, *what)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    study = ck.load_study("eliana_ensign")
    same = ck.compare(study, {"n": "non_responders", "r": "responders"}, ["cmax"])
    assert answer["table"][0]["estimate"] == pytest.approx(same.table["estimate"].iloc[0])
    assert any("Not randomized" in caveat for caveat in answer["caveats"])
    written = pd.read_csv(tmp_path / "comparison.csv")
    assert written["estimate"][0] == pytest.approx(answer["table"][0]["estimate"])
    assert {p.name for p in tmp_path.iterdir()} == {
        "comparison.csv",
        "comparison.nc",
        "comparison.png",
    }


def test_a_doubtful_fit_is_compared_with_exit_code_3(monkeypatch, known_fit):
    asked = {}
    original = ck.compare

    def compare(source, arms, outcomes, **settings):
        asked.update(settings, source=source, arms=arms)
        study = ck.load_study("eliana_ensign")
        answer = original(study, {"n": "non_responders", "r": "responders"}, ["cmax"])
        return dataclasses.replace(answer, doubt=not source.ok)

    monkeypatch.setattr(ck, "load_fit", lambda path, *, trust: {"fit.nc": known_fit}[path])
    monkeypatch.setattr(ck, "compare", compare)
    arms = ("--arm", "conditioning:Flu", "--arm", "conditioning:Flu/Cy")
    assert run("compare", "fit.nc", *arms, "--patients", 7, "--lloq", 0.5).exit_code == 3
    assert asked["arms"]["conditioning:Flu/Cy"] == {"conditioning": "Flu/Cy"}
    assert (asked["patients"], asked["lloq"]) == (7, 0.5)
    assert asked["source"] is known_fit


@pytest.mark.exhaustive
def test_regimens_are_compared_in_a_model_with_its_options():
    arms = ("--arm", "none", "--arm", "HEROS Flu/Cy")
    size = ("--patients", 4, "--draws", 2, "--outcome", "cmax")
    result = run("compare", "niche", "--option", "disease:solid", *arms, *size)
    assert result.exit_code == 0
    assert result.stdout.startswith("cmax of HEROS Flu/Cy against none: x ")
    assert "2 draws from the posterior in its file, x 4 virtual patients" in result.stdout
