"""The wheel holds models and studies and needs no checkout; a checkout needs no installation."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import carpk as ck

print(ck.__file__)
print(" ".join(ck.list_models()))
print(" ".join(ck.list_studies()))
for name in ck.list_models():
    assert ck.load_model(name).describe()["source"].all(), name
for name in ck.list_studies():
    assert not ck.load_study(name).dataset().summaries.empty, name
print(ck.load_study("zuma1_moffitt"))
"""


def use_from(path: Path, elsewhere: Path) -> list[str]:
    """Use carpk found at `path` alone, in a process started in another folder."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=elsewhere,
        env=environment | {"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def contents() -> tuple[list[str], list[str]]:
    models = sorted(path.stem for path in (ROOT / "models").glob("[!_]*.py"))
    return models, sorted(path.parent.name for path in (ROOT / "data").glob("*/about.toml"))


@pytest.mark.slow
def test_a_bare_checkout_works_from_anywhere(tmp_path):
    file, models, studies, *printed = use_from(ROOT, tmp_path)
    assert Path(file) == ROOT / "carpk" / "__init__.py"
    assert (models.split(), studies.split()) == contents()
    assert "10.1098/rspb.2021.0229" in "\n".join(printed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(folder)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("carpk-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_model_and_every_study(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "models").glob("*.py"):
        assert f"carpk/models/{file.name}" in names
    for file in (ROOT / "data").glob("*/*.*"):
        assert f"carpk/_data/{file.parent.name}/{file.name}" in names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "benchmarks/"))]
    assert not [name for name in names if name.endswith((".pyc", ".ipynb"))]


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run(
        [*command, "--target", str(target), str(wheel)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    file, models, studies, *printed = use_from(target, elsewhere)
    assert Path(file) == target / "carpk" / "__init__.py"
    assert (models.split(), studies.split()) == contents()
    assert "10.1098/rspb.2021.0229" in "\n".join(printed)
