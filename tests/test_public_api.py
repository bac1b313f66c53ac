"""The public names fit on one screen, and each says what it is."""

import inspect
import types

import pytest

import carpk as ck

NAMES = [
    *("Params", "Scalar", "param", "covariate", "States", "state", "ClosedForm", "ODEModel"),
    *("Target", "Disposition", "solve", "Solution"),
    *("Bolus", "Infusion", "Reset", "Replace", "Multiply", "Regimen"),
    *("LogNormal", "StudentT", "Additive", "Proportional", "Combined", "Power"),
    *("Dataset", "Study", "Population", "Fit", "Simulation", "Comparison"),
    *("list_models", "list_studies", "load_model", "load_study", "load_dataset", "load_fit"),
    *("fit", "rerun", "simulate", "compare", "exposure", "options"),
]
MODULES = ["assay", "body", "checks", "dosing", "evidence", "nca", "plot"]
ERRORS = ["CarpkError", "CarpkWarning", "DatasetError", "FitError", "ModelError", "RegimenError"]
ERRORS += ["SaveError"]


def test_the_public_names_are_these():
    """Modules reach `dir` by being imported; those in MODULES are meant to be used."""
    names = {n for n in dir(ck) if not n.startswith("_")}
    found = {n for n in names if not isinstance(getattr(ck, n), types.ModuleType)}
    assert found == set(NAMES) | set(ERRORS)
    assert len(NAMES) + len(MODULES) <= 49
    assert all(isinstance(getattr(ck, n), types.ModuleType) for n in MODULES)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "Scalar"] + ERRORS + MODULES)
def test_every_public_name_has_a_docstring_of_its_own(name):
    doc = getattr(ck, name).__doc__ or ""
    assert len(inspect.cleandoc(doc).splitlines()[0]) > 15
    assert not doc.startswith(f"{name}("), "made by dataclass, not written"


@pytest.mark.parametrize(
    "name",
    [
        "Params",
        "States",
        "ClosedForm",
        "ODEModel",
        "Regimen",
        "Solution",
        "Fit",
        "Simulation",
        "Comparison",
    ],
)
def test_every_public_method_has_a_docstring(name):
    cls = getattr(ck, name)
    silent = [
        key
        for key, member in vars(cls).items()
        if not key.startswith("_")
        and isinstance(member, types.FunctionType | classmethod | property)
        and not inspect.getdoc(member)
    ]
    assert silent == [] or (name, silent) in [("Fit", ["posterior"]), ("Simulation", ["outputs"])]


def test_every_refusal_is_a_carpk_error_and_a_value_error():
    for name in ERRORS:
        kind = getattr(ck, name)
        base = UserWarning if name == "CarpkWarning" else ck.CarpkError
        assert issubclass(kind, base)
    assert issubclass(ck.CarpkError, ValueError)
