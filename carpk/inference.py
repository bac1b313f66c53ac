"""Fitting: from a population model and data to a posterior with a verdict.

fit = ck.fit(pop, data, seed=1)             # NUTS: the last word
fit = ck.fit(pop, data, method="laplace")   # random effects integrated out: the first look
fit                # first line: can it be trusted, and why
fit.summary()      # typical values, 90 % equal-tailed intervals, spread between patients
fit.effects()      # every patient's random effects, and their shrinkage
fit.save("fit.nc")
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jax.scipy.linalg import solve_triangular

from carpk._arviz import group, to_idata
from carpk.accuracy import solver_check
from carpk.blocks import Blocks
from carpk.compiled import beside, compiled, quickly
from carpk.cure import counted, cured
from carpk.dataset import Dataset
from carpk.dataset.arrays import NEVER
from carpk.effects import (
    COHORT,
    CORRELATION,
    INFUSION,
    LEVELS,
    PATIENT,
    eta_name,
    omega_name,
)
from carpk.errors import FitError
from carpk.importance import POINTS, around, places_of, refined, regressed
from carpk.laplace import DECREMENT, PLACED, Descent, Engine, Mode
from carpk.population import Population, PopulationModel
from carpk.posterior import Conditional, Levels, Places, Posterior
from carpk.ridges import Beside, Ridge, backward, forward, ridges_of
from carpk.sampler import Nuts, Target, in_threads, prior_draws
from carpk.storage import data_hash, encode_population, identity, version_of
from carpk.surprises import surprises
from carpk.verdict import Verdict, judge, mixing

INTERVAL = 0.9  # equal-tailed, everywhere
PRIOR_DRAWS = 4000
METHODS = ("nuts", "laplace", "map")
ASKED = ("method", "draws", "tune", "chains", "max_draws", "seed", "target_accept", "starts")
DRAWN_BY = ("carpk", "jax", "jaxlib", "numpyro", "numpy", "scipy", "diffrax")  # draws depend on it
STARTS = {"nuts": 4, "laplace": 3, "map": 10}  # from which modes are looked for
VERDICT_DRAWS = 100  # that are solved again, and compared with the data, for the verdict
ATTEMPTS = 30  # to find a finite starting point of a chain
EXCHANGED = 20  # exchanges of parameters whose density is looked at
MOST_EXCHANGES = 1000  # of pairs, that are thought of
HOPELESS = 20.0  # a mode with a log density this much lower is not worth a chain


# ---------------------------------------------------------------------------------------------
# Fit
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fit:
    """A posterior, with everything it came from.

    Attributes:
        population, data: what was fitted to what.
        idata: ArviZ object with groups posterior, sample_stats, prior, log_prior (of densities on
            the estimation scale) and, where there are individual observations, log_likelihood,
            posterior_predictive, observed_data and constant_data.
        verdict: can it be trusted.
        settings: method, draws, tune, chains, seed, versions and a hash of the data.
    """

    population: Population
    data: Dataset
    idata: Any
    verdict: Verdict
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the draws can be trusted; the reasons are in `verdict`."""
        return self.verdict.ok

    @cached_property
    def bound(self) -> PopulationModel:
        """The population model, bound to the data."""
        return self.population.bind(self.data)

    @property
    def model_name(self) -> str:
        """Name of the structural model."""
        return self.population.model.name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the population and its cohorts."""
        return (*self.bound.priors, *self.bound.shared)

    @property
    def posterior(self) -> xr.Dataset:
        """Draws of every parameter, dims (chain, draw, ...)."""
        return group(self.idata, "posterior")

    def draws(
        self, size: int | None = None, seed: int = 0, *, effects: bool = False
    ) -> dict[str, np.ndarray]:
        """Parameters, name -> (draw, ...); all draws, or `size` of them at random.

        Those of the population and its cohorts; with `effects` the patients' random effects too.
        """
        names = list(self.parameters)
        names = [str(name) for name in self.posterior.data_vars] if effects else names
        stacked = {
            str(n): self.posterior[n].values.reshape(-1, *self.posterior[n].shape[2:])
            for n in names
        }
        chosen = self.chosen(size, seed)
        return {n: x[chosen] for n, x in stacked.items()}

    def chosen(self, size: int | None = None, seed: int = 0) -> np.ndarray:
        """Which draws `draws` takes, counted through the chains one after the other."""
        total = int(np.prod(next(iter(self.posterior.values())).shape[:2]))
        if size is None or size >= total:
            return np.arange(total)
        return np.random.default_rng(seed).choice(total, size, replace=False)

    def summary(self) -> pd.DataFrame:
        """One row per population parameter and derived quantity.

        Columns: median, the 90 % equal-tailed interval (eti90_low, eti90_high), unit, the spread
        between patients (`iiv_sd`: SD on the estimation scale, median; and its interval), R-hat and
        the smaller of bulk and tail effective sample size.
        """
        return summarize(self)

    def effects(self) -> pd.DataFrame:
        """Random effects of patients (empirical Bayes estimates), infusions and cohorts.

        One row per effect: parameter, level, label of its patient or cohort, infusion; mean and SD
        of the posterior on the estimation scale. How far the data leave them to the population:
        `checks.shrinkage`.
        """
        return random_effects(self)

    def plot(self, **kwargs: Any) -> Any:
        """Posterior predictive bands over the data, and posterior against prior."""
        from carpk import plot

        return plot.fit(self, **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write everything to one NetCDF file that ArviZ and xarray can open."""
        from carpk import saved

        return saved.save(self, path)

    def __repr__(self) -> str:
        s = self.settings
        sizes = self.posterior.sizes
        how = f"{sizes['chain']} chains of {sizes['draw']} draws"
        how = {"map": "the mode alone"}.get(s["method"], how)
        how = f"{s['method']}, {how}, seed {s['seed']}"
        what = f"Fit of {self.model_name!r} to {self.data.name} ({how})"
        table = self.summary().to_string(float_format="{:.3g}".format, na_rep="")
        return f"{self.verdict}\n{what}; median and 90 % equal-tailed interval:\n{table}"


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
        "population": encode_population(population, bound.priors),
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


def beforehand(posterior: Posterior) -> np.ndarray:
    """Outer coordinates drawn from the prior, (draw, n)."""
    theta = prior_draws({s.name: s.prior for s in posterior.sites}, PRIOR_DRAWS, seed=0)

    @quickly
    def outer(theta: Mapping[str, Any]) -> Any:
        each = [jax.vmap(site.transform.inv)(theta[site.name]) for site in posterior.sites]
        return jnp.concatenate([x.reshape(PRIOR_DRAWS, -1) for x in each], axis=1)

    return np.asarray(outer(theta))


def centre(before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and SD of draws, (draw, n)."""
    return np.median(before, axis=0), before.std(axis=0)


class Standard(NamedTuple):
    """Coordinates in which a posterior is about standard normal: those of `laplace`.

    Attributes:
        middle, factor: outer coordinates are middle + factor v; (n,), (n, n).
        conditional: of the patients; None where there are none.
        ridges: which lead from what is sampled to v.
        beside: of the patients, along the first ridge, where there is one.
        places: to which patients jump between steps of NUTS, where some are far from normal.
    """

    middle: Any
    factor: Any
    conditional: Conditional | None
    ridges: tuple[Ridge, ...] = ()
    beside: Beside | None = None
    places: Places | None = None

    @classmethod
    def of(cls, mode: Mode, **others: Any) -> Standard:
        return cls(mode.u, np.linalg.cholesky(mode.covariance), mode.conditional, **others)

    @classmethod
    def around(cls, engine: Engine, mode: Mode, seed: int) -> Standard:
        """Those of a mode, with its ridges; where patients are far from normal, by points."""
        ridges, places, conditional = ridges_of(engine, mode), None, mode.conditional
        if regressed(engine, mode, seed) is not mode:
            better = refined(engine, mode, seed).mode
            places = places_of(engine, better, seed)
            if not ridges:
                return cls.of(better, places=places)
            conditional = better.conditional
        beside = None
        if ridges and conditional is not None:
            beside = Beside.of(engine, mode, ridges[0], conditional)
        mode = dataclasses.replace(mode, conditional=conditional)
        return cls.of(mode, ridges=ridges, beside=beside, places=places)

    def coordinates(
        self, posterior: Posterior, position: Mapping[str, Any]
    ) -> tuple[tuple[Any, Any, Conditional | None], Any]:
        """(outer, patients') coordinates, these' meaning; and ln |dv / d(what is sampled)|."""
        empty = jnp.zeros((posterior.patients, posterior.inner))
        v, log_slope, t = forward(self.ridges, position["population"])
        conditional = self.conditional if self.beside is None else self.beside.at(t)
        u = self.middle + self.factor @ v
        return (u, position.get("patients", empty), conditional), log_slope

    def target(self, posterior: Posterior, start: Mapping[str, Any]) -> Target:
        """What NUTS needs."""
        places = self.places

        def potential(position: Mapping[str, Any]) -> Any:
            where, log_slope = self.coordinates(posterior, position)
            return -posterior.log_density(*where) - log_slope

        def natural(position: Mapping[str, Any]) -> dict[str, Any]:
            where, _ = self.coordinates(posterior, position)
            return posterior.sample_of(*where)

        def jump(position: Mapping[str, Any], key: Any) -> dict[str, Any]:
            (u, x, conditional), _ = self.coordinates(posterior, position)
            assert places is not None
            assert conditional is not None
            u, z = posterior.moved(u, posterior.scores(u, x, conditional), places, key)
            w = self.within(u)
            (_, _, conditional), _ = self.coordinates(posterior, {"population": w})
            assert conditional is not None
            return {"population": w, "patients": posterior.of_scores(u, z, conditional)}

        return Target(
            potential, natural, start, ("population",), jump if places is not None else None
        )

    def within(self, u: Any) -> Any:
        """What is sampled at an outer point, (n,)."""
        v = solve_triangular(self.factor, u - self.middle, lower=True)
        return backward(self.ridges, v)

    def starts(
        self, posterior: Posterior, rng: np.random.Generator, centre: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        """Positions at random around a centre, ever nearer."""
        shape = (posterior.patients, posterior.inner)
        for attempt in range(ATTEMPTS):
            width = 0.9**attempt
            away = width * rng.standard_normal(posterior.outer)
            position = {"population": jnp.asarray(centre + away)}
            if min(shape):
                position["patients"] = jnp.asarray(width * rng.standard_normal(shape))
            yield position


def modes_from(
    engine: Engine, begin: Sequence[np.ndarray], spread: np.ndarray
) -> tuple[list[Mode], list[float]]:
    """The different modes that count, the best first, and the ln density of every start's end."""
    first = engine.climb(begin[0], spread)
    found = [engine.settled(first)]
    others = in_threads(
        lambda i: engine.climb(begin[i + 1], spread, known=found[0]), len(begin) - 1
    )
    ends = sorted([first, *others], key=lambda end: end.value)
    for end in ends:
        near = end is first or any(mode.holds(end.end) for mode in found)
        if not near and end.value - ends[0].value < HOPELESS:
            mode = engine.settled(end)
            found += [] if any(other.holds(mode.u) for other in found) else [mode]
    highest = max(found, key=lambda mode: mode.log_density)
    for start in exchanges(engine, highest, spread):
        mode = engine.settled(engine.climb(start, spread))
        found += [] if any(other.holds(mode.u) for other in found) else [mode]
    found = sorted(found, key=lambda mode: -mode.log_density)
    best = found[0].log_density
    return [m for m in found if best - m.log_density < HOPELESS], [-end.value for end in ends]


def exchanges(engine: Engine, mode: Mode, spread: np.ndarray) -> list[np.ndarray]:
    """Outer coordinates (n,) of a mode with parameters of one unit exchanged, as likely as it.

    Two phases, say, whose amplitudes and rates may change names: a posterior that is there twice,
    of which starts from the prior find the other one by chance only. Pairs of several units are
    exchanged one by one and together. Those that the prior excludes cost nothing, `EXCHANGED`
    others one evaluation each.
    """
    posterior = engine.posterior
    theta = posterior.theta(jnp.asarray(mode.u))
    prior = jax.jit(posterior.log_prior)
    allowed = []
    for pairs in exchangeable(posterior.bound):
        start = np.asarray(posterior.outer_of(exchanged(theta, pairs)))
        lower = float(prior(mode.u) - prior(start))
        if lower < HOPELESS and not mode.holds(start):
            allowed.append((lower, start))
    starts = [start for _, start in sorted(allowed, key=lambda x: x[0])[:EXCHANGED]]
    values = [-Descent(engine, start, spread)(np.zeros(len(start)))[0] for start in starts]
    return [u for u, x in zip(starts, values, strict=True) if mode.log_density - x < HOPELESS]


def exchangeable(bound: PopulationModel) -> list[tuple[tuple[str, str], ...]]:
    """Pairs of estimated parameters of one unit and range; at most one pair of each unit."""
    info = bound.population.model.params.info()
    kinds: dict[Any, list[str]] = {}
    for name in bound.population.estimated:
        kinds.setdefault((info[name].unit, info[name].bounds), []).append(name)
    each = [[None, *itertools.combinations(names, 2)] for names in kinds.values()]
    every = itertools.islice(itertools.product(*each), 1, MOST_EXCHANGES + 1)
    return [tuple(pair for pair in pairs if pair is not None) for pairs in every]


def exchanged(theta: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Values of population parameters after exchanging these, with their omegas and effects."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    out = dict(theta)
    for a, b in other.items():
        names = {a: b, eta_name(a, COHORT): eta_name(b, COHORT)}
        names |= {omega_name(a, level): omega_name(b, level) for level in LEVELS}
        head = f"beta_{a}_"
        names |= {k: f"beta_{b}_{k[len(head) :]}" for k in theta if k.startswith(head)}
        out |= {k: theta[v] for k, v in names.items() if k in theta and v in theta}
    return out


def around_cohorts(
    engine: Engine, found: Sequence[Mode], spread: np.ndarray
) -> tuple[Engine, list[Mode]]:
    """The same modes, where the coordinates of the cohorts' effects do not depend on their SDs.

    A mode with these effects among its coordinates has SDs that suit their standard scores, not the
    data: with what the data say of the effects at the best one, modes are found anew.

    Args:
        engine: its values are (those in place of the data's, `Cohorts`).
        found: the best mode first.
        spread: prior SDs of the outer coordinates.
    """
    posterior = engine.posterior
    if not posterior.bound.shared:
        return engine, list(found)
    best = found[0]
    cohorts = posterior.cohorts_at(best.u, best.covariance, best.conditional)
    engine = engine.given((engine.values[0], cohorts))
    again: list[Mode] = []
    for mode in found:
        start = engine.posterior.outer_of(posterior.theta(jnp.asarray(mode.u)))
        mode = engine.mode(start, spread)
        again += [] if any(other.holds(mode.u) for other in again) else [mode]
    return engine, sorted(again, key=lambda mode: -mode.log_density)


def modes_of(posterior: Posterior, modes: Sequence[Mode]) -> list[dict[str, Any]]:
    """What a verdict tells of different modes: their shares of the posterior, and where they are.

    Shares are those of normal distributions. Ends that are no modes are left out.
    """
    found = [mode for mode in modes if mode.decrement < DECREMENT]
    if len(found) < 2:
        return []
    mass = [m.log_density + 0.5 * np.linalg.slogdet(m.covariance)[1] for m in found]
    share = np.exp(np.array(mass) - max(mass))
    share /= share.sum()
    told = []
    for mode, each in zip(found, share, strict=True):
        theta = {k: np.asarray(x) for k, x in posterior.theta(jnp.asarray(mode.u)).items()}
        single = {k: float(x) for k, x in theta.items() if x.ndim == 0}
        told.append({"share": float(each), "log_density": mode.log_density, "theta": single})
    return told


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


def assemble(
    bound: PopulationModel,
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
        surprising = pool.submit(surprises, bound, few)
        densities = pool.submit(log_priors, bound, samples)
        each = pointwise(bound, samples, settings["seed"])
        before = prior_draws(bound.priors, PRIOR_DRAWS, seed=0)
        prior = labelled(bound, {k: v[None] for k, v in before.items()})
        sampler = xr.Dataset({k: (("chain", "draw"), v) for k, v in stats.items()})
        log_prior = {k: (("chain", "draw"), v) for k, v in densities.result().items()}
        settings = {**settings, **solver_settings(bound, few), "surprises": surprising.result()}
    groups = {"posterior": posterior, "sample_stats": sampler, "prior": prior, **each}
    groups["log_prior"] = xr.Dataset(log_prior, attrs={"density": "on the estimation scale"})
    verdict = judge(posterior, sampler, prior, bound, settings, groups.get("log_likelihood"))
    result = Fit(bound.population, bound.data, to_idata(groups), verdict, settings)
    vars(result)["bound"] = bound  # as `Fit.bound` would find it, and not bound a second time
    return result


def solver_settings(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the verdict needs to know of the solver; nothing for a closed form."""
    check = solver_check(bound, samples)
    if check is None:
        return {}
    largest = float(check.error.max()) if check.error.size else math.inf
    share = check.ess / max(check.error.size, 1)
    found = {"k_hat": check.k_hat, "spread": check.spread, "failed": check.failed, "ok": check.ok}
    return {"solver": found | {"draws": len(check.solved), "error": largest, "ess": share}}


def labelled(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Samples as an xarray Dataset with named dimensions."""
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    infusion, cohort = ("patient", "infusion"), ("cohort",)
    for name, value in samples.items():
        dims: tuple[str, ...] = ()
        if name in bound.effects:
            covariate = bound.effects[name][1]
            dims = (f"{covariate}_level",)
            coords[dims[0]] = list(bound.covariates[covariate].columns)
        elif name == CORRELATION:
            dims = ("parameter", "parameter_bis")
            coords |= {dim: list(bound.population.correlated) for dim in dims}
        elif name.startswith("eta_"):
            dims = {1: cohort if name.endswith("_cohort") else ("patient",), 2: infusion}[
                value.ndim - 2
            ]
            labels: dict[str, list[Any]] = {
                "patient": list(bound.patients),
                "cohort": list(bound.clusters),
                "infusion": list(range(1, bound.infusions + 1)) if bound.patients else [],
            }
            coords |= {dim: labels[dim] for dim in dims}
        variables[name] = (("chain", "draw", *dims), value)
    shape = next(iter(samples.values())).shape[:2]
    coords |= {"chain": list(range(shape[0])), "draw": list(range(shape[1]))}
    return xr.Dataset(variables, coords=coords)


def log_priors(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ln prior density of each population parameter at its draws, on the estimation scale."""

    @quickly
    def every(samples: Mapping[str, Any]) -> dict[str, Any]:
        out = {}
        for name, prior in bound.priors.items():
            x = samples[name]
            log_slope = jnp.log(bound.scale(name).derivative(x))
            log_slope = jnp.sum(log_slope, axis=tuple(range(-prior.event_dim, 0)))
            out[name] = prior.log_prob(x) - log_slope
        return out

    found = every({name: jnp.asarray(samples[name]) for name in bound.priors})
    return {name: np.asarray(x) for name, x in found.items()}


def pointwise(
    bound: PopulationModel, samples: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, xr.Dataset]:
    """What ArviZ wants to know of the individual observations, a variable per output.

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
        groups: dict[str, dict[str, Any]] = {
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


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def random_effects(result: Fit) -> pd.DataFrame:
    rows = []
    for parameter, levels in result.bound.population.levels.items():
        for level in levels:
            name = eta_name(parameter, level)
            if name not in result.posterior:
                continue
            x = result.posterior[name]
            mean, sd = x.mean(("chain", "draw")), x.std(("chain", "draw"))
            for index in np.ndindex(mean.shape):
                if level == INFUSION and not result.bound.individual.infusion_mask[index]:
                    continue  # it never took place
                labels = {dim: mean[dim].values[i] for dim, i in zip(mean.dims, index, strict=True)}
                row = {"parameter": parameter, "level": level} | labels
                rows.append(row | {"mean": mean.values[index], "sd": sd.values[index]})
    columns = ["parameter", "level", "patient", "cohort", "infusion", "mean", "sd"]
    return pd.DataFrame(rows).reindex(columns=columns).dropna(axis="columns", how="all")


def summarize(result: Fit) -> pd.DataFrame:
    bound, posterior = result.bound, result.posterior
    info = bound.population.model.params.info()
    named = posterior[[n for n in bound.priors if n in posterior]]
    sampled = result.settings["method"] == "nuts"
    rhat, ess = mixing(named) if sampled else ({}, {})
    rows = []

    def row(name: str, x: np.ndarray, unit: str, diagnostics: str = "") -> dict[str, Any]:
        low, high = np.quantile(x, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        entry = {
            "parameter": name,
            "median": np.median(x),
            "eti90_low": low,
            "eti90_high": high,
            "unit": unit,
        }
        if diagnostics in rhat:
            entry["rhat"] = rhat[diagnostics]
            entry["ess"] = ess[diagnostics]
        return entry

    draws = result.draws()
    for name in bound.population.estimated:
        entry = row(name, draws[name], info[name].unit, name)
        omega = omega_name(name)
        if omega in draws:
            low, mid, high = np.quantile(
                draws[omega], [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2]
            )
            entry |= {"iiv_sd": mid, "iiv_low": low, "iiv_high": high}
        rows.append(entry)
    typical = bound.population.model.params(
        **{n: draws[n] for n in bound.population.estimated}, **bound.population.fixed
    )
    for name, (derive, unit) in bound.population.model.derived.items():
        rows.append(row(name, np.asarray(derive(typical)), unit))
    for name in bound.effects:
        for i, column in enumerate(bound.covariates[bound.effects[name][1]].columns):
            rows.append(row(f"{name}[{column}]", draws[name][:, i], "1", f"{name}[{column}]"))
    shown = set(bound.population.estimated) | set(bound.effects)
    shown |= {omega_name(n) for n in bound.population.estimated}
    pairs = list(itertools.combinations(bound.population.correlated, 2))
    for one, other in pairs:
        i, j = (list(bound.population.correlated).index(x) for x in (one, other))
        label = f"{CORRELATION}[{one}, {other}]"
        rows.append(row(label, draws[CORRELATION][:, i, j], "1", label))
    for name in bound.priors:
        if name not in shown and name != CORRELATION:
            rows.append(row(name, draws[name], "1", name))
    columns = ["parameter", "median", "eti90_low", "eti90_high", "unit"]
    columns += ["iiv_sd", "iiv_low", "iiv_high", "rhat", "ess"]
    table = pd.DataFrame(rows).reindex(columns=columns).set_index("parameter")
    table.attrs["interval"] = "90 % equal-tailed"
    return table
