"""Types are a promise: few annotations say `Any`, and arrays have the shapes that are written."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import shapes

from carpk import nca
from carpk.assay.residual import LogNormal, log_likelihood
from carpk.dosing.disposition import Disposition

ROOT = Path(__file__).parents[1]
SHARE = 0.03
DRUG = Disposition(clearance=1.0, volume=1.0)


def of_log_normal(y, f):
    return log_likelihood(LogNormal(), y, f, {"sigma": 0.5}, jnp.zeros(()), jnp.zeros(()))


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


def test_every_file_with_shapes_is_checked_at_run_time():
    written = set()
    for path in (ROOT / "carpk").rglob("*.py"):
        if re.search(r"\b(Float|Int|Bool)\[", path.read_text(encoding="utf-8")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            written.add(".".join(parts).removesuffix(".__init__"))
    written.remove("carpk.params")  # an alias, checked where it is used
    inside = {name for name in written for room in shapes.MODULES if f"{name}.".startswith(room)}
    assert written == inside


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: nca.auc_to(28)(jnp.arange(3.0), jnp.arange(3.0)), None),
        (lambda: of_log_normal(jnp.ones(3), jnp.ones(3)), None),
        (lambda: of_log_normal(jnp.ones(3), jnp.ones(1)), None),
        (lambda: of_log_normal(jnp.ones(3), jnp.ones(2)), "parameter 'f'"),
        (lambda: jax.jit(of_log_normal)(jnp.ones((2, 3)), jnp.ones((3, 2))), "parameter 'f'"),
        (lambda: DRUG.concentration(np.ones((2, 2)), 0.0, 1.0), "parameter 't'"),
        (lambda: DRUG.concentration([0.0, 1.0], 0.0, 1.0), None),
    ],
)
def test_wrong_shapes_are_refused_in_tests(call, told):
    if told is None:
        call()
        return
    with pytest.raises(jaxtyping.TypeCheckError, match=told):
        call()
