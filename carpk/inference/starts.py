"""Where modes are looked for, and the different modes that are found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from carpk._compile import quickly
from carpk.inference.density import Posterior
from carpk.inference.laplace import Descent, Engine, Mode
from carpk.inference.nuts import in_threads, prior_draws
from carpk.population.bound import PopulationModel
from carpk.population.parameters import Kind
from carpk.verdict.modes import DECREMENT

PRIOR_DRAWS = 4000
EXCHANGED = 20  # exchanges of parameters whose density is looked at
MOST_EXCHANGES = 1000  # of pairs, that are thought of
HOPELESS = 20.0  # a mode with a log density this much lower is not worth a chain


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
        start = np.asarray(posterior.outer_of(exchanged(posterior.bound, theta, pairs)))
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


def exchanged(
    bound: PopulationModel, theta: Mapping[str, Any], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
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
