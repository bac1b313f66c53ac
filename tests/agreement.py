"""Agreement with trajectories computed independently; see `tests/reference/`."""

from pathlib import Path

import numpy as np
import pandas as pd

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
        out[name] = np.abs(got / expected - 1)[shown].max()
    return out
