"""Imports go one way, one room knows each heavy dependency, and importing carpk loads little."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "carpk"
FLOORS = (  # a room imports from floors below its own only
    ("errors", "models", "_arviz", "_compile", "_late", "_tables", "_types"),
    ("params", "dosing", "assay", "_files", "_options"),
    ("structural", "dataset", "nca"),
    ("solver", "sbml", "summaries"),
    ("library", "population"),
    ("verdict", "exposures", "disposition"),
    ("inference", "information"),
    ("simulation", "checks"),
    ("comparison", "evidence"),
    ("plot",),
)
TOP = {"cli", "demo"}  # what is run, and imported by nobody
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
OWNERS = {  # dependency -> the only rooms that may import it
    "matplotlib": {"plot", "demo", "cli"},
    "numpyro.infer": {"inference"},
    "arviz": {"_arviz"},
    "tqdm": {"inference"},
    "typer": {"cli"},
    "equinox": {"params", "dosing", "structural"},
    "diffrax": {"solver"},
    "libsbml": {"sbml"},
    "openpyxl": {"dataset"},
    "filelock": {"inference"},
    "lazy_loader": {"__init__"},
    "pandas": {"_tables", "dataset", "assay", "inference", "plot"},  # data in, tables out
    "xarray": {
        "_arviz",
        "checks",
        "comparison",
        "evidence",
        "inference",
        "simulation",
        "verdict",
    },
}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules():
    """Dotted name -> file, of everything in the package but the models."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def room(name):
    return name.split(".")[1] if "." in name else "__init__"


def imported(path):
    """Dotted names of everything a file imports, in functions too, but not for type checkers."""
    waiting = list(tree(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """The modules of the package that a file imports."""
    for name in imported(path):
        if name.partition(".")[0] == "carpk":
            yield name if name in modules() else name.rpartition(".")[0]


@pytest.mark.parametrize("name", sorted(set(map(room, modules())) - {"__init__"} - TOP))
def test_a_room_imports_only_from_floors_below(name):
    assert name in FLOOR, f"give {name!r} a place in FLOORS"
    for module, path in modules().items():
        for other in own(path) if room(module) == name else ():
            assert other != "carpk", f"{module}: name the module that it comes from"
            below = room(other) == name or FLOOR.get(room(other), 99) < FLOOR[name]
            assert below, f"{module} imports {other}"


def test_there_are_ten_floors_and_no_circles_of_files():
    assert len(FLOORS) <= 10
    assert set(FLOOR) == set(map(room, modules())) - {"__init__"} - TOP
    list(
        graphlib.TopologicalSorter(
            {m: set(own(p)) - {m} for m, p in modules().items()}
        ).static_order()
    )


def test_the_page_draws_the_floors_and_names_every_file():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^ +\d+ +(\w.*)$", page, flags=re.M)
    assert [set(line.split()) for line in reversed(drawn)] == [set(names) for names in FLOORS]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.M))
    assert set(rows) == set(FLOOR)
    for name in (
        "assay",
        "comparison",
        "dataset",
        "dosing",
        "inference",
        "library",
        "nca",
        "population",
        "sbml",
        "solver",
        "verdict",
    ):
        inside = {m.split(".")[2] for m in modules() if m.startswith(f"carpk.{name}.")}
        assert set(re.findall(r"`(\w+)`", rows[name])) >= inside, name


def test_what_is_loaded_late_is_there():
    named = set()
    for path in modules().values():
        named |= set(re.findall(r'late\("([\w.]+)"\)', path.read_text(encoding="utf-8")))
    assert len(named) > 10
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("dependency", OWNERS)
def test_a_heavy_dependency_is_known_to_few(dependency):
    users = {
        room(module)
        for module, path in modules().items()
        if any(f"{name}.".startswith(f"{dependency}.") for name in imported(path))
    }
    assert users <= OWNERS[dependency]
    assert users, f"nobody imports {dependency}; take it out of OWNERS"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=lambda p: p.stem)
def test_a_model_file_needs_only_carpks_public_names(path):
    for name in imported(path):
        public = name == "carpk" or name.startswith("carpk.models.")
        known = {"jax", "jaxtyping", "numpy", *sys.stdlib_module_names}
        assert public or name.split(".")[0] in known, name


LOADED = """
import sys
import jax, numpy
before = set(sys.modules)
{}
print(" ".join(sorted(set(sys.modules) - before)))
"""


def loaded(statement):
    """Modules that a statement loads in a new process, beyond those of JAX and NumPy."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(statement)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_carpk_loads_next_to_nothing():
    names = loaded("import carpk")
    assert [name for name in names if name.startswith("carpk")] == ["carpk"]
    assert len(names) < 60, names


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--help"]])
def test_the_shell_loads_no_more_than_it_shows(arguments):
    run = f"""
import io, contextlib
sys.argv = ['carpk', *{arguments}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    from carpk.cli import main
    main()
"""
    names = loaded(run)
    heavy = {"equinox", "diffrax", "numpyro", "arviz", "xarray", "pandas", "scipy", "matplotlib"}
    assert not heavy & {name.partition(".")[0] for name in names}


def test_loading_the_models_of_the_library_loads_no_solver():
    names = loaded("import carpk as ck; [ck.load_model(n) for n in ck.list_models()]")
    assert "carpk.models.niche" in names
    assert not {"diffrax", "numpyro", "pandas", "carpk.solver"} & set(names)
