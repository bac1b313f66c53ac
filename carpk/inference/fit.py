"""Fitting: from a population model and data to a posterior with a verdict.

fit = ck.fit(pop, data, seed=1)             # NUTS: the reference
fit = ck.fit(pop, data, method="laplace")   # random effects integrated out: the first look
fit                # first line: can it be trusted, and why
fit.summary()      # typical values, equal-tailed intervals, spread between patients
fit.effects()      # every patient's random effects, and their shrinkage
fit.save("fit.nc")
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk._compile import compile_for, in_background
from carpk.errors import FitError
from carpk.inference.checkpoints import Blocks
from carpk.inference.cure import counted, cured
from carpk.inference.density import Conditional, LogDensity, LogPredictionExpansion
from carpk.inference.draws import assemble, labelled
from carpk.inference.importance import around, refined
from carpk.inference.laplace import POINTS, ROWS_TO_NATURAL, CompiledDensity, Mode
from carpk.inference.nuts import Nuts
from carpk.inference.result import Fit
from carpk.inference.standard import Standard
from carpk.inference.starts import (
    around_cohorts,
    centre,
    modes_from,
    modes_of,
    prior_draws_unconstrained,
)
from carpk.inference.storage import DRAWN_BY, data_hash, encode_population, identity, version_of
from carpk.population.bound import BoundPopulation
from carpk.population.population import Population
from carpk.population.random_effects import COHORT, PATIENT
from carpk.verdict.words import ModeSummary

if TYPE_CHECKING:
    from jax.stages import Wrapped

    from carpk.dataset import Dataset
    from carpk.library.study import Study

METHODS = ("nuts", "laplace", "map")
ASKED = ("method", "draws", "tune", "chains", "max_draws", "seed", "target_accept", "starts")
STARTS = {"nuts": 4, "laplace": 3, "map": 10}  # of the search for modes


def fit(
    population: Population,
    data: Dataset | Study,
    method: str = "nuts",
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    max_draws: int | None = None,
    seed: int = 0,
    target_accept: float = 0.9,
    starts: int | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Fit:
    """Estimate a population model from data.

    Args:
        population: structural model, random effects, covariates, residual model and priors.
        data: a `Dataset`, or a `Study`, whose published summaries are then the data.
        method: "nuts" samples the posterior, after a look at its mode; "laplace" integrates the
            random effects out patient by patient (Laplace's approximation, then importance
            sampling around it) and takes the population parameters, and the effects of cohorts, as
            normal on the whole line: seconds, for every day; "map" is the mode alone, from several
            starts.
        draws, tune, chains: draws kept and adaptation steps per chain, and chains.
        max_draws: of "nuts": draws per chain that the fit may take in all to cure itself; four
            times `draws` unless given. Where R-hat is above 1.01 or effective draws are too few,
            chains go on; after divergences there is a second run nearer to an acceptance of 1.
            With `max_draws=draws` neither.
        seed: same seed and same machine, same draws.
        target_accept: acceptance probability that the step size is adapted to.
        starts: of the search for modes: the middle of the prior and `starts - 1` draws
            from it. 4 for "nuts", whose chains are shared out among the modes that count; 3 for
            "laplace", which takes the best and tells of the others; 10 for "map".
        folder: of "nuts": where to write the draws, block by block; the same call with the same
            folder goes on after the last block, and gives the draws that it would have given.
        progress: show it, on standard error.
    """
    if method not in METHODS:
        raise FitError(
            f"fit: the method {method!r} is not known; known are {', '.join(map(repr, METHODS))}."
        )
    starts = STARTS[method] if starts is None else starts
    numbers = counted(
        "fit", draws=draws, tune=tune, chains=chains, starts=starts, max_draws=max_draws
    )
    if folder is not None and method != "nuts":
        raise FitError(f"fit: `folder` is for the draws of 'nuts'; leave it out with {method!r}.")
    if hasattr(data, "dataset"):
        data = data.dataset()
    settings = {"method": method, **numbers, "seed": seed, "target_accept": target_accept}
    return fit_bound(population.bind(data), settings, folder=folder, progress=progress)


def fit_bound(
    bound: BoundPopulation,
    settings: Mapping[str, Any],
    *,
    folder: str | Path | None = None,
    label: str = "",
    progress: bool = True,
) -> Fit:
    """`fit`, for a population model that is bound to its data already.

    Args:
        settings: those of a `Fit`, or method, draws, tune, chains, max_draws, seed, target_accept
            and starts.
        folder: as in `fit`.
        label: of the progress bar.
    """
    population, data = bound.population, bound.data
    settings = {k: settings[k] for k in ASKED} | {
        "float64": bool(jnp.zeros(0).dtype == jnp.float64),
        "machine": platform.machine(),
        "versions": {name: version_of(name) for name in DRAWN_BY},
        "data_sha256": data_hash(data),
    }
    if folder is None:
        return _fit_bound(bound, settings, None, label, progress)
    told = {
        "model": identity(population.model),
        "population": encode_population(population),
    }
    told |= {k: v for k, v in settings.items() if k != "max_draws"}  # which only ends the cure
    with Blocks(folder, told) as blocks:
        return _fit_bound(bound, settings, blocks, label, progress)


def _fit_bound(
    bound: BoundPopulation,
    settings: dict[str, Any],
    blocks: Blocks | None,
    label: str,
    progress: bool,
) -> Fit:
    """`fit_bound`, with its folder open."""
    method, chains, seed = (settings[k] for k in ("method", "chains", "seed"))
    unknown = LogDensity(bound).no_cohorts
    compiled = CompiledDensity(lambda values: LogDensity(bound, values[1]), ({}, unknown))
    if method == "map":
        settings |= {"draws": 1, "chains": 1}
    with in_background(compilations(compiled, method, settings["draws"])):
        before = prior_draws_unconstrained(compiled.density)
        middle, spread = centre(before)
        others = np.random.default_rng(seed).choice(before, settings["starts"] - 1)
        found, settings["ends"] = modes_from(compiled, [middle, *others], spread)
        compiled, found = around_cohorts(compiled, found, spread)
        settings["modes"] = modes_of(compiled.density, found)
        if method == "map":
            return from_mode(compiled, found[0], settings)
        if method == "laplace":
            better = refined(compiled, found[0], seed)
            settings["importance"] = {
                "moved": better.moved,
                "settled": better.settled,
                "points": [int(x) for x in better.ess],
            }
            return from_mode(compiled, better.mode, settings)
    density = compiled.density
    standard = Standard.around(compiled, found[0], seed)
    centres = [standard.within(mode.u) for mode in found]
    rngs = np.random.default_rng(seed)

    def starts(_: int) -> list[Iterator[dict[str, Array]]]:
        return [
            standard.starts(density, rng, centres[chain % len(centres)])
            for chain, rng in enumerate(rngs.spawn(chains))
        ]

    out, cure = cured(
        Nuts(standard.target(density, {}), draws=settings["draws"], tune=settings["tune"]),
        starts,
        max_rounds=settings["max_draws"] // settings["draws"],
        seed=seed,
        target_accept=settings["target_accept"],
        labelled=partial(labelled, bound),
        label=label or f"{bound.population.model.name} on {bound.data.name}",
        progress=progress,
        blocks=blocks,
    )
    settings |= {"cure": cure} if cure else {}
    settings |= {"interrupted": out.interrupted} | described(compiled, found[0])
    return assemble(bound, out.samples, out.stats, settings)


def compilations(compiled: CompiledDensity, method: str, draws: int) -> list[Callable[[], object]]:
    """Compilations of a fit, in the order of their use; for a background thread."""
    density, values = compiled.density, compiled.values
    if not density.inner:
        return []

    shaped: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct

    def numbers(*shape: int) -> jax.ShapeDtypeStruct:
        return shaped(shape, float)

    n, m, people = density.outer, density.inner, density.patients
    seen = density.bound.individual.mask.shape
    c = density.width
    u, z = numbers(n), numbers(people, m)
    expansion = LogPredictionExpansion._make(  # of shapes, in place of arrays
        (numbers(people, c), numbers(*seen), numbers(c, *seen), numbers(c, c, *seen))
    )
    curvature = numbers(len(density.bound.individual.analytes))
    conditional = Conditional._make((expansion, numbers(*seen), numbers(*seen), curvature))
    calls: list[tuple[Wrapped, *tuple[object, ...]]] = [
        (compiled.log_predictions, numbers(compiled.batch_size(density), people, c), values),
        (compiled.newton_terms, u, z, expansion, values),
        (compiled.laplace_terms, u, z, expansion, values),
    ]
    if method != "map":
        many = numbers(ROWS_TO_NATURAL, people, m)
        by_x = shaped((ROWS_TO_NATURAL,), bool)
        calls += [
            (compiled.proposed, numbers(ROWS_TO_NATURAL, n), many, many, by_x, conditional, values),
            (
                compiled.likelihood_derivatives,
                numbers(ROWS_TO_NATURAL, n),
                numbers(ROWS_TO_NATURAL, *seen),
                values,
            ),
        ]
    if method == "laplace":
        some = numbers(ROWS_TO_NATURAL, n), numbers(ROWS_TO_NATURAL, people, m), conditional, values
        one = jax.eval_shape(density.sample_of, u, z, conditional)
        samples = {name: numbers(draws, *x.shape) for name, x in one.items()}
        calls += [
            (compiled.to_natural, *some),
            (
                compiled.importance_log_density,
                u,
                numbers(POINTS, *seen),
                numbers(POINTS, people),
                values,
            ),
            (density.bound.of_draws, samples, numbers(draws, *seen)),
        ]
    return [partial(compile_for, *call) for call in calls]


def from_mode(compiled: CompiledDensity, mode: Mode, settings: Mapping[str, Any]) -> Fit:
    """A fit from a mode: draws around it, or the mode alone."""
    density = compiled.density
    shape = (settings["chains"], settings["draws"])
    if settings["method"] == "map":
        nowhere = np.zeros((1, density.patients, density.inner))
        every, *_ = compiled.to_natural_by_rows(mode.u[None], nowhere, mode.conditional)
        lp = np.array(mode.log_density)
    else:
        found = around(compiled, mode, math.prod(shape), settings["seed"])
        every, lp = found.samples, found.lp
        settings = {**settings, "importance": {**settings["importance"], **found.weights}}
    samples = {name: y.reshape(*shape, *y.shape[1:]) for name, y in every.items()}
    stats = {"lp": lp.reshape(shape)}
    return assemble(density.bound, samples, stats, {**settings, **described(compiled, mode)})


def described(compiled: CompiledDensity, mode: Mode) -> dict[str, ModeSummary]:
    """Diagnostics of a mode, as a file keeps them."""
    held = {PATIENT: mode.held.tolist()} if mode.held.size else {}
    if compiled.density.bound.cohort_effects:
        held[COHORT] = compiled.density.cohorts_held(mode.u).tolist()
    return {
        "mode": {
            "converged": mode.converged,
            "decrement": mode.decrement,
            "flat": mode.flat,
            "unconverged": list(mode.unconverged),
            "log_density": mode.log_density,
            "evaluations": mode.evaluations,
            "held": held,
        }
    }
