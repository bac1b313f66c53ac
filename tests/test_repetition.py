"""A fit, repeated: bit-equal, equal within Monte Carlo error, or different; what has changed."""

import json

import numpy as np
import pytest
from conjugate import SETTINGS
from hierarchies import decaying
from test_saved import Own, made, rewrite

import carpk as ck
from carpk import cli
from carpk._arviz import group, groups, idata_of, netcdf
from carpk.inference import repetition, saving
from carpk.inference.repetition import BIT_EQUAL, DIFFERENT, EQUAL

HOW = {"draws": 100, "chains": 2, "starts": 1, "progress": False}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return Own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def fits(own):
    """method -> fit; that of "nuts" is not sampled."""
    population, data = ck.Population(ck.load_model(own.path), varies=["base"]), decaying(3)
    found = {
        method: ck.fit(population, data, method=method, **HOW) for method in ("laplace", "map")
    }
    same = {name: found["map"].settings[name] for name in ("machine", "float64", "data_sha256")}
    return found | {"nuts": made(population, data, SETTINGS | same)}


@pytest.fixture
def repeated(fits, monkeypatch):
    """Repetitions give the fit that was saved, without work."""
    monkeypatch.setattr(
        repetition, "fit_bound", lambda bound, settings, **_: fits[settings["method"]]
    )


@pytest.fixture(scope="module")
def contents(fits, tmp_path_factory):
    """method -> content of its file."""
    folder = tmp_path_factory.mktemp("saved")
    return {name: fit.save(folder / f"{name}.nc").read_bytes() for name, fit in fits.items()}


@pytest.fixture
def path_of(contents, tmp_path):
    def written(method, change=None, draws=None):
        path = tmp_path / "fit.nc"
        path.write_bytes(contents[method])
        if draws is not None:
            content = path.read_bytes()[: -saving.SEALED]
            idata = idata_of(content)
            sets = {name: group(idata, name) for name in groups(idata)}
            sets["posterior"] = draws(sets["posterior"])
            content = netcdf(sets)
            path.write_bytes(content + saving.SEAL + saving.sha256_of(content) + b"\n")
        if change is not None:
            rewrite(path, change)
        return path

    return written


@pytest.mark.parametrize("method", ["laplace", "map"])
def test_the_same_fit_is_bit_equal(path_of, method):
    result = ck.rerun(path_of(method), trust=True, progress=False)
    assert result.grade == BIT_EQUAL
    assert result.ok
    assert result.changed == ()
    assert repr(result).startswith("BIT-EQUAL.")
    assert "nothing: the same versions" in repr(result)


def moved(by):
    """The population's draws shifted by a share of their SD."""

    def change(posterior):
        base = posterior["base"]
        return posterior.assign(base=base + by * base.std()).assign_attrs(posterior.attrs)

    return change


@pytest.mark.parametrize(
    ("method", "by", "grade"),
    [
        ("nuts", 0.02, EQUAL),
        ("nuts", 3.0, DIFFERENT),
        ("laplace", 0.02, EQUAL),
        ("laplace", 3.0, DIFFERENT),
    ],
)
def test_other_draws_are_compared_with_their_monte_carlo_error(
    repeated, path_of, method, by, grade
):
    result = ck.rerun(path_of(method, draws=moved(by)), trust=True, progress=False)
    assert result.grade == grade
    assert result.ok == (grade == EQUAL)
    assert result.different == ([] if grade == EQUAL else ["base"])
    assert "farthest apart is base" in repr(result)


@pytest.mark.parametrize(("by", "grade"), [(1e-5, EQUAL), (0.1, DIFFERENT)])
def test_modes_are_compared_as_numbers(repeated, path_of, by, grade):
    result = ck.rerun(path_of("map", draws=lambda p: p * (1 + by)), trust=True, progress=False)
    assert result.grade == grade
    assert "of the value" in repr(result)


def test_a_fit_that_was_stopped_is_compared_with_the_first_draws(repeated, path_of):
    def stop(spec):
        spec["settings"]["interrupted"] = True

    first = {"draws": lambda p: p.isel(draw=slice(30))}
    assert ck.rerun(path_of("nuts", stop, **first), trust=True).grade == BIT_EQUAL
    assert ck.rerun(path_of("nuts", **first), trust=True).grade == EQUAL


def test_what_has_changed_is_named(repeated, path_of):
    def older(spec):
        spec["written by"] |= {"jax": "0.6.0", "cpu": "another"}
        spec["model"]["identity"]["files"]["models/piecewise.py"] = "0"

    result = ck.rerun(path_of("map", older), trust=True, progress=False)
    assert result.grade == BIT_EQUAL
    told = "; ".join(result.changed)
    assert "jax 0.6.0 -> " in told
    assert "cpu another -> " in told
    assert "model 'mine': models/piecewise.py differs" in told


def test_the_shell_repeats_a_fit(repeated, path_of, own, tmp_path, monkeypatch, capsys):
    """Exit codes: 0 the same, 3 different, 1 no model."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["carpk", "rerun", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    path = path_of("map")
    code, out, err = call(path)
    assert (code, out) == (1, "")
    assert err.startswith("carpk: rerun: ")
    assert "--trust" in err
    out_folder = tmp_path / "out"
    code, out, _ = call(path, "--model", own.path, "--out", out_folder, "--json")
    assert code == 0
    assert json.loads(out)["grade"] == BIT_EQUAL
    again = ck.load_fit(out_folder / "fit.nc", trust=True)
    np.testing.assert_array_equal(
        again.posterior["base"], ck.load_fit(path, trust=True).posterior["base"]
    )
    code, out, _ = call(path_of("map", draws=lambda p: 2 * p), "--trust")
    assert code == 3
    assert out.startswith("DIFFERENT in base")
