"""ArviZ 0.x (InferenceData) and 1.x (DataTree): the whole difference is in this file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

with warnings.catch_warnings():  # ArviZ 0.23 announces 1.0 at every import
    warnings.filterwarnings("ignore", category=FutureWarning)
    import arviz as az

__all__ = ["PARETO_K", "az", "group", "groups", "idata_of", "netcdf", "pareto_smoothed", "to_idata"]

FEWEST = 5  # draws for a Pareto fit of the tail
PARETO_K = 0.7  # above, importance weights are not to be trusted (Vehtari et al. 2024)
INFERENCE_DATA = int(az.__version__.split(".")[0]) < 1


def to_idata(groups: Mapping[str, xr.Dataset]) -> Any:
    """An ArviZ object: InferenceData on 0.x, DataTree on 1.x."""
    if INFERENCE_DATA:
        return az.InferenceData(**dict[str, Any](groups))
    return xr.DataTree.from_dict(dict(groups))


def idata_of(content: bytes) -> Any:
    """An ArviZ object from a NetCDF file, whichever ArviZ wrote it."""
    with xr.open_datatree(BytesIO(content), engine="h5netcdf") as tree:
        groups = {k.strip("/"): node.to_dataset().load() for k, node in tree.children.items()}
    return to_idata(groups)


def netcdf(groups: Mapping[str, xr.Dataset]) -> bytes:
    """The groups as the content of a NetCDF file."""
    content = BytesIO()
    xr.DataTree.from_dict(dict(groups)).to_netcdf(content, engine="h5netcdf")
    return content.getvalue()


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

    try:  # expects log-likelihoods and negates them
        smoothed, k = array_stats.psislw(-np.asarray(log_weights), r_eff=r_eff)
    except (ValueError, IndexError):  # too few draws, or equal ones, to tell a tail
        smoothed, k = log_weights, np.inf
    return np.asarray(smoothed - logsumexp(smoothed)), float(k)
