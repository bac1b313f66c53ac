"""Compiling beside other work, and running row by row."""

import logging
import re
from collections import Counter

import jax
import numpy as np
import pytest
from hierarchies import LINEAR, PRIORS, decaying

import carpk as ck
from carpk._compile import by_rows, compile_for, in_background


@pytest.fixture
def compilations(caplog):
    """How often each function was compiled so far, in whatever thread."""
    caplog.set_level(logging.WARNING)
    jax.config.update("jax_log_compiles", True)

    def count():
        pattern = r"Finished XLA compilation of jit\((\w+)\)"
        told = [re.search(pattern, record.getMessage()) for record in caplog.records]
        return Counter(found[1] for found in told if found)

    yield count
    jax.config.update("jax_log_compiles", False)


def test_rows_come_back_in_order_however_many_there_are():
    x = np.arange(14.0).reshape(7, 2)
    for batch in (1, 3, 7, 50):
        sizes = set()

        def run(i, sizes=sizes):
            sizes.add(len(i))
            return {"twice": 2 * x[i], "sum": x[i].sum(1)}

        out = by_rows(run, 7, batch)
        np.testing.assert_array_equal(out["twice"], 2 * x)
        np.testing.assert_array_equal(out["sum"], x.sum(1))
        assert sizes == {min(batch, 7)}


def test_a_job_that_fails_is_met_where_its_function_is_called():
    @jax.jit
    def fails(x):
        raise ValueError("no such shape")

    shape = jax.ShapeDtypeStruct((5,), float)
    with (
        in_background([lambda: compile_for(fails, shape)]),
        pytest.raises(ValueError, match="no such shape"),
    ):
        fails(np.ones(5))


def test_what_compiles_beside_is_not_compiled_again(compilations):
    @jax.jit
    def thrice(x):
        return 3 * x

    shape = jax.ShapeDtypeStruct((5,), float)
    with in_background([lambda: compile_for(thrice, shape)]):
        np.testing.assert_array_equal(thrice(np.ones(5)), 3.0)
    assert compilations()["thrice"] == 1


def test_a_fit_compiles_each_of_its_functions_for_one_shape(compilations):
    """Those compiled ahead have the shapes that are needed: else they would compile twice."""
    population = ck.Population(LINEAR, varies=["base", "halve"], priors=PRIORS)
    data = decaying(lloq=3.0)
    ck.fit(population, data, method="laplace", draws=60, chains=2, progress=False)
    found = compilations()
    names = (
        "log_predictions",
        "newton_terms",
        "laplace_terms",
        "to_natural",
        "importance_log_density",
        "of_draw",
    )
    assert {name: found[name] for name in names} == dict.fromkeys(names, 1)
