"""ArviZ 0.x (InferenceData) and 1.x (DataTree): the whole difference is in this file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

with warnings.catch_warnings():  # ArviZ 0.23 announces 1.0 at every import
    warnings.filterwarnings("ignore", category=FutureWarning)
    import arviz as az

FEWEST = 5  # draws whose weights have a tail to speak of
PARETO_K = 0.7  # above, importance weights are not to be trusted (Vehtari et al. 2024)
INFERENCE_DATA = int(az.__version__.split(".")[0]) < 1


def to_idata(groups: Mapping[str, xr.Dataset]) -> Any:
    """An ArviZ object: InferenceData on 0.x, DataTree on 1.x."""
    if INFERENCE_DATA:
        return az.InferenceData(**dict[str, Any](groups))
    return xr.DataTree.from_dict(dict(groups))


def read_idata(path: Path) -> Any:
    """Read what `to_idata` wrote, whichever ArviZ wrote it."""
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        groups = {k.strip("/"): node.to_dataset().load() for k, node in tree.children.items()}
    return to_idata(groups)


def write_idata(idata: Any, path: Path) -> None:
    xr.DataTree.from_dict({name: group(idata, name) for name in groups(idata)}).to_netcdf(
        path, engine="h5netcdf"
    )


def groups(idata: Any) -> list[str]:
    """Names of the groups."""
    if INFERENCE_DATA:
        return list(idata.groups())
    return [k.strip("/") for k in idata.children]


def group(idata: Any, name: str) -> xr.Dataset:
    """One group as an xarray Dataset."""
    node = idata[name]
    return node if isinstance(node, xr.Dataset) else node.to_dataset()


def pareto_smoothed(log_weights: np.ndarray, r_eff: float = 1.0) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log importance weights, normalised, and the Pareto k-hat (PSIS).

    `r_eff` is the effective share of the draws; it sets how many make up the tail. With fewer than
    `FEWEST` draws, or equal ones, there is none: the weights stay as they are, with k-hat infinite.
    """
    if np.size(log_weights) < FEWEST:
        return np.asarray(log_weights - logsumexp(log_weights)), np.inf
    if INFERENCE_DATA:
        smoothed, k = az.psislw(log_weights, r_eff)
        return np.asarray(smoothed), float(k)
    from arviz_stats.base import array_stats

    try:  # it takes the logarithms of likelihoods, whose weights are their inverses
        smoothed, k = array_stats.psislw(-np.asarray(log_weights), r_eff=r_eff)
    except (ValueError, IndexError):  # too few draws, or equal ones, to tell a tail
        smoothed, k = log_weights, np.inf
    return np.asarray(smoothed - logsumexp(smoothed)), float(k)
