"""Types are a promise: nearly no annotation of the package says `Any`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARE = 0.03


def annotations(tree):
    """Annotations of arguments, of what is returned, and of assignments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            yield from (x.annotation for x in every if x and x.annotation)
            yield from [node.returns] if node.returns else []
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def test_any_is_rare():
    found = []
    for folder in ("carpk", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [(path.name, ast.unparse(x)) for x in annotations(tree)]
    vague = [(name, text) for name, text in found if _names_any(text)]
    assert len(found) > 5000
    assert len(vague) < SHARE * len(found), vague


def _names_any(text):
    return any(isinstance(x, ast.Name) and x.id == "Any" for x in ast.walk(ast.parse(text)))


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "carpk" / "py.typed").exists()
