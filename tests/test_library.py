"""Models and studies are found by name, a user's own by path, and every refusal says what to do."""

import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from carpk.errors import DatasetError, ModelError, RegimenError
from carpk.library.models import load_model
from carpk.library.studies import list_studies, load_study
from carpk.library.titles import list_models

ROOT = Path(__file__).parents[1]

MINE = """
import jax.numpy as jnp
import carpk as ck


class Params(ck.Params):
    peak: ck.Scalar = ck.param({peak}, "cells/µL", "level at the infusion")


def build(slope: float = 0.1):
    return ck.ClosedForm(
        name="mine",
        params=Params,
        outputs={{"car_t": lambda t, p: p.peak * jnp.exp(-slope * t)}},
        units={{"car_t": "cells/µL"}},
    )


model = build()
"""


EQUATIONS = """
import math
import jax.numpy as jnp
import carpk as ck


class Params(ck.Params):
    k: ck.Scalar = ck.param(0.1, "1/day", "loss rate")


class States(ck.States):
    C: ck.Scalar = ck.state("cells", "cells")


def vector_field(t, y, p):
    return States(C=-p.k * y.C)


model = ck.ODEModel(
    name="mine",
    params=Params,
    states=States,
    vector_field=vector_field,
    outputs={"car_t": lambda t, y, p: y.C},
    units={"car_t": "cells"},
)
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_lists_are_sorted_and_hold_every_file():
    in_folder = sorted(path.stem for path in (ROOT / "models").glob("[!_]*.py"))
    assert list_models() == in_folder
    in_folder = sorted(path.parent.name for path in (ROOT / "data").glob("*/about.toml"))
    assert list_studies() == in_folder
    assert {"stein2019", "piecewise", "kimmel2021", "singh2021"} <= set(list_models())


class TestModelsByName:
    def test_a_model_knows_where_it_came_from(self):
        assert load_model("stein2019").origin == {"name": "stein2019", "options": {}}

    def test_options_choose_a_variant_and_are_remembered(self):
        plain, other = load_model("stein2019"), load_model("stein2019", omega_is="variance")
        assert other.origin == {"name": "stein2019", "options": {"omega_is": "variance"}}
        assert other.params.info()["foldx"].iiv == pytest.approx(2.4**0.5)
        assert plain.params.info()["foldx"].iiv == 2.4

    @pytest.mark.parametrize("typed", ["stien2019", "Stein2019", "stein", "stein_2019"])
    def test_an_unknown_name_suggests_the_nearest(self, typed):
        with pytest.raises(ModelError, match="did you mean 'stein2019'") as trouble:
            load_model(typed)
        assert "piecewise" in str(trouble.value)

    def test_a_file_of_that_name_is_pointed_at(self, tmp_path, monkeypatch):
        write(tmp_path, MINE.format(peak=2.0))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=r"load_model\('mine.py'\)"):
            load_model("mine")

    def test_an_unknown_option_names_the_known_ones(self):
        with pytest.raises(ModelError, match=r"no option 'omega'.*'omega_is'"):
            load_model("stein2019", omega="variance")

    def test_options_of_a_model_without_any_are_refused(self):
        with pytest.raises(ModelError, match="has no options"):
            load_model("ogasawara2021", unit="copies/µg")


class TestModelsByPath:
    def test_a_file_of_ones_own_is_loaded(self, tmp_path):
        path = write(tmp_path, MINE.format(peak=2.0))
        model = load_model(str(path))
        assert model.params().peak == 2.0
        assert model.origin == {"name": str(path), "options": {}}
        assert load_model(path, slope=0.5).origin["options"] == {"slope": 0.5}

    def test_a_relative_path_is_remembered_as_an_absolute_one(self, tmp_path, monkeypatch):
        path = write(tmp_path, MINE.format(peak=2.0))
        monkeypatch.chdir(tmp_path)
        assert load_model("mine.py").origin["name"] == str(path)

    def test_an_edit_is_seen_at_once(self, tmp_path):
        """Bytecode caches go by second and size, so an import could return the file before."""
        path = write(tmp_path, MINE.format(peak=2.0))
        now = time.time()
        os.utime(path, (now, now))
        assert load_model(path).params().peak == 2.0
        write(tmp_path, MINE.format(peak=3.0))
        os.utime(path, (now, now))
        assert load_model(path).params().peak == 3.0

    def test_two_files_of_one_name_do_not_meet(self, tmp_path):
        for folder, peak in (("a", 2.0), ("b", 3.0)):
            (tmp_path / folder).mkdir()
            write(tmp_path / folder, MINE.format(peak=peak))
        first, second = (load_model(tmp_path / folder / "mine.py") for folder in "ab")
        assert (first.params().peak, second.params().peak) == (2.0, 3.0)
        assert first.params.__module__ != second.params.__module__

    def test_a_copy_of_a_library_file_works(self, tmp_path):
        shutil.copy(ROOT / "models" / "stein2019.py", tmp_path / "mine.py")
        mine, original = load_model(tmp_path / "mine.py"), load_model("stein2019")
        assert mine.describe().equals(original.describe())

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("import carpk as ck\nmodel = ck.ClosedForm(\n", 2, "SyntaxError"),
            ("import carpk as ck\n\nmodel = ck.ClosedFrom()\n", 3, "ClosedFrom"),
            ("import carpk as ck\nx = ck.param(1.0, '', 'peak')\n", 2, "needs a unit"),
            ("import no_such_package_here\n", 1, "no_such_package_here"),
            ("\ndef build():\n    return 1 / 0\n", 3, "ZeroDivisionError"),
        ],
    )
    def test_a_broken_file_is_explained_with_its_line(self, tmp_path, text, line, words):
        path = write(tmp_path, text)
        with pytest.raises(ModelError) as trouble:
            load_model(path)
        message = str(trouble.value)
        assert f"{path}, line {line}: " in message
        assert words in message
        assert text.splitlines()[line - 1].strip() in message

    @pytest.mark.parametrize(
        ("old", "new", "said", "advice"),
        [
            ("p.k * y.C", "p.k * y.D", "'States' object has no attribute 'D'", "Correct the line"),
            ("States(C=-", "States(D=-", "unexpected keyword argument 'D'", "Correct the line"),
            ("p.k * y.C", "p.q * y.C", "'Params' object has no attribute 'q'", "Correct the line"),
            (
                "-p.k * y.C",
                "-p.k * y.C if y.C > 1 else 0.0",
                "Bool",
                r"jnp\.where\(condition, a, b\)",
            ),
            ("p.k * y.C", "math.exp(p.k) * y.C", "Concretization", "neither float"),
            (
                "p.k * y.C",
                "jnp.sqrt(y.C - y.C) * y.C",
                "invalid value",
                "inside, around the quantity",
            ),
            ("p.k * y.C", "p.k * y.C / (p.k - p.k)", "invalid value", "is not a number"),
        ],
    )
    def test_a_mistake_in_the_equations_is_explained_with_its_line(
        self, tmp_path, old, new, said, advice
    ):
        text = EQUATIONS.replace(old, new)
        line = 1 + text[: text.index(new)].count("\n")
        with pytest.raises(ModelError, match=advice) as trouble:
            load_model(write(tmp_path, text))
        message = str(trouble.value)
        assert f"mine.py, line {line}: " in message
        assert said in message
        assert text.splitlines()[line - 1].strip() in message

    def test_two_loads_of_one_text_share_what_is_compiled_and_an_edit_does_not(self, tmp_path):
        path = write(tmp_path, EQUATIONS)
        first = load_model(path)
        assert load_model(path) == first
        path.write_text(EQUATIONS.replace("-p.k", "-2 * p.k"), encoding="utf-8")
        assert load_model(path) != first

    def test_a_model_of_ones_own_and_its_patients_can_be_pickled(self, tmp_path):
        model = load_model(write(tmp_path, EQUATIONS))
        assert pickle.loads(pickle.dumps(model)) == model
        patient = model.params(k=0.3)
        assert pickle.loads(pickle.dumps(patient)) == patient

    def test_a_pickle_keeps_what_was_changed_after_loading(self, tmp_path):
        changed = load_model("stein2019").with_dose_effect(0.3, 1e8)
        assert pickle.loads(pickle.dumps(changed)).dose_effect == changed.dose_effect

    def test_a_file_without_a_model_says_how_to_end_it(self, tmp_path):
        with pytest.raises(ModelError, match="neither `model` nor `build`"):
            load_model(write(tmp_path, "x = 1\n"))
        with pytest.raises(ModelError, match="is int, but must be a structural model"):
            load_model(write(tmp_path, "model = 1\n"))

    def test_a_missing_file_suggests_the_nearest(self, tmp_path):
        write(tmp_path, MINE.format(peak=2.0), "axicel.py")
        with pytest.raises(ModelError, match=r"does not exist; did you mean 'axicel.py'"):
            load_model(tmp_path / "axi_cel.py")
        with pytest.raises(ModelError, match="does not exist; there is no"):
            load_model(tmp_path / "nowhere" / "axicel.py")


class TestStudies:
    def test_an_unknown_name_suggests_the_nearest(self):
        with pytest.raises(DatasetError, match="did you mean 'zuma1_moffitt'"):
            load_study("zuma1")

    def test_a_folder_of_ones_own_is_loaded(self, tmp_path):
        shutil.copytree(ROOT / "data" / "zuma1_moffitt", tmp_path / "mine")
        study = load_study(tmp_path / "mine")
        assert study.name == "mine"
        assert len(study.summaries) == 4

    def test_a_folder_without_about_toml_is_refused(self, tmp_path):
        with pytest.raises(DatasetError, match=r"has no about\.toml"):
            load_study(tmp_path)

    def test_broken_toml_names_file_and_line(self, tmp_path):
        write(tmp_path, 'title = "mine"\nunit = cells\n', "about.toml")
        with pytest.raises(DatasetError, match=r"about\.toml is not valid TOML.*line 2"):
            load_study(tmp_path)

    def test_an_unknown_recipe_names_arm_and_advice(self, tmp_path):
        write(tmp_path, 'title = "mine"\n', "about.toml")
        write(tmp_path, '[high.lymphodepletion]\npreset = "Cy/Flu"\n', "arms.toml")
        with pytest.raises(DatasetError, match="arm 'high': Lymphodepletion 'Cy/Flu' is not"):
            load_study(tmp_path)
        write(tmp_path, "[high.cells]\ndays = [0]\n", "arms.toml")
        with pytest.raises(DatasetError, match="arm 'high', cells: `days` is unknown"):
            load_study(tmp_path)

    def test_an_unknown_dose_is_never_filled_in(self, tmp_path):
        write(tmp_path, 'title = "mine"\n', "about.toml")
        write(tmp_path, '[low]\nabout = "x"\n[low.lymphodepletion]\npreset = "Flu"\n', "arms.toml")
        study = load_study(tmp_path)
        assert "dose of cells was not read" in repr(study)
        assert "dose not read" in repr(study.arms["low"])
        assert len(study.arms["low"].lymphodepletion.drugs) == 3
        with pytest.raises(RegimenError, match="Say the dose yourself"):
            _ = study.arms["low"].regimen
