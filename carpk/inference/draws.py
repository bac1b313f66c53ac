"""From raw draws to a `Fit`: ArviZ groups, log-likelihoods, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from carpk._arviz import to_idata
from carpk._compile import jit_fast_compile
from carpk._types import Values
from carpk.dataset.arrays import NEVER
from carpk.inference.nuts import in_threads, prior_draws
from carpk.inference.result import Fit
from carpk.inference.starts import PRIOR_DRAWS
from carpk.population.bound import BoundPopulation
from carpk.verdict.judge import judge
from carpk.verdict.outliers import outliers
from carpk.verdict.solver_error import solver_check
from carpk.verdict.words import SolverSummary

VERDICT_DRAWS = 100  # posterior draws for solver check and outlier tests


def assemble(
    bound: BoundPopulation,
    samples: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> Fit:
    """A `Fit` from raw draws: ArviZ groups, log-likelihoods, verdict."""
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in samples.items()}
    size = len(next(iter(flat.values())))
    rng = np.random.default_rng(settings["seed"])
    chosen = rng.choice(size, min(size, VERDICT_DRAWS), replace=False)
    few = {k: v[chosen] for k, v in flat.items()}
    posterior = labelled(bound, samples)
    with ThreadPoolExecutor() as pool:
        found_outliers = pool.submit(outliers, bound, few)
        densities = pool.submit(log_priors, bound, samples)
        each = pointwise(bound, samples, settings["seed"])
        before = prior_draws(bound.priors, PRIOR_DRAWS, seed=0)
        prior = labelled(bound, {k: v[None] for k, v in before.items()})
        sampler = xr.Dataset({k: (("chain", "draw"), v) for k, v in stats.items()})
        log_prior = {k: (("chain", "draw"), v) for k, v in densities.result().items()}
        settings = {**settings, **solver_settings(bound, few), "outliers": found_outliers.result()}
    groups = {"posterior": posterior, "sample_stats": sampler, "prior": prior, **each}
    groups["log_prior"] = xr.Dataset(log_prior, attrs={"density": "on the estimation scale"})
    verdict = judge(posterior, sampler, prior, bound, settings, groups.get("log_likelihood"))
    result = Fit(bound.population, bound.data, to_idata(groups), verdict, settings)
    vars(result)["bound"] = bound  # as `Fit.bound` would find it, and not bound a second time
    return result


def solver_settings(
    bound: BoundPopulation, samples: Mapping[str, np.ndarray]
) -> dict[str, SolverSummary]:
    """Solver check for the verdict; empty for a closed form."""
    check = solver_check(bound, samples)
    if check is None:
        return {}
    largest = float(check.error.max()) if check.error.size else math.inf
    share = check.ess / max(check.error.size, 1)
    found: SolverSummary = {
        "k_hat": check.k_hat,
        "spread": check.spread,
        "failed": check.failed,
        "ok": check.ok,
    }
    return {"solver": found | {"draws": len(check.solved), "error": largest, "ess": share}}


def labelled(bound: BoundPopulation, samples: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Samples as an xarray Dataset with named dimensions."""
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coords: dict[str, Sequence[object]] = {}
    infusions = range(1, bound.infusions + 1) if bound.patients else ()
    of_patients = {"patient": bound.patients, "infusion": tuple(infusions)}
    for name, value in samples.items():
        dims, labels = tuple(of_patients)[: value.ndim - 2], of_patients
        if name in bound.parameters:
            dims, labels = bound.parameters[name].dims, dict(bound.parameters[name].labels)
        coords |= {dim: list(labels[dim]) for dim in dims}
        variables[name] = (("chain", "draw", *dims), value)
    shape = next(iter(samples.values())).shape[:2]
    coords |= {"chain": list(range(shape[0])), "draw": list(range(shape[1]))}
    return xr.Dataset(variables, coords=coords)


def log_priors(bound: BoundPopulation, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ln prior density of each population parameter at its draws, on the estimation scale."""

    @jit_fast_compile
    def every(samples: Values) -> dict[str, Array]:
        out = {}
        for name, prior in bound.priors.items():
            x = samples[name]
            log_slope = jnp.log(bound.parameters[name].transform.derivative(x))
            log_slope = jnp.sum(log_slope, axis=tuple(range(-prior.event_dim, 0)))
            out[name] = prior.log_prob(x) - log_slope
        return out

    found = every({name: jnp.asarray(samples[name]) for name in bound.priors})
    return {name: np.asarray(x) for name, x in found.items()}


def pointwise(
    bound: BoundPopulation, samples: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, xr.Dataset]:
    """ArviZ groups of the individual observations, a variable per output.

    Groups log_likelihood, posterior_predictive (the same patients, measured again), observed_data
    and constant_data (limits of quantification). Observations have the dimension `obs_id`; those of
    several outputs "obs_id_<output>" each.
    """
    if bound.individual is None:
        return {}
    a = bound.individual
    chains, draws = next(iter(samples.values())).shape[:2]
    rngs = np.random.default_rng(seed).spawn(chains)
    of_analyte = [np.flatnonzero(a.mask & (a.analyte == i)) for i in range(len(a.analytes))]
    each = [np.empty((2, chains, draws, here.size)) for here in of_analyte]

    def chain(i: int) -> None:
        scores = rngs[i].standard_normal((draws, *a.mask.shape))
        kinds = bound.of_draws({k: v[i] for k, v in samples.items()}, scores)
        for kind, x in enumerate(kinds):
            flat = np.asarray(x).reshape(draws, -1)
            for here, into in zip(of_analyte, each, strict=True):
                np.take(flat, here, axis=1, out=into[kind, i], mode="clip")

    in_threads(chain, chains)
    found: dict[str, list[xr.Dataset]] = {}
    for analyte, places, (log_f, again) in zip(a.analytes, of_analyte, each, strict=True):
        here = np.unravel_index(places, a.mask.shape)
        name = bound.endpoints[analyte]
        suffix = f"_{name}" if len(a.analytes) > 1 else ""
        dim = f"obs_id{suffix}"
        coords = {
            dim: np.arange(places.size),
            f"patient{suffix}": (dim, np.asarray(bound.patients, dtype=str)[here[0]]),
            f"time{suffix}": (dim, a.time[here]),
        }
        groups: dict[str, dict[str, tuple[str | tuple[str, ...], np.ndarray]]] = {
            "log_likelihood": {name: (("chain", "draw", dim), log_f)},
            "posterior_predictive": {name: (("chain", "draw", dim), again)},
            "observed_data": {
                name: (dim, a.value[here]),
                f"censored{suffix}": (dim, a.censored[here]),
            },
            "constant_data": {
                f"lloq{suffix}": (dim, np.where(a.lloq > NEVER, a.lloq, np.nan)[here])
            },
        }
        for group_name, variables in groups.items():
            found.setdefault(group_name, []).append(xr.Dataset(variables, coords=coords))
    return {name: xr.merge(each) for name, each in found.items()}
