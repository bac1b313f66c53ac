"""Power scaling: does the posterior hang on the prior, on the data, or on neither?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from carpk._arviz import pareto_smoothed

ALPHAS = (0.8, 1.25)
SENSITIVE = 0.05


def power_scaling(
    draws: Mapping[str, np.ndarray], log_prior: np.ndarray, log_likelihood: np.ndarray
) -> pd.DataFrame:
    """Sensitivity of posteriors to their prior and likelihood, without refitting.

    The prior, then the likelihood, is raised to the powers 0.8 and 1.25 by Pareto-smoothed
    importance weights; the sensitivity is the mean over both of the distance to the posterior
    (`distance`) per doubling of the power. Above 0.05 to both: prior-data conflict; to the prior
    only: weak likelihood (the prior decides). Kallioinen et al. (2023) Stat Comput 34:57,
    doi:10.1007/s11222-023-10366-5.

    Args:
        draws: name -> posterior draws, shape (draw,).
        log_prior, log_likelihood: of the same draws, shape (draw,), up to a constant.

    Returns:
        One row per name: prior, likelihood (sensitivities), k_hat (the worst of the weights; above
        0.7 they are not to be relied on) and verdict.
    """
    weights, k_hats = {}, []
    for component, log_density in {"prior": log_prior, "likelihood": log_likelihood}.items():
        for alpha in ALPHAS:
            log_weights, k_hat = pareto_smoothed((alpha - 1) * log_density)
            weights[component, alpha] = np.exp(log_weights - log_weights.max())
            k_hats.append(k_hat)
    rows = {}
    for name, x in draws.items():
        s = {
            component: np.mean(
                [distance(x, weights[component, a]) / abs(np.log2(a)) for a in ALPHAS]
            )
            for component in ("prior", "likelihood")
        }
        rows[name] = s | {"k_hat": max(k_hats), "verdict": _verdict(**s)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("effect")


def _verdict(prior: float, likelihood: float) -> str:
    if prior <= SENSITIVE:
        return "fine"
    return "prior-data conflict" if likelihood > SENSITIVE else "weak likelihood"


def distance(x: np.ndarray, weights: np.ndarray) -> float:
    """Cumulative Jensen-Shannon distance, 0 to 1, between draws and the same draws weighted.

    The larger of that of x and of -x, as it is not symmetric: Nguyen & Vreeken (2015),
    doi:10.1007/978-3-319-23525-7_11, normalised as in Kallioinen et al. (2023).
    """
    return max(_one_sided(x, weights), _one_sided(-x, weights))


def _one_sided(x: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(x)
    width = np.diff(x[order])
    p = np.arange(1, x.size) / x.size
    q = np.cumsum(weights[order])[:-1] / weights.sum()
    middle = (p + q) / 2

    def entropy(f: np.ndarray) -> np.ndarray:
        return f * np.log2(np.where(f > 0, f, 1.0) / middle)

    # The terms linear in p and q of the two directions cancel in their sum.
    divergence = width @ (entropy(p) + entropy(q))
    return float(np.sqrt(max(divergence, 0.0) / (width @ (p + q))))
