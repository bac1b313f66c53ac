"""Fitting: from a population model and data to a posterior with a verdict.

fit = ck.fit(pop, data, seed=1)             # NUTS: the last word
fit = ck.fit(pop, data, method="laplace")   # random effects integrated out: the first look
fit                # first line: can it be trusted, and why
fit.summary()      # typical values, 90 % equal-tailed intervals, spread between patients
fit.effects()      # every patient's random effects, and their shrinkage
fit.save("fit.nc")
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from carpk._compile import beside, compiled
from carpk.errors import FitError
from carpk.inference.checkpoints import Blocks
from carpk.inference.cure import counted, cured
from carpk.inference.density import Conditional, Levels, Posterior
from carpk.inference.draws import assemble, labelled
from carpk.inference.importance import POINTS, around, refined
from carpk.inference.laplace import PLACED, Engine, Mode
from carpk.inference.nuts import Nuts
from carpk.inference.result import Fit
from carpk.inference.standard import Standard
from carpk.inference.starts import around_cohorts, beforehand, centre, modes_from, modes_of
from carpk.inference.storage import DRAWN_BY, data_hash, encode_population, identity, version_of
from carpk.population.bound import PopulationModel
from carpk.population.population import Population
from carpk.population.random_effects import COHORT, PATIENT

METHODS = ("nuts", "laplace", "map")
ASKED = ("method", "draws", "tune", "chains", "max_draws", "seed", "target_accept", "starts")
STARTS = {"nuts": 4, "laplace": 3, "map": 10}  # from which modes are looked for


def fit(
    population: Population,
    data: Any,
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
        population: what varies and what is believed.
        data: a `Dataset`, or a `Study`, whose published facts are then the data.
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
        starts: from where modes are looked for: the middle of the prior and `starts - 1` draws
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
    bound: PopulationModel,
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
    bound: PopulationModel,
    settings: dict[str, Any],
    blocks: Blocks | None,
    label: str,
    progress: bool,
) -> Fit:
    """`fit_bound`, with its folder open."""
    method, chains, seed = (settings[k] for k in ("method", "chains", "seed"))
    unknown = Posterior(bound).no_cohorts
    engine = Engine(lambda values: Posterior(bound, values[1]), (None, unknown))
    if method == "map":
        settings |= {"draws": 1, "chains": 1}
    with beside(compilations(engine, method, settings["draws"])):
        before = beforehand(engine.posterior)
        middle, spread = centre(before)
        others = np.random.default_rng(seed).choice(before, settings["starts"] - 1)
        found, settings["ends"] = modes_from(engine, [middle, *others], spread)
        engine, found = around_cohorts(engine, found, spread)
        settings["modes"] = modes_of(engine.posterior, found)
        if method == "map":
            return from_mode(engine, found[0], settings)
        if method == "laplace":
            better = refined(engine, found[0], seed)
            settings["importance"] = {
                "moved": better.moved,
                "settled": better.settled,
                "points": [int(x) for x in better.ess],
            }
            return from_mode(engine, better.mode, settings)
    posterior = engine.posterior
    standard = Standard.around(engine, found[0], seed)
    centres = [standard.within(mode.u) for mode in found]
    rngs = np.random.default_rng(seed)

    def starts(_: int) -> list[Iterator[dict[str, Any]]]:
        return [
            standard.starts(posterior, rng, centres[chain % len(centres)])
            for chain, rng in enumerate(rngs.spawn(chains))
        ]

    out, cure = cured(
        Nuts(standard.target(posterior, {}), draws=settings["draws"], tune=settings["tune"]),
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
    settings |= {"interrupted": out.interrupted} | described(engine, found[0])
    return assemble(bound, out.samples, out.stats, settings)


def compilations(engine: Engine, method: str, draws: int) -> list[Callable[[], Any]]:
    """Compile what a fit needs, in the order in which it needs it; for threads."""
    posterior, values = engine.posterior, engine.values
    if not posterior.inner:
        return []

    def numbers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, float)

    n, m, people = posterior.outer, posterior.inner, posterior.patients
    seen = posterior.bound.individual.mask.shape
    c = posterior.width
    u, z = numbers(n), numbers(people, m)
    levels = Levels(numbers(people, c), numbers(*seen), numbers(c, *seen), numbers(c, c, *seen))
    scale = numbers(len(posterior.bound.individual.analytes))
    conditional = Conditional(levels, numbers(*seen), numbers(*seen), scale)
    calls: list[tuple[Any, ...]] = [
        (engine.near, numbers(engine.batch(posterior), people, c), values),
        (engine.glance, u, z, levels, values),
        (engine.expansion, u, z, levels, values),
    ]
    if method != "map":
        many = numbers(PLACED, people, m)
        by_x = jax.ShapeDtypeStruct((PLACED,), bool)
        calls += [
            (engine.proposed, numbers(PLACED, n), many, many, by_x, conditional, values),
            (engine.measured, numbers(PLACED, n), numbers(PLACED, *seen), values),
        ]
    if method == "laplace":
        some = numbers(PLACED, n), numbers(PLACED, people, m), conditional, values
        one = jax.eval_shape(posterior.sample_of, u, z, conditional)
        samples = {name: numbers(draws, *x.shape) for name, x in one.items()}
        calls += [
            (engine.placed, *some),
            (engine.weighed, u, numbers(POINTS, *seen), numbers(POINTS, people), values),
            (posterior.bound.of_draws, samples, numbers(draws, *seen)),
        ]
    return [partial(compiled, *call) for call in calls]


def from_mode(engine: Engine, mode: Mode, settings: Mapping[str, Any]) -> Fit:
    """A fit from a mode: draws around it, or the mode alone."""
    posterior = engine.posterior
    shape = (settings["chains"], settings["draws"])
    if settings["method"] == "map":
        nowhere = np.zeros((1, posterior.patients, posterior.inner))
        every, *_ = engine.places(mode.u[None], nowhere, mode.conditional)
        lp = np.array(mode.log_density)
    else:
        found = around(engine, mode, math.prod(shape), settings["seed"])
        every, lp = found.samples, found.lp
        settings = {**settings, "importance": {**settings["importance"], **found.weights}}
    samples = {name: y.reshape(*shape, *y.shape[1:]) for name, y in every.items()}
    stats = {"lp": lp.reshape(shape)}
    return assemble(posterior.bound, samples, stats, {**settings, **described(engine, mode)})


def described(engine: Engine, mode: Mode) -> dict[str, Any]:
    """What a file keeps of a mode."""
    held = {PATIENT: mode.held.tolist()} if mode.held.size else {}
    if engine.posterior.bound.shared:
        held[COHORT] = engine.posterior.cohorts_held(mode.u).tolist()
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
