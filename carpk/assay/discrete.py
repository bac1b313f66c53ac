"""Distributions of what is counted, and of yes and no, around their expectation.

They take the place of a residual model: the model's output is the expected count, or the
probability of a yes, and there is no error of measurement beside them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import betainc, gammainc, gammaincc, gammaln, ndtr, ndtri, xlog1py, xlogy
from jaxtyping import Array

from carpk._types import Arrays
from carpk.assay.residual import Residual, Theta

SHIFT = 10
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
FEW = 300.0  # expected, up to which quantiles are counted up
REACH = 60.0  # SDs above the mean up to which a quantile is looked for


@dataclasses.dataclass(frozen=True)
class Discrete(Residual):
    """Base of the distributions of whole numbers."""

    discrete: ClassVar[bool] = True

    def variance(self, f: Arrays, theta: Theta) -> Array:
        """Variance of an observation whose expectation is f."""
        raise NotImplementedError

    def cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """P(observation <= y), for whole numbers y of at least 0."""
        raise NotImplementedError

    def sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """P(observation > y), for whole numbers y of at least 0."""
        return 1.0 - self.cdf(y, f, theta)

    def standardize(self, y: Arrays, f: Arrays, theta: Theta) -> tuple[Array, Array]:
        """The Pearson residual of y, and the log of its slope."""
        variance = self.variance(f, theta)
        return jnp.asarray(y - f) / jnp.sqrt(variance), -0.5 * jnp.log(variance) + jnp.zeros_like(y)

    def score(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """Normal score of the middle of y's share of the distribution function."""
        half = 0.5 * jnp.exp(self.log_prob(y, f, theta))
        above = self.sf(y, f, theta) + half
        below = jnp.where(y > 0, self.cdf(jnp.maximum(y - 1.0, 0.0), f, theta), 0.0) + half
        tiny = np.finfo(float).tiny
        return jnp.where(
            below < above, ndtri(jnp.maximum(below, tiny)), -ndtri(jnp.maximum(above, tiny))
        )

    def rise(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """Probability of y + 1 over that of y."""
        raise NotImplementedError

    def sample(self, z: Arrays, f: Arrays, theta: Theta) -> Array:
        """The quantile of z's share of the standard normal distribution."""
        f, z = jnp.broadcast_arrays(jnp.asarray(f, float), jnp.asarray(z, float))
        few = f < FEW
        counted = self._counted_up(ndtr(z), f, theta, few)
        top = jnp.ceil(f + REACH * (1.0 + jnp.sqrt(self.variance(f, theta))))
        return self._halved(
            z, f, theta, jnp.where(few, counted - 1.0, -1.0), jnp.where(few, counted, top)
        )

    def _counted_up(self, share: Array, f: Array, theta: Theta, where: Array) -> Array:
        """The quantiles of these shares, by adding up probabilities from 0."""

        def short(state: tuple[Array, Array, Array]) -> Array:
            _, p, total = state
            return where & (total < share) & (p > 0)

        def add(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            y, p, total = state
            more = short(state)
            p = jnp.where(more, p * self.rise(y, f, theta), p)
            return jnp.where(more, y + 1.0, y), p, jnp.where(more, total + p, total)

        none = jnp.exp(self.log_prob(jnp.zeros_like(f), f, theta))
        start = (jnp.zeros_like(f), none, none)
        counted: Array = jax.lax.while_loop(lambda s: jnp.any(short(s)), add, start)[0]
        return counted

    def _halved(self, z: Array, f: Array, theta: Theta, low: Array, high: Array) -> Array:
        """The quantiles between bounds of which `low` is too little and `high` enough."""

        def middle_of(ends: tuple[Array, Array]) -> Array:
            return jnp.floor(0.5 * (ends[0] + ends[1]))

        def apart(ends: tuple[Array, Array]) -> Array:
            middle = middle_of(ends)
            return jnp.any((middle > ends[0]) & (middle < ends[1]))

        def halve(ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = middle_of(ends)
            y = jnp.maximum(middle, 0.0)
            below, above = self.cdf(y, f, theta) >= ndtr(z), self.sf(y, f, theta) <= ndtr(-z)
            enough = jnp.where(z < 0, below, above) & (middle >= 0)
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        found: Array = jax.lax.while_loop(apart, halve, (low, high))[1]
        return found

    def log_cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        whole = jnp.ceil(y) - 1.0
        return jnp.where(whole >= 0, jnp.log(self.cdf(jnp.maximum(whole, 0.0), f, theta)), -jnp.inf)

    def log_sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return jnp.log(self.sf(jnp.floor(y), f, theta))

    def priors(self) -> dict[str, dist.Distribution]:
        return {}


@dataclasses.dataclass(frozen=True)
class Poisson(Discrete):
    """y ~ Poisson(f): a count whose expectation, and variance, is the model's output."""

    def log_prob(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return xlogy(y, f) - f - gammaln(y + 1.0)

    def variance(self, f: Arrays, theta: Theta) -> Array:
        return jnp.asarray(f)

    def cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return gammaincc(y + 1.0, f)

    def sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return gammainc(y + 1.0, f)

    def rise(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return jnp.asarray(f / (y + 1.0))


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(Discrete):
    """A count with expectation f and variance f (1 + alpha f): Poisson with alpha 0.

    alpha is the overdispersion; 1/alpha is the "size" of R's dnbinom. The default prior of alpha is
    log-normal with median 0.5 and SD 1 of its log (assumed).
    """

    def log_prob(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        size = 1.0 / jnp.asarray(theta["alpha"])
        ways = _ln_rising(size, y) - gammaln(y + 1.0)
        return ways - xlog1py(size, f / size) - xlog1py(y, size / f)

    def variance(self, f: Arrays, theta: Theta) -> Array:
        return jnp.asarray(f * (1.0 + theta["alpha"] * f))

    def cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        size = 1.0 / theta["alpha"]
        return betainc(size, y + 1.0, size / (size + f))

    def sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        size = 1.0 / theta["alpha"]
        return betainc(y + 1.0, size, f / (size + f))

    def rise(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        size = 1.0 / theta["alpha"]
        return jnp.asarray((y + size) / (y + 1.0) * f / (size + f))

    def priors(self) -> dict[str, dist.Distribution]:
        return {"alpha": dist.LogNormal(math.log(0.5), 1.0)}


def _ln_rising(x: Arrays, y: Arrays) -> Array:
    """ln of Gamma(x + y) / Gamma(x), x > 0, to 1e-14 relative, and as exact for large x.

    By Stirling's series beyond x + 10 (DLMF 5.11.1): its derivatives are elementary, where those of
    JAX's gammaln take minutes to compile, and large x do not cancel.
    """
    near = jnp.asarray(sum(jnp.log1p(y / (x + k)) for k in range(SHIFT)))
    x = jnp.asarray(x) + SHIFT

    def rest(x: Arrays) -> Array:
        terms = (b / x ** (2 * i + 1) for i, b in enumerate(STIRLING))
        return jnp.asarray(sum(terms))

    return (x - 0.5) * jnp.log1p(y / x) + y * jnp.log(x + y) - y + rest(x + y) - rest(x) - near


@dataclasses.dataclass(frozen=True)
class Bernoulli(Discrete):
    """y is 1 (yes) with probability f, the model's output between 0 and 1; else 0 (no)."""

    binary: ClassVar[bool] = True

    def log_prob(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return xlogy(y, f) + xlog1py(1.0 - y, -jnp.asarray(f))

    def variance(self, f: Arrays, theta: Theta) -> Array:
        return jnp.asarray(f * (1.0 - f))

    def cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return jnp.where(y >= 1.0, 1.0, 1.0 - f)

    def sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return jnp.where(y >= 1.0, 0.0, f)

    def rise(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return jnp.where(y >= 1.0, 0.0, f / (1.0 - jnp.asarray(f)))
