"""Fits on disk: everything comes back, or is refused in a sentence; no code runs unless told."""

import copy
import dataclasses
import json
import os
import pickle
import shutil
import sys
import textwrap
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from conjugate import SETTINGS
from hierarchies import LINEAR, PIECEWISE, decaying

import carpk as ck
from carpk._arviz import group, groups, idata_of, netcdf
from carpk.inference import loading, saving, storage
from carpk.inference.draws import assemble
from carpk.inference.encoding import Unreadable, Untrusted, kept_as_text
from carpk.inference.nuts import prior_draws
from carpk.library.texts import digest_of
from carpk.population.random_effects import eta_name


def made(population, data, settings=SETTINGS):
    """A fit of draws from the priors: cheap, and as complete as any."""
    bound = population.bind(data)
    shape, rng = (2, 50), np.random.default_rng(0)
    prior = prior_draws(bound.priors, 100, seed=1)
    samples = {k: x.reshape(*shape, *x.shape[1:]) for k, x in prior.items()}
    for name, levels in population.variability_levels.items():
        for level in levels:
            size = {"patient": len(bound.patients), "cohort": len(bound.clusters)}[level]
            samples[eta_name(name, level)] = 0.1 * rng.normal(size=(*shape, size))
    stats = {"energy": rng.normal(size=shape), "diverging": np.zeros(shape, bool)}
    stats["reached_max_treedepth"] = np.zeros(shape, bool)
    return assemble(bound, samples, stats, dict(settings))


@pytest.fixture(scope="module")
def fit():
    return made(PIECEWISE, decaying(3, lloq=2.0))


@pytest.fixture(scope="module")
def content(fit, tmp_path_factory):
    return fit.save(tmp_path_factory.mktemp("saved") / "fit.nc").read_bytes()


@pytest.fixture
def path(content, tmp_path):
    (tmp_path / "fit.nc").write_bytes(content)
    return tmp_path / "fit.nc"


def same_fit(back, fit):
    for name in fit.posterior.data_vars:
        np.testing.assert_array_equal(back.posterior[name], fit.posterior[name])
    assert back.verdict == fit.verdict
    assert back.settings == fit.settings
    assert back.data.name == fit.data.name
    pd.testing.assert_frame_equal(back.summary(), fit.summary())
    pd.testing.assert_frame_equal(back.effects(), fit.effects())
    assert repr(back) == repr(fit)
    for name in storage.TABLES:
        pd.testing.assert_frame_equal(getattr(back.data, name), getattr(fit.data, name))
    assert storage.data_hash(back.data) == storage.data_hash(fit.data)
    one, other = fit.draws(10), back.draws(10)
    assert list(one) == list(other)


class TestAFit:
    def test_comes_back_whole(self, fit, path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = ck.load_fit(path)
        same_fit(back, fit)
        assert type(back) is ck.Fit
        assert back.population.model == fit.population.model
        same = storage.encode_population(back.population)
        assert same == storage.encode_population(fit.population)
        same_fit(ck.load_fit(back.save(path.with_name("again.nc"))), fit)

    def test_is_a_file_that_xarray_and_arviz_open(self, fit, path):
        import arviz

        for source in (path, path.with_name("copy.nc")):
            if source != path:
                shutil.copy(path, source)
            with xr.open_datatree(source, engine="h5netcdf") as tree:
                np.testing.assert_array_equal(tree["posterior"]["cmax"], fit.posterior["cmax"])
                assert "sigma" in tree["prior"]
        assert "posterior" in repr(arviz.from_netcdf(path))

    def test_is_refused_after_any_flipped_byte(self, path):
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        places = {*rng.integers(len(content), size=200).tolist(), 0, len(content) - 1}
        places |= set(range(len(content) - saving.SEALED, len(content)))
        for place in places:
            bad = bytearray(content)
            bad[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            with pytest.raises(ck.FitError, match="damaged"):
                ck.load_fit(path)

    @pytest.mark.parametrize("size", [0, 1, 100, 0.5, -1, -80])
    def test_is_refused_where_it_is_cut_off(self, path, size):
        content = path.read_bytes()
        size = int(size * len(content)) if isinstance(size, float) else size
        path.write_bytes(content[:size])
        with pytest.raises(ck.FitError, match="damaged"):
            ck.load_fit(path)

    def test_is_refused_where_it_is_no_fit_of_this_version(self, path, tmp_path):
        with pytest.raises(ck.FitError, match="no file"):
            ck.load_fit(tmp_path / "none.nc")
        with pytest.raises(ck.FitError, match="cannot be read"):
            ck.load_fit(tmp_path)
        (tmp_path / "text.nc").write_text("not a fit")
        with pytest.raises(ck.FitError, match=r"Fit\.save did not write it"):
            ck.load_fit(tmp_path / "text.nc")
        other = netcdf({"posterior": xr.Dataset({"x": ("draw", [1.0])})})
        (tmp_path / "other.nc").write_bytes(other + saving.SEAL + saving.sha256_of(other) + b"\n")
        with pytest.raises(ck.FitError, match=r"not written by carpk's Fit\.save"):
            ck.load_fit(tmp_path / "other.nc")
        rewrite(path, lambda spec: spec.update(schema=saving.SCHEMA + 1))
        with pytest.raises(ck.FitError, match=r"has the form 3 .* reads form 2.* newer one"):
            ck.load_fit(path)
        rewrite(path, lambda spec: (spec.update(schema=saving.SCHEMA), spec.pop("verdict")))
        with pytest.raises(ck.FitError, match=r"does not read \('verdict'\)"):
            ck.load_fit(path)


def rewrite(path, change):
    """Change what carpk keeps beside the draws, with a right checksum: a crafted file."""
    content = path.read_bytes()[: -saving.SEALED]
    idata = idata_of(content)
    sets = {name: group(idata, name) for name in groups(idata)}
    spec = json.loads(sets["posterior"].attrs["carpk"])
    change(spec)
    sets["posterior"].attrs["carpk"] = json.dumps(spec)
    content = netcdf(sets)
    path.write_bytes(content + saving.SEAL + saving.sha256_of(content) + b"\n")


MINE = '''
"""A model of my own."""

import jax.numpy as jnp
import carpk as ck
from carpk.models import piecewise
{more}
open({trace!r}, "a").write("ran ")

class Params(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0")
    halve: ck.Scalar = ck.param({halve}, "day", "half-life")

def build(turn: float = 1.0):
    return ck.ClosedForm(
        name="mine",
        params=Params,
        outputs={{"car_t": lambda t, p: turn * p.base * jnp.exp(-jnp.log(2) * t / p.halve)}},
        units={{"car_t": "cells/µL"}},
    )
'''


class Own:
    """A model file of the user's own, which says when it is run."""

    def __init__(self, folder):
        self.path, self.trace = folder / "mine.py", folder / "trace.txt"
        self.write()

    def write(self, halve=7.0, more=""):
        self.path.write_text(MINE.format(trace=str(self.trace), halve=halve, more=more))

    def ran(self):
        text = self.trace.read_text() if self.trace.exists() else ""
        self.trace.unlink(missing_ok=True)
        return text.count("ran")


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path)


def through_a_file(model):
    return json.loads(json.dumps(storage.encode_model(model)))


class TestModelsOfTheLibrary:
    @pytest.mark.parametrize("name", ck.list_models())
    def test_are_loaded_by_name_while_their_files_are_the_same(self, name):
        model = ck.load_model(name)
        assert storage.decode_model(through_a_file(model)) == model
        assert f"models/{name}.py" in model.files

    def test_keep_their_options_and_their_dose_effect(self):
        model = ck.load_model("stein2019", omega_is="variance").with_dose_effect(0.3, 1e8)
        back = storage.decode_model(through_a_file(model))
        assert back.origin == model.origin
        assert back.dose_effect == model.dose_effect

    def test_come_with_every_file_that_they_import(self):
        files = ck.load_model("niche").files
        more = ("niche", "_niche_parts", "kimmel2021", "ahamadi2017", "langenhorst2019")
        assert {f"models/{name}.py" for name in more} < set(files)
        assert "models/niche_posterior.csv" in files

    @pytest.mark.parametrize("changed", ["models/stein2019.py", "models/piecewise.py"])
    def test_that_have_changed_are_named_and_run_only_on_trust(self, changed):
        """The file, or one that it imports."""
        spec = through_a_file(ck.load_model("stein2019"))
        spec["files"][changed] += "\nCHANGED = True\n"
        with pytest.raises(Untrusted, match=rf"\({changed} differs\).*model=ck\.load_model"):
            storage.decode_model(spec)
        back = storage.decode_model(spec, trust=True)
        assert back.files == spec["files"]
        assert back.params().cmax == ck.load_model("stein2019").params().cmax
        module = sys.modules[f"carpk.{changed.removesuffix('.py').replace('/', '.')}"]
        assert not hasattr(module, "CHANGED")
        assert ck.load_model("stein2019").files != back.files
        assert pickle.loads(pickle.dumps(back)) == back

    def test_that_were_removed_are_kept(self, monkeypatch):
        spec = through_a_file(ck.load_model("ogasawara2021"))
        monkeypatch.setattr(storage, "list_models", list)
        with pytest.raises(Untrusted, match="not there any more"):
            storage.decode_model(spec)
        assert storage.decode_model(spec, trust=True).files == spec["files"]


class TestModelsOfTheUser:
    @pytest.mark.parametrize("after", ["same", "changed", "gone"])
    def test_are_run_only_on_trust_and_as_they_were(self, own, after):
        model = ck.load_model(own.path, turn=2.0)
        spec = through_a_file(model)
        own.ran()
        if after == "changed":
            own.write(halve=3.0)
        elif after == "gone":
            own.path.unlink()
        words = {"same": "still as it was", "changed": "changed since", "gone": "not there"}
        with pytest.raises(Untrusted, match=rf"mine\.py.*{words[after]}"):
            storage.decode_model(spec)
        assert not own.ran()
        back = storage.decode_model(spec, trust=True)
        assert back.params().halve == 7.0
        assert float(back.outputs["car_t"](0.0, back.params())) == 20.0
        assert back.files == model.files
        assert "models/piecewise.py" in back.files

    def test_come_with_modules_and_tables_of_their_folder(self, own, monkeypatch):
        monkeypatch.syspath_prepend(own.path.parent)
        (own.path.parent / "my_parts.py").write_text("import my_more\nTWO = my_more.ONE + 1\n")
        (own.path.parent / "my_more.py").write_text("ONE = 1\n")
        (own.path.parent / "table.csv").write_text("a\n1\n")
        (own.path.parent / "image.bin").write_bytes(b"\xff\xfe")
        own.write(more='from my_parts import TWO\nTABLES = ["table.csv", "image.bin", "none.csv"]')
        model = ck.load_model(own.path)
        mine = {"mine.py", "my_parts.py", "my_more.py", "table.csv", "image.bin"}
        assert mine == {name for name in model.files if not name.startswith("models/")}
        assert model.files["table.csv"] == "a\n1\n"
        assert model.files["image.bin"].startswith("2 bytes, SHA-256")
        spec = through_a_file(model)
        for name in ("my_parts.py", "my_more.py"):
            (own.path.parent / name).write_text("raise RuntimeError\n")
        assert storage.decode_model(spec, trust=True).params().base == 10.0

    def test_in_sbml_are_read_again_since_they_are_no_code(self, tmp_path):
        pytest.importorskip("libsbml")
        path = tmp_path / "model.xml"
        path.write_text(DECAY)
        model = ck.load_model(path)
        spec = through_a_file(model)
        path.unlink()
        back = storage.decode_model(spec)
        assert back.params().describe().equals(model.params().describe())
        assert back.files == model.files

    def test_made_in_a_session_or_changed_after_loading_must_be_given(self, own):
        for model, why in (
            (LINEAR, "not loaded with"),
            (dataclasses.replace(ck.load_model("piecewise"), product="x"), r"changed.*\(product\)"),
            (dataclasses.replace(ck.load_model(own.path), derived={}, name="x"), r"\(name\)"),
        ):
            with pytest.raises(Unreadable, match=f"{why}.*`model=`"):
                storage.decode_model(through_a_file(model), trust=True)


DECAY = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version1/core" level="3" version="1">
  <model id="decay" timeUnits="second">
    <listOfCompartments><compartment id="v" size="1" constant="true"/></listOfCompartments>
    <listOfSpecies>
      <species id="C" compartment="v" initialConcentration="5" hasOnlySubstanceUnits="false"
        boundaryCondition="false" constant="false"/>
    </listOfSpecies>
    <listOfParameters><parameter id="k" value="0.1" constant="true"/></listOfParameters>
    <listOfRules>
      <rateRule variable="C"><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/>
        <apply><minus/><ci>k</ci></apply><ci>C</ci></apply></math></rateRule>
    </listOfRules>
  </model>
</sbml>
"""
SCALE = 2.0


@dataclasses.dataclass(frozen=True)
class Wide(ck.assay.Residual):
    """Log-normal, with a constant of this file."""

    names = ("sigma",)
    wider: float = 1.0

    def standardize(self, y, f, theta):
        sd = theta["sigma"] * SCALE * self.wider
        return (jnp.log(y) - jnp.log(f)) / sd, jnp.log(sd * y)

    def sample(self, z, f, theta):
        return f * jnp.exp(SCALE * self.wider * theta["sigma"] * z)

    def priors(self):
        return {"sigma": dist.LogNormal(-1.0, 0.5)}


class Doubled(dist.LogNormal):
    """A prior of the user's own."""


RESIDUALS = {
    "log-normal": ck.LogNormal(),
    "proportional": ck.Proportional(),
    "combined": ck.Combined(),
    "additive": ck.Additive(typical_add=3.0),
    "power": ck.Power(0.5),
    "own": Wide(wider=0.1 + 0.2),
}


def there_and_back(population, **how):
    spec = json.loads(json.dumps(storage.encode_population(population)))
    return storage.decode_population(spec, population.model, **how)


class TestPopulations:
    @pytest.mark.parametrize("name", RESIDUALS)
    @pytest.mark.parametrize("several", [False, True])
    def test_keep_their_residual_models(self, name, several):
        residual, model = RESIDUALS[name], ck.load_model("kimmel2021")
        if several:
            residual = {"car_t": residual, "tumor": ck.LogNormal()}
        analytes = ["car_t", "tumor"] if several else []
        population = ck.Population(model, residual=residual, analytes=analytes)
        if name == "own":
            with pytest.raises(Untrusted, match=r"residual.*'Wide'.*`trust=True`"):
                there_and_back(population)
        back = there_and_back(population, trust=True)
        assert repr(back.residual) == repr(population.residual)
        theta = {"sigma": 0.3, "sigma_prop": 0.2, "sigma_add": 0.1, "sigma_pow": 0.4}
        one, other = (
            p.residual_of("car_t").standardize(2.0, 3.0, theta) for p in (population, back)
        )
        assert one == other

    def test_keep_everything_else(self):
        regimen = ck.Regimen((ck.Reset(1.0), ck.Multiply(2.0, 0.1, "N"), ck.Replace(3.0, 1.0, "C")))
        population = ck.Population(
            ck.load_model("kimmel2021"),
            varies={"rN": ["cohort", "patient"], "rB": "patient"},
            correlated=["rN", "rB"],
            covariates={"rN": {"weight": "power"}, "rB": ["arm"]},
            fixed={"KN": 1e-11},
            analytes={"cells": "car_t"},
            virtual_patients=32,
            summary_dependence=False,
            regimens={"a": regimen + ck.Regimen.lymphodepletion("Flu") + ck.Regimen.cells()},
            rtol=1e-5,
            priors={"correlation": dist.LKJ(2, 3.0), "beta_rB_arm": dist.Normal(0.0, 0.5)},
        )
        back = there_and_back(population)
        for field in dataclasses.fields(population):
            one, other = (getattr(p, field.name) for p in (population, back))
            if field.name == "priors":
                one, other = (storage.CODEC.encode(x) for x in (one, other))
            elif field.name == "varies":
                one, other = population.variability_levels, back.variability_levels
            elif field.name == "covariates":
                one, other = ({k: p.forms(k) for k in one} for p in (population, back))
            assert one == other, field.name

    def test_keep_priors_that_were_defaults_where_those_change(self, monkeypatch):
        population = ck.Population(ck.load_model("piecewise"), varies=["cmax"])
        spec = storage.encode_population(population)
        monkeypatch.setattr("carpk.population.population.OMEGA_SD", 0.9)
        back = storage.decode_population(spec, population.model)
        assert set(back.priors) == {"omega_cmax"}
        assert back.priors["omega_cmax"].scale == 0.5
        monkeypatch.undo()
        assert not storage.decode_population(spec, population.model).priors

    def test_name_what_a_file_cannot_hold(self):
        odd = type("Odd", (dist.LogNormal,), {})(0.0, 1.0)
        population = dataclasses.replace(PIECEWISE, priors={"cmax": odd})
        spec = storage.encode_population(population)
        assert [place for place, _ in kept_as_text(spec)] == ["priors.cmax"]
        with pytest.raises(Unreadable, match=r"the prior of 'cmax'.*`population=pop`"):
            storage.decode_population(spec, population.model, trust=True)

    def test_a_prior_of_the_users_own_is_run_only_on_trust(self):
        population = dataclasses.replace(PIECEWISE, priors={"cmax": Doubled(3.9, 1.0)})
        with pytest.raises(Untrusted, match=r"the prior of 'cmax'.*`trust=True`"):
            there_and_back(population)
        assert there_and_back(population, trust=True).priors["cmax"].loc == 3.9


def data_of(values, **more):
    names = [f"p{i}" for i in range(len(values))]
    doses = pd.DataFrame(
        {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    )
    seen = pd.DataFrame(
        {"patient": names, "time": 1 / 3, "analyte": "x", "value": values, "unit": "M"}
    )
    return ck.Dataset.from_frames(
        patients=pd.DataFrame({"patient": names, **more}), doses=doses, observations=seen
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"age": [1.0, np.nan, 1e-11]},
        {"arm": ["a", "nan", ""]},
        {"male": [True, False, True]},
        {"count": [1, 2, 3]},
        {"mixed": pd.Series(["1", 1, None], dtype=object)},
    ],
    ids=str,
)
def test_data_come_back_exactly(more):
    data = data_of([1.23456789e-11, 1 / 3, 6.02214076e23], **more)
    data = dataclasses.replace(data, about={"when": pd.Timestamp("2026-01-01"), "n": (1, None)})
    back = storage.decode_data(json.loads(json.dumps(storage.encode_data(data))))
    for name in storage.TABLES:
        pd.testing.assert_frame_equal(getattr(back, name), getattr(data, name))
    assert storage.data_hash(back) == storage.data_hash(data)
    assert (back.name, back.sampling, back.notes, back.about) == (
        *(data.name, data.sampling, data.notes, data.about),
    )


@pytest.mark.parametrize("table", ["observations", "doses"])
def test_the_hash_of_data_sees_the_last_bit(table):
    data = data_of([1e-11, 1 / 3])
    column = "value" if table == "observations" else "amount"
    frame = getattr(data, table).copy()
    frame.loc[1, column] = np.nextafter(frame.loc[1, column], 1)
    assert storage.data_hash(dataclasses.replace(data, **{table: frame})) != storage.data_hash(data)


@pytest.fixture(scope="module")
def own_fit(tmp_path_factory):
    own = Own(tmp_path_factory.mktemp("own"))
    population = ck.Population(ck.load_model(own.path), varies=["base"])
    return own, made(population, decaying(3))


class TestWithoutAModel:
    @pytest.fixture
    def gone(self, own_fit, tmp_path):
        own, fit = own_fit
        path = fit.save(tmp_path / "fit.nc")
        own.ran()
        with pytest.warns(ck.CarpkWarning, match=r"without its population model.*mine\.py"):
            back = ck.load_fit(path)
        assert not own.ran()
        return path, fit, back

    def test_draws_tables_data_and_verdict_are_there(self, gone):
        path, fit, back = gone
        same_fit(back, fit)
        assert isinstance(back, ck.Fit)
        assert back.ok == fit.ok
        with pytest.warns(ck.CarpkWarning):
            again = ck.load_fit(back.save(path.with_name("again.nc")))
        same_fit(again, fit)
        trusted = ck.load_fit(path, trust=True)
        assert type(trusted) is ck.Fit
        same_fit(trusted, fit)

    def test_what_needs_the_equations_refuses_in_a_sentence(self, gone):
        _, _, back = gone
        arms = {"once": {}, "again": {}}
        needs = {
            "simulate": lambda: ck.simulate(back, ck.Regimen.cells(), [0.0, 1.0]),
            "compare": lambda: ck.compare(back, arms, ["cmax"]),
            "plot": back.plot,
            "bound": lambda: back.bound,
            "model": lambda: back.population.model,
            **{
                name: lambda name=name: getattr(ck.checks, name)(back)
                for name in (
                    *("gof", "npde", "vpc", "loo", "sensitivity", "shrinkage", "solver_error"),
                    "posterior_predictive",
                )
            },
            **{
                name: lambda name=name: getattr(ck.plot, name)(back)
                for name in ("fit", "prior_posterior", "individual_fits", "eta_covariates")
            },
            "recovery": lambda: ck.checks.recovery(back.population, back.data),
            "pickle": lambda: pickle.dumps(back.population.priors),
        }
        for call in needs.values():
            with pytest.raises(ck.FitError, match="without its population model"):
                call()

    def test_its_text_names_the_interval_that_its_table_has(self, gone):
        _, fit, back = gone
        assert "eti90_low" in back.summary()
        with ck.options(interval_prob=0.8):
            assert "90 % equal-tailed" in repr(back)
            assert "80 % equal-tailed" in repr(fit)

    def test_a_population_or_a_model_may_be_given(self, gone, own_fit):
        path, fit, _ = gone
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ck.load_fit(path, population=fit.population).population is fit.population
            assert ck.load_fit(path, model=fit.population.model).population.model.name == "mine"
        with pytest.raises(ck.FitError, match="`population` or `model`"):
            ck.load_fit(path, fit.population, model=fit.population.model)
        with pytest.raises(ck.ModelError, match="'base'"):
            ck.load_fit(path, model=ck.load_model("piecewise"))

    def test_another_population_than_the_one_fitted_is_told(self, gone, own_fit):
        path, fit, _ = gone
        own, population = own_fit[0], fit.population
        own.write(halve=3.0)
        try:
            others = {
                r"model\.files\.mine\.py": {"model": ck.load_model(own.path)},
                r"model\.options\.turn": {"model": ck.load_model(own.path, turn=2.0)},
                r"priors\.base": {
                    "population": dataclasses.replace(
                        population, priors={"base": dist.LogNormal(1, 1)}
                    )
                },
                r"rtol": {"population": dataclasses.replace(population, rtol=1e-5)},
            }
        finally:
            own.write()
        for differs, how in others.items():
            with pytest.warns(ck.CarpkWarning, match=f"not the one whose fit.*{differs}.* differ"):
                ck.load_fit(path, **how)


def test_a_crafted_file_runs_nothing(content, path, tmp_path):
    """Names of models, options, classes and code: all are text until told otherwise."""
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').write('ran')"
    evil = tmp_path / "evil.py"
    evil.write_text(code)
    mine = {"name": str(evil), "options": {}}
    prior = {"$": "numpyro", "class": "X", "source": code, "data": {}, "static": {}}
    crafts = [
        lambda s: s["model"].update(origin=mine, files={"evil.py": code}),
        lambda s: s["model"].update(origin={"name": "../../evil", "options": {}}),
        lambda s: s["model"]["files"].update({"models/piecewise.py": code}),
        lambda s: s["model"].update(files={"models/piecewise.py": code}),
        lambda s: s["population"].update(residual={"$": "object", "class": "X", "source": code}),
        lambda s: s["population"].update(residual={"$": "object", "class": "copies", "fields": {}}),
        lambda s: s["population"]["priors"].update(cmax=prior),
        lambda s: s["population"].update(evil=1),
    ]
    _, spec = loading.read(path)
    for craft in crafts:
        crafted = copy.deepcopy(spec)
        craft(crafted)
        with pytest.raises(ck.CarpkError):
            loading._population(crafted, None, None, trust=False)
    rewrite(path, crafts[0])
    with pytest.warns(ck.CarpkWarning, match="without its population model"):
        ck.load_fit(path)
    for craft in (
        lambda s: s["data"].update(name={"$": "object", "class": "X", "source": code}),
        lambda s: s["verdict"].update({"class": "Popen"}),
        lambda s: s["settings"].update(x={"$": "exec", "class": "X"}),
    ):
        path.write_bytes(content)
        rewrite(path, craft)
        with pytest.raises(ck.FitError, match="does not read"):
            ck.load_fit(path)
    assert not trace.exists()


def test_a_save_that_is_interrupted_leaves_the_old_file_whole(fit, path, monkeypatch):
    before = path.read_bytes()
    for trouble, told in (
        (KeyboardInterrupt, KeyboardInterrupt),
        (OSError(28, "full"), ck.SaveError),
    ):
        for place in ((os, "fsync"), (Path, "replace"), (saving, "netcdf")):
            if place[1] == "netcdf" and trouble is not KeyboardInterrupt:
                continue

            def interrupted(*_, trouble=trouble):
                raise trouble

            with monkeypatch.context() as patch:
                patch.setattr(*place, interrupted)
                with pytest.raises(told):
                    fit.save(path)
            assert path.read_bytes() == before
            assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saving_tells_what_the_file_cannot_hold(tmp_path):
    population = ck.Population(LINEAR, varies=["base"], fixed={"halve": 10.0})
    with pytest.warns(ck.CarpkWarning, match="as text only: the structural model 'decay'"):
        path = made(population, decaying(3)).save(tmp_path / "fit.nc")
    with pytest.warns(ck.CarpkWarning, match=r"'decay' was not loaded.*`model=`"):
        ck.load_fit(path)
    assert ck.load_fit(path, model=LINEAR).population.model is LINEAR


def test_a_model_has_one_text_while_it_is_in_use(tmp_path):
    """Files are read when a model is loaded, not when a fit is saved."""
    own = Own(tmp_path)
    model = ck.load_model(own.path)
    own.write(halve=3.0)
    assert "param(7.0" in model.files["mine.py"]
    assert digest_of(model.files) != digest_of(ck.load_model(own.path).files)
    assert not textwrap.dedent(model.files["mine.py"]).startswith(" ")
