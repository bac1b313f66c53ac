"""Starting points of the search for modes, and the distinct modes found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk._compile import jit_fast_compile
from carpk._types import Numbers, Values
from carpk.inference.density import LogDensity
from carpk.inference.laplace import CompiledDensity, Descent, Mode
from carpk.inference.nuts import in_threads, prior_draws
from carpk.population.bound import BoundPopulation
from carpk.population.parameters import Kind
from carpk.verdict.modes import DECREMENT
from carpk.verdict.words import ModeFound

PRIOR_DRAWS = 4000
EXCHANGED = 20  # exchanges of parameters whose density is evaluated, at most
MOST_EXCHANGES = 1000  # of pairs, enumerated at most
HOPELESS = 20.0  # a mode with a log density this much lower is not worth a chain


def prior_draws_unconstrained(density: LogDensity) -> np.ndarray:
    """Prior draws of the outer coordinates, (draw, n)."""
    theta = prior_draws({s.name: s.prior for s in density.sites}, PRIOR_DRAWS, seed=0)

    @jit_fast_compile
    def outer(theta: Values) -> Array:
        each = [jax.vmap(site.transform.inv)(theta[site.name]) for site in density.sites]
        return jnp.concatenate([x.reshape(PRIOR_DRAWS, -1) for x in each], axis=1)

    return np.asarray(outer(theta))


def centre(before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and SD of draws, (draw, n)."""
    return np.median(before, axis=0), before.std(axis=0)


def modes_from(
    compiled: CompiledDensity, begin: Sequence[np.ndarray], spread: np.ndarray
) -> tuple[list[Mode], list[float]]:
    """Distinct modes worth a chain, best first, and the ln density at every start's end."""
    first = compiled.descend(begin[0], spread)
    found = [compiled.polish(first)]
    others = in_threads(
        lambda i: compiled.descend(begin[i + 1], spread, known=found[0]), len(begin) - 1
    )
    ends = sorted([first, *others], key=lambda end: end.value)
    for end in ends:
        near = end is first or any(mode.holds(end.end) for mode in found)
        if not near and end.value - ends[0].value < HOPELESS:
            mode = compiled.polish(end)
            found += [] if any(other.holds(mode.u) for other in found) else [mode]
    highest = max(found, key=lambda mode: mode.log_density)
    for start in exchanges(compiled, highest, spread):
        mode = compiled.polish(compiled.descend(start, spread))
        found += [] if any(other.holds(mode.u) for other in found) else [mode]
    found = sorted(found, key=lambda mode: -mode.log_density)
    best = found[0].log_density
    return [m for m in found if best - m.log_density < HOPELESS], [-end.value for end in ends]


def exchanges(compiled: CompiledDensity, mode: Mode, spread: np.ndarray) -> list[np.ndarray]:
    """Label-switched copies of a mode, outer coordinates (n,), of about its density.

    Of two phases, say, with exchangeable amplitudes and rates; starts from the prior find the other
    mode only by chance. Pairs of several units are exchanged one by one and together. Those that
    the prior excludes cost nothing, `EXCHANGED` others one evaluation each.
    """
    density = compiled.density
    theta = density.theta(jnp.asarray(mode.u))
    prior = jax.jit(density.log_prior)
    allowed = []
    for pairs in exchangeable(density.bound):
        start = np.asarray(density.outer_of(exchanged(density.bound, theta, pairs)))
        lower = float(prior(mode.u) - prior(start))
        if lower < HOPELESS and not mode.holds(start):
            allowed.append((lower, start))
    starts = [start for _, start in sorted(allowed, key=lambda x: x[0])[:EXCHANGED]]
    values = [-Descent(compiled, start, spread)(np.zeros(len(start)))[0] for start in starts]
    return [u for u, x in zip(starts, values, strict=True) if mode.log_density - x < HOPELESS]


def exchangeable(bound: BoundPopulation) -> list[tuple[tuple[str, str], ...]]:
    """Pairs of estimated parameters of one unit and range; at most one pair of each unit."""
    info = bound.population.model.params.info()
    kinds: dict[tuple[str, tuple[float, float]], list[str]] = {}
    for name in bound.population.estimated:
        kinds.setdefault((info[name].unit, info[name].bounds), []).append(name)
    each = [[None, *itertools.combinations(names, 2)] for names in kinds.values()]
    every = itertools.islice(itertools.product(*each), 1, MOST_EXCHANGES + 1)
    return [tuple(pair for pair in pairs if pair is not None) for pairs in every]


def exchanged(
    bound: BoundPopulation, theta: Values, pairs: Sequence[tuple[str, str]]
) -> dict[str, Numbers]:
    """Values of population parameters after exchanging these, with their omegas and effects."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    known = {(p.kind, p.of, p.covariate, p.level): n for n, p in bound.parameters.items()}
    out = dict(theta)
    for name, p in bound.parameters.items():
        source = known.get((p.kind, other.get(p.of, p.of), p.covariate, p.level), name)
        if p.kind != Kind.RESIDUAL and {name, source} <= set(theta):
            out[name] = theta[source]
    return out


def around_cohorts(
    compiled: CompiledDensity, found: Sequence[Mode], spread: np.ndarray
) -> tuple[CompiledDensity, list[Mode]]:
    """Modes in partially centred coordinates of the cohorts' effects.

    In non-centred coordinates the omegas at the mode are biased: modes are found anew with the
    likelihood of these effects at the best one.

    Args:
        compiled: its values are (those in place of the data's, `Cohorts`).
        found: the best mode first.
        spread: prior SDs of the outer coordinates.
    """
    density = compiled.density
    if not density.bound.cohort_effects:
        return compiled, list(found)
    best = found[0]
    cohorts = density.cohorts_at(best.u, best.covariance, best.conditional)
    compiled = compiled.with_values((compiled.values[0], cohorts))
    again: list[Mode] = []
    for mode in found:
        start = compiled.density.outer_of(density.theta(jnp.asarray(mode.u)))
        mode = compiled.mode(start, spread)
        again += [] if any(other.holds(mode.u) for other in again) else [mode]
    return compiled, sorted(again, key=lambda mode: -mode.log_density)


def modes_of(density: LogDensity, modes: Sequence[Mode]) -> list[ModeFound]:
    """What a verdict tells of different modes: their shares of the density, and where they are.

    Shares are those of normal distributions. Ends that are no modes are left out.
    """
    found = [mode for mode in modes if mode.decrement < DECREMENT]
    if len(found) < 2:
        return []
    mass = [m.log_density + 0.5 * np.linalg.slogdet(m.covariance)[1] for m in found]
    share = np.exp(np.array(mass) - max(mass))
    share /= share.sum()
    told: list[ModeFound] = []
    for mode, each in zip(found, share, strict=True):
        theta = {k: np.asarray(x) for k, x in density.theta(jnp.asarray(mode.u)).items()}
        single = {k: float(x) for k, x in theta.items() if x.ndim == 0}
        told.append({"share": float(each), "log_density": mode.log_density, "theta": single})
    return told
