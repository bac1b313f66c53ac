"""Probability of each interval under the nonparametric maximum likelihood, by a general optimiser.

Mass may lie between any two neighbouring ends, not on innermost intervals alone. The fitted
probabilities of the intervals are unique even where the masses are not.
"""

import numpy as np
from scipy.optimize import minimize


def fitted(left, right):
    """P(left < T <= right) of each interval."""
    ends = np.unique([*left, *right])
    begin, end = ends[:-1], ends[1:]
    allowed = (begin >= left[:, None]) & (end <= right[:, None])
    m = begin.size
    found = minimize(
        lambda p: -np.log(allowed @ p + 1e-300).sum(),
        np.full(m, 1 / m),
        jac=lambda p: -(1 / (allowed @ p + 1e-300)) @ allowed,
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(m)},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-13},
    )
    return allowed @ found.x
