"""Agreement with trajectories computed independently (see `tests/reference/`), and of gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

REFERENCE = Path(__file__).parent / "reference"


def reference(name, case):
    """The states of a case in `tests/reference/<name>.csv`, one row per time [day]."""
    table = pd.read_csv(REFERENCE / f"{name}.csv")
    return table[table["case"] == case].drop(columns="case").set_index("time")


def errors(solution, table):
    """State -> largest relative error where the reference exceeds 1e-6 of its peak."""
    out = {}
    for name in table.columns.intersection(solution.states.names()):
        expected, got = table[name].to_numpy(), np.asarray(getattr(solution.states, name))
        shown = expected > 1e-6 * expected.max()
        out[name] = np.abs(got[shown] / expected[shown] - 1).max()
    return out


def solver_for(model, regimen, days, **settings):
    """`Solver.prepare` at the typical patient."""
    params = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
    return Solver.prepare(Schedule.of(model, [regimen], np.asarray(days)), params, **settings)


def assert_has_gradients(model, run, output, size=1e-3, rtol=1e-5):
    """Finite, and equal to central differences, for every parameter on its estimation scale."""
    infos = model.params.info()
    u = jnp.array([float(i.transform.forward(i.value)) for i in infos.values()])

    def totals(u):  # (patient, parameter) -> (patient,)
        p = {n: i.transform.inverse(x) for (n, i), x in zip(infos.items(), u.T, strict=True)}
        return jnp.sum(jnp.log(run(model.params(**p))[output]), axis=1)

    gradient = np.asarray(jax.jit(jax.grad(lambda u: totals(u[None])[0]))(u))
    assert np.isfinite(gradient).all()
    ways = size * np.eye(u.size)
    up, down = np.split(np.asarray(jax.jit(totals)(np.concatenate([u + ways, u - ways]))), 2)
    noise = rtol * np.abs(gradient).max()
    np.testing.assert_allclose(gradient, (up - down) / (2 * size), rtol=rtol, atol=noise)
