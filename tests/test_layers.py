"""Imports go one way, and one module knows each heavy dependency."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "carpk"
LAYERS = (  # a module imports from layers before its own only
    ("errors", "models", "compiled", "advice"),
    ("body", "atomic", "custom", "student"),
    ("encoding",),
    ("params", "dosing", "nca", "assay", "disposition"),
    ("structural",),
    ("events",),
    ("routes",),
    ("mesh",),
    ("solver",),
    ("dataset",),
    ("studies",),
    ("sbml",),
    ("library",),
    ("catalogue", "exposure"),
    ("levels", "summaries", "effects"),
    ("population",),
    ("posterior", "storage", "replicates", "_arviz", "blocks"),
    ("accuracy",),
    ("laplace", "sampler", "surprises"),
    ("importance", "ridges"),
    ("verdict",),
    ("cure",),
    ("inference",),
    ("information", "saved"),
    ("repetition",),
    ("simulation", "checks"),
    ("evidence",),
    ("comparison",),
    ("plot",),
    ("demo",),
)
TOP = {"cli"}  # uses the public names, as any user does
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OWNERS = {  # dependency -> the only modules that may import it, anywhere in the file
    "matplotlib": {"plot", "demo", "cli"},
    "numpyro.infer": {"sampler"},
    "arviz": {"_arviz"},
    "tqdm": {"sampler"},
    "typer": {"cli"},
    "equinox": {"params", "dosing", "disposition", "structural"},
    "diffrax": {"routes"},
    "libsbml": {"sbml"},
    "xarray": {
        "_arviz",
        "cure",
        "inference",
        "verdict",
        "simulation",
        "checks",
        "evidence",
        "comparison",
    },
}
MODULES = sorted(p.stem if p.suffix else p.name for p in PACKAGE.iterdir() if p.name[0] != ".")
MODULES = [m for m in MODULES if m not in {"__init__", "__pycache__", "_data"}]


def files(module):
    folder = PACKAGE / module
    return sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(nodes):
    """Dotted names of everything imported by these statements."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree):
    """Statements that run when the module is imported: not in functions, not for type checkers."""
    for node in tree.body:
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not checking and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from ast.walk(node)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_layers_below_it(module):
    assert module in LEVEL or module in TOP, f"give {module!r} a place in LAYERS"
    for path in files(module):
        for name in imported(at_import(ast.parse(path.read_text(encoding="utf-8")))):
            head, _, rest = name.partition(".")
            if head != "carpk" or module in TOP:
                continue
            other = rest.split(".")[0]
            assert other in LEVEL, f"{path.name} imports {name}: name the module it comes from"
            inside = other == module and len(files(module)) > 1
            assert inside or LEVEL[other] < LEVEL[module], f"{path.name} imports {name}"


@pytest.mark.parametrize("dependency", OWNERS)
def test_a_heavy_dependency_is_known_to_few(dependency):
    users = set()
    for module in MODULES:
        for path in files(module):
            names = imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            if any(f"{n}.".startswith(f"{dependency}.") for n in names):
                users.add(module)
    assert users <= OWNERS[dependency]
    assert users, f"nobody imports {dependency}; take it out of OWNERS"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parent / "models").glob("*.py")), ids=lambda p: p.stem
)
def test_a_model_file_needs_only_carpks_public_names(path):
    for name in imported(ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        public = name == "carpk" or name.startswith("carpk.models.")
        known = {"jax", "jaxtyping", "numpy", *sys.stdlib_module_names}
        assert public or name.split(".")[0] in known, name
